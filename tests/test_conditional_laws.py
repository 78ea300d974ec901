"""The exact conditional draws that benchmarks/conditioning.py takes for the truth on the lattice."""

import numpy as np
from benchmarks.conditional_laws import checkerboard_draws
from benchmarks.law import Law

from nearfield.datasets import DoubleWellLattice


def lattice(burn_in: int = 200) -> Law:
    target = DoubleWellLattice((4, 4), burn_in=burn_in)
    return Law("lattice", target, 0.0, 0.8, None, np.ones(16))


def test_a_single_free_vertex_has_the_law_that_quadrature_gives() -> None:
    law, rng = lattice(), np.random.default_rng(0)
    x = law.draw(1, 3)[0, :, 0]
    x[5] = np.nan
    drawn = checkerboard_draws(law, x, 0.0, 20_000, rng, n_sweeps=50)
    np.testing.assert_array_equal(np.delete(drawn, 5, 1), np.broadcast_to(np.delete(x, 5), (20_000, 15)))
    z = np.linspace(-4, 4, 2001) / law.std
    near = law.std * x[law.graph.adjacency[[5]].indices]
    u = law.std * z
    weight = np.exp(-1.5 * (u**2 - 1) ** 2 - 0.325 * ((u[:, None] - near) ** 2).sum(axis=1))
    weight /= weight.sum()
    for power in (1, 2, 3, 4):
        want, spread = (weight * z**power).sum(), np.sqrt((weight * z ** (2 * power)).sum())
        assert abs((drawn[:, 5] ** power).mean() - want) < 4 * spread / np.sqrt(20_000)  # false alarm: 1 in 4,000


def test_truth_has_uniform_ranks_among_draws_given_noisy_values() -> None:
    law, rng, n_draws = lattice(), np.random.default_rng(1), 19
    fields = law.draw(60, 4)[..., 0]
    ranks = np.empty(len(fields), dtype=int)
    for f, x in enumerate(fields):
        value = np.where(np.arange(16) % 3 == 0, x + 0.3 * rng.standard_normal(16), np.nan)
        drawn, at = checkerboard_draws(law, value, 0.3, n_draws, rng, n_sweeps=40), 3 * (f % 6)
        ranks[f] = (drawn[:, at] < x[at]).sum()
    count = np.bincount(ranks // 4, minlength=5)
    assert ((count - 12) ** 2 / 12).sum() < 23.5  # chi-squared of 4 degrees of freedom: false alarm 1 in 10,000
