r"""Fit of a scale mixture in the eigenbasis of a fitted field, and the strict rule by which it is taken.

All that the mixture takes from a sample is the energy :math:`e_b = \sum_{l \in b} z_l^2 / \lambda_l` of each band, of
:math:`n_b` eigenvalues. With :math:`r_{ik}` the probabilities of the components given sample i, a step of EM is

.. math:: g_{kb} = \frac{\sum_i r_{ik} e_{ib} + n_b}{\sum_i r_{ik} n_b + n_b}, \qquad
    \pi_k = \frac{\sum_i r_{ik} + 1}{N + K},

each component counting one more sample of the field itself (an inverse gamma and a Dirichlet prior).

Skewed and two-valued fields gain a little from any mixture, and a network that starts from such a mixture is worse than
one that starts from the field. The mixture is therefore taken only where held-out samples gain much. What a contrast of
whole samples is worth grows with their size; what is not Gaussian about single values is worth a few nats whatever the
size, so that small samples must gain more per dimension.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from scipy.special import logsumexp
from sklearn.cluster import KMeans

from nearfield.fitting.matching import NoiseLevels
from nearfield.fitting.search import one_torch_thread
from nearfield.graph import DependencyGraph
from nearfield.noise import Stream, normals
from nearfield.process import noise_scale, signal_scale
from nearfield.samples import Samples
from nearfield.score.eigenbasis import DenseBasis, Eigenbasis, WaveBasis
from nearfield.score.field import GaussianField
from nearfield.score.mixture_components import N_BANDS, Components, bands
from nearfield.score.scale_mixture import LARGEST, ScaleMixtureField
from nearfield.score.solver import DIRECT_LIMIT

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = [
    "DENOISING",
    "DENSITY",
    "FEWEST",
    "Comparison",
    "Energies",
    "choose_mixture",
    "compare",
    "field_basis",
    "fit_components",
    "fit_mixture",
]

N_COMPONENTS = 16
"""Components, at most."""
SAMPLES_EACH = 4
"""Samples for each component, at least."""
FEWEST = 40
"""Fewest samples of a mixture."""
DENSITY, DENOISING = 0.02, 0.01
"""Held-out gains from which a mixture is taken: nats per dimension, or a share of the denoising loss."""
IN_ALL = 5.0
"""Nats of each sample that it must gain as well: skewed or two-valued fields gain about 1 to 4 nats at any size."""
CLEAR = 3.0
"""Standard errors by which either gain must exceed 0."""
FOLDS = 5
LEVELS = NoiseLevels(center=-0.3, spread=1.4).grid(8)
"""Times of the denoising loss: those of a training."""
STEPS, CONVERGED = 300, 1e-4
"""Most steps of EM, and the gain of a step, nats for each sample, at which it ends."""


class Energies(NamedTuple):
    """Energies of the bands of samples, or of windows, and the numbers of eigenvalues in them."""

    energy: Float[np.ndarray, "point band"]
    size: Float[np.ndarray, "point band"]

    @classmethod
    def of(cls, z: Float[np.ndarray, "point entry"], values: Float[np.ndarray, " entry"]) -> Energies:
        """Sum over the bands of the eigenvalues above 0."""
        known = values > 0
        member = np.eye(N_BANDS)[bands(torch.from_numpy(values)).numpy()[known]]
        size = np.broadcast_to(member.sum(axis=0), (len(z), N_BANDS))
        return cls((z[:, known] ** 2 / values[known]) @ member, size)


def fit_components(points: Energies, n_components: int = N_COMPONENTS, seed: int = 0) -> Components:
    """Fit weights and factors by EM; more steps never lower the penalised likelihood."""
    used = points.size.sum(axis=0) > 0
    n = max(1, n_components)
    if n == 1:
        belief = np.ones((len(points.energy), 1))
    else:
        mean = np.log((points.energy[:, used] + 1) / (points.size[:, used] + 1))
        label = KMeans(n, n_init=1, random_state=seed % 2**32).fit_predict(mean)
        belief = np.eye(n)[label]
    before = -math.inf
    for _ in range(STEPS):
        scales, weights = maximised(points, belief)
        log_joint = log_likelihood(points, scales, weights)
        evidence = log_joint.max(axis=1, keepdims=True)
        belief = np.exp(log_joint - evidence)
        total = belief.sum(axis=1, keepdims=True)
        belief /= total
        objective = float((evidence + np.log(total)).sum()) + _log_prior(points, scales, weights)
        if objective - before <= CONVERGED * len(points.energy):
            break
        before = objective
    return Components(scales, weights)


def maximised(points: Energies, belief: Float[np.ndarray, "point component"]) -> tuple[np.ndarray, np.ndarray]:
    """Return factors and weights of highest penalised likelihood given the probabilities of the components."""
    prior = points.size.mean(axis=0)
    size = belief.T @ points.size + prior
    scales = np.where(size > 0, (belief.T @ points.energy + prior) / np.where(size > 0, size, 1.0), 1.0)
    weights = (belief.sum(axis=0) + 1) / (len(belief) + belief.shape[1])
    return scales, weights


def log_likelihood(
    points: Energies, scales: Float[np.ndarray, "component band"], weights: Float[np.ndarray, " component"]
) -> Float[np.ndarray, "point component"]:
    """Log of weight times density over the field's of each component."""
    of_field = 0.5 * points.energy.sum(axis=1, keepdims=True)
    scaled = points.energy @ (1 / scales).T + points.size @ np.log(scales).T
    log_joint: np.ndarray = np.log(weights) - 0.5 * scaled + of_field
    return log_joint


def _log_prior(points: Energies, scales: np.ndarray, weights: np.ndarray) -> float:
    """Log-density of the prior, but for a constant."""
    of_scales = -0.5 * points.size.mean(axis=0) @ (np.log(scales) + 1 / scales).T
    return float(of_scales.sum() + np.log(weights).sum())


def field_basis(field: GaussianField, graph: DependencyGraph, *, one_law: bool) -> Eigenbasis | None:
    """Eigenbasis of a field's covariance, None where it has too many variables.

    It is computed from the precision, whose decomposition keeps small eigenvalues. Beyond 4096 variables a field of
    one law on a whole lattice without ends, of one channel, has that of plane waves: each eigenvalue is the inverse of
    the wave's precision, averaged over the lattice.
    """
    place = (field.order.numpy()[:, None] * field.n_channels + np.arange(field.n_channels)).reshape(-1)
    if len(place) <= LARGEST:
        precision, factor = np.empty((len(place), len(place))), field.dense_factor()
        precision[np.ix_(place, place)] = factor.T @ factor
        values, vectors = torch.linalg.eigh(torch.from_numpy(precision))
        return DenseBasis(1 / values, vectors)
    lattice = graph.lattice
    without_ends = lattice is not None and graph.keep is None and all(lattice.periodic)
    if lattice is None or not without_ends or not one_law or field.n_channels > 1 or len(place) > DIRECT_LIMIT:
        return None
    return WaveBasis(1 / _wave_precisions(field, place, lattice.shape), lattice.shape)


def _wave_precisions(field: GaussianField, place: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Precision u*Pu of the plane waves u, which is that of the mean of P over shifts."""
    entries = field.precision().tocoo()
    row, column = (np.stack(np.unravel_index(place[i], shape)) for i in entries.coords)
    lag = np.ravel_multi_index(tuple((column - row) % np.array(shape)[:, None]), shape)
    mean = np.bincount(lag, entries.data, minlength=len(place)).reshape(shape) / len(place)
    precision: np.ndarray = np.fft.fftn(mean).real.reshape(-1)
    correction = field._correction
    if correction is not None:
        natural = np.zeros((correction.rows.shape[0], len(place)))
        natural[:, place] = correction.rows.toarray()
        axes = tuple(range(1, len(shape) + 1))
        waves = np.fft.fftn(natural.reshape(-1, *shape), axes=axes, norm="ortho").reshape(natural.shape)
        precision = precision + (waves.conj() * (correction.inner @ waves)).real.sum(axis=0)
    return precision


@dataclass(frozen=True)
class Comparison:
    """Held-out gains of a mixture over the field with rescaled bands: nats per dimension, share of denoising loss."""

    dimension: int
    density: float
    density_error: float
    denoising: float
    denoising_error: float

    @property
    def taken(self) -> bool:
        """Whether the data clearly ask for the mixture."""
        if self.dimension * self.density < IN_ALL:
            return False
        return (self.density >= DENSITY and self.density > CLEAR * self.density_error) or (
            self.denoising >= DENOISING and self.denoising > CLEAR * self.denoising_error
        )

    def describe(self) -> str:
        """Return the gains in words."""
        return (
            f"{self.density:.2g} +- {self.density_error:.1g} nats per dimension and {self.denoising:.2%} of the "
            f"denoising loss on held-out samples (asked for: {DENSITY:g} or {DENOISING:.0%}, {IN_ALL:g} nats in all)"
        )


def compare(samples: Samples, basis: Eigenbasis, seed: int = 0) -> Comparison:
    """Compare the mixture with a single component, both fitted to the samples outside each fold."""
    z, n = _coordinates(samples, basis), len(samples)
    values = basis.values.numpy()
    points = Energies.of(z, values)
    noise = torch.from_numpy(normals(seed, Stream.EVALUATION, range(n), 0, z.shape[1], 1)[:, :, 0])
    density, losses = np.empty(n), np.empty((2, n))
    for held_out in samples.folds(FOLDS, seed):
        train = Energies(*(np.delete(part, held_out, axis=0) for part in points))
        test = Energies(*(part[held_out] for part in points))
        pair = [fit_components(train, k, seed) for k in (1, _count(len(train.energy)))]
        found = [logsumexp(log_likelihood(test, c.scales.numpy(), c.weights.numpy()), axis=1) for c in pair]
        density[held_out] = (found[1] - found[0]) / len(values)
        for i, components in enumerate(pair):
            clean = torch.from_numpy(z[held_out])
            losses[i, held_out] = _denoising_loss(components, basis.values, clean, noise[held_out])
    gain = (losses[0] - losses[1]) / losses[0].mean()
    return Comparison(
        len(values),
        float(density.mean()),
        samples.standard_error(density),
        float(gain.mean()),
        samples.standard_error(gain),
    )


def fit_mixture(samples: Samples, basis: Eigenbasis, seed: int = 0) -> ScaleMixtureField:
    """Fit the mixture to standardised samples, in the eigenbasis of their field."""
    points = Energies.of(_coordinates(samples, basis), basis.values.numpy())
    return ScaleMixtureField(basis, fit_components(points, _count(len(samples)), seed), n_channels=samples.n_channels)


def choose_mixture(
    samples: Samples, field: GaussianField, *, one_law: bool, seed: int = 0
) -> tuple[ScaleMixtureField | None, str]:
    """Fit a mixture to standardised samples where these clearly ask for one, with a reason; otherwise None."""
    if len(samples) < FEWEST:
        return None, f"No scale mixture: {len(samples)} samples are fewer than {FEWEST}."
    with one_torch_thread():
        basis = field_basis(field, samples.graph, one_law=one_law)
        if basis is None:
            return None, f"No scale mixture: the field has more than {LARGEST} variables."
        found = compare(samples, basis, seed)
        if not found.taken:
            return None, f"No scale mixture: it would gain {found.describe()}."
        mixture = fit_mixture(samples, basis, seed)
    count = len(mixture.components.weights)
    return mixture, f"Scale mixture of {count} components: it gains {found.describe()}."


def _count(n_samples: int) -> int:
    """Components for so many samples."""
    return max(1, min(N_COMPONENTS, n_samples // SAMPLES_EACH))


def _coordinates(samples: Samples, basis: Eigenbasis) -> Float[np.ndarray, "sample entry"]:
    flat = torch.from_numpy(np.ascontiguousarray(samples.values.reshape(len(samples), -1), dtype=np.float64))
    return basis.coordinates(flat).numpy()


def _denoising_loss(
    components: Components, values: torch.Tensor, clean: torch.Tensor, noise: torch.Tensor
) -> Float[np.ndarray, " sample"]:
    """Mean over levels and entries of |D - z|^2 / s^2: the basis is orthogonal, so this is the loss of the values."""
    total = torch.zeros(len(clean), dtype=torch.float64)
    for t in LEVELS:
        a, s = signal_scale(t), noise_scale(t)
        denoised = components.filtered((a * clean + s * noise)[None], values, torch.tensor([t], dtype=torch.float64))
        total += ((denoised[0] - clean) ** 2).mean(dim=1) / s**2 / len(LEVELS)
    return total.numpy()
