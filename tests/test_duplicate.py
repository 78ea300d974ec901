"""Samples that occur more than once are held out together, and said."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import nearfield as nf
from nearfield.data.duplicate import warn_of_duplicates
from nearfield.fitting.recipe import Recipe
from nearfield.graph import DependencyGraph
from nearfield.samples import Samples, duplicate_groups

D, N = 24, 60


def draws(n, seed):
    distance = np.abs(np.subtract.outer(np.arange(D), np.arange(D)))
    return np.random.default_rng(seed).normal(size=(n, D)) @ np.linalg.cholesky(np.exp(-distance / 0.8)).T


X = draws(N, 33)
ORDER = np.random.default_rng(1).permutation(2 * N)
REPEATED = {
    "shuffled": np.concatenate([X, X])[ORDER],
    "rounded": np.concatenate([X, X.astype(np.float32)])[ORDER],
    "packed": np.concatenate([X, np.rint(X * 2**14) / 2**14])[ORDER],
    "each twice": np.repeat(X, 2, axis=0),
    "bootstrap": X[np.random.default_rng(2).integers(0, N, N)],
}


@pytest.mark.parametrize("case", REPEATED)
def test_repeats_are_found(case):
    groups = duplicate_groups(REPEATED[case][..., None])
    known = np.argmin(np.abs(REPEATED[case][:, None] - X).max(axis=2), axis=1)
    assert np.array_equal(groups[:, None] == groups, known[:, None] == known)
    _, first = np.unique(groups, return_index=True)
    assert (np.diff(first) > 0).all()


def test_what_is_equal_by_chance_is_no_duplicate():
    rng = np.random.default_rng(0)
    rain = np.where(rng.random((200, 1)) < 0.4, 0.0, rng.exponential(size=(200, 30)))
    counts = rng.poisson(0.1, size=(200, 12)).astype(float)
    smooth = np.cumsum(rng.normal(size=(500, 1)), axis=0) + 0.02 * rng.normal(size=(500, 40))
    for x in (rain, counts, smooth, rng.normal(size=(50, 3)).round(1), X):
        assert np.array_equal(duplicate_groups(x[..., None]), np.arange(len(x)))
        warn_of_duplicates(Samples(x[..., None], DependencyGraph.chain(x.shape[1])).groups)


@pytest.mark.parametrize("ordered", [False, True])
def test_folds_are_a_partition_that_keeps_repeats_together(ordered):
    samples = Samples(REPEATED["bootstrap"][..., None], DependencyGraph.chain(D), ordered=ordered)
    groups, parts = samples.groups, samples.folds(5, 3)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(N))
    assert sum(len(np.unique(groups[part])) for part in parts) == groups.max() + 1
    assert len(samples.take(np.flatnonzero(groups < 3)).folds(5)) == 3
    used, unseen = Recipe(held_out=0.2).divide(samples)
    assert np.array_equal(np.sort(np.concatenate([used, unseen])), np.arange(N))
    assert not np.isin(groups[used], groups[unseen]).any()


@pytest.mark.parametrize("times", [2, 3])
def test_the_held_out_loss_is_that_of_other_data(times):
    """Twenty samples several times; spread over the folds they would be held to be far better known."""
    x = np.concatenate([X[:20]] * times)[np.random.default_rng(1).permutation(20 * times)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = nf.LocalizedDiffusion(method="gaussian", random_state=0).fit(x)
    assert any("are duplicates of others" in str(w.message) for w in caught)
    true = -model.score_samples(draws(2000, 34)).mean() / D
    assert model.fit_report_.selection.choice.loss == pytest.approx(true, abs=0.2)
