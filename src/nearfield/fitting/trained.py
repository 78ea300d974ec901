"""Networks from data: trained, and put where they are better than the Gaussian field."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np

from nearfield.fitting.covariance import Pooling, location_and_scale
from nearfield.fitting.fitted import Chosen, Fitted, Plan
from nearfield.fitting.neural import LevelChoice, NetworkFit, choose_levels, default_recipe, fit_network
from nearfield.graph import DependencyGraph
from nearfield.paper.recipe import PaperRecipe
from nearfield.process import time_of
from nearfield.score.ensemble import EnsembleScore
from nearfield.score.field import GaussianField
from nearfield.score.hybrid import HybridScore
from nearfield.score.switch import SwitchedScore

CLEAR = 3.0
"""Standard errors beyond which vertices differ so clearly that a network must tell them apart."""


def fit_trained(
    x: np.ndarray,
    chosen: Chosen,
    field: Fitted | None,
    graph: DependencyGraph,
    method: str,
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
