r"""Training of one ReLU network per vertex: (3.3)-(3.8) and (3.16) of arXiv 2505.04417.

The loss (3.7) is a sum of one term for each vertex, and no two vertices share a weight, so each minimises its own term,
(3.8): every window has noise and a time of its own, gradients are clipped for each network apart, and each vertex stops
by its own held-out loss. Vertices are trained in blocks of a fixed size, whose weights share one batched product and
whose random numbers come from the seed and the first vertex of the block. The result does not depend on `n_jobs`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, final, get_args

import numpy as np
import torch
from joblib import Parallel, delayed

from nearfield._checks import keep_counts, keep_floats, keep_seed
from nearfield.fitting.adamw import AdamW, half_cosine
from nearfield.fitting.matching import DenoisingBatch, NoiseLevels, vertex_loss, window_noise
from nearfield.fitting.recipe import Recipe
from nearfield.fitting.search import one_torch_thread
from nearfield.noise import Stream
from nearfield.paper.recipe import keep_widths
from nearfield.paper.vertex import VertexNetworks, positive
from nearfield.samples import Samples
from nearfield.score.hybrid import NetworkScore
from nearfield.score.window import Padding

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

__all__ = ["BLOCK", "VertexRecipe", "VertexTraining", "fit_vertex_networks"]

BLOCK = 32
"""Vertices whose networks are trained together. Random numbers depend on it, so it does not follow `n_jobs`."""
HELD_OUT_LEVELS = 16
"""Noise levels of the held-out loss."""
CLIP = 5.0
"""Largest norm of the gradient of one network."""


@final
@dataclass(frozen=True)
class VertexRecipe:
    r"""How the networks of the vertices are trained; what the paper leaves open is marked as our choice.

    Parameters
    ----------
    widths : tuple of int
        Widths W of the hidden layers, one fewer than the depth L: our choice.
    sparsity : int, optional
        S of (3.3): parameters of a network that are not zero. `VertexNetworks.prune` leaves as many after half the
        steps: our choice.
    bound : float, optional
        B of (3.3): largest magnitude of a parameter.
    output_bound : float, optional
        C of (3.16): :math:`|u_j| \le C \sqrt{\log N} / s` with N samples.
    padding : {"absent", "reflect"}
        Entries of a window beyond a border are absent, or the field mirrored as in section 4.2 of the paper.
    levels : NoiseLevels
        Law of the noise-to-signal ratio, whose density weights the times of (3.6): our choice.
    learning_rate : float
        Of Adam, falling along half a cosine to zero at the end: our choice.
    steps : int
        Budget of each vertex: our choice.
    batch_size : int
        Samples in a step: our choice.
    held_out : float
        Share of the samples, in (0, 1), of which no network is trained: our choice.
    check_every : int
        Steps between checks of the held-out losses: our choice.
    patience : int
        Checks without a new best of its own after which a vertex is frozen: our choice.
    seed : int
        Of the first weights, the division, the order of samples, times and noise; in [0, 2**64).

    Raises
    ------
    TypeError, ValueError
        If a number is not whole or out of range, there is no hidden layer, or `padding` is neither.

    Examples
    --------
    >>> round(VertexRecipe(output_bound=2.0).limit(100), 3)
    4.292
    """

    widths: tuple[int, ...] = (16, 16)
    sparsity: int | None = None
    bound: float | None = None
    output_bound: float | None = None
    padding: Padding = "absent"
    levels: NoiseLevels = field(default_factory=lambda: NoiseLevels(center=-0.3, spread=1.4))
    learning_rate: float = 1e-2
    steps: int = 1000
    batch_size: int = 128
    held_out: float = 0.15
    check_every: int = 50
    patience: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        keep_counts(self, "steps", "batch_size", "check_every", "patience")
        keep_seed(self)
        keep_widths(self)
        if self.sparsity is not None:
            keep_counts(self, "sparsity")
        keep_floats(self, "learning_rate", "held_out")
        for name in ("bound", "output_bound"):
            if getattr(self, name) is not None:
                keep_floats(self, name)
                positive(name, getattr(self, name))
        if self.padding not in get_args(Padding):
            raise ValueError(f'padding must be "absent" or "reflect", got {self.padding!r}')
        if not isinstance(self.levels, NoiseLevels):
            raise TypeError(f"levels must be NoiseLevels, got {self.levels!r}")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be above 0 and finite, got {self.learning_rate!r}")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out must be in (0, 1), got {self.held_out!r}")

    def limit(self, n_samples: int) -> float | None:
        r"""Return :math:`K = C \sqrt{\log N}` of (3.16), None where the output is not bounded."""
        return None if self.output_bound is None else self.output_bound * math.sqrt(math.log(n_samples))


@final
@dataclass(frozen=True)
class VertexTraining:
    """Outcome of the training of each vertex.

    Attributes
    ----------
    best_step : ndarray of int, shape (vertex,)
        Steps after which the weights were kept; 0 where nothing beat the network that is zero everywhere.
    best_loss : ndarray, shape (vertex,)
        Held-out loss of these weights: per channel, about 1 at first for data of unit variance.
    seconds : float
        Wall time.
    """

    best_step: Int[np.ndarray, " vertex"]
    best_loss: Float[np.ndarray, " vertex"]
    seconds: float


def fit_vertex_networks(
    samples: Samples,
    radius: int,
    recipe: VertexRecipe | None = None,
    *,
    n_jobs: int | None = None,
    progress: Callable[[int, float], object] | None = None,
) -> tuple[NetworkScore, VertexTraining]:
    """Train one network for each vertex, (3.8).

    Parameters
    ----------
    samples : Samples
        Standardised; the last ones are held out where they are ordered.
    radius : int
        In hops.
    recipe : VertexRecipe, optional
    n_jobs : int, optional
        Blocks of vertices that are trained at once, as in joblib.
    progress : callable, optional
        Called after each block with the number of vertices trained so far and the mean of their held-out losses.

    Returns
    -------
    score : NetworkScore
        Its network is `VertexNetworks` in single precision; the weights ask for no gradients.
    training : VertexTraining

    Raises
    ------
    ValueError
        If there are too few samples to hold some out, or `padding` is "reflect" where a field cannot be mirrored.

    Examples
    --------
    >>> from nearfield.graph import DependencyGraph
    >>> recipe = VertexRecipe(steps=100, widths=(8,))
    >>> score, training = fit_vertex_networks(Samples(np.ones((20, 3, 1)), DependencyGraph.chain(3)), 1, recipe)
    >>> bool((training.best_loss < 0.5).all())
    True
    """
    start, graph = time.monotonic(), samples.graph
    recipe = recipe or VertexRecipe()
    division = Recipe(held_out=recipe.held_out, seed=recipe.seed)
    data = torch.from_numpy(samples.values.astype(np.float32))
    clean, unseen = (data[part] for part in division.divide(samples))
    make = _maker(samples, radius, recipe)
    blocks = [range(first, min(first + BLOCK, len(graph))) for first in range(0, len(graph), BLOCK)]
    network, step, loss = make(), np.empty(len(graph), dtype=np.int64), np.empty(len(graph))
    with one_torch_thread():
        trained = Parallel(n_jobs=n_jobs, prefer="threads", return_as="generator")(
            delayed(_train)(make(vertices=block), clean, unseen, recipe) for block in blocks
        )
        for block, (part, best) in zip(blocks, trained, strict=True):
            network.take(part)
            step[block], loss[block] = best.step, best.loss
            if progress is not None:
                progress(block.stop, float(loss[: block.stop].mean()))
    network.requires_grad_(False)
    return NetworkScore(network), VertexTraining(step, loss, time.monotonic() - start)


def _maker(samples: Samples, radius: int, recipe: VertexRecipe) -> partial[VertexNetworks]:
    """Return what makes the networks of some vertices."""
    return partial(
        VertexNetworks,
        samples.graph,
        radius,
        samples.n_channels,
        widths=recipe.widths,
        sparsity=recipe.sparsity,
        bound=recipe.bound,
        output_bound=recipe.limit(len(samples)),
        padding=recipe.padding,
        seed=recipe.seed,
    )


@final
class _Best:
    """The weights of each vertex at its best check so far; those of frozen vertices no longer change.

    The first are zero, a network of every class (3.3), in place of initial weights with a last layer of zeros.
    """

    def __init__(self, network: VertexNetworks, loss: Float[Tensor, " vertex"], patience: int) -> None:
        self.weights = torch.zeros_like(network.weights)
        self.loss, self.step = loss, torch.zeros(len(loss), dtype=torch.int64)
        self.live = torch.ones(len(loss), dtype=torch.bool)
        self._patience = patience

    @torch.no_grad()
    def update(self, network: VertexNetworks, loss: Float[Tensor, " vertex"], step: int, since: int) -> None:
        """Compare a check after `step` steps; patience counts from step `since` on at the earliest."""
        better = self.live & (loss < self.loss)
        self.weights[better], self.loss[better], self.step[better] = network.weights[better], loss[better], step
        self.live &= step - self.step.clamp_min(since) < self._patience


def _train(
    network: VertexNetworks,
    clean: Float[Tensor, "sample vertex channel"],
    unseen: Float[Tensor, "held_out vertex channel"],
    recipe: VertexRecipe,
) -> tuple[VertexNetworks, _Best]:
    """Train the networks of one block until each is frozen or the budget is spent."""
    assert network.vertices is not None
    source = np.random.SeedSequence([recipe.seed, Stream.TRAINING, network.vertices[0]])
    words = [int(word) for word in source.generate_state(2, np.uint64)]
    generator = torch.Generator().manual_seed(words[0])
    optimizer = AdamW([network.weights])
    since = max(1, recipe.steps // 2) if recipe.sparsity else 0
    best = _Best(network, _held_out_loss(network, unseen, recipe, words[1]), recipe.patience * recipe.check_every)
    order = torch.zeros(0, dtype=torch.int64)
    batch_size = min(recipe.batch_size, len(clean))
    for step in range(1, recipe.steps + 1):
        if len(order) < batch_size:
            order = torch.randperm(len(clean), generator=generator)
        batch, order = clean[order[:batch_size]], order[batch_size:]
        t = _times(recipe.levels, batch_size, len(network.vertices), generator)
        optimizer.zero_grad()
        denoising = DenoisingBatch.of_windows(network, batch, t, window_noise(batch, network, generator))
        vertex_loss(denoising.squared_errors(network.on_windows)).sum().backward()
        network.clip(CLIP)
        optimizer.step(half_cosine(recipe.learning_rate, step - 1, recipe.steps))
        network.prune() if recipe.sparsity and step == since else network.project()
        if step >= since and (step % recipe.check_every == 0 or step == recipe.steps):
            best.update(network, _held_out_loss(network, unseen, recipe, words[1]), step, since)
            if not best.live.any():
                break
    network.weights.data.copy_(best.weights)
    return network, best


def _times(levels: NoiseLevels, n_samples: int, n_rows: int, generator: torch.Generator) -> Float[Tensor, "sample row"]:
    """Draw a time for each window, those of a vertex one in each of as many equal parts of the law."""
    place, inside = torch.rand((2, n_samples, n_rows), generator=generator, dtype=torch.float64)
    return levels.times(((place.argsort(dim=0) + inside) / n_samples).clamp(1e-12, 1 - 1e-12))


@torch.no_grad()
def _held_out_loss(
    network: VertexNetworks, unseen: Float[Tensor, "sample vertex channel"], recipe: VertexRecipe, seed: int
) -> Float[Tensor, " row"]:
    """Loss of each vertex with the same noise at each call, a mean over fixed noise levels."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(len(network.index), dtype=torch.float64)
    for t in recipe.levels.grid(HELD_OUT_LEVELS):
        times = torch.full((len(unseen), len(total)), t, dtype=torch.float64)
        denoising = DenoisingBatch.of_windows(network, unseen, times, window_noise(unseen, network, generator))
        total += vertex_loss(denoising.squared_errors(network.on_windows)).double()
    return total / HELD_OUT_LEVELS
