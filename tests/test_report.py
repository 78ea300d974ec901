"""The page and its numbers agree, hold together without anything else, are written whole, and fail wrong fields."""

from __future__ import annotations

import errno
import json
import os
from html.parser import HTMLParser

import numpy as np
import pytest

from nearfield.evaluation.comparison import Comparison
from nearfield.evaluation.report import write_report
from nearfield.evaluation.training import TrainingMoments
from nearfield.fitting.fit_report import FitReport
from nearfield.fitting.levels import LevelChoice
from nearfield.fitting.selection import Candidate, SelectionReport
from nearfield.fitting.training import Check, TrainingReport
from nearfield.graph import DependencyGraph
from nearfield.samples import Samples

VOID = {"meta", "img", "br", "link", "hr", "input"}


class Page(HTMLParser):
    """What the tests need of a page; refuses tags that do not close."""

    def __init__(self, text):
        super().__init__()
        self.open, self.images, self.numbers, self.references, self.text = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(attrs)
        if tag == "data":
            self.numbers.append((attrs["data-path"], attrs["value"], ""))
        self.references += [attrs[k] for k in ("src", "href", "action", "data", "srcset") if k in attrs]
        assert tag not in ("script", "link", "iframe", "object")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if self.open and self.open[-1] == "data":
            path, value, shown = self.numbers[-1]
            self.numbers[-1] = (path, value, shown + data)


def fields(rng, n_samples, shape, n_channels=1):
    """Smooth random fields on a grid of at most three axes: white noise, averaged over neighbours along each axis."""
    x = rng.normal(size=(n_samples, *[n + 2 for n in shape], n_channels))
    for axis in range(1, 1 + len(shape)):
        x = sum(np.take(x, range(k, x.shape[axis] - 2 + k), axis=axis) for k in range(3)) / np.sqrt(3)
    return x.reshape(n_samples, -1, n_channels)


def selection():
    losses = [(0, 1.4), (1, 1.1), (2, 1.0), (3, 1.005)]
    curve = tuple(Candidate(r, 0.5, np.inf, loss, 0.02, loss - 1.0, 0.004, 3.0) for r, loss in losses)
    return SelectionReport(curve, 2, 2, curve, ((3.0, 1), (0.1, 2)), 5, False, "radius 2 has the lowest loss")


def everything(rng, shape=(8, 9)):
    """All parts of a comparison of equal laws."""
    return {
        "title": "smooth <fields> & more",
        "real": 280 + 3 * fields(rng, 80, shape),
        "generated": 280 + 3 * fields(rng, 100, shape),
        "graph": DependencyGraph.grid(shape),
        "channels": ("temperature",),
        "units": ("K",),
        "dims": ("y, km", "x, km"),
        "fitted_on": True,
        "fit": FitReport(
            selection=selection(),
            seconds={"fit / select": 1.25, "sample": 0.5},
            n_samples=80,
            warnings=("a <b>warning</b>",),
            reason="the network earned a level",
            seed=0,
            training=TrainingReport(
                (1.0, 0.9), (Check(0, 1.1, 0.1), Check(2, 0.8, 0.1)), Check(2, 0.8, 0.1), 3.0, "budget"
            ),
            levels=(LevelChoice(0.1, 2.0, 1.5, 0.1, True), LevelChoice(1.0, 0.4, 0.41, 0.02, False)),
        ),
        "ordered": True,
        "log_density": {"held out": rng.normal(-100, 6, size=50), "generated": rng.normal(-100, 6, size=60)},
        "provenance": {"licence": "CC0", "when": np.datetime64("2024-01-01"), "digest": "abc", "scale": np.float32(2)},
    }


def write(path, **given):
    return write_report(path, Comparison(**given))


def outcome(summary, name):
    return next(c["status"] for c in summary["checks"] if c["name"] == name)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    summary = write(path, **everything(np.random.default_rng(0)))
    return summary, path


@pytest.fixture
def no_pictures(monkeypatch):
    """Draw the pictures, but leave out the slow rendering, in tests that look at numbers."""
    monkeypatch.setattr("nearfield.evaluation.section.png", lambda ax: "")
    monkeypatch.setattr("nearfield.evaluation.report.png", lambda ax: "")


def test_equal_laws_pass_every_check(full):
    summary, _ = full
    assert {c["name"]: c["status"] for c in summary["checks"] if c["status"] != "pass"} == {}
    assert summary["verdict"]["status"] == "pass"
    assert summary["verdict"]["counts"] == {"fail": 0, "warn": 0, "pass": len(summary["checks"]), "unknown": 0}


def test_numbers_of_the_page_are_those_of_the_json(full):
    summary, path = full
    stored = json.loads(path.with_suffix(".json").read_text(), parse_constant=pytest.fail)
    assert stored == summary
    page = Page(path.read_text())
    assert len(page.numbers) > 80
    for place, value, shown in page.numbers:
        steps = ["seconds", place.removeprefix("seconds/")] if place.startswith("seconds/") else place.split("/")
        found = stored
        for step in steps:
            found = found[int(step)] if isinstance(found, list) else found[step]
        assert json.loads(value) == found, place
        assert float(shown) == pytest.approx(found, rel=0.06), place  # two digits at least
    places = {place for place, _, _ in page.numbers}
    for k, check in enumerate(stored["checks"]):
        assert {f"checks/{k}/{end}" for end in ("value", "low", "high") if check[end] is not None} <= places


def test_the_network_is_shown_with_what_it_was_compared_with(full):
    summary, path = full
    assert summary["network"]["levels"][0] == {
        "sigma": 0.1,
        "gaussian": 2.0,
        "hybrid": 1.5,
        "error": 0.1,
        "selected": True,
    }
    assert summary["network"]["training"]["best"] == {"step": 2, "loss": 0.8, "error": 0.1}
    assert summary["choice"]["reason"] == "the network earned a level"
    shown = {place: value for place, value, _ in Page(path.read_text()).numbers}
    assert json.loads(shown["network/levels/1/hybrid"]) == 0.41


def test_page_needs_nothing_else(full):
    _, path = full
    text = path.read_text()
    page = Page(text)
    assert len(page.images) == 9
    assert all(image["alt"] for image in page.images)
    assert all(reference.startswith("data:image/png;base64,iVBOR") for reference in page.references)
    assert "http" not in text
    assert "url(" not in text
    assert "@import" not in text


def test_text_of_the_user_is_text(full):
    _, path = full
    page = Page(path.read_text())
    assert "smooth <fields> & more" in page.text
    assert "a <b>warning</b>" in page.text


def test_same_seed_same_numbers(full, no_pictures, tmp_path):
    _, path = full
    write(tmp_path / "again.html", **everything(np.random.default_rng(0)))
    assert (tmp_path / "again.json").read_bytes() == path.with_suffix(".json").read_bytes()


@pytest.mark.parametrize(
    ("names", "spoil"),
    [
        ({"marginal distributions"}, lambda x, rng: x + 2),
        ({"variance"}, lambda x, rng: 280 + 1.3 * (x - 280)),
        ({"correlation against distance", "power spectrum", "roughness"}, lambda x, rng: rng.permuted(x, axis=0)),
        ({"spurious long-range correlation"}, lambda x, rng: x + 3 * rng.normal(size=(len(x), 1, 1))),
    ],
)
def test_wrong_fields_fail(tmp_path, no_pictures, names, spoil):
    rng = np.random.default_rng(1)
    given = everything(rng)
    given["generated"] = spoil(given["generated"], rng)
    summary = write(tmp_path / "report.html", **given)
    for name in names:
        assert outcome(summary, name) == "fail"
        assert name in summary["verdict"]["sentence"]
    assert summary["verdict"]["status"] == "fail"


def test_copies_and_a_poor_log_density_and_too_few_samples_are_seen(tmp_path, no_pictures):
    rng = np.random.default_rng(2)
    given = everything(rng)
    copies = given["real"][rng.permutation(80)]
    given["generated"] = copies + 1e-3 * rng.normal(size=copies.shape)
    given["log_density"]["generated"] += 72  # one nat per dimension
    summary = write(tmp_path / "report.html", **given, conditioning_size=60)
    assert outcome(summary, "copies of the data") == "fail"
    assert outcome(summary, "log-density of held-out data") == "fail"
    assert outcome(summary, "samples per local law") == "warn"


def test_what_is_not_given_is_said_and_never_passed(tmp_path, no_pictures):
    rng = np.random.default_rng(3)
    x = fields(rng, 60, (30,))
    keep = np.arange(30) != 7
    summary = write(
        tmp_path / "report.html",
        title="bare",
        real=x[:30, keep],
        generated=x[30:, keep],
        graph=DependencyGraph.chain(30).subgraph(keep),
    )
    for name in ("power spectrum", "samples per local law", "log-density of held-out data"):
        assert name not in {c["name"] for c in summary["checks"]}
    text = " ".join("".join(Page((tmp_path / "report.html").read_text()).text).split())
    assert "not said whether the model was fitted on these data" in text
    assert "Source, licence and version were not given." in text
    assert "The radius and how it was chosen were not given." in text
    assert "1 cells of the lattice" in text
    assert "Log-densities were not given." in text
    assert "No spectrum: the vertices do not fill a lattice." in text
    unseen = write(
        tmp_path / "report.html",
        title="unseen",
        real=x[:30],
        generated=x[30:],
        graph=DependencyGraph.chain(30),
        fitted_on=False,
        radius=2,
    )
    assert not {c["name"] for c in unseen["checks"]} & {"copies of the data", "samples per local law"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["3-D", "points", "edges", "no edges", "one vertex", "constant"])
def test_every_kind_of_graph_has_a_page(tmp_path, no_pictures, kind):
    rng = np.random.default_rng(4)
    points = rng.uniform([30, -10], [60, 30], size=(24, 2))
    graph = {
        "3-D": DependencyGraph.grid((2, 3, 4)),
        "points": DependencyGraph.knn(points, 4, "haversine"),
        "edges": DependencyGraph.from_edges(24, [(i, i + 1) for i in range(0, 22, 2)]),
        "no edges": DependencyGraph.from_edges(24, np.empty((0, 2), dtype=int)),
        "one vertex": DependencyGraph.chain(1),
        "constant": DependencyGraph.chain(24),
    }[kind]
    x, y = rng.normal(size=(2, 12, len(graph), 2)) * (kind != "constant")
    summary = write(tmp_path / "report.html", title=kind, real=x, generated=y, graph=graph)
    assert json.loads((tmp_path / "report.json").read_text()) == summary
    page = tmp_path / "report.html"
    assert len(Page(page.read_text()).images) >= 8
    assert len(summary["channels"]) == 2
    assert {c["name"].split(":")[0] for c in summary["checks"]} >= {"channel 0", "channel 1"}
    assert "2 channels: channel 0; channel 1." in " ".join("".join(Page(page.read_text()).text).split())


def test_failure_leaves_nothing_behind(tmp_path, no_pictures, monkeypatch):
    given = everything(np.random.default_rng(5))
    (tmp_path / "report.html").write_text("old page")

    def full_disk(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match=r"could not write .*json: No space left on device; free space") as caught:
        write(tmp_path / "report.html", **given)
    assert caught.value.errno == errno.ENOSPC
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "old page"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"path": "none/report.html"}, FileNotFoundError, "existing folder"),
        ({"path": "report.json"}, ValueError, "path must end in .html"),
        ({"generated": np.full((3, 72, 1), np.nan)}, ValueError, "generated must be finite, got 216"),
        ({"generated": np.zeros((3, 71, 1))}, ValueError, "generated must have shape .* 72 vertices"),
        ({"generated": np.zeros((3, 72, 2))}, ValueError, "the 1 channels of real, got 2"),
        ({"real": np.zeros((1, 72, 1))}, ValueError, "real must have at least 2 samples, got 1"),
        ({"generated": np.zeros((0, 72, 1))}, ValueError, "generated must have at least 2 samples, got 0"),
        ({"real": np.zeros((72, 1))}, ValueError, r"real must have shape .samples, 72 .* got \(72, 1\)"),
        ({"units": ["K", "m"]}, ValueError, "units must name each of the 1 channels, got 2"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_refused_before_anything_is_written(tmp_path, change, error, message):
    given = {"path": "report.html"} | everything(np.random.default_rng(6)) | change
    given["path"] = tmp_path / given["path"]
    with pytest.raises(error, match=message):
        write(**given)
    assert not list(tmp_path.iterdir())


def test_a_directory_in_the_way_is_refused(tmp_path):
    (tmp_path / "report.json").mkdir()
    with pytest.raises(IsADirectoryError, match="choose another name"):
        write(tmp_path / "report.html", **everything(np.random.default_rng(7)))
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.parametrize("content", [b"\x08\0\0\0\0\0\0\0{}", b"\xff{", b"", b"[]", b'{"schema": 1}'])
def test_only_numbers_of_a_report_are_replaced(tmp_path, no_pictures, content):
    given = everything(np.random.default_rng(8))
    numbers = tmp_path / "report.json"
    numbers.write_bytes(content)
    with pytest.raises(FileExistsError, match=r"report.html', whose .* '.*report.json', which is no report; choose"):
        write(tmp_path / "report.html", **given)
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]
    assert numbers.read_bytes() == content
    numbers.unlink()
    write(tmp_path / "report.html", **given)
    again = write(tmp_path / "report.html", **(given | {"title": "again"}))
    assert json.loads(numbers.read_text())["title"] == again["title"] == "again"


@pytest.mark.parametrize("fitted_on", [True, False, None])
def test_training_moments_stand_beside_held_out_data_only(tmp_path, no_pictures, fitted_on):
    x, graph = fields(np.random.default_rng(9), 90, (12,)), DependencyGraph.chain(12)
    trained = TrainingMoments.of(Samples(x[:30], graph))
    summary = write(
        tmp_path / "report.html",
        title="held out",
        real=x[30:60],
        generated=x[60:],
        graph=graph,
        trained=trained,
        fitted_on=fitted_on,
        conditioning_size=5,
    )
    rows = summary["channels"][0]["moments"]
    assert [row["training"] is None for row in rows] == [fitted_on is not False] * len(rows)
    count = next(c for c in summary["checks"] if c["name"] == "samples per local law")
    assert count["value"] == 30 / 5
    assert ("copies of the data" in {c["name"] for c in summary["checks"]}) == (fitted_on is not False)


def test_labels_are_numbered_where_none_are_given_and_arrays_become_double():
    x = np.random.default_rng(0).normal(size=(2, 27, 4, 2)).astype(np.float32)
    compared = Comparison("two", x[0], x[1], DependencyGraph.chain(4), ordered=True)
    assert (compared.channels, compared.units, compared.block) == (("channel 0", "channel 1"), ("", ""), 3)
    assert compared.real.dtype == compared.generated.dtype == np.float64
