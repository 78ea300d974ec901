"""Progress bars on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm.auto import tqdm

__all__ = ["fit_bars", "sample_bar"]


@contextmanager
def fit_bars(*, verbose: bool) -> Iterator[tuple[Callable[[], object], Callable[[int, int, float], object]]]:
    """Yield callbacks for each candidate of the choice, and for (steps done, steps, held-out loss) of the training."""
    choosing = tqdm(desc="choose locality", unit=" candidates", disable=not verbose)
    training = tqdm(desc="train", unit=" steps", disable=True)

    def trained(step: int, steps: int, loss: float) -> None:
        nonlocal training
        if training.disable and verbose:
            choosing.close()
            training = tqdm(desc="train", unit=" steps", total=steps)
        training.set_postfix({"held-out loss": f"{loss:.4f}"}, refresh=False)
        training.update(step - training.n)

    try:
        yield choosing.update, trained
    finally:
        choosing.close()
        training.close()


@contextmanager
def sample_bar(*, verbose: bool) -> Iterator[Callable[[int, int], None]]:
    """Yield a callback for (steps done, steps) of a sampler."""
    with tqdm(desc="sample", disable=not verbose) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show
