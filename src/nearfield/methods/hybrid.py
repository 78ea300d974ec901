"""A network whose context is what the windowed Gaussian makes of the state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from nearfield.methods.base import FitOptions, Fitted
from nearfield.methods.network import NetworkMethod, fitted_network
from nearfield.samples import Samples

__all__ = ["Hybrid"]


@final
@dataclass(frozen=True)
class Hybrid(NetworkMethod):
    """Network with the denoiser of the windowed Gaussian as context; parameters as in `NetworkMethod`.

    A radius is what the score reads in all: on lattices half by the network and half by the Gaussian.
    """

    def _fit(self, samples: Samples, options: FitOptions) -> Fitted:
        """Choose the pooling, and train."""
        chosen = self.choose_locality(samples, options)
        return fitted_network(self.train(samples, "hybrid", chosen, options), chosen)
