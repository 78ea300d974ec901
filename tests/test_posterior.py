"""Densities of local factors and their block samplers, against whole densities, exact moments and a transfer matrix.

Moments are compared in standard errors of independent chains. A bound of 4 has a false-alarm rate of 6.3e-5 for each
number; seeds are fixed, and controls with a planted error exceed it.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from scipy import sparse, stats

from nearfield.graph import DependencyGraph
from nearfield.posterior import Factors, LocalDensity, MALAWithinGibbs, MetropolisWithinGibbs, gibbs
from nearfield.posterior.law import (
    gaussian_markov,
    linear_inverse,
    logistic_observations,
    phi4,
    poisson_observations,
    total_variation,
)

GRID = DependencyGraph.grid((5, 6))
CHAIN = DependencyGraph.chain(30)
KNN = DependencyGraph.knn(np.random.default_rng(3).normal(size=(30, 2)), 4)
GRAPHS = {"chain": CHAIN, "grid": GRID, "knn": KNN}
RNG = np.random.default_rng(1)
BLUR = sparse.diags_array([0.2, 0.5, 0.3], offsets=[-1, 0, 1], shape=(30, 30)).tocsr()
DATA = RNG.normal(size=30)
SAMPLERS = [MALAWithinGibbs, MetropolisWithinGibbs]


def precision_on(graph, seed=0):
    """Diagonally dominant precision with unequal variances and couplings of either sign."""
    rng = np.random.default_rng(seed)
    P = sparse.triu(graph.adjacency, 1).toarray() * rng.normal(size=(graph.n_vertices,) * 2)
    P = P + P.T
    return P + np.diag(np.abs(P).sum(1) + rng.uniform(0.3, 3.0, len(P)))


def laws(blocks=1):
    P = precision_on(GRID)
    return {
        "gaussian": gaussian_markov(precision_on(KNN), DATA, blocks),
        "phi4": phi4(GRID, 1.3, "zero", blocks),
        "logistic": logistic_observations(P, np.arange(0, 30, 2), np.arange(15) % 2, DATA, blocks),
        "poisson": poisson_observations(P, [3, 3, 7], [0, 2, 5], blocks=blocks),
        "inverse": linear_inverse(P, BLUR, DATA, 0.3, blocks=blocks),
        "variation": total_variation(CHAIN, 2.0, 0.1, BLUR[::3], DATA[::3], 0.3, blocks),
    }


NAMES = list(laws())


def states(n, seed=5):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, 30)))


@pytest.mark.parametrize("blocks", [1, np.arange(30) // 4, np.zeros(30, dtype=int)], ids=["1", "4", "all"])
@pytest.mark.parametrize("name", NAMES)
def test_changes_by_touched_factors_are_those_of_the_whole(name, blocks):
    law = laws(blocks)[name]
    x, y = states(2), states(2, 6)
    seen = []
    for color, part in enumerate(law.parts):
        changes = law.changes(x, y, color)
        for k, block in enumerate(part.blocks.tolist()):
            moved = torch.where(torch.from_numpy(law.blocks == block), y, x)
            whole = law.log_density(moved) - law.log_density(x)
            torch.testing.assert_close(changes[:, k], whole, rtol=1e-10, atol=1e-10)
            seen.append(block)
    assert sorted(seen) == list(range(law.n_blocks))


@pytest.mark.parametrize("name", NAMES)
def test_gradient_of_touched_factors_is_that_of_the_whole(name):
    law = laws(np.arange(30) // 4)[name]
    x, v = states(2), states(2, 6)
    jacobian = torch.autograd.functional.jacobian(lambda x: law.log_density(x).sum(), x)
    for part in law.parts:
        _, slope = part.gradient(x[:, part.support])
        torch.testing.assert_close(slope, jacobian[:, part.moving], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(law.gradient(x), jacobian)
    hessian = torch.autograd.functional.hessian(law.log_density, x[0])
    torch.testing.assert_close(law.hessian_product(x, v)[0], hessian @ v[0])
    beyond = ~(law.graph.distance_matrix() <= 1)
    assert not hessian.numpy()[beyond].any()  # (2.9)


@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("graph", GRAPHS.values(), ids=list(GRAPHS))
def test_blocks_of_a_colour_share_no_factor(graph, blocks):
    law = phi4(graph, blocks=blocks)
    first, second = np.nonzero(graph.adjacency.toarray())
    first, second = law.blocks[first], law.blocks[second]
    different = first != second
    assert (law.colors[first] != law.colors[second])[different].all()
    if graph is not KNN and blocks == 1:
        assert law.n_blocks == 30
        assert law.colors.max() == 1


def test_laws_are_their_formulas():
    x = states(3).numpy()
    precision = precision_on(GRID)
    inverse = laws()["inverse"]
    precise = -x @ (precision + BLUR.T @ BLUR / 0.3**2) + BLUR.T @ DATA / 0.3**2
    np.testing.assert_allclose(inverse.gradient(torch.from_numpy(x)), precise, rtol=1e-10, atol=1e-10)
    prior = -0.5 * np.einsum("ni,ij,nj->n", x, precision, x)
    counts = stats.poisson.logpmf([0, 2, 5], np.exp(x[:, [3, 3, 7]])).sum(1)
    found = laws()["poisson"].log_density(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(np.diff(found), np.diff(prior + counts), rtol=1e-10)
    from_mean = x - DATA
    prior = -0.5 * np.einsum("ni,ij,nj->n", from_mean, precision, from_mean)
    labels = stats.bernoulli.logpmf(np.arange(15) % 2, 1 / (1 + np.exp(-x[:, ::2]))).sum(1)
    found = laws()["logistic"].log_density(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, prior + labels, rtol=1e-10)
    grid = np.pad(x.reshape(-1, 5, 6), ((0, 0), (1, 1), (1, 1)))
    bonds = (np.diff(grid[:, :, 1:-1], axis=1) ** 2).sum((1, 2)) + (np.diff(grid[:, 1:-1], axis=2) ** 2).sum((1, 2))
    action = 0.5 * bonds + 0.25 * ((1 - x**2) ** 2).sum(1)
    np.testing.assert_allclose(laws()["phi4"].log_density(torch.from_numpy(x)), -1.3 * action, rtol=1e-10)


def off_by(draws, mean, covariance):
    """Errors of means and covariances in standard errors, from the spread of independent chains."""
    centred = draws.values - mean
    n = len(centred)
    products = np.einsum("cdi,cdj->cij", centred, centred) / centred.shape[1]
    upper = np.triu_indices(len(mean))
    found = np.concatenate([centred.mean(1), products[:, *upper]], axis=1)
    expected = np.concatenate([0 * mean, covariance[upper]])
    return np.abs(found.mean(0) - expected) / (found.std(0, ddof=1) / np.sqrt(n))


def sample_gaussian(sampler, chains=600):
    """Draw from a Gaussian on 12 points; false-alarm rate of its 90 numbers 0.6 %."""
    points = np.random.default_rng(4).normal(size=(12, 2))
    P = precision_on(DependencyGraph.knn(points, 3), 2)
    mean = np.linspace(-2, 2, 12)
    law = gaussian_markov(P, mean, np.arange(12) // 2)
    draws = sampler.sample(law, 40, chains=chains, burn_in=60, thin=2, start=mean)
    return off_by(draws, mean, np.linalg.inv(P))


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_gaussian_moments_are_right(sampler):
    assert sample_gaussian(sampler()).max() < 4


@pytest.mark.slow
def test_a_wrong_acceptance_ratio_is_caught(monkeypatch):
    original = gibbs.proposal_ratio
    monkeypatch.setattr(gibbs, "proposal_ratio", lambda part, xi, back: 0 * original(part, xi, back))
    assert sample_gaussian(MALAWithinGibbs(), chains=150).max() > 6
    monkeypatch.setattr(gibbs, "proposal_ratio", lambda part, xi, back: -original(part, xi, back))
    assert sample_gaussian(MALAWithinGibbs(), chains=150).max() > 6


def phi4_chain_moments(d):
    """E x_i^2, E x_i x_{i+1} and E x_i^4 of the chain between two zeros, by the transfer matrix."""
    x = np.linspace(-6, 6, 601)
    site = np.exp(-0.25 * (1 - x**2) ** 2)
    end = np.exp(-0.5 * x**2)
    kernel = np.exp(-0.5 * (x[:, None] - x) ** 2) * site
    left = [end * site]
    for _ in range(d - 1):
        left.append(left[-1] @ kernel / left[-1].sum())
    right = [end]
    for _ in range(d - 1):
        right.append(kernel @ right[-1] / right[-1].sum())
    right = right[::-1]
    mean = np.array([[(m * p * q).sum() / (p @ q) for p, q in zip(left, right, strict=True)] for m in (x**2, x**4)])
    pairs = [(p * x) @ kernel @ (x * q) / (p @ kernel @ q) for p, q in zip(left[:-1], right[1:], strict=True)]
    return np.concatenate([mean[0], mean[1], pairs])


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_phi4_chain_has_the_moments_of_the_transfer_matrix(sampler):
    """False-alarm rate of 47 numbers 0.3 %."""
    d = 16
    law = phi4(DependencyGraph.chain(d), boundary="zero", blocks=np.arange(d) // 4)
    x = sampler().sample(law, 30, chains=500, burn_in=60, thin=2).values
    found = np.concatenate([x**2, x**4, x[..., 1:] * x[..., :-1]], axis=-1).mean(1)
    error = found.std(0, ddof=1) / np.sqrt(len(found))
    off = np.abs(found.mean(0) - phi4_chain_moments(d)) / error
    assert off.max() < 4


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_skewed_posterior_has_the_moments_of_quadrature(sampler):
    """False-alarm rate of 5 numbers .03 %."""
    P = np.array([[1.0, -0.8], [-0.8, 2.0]])
    law = poisson_observations(P, [0, 1, 1], [0, 3, 5])
    axis = np.linspace(-6, 4, 401)
    nodes = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    weight = np.exp(law.log_density(torch.from_numpy(nodes)).numpy())
    weight /= weight.sum()
    mean = weight @ nodes
    draws = sampler().sample(law, 50, chains=600, burn_in=60, thin=2, start=mean)
    assert off_by(draws, mean, (nodes - mean).T @ (weight[:, None] * (nodes - mean))).max() < 4


@pytest.mark.slow
def test_a_linear_inverse_problem_has_its_exact_posterior():
    """False-alarm rate of 64 means and 2,080 covariances at 5 standard errors of 100 chains .5 %."""
    graph = DependencyGraph.grid((8, 8))
    rng = np.random.default_rng(8)
    axis = sparse.diags_array([0.2, 0.2, 0.2, 0.2, 0.2], offsets=[-2, -1, 0, 1, 2], shape=(8, 8))
    blur = sparse.csr_array(sparse.kron(axis, axis))
    precision, data = precision_on(graph, 3), rng.normal(size=64)
    blocks = np.add.outer(np.arange(8) // 2 * 4, np.arange(8) // 2).ravel()
    law = linear_inverse(precision, blur, data, 0.2, blocks=blocks)
    covariance = np.linalg.inv(precision + (blur.T @ blur).toarray() / 0.04)
    mean = covariance @ (blur.T @ data) / 0.04
    draws = MALAWithinGibbs().sample(law, 50, chains=100, burn_in=100, thin=2, start=mean)
    assert off_by(draws, mean, covariance).max() < 5


@pytest.mark.slow
def test_acceptance_is_the_same_on_a_thousand_times_the_vertices():
    law = phi4(DependencyGraph.chain(16384), boundary="zero", blocks=np.arange(16384) // 4)
    draws = MALAWithinGibbs(0.05, None).sample(law, 20, chains=2, burn_in=20)
    assert abs(draws.acceptance.mean() - 0.95) < 0.005


def test_acceptance_does_not_depend_on_the_size():
    acceptance, whole = [], []
    sampler = MALAWithinGibbs(step_size=0.05, target_acceptance=None)
    for d in (16, 64, 256):
        graph = DependencyGraph.chain(d)
        law = phi4(graph, boundary="zero", blocks=np.arange(d) // 4)
        draws = sampler.sample(law, 30, chains=30, burn_in=20)
        acceptance.append(draws.acceptance.mean())
        mala = phi4(graph, boundary="zero", blocks=np.zeros(d, dtype=int))
        whole.append(sampler.sample(mala, 30, chains=30, burn_in=0, start=draws.values[:, -1]).acceptance.mean())
    np.testing.assert_allclose(acceptance, 0.95, atol=0.01)
    assert whole[0] > 0.8
    assert whole[1] < 0.75
    assert whole[2] < 0.5


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_draws_do_not_depend_on_the_batch_of_chains(sampler):
    law = laws(2)["phi4"]
    whole = sampler().sample(law, 5, chains=7, burn_in=10, seed=3)
    parts = [sampler().sample(law, 5, chains=chains, burn_in=10, seed=3) for chains in ([0, 1, 2], [3], [4, 5, 6])]
    for name in ("values", "acceptance", "step_size"):
        assert np.array_equal(getattr(whole, name), np.concatenate([getattr(part, name) for part in parts]))
    assert not np.array_equal(whole.values[0], whole.values[1])
    later = sampler().sample(law, 2, chains=7, burn_in=10, thin=2, seed=3)
    assert np.array_equal(later.values, whole.values[:, 1:4:2])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_burn_in_adapts_each_block_towards_the_target(sampler):
    law = gaussian_markov(np.diag(np.geomspace(0.1, 10, 8)))
    draws = sampler().sample(law, 400, chains=20, burn_in=300)
    np.testing.assert_allclose(draws.acceptance.mean(0), sampler().target_acceptance, atol=0.06)
    assert (np.diff(np.log(draws.step_size.mean(0))) < 0).all()
    kept = sampler(0.3, None).sample(law, 5, chains=2, burn_in=5)
    assert (kept.step_size == 0.3).all()


def test_a_dataset_has_the_dimensions_that_arviz_reads(monkeypatch):
    draws = MALAWithinGibbs().sample(laws()["phi4"], 3, chains=[2, 5], burn_in=2)
    data = draws.dataset()
    assert data["x"].dims == ("chain", "draw", "vertex")
    assert data["chain"].values.tolist() == [2, 5]
    assert np.array_equal(data["x"].values, draws.values)
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(ImportError, match=r"nearfield\[arviz\]"):
        draws.summary()


def test_summary_is_arvizs():
    pytest.importorskip("arviz")
    law = gaussian_markov(np.eye(3))
    summary = MALAWithinGibbs().sample(law, 200, burn_in=100).summary()
    assert (np.abs(summary["r_hat"] - 1) < 0.1).all()
    assert (summary["ess"] > 50).all()


BOND = Factors(np.array([[0, 1], [1, 2]]), lambda x: -((x[..., 0] - x[..., 1]) ** 2))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: LocalDensity(DependencyGraph.from_edges(3, [(0, 1)]), [BOND]),
            r"vertices \[1, 2\], which have no edge",
        ),
        (lambda: LocalDensity(DependencyGraph.chain(2), [BOND]), "must be below 2"),
        (lambda: LocalDensity(DependencyGraph.chain(4), [BOND]), "none for vertex 3"),
        (lambda: LocalDensity(DependencyGraph.chain(3), [BOND], colors=[0, 1, 1]), "got 1 for both blocks 1 and 2"),
        (lambda: LocalDensity(DependencyGraph.chain(3), [BOND], colors=[0, 1]), "colors must have shape"),
        (lambda: LocalDensity(DependencyGraph.chain(3), [BOND], blocks=0), "blocks must be at least 1"),
        (lambda: LocalDensity(DependencyGraph.chain(3), [BOND], blocks=[0, 1]), "blocks must have shape"),
        (lambda: Factors(np.zeros(3), torch.sum), "vertices must be non-negative integers"),
        (lambda: Factors(np.zeros((3, 1), dtype=int), torch.sum, [[1.0]]), r"parameters\[0\] must have a row"),
        (lambda: gaussian_markov(np.array([[1.0, 0.5], [0.2, 1.0]])), "precision must be a symmetric matrix"),
        (lambda: phi4(KNN, boundary="zero"), "boundary must be 'free'"),
        (lambda: phi4(CHAIN, beta=0.0), "beta must be positive"),
        (lambda: logistic_observations(np.eye(2), [0], [2]), "labels must be 0 or 1, got 2"),
        (lambda: poisson_observations(np.eye(2), [0], [-1]), "counts must be non-negative"),
        (lambda: linear_inverse(np.eye(2), np.eye(2), [0.0], 1.0), "data must have shape"),
        (lambda: linear_inverse(np.eye(2), np.eye(2), [0.0, 0.0], 0.0), "noise_std must be positive"),
        (lambda: linear_inverse(np.eye(2), np.zeros((1, 2)), [0.0], 1.0), "forward must have an entry"),
        (lambda: MALAWithinGibbs(step_size=0.0), "step_size must be positive"),
        (lambda: MALAWithinGibbs(target_acceptance=1.0), "target_acceptance must be between 0 and 1"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_meant_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_start_without_a_finite_density_is_refused():
    wall = Factors(np.arange(3)[:, None], lambda x: torch.log(x[..., 0]))
    law = LocalDensity(DependencyGraph.chain(3), [BOND, wall])
    with pytest.raises(ValueError, match=r"nan for factor 1 of factors\[1\] on vertices \[1\] in chain 0"):
        MALAWithinGibbs().sample(law, 1, chains=2, start=[1.0, -1.0, 1.0])
    draws = MALAWithinGibbs().sample(law, 20, chains=2, start=np.ones(3))
    assert (draws.values > 0).all()
    with pytest.raises(ValueError, match="start must have shape"):
        MALAWithinGibbs().sample(law, 1, start=np.ones(4))
    summed = LocalDensity(DependencyGraph.chain(3), [Factors(np.arange(3)[:, None], lambda x: -(x**2))])
    with pytest.raises(ValueError, match=r"factors\[0\].log_density must return shape"):
        MALAWithinGibbs().sample(summed, 1)
