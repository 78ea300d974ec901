"""Folders that work goes on in after it was ended: each has one purpose, told by its manifest."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nearfield._plain import plain
from nearfield.data import store
from nearfield.data.atomic_write import replace_files

__all__ = ["claim", "clear", "fingerprint", "key_of", "require"]

_NAME = "manifest.json"


def claim(folder: Path, key: Mapping[str, Any], kind: str) -> None:
    """Make a folder for work that a key of plain values tells from any other, or go on in the one there is.

    Parameters
    ----------
    folder : path
        In an existing folder.
    key : mapping
        Fingerprints of the data, and settings.
    kind : str
        What it holds, in words: ``"fit"``.

    Raises
    ------
    ValueError
        If the folder is of work with another key, or of another kind, or a file.
    OSError
        If it cannot be made or written to.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as parent:
    ...     for seed in (1, 1, 2):
    ...         claim(Path(parent) / "maps", {"seed": seed}, "fit")
    Traceback (most recent call last):
    ...
    ValueError: ...maps is the fit of other data or settings (seed); remove it or choose another path
    """
    asked = json.loads(json.dumps(plain(key)))
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, where a folder is to be made; remove it or choose another path")
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise type(error)(error.errno, f"could not make {folder}: {error.strerror}; choose another place") from error
    if not (folder / _NAME).exists():
        if any(not path.name.endswith(".tmp") for path in folder.iterdir()):
            require(folder)
        content = {"kind": kind, "digest": store.digest(asked, {}), "key": asked}
        replace_files({folder / _NAME: json.dumps(content, indent=1).encode()})
        return
    found = _read(folder)
    if found["kind"] != kind or found["digest"] != store.digest(asked, {}):
        names = sorted(name for name in {*found["key"], *asked} if found["key"].get(name) != asked.get(name))
        raise ValueError(
            f"{folder} is the {found['kind']} of other data or settings ({', '.join(names)}); remove it or choose "
            "another path"
        )
    clear(folder)


def clear(folder: Path) -> None:
    """Remove what processes were writing when they were ended."""
    for path in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            path.unlink()


def fingerprint(folder: Path) -> str:
    """Digest of the key that a folder is claimed with."""
    digest: str = _read(folder)["digest"]
    return digest


def key_of(folder: Path) -> dict[str, Any]:
    """Key that a folder is claimed with."""
    key: dict[str, Any] = _read(folder)["key"]
    return key


def require(folder: Path) -> None:
    """Refuse a folder that has no manifest."""
    if not (folder / _NAME).exists():
        raise ValueError(f"{folder} is a folder of something else; choose another path")


def _read(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / _NAME).read_bytes())
        if found["digest"] != store.digest(found["key"], {}) or not isinstance(found["kind"], str):
            raise ValueError("its digest does not match")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / _NAME} is damaged ({error}); copy it again, or remove {folder}") from error
    return found
