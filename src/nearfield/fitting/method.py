"""From a method's name to a fitted score: what is left open is chosen first, then the closed form is fitted."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nearfield.fitting.closed_form import fit_field, fit_masked, fit_windowed
from nearfield.fitting.covariance import Pooling
from nearfield.fitting.radius import select_masked_radius, select_radius_by_time
from nearfield.fitting.selection import SelectionReport, select_field
from nearfield.graph import DependencyGraph
from nearfield.score.base import Score

if TYPE_CHECKING:
    from jaxtyping import Float

Method = Literal["auto", "gaussian", "windowed", "masked"]
Radius = int | tuple[tuple[float, int], ...]


@dataclass(frozen=True)
class Fitted:
    """A fitted score and what was chosen on the way.

    Parameters
    ----------
    center, scale : ndarray, shape (vertex, channel)
        The score describes ``(x - center) / scale``.
    score : Score
    radius : int or tuple of (float, int)
        Hops, or OU times and hops.
    pooling : Pooling
    selection : SelectionReport or None
        None when nothing was left to choose.
    reason : str
        The choice in a sentence.
    seconds : dict of str to float
        Wall time of choosing and fitting.
    """

    center: Float[np.ndarray, "vertex channel"]
    scale: Float[np.ndarray, "vertex channel"]
    score: Score
    radius: Radius
    pooling: Pooling
    selection: SelectionReport | None
    reason: str
    seconds: dict[str, float]


def fit_score(
    x: Float[np.ndarray, "sample vertex channel"],
    graph: DependencyGraph,
    method: Method,
    *,
    radius: int | None = None,
    pooling: Pooling | None = None,
    standardize: bool = True,
    contiguous: bool = False,
    seed: int = 0,
    n_jobs: int | None = None,
    progress: Callable[[], object] | None = None,
) -> Fitted:
    """Choose radius and pooling where they are None, and fit.

    Parameters
    ----------
    x, graph, radius, pooling, contiguous, standardize, seed, n_jobs, progress
        As in `select_field`.
    method : {"auto", "gaussian", "windowed", "masked"}
        ``"auto"`` is the Gaussian field. The masked score does not pool.

    Returns
    -------
    Fitted
    """
    start = time.perf_counter()
    options: dict[str, Any] = {"contiguous": contiguous, "standardize": standardize, "seed": seed}
    selection: SelectionReport | None = None
    used: Radius | None = radius
    if method == "masked":
        pooling = Pooling(0.0)
        used = select_masked_radius(x, graph, **options) if radius is None else radius
    elif pooling is None or (radius is None and method != "windowed"):
        hops = None if method == "windowed" else radius  # the field's, which the windows' radius is not
        selection = select_field(x, graph, radius=hops, pooling=pooling, n_jobs=n_jobs, progress=progress, **options)
        pooling = selection.choice.pooling
        used = radius if method == "windowed" else selection.choice.radius
    if method == "windowed" and used is None:
        used = select_radius_by_time(x, graph, pooling, **options)
        selection = None if selection is None else replace(selection, radius_by_time=used)
    assert used is not None
    selected = time.perf_counter()
    score: Score
    if method == "windowed":
        table = ((1.0, used),) if isinstance(used, int) else used
        center, scale, score = fit_windowed(x, graph, table, pooling, standardize)
    elif method == "masked":
        assert isinstance(used, int)
        center, scale, score = fit_masked(x, graph, used, standardize)
    else:
        assert isinstance(used, int)
        center, scale, score = fit_field(x, graph, used, pooling, standardize)
    reason = selection.reason if selection is not None and method != "windowed" else _given(used, pooling)
    seconds = {"select": selected - start, "fit": time.perf_counter() - selected}
    return Fitted(center, scale, score, used, pooling, selection, reason, seconds)


def _given(radius: Radius, pooling: Pooling) -> str:
    if isinstance(radius, int):
        return f"Radius {radius}, pooling strength {pooling.strength:g}."
    used = [r for _, r in radius]
    return (
        f"Radius {min(used)} to {max(used)} by noise level, each the smallest whose held-out denoising loss is within "
        f"one standard error of the lowest; pooling strength {pooling.strength:g}."
    )
