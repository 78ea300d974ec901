"""The record that a report is written from: data, generated fields, and the facts known of the fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

import numpy as np

from nearfield.evaluation.training import MOST_CHANNELS, TrainingMoments, block_length

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from nearfield.evaluation.calibration import Calibration
    from nearfield.fitting.fit_report import FitReport
    from nearfield.fitting.pooling import Pooling
    from nearfield.graph import DependencyGraph

__all__ = ["Comparison"]


@final
@dataclass(frozen=True, eq=False)
class Comparison:
    """Data and generated fields to compare, and the facts that the page repeats.

    Parameters
    ----------
    title : str
        Of the page.
    real, generated : ndarray, (sample, vertex, channel)
        Data and generated fields in the unit of the data, finite, at least 2 samples each.
    graph : DependencyGraph
        Of the vertices.
    channels, units : tuple of str
        Name and unit of each channel; empty: numbered, without unit.
    dims : tuple of str or None
        Names, with units, of the axes of the lattice; latitude and longitude are recognised.
    ordered : bool
        Whether the samples follow one another in time: error bands then resample blocks of them.
    fitted_on : bool or None
        Whether the model has seen these data; None: unknown, and the page says so.
    trained : TrainingMoments or None
        Moments of the training data, compared with where `real` are other data (`fitted_on=False`).
    fit : FitReport or None
        Of the fit: choice of the locality, noise levels, training, durations, warnings.
    radius : int or None
        Hops; None takes the one chosen in `fit`.
    pooling : Pooling or None
        None takes the one chosen in `fit`.
    conditioning_size : int or None
        Numbers that one local law is conditioned on; None takes the effective dimension (3.2) at the radius, a bound.
    log_density : mapping of str to ndarray, (sample,)
        Log-densities in nats under the model; `"held out"` beside `"generated"` is also a check.
    provenance : mapping
        Further facts, such as source, licence, version, seed and digest.
    seed : int
        Of the pairs, splits and bootstrap of the report itself.
    drawn : float
        Share of the values of `real` that were missing, and are drawn by the model.
    calibration : Calibration or None
        Hidden values of the data beside their laws given the others.
    n_given : int or None
        Samples of which `real` are some, spread evenly; by default those are all.
    tiles : ndarray of int, (vertex,), or None
        Tile of each vertex, of a field that was fitted in tiles.

    Raises
    ------
    ValueError
        If the arrays do not fit each other and the graph, hold fewer than 2 samples or are not finite.

    Examples
    --------
    >>> from nearfield.graph import DependencyGraph
    >>> x = np.random.default_rng(0).normal(size=(2, 60, 12, 1))
    >>> Comparison("noise", x[0], x[1], DependencyGraph.chain(12), ordered=True).block
    4
    """

    title: str
    real: Float[np.ndarray, "sample vertex channel"]
    generated: Float[np.ndarray, "member vertex channel"]
    graph: DependencyGraph
    channels: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    dims: tuple[str, ...] | None = None
    ordered: bool = False
    fitted_on: bool | None = None
    trained: TrainingMoments | None = None
    fit: FitReport | None = None
    radius: int | None = None
    pooling: Pooling | None = None
    conditioning_size: int | None = None
    log_density: Mapping[str, Float[np.ndarray, " _"]] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    drawn: float = 0.0
    calibration: Calibration | None = None
    n_given: int | None = None
    tiles: Int[np.ndarray, " vertex"] | None = None

    def __post_init__(self) -> None:
        for name, x in (("real", self.real), ("generated", self.generated)):
            _check_fields(name, x, self.graph)
            object.__setattr__(self, name, np.asarray(x, dtype=float))
        count = self.real.shape[2]
        if count != self.generated.shape[2]:
            raise ValueError(f"generated must have the {count} channels of real, got {self.generated.shape[2]}")
        for name, default in (("channels", [f"channel {k}" for k in range(count)]), ("units", [""] * count)):
            labels = tuple(getattr(self, name) or default)
            if len(labels) != count:
                raise ValueError(f"{name} must name each of the {count} channels, got {len(labels)}")
            object.__setattr__(self, name, labels)

    @property
    def block(self) -> int:
        """Consecutive samples that are resampled together."""
        return block_length(len(self.real), self.ordered)

    @property
    def held_out_from(self) -> TrainingMoments | None:
        """Moments of the training data, where the data are held out from them."""
        return self.trained if self.fitted_on is False else None

    def describe(self) -> dict[str, Any]:
        """Sizes and layout of the data."""
        lattice = self.graph.lattice
        return {
            "n_samples": len(self.real),
            "n_given": self.n_given or len(self.real),
            "n_generated": len(self.generated),
            "n_vertices": self.graph.n_vertices,
            "n_channels": self.real.shape[2],
            "n_channels_compared": min(self.real.shape[2], MOST_CHANNELS),
            "channels": list(self.channels),
            "units": list(self.units),
            "graph": repr(self.graph),
            "lattice": None if lattice is None else list(lattice.shape),
            "cells_removed": 0 if lattice is None else int(np.prod(lattice.shape)) - self.graph.n_vertices,
            "dims": self.dims,
            "fitted_on": self.fitted_on,
            "ordered": self.ordered,
            "drawn": self.drawn,
        }


def _check_fields(name: str, x: Float[np.ndarray, "..."], graph: DependencyGraph) -> None:
    if x.ndim != 3 or x.shape[1] != graph.n_vertices:
        raise ValueError(f"{name} must have shape (samples, {graph.n_vertices} vertices, channels), got {x.shape}")
    if len(x) < 2:
        raise ValueError(f"{name} must have at least 2 samples, got {len(x)}")
    if not np.isfinite(x).all():
        raise ValueError(f"{name} must be finite, got {np.count_nonzero(~np.isfinite(x))} values that are not")
