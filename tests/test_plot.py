"""What the pictures show is what they were given: data on the axes, common scales, units, gaps for land."""

from __future__ import annotations

import io

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from nearfield.evaluation import fit_plot, plot
from nearfield.evaluation.metric import autocorrelation, radial_spectrum
from nearfield.evaluation.view import ColourScale, View
from nearfield.fitting.selection import Candidate, SelectionReport
from nearfield.graph import DependencyGraph


def report_of(losses, chosen):
    low = min(losses)
    curve = tuple(Candidate(r, 0.5, np.inf, loss, 0.02, loss - low, 0.01, 1.0) for r, loss in enumerate(losses))
    return SelectionReport(curve, chosen, losses.index(low), curve, None, 5, True, "because")


def saved(ax):
    """Render, so that errors which matplotlib leaves to drawing show up."""
    buffer = io.BytesIO()
    ax.get_figure().savefig(buffer, format="png")
    return buffer.getvalue()


def mesh(ax):
    return ax.collections[0].get_array()


def test_map_puts_each_vertex_at_its_place_and_leaves_land_empty():
    keep = np.ones((3, 4), bool)
    keep[1, 2] = False
    graph = DependencyGraph.latlon([60.0, 50.0, 40.0], [350.0, 0.0, 10.0, 20.0]).subgraph(keep)
    values = np.arange(11.0)
    ax = plot.fields({"one": values}, graph, label="sst, K")[0]
    drawn = mesh(ax).reshape(3, 4)
    assert np.array_equal(~np.ma.getmaskarray(drawn), keep)
    assert np.array_equal(drawn[keep].data, values)
    assert ax.get_xlabel() == "longitude, degrees east"
    assert ax.get_ylabel() == "latitude, degrees north"
    corners = ax.collections[0].get_coordinates()
    assert corners[0, 0].tolist() == [345.0, 65.0]  # half a cell beyond the first longitude and latitude
    assert corners[-1, -1].tolist() == [385.0, 35.0]  # the longitudes go on past 360
    x, y = View.of(graph).positions()
    np.testing.assert_allclose(y, graph.coordinates[:, 0])
    np.testing.assert_allclose(x % 360, graph.coordinates[:, 1])
    saved(ax)


def test_panels_share_one_symmetric_scale():
    a, b = np.array([-1.0, 0.5, 0.0, 0.2]), np.array([3.0, -0.9, 0.1, 0.0])
    axes = plot.fields({"a": a, "b": b}, DependencyGraph.grid((2, 2)), label="anomaly, K")
    limits = [ax.collections[0].get_clim() for ax in axes]
    high = np.quantile([*a, *b], 0.998)
    assert limits == [(-high, high)] * 2
    bars = [ax for ax in axes[0].get_figure().axes if ax.get_label() == "<colorbar>"]
    assert [bar.get_ylabel() for bar in bars] == ["anomaly, K"]


def test_scale_of_one_sign_is_sequential():
    assert ColourScale.of(np.array([0.0, np.nan, 2.0])) == ColourScale(0.0, 2.0, "cividis")
    assert ColourScale.of(np.array([-0.1, 2.0])).cmap == "cividis"
    assert ColourScale.of(np.full(3, 5.0)).high > 5.0


def test_chains_are_lines_on_one_vertical_scale():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 20))
    axes = plot.fields({"a": x[0], "b": x[1]}, DependencyGraph.chain(20), label="level, m", dims=("time, h",))
    for ax, values in zip(axes, x, strict=True):
        assert np.array_equal(ax.lines[0].get_ydata(), values)
        assert ax.get_xlabel() == "time, h"
    assert axes[0].get_ylim() == axes[1].get_ylim()
    assert axes[0].get_ylabel() == "level, m"


def test_three_dimensions_show_the_middle_slice_and_say_so():
    values = np.arange(3 * 4 * 5.0)
    ax = plot.fields({"a": values}, DependencyGraph.grid((3, 4, 5)), label="p, Pa", dims=("z", "y", "x"))[0]
    assert np.array_equal(mesh(ax).ravel(), values.reshape(3, 4, 5)[1].ravel())
    assert "slice 1 of 3 along z" in ax.get_figure().axes[-1].get_ylabel()
    x, y = View.of(DependencyGraph.grid((3, 4, 5))).positions()
    assert np.flatnonzero(np.isfinite(x) & np.isfinite(y)).tolist() == list(range(20, 40))


def test_stations_are_dots_at_longitude_and_latitude():
    points = np.random.default_rng(1).uniform([30, -10], [60, 30], size=(40, 2))
    ax = plot.fields({"a": points[:, 0]}, DependencyGraph.knn(points, 4, "haversine"), label="T, K")[0]
    assert np.array_equal(ax.collections[0].get_offsets(), points[:, ::-1])
    assert np.array_equal(mesh(ax), points[:, 0])


def test_graph_without_places_shows_values_in_order_without_a_line():
    ax = plot.fields({"a": np.arange(5.0)}, DependencyGraph.from_edges(5, [(0, 1), (1, 2), (3, 4)]))[0]
    assert ax.lines[0].get_linestyle() == "None"
    assert ax.get_xlabel() == "vertex"


def test_histograms_are_densities_on_common_bins():
    rng = np.random.default_rng(2)
    ax = plot.marginal({"data": rng.normal(size=5000), "generated": rng.normal(size=700)}, label="T, K")
    stairs = [patch.get_data() for patch in ax.patches]
    assert np.array_equal(stairs[0].edges, stairs[1].edges)
    for counts, edges, _ in stairs:
        assert (counts * np.diff(edges)).sum() == pytest.approx(1, abs=0.01)
    assert ax.get_xlabel() == "T, K"


def test_quantiles_of_a_shift_lie_that_much_above_the_diagonal():
    x = np.random.default_rng(3).normal(size=4000)
    ax = plot.quantiles(x, x + 0.5, label="T, K")
    shown = ax.lines[1]
    np.testing.assert_allclose(shown.get_ydata() - shown.get_xdata(), 0.5, rtol=1e-12)
    assert shown.get_xdata()[0] == pytest.approx(np.quantile(x, 0.0005), rel=1e-3)


def test_curves_and_bands_are_the_given_ones():
    curve = autocorrelation(np.random.default_rng(4).normal(size=(30, 9, 2)), 5)
    ax = plot.correlation({"data": curve, "generated": curve}, channel=1)
    lines = [line for line in ax.lines if line.get_label() in ("data", "generated")]
    assert len(lines) == 2
    assert np.array_equal(lines[0].get_ydata(), curve.value[:, 1])
    band = ax.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == curve.low[:, 1].min()
    assert band[:, 1].max() == curve.high[:, 1].max()
    assert {line.get_linestyle() for line in lines} == {"-", "--"}  # told apart without colour


def test_spectrum_is_logarithmic_without_the_mean():
    curve = radial_spectrum(np.random.default_rng(5).normal(size=(30, 64, 1)), DependencyGraph.torus((8, 8)).lattice)
    ax = plot.spectrum({"data": curve}, unit="K")
    assert np.array_equal(ax.lines[0].get_xdata(), curve.axis[1:])
    assert (ax.get_xscale(), ax.get_yscale(), ax.get_ylabel()) == ("log", "log", "power per mode, K²")
    saved(ax)


def test_selection_marks_the_lowest_and_the_chosen_and_keeps_the_minimum_visible():
    losses = [1.3, -0.4, -0.62, -0.63, -0.61, -0.55]
    ax = fit_plot.selection(report_of(losses, chosen=2))
    marks = {line.get_label().split(":")[0]: line for line in ax.lines}
    assert (marks["lowest"].get_xdata()[0], marks["lowest"].get_ydata()[0]) == (3, -0.63)
    assert (marks["chosen"].get_xdata()[0], marks["chosen"].get_ydata()[0]) == (2, -0.62)
    assert ax.get_ylim()[1] < 0  # the loss at radius 0 does not flatten the rest
    assert "↑ 1.3" in [text.get_text() for text in ax.texts]
    assert "nats per dimension" in ax.get_ylabel()
    assert "5 contiguous folds" in ax.get_ylabel()
    gentle = fit_plot.selection(report_of([0.3, 0.2, 0.1, 0.15], chosen=2))
    assert not gentle.texts
    assert gentle.get_ylim()[1] > 0.3


def test_completion_marks_the_stations_on_every_panel():
    graph = DependencyGraph.latlon([40.0, 50.0], [0.0, 10.0, 20.0])
    observed = np.array([True, False, False, False, True, False])
    truth = np.arange(6.0)
    axes = plot.completion(truth, 0.9 * truth, 0.1 * truth, observed, graph, label="T, K")
    for ax in axes:
        assert ax.lines[0].get_xdata().tolist() == [0.0, 10.0]
        assert ax.lines[0].get_ydata().tolist() == [40.0, 50.0]
    assert axes[0].collections[0].get_clim() == axes[1].collections[0].get_clim()
    assert axes[2].collections[0].get_clim() == (0.0, 0.5)
    assert axes[0].collections[0].get_clim()[1] == pytest.approx(5, rel=0.01)
    saved(axes[0])


def test_axes_given_are_the_ones_drawn_on_and_nothing_global_changes():
    before = dict(matplotlib.rcParams)
    ax = Figure().subplots()
    assert plot.marginal({"data": np.arange(9.0)}, ax) is ax
    grid = Figure().subplots(1, 2)
    axes = plot.fields({"a": np.zeros(4), "b": np.ones(4)}, DependencyGraph.grid((2, 2)), list(grid))
    assert axes == list(grid)
    assert dict(matplotlib.rcParams) == before
