"""A switched score is one of two experts at every noise level."""

import itertools

import numpy as np
import pytest
import torch

from nearfield.fitting.closed_form import fit_field, fit_windowed
from nearfield.fitting.pooling import Pooling
from nearfield.graph import DependencyGraph
from nearfield.module import describe, rebuild
from nearfield.process import time_of
from nearfield.samples import Samples
from nearfield.score.hybrid import HybridScore
from nearfield.score.stencil import StencilNetwork
from nearfield.score.switch import SwitchedScore

GRAPH = DependencyGraph.chain(9)
CHOICE = ((time_of(0.1), False), (time_of(1.0), True), (time_of(10.0), False))


@pytest.fixture(scope="module")
def parts():
    x = np.random.default_rng(0).normal(size=(40, 9, 1)).cumsum(axis=1)
    field = fit_field(Samples(x, GRAPH, standard=(True,)), 1, Pooling(1.0))[2]
    gaussian = fit_windowed(Samples(x, GRAPH, standard=(True,)), ((1.0, 2),), Pooling(1.0))[2]
    network = StencilNetwork(GRAPH, radius=1, n_context=2, width=4)
    with torch.no_grad():  # away from zero, where the hybrid would be the denoiser of white noise
        for weight in network.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    return field, HybridScore(network.requires_grad_(False), gaussian)


@pytest.mark.parametrize(
    ("sigma", "of_hybrid"),
    [(0.01, False), (0.1, False), (0.31, False), (0.32, True), (1.0, True), (3.1, True), (3.2, False), (50.0, False)],
)
def test_the_nearest_level_in_log_noise_decides(parts, sigma, of_hybrid):
    field, hybrid = parts
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(3, 9, 1)))
    t = time_of(sigma)
    expected = (hybrid if of_hybrid else field).denoise(x, t)
    other = (field if of_hybrid else hybrid).denoise(x, t)
    torch.testing.assert_close(SwitchedScore(field, hybrid, CHOICE).denoise(x, t), expected, rtol=0, atol=0)
    assert not torch.allclose(expected, other)


@pytest.mark.parametrize("choice", [(False, True, False), (True, False, True), (True, True, False), (False,) * 3])
def test_the_experts_of_a_range_are_those_in_use(parts, choice):
    score = SwitchedScore(*parts, tuple(zip((time_of(0.1), time_of(1.0), time_of(10.0)), choice, strict=True)))
    for low, high in ((-4.0, 4.0), (-1.0, 0.5), (0.0, 0.2)):
        experts = score.experts(low, high)
        ends = [low, *(end for _, end, _ in experts)]
        assert ends[-1] == high
        assert [start for start, _, _ in experts] == ends[:-1]
        for start, end, expert in experts:
            for place in np.linspace(start, end, 9)[1:-1]:
                assert expert is (score.hybrid if score.uses_hybrid(time_of(np.exp(place))) else score.field)
    assert len(score.experts(-4.0, 4.0)) == 1 + sum(one != other for one, other in itertools.pairwise(choice))


def test_samples_at_times_of_their_own_are_served_one_by_one(parts):
    score = SwitchedScore(*parts, CHOICE)
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(5, 9, 1)))
    times = torch.tensor([0.0, time_of(0.05), time_of(0.7), time_of(5.0), time_of(1.5)], dtype=torch.float64)
    together = score.denoise(x, times)
    apart = torch.cat([score.denoise(x[i : i + 1], float(times[i])) for i in range(5)])
    torch.testing.assert_close(together, apart, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(together[0], x[0], rtol=0, atol=0)


def test_a_stored_score_is_the_same(parts):
    score = SwitchedScore(*parts, CHOICE)
    again = rebuild(describe(score), score.state_dict(), GRAPH)
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(3, 9, 1)))
    for sigma in (0.05, 1.0, 20.0):
        torch.testing.assert_close(again.denoise(x, time_of(sigma)), score.denoise(x, time_of(sigma)), rtol=0, atol=0)


def test_bad_parts_are_refused(parts):
    field, hybrid = parts
    with pytest.raises(ValueError, match="increasing OU times above 0"):
        SwitchedScore(field, hybrid, ((0.5, True), (0.2, False)))
    smaller = fit_field(
        Samples(np.random.default_rng(0).normal(size=(9, 4, 1)), DependencyGraph.chain(4)), 1, Pooling(1.0)
    )[2]
    with pytest.raises(ValueError, match="of one field"):
        SwitchedScore(smaller, hybrid, CHOICE)
