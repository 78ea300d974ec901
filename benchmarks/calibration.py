"""Does the calibration check see it? Right and wrong conditional laws of a chain, 20 data sets each.

AR(1) of .8, 100 vertices. The check hides values of 64 samples: at random points and in blocks, or as the data lack
them (each sample lacks a swath of a third). Printed: how many of the data sets pass, warn and fail, and the checks that
fail.

    python -m benchmarks.calibration [--draws 20] [--markdown docs/missing_data.md]
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np

import nearfield as nf
from benchmarks.gaps import in_swaths
from benchmarks.table import show, verdict, write_section
from nearfield._comparing import calibration
from nearfield.datasets import AutoregressiveChain
from nearfield.distribution import GaussianModel
from nearfield.model import Model

CHAIN, SAMPLES, FITTED = AutoregressiveChain(0.8, 100), 64, 300
RIGHT = "fitted law"


def fit(x: np.ndarray, radius: int) -> Model:
    """Fit a field."""
    return nf.LocalizedDiffusion(method="gaussian", radius=radius, pooling=1.0, random_state=0).fit(x).model_


def narrow(model: Model) -> Model:
    """Deviations of the conditional laws times .8."""
    law = model.law.gaussian
    return replace(model, law=GaussianModel(law.score, None, 0.64 * law.band, law.largest_eigenvalue))


def shifted(model: Model) -> Model:
    """Fields three quarters of a standard deviation too high."""
    center, scale = (part.numpy() for part in (model.marginal.center, model.marginal.scale))
    return replace(model, marginal=model.marginal.rescaled(center + 0.75 * scale, scale))


def laws(x: np.ndarray, seed: int) -> dict[str, Model]:
    """Name the law fitted to data, and wrong ones; the last is fitted to values shuffled among the samples."""
    right = fit(x, 1)
    return {
        RIGHT: right,
        "deviations times .8": narrow(right),
        "shifted by .75 deviations": shifted(right),
        "independent vertices": fit(np.random.default_rng(seed).permuted(x, axis=0), 0),
    }


def judge(model: Model, x: np.ndarray, seed: int) -> tuple[str, list[str]]:
    """Return the worst outcome of the checks, and those that have it."""
    found = calibration(model, x[..., None], seed)
    assert found is not None
    checks = found.checks()
    worst = next((s for s in ("fail", "warn") if any(c.status == s for c in checks)), "pass")
    return worst, [c.name for c in checks if c.status == worst != "pass"]


def rows(draws: int) -> list[list[str]]:
    """Count the outcomes of each law, for complete data and for data with gaps."""
    outcomes: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    seen: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for draw in range(draws):
        x = CHAIN.sample(FITTED + SAMPLES, random_state=draw)[..., 0]
        fresh = x[FITTED:]
        data = {"complete": fresh, "swaths": np.where(in_swaths(*fresh.shape, 1 / 3, draw), np.nan, fresh)}
        for name, model in laws(x[:FITTED], draw).items():
            for kind, values in data.items():
                outcome, names = judge(model, values, draw)
                outcomes[kind, name][outcome] += 1
                seen[kind, name].update(names)
    found = []
    for (kind, name), counts in sorted(outcomes.items(), key=lambda item: item[0][0]):
        wanted = (0.95, counts["pass"] / draws) if name == RIGHT else (1.0, counts["fail"] / draws)
        shown = ", ".join(f"{check} {count}" for check, count in seen[kind, name].most_common(3))
        found.append([f"{name}, {kind}", *(str(counts[s]) for s in ("pass", "warn", "fail")), verdict(wanted), shown])
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--markdown", type=Path, help="page whose section is replaced")
    args = parser.parse_args()
    header = ["law", "pass", "warn", "fail", "19 pass, or all fail", "seen by"]
    table = rows(args.draws)
    notes = f"Data sets of {SAMPLES} samples that the fit has not seen, of {FITTED} fitted."
    show(f"Outcomes of the calibration check, {args.draws} data sets each", header, table, notes)
    if args.markdown is not None:
        write_section(args.markdown, "calibration", header, table, notes)


if __name__ == "__main__":
    main()
