r"""Training of networks: localized denoising score matching (3.5)-(3.8) of arXiv 2505.04417, until it stops to pay.

AdamW with cosine decay and clipped gradients; the weights that are kept are an exponential moving average, that with
the lowest loss on held-out samples. Where the law has symmetries, images of the samples are trained on as well. The
noise of the held-out samples is fixed, so that losses at two checks differ by the network alone. Steps may be computed
in bfloat16, as long as the held-out loss cannot tell. Everything random comes from the seed of the recipe: a run that
was stopped and resumed ends with the same bits as one that was not, given the same number of threads.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal, final

import numpy as np
import torch

from nearfield.data import store
from nearfield.data.duplicate import duplicate_groups
from nearfield.fitting.acceleration import begins_in_bfloat16, kept_memory
from nearfield.fitting.cross_validation import standard_error
from nearfield.fitting.matching import (
    HeldOut,
    Problem,
    mean_loss,
    training_draws,
    vertex_loss,
    window_draws,
    window_errors,
)
from nearfield.fitting.recipe import Recipe
from nearfield.fitting.symmetry import Symmetry, chosen, drawn
from nearfield.fitting.training_state import Check, Run
from nearfield.module import describe
from nearfield.score.hybrid import HybridScore, NetworkScore
from nearfield.score.network import Network
from nearfield.score.stencil import StencilNetwork
from nearfield.score.window import WindowedNetwork

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

__all__ = ["Check", "TrainingReport", "train"]

Reason = Literal["budget", "patience", "diverged"]


@final
@dataclass(frozen=True)
class TrainingReport:
    """What training did.

    Attributes
    ----------
    losses : tuple of float
        Training loss of each step: per vertex and channel, at first 1 for a network alone and data of unit variance.
    checks : tuple of Check
        Held-out losses of the averaged weights, from before the first step on.
    best : Check
        That of the weights that were kept.
    seconds : float
        Wall time, summed over all parts of a resumed run.
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
    score: NetworkScore | HybridScore,
    x: Float[Tensor, "sample vertex channel"],
    recipe: Recipe,
    *,
    contiguous: bool,
    counted: Bool[Tensor, "sample vertex"] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    interval: float = 60.0,
    resume: bool = False,
    progress: Callable[[int, float], object] | None = None,
    member: int = 0,
) -> TrainingReport:
    """Train the network of a score in place; its weights then ask for no gradients.

    Networks that share nothing between vertices are trained by the sum of the vertices' losses, (3.7), and have their
    gradients clipped apart: each takes the steps it would take alone. (When to stop, and which average to keep, the
    mean of their held-out losses decides.) Where they have a sparsity, they are pruned after half the steps, and only
    what is pruned is kept.

    In bfloat16 some checks compare the held-out losses of the same averaged weights with and without it. Once they
    differ by more than the standard error of the loss, training goes on in single precision.

    Parameters
    ----------
    score : NetworkScore or HybridScore
    x
        Standardised data, without missing values; what is filled in is not to be counted.
    recipe : Recipe
    contiguous : bool
        Samples are in order of time, so that a block at the end is held out, and standard errors are over blocks.
    counted
        Vertices that count in each sample, as `complete_windows` finds them; all by default.
    checkpoint : path, optional
        File the run is stored in, at most every `interval` seconds and at the end.
    interval : float
        Seconds; 0 stores every step.
    resume : bool
        Go on from the checkpoint if there is one. A finished run is not trained further.
    progress : callable, optional
        Called after each step with the steps taken and the last held-out loss.
    member : int
        Which of the recipe's members this is.

    Returns
    -------
    TrainingReport

    Raises
    ------
    ValueError
        If the data are too few, not finite, not of this field, or not counted at all in the training or the held-out
        part; or the checkpoint is of another run; or steps are to be compiled and there is no compiler; or windows are
        to have noise of their own where the network reads no windows alone.
    TypeError
        If `x` holds no floating-point numbers.
    OSError
        If the checkpoint cannot be read or written.

    Examples
    --------
    >>> from nearfield.graph import DependencyGraph
    >>> from nearfield.score.stencil import StencilNetwork
    >>> score = NetworkScore(StencilNetwork(DependencyGraph.chain(8), radius=1, width=4))
    >>> x = torch.ones(20, 8, 1)
    >>> report = train(score, x, Recipe(steps=300, check_every=100, ema=0.9), contiguous=False)
    >>> report.best.loss < report.checks[0].loss / 2
    True
    """
    network = score.network
    checked(score, x, counted)
    if recipe.independent_windows and not (isinstance(network, WindowedNetwork) and network.n_shown == 0):
        raise ValueError(
            "independent_windows must be False, but for networks of windows that are shown nothing, got "
            f"{type(network).__name__} shown {network.n_shown} values; leave it out"
        )
    data = x.detach().to(next(network.parameters()))
    seed = recipe.seed_of_member(member)
    parts = recipe.divide(len(data), contiguous, member, duplicate_groups(x.detach().cpu().numpy()))
    (clean, mask), (unseen, unseen_mask) = divided(data, counted, parts)
    symmetries = symmetries_of(network, clean, mask, recipe, contiguous)

    run = Run(
        network.requires_grad_(True),
        weight_decay=recipe.weight_decay,
        ema=recipe.decay,
        seed=seed,
        bfloat16=begins_in_bfloat16(network, recipe.bfloat16, min(recipe.batch_size, len(clean)) * clean.shape[1]),
        compiles=recipe.compiled,
    )
    identity = "" if checkpoint is None else identity_of(score, recipe, data, contiguous, counted, member)
    if checkpoint is not None and resume and os.path.exists(checkpoint):
        run.load(checkpoint, identity)
    prune_at = max(1, recipe.steps // 2) if network.prunes else 0
    times = recipe.levels.grid(recipe.held_out_levels)
    held_out = HeldOut(score, unseen, times, seed=seed, counted=unseen_mask)

    start = stored = time.monotonic()
    before = run.seconds
    if not run.checks:
        check(run, held_out, contiguous, prune_at)
    while (reason := stopped(run, recipe, prune_at)) is None:
        step(run, score, clean, mask, recipe, symmetries)
        if run.step == prune_at:
            network.prune()
        admit(run)
        if run.step % recipe.check_every == 0 or run.step == recipe.steps:
            check(run, held_out, contiguous, prune_at)
        now = time.monotonic()
        run.seconds = before + now - start
        if checkpoint is not None and now - stored >= interval:
            run.save(checkpoint, identity)
            stored = time.monotonic()
        if progress is not None:
            progress(run.step, run.checks[-1].loss)
    if checkpoint is not None:
        run.save(checkpoint, identity)
    network.load_state_dict(run.best)
    network.requires_grad_(False)
    best = run.best_check(prune_at) or run.checks[0]
    return TrainingReport(
        tuple(run.losses),
        tuple(run.checks),
        best,
        run.seconds,
        reason,
        run.bfloat16_steps,
        tuple(symmetry.name for symmetry in symmetries),
    )


def step(
    run: Run,
    score: NetworkScore | HybridScore,
    clean: Float[Tensor, "sample vertex channel"],
    counted: Bool[Tensor, "sample vertex"] | None,
    recipe: Recipe,
    symmetries: tuple[Symmetry, ...] = (),
) -> None:
    """Change the weights once, by the gradient of one batch."""
    batch = run.next_batch(len(clean), min(recipe.batch_size, len(clean)))
    x, mask = drawn(symmetries, clean[batch], None if counted is None else counted[batch], run.generator)
    if recipe.independent_windows and isinstance(run.network, WindowedNetwork):
        squared = window_errors(run.network, x, *window_draws(recipe.levels, x, run.network, run.generator))
    else:
        squared = Problem.pose(score, x, *training_draws(recipe.levels, x, run.generator)).errors(
            run.forward, run.bfloat16
        )
    apart = run.network.apart
    loss = vertex_loss(squared, mask).sum() if apart else mean_loss(squared, mask)
    run.optimizer.zero_grad()
    loss.backward()
    run.network.clip(recipe.clip)
    run.optimizer.step(recipe.rate(run.step))
    run.losses.append(float(loss.detach()) / (squared.shape[1] if apart else 1))
    run.bfloat16_steps += run.bfloat16


def check(run: Run, held_out: HeldOut, contiguous: bool, since: int) -> None:
    """Record the held-out loss of the averaged weights; at some checks, see whether bfloat16 changes it."""
    loss = held_out.loss(run.averaged)
    with np.errstate(invalid="ignore", over="ignore"):  # a network that diverges has no finite loss
        run.record(Check(run.step, float(loss.mean()), standard_error(loss, contiguous)), since)
        if run.bfloat16 and compared(len(run.checks) - 1):
            rounded = held_out.loss(run.averaged, bfloat16=True)
            run.bfloat16 = bool(abs(np.mean(rounded - loss)) <= run.checks[-1].error)


def symmetries_of(
    network: Network,
    clean: Float[Tensor, "sample vertex channel"],
    counted: Bool[Tensor, "sample vertex"] | None,
    recipe: Recipe,
    contiguous: bool,
) -> tuple[Symmetry, ...]:
    """Symmetries that a network is trained with; a law that may differ from vertex to vertex is not asked for any."""
    one_law = isinstance(network, StencilNetwork) and not network.site.size
    if recipe.symmetries == "auto" and not one_law:
        return ()
    x = (clean if counted is None else clean * counted[:, :, None]).double().cpu().numpy()
    return chosen(recipe.symmetries, x, network.graph, contiguous=contiguous, seed=recipe.seed)


def admit(run: Run) -> None:
    """Put the new weights back into the class of bounded, pruned networks, and average them."""
    run.network.project()
    run.average.update_parameters(run.network)
    run.averaged.project()  # the average remembers what has been pruned


def compared(checks: int) -> bool:
    """Whether a check also measures what bfloat16 does to the loss: the first after the start, and as they double."""
    return checks > 0 and checks & (checks - 1) == 0


def stopped(run: Run, recipe: Recipe, since: int) -> Reason | None:
    """Why training is over; None while it is not."""
    if run.losses and not math.isfinite(run.losses[-1]):
        return "diverged"
    best = run.best_check(since)
    if best is not None and len(run.checks) - 1 - run.checks.index(best) >= recipe.patience:
        return "patience"
    return "budget" if run.step >= recipe.steps else None


def checked(
    score: NetworkScore | HybridScore,
    x: Float[Tensor, "sample vertex channel"],
    counted: Bool[Tensor, "sample vertex"] | None,
) -> None:
    """Refuse data that cannot be trained on."""
    score.check(x)
    if not bool(torch.isfinite(x).all()):
        raise ValueError("x must be finite, got missing or infinite values; fill them and leave them out of `counted`")
    if counted is not None and (counted.dtype != torch.bool or counted.shape != x.shape[:2]):
        raise ValueError(
            f"counted must be boolean of shape {tuple(x.shape[:2])}, got {counted.dtype} of {tuple(counted.shape)}; "
            "complete_windows makes it"
        )


def divided(
    data: Float[Tensor, "sample vertex channel"],
    counted: Bool[Tensor, "sample vertex"] | None,
    parts: tuple[np.ndarray, np.ndarray],
) -> tuple[tuple[Tensor, Tensor | None], tuple[Tensor, Tensor | None]]:
    """Return the samples of the training and of the held-out part, and what counts of them."""
    training, unseen = parts
    if counted is None:
        return (data[training], None), (data[unseen], None)
    counted = counted.to(data.device)
    return observed(data[training], counted[training]), observed(data[unseen], counted[unseen])


def observed(
    clean: Float[Tensor, "sample vertex channel"], counted: Bool[Tensor, "sample vertex"]
) -> tuple[Float[Tensor, "some vertex channel"], Bool[Tensor, "some vertex"]]:
    """Leave out samples in which nothing counts."""
    some = counted.any(dim=1)
    if int(some.sum()) < 2:
        raise ValueError(
            f"counted must be true somewhere in two samples of each part, got {int(some.sum())} of {len(some)}; "
            "a smaller radius loses fewer windows to missing values"
        )
    return clean[some], counted[some]


def identity_of(
    score: NetworkScore | HybridScore,
    recipe: Recipe,
    x: Float[Tensor, "sample vertex channel"],
    contiguous: bool,
    counted: Bool[Tensor, "sample vertex"] | None,
    member: int,
) -> str:
    """Digest of all that a run depends on besides its state; the weights are its state.

    What comes from a decomposition differs in its last digits with the number of threads, so that of spectra the first
    digits of the eigenvalues count.
    """
    config, fixed = score.network.graph.state()
    for name, value in score.state_dict().items():
        if name.endswith(".values"):
            fixed[name] = np.round((value / value.max()).cpu().numpy(), 5)
        elif not name.startswith("network.") and not name.endswith(".vectors"):
            fixed[name] = value.cpu().numpy()
    samples = {"x": x.cpu().numpy()} | ({} if counted is None else {"counted": counted.cpu().numpy()})
    settings = {
        "recipe": asdict(replace(recipe, members=1)),
        "contiguous": contiguous,
        "score": describe(score),
        "graph": config,
        "member": member,
    }
    return store.digest(settings, fixed | samples)
