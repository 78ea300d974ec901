r"""Draws of a score's law given evidence, by the decoupled sampler.

At each level :math:`\sigma` the state y is denoised, :math:`D = D(y, \sigma)`; a clean field is drawn from
:math:`N(D, (P + I/\sigma^2)^{-1})` given the evidence, P the precision of a Gaussian field of the same data; and it is
noised again to the next level. Of a Gaussian score the draws are exact. Below a level each step is repeated.

Entries with a likelihood of their own, such as those known to be below a value, are drawn one by one (Gibbs sampling)
from their conditional Gaussian times the likelihood, entries that do not depend on each other together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import scipy.sparse as sp
import torch
from scipy.special import log_ndtr, ndtr, ndtri_exp

from nearfield.graph.coloring import greedy_coloring
from nearfield.process import signal_scale, time_of
from nearfield.sampling.base import BYTES, MEMORY, on_device
from nearfield.score.evidence import Evidence, Sites
from nearfield.score.posterior_field import Numbers, PosteriorField, Shocks, natural_precision

if TYPE_CHECKING:
    from jaxtyping import Float

    from nearfield.score.base import Score
    from nearfield.score.field import GaussianField

__all__ = ["DecoupledSampler"]

_FINEST = 0.02
"""Last noise level, where no error is smaller."""
_BELOW = 2.5
"""The last level is below the smallest error by this factor."""
_NODES = 64
"""Nodes of a conditional law that is no truncated normal."""
_REACH = 6.0
"""Standard deviations that the nodes reach."""
_FIRST, _SITE = 2, 3


@final
@dataclass(frozen=True)
class DecoupledSampler:
    """Sampler of conditional laws.

    Parameters
    ----------
    levels : int
        Noise levels, log-spaced, at least 2.
    repeats : int
        Times that a level below ``strong`` is visited; 1 is fast, and biased in laws with several states.
    strong : float
        Noise-to-signal ratio.
    sweeps : int
        Gibbs sweeps over entries with a likelihood of their own, at each visit.

    Raises
    ------
    ValueError
        If a number is out of range.

    Examples
    --------
    >>> DecoupledSampler().visits(80.0, 0.02)[-1]
    0.02
    """

    levels: int = 50
    repeats: int = 3
    strong: float = 5.0
    sweeps: int = 2

    def __post_init__(self) -> None:
        for name, least in (("levels", 2), ("repeats", 1), ("sweeps", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    def visits(self, first: float, last: float) -> list[float]:
        """Noise-to-signal ratios in the order in which the score is read."""
        levels = np.geomspace(first, last, self.levels).tolist()
        levels[-1] = last
        return [sigma for sigma in levels for _ in range(self.repeats if sigma < self.strong else 1)]

    def sample(
        self,
        score: Score,
        field: GaussianField,
        evidence: Evidence,
        n_samples: int,
        *,
        seed: int,
        largest_eigenvalue: float = 1.0,
        device: torch.device | str = "cpu",
        batch_size: int | None = None,
    ) -> Float[np.ndarray, "member case entry"]:
        """Draw members given the evidence on each case; a member does not depend on the batch.

        Parameters
        ----------
        score : Score
        field : GaussianField
            Of the same standardised data.
        evidence : Evidence
        n_samples : int
            For each case, at least 1.
        seed, device, batch_size
            As in `Sampler.sample`.
        largest_eigenvalue : float
            Of the covariance of the data.
        """
        score = on_device(score, device)
        shape = (score.n_vertices, score.n_channels)
        visits = self.visits(
            max(80.0, 10 * math.sqrt(largest_eigenvalue)), min(_FINEST, evidence.smallest_error / _BELOW)
        )
        size = batch_size or max(1, MEMORY // (BYTES * score.numbers_per_sample))
        batches = _Batch.of(field, seed, evidence, n_samples, size)
        gibbs = None if evidence.sites is None else _Gibbs.of(field, evidence, evidence.sites)
        for turn, sigma in enumerate(visits):
            if turn == 0 or sigma != visits[turn - 1]:
                law = PosteriorField(field, evidence, sigma**-2)
            t, following = time_of(sigma), visits[turn + 1] if turn + 1 < len(visits) else 0.0
            for batch in batches:
                if turn == 0:
                    batch.state = math.hypot(1.0, sigma) * batch.normals(turn, _FIRST, *shape)
                x_t = torch.from_numpy(signal_scale(t) * batch.state.reshape(-1, *shape)).to(device)
                with torch.no_grad():
                    clean = score.denoise(x_t, t).cpu().numpy().reshape(batch.state.shape)
                clean = np.asarray(clean, dtype=np.float64)
                if gibbs is None:
                    shocks = batch.shocks(turn, evidence)
                    drawn = law.draw(clean, batch.values, shocks)
                else:
                    drawn, shocks = self._with_sites(law, gibbs, clean, batch, turn, sigma)
                batch.state = drawn + following * shocks.noise
        drawn = np.concatenate([batch.state for batch in batches])
        return drawn.reshape(len(evidence.values), n_samples, -1).swapaxes(0, 1)

    def _with_sites(
        self, law: PosteriorField, gibbs: _Gibbs, clean: np.ndarray, batch: _Batch, turn: int, sigma: float
    ) -> tuple[Float[np.ndarray, "sample entry"], Shocks]:
        """Draw the other entries given the sites, and these given the others, in turn."""
        sites, held = gibbs.sites, batch.values.copy()
        if batch.sites is None:
            batch.sites = np.clip(clean[:, sites.entry], sites.low, sites.high)
        for sweep in range(self.sweeps):
            number = turn * self.sweeps + sweep
            held[:, sites.entry] = batch.sites
            shocks = batch.shocks(number, gibbs.evidence)
            drawn = law.draw(clean, held, shocks)
            gibbs.sweep(drawn, clean, sigma**-2, ndtr(batch.normals(number, _SITE, len(sites.entry))))
            batch.sites = drawn[:, sites.entry]
        return drawn, shocks


class _Batch:
    """Members that are drawn together: cases with all or some of their members."""

    def __init__(self, parts: list[Numbers], values: Float[np.ndarray, "sample entry"]) -> None:
        self._parts, self.values = parts, values
        self.state = np.empty_like(values)
        self.sites: np.ndarray | None = None

    @classmethod
    def of(cls, field: GaussianField, seed: int, evidence: Evidence, n_samples: int, size: int) -> list[_Batch]:
        """Divide the members of all cases, case by case."""
        total, batches = len(evidence.values) * n_samples, []
        for start in range(0, total, size):
            members = range(start, min(start + size, total))
            parts, cases = [], sorted({m // n_samples for m in members})
            for case in cases:
                own = [m % n_samples for m in members if m // n_samples == case]
                parts.append(Numbers(field, seed, int(evidence.cases[case]), range(own[0], own[-1] + 1)))
            batches.append(cls(parts, evidence.values[[m // n_samples for m in members]]))
        return batches

    def normals(self, turn: int, part: int, n_vertices: int, n_channels: int = 1) -> Float[np.ndarray, "sample entry"]:
        return np.concatenate([each.normals(turn, part, n_vertices, n_channels) for each in self._parts])

    def shocks(self, turn: int, evidence: Evidence) -> Shocks:
        each = [part.shocks(turn, evidence) for part in self._parts]
        return Shocks(*(np.concatenate(arrays) for arrays in zip(*each, strict=True)))


@dataclass(frozen=True)
class _Gibbs:
    """Conditional laws of the entries with a likelihood of their own."""

    evidence: Evidence
    sites: Sites
    precision: sp.csr_array  # rows of the sites
    correction: tuple[np.ndarray, np.ndarray] | None  # the same of the term of larger scales, in two factors
    diagonal: Float[np.ndarray, " site"]
    colors: list[np.ndarray]

    @classmethod
    def of(cls, field: GaussianField, evidence: Evidence, sites: Sites) -> _Gibbs:
        """Gather the rows of the precision, and colour the sites."""
        curves = evidence.curves
        if evidence.exact.any() or (curves is not None and curves.exact.any()):
            raise ValueError(
                "bounds, and errors under a bent marginal, cannot be combined with averages or functions that are "
                "exact; give these an error, or leave the bounds out"
            )
        precision, correction = natural_precision(field)
        own, weights = sp.csr_array(precision)[sites.entry], sp.csc_array(evidence.rows)[:, sites.entry]
        diagonal = own[np.arange(len(sites.entry)), sites.entry] + np.asarray((weights**2).sum(axis=0))
        pairs = sp.csr_array(abs(own[:, sites.entry]) + abs(weights.T @ weights))
        if curves is not None:
            read = sp.csr_array(abs(curves.function(evidence.values[:1])[1][0][:, sites.entry]))
            pairs = sp.csr_array(pairs + read.T @ read)
        factors = None
        if correction is not None:  # it joins all sites
            rows = correction.rows.toarray()
            factors = (rows[:, sites.entry].T @ correction.inner, rows)
            diagonal = diagonal + (factors[0] * rows[:, sites.entry].T).sum(axis=1)
            of_site = np.arange(len(sites.entry))
        else:
            of_site = greedy_coloring(pairs)
        groups = [np.flatnonzero(of_site == c) for c in range(int(of_site.max(initial=-1)) + 1)]
        return cls(evidence, sites, sp.csr_array(own), factors, diagonal, groups)

    def sweep(
        self,
        x: Float[np.ndarray, "sample entry"],
        center: Float[np.ndarray, "sample entry"],
        ridge: float,
        uniform: Float[np.ndarray, "sample site"],
    ) -> None:
        """Draw each site given all others, in place; functions are linearised at the center."""
        rows, target, curves = self.evidence.rows, self.evidence.target, self.evidence.curves
        if curves is not None:
            around = self.evidence.around(center, x)
            value, read = curves.function(around)
            aim = curves.target - value + (read @ around[:, :, None])[:, :, 0]
        for group in self.colors:
            entry, away = self.sites.entry[group], x - center
            slope = (self.precision[group] @ away.T).T + ridge * away[:, entry]
            if self.correction is not None:
                slope += away @ self.correction[1].T @ self.correction[0][group].T
            if len(target):
                slope += ((rows @ x.T).T - target) @ rows[:, entry].toarray()
            precision = np.broadcast_to(self.diagonal[group] + ridge, slope.shape)
            if curves is not None:
                over = (read @ x[:, :, None])[:, :, 0] - aim
                slope += (over[:, None] @ read[:, :, entry])[:, 0]
                precision = precision + (read[:, :, entry] ** 2).sum(axis=1)
            x[:, entry] = _drawn(self.sites, group, x[:, entry] - slope / precision, precision**-0.5, uniform[:, group])


def _drawn(
    sites: Sites,
    group: np.ndarray,
    mean: Float[np.ndarray, "sample site"],
    std: Float[np.ndarray, "sample site"],
    uniform: Float[np.ndarray, "sample site"],
) -> Float[np.ndarray, "sample site"]:
    """Draw from normal laws times the likelihoods of some sites."""
    low, high, noisy = sites.low[group], sites.high[group], sites.noisy[group]
    out = _truncated(mean, std, low, high, uniform)
    if noisy.any():
        table = sites.log_likelihood[group][noisy]
        out[:, noisy] = _weighted(mean[:, noisy], std[:, noisy], low[noisy], high[noisy], table, uniform[:, noisy])
    return out


def _truncated(
    mean: np.ndarray, std: np.ndarray, low: np.ndarray, high: np.ndarray, uniform: np.ndarray
) -> Float[np.ndarray, "sample site"]:
    """Draw normal numbers between bounds; far in a tail as exactly as near the mean."""
    one, two = (low - mean) / std, (high - mean) / std
    sign = np.where(one > 0, -1.0, 1.0)  # logarithms of lower tails are accurate
    a, b = np.where(one > 0, -two, one), np.where(one > 0, -one, two)
    with np.errstate(divide="ignore"):
        log_probability = np.logaddexp(log_ndtr(a) + np.log1p(-uniform), log_ndtr(b) + np.log(uniform))
    drawn: np.ndarray = np.clip(mean + std * sign * ndtri_exp(np.minimum(log_probability, -1e-16)), low, high)
    return drawn


def _weighted(
    mean: np.ndarray, std: np.ndarray, low: np.ndarray, high: np.ndarray, table: np.ndarray, uniform: np.ndarray
) -> Float[np.ndarray, "sample site"]:
    """Draw from normal laws times tabulated likelihoods, by the inverse of sums over nodes."""
    start, end = np.maximum(mean - _REACH * std, low), np.minimum(mean + _REACH * std, high)
    below, above = start >= high, end <= low  # then the normal law is steep there
    start = np.where(below, np.maximum(low, high - std), np.where(above, low, start))
    end = np.where(below, high, np.where(above, np.minimum(high, low + std), end))
    node = start[..., None] + (end - start)[..., None] * np.linspace(0, 1, _NODES)
    place = (node - low[:, None]) / (high - low)[:, None] * (table.shape[1] - 1)
    left = np.clip(place.astype(int), 0, table.shape[1] - 2)
    site = np.arange(len(table))[:, None]
    value = table[site, left] + (place - left) * (table[site, left + 1] - table[site, left])
    value = value - 0.5 * ((node - mean[..., None]) / std[..., None]) ** 2
    weight = np.exp(value - value.max(axis=-1, keepdims=True))
    mass = np.cumsum((weight[..., 1:] + weight[..., :-1]) / 2, axis=-1)
    asked = uniform * mass[..., -1]
    cell = np.minimum((mass < asked[..., None]).sum(axis=-1), _NODES - 2)
    before = np.where(cell > 0, np.take_along_axis(mass, np.maximum(cell - 1, 0)[..., None], -1)[..., 0], 0.0)
    inside = np.take_along_axis(mass, cell[..., None], -1)[..., 0] - before
    share = np.clip((asked - before) / np.maximum(inside, 1e-300), 0.0, 1.0)
    drawn: np.ndarray = start + (end - start) * (cell + share) / (_NODES - 1)
    return drawn
