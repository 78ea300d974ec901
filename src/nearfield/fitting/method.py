"""From a method's name to a fitted score: what is left open is chosen first, then fitted, in closed form or trained."""

from __future__ import annotations

import time
import warnings
from dataclasses import replace
from typing import Literal

from nearfield.fitting.acceleration import require_compiler
from nearfield.fitting.band import choose_band
from nearfield.fitting.closed_form import build_field, fit_masked, fit_windowed, settled_field, warn_of
from nearfield.fitting.coarse import choose_correction, corrected
from nearfield.fitting.covariance import location_and_scale
from nearfield.fitting.fitted import Chosen, Fitted, Plan, Radius, given
from nearfield.fitting.moments import MomentWarning, described, moments
from nearfield.fitting.neural import FEWEST
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.predictive import choose_predictive
from nearfield.fitting.radius import select_masked_radius, select_radius_by_time
from nearfield.fitting.rarity import warn_of_rare
from nearfield.fitting.recipe import Recipe
from nearfield.fitting.search import Search
from nearfield.fitting.selection import select_field
from nearfield.fitting.symmetry import named
from nearfield.fitting.trained import fit_trained
from nearfield.paper.recipe import PaperRecipe, fit_paper
from nearfield.samples import Samples
from nearfield.score.field import GaussianField

Method = Literal["auto", "gaussian", "windowed", "masked", "neural", "hybrid", "paper"]
LARGEST_AUTO = 20_000
"""Vertices of the largest graphs on which "auto" tries a network."""


def fit_score(
    samples: Samples,
    method: Method,
    *,
    radius: int | None = None,
    pooling: Pooling | None = None,
    search: Search = Search(),  # noqa: B008
    plan: Plan | None = None,
) -> Fitted:
    """Choose radius and pooling where they are None, and fit.

    ``"auto"`` is the Gaussian field, with the hybrid at noise levels where that is better on held-out samples; it stays
    with the field, and warns, where samples are too few. The masked score does not pool; the paper's network is one
    law, with the largest radius of the windowed score's table where none is given. The plan is for networks.
    """
    samples.require_complete()
    if plan is not None and isinstance(plan.recipe, Recipe):  # refused before anything is computed
        if isinstance(plan.recipe.symmetries, tuple):
            named(plan.recipe.symmetries, samples.graph)
        if plan.recipe.compiled and samples.graph.lattice is not None and method in ("auto", "neural", "hybrid"):
            require_compiler()
    warn_of_rare(samples)
    if method == "masked":
        return _masked(samples, radius, search)
    if method == "windowed":
        return _windowed(samples, radius, pooling, search)
    if method == "paper":
        return _paper(samples, radius, pooling or Pooling(1.0), search, plan or Plan())
    if method in ("neural", "hybrid"):
        # A radius is the network's; where pooling is given as well, nothing of the field is needed.
        hops = 0 if pooling is not None and radius is not None else None
        chosen = _choose(samples, hops, pooling, search)
        return fit_trained(samples, chosen, None, method, radius, plan or Plan(), search)
    chosen = _choose(samples, radius, pooling, search)
    field = _field(samples, chosen, search)
    if method == "gaussian":
        return _scored(samples, field, search)
    if (why := _too_much(samples)) is not None:
        return replace(field, reason=f"{field.reason} {why}")
    return fit_trained(samples, chosen, field, method, radius, plan or Plan(), search)


def _choose(samples: Samples, radius: int | None, pooling: Pooling | None, search: Search) -> Chosen:
    start = time.perf_counter()
    if radius is not None and pooling is not None:
        return Chosen(radius, pooling, None, given(radius, pooling), 0.0)
    selection = select_field(samples, radius=radius, pooling=pooling, search=search)
    choice = selection.choice
    return Chosen(choice.radius, choice.pooling, selection, selection.reason, time.perf_counter() - start)


def _field(samples: Samples, chosen: Chosen, search: Search) -> Fitted:
    start = time.perf_counter()
    radius, pooling, selection, reason, selected = chosen
    if selection is None:
        fit = build_field(samples, radius, pooling)
    else:
        fit, pooling = settled_field(samples, radius, pooling)
    warn_of(fit, len(samples))
    center, scale, field = fit.center, fit.scale, fit.field
    fitted, y = time.perf_counter(), samples.standardized(center, scale)
    off, checked = described(moments(y, field, search.seed)), time.perf_counter()
    law = choose_correction(y, field, radius, pooling, needed=off is not None, search=search)
    score, made = corrected(field, y, law), time.perf_counter()
    if law is not None:
        off = described(moments(y, score, search.seed))
    if off is not None:
        warnings.warn(off, MomentWarning, stacklevel=2)
    checks = checked - fitted + time.perf_counter() - made
    seconds = {"select": selected, "fit": fitted - start, "correct": made - checked, "check": checks}
    reason = reason if law is None else f"{reason} {law.describe()}"
    if pooling.nugget > chosen.pooling.nugget:
        reason += f" White noise of {pooling.nugget:g} of the variance was added, for draws to have that of the data."
    return Fitted(center, scale, score, radius, pooling, selection, reason, seconds, correction=law)


def _scored(samples: Samples, found: Fitted, search: Search) -> Fitted:
    """Choose what log-densities are those of, and how wide conditional draws are."""
    start = time.perf_counter()
    assert isinstance(found.score, GaussianField)
    assert isinstance(found.radius, int)
    y = samples.standardized(found.center, found.scale)
    predictive, scored = choose_predictive(y, found.score, found.radius, found.pooling, search)
    band, widened = choose_band(y, found.radius, found.pooling, found.correction, search)
    return replace(
        found,
        predictive=predictive,
        band=band,
        reason=" ".join(filter(None, (found.reason, scored, widened))),
        seconds=found.seconds | {"score": time.perf_counter() - start},
    )


def _windowed(samples: Samples, radius: int | None, pooling: Pooling | None, search: Search) -> Fitted:
    start = time.perf_counter()
    selection = None
    if pooling is None:
        selection = select_field(samples, search=search)  # its radius is the field's, not that of the windows
        pooling = selection.choice.pooling
    used: Radius = select_radius_by_time(samples, pooling, seed=search.seed) if radius is None else radius
    if selection is not None and not isinstance(used, int):
        selection = replace(selection, radius_by_time=used)
    selected = time.perf_counter()
    table = ((1.0, used),) if isinstance(used, int) else used
    center, scale, score = fit_windowed(samples, table, pooling)
    seconds = {"select": selected - start, "fit": time.perf_counter() - selected}
    return Fitted(center, scale, score, used, pooling, selection, given(used, pooling), seconds)


def _masked(samples: Samples, radius: int | None, search: Search) -> Fitted:
    start = time.perf_counter()
    used = select_masked_radius(samples, seed=search.seed) if radius is None else radius
    selected = time.perf_counter()
    center, scale, score = fit_masked(samples, used)
    seconds = {"select": selected - start, "fit": time.perf_counter() - selected}
    pooling = Pooling(0.0)
    return Fitted(center, scale, score, used, pooling, None, given(used, pooling), seconds)


def _paper(samples: Samples, radius: int | None, pooling: Pooling, search: Search, plan: Plan) -> Fitted:
    start = time.perf_counter()
    if radius is None:
        radius = max(r for _, r in select_radius_by_time(samples, pooling, seed=search.seed))
    selected = time.perf_counter()
    center, scale = location_and_scale(samples, pooling)
    assert not isinstance(plan.recipe, Recipe)
    recipe, tell = plan.recipe or PaperRecipe(seed=search.seed), plan.progress
    score = fit_paper(
        samples.standardized(center, scale).values,
        samples.graph,
        radius,
        recipe,
        progress=None if tell is None else lambda step, loss: tell(step, recipe.steps, loss),
    )
    seconds = {"select": selected - start, "train": time.perf_counter() - selected}
    return Fitted(center, scale, score, radius, pooling, None, given(radius, pooling), seconds)


def _too_much(samples: Samples) -> str | None:
    """Why "auto" does not try a network, if so."""
    if len(samples) < FEWEST:
        warnings.warn(
            f"{len(samples)} samples are too few to hold some out and compare a network with the Gaussian field: "
            f"the model is Gaussian. From {FEWEST} samples on the comparison is made; method='hybrid' trains one "
            "regardless.",
            stacklevel=2,
        )
        return f"No network was tried: {len(samples)} samples are fewer than {FEWEST}."
    if samples.n_vertices > LARGEST_AUTO:
        return f"No network was tried on more than {LARGEST_AUTO} vertices; method='hybrid' trains one regardless."
    return None
