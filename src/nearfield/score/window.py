"""Networks that read gathered windows, on any graph."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Literal, final

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from nearfield._checks import whole_number
from nearfield.graph import DependencyGraph, Lattice, Neighborhood
from nearfield.graph.coordinate import positions
from nearfield.score.network import Affine, Modulation, Network, Site, uniform

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

__all__ = ["Padding", "WindowNetwork", "WindowedNetwork", "reflected"]

Padding = Literal["absent", "reflect"]


class WindowedNetwork(Network):
    """A network of which each vertex reads its own gathered window, so that windows may carry noise of their own.

    Parameters
    ----------
    graph, radius, n_channels, n_context
        As in `Network`.
    padding : {"absent", "reflect"}
        Entries of a window beyond a border are absent, or the field mirrored at the last cell. A score learned with
        mirrored data is biased near borders; it is the paper's recipe.
    vertices : sequence of int, optional
        The rows that are computed; all vertices by default.

    Attributes
    ----------
    width_of_window : int
        Entries of a window, absent ones included.

    Raises
    ------
    TypeError, ValueError
        If a number is not whole or too small, or `padding` is neither, or mirrors what is no whole lattice.
    """

    index: Tensor
    present: Tensor

    def __init__(
        self,
        graph: DependencyGraph,
        radius: int,
        n_channels: int,
        n_context: int,
        padding: Padding = "absent",
        vertices: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__(graph, radius, n_channels, n_context)
        if padding not in ("absent", "reflect"):
            raise ValueError(f'padding must be "absent" or "reflect", got {padding!r}; use "absent"')
        self.padding = padding
        self.vertices = vertices
        table = graph.neighborhood(self.radius)
        index, present = np.array(table.index), np.array(table.present)
        if padding == "reflect":
            if graph.lattice is None or graph.keep is not None:
                raise ValueError(f'padding must be "absent" on {graph!r}, got "reflect"; only whole lattices mirror')
            index, present = reflected(graph.lattice, table), np.ones_like(present)
        rows = slice(None) if vertices is None else np.asarray(vertices, dtype=np.int64)
        self.table = table
        self.width_of_window = index.shape[1]
        self.register_buffer("index", torch.from_numpy(index[rows]), persistent=False)
        self.register_buffer("present", torch.from_numpy(present[rows]), persistent=False)

    def windows(self, x: Float[Tensor, "sample vertex channel"]) -> Float[Tensor, "sample row width channel"]:
        """Gather the windows of a field; absent entries have any value."""
        return x[:, self.index]

    @property
    @abc.abstractmethod
    def n_features(self) -> int:
        """Numbers that a row takes at once, about, besides its window."""

    @property
    def numbers_per_sample(self) -> int:
        """Windows twice, gathered and masked, and the features of the layers."""
        return len(self.index) * int(2 * self.width_of_window * self.n_channels + self.n_context + self.n_features)

    @abc.abstractmethod
    def on_windows(
        self,
        windows: Float[Tensor, "sample row width channel"],
        context: Float[Tensor, "sample row context"] | None,
        c_noise: Float[Tensor, "sample #row"],
    ) -> Float[Tensor, "sample row channel"]:
        """Return F at the centres of windows, each of which may have its own noise and noise level.

        Parameters
        ----------
        windows
            As gathered by `windows`.
        context
            As in `forward`.
        c_noise
            Log of the noise-to-signal ratio, for each window or ``(sample, 1)``.
        """

    def forward(
        self,
        x: Float[Tensor, "sample vertex channel"],
        context: Float[Tensor, "sample vertex context"] | None,
        c_noise: Float[Tensor, " sample"],
    ) -> Float[Tensor, "sample vertex channel"]:
        """Return F; arguments as in `Network.forward`."""
        return self.on_windows(self.windows(x), context, c_noise[:, None])


@final
class WindowNetwork(WindowedNetwork):
    r"""One residual network of the gathered window, the same at every vertex of any graph.

    It reads the values of the window, which entries are there, and where they are: off lattices the relative positions
    of the neighbours (in units of the mean distance of a neighbour) and their hops. Entries come in the order of the
    graph's table, by hops, then by distance.

    Parameters
    ----------
    graph, radius, n_channels, n_context, padding
        As in `WindowedNetwork`.
    width : int
        Features of a vertex.
    depth : int
        Number of residual layers, at least 1.
    embedding : int
        Learned numbers of each vertex; 0 for none, 8 is usual.
    seed : int
        Of the initial weights.

    Examples
    --------
    >>> network = WindowNetwork(DependencyGraph.from_edges(3, [(0, 1), (1, 2)]), radius=1)
    >>> network(torch.ones(1, 3, 1), None, torch.zeros(1)).flatten().tolist()
    [0.0, 0.0, 0.0]
    """

    settings = ("radius", "n_channels", "n_context", "width", "depth", "embedding", "padding")
    where: Tensor

    def __init__(
        self,
        graph: DependencyGraph,
        radius: int,
        n_channels: int = 1,
        n_context: int = 0,
        width: int = 64,
        depth: int = 2,
        embedding: int = 0,
        padding: Padding = "absent",
        seed: int = 0,
    ) -> None:
        super().__init__(graph, radius, n_channels, n_context, padding)
        self.width = whole_number("width", width, 1, "give the number of features of a vertex")
        self.depth = whole_number("depth", depth, 1, "give the number of residual layers")
        generator = torch.Generator().manual_seed(seed)
        where = torch.from_numpy(_geometry(graph, self.table)).float()
        where = torch.cat([self.present.float(), where], dim=1)
        self.register_buffer("where", where, persistent=False)
        n_in = self.width_of_window * n_channels + n_context
        self.enter = Affine(n_in, width, generator)
        self.geometry = uniform((width, where.shape[1]), where.shape[1], generator)
        self.site = Site(len(graph), embedding, width, generator)
        self.embedding = self.site.size
        self.layers = nn.ModuleList(Affine(width, width, generator) for _ in range(2 * self.depth))
        self.modulation = Modulation(width, self.depth, generator)
        self.leave = Affine(width, n_channels, generator, zero=True)

    @property
    def n_features(self) -> int:
        """Features of a row in the layers."""
        return 8 * self.width

    def on_windows(
        self,
        windows: Float[Tensor, "sample row width channel"],
        context: Float[Tensor, "sample row context"] | None,
        c_noise: Float[Tensor, "sample #row"],
    ) -> Float[Tensor, "sample row channel"]:
        """Return F at the centres of windows; arguments as in `WindowedNetwork.on_windows`."""
        read = torch.where(self.present[..., None], windows, 0.0).flatten(2)
        constant = functional.linear(self.where.to(self.geometry.dtype), self.geometry)
        if self.site.size:
            constant = constant + self.site()
        h = self.enter(read if context is None else torch.cat([read, context], dim=2)) + constant
        scales, shifts = (each.unbind(dim=-2) for each in self.modulation(c_noise))
        for first, second, scale, shift in zip(self.layers[::2], self.layers[1::2], scales, shifts, strict=True):
            h = h + second(functional.silu(scale * first(functional.silu(h)) + shift))
        out: Tensor = self.leave(functional.silu(h))
        return out


def reflected(lattice: Lattice, table: Neighborhood) -> Int[np.ndarray, "vertex width"]:
    """Index of a window in which entries beyond a border are mirrored at the last cell (numpy's "reflect").

    Examples
    --------
    >>> chain = DependencyGraph.chain(4)
    >>> reflected(chain.lattice, chain.neighborhood(1)).tolist()
    [[0, 1, 1], [1, 0, 2], [2, 1, 3], [3, 2, 2]]
    """
    assert table.offsets is not None
    own = np.stack(np.unravel_index(np.arange(lattice.n_cells), lattice.shape), axis=1)
    landing = own[:, None] + table.offsets
    for axis, (length, periodic) in enumerate(zip(lattice.shape, lattice.periodic, strict=True)):
        turn = length if periodic else max(2 * (length - 1), 1)
        along = landing[..., axis] % turn
        landing[..., axis] = along if periodic else np.minimum(along, turn - along) if length > 1 else 0
    landed: np.ndarray = np.ravel_multi_index(tuple(np.moveaxis(landing, -1, 0)), lattice.shape).astype(np.int64)
    return landed


def _geometry(graph: DependencyGraph, table: Neighborhood) -> Float[np.ndarray, "vertex feature"]:
    """Where the entries of each window are: relative positions and hops, zero where absent; nothing on lattices.

    On lattices a column is one offset for all vertices, and positions would tell a network nothing.
    """
    if table.offsets is not None:
        return np.zeros((len(table.index), 0))
    near = np.where(table.present, table.hops, 0) / max(int(table.hops.max()), 1)
    if graph.coordinates is None:
        return near
    points = positions(graph.coordinates, graph.metric)
    relative = points[table.index] - points[:, None]
    distance = np.linalg.norm(relative, axis=2)
    if graph.metric == "haversine":  # towards east and north, which mean the same everywhere
        lat, lon = np.deg2rad(graph.coordinates).T
        east = np.stack([-np.sin(lon), np.cos(lon), np.zeros_like(lon)], axis=1)
        north = np.stack([-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)], axis=1)
        relative = relative @ np.stack([east, north], axis=2)
    first = table.hops == 1
    unit = distance[first].mean() if first.any() and distance[first].any() else 1.0
    features = np.concatenate([relative, distance[..., None]], axis=2) / unit
    return np.concatenate([np.where(table.present[..., None], features, 0.0).reshape(len(near), -1), near], axis=1)
