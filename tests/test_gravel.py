"""Gravel: what is learnt and what is kept do not touch, and the numbers and pictures shown are those of the models."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from importlib import resources

import numpy as np
import pytest
import torch
import xarray as xr
from matplotlib.figure import Figure
from PIL import Image

import nearfield as nf
from nearfield import datasets as sample
from nearfield.demo import gravel
from nearfield.fitting.recipe import Recipe
from nearfield.noise import Stream, normals

FILES = resources.files("nearfield.datasets")
TINY = Recipe(steps=4, batch_size=4, learning_rate=5e-3, ema=0.5, held_out=0.1, held_out_levels=2, check_every=2)


def test_the_loader_gives_the_grey_levels_of_the_shipped_file():
    with (FILES / "gravel.png").open("rb") as file, Image.open(file) as image:
        levels = np.array(image)
    picture = sample.gravel()
    assert levels.dtype == np.uint8
    assert picture.dtype == np.float64
    assert picture.dims == ("row", "column")
    np.testing.assert_array_equal(picture, levels)


def test_the_picture_is_the_one_whose_licence_is_told():
    """The digest is that which scikit-image's registry gives for its data/gravel.png."""
    digest = hashlib.sha256((FILES / "gravel.png").read_bytes()).hexdigest()
    assert digest == "c48615b451bf1e606fbd72c0aa9f8cc0f068ab7111ef7d93bb9b0f2586440c12"
    told = (FILES / "README.txt").read_text(encoding="utf-8").split("gravel.png\n====")[1]
    for words in (
        "CC0 1.0 Universal",
        "https://creativecommons.org/publicdomain/zero/1.0/",
        "CC0Textures",
        "skimage.data.gravel",
    ):
        assert words in told
    assert sample.gravel().attrs["licence"] == "CC0 1.0 Universal"


def test_patches_tile_the_regions_which_lie_a_patch_apart():
    """Each pixel bears its number, so that a patch tells where it was cut."""
    number = xr.DataArray(np.arange(512.0 * 512).reshape(512, 512), dims=("row", "column"))
    learnt, kept = gravel.regions(number)
    train, test = (gravel.cut_patches(part).to_numpy() for part in (learnt, kept))
    for region, cut in ((learnt, train), (kept, test)):
        assert np.array_equal(np.unique(cut), np.unique(region))
        assert cut.size == region.size  # with the line above: every pixel once
        steps = 512 * np.arange(32)[:, None] + np.arange(32)
        assert np.array_equal(cut - cut[:, :1, :1], np.broadcast_to(steps, cut.shape))
        # Eight in a row, so that blocks of eight are neighbours.
        assert np.array_equal(np.diff(cut[:, 0, 0].reshape(-1, 8)), np.full((len(cut) // 8, 7), 32.0))
    assert not set(train.ravel()) & set(test.ravel())
    assert test.min() // 512 - train.max() // 512 > 32


def test_errors_of_a_comparison_are_those_of_blocks():
    """Eight patches that err alike count once: the error is that of the mean of independent blocks."""
    rng = np.random.default_rng(0)
    blocks = rng.normal(size=(9, 6))
    gaussian = rng.normal(size=(9, 48))
    levels, mean = gravel.compare(gaussian, gaussian - np.repeat(blocks, 8, axis=1))
    assert [level.sigma for level in levels] == list(gravel.SIGMAS)
    gain = [level.gaussian - level.hybrid for level in levels]
    np.testing.assert_allclose(gain, blocks.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose([level.error for level in levels], blocks.std(axis=1, ddof=1) / np.sqrt(6), rtol=1e-12)
    assert mean.gaussian - mean.hybrid == pytest.approx(blocks.mean(), rel=1e-12)
    assert mean.error == pytest.approx(blocks.mean(axis=0).std(ddof=1) / np.sqrt(6), rel=1e-12)


@pytest.fixture
def small(monkeypatch):
    """Models that are fitted in a moment; they are kept, to be asked."""
    made = []

    def models(seed, recipe, verbose):
        common = {"pooling": 1.0, "radius": 1, "random_state": seed, "verbose": verbose}
        made.append(
            {
                "Gaussian": nf.LocalizedDiffusion(method="gaussian", **common),
                "hybrid": nf.LocalizedDiffusion(method="hybrid", recipe=replace(recipe, seed=seed), **common),
            }
        )
        return made[-1]

    monkeypatch.setattr(gravel, "models", models)
    monkeypatch.setattr(gravel, "LARGE", 36)
    monkeypatch.setattr(gravel, "SIGMAS", (0.05, 0.8, 6.4))
    return made


def independent_loss(model, level, seed):
    """(3.5) with lambda = sigma^2, in plain numpy: the mean of |D(a x + s xi) - x|^2 / s^2 over unseen patches."""
    picture = sample.gravel().to_numpy()
    train = picture[:352]
    cut = [picture[row : row + 32, column : column + 32] for row in range(384, 512, 32) for column in range(0, 512, 32)]
    x = (np.stack(cut).reshape(64, 1024, 1) - train.mean()) / train.std()
    sigma = gravel.SIGMAS[level]
    a, s = 1 / np.sqrt(1 + sigma**2), sigma / np.sqrt(1 + sigma**2)
    xi = normals(seed, Stream.TRAINING, range(64), level, 1024, 1)
    t = 0.5 * np.log(1 + sigma**2)
    denoised = model.score_.denoise(torch.from_numpy(a * x + s * xi), t).numpy()
    return ((denoised - x) ** 2).mean() / s**2


@pytest.mark.slow
def test_the_table_and_the_pictures_are_of_the_models(tmp_path, small):
    said = []
    told = gravel.run(tmp_path, seed=3, say=said.append, recipe=TINY)
    gaussian, hybrid = small[0].values()
    table = [line.split() for line in said[-1].splitlines() if line.startswith("    ")]
    for k, level in enumerate(told["levels"]):
        assert level["gaussian"] == pytest.approx(independent_loss(gaussian, k, seed=3), rel=1e-6)
        assert level["hybrid"] == pytest.approx(independent_loss(hybrid, k, seed=3), rel=1e-5)
    for name in ("gaussian", "hybrid"):
        assert told["mean"][name] == pytest.approx(np.mean([level[name] for level in told["levels"]]), rel=1e-12)
    assert [line[0] for line in table] == [f"{sigma:g}" for sigma in gravel.SIGMAS] + ["all"]
    for line, level in zip(table, [*told["levels"], told["mean"]], strict=True):
        gain = level["gaussian"] - level["hybrid"]
        printed = [float(cell) for cell in line[1:]]
        assert printed == pytest.approx([level["gaussian"], level["hybrid"], gain, level["error"]], abs=5.1e-5)

    figure = gravel.draw(small[0], *drawn_from(told), seed=3)
    pictures = {ax.get_title(): ax for ax in figure.axes if ax.collections and ax.get_title()}
    assert len(pictures) == 3 * 6 + 3
    for title, expected in {
        "hybrid, member 2": hybrid.sample(gravel.SHOWN, random_state=3)[2],
        "Gaussian, member 0": gaussian.sample(1, random_state=3)[0],
        "hybrid": hybrid.extend((36, 36)).sample(1, random_state=3)[0],
        "unseen gravel": sample.gravel()[384:420, :36],
    }.items():
        ax = pictures[title]
        np.testing.assert_allclose(ax.collections[0].get_array().reshape(expected.shape), expected, rtol=1e-12)
        assert ax.collections[0].get_clim() == (0.0, 255.0)
        top, bottom = sorted(ax.get_ylim())
        assert ax.get_ylim() == (bottom, top)  # row 0 above
    figure.savefig(tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "gravel.png").read_bytes()


def drawn_from(told):
    kept = gravel.regions(sample.gravel())[1]
    levels = tuple(gravel.Level(**level) for level in told["levels"])
    return gravel.cut_patches(kept), kept, levels, gravel.Level(**told["mean"] | {"sigma": float("nan")})


@pytest.mark.slow
def test_the_seed_decides(tmp_path, small, monkeypatch):
    """Training and losses again, bit for bit; another seed, other numbers."""
    monkeypatch.setattr(gravel, "draw", lambda *_: Figure())
    first, again, other = (
        gravel.run(tmp_path, seed=seed, say=lambda _: None, recipe=replace(TINY, seed=99)) for seed in (5, 5, 6)
    )
    for told in (first, again, other):
        del told["seconds"], told["seconds_fit"]
    assert first == again
    assert first["mean"] != other["mean"]


def test_the_models_of_the_demo_have_its_seed_and_one_law():
    made = gravel.models(seed=7, recipe=TINY)
    assert made["hybrid"].recipe == replace(TINY, seed=7)
    assert {model.pooling for model in made.values()} == {1.0}
    assert [model.method for model in made.values()] == ["gaussian", "hybrid"]
