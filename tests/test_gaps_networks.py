"""Networks trained on samples with missing values: errors count where values are data, and nowhere else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import nearfield as nf
from nearfield.datasets import AutoregressiveChain
from nearfield.fitting.closed_form import build_field
from nearfield.fitting.context import Locality
from nearfield.fitting.expectation import completed
from nearfield.fitting.levels import choose_levels
from nearfield.fitting.matching import Gaps, HeldOut, NoiseLevels, held_out, present_mean
from nearfield.fitting.neural import NetworkFit, TrainedNetwork
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.quadratic import fit_quadratic
from nearfield.fitting.recipe import Recipe
from nearfield.fitting.redrawing import redrawn
from nearfield.fitting.training import step, train
from nearfield.fitting.training_state import TrainingState
from nearfield.graph import DependencyGraph
from nearfield.methods import hybrid
from nearfield.methods.gaussian import choose
from nearfield.samples import Completions, Samples
from nearfield.score.context import FieldContext
from nearfield.score.hybrid import NetworkScore
from nearfield.score.stencil import StencilNetwork

D = 12
CHAIN = DependencyGraph.chain(D)
SHORT = Recipe(
    steps=30, batch_size=8, ema=0.9, levels=NoiseLevels(), held_out_levels=4, check_every=10, patience=15, symmetries=()
)
TIMES = NoiseLevels().grid(3)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def stencil(radius: int = 0) -> NetworkScore:
    """A score that reads one vertex each, unless it is given a radius."""
    return NetworkScore(StencilNetwork(CHAIN, radius, width=4, seed=0).double())


def gappy(n: int = 40, draws: int = 3, seed: int = 0) -> Samples:
    """Standard samples of which 30 % are drawn."""
    rng = np.random.default_rng(seed)
    x, present = AutoregressiveChain(0.7, D).sample(n, random_state=seed), rng.random((n, D, 1)) < 0.7
    values = np.where(present, x, rng.normal(size=(draws, *x.shape)))
    return Samples(values[0], CHAIN, standard=(True,), drawn=Completions(values, present))


def other_draws(samples: Samples) -> Samples:
    """The same data with other values where they are missing, far from any."""
    values = np.where(samples.present, samples.drawn.values, 40 + 7 * samples.drawn.values)
    return replace(samples, values=values[0], drawn=Completions(values, samples.present))


def weights(score: NetworkScore) -> torch.Tensor:
    return torch.cat([weight.flatten() for weight in score.network.parameters()])


@pytest.mark.parametrize("symmetries", [(), ("reflect 0", "negate")])
def test_what_stands_for_missing_values_has_no_error_in_training(symmetries):
    """A network that reads one vertex learns the same bits whatever is drawn; images take their gaps along."""
    found = []
    for samples in (gappy(), other_draws(gappy())):
        score = stencil()
        report = train(score, samples, replace(SHORT, symmetries=symmetries))
        found.append((report.losses, report.checks, weights(score)))
    assert found[0][0] == found[1][0]
    assert found[0][1] == found[1][1]
    assert torch.equal(found[0][2], found[1][2])


def test_held_out_losses_are_means_over_the_values_that_are_data():
    samples, score = gappy(7), stencil(2)
    clean, present = torch.from_numpy(samples.values), samples.present
    present[3] = False
    loss = held_out(score, clean, TIMES, seed=4, present=present)
    whole = held_out(score, clean, TIMES, seed=4, present=np.ones_like(present))
    np.testing.assert_allclose(whole, held_out(score, clean, TIMES, seed=4), rtol=1e-12)
    np.testing.assert_array_equal(loss[:, 3], 0.0)
    np.testing.assert_allclose(held_out(score, clean, TIMES, seed=4, present=present, batch_size=2), loss, rtol=1e-12)
    one = np.zeros_like(present)
    parts = np.empty((D, *loss.shape))
    for vertex in range(D):  # a loss of one vertex is its error over that vertex's share
        one[:] = False
        one[:, vertex] = True
        parts[vertex] = held_out(score, clean, TIMES, seed=4, present=one)
    expected = (parts * present[None, :, :, 0].transpose(2, 0, 1)).sum(axis=(0, 2)) / present.sum()
    np.testing.assert_allclose(loss.mean(axis=1), expected, rtol=1e-12)
    kept = HeldOut(score, clean, TIMES, seed=4, present=present, batch_size=3)
    np.testing.assert_allclose(kept.loss(score.network), loss.mean(axis=0), rtol=1e-10)


def test_the_loss_of_a_batch_is_a_mean_over_values():
    squared = torch.arange(6.0).reshape(1, 3, 2)
    present = torch.tensor([[[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]])
    assert present_mean(squared, present) == (0 + 2 + 3) / 3
    assert present_mean(squared, None) == squared.mean()
    assert present_mean(squared, torch.zeros_like(present)) == 0


def test_each_step_takes_one_of_the_draws_of_each_sample():
    samples = gappy(20, draws=4)
    gaps = Gaps(torch.from_numpy(samples.drawn.values), torch.from_numpy(samples.present).double())
    generator, seen = torch.Generator().manual_seed(0), set()
    for _ in range(30):
        x, present = gaps.batch(torch.tensor([5, 2]), generator)
        torch.testing.assert_close(present, gaps.present[[5, 2]])
        of = [[bool((x[k] == gaps.values[draw, number]).all()) for draw in range(4)] for k, number in enumerate((5, 2))]
        assert all(sum(row) == 1 for row in of)
        seen |= {(row.index(True), k) for k, row in enumerate(of)}
    assert len(seen) == 8


def test_draws_of_which_none_was_missing_take_the_steps_of_complete_samples(monkeypatch):
    """At equal batches, times and noise; only the choice of a draw takes random numbers of its own."""
    x, losses = torch.from_numpy(gappy().values), []
    monkeypatch.setattr(Gaps, "batch", lambda gaps, numbers, _: (gaps.values[0, numbers], gaps.present[numbers]))
    for clean in (x, Gaps(x[None], torch.ones_like(x))):
        score = stencil(2)
        state = TrainingState(score.network.requires_grad_(True), weight_decay=0.0, ema=0.0, seed=3)
        for _ in range(5):
            step(state, score, clean, SHORT)
        losses.append(state.losses)
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-12)


def test_the_quadratic_part_counts_errors_where_values_are_data():
    """Of samples that are all drawn there is none; of samples without gaps it is what it was."""
    samples = gappy(30)
    shown = FieldContext(build_field(samples, 1, Pooling(1.0)).field)
    absent = replace(samples, drawn=Completions(samples.drawn.values, np.zeros_like(samples.present)))
    np.testing.assert_array_equal(fit_quadratic(absent, shown, 0), 0.0)
    whole = replace(samples, drawn=Completions(samples.drawn.values, np.ones_like(samples.present)))
    np.testing.assert_array_equal(fit_quadratic(whole, shown, 0), fit_quadratic(replace(samples, drawn=None), shown, 0))


def test_levels_are_compared_where_values_are_data():
    """Of two scores that read one vertex each, the comparison does not see what is drawn."""
    samples = gappy(30)
    numbers = np.arange(30)
    locality = Locality(0, Pooling(1.0))
    trained = TrainedNetwork(stencil(), None, numbers[:20], numbers[20:])
    values = other_draws(samples).drawn.values
    values[:, :20] = samples.drawn.values[:, :20]  # the field is fitted to these
    other = replace(samples, values=values[0], drawn=Completions(values, samples.present))
    one, two = (choose_levels(each, NetworkFit((trained,)), locality, 0) for each in (samples, other))
    assert one == two


def test_draws_follow_their_samples():
    x = AutoregressiveChain(0.7, D).sample(30, random_state=1) * 3 + 5
    missing = Samples(np.where(np.random.default_rng(2).random(x.shape) < 0.3, np.nan, x), CHAIN)
    fit = build_field(missing, 1, Pooling(0.5))
    drawn = completed(missing, fit, 0, 3)
    np.testing.assert_array_equal(drawn.values, completed(missing, fit, 0).values)
    np.testing.assert_array_equal(drawn.drawn.values[0], drawn.values)
    np.testing.assert_array_equal(drawn.present, missing.observed)
    assert all(np.array_equal(each[missing.observed], x[missing.observed]) for each in drawn.drawn.values)
    assert (drawn.drawn.values[1:][:, ~missing.observed] != drawn.values[~missing.observed]).all()
    some, vertices = np.array([4, 1, 9]), np.arange(D) > 6
    part = drawn.take(some).at(vertices).standardized(fit.center[vertices], fit.scale[vertices])
    np.testing.assert_array_equal(part.drawn.values[0], part.values)
    np.testing.assert_array_equal(part.present, missing.observed[some][:, vertices])
    assert not drawn.incomplete
    assert drawn.with_values(drawn.values).drawn is None


@pytest.mark.slow
def test_values_redrawn_by_a_gaussian_score_have_its_conditional_law():
    """Means and deviations of 1,200 draws, of one pattern of gaps, to 5 standard errors and 9 % (4.4 of them)."""
    law, n = AutoregressiveChain(0.7, D), 400
    field = build_field(Samples(law.sample(5000, random_state=0), CHAIN, standard=(True,)), 2, Pooling(0.0)).field
    x = np.concatenate([np.tile(law.sample(1, random_state=3), (n, 1, 1)), law.sample(40, random_state=4)])
    present = np.ones(x.shape, dtype=bool)  # the last 40 are complete
    present[:n] = np.random.default_rng(5).random((1, D, 1)) < 0.4
    given = np.where(present, x, np.random.default_rng(6).normal(size=x.shape))
    samples = Samples(given, CHAIN, standard=(True,), drawn=Completions(np.stack([given] * 3), present))
    found = redrawn(samples, field, field, 0)
    np.testing.assert_array_equal(found.drawn.values[:, present], np.tile(x[present], (3, 1)))
    seen = present[0].ravel()
    covariance = field.covariance()
    gain = covariance[:, seen] @ np.linalg.inv(covariance[np.ix_(seen, seen)])
    deviation = np.sqrt(np.diag(covariance - gain @ covariance[seen])[~seen])
    draws = found.drawn.values[:, :n, :, 0].reshape(-1, D)
    away = (draws.mean(axis=0) - gain @ x[0, seen, 0])[~seen] / deviation
    assert np.abs(away).max() < 5 / np.sqrt(len(draws))
    np.testing.assert_allclose(draws.std(axis=0)[~seen] / deviation, 1.0, atol=0.09)


class InterruptedRunError(Exception):
    pass


@pytest.mark.parametrize("last", [1, 17])
def test_a_run_with_gaps_is_resumed_with_the_same_bits(tmp_path, last):
    def interrupt(step, _):
        if step == last:
            raise InterruptedRunError

    whole, part = stencil(1), tmp_path / "part"
    report = train(whole, gappy(), SHORT)
    with pytest.raises(InterruptedRunError):
        train(stencil(1), gappy(), SHORT, checkpoint=part, interval=0, progress=interrupt)
    again = stencil(1)
    resumed = train(again, gappy(), SHORT, checkpoint=part, resume=True)
    assert resumed.losses == report.losses
    assert resumed.checks == report.checks
    assert torch.equal(weights(again), weights(whole))
    present = gappy().present
    present[2, 3] ^= True
    other = replace(gappy(), drawn=Completions(gappy().drawn.values, present))
    with pytest.raises(ValueError, match="checkpoint must be of this recipe, score and data"):
        train(stencil(1), other, SHORT, checkpoint=part, resume=True)


def record(skewed: bool = True, n: int = 60) -> np.ndarray:
    x = AutoregressiveChain(0.8, 15).sample(n, random_state=4)[..., 0]
    x = np.exp(0.8 * x) if skewed else x
    return np.where(np.random.default_rng(1).random(x.shape) < 0.2, np.nan, 3 * x + 5)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["hybrid", "neural"])
def test_networks_take_gaps_and_fill_them(tmp_path, method, monkeypatch):
    """The hops of the hybrid's field are not chosen, which would take the time of all other tests here."""
    monkeypatch.setattr(hybrid, "choose", lambda samples, _, pooling, options: choose(samples, 1, pooling, options))
    x, recipe = record(n=30), Recipe(steps=20, batch_size=8, check_every=10, held_out_levels=4)
    kwargs = {"method": method, "recipe": recipe, "pooling": 1.0, "marginal": "none", "random_state": 0}
    kwargs |= {"radius": 2} if method == "neural" else {}
    model = nf.LocalizedDiffusion(**kwargs).fit(x)
    missing, reason = model.fit_report_.missing, model.fit_report_.reason
    assert missing.share == pytest.approx(np.isnan(x).mean())
    assert reason.count("of the values are missing") == 1
    assert "drawn anew at each step; errors count where values are data" in reason
    filled = model.impute(x, random_state=0, method="gaussian")[0]
    filled[:3] = model.impute(x[:3], random_state=0)[0]
    np.testing.assert_array_equal(filled[~np.isnan(x)], x[~np.isnan(x)])
    assert np.isfinite(filled).all()
    model.save(tmp_path / "model")
    assert nf.load(tmp_path / "model").digest_ == model.digest_
    again = nf.LocalizedDiffusion(**kwargs).fit(filled)  # a filled record is fitted again
    assert again.fit_report_.missing is None
    spreads = [each.sample(50, random_state=1).std() for each in (model, again)]
    assert abs(spreads[1] / spreads[0] - 1) < 0.3


@pytest.mark.slow
def test_auto_trains_a_network_where_samples_with_gaps_are_skewed_and_none_where_they_are_gaussian():
    """The test's nominal rate of false alarms is .5 %."""
    recipe = Recipe(steps=20, batch_size=8, check_every=10, held_out_levels=4)
    reports = []
    for skewed in (True, False):
        model = nf.LocalizedDiffusion(recipe=recipe, radius=1, pooling=1.0, marginal="none", random_state=0)
        reports.append(model.fit(record(skewed, 200)).fit_report_)
    assert reports[0].levels is not None
    assert "The law is not Gaussian" in reports[0].reason
    assert reports[1].levels is None
    assert "No network was trained" in reports[1].reason
    assert all(report.missing.share > 0.1 for report in reports)


@pytest.mark.parametrize("method", ["windowed", "masked", "mixture", "paper"])
def test_other_methods_name_those_that_take_gaps(method):
    message = r"observed everywhere, got \d+ missing values \(NaN\); methods 'auto', 'gaussian', 'neural' and 'hybrid'"
    with pytest.raises(ValueError, match=message):
        nf.LocalizedDiffusion(method=method).fit(record())
