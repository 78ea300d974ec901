"""Gravel: the demo's network against its Gaussian, on patches of the photograph that neither has seen.

The loss is the demo's, its standard error over blocks of eight neighbouring patches. AUC is that of quality.py: 64
generated patches against the 64 unseen ones, all 36 windows of each, mean of several draws; beside it, patches that
were learnt from against the unseen ones. Drawn values are rounded to grey levels from 0 to 255, as the photograph's
are: else the classifier needs to look at nothing but whole numbers, which tell any model from a photograph (column
"unrounded").

`python -m benchmarks.gravel [--seeds 0 1 2]`
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks.quality import classifier_area
from benchmarks.table import show, verdict
from nearfield.datasets import gravel
from nearfield.demo.gravel import compare, cut_patches, losses, models, regions

if TYPE_CHECKING:
    from jaxtyping import Float

    Patches = Float[np.ndarray, "patch row column"]

DRAWS = 5
WINDOWS = 36
"""Windows of 5 x 5 in a patch: all that do not overlap."""
STANDARD_ERRORS = 5.0
"""By how many the network's loss must be below the Gaussian's."""
LOWER = 0.1
"""By how much its AUC must be."""


def area(side: Patches, unseen: Patches, seed: int) -> float:
    """AUC of one side against the unseen patches."""
    return classifier_area(side, unseen, WINDOWS, np.random.default_rng(seed))


def grey(values: Patches) -> Patches:
    """Round to what a picture can hold."""
    return np.rint(values).clip(0, 255)


def one_seed(seed: int) -> list[list[str]]:
    """Fit both models and measure them; the rows of the table."""
    train, unseen = (cut_patches(region) for region in regions(gravel()))
    real, size = unseen.to_numpy(), len(unseen)
    rng = np.random.default_rng(seed)
    learnt = [area(train.to_numpy()[rng.choice(len(train), size, replace=False)], real, k) for k in range(DRAWS)]
    rows = [
        [f"learnt patches, seed {seed}", "", "", "", f"{np.mean(learnt):.3f} +- {np.std(learnt, ddof=1):.3f}", "", ""]
    ]
    loss, means = {}, {}
    for name, model in models(seed).items():
        start = time.process_time()
        model.fit(train, sample_dim="patch")
        seconds = time.process_time() - start
        loss[name] = losses(model, unseen, seed)
        drawn = [model.sample(size, random_state=1000 * seed + k).to_numpy() for k in range(DRAWS)]
        areas = [area(grey(values), real, k) for k, values in enumerate(drawn)]
        means[name] = float(np.mean(areas))
        cells = [f"{loss[name].mean():.4f}", f"{seconds:.0f}", f"{means[name]:.3f} +- {np.std(areas, ddof=1):.3f}"]
        rows.append([f"{name}, seed {seed}", cells[0], "", cells[1], cells[2], f"{area(drawn[0], real, 0):.3f}", ""])
    _, mean = compare(loss["Gaussian"], loss["hybrid"])
    below, lower = (mean.gaussian - mean.hybrid) / mean.error, means["Gaussian"] - means["hybrid"]
    rows[-1][2] = f"{below:.1f}"
    rows[-1][-1] = verdict((STANDARD_ERRORS, below), (LOWER, lower))
    return rows


def main() -> None:
    """Measure each seed and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    show(
        "Gravel: 176 patches learnt, 64 unseen",
        ["model", "loss", "errors below", "CPU s", "AUC", "unrounded", "verdict"],
        [row for seed in seeds for row in one_seed(seed)],
        f"loss: mean over nine noise levels. errors below: standard errors by which it is below the Gaussian's; bar "
        f"{STANDARD_ERRORS:g}.\nAUC: +- the spread over {DRAWS} draws; the network's must be {LOWER:g} below the "
        "Gaussian's. CPU s: the fit, one thread.",
    )


if __name__ == "__main__":
    main()
