"""Conditional draws of networks where the conditional laws are known: Wasserstein distances over their floor.

`python -m benchmarks.conditioning [cir] [double_well] [lattice] [--fields N] [--draws N] [--seeds S ...]`. Of every
observed field, 32 draws of the model are compared with 32 exact ones, vertex by vertex and in deviations of the exact
law; the floor is the same distance between exact draws. Coverage is how much more often intervals of the draws hold the
true field than those of the exact draws do, by ranks. Errors are those that the number of fields leaves.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import nearfield as nf
from benchmarks.conditional_laws import Setting, settings
from benchmarks.law import LAWS, Law
from benchmarks.table import ratio_of_means, show
from nearfield.methods import Hybrid

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

SETS = 4
HEADER = [
    "law, seed",
    "observed",
    "model",
    "W1 / floor",
    "deviations",
    "lag 1",
    "50 % covers",
    "90 % covers",
    "wrong side",
    "s / 100",
]


def wasserstein(one: ndarray, other: ndarray) -> Float[ndarray, " vertex"]:
    """Distance of equally many values at each vertex."""
    return np.abs(np.sort(one, axis=0) - np.sort(other, axis=0)).mean(axis=0)


def covered(draws: Float[ndarray, "draw vertex"], x: Float[ndarray, " vertex"], share: float) -> float:
    """How often the middle of the draws holds the truth."""
    rank, tail = (draws < x).sum(axis=0), round((1 - share) / 2 * len(draws))
    return float(((rank >= tail) & (rank <= len(draws) - tail)).mean())


def fitted(law: Law, seed: int, *, noise_map: bool = False) -> nf.LocalizedDiffusion:
    """Train on 200 chains, or on 100 fields of a lattice as one law for all vertices."""
    if len(law.shape) == 1:
        model = nf.LocalizedDiffusion(method=Hybrid(noise_map=noise_map), random_state=seed, device="cpu")
        return model.fit(law.draw(200, seed)[..., 0])
    model = nf.LocalizedDiffusion(graph=law.graph, method="hybrid", pooling=1.0, random_state=seed, device="cpu")
    return model.fit(law.draw(100, seed).reshape(100, *law.shape))


def compare(
    law: Law, setting: Setting, drawn: ndarray, exact: Float[ndarray, "set draw vertex"], x: ndarray
) -> list[float]:
    """Distance, floor, variances, products of neighbours, coverage and share beyond a bound."""
    free = np.isnan(setting.exact)
    scale = exact.std(axis=(0, 1))[free]
    floor = np.mean([(wasserstein(exact[0], exact[k])[free] / scale).mean() for k in range(1, SETS)])
    distance = np.mean([(wasserstein(exact[k], drawn)[free] / scale).mean() for k in range(1, SETS)])
    rows = [d.reshape(-1, *law.shape) for d in (drawn, exact)]
    above = [o for o in setting.observations if np.any(o.above)]
    return [
        distance,
        floor,
        drawn.var(axis=0)[free].mean(),
        exact.reshape(-1, len(x)).var(axis=0)[free].mean(),
        *((d[..., 1:] * d[..., :-1]).mean() for d in rows),
        *(
            covered(drawn[:, free], x[free], share) - np.mean([covered(e[:, free], x[free], share) for e in exact])
            for share in (0.5, 0.9)
        ),
        np.mean(drawn[:, above[0].at] < above[0].values) if above else np.nan,
    ]


def measure(name: str, seed: int, n_fields: int, n_draws: int, observed: list[str]) -> list[list[str]]:
    """Fit a hybrid, and compare its conditional draws with exact ones, for settings that begin with these words."""
    law = LAWS[name]()
    start = time.process_time()
    models = {"auto": fitted(law, seed)}
    models["gaussian"] = models["auto"]
    print(f"{name}, seed {seed}: fitted in {time.process_time() - start:.0f} CPU s", flush=True)
    if len(law.shape) == 1:
        models["noise map"] = fitted(law, seed, noise_map=True)
    found: dict[tuple[str, str], list[list[float]]] = {}
    for f, x in enumerate(law.draw(n_fields, 10_000 + seed)[..., 0]):
        rng = np.random.default_rng([seed, f])
        for setting in settings(law, x, rng):
            if observed and not setting.name.startswith(tuple(observed)):
                continue
            exact = setting.draws(SETS * n_draws, rng).reshape(SETS, n_draws, -1)
            for method, model in models.items():
                begin = time.process_time()
                kind: Any = "gaussian" if method == "gaussian" else "auto"
                posterior = model.condition(*setting.observations, method=kind)
                drawn = np.asarray(posterior.sample(n_draws, random_state=f)).reshape(n_draws, -1)
                seconds = (time.process_time() - begin) / n_draws * 100
                numbers = [*compare(law, setting, drawn, exact, x), seconds]
                found.setdefault((setting.name, method), []).append(numbers)
    return [_row(f"{name}, {seed}", *key, np.array(each)) for key, each in found.items()]


def _row(law: str, setting: str, method: str, each: Float[ndarray, "field number"]) -> list[str]:
    """One line of the table."""
    m, error = each.mean(axis=0), each.std(axis=0) / np.sqrt(len(each))
    ratio, within = ratio_of_means(each[:, 0], each[:, 1]) if len(each) > 1 else (m[0] / m[1], np.nan)
    return [
        law,
        setting,
        "network" if method == "auto" else "field",
        f"{ratio:.3f} +- {within:.3f}",
        f"{np.sqrt(m[2] / m[3]):.3f}",
        f"{m[4] / m[5]:.3f}",
        *(f"{100 * m[k]:+.1f} +- {100 * error[k]:.1f}" for k in (6, 7)),
        "" if np.isnan(m[8]) else f"{m[8]:.4f}",
        f"{m[9]:.2f}",
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("laws", nargs="*", default=["cir", "double_well", "lattice"])
    parser.add_argument("--fields", type=int, default=24)
    parser.add_argument("--draws", type=int, default=32)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--observed", nargs="+", default=[], help="first words of settings, all by default")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)
    for name in arguments.laws:
        sizes = (arguments.fields, arguments.draws, arguments.observed)
        rows = [row for seed in arguments.seeds for row in measure(name, seed, *sizes)]
        show("Conditional draws", HEADER, rows)


if __name__ == "__main__":
    main()
