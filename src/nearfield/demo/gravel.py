r"""The demo's second panel: gravel, which no Gaussian resembles, learnt from patches of one photograph.

A Gaussian field and a network with a Gaussian's answer as input (`method="hybrid"`) are fitted to the same 176 patches
of 32 x 32 pixels from the upper part of the picture. They are compared by the denoising loss
:math:`|D(x_t, t) - x_0|^2 / s^2` on 64 patches from its foot, a patch's width away, under the same noise, and by eye:
patches beside patches, and fields of 128 x 128 pixels, larger than any that was learnt from.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure

from nearfield.datasets.embedded import gravel
from nearfield.estimator import LocalizedDiffusion
from nearfield.evaluation import plot
from nearfield.evaluation.view import ColourScale
from nearfield.fitting.matching import NoiseLevels, held_out
from nearfield.fitting.recipe import Recipe
from nearfield.graph import DependencyGraph
from nearfield.process import time_of
from nearfield.samples import standard_error

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

__all__ = ["Level", "compare", "cut_patches", "losses", "models", "regions", "run"]

PATCH = 32
TRAINED = slice(0, 352)
"""Rows of the picture that are learnt from: eleven rows of patches."""
HELD_OUT = slice(384, 512)
"""Rows that are kept for the test: four rows of patches. Between the two lies one row of patches, some stones wide."""
LARGE = 128
SIGMAS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8)
"""Noise-to-signal ratios of the comparison."""
BLOCK = 8
"""Neighbouring patches err together: standard errors are over blocks of so many in a row."""
RADIUS = 12
"""Hops read: 6 by the network, and 6 more by the Gaussian in its input. Loss and pictures are better than with a
network of 4; one of 8 costs three times as much."""
RECIPE = Recipe(
    steps=1000,
    batch_size=4,
    learning_rate=5e-3,
    ema=0.995,
    levels=NoiseLevels(),
    held_out=0.1,
    held_out_levels=8,
    patience=15,
)
SHOWN = 6
GREY = ColourScale(0.0, 255.0, "gray")


class Level(NamedTuple):
    """Held-out losses at one noise level.

    Attributes
    ----------
    sigma : float
        Noise-to-signal ratio.
    gaussian, hybrid : float
        Mean over patches and pixels.
    error : float
        Standard error of their paired difference, over blocks of neighbouring patches.
    """

    sigma: float
    gaussian: float
    hybrid: float
    error: float


def regions(picture: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """Cut the picture into the part that is learnt from and the part that is kept for the test.

    Examples
    --------
    >>> [dict(part.sizes) for part in regions(gravel())]
    [{'row': 352, 'column': 512}, {'row': 128, 'column': 512}]
    """
    return picture[TRAINED], picture[HELD_OUT]


def cut_patches(region: xr.DataArray) -> xr.DataArray:
    """Cut a region into patches that touch and do not overlap, row by row of patches.

    Examples
    --------
    >>> train, test = (cut_patches(part) for part in regions(gravel()))
    >>> train.shape, test.shape
    ((176, 32, 32), (64, 32, 32))
    """
    down, right = (length // PATCH for length in region.shape)
    cut = region.to_numpy().reshape(down, PATCH, right, PATCH).swapaxes(1, 2).reshape(-1, PATCH, PATCH)
    return xr.DataArray(cut, dims=("patch", "row", "column"), name=region.name, attrs=region.attrs)


def models(seed: int = 0, recipe: Recipe = RECIPE, verbose: bool = False) -> dict[str, LocalizedDiffusion]:
    """Make the two models that are compared, both of one law for all pixels; not fitted yet."""
    common: dict[str, Any] = {"pooling": 1.0, "random_state": seed, "verbose": verbose}
    hybrid = LocalizedDiffusion(method="hybrid", radius=RADIUS, recipe=replace(recipe, seed=seed), **common)
    return {"Gaussian": LocalizedDiffusion(method="gaussian", **common), "hybrid": hybrid}


def losses(model: LocalizedDiffusion, test: xr.DataArray, seed: int = 0) -> Float[np.ndarray, "level patch"]:
    """Denoising loss of each patch at each of the nine noise levels."""
    z = model.marginal_(model.codec_.encode(test))
    return held_out(model.score_, torch.from_numpy(z), [time_of(sigma) for sigma in SIGMAS], seed=seed)


def compare(
    gaussian: Float[np.ndarray, "level patch"], hybrid: Float[np.ndarray, "level patch"]
) -> tuple[tuple[Level, ...], Level]:
    """Compare two models at each noise level, and over all levels alike.

    Examples
    --------
    >>> loss = np.ones((9, 16))
    >>> levels, mean = compare(loss, loss - np.repeat([0.1, 0.3], 8))
    >>> round(mean.gaussian - mean.hybrid, 3), round(mean.error, 3)
    (0.2, 0.1)
    """

    def level(sigma: float, one: Float[np.ndarray, " patch"], other: Float[np.ndarray, " patch"]) -> Level:
        blocks = (one - other).reshape(-1, BLOCK).mean(axis=1)
        return Level(sigma, float(one.mean()), float(other.mean()), standard_error(blocks))

    levels = tuple(level(*row) for row in zip(SIGMAS, gaussian, hybrid, strict=True))
    return levels, level(float("nan"), gaussian.mean(axis=0), hybrid.mean(axis=0))


def run(
    out: Path, *, seed: int = 0, say: Callable[[str], None] = print, verbose: bool = False, recipe: Recipe = RECIPE
) -> dict[str, Any]:
    """Fit both models, compare them and draw patches, larger fields and the table of losses into ``gravel.png``."""
    start = time.perf_counter()
    learnt, kept = regions(gravel())
    train, test = cut_patches(learnt), cut_patches(kept)
    say(
        "\nGravel: a photograph of flat stones, sharp edges and black gaps, far from Gaussian.\n  Learning from "
        f"{len(train)} patches of {PATCH} x {PATCH} pixels; {len(test)} patches from another part of the picture are "
        "kept for the test.\n  A network is trained: some one to two minutes."
    )
    fitted = {name: model.fit(train, sample_dim="patch") for name, model in models(seed, recipe, verbose).items()}
    trained = time.perf_counter()
    say(f"Fitted in {trained - start:.0f} s. {fitted['hybrid'].fit_report_.reason}")

    levels, mean = compare(*(losses(model, test, seed) for model in fitted.values()))
    result = {
        "patches": len(train),
        "patches_held_out": len(test),
        "radius": {name: model.radius_ for name, model in fitted.items()},
        "levels": [level._asdict() for level in levels],
        "mean": mean._asdict() | {"sigma": None},
        "standard_errors": (mean.gaussian - mean.hybrid) / mean.error,
    }
    say(in_words(levels, mean))
    draw(fitted, test, kept, levels, mean, seed).savefig(out / "gravel.png")
    return result | {"seconds_fit": trained - start, "seconds": time.perf_counter() - start}


def rows(levels: Sequence[Level], mean: Level) -> list[list[str]]:
    """Lines of the table: noise level, the two losses, their difference and its standard error."""
    return [
        [
            "all" if level is mean else f"{level.sigma:g}",
            f"{level.gaussian:.4f}",
            f"{level.hybrid:.4f}",
            f"{level.gaussian - level.hybrid:+.4f}",
            f"{level.error:.4f}",
        ]
        for level in (*levels, mean)
    ]


HEADER = ("noise", "Gaussian", "hybrid", "gain", "+-")


def in_words(levels: Sequence[Level], mean: Level) -> str:
    """Table of the losses, in words too."""
    lines = ["  ".join(cell.rjust(8) for cell in row) for row in (HEADER, *rows(levels, mean))]
    worse = [f"{level.sigma:g}" for level in levels if level.hybrid > level.gaussian]
    but = f", though not at noise {', '.join(worse)}" if worse else ""
    return (
        "\nLoss of denoising the unseen patches, by noise over signal (lower is better):\n"
        + "\n".join(lines)
        + f"\n  The network's mean is {(mean.gaussian - mean.hybrid) / mean.error:.0f} standard errors below the "
        f"Gaussian's{but}. Errors are over blocks of {BLOCK} neighbouring patches."
    )


def draw(
    fitted: dict[str, LocalizedDiffusion],
    test: xr.DataArray,
    kept: xr.DataArray,
    levels: Sequence[Level],
    mean: Level,
    seed: int,
) -> Figure:
    """Draw unseen patches above those of the models, larger fields beside as large a part never seen, and the table."""
    numbers = np.random.default_rng(seed).choice(len(test), SHOWN, replace=False)
    small = {f"unseen, patch {i}": test.to_numpy()[i] for i in numbers}
    large = {"unseen gravel": kept[:LARGE, :LARGE].to_numpy()}
    for name, model in reversed(fitted.items()):
        drawn = model.sample(SHOWN, random_state=seed).to_numpy()
        small |= {f"{name}, member {i}": member for i, member in enumerate(drawn)}
        large[name] = model.extend((LARGE, LARGE)).sample(1, random_state=seed).to_numpy()[0]
    figure = Figure(figsize=(12, 14.2), dpi=100, layout="constrained")
    above, middle, below = figure.subfigures(3, 1, height_ratios=(6.5, 4.4, 3.3), squeeze=False)[:, 0]
    squares(small, above, len(small) // SHOWN)
    above.suptitle("Gravel never seen, and gravel that nearfield drew with a network (hybrid) and with its Gaussian")
    squares(large, middle, 1)
    middle.suptitle(
        f"Fields of {LARGE} x {LARGE} pixels, drawn by the same models, which learnt from {PATCH} x {PATCH}"
    )
    below.suptitle("Loss of denoising the unseen patches, by noise over signal: lower is better")
    ax = below.subplots()
    ax.set_axis_off()
    head = ("noise over signal", "Gaussian", "hybrid", "Gaussian less hybrid", "standard error")
    table = ax.table(rows(levels, mean), colLabels=head, cellLoc="center", bbox=(0, 0, 1, 1), edges="horizontal")
    table.auto_set_font_size(False)
    table.set_fontsize(10)
    return figure


def squares(panels: dict[str, Float[np.ndarray, "row column"]], figure: SubFigure, n_rows: int) -> None:
    """Draw squares on one grey scale, rows from the top as in the photograph."""
    side = len(next(iter(panels.values())))
    axes: list[Axes] = list(figure.subplots(n_rows, len(panels) // n_rows, squeeze=False).ravel())
    flat = {title: values.ravel() for title, values in panels.items()}
    plot.fields(flat, DependencyGraph.grid((side, side)), axes, label="grey level", scale=GREY)
    for ax in axes:
        ax.set(ylim=(side - 0.5, -0.5), xticks=[], yticks=[], xlabel="", ylabel="")
