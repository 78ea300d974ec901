"""Choosing a method: where a Gaussian field is enough, where a network is better, and what "auto" makes of both.

Two chains of known law: one Gaussian, one that sits in either of two wells. The exact denoiser is known, so that each
method is measured by how far it is from it. Some 40 seconds. From the repository's root:

    python examples/06_choosing_a_method.py [picture.png]
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch
from matplotlib.figure import Figure

import nearfield as nf
from nearfield.datasets import AutoregressiveChain, DoubleWellChain
from nearfield.evaluation import fit_plot
from nearfield.fitting.recipe import Recipe
from nearfield.theory.excess import ExcessReference

picture = sys.argv[1] if len(sys.argv) > 1 else "choosing_a_method.png"

# 1. Two laws of 32 vertices. Both are taken in units of mean 0 and deviation 1, which is what marginal="none" expects
#    and what the exact denoisers speak.
laws = {"Gaussian chain": AutoregressiveChain(0.8, 32), "two wells": DoubleWellChain(h=2.0, J=3.0, length=32)}

# 2. Fit each method to 200 samples. 500 steps keep this short; without a recipe training takes about half a minute.
recipe = Recipe(steps=500)
models, draws = {}, {}
for name, law in laws.items():
    train, fresh = (law.standardize(law.sample(n, random_state=seed)) for seed, n in enumerate((200, 500)))
    exact = ExcessReference.prepare(law.denoise, fresh)
    known = ExcessReference.prepare(lambda *_, clean=fresh: clean, fresh)  # the loss counts from the clean samples
    best, many = known.excess(law.denoise).value, law.standardize(law.sample(20_000, random_state=2))
    print(f"\n{name:16}{'loss':9}{'above the exact one':22}{'variance':10}{'near 0':9}seconds of CPU")
    draws[name, "known law"] = many
    print(f"{'known law':16}{best:<9.4f}{'0':22}{many.var():<10.3f}{np.mean(np.abs(many) < 0.5):.3f}")
    for method in ("gaussian", "hybrid", "auto"):
        start = time.process_time()
        options = {} if method == "gaussian" else {"recipe": recipe}
        model = nf.LocalizedDiffusion(method=method, marginal="none", random_state=0, **options).fit(train[..., 0])
        new = model.sample(1000, random_state=0)
        seconds = time.process_time() - start

        # 3. Denoise fresh samples at six noise levels: the held-out loss, and its excess over the exact denoiser's.
        def denoise(x: np.ndarray, t: float, model: nf.LocalizedDiffusion = model) -> np.ndarray:
            """Denoise noised samples with the model."""
            with torch.no_grad():
                return model.score_.denoise(torch.as_tensor(x, dtype=torch.float32), t).numpy()

        loss, excess = known.excess(denoise).value, exact.excess(denoise)
        above = f"{excess.value:.5f} +- {excess.error:.5f}"
        print(f"{method:16}{loss:<9.4f}{above:22}{new.var():<10.3f}{np.mean(np.abs(new) < 0.5):<9.3f}{seconds:.0f}")
        models[name, method], draws[name, method] = model, new

# 4. What "auto" says of its choice.
for name in laws:
    print(f"\n{name}: {models[name, 'auto'].fit_report_.reason}")

# 5. The values of the chain with two wells, and where "auto" lets the network serve.
figure = Figure(figsize=(9, 3.8), dpi=80, layout="constrained")
left, right = figure.subplots(1, 2)
bins = np.linspace(-2.5, 2.5, 61)
left.hist(draws["two wells", "known law"].ravel(), bins, density=True, color="0.8", label="known law")
for method, style in (("gaussian", "C1--"), ("hybrid", "C2"), ("auto", "C0")):
    density = np.histogram(draws["two wells", method], bins, density=True)[0]
    left.plot((bins[1:] + bins[:-1]) / 2, density, style, label=method)
left.set(title="Values, two wells", xlabel="value, deviations", ylabel="density", ylim=(0, 1.05))
left.legend(fontsize="small", frameon=False, ncols=2)
fit_plot.levels(models["two wells", "auto"].fit_report_.levels, right).margins(y=0.25)
right.set_title('"auto", two wells')
figure.savefig(picture)
print(f"Look at {picture}")
