"""Laws of standardised fields: draws, densities and conditional laws.

`GaussianModel` has closed forms for all of them, `DiffusionModel` runs noise backwards with a score.
"""

from __future__ import annotations

import abc
import math
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, final

import numpy as np
import torch

from nearfield.graph import DependencyGraph
from nearfield.module import Module
from nearfield.noise import Stream
from nearfield.sampling.base import Sampler
from nearfield.sampling.conditioning import DecoupledSampler
from nearfield.sampling.device import usable_device
from nearfield.sampling.likelihood import FlowDensity
from nearfield.sampling.mapped import in_one_pass, sample_in_one_pass
from nearfield.sampling.sampler import default_sampler
from nearfield.score.base import Score
from nearfield.score.censored import censored_log_prob
from nearfield.score.evidence import Evidence
from nearfield.score.field import GaussianField
from nearfield.score.leave_one_out import observed_log_prob
from nearfield.score.posterior_field import PosteriorField
from nearfield.score.predictive import PredictiveField
from nearfield.score.switch import SwitchedScore
from nearfield.score.tiled import extended_score

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = [
    "Conditional",
    "DiffusionModel",
    "Distribution",
    "GaussianConditional",
    "GaussianModel",
    "SampledConditional",
    "UnsupportedError",
]


_LARGEST_ERROR = 1.0
"""Nats of error of a log-density from which on it is warned of."""


class UnsupportedError(ValueError):
    """The law has no closed form for the request."""


class Conditional(abc.ABC):
    """Law of standardised fields given evidence on each of some cases.

    Attributes
    ----------
    exact : bool
        Whether mean, variance and density have closed forms.
    """

    exact: ClassVar[bool]

    @abc.abstractmethod
    def sample(
        self,
        n_samples: int,
        *,
        seed: int,
        sampler: DecoupledSampler | None = None,
        device: torch.device | str = "auto",
        batch_size: int | None = None,
    ) -> Float[np.ndarray, "member case entry"]:
        """Draw fields given the evidence; arguments as in `Distribution.sample`."""

    def move(self, members: Float[np.ndarray, "sample entry"], *, seed: int) -> Float[np.ndarray, "sample entry"]:  # noqa: ARG002
        """Move fields of the law without the evidence to that given it; an `UnsupportedError` without a closed form."""
        raise UnsupportedError("members are moved by Gaussian laws alone, given linear observations; take draws")

    def moments(self) -> tuple[Float[np.ndarray, "case entry"], Float[np.ndarray, " entry"]]:
        """Means, and variances of the entries; an `UnsupportedError` without a closed form."""
        raise UnsupportedError("mean and variance have no closed form here; take those of draws")

    def log_prob(self, x: Float[np.ndarray, "sample entry"]) -> Float[np.ndarray, " sample"]:  # noqa: ARG002
        """Log-density of the entries not known, of one case; an `UnsupportedError` without a closed form."""
        raise UnsupportedError(
            "log_prob has a closed form for Gaussian fields alone, given linear observations whose averages have errors"
        )


@final
class GaussianConditional(Conditional):
    """Gaussian field given linear evidence; ``band`` multiplies its variances."""

    exact: ClassVar[bool] = True

    def __init__(self, field: GaussianField, evidence: Evidence, band: float = 1.0) -> None:
        self._law, self._evidence, self._band = PosteriorField(field, evidence), evidence, band

    def sample(
        self,
        n_samples: int,
        *,
        seed: int,
        sampler: DecoupledSampler | None = None,  # noqa: ARG002
        device: torch.device | str = "auto",  # noqa: ARG002
        batch_size: int | None = None,  # noqa: ARG002
    ) -> Float[np.ndarray, "member case entry"]:
        """Draw exactly."""
        drawn = self._law.sample(n_samples, seed=seed)
        if self._band == 1.0:
            return drawn
        mean = self._law.mean()
        spread: np.ndarray = mean + math.sqrt(self._band) * (drawn - mean)
        return spread

    def move(self, members: Float[np.ndarray, "sample entry"], *, seed: int) -> Float[np.ndarray, "sample entry"]:
        """Move fields, each by itself."""
        return self._law.move(members, seed=seed)

    def moments(self) -> tuple[Float[np.ndarray, "case entry"], Float[np.ndarray, " entry"]]:
        """Means and variances."""
        return self._law.mean(), self._band * self._law.variance()

    def log_prob(self, x: Float[np.ndarray, "sample entry"]) -> Float[np.ndarray, " sample"]:
        """Log-density of the entries not known."""
        if self._evidence.exact.any():
            return super().log_prob(x)
        return self._law.log_prob(x, self._band)


@final
class SampledConditional(Conditional):
    """Law of draws with a score: in one pass where it takes noise maps of the evidence, else by the decoupled sampler.

    A Gaussian field of the same data serves that sampler.
    """

    exact: ClassVar[bool] = False

    def __init__(self, score: Score, field: GaussianField, evidence: Evidence, largest_eigenvalue: float) -> None:
        self._score, self._field, self._evidence, self._eigenvalue = score, field, evidence, largest_eigenvalue

    def sample(
        self,
        n_samples: int,
        *,
        seed: int,
        sampler: DecoupledSampler | None = None,
        device: torch.device | str = "auto",
        batch_size: int | None = None,
    ) -> Float[np.ndarray, "member case entry"]:
        """Draw by noising and denoising; one pass takes the levels of the sampler."""
        sampler, device, values = sampler or DecoupledSampler(), usable_device(device), self._eigenvalue
        if in_one_pass(self._score, self._evidence):
            return sample_in_one_pass(
                self._score,
                self._evidence,
                n_samples,
                seed=seed,
                levels=sampler.levels,
                largest_eigenvalue=values,
                device=device,
                batch_size=batch_size,
            )
        return sampler.sample(
            self._score,
            self._field,
            self._evidence,
            n_samples,
            seed=seed,
            largest_eigenvalue=values,
            device=device,
            batch_size=batch_size,
        )


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
        stream: Stream = Stream.EXACT,
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
        if self.exact and sampler is None:
            return self._exactly(n_samples, seed, stream)
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

    def _exactly(self, n_samples: int, seed: int, stream: Stream) -> Float[np.ndarray, "member vertex channel"]:
        """Draw without a sampler; laws that are exact have it."""
        raise NotImplementedError

    def default_sampler(self, steps: int = 50) -> Sampler:
        """Return the stochastic second-order solver, from noise that exceeds the data."""
        return default_sampler(self.largest_eigenvalue, steps)

    @abc.abstractmethod
    def log_prob(self, x: Float[np.ndarray, "sample vertex channel"]) -> Float[np.ndarray, " sample"]:
        """Log-density in nats of the law of `sample`."""

    def censored_log_prob(
        self,
        x: Float[np.ndarray, "sample vertex channel"],  # noqa: ARG002
        below: Float[np.ndarray, "sample vertex channel"],  # noqa: ARG002
        above: Float[np.ndarray, "sample vertex channel"],  # noqa: ARG002
    ) -> Float[np.ndarray, " sample"]:
        """Log-density where some values are known to be ``below`` or ``above`` a threshold only, each NaN elsewhere."""
        raise UnsupportedError(
            "score_samples of values at a bound that has a mass needs a Gaussian field; fit with method='gaussian'"
        )

    @property
    def gaussian(self) -> GaussianModel:
        """Gaussian law of the same data; an `UnsupportedError` where none is kept."""
        raise UnsupportedError(
            "impute, condition and surprise need a Gaussian field of the data, which this method does not keep; fit "
            "with method='gaussian', 'hybrid', 'neural' or 'auto'"
        )

    def condition(self, evidence: Evidence) -> Conditional:
        """Condition on evidence: exactly, or by draws; errors as for `gaussian`."""
        return SampledConditional(self.score, self.gaussian.score, evidence, self.largest_eigenvalue)

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

    def _exactly(self, n_samples: int, seed: int, stream: Stream) -> Float[np.ndarray, "member vertex channel"]:
        return self.score.sample(n_samples, seed=seed, stream=stream)

    def log_prob(self, x: Float[np.ndarray, "sample vertex channel"]) -> Float[np.ndarray, " sample"]:
        """Log-density in nats, of the predictive law where there is one; of partial samples, that of the field."""
        partial = np.isnan(x).any(axis=(1, 2))
        found = np.empty(len(x))
        found[~partial] = (self.predictive or self.score).log_prob(x[~partial])
        found[partial] = observed_log_prob(self.score, x[partial])
        return found

    def censored_log_prob(
        self,
        x: Float[np.ndarray, "sample vertex channel"],
        below: Float[np.ndarray, "sample vertex channel"],
        above: Float[np.ndarray, "sample vertex channel"],
    ) -> Float[np.ndarray, " sample"]:
        """Estimate it by particles of the field: `nearfield.score.censored`."""
        return censored_log_prob(self.score, x, below, above)

    @property
    def gaussian(self) -> GaussianModel:
        """Return this law."""
        return self

    def condition(self, evidence: Evidence) -> Conditional:
        """Return the kriging law, its variances multiplied by the band, where the evidence is linear."""
        return GaussianConditional(self.score, evidence, self.band) if evidence.linear else super().condition(evidence)

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
    field : GaussianField, optional
        Of the same standardised data, for conditional laws; that of a `SwitchedScore` by default.
    """

    def __init__(self, score: Score, largest_eigenvalue: float = 1.0, field: GaussianField | None = None) -> None:
        super().__init__()
        self.score, self.field = score, field
        self.largest_eigenvalue = float(largest_eigenvalue)

    @property
    def gaussian(self) -> GaussianModel:
        """Gaussian field beside the score."""
        field = self.score.field if isinstance(self.score, SwitchedScore) else self.field
        if field is None:
            return super().gaussian
        return GaussianModel(field, largest_eigenvalue=self.largest_eigenvalue)

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

    def extended(self, graph: DependencyGraph, onto: DependencyGraph) -> DiffusionModel:
        """Return the same law on a larger lattice, its score tile by tile where that is large."""
        field, score = self.field, extended_score(self.score, graph, onto)
        if field is None and isinstance(self.score, SwitchedScore) and not isinstance(score, SwitchedScore):
            field = self.score.field
        return DiffusionModel(score, self.largest_eigenvalue, field and field.extended(graph, onto))
