"""Training: against the exact Gaussian denoiser, the average and the schedule by hand, and killed and resumed."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from nearfield import LocalizedDiffusion
from nearfield.datasets import AutoregressiveChain
from nearfield.fitting import training
from nearfield.fitting.acceleration import begins_in_bfloat16, compiled, require_compiler
from nearfield.fitting.matching import (
    DenoisingBatch,
    HeldOut,
    NoiseLevels,
    held_out,
    training_draws,
)
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.recipe import Recipe
from nearfield.fitting.training import train
from nearfield.fitting.training_state import Check, TrainingState
from nearfield.graph import DependencyGraph
from nearfield.paper.recipe import PaperRecipe
from nearfield.paper.vertex import VertexNetworks
from nearfield.samples import Samples
from nearfield.score.gaussian import WindowedGaussianScore, WindowSpectrum
from nearfield.score.hybrid import HybridScore, NetworkScore
from nearfield.score.stencil import StencilNetwork

D = 12
CHAIN = DependencyGraph.chain(D)
LAW = AutoregressiveChain(0.7, D)
TIMES = NoiseLevels().grid(16)
SHORT = Recipe(
    steps=60,
    batch_size=8,
    learning_rate=2e-3,
    ema=0.9,
    levels=NoiseLevels(),
    held_out_levels=4,
    check_every=10,
    patience=15,
    symmetries=(),
)


@pytest.fixture(autouse=True)
def one_thread():
    """The order of sums, and so the last bits, depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def data(n: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(LAW.sample(n, random_state=seed))


def given(x: torch.Tensor, **known: object) -> Samples:
    return Samples(x.numpy(), DependencyGraph.chain(x.shape[1]), standard=(True,), **known)


def exact(radius: int = D - 1) -> WindowedGaussianScore:
    """The denoiser of the law; at a smaller radius the best of those that read no further."""
    table = CHAIN.neighborhood(radius)
    c = 0.7 ** np.abs(np.subtract.outer(np.arange(D), np.arange(D)))
    here = table.present[:, :, None] & table.present[:, None, :]
    block = np.where(here, c[table.index[:, :, None], table.index[:, None, :]], np.eye(table.index.shape[1]))
    return WindowedGaussianScore(
        {radius: WindowSpectrum(table.index, *np.linalg.eigh(block), np.arange(len(block)))}, ((1.0, radius),)
    )


def stencil(width: int = 8, radius: int = 2, seed: int = 0) -> NetworkScore:
    return NetworkScore(StencilNetwork(CHAIN, radius, width=width, seed=seed).double())


def weights(score: NetworkScore | HybridScore) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in score.network.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def gain(score: NetworkScore | HybridScore) -> float:
    """Share of what the exact denoiser gains over a x, on fresh data, that the score gains too."""
    fresh = data(400, seed=1)
    nothing, reached, best = (held_out(each, fresh, TIMES, seed=7).mean() for each in (stencil(), score, exact()))
    return float((nothing - reached) / (nothing - best))


@pytest.mark.slow
def test_trained_network_approaches_the_exact_denoiser_on_fresh_data():
    """At most 8 % of the gain are missing, 3 of which lie beyond its two hops."""
    score = stencil(12)
    recipe = Recipe(steps=400, ema=0.97, learning_rate=1e-2)
    report = train(score, given(data(600)), recipe)
    assert gain(exact(2)) > 0.96
    assert 0.92 < gain(score) < gain(exact(2))
    assert report.reason == "budget"
    assert report.best.loss == min(check.loss for check in report.checks) < report.checks[0].loss
    assert not any(weight.requires_grad for weight in score.network.parameters())


def test_network_with_the_exact_denoiser_as_context_learns_to_return_it():
    """It reads its own vertex only, where a x is the best that can be made of the state."""
    score = HybridScore(StencilNetwork(CHAIN, 0, n_context=2, width=8).double(), exact())
    train(score, given(data(60)), Recipe(steps=200, batch_size=8, ema=0.95, learning_rate=1e-2))
    assert gain(exact(0)) < 1e-6
    assert gain(score) > 0.8


def test_what_is_kept_is_the_average_of_the_weights_at_the_best_check(monkeypatch):
    """The recursion of the moving average, by hand, over the weights recorded after each step."""
    recorded = []
    original = training.step

    def recording(state, *rest):
        original(state, *rest)
        recorded.append({name: value.detach().clone() for name, value in state.network.named_parameters()})

    monkeypatch.setattr(training, "step", recording)
    score, recipe = stencil(4, 1), replace(SHORT, learning_rate=0.02)
    report = train(score, given(data(60)), recipe)
    assert report.best.step > 1
    average = recorded[0]
    for new in recorded[1 : report.best.step]:
        average = {name: 0.9 * average[name] + 0.1 * value for name, value in new.items()}
    for name, value in score.network.named_parameters():
        torch.testing.assert_close(value.detach(), average[name], rtol=1e-10, atol=1e-12)
    loss = held_out(score, data(60)[recipe.divide(given(data(60)))[1]], recipe.levels.grid(4), seed=recipe.seed)
    np.testing.assert_allclose(report.best.loss, loss.mean(), rtol=1e-12)
    samples = loss.mean(axis=0)
    np.testing.assert_allclose(report.best.error, samples.std(ddof=1) / math.sqrt(len(samples)), rtol=1e-12)


def test_steps_are_those_of_adamw_by_hand():
    """Moments, bias correction, decay of the weights, clipping and the cosine, on a network of its own arithmetic."""
    recipe = replace(SHORT, steps=7, clip=0.01, ema=0.0, weight_decay=0.1)
    score, reference = stencil(4, 1), stencil(4, 1)
    state = TrainingState(score.network, weight_decay=recipe.weight_decay, ema=recipe.ema, seed=5)
    draws = TrainingState(reference.network, weight_decay=0.0, ema=0.0, seed=5)
    clean = data(24)
    parameters = [value for value in reference.network.parameters() if value.numel()]
    first = [torch.zeros_like(value) for value in parameters]
    second = [torch.zeros_like(value) for value in parameters]
    for k in range(1, 8):
        training.step(state, score, clean, recipe)
        batch = clean[draws.next_batch(24, 8)]
        t, xi = training_draws(recipe.levels, batch, draws.generator)
        a, s = torch.exp(-t)[:, None, None], torch.sqrt(-torch.expm1(-2 * t))[:, None, None]
        loss = (((reference.denoise(a * batch + s * xi, t) - batch) / s) ** 2).mean()
        gradients = torch.autograd.grad(loss, parameters)
        norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
        rate = 2e-3 * math.cos(math.pi * (k - 1) / 14) ** 2
        with torch.no_grad():
            for value, m, v, g in zip(parameters, first, second, gradients, strict=True):
                g = g * min(1.0, 0.01 / (norm + 1e-6))
                m.mul_(0.9).add_(0.1 * g)
                v.mul_(0.999).add_(0.001 * g**2)
                value -= rate * (0.1 * value + m / (1 - 0.9**k) / (torch.sqrt(v / (1 - 0.999**k)) + 1e-8))
    trained = [value for value in score.network.parameters() if value.numel()]
    for value, wanted in zip(trained, parameters, strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-9, atol=1e-12)


def test_held_out_loss_of_an_unchanged_network_does_not_change():
    score = stencil()
    report = train(score, given(data(30)), replace(SHORT, learning_rate=1e-300, weight_decay=0.0))
    assert len(report.checks) == 7
    assert len({(check.loss, check.error) for check in report.checks}) == 1
    assert report.best.step == 0


def test_training_stops_when_the_held_out_loss_has_not_fallen_for_the_patience():
    """White noise has nothing to learn: the network of the start is the best there is, and is what remains."""
    white = torch.randn(40, D, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    score = stencil()
    report = train(score, given(white), replace(SHORT, steps=2000, learning_rate=0.05, patience=3))
    assert report.reason == "patience"
    assert report.checks[-1].step == report.best.step + 3 * SHORT.check_every == len(report.losses)


def test_divergence_ends_training_with_the_best_that_was():
    score = stencil()
    report = train(score, given(data(30)), replace(SHORT, learning_rate=1e200, check_every=1))
    assert report.reason == "diverged"
    assert report.best == report.checks[0]
    assert same(weights(score), weights(stencil()))


def test_the_seed_decides_all():
    results = []
    for seed, disturbance in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(disturbance)
        np.random.seed(disturbance)  # noqa: NPY002
        score = stencil()
        results.append((train(score, given(data(30)), replace(SHORT, seed=seed)).losses, weights(score)))
    assert results[0][0] == results[1][0]
    assert same(results[0][1], results[1][1])
    assert results[0][0] != results[2][0]


def test_each_pass_takes_each_sample_once_in_an_order_of_its_own():
    passes = []
    for _ in range(2):
        state = TrainingState(stencil().network, weight_decay=0.0, ema=0.0, seed=3)
        passes.append([torch.cat([state.next_batch(20, 5) for _ in range(4)]).tolist() for _ in range(2)])
    assert passes[0] == passes[1]
    assert all(sorted(one) == list(range(20)) for one in passes[0])
    assert passes[0][0] != passes[0][1]


def test_ordered_samples_are_held_out_as_a_block_and_others_at_random():
    inside, outside = Recipe().divide(given(data(100), ordered=True))
    assert outside.tolist() == list(range(85, 100))
    assert inside.tolist() == list(range(85))
    inside, outside = Recipe().divide(given(data(100)))
    assert sorted([*inside, *outside]) == list(range(100))
    assert outside.tolist() != list(range(85, 100))


def test_a_hybrid_is_resumed_where_decompositions_round_otherwise(tmp_path):
    """Other threads change last digits of eigenvalues, and signs of vectors; another Gaussian is another score."""
    gaussian = exact(2)
    window = gaussian.window(2)
    noise = torch.from_numpy(np.random.default_rng(0).normal(size=tuple(window.values.shape)))

    def run(values, vectors):
        spectrum = WindowSpectrum(window.index, values, vectors, window.law)
        score = HybridScore(StencilNetwork(CHAIN, 1, n_context=2), WindowedGaussianScore({2: spectrum}, ((1.0, 2),)))
        path = tmp_path / "run"
        return train(score, given(data(30).float()), SHORT, checkpoint=path, resume=True)

    whole = run(window.values, window.vectors)
    again = run(window.values * (1 + 1e-14 * noise), -window.vectors)
    assert again.losses == whole.losses
    with pytest.raises(ValueError, match="checkpoint must be of this recipe"):
        run(window.values * (1 + 0.01 * noise), window.vectors)


CHILD = """
import sys, test_training
test_training.long_run(sys.argv[1], resume=False, progress=lambda step, _: print(step, flush=True))
"""


def long_run(checkpoint, resume, progress=None, steps=80):
    score = stencil(4, 1)
    recipe = replace(SHORT, steps=steps, batch_size=7, patience=100, symmetries=("reflect 0",))
    report = train(score, given(data(30)), recipe, checkpoint=checkpoint, interval=0, resume=resume, progress=progress)
    return score, report


@pytest.mark.slow
def test_a_run_that_was_killed_and_resumed_ends_with_the_same_bits(tmp_path):
    """Killed while it goes on after its 23rd step, in the middle of a pass over the data and between checks."""
    score, report = long_run(tmp_path / "whole", False)
    path = tmp_path / "killed"
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([*sys.path, os.path.dirname(__file__)]),
    }
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    with child:
        for line in child.stdout:
            if int(line) == 23:
                break
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert child.returncode == -signal.SIGKILL
    reached = []
    again, resumed = long_run(path, True, lambda step, _: reached.append(step))
    assert 23 < reached[0] < 80
    assert reached[-1] == 80
    assert resumed.losses == report.losses
    assert resumed.checks == report.checks
    assert resumed.best == report.best
    assert same(weights(again), weights(score))
    assert resumed.seconds > 0


class InterruptedRunError(Exception):
    pass


@pytest.mark.parametrize("last", [1, 3, 10, 37])
def test_a_run_interrupted_anywhere_and_resumed_ends_with_the_same_bits(tmp_path, last):
    def interrupt(step, _):
        if step == last:
            raise InterruptedRunError

    with pytest.raises(InterruptedRunError):
        long_run(tmp_path / "part", False, interrupt, steps=40)
    torch.manual_seed(99)
    (again, resumed), (score, report) = long_run(tmp_path / "part", True, steps=40), long_run(None, False, steps=40)
    assert resumed.losses == report.losses
    assert resumed.checks == report.checks
    assert same(weights(again), weights(score))


def test_a_finished_run_is_not_trained_further(tmp_path):
    score, report = long_run(tmp_path / "run", False, steps=20)
    reached = []
    again, resumed = long_run(tmp_path / "run", True, lambda step, _: reached.append(step), steps=20)
    assert reached == []
    assert resumed == report
    assert same(weights(again), weights(score))


def test_a_checkpoint_is_written_at_the_interval_and_at_the_end_only(tmp_path):
    path, seen = tmp_path / "run", []
    train(stencil(), given(data(30)), replace(SHORT, steps=5), checkpoint=path,
        progress=lambda *_: seen.append(path.exists()),
    )  # fmt: skip
    assert seen == [False] * 5
    assert path.exists()


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    long_run(tmp_path / "run", False, steps=5)
    with pytest.raises(ValueError, match="checkpoint must be of this recipe, score and data"):
        long_run(tmp_path / "run", True, steps=6)


def single(recipe=SHORT, **options):
    """A run in single precision, computed in bfloat16."""
    score = NetworkScore(StencilNetwork(CHAIN, 2, width=8))
    return score, train(score, given(data(40).float()), replace(recipe, bfloat16=True), **options)


def disagree(monkeypatch, after: int = 1):
    """Make bfloat16 worse by 2 standard errors from one of the comparisons on."""
    original, seen = HeldOut.loss, []

    def loss(self, network, bfloat16=False):
        each = original(self, network, bfloat16)
        seen.append(bfloat16)
        return each + 2 * each.std(ddof=1) / math.sqrt(len(each)) * (bfloat16 and sum(seen) >= after)

    monkeypatch.setattr(HeldOut, "loss", loss)
    return seen


def test_bfloat16_is_for_the_network_alone():
    """Gradients have errors of eight bits, and the weights the precision they had."""
    score = NetworkScore(stirred_stencil())
    clean, gradients = data(32).float(), []
    t, xi = training_draws(SHORT.levels, clean, torch.Generator().manual_seed(0))
    batch = DenoisingBatch.of_score(score, clean, t, xi)
    for bfloat16 in (False, True):
        score.network.zero_grad()
        batch.squared_errors(score.network, bfloat16).mean().backward()
        gradients.append(torch.cat([w.grad.flatten() for w in score.network.parameters() if w.numel()]))
    exact, rounded = gradients
    assert 2**-12 < (rounded - exact).norm() / exact.norm() < 2**-5
    assert rounded.dtype == torch.float32
    score, report = single()
    assert report.bfloat16_steps == 60
    assert {w.dtype for w in score.network.parameters()} == {torch.float32}
    single_loss = held_out(
        score, data(40)[SHORT.divide(given(data(40)))[1]].float(), SHORT.levels.grid(4), seed=0
    ).mean()
    np.testing.assert_allclose(report.best.loss, single_loss, rtol=1e-6)


def stirred_stencil():
    network = StencilNetwork(CHAIN, 2, width=8)
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    return network


def test_bfloat16_is_given_up_where_the_held_out_loss_differs(monkeypatch):
    """From the first comparison on, after 10 steps: the rest of the run is that of single precision."""
    assert not same(weights(single(replace(SHORT, steps=10))[0]), weights(plain(10)))
    disagree(monkeypatch)
    score, report = single()
    assert report.bfloat16_steps == 10
    rounded = []
    original = training.step

    def step(state, *rest):
        state.bfloat16 = state.step < 10
        rounded.append(state.bfloat16)
        original(state, *rest)

    monkeypatch.undo()
    monkeypatch.setattr(training, "step", step)
    monkeypatch.setattr(training, "_compared", lambda checks: False)
    by_hand, _ = single()
    assert sum(rounded) == 10
    assert same(weights(score), weights(by_hand))


def plain(steps):
    score = NetworkScore(StencilNetwork(CHAIN, 2, width=8))
    train(score, given(data(40).float()), replace(SHORT, steps=steps, bfloat16=False))
    return score


def test_bfloat16_is_compared_as_checks_double(monkeypatch):
    """After 10, 20 and 40 of 60 steps; a difference within the error is let pass."""
    seen = disagree(monkeypatch, after=3)
    assert single()[1].bfloat16_steps == 40
    assert seen == [False, False, True, False, True, False, False, True, False, False]


@pytest.mark.slow
@pytest.mark.parametrize("last", [3, 10, 15, 37])
@pytest.mark.parametrize("planted", [False, True])
def test_a_run_in_bfloat16_is_resumed_with_the_same_bits(tmp_path, monkeypatch, last, planted):
    """Where the losses differed before the interruption, what is resumed does not return to bfloat16."""
    if planted:
        disagree(monkeypatch)
    score, report = single()

    def interrupt(step, _):
        if step == last:
            raise InterruptedRunError

    options = {"checkpoint": tmp_path / "part", "interval": 0}
    with pytest.raises(InterruptedRunError):
        single(progress=interrupt, **options)
    again, resumed = single(resume=True, **options)
    assert resumed.losses == report.losses
    assert resumed.checks == report.checks
    assert resumed.bfloat16_steps == report.bfloat16_steps == (10 if planted else 60)
    assert same(weights(again), weights(score))


def test_bfloat16_is_used_where_it_is_faster(monkeypatch):
    network, other = StencilNetwork(CHAIN, 1), VertexNetworks(CHAIN, 1)
    for native in (True, False):
        monkeypatch.setattr("nearfield.fitting.acceleration.multiplies_bfloat16", lambda native=native: native)
        assert begins_in_bfloat16(network, "auto", 8192) is native
        assert not begins_in_bfloat16(network, "auto", 8191)
        assert begins_in_bfloat16(network, True, 1)
        assert not begins_in_bfloat16(network, False, 10**6)
        assert not begins_in_bfloat16(other, True, 10**6)
    assert not begins_in_bfloat16(network.double(), True, 10**6)


def compiles() -> bool:
    """Whether torch can compile here."""
    try:
        require_compiler()
    except ValueError:
        return False
    return True


def marked(test):
    """Mark what needs the compiler, whose warnings are its own."""
    able = pytest.mark.skipif(not compiles(), reason="no compiler")
    return pytest.mark.slow(pytest.mark.filterwarnings("default")(able(test)))


@marked
@pytest.mark.parametrize("diagonal", [False, True])
def test_a_compiled_network_is_the_network(diagonal):
    """Value and gradients in single precision: absent cells, two channels, context, an embedding."""
    keep = np.arange(20).reshape(4, 5) % 7 > 0
    graph = DependencyGraph.grid((4, 5), diagonal=diagonal).subgraph(keep)
    network = StencilNetwork(graph, 2, n_channels=2, n_context=4, width=8, embedding=3)
    generator = torch.Generator().manual_seed(0)
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.3, generator=generator)
    x, context, c_noise = (
        torch.randn(3, *shape, generator=generator) for shape in ((len(graph), 2), (len(graph), 4), ())
    )
    found = []
    for forward in (network, compiled(network)):
        network.zero_grad()
        y = forward(x, context, c_noise)
        y.square().sum().backward()
        found.append((y.detach(), *(weight.grad.clone() for weight in network.parameters())))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-4)
    assert all(part.abs().max() > 1e-3 for part in found[0])


@marked
def test_compiled_steps_are_the_same_steps(tmp_path, monkeypatch):
    """In double precision to the last digits, and resumed with the same bits; compiled, however many were before."""
    monkeypatch.setattr("torch._dynamo.config.recompile_limit", 1)
    recipe = replace(SHORT, steps=30)
    expected, again = stencil(), stencil()
    train(expected, given(data(40)), recipe)
    for _ in range(3):
        score, before = stencil(), torch._dynamo.utils.counters["stats"]["unique_graphs"]
        train(score, given(data(40)), replace(recipe, compiled=True))
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before + 1
    for name, value in weights(expected).items():
        torch.testing.assert_close(weights(score)[name], value, rtol=1e-9, atol=1e-11)

    def interrupt(step, loss):
        if step == 17:
            raise KeyboardInterrupt

    options = {"checkpoint": tmp_path / "run", "interval": 0.0}
    with pytest.raises(KeyboardInterrupt):
        train(stencil(), given(data(40)), replace(recipe, compiled=True), progress=interrupt, **options)
    train(again, given(data(40)), replace(recipe, compiled=True), resume=True, **options)
    assert same(weights(again), weights(score))


def test_compiled_steps_need_a_compiler(monkeypatch):
    """Refused before anything is computed; networks that are not compiled do not ask for one."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    recipe = replace(SHORT, steps=10, compiled=True)
    with pytest.raises(
        ValueError, match=r"compiled must be False where there is no C\+\+ compiler, .*'no-such-compiler'"
    ):
        train(stencil(), given(data(40)), recipe)
    monkeypatch.setattr("nearfield.methods.gaussian.select_field", None)
    with pytest.raises(ValueError, match="compiled must be False"):
        LocalizedDiffusion(CHAIN, method="hybrid", recipe=recipe).fit(data(40).numpy()[..., 0])
    monkeypatch.undo()
    monkeypatch.setenv("CXX", "no-such-compiler")
    vertices = NetworkScore(VertexNetworks(CHAIN, 1, widths=(4,)).double())
    assert len(train(vertices, given(data(40)), recipe).losses) == 10
    x = data(40).numpy()[..., 0]
    edges = DependencyGraph.from_edges(D, [(k, k + 1) for k in range(D - 1)])
    for graph, method in ((edges, "hybrid"), (CHAIN, "gaussian")):
        LocalizedDiffusion(graph, method=method, recipe=recipe if method == "hybrid" else None).fit(x)
    monkeypatch.delenv("CXX")
    monkeypatch.setattr("sysconfig.get_path", lambda name: "nowhere")
    with pytest.raises(ValueError, match=r"there are no headers of Python, got True and no nowhere.Python\.h"):
        require_compiler()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"clip": math.inf}, "clip must be above 0 and finite"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0"),
        ({"ema": 1.0}, r"ema must be in \[0, 1\)"),
        ({"held_out": 1.0}, "held_out must be a share"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"bfloat16": "yes"}, "bfloat16 must be True, False or 'auto'"),
        ({"compiled": "auto"}, "compiled must be True or False, got 'auto'"),
    ],
)
def test_recipe_refuses_what_is_out_of_range(change, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**change)


def test_weights_are_averaged_over_a_twentieth_of_the_steps_unless_a_decay_is_given():
    assert Recipe(steps=1000).decay == pytest.approx(1 - 1 / 50)
    assert Recipe(steps=10).decay == 0  # a twentieth of so few is less than one
    assert Recipe(steps=1000, ema=0.9).decay == 0.9
    x, states = data(40), []
    for ema in (None, 1 - 20 / 60, 0.9):
        score = stencil()
        train(score, given(x), replace(SHORT, ema=ema))
        states.append(torch.cat([weight.flatten() for weight in score.network.parameters()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_data_that_cannot_be_trained_on_are_refused():
    score, x = stencil(), data(10)
    with pytest.raises(ValueError, match="more than 2 samples"):
        train(score, given(x[:2]), SHORT)
    with pytest.raises(ValueError, match="x must have shape"):
        train(score, given(x[:, :3]), SHORT)
    infinite = x.clone()
    infinite[3, 2] = torch.inf
    with pytest.raises(ValueError, match="samples must be finite"):
        train(score, given(infinite), SHORT)
    absent = np.ones(x.shape, dtype=bool)
    absent[3, 2] = False
    with pytest.raises(ValueError, match="samples must be observed everywhere, got 1 missing values"):
        train(score, given(x, observed=absent), SHORT)


def test_the_first_of_equal_finite_checks_is_the_best():
    state = TrainingState(stencil().network, weight_decay=0.0, ema=0.0, seed=0)
    assert state.best_check is None
    for step, loss in ((0, math.nan), (10, 0.5), (20, 0.4), (30, 0.4), (40, math.nan)):
        state.record(Check(step, loss, 0.0))
    assert state.best_check == Check(20, 0.4, 0.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Recipe(learning_rate="a"), "learning_rate must be a number"),
        (lambda: Recipe(ema="auto"), "ema must be a number"),
        (lambda: Recipe(held_out=None), "held_out must be a number"),
        (lambda: Recipe(levels=3), "levels must be NoiseLevels"),
        (lambda: Recipe(seed=None), "seed must be an integer"),
        (lambda: PaperRecipe(seed=np.random.default_rng(0)), "seed must be an integer"),
        (lambda: PaperRecipe(schedule=10), "schedule must be a Schedule"),
        (lambda: PaperRecipe(widths=8), "widths must be a sequence"),
        (lambda: NoiseLevels(center="low"), "center must be a number"),
        (lambda: NoiseLevels(spread=True), "spread must be a number"),
        (lambda: Pooling("all"), "strength must be a number"),
        (lambda: Pooling(1.0, bandwidth=None), "bandwidth must be a number"),
    ],
)
def test_settings_refuse_what_is_no_number(make, message):
    with pytest.raises(TypeError, match=message):
        make()


def test_noise_levels_are_finite():
    for center, spread, name in ((math.nan, 1.0, "center"), (0.0, math.inf, "spread"), (0.0, 0.0, "spread")):
        with pytest.raises(ValueError, match=f"{name} must be"):
            NoiseLevels(center, spread)
