"""A network trained by the local loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from nearfield.methods.base import FitOptions, Fitted
from nearfield.methods.network import NetworkMethod, fitted_network
from nearfield.samples import Samples

__all__ = ["Neural"]


@final
@dataclass(frozen=True)
class Neural(NetworkMethod):
    """Network that reads the state alone; parameters as in `NetworkMethod`."""

    def _fit(self, samples: Samples, options: FitOptions) -> Fitted:
        """Choose the pooling, and train."""
        chosen = self.choose_locality(samples, options)
        return fitted_network(self.train(samples, "neural", chosen, options), chosen)
