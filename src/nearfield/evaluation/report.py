"""One page that says whether generated fields are like the data, and the same numbers as JSON.

The page reads every number from the dictionary that is written as JSON beside it, so the two cannot disagree; in the
HTML each stands in `<data value="..." data-path="...">`, the path being its place in the JSON. Nothing on the page is
fetched from elsewhere.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfield._plain import plain
from nearfield.data.atomic_write import replace_files, require_target
from nearfield.evaluation import check, plot
from nearfield.evaluation.agreement import drift_names
from nearfield.evaluation.check import Verdict
from nearfield.evaluation.comparison import Comparison, png
from nearfield.evaluation.page import render
from nearfield.evaluation.training import MOST_CHANNELS, TrainingMoments, block_length

if TYPE_CHECKING:
    from jaxtyping import Float

    from nearfield.fitting.covariance import Pooling
    from nearfield.fitting.neural import LevelChoice
    from nearfield.fitting.selection import SelectionReport
    from nearfield.fitting.training import TrainingReport
    from nearfield.graph import DependencyGraph

SCHEMA = 1


def write_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    real: Float[np.ndarray, "sample vertex channel"],
    generated: Float[np.ndarray, "member vertex channel"],
    graph: DependencyGraph,
    channels: Sequence[str] | None = None,
    units: Sequence[str] | None = None,
    dims: Sequence[str] | None = None,
    fitted_on: bool | None = None,
    trained: TrainingMoments | None = None,
    ordered: bool = False,
    selection: SelectionReport | None = None,
    radius: int | None = None,
    pooling: Pooling | None = None,
    conditioning_size: int | None = None,
    log_density: Mapping[str, Float[np.ndarray, " sample"]] | None = None,
    reason: str | None = None,
    levels: Sequence[LevelChoice] | None = None,
    training: TrainingReport | None = None,
    seconds: Mapping[str, float] | None = None,
    warnings: Sequence[str] = (),
    provenance: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare generated fields with data; write the HTML page and, with the ending `.json`, its numbers.

    Parameters
    ----------
    path
        Ends in `.html`. Both files appear whole or not at all; they replace those of an earlier report.
    title
        Of the page.
    real, generated
        Data and generated fields, in the unit of the data; at least 2 samples each.
    graph
        Of the vertices.
    channels, units
        Name and unit of each channel.
    dims
        Names, with units, of the axes of the lattice; latitude and longitude are recognised.
    fitted_on
        Whether the model has seen these data; None says on the page that this is not known.
    trained
        Moments of the data that were fitted, shown beside those of `real` where these are others (`fitted_on=False`).
    ordered
        Whether the samples follow one another in time: error bands then resample blocks of them.
    selection
        How the locality was chosen.
    radius
        Hops; by default the one chosen in `selection`.
    pooling
        By default the one chosen in `selection`.
    conditioning_size
        Numbers that one local law is conditioned on; by default the effective dimension (3.2) at the radius, a bound.
    log_density
        By name, log-densities in nats under the model, one per sample. `"held out"` beside `"generated"` is also a
        check.
    reason
        What was chosen and why; by default that of `selection`.
    levels
        Network against Gaussian field at each noise level, where the method was to choose.
    training
        Of the network, where there is one.
    seconds
        Duration of each stage.
    warnings
        Sentences to repeat.
    provenance
        What else is known: source, licence, version, seed, digest; shown as given.
    seed
        Of the pairs, splits and bootstrap of the report itself.

    Returns
    -------
    dict
        What the JSON file holds.

    Raises
    ------
    ValueError
        If the arrays do not fit each other and the graph, hold fewer than 2 samples or are not finite, or the path does
        not end in `.html`.
    OSError
        If the path cannot be written, or the file of the name with `.json` is no report's; nothing is left behind.

    Examples
    --------
    >>> import tempfile
    >>> from nearfield.graph import DependencyGraph
    >>> x = np.random.default_rng(0).normal(size=(2, 60, 12, 1))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page = Path(folder) / "report.html"
    ...     summary = write_report(page, title="noise", real=x[0], generated=x[1], graph=DependencyGraph.chain(12))
    >>> summary["verdict"]["status"]
    'pass'
    """
    page = page_path(path)
    _check_fields(real, generated, graph, channels, units)
    comparison = Comparison(
        np.asarray(real, dtype=float),
        np.asarray(generated, dtype=float),
        graph,
        tuple(channels or (f"channel {k}" for k in range(real.shape[2]))),
        tuple(units or [""] * real.shape[2]),
        tuple(dims) if dims is not None else None,
        block_length(len(real), ordered),
        seed,
        trained if fitted_on is False else None,
    )
    sections, checks, pictures = _channels(comparison)
    choice = _choice(selection, radius, pooling, reason)
    pictures |= _pictures_of_fit(selection, training, levels)
    if conditioning_size is None and choice["radius"] is not None:
        conditioning_size = graph.effective_dimension(choice["radius"], real.shape[2])
    checks += _checks_of_fit(comparison, fitted_on, conditioning_size, choice["pooling"], log_density or {})
    summary = plain(
        {
            "schema": SCHEMA,
            "title": title,
            "verdict": _verdict(checks),
            "checks": [asdict(c) for c in checks],
            "data": comparison.describe() | {"fitted_on": fitted_on, "ordered": ordered},
            "choice": choice,
            "network": {"levels": [level._asdict() for level in levels or ()], "training": _training(training)},
            "channels": sections,
            "log_density": _log_density(log_density or {}, real[0].size),
            "seconds": dict(seconds or {}),
            "warnings": list(warnings),
            "provenance": dict(provenance or {}),
        },
        finite=True,
    )
    numbers = json.dumps(summary, indent=1, allow_nan=False)
    replace_files({page.with_suffix(".json"): numbers.encode(), page: render(summary, pictures).encode()})
    return summary


def page_path(path: str | os.PathLike[str]) -> Path:
    """Return where the page goes, or refuse what could not be written after minutes of work.

    Raises
    ------
    TypeError, ValueError
        If it is no path, or does not end in `.html`.
    OSError
        If page or numbers could not be written there.
    FileExistsError
        If the numbers would replace a file that does not hold those of a report.

    Examples
    --------
    >>> page_path("report.html").name
    'report.html'
    """
    page = require_target("path", path)
    if page.suffix not in (".html", ".htm"):
        raise ValueError(f"path must end in .html, got {str(path)!r}; the numbers go to the same name with .json")
    numbers = require_target("path", page.with_suffix(".json"))
    if numbers.exists() and not _holds_report(numbers):
        raise FileExistsError(
            f"path must leave other files as they are, got {str(path)!r}, whose numbers would replace "
            f"{str(numbers)!r}, which is no report; choose another name"
        )
    return page


def _holds_report(path: Path) -> bool:
    try:
        found = json.loads(path.read_bytes())
    except ValueError:  # no JSON, or no text
        return False
    return isinstance(found, dict) and {"schema", "checks"} <= found.keys()


def _check_fields(
    real: Float[np.ndarray, ...],
    generated: Float[np.ndarray, ...],
    graph: DependencyGraph,
    channels: Sequence[str] | None,
    units: Sequence[str] | None,
) -> None:
    for name, x in (("real", real), ("generated", generated)):
        if x.ndim != 3 or x.shape[1] != graph.n_vertices:
            raise ValueError(
                f"{name} must have shape (samples, {graph.n_vertices} vertices, channels), got {x.shape}; "
                "encode the data with the model's codec"
            )
        if len(x) < 2:
            raise ValueError(f"{name} must have at least 2 samples, got {len(x)}; a law shows in several, give more")
        if not np.isfinite(x).all():
            raise ValueError(
                f"{name} must be finite, got {np.count_nonzero(~np.isfinite(x))} values that are not; "
                "leave out missing samples, and do not trust a model that generates them"
            )
    if real.shape[2] != generated.shape[2]:
        raise ValueError(
            f"generated must have the {real.shape[2]} channels of real, got {generated.shape[2]}; match them"
        )
    for name, labels in (("channels", channels), ("units", units)):
        if labels is not None and len(labels) != real.shape[2]:
            raise ValueError(f"{name} must name each of the {real.shape[2]} channels, got {len(labels)}; give one each")


def _channels(comparison: Comparison) -> tuple[list[dict[str, Any]], list[Verdict], dict[str, str]]:
    """Compare each channel: its section of the page, checks, and pictures by name."""
    sections: list[dict[str, Any]] = []
    checks: list[Verdict] = []
    pictures: dict[str, str] = {}
    for channel in range(min(comparison.real.shape[2], MOST_CHANNELS)):
        section, found, drawn = comparison.channel(channel)
        sections.append(section)
        checks += found
        pictures |= {f"channels/{channel}/{name}": image for name, image in drawn.items()}
    return sections, checks, pictures


def _pictures_of_fit(
    selection: SelectionReport | None, training: TrainingReport | None, levels: Sequence[LevelChoice] | None
) -> dict[str, str]:
    """Draw what is known of how the model was fitted."""
    pictures = {}
    if selection is not None and selection.curve:
        pictures["choice"] = png(plot.selection(selection))
    if training is not None:
        pictures["training"] = png(plot.training(training))
    if levels is not None:
        pictures["levels"] = png(plot.levels(levels))
    return pictures


def _choice(
    selection: SelectionReport | None, radius: int | None, pooling: Pooling | None, reason: str | None
) -> dict[str, Any]:
    """Return what was chosen, as plain numbers; None where it is not known. Losses are those of Gaussian fields."""
    if selection is None:
        return {
            "radius": radius,
            "pooling": None if pooling is None else pooling.strength,
            "bandwidth": None if pooling is None else pooling.bandwidth,
            "reason": reason,
            "curve": [],
            "radius_by_time": None,
        }
    chosen = selection.table[selection.chosen]
    used = chosen.pooling if pooling is None else pooling
    return {
        "radius": chosen.radius if radius is None else radius,
        "pooling": used.strength,
        "bandwidth": used.bandwidth,
        "loss_of": f"Gaussian field, radius {chosen.radius}, pooling {chosen.strength:g}",
        "loss": chosen.loss,
        "error": chosen.error,
        "lowest": asdict(selection.table[selection.best]),
        "tried": len(selection.table),
        "folds": selection.folds,
        "contiguous": selection.contiguous,
        "reason": selection.reason if reason is None else reason,
        "curve": [asdict(c) for c in selection.curve],
        "radius_by_time": selection.radius_by_time,
    }


def _training(training: TrainingReport | None) -> dict[str, Any] | None:
    """Return how the network was trained, as plain numbers; None where there is none."""
    if training is None:
        return None
    return {
        "steps": len(training.losses),
        "stopped_by": training.reason,
        "best": training.best._asdict(),
        "checks": [check._asdict() for check in training.checks],
    }


def _checks_of_fit(
    comparison: Comparison,
    fitted_on: bool | None,
    conditioning_size: int | None,
    pooling: float | None,
    log_density: Mapping[str, Float[np.ndarray, " sample"]],
) -> list[Verdict]:
    """Check the fit as a whole, all channels together; what the checks need and was not given, the page says."""
    checks, fitted = [], len(comparison.real)
    if fitted_on is False:
        # Copies are of the data that were fitted; what a model keeps of these are moments.
        fitted = 0 if comparison.training is None else comparison.training.n_samples
    else:
        checks.append(check.check_copies(comparison.real, comparison.generated, seed=comparison.seed))
    if fitted and conditioning_size is not None:
        checks.append(check.check_sample_count(fitted, conditioning_size, bool(pooling)))
    if "held out" in log_density and "generated" in log_density:
        dimensions = comparison.real[0].size
        checks.append(check.check_log_density(log_density["generated"], log_density["held out"], dimensions))
    return checks


def _log_density(log_density: Mapping[str, Float[np.ndarray, " sample"]], dimensions: int) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "samples": len(values),
            "per_dimension": np.mean(values) / dimensions,
            "error": np.std(values, ddof=1) / np.sqrt(len(values)) / dimensions if len(values) > 1 else None,
        }
        for name, values in log_density.items()
    ]


def _verdict(checks: Sequence[Verdict]) -> dict[str, Any]:
    """Worst outcome among the checks that could be made."""
    named = {s: [c.name for c in checks if c.status == s] for s in ("fail", "warn", "pass", "unknown")}
    if named["fail"]:
        status, sentence = "fail", f"The generated fields differ from the data in: {_listed(named['fail'])}."
    elif named["warn"]:
        status, sentence = (
            "warn",
            f"The generated fields are close to the data, but look at: {_listed(named['warn'])}.",
        )
    else:
        status, sentence = "pass", "No check that was made tells the generated fields from the data."
    drifted = drift_names(checks)
    if drifted:
        sentence += f" Your held-out data differ from the training data as much in: {_listed(drifted)}."
    return {"status": status, "sentence": sentence, "counts": {s: len(names) for s, names in named.items()}}


def _listed(names: Sequence[str]) -> str:
    """Names of checks in a sentence, each channel's together."""
    groups: dict[str, list[str]] = {}
    for name in names:
        channel, _, check_name = name.rpartition(": ")
        groups.setdefault(channel, []).append(check_name)
    return "; ".join(
        f"{channel}: {', '.join(group)}" if channel else ", ".join(group) for channel, group in groups.items()
    )
