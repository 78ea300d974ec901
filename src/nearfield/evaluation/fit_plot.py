"""Pictures of a fit: the choice of the locality, the training of the network, its gain at each noise level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfield.evaluation.canvas import ACCENT, DATA, GENERATED, single_axes

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from matplotlib.axes import Axes

    from nearfield.fitting.levels import LevelChoice
    from nearfield.fitting.pooling import Pooling
    from nearfield.fitting.selection import Candidate, SelectionReport
    from nearfield.fitting.training import TrainingReport

__all__ = ["levels", "selection", "training"]


def selection(report: SelectionReport, ax: Axes | None = None) -> Axes:
    """Held-out loss against the radius at the chosen pooling: the lowest and the chosen candidate marked.

    Bars are standard errors of the difference to the lowest loss, on which the choice rests; the band is the
    standard error of the loss itself, most of which is common to all candidates. Losses in nats per dimension.
    """
    ax = single_axes(ax, 5.8, 5.0)
    radius = np.array([c.radius for c in report.curve])
    loss, error, paired = (
        np.array([getattr(c, name) for c in report.curve]) for name in ("loss", "error", "difference_error")
    )
    ax.fill_between(radius, loss - error, loss + error, color=DATA, alpha=0.15, lw=0, label="± standard error of loss")
    ax.errorbar(
        radius, loss, paired, color=DATA, marker="o", ms=4, lw=1.2, capsize=3, label="± standard error of difference"
    )
    best, chosen = report.table[report.best], report.table[report.chosen]
    style: dict[str, Any] = {"ls": "", "zorder": 5, "mew": 2}
    ax.plot(best.radius, best.loss, "s", ms=11, mfc="none", mec=GENERATED, label=f"lowest: {_describe(best)}", **style)
    ax.plot(
        chosen.radius, chosen.loss, "D", ms=6, mfc=ACCENT, mec=ACCENT, label=f"chosen: {_describe(chosen)}", **style
    )
    _end_above_minimum(ax, radius, loss)
    kind = "contiguous " if report.ordered else ""
    ax.set(
        xlabel="radius, hops",
        ylabel=f"held-out loss, nats per dimension\n({report.folds} {kind}folds)",
        xticks=np.unique(radius),
    )
    # Below the axes: a curve with a minimum leaves no corner free for certain.
    ax.legend(frameon=False, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.16))
    return ax


def training(report: TrainingReport, ax: Axes | None = None) -> Axes:
    """Held-out loss of the averaged weights against the steps taken, with the weights that were kept."""
    ax = single_axes(ax)
    step, loss, error = np.array(report.checks).T
    ax.fill_between(step, loss - error, loss + error, color=DATA, alpha=0.15, lw=0, label="± standard error")
    ax.plot(step, loss, color=DATA, marker="o", ms=3, lw=1.2)
    ax.plot(report.best.step, report.best.loss, "D", ms=6, color=ACCENT, label=f"kept: {report.best.loss:.4f}")
    ax.set(xlabel="steps", ylabel="held-out denoising loss")
    ax.legend(frameon=False, fontsize="small")
    return ax


def levels(choice: Sequence[LevelChoice], ax: Axes | None = None) -> Axes:
    """Gain of the network over the Gaussian field at each noise level, in percent of that field's held-out loss."""
    ax = single_axes(ax)
    for selected, color, label in ((True, GENERATED, "network"), (False, DATA, "Gaussian field")):
        part = [level for level in choice if level.selected is selected]
        if part:
            sigma, gaussian, hybrid, error = np.array([level[:4] for level in part]).T
            gain = 100 * (gaussian - hybrid) / gaussian
            ax.errorbar(sigma, gain, 100 * error / gaussian, ls="", marker="o", capsize=3, color=color, label=label)
    ax.axhline(0, color="0.6", lw=0.8)
    ax.set(xscale="log", xlabel="noise over signal", ylabel="less held-out loss with\nthe network, percent")
    ax.legend(frameon=False, fontsize="small")
    return ax


def _end_above_minimum(ax: Axes, radius: Int[np.ndarray, " r"], loss: Float[np.ndarray, " r"]) -> None:
    """End the vertical axis below losses that would flatten the rest of the curve, and write those at the top."""
    near = np.sort(loss)[: max(3, (len(loss) + 1) // 2)]
    span = near[-1] - near[0]
    top = near[-1] + span
    if not loss.max() > top + 2 * span:
        return
    ax.set_ylim(near[0] - 0.4 * span, top)
    for k, (r, value) in enumerate(zip(radius[loss > top], loss[loss > top], strict=True)):
        # Every other one lower, so that they stay apart in a narrow picture.
        ax.annotate(
            f"↑ {value:.3g}", (r, top), (4, -2 - 11 * (k % 2)), textcoords="offset points", va="top", fontsize="small"
        )


def _describe(candidate: Candidate) -> str:
    """Name a candidate in a legend."""
    own = "" if candidate.location is None else f", location {_pooled(candidate.location)}"
    return f"radius {candidate.radius}, pooling {_pooled(candidate.pooling)}{own}"


def _pooled(pooling: Pooling) -> str:
    where = "all vertices" if np.isinf(pooling.bandwidth) else f"bandwidth {pooling.bandwidth:g}"
    return f"{pooling.strength:g}" + (f", {where}" if pooling.strength else "")
