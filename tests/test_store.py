"""Model files come back as written, and nothing else is taken for one."""

import builtins
import json
import os
import struct

import numpy as np
import pytest
import safetensors.numpy

from nearfield.data import store
from nearfield.data.atomic_write import require_target

METADATA = {"radius": 2, "none": None, "nested": {"list": [1, 2.5, "Zürich"], "yes": True}, "inf": float("inf")}
ARRAYS = {
    "float64": np.linspace(0, 1, 7),
    "float32": np.float32([[1, 2], [3, 4]]),
    "int64": np.array(-5),
    "int16": np.arange(6, dtype=np.int16).reshape(2, 3)[:, ::-1],
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big endian": np.arange(4, dtype=">f8"),
    "bool": np.array([True, False]),
    "uint8": np.zeros((0, 3), dtype=np.uint8),
}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.nearfield"
    store.write(path, METADATA, ARRAYS)
    return path


def test_what_is_read_is_what_was_written(path):
    metadata, arrays = store.read(path)
    assert metadata == METADATA
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype.newbyteorder("<")
        assert arrays[name].shape == array.shape
        assert np.array_equal(arrays[name], array)


def test_file_is_plain_safetensors(path):
    """An independent reader sees the same arrays, and the header is one JSON string."""
    loaded = safetensors.numpy.load_file(path)
    assert np.array_equal(loaded["int16"], ARRAYS["int16"])
    with safetensors.safe_open(path, "numpy") as file:
        header = json.loads(file.metadata()["nearfield"])
    assert header["schema"] == store.SCHEMA == 1
    assert header["digest"] == store.digest(METADATA, ARRAYS)


def test_digest_depends_on_content_alone():
    assert store.digest({"b": 1, "a": 2}, {"y": np.ones(2), "x": np.zeros(1)}) == store.digest(
        {"a": 2, "b": 1}, {"x": np.zeros(1), "y": np.ones(2)}
    )
    digests = [
        store.digest({}, {"x": np.zeros(4)}),
        store.digest({}, {"y": np.zeros(4)}),
        store.digest({}, {"x": np.zeros((2, 2))}),
        store.digest({}, {"x": np.zeros(4, dtype=np.int64)}),
        store.digest({}, {"x": np.array([0, 0, 0, 1.0])}),
        store.digest({"x": 0}, {"x": np.zeros(4)}),
    ]
    assert len(set(digests)) == len(digests)


def test_number_keys_and_tuples_survive_as_json_has_them(tmp_path):
    store.write(tmp_path / "m", {"table": {10: (1, 2), 9: ()}}, {})
    assert store.read(tmp_path / "m")[0] == {"table": {"10": [1, 2], "9": []}}


def test_file_cannot_be_shortened(path):
    whole = path.read_bytes()
    for length in [*range(64), *range(64, len(whole), 7), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"not a nearfield model|cut short"):
            store.read(path)


def test_no_byte_can_be_altered(path):
    """Every byte of header and data is covered; bytes of the data by the digest alone."""
    whole = path.read_bytes()
    start = 8 + struct.unpack("<Q", whole[:8])[0]
    for place in [*range(0, start, 11), *range(start, len(whole))]:
        altered = bytearray(whole)
        altered[place] ^= 0x11
        path.write_bytes(altered)
        with pytest.raises(ValueError, match="altered" if place >= start else None):
            store.read(path)


def rewritten(path, **changes):
    with safetensors.safe_open(path, "numpy") as file:
        header = json.loads(file.metadata()["nearfield"])
    path.write_bytes(
        safetensors.numpy.save(safetensors.numpy.load_file(path), metadata={"nearfield": json.dumps(header | changes)})
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, "has schema version 2, this nearfield reads version 1"),
        ({"schema": None}, "schema version None"),
        ({"metadata": [1]}, "without metadata or digest"),
        ({"metadata": {"radius": 3}}, "was altered"),
        ({"digest": "0" * 64}, "was altered"),
    ],
)
def test_other_headers_are_refused(path, changes, message):
    rewritten(path, **changes)
    with pytest.raises(ValueError, match=message):
        store.read(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04 a zip file, such as a pickled model",
        json.dumps({"radius": 2}).encode(),
        safetensors.numpy.save({"x": np.zeros(3)}),
        safetensors.numpy.save({"x": np.zeros(3)}, metadata={"format": "pt"}),
        b"\xff" * 64,
        struct.pack("<Q", 4) + b"[1]\n",
    ],
)
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(ValueError, match="is not a nearfield model"):
        store.read(tmp_path / "other")


def test_a_header_that_is_no_json_is_refused(tmp_path):
    (tmp_path / "m").write_bytes(safetensors.numpy.save({}, metadata={"nearfield": "{"}))
    with pytest.raises(ValueError, match="header that cannot be read"):
        store.read(tmp_path / "m")


def test_missing_path_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        store.read(tmp_path / "nowhere")
    with pytest.raises(IsADirectoryError):
        store.read(tmp_path)


def full_disk(*_args, **_kwargs):
    raise OSError(28, "No space left on device")


class FullFile:
    """A file whose disk is full after its first bytes."""

    def __init__(self, file):
        self._file = file

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def write(self, payload):
        self._file.write(payload[:10])
        self._file.flush()
        full_disk()


def fail_write(monkeypatch):
    real = builtins.open
    monkeypatch.setattr(
        builtins, "open", lambda p, mode="r", **k: FullFile(real(p, mode)) if "x" in mode else real(p, mode, **k)
    )


@pytest.mark.parametrize(
    "fail",
    [
        fail_write,
        lambda monkeypatch: monkeypatch.setattr(os, "fsync", full_disk),
        lambda monkeypatch: monkeypatch.setattr(os, "replace", full_disk),
    ],
    ids=["write", "fsync", "rename"],
)
def test_failed_write_leaves_the_old_file_and_nothing_else(path, fail):
    before = path.read_bytes()
    with pytest.MonkeyPatch.context() as monkeypatch:
        fail(monkeypatch)
        with pytest.raises(OSError, match=r"could not write .*: No space left on device; free space") as caught:
            store.write(path, {"radius": 9}, {})
    assert caught.value.errno == 28
    assert os.listdir(path.parent) == [path.name]
    assert path.read_bytes() == before


def test_interrupted_write_leaves_the_old_file_and_nothing_else(path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    before = path.read_bytes()
    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.write(path, {}, {})
    assert os.listdir(path.parent) == [path.name]
    assert path.read_bytes() == before


def test_new_file_appears_only_by_the_rename(tmp_path, monkeypatch):
    """At the moment of the rename the temporary file beside it is whole and on the disk."""
    seen = []
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(descriptor))
    real = os.replace

    def look(source, target):
        assert synced
        assert not os.path.exists(target)
        assert os.path.dirname(source) == os.path.dirname(target)
        seen.append(store.read(source)[0])
        real(source, target)

    monkeypatch.setattr(os, "replace", look)
    store.write(tmp_path / "m", {"a": 1}, {})
    assert seen == [{"a": 1}]
    assert os.listdir(tmp_path) == ["m"]


def test_unwritable_paths(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"path must be in an existing folder, got .*create .*missing first"):
        store.write(tmp_path / "missing" / "m", {}, {})
    with pytest.raises(IsADirectoryError, match=r"path must be a file, .* is a folder"):
        store.write(tmp_path, {}, {})

    def denied(*_args, **_kwargs):  # permissions do not stop root, under whom tests may run
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(builtins, "open", denied)
    with pytest.raises(PermissionError, match=r"could not write .*: Permission denied"):
        store.write(tmp_path / "m", {}, {})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("metadata", "arrays", "error", "message"),
    [
        ({"x": np.zeros(2)}, {}, ValueError, "metadata must be plain JSON"),
        ({(1, 2): 0}, {}, ValueError, "metadata must be plain JSON"),
        ({}, {"x": np.array(["a"])}, TypeError, "array 'x' must hold numbers"),
        ({}, {"x": np.array([object()])}, TypeError, "array 'x' must hold numbers"),
        ({}, {"x": np.zeros(2, dtype=complex)}, TypeError, "array 'x' must hold numbers"),
        ({}, {"x": np.zeros(2, dtype="M8[s]")}, TypeError, "array 'x' must hold numbers"),
    ],
)
def test_what_cannot_be_stored_is_refused(tmp_path, metadata, arrays, error, message):
    with pytest.raises(error, match=message):
        store.write(tmp_path / "m", metadata, arrays)
    assert os.listdir(tmp_path) == []


def test_relative_path_and_permissions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store.write("m", {}, {})
    (tmp_path / "other").touch()
    assert os.stat("m").st_mode == os.stat("other").st_mode


def test_devices_are_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match=r"path must be a file, .* is a device"):
        store.write(pipe, {}, {})
    assert list(tmp_path.iterdir()) == [pipe]
    assert pipe.is_fifo()


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(PermissionError, match="path must be in a folder that can be written to"):
        require_target("path", tmp_path / "m")
