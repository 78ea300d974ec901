"""Files written whole or not at all."""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path

__all__ = ["replace_file", "require_target"]


def replace_file(path: Path, content: bytes | memoryview) -> None:
    """Write through a temporary file in the same folder: the file is there whole, or as it was.

    Parameters
    ----------
    path : Path
        An existing file is replaced. The folder must exist.
    content : bytes or memoryview

    Raises
    ------
    OSError
        If it cannot be written; nothing is left behind.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     replace_file(Path(folder) / "numbers.json", b"{}")
    ...     [path.name for path in Path(folder).iterdir()]
    ['numbers.json']
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        raise OSError(f"could not write {path}: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def require_target(name: str, path: str | PathLike[str]) -> Path:
    """Return a path that a file can be written to, or refuse what could not be written after minutes of work.

    Parameters
    ----------
    name : str
        The argument, as the user knows it.
    path : path

    Raises
    ------
    TypeError
        If it is no path.
    OSError
        If its folder does not exist or cannot be written to, or it is a folder or a device itself.

    Examples
    --------
    >>> require_target("path", "nowhere/report.html")
    Traceback (most recent call last):
    ...
    FileNotFoundError: path must be in an existing folder, got 'nowhere/report.html'; create nowhere first
    """
    if not isinstance(path, str | PathLike):
        raise TypeError(f"{name} must be a path, got {path!r}; give the name of a file")
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(
            f"{name} must be in an existing folder, got {str(path)!r}; create {target.parent} first"
        )
    if not os.access(target.parent, os.W_OK):
        raise PermissionError(f"{name} must be in a folder that can be written to, got {str(path)!r}; choose another")
    if target.exists() and not target.is_file():  # replacing a device such as /dev/null would take it from the system
        if target.is_dir():
            raise IsADirectoryError(f"{name} must be a file, {str(path)!r} is a folder; choose another name")
        raise OSError(f"{name} must be a file, {str(path)!r} is a device; choose another name")
    return target
