"""Draws of large lattices, tile by tile: each step of each tile is a task of its own.

A task has the state of its tile and the borders of its neighbours, evaluates the score on the box around the tile,
and takes the sampler's step for the tile alone, with noise by address. The numbers are those that the sampler draws
with the `TiledScore` on one processor, to the last bit. What travels between tasks are the borders: of tiles of
125 x 125 cells, read within 16, some 60 kB.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from nearfield.graph.tiling import Box
from nearfield.noise import Stream, normals_at
from nearfield.sampling.base import Sampler, on_device
from nearfield.score.base import Score
from nearfield.score.tiled import TiledScore

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

__all__ = ["OnTile", "TiledDraws"]

OnTile = Callable[[int, Box, np.ndarray], object]
"""Takes a finished tile: number of the member, box of cells, and values (vertex, channel)."""


class _State(NamedTuple):
    """State of the sampler on a tile, and its memory."""

    x: Float[np.ndarray, "vertex channel"]
    memory: Float[np.ndarray, "vertex channel"] | None = None


@final
@dataclass(frozen=True)
class TiledDraws:
    """Draws of members by a sampler, tile by tile.

    Parameters
    ----------
    score : TiledScore
    sampler : Sampler
        One that reads the score once a step, where the step begins: not `Heun`. What it starts from is drawn here, for
        one member after the other.
    seed : int
        In [0, 2**64).
    dtype : torch.dtype
        Of the state.
    device : str
        Where the score is evaluated, on each worker.

    Raises
    ------
    ValueError
        If the sampler reads the score at other states than those that its steps begin with.

    Examples
    --------
    >>> from nearfield.graph import DependencyGraph
    >>> from nearfield.sampling.sampler import default_sampler
    >>> from nearfield.score.hybrid import NetworkScore
    >>> from nearfield.score.stencil import StencilNetwork
    >>> chain = NetworkScore(StencilNetwork(DependencyGraph.chain(9), radius=2))
    >>> score = TiledScore(chain, DependencyGraph.chain(40), (9,), (False,), side=(10,))
    >>> draws, sampler = TiledDraws(score, default_sampler(steps=5), seed=0), default_sampler(steps=5)
    >>> whole = sampler.sample(score, 2, seed=0, dtype=torch.float64)
    >>> bool(np.all(draws.sample(range(2)) == whole.numpy()))
    True
    """

    score: TiledScore
    sampler: Sampler
    seed: int
    dtype: torch.dtype = torch.float64
    device: str = "cpu"

    def __post_init__(self) -> None:
        state = torch.ones(1, 1, 1)
        self.sampler.step(
            _Reading(state, lambda _: torch.zeros_like(state)), state, 0, None
        )  # refuses samplers that read twice

    def sample(
        self,
        members: Sequence[int],
        *,
        client: Any = None,
        on_tile: OnTile | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Float[np.ndarray, "member vertex channel"] | None:
        """Draw members.

        Parameters
        ----------
        members : sequence of int
            Numbers of the members: a draw that was cut short is resumed with those that lack.
        client : distributed.Client, optional
            Of the workers that the tasks run on; by default they run here, one after the other.
        on_tile : callable, optional
            Takes each tile on the worker that has finished it, such as to write it; nothing is returned then.
        progress : callable, optional
            Called after each member with the number of members done and of all.
        """
        out = None if on_tile else np.empty((len(members), self.score.n_vertices, self.score.n_channels))
        for done, tiles in enumerate(self._drawn(members, client or _Here(), on_tile)):
            for tile, values in enumerate(tiles):
                if out is not None:
                    out[done, self._vertices(tile)] = values
            if progress is not None:
                progress(done + 1, len(members))
        return out

    def _drawn(self, members: Sequence[int], client: Any, on_tile: OnTile | None) -> Iterator[list[Any]]:
        """Yield the tiles of each member, or what stands for them once they are taken, with some members under way.

        Earlier steps go first: what is kept is then one state a tile, and a factorisation serves a whole step.
        """
        tiles, steps = range(len(self.score.tiling)), self.sampler.schedule.steps
        under_way = 1 + math.ceil(2 * sum(client.nthreads().values()) / len(tiles))
        here_alone = replace(self, sampler=replace(self.sampler, clean=None))  # it may be as large as the field
        draws = client.scatter(here_alone, broadcast=True, hash=False)
        waiting: deque[list[Any]] = deque()

        def submit(function: Callable[..., object], k: int, *arguments: Any) -> Any:
            return client.submit(function, draws, *arguments, pure=False, priority=-k)

        def exchanged(k: int, states: list[Any]) -> list[tuple[Any, list[Any]]]:
            borders = [submit(TiledDraws.border, k, tile, states[tile]) for tile in tiles]
            return [(states[tile], [borders[source] for source in self.sources(tile)]) for tile in tiles]

        for member in members:
            field = None if self.sampler.clean is None else self.sampler.clean(self.seed, member)
            own = [None if field is None else field[self._vertices(tile)] for tile in tiles]
            states = [submit(TiledDraws.start, 0, member, tile, own[tile]) for tile in tiles]
            del field, own
            for k in range(steps):
                given = exchanged(k, states)
                states = [submit(TiledDraws.step, k, k, member, tile, *given[tile]) for tile in tiles]
            given = exchanged(steps, states)
            waiting.append([submit(TiledDraws.finish, steps, member, t, *given[t], on_tile) for t in tiles])
            del states, given  # what is not referred to is forgotten by the workers
            if len(waiting) == under_way:
                yield client.gather(waiting.popleft())
        while waiting:
            yield client.gather(waiting.popleft())

    def start(self, member: int, tile: int, clean: Float[np.ndarray, "vertex channel"] | None = None) -> _State:
        """Return the initial state of a tile: noise, or a clean field with noise."""
        x = self._noise(Stream.INITIAL, member, 0, tile)
        if clean is not None:
            x = self.sampler.noised(torch.from_numpy(clean)[None].to(x), x)
        return _State(x.numpy()[0])

    def border(self, tile: int, state: _State) -> Float[np.ndarray, "cell channel"]:
        """Return the part of a tile's state that other tiles read."""
        part: np.ndarray = state.x[self._rim(tile).reshape(-1)]
        return part

    def step(self, k: int, member: int, tile: int, state: _State, borders: list[np.ndarray]) -> _State:
        """Take a step of the sampler, given the borders of the `sources` of the tile."""
        with torch.inference_mode():
            score, x = self._on_tile(tile, state, borders)
            memory = None if state.memory is None else torch.from_numpy(state.memory)[None].to(x)
            x, std, memory = self.sampler.step(score, x, k, memory)
            if std > 0:
                x = x + std * self._noise(Stream.STEP, member, k, tile).to(x)
            return _State(x[0].cpu().numpy(), None if memory is None else memory[0].cpu().numpy())

    def finish(
        self, member: int, tile: int, state: _State, borders: list[np.ndarray], on_tile: OnTile | None = None
    ) -> Float[np.ndarray, "vertex channel"] | None:
        """Return the tile after the last step, or give it away."""
        with torch.inference_mode():
            values: np.ndarray = self.sampler.finish(*self._on_tile(tile, state, borders))[0].cpu().numpy()
        if on_tile is None:
            return values
        on_tile(member, self.score.tiling.box(tile), values)
        return None

    def sources(self, tile: int) -> list[int]:
        """Other tiles that the score on a tile reads."""
        counts = self.score.tiling.counts
        along = (np.unique(line[at].owner) for line, at in zip(self._lines, self._place(tile), strict=True))
        found = [int(np.ravel_multi_index(place, counts)) for place in itertools.product(*along)]
        return [source for source in found if source != tile]

    def _vertices(self, tile: int) -> Int[np.ndarray, " vertex"]:
        return self.score.tiling.cells(self.score.tiling.box(tile))

    def _noise(self, stream: Stream, member: int, k: int, tile: int) -> Float[Tensor, "1 vertex channel"]:
        vertices = self._vertices(tile)
        return torch.from_numpy(normals_at(self.seed, stream, [member], k, vertices, self.score.n_channels)).to(
            self.dtype
        )

    def _on_tile(self, tile: int, state: _State, borders: list[np.ndarray]) -> tuple[_Reading, Tensor]:
        """Join a tile and the borders to its box; return the score there and the state."""
        tiling, score = self.score.tiling, self._score
        box, place = score.box(tile), self._place(tile)
        values = torch.empty(*box.shape, score.n_channels, dtype=self.dtype)
        for source, part in zip([*self.sources(tile), tile], [*borders, state.x], strict=True):
            whole = np.zeros((*tiling.box(source).shape, score.n_channels), dtype=part.dtype)
            whole[... if source == tile else self._rim(source)] = part.reshape(whole.shape) if source == tile else part
            lines = [line[at] for line, at in zip(self._lines, place, strict=True)]
            owned = [np.flatnonzero(line.owner == at) for line, at in zip(lines, self._place(source), strict=True)]
            cells = np.ix_(*(line.offset[own] for line, own in zip(lines, owned, strict=True)))
            values[np.ix_(*owned)] = torch.from_numpy(whole[cells])
        x = torch.from_numpy(state.x)[None].to(self.device)
        values = values.reshape(1, -1, score.n_channels).to(self.device)
        return _Reading(x, lambda t: score.denoise_tile(tile, values, t)), x

    @cached_property
    def _score(self) -> TiledScore:
        """The score on the device."""
        score = on_device(self.score, self.device)
        assert isinstance(score, TiledScore)
        return score

    def _place(self, tile: int) -> tuple[int, ...]:
        return tuple(int(at) for at in np.unravel_index(tile, self.score.tiling.counts))

    @cached_property
    def _lines(self) -> list[list[_Line]]:
        """Along each axis, what the box of a tile at each place reads."""
        tiling, lines = self.score.tiling, list[list[_Line]]()
        for axis, (count, length) in enumerate(zip(tiling.counts, tiling.lattice.shape, strict=True)):
            lines.append([])
            for at in range(count):
                first = int(
                    np.ravel_multi_index([at if a == axis else 0 for a in range(len(tiling.counts))], tiling.counts)
                )
                box = self.score.box(first)
                cells = np.arange(box.start[axis], box.stop[axis]) % length
                owner = np.minimum(cells // tiling.side[axis], count - 1)
                lines[axis].append(_Line(owner, cells - owner * tiling.side[axis]))
        return lines

    def _rim(self, tile: int) -> Bool[np.ndarray, "*cells"]:
        """Cells of a tile that others read: those that others along some axis do."""
        shape, inner = self.score.tiling.box(tile).shape, np.ones((), dtype=bool)
        for line, at, length in zip(self._lines, self._place(tile), shape, strict=True):
            read = np.zeros(length, dtype=bool)
            for other, its in enumerate(line):
                if other != at:
                    read[its.offset[its.owner == at]] = True
            inner = inner[..., None] & ~read
        return ~inner


class _Here:
    """A client whose tasks run at once."""

    def nthreads(self) -> dict[str, int]:
        """No member waits."""
        return {}

    def scatter(self, value: Any, **_: Any) -> Any:
        """Return the value."""
        return value

    def submit(self, function: Callable[..., Any], *arguments: Any, **_: Any) -> Any:
        """Call the function."""
        return function(*arguments)

    def gather(self, results: list[Any]) -> list[Any]:
        """Return the results."""
        return results


class _Line(NamedTuple):
    """Cells along an axis: the place of their tile, and where they are in it."""

    owner: Int[np.ndarray, " cell"]
    offset: Int[np.ndarray, " cell"]


class _Reading(Score):
    """The score on a tile at one state, whose surroundings are known."""

    radius = None

    def __init__(self, state: Tensor, denoise: Callable[[float], Tensor]) -> None:
        super().__init__()
        self.n_vertices, self.n_channels = state.shape[1:]
        self._state, self._denoise = state, denoise

    def forward(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Denoise the state; refuse another one, whose surroundings are not known."""
        if not torch.equal(x, self._state):
            raise ValueError(
                "sampler must read the score at the state that a step begins with, and once a step, to draw tile by "
                "tile; give DPMSolver2M, Ancestral or EulerMaruyama"
            )
        return self._denoise(float(t))
