"""Localized Schroedinger bridges and Stein descent: against loops over samples, exact Gaussian laws, and each other.

Statistical bounds are 4 standard errors, a false-alarm rate of 6.3e-5 for each number; seeds are fixed.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy import stats

from nearfield.conditional import UnsupportedError
from nearfield.datasets import AutoregressiveChain
from nearfield.graph import DependencyGraph
from nearfield.module import describe, rebuild
from nearfield.noise import Stream
from nearfield.posterior import LocalizedSchroedingerBridge, MessagePassingSVGD
from nearfield.posterior import bridge as bridges
from nearfield.posterior.kernel import Windows
from nearfield.posterior.law import gaussian_markov, phi4
from nearfield.sampling.sampler import default_sampler
from nearfield.score.evidence import Evidence

CHAIN = DependencyGraph.chain(6)
GRID = DependencyGraph.grid((3, 4))
DATA = np.random.default_rng(0).normal(size=(40, 12, 2))


def fitted(**settings) -> LocalizedSchroedingerBridge:
    return LocalizedSchroedingerBridge.fit(DATA, GRID, 1, **settings)


def ar1(d: int, alpha: float = 0.5) -> np.ndarray:
    return alpha ** np.abs(np.subtract.outer(np.arange(d), np.arange(d)))


def test_averages_are_those_of_a_loop_over_samples():
    bridge = fitted(bandwidth=np.linspace(0.2, 0.6, 12))
    z = np.random.default_rng(1).normal(size=(3, 12, 2))
    found = bridge.drift(torch.from_numpy(z)).numpy()
    for j in range(12):
        window = np.flatnonzero(GRID.distance_matrix()[j] <= 1)
        e = bridge.bandwidth[j].item()
        between = ((DATA[:, None, window] - DATA[None, :, window]) ** 2).sum((2, 3))
        kernel, v = np.exp(-between / (4 * e)), np.ones(40)
        for _ in range(60):
            v = np.sqrt(v / (kernel @ v))
        np.testing.assert_allclose(v[:, None] * kernel * v @ np.ones(40), 1, rtol=1e-10)
        weight = v * np.exp(-((z[:, None, window] - DATA[None, :, window]) ** 2).sum((2, 3)) / (4 * e))
        mean = weight @ DATA[:, j] / weight.sum(1, keepdims=True)
        np.testing.assert_allclose(found[:, j], (mean - z[:, j]) / e, rtol=1e-8, atol=1e-8)


def test_the_chain_leaves_the_samples_as_they_are():
    """Rows and columns of the scaled kernel sum to 1, so the mean of the averages at the samples is theirs."""
    bridge = fitted()
    mean = (bridge.drift(bridge.data) * bridge.bandwidth[:, None] + bridge.data).mean(0)
    torch.testing.assert_close(mean, bridge.data.mean(0), rtol=0, atol=1e-9)


def test_held_out_loss_is_that_of_a_score_by_differentiation():
    e = 0.5
    found = bridges._held_out_loss(
        Windows(GRID, 1).distances(torch.from_numpy(DATA), torch.from_numpy(DATA), torch.tensor([5])),
        torch.from_numpy(DATA[:, 5][None]),
        torch.tensor([[[e]]]),
        4,
    )
    total = 0.0
    for k in range(4):
        out = np.arange(40) % 4 == k
        part = LocalizedSchroedingerBridge.fit(DATA[~out], GRID, 1, bandwidth=e)
        for x in torch.from_numpy(DATA[out]):
            jacobian = torch.autograd.functional.jacobian(lambda x, part=part: part.drift(x[None])[0, 5], x)
            total += 0.5 * part.drift(x[None])[0, 5].square().sum() + jacobian[:, 5].trace()
    np.testing.assert_allclose(found.item(), total / 40, rtol=1e-8)


def test_a_vertex_does_not_read_beyond_its_window():
    bridge = fitted()
    x = torch.from_numpy(DATA[:2])
    far = x.clone()
    far[:, GRID.distance_matrix()[0] > 1] += 5.0
    assert torch.equal(bridge.drift(x)[:, 0], bridge.drift(far)[:, 0])


def test_variance_of_a_gaussian_is_of_second_order_in_the_bandwidth():
    """Exact for many samples: the paper's chain has sqrt(1 + e^2) - e, the symmetric one sqrt(1 + e^2)."""
    e, x = 0.5, stats.norm.ppf((np.arange(200) + 0.5) / 200)
    data = x[:, None, None] / x.std()
    bridge = LocalizedSchroedingerBridge.fit(data, DependencyGraph.chain(1), 0, bandwidth=e, steps=20)
    y = bridge.sample(4000, seed=2)
    assert abs(y.var() - np.sqrt(1 + e**2)) < 4 * np.sqrt(2 / 4000) * y.var() + 0.01


def test_draws_are_closer_to_the_law_than_those_of_one_global_kernel():
    C, rng = ar1(20), np.random.default_rng(3)
    x = (rng.normal(size=(200, 20)) @ np.linalg.cholesky(C).T)[..., None]
    graph = DependencyGraph.chain(20)
    error = {}
    for radius in (1, 19):
        y = LocalizedSchroedingerBridge.fit(x, graph, radius, bandwidth=0.4, steps=15).sample(300, seed=1)[..., 0]
        error[radius] = np.square(y.T @ y / len(y) - C).sum()
    assert error[1] < 0.7 * error[19]


def test_clamping_conditions():
    """Means and variances of an AR(1) chain given its ends against the exact ones; 1000 samples err by .1."""
    C, rng = ar1(5, 0.7), np.random.default_rng(4)
    x = (rng.normal(size=(1000, 5)) @ np.linalg.cholesky(C).T)[..., None]
    bridge = LocalizedSchroedingerBridge.fit(x, DependencyGraph.chain(5), 1, bandwidth=0.12, steps=40)
    seen = np.array([True, False, False, False, True])
    values = np.array([1.2, 0, 0, 0, -1.0])[:, None]
    both = Evidence.of_entries(seen, np.repeat(values.T, 2, axis=0), np.arange(2))
    y, other = bridge.condition(both).sample(300, seed=1).transpose(1, 0, 2)
    assert (y[:, seen] == values[seen, 0]).all()
    solved = np.linalg.solve(C[np.ix_(seen, seen)], C[np.ix_(seen, ~seen)])
    mean = values[seen, 0] @ solved
    covariance = C[np.ix_(~seen, ~seen)] - C[np.ix_(~seen, seen)] @ solved
    np.testing.assert_allclose(y[:, ~seen].mean(0), mean, atol=0.25)
    np.testing.assert_allclose(y[:, ~seen].var(0), np.diag(covariance), atol=0.15)
    assert not np.array_equal(y, other)
    np.testing.assert_allclose(other[:, ~seen].mean(0), mean, atol=0.25)
    with pytest.raises(UnsupportedError, match="exact values only"):
        bridge.condition(replace(both, rows=sp.csr_array((1, 5))))


def test_draws_do_not_depend_on_batches_and_survive_storage():
    bridge = fitted(steps=5)
    y = bridge.sample(7, seed=3)
    np.testing.assert_array_equal(bridge.sample(7, seed=3, batch_size=7), y)
    np.testing.assert_allclose(bridge.sample(7, seed=3, batch_size=2), y, rtol=1e-12, atol=1e-12)
    again = rebuild(describe(bridge), bridge.state_dict(), GRID)
    np.testing.assert_array_equal(again.sample(7, seed=3), y)
    assert not np.array_equal(bridge.sample(7, seed=4), y)
    assert not np.array_equal(bridge.sample(7, seed=3, stream=Stream.REPORT), y)
    steps = []
    bridge.sample(3, seed=0, batch_size=2, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(k, 10) for k in range(1, 11)]


@pytest.mark.usefixtures("unchecked")
def test_bridges_refuse_what_cannot_be_meant():
    with pytest.raises(ValueError, match=r"data must have shape \(sample, 12, channel\)"):
        LocalizedSchroedingerBridge.fit(DATA[:, :3], GRID, 1)
    with pytest.raises(ValueError, match="with at least 4 samples"):
        LocalizedSchroedingerBridge.fit(DATA[:3], GRID, 1)
    with pytest.raises(ValueError, match="data must be finite"):
        LocalizedSchroedingerBridge.fit(np.where(DATA > 2, np.nan, DATA), GRID, 1)
    with pytest.raises(ValueError, match="data must vary at every vertex, got one value at vertex 3"):
        LocalizedSchroedingerBridge.fit(np.where(np.arange(12)[:, None] == 3, 1.0, DATA), GRID, 1)
    with pytest.raises(ValueError, match="bandwidth must be positive"):
        fitted(bandwidth=0.0)
    with pytest.raises(ValueError, match="sampler must be None"):
        fitted().sample(1, seed=0, sampler=default_sampler())
    with pytest.raises(ValueError, match="cannot be extended"):
        fitted().extended(GRID, GRID)
    with pytest.raises(UnsupportedError):
        fitted().log_prob(DATA)


def test_a_step_of_stein_descent_is_the_formula():
    from nearfield.posterior.stein import _direction

    law = phi4(CHAIN)
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 6)))
    slope = law.gradient(x)
    for radius in (1, None):
        found = _direction(law, Windows(CHAIN, radius), x)
        for j in range(6):
            window = np.arange(6) if radius is None else np.arange(max(0, j - 1), min(6, j + 2))
            apart = x[:, None, window] - x[None, :, window]
            h = apart.square().sum() / 20 / np.log(6)
            expected = torch.zeros(5, dtype=torch.float64)
            for a in range(5):
                for b in range(5):
                    y = x[b].clone().requires_grad_()
                    kernel = torch.exp(-(y[window] - x[a, window]).square().sum() / h)
                    (push,) = torch.autograd.grad(kernel, y)
                    expected[a] += (kernel.detach() * slope[b, j] + push[j]) / 5
            torch.testing.assert_close(found[:, j], expected, rtol=1e-10, atol=1e-10)


def test_message_passing_keeps_the_variance_that_plain_descent_loses():
    law = gaussian_markov(AutoregressiveChain(0.5, 40).precision)
    local = MessagePassingSVGD(n_steps=100).sample(law, 50)
    plain = MessagePassingSVGD(radius=None, n_steps=100).sample(law, 50)
    assert 0.7 < local.var(0).mean() < 1.1
    assert plain.var(0).mean() < 0.4
    assert np.abs(local.mean(0)).max() < 0.1


def test_one_dimension_has_the_quantiles_of_the_law():
    """200 particles of a skewed law of one variable against quadrature."""
    from nearfield.posterior.law import poisson_observations

    law = poisson_observations(np.eye(1), [0], [3])
    x = MessagePassingSVGD(n_steps=200).sample(law, 200)[:, 0]
    nodes = np.linspace(-6, 6, 4001)
    weight = np.exp(law.log_density(torch.from_numpy(nodes[:, None])).numpy())
    mean = (weight * nodes).sum() / weight.sum()
    std = np.sqrt((weight * (nodes - mean) ** 2).sum() / weight.sum())
    assert abs(x.mean() - mean) < 0.03
    assert abs(x.std() / std - 1) < 0.1


@pytest.mark.usefixtures("unchecked")
def test_stein_descent_refuses_what_cannot_be_meant():
    law = phi4(CHAIN)
    with pytest.raises(ValueError, match="n_particles must be at least 2"):
        MessagePassingSVGD().sample(law, 1)
    with pytest.raises(ValueError, match="start must have shape"):
        MessagePassingSVGD().sample(law, 2, start=np.zeros((2, 5)))
    with pytest.raises(ValueError, match="step_size must be positive"):
        MessagePassingSVGD(step_size=0.0)
    with pytest.raises(ValueError, match="radius must be at least 0"):
        MessagePassingSVGD(radius=-1)
