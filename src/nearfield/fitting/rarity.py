"""Vertices that vary in a sample or two only, or with one value far beyond all others: rain in a desert, a fill value.

Their location and scale say nothing of other vertices, and their held-out losses, infinite where all that varies is
held out, would decide alone how far the others are pooled. They are fitted apart and not compared.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from nearfield.samples import Samples

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

BEYOND = 1000.0
"""Root mean squares of the other samples beyond which a value governs the scale of its vertex."""
ENOUGH = 20
"""Samples from which on two that vary are as few as one."""
FEW = 10
"""Samples below which equal values are no sign."""
_NAMED = 5
"""Vertices named in a warning."""


def rarely_varying(x: Float[np.ndarray, "sample vertex channel"]) -> Bool[np.ndarray, "vertex channel"]:
    """Whether one or two samples make up the variance: the largest deviation from the median is beyond all others.

    With fewer than ``ENOUGH`` samples one, with more two are set aside; the largest must be more than ``BEYOND`` root
    mean squares of the rest, which is 0 where the rest are equal. That says nothing of fewer than ``FEW`` samples,
    where counts are often equal by chance. Of normal values no vertex is rare, of Cauchy values one in a hundred.
    """
    aside = 1 if len(x) < ENOUGH else 2
    center = x.mean(axis=0)
    largest = np.maximum(x.max(axis=0) - center, center - x.min(axis=0)) ** 2
    rare: np.ndarray = (largest > 0) & (largest > 0.5 * len(x) / aside * x.var(axis=0))  # necessary, and soon known
    if len(x) > 3 and rare.any():
        squared = np.sort((x[:, rare] - np.median(x[:, rare], axis=0)) ** 2, axis=0)
        rest = squared[:-aside].mean(axis=0)
        rare[rare] = (squared[-1] > BEYOND**2 * rest) & ((rest > 0) | (len(x) >= FEW))
    else:
        rare[:] = False
    return rare


def compared(samples: Samples, parts: Sequence[np.ndarray]) -> Bool[np.ndarray, " vertex"]:
    """Vertices whose held-out losses can be compared: those that vary in every fold's training samples, and not rarely.

    All of them, if there would be none.
    """
    left_out = rarely_varying(samples.values)
    for held_out in parts:
        left_out |= np.ptp(np.delete(samples.values, held_out, axis=0), axis=0) == 0
    keep = np.asarray((~left_out | samples.standard).all(axis=1))
    return keep if keep.any() else ~keep


def warn_of_rare(samples: Samples) -> None:
    """Name the vertices that are fitted apart."""
    rare = np.asarray((rarely_varying(samples.values) & np.logical_not(samples.standard)).any(axis=1))
    if rare.any():
        warnings.warn(
            f"{named(rare)} in one or two samples only, or with a value {BEYOND:g} times beyond the others: location "
            "and scale are fitted apart there, and the locality is chosen by the other vertices. Leave them out, or "
            "mend the data.",
            stacklevel=2,
        )


def named(which: Bool[np.ndarray, " vertex"]) -> str:
    """Say the numbers of some vertices, and that they vary."""
    numbers = np.flatnonzero(which)
    if len(numbers) == 1:
        return f"vertex {numbers[0]} varies"
    listed = ", ".join(map(str, numbers[:_NAMED])) + (", ..." if len(numbers) > _NAMED else "")
    return f"{len(numbers)} vertices ({listed}) vary"
