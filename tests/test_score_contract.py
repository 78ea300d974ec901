"""What every score promises: locality, the clean limit, times per sample, Tweedie's formula, storage, precision."""

from __future__ import annotations

import importlib
import json
import pickle
import pkgutil
import warnings

import numpy as np
import pytest
import torch

import nearfield.paper
import nearfield.score
from nearfield.fitting.closed_form import fit_field, fit_masked, fit_windowed
from nearfield.fitting.pooling import Pooling
from nearfield.graph import DependencyGraph
from nearfield.paper.score import PaperNetwork, PaperScore
from nearfield.paper.vertex import VertexNetworks
from nearfield.process import denoised_from_score, score_from_denoised, time_of
from nearfield.samples import Samples
from nearfield.score.base import Score
from nearfield.score.ensemble import EnsembleScore
from nearfield.score.field import GaussianField
from nearfield.score.gaussian import MaskedGaussianScore, WindowedGaussianScore
from nearfield.score.hybrid import HybridScore, NetworkScore
from nearfield.score.stencil import StencilNetwork
from nearfield.score.switch import SwitchedScore
from nearfield.score.window import WindowNetwork

T = 0.4


def sea() -> DependencyGraph:
    keep = np.ones((3, 4), dtype=bool)
    keep[1, 1] = keep[0, 3] = False
    return DependencyGraph.grid((3, 4)).subgraph(keep)


GRAPHS = {
    "one vertex": DependencyGraph.chain(1),
    "chain": DependencyGraph.chain(7),
    "torus": DependencyGraph.torus((4, 3)),
    "closing latlon": DependencyGraph.latlon([-30.0, 0.0, 30.0], np.arange(0.0, 360.0, 72.0)),
    "sea": sea(),
    "knn": DependencyGraph.knn(np.random.default_rng(0).uniform(size=(12, 2)), 2),
    "disconnected": DependencyGraph.from_edges(6, [(0, 3), (3, 5), (1, 4)]),
}


def stirred(network):
    """Give every weight a value that is not special."""
    generator = torch.Generator().manual_seed(0)
    for weight in network.double().requires_grad_(False).parameters():
        weight += 0.1 * torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    return network


def hybrid(x, graph, network_radius, gaussian_radius) -> HybridScore:
    """On lattices the network reads at its neighbours, too, what the Gaussian makes of the state."""
    gaussian = fit_windowed(Samples(x, graph), ((0.1, gaussian_radius),), Pooling(0.3, 1.0))[2]
    kind = WindowNetwork if graph.lattice is None else StencilNetwork
    network = stirred(kind(graph, network_radius, 2, n_shown=4, width=16))
    return HybridScore(network, gaussian, np.linspace(0.3, 1.0, 8).reshape(4, 2))


def paper(graph, predicts) -> PaperScore:
    padding = "absent" if graph.lattice is None or graph.keep is not None else "reflect"
    return PaperScore(stirred(PaperNetwork(graph, 2, 2, widths=(16, 16), padding=padding)), predicts)


MAKERS = {
    "field": lambda x, graph: fit_field(Samples(x, graph), 9, Pooling(0.0))[2],
    "pooled field": lambda x, graph: fit_field(Samples(x, graph), 1, Pooling(0.7))[2],
    "masked 0": lambda x, graph: fit_masked(Samples(x, graph), 0)[2],
    "masked 1": lambda x, graph: fit_masked(Samples(x, graph), 1)[2],
    "masked 9": lambda x, graph: fit_masked(Samples(x, graph), 9)[2],
    "windowed 0": lambda x, graph: fit_windowed(Samples(x, graph), ((0.1, 0),), Pooling(0.0))[2],
    "windowed 2": lambda x, graph: fit_windowed(Samples(x, graph), ((0.1, 2),), Pooling(0.3, 1.0))[2],
    "network 2": lambda x, graph: NetworkScore(stirred(VertexNetworks(graph, 2, 2, widths=(16, 16)))),
    "paper 2": lambda x, graph: paper(graph, "noise"),
    "paper 2, score": lambda x, graph: paper(graph, "score"),
    "hybrid 0, 2": lambda x, graph: hybrid(x, graph, 0, 2),
    "hybrid 2, 1": lambda x, graph: hybrid(x, graph, 2, 1),
    "three hybrids": lambda x, graph: EnsembleScore(tuple(hybrid(x, graph, r, 1) for r in (0, 1, 1))),
    "windowed by time": lambda x, graph: fit_windowed(Samples(x, graph), ((0.1, 1), (1.0, 2), (3.0, 0)), Pooling(0.0))[
        2
    ],
}


@pytest.fixture(params=GRAPHS, scope="module")
def graph(request):
    return GRAPHS[request.param]


@pytest.fixture(params=MAKERS, scope="module")
def score(request, graph) -> Score:
    """Two channels, correlations without symmetry between all the vertices of a component and of none beyond."""
    rng = np.random.default_rng(3)
    d = 2 * len(graph)
    mix = rng.normal(size=(d, d)) / (2 * np.sqrt(d)) * np.kron(np.isfinite(graph.distance_matrix()), np.ones((2, 2)))
    x = (rng.normal(size=(4 * d + 8, d)) @ (mix + np.eye(d))).reshape(-1, len(graph), 2)
    return MAKERS[request.param](x, graph)


def state(graph: DependencyGraph, n: int = 5) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(4).normal(size=(n, len(graph), 2)))


def jacobian(score: Score, x: torch.Tensor, t: float) -> torch.Tensor:
    """d score / d x at one state, (vertex, channel, vertex, channel): forward mode, or the basis for a linear solve."""
    if not isinstance(score, GaussianField):
        return torch.func.jacrev(lambda y: score.score(y[None], t)[0])(x[0])
    basis = torch.eye(x[0].numel(), dtype=x.dtype).reshape(-1, *x.shape[1:])
    return (score.score(basis, t) - score.score(torch.zeros_like(basis), t)).permute(1, 2, 0).reshape(*x.shape[1:] * 2)


def test_every_score_class_is_held_to_the_contract():
    rooms = [(nearfield.paper, "nearfield.paper."), (nearfield.score, "nearfield.score.")]
    for module in (found for room, name in rooms for found in pkgutil.iter_modules(room.__path__, name)):
        importlib.import_module(module.name)
    ours = {kind for kind in Score.__subclasses__() if kind.__module__.startswith("nearfield.")}
    ours -= {SwitchedScore}  # at each time one of the others, in tests/test_switch.py
    gaussian = {GaussianField, MaskedGaussianScore, WindowedGaussianScore}
    assert ours == gaussian | {NetworkScore, HybridScore, EnsembleScore, PaperScore}


def test_score_reads_its_neighbourhood_and_nothing_beyond(score, graph):
    """Exactly: global scores read their component, which is all that `np.inf` hops are beyond."""
    hops = graph.distance_matrix()
    largest = 0
    for t in (0.05, T, 1.5):
        radius = score.radius_at(t) if isinstance(score, WindowedGaussianScore) else score.radius
        reads = jacobian(score, state(graph), t).abs().amax(dim=(1, 3)).numpy()
        np.testing.assert_array_equal(reads != 0, hops <= radius if radius is not None else np.isfinite(hops))
        largest = max(largest, radius or 0)
    assert largest == (score.radius or 0)


def test_denoised_state_tends_to_the_state(score, graph):
    """Linearly in t, networks in its root, and not below rounding: at t = 0 it is the state itself."""
    x = state(graph)
    near, nearer = ((score.denoise(x, t) - x).abs().max() for t in (1e-7, 1e-9))
    learned = (
        isinstance(score, NetworkScore | HybridScore | EnsembleScore) or getattr(score, "predicts", "score") == "noise"
    )
    assert nearer < (1e-3 if learned else 1e-5)
    rate = torch.tensor(10.0 if learned else 100.0, dtype=torch.float64)
    torch.testing.assert_close(near / nearer, rate, rtol=2e-2 if learned else 1e-3, atol=0)
    assert torch.equal(score.denoise(x, 0.0), x)
    assert torch.equal(score.denoise(x, torch.tensor([0.0, 1.0, 0.0, 1.0, 2.0]))[[0, 2]], x[[0, 2]])


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_denoiser_is_stable_with_fewer_samples_than_variables(make):
    """Where the empirical covariance is singular the score has no limit at t = 0, the denoiser has."""
    graph = DependencyGraph.chain(7)
    x = np.random.default_rng(2).normal(size=(5, 7, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # conditioning sets are cut
        score = make(x, graph)
    for t in (1e-14, 1e-6):
        assert score.denoise(torch.from_numpy(x), t).abs().max() < 2 * abs(x).max()
    assert torch.equal(score.denoise(state(graph), 0.0), state(graph))


def test_times_per_sample_are_one_at_a_time(score, graph):
    x, times = state(graph), torch.tensor([0.7, 0.02, 0.7, 3.0, 0.4], dtype=torch.float64)
    for method in (score.denoise, score.score):
        one_by_one = torch.cat([method(x[i : i + 1], times[i]) for i in range(5)])
        torch.testing.assert_close(method(x, times), one_by_one, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(score.denoise(x, 0.4), score.denoise(x, torch.tensor(0.4, dtype=torch.float64)))


def test_score_and_denoiser_are_tied_by_tweedie(score, graph):
    x = state(graph)
    for t in (time_of(0.02), T, time_of(80.0)):
        torch.testing.assert_close(score.score(x, t), score_from_denoised(x, score.denoise(x, t), t))
        torch.testing.assert_close(denoised_from_score(x, score.score(x, t), t), score.denoise(x, t))


def test_score_is_that_of_noise_in_the_end(score, graph):
    if isinstance(score, PaperScore):
        pytest.skip("its network has to learn that too")
    x = state(graph)
    torch.testing.assert_close(score.score(x, 12.0), -x, rtol=1e-4, atol=1e-4)


def test_state_round_trip_is_exact(score, graph):
    config, arrays = score.state()
    copy = type(score).from_state(json.loads(json.dumps(config)), {k: v.copy() for k, v in arrays.items()})
    x = state(graph)
    for other in (copy, pickle.loads(pickle.dumps(score))):
        assert (other.n_vertices, other.n_channels, other.radius) == (len(graph), 2, score.radius)
        for t in (0.05, T, 2.0):
            assert torch.equal(other.denoise(x, t), score.denoise(x, t))


def test_single_precision_stays_single_and_close(score, graph):
    x = state(graph).float()
    for t in (time_of(0.02), T, time_of(80.0)):
        denoised = score.denoise(x, t)
        assert denoised.dtype == torch.float32
        torch.testing.assert_close(denoised.double(), score.denoise(x.double(), t), rtol=1e-4, atol=2e-4)


def test_no_samples_give_no_samples(score, graph):
    for t in (T, torch.empty(0, dtype=torch.float64)):
        assert score.denoise(state(graph)[:0], t).shape == (0, len(graph), 2)
