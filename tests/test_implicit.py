"""Scores of the data without noise: closed forms against windowed precisions, derivatives against whole Jacobians."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nearfield.graph import DependencyGraph
from nearfield.module import describe, rebuild
from nearfield.posterior import MALAWithinGibbs, NetworkDataScore, PolynomialScore, implicit, langevin
from nearfield.posterior.law import phi4
from nearfield.score.window import WindowNetwork

GRID = DependencyGraph.grid((3, 3))
DATA = np.random.default_rng(0).normal(size=(300, 9, 2)) * [1.0, 2.0] + [0.3, 0.0]
DATA[:, 1:] += 0.5 * DATA[:, :-1]
STATES = torch.from_numpy(DATA[:4])


def network(**settings) -> WindowNetwork:
    made = WindowNetwork(GRID, 1, n_channels=2, width=8, depth=1, **settings)
    generator = torch.Generator().manual_seed(1)
    for weight in made.parameters():
        weight.data += 0.3 * torch.randn(weight.shape, generator=generator)
    return made.requires_grad_(False)


def scores() -> dict[str, implicit.DataScore]:
    scale = np.sqrt(np.square(DATA).mean((0, 1)))
    return {
        "polynomial": PolynomialScore.fit(DATA, GRID, 1, degree=3, mixed=2),
        "network": NetworkDataScore(network(), scale).double(),
    }


def test_linear_scores_are_rows_of_the_inverse_of_the_covariance_of_each_window(monkeypatch):
    monkeypatch.setattr(implicit, "_RIDGES", np.array([1e-10]))
    found = PolynomialScore.fit(DATA, GRID).score(STATES).numpy()
    for j in range(9):
        window = [j, *np.flatnonzero(GRID.distance_matrix()[j] == 1)]
        x = DATA[:, window].reshape(300, -1)
        inverse = np.linalg.inv(np.cov(x.T, bias=True))
        centred = DATA[:4, window].reshape(4, -1) - x.mean(0)
        np.testing.assert_allclose(found[:, j], -centred @ inverse[:, :2], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["polynomial", "network"])
def test_derivatives_are_those_of_the_whole_jacobian(name):
    score = scores()[name]
    whole = torch.autograd.functional.jacobian(lambda x: score.score(x), STATES)
    whole = torch.stack([whole[n, :, :, n] for n in range(4)])
    table = GRID.neighborhood(1)
    found = score.hessian(STATES)
    for j in range(9):
        for k in range(table.index.shape[1]):
            expected = whole[:, j, :, table.index[j, k]] if table.present[j, k] else torch.zeros(4, 2, 2)
            torch.testing.assert_close(found[:, j, k], expected.double(), rtol=1e-8, atol=1e-10)
    beyond = GRID.distance_matrix() > 1
    assert not whole.transpose(2, 3)[:, beyond].any()
    own = torch.stack([whole[:, j, :, j].diagonal(dim1=-2, dim2=-1).sum(-1) for j in range(9)], dim=1)
    loss = (0.5 * score.score(STATES).square().sum(-1) + own).mean(0)
    torch.testing.assert_close(score.loss(STATES), loss, rtol=1e-8, atol=1e-10)


def test_polynomials_are_the_minimum(monkeypatch):
    monkeypatch.setattr(implicit, "_RIDGES", np.array([1e-10]))
    score = PolynomialScore.fit(DATA, DependencyGraph.chain(9), 1, degree=3, mixed=2)
    score.coefficients.requires_grad_()
    score.loss(torch.from_numpy(DATA)).sum().backward()
    # Features of absent vertices are 0: any coefficient is least.
    assert score.coefficients.grad.abs().max() < 1e-6


def test_the_ridge_is_that_of_least_held_out_loss(monkeypatch):
    few, rest = DATA[:25], np.arange(25) % 5
    losses = []
    for ridge in (1e-3, 0.1, 1.0):
        monkeypatch.setattr(implicit, "_RIDGES", np.array([ridge]))
        losses.append(_held_out(few, rest))
    monkeypatch.setattr(implicit, "_RIDGES", np.array([1e-3, 0.1, 1.0]))
    best = np.argmin(losses, axis=0)
    assert len(set(best.ravel())) > 1
    found = PolynomialScore.fit(few, GRID).coefficients
    for k, ridge in enumerate((1e-3, 0.1, 1.0)):
        monkeypatch.setattr(implicit, "_RIDGES", np.array([ridge]))
        same = PolynomialScore.fit(few, GRID).coefficients
        torch.testing.assert_close(found[best == k], same[best == k], rtol=1e-8, atol=1e-10)


def _held_out(x: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Held-out loss of each component, by moments of features."""
    total = np.zeros((9, 2))
    whole = PolynomialScore.fit(x, GRID)
    windows = whole.gather(torch.from_numpy(x))
    phi = whole.features(windows).numpy()
    norm = np.sqrt(np.square(phi).mean(0))
    norm[norm == 0] = 1
    for k in range(5):
        kept, out = phi[fold != k] / norm, phi[fold == k] / norm
        for j in range(9):
            for c in range(2):
                b = np.zeros(phi.shape[2])
                b[1 + c] = 1 / norm[j, 1 + c]
                A = kept[:, j].T @ kept[:, j] / len(kept) + implicit._RIDGES[0] * np.eye(len(b))
                theta = -np.linalg.solve(A, b)
                total[j, c] += (0.5 * (out[:, j] @ theta) ** 2 + b @ theta).sum()
    return total


def test_scores_of_the_phi4_chain_are_close_at_every_vertex():
    """Of 1500 samples; some 1 % of the mean square, in the mean over vertices."""
    d = 16
    law = phi4(DependencyGraph.chain(d), boundary="zero", blocks=np.arange(d) // 4)
    x = MALAWithinGibbs(0.15, None).sample(law, 1, chains=1500, burn_in=40, start=np.zeros(d)).values[:, 0]
    true = law.gradient(torch.from_numpy(x))
    score = PolynomialScore.fit(x[..., None], law.graph, 1, degree=3)
    error = (score.score(torch.from_numpy(x)[..., None])[..., 0] - true).square().mean(0) / true.square().mean(0)
    assert error.mean() < 0.015
    linear = PolynomialScore.fit(x[..., None], law.graph, 1)
    assert linear.loss(torch.from_numpy(x)[..., None]).mean() > score.loss(torch.from_numpy(x)[..., None]).mean() + 0.1


def test_networks_are_trained_by_held_out_loss():
    x = np.random.default_rng(2).normal(size=(400, 9, 1)) + 0.5
    first = NetworkDataScore(WindowNetwork(GRID, 0, width=8, depth=1), np.sqrt(np.square(x).mean((0, 1))))
    score = NetworkDataScore.fit(x, first.network, epochs=10)
    held = torch.from_numpy(x[::5]).float()
    assert score.loss(held).mean() < first.loss(held).mean() - 0.02
    again = NetworkDataScore.fit(x, first.network, epochs=10)
    assert torch.equal(again.score(held), score.score(held))


def test_langevin_chains_have_their_exact_covariance():
    """(P (1 - h P / 2))^-1 for a linear score; 6 numbers at 4 standard errors, a false-alarm rate of 4e-4."""
    P, h = np.array([[1.5, -0.5, 0.0], [-0.5, 1.5, -0.5], [0.0, -0.5, 1.5]]), 0.3
    graph = DependencyGraph.chain(3)
    table = graph.neighborhood(1)
    rows = np.where(table.present, -np.take_along_axis(P, table.index, axis=1), 0.0)
    coefficients = np.concatenate([np.zeros((3, 1)), rows], axis=1)[:, None]
    score = PolynomialScore(graph, np.ones(1), coefficients)
    x = langevin(score, np.zeros((2000, 3, 1)), step_size=h, n_steps=40, seed=1)[..., 0]
    expected = np.linalg.inv(P @ (np.eye(3) - h * P / 2))
    spread = np.sqrt((np.outer(np.diag(expected), np.diag(expected)) + expected**2) / 2000)
    assert (np.abs(x.T @ x / 2000 - expected) < 4 * spread).all()


@pytest.mark.parametrize("name", ["polynomial", "network"])
def test_scores_survive_storage(name):
    score = scores()[name].float()
    again = rebuild(describe(score), score.state_dict(), GRID)
    assert torch.equal(again.score(STATES.float()), score.score(STATES.float()))


@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_meant_is_refused():
    with pytest.raises(ValueError, match=r"data must have shape \(sample, 9, channel\) with at least 5"):
        PolynomialScore.fit(DATA[:3], GRID)
    with pytest.raises(ValueError, match="data must be finite"):
        PolynomialScore.fit(np.full((9, 9, 1), np.nan), GRID)
    with pytest.raises(ValueError, match="mixed must be at most degree, 1, got 2"):
        PolynomialScore.fit(DATA, GRID, mixed=2)
    with pytest.raises(ValueError, match="network must read all windows"):
        NetworkDataScore(WindowNetwork(GRID, 1, n_context=2), np.ones(1))
    score = PolynomialScore.fit(DATA, GRID)
    with pytest.raises(ValueError, match="step_size must be positive"):
        langevin(score, DATA, step_size=0.0, n_steps=1)
    with pytest.raises(ValueError, match="step_size must be smaller than 100"):
        langevin(score, DATA[:5], step_size=100.0, n_steps=300)
