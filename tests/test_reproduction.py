"""Reproductions write what they found, say what they claim, and fail when a claim does."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
from matplotlib.figure import Figure
from typer.testing import CliRunner

from nearfield.cli import app
from nearfield.reproduction import companion, figure1, figure2, figure3, samplers, scaling
from nearfield.reproduction import experiment as reproduction
from nearfield.reproduction.experiment import Claim, Experiment, FailedClaimError, Ours, Paper, Result, Workers

MODULES = {"fig1": figure1, "fig2": figure2, "fig3": figure3, "scaling": scaling}
MODULES |= {"companion": companion, "samplers": samplers}


@dataclass(frozen=True)
class Toy:
    steps: Paper[int] = 3
    bar: Ours[float] = 0.5


def toy(name: str, bar: float = 0.5) -> Experiment:
    """An experiment that finds 0.25 and claims that this is at most the bar."""

    def conduct(settings: Toy, workers: Workers) -> Result:
        found = workers.map(pow, [(0.5, 2)], "square")[0]
        numbers = {"found": np.float64(found), "none": [np.inf, np.array([1.0, np.nan])]}
        figure = Figure()
        figure.subplots().plot([0, 1], [0, found])
        return Result(
            settings, numbers, (Claim(f"{name}: .25 is at most {settings.bar}.", found <= settings.bar),), figure
        )

    return Experiment(name, conduct, Toy(), Toy(bar=bar))


def test_what_is_written_is_what_was_found(tmp_path, capsys):
    claims = reproduction.run(toy("toy"), tmp_path / "new" / "folder")
    written = tmp_path / "new" / "folder"
    assert sorted(path.name for path in written.iterdir()) == ["toy.json", "toy.pdf", "toy.png"]
    assert (written / "toy.pdf").read_bytes().startswith(b"%PDF")
    assert (written / "toy.png").read_bytes().startswith(b"\x89PNG")
    told = json.loads((written / "toy.json").read_text())
    assert told["settings"] == {
        "steps": {"value": 3, "source": "paper"},
        "bar": {"value": 0.5, "source": "our choice"},
    }
    assert told["numbers"] == {"found": 0.25, "none": ["infinite", [1.0, None]]}
    assert told["claims"] == [{"source": "paper", "holds": True, "sentence": claims[0].sentence}]
    assert not told["quick"]
    assert f"holds  (paper) {claims[0].sentence}" in capsys.readouterr().out


def test_an_earlier_run_is_replaced_and_a_quiet_one_is_silent(tmp_path, capsys):
    reproduction.run(toy("toy"), tmp_path, quiet=True)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    reproduction.run(toy("toy"), tmp_path, quick=True, quiet=True)
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert capsys.readouterr() == ("", "")
    assert before["toy.pdf"] == after["toy.pdf"]  # the picture is a function of the numbers
    assert not json.loads(before["toy.json"])["quick"]
    assert json.loads(after["toy.json"])["quick"]


def test_a_failed_claim_fails_after_everything_is_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(figure1, "EXPERIMENT", toy("figure1", bar=0.1))
    with pytest.raises(SystemExit) as stopped:
        reproduction.main("figure1", ["--quick", "--out", str(tmp_path)])
    assert stopped.value.code == 1
    out, err = capsys.readouterr()
    assert "FAILS  (paper) figure1: .25 is at most 0.1." in out
    assert err == "error: 1 claim does not hold: figure1: .25 is at most 0.1.\n"
    assert len(list(tmp_path.iterdir())) == 3
    reproduction.main("figure1", ["--out", str(tmp_path)])


def test_require_names_each_failed_claim():
    with pytest.raises(FailedClaimError, match=r"2 claims do not hold: A\. C\."):
        reproduction.require([Claim("A.", False), Claim("B.", True), Claim("C.", False)])


def test_the_command_runs_one_or_all(tmp_path, monkeypatch):
    for name, module in MODULES.items():
        monkeypatch.setattr(module, "EXPERIMENT", toy(name, bar=0.1 if name == "fig2" else 0.5))

    def run(*arguments: str, code: int):
        result = CliRunner().invoke(app, ["reproduce", *arguments], catch_exceptions=False)
        assert result.exit_code == code, result.output
        return result

    run("fig1", "--quick", "--out", str(tmp_path / "one"), code=0)
    assert {path.stem for path in (tmp_path / "one").iterdir()} == {"fig1"}
    failed = run("all", "--quick", "--json", "--out", str(tmp_path / "all"), code=1)
    assert {path.stem for path in (tmp_path / "all").iterdir()} == set(MODULES)
    told = json.loads(failed.stdout)["claims"]
    assert {name: claims[0]["holds"] for name, claims in told.items()} == {name: name != "fig2" for name in MODULES}
    assert failed.stderr == "error: 1 claim does not hold: fig2: .25 is at most 0.1.\n"
    run("all", "--out", str(tmp_path / "full"), code=0)
    run("fig4", code=2)


def test_a_folder_that_cannot_be_made_is_told_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(figure1, "EXPERIMENT", replace(toy("figure1"), conduct=pytest.fail))
    result = CliRunner().invoke(app, ["reproduce", "fig1", "--out", str(tmp_path / "file")], catch_exceptions=False)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    reproduction.run(toy("toy"), tmp_path, quiet=True)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match=r"could not write .*json: No space left"):
        reproduction.run(toy("toy"), tmp_path, quick=True, quiet=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("module", MODULES.values())
def test_every_constant_says_whose_it_is(module):
    for settings in (module.EXPERIMENT.full, module.EXPERIMENT.quick):
        assert {constant["source"] for constant in reproduction.described(settings).values()} <= {"paper", "our choice"}
        json.dumps(reproduction.described(settings))
    # What the paper gives does not differ in the quick run.
    changed = {name for name, constant in reproduction.described(module.EXPERIMENT.full).items()
               if constant != reproduction.described(module.EXPERIMENT.quick)[name]}  # fmt: skip
    assert all(reproduction.described(module.EXPERIMENT.full)[name]["source"] == "our choice" for name in changed)


@pytest.mark.slow
def test_workers_return_in_order():
    arguments = [(number, 2) for number in range(5)]
    assert Workers(2).map(pow, arguments, "squares") == Workers(1).map(pow, arguments, "squares") == [0, 1, 4, 9, 16]


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_the_quick_run_bears_its_claims_out(tmp_path, name):
    shown = CliRunner().invoke(app, ["reproduce", name, "--quick", "--out", str(tmp_path)], catch_exceptions=False)
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.count("holds  ") >= 3
    assert "FAILS" not in shown.stdout
