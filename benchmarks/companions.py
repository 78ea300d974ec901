"""The companions against what is known: block samplers, the bridge, Stein descent, implicit scores, subspaces, bounds.

Each row of a table is a number beside its bar. Some ten minutes of one processor; ``python -m benchmarks.companions
bridge`` runs the rows of one part.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.sparse import csr_array, diags_array, kron
from scipy.stats import wasserstein_distance

from benchmarks.table import show
from nearfield.datasets import (
    AutoregressiveChain,
    DoubleWellChain,
    DoubleWellLattice,
    integrated_autocorrelation_time,
)
from nearfield.distribution import DiffusionModel
from nearfield.evaluation.metric import covariance_error, nearest_distance
from nearfield.fitting.matching import NoiseLevels, training_draws
from nearfield.graph import DependencyGraph
from nearfield.graph.coarsening import coarsen
from nearfield.posterior import (
    Factors,
    LocalDensity,
    LocalizedSchroedingerBridge,
    MALAWithinGibbs,
    MessagePassingSVGD,
    NetworkDataScore,
    PolynomialScore,
    langevin,
    localized_subspace,
)
from nearfield.posterior.law import gaussian_markov, linear_inverse, phi4
from nearfield.process import noise_scale, signal_scale
from nearfield.score.hybrid import NetworkScore
from nearfield.score.window import WindowNetwork
from nearfield.theory.marginal import gaussian_delta, marginal_bound

Row = tuple[str, str, str, bool]
"""What is measured, the number, its bar, and whether it holds."""


def phi4_chain(d: int, whole: bool = False) -> LocalDensity:
    """Chain between two zeros, in blocks of four or in one."""
    return phi4(
        DependencyGraph.chain(d), boundary="zero", blocks=np.zeros(d, dtype=int) if whole else np.arange(d) // 4
    )


def acceptance() -> list[Row]:
    """MALA within Gibbs on ever longer chains at one step size, and MALA of the whole field beside it."""
    sampler, rows = MALAWithinGibbs(0.05, None), []
    local, whole = [], []
    sizes = (16, 64, 256, 1024, 16384)
    for d in sizes:
        chains = max(4, 4096 // d)
        draws = sampler.sample(phi4_chain(d), 60, chains=chains, burn_in=40, start=np.zeros(d))
        local.append(draws.acceptance.mean())
        start = draws.values[:, -1]
        whole.append(sampler.sample(phi4_chain(d, True), 60, chains=chains, burn_in=0, start=start).acceptance.mean())
    listed = ", ".join(f"{a:.4f}" for a in local)
    off = np.abs(np.array(local) - 0.95).max()
    rows.append((f"acceptance of blocks of 4, d = {', '.join(map(str, sizes))}", listed, ".95 +- .005", off <= 0.005))
    rows.append(("acceptance of the whole field", ", ".join(f"{a:.3f}" for a in whole), "falls", whole[-1] < 0.01))
    return rows


def effective_samples() -> list[Row]:
    """Effective samples of all vertices and chains for each CPU second; chains x vertices are constant."""
    found, sizes = [], (16, 64, 256, 1024, 16384)
    sampler = MALAWithinGibbs(0.2, None)
    for d in sizes:
        chains, n = 65536 // d, 400
        law, first = phi4_chain(d), np.zeros(d)
        first = sampler.sample(law, 1, chains=chains, burn_in=60, start=first).values[:, -1]
        begin = time.process_time()
        x = sampler.sample(law, n, chains=chains, burn_in=0, start=first).values
        seconds = time.process_time() - begin
        middle = x[:, :, d // 2 - 4 : d // 2 + 4].transpose(1, 0, 2).reshape(n, -1)[:, :512]
        found.append(65536 * n / integrated_autocorrelation_time(middle) / seconds)
    spread = max(found) / min(found) - 1
    listed = ", ".join(f"{f / 1e3:.0f}" for f in found)
    return [("thousand effective values a CPU second, same d's", listed, "within 20 %", spread <= 0.2)]


def lattice() -> list[Row]:
    """Two-point functions of the 64 x 64 double well by both samplers, in errors of the difference."""
    shape, h, J = (64, 64), 1.5, 0.45
    graph = DependencyGraph.torus(shape)
    sites = Factors(np.arange(4096)[:, None], lambda x: -h * (x[..., 0] ** 2 - 1) ** 2)
    bonds = phi4(graph).factors[1]
    coupled = Factors(bonds.vertices, lambda x: -0.5 * J * (x[..., 0] - x[..., 1]) ** 2)
    law = LocalDensity(graph, [sites, coupled], coarsen(graph, 2).label)
    start = np.random.default_rng(0).normal(size=(16, 4096)) * 0.7
    ours = MALAWithinGibbs(0.03).sample(law, 60, chains=16, burn_in=300, thin=10, start=start).values
    other = DoubleWellLattice(shape, h=h, J=J, burn_in=300).sample(160, random_state=1)[..., 0]
    lags = (0, 1, 2, 3, 5, 8)
    one, two = two_point(ours, lags).mean(1), two_point(other[:, None], lags)[:, 0]
    error = np.sqrt(one.var(0, ddof=1) / len(one) + two.var(0, ddof=1) / len(two))
    off = np.abs(one.mean(0) - two.mean(0)) / error
    text = "; ".join(f"{a:.3f} {b:.3f}" for a, b in zip(one.mean(0), two.mean(0), strict=True))
    return [
        (f"two-point function at lags {lags}: blocks, checkerboard", text, "", True),
        ("largest difference in standard errors", f"{off.max():.2f}", "4", bool(off.max() < 4)),
    ]


def two_point(x: np.ndarray, lags: Sequence[int]) -> np.ndarray:
    """Mean product at each lag along both axes: (chain, draw, lag)."""
    field = x.reshape(*x.shape[:2], 64, 64)
    products = [[(field * np.roll(field, lag, axis)).mean((2, 3)) for lag in lags] for axis in (2, 3)]
    return np.moveaxis(np.mean(products, axis=0), 0, -1)


def bridge() -> list[Row]:
    """Localized and global Schroedinger bridge on AR(1) chains of 20, 400 samples; cost against the size."""
    chain = AutoregressiveChain(0.5, 20)
    C, best, near = chain.covariance(), {1: [], 2: [], 19: []}, []
    for seed in range(3):
        x = chain.sample(400, random_state=seed)
        truth = nearest_distance(chain.sample(1000, random_state=100 + seed), x).mean()
        for radius, errors in best.items():
            tried = {}
            for share in (0.1, 0.2, 0.4) if radius < 19 else (0.1, 0.2, 0.4, 0.8):
                model = LocalizedSchroedingerBridge.fit(x, chain.graph, radius, bandwidth=share, steps=50)
                y = model.sample(600, seed=1)
                tried[share] = covariance_error(y[..., 0].T @ y[..., 0] / len(y), C), nearest_distance(y, x).mean()
            errors.append(min(tried.values())[0])
            if radius == 1:
                y = LocalizedSchroedingerBridge.fit(x, chain.graph, 1, steps=50).sample(600, seed=1)
                errors[-1] = covariance_error(y[..., 0].T @ y[..., 0] / len(y), C)
                near.append(nearest_distance(y, x).mean() / truth)
    local, other, whole = (np.mean(best[r]) for r in (1, 2, 19))
    seconds = []
    for d in (100, 1000, 10000):
        x = AutoregressiveChain(0.5, d).sample(100, random_state=0)
        begin = time.process_time()
        LocalizedSchroedingerBridge.fit(x, DependencyGraph.chain(d), 1, steps=10).sample(20, seed=0)
        seconds.append((time.process_time() - begin) / d * 1e3)
    flat = seconds[2] / seconds[1]
    return [
        ("error (4.6): radius 1 (held-out bandwidth), 2, global (best of each)",
         f"{local:.3f}, {other:.3f}, {whole:.3f}", "local below", local < whole),
        ("distance to the nearest sample over that of true draws",
         f"{np.mean(near):.3f}", ">= .8", np.mean(near) >= 0.8),
        ("ms a vertex of fit and 20 draws, d = 100, 1000, 10,000",
         ", ".join(f"{s:.2f}" for s in seconds), "constant within 30 %", abs(flat - 1) < 0.3),
    ]  # fmt: skip


def descent() -> list[Row]:
    """Variance of 100 particles of Stein descent on an AR(1) chain of 256."""
    law = gaussian_markov(AutoregressiveChain(0.5, 256).precision)
    local, whole = (
        MessagePassingSVGD(radius, n_steps=300).sample(law, 100).var(0, ddof=1).mean() for radius in (1, None)
    )
    return [("variance over the truth: message passing, plain", f"{local:.3f}, {whole:.3f}", ">= .8", local >= 0.8)]


def implicit() -> list[Row]:
    """Error of implicit scores of the phi^4 chain, 1500 samples, against its size."""
    sizes, found = (16, 64, 256, 1024), []
    for d in sizes:
        ratios = []
        for seed in range(max(1, 64 // d)):
            law = phi4_chain(d)
            draws = MALAWithinGibbs(0.15, None).sample(law, 1, chains=1500, burn_in=60, start=np.zeros(d), seed=seed)
            x = torch.from_numpy(draws.values[:, 0])
            true = law.gradient(x)
            score = PolynomialScore.fit(x[..., None].numpy(), law.graph, 1, degree=3).score(x[..., None])[..., 0]
            ratios.append(((score - true).square().mean() / true.square().mean()).item())
        found.append(np.mean(ratios))
    spread = max(found) / min(found) - 1
    listed = ", ".join(f"{f:.4f}" for f in found)
    return [
        (f"relative error of implicit scores, d = {', '.join(map(str, sizes))}", listed, "within 20 %", spread <= 0.2)
    ]


def double_well() -> list[Row]:
    """Draw the double-well chain by scores matched without and with noise, 300 samples, the same network."""
    law = DoubleWellChain(2.0, 3.0, 32)
    x = law.sample(300, random_state=0) / law.std
    test = law.sample(2000, random_state=1) / law.std
    C = law.covariance() / law.std**2
    network = WindowNetwork(law.graph, 2, width=32, depth=1)
    start = np.random.default_rng(2).normal(size=(400, 32, 1))
    rows = []

    def judged(name: str, y: np.ndarray, note: str) -> None:
        distance = wasserstein_distance(y.ravel(), test.ravel())
        error = np.sqrt(np.square(y[..., 0].T @ y[..., 0] / len(y) - C).mean())
        rows.append((f"{name}: W1 of values, rms error of covariances", f"{distance:.3f}, {error:.3f}{note}", "", True))

    true = torch.from_numpy(
        -DoubleWellLattice((32,), 2.0, 3.0, periodic=False).energy_gradient(test * law.std) * law.std
    )
    for name, score in (
        ("cubic", PolynomialScore.fit(x, law.graph, 1, degree=3)),
        ("implicit network", NetworkDataScore.fit(x, network, epochs=60)),
    ):
        found = score.score(torch.from_numpy(test).to(score.scale.dtype))
        note = f" (score {((found - true).square().mean() / true.square().mean()).item():.3f} off)"
        for begin, first in (("data", x), ("noise", start)):
            judged(f"{name}, Langevin from {begin}", langevin(score, first, step_size=0.01, n_steps=800), note)
            note = ""
    denoiser = denoising(x, copy.deepcopy(network).requires_grad_(True))
    judged("denoising network, diffusion from noise", denoiser.sample(400, seed=0), "")
    judged("samples", x, "")
    return rows


def denoising(x: np.ndarray, network: WindowNetwork) -> DiffusionModel:
    """Train a network on noised samples by the optimiser of the implicit one, for ten times as many epochs."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 600)
    generator, clean = torch.Generator().manual_seed(0), torch.from_numpy(x).float()
    for _ in range(600):
        for batch in torch.randperm(len(clean), generator=generator).split(64):
            t, xi = training_draws(NoiseLevels(), clean[batch], generator)
            a, s = signal_scale(t)[:, None, None].float(), noise_scale(t)[:, None, None].float()
            optimizer.zero_grad()
            found = network(a * clean[batch] + s * xi, None, torch.log(noise_scale(t) / signal_scale(t)).float())
            (found - (s * clean[batch] - a * xi)).square().mean().backward()
            optimizer.step()
        schedule.step()
    return DiffusionModel(
        NetworkScore(network.requires_grad_(False)), float(np.linalg.eigvalsh(np.cov(x[..., 0].T))[-1])
    )


def locality() -> list[Row]:
    """W1 of marginals over the bound of delta-locality: 200 perturbations of a chain, and a shift that attains it."""
    rng, P = np.random.default_rng(0), np.diag(np.full(40, 2.4)) - np.eye(40, k=1) - np.eye(40, k=-1)
    C, delta, m = np.linalg.inv(P), gaussian_delta(P), np.linalg.eigvalsh(P)[0]
    ratios = []
    for _ in range(200):
        o = m * rng.uniform(-0.05, 0.05, 39)
        E = np.diag(m * rng.uniform(-0.1, 0.1, 40)) + np.diag(o, 1) + np.diag(o, -1)
        other = np.linalg.inv(P + E)
        distance = np.sqrt(2 / np.pi) * np.abs(np.sqrt(np.diag(C)) - np.sqrt(np.diag(other))).max()
        ratios.append(distance / marginal_bound(delta, np.sqrt(2 / np.pi * np.diag(E @ other @ E))[None]))
    shift = np.abs(C @ np.ones(40)).max() / marginal_bound(delta, np.ones((1, 40)))
    return [
        ("largest W1 over its bound, 200 perturbations", f"{max(ratios):.3f}", "<= 1", max(ratios) <= 1),
        ("W1 over its bound of a uniform shift (a smaller delta fails)", f"{shift:.6f}", "1", abs(shift - 1) < 1e-9),
    ]


def blur(n: int, width: float, reach: int) -> csr_array:
    """Gaussian blur along an axis, with rows of sum 1."""
    offsets = np.arange(-reach, reach + 1)
    A = csr_array(diags_array(np.exp(-0.5 * (offsets / width) ** 2), offsets=offsets, shape=(n, n)))
    return csr_array(diags_array(1 / A.sum(axis=1)) @ A)


def signal(n: int) -> np.ndarray:
    """Wave with steps."""
    return np.sin(2 * np.pi * np.arange(n) / 40) + 0.5 * np.sign(np.sin(2 * np.pi * np.arange(n) / 60))


def posterior_error(H: np.ndarray, P: np.ndarray, g: np.ndarray) -> float:
    """Largest error of a marginal mean or deviation of the reduced posterior, in deviations of the posterior."""
    exact, reduced = np.linalg.inv(np.eye(len(H)) + H), np.linalg.inv(np.eye(len(H)) + P @ H @ P)
    std = np.sqrt(np.diag(exact))
    return float(
        max(np.abs(reduced @ P @ g - exact @ g).max() / std.min(), np.abs(np.sqrt(np.diag(reduced)) / std - 1).max())
    )


def subspaces() -> list[Row]:
    """Deconvolution and deblurring: bound over error; error of marginals by rank, local and global; cost by size."""
    rows: list[Row] = []
    rng = np.random.default_rng(0)
    problems = {
        "1-D deconvolution, d = 128": (
            DependencyGraph.chain(128),
            csr_array(blur(128, 2.5, 8)[::3]),
            np.arange(128) // 8,
        ),
        "2-D deblurring, 16 x 16": (
            DependencyGraph.grid((16, 16)),
            csr_array(kron(blur(16, 1.0, 2), blur(16, 1.0, 2))),
            None,
        ),
    }
    for name, (graph, A, blocks) in problems.items():
        n, std = len(graph), 0.05
        labels = coarsen(graph, 4).label if blocks is None else blocks
        y = A @ (signal(n) if blocks is not None else rng.normal(size=n)) + std * rng.normal(size=A.shape[0])
        misfit = linear_inverse(diags_array(np.ones(n)), A, y, std).factors[-1]
        states = np.sqrt(n) * np.concatenate([np.eye(n), -np.eye(n)])
        H, g = (A.T @ A).toarray() / std**2, A.T @ y / std**2
        worst, text = 0.0, []
        for tol in (100.0, 1.0, 0.01):
            found = localized_subspace(None, [misfit], graph, tol, blocks=labels, reference=states)
            worst = max(worst, found.bound.max() / found.error.max())
            rank = int(found.ranks.sum())
            values, vectors = np.linalg.eigh(np.outer(g, g) + 2 * H @ H)
            V = vectors[:, np.argsort(values)[::-1][:rank]]
            local = posterior_error(H, found.projector.toarray(), g)
            text.append(f"rank {rank}: {local:.3f}, {posterior_error(H, V @ V.T, g):.3f}")
        bar = "<= 1.05" if blocks is not None else ""
        rows.append((f"{name}: largest bound over error", f"{worst:.3f}", bar, worst <= 1.05))
        rows.append((f"{name}: error of marginals, local, global", "; ".join(text), "", True))
    seconds = {True: [], False: []}
    for n in (128, 512, 2048):
        A = csr_array(blur(n, 2.5, 8)[::3])
        misfit = linear_inverse(diags_array(np.ones(n)), A, np.zeros(A.shape[0]), 0.05).factors[-1]
        for local, times in seconds.items():
            if local or n <= 512:
                blocks = np.arange(n) // 8 if local else np.zeros(n, dtype=int)
                begin = time.process_time()
                localized_subspace(None, [misfit], DependencyGraph.chain(n), 1.0, blocks=blocks, reference=20)
                times.append((time.process_time() - begin) / n * 1e3)
    ratio = seconds[True][-1] / seconds[True][0]
    text = "; ".join(", ".join(f"{s:.2f}" for s in times) for times in seconds.values())
    rows.append(("ms a vertex, d = 128, 512, 2048; global to 512", text, "local linear", ratio < 1.3))
    return rows


PARTS: dict[str, Callable[[], list[Row]]] = {
    "acceptance": acceptance,
    "effective_samples": effective_samples,
    "lattice": lattice,
    "bridge": bridge,
    "descent": descent,
    "implicit": implicit,
    "double_well": double_well,
    "locality": locality,
    "subspaces": subspaces,
}


def main(names: Sequence[str]) -> None:
    """Print the rows of some parts, by default of all."""
    for name in names or PARTS:
        begin = time.process_time()
        rows = PARTS[name]()
        cells = [
            [what, found, bar, "" if not bar else "pass" if holds else "short"] for what, found, bar, holds in rows
        ]
        show(name, ["", "found", "bar", ""], cells, f"{time.process_time() - begin:.0f} s of CPU\n")


if __name__ == "__main__":
    main(sys.argv[1:])
