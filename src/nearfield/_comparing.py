"""A fitted model beside data: what a report looks at, and what it compares."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfield.conditional import UnsupportedError
from nearfield.data.fields import Fields
from nearfield.distribution import GaussianModel
from nearfield.evaluation.calibration import Calibration
from nearfield.evaluation.comparison import Comparison
from nearfield.evaluation.trial import DRAWN, EXACT, FEWEST, Trial
from nearfield.model import Model
from nearfield.samples import Samples

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from nearfield.graph.tiling import Tiling

__all__ = ["calibration", "compare", "compare_fields"]

MOST = 1 << 25
"""Numbers of the data, and of the draws, that a report compares: a quarter of a GiB each."""
_FEW, _MANY, _CHEAP = 200, 1000, 1 << 24
"""Draws that are compared with few samples, unless they have more numbers than the last; and at most."""
_TOGETHER = 1 << 22
"""Numbers whose density is taken at once."""


def compare_fields(
    model: Model,
    fields: Fields,
    draw: Callable[[int], Float[np.ndarray, "member vertex channel"]],
    provenance: Mapping[str, Any],
) -> Comparison:
    """Compare data with standardised draws, some samples of which where all are too many numbers."""
    size, n_given = model.codec.n_vertices * model.codec.n_channels, len(fields)
    most = max(FEWEST, MOST // size)
    numbers = _spread(fields.order, most)
    n_drawn = min(max(len(numbers), min(_FEW, _CHEAP // size)), _MANY, most)
    if len(numbers) < n_given:
        warnings.warn(
            f"the report looks at {len(numbers)} of {n_given} samples, spread evenly over the record, and {n_drawn} "
            "draws: all would not fit into memory",
            stacklevel=3,
        )
    return compare(model, fields.take(numbers), draw(n_drawn), provenance, n_given=n_given)


def _spread(order: Int[np.ndarray, " sample"], most: int) -> Int[np.ndarray, " some"]:
    """Take at most so many numbers, evenly spread."""
    chosen: np.ndarray = order[np.linspace(0, len(order) - 1, min(len(order), most)).round().astype(int)]
    return chosen


def calibration(model: Model, x: Float[np.ndarray, "sample vertex channel"], seed: int) -> Calibration | None:
    """Hide values, of samples not seen if there are 10, and compare them with their law given the rest.

    None where the method keeps no Gaussian field to condition by, or samples are too small to hide a part of.
    """
    effort = EXACT if model.law.exact and not model.marginal.has_masses else DRAWN
    trial = Trial.of(x, model.seen(x), model.codec.graph, effort, seed)
    members, drawn = np.empty((effort.members, trial.place.shape[1])), np.empty(trial.place.shape[1], dtype=bool)
    try:
        for cases, law in model.completions(trial.partial):
            where = [np.flatnonzero(trial.place[0] == case) for case in cases]
            vertices = np.unique(trial.place[1, np.concatenate(where)])
            if not len(vertices):  # nothing that could be hidden
                continue
            fields, random = law.ensemble(effort.members, seed, vertices)
            for k, at in enumerate(where):
                members[:, at] = fields[:, k, np.searchsorted(vertices, trial.place[1, at]), trial.place[2, at]]
                drawn[at] = random
    except UnsupportedError:
        return None
    told = trial.told(model.marginal(x), model.codec.graph)
    return Calibration.of(trial, members, drawn, told, x, ordered=model.codec.ordered, seed=seed)


def compare(
    model: Model,
    x: Float[np.ndarray, "sample vertex channel"],
    z: Float[np.ndarray, "member vertex channel"],
    provenance: Mapping[str, Any],
    *,
    n_given: int | None = None,
) -> Comparison:
    """Compare data, in their units, with standardised draws of that provenance; the data are some of those given."""
    codec, law = model.codec, model.law
    seen = bool(model.seen(x).any())
    drawn, calibrated = float(np.isnan(x).mean()), calibration(model, x, model.fit_report.seed)
    x = model.without_gaps(Samples(x, codec.graph)).values
    generated = model.marginal.inv(z)
    densities: dict[str, np.ndarray] = {}
    conditioning = None
    if isinstance(law, GaussianModel):
        densities["data it was fitted to" if seen else "held out"] = _density(model, x)
        densities["generated"] = _density(model, generated, z)
        conditioning = law.score.factor.widest_row - 1
    channels, layout, graph, tiling = codec.channels, codec.layout, codec.graph, model.tiling
    flat = graph.lattice is None or len(graph.lattice.shape) != len(layout.dims)
    names = [c.name or ("value" if len(channels) == 1 else f"channel {k}") for k, c in enumerate(channels)]
    return Comparison(
        title=str(channels[0].attrs.get("long_name", channels[0].name or "nearfield model")),
        real=x,
        generated=generated,
        graph=graph,
        channels=tuple(str(c.attrs.get("long_name", name)) for c, name in zip(channels, names, strict=True)),
        units=tuple(str(c.attrs.get("units", "")) for c in channels),
        dims=None if flat else layout.dims,
        ordered=codec.ordered,
        fitted_on=seen,
        trained=model.training_moments,
        fit=model.fit_report,
        radius=model.radius if isinstance(model.radius, int) else law.score.radius,
        pooling=model.pooling,
        conditioning_size=conditioning,
        log_density=densities,
        provenance={**codec.attrs, **channels[0].attrs, **provenance},
        drawn=drawn,
        calibration=calibrated,
        n_given=n_given,
        tiles=None if tiling is None else _tiles(tiling),
    )


def _tiles(tiling: Tiling) -> Int[np.ndarray, " vertex"]:
    """Tile of each vertex."""
    tile = np.empty(tiling.graph.n_vertices, dtype=np.int64)
    for number in range(len(tiling)):
        tile[tiling.vertices(tiling.box(number))] = number
    return tile


def _density(
    model: Model,
    x: Float[np.ndarray, "sample vertex channel"],
    z: Float[np.ndarray, "sample vertex channel"] | None = None,
) -> Float[np.ndarray, " sample"]:
    """Log-density of complete data under the field that draws, or with masses at bounds under the law.

    ``z`` are the values that draws were made of, which rounded data do not tell.
    """
    score: Any = model.law.score
    found, step = np.empty(len(x)), max(1, _TOGETHER // x[0].size)
    for start in range(0, len(x), step):
        part = x[start : start + step]
        standardised = model.marginal(part) if z is None else z[start : start + step]
        if model.marginal.has_masses:
            found[start : start + step] = model.log_prob(part)
            continue
        slope = model.marginal.log_abs_det_jacobian(part).sum(axis=(-2, -1))
        found[start : start + step] = score.log_prob(standardised) + slope
    return found
