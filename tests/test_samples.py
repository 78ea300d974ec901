"""Samples: what is taken of them, what is refused, and what the codec makes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import xarray as xr

from nearfield import LocalizedDiffusion
from nearfield.data.codec import Codec
from nearfield.fitting.covariance import location_and_scale
from nearfield.fitting.pooling import Pooling
from nearfield.graph import DependencyGraph
from nearfield.methods import method_of
from nearfield.samples import Samples, duplicate_groups, standard_error

GRAPH = DependencyGraph.chain(12)
X = np.random.default_rng(0).normal(size=(9, 12, 2))


def test_samples_and_vertices_are_those_of_the_arrays():
    observed = X > -1
    samples = Samples(X, GRAPH, observed, ordered=True, channels=("a", "b"), standard=(False, True))
    numbers, vertices = np.array([5, 1, 7]), np.arange(12) % 5 < 2
    few, rest, part = samples.take(numbers), samples.without(numbers), samples.at(vertices)
    np.testing.assert_array_equal(few.values, X[numbers])
    np.testing.assert_array_equal(few.observed, observed[numbers])
    np.testing.assert_array_equal(rest.values, np.delete(X, numbers, axis=0))
    np.testing.assert_array_equal(rest.observed, np.delete(observed, numbers, axis=0))
    np.testing.assert_array_equal(part.values, X[:, vertices])
    np.testing.assert_array_equal(part.observed, observed[:, vertices])
    assert part.graph == GRAPH.subgraph(vertices)
    assert samples.at(np.ones(12, dtype=bool)) is samples
    for each in (few, rest, part):
        assert (each.ordered, each.channels, each.standard) == (True, ("a", "b"), (False, True))
    assert (len(part), part.n_vertices, part.n_channels) == (9, vertices.sum(), 2)


def test_standardised_samples_are_left_as_they_are():
    center, scale = location_and_scale(Samples(X, GRAPH), Pooling(0.3))
    found = Samples(X, GRAPH).standardized(center, scale)
    np.testing.assert_array_equal(found.values, (X - center) / scale)
    assert found.standard == (True, True)
    again = location_and_scale(found, Pooling(0.3))
    assert (again[0] == 0).all()
    assert (again[1] == 1).all()
    half = location_and_scale(Samples(X, GRAPH, standard=(False, True)), Pooling(0.3))
    np.testing.assert_array_equal(half[0], center * [1, 0])
    np.testing.assert_array_equal(half[1], scale * [1, 0] + [0, 1])


def test_repeats_keep_together_in_whatever_is_derived():
    """Numbers of the groups count their first samples, as if found anew, and hold where a copy tells nothing."""
    samples = Samples(X[[0, 1, 2, 1, 3, 0]], GRAPH)
    assert samples.groups.tolist() == [0, 1, 2, 1, 3, 0]
    few = samples.take(np.array([5, 4, 3, 1]))
    assert few.groups.tolist() == duplicate_groups(few.values).tolist() == [0, 1, 2, 2]
    means = samples.with_values(samples.values[:, :1], DependencyGraph.chain(1))
    assert duplicate_groups(means.values).tolist() == list(range(6))
    for each in (means, samples.at(np.arange(12) < 1), samples.standardized(1.0, 2.0)):
        assert each.groups is samples.groups
        parts = each.folds(3, seed=1)
        assert sum((0 in part) == (5 in part) and (1 in part) == (3 in part) for part in parts) == len(parts)


@pytest.mark.parametrize("ordered", [False, True])
def test_folds_are_those_of_numpy(ordered):
    samples = Samples(X, GRAPH, ordered=ordered)
    order = np.arange(9) if ordered else np.random.default_rng(7).permutation(9)
    for part, expected in zip(samples.folds(5, seed=7), np.array_split(order, 4), strict=True):
        assert part.tolist() == sorted(expected)
    values = np.repeat(np.arange(20.0), 5)
    assert samples.standard_error(values) == standard_error(values, ordered)
    assert samples.standard_error(values) == pytest.approx(
        np.std(np.arange(20), ddof=1) / math.sqrt(20) if ordered else values.std(ddof=1) / 10
    )


def test_too_few_samples_have_no_folds():
    with pytest.raises(ValueError, match="needs at least 4 samples, got 3"):
        Samples(X[:3], GRAPH).folds(2)


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ({"values": X[:, :5]}, r"values must have shape \(sample, 12, channel\)"),
        ({"values": X[..., 0]}, r"values must have shape \(sample, 12, channel\)"),
        ({"observed": np.ones((9, 12, 1), dtype=bool)}, r"observed must be boolean of shape \(9, 12, 2\)"),
        ({"observed": np.ones(X.shape)}, "observed must be boolean of shape .* got float64"),
        ({"channels": ("a",)}, "channels must have an entry for each of 2 channels"),
        ({"standard": (True,)}, "standard must have an entry for each of 2 channels"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_shapes_that_do_not_go_together_are_refused(known, message):
    with pytest.raises(ValueError, match=message):
        Samples(**{"values": X, "graph": GRAPH} | known)


@pytest.mark.parametrize("method", ["windowed", "masked", "mixture", "paper"])
def test_missing_values_are_refused_by_every_method_but_the_field_and_networks(method):
    observed = np.ones(X.shape, dtype=bool)
    Samples(X, GRAPH, observed).require_complete()
    observed[2, 3, 1] = False
    with pytest.raises(ValueError, match="samples must be observed everywhere, got 1 missing values"):
        method_of(method, radius=1).fit(Samples(X, GRAPH, observed))


def test_the_codec_makes_samples_in_order_of_time():
    """The values of the data, in double precision, with their names; the estimator fits these."""
    order = np.random.default_rng(1).permutation(9)
    dates = np.datetime64("2000-01-01") + np.arange(9) * np.timedelta64(1, "D")
    data = xr.Dataset(
        {name: (("time", "x"), X[order, :, k].astype(np.float32)) for k, name in enumerate(("rain", "sst"))},
        coords={"time": dates[order]},
    )
    codec = Codec.fit(data)
    samples = codec.samples(data)
    np.testing.assert_array_equal(samples.values, X.astype(np.float32).astype(np.float64))
    assert (samples.ordered, samples.channels, samples.standard) == (True, ("rain", "sst"), (False, False))
    assert samples.graph is codec.graph
    assert samples.observed is None
    plain = Codec.fit(X[..., 0]).samples(X[..., 0])
    assert (plain.ordered, plain.channels) == (False, ("0",))
    model = LocalizedDiffusion(method="gaussian", radius=1, pooling=0.5, marginal={"sst": "none"}).fit(data)
    center, _ = location_and_scale(samples.with_values(samples.values, standard=(False, True)), Pooling(0.5))
    np.testing.assert_allclose(model.marginal_.inv(np.zeros((1, 12, 2)))[0], center, atol=1e-12)
