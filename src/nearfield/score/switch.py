"""A network where it has earned its place, the Gaussian field everywhere else: one choice for each noise level."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch

from nearfield.process import noise_to_signal
from nearfield.score.base import Score, part_of
from nearfield.score.ensemble import EnsembleScore
from nearfield.score.field import GaussianField
from nearfield.score.hybrid import HybridScore

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SwitchedScore"]


@final
class SwitchedScore(Score):
    """Hybrid score at some noise levels, Gaussian field at the others.

    Parameters
    ----------
    field : GaussianField
    hybrid : HybridScore, or EnsembleScore of them
        Of the same standardised data.
    choice : sequence of (float, bool)
        Increasing OU times, above 0, and whether the hybrid serves there. Other times go with the nearest of these in
        the logarithm of the noise-to-signal ratio.

    Attributes
    ----------
    radius : None
        The field reads every vertex.

    Raises
    ------
    ValueError
        If the two scores are not of one field, or the times do not increase.
    """

    radius = None

    def __init__(
        self, field: GaussianField, hybrid: HybridScore | EnsembleScore, choice: tuple[tuple[float, bool], ...]
    ) -> None:
        sizes = [(score.n_vertices, score.n_channels) for score in (field, hybrid)]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"field and hybrid must be of one field, got (vertices, channels) {sizes[0]} and {sizes[1]}"
            )
        times = [time for time, _ in choice]
        if not times or times[0] <= 0 or any(b <= a for a, b in itertools.pairwise(times)):
            raise ValueError(f"choice must have increasing OU times above 0, got {times}")
        self.field, self.hybrid = field, hybrid
        self.choice = tuple((float(time), bool(used)) for time, used in choice)
        self.n_vertices, self.n_channels = sizes[0]
        levels = np.log([noise_to_signal(time) for time in times])
        self._border = (levels[1:] + levels[:-1]) / 2

    def uses_hybrid(self, t: float) -> bool:
        """Whether the hybrid serves at an OU time above 0."""
        return self.choice[int(np.searchsorted(self._border, math.log(noise_to_signal(t))))][1]

    def denoise(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Return what the score in charge says; shapes and times as in `Score.denoise`."""
        times = torch.as_tensor(t, dtype=torch.float64, device=x.device).reshape(-1)
        used = torch.tensor([time > 0 and self.uses_hybrid(time) for time in times.tolist()], device=x.device)
        if bool(used.all()):
            return self.hybrid.denoise(x, t)
        if not bool(used.any()):
            return self.field.denoise(x, t)
        out = x.clone()
        for score, part in ((self.hybrid, used), (self.field, ~used)):
            out[part] = score.denoise(x[part], times[part])
        return out

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return configuration and arrays from which `from_state` makes an equal score."""
        states = {"field": self.field.state(), "hybrid": self.hybrid.state()}
        config = {name: config for name, (config, _) in states.items()} | {
            "choice": [list(pair) for pair in self.choice]
        }
        return config, {f"{name}.{key}": value for name, (_, arrays) in states.items() for key, value in arrays.items()}

    @classmethod
    def from_state(cls, config: dict[str, Any], arrays: dict[str, np.ndarray]) -> SwitchedScore:
        """Rebuild from `state`."""
        kind = EnsembleScore if "members" in config["hybrid"] else HybridScore
        return cls(
            GaussianField.from_state(config["field"], part_of(arrays, "field")),
            kind.from_state(config["hybrid"], part_of(arrays, "hybrid")),
            tuple((time, used) for time, used in config["choice"]),
        )
