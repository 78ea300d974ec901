"""The whole field as context: dense formulas, windows that cover everything, larger lattices, and when it is chosen."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from nearfield.datasets import AutoregressiveChain
from nearfield.fitting import levels as levels_module
from nearfield.fitting.closed_form import build_field, field_spectrum, fit_windowed
from nearfield.fitting.coarse import Scale, corrected
from nearfield.fitting.context import Locality, choose_context
from nearfield.fitting.levels import LevelChoice, keep_levels
from nearfield.fitting.matching import NoiseLevels
from nearfield.fitting.neural import Design, NetworkFit, TrainedNetwork, fit_network
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.radius import SIGMAS
from nearfield.fitting.recipe import Recipe
from nearfield.fitting.search import Search
from nearfield.graph import DependencyGraph
from nearfield.methods.base import FitOptions
from nearfield.methods.hybrid import Hybrid
from nearfield.module import describe, rebuild
from nearfield.process import time_of
from nearfield.samples import Samples
from nearfield.score import context
from nearfield.score.context import FieldContext
from nearfield.score.gaussian import WindowedGaussianScore
from nearfield.score.hybrid import HybridScore
from nearfield.score.preconditioning import scales
from nearfield.score.stencil import StencilNetwork
from nearfield.score.switch import SwitchedScore

ONE = Pooling(1.0)
TIMES = torch.tensor([time_of(s) for s in (1e-4, 0.03, 0.4, 1.7, 9.0, 300.0)], dtype=torch.float64)


def smooth(shape: tuple[int, ...], n: int, channels: int = 1, seed: int = 0, width: int = 3) -> Samples:
    """Moving averages of white noise along each axis, and a little white noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, *shape, channels))
    for axis in range(1, x.ndim - 1):
        x = sum(np.roll(x, k, axis) for k in range(width))
    x = (x / x.std()).reshape(n, -1, channels) @ (np.eye(channels) + 0.4) + 0.1 * rng.normal(
        size=(n, int(np.prod(shape)), channels)
    )
    return Samples(x / x.std(axis=(0, 1)), DependencyGraph.grid(shape), standard=(True,) * channels)


@pytest.mark.parametrize("correction", [None, Scale(3, 1, ONE)], ids=["plain", "corrected"])
def test_denoiser_and_variance_are_those_of_dense_algebra(correction):
    samples = smooth((6, 9), 80, channels=2)
    field = Locality(2, Pooling(0.5), correction).field(samples)
    expected = corrected(build_field(samples, 2, Pooling(0.5)).field, samples, correction)
    c = field.covariance()
    np.testing.assert_array_equal(c, expected.covariance())
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(6, 54, 2)))
    denoised, variance = FieldContext(field).denoise_with_variance(x, TIMES)
    for k, t in enumerate(TIMES.tolist()):
        a, sigma2 = np.exp(-t), np.expm1(2 * t)
        gain = np.linalg.solve(c + sigma2 * np.eye(108), c).T  # C (C + sigma^2)^-1
        np.testing.assert_allclose(denoised[k].flatten(), gain @ x[k].flatten().numpy() / a, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(variance[k].flatten(), np.diag(gain @ c), rtol=1e-7)
        torch.testing.assert_close(denoised[k : k + 1], field.denoise(x[k : k + 1], t), rtol=1e-7, atol=1e-9)


def test_variance_is_that_of_the_denoised_draws():
    """Of 20 000 draws: relative standard error of a variance .01; 5 of them at 24 vertices, false alarms below 1e-4."""
    field = build_field(smooth((24,), 60), 2, ONE).field
    x = torch.from_numpy(field.sample(20_000, seed=1))
    noised = (x + 0.8 * torch.from_numpy(np.random.default_rng(2).normal(size=x.shape))) / np.sqrt(1.64)
    denoised, variance = FieldContext(field).denoise_with_variance(noised, time_of(0.8))
    assert variance.shape == (1, 24, 1)
    np.testing.assert_allclose(denoised.var(dim=0) / variance[0], 1.0, atol=0.05)


@pytest.mark.parametrize("full_start", [False, True])
def test_windows_that_cover_the_field_make_the_same_hybrid(full_start):
    """Each window holds all vertices, and its covariance is the field's; weights and square are the same."""
    field, graph = build_field(smooth((9,), 50), 2, ONE).field, DependencyGraph.chain(9)
    windows = WindowedGaussianScore({8: field_spectrum(field, graph, 8)}, ((1.0, 8),))
    network = StencilNetwork(graph, 2, n_context=2, width=8, seed=1).double().requires_grad_(False)
    for weight in network.parameters():
        weight += 0.2 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(6, 9, 1)))
    one, other = (
        HybridScore(network, c, np.full((4, 1), 0.4), full_start=full_start) for c in (windows, FieldContext(field))
    )
    assert (one.radius, other.radius) == (10, None)
    # windows that are cut off alike share the covariance of one vertex: here no two are
    for t in (TIMES, 0.3):
        torch.testing.assert_close(other.denoise(x, t), one.denoise(x, t), rtol=1e-8, atol=1e-10)


def test_an_untrained_network_leaves_a_full_start_as_it_is():
    """At every noise level, also on a larger lattice and from a file; files without a word of it have the other start.

    F is 0 and there is no square: D is D_G, by the formula that has s^2 q less (1 - s^2) (D_G - a x).
    """
    graph, onto = DependencyGraph.grid((5, 6)), DependencyGraph.grid((7, 9))
    shown = FieldContext(build_field(smooth((5, 6), 60, channels=2), 2, ONE).field)
    network = StencilNetwork(graph, 1, n_channels=2, n_context=4, width=4).double().requires_grad_(False)
    score = HybridScore(network, shown, full_start=True)
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(6, 30, 2)))
    y = torch.from_numpy(np.random.default_rng(2).normal(size=(6, 63, 2)))
    description, tensors = json.loads(json.dumps(describe(score))), score.state_dict()
    again = rebuild(description, tensors, graph)
    assert description["settings"].pop("full_start") is True
    before = rebuild(description, tensors, graph)
    for t in (TIMES, 0.0, 0.3):
        expected = shown.denoise(x, t)
        torch.testing.assert_close(score.denoise(x, t), expected, rtol=1e-13, atol=1e-14)
        assert torch.equal(again.denoise(x, t), score.denoise(x, t))
        larger = score.extended(graph, onto)
        torch.testing.assert_close(larger.denoise(y, t), larger.context.denoise(y, t), rtol=1e-13, atol=1e-14)
        a, s, _ = scales(x, t)
        missing = (1 - s**2) * (expected - a * x)
        torch.testing.assert_close(before.denoise(x, t), expected - missing, rtol=1e-12, atol=1e-13)


def test_a_larger_lattice_has_the_larger_field(monkeypatch):
    """Where its covariance is not decomposed, its denoiser is the same and its variance close: .03 of the largest."""
    samples, small, large = smooth((17, 18), 60), DependencyGraph.grid((17, 18)), DependencyGraph.grid((20, 26))
    shown = FieldContext(build_field(samples, 1, ONE).field)
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(6, 520, 1)))
    exact = shown.extended(small, large).denoise_with_variance(x, TIMES)
    monkeypatch.setattr(context, "LARGEST_BASIS", 400)
    large_field = shown.extended(small, large)
    assert large_field.log_variance is not None
    denoised, variance = large_field.denoise_with_variance(x, TIMES)
    torch.testing.assert_close(denoised, exact[0], rtol=1e-8, atol=1e-10)
    assert (abs(variance - exact[1]).amax(dim=(1, 2)) / exact[1].amax(dim=(1, 2))).max() < 0.03
    beyond = large_field.denoise_with_variance(x[:1], time_of(3000.0))[1]
    torch.testing.assert_close(beyond, variance[5:] / 100, rtol=1e-3, atol=0)
    again = large_field.extended(large, DependencyGraph.grid((26, 26)))
    assert again.denoise_with_variance(torch.ones(1, 676, 1), 0.5)[1].shape == (1, 676, 1)
    with pytest.raises(ValueError, match="at most 400 variables, got 520"):
        FieldContext(large_field.field)


def test_the_field_is_shown_where_its_denoiser_is_clearly_better(monkeypatch):
    """Sums of white noise reach across the chain, far beyond its windows; AR(1) does not reach as far as they do."""
    times = NoiseLevels(center=1.0).grid(8)
    rng, graph = np.random.default_rng(0), DependencyGraph.chain(200)
    far = rng.normal(size=(60, 200, 1)).cumsum(axis=1)
    near = AutoregressiveChain(0.5, 200).sample(60, random_state=0)
    found = {}
    for name, x in (("far", far), ("near", near)):
        samples = Samples(x / x.std(), graph, standard=(True,))
        used, unseen = samples.take(np.arange(50)), samples.take(np.arange(50, 60))
        found[name] = choose_context(used, unseen, Locality(1, ONE), times)
        bounded = choose_context(used, unseen, Locality(1, ONE), times, radius=2)
        assert bounded.score.radius == 2
    assert isinstance(found["far"].score, FieldContext)
    assert "the whole Gaussian field makes of the state: its loss is" in found["far"].reason
    assert found["near"].score.radius == 32
    assert "windows of 32 hops: the loss of the whole field is 0." in found["near"].reason
    monkeypatch.setattr("nearfield.fitting.context.LARGEST_BASIS", 199)
    dear = choose_context(used, unseen, Locality(1, ONE), times)
    assert dear.score.radius == 32
    assert "too dear beyond 199 variables" in dear.reason


def test_a_network_that_is_shown_the_field_is_trained_and_reads_everything(monkeypatch):
    monkeypatch.setattr("nearfield.fitting.context.CLEARLY", -1.0)  # whatever its loss
    samples = smooth((30,), 60)
    skewed = samples.with_values(samples.values + 0.4 * (samples.values**2 - 1))
    recipe = Recipe(steps=30, check_every=15, ema=0.9)
    fit = fit_network(skewed, Design("hybrid", Locality(1, ONE)), recipe)
    assert isinstance(fit.score, HybridScore)
    assert (fit.score.radius, fit.radius) == (None, 4)
    assert fit.score.full_start
    assert not fit_network(skewed, Design("hybrid", Locality(1, ONE), 2), replace(recipe, steps=1)).score.full_start
    assert fit.networks[0].context.startswith("It is shown what the whole Gaussian field")
    assert fit.networks[0].training.best.loss < fit.networks[0].training.checks[0].loss


def test_a_hybrid_is_the_field_where_the_field_has_the_lower_held_out_loss():
    """A few large steps spoil a network at some levels: beyond one standard error on the held-out samples they show."""
    samples = smooth((24,), 60)
    skewed = samples.with_values(samples.values + 0.6 * (samples.values**2 - 1))
    method = Hybrid(pooling=1.0, recipe=Recipe(steps=60, check_every=60, ema=0.5, learning_rate=0.1))
    fitted = method.fit(skewed, FitOptions(search=Search(seed=1)))
    choice = [level.hybrid - level.gaussian <= level.error for level in fitted.levels]
    assert 0 < sum(choice) < len(choice)
    assert [level.selected for level in fitted.levels] == choice
    score = fitted.law.score
    assert isinstance(score, SwitchedScore)
    assert f"is the score at {choice.count(False)} of 13 noise levels" in fitted.reason
    x = torch.from_numpy(samples.values[:4])
    for level in fitted.levels:
        t = time_of(level.sigma)
        used = score.hybrid if level.selected else score.field
        torch.testing.assert_close(score.denoise(x, t), used.denoise(x, t))


def ar1(n: int) -> Samples:
    return Samples(AutoregressiveChain(0.9, 64).sample(n, random_state=0), DependencyGraph.chain(64), standard=(True,))


def test_a_network_that_leaves_short_windows_as_they_are_is_given_up_where_the_field_is_better(monkeypatch):
    """Held-out losses are made to see nothing; how much worse windows are, dense algebra tells.

    Of a linear denoiser D = G x_t / a the expected error over s^2 is (|(G - 1) x_0|^2 / sigma^2 + |G|^2) / a^2. The
    noise, which the errors include, is fixed: an excess off by 3 of them has a rate of .003 at each of 13 levels.
    """
    samples, numbers = ar1(200), np.arange(200)
    used, unseen = numbers[:180], numbers[180:]
    field, windows = build_field(samples, 1, ONE).field, fit_windowed(samples, ((1.0, 4),), ONE)[2]
    x, losses = samples.values[used][..., 0], []
    for score in (windows, field):
        for sigma in SIGMAS:
            t = time_of(sigma)
            g = np.exp(-t) * score.denoise(torch.eye(64, dtype=torch.float64)[..., None], t)[..., 0].numpy().T
            losses.append((((x @ g.T - x) ** 2).mean() / sigma**2 + (g**2).sum() / 64) * (1 + sigma**2))
    expected = np.subtract(*np.reshape(losses, (2, -1)))
    network = StencilNetwork(samples.graph, 1, n_context=2)
    trained = TrainedNetwork(HybridScore(network, windows, full_start=True), None, used, unseen)
    excess, error = levels_module._excess(samples, trained, field, 0)
    assert (abs(excess - expected) < 3 * error).all()
    assert (expected > 4 * error).sum() >= 3
    for gain, kept in ((-0.5, excess <= error), (0.5, excess <= error), (-1.5, np.zeros(13, dtype=bool))):
        levels = tuple(LevelChoice(sigma, 1.0, 1.0 - 0.01 * gain, 0.01, False) for sigma in SIGMAS)
        monkeypatch.setattr(levels_module, "choose_levels", lambda *_, levels=levels: levels)
        found = keep_levels(samples, NetworkFit((trained,)), Locality(1, ONE), field, 0)
        np.testing.assert_array_equal([level.selected for level in found], kept)
        assert [level._replace(selected=False) for level in found] == list(levels)


def test_a_network_that_is_shown_the_field_is_compared_with_it_on_held_out_samples_alone():
    """The two comparisons are then one: the same differences of losses under the same noise."""
    samples, numbers = ar1(60), np.arange(60)
    locality, used = Locality(1, ONE), numbers[:50]
    field = locality.field(samples.take(used))
    network = StencilNetwork(samples.graph, 1, n_context=2, width=8).requires_grad_(False)
    for weight in network.parameters():
        weight += 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(3))
    trained = TrainedNetwork(HybridScore(network, FieldContext(field)), None, used, numbers[50:])
    levels = keep_levels(samples, NetworkFit((trained,)), locality, field, 5)
    excess, error = levels_module._excess(samples, trained, field, 5)
    scale = 1 + np.square(SIGMAS)
    np.testing.assert_allclose(
        excess, scale * [level.hybrid - level.gaussian for level in levels], rtol=1e-5, atol=1e-7
    )
    np.testing.assert_allclose(error, scale * [level.error for level in levels], rtol=1e-5, atol=1e-7)
    assert [level.selected for level in levels] == (excess <= error).tolist()


def test_a_field_whose_denoiser_is_dear_is_not_compared(monkeypatch):
    monkeypatch.setattr("nearfield.score.solver.DIRECT_LIMIT", 20)
    fitted = Hybrid(pooling=1.0, recipe=Recipe(steps=2)).fit(smooth((24,), 60), FitOptions(search=Search(seed=1)))
    assert isinstance(fitted.law.score, HybridScore)
    assert fitted.levels is None
