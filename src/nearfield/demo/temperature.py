"""The demo: temperature maps of a climate model, learnt, drawn anew and completed; then gravel, which takes a network.

Fits on the historical and A1B years, draws 500 new years, completes a year of the E1 scenario from 30 stations, scores
all 100 years of E1, and writes figures, a report and the new years as netCDF.
The second part is `nearfield.demo.gravel`.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from nearfield.data.atomic_write import replace_files
from nearfield.datasets.embedded import north_america_temperature
from nearfield.demo import gravel
from nearfield.estimator import LocalizedDiffusion
from nearfield.evaluation import fit_plot, plot
from nearfield.evaluation.curve import Curve, VertexPairs
from nearfield.evaluation.metric import correlation_by_distance, roughness
from nearfield.evaluation.moment import Yardstick
from nearfield.evaluation.training import block_length

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from matplotlib.figure import SubFigure

    from nearfield.fitting.selection import SelectionReport
    from nearfield.graph import DependencyGraph

__all__ = ["Completion", "LargeScales", "run"]

NEW_YEARS = 500
STATIONS = 30
DRAWS = 100
COMPLETED = 50  # of the 100 E1 years the middle one, not a chosen one
CHECKED = range(0, 100, 5)  # E1 years on which coverage is counted: points of one map err together
LABEL = "anomaly, K"


@final
@dataclass(frozen=True)
class Completion:
    """A map completed from a few stations, and how often the truth lay inside the band.

    Attributes
    ----------
    truth, mean, std : (vertex,)
        The map, and mean and standard deviation of its draws; K.
    observed : (vertex,)
        The stations.
    coverage : float
        Share of hidden points, of all checked maps, inside the central band of their draws.
    nominal : float
        The share that draws from the true law would reach.
    error, spread : float
        Root mean square, over the same points, of the mean's error and of the claimed standard deviation; K.
    """

    truth: Float[np.ndarray, " vertex"]
    mean: Float[np.ndarray, " vertex"]
    std: Float[np.ndarray, " vertex"]
    observed: Bool[np.ndarray, " vertex"]
    coverage: float
    nominal: float
    error: float
    spread: float


@final
@dataclass(frozen=True)
class LargeScales:
    """Correlation by distance and variance along the leading modes, of the data and of the new years.

    Attributes
    ----------
    curves : mapping of str to Curve
        Of training, generated and held-out years.
    modes : mapping of str to (value, standard error)
        Of the same.
    """

    curves: dict[str, Curve]
    modes: dict[str, tuple[Float[np.ndarray, " mode"], Float[np.ndarray, " mode"]]]

    @classmethod
    def of(
        cls, graph: DependencyGraph, train: xr.DataArray, test: xr.DataArray, new: xr.DataArray, seed: int
    ) -> LargeScales:
        """Measure all three alike: blocks of years that follow one another are resampled together."""
        sets = {"training": (train, True), "generated": (new, False), "held-out": (test, True)}
        pairs = VertexPairs.draw(graph, max_pairs=60_000, seed=seed)
        stick = Yardstick.of(_vertices(train))
        curves, modes = {}, {}
        for name, (years, ordered) in sets.items():
            x, block = _vertices(years), block_length(len(years), ordered)
            curves[name] = correlation_by_distance(x[..., None], pairs, block=block, seed=seed)
            modes[name] = stick.mode_variances(x, own=name == "training", block=block)
        return cls(curves, modes)

    def mode_ratio(self) -> tuple[float, float]:
        """Variance of the new years along all leading modes over that of the training years, and its standard error."""
        (new, new_error), (learnt, learnt_error) = self.modes["generated"], self.modes["training"]
        ratio = new.sum() / learnt.sum()
        relative = (new_error**2).sum() / new.sum() ** 2 + (learnt_error**2).sum() / learnt.sum() ** 2
        return float(ratio), float(ratio * math.sqrt(relative))


def run(out: Path, seed: int = 0, quiet: bool = False) -> dict[str, Any]:
    """Fit, draw, complete, score and write the results into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    say: Callable[[str], None] = (lambda _: None) if quiet else (lambda text: print(text, flush=True))
    verbose = not quiet and sys.stderr.isatty()
    start = time.perf_counter()

    train, test = _years(say)
    model = LocalizedDiffusion(method="gaussian", random_state=seed, verbose=verbose)
    model.fit(train, sample_dim="year")
    selection = model.fit_report_.selection
    assert selection is not None
    fitted = time.perf_counter()
    say(f"\nFitted in {fitted - start:.0f} s. {model.fit_report_.reason}")

    new = model.sample(NEW_YEARS, random_state=seed)
    result: dict[str, Any] = _likelihood(model, train, test) | {
        "roughness_ratio": _roughness(new, model) / _roughness(train, model),
        "variance_ratio": float(new.var("member", ddof=1).mean() / train.var("year", ddof=1).mean()),
        "radius": selection.choice.radius,
        "pooling": selection.choice.strength,
        "bandwidth": selection.choice.bandwidth if math.isfinite(selection.choice.bandwidth) else None,
    }
    completion = _complete(model, test, seed)
    result |= {"coverage": completion.coverage, "coverage_nominal": completion.nominal}
    result |= {"completion_error": completion.error, "completion_spread": completion.spread}

    replace_files({out / "samples.nc": new.to_netcdf(engine="h5netcdf")})
    scales = LargeScales.of(model.graph_, train, test, new, seed)
    result["mode_ratio"], result["mode_ratio_error"] = scales.mode_ratio()
    say(_in_words(result))
    _figures(out, model.graph_, selection, scales, train, new, completion, seed)
    summary = model.report(out / "report.html", test)
    result["verdict"] = summary["verdict"]["status"]
    say(_verdict_in_words(summary))
    model.save(out / "temperature.nearfield")
    result["gravel"] = gravel.run(out, seed=seed, say=say, verbose=verbose)
    result |= {"seed": seed, "seconds_fit": fitted - start, "seconds": time.perf_counter() - start, "out": str(out)}
    (out / "demo.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    say(
        f"\nDone in {result['seconds']:.0f} s. Look at {out / 'demo.png'}, {out / 'gravel.png'} and "
        f"{out / 'report.html'}; the new years are in {out / 'samples.nc'},\n"
        f"their model in {out / 'temperature.nearfield'}, these numbers in {out / 'demo.json'}."
    )
    return result


def _years(say: Callable[[str], None]) -> tuple[xr.DataArray, xr.DataArray]:
    """Return the years to learn from and those kept for the test."""
    temperature = north_america_temperature()
    is_test = (temperature["scenario"] == "E1").to_numpy()
    train, test = temperature[~is_test], temperature[is_test]
    say(
        f"Data: {len(temperature)} years of annual-mean temperature anomalies over North America on "
        f"{train.shape[1]} x {train.shape[2]} points.\n  They are climate-model output (Met Office, UM 6.05), not "
        f"observations, and close to Gaussian.\n  Learning from {len(train)} years (historical, A1B); {len(test)} "
        "years (E1) are kept for the test."
    )
    return train, test


def _likelihood(model: LocalizedDiffusion, train: xr.DataArray, test: xr.DataArray) -> dict[str, float]:
    """Held-out negative log-density, nats per dimension, in units of the training standard deviation of each point."""
    scale = train.std("year").to_numpy()
    # log-density of x / scale: the density of x times the volume that a unit of x / scale has in x
    in_kelvin = -model.score_samples(test) / scale.size
    loss = in_kelvin - np.log(scale).mean()
    standard = (test - train.mean("year")).to_numpy() / scale
    independent = 0.5 * (standard**2).mean(axis=(1, 2)) + 0.5 * np.log(2 * np.pi)
    return {
        "held_out_nats_per_dimension": float(loss.mean()),
        "held_out_error": float(loss.std(ddof=1) / math.sqrt(len(loss))),
        "held_out_nats_per_dimension_in_kelvin": float(in_kelvin.mean()),
        "independent_nats_per_dimension": float(independent.mean()),
    }


def _roughness(field: xr.DataArray, model: LocalizedDiffusion) -> float:
    """Mean squared difference of neighbouring points, K^2: too smooth or too rough maps show here."""
    return float(roughness(_vertices(field)[..., None], model.graph_).mean())


def _complete(model: LocalizedDiffusion, test: xr.DataArray, seed: int) -> Completion:
    """Hide all of a map but some stations, draw the rest given these, and compare with the hidden points."""
    n_vertices = test[0].size
    observed = np.zeros(n_vertices, dtype=bool)
    observed[np.random.default_rng(seed).choice(n_vertices, STATIONS, replace=False)] = True
    stations = xr.DataArray(observed.reshape(test.shape[1:]), dims=test.dims[1:])

    def draw(year: int) -> Float[np.ndarray, "draw vertex"]:
        return _vertices(model.impute(test[year].where(stations), n_samples=DRAWS, random_state=seed))

    # Were truth and draws of one law, the truth's rank among them would be uniform: 91 of its 101 places are inside.
    low, high = DRAWS // 20 - 1, DRAWS - DRAWS // 20
    inside, error, variance = [], [], []
    for year in CHECKED:
        draws, truth = draw(year)[:, ~observed], _vertices(test[year : year + 1])[0, ~observed]
        ordered = np.sort(draws, axis=0)
        inside.append(np.mean((ordered[low] < truth) & (truth < ordered[high])))
        error.append(np.mean((draws.mean(axis=0) - truth) ** 2))
        variance.append(draws.var(axis=0, ddof=1).mean())
    example = draw(COMPLETED)
    return Completion(
        truth=_vertices(test[COMPLETED : COMPLETED + 1])[0],
        mean=example.mean(axis=0),
        std=example.std(axis=0, ddof=1),
        observed=observed,
        coverage=float(np.mean(inside)),
        nominal=(high - low) / (DRAWS + 1),
        error=math.sqrt(np.mean(error)),
        spread=math.sqrt(np.mean(variance)),
    )


def _vertices(field: xr.DataArray) -> Float[np.ndarray, "sample vertex"]:
    """Return maps as rows; the embedded grid has no land, so its vertices are its points in order."""
    return field.to_numpy().reshape(len(field), -1).astype(float)


def _in_words(result: dict[str, Any]) -> str:
    return (
        f"\nThe {NEW_YEARS} new years are as rough as the years learnt from: mean squared difference of neighbours "
        f"{result['roughness_ratio']:.3f} of theirs;\n"
        f"  variance {result['variance_ratio']:.3f} of theirs, along their five leading modes "
        f"{result['mode_ratio']:.2f} (+- {result['mode_ratio_error']:.2f}).\n"
        f"The unseen E1 years cost {result['held_out_nats_per_dimension']:.3f} (+- {result['held_out_error']:.3f}) "
        "nats per dimension in units of each point's standard deviation\n"
        f"  ({result['held_out_nats_per_dimension_in_kelvin']:.3f} in kelvin); with the points taken as independent "
        f"{result['independent_nats_per_dimension']:.3f}; lower is better.\n"
        f"Maps completed from {STATIONS} stations, {DRAWS} draws each: bands meant to hold "
        f"{result['coverage_nominal']:.0%} of the hidden points held {result['coverage']:.0%}\n"
        f"  ({len(CHECKED)} E1 years, every hidden point); typical error {result['completion_error']:.2f} K, claimed "
        f"{result['completion_spread']:.2f} K."
    )


def _verdict_in_words(summary: dict[str, Any]) -> str:
    """Put the report's verdicts into words."""
    counts = summary["verdict"]["counts"]
    lines = [f"\nThe report's checks against the unseen years: {counts['pass']} passed."]
    for check in summary["checks"]:
        if check["status"] in ("warn", "fail"):
            lines.append(f"  {check['status']}: {check['name']}. {check['sentence']}")
    return "\n".join(lines)


def _figures(
    out: Path,
    graph: DependencyGraph,
    selection: SelectionReport,
    scales: LargeScales,
    train: xr.DataArray,
    new: xr.DataArray,
    completion: Completion,
    seed: int,
) -> None:
    """Write the three pictures one by one, and together as ``demo.png``."""
    years = np.random.default_rng(seed).choice(len(train), 4, replace=False)
    panels = {f"climate model, {int(train['year'][i])}": _vertices(train)[i] for i in years}
    panels |= {f"nearfield, member {i}": _vertices(new[i : i + 1])[0] for i in range(4)}

    def maps(figure: Figure | SubFigure) -> None:
        axes = figure.subplots(2, 4, sharex=True, sharey=True)
        plot.fields(panels, graph, list(axes.ravel()), label=LABEL)
        figure.suptitle("Years of the climate model, and years that nearfield drew")

    def large_scales(figure: Figure | SubFigure) -> None:
        left, middle, right = figure.subplots(1, 3)
        fit_plot.selection(selection, left).set_title("Why this locality: loss on years left out", fontsize="medium")
        plot.correlation(scales.curves, middle).set_title("Correlation by distance", fontsize="medium")
        plot.modes(scales.modes, right).set_title("The five leading modes", fontsize="medium")
        figure.suptitle("The choice of the locality, and the large scales")

    def completed(figure: Figure | SubFigure) -> None:
        plot.completion(
            completion.truth,
            completion.mean,
            completion.std,
            completion.observed,
            graph,
            list(figure.subplots(1, 3)),
            label=LABEL,
        )
        figure.suptitle(f"An unseen year completed from {STATIONS} stations")

    pictures: dict[str, tuple[Callable[[Figure | SubFigure], None], float]] = {
        "maps": (maps, 5.0),
        "scales": (large_scales, 4.4),
        "completion": (completed, 4.35),
    }
    for name, (draw, height) in pictures.items():
        figure = Figure(figsize=(12, height), dpi=100, layout="constrained")
        draw(figure)
        figure.savefig(out / f"{name}.png")
    heights = [height for _, height in pictures.values()]
    together = Figure(figsize=(12, sum(heights)), dpi=100, layout="constrained")
    parts = together.subfigures(3, 1, squeeze=False, height_ratios=heights)[:, 0]
    for part, (draw, _) in zip(parts, pictures.values(), strict=True):
        draw(part)
    together.savefig(out / "demo.png")
