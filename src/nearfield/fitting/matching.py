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
from typing import TYPE_CHECKING, final

import numpy as np
import torch

from nearfield._checks import keep_floats
from nearfield.fitting.noise_map import with_missing
from nearfield.noise import Stream, normals
from nearfield.process import noise_scale, signal_scale, time_of
from nearfield.score.base import Score
from nearfield.score.hybrid import ConditionalScore, Trainable
from nearfield.score.network import Network
from nearfield.score.preconditioning import noise_level, scales
from nearfield.score.window import WindowedNetwork

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

__all__ = [
    "DenoisingBatch",
    "Gaps",
    "HeldOut",
    "NoiseLevels",
    "errors",
    "held_out",
    "present_mean",
    "training_draws",
    "vertex_loss",
    "window_noise",
]

LARGEST_STORE = 2**26
"""Numbers of held-out batches that are kept from check to check (256 MB in single precision)."""


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
        If an argument is not a finite number, or the spread is not above 0.

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
            raise ValueError(f"center must be finite, got {self.center!r}")
        if not 0 < self.spread < math.inf:
            raise ValueError(f"spread must be above 0 and finite, got {self.spread!r}")

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
    of the variance between batches away. The generator is on the device of the batch.
    """
    noise = torch.randn(clean.shape, generator=generator, dtype=clean.dtype, device=clean.device)
    n = len(clean)
    place = torch.randperm(n, generator=generator, device=clean.device)
    inside = torch.rand(n, generator=generator, dtype=torch.float64, device=clean.device)
    return levels.times(((place + inside) / n).clamp(1e-12, 1 - 1e-12)), noise


def window_noise(
    clean: Float[Tensor, "sample vertex channel"], network: WindowedNetwork, generator: torch.Generator
) -> Float[Tensor, "sample row width channel"]:
    """Draw noise for each window of each sample, one number for all entries of the same vertex."""
    rows, width = network.index.shape
    shape = (len(clean), rows, width, clean.shape[2])
    noise = torch.randn(shape, generator=generator, dtype=clean.dtype, device=clean.device)
    if network.padding == "reflect":
        same = network.index[:, :, None] == network.index[:, None, :]
        noise = noise[:, torch.arange(rows, device=noise.device)[:, None], same.to(torch.uint8).argmax(dim=2)]
    return noise


@final
@dataclass(frozen=True)
class DenoisingBatch:
    r"""Noised states and the answers wanted of a network: all of a batch that no weight changes.

    Attributes
    ----------
    x : Tensor
        Noised states, or windows of them.
    context : Tensor or None
        As in `Network.forward`.
    c_noise : Tensor
        Noise level as the network reads it.
    target : Tensor, shape (sample, vertex, channel)
        In the units of `c_out` times the network's answer.
    c_out : Tensor or float
        Factor of the answer.
    """

    x: Tensor
    context: Tensor | None
    c_noise: Tensor
    target: Tensor
    c_out: Tensor | float = 1.0

    @classmethod
    @torch.no_grad()
    def of_score(
        cls,
        score: Trainable,
        clean: Float[Tensor, "sample vertex channel"],
        t: Float[Tensor, "sample *entry"],
        noise: Float[Tensor, "sample vertex channel"],
    ) -> DenoisingBatch:
        r"""Noise a batch for the network of a score, with one field of noise for each sample.

        The target is :math:`F = (D - a x)/s` at :math:`D = x_0`, written as :math:`s x_0 - a \xi`, less the skip.
        Of a `ConditionalScore`, the first channels are those of the given field, which has no noise.
        """
        if isinstance(score, ConditionalScore):
            given, clean = clean.split([score.n_given, score.n_channels], dim=2)
            score, noise = score.at(given), noise[..., score.n_given :]
        a, s, log_sigma = scales(clean, t)
        x, target = a * clean + s * noise, s * clean - a * noise
        known = score.precondition(x, t)
        return cls(x, known.context, noise_level(log_sigma).to(x), target - known.skip, known.c_out)

    @classmethod
    def of_windows(
        cls,
        network: WindowedNetwork,
        clean: Float[Tensor, "sample vertex channel"],
        t: Float[Tensor, "sample #row"],
        noise: Float[Tensor, "sample row width channel"],
    ) -> DenoisingBatch:
        """Noise each window with noise and a time of its own, (3.8), for ``network.on_windows`` without context."""
        a, s = (scale(t).to(clean.dtype)[..., None] for scale in (signal_scale, noise_scale))
        windows = network.windows(clean)
        log_sigma = (torch.log(noise_scale(t)) + t).to(clean.dtype)
        target = s * windows[:, :, 0] - a * noise[:, :, 0]
        return cls(a[..., None] * windows + s[..., None] * noise, None, log_sigma, target)

    @classmethod
    def of_denoiser(
        cls,
        clean: Float[Tensor, "sample vertex channel"],
        t: Float[Tensor, "sample *entry"],
        noise: Float[Tensor, "sample vertex channel"],
    ) -> DenoisingBatch:
        """Noise a batch for a denoiser of any kind, which reads OU times: target x_0 / s, c_out 1 / s."""
        a, s, _ = scales(clean, t)
        return cls(a * clean + s * noise, None, t, clean / s, 1 / s)

    def squared_errors(
        self, forward: Callable[..., Tensor], bfloat16: bool = False
    ) -> Float[Tensor, "sample vertex channel"]:
        r"""Return :math:`|D - x_0|^2 / s^2 = |c_{out} f - \mathrm{target}|^2` with f computed in bfloat16 or not."""
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            f = forward(self.x, self.context, self.c_noise)
        return (self.c_out * f.to(self.target) - self.target) ** 2


def errors(
    score: Score,
    clean: Float[Tensor, "sample vertex channel"],
    t: Float[Tensor, "sample *entry"],
    noise: Float[Tensor, "sample vertex channel"],
) -> Float[Tensor, "sample vertex channel"]:
    r"""Squared errors :math:`|D(x_t, t) - x_0|^2 / s^2` of any score, with one noise field for each sample."""
    batch = DenoisingBatch.of_denoiser(clean, t, noise)
    return batch.squared_errors(lambda x, _, t: score.denoise(x, t))


@final
@dataclass(frozen=True)
class Gaps:
    """Samples of which some values are missing: draws of them, and where values are data, as numbers 1 and 0.

    Attributes
    ----------
    values : Tensor, shape (draw, sample, vertex, channel)
    present : Tensor, shape (sample, vertex, channel)
    """

    values: Float[Tensor, "draw sample vertex channel"]
    present: Float[Tensor, "sample vertex channel"]

    def __len__(self) -> int:
        return len(self.present)

    def batch(
        self, numbers: Int[Tensor, " batch"], generator: torch.Generator
    ) -> tuple[Float[Tensor, "batch vertex channel"], Float[Tensor, "batch vertex channel"]]:
        """Return some samples, each by one of its draws, and where their values are data."""
        draw = torch.randint(len(self.values), numbers.shape, generator=generator, device=numbers.device)
        return self.values[draw, numbers], self.present[numbers]


def present_mean(
    squared: Float[Tensor, "sample vertex channel"], present: Float[Tensor, "sample vertex channel"] | None
) -> Float[Tensor, ""]:
    """Mean of squared errors where values are data, everywhere by default."""
    if present is None:
        return squared.mean()
    return (squared * present).sum() / present.sum().clamp_min(1)


def _sample_means(
    squared: Float[Tensor, "sample vertex channel"], weight: Float[Tensor, "sample vertex channel"] | None
) -> Float[Tensor, " sample"]:
    """Mean over vertices and channels, weighted if there are weights."""
    squared = squared.double()
    return (squared if weight is None else squared * weight).mean(dim=2).mean(dim=1)


def _weight(present: Bool[np.ndarray, "sample vertex channel"] | None, like: Tensor) -> Tensor | None:
    """Weights of errors such that the mean over samples is that over the values that are data."""
    if present is None:
        return None
    return torch.from_numpy(present / max(present.mean(), 1 / present.size)).to(like.device)


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
    present: Bool[np.ndarray, "sample vertex channel"] | None = None,
    hide: bool = False,
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
    present : ndarray of bool, shape (sample, vertex, channel), optional
        Where values are data and errors count; by default everywhere.
    hide : bool
        Hide what is no data from the score, which takes noise maps.

    Returns
    -------
    ndarray of float64, shape (level, sample)
        Mean over vertices and channels. Samples with gaps count by their number of values: the mean over samples is
        that over all values.
    """
    loss, weight = np.empty((len(times), len(clean))), _weight(present, clean)
    for level, part, t, noise in _fixed_draws(clean, times, seed, batch_size, stream, present if hide else None):
        squared = errors(score, clean[part], t, noise)
        loss[level, part] = _sample_means(squared, None if weight is None else weight[part]).cpu().numpy()
    return loss


@final
class HeldOut:
    """The same loss for a network whose weights change; all else is computed once.

    Parameters
    ----------
    score : NetworkScore, HybridScore or ConditionalScore
        Its preconditioning is what the network is trained for.
    clean, times, seed, batch_size, present
        As in `held_out`. Above `LARGEST_STORE` numbers nothing is kept.
    """

    def __init__(
        self,
        score: Trainable,
        clean: Float[Tensor, "sample vertex channel"],
        times: Sequence[float],
        *,
        seed: int,
        batch_size: int = 256,
        present: Bool[np.ndarray, "sample vertex channel"] | None = None,
    ) -> None:
        self._score, self._clean, self._weight = score, clean, _weight(present, clean)
        self._seen = present if score.maps else None
        self._times, self._seed, self._batch_size = tuple(times), seed, batch_size
        numbers = len(self._times) * clean.numel() * (2 + score.network.n_context // score.n_channels)
        self._kept = list(self._batches()) if numbers <= LARGEST_STORE else None

    @torch.no_grad()
    def loss(self, network: Network, bfloat16: bool = False) -> Float[np.ndarray, " sample"]:
        """Return the mean of `held_out` over the times, for the score made of this network."""
        total = torch.zeros(self._clean.shape[:2], dtype=torch.float64, device=self._clean.device)
        for part, batch in self._batches() if self._kept is None else self._kept:
            squared = batch.squared_errors(network, bfloat16).double()
            total[part] += (squared if self._weight is None else squared * self._weight[part]).mean(dim=2)
        return (total / len(self._times)).mean(dim=1).cpu().numpy()

    def _batches(self) -> Iterator[tuple[slice, DenoisingBatch]]:
        draws = _fixed_draws(self._clean, self._times, self._seed, self._batch_size, seen=self._seen)
        for _, part, t, noise in draws:
            yield part, DenoisingBatch.of_score(self._score, self._clean[part], t, noise)


def _fixed_draws(
    clean: Float[Tensor, "sample vertex channel"],
    times: Sequence[float],
    seed: int,
    batch_size: int,
    stream: Stream = Stream.TRAINING,
    seen: Bool[np.ndarray, "sample vertex channel"] | None = None,
) -> Iterator[tuple[int, slice, Float[Tensor, "some *entry"], Float[Tensor, "some vertex channel"]]]:
    """Level, samples, times and noise of each batch of the held-out loss; a function of seed, sample and level.

    Values that are not seen have infinite times and no noise.
    """
    n, vertices, channels = clean.shape
    for level, time in enumerate(times):
        for start in range(0, n, batch_size):
            numbers = range(start, min(start + batch_size, n))
            noise = torch.from_numpy(normals(seed, stream, numbers, level, vertices, channels)).to(clean)
            t = torch.full((len(numbers),), time, dtype=torch.float64, device=clean.device)
            part = slice(start, numbers.stop)
            if seen is not None:
                t, noise = with_missing(t, noise, torch.from_numpy(seen[part]).to(clean.device))
            yield level, part, t, noise
