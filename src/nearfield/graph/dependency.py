r"""Dependency graphs: which components of the field depend directly on which.

Vertices are the blocks X_j of the field, edges the pairs (i, j) that are *not* conditionally independent given the
rest, (2.8)-(2.9) of arXiv 2505.04417. The distance is the length of the shortest path, in hops, and the neighbourhood
of radius r of a vertex, :math:`N_j^r = \{i : \mathrm{dist}(i, j) \le r\}`, (2.10)-(2.12), holds the vertex itself.
Lattices are kept as stencils (:mod:`nearfield.graph.lattice`), other graphs as sparse adjacency; a graph never changes.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

import numpy as np
from scipy.sparse import csgraph

from nearfield._checks import whole_number
from nearfield._plain import plain
from nearfield.graph.adjacency import checked_edges, checked_pattern, lattice_links, links_of, pattern_of, read_only
from nearfield.graph.coordinate import Metric, checked_axes, checked_points, close_pairs, nearest_pairs, positions
from nearfield.graph.description import describe
from nearfield.graph.distance import dense_hops, largest_hops
from nearfield.graph.lattice import Lattice
from nearfield.graph.memory import Memory
from nearfield.graph.neighborhood import Neighborhood, ball_sizes, growth, narrowed, on_lattice, ranked
from nearfield.graph.product import paired
from nearfield.graph.subgraph import cells_of, induced

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from numpy.typing import ArrayLike
    from scipy.sparse import csr_array

__all__ = ["DependencyGraph"]

_LARGEST_KEPT = 1 << 26  # bytes of tables that a graph keeps for reuse (64 MiB)
_WIDER = 64  # largest excess in radius of a kept table from which a narrower one is cut


@final
@dataclass(frozen=True, eq=False, repr=False)
class DependencyGraph:
    """Undirected graph of direct dependence, immutable, compared by value.

    Use its constructors. A lattice and a list of the same edges are different graphs.

    Attributes
    ----------
    lattice : Lattice or None
        Shape of the lattice the vertices are on; None for other graphs.
    keep : bool array of the lattice's shape, or None
        Which of its cells are vertices; None = all. Vertices are numbered in C order of the kept cells.
    links : tuple of int arrays (vertex + 1,), (2 * edge,), or None
        Row pointers and columns of the adjacency off lattices; `adjacency` exists for all graphs.
    coordinates : float64 array (vertex, axis) or None
        Positions of the vertices; with the haversine metric latitude and longitude in degrees.
    metric : {"euclidean", "haversine"}
        Distance between coordinates.
    parts : tuple of int
        Numbers of vertices of the factors of a product off lattices; empty for other graphs.

    Raises
    ------
    TypeError, ValueError
        Here and in all methods, where an argument breaks its rule; the message names argument, rule and value.

    Examples
    --------
    >>> graph = DependencyGraph.grid((37, 49))
    >>> graph, len(graph), graph.neighborhood(2).index.shape
    (DependencyGraph.grid((37, 49)), 1813, (1813, 13))
    """

    lattice: Lattice | None = None
    keep: Bool[np.ndarray, "..."] | None = None
    links: tuple[Int[np.ndarray, " pointer"], Int[np.ndarray, " entry"]] | None = None
    coordinates: Float[np.ndarray, "vertex axis"] | None = None
    metric: Metric = "euclidean"
    parts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if (self.lattice is None) == (self.links is None):
            raise TypeError("DependencyGraph must have a lattice or links; use chain, grid, knn, from_edges, ...")
        for name in ("keep", "coordinates"):
            array = getattr(self, name)
            if array is not None:
                object.__setattr__(self, name, read_only(array.copy()))
        if self.links is not None:
            kind = np.int32 if max(map(len, self.links)) < 2**31 else np.int64  # scipy's own, without a copy
            object.__setattr__(self, "links", tuple(read_only(array.astype(kind)) for array in self.links))

    @classmethod
    def chain(cls, n: int) -> DependencyGraph:
        """Vertices 0 to n - 1 in a row, such as a time series.

        >>> DependencyGraph.chain(5).diameter()
        4
        """
        return cls.grid((whole_number("n", n, 1),))

    @classmethod
    def ring(cls, n: int) -> DependencyGraph:
        """Chain whose ends touch, such as the hours of a day.

        >>> DependencyGraph.ring(5).neighborhood(3).index.shape
        (5, 5)
        """
        return cls.grid((whole_number("n", n, 1),), periodic=True)

    @classmethod
    def grid(
        cls, shape: Sequence[int], periodic: bool | Sequence[bool] = False, diagonal: bool = False
    ) -> DependencyGraph:
        """Regular grid of one to three axes, vertices in C order.

        Parameters
        ----------
        shape : sequence of int
            Number of cells along each axis.
        periodic : bool or sequence of bool, default False
            Whether the ends of an axis touch; one flag for all axes or one each.
        diagonal : bool, default False
            Whether cells that share only an edge or a corner are neighbours; hops are then Chebyshev distance, else l1.

        Examples
        --------
        >>> DependencyGraph.grid((3, 4), periodic=(False, True), diagonal=True)
        DependencyGraph.grid((3, 4), periodic=(False, True), diagonal=True)
        """
        return cls(lattice=Lattice.of(shape, periodic, diagonal))

    @classmethod
    def torus(cls, shape: Sequence[int]) -> DependencyGraph:
        """Grid that is periodic along every axis.

        >>> DependencyGraph.torus((4, 6)).diameter()
        5
        """
        return cls.grid(shape, periodic=True)

    @classmethod
    def latlon(cls, lat: ArrayLike, lon: ArrayLike) -> DependencyGraph:
        """Grid of latitudes times longitudes, periodic where the longitudes close to within half a spacing.

        Parameters
        ----------
        lat : float array (latitude,)
            Degrees north in [-90, 90], in increasing or decreasing order.
        lon : float array (longitude,)
            Degrees east from any origin, in increasing or decreasing order but for one crossing of the date line.

        Examples
        --------
        >>> DependencyGraph.latlon([60, 50, 40], range(0, 360, 30)).lattice.periodic
        (False, True)
        """
        north, east, closes = checked_axes(lat, lon)
        places = np.stack(np.meshgrid(north, east, indexing="ij"), axis=-1).reshape(-1, 2)
        lattice = Lattice((len(north), len(east)), (False, closes))
        return cls(lattice=lattice, coordinates=places, metric="haversine")

    @classmethod
    def knn(cls, points: ArrayLike, k: int, metric: Metric = "euclidean") -> DependencyGraph:
        """Each point joined to its k nearest others; two points are neighbours when either chose the other.

        Parameters
        ----------
        points : float array (vertex, axis)
            Coordinates; with the haversine metric latitude and longitude in degrees.
        k : int
            Number of nearest points, 1 to n - 1.
        metric : {"euclidean", "haversine"}, default "euclidean"
            Straight line, or great circle.

        Examples
        --------
        >>> stations = [[0.0, 179.0], [0.0, -178.0], [0.0, 170.0]]
        >>> DependencyGraph.knn(stations, 1, metric="haversine").distance_matrix()[0].tolist()
        [0.0, 1.0, 1.0]
        """
        places = checked_points(points, metric)
        return cls(links=links_of(len(places), nearest_pairs(places, k, metric)), coordinates=places, metric=metric)

    @classmethod
    def within(cls, points: ArrayLike, distance: float, metric: Metric = "euclidean") -> DependencyGraph:
        """Points joined when they are at most some distance apart; points and metric as in `knn`.

        The distance is > 0 (a relative 1e-9 is added), in the units of the points, and **in kilometres for haversine**,
        on a sphere of radius 6371.0088 km.

        >>> DependencyGraph.within([0.0, 0.1, 0.2, 0.3], 0.1).diameter()
        3
        """
        places = checked_points(points, metric)
        pairs = close_pairs(places, distance, metric)
        return cls(links=links_of(len(places), pairs), coordinates=places, metric=metric)

    @classmethod
    def from_edges(cls, n: int, edges: ArrayLike) -> DependencyGraph:
        """Graph of n vertices from edges, an int array (edge, 2); direction, repeats and loops do not matter.

        >>> DependencyGraph.from_edges(3, [(0, 1), (1, 0), (2, 2)]).n_components
        2
        """
        n = whole_number("n", n, 1)
        return cls(links=links_of(n, checked_edges(n, edges)))

    @classmethod
    def from_adjacency(cls, adjacency: Any) -> DependencyGraph:
        """Graph from the symmetric non-zero pattern of a matrix, such as a precision matrix, whose zeros are (2.9).

        >>> DependencyGraph.from_adjacency(np.array([[2.0, -0.5], [-0.5, 1.0]])).n_components
        1
        """
        pattern = checked_pattern(adjacency)
        return cls(links=links_of(pattern.shape[0], np.stack(pattern.nonzero(), axis=1)))

    def subgraph(self, mask: ArrayLike) -> DependencyGraph:
        """Return the graph of some of the vertices and the edges among them, such as the sea without the land.

        The mask, boolean (vertex,) or of the lattice's shape, is True for the vertices that stay. A path may not pass
        through a removed vertex: two bays are as far apart as the way around the land.

        >>> DependencyGraph.chain(5).subgraph(np.array([1, 1, 0, 1, 1], dtype=bool)).n_components
        2
        """
        return induced(self, mask)

    def product(self, other: DependencyGraph) -> DependencyGraph:
        """Return the graph of pairs of vertices, such as stations times days.

        Pairs are neighbours when one part is the same and the other is one step apart, so that hops add up. They are
        numbered in C order, this graph's dimensions first. Lattices of at most three axes together make a lattice. Two
        sets of euclidean coordinates are kept side by side: bring them to one unit first.

        >>> stations = DependencyGraph.knn([[47.4, 8.5], [47.6, 7.6], [46.2, 6.1]], 1, metric="haversine")
        >>> stations.product(DependencyGraph.chain(5))
        DependencyGraph(15 vertices, 22 edges)
        """
        if not isinstance(other, DependencyGraph):
            raise TypeError(f"other must be a DependencyGraph, got {other!r}; for n days give DependencyGraph.chain(n)")
        return paired(self, other)

    @cached_property
    def n_vertices(self) -> int:
        """Number of vertices."""
        if self.links is not None:
            return len(self.links[0]) - 1
        assert self.lattice is not None
        return self.lattice.n_cells if self.keep is None else int(self.keep.sum())

    def __len__(self) -> int:
        return self.n_vertices

    @property
    def _whole(self) -> Lattice | None:  # whose distances have closed forms
        return self.lattice if self.keep is None else None

    @cached_property
    def _edges(self) -> tuple[Int[np.ndarray, " pointer"], Int[np.ndarray, " entry"]]:
        """Row pointers and columns of the adjacency, read-only."""
        if self.lattice is None:
            assert self.links is not None
            return self.links
        return lattice_links(self.lattice, None if self.keep is None else cells_of(self))

    @property
    def adjacency(self) -> csr_array:
        """Edges as a sparse boolean (vertex, vertex) array without loops; its arrays are read-only."""
        return pattern_of(*self._edges)

    @cached_property
    def _components(self) -> Int[np.ndarray, " vertex"]:
        """Number of the connected component of each vertex."""
        if self._whole is not None:
            return np.zeros(self.n_vertices, dtype=np.int32)
        return csgraph.connected_components(self.adjacency, directed=False)[1]

    @property
    def n_components(self) -> int:
        """Number of connected components."""
        return int(self._components.max()) + 1

    def distance_matrix(self) -> Float[np.ndarray, "vertex vertex"]:
        """Hops between all pairs, dense, inf where there is no path; for graphs of at most 20 000 vertices.

        >>> DependencyGraph.from_edges(3, [(0, 1)]).distance_matrix()[0].tolist()
        [0.0, 1.0, inf]
        """
        return dense_hops(self.adjacency)

    def diameter(self) -> int:
        """Largest finite hop distance.

        Exact on whole lattices and up to 2000 vertices; elsewhere an upper bound, at most twice the true value.

        >>> DependencyGraph.grid((3, 4)).diameter()
        5
        """
        return self._whole.diameter if self._whole is not None else largest_hops(self.adjacency, self._components)

    def neighborhood(self, radius: int) -> Neighborhood:
        """Neighbours of every vertex within `radius` hops, (2.12).

        On lattices a column is one offset, ordered by hops on the whole lattice, then by offset; the table of a smaller
        radius is its leading columns. Where cells were removed, hops are counted *among the vertices that are left*.

        On other graphs rows are ordered by hops, then by distance of the coordinates (in single precision), then by
        vertex number; the width is the size of the largest neighbourhood.

        >>> DependencyGraph.ring(6).neighborhood(1).index[0].tolist()
        [0, 5, 1]
        """
        radius = whole_number("radius", radius, 0)
        return self.memory.get(("neighborhood", radius), lambda: self._table(radius), size=lambda table: table.n_bytes)

    def _table(self, radius: int) -> Neighborhood:
        """Compute a table of neighbours, or cut it out of a wider one."""
        if self.lattice is not None:
            wider = self.memory.first(("neighborhood", r) for r in range(radius + 1, radius + _WIDER))
            if wider is not None:
                return narrowed(wider, self.lattice, radius)
        if self._whole is not None:
            return Neighborhood(*self._whole.table(radius))
        if self.lattice is not None:
            return on_lattice(self.lattice, cells_of(self), self.adjacency, radius)
        points = None if self.coordinates is None else positions(self.coordinates, self.metric)
        return ranked(self.adjacency, radius, points)

    @cached_property
    def memory(self) -> Memory:
        """Tables computed from the graph; no part of its value."""
        return Memory(_LARGEST_KEPT)

    def growth(self, radius: int | None = None) -> tuple[float, float]:
        r"""(S, nu) such that :math:`|N_j^r| \le 1 + S r^\nu` for every vertex j and r >= 1, (3.12).

        On lattices the values for :math:`\mathbb{Z}^n`: (3^n - 1, n) with diagonals, (2n, n) without. Elsewhere S is
        the largest number of neighbours and nu the least that holds at all r, or up to `radius`; nu is an upper bound
        beyond some 3000 vertices. Both are 0 without edges.

        >>> DependencyGraph.from_edges(4, [(0, 1), (1, 2), (2, 3)]).growth()
        (2.0, 0.5849625007211562)
        """
        if radius is not None:
            radius = whole_number("radius", radius, 1)
        if self.lattice is not None:
            return self.lattice.growth()
        return growth(self.adjacency, int(np.bincount(self._components).max()), radius)

    def effective_dimension(self, radius: int, n_channels: int = 1) -> int:
        r"""Largest number of components a local score reads, :math:`\max_j \sum_{i \in N_j^r} d_i` of (3.2).

        >>> DependencyGraph.grid((9, 9)).effective_dimension(1, n_channels=2)
        10
        """
        radius = whole_number("radius", radius, 0)
        n_channels = whole_number("n_channels", n_channels, 1)
        if self._whole is not None:
            return n_channels * self._whole.ball_size(radius)
        return n_channels * int(ball_sizes(self.adjacency, radius).max())

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """JSON-able settings and arrays, for `from_state`."""
        config = plain({"lattice": self.lattice and asdict(self.lattice), "metric": self.metric, "parts": self.parts})
        pointers, columns = self.links or (None, None)
        arrays = {"keep": self.keep, "pointers": pointers, "columns": columns, "coordinates": self.coordinates}
        return config, {name: array for name, array in arrays.items() if array is not None}

    @classmethod
    def from_state(cls, config: dict[str, Any], arrays: dict[str, np.ndarray]) -> DependencyGraph:
        """Graph from its `state`."""
        box = config["lattice"]
        lattice = box and Lattice(tuple(box["shape"]), tuple(box["periodic"]), box["diagonal"])
        links = (arrays["pointers"], arrays["columns"]) if "pointers" in arrays else None
        parts = tuple(config["parts"])
        return cls(lattice, arrays.get("keep"), links, arrays.get("coordinates"), config["metric"], parts)

    def __reduce__(self) -> tuple[Any, ...]:  # pickled arrays come back writeable, the constructor sees to it
        return DependencyGraph.from_state, self.state()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DependencyGraph):
            return NotImplemented
        (config, arrays), (other_config, other_arrays) = self.state(), other.state()
        same = config == other_config and arrays.keys() == other_arrays.keys()
        return same and all(np.array_equal(array, other_arrays[name]) for name, array in arrays.items())

    def __hash__(self) -> int:
        return hash((self.lattice, self.n_vertices, self.metric, self.parts))

    def __repr__(self) -> str:
        return describe(self)

    def _repr_html_(self) -> str:
        where = "" if self.coordinates is None else f", {self.metric} coordinates"
        return f"<code>{html.escape(repr(self))}</code> <small>{self.n_vertices} vertices{where}</small>"
