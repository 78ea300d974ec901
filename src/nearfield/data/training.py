"""Training data before a model knows them: kind, variables, layout and graph, and which cells can be fitted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
import xarray as xr

from nearfield.data.chronology import sample_axis
from nearfield.data.dimension import find_sample_dims
from nearfield.data.layout import Layout
from nearfield.data.missing import refuse_fill
from nearfield.data.placement import stack_cells
from nearfield.data.plain import plain_attrs
from nearfield.data.validation import (
    as_variables,
    refuse_constant,
    refuse_extreme,
    refuse_few,
    refuse_infinite,
    refuse_missing,
)

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from numpy import ndarray

    from nearfield.data.statistics import VertexStatistics
    from nearfield.data.validation import Container, Data
    from nearfield.graph import DependencyGraph

__all__ = ["TrainingData"]


@final
@dataclass(frozen=True, eq=False)
class TrainingData:
    """Variables of training data, with what their labels say.

    Parameters
    ----------
    container : {"array", "channel array", "DataArray", "Dataset"}
        Kind of the data.
    variables : tuple of DataArray
        The channels.
    sample_dims : tuple of str
        Dimensions that count samples.
    layout : Layout
        The others.
    graph : DependencyGraph or None
        The graph that was given.
    attrs : dict
        Attributes of a Dataset.
    """

    container: Container
    variables: tuple[xr.DataArray, ...]
    sample_dims: tuple[str, ...]
    layout: Layout
    graph: DependencyGraph | None
    attrs: Mapping[str, Any]

    @classmethod
    def of(
        cls, data: Data, sample_dim: str | Sequence[str] | None, graph: DependencyGraph | None, *, read: bool = True
    ) -> TrainingData:
        """Read the labels of data, and unless told not to their values."""
        container, variables = as_variables(data, graph, read=read)
        if container in ("DataArray", "Dataset"):
            dims = find_sample_dims(variables[0], sample_dim)
        else:
            name, others = sample_axis(data) if sample_dim is None else sample_dim, variables[0].dims[1:]
            if not isinstance(name, str) or name in others:
                raise ValueError(
                    f"sample_dim must be one name for the first axis of an array and none of {others}, got "
                    f"{sample_dim!r}; 'time' says that samples follow each other"
                )
            variables, dims = [variable.rename(sample=name) for variable in variables], (name,)
        layout = Layout.from_variable(variables[0], dims)
        attrs = plain_attrs(data.attrs) if isinstance(data, xr.Dataset) else {}
        found = cls(container, tuple(variables), dims, layout, graph, attrs)
        if found.n_samples < 2:
            raise ValueError(f"data must have at least 2 samples to fit a law to, got 1 sample ({dims}); add samples")
        return found

    @property
    def n_samples(self) -> int:
        """Number of samples."""
        return math.prod(self.variables[0].sizes[dim] for dim in self.sample_dims)

    def values(self) -> Float[ndarray, "sample cell channel"]:
        """Gather all values."""
        return stack_cells(self.variables, self.sample_dims, self.layout)

    def vertices(self, found: VertexStatistics, missing: str, data: Data | None) -> Bool[ndarray, " cell"]:
        """Return which cells have values; refuse those that cannot be fitted, by ``missing`` also those with gaps."""
        layout, container = self.layout, self.container
        refuse_infinite(found.infinite, layout, container)
        if not found.present.any():
            raise ValueError(
                "data must have a vertex that is not NaN in every sample, got NaN only; is a mask inverted?"
            )
        if missing == "allow":
            refuse_few(found, layout, container)
        else:
            refuse_missing(found.gaps, found.n_samples, found.present, layout, container, data)
        for k, variable in enumerate(self.variables):
            name = "data" if variable.name is None else f"variable {variable.name!r}"
            channel, numbers, counts = found.fills.T
            size = found.n_samples * int(found.present.sum())
            refuse_fill(numbers[channel == k], counts[channel == k].astype(np.int64), size, name)
        refuse_extreme(found, layout, container)
        refuse_constant(found, layout, container)
        return found.present
