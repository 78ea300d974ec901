r"""The trace of a denoiser's Jacobian, :math:`\sum_i \partial D_i / \partial x_i`, which the density of a flow needs.

A linear denoiser has it in closed form. That of a network of radius r is D = h(x, g(x)), where g is what its context
makes of the state and h is local: it reads x within r hops of a vertex, and g within r'. One forward-mode product with
the tangents

.. math:: \dot x = \sum_{i \in c} e_i, \qquad \dot g_j = \partial g_j / \partial x_{i(j)},

i(j) the vertex of colour c within r' of j, gives :math:`\partial D_i / \partial x_i` at every vertex of a colour c
whose vertices are more than max(r, 2 r') apart, exactly, although D reads as far as the context does. The number of
colours follows from the radius of the network alone, and all colours are one batch. Any other denoiser leaves an
unbiased estimate, :math:`\epsilon^\top J \epsilon` with random signs (Hutchinson, Commun. Stat.
Simul. Comput. 19, 1990).
"""

from __future__ import annotations

import abc
import warnings
from collections.abc import Callable
from functools import cached_property, singledispatch
from typing import TYPE_CHECKING, TypeAlias, cast, final

import numpy as np
import torch
from torch import Tensor

from nearfield.graph.coloring import distant_coloring
from nearfield.noise import Stream, normals
from nearfield.score.base import Score
from nearfield.score.ensemble import EnsembleScore
from nearfield.score.hybrid import HybridScore

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from nearfield.score.network import Network

__all__ = ["Divergence", "RandomSigns", "exact_divergence"]

MEMORY = 2**28
"""Approximate numbers of a batch of products (1 GiB in single precision)."""


class Divergence(abc.ABC):
    """Denoiser of a score with the trace of its Jacobian.

    Attributes
    ----------
    n_products : int
        Forward-mode products of a trace.
    """

    n_products: int

    @abc.abstractmethod
    def __call__(
        self, x: Float[Tensor, "sample vertex channel"], t: float, first: int, step: int
    ) -> tuple[Float[Tensor, "sample vertex channel"], Float[Tensor, "probe #sample"]]:
        """Return D and its trace at an OU time above 0, or independent estimates of it.

        ``first`` is the number of the first sample and ``step`` that of the evaluation, which random numbers depend on.
        """


@final
class _Closed(Divergence):
    """Trace of a denoiser with a Jacobian of closed form."""

    n_products = 0

    def __init__(self, score: Score) -> None:
        self._score = score

    def __call__(self, x: Tensor, t: float, first: int, step: int) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Sum the blocks of the diagonal."""
        own = torch.arange(self._score.n_vertices, device=x.device)[:, None]
        blocks = self._score.local_jacobian(x, t, own)
        assert blocks is not None
        return self._score.denoise(x, t), torch.einsum("svckc->s", blocks)[None]


Local: TypeAlias = Callable[[Tensor, Tensor | None], Tensor]
"""h: the denoiser as a function of the state and of what the context makes of it."""


@final
class _Colored(Divergence):
    """Trace of the denoiser of a network, by colours of its graph.

    Parameters
    ----------
    score : Score
    network : Network
        Its network, which decides how far apart the vertices of a colour are.
    """

    def __init__(self, score: Score, network: Network) -> None:
        self._score, self._network = score, network
        self._context = score.context if isinstance(score, HybridScore) else None
        reach = 0 if self._context is None else 2 * network.context_radius
        self._color = distant_coloring(network.graph, max(network.radius, reach))
        self.n_products = (int(self._color.max()) + 1) * score.n_channels

    def __call__(self, x: Tensor, t: float, first: int, step: int) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Return D and the sum over colours."""
        local, context, tangents = self._prepared(x, t)
        own = self._tangents(x)
        chunk = max(1, MEMORY // max(1, len(x) * self._score.numbers_per_sample))
        found = []
        for start in range(0, len(own), chunk):
            part = own[start : start + chunk]
            moved = None if tangents is None else tangents[start : start + chunk]
            product = _products(local, x, context, part, moved)
            found.append(torch.einsum("psvc,pvc->s", product, part[:, 0]))
        return local(x, context), torch.stack(found).sum(dim=0)[None]

    def _prepared(self, x: Tensor, t: float) -> tuple[Local, Tensor | None, Tensor | None]:
        """Return h, D_G of the state and its tangents for each product, in the order of `_tangents`."""
        score = self._score
        if not isinstance(score, HybridScore):
            return lambda y, _: score.denoise(y, t), None, None
        denoised, variance = score.context.denoise_with_variance(x, t)

        def local(y: Tensor, given: Tensor | None) -> Tensor:
            assert given is not None
            return score.precondition_given(y, t, given, variance).denoise(score.network, y, t)

        index, column = (torch.from_numpy(each).to(x.device) for each in self._columns)
        blocks = score.context.local_jacobian(x, t, index)
        assert blocks is not None
        padded = torch.cat([blocks, torch.zeros_like(blocks[:, :, :, :1])], dim=3)
        vertices = torch.arange(score.n_vertices, device=x.device)
        chosen = padded[:, vertices, :, column]  # (color, vertex, sample, channel, channel moved)
        return local, denoised, chosen.permute(0, 4, 2, 1, 3).flatten(0, 1)

    def _tangents(self, x: Tensor) -> Float[Tensor, "product 1 vertex channel"]:
        """Tangents of the state: those of one colour, one channel after the other."""
        colors = torch.from_numpy(self._color == np.arange(self._color.max() + 1)[:, None]).to(x)
        channels = torch.eye(self._score.n_channels, dtype=x.dtype, device=x.device)
        return torch.einsum("pv,cd->pcvd", colors, channels).flatten(0, 1)[:, None]

    @cached_property
    def _columns(self) -> tuple[Int[np.ndarray, "vertex width"], Int[np.ndarray, "color vertex"]]:
        """Vertices within the radius of the context, and for each colour the column of the one that has it, or none."""
        table = self._network.graph.neighborhood(self._network.context_radius)
        color, width = np.where(table.present, self._color[table.index], -1), table.index.shape[1]
        same = color == np.arange(self._color.max() + 1)[:, None, None]
        return np.array(table.index), np.where(same.any(axis=2), same.argmax(axis=2), width)


@final
class _Mean(Divergence):
    """Mean of several divergences."""

    def __init__(self, parts: list[Divergence]) -> None:
        self._parts, self.n_products = parts, max(part.n_products for part in parts)

    def __call__(self, x: Tensor, t: float, first: int, step: int) -> tuple[Tensor, Tensor]:
        """Return the means."""
        denoised, traces = zip(*(part(x, t, first, step) for part in self._parts), strict=True)
        return torch.stack(denoised).mean(dim=0), torch.stack(traces).mean(dim=0)


@final
class RandomSigns(Divergence):
    """Unbiased estimates of the trace by random signs, others for each sample and step."""

    def __init__(self, score: Score, n_products: int = 2, seed: int = 0) -> None:
        self._score, self.n_products, self._seed = score, n_products, seed

    def __call__(self, x: Tensor, t: float, first: int, step: int) -> tuple[Tensor, Tensor]:
        """Return D and an estimate for each product."""
        size = self._score.n_vertices, self._score.n_channels
        members = range(first, first + len(x))
        drawn = [
            normals(self._seed, Stream.EVALUATION, members, step * self.n_products + k, *size)
            for k in range(self.n_products)
        ]
        signs = torch.from_numpy(np.sign(np.stack(drawn))).to(x)
        product = _products(lambda y, _: self._score.denoise(y, t), x, None, signs, None)
        return self._score.denoise(x, t), (product * signs).flatten(2).sum(dim=2)


def _products(
    local: Local,
    x: Float[Tensor, "sample vertex channel"],
    context: Float[Tensor, "sample vertex channel"] | None,
    tangents: Float[Tensor, "product #sample vertex channel"],
    moved: Float[Tensor, "product #sample vertex channel"] | None,
) -> Float[Tensor, "product sample vertex channel"]:
    """Return the derivatives of h along each tangent, in one batch."""

    def along(v: Tensor, w: Tensor | None) -> Tensor:
        if context is None or w is None:
            out: Tensor = torch.func.jvp(lambda y: local(y, None), (x,), (v.expand_as(x),))[1]
        else:
            out = torch.func.jvp(local, (x, context), (v.expand_as(x), w.expand_as(context)))[1]
        return out

    with warnings.catch_warnings():  # torch itself uses what it deprecates, when forward mode is first asked for
        warnings.filterwarnings("ignore", ".*torch.jit.script", DeprecationWarning)
        together: Tensor = torch.func.vmap(along, in_dims=(0, None if moved is None else 0))(tangents, moved)
    return together


@singledispatch
def exact_divergence(score: Score) -> Divergence | None:
    """Return the divergence of a score from its Jacobian or by the colours of its network; None if it has neither."""
    if _closed(score):
        return _Closed(score)
    network = getattr(score, "network", None)
    return _Colored(score, network) if network is not None and score.radius == network.radius else None


@exact_divergence.register
def _(score: HybridScore) -> Divergence | None:
    return _Colored(score, score.network) if _closed(score.context) else None


@exact_divergence.register
def _(score: EnsembleScore) -> Divergence | None:
    parts = [exact_divergence(cast("Score", network)) for network in score.networks]
    found = [part for part in parts if part is not None]
    return _Mean(found) if len(found) == len(parts) else None


def _closed(score: Score) -> bool:
    """Whether the Jacobian of a score has a closed form."""
    x = torch.zeros(1, score.n_vertices, score.n_channels, dtype=torch.float64)
    return score.local_jacobian(x, 1.0, torch.arange(score.n_vertices)[:, None]) is not None
