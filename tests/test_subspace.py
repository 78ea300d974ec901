"""Localized likelihood-informed subspaces against dense linear algebra and whole Hessians."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse

from nearfield.graph import DependencyGraph
from nearfield.posterior import Factors, localized_subspace
from nearfield.posterior import subspace as subspaces
from nearfield.posterior.law import linear_inverse, poisson_observations
from nearfield.posterior.subspace import transformed

D, SIZE = 40, 5
BLOCKS = np.arange(D) // SIZE
RNG = np.random.default_rng(0)
INDEX = np.arange(D)
FORWARD = np.exp(-0.5 * ((INDEX[:, None] - INDEX) / 1.5) ** 2) * (np.abs(INDEX[:, None] - INDEX) <= 3)
FORWARD = (FORWARD / FORWARD.sum(1, keepdims=True))[::3]
DATA = RNG.normal(size=len(FORWARD))
CHAIN = DependencyGraph.chain(D)
SIGMA = np.sqrt(D) * np.concatenate([np.eye(D), -np.eye(D)])
"""States whose first two moments are those of the prior."""


def misfit(forward=FORWARD, data=DATA, std=0.2) -> Factors:
    return linear_inverse(np.eye(forward.shape[1]), forward, data, std).factors[-1]


def counts(n: int) -> Factors:
    return poisson_observations(np.eye(n), np.arange(n), np.arange(n) % 4).factors[-1]


@pytest.mark.parametrize("tol", [30.0, 1.0, 1e-2, 0.0])
@pytest.mark.parametrize("blocks", [BLOCKS, np.zeros(D, dtype=int)], ids=["local", "global"])
def test_a_linear_gaussian_problem_is_that_of_dense_matrices(tol, blocks):
    found = localized_subspace(None, [misfit()], CHAIN, tol, blocks=blocks, reference=SIGMA)
    H, g = FORWARD.T @ FORWARD / 0.04, FORWARD.T @ DATA / 0.04
    moment, P = np.outer(g, g) + H @ H, np.zeros((D, D))
    members = [np.flatnonzero(blocks == j) for j in range(blocks.max() + 1)]
    for j, own in enumerate(members):
        expected = (moment + H @ H)[np.ix_(own, own)]
        np.testing.assert_allclose(found.diagnostic[j], expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())
        values, vectors = np.linalg.eigh(expected)
        values[values < 1e-14 * values[-1]] = 0
        rank = min(r for r in range(len(own) + 1) if values[: len(own) - r].sum() <= tol)
        assert found.ranks[j] == rank
        kept = vectors[:, len(own) - rank :]
        P[np.ix_(own, own)] = kept @ kept.T
    np.testing.assert_allclose(found.projector.toarray(), P, atol=1e-6)
    gradient = found.posterior.gradient(torch.zeros(D, dtype=torch.float64)).numpy()
    hessian = torch.autograd.functional.hessian(found.posterior.log_density, torch.zeros(D, dtype=torch.float64))
    np.testing.assert_allclose(gradient, P @ g, atol=1e-6 * np.abs(g).max())
    np.testing.assert_allclose(-hessian.numpy(), np.eye(D) + P @ H @ P, atol=1e-6 * np.abs(H).max())
    Q = np.eye(D) - P
    for j, own in enumerate(members):
        left = np.square((g - P @ g)[own]).sum() + np.square((H - P @ H @ P)[own]).sum()
        right = np.trace((Q @ moment @ Q)[np.ix_(own, own)]) + np.square((Q @ H)[:, own]).sum()
        np.testing.assert_allclose([found.error[j], found.bound[j]], [left, right], rtol=1e-6, atol=1e-6 * moment.max())
        assert left <= right * (1 + 1e-9) + 1e-9


def test_the_bound_is_tight():
    found = localized_subspace(None, [misfit()], CHAIN, 1.0, blocks=BLOCKS, reference=SIGMA)
    assert 1 <= found.bound.max() / found.error.max() <= 1.05


def test_other_laws_have_the_moments_of_whole_hessians():
    graph = DependencyGraph.grid((4, 4))
    A = sparse.csr_array(graph.adjacency * 0.2 + sparse.eye_array(16))
    w = np.random.default_rng(1).normal(size=(6, 16))
    found = localized_subspace(A, [counts(16)], graph, 0.5, blocks=2, reference=w)

    def log_likelihood(w):
        return counts(16)(w @ torch.from_numpy(A.toarray()).T).sum(-1)

    states = torch.from_numpy(w)
    hessian = torch.stack([torch.autograd.functional.hessian(log_likelihood, each) for each in states]).numpy()
    slope = torch.autograd.functional.jacobian(lambda w: log_likelihood(w).sum(), states).numpy()
    labels, P = found.posterior.blocks, found.projector.toarray()
    Q = np.eye(16) - P
    for j in range(4):
        own = np.flatnonzero(labels == j)
        columns = hessian[:, :, own]
        expected = np.einsum("na,nb->ab", slope[:, own], slope[:, own]) + np.einsum("nka,nkb->ab", columns, columns)
        np.testing.assert_allclose(found.diagnostic[j], expected / 6, rtol=1e-9)
        bound = np.square(slope[:, own] @ Q[np.ix_(own, own)]).sum() + np.square(Q @ columns).sum()
        np.testing.assert_allclose(found.bound[j], bound / 6, rtol=1e-9, atol=1e-12)
    assert 0 < found.ranks.sum() < 16
    assert (found.error <= found.bound).all()


def test_the_reduced_likelihood_is_a_mean_over_what_is_projected_out():
    graph, A = DependencyGraph.chain(6), sparse.csr_array(np.eye(6) + 0.3 * np.eye(6, k=1))
    found = localized_subspace(A, [counts(6)], graph, 8.0, blocks=np.arange(6) // 2, n_averages=4, seed=3)
    P = found.projector.toarray()
    assert 0 < found.ranks.sum() < 6
    z = subspaces.normals(3, subspaces.Stream.CONDITIONAL, range(2), 0, 6, 1)[..., 0]
    w = np.random.default_rng(2).normal(size=6)
    whole = [counts(6)(torch.from_numpy(A @ (P @ w + s * (np.eye(6) - P) @ each))).sum() for each in z for s in (1, -1)]
    expected = np.mean(whole) - 0.5 * w @ w
    np.testing.assert_allclose(found.posterior.log_density(torch.from_numpy(w)).item(), expected, rtol=1e-10)


def test_the_number_of_probes_does_not_depend_on_the_size():
    def probes(n: int) -> int:
        forward = sparse.diags_array([0.3, 0.4, 0.3], offsets=[-1, 0, 1], shape=(n, n))
        density = linear_inverse(np.eye(n), forward, np.zeros(n), 1.0, blocks=np.arange(n) // 4)
        return len(list(subspaces._probes(density)))

    assert probes(40) == probes(400) <= 5


def test_transformed_factors_are_those_of_the_product():
    A = sparse.random_array((7, 5), density=0.5, rng=np.random.default_rng(4)).tolil()
    A[2] = 0
    b = np.random.default_rng(5).normal(size=(3, 7))
    table = np.array([[0, 1, 2], [2, 2, 3], [4, 5, 6], [2, 2, 2]])
    factors = Factors(table, lambda x, k: torch.sin(k * x.prod(-1) + x.sum(-1)), [np.arange(4.0)])
    w = torch.from_numpy(np.random.default_rng(6).normal(size=(2, 5)))
    expected = sum(factors(w @ torch.from_numpy(A.toarray()).T + torch.from_numpy(each)) for each in b) / 3
    torch.testing.assert_close(transformed(factors, A.tocsr(), b)(w), expected)


@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_meant_is_refused():
    def build(prior=None, tol=1.0, **settings):
        return localized_subspace(prior, [misfit()], CHAIN, tol, **settings)

    with pytest.raises(ValueError, match="tol must be at least 0"):
        build(tol=-1.0)
    with pytest.raises(ValueError, match="n_averages must be even"):
        build(n_averages=3)
    with pytest.raises(ValueError, match="prior must have 40 columns"):
        build(prior=np.eye(3))
    with pytest.raises(ValueError, match=r"reference must have shape \(sample, 40\)"):
        build(reference=np.zeros((2, 3)))
