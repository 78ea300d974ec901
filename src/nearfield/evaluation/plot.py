"""Pictures of fields, and of the statistics that compare generated fields with real ones.

Every function draws on the axes it is given, or on a new figure, and returns the axes; `axes.figure.savefig(path)`
writes it. No pyplot, so nothing global is touched and no display is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy.special import ndtr

from nearfield.evaluation.canvas import COLOURS, DATA, GENERATED, LINES, new_axes, single_axes, wrapped
from nearfield.evaluation.view import ColourScale, View

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from matplotlib.axes import Axes

    from nearfield.evaluation.curve import Curve
    from nearfield.graph import DependencyGraph

__all__ = ["common_scale", "completion", "correlation", "fields", "marginal", "modes", "quantiles", "ranks", "spectrum"]


def fields(
    panels: Mapping[str, Float[np.ndarray, " vertex"]],
    graph: DependencyGraph,
    axes: Sequence[Axes] | None = None,
    *,
    label: str = "",
    dims: Sequence[str] | None = None,
    scale: ColourScale | None = None,
    columns: int = 4,
    bar: Literal["right", "bottom"] = "right",
) -> list[Axes]:
    """Fields side by side on one colour scale, or as lines on one vertical scale where the graph is one-dimensional.

    Examples
    --------
    >>> from nearfield.graph import DependencyGraph
    >>> axes = fields({"one": np.arange(6.0), "two": np.ones(6)}, DependencyGraph.grid((2, 3)), label="height, m")
    >>> [ax.get_title() for ax in axes]
    ['one', 'two']
    """
    view = View.of(graph, dims)
    if scale is None:
        scale = common_scale(np.stack(list(panels.values())), graph)
    if axes is None:
        columns = min(columns, len(panels))
        rows = -(-len(panels) // columns)
        axes = new_axes(rows, columns, max(2.6 * columns, 4.5), (0.5 + 2.15 * view.aspect) * rows + 0.3)
    mappable = None
    for i, (ax, (title, values)) in enumerate(zip(axes, panels.items(), strict=False)):
        mappable = view.draw(ax, values, scale)
        ax.set_title(title, fontsize="medium")
        _label_outer(ax, view, label, bottom=i + columns >= len(panels))
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    if mappable is not None:
        text = wrapped(label) + (f"\n{view.note}" if view.note else "")
        beyond = min(map(np.min, panels.values())) < scale.low, max(map(np.max, panels.values())) > scale.high
        extend = {(True, True): "both", (True, False): "min", (False, True): "max"}.get(beyond, "neither")
        axes[0].figure.colorbar(mappable, ax=list(axes), label=text, shrink=0.8, pad=0.02, location=bar, extend=extend)
    return list(axes)[: len(panels)]


def _label_outer(ax: Axes, view: View, label: str, *, bottom: bool) -> None:
    """Name the axes of a picture where no other picture stands below it or to its left."""
    outer = ax.get_subplotspec()
    if view.is_map or bottom or outer is None or outer.is_last_row():
        ax.set_xlabel(view.x_label if outer is None or outer.is_last_row() else "")
    first = outer is None or outer.is_first_col()
    if first:
        ax.set_ylabel(view.y_label if view.is_map else wrapped(label, 22))
    ax.tick_params(labelleft=first, labelsize="small")


def common_scale(values: Float[np.ndarray, "panel vertex"], graph: DependencyGraph) -> ColourScale:
    """Scale for all of these fields; for maps it leaves out the outermost 0.4 % of their values.

    Examples
    --------
    >>> from nearfield.graph import DependencyGraph
    >>> common_scale(np.array([[0.0, 2.0]]), DependencyGraph.chain(2)).high
    2.0
    """
    return ColourScale.of(values, tail=0.002 if View.of(graph).is_map else 0.0)


def marginal(
    samples: Mapping[str, Float[np.ndarray, "..."]], ax: Axes | None = None, *, label: str = "", bins: int = 60
) -> Axes:
    """Histograms on common bins, as densities: the first filled, the others as lines.

    Examples
    --------
    >>> ax = marginal({"data": np.arange(9.0), "generated": np.arange(9.0) + 1}, label="height, m")
    >>> ax.get_xlabel()
    'height, m'
    """
    ax = single_axes(ax)
    ends = [np.quantile(values, [0.0005, 0.9995]) for values in samples.values()]
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    edges = np.linspace(low, high if high > low else low + 1, bins + 1)
    for i, (name, values) in enumerate(samples.items()):
        # Relative to all values, not to those inside the edges, so that curves with different tails stay comparable.
        density = np.histogram(values, edges)[0] / (np.size(values) * np.diff(edges))
        style: dict[str, Any] = {"fill": True, "alpha": 0.3} if i == 0 else {"lw": 1.6, "ls": LINES[i - 1]}
        ax.stairs(density, edges, label=name, color=COLOURS[i % 4], **style)
    ax.set(xlabel=wrapped(label) or "value", ylabel="probability density, per unit of value", ylim=(0, None))
    ax.legend(frameon=False)
    return ax


def quantiles(
    real: Float[np.ndarray, "..."], generated: Float[np.ndarray, "..."], ax: Axes | None = None, *, label: str = ""
) -> Axes:
    """Quantiles of the generated values against the same quantiles of the data; equal laws lie on the diagonal.

    From .0005 to .9995, evenly spaced in a normal score so that the tails show.

    Examples
    --------
    >>> ax = quantiles(np.arange(99.0), np.arange(99.0), label="height, m")
    >>> ax.get_ylabel()
    'generated height, m'
    """
    ax = single_axes(ax, 4.2, 3.8)
    probability = ndtr(np.linspace(-3.29, 3.29, 61))
    x, y = np.quantile(real, probability), np.quantile(generated, probability)
    ends = [min(x[0], y[0]), max(x[-1], y[-1])]
    ax.plot(ends, ends, color=DATA, lw=1, label="equal laws")
    ax.plot(x, y, ".", color=GENERATED, ms=6, label="quantiles, .0005 to .9995")
    ax.set(xlabel=wrapped(f"data {label}"), ylabel=wrapped(f"generated {label}"), aspect="equal")
    ax.legend(frameon=False, loc="upper left", fontsize="small")
    return ax


def ranks(shares: Sequence[float], ax: Axes | None = None) -> Axes:
    """Histogram of the ranks of values in their laws; right laws have a flat one.

    Examples
    --------
    >>> ranks([0.5, 0.5]).get_ylabel()
    'share of the values'
    """
    ax = single_axes(ax)
    ax.stairs(shares, np.linspace(0, 1, len(shares) + 1), fill=True, alpha=0.6, color=GENERATED)
    ax.axhline(1 / len(shares), color=DATA, lw=1)
    ax.set(xlabel="share of the law below the value", ylabel="share of the values", xlim=(0, 1))
    return ax


def correlation(curves: Mapping[str, Curve], ax: Axes | None = None, *, channel: int = 0) -> Axes:
    """Correlation against distance or lag, with 95 % bands.

    Examples
    --------
    >>> from nearfield.evaluation.metric import autocorrelation
    >>> x = np.random.default_rng(0).normal(size=(20, 9, 1))
    >>> correlation({"data": autocorrelation(x, 3)}).get_xlabel()
    'lag, steps'
    """
    ax = single_axes(ax)
    ax.axhline(0, color="black", lw=0.6)
    _bands(curves, ax, channel)
    ax.set(ylabel="mean correlation of two vertices")
    ax.legend(frameon=False, title="line, and 95 % band over samples", title_fontsize="small")
    return ax


def spectrum(curves: Mapping[str, Curve], ax: Axes | None = None, *, channel: int = 0, unit: str = "") -> Axes:
    """Power against wavenumber, both logarithmic, with 95 % bands; the mean of the field (wavenumber 0) is left out.

    Examples
    --------
    >>> from nearfield.evaluation.metric import radial_spectrum
    >>> from nearfield.graph import DependencyGraph
    >>> x = np.random.default_rng(0).normal(size=(20, 64, 1))
    >>> spectrum({"data": radial_spectrum(x, DependencyGraph.torus((8, 8)).lattice)}, unit="K").get_ylabel()
    'power per mode, K²'
    """
    from matplotlib.ticker import NullFormatter

    ax = single_axes(ax)
    _bands(curves, ax, channel, positive=True)
    ax.set(xscale="log", yscale="log")
    # Labels at 1, 2, 5: the minor labels of matplotlib overlap on an axis of about one decade.
    ticks = np.array([digit * 10.0**power for power in range(-6, 1) for digit in (1, 2, 5)])
    low, high = ax.get_xlim()
    ticks = ticks[(ticks >= low) & (ticks <= high)]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set(ylabel=f"power per mode, {unit}²" if unit else "power per mode")
    ax.legend(frameon=False, title="line, and 95 % band over samples", title_fontsize="small")
    return ax


def modes(
    variances: Mapping[str, tuple[Float[np.ndarray, " mode"], Float[np.ndarray, " mode"]]], ax: Axes | None = None
) -> Axes:
    """Variance along each leading mode and its standard error, as `Yardstick.mode_variances` finds them.

    Examples
    --------
    >>> modes({"data": (np.ones(5), 0.1 * np.ones(5))}).get_xlabel()
    'leading mode of the training data'
    """
    from matplotlib.ticker import MultipleLocator

    ax = single_axes(ax)
    for i, (name, (value, error)) in enumerate(variances.items()):
        at = np.arange(1, len(value) + 1) + 0.18 * (i - (len(variances) - 1) / 2)
        ax.errorbar(at, value, 1.96 * error, ls="", marker="osD^"[i % 4], ms=5, color=COLOURS[i % 4], label=name)
    ax.set(xlabel="leading mode of the training data", ylabel="variance along the mode", ylim=(0, None))
    ax.xaxis.set_major_locator(MultipleLocator(1))
    style: dict[str, Any] = {"ncols": 3, "fontsize": "small", "columnspacing": 1, "handletextpad": 0.2}
    ax.legend(frameon=False, loc="lower center", title="dot, and 95 % interval", title_fontsize="small", **style)
    return ax


def _bands(curves: Mapping[str, Curve], ax: Axes, channel: int, *, positive: bool = False) -> None:
    """One line and band per curve; `positive` leaves out points off a logarithmic axis."""
    for i, (name, curve) in enumerate(curves.items()):
        drawn = (curve.axis > 0) & (curve.value[:, channel] > 0) if positive else slice(None)
        x, value, low, high = (
            a[drawn] for a in (curve.axis, curve.value[:, channel], curve.low[:, channel], curve.high[:, channel])
        )
        colour = COLOURS[i % 4]
        # The band of a power cannot reach zero on a logarithmic axis: cut a decade below the line.
        ax.fill_between(x, np.maximum(low, value / 10) if positive else low, high, color=colour, alpha=0.2, lw=0)
        ax.plot(x, value, color=colour, ls=LINES[i % 4], lw=1.6, label=name)
        ax.set_xlabel(curve.label)


def completion(
    truth: Float[np.ndarray, " vertex"] | None,
    mean: Float[np.ndarray, " vertex"],
    std: Float[np.ndarray, " vertex"],
    observed: Bool[np.ndarray, " vertex"],
    graph: DependencyGraph,
    axes: Sequence[Axes] | None = None,
    *,
    label: str = "",
    dims: Sequence[str] | None = None,
) -> list[Axes]:
    """Truth, completed mean and its standard deviation, with the observed vertices (stations) marked.

    Truth and mean share one scale; the std has its own, from zero. Without a truth, the latter two.

    Examples
    --------
    >>> from nearfield.graph import DependencyGraph
    >>> x = np.arange(6.0)
    >>> axes = completion(x, x, 0.1 * x, x < 2, DependencyGraph.grid((2, 3)), label="height, m")
    >>> [ax.get_title() for ax in axes]
    ['truth, ○ 2 observed', 'completed: mean', 'standard deviation']
    """
    panels = {"completed: mean": mean} if truth is None else {"truth": truth, "completed: mean": mean}
    view = View.of(graph, dims)
    marked = f"○ {int(observed.sum())} observed"
    panels = {f"{title}, {marked}" if k == 0 else title: values for k, (title, values) in enumerate(panels.items())}
    if axes is None:
        axes = new_axes(1, len(panels) + 1, 3.6 * (len(panels) + 1), 1.9 + 3.0 * view.aspect)
    fields(panels, graph, axes[:-1], label=label, dims=dims, bar="bottom")
    spread = ColourScale(0.0, float(np.max(std)) or 1.0, "cividis")
    told = ", ".join(["standard deviation", *label.split(", ")[1:]])  # in the same units
    fields({"standard deviation": std}, graph, axes[-1:], label=told, dims=dims, scale=spread, bar="bottom")
    x, y = view.positions()
    for ax, values in zip(axes, (*panels.values(), std), strict=True):
        height = values if y is None else y
        ax.plot(x[observed], height[observed], "o", ms=5, mfc="white", mec="black", mew=1, clip_on=False)
    return list(axes)
