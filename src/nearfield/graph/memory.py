"""Results that are kept for reuse, within a bound of bytes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from threading import RLock
from typing import Any, TypeVar, final

__all__ = ["Memory"]

Kept = TypeVar("Kept")


@final
class Memory:
    """Results by key; those used longest ago make room for new ones.

    Parameters
    ----------
    limit : int
        Bytes kept at most. A result that is larger is made anew each time.

    Examples
    --------
    >>> memory = Memory(100)
    >>> memory.get("square", lambda: 12**2, size=lambda found: 8), memory.get("square", lambda: 0, size=lambda found: 8)
    (144, 144)
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._kept: dict[Hashable, tuple[Any, int]] = {}
        self._lock = RLock()

    def get(self, key: Hashable, make: Callable[[], Kept], size: Callable[[Kept], int]) -> Kept:
        """Return the result kept under a key, or make and keep it."""
        with self._lock:
            if key in self._kept:
                self._kept[key] = self._kept.pop(key)  # the latest
                kept: Kept = self._kept[key][0]
                return kept
            made = make()
            taken = size(made)
            if taken <= self.limit:
                while sum(bytes_ for _, bytes_ in self._kept.values()) + taken > self.limit:
                    del self._kept[next(iter(self._kept))]
                self._kept[key] = made, taken
            return made

    def first(self, keys: Iterable[Hashable]) -> Any | None:
        """Return the result kept under the first of these keys that has one, or None."""
        with self._lock:
            return next((self._kept[key][0] for key in keys if key in self._kept), None)
