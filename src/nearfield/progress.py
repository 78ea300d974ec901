"""Progress bars of a fit, on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm.auto import tqdm

__all__ = ["fit_bars"]


@contextmanager
def fit_bars(*, verbose: bool) -> Iterator[tuple[Callable[[], object], Callable[[int, int, float], object]]]:
    """Progress of choosing and of training; the second bar appears when training starts.

    Parameters
    ----------
    verbose : bool
        Whether anything is shown.

    Yields
    ------
    chosen : callable
        To be called after each candidate.
    trained : callable
        To be called with the steps done, the steps to be done and the held-out loss.

    Examples
    --------
    >>> with fit_bars(verbose=False) as (chosen, trained):
    ...     chosen()
    ...     trained(10, 100, 0.5)
    """
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
