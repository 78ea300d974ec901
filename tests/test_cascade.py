"""Laws in two scales: Haar's blocks, the score of details given block means, and their law against known ones."""

import copy
import functools
import math

import numpy as np
import pytest
import torch

import nearfield as nf
from nearfield.cascade import CascadeModel
from nearfield.conditional import UnsupportedError
from nearfield.datasets import AutoregressiveChain
from nearfield.distribution import GaussianModel
from nearfield.fitting.matching import DenoisingBatch
from nearfield.fitting.recipe import Recipe
from nearfield.graph import DependencyGraph
from nearfield.graph.coarsening import coarsen
from nearfield.graph.haar import Haar
from nearfield.methods import FitOptions, Hybrid
from nearfield.samples import Samples
from nearfield.score.hybrid import ConditionalScore
from nearfield.score.network import Network
from nearfield.score.stencil import StencilNetwork

LATTICES = {
    "chain": DependencyGraph.chain(6),
    "ring": DependencyGraph.grid((8,), periodic=True),
    "grid": DependencyGraph.grid((4, 6)),
    "diagonal torus": DependencyGraph.grid((6, 8), periodic=True, diagonal=True),
    "one row": DependencyGraph.grid((1, 8)),
    "box": DependencyGraph.grid((4, 2, 4)),
}
SHORT = Recipe(steps=3, batch_size=4, held_out_levels=4, check_every=3)


class Known(Network):
    """F of the law w | z ~ N(slope z, spread^2), at each vertex alone."""

    def __init__(self, graph, slope, spread):
        super().__init__(graph, 0, 1, 1)
        self.weight = torch.nn.Parameter(torch.tensor([slope, spread], dtype=torch.float64), requires_grad=False)

    def forward(self, x, context, c_noise):
        sigma, (slope, spread) = torch.exp(c_noise)[:, None, None], self.weight
        a = (1 + sigma**2) ** -0.5
        gain = a * spread**2 / (a**2 * spread**2 + (sigma * a) ** 2)
        return (slope * context + gain * (x - a * slope * context) - a * x) / (sigma * a)

    def extended(self, graph, onto):
        return Known(onto, *self.weight.tolist())


@functools.cache
def law_of_pairs(slope=0.6, spread=0.5, blocks=3):
    """Block means of an AR(1), and a detail of each given its mean."""
    known = AutoregressiveChain(0.7, blocks)
    coarse = GaussianModel(nf.methods.Gaussian(radius=1, pooling=1.0).fit(samples_of(known)).law.score)
    score = ConditionalScore(Known(known.graph, slope, spread))
    return CascadeModel(coarse, score, np.array([2.0, 1.0]), DependencyGraph.chain(2 * blocks)), coarse


def samples_of(known):
    return Samples(known.sample(4000, random_state=0), known.graph, standard=(True,))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("graph", LATTICES.values(), ids=LATTICES)
def test_blocks_are_those_of_the_coarser_lattice(graph, channels):
    x = np.random.default_rng(0).normal(size=(3, len(graph), channels))
    haar, coarse = Haar.of(graph), coarsen(graph, 2)
    y = haar.split(x)
    np.testing.assert_allclose(haar.join(y), x, atol=1e-14)
    np.testing.assert_allclose(y[..., :channels], coarse.means(x), atol=1e-14)
    np.testing.assert_allclose((y**2).sum(axis=(1, 2)) * haar.members.shape[1], (x**2).sum(axis=(1, 2)))
    assert haar.graph.lattice == coarse.graph.lattice


def test_details_are_differences_along_the_axes():
    """Of a plane: its slopes between the cells of a block, and nothing across both axes."""
    row, column = np.mgrid[0:4, 0:4]
    y = Haar.of(DependencyGraph.grid((4, 4))).split((3.0 * row + 5.0 * column).reshape(1, 16, 1))
    np.testing.assert_allclose(y[0, :, 1:], np.tile([-2.5, -1.5, 0.0], (4, 1)), atol=1e-14)


@pytest.mark.parametrize(
    "graph",
    [
        DependencyGraph.chain(5),
        DependencyGraph.grid((4, 3)),
        DependencyGraph.knn(np.random.default_rng(0).uniform(size=(8, 2)), 2),
        DependencyGraph.grid((2, 4)).subgraph(np.arange(8).reshape(2, 4) != 3),
    ],
)
def test_other_graphs_have_no_blocks_of_two(graph):
    with pytest.raises(ValueError, match="two scales need a lattice without gaps and of even lengths"):
        Haar.of(graph)


def test_the_given_field_has_no_noise_in_training():
    """And the rest is noised as ever: the target is that of the details, with their own noise."""
    network = StencilNetwork(DependencyGraph.chain(4), 1, n_channels=3, n_context=2)
    clean, noise = torch.randn(2, 5, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = torch.linspace(0.1, 2.0, 5, dtype=torch.float64)
    batch = DenoisingBatch.of_score(ConditionalScore(network), clean, t, noise)
    a, s = torch.exp(-t)[:, None, None], torch.sqrt(-torch.expm1(-2 * t))[:, None, None]
    torch.testing.assert_close(batch.context, clean[..., :2])
    torch.testing.assert_close(batch.x, a * clean[..., 2:] + s * noise[..., 2:])
    torch.testing.assert_close(batch.target, s * clean[..., 2:] - a * noise[..., 2:])


def test_a_conditional_score_needs_its_field():
    graph = DependencyGraph.chain(4)
    score = ConditionalScore(StencilNetwork(graph, 1, n_context=1))
    with pytest.raises(ValueError, match="needs that field"):
        score.denoise(torch.zeros(1, 4, 1), 0.3)
    with pytest.raises(ValueError, match="n_context above 0"):
        ConditionalScore(StencilNetwork(graph, 1))


def test_the_score_given_a_field_is_that_of_the_conditional_law():
    """Of details that are normal given their mean: - (x - a slope z) / (a^2 spread^2 + s^2)."""
    z, x = torch.randn(2, 5, 3, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    score = law_of_pairs()[0].score.at(z)
    for t in (0.05, 0.4, 2.0):
        a, variance = math.exp(-t), math.exp(-2 * t) * 0.25 - math.expm1(-2 * t)
        torch.testing.assert_close(score.score(x, t), -(x - a * 0.6 * z) / variance)


@pytest.mark.slow
def test_draws_have_the_joint_law():
    """Covariance of means and details; each entry within 5 standard errors, a false alarm in 80,000 runs.

    The sampler draws the means too: details must have noise of their own.
    """
    law, coarse = law_of_pairs()
    n = 3000
    drawn = law.haar.split(law.sample(n, seed=3, sampler=law.default_sampler())) / law.scale.numpy()
    drawn = np.concatenate([drawn[..., 0], drawn[..., 1]], axis=1)
    c = coarse.score.covariance()
    wanted = np.block([[c, 0.6 * c], [0.6 * c, 0.36 * c + 0.25 * np.eye(3)]])
    error = np.sqrt((np.outer(np.diag(wanted), np.diag(wanted)) + wanted**2) / n)
    assert (np.abs(drawn.T @ drawn / n - wanted) / error).max() < 5
    assert (np.abs(drawn.mean(axis=0)) / np.sqrt(np.diag(wanted) / n)).max() < 5


def test_members_depend_on_seed_and_number_alone():
    law = law_of_pairs()[0]
    sampler = law.default_sampler(5)
    whole = law.sample(7, seed=5, sampler=sampler)
    np.testing.assert_allclose(law.sample(7, seed=5, sampler=sampler, batch_size=3), whole, atol=1e-12)
    np.testing.assert_allclose(law.sample(2, seed=5, sampler=sampler), whole[:2], atol=1e-12)
    assert np.abs(law.sample(7, seed=6, sampler=sampler) - whole).min() > 1e-6


def test_progress_is_told_for_both_scales():
    told = []
    law_of_pairs()[0].sample(
        2, seed=0, sampler=law_of_pairs()[0].default_sampler(4), progress=lambda *k: told.append(k)
    )
    assert told == [(k, 4) for k in (1, 2, 3, 4)] * 2


def test_a_larger_lattice_has_the_same_law():
    """Its first blocks are conditioned on nothing beyond, so that their covariance is the same."""
    law, coarse = law_of_pairs()
    larger = law.extended(DependencyGraph.chain(6), DependencyGraph.chain(10))
    assert larger.sample(2, seed=0).shape == (2, 10, 1)
    np.testing.assert_allclose(larger.coarse.score.covariance()[:3, :3], coarse.score.covariance(), atol=1e-12)
    same = law.extended(DependencyGraph.chain(6), DependencyGraph.chain(6))
    np.testing.assert_array_equal(same.sample(3, seed=1), law.sample(3, seed=1))
    with pytest.raises(ValueError, match="even lengths"):
        law.extended(DependencyGraph.chain(6), DependencyGraph.chain(9))


def test_blocks_in_the_same_corner_have_the_same_score():
    small, large = DependencyGraph.grid((5, 6)), DependencyGraph.grid((8, 7))
    network = StencilNetwork(small, 2, n_channels=3, n_context=1, width=4)
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(2))
    x, z = (torch.from_numpy(np.random.default_rng(k).normal(size=(2, 8, 7, k))) for k in (3, 1))
    score = ConditionalScore(network.requires_grad_(False))
    above = score.extended(small, large).at(z.reshape(2, 56, 1)).denoise(x.reshape(2, 56, 3), 0.3).reshape(2, 8, 7, 3)
    crop = (slice(None), slice(0, 5), slice(0, 6))
    below = score.at(z[crop].reshape(2, 30, 1)).denoise(x[crop].reshape(2, 30, 3), 0.3).reshape(2, 5, 6, 3)
    torch.testing.assert_close(above[:, :3, :4], below[:, :3, :4])


def unfitted():
    x = np.random.default_rng(0).normal(size=(12, 6, 8)) + np.random.default_rng(1).normal(size=(12, 1, 8))
    method = Hybrid(radius=2, pooling=1.0, recipe=SHORT, scales=2)
    return nf.LocalizedDiffusion(method=method, random_state=0), x


@pytest.fixture(scope="module")
def fitted():
    model, x = unfitted()
    return model.fit(x), x


@pytest.mark.slow
def test_a_fitted_law_is_stored_extended_and_drawn_alike(fitted, tmp_path):
    model, _ = fitted
    model.save(tmp_path / "model")
    other = nf.load(tmp_path / "model")
    assert isinstance(model.model_.law, CascadeModel)
    assert "Block means are drawn first" in model.fit_report_.reason
    np.testing.assert_array_equal(other.sample(3, random_state=1), model.sample(3, random_state=1))
    assert other.digest_ == model.digest_
    larger = model.extend((10, 8))
    larger.save(tmp_path / "larger")
    drawn = larger.sample(2, random_state=1)
    assert drawn.shape == (2, 10, 8)
    np.testing.assert_array_equal(nf.load(tmp_path / "larger").sample(2, random_state=1), drawn)
    np.testing.assert_array_equal(copy.deepcopy(model).sample(3, random_state=1), model.sample(3, random_state=1))


def test_what_needs_a_score_of_the_whole_field_is_refused(fitted):
    model, x = fitted
    gappy = x[:2].copy()
    gappy[:, 3, 4] = np.nan
    for ask in (model.score_samples, model.surprise):
        with pytest.raises(UnsupportedError, match="scales=1"):
            ask(x[:2])
    with pytest.raises(UnsupportedError, match="scales=1"):
        model.impute(gappy)


@pytest.mark.slow
def test_a_training_resumes_with_both_networks(tmp_path):
    told = []
    model, x = unfitted()
    model.fit(x, checkpoint=tmp_path / "state")
    assert {path.name for path in tmp_path.iterdir()} == {"state", "state.1"}
    again, _ = unfitted()
    again.fit(x, checkpoint=tmp_path / "state")
    assert again.digest_ == model.digest_
    samples = Samples(x.reshape(12, 48, 1), DependencyGraph.grid((6, 8)))
    model.method.fit(samples, FitOptions(on_step=lambda *step: told.append(step[:2])))
    assert told == [(1, 3), (2, 3), (3, 3), (4, 6), (5, 6), (6, 6)]


def test_what_two_scales_cannot_be_fitted_to_is_refused():
    with pytest.raises(ValueError, match="scales must be 1 or 2"):
        Hybrid(scales=3)
    for pooling in ("auto", 0.5):
        with pytest.raises(ValueError, match="scales=2 needs one law"):
            Hybrid(scales=2, pooling=pooling)
    model, x = unfitted()
    with pytest.raises(ValueError, match="even lengths"):
        model.fit(x[:, :5])
    x[0, 3, 4] = np.nan
    with pytest.raises(ValueError, match="missing"):
        model.fit(x)


@pytest.mark.slow
def test_units_and_several_channels_come_back():
    """Draws have the data's scale in each channel, whatever the units: other units have the same standardised law."""
    x = np.random.default_rng(1).normal(size=(12, 4, 4, 2))
    samples = Samples(x.reshape(12, 16, 2), DependencyGraph.grid((4, 4)))
    method = Hybrid(radius=2, pooling=1.0, recipe=SHORT, scales=2)
    one, two = (method.fit(samples.with_values(k * samples.values)) for k in (1.0, 4.0))
    assert one.law.score.n_channels == 6
    assert one.law.score.n_given == 2
    np.testing.assert_allclose(two.law.sample(2, seed=0), one.law.sample(2, seed=0), atol=1e-5)
    np.testing.assert_allclose(two.scale, 4 * one.scale)


@pytest.mark.slow
def test_a_trained_law_has_the_covariance_of_the_data():
    """A smooth chain: fitted to 400, neighbours and blocks vary and correlate as they do in the law."""
    known = AutoregressiveChain(0.8, 32)
    x = known.sample(400, random_state=0)
    recipe = Recipe(steps=600, batch_size=16)
    law = Hybrid(radius=6, pooling=1.0, recipe=recipe, scales=2).fit(Samples(x, known.graph)).law
    drawn = law.sample(1000, seed=1)[..., 0]
    for apart in (0, 1, 2, 3, 4):
        found = np.mean(drawn[:, apart:] * drawn[:, : 32 - apart])
        assert abs(found - 0.8**apart) < 0.08, apart
