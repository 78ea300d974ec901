"""Files written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["replace_file"]


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
