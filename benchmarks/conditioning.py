"""Conditional draws of networks on chains whose conditional laws are known: Wasserstein distances over their floor.

`python -m benchmarks.conditioning [cir] [double_well] [--fields N] [--seeds S ...]`. Of every observed field, 32 draws
of the model are compared with 32 exact ones, vertex by vertex and in deviations of the exact law; the floor is the same
distance between exact draws. Exact draws are by forward filtering and backward sampling on a grid of 400 nodes; with
means over blocks the state is the value and the sum since the block began.
"""

from __future__ import annotations

import argparse
import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import nearfield as nf
from benchmarks.law import LAWS, Law
from benchmarks.table import show
from nearfield.methods import Hybrid

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

DRAWS = 32
SETS = 4
CELLS = 400
BLOCK = 8
BLOCK_CELLS = 90
HEADER = [
    "law",
    "observed",
    "model",
    "W1 / floor",
    "sd ratio",
    "lag 1",
    "50 % covers",
    "90 % covers",
    "wrong side",
    "s / 100",
]


@dataclass(frozen=True)
class Setting:
    """What is observed: a log-likelihood of the values at each vertex, and the observations for the model."""

    name: str
    observations: list[nf.Observation]
    log_likelihood: Any  # (vertex, node) from nodes, or None for block means
    exact: Float[ndarray, " vertex"]  # NaN where not exact
    target: Float[ndarray, " block"] | None = None
    error: float = 0.0


def settings(x: Float[ndarray, " vertex"], name: str, rng: np.random.Generator) -> list[Setting]:
    """Observe a field in several ways."""
    n = len(x)
    nothing = np.full(n, np.nan)

    def points(at: ndarray, y: ndarray, error: float) -> Any:
        def log_likelihood(nodes: ndarray) -> ndarray:
            out = np.zeros((n, len(nodes)))
            width = error or np.diff(nodes).max() / 2
            out[at] = -0.5 * ((nodes - y[:, None]) / width) ** 2
            return out

        return log_likelihood

    fifth, half = np.arange(2, n, 5), np.sort(rng.choice(n, n // 2, replace=False))
    outside = np.r_[0:49, 79:n]
    noisy = x[fifth] + 0.3 * rng.standard_normal(len(fifth))
    found = [
        Setting("every 5th, .3", [nf.Observation(noisy, at=fifth, error=0.3)], points(fifth, noisy, 0.3), nothing),
        Setting("half, exact", [nf.Observation(x[half], at=half)], points(half, x[half], 0.0), at(x, half)),
        Setting(
            "gap of 30", [nf.Observation(x[outside], at=outside)], points(outside, x[outside], 0.0), at(x, outside)
        ),
    ]
    threshold = 0.6
    over = fifth[x[fifth] > threshold]
    under = fifth[x[fifth] <= threshold]

    def censored(nodes: ndarray) -> ndarray:
        out = points(under, x[under], 0.0)(nodes)
        out[over] = np.where(nodes > threshold, 0.0, -1e3)
        return out

    bounds = [nf.Observation(np.full(len(over), threshold), at=over, above=True)] if len(over) else []
    seen = [nf.Observation(x[under], at=under)] if len(under) else []
    found.append(Setting("censored above .6", seen + bounds, censored, at(x, under)))
    if name != "double_well":
        return found
    means = x.reshape(-1, BLOCK).mean(axis=1) + 0.05 * rng.standard_normal(n // BLOCK)
    operator = np.repeat(np.eye(n // BLOCK), BLOCK, axis=1) / BLOCK
    block = nf.Observation(means, operator=operator, error=0.05)
    found.append(Setting("block means, .05", [block], None, nothing, means, 0.05))
    return found


def at(x: ndarray, places: ndarray) -> ndarray:
    """Values at some places, NaN elsewhere."""
    out = np.full(len(x), np.nan)
    out[places] = x[places]
    return out


def exact_draws(law: Law, setting: Setting, n_draws: int, rng: np.random.Generator) -> Float[ndarray, "draw vertex"]:
    """Draw from the exact conditional law."""
    if setting.target is not None:
        return block_draws(law, setting, n_draws, rng)
    chain = law.target.hidden_chain(CELLS)  # type: ignore[attr-defined]
    log_likelihood = setting.log_likelihood(chain.nodes)
    likelihood = np.exp(log_likelihood - log_likelihood.max(axis=1, keepdims=True)) + 1e-280
    n = len(likelihood)
    forward = np.empty_like(likelihood)
    state = chain.initial
    for i in range(n):
        forward[i] = state * likelihood[i]
        forward[i] /= forward[i].sum()
        state = forward[i] @ chain.kernel
    place = np.empty((n_draws, n), dtype=int)
    place[:, -1] = pick(np.broadcast_to(forward[-1], (n_draws, len(chain.nodes))), rng)
    for i in range(n - 2, -1, -1):
        place[:, i] = pick(forward[i] * chain.kernel[:, place[:, i + 1]].T, rng)
    spacing = np.gradient(chain.nodes)
    drawn = chain.nodes[place] + (rng.random(place.shape) - 0.5) * spacing[place]
    return np.where(np.isnan(setting.exact), drawn, setting.exact)


def block_draws(law: Law, setting: Setting, n_draws: int, rng: np.random.Generator) -> Float[ndarray, "draw vertex"]:
    """Draw given means over blocks: the nodes are evenly spaced, so that sums are whole numbers of spacings."""
    chain = law.target.hidden_chain(BLOCK_CELLS)  # type: ignore[attr-defined]
    nodes = chain.nodes
    step = nodes[1] - nodes[0]
    assert np.allclose(np.diff(nodes), step)
    m, n = len(nodes), law.graph.n_vertices
    sums = BLOCK * (m - 1) + 1
    forwards = np.zeros((n, m, sums), dtype=np.float32)
    before = np.zeros((m, sums))
    assert setting.target is not None
    for i in range(n):
        if i % BLOCK == 0:
            into = chain.initial if i == 0 else before.sum(axis=1) @ chain.kernel
            state = np.zeros((m, sums))
            state[np.arange(m), np.arange(m)] = into
        else:
            moved = chain.kernel.T @ before
            state = np.zeros((m, sums))
            for k in range(m):
                state[k, k:] = moved[k, : sums - k]
        if i % BLOCK == BLOCK - 1:
            mean = nodes[0] + step * np.arange(sums) / BLOCK
            log_likelihood = -0.5 * ((mean - setting.target[i // BLOCK]) / setting.error) ** 2
            state *= np.exp(log_likelihood - log_likelihood.max())
        before = state / state.sum()
        forwards[i] = before
    place, total = np.empty((n_draws, n), dtype=int), np.zeros(n_draws, dtype=int)
    for i in range(n - 1, -1, -1):
        if i % BLOCK == BLOCK - 1:  # the sum is free
            weight = forwards[i].reshape(-1)[None] * np.ones((n_draws, 1), dtype=np.float32)
            if i < n - 1:
                weight = (chain.kernel[:, place[:, i + 1]].T[:, :, None] * forwards[i]).reshape(n_draws, -1)
            place[:, i], total = np.divmod(pick(weight, rng), sums)
        else:
            here = forwards[i][:, total].T * chain.kernel[:, place[:, i + 1]].T
            place[:, i] = pick(here, rng)
        total = total - place[:, i]
    return nodes[place] + (rng.random(place.shape) - 0.5) * step


def pick(weight: Float[ndarray, "draw state"], rng: np.random.Generator) -> ndarray:
    """Draw a state for each row of weights."""
    mass = np.cumsum(weight, axis=1, dtype=np.float64)
    return np.minimum((mass < rng.random((len(mass), 1)) * mass[:, -1:]).sum(axis=1), weight.shape[1] - 1)


def wasserstein(one: ndarray, other: ndarray) -> Float[ndarray, " vertex"]:
    """Distance of equally many values at each vertex."""
    return np.abs(np.sort(one, axis=0) - np.sort(other, axis=0)).mean(axis=0)


def measure(name: str, seed: int, n_fields: int, n_train: int = 200) -> list[list[object]]:
    """Fit hybrids, one of them with noise maps, and compare their conditional draws with exact ones."""
    law = LAWS[name]()
    train, fields = law.draw(n_train, seed)[..., 0], law.draw(n_fields, 10_000 + seed)[..., 0]
    models: dict[str, Any] = {}
    for kind, method in (("network", Hybrid()), ("noise map", Hybrid(noise_map=True))):
        start = time.process_time()
        models[kind] = nf.LocalizedDiffusion(method=method, random_state=seed, device="cpu").fit(train)
        print(f"{name}, {kind}: fitted in {time.process_time() - start:.0f} CPU s", flush=True)
    sums: dict[tuple[str, str], list[list[float]]] = {}
    for f, x in enumerate(fields):
        rng = np.random.default_rng([seed, f])
        for setting in settings(x, name, rng):
            exact = exact_draws(law, setting, SETS * DRAWS, rng).reshape(SETS, DRAWS, -1)
            free = np.isnan(setting.exact)
            scale = exact.std(axis=(0, 1))[free]
            floor = np.mean([(wasserstein(exact[0], exact[k])[free] / scale).mean() for k in range(1, SETS)])
            for kind in ("network", "noise map", "field"):
                begin = time.process_time()
                model, method = models.get(kind, models["network"]), "gaussian" if kind == "field" else "auto"
                drawn = model.condition(*setting.observations, method=method).sample(DRAWS, random_state=f)
                seconds = time.process_time() - begin
                distance = np.mean([(wasserstein(exact[k], drawn)[free] / scale).mean() for k in range(1, SETS)])
                rank = (drawn < x)[:, free].sum(axis=0)
                lag, true_lag = ((d[..., 1:] * d[..., :-1]).mean() for d in (drawn, exact))
                above = [o for o in setting.observations if np.any(o.above)]
                wrong = np.mean(drawn[:, above[0].at] < above[0].values) if above else np.nan
                sums.setdefault((setting.name, kind), []).append(
                    [
                        distance,
                        floor,
                        drawn.var(axis=0)[free].mean(),
                        exact.reshape(-1, len(x)).var(axis=0)[free].mean(),
                        lag,
                        true_lag,
                        ((rank >= 8) & (rank <= 24)).mean() - 17 / 33,
                        ((rank >= 2) & (rank <= 30)).mean() - 29 / 33,
                        wrong,
                        seconds / DRAWS * 100,
                    ]
                )
    rows: list[list[object]] = []
    for (setting_name, kind), found in sums.items():
        m = np.mean(found, axis=0)
        rows.append(
            [
                name,
                setting_name,
                kind,
                *(f"{number:.3f}" for number in (m[0] / m[1], np.sqrt(m[2] / m[3]), m[4] / m[5])),
                *(f"{100 * number:+.1f}" for number in m[6:8]),
                "" if np.isnan(m[8]) else f"{m[8]:.4f}",
                f"{m[9]:.2f}",
            ]
        )
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("laws", nargs="*", default=["cir", "double_well"])
    parser.add_argument("--fields", type=int, default=24)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)
    for name in arguments.laws:
        rows = [row for seed in arguments.seeds for row in measure(name, seed, arguments.fields)]
        show("Conditional draws", HEADER, rows)


if __name__ == "__main__":
    main()
