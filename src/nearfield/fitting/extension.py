"""One law on a larger lattice: every new vertex takes the score of a fitted vertex whose window is cut off as its own.

A stationary law is fitted on whatever domain the samples cover; by locality its scores hold on any larger one (the
extended-domain models of Remark 2.2 of arXiv 2505.04417).
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from nearfield.graph import DependencyGraph
from nearfield.graph.coarsening import coarsen
from nearfield.score.base import Score
from nearfield.score.ensemble import EnsembleScore
from nearfield.score.field import CoarseLaw, GaussianField
from nearfield.score.gaussian import WindowedGaussianScore, WindowSpectrum
from nearfield.score.hybrid import HybridScore, NetworkScore
from nearfield.score.network import Network
from nearfield.score.stencil import StencilNetwork
from nearfield.score.switch import SwitchedScore

if TYPE_CHECKING:
    from jaxtyping import Int

__all__ = ["extend"]


def extend(score: Score, graph: DependencyGraph, onto: DependencyGraph) -> Score:
    """Carry a score over to another lattice of the same kind.

    Parameters
    ----------
    score : GaussianField, WindowedGaussianScore, NetworkScore, HybridScore, EnsembleScore or SwitchedScore
        Of one law: fitted with complete pooling, without site embeddings.
    graph : DependencyGraph
        The whole lattice it was fitted on.
    onto : DependencyGraph
        A whole lattice with as many axes, as periodic and as diagonal.

    Returns
    -------
    Score

    Raises
    ------
    ValueError
        If the lattices are not of one kind, the new one has windows cut off in ways the old one has not, or a network
        has site embeddings, or scores of this class cannot be carried over.
    """
    if isinstance(score, SwitchedScore):
        field, hybrid = extend(score.field, graph, onto), extend(score.hybrid, graph, onto)
        assert isinstance(field, GaussianField)
        assert isinstance(hybrid, HybridScore | EnsembleScore)
        return SwitchedScore(field, hybrid, score.choice)
    if isinstance(score, EnsembleScore):
        members = []
        for member in score.members:
            extended = extend(member, graph, onto)
            assert isinstance(extended, HybridScore | NetworkScore)
            members.append(extended)
        return EnsembleScore(tuple(members))
    if isinstance(score, HybridScore):
        gaussian = extend(score.gaussian, graph, onto)
        assert isinstance(gaussian, WindowedGaussianScore)
        return HybridScore(_network(score.network, graph, onto), gaussian, score.quadratic)
    if isinstance(score, NetworkScore):
        return NetworkScore(_network(score.network, graph, onto))
    if isinstance(score, WindowedGaussianScore):
        windows = {}
        for radius, window in score.windows.items():
            like = _alike(graph, onto, radius)
            index = onto.neighborhood(radius).index
            windows[radius] = WindowSpectrum(index, window.values, window.vectors, window.law[like])
        return WindowedGaussianScore(windows, score.radius_by_time, score.n_channels)
    if isinstance(score, GaussianField):
        return _field(score, graph, onto)
    raise ValueError(
        f"score must be one that can be extended, got {type(score).__name__}; fit method='hybrid' or 'gaussian'"
    )


def _alike(
    graph: DependencyGraph, onto: DependencyGraph, radius: int, *, earlier: bool = False
) -> Int[np.ndarray, " vertex"]:
    """For each vertex of the new lattice one of the old whose window, or its earlier part, has the same members."""
    if graph.lattice is not None and onto.lattice is not None and not earlier:
        grown = [n for n, m in zip(graph.lattice.shape, onto.lattice.shape, strict=False) if m > n]
        if grown and min(grown) < 2 * radius + 1:
            raise ValueError(
                f"onto may be longer along axes of {2 * radius + 1} vertices or more, where windows of {radius} hops "
                f"have been seen whole, got {onto!r} for {graph!r}; fit larger samples or a smaller radius"
            )
    old, new = (lattice.neighborhood(radius) for lattice in (graph, onto))
    if old.offsets is None or new.offsets is None or not np.array_equal(old.offsets, new.offsets):
        raise ValueError(
            f"onto must be a lattice like {graph!r}, wider than its windows of radius {radius}, got {onto!r}"
        )
    there = [
        table.present & (table.index < np.arange(len(table.index))[:, None]) if earlier else table.present
        for table in (old, new)
    ]
    known = {row.tobytes(): vertex for vertex, row in reversed(list(enumerate(np.packbits(there[0], axis=1))))}
    rows, where = np.unique(np.packbits(there[1], axis=1), axis=0, return_inverse=True)
    missing = [row for row in rows if row.tobytes() not in known]
    if missing:
        raise ValueError(
            f"onto must cut windows of radius {radius} off only as {graph!r} does, got {onto!r}; make it "
            "larger, or fit larger samples or a smaller radius"
        )
    return np.array([known[row.tobytes()] for row in rows])[where.reshape(-1)]


def _network(network: Network, graph: DependencyGraph, onto: DependencyGraph) -> Network:
    if not isinstance(network, StencilNetwork) or network.site.size:
        raise ValueError(
            "a network must be one law on a lattice to be extended, got one with numbers of each vertex; give pooling=1"
        )
    _alike(graph, onto, network.radius)  # refuses windows that it has never seen
    larger = StencilNetwork(onto, **network.settings()).to(network.enter.weight)
    weights = {name: value for name, value in network.state_dict().items() if not name.startswith("site.")}
    larger.load_state_dict(weights, strict=False)
    return larger.requires_grad_(False)


def _field(field: GaussianField, graph: DependencyGraph, onto: DependencyGraph) -> GaussianField:
    """Repeat the rows of the whitening factor: on lattices the order is lexicographic, a row a set of offsets."""
    assert graph.lattice is not None
    assert onto.lattice is not None
    channels = field.n_channels
    like = _alike(graph, onto, field.hops, earlier=True)
    factor = sp.coo_array(field.factor)
    (at, own), (to, other) = (divmod(np.asarray(index, dtype=np.int64), channels) for index in factor.coords)
    place, target = (
        np.stack(np.unravel_index(np.arange(lattice.n_cells), lattice.shape), axis=1)
        for lattice in (graph.lattice, onto.lattice)
    )
    ahead = place[to] - place[at]
    shape, around = np.array(graph.lattice.shape), np.array(graph.lattice.periodic)
    ahead = np.where(around, (ahead + shape // 2) % shape - shape // 2, ahead)  # the short way around
    rows, columns, values = [], [], []
    for representative in np.unique(like):
        entries, vertices = at == representative, np.flatnonzero(like == representative)
        reached = (target[vertices][:, None] + ahead[entries]) % onto.lattice.shape
        column = np.ravel_multi_index(tuple(np.moveaxis(reached, -1, 0)), onto.lattice.shape)
        rows.append((vertices[:, None] * channels + own[entries]).ravel())
        columns.append((column * channels + other[entries]).ravel())
        values.append(np.broadcast_to(factor.data[entries], (len(vertices), int(entries.sum()))).ravel())
    size = onto.n_vertices * channels
    data, row, column = (np.concatenate(part) for part in (values, rows, columns))
    larger = sp.csr_array((data, (row, column)), shape=(size, size))
    larger.sort_indices()
    return GaussianField(larger, np.arange(onto.n_vertices), channels, field.hops, _coarse(field, graph, onto))


def _coarse(field: GaussianField, graph: DependencyGraph, onto: DependencyGraph) -> CoarseLaw | None:
    """Law of the block means of the larger lattice; none, with a warning, where blocks are too few to tell of more."""
    if field.coarse is None:
        return None
    old, new = coarsen(graph, field.coarse.step), coarsen(onto, field.coarse.step)
    try:
        law = _field(field.coarse.law, old.graph, new.graph)
    except ValueError:
        warnings.warn(
            f"the correction at larger scales is lost: blocks of {field.coarse.step} cells a side on {graph!r} are too "
            f"few to tell of those on {onto!r}; fit larger samples",
            stacklevel=2,
        )
        return None
    size = np.repeat(field.coarse.size[:1], new.graph.n_vertices, axis=0)
    return CoarseLaw(new.label, new.step, size, law)
