"""Deblurring a picture of 128 x 128 pixels with its uncertainty, and a diffusion model of its posterior.

Under a Gaussian prior the posterior of a blurred picture is Gaussian, and with mirrored borders the cosine transform
diagonalises it: mean and deviation of each pixel are known exactly. Markov chains that move boxes of pixels are held
against them. Then draws of a posterior without a closed form, that of counts, train a model of it, which draws more of
them at a small part of the cost. Some 40 seconds. From the repository's root:

    python examples/12_deblurring.py [picture.png]
"""

from __future__ import annotations

import sys
import time

import numpy as np
from matplotlib.figure import Figure
from scipy.fft import dctn, idctn
from scipy.sparse import csgraph, csr_array, eye_array, kron

import nearfield as nf
from nearfield.graph.coarsening import coarsen
from nearfield.posterior import MALAWithinGibbs
from nearfield.posterior.law import linear_inverse, poisson_observations

picture = sys.argv[1] if len(sys.argv) > 1 else "deblurring.png"
n, noise_std, weight = 128, 0.05, 40.0


def rms(x: np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(x))))


# 1. A picture, and what a camera out of focus makes of it. A pixel is a mean of 5 x 5, mirrored at borders.
north, east = np.mgrid[:n, :n]
truth = 0.2 + 0.3 * (east > 80) * (north > 72)
truth[np.hypot(north - 44, east - 48) < 26] = 0.9
truth[16:104, 100:108] = 1.0
line = csr_array(np.eye(n) * 0.5 + 0.25 * (np.eye(n, k=1) + np.eye(n, k=-1)))
line[[0, -1], [0, -1]] = 0.75
line = line @ line
blur = csr_array(kron(line, line))
data = blur @ truth.ravel() + noise_std * np.random.default_rng(0).normal(size=n * n)

# 2. Prior: differences of neighbours are Gaussian. Chains move boxes of 4 x 4 pixels.
graph = nf.DependencyGraph.grid((n, n))
laplacian = csgraph.laplacian(csr_array(graph.adjacency, dtype=float))
precision = csr_array(weight * (laplacian + 0.02 * eye_array(n * n)))
law = linear_inverse(precision, blur, data, noise_std, mean=0.4, blocks=coarsen(graph, 4).label)
start = time.process_time()
draws = MALAWithinGibbs(step_size=1e-3).sample(law, 250, chains=3, burn_in=100, seed=1, start=data)
seconds = time.process_time() - start
mean, std = draws.values.mean((0, 1)), draws.values.std((0, 1))
print(f"{len(law.parts)} colours, {draws.acceptance.mean():.2f} accepted, {seconds:.0f} seconds of CPU")

# 3. The exact posterior: blur and prior are diagonal in cosines.
cosine = 2 - 2 * np.cos(np.pi * np.arange(n) / n)
gain = np.outer(1 - cosine / 4, 1 - cosine / 4) ** 2
spectrum = weight * (np.add.outer(cosine, cosine) + 0.02) + gain**2 / noise_std**2
pull = gain * dctn(data.reshape(n, n), norm="ortho") / noise_std**2
pull += weight * 0.02 * dctn(np.full((n, n), 0.4), norm="ortho")
exact_mean = idctn(pull / spectrum, norm="ortho").ravel()
modes = idctn(np.eye(n), axes=[0], norm="ortho") ** 2
exact_std = np.sqrt(modes @ (1 / spectrum) @ modes.T).ravel()
off, ratio = mean - exact_mean, std / exact_std
standard_error = draws.values.mean(1).std(0, ddof=1) / np.sqrt(3)
print(f"mean: {rms(off):.4f} off the exact one, standard error of the chains {rms(standard_error):.4f}")
print(f"deviation over the exact one: {ratio.mean():.3f}, of pixels between {ratio.min():.2f} and {ratio.max():.2f}")
covered = np.mean(np.abs(truth.ravel() - exact_mean) < 2 * exact_std)
print(f"within two exact deviations of the exact mean: {covered:.1%} of the picture's pixels")

# 4. A posterior without a closed form: log-rates of counts on 12 x 12 cells. 500 draws of the chains train a model.
cells = nf.DependencyGraph.grid((12, 12))
prior = csr_array(2 * (csgraph.laplacian(csr_array(cells.adjacency, dtype=float)) + 0.2 * eye_array(144)))
rate = np.exp(1 + np.sin(np.arange(12) / 2)[:, None] * np.cos(np.arange(12) / 3)).ravel()
counts = poisson_observations(prior, np.arange(144), np.random.default_rng(1).poisson(rate), mean=1.0, blocks=3)
start = time.process_time()
kept = MALAWithinGibbs().sample(counts, 50, chains=10, burn_in=200, thin=10, seed=2, start=np.full(144, 1.0))
chains = time.process_time() - start
long = MALAWithinGibbs().sample(counts, 200, chains=40, burn_in=200, thin=5, seed=3, start=np.full(144, 1.0)).values
x = kept.values.reshape(500, 12, 12, 1)
start = time.process_time()
model = nf.LocalizedDiffusion(method="gaussian", marginal="quantile", random_state=0).fit(x)
fit = time.process_time() - start
start = time.process_time()
more = model.sample(100_000, random_state=1).reshape(100_000, 144)
print(
    f"500 draws of the chains {chains:.0f} s, fit {fit:.0f} s, 100,000 draws {time.process_time() - start:.0f} s of CPU"
)
reference = long.reshape(-1, 144)
center, scale = reference.mean(0), reference.std(0)
for name, y in (("500 draws", x.reshape(500, 144)), ("100,000 draws", more)):
    shift, spread = rms((y.mean(0) - center) / scale), rms(y.std(0) / scale - 1)
    print(f"{name} against 8,000 of longer chains: means {shift:.3f} deviations off, deviations {spread:.1%} off")

# 5. One picture.
figure = Figure(figsize=(12.5, 6), dpi=80, layout="constrained")
axes = figure.subplots(2, 4)
maps = {"picture": truth, "blurred, with noise": data, "exact mean": exact_mean, "mean of the chains": mean}
for ax, (title, values) in zip(axes[0], maps.items(), strict=True):
    shown = ax.imshow(np.reshape(values, (n, n)), cmap="gray", vmin=0, vmax=1)
    ax.set(title=title, xticks=[], yticks=[])
figure.colorbar(shown, ax=axes[0])
left, middle, right, last = axes[1]
left.plot(exact_mean, mean, ".", ms=1, alpha=0.3)
left.axline((0, 0), slope=1, color="k", lw=0.8)
left.set(title="mean of each pixel", xlabel="exact", ylabel="chains")
middle.hist(ratio, bins=60)
middle.axvline(1, color="k", lw=0.8)
middle.set(title="deviation over the exact one")
right.plot(center, more.mean(0), ".", label="mean")
right.plot(scale, more.std(0), ".", label="deviation")
right.axline((0, 0), slope=1, color="k", lw=0.8)
right.set(title="log-rates of counts", xlabel="8,000 draws of long chains", ylabel="100,000 of the model")
right.legend(frameon=False)
grid = np.linspace(-3.5, 3.5, 71)
for name, y in (("chains", reference), ("model", more)):
    last.hist(((y - center) / scale).ravel(), bins=grid, density=True, histtype="step", label=name)
last.set(title="all log-rates, standardised")
last.legend(frameon=False)
figure.savefig(picture)
print(f"Look at {picture}")
