"""Tiles are written whole, a fit that was ended goes on, and no other work is taken for it."""

import errno
import json
import os
import pickle

import numpy as np
import pytest
import scipy.sparse as sp

from nearfield.data import store
from nearfield.data.tile_store import TileStore, begun_seed, model_file

KEY = {"data": "5af1", "radius": 2, "side": (4, 4)}
ARRAYS = {
    "data": np.linspace(0, 1, 7),
    "indices": np.arange(5, dtype=np.int32),
    "flags": np.array([[True, False, True]]),
    "single": np.float32(2.5),
    "bytes": np.arange(3, dtype=np.uint8),
    "nothing": np.zeros((0, 3)),
    "half": np.ones((2, 2), dtype=np.float16)[:, ::-1],
}


@pytest.fixture
def tiles(tmp_path):
    tiles = TileStore(tmp_path / "maps.nearfield")
    tiles.claim(KEY)
    tiles.write(3, ARRAYS)
    return tiles


def test_what_is_read_is_what_was_written(tiles):
    for found in (tiles.read(3), pickle.loads(pickle.dumps(tiles)).read(3)):
        assert found.keys() == ARRAYS.keys()
        for name, array in ARRAYS.items():
            assert found[name].dtype == array.dtype
            assert found[name].shape == array.shape
            assert found[name].flags.aligned
            np.testing.assert_array_equal(found[name], array)


def test_arrays_stay_in_the_file_and_what_is_written_to_them_does_not(tiles):
    first = tiles.read(3)["data"]
    assert not first.flags.owndata
    first[:] = 0
    np.testing.assert_array_equal(tiles.read(3)["data"], ARRAYS["data"])


def test_tiles_are_done_by_stage(tiles):
    tiles.write(0, {"x": np.ones(2)}, stage="moments")
    tiles.write(1234567, {"x": np.ones(2)}, stage="moments-again")
    assert tiles.done() == {3}
    assert tiles.done("moments") == {0}
    assert tiles.done("moments-again") == {1234567}
    assert tiles.done("none") == set()


def test_the_same_fit_goes_on_and_another_is_refused(tiles):
    (tiles.path / ".field-000004.safetensors.12ab.tmp").write_bytes(b"half a til")
    again = TileStore(tiles.path)
    again.claim(KEY | {"side": [4, 4]})
    assert again.done() == {3}
    assert not list(tiles.path.glob(".*"))
    with pytest.raises(ValueError, match=r"maps.nearfield is the fit of other data or settings \(radius\); remove it"):
        again.claim(KEY | {"radius": 3})
    with pytest.raises(ValueError, match=r"\(seed\)"):
        again.claim(KEY | {"seed": 3})


def test_folders_and_files_of_something_else_are_refused(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "text.txt").write_text("notes")
    with pytest.raises(ValueError, match="notes is a folder of something else; choose another path"):
        TileStore(tmp_path / "notes").claim(KEY)
    with pytest.raises(ValueError, match=r"text.txt is a file, where a folder is to be made"):
        TileStore(tmp_path / "notes" / "text.txt").claim(KEY)
    with pytest.raises(FileNotFoundError, match="could not make"):
        TileStore(tmp_path / "nowhere" / "maps").claim(KEY)


def test_a_damaged_manifest_is_named(tiles):
    manifest = tiles.path / "manifest.json"
    whole = manifest.read_bytes()
    for content in (whole[:20], b"[]", whole.replace(b"5af1", b"5af2")):
        manifest.write_bytes(content)
        with pytest.raises(ValueError, match=r"manifest.json is damaged"):
            TileStore(tiles.path).claim(KEY)


def test_damaged_files_are_named(tiles):
    file = tiles.path / "field-000003.safetensors"
    whole = file.read_bytes()
    for length in [*range(0, 64, 5), *range(64, len(whole), 11), len(whole) - 1]:
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"field-000003.safetensors .*(not a nearfield model|cut short)"):
            tiles.read(3)
    file.write_bytes(whole)
    tiles.read(3)
    altered = bytearray(whole)
    altered[-3] ^= 1
    file.write_bytes(altered)
    os.utime(file, ns=(0, 1))  # whatever the clock's resolution
    with pytest.raises(ValueError, match=r"field-000003.safetensors was altered"):
        tiles.read(3)


def test_tiles_of_another_fit_are_refused(tiles, tmp_path):
    other = TileStore(tmp_path / "other")
    other.claim(KEY | {"radius": 3})
    (tiles.path / "field-000003.safetensors").rename(other.path / "field-000003.safetensors")
    with pytest.raises(ValueError, match="is of another fit or tile; remove it"):
        other.read(3)


def test_a_full_disk_leaves_nothing_half_written(tiles, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = sorted(tiles.path.iterdir())
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"could not write .*field-000004.*No space left on device; free space or"):
        tiles.write(4, ARRAYS)
    assert sorted(tiles.path.iterdir()) == before


def test_a_folder_is_a_model_once_its_own_file_is_there(tiles, tmp_path):
    assert not tiles.finished
    with pytest.raises(ValueError, match=r"maps.nearfield is an unfinished fit; run the same fit again to go on"):
        model_file(tiles.path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty is a folder of something else"):
        model_file(tmp_path / "empty")
    tiles.finish({"kind": "model"}, {"center": np.ones(2)})
    assert tiles.finished
    assert store.read(model_file(tiles.path))[0] == {"kind": "model"}
    assert model_file(tmp_path / "single.nearfield") == tmp_path / "single.nearfield"


def test_copies_have_the_same_tiles(tiles, tmp_path, monkeypatch):
    assert tiles.copied(tiles.path) is tiles
    linked = tiles.copied(tmp_path / "linked")
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EXDEV, "another disk")))
    copied = tiles.copied(tmp_path / "copied")
    assert tiles.digest() == linked.digest() == copied.digest()
    for other in (linked, copied):
        assert not other.finished
        np.testing.assert_array_equal(other.read(3)["data"], ARRAYS["data"])
    copied.write(4, ARRAYS)
    assert copied.digest() != tiles.digest()
    tiles.write(4, ARRAYS | {"single": np.float32(2.0)})
    assert copied.digest() != tiles.digest()


def test_sparse_rows_come_back(tiles):
    matrix = sp.random_array((5, 8), density=0.4, rng=np.random.default_rng(0), format="csr")
    tiles.write(7, {"data": matrix.data, "indices": matrix.indices, "indptr": matrix.indptr}, stage="rows")
    found = tiles.read(7, "rows")
    again = sp.csr_array((found["data"], found["indices"], found["indptr"]), shape=(5, 8))
    assert (again != matrix).nnz == 0


def test_the_manifest_is_plain_json(tiles):
    told = json.loads((tiles.path / "manifest.json").read_text())
    assert told["key"] == {"data": "5af1", "radius": 2, "side": [4, 4]}


def test_a_finished_fit_has_nothing_of_a_lost_worker(tmp_path):
    tiles = TileStore(tmp_path / "maps")
    tiles.claim(KEY)
    tiles.write(0, {"a": np.ones(2)})
    (tmp_path / "maps" / ".field-000001.safetensors.0a.tmp").write_bytes(b"half")
    tiles.finish({}, {})
    assert sorted(path.suffix for path in (tmp_path / "maps").iterdir()) == [".json", ".safetensors", ".safetensors"]


def test_the_seed_of_a_begun_fit_is_known(tmp_path):
    assert begun_seed(tmp_path / "maps") is None
    TileStore(tmp_path / "maps").claim(KEY | {"seed": 7})
    assert begun_seed(tmp_path / "maps") == 7
