"""One channel of a report: its numbers, verdicts and pictures."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfield.evaluation import check, plot
from nearfield.evaluation.agreement import Agreement
from nearfield.evaluation.check import Verdict
from nearfield.evaluation.curve import Curve, VertexPairs
from nearfield.evaluation.metric import MarginalDistance, correlation_by_distance, radial_spectrum
from nearfield.evaluation.moment import Yardstick, statistics_of
from nearfield.evaluation.ruler import Ruler
from nearfield.evaluation.training import MOST_CHANNELS

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.axes import Axes

    from nearfield.evaluation.comparison import Comparison

__all__ = ["picture_missing", "png", "section"]

_RETURN = (10, 50, 100)  # samples
_PICTURED = 4  # fields of each kind
_MOST_VERTICES = 1000  # for marginal distances, which are repeated
_MOST_VALUES = 1_000_000  # in one histogram


def section(comparison: Comparison, c: int) -> tuple[dict[str, Any], list[Verdict], dict[str, str]]:
    """Return numbers, verdicts and pictures of one channel."""
    real, generated = comparison.real[..., c : c + 1], comparison.generated[..., c : c + 1]
    name, unit = comparison.channels[c], comparison.units[c]
    label = f"{name}, {unit}" if unit else name
    numbers: dict[str, Any] = {"name": name, "unit": unit}
    numbers["statistics"] = {"data": _moments(real), "generated": _moments(generated)}
    numbers["extremes"] = _extremes(real[..., 0], generated[..., 0])
    pictures = _picture_fields(comparison, c, label) | _picture_marginals(comparison, real, generated, label)
    checks = _check_marginal(comparison, real, generated, unit, numbers)
    checks += _check_correlation(comparison, real, generated, numbers, pictures)
    _add_spectrum(comparison, real, generated, unit, numbers, pictures)
    checks += _check_moments(comparison, c, numbers)
    if len(comparison.channels) > 1:
        checks = [Verdict(f"{name}: {k.name}", k.status, k.value, k.low, k.high, k.sentence) for k in checks]
    return numbers, checks, pictures


def _picture_fields(comparison: Comparison, c: int, label: str) -> dict[str, str]:
    # Taken by position, not by eye: data evenly spread over the record, generated fields the first ones.
    count = min(_PICTURED, len(comparison.real), len(comparison.generated))
    places = np.linspace(0, len(comparison.real) - 1, count).round().astype(int)
    kinds = {
        "fields": {f"data {k + 1}": comparison.real[k, :, c] for k in places},
        "generated": {f"generated {k + 1}": comparison.generated[k, :, c] for k in range(count)},
    }
    together = np.stack([values for panels in kinds.values() for values in panels.values()])
    scale = plot.common_scale(together, comparison.graph)
    return {
        name: png(plot.fields(panels, comparison.graph, label=label, dims=comparison.dims, scale=scale, columns=2)[0])
        for name, panels in kinds.items()
    }


def picture_missing(comparison: Comparison) -> dict[str, str]:
    """Map how many values of each vertex were observed, if any were missing in the fit."""
    fit, graph = comparison.fit, comparison.graph
    if fit is None or fit.missing is None or len(fit.missing.n_observed) != graph.n_vertices:
        return {}
    share = 100 * np.array(fit.missing.n_observed) / fit.n_samples
    axes = plot.fields({"observed": share}, graph, label="observed, % of the samples", dims=comparison.dims)
    return {"missing": png(axes[0])}


def _picture_marginals(
    comparison: Comparison, real: Float[np.ndarray, "..."], generated: Float[np.ndarray, "..."], label: str
) -> dict[str, str]:
    rng = np.random.default_rng(comparison.seed)
    a, b = (x.ravel() if x.size <= _MOST_VALUES else rng.choice(x.ravel(), _MOST_VALUES) for x in (real, generated))
    return {
        "marginal": png(plot.marginal({"data": a, "generated": b}, label=label)),
        "quantiles": png(plot.quantiles(a, b, label=label)),
    }


def _check_marginal(
    comparison: Comparison,
    real: Float[np.ndarray, "..."],
    generated: Float[np.ndarray, "..."],
    unit: str,
    numbers: dict[str, Any],
) -> list[Verdict]:
    if len(real) < 4:
        numbers["marginal"] = None
        return [Verdict.unknown("marginal distributions", f"This needs 4 data samples, there are {len(real)}.")]
    vertices = np.random.default_rng(comparison.seed).permutation(comparison.graph.n_vertices)[:_MOST_VERTICES]
    distance = MarginalDistance.measure(real[:, vertices], generated[:, vertices], seed=comparison.seed)
    numbers["marginal"] = {
        "wasserstein": distance.distance[0],
        "noise_floor": distance.noise_floor[0],
        "noise_high": distance.noise_high[0],
        "samples_each": distance.size,
        "vertices": len(vertices),
    }
    return [check.check_marginal(distance, unit)]


def _check_correlation(
    comparison: Comparison,
    real: Float[np.ndarray, "..."],
    generated: Float[np.ndarray, "..."],
    numbers: dict[str, Any],
    pictures: dict[str, str],
) -> list[Verdict]:
    if comparison.graph.n_vertices < 2 or (comparison.graph.coordinates is None and not comparison.graph.adjacency.nnz):
        numbers["correlation"] = None
        return []
    most = max(20_000, min(200_000, 100_000_000 // max(len(real), len(generated))))
    pairs = VertexPairs.draw(comparison.graph, max_pairs=most, seed=comparison.seed)
    ours = correlation_by_distance(real, pairs, block=comparison.block, seed=comparison.seed)
    theirs = correlation_by_distance(generated, pairs, seed=comparison.seed + 1)
    numbers["correlation"] = _curves(ours, theirs)
    pictures["correlation"] = png(plot.correlation({"data": ours, "generated": theirs}))
    return [check.check_long_range(real, generated, pairs, ours, block=comparison.block, seed=comparison.seed)]


def _add_spectrum(
    comparison: Comparison,
    real: Float[np.ndarray, "..."],
    generated: Float[np.ndarray, "..."],
    unit: str,
    numbers: dict[str, Any],
    pictures: dict[str, str],
) -> None:
    lattice = comparison.graph.lattice
    numbers["spectrum"] = None
    if lattice is None or comparison.graph.n_vertices < np.prod(lattice.shape) or comparison.graph.n_vertices < 4:
        return
    ours = radial_spectrum(real, lattice, block=comparison.block, seed=comparison.seed)
    theirs = radial_spectrum(generated, lattice, seed=comparison.seed + 1)
    numbers["spectrum"] = _curves(ours, theirs)
    pictures["spectrum"] = png(plot.spectrum({"data": ours, "generated": theirs}, unit=unit))


def _check_moments(comparison: Comparison, c: int, numbers: dict[str, Any]) -> list[Verdict]:
    """Compare the moments: by the yardstick of the training data where it is kept, else by that of the data."""
    ruler = Ruler.of(comparison.graph, tile=comparison.tiles)
    real, generated = comparison.real[..., c], comparison.generated[..., c]
    kept = None if comparison.held_out_from is None else comparison.held_out_from.channels[c]
    stick = Yardstick.of(real) if kept is None else kept[0]
    found = Agreement(
        statistics_of(ruler),
        stick.measure(real, ruler, own=kept is None, block=comparison.block),
        stick.measure(generated, ruler),
        None if kept is None else kept[1],
        min(len(comparison.channels), MOST_CHANNELS),
    )
    numbers["moments"] = found.table()
    return found.checks()


def _moments(x: Float[np.ndarray, "..."]) -> dict[str, float]:
    return {"mean": x.mean(), "standard_deviation": x.std(), "minimum": x.min(), "maximum": x.max()}


def _extremes(
    real: Float[np.ndarray, "sample vertex"], generated: Float[np.ndarray, "member vertex"]
) -> list[dict[str, Any]]:
    """Levels that a vertex exceeds once in so many samples, and the record of as many data and draws: vertex means.

    A level is None where there are fewer samples than that.
    """
    levels = [
        {"kind": "level", "samples": n}
        | {
            key: float(np.quantile(x, 1 - 1 / n, axis=0, method="hazen").mean()) if len(x) >= n else None
            for key, x in (("data", real), ("generated", generated))
        }
        for n in _RETURN
    ]
    n = min(len(real), len(generated))
    record = {key: float(x[:n].max(axis=0).mean()) for key, x in (("data", real), ("generated", generated))}
    return [*levels, {"kind": "record", "samples": n} | record]


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
