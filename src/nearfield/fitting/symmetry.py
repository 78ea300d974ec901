r"""Symmetries of fields on lattices, found in the data and used in training.

The score of a law that does not change under a reflection of an axis, an exchange of two axes, a quarter turn or a
change of sign changes along with the state. Networks learn that badly from few samples, so that they are trained on
images of the samples too, drawn at random.

Whether the data have a symmetry is tested: bounded moments of one to three cells are computed of each sample and of its
image, and their differences have no preferred sign if the law is symmetric. The largest of them, each in units of its
own root mean square, is compared with what it would be with random signs: where samples are independent and nothing was
estimated from them, a test whose level is exact whatever the law. A quarter turn has two: of the half turn, and of the
moments of a sample and its half turn less those of the quarter turns between them, whose sign a turn changes. (Data
less their own mean pass "negate" more often than they should.) An asymmetry that shows in no such moment is not found;
``Recipe(symmetries=...)`` can rule it out.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, final

import numpy as np
import torch

from nearfield.graph import DependencyGraph
from nearfield.noise import Stream
from nearfield.samples import Samples

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

__all__ = ["Symmetry", "candidates", "chosen", "drawn", "moments", "named", "p_value"]

SIGNIFICANCE = 0.01
"""Smallest p-value of a symmetry that is used."""
FEWEST = 20
"""Samples, or blocks of them, that a test needs."""
SIGNINGS = 999
"""Random signings of the differences."""
LARGEST = 500
"""Samples that are tested; more are thinned."""
CHUNK = 2**22
"""Numbers of samples that are looked at together."""
PAIRS = ((1, 1), (1, 2), (2, 1), (2, 2), (1, 3), (3, 1))
"""Powers of the two cells of a pair."""
ACROSS = ((1, 1), (1, 2), (2, 1))
"""Those of a pair of different channels, or a knight's move apart."""


@final
class Symmetry(NamedTuple):
    """A map of the fields on a lattice onto themselves; but for quarter turns it is its own inverse.

    Attributes
    ----------
    name : str
        ``"reflect 0"``, ``"reflect all"``, ``"exchange 0 1"``, ``"antitranspose 0 1"``, ``"turn 0 1"``, ``"negate"``.
    source : ndarray of int, shape (vertex,)
        Vertex whose value each vertex gets.
    sign : float
        Factor of the values: 1 or -1.
    """

    name: str
    source: Int[np.ndarray, " vertex"]
    sign: float

    def of(self, x: Float[np.ndarray, "sample vertex channel"]) -> Float[np.ndarray, "sample vertex channel"]:
        """Return the images of fields."""
        return self.sign * x[:, self.source]

    def on(self, device: torch.device) -> tuple[Int[Tensor, " vertex"], float]:
        """Return source and sign, the source on a device."""
        return torch.from_numpy(self.source).to(device), self.sign


def candidates(graph: DependencyGraph) -> tuple[Symmetry, ...]:
    """Symmetries that a law on this graph may have: maps of its vertices that keep all edges, and the change of sign.

    Where cells are missing, they must be missing in the image too. Other graphs than lattices have none.

    Examples
    --------
    >>> [symmetry.name for symmetry in candidates(DependencyGraph.grid((4, 4)))]
    ['reflect all', 'reflect 0', 'reflect 1', 'exchange 0 1', 'antitranspose 0 1', 'turn 0 1', 'negate']
    """
    lattice = graph.lattice
    if lattice is None:
        return ()
    axes = range(len(lattice.shape))
    cells = np.arange(lattice.n_cells).reshape(lattice.shape)
    maps = {"reflect all": np.flip(cells)} if len(axes) > 1 else {}
    maps |= {f"reflect {axis}": np.flip(cells, axis) for axis in axes}
    for one, other in itertools.combinations(axes, 2):
        if lattice.shape[one] == lattice.shape[other] and lattice.periodic[one] == lattice.periodic[other]:
            exchanged = np.swapaxes(cells, one, other)
            maps[f"exchange {one} {other}"] = exchanged
            maps[f"antitranspose {one} {other}"] = np.flip(exchanged, (one, other))
            maps[f"turn {one} {other}"] = np.flip(exchanged, one)
    keep = np.ones(lattice.n_cells, dtype=bool) if graph.keep is None else graph.keep.reshape(-1)
    vertex = np.cumsum(keep) - 1
    found = [
        Symmetry(name, vertex[image.reshape(-1)[keep]], 1.0)
        for name, image in maps.items()
        if keep[image.reshape(-1)[keep]].all() and not np.array_equal(image, cells)
    ]
    return (*found, Symmetry("negate", np.arange(int(keep.sum())), -1.0))


def named(names: tuple[str, ...], graph: DependencyGraph) -> tuple[Symmetry, ...]:
    """Return the symmetries of these names.

    Raises
    ------
    ValueError
        If the graph has none of a name.
    """
    possible = candidates(graph)
    known = [symmetry.name for symmetry in possible]
    for name in names:
        if name not in known:
            raise ValueError(f"symmetries must be of {known} on {graph!r}, got {name!r}; () uses none")
    return tuple(symmetry for symmetry in possible if symmetry.name in names)


def chosen(samples: Samples, which: str | tuple[str, ...], seed: int) -> tuple[Symmetry, ...]:
    """Symmetries by name, or for ``"auto"`` those that the samples do not show to be broken.

    Quarter turns and antitransposes that follow from two others are left out.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(50, 12, 1))
    >>> chain = DependencyGraph.chain(12)
    >>> [s.name for s in chosen(Samples(x, chain), "auto", seed=0)]
    ['reflect 0', 'negate']
    >>> [s.name for s in chosen(Samples(x**2, chain), "auto", seed=0)]
    ['reflect 0']
    """
    graph = samples.graph
    if isinstance(which, tuple):
        return named(which, graph)
    x = samples.values[:: -(-len(samples) // LARGEST)]
    found: list[Symmetry] = []
    for symmetry in candidates(graph):
        if symmetry.name.startswith(("turn", "antitranspose")) and _follows(symmetry, found):
            continue
        tests = _differences(symmetry, x, graph)
        if all(p_value(each, ordered=samples.ordered, seed=seed) >= SIGNIFICANCE for each in tests):
            found.append(symmetry)
    return tuple(found)


def _follows(symmetry: Symmetry, found: Sequence[Symmetry]) -> bool:
    """Whether a symmetry is the product of two others."""
    pairs = itertools.permutations(found, 2)
    return any(np.array_equal(one.source[other.source], symmetry.source) for one, other in pairs)


def _differences(
    symmetry: Symmetry, x: Float[np.ndarray, "sample vertex channel"], graph: DependencyGraph
) -> Iterator[Float[np.ndarray, "sample moment"]]:
    """Differences of moments that have no preferred sign if the law has the symmetry."""
    here, once = moments(x, graph), moments(symmetry.of(x), graph)
    if np.array_equal(symmetry.source[symmetry.source], np.arange(len(symmetry.source))):
        yield here - once
        return
    half = symmetry.of(symmetry.of(x))
    twice = moments(half, graph)
    yield here - twice
    yield here + twice - once - moments(symmetry.of(half), graph)


def p_value(difference: Float[np.ndarray, "sample moment"], *, ordered: bool, seed: int) -> float:
    """Of the hypothesis that differences have no preferred sign; 0 where samples are too few to say anything.

    Of any number of moments the largest mean counts, each in units of its root mean square, and is compared with the
    largest under random signs, which are the same for all moments of a sample.

    Examples
    --------
    >>> difference = np.random.default_rng(0).normal(size=(100, 5))
    >>> p_value(difference, ordered=False, seed=0) > 0.1, p_value(difference + 0.5, ordered=False, seed=0)
    (True, 0.001)
    """
    if ordered:
        blocks = np.array_split(difference, min(FEWEST, len(difference)))
        difference = np.array([block.mean(axis=0) for block in blocks])
    if len(difference) < FEWEST:
        return 0.0
    size = np.sqrt((difference**2).sum(axis=0))
    changed = size > 1e-9 * len(difference)
    if not changed.any():
        return 1.0
    difference = difference[:, changed] / size[changed]
    signs = np.random.default_rng([seed, Stream.TRAINING]).choice([-1.0, 1.0], (SIGNINGS, len(difference)))
    largest = np.abs(signs @ difference).max(axis=1)
    return float(1 + (largest >= np.abs(difference.sum(axis=0)).max() - 1e-12).sum()) / (SIGNINGS + 1)


def moments(
    x: Float[np.ndarray, "sample vertex channel"], graph: DependencyGraph
) -> Float[np.ndarray, "sample moment"]:
    """Means, over each sample, of products of bounded powers of some cells near one another."""
    assert graph.lattice is not None
    lattice, channels = graph.lattice, x.shape[2]
    where = np.arange(lattice.n_cells) if graph.keep is None else np.flatnonzero(graph.keep)
    parts = []
    for part in np.array_split(x, max(1, math.ceil(x.size / CHUNK))):
        cells = np.zeros((len(part), lattice.n_cells, channels))
        cells[:, where] = np.tanh(part)
        z = cells.reshape(len(part), *lattice.shape, channels)
        power = (np.ones_like(z), z, z * z, z * z * z)
        axes = tuple(range(1, z.ndim - 1))
        parts.append(
            np.concatenate(
                [
                    _products(power, shape, powers, shift).mean(axis=axes)
                    for shape, powers, shift in _patterns(lattice.shape, channels)
                ],
                axis=1,
            )
        )
    return np.concatenate(parts)


def _products(
    power: tuple[np.ndarray, ...], shape: tuple[tuple[int, ...], ...], powers: tuple[int, ...], shift: int
) -> Float[np.ndarray, "sample *axes channel"]:
    """Products over a pattern wherever it fits, powers of cells at offsets; the last is of `shift` channels further."""
    least, most = np.min(shape, axis=0), np.max(shape, axis=0)
    lengths = power[0].shape[1:-1]
    product: np.ndarray | None = None
    for number, (offset, exponent) in enumerate(zip(shape, powers, strict=True)):
        starts = np.array(offset) - least
        box = (slice(None), *(slice(k, k + n - e) for k, n, e in zip(starts, lengths, most - least, strict=True)))
        factor = power[exponent][box]
        if shift and number == len(shape) - 1:
            factor = np.roll(factor, -shift, axis=-1)
        product = factor if product is None else product * factor
    assert product is not None
    return product


def _patterns(
    lengths: tuple[int, ...], channels: int
) -> list[tuple[tuple[tuple[int, ...], ...], tuple[int, ...], int]]:
    """Offsets of cells, their powers and the channels between the last and the others, extending over half an axis."""
    axes, unit = range(len(lengths)), np.eye(len(lengths), dtype=int)
    here = 0 * unit[0]
    steps = [k * unit[axis] for axis in axes for k in (1, 2, 4)]
    corners = list(itertools.combinations(axes, 2))
    steps += [k * (unit[one] + side * unit[other]) for one, other in corners for k in (1, 2) for side in (1, -1)]
    found: list[tuple[tuple[np.ndarray, ...], tuple[int, ...], int]] = [((here,), (k,), 0) for k in (1, 2, 3)]
    found += [((here, step), powers, 0) for step in steps for powers in PAIRS]
    knights = [(far, side * near) for near, far in ((1, 2), (2, 1)) for side in (1, -1)]  # no turn makes their mirror
    found += [
        ((here, j * unit[one] + k * unit[other]), powers, 0)
        for one, other in corners
        for j, k in knights
        for powers in ACROSS
    ]
    found += [
        ((here, j * unit[axis], k * unit[axis]), (1, 1, 1), 0) for axis in axes for j, k in ((1, 2), (1, 3), (2, 3))
    ]
    found += [((here, unit[one], unit[other]), (1, 1, 1), 0) for one, other in corners]
    for shift in range(1, channels):
        found += [((here, step), powers, shift) for step in (here, *steps) for powers in ACROSS]
    return [
        (tuple(tuple(int(k) for k in offset) for offset in shape), powers, shift)
        for shape, powers, shift in found
        if all(2 * np.ptp(shape, axis=0) <= lengths)
    ]


def drawn(
    maps: Sequence[tuple[Int[Tensor, " vertex"], float]],
    x: Float[Tensor, "sample vertex channel"],
    generator: torch.Generator,
) -> Float[Tensor, "sample vertex channel"]:
    """Images of samples under random elements of the group: each symmetry is applied to each sample or not."""
    for source, sign in maps:
        applied = torch.rand(len(x), generator=generator, device=x.device) < 0.5
        x = torch.where(applied[:, None, None], sign * x[:, source], x)
    return x
