"""Laws of standardised fields: draws, densities and conditional laws.

`GaussianModel` has closed forms for all of them, `DiffusionModel` runs noise backwards with a score.
"""

from __future__ import annotations

import abc
import math
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, NamedTuple, final

import numpy as np
import torch

from nearfield.graph import DependencyGraph
from nearfield.module import Module
from nearfield.noise import Stream
from nearfield.sampling.base import Sampler
from nearfield.sampling.device import usable_device
from nearfield.sampling.likelihood import FlowDensity
from nearfield.sampling.sampler import default_sampler
from nearfield.score.base import Score
from nearfield.score.conditional import ConditionalField
from nearfield.score.field import GaussianField
from nearfield.score.leave_one_out import observed_log_prob
from nearfield.score.predictive import PredictiveField
from nearfield.score.switch import SwitchedScore

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

__all__ = ["Conditional", "DiffusionModel", "Distribution", "GaussianModel", "UnsupportedError"]


_UNSUPPORTED = "{} needs an exact density, which a sampler lacks; fit with method='gaussian'"
_LARGEST_ERROR = 1.0
"""Nats of error of a log-density from which on it is warned of."""


class UnsupportedError(ValueError):
    """The law has no closed form for the request."""


class Conditional(NamedTuple):
    """Law of the missing entries of a field given the others; ``band`` multiplies the variances of ``field``."""

    field: ConditionalField
    band: float = 1.0

    def mean(self, x: Float[np.ndarray, "sample vertex channel"]) -> Float[np.ndarray, "sample vertex channel"]:
        """Conditional mean; observed entries are returned unchanged."""
        return self.field.mean(x)

    def sample(
        self, x: Float[np.ndarray, "vertex channel"], n_samples: int, *, seed: int, step: int = 0
    ) -> Float[np.ndarray, "member vertex channel"]:
        """Draw given one set of observed values; ``step`` tells sets apart."""
        drawn, mean = self.field.sample(x, n_samples, seed=seed, step=step), self.field.mean(x[None])
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

    @abc.abstractmethod
    def log_prob(self, x: Float[np.ndarray, "sample vertex channel"]) -> Float[np.ndarray, " sample"]:
        """Log-density in nats of the law of `sample`."""

    @property
    def gaussian(self) -> GaussianModel:
        """Gaussian law of the same data; an `UnsupportedError` where none is kept."""
        raise UnsupportedError(
            "surprise needs a Gaussian field of the data, which this method does not keep; fit with method='gaussian' "
            "or 'auto'"
        )

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
        """Log-density in nats, of the predictive law where there is one; of partial samples, that of the field."""
        partial = np.isnan(x).any(axis=(1, 2))
        found = np.empty(len(x))
        found[~partial] = (self.predictive or self.score).log_prob(x[~partial])
        found[partial] = observed_log_prob(self.score, x[partial])
        return found

    @property
    def gaussian(self) -> GaussianModel:
        """Return this law."""
        return self

    def condition(self, observed: Bool[np.ndarray, "vertex channel"]) -> Conditional:
        """Return the kriging law, its variances multiplied by the band."""
        return Conditional(self.score.conditional(observed), self.band)

    def extended(self, graph: DependencyGraph, onto: DependencyGraph) -> GaussianModel:
        """Return the same law on a larger lattice; its density is that of the field."""
        return GaussianModel(self.score.extended(graph, onto), None, self.band, self.largest_eigenvalue)


@final
class DiffusionModel(Distribution):
    """Law of the draws that a sampler makes with a score.

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
        """Log-density in nats of the law of the probability flow; warns of errors above a nat, and of random signs."""
        if np.isnan(x).any():
            raise ValueError(
                "X must have no missing values for the density of a network, got NaN; fit method='gaussian'"
            )
        found = FlowDensity().log_prob(self.score, x, self.largest_eigenvalue)
        if found.standard_error.any():
            warnings.warn(
                "score_samples estimates a trace by random signs, with a standard error of "
                f"{np.sqrt(np.mean(found.standard_error**2)):.2g} nats: the exact one takes too many products, or has "
                "no closed form; FlowDensity gives the error of each density",
                stacklevel=4,
            )
        elif found.step_error > _LARGEST_ERROR:
            warnings.warn(
                f"score_samples changes by {found.step_error:.2g} nats with half the steps; FlowDensity(steps=60) "
                "takes more",
                stacklevel=4,
            )
        return found.values

    def condition(self, observed: Bool[np.ndarray, "vertex channel"]) -> Conditional:
        """Conditional law of the Gaussian field, with a warning; errors as in `Distribution.condition`."""
        field = self._gaussian_field()
        if field is None:
            return super().condition(observed)
        warnings.warn(
            "impute uses the Gaussian field that method='auto' keeps beside the network, because the law of the "
            "network's draws has no closed form; method='gaussian' has one law for everything",
            stacklevel=3,
        )
        return Conditional(field.conditional(observed))

    @property
    def gaussian(self) -> GaussianModel:
        """Gaussian field beside the score."""
        field = self._gaussian_field()
        return super().gaussian if field is None else GaussianModel(field, largest_eigenvalue=self.largest_eigenvalue)

    def _gaussian_field(self) -> GaussianField | None:
        return self.score.field if isinstance(self.score, SwitchedScore) else None

    def extended(self, graph: DependencyGraph, onto: DependencyGraph) -> DiffusionModel:
        """Return the same law on a larger lattice."""
        return DiffusionModel(self.score.extended(graph, onto), self.largest_eigenvalue)
