"""Sample complexity of local and of global estimates against the size of the field; ours, beside Theorem 3.4.

The bound (3.17) of arXiv 2505.04417 says that the error of localized scores depends, per vertex, on the number of
samples and on the radius, not on the size of the field. Here the data are stationary AR(1) chains, and what is
generated is known exactly: the sparse Cholesky field of the true order generates its own covariance, the unlocalized
score (4.3) the sample covariance. Entries near the diagonal are estimated about as well by both at any size; what a
global estimate loses with the size is the law as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, final

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from nearfield.datasets import AutoregressiveChain
from nearfield.evaluation.canvas import ACCENT, GENERATED
from nearfield.evaluation.metric import covariance_error, gaussian_kl
from nearfield.fitting.closed_form import fit_field
from nearfield.fitting.pooling import Pooling
from nearfield.reproduction.experiment import Claim, Experiment, Ours, Result, Workers, main
from nearfield.samples import Samples

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.axes import Axes

__all__ = ["EXPERIMENT", "Settings"]

LOCAL, GLOBAL = "local (sparse Cholesky field)", "global (sample covariance)"


@final
@dataclass(frozen=True)
class Settings:
    """Constants of the scaling experiment; the paper has none such.

    Parameters
    ----------
    alpha : float
        Correlation of neighbours.
    sizes : tuple of int
        Vertices of the chain, d, increasing.
    samples : tuple of int
        Samples in a data set, N, increasing.
    data_sets : int
        Repeats.
    order : int
        Hops of the field: 1, the order of the chain.
    hops : int
        Entries of the covariance within this many hops are compared.
    plotted : int
        N at which growth with the size is measured.
    seed : int
        Of the data.
    """

    alpha: Ours[float] = 0.7
    sizes: Ours[tuple[int, ...]] = (32, 64, 128, 256, 512, 1024)
    samples: Ours[tuple[int, ...]] = (100, 200, 400, 800, 1600, 3200)
    data_sets: Ours[int] = 20
    order: Ours[int] = 1
    hops: Ours[int] = 3
    plotted: Ours[int] = 200
    seed: Ours[int] = 1


class Errors(NamedTuple):
    """How far a covariance is from the truth.

    ``near`` is the mean square error of the entries within some hops, ``relative`` the error (4.6), ``divergence``
    KL(truth || generated) in nats per vertex, infinite where the generated law is singular. Numbers, or arrays over
    the size, the data set and the number of samples.
    """

    near: Float[np.ndarray, "..."]
    relative: Float[np.ndarray, "..."]
    divergence: Float[np.ndarray, "..."]

    @classmethod
    def of(cls, covariance: Float[np.ndarray, "d d"], truth: Float[np.ndarray, "d d"], hops: int, rank: int) -> Errors:
        """Measure a covariance of a given rank."""
        d = len(truth)
        near = np.concatenate([np.diagonal(covariance - truth, k) for k in range(-hops, hops + 1)])
        return cls(
            (near**2).mean(),
            np.array(covariance_error(covariance, truth)),
            np.array(gaussian_kl(truth, covariance) / d if rank >= d else np.inf),
        )


def examine(settings: Settings, size: int, number: int) -> dict[str, Errors]:
    """Fit both to data sets of every number of samples; arrays are over that number."""
    chain = AutoregressiveChain(settings.alpha, size)
    truth = chain.covariance()
    found: dict[str, list[Errors]] = {LOCAL: [], GLOBAL: []}
    for n in settings.samples:
        x = chain.sample(n, random_state=np.random.default_rng([settings.seed, size, n, number]))
        _, _, field = fit_field(Samples(x, chain.graph, standard=(True,)), settings.order, Pooling(0.0))
        found[LOCAL].append(Errors.of(field.covariance(), truth, settings.hops, size))
        found[GLOBAL].append(Errors.of(x[..., 0].T @ x[..., 0] / n, truth, settings.hops, n))
    return {name: Errors(*map(np.array, zip(*errors, strict=True))) for name, errors in found.items()}


def slope(samples: tuple[int, ...], error: Float[np.ndarray, " n"]) -> float:
    """Exponent of the power law in N that fits an error best.

    Examples
    --------
    >>> round(slope((100, 400), np.array([2.0, 1.0])), 12)
    -0.5
    """
    return float(np.polyfit(np.log(samples), np.log(error), 1)[0])


def near_error(errors: Errors) -> Float[np.ndarray, "size n"]:
    """Root mean square error of the entries near the diagonal, over entries and data sets."""
    root: np.ndarray = np.sqrt(errors.near.mean(axis=1))
    return root


def conduct(settings: Settings, workers: Workers) -> Result:
    """Measure, claim and draw."""
    items = [(settings, size, number) for size in reversed(settings.sizes) for number in range(settings.data_sets)]
    flat: list[dict[str, Errors]] = workers.map(examine, items, "scaling: data sets")

    def arranged(name: str) -> Errors:
        shape = (len(settings.sizes), settings.data_sets, len(settings.samples))
        return Errors(*(np.array(values).reshape(shape)[::-1] for values in zip(*(f[name] for f in flat), strict=True)))

    found = {name: arranged(name) for name in (LOCAL, GLOBAL)}
    numbers: dict[str, Any] = {"sizes": settings.sizes, "samples": settings.samples}
    for name, errors in found.items():
        near = near_error(errors)
        numbers[name] = {"near": near, "slope": [slope(settings.samples, row) for row in near]}
        for measure in ("relative", "divergence"):  # an infinite mean becomes null
            numbers[name][measure] = getattr(errors, measure).mean(axis=1)
    return Result(settings, numbers, claims(settings, found), draw(settings, found))


def claims(settings: Settings, found: dict[str, Errors]) -> tuple[Claim, ...]:
    """State what is expected of local and of global estimates."""
    near = near_error(found[LOCAL])
    slopes = [slope(settings.samples, row) for row in near]
    changes = np.log(near[-1] / near[0])
    change, worst = np.expm1(changes.mean()), np.expm1(changes[np.abs(changes).argmax()])
    at = settings.samples.index(settings.plotted)
    local, whole = (found[name].divergence.mean(axis=1)[:, at] for name in (LOCAL, GLOBAL))
    finite = np.flatnonzero(np.isfinite(whole))
    growth = whole[finite[-1]] / whole[0]
    small, large = settings.sizes[0], settings.sizes[-1]
    beyond = ""
    if len(finite) < len(whole):
        beyond = f", and is infinite from d = {settings.sizes[len(finite)]} on, where samples are fewer than vertices"
    return (
        Claim(
            "The local error falls as one over the square root of N at every size: fitted exponents "
            + ", ".join(f"{s:.3f} at d = {d}" for s, d in zip(slopes, settings.sizes, strict=True))
            + " (within 0.05 of -0.5 asked).",
            bool(np.abs(np.array(slopes) + 0.5).max() <= 0.05),
            "ours",
        ),
        Claim(
            f"The local error does not depend on the size: from d = {small} to {large} it changes by {change:+.1%} in "
            f"the mean over N (less than 10 % asked); by {worst:+.1%} at the N where noise adds most.",
            bool(abs(change) < 0.1),
            "ours",
        ),
        Claim(
            f"The global law gets worse with the size: its KL per vertex at N = {settings.plotted} grows "
            f"{growth:.1f}-fold from d = {small} to {settings.sizes[finite[-1]]} (at least 5-fold asked){beyond}; the "
            f"local one's goes from {local[0]:.2g} to {local[-1]:.2g} at d = {large}.",
            bool(growth >= 5),
            "ours",
        ),
    )


def draw(settings: Settings, found: dict[str, Errors]) -> Figure:
    """Local error against N for every size; error and divergence of both against the size."""
    figure = Figure(figsize=(14, 4.6), dpi=100, layout="constrained")
    near, relative, divergence = figure.subplots(1, 3)
    shades = colormaps["viridis"](np.linspace(0.0, 0.85, len(settings.sizes)))
    for shade, d, error in zip(shades, settings.sizes, near_error(found[LOCAL]), strict=True):
        label = f"d = {d}: slope {slope(settings.samples, error):.3f}"
        near.plot(settings.samples, error, "o-", color=shade, ms=4, lw=1.3, label=label)
    whole, d = near_error(found[GLOBAL])[-1], settings.sizes[-1]
    label = f"global, d = {d}: slope {slope(settings.samples, whole):.3f}"
    near.plot(settings.samples, whole, "--", color=ACCENT, lw=1.3, label=label)
    near.set(xscale="log", yscale="log", xlabel="samples N", ylabel=f"rms error of entries within {settings.hops} hops")
    near.set(title="Entries near the diagonal: size does not matter")
    near.set_xticks(settings.samples, [str(n) for n in settings.samples])
    near.minorticks_off()
    ticks = [tick for tick in (0.01, 0.02, 0.05, 0.1, 0.2) if near.get_ylim()[0] < tick < near.get_ylim()[1]]
    near.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    at = settings.samples.index(settings.plotted)
    for name, colour, style in ((LOCAL, GENERATED, "o-"), (GLOBAL, ACCENT, "s-")):
        _against_size(relative, settings, found[name].relative[..., at], colour, style, name)
        _against_size(divergence, settings, found[name].divergence[..., at], colour, style, name)
    relative.set(ylabel="covariance error (4.6)", title=f"N = {settings.plotted}: largest row of errors")
    divergence.set(
        ylabel="KL(truth ‖ generated), nats per vertex", yscale="log", title=f"N = {settings.plotted}: the whole law"
    )
    _mark_infinite(divergence, settings, found[GLOBAL].divergence[:, 0, at])
    for ax in (near, relative, divergence):
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, fontsize="small")
    figure.suptitle(
        f"AR(1) chains, α = {settings.alpha:g}; mean over {settings.data_sets} data sets, bands one standard std"
    )
    return figure


def _against_size(
    ax: Axes, settings: Settings, values: Float[np.ndarray, "size set"], colour: str, style: str, name: str
) -> None:
    shown = np.isfinite(values).all(axis=1)
    sizes, values = np.array(settings.sizes)[shown], values[shown]
    mean, std = values.mean(axis=1), values.std(axis=1, ddof=1)
    ax.fill_between(sizes, np.maximum(mean - std, values.min(axis=1)), mean + std, color=colour, alpha=0.2, lw=0)
    ax.plot(sizes, mean, style, color=colour, ms=4, lw=1.5, label=name)
    ax.set(xscale="log", xlabel="vertices d")
    ax.set_xticks(settings.sizes, [str(d) for d in settings.sizes])
    ax.minorticks_off()


def _mark_infinite(ax: Axes, settings: Settings, values: Float[np.ndarray, " size"]) -> None:
    """Say where a curve has left the axes, and why."""
    singular = [d for d, value in zip(settings.sizes, values, strict=True) if not np.isfinite(value)]
    if singular:
        ax.axvspan(singular[0] / 1.2, settings.sizes[-1] * 1.2, color=ACCENT, alpha=0.08, lw=0)
        ax.text(singular[0], 0.5, "global:\ninfinite,\nd > N", transform=ax.get_xaxis_transform(), color=ACCENT)


QUICK = replace(Settings(), sizes=(32, 128, 256))
EXPERIMENT = Experiment("scaling", conduct, Settings(), QUICK)

if __name__ == "__main__":
    main("scaling")
