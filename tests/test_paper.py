"""The paper's recipe: identities of its score, what a step draws, and training against the exact score of a window."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nearfield.fitting.matching import window_noise
from nearfield.graph import DependencyGraph
from nearfield.paper import recipe as paper
from nearfield.paper.recipe import PaperRecipe, fit_paper, paper_batch
from nearfield.paper.score import PaperNetwork, PaperScore
from nearfield.process import Schedule, noise_scale, signal_scale
from nearfield.samples import Samples

D = 10
RING = DependencyGraph.ring(D)
HOPS = np.minimum(abs(np.subtract.outer(np.arange(D), np.arange(D))), D - abs(np.subtract.outer(range(D), range(D))))
COVARIANCE = 0.7**HOPS
SHORT = PaperRecipe(steps=5, batch_size=4 * D, widths=(8,))


def data(n: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(n, D)) @ np.linalg.cholesky(COVARIANCE).T)[..., None]


def weights(score: PaperScore) -> list[torch.Tensor]:
    return list(score.network.state_dict().values())


def stirred(graph: DependencyGraph, radius: int, **options) -> PaperNetwork:
    return PaperNetwork(graph, radius, widths=(8, 6), **options).double().requires_grad_(False)


@pytest.mark.parametrize("predicts", ["noise", "score"])
def test_a_network_that_is_right_gives_the_clean_state_and_the_score(monkeypatch, predicts):
    """a D + s xi = x, and score = -xi / s; a network that knows the noise gives back what was noised."""
    clean, xi = (torch.from_numpy(data(4, seed)) for seed in (1, 2))
    t = torch.tensor([1e-6, 0.1, 1.0, 5.0], dtype=torch.float64)
    a, s = (scale(t)[:, None, None] for scale in (signal_scale, noise_scale))
    score = PaperScore(stirred(RING, 1), predicts)
    monkeypatch.setattr(score.network, "forward", lambda *_: xi if predicts == "noise" else -xi / s)
    torch.testing.assert_close(score.denoise(a * clean + s * xi, t), clean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(score.score(a * clean + s * xi, t), -xi / s, rtol=1e-6, atol=1e-9)


def test_the_network_is_given_window_and_time():
    """By hand: relu layers of [centre, neighbours, t], in the order of the table."""
    network, x = stirred(RING, 1), torch.from_numpy(data(3))
    t = torch.tensor([0.01, 0.7, 4.0], dtype=torch.float64)
    a, s = (scale(t)[:, None, None] for scale in (signal_scale, noise_scale))
    h = torch.cat([x[:, np.array(RING.neighborhood(1).index), 0], t[:, None, None].expand(3, D, 1)], dim=2)
    for k, layer in enumerate(network.layers):
        h = (torch.relu(h) if k else h) @ layer.weight.T + layer.bias
    torch.testing.assert_close(PaperScore(network).denoise(x, t), (x - s * h) / a, rtol=1e-12, atol=1e-12)


def test_borders_see_the_field_mirrored():
    """The score on a chain is that of the same weights inside a longer chain that goes on as a mirror."""
    chain, long = DependencyGraph.chain(6), DependencyGraph.chain(10)
    here, there = stirred(chain, 2), stirred(long, 2)
    x = torch.from_numpy(data(3)[:, :6])
    beyond = torch.from_numpy(np.pad(x.numpy(), [(0, 0), (2, 2), (0, 0)], mode="reflect"))
    outside = PaperScore(there).denoise(beyond, 0.3)[:, 2:-2]
    torch.testing.assert_close(PaperScore(here).denoise(x, 0.3), outside, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("graph", [DependencyGraph.chain(6).subgraph(np.arange(6) != 2), DependencyGraph.knn(
    np.random.default_rng(0).uniform(size=(6, 2)), 2)])  # fmt: skip
def test_what_cannot_be_mirrored_is_absent(graph):
    score = fit_paper(Samples(data(20)[:, : len(graph)], graph), 1, SHORT)
    assert score.network.padding == "absent"
    assert fit_paper(Samples(data(20), RING), 1, SHORT).network.padding == "reflect"


def test_each_window_has_a_time_of_its_own_from_the_whole_grid(monkeypatch):
    """Uniform over the times above 0: chi-square with 9 degrees of freedom below 46.4, but once in 2 * 10^6 runs."""
    seen = []
    original = paper.paper_batch
    monkeypatch.setattr(paper, "paper_batch", lambda s, x, t, xi: seen.append((t, xi)) or original(s, x, t, xi))
    recipe = PaperRecipe(steps=40, batch_size=8 * D, widths=(4,), schedule=Schedule.ddpm(100))
    fit_paper(Samples(data(30), RING), 1, recipe)
    times = torch.stack([t for t, _ in seen])
    assert times.shape == (40, 8, D)
    place = torch.searchsorted(torch.tensor(recipe.schedule.times[-2::-1], dtype=torch.float64), times - 1e-12)
    assert torch.isin(times, torch.tensor(recipe.schedule.times[:-1], dtype=torch.float64)).all()
    counts = np.bincount(place.flatten() // 10, minlength=10)
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 46.4
    assert len(times[0].unique()) > 0.4 * times[0].numel()
    assert all(xi.shape == (8, D, 3, 1) for _, xi in seen)


def test_each_pass_takes_each_sample_once(monkeypatch):
    z, seen = np.arange(12.0)[:, None, None] * np.ones((1, D, 1)), []
    monkeypatch.setattr(paper, "paper_batch", lambda s, x, t, xi: seen.append(x[:, 0, 0]) or paper_batch(s, x, t, xi))
    fit_paper(Samples(z, RING), 1, PaperRecipe(steps=6, batch_size=4 * D, widths=(4,)))
    passes = [torch.cat(seen[:3]), torch.cat(seen[3:])]
    assert all(sorted(one.tolist()) == list(range(12)) for one in passes)
    assert not torch.equal(*passes)


def test_the_two_losses_differ_by_the_weight_of_times():
    """|score + xi/s|^2 = |xi_hat - xi|^2 / s^2 where score = -xi_hat / s; with the noise that was added."""
    network = stirred(RING, 1)
    clean = torch.from_numpy(data(5))
    xi = window_noise(clean, network, torch.Generator().manual_seed(0))
    t = torch.linspace(0.01, 5, 5 * D, dtype=torch.float64).reshape(5, D)
    a, s = (scale(t)[..., None] for scale in (signal_scale, noise_scale))
    answer = network.on_windows(a[..., None] * clean[:, network.index] + s[..., None] * xi, None, t)
    of_noise, of_score = (
        paper_batch(PaperScore(network, kind), clean, t, xi).squared_errors(network.on_windows)
        for kind in ("noise", "score")
    )
    torch.testing.assert_close(of_noise, (answer - xi[:, :, 0]) ** 2, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(of_score, (answer + xi[:, :, 0] / s) ** 2, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("radius", [0, 2])
def test_trained_network_approaches_the_exact_score_of_a_window(radius):
    """(3.11): -s times the score of the window's Gaussian is the best guess of the noise.

    Of the variance of the noise that the window explains, few percent are missing on fresh data and noise, most of them
    early, where the time that the network is given hardly changes.
    """
    recipe = PaperRecipe(steps=500, batch_size=60 * D, widths=(32, 32), learning_rate=3e-3)
    score = fit_paper(Samples(data(600), RING), radius, recipe)
    score.network.double()
    fresh = torch.from_numpy(data(400, seed=1))
    xi = window_noise(fresh, score.network, torch.Generator().manual_seed(5))
    window = RING.neighborhood(radius).index[0]
    block = COVARIANCE[np.ix_(window, window)]
    for t, allowed in ((0.2, 0.09), (0.5, 0.04), (2.0, 0.01)):
        a, s = signal_scale(t), noise_scale(t)
        inverse = np.linalg.inv(a**2 * block + s**2 * np.eye(len(window)))
        unexplained = 1 - s**2 * inverse[0, 0]
        batch = paper_batch(score, fresh, torch.full((400, D), t, dtype=torch.float64), xi)
        reached = batch.squared_errors(score.network.on_windows).mean()
        assert abs(float(reached) - unexplained) < allowed * (1 - unexplained)


def test_the_seed_decides_all():
    scores = []
    for seed, disturbance in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(disturbance)
        np.random.seed(disturbance)  # noqa: NPY002
        losses = []
        recipe = PaperRecipe(steps=5, batch_size=4 * D, widths=(8,), seed=seed)
        scores.append(
            (fit_paper(Samples(data(20), RING), 1, recipe, lambda _, loss, to=losses: to.append(loss)), losses)
        )
    assert all(torch.equal(one, same) for one, same in zip(weights(scores[0][0]), weights(scores[1][0]), strict=True))
    assert scores[0][1] == scores[1][1] != scores[2][1]
    assert not any(weight.requires_grad for weight in scores[0][0].network.parameters())


def test_steps_are_those_of_adam_along_half_a_cosine():
    """torch's class, fed with the same draws."""
    recipe = PaperRecipe(steps=6, batch_size=20 * D, widths=(8,), learning_rate=0.01)
    score = fit_paper(Samples(data(20), RING), 1, recipe)
    reference = PaperScore(PaperNetwork(RING, 1, widths=(8,)))
    optimizer = torch.optim.Adam(reference.network.parameters(), lr=0.01)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6)
    words = np.random.SeedSequence([0, 3]).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(words[0]))
    times = torch.tensor(recipe.schedule.times[:-1], dtype=torch.float64)
    for _ in range(6):
        batch = torch.from_numpy(data(20)).float()[torch.randperm(20, generator=generator)]
        t = times[torch.randint(1000, (20, D), generator=generator)]
        noised = paper_batch(reference, batch, t, window_noise(batch, reference.network, generator))
        loss = noised.squared_errors(reference.network.on_windows).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    for one, same in zip(weights(score), weights(reference), strict=True):
        torch.testing.assert_close(one, same, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PaperRecipe(steps=0), "steps must be at least 1"),
        (lambda: PaperRecipe(learning_rate=math.inf), "learning_rate must be above 0 and finite"),
        (lambda: PaperRecipe(seed=-1), "seed must be at least 0"),
        (lambda: PaperRecipe(widths=()), r"widths must have at least one hidden layer, got \(\); .*64"),
        (lambda: PaperRecipe(predicts="x"), 'predicts must be "noise" or "score", got \'x\'; use'),
        (lambda: PaperScore(stirred(RING, 1), "data"), 'predicts must be "noise" or "score"'),
        (lambda: PaperNetwork(RING, 1, widths=(0,)), "widths must be at least 1"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
