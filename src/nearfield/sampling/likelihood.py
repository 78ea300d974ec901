r"""The log-density of a score's law, by the probability flow.

The flow of the Ornstein-Uhlenbeck process has the marginal laws of the process (Song et al., arXiv 2011.13456, section
4.3). In :math:`u = \ln\sigma` it is, with the denoiser D,

.. math:: \frac{dx}{du} = a^2 x - a D(x, t), \qquad
    \log p_{t_0}(x_{t_0}) = \log p_T(x_T) + \int \Bigl(d\,a^2 - a \sum_i \frac{\partial D_i}{\partial x_i}\Bigr)\,du,

and this rate vanishes at both ends, where a or s do. States take classical fourth-order Runge-Kutta steps, equal in u;
the trace is had once a step, and its integral is that of a cubic spline. Data have no noise: from there to the smallest
noise :math:`\sigma_0` of a sampler one midpoint step leads, in :math:`\sigma^2` and :math:`y = x/a`, where the flow is
smooth: :math:`dy/d\sigma^2 = (y - D)/2\sigma^2`. At T the law is nearly standard normal: along an eigenvector of the
data's covariance with eigenvalue :math:`\lambda` its variance is that plus :math:`(\lambda - 1)/\sigma_T^2`, at most
1 %. Where a Gaussian field is the score, the flow and its volume have closed forms, and above the last network so has
the law.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, final

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from nearfield._checks import keep_counts, keep_seed
from nearfield.process import noise_to_signal, signal_scale, time_of
from nearfield.sampling.sampler import default_schedule
from nearfield.score.base import Score
from nearfield.score.divergence import Divergence, RandomSigns, exact_divergence
from nearfield.score.field import GaussianField
from nearfield.score.spectrum import FieldSpectrum
from nearfield.score.switch import SwitchedScore

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["FlowDensity", "LogDensity"]

MOST_PRODUCTS = 48
"""Most products of an exact trace for ``divergence="auto"``: the 41 colours of four hops on a plane are."""
MEMORY = 2**27
"""Approximate numbers that a batch of samples takes."""
CHECKED = 16
"""Samples with which the error of the steps is estimated."""


class LogDensity(NamedTuple):
    """Log-densities with what is known of their errors.

    Attributes
    ----------
    values : ndarray, shape (sample,)
        In nats.
    step_error : float
        Root mean square difference, in nats, to half the number of steps, over the first 16 samples; the error of the
        steps is smaller. Random signs, which differ between the two, add theirs.
    standard_error : ndarray, shape (sample,)
        Of random signs, in nats; 0 where the trace is exact.
    n_products : int
        Forward-mode products of a trace.
    """

    values: Float[np.ndarray, " sample"]
    step_error: float
    standard_error: Float[np.ndarray, " sample"]
    n_products: int


class _Piece(NamedTuple):
    """Noise levels that one score serves, in logs of the noise-to-signal ratio."""

    low: float
    high: float
    score: Score
    law: FieldSpectrum | Divergence


@final
@dataclass(frozen=True)
class FlowDensity:
    """How the density of a score's law is computed.

    Parameters
    ----------
    steps : int
        Runge-Kutta steps from the smallest noise of the sampler to its largest, at least 6.
    divergence : {"auto", "exact", "random"}
        Trace of the denoiser's Jacobian: exact, or estimated by random signs. ``"auto"`` is exact where that takes at
        most 48 products.
    n_signs : int
        Random signs at each step, at least 2, from whose differences the standard error is.
    seed : int
        Of the signs.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range, or the divergence has another name.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> white = GaussianField(sp.eye_array(3, format="csr"), np.arange(3))
    >>> FlowDensity().log_prob(white, np.zeros((1, 3, 1))).values.round(4)
    array([-2.7568])
    """

    steps: int = 30
    divergence: Literal["auto", "exact", "random"] = "auto"
    n_signs: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        keep_counts(self, "steps", "n_signs")
        keep_seed(self)
        for name, least in (("steps", 6), ("n_signs", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.divergence not in ("auto", "exact", "random"):
            raise ValueError(f'divergence must be "auto", "exact" or "random", got {self.divergence!r}')

    def log_prob(
        self, score: Score, x: Float[np.ndarray, "sample vertex channel"], largest_eigenvalue: float = 1.0
    ) -> LogDensity:
        """Return the log-density of standardised samples under the law that the score's flow makes of noise.

        Parameters
        ----------
        score : Score
        x : ndarray
        largest_eigenvalue : float
            Of the covariance of the data, which the largest noise exceeds.

        Raises
        ------
        ValueError
            If the divergence is to be exact and the score has no exact one.
        """
        states = torch.from_numpy(np.array(x, dtype=np.float64))
        score.check(states)
        pieces = self._pieces(score, largest_eigenvalue)
        if len(states) == 0:
            return LogDensity(np.zeros(0), 0.0, np.zeros(0), 0)
        n_products = max(getattr(piece.law, "n_products", 0) for piece in pieces)
        size = max(1, MEMORY // (score.numbers_per_sample * (n_products + 1)))
        with torch.no_grad():
            parts = [_integrated(pieces, states[i : i + size], i, self.steps) for i in range(0, len(states), size)]
            some = states[: min(CHECKED, size)]
            half = _integrated(pieces, some, 0, self.steps, halved=True)[0]
        values, variance = (np.concatenate(each) for each in zip(*parts, strict=True))
        step_error = float(np.sqrt(np.mean((values[: len(some)] - half) ** 2)))
        return LogDensity(values, step_error, np.sqrt(variance), n_products)

    def _pieces(self, score: Score, largest_eigenvalue: float) -> list[_Piece]:
        """Return what serves each noise level, from weak to strong noise."""
        times = default_schedule(largest_eigenvalue).times
        low, high = (math.log(noise_to_signal(t)) for t in (times[-1], times[0]))
        parts = score.experts(low, high) if isinstance(score, SwitchedScore) else [(low, high, score)]
        laws: dict[int, FieldSpectrum | Divergence] = {}
        for _, _, expert in parts:
            if id(expert) not in laws:
                laws[id(expert)] = self._law_of(expert)
        return [_Piece(start, end, expert, laws[id(expert)]) for start, end, expert in parts]

    def _law_of(self, score: Score) -> FieldSpectrum | Divergence:
        spectrum = FieldSpectrum.of(score) if isinstance(score, GaussianField) else None
        if spectrum is not None:
            return spectrum
        random = RandomSigns(score, self.n_signs, self.seed)
        if self.divergence == "random":
            return random
        exact = exact_divergence(score)
        if self.divergence == "auto":
            return random if exact is None or exact.n_products > MOST_PRODUCTS else exact
        if exact is None:
            raise ValueError(f'divergence must be "auto" or "random" for a {type(score).__name__}, got "exact"')
        return exact


def _integrated(
    pieces: list[_Piece], x: Float[Tensor, "sample vertex channel"], first: int, steps: int, *, halved: bool = False
) -> tuple[Float[np.ndarray, " sample"], Float[np.ndarray, " sample"]]:
    """Return the log-densities of some states without noise, and the variances of their estimates."""
    volume, variance, step = np.zeros(len(x)), np.zeros(len(x)), 1
    whole = pieces[-1].high - pieces[0].low
    for k, piece in enumerate(pieces):
        if isinstance(piece.law, FieldSpectrum):
            start, end = time_of(math.exp(piece.low)) if k else 0.0, time_of(math.exp(piece.high))
            if k == len(pieces) - 1:
                return volume + piece.law.log_prob(x.numpy(), start), variance
            moved, own = piece.law.transported(x.numpy(), start, end)
            x, volume = torch.from_numpy(moved), volume + own
            continue
        if k == 0:
            x, volume, variance = _from_data(piece, piece.law, x, first)
        pairs = max(2, math.ceil(steps * (piece.high - piece.low) / whole / 2 - 1e-9))
        count = pairs if halved else 2 * pairs
        x, own_volume, own_variance = _through(piece, piece.law, x, first, count, step)
        volume, variance, step = volume + own_volume, variance + own_variance, step + count + 1
    normal = -0.5 * (x.flatten(1) ** 2 + math.log(2 * math.pi)).sum(dim=1).numpy()
    return volume + normal, variance


def _from_data(piece: _Piece, divergence: Divergence, y: Tensor, first: int) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Take the step from data to the least noise; return the state, the log of the volume and its variance."""
    middle, end = time_of(math.exp(piece.low) / math.sqrt(2)), time_of(math.exp(piece.low))
    a, size = signal_scale(middle), math.prod(y.shape[1:])
    half = y + (y - piece.score.denoise(a * y, middle)) / 2
    denoised, traces = divergence(a * half, middle, first, 0)
    volume = size - a * traces + size * math.log(signal_scale(end))
    return signal_scale(end) * (y + half - denoised), *_estimates(volume[None], np.ones(1), len(y))


def _through(
    piece: _Piece, divergence: Divergence, x: Tensor, first: int, count: int, step: int
) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Take equal steps through a piece; return the state, the log of the volume and its variance."""
    nodes, size = np.linspace(piece.low, piece.high, count + 1), math.prod(x.shape[1:])
    rates = []

    def drift(state: Tensor, u: float, number: int | None = None) -> Tensor:
        t = time_of(math.exp(u))
        a = signal_scale(t)
        if number is None:
            return a**2 * state - a * piece.score.denoise(state, t)
        denoised, traces = divergence(state, t, first, step + number)
        rates.append(size * a**2 - a * traces)
        return a**2 * state - a * denoised

    for k, (u, end) in enumerate(itertools.pairwise(nodes)):
        h, middle = end - u, (u + end) / 2
        one = drift(x, u, k)
        two = drift(x + h / 2 * one, middle)
        three = drift(x + h / 2 * two, middle)
        four = drift(x + h * three, end)
        x = x + h / 6 * (one + 2 * two + 2 * three + four)
    drift(x, nodes[-1], count)
    weights = CubicSpline(nodes, np.eye(count + 1)).integrate(nodes[0], nodes[-1])
    return x, *_estimates(torch.stack(rates), weights, len(x))


def _estimates(
    rates: Float[Tensor, "node probe #sample"], weights: Float[np.ndarray, " node"], n_samples: int
) -> tuple[Float[np.ndarray, " sample"], Float[np.ndarray, " sample"]]:
    """Return the weighted sum over nodes of the means of independent estimates, and its variance."""
    values = rates.expand(*rates.shape[:2], n_samples).numpy()
    n_probes = values.shape[1]
    spread = values.var(axis=1, ddof=1) / n_probes if n_probes > 1 else np.zeros((len(values), n_samples))
    return weights @ values.mean(axis=1), weights**2 @ spread
