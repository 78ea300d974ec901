"""From a method's name to a fitted score: what is left open is chosen first, then fitted, in closed form or trained."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from nearfield.fitting.band import choose_band
from nearfield.fitting.closed_form import build_field, fit_masked, fit_windowed, settled_field, warn_of
from nearfield.fitting.coarse import Scale, choose_correction, corrected
from nearfield.fitting.covariance import Pooling, Standardize, location_and_scale
from nearfield.fitting.moments import MomentWarning, described, moments
from nearfield.fitting.neural import FEWEST, LevelChoice, NetworkFit, choose_levels, default_recipe, fit_network
from nearfield.fitting.paper import PaperRecipe, fit_paper
from nearfield.fitting.predictive import choose_predictive
from nearfield.fitting.processor import require_compiler
from nearfield.fitting.radius import select_masked_radius, select_radius_by_time
from nearfield.fitting.rarity import warn_of_rare
from nearfield.fitting.recipe import Recipe
from nearfield.fitting.selection import SelectionReport, select_field
from nearfield.fitting.symmetry import named
from nearfield.fitting.training import TrainingReport
from nearfield.graph import DependencyGraph
from nearfield.process import time_of
from nearfield.score.base import Score
from nearfield.score.ensemble import EnsembleScore
from nearfield.score.field import GaussianField
from nearfield.score.hybrid import HybridScore
from nearfield.score.predictive import PredictiveField
from nearfield.score.switch import SwitchedScore

if TYPE_CHECKING:
    from jaxtyping import Float

Method = Literal["auto", "gaussian", "windowed", "masked", "neural", "hybrid", "paper"]
Radius = int | tuple[tuple[float, int], ...]
CLEAR = 3.0
"""Standard errors beyond which vertices differ so clearly that a network must tell them apart."""
LARGEST_AUTO = 20_000
"""Vertices of the largest graphs on which "auto" tries a network."""


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
        Wall time of choosing, fitting and training.
    training : TrainingReport or None
        Of the network, if one was trained; of the first of several.
    levels : tuple of LevelChoice or None
        Network against Gaussian, where the method is to choose.
    predictive : PredictiveField or None
        What scores in place of a Gaussian field, where held-out score prefers it.
    correction : Scale or None
        How a Gaussian field is corrected at larger scales.
    band : float
        What conditional variances of a Gaussian field are multiplied by.
    """

    center: Float[np.ndarray, "vertex channel"]
    scale: Float[np.ndarray, "vertex channel"]
    score: Score
    radius: Radius
    pooling: Pooling
    selection: SelectionReport | None
    reason: str
    seconds: dict[str, float]
    training: TrainingReport | None = None
    levels: tuple[LevelChoice, ...] | None = None
    predictive: PredictiveField | None = None
    correction: Scale | None = None
    band: float = 1.0


@dataclass(frozen=True)
class Plan:
    """How a network is trained, and whom it tells.

    Parameters
    ----------
    recipe : Recipe or PaperRecipe, optional
        By default what `default_recipe` says; a PaperRecipe for "paper".
    validation_fraction : float
        Share of the samples held out, where no recipe is given.
    checkpoint : path, optional
        File the training is kept in, and gone on from if it is there.
    progress : callable, optional
        Called after each step with the steps taken, their number and the last held-out loss.
    """

    recipe: Recipe | PaperRecipe | None = None
    validation_fraction: float = 0.15
    checkpoint: str | os.PathLike[str] | None = None
    progress: Callable[[int, int, float], object] | None = None


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
        return _network(x, chosen, None, graph, method, radius, plan or Plan(), options)
    chosen = _choose(x, graph, radius, pooling, options, search)
    field = _field(x, graph, chosen, options, n_jobs)
    if method == "gaussian":
        return _scored(x, graph, field, options, n_jobs)
    if (why := _too_much(x)) is not None:
        return replace(field, reason=f"{field.reason} {why}")
    return _network(x, chosen, field, graph, method, radius, plan or Plan(), options)


class Chosen(NamedTuple):
    """Hops and pooling of the Gaussian field, how they were chosen and the seconds that took."""

    radius: int
    pooling: Pooling
    selection: SelectionReport | None
    reason: str
    seconds: float


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
        return Chosen(radius, pooling, None, _given(radius, pooling), 0.0)
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
    law = choose_correction(
        field, y, graph, radius, pooling, contiguous=options["contiguous"], seed=options["seed"], n_jobs=n_jobs
    )
    score = corrected(field, y, graph, law)
    made = time.perf_counter()
    if (off := described(moments(score, y, graph, contiguous=options["contiguous"], seed=options["seed"]))) is not None:
        warnings.warn(off, MomentWarning, stacklevel=2)
    seconds = {"select": selected, "fit": fitted - start, "correct": made - fitted, "check": time.perf_counter() - made}
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
    return Fitted(center, scale, score, used, pooling, selection, _given(used, pooling), seconds)


def _masked(x: np.ndarray, graph: DependencyGraph, radius: int | None, options: dict[str, Any]) -> Fitted:
    start = time.perf_counter()
    used = select_masked_radius(x, graph, **options) if radius is None else radius
    selected = time.perf_counter()
    center, scale, score = fit_masked(x, graph, used, options["standardize"])
    seconds = {"select": selected - start, "fit": time.perf_counter() - selected}
    pooling = Pooling(0.0)
    return Fitted(center, scale, score, used, pooling, None, _given(used, pooling), seconds)


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
    return Fitted(center, scale, score, radius, pooling, None, _given(radius, pooling), seconds)


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


def _network(
    x: np.ndarray,
    chosen: Chosen,
    field: Fitted | None,
    graph: DependencyGraph,
    method: Method,
    radius: int | None,
    plan: Plan,
    options: dict[str, Any],
) -> Fitted:
    """Train a network; where there is a field, let the network serve only where it is better."""
    start = time.perf_counter()
    contiguous, seed = options["contiguous"], options["seed"]
    pooling = _shared_law(chosen)
    if field is None:
        center, scale = location_and_scale(x, graph, pooling, options["standardize"])
    else:
        center, scale = field.center, field.scale
    z = (x - center) / scale
    assert not isinstance(plan.recipe, PaperRecipe)
    recipe = plan.recipe or default_recipe(graph, len(x), plan.validation_fraction, seed)
    tell = plan.progress
    fit = fit_network(
        z,
        graph,
        "neural" if method == "neural" else "hybrid",
        hops=chosen.radius,
        pooling=pooling,
        recipe=recipe,
        radius=radius,
        contiguous=contiguous,
        checkpoint=plan.checkpoint,
        progress=None if tell is None else lambda step, loss: tell(step, recipe.members * recipe.steps, loss),
    )
    score, training = fit.score, fit.members[0].training
    assert score.radius is not None
    seconds, reason = {"select": chosen.seconds}, _described(fit)
    found = Fitted(center, scale, score, score.radius, pooling, chosen.selection, reason, seconds, training=training)
    if field is not None:
        found = _switched(fit, z, graph, chosen, field, found, contiguous=contiguous, seed=seed)
    return replace(found, seconds=found.seconds | {"train": time.perf_counter() - start})


def _switched(
    fit: NetworkFit,
    z: np.ndarray,
    graph: DependencyGraph,
    chosen: Chosen,
    field: Fitted,
    network: Fitted,
    *,
    contiguous: bool,
    seed: int,
) -> Fitted:
    """Compare a hybrid with the field and put each where it serves."""
    assert isinstance(field.score, GaussianField)
    hybrid = fit.score
    assert isinstance(hybrid, HybridScore | EnsembleScore)
    levels = choose_levels(
        fit, z, graph, radius=chosen.radius, pooling=chosen.pooling, contiguous=contiguous, seed=seed
    )
    reason = f"{field.reason} {network.reason} {_compared(levels)}"
    found = replace(field, reason=reason, training=network.training, levels=levels)
    if not any(level.switched for level in levels):
        return found
    choice = tuple((time_of(level.sigma), level.switched) for level in levels)
    return replace(found, score=SwitchedScore(field.score, hybrid, choice), radius=network.radius)


def _shared_law(chosen: Chosen) -> Pooling:
    """Pooling for a network: one law, unless held-out loss says clearly that vertices differ.

    The field's pooling rests on differences of some 1e-4 nats per dimension. Numbers of each vertex, which a network
    learns where laws differ, cost far more than that: on Cox-Ingersoll-Ross chains four times the excess risk.
    """
    alike = [c for c in chosen.selection.table if c.pooling == Pooling(1.0)] if chosen.selection is not None else []
    return Pooling(1.0) if any(c.difference <= CLEAR * c.difference_error for c in alike) else chosen.pooling


def _described(fit: NetworkFit) -> str:
    score, training = fit.members[0].score, fit.members[0].training
    shown = (
        f", shown a Gaussian that reads {score.gaussian.radius}: {score.radius} in all"
        if isinstance(score, HybridScore)
        else ""
    )
    why = {"budget": "", "patience": ", then no better", "diverged": ", then diverging"}[training.reason]
    images = f" Trained on images under {', '.join(training.symmetries)} as well." if training.symmetries else ""
    losses = ", ".join(f"{member.training.best.loss:.4f}" for member in fit.members[1:])
    others = f" Mean of {len(fit.members)} networks; the losses of the others are {losses}." if losses else ""
    return (
        f"Network reading {score.network.radius} hops{shown}; held-out loss {training.best.loss:.4f} after "
        f"{training.best.step} of {len(training.losses)} steps{why}.{images}{others}"
    )


def _compared(levels: tuple[LevelChoice, ...]) -> str:
    used = [level.sigma for level in levels if level.switched]
    if not used:
        return "Nowhere clearly better than the Gaussian field, which serves at every noise level."
    gain = sum(level.gaussian - level.hybrid for level in levels if level.switched)
    return (
        f"Serves at {len(used)} of {len(levels)} noise levels, between {used[0]:.2g} and {used[-1]:.2g} times the "
        f"signal, where its held-out denoising error is lower by {gain:.3g} in all; the Gaussian field at the others."
    )


def _given(radius: Radius, pooling: Pooling) -> str:
    if isinstance(radius, int):
        return f"Radius {radius}, pooling strength {pooling.strength:g}."
    used = [r for _, r in radius]
    return (
        f"Radius {min(used)} to {max(used)} by noise level, each the smallest whose held-out denoising loss is within "
        f"one standard error of the lowest; pooling strength {pooling.strength:g}."
    )
