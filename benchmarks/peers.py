"""nearfield beside other libraries' models: same data, same search, same CPU seconds, one metric code.

``python -m benchmarks.peers [--law cir|double_well|lattice] [--budget 20 60 180] [--seeds 0 1 2] [--quick]``

The others come with ``pip install '.[bench]'`` and ``pip install --no-deps azula``: it requires torchvision, which its
core does not need. Rules: `benchmarks.peer.contest`. Metrics: `benchmarks.quality`. Denoisers are judged by their
excess risk (where the exact denoiser is not known, by a loss that exceeds it by a constant of the law), densities by
held-out log-density and AUC. The file ``peers-LAW.json`` has every setting tried, its CPU seconds and its held-out
loss; it is written after each contestant, and a second call goes on from it. The paper's recipe is no peer.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter
from threadpoolctl import threadpool_limits

from benchmarks.law import LAWS
from benchmarks.peer.contest import SEARCH, Contestant, Outcome, Split, compete
from benchmarks.peer.denoiser import DENOISERS
from benchmarks.peer.density import DENSITIES
from benchmarks.peer.own import OWN
from benchmarks.quality import Judge
from benchmarks.table import show

CONTESTANTS: tuple[Contestant, ...] = (*OWN, *DENOISERS, *DENSITIES)
BASELINE = "nearfield, hybrid"
SAMPLES = {1: 200, 2: 100}
"""Training samples of a law on a lattice of that many axes."""
PACKAGES = ("nearfield", "torch", "numpy", "scikit-learn", "azula", "diffusers", "zuko")
Row = dict[str, Any]


def main() -> None:
    """Run what is not yet in the file, print the table and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--law", choices=LAWS, default="cir")
    parser.add_argument("--budget", type=float, nargs="+", default=[20, 60, 180], help="CPU seconds, search included")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=[""], help="contestants whose name holds one of these")
    parser.add_argument("--quick", action="store_true", help="a budget of 5, one seed and a rough judge")
    parser.add_argument("--out", type=Path, default=Path("results/peers"))
    arguments = parser.parse_args()
    budgets, seeds = ([5.0], [0]) if arguments.quick else (sorted(arguments.budget), arguments.seeds)
    chosen = [contestant for contestant in CONTESTANTS if any(part in contestant.name for part in arguments.only)]

    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / f"peers-{arguments.law}{'-quick' if arguments.quick else ''}.json"
    report = json.loads(path.read_text()) if path.exists() else {"rows": []}
    report |= about(arguments.law)
    judge = Judge.of(LAWS[arguments.law](), quick=arguments.quick)
    with threadpool_limits(1):
        if judge.law.log_prob is not None:
            report["entropy"] = judge.surprise(judge.law.log_prob)[0]
        for row in run(chosen, judge, budgets, seeds, report["rows"]):
            report["rows"].append(row)
            path.write_text(json.dumps(report, indent=1))
    table(report, judge)
    draw(report, path.with_suffix(".png"))
    print(f"Every trial: {path}; figure: {path.with_suffix('.png')}")


def about(law: str) -> Row:
    """Say what was run on what."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {"law": law, "search": SEARCH, "versions": versions, "processor": platform.processor() or platform.machine()}


def run(
    contestants: list[Contestant], judge: Judge, budgets: list[float], seeds: list[int], done: list[Row]
) -> Iterator[Row]:
    """Measure each contestant on each data set at each budget, unless it is done; closed forms once for each set."""
    known = {(row["name"], row["seed"], row["budget"]) for row in done}
    for seed in seeds:
        split = Split(judge.law, judge.law.draw(SAMPLES[len(judge.law.shape)], seed), seed)
        for contestant in contestants:
            for budget in budgets if contestant.trained else budgets[-1:]:
                if (contestant.name, seed, budget) in known:
                    continue
                row = measured(contestant, split, budget, judge)
                what = ", ".join(f"{key} {row[key]:.4f}" for key in ("excess", "loss", "surprise", "auc") if key in row)
                print(f"  seed {seed}, {row['seconds']:.1f} s: {row['name']}: {what or row['failure']}", flush=True)
                yield row


def measured(contestant: Contestant, split: Split, budget: float, judge: Judge) -> Row:
    """Let a contestant compete and judge what comes out."""
    outcome: Outcome = compete(contestant, split, budget)
    row: Row = {
        "name": contestant.name,
        "kind": contestant.kind,
        "own": contestant.own,
        "trained": contestant.trained,
        "seed": split.seed,
        "budget": budget,
        "seconds": outcome.seconds,
        "setting": outcome.setting,
        "trials": [trial._asdict() for trial in outcome.trials],
        "failure": outcome.failure,
    }
    fitted = outcome.fitted
    if fitted is None:
        return row
    solved = judge.law.denoise is not None
    start = time.process_time()
    if fitted.denoise is not None and contestant.kind == "denoiser":
        denoise = fitted.denoise
        with torch.no_grad():
            found = (judge.excess if solved else judge.loss)(lambda x, t: denoise(torch.from_numpy(x), t))
        row["excess" if solved else "loss"], row["error"] = found.value, found.error
    if fitted.log_prob is not None:
        row["surprise"], row["error"] = judge.surprise(fitted.log_prob)
    # Drawing from networks takes as long as training them: where there is an excess, it says enough of the others'.
    if fitted.sample is not None and (contestant.kind == "density" or contestant.own or not solved):
        with torch.no_grad():
            quality = judge.quality(fitted.sample(max(judge.side, judge.size), 1000 + split.seed))
        row |= {"auc": quality.auc.value, "auc_bar": quality.auc.floor + 2 * quality.auc.spread}
    row["judged"] = time.process_time() - start
    return row


def table(report: Row, judge: Judge) -> None:
    """Print means over seeds, with their spread, for each contestant and budget."""
    rows = []
    risk = "excess" if judge.law.denoise is not None else "loss"
    for contestant in CONTESTANTS:
        own = [row for row in report["rows"] if row["name"] == contestant.name]
        for budget in sorted({row["budget"] for row in own}):
            each = [row for row in own if row["budget"] == budget]
            baseline = [row for row in report["rows"] if row["name"] == BASELINE and row["budget"] == budget]
            ratio = mean(each, risk) / mean(baseline, risk) if mean(baseline, risk) else float("nan")
            rows.append(
                [
                    contestant.name,
                    f"{budget:g}" if contestant.trained else "",
                    f"{mean(each, 'seconds'):.1f}",
                    cell(each, risk, 4),
                    "" if np.isnan(ratio) or risk == "loss" else f"{ratio:.2f}",
                    cell(each, "surprise", 3),
                    cell(each, "auc", 3),
                    "; ".join(dict.fromkeys(row["failure"].splitlines()[0] for row in each if row["failure"])),
                ]
            )
    bars = [row["auc_bar"] for row in report["rows"] if "auc_bar" in row]
    show(
        f"{report['law']}: {judge.law.target!r}, N = {SAMPLES[len(judge.law.shape)]}",
        ["model", "budget", "CPU s", risk, "times hybrid's", "surprise", "AUC", "note"],
        rows,
        f"Means over the seeds +- their spread. Budget: CPU seconds of search ({SEARCH:.0%}) and final fit together.\n"
        "CPU s: spent; closed forms take what they take. excess (or loss): nats per dimension. surprise: minus the\n"
        "log-density of fresh true samples, nats per dimension"
        + (f"; the truth's own is {report['entropy']:.3f}." if "entropy" in report else ".")
        + (f" AUC passes at most at {max(bars):.3f}." if bars else ""),
    )
    print("Grids:")
    for contestant in CONTESTANTS:
        print(f"  {contestant.name}: {contestant.grid(judge.law)}")


def mean(rows: list[Row], key: str) -> float:
    """Mean over the rows that have the key; nan if none has."""
    values = [row[key] for row in rows if key in row]
    return float(np.mean(values)) if values else float("nan")


def cell(rows: list[Row], key: str, digits: int) -> str:
    """Mean and spread over seeds, or nothing."""
    values = [row[key] for row in rows if key in row]
    if not values:
        return ""
    spread = f" +- {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{spread}"


def draw(report: Row, path: Path) -> None:
    """Draw risk and log-density against the CPU seconds spent."""
    matplotlib.use("Agg")
    figure, axes = plt.subplots(1, 2, figsize=(11, 5.5), layout="constrained")
    risk = "excess" if any("excess" in row for row in report["rows"]) else "loss"
    for axis, key in zip(axes, (risk, "surprise"), strict=True):
        for contestant in CONTESTANTS:
            rows = [row for row in report["rows"] if row["name"] == contestant.name and key in row]
            budgets = sorted({row["budget"] for row in rows})
            groups = [[row for row in rows if row["budget"] == budget] for budget in budgets]
            if groups:
                axis.errorbar(
                    [mean(group, "seconds") for group in groups],
                    [mean(group, key) for group in groups],
                    [np.std([row[key] for row in group]) for group in groups],
                    marker="o" if contestant.own else "s",
                    linewidth=2 if contestant.own else 1,
                    linestyle="-" if contestant.own else "--",
                    capsize=3,
                    label=contestant.name,
                )
        axis.set_xscale("log")
        axis.set_xlabel("CPU seconds, search included")
    axes[0].set_ylabel(f"{risk}, nats per dimension")
    if risk == "excess":
        axes[0].set_yscale("log")
    axes[1].set_ylabel("surprise on fresh samples, nats per dimension")
    if "entropy" in report:
        axes[1].axhline(report["entropy"], color="black", linewidth=1, label="the truth")
    for axis in axes:
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
        low, high = axis.get_xlim()
        axis.set_xlim(low / 1.5, 1.5 * high)  # a single budget would make a scale without ticks
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
    figure.suptitle(f"{report['law']}: lower is better")
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
