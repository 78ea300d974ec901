"""From a method's name to a fitted score: what is left open is chosen first, then fitted, in closed form or trained."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nearfield.fitting.acceleration import require_compiler
from nearfield.fitting.band import choose_band
from nearfield.fitting.closed_form import build_field, fit_masked, fit_windowed, settled_field, warn_of
from nearfield.fitting.coarse import choose_correction, corrected
from nearfield.fitting.covariance import Pooling, Standardize, location_and_scale
from nearfield.fitting.fitted import Chosen, Fitted, Plan, Radius, given
from nearfield.fitting.moments import MomentWarning, described, moments
from nearfield.fitting.neural import FEWEST
from nearfield.fitting.predictive import choose_predictive
from nearfield.fitting.radius import select_masked_radius, select_radius_by_time
from nearfield.fitting.rarity import warn_of_rare
from nearfield.fitting.recipe import Recipe
from nearfield.fitting.selection import select_field
from nearfield.fitting.symmetry import named
from nearfield.fitting.trained import fit_trained
from nearfield.graph import DependencyGraph
from nearfield.paper.recipe import PaperRecipe, fit_paper
from nearfield.score.field import GaussianField

if TYPE_CHECKING:
    from jaxtyping import Float

Method = Literal["auto", "gaussian", "windowed", "masked", "neural", "hybrid", "paper"]
LARGEST_AUTO = 20_000
"""Vertices of the largest graphs on which "auto" tries a network."""


def fit_score(
    x: Float[np.ndarray, "sample vertex channel"],
    graph: DependencyGraph,
    method: Method,
    *,
    radius: int | None = None,
    pooling: Pooling | None = None,
    standardize: Standardize = True,
    contiguous: bool = False,
    seed: int = 0,
    n_jobs: int | None = None,
    progress: Callable[[], object] | None = None,
    plan: Plan | None = None,
) -> Fitted:
    """Choose radius and pooling where they are None, and fit.

    Parameters
    ----------
    x, graph, radius, pooling, contiguous, standardize, seed, n_jobs, progress
        As in `select_field`.
    method : {"auto", "gaussian", "windowed", "masked", "neural", "hybrid", "paper"}
        ``"auto"`` is the Gaussian field, with the hybrid at noise levels where that is better on held-out samples. The
        masked score does not pool; the paper's network is one law, with the largest radius of the windowed score's
        table where none is given.
    plan : Plan, optional
        For the networks.

    Returns
    -------
    Fitted

    Raises
    ------
    ValueError
        If samples are too few for the choice or the training, or the graph has not the symmetries of the recipe, or the
        recipe wants steps compiled and there is no compiler.

    Warns
    -----
    UserWarning
        When "auto" stays with the Gaussian field because samples are too few, when vertices vary rarely, and as
        `fit_field` does.
    """
    options: dict[str, Any] = {"contiguous": contiguous, "standardize": standardize, "seed": seed}
    search = {"n_jobs": n_jobs, "progress": progress}
    if plan is not None and isinstance(plan.recipe, Recipe):  # refused before anything is computed
        if isinstance(plan.recipe.symmetries, tuple):
            named(plan.recipe.symmetries, graph)
        if plan.recipe.compiled and graph.lattice is not None and method in ("auto", "neural", "hybrid"):
            require_compiler()
    warn_of_rare(x, standardize)
    if method == "masked":
        return _masked(x, graph, radius, options)
    if method == "windowed":
        return _windowed(x, graph, radius, pooling, options, search)
    if method == "paper":
        return _paper(x, graph, radius, pooling or Pooling(1.0), options, plan or Plan())
    if method in ("neural", "hybrid"):
        # A radius is the network's; where pooling is given as well, nothing of the field is needed.
        hops = 0 if pooling is not None and radius is not None else None
        chosen = _choose(x, graph, hops, pooling, options, search)
        return fit_trained(x, chosen, None, graph, method, radius, plan or Plan(), options)
    chosen = _choose(x, graph, radius, pooling, options, search)
    field = _field(x, graph, chosen, options, n_jobs)
    if method == "gaussian":
        return _scored(x, graph, field, options, n_jobs)
    if (why := _too_much(x)) is not None:
        return replace(field, reason=f"{field.reason} {why}")
    return fit_trained(x, chosen, field, graph, method, radius, plan or Plan(), options)


def _choose(
    x: np.ndarray,
    graph: DependencyGraph,
    radius: int | None,
    pooling: Pooling | None,
    options: dict[str, Any],
    search: dict[str, Any],
) -> Chosen:
    start = time.perf_counter()
    if radius is not None and pooling is not None:
        return Chosen(radius, pooling, None, given(radius, pooling), 0.0)
    selection = select_field(x, graph, radius=radius, pooling=pooling, **search, **options)
    choice = selection.choice
    return Chosen(choice.radius, choice.pooling, selection, selection.reason, time.perf_counter() - start)


def _field(
    x: np.ndarray, graph: DependencyGraph, chosen: Chosen, options: dict[str, Any], n_jobs: int | None
) -> Fitted:
    start = time.perf_counter()
    radius, pooling, selection, reason, selected = chosen
    if selection is None:
        fit = build_field(x, graph, radius, pooling, options["standardize"])
    else:
        fit, pooling = settled_field(x, graph, radius, pooling, options["standardize"])
    warn_of(fit, len(x))
    center, scale, field = fit.center, fit.scale, fit.field
    fitted, y = time.perf_counter(), (x - center) / scale
    shared = {name: options[name] for name in ("contiguous", "seed")}
    off, checked = described(moments(field, y, graph, **shared)), time.perf_counter()
    law = choose_correction(field, y, graph, radius, pooling, needed=off is not None, n_jobs=n_jobs, **shared)
    score, made = corrected(field, y, graph, law), time.perf_counter()
    if law is not None:
        off = described(moments(score, y, graph, **shared))
    if off is not None:
        warnings.warn(off, MomentWarning, stacklevel=2)
    checks = checked - fitted + time.perf_counter() - made
    seconds = {"select": selected, "fit": fitted - start, "correct": made - checked, "check": checks}
    reason = reason if law is None else f"{reason} {law.describe()}"
    if pooling.nugget > chosen.pooling.nugget:
        reason += f" White noise of {pooling.nugget:g} of the variance was added, for draws to have that of the data."
    return Fitted(center, scale, score, radius, pooling, selection, reason, seconds, correction=law)


def _scored(
    x: np.ndarray, graph: DependencyGraph, found: Fitted, options: dict[str, Any], n_jobs: int | None
) -> Fitted:
    """Choose what log-densities are those of, and how wide conditional draws are."""
    start = time.perf_counter()
    assert isinstance(found.score, GaussianField)
    assert isinstance(found.radius, int)
    y, shared = (x - found.center) / found.scale, {k: options[k] for k in ("contiguous", "seed")} | {"n_jobs": n_jobs}
    predictive, scored = choose_predictive(y, graph, found.score, found.radius, found.pooling, **shared)
    band, widened = choose_band(y, graph, found.radius, found.pooling, found.correction, **shared)
    return replace(
        found,
        predictive=predictive,
        band=band,
        reason=" ".join(filter(None, (found.reason, scored, widened))),
        seconds=found.seconds | {"score": time.perf_counter() - start},
    )


def _windowed(
    x: np.ndarray,
    graph: DependencyGraph,
    radius: int | None,
    pooling: Pooling | None,
    options: dict[str, Any],
    search: dict[str, Any],
) -> Fitted:
    start = time.perf_counter()
    selection = None
    if pooling is None:
        selection = select_field(x, graph, **search, **options)  # its radius is the field's, not that of the windows
        pooling = selection.choice.pooling
    used: Radius = select_radius_by_time(x, graph, pooling, **options) if radius is None else radius
    if selection is not None and not isinstance(used, int):
        selection = replace(selection, radius_by_time=used)
    selected = time.perf_counter()
    table = ((1.0, used),) if isinstance(used, int) else used
    center, scale, score = fit_windowed(x, graph, table, pooling, options["standardize"])
    seconds = {"select": selected - start, "fit": time.perf_counter() - selected}
    return Fitted(center, scale, score, used, pooling, selection, given(used, pooling), seconds)


def _masked(x: np.ndarray, graph: DependencyGraph, radius: int | None, options: dict[str, Any]) -> Fitted:
    start = time.perf_counter()
    used = select_masked_radius(x, graph, **options) if radius is None else radius
    selected = time.perf_counter()
    center, scale, score = fit_masked(x, graph, used, options["standardize"])
    seconds = {"select": selected - start, "fit": time.perf_counter() - selected}
    pooling = Pooling(0.0)
    return Fitted(center, scale, score, used, pooling, None, given(used, pooling), seconds)


def _paper(
    x: np.ndarray, graph: DependencyGraph, radius: int | None, pooling: Pooling, options: dict[str, Any], plan: Plan
) -> Fitted:
    start = time.perf_counter()
    if radius is None:
        radius = max(r for _, r in select_radius_by_time(x, graph, pooling, **options))
    selected = time.perf_counter()
    center, scale = location_and_scale(x, graph, pooling, options["standardize"])
    assert not isinstance(plan.recipe, Recipe)
    recipe, tell = plan.recipe or PaperRecipe(seed=options["seed"]), plan.progress
    score = fit_paper(
        (x - center) / scale,
        graph,
        radius,
        recipe,
        progress=None if tell is None else lambda step, loss: tell(step, recipe.steps, loss),
    )
    seconds = {"select": selected - start, "train": time.perf_counter() - selected}
    return Fitted(center, scale, score, radius, pooling, None, given(radius, pooling), seconds)


def _too_much(x: np.ndarray) -> str | None:
    """Why "auto" does not try a network, if so."""
    if len(x) < FEWEST:
        warnings.warn(
            f"{len(x)} samples are too few to hold some out and compare a network with the Gaussian field: the model "
            f"is Gaussian. From {FEWEST} samples on the comparison is made; method='hybrid' trains one regardless.",
            stacklevel=2,
        )
        return f"No network was tried: {len(x)} samples are fewer than {FEWEST}."
    if x.shape[1] > LARGEST_AUTO:
        return f"No network was tried on more than {LARGEST_AUTO} vertices; method='hybrid' trains one regardless."
    return None
