r"""Samplers: the reverse process, from noise to data, in steps.

The diffusion (2.2) of arXiv 2505.04417, run with a score, and the ordinary differential equation of the same marginal
laws (arXiv 2011.13456, (13)) are discretised on a :class:`~nearfield.process.Schedule`. One step goes from a time
:math:`t` to the next, :math:`t' < t`. Every sampler here draws

.. math:: x_{t'} = \mu(x_t) + \delta\,\xi, \qquad \xi \sim N(0, I),

with a deviation :math:`\delta` that does not depend on the state; a class is its :math:`\mu` and :math:`\delta`. In the
formulas :math:`a, s, \sigma = s/a, \lambda = \ln(a/s)` belong to :math:`t`, those with a prime to :math:`t'`,
:math:`h = \lambda' - \lambda`, and :math:`D(x, t) = E[x_0 | x_t = x]`.

Order
-----
``order`` is the order of the law: on a fixed interval of times, spaced evenly in log signal-to-noise ratio, and with
the exact score of a Gaussian, the mean and the covariance of what is generated approach those of the continuous process
started from the same law like ``steps ** -order``.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple, final

import torch
from torch import Tensor

from nearfield.noise import Stream, normals
from nearfield.process import Schedule, log_snr, noise, noise_to_signal, signal, time_of

if TYPE_CHECKING:
    from jaxtyping import Float

    from nearfield.score.base import Score

__all__ = [
    "Ancestral",
    "DPMSolver2M",
    "EulerMaruyama",
    "Heun",
    "Sampler",
    "default_sampler",
    "default_schedule",
]


class Step(NamedTuple):
    """What a step gives: the next state is ``mean + deviation * xi``.

    Attributes
    ----------
    mean
        Mean of the next state, given the present one.
    deviation
        Standard deviation of the fresh noise; 0 draws none.
    memory
        What the next step is to be given of this one, of the shape of `mean`, or None.
    """

    mean: Tensor
    deviation: float
    memory: Tensor | None = None


@dataclass(frozen=True)
class Sampler(abc.ABC):
    """A discretisation of the reverse process.

    Parameters
    ----------
    schedule
        Times of the steps.
    final_denoise
        Whether to end with :math:`E[x_0|x_t]` at the last time when that is above 0, rather than with a state that
        still has the noise of that time.
    """

    schedule: Schedule
    final_denoise: bool = True

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
        score
            Score of the field.
        x
            State at time ``schedule.times[k]``.
        k
            Number of the step, in ``range(schedule.steps)``.
        memory
            What the step before handed on; None in the first.

        Returns
        -------
        Step
            Mean and deviation of the next state, and what to hand on.
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
        gradient: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Float[Tensor, "sample vertex channel"]:
        """Generate members, starting from standard noise.

        Member m is a function of the seed and of m: it does not depend on how many are drawn, nor on the batches,
        except where the score itself rounds differently (matrix products do). The noise is the same to the last bit.

        Parameters
        ----------
        score
            Score of the field, on `device`.
        n_samples
            Number of members, at least 1.
        seed
            In [0, 2**64), from :func:`~nearfield.noise.seed_of`.
        first_member
            Number of the first member, at least 0: an ensemble is continued from where another ended.
        batch_size
            Number of members to work on at once, at least 1; None for all of them.
        dtype
            Floating-point type of the state. The noise is drawn in float64 and converted.
        device
            Where the state lives.
        gradient
            Whether to keep the graph of the computation, to differentiate the members by a parameter of the score.
        progress
            Called after each step of each batch with the number of steps done and to be done.

        Returns
        -------
        Tensor
            Members, of shape ``(n_samples, vertex, channel)``.

        Raises
        ------
        ValueError
            When a number is out of its range.
        """
        if n_samples < 1:
            raise ValueError(f"n_samples must be at least 1, got {n_samples}: ask for one member or more")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}: None works on all members at once")
        if not dtype.is_floating_point:
            raise ValueError(f"dtype must be a floating-point type, got {dtype}: use torch.float32 or torch.float64")
        members = range(first_member, first_member + n_samples)
        size = batch_size or n_samples
        batches = [members[i : i + size] for i in range(0, n_samples, size)]
        total = len(batches) * self.schedule.steps

        def draw(stream: Stream, batch: range, k: int) -> Tensor:
            xi = normals(seed, stream, batch, k, score.n_vertices, score.n_channels)
            return torch.from_numpy(xi).to(device, dtype)

        done = []
        with torch.set_grad_enabled(gradient):
            for i, batch in enumerate(batches):
                x, memory = draw(Stream.INITIAL, batch, 0), None
                for k in range(self.schedule.steps):
                    x, deviation, memory = self.step(score, x, k, memory)
                    if deviation > 0:
                        x = x + deviation * draw(Stream.STEP, batch, k)
                    if progress is not None:
                        progress(i * self.schedule.steps + k + 1, total)
                done.append(self._finish(score, x))
            return torch.cat(done)

    def push_forward(
        self,
        score: Score,
        mean: Float[Tensor, " dimension"] | None = None,
        cov: Float[Tensor, "dimension dimension"] | None = None,
    ) -> tuple[Float[Tensor, " dimension"], Float[Tensor, "dimension dimension"]]:
        """Compute the exact mean and covariance of what the sampler generates, for a score that is affine in the state.

        Each step is then an affine map, known from the images of the origin and of the basis, plus noise. The law is
        carried through the steps, jointly with what a step hands on to the next. No Monte Carlo: this is the limit of
        an infinite ensemble. The matrices are dense, so it is for fields of hundreds of values, and works on the CPU.

        Parameters
        ----------
        score
            A score affine in the state, as all the Gaussian ones are. That it is affine is not checked.
        mean, cov
            Law of the state at the first time, over the field's values with vertices slow and channels fast; standard
            noise by default, as in :meth:`sample`.

        Returns
        -------
        mean, cov
            Law of the members, float64.

        Examples
        --------
        White noise stays white noise:

        >>> from nearfield.process import per_sample
        >>> from nearfield.score.base import Score
        >>> class White(Score):
        ...     n_vertices, n_channels, radius = 2, 1, 0
        ...     def forward(self, x, t):
        ...         return signal(per_sample(t)) * x
        >>> sampler = Heun(default_schedule(steps=200), final_denoise=False)
        >>> mean, cov = sampler.push_forward(White())
        >>> cov.round(decimals=2) + 0
        tensor([[1., 0.],
                [0., 1.]], dtype=torch.float64)
        """
        d = score.n_vertices * score.n_channels
        mean = torch.zeros(d, dtype=torch.float64) if mean is None else mean.to(torch.float64)
        cov = torch.eye(d, dtype=torch.float64) if cov is None else cov.to(torch.float64)

        def field(values: Tensor) -> Tensor:
            return values.reshape(-1, score.n_vertices, score.n_channels)

        with torch.no_grad():
            for k in range(self.schedule.steps):
                # The leading d columns are the state; the rest, if any, are what the step before handed on.
                probes = _probes(len(mean))
                memory = field(probes[:, d:]) if len(mean) > d else None
                image, deviation, memory = self.step(score, field(probes[:, :d]), k, memory)
                images = image if memory is None else torch.cat([image.flatten(1), memory.flatten(1)], 1)
                mean, cov = _affine_image(images.flatten(1), mean, cov)
                cov[:d, :d].diagonal().add_(deviation**2)
            images = self._finish(score, field(_probes(d)))
            return _affine_image(images.flatten(1), mean[:d], cov[:d, :d])

    def _finish(self, score: Score, x: Tensor) -> Tensor:
        t = self.schedule.times[-1]
        return score.denoise(x, t) if self.final_denoise and t > 0 else x


def _probes(d: int) -> Float[Tensor, "d+1 d"]:
    """Return the origin and the basis, as rows."""
    return torch.cat([torch.zeros(1, d, dtype=torch.float64), torch.eye(d, dtype=torch.float64)])


def _affine_image(images: Float[Tensor, "d+1 e"], mean: Tensor, cov: Tensor) -> tuple[Tensor, Tensor]:
    """Push a law through the affine map that takes the probes to these images."""
    offset, slope = images[0], images[1:] - images[0]
    return mean @ slope + offset, slope.T @ cov @ slope


@final
@dataclass(frozen=True)
class EulerMaruyama(Sampler):
    r"""The paper's sampler, (2.4) of arXiv 2505.04417: the score is read at the start of the step.

    .. math:: \mu = x_t + \Delta\,(x_t + 2\,\nabla\log p_t(x_t)), \quad \delta = \sqrt{2\Delta}, \quad \Delta = t - t'.

    Steps must be short, :math:`\Delta \ll s^2`: with :meth:`~nearfield.process.Schedule.ddpm`, 1000 of them.

    Examples
    --------
    >>> EulerMaruyama(Schedule.ddpm()).schedule.steps
    1000
    """

    order: ClassVar[int] = 1

    def step(self, score: Score, x: Tensor, k: int, memory: Tensor | None) -> Step:  # noqa: ARG002, D102
        t, end = self.schedule.times[k : k + 2]
        length = t - end
        return Step(x + length * (x + 2 * score.score(x, t)), math.sqrt(2 * length))


@final
@dataclass(frozen=True)
class Ancestral(Sampler):
    r"""Ancestral sampling of Ho et al. (arXiv 2006.11239, (6)-(7)), with the posterior's variance.

    Draws from the exact :math:`q(x_{t'} | x_t, x_0)`, with the denoised state for :math:`x_0`:

    .. math:: \mu = \frac{b\,s'^2}{s^2}\,x_t + \frac{a'(1 - b^2)}{s^2}\,D(x_t, t), \qquad
              \delta = \frac{s'}{s}\sqrt{1 - b^2}, \qquad b = a/a'.

    A last time of 0 gives :math:`D` itself.

    Examples
    --------
    >>> Ancestral(Schedule.log_snr(200)).order
    1
    """

    order: ClassVar[int] = 1

    def step(self, score: Score, x: Tensor, k: int, memory: Tensor | None) -> Step:  # noqa: ARG002, D102
        t, end = self.schedule.times[k : k + 2]
        kept, fresh = signal(t - end), noise(t - end)
        mean = kept * (noise(end) / noise(t)) ** 2 * x + signal(end) * (fresh / noise(t)) ** 2 * score.denoise(x, t)
        return Step(mean, noise(end) / noise(t) * fresh)


@final
@dataclass(frozen=True)
class DPMSolver2M(Sampler):
    r"""DPM-Solver++(2M) of Lu et al. (arXiv 2211.01095), two-step, one reading of the score a step.

    Deterministic (algorithm 2), on the differential equation:

    .. math:: \mu = \frac{s'}{s}\,x_t + a'(1 - e^{-h})\,\bar D, \qquad \delta = 0.

    Stochastic (section 6, SDE-DPM-Solver++(2M)), on the diffusion:

    .. math:: \mu = \frac{s'}{s}\,e^{-h} x_t + a'(1 - e^{-2h})\,\bar D, \qquad \delta = s'\sqrt{1 - e^{-2h}}.

    The denoised state is extrapolated to the middle of the step from the one before, of length :math:`h_-`:

    .. math:: \bar D = D + \frac{h}{2 h_-}(D - D_-),

    except in the first step and in a step to time 0, where :math:`\bar D = D`. (In the stochastic one,
    integrating the line through :math:`D_-` and :math:`D` exactly, instead of taking its middle, doubles the error of
    the covariance.)

    Parameters
    ----------
    schedule, final_denoise
        As in :class:`Sampler`.
    stochastic
        Which of the two. Fresh noise makes up for errors of the score at earlier steps, so it is the default; with a
        good score fewer steps do without.

    Examples
    --------
    >>> DPMSolver2M(default_schedule(steps=30), stochastic=False).order
    2
    """

    stochastic: bool = True

    order: ClassVar[int] = 2

    def step(self, score: Score, x: Tensor, k: int, memory: Tensor | None) -> Step:  # noqa: D102
        t, end = self.schedule.times[k : k + 2]
        denoised = score.denoise(x, t)
        if end == 0:
            return Step(denoised, 0.0, denoised)
        h = (log_snr(end) - log_snr(t)) / 2
        middle = denoised
        if memory is not None:
            before = (log_snr(t) - log_snr(self.schedule.times[k - 1])) / 2
            middle = denoised + h / (2 * before) * (denoised - memory)
        ratio = noise(end) / noise(t)
        if not self.stochastic:
            return Step(ratio * x - signal(end) * math.expm1(-h) * middle, 0.0, denoised)
        fresh = -math.expm1(-2 * h)
        mean = ratio * math.exp(-h) * x + signal(end) * fresh * middle
        return Step(mean, noise(end) * math.sqrt(fresh), denoised)


@final
@dataclass(frozen=True)
class Heun(Sampler):
    r"""Heun's method on the differential equation, in :math:`\sigma` (Karras et al., arXiv 2206.00364, algorithm 1).

    The equation of :math:`z = x/a` is :math:`dz/d\sigma = (z - D)/\sigma`. With its slope :math:`g` at the start and
    :math:`g'` at the end of an Euler step,

    .. math:: \mu = a'\,\bigl(z + (\sigma' - \sigma)(g + g')/2\bigr), \qquad \delta = 0,

    two readings of the score a step. A step to time 0 is Euler's, which gives :math:`D`.

    Examples
    --------
    >>> Heun(Schedule.karras(18)).order
    2
    """

    order: ClassVar[int] = 2

    def step(self, score: Score, x: Tensor, k: int, memory: Tensor | None) -> Step:  # noqa: ARG002, D102
        t, end = self.schedule.times[k : k + 2]
        denoised = score.denoise(x, t)
        if end == 0:
            return Step(denoised, 0.0)
        sigma, sigma_end = noise_to_signal(t), noise_to_signal(end)
        z = x / signal(t)
        slope = (z - denoised) / sigma
        euler = z + (sigma_end - sigma) * slope
        slope_end = (euler - score.denoise(signal(end) * euler, end)) / sigma_end
        return Step(signal(end) * (z + (sigma_end - sigma) * (slope + slope_end) / 2), 0.0)


def default_schedule(largest_eigenvalue: float = 1.0, steps: int = 50) -> Schedule:
    """Return the times that serve most fields: log-spaced in sigma, from far above the data to 2 % of their unit scale.

    Parameters
    ----------
    largest_eigenvalue
        Of the covariance of the standardised field, at least 0. Long-range order makes it large, and the noise of the
        start must drown it.
    steps
        Number of steps, at least 1.

    Returns
    -------
    Schedule
        From sigma = max(80, 10 sqrt(`largest_eigenvalue`)) to .02.

    Raises
    ------
    ValueError
        When `largest_eigenvalue` is negative or not finite, or `steps` below 1.

    Examples
    --------
    >>> round(noise_to_signal(default_schedule(400.0).times[0]), 6)
    200.0
    """
    if not 0 <= largest_eigenvalue < math.inf:
        raise ValueError(
            f"largest_eigenvalue must be a finite number, at least 0, got {largest_eigenvalue}: "
            "take it from the covariance of the standardised data"
        )
    sigma = max(80.0, 10 * math.sqrt(largest_eigenvalue))
    return Schedule.log_snr(steps, time_of(0.02), time_of(sigma))


def default_sampler(largest_eigenvalue: float = 1.0, steps: int = 50) -> DPMSolver2M:
    """Return the sampler that serves most fields: stochastic, two-step, on :func:`default_schedule`.

    Parameters
    ----------
    largest_eigenvalue, steps
        As in :func:`default_schedule`.

    Returns
    -------
    DPMSolver2M
        The sampler.

    Examples
    --------
    >>> default_sampler().stochastic
    True
    """
    return DPMSolver2M(default_schedule(largest_eigenvalue, steps))
