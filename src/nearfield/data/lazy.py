"""Data that are read in parts, since together they may not fit into memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, final

import numpy as np
import xarray as xr

from nearfield.data.codec import Codec
from nearfield.data.patches import patches_of
from nearfield.data.source import Source, mapped
from nearfield.data.training import TrainingData
from nearfield.graph import DependencyGraph
from nearfield.graph.tiling import Tiling

if TYPE_CHECKING:
    from nearfield.data.statistics import VertexStatistics
    from nearfield.data.validation import Data

__all__ = ["WHOLE", "LazyData", "in_memory", "is_large", "is_lazy"]

WHOLE = 1 << 24
"""Numbers up to which lazily stored data are simply loaded."""


def is_lazy(data: Any) -> bool:
    """Whether data are read where they are needed: Dask's arrays, xarray's data in them, and arrays mapped from files.

    Examples
    --------
    >>> is_lazy(xr.DataArray(np.zeros((2, 3))))
    False
    """
    if isinstance(data, xr.DataArray):
        return data.chunks is not None
    if isinstance(data, xr.Dataset):
        return any(variable.chunks is not None for variable in data.data_vars.values())
    return isinstance(data, np.memmap) or _of_dask(data)


def is_large(data: Any) -> bool:
    """Whether data are lazily stored, and of more than `WHOLE` numbers: they are read in parts."""
    return is_lazy(data) and _size(data) > WHOLE


def in_memory(data: Any) -> Any:
    """Load lazily stored data of few numbers; leave others as they are.

    Examples
    --------
    >>> in_memory(np.zeros((2, 3))).shape
    (2, 3)
    """
    if not is_lazy(data) or is_large(data):
        return data
    return data.compute() if hasattr(data, "compute") else np.asarray(data)


@final
@dataclass(frozen=True, eq=False)
class LazyData:
    """Training data that are read in parts: what their labels say, and the source of their values.

    Parameters
    ----------
    training : TrainingData
        Their labels, the values unread.
    source : Source
        Their values.
    graph : DependencyGraph
        Without regard to missing values.

    Examples
    --------
    >>> from nearfield.data.statistics import VertexStatistics, statistics_of
    >>> x = np.random.default_rng(0).normal(size=(9, 6, 5))
    >>> data = LazyData.of(x)
    >>> tiling = Tiling.of(data.graph, 10)
    >>> tiles = [statistics_of(data.source, tiling, tile) for tile in range(len(tiling))]
    >>> codec = data.codec(VertexStatistics.gathered(tiling, data.source.n_samples, tiles))
    >>> codec.graph
    DependencyGraph.grid((6, 5))
    """

    training: TrainingData
    source: Source
    graph: DependencyGraph

    @classmethod
    def of(
        cls, data: Data, sample_dim: str | Sequence[str] | None = None, graph: DependencyGraph | None = None
    ) -> LazyData:
        """Read the labels of data; of values only patches, where attributes name the valid ones.

        Raises
        ------
        TypeError, ValueError
            If the layout is unclear or not that of the graph, the type is no real number, or there are fewer than two
            samples.
        """
        unread: Any = data
        if isinstance(data, np.memmap):
            unread = mapped(data)
        if not isinstance(data, xr.DataArray | xr.Dataset):
            if unread.dtype.kind not in "iuf":
                raise TypeError(f"X must hold real numbers, got dtype {unread.dtype}; convert to float")
            if any(math.isnan(length) for length in unread.shape):
                raise ValueError(f"X must have a known shape, got {unread.shape}; call X.compute_chunk_sizes() first")
            if 0 in unread.shape:
                raise ValueError(f"X must have at least one sample and one vertex, got shape {unread.shape}")
        training = TrainingData.of(unread, sample_dim, graph, read=False)
        whole = training.layout.infer_graph() if graph is None else graph
        source = Source.of(training.variables, training.sample_dims, training.layout, whole)
        if not source.place and isinstance(data, xr.Dataset):
            source = replace(source, place=str(data.encoding.get("source", "")))
        if not all(np.isinf(limits).all() for limits in source.allowed):
            plain = replace(
                source, declarations=tuple(replace(d, low=-np.inf, high=np.inf) for d in source.declarations)
            )
            seen = np.concatenate([plain.read(box) for box in patches_of(Tiling.of(whole))], axis=1)
            checked = [d.checked(seen[..., k]) for k, d in enumerate(source.declarations)]
            source = replace(source, declarations=tuple(checked))
        return cls(training, source, whole)

    def codec(self, found: VertexStatistics, missing: str = "allow") -> Codec:
        """Return the codec, from the statistics of all cells.

        Raises
        ------
        ValueError
            As `Codec.fit` does.
        """
        return Codec.of(self.training, found, missing)


def _size(data: Any) -> int:
    """Count the numbers in data."""
    variables = data.data_vars.values() if isinstance(data, xr.Dataset) else [data]
    return sum(int(variable.size) for variable in variables)


def _of_dask(data: Any) -> bool:
    return type(data).__module__.partition(".")[0] == "dask" and hasattr(data, "dask") and hasattr(data, "chunks")
