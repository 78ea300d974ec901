"""Training on a device: all tensors of a step are there, scores go there and come back."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import pytest
import torch

import nearfield as nf
from nearfield.fitting import neural, training
from nearfield.fitting.closed_form import fit_windowed
from nearfield.fitting.context import Locality
from nearfield.fitting.neural import Design, fit_network
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.recipe import Recipe
from nearfield.fitting.symmetry import candidates
from nearfield.fitting.training_state import TrainingState
from nearfield.graph import DependencyGraph
from nearfield.paper import recipe as paper
from nearfield.paper.recipe import PaperRecipe
from nearfield.paper.score import PaperNetwork, PaperScore
from nearfield.samples import Samples
from nearfield.score.base import Score
from nearfield.score.hybrid import HybridScore, NetworkScore
from nearfield.score.stencil import StencilNetwork
from nearfield.score.window import WindowNetwork
from one_device import OneDevice

N, D = 12, 9
CHAIN = DependencyGraph.chain(D)
X = np.random.default_rng(0).normal(size=(N, D, 1)).cumsum(axis=1)
SAMPLES = Samples(X, CHAIN, standard=(True,))
RECIPE = Recipe(steps=2, batch_size=4, check_every=1, symmetries=())


def hybrid() -> HybridScore:
    gaussian = fit_windowed(SAMPLES, ((1.0, 2),), Pooling(1.0))[2]
    return HybridScore(StencilNetwork(CHAIN, 1, n_context=2, width=4), gaussian)


SCORES = {
    "stencil": lambda: NetworkScore(StencilNetwork(CHAIN, 1, width=4)),
    "window": lambda: NetworkScore(WindowNetwork(CHAIN, 1, width=4)),
    "hybrid": hybrid,
}


class Anywhere(torch.Generator):
    """Random numbers for every device."""

    def __new__(cls, device=None):
        return super().__new__(cls)


@pytest.fixture
def without_numbers(monkeypatch):
    """Let the device without numbers have generators, losses and times; none of these is a tensor."""
    monkeypatch.setattr(torch, "Generator", Anywhere)
    monkeypatch.setattr(torch.Tensor, "__float__", lambda self: 0.0)
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: np.linspace(0.1, 2.0, self.numel()).tolist())


@pytest.mark.parametrize("make", SCORES.values(), ids=SCORES)
def test_a_step_has_no_tensor_on_the_processor(make, without_numbers):
    score, clean = make().to("meta"), torch.from_numpy(X).float().to("meta")
    state = TrainingState(score.network.requires_grad_(True), weight_decay=0.1, ema=0.9, seed=0)
    maps = [symmetry.on(clean.device) for symmetry in candidates(CHAIN)]
    assert len(maps) == 2
    with OneDevice():
        for _ in range(4):
            training.step(state, score, clean, RECIPE, maps)
    state.average.update_parameters(state.network)  # counts on the processor
    assert state.step == 4
    assert {weight.device.type for weight in state.averaged.parameters()} == {"meta"}


def test_steps_of_the_papers_network_have_no_tensor_on_the_processor(without_numbers):
    """From the second step on: the times of the grid come from the processor."""
    for padding in ("absent", "reflect"):
        score = PaperScore(PaperNetwork(CHAIN, 1, widths=(4,), padding=padding)).to("meta")
        guard = ExitStack()

        def after(step, _, guard=guard):
            if step == 1:
                guard.enter_context(OneDevice())

        with guard:
            clean = torch.from_numpy(X).float().to("meta")
            paper._train(score, clean, PaperRecipe(steps=4, batch_size=40), after)


def test_a_score_goes_to_the_device_and_comes_back(monkeypatch):
    """Also when the training is interrupted."""
    moved, original = [], neural.train
    monkeypatch.setattr(NetworkScore, "to", lambda self, device: moved.append(device))
    monkeypatch.setattr(neural, "train", lambda *a, **o: moved.append("train") or original(*a, **o))
    fit = fit_network(SAMPLES, Design("neural", Locality(1, Pooling(1.0))), RECIPE, device="there")
    assert moved == ["there", "train", "cpu"]
    assert len(fit.networks) == 1
    moved.clear()

    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_network(SAMPLES, Design("neural", Locality(1, Pooling(1.0))), RECIPE, device="there", progress=interrupt)
    assert moved == ["there", "train", "cpu"]


def test_the_device_of_the_estimator_is_that_of_the_training(monkeypatch):
    asked, moved = [], []
    original = Score.to
    monkeypatch.setattr(Score, "to", lambda self, device: moved.append(str(device)) or original(self, device))
    for name in ("network", "paper"):
        monkeypatch.setattr(f"nearfield.methods.{name}.usable_device", lambda wished: asked.append(wished) or "cpu")
    recipes = {"neural": RECIPE, "hybrid": RECIPE, "paper": PaperRecipe(steps=1, batch_size=9)}
    for method, recipe in recipes.items():
        nf.LocalizedDiffusion(CHAIN, method=method, recipe=recipe, radius=1, pooling=1.0, device="cuda").fit(X[..., 0])
    assert asked == ["cuda"] * 3
    assert moved == ["cpu", "cpu"] * 3


@pytest.mark.usefixtures("unchecked")  # a stand-in is no tensor
def test_a_checkpoint_of_another_device_is_refused(monkeypatch):
    """Its random numbers are others."""
    score, x = SCORES["stencil"](), torch.from_numpy(X).float()
    here, there = (training._identity_of(score, RECIPE, each, SAMPLES, 0) for each in (x, Elsewhere(x)))
    assert here != there


class Elsewhere:
    """Numbers that say they are on a GPU."""

    device = torch.device("cuda")

    def __init__(self, x: torch.Tensor) -> None:
        self.cpu = x.cpu


def test_what_was_computed_on_one_device_is_not_used_on_another():
    """Windows of a Gaussian are kept from call to call, in the tensors of the device."""
    score = hybrid().context
    x, t = torch.from_numpy(X), torch.linspace(0.1, 1.0, N, dtype=torch.float64)
    score.denoise(x, t)
    assert score._kept
    assert not score.to("cpu")._kept
