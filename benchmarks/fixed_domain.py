r"""A field on a fixed domain, seen on finer and finer grids: what a network must be shown to keep up.

:math:`x = e^{g/2}` with g a Matern 3/2 field on [0, 1], of variance 1 and range .2, at d places; 100 samples. The
excess is :math:`\ln 2 \sum_\sigma E|D - D^*|^2/\sigma^2` over :math:`\sigma = 2^{-5}, \dots, 2^6`, total, in nats, in
standardised units, over fresh samples. :math:`D^*` has no closed form. It is taken from the best Gaussian approximation
(by the Kullback-Leibler divergence) of the law of g given the noised x, which the law itself determines: g and its
derivative are a Markov chain, so that each iteration is one pass of Kalman's smoother. Were it exact, the same sum with
clean states in its place, less the reference's own, would have the same mean: column "by loss", which is noisier.

The local scale of the data varies, which no Gaussian knows: at weak noise that shows the more, the finer the grid.
Column "same noise" therefore starts at :math:`\sigma = 2^{-5} \sqrt{d/256}`, the same noise on the domain for all.

`python -m benchmarks.fixed_domain [--d 256 1024 4096] [--steps N] [--seed 0]`
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING
from unittest.mock import patch

import numpy as np
import torch

from benchmarks.table import show
from nearfield.fitting.context import Locality
from nearfield.fitting.neural import Design, NetworkFit, default_recipe, fit_network
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.recipe import Recipe
from nearfield.fitting.selection import select_field
from nearfield.graph import DependencyGraph
from nearfield.process import time_of
from nearfield.samples import Samples

if TYPE_CHECKING:
    from jaxtyping import Float

RANGE = 0.2
SHARE = 0.5
"""The data are exp(SHARE g)."""
SIGMAS = 2.0 ** np.arange(-5, 7)
N_SAMPLES, FRESH = 100, 16
ITERATIONS = 40
COARSEST = 256
MEAN, SCALE = math.exp(SHARE**2 / 2), math.sqrt(math.exp(2 * SHARE**2) - math.exp(SHARE**2))
STRONG, FARTHEST = 4.0, 5.0
"""Squared noise from which the iteration starts, and the largest |g| in it."""

Moments = tuple[np.ndarray, np.ndarray]


def transition(step: float) -> tuple[np.ndarray, np.ndarray]:
    """Matrix and noise of g and its derivative over a step, of stationary covariance diag(1, rate^2)."""
    rate = math.sqrt(3) / RANGE
    forward = math.exp(-rate * step) * np.array([[1 + rate * step, step], [-(rate**2) * step, 1 - rate * step]])
    stationary = np.diag([1.0, rate**2])
    return forward, stationary - forward @ stationary @ forward.T


def draw(n: int, d: int, seed: int) -> Float[np.ndarray, "sample place"]:
    """Draws of g."""
    rng, (forward, noise) = np.random.default_rng(seed), transition(1 / d)
    root = np.linalg.cholesky(noise)
    state = rng.normal(size=(n, 2)) * [1.0, math.sqrt(3) / RANGE]
    g = np.empty((n, d))
    for k in range(d):
        g[:, k] = state[:, 0]
        state = state @ forward.T + rng.normal(size=(n, 2)) @ root.T
    return g


def smooth(seen: np.ndarray, precision: np.ndarray) -> Moments:
    """Mean and variance of g at all places, given g with noise of a precision at each; (case, place) each."""
    (n, d), (forward, noise) = seen.shape, transition(1 / seen.shape[1])
    mean, covariance = np.zeros((n, 2)), np.broadcast_to(np.diag([1.0, 3 / RANGE**2]), (n, 2, 2))
    means, covariances = np.empty((d, n, 2)), np.empty((d, n, 2, 2))
    for k in range(d):
        if k:
            mean, covariance = mean @ forward.T, forward @ covariance @ forward.T + noise
        gain = covariance[:, :, 0] / (1 / precision[:, k] + covariance[:, 0, 0])[:, None]
        mean = mean + gain * (seen[:, k] - mean[:, 0])[:, None]
        covariance = covariance - gain[:, :, None] * covariance[:, None, 0]
        means[k], covariances[k] = mean, covariance
    for k in range(d - 2, -1, -1):
        ahead = forward @ covariances[k] @ forward.T + noise
        back = np.linalg.solve(ahead, forward @ covariances[k]).swapaxes(1, 2)
        means[k] += (back @ (means[k + 1] - means[k] @ forward.T)[:, :, None])[:, :, 0]
        covariances[k] += back @ (covariances[k + 1] - ahead) @ back.swapaxes(1, 2)
    return means[:, :, 0].T, covariances[:, :, 0, 0].T


def best_denoiser(z: Float[np.ndarray, "case place"], sigma: Float[np.ndarray, " case"]) -> np.ndarray:
    """E[z_0 | z_0 + sigma noise = z], of standardised values, under the best Gaussian law of g given z."""
    seen, noise = MEAN + SCALE * z, (SCALE * sigma[:, None]) ** 2
    mean, variance = np.zeros_like(seen), np.ones_like(seen)
    slope_site, precision = np.zeros_like(seen), np.full_like(seen, 1e-12)
    for k in range(ITERATIONS):
        share = min(2 * k / ITERATIONS, 1.0)  # weak noise is approached from strong noise, where few steps suffice
        level = np.maximum(noise, STRONG) ** (1 - share) * noise**share
        one = np.exp(SHARE * mean + SHARE**2 * variance / 2)  # expectations of x and x^2
        two = np.exp(2 * SHARE * mean + 2 * SHARE**2 * variance)
        slope = SHARE * (two - seen * one) / level
        curvature = np.maximum(SHARE**2 * (2 * two - seen * one), SHARE**2 * two / 2) / level
        damping = 0.6 if k else 1.0  # of natural parameters
        slope_site = (1 - damping) * slope_site + damping * (curvature * mean - slope)
        precision = (1 - damping) * precision + damping * curvature
        mean, variance = smooth(slope_site / precision, precision)
        mean = mean.clip(-FARTHEST, FARTHEST)
    return (np.exp(SHARE * mean + SHARE**2 * variance / 2) - MEAN) / SCALE


def standardized(g: np.ndarray) -> np.ndarray:
    """Values of the data in standardised units, (sample, place)."""
    values: np.ndarray = (np.exp(SHARE * g) - MEAN) / SCALE
    return values


class Reference:
    """Noised fresh samples at all levels, and what the best denoiser makes of them."""

    def __init__(self, d: int, seed: int) -> None:
        self.clean = standardized(draw(FRESH, d, seed))
        self.noise = np.random.default_rng(seed + 1).normal(size=(len(SIGMAS), FRESH, d))
        noised = self.clean + SIGMAS[:, None, None] * self.noise
        best = best_denoiser(noised.reshape(-1, d), np.repeat(SIGMAS, FRESH))
        self.noised, self.best = noised, best.reshape(noised.shape)

    def excess(self, denoise: object) -> tuple[np.ndarray, np.ndarray]:
        """Excess and loss above that of the reference at each level, nats in all; both are means over samples."""
        found = []
        for sigma, noised, best in zip(SIGMAS, self.noised, self.best, strict=True):
            t = time_of(float(sigma))
            with torch.no_grad():
                given = denoise(torch.from_numpy(math.exp(-t) * noised)[..., None], t)[..., 0].numpy()  # type: ignore[operator]
            gap = ((given - best) ** 2).sum(axis=1)
            loss = ((given - self.clean) ** 2 - (best - self.clean) ** 2).sum(axis=1)
            found.append(math.log(2) * np.array([gap.mean(), loss.mean()]) / sigma**2)
        both = np.array(found)
        return both[:, 0], both[:, 1]


def trained(samples: Samples, locality: Locality, recipe: Recipe, *, whole: bool) -> tuple[NetworkFit, float]:
    """Train a network that is shown the whole field, or windows; the CPU seconds come second."""
    start = time.process_time()
    largest, clearly = (10**6, -math.inf) if whole else (0, 0.0)
    with (
        patch("nearfield.fitting.context.LARGEST_BASIS", largest),
        patch("nearfield.fitting.context.CLEARLY", clearly),
    ):
        fit = fit_network(samples, Design("hybrid", locality), recipe)
    return fit, time.process_time() - start


def main() -> None:
    """Measure each grid and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d", type=int, nargs="+", default=[256, 1024, 4096])
    parser.add_argument("--steps", type=int, help="of training; by default as many as the package's")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for d in asked.d:
        z = standardized(draw(N_SAMPLES, d, asked.seed))[..., None]
        samples = Samples(z, DependencyGraph.chain(d), standard=(True,))
        choice = select_field(samples, pooling=Pooling(1.0)).choice
        recipe = default_recipe(samples.graph, N_SAMPLES, seed=asked.seed)
        recipe = replace(recipe, steps=asked.steps or recipe.steps)
        reference = Reference(d, 1000 + asked.seed)
        for whole in (True, False):
            fit, seconds = trained(samples, Locality(choice.radius, choice.pooling), recipe, whole=whole)
            score = fit.score
            for name, denoise in (("alone", score.context.denoise), ("network", score.denoise)):
                gap, loss = reference.excess(denoise)
                where = " ".join(f"{each:.2f}" for each in gap)
                same = gap[SIGMAS[0] * math.sqrt(d / COARSEST) <= SIGMAS].sum()
                cells = [
                    f"{gap.sum():.2f}",
                    f"{same:.2f}",
                    f"{loss.sum():.2f}",
                    f"{seconds:.0f}" if name == "network" else "",
                    where,
                ]
                rows.append([f"d = {d}, {'whole field' if whole else 'windows'}, {name}", *cells])
                print(rows[-1], flush=True)
    show("exp(g/2), 100 samples", ["model", "excess", "same noise", "by loss", "CPU s", "by level"], rows)


if __name__ == "__main__":
    main()
