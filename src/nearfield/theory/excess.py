"""How far a denoiser is from the exact one, in nats."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from nearfield.noise import Stream, normals
from nearfield.process import noise_scale, signal_scale, time_of

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray
    from numpy.typing import ArrayLike

    Denoiser = Callable[[Float[ndarray, "sample vertex channel"], float], ArrayLike]

__all__ = ["Excess", "ExcessReference", "excess_risk"]

_LEVELS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)  # noise-to-signal ratios, a factor 2 apart


@final
@dataclass(frozen=True)
class Excess:
    r"""Excess risk of a denoiser, :math:`\ln 2 \sum_\sigma E|D - D^*|^2 / (d\,\sigma^2)`.

    Attributes
    ----------
    value : float
        Nats per dimension.
    error : float
        Its standard error over the samples, which carry the same noise in every denoiser's turn.
    by_level : tuple of (float, float)
        Noise-to-signal ratio, and its term of the sum (without ln 2).
    """

    value: float
    error: float
    by_level: tuple[tuple[float, float], ...]


@final
@dataclass(frozen=True)
class ExcessReference:
    r"""Noised truth and the exact denoiser's answer, computed once for all denoisers to be compared.

    The sum over the noise-to-signal ratios .1, .2, .4, .8, 1.6 and 3.2 is the midpoint rule, in :math:`\ln\sigma`, for
    :math:`\int E|D - D^*|^2 \sigma^{-3} d\sigma / d`, the cost of a wrong score by (3.10) of arXiv 2505.04417.

    Attributes
    ----------
    noised : (level, sample, vertex, channel)
        States :math:`x_t = a x + s \xi` at :math:`t = \ln(1+\sigma^2)/2`.
    exact : (level, sample, vertex, channel)
        The exact denoiser of them.

    Examples
    --------
    >>> from nearfield.datasets import AutoregressiveChain
    >>> law = AutoregressiveChain(0.8, 16)
    >>> reference = ExcessReference.prepare(law.denoise, law.sample(50, random_state=0), seed=1)
    >>> reference.excess(law.denoise).value
    0.0
    >>> independent = reference.excess(AutoregressiveChain(0.0, 16).denoise)
    >>> bool(independent.value > 0.3)
    True
    """

    noised: Float[ndarray, "level sample vertex channel"]
    exact: Float[ndarray, "level sample vertex channel"]

    @classmethod
    def prepare(cls, exact: Denoiser, x: Float[ndarray, "sample vertex channel"], *, seed: int = 0) -> ExcessReference:
        """Noise the samples and denoise them exactly.

        Parameters
        ----------
        exact : callable
            The exact denoiser, of the state and the OU time: `SolvedTarget.denoise`.
        x : ndarray, (sample, vertex, channel)
            Fresh draws of the true law, standardised: in the units that `exact` takes.
        seed : int
            Names the noise, which is a function of seed, level and sample.

        Returns
        -------
        ExcessReference
            To be shared by all denoisers.

        Raises
        ------
        ValueError
            If there are fewer than 2 samples, too few for a standard error.
        """
        if x.ndim != 3 or len(x) < 2:
            raise ValueError(f"x must have shape (sample, vertex, channel) with 2 samples or more, got {x.shape}")
        noised = np.empty((len(_LEVELS), *x.shape))
        for level, t in enumerate(_times()):
            xi = normals(seed, Stream.EVALUATION, range(len(x)), level, *x.shape[1:])
            noised[level] = signal_scale(t) * x + noise_scale(t) * xi
        return cls(noised, np.stack([np.asarray(exact(z, t)) for z, t in zip(noised, _times(), strict=True)]))

    def excess(self, denoise: Denoiser) -> Excess:
        """Measure a denoiser, called once per level with all samples.

        Parameters
        ----------
        denoise : callable
            Of the state (ndarray, float64) and the OU time; an array, or a tensor without gradient, of the same shape.

        Returns
        -------
        Excess
            0 for the exact denoiser.

        Raises
        ------
        ValueError
            If the denoiser's answer has another shape than the state.
        """
        terms = np.empty(self.exact.shape[:2])
        for level, (sigma, t) in enumerate(zip(_LEVELS, _times(), strict=True)):
            denoised = np.asarray(denoise(self.noised[level], t), dtype=np.float64)
            if denoised.shape != self.exact[level].shape:
                raise ValueError(f"denoise must keep the shape {self.exact[level].shape}, got {denoised.shape}")
            terms[level] = np.mean((denoised - self.exact[level]) ** 2, axis=(1, 2)) / sigma**2
        each = math.log(2) * terms.sum(axis=0)
        return Excess(
            value=float(each.mean()),
            error=float(each.std(ddof=1) / math.sqrt(len(each))),
            by_level=tuple((sigma, float(term.mean())) for sigma, term in zip(_LEVELS, terms, strict=True)),
        )


def excess_risk(
    denoise: Denoiser, exact: Denoiser, x: Float[ndarray, "sample vertex channel"], *, seed: int = 0
) -> float:
    """Excess risk of one denoiser, nats per dimension; for several share an `ExcessReference`.

    Parameters
    ----------
    denoise, exact : callable
        The denoiser and the exact one, each of the state and the OU time.
    x : ndarray, (sample, vertex, channel)
        Fresh draws of the true law, standardised.
    seed : int
        Names the noise.

    Returns
    -------
    float
        ``Excess.value``.

    Examples
    --------
    >>> from nearfield.datasets import AutoregressiveChain
    >>> law = AutoregressiveChain(0.8, 16)
    >>> excess_risk(law.denoise, law.denoise, law.sample(50, random_state=0))
    0.0
    """
    return ExcessReference.prepare(exact, x, seed=seed).excess(denoise).value


def _times() -> tuple[float, ...]:
    return tuple(time_of(sigma) for sigma in _LEVELS)
