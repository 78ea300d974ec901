"""Noise maps: dense formulas for Gaussian laws, one pass given points, what training draws, and what it never reads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import nearfield as nf
from nearfield.distribution import DiffusionModel
from nearfield.fitting import neural as neural_module
from nearfield.fitting.context import Context, Locality
from nearfield.fitting.matching import HeldOut, held_out
from nearfield.fitting.neural import Design
from nearfield.fitting.noise_map import NoiseMaps, with_missing
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.recipe import Recipe
from nearfield.fitting.training import train
from nearfield.graph import DependencyGraph
from nearfield.methods import Hybrid
from nearfield.methods import hybrid as hybrid_module
from nearfield.methods.gaussian import choose
from nearfield.process import noise_to_signal, per_sample, signal_scale, time_of
from nearfield.samples import Completions, Samples
from nearfield.sampling.conditioning import DecoupledSampler
from nearfield.sampling.mapped import in_one_pass, sample_in_one_pass
from nearfield.sampling.sampler import DPMSolver2M, default_schedule
from nearfield.score import context as context_module
from nearfield.score.conditioned import SMALLEST_ERROR, ConditionedScore
from nearfield.score.context import FieldContext
from nearfield.score.ensemble import EnsembleScore
from nearfield.score.evidence import Evidence, Sites
from nearfield.score.field import GaussianField
from nearfield.score.hybrid import HybridScore
from nearfield.score.posterior_field import PosteriorField
from nearfield.score.stencil import StencilNetwork
from nearfield.score.switch import SwitchedScore

V, C = 12, 2
N = V * C
CHAIN = DependencyGraph.chain(V)
SHORT = Recipe(steps=4, batch_size=8, ema=0.9, held_out_levels=3, check_every=2, symmetries=())


def field(seed: int = 0) -> GaussianField:
    rng = np.random.default_rng(seed)
    factor = np.tril(0.2 * rng.normal(size=(N, N)) * (rng.random((N, N)) < 0.3), -1) + np.diag(rng.uniform(0.5, 2, N))
    return GaussianField(sp.csr_array(factor), rng.permutation(V), C)


def hybrid(context: FieldContext, seed: int = 0, full_start: bool = True) -> HybridScore:
    """A network that has learned something."""
    network = StencilNetwork(CHAIN, 1, C, 4 * C, width=8).double().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for weight in network.parameters():
        weight += 0.1 * torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    return HybridScore(network, context, np.full((4, C), 0.3), full_start=full_start, noise_map=True)


def state(n: int = 4, seed: int = 3) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, V, C)))


def some_map(n: int = 4, seed: int = 5) -> torch.Tensor:
    """Times of all sizes; a fifth of the values is missing."""
    rng = np.random.default_rng(seed)
    sigma = np.where(rng.random((n, V, C)) < 0.2, np.inf, np.exp(rng.uniform(-6, 4, size=(n, V, C))))
    return time_of(torch.from_numpy(sigma))


def test_the_field_under_a_map_is_the_posterior_mean_with_its_variance():
    score, x, t = FieldContext(field()), state(), some_map()
    covariance = score.field.covariance()
    denoised, variance = score.denoise_with_variance(x, t)
    for k in range(len(x)):
        weight = torch.expm1(2 * t[k]).reshape(-1).numpy() ** -1
        posterior = np.linalg.inv(np.linalg.inv(covariance) + np.diag(weight))
        y = (x[k] / signal_scale(t[k]).clamp_min(1e-200)).reshape(-1).numpy()
        np.testing.assert_allclose(denoised[k].reshape(-1), posterior @ (weight * y), rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(variance[k].reshape(-1), np.diag(covariance - posterior), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(score.denoise(x, t), denoised, rtol=0, atol=0)


@pytest.mark.parametrize("full_start", [False, True])
def test_a_constant_map_is_the_common_time(full_start):
    """By the factorisation of a map, and by the eigenbasis."""
    context, x = FieldContext(field()), state()
    for score in (context, hybrid(context, full_start=full_start)):
        for t in (time_of(0.02), 0.4, time_of(30.0)):
            by_map = score.forward(x, torch.full(x.shape, t, dtype=torch.float64))
            torch.testing.assert_close(by_map, score.denoise(x, t), rtol=1e-9, atol=1e-10)


def test_maps_of_vertices_of_entries_and_of_one_kind_agree(monkeypatch):
    score, x = hybrid(FieldContext(field())), state()
    of_vertices = some_map()[:, :, 0]
    of_entries = of_vertices[:, :, None].expand(-1, -1, C)
    found = score.denoise(x, of_vertices)
    torch.testing.assert_close(score.denoise(x, of_entries), found, rtol=0, atol=0)
    one = of_entries[:1].expand(4, -1, -1)  # one factorisation for all
    one_by_one = torch.cat([score.denoise(x[k : k + 1], one[:1]) for k in range(4)])
    torch.testing.assert_close(score.denoise(x, one), one_by_one, rtol=1e-10, atol=1e-12)
    monkeypatch.setattr(context_module, "MATRICES", N * N + 1)  # one matrix at a time
    torch.testing.assert_close(score.denoise(x, of_entries), found, rtol=1e-10, atol=1e-12)


def test_an_untrained_network_starts_from_the_field_under_the_map():
    context = FieldContext(field())
    network = StencilNetwork(CHAIN, 1, C, 4 * C, width=8).double()
    score = HybridScore(network, context, full_start=True, noise_map=True)
    torch.testing.assert_close(score.denoise(state(), some_map()), context.denoise(state(), some_map()))


def test_a_missing_value_is_ignored_and_one_without_noise_stays():
    score, t = hybrid(FieldContext(field())), some_map()
    one, other = state(), state()
    missing = torch.isinf(t)
    other[missing] = torch.nan
    assert missing.any()
    torch.testing.assert_close(score.denoise(one, t), score.denoise(other, t), rtol=0, atol=0)
    assert torch.isfinite(score.score(other, t)).all()
    t = t.clone()
    t[:, 4] = 0.0
    assert torch.equal(score.denoise(one, t)[:, 4], one[:, 4])


def test_tweedie_holds_entry_by_entry():
    """Of a Gaussian law: the score of N(0, a C a + s^2) at the state."""
    score, x = FieldContext(field()), state(1)
    t = time_of(torch.exp(torch.linspace(-3, 3, N, dtype=torch.float64))).reshape(1, V, C)
    a = signal_scale(t).reshape(-1)
    covariance = a[:, None] * torch.from_numpy(score.field.covariance()) * a + torch.diag(1 - a**2)
    expected = -torch.linalg.solve(covariance, x.reshape(-1)).reshape(1, V, C)
    torch.testing.assert_close(score.score(x, t), expected, rtol=1e-6, atol=1e-8)


def points(seed: int = 2, error: float | None = None) -> Evidence:
    """Exact entries, and entries with errors, one of them observed twice."""
    rng = np.random.default_rng(seed)
    known = np.zeros(N, dtype=bool)
    known[[1, 9]] = True
    entry, r = np.array([3, 12, 12, 20]), np.array([0.3, 1.0, 0.5, 0.05]) if error is None else np.full(4, error)
    rows = sp.csr_array((1 / r, (np.arange(4), entry)), shape=(4, N))
    return Evidence(
        known, rng.normal(size=(2, N)), rows, rng.normal(size=4) / r, np.zeros(4, dtype=bool), smallest_error=r.min()
    )


def conditioned(score, evidence: Evidence, case: int = 0, exact: float = np.inf) -> ConditionedScore:
    precision, pull = evidence.points()
    values = np.where(evidence.known, evidence.values[case], pull / np.where(precision > 0, precision, 1))
    precision = np.where(evidence.known, exact, precision)
    return ConditionedScore(score, precision.reshape(V, C), values.reshape(V, C))


def test_a_conditioned_score_is_that_of_the_conditional_law():
    """The denoiser is the mean given the state and the observations, by the field's own solver."""
    evidence, x = points(), state(1)
    score = conditioned(FieldContext(field()), evidence)
    for sigma in (0.05, 1.0, 20.0):
        t = time_of(sigma)
        y = x.numpy().reshape(-1) / signal_scale(t)
        exact = sp.csr_array(np.eye(N)[evidence.known]) / SMALLEST_ERROR  # which it takes for the smallest error
        both = replace(
            evidence.of_case(0),
            known=np.zeros(N, dtype=bool),
            rows=sp.csr_array(sp.vstack([evidence.rows, exact, sp.eye_array(N) / sigma])),
            target=np.r_[evidence.target, evidence.values[0, evidence.known] / SMALLEST_ERROR, y / sigma],
            exact=np.zeros(4 + 2 + N, dtype=bool),
        )
        mean = PosteriorField(field(), both).mean()
        np.testing.assert_allclose(score.denoise(x, t).reshape(1, -1), mean, atol=1e-8)


def test_one_pass_with_the_score_of_a_field_has_its_conditional_law():
    """The law of the draws is known without any: means within .5 % of a deviation, deviations within .5 %."""
    evidence = points()
    score = conditioned(FieldContext(field()), evidence)
    steps = default_schedule(steps=800)
    mean, covariance = DPMSolver2M(steps).push_forward(score)
    law = PosteriorField(field(), evidence.of_case(0))
    free, deviation = ~evidence.known, np.sqrt(law.variance())
    assert np.abs(mean.numpy() - law.mean()[0])[free].max() < 0.005 * deviation[free].max()
    ratio = np.sqrt(np.diag(covariance.numpy()))[free] / deviation[free]
    np.testing.assert_allclose(ratio[deviation[free] > 0.1], 1.0, atol=5e-3)


def test_draws_have_the_conditional_law_and_their_addresses():
    """Means within 5 standard errors of 400 draws, a false alarm in 10,000; deviations within a fifth."""
    model, evidence = DiffusionModel(FieldContext(field()), 1.0, field()), points()
    drawn = model.condition(evidence).sample(400, seed=1, device="cpu")
    law, free = PosteriorField(field(), evidence), ~evidence.known
    deviation = np.sqrt(law.variance())[free]
    away = (drawn.mean(axis=0) - law.mean())[:, free] / (deviation / 20)
    assert np.abs(away).max() < 5
    np.testing.assert_allclose(drawn.std(axis=0)[:, free] / deviation, 1.0, atol=0.2)
    np.testing.assert_array_equal(drawn[..., evidence.known], np.tile(evidence.values[:, evidence.known], (400, 1, 1)))
    few = model.condition(evidence).sample(3, seed=1, device="cpu", batch_size=2)
    np.testing.assert_allclose(few, drawn[:3], rtol=1e-9, atol=1e-10)
    second = replace(evidence, values=evidence.values[1:], numbers=np.array([1]))
    np.testing.assert_allclose(
        model.condition(second).sample(3, seed=1, device="cpu")[:, 0], drawn[:3, 1], rtol=1e-9, atol=1e-10
    )


def test_observed_and_not_observed_draws_are_independent():
    """Nothing observed: the law is that of `sample`, the members are others."""
    model = DiffusionModel(FieldContext(field()), 1.0, field())
    nothing = Evidence.of_entries(np.zeros(N, dtype=bool), np.zeros((1, N)), np.zeros(1, dtype=int))
    given = model.condition(nothing).sample(300, seed=1, device="cpu")[:, 0]
    free = model.sample(300, seed=1, device="cpu").reshape(300, N)
    np.testing.assert_allclose(given.std(axis=0) / free.std(axis=0), 1.0, atol=0.3)
    correlation = np.corrcoef(given[:, 0], free[:, 0])[0, 1]
    assert abs(correlation) < 0.25


def test_levels_end_below_the_smallest_error():
    evidence = points(error=0.004)
    score = FieldContext(field())
    seen: list[float] = []

    class Listening(FieldContext):
        def forward(self, x, t):
            seen.append(float(noise_to_signal(t.min())))
            return super().forward(x, t)

    sample_in_one_pass(Listening(score.field), evidence, 1, seed=0, levels=5)
    assert min(seen) == pytest.approx((1e6 + 0.0016**-2) ** -0.5, rel=1e-6)


def test_only_points_take_one_pass():
    score, given = FieldContext(field()), points()
    assert in_one_pass(score, given)
    assert not in_one_pass(field(), given)
    average = replace(given, rows=sp.csr_array(np.full((1, N), 0.1)), target=np.ones(1), exact=np.zeros(1, dtype=bool))
    bound = given.with_sites(Sites(np.array([4]), np.zeros(1), np.ones(1), np.zeros(1, dtype=bool), np.zeros((1, 2))))
    exact = replace(given, exact=np.array([False, True, False, False]))
    for other in (average, bound, exact):
        assert not in_one_pass(score, other)
    drawn = DiffusionModel(score, 1.0, field()).condition(average).sample(2, seed=0, device="cpu")
    expected = DecoupledSampler().sample(score, field(), average, 2, seed=0)
    np.testing.assert_array_equal(drawn, expected)


def test_scores_made_of_others_take_maps_where_these_do():
    mapped, plain = hybrid(FieldContext(field())), field()
    x, t = state(), some_map()
    other = hybrid(FieldContext(field()), seed=1)
    mean = EnsembleScore((mapped, other))
    torch.testing.assert_close(mean.denoise(x, t), (mapped.denoise(x, t) + other.denoise(x, t)) / 2)
    switched = SwitchedScore(plain, mapped, ((0.1, False), (0.6, False)))
    torch.testing.assert_close(switched.denoise(x, t), mapped.denoise(x, t), rtol=0, atol=0)
    torch.testing.assert_close(switched.denoise(x, 0.3), plain.denoise(x, 0.3), rtol=0, atol=0)
    large = FieldContext(GaussianField(sp.eye_array(1025, format="csr"), np.arange(1025)))
    network = StencilNetwork(DependencyGraph.chain(1025), 0, 1, 4, width=2)
    assert [s.maps for s in (mean, switched, plain, large)] == [True, True, False, False]
    assert not HybridScore(network, large, noise_map=True).maps


GRAPHS = {
    "chain": DependencyGraph.chain(40),
    "sea": DependencyGraph.grid((7, 6)).subgraph(np.arange(42).reshape(7, 6) != 20),
    "stations": DependencyGraph.knn(np.random.default_rng(0).uniform(size=(40, 2)), 3),
}


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_training_meets_all_kinds_of_maps(graph):
    """Shares of 20,000 samples: 4 standard errors from the next wrong one at least, a false alarm in 10,000."""
    n, v = 20_000, len(graph)
    common = time_of(torch.full((n,), 0.7, dtype=torch.float64))
    t, counted = NoiseMaps.of(graph).draw(common, 1, torch.Generator().manual_seed(0))
    sigma, counted = noise_to_signal(t)[..., 0], counted[..., 0]
    assert t.shape == (n, v, 1)
    uniform = (sigma == noise_to_signal(common)[:, None]).all(dim=1)
    largest = sigma.amax(dim=1)
    seen = sigma < largest[:, None] * (1 - 1e-9)
    # nothing is seen, or by a mask that leaves nothing out
    assert 0.49 < uniform.double().mean() < 0.56
    exact = seen & (sigma <= SMALLEST_ERROR)
    assert torch.equal(exact, seen & ~counted)
    assert abs(exact.any(dim=1).double().sum() / seen.any(dim=1).double().sum() - 0.5) < 0.03
    strong = largest > 3
    assert abs(strong.double().mean() - 0.5 * 0.15) < 0.012
    if graph.lattice is None or graph.keep is not None:
        return
    gaps = ((seen[:, 1:] != seen[:, :-1]).sum(dim=1) <= 2) & seen.any(dim=1) & ((~seen).sum(dim=1) >= 3)
    gaps &= (~seen).sum(dim=1) <= 15  # scattered points leave such gaps now and then
    assert 0.12 < gaps.double().mean() < 0.17
    spacing = torch.stack([(seen[:, k:] == seen[:, :-k]).all(dim=1) for k in range(2, 12)]) & seen.any(dim=1)
    assert 0.1 < spacing.any(dim=0).double().mean() < 0.14


def test_observed_sites_combine_their_error_with_the_common_noise():
    common = time_of(torch.linspace(0.1, 50, 500, dtype=torch.float64))
    t, counted = NoiseMaps.of(CHAIN).draw(common, C, torch.Generator().manual_seed(1))
    sigma = noise_to_signal(t).flatten(1)
    for own, counts in zip(sigma, counted.flatten(1), strict=True):
        levels = own.unique()
        assert len(levels) <= 2
        if len(levels) == 2:
            error = (levels[0] ** -2 - levels[1] ** -2) ** -0.5
            near = abs(float(error) - SMALLEST_ERROR) < 1e-6
            assert near or 0.02 - 1e-6 < error < 1 + 1e-4
            assert torch.equal(~counts, (own == levels[0]) & near)


def test_missing_values_have_infinite_times_and_a_state_of_zero():
    present = torch.rand(3, V, C, generator=torch.Generator().manual_seed(0)) < 0.7
    t, noise = with_missing(torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64), state(3), present)
    assert torch.equal(torch.isinf(t), ~present)
    x = signal_scale(t) * state(3) + torch.sqrt(-torch.expm1(-2 * t)) * noise
    assert bool((x[~present] == 0).all())
    common = per_sample(torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)).expand(3, V, C)
    assert torch.equal(t[present], common[present])


def gappy(spread: float, n: int = 30) -> Samples:
    """The same data, with other draws of what is missing."""
    rng = np.random.default_rng(0)
    present = rng.random((n, V, 1)) < 0.7
    x = rng.normal(size=(n, V, 1)).cumsum(axis=1) / 3
    values = np.where(present, x, spread * rng.normal(size=(2, n, V, 1)))
    return Samples(values[0], CHAIN, standard=(True,), drawn=Completions(values, present))


def test_training_never_reads_what_stands_for_missing_values():
    found = []
    for samples in (gappy(1.0), gappy(50.0)):
        network = StencilNetwork(CHAIN, 2, 1, 4, width=8, seed=0).double()
        score = HybridScore(
            network, FieldContext(GaussianField(sp.eye_array(V, format="csr"), np.arange(V))), noise_map=True
        )
        report = train(score, samples, SHORT)
        clean, times = torch.from_numpy(samples.values), (0.3, 1.0)
        loss = held_out(score, clean, times, seed=1, present=samples.present, hide=True)
        kept = HeldOut(score, clean, times, seed=1, present=samples.present).loss(score.network)
        np.testing.assert_allclose(kept, loss.mean(axis=0), rtol=1e-10)
        found.append((report.losses, report.checks, loss))
    assert found[0][:2] == found[1][:2]
    np.testing.assert_array_equal(found[0][2], found[1][2])
    assert found[0][1][-1].loss < found[0][1][0].loss


@pytest.mark.slow
def test_a_fit_with_maps_conditions_saves_and_loads(tmp_path, monkeypatch):
    monkeypatch.setattr(hybrid_module, "choose", lambda x, hops, pooling, options: choose(x, 1, pooling, options))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 10)).cumsum(axis=1)
    x[rng.random(x.shape) < 0.2] = np.nan
    method = Hybrid(pooling=1.0, noise_map=True, recipe=replace(SHORT, n_networks=2))
    model = nf.LocalizedDiffusion(method=method, marginal="none", random_state=0, device="cpu").fit(x)
    assert model.score_.maps
    assert "infinite noise" in model.fit_report_.reason
    observation = nf.Observation([1.0, 2.0], at=[3, 9], error=0.1)
    drawn = model.condition(observation).sample(2, random_state=1, steps=6)
    filled = model.impute(x[:2], n_samples=2, random_state=0)
    np.testing.assert_array_equal(filled[:, ~np.isnan(x[:2])], np.tile(x[:2][~np.isnan(x[:2])], (2, 1)))
    model.save(tmp_path / "model.nearfield")
    loaded = nf.load(tmp_path / "model.nearfield")
    assert loaded.method == method
    np.testing.assert_array_equal(loaded.condition(observation).sample(2, random_state=1, steps=6), drawn)
    bounds = nf.Observation([1.0], at=[3], below=True)
    assert (loaded.condition(bounds).sample(2, random_state=0, steps=3, repeats=1)[:, 3] <= 1).all()
    assert np.isfinite(loaded.sample(2, random_state=0, steps=3)).all()


def test_an_extended_law_keeps_its_maps(monkeypatch):
    """It starts from the field in full where that would have been the context without maps."""
    design = Design("noise map", Locality(1, Pooling(1.0)))
    x = np.random.default_rng(0).normal(size=(30, V, 1))
    samples = Samples(x, CHAIN)
    network = design.network(samples, 0).requires_grad_(False)
    score, reason = design.score(network, samples, samples, SHORT, 0)
    onto = DependencyGraph.chain(2 * V)
    larger = score.extended(CHAIN, onto)
    assert reason.startswith("It is shown what the whole Gaussian field")
    assert larger.maps
    assert not score.full_start
    monkeypatch.setattr(neural_module, "choose_context", lambda *_, **__: Context(score.context, ""))
    assert design.score(network, samples, samples, SHORT, 0)[0].full_start
    t = time_of(torch.linspace(0.1, 3, 2 * V, dtype=torch.float64))[None]
    assert larger.denoise(torch.ones(1, 2 * V, 1), t).shape == (1, 2 * V, 1)


WRONG = [
    (lambda: Hybrid(noise_map="yes"), TypeError, "noise_map must be True or False, got 'yes'"),
    (lambda: Hybrid(radius=3, noise_map=True), ValueError, "radius must be 'auto' with noise_map=True"),
    (
        lambda: Hybrid(noise_map=True).fit(Samples(np.zeros((30, 1025, 1)), DependencyGraph.chain(1025))),
        ValueError,
        "noise_map must be False beyond 1024 variables, got samples of 1025",
    ),
    (
        lambda: HybridScore(StencilNetwork(CHAIN, 1, C, 2 * C), FieldContext(field()), noise_map=True),
        ValueError,
        "n_context is four times n_channels",
    ),
    (lambda: field().denoise(state(), some_map()), ValueError, "only scores trained with noise_map=True take maps"),
    (
        lambda: FieldContext(field()).denoise(state(), some_map()[:, :3]),
        ValueError,
        r"t must be a number, or of shape \(4,\), \(4, 12\) or \(4, 12, 2\)",
    ),
    (lambda: FieldContext(field()).denoise(state(), -some_map()), ValueError, "t must be at least 0"),
    (lambda: ConditionedScore(field(), np.ones((V, C)), np.ones((V, C))), ValueError, "law must take noise maps"),
    (
        lambda: ConditionedScore(FieldContext(field()), np.ones((V, 1)), np.ones((V, C))),
        ValueError,
        r"precision must have shape \(12, 2\)",
    ),
    (
        lambda: ConditionedScore(FieldContext(field()), np.ones((V, C)), np.ones((3, V, C))).denoise(state(), 0.1),
        ValueError,
        "x must have the 3 samples of the values, got 4",
    ),
    (
        lambda: ConditionedScore(FieldContext(field()), -np.ones((V, C)), np.ones((V, C))),
        ValueError,
        "precision must be at least 0, got -1",
    ),
]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("make", "error", "message"), WRONG, ids=[message[:30] for _, _, message in WRONG])
def test_wrong_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()
