"""Networks fitted to data: what is compared, when they take over, and that they never make it worse."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import nearfield as nf
from nearfield.datasets import AutoregressiveChain, CoxIngersollRoss, DoubleWellChain, GaussianMarkovField
from nearfield.fitting.closed_form import build_field
from nearfield.fitting.context import Locality, context_gaussian
from nearfield.fitting.levels import choose_levels
from nearfield.fitting.matching import NoiseLevels, held_out
from nearfield.fitting.neural import Design, default_recipe, fit_network, make_network
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.quadratic import fit_quadratic
from nearfield.fitting.radius import SIGMAS
from nearfield.fitting.recipe import Recipe
from nearfield.fitting.selection import Candidate
from nearfield.graph import DependencyGraph
from nearfield.methods.network import _shared_law
from nearfield.noise import Stream
from nearfield.paper.recipe import PaperRecipe, fit_paper
from nearfield.process import noise_scale, noise_to_signal, signal_scale, time_of
from nearfield.samples import Samples
from nearfield.score.base import Score
from nearfield.score.hybrid import HybridScore
from nearfield.score.switch import SwitchedScore

LAW = CoxIngersollRoss(a=0.25, b=1.0, sigma=0.6, step=1.0, length=32)


class Signs:
    """Independent signs: E[x_0 | x_t] = tanh(a x_t / s^2)."""

    graph = DependencyGraph.chain(10)

    def sample(self, n_samples, random_state):
        return np.random.default_rng(random_state).choice([-1.0, 1.0], size=(n_samples, 10, 1))

    def standardize(self, x):
        return x


class Exact(Score):
    """The exact denoiser of signs, spoilt by a share of the state at noise levels of choice."""

    n_vertices, n_channels, radius = 10, 1, 0

    def __init__(self, spoilt=lambda sigma: 0.0):
        super().__init__()
        self.spoilt = spoilt

    def forward(self, x, t):
        t = float(torch.as_tensor(t).reshape(-1)[0])
        return torch.tanh(signal_scale(t) * x / noise_scale(t) ** 2) + self.spoilt(noise_to_signal(t)) * x


def levels(score, law, n=200, seed=0):
    z = law.standardize(law.sample(n, random_state=seed))
    network = SimpleNamespace(score=score, used=np.arange(n // 2), unseen=np.arange(n // 2, n))
    fit = SimpleNamespace(networks=(network,))
    return (
        choose_levels(Samples(z, law.graph, standard=(True,)), fit, Locality(1, Pooling(1.0)), seed=seed),
        z,
        fit,
    )


def test_a_better_score_takes_over_where_it_is_better():
    everywhere, z, fit = levels(Exact(), Signs())
    assert all(level.selected for level in everywhere if level.sigma < 2)
    # Losses are those of matching, over sigma^2 in place of s^2, of a field that has not seen the samples.
    field = build_field(Samples(z[fit.networks[0].used], Signs.graph, standard=(True,)), 1, Pooling(1.0)).field
    # Its noise is not the one that told when to stop.
    unseen, times = torch.from_numpy(z[fit.networks[0].unseen]), [time_of(s) for s in SIGMAS]
    expected = held_out(field, unseen, times, seed=0, stream=Stream.EVALUATION)[4].mean()
    assert everywhere[4].gaussian == pytest.approx(expected / (1 + SIGMAS[4] ** 2), rel=1e-12)
    assert [level.selected for level in everywhere] == [e.gaussian - e.hybrid > e.error for e in everywhere]
    assert any(abs(level.gaussian - level.hybrid) < level.error for level in everywhere)
    spoilt, *_ = levels(Exact(lambda sigma: 0.3 if sigma > 1.2 else 0.0), Signs())
    assert [level.selected for level in spoilt if level.sigma > 1.2] == [False] * 6
    assert [level.selected for level in spoilt if level.sigma < 1.2] == [True] * 7


def test_what_is_good_somewhere_but_worse_in_all_does_not_take_over():
    spoilt, *_ = levels(Exact(lambda sigma: 0.0 if sigma < 0.2 else 0.5), Signs())
    assert not any(level.selected for level in spoilt)


def test_the_gaussian_field_is_not_left_for_its_equal():
    """On Gaussian data the exact denoiser of another fit to as many samples gains nothing; 12 data sets.

    By chance the rule of two standard errors lets a network through in 2.3 % of data sets where the two are equal; five
    or more of 12 has a probability below 1e-5.
    """
    law, taken = AutoregressiveChain(0.7, 24), 0
    for seed in range(12):
        z = law.standardize(law.sample(60, random_state=100 + seed))
        other = build_field(Samples(z, law.graph, standard=(True,)), 1, Pooling(1.0)).field
        chosen, *_ = levels(other, law, n=120, seed=seed)
        taken += any(level.selected for level in chosen)
    assert taken < 5


def test_networks_suit_their_graph():
    points = np.random.default_rng(0).uniform(size=(60, 2))
    made = {
        "chain": make_network(DependencyGraph.chain(30), radius=None, n_channels=1, n_context=1, embedding=0, seed=0),
        "knn": make_network(
            DependencyGraph.knn(points, 6), radius=None, n_channels=2, n_context=0, embedding=8, seed=0
        ),
    }
    assert {name: type(network).__name__ for name, network in made.items()} == {
        "chain": "StencilNetwork",
        "knn": "WindowNetwork",
    }
    assert made["chain"].radius == 4
    width = [DependencyGraph.knn(points, 6).neighborhood(r).index.shape[1] for r in (1, 2, 3, 4)]
    assert made["knn"].radius == max([r for r, w in zip((1, 2, 3, 4), width, strict=True) if w <= 32], default=1)


def test_a_radius_that_is_given_bounds_what_is_read():
    z = LAW.standardize(LAW.sample(30, random_state=0))
    samples, recipe = Samples(z, LAW.graph, standard=(True,)), Recipe(steps=2, seed=3)
    for radius in (0, 1, 2, 5):
        for kind in ("hybrid", "neural"):
            assert fit_network(samples, Design(kind, Locality(2, Pooling(1.0)), radius), recipe).score.radius == radius
    widest = (len(LAW.graph) - 1) // 2
    assert fit_network(samples, Design("hybrid", Locality(2, Pooling(1.0))), recipe).score.radius == 4 + widest
    assert fit_network(samples, Design("neural", Locality(2, Pooling(1.0))), recipe).score.radius == 4
    apart = fit_network(samples, Design("hybrid", Locality(2, Pooling(0.5))), recipe).score
    assert apart.network.site.size == 8
    assert len(
        context_gaussian(Samples(z, LAW.graph, standard=(True,)), 2, Pooling(0.5), seed=3).radius_by_time
    ) == len(SIGMAS)


def test_on_a_chain_of_one_law_the_context_has_the_marginals_of_the_field():
    """Window by window the field's exact denoiser of the window alone; on a long chain too, computed on a short one."""
    x = AutoregressiveChain(0.8, 200).sample(50, random_state=0)
    for n in (20, 200):
        z, graph = x[:, :n], DependencyGraph.chain(n)
        covariance = build_field(Samples(z, graph, standard=(True,)), 2, Pooling(1.0)).field.covariance()
        gaussian = context_gaussian(Samples(z, graph, standard=(True,)), 2, Pooling(1.0))
        assert gaussian.radius == min(32, (n - 1) // 2)
        t, state = 0.4, torch.from_numpy(np.random.default_rng(1).normal(size=(3, n, 1)))
        a, s = math.exp(-t), math.sqrt(-math.expm1(-2 * t))
        found = gaussian.denoise(state, t)[..., 0].numpy()
        for vertex in (0, 5, n // 2, n - 1):
            near = np.arange(max(0, vertex - gaussian.radius), min(n, vertex + gaussian.radius + 1))
            c = covariance[np.ix_(near, near)]
            row = a * np.linalg.solve(a**2 * c + s**2 * np.eye(len(near)), covariance[near, vertex])
            # the field is stationary but for its first vertices, on data that are stationary
            np.testing.assert_allclose(found[:, vertex], state.numpy()[:, near, 0] @ row, atol=2e-3)


@pytest.mark.parametrize(
    ("graph", "n", "radius"),
    [
        (DependencyGraph.grid((32, 32), periodic=True), 50, 12),  # 313 entries
        (DependencyGraph.grid((10, 20), periodic=True), 50, 4),  # does not meet itself
        (DependencyGraph.grid((4, 64), periodic=True), 50, 31),  # but around the short axis
        (DependencyGraph.grid((8, 20), periodic=True), 50, 9),
        (DependencyGraph.grid((8, 20), periodic=True), 49, None),
        (DependencyGraph.grid((8, 20), periodic=(True, False)), 50, None),
    ],
)
def test_on_a_torus_of_one_law_the_context_has_wide_windows(graph, n, radius):
    z = np.random.default_rng(0).normal(size=(n, len(graph), 1))
    gaussian = context_gaussian(Samples(z, graph, standard=(True,)), 2, Pooling(1.0))
    if radius is None:
        assert len(gaussian.radius_by_time) == len(SIGMAS)
    else:
        assert gaussian.radius_by_time == ((1.0, radius),)


@pytest.mark.parametrize("n", [4, 5, 7])
def test_the_context_of_few_samples_is_a_gaussian_of_the_fields_hops(n):
    """Where so few are left that no radius can be chosen by held-out loss."""
    z, graph = np.random.default_rng(0).normal(size=(n, 20, 1)), DependencyGraph.grid((4, 5))
    fit = fit_network(
        Samples(z, graph, standard=(True,)), Design("hybrid", Locality(2, Pooling(1.0))), Recipe(steps=2, held_out=0.5)
    )
    assert fit.score.context.radius_by_time == ((1.0, 2),)


def test_weights_are_averaged_over_a_twentieth_of_the_steps():
    for n in (50, 200, 1800):
        recipe = default_recipe(LAW.graph, n)
        assert 1 / (1 - recipe.decay) == pytest.approx(recipe.steps / 20)


def test_each_network_of_an_ensemble_holds_out_another_part():
    """And the first is the network that would be trained alone."""
    z = LAW.standardize(LAW.sample(30, random_state=0))
    recipe = Recipe(steps=12, held_out=0.4, check_every=6, ema=0.5)
    design = Design("hybrid", Locality(2, Pooling(1.0)), 2)
    alone = fit_network(Samples(z, LAW.graph, standard=(True,)), design, recipe)
    steps = []
    several = fit_network(
        Samples(z, LAW.graph, standard=(True,)),
        design,
        replace(recipe, n_networks=3),
        progress=lambda k, _: steps.append(k),
    )
    assert steps == list(range(1, 37))
    assert alone.networks[0].training.losses == several.networks[0].training.losses
    assert isinstance(alone.score, HybridScore)
    held = [set(network.unseen) for network in several.networks]
    assert not held[0] & held[1]
    assert held[0] | held[1] | held[2] == set(range(30))
    for number, network in enumerate(several.networks):
        assert set(network.used) == set(range(30)) - set(network.unseen)
        fitted = fit_quadratic(Samples(z[network.used], LAW.graph), network.score.context, recipe.network_seed(number))
        np.testing.assert_array_equal(network.score.quadratic, fitted)
    x = torch.from_numpy(z)
    t = torch.linspace(0.01, 2, 30, dtype=torch.float64)
    mean = sum(network.score.denoise(x, t) for network in several.networks) / 3
    torch.testing.assert_close(several.score.denoise(x, t), mean)
    assert len({float(network.score.denoise(x, 0.3).sum()) for network in several.networks}) == 3


def test_only_what_a_change_of_sign_changes_has_a_square():
    x = np.random.default_rng(0).gamma(2.0, size=(60, 12, 1))
    z, graph = (x - 2) / np.sqrt(2), DependencyGraph.chain(12)
    recipe = Recipe(steps=1)
    design = Design("hybrid", Locality(1, Pooling(1.0)), 2)
    skewed = fit_network(Samples(z, graph, standard=(True,)), design, recipe).score
    assert skewed.quadratic[1:].min() > 0.1
    odd = fit_network(Samples(z, graph, standard=(True,)), design, replace(recipe, symmetries=("negate",)))
    assert not odd.score.quadratic.any()
    assert odd.networks[0].training.symmetries == ("negate",)


def test_networks_are_compared_on_their_held_out_samples_and_each_sample_once():
    """The exact denoiser in the place of a network that has another: its part alone has the lower loss."""
    law, n = Signs(), 60
    z = law.sample(n, random_state=0)
    parts = [np.arange(30), np.arange(20, 60)]  # 20 to 29 in both: the first counts
    scores = (Exact(), Exact(spoilt=lambda sigma: 0.3))
    networks = tuple(
        SimpleNamespace(score=score, used=np.setdiff1d(np.arange(n), part), unseen=part)
        for score, part in zip(scores, parts, strict=True)
    )
    found = choose_levels(
        Samples(z, law.graph, standard=(True,)),
        SimpleNamespace(networks=networks),
        Locality(1, Pooling(1.0)),
        seed=3,
    )
    times = [time_of(s) for s in SIGMAS]
    expected = np.concatenate(
        [
            held_out(score, torch.from_numpy(z[part]), times, seed=seed, stream=Stream.EVALUATION)
            for score, part, seed in zip(scores, (np.arange(30), np.arange(30, 60)), (3, 4), strict=True)
        ],
        axis=1,
    ).mean(axis=1) / (1 + np.square(SIGMAS))
    np.testing.assert_allclose([level.hybrid for level in found], expected)


@pytest.mark.slow
def test_an_ensemble_is_stored_extended_and_resumed(tmp_path):
    x = DoubleWellChain(h=2.0, J=3.0, length=32).sample(80, random_state=0)[..., 0]
    recipe = Recipe(steps=200, n_networks=2, check_every=50, ema=0.9, learning_rate=1e-2, symmetries=("negate",))
    model = nf.LocalizedDiffusion(method="auto", marginal="none", pooling=1.0, radius=2, recipe=recipe, random_state=0)
    model.fit(x, checkpoint=tmp_path / "part")
    assert isinstance(model.score_, SwitchedScore)
    assert "Mean of 2 networks" in model.fit_report_.reason
    model.save(tmp_path / "m.nearfield")
    again = nf.load(tmp_path / "m.nearfield")
    assert again.recipe == recipe
    np.testing.assert_array_equal(again.sample(3, random_state=1), model.sample(3, random_state=1))
    assert again.extend((64,)).sample(2, random_state=1).shape == (2, 64)
    assert (tmp_path / "part.1").exists()
    resumed = nf.LocalizedDiffusion(
        method="auto", marginal="none", pooling=1.0, radius=2, recipe=recipe, random_state=0
    ).fit(x, checkpoint=tmp_path / "part")
    np.testing.assert_array_equal(resumed.sample(3, random_state=1), model.sample(3, random_state=1))


def test_at_least_five_samples_are_held_out():
    for n, held in ((20, 5), (40, 6), (200, 30)):
        assert len(default_recipe(LAW.graph, n).divide(Samples(np.zeros((n, len(LAW.graph), 1)), LAW.graph))[1]) == held


@pytest.mark.slow
def test_auto_says_what_it_compared_and_a_stored_model_draws_the_same(tmp_path):
    x = LAW.sample(80, random_state=1)[..., 0]
    recipe = Recipe(steps=120, levels=NoiseLevels(), ema=0.9, batch_size=16, held_out=0.2)
    model = nf.LocalizedDiffusion(radius=2, pooling=1.0, recipe=recipe, random_state=0).fit(x)
    assert isinstance(model.score_, SwitchedScore)
    report = model.fit_report_
    assert [used for _, used in model.score_.choice] == [level.selected for level in report.levels]
    assert "noise levels" in report.reason
    assert report.training.reason == "budget"
    model.save(tmp_path / "m")
    again = nf.load(tmp_path / "m")
    np.testing.assert_array_equal(again.sample(3, random_state=5), model.sample(3, random_state=5))
    assert again.fit_report_ == report
    assert again.recipe == recipe
    np.testing.assert_array_equal(again.score_samples(x), model.score_samples(x))
    field = nf.LocalizedDiffusion(method="gaussian", radius=2, pooling=1.0, random_state=0).fit(x)
    np.testing.assert_array_equal(model.surprise(x), field.surprise(x))


def test_few_samples_stay_gaussian_and_it_is_said():
    x = LAW.sample(19, random_state=0)[..., 0]
    with pytest.warns(UserWarning, match="19 samples are too few"):
        model = nf.LocalizedDiffusion(radius=1, pooling=1.0, random_state=0).fit(x)
    assert type(model.score_).__name__ == "GaussianField"
    assert "19 samples are fewer than 20" in model.fit_report_.reason
    network = nf.LocalizedDiffusion(method="neural", recipe=Recipe(steps=1), radius=1, pooling=1.0).fit(x)
    assert np.isfinite(network.surprise(x)).all()  # from the field kept beside it
    with pytest.raises(ValueError, match="Gaussian field"):
        nf.LocalizedDiffusion(method="windowed", radius=1, pooling=1.0).fit(x).surprise(x)


def test_a_killed_fit_goes_on_from_its_checkpoint(tmp_path):
    x = LAW.sample(30, random_state=0)[..., 0]
    parameters = {"method": "neural", "radius": 1, "pooling": 1.0, "random_state": 0}
    recipe = Recipe(steps=4, check_every=2)
    whole = nf.LocalizedDiffusion(recipe=recipe, **parameters).fit(x, checkpoint=tmp_path / "training")
    again = nf.LocalizedDiffusion(recipe=recipe, **parameters).fit(x, checkpoint=tmp_path / "training")
    assert again.fit_report_.training == whole.fit_report_.training  # the seconds too: nothing was trained again
    with pytest.raises(ValueError, match="of this recipe"):
        nf.LocalizedDiffusion(recipe=Recipe(steps=5), **parameters).fit(x, checkpoint=tmp_path / "training")


def test_a_refused_fit_leaves_the_earlier_one_whole():
    x = LAW.sample(30, random_state=0)[..., 0]
    model = nf.LocalizedDiffusion(method="gaussian", radius=1, pooling=1.0).fit(x)
    before = model.sample(2, random_state=0)
    with pytest.raises(ValueError, match="constant"):
        model.fit(np.ones((30, 12)))
    np.testing.assert_array_equal(model.sample(2, random_state=0), before)
    assert model.n_features_in_ == 32


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:draws differ from:UserWarning")
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("law", [AutoregressiveChain(0.8, 60), GaussianMarkovField.stationary((12, 12))])
def test_auto_is_never_worse_than_the_gaussian(law, seed):
    """On fresh samples, loss within one standard error of the Gaussian's or better."""
    shape = law.graph.lattice.shape
    x, fresh = (law.sample(n, random_state=s).reshape(n, *shape) for n, s in ((100, seed), (400, 1000 + seed)))
    recipe = Recipe(steps=300, learning_rate=5e-3, ema=0.98, batch_size=16)
    losses = []
    for method in ("auto", "gaussian"):
        model = nf.LocalizedDiffusion(method=method, recipe=recipe, random_state=seed).fit(x)
        z = torch.from_numpy(model.marginal_(model.codec_.encode(fresh)))
        losses.append(held_out(model.score_, z, [time_of(s) for s in SIGMAS], seed=9))
    gap = (losses[0] - losses[1]).sum(axis=0)
    assert gap.mean() <= gap.std(ddof=1) / np.sqrt(len(gap))


def test_the_papers_recipe_is_a_method(tmp_path):
    x = LAW.sample(30, random_state=0)[..., 0]
    recipe = PaperRecipe(steps=20, batch_size=256, widths=(8, 8, 8))
    model = nf.LocalizedDiffusion(method="paper", radius=3, recipe=recipe, random_state=0).fit(x)
    z = torch.from_numpy(model.marginal_(model.codec_.encode(x)))
    again = fit_paper(Samples(z.numpy(), LAW.graph), 3, recipe)  # the seed is that of the recipe
    torch.testing.assert_close(model.score_.denoise(z, 0.3), again.denoise(z, 0.3), rtol=0, atol=0)
    model.save(tmp_path / "m")
    loaded = nf.load(tmp_path / "m")
    assert loaded.recipe == recipe
    np.testing.assert_array_equal(loaded.sample(2, random_state=1), model.sample(2, random_state=1))
    with pytest.raises(TypeError, match="must be a PaperRecipe"):
        nf.LocalizedDiffusion(method="paper", recipe=Recipe(steps=2)).fit(x)
    with pytest.raises(ValueError, match="checkpoint must be None"):
        model.fit(x, checkpoint=tmp_path / "c")


def test_a_network_is_one_law_unless_vertices_differ_clearly():
    """On series of one law the field's pooling follows chance; the network's must not. Signed vertices do differ."""
    law, recipe = CoxIngersollRoss(a=0.25, b=1.0, sigma=0.6, step=1.0, length=24), Recipe(steps=1)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], 24)
    for seed in range(3):
        z = law.standardize(law.sample(120, random_state=seed))[..., 0]
        for x, embedding in ((z, 0), (signs * z, 8)):
            model = nf.LocalizedDiffusion(method="neural", recipe=recipe, marginal="none", random_state=seed).fit(x)
            assert model.score_.network.site.size == embedding
            assert (model.pooling_ == Pooling(1.0)) == (embedding == 0)


def test_pooling_just_short_of_one_law_is_one_law_for_a_network():
    def selection(gap):
        losses = ((1.0, gap), (0.5, 0.0))
        table = tuple(Candidate(1, s, np.inf, 1.0 + g, 0.1, g, 0.001, 2.0) for s, g in losses)
        return SimpleNamespace(selection=SimpleNamespace(table=table), pooling=Pooling(0.5))

    assert _shared_law(selection(0.0029)) == Pooling(1.0)
    assert _shared_law(selection(0.0031)) == Pooling(0.5)
    assert _shared_law(SimpleNamespace(selection=None, pooling=Pooling(0.5))) == Pooling(0.5)
