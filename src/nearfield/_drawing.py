"""Draws that are written to a store member by member and tile by tile, on the workers there are."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfield import tasks
from nearfield.data.draw_store import DrawStore
from nearfield.distribution import DiffusionModel, Distribution, GaussianModel
from nearfield.graph.tiling import BoxTiling
from nearfield.model import Model
from nearfield.noise import Stream
from nearfield.sampling.sampler import Sampler
from nearfield.score.field import GaussianField
from nearfield.score.tile_sweep import draw_tiles
from nearfield.score.tiled import TiledScore
from nearfield.score.tiled_factor import TiledFactor
from nearfield.transform.marginal import Marginal

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["draw_to_store"]

TOGETHER = 16
"""Members of a field that are drawn together tile by tile; a draw that was cut short goes on with them."""


def draw_to_store(
    model: Model,
    path: str | os.PathLike[str],
    n_samples: int,
    seed: int,
    *,
    sampler: Sampler | None = None,
    attrs: Mapping[str, Any],
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Any:
    """Draw members to a zarr store, or go on with one that was begun, and open it."""
    law, tiling = model.law, model.tiling
    exact = isinstance(law, GaussianModel) and sampler is None
    used = None if exact else (sampler or law.default_sampler())
    key = {"model": attrs["nearfield_model"], "seed": str(seed), "sampler": repr(used)}
    store = DrawStore.create(path, model.codec, n_samples, tiling, key=key, attrs=attrs)
    left = sorted({member for member, _ in store.left()})
    if isinstance(law, GaussianModel) and exact and _in_tiles(law.score):
        _draw_in_tiles(left, law.score, model.marginal, store, seed, workers, progress)
    elif isinstance(law, GaussianModel) and exact:
        tasks.run(_draw_exactly, left, law, model.marginal, store, seed, workers=workers, progress=progress)
    elif isinstance(law, DiffusionModel) and isinstance(law.score, TiledScore):
        law.sample_tiles(
            left,
            seed=seed,
            sampler=sampler,
            client=tasks.active_client(),
            on_tile=partial(_write, model.marginal, store),
            progress=progress,
        )
    else:
        tasks.run(_draw_one, left, law, model.marginal, store, seed, used, workers=workers, progress=progress)
    store.complete()
    return store.opened()


def _in_tiles(field: GaussianField) -> bool:
    """Whether a field is drawn tile by tile: on a lattice, without a correction, whose block means come first."""
    factor = field.factor
    return field.coarse is None and isinstance(factor, TiledFactor) and isinstance(factor.tiling, BoxTiling)


def _draw_in_tiles(
    left: list[int],
    field: GaussianField,
    marginal: Marginal,
    store: DrawStore,
    seed: int,
    workers: int | None,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Draw some members together, each tile a task that writes it."""
    assert isinstance(field.factor, TiledFactor)
    done, total = 0, -(-len(left) // TOGETHER) * len(field.factor.tiling)
    take = partial(_write_tile, marginal=marginal, store=store)

    def run(function: Any, items: Any, *common: Any) -> list[Any]:
        nonlocal done
        shown = None if progress is None else lambda now, _: progress(done + now, total)
        found = tasks.run(function, items, *common, workers=workers, progress=shown)
        done += len(items)
        return found

    for first in range(0, len(left), TOGETHER):
        members = left[first : first + TOGETHER]
        draw_tiles(field.factor, members, partial(take, members), seed=seed, stream=Stream.EXACT, run=run)


def _draw_exactly(member: int, law: GaussianModel, marginal: Marginal, store: DrawStore, seed: int) -> None:
    store.write_whole(member, marginal.inv(law.score.sample(1, seed=seed, first_member=member))[0])


def _draw_one(
    member: int, law: Distribution, marginal: Marginal, store: DrawStore, seed: int, sampler: Sampler
) -> None:
    import torch

    with torch.no_grad():
        drawn = sampler.sample(law.score, 1, seed=seed, first_member=member, dtype=torch.float64)
    store.write_whole(member, marginal.inv(drawn.numpy())[0])


def _write(
    marginal: Marginal, store: DrawStore, member: int, box: Any, drawn: Float[np.ndarray, "vertex channel"]
) -> None:
    """Write a tile of a member, in the units of the data."""
    assert store.tiling is not None
    tile = next(k for k in range(len(store.tiling)) if store.tiling.box(k) == box)
    _write_tile([member], tile, drawn[None], marginal, store)


def _write_tile(
    members: Sequence[int],
    tile: int,
    drawn: Float[np.ndarray, "member vertex channel"],
    marginal: Marginal,
    store: DrawStore,
) -> None:
    """Write a tile of some members, in the units of the data."""
    assert store.tiling is not None
    vertices = store.tiling.vertices(store.tiling.box(tile))
    each = marginal.rescaled(marginal.center.numpy()[vertices], marginal.scale.numpy()[vertices])
    for member, values in zip(members, each.inv(drawn), strict=True):
        store.write(member, tile, values)
