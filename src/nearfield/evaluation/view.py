"""Where the vertices of a graph go on paper, and in which colours.

Two-dimensional lattices are maps, three-dimensional ones show their middle slice, chains are lines; coordinates
without a lattice are dots, and vertices without a place stand in their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable

    from nearfield.graph import DependencyGraph

__all__ = ["ColourScale", "View"]

_LINE = "#0072B2"
_LAND = "#c8c8c8"


@final
@dataclass(frozen=True)
class ColourScale:
    """One scale for several pictures: symmetric about zero and diverging where the values have both signs.

    Attributes
    ----------
    low, high : float
        Ends of the scale, in the unit of the data.
    cmap : str
        Name of the matplotlib colour map.

    Examples
    --------
    >>> ColourScale.of(np.array([-1.0, 2.0]))
    ColourScale(low=-2.0, high=2.0, cmap='RdBu_r')
    """

    low: float
    high: float
    cmap: str

    @classmethod
    def of(cls, values: Float[np.ndarray, "..."], tail: float = 0.0) -> ColourScale:
        """Scale that covers the values but a `tail` at each end, so that one extreme does not pale all the others.

        Both signs count when neither end is under a fifth of the other.
        """
        low, high = (float(end) for end in np.nanquantile(values, [tail, 1 - tail]))
        if low < 0 < high and min(-low, high) > 0.2 * max(-low, high):
            high = max(-low, high)
            return cls(-high, high, "RdBu_r")
        return cls(low, high if high > low else low + 1.0, "cividis")


@final
@dataclass(frozen=True)
class View:
    """How the vertices of one graph are laid out on paper.

    Attributes
    ----------
    x, y : (x,), (y,)
        On a lattice the coordinates of its columns and rows; off one, of every vertex. `y` is None for lines, `x` is
        empty where vertices have no place at all.
    shape : tuple of int or None
        Of the lattice.
    keep : bool, of the shape of the lattice, or None
        Which cells of the lattice are vertices; None for all.
    x_label, y_label, note : str
        Names and units of the axes; a remark on data left out.
    joined : bool
        Whether a line through neighbouring values means something.
    stretch : float
        Length of a unit of `y` on paper over that of a unit of `x`.
    """

    x: Float[np.ndarray, " x"]
    y: Float[np.ndarray, " y"] | None
    shape: tuple[int, ...] | None
    keep: Bool[np.ndarray, "*cell"] | None
    x_label: str
    y_label: str = ""
    note: str = ""
    joined: bool = False
    stretch: float = 1.0

    @property
    def is_map(self) -> bool:
        """Whether fields are pictures in two dimensions, rather than lines."""
        return self.y is not None

    @property
    def aspect(self) -> float:
        """Height over width of one picture, bounded so that long strips stay visible."""
        if self.y is None:
            return 0.7
        ratio = np.ptp(self.y) / max(np.ptp(self.x), 1e-12) * self.stretch
        return float(np.clip(ratio, 0.35, 1.6))

    @classmethod
    def of(cls, graph: DependencyGraph, dims: Sequence[str] | None = None) -> View:
        """Lay out the graph; `dims` names the axes of its lattice, or its coordinates.

        Examples
        --------
        >>> from nearfield.graph import DependencyGraph
        >>> View.of(DependencyGraph.grid((2, 3)), ("north, km", "east, km")).x_label
        'east, km'
        """
        lattice, points = graph.lattice, graph.coordinates
        sphere = points is not None and graph.metric == "haversine"
        if sphere:
            names = ["latitude, degrees north", "longitude, degrees east"]
        else:
            n_axes = len(lattice.shape) if lattice is not None else 0 if points is None else points.shape[1]
            default = "{}" if lattice is None else "axis {}, cells"
            names = (
                list(dims)
                if dims is not None and len(dims) >= n_axes
                else [default.format(k if lattice is not None else f"coordinate {k}") for k in range(n_axes)]
            )
        if lattice is None:
            return cls._scattered(points, names, sphere)
        keep = None if graph.keep is None else np.asarray(graph.keep)
        if len(lattice.shape) == 1:
            along = np.arange(lattice.shape[0], dtype=float)
            if points is not None and points.shape[1] == 1:
                along = _axis_values(points[:, 0], keep, lattice.shape, 0)
            return cls(along, None, lattice.shape, keep, names[0], joined=True)
        rows, cols = (np.arange(n, dtype=float) for n in lattice.shape[-2:])
        if points is not None and points.shape[1] == len(lattice.shape):
            first = len(lattice.shape) - 2
            rows = _axis_values(points[:, first], keep, lattice.shape, first)
            cols = _axis_values(points[:, first + 1], keep, lattice.shape, first + 1)
        if sphere:
            cols = np.unwrap(cols, period=360)  # an axis that passes the date line goes on past 180
        note = ""
        if len(lattice.shape) == 3:
            note = f"slice {lattice.shape[0] // 2} of {lattice.shape[0]} along {names[0]}"
        stretch = 1 / max(np.cos(np.deg2rad(rows.mean())), 0.2) if sphere else 1.0
        return cls(cols, rows, lattice.shape, keep, names[-1], names[-2], note, stretch=stretch)

    @classmethod
    def _scattered(cls, points: Float[np.ndarray, "vertex k"] | None, names: list[str], sphere: bool) -> View:
        if points is None:
            return cls(np.array([]), None, None, None, "vertex")
        if points.shape[1] == 1:
            return cls(points[:, 0], None, None, None, names[0])
        x, y = (1, 0) if sphere else (0, 1)
        stretch = 1 / max(np.cos(np.deg2rad(points[:, 0].mean())), 0.2) if sphere else 1.0
        note = f"{names[2]} left out" if points.shape[1] > 2 else ""
        return cls(points[:, x], points[:, y], None, None, names[x], names[y], note, stretch=stretch)

    def draw(self, ax: Axes, values: Float[np.ndarray, " vertex"], scale: ColourScale) -> ScalarMappable | None:
        """Draw one field; return the source of a colour bar, None for lines."""
        from matplotlib.colors import Normalize  # half a second to import

        if self.shape is not None:
            whole = np.full(int(np.prod(self.shape)), np.nan)
            whole[slice(None) if self.keep is None else self.keep.ravel()] = values
            values = whole.reshape(self.shape)
        norm = Normalize(scale.low, scale.high)
        if self.y is None:
            x = self.x if self.x.size else np.arange(len(values), dtype=float)
            style: dict[str, Any] = (
                {"lw": 1} if self.joined else {"ls": "", "marker": ".", "ms": float(np.clip(300 / len(values), 2, 8))}
            )
            ax.plot(x, values, color=_LINE, **style)
            margin = 0.05 * (scale.high - scale.low)
            ax.set_ylim(scale.low - margin, scale.high + margin)
            ax.spines[["top", "right"]].set_visible(False)
            return None
        ax.set_aspect(self.stretch, adjustable="box")
        ax.set_facecolor(_LAND)
        if self.shape is None:
            size = float(np.clip(6000 / len(values), 2, 30))
            ax.set_facecolor("white")
            return ax.scatter(self.x, self.y, c=values, s=size, cmap=scale.cmap, norm=norm, linewidths=0)
        if values.ndim == 3:
            values = values[values.shape[0] // 2]
        mesh = np.ma.masked_invalid(values)
        return ax.pcolormesh(self.x, self.y, mesh, cmap=scale.cmap, norm=norm, shading="nearest", rasterized=True)

    def positions(self) -> tuple[Float[np.ndarray, " vertex"], Float[np.ndarray, " vertex"] | None]:
        """Where each vertex stands; not a number for vertices outside the slice that is drawn."""
        if self.shape is None or self.y is None:
            return (self.x if self.keep is None else self.x[self.keep.ravel()]), self.y
        rows, cols = np.meshgrid(self.y, self.x, indexing="ij")
        if len(self.shape) == 3:
            inside = np.where(np.arange(self.shape[0]) == self.shape[0] // 2, 1.0, np.nan)[:, None, None]
            rows, cols = inside * rows, inside * cols
        kept = slice(None) if self.keep is None else self.keep.ravel()
        return cols.ravel()[kept], rows.ravel()[kept]


def _axis_values(
    column: Float[np.ndarray, " vertex"], keep: Bool[np.ndarray, "*cell"] | None, shape: tuple[int, ...], axis: int
) -> Float[np.ndarray, " place"]:
    """One coordinate along an axis of a lattice; rows without any vertex are filled in between their neighbours."""
    whole = np.full(shape, np.nan)
    whole[slice(None) if keep is None else keep] = column.reshape(shape) if keep is None else column
    lines = np.moveaxis(whole, axis, 0).reshape(shape[axis], -1)
    known = np.isfinite(lines).any(axis=1)
    cells = np.arange(shape[axis])
    return np.interp(cells, cells[known], np.nanmean(lines[known], axis=1))
