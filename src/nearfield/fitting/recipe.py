"""How networks are trained: the numbers, and what follows from them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, final

import numpy as np

from nearfield._checks import keep_counts, keep_floats, keep_seed
from nearfield.fitting.adamw import half_cosine
from nearfield.fitting.matching import NoiseLevels
from nearfield.samples import Samples

__all__ = ["Recipe"]


@final
@dataclass(frozen=True)
class Recipe:
    r"""How a network is trained. The defaults are measured, for up to 200 samples of some hundred vertices.

    Parameters
    ----------
    steps : int
        Budget. The learning rate falls along half a cosine to zero at its end.
    batch_size : int
        Samples in a step; all training samples where there are fewer.
    learning_rate : float
        At the start.
    weight_decay : float
        Of AdamW, in units of the learning rate.
    clip : float
        Largest norm of the gradient.
    ema : float, optional
        Decay for each step of the average of the weights, in [0, 1); .99 averages over about the last 100 steps. By
        default over a twentieth of `steps`: a longer average lags behind in a short training.
    levels : NoiseLevels
        Law of the noise levels. By default wider than usual, as the strong ones decide the variance of draws.
    held_out : float
        Share of the samples that is held out, in (0, 1); at least two are.
    held_out_levels : int
        Fixed noise levels of the held-out loss.
    check_every : int
        Steps between checks of the held-out loss.
    patience : int
        Checks without a new best after which training stops.
    seed : int
        Of the division, the order of samples and all noise; in [0, 2**64).
    bfloat16 : bool or "auto"
        Whether a step computes the network in bfloat16, if it is a stencil network in single precision on a processor;
        weights, averages and held-out losses stay in single precision. ``"auto"``: where that is faster, in batches of
        8192 vertices or more on processors that have the instructions.
    compiled : bool
        Whether the steps of a stencil network go through torch's compiler, which needs a C++ compiler and Python's
        headers: worth it in trainings of more than a minute. Numbers differ by rounding, and a run is resumed with the
        setting it began with. The process compiles again whatever else it has compiled with torch.
    symmetries : "auto" or tuple of str
        Symmetries of the lattice under which images of the samples are trained on: of ``"reflect 0"`` (an axis turned
        around), ``"reflect all"``, of equal axes ``"exchange 0 1"``, ``"antitranspose 0 1"`` and ``"turn 0 1"``, a
        quarter turn, and ``"negate"``. ``"auto"``: those that the training samples do not contradict, if the network is
        one law for all vertices; ``()`` none.
    n_networks : int
        Networks, each trained in all the steps with another part of the samples held out, whose mean denoises. Training
        and sampling cost as many times as much. Of many, the last weights are as good as those that checks choose:
        ``check_every=steps`` has no checks between start and end.

    Raises
    ------
    TypeError, ValueError
        If a number is not whole or out of range.

    Examples
    --------
    >>> recipe = Recipe(steps=100)
    >>> [round(recipe.rate(step), 6) for step in (0, 50, 100)]
    [0.01, 0.005, 0.0]
    >>> recipe.decay
    0.8
    """

    steps: int = 1500
    batch_size: int = 32
    learning_rate: float = 1e-2
    weight_decay: float = 0.01
    clip: float = 5.0
    ema: float | None = None
    levels: NoiseLevels = field(default_factory=lambda: NoiseLevels(center=-0.3, spread=1.4))
    held_out: float = 0.15
    held_out_levels: int = 16
    check_every: int = 100
    patience: int = 8
    seed: int = 0
    bfloat16: Literal["auto"] | bool = "auto"
    compiled: bool = False
    symmetries: Literal["auto"] | tuple[str, ...] = "auto"
    n_networks: int = 1

    def __post_init__(self) -> None:
        keep_counts(self, "steps", "batch_size", "held_out_levels", "check_every", "patience", "n_networks")
        keep_seed(self)
        keep_floats(self, "learning_rate", "clip", "weight_decay", "held_out", *([] if self.ema is None else ["ema"]))
        if not isinstance(self.levels, NoiseLevels):
            raise TypeError(f"levels must be NoiseLevels, got {self.levels!r}; nearfield.fitting.matching has them")
        for name in ("learning_rate", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be above 0 and finite, got {getattr(self, name)!r}; see the defaults")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must be at least 0 and finite, got {self.weight_decay!r}; 0 is none")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise ValueError(f"ema must be in [0, 1), got {self.ema!r}; None suits the steps, 0 keeps the last weights")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out must be a share in (0, 1), got {self.held_out!r}; .15 is usual")
        if self.bfloat16 != "auto" and not isinstance(self.bfloat16, bool):
            raise ValueError(f"bfloat16 must be True, False or 'auto', got {self.bfloat16!r}; 'auto' is usual")
        if not isinstance(self.compiled, bool):
            raise ValueError(f"compiled must be True or False, got {self.compiled!r}")
        if self.symmetries != "auto" and not isinstance(self.symmetries, tuple):
            raise ValueError(f"symmetries must be 'auto' or a tuple of names, got {self.symmetries!r}; () uses none")

    def rate(self, step: int) -> float:
        """Learning rate of the step after `step` others."""
        return half_cosine(self.learning_rate, step, self.steps)

    @property
    def decay(self) -> float:
        """Decay of the average of the weights: `ema`, or what suits the steps."""
        return max(1 - 20 / self.steps, 0.0) if self.ema is None else self.ema

    def divide(self, samples: Samples, number: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Sample numbers for training and held out: the last ones, or drawn where samples come in no order.

        Further networks hold out earlier samples, and from the end again once all have been. Repeats of held-out
        samples are held out too, if anything else is left.
        """
        n_samples, groups = len(samples), samples.groups
        n_out = max(2, round(self.held_out * n_samples))
        if n_out >= n_samples:
            raise ValueError(
                f"x must have more than {n_out} samples to hold out {n_out}, got {n_samples}; fit a Gaussian"
            )
        order = np.arange(n_samples) if samples.ordered else np.random.default_rng(self.seed).permutation(n_samples)
        order = np.roll(order, number * n_out)
        parts = order[:-n_out], order[-n_out:]
        repeats = np.isin(groups[parts[0]], groups[parts[1]])
        if not repeats.all():
            parts = parts[0][~repeats], np.concatenate([parts[1], parts[0][repeats]])
        return (np.sort(parts[0]), np.sort(parts[1])) if samples.ordered else parts

    def network_seed(self, number: int) -> int:
        """Seed of weights and noise: that of the recipe for the first network, another for each."""
        return self.seed if number == 0 else int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
