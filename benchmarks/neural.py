"""Neural local scores on laws of known truth: excess risk, what the draws are worth, and seconds.

`python -m benchmarks.neural cir|double_well|lattice|signed|never_worse [--quick]`, all of them by default.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks.law import LAWS, Law, lattice
from benchmarks.quality import Judge, Quality
from benchmarks.table import show
from nearfield import LocalizedDiffusion
from nearfield.datasets import AutoregressiveChain, GaussianMarkovField, north_america_temperature
from nearfield.fitting.matching import held_out
from nearfield.fitting.radius import SIGMAS
from nearfield.process import time_of

if TYPE_CHECKING:
    from jaxtyping import Float

SEEDS = (0, 1, 2)
DRAWS = 1500
HEADER = ["model", "N", "excess", "bar", "correlation", "floor", "W1 / floor", "AUC", "passes at", "CPU s"]
NOTES = (
    "Means over the seeds of the data +- the spread from seed to seed. excess: nats per dimension. correlation, W1,\n"
    "AUC and their floors: see benchmarks/quality.py; W1 +- what the number of draws leaves open. CPU s: the fit,\n"
    "selection included, one thread.\n"
)


def main() -> None:
    """Fit, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["cir", "double_well", "lattice", "signed", "never_worse"])
    parser.add_argument("--quick", action="store_true", help="one seed and a rough judge")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    seeds = arguments.seeds[:1] if arguments.quick else arguments.seeds
    for part in arguments.parts:
        if part == "never_worse":
            never_worse(seeds if arguments.quick else list(range(5)))
        elif part == "lattice":
            on_lattice(seeds, quick=arguments.quick)
        else:
            on_chain(part, seeds, quick=arguments.quick)


def on_chain(name: str, seeds: list[int], *, quick: bool) -> None:
    """Chains, whose exact denoiser is known."""
    law = LAWS[name]()
    judge = Judge.of(law, quick=quick)
    hybrid: dict[str, Any] = {"method": "hybrid"}
    runs: dict[str, list[tuple[str, int, dict[str, Any], float | None]]] = {
        "cir": [
            ("hybrid", 200, hybrid, 0.0031),
            ("hybrid", 1000, hybrid, 0.0016),
            ("Gaussian field", 200, {"method": "gaussian"}, None),
            ("paper's recipe, radius 5", 200, {"method": "paper", "radius": 5}, None),
        ],
        "double_well": [("hybrid", 200, hybrid, 0.0085), ("network alone", 200, {"method": "neural"}, None)],
        "signed": [("hybrid", 200, hybrid, 0.06), ("hybrid, one law", 200, hybrid | {"pooling": 1.0}, None)],
    }
    rows = []
    for title, n, parameters, bar in runs[name]:
        found: list[tuple[float, Quality, float]] = []
        for seed in seeds:
            model, seconds = fitted(law.draw(n, seed), parameters, seed)
            excess = judge.excess(lambda x, t, model=model: denoise(model, x, t)).value
            drawn = draws(model, DRAWS if not quick else 600, seed)
            found.append((excess, judge.quality(drawn), seconds))
            print(f"  {name}: {title}, N={n}, seed {seed}: {excess:.5f} in {seconds:.1f} s", flush=True)
        rows.append(row(title, n, bar, found))
    show(f"{name}: {law.target!r}, seeds {seeds}", HEADER, rows, NOTES)


def on_lattice(seeds: list[int], *, quick: bool) -> None:
    """Fit the double-well field on 32 x 32, draw it there and on 128 x 128."""
    small, large = lattice(), lattice(128)
    judges = [Judge.of(law, quick=quick) for law in (small, large)]
    found: list[list[tuple[float, Quality, float]]] = [[], []]
    for seed in seeds:
        x = small.draw(100, seed)
        model, seconds = fitted(x.reshape(100, *small.shape), {"method": "hybrid", "pooling": 1.0}, seed, small)
        for judge, where, scale in zip(judges, found, (1, 4), strict=True):
            wider = model if scale == 1 else model.extend((128, 128))
            drawn = draws(wider, max(3 * judge.side, 5 * judge.size), seed)
            where.append((float("nan"), judge.quality(drawn), seconds))
            print(f"  lattice, side {32 * scale}, seed {seed}: {where[-1][1]}", flush=True)
    rows = [row(f"hybrid, {side} x {side}", 100, None, where) for side, where in zip((32, 128), found, strict=True)]
    show(f"double-well lattice, fitted on 32 x 32, seeds {seeds}", HEADER, rows, NOTES)


def never_worse(seeds: list[int]) -> None:
    """Held-out loss of ``method="auto"`` against the Gaussian field's, on Gaussian data and real ones."""
    rows = []
    chain, field = AutoregressiveChain(0.8, 100), GaussianMarkovField.nonstationary((16, 16))
    temperature = north_america_temperature()
    for title in ("AR(1) .8, d = 100, N = 200", "16 x 16 Gaussian field, N = 200", "temperatures, 240 years"):
        for seed in seeds:
            if title.startswith("AR"):
                train, test = (chain.sample(n, random_state=s)[..., 0] for n, s in ((200, seed), (1000, 100 + seed)))
            elif title.startswith("16"):
                draw = [field.sample(n, random_state=s) for n, s in ((200, seed), (1000, 100 + seed))]
                train, test = (x.reshape(len(x), 16, 16) for x in draw)
            else:
                late = temperature["scenario"] == "E1"
                train, test = temperature[~late], temperature[late]
            dims = {"sample_dim": "year"} if title.startswith("temp") else {}
            losses, selected = [], 0
            start = time.process_time()
            for method in ("auto", "gaussian"):
                model = LocalizedDiffusion(method=method, random_state=seed).fit(train, **dims)
                z = torch.from_numpy(model.marginal_(model.codec_.encode(test).astype(np.float64)))
                weight = 1 / (1 + np.square(SIGMAS))[:, None]
                losses.append((weight * held_out(model.score_, z, [time_of(s) for s in SIGMAS], seed=7)).sum(axis=0))
                if method == "auto":
                    selected = sum(level.selected for level in model.fit_report_.levels or ())
                    seconds = time.process_time() - start
            gap = losses[0] - losses[1]
            blocks = np.array([part.mean() for part in np.array_split(gap, 20)]) if dims else gap
            error = blocks.std(ddof=1) / np.sqrt(len(blocks))
            verdict = "pass" if gap.mean() <= error else "short"
            numbers = [f"{losses[1].mean():.4f}", f"{gap.mean():+.5f}", f"{error:.5f}"]
            rows.append([f"{title}, seed {seed}", *numbers, f"{selected} of {len(SIGMAS)}", f"{seconds:.0f}", verdict])
            print("  " + "  ".join(rows[-1]), flush=True)
    show(
        "auto against the Gaussian field on data neither has seen",
        ["data", "Gaussian's loss", "auto's less", "+-", "levels selected", "CPU s", "verdict"],
        rows,
        "Loss: |D - x|^2 / sigma^2 summed over 13 noise levels. Passes up to one standard error above.\n",
    )


def fitted(x: np.ndarray, parameters: dict[str, Any], seed: int, law: Law | None = None) -> tuple[Any, float]:
    """Fit to standardised data and count the seconds of the processor."""
    graph = None if law is None else law.graph
    start = time.process_time()
    model = LocalizedDiffusion(graph=graph, marginal="none", random_state=seed, **parameters)
    model.fit(x[..., 0] if graph is None else x)
    return model, time.process_time() - start


def denoise(model: Any, x: Float[np.ndarray, "sample vertex channel"], t: float) -> np.ndarray:
    """Apply the model's denoiser to arrays."""
    with torch.no_grad():
        return model.score_.denoise(torch.from_numpy(x), t).numpy()


def draws(model: Any, n: int, seed: int) -> Float[np.ndarray, "sample vertex channel"]:
    """Generate series, (sample, vertex, channel)."""
    drawn = np.asarray(model.sample(n, random_state=10_000 + seed))
    return drawn.reshape(n, -1, 1)


def row(title: str, n: int, bar: float | None, found: list[tuple[float, Quality, float]]) -> list[str]:
    """One line of the table."""
    excess, seconds = (np.array([f[k] for f in found], dtype=float) for k in (0, 2))
    quality = [f[1] for f in found]
    correlation = np.array([q.correlation.value for q in quality])
    return [
        title,
        str(n),
        "" if np.isnan(excess).all() else f"{excess.mean():.5f} +- {spread(excess):.5f}",
        "" if bar is None else f"{bar:.4f}",
        f"{correlation.mean():.4f} +- {spread(correlation):.4f}",
        f"{quality[0].correlation.floor:.4f}",
        f"{np.mean([q.marginal.ratio for q in quality]):.2f} +- {chance(quality):.2f}",
        " ".join(f"{q.auc.value:.3f}" for q in quality),
        f"{quality[0].auc.floor + 2 * quality[0].auc.spread:.3f}",
        f"{seconds.mean():.0f}",
    ]


def chance(quality: list[Quality]) -> float:
    """Return the standard error of W1 / floor that the number of draws leaves, as it would be of true draws."""
    marginal = quality[0].marginal
    return marginal.spread / marginal.floor / float(np.sqrt(sum(q.sets for q in quality)))


def spread(values: Float[np.ndarray, " seed"]) -> float:
    """Return the standard deviation over seeds; 0 of a single one."""
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


if __name__ == "__main__":
    main()
