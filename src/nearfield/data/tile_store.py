"""A model in a folder: one safetensors file for each tile and stage of its fit, and at the end the model's own file.

Each file is written whole or not at all, in the format of `nearfield.data.store` with its digest. A fit that was ended
goes on with the tiles that lack; a folder without the model's file is an unfinished fit.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from nearfield.data import manifest, store
from nearfield.data.atomic_write import replace_files

if TYPE_CHECKING:
    from numpy import ndarray

__all__ = ["TileStore", "begun_seed", "model_file"]

_MODEL = "model.safetensors"
_KIND = "fit"


def model_file(path: str | os.PathLike[str]) -> Path:
    """Return the file that tells of a model: the path itself, or that in a folder.

    Raises
    ------
    ValueError
        If the folder is an unfinished fit, or no model.
    """
    target = Path(path)
    if not target.is_dir():
        return target
    if not (target / _MODEL).exists():
        manifest.require(target)
        raise ValueError(f"{target} is an unfinished fit; run the same fit again to go on")
    return target / _MODEL


def begun_seed(path: Path) -> int | None:
    """Seed of a fit that was begun in a folder, if there is one."""
    seed: int | None = manifest.key_of(path).get("seed") if path.is_dir() else None
    return seed


@final
@dataclass(frozen=True)
class TileStore:
    """Arrays of tiles in a folder.

    Parameters
    ----------
    path : path
        The folder; see `claim`.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> with tempfile.TemporaryDirectory() as parent:
    ...     tiles = TileStore(Path(parent) / "maps.nearfield")
    ...     tiles.claim({"data": "5af1", "radius": 2})
    ...     tiles.write(3, {"mean": np.ones(2)})
    ...     tiles.done(), tiles.read(3)["mean"].tolist()
    ({3}, [1.0, 1.0])
    """

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path).absolute())  # workers may be elsewhere

    @classmethod
    def temporary(cls) -> TileStore:
        """Return a folder to be made that goes away with this object, or with the process."""
        parent = tempfile.mkdtemp(prefix="nearfield-")
        made = cls(Path(parent) / "fit")
        weakref.finalize(made, shutil.rmtree, parent, ignore_errors=True)
        return made

    def claim(self, key: Mapping[str, Any]) -> None:
        """Make the folder for a fit that a key of plain values tells from any other, or go on with that fit.

        Raises
        ------
        ValueError
            If the folder is of another fit, or of something else.
        OSError
            If it cannot be made or written to.
        """
        manifest.claim(self.path, key, _KIND)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the key."""
        return manifest.fingerprint(self.path)

    def write(self, tile: int, arrays: Mapping[str, ndarray], stage: str = "field") -> None:
        """Write the arrays of a tile whole or not at all; an OSError if the disk is full."""
        store.write(self._file(tile, stage), self._told(tile, stage), arrays)

    def read(self, tile: int, stage: str = "field") -> dict[str, ndarray]:
        """Return the arrays of a tile, which stay in the file; what is written to them stays in memory.

        The first time that a process reads a file, it checks the digest.

        Raises
        ------
        ValueError
            If the file is cut short, was altered, or is of another fit.
        OSError
            If it cannot be read.
        """
        file = self._file(tile, stage)
        state = file.stat()
        metadata = _verified(file, state.st_mtime_ns, state.st_size, state.st_ino)
        if metadata != self._told(tile, stage):
            raise ValueError(f"{file} is of another fit or tile; remove it, and run the same fit again")
        return store.mapped(file)[1]

    def done(self, stage: str = "field") -> set[int]:
        """Tiles that are written."""
        return {tile for tile, found in self._tiles() if found == stage}

    def forget(self, stage: str) -> None:
        """Remove the tiles of a stage."""
        for tile in self.done(stage):
            self._file(tile, stage).unlink(missing_ok=True)

    def forget_others(self, stage: str) -> None:
        """Remove the tiles of all stages but one."""
        for tile, found in list(self._tiles()):
            if found != stage:
                self._file(tile, found).unlink(missing_ok=True)

    def digest(self) -> str:
        """Digest of all tiles, from that in the head of each file."""
        state = hashlib.sha256()
        for tile, stage in sorted(self._tiles()):
            state.update(f"{stage} {tile} {store.header(self._file(tile, stage))['digest']}".encode())
        return state.hexdigest()

    @property
    def finished(self) -> bool:
        """Whether the model's file is there."""
        return (self.path / _MODEL).exists()

    def finish(self, metadata: Mapping[str, Any], arrays: Mapping[str, ndarray]) -> None:
        """Write the model's own file, which makes the folder a model."""
        manifest.clear(self.path)  # of workers that were lost
        store.write(self.path / _MODEL, metadata, arrays)

    def copied(self, path: Path) -> TileStore:
        """Return the same tiles in another folder, as links to the same files where the disk allows them."""
        if path.exists() and self.path.exists() and path.samefile(self.path):
            return self
        other = TileStore(path)
        other.claim(manifest.key_of(self.path))
        for tile, stage in self._tiles():
            _link(self._file(tile, stage), other._file(tile, stage))
        return other

    def _file(self, tile: int, stage: str) -> Path:
        return self.path / f"{stage}-{tile:06d}.safetensors"

    def _told(self, tile: int, stage: str) -> dict[str, Any]:
        return {"kind": "tile", "tile": tile, "stage": stage, "fit": self.fingerprint}

    def _tiles(self) -> Iterator[tuple[int, str]]:
        """Yield tile and stage of each file."""
        for path in os.scandir(self.path):
            if found := re.fullmatch(r"(.+)-(\d+)\.safetensors", path.name):
                yield int(found[2]), found[1]


@lru_cache(maxsize=1 << 20)
def _verified(file: Path, *state: int) -> dict[str, Any]:  # noqa: ARG001
    """Metadata of a file whose digest fits, checked once for a state of it."""
    return store.mapped(file, verify=True)[0]


def _link(source: Path, target: Path) -> None:
    if target.exists():
        return
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        replace_files({target: source.read_bytes()})
