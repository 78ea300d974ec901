"""Moments that a model keeps of its training data, for reports on other data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from nearfield.evaluation.moment import Moments, Yardstick
from nearfield.evaluation.ruler import Ruler
from nearfield.samples import Samples

__all__ = ["MOST_CHANNELS", "TrainingMoments", "block_length"]

MOST_CHANNELS = 6
"""Channels that a report compares, the first ones."""


@final
@dataclass(frozen=True)
class TrainingMoments:
    """Yardstick and moments of each channel that a report compares; never the data.

    Attributes
    ----------
    channels : tuple of (Yardstick, Moments)
        Of the first channels.
    n_samples : int
        How many samples were fitted.
    """

    channels: tuple[tuple[Yardstick, Moments], ...]
    n_samples: int

    @classmethod
    def of(cls, samples: Samples) -> TrainingMoments:
        """Measure the training data, in the unit of the data; of ordered samples some are resampled together.

        Examples
        --------
        >>> from nearfield.graph import DependencyGraph
        >>> x = np.random.default_rng(0).normal(size=(40, 9, 2))
        >>> kept = TrainingMoments.of(Samples(x, DependencyGraph.chain(9)))
        >>> kept.n_samples, len(kept.channels)
        (40, 2)
        """
        x, block = samples.values, block_length(len(samples), samples.ordered)
        ruler, kept = Ruler.of(samples.graph), []
        for c in range(min(x.shape[2], MOST_CHANNELS)):
            # In single precision, as they are kept: so that a loaded model measures as the fitted one.
            stick = Yardstick.of(x[..., c]).rounded()
            kept.append((stick, stick.measure(x[..., c], ruler, own=True, block=block)))
        return cls(tuple(kept), len(x))

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return plain settings and arrays for a model file."""
        arrays: dict[str, np.ndarray] = {}
        for c, (stick, moments) in enumerate(self.channels):
            arrays |= {f"{c}.center": stick.center, f"{c}.scale": stick.scale, f"{c}.modes": stick.modes}
            arrays |= {f"{c}.value": moments.value, f"{c}.error": moments.error}
        single = {key: a.astype(np.float32) if key.endswith(("scale", "modes")) else a for key, a in arrays.items()}
        blocks = [moments.block for _, moments in self.channels]
        return {"n_samples": self.n_samples, "blocks": blocks}, single

    @classmethod
    def from_state(cls, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> TrainingMoments:
        """Rebuild from `state`."""
        n = config["n_samples"]
        return cls(
            tuple(
                (
                    Yardstick(*(arrays[f"{c}.{name}"].astype(np.float64) for name in ("center", "scale", "modes"))),
                    Moments(arrays[f"{c}.value"], arrays[f"{c}.error"], n, block),
                )
                for c, block in enumerate(config["blocks"])
            ),
            n,
        )


def block_length(n_samples: int, ordered: bool) -> int:
    """Return how many consecutive samples are resampled together: the cube root where they follow one another.

    Examples
    --------
    >>> block_length(27, True), block_length(27, False)
    (3, 1)
    """
    return math.ceil(round(n_samples ** (1 / 3), 9)) if ordered else 1
