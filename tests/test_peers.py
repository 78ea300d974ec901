"""The rules under which models are measured side by side. Statistical tests: 5 standard errors, fixed seeds."""

import json
import math
import sys
import time

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
import torch
from benchmarks import peers
from benchmarks.law import cir, double_well, signed
from benchmarks.peer import contest
from benchmarks.peer.contest import Contestant, Fitted, OutOfTimeError, Split, compete, limited, warm_up
from benchmarks.peer.denoiser import DENOISERS, Azula, PeerScore, Preconditioned
from benchmarks.peer.density import Kernels, LedoitWolfGaussian, Mixture, ZukoFlow, gaussian
from benchmarks.peer.own import Hybrid, Paper
from benchmarks.peer.training import train
from benchmarks.quality import Judge
from sklearn.covariance import LedoitWolf
from sklearn.mixture import GaussianMixture

from nearfield.fitting.recipe import Recipe
from nearfield.graph import DependencyGraph
from nearfield.process import signal_scale
from nearfield.samples import Samples

LAW = cir(length=16)


@pytest.fixture(scope="module")
def split():
    return Split(LAW, LAW.draw(60, 0), 0)


def spend(seconds):
    start = time.process_time()
    while time.process_time() - start < seconds:
        pass


class Fake(Contestant):
    """Losses by setting; the final fit has its own."""

    name, kind = "fake", "density"

    def __init__(self, losses, final=0.0, seconds=0.0, error=None):
        self.losses, self.final, self.seconds, self.error, self.calls = losses, final, seconds, error, []

    def grid(self, law):
        return [{"k": k} for k in range(len(self.losses))]

    def fit(self, setting, split, seconds, *, final):
        self.calls.append((setting["k"], seconds, final))
        spend(self.seconds)
        if self.error is not None:
            raise self.error
        return Fitted(self.final if final else self.losses[setting["k"]])


def test_the_setting_with_the_lowest_loss_is_fitted_with_what_is_left(split):
    fake = Fake([3.0, 1.0, 2.0], final=0.5, seconds=0.05)
    outcome = compete(fake, split, 6.0)
    assert [call[0] for call in fake.calls] == [0, 1, 2, 1]
    assert [call[2] for call in fake.calls] == [False, False, False, True]
    assert [call[1] for call in fake.calls[:3]] == pytest.approx([0.8] * 3)  # two fifths of six seconds in three parts
    assert fake.calls[3][1] == pytest.approx(6.0 - 0.15, abs=0.05)
    assert (outcome.setting, outcome.fitted.loss, [trial.loss for trial in outcome.trials]) == (
        {"k": 1},
        0.5,
        [3, 1, 2],
    )
    assert outcome.seconds == pytest.approx(0.2, abs=0.05)
    assert [trial.seconds for trial in outcome.trials] == pytest.approx([0.05] * 3, abs=0.03)


@pytest.mark.parametrize(("final", "kept"), [(2.0, 1.0), (0.5, 0.5), (math.nan, math.nan)])
def test_a_trial_that_did_better_than_the_final_fit_is_taken(split, final, kept):
    assert compete(Fake([3.0, 1.0], final), split, 1.0).fitted.loss == pytest.approx(kept, nan_ok=True)


def test_a_single_setting_is_not_searched_for(split):
    fake = Fake([1.0])
    assert compete(fake, split, 4.0).trials == []
    assert fake.calls[0][1:] == (pytest.approx(4.0, abs=0.05), True)


def test_what_goes_wrong_is_said(split, monkeypatch):
    missing = Fake([1.0])
    missing.modules = ("no_such_library",)
    assert "no_such_library" in compete(missing, split, 1.0).failure
    assert compete(Fake([1.0], error=ValueError("singular")), split, 1.0).failure == "ValueError: singular"
    monkeypatch.setattr(contest, "LIMIT", 0.5)
    slow = compete(Fake([1.0], seconds=5.0), split, 0.4)
    assert slow.fitted is None
    assert "CPU s" in slow.failure
    assert slow.seconds < 1.0


def test_the_limit_counts_the_seconds_of_the_processor_and_ends_with_its_block():
    with limited(0.3):
        time.sleep(0.5)
    spend(0.5)
    with pytest.raises(OutOfTimeError), limited(0.1):
        spend(1.0)


def test_the_division_is_that_of_nearfield(split):
    used, unseen = split.parts
    assert sorted([*used, *unseen]) == list(range(60))
    expected = Recipe(held_out=0.15, seed=0).divide(Samples(np.zeros((60, 1, 1)), DependencyGraph.chain(1)))
    assert np.array_equal(used, expected[0])
    assert np.array_equal(split.unseen, split.x[expected[1]])


def test_held_out_loss_of_white_noises_denoiser_is_the_variance():
    """D = a x has |D - x|^2 / s^2 = s^2 x^2 + a^2 in the mean: 1 for unit variance, at every level."""
    law = double_well(length=64)
    large = Split(law, law.draw(3_000, 0), 0)
    variance = np.diag(law.covariance).mean()
    loss = large.loss(lambda x, t: signal_scale(t).reshape(-1, 1, 1).float() * x)
    assert min(1.0, variance) - 0.03 < loss < max(1.0, variance) + 0.03
    assert large.loss(lambda x, t: 0 * x) > 3


@pytest.mark.parametrize("law", [double_well(length=1), cir(length=1)], ids=lambda law: law.name)
def test_log_density_of_standardised_states_integrates_to_one(law):
    def density(z):
        return np.exp(law.log_prob(np.array([[[z]]]))[0])

    edge = -law.mean / law.std  # where the density of cir begins
    parts = [(-30, edge), (edge, 30)]
    assert sum(scipy.integrate.quad(density, *part, limit=200)[0] for part in parts) == pytest.approx(1, abs=1e-6)


def test_loss_differs_from_excess_by_a_constant():
    judge = Judge(LAW, fresh=400)
    first, second = (lambda x, t, c=c: c * signal_scale(t) * x for c in (1.0, 0.8))
    difference = judge.loss(first).value - judge.loss(second).value
    assert difference == pytest.approx(judge.excess(first).value - judge.excess(second).value, abs=0.03)


def test_surprise_is_the_mean_over_fresh_truth():
    judge = Judge(LAW, fresh=4_000)
    value, error = judge.surprise(lambda x: scipy.stats.norm.logpdf(x[..., 0]).sum(axis=1))
    assert value == pytest.approx(0.5 * np.log(2 * np.pi) + 0.5, abs=5 * error)  # unit variance
    assert judge.surprise(LAW.log_prob)[0] < value


def test_training_keeps_the_weights_of_the_lowest_held_out_loss():
    torch.manual_seed(0)
    module = torch.nn.Linear(3, 1)
    x = torch.randn(50, 3)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]])
    losses = []
    warm_up()

    def held_out(module):
        losses.append(float((module(x) - y).square().mean()))
        return losses[-1]

    start = time.process_time()
    best = train(
        module,
        lambda module, batch, _: (module(x[batch]) - y[batch]).square().mean(),
        held_out,
        n_samples=50,
        batch_size=8,
        seconds=0.6,
        rate=0.05,
        seed=0,
    )
    assert 0.5 < time.process_time() - start < 1.2
    assert best == min(losses) == float((module(x) - y).square().mean())
    assert best < 1e-3
    assert len(losses) > 5
    assert not any(weight.requires_grad for weight in module.parameters())


def test_the_weights_kept_are_those_that_were_checked():
    module, seen = torch.nn.Linear(1, 1), []

    def held_out(module):
        seen.append(module.weight.item())
        return abs(len(seen) - 3.0)  # the third check is the best, whatever the weights

    x = torch.ones(8, 1)
    options = {"n_samples": 8, "batch_size": 8, "seconds": 0.3, "rate": 0.05, "seed": 0}
    assert train(module, lambda module, batch, _: (module(x[batch]) - 5).square().mean(), held_out, **options) == 0
    assert module.weight.item() == seen[2] != seen[-1]


def test_gaussian_density_and_draws():
    covariance = np.array([[2.0, 0.6], [0.6, 0.5]])
    density, draw = gaussian(np.array([1.0, -1.0]), covariance)
    x = draw(40_000, 0)
    np.testing.assert_allclose(density(x[:5]), scipy.stats.multivariate_normal([1, -1], covariance).logpdf(x[:5]))
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=0.08)
    np.testing.assert_allclose(x.mean(axis=0), [1, -1], atol=0.04)


def test_closed_forms_are_chosen_on_the_training_part_and_fitted_to_all(split):
    peer = LedoitWolfGaussian()
    for final, rows in ((False, split.used), (True, split.x)):
        fitted = peer.fit({}, split, 1.0, final=final)
        model = LedoitWolf().fit(rows[..., 0])
        expected = scipy.stats.multivariate_normal(model.location_, model.covariance_).logpdf(split.unseen[..., 0])
        np.testing.assert_allclose(fitted.log_prob(split.unseen), expected)
        assert fitted.loss == pytest.approx(-expected.mean() / 16, nan_ok=True) or final
    assert np.isnan(fitted.loss)


def components(peer, setting, x, seed):
    """Weights, means and covariances of the Gaussians that the estimator's density is a mixture of."""
    if isinstance(peer, Kernels):
        return np.full(len(x), 1 / len(x)), x, np.array([setting["bandwidth"] ** 2 * np.eye(x.shape[1])] * len(x))
    if isinstance(peer, LedoitWolfGaussian):
        model = LedoitWolf().fit(x)
        return np.ones(1), model.location_[None], model.covariance_[None]
    model = GaussianMixture(**setting, random_state=seed).fit(x)
    return model.weights_, model.means_, np.array([np.diag(variance) for variance in model.covariances_])


@pytest.mark.parametrize("peer", [LedoitWolfGaussian(), Kernels(), Mixture()], ids=lambda peer: peer.name)
def test_estimators_draw_what_their_density_describes(split, peer):
    """Mean and covariance of the draws in closed form: 152 numbers within 5 standard errors, false alarm 9e-5."""
    setting = peer.grid(LAW)[0]
    fitted = peer.fit(setting, split, 1.0, final=True)
    weights, means, covariances = components(peer, setting, split.x[..., 0], split.seed)
    parts = [
        scipy.stats.multivariate_normal(*part).logpdf(split.x[:5, :, 0])
        for part in zip(means, covariances, strict=True)
    ]
    expected = scipy.special.logsumexp(np.transpose(parts), axis=1, b=weights)
    np.testing.assert_allclose(fitted.log_prob(split.x[:5]), expected, rtol=1e-9)
    mean = weights @ means
    covariance = np.tensordot(weights, covariances, 1) + (weights * (means - mean).T) @ (means - mean)
    apart = fitted.sample(20_000, 1)[..., 0] - mean
    products = apart[:, :, None] * apart[:, None]
    error = 5 / np.sqrt(len(apart))
    assert np.all(np.abs(apart.mean(axis=0)) < error * apart.std(axis=0))
    assert np.all(np.abs(products.mean(axis=0) - covariance) < error * products.std(axis=0))


def test_by_hand_and_azulas_preconditioning_agree():
    pytest.importorskip("azula.denoise")

    class Backbone(torch.nn.Module):
        def forward(self, x, level):
            return torch.tanh(x) * level.reshape(-1, 1, 1)

        def parameters(self, recurse=True):
            yield torch.zeros(1, dtype=torch.float64)

    x, t = torch.randn(4, 1, 16, dtype=torch.float64), torch.tensor([0.01, 0.1, 1.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(Azula(Backbone())(x, t), Preconditioned(Backbone())(x, t))


@pytest.mark.parametrize("peer", DENOISERS, ids=lambda peer: peer.name)
def test_networks_of_others_learn(peer):
    for module in peer.modules:
        pytest.importorskip(module)
    law = cir(length=16)
    split = Split(law, law.draw(200, 0), 0)
    setting = peer.grid(law)[0]
    fitted = peer.fit(setting, split, 2.0, final=True)
    assert fitted.loss == split.loss(fitted.denoise)
    assert fitted.loss < 0.9 * split.loss(lambda x, t: signal_scale(t).reshape(-1, 1, 1).float() * x)
    assert fitted.sample(70, 0).shape == (70, 16, 1)
    x = torch.from_numpy(split.x[:5])
    torch.testing.assert_close(fitted.denoise(x, 0.3)[1:2], fitted.denoise(x[1:2], 0.3), rtol=1e-3, atol=1e-4)


def test_the_flow_learns_its_density_is_one_and_its_draws_have_it():
    """The law is skewed one way at one vertex and the other way at the other, so that the two cannot be exchanged."""
    pytest.importorskip("zuko.flows")
    law = signed(length=2, seed=1)
    assert law.signs.sum() == 0
    split = Split(law, law.draw(300, 0), 0)
    fitted = ZukoFlow().fit(ZukoFlow().grid(law)[0], split, 2.0, final=True)
    z = np.linspace(-10, 10, 401)
    grid = np.stack(np.meshgrid(z, z, indexing="ij"), axis=-1).reshape(-1, 2, 1)
    surprise = -fitted.log_prob(grid)
    mass = np.exp(-surprise) * (z[1] - z[0]) ** 2
    assert mass.sum() == pytest.approx(1, abs=0.02)
    white = -scipy.stats.norm.logpdf(split.unseen).mean()
    assert fitted.loss < white - 0.1
    own = -fitted.log_prob(fitted.sample(20_000, 0))
    assert own.mean() == pytest.approx(mass @ surprise, abs=5 * own.std() / np.sqrt(len(own)) + 0.02)  # of the grid


def test_a_score_of_tensors_keeps_vertices_in_place():
    score = PeerScore(Preconditioned(lambda x, level: x[..., [1, 0, 2], :] * level.reshape(-1, 1, 1, 1)), (3, 4))
    x = torch.randn(2, 12, 1, dtype=torch.float64)
    swapped = x.reshape(2, 3, 4)[:, [1, 0, 2]].reshape(2, 12, 1)
    t = torch.tensor([0.2, 0.7], dtype=torch.float64)
    a, s = (c.reshape(-1, 1, 1) for c in (torch.exp(-t), torch.sqrt(-torch.expm1(-2 * t))))
    torch.testing.assert_close(score.denoise(x, t), a * x + s * torch.log(s / a) * swapped, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("contestant", [Hybrid(), Paper()], ids=lambda contestant: contestant.name)
def test_nearfield_competes_within_its_budget(contestant):
    law = cir(length=16)
    split = Split(law, law.draw(60, 0), 0)
    outcome = compete(contestant, split, 8.0)
    assert len(outcome.trials) == len(contestant.grid(law))
    assert 4.0 < outcome.seconds < 12.0
    judge = Judge(law, fresh=50)
    found = judge.excess(lambda x, t: outcome.fitted.denoise(torch.from_numpy(x), t))
    assert found.value < 0.6 * judge.excess(lambda x, t: signal_scale(t) * x).value
    assert np.isnan(outcome.fitted.loss) or outcome.fitted.loss == split.loss(outcome.fitted.denoise)
    assert outcome.fitted.sample(3, 0).shape == (3, 16, 1)


def test_the_command_goes_on_from_its_file(tmp_path, monkeypatch, capsys):
    def call(*names):
        monkeypatch.setattr(sys, "argv", ["peers", "--quick", "--law", "cir", "--out", str(tmp_path), "--only", *names])
        peers.main()
        return json.loads((tmp_path / "peers-cir-quick.json").read_text())["rows"]

    law = cir(length=40)
    small = Judge(law, pool=400, size=50, side=50, windows=100, repeats=2, fresh=50)
    monkeypatch.setattr(Judge, "of", lambda law, quick: small)
    monkeypatch.setattr("benchmarks.quality.ROUNDS", 3)
    monkeypatch.setitem(peers.LAWS, "cir", lambda: law)
    first = call("Ledoit")
    both = call("Ledoit", "kernel")
    assert [row["name"] for row in both] == ["scikit-learn, Ledoit-Wolf Gaussian", "scikit-learn, kernel density"]
    assert both[0] == first[0]
    assert len(both[1]["trials"]) == 6
    assert (tmp_path / "peers-cir-quick.png").stat().st_size > 0
    assert "kernel density" in capsys.readouterr().out
