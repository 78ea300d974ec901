"""Gravel: the demo's network against its Gaussian, on patches of the photograph that neither has seen.

The loss is the demo's, its standard error over blocks of eight neighbouring patches. AUC is that of quality.py: 64
generated patches against the 64 unseen ones, all 36 windows of each, mean of several draws; beside it, patches that
were learnt from against the unseen ones. Drawn values are rounded to grey levels from 0 to 255, as the photograph's
are: else the classifier needs to look at nothing but whole numbers, which tell any model from a photograph (column
"unrounded").

Stones are connected regions brighter than 60 or 75 % of the photograph, of 8 pixels or more; the second table has the
quartiles of their sizes in fields of 128 x 128 pixels, of the photograph and as drawn by the network alone and in two
scales (`Hybrid(scales=2)`). Solidity is the mean over stones of 60 pixels or more of their share of their convex hull,
each counted by its pixels: of whole stones it is high, of what runs together low.

`python -m benchmarks.gravel [--seeds 0 1 2]`
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.ndimage import label
from scipy.spatial import ConvexHull

from benchmarks.quality import classifier_area
from benchmarks.table import show, verdict
from nearfield.datasets import gravel
from nearfield.demo.gravel import LARGE, RADIUS, RECIPE, compare, cut_patches, losses, models, regions
from nearfield.estimator import LocalizedDiffusion
from nearfield.methods import Hybrid

if TYPE_CHECKING:
    import xarray as xr
    from jaxtyping import Float, Int

    Patches = Float[np.ndarray, "patch row column"]

DRAWS = 5
WINDOWS = 36
"""Windows of 5 x 5 in a patch: all that do not overlap."""
STANDARD_ERRORS = 5.0
"""By how many the network's loss must be below the Gaussian's."""
LOWER = 0.1
"""By how much its AUC must be."""
BRIGHT = (0.6, 0.75)
"""Shares of the photograph that are darker than stones."""
TWO = "two scales"
LEAST, WHOLE = 8, 60
"""Fewest pixels of a stone, and of one whose shape counts."""
FIELDS = 12
"""Large fields that are drawn."""


def area(side: Patches, unseen: Patches, seed: int) -> float:
    """AUC of one side against the unseen patches."""
    return classifier_area(side, unseen, WINDOWS, np.random.default_rng(seed))


def grey(values: Patches) -> Patches:
    """Round to what a picture can hold."""
    return np.rint(values).clip(0, 255)


def stones(fields: Patches, grey_level: float) -> list[Int[np.ndarray, "pixel 2"]]:
    """Places of the pixels of each stone."""
    found = []
    for field in fields:
        number, _ = label(field > grey_level)
        sizes = np.bincount(number.ravel())
        found += [np.argwhere(number == k) for k in np.flatnonzero(sizes >= LEAST) if k]
    return found


def solidity(places: list[Int[np.ndarray, "pixel 2"]]) -> float:
    """Share of their convex hulls that large stones fill, each counted by its pixels."""
    corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    large = [stone for stone in places if len(stone) >= WHOLE]
    hulls = [ConvexHull((stone[:, None] + corners).reshape(-1, 2)).volume for stone in large]
    sizes = np.array([len(stone) for stone in large])
    return float((sizes**2 / hulls).sum() / sizes.sum())


def stones_row(name: str, fields: Patches, seconds: str = "") -> list[str]:
    """Quartiles of the sizes at both grey levels, stones in a field, solidity at the first."""
    picture = gravel().to_numpy()
    both = [stones(fields, np.quantile(picture, share)) for share in BRIGHT]
    quartiles = [" ".join(f"{q:.0f}" for q in np.quantile([len(s) for s in part], [0.25, 0.5, 0.75])) for part in both]
    counts = [f"{len(part) / len(fields):.0f}" for part in both]
    return [name, quartiles[0], counts[0], quartiles[1], counts[1], f"{solidity(both[0]):.3f}", seconds]


def of_photograph() -> list[str]:
    """Return the row of the photograph."""
    down, right = (length // LARGE for length in gravel().shape)
    tiles = gravel().to_numpy().reshape(down, LARGE, right, LARGE).swapaxes(1, 2).reshape(-1, LARGE, LARGE)
    return stones_row("photograph", tiles)


def fitted(seed: int, train: xr.DataArray) -> dict[str, tuple[LocalizedDiffusion, float]]:
    """Fit both models of the demo, and the network in two scales; with the CPU seconds of each fit."""
    in_two = Hybrid(radius=RADIUS, pooling=1.0, recipe=replace(RECIPE, seed=seed), scales=2)
    made = models(seed) | {TWO: LocalizedDiffusion(method=in_two, random_state=seed)}
    result = {}
    for name, model in made.items():
        start = time.process_time()
        result[name] = model.fit(train, sample_dim="patch"), time.process_time() - start
    return result


def one_seed(seed: int) -> tuple[list[list[str]], list[list[str]]]:
    """Fit the models and measure them; the rows of both tables."""
    train, unseen = (cut_patches(region) for region in regions(gravel()))
    real, size = unseen.to_numpy(), len(unseen)
    rng = np.random.default_rng(seed)
    learnt = [area(train.to_numpy()[rng.choice(len(train), size, replace=False)], real, k) for k in range(DRAWS)]
    rows = {
        "": [
            f"learnt patches, seed {seed}",
            "",
            "",
            "",
            f"{np.mean(learnt):.3f} +- {np.std(learnt, ddof=1):.3f}",
            "",
            "",
        ]
    }
    loss, means, large = {}, {}, []
    for name, (model, seconds) in fitted(seed, train).items():
        if name != TWO:  # which has no score of the whole patch
            loss[name] = losses(model, unseen, seed)
        drawn = [model.sample(size, random_state=1000 * seed + k).to_numpy() for k in range(DRAWS)]
        areas = [area(grey(values), real, k) for k, values in enumerate(drawn)]
        means[name] = float(np.mean(areas))
        cells = [f"{loss[name].mean():.4f}" if name in loss else "", f"{seconds:.0f}"]
        cells += [f"{means[name]:.3f} +- {np.std(areas, ddof=1):.3f}", f"{area(drawn[0], real, 0):.3f}"]
        rows[name] = [f"{name}, seed {seed}", cells[0], "", *cells[1:], ""]
        start = time.process_time()
        fields = grey(model.extend((LARGE, LARGE)).sample(FIELDS, random_state=seed).to_numpy())
        large.append(stones_row(f"{name}, seed {seed}", fields, f"{time.process_time() - start:.0f}"))
    _, mean = compare(loss["Gaussian"], loss["hybrid"])
    below, lower = (mean.gaussian - mean.hybrid) / mean.error, means["Gaussian"] - means["hybrid"]
    rows["hybrid"][2] = f"{below:.1f}"
    rows["hybrid"][-1] = verdict((STANDARD_ERRORS, below), (LOWER, lower))
    return list(rows.values()), large


def main() -> None:
    """Measure each seed and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    patches, large = zip(*map(one_seed, seeds), strict=True)
    show(
        "Gravel: 176 patches learnt, 64 unseen",
        ["model", "loss", "errors below", "CPU s", "AUC", "unrounded", "verdict"],
        [row for rows in patches for row in rows],
        f"loss: mean over nine noise levels. errors below: standard errors by which it is below the Gaussian's; bar "
        f"{STANDARD_ERRORS:g}.\nAUC: +- the spread over {DRAWS} draws; the network's must be {LOWER:g} below the "
        "Gaussian's. CPU s: the fit, one thread.",
    )
    show(
        f"\nStones of {FIELDS} fields of {LARGE} x {LARGE}: quartiles of their pixels, and their number in a field",
        ["fields", "above 60 %", "number", "above 75 %", "number", "solidity", "CPU s"],
        [of_photograph(), *(row for rows in large for row in rows)],
        "CPU s: all draws, one thread.",
    )


if __name__ == "__main__":
    main()
