r"""The forward process, and the grids of times on which it is run backwards.

There is one forward process, the Ornstein-Uhlenbeck process (2.1) of arXiv 2505.04417,

.. math:: dX_t = -X_t\,dt + \sqrt 2\,dW_t, \qquad X_0 \sim p_0,

so that, by (2.5), :math:`x_t = a\,x_0 + s\,\xi` with :math:`a = e^{-t}`, :math:`s^2 = 1 - e^{-2t}` and standard noise
:math:`\xi`. Everywhere in the library ``t`` is this OU time: 0 at the data, large at the noise. Other "noise schedules"
are the same process on another clock: :math:`dX = -\tfrac\beta2 X\,du + \sqrt\beta\,dW` has
:math:`t = \tfrac12\int\beta\,du`, and variance-exploding diffusion is the process of :math:`x_t / a`, whose noise has
the standard deviation :math:`\sigma = s/a`. A schedule is therefore a decreasing grid of OU times.

Each function of time takes a float or a tensor and returns the same kind.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, TypeVar, final

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = [
    "Schedule",
    "denoised_from_score",
    "log_snr",
    "noise_scale",
    "noise_to_signal",
    "per_sample",
    "score_from_denoised",
    "signal_scale",
    "time_of",
    "time_of_log_snr",
]

Number = TypeVar("Number", float, Tensor, float | Tensor)


def signal_scale(t: Number) -> Number:
    """Scale of the signal at time `t`, :math:`a = e^{-t}` of (2.5), arXiv 2505.04417.

    Examples
    --------
    >>> signal_scale(0.0)
    1.0
    """
    return torch.exp(-t) if isinstance(t, Tensor) else math.exp(-t)


def noise_scale(t: Number) -> Number:
    r"""Scale of the noise at time `t`, :math:`s = \sqrt{1 - e^{-2t}}` of (2.5), arXiv 2505.04417.

    It has full relative precision however small `t` is.

    Examples
    --------
    >>> noise_scale(0.5e-20)
    1e-10
    """
    return torch.sqrt(-torch.expm1(-2 * t)) if isinstance(t, Tensor) else math.sqrt(-math.expm1(-2 * t))


def noise_to_signal(t: Number) -> Number:
    r"""Noise-to-signal ratio at time `t`, :math:`\sigma = s/a = \sqrt{e^{2t} - 1}`.

    Examples
    --------
    >>> noise_to_signal(time_of(0.02))
    0.02
    """
    return noise_scale(t) / signal_scale(t)


def time_of(sigma: Number) -> Number:
    r"""Time at which the noise-to-signal ratio is `sigma`, :math:`t = \tfrac12 \ln(1 + \sigma^2)`.

    Examples
    --------
    >>> round(time_of(80.0), 4)
    4.3821
    """
    return torch.log1p(sigma**2) / 2 if isinstance(sigma, Tensor) else math.log1p(sigma**2) / 2


def log_snr(t: Number) -> Number:
    r"""Logarithm of the signal-to-noise ratio at time `t`, :math:`\ln(a^2/s^2) = -2 \ln \sigma`; infinite at 0.

    Examples
    --------
    >>> round(log_snr(1e-6), 3), round(log_snr(10.0), 3)
    (13.122, -20.0)
    """
    if isinstance(t, Tensor):
        return -2 * t - torch.log(-torch.expm1(-2 * t))
    return -2 * t - math.log(-math.expm1(-2 * t)) if t > 0 else math.inf


def time_of_log_snr(value: Number) -> Number:
    r"""Time at which the log signal-to-noise ratio is `value`, :math:`t = \tfrac12 \ln(1 + e^{-\text{value}})`.

    Examples
    --------
    >>> round(time_of_log_snr(log_snr(3.0)), 12)
    3.0
    """
    if isinstance(value, Tensor):
        return (torch.clamp(-value, min=0) + torch.log1p(torch.exp(-torch.abs(value)))) / 2
    return (max(-value, 0.0) + math.log1p(math.exp(-abs(value)))) / 2


def per_sample(t: Number) -> Number:
    """Shape `t` to combine with a state: one time per sample becomes ``(sample, 1, 1)``, other values are unchanged.

    Examples
    --------
    >>> per_sample(torch.ones(5)).shape
    torch.Size([5, 1, 1])
    """
    return t[:, None, None] if isinstance(t, Tensor) and t.ndim == 1 else t


def score_from_denoised(
    x: Float[Tensor, "sample vertex channel"],
    denoised: Float[Tensor, "sample vertex channel"],
    t: float | Float[Tensor, "*sample"],
) -> Float[Tensor, "sample vertex channel"]:
    r"""Score from the denoiser, by Tweedie's formula: :math:`\nabla\log p_t(x) = (a\,E[x_0|x_t] - x)/s^2`.

    Examples
    --------
    A standard Gaussian keeps its law, with score -x and denoiser a x:

    >>> x = torch.ones(1, 1, 1, dtype=torch.float64)
    >>> round(score_from_denoised(x, signal_scale(0.3) * x, 0.3).item(), 12)
    -1.0
    """
    t = per_sample(t)
    return (signal_scale(t) * denoised - x) / noise_scale(t) ** 2


def denoised_from_score(
    x: Float[Tensor, "sample vertex channel"],
    score: Float[Tensor, "sample vertex channel"],
    t: float | Float[Tensor, "*sample"],
) -> Float[Tensor, "sample vertex channel"]:
    r"""Denoiser from the score by Tweedie's formula, :math:`E[x_0|x_t = x] = (x + s^2\,\nabla\log p_t(x))/a`.

    Examples
    --------
    >>> x = torch.ones(1, 1, 1, dtype=torch.float64)
    >>> round(denoised_from_score(x, -x, 0.3).item() / signal_scale(0.3), 12)
    1.0
    """
    t = per_sample(t)
    return (x + noise_scale(t) ** 2 * score) / signal_scale(t)


@final
@dataclass(frozen=True, repr=False)
class Schedule:
    """Decreasing OU times at which the reverse process is discretised, noise first (2.4), arXiv 2505.04417.

    Parameters
    ----------
    times : tuple of float
        OU times, at least two, strictly decreasing, none below 0. If the last is above 0, samplers denoise there.

    Raises
    ------
    ValueError
        If there are fewer than two times, or they are not finite, not decreasing or negative.

    Examples
    --------
    >>> Schedule((2.0, 1.0, 0.0)).steps
    2
    """

    times: tuple[float, ...]

    def __post_init__(self) -> None:
        times = tuple(float(t) for t in self.times)
        object.__setattr__(self, "times", times)
        if len(times) < 2:
            raise ValueError(f"times must be at least two, got {len(times)}")
        if not all(math.isfinite(t) for t in times):
            raise ValueError(f"times must be finite, got {next(t for t in times if not math.isfinite(t))}")
        if times[-1] < 0:
            raise ValueError(f"times must be at least 0, got {times[-1]}")
        for k, (t, following) in enumerate(pairwise(times)):
            if following >= t:
                raise ValueError(f"times must decrease from noise to data, got {t} then {following} at {k}")

    def __repr__(self) -> str:
        return f"Schedule({self.steps} steps from t = {self.times[0]:.4g} to {self.times[-1]:.4g})"

    @property
    def steps(self) -> int:
        """Number of steps: one less than the number of times."""
        return len(self.times) - 1

    @classmethod
    def ddpm(cls, steps: int = 1000, beta: tuple[float, float] = (1e-4, 0.02)) -> Schedule:
        r"""Return the linear-beta times of Ho et al. (arXiv 2006.11239, section 4), the paper's grid; they end at 0.

        :math:`t_k = \tfrac12\sum_{i \le k} \beta_i`, with :math:`\beta_i` rising linearly between the two numbers
        `beta`, scaled by 1000/steps so that any number of steps reaches the same noise (5.025 for the default).

        Raises
        ------
        ValueError
            If `steps` is below 1 or a beta is not above 0.

        Examples
        --------
        >>> round(Schedule.ddpm().times[0], 6), Schedule.ddpm().times[-2:]
        (5.025, (5e-05, 0.0))
        """
        _check_steps(steps)
        if not all(0 < b < math.inf for b in beta):
            raise ValueError(f"beta must be two finite numbers above 0, got {beta}")
        halves = (b * 1000 / steps / 2 for b in _linspace(beta[0], beta[1], steps))
        return cls(tuple(accumulate(halves, initial=0.0))[::-1])

    @classmethod
    def log_snr(cls, steps: int = 50, t_min: float = time_of(0.02), t_max: float = time_of(80.0)) -> Schedule:
        """Return times equally spaced in the log signal-to-noise ratio, that is log-spaced in sigma.

        Parameters
        ----------
        steps : int
            At least 1.
        t_min : float
            Last time, above 0; by default where the noise is 2 % of the signal.
        t_max : float
            First time, above `t_min`; by default where the noise is 80 times the signal.

        Raises
        ------
        ValueError
            If `steps` is below 1 or the times are not ``0 < t_min < t_max``.

        Examples
        --------
        >>> [round(noise_to_signal(t), 3) for t in Schedule.log_snr(2, time_of(0.01), time_of(1.0)).times]
        [1.0, 0.1, 0.01]
        """
        _check_steps(steps)
        _check_ends(t_min, t_max)
        inner = [time_of_log_snr(v) for v in _linspace(log_snr(t_max), log_snr(t_min), steps + 1)[1:-1]]
        return cls((t_max, *inner, t_min))

    @classmethod
    def karras(
        cls, steps: int = 50, rho: float = 7.0, t_min: float = time_of(0.02), t_max: float = time_of(80.0)
    ) -> Schedule:
        r"""Return times equally spaced in :math:`\sigma^{1/\rho}`, (5) of arXiv 2206.00364.

        Parameters
        ----------
        steps : int
            At least 1.
        rho : float
            Above 0; 7 is the source's, and large values tend to :meth:`log_snr`.
        t_min, t_max : float
            As in :meth:`log_snr`.

        Raises
        ------
        ValueError
            If `steps` is below 1, `rho` is not above 0 or the times are not ``0 < t_min < t_max``.

        Examples
        --------
        >>> [round(noise_to_signal(t), 3) for t in Schedule.karras(2, 1.0, time_of(0.02), time_of(80.0)).times]
        [80.0, 40.01, 0.02]
        """
        _check_steps(steps)
        _check_ends(t_min, t_max)
        if not rho > 0:
            raise ValueError(f"rho must be above 0, got {rho}")
        roots = _linspace(noise_to_signal(t_max) ** (1 / rho), noise_to_signal(t_min) ** (1 / rho), steps + 1)
        return cls((t_max, *(time_of(root**rho) for root in roots[1:-1]), t_min))


def _linspace(first: float, last: float, count: int) -> Sequence[float]:
    return [first + (last - first) * k / max(count - 1, 1) for k in range(count)]


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")


def _check_ends(t_min: float, t_max: float) -> None:
    if not 0 < t_min < t_max < math.inf:
        raise ValueError(f"t_min and t_max must be OU times with 0 < t_min < t_max, got {t_min} and {t_max}")
