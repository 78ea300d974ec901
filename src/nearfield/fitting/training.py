r"""Training of networks: localized denoising score matching (3.5)-(3.7) of arXiv 2505.04417, until it stops paying off.

AdamW with cosine decay and clipped gradients; the weights kept are the exponential moving average with the lowest loss
on held-out samples. Where the law has symmetries, networks are trained on images of the samples too. The noise of the
held-out samples is fixed, so that losses at two checks differ by the network alone. Steps may be computed in bfloat16,
as long as this does not change the held-out loss. Everything random comes from the seed of the recipe: a run that
was stopped and resumed ends with the same bits as one that was not, on the processor with the same number of threads.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal, final

import numpy as np
import torch

from nearfield.data import store
from nearfield.fitting.acceleration import begins_in_bfloat16, kept_memory
from nearfield.fitting.matching import DenoisingBatch, Gaps, HeldOut, present_mean, training_draws
from nearfield.fitting.noise_map import NoiseMaps, with_missing
from nearfield.fitting.recipe import Recipe
from nearfield.fitting.symmetry import Symmetry, chosen, drawn
from nearfield.fitting.training_state import Check, TrainingState
from nearfield.module import describe
from nearfield.samples import Completions, Samples
from nearfield.score.hybrid import ConditionalScore, Trainable
from nearfield.score.network import Network
from nearfield.score.stencil import StencilNetwork

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

__all__ = ["Check", "TrainingReport", "check", "step", "symmetries_of", "train"]

Reason = Literal["budget", "patience", "diverged"]


@final
@dataclass(frozen=True)
class TrainingReport:
    """Losses and course of a training.

    Attributes
    ----------
    losses : tuple of float
        Training loss of each step: per vertex and channel, at first 1 for a network alone and data of unit variance.
    checks : tuple of Check
        Held-out losses of the averaged weights, from before the first step on.
    best : Check
        That of the weights that were kept.
    seconds : float
        Wall time, summed over all parts of a resumed state.
    reason : {"budget", "patience", "diverged"}
        Why training stopped.
    bfloat16_steps : int
        Steps computed in bfloat16; fewer than all where the held-out loss differed.
    symmetries : tuple of str
        Names of the symmetries whose images were trained on.
    """

    losses: tuple[float, ...]
    checks: tuple[Check, ...]
    best: Check
    seconds: float
    reason: Reason
    bfloat16_steps: int = 0
    symmetries: tuple[str, ...] = ()


@kept_memory()
def train(
    score: Trainable,
    samples: Samples,
    recipe: Recipe,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    interval: float = 60.0,
    resume: bool = False,
    progress: Callable[[int, float], object] | None = None,
    number: int = 0,
) -> TrainingReport:
    """Train the network of a score in place, by its number in the recipe; its weights then ask for no gradients.

    Samples are standardised; of ordered ones a block at the end is held out. Missing values are drawn anew for each
    step, or with noise maps have infinite noise; errors count only where values are data. The run is stored at most
    every `interval` seconds and at the end, and resumes from its checkpoint if asked to. `progress` is called with the
    steps taken and the last held-out loss.
    """
    _refuse_unusable(score, samples)
    network = score.network
    used, unseen = recipe.divide(samples, number)
    symmetries = symmetries_of(network, samples.take(used), recipe)
    data = torch.from_numpy(samples.values).to(next(network.parameters()))
    seed = recipe.network_seed(number)
    clean = data[used] if samples.drawn is None else _with_gaps(samples.drawn.take(used), data)
    state = _begin(network, recipe, seed, min(recipe.batch_size, len(clean)) * data.shape[1])
    identity = "" if checkpoint is None else _identity_of(score, recipe, data, samples, number)
    maps = [symmetry.on(data.device) for symmetry in symmetries]
    observations = NoiseMaps.of(network.graph, data.device) if score.maps else None
    if checkpoint is not None and resume and os.path.exists(checkpoint):
        state.load(checkpoint, identity)
    times, left_out = recipe.levels.grid(recipe.held_out_levels), samples.take(unseen)
    held_out = HeldOut(score, data[unseen], times, seed=seed, present=left_out.present)

    start = stored = time.monotonic()
    before = state.seconds
    if not state.checks:
        check(state, held_out, samples)
    while (reason := _stopped(state, recipe)) is None:
        step(state, score, clean, recipe, maps, observations)
        state.average.update_parameters(state.network)
        if state.step % recipe.check_every == 0 or state.step == recipe.steps:
            check(state, held_out, samples)
        now = time.monotonic()
        state.seconds = before + now - start
        if checkpoint is not None and now - stored >= interval:
            state.save(checkpoint, identity)
            stored = time.monotonic()
        if progress is not None:
            progress(state.step, state.checks[-1].loss)
    if checkpoint is not None:
        state.save(checkpoint, identity)
    network.load_state_dict(state.best)
    network.requires_grad_(False)
    return _report(state, reason, symmetries)


def _begin(network: Network, recipe: Recipe, seed: int, vertices: int) -> TrainingState:
    """Begin a run, with so many vertices in a batch."""
    return TrainingState(
        network.requires_grad_(True),
        weight_decay=recipe.weight_decay,
        ema=recipe.decay,
        seed=seed,
        bfloat16=begins_in_bfloat16(network, recipe.bfloat16, vertices),
        compiles=recipe.compiled,
    )


def _report(state: TrainingState, reason: Reason, symmetries: tuple[Symmetry, ...]) -> TrainingReport:
    """Report the training."""
    return TrainingReport(
        tuple(state.losses),
        tuple(state.checks),
        state.best_check or state.checks[0],
        state.seconds,
        reason,
        state.bfloat16_steps,
        tuple(symmetry.name for symmetry in symmetries),
    )


def step(
    state: TrainingState,
    score: Trainable,
    clean: Float[Tensor, "sample vertex channel"] | Gaps,
    recipe: Recipe,
    maps: Sequence[tuple[Int[Tensor, " vertex"], float]] = (),
    observations: NoiseMaps | None = None,
) -> None:
    """Change the weights once, by the gradient of one batch; maps are the sources and signs of symmetries."""
    batch, present = state.next_batch(len(clean), min(recipe.batch_size, len(clean))), None
    if isinstance(clean, Gaps):
        x, present = clean.batch(batch, state.generator)
        x, present = drawn(maps, torch.cat([x, present], dim=2), state.generator).chunk(2, dim=2)
        present = present.abs()  # what is present has no sign
    else:
        x = drawn(maps, clean[batch], state.generator)
    t, noise = training_draws(recipe.levels, x, state.generator)
    if observations is not None:
        t, counted = observations.draw(t, x.shape[2], state.generator)
        if present is not None:
            t, noise = with_missing(t, noise, present > 0)
        present = counted if present is None else present * counted
    denoising = DenoisingBatch.of_score(score, x, t, noise)
    loss = present_mean(denoising.squared_errors(state.forward, state.bfloat16), present)
    state.optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(state.network.parameters(), recipe.clip)
    state.optimizer.step(recipe.rate(state.step))
    state.losses.append(float(loss.detach()))
    state.bfloat16_steps += state.bfloat16


def check(state: TrainingState, held_out: HeldOut, samples: Samples) -> None:
    """Record the held-out loss of the averaged weights; at some checks, see whether bfloat16 changes it.

    Once it does by more than the standard error of the loss, training goes on in single precision.
    """
    loss = held_out.loss(state.averaged)
    with np.errstate(invalid="ignore", over="ignore"):  # a network that diverges has no finite loss
        state.record(Check(state.step, float(loss.mean()), samples.standard_error(loss)))
        if state.bfloat16 and _compared(len(state.checks) - 1):
            rounded = held_out.loss(state.averaged, bfloat16=True)
            state.bfloat16 = bool(abs(np.mean(rounded - loss)) <= state.checks[-1].error)


def _with_gaps(drawn: Completions, like: Tensor) -> Gaps:
    """Return draws of what is missing as tensors."""
    return Gaps(torch.from_numpy(drawn.values).to(like), torch.from_numpy(drawn.present).to(like))


def symmetries_of(network: Network, samples: Samples, recipe: Recipe) -> tuple[Symmetry, ...]:
    """Symmetries that a network is trained with; a law that may differ from vertex to vertex is not asked for any."""
    one_law = isinstance(network, StencilNetwork) and not network.site.size
    if recipe.symmetries == "auto" and not one_law:
        return ()
    return chosen(samples.with_values(samples.values, network.graph), recipe.symmetries, recipe.seed)


def _compared(checks: int) -> bool:
    """Whether a check also measures what bfloat16 does to the loss: the first after the start, and as they double."""
    return checks > 0 and checks & (checks - 1) == 0


def _stopped(state: TrainingState, recipe: Recipe) -> Reason | None:
    """Why training is over; None while it is not."""
    if state.losses and not math.isfinite(state.losses[-1]):
        return "diverged"
    best = state.best_check
    if best is not None and len(state.checks) - 1 - state.checks.index(best) >= recipe.patience:
        return "patience"
    return "budget" if state.step >= recipe.steps else None


def _refuse_unusable(score: Trainable, samples: Samples) -> None:
    """Refuse samples that cannot be trained on."""
    samples.require_complete()
    given = score.n_given if isinstance(score, ConditionalScore) else 0
    score.check(torch.from_numpy(samples.values[..., given:]))
    if not np.isfinite(samples.values).all():
        raise ValueError("samples must be finite, got missing or infinite values")


def _identity_of(
    score: Trainable,
    recipe: Recipe,
    x: Float[Tensor, "sample vertex channel"],
    samples: Samples,
    number: int,
) -> str:
    """Digest of all that a run depends on besides its state; the weights are its state."""
    # Decompositions differ in their last digits with the number of threads: the first digits of eigenvalues count.
    config, fixed = score.network.graph.state()
    for name, value in score.state_dict().items():
        if name.endswith(".values"):
            fixed[name] = np.round((value / value.max()).cpu().numpy(), 5)
        elif not name.startswith("network.") and not name.endswith(".vectors"):
            fixed[name] = value.cpu().numpy()
    settings = {
        "recipe": asdict(replace(recipe, n_networks=1)),
        "ordered": samples.ordered,
        "score": describe(score),
        "graph": config,
        "number": number,
        "device": x.device.type,
    }
    fixed["x"] = x.cpu().numpy()
    if samples.present is not None:  # what is drawn follows from the data and the seed
        fixed |= {"x": np.where(samples.present, fixed["x"], 0), "present": samples.present}
    return store.digest(settings, fixed)
