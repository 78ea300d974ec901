"""From the user's arrays to ``(sample, vertex, channel)`` and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, final

import numpy as np

from nearfield._plain import part_of, plain
from nearfield.data.alignment import aligned, samples_of
from nearfield.data.channel import Channel
from nearfield.data.chronology import is_time, row_order, time_order
from nearfield.data.labelling import labelled
from nearfield.data.layout import Layout
from nearfield.data.missing import valid_range
from nearfield.data.placement import place_graph, stack_cells
from nearfield.data.statistics import VertexStatistics
from nearfield.data.training import TrainingData
from nearfield.data.validation import refuse_infinite, refuse_missing
from nearfield.graph import DependencyGraph
from nearfield.samples import Samples

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from numpy import ndarray

    from nearfield.data.validation import Container, Data

__all__ = ["Codec"]


@final
@dataclass(frozen=True, eq=False)
class Codec:
    """The layout of the training data, and the conversions that follow from it. Made by `fit`.

    Parameters
    ----------
    container : {"array", "channel array", "DataArray", "Dataset"}
        Kind of the training data and of the results of `decode`.
    layout : Layout
        Graph dimensions and coordinates.
    present : ndarray of bool, (cell,)
        Cells of the layout that are vertices; the others were NaN in every sample.
    graph : DependencyGraph
        Graph of the vertices.
    sample_dims : tuple of str
        Dimensions that count samples.
    ordered : bool
        Whether samples follow each other in time, so that cross-validation must hold out contiguous blocks.
    channels : tuple of Channel
        The variables.
    attrs : dict
        Attributes of a Dataset.

    Examples
    --------
    >>> import xarray as xr
    >>> sea = xr.DataArray(np.random.default_rng(0).normal(size=(9, 4)), dims=("time", "x"), name="level")
    >>> sea[:, 1] = np.nan
    >>> codec = Codec.fit(sea)
    >>> codec.n_vertices, codec.ordered, codec.encode(sea).shape
    (3, True, (9, 3, 1))
    >>> codec.decode(np.zeros((5, 3, 1))).dims
    ('member', 'x')
    """

    container: Container
    layout: Layout
    present: Bool[ndarray, " cell"]
    graph: DependencyGraph
    sample_dims: tuple[str, ...]
    ordered: bool
    channels: tuple[Channel, ...]
    attrs: Mapping[str, Any]

    @property
    def n_vertices(self) -> int:
        """Number of vertices, cells without data left out."""
        return self.graph.n_vertices

    @property
    def n_channels(self) -> int:
        """Number of channels (variables) of each vertex."""
        return len(self.channels)

    @classmethod
    def fit(
        cls,
        data: Data,
        *,
        sample_dim: str | Sequence[str] | None = None,
        graph: DependencyGraph | None = None,
        missing: str = "error",
    ) -> Codec:
        """Read the layout of training data, and refuse data that cannot be fitted.

        Parameters
        ----------
        data : DataArray, Dataset or array
            A Dataset's variables are channels. Arrays: (n_samples, n) is a chain, (n_samples, ny, nx[, nz]) a grid;
            with a graph (n_samples, n_vertices[, n_channels]) or (n_samples, *lattice shape).
        sample_dim : str, sequence of str or None
            Dimensions that count samples; more than one are stacked. None: see `nearfield.data.dimension`. For arrays,
            the name of their first axis: a time if samples follow each other, as dated rows of a frame do.
        graph : DependencyGraph or None
            The graph, vertices in the order of the data's dimensions; None reads it off the dimensions.
        missing : {"error", "allow"}
            Whether values may be NaN in some samples.

        Raises
        ------
        TypeError, ValueError
            If the data are not real numbers, or there are fewer than two samples, infinite values, NaN in some samples
            only where that is not allowed, vertices with fewer than five values or that do not vary, duplicate
            coordinates, a graph of another size, or an unclear layout.

        Examples
        --------
        >>> Codec.fit(np.random.default_rng(0).normal(size=(20, 6, 5))).graph
        DependencyGraph.grid((6, 5))
        """
        if missing not in ("allow", "error"):
            raise ValueError(f"missing must be 'allow' or 'error', got {missing!r}")
        training = TrainingData.of(data, sample_dim, graph)
        found = VertexStatistics.of(training.values(), [valid_range(v.attrs, v.encoding) for v in training.variables])
        return cls.of(training, found, missing, data)

    @classmethod
    def of(cls, training: TrainingData, found: VertexStatistics, missing: str, data: Data | None = None) -> Codec:
        """Put labels and statistics together; refuse data that cannot be fitted, as `fit` does."""
        cells = training.vertices(found, missing, data)
        present, graph = place_graph(training.graph, training.layout, cells)
        return cls(
            container=training.container,
            layout=training.layout,
            present=present,
            graph=graph,
            sample_dims=training.sample_dims,
            ordered=any(is_time(training.variables[0], dim) for dim in training.sample_dims),
            channels=tuple(Channel.of(variable) for variable in training.variables),
            attrs=training.attrs,
        )

    def encode(self, data: Data, *, allow_missing: bool = False) -> Float[ndarray, "sample vertex channel"]:
        """Bring data of the training data's kind to ``(sample, vertex, channel)``.

        Parameters
        ----------
        data : DataArray, Dataset or array
            Dimensions are matched by name and may come in any order. Without any sample dimension (for arrays: if
            `allow_missing`) they are one sample. Sample dimensions may also bear any of the customary names.
        allow_missing : bool
            Let NaN pass, for data to be completed.

        Returns
        -------
        ndarray, (sample, vertex, channel)
            A new array; float32 if all channels are float32, else float64.

        Raises
        ------
        TypeError
            If the data are of another kind than the training data, or not real numbers.
        ValueError
            If dimensions, coordinates, variables or their units differ, a value is infinite, NaN where not allowed, or
            present where the training data never were.

        Examples
        --------
        >>> import xarray as xr
        >>> field = xr.DataArray(np.arange(12.0).reshape(3, 4), dims=("sample", "x"))
        >>> codec = Codec.fit(field)
        >>> np.array_equal(codec.encode(field.T), codec.encode(field))
        True
        """
        variables = aligned(self, data, allow_missing)
        values = stack_cells(variables, samples_of(self, variables[0]), self.layout)
        refuse_infinite(np.isinf(values).any(axis=(0, 2)), self.layout, self.container)
        if not self.present.all():
            extra = ~np.isnan(values).all(axis=(0, 2)) & ~self.present
            if extra.any():
                raise ValueError(
                    f"data has values at {extra.sum()} vertices that the training data had none at, first "
                    f"{self.layout.name(int(extra.argmax()))}; set them to NaN, or fit with them"
                )
        if not allow_missing:
            gaps = np.count_nonzero(np.isnan(values).any(axis=2), axis=0)
            refuse_missing(gaps, len(values), self.present, self.layout, self.container, data)
        return values if self.present.all() else values[:, self.present]

    def samples(self, data: Data, *, allow_missing: bool = False) -> Samples:
        """Return encoded data on the graph, in double precision and in the order of time where dates are known."""
        values = self.encode(data, allow_missing=allow_missing).astype(np.float64)[self._order(data)]
        names = tuple(str(k if channel.name is None else channel.name) for k, channel in enumerate(self.channels))
        return Samples(values, self.graph, ordered=self.ordered, channels=names)

    def _order(self, data: Data) -> Int[ndarray, " sample"]:
        """Return the numbers of the samples that `encode` gives, in the order of time where dates are known."""
        if "array" in self.container:
            return row_order(data)
        variable = aligned(self, data, allow_missing=False)[0]
        return time_order(variable, samples_of(self, variable))

    def decode(
        self,
        values: Float[ndarray, "*lead vertex channel"],
        *,
        lead: Sequence[str] = ("member",),
        like: Data | None = None,
        attrs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return values to the kind, dimensions, coordinates and units of the data.

        Parameters
        ----------
        values : ndarray, (*lead, vertex, channel), or (*lead, sample, vertex, channel) with `like`
            In the units of the data. With `like` the leading axes may be left out: then they are those data themselves.
        lead : sequence of str
            Names of generated axes, ``member`` by default (``draw`` if `like` has one already). They stand where the
            sample dimension stood, or first when several were stacked or with `like`. ``()``: a single field, such as a
            mean.
        like : DataArray, Dataset or array, or None
            The data that were encoded; the result has their dimensions, coordinates and attributes.
        attrs : mapping or None
            Attributes to add, such as provenance.

        Returns
        -------
        DataArray, Dataset or ndarray
            As the training data; cells without vertex are NaN.

        Raises
        ------
        ValueError
            If the shape of `values` is not as described.

        Examples
        --------
        >>> import xarray as xr
        >>> field = xr.DataArray(np.arange(12.0).reshape(3, 4), dims=("sample", "x"), attrs={"units": "K"})
        >>> codec = Codec.fit(field)
        >>> codec.decode(codec.encode(field), like=field).identical(field)
        True
        >>> codec.decode(np.zeros((7, 4, 1))).member.attrs
        {'standard_name': 'realization'}
        """
        return labelled(self, np.asarray(values), tuple(lead), like, attrs or {})

    def extended(self, shape: tuple[int, ...]) -> Codec:
        """Return the conversions for fields of the same kind on a larger lattice.

        Parameters
        ----------
        shape : tuple of int
            Length of each graph dimension.

        Raises
        ------
        ValueError
            If the graph is no whole lattice of the data's own shape, or coordinates cannot go on; see
            `Layout.extended`.
        """
        lattice = self.graph.lattice
        whole = lattice is not None and self.present.all() and lattice.shape == self.layout.shape
        if lattice is None or not whole or self.graph.coordinates is not None:
            raise ValueError(
                f"only whole flat lattices go on, got {self.graph!r} for data of shape {self.layout.shape}; "
                "on other graphs a vertex has no law to take over"
            )
        graph = DependencyGraph.grid(shape, periodic=lattice.periodic, diagonal=lattice.diagonal)
        return replace(
            self, layout=self.layout.extended(shape), graph=graph, present=np.ones(graph.n_vertices, dtype=bool)
        )

    def state(self) -> tuple[dict[str, Any], dict[str, ndarray]]:
        """Return a JSON-able configuration and the arrays, graph included, for `from_state`.

        Examples
        --------
        >>> Codec.fit(np.eye(3)).state()[0]["container"]
        'array'
        """
        layout, layout_arrays = self.layout.state()
        graph, graph_arrays = self.graph.state()
        config = {
            "container": self.container,
            "layout": layout,
            "graph": graph,
            "sample_dims": list(self.sample_dims),
            "ordered": self.ordered,
            "channels": plain([asdict(channel) for channel in self.channels]),
            "attrs": dict(self.attrs),
        }
        arrays = {"present": self.present}
        arrays |= {f"layout.{name}": array for name, array in layout_arrays.items()}
        arrays |= {f"graph.{name}": array for name, array in graph_arrays.items()}
        return config, arrays

    @classmethod
    def from_state(cls, config: dict[str, Any], arrays: dict[str, ndarray]) -> Codec:
        """Rebuild from `state`: the result decodes to the same labels.

        Examples
        --------
        >>> Codec.from_state(*Codec.fit(np.eye(3)).state()).graph == DependencyGraph.chain(3)
        True
        """
        return cls(
            container=config["container"],
            layout=Layout.from_state(config["layout"], part_of(arrays, "layout")),
            present=arrays["present"],
            graph=DependencyGraph.from_state(config["graph"], part_of(arrays, "graph")),
            sample_dims=tuple(config["sample_dims"]),
            ordered=config["ordered"],
            channels=tuple(Channel(**c | {"dims": tuple(c["dims"])}) for c in config["channels"]),
            attrs=config["attrs"],
        )
