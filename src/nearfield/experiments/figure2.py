r"""Figure 2 of arXiv 2505.04417: too small a radius forgets correlations, too large a radius learns noise.

The data are a stationary AR(1) chain, :math:`C_{ij} = \alpha^{|i-j|}`. Its score is estimated by (4.3), masked to a
radius, and run backwards by (4.5); the whole radius is (4.4). Shown is the covariance error (4.6) against the radius,
of 10,000 draws and of the exact law that they are drawn from. A second row goes past the paper on the same data sets:
the minimiser of the local loss, its radius chosen for each noise level, the sparse Cholesky field, pooling, and what
`LocalizedDiffusion` does when it is told nothing. Pooling uses that the chain has one law everywhere, which (4.5) does
not; the default finds that out by held-out loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, final

import numpy as np
import torch
from matplotlib.figure import Figure

from nearfield.data.target import AutoregressiveChain, chain_maximum_likelihood
from nearfield.estimator import LocalizedDiffusion
from nearfield.evaluation.metric import covariance_error, entrywise_error, gaussian_kl
from nearfield.evaluation.plot import ACCENT, DATA, GENERATED
from nearfield.experiments.reproduction import Claim, Experiment, Ours, Paper, Result, Workers, main
from nearfield.fitting.closed_form import fit_field, fit_masked, fit_windowed
from nearfield.fitting.covariance import Pooling
from nearfield.fitting.radius import select_radius_by_time
from nearfield.process import Schedule
from nearfield.sampling.sampler import EulerMaruyama, Sampler, default_sampler
from nearfield.score.base import Score
from nearfield.score.field import GaussianField

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.axes import Axes

    from nearfield.graph import DependencyGraph

EXPECTED = dict(
    zip(
        (0, 1, 2, 3, 4, 6, 8, 12, 20, 49),
        (0.949, 0.723, 0.509, 0.375, 0.310, 0.251, 0.271, 0.332, 0.406, 0.495),
        strict=True,
    )
)
"""Error of 10,000 draws at each radius by another implementation of (4.5) at the full settings, mean of 8 data sets."""
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
    size : int
        Vertices of the chain, d.
    samples : int
        Samples in a data set, N.
    draws : int
        Generated samples.
    data_sets : int
        Repeats.
    more : int
        Further data sets, for one number alone: the error at the best radius over that without localization. Its
        standard error over 20 is .02, too much to say whether it is below a half.
    radii : tuple of int
        Radii of (4.5), increasing from 0; the last is d - 1, which is (4.4).
    seed : int
        Of data and draws.
    """

    steps: Paper[int] = 1000
    beta: Paper[tuple[float, float]] = (1e-4, 0.02)
    alpha: Ours[float] = 0.7
    size: Ours[int] = 50
    samples: Ours[int] = 500
    draws: Ours[int] = 10_000
    data_sets: Ours[int] = 20
    more: Ours[int] = 80
    radii: Ours[tuple[int, ...]] = (0, 1, 2, 3, 4, 6, 8, 12, 20, 49)
    seed: Ours[int] = 1

    def sampler(self) -> EulerMaruyama:
        """(2.4): the score is read at the start of each step, never at 0."""
        return EulerMaruyama(Schedule.ddpm(self.steps, self.beta))

    def chain(self) -> AutoregressiveChain:
        """Law of the data."""
        return AutoregressiveChain(self.alpha, self.size)


class Distances(NamedTuple):
    """How far covariances are from the truth: ``error`` (4.6), and ``divergence`` KL(truth || them) in nats per vertex.

    Arrays over the radius, or over data sets and the radius; over the data sets alone for methods that have no radius.
    """

    error: Float[np.ndarray, ...]
    divergence: Float[np.ndarray, ...]

    @classmethod
    def of(cls, covariances: Sequence[Float[np.ndarray, "d d"]], truth: Float[np.ndarray, "d d"]) -> Distances:
        """Measure one covariance after the other."""
        return cls(
            np.array([covariance_error(c, truth) for c in covariances]),
            np.array([gaussian_kl(truth, c) / len(truth) for c in covariances]),
        )


class Repeat(NamedTuple):
    """What one data set gives.

    ``drawn`` and ``exact`` are the distances of (4.5) from draws and from the law, over the radius; ``past`` those of
    the other methods; ``pictures`` the entrywise errors of the draws at each radius.
    """

    drawn: Distances
    exact: Distances
    past: dict[str, Distances]
    pictures: Float[np.ndarray, "radius d d"]


def law(sampler: Sampler, score: Score) -> Float[np.ndarray, "d d"]:
    """Exact covariance of what a linear score generates: the law of an infinite ensemble."""
    return sampler.push_forward(score)[1].numpy()


def generate(
    sampler: Sampler, scores: Sequence[Score], n_samples: int, seed: int
) -> Float[torch.Tensor, "score sample vertex"]:
    """Draw an ensemble from each of several linear scores of one channel, by running the sampler.

    Every score is given the same noise: their differences are then theirs. A step of a linear score is a matrix, its
    images of the basis; this and the plain generator of torch (that of `nearfield.noise` would take ten hours) make
    ten ensembles of 10,000 in 1000 steps a matter of seconds. Single precision, which adds 1e-6 to an error.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (n_samples, scores[0].n_vertices)
    basis = torch.eye(shape[1], dtype=torch.float64)[..., None]
    states = torch.randn(shape, generator=generator).repeat(len(scores), 1, 1)
    following = torch.empty_like(states)
    for k in range(sampler.schedule.steps):
        xi = torch.randn(shape, generator=generator)
        for score, state, out in zip(scores, states, following, strict=True):
            step = sampler.step(score, basis, k, None)
            torch.addmm(xi, state, step.mean[..., 0].float(), beta=step.deviation, out=out)
        states, following = following, states
    return states


def sample(settings: Settings, number: int) -> Float[np.ndarray, "sample vertex channel"]:
    """Draw a data set."""
    return settings.chain().sample(settings.samples, random_state=np.random.default_rng([settings.seed, number]))


def exact_error(settings: Settings, number: int, radii: Sequence[int]) -> Float[np.ndarray, " radius"]:
    """Error (4.6) of the exact law of (4.5), of one data set at some radii."""
    x, chain = sample(settings, number), settings.chain()
    laws = [law(settings.sampler(), fit_masked(x, chain.graph, r, standardize=False)[2]) for r in radii]
    return Distances.of(laws, chain.covariance()).error


def examine(settings: Settings, number: int) -> Repeat:
    """Fit every method to one data set and measure it."""
    chain = settings.chain()
    truth = chain.covariance()
    x = sample(settings, number)
    masked = [fit_masked(x, chain.graph, r, standardize=False)[2] for r in settings.radii]
    ensembles = generate(settings.sampler(), masked, settings.draws, seed=settings.seed * 1000 + number)
    # About the mean that is known to be 0, as (4.3) of the data.
    drawn = [(y.T @ y / len(y)).numpy() for y in ensembles.double()]
    return Repeat(
        Distances.of(drawn, truth),
        Distances.of([law(settings.sampler(), score) for score in masked], truth),
        {name: Distances.of(found, truth) for name, found in past(x, chain.graph, settings.radii).items()},
        np.array([entrywise_error(c, truth) for c in drawn]),
    )


def past(
    x: Float[np.ndarray, "sample vertex channel"], graph: DependencyGraph, radii: Sequence[int]
) -> dict[str, list[Float[np.ndarray, "d d"]]]:
    """Exact covariances generated by what nearfield has beside (4.5), each over the radii if it has one.

    All but the default know, like (4.3), that the mean is 0. Scores go through the default sampler.
    """
    alone = Pooling(0.0)

    def windowed(table: tuple[tuple[float, int], ...]) -> Float[np.ndarray, "d d"]:
        return law(default_sampler(), fit_windowed(x, graph, table, alone, standardize=False)[2])

    def field(radius: int, pooling: Pooling) -> Float[np.ndarray, "d d"]:
        return fit_field(x, graph, radius, pooling, standardize=False)[2].covariance()

    # With method="auto" a network would be trained for each data set, and not be taken: the data are Gaussian.
    default = LocalizedDiffusion(method="gaussian", random_state=0).fit(x[..., 0])
    assert isinstance(default.score_, GaussianField)
    scale = default.marginal_.scale.ravel()
    return {
        LOCAL: [windowed(((1.0, r),)) for r in radii],
        FIELD: [field(r, alone) for r in radii],
        POOLED: [field(r, Pooling(1.0)) for r in radii],
        BY_TIME: [windowed(select_radius_by_time(x, graph, alone, standardize=False))],
        DEFAULT: [scale[:, None] * default.score_.covariance() * scale],
        LIKELIEST: [chain_maximum_likelihood(x)],
    }


def conduct(settings: Settings, workers: Workers) -> Result:
    """Measure, claim and draw."""
    first, last = settings.data_sets, settings.data_sets + settings.more
    repeats: list[Repeat] = workers.map(examine, [(settings, k) for k in range(first)], "figure 2: data sets")
    masked = {"drawn": _stacked([r.drawn for r in repeats]), "exact": _stacked([r.exact for r in repeats])}
    others = {name: _stacked([r.past[name] for r in repeats]) for name in repeats[0].past}
    ends = [int(masked["exact"].error.mean(axis=0).argmin()), -1]
    radii = [settings.radii[i] for i in ends]
    more = workers.map(exact_error, [(settings, k, radii) for k in range(first, last)], "figure 2: more data sets")
    best_and_whole = np.concatenate([masked["exact"].error[:, ends], more])
    claims = [
        *paper_claims(settings, masked["drawn"], masked["exact"], best_and_whole),
        *our_claims(masked["exact"], others[DEFAULT]),
    ]
    numbers = {
        "radii": settings.radii,
        "masked (4.5)": {name: _summary(distances) for name, distances in masked.items()},
        "past the paper": {name: _summary(distances) for name, distances in others.items()},
        "exact error of each data set at the best radius and without localization": best_and_whole,
    }
    return Result(settings, numbers, tuple(claims), draw(settings, masked, others, repeats[0].pictures))


def _stacked(repeats: Sequence[Distances]) -> Distances:
    return Distances(*(np.array(values) for values in zip(*repeats, strict=True)))


def _summary(distances: Distances) -> dict[str, dict[str, Float[np.ndarray, " radius"]]]:
    return {
        name: {"mean": values.mean(axis=0), "sd": values.std(axis=0, ddof=1)}
        for name, values in distances._asdict().items()
    }


def paper_claims(
    settings: Settings, drawn: Distances, exact: Distances, best_and_whole: Float[np.ndarray, "set 2"]
) -> list[Claim]:
    """State what the paper says of its figure, and that the numbers are those of another implementation.

    ``best_and_whole`` are the exact errors at the best radius and without localization, of more data sets.
    """
    found = []
    for error, what in ((drawn.error, f"{settings.draws} draws"), (exact.error, "the exact law")):
        mean = error.mean(axis=0)
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
    best, whole = best_and_whole.T
    ratio = best.mean() / whole.mean()
    uncertainty = (best - ratio * whole).std(ddof=1) / (whole.mean() * np.sqrt(len(best)))  # delta method
    of_draws = drawn.error.mean(axis=0).min() / drawn.error.mean(axis=0)[-1]
    found.append(
        Claim(
            f"The best radius has half the error of no localization (4.4), or less: {ratio:.3f} +- {uncertainty:.3f} "
            f"of it over {len(best)} data sets, exact laws (at most 0.5 asked, within 2 standard errors). The noise of "
            f"{settings.draws} draws is in both errors and makes it {of_draws:.3f}.",
            bool(ratio - 2 * uncertainty <= 0.5),
        )
    )
    if replace(settings, data_sets=Settings.data_sets, more=Settings.more, seed=Settings.seed) == Settings():
        deviation = drawn.error.std(axis=0, ddof=1)
        standard = deviation * np.sqrt(1 / EXPECTED_DATA_SETS + 1 / len(drawn.error))
        away = np.abs(drawn.error.mean(axis=0) - [EXPECTED[r] for r in settings.radii]) / standard
        found.append(
            Claim(
                "Another implementation of (4.5) found the same errors of the draws: the means differ by at most "
                f"{away.max():.2f} standard errors over {len(away)} radii (at most 3 asked).",
                bool((away <= 3).all()),
                "ours",
            )
        )
    return found


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
    others: dict[str, Distances],
    pictures: Float[np.ndarray, "radius d d"],
) -> Figure:
    """Errors against the radius and entrywise; below, on the same data, the methods past the paper."""
    figure = Figure(figsize=(14, 9), dpi=100, layout="constrained")
    above, below = figure.subfigures(2, 1, squeeze=False)[:, 0]
    axes = above.subplots(1, 4, width_ratios=(1.7, 1, 1, 1))
    _draw_paper(axes[0], settings, masked)
    best = int(masked["drawn"].error.mean(axis=0).argmin())
    _draw_entries(axes[1:], settings, pictures, (1, best, len(settings.radii) - 1))
    above.suptitle(
        f"Figure 2: AR(1) chain, α = {settings.alpha:g}, d = {settings.size}, {settings.samples} samples; "
        f"mean ± standard deviation over {settings.data_sets} data sets"
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
    below.suptitle("Past the paper: the same data sets, exact laws")
    return figure


def _draw_paper(ax: Axes, settings: Settings, masked: dict[str, Distances]) -> None:
    _band(ax, settings.radii, masked["drawn"].error, DATA, f"localized (4.5), {settings.draws} draws", "o-")
    _band(ax, settings.radii, masked["exact"].error, GENERATED, "localized (4.5), exact law", "s--")
    reference = masked["drawn"].error[:, -1].mean()
    ax.axhline(reference, color=DATA, ls=":", lw=1.6, label="without localization (4.4), draws")
    ax.set(ylabel="covariance error (4.6)", ylim=(0, None))
    _label_radii(ax, settings)
    ax.legend(frameon=False, fontsize="small")


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
    """Mean over the data sets as a line, plus and minus a standard deviation as a band."""
    mean, deviation = values.mean(axis=0), values.std(axis=0, ddof=1)
    # A logarithmic axis cannot show a band that reaches 0: there it ends at the smallest value found.
    low, place = np.maximum(mean - deviation, values.min(axis=0)), np.log1p(radii)
    ax.fill_between(place, low, mean + deviation, color=colour, alpha=0.2, lw=0)
    ax.plot(place, mean, style, color=colour, ms=4, lw=1.5, label=label)


def _label_radii(ax: Axes, settings: Settings) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_xticks(np.log1p(settings.radii), [str(r) for r in settings.radii])
    ax.set_xlabel("radius r, hops (spaced as log(1 + r))")


QUICK = replace(Settings(), draws=1000, data_sets=3, more=7, radii=(0, 1, 3, 6, 12, 49))
EXPERIMENT = Experiment("figure2", conduct, Settings(), QUICK)

if __name__ == "__main__":
    main("figure2")
