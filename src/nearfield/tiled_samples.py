"""Samples of a field too large for memory, read region by region."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, final

import numpy as np
import scipy.sparse as sp

from nearfield.graph import DependencyGraph
from nearfield.graph.pieces import Piece
from nearfield.graph.tiling import Box, Tiling
from nearfield.samples import Samples, folds_of, standard_error

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = ["Completion", "Run", "Source", "TiledSamples", "one_by_one"]

Run = Callable[..., list[Any]]
"""Runs a function of each item and of common arguments, and returns the results in order."""


def one_by_one(function: Callable[..., Any], items: Iterable[Any], *common: Any) -> list[Any]:
    """Run a function of each item in this process."""
    return [function(item, *common) for item in items]


def _same(one: Iterable[Any], other: Iterable[Any]) -> bool:
    """Whether arrays are equal."""
    return all(np.array_equal(*pair) for pair in zip(one, other, strict=True))


class Source(Protocol):
    """Where samples are read from."""

    @property
    def n_samples(self) -> int:
        """Number of samples."""

    @property
    def n_channels(self) -> int:
        """Number of channels of a vertex."""

    def read(
        self, box: Box | Piece, samples: Int[np.ndarray, " some"] | None = None
    ) -> Float[np.ndarray, "sample cell channel"]:
        """Read all samples, or those of some numbers, on the cells of a region in its order; NaN where missing."""


class Completion(Protocol):
    """What stands for missing values, before any standardisation."""

    @property
    def joint(self) -> bool:
        """Whether it holds for all samples together, as a spread does."""

    def fill(
        self, values: Float[np.ndarray, "sample vertex channel"], box: Any, numbers: Int[np.ndarray, " some"] | None
    ) -> sp.csr_array | None:
        """Fill in what is missing (NaN) of the samples of these numbers in a box, and return its spread, if any."""


@final
@dataclass(frozen=True, eq=False)
class TiledSamples:
    """Samples that are read region by region, and never held together.

    Parameters
    ----------
    source : Source
    tiling : Tiling
    ordered : bool
        Whether the samples are in order of time.
    transform : callable, optional
        Turns what is read, (sample, vertex, channel), into the values to fit to.
    numbers : ndarray of int, optional
        Samples in use; by default all.
    center, scale : ndarray, shape (vertex, channel), optional
        Values are less the centre and over the scale.
    channels : tuple of str
        Names of the channels; by default their numbers.
    standard : tuple of bool
        Channels that have mean 0 and unit scale; by default none.
    n_observed : ndarray of int, shape (vertex, channel), optional
        Values of each vertex that are not missing; by default none are.
    completion : Completion, optional
        What stands for the missing values; without it they are NaN.
    run : callable, optional
        Runs tasks, ``run(function, items, *common)``, in parallel perhaps; by default one after the other. Samples that
        are sent to tasks run what they start themselves.

    Examples
    --------
    >>> class Zeros:
    ...     n_samples, n_channels = 3, 1
    ...     def read(self, box, samples=None):
    ...         return np.zeros((3, box.n_cells, 1))
    >>> samples = TiledSamples(Zeros(), Tiling.of(DependencyGraph.grid((8, 8)), 16))
    >>> len(samples), samples.on(samples.tiling.around(0, 1)).values.shape
    (3, (3, 25, 1))
    """

    source: Source
    tiling: Tiling
    ordered: bool = False
    transform: Callable[[np.ndarray], np.ndarray] | None = None
    numbers: Int[np.ndarray, " some"] | None = None
    center: Float[np.ndarray, "vertex channel"] | None = None
    scale: Float[np.ndarray, "vertex channel"] | None = None
    channels: tuple[str, ...] = ()
    standard: tuple[bool, ...] = ()
    n_observed: Int[np.ndarray, "vertex channel"] | None = None
    completion: Completion | None = None
    run: Run | None = None
    _known: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"run": None, "_known": {}}

    def over_tiles(self, function: Callable[..., Any], *common: Any, kept: str | None = None) -> list[Any]:
        """Return the results of a function of each tile, of these samples and of common arguments.

        Results with a name are ``kept`` with these samples, and computed once.
        """
        found = None if kept is None else self._known.get(kept)
        if found is None:
            found = (self.run or one_by_one)(function, range(len(self.tiling)), self, *common)
            if kept is not None:
                self._known[kept] = found
        return found

    def __len__(self) -> int:
        return self.source.n_samples if self.numbers is None else len(self.numbers)

    @property
    def graph(self) -> DependencyGraph:
        """Graph of the vertices."""
        return self.tiling.graph

    @property
    def n_vertices(self) -> int:
        """Number of vertices."""
        return self.graph.n_vertices

    @property
    def n_channels(self) -> int:
        """Number of channels of each vertex."""
        return self.source.n_channels

    @property
    def incomplete(self) -> bool:
        """Whether values are missing that nothing stands for yet."""
        return self.n_observed is not None and self.completion is None

    def on(self, box: Box | Piece) -> Samples:
        """Read the samples on the vertices of a region, in double precision."""
        values = self.source.read(box, self.numbers)
        if self.graph.keep is not None:
            values = values[:, self.graph.keep.reshape(-1)[self.tiling.cells(box)]]
        values = values.astype(np.float64)
        if self.transform is not None:
            values = self.transform(values)
        observed = spread = None
        if self.completion is not None:
            seen = ~np.isnan(values)
            spread = None if seen.all() else self.completion.fill(values, box, self.numbers)
            observed = None if spread is None else seen
        if self.center is not None and self.scale is not None:
            vertices = self.tiling.vertices(box)
            values = (values - self.center[vertices]) / self.scale[vertices]
            if spread is not None:
                units = sp.diags_array(1 / self.scale[vertices].ravel())
                spread = sp.csr_array(units @ spread @ units)
        graph = self.tiling.graph_of(box)
        return Samples(values, graph, observed, self.ordered, self.channels, self.standard, spread)

    def standardized(
        self, center: Float[np.ndarray, "vertex channel"], scale: Float[np.ndarray, "vertex channel"]
    ) -> TiledSamples:
        """Return values less their centre over their scale, every channel standard."""
        if self.center is not None and self.scale is not None:
            center, scale = self.center + self.scale * center, self.scale * scale
        last: TiledSamples | None = self._known.get("standardized")
        if last is None or not _same((last.center, last.scale), (center, scale)):
            last = replace(self, center=center, scale=scale, standard=(True,) * self.n_channels)
            self._known["standardized"] = last  # with what is known of it
        return last

    def completed(self, completion: Completion) -> TiledSamples:
        """Return the samples with what stands for missing values; without a spread they count as complete."""
        return replace(self, completion=completion, n_observed=self.n_observed if completion.joint else None)

    def take(self, numbers: Int[np.ndarray, " some"]) -> TiledSamples:
        """Return the samples of these numbers."""
        if self.completion is not None and self.completion.joint:
            raise ValueError("samples with a spread cannot be divided, which holds for all of them together")
        return replace(self, numbers=numbers if self.numbers is None else self.numbers[numbers])

    def without(self, numbers: Int[np.ndarray, " some"]) -> TiledSamples:
        """Return all samples but these."""
        return self.take(np.delete(np.arange(len(self)), numbers))

    def folds(self, n: int, seed: int = 0) -> list[Int[np.ndarray, " held_out"]]:
        """Return held-out sample numbers of each fold, as `Samples.folds` does; no two samples count as repeats."""
        return folds_of(np.arange(len(self)), n, self.ordered, seed)

    def standard_error(self, losses: Float[np.ndarray, " sample"]) -> float:
        """Return the standard error of a mean over these samples, or some of them in order."""
        return standard_error(losses, self.ordered)
