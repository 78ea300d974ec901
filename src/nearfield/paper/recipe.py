r"""The paper's recipe for a neural local score, as one object: section 4.2 of arXiv 2505.04417.

One network for all vertices is fitted by least squares to the noise :math:`\xi` at the centre of windows: the loss
(3.5)-(3.7) times :math:`s^2`. Each window has noise and a time of its own, the time drawn uniformly from the
linear-beta grid. Windows that reach over a border see the field mirrored there, which biases the score near it. No
samples are held out, gradients are not clipped, weights are not averaged, and training ends when its steps are over.
nearfield's own recipe is :mod:`nearfield.fitting.training`; this one is here to be compared with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, final, get_args

import numpy as np
import torch

from nearfield._checks import keep_counts, keep_floats, keep_seed, whole_number
from nearfield.fitting.acceleration import placed
from nearfield.fitting.adamw import AdamW, half_cosine
from nearfield.fitting.matching import DenoisingBatch, window_noise
from nearfield.noise import Stream
from nearfield.paper.score import PaperNetwork, PaperScore, Predicted
from nearfield.process import Schedule, noise_scale
from nearfield.samples import Samples

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

__all__ = ["PaperRecipe", "fit_paper", "keep_widths", "paper_batch"]


@final
@dataclass(frozen=True)
class PaperRecipe:
    """How the paper's network is trained; what the paper leaves open is marked as our choice.

    Parameters
    ----------
    widths : tuple of int
        Three hidden layers: the paper. Of 64: our choice. At least one: without, the network is linear.
    schedule : Schedule
        Grid of the times, drawn uniformly from those above 0: the paper, linear beta from 1e-4 to .02 in 1000 steps.
    predicts : {"noise", "score"}
        The noise: our choice between two ways of writing the paper's loss, which weight times differently.
    learning_rate : float
        Of Adam: the paper. At the start 4e-3, falling along half a cosine to zero at the end: our choice.
    steps : int
        Our choice.
    batch_size : int
        Windows in a step, made up of whole fields, at least one: our choice.
    seed : int
        Of the first weights, the order of samples, times and noise; in [0, 2**64).

    Raises
    ------
    TypeError, ValueError
        If a number is not whole or out of range, there is no hidden layer, or `predicts` is neither.

    Examples
    --------
    >>> PaperRecipe().fields_in_a_step(128, 200), PaperRecipe().fields_in_a_step(10_000, 200)
    (8, 1)
    """

    widths: tuple[int, ...] = (64, 64, 64)
    schedule: Schedule = field(default_factory=Schedule.ddpm)
    predicts: Predicted = "noise"
    learning_rate: float = 4e-3
    steps: int = 6000
    batch_size: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        keep_counts(self, "steps", "batch_size")
        keep_seed(self)
        keep_floats(self, "learning_rate")
        if not isinstance(self.schedule, Schedule):
            raise TypeError(f"schedule must be a Schedule, got {self.schedule!r}; Schedule.ddpm() is the paper's")
        keep_widths(self)
        if self.predicts not in get_args(Predicted):
            raise ValueError(f'predicts must be "noise" or "score", got {self.predicts!r}; use "noise"')
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be above 0 and finite, got {self.learning_rate!r}; 4e-3 is usual")

    def fields_in_a_step(self, n_vertices: int, n_samples: int) -> int:
        """Return how many whole fields give `batch_size` windows, about."""
        return min(max(self.batch_size // n_vertices, 1), n_samples)


def fit_paper(
    samples: Samples,
    radius: int,
    recipe: PaperRecipe | None = None,
    progress: Callable[[int, float], object] | None = None,
    device: str | torch.device = "cpu",
) -> PaperScore:
    """Train the paper's network, on all samples.

    Parameters
    ----------
    samples : Samples
        Standardised. Windows are mirrored at the borders of a whole lattice. On other graphs, of which the paper says
        nothing, absent entries of a window are zero.
    radius : int
        In hops.
    recipe : PaperRecipe, optional
    progress : callable, optional
        Called after each step with the steps taken and the step's loss, the mean squared error of its windows.
    device : str or torch.device
        Where the network is trained; afterwards it is on the processor.

    Returns
    -------
    PaperScore
        Its weights, in single precision, ask for no gradients.

    Examples
    --------
    >>> from nearfield.graph import DependencyGraph
    >>> losses = []
    >>> recipe = PaperRecipe(steps=150, batch_size=64)
    >>> samples = Samples(np.ones((20, 8, 1)), DependencyGraph.chain(8))
    >>> score = fit_paper(samples, 1, recipe, lambda _, loss: losses.append(loss))
    >>> sum(losses[-10:]) < sum(losses[:10]) / 2
    True
    """
    recipe = recipe or PaperRecipe()
    graph = samples.graph
    mirrors = graph.lattice is not None and graph.keep is None
    network = PaperNetwork(
        graph, radius, samples.n_channels, recipe.widths, padding="reflect" if mirrors else "absent", seed=recipe.seed
    )
    score = PaperScore(network, recipe.predicts)
    clean = torch.from_numpy(samples.values.astype(np.float32))
    with placed(score, device):
        _train(score, clean.to(device), recipe, progress)
    network.requires_grad_(False)
    return score


def _train(
    score: PaperScore,
    clean: Float[Tensor, "sample vertex channel"],
    recipe: PaperRecipe,
    progress: Callable[[int, float], object] | None,
) -> None:
    """Take all steps, on the device of the samples."""
    network, device = score.network, clean.device
    optimizer = AdamW(network.parameters())
    # Not the seed itself: the network's first weights have been drawn from the same number.
    words = np.random.SeedSequence([recipe.seed, Stream.TRAINING]).generate_state(1, np.uint64)
    generator = torch.Generator(device).manual_seed(int(words[0]))
    times = torch.tensor([t for t in recipe.schedule.times if t > 0], dtype=torch.float64, device=device)
    fields = recipe.fields_in_a_step(clean.shape[1], len(clean))
    order = torch.zeros(0, dtype=torch.int64, device=device)
    for step in range(recipe.steps):
        if len(order) < fields:
            order = torch.randperm(len(clean), generator=generator, device=device)
        batch, order = clean[order[:fields]], order[fields:]
        t = times[torch.randint(len(times), batch.shape[:2], generator=generator, device=device)]
        denoising = paper_batch(score, batch, t, window_noise(batch, network, generator))
        loss = denoising.squared_errors(network.on_windows).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(half_cosine(recipe.learning_rate, step, recipe.steps))
        if progress is not None:
            progress(step + 1, float(loss.detach()))


def paper_batch(
    score: PaperScore,
    clean: Float[Tensor, "sample vertex channel"],
    t: Float[Tensor, "sample row"],
    noise: Float[Tensor, "sample row width channel"],
) -> DenoisingBatch:
    r"""Noise windows, with the OU time as their noise level and :math:`\xi` or the score :math:`-\xi/s` as target."""
    xi = noise[:, :, 0]
    target = xi if score.predicts == "noise" else -xi / noise_scale(t).to(clean.dtype)[..., None]
    windows = DenoisingBatch.of_windows(score.network, clean, t, noise)
    return replace(windows, c_noise=t.to(clean.dtype), target=target)


def keep_widths(settings: Any) -> None:
    """Turn the widths of at least one hidden layer into a tuple that can be stored."""
    if not isinstance(settings.widths, Sequence) or isinstance(settings.widths, str):
        raise TypeError(f"widths must be a sequence, got {settings.widths!r}; (64, 64, 64) are the paper's")
    widths = tuple(whole_number("widths", w, 1, "give the width of each hidden layer") for w in settings.widths)
    if not widths:
        raise ValueError("widths must have at least one hidden layer, got (); (64, 64, 64) are the paper's")
    object.__setattr__(settings, "widths", widths)
