"""The Gaussian field, and the hybrid at the noise levels where its held-out loss is lower."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, replace
from typing import final

from nearfield.distribution import DiffusionModel, GaussianModel
from nearfield.fitting.neural import FEWEST, LevelChoice, choose_levels
from nearfield.methods.base import FitOptions, Fitted, fixed
from nearfield.methods.gaussian import choose, fit_chosen
from nearfield.methods.network import NetworkMethod
from nearfield.process import time_of
from nearfield.samples import Samples
from nearfield.score.ensemble import EnsembleScore
from nearfield.score.hybrid import HybridScore
from nearfield.score.switch import SwitchedScore

__all__ = ["LARGEST", "Auto"]

LARGEST = 20_000
"""Vertices of the largest graph on which a network is trained."""


@final
@dataclass(frozen=True)
class Auto(NetworkMethod):
    """Gaussian field, with the hybrid at the noise levels where its held-out loss is clearly lower.

    Parameters as in `NetworkMethod`; the radius is that of both.
    """

    def _fit(self, samples: Samples, options: FitOptions) -> Fitted:
        """Fit the field, train the hybrid if samples suffice, and compare them at each noise level."""
        chosen = choose(samples, fixed(self.radius), fixed(self.pooling), options)
        found = fit_chosen(samples, chosen, options)
        y = samples.standardized(found.center, found.scale)
        fitted = found.fitted(GaussianModel(found.field, largest_eigenvalue=y.largest_eigenvalue))
        if (limit := _limit(samples)) is not None:
            return replace(fitted, reason=f"{fitted.reason} {limit}")
        start = time.perf_counter()
        trained = self.train(samples, "hybrid", chosen, options, found)
        hybrid = trained.fit.score
        assert isinstance(hybrid, HybridScore | EnsembleScore)
        levels = choose_levels(y, trained.fit, found.locality, options.seed)
        fitted = replace(
            fitted,
            reason=f"{fitted.reason} {trained.reason} {_compared(levels)}",
            seconds=fitted.seconds | {"train": time.perf_counter() - start},
            training=trained.fit.networks[0].training,
            levels=levels,
        )
        if not any(level.selected for level in levels):
            return fitted
        choice = tuple((time_of(level.sigma), level.selected) for level in levels)
        score = SwitchedScore(found.field, hybrid, choice)
        return replace(fitted, law=DiffusionModel(score, y.largest_eigenvalue), radius=trained.fit.radius)


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
