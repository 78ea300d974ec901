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

from nearfield.data.duplicate import duplicate_groups
from nearfield.fitting.closed_form import build_field
from nearfield.fitting.covariance import Pooling
from nearfield.fitting.cross_validation import standard_error
from nearfield.fitting.matching import held_out
from nearfield.fitting.quadratic import fit_quadratic
from nearfield.fitting.radius import LEVELS
from nearfield.fitting.recipe import Recipe
from nearfield.fitting.shown import shown_gaussian
from nearfield.fitting.training import TrainingReport, symmetries_of, train
from nearfield.graph import DependencyGraph
from nearfield.noise import Stream
from nearfield.process import time_of
from nearfield.score.base import Score
from nearfield.score.ensemble import EnsembleScore
from nearfield.score.hybrid import SHOWN, HybridScore, NetworkScore
from nearfield.score.network import Network
from nearfield.score.stencil import StencilNetwork
from nearfield.score.window import WindowNetwork

if TYPE_CHECKING:
    from jaxtyping import Float

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
    z: Float[np.ndarray, "sample vertex channel"],
    graph: DependencyGraph,
    kind: Literal["neural", "hybrid"],
    *,
    hops: int,
    pooling: Pooling,
    recipe: Recipe,
    radius: int | None = None,
    contiguous: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Callable[[int, float], object] | None = None,
) -> NetworkFit:
    """Train networks of local scores, each on most of the samples.

    Parameters
    ----------
    z : ndarray, shape (sample, vertex, channel)
        Standardised data, complete.
    graph : DependencyGraph
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
    contiguous : bool
        Samples are in order of time.
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
    members = []
    for number in range(recipe.members):
        path = checkpoint if number == 0 or checkpoint is None else f"{os.fspath(checkpoint)}.{number}"
        members.append(
            _fit_member(
                z, graph, kind, hops, pooling, recipe, radius, contiguous=contiguous, checkpoint=path, number=number,
                progress=_counting(progress, number * recipe.steps),
            )
        )  # fmt: skip
    return NetworkFit(tuple(members))


def _fit_member(
    z: Float[np.ndarray, "sample vertex channel"],
    graph: DependencyGraph,
    kind: Literal["neural", "hybrid"],
    hops: int,
    pooling: Pooling,
    recipe: Recipe,
    radius: int | None,
    *,
    contiguous: bool,
    checkpoint: str | os.PathLike[str] | None,
    number: int,
    progress: Callable[[int, float], object] | None,
) -> Member:
    used, unseen = recipe.divide(len(z), contiguous, number, duplicate_groups(z))
    channels, seed = z.shape[2], recipe.seed_of_member(number)
    embedding = 0 if pooling.one_law else EMBEDDING
    ahead, behind = _shares(radius, graph) if kind == "hybrid" else (radius, None)
    shown = SHOWN * channels if kind == "hybrid" else 0
    network = make_network(graph, radius=ahead, n_channels=channels, n_shown=shown, embedding=embedding, seed=seed)
    symmetries = symmetries_of(network, torch.from_numpy(z[used]), None, recipe, contiguous)
    recipe = replace(recipe, symmetries=tuple(symmetry.name for symmetry in symmetries))  # found once
    score: NetworkScore | HybridScore
    if kind == "neural":
        score = NetworkScore(network)
    else:
        windowed = shown_gaussian(z[used], graph, hops, pooling, radius=behind, contiguous=contiguous, seed=seed)
        odd = "negate" in recipe.symmetries  # so is the denoiser, and has no square
        quadratic = None if odd else fit_quadratic(windowed, z[used], contiguous=contiguous, seed=seed)
        score = HybridScore(network, windowed, quadratic)
    training = train(
        score,
        torch.from_numpy(z).float(),
        recipe,
        contiguous=contiguous,
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
    fit: NetworkFit,
    z: Float[np.ndarray, "sample vertex channel"],
    graph: DependencyGraph,
    *,
    radius: int,
    pooling: Pooling,
    contiguous: bool,
    seed: int,
) -> tuple[LevelChoice, ...]:
    """Compare a hybrid with the Gaussian field on samples held out from both, level by level.

    Of several members each is compared on what was held out from it. The hybrid serves where it is better by more than
    one standard error, if its advantage summed over all levels is more than two; otherwise nowhere.

    Parameters
    ----------
    fit : NetworkFit
        Of a hybrid.
    z : ndarray, shape (sample, vertex, channel)
        All samples, standardised.
    graph : DependencyGraph
    radius, pooling
        Of the field, which is fitted to the samples that a member was trained on.
    contiguous : bool
        Samples are in order of time.
    seed : int
        Of the noise.

    Returns
    -------
    tuple of LevelChoice
        By increasing noise.
    """
    times = [time_of(sigma) for sigma in LEVELS]
    weight = 1.0 / (1.0 + np.square(LEVELS))[:, None]  # the loss over s^2 becomes that over sigma^2
    parts: list[list[np.ndarray]] = []
    numbers: list[np.ndarray] = []
    for number, member in enumerate(fit.members):
        numbers.append(
            member.unseen[~np.isin(member.unseen, np.concatenate([*numbers, []]))]
        )  # each sample counts once
        field = build_field(z[member.used], graph, radius, pooling, standardize=False).field
        scores: tuple[Score, ...] = (field, member.score)
        clean = torch.from_numpy(z[numbers[-1]])
        # Noise goes by the place in the part: other members need other noise, or their losses would be correlated.
        noise = (seed + number) % 2**64
        parts.append([weight * held_out(s, clean, times, seed=noise, stream=Stream.EVALUATION) for s in scores])
    order = np.argsort(np.concatenate(numbers))
    losses = [np.concatenate(part, axis=1)[:, order] for part in zip(*parts, strict=True)]
    gain = losses[0] - losses[1]
    worth = gain.sum(axis=0)
    earned = worth.mean() > 2 * standard_error(worth, contiguous)
    levels = []
    for sigma, of_field, of_hybrid, difference in zip(LEVELS, *losses, gain, strict=True):
        error = standard_error(difference, contiguous)
        switched = bool(earned and difference.mean() > error)
        levels.append(LevelChoice(sigma, float(of_field.mean()), float(of_hybrid.mean()), error, switched))
    return tuple(levels)
