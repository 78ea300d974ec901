"""Networks of local scores fitted to data."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple, final

import numpy as np
import torch

from nearfield.fitting.acceleration import placed
from nearfield.fitting.context import Context, Locality, choose_context
from nearfield.fitting.quadratic import fit_quadratic
from nearfield.fitting.recipe import Recipe
from nearfield.fitting.training import TrainingReport, symmetries_of, train
from nearfield.graph import DependencyGraph
from nearfield.samples import Samples
from nearfield.score.context import FieldContext
from nearfield.score.ensemble import EnsembleScore
from nearfield.score.hybrid import (
    CONTEXT_PER_CHANNEL,
    MAP_PER_CHANNEL,
    ConditionalScore,
    HybridScore,
    NetworkScore,
)
from nearfield.score.network import Network
from nearfield.score.stencil import StencilNetwork
from nearfield.score.window import WindowNetwork

if TYPE_CHECKING:
    pass

__all__ = [
    "NETWORK_RADIUS",
    "Design",
    "NetworkFit",
    "TrainedNetwork",
    "default_recipe",
    "fit_conditional",
    "fit_network",
    "make_network",
]

SITES = 4096
"""Vertices in a batch of training, about: some hundredths of a second on small machines."""
NETWORK_RADIUS = 4
"""Hops that a network reads by default; fewer off lattices if windows are crowded."""
CROWDED = 32
"""Vertices in a window of a network off lattices, at most."""
EMBEDDING = 8
"""Learned numbers of each vertex, where vertices do not share one law."""
CONTEXTS = {"neural": 0, "hybrid": CONTEXT_PER_CHANNEL, "noise map": MAP_PER_CHANNEL}
"""Values of the context for each channel, by the kind of the networks."""
FEWEST = 20
"""Fewest samples of which some are held out for a network."""
_MAPPED = "It is shown what the whole Gaussian field makes of the state under a noise level of each value."


class TrainedNetwork(NamedTuple):
    """A network with its training and its samples.

    Attributes
    ----------
    score : NetworkScore or HybridScore
    training : TrainingReport
    used, unseen : ndarray of int
        Numbers of the samples trained on and held out.
    context : str
        What the network is shown, and why, in a sentence; empty without context.
    """

    score: NetworkScore | HybridScore
    training: TrainingReport
    used: np.ndarray
    unseen: np.ndarray
    context: str = ""


@final
@dataclass(frozen=True)
class NetworkFit:
    """The networks of a fit, of which the mean is the score."""

    networks: tuple[TrainedNetwork, ...]

    @property
    def score(self) -> NetworkScore | HybridScore | EnsembleScore:
        """That of the only network, or the mean of all."""
        scores = tuple(network.score for network in self.networks)
        return scores[0] if len(scores) == 1 else EnsembleScore(scores)

    @property
    def radius(self) -> int:
        """Hops read in all, or by the networks themselves where they are shown the whole field."""
        return max(n.score.network.radius if n.score.radius is None else n.score.radius for n in self.networks)


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
    graph: DependencyGraph, *, radius: int | None, n_channels: int, n_context: int, embedding: int, seed: int
) -> Network:
    """Make the network that suits a graph: convolutions on lattices, gathered windows elsewhere.

    Examples
    --------
    >>> network = make_network(
    ...     DependencyGraph.grid((8, 8)), radius=None, n_channels=1, n_context=0, embedding=0, seed=0
    ... )
    >>> type(network).__name__, network.radius
    ('StencilNetwork', 4)
    """
    kind = WindowNetwork if graph.lattice is None else StencilNetwork
    if radius is None:
        radius = NETWORK_RADIUS
        while graph.lattice is None and radius > 1 and graph.neighborhood(radius).index.shape[1] > CROWDED:
            radius -= 1
    return kind(graph, radius, n_channels=n_channels, n_context=n_context, embedding=embedding, seed=seed)


@final
@dataclass(frozen=True)
class Design:
    """Kind, reach and pooling of the networks of a fit.

    Attributes
    ----------
    kind : {"neural", "hybrid", "noise map"}
        Without context, with that of a Gaussian fitted to the same samples, or that of the whole Gaussian field under a
        noise level of each entry.
    locality : Locality
        Of that Gaussian. A network is one law for all vertices; unless the pooling is complete it also learns numbers
        of each vertex.
    radius : int, optional
        Hops read in all: on lattices half by the network and half by its Gaussian, on other graphs by each. By default
        the network reads 4, off lattices fewer where windows are crowded, and the context as `choose_context` has it.
    bounded : bool
        Whether the context is windows, whatever their loss.
    """

    kind: Literal["neural", "hybrid", "noise map"]
    locality: Locality
    radius: int | None = None
    bounded: bool = False

    def network(self, samples: Samples, seed: int) -> Network:
        """Make a network."""
        neural = self.kind == "neural"
        return make_network(
            samples.graph,
            radius=self.radius if neural else _split(self.radius, samples.graph)[0],
            n_channels=samples.n_channels,
            n_context=CONTEXTS[self.kind] * samples.n_channels,
            embedding=0 if self.locality.pooling.one_law else EMBEDDING,
            seed=seed,
        )

    def score(
        self, network: Network, used: Samples, unseen: Samples, recipe: Recipe, seed: int
    ) -> tuple[NetworkScore | HybridScore, str]:
        """Make a score of a network, its context fitted to the samples used, and say what it is shown.

        What a change of sign changes has no square. A context that reads the whole field is where the network starts;
        with noise maps, which always have that context, only if it would have been chosen.
        """
        if self.kind == "neural":
            return NetworkScore(network), ""
        times, radius = recipe.levels.grid(recipe.held_out_levels), _split(self.radius, used.graph)[1]
        context = choose_context(used, unseen, self.locality, times, radius=radius, bounded=self.bounded, seed=seed)
        full, maps = context.score.radius is None, self.kind == "noise map"
        if maps:
            context = Context(FieldContext(self.locality.field(used)), _MAPPED)
        quadratic = None if "negate" in recipe.symmetries else fit_quadratic(used, context.score, seed)
        return HybridScore(network, context.score, quadratic, full_start=full, noise_map=maps), context.reason


def fit_network(
    samples: Samples,
    design: Design,
    recipe: Recipe,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Callable[[int, float], object] | None = None,
    device: str | torch.device = "cpu",
) -> NetworkFit:
    """Train networks of local scores, each on most of the samples.

    Parameters
    ----------
    samples : Samples
        Standardised, missing values drawn.
    design : Design
    recipe : Recipe
    checkpoint : path, optional
        File that keeps the training, which resumes from it; for further networks with their number added.
    progress : callable, optional
        Called after each step with the steps taken, of all networks, and the last held-out loss.
    device : str or torch.device
        Where networks are trained; afterwards they are on the processor.

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
    networks = []
    for number in range(recipe.n_networks):
        path = checkpoint if number == 0 or checkpoint is None else f"{os.fspath(checkpoint)}.{number}"
        tell = _counting(progress, number * recipe.steps)
        networks.append(_fit_one(samples, design, recipe, number, checkpoint=path, progress=tell, device=device))
    return NetworkFit(tuple(networks))


def _fit_one(
    samples: Samples,
    design: Design,
    recipe: Recipe,
    number: int,
    *,
    checkpoint: str | os.PathLike[str] | None,
    progress: Callable[[int, float], object] | None,
    device: str | torch.device,
) -> TrainedNetwork:
    """Train one of the networks."""
    seed = recipe.network_seed(number)
    used, unseen = recipe.divide(samples, number)
    network, trained_on = design.network(samples, seed), samples.take(used)
    symmetries = symmetries_of(network, trained_on, recipe)
    recipe = replace(recipe, symmetries=tuple(symmetry.name for symmetry in symmetries))  # found once
    score, context = design.score(network, trained_on, samples.take(unseen), recipe, seed)
    with placed(score, device):
        training = train(
            score,
            samples,
            recipe,
            checkpoint=checkpoint,
            resume=checkpoint is not None,
            progress=progress,
            number=number,
        )
    return TrainedNetwork(score, training, used, unseen, context)


def fit_conditional(
    samples: Samples,
    n_given: int,
    radius: int,
    recipe: Recipe,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Callable[[int, float], object] | None = None,
    device: str | torch.device = "cpu",
) -> tuple[ConditionalScore, TrainingReport]:
    """Train a network of the last channels of standardised samples given the first ``n_given``, one law for all.

    An image of the lattice may change the meaning of a channel, so that no images are trained on.
    """
    channels = samples.n_channels - n_given
    network = make_network(
        samples.graph, radius=radius, n_channels=channels, n_context=n_given, embedding=0, seed=recipe.seed
    )
    score, recipe = ConditionalScore(network), replace(recipe, symmetries=(), n_networks=1)
    with placed(score, device):
        training = train(
            score, samples, recipe, checkpoint=checkpoint, resume=checkpoint is not None, progress=progress
        )
    return score, training


def _counting(tell: Callable[[int, float], object] | None, before: int) -> Callable[[int, float], object] | None:
    """Count the steps of earlier networks too."""
    return None if tell is None else lambda step, loss: tell(before + step, loss)


def _split(radius: int | None, graph: DependencyGraph) -> tuple[int | None, int | None]:
    """Hops of a network and of its Gaussian: half each where the network reads the context at its neighbours too."""
    if radius is None or graph.lattice is None:
        return radius, radius
    return radius - radius // 2, radius // 2
