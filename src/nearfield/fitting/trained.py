"""Networks from data: trained, and put where they are better than the Gaussian field."""

from __future__ import annotations

import time
from dataclasses import replace

from nearfield.fitting.covariance import location_and_scale
from nearfield.fitting.fitted import Chosen, Fitted, Plan
from nearfield.fitting.neural import LevelChoice, NetworkFit, choose_levels, default_recipe, fit_network
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.search import Search
from nearfield.paper.recipe import PaperRecipe
from nearfield.process import time_of
from nearfield.samples import Samples
from nearfield.score.ensemble import EnsembleScore
from nearfield.score.field import GaussianField
from nearfield.score.hybrid import HybridScore
from nearfield.score.switch import SwitchedScore

CLEAR = 3.0
"""Standard errors beyond which vertices differ so clearly that a network must tell them apart."""


def fit_trained(
    samples: Samples,
    chosen: Chosen,
    field: Fitted | None,
    method: str,
    radius: int | None,
    plan: Plan,
    search: Search,
) -> Fitted:
    """Train a network; where there is a field, let the network serve only where it is better."""
    start = time.perf_counter()
    pooling = _shared_law(chosen)
    center, scale = location_and_scale(samples, pooling) if field is None else (field.center, field.scale)
    z = samples.standardized(center, scale)
    assert not isinstance(plan.recipe, PaperRecipe)
    recipe = plan.recipe or default_recipe(z.graph, len(z), plan.validation_fraction, search.seed)
    tell = plan.progress
    fit = fit_network(
        z,
        "neural" if method == "neural" else "hybrid",
        hops=chosen.radius,
        pooling=pooling,
        recipe=recipe,
        radius=radius,
        checkpoint=plan.checkpoint,
        progress=None if tell is None else lambda step, loss: tell(step, recipe.members * recipe.steps, loss),
    )
    score, training = fit.score, fit.members[0].training
    assert score.radius is not None
    seconds, reason = {"select": chosen.seconds}, _described(fit)
    found = Fitted(center, scale, score, score.radius, pooling, chosen.selection, reason, seconds, training=training)
    if field is not None:
        found = _switched(z, fit, chosen, field, found, search.seed)
    return replace(found, seconds=found.seconds | {"train": time.perf_counter() - start})


def _switched(samples: Samples, fit: NetworkFit, chosen: Chosen, field: Fitted, network: Fitted, seed: int) -> Fitted:
    """Compare a hybrid with the field and put each where it serves."""
    assert isinstance(field.score, GaussianField)
    hybrid = fit.score
    assert isinstance(hybrid, HybridScore | EnsembleScore)
    levels = choose_levels(samples, fit, chosen.radius, chosen.pooling, seed)
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
