"""Settings of a search: random numbers, threads and progress."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar, final

import torch
from joblib import Parallel, delayed

__all__ = ["Search", "one_torch_thread"]

_Found = TypeVar("_Found")

if hasattr(os, "register_at_fork"):
    # a forked worker lacks the threads of its parent, and a threaded product would wait for them for ever
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


@final
@dataclass(frozen=True)
class Search:
    """Settings of a search over candidates.

    Parameters
    ----------
    seed : int
        Seed of the shuffle into folds and of all draws.
    n_jobs : int, optional
        Threads over the folds, as in joblib.
    progress : callable, optional
        Called after every candidate.
    """

    seed: int = 0
    n_jobs: int | None = None
    progress: Callable[[], object] | None = None

    def over(self, function: Callable[..., _Found], folds: Iterable[object]) -> list[_Found]:
        """Return the results of a function of each fold, in threads."""
        with one_torch_thread():
            found: list[_Found] = Parallel(n_jobs=self.n_jobs, prefer="threads")(delayed(function)(f) for f in folds)
        return found

    def advance(self) -> None:
        """Report that a candidate is done."""
        if self.progress is not None:
            self.progress()


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Keep torch on one thread, since the folds run in parallel."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
