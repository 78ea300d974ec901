"""Draws that are written to a store member by member and tile by tile, on the workers there are."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfield import tasks
from nearfield.data.draw_store import DrawStore
from nearfield.distribution import DiffusionModel, Distribution, GaussianModel
from nearfield.graph.tiling import BoxTiling
from nearfield.model import Model
from nearfield.sampling.sampler import Sampler
from nearfield.score.tiled import TiledScore
from nearfield.score.tiled_factor import TiledFactor
from nearfield.transform.marginal import Marginal

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["draw_to_store"]


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
    law, tiling = model.law, _tiling(model)
    exact = isinstance(law, GaussianModel) and sampler is None
    used = None if exact else (sampler or law.default_sampler())
    key = {"model": attrs["nearfield_model"], "seed": str(seed), "sampler": repr(used)}
    store = DrawStore.create(path, model.codec, n_samples, tiling, key=key, attrs=attrs)
    left = sorted({member for member, _ in store.left()})
    if isinstance(law, GaussianModel) and exact:
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


def _tiling(model: Model) -> BoxTiling | None:
    """Tiles of a law that has them on a lattice."""
    if isinstance(model.law.score, TiledScore):
        return model.law.score.tiling
    for module in model.law.modules():
        if isinstance(module, TiledFactor) and isinstance(module.tiling, BoxTiling):
            return module.tiling
    return None


def _draw_exactly(member: int, law: GaussianModel, marginal: Marginal, store: DrawStore, seed: int) -> None:
    _write_whole(member, law.score.sample(1, seed=seed, first_member=member), marginal, store)


def _draw_one(
    member: int, law: Distribution, marginal: Marginal, store: DrawStore, seed: int, sampler: Sampler
) -> None:
    import torch

    with torch.no_grad():
        drawn = sampler.sample(law.score, 1, seed=seed, first_member=member, dtype=torch.float64)
    _write_whole(member, drawn.numpy(), marginal, store)


def _write_whole(
    member: int, drawn: Float[np.ndarray, "1 vertex channel"], marginal: Marginal, store: DrawStore
) -> None:
    """Write all tiles of a member."""
    values = marginal.inv(drawn)[0]
    for tile in range(store.n_tiles):
        tiling = store.tiling
        store.write(member, tile, values if tiling is None else values[tiling.vertices(tiling.box(tile))])


def _write(
    marginal: Marginal, store: DrawStore, member: int, box: Any, drawn: Float[np.ndarray, "vertex channel"]
) -> None:
    """Write a tile of a member, in the units of the data."""
    assert store.tiling is not None
    vertices = store.tiling.vertices(box)
    each = marginal.rescaled(marginal.center.numpy()[vertices], marginal.scale.numpy()[vertices])
    tile = next(k for k in range(len(store.tiling)) if store.tiling.box(k) == box)
    store.write(member, tile, each.inv(drawn[None])[0])
