"""What `benchmarks/moments.py` computes, by other paths."""

import shutil
import sys

import numpy as np
import pytest
from benchmarks import moments
from benchmarks.moments import Figure, cells_of, excess, modes, roughness_ratio, shift

from nearfield.evaluation.metric import gaussian_kl, roughness
from nearfield.graph import DependencyGraph


def covariance(d: int, seed: int) -> np.ndarray:
    factor = np.random.default_rng(seed).normal(size=(d, 2 * d))
    return factor @ factor.T / (2 * d)


def test_the_excess_is_the_integral_of_the_denoisers_distance():
    """The trapezoidal rule on 400 levels errs by 1e-5. A wrong sign, factor or power of sigma would show."""
    truth, generated, one = covariance(6, 0), covariance(6, 1), np.eye(6)
    sigmas = np.exp(np.linspace(*np.log(moments.SIGMA), 400))
    terms = []
    for sigma in sigmas:
        noised = truth + sigma**2 * one
        gap = generated @ np.linalg.inv(generated + sigma**2 * one) - truth @ np.linalg.inv(noised)
        terms.append(np.trace(gap @ noised @ gap.T) / sigma**2)
    assert excess(truth, generated) == pytest.approx(np.trapezoid(terms, np.log(sigmas)), rel=1e-4)


def test_the_mean_adds_what_the_divergence_of_shifted_laws_has_more():
    truth, generated, mean = covariance(6, 0), covariance(6, 1), np.arange(6.0)
    expected = gaussian_kl(truth, generated, mean_generated=mean) - gaussian_kl(truth, generated)
    assert shift(mean, generated) == pytest.approx(expected)


def test_roughness_and_modes_of_the_samples_own_law_are_the_samples():
    x = np.random.default_rng(0).normal(size=(50, 12)) + np.arange(12.0)
    graph, own = DependencyGraph.grid((3, 4)), np.cov(x.T, bias=True)
    assert roughness_ratio(x.mean(axis=0), own, x, graph) == pytest.approx(1)
    rougher = roughness_ratio(x.mean(axis=0), own + np.eye(12), x, graph)
    assert rougher == pytest.approx(1 + 2 / roughness(x[..., None], graph).mean())
    np.testing.assert_allclose(modes(3 * own, own), 3)


@pytest.mark.slow
def test_a_row_from_another_process_is_that_of_this_one(monkeypatch, capsys):
    apart = moments.measured("chain-100", 1, None)
    here = {figure.name: figure for figure in moments.ROWS["chain-100"](1)}
    assert apart.keys() == here.keys()
    for name in apart.keys() - {"fit, CPU s"}:
        assert apart[name].values == pytest.approx(here[name].values)
    monkeypatch.setattr(moments, "measured", lambda name, seeds, source: apart)
    moments.main(["chain", "--old", "src"])
    printed = capsys.readouterr().out.splitlines()
    assert printed[1].split() == ["chain-100", "new", "old", "new", "/", "old", "bar", "verdict"]
    assert printed[2].split()[-4:] == ["1.000", "ratio", "1.1", "pass"]


def test_what_fails_is_a_row_that_says_so(monkeypatch, capsys):
    def refuse(seeds):
        raise ValueError(f"no field for {seeds} seeds")

    monkeypatch.setitem(moments.ROWS, "chain-100", refuse)
    moments.emit("chain-100", 2)
    assert "ValueError: no field for 2 seeds" in capsys.readouterr().out
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    assert "ended with 1" in moments.measured("chain-100", 1, None)["refused"].note


@pytest.mark.parametrize(
    ("new", "old", "expected"),
    [
        (Figure("a", [2.0], -1, 3), Figure("a", [1.0]), ["2", "1", "2.000", "-1 to 3", "pass"]),
        (Figure("a", [2.0], ratio=1.1), Figure("a", [1.0]), ["2", "1", "2.000", "ratio 1.1", "short"]),
        (Figure("a", [2.0], high=1.0, ratio=1.1), None, ["2", "", "", "1", "short"]),
        (Figure("refused", [], note="why"), None, ["yes", "", "", "", ""]),
    ],
)
def test_bars_and_verdicts(new, old, expected):
    assert cells_of(new, old) == expected
