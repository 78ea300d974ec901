r"""Figure 1 of arXiv 2505.04417: the score of a localized Gaussian stays approximately local at every noise level.

The law is :math:`N(0, P^{-1})` with a random banded precision, whose graph has the distance
:math:`\lceil |i-j|/r_0 \rceil` for bandwidth :math:`r_0`. With noise the precision is
:math:`P_t = (a^2 P^{-1} + s^2 I)^{-1}`, a full matrix. Shown is how fast its entries decay away from the diagonal, and
the effective radius (4.1) against time for several sizes, bandwidths and condition numbers. The paper's snapshot is at
t = 0.1039; here each matrix is shown in the middle of the times at which its own radius is largest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, final

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from nearfield.process import Schedule
from nearfield.reproduction.experiment import Claim, Experiment, Ours, Result, Workers, main
from nearfield.theory.bound import score_decay_bound
from nearfield.theory.concavity import concavity
from nearfield.theory.gaussian import diffused_precision
from nearfield.theory.locality import effective_radius, mean_by_distance

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from matplotlib.axes import Axes

__all__ = ["EXPERIMENT", "Settings"]

ROUNDING = 1e-11
"""Entries below this fraction of the largest are rounding, and are not held against the bound."""


@final
@dataclass(frozen=True)
class Settings:
    """Constants of figure 1. The paper gives the law, (4.1) and what is varied; the values could not be read off it.

    Parameters
    ----------
    eps : float
        Threshold of (4.1).
    sizes, bandwidths, conditions : tuple
        Values of d, of r_0 and of the condition number, varied one at a time.
    size, bandwidth, condition : int, int, float
        What the other two are held at.
    matrices : int
        Random matrices for each combination.
    beta : (float, float)
        Of the linear schedule whose times are looked at.
    looks : int
        How many of its 1000 times, at most, spread evenly over their number's logarithm.
    seed : int
        Of the matrices.
    """

    eps: Ours[float] = 1e-3
    sizes: Ours[tuple[int, ...]] = (50, 100, 150, 200)
    bandwidths: Ours[tuple[int, ...]] = (1, 2, 4, 6)
    conditions: Ours[tuple[float, ...]] = (5.0, 10.0, 20.0, 50.0)
    size: Ours[int] = 100
    bandwidth: Ours[int] = 3
    condition: Ours[float] = 20.0
    matrices: Ours[int] = 20
    beta: Ours[tuple[float, float]] = (1e-4, 0.02)
    looks: Ours[int] = 200
    seed: Ours[int] = 1

    def times(self) -> Float[np.ndarray, " time"]:
        """OU times looked at, from the data to the noise, 0 left out."""
        schedule = Schedule.ddpm(beta=self.beta)
        steps = np.unique(np.geomspace(1, schedule.steps, self.looks).round().astype(int))
        times: np.ndarray = np.array(schedule.times)[schedule.steps - steps]
        return times

    def base(self) -> Case:
        """Return the combination that the sweeps start from."""
        return Case(self.size, self.bandwidth, self.condition)

    def sweeps(self) -> dict[str, list[Case]]:
        """Return the combinations of each of the three sweeps."""
        return {
            "d": [Case(d, self.bandwidth, self.condition) for d in self.sizes],
            "r_0": [Case(self.size, r, self.condition) for r in self.bandwidths],
            "kappa": [Case(self.size, self.bandwidth, kappa) for kappa in self.conditions],
        }

    def cases(self) -> list[Case]:
        """Return every combination once, the slow ones first."""
        return sorted({self.base(), *chain(*self.sweeps().values())}, reverse=True)


class Case(NamedTuple):
    """Size, bandwidth and condition number of a random precision."""

    size: int
    bandwidth: int
    condition: float


class Decay(NamedTuple):
    """What one matrix shows.

    ``radius`` (4.1) and ``ratio``, the largest entry over the bound (2.15), at each time; ``at`` is the number of the
    time in the middle of those with the largest radius, ``snapshot`` the magnitude of the entries then.
    """

    radius: Int[np.ndarray, " time"]
    ratio: Float[np.ndarray, " time"]
    at: int
    snapshot: Float[np.ndarray, "d d"]


def random_precision(case: Case, rng: np.random.Generator) -> Float[np.ndarray, "d d"]:
    r"""Draw a banded precision :math:`P = L L^\top`, shifted to its condition number and scaled to mean variance 1.

    L is lower triangular of the given bandwidth, standard normal below a diagonal of :math:`1 + |N(0, 1)|`. Shift and
    scale, our choices, keep the band.

    Examples
    --------
    >>> precision = random_precision(Case(30, 2, 10.0), np.random.default_rng(0))
    >>> round(float(np.linalg.cond(precision)), 6), int(np.count_nonzero(precision[0]))
    (10.0, 3)
    """
    d, bandwidth, condition = case
    root = np.tril(np.triu(rng.standard_normal((d, d)), -bandwidth), -1) + np.diag(1 + abs(rng.standard_normal(d)))
    precision = root @ root.T
    values = np.linalg.eigvalsh(precision)
    precision += (values[-1] - condition * values[0]) / (condition - 1) * np.eye(d)
    scaled: np.ndarray = precision * np.trace(np.linalg.inv(precision)) / d
    return scaled


def examine(settings: Settings, case: Case, number: int) -> Decay:
    """Follow one random precision through time."""
    rng = np.random.default_rng([settings.seed, case.size, case.bandwidth, int(case.condition), number])
    precision, times = random_precision(case, rng), settings.times()
    entries = np.abs(diffused_precision(precision, times))
    radius = effective_radius(entries, settings.eps)
    rows, columns = np.triu_indices(case.size, 1)
    off = entries[:, rows, columns]
    bound = score_decay_bound(*concavity(precision), times[:, None], -(-(columns - rows) // case.bandwidth))
    told = off > ROUNDING * entries.max(axis=(1, 2))[:, None]
    ratio = np.divide(off, bound, out=np.zeros_like(off), where=told).max(axis=1)
    widest = np.flatnonzero(radius == radius.max())
    at = int(widest[len(widest) // 2])
    return Decay(radius, ratio, at, entries[at].copy())  # not a view, which would keep all times


def straightness(x: Int[np.ndarray, " point"], y: Float[np.ndarray, " point"]) -> float:
    """Share of the variance of y that a straight line in x explains, R^2.

    Examples
    --------
    >>> round(straightness(np.arange(3), np.array([1.0, 3.0, 5.0])), 12)
    1.0
    """
    return float(np.corrcoef(x, y)[0, 1] ** 2)


def decay_line(decay: Decay) -> tuple[Int[np.ndarray, " gap"], Float[np.ndarray, " gap"]]:
    """Return the gaps at which the mean entry of the snapshot is more than rounding, and its logarithm to base 10."""
    means = mean_by_distance(decay.snapshot)
    gaps = np.flatnonzero(means > ROUNDING * means[0])[1:]
    return gaps, np.log10(means[gaps])


def conduct(settings: Settings, workers: Workers) -> Result:
    """Measure, claim and draw."""
    cases = settings.cases()
    items = [(settings, case, number) for case in cases for number in range(settings.matrices)]
    decays = workers.map(examine, items, "figure 1: matrices")
    found = {case: decays[i * settings.matrices : (i + 1) * settings.matrices] for i, case in enumerate(cases)}
    numbers = summary(settings, found)
    return Result(settings, numbers, claims(numbers, found), draw(settings, found))


def summary(settings: Settings, found: dict[Case, list[Decay]]) -> dict[str, Any]:
    """Return means over the matrices (the largest of the ratios to the bound) for each case of each sweep."""
    times = settings.times()
    numbers: dict[str, Any] = {"times": times}
    for name, sweep in settings.sweeps().items():
        numbers[name] = [
            case._asdict()
            | {
                "largest_radius": np.mean([decay.radius.max() for decay in found[case]]),
                "time_of_largest_radius": np.mean([times[decay.at] for decay in found[case]]),
                "radius": np.mean([decay.radius for decay in found[case]], axis=0),
                "straightness": [straightness(*decay_line(decay)) for decay in found[case]],
                "ratio_to_bound": np.max([decay.ratio for decay in found[case]], axis=0),
            }
            for case in sweep
        ]
    return numbers


def claims(numbers: dict[str, Any], found: dict[Case, list[Decay]]) -> tuple[Claim, ...]:
    """State what the paper says of its figure."""
    entries = [entry for name in ("d", "r_0", "kappa") for entry in numbers[name]]
    straight = min(min(entry["straightness"]) for entry in entries)
    one_hump = all(
        radius[0] == case.bandwidth < radius.max() and radius[-1] == 0 and _rises_then_falls(radius)
        for case, decays in found.items()
        for radius, *_ in decays
    )
    tops = {name: [entry["largest_radius"] for entry in numbers[name]] for name in ("d", "r_0", "kappa")}
    bandwidths = np.array([entry["bandwidth"] for entry in numbers["r_0"]])
    linear = straightness(bandwidths, np.array(tops["r_0"]))
    ratio = max(entry["ratio_to_bound"].max() for entry in entries)
    count = sum(map(len, found.values()))

    def listed(name: str, key: str) -> str:
        pairs = zip(numbers[name], tops[name], strict=True)
        return ", ".join(f"{top:.2f} at {entry[key]:g}" for entry, top in pairs)

    return (
        Claim(
            "The score's entries decay exponentially away from the diagonal: a straight line explains "
            f"{straight:.4f} of the variance of the log-mean off-diagonals, at least, over {count} matrices (more than "
            "0.99 asked).",
            straight > 0.99,
        ),
        Claim(
            "The effective radius (4.1) starts at r_0, rises to one maximum and falls to 0: "
            f"{'in every one' if one_hump else 'not in all'} of {count} matrices.",
            one_hump,
        ),
        Claim(
            f"Its maximum is nearly free of d: {listed('d', 'size')} (at most 1 hop between the largest and the "
            "smallest asked).",
            bool(max(tops["d"]) - min(tops["d"]) <= 1),
        ),
        Claim(
            f"Its maximum is nearly linear in r_0: {listed('r_0', 'bandwidth')}; a straight line explains {linear:.4f} "
            "of the variance (more than 0.99 asked).",
            linear > 0.99,
        ),
        Claim(
            f"Its maximum grows with the condition number: {listed('kappa', 'condition')}.",
            bool((np.diff(tops["kappa"]) > 0).all()),
        ),
        Claim(
            f"Theorem 2.1 holds at every entry and time: the largest |P_t| over the bound (2.15) is {ratio:.3f} (less "
            "than 1 asked).",
            bool(ratio < 1),
        ),
    )


def _rises_then_falls(radius: Int[np.ndarray, " time"]) -> bool:
    top = int(radius.argmax())
    return bool((np.diff(radius[: top + 1]) >= 0).all() and (np.diff(radius[top:]) <= 0).all())


def draw(settings: Settings, found: dict[Case, list[Decay]]) -> Figure:
    """Snapshot, decay, bound and the three sweeps."""
    figure = Figure(figsize=(12, 7.2), dpi=100, layout="constrained")
    axes = figure.subplots(2, 3)
    shown = found[settings.base()]
    _draw_snapshot(axes[0, 0], shown[0], settings.times()[shown[0].at])
    _draw_decay(axes[0, 1], settings, found)
    _draw_bound(axes[0, 2], settings, found)
    labels = {"d": "d = {0.size}", "r_0": "$r_0$ = {0.bandwidth}", "kappa": "κ = {0.condition:g}"}
    held = {
        "d": f"$r_0$ = {settings.bandwidth}, κ = {settings.condition:g}",
        "r_0": f"d = {settings.size}, κ = {settings.condition:g}",
        "kappa": f"d = {settings.size}, $r_0$ = {settings.bandwidth}",
    }
    for ax, (name, sweep) in zip(axes[1], settings.sweeps().items(), strict=True):
        for colour, case in zip(_shades(len(sweep)), sweep, strict=True):
            radius = np.array([decay.radius for decay in found[case]])
            mean, std = radius.mean(axis=0), radius.std(axis=0, ddof=1)
            ax.fill_between(settings.times(), mean - std, mean + std, color=colour, alpha=0.2, lw=0)
            ax.plot(settings.times(), mean, color=colour, lw=1.5, label=labels[name].format(case))
        _label_time(ax, settings)
        ax.set(ylabel="effective radius $r_{loc}$ (4.1)", title=held[name], ylim=(0, None))
        ax.legend(frameon=False, fontsize="small")
    figure.suptitle(
        "Figure 1: locality of the score of N(0, P⁻¹), P random and banded\n"
        f"lines and bands: mean and standard std over {settings.matrices} matrices; ε = {settings.eps:g}",
        fontsize="medium",
    )
    return figure


def _draw_snapshot(ax: Axes, decay: Decay, t: float) -> None:
    with np.errstate(divide="ignore"):
        image = ax.imshow(np.log10(decay.snapshot), cmap="viridis", vmin=np.log10(ROUNDING))
    ax.figure.colorbar(image, ax=ax, extend="min", fraction=0.046, pad=0.03)
    ax.set(
        xlabel="j",
        ylabel="i",
        title=f"$\\log_{{10}} |P_t(i, j)|$ of one matrix, t = {t:.2f}, $r_{{loc}}$ = {decay.radius.max()}",
    )


def _draw_decay(ax: Axes, settings: Settings, found: dict[Case, list[Decay]]) -> None:
    sweep = settings.sweeps()["r_0"]
    for colour, case in zip(_shades(len(sweep)), sweep, strict=True):
        decay = found[case][0]
        gaps, logs = decay_line(decay)
        slope, level = np.polyfit(gaps, logs, 1)
        ax.plot(gaps, 10**logs, ".", color=colour, ms=4, label=f"$r_0$ = {case.bandwidth}")
        ax.plot(gaps, 10 ** (level + slope * gaps), color=colour, lw=1)
    ax.set(
        yscale="log",
        xlabel="gap |i − j|",
        ylabel="mean $|P_t(i, j)|$",
        title="off-diagonals then, and fitted exponentials",
    )
    ax.legend(frameon=False, fontsize="small")


def _draw_bound(ax: Axes, settings: Settings, found: dict[Case, list[Decay]]) -> None:
    sweep = settings.sweeps()["kappa"]
    for colour, case in zip(_shades(len(sweep)), sweep, strict=True):
        ratio = np.max([decay.ratio for decay in found[case]], axis=0)
        ax.plot(settings.times(), ratio, color=colour, lw=1.5, label=f"κ = {case.condition:g}")
    ax.axhline(1, color="black", lw=0.8, ls="--")
    _label_time(ax, settings)
    ax.set(ylim=(0, 1.1), ylabel="largest $|P_t(i, j)|$ / bound (2.15)", title="Theorem 2.1: at most 1")
    ax.legend(frameon=False, fontsize="small")


def _label_time(ax: Axes, settings: Settings) -> None:
    times = settings.times()
    ax.spines[["top", "right"]].set_visible(False)
    ax.set(xscale="log", xlim=(times[0], times[-1]), xlabel="OU time t (data left, noise right)")


def _shades(count: int) -> list[tuple[float, float, float, float]]:
    """Ordered colours, dark to light, that stay apart without colour."""
    return [colormaps["viridis"](level) for level in np.linspace(0.0, 0.85, count)]


EXPERIMENT = Experiment("figure1", conduct, Settings(), replace(Settings(), sizes=(50, 100, 150), matrices=3, looks=60))

if __name__ == "__main__":
    main("figure1")
