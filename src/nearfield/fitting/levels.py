r"""Where networks are better than the closed-form Gaussian: noise level by noise level.

A hybrid is compared with the Gaussian field on samples that trained neither (by other noise they ended the training),
at noise levels spread over :math:`\ln\sigma`, by :math:`|D(x_t, t) - x_0|^2 / \sigma^2`: summed over levels, the
difference of two scores estimates (up to the factor of the spacing) that of their costs by (3.10) of arXiv 2505.04417.
Both meet the same noise, so that the comparison is paired, and its standard errors are over samples.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from nearfield.fitting.context import Locality
from nearfield.fitting.matching import held_out
from nearfield.fitting.neural import NetworkFit, TrainedNetwork
from nearfield.fitting.radius import SIGMAS
from nearfield.noise import Stream
from nearfield.process import time_of
from nearfield.samples import Samples
from nearfield.score.base import Score
from nearfield.score.context import FieldContext
from nearfield.score.field import GaussianField
from nearfield.score.hybrid import HybridScore

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["LevelChoice", "choose_levels", "keep_levels"]

COMPARED = 256
"""Most samples that two closed forms are compared on."""


class LevelChoice(NamedTuple):
    r"""Comparison of the hybrid with the Gaussian field at one noise level.

    Attributes
    ----------
    sigma : float
        Noise-to-signal ratio.
    gaussian, hybrid : float
        Held-out :math:`|D(x_t, t) - x_0|^2 / \sigma^2`, mean over samples, vertices and channels; of several
        networks the mean of their own, which is more than that of their mean.
    error : float
        Standard error of their paired difference.
    selected : bool
        Whether the hybrid is the score there.
    """

    sigma: float
    gaussian: float
    hybrid: float
    error: float
    selected: bool


def choose_levels(samples: Samples, fit: NetworkFit, locality: Locality, seed: int) -> tuple[LevelChoice, ...]:
    """Compare a hybrid with the Gaussian field on standardised samples held out from both, by increasing noise.

    Of several networks each is compared on its own held-out samples, with a field of this locality fitted to the
    samples it was trained on. The hybrid is selected where its gain is more than one standard error, if the gain summed
    over all levels is more than two; otherwise nowhere.
    """
    times = [time_of(sigma) for sigma in SIGMAS]
    weight = 1.0 / (1.0 + np.square(SIGMAS))[:, None]  # the loss over s^2 becomes that over sigma^2
    parts: list[list[np.ndarray]] = []
    numbers: list[np.ndarray] = []
    for number, trained in enumerate(fit.networks):
        # Each sample counts once.
        numbers.append(trained.unseen[~np.isin(trained.unseen, np.concatenate([*numbers, []]))])
        field, hide = locality.field(samples.take(trained.used)), trained.score.maps
        scores: tuple[Score, ...] = (FieldContext(field) if hide else field, trained.score)
        unseen = samples.take(numbers[-1])
        clean, present = torch.from_numpy(unseen.values), unseen.present
        # Noise goes by the place in the part: other networks need other noise, or their losses would be correlated.
        noise = (seed + number) % 2**64
        losses_of = partial(held_out, seed=noise, stream=Stream.EVALUATION, present=present, hide=hide)
        parts.append([weight * losses_of(score, clean, times) for score in scores])
    order = np.argsort(np.concatenate(numbers))
    losses = [np.concatenate(part, axis=1)[:, order] for part in zip(*parts, strict=True)]
    gain = losses[0] - losses[1]
    total = gain.sum(axis=0)
    better = total.mean() > 2 * samples.standard_error(total)
    levels = []
    for sigma, of_field, of_hybrid, difference in zip(SIGMAS, *losses, gain, strict=True):
        error = samples.standard_error(difference)
        selected = bool(better and difference.mean() > error)
        levels.append(LevelChoice(sigma, float(of_field.mean()), float(of_hybrid.mean()), error, selected))
    return tuple(levels)


def keep_levels(
    samples: Samples, fit: NetworkFit, locality: Locality, field: GaussianField, seed: int
) -> tuple[LevelChoice, ...]:
    """Compare as `choose_levels` does, but select the hybrid unless its loss is clearly the higher one.

    That is by more than one standard error, on the held-out samples or by `_excess`.
    """
    levels = choose_levels(samples, fit, locality, seed)
    excess, error = _excess(samples, fit.networks[0], field, seed)
    return tuple(
        level._replace(selected=bool(level.hybrid - level.gaussian <= level.error and excess[k] <= error[k]))
        for k, level in enumerate(levels)
    )


def _excess(
    samples: Samples, trained: TrainedNetwork, field: GaussianField, seed: int
) -> tuple[Float[np.ndarray, " level"], Float[np.ndarray, " level"]]:
    """Excess loss of a hybrid over the field, by way of what it is shown, with its standard error; nothing without.

    Held-out samples are few. At strong noise a network adds little to its windows, and what these lose by their ends is
    lost among the differences of samples. So the excess of the network over its windows is that of the held-out
    samples, and the excess of the windows over the field that of the samples both were fitted to: windows by least
    squares, so that chance is on their side.
    """
    if not isinstance(trained.score, HybridScore) or trained.score.maps:  # under maps the field itself is shown
        return np.zeros(len(SIGMAS)), np.zeros(len(SIGMAS))
    shown, some = trained.score.context, trained.used[:: math.ceil(len(trained.used) / COMPARED)]
    pairs = ((trained.score, shown, trained.unseen), (shown, field, some))
    excess, variance, times = np.zeros(len(SIGMAS)), np.zeros(len(SIGMAS)), [time_of(sigma) for sigma in SIGMAS]
    for k, (*scores, numbers) in enumerate(pairs):
        part, noise = samples.take(numbers), (seed + k) % 2**64
        losses_of = partial(held_out, seed=noise, stream=Stream.EVALUATION, present=part.present)
        one, other = (losses_of(score, torch.from_numpy(part.values), times) for score in scores)
        excess += (one - other).mean(axis=1)
        variance += np.square([part.standard_error(level) for level in one - other])
    return excess, np.sqrt(variance)
