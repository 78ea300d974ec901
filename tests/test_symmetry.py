"""Symmetries: the maps against the adjacency, the test against laws whose symmetries are known, images in training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from nearfield import LocalizedDiffusion
from nearfield.datasets import AutoregressiveChain, CoxIngersollRoss, DoubleWellChain, Lorenz96
from nearfield.fitting import symmetry, training
from nearfield.fitting.recipe import Recipe
from nearfield.fitting.symmetry import candidates, chosen, drawn, moments, p_value
from nearfield.fitting.training import train
from nearfield.graph import DependencyGraph
from nearfield.samples import Samples
from nearfield.score.hybrid import NetworkScore
from nearfield.score.stencil import StencilNetwork
from nearfield.score.window import WindowNetwork

RNG = np.random.default_rng(0)
HOLES = np.ones((4, 4), dtype=bool)
HOLES[0, 1:3] = False  # as it is when the second axis is turned around, but not otherwise


def names(which):
    return [each.name for each in which]


@pytest.mark.parametrize(
    "graph",
    [
        DependencyGraph.chain(7),
        DependencyGraph.grid((5,), periodic=True),
        DependencyGraph.grid((4, 4), diagonal=True),
        DependencyGraph.grid((3, 5), periodic=(True, False)),
        DependencyGraph.grid((3, 4, 3)),
        DependencyGraph.grid((4, 4)).subgraph(HOLES),
    ],
)
def test_maps_keep_the_edges_and_are_their_own_inverse_but_for_quarter_turns(graph):
    edges = graph.adjacency.toarray() > 0
    x = RNG.normal(size=(2, len(graph), 1))
    for each in candidates(graph):
        np.testing.assert_array_equal(edges[np.ix_(each.source, each.source)], edges)
        twice = each.of(each.of(x))
        np.testing.assert_array_equal(each.of(each.of(twice)), x)
        assert each.name.startswith("turn") != np.array_equal(twice, x)


def test_maps_do_what_they_are_called():
    x = np.arange(24.0).reshape(1, 2, 3, 4)
    found = {
        each.name: each.of(x.reshape(1, 24, 1)).reshape(x.shape)
        for each in candidates(DependencyGraph.grid(x.shape[1:]))
    }
    np.testing.assert_array_equal(found["reflect 1"], x[:, :, ::-1])
    np.testing.assert_array_equal(found["reflect all"], x[:, ::-1, ::-1, ::-1])
    np.testing.assert_array_equal(found["negate"], -x)
    assert not any(name.startswith("exchange") for name in found)
    square = np.arange(9.0).reshape(1, 3, 3)
    samples = Samples(square.reshape(1, 9, 1), DependencyGraph.grid((3, 3)))
    (exchange,) = chosen(samples, ("exchange 0 1",), seed=0)
    np.testing.assert_array_equal(exchange.of(square.reshape(1, 9, 1)).reshape(1, 3, 3), square.transpose(0, 2, 1))
    anti, turn = chosen(samples, ("turn 0 1", "antitranspose 0 1"), seed=0)
    np.testing.assert_array_equal(turn.of(square.reshape(1, 9, 1)).reshape(3, 3), np.rot90(square[0]))
    np.testing.assert_array_equal(anti.of(square.reshape(1, 9, 1)).reshape(3, 3), np.rot90(square[0].T, 2))


def test_missing_cells_allow_only_what_maps_them_onto_themselves():
    assert names(candidates(DependencyGraph.grid((4, 4)).subgraph(HOLES))) == ["reflect 1", "negate"]
    assert names(candidates(DependencyGraph.grid((4, 4), periodic=(True, False)))) == [
        "reflect all", "reflect 0", "reflect 1", "negate",
    ]  # fmt: skip
    assert candidates(DependencyGraph.from_edges(3, [(0, 1), (1, 2)])) == ()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("law", "expected"),
    [
        (AutoregressiveChain(0.8, 40), ["reflect 0", "negate"]),
        (CoxIngersollRoss(a=0.25, b=1.0, sigma=0.6, step=1.0, length=40), ["reflect 0"]),  # reversible, skewed
        (DoubleWellChain(h=2.0, J=3.0, length=40), ["reflect 0", "negate"]),
        (Lorenz96(40), []),  # waves travel one way
    ],
)
def test_the_symmetries_of_known_laws_are_found(law, expected, seed):
    """Broken ones have the smallest p-value there is, others not: false alarms 15 in 1000, seeds fixed."""
    x = law.sample(200, random_state=seed)
    x = (x - x.mean()) / x.std()
    here = moments(x, law.graph)
    for each in candidates(law.graph):
        found = p_value(here - moments(each.of(x), law.graph), ordered=False, seed=seed)
        assert (found > 0.001) == (each.name in expected)


def test_correlations_along_a_diagonal_break_the_reflections_but_not_their_product():
    """x + its neighbour across one diagonal, Gaussian: unchanged by turning both axes, or by exchanging them."""
    white = RNG.normal(size=(200, 11, 11))
    x = (white[:, 1:, 1:] + white[:, :-1, :-1]) / np.sqrt(2)
    graph = DependencyGraph.grid((10, 10))
    found = names(chosen(Samples(x.reshape(200, 100, 1), graph), "auto", seed=0))
    assert found == ["reflect all", "exchange 0 1", "negate"]


def test_an_arrow_along_the_other_diagonal_breaks_all_but_the_reflection_in_it():
    """Each cell adds its neighbour's square, less its mean: an exchange of the axes turns the arrow around."""
    white = RNG.normal(size=(200, 11, 11))
    x = white[:, 1:, :-1] + (white[:, :-1, 1:] ** 2 - 1)
    graph = DependencyGraph.grid((10, 10))
    assert names(chosen(Samples(x.reshape(200, 100, 1), graph), "auto", seed=0)) == ["antitranspose 0 1"]


def whirls(n, seed, curl):
    """Each cell adds squares of eight cells around it: as many steps along each axis, turned by quarters."""
    white = np.random.default_rng(seed).normal(size=(n, 12, 12))
    arms = [(1, 2), (2, -1), (-1, -2), (-2, 1)] if curl == "turned" else [(1, 2), (2, 1), (-1, -2), (-2, -1)]
    return white + 0.7 * sum(np.roll(white**2 - 1, arm, (1, 2)) for arm in arms)


@pytest.mark.parametrize("seed", range(2))
def test_what_a_quarter_turn_alone_leaves_as_it_is_has_its_images(seed):
    """The four turns of a knight's move; or two, with their mirror images, that no quarter turn makes."""
    graph, found = DependencyGraph.grid((12, 12), periodic=True), {}
    for curl in ("turned", "mirrored"):
        x = whirls(400, seed, curl).reshape(400, 144, 1)
        found[curl] = names(chosen(Samples(x, graph), "auto", seed=0))
    assert "turn 0 1" in found["turned"]
    assert found["mirrored"] == ["reflect all", "exchange 0 1"]


def test_a_turn_that_others_make_is_left_out_and_one_alone_makes_four_images():
    x = np.random.default_rng(0).normal(size=(60, 36, 1))
    graph = DependencyGraph.grid((6, 6))
    every = chosen(Samples(x, graph), "auto", seed=0)
    assert names(every) == ["reflect all", "reflect 0", "reflect 1", "exchange 0 1", "negate"]
    half, turn = chosen(Samples(x, graph), ("turn 0 1", "reflect all"), seed=0)
    one = torch.from_numpy(x[:1]).repeat(400, 1, 1)
    maps = [each.on(torch.device("cpu")) for each in (half, turn)]
    images = drawn(maps, one, torch.Generator().manual_seed(0)).numpy().reshape(400, 6, 6)
    square = x[0].reshape(6, 6)
    counts = [int((images == np.rot90(square, k)).all(axis=(1, 2)).sum()) for k in range(4)]
    assert sum(counts) == 400
    assert min(counts) > 60  # 100 expected: 5 standard deviations of 8.7


def test_two_channels_one_behind_the_other_are_not_reflected():
    """Each alone is white, and Gaussian: only the products of the two tell."""
    white = RNG.normal(size=(200, 31))
    x = np.stack([white[:, 1:], white[:, :-1]], axis=2)
    assert names(chosen(Samples(x, DependencyGraph.chain(30)), "auto", seed=0)) == ["negate"]


def test_what_only_three_cells_or_two_channels_show_is_found():
    """Pairs of cells are uncorrelated in all their powers but these; the products of three, or of a square, are not."""
    white = RNG.normal(size=(300, 40))
    x = white[:, 3:] + white[:, 2:-1] * white[:, :-3]
    graph = DependencyGraph.chain(37)
    assert chosen(Samples(x[:, :, None] / np.sqrt(2), graph), "auto", seed=0) == ()
    one, size = RNG.normal(size=(2, 300, 30))
    x = np.stack([one, np.sign(one**2 - 0.455) * np.abs(size)], axis=2)
    assert names(chosen(Samples(x, DependencyGraph.chain(30)), "auto", seed=0)) == ["reflect 0"]


def test_large_data_are_looked_at_in_parts_and_single_cells_too(monkeypatch):
    x, graph = RNG.normal(size=(30, 12, 2)), DependencyGraph.grid((3, 4))
    whole = moments(x, graph)
    monkeypatch.setattr(symmetry, "CHUNK", 100)
    np.testing.assert_allclose(moments(x, graph), whole, atol=1e-15)
    one = DependencyGraph.chain(1)
    assert names(chosen(Samples(RNG.normal(size=(200, 1, 1)), one), "auto", seed=0)) == ["negate"]


def test_p_values_are_uniform_where_the_law_is_symmetric():
    """500 laws of heavy tails, 30 samples: counts below .1 and .5 within four standard deviations (1e-4)."""
    chain = DependencyGraph.chain(12)
    (reflection, _) = candidates(chain)
    found = []
    for seed in range(500):
        x = np.random.default_rng(seed).standard_t(3, size=(30, 12, 1))
        found.append(p_value(moments(x, chain) - moments(reflection.of(x), chain), ordered=False, seed=seed))
    for level in (0.1, 0.5):
        error = np.sqrt(level * (1 - level) / 500)
        assert abs(np.mean(np.array(found) <= level) - level) < 4 * error


def test_samples_in_order_count_by_blocks_and_too_few_say_nothing():
    """A drift of one sample that lasts 50 looks like 50 of them; in blocks it is as rare as it is."""
    difference = np.repeat(np.random.default_rng(1).normal(size=(20, 3)), 50, axis=0)
    assert p_value(difference, ordered=False, seed=0) == 0.001
    assert p_value(difference, ordered=True, seed=0) > 0.05
    assert p_value(difference[:19], ordered=False, seed=0) == 0.0
    assert p_value(np.zeros((30, 2)), ordered=False, seed=0) == 1.0


def test_images_are_drawn_with_even_odds():
    x = torch.arange(4.0)[None, :, None].expand(4000, 4, 1)
    maps = [symmetry.on(x.device) for symmetry in candidates(DependencyGraph.chain(4))]
    images = drawn(maps, x, torch.Generator().manual_seed(0))
    turned, negated = images[:, 0, 0] != 0, images.sum(dim=(1, 2)) < 0
    for share in (turned, negated, turned & negated):
        expected = 0.25 if share is not turned and share is not negated else 0.5
        assert abs(share.double().mean() - expected) < 4 * np.sqrt(expected * (1 - expected) / 4000)


@pytest.mark.slow
def test_training_sees_the_images():
    """Of data that are always 1, a network trained with the change of sign as well does not learn the sign."""
    chain = DependencyGraph.chain(6)
    recipe = Recipe(steps=300, ema=0.9, learning_rate=0.02)
    answers = []
    for which in ((), ("negate",)):
        score = NetworkScore(StencilNetwork(chain, radius=1, width=4))
        report = train(score, Samples(np.ones((30, 6, 1)), chain), replace(recipe, symmetries=which))
        assert report.symmetries == which
        answers.append(float(score.denoise(torch.zeros(1, 6, 1), 1.0).mean()))
    assert answers[0] > 0.8
    assert abs(answers[1]) < 0.2


def test_only_one_law_asks_for_symmetries():
    chain = DependencyGraph.chain(6)
    samples = Samples(RNG.normal(size=(40, 6, 1)), chain)
    one_law, sites, window = StencilNetwork(chain, 1), StencilNetwork(chain, 1, embedding=2), WindowNetwork(chain, 1)
    found = [training.symmetries_of(each, samples, Recipe()) for each in (one_law, sites, window)]
    assert [names(each) for each in found] == [["reflect 0", "negate"], [], []]
    assert names(training.symmetries_of(sites, samples, Recipe(symmetries=("negate",)))) == ["negate"]


def test_names_are_checked():
    with pytest.raises(ValueError, match=r"symmetries must be of \['reflect 0', 'negate'\].*got 'reflect 1'"):
        chosen(Samples(RNG.normal(size=(30, 4, 1)), DependencyGraph.chain(4)), ("reflect 1",), seed=0)
    with pytest.raises(ValueError, match=r"symmetries must be of \[\] on"):
        LocalizedDiffusion(
            DependencyGraph.from_edges(3, [(0, 1)]), method="hybrid", recipe=Recipe(symmetries=("negate",))
        ).fit(RNG.normal(size=(30, 3)))
    with pytest.raises(ValueError, match="symmetries must be 'auto' or a tuple of names, got 'reflect 0'"):
        Recipe(symmetries="reflect 0")
    assert symmetry.SIGNIFICANCE == 0.01
