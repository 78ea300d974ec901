r"""Figure 2 of arXiv 2505.04417: too small a radius forgets correlations, too large a radius learns noise.

The data are a stationary AR(1) chain, :math:`C_{ij} = \alpha^{|i-j|}`. Its score is estimated by (4.3), masked to a
radius, and run backwards by (4.5); the whole radius is (4.4). Shown is the covariance error (4.6) against the radius,
of 10,000 draws and of the exact law that they are drawn from, for many samples of a strongly correlated chain and for
few of a weakly correlated one. A second row goes past the paper on the data sets of the former: the minimiser of the
local loss, its radius chosen for each noise level, the sparse Cholesky field, pooling, and what `LocalizedDiffusion`
does when it is told nothing. Pooling uses that the chain has one law everywhere, which (4.5) does not; the default
finds that out by held-out loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, final

import numpy as np
from matplotlib.figure import Figure

from nearfield.datasets import AutoregressiveChain, chain_maximum_likelihood
from nearfield.estimator import LocalizedDiffusion
from nearfield.evaluation.canvas import ACCENT, DATA, GENERATED
from nearfield.evaluation.metric import entrywise_error
from nearfield.fitting.closed_form import fit_field, fit_masked, fit_windowed
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.radius import select_radius_by_time
from nearfield.process import Schedule
from nearfield.reproduction.distance import Distances, Ratio, best_over_whole
from nearfield.reproduction.experiment import Claim, Experiment, Ours, Paper, Result, Workers, main
from nearfield.reproduction.linear_score import ensembles, law, laws, runs
from nearfield.samples import Samples
from nearfield.sampling.sampler import EulerMaruyama, default_sampler
from nearfield.score.field import GaussianField

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.axes import Axes

    from nearfield.graph import DependencyGraph

__all__ = ["EXPERIMENT", "Settings"]

EXPECTED = {
    (0.7, 500): (0.949, 0.723, 0.509, 0.375, 0.310, 0.251, 0.271, 0.332, 0.406, 0.495),
    (0.5, 200): (0.895, 0.601, 0.471, 0.465, 0.502, 0.577, 0.672, 0.823, 1.098, 1.337),
}
"""Error of 10,000 draws at each radius, by alpha and number of samples, as another implementation of (4.5) found it at
the full settings; means of 8 data sets."""
EXPECTED_DATA_SETS = 8

LOCAL, FIELD, POOLED = "local minimiser of (3.8)", "sparse Cholesky field", "field, one law for all (pooled)"
BY_TIME, DEFAULT, LIKELIEST = (
    "local minimiser, r(t) chosen",
    "Gaussian field, told nothing",
    "known-graph maximum likelihood",
)


@final
@dataclass(frozen=True)
class Settings:
    """Constants of figure 2.

    Parameters
    ----------
    steps, beta : int, (float, float)
        Of the linear schedule; the reverse process makes as many Euler-Maruyama steps.
    alpha : float
        Correlation of neighbours.
    samples : int
        Samples in a data set, N.
    few_alpha, few_samples : float, int
        The same where samples are few for what there is to learn.
    size : int
        Vertices of the chain, d.
    draws : int
        Generated samples.
    data_sets : int
        Repeats.
    more : int
        Further data sets, for one number alone: the error at the best radius over that without localization. Its
        standard error over 20 is .02, too much to say on which side of a half it is.
    radii : tuple of int
        Radii of (4.5), increasing from 0; the last is d - 1, which is (4.4).
    seed : int
        Of data and draws.
    """

    steps: Paper[int] = 1000
    beta: Paper[tuple[float, float]] = (1e-4, 0.02)
    alpha: Ours[float] = 0.7
    samples: Ours[int] = 500
    few_alpha: Ours[float] = 0.5
    few_samples: Ours[int] = 200
    size: Ours[int] = 50
    draws: Ours[int] = 10_000
    data_sets: Ours[int] = 20
    more: Ours[int] = 80
    radii: Ours[tuple[int, ...]] = (0, 1, 2, 3, 4, 6, 8, 12, 20, 49)
    seed: Ours[int] = 1

    def sampler(self) -> EulerMaruyama:
        """(2.4): the score is read at the start of each step, never at 0."""
        return EulerMaruyama(Schedule.ddpm(self.steps, self.beta))

    def few(self) -> Settings:
        """Return the settings with few samples, as if they were the main ones."""
        return replace(self, alpha=self.few_alpha, samples=self.few_samples, seed=self.seed + 1)

    def chain(self) -> AutoregressiveChain:
        """Law of the data."""
        return AutoregressiveChain(self.alpha, self.size)


class Masked(NamedTuple):
    """What (4.5) makes of one data set.

    ``drawn`` and ``exact`` are the distances of the draws and of their law, over the radius; ``pictures`` the entrywise
    errors of the draws at each radius.
    """

    drawn: Distances
    exact: Distances
    pictures: Float[np.ndarray, "radius d d"]


def sample(settings: Settings, number: int) -> Float[np.ndarray, "sample vertex channel"]:
    """Draw a data set."""
    return settings.chain().sample(settings.samples, random_state=np.random.default_rng([settings.seed, number]))


def examine(settings: Settings, number: int) -> Masked:
    """Run (4.5) on one data set and measure it."""
    chain, x = settings.chain(), sample(settings, number)
    truth = chain.covariance()
    samples = Samples(x, chain.graph, standard=(True,))
    steps = runs(settings.sampler(), [fit_masked(samples, r)[2] for r in settings.radii])
    # About the mean that is known to be 0, as (4.3) of the data.
    drawn = [(y.T @ y / len(y)).numpy() for y in ensembles(steps, settings.draws, seed=settings.seed * 1000 + number)]
    return Masked(
        Distances.of(drawn, truth),
        Distances.of(list(laws(steps)), truth),
        np.array([entrywise_error(c, truth) for c in drawn]),
    )


def examine_past(settings: Settings, number: int) -> dict[str, Distances]:
    """Fit what nearfield has beside (4.5) to one data set and measure it."""
    chain = settings.chain()
    found = past(sample(settings, number), chain.graph, settings.radii)
    return {name: Distances.of(covariances, chain.covariance()) for name, covariances in found.items()}


def past(
    x: Float[np.ndarray, "sample vertex channel"], graph: DependencyGraph, radii: Sequence[int]
) -> dict[str, list[Float[np.ndarray, "d d"]]]:
    """Exact covariances generated by what nearfield has beside (4.5), each over the radii if it has one.

    All but the default know, like (4.3), that the mean is 0. Scores go through the default sampler.
    """
    alone = Pooling(0.0)

    def windowed(table: tuple[tuple[float, int], ...]) -> Float[np.ndarray, "d d"]:
        return law(default_sampler(), fit_windowed(Samples(x, graph, standard=(True,)), table, alone)[2])

    def field(radius: int, pooling: Pooling) -> Float[np.ndarray, "d d"]:
        return fit_field(Samples(x, graph, standard=(True,)), radius, pooling)[2].covariance()

    # With method="auto" a network would be trained for each data set, and not be taken: the data are Gaussian.
    default = LocalizedDiffusion(method="gaussian", random_state=0).fit(x[..., 0])
    assert isinstance(default.score_, GaussianField)
    scale = default.marginal_.scale.numpy().ravel()
    return {
        LOCAL: [windowed(((1.0, r),)) for r in radii],
        FIELD: [field(r, alone) for r in radii],
        POOLED: [field(r, Pooling(1.0)) for r in radii],
        BY_TIME: [windowed(select_radius_by_time(Samples(x, graph, standard=(True,)), alone))],
        DEFAULT: [scale[:, None] * default.score_.covariance() * scale],
        LIKELIEST: [chain_maximum_likelihood(x)],
    }


def conduct(settings: Settings, workers: Workers) -> Result:
    """Measure, claim and draw."""
    first, last = settings.data_sets, settings.data_sets + settings.more
    numbered = [(settings, k) for k in range(first)]
    main_sets: list[Masked] = workers.map(examine, numbered, "figure 2: data sets")
    few_sets: list[Masked] = workers.map(examine, [(settings.few(), k) for k in range(first)], "figure 2: few samples")
    beyond: list[dict[str, Distances]] = workers.map(examine_past, numbered, "figure 2: past the paper")
    masked, few = (_together(sets) for sets in (main_sets, few_sets))
    others = {name: Distances.stacked(found[name] for found in beyond) for name in beyond[0]}
    ends = [int(masked["exact"].error.mean(axis=0).argmin()), -1]
    at_ends = replace(settings, radii=tuple(settings.radii[i] for i in ends))
    more_sets = workers.map(examine, [(at_ends, k) for k in range(first, last)], "figure 2: more data sets")
    more = _together(more_sets)
    best_and_whole = {kind: np.concatenate([masked[kind].error[:, ends], more[kind].error]) for kind in masked}
    ratios = {kind: Ratio.of(*errors.T) for kind, errors in best_and_whole.items()}
    few_ratios = {kind: best_over_whole(distances.error) for kind, distances in few.items()}
    claims = [
        *u_claims(settings, masked),
        half_claim(settings, few_ratios, ratios),
        *(c for c in (comparison(settings, masked), comparison(settings.few(), few)) if c is not None),
        *our_claims(masked["exact"], others[DEFAULT]),
    ]
    numbers = {
        "radii": settings.radii,
        "masked (4.5)": {kind: distances.summary() for kind, distances in masked.items()},
        "masked (4.5), few samples": {kind: distances.summary() for kind, distances in few.items()},
        "past the paper": {name: distances.summary() for name, distances in others.items()},
        "error of each data set at the best radius and without localization": best_and_whole,
        "error at the best radius over that without localization": {
            name: {kind: ratio._asdict() for kind, ratio in found.items()}
            for name, found in (("many samples", ratios), ("few samples", few_ratios))
        },
    }
    return Result(settings, numbers, tuple(claims), draw(settings, masked, few, others, main_sets[0].pictures))


def _together(sets: Sequence[Masked]) -> dict[str, Distances]:
    """Put data sets together, by the names of what was measured: draws, and their exact law."""
    return {
        "drawn": Distances.stacked(found.drawn for found in sets),
        "exact": Distances.stacked(found.exact for found in sets),
    }


def u_claims(settings: Settings, masked: dict[str, Distances]) -> list[Claim]:
    """State that the error is U-shaped in the radius, as the paper says of its figure."""
    found = []
    for kind, what in (("drawn", f"{settings.draws} draws"), ("exact", "the exact law")):
        mean = masked[kind].error.mean(axis=0)
        best = int(mean.argmin())
        turns = np.diff(mean)
        found.append(
            Claim(
                f"The error (4.6) of {what} is U-shaped in the radius: it falls from {mean[0]:.3f} at r = 0 to "
                f"{mean[best]:.3f} at r = {settings.radii[best]}, the best and an interior one, and rises to "
                f"{mean[-1]:.3f} without localization (4.4).",
                bool(0 < best < len(mean) - 1 and (turns[:best] < 0).all() and (turns[best:] > 0).all()),
            )
        )
    return found


def half_claim(settings: Settings, few: dict[str, Ratio], many: dict[str, Ratio]) -> Claim:
    """State that localization halves the error where samples are few, and what it does where they are many.

    Ratios of the draws and of their exact laws.
    """

    def told(ratio: Ratio) -> str:
        return f"{ratio}, {'above' if ratio.value > 0.5 else 'below'} a half,"

    return Claim(
        "The best radius has half the error of no localization (4.4), or less, where samples are few: "
        f"{few['drawn']} of it for draws and {few['exact']} for exact laws with {settings.few_samples} samples at "
        f"alpha = {settings.few_alpha:g} (at most 0.5 asked, 2 standard errors added; {few['drawn'].data_sets} data "
        f"sets). With {settings.samples} at alpha = {settings.alpha:g} it is {told(many['drawn'])} for draws and "
        f"{told(many['exact'])} for exact laws ({many['drawn'].data_sets} data sets); the noise of {settings.draws} "
        "draws is in both errors.",
        all(ratio.value + 2 * ratio.standard_error <= 0.5 for ratio in few.values()),
    )


def comparison(settings: Settings, masked: dict[str, Distances]) -> Claim | None:
    """State that another implementation of (4.5) found the same, where there is one at these settings."""
    compared = ("steps", "beta", "size", "draws", "radii")
    expected = EXPECTED.get((settings.alpha, settings.samples))
    if expected is None or any(getattr(settings, name) != getattr(Settings(), name) for name in compared):
        return None
    error = masked["drawn"].error
    standard = error.std(axis=0, ddof=1) * np.sqrt(1 / EXPECTED_DATA_SETS + 1 / len(error))
    away = np.abs(error.mean(axis=0) - expected) / standard
    return Claim(
        f"Another implementation of (4.5) found the same errors of the draws for {settings.samples} samples at alpha = "
        f"{settings.alpha:g}: the means differ by at most {away.max():.2f} standard errors over {len(away)} radii (at "
        "most 3 asked).",
        bool((away <= 3).all()),
        "ours",
    )


def our_claims(masked: Distances, default: Distances) -> list[Claim]:
    """State how far the default goes past the best radius of (4.5), each measure at the radius best for it."""
    claims = []
    for name, bar, values, own in (
        ("KL(truth ‖ generated), nats per vertex,", 1 / 5, masked.divergence, default.divergence),
        ("covariance error (4.6)", 0.6, masked.error, default.error),
    ):
        best, mean = values.mean(axis=0).min(), own.mean()
        claims.append(
            Claim(
                f"nearfield's default has a mean {name} of {mean:.2g} against {best:.2g} at the best radius of (4.5), "
                f"a ratio of {mean / best:.3g} (at most {bar:g} asked; exact laws, {len(own)} data sets).",
                bool(mean <= bar * best),
                "ours",
            )
        )
    return claims


def draw(
    settings: Settings,
    masked: dict[str, Distances],
    few: dict[str, Distances],
    others: dict[str, Distances],
    pictures: Float[np.ndarray, "radius d d"],
) -> Figure:
    """Errors against the radius and entrywise; below, on the same data, the methods past the paper."""
    figure = Figure(figsize=(15, 9), dpi=100, layout="constrained")
    above, below = figure.subfigures(2, 1, squeeze=False)[:, 0]
    axes = above.subplots(1, 5, width_ratios=(1.5, 1.3, 1, 1, 1))
    _draw_paper(axes[0], settings, masked)
    _draw_paper(axes[1], settings.few(), few)
    axes[0].legend(frameon=False, fontsize="small")
    best = int(masked["drawn"].error.mean(axis=0).argmin())
    _draw_entries(axes[2:], settings, pictures, (1, best, len(settings.radii) - 1))
    above.suptitle(
        f"Figure 2: AR(1) chain of {settings.size} vertices; mean ± standard std over {settings.data_sets} data "
        f"sets; right, entries of one with α = {settings.alpha:g}"
    )
    errors, divergences = below.subplots(1, 2)
    for ax, measure in ((errors, 0), (divergences, 1)):
        _band(ax, settings.radii, masked["exact"][measure], GENERATED, "masked (4.5)", "o-")
        for name, colour, style in ((LOCAL, ACCENT, "s-"), (FIELD, "#009E73", "^-"), (POOLED, "#CC79A7", "v-")):
            _band(ax, settings.radii, others[name][measure], colour, name, style)
        for name, colour, style in ((BY_TIME, ACCENT, "--"), (DEFAULT, "#CC79A7", "--"), (LIKELIEST, "black", ":")):
            ax.axhline(others[name][measure].mean(), color=colour, ls=style, lw=1.6, label=name)
        _label_radii(ax, settings)
    errors.set(ylabel="covariance error (4.6)", ylim=axes[0].get_ylim())
    divergences.set(ylabel="KL(truth ‖ generated), nats per vertex", yscale="log")
    handles, labels = errors.get_legend_handles_labels()
    below.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    below.suptitle(f"Past the paper: the data sets with α = {settings.alpha:g}, exact laws")
    return figure


def _draw_paper(ax: Axes, settings: Settings, masked: dict[str, Distances]) -> None:
    _band(ax, settings.radii, masked["drawn"].error, DATA, f"localized (4.5), {settings.draws} draws", "o-")
    _band(ax, settings.radii, masked["exact"].error, GENERATED, "localized (4.5), exact law", "s--")
    reference = masked["drawn"].error[:, -1].mean()
    ax.axhline(reference, color=DATA, ls=":", lw=1.6, label="without localization (4.4), draws")
    ax.set(ylabel="covariance error (4.6)", ylim=(0, None))
    ax.set_title(f"α = {settings.alpha:g}, {settings.samples} samples", fontsize="medium")
    _label_radii(ax, settings)


def _draw_entries(
    axes: Sequence[Axes], settings: Settings, pictures: Float[np.ndarray, "radius d d"], which: Sequence[int]
) -> None:
    top = float(np.quantile(pictures[list(which)], 0.998))
    image = None
    for ax, i, what in zip(axes, which, ("small", "best", "no"), strict=True):
        image = ax.imshow(pictures[i], vmin=0, vmax=top, cmap="magma")
        ax.set(title=f"r = {settings.radii[i]} ({what}{' localization' if what == 'no' else ''})", xlabel="j")
        ax.tick_params(labelleft=ax is axes[0])
    axes[0].set_ylabel("i")
    if image is not None:
        label = "|Ĉ − C| of the draws, one data set"
        axes[0].figure.colorbar(image, ax=list(axes), label=label, shrink=0.7, extend="max")


def _band(
    ax: Axes, radii: Sequence[int], values: Float[np.ndarray, "set radius"], colour: str, label: str, style: str
) -> None:
    """Mean over the data sets as a line, plus and minus a standard std as a band."""
    mean, std = values.mean(axis=0), values.std(axis=0, ddof=1)
    # A logarithmic axis cannot show a band that reaches 0: there it ends at the smallest value found.
    low, place = np.maximum(mean - std, values.min(axis=0)), np.log1p(radii)
    ax.fill_between(place, low, mean + std, color=colour, alpha=0.2, lw=0)
    ax.plot(place, mean, style, color=colour, ms=4, lw=1.5, label=label)


def _label_radii(ax: Axes, settings: Settings) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_xticks(np.log1p(settings.radii), [str(r) for r in settings.radii])
    ax.set_xlabel("radius r, hops (spaced as log(1 + r))")


QUICK = replace(Settings(), draws=1000, data_sets=4, more=6, radii=(0, 1, 3, 6, 12, 49))
EXPERIMENT = Experiment("figure2", conduct, Settings(), QUICK)

if __name__ == "__main__":
    main("figure2")
