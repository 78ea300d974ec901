"""The masked and the windowed Gaussian score, given their covariances."""

from __future__ import annotations

import itertools
import math
import pickle

import numpy as np
import pytest
import torch

from nearfield.fitting.closed_form import fit_windowed
from nearfield.fitting.pooling import Pooling
from nearfield.graph import DependencyGraph
from nearfield.process import noise_scale, noise_to_signal, signal_scale, time_of
from nearfield.samples import Samples
from nearfield.score.gaussian import MaskedGaussianScore, WindowedGaussianScore, WindowSpectrum, radii_in_use

TIMES = [1e-6, 0.0009, 0.1, 0.7, 3.0, time_of(80.0)]
GRAPHS = {
    "one vertex": DependencyGraph.chain(1),
    "chain": DependencyGraph.chain(6),
    "torus": DependencyGraph.torus((3, 4)),
    "disconnected": DependencyGraph.from_edges(6, [(0, 3), (3, 5), (1, 4)]),
}
every_graph = pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)


def covariance(d: int, seed: int = 0) -> np.ndarray:
    root = np.random.default_rng(seed).normal(size=(d, d + 2))
    return root @ root.T / d + 0.1 * np.eye(d)


def diffused(c: np.ndarray, t: float) -> np.ndarray:
    return signal_scale(t) ** 2 * c + noise_scale(t) ** 2 * np.eye(len(c))


def denoiser_matrix(score, t: float) -> np.ndarray:
    d = score.n_vertices * score.n_channels
    basis = torch.eye(d, dtype=torch.float64).reshape(d, score.n_vertices, score.n_channels)
    return score.denoise(basis, t).reshape(d, d).numpy().T


def windowed(c: np.ndarray, graph: DependencyGraph, radii, channels: int = 1) -> WindowedGaussianScore:
    """From the true covariance of each window, absent members isolated."""
    spectra = {}
    for r in radii_in_use(tuple(radii)):
        table = graph.neighborhood(r)
        variable = (table.index[:, :, None] * channels + np.arange(channels)).reshape(len(graph), -1)
        here = np.repeat(table.present, channels, axis=1)
        block = np.stack([c[np.ix_(v, v)] for v in variable])
        block = np.where(here[:, :, None] & here[:, None, :], block, np.eye(variable.shape[1]))
        spectra[r] = WindowSpectrum(table.index, *np.linalg.eigh(block), np.arange(len(block)))
    return WindowedGaussianScore(spectra, radii, channels)


@every_graph
@pytest.mark.parametrize("channels", [1, 2])
def test_a_radius_that_covers_a_component_gives_the_global_denoiser(graph, channels):
    """(4.4): with no covariance between components all three are E[x_0 | x_t]."""
    together = np.kron(np.isfinite(graph.distance_matrix()), np.ones((channels, channels)))
    c = covariance(len(graph) * channels) * together
    masked = MaskedGaussianScore(c, graph.distance_matrix() <= 9, 9, channels)
    near = windowed(c, graph, ((0.1, 9),), channels)
    for t in TIMES:
        truth = signal_scale(t) * c @ np.linalg.inv(diffused(c, t))
        np.testing.assert_allclose(denoiser_matrix(masked, t), truth, rtol=1e-8, atol=1e-11)
        np.testing.assert_allclose(denoiser_matrix(near, t), truth, rtol=1e-8, atol=1e-11)


@every_graph
@pytest.mark.parametrize("radius", [0, 1, 2])
def test_mask_is_laid_on_the_inverse_in_blocks_of_channels(graph, radius):
    c, t = covariance(2 * len(graph)), 0.3
    score = MaskedGaussianScore(c, graph.distance_matrix() <= radius, radius, n_channels=2)
    near = (graph.distance_matrix() <= radius).repeat(2, axis=0).repeat(2, axis=1)
    expected = np.where(near, np.linalg.inv(diffused(c, t)), 0.0)
    np.testing.assert_allclose(score.precision(t), expected, rtol=1e-11, atol=1e-12)


@every_graph
@pytest.mark.parametrize("radius", [0, 1, 2])
def test_windowed_denoiser_is_the_regression_on_the_window(graph, radius):
    """E[x_0j | x_t on N_j], each vertex from its own window: (3.11)."""
    c = covariance(2 * len(graph))
    score = windowed(c, graph, ((0.1, radius),), 2)
    for t, j in itertools.product(TIMES, range(len(graph))):
        found = denoiser_matrix(score, t)
        at = np.flatnonzero(np.repeat(graph.distance_matrix()[j] <= radius, 2))
        own = [2 * j, 2 * j + 1]
        expected = np.zeros((2, len(c)))
        expected[:, at] = signal_scale(t) * c[np.ix_(own, at)] @ np.linalg.inv(diffused(c[np.ix_(at, at)], t))
        np.testing.assert_allclose(found[own], expected, rtol=1e-8, atol=1e-10)


def test_windowed_score_of_radius_0_keeps_marginal_variances_where_the_masked_one_does_not():
    c, graph, t = covariance(6), DependencyGraph.chain(6), 0.4
    rows = denoiser_matrix(windowed(c, graph, ((0.1, 0),)), t)
    precision = (np.eye(6) - signal_scale(t) * rows) / noise_scale(t) ** 2
    np.testing.assert_allclose(1 / np.diag(precision), np.diag(diffused(c, t)), rtol=1e-9)
    masked = MaskedGaussianScore(c, graph.distance_matrix() <= 0, 0).precision(t).numpy()
    shrunk = (1 / np.diag(masked)) / np.diag(diffused(c, t))
    assert (shrunk < 1).all()
    assert shrunk.min() < 0.9


def test_radius_is_interpolated_between_levels_and_rounded_up():
    times = (0.1, 0.2, 0.5, 2.0)
    score = windowed(np.eye(9), DependencyGraph.chain(9), tuple(zip(times, (1, 3, 2, 0), strict=True)))
    assert [score.radius_at(t) for t in (0.0, 0.05, *times, 5.0)] == [1, 1, 1, 3, 2, 0, 0]
    middle = time_of(math.sqrt(noise_to_signal(0.1) * noise_to_signal(0.2)))  # of the levels 1 and 3
    assert [score.radius_at(middle * (1 + e)) for e in (-1e-3, -1e-12, 1e-12, 1e-3)] == [2, 2, 2, 3]
    assert [score.radius_at(t * (1 + 1e-12)) for t in times] == [1, 3, 2, 0]  # rounding of times is no step up
    assert score.radius == 3


def test_each_time_reads_the_window_of_its_level():
    c, graph = covariance(6), DependencyGraph.chain(6)
    both = windowed(c, graph, ((0.1, 1), (1.0, 3)))
    for t, radius in ((0.05, 1), (0.2, 2), (0.9, 3), (1.5, 3)):
        alone = windowed(c, graph, ((0.1, radius),))
        np.testing.assert_array_equal(denoiser_matrix(both, t), denoiser_matrix(alone, t))


@pytest.mark.parametrize("table", [((1.0, 1), (0.1, 1)), ((0.1, 1), (0.1, 1)), ((0.0, 1), (0.1, 1))])
def test_windowed_score_refuses_times_that_do_not_increase(table):
    spectra = windowed(np.eye(4), DependencyGraph.chain(4), ((0.1, 1),)).windows
    with pytest.raises(ValueError, match="radius_by_time must have increasing times above 0"):
        WindowedGaussianScore(spectra, table)


@pytest.mark.parametrize("table", [(), ((0.1, 2),)])
def test_windowed_score_refuses_radii_without_windows(table):
    spectra = windowed(np.eye(4), DependencyGraph.chain(4), ((0.1, 1),)).windows
    with pytest.raises(ValueError, match=r"windows must have every radius in use .* got \[1\]"):
        WindowedGaussianScore(spectra, table)


@every_graph
@pytest.mark.parametrize("channels", [1, 2])
def test_many_times_in_the_eigenbasis_are_one_at_a_time(graph, channels, monkeypatch):
    """Two paths to one denoiser, with a radius for each level, time 0 among the times, in pieces or at once."""
    score = windowed(covariance(len(graph) * channels), graph, ((0.1, 1), (1.0, 2), (3.0, 0)), channels)
    times = torch.tensor([*TIMES, 0.0, 0.3, 1.7, 0.1], dtype=torch.float64)
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(len(times), len(graph), channels)))
    one_by_one = torch.cat([score.denoise(x[i : i + 1], times[i]) for i in range(len(times))])
    for largest in (2**24, 1):
        monkeypatch.setattr("nearfield.score.gaussian.LARGEST_BATCH", largest)
        torch.testing.assert_close(score.denoise(x, times), one_by_one, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(score.denoise(x.float(), times), one_by_one.float(), rtol=1e-4, atol=1e-4)
    monkeypatch.setattr(score, "_denoise_each", None)  # few times for many samples: rows are shared
    torch.testing.assert_close(
        score.denoise(x.repeat(3, 1, 1), times.repeat(3) * 0 + 0.3)[:10], score.denoise(x, 0.3), rtol=1e-12, atol=0
    )


@every_graph
@pytest.mark.parametrize("channels", [1, 2])
def test_variance_comes_with_the_denoised_state(graph, channels, monkeypatch):
    """As `explained_variance` has it at each sample's time: many times, few, one; of laws that vertices share, too."""
    apart = windowed(covariance(len(graph) * channels), graph, ((0.1, 1), (1.0, 2), (3.0, 0)), channels)
    y = np.random.default_rng(0).normal(size=(30, len(graph), channels))
    pooled = fit_windowed(Samples(y, graph), ((1.0, 1),), Pooling(1.0))[2]
    many = torch.tensor([*TIMES, 0.0, 0.3, 1.7, 0.1], dtype=torch.float64)
    for score, largest in itertools.product((apart, pooled), (2**24, 1)):
        monkeypatch.setattr("nearfield.score.gaussian.LARGEST_BATCH", largest)
        none = torch.zeros(0, len(graph), channels)
        assert [each.shape for each in score.denoise_with_variance(none, many[:0])] == [none.shape] * 2
        for times in (many, many[:2].repeat_interleave(3), many[1:2], many[-2]):
            x = torch.from_numpy(np.random.default_rng(1).normal(size=(max(times.numel(), 3), len(graph), channels)))
            guess, told = score.denoise_with_variance(x, times)
            assert torch.equal(guess, score.denoise(x, times))
            expected = score.explained_variance(times.reshape(-1).numpy())
            np.testing.assert_allclose(np.broadcast_to(told, x.shape), np.broadcast_to(expected, x.shape), rtol=1e-9)
            told = score.denoise_with_variance(x.float(), times)[1]
            np.testing.assert_allclose(np.broadcast_to(told, x.shape), np.broadcast_to(expected, x.shape), rtol=1e-5)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("radius", [1, 4])
def test_vertices_of_one_law_are_denoised_together_as_alone(radius, channels, monkeypatch):
    """Of a pooled chain the middle shares a law, the ends have their own; of the wide windows only three are whole."""
    graph = DependencyGraph.chain(11)
    y = np.random.default_rng(0).normal(size=(30, 11, channels)).cumsum(axis=1)
    score = fit_windowed(Samples(y, graph), ((1.0, radius),), Pooling(1.0))[2]
    assert len(np.unique(score.window(radius).law)) == 2 * radius + 1
    times = torch.tensor(TIMES, dtype=torch.float64)
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(len(times), 11, channels)))
    one_by_one = torch.cat([score.denoise(x[i : i + 1], times[i]) for i in range(len(times))])
    for largest in (2**24, 1):
        monkeypatch.setattr("nearfield.score.gaussian.LARGEST_BATCH", largest)
        for _ in range(2):  # the second time from what was kept
            torch.testing.assert_close(score.denoise(x, times), one_by_one, rtol=1e-10, atol=1e-12)


def test_what_is_kept_for_the_next_batch_is_of_its_own_kind():
    """Denoising of a batch with many times keeps the windows: by precision, radius and piece; pickles go without."""
    score = windowed(covariance(6), GRAPHS["chain"], ((0.1, 1), (1.0, 2)))
    x = torch.randn(3, 6, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    late, early = (torch.tensor(times, dtype=torch.float64) for times in ([1.0, 2.0, 3.0], [0.01, 0.02, 0.03]))
    first = score.denoise(x, late)
    assert score._kept
    torch.testing.assert_close(score.denoise(x.float(), late).double(), first, rtol=1e-5, atol=1e-5)
    score.denoise(x.float(), early)
    other = score.denoise(x, early)
    one_by_one = torch.cat([score.denoise(x[i : i + 1], early[i]) for i in range(3)])
    torch.testing.assert_close(other, one_by_one, rtol=1e-12, atol=1e-12)
    assert torch.equal(score.denoise(x, late), first)
    assert torch.equal(pickle.loads(pickle.dumps(score)).denoise(x, late), first)
    assert len(pickle.dumps(score)) == len(pickle.dumps(windowed(covariance(6), GRAPHS["chain"], score.radius_by_time)))
