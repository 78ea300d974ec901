"""Delta-locality: against quadrature in time and in space, and the bound on marginals where it is attained."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nearfield.datasets import AutoregressiveChain
from nearfield.fitting.closed_form import fit_field
from nearfield.fitting.pooling import Pooling
from nearfield.graph import DependencyGraph
from nearfield.posterior.law import gaussian_markov, phi4
from nearfield.samples import Samples
from nearfield.theory.marginal import (
    concave_delta,
    delta_locality,
    dominant_delta,
    gaussian_delta,
    marginal_bound,
)

GRID = DependencyGraph.grid((3, 3), diagonal=True)


def frustrated(seed: int = 0) -> np.ndarray:
    """Precision on triangles with couplings of both signs."""
    P = np.random.default_rng(seed).uniform(-0.3, 0.5, (9, 9)) * GRID.adjacency.toarray()
    P = np.triu(P, 1) + np.triu(P, 1).T
    return P + np.diag(np.abs(P).sum(1) + 0.4)


def test_gaussian_delta_is_the_integral_over_time():
    P = frustrated()
    t = np.concatenate([np.linspace(0, 1, 4001), np.geomspace(1, 200, 4001)[1:]])
    values, V = np.linalg.eigh(P)
    flow = np.abs((V * np.exp(-t[:, None, None] * values)) @ V.T)
    expected = np.trapezoid(flow, t, axis=0).sum(1).max()
    np.testing.assert_allclose(gaussian_delta(P), expected, rtol=1e-5)
    off = P - np.diag(np.diag(P))
    assert gaussian_delta(P) < 0.99 * np.linalg.inv(np.diag(np.diag(P)) - np.abs(off)).sum(1).max()


def test_gaussian_delta_of_either_sign_of_a_chain_is_the_same():
    """A chain with all signs turned has the same |exp(-tP)|, by the integral instead of the inverse."""
    P = np.diag(np.linspace(1.5, 3, 7)) - 0.6 * (np.eye(7, k=1) + np.eye(7, k=-1))
    expected = np.abs(np.linalg.inv(P)).sum(1).max()
    sign = (-1.0) ** np.arange(7)
    np.testing.assert_allclose([gaussian_delta(P), gaussian_delta(sign[:, None] * P * sign)], expected, rtol=1e-10)


def test_conditions_bound_it():
    for seed in range(20):
        P = frustrated(seed)
        exact = gaussian_delta(P)
        off = P - np.diag(np.diag(P))
        assert exact <= dominant_delta(np.diag(P), off) * (1 + 1e-9)
        values = np.linalg.eigvalsh(P)
        assert exact <= concave_delta(values[0], values[-1], GRID)


def test_coupled_paths_of_a_gaussian_are_exact():
    """Without noise in the derivative, whatever the paths: the steps alone err, by .2 %."""
    P = frustrated()
    found = delta_locality(
        gaussian_markov(P), np.zeros((1, 9)), n_paths=2, step_size=0.1, horizon=20.0, vertices=[0, 3, 4, 8]
    )
    values, V = np.linalg.eigh(P)
    t = np.linspace(0, 20, 8001)
    rows = np.trapezoid(np.abs((V * np.exp(-t[:, None, None] * values)) @ V.T), t, axis=0).sum(1)
    np.testing.assert_allclose(found.value, rows[[0, 3, 4, 8]].max(), rtol=5e-3)
    assert found.error < 1e-12
    assert delta_locality(P).value == gaussian_delta(P)


def test_coupled_paths_of_one_variable_are_the_solution_of_steins_equation():
    """u'(x) = (1/p(x)) int_{-inf}^x p (E y - y) dy; false-alarm rate 6.3e-5, seeds fixed."""
    law = phi4(DependencyGraph.chain(1), 2.0)
    y = np.linspace(-4, 4, 8001)
    p = np.exp(law.log_density(torch.from_numpy(y[:, None])).numpy())
    slope = np.cumsum(p * -y) * (y[1] - y[0]) / p
    settings = {"n_paths": 200, "step_size": 0.1, "horizon": 10.0, "seed": 1}
    found = delta_locality(law, np.array([[0.0], [1.2]]), **settings)
    assert abs(found.value - slope.max()) < 4 * found.error + 0.02 * found.value
    assert found.error < 0.15 * found.value


def test_the_bound_holds_and_a_factor_is_caught():
    """200 perturbed precisions within; a shift that has the same score at every vertex attains the bound."""
    rng = np.random.default_rng(1)
    P = np.diag(np.linspace(1.5, 3, 12)) - 0.6 * (np.eye(12, k=1) + np.eye(12, k=-1))
    C, delta = np.linalg.inv(P), gaussian_delta(P)
    smallest = np.linalg.eigvalsh(P)[0]
    for _ in range(200):
        o = rng.uniform(-0.2, 0.2, 11) * smallest
        E = np.diag(rng.uniform(-0.3, 0.3, 12)) * smallest + np.diag(o, 1) + np.diag(o, -1)
        other = np.linalg.inv(P + E)
        distance = np.sqrt(2 / np.pi) * np.abs(np.sqrt(np.diag(C)) - np.sqrt(np.diag(other))).max()
        difference = np.sqrt(2 / np.pi) * np.sqrt(np.diag(E @ other @ E))
        assert distance <= marginal_bound(delta, difference[None])
    shift = np.linalg.solve(P, np.ones(12))
    attained = np.abs(shift).max() / marginal_bound(delta, np.tile(P @ shift, (3, 1)))
    np.testing.assert_allclose(attained, 1)  # so that a delta that is 1 % too small fails


def test_it_judges_a_fitted_model():
    """Every marginal of a field of 100 samples is within the bound, by its score at its own draws."""
    law = AutoregressiveChain(0.6, 20)
    field = fit_field(Samples(law.sample(100, random_state=0), law.graph, standard=(True,)), 1, Pooling(0.0))[2]
    P = law.precision.toarray()
    x = field.sample(2000, seed=1)[..., 0]
    difference = x @ field.precision().toarray() - x @ P
    worst = np.sqrt(2 / np.pi) * np.abs(np.sqrt(np.diag(field.covariance())) - 1).max()
    assert 0.05 < worst < marginal_bound(gaussian_delta(P), difference)


def test_several_channels_count_by_their_norm():
    assert marginal_bound(2.0, np.array([[[3.0, 4.0], [0.0, 1.0]]])) == 10.0


@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_meant_is_refused():
    law = phi4(GRID)
    with pytest.raises(ValueError, match=r"start must have shape \(start, 9\), got None"):
        delta_locality(law)
    with pytest.raises(ValueError, match="step_size must be positive and below the horizon"):
        delta_locality(law, np.zeros((1, 9)), step_size=11.0)
    with pytest.raises(ValueError, match=r"horizon must be longer than 0.1"):
        delta_locality(law, np.zeros((1, 9)), horizon=0.1)
    with pytest.raises(ValueError, match="least must exceed the sum"):
        dominant_delta([1.0, 1.0], np.ones((2, 2)))
    with pytest.raises(ValueError, match="m and M must be"):
        concave_delta(2.0, 1.0, GRID)
    with pytest.raises(ValueError, match="delta must be positive"):
        marginal_bound(0.0, np.ones((1, 1)))
