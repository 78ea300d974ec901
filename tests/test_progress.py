"""Progress: bars in a terminal, a line a phase elsewhere, nothing unless asked for."""

import io
import re

import numpy as np
import pytest

import nearfield as nf
from nearfield.fitting.recipe import Recipe
from nearfield.progress import fit_bars, sample_bar

X = np.random.default_rng(0).normal(size=(30, 8)).cumsum(axis=1)
LINES = (
    r"choose locality: \d+ candidates in \d+\.\d s",
    r"train: 4 steps in \d+\.\d s, held-out loss \d\.\d{4}",
    r"sample: 50 steps in \d+\.\d s",
)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(stream, monkeypatch):
    monkeypatch.setattr("sys.stderr", stream)
    recipe = Recipe(steps=4, symmetries=())
    model = nf.LocalizedDiffusion(method="neural", radius=1, recipe=recipe, random_state=0, verbose=True).fit(X)
    model.sample(2, random_state=0)
    return stream.getvalue()


def test_a_log_has_a_line_for_each_phase(monkeypatch):
    lines = shown(io.StringIO(), monkeypatch).splitlines()
    assert len(lines) == len(LINES)
    for line, pattern in zip(lines, LINES, strict=True):
        assert re.fullmatch(pattern, line), line


def test_a_terminal_has_bars(monkeypatch):
    text = shown(Terminal(), monkeypatch)
    assert "\r" in text
    for part in ("choose locality", "train: 100%", "held-out loss", "sample: 100%"):
        assert part in text


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_nothing_is_shown_unless_asked_for(stream, monkeypatch):
    monkeypatch.setattr("sys.stderr", stream)
    with fit_bars(verbose=False) as (candidate, step):
        candidate()
        step(1, 2, 0.5)
    assert stream.getvalue() == ""


def test_a_phase_that_was_stopped_says_how_far_it_came(capsys):
    with fit_bars(verbose=True) as (_, step):
        step(3, 10, 0.5)
    with sample_bar(verbose=True):
        pass  # exact draws have no steps
    assert re.fullmatch(r"train: 3 of 10 steps in \d+\.\d s, held-out loss 0\.5000\n", capsys.readouterr().err)
