"""Model files: one JSON document and named arrays in a safetensors file, which cannot carry code.

The file is a standard safetensors file. Its metadata hold one string, ``nearfield``, the JSON of
``{"schema": 1, "digest": ..., "metadata": ...}``. The digest covers the metadata and every array, so an altered file is
refused, and it names the model in whatever the model generates.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.numpy

from nearfield.data.atomic_write import replace_files, require_target

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy import ndarray

__all__ = ["SCHEMA", "digest", "header", "mapped", "read", "write"]

SCHEMA = 1
"""Version of the layout of model files; a reader refuses any other."""

_KEY = "nearfield"

_DTYPES = {"BOOL": "?", "F16": "<f2", "F32": "<f4", "F64": "<f8"} | {
    f"{kind}{8 * size}": f"<{kind.lower()}{size}" for kind in "IU" for size in (1, 2, 4, 8)
}
"""Of numpy, by their names in the file."""


def write(path: str | os.PathLike[str], metadata: Mapping[str, Any], arrays: Mapping[str, ndarray]) -> None:
    """Write a model file in one step: it is there whole, or what was there before is untouched.

    Parameters
    ----------
    path : path
        Where to write; an existing file is replaced. The directory must exist.
    metadata : mapping
        Anything JSON can say, with keys that are strings.
    arrays : mapping of str to ndarray
        Arrays of numbers or booleans, kept with their dtype and shape.

    Raises
    ------
    ValueError
        If `metadata` cannot be said in JSON.
    TypeError
        If an array is not of numbers or booleans, or `path` is no path.
    OSError
        If the directory is missing or not writable, `path` is a directory or a device, or the disk full. Nothing is
        left behind.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(f"{folder}/model.nearfield", {"radius": 2}, {"scale": np.ones(3)})
    ...     metadata, arrays = read(f"{folder}/model.nearfield")
    >>> metadata, arrays["scale"].tolist()
    ({'radius': 2}, [1.0, 1.0, 1.0])
    """
    target = require_target("path", path)
    plain = {name: _plain(name, array) for name, array in arrays.items()}
    header = {"schema": SCHEMA, "digest": digest(metadata, plain), "metadata": metadata}
    payload = safetensors.numpy.save(plain, metadata={_KEY: _json(header)})
    replace_files({target: payload})


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, ndarray]]:
    """Read a model file and verify it.

    Parameters
    ----------
    path : path
        A file that `write` wrote.

    Returns
    -------
    metadata : dict
        As written.
    arrays : dict of str to ndarray
        As written.

    Raises
    ------
    ValueError
        If the file is not a nearfield model, is of another schema version, is cut short or was altered.
    OSError
        If there is no such file or it cannot be read.

    Examples
    --------
    >>> read("nowhere.nearfield")
    Traceback (most recent call last):
    ...
    FileNotFoundError: [Errno 2] No such file or directory: 'nowhere.nearfield'
    """
    source = Path(path)
    with open(source, "rb") as file:
        payload = file.read()
    header, _ = _headers(payload, source)
    try:
        arrays = safetensors.numpy.load(payload)
    except safetensors.SafetensorError as error:
        raise _damaged(source, error) from error
    _verify(header, arrays, source)
    return header["metadata"], arrays


def mapped(path: str | os.PathLike[str], *, verify: bool = False) -> tuple[dict[str, Any], dict[str, ndarray]]:
    """Return what `read` does, its arrays left in the file; the digest is checked on demand.

    What is written to the arrays stays in memory. Errors are those of `read`.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(f"{folder}/tile", {}, {"scale": np.ones(3)})
    ...     mapped(f"{folder}/tile", verify=True)[1]["scale"].tolist()
    [1.0, 1.0, 1.0]
    """
    source = Path(path)
    if source.stat().st_size == 0:  # nothing to map
        return read(source)
    payload = np.asarray(np.memmap(source, dtype=np.uint8, mode="c"))
    header, (start, places) = _headers(payload, source)
    arrays = {}
    try:
        for name, place in places.items():
            begin, end = place["data_offsets"]
            flat = payload[start + begin : start + end].view(_DTYPES[place["dtype"]])
            arrays[name] = flat.reshape(place["shape"])
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(source, error) from error
    if verify:
        _verify(header, arrays, source)
    return header["metadata"], arrays


def header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read ``schema``, ``digest`` and ``metadata`` alone; errors are those of `read`."""
    source = Path(path)
    with open(source, "rb") as file:
        length = file.read(8)
        payload = length + file.read(int.from_bytes(length, "little"))
    return _headers(payload, source)[0]


def digest(metadata: Mapping[str, Any], arrays: Mapping[str, ndarray]) -> str:
    """SHA-256 of metadata and arrays, in hexadecimal: the name of a model by its contents.

    Parameters
    ----------
    metadata : mapping
        Anything JSON can say.
    arrays : mapping of str to ndarray
        Arrays of numbers or booleans.

    Returns
    -------
    str
        64 hexadecimal digits, independent of the order of keys.

    Raises
    ------
    ValueError
        If `metadata` cannot be said in JSON.
    TypeError
        If an array is not of numbers or booleans.

    Examples
    --------
    >>> digest({"radius": 2}, {"scale": np.ones(3)})[:8]
    '04ffbbcd'
    >>> digest({"radius": 2}, {"scale": np.ones(3)}) == digest({"radius": 3}, {"scale": np.ones(3)})
    False
    """
    state = hashlib.sha256(_json(metadata).encode())
    for name in sorted(arrays):
        array = _plain(name, arrays[name])
        state.update(_json([name, array.dtype.str, array.shape]).encode())
        state.update(array.tobytes())
    return state.hexdigest()


def _headers(payload: bytes | ndarray, source: Path) -> tuple[dict[str, Any], tuple[int, dict[str, Any]]]:
    """Return the header, and where the arrays begin and lie from there."""
    try:
        length = int.from_bytes(bytes(payload[:8]), "little")
        places = json.loads(bytes(payload[8 : 8 + length]))
        text = places.pop("__metadata__")[_KEY]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{source} is not a nearfield model or checkpoint, or only the beginning of one: no header of its kind in "
            f"the first {len(payload)} bytes; save the model again with .save(), or delete the checkpoint"
        ) from error
    return _header(text, source), (8 + length, places)


def _damaged(source: Path, error: Exception) -> ValueError:
    return ValueError(f"{source} is cut short or damaged ({error}); copy or save the model again")


def _verify(header: Mapping[str, Any], arrays: Mapping[str, ndarray], source: Path) -> None:
    if digest(header["metadata"], arrays) != header["digest"]:
        raise ValueError(f"{source} was altered after it was written: its digest does not match; copy or save it again")


def _header(text: str, source: Path) -> dict[str, Any]:
    try:
        header: dict[str, Any] = json.loads(text)
        schema = header["schema"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{source} has a nearfield header that cannot be read; copy or save the model again"
        ) from error
    if schema != SCHEMA:
        raise ValueError(
            f"{source} has schema version {schema!r}, this nearfield reads version {SCHEMA}; "
            "install the nearfield that wrote it, or save the model again"
        )
    if not isinstance(header.get("metadata"), dict) or not isinstance(header.get("digest"), str):
        raise ValueError(f"{source} has a nearfield header without metadata or digest; copy or save the model again")
    return header


def _json(value: Any) -> str:
    """Write JSON that stays the same text once read back, as digests need: number keys become strings first."""
    try:
        return json.dumps(json.loads(json.dumps(value)), sort_keys=True, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise ValueError(f"metadata must be plain JSON (dict, list, str, int, float, bool, None): {error}") from error


def _plain(name: str, array: ndarray) -> ndarray:
    """Contiguous and little-endian, as safetensors stores it; the library would write other strides scrambled."""
    array = np.asarray(array)
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise TypeError(f"array {name!r} must hold numbers or booleans of at most 8 bytes, got dtype {array.dtype}")
    shape = array.shape  # ascontiguousarray makes a scalar one-dimensional
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).reshape(shape)
