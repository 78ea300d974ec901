"""One law from crops of a large field: what is held out, what is refused, and the law on the whole lattice."""

import math

import numpy as np
import pytest
import torch

from nearfield.datasets import AutoregressiveChain
from nearfield.fitting import neural, training
from nearfield.fitting.neural import default_recipe
from nearfield.fitting.recipe import Recipe
from nearfield.graph import DependencyGraph
from nearfield.methods import crops
from nearfield.methods.base import FitOptions
from nearfield.methods.crops import crop_side, fit_crops, n_crops, one_location
from nearfield.methods.hybrid import Hybrid
from nearfield.methods.windowed import Windowed
from nearfield.sampling.tiled import TiledDraws
from nearfield.score.tiled import TiledScore


def crops_of(fields, side, n, seed=0):
    """Windows of some fields at random places, as they are read."""
    rng = np.random.default_rng(seed)
    for _ in range(n):
        numbers = np.sort(rng.permutation(len(fields))[:5])
        start = rng.integers(fields.shape[1] - side + 1)
        yield numbers, fields[numbers, start : start + side]


def test_means_and_scales_that_differ_are_refused():
    rng = np.random.default_rng(0)
    x = 3 + 2 * rng.normal(size=(50, 4000, 1))
    center, scale = one_location(x.mean(axis=0), x.var(axis=0), 50)
    np.testing.assert_allclose([*center, *scale], [x.mean(), x.std()], rtol=1e-12)
    trend, swell = np.linspace(-3, 3, 4000)[:, None], np.linspace(0.3, 3, 4000)[:, None]
    for name, y in (("means", x + trend), ("variances", x * swell - 3 * swell)):
        with pytest.raises(ValueError, match=f"one law for all vertices, got {name} that differ"):
            one_location(y.mean(axis=0), y.var(axis=0), 50)


def test_crops_are_as_large_as_a_window_and_not_larger_than_the_lattice():
    assert crop_side(DependencyGraph.grid((1000, 1000)), radius=40) == (81, 81)
    assert crop_side(DependencyGraph.grid((40, 50)), radius=40) == (40, 50)
    assert n_crops((64, 64), 2) == 1024


@pytest.mark.parametrize("periodic", [False, True])
def test_the_law_of_crops_is_that_of_a_longer_chain(periodic):
    """Windows of AR(1) that are wide enough have the exact denoiser, from crops of a tenth of the chain."""
    fields = 5 + 3 * AutoregressiveChain(0.7, 400).sample(400, random_state=0)
    graph = DependencyGraph.grid((300,), periodic=periodic)
    location = one_location(fields.mean(axis=0), fields.var(axis=0), 400)
    method = Windowed(radius=9, pooling=1.0)
    fitted = fit_crops(method, crops_of(fields, 30, 400), (30,), graph, location)
    assert isinstance(fitted.law.score, TiledScore) == periodic
    assert fitted.center.shape == fitted.scale.shape == (300, 1)
    np.testing.assert_allclose([fitted.center[7, 0], fitted.scale[7, 0]], [5, 3], atol=0.1)
    steps = np.abs(np.subtract.outer(np.arange(300), np.arange(300)))
    covariance = 0.7 ** (np.minimum(steps, 300 - steps) if periodic else steps)
    a, noise = math.exp(-1.0), -math.expm1(-2.0)
    x = np.random.default_rng(1).normal(size=(50, 300)) @ np.linalg.cholesky(a**2 * covariance + noise * np.eye(300)).T
    exact = a * np.linalg.solve(a**2 * covariance + noise * np.eye(300), (x @ covariance).T).T
    found = fitted.law.score.denoise(torch.from_numpy(x[..., None]), 1.0)[..., 0].numpy()
    assert np.abs(found - exact).max() < 0.1
    assert np.mean((found - exact) ** 2) < 1e-3 * np.mean(exact**2)


def test_memory_is_that_of_the_crops(monkeypatch):
    """A network on a million vertices has the numbers of that on a crop, and is evaluated by boxes."""
    fields = np.cumsum(np.random.default_rng(0).normal(size=(40, 400, 1)), axis=1)
    fields = fields[:, 20:] - fields[:, :-20]
    seen = {}
    train = training.train

    def spy(score, samples, recipe, **options):
        seen["used"], seen["unseen"] = recipe.divide(samples)
        return train(score, samples, recipe, **options)

    monkeypatch.setattr(neural, "train", spy)
    method = Hybrid(pooling=1.0, radius=4, recipe=Recipe(steps=10, batch_size=8, held_out=0.2))
    graph = DependencyGraph.chain(1_000_000)
    location = np.zeros(1), np.full(1, math.sqrt(20))
    fitted = fit_crops(method, crops_of(fields, 60, 40), (60,), graph, location, FitOptions(device="cpu"))
    number = np.sort(np.concatenate([numbers for numbers, _ in crops_of(fields, 60, 40)]))
    assert not set(number[seen["used"]]) & set(number[seen["unseen"]])
    assert len(seen["used"]) > 100
    assert isinstance(fitted.law.score, TiledScore)
    assert sum(each.numel() for each in fitted.law.state_dict().values()) < 200_000
    assert fitted.center.strides[0] == fitted.scale.strides[0] == 0
    draws = TiledDraws(fitted.law.score, fitted.law.default_sampler(2), seed=0)
    state = draws.start(0, 30)
    borders = [draws.border(tile, draws.start(0, tile)) for tile in draws.sources(30)]
    assert np.isfinite(draws.step(0, 0, 30, state, borders).x).all()
    assert sum(map(len, borders)) < 1000
    with pytest.raises(ValueError, match="pooling must be 1 for a law of crops"):
        fit_crops(Windowed(radius=2, pooling=0.0), crops_of(fields, 60, 40), (60,), graph, location)


def test_checks_of_many_crops_cost_less_than_the_training():
    recipe = crops._recipe(DependencyGraph.grid((64, 64)), 2048, 0.15, 0)
    looked_at = recipe.held_out * 2048 * recipe.held_out_levels * recipe.steps / recipe.check_every
    assert looked_at < 3 * recipe.steps * recipe.batch_size / 2
    few = crops._recipe(DependencyGraph.grid((64, 64)), 100, 0.15, 0)
    assert few == default_recipe(DependencyGraph.grid((64, 64)), 100)
