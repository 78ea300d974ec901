"""Vertices that vary in one or two samples only, or have one value far beyond the others.

Examples are rain in a desert and a fill value. Their location and scale do not describe other vertices, and their
held-out losses, infinite where all variation is held out, would alone decide the pooling. They are fitted apart and
left out of comparisons.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from nearfield.samples import Samples

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

__all__ = ["FEWEST_VALUES", "comparable", "rarely_varying", "warn_of_rare"]

BEYOND = 1000.0
"""Root mean squares of the other samples beyond which a value dominates the scale of its vertex."""
ENOUGH = 20
"""Samples from which on two varying ones are as few as one."""
FEW = 10
"""Samples below which equal values are not rare."""
FEWEST_VALUES = 5
"""Values that the law of a vertex needs."""
_NAMED = 5
"""Vertices named in a warning."""


def rarely_varying(x: Float[np.ndarray, "sample vertex channel"]) -> Bool[np.ndarray, "vertex channel"]:
    """Whether one or two samples make up the variance: the largest distance from the median is far beyond all others.

    Below ``ENOUGH`` samples one is set aside, otherwise two; the largest must exceed ``BEYOND`` root mean squares of
    the rest, which is 0 where the rest are equal. Equal values prove nothing below ``FEW`` samples, where counts are
    often equal by chance. Of normal values no vertex is rare, of Cauchy values one in a hundred.
    """
    aside = 1 if len(x) < ENOUGH else 2
    center = x.mean(axis=0)
    largest = np.maximum(x.max(axis=0) - center, center - x.min(axis=0)) ** 2
    rare: np.ndarray = (largest > 0) & (largest > 0.5 * len(x) / aside * x.var(axis=0))  # necessary, and fast to check
    if len(x) > 3 and rare.any():
        squared = np.sort((x[:, rare] - np.median(x[:, rare], axis=0)) ** 2, axis=0)
        rest = squared[:-aside].mean(axis=0)
        rare[rare] = (squared[-1] > BEYOND**2 * rest) & ((rest > 0) | (len(x) >= FEW))
    else:
        rare[:] = False
    return rare


def comparable(samples: Samples, parts: Sequence[np.ndarray]) -> Bool[np.ndarray, " vertex"]:
    """Vertices with comparable held-out losses: they vary in all training folds, not rarely. All, if there are none.

    Where values are missing, a vertex also needs some in each training fold.
    """
    x, enough = samples.filled, np.ones(samples.values.shape[1:], dtype=bool)
    left_out = rarely_varying(x)
    for held_out in parts:
        left_out |= np.ptp(np.delete(x, held_out, axis=0), axis=0) == 0
        if samples.observed is not None:
            enough &= np.count_nonzero(np.delete(samples.observed, held_out, axis=0), axis=0) >= FEWEST_VALUES
    keep = np.asarray(((~left_out | samples.standard) & enough).all(axis=1))
    return keep if keep.any() else ~keep


def warn_of_rare(samples: Samples) -> None:
    """Warn of the vertices that are fitted apart."""
    rare = np.asarray((rarely_varying(samples.filled) & np.logical_not(samples.standard)).any(axis=1))
    if rare.any():
        warnings.warn(
            f"{_vary(rare)} in one or two samples only, or with a value {BEYOND:g} times beyond the others: their "
            "location and scale are fitted apart, and the locality is chosen by the other vertices; correct the data "
            "or leave these vertices out",
            stacklevel=2,
        )


def _vary(which: Bool[np.ndarray, " vertex"]) -> str:
    """Name some vertices as the subject of a sentence, with its verb."""
    numbers = np.flatnonzero(which)
    if len(numbers) == 1:
        return f"vertex {numbers[0]} varies"
    listed = ", ".join(map(str, numbers[:_NAMED])) + (", ..." if len(numbers) > _NAMED else "")
    return f"{len(numbers)} vertices ({listed}) vary"
