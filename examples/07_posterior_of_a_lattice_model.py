"""A density in place of samples: deblurring a picture, with its uncertainty, under two priors.

The posterior of a blurred picture is a product of factors of a few pixels. With a Gaussian prior its mean and deviation
are known exactly, and measure the Markov chains; with a total-variation prior, which keeps edges, there are only the
chains. Then the same chains on ever longer lattice models. Some 25 seconds. From the repository's root:

    python examples/07_posterior_of_a_lattice_model.py [picture.png]
"""

from __future__ import annotations

import sys
import time

import numpy as np
from matplotlib.figure import Figure
from scipy.sparse import csgraph, csr_array, diags_array, eye_array, kron

import nearfield as nf
from nearfield.graph.coarsening import coarsen
from nearfield.posterior import MALAWithinGibbs
from nearfield.posterior.law import linear_inverse, phi4, total_variation

picture = sys.argv[1] if len(sys.argv) > 1 else "posterior.png"
n, noise_std = 64, 0.07


def rms(x: np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(x))))


# 1. A picture, and what a camera out of focus makes of it: y = A x + noise. A reads 5 x 5 pixels.
north, east = np.mgrid[:n, :n]
truth = 0.2 + 0.3 * (east > 40) * (north > 36)
truth[np.hypot(north - 22, east - 24) < 13] = 0.9
truth[8:52, 50:54] = 1.0
one_axis = diags_array([0.15, 0.22, 0.26, 0.22, 0.15], offsets=[-2, -1, 0, 1, 2], shape=(n, n))
blur = csr_array(kron(one_axis, one_axis))
data = blur @ truth.ravel() + noise_std * np.random.default_rng(0).normal(size=n * n)

# 2. Two posteriors on the graph of the pixels that a factor reads together. Chains move boxes of 4 x 4 pixels.
graph = nf.DependencyGraph.grid((n, n))
boxes = coarsen(graph, 4).label
laplacian = csgraph.laplacian(csr_array(graph.adjacency, dtype=float))
precision = csr_array(20 * (laplacian + 0.02 * eye_array(n * n)))
laws = {
    "Gaussian": linear_inverse(precision, blur, data, noise_std, mean=0.4, blocks=boxes),
    "total variation": total_variation(graph, 10.0, 0.1, blur, data, noise_std, blocks=boxes),
}

# 3. The exact posterior under the Gaussian prior, by dense linear algebra: what the chains are held against.
covariance = np.linalg.inv((precision + blur.T @ blur / noise_std**2).toarray())
exact_mean = covariance @ (precision @ np.full(n * n, 0.4) + blur.T @ data / noise_std**2)
exact_std = np.sqrt(covariance.diagonal())

# 4. Four chains each. Adaptation ends with the burn-in. The spread of the chains' means tells the error of their mean.
mean, std = {}, {}
for name, law in laws.items():
    start = time.process_time()
    draws = MALAWithinGibbs(step_size=1e-3).sample(law, 150, chains=4, burn_in=150, thin=2, seed=1)
    seconds = time.process_time() - start
    mean[name], std[name] = draws.values.mean((0, 1)), draws.values.std((0, 1))
    standard_error = draws.values.mean(1).std(0, ddof=1) / 2
    print(f"{name}: {len(law.parts)} colours, {draws.acceptance.mean():.2f} accepted, {seconds:.0f} seconds of CPU")
    off, error = rms(mean[name] - truth.ravel()), rms(standard_error)
    print(f"  mean: {off:.3f} off the picture, standard error of the chains {error:.3f}")
off = mean["Gaussian"] - exact_mean
ratio = np.mean(std["Gaussian"] / exact_std)
print(f"Gaussian: mean off the exact one by {rms(off):.3f}, deviation {ratio:.3f} of the exact one")
print(f"blurred data: {rms(data - truth.ravel()):.3f} off the picture")

# 5. Acceptance on chains of the phi^4 model, at one step size: block by block and of the whole field at once.
sizes = [16, 64, 256, 1024, 4096]
sampler = MALAWithinGibbs(step_size=0.05, target_acceptance=None)
acceptance = {"blocks of 4": [], "whole field": []}
for d in sizes:
    for name, blocks in (("blocks of 4", np.arange(d) // 4), ("whole field", np.zeros(d, dtype=int))):
        law = phi4(nf.DependencyGraph.chain(d), boundary="zero", blocks=blocks)
        first = None if name == "blocks of 4" else last
        draws = sampler.sample(law, 30, chains=20, burn_in=20 if first is None else 0, start=first)
        last = draws.values[:, -1]
        acceptance[name].append(draws.acceptance.mean())
    shares = [f"{acceptance[name][-1]:.3f} ({name})" for name in acceptance]
    print(f"{d:4} vertices: accepted {', '.join(shares)}")

# 6. One picture.
figure = Figure(figsize=(12.5, 6), dpi=80, layout="constrained")
axes = figure.subplots(2, 4)
maps = {
    "picture": truth,
    "blurred, with noise": data,
    "Gaussian prior: mean": mean["Gaussian"],
    "total variation: mean": mean["total variation"],
}
for ax, (title, values) in zip(axes[0], maps.items(), strict=True):
    shown = ax.imshow(values.reshape(n, n), cmap="gray", vmin=0, vmax=1)
    ax.set(title=title, xticks=[], yticks=[])
figure.colorbar(shown, ax=axes[0])
for ax, name in zip(axes[1, 2:], laws, strict=True):
    deviation = ax.imshow(std[name].reshape(n, n), vmin=0, vmax=0.13)
    ax.set(title=f"{name}: deviation", xticks=[], yticks=[])
figure.colorbar(deviation, ax=axes[1, 2:])
left, right = axes[1, :2]
left.plot(exact_mean, mean["Gaussian"], ".", ms=2, alpha=0.3)
left.axline((0, 0), slope=1, color="k", lw=0.8)
left.set(title="Gaussian prior: mean of each pixel", xlabel="exact", ylabel="chains")
for (name, values), marker in zip(acceptance.items(), "os", strict=True):
    right.semilogx(sizes, values, f"{marker}-", label=name)
right.set(title="acceptance at one step size", xlabel="vertices", ylim=(0, 1.02))
right.legend(frameon=False)
figure.savefig(picture)
print(f"Look at {picture}")
