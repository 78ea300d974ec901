"""Laws of standardised fields: draws and densities.

`GaussianModel` has closed forms for all of them, `DiffusionModel` runs noise backwards with a score.
"""

from __future__ import annotations

import abc
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
import torch

from nearfield.conditional import Conditional, GaussianConditional, SampledConditional, UnsupportedError
from nearfield.graph import DependencyGraph
from nearfield.module import Module
from nearfield.noise import Stream
from nearfield.sampling.base import Sampler
from nearfield.sampling.device import usable_device
from nearfield.sampling.likelihood import FlowDensity
from nearfield.sampling.sampler import default_sampler
from nearfield.sampling.tiled import OnTile, TiledDraws
from nearfield.score.base import Score
from nearfield.score.censored import censored_log_prob
from nearfield.score.evidence import Evidence
from nearfield.score.field import GaussianField
from nearfield.score.leave_one_out import observed_log_prob
from nearfield.score.predictive import PredictiveField
from nearfield.score.switch import SwitchedScore
from nearfield.score.tiled import TiledScore, extended_score, is_tiled

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = [
    "DiffusionModel",
    "Distribution",
    "GaussianModel",
]


_LARGEST_ERROR = 1.0
"""Nats of error of a log-density from which on it is warned of."""


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
            drawn = self._started(sampler or self.default_sampler()).sample(
                self.score,
                n_samples,
                seed=seed,
                dtype=torch.float64,
                device=usable_device(device),
                batch_size=batch_size,
                progress=progress,
            )
        return drawn.cpu().numpy()

    def _started(self, sampler: Sampler) -> Sampler:
        """Return the sampler from where it starts."""
        return sampler

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
    start : float, optional
        OU time from which on the field is the law of the noised data: draws start there, from exact draws of the field,
        and the score is read at later times only.
    """

    settings: ClassVar[tuple[str, ...]] = ("largest_eigenvalue", "start")

    def __init__(
        self,
        score: Score,
        largest_eigenvalue: float = 1.0,
        field: GaussianField | None = None,
        start: float | None = None,
    ) -> None:
        super().__init__()
        self.score, self.field = score, field
        self.start = start
        self.largest_eigenvalue = float(largest_eigenvalue)

    def _started(self, sampler: Sampler) -> Sampler:
        times, field = sampler.schedule.times, self.field
        if self.start is None or field is None or not times[0] > self.start > times[-1]:
            return sampler
        return sampler.started(self.start, lambda seed, member: field.sample(1, seed=seed, first_member=member)[0])

    def sample_tiles(
        self,
        members: Sequence[int],
        *,
        seed: int,
        sampler: Sampler | None = None,
        device: str = "cpu",
        client: Any = None,
        on_tile: OnTile | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Float[np.ndarray, "member vertex channel"] | None:
        """Draw members tile by tile, here or on workers, as `sample` draws them with the same score.

        Arguments are those of `sample` and of `nearfield.sampling.tiled.TiledDraws`.

        Raises
        ------
        ValueError
            If the law is not on a lattice that is tiled.
        """
        if not isinstance(self.score, TiledScore):
            raise ValueError(f"sample_tiles needs a TiledScore, got {type(self.score).__name__}; give sample")
        draws = TiledDraws(self.score, self._started(sampler or self.default_sampler()), seed, device=device)
        return draws.sample(members, client=client, on_tile=on_tile, progress=progress)

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

    def extended(
        self, graph: DependencyGraph, onto: DependencyGraph, field: GaussianField | None = None
    ) -> DiffusionModel:
        """Return the same law on a larger lattice, its score tile by tile where that is large.

        There a `SwitchedScore` leaves the strongest noise to exact draws of its field, and all other levels to the
        network. The ``field`` is that on the larger lattice, if it is known; none is made where axes become periodic.
        """
        score, small, start, both = self.score, self.field, self.start, self.score
        if isinstance(both, SwitchedScore) and is_tiled(both.hybrid, graph, onto):
            score, small, start = both.hybrid, both.field, both.handover
        if field is None and small is not None and graph.lattice and onto.lattice:
            alike = graph.lattice.periodic == onto.lattice.periodic
            field = small.extended(graph, onto) if alike else None
        start = None if field is None else start
        return DiffusionModel(extended_score(score, graph, onto), self.largest_eigenvalue, field, start)
