r"""Networks of local scores fitted to data, and where they are better than the closed-form Gaussian.

A hybrid is compared with the Gaussian field on samples that trained neither (with other noise they told when to stop),
at noise levels spread over :math:`\ln\sigma`, by :math:`|D(x_t, t) - x_0|^2 / \sigma^2`: summed over levels, the
difference of two scores estimates (up to the factor of the spacing) that of what they cost by (3.10) of arXiv
2505.04417.
Both meet the same noise, so that the comparison is paired, and its standard errors are over samples.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple, final

import numpy as np
import torch

from nearfield.fitting.closed_form import build_field
from nearfield.fitting.matching import held_out
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.quadratic import fit_quadratic
from nearfield.fitting.radius import LEVELS
from nearfield.fitting.recipe import Recipe
from nearfield.fitting.shown import shown_gaussian
from nearfield.fitting.training import TrainingReport, symmetries_of, train
from nearfield.graph import DependencyGraph
from nearfield.noise import Stream
from nearfield.process import time_of
from nearfield.samples import Samples
from nearfield.score.base import Score
from nearfield.score.ensemble import EnsembleScore
from nearfield.score.hybrid import SHOWN, HybridScore, NetworkScore
from nearfield.score.network import Network
from nearfield.score.stencil import StencilNetwork
from nearfield.score.window import WindowNetwork

if TYPE_CHECKING:
    pass

__all__ = [
    "LevelChoice",
    "Member",
    "NetworkFit",
    "choose_levels",
    "default_recipe",
    "fit_network",
    "make_network",
]

SITES = 4096
"""Vertices in a batch of training, about: what small machines do in some hundredths of a second."""
NETWORK_RADIUS = 4
"""Hops read by a network, where nothing is said; on graphs that are no lattices fewer if windows are crowded."""
CROWDED = 32
"""Vertices in a window of a network off lattices, at most."""
EMBEDDING = 8
"""Learned numbers of each vertex, where vertices do not share one law."""
FEWEST = 20
"""Samples below which none are held out for a network."""


class Member(NamedTuple):
    """A network that was trained, and on what.

    Attributes
    ----------
    score : NetworkScore or HybridScore
    training : TrainingReport
    used, unseen : ndarray of int
        Numbers of the samples trained on and held out.
    """

    score: NetworkScore | HybridScore
    training: TrainingReport
    used: np.ndarray
    unseen: np.ndarray


@final
@dataclass(frozen=True)
class NetworkFit:
    """What serves as the score, and the members that it is made of.

    Attributes
    ----------
    members : tuple of Member
    """

    members: tuple[Member, ...]

    @property
    def score(self) -> NetworkScore | HybridScore | EnsembleScore:
        """The only member's, or the mean of all."""
        scores = tuple(member.score for member in self.members)
        return scores[0] if len(scores) == 1 else EnsembleScore(scores)


class LevelChoice(NamedTuple):
    r"""Comparison of the hybrid with the Gaussian field at one noise level.

    Attributes
    ----------
    sigma : float
        Noise-to-signal ratio.
    gaussian, hybrid : float
        Held-out :math:`|D(x_t, t) - x_0|^2 / \sigma^2`, mean over samples, vertices and channels; of several members
        each one's own, which is more than that of their mean.
    error : float
        Standard error of their paired difference.
    switched : bool
        Whether the hybrid serves there.
    """

    sigma: float
    gaussian: float
    hybrid: float
    error: float
    switched: bool


def default_recipe(graph: DependencyGraph, n_samples: int, validation_fraction: float = 0.15, seed: int = 0) -> Recipe:
    """Training that takes half a minute on one core, more than a minute with many samples.

    A step sees some 4096 vertices, in 4 to 32 samples. Up to 200 samples 1500 steps are enough, fewer where the graph
    is so large that 4 samples have more vertices, down to 1000; more samples repay more steps, as their root up to
    three times as many. At least five samples are held out, or half of them, so that a standard error over them means
    something.

    Examples
    --------
    >>> recipe = default_recipe(DependencyGraph.chain(128), 800)
    >>> recipe.batch_size, recipe.steps
    (32, 3000)
    """
    batch = min(32, max(4, round(SITES / len(graph))))
    share = min(max(validation_fraction, 5 / n_samples), 0.5)
    least = max(1000, 1500 * min(SITES / (batch * len(graph)), 1.0))
    steps = round(least * min(max(math.sqrt(n_samples / 200), 1), 3))
    return Recipe(steps=steps, batch_size=batch, held_out=share, seed=seed)


def make_network(
    graph: DependencyGraph, *, radius: int | None, n_channels: int, n_shown: int, embedding: int, seed: int
) -> Network:
    """Make the network that suits a graph: convolutions on lattices, gathered windows elsewhere.

    Examples
    --------
    >>> network = make_network(
    ...     DependencyGraph.grid((8, 8)), radius=None, n_channels=1, n_shown=0, embedding=0, seed=0
    ... )
    >>> type(network).__name__, network.radius
    ('StencilNetwork', 4)
    """
    kind = WindowNetwork if graph.lattice is None else StencilNetwork
    if radius is None:
        radius = NETWORK_RADIUS
        while graph.lattice is None and radius > 1 and graph.neighborhood(radius).index.shape[1] > CROWDED:
            radius -= 1
    return kind(graph, radius, n_channels=n_channels, n_shown=n_shown, embedding=embedding, seed=seed)


def fit_network(
    samples: Samples,
    kind: Literal["neural", "hybrid"],
    *,
    hops: int,
    pooling: Pooling,
    recipe: Recipe,
    radius: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Callable[[int, float], object] | None = None,
) -> NetworkFit:
    """Train networks of local scores, each on most of the samples.

    Parameters
    ----------
    samples : Samples
        Standardised.
    kind : {"neural", "hybrid"}
        Shown the state alone, or what the windowed Gaussian, fitted to the same samples, makes of it too.
    hops : int
        Of the Gaussian field of the same data, at most 64; for hybrids on chains.
    pooling : Pooling
        Of that Gaussian. A network is one law for all vertices; unless the pooling is complete it also learns numbers
        of each vertex.
    recipe : Recipe
    radius : int, optional
        Hops read in all: on lattices half by the network and half by the Gaussian it is shown, on other graphs by each.
        By default the network reads 4, off lattices fewer where windows are crowded; `shown_gaussian` says what the
        Gaussian does.
    checkpoint : path, optional
        File the training is kept in, and gone on from if it is there; of further members with their number added.
    progress : callable, optional
        Called after each step with the steps taken, of all members, and the last held-out loss.

    Returns
    -------
    NetworkFit

    Raises
    ------
    ValueError
        If there are too few samples to hold out two, or the checkpoint is of another training.
    OSError
        If the checkpoint cannot be read or written.
    """
    setting = _Setting(samples, kind, hops, pooling, radius)
    members = []
    for number in range(recipe.members):
        path = checkpoint if number == 0 or checkpoint is None else f"{os.fspath(checkpoint)}.{number}"
        members.append(_fit_member(setting, recipe, number, path, _counting(progress, number * recipe.steps)))
    return NetworkFit(tuple(members))


class _Setting(NamedTuple):
    """What all members of a fit have in common; as `fit_network` takes it."""

    samples: Samples
    kind: Literal["neural", "hybrid"]
    hops: int
    pooling: Pooling
    radius: int | None

    def network(self, seed: int) -> Network:
        """Make a network."""
        graph, channels = self.samples.graph, self.samples.n_channels
        hybrid = self.kind == "hybrid"
        return make_network(
            graph,
            radius=_shares(self.radius, graph)[0] if hybrid else self.radius,
            n_channels=channels,
            n_shown=SHOWN * channels if hybrid else 0,
            embedding=0 if self.pooling.one_law else EMBEDDING,
            seed=seed,
        )

    def score(self, network: Network, used: Samples, odd: bool, seed: int) -> NetworkScore | HybridScore:
        """Make a score of a network and what it is shown, fitted to some of the samples; an odd one has no square."""
        if self.kind == "neural":
            return NetworkScore(network)
        behind = _shares(self.radius, used.graph)[1]
        windowed = shown_gaussian(used, self.hops, self.pooling, radius=behind, seed=seed)
        return HybridScore(network, windowed, None if odd else fit_quadratic(used, windowed, seed))


def _fit_member(
    setting: _Setting,
    recipe: Recipe,
    number: int,
    checkpoint: str | os.PathLike[str] | None,
    progress: Callable[[int, float], object] | None,
) -> Member:
    samples, seed = setting.samples, recipe.seed_of_member(number)
    used, unseen = recipe.divide(samples, number)
    network, trained_on = setting.network(seed), samples.take(used)
    symmetries = symmetries_of(network, trained_on, recipe)
    recipe = replace(recipe, symmetries=tuple(symmetry.name for symmetry in symmetries))  # found once
    score = setting.score(network, trained_on, "negate" in recipe.symmetries, seed)
    training = train(
        score,
        samples,
        recipe,
        checkpoint=checkpoint,
        resume=checkpoint is not None,
        progress=progress,
        member=number,
    )
    return Member(score, training, used, unseen)


def _counting(tell: Callable[[int, float], object] | None, before: int) -> Callable[[int, float], object] | None:
    """Count the steps of earlier members too."""
    return None if tell is None else lambda step, loss: tell(before + step, loss)


def _shares(radius: int | None, graph: DependencyGraph) -> tuple[int | None, int | None]:
    """Hops of a network and of the Gaussian it is shown: half each where it reads that at its neighbours too."""
    if radius is None or graph.lattice is None:
        return radius, radius
    return radius - radius // 2, radius // 2


def choose_levels(
    samples: Samples, fit: NetworkFit, radius: int, pooling: Pooling, seed: int
) -> tuple[LevelChoice, ...]:
    """Compare a hybrid with the Gaussian field on standardised samples held out from both, by increasing noise.

    Of several members each is compared on what was held out from it, with a field of this radius and pooling that is
    fitted to what the member was trained on. The hybrid serves where it is better by more than one standard error, if
    its advantage summed over all levels is more than two; otherwise nowhere.
    """
    times = [time_of(sigma) for sigma in LEVELS]
    weight = 1.0 / (1.0 + np.square(LEVELS))[:, None]  # the loss over s^2 becomes that over sigma^2
    parts: list[list[np.ndarray]] = []
    numbers: list[np.ndarray] = []
    for number, member in enumerate(fit.members):
        numbers.append(
            member.unseen[~np.isin(member.unseen, np.concatenate([*numbers, []]))]
        )  # each sample counts once
        field = build_field(samples.take(member.used), radius, pooling).field
        scores: tuple[Score, ...] = (field, member.score)
        clean = torch.from_numpy(samples.values[numbers[-1]])
        # Noise goes by the place in the part: other members need other noise, or their losses would be correlated.
        noise = (seed + number) % 2**64
        parts.append([weight * held_out(s, clean, times, seed=noise, stream=Stream.EVALUATION) for s in scores])
    order = np.argsort(np.concatenate(numbers))
    losses = [np.concatenate(part, axis=1)[:, order] for part in zip(*parts, strict=True)]
    gain = losses[0] - losses[1]
    worth = gain.sum(axis=0)
    earned = worth.mean() > 2 * samples.standard_error(worth)
    levels = []
    for sigma, of_field, of_hybrid, difference in zip(LEVELS, *losses, gain, strict=True):
        error = samples.standard_error(difference)
        switched = bool(earned and difference.mean() > error)
        levels.append(LevelChoice(sigma, float(of_field.mean()), float(of_hybrid.mean()), error, switched))
    return tuple(levels)
