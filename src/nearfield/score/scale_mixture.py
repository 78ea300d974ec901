r"""A mixture of Gaussian fields that share their eigenvectors: textures whose contrast differs between samples.

In the eigenbasis U of a fitted field, with components that scale bands of its eigenvalues
(:mod:`nearfield.score.mixture_components`), density, draws and the denoiser have closed forms: the denoiser is the mean
of the components' Wiener filters by their probabilities given the state. Which component a state belongs to is read
from the whole field.

On a larger lattice the law of the fitted one holds on every window of its size. A vertex takes the denoiser of the
window around it; windows overlap, so that the larger law is given by its score alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import numpy as np
import torch
from scipy.linalg import cho_solve, solve_triangular
from scipy.special import ndtr

from nearfield import noise
from nearfield.graph import Lattice
from nearfield.module import as_tensor
from nearfield.process import noise_scale, signal_scale
from nearfield.score.base import ContextScore
from nearfield.score.eigenbasis import Eigenbasis
from nearfield.score.mixture_components import Components
from nearfield.score.spectrum import FieldSpectrum

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from nearfield.graph import DependencyGraph

__all__ = ["LARGEST", "ConditionalMixture", "ScaleMixtureField"]

LARGEST = 4096
"""Most variables of a dense basis, and of a mixture that is conditioned."""
_TOGETHER = 1 << 24
"""Coordinates of windows held at once (64 MiB in single precision)."""
_STEPS = 8
"""Windows on a larger lattice are an eighth of their side apart."""


@final
class ScaleMixtureField(ContextScore):
    """Zero-mean mixture of Gaussian fields with common eigenvectors.

    Parameters
    ----------
    basis : Eigenbasis
        Of the field, variables in vertex order with channels fastest.
    components : Components
    index : ndarray or Tensor of int, shape (window, cell), optional
        Vertices of the windows on a larger lattice; by default all vertices, once.
    window, cell : ndarray or Tensor of int, shape (vertex,), optional
        The window of each vertex, and the vertex's place in it.
    n_channels : int
    radius : int or None
        Hops from a vertex to the end of its window; None for the whole field.

    Examples
    --------
    Half of the samples have four times the variance of the others:

    >>> from nearfield.score.eigenbasis import DenseBasis
    >>> white = DenseBasis(np.ones(3), np.eye(3))
    >>> mixture = ScaleMixtureField(white, Components(np.array([[0.4], [1.6]]), np.array([0.5, 0.5])))
    >>> mixture.log_prob(np.zeros((1, 3, 1))).round(4)
    array([-1.9577])
    """

    radius: int | None
    settings = ("n_channels", "radius")
    index: Tensor
    window: Tensor
    cell: Tensor

    def __init__(
        self,
        basis: Eigenbasis,
        components: Components,
        index: Int[np.ndarray, "window cell"] | Int[Tensor, "window cell"] | None = None,
        window: Int[np.ndarray, " vertex"] | Int[Tensor, " vertex"] | None = None,
        cell: Int[np.ndarray, " vertex"] | Int[Tensor, " vertex"] | None = None,
        n_channels: int = 1,
        radius: int | None = None,
    ) -> None:
        super().__init__()
        self.basis, self.components, self.n_channels, self.radius = basis, components, n_channels, radius
        every = np.arange(basis.values.shape[0] // n_channels)
        parts = {
            "index": every[None] if index is None else index,
            "window": np.zeros_like(every) if window is None else window,
            "cell": every if cell is None else cell,
        }
        for name, part in parts.items():
            self.register_buffer(name, as_tensor(part).long())
        self.n_vertices = len(self.window)

    @property
    def whole(self) -> bool:
        """Whether the law is that of all vertices, with a density."""
        return len(self.index) == 1

    def forward(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Return the exact E[x_0 | x_t] of the law of each vertex's window."""
        times = _times(t, x)
        step = max(1, _TOGETHER // (self.index.numel() * self.n_channels))
        parts = [slice(i, i + step) for i in range(0, len(x), step)] or [slice(0, 0)]
        own = times.expand(len(x)) if len(parts) > 1 else times
        found = [self._denoised(x[part], own[part] if len(parts) > 1 else own) for part in parts]
        out: Tensor = torch.where(times[:, None, None] > 0, torch.cat(found), x)
        return out

    def _denoised(self, x: Tensor, times: Float[Tensor, " #sample"]) -> Tensor:
        z = self.basis.coordinates(x[:, self.index].flatten(2))
        clean = self.basis.restored(self.components.filtered(z, self.basis.values, times))
        own: Tensor = clean.unflatten(2, (-1, self.n_channels))[:, self.window, self.cell]
        return own

    def denoise_with_variance(self, x: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor]:
        """Return the denoised samples, and the variance of the denoised values under the law, as if k were known.

        The variance comes for each sample, or once for a common time.
        """
        t = self.times(x, t)
        variances = self.basis.variances(self.components.explained(self.basis.values, _times(t, x)))
        return self.forward(x, t), variances.unflatten(1, (-1, self.n_channels))[:, self.cell].to(x)

    def local_jacobian(self, x: Tensor, t: float, index: Tensor) -> Tensor | None:
        """Return entries of U (diag(sum_k p_k g_k) + sum_k p_k (g_k z)(s_k - sum_l p_l s_l)') U', s_k = -z / v_k.

        p_k is the probability of a component given the state, g_k its gains, v_k its variances; None for windows on a
        larger lattice and for more than 4096 variables.
        """
        values = self.basis.values
        if not self.whole or len(values) > LARGEST:
            return None
        a, s = signal_scale(t), noise_scale(t)
        spectra = self.components.spectra(values)
        variances = a**2 * spectra + s**2
        gain, z = a * spectra / variances, self.basis.coordinates(x.double()[:, self.index[0]].flatten(1))[:, None]
        belief = self.components.log_likelihood(z, variances)[:, 0].softmax(dim=-1)[..., None]
        pull = -z / variances
        turned = self.basis.restored(belief * (pull - (belief * pull).sum(dim=1, keepdim=True)))
        moved = self.basis.restored(gain * z)
        whole = FieldSpectrum(
            values.cpu().numpy(), self.basis.restored(torch.eye(len(values)).to(values)).mT.cpu().numpy()
        )
        at = self.cell[index].cpu().numpy()
        each = np.stack([whole.blocks(one.cpu().numpy(), at, self.n_channels) for one in gain])
        moved, turned = (part.unflatten(2, (-1, self.n_channels)) for part in (moved, turned))
        blocks = torch.einsum("sk,kvcwd->svcwd", belief[..., 0], torch.from_numpy(each).to(z))
        blocks = blocks + torch.einsum("skvc,skvwd->svcwd", moved[:, :, self.cell], turned[:, :, self.cell[index]])
        return blocks.to(x)

    @property
    def numbers_per_sample(self) -> int:
        """Coordinates in all windows too."""
        return super().numbers_per_sample + min(_TOGETHER, 6 * self.index.numel() * self.n_channels)

    def sample(
        self,
        n_samples: int,
        *,
        seed: int,
        first_member: int = 0,
        step: int = 0,
        stream: noise.Stream = noise.Stream.EXACT,
    ) -> Float[np.ndarray, "sample vertex channel"]:
        """Draw exactly; a member depends on seed, stream, step and its own number alone."""
        self._require_whole()
        drawn = np.empty((n_samples, self.n_vertices, self.n_channels))
        roots = self.components.spectra(self.basis.values).sqrt()
        for i in range(n_samples):
            # the number after those of the vertices picks the component
            numbers = noise.normals(seed, stream, [first_member + i], step, self.n_vertices + 1, self.n_channels)[0]
            k = int(self.components.pick(ndtr(numbers[-1:, 0]))[0])
            z = self.basis.coordinates(torch.from_numpy(numbers[:-1].reshape(1, -1)))
            drawn[i] = self.basis.restored(roots[k] * z).numpy().reshape(self.n_vertices, self.n_channels)
        return drawn

    def log_prob(self, x: Float[np.ndarray, "sample vertex channel"]) -> Float[np.ndarray, " sample"]:
        """Exact log-density in nats."""
        self._require_whole()
        z = self.basis.coordinates(torch.from_numpy(np.asarray(x, dtype=np.float64).reshape(len(x), -1)))
        return self.components.log_prob(z, self.basis.values).numpy()

    def conditional(self, observed: Bool[np.ndarray, "vertex channel"]) -> ConditionalMixture:
        """Condition on the exact values of the observed entries; a ValueError for more than 4096 variables."""
        self._require_whole()
        if self.basis.values.shape[0] > LARGEST:
            raise ValueError(
                f"a scale mixture is conditioned on up to {LARGEST} variables, got {self.basis.values.shape[0]}; fit "
                "method='gaussian'"
            )
        return ConditionalMixture(self, np.asarray(observed, dtype=bool))

    def extended(self, graph: DependencyGraph, onto: DependencyGraph) -> ScaleMixtureField:
        """Return the score of windows of the size of `graph`, an eighth of their side apart, on a larger lattice."""
        if not self.whole:
            raise ValueError("a scale mixture is extended once, from the lattice it was fitted to")
        old, new = _lattices(graph, onto)
        sides = [_places(n, m) for n, m in zip(old.shape, new.shape, strict=True)]
        starts = np.stack(np.meshgrid(*(first for first, _, _ in sides), indexing="ij"), axis=-1)
        inside = np.stack(np.unravel_index(np.arange(old.n_cells), old.shape), axis=-1)
        corners = starts.reshape(-1, 1, len(old.shape))
        index = np.ravel_multi_index(tuple(np.moveaxis(corners + inside, -1, 0)), new.shape)
        where, at = (
            np.ravel_multi_index(np.meshgrid(*(side[i] for side in sides), indexing="ij"), shape).reshape(-1)
            for i, shape in ((1, starts.shape[:-1]), (2, old.shape))
        )
        radius = None if len(index) == 1 else graph.diameter()
        return ScaleMixtureField(self.basis, self.components, index, where, at, self.n_channels, radius)

    def _require_whole(self) -> None:
        if not self.whole:
            raise ValueError("a scale mixture on a larger lattice has a score alone; a sampler draws from it")


@final
class ConditionalMixture:
    """Law of the missing entries of a `ScaleMixtureField` given the others: each component's, by its probability."""

    def __init__(self, mixture: ScaleMixtureField, observed: Bool[np.ndarray, "vertex channel"]) -> None:
        self._mixture, self._seen = mixture, observed.reshape(-1)
        basis, missing = mixture.basis, ~self._seen
        vectors = basis.restored(torch.eye(basis.values.shape[0], dtype=torch.float64)).numpy().T
        self._own, self._others = vectors[missing], vectors[self._seen]
        self._spectra = mixture.components.spectra(basis.values).numpy()
        # of the precision of the missing entries, whose condition does not suffer from smooth fields
        self._roots = [np.linalg.cholesky((self._own / values) @ self._own.T) for values in self._spectra]

    def _known(self, x: Float[np.ndarray, "sample variable"]) -> tuple[np.ndarray, np.ndarray]:
        """Means of the missing entries (component, sample, entry), and probabilities (component, sample)."""
        means, scores = [], []
        weights = self._mixture.components.weights.numpy()
        pulled = x[:, self._seen] @ self._others
        for values, root, weight in zip(self._spectra, self._roots, weights, strict=True):
            mean = -cho_solve((root, True), self._own @ (pulled / values).T).T
            z = pulled + mean @ self._own
            # density of all entries at the mean over that of the missing ones there
            score = -0.5 * (z**2 / values).sum(axis=1) - 0.5 * np.log(values).sum() - np.log(root.diagonal()).sum()
            means.append(mean)
            scores.append(np.log(weight) + score)
        likelihood = np.exp(np.array(scores) - np.max(scores, axis=0))
        return np.array(means), likelihood / likelihood.sum(axis=0)

    def mean(self, x: Float[np.ndarray, "sample vertex channel"]) -> Float[np.ndarray, "sample vertex channel"]:
        """Conditional mean, which ignores missing entries of x; observed values are returned unchanged."""
        flat = np.array(x, dtype=np.float64).reshape(len(x), -1)
        means, belief = self._known(flat)
        flat[:, ~self._seen] = np.einsum("ks,ksm->sm", belief, means)
        return flat.reshape(x.shape)

    def sample(
        self, x: Float[np.ndarray, "vertex channel"], n_samples: int, *, seed: int, first_member: int = 0, step: int = 0
    ) -> Float[np.ndarray, "member vertex channel"]:
        """Draw exactly given one set of observed values; arguments as in `ScaleMixtureField.sample`."""
        flat = np.array(x, dtype=np.float64).reshape(1, -1)
        means, belief = self._known(flat)
        edges, drawn = belief[:, 0].cumsum()[:-1], np.repeat(flat, n_samples, axis=0)
        n_vertices, channels = x.shape
        for i in range(n_samples):
            members, stream = [first_member + i], noise.Stream.CONDITIONAL
            numbers = noise.normals(seed, stream, members, step, n_vertices + 1, channels)[0]
            k = int(np.searchsorted(edges, ndtr(numbers[-1, 0]), side="right"))
            white = numbers[:-1].reshape(-1)[~self._seen]
            drawn[i, ~self._seen] = means[k, 0] + solve_triangular(self._roots[k].T, white)
        return drawn.reshape(n_samples, *x.shape)


def _times(t: float | Tensor, x: Tensor) -> Float[Tensor, " time"]:
    """Return times in double precision on the device of the states."""
    return torch.tensor(t.tolist() if isinstance(t, torch.Tensor) else [t], dtype=torch.float64, device=x.device)


def _lattices(graph: DependencyGraph, onto: DependencyGraph) -> tuple[Lattice, Lattice]:
    """Return the lattices; refuse a pair of which the second is no larger one of the same kind."""
    old, new = graph.lattice, onto.lattice
    if old is None or new is None or graph.keep is not None or onto.keep is not None:
        raise ValueError(f"onto must be a whole lattice, as the fitted graph, got {onto!r} for {graph!r}")
    if (old.periodic, old.diagonal) != (new.periodic, new.diagonal) or any(map(int.__gt__, old.shape, new.shape)):
        raise ValueError(f"onto must be a lattice like {graph!r} and no smaller, got {onto!r}")
    if any(around and n != m for around, n, m in zip(old.periodic, old.shape, new.shape, strict=True)):
        raise ValueError(
            f"onto must have the length of {graph!r} along axes without ends, around which no window fits, got "
            f"{onto!r}; fit patches with ends"
        )
    return old, new


def _places(length: int, onto: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return starts of windows along an axis; for each cell the window whose middle is nearest, and the place in it."""
    starts = np.unique([*range(0, onto - length, max(1, length // _STEPS)), onto - length])
    cells = np.arange(onto)
    window = np.abs(cells[:, None] - starts - (length - 1) / 2).argmin(axis=1)
    return starts, window, cells - starts[window]
