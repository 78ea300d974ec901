"""What `benchmarks/behaviour.py` lets pass between two checkouts, and what not."""

import math
import shutil
import sys

import numpy as np
import pytest
from benchmarks import behaviour
from benchmarks.behaviour import Result, cells, compared, drift, largest, relative


def made_up(method: str = "gaussian", **plain) -> Result:
    rng = np.random.default_rng(0)
    deviation = rng.uniform(1, 3, size=(4, 5))
    deviation[0, 0] = np.nan  # land
    arrays = {"deviation": deviation, "sample": rng.normal(size=(40, 4, 5)) * deviation}
    if method in behaviour.DENSITIES:
        arrays |= {"impute": rng.normal(size=(4, 3, 4, 5)) * deviation, "score_samples": rng.normal(size=12)}
    pooling = {"strength": 0.5, "bandwidth": math.inf, "location": None, "nugget": 0.0}
    held_out = None if method == "gaussian" else (0.8, 0.05)
    usual = {"method": method, "radius": 2, "pooling": pooling, "held out": held_out, "unlike": []}
    return Result(usual | plain, arrays)


def short(new: Result, old: Result) -> list[str]:
    """What misses its bar."""
    return [line.what for line in compared(new, old) if cells("model", line)[-1] == "short"]


def moved(result: Result, key: str, by: float) -> Result:
    """Move one number, by so many deviations."""
    array = result.arrays[key].copy()
    array.flat[-1] += by * (array.std() if key == "score_samples" else result.arrays["deviation"].flat[-1])
    return result._replace(arrays=result.arrays | {key: array})


@pytest.mark.parametrize("key", ["sample", "impute", "score_samples"])
def test_closed_forms_may_differ_by_rounding_and_no_more(key):
    old = made_up()
    assert not short(old, old)
    assert not short(moved(old, key, 1e-12), old)
    assert short(moved(old, key, 1e-6), old) == [key]
    assert largest(moved(old, "sample", 1e-6).arrays["sample"], *map(old.arrays.get, ("sample", "deviation"))) == (
        pytest.approx(1e-6)
    )


@pytest.mark.parametrize("key", ["sample", "impute", "score_samples"])
def test_what_is_missing_or_of_another_kind_is_no_match(key):
    old = made_up()
    array = old.arrays[key]
    gone = array.copy()
    gone.flat[-1] = np.nan
    for other in (None, gone, array[:-1], array.astype(np.float32)):
        arrays = {k: v for k, v in (old.arrays | {key: other}).items() if v is not None or k == "sample"}
        assert short(old._replace(arrays=arrays), old) == [key]


def test_choices_have_to_be_the_same_ones():
    old = made_up(radius=[[0.1, 2], [0.7, 3]])
    assert not short(made_up(radius=((0.1 * (1 + 1e-12), 2), (0.7, 3))), old)
    pooling = old.plain["pooling"]
    others = ({"strength": 0.6}, {"bandwidth": 2.0}, {"location": pooling}, {"nugget": 1e-3})
    changed = [{"pooling": pooling | other} for other in others]
    for other in [*changed, {"radius": 3}, {"radius": [[0.1, 2], [0.7, 4]]}, {"radius": [[0.1, 2]]}]:
        assert short(made_up(**old.plain | other), old) == ["radius_, pooling_"]
    assert relative({"a": [1.1, None]}, {"a": [1.0, None]}) == pytest.approx(0.1)


def test_networks_are_held_to_their_standard_errors():
    old = made_up("hybrid")
    assert not short(moved(old, "sample", 0.5), old)
    loss = "held-out loss / standard error"
    assert not short(made_up("hybrid", **{"held out": (0.84, 0.05)}), old)
    for other in ((0.86, 0.05), (0.74, 0.05), None):
        assert short(made_up("hybrid", **{"held out": other}), old) == [loss]
    sample = old.arrays["sample"]
    for other in (sample + 0.5 * old.arrays["deviation"], 1.5 * sample, None):
        changed = old._replace(arrays=old.arrays | {"sample": other})
        assert "sample's moments / standard errors" in short(changed, old)
    shifted = sample + 2 * sample.std(axis=0) / math.sqrt(len(sample))
    assert drift(shifted, sample) == pytest.approx(2)
    assert "impute" in short(moved(made_up("auto"), "impute", 1e-6), made_up("auto"))


def test_a_model_file_repeats_the_model_and_a_refusal_is_no_match():
    old = made_up()
    assert short(made_up(unlike=["sample", "digest_"]), old) == ["reloaded: sample, digest_"]
    assert short(Result({"refused": "why"}, {}), old) == ["refused"]
    assert short(old, Result({"refused": "why"}, {})) == ["refused"]


@pytest.mark.slow
def test_a_worker_agrees_with_this_process(monkeypatch, capsys):
    name = "latlon-gaussian"
    apart = behaviour.measured([name], behaviour.HERE / "src")
    here = behaviour.result(name)
    assert set(here.arrays) == {"deviation", "sample", "impute", "score_samples"}
    assert np.isnan(here.arrays["sample"]).any()
    assert not short(apart[name], here)
    monkeypatch.setattr(behaviour, "measured", lambda names, source: dict.fromkeys(names, here))
    behaviour.main([name, "--old", "src"])
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[-3:] for line in printed[3:6]] == [["0", "1e-09", "pass"]] * 3
    behaviour.main([name])
    assert capsys.readouterr().out.splitlines()[2].split() == [name, "reloaded", "0", "0", "pass"]


def test_what_fails_is_a_row_that_says_so(monkeypatch, capsys, tmp_path):
    def refuse():
        raise KeyError("no data")

    monkeypatch.setitem(behaviour.CASES, "chain-gaussian", refuse)
    behaviour.main(["chain-gaussian", "--emit", str(tmp_path)])
    refused = behaviour.read(tmp_path, "chain-gaussian")
    behaviour.table({"chain-gaussian": refused}, {"chain-gaussian": made_up(seconds=1.0)})
    assert "chain-gaussian, new: KeyError: 'no data'" in capsys.readouterr().out
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    assert "ended with 1" in behaviour.measured(["chain-paper"], tmp_path)["chain-paper"].plain["refused"]
    monkeypatch.setattr(sys, "executable", shutil.which("echo"))
    with pytest.raises(RuntimeError, match="instead of"):
        behaviour.measured(["chain-paper"], tmp_path)


def test_the_models_cover_every_method_and_kind_of_graph():
    assert len(behaviour.CASES) == 12
    cases = [make() for make in behaviour.CASES.values()]
    methods = {case.arguments["method"] for case in cases}
    assert methods == {"auto", "gaussian", "windowed", "masked", "neural", "hybrid", "paper"}
    marginals = [case.arguments.get("marginal") for case in cases]
    assert {"log", "sqrt", "quantile", "none"} <= {marginal for marginal in marginals if isinstance(marginal, str)}
    assert {0: "log"} in marginals
    with pytest.raises(ImportError, match="Recipes"):
        behaviour.recipe("Recipes")
