"""Laws of standardised fields: draws, densities and conditional laws.

`GaussianModel` has closed forms for all of them, `DiffusionModel` runs noise backwards with a score.
"""

from __future__ import annotations

import abc
import math
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol, final

import numpy as np
import torch

from nearfield.graph import DependencyGraph
from nearfield.module import Module
from nearfield.noise import Stream
from nearfield.sampling.base import Sampler
from nearfield.sampling.device import usable_device
from nearfield.sampling.sampler import default_sampler
from nearfield.score.base import Score
from nearfield.score.field import GaussianField
from nearfield.score.predictive import PredictiveField
from nearfield.score.switch import SwitchedScore

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

__all__ = ["Conditional", "ConditionalLaw", "DiffusionModel", "Distribution", "GaussianModel", "UnsupportedError"]


_UNSUPPORTED = "{} needs an exact density, which a sampler lacks; fit with method='gaussian'"


class UnsupportedError(ValueError):
    """The law has no closed form for the request."""


class ConditionalLaw(Protocol):
    """Mean and draws of the missing entries of a field given the others."""

    def mean(self, x: Float[np.ndarray, "sample vertex channel"]) -> Float[np.ndarray, "sample vertex channel"]:
        """Conditional mean; observed entries are returned unchanged."""

    def sample(
        self, x: Float[np.ndarray, "vertex channel"], n_samples: int, *, seed: int, step: int = 0
    ) -> Float[np.ndarray, "member vertex channel"]:
        """Draw given one set of observed values; ``step`` tells sets apart."""


class Conditional(NamedTuple):
    """Law of the missing entries of a field given the others; ``band`` multiplies the variances of ``field``."""

    field: ConditionalLaw
    band: float = 1.0

    def mean(self, x: Float[np.ndarray, "sample vertex channel"]) -> Float[np.ndarray, "sample vertex channel"]:
        """Conditional mean; observed entries are returned unchanged."""
        return self.field.mean(x)

    def sample(
        self, x: Float[np.ndarray, "vertex channel"], n_samples: int, *, seed: int, step: int = 0
    ) -> Float[np.ndarray, "member vertex channel"]:
        """Draw given one set of observed values; ``step`` tells sets apart."""
        drawn = self.field.sample(x, n_samples, seed=seed, step=step)
        if self.band == 1:
            return drawn
        mean = self.field.mean(x[None])
        spread: np.ndarray = mean + math.sqrt(self.band) * (drawn - mean)
        return spread


class Distribution(Module, abc.ABC):
    """Law of standardised fields.

    Attributes
    ----------
    exact : bool
        Whether draws, density and conditional laws have closed forms.
    score : Score
        Score of the same law.
    largest_eigenvalue : float
        Of the covariance of the data; the initial noise of a sampler exceeds it.
    """

    settings: ClassVar[tuple[str, ...]] = ("largest_eigenvalue",)
    exact: ClassVar[bool] = False
    score: Score
    largest_eigenvalue: float

    def sample(
        self,
        n_samples: int,
        *,
        seed: int,
        stream: Stream = Stream.EXACT,  # noqa: ARG002
        sampler: Sampler | None = None,
        device: torch.device | str = "auto",
        batch_size: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Float[np.ndarray, "member vertex channel"]:
        """Draw members, exactly where the law allows it and no sampler is given.

        Parameters
        ----------
        n_samples : int
            At least 1.
        seed : int
            In [0, 2**64).
        stream : Stream
            Purpose of exact draws; different streams are independent.
        sampler : Sampler, optional
            By default `default_sampler`.
        device : torch.device or str
            Device of a sampler's states; ``"auto"`` is a GPU where there is one.
        batch_size : int, optional
            Members that a sampler denoises at once.
        progress : callable, optional
            Called after each step of a sampler with the steps done and their number.
        """
        with torch.no_grad():
            drawn = (sampler or self.default_sampler()).sample(
                self.score,
                n_samples,
                seed=seed,
                dtype=torch.float64,
                device=usable_device(device),
                batch_size=batch_size,
                progress=progress,
            )
        return drawn.cpu().numpy()

    def default_sampler(self, steps: int = 50) -> Sampler:
        """Return the stochastic second-order solver, from noise that exceeds the data."""
        return default_sampler(self.largest_eigenvalue, steps)

    def log_prob(self, x: Float[np.ndarray, "sample vertex channel"]) -> Float[np.ndarray, " sample"]:  # noqa: ARG002
        """Log-density in nats; an `UnsupportedError` if it has no closed form."""
        raise UnsupportedError(_UNSUPPORTED.format("score_samples"))

    def condition(self, observed: Bool[np.ndarray, "vertex channel"]) -> Conditional:  # noqa: ARG002
        """Condition on the exact values of some entries; an `UnsupportedError` if that has no closed form."""
        raise UnsupportedError(_UNSUPPORTED.format("impute"))

    @abc.abstractmethod
    def extended(self, graph: DependencyGraph, onto: DependencyGraph) -> Distribution:
        """Return the same law on a larger lattice."""


@final
class GaussianModel(Distribution):
    """Gaussian law: exact draws, density and conditional laws.

    Parameters
    ----------
    score : GaussianField
    predictive : PredictiveField, optional
        Density that counts the uncertainty of the parameters, where held-out loss prefers it to that of the field.
    band : float
        Factor of the conditional variances of the field.
    largest_eigenvalue : float
        As in `Distribution`.
    """

    settings: ClassVar[tuple[str, ...]] = ("band", "largest_eigenvalue")
    exact: ClassVar[bool] = True
    score: GaussianField

    def __init__(
        self,
        score: GaussianField,
        predictive: PredictiveField | None = None,
        band: float = 1.0,
        largest_eigenvalue: float = 1.0,
    ) -> None:
        super().__init__()
        self.score, self.predictive = score, predictive
        self.band, self.largest_eigenvalue = float(band), float(largest_eigenvalue)

    def sample(
        self,
        n_samples: int,
        *,
        seed: int,
        stream: Stream = Stream.EXACT,
        sampler: Sampler | None = None,
        device: torch.device | str = "auto",
        batch_size: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Float[np.ndarray, "member vertex channel"]:
        """Draw exactly, or with a sampler; arguments as in `Distribution.sample`."""
        if sampler is None:
            return self.score.sample(n_samples, seed=seed, stream=stream)
        return super().sample(
            n_samples, seed=seed, sampler=sampler, device=device, batch_size=batch_size, progress=progress
        )

    def log_prob(self, x: Float[np.ndarray, "sample vertex channel"]) -> Float[np.ndarray, " sample"]:
        """Log-density in nats, of the predictive law where there is one."""
        return (self.predictive or self.score).log_prob(x)

    def condition(self, observed: Bool[np.ndarray, "vertex channel"]) -> Conditional:
        """Return the kriging law, its variances multiplied by the band."""
        return Conditional(self.score.conditional(observed), self.band)

    def extended(self, graph: DependencyGraph, onto: DependencyGraph) -> GaussianModel:
        """Return the same law on a larger lattice; its density is that of the field."""
        return GaussianModel(self.score.extended(graph, onto), None, self.band, self.largest_eigenvalue)


@final
class DiffusionModel(Distribution):
    """Law of the draws that a sampler makes with a score.

    A score that is a Gaussian field at some noise levels has its density and conditional laws from that field.

    Parameters
    ----------
    score : Score
    largest_eigenvalue : float
        As in `Distribution`.
    """

    def __init__(self, score: Score, largest_eigenvalue: float = 1.0) -> None:
        super().__init__()
        self.score = score
        self.largest_eigenvalue = float(largest_eigenvalue)

    def log_prob(self, x: Float[np.ndarray, "sample vertex channel"]) -> Float[np.ndarray, " sample"]:
        """Log-density of the Gaussian field, with a warning; errors as in `Distribution.log_prob`."""
        field = self._gaussian_field("score_samples")
        return super().log_prob(x) if field is None else field.log_prob(x)

    def condition(self, observed: Bool[np.ndarray, "vertex channel"]) -> Conditional:
        """Conditional law of the Gaussian field, with a warning; errors as in `Distribution.condition`."""
        field = self._gaussian_field("impute")
        return super().condition(observed) if field is None else Conditional(field.conditional(observed))

    def _gaussian_field(self, question: str) -> GaussianField | None:
        if not isinstance(self.score, SwitchedScore):
            return None
        warnings.warn(
            f"{question} uses the Gaussian field that method='auto' keeps beside the network, because the law of the "
            "network's draws has no closed form; method='gaussian' has one law for everything",
            stacklevel=4,
        )
        return self.score.field

    def extended(self, graph: DependencyGraph, onto: DependencyGraph) -> DiffusionModel:
        """Return the same law on a larger lattice."""
        return DiffusionModel(self.score.extended(graph, onto), self.largest_eigenvalue)
