r"""Scale mixtures: where they are taken, and what they are worth.

``texture``: a field of short range times exp of a slow one, 16 x 16, so that contrast differs within and between
samples. ``terrain``: patches of fractals of spectrum :math:`k^{-\beta}`, with a slope :math:`\beta` and a relief that
differ between patches. Beside them laws that must not be given a mixture: a Gaussian field, a skewed chain, a
double-well chain and lattice, and gravel, each also in small pieces.

Columns: whether a mixture is taken; its gain of log-density over the field's on fresh samples, nats per dimension, in
standard errors; the denoising loss of the field, of the mixture, and of the local mixture; and the spread of roughness
between 2,000 exact draws and between all data, the standard deviation of the log of the root mean square difference of
neighbours.

With ``--network`` a hybrid of the default recipe is trained on the terrain with the context that is chosen, and with
windows: AUC of a classifier of whole patches. Beside them azula's U-Net, searched for and trained by the rules of
`benchmarks.peer.contest` in as many CPU seconds as the first, and in three times as many; it needs what
`benchmarks.peers` needs.

Run as ``python -m benchmarks.scale_mixture [--network] [--seed 0]``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from benchmarks.law import Law, cir, double_well, lattice
from benchmarks.peer.contest import Split, compete
from benchmarks.peer.denoiser import AzulaUnet
from benchmarks.table import show, verdict
from nearfield import LocalizedDiffusion
from nearfield.datasets import GaussianMarkovField, Target, gravel
from nearfield.fitting.closed_form import build_field
from nearfield.fitting.local_mixture import fit_local_mixture
from nearfield.fitting.matching import held_out
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.scale_mixture import LEVELS, choose_mixture
from nearfield.graph import DependencyGraph
from nearfield.samples import Samples

if TYPE_CHECKING:
    from jaxtyping import Float

    Patches = Float[np.ndarray, "patch row column"]

SIDE, TRAIN, TEST, DRAWS = 16, 490, 400, 2000
STANDARD_ERRORS = 10.0
"""By how many the mixture's held-out log-density must exceed the field's."""
SPREAD = 0.15
"""Largest relative error of the spread of roughness."""
SPLITS = 5
LONGER = 3
"""A second peer is given so many times the CPU seconds of the hybrid."""


class Case(NamedTuple):
    """Draws by number and seed, their graph, and whether a mixture is to be taken."""

    draw: Callable[[int, int], np.ndarray]
    graph: DependencyGraph
    wanted: bool


def texture(n: int, seed: int, side: int = SIDE) -> Patches:
    """Rough fields times exp of slow ones."""
    rng, wide = np.random.default_rng(seed), side + 24
    rough, slow = (
        np.stack([gaussian_filter(rng.normal(size=(wide, wide)), width) for _ in range(n)]) for width in (1.2, 6.0)
    )
    fine = rough / rough.std() + 0.3 * rng.normal(size=rough.shape)
    whole: Patches = (fine * np.exp(0.7 * slow / slow.std()))[:, 12:-12, 12:-12]
    return whole


def terrain(n: int, seed: int | np.random.Generator | None) -> Patches:
    """Fractal patches, whose spectrum falls by an exponent in [2.4, 4], and whose relief is lognormal."""
    rng, wide = np.random.default_rng(seed), 4 * SIDE
    k = np.hypot(np.fft.fftfreq(wide)[:, None], np.fft.rfftfreq(wide)) * wide
    k[0, 0] = np.inf
    patches = np.empty((n, SIDE, SIDE))
    for i in range(n):
        power = (k / 4) ** -rng.uniform(2.4, 4.0)  # patches of any exponent are alike at a wave of 16 cells
        field = np.fft.irfft2(np.sqrt(power) * np.fft.rfft2(rng.normal(size=(wide, wide))), s=(wide, wide))
        patches[i] = field[:SIDE, :SIDE] * np.exp(0.45 * rng.normal())
    return patches - patches.mean(axis=(1, 2), keepdims=True) + rng.normal(size=(n, 1, 1)) * patches.std()


class Terrain(Target):
    """The fractal patches as a law, for the contest."""

    @property
    def graph(self) -> DependencyGraph:
        """The lattice of a patch."""
        return DependencyGraph.grid((SIDE, SIDE))

    def sample(
        self, n_samples: int, random_state: int | np.random.Generator | None = None
    ) -> Float[np.ndarray, "sample vertex channel"]:
        """Draw patches."""
        return terrain(n_samples, random_state).reshape(n_samples, -1, 1)


def pieces(n: int, seed: int, side: int) -> Patches:
    """Pieces of the photograph of gravel, from its left half or its right half by the seed."""
    picture, rng = gravel().to_numpy(), np.random.default_rng(seed)
    half = picture[:, 256 * (seed % 2) :][:, :256]
    places = rng.integers(0, (512 - side, 256 - side), size=(n, 2))
    return np.stack([half[i : i + side, j : j + side] for i, j in places])


def cases() -> dict[str, Case]:
    """All laws by name."""
    grid = DependencyGraph.grid((SIDE, SIDE))
    found = {"texture": Case(texture, grid, True), "terrain": Case(terrain, grid, True)}
    smooth = GaussianMarkovField.nonstationary((SIDE, SIDE), kappa=(0.6, 0.6))
    found["gaussian"] = Case(lambda n, seed: smooth.sample(n, random_state=seed), grid, False)
    for law in (cir(16), cir(64), cir(128), double_well(), lattice()):
        found[f"{law.name} {law.graph.n_vertices}"] = Case(law.draw, law.graph, False)
    for side in (8, 24):
        found[f"gravel {side}"] = Case(partial(pieces, side=side), DependencyGraph.grid((side, side)), False)
    return found


def spread_of_roughness(patches: Patches) -> float:
    """Return the standard deviation over patches of the log of the root mean square difference of neighbours."""
    squares = (np.diff(patches, axis=axis) ** 2 for axis in (1, 2))
    return float(np.std(np.log(sum(square.mean(axis=(1, 2)) for square in squares)) / 2))


def row(name: str, case: Case, seed: int) -> list[str]:
    """Fit, measure and judge one law."""
    train, test = (case.draw(n, seed + k).reshape(n, len(case.graph), 1) for n, k in ((TRAIN, 0), (TEST, 1)))
    samples = Samples(train, case.graph)
    fit = build_field(samples, 2, Pooling(1.0))
    y, unseen = samples.standardized(fit.center, fit.scale), (test - fit.center) / fit.scale
    start = time.process_time()
    mixture, _ = choose_mixture(y, fit.field, one_law=True, seed=seed)
    seconds = time.process_time() - start
    cells = [name, "yes" if mixture else "no", f"{seconds:.1f}"]
    if mixture is None:
        return [*cells, "", "", "", "", "", "", verdict() if not case.wanted else "FAIL"]
    gain = (mixture.log_prob(unseen) - fit.field.log_prob(unseen)) / unseen[0].size
    errors = float(gain.mean() / gain.std(ddof=1) * np.sqrt(len(gain)))
    scores = (fit.field, mixture, fit_local_mixture(y, Pooling(1.0), seed=seed))
    with torch.no_grad():
        losses = [f"{held_out(s, torch.from_numpy(unseen), LEVELS, seed=seed).mean():.4f}" for s in scores]
    data = np.concatenate([y.values, unseen])
    drawn, real = (spread_of_roughness(x.reshape(-1, SIDE, SIDE)) for x in (mixture.sample(DRAWS, seed=seed), data))
    passed = verdict((STANDARD_ERRORS, errors), (abs(drawn / real - 1), SPREAD)) if case.wanted else "FAIL"
    return [*cells, f"{gain.mean():.3f}", f"{errors:.1f}", *losses, f"{drawn:.3f} / {real:.3f}", passed]


def patch_area(one: Patches, other: Patches, seed: int) -> float:
    """AUC of gradient boosting that tells whole patches apart, mean over splits; .5 is chance."""
    x = np.concatenate([_features(one), _features(other)])
    side, areas = np.repeat([0, 1], [len(one), len(other)]), []
    for k in range(SPLITS):
        order = np.random.default_rng([seed, k]).permutation(len(x))
        train, test = order[: len(x) // 2], order[len(x) // 2 :]
        judge = HistGradientBoostingClassifier(max_iter=80, random_state=0).fit(x[train], side[train])
        areas.append(roc_auc_score(side[test], judge.predict_proba(x[test])[:, 1]))
    return float(np.mean(areas))


def _features(patches: Patches) -> np.ndarray:
    """Values at every other cell, and the roughness of the patch over one, two and four cells along either axis."""
    rough = [
        np.log((np.diff(patches[:, ::step, ::step], axis=axis) ** 2).mean(axis=(1, 2)))
        for step in (1, 2, 4)
        for axis in (1, 2)
    ]
    return np.column_stack([patches[:, ::2, ::2].reshape(len(patches), -1), *rough])


def network_rows(seed: int) -> list[list[str]]:
    """Train hybrids on the terrain, with the context that is chosen and without mixtures, and judge their draws."""
    train, test = terrain(TRAIN, seed), terrain(TEST, seed + 1)
    same = patch_area(terrain(TEST, seed + 2), test, seed)
    rows, spent = [["truth", "", "", f"{spread_of_roughness(test):.3f}", f"{same:.3f}"]], []
    for name in ("mixture", "without"):
        start = time.process_time()
        model = LocalizedDiffusion(method="hybrid", pooling=1.0, random_state=seed)
        with patch("nearfield.fitting.context.choose_mixture", choose_mixture if name == "mixture" else _none):
            model.fit(train)
        seconds, training = time.process_time() - start, model.fit_report_.training
        assert training is not None
        drawn = np.asarray(model.sample(TEST, random_state=seed))
        print(f"{name}: {model.fit_report_.reason}", flush=True)
        cells = [f"{seconds:.0f}", f"{training.best.loss:.4f}", f"{spread_of_roughness(drawn):.3f}"]
        rows.append([name, *cells, f"{patch_area(drawn, test, seed):.3f}"])
        spent.append(seconds)
    return rows + [_peer_row(train, test, longer * spent[0], seed) for longer in (1, LONGER)]


def _peer_row(train: Patches, test: Patches, seconds: float, seed: int) -> list[str]:
    """Let azula's U-Net compete on the terrain, and judge its draws."""
    law = Law("terrain", Terrain(), float(train.mean()), float(train.std()), None, np.ones(SIDE**2))
    outcome = compete(AzulaUnet(), Split(law, ((train - law.mean) / law.std).reshape(TRAIN, -1, 1), seed), seconds)
    cells = [AzulaUnet.name, f"{outcome.seconds:.0f}", ""]
    if outcome.fitted is None or outcome.fitted.sample is None:
        return [*cells, "", outcome.failure]
    print(f"{AzulaUnet.name}: {outcome.setting}", flush=True)
    drawn = law.mean + law.std * outcome.fitted.sample(TEST, seed).reshape(test.shape)
    return [*cells, f"{spread_of_roughness(drawn):.3f}", f"{patch_area(drawn, test, seed):.3f}"]


def _none(*_: object, **__: object) -> tuple[None, str]:
    return None, ""


def main() -> None:
    """Measure every law; with --network the hybrid on the terrain instead."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--network", action="store_true")
    seed, network = parser.parse_args().seed, parser.parse_args().network
    if network:
        header = ["context", "CPU s", "held-out loss", "roughness", "AUC"]
        show(f"Hybrids of terrain, seed {seed}", header, network_rows(seed))
        return
    header = ["law", "taken", "CPU s", "gain, nats", "in s.e.", "loss, field", "mixture", "local", "roughness", ""]
    show("Scale mixtures", header, [row(name, case, seed) for name, case in cases().items()])


if __name__ == "__main__":
    main()
