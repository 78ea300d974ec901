"""The loss: closed forms, what counts, noise, and vertices trained apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nearfield.fitting import matching
from nearfield.fitting.closed_form import fit_windowed
from nearfield.fitting.matching import (
    DenoisingBatch,
    HeldOut,
    NoiseLevels,
    errors,
    held_out,
    training_draws,
    vertex_loss,
    window_noise,
)
from nearfield.fitting.pooling import Pooling
from nearfield.graph import DependencyGraph
from nearfield.paper.vertex import VertexNetworks
from nearfield.process import noise_scale, noise_to_signal, signal_scale, time_of
from nearfield.samples import Samples
from nearfield.score.base import Score
from nearfield.score.gaussian import WindowedGaussianScore, WindowSpectrum
from nearfield.score.hybrid import HybridScore, NetworkScore
from nearfield.score.stencil import StencilNetwork
from nearfield.score.window import WindowNetwork

D = 6
CHAIN = DependencyGraph.chain(D)


def covariance() -> np.ndarray:
    root = np.random.default_rng(0).normal(size=(D, D + 2))
    return root @ root.T / D + 0.1 * np.eye(D)


def exact(c: np.ndarray) -> WindowedGaussianScore:
    """The denoiser of N(0, C): every window covers the chain."""
    table = CHAIN.neighborhood(D - 1)
    here = table.present[:, :, None] & table.present[:, None, :]
    block = np.where(here, c[table.index[:, :, None], table.index[:, None, :]], np.eye(table.index.shape[1]))
    return WindowedGaussianScore(
        {D - 1: WindowSpectrum(table.index, *np.linalg.eigh(block), np.arange(len(block)))}, ((1.0, D - 1),)
    )


def cubature(c: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Data and noise with exactly the second moments of N(0, C) and N(0, I): quadratics have their exact mean."""
    points = np.sqrt(4 * D) * np.concatenate([np.eye(2 * D), -np.eye(2 * D)]) / np.sqrt(2)
    clean = points[:, :D] @ np.linalg.cholesky(c).T
    return torch.from_numpy(clean[..., None]), torch.from_numpy(points[:, D:, None])


@pytest.mark.parametrize("sigma", [0.02, 0.3, 1.0, 10.0])
def test_loss_of_the_exact_denoiser_is_its_closed_form(sigma):
    """The posterior covariance is s^2 C (a^2 C + s^2)^{-1}; weighted by 1/s^2 its diagonal is the loss."""
    c, t = covariance(), time_of(sigma)
    clean, xi = cubature(c)
    squared = errors(exact(c), clean, torch.full((len(clean),), t, dtype=torch.float64), xi)
    truth = np.diag(c @ np.linalg.inv(signal_scale(t) ** 2 * c + noise_scale(t) ** 2 * np.eye(D)))
    np.testing.assert_allclose(vertex_loss(squared), truth, rtol=1e-10)
    np.testing.assert_allclose(squared.mean(), truth.mean(), rtol=1e-10)


def test_loss_is_score_matching_weighted_by_the_noise_to_signal_ratio_squared():
    c = covariance()
    score, (clean, xi) = exact(c), cubature(c)
    t = torch.linspace(0.01, 3, len(clean), dtype=torch.float64)
    a, s, sigma = (f(t)[:, None, None] for f in (signal_scale, noise_scale, noise_to_signal))
    matching = sigma**2 * (score.score(a * clean + s * xi, t) + xi / s) ** 2
    torch.testing.assert_close(errors(score, clean, t, xi), matching, rtol=1e-8, atol=1e-10)


def test_nothing_learned_costs_the_variance_at_every_level():
    clean, xi = cubature(np.eye(D))
    score = NetworkScore(StencilNetwork(CHAIN, 1).requires_grad_(False))
    for sigma in (0.02, 1.0, 50.0):
        squared = errors(score, clean, torch.full((len(clean),), time_of(sigma), dtype=torch.float64), xi)
        np.testing.assert_allclose(vertex_loss(squared), np.ones(D), rtol=1e-10)


@pytest.mark.parametrize("padding", ["absent", "reflect"])
@pytest.mark.parametrize("kind", [WindowNetwork, VertexNetworks])
def test_windows_of_one_field_have_the_errors_of_the_field(kind, padding):
    network = kind(CHAIN, 2, n_channels=2, padding=padding).double().requires_grad_(False)
    for weight in network.parameters():
        weight += 0.2 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    clean, xi = torch.randn(2, 9, D, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = torch.linspace(0.01, 3, 9, dtype=torch.float64)
    together = errors(NetworkScore(network), clean, t, xi)
    torch.testing.assert_close(
        DenoisingBatch.of_windows(network, clean, t[:, None], network.windows(xi)).squared_errors(network.on_windows),
        together,
    )


def test_windows_have_noise_of_their_own():
    """Independent between windows, one number for a vertex that a window reads twice."""
    network, clean = VertexNetworks(CHAIN, 2, padding="reflect"), torch.zeros(4000, D, 1, dtype=torch.float64)
    xi = window_noise(clean, network, torch.Generator().manual_seed(0))
    flat = torch.cat([xi[:, 0, :, 0], xi[:, 1, :, 0]], dim=1)
    index = network.index[:2].flatten()
    alike = (index[:, None] == index) & (torch.arange(10)[:, None] // 5 == torch.arange(10) // 5)
    # 51 free correlations, each within 5.9 / sqrt(4000) but for once in 10^6 runs
    torch.testing.assert_close(torch.corrcoef(flat.T), alike.double(), atol=5.9 / np.sqrt(4000), rtol=0)
    assert torch.equal(xi[:, 0, 1], xi[:, 0, 2])


def test_times_of_a_batch_are_one_in_each_equal_part_of_the_law():
    levels = NoiseLevels(center=-0.3, spread=0.9)
    for seed in range(3):
        t, _ = training_draws(levels, torch.zeros(50, 2, 1), torch.Generator().manual_seed(seed))
        normal = (torch.log(noise_to_signal(t)) + 0.3) / 0.9
        part = 50 * torch.special.ndtr(normal)
        assert sorted(part.floor().int().tolist()) == list(range(50))
        assert not torch.equal(part.floor(), torch.arange(50.0))
    np.testing.assert_allclose(
        levels.grid(2), [time_of(float(np.exp(-0.3 + 0.9 * z))) for z in (-0.67448975, 0.67448975)], rtol=1e-7
    )


def test_held_out_noise_is_fixed():
    """The same at every call, for every score and batch, whatever else was drawn; other levels have other noise."""
    clean = torch.randn(7, D, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    seen: list[torch.Tensor] = []

    class Listening(Score):
        n_vertices, n_channels, radius = D, 1, 0

        def forward(self, x, t):
            seen.append((x - signal_scale(t)[:, None, None] * clean[: len(x)]) / noise_scale(t)[:, None, None])
            return x

    times = NoiseLevels().grid(3)
    held_out(Listening(), clean, times, seed=4)
    torch.randn(5)
    held_out(Listening(), clean, times, seed=4)
    for first, second in zip(seen[:3], seen[3:], strict=True):
        assert torch.equal(first, second)
    assert (seen[0] - seen[1]).abs().min() > 1e-6
    score = exact(covariance())
    whole = held_out(score, clean, times, seed=4)
    np.testing.assert_allclose(held_out(score, clean, times, seed=4, batch_size=2), whole, rtol=1e-12)
    assert (whole != held_out(score, clean, times, seed=5)).all()


def test_held_out_loss_is_that_of_the_exact_denoiser():
    """Mean over 4000 samples against the closed form: false alarm 1e-6 over the three levels."""
    c = covariance()
    clean = torch.from_numpy(np.random.default_rng(1).normal(size=(4000, D)) @ np.linalg.cholesky(c).T)[..., None]
    times = (time_of(0.1), time_of(1.0), time_of(5.0))
    loss = held_out(exact(c), clean, times, seed=0)
    for t, each in zip(times, loss, strict=True):
        truth = np.diag(c @ np.linalg.inv(signal_scale(t) ** 2 * c + noise_scale(t) ** 2 * np.eye(D))).mean()
        assert abs(each.mean() - truth) < 5.2 * each.std() / np.sqrt(len(each))


def hybrid(gaussian: WindowedGaussianScore) -> HybridScore:
    network = StencilNetwork(CHAIN, 1, n_context=2, width=4).double().requires_grad_(False)
    for weight in network.parameters():
        weight += 0.2 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return HybridScore(network, gaussian, np.full((4, 1), 0.4))


def test_errors_of_a_network_are_those_of_its_score():
    clean, xi = cubature(covariance())
    t = torch.linspace(0.01, 3, len(clean), dtype=torch.float64)
    for score in (hybrid(exact(covariance())), NetworkScore(StencilNetwork(CHAIN, 1).double())):
        squared = DenoisingBatch.of_score(score, clean, t, xi).squared_errors(score.network)
        torch.testing.assert_close(squared, errors(score, clean, t, xi), rtol=1e-10, atol=1e-12)


def test_the_target_is_the_answer_that_makes_the_denoiser_exact():
    """F = target / c_out gives D = x_0 and no error, of a network with a context and of one without."""
    clean, xi = cubature(covariance())
    t = torch.linspace(0.01, 3, len(clean), dtype=torch.float64)
    a, s = (scale(t)[:, None, None] for scale in (signal_scale, noise_scale))
    for score in (hybrid(exact(covariance())), NetworkScore(StencilNetwork(CHAIN, 1).double())):
        batch = DenoisingBatch.of_score(score, clean, t, xi)
        answer = batch.target / batch.c_out
        assert batch.squared_errors(lambda *_, answer=answer: answer).max() < 1e-28
        oracle = torch.nn.Linear(1, 1).double()
        oracle.forward = lambda *_, answer=answer: answer
        x = a * clean + s * xi
        torch.testing.assert_close(score.precondition(x, t).denoise(oracle, x, t), clean, rtol=1e-11, atol=1e-11)


def test_held_out_loss_is_the_same_kept_or_not_and_whatever_the_weights(monkeypatch):
    """What is kept is what the network does not change: asked for once, or at every call where it is too large."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(9, D, 1, generator=generator, dtype=torch.float64)
    score, times = hybrid(exact(covariance())), NoiseLevels().grid(4)
    asked = []
    precondition = HybridScore.precondition
    monkeypatch.setattr(HybridScore, "precondition", lambda *a: asked.append(1) or precondition(*a))
    for largest, calls in ((matching.LARGEST_STORE, 8), (4 * 9 * D * 4 - 1, 16), (4 * 9 * D * 4, 8)):
        monkeypatch.setattr(matching, "LARGEST_STORE", largest)
        asked.clear()
        kept = HeldOut(score, clean, times, seed=4, batch_size=5)
        losses = []
        for _ in range(2):
            losses.append(kept.loss(score.network))
            score.network.leave.bias += 0.1
        assert len(asked) == calls
        score.network.leave.bias -= 0.2
        again = held_out(score, clean, times, seed=4).mean(axis=0)
        np.testing.assert_allclose(losses[0], again, rtol=1e-10)
        assert (abs(losses[1] - again) > 1e-4).all()


def trained(network: VertexNetworks, clean: torch.Tensor, independent: bool) -> VertexNetworks:
    """A few steps of Adam on the sum (3.7), the noise drawn for all vertices and a block using its part."""
    levels, generator = NoiseLevels(), torch.Generator().manual_seed(0)
    everyone = VertexNetworks(CHAIN, 1, widths=(8,))
    rows = torch.tensor(network.vertices if network.vertices is not None else range(D))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for step in range(6):
        if independent:
            t = levels.times(torch.rand(len(clean), D, generator=generator, dtype=torch.float64))[:, rows]
            xi = window_noise(clean, everyone, generator)[:, rows]
        else:
            t, field = training_draws(levels, clean, generator)
            t, xi = t[:, None], network.windows(field)
        optimizer.zero_grad()
        vertex_loss(
            DenoisingBatch.of_windows(network, clean, t, xi).squared_errors(network.on_windows)
        ).sum().backward()
        optimizer.step()
        network.prune() if step == 3 else network.project()
    return network


@pytest.mark.parametrize("independent", [False, True])
def test_vertices_trained_apart_are_those_trained_together(independent):
    """(3.8): in blocks, or each alone, with the same draws."""
    clean = torch.randn(20, D, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def fresh(**options) -> VertexNetworks:
        return VertexNetworks(CHAIN, 1, widths=(8,), sparsity=25, bound=0.9, **options).double()

    together = trained(fresh(), clean, independent)
    for blocks in ([(0, 1, 2), (5, 3, 4)], [(j,) for j in range(D)]):
        apart = fresh()
        for vertices in blocks:
            apart.take(trained(fresh(vertices=vertices), clean, independent))
        torch.testing.assert_close(apart.weights, together.weights, rtol=1e-9, atol=1e-12)
        assert torch.equal(apart.kept, together.kept)
    assert ((together.weights - fresh().weights).abs().amax(dim=1) > 1e-3).all()
    assert ((together.weights != 0).sum(dim=1) <= 25).all()


def test_hybrid_learns_to_be_the_gaussian_of_its_context():
    """A network that returns its context is the Gaussian score: its error vanishes against its denoiser."""
    x = np.random.default_rng(0).normal(size=(40, D, 1)).cumsum(axis=1)
    gaussian = fit_windowed(Samples(x / x.std(axis=0), CHAIN), ((1.0, 3),), Pooling(1.0))[2]
    generator = torch.Generator().manual_seed(0)
    hybrid = HybridScore(StencilNetwork(CHAIN, 1, n_context=2, width=16), gaussian)
    optimizer = torch.optim.Adam(hybrid.network.parameters(), lr=1e-2)
    gaps = []
    for _ in range(150):
        clean = torch.randn(64, D, 1, generator=generator)
        t, xi = training_draws(NoiseLevels(), clean, generator)
        s = noise_scale(t).float()[:, None, None]
        noised = signal_scale(t).float()[:, None, None] * clean + s * xi
        loss = (((hybrid.denoise(noised, t) - gaussian.denoise(noised, t)) / s) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        gaps.append(loss.item())
    assert np.mean(gaps[-10:]) < 0.02 * gaps[0]
