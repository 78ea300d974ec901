"""Conditional laws of standardised fields, given evidence: exact ones, and those of the decoupled sampler."""

from __future__ import annotations

import abc
import math
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, final

import numpy as np
import torch

from nearfield.sampling.conditioning import DecoupledSampler
from nearfield.sampling.device import usable_device
from nearfield.sampling.mapped import in_one_pass, sample_in_one_pass
from nearfield.score.base import Score
from nearfield.score.evidence import Evidence
from nearfield.score.field import GaussianField
from nearfield.score.posterior_field import PosteriorField

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float

__all__ = ["Conditional", "GaussianConditional", "SampledConditional", "UnsupportedError"]

_NUMBERS = 1 << 24
"""Numbers that are drawn at once."""


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

    def batches(
        self, n_samples: int, *, seed: int, device: torch.device | str = "auto"
    ) -> Iterator[tuple[slice, int, Float[np.ndarray, "some case entry"]]]:
        """Yield the draws of `sample`, some at a time where the law can: of which cases, from which member on."""
        yield slice(None), 0, self.sample(n_samples, seed=seed, device=device)

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
        return self._drawn(n_samples, seed)

    def batches(
        self,
        n_samples: int,
        *,
        seed: int,
        device: torch.device | str = "auto",  # noqa: ARG002
    ) -> Iterator[tuple[slice, int, Float[np.ndarray, "some case entry"]]]:
        """Yield draws of some cases; members by the size of a field alone, so that sums round alike."""
        step = min(n_samples, max(1, _NUMBERS // self._evidence.known.size))
        together = max(1, _NUMBERS // (step * self._evidence.known.size))
        for start in range(0, len(self._evidence.values), together):
            cases = slice(start, start + together)
            for first in range(0, n_samples, step):
                yield cases, first, self._drawn(min(step, n_samples - first), seed, first, cases)

    def _drawn(
        self, n_samples: int, seed: int, first_member: int = 0, cases: slice = slice(None)
    ) -> Float[np.ndarray, "some case entry"]:
        drawn = self._law.sample(n_samples, seed=seed, first_member=first_member, cases=cases)
        if self._band == 1.0:
            return drawn
        mean = self._mean[cases]
        spread: np.ndarray = mean + math.sqrt(self._band) * (drawn - mean)
        return spread

    @cached_property
    def _mean(self) -> Float[np.ndarray, "case entry"]:
        return self._law.mean()

    def move(self, members: Float[np.ndarray, "sample entry"], *, seed: int) -> Float[np.ndarray, "sample entry"]:
        """Move fields, each by itself."""
        return self._law.move(members, seed=seed)

    def moments(self) -> tuple[Float[np.ndarray, "case entry"], Float[np.ndarray, " entry"]]:
        """Means and variances."""
        return self._mean, self._band * self._law.variance()

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
