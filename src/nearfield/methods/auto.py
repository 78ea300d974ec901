"""The Gaussian field, and the hybrid at the noise levels where its held-out loss is lower.

A network costs many times what the field does, and three questions come before it, the cheapest first: whether samples
and vertices suit one, whether anything of the field's denoising error can be predicted in closed form, and whether a
hundred steps of training are better than the field at any noise level.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, replace
from typing import final

from nearfield.distribution import DiffusionModel
from nearfield.fitting.expectation import DRAWS
from nearfield.fitting.gaussianity import check_gaussianity
from nearfield.fitting.levels import LevelChoice, choose_levels
from nearfield.fitting.neural import FEWEST, default_recipe
from nearfield.methods.base import FitOptions, Fitted, fixed
from nearfield.methods.gaussian import Chosen, FittedField, choose, fit_chosen, fitted_gaussian
from nearfield.methods.network import NetworkMethod, Trained
from nearfield.process import time_of
from nearfield.samples import Samples
from nearfield.score.ensemble import EnsembleScore
from nearfield.score.hybrid import HybridScore
from nearfield.score.switch import SwitchedScore

__all__ = ["LARGEST", "TRIAL", "Auto"]

LARGEST = 20_000
"""Vertices of the largest graph on which a network is trained."""
TRIAL = 100
"""Steps of the trial before a longer training."""
_CLEAR = 2.0
"""Standard errors by which the trial must be better than the field at some noise level."""


@final
@dataclass(frozen=True)
class Auto(NetworkMethod):
    """Gaussian field, with the hybrid at the noise levels where its held-out loss is clearly lower.

    Parameters as in `NetworkMethod`; the radius is that of both. Where there is nothing for a network to learn, the
    result is that of `nearfield.methods.Gaussian`.
    """

    def _fit(self, samples: Samples, options: FitOptions) -> Fitted:
        """Fit the field; train the hybrid where there is anything to learn, and compare them at each noise level."""
        chosen = choose(samples, fixed(self.radius), fixed(self.pooling), options)
        found = fit_chosen(samples, chosen, options, DRAWS)
        if (limit := _limit(samples)) is not None:
            return _gaussian(samples, found, options, limit)
        start = time.perf_counter()
        y = found.samples.standardized(found.center, found.scale)
        tested = check_gaussianity(y, found.radius, found.pooling, options.seed)
        seconds = {"test": time.perf_counter() - start}
        if tested.found is None:
            why = f"{tested.describe()} No network was trained; method='hybrid' trains one regardless."
            fitted = _gaussian(samples, found, options, why)
            return replace(fitted, seconds=fitted.seconds | seconds)
        start = time.perf_counter()
        trained, levels = self._compete(samples, chosen, found, options)
        seconds["train"] = time.perf_counter() - start
        reason = f"{tested.describe()} {trained.reason} {_compared(levels)}"
        if any(level.selected for level in levels):
            fitted = _switched(found, trained, levels, y.largest_eigenvalue, reason)
        else:
            fitted = _gaussian(samples, found, options, reason)
        training = trained.fit.networks[0].training
        return replace(fitted, seconds=fitted.seconds | seconds, training=training, levels=levels)

    def _compete(
        self, samples: Samples, chosen: Chosen, found: FittedField, options: FitOptions
    ) -> tuple[Trained, tuple[LevelChoice, ...]]:
        """Train the hybrid as far as it seems worth it, and compare it with the field."""
        recipe = self.recipe or default_recipe(samples.graph, len(samples), self.validation_fraction, options.seed)
        if recipe.steps > 2 * TRIAL:
            brief = replace(self, recipe=replace(recipe, steps=TRIAL, check_every=TRIAL, n_networks=1))
            trained = brief.train(samples, "hybrid", chosen, replace(options, checkpoint=None, on_step=None), found)
            levels = choose_levels(trained.samples, trained.fit, found.locality, options.seed)
            if not any(level.gaussian - level.hybrid > _CLEAR * level.error for level in levels):
                return trained, tuple(level._replace(selected=False) for level in levels)
        trained = self.train(samples, "hybrid", chosen, options, found)
        return trained, choose_levels(trained.samples, trained.fit, found.locality, options.seed)


def _gaussian(samples: Samples, found: FittedField, options: FitOptions, why: str) -> Fitted:
    """Return the Gaussian field, with the reason for taking it."""
    fitted = fitted_gaussian(samples, found, options)
    return replace(fitted, reason=f"{fitted.reason} {why}")


def _switched(
    found: FittedField, trained: Trained, levels: tuple[LevelChoice, ...], largest_eigenvalue: float, why: str
) -> Fitted:
    """Return the hybrid at the levels where it is selected, and the field at the others."""
    hybrid = trained.fit.score
    assert isinstance(hybrid, HybridScore | EnsembleScore)
    choice = tuple((time_of(level.sigma), level.selected) for level in levels)
    law = DiffusionModel(SwitchedScore(found.field, hybrid, choice), largest_eigenvalue)
    return replace(found.fitted(law), radius=trained.fit.radius, reason=f"{found.reason} {why}")


def _limit(samples: Samples) -> str | None:
    """Reason for training no network, if there is one."""
    if len(samples) < FEWEST:
        warnings.warn(
            f"{len(samples)} samples are too few to compare a network with the Gaussian field on held-out samples (at "
            f"least {FEWEST}): the model is Gaussian; method='hybrid' trains a network regardless",
            stacklevel=2,
        )
        return f"No network was trained: {len(samples)} samples are fewer than {FEWEST}."
    if samples.n_vertices > LARGEST:
        return f"No network was trained on more than {LARGEST} vertices; method='hybrid' trains one regardless."
    return None


def _compared(levels: tuple[LevelChoice, ...]) -> str:
    used = [level.sigma for level in levels if level.selected]
    if not used:
        return "It is nowhere clearly better than the Gaussian field, which is the score at every noise level."
    gain = sum(level.gaussian - level.hybrid for level in levels if level.selected)
    return (
        f"It is the score at {len(used)} of {len(levels)} noise levels, between {used[0]:.2g} and {used[-1]:.2g} times "
        f"the signal, where its held-out denoising error is lower by {gain:.3g} in all; the Gaussian field at the "
        "others."
    )
