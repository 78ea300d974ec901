r"""Dependency graphs: which components of the field depend directly on which.

Vertices are the blocks X_j of the field, edges the pairs (i, j) that are *not* conditionally independent given the
rest, (2.8)-(2.9) of arXiv 2505.04417. The distance is the length of the shortest path, in hops, and the neighbourhood
of radius r of a vertex, :math:`N_j^r = \{i : \mathrm{dist}(i, j) \le r\}`, (2.10)-(2.12), holds the vertex itself.
Lattices are kept as stencils (:mod:`nearfield.graph.lattice`), other graphs as sparse adjacency; a graph never changes.
"""

from __future__ import annotations

import hashlib
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

import numpy as np
from scipy.sparse import csgraph, csr_array

from nearfield._checks import whole_number
from nearfield.graph.adjacency import checked_edges, checked_pattern, links_of, pattern_of, pointers_of, read_only
from nearfield.graph.coordinate import Metric, checked_axes, checked_points, close_pairs, nearest_pairs, positions
from nearfield.graph.lattice import Lattice
from nearfield.graph.memory import Memory
from nearfield.graph.neighborhood import Neighborhood, ball_sizes, growth, narrowed, on_lattice, ranked
from nearfield.graph.product import product_lattice, product_links, product_mask, product_points

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from numpy.typing import ArrayLike

__all__ = ["DependencyGraph", "Lattice", "Metric", "Neighborhood"]

LARGEST_DENSE = 20_000  # vertices; a dense matrix of hops is 3.2 GB there
LARGEST_KEPT = 1 << 26  # bytes of tables that a graph keeps for reuse (64 MiB)
WIDER = 64  # by how much wider a table is looked for of which another is part
EXACT_DIAMETER = 2_000  # vertices up to which all pairs are searched for the diameter


@final
@dataclass(frozen=True, eq=False, repr=False)
class DependencyGraph:
    """Undirected graph of direct dependence, immutable, compared by value.

    Made by its constructors: `chain`, `ring`, `grid`, `torus`, `latlon`, `knn`, `within`, `from_edges` and
    `from_adjacency`; `subgraph` removes vertices, `product` pairs them with those of another graph. Two graphs are
    equal when lattice or edges, removed cells, coordinates and metric are; a lattice and the same edges given as a list
    are different graphs.

    Attributes
    ----------
    lattice : Lattice or None
        Shape of the lattice the vertices are on; None for other graphs.
    keep : bool array of the lattice's shape, or None
        Which of its cells are vertices; None = all. Vertices are numbered in C order of the kept cells.
    links : tuple of int arrays (vertex + 1,), (2 * edge,), or None
        Row pointers and columns of the adjacency off lattices; read `adjacency` instead, which is there for all graphs.
    coordinates : float64 array (vertex, axis) or None
        Where the vertices are. With the haversine metric: latitude and longitude in degrees.
    metric : {"euclidean", "haversine"}
        Distance between coordinates.
    parts : tuple of int
        Numbers of vertices of the two or more graphs of which it is a product off lattices; empty for other graphs.

    Examples
    --------
    >>> graph = DependencyGraph.grid((37, 49))
    >>> graph, len(graph), graph == DependencyGraph.grid((37, 49))
    (DependencyGraph.grid((37, 49)), 1813, True)
    >>> graph.neighborhood(2).index.shape, graph.effective_dimension(2)
    ((1813, 13), 13)
    """

    lattice: Lattice | None = None
    keep: Bool[np.ndarray, ...] | None = None
    links: tuple[Int[np.ndarray, " vertex+1"], Int[np.ndarray, " 2*edge"]] | None = None
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
            kind = np.int32 if max(map(len, self.links)) < 2**31 else np.int64  # what scipy takes without a copy
            object.__setattr__(self, "links", tuple(read_only(array.astype(kind)) for array in self.links))

    @classmethod
    def chain(cls, n: int) -> DependencyGraph:
        """Vertices 0 to n - 1 in a row, such as a time series.

        Parameters
        ----------
        n : int
            Number of vertices, at least 1.

        Examples
        --------
        >>> DependencyGraph.chain(5).diameter()
        4
        """
        return cls.grid((whole_number("n", n, 1, "give the number of vertices"),))

    @classmethod
    def ring(cls, n: int) -> DependencyGraph:
        """Close a chain: its ends touch, such as the hours of a day.

        Parameters
        ----------
        n : int
            Number of vertices, at least 1.

        Examples
        --------
        >>> DependencyGraph.ring(5).neighborhood(3).index.shape
        (5, 5)
        """
        return cls.grid((whole_number("n", n, 1, "give the number of vertices"),), periodic=True)

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

        Raises
        ------
        TypeError, ValueError
            If the shape or the flags are not as said.

        Examples
        --------
        >>> DependencyGraph.grid((3, 4), periodic=(False, True), diagonal=True)
        DependencyGraph.grid((3, 4), periodic=(False, True), diagonal=True)
        """
        if not isinstance(shape, Sequence | np.ndarray):
            raise TypeError(f"shape must be a sequence of 1 to 3 lengths, got {shape!r}; write ({shape},) for one axis")
        lengths = tuple(whole_number("shape", length, 1, "give the number of cells per axis") for length in shape)
        flags = np.asarray(periodic).tolist()
        flags = tuple(flags) if isinstance(flags, list) else (flags,) * len(lengths)
        return cls(lattice=Lattice(lengths, flags, diagonal))

    @classmethod
    def torus(cls, shape: Sequence[int]) -> DependencyGraph:
        """Grid that is periodic along every axis.

        Parameters
        ----------
        shape : sequence of int
            Number of cells along each axis, one to three of them.

        Examples
        --------
        >>> DependencyGraph.torus((4, 6)).diameter()
        5
        """
        return cls.grid(shape, periodic=True)

    @classmethod
    def latlon(cls, lat: ArrayLike, lon: ArrayLike) -> DependencyGraph:
        """Grid of latitudes times longitudes, periodic in longitude when it closes.

        It closes when (mean spacing) x (number of longitudes) is 360 degrees to within half a spacing.

        Parameters
        ----------
        lat : float array (latitude,)
            Degrees north in [-90, 90], in increasing or decreasing order.
        lon : float array (longitude,)
            Degrees east, in increasing or decreasing order, with at most one passage of the date line (179, -179);
            any origin.

        Returns
        -------
        DependencyGraph
            Lattice (len(lat), len(lon)), coordinates (lat, lon) of each vertex as given.

        Raises
        ------
        TypeError, ValueError
            If latitudes or longitudes are out of range, not finite, repeated or out of order.

        Examples
        --------
        >>> DependencyGraph.latlon([60, 50, 40], range(0, 360, 30)).lattice.periodic
        (False, True)
        """
        north, east, closes = checked_axes(lat, lon)
        coordinates = np.stack(np.meshgrid(north, east, indexing="ij"), axis=-1).reshape(-1, 2)
        lattice = Lattice((len(north), len(east)), (False, closes))
        return cls(lattice=lattice, coordinates=coordinates, metric="haversine")

    @classmethod
    def knn(cls, points: ArrayLike, k: int, metric: Metric = "euclidean") -> DependencyGraph:
        """Each point joined to its k nearest others; two points are neighbours when either chose the other.

        Parameters
        ----------
        points : float array (vertex, axis)
            Coordinates. With the haversine metric: latitude and longitude in degrees.
        k : int
            Number of nearest points, 1 to n - 1.
        metric : {"euclidean", "haversine"}, default "euclidean"
            Straight line, or great circle.

        Raises
        ------
        TypeError, ValueError
            If points are not finite numbers, or out of range; if k or the metric is not as said.

        Examples
        --------
        >>> stations = [[0.0, 179.0], [0.0, -178.0], [0.0, 170.0]]
        >>> DependencyGraph.knn(stations, 1, metric="haversine").distance_matrix()[0].tolist()
        [0.0, 1.0, 1.0]
        """
        coordinates = checked_points(points, metric)
        links = links_of(len(coordinates), nearest_pairs(coordinates, k, metric))
        return cls(links=links, coordinates=coordinates, metric=metric)

    @classmethod
    def within(cls, points: ArrayLike, distance: float, metric: Metric = "euclidean") -> DependencyGraph:
        """Points joined when they are at most some distance apart.

        Parameters
        ----------
        points : float array (vertex, axis)
            Coordinates. With the haversine metric: latitude and longitude in degrees.
        distance : float
            Largest distance of neighbours, > 0, in the units of the points; **in kilometres for haversine**, on a
            sphere of radius 6371.0088 km. A relative 1e-9 is added, so that points just this far apart are joined.
        metric : {"euclidean", "haversine"}, default "euclidean"
            Straight line, or great circle.

        Raises
        ------
        TypeError, ValueError
            If points are not finite numbers, or out of range; if the distance or the metric is not as said.

        Examples
        --------
        >>> DependencyGraph.within([0.0, 0.1, 0.2, 0.3], 0.1) == DependencyGraph.within([0, 1, 2, 3], 1)
        False
        >>> DependencyGraph.within([0.0, 0.1, 0.2, 0.3], 0.1).diameter()
        3
        """
        coordinates = checked_points(points, metric)
        links = links_of(len(coordinates), close_pairs(coordinates, distance, metric))
        return cls(links=links, coordinates=coordinates, metric=metric)

    @classmethod
    def from_edges(cls, n: int, edges: ArrayLike) -> DependencyGraph:
        """Graph from a list of edges.

        Parameters
        ----------
        n : int
            Number of vertices, at least 1.
        edges : int array (edge, 2)
            Pairs of vertices in 0 ... n - 1; direction, repeats and loops do not matter. May be empty.

        Raises
        ------
        TypeError, ValueError
            If edges are not pairs of integers in range.

        Examples
        --------
        >>> DependencyGraph.from_edges(3, [(0, 1), (1, 0), (2, 2)]).n_components
        2
        """
        n = whole_number("n", n, 1, "give the number of vertices")
        return cls(links=links_of(n, checked_edges(n, edges)))

    @classmethod
    def from_adjacency(cls, adjacency: Any) -> DependencyGraph:
        """Graph from the non-zero pattern of a matrix: an adjacency, or a precision matrix, whose zeros are (2.9).

        Parameters
        ----------
        adjacency : scipy sparse array or matrix, or 2-D ndarray (vertex, vertex)
            Symmetric pattern; the diagonal and the values do not matter.

        Raises
        ------
        TypeError, ValueError
            If it is not a matrix of numbers, not square, empty, not finite, or its pattern is not symmetric.

        Examples
        --------
        >>> import numpy as np
        >>> DependencyGraph.from_adjacency(np.array([[2.0, -0.5], [-0.5, 1.0]])).n_components
        1
        """
        pattern = checked_pattern(adjacency)
        return cls(links=links_of(pattern.shape[0], np.stack(pattern.nonzero(), axis=1)))

    def subgraph(self, mask: ArrayLike) -> DependencyGraph:
        """Return the graph of some of the vertices and the edges among them, such as the sea without the land.

        A path may not pass through a removed vertex: two bays are as far apart as the way around the land.

        Parameters
        ----------
        mask : bool array (vertex,) or of the lattice's shape
            True for the vertices that stay. Of the lattice's shape when cells are missing already: both masks hold.

        Raises
        ------
        TypeError, ValueError
            If the mask is not boolean, has another shape, or keeps nothing.

        Examples
        --------
        >>> import numpy as np
        >>> DependencyGraph.chain(5).subgraph(np.array([1, 1, 0, 1, 1], dtype=bool)).n_components
        2
        """
        mask = np.asarray(mask)
        if mask.dtype != bool:
            raise TypeError(f"mask must be boolean, got dtype {mask.dtype}; True marks the vertices that stay")
        shapes = [(self.n_vertices,)] + ([self.lattice.shape] if self.lattice is not None else [])
        if mask.shape not in shapes:
            allowed = " or ".join(map(str, shapes))
            raise ValueError(f"mask must have shape {allowed}, got {mask.shape}; give one entry per vertex or cell")
        stays = mask if mask.shape == shapes[0] else mask.ravel()[self._cells]
        if not stays.any():
            raise ValueError("mask must keep at least one vertex, got no True; is it inverted?")
        if stays.all():
            return self
        coordinates = None if self.coordinates is None else self.coordinates[stays]
        if self.lattice is None:
            links = pointers_of(self.adjacency[stays][:, stays])
            return DependencyGraph(links=links, coordinates=coordinates, metric=self.metric)
        keep = np.zeros(self.lattice.shape, dtype=bool)
        keep.flat[self._cells[stays]] = True
        return DependencyGraph(lattice=self.lattice, keep=keep, coordinates=coordinates, metric=self.metric)

    def product(self, other: DependencyGraph) -> DependencyGraph:
        """Return the graph of pairs of vertices, such as stations times days.

        Pairs are neighbours when one part is the same and the other is one step apart; the distance is the sum of the
        distances. They are numbered in C order, as the cells of an array with this graph's dimension(s) first.

        Lattices of at most three axes together make a lattice, in which cells removed from either are removed; all
        else, lattices of several axes with diagonals too, makes a list of edges. If both have euclidean coordinates,
        the product has those of both side by side: bring them to one unit first, as fields are then fitted by straight
        lines through both. Otherwise it has none, and fields are fitted by hops.

        Data whose dimensions come in another order than the parts are refused, unless they are equally long.

        Parameters
        ----------
        other : DependencyGraph
            The second part of the pairs.

        Raises
        ------
        TypeError
            If the other is no graph.

        Examples
        --------
        >>> stations = DependencyGraph.knn([[47.4, 8.5], [47.6, 7.6], [46.2, 6.1]], 1, metric="haversine")
        >>> stations.product(DependencyGraph.chain(5))
        DependencyGraph(15 vertices, 22 edges)
        >>> DependencyGraph.grid((3, 4)).product(DependencyGraph.ring(24))
        DependencyGraph.grid((3, 4, 24), periodic=(False, False, True))
        """
        if not isinstance(other, DependencyGraph):
            raise TypeError(f"other must be a DependencyGraph, got {other!r}; for n days give DependencyGraph.chain(n)")
        points = None
        if self.metric == other.metric == "euclidean":
            points = product_points(self.coordinates, other.coordinates)
        lattice = product_lattice(self.lattice, other.lattice)
        if lattice is None:
            parts = (self.parts or (len(self),)) + (other.parts or (len(other),))
            links = product_links(self.adjacency, other.adjacency)
            return DependencyGraph(links=links, coordinates=points, parts=parts)
        return DependencyGraph(lattice=lattice, keep=product_mask(self.keep, other.keep, lattice), coordinates=points)

    @cached_property
    def n_vertices(self) -> int:
        """Number of vertices."""
        if self.links is not None:
            return len(self.links[0]) - 1
        return self._whole.n_cells if self._whole is not None else len(self._cells)

    def __len__(self) -> int:
        return self.n_vertices

    @property
    def _whole(self) -> Lattice | None:
        """The lattice, when all its cells are vertices: then all is known in closed form."""
        return self.lattice if self.keep is None else None

    @cached_property
    def _cells(self) -> Int[np.ndarray, " vertex"]:
        """Cell of the lattice that each vertex is, in C order."""
        assert self.lattice is not None
        return np.arange(self.lattice.n_cells) if self.keep is None else np.flatnonzero(self.keep)

    @cached_property
    def _edges(self) -> tuple[Int[np.ndarray, " vertex+1"], Int[np.ndarray, " 2*edge"]]:
        """Row pointers and columns of the adjacency, read-only."""
        if self.lattice is None:
            assert self.links is not None
            return self.links
        index, present, _, _ = self.lattice.table(1)
        pairs = np.stack([np.repeat(index[:, :1], index.shape[1], axis=1)[present], index[present]], axis=1)
        pointers, columns = links_of(len(index), pairs)
        if self.keep is not None:
            whole = pattern_of(pointers, columns)
            pointers, columns = pointers_of(whole[self._cells][:, self._cells])
        return read_only(pointers), read_only(columns)

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

        Raises
        ------
        ValueError
            If the graph is larger.

        Examples
        --------
        >>> DependencyGraph.from_edges(3, [(0, 1)]).distance_matrix()[0].tolist()
        [0.0, 1.0, inf]
        """
        if self.n_vertices > LARGEST_DENSE:
            raise ValueError(
                f"n_vertices must be at most {LARGEST_DENSE} for a dense matrix of hops, got {self.n_vertices}; "
                "use neighborhood(radius)"
            )
        return csgraph.shortest_path(self.adjacency, method="D", directed=False, unweighted=True)

    def diameter(self) -> int:
        """Largest finite hop distance, or a bound on it.

        Exact on whole lattices and up to 2000 vertices. Elsewhere an upper bound, at most twice the true value: in each
        component twice the eccentricity of one vertex, or its size less one.

        Examples
        --------
        >>> DependencyGraph.grid((3, 4)).diameter()
        5
        """
        if self._whole is not None:
            return self._whole.diameter
        if self.n_vertices <= EXACT_DIAMETER:
            hops = self.distance_matrix()
            return int(hops[np.isfinite(hops)].max())
        sources = np.unique(self._components, return_index=True)[1]
        hops = csgraph.dijkstra(self.adjacency, directed=False, indices=sources, unweighted=True, min_only=True)
        eccentricity = np.zeros(self.n_components)
        np.maximum.at(eccentricity, self._components, hops)
        return int(np.minimum(2 * eccentricity, np.bincount(self._components) - 1).max())

    def neighborhood(self, radius: int) -> Neighborhood:
        """Neighbours of every vertex within `radius` hops, (2.12).

        On lattices a column is one offset, the same for all vertices, ordered by hops on the whole lattice, then by
        offset, and the table of a smaller radius is its leading columns; there are as many columns as offsets, which
        near the diameter of a bounded lattice is more than vertices. Where cells were removed, an entry is present when
        its hop distance *among the vertices that are left* is at most the radius, and `hops` is that distance.

        On other graphs rows are ordered by hops, then by distance of the coordinates where there are any (equal in
        single precision is equal), then by vertex number; the width is the size of the largest neighbourhood.

        Parameters
        ----------
        radius : int
            Hops, at least 0; past the diameter the table covers each component.

        Raises
        ------
        TypeError, ValueError
            If the radius is not an integer, or negative.

        Examples
        --------
        >>> DependencyGraph.ring(6).neighborhood(1).index[0].tolist()
        [0, 5, 1]
        """
        radius = whole_number("radius", radius, 0, "give a number of hops; 0 is the vertex alone")
        return self.memory.get(("neighborhood", radius), lambda: self._table(radius), size=lambda table: table.n_bytes)

    def _table(self, radius: int) -> Neighborhood:
        """Compute a table of neighbours, or take it out of a wider one."""
        if self.lattice is not None:
            wider = self.memory.first(("neighborhood", r) for r in range(radius + 1, radius + WIDER))
            if wider is not None:
                return narrowed(wider, self.lattice, radius)
        if self._whole is not None:
            return Neighborhood(*self._whole.table(radius))
        if self.lattice is not None:
            return on_lattice(self.lattice, self._cells, self.adjacency, radius)
        points = None if self.coordinates is None else positions(self.coordinates, self.metric)
        return ranked(self.adjacency, radius, points)

    @cached_property
    def memory(self) -> Memory:
        """What has been computed of the graph, which never changes; no part of its value."""
        return Memory(LARGEST_KEPT)

    def growth(self, radius: int | None = None) -> tuple[float, float]:
        r"""(S, nu) such that :math:`|N_j^r| \le 1 + S r^\nu` for every vertex j and r >= 1, (3.12).

        On lattices the values for :math:`\mathbb{Z}^n`: (3^n - 1, n) with diagonals, (2n, n) without, so (2, 1) for
        chains; they bound lattices with cells removed as well. Elsewhere S is the largest number of neighbours, which
        r = 1 asks for, and nu the least that holds at all r. Neighbourhoods are counted up to ten million pairs, past
        which the size of the graph stands for theirs: beyond some 3000 vertices nu is larger than need be, never too
        small.

        Parameters
        ----------
        radius : int, optional
            Ask for the inequality only up to this radius, all of it counted: tighter on large graphs.

        Returns
        -------
        tuple of float
            S and nu; (0, 0) without edges.

        Examples
        --------
        >>> DependencyGraph.chain(100).growth()
        (2.0, 1.0)
        >>> DependencyGraph.from_edges(4, [(0, 1), (1, 2), (2, 3)]).growth()
        (2.0, 0.5849625007211562)
        """
        if radius is not None:
            radius = whole_number("radius", radius, 1, "give hops, or None for all")
        if self.lattice is not None:
            return self.lattice.growth()
        return growth(self.adjacency, int(np.bincount(self._components).max()), radius)

    def effective_dimension(self, radius: int, n_channels: int = 1) -> int:
        r"""Largest number of components a local score reads, :math:`\max_j \sum_{i \in N_j^r} d_i` of (3.2).

        Parameters
        ----------
        radius : int
            Hops, at least 0.
        n_channels : int, default 1
            Components per vertex, at least 1.

        Raises
        ------
        TypeError, ValueError
            If either is not an integer, or too small.

        Examples
        --------
        >>> DependencyGraph.grid((9, 9)).effective_dimension(1, n_channels=2)
        10
        """
        radius = whole_number("radius", radius, 0, "give a number of hops; 0 is the vertex alone")
        n_channels = whole_number("n_channels", n_channels, 1, "give the number of components per vertex")
        if self._whole is not None:
            return n_channels * self._whole.ball_size(radius)
        return n_channels * int(ball_sizes(self.adjacency, radius).max())

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """All that makes the graph: a JSON-able dictionary and arrays, for `from_state`.

        Examples
        --------
        >>> DependencyGraph.chain(3).state()
        ({'metric': 'euclidean', 'shape': [3], 'periodic': [False], 'diagonal': False}, {})
        """
        config: dict[str, Any] = {"metric": self.metric} | ({"parts": list(self.parts)} if self.parts else {})
        if self.lattice is not None:
            config |= {"shape": list(self.lattice.shape), "periodic": list(self.lattice.periodic)}
            config["diagonal"] = self.lattice.diagonal
        arrays = {"keep": self.keep, "coordinates": self.coordinates}
        if self.links is not None:
            arrays |= dict(zip(("pointers", "columns"), self.links, strict=True))
        return config, {name: array for name, array in arrays.items() if array is not None}

    @classmethod
    def from_state(cls, config: dict[str, Any], arrays: dict[str, np.ndarray]) -> DependencyGraph:
        """Graph from what `state` gave.

        Parameters
        ----------
        config : dict
            The dictionary of `state`.
        arrays : dict of arrays
            The arrays of `state`.

        Examples
        --------
        >>> graph = DependencyGraph.ring(4)
        >>> DependencyGraph.from_state(*graph.state()) == graph
        True
        """
        lattice = links = None
        if "shape" in config:
            lattice = Lattice(tuple(config["shape"]), tuple(config["periodic"]), config["diagonal"])
        else:
            links = arrays["pointers"], arrays["columns"]
        parts = tuple(config.get("parts", ()))
        return cls(lattice, arrays.get("keep"), links, arrays.get("coordinates"), config["metric"], parts)

    def __reduce__(self) -> tuple[Any, ...]:  # pickled arrays come back writeable, the constructor sees to it
        return DependencyGraph.from_state, self.state()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the structure, coordinates included, in hexadecimal."""
        config, arrays = self.state()
        sha = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
        for name, array in sorted(arrays.items()):
            sha.update(f"{name} {array.dtype.str} {array.shape}".encode())
            sha.update(np.ascontiguousarray(array).data)
        return sha.hexdigest()

    def __eq__(self, other: object) -> bool:
        return self.digest == other.digest if isinstance(other, DependencyGraph) else NotImplemented

    def __hash__(self) -> int:
        return int(self.digest[:15], 16)

    def __repr__(self) -> str:
        name = type(self).__name__
        if self.lattice is None:
            assert self.links is not None
            return f"{name}({self.n_vertices} vertices, {len(self.links[1]) // 2} edges)"
        shape, periodic, diagonal = self.lattice.shape, self.lattice.periodic, self.lattice.diagonal
        if self.metric == "haversine":
            text = f"{name}.latlon({shape[0]} lat, {shape[1]} lon{', periodic' if periodic[1] else ''})"
        else:
            flags = f", periodic={periodic[0] if len(set(periodic)) == 1 else periodic}" if any(periodic) else ""
            text = f"{name}.grid({shape}{flags}{', diagonal=True' if diagonal else ''})"
        return text if self.keep is None else f"{text}.subgraph({self.n_vertices} of {self.lattice.n_cells})"

    def _repr_html_(self) -> str:
        where = "" if self.coordinates is None else f", {self.metric} coordinates"
        return f"<code>{html.escape(repr(self))}</code> <small>{self.n_vertices} vertices{where}</small>"
