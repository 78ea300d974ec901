"""Standard normal numbers as a function of their address.

A number depends on (seed, stream, member, step, vertex, channel) alone. A field is therefore the same however the work
is split into batches, tiles or workers, and in whatever order it is done. The random words are those of the
counter-based Philox 4x64 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011); each becomes one
normal number by the inverse distribution function. The state of the generator is the address:

===========  ==========================================
key          seed, 0
counter 0    vertex // 4, a counter giving four words
counter 1    channel
counter 2    step * 2**8 + stream
counter 3    member
===========  ==========================================
"""

from __future__ import annotations

import enum
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, final

import numpy as np
from scipy.special import ndtri

if TYPE_CHECKING:
    from jaxtyping import Float64, Int

__all__ = ["Stream", "normals", "normals_at", "seed_of"]


@final
class Stream(enum.IntEnum):
    """Purpose of the numbers; different streams are independent."""

    INITIAL = 0
    """Initial states of a sampler."""
    STEP = 1
    """Noise of the steps of a sampler."""
    EXACT = 2
    """Exact draws, without a sampler."""
    CONDITIONAL = 5
    """Exact conditional draws."""
    REPORT = 6
    """Draws for a report."""
    CHECK = 7
    """Draws that check a fit."""
    TRAINING = 3
    """Noise that training adds to the data."""
    EVALUATION = 4
    """Noise that an evaluation adds to the data."""
    PROPOSAL = 8
    """Proposals of a Markov chain; the step is the sweep."""
    ACCEPTANCE = 9
    """Decisions of a Markov chain, by block; the step is the sweep."""


def seed_of(random_state: int | np.random.Generator | np.random.RandomState | None) -> int:
    """Turn a random state into one integer seed in [0, 2**64), to record and to draw from.

    None takes fresh entropy, an integer is its own seed, and a numpy generator is advanced by one draw.

    Raises
    ------
    TypeError, ValueError
        If `random_state` is none of these, or an integer out of range.

    Examples
    --------
    >>> seed_of(7)
    7
    """
    if random_state is None:
        return secrets.randbits(64)
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**64, dtype=np.uint64))
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**64, dtype=np.uint64))
    if isinstance(random_state, int | np.integer) and not isinstance(random_state, bool):
        _check_range("random_state", int(random_state), 64)
        return int(random_state)
    raise TypeError(
        f"random_state must be None, an integer or a numpy.random.Generator, got {type(random_state).__name__}"
    )


def normals(
    seed: int, stream: Stream, members: Sequence[int], step: int, n_vertices: int, n_channels: int
) -> Float64[np.ndarray, "member vertex channel"]:
    """Draw the standard normal numbers of some members.

    Parameters
    ----------
    seed : int
        In [0, 2**64), from :func:`seed_of`.
    stream : Stream
    members : sequence of int
        Numbers of the members, each in [0, 2**64), for example a range.
    step : int
        In [0, 2**32); 0 where there are no steps.
    n_vertices, n_channels : int
        Size of the field, at least 1. The numbers of the leading vertices and channels do not depend on it.

    Raises
    ------
    ValueError
        If an argument is out of its range.

    Examples
    --------
    >>> all_three = normals(0, Stream.INITIAL, range(3), 0, 5, 1)
    >>> bool(np.all(all_three[2:] == normals(0, Stream.INITIAL, [2], 0, 5, 1)))
    True
    """
    if n_vertices < 1:
        raise ValueError(f"n_vertices must be at least 1, got {n_vertices}")
    return _drawn(seed, stream, members, step, [(0, n_vertices)], n_channels)


def normals_at(
    seed: int, stream: Stream, members: Sequence[int], step: int, vertices: Int[np.ndarray, " vertex"], n_channels: int
) -> Float64[np.ndarray, "member vertex channel"]:
    """Draw the numbers of some vertices alone, those that `normals` gives them.

    Time grows with the vertices asked for, not with the field; runs of neighbouring numbers, such as the rows of a
    box, are drawn at once. Other arguments are as in `normals`.

    Parameters
    ----------
    vertices : ndarray of int
        Numbers of the vertices, each at least 0, in any order.

    Examples
    --------
    >>> whole = normals(0, Stream.INITIAL, range(2), 0, 9, 1)
    >>> bool(np.all(whole[:, [7, 2, 3]] == normals_at(0, Stream.INITIAL, range(2), 0, np.array([7, 2, 3]), 1)))
    True
    """
    if len(vertices) == 0 or vertices.min() < 0:
        raise ValueError(f"vertices must be one or more numbers of at least 0, got {vertices!r}")
    ends = np.flatnonzero(np.diff(vertices) != 1)
    first, last = vertices[np.append(0, ends + 1)], vertices[np.append(ends, len(vertices) - 1)]
    return _drawn(seed, stream, members, step, list(zip(first.tolist(), (last + 1).tolist(), strict=True)), n_channels)


def _drawn(
    seed: int, stream: Stream, members: Sequence[int], step: int, runs: list[tuple[int, int]], n_channels: int
) -> Float64[np.ndarray, "member vertex channel"]:
    """Draw the numbers of runs of vertices, one run after the other."""
    _check_range("seed", seed, 64)
    _check_range("step", step, 32)
    if n_channels < 1:
        raise ValueError(f"n_channels must be at least 1, got {n_channels}")
    for member in (min(members, default=0), max(members, default=0)):
        _check_range("members", member, 64)
    # Making a bit generator costs many times more than moving one.
    bits = np.random.Philox(key=seed)
    state = bits.state
    counter = state["state"]["counter"]
    words = np.empty(sum(stop - start for start, stop in runs), dtype=np.uint64)
    draws = np.empty((len(members), len(words), n_channels))
    for i, member in enumerate(members):
        for channel in range(n_channels):
            counter[1:] = (channel, (step << 8) + stream, member)
            end = 0
            for start, stop in runs:
                counter[0], begin, end = start // 4, end, end + stop - start
                bits.state = state
                words[begin:end] = bits.random_raw(stop - start + start % 4)[start % 4 :]
            draws[i, :, channel] = _normal_of(words)
    return draws


def _normal_of(words: np.ndarray) -> np.ndarray:
    """Return the normal quantile at the middle of each word's cell: never infinite, symmetric about 0."""
    # Of 2**53 cells the last middle would round to 1; of 2**52 every one is exact.
    uniform = (words >> np.uint64(12)).astype(np.float64)
    uniform += 0.5
    uniform *= 2.0**-52
    return ndtri(uniform, out=uniform)


def _check_range(name: str, value: int, bits: int) -> None:
    if not 0 <= value < 2**bits:
        raise ValueError(f"{name} must be in [0, 2**{bits}), got {value}")
