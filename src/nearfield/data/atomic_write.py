"""Files written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path

__all__ = ["replace_files", "replace_folder", "require_new", "require_target"]


def replace_files(contents: Mapping[Path, bytes | memoryview]) -> None:
    """Write every file beside its place, then move all into place: they are there whole, or as they were.

    What is there afterwards is on the disk, as is the name it goes by where the system can (not on Windows).

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     replace_files({Path(folder) / "numbers.json": b"{}"})
    ...     [path.name for path in Path(folder).iterdir()]
    ['numbers.json']
    """
    written: dict[Path, Path] = {}
    try:
        for target, content in contents.items():
            temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
            with open(temporary, "xb") as file:
                written[target] = temporary
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for target, temporary in written.items():
            os.replace(temporary, target)
    except OSError as error:
        reason = f"could not write {target}: {error.strerror or error}; free space or choose another place"
        raise type(error)(error.errno, reason) from error
    finally:
        for temporary in written.values():
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
    for folder in {target.parent for target in written}:
        _sync_folder(folder)


@contextlib.contextmanager
def replace_folder(target: Path) -> Iterator[Path]:
    """Give a new name beside a folder's place, and move what is written there into place; remove it after an error.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     with replace_folder(Path(place) / "new") as temporary:
    ...         temporary.mkdir()
    ...     [path.name for path in Path(place).iterdir()]
    ['new']
    """
    temporary, old = (target.with_name(f".{target.name}.{secrets.token_hex(8)}.{end}") for end in ("tmp", "old"))
    try:
        yield temporary
        if target.exists():
            os.replace(target, old)
        os.replace(temporary, target)
    except OSError as error:
        reason = f"could not write {target}: {error.strerror or error}; free space or choose another place"
        raise type(error)(error.errno, reason) from error
    finally:
        if old.exists() and not target.exists():
            os.replace(old, target)
        for folder in (temporary, old):
            shutil.rmtree(folder, ignore_errors=True)
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename itself durable."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def require_target(name: str, path: str | PathLike[str]) -> Path:
    """Return a path that a file can be written to, or a zarr store in place of another; refuse it before the work.

    Examples
    --------
    >>> require_target("path", "nowhere/report.html")
    Traceback (most recent call last):
    ...
    FileNotFoundError: path must be in an existing folder, got 'nowhere/report.html'; create nowhere first
    """
    target = _in_folder(name, path)
    if target.suffix == ".zarr" and target.is_dir():
        if not any((target / marker).exists() for marker in ("zarr.json", ".zgroup")):
            raise FileExistsError(
                f"{name} must be new or a zarr store, {str(path)!r} is another folder; choose another"
            )
    elif target.exists() and not target.is_file():  # replacing a device such as /dev/null would take it from the system
        if target.is_dir():
            raise IsADirectoryError(f"{name} must be a file, {str(path)!r} is a folder; choose another name")
        raise OSError(f"{name} must be a file, {str(path)!r} is a device; choose another name")
    return target


def require_new(name: str, path: str | PathLike[str]) -> Path:
    """Return a path that a folder can be moved to, or refuse it.

    Examples
    --------
    >>> require_new("store", ".")
    Traceback (most recent call last):
    ...
    ValueError: store must be a new folder, got '.', which exists; remove it or choose another
    """
    target = _in_folder(name, path)
    if target.exists():
        raise ValueError(f"{name} must be a new folder, got {str(path)!r}, which exists; remove it or choose another")
    return target


def _in_folder(name: str, path: str | PathLike[str]) -> Path:
    """Return a path in a folder that can be written to."""
    if not isinstance(path, str | PathLike):
        raise TypeError(f"{name} must be a path, got {path!r}; give the name of a file")
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(
            f"{name} must be in an existing folder, got {str(path)!r}; create {target.parent} first"
        )
    if not os.access(target.parent, os.W_OK):
        raise PermissionError(f"{name} must be in a folder that can be written to, got {str(path)!r}; choose another")
    return target
