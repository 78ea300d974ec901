"""The contract of samplers: steps of the reverse process, draws of an ensemble by them, and its exact law."""

from __future__ import annotations

import abc
import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from nearfield.noise import Stream, normals
from nearfield.process import Schedule, noise_scale, signal_scale

if TYPE_CHECKING:
    from jaxtyping import Float

    from nearfield.score.base import Score

__all__ = ["BYTES", "MEMORY", "Sampler", "Step", "on_device"]

MEMORY = 2**30
"""Approximate bytes for denoising a batch, where no size is given: larger batches are hardly faster."""
BYTES = 8
"""Bytes of a number: the noise is in double precision, and states may be."""


class Step(NamedTuple):
    """Result of a step: the next state is ``mean + std * xi`` with standard noise xi.

    Attributes
    ----------
    mean : Tensor
        Mean of the next state, given the present one.
    std : float
        Standard deviation of the fresh noise; 0 draws none.
    memory : Tensor or None
        Input of the next step from this one, of the shape of `mean`.
    """

    mean: Tensor
    std: float
    memory: Tensor | None = None


@dataclass(frozen=True)
class Sampler(abc.ABC):
    """A discretisation of the reverse process.

    Parameters
    ----------
    schedule : Schedule
        Times of the steps.
    final_denoise : bool
        Whether to end with :math:`E[x_0|x_t]` at the last time when that is above 0, rather than with a state that
        still has the noise of that time.
    clean : callable, optional
        Draws the field, (vertex, channel), of a member by seed and number, where the law of the state at the first time
        is known: members start from its noised state there. By default they start from noise alone.
    """

    schedule: Schedule
    final_denoise: bool = True
    clean: Callable[[int, int], np.ndarray] | None = field(default=None, kw_only=True, repr=False, compare=False)

    order: ClassVar[int]
    """Order of the law, as the module defines it."""

    @abc.abstractmethod
    def step(
        self,
        score: Score,
        x: Float[Tensor, "sample vertex channel"],
        k: int,
        memory: Float[Tensor, "sample vertex channel"] | None,
    ) -> Step:
        """Describe the step from time `k` of the schedule to the next.

        Parameters
        ----------
        score : Score
        x : Tensor
            State at time ``schedule.times[k]``.
        k : int
            Number of the step, in ``range(schedule.steps)``.
        memory : Tensor or None
            Memory of the step before; None in the first.
        """

    def sample(
        self,
        score: Score,
        n_samples: int,
        *,
        seed: int,
        first_member: int = 0,
        batch_size: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        progress: Callable[[int, int], None] | None = None,
    ) -> Float[Tensor, "sample vertex channel"]:
        """Generate members, starting from standard noise, or from noised states of the fields of `clean`.

        Member m depends on the seed and on m only, up to rounding in the score; its noise is the same to the last bit.
        Tensors of the score that require gradients get them, except under `torch.no_grad`, if they are on `device`.

        Parameters
        ----------
        score : Score
            Where it is on another device, a copy of it is moved to `device`.
        n_samples : int
            Number of members, at least 1.
        seed, first_member : int
            In [0, 2**64); an ensemble is continued from the first member's number on.
        batch_size : int, optional
            Members denoised at once, at least 1; by default as many as take about 1 GiB.
        dtype, device : torch.dtype, torch.device or str
            Of the state. The noise is drawn in float64 and converted.
        progress : callable, optional
            Called after each step of each batch with the number of steps done and their total.

        Raises
        ------
        ValueError, MemoryError
            If a number is out of its range, or memory is too small for so many members at once.
        """
        _check_sizes(n_samples, batch_size, dtype)
        score = on_device(score, device)
        size = min(batch_size or max(1, MEMORY // (BYTES * score.numbers_per_sample)), n_samples)
        batches = [range(i, min(i + size, n_samples)) for i in range(0, n_samples, size)]
        total = len(batches) * self.schedule.steps

        def noise(stream: Stream, batch: range, k: int) -> Tensor:
            members = range(first_member + batch.start, first_member + batch.stop)
            xi = normals(seed, stream, members, k, score.n_vertices, score.n_channels)
            return torch.from_numpy(xi).to(device, dtype)

        with _named_out_of_memory(size):
            out = torch.empty(n_samples, score.n_vertices, score.n_channels, dtype=dtype, device=device)
            for i, batch in enumerate(batches):
                x, memory = noise(Stream.INITIAL, batch, 0), None
                if self.clean is not None:
                    fields = np.stack([self.clean(seed, first_member + member) for member in batch])
                    x = self.noised(torch.from_numpy(fields).to(x), x)
                for k in range(self.schedule.steps):
                    x, std, memory = self.step(score, x, k, memory)
                    if std > 0:
                        x = x + std * noise(Stream.STEP, batch, k)
                    if progress is not None:
                        progress(i * self.schedule.steps + k + 1, total)
                out[batch.start : batch.stop] = self.finish(score, x)
            return out

    def noised(self, clean: Tensor, noise: Tensor) -> Tensor:
        """Return the state of clean fields at the first time."""
        t = self.schedule.times[0]
        return signal_scale(t) * clean + noise_scale(t) * noise

    def started(self, time: float, clean: Callable[[int, int], np.ndarray]) -> Self:
        """Return the sampler that starts at a time within the schedule, from the noised states of clean fields."""
        later = tuple(t for t in self.schedule.times if t < time)
        return replace(self, schedule=Schedule((time, *later)), clean=clean)

    def push_forward(
        self,
        score: Score,
        mean: Float[Tensor, " dimension"] | None = None,
        cov: Float[Tensor, "dimension dimension"] | None = None,
    ) -> tuple[Float[Tensor, " dimension"], Float[Tensor, "dimension dimension"]]:
        """Compute the exact mean and covariance of the members, for a score that is affine in the state.

        Each step is then an affine map, known from the images of the origin and of the basis, plus noise. The law of
        the state and the memory is carried through the steps without Monte Carlo. The matrices are dense and on the
        CPU, so the method suits fields of hundreds of values.

        Parameters
        ----------
        score : Score
            Affine in the state, as all the Gaussian ones are; this is not checked.
        mean, cov : Tensor, optional
            Law of the state at the first time, over the field's values with vertices slow and channels fast; standard
            noise by default, as in :meth:`sample`.

        Returns
        -------
        mean, cov : Tensor
            Law of the members, float64.

        Examples
        --------
        White noise stays white noise:

        >>> from nearfield.process import per_sample, signal_scale
        >>> from nearfield.sampling.sampler import Heun, default_schedule
        >>> from nearfield.score.base import Score
        >>> class White(Score):
        ...     n_vertices, n_channels, radius = 2, 1, 0
        ...     def forward(self, x, t):
        ...         return signal_scale(per_sample(t)) * x
        >>> sampler = Heun(default_schedule(steps=200), final_denoise=False)
        >>> mean, cov = sampler.push_forward(White())
        >>> cov.round(decimals=2) + 0
        tensor([[1., 0.],
                [0., 1.]], dtype=torch.float64)
        """
        d = score.n_vertices * score.n_channels
        mean = torch.zeros(d, dtype=torch.float64) if mean is None else mean.to(torch.float64)
        cov = torch.eye(d, dtype=torch.float64) if cov is None else cov.to(torch.float64)

        def shaped(values: Tensor) -> Tensor:
            return values.reshape(-1, score.n_vertices, score.n_channels)

        with torch.no_grad():
            for k in range(self.schedule.steps):
                # The leading d columns are the state; the rest, if any, are the memory.
                probes = _probes(len(mean))
                memory = shaped(probes[:, d:]) if len(mean) > d else None
                image, std, memory = self.step(score, shaped(probes[:, :d]), k, memory)
                images = image if memory is None else torch.cat([image.flatten(1), memory.flatten(1)], 1)
                mean, cov = _affine_image(images.flatten(1), mean, cov)
                cov[:d, :d].diagonal().add_(std**2)
            images = self.finish(score, shaped(_probes(d)))
            return _affine_image(images.flatten(1), mean[:d], cov[:d, :d])

    def finish(self, score: Score, x: Tensor) -> Tensor:
        """Return the members, given the states at the last time."""
        t = self.schedule.times[-1]
        return score.denoise(x, t) if self.final_denoise and t > 0 else x


def _check_sizes(n_samples: int, batch_size: int | None, dtype: torch.dtype) -> None:
    if n_samples < 1:
        raise ValueError(f"n_samples must be at least 1, got {n_samples}")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1 or None, got {batch_size}")
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating-point type, got {dtype}")


def on_device(score: Score, device: torch.device | str) -> Score:
    """Return the score if it is on the device, else a copy that is."""
    wanted = torch.empty(0, device=device).device
    if all(tensor.device == wanted for tensor in (*score.parameters(), *score.buffers())):
        return score
    return copy.deepcopy(score).to(wanted)


@contextmanager
def _named_out_of_memory(size: int) -> Iterator[None]:
    """Name the argument to change where memory is too small: torch has a RuntimeError for each kind of device."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        words = ("out of memory", "not enough memory", "can't allocate memory")
        if isinstance(error, RuntimeError) and not any(each in str(error).lower() for each in words):
            raise
        raise MemoryError(f"batch_size must be less than {size}: memory is too small for so many at once") from error


def _probes(d: int) -> Float[Tensor, "{d}+1 {d}"]:
    """Return the origin and the basis, as rows."""
    return torch.cat([torch.zeros(1, d, dtype=torch.float64), torch.eye(d, dtype=torch.float64)])


def _affine_image(images: Float[Tensor, "probe e"], mean: Tensor, cov: Tensor) -> tuple[Tensor, Tensor]:
    """Push a law through the affine map with these images of the probes."""
    offset, slope = images[0], images[1:] - images[0]
    return mean @ slope + offset, slope.T @ cov @ slope
