"""One network per vertex: independence of the vertices, stopping of each, the class (3.3) and (3.16), exact scores."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from nearfield.datasets import AutoregressiveChain
from nearfield.fitting.matching import DenoisingBatch, NoiseLevels
from nearfield.graph import DependencyGraph
from nearfield.paper import vertex_training
from nearfield.paper.vertex import VertexNetworks
from nearfield.paper.vertex_training import BLOCK, VertexRecipe, fit_vertex_networks
from nearfield.process import noise_scale, signal_scale
from nearfield.samples import Samples
from nearfield.score.hybrid import NetworkScore

D = BLOCK + 8
CHAIN = DependencyGraph.chain(D)
SHORT = VertexRecipe(widths=(4,), steps=12, check_every=3, batch_size=16, learning_rate=3e-2)


def data(n: int, d: int = D, seed: int = 0) -> np.ndarray:
    return AutoregressiveChain(0.95, d).sample(n, seed)


def weights(score: NetworkScore) -> torch.Tensor:
    return score.network.weights


def distance(denoise: Callable[..., torch.Tensor], chain: AutoregressiveChain) -> torch.Tensor:
    """Mean square distance to the exact denoiser of each vertex, on fresh states."""
    clean, total = torch.from_numpy(chain.sample(1000, 1)), torch.zeros(chain.n, dtype=torch.float64)
    covariance = torch.from_numpy(chain.covariance())
    for t in (0.1, 0.3, 0.8):
        a, s = signal_scale(t), noise_scale(t)
        x = a * clean + s * torch.randn(clean.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        gain = a * torch.linalg.solve(a**2 * covariance + s**2 * torch.eye(chain.n), covariance)
        total += ((denoise(x, t) - torch.einsum("ij,nic->njc", gain, x)) ** 2).mean(dim=(0, 2))
    return total


def test_the_number_of_jobs_changes_no_bit():
    one, two = (fit_vertex_networks(Samples(data(30), CHAIN), 1, SHORT, n_jobs=n) for n in (1, 2))
    assert torch.equal(weights(one[0]), weights(two[0]))
    assert np.array_equal(one[1].best_step, two[1].best_step)
    assert np.array_equal(one[1].best_loss, two[1].best_loss)
    assert (weights(one[0]) != 0).any(dim=1).sum() > D / 2


def test_a_block_alone_is_that_block_among_all(monkeypatch):
    """(3.8): the second block, trained without the first."""
    seen = []
    original = vertex_training._train
    monkeypatch.setattr(vertex_training, "_train", lambda *given: seen.append(given[1:3]) or original(*given))
    together, training = fit_vertex_networks(Samples(data(30), CHAIN), 1, SHORT)
    alone = VertexNetworks(CHAIN, 1, widths=(4,), vertices=range(BLOCK, D))
    _, best = original(alone, *seen[0], SHORT)
    assert torch.equal(weights(together)[BLOCK:], alone.weights)
    assert np.array_equal(training.best_step[BLOCK:], best.step)
    assert np.array_equal(training.best_loss[BLOCK:], best.loss)


def test_a_vertex_feels_nothing_beyond_its_window():
    """Data a thousand times larger at one vertex change the networks that read it, and no bit of any other."""
    z, changed, read = data(30), data(30), 5
    changed[:, read] *= 1000
    before, after = (fit_vertex_networks(Samples(each, CHAIN), 1, SHORT) for each in (z, changed))
    differ = (weights(before[0]) != weights(after[0])).any(dim=1).nonzero().flatten().tolist()
    assert differ == [read - 1, read, read + 1]
    assert np.flatnonzero(before[1].best_loss != after[1].best_loss).tolist() == differ


def test_each_vertex_keeps_its_best_check_and_is_frozen_by_its_own_patience(monkeypatch):
    """Held-out losses by script: of checks 0, 2, 4, ... steps, and the weights at each."""
    script = torch.tensor([
        # zero, 2,   4,   6,   8,   10,  12
        [1.0, 0.5, 0.6, 0.7, 0.1, 0.1, 0.1],  # frozen after two checks without a new best, at 6
        [1.0, 0.9, 0.9, 0.8, 0.7, 0.6, 0.5],  # runs to the end
        [1.0, 1.1, 1.2, 0.1, 0.1, 0.1, 0.1],  # never better than zero in time
        [1.0, math.nan, 0.9, math.nan, 0.8, 0.9, 0.7],
    ], dtype=torch.float64)  # fmt: skip
    at = []

    def held_out(network, *_):
        at.append(network.weights.detach().clone())
        return script[:, len(at) - 1].clone()

    monkeypatch.setattr(vertex_training, "_held_out_loss", held_out)
    recipe = replace(SHORT, check_every=2, patience=2, seed=3)
    score, training = fit_vertex_networks(Samples(data(30, 4), DependencyGraph.chain(4)), 1, recipe)
    assert training.best_step.tolist() == [2, 12, 0, 12]
    assert training.best_loss.tolist() == [0.5, 0.5, 1.0, 0.7]
    assert torch.equal(at[0], VertexNetworks(score.network.graph, 1, widths=(4,), seed=3).weights)
    kept = torch.stack([at[1][0], at[6][1], torch.zeros_like(at[0][2]), at[6][3]])
    assert torch.equal(weights(score), kept)


def test_a_block_ends_with_its_last_vertex(monkeypatch):
    asked = []
    monkeypatch.setattr(
        vertex_training,
        "_held_out_loss",
        lambda network, *_: asked.append(1) or torch.arange(2.0, dtype=torch.float64) + len(asked),
    )
    fit_vertex_networks(Samples(data(30, 2), DependencyGraph.chain(2)), 1, replace(SHORT, check_every=1, patience=3))
    assert len(asked) == 1 + 3


def test_the_best_loss_is_that_of_the_weights_kept():
    z = data(60, 6)
    score, training = fit_vertex_networks(
        Samples(z, DependencyGraph.chain(6), ordered=True), 1, replace(SHORT, steps=60)
    )
    block = VertexNetworks(score.network.graph, 1, widths=(4,), vertices=range(6))
    block.load_state_dict(score.network.state_dict())
    words = np.random.SeedSequence([0, vertex_training.Stream.TRAINING, 0]).generate_state(2, np.uint64)
    unseen = torch.from_numpy(z[-9:]).float()  # the last 15 % of ordered samples
    again = vertex_training._held_out_loss(block, unseen, SHORT, int(words[1]))
    assert np.array_equal(training.best_loss, again)
    assert (training.best_step > 0).all()


def test_every_window_has_noise_and_a_time_of_its_own(monkeypatch):
    """(3.8); the times of a vertex lie one in each of as many parts of the law as there are samples in a step."""
    seen = []
    original = DenoisingBatch.of_windows
    monkeypatch.setattr(
        DenoisingBatch, "of_windows", lambda *given: seen.append(given[2:]) or original(*given)
    )  # network, clean, t, noise
    levels = NoiseLevels(center=0.1, spread=0.8)
    fit_vertex_networks(Samples(data(30, 3), DependencyGraph.chain(3)), 1, replace(SHORT, steps=1, levels=levels))
    t, xi = next((t, xi) for t, xi in seen if len(t) == 16)
    assert xi.shape == (16, 3, 3, 1)
    assert len(xi.unique()) == xi.numel()
    assert len(t.unique()) == t.numel()
    quantile = torch.special.ndtr((torch.log(noise_scale(t) / signal_scale(t)) - 0.1) / 0.8)
    assert torch.equal((quantile * 16).floor().sort(dim=0).values, torch.arange(16.0).double()[:, None].expand(16, 3))


def test_the_networks_are_of_the_class_asked_for():
    """(3.3): at most S parameters that are not zero, none above B; (3.16): |u_j| <= C sqrt(log N) / s, met."""
    recipe = VertexRecipe(widths=(8,), sparsity=20, bound=0.4, output_bound=0.6, steps=150, check_every=10)
    score, training = fit_vertex_networks(Samples(data(100, 5), DependencyGraph.chain(5)), 1, recipe)
    assert (training.best_step >= 75).all()  # of the pruned network
    assert ((weights(score) != 0).sum(dim=1) <= 20).all()
    assert (weights(score) != 0).any(dim=1).all()
    assert weights(score).abs().max() == np.float32(0.4)
    limit = 0.6 * math.sqrt(math.log(100))
    x = 3 * torch.randn(300, 5, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for t in (0.01, 0.3, 2.0):
        length = noise_scale(t) * score.score(x, t).abs()
        assert length.max() <= limit * (1 + 1e-4)
        assert length.max() >= limit * (1 - 1e-4)


@pytest.mark.parametrize(("sparsity", "share"), [(None, 0.3), (150, 0.6)])
def test_the_denoiser_of_a_chain_is_nearer_to_the_exact_one_than_any_of_radius_0(sparsity, share):
    """At every vertex, from 500 samples: the best denoiser of radius 0 is a x, as the variances are 1."""
    chain = AutoregressiveChain(0.8, 8)
    recipe = VertexRecipe(steps=400, sparsity=sparsity)
    score, _ = fit_vertex_networks(Samples(chain.sample(500, 0), chain.graph), 2, recipe)
    ratio = distance(score.denoise, chain) / distance(lambda x, t: signal_scale(t) * x, chain)
    assert (ratio < share).all()


def test_padding_and_progress():
    calls = []
    score, training = fit_vertex_networks(
        Samples(data(30), CHAIN), 1, SHORT, progress=lambda *given: calls.append(given)
    )
    assert score.network.padding == "absent"
    assert [n for n, _ in calls] == [BLOCK, D]
    assert calls[-1][1] == training.best_loss.mean()
    assert not weights(score).requires_grad
    mirrored, _ = fit_vertex_networks(Samples(data(30), CHAIN), 1, replace(SHORT, padding="reflect"))
    assert mirrored.network.padding == "reflect"
    with pytest.raises(ValueError, match="only whole lattices mirror"):
        fit_vertex_networks(
            Samples(data(30, 3), DependencyGraph.from_edges(3, [(0, 1)])), 1, replace(SHORT, padding="reflect")
        )


def test_the_seed_decides():
    one, same, other = (
        weights(fit_vertex_networks(Samples(data(30, 3), DependencyGraph.chain(3)), 1, replace(SHORT, seed=seed))[0])
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"widths": ()}, ValueError, "widths must have at least one hidden layer"),
        ({"widths": (8, 0)}, ValueError, "widths must be at least 1, got 0"),
        ({"sparsity": 0}, ValueError, "sparsity must be at least 1, got 0"),
        ({"bound": 0.0}, ValueError, "bound must be above 0, got 0.0"),
        ({"output_bound": -1}, ValueError, "output_bound must be above 0, got -1.0"),
        ({"padding": "zeros"}, ValueError, "padding must be"),
        ({"levels": 0.5}, TypeError, "levels must be NoiseLevels"),
        ({"learning_rate": 0}, ValueError, "learning_rate must be above 0"),
        ({"steps": 1.5}, TypeError, "steps must be an integer"),
        ({"held_out": 1}, ValueError, r"held_out must be in \(0, 1\)"),
        ({"seed": -1}, ValueError, "seed must be at least 0"),
    ],
)
def test_recipes_that_make_no_sense(settings, error, message):
    with pytest.raises(error, match=message):
        VertexRecipe(**settings)


def test_too_few_samples():
    with pytest.raises(ValueError, match="x must have more than 2 samples"):
        fit_vertex_networks(Samples(data(2, 3), DependencyGraph.chain(3)), 1, VertexRecipe(output_bound=1.0))
