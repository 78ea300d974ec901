"""Progress on stderr: bars in terminals and notebooks, elsewhere a line when a phase ends."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm.auto import tqdm

__all__ = ["fit_bars", "sample_bar", "task_bars"]


class _Phase:
    """A phase of the work, shown as a bar or by a line at its end; silent unless verbose, or where nothing is done."""

    def __init__(self, name: str, unit: str, *, verbose: bool) -> None:
        self.name, self.unit, self.verbose = name, unit, verbose
        self.lines = not (sys.stderr.isatty() or any(kind.__module__ == "tqdm.notebook" for kind in tqdm.__mro__))
        self.bar: tqdm | None = None
        self.done, self.total, self.note = 0, 0, ""
        self.start = self.last = time.monotonic()

    def show(self, done: int, total: int = 0, note: str = "") -> None:
        """Show that so many units are done, of so many if that is known."""
        self.done, self.total, self.note, self.last = done, total, note, time.monotonic()
        if not self.verbose or self.lines:
            return
        if self.bar is None:
            self.bar = tqdm(desc=self.name, unit=f" {self.unit}", total=total or None)
        self.bar.set_postfix_str(note, refresh=False)
        self.bar.update(done - self.bar.n)

    def end(self) -> None:
        """Close the bar, or write the line."""
        if self.bar is not None:
            self.bar.close()
        elif self.verbose and self.lines and self.done:
            of = f" of {self.total}" if self.total > self.done else ""
            note = f", {self.note}" if self.note else ""
            seconds = f"{self.last - self.start:.1f} s"
            print(f"{self.name}: {self.done}{of} {self.unit} in {seconds}{note}", file=sys.stderr, flush=True)
        self.verbose = False


@contextmanager
def fit_bars(*, verbose: bool) -> Iterator[tuple[Callable[[], object], Callable[[int, int, float], object]]]:
    """Yield callbacks for each candidate of the choice, and for (steps done, steps, held-out loss) of the training."""
    choosing = _Phase("choose locality", "candidates", verbose=verbose)
    training: _Phase | None = None

    def trained(step: int, steps: int, loss: float) -> None:
        nonlocal training
        if training is None:
            choosing.end()
            training = _Phase("train", "steps", verbose=verbose)
        training.show(step, steps, f"held-out loss {loss:.4f}")

    try:
        yield lambda: choosing.show(choosing.done + 1), trained
    finally:
        choosing.end()
        if training is not None:
            training.end()


@contextmanager
def task_bars(*, verbose: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Yield a callback for (phase, tasks done, tasks) of work in tasks, a bar or line for each phase."""
    phase: _Phase | None = None

    def show(name: str, done: int, total: int) -> None:
        nonlocal phase
        if phase is None or phase.name != name or done < phase.done:
            if phase is not None:
                phase.end()
            phase = _Phase(name, "tasks", verbose=verbose)
        phase.show(done, total)

    try:
        yield show
    finally:
        if phase is not None:
            phase.end()


@contextmanager
def sample_bar(*, verbose: bool) -> Iterator[Callable[[int, int], None]]:
    """Yield a callback for (steps done, steps) of a sampler."""
    phase = _Phase("sample", "steps", verbose=verbose)
    try:
        yield phase.show
    finally:
        phase.end()
