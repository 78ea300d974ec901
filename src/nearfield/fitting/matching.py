r"""Localized denoising score matching: the loss (3.5)-(3.7) of arXiv 2505.04417, per vertex.

The error of a score on a clean state :math:`x_0`, noised to :math:`x_t = a x_0 + s \xi`, is

.. math:: \frac{|D(x_t, t) - x_0|^2}{s^2} = |F - (s x_0 - a \xi)|^2
   = \sigma^2\,\Big|\mathrm{score}(x_t, t) + \frac{\xi}{s}\Big|^2, \qquad \sigma = s/a,

that is, the integrand of (2.6) and (3.5) times the weight :math:`\lambda(t) = \sigma^2`, under which the error of a
network that has learned nothing is the variance of the data at every level. The law of t in training is log-normal in
:math:`\sigma`, which multiplies the weight once more by its density. The weight is one function of time for all
vertices, so that the minimiser at each is still (3.11), and the loss is a sum over vertices: (3.7).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, final

import numpy as np
import torch

from nearfield._checks import keep_floats
from nearfield.noise import Stream, normals
from nearfield.process import noise_scale, per_sample, signal_scale, time_of
from nearfield.score.base import Score
from nearfield.score.hybrid import SHOWN, HybridScore, NetworkScore, levels
from nearfield.score.network import Network
from nearfield.score.window import WindowedNetwork

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

__all__ = [
    "HeldOut",
    "NoiseLevels",
    "Problem",
    "errors",
    "held_out",
    "training_draws",
    "vertex_loss",
    "window_draws",
    "window_errors",
    "window_noise",
]

LARGEST_STORE = 2**26
"""Numbers of held-out problems that are kept from check to check (256 MB in single precision)."""


@final
@dataclass(frozen=True)
class NoiseLevels:
    r"""Log-normal law of the noise-to-signal ratio :math:`\sigma` in training.

    Karras et al., "Elucidating the design space of diffusion-based generative models" (NeurIPS 2022). The default has
    its middle at .6 and nine tenths of its mass in .08 to 4.4, for data of unit variance.

    Parameters
    ----------
    center : float
        Mean of :math:`\ln\sigma`.
    spread : float
        Its standard deviation, above 0.

    Raises
    ------
    TypeError, ValueError
        If a number is none or not finite, or the spread not above 0.

    Examples
    --------
    >>> round(NoiseLevels(center=0.0).grid(1)[0], 4) == round(time_of(1.0), 4)
    True
    """

    center: float = -0.5
    spread: float = 1.2

    def __post_init__(self) -> None:
        keep_floats(self, "center", "spread")
        if not math.isfinite(self.center):
            raise ValueError(f"center must be finite, got {self.center!r}; -.5 is usual")
        if not 0 < self.spread < math.inf:
            raise ValueError(f"spread must be above 0 and finite, got {self.spread!r}; 1.2 is usual")

    def times(self, quantile: Float[Tensor, "*level"]) -> Float[Tensor, "*level"]:
        """OU times at quantiles of the law, in (0, 1)."""
        return time_of(torch.exp(self.center + self.spread * torch.special.ndtri(quantile)))

    def grid(self, n_levels: int) -> tuple[float, ...]:
        """OU times at the middles of so many equal parts of the law: an average over them is one over the law."""
        return tuple(self.times((torch.arange(n_levels, dtype=torch.float64) + 0.5) / n_levels).tolist())


def training_draws(
    levels: NoiseLevels, clean: Float[Tensor, "sample vertex channel"], generator: torch.Generator
) -> tuple[Float[Tensor, " sample"], Float[Tensor, "sample vertex channel"]]:
    """Draw a time for each sample of a batch, and one noise field for each.

    The times of a batch are spread evenly over the law of levels, one in each of as many equal parts, which takes most
    of the variance between batches away.

    Parameters
    ----------
    levels : NoiseLevels
    clean
        The batch, for its shape, dtype and device.
    generator : torch.Generator
        On the device of `clean`.

    Returns
    -------
    t : Tensor of float64, shape (sample,)
    noise : Tensor, of the shape of `clean`
    """
    noise = torch.randn(clean.shape, generator=generator, dtype=clean.dtype, device=clean.device)
    return _times(levels, len(clean), generator), noise


def window_draws(
    levels: NoiseLevels,
    clean: Float[Tensor, "sample vertex channel"],
    network: WindowedNetwork,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "sample row"], Float[Tensor, "sample row width channel"]]:
    """Draw a time and noise for each window of each sample, independent of one another: (3.8).

    Entries of a window that mirror the same vertex have the same noise. Arguments and results as in `training_draws`,
    for `window_errors`.
    """
    samples, rows = len(clean), len(network.index)
    noise = window_noise(clean, network, generator)
    return _times(levels, samples * rows, generator).reshape(samples, rows), noise


def window_noise(
    clean: Float[Tensor, "sample vertex channel"], network: WindowedNetwork, generator: torch.Generator
) -> Float[Tensor, "sample row width channel"]:
    """Draw the noise of `window_draws` alone."""
    rows, width = network.index.shape
    shape = (len(clean), rows, width, clean.shape[2])
    noise = torch.randn(shape, generator=generator, dtype=clean.dtype, device=clean.device)
    if network.padding == "reflect":
        same = network.index[:, :, None] == network.index[:, None, :]
        noise = noise[:, torch.arange(rows)[:, None], same.to(torch.uint8).argmax(dim=2)]
    return noise


def _times(levels: NoiseLevels, n: int, generator: torch.Generator) -> Float[Tensor, " n"]:
    place = torch.randperm(n, generator=generator, device=generator.device)
    inside = torch.rand(n, generator=generator, dtype=torch.float64, device=generator.device)
    return levels.times(((place + inside) / n).clamp(1e-12, 1 - 1e-12))


def errors(
    score: Score,
    clean: Float[Tensor, "sample vertex channel"],
    t: Float[Tensor, " sample"],
    noise: Float[Tensor, "sample vertex channel"],
) -> Float[Tensor, "sample vertex channel"]:
    r"""Squared errors :math:`|D(x_t, t) - x_0|^2 / s^2` of any score, with one noise field for each sample.

    Parameters
    ----------
    score : Score
    clean
        Data, without missing values.
    t
        OU times, above 0.
    noise
        Standard normal numbers.
    """
    s = per_sample(noise_scale(t)).to(clean.dtype)
    noised = per_sample(signal_scale(t)).to(clean.dtype) * clean + s * noise
    return ((score.denoise(noised, t) - clean) / s) ** 2


@final
class Problem(NamedTuple):
    r"""What a network is given, and what it should answer: all of a batch that no weight changes.

    Attributes
    ----------
    x : Tensor, shape (sample, vertex, channel)
        Noised state.
    shown : Tensor or None
        As in `Network.forward`.
    level : Tensor, shape (sample,)
        Log of the noise-to-signal ratio.
    target : Tensor, shape (sample, vertex, channel)
        :math:`s x_0 - a \xi`, less what is known without the network.
    gain : Tensor or float
        Factor of F.
    """

    x: Tensor
    shown: Tensor | None
    level: Tensor
    target: Tensor
    gain: Tensor | float

    @classmethod
    @torch.no_grad()
    def pose(
        cls,
        score: NetworkScore | HybridScore,
        clean: Float[Tensor, "sample vertex channel"],
        t: Float[Tensor, " sample"],
        noise: Float[Tensor, "sample vertex channel"],
    ) -> Problem:
        """Noise a batch; arguments as in `errors`, all of the precision of the network."""
        a, s, level = levels(clean, t)
        x, target = a * clean + s * noise, s * clean - a * noise
        given = score.given(x, t)
        return cls(x, given.shown, level.to(x), target - given.known, given.gain)

    def errors(self, network: Callable[..., Tensor], bfloat16: bool = False) -> Float[Tensor, "sample vertex channel"]:
        """Squared errors of a network, computed in bfloat16 or not; those of `errors` for the score made of it."""
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            f = network(self.x, self.shown, self.level)
        return (self.gain * f.to(self.target) - self.target) ** 2


def window_errors(
    network: WindowedNetwork,
    clean: Float[Tensor, "sample vertex channel"],
    t: Float[Tensor, "sample #row"],
    noise: Float[Tensor, "sample row width channel"],
) -> Float[Tensor, "sample row channel"]:
    r"""Squared errors :math:`|F - (s x_0 - a \xi)|^2` at the centres of windows with noise and times of their own.

    With windows of one noise field, ``network.windows(noise)``, these are the errors of that field; so can the vertices
    of a block be trained without the others.

    Parameters
    ----------
    network : WindowedNetwork
        Shown nothing but the state.
    clean
        Data, without missing values.
    t
        OU times, above 0, of each window or ``(sample, 1)``.
    noise
        Standard normal numbers.
    """
    a, s = (scale(t).to(clean.dtype)[..., None] for scale in (signal_scale, noise_scale))
    windows = network.windows(clean)
    level = (torch.log(noise_scale(t)) + t).to(clean.dtype)
    f = network.on_windows(a[..., None] * windows + s[..., None] * noise, None, level)
    return (f - (s * windows[:, :, 0] - a * noise[:, :, 0])) ** 2


def vertex_loss(squared: Float[Tensor, "sample vertex channel"]) -> Float[Tensor, " vertex"]:
    """Loss of each vertex, (3.6): the mean over the samples. Their sum is (3.7), for networks of a vertex each."""
    return squared.mean(dim=2).mean(dim=0)


@torch.no_grad()
def held_out(
    score: Score,
    clean: Float[Tensor, "sample vertex channel"],
    times: Sequence[float],
    *,
    seed: int,
    stream: Stream = Stream.TRAINING,
    batch_size: int = 256,
) -> Float[np.ndarray, "level sample"]:
    """Loss at fixed times with fixed noise, the same numbers at every call and for every score.

    Differences between scores, and between epochs, are then differences of the scores.

    Parameters
    ----------
    score : Score
    clean
        Data not trained on, without missing values.
    times : sequence of float
        OU times, above 0; `NoiseLevels.grid` gives those that stand for the law of training.
    seed, stream
        Of the noise; by default it is that by which training is stopped.
    batch_size : int
        Samples evaluated at once; the result does not depend on it.

    Returns
    -------
    ndarray of float64, shape (level, sample)
        Mean over vertices and channels.
    """
    loss = np.empty((len(times), len(clean)))
    for level, part, t, noise in fixed_draws(clean, times, seed, batch_size, stream):
        each = errors(score, clean[part], t, noise).double().mean(dim=2)
        loss[level, part] = each.mean(dim=1).cpu().numpy()
    return loss


@final
class HeldOut:
    """The same loss for a network whose weights change: what `held_out` computes anew at every call is kept.

    Parameters
    ----------
    score : NetworkScore or HybridScore
        What the network is shown.
    clean, times, seed, batch_size
        As in `held_out`. Above `LARGEST_STORE` numbers nothing is kept.
    """

    def __init__(
        self,
        score: NetworkScore | HybridScore,
        clean: Float[Tensor, "sample vertex channel"],
        times: Sequence[float],
        *,
        seed: int,
        batch_size: int = 256,
    ) -> None:
        self._score, self._clean = score, clean
        self._times, self._seed, self._batch_size = tuple(times), seed, batch_size
        numbers = len(self._times) * clean.numel() * (2 if isinstance(score, NetworkScore) else 2 + SHOWN)
        self._kept = list(self._problems()) if numbers <= LARGEST_STORE else None

    @torch.no_grad()
    def loss(self, network: Network, bfloat16: bool = False) -> Float[np.ndarray, " sample"]:
        """Return the mean of `held_out` over the times, for the score made of this network."""
        total = torch.zeros(self._clean.shape[:2], dtype=torch.float64, device=self._clean.device)
        for part, problem in self._problems() if self._kept is None else self._kept:
            total[part] += problem.errors(network, bfloat16).double().mean(dim=2)
        return (total / len(self._times)).mean(dim=1).cpu().numpy()

    def _problems(self) -> Iterator[tuple[slice, Problem]]:
        for _, part, t, noise in fixed_draws(self._clean, self._times, self._seed, self._batch_size):
            yield part, Problem.pose(self._score, self._clean[part], t, noise)


def fixed_draws(
    clean: Float[Tensor, "sample vertex channel"],
    times: Sequence[float],
    seed: int,
    batch_size: int,
    stream: Stream = Stream.TRAINING,
) -> Iterator[tuple[int, slice, Float[Tensor, " some"], Float[Tensor, "some vertex channel"]]]:
    """Level, samples, times and noise of each batch of the held-out loss; a function of seed, sample and level."""
    n, vertices, channels = clean.shape
    for level, time in enumerate(times):
        for start in range(0, n, batch_size):
            members = range(start, min(start + batch_size, n))
            noise = torch.from_numpy(normals(seed, stream, members, level, vertices, channels)).to(clean)
            t = torch.full((len(members),), time, dtype=torch.float64, device=clean.device)
            yield level, slice(start, members.stop), t, noise
