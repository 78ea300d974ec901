"""Data and generated fields compared, one channel at a time: numbers, checks and pictures."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np

from nearfield.evaluation import check, plot
from nearfield.evaluation.agreement import Agreement
from nearfield.evaluation.check import Verdict
from nearfield.evaluation.curve import Curve, VertexPairs
from nearfield.evaluation.metric import MarginalDistance, correlation_by_distance, radial_spectrum
from nearfield.evaluation.moment import Yardstick, statistics_of
from nearfield.evaluation.ruler import Ruler
from nearfield.evaluation.training import MOST_CHANNELS, TrainingMoments

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.axes import Axes

    from nearfield.graph import DependencyGraph

_PICTURED = 4  # fields of each kind
_MOST_VERTICES = 1000  # for marginal distances, which are repeated
_MOST_VALUES = 1_000_000  # in one histogram


@final
@dataclass(frozen=True)
class Comparison:
    """Data and generated fields, and what is needed to compare them one channel at a time.

    Attributes
    ----------
    real, generated : (sample, vertex, channel)
        In the unit of the data.
    graph : DependencyGraph
        Of the vertices.
    names, units : tuple of str
        One a channel; a unit may be empty.
    dims : tuple of str or None
        Names of the lattice's axes.
    block : int
        Consecutive data samples resampled together in the bootstrap.
    seed : int
        Of pairs, splits and bootstrap.
    training : TrainingMoments or None
        What is kept of the data that were fitted, where `real` are others.
    """

    real: Float[np.ndarray, "sample vertex channel"]
    generated: Float[np.ndarray, "member vertex channel"]
    graph: DependencyGraph
    names: tuple[str, ...]
    units: tuple[str, ...]
    dims: tuple[str, ...] | None
    block: int
    seed: int
    training: TrainingMoments | None = None

    def describe(self) -> dict[str, Any]:
        """Sizes and layout of the data."""
        lattice = self.graph.lattice
        return {
            "n_samples": len(self.real),
            "n_generated": len(self.generated),
            "n_vertices": self.graph.n_vertices,
            "n_channels": self.real.shape[2],
            "n_channels_compared": min(self.real.shape[2], MOST_CHANNELS),
            "channels": list(self.names),
            "units": list(self.units),
            "graph": repr(self.graph),
            "lattice": None if lattice is None else list(lattice.shape),
            "cells_removed": 0 if lattice is None else int(np.prod(lattice.shape)) - self.graph.n_vertices,
            "dims": self.dims,
        }

    def channel(self, c: int) -> tuple[dict[str, Any], list[Verdict], dict[str, str]]:
        """Numbers, checks and pictures of one channel."""
        real, generated = self.real[..., c : c + 1], self.generated[..., c : c + 1]
        name, unit = self.names[c], self.units[c]
        label = f"{name}, {unit}" if unit else name
        numbers: dict[str, Any] = {"name": name, "unit": unit}
        numbers["statistics"] = {"data": _moments(real), "generated": _moments(generated)}
        pictures = self._picture_fields(c, label) | self._picture_marginals(real, generated, label)
        checks = self._check_marginal(real, generated, unit, numbers)
        checks += self._check_correlation(real, generated, numbers, pictures)
        self._show_spectrum(real, generated, unit, numbers, pictures)
        checks += self._check_moments(c, numbers)
        if len(self.names) > 1:
            checks = [Verdict(f"{name}: {k.name}", k.status, k.value, k.low, k.high, k.sentence) for k in checks]
        return numbers, checks, pictures

    def _picture_fields(self, c: int, label: str) -> dict[str, str]:
        # Taken by position, not by eye: data evenly spread over the record, generated fields the first ones.
        shown = min(_PICTURED, len(self.real), len(self.generated))
        places = np.linspace(0, len(self.real) - 1, shown).round().astype(int)
        kinds = {
            "fields": {f"data {k + 1}": self.real[k, :, c] for k in places},
            "generated": {f"generated {k + 1}": self.generated[k, :, c] for k in range(shown)},
        }
        together = np.stack([values for panels in kinds.values() for values in panels.values()])
        scale = plot.common_scale(together, self.graph)
        return {
            name: png(plot.fields(panels, self.graph, label=label, dims=self.dims, scale=scale, columns=2)[0])
            for name, panels in kinds.items()
        }

    def _picture_marginals(
        self, real: Float[np.ndarray, ...], generated: Float[np.ndarray, ...], label: str
    ) -> dict[str, str]:
        rng = np.random.default_rng(self.seed)
        a, b = (x.ravel() if x.size <= _MOST_VALUES else rng.choice(x.ravel(), _MOST_VALUES) for x in (real, generated))
        return {
            "marginal": png(plot.marginal({"data": a, "generated": b}, label=label)),
            "quantiles": png(plot.quantiles(a, b, label=label)),
        }

    def _check_marginal(
        self,
        real: Float[np.ndarray, ...],
        generated: Float[np.ndarray, ...],
        unit: str,
        numbers: dict[str, Any],
    ) -> list[Verdict]:
        if len(real) < 4:
            numbers["marginal"] = None
            return [Verdict.unknown("marginal distributions", f"This needs 4 data samples, there are {len(real)}.")]
        vertices = np.random.default_rng(self.seed).permutation(self.graph.n_vertices)[:_MOST_VERTICES]
        distance = MarginalDistance.measure(real[:, vertices], generated[:, vertices], seed=self.seed)
        numbers["marginal"] = {
            "wasserstein": distance.distance[0],
            "noise_floor": distance.noise_floor[0],
            "noise_high": distance.noise_high[0],
            "samples_each": distance.size,
            "vertices": len(vertices),
        }
        return [check.check_marginal(distance, unit)]

    def _check_correlation(
        self,
        real: Float[np.ndarray, ...],
        generated: Float[np.ndarray, ...],
        numbers: dict[str, Any],
        pictures: dict[str, str],
    ) -> list[Verdict]:
        if self.graph.n_vertices < 2 or (self.graph.coordinates is None and not self.graph.adjacency.nnz):
            numbers["correlation"] = None
            return []
        most = max(20_000, min(200_000, 100_000_000 // max(len(real), len(generated))))
        pairs = VertexPairs.draw(self.graph, max_pairs=most, seed=self.seed)
        ours = correlation_by_distance(real, pairs, block=self.block, seed=self.seed)
        theirs = correlation_by_distance(generated, pairs, seed=self.seed + 1)
        numbers["correlation"] = _curves(ours, theirs)
        pictures["correlation"] = png(plot.correlation({"data": ours, "generated": theirs}))
        return [check.check_long_range(real, generated, pairs, ours, block=self.block, seed=self.seed)]

    def _show_spectrum(
        self,
        real: Float[np.ndarray, ...],
        generated: Float[np.ndarray, ...],
        unit: str,
        numbers: dict[str, Any],
        pictures: dict[str, str],
    ) -> None:
        lattice = self.graph.lattice
        numbers["spectrum"] = None
        if lattice is None or self.graph.n_vertices < np.prod(lattice.shape) or self.graph.n_vertices < 4:
            return
        ours = radial_spectrum(real, lattice, block=self.block, seed=self.seed)
        theirs = radial_spectrum(generated, lattice, seed=self.seed + 1)
        numbers["spectrum"] = _curves(ours, theirs)
        pictures["spectrum"] = png(plot.spectrum({"data": ours, "generated": theirs}, unit=unit))

    def _check_moments(self, c: int, numbers: dict[str, Any]) -> list[Verdict]:
        """Compare the moments: by the yardstick of the training data where it is kept, else by that of the data."""
        ruler = Ruler.of(self.graph)
        real, generated = self.real[..., c], self.generated[..., c]
        kept = None if self.training is None else self.training.channels[c]
        stick = Yardstick.of(real) if kept is None else kept[0]
        found = Agreement(
            statistics_of(ruler),
            stick.measure(real, ruler, own=kept is None, block=self.block),
            stick.measure(generated, ruler),
            None if kept is None else kept[1],
            min(len(self.names), MOST_CHANNELS),
        )
        numbers["moments"] = found.table()
        return found.checks()


def _moments(x: Float[np.ndarray, ...]) -> dict[str, float]:
    return {"mean": x.mean(), "standard_deviation": x.std(), "minimum": x.min(), "maximum": x.max()}


def _curves(real: Curve, generated: Curve) -> dict[str, Any]:
    shape = {"label": real.label, "axis": real.axis, "count": real.count}
    for name, curve in (("data", real), ("generated", generated)):
        shape[name] = {part: getattr(curve, part)[:, 0] for part in ("value", "low", "high", "error")}
    return shape


def png(ax: Axes) -> str:
    """Picture of the figure the axes are on, as the body of a data URI."""
    buffer = io.BytesIO()
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    return base64.b64encode(buffer.getvalue()).decode("ascii")
