"""The rules: one held-out loss, one budget of CPU seconds for search and final fit together, one part held out.

With one exception: of several networks of nearfield's hybrid only the first is held out that part. The others are held
out other parts and trained on it, so that `Split.loss` of such an ensemble is measured on data that it has seen.

Two fifths of the budget go to the search: every setting of a contestant's grid is tried for an equal share of it. The
setting with the lowest held-out loss is then fitted anew with the rest; should that end with a higher loss than a
trial, the trial's model is taken. A contestant of closed form takes what it takes, up to a limit; it is fitted anew to
all the data, which one that stops by held-out loss cannot be.
"""

from __future__ import annotations

import abc
import importlib
import signal as unix
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch

from nearfield import samples as data
from nearfield.fitting.matching import NoiseLevels
from nearfield.fitting.recipe import Recipe
from nearfield.process import noise_scale, per_sample, signal_scale

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from benchmarks.law import Law

    Samples = Float[np.ndarray, "sample vertex channel"]

SEARCH = 0.4
"""Share of the budget that the search gets."""
LIMIT = 3.0
"""A contestant is stopped after so many times its budget."""
HELD_OUT = 0.15
LEVELS = 8
"""Noise levels of the held-out loss."""


@dataclass(frozen=True)
class Split:
    """Training data of one law, divided once for all contestants but the further networks of nearfield's hybrid.

    Attributes
    ----------
    law : Law
    x : (sample, vertex, channel)
        Standardised.
    seed : int
        Of the data, the division and the fits.
    """

    law: Law
    x: Samples
    seed: int

    @cached_property
    def parts(self) -> tuple[Int[np.ndarray, " sample"], Int[np.ndarray, " sample"]]:
        """Sample numbers to train on, and held out: those of nearfield's first network with the same seed."""
        return Recipe(held_out=HELD_OUT, seed=self.seed).divide(data.Samples(self.x, self.law.graph))

    @property
    def used(self) -> Samples:
        """What is trained on."""
        return self.x[self.parts[0]]

    @property
    def unseen(self) -> Samples:
        """What settings and stopping are decided by."""
        return self.x[self.parts[1]]

    @cached_property
    def _noised(self) -> tuple[Tensor, Tensor, Tensor]:
        clean = torch.from_numpy(self.unseen).float().repeat(LEVELS, 1, 1)
        t = torch.tensor(NoiseLevels().grid(LEVELS), dtype=torch.float64).repeat_interleave(len(self.unseen))
        xi = torch.randn(clean.shape, generator=torch.Generator().manual_seed(self.seed))
        a, s = (per_sample(scale(t)).float() for scale in (signal_scale, noise_scale))
        return a * clean + s * xi, t, clean

    @torch.no_grad()
    def loss(self, denoise: Callable[[Tensor, Tensor], Tensor]) -> float:
        """Held-out |D - x|^2 / s^2 at fixed noise: one number for whatever denoises."""
        x, t, clean = self._noised
        return float((((denoise(x, t) - clean) / per_sample(noise_scale(t)).float()) ** 2).mean())


class Fitted(NamedTuple):
    """What a contestant made of the data; what it cannot do is None.

    Attributes
    ----------
    loss : float
        Held-out: of `Split.loss`, or minus the log-density per dimension. Nan where nothing was held out.
    denoise : callable
        Of the state, a tensor, and the OU time, a number or a tensor of one per sample.
    log_prob : callable
        Log-density of samples, standardised.
    sample : callable
        Of how many and a seed.
    """

    loss: float
    denoise: Callable[[Tensor, float | Tensor], Tensor] | None = None
    log_prob: Callable[[Samples], Float[np.ndarray, " sample"]] | None = None
    sample: Callable[[int, int], Samples] | None = None


class Contestant(abc.ABC):
    """Something to be fitted: a grid of settings, and how one of them is fitted in so many CPU seconds.

    Attributes
    ----------
    name : str
    kind : {"denoiser", "density"}
        What it is judged by: excess risk, or held-out log-density and AUC.
    own : bool
        Whether it is nearfield's.
    trained : bool
        Whether it spends what it is given; else a closed form.
    modules : tuple of str
        What it needs, imported before the clock starts.
    """

    name: str
    kind: Literal["denoiser", "density"]
    own = False
    trained = True
    modules: tuple[str, ...] = ()

    @abc.abstractmethod
    def grid(self, law: Law) -> list[dict[str, Any]]:
        """Return the settings to try; a single one is not searched for."""

    def begin(self, split: Split) -> None:  # noqa: B027
        """Do what is done once, before the search and within the budget."""

    @abc.abstractmethod
    def fit(self, setting: dict[str, Any], split: Split, seconds: float, *, final: bool) -> Fitted:
        """Fit in about so many CPU seconds; the final fit is that of the chosen setting."""


class Trial(NamedTuple):
    """One setting of the search."""

    setting: dict[str, Any]
    seconds: float
    loss: float


class Outcome(NamedTuple):
    """How a contestant fared: a winner, or why there is none."""

    fitted: Fitted | None
    setting: dict[str, Any] | None
    trials: list[Trial]
    seconds: float
    failure: str = ""


class OutOfTimeError(Exception):
    """A contestant spent its limit of CPU seconds."""


def compete(contestant: Contestant, split: Split, budget: float) -> Outcome:
    """Search, fit and count the CPU seconds; what goes wrong is said in the outcome."""
    trials: list[Trial] = []
    try:
        for module in contestant.modules:
            importlib.import_module(module)
    except (ImportError, RuntimeError) as error:
        return Outcome(None, None, trials, 0.0, f"cannot be imported: {error}")
    warm_up()
    start = time.process_time()
    try:
        with limited(LIMIT * budget):
            contestant.begin(split)
            grid = contestant.grid(split.law)
            best: Fitted | None = None
            for setting in grid if len(grid) > 1 else ():
                begun = time.process_time()
                fitted = contestant.fit(setting, split, SEARCH * budget / len(grid), final=False)
                trials.append(Trial(setting, time.process_time() - begun, fitted.loss))
                if best is None or fitted.loss < best.loss:
                    best, chosen = fitted, setting
            if best is None:
                chosen = grid[0]
            left = max(budget - (time.process_time() - start), 0.0)
            winner = contestant.fit(chosen, split, left, final=True)
            if best is not None and best.loss < winner.loss:
                winner = best
    except OutOfTimeError:
        return Outcome(None, None, trials, time.process_time() - start, f"not done in {LIMIT * budget:.0f} CPU s")
    except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
        return Outcome(None, None, trials, time.process_time() - start, f"{type(error).__name__}: {error}")
    return Outcome(winner, chosen, trials, time.process_time() - start)


@cache
def warm_up() -> None:
    """Let torch import what its first optimiser asks for, some CPU seconds, before anybody's clock runs."""
    weight = torch.ones(1, requires_grad=True)
    weight.sum().backward()
    torch.optim.AdamW([weight]).step()


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise `OutOfTimeError` once the process has spent so many CPU seconds (on Unix)."""

    def stop(*_: object) -> None:
        raise OutOfTimeError

    before = unix.signal(unix.SIGPROF, stop)
    unix.setitimer(unix.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        unix.setitimer(unix.ITIMER_PROF, 0)
        unix.signal(unix.SIGPROF, before)
