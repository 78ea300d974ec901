"""Traces of denoisers' Jacobians: by colours and closed forms that of the whole, by random signs without bias."""

import numpy as np
import pytest
import torch

from nearfield.fitting.closed_form import fit_windowed
from nearfield.fitting.pooling import Pooling
from nearfield.graph import DependencyGraph
from nearfield.graph.coloring import distant_coloring
from nearfield.process import time_of
from nearfield.samples import Samples
from nearfield.score import divergence
from nearfield.score.divergence import RandomSigns, exact_divergence
from nearfield.score.hybrid import HybridScore
from nearfield.score.spectrum import FieldSpectrum
from nearfield.score.stencil import StencilNetwork
from test_score_contract import GRAPHS, MAKERS, hybrid, state, stirred

FIELDS = ("field", "pooled field", "corrected field", "local mixture", "conditioned field")
"""Scores of which the flow has a closed form, so that the trace is not needed, or the trace has none."""
GRIDS = {
    **{name: GRAPHS[name] for name in ("torus", "closing latlon", "sea", "knn", "disconnected")},
    "long chain": DependencyGraph.chain(50),
    "ring": DependencyGraph.ring(31),
    "plane": DependencyGraph.grid((11, 13)),
    "diagonal": DependencyGraph.grid((9, 8), diagonal=True),
    "box": DependencyGraph.grid((5, 4, 6)),
    "cylinder": DependencyGraph.grid((7, 9), periodic=(True, False)),
}


def samples(graph: DependencyGraph) -> np.ndarray:
    rng = np.random.default_rng(3)
    d = 2 * len(graph)
    mix = rng.normal(size=(d, d)) / (2 * np.sqrt(d)) * np.kron(np.isfinite(graph.distance_matrix()), np.ones((2, 2)))
    return (rng.normal(size=(4 * d + 8, d)) @ (mix + np.eye(d))).reshape(-1, len(graph), 2)


def whole_trace(score, x: torch.Tensor, t: float) -> torch.Tensor:
    """The trace of the Jacobian by reverse mode, an entry at a time."""
    size = x[0].numel()
    jacobians = [torch.func.jacrev(lambda y: score.denoise(y[None], t)[0])(one).reshape(size, size) for one in x]
    return torch.stack([torch.trace(each) for each in jacobians])


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("distance", [0, 1, 3, 4])
def test_vertices_of_one_color_are_far_apart(name, distance):
    graph = GRIDS[name]
    color = distant_coloring(graph, distance)
    same = (color[:, None] == color) & ~np.eye(len(graph), dtype=bool)
    assert not same.any() or graph.distance_matrix()[same].min() > distance
    np.testing.assert_array_equal(np.unique(color), np.arange(color.max() + 1))


@pytest.mark.parametrize("radius", [1, 2, 4])
def test_balls_of_a_plane_tile_with_the_fewest_colors(radius):
    count = {
        "chain": 1 + distant_coloring(DependencyGraph.chain(99), 2 * radius).max(),
        "plane": 1 + distant_coloring(DependencyGraph.grid((20, 23)), 2 * radius).max(),
        "diagonal": 1 + distant_coloring(DependencyGraph.grid((20, 23), diagonal=True), 2 * radius).max(),
    }
    assert count == {
        "chain": 2 * radius + 1,
        "plane": 2 * radius**2 + 2 * radius + 1,
        "diagonal": (2 * radius + 1) ** 2,
    }


@pytest.mark.parametrize("graph", ["one vertex", "sea", "knn"])
@pytest.mark.parametrize("name", [name for name in MAKERS if name not in FIELDS])
def test_the_trace_is_that_of_the_whole_jacobian(name, graph):
    score, x = MAKERS[name](samples(GRAPHS[graph]), GRAPHS[graph]), state(GRAPHS[graph], 2)
    exact = exact_divergence(score)
    assert exact is not None
    for t in (0.02, 1.0):
        denoised, trace = exact(x, t, 0, 0)
        torch.testing.assert_close(denoised, score.denoise(x, t), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(trace.expand(1, 2)[0], whole_trace(score, x, t), rtol=1e-11, atol=1e-11)


def on_plane(diagonal: bool) -> tuple[HybridScore, DependencyGraph]:
    """A network that reads 2 hops and is shown a Gaussian of 3, so that the score reads 5."""
    graph = DependencyGraph.grid((9, 8), diagonal=diagonal)
    x = np.random.default_rng(0).normal(size=(90, 72, 1)).cumsum(axis=1) / 8
    gaussian = fit_windowed(Samples(x, graph), ((0.1, 3),), Pooling(0.3, 1.0))[2]
    return HybridScore(stirred(StencilNetwork(graph, 2, 1, 2, width=8)), gaussian, np.full((4, 1), 0.4)), graph


@pytest.mark.parametrize(("diagonal", "products"), [(False, 13), (True, 25)])
def test_a_stencil_on_a_plane_takes_the_colors_of_its_own_radius(diagonal, products):
    score, graph = on_plane(diagonal)
    exact = exact_divergence(score)
    assert score.radius == 5
    assert exact.n_products == products
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(2, len(graph), 1)))
    for sigma in (0.05, 1.0, 4.0):
        t = time_of(sigma)
        torch.testing.assert_close(exact(x, t, 0, 0)[1][0], whole_trace(score, x, t), rtol=1e-11, atol=1e-11)


def test_products_in_parts_give_the_same(monkeypatch):
    score, graph = on_plane(False)
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(2, len(graph), 1)))
    together = exact_divergence(score)(x, 0.5, 0, 0)[1]
    monkeypatch.setattr(divergence, "MEMORY", 3 * 2 * score.numbers_per_sample)
    torch.testing.assert_close(exact_divergence(score)(x, 0.5, 0, 0)[1], together, rtol=1e-12, atol=1e-12)


def test_entries_of_closed_jacobians_are_those_of_the_whole_one():
    for graph in (GRAPHS["chain"], GRAPHS["knn"]):
        x, table = samples(graph), graph.neighborhood(2)
        for name in ("masked 1", "windowed 2", "windowed by time", "field context", "mixture"):
            score, y = MAKERS[name](x, graph), state(graph, 1)
            whole = torch.func.jacrev(lambda v, score=score: score.denoise(v[None], 0.4)[0])(y[0])
            blocks = score.local_jacobian(y, 0.4, torch.from_numpy(np.array(table.index)))[0]
            expected = torch.stack([whole[j][:, row] for j, row in enumerate(table.index.tolist())])
            torch.testing.assert_close(blocks, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", ["pooled field", "corrected field"])
def test_the_spectrum_of_a_field_has_its_denoiser(name):
    graph = GRAPHS["torus"]
    field, y, t = MAKERS[name](samples(graph), graph), state(graph, 3), 0.4
    spectrum = FieldSpectrum.of(field)
    everywhere = np.tile(np.arange(len(graph)), (len(graph), 1))
    blocks = spectrum.denoiser_blocks(t, everywhere, 2)
    np.testing.assert_allclose(np.einsum("vcwd,swd->svc", blocks, y), field.denoise(y, t), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(spectrum.log_prob(y.numpy(), 0.0), field.log_prob(y.numpy()), rtol=1e-9)


def test_random_signs_have_no_bias_and_their_spread_is_told():
    """With 1000 estimates the mean is within 4 standard errors: a false alarm in 16,000."""
    graph = GRAPHS["chain"]
    score, x = hybrid(samples(graph), graph, 2, 1), state(graph, 1)
    estimates = RandomSigns(score, 1000, seed=0)(x, 0.4, 0, 0)[1][:, 0]
    error = float(estimates.std()) / np.sqrt(1000)
    assert abs(float(estimates.mean()) - float(whole_trace(score, x, 0.4))) < 4 * error


def test_random_signs_do_not_depend_on_the_batch():
    graph = GRAPHS["chain"]
    score, x = hybrid(samples(graph), graph, 2, 1), state(graph, 3)
    signs = RandomSigns(score, 2, seed=5)
    torch.testing.assert_close(signs(x, 0.4, 0, 7)[1][:, 1:], signs(x[1:], 0.4, 1, 7)[1], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(signs(x, 0.4, 0, 7)[1], signs(x, 0.4, 0, 8)[1])
