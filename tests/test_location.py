"""Location and scale: vertices that say nothing of the others, and a pooling of their own."""

from __future__ import annotations

import dataclasses
import math
import warnings

import numpy as np
import pytest

import nearfield as nf
from nearfield.datasets import AutoregressiveChain
from nearfield.fitting.closed_form import fit_field
from nearfield.fitting.covariance import location_and_scale
from nearfield.fitting.pooling import Pooling, kernel
from nearfield.fitting.radius import select_radius_by_time
from nearfield.fitting.rarity import rarely_varying
from nearfield.fitting.selection import select_field
from nearfield.graph import DependencyGraph
from nearfield.samples import Samples


def chain_with(value: float, vertex: int, *, fill: bool, n: int = 60, d: int = 20) -> np.ndarray:
    """A chain of mean 5 in which one vertex has one wild value, beside its own or beside nothing."""
    x = AutoregressiveChain(0.6, d).sample(n, 3) + 5.0
    if not fill:
        x[:, vertex] = 0.0
    x[17, vertex] = value
    return x


@pytest.mark.parametrize(("n", "hits", "rare"), [(9, 1, False), (10, 1, True), (19, 2, False), (20, 2, True),
                                                 (60, 2, True), (60, 3, False)])  # fmt: skip
@pytest.mark.parametrize("level", [0.0, 1e6])
def test_a_vertex_is_rare_where_one_or_two_samples_are_all_that_varies(n, hits, rare, level):
    x = np.full((n, 2, 1), level)
    x[:hits, 1] += np.arange(1, hits + 1)[:, None]
    assert rarely_varying(x).ravel().tolist() == [False, rare]


@pytest.mark.parametrize("n", [4, 9, 20, 200])
def test_a_fill_value_is_beyond_normal_ones_which_are_not_beyond_each_other(n):
    """Of four normal values one is a thousand times beyond the others in less than one of 1e7 vertices."""
    x = np.random.default_rng(n).normal(size=(n, 500, 2))
    assert not rarely_varying(x).any()
    x[0, 3, 1] = -9999.0
    assert np.argwhere(rarely_varying(x)).tolist() == [[3, 1]]


@pytest.mark.parametrize("fill", [False, True])
@pytest.mark.parametrize("pooling", [Pooling(1.0), Pooling(0.4), Pooling(0.7, 1.5)], ids=str)
def test_a_rare_vertex_keeps_its_own_scale_and_lends_none(fill, pooling):
    """The others are averaged among themselves, with the weights they have for each other."""
    x, graph = chain_with(-9999.0, 8, fill=fill), DependencyGraph.chain(20)
    w = np.ones((20, 20))
    if math.isfinite(pooling.bandwidth):
        index, weight = kernel(graph, pooling.bandwidth)
        w = np.zeros((20, 20))
        np.add.at(w, (np.arange(20)[:, None], index), weight)
    w[8], w[:, 8] = np.eye(20)[8], np.eye(20)[8]
    mix = (1 - pooling.strength) * np.eye(20) + pooling.strength * w / w.sum(axis=1, keepdims=True)
    center, scale = location_and_scale(Samples(x, graph), pooling)
    np.testing.assert_allclose(center, mix @ x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(scale**2, mix @ ((x - center) ** 2).mean(axis=0), rtol=1e-10)
    np.testing.assert_allclose(scale[8], x[:, 8].std(), rtol=1e-12)


@pytest.mark.parametrize("fill", [False, True])
def test_the_locality_is_chosen_by_the_other_vertices_alone(fill):
    x, graph = chain_with(-9999.0, 8, fill=fill), DependencyGraph.chain(20)
    keep = np.arange(20) != 8
    found, rest = select_field(Samples(x, graph)), select_field(Samples(x[:, keep], graph.subgraph(keep)))
    assert found.table == rest.table
    assert dataclasses.replace(found, reason="") == dataclasses.replace(rest, reason="")
    assert "on 19 of the 20 vertices" in found.reason
    both = Samples(x, graph), Samples(x[:, keep], graph.subgraph(keep))
    by_time = [select_radius_by_time(samples, Pooling(0.0)) for samples in both]
    assert by_time[0] == by_time[1]


def test_a_vertex_still_in_a_fold_is_not_compared_but_pooled():
    """Ten years of eruptions in one block: not rare, without scale where they are held out."""
    x, graph = chain_with(0.0, 8, fill=False), DependencyGraph.chain(20)
    x[:10, 8] = np.random.default_rng(0).normal(size=(10, 1))
    assert not rarely_varying(x).any()
    report = select_field(Samples(x, graph, ordered=True), pooling=Pooling(0.0))
    assert math.isfinite(report.choice.loss)
    assert "on 19 of the 20 vertices" in report.reason


def test_data_of_rare_vertices_alone_need_pooling():
    x = np.zeros((20, 4, 1))
    x[np.arange(4), np.arange(4)] = 1.0
    with pytest.raises(ValueError, match="varies in few samples only"):
        select_field(Samples(x, DependencyGraph.chain(4)), pooling=Pooling(0.0))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("x", [np.eye(8)[:, 6:7], np.eye(12)[:, 3:4].reshape(12, 1, 1)])
def test_where_nothing_varies_in_the_rest_the_choice_is_refused(x):
    with pytest.raises(ValueError, match="data must vary in more than a sample or two"):
        nf.LocalizedDiffusion(method="gaussian", random_state=0).fit(x)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_two_vertices_of_one_value_each_are_a_model():
    model = nf.LocalizedDiffusion(method="gaussian", random_state=0).fit(np.eye(8)[:, 5:7])
    assert np.isfinite(model.sample(3, random_state=0)).all()


@pytest.mark.filterwarnings("ignore:.*far beyond all others:UserWarning")
@pytest.mark.parametrize("fill", [False, True])
def test_the_others_keep_their_laws(fill):
    """Scales of 1 to 10,000: pooled for the sake of one vertex, the smallest would be twelve times too wide or more.

    Deviations of 60 samples are off by 9 %, which partial pooling may make up for: 4/3 is nearly four times that.
    """
    spread = np.logspace(0, 4, 20)[:, None]
    x = chain_with(-1e6, 8, fill=fill) * spread
    with pytest.warns(UserWarning, match="vertex 8 varies in one or two samples only, or with a value 1000 times"):
        model = nf.LocalizedDiffusion(method="gaussian", random_state=0).fit(x[..., 0])
    ratio = model.sample(2000, random_state=0).std(axis=0) / x[..., 0].std(axis=0)
    assert np.abs(np.log(np.delete(ratio, 8))).max() < math.log(4 / 3)


def test_ordinary_vertices_are_not_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nf.LocalizedDiffusion(method="gaussian", radius=1, pooling=0.5).fit(AutoregressiveChain(0.5, 9).sample(30, 0))


def test_location_and_scale_follow_their_own_pooling_and_the_blocks_theirs():
    x, graph = AutoregressiveChain(0.6, 12).sample(30, 0) * np.linspace(1, 2, 12)[:, None], DependencyGraph.chain(12)
    alike = location_and_scale(Samples(x, graph), Pooling(1.0, 2.0))
    apart = location_and_scale(Samples(x, graph), Pooling(0.3, location=Pooling(1.0, 2.0)))
    for one, other in zip(alike, apart, strict=True):
        np.testing.assert_array_equal(one, other)
    center, scale, field = fit_field(Samples(x, graph), 2, Pooling(0.3, location=Pooling(0.0)))
    np.testing.assert_allclose(scale, x.std(axis=0), rtol=1e-12)
    raw = fit_field(Samples((x - center) / scale, graph, standard=(True,)), 2, Pooling(0.3))[2]
    np.testing.assert_allclose(field.factor.matrix.toarray(), raw.factor.matrix.toarray(), rtol=1e-9, atol=1e-12)


def test_a_location_of_the_same_setting_is_none():
    assert Pooling(0.5, 2.0, Pooling(0.5, 2.0)) == Pooling(0.5, 2.0)
    assert Pooling(1.0, location=Pooling(1.0)).one_law
    assert not Pooling(1.0, location=Pooling(0.0)).one_law
    assert Pooling(1.0, location=Pooling(0.0)) != Pooling(1.0)
    with pytest.raises(TypeError, match="location must be a Pooling, got 1"):
        Pooling(1.0, location=1.0)
    with pytest.raises(ValueError, match="location must have no location"):
        Pooling(1.0, location=Pooling(0.5, location=Pooling(0.2)))


@pytest.mark.parametrize("seed", range(3))
def test_scales_of_a_stationary_law_stay_one(seed):
    chain = AutoregressiveChain(0.8, 40)
    used = select_field(Samples(chain.sample(100, seed), chain.graph)).choice.pooling.of_location
    assert used.strength >= 0.9
    assert used.bandwidth >= 16


def test_the_choice_leaves_location_alone_where_none_is_fitted_or_pooling_is_given():
    chain = AutoregressiveChain(0.8, 10)
    samples = Samples(chain.sample(40, 0), chain.graph)
    standard = samples.with_values(samples.values, standard=(True,))
    for report in (select_field(standard), select_field(samples, pooling=Pooling(0.5))):
        assert all(c.location is None for c in report.table)


def test_a_pooling_of_location_is_saved_and_not_extended(tmp_path):
    x = AutoregressiveChain(0.6, 12).sample(40, 0)[..., 0] * np.linspace(1, 2, 12)
    pooling = Pooling(1.0, location=Pooling(0.2, 3.0))
    for asked in (pooling, "auto"):
        model = nf.LocalizedDiffusion(method="gaussian", pooling=asked, random_state=0).fit(x)
        model.save(tmp_path / "model.nearfield")
        again = nf.load(tmp_path / "model.nearfield")
        assert (again.pooling, again.pooling_) == (asked, model.pooling_)
        assert again.fit_report_ == model.fit_report_
    with pytest.raises(ValueError, match="needs one law"):
        nf.LocalizedDiffusion(method="gaussian", radius=1, pooling=pooling).fit(x).extend((24,))
