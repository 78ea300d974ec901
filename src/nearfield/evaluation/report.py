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
from nearfield.evaluation import check, fit_plot, plot
from nearfield.evaluation.agreement import drift_names
from nearfield.evaluation.check import Verdict
from nearfield.evaluation.comparison import Comparison
from nearfield.evaluation.page import render
from nearfield.evaluation.section import picture_missing, png, section
from nearfield.evaluation.training import MOST_CHANNELS

if TYPE_CHECKING:
    from nearfield.fitting.fit_report import FitReport
    from nearfield.fitting.missing import MissingReport

__all__ = ["page_path", "write_report"]

SCHEMA = 1


def write_report(path: str | os.PathLike[str], comparison: Comparison) -> dict[str, Any]:
    """Compare generated fields with data; write the HTML page and, with the ending `.json`, its numbers.

    Parameters
    ----------
    path : path
        Ends in `.html`. Both files appear whole or not at all; they replace those of an earlier report.
    comparison : Comparison
        Data, generated fields, and the facts known of the fit.

    Returns
    -------
    dict
        The content of the JSON file.

    Raises
    ------
    ValueError
        If the path does not end in `.html`.
    OSError
        If the path cannot be written, or the file of the name with `.json` is no report's; nothing is left behind.

    Examples
    --------
    >>> import tempfile
    >>> from nearfield.graph import DependencyGraph
    >>> x = np.random.default_rng(0).normal(size=(2, 60, 12, 1))
    >>> comparison = Comparison("noise", real=x[0], generated=x[1], graph=DependencyGraph.chain(12))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     summary = write_report(Path(folder) / "report.html", comparison)
    >>> summary["verdict"]["status"]
    'pass'
    """
    page = page_path(path)
    sections, verdicts, pictures = _channels(comparison)
    summary = _summary(comparison, sections, verdicts)
    numbers = json.dumps(summary, indent=1, allow_nan=False)
    if comparison.calibration is not None:
        pictures["calibration"] = png(plot.ranks(summary["calibration"]["ranks"]))
    html = render(summary, pictures | _pictures_of_fit(comparison.fit) | picture_missing(comparison))
    replace_files({page.with_suffix(".json"): numbers.encode(), page: html.encode()})
    return summary


def _summary(comparison: Comparison, sections: Any, verdicts: list[Verdict]) -> dict[str, Any]:
    """Return the content of the JSON file."""
    fit, choice = comparison.fit, _choice(comparison)
    verdicts = verdicts + _verdicts_of_fit(comparison, choice)
    summary: dict[str, Any] = plain(
        {
            "schema": SCHEMA,
            "title": comparison.title,
            "verdict": _overall(verdicts),
            "checks": [asdict(verdict) for verdict in verdicts],
            "data": comparison.describe(),
            "missing": None if fit is None or fit.missing is None else _missing(fit.missing),
            "choice": choice,
            "network": _network(fit),
            "channels": sections,
            "log_density": _log_density(comparison),
            "calibration": None if comparison.calibration is None else comparison.calibration.table(),
            "seconds": {} if fit is None else fit.seconds,
            "warnings": () if fit is None else fit.warnings,
            "provenance": comparison.provenance,
        },
        finite=True,
    )
    return summary


def page_path(path: str | os.PathLike[str]) -> Path:
    """Return the path of the page, or refuse it before minutes of work.

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


def _channels(comparison: Comparison) -> tuple[list[dict[str, Any]], list[Verdict], dict[str, str]]:
    """Compare each channel: its section of the page, verdicts, and pictures by name."""
    sections: list[dict[str, Any]] = []
    verdicts: list[Verdict] = []
    pictures: dict[str, str] = {}
    for c in range(min(comparison.real.shape[2], MOST_CHANNELS)):
        numbers, found, drawn = section(comparison, c)
        sections.append(numbers)
        verdicts += found
        pictures |= {f"channels/{c}/{name}": image for name, image in drawn.items()}
    return sections, verdicts, pictures


def _pictures_of_fit(fit: FitReport | None) -> dict[str, str]:
    """Draw the choice of the locality, the training and the noise levels, where there are any."""
    pictures: dict[str, str] = {}
    if fit is None:
        return pictures
    if fit.selection is not None and fit.selection.curve:
        pictures["choice"] = png(fit_plot.selection(fit.selection))
    if fit.training is not None:
        pictures["training"] = png(fit_plot.training(fit.training))
    if fit.levels is not None:
        pictures["levels"] = png(fit_plot.levels(fit.levels))
    return pictures


def _missing(missing: MissingReport) -> dict[str, Any]:
    """Return what was missing of the training data as plain numbers."""
    return {
        "share": missing.share,
        "fewest": min(missing.n_observed),
        "few": len(missing.few),
        "inflation": missing.inflation,
        "iterations": missing.iterations,
    }


def _choice(comparison: Comparison) -> dict[str, Any]:
    """Return the chosen locality as plain numbers; None where it is not known. Losses are those of Gaussian fields."""
    radius, pooling, fit = comparison.radius, comparison.pooling, comparison.fit
    selection = None if fit is None else fit.selection
    if selection is None:
        return {
            "radius": radius,
            "pooling": None if pooling is None else pooling.strength,
            "bandwidth": None if pooling is None else pooling.bandwidth,
            "reason": None if fit is None else fit.reason,
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
        "ordered": selection.ordered,
        "reason": fit.reason if fit is not None else selection.reason,
        "curve": [asdict(c) for c in selection.curve],
        "radius_by_time": selection.radius_by_time,
    }


def _network(fit: FitReport | None) -> dict[str, Any]:
    """Return the noise levels and the training of the network as plain numbers; None where there is none."""
    training = None if fit is None else fit.training
    return {
        "levels": [level._asdict() for level in (fit and fit.levels) or ()],
        "training": training
        and {
            "steps": len(training.losses),
            "stopped_by": training.reason,
            "best": training.best._asdict(),
            "checks": [found._asdict() for found in training.checks],
        },
    }


def _verdicts_of_fit(comparison: Comparison, choice: Mapping[str, Any]) -> list[Verdict]:
    """Judge the fit as a whole, all channels together, as far as the facts are known."""
    verdicts, fitted, size = [], 0, comparison.conditioning_size
    if size is None and choice["radius"] is not None:
        size = comparison.graph.effective_dimension(choice["radius"], comparison.real.shape[2])
    if comparison.fit is not None and comparison.fitted_on is not None:
        fitted = comparison.fit.n_samples  # the data may be some of those fitted
    elif comparison.fitted_on is not False:
        fitted = len(comparison.real)
    elif comparison.trained is not None:
        fitted = comparison.trained.n_samples
    if comparison.fitted_on is not False:  # copies are of the training data, of which a model keeps moments only
        verdicts.append(check.check_copies(comparison.real, comparison.generated, seed=comparison.seed))
    if fitted and size is not None:
        verdicts.append(check.check_sample_count(fitted, size, bool(choice["pooling"])))
    if comparison.calibration is not None:
        verdicts += comparison.calibration.checks()
    densities = comparison.log_density
    if "held out" in densities and "generated" in densities:
        dimensions = comparison.real[0].size
        verdicts.append(check.check_log_density(densities["generated"], densities["held out"], dimensions))
    return verdicts


def _log_density(comparison: Comparison) -> list[dict[str, Any]]:
    dimensions = comparison.real[0].size
    return [
        {
            "name": name,
            "samples": len(values),
            "per_dimension": np.mean(values) / dimensions,
            "error": np.std(values, ddof=1) / np.sqrt(len(values)) / dimensions if len(values) > 1 else None,
        }
        for name, values in comparison.log_density.items()
    ]


def _overall(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Worst outcome among the checks that could be made."""
    named = {s: [v.name for v in verdicts if v.status == s] for s in ("fail", "warn", "pass", "unknown")}
    status, sentence = "pass", "No check that was made tells the generated fields from the data."
    if named["fail"]:
        status, sentence = "fail", f"The generated fields differ from the data in: {_listed(named['fail'])}."
    elif named["warn"]:
        status = "warn"
        sentence = f"The generated fields are close to the data, but look at: {_listed(named['warn'])}."
    drifted = drift_names(verdicts)
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
