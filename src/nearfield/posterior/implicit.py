r"""Localized score matching without noise (Cui, Liu and Tong, arXiv 2410.11771; Hyvarinen 2005).

The score of the data at a vertex minimises, alone and over functions of its window,

.. math:: \mathrm E\big[\tfrac12 |s_j|^2 + \mathrm{div}_j\, s_j\big], \tag{C.1}

which differs from :math:`\tfrac12 \mathrm E |s_j - \nabla_{x_j} \log p|^2` by a constant. For linear combinations
:math:`\theta \cdot \phi` of features it is a quadratic form, least at :math:`\theta = -(A + \lambda)^{-1} b` with
:math:`A = \mathrm E[\phi \phi^\top]`, :math:`b = \mathrm E[\partial_j \phi]` and a ridge :math:`\lambda`.
"""

from __future__ import annotations

import abc
import copy
import itertools
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from torch.autograd import forward_ad

from nearfield._checks import whole_number
from nearfield.graph import DependencyGraph
from nearfield.module import Module, as_tensor
from nearfield.noise import Stream, normals, seed_of
from nearfield.score.window import WindowedNetwork

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

__all__ = ["DataScore", "NetworkDataScore", "PolynomialScore", "langevin"]

_RIDGES = 10.0 ** np.arange(-6, 1)  # that are tried, for features of unit mean square
_NUMBERS = 2**23  # features that are held at once


class DataScore(Module, abc.ABC):
    r"""Estimate of :math:`\nabla \log p` of the data themselves, at t = 0, each vertex from its window.

    Parameters
    ----------
    graph : DependencyGraph
    scale : array (channel,)
        That values are divided by before anything else.
    radius : int
        Hops of a window.
    """

    scale: Tensor
    index: Tensor
    present: Tensor

    def __init__(self, graph: DependencyGraph, scale: Float[np.ndarray, " channel"] | Tensor, radius: int) -> None:
        super().__init__()
        self.graph, self.radius = graph, whole_number("radius", radius, 0, "give the hops of a window")
        self.register_buffer("scale", as_tensor(scale))
        self.n_channels = len(self.scale)
        table = graph.neighborhood(self.radius)
        self.register_buffer("index", torch.tensor(table.index), persistent=False)
        self.register_buffer("present", torch.tensor(table.present), persistent=False)

    @abc.abstractmethod
    def on_windows(
        self, windows: Float[Tensor, "sample vertex width channel"]
    ) -> Float[Tensor, "sample vertex channel"]:
        """Score of the centres of scaled windows, in units of 1 / scale."""

    def gather(self, x: Float[Tensor, "sample vertex channel"]) -> Float[Tensor, "sample vertex width channel"]:
        """Scaled windows of all vertices, the vertex itself first; absent entries are 0."""
        return torch.where(self.present[..., None], (x / self.scale)[:, self.index], 0.0)

    def score(self, x: Float[Tensor, "sample vertex channel"]) -> Float[Tensor, "sample vertex channel"]:
        """Return the score at states."""
        return self.on_windows(self.gather(x)) / self.scale

    def loss(self, x: Float[Tensor, "sample vertex channel"]) -> Float[Tensor, " vertex"]:
        """Mean implicit loss (C.1) of each vertex; the divergence is a forward-mode product for each channel."""
        windows, divergence = self.gather(x), torch.zeros_like(x)
        for channel in range(self.n_channels):
            value, slope = self._product(windows, 0, channel)
            divergence = divergence + slope * (torch.arange(self.n_channels) == channel)
        return ((0.5 * value.square() + divergence) / self.scale**2).sum(-1).mean(0)

    @torch.no_grad()
    def hessian(
        self, x: Float[Tensor, "sample vertex channel"]
    ) -> Float[Tensor, "sample vertex width channel channel"]:
        r"""Local estimates of :math:`\partial s_j / \partial x_i` for i in the window of j, by forward-mode products.

        The last axis is the channel of i. Columns are those of ``graph.neighborhood(radius)``; absent entries are 0.
        """
        windows, columns = self.gather(x), []
        for k, channel in itertools.product(range(windows.shape[2]), range(self.n_channels)):
            columns.append(self._product(windows, k, channel)[1] / self.scale / self.scale[channel])
        found = torch.stack(columns, dim=-1).unflatten(-1, (-1, self.n_channels)).transpose(2, 3)
        return torch.where(self.present[:, :, None, None], found, 0.0)

    def _product(
        self, windows: Float[Tensor, "sample vertex width channel"], column: int, channel: int
    ) -> tuple[Float[Tensor, "sample vertex channel"], Float[Tensor, "sample vertex channel"]]:
        """Score, and its derivative by one entry of every window at once: each vertex reads a window of its own."""
        tangent = torch.zeros_like(windows)
        tangent[:, :, column, channel] = 1.0
        return _with_slope(self.on_windows, windows, tangent)


@final
class PolynomialScore(DataScore):
    r"""Polynomial of the window at each vertex; of degree 1 the score of a Gaussian.

    Parameters
    ----------
    graph, scale, radius
        As in `DataScore`.
    coefficients : array (vertex, channel, feature)
        Of monomials of scaled values, in the order of `terms_of`.
    degree : int
        Largest power of a vertex's own values.
    mixed : int
        Total degree of products of all values of the window, at most `degree`.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(4000, 3, 1))
    >>> score = PolynomialScore.fit(x, DependencyGraph.chain(3), radius=1)
    >>> score.score(torch.ones(1, 3, 1, dtype=torch.float64)).round().flatten().tolist()
    [-1.0, -1.0, -1.0]
    """

    settings = ("radius", "degree", "mixed")
    coefficients: Tensor
    terms: Tensor

    def __init__(
        self,
        graph: DependencyGraph,
        scale: Float[np.ndarray, " channel"] | Tensor,
        coefficients: Float[np.ndarray, "vertex channel feature"] | Tensor,
        radius: int = 1,
        degree: int = 1,
        mixed: int = 1,
    ) -> None:
        super().__init__(graph, scale, radius)
        self.degree, self.mixed = degree, mixed
        self.register_buffer("coefficients", as_tensor(coefficients))
        self.register_buffer(
            "terms", torch.from_numpy(self.terms_of(self.present.shape[1], self.n_channels, degree, mixed)), False
        )

    @staticmethod
    def terms_of(width: int, n_channels: int, degree: int, mixed: int) -> Int[np.ndarray, "feature power"]:
        """Entries that each monomial multiplies: 0 is the constant 1, then vertices and channels of the window."""
        degree = whole_number("degree", degree, 1, "1 is linear")
        if whole_number("mixed", mixed, 1, "1 is linear") > degree:
            raise ValueError(f"mixed must be at most degree, {degree}, got {mixed}")
        products = itertools.combinations_with_replacement(range(width * n_channels + 1), mixed)
        powers = itertools.combinations_with_replacement(range(n_channels + 1), degree)
        padded = {(0,) * (degree - mixed) + term for term in products} | set(powers)
        return np.array(sorted(padded))

    @classmethod
    def fit(
        cls,
        data: Float[np.ndarray, "sample vertex channel"],
        graph: DependencyGraph,
        radius: int = 1,
        degree: int = 1,
        mixed: int = 1,
        folds: int = 5,
    ) -> PolynomialScore:
        """Minimise the implicit loss in closed form, the ridge of each component by held-out loss.

        Parameters
        ----------
        data : float array (sample, vertex, channel)
        graph : DependencyGraph
        radius : int
            Hops of a window.
        degree, mixed : int
            As in the class.
        folds : int
            Every so-many-th sample is held out.

        Raises
        ------
        ValueError
            If there are fewer samples than folds, or values are not finite.
        """
        folds = whole_number("folds", folds, 2)
        x, scale = _checked(data, graph, folds)
        terms = cls.terms_of(graph.neighborhood(radius).index.shape[1], x.shape[2], degree, mixed)
        score = cls(graph, scale, np.zeros((len(graph), x.shape[2], len(terms))), radius, degree, mixed)
        windows, fold = score.gather(torch.from_numpy(x)), torch.arange(len(x)) % folds
        for chosen in torch.arange(len(graph)).split(max(1, _NUMBERS // (len(x) * len(terms)))):
            for channel in range(x.shape[2]):
                tangent = torch.zeros_like(windows[:, chosen])
                tangent[:, :, 0, channel] = 1.0
                phi, slope = _with_slope(score.features, windows[:, chosen], tangent)
                score.coefficients[chosen, channel] = _minimiser(phi.transpose(0, 1), slope.transpose(0, 1), fold)
        return score

    def features(self, windows: Float[Tensor, "sample row width channel"]) -> Float[Tensor, "sample row feature"]:
        """Monomials of the entries of windows."""
        entries = torch.cat([torch.ones_like(windows[..., :1, 0]), windows.flatten(2)], dim=-1)
        product = entries[..., self.terms[:, 0]]
        for column in self.terms.T[1:]:
            product = product * entries[..., column]
        return product

    def on_windows(
        self, windows: Float[Tensor, "sample vertex width channel"]
    ) -> Float[Tensor, "sample vertex channel"]:
        """Score of the centres of windows; as in `DataScore`."""
        return torch.einsum("nvf,vcf->nvc", self.features(windows), self.coefficients)


@final
class NetworkDataScore(DataScore):
    """Score of a network of windows, -x at first.

    Parameters
    ----------
    network : WindowedNetwork
        Without context; it reads noise level 0.
    scale : array (channel,)
        As in `DataScore`.

    Examples
    --------
    >>> from nearfield.score.window import WindowNetwork
    >>> score = NetworkDataScore(WindowNetwork(DependencyGraph.chain(3), radius=1), np.array([2.0]))
    >>> score.score(torch.ones(1, 3, 1)).flatten().tolist()
    [-0.25, -0.25, -0.25]
    """

    def __init__(self, network: WindowedNetwork, scale: Float[np.ndarray, " channel"] | Tensor) -> None:
        super().__init__(network.graph, as_tensor(scale).float(), network.radius)
        if network.n_context or network.vertices is not None or network.padding != "absent":
            raise ValueError("network must read all windows as they are, without context")
        self.network = network

    @classmethod
    def fit(
        cls,
        data: Float[np.ndarray, "sample vertex channel"],
        network: WindowedNetwork,
        epochs: int = 100,
        batch_size: int = 64,
        learning_rate: float = 1e-3,
        seed: int = 0,
    ) -> NetworkDataScore:
        """Minimise the implicit loss by Adam, and keep the weights of the least loss on every fifth sample.

        Parameters
        ----------
        data : float array (sample, vertex, channel)
        network : WindowedNetwork
            A trained copy is kept.
        epochs, batch_size : int
        learning_rate : float
            At first; it falls to 0 along a cosine.
        seed : int
            Of the order of the samples.

        Raises
        ------
        ValueError
            If there are fewer than 5 samples, or values are not finite.
        """
        x, scale = _checked(data, network.graph, 5)
        score = cls(copy.deepcopy(network).requires_grad_(True), scale)
        states, out = torch.from_numpy(x).float(), torch.arange(len(x)) % 5 == 0
        kept, held = states[~out], states[out]
        optimizer = torch.optim.Adam(score.network.parameters(), lr=learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
        generator = torch.Generator().manual_seed(seed)
        best, weights = float("inf"), copy.deepcopy(score.network.state_dict())
        for _ in range(epochs):
            for batch in torch.randperm(len(kept), generator=generator).split(batch_size):
                optimizer.zero_grad()
                score.loss(kept[batch]).mean().backward()
                optimizer.step()
            schedule.step()
            with torch.no_grad():
                loss = score.loss(held).mean().item()
            if loss < best:
                best, weights = loss, copy.deepcopy(score.network.state_dict())
        score.network.load_state_dict(weights)
        return score.requires_grad_(False)

    def on_windows(
        self, windows: Float[Tensor, "sample vertex width channel"]
    ) -> Float[Tensor, "sample vertex channel"]:
        """Score of the centres of windows; as in `DataScore`."""
        return self.network.on_windows(windows, None, torch.zeros_like(windows[:, :1, 0, 0])) - windows[:, :, 0]


@torch.no_grad()
def langevin(
    score: DataScore,
    start: Float[np.ndarray, "member vertex channel"],
    *,
    step_size: float,
    n_steps: int,
    seed: int = 0,
) -> Float[np.ndarray, "member vertex channel"]:
    r"""Run unadjusted Langevin chains, :math:`x \leftarrow x + h s(x) + \sqrt{2h}\,\xi`; a fitted score has no density.

    Parameters
    ----------
    score : DataScore
    start : float array (member, vertex, channel)
        For example samples.
    step_size : float
        h, in squared units of the field; variances err by its share of them.
    n_steps : int
    seed : int
        In [0, 2**64).

    Raises
    ------
    ValueError
        If `step_size` is not positive, or the chains leave every bound.

    Examples
    --------
    >>> score = PolynomialScore(DependencyGraph.chain(1), np.ones(1), np.array([[[0.0, -1.0]]]), radius=0)
    >>> x = langevin(score, np.zeros((4000, 1, 1)), step_size=0.1, n_steps=40)
    >>> bool(abs(x.var() - 1 / (1 - 0.05)) < 0.1)
    True
    """
    if not 0 < step_size < float("inf"):
        raise ValueError(f"step_size must be positive and finite, got {step_size}")
    seed, n_steps = seed_of(seed), whole_number("n_steps", n_steps, 1)
    x = torch.from_numpy(np.array(start)).to(score.scale.dtype)
    for k in range(n_steps):
        xi = torch.from_numpy(normals(seed, Stream.STEP, range(len(x)), k, *x.shape[1:])).to(x.dtype)
        x = x + step_size * score.score(x) + (2 * step_size) ** 0.5 * xi
    if not x.isfinite().all():
        raise ValueError(f"step_size must be smaller than {step_size}, or the score pulls nowhere back: chains diverge")
    return x.numpy()


def _with_slope(f: Callable[[Tensor], Tensor], x: Tensor, tangent: Tensor) -> tuple[Tensor, Tensor]:
    """Value of a function and its derivative along a tangent, by forward mode."""
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.filterwarnings("ignore", ".*torch.jit.script.*", DeprecationWarning)  # torch's own, at the first use
        value, slope = forward_ad.unpack_dual(f(forward_ad.make_dual(x, tangent)))
    return value, torch.zeros_like(value) if slope is None else slope


def _checked(
    data: Float[np.ndarray, "sample vertex channel"], graph: DependencyGraph, least: int
) -> tuple[Float[np.ndarray, "sample vertex channel"], Float[np.ndarray, " channel"]]:
    """Return data and the scale of each channel."""
    x = np.asarray(data, dtype=np.float64)
    if x.ndim != 3 or x.shape[1] != len(graph) or len(x) < least:
        raise ValueError(
            f"data must have shape (sample, {len(graph)}, channel) with at least {least} samples, got {x.shape}"
        )
    if not np.isfinite(x).all():
        raise ValueError("data must be finite, got nan or inf")
    return x, np.sqrt(np.square(x).mean((0, 1)))


def _minimiser(
    phi: Float[Tensor, "vertex sample feature"],
    slope: Float[Tensor, "vertex sample feature"],
    fold: Int[Tensor, " sample"],
) -> Float[Tensor, "vertex feature"]:
    """Coefficients of least implicit loss, with the ridge of least held-out loss at each vertex."""
    norm = phi.square().mean(1, keepdim=True).sqrt()
    norm = torch.where(norm > 0, norm, 1.0)
    phi, slope, ridges = phi / norm, slope / norm, torch.from_numpy(_RIDGES)
    parts = [(phi[:, fold == k], slope[:, fold == k]) for k in range(int(fold.max()) + 1)]
    second = torch.stack([p.mT @ p for p, _ in parts])
    first = torch.stack([s.sum(1) for _, s in parts])
    count = torch.bincount(fold).double()
    loss = phi.new_zeros(len(phi), len(ridges))
    for k, (A, b) in enumerate(zip(second, first, strict=True)):
        rest = count.sum() - count[k]
        theta = _solved((second.sum(0) - A) / rest, (first.sum(0) - b) / rest, ridges)
        loss += (0.5 * (theta @ A * theta) + theta * b[:, None]).sum(-1)
    theta = _solved(second.sum(0) / count.sum(), first.sum(0) / count.sum(), ridges)
    best = loss.argmin(1)[:, None, None].expand(-1, 1, theta.shape[2])
    return theta.gather(1, best)[:, 0] / norm[:, 0]


def _solved(
    A: Float[Tensor, "vertex feature feature"], b: Float[Tensor, "vertex feature"], ridges: Float[Tensor, " ridge"]
) -> Float[Tensor, "vertex ridge feature"]:
    """Return -(A + ridge)^{-1} b for every ridge."""
    values, vectors = torch.linalg.eigh(A)
    inside: Tensor = (b[:, None] @ vectors) / (values.clamp(min=0)[:, None] + ridges[:, None])
    theta: Tensor = -inside @ vectors.mT
    return theta
