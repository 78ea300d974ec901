r"""Samplers: the reverse process, from noise to data, in steps.

The diffusion (2.2) of arXiv 2505.04417, run with a score, and the ordinary differential equation of the same marginal
laws (arXiv 2011.13456, (13)) are discretised on a :class:`~nearfield.process.Schedule`. One step goes from a time
:math:`t` to the next, :math:`t' < t`. Every sampler here draws

.. math:: x_{t'} = \mu(x_t) + \delta\,\xi, \qquad \xi \sim N(0, I),

with a standard deviation :math:`\delta` that does not depend on the state; a class is its :math:`\mu` and
:math:`\delta`. In the formulas :math:`a, s, \sigma = s/a, \lambda = \ln(a/s)` belong to :math:`t`, those with a prime
to :math:`t'`, :math:`h = \lambda' - \lambda`, and :math:`D(x, t) = E[x_0 | x_t = x]`.

Order
-----
``order`` is the order of the law: on a fixed interval of times, spaced evenly in log signal-to-noise ratio, and with
the exact score of a Gaussian, the mean and the covariance of the members approach those of the continuous process
from the same initial law like ``steps ** -order``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from nearfield.process import Schedule, log_snr, noise_scale, noise_to_signal, signal_scale, time_of
from nearfield.sampling.base import Sampler, Step

if TYPE_CHECKING:
    from torch import Tensor

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
        s, s_end, a_end = noise_scale(t), noise_scale(end), signal_scale(end)
        kept, fresh = signal_scale(t - end), noise_scale(t - end)
        mean = kept * (s_end / s) ** 2 * x + a_end * (fresh / s) ** 2 * score.denoise(x, t)
        return Step(mean, s_end / s * fresh)


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

    except in the first step and in a step to time 0, where :math:`\bar D = D`. (In the stochastic solver,
    integrating the line through :math:`D_-` and :math:`D` exactly, instead of taking its middle, doubles the error of
    the covariance.)

    Parameters
    ----------
    schedule, final_denoise
        As in :class:`Sampler`.
    stochastic : bool
        Fresh noise corrects errors of the score at earlier steps, so it is the default; with a good score the
        deterministic solver needs fewer steps.

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
        ratio = noise_scale(end) / noise_scale(t)
        if not self.stochastic:
            return Step(ratio * x - signal_scale(end) * math.expm1(-h) * middle, 0.0, denoised)
        fresh = -math.expm1(-2 * h)
        mean = ratio * math.exp(-h) * x + signal_scale(end) * fresh * middle
        return Step(mean, noise_scale(end) * math.sqrt(fresh), denoised)


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
        z = x / signal_scale(t)
        slope = (z - denoised) / sigma
        euler = z + (sigma_end - sigma) * slope
        slope_end = (euler - score.denoise(signal_scale(end) * euler, end)) / sigma_end
        return Step(signal_scale(end) * (z + (sigma_end - sigma) * (slope + slope_end) / 2), 0.0)


def default_schedule(largest_eigenvalue: float = 1.0, steps: int = 50) -> Schedule:
    """Return times that suit most fields: log-spaced in sigma, from far above the data to 2 % of their unit scale.

    Parameters
    ----------
    largest_eigenvalue : float
        Of the covariance of the standardised field, at least 0. Long-range order makes it large; the initial noise must
        exceed it, so that sigma starts at max(80, 10 sqrt(`largest_eigenvalue`)).
    steps : int
        At least 1.

    Raises
    ------
    ValueError
        If `largest_eigenvalue` is negative or not finite, or `steps` below 1.

    Examples
    --------
    >>> round(noise_to_signal(default_schedule(400.0).times[0]), 6)
    200.0
    """
    if not 0 <= largest_eigenvalue < math.inf:
        raise ValueError(f"largest_eigenvalue must be a finite number, at least 0, got {largest_eigenvalue}")
    sigma = max(80.0, 10 * math.sqrt(largest_eigenvalue))
    return Schedule.log_snr(steps, time_of(0.02), time_of(sigma))


def default_sampler(largest_eigenvalue: float = 1.0, steps: int = 50) -> DPMSolver2M:
    """Return the stochastic two-step solver on :func:`default_schedule`."""
    return DPMSolver2M(default_schedule(largest_eigenvalue, steps))
