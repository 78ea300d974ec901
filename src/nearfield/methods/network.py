"""Networks: trained on standardised samples, and the sentence that says how."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from nearfield.distribution import DiffusionModel
from nearfield.fitting.acceleration import require_compiler
from nearfield.fitting.context import Locality
from nearfield.fitting.covariance import location_and_scale
from nearfield.fitting.elimination import predecessors
from nearfield.fitting.expectation import DRAWS
from nearfield.fitting.levels import keep_levels
from nearfield.fitting.missing import MissingReport
from nearfield.fitting.moments import MomentWarning
from nearfield.fitting.neural import NETWORK_RADIUS, Design, NetworkFit, default_recipe, fit_network
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.predictive import Moments
from nearfield.fitting.recipe import Recipe
from nearfield.fitting.redrawing import redrawn
from nearfield.fitting.symmetry import named as named_symmetries
from nearfield.methods.base import (
    FitOptions,
    Fitted,
    Method,
    fixed,
    keep_fraction,
    keep_pooling,
    keep_radius,
    keep_recipe,
)
from nearfield.methods.gaussian import Chosen, FittedField, choose, fit_chosen
from nearfield.process import time_of
from nearfield.samples import Samples
from nearfield.sampling.device import usable_device
from nearfield.score.base import Score
from nearfield.score.field import GaussianField
from nearfield.score.hybrid import HybridScore
from nearfield.score.switch import SwitchedScore

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["NetworkMethod", "Trained"]

_CLEAR = 3.0
"""Standard errors beyond which vertices differ so clearly that a network must tell them apart."""
_DRAWN = "Missing values are drawn anew at each step; errors count where values are data."
_HIDDEN = "Missing values have infinite noise; errors count where values are data."
_REDRAWN = 300
"""Fewest steps of a training that begins with a shorter one, by which missing values are drawn."""


@dataclass(frozen=True)
class Trained:
    """Networks with the standardised samples they were trained on; ``seconds`` is wall time."""

    center: Float[np.ndarray, "vertex channel"]
    scale: Float[np.ndarray, "vertex channel"]
    samples: Samples
    fit: NetworkFit
    pooling: Pooling
    reason: str
    seconds: float
    missing: MissingReport | None = None


@dataclass(frozen=True)
class NetworkMethod(Method):
    """Settings and training that the methods with networks share.

    Parameters
    ----------
    radius : int or "auto"
        Hops that the score reads; ``"auto"`` lets networks read 4 hops at most.
    pooling : float in [0, 1], Pooling, or "auto"
        As in `nearfield.LocalizedDiffusion`. Networks are one law for all vertices unless these clearly differ.
    recipe : Recipe, optional
        How networks are trained; by default about half a minute's training.
    validation_fraction : float in (0, 1)
        Share of the samples that is held out where no recipe is given.
    """

    keeps_checkpoint: ClassVar[bool] = True

    radius: int | Literal["auto"] = "auto"
    pooling: float | Pooling | Literal["auto"] = "auto"
    recipe: Recipe | None = None
    validation_fraction: float = 0.15

    def __post_init__(self) -> None:
        keep_radius(self)
        keep_pooling(self)
        keep_recipe(self, Recipe)
        keep_fraction(self)

    @property
    def n_checkpoints(self) -> int:
        """One for each network of the recipe."""
        return 1 if self.recipe is None else self.recipe.n_networks

    def seeded(self) -> bool:
        """Whether a recipe is given, and nothing is left to choose."""
        return None not in (self.recipe, fixed(self.radius), fixed(self.pooling))

    def require(self, samples: Samples) -> None:
        """Refuse symmetries that the graph lacks, and compilation without a compiler; missing values are drawn."""
        graph = samples.graph
        if self.recipe is None:
            return
        if isinstance(self.recipe.symmetries, tuple):
            named_symmetries(self.recipe.symmetries, graph)
        if self.recipe.compiled and graph.lattice is not None:
            require_compiler()

    def choose_locality(self, samples: Samples, options: FitOptions) -> Chosen:
        """Choose pooling and hops of the field; where both are given, it is needed for gaps only."""
        radius, pooling = fixed(self.radius), fixed(self.pooling)
        hops = None if None in (radius, pooling) else radius if samples.incomplete else 0
        return choose(samples, hops, pooling, options)

    def train(
        self,
        samples: Samples,
        kind: Literal["neural", "hybrid", "noise map"],
        chosen: Chosen,
        options: FitOptions,
        found: FittedField | None = None,
    ) -> Trained:
        """Train networks; ``found`` has location, scale, draws and correction where a field is fitted already."""
        start, pooling = time.perf_counter(), _shared_law(chosen)
        if found is None and samples.incomplete:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", MomentWarning)  # of the field's draws
                found = fit_chosen(samples, chosen, options, DRAWS)
        samples, missing = (samples, None) if found is None else (found.samples, found.missing)
        center, scale = location_and_scale(samples, pooling) if found is None else (found.center, found.scale)
        locality = Locality(chosen.radius, pooling, None if found is None else found.correction)
        recipe = self.recipe or default_recipe(samples.graph, len(samples), self.validation_fraction, options.seed)
        tell, total = options.on_step, recipe.n_networks * recipe.steps
        y = samples.standardized(center, scale)
        design, device = Design(kind, locality, fixed(self.radius), options.bounded), usable_device(options.device)
        draws = y.drawn is not None and kind != "noise map" and recipe.steps >= _REDRAWN
        if found is not None and draws and locality.correction is None:
            brief = replace(recipe, steps=recipe.steps // 3, n_networks=1)
            y = _redrawn(y, fit_network(y, design, brief, device=device), found, options.seed)
        fit = fit_network(
            y,
            design,
            recipe,
            checkpoint=options.checkpoint,
            progress=None if tell is None else lambda step, loss: tell(step, total, loss),
            device=device,
        )
        return Trained(center, scale, y, fit, pooling, _described(fit, y), time.perf_counter() - start, missing)


def fitted_network(trained: Trained, chosen: Chosen, field: GaussianField | None = None) -> Fitted:
    """Return the result of a method with networks at every noise level, beside a field for conditional laws."""
    start = time.perf_counter()
    field = _field_beside(trained, chosen) if field is None else field
    return Fitted(
        trained.center,
        trained.scale,
        DiffusionModel(trained.fit.score, trained.samples.largest_eigenvalue, field),
        trained.fit.radius,
        trained.pooling,
        " ".join(filter(None, (trained.missing and trained.missing.describe(), trained.reason))),
        {"select": chosen.seconds, "train": trained.seconds, "fit": time.perf_counter() - start},
        chosen.selection,
        training=trained.fit.networks[0].training,
        missing=trained.missing,
    )


def _field_beside(trained: Trained, chosen: Chosen) -> GaussianField:
    """Gaussian field of the same standardised samples, for conditional laws."""
    hops = min(trained.fit.radius, NETWORK_RADIUS) if chosen.selection is None else chosen.radius  # nothing was chosen
    windows = predecessors(trained.samples.graph, hops)
    return Moments.of(trained.samples, windows, chosen.pooling).field(chosen.pooling, hops)


def _redrawn(y: Samples, fit: NetworkFit, found: FittedField, seed: int) -> Samples:
    """Draw what is missing by a network, and by the field at the noise levels where that is clearly better."""
    score: Score = fit.score
    if isinstance(score, HybridScore):
        levels = keep_levels(y, fit, found.locality, found.field, seed)
        choice = tuple((time_of(each.sigma), each.selected) for each in levels)
        score = SwitchedScore(found.field, score, choice)
    return redrawn(y, score, found.field, seed)


def _shared_law(chosen: Chosen) -> Pooling:
    """Pooling for a network: one law, unless held-out loss says clearly that vertices differ."""
    # The numbers of each vertex that a network learns elsewhere cost far more than the field's pooling gains.
    alike = [c for c in chosen.selection.table if c.pooling == Pooling(1.0)] if chosen.selection is not None else []
    return Pooling(1.0) if any(c.difference <= _CLEAR * c.difference_error for c in alike) else chosen.pooling


def _described(fit: NetworkFit, samples: Samples) -> str:
    score, training, context = fit.networks[0].score, fit.networks[0].training, fit.networks[0].context
    why = {"budget": "", "patience": ", then no better", "diverged": ", then diverging"}[training.reason]
    images = f"Trained on images under {', '.join(training.symmetries)} as well." if training.symmetries else ""
    losses = ", ".join(f"{network.training.best.loss:.4f}" for network in fit.networks[1:])
    others = f"Mean of {len(fit.networks)} networks; the losses of the others are {losses}." if losses else ""
    loss = (
        f"Network reading {score.network.radius} hops; held-out loss {training.best.loss:.4f} after "
        f"{training.best.step} of {len(training.losses)} steps{why}."
    )
    drawn = "" if samples.drawn is None else _HIDDEN if fit.score.maps else _DRAWN
    return " ".join(filter(None, (loss, context, images, drawn, others)))
