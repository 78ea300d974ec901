"""Laws known only by their draws: the double-well lattice and Lorenz 96, against exact identities."""

import numpy as np
import pytest

from nearfield.datasets import (
    AutoregressiveChain,
    DoubleWellChain,
    DoubleWellLattice,
    Lorenz96,
    integrated_autocorrelation_time,
)

SIGMAS = 5.2  # a two-sided alarm of 2e-7 each, 1e-6 for the few of one test


def departure(values, expected):
    """Standardised departure of the mean of independent values (first axis), largest over the rest."""
    error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    return np.abs((values.mean(axis=0) - expected) / error).max()


def test_the_smallest_lattice_has_the_moments_of_a_ring_of_four():
    """Free 2 x 2 vertices form a ring, whose moments are traces of powers of the transfer matrix."""
    law = DoubleWellLattice((2, 2), h=2.0, J=0.9, periodic=False, burn_in=80)
    x = np.linspace(-2.5, 2.5, 201)
    root = np.exp(-((x**2 - 1) ** 2))  # half of h = 2
    transfer = root[:, None] * np.exp(-0.45 * np.subtract.outer(x, x) ** 2) * root
    square = transfer @ transfer
    total = np.sum(square * square.T)
    moments = [
        np.sum(np.diag(square @ square) * x**2),
        np.sum((x[:, None] * transfer * x) * (transfer @ square).T),
        np.sum((x[:, None] * square * x) * square.T),
    ] / total
    y = law.sample(20_000, 1)[..., 0]
    found = np.column_stack([np.mean(y**2, axis=1), np.mean(y * y[:, [1, 3, 0, 2]], axis=1), y[:, 0] * y[:, 3]])
    assert departure(found, moments) < SIGMAS


def test_one_row_of_vertices_is_the_double_well_chain():
    covariance = DoubleWellChain(h=1.5, J=0.65, length=6).covariance()
    y = DoubleWellLattice((6,), periodic=False, burn_in=80).sample(20_000, 2)[..., 0]
    i, j = np.triu_indices(6)
    assert departure(y[:, i] * y[:, j], covariance[i, j]) < SIGMAS + 0.5  # 21 of them


@pytest.mark.parametrize(
    ("shape", "periodic"), [((8, 8), True), ((5, 7), False), ((4, 4, 4), True)], ids=["torus", "grid", "box"]
)
def test_partial_integration_holds_at_every_vertex(shape, periodic):
    """E[x_i dU/dx_i] = 1, corners, sides and inside; a field 3 % too large fails."""
    law = DoubleWellLattice(shape, J=0.65 if len(shape) < 3 else 0.3, periodic=periodic, burn_in=150)
    x = law.sample(1000, 3)
    virial = (x * law.energy_gradient(x))[..., 0]
    assert departure(virial, 1.0) < SIGMAS + 0.6  # over some 64 vertices
    assert departure(virial.mean(axis=1), 1.0) < SIGMAS
    wrong = 1.03 * x
    assert departure((wrong * law.energy_gradient(wrong)).mean(axis=(1, 2)), 1.0) > SIGMAS


def test_energy_gradient_is_that_of_the_energy():
    law = DoubleWellLattice((4, 6), h=1.2, J=0.5)
    x = np.random.default_rng(0).normal(size=(4, 6))

    def energy(field):
        edges = [np.roll(field, 1, axis) - field for axis in (0, 1)]
        return 1.2 * np.sum((field**2 - 1) ** 2) + 0.25 * sum(np.sum(edge**2) for edge in edges)

    bumps = np.eye(24).reshape(24, 4, 6) * 1e-5
    slope = [(energy(x + bump) - energy(x - bump)) / 2e-5 for bump in bumps]
    np.testing.assert_allclose(law.energy_gradient(x.reshape(1, 24, 1)).ravel(), slope, rtol=1e-6, atol=1e-8)


def test_the_default_burn_in_is_many_autocorrelation_times():
    """Of the slowest even moment, the squared magnetisation; and the start is forgotten in the mean square."""
    law = DoubleWellLattice((16, 16))
    trace = law.trace(50, 1200, random_state=4)
    time = integrated_autocorrelation_time(trace[300:, :, 0] ** 2)
    assert 30 < time < law.burn_in / 5
    late = trace[law.burn_in :, :, 1].mean(axis=0)
    assert departure(late, trace[300 : law.burn_in, :, 1].mean()) < SIGMAS + 3  # both sides are random
    assert departure(trace[0, :, 1], late.mean()) > SIGMAS  # negative control


def test_autocorrelation_time_of_an_autoregressive_chain():
    """(1 + alpha) / (1 - alpha)."""
    for alpha, time in [(0.8, 9.0), (0.0, 1.0)]:
        series = AutoregressiveChain(alpha, 2000).sample(200, 0)[..., 0].T
        assert integrated_autocorrelation_time(series) == pytest.approx(time, rel=0.05)


def test_autocorrelation_time_of_chains_too_short_is_unknown():
    assert integrated_autocorrelation_time(np.tile([-1.0, 1.0], (10, 1))) == np.inf


def test_samples_of_the_lattice_follow_from_the_random_state():
    law = DoubleWellLattice((4, 4), burn_in=5)
    assert np.array_equal(law.sample(3, 5), law.sample(3, np.random.default_rng(5)))
    assert not np.array_equal(law.sample(3, 5), law.sample(3, 6))


def test_advection_conserves_energy():
    law = Lorenz96(9, forcing=3.0)
    x = np.random.default_rng(0).normal(size=(5, 9))
    advection = law.tendency(x) + x - 3.0
    np.testing.assert_allclose(np.sum(x * advection, axis=1), 0, atol=1e-13)
    assert advection[0, 4] == pytest.approx((x[0, 5] - x[0, 2]) * x[0, 3])


def balances(law, n_samples):
    """Mean rates of change of energy and momentum, by sample: both 0 on average on the attractor."""
    x = law.sample(n_samples, 1)[..., 0]
    return np.column_stack([np.mean(law.forcing * x - x**2, axis=1), np.mean(law.tendency(x), axis=1)])


def test_the_attractor_balances_energy_and_momentum():
    """E[x^2] = F E[x] and E[dx/dt] = 0, whatever the forcing."""
    assert departure(balances(Lorenz96(40), 400), 0.0) < SIGMAS
    assert departure(balances(Lorenz96(12, forcing=10.0), 400), 0.0) < SIGMAS


def test_a_short_spin_up_is_told_apart():
    assert departure(balances(Lorenz96(40, spin_up=1.0), 400), 0.0) > SIGMAS


def test_the_integration_is_that_of_runge_and_kutta():
    """Their fixed step, from the same starts, for half a unit of time."""
    law = Lorenz96(40, spin_up=0.5)
    x = 8.0 + np.random.default_rng(5).standard_normal((3, 40))
    step = 0.001
    for _ in range(500):
        k1 = law.tendency(x)
        k2 = law.tendency(x + step / 2 * k1)
        k3 = law.tendency(x + step / 2 * k2)
        k4 = law.tendency(x + step * k3)
        x = x + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    np.testing.assert_allclose(law.sample(3, 5)[..., 0], x, atol=1e-4)


BAD = [
    (lambda: DoubleWellLattice((4, 4), h=0.0), "h must be positive"),
    (lambda: DoubleWellLattice((4, 4), J=0.0), "J must be positive"),
    (lambda: DoubleWellLattice((4, 5)), "shape must have even lengths"),
    (lambda: DoubleWellLattice((2, 2)), "shape must have even lengths of at least 4"),
    (lambda: DoubleWellLattice((-4, -4), periodic=False), "shape must be at least 1"),
    (lambda: DoubleWellLattice((1, 1), periodic=False), "shape must hold at least 2"),
    (lambda: DoubleWellLattice((4, 4), burn_in=0), "burn_in must be at least 1"),
    (lambda: Lorenz96(3), "n must be at least 4"),
    (lambda: Lorenz96(40, forcing=np.nan), "forcing must be finite"),
    (lambda: Lorenz96(40, spin_up=0.0), "spin_up must be positive"),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
