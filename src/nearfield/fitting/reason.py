"""Reason of the choice of the locality, in a sentence."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nearfield.fitting.pooling import Pooling
    from nearfield.fitting.selection import Candidate

__all__ = ["reason_of"]


def reason_of(
    choice: Candidate,
    best: Candidate,
    folds: int,
    ordered: bool,
    used: int,
    total: int,
    *,
    passed_over: bool,
    limit: str = "",
) -> str:
    """Name the choice and its rule; ``used`` of ``total`` vertices took part, `limit` ended the curve."""
    kind = "contiguous blocks" if ordered else "folds"
    where = "" if used == total else f", on {used} of the {total} vertices"
    pooled = _pooled(choice.pooling)
    if choice.location is not None:
        pooled += f", location and scale {_pooled(choice.location)}"
    if passed_over:
        rule = "it has the lowest held-out loss among candidates whose draws have the variance of the data"
    elif choice == best:
        rule = "it has the lowest held-out loss"
    else:
        rule = f"it is the smallest model within one standard error of the best (radius {best.radius}, {best.loss:.4f})"
    loss = f"{choice.loss:.4f} nats per dimension over {folds} {kind}{where}"
    return f"Radius {choice.radius}, {pooled}: {rule}, {loss}.{limit}"


def _pooled(pooling: Pooling) -> str:
    noised = f", with white noise of {pooling.nugget:g} of the variance" if pooling.nugget > 0.0 else ""
    if pooling.strength == 0.0:
        return f"every vertex on its own{noised}"
    near = (
        "all vertices alike" if math.isinf(pooling.bandwidth) else f"vertices within about {pooling.bandwidth:g} cells"
    )
    return f"pooled with strength {pooling.strength:g} over {near}{noised}"
