"""A model whose law keeps tiles in files is a folder, whole or refused, that comes back as it was saved."""

from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

import nearfield as nf
from nearfield import module
from nearfield.cli import app
from nearfield.data.tile_store import TileStore
from nearfield.distribution import Distribution

X = np.random.default_rng(0).normal(size=(40, 12))


class StoredLaw(Distribution):
    """Stand-in: a Gaussian field whose mean is in a tile."""

    settings = ("largest_eigenvalue",)
    exact = True

    def __init__(self, score, stored, largest_eigenvalue=1.0):
        super().__init__()
        self.score, self.stored, self.largest_eigenvalue = score, stored, largest_eigenvalue

    def _exactly(self, n_samples, seed, stream):
        return self.score.sample(n_samples, seed=seed, stream=stream) + self.stored.read(0)["mean"][:, None]

    def log_prob(self, x):
        return self.score.log_prob(x - self.stored.read(0)["mean"][:, None])

    def extended(self, graph, onto):
        raise NotImplementedError


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A fitted model, its tile in a folder without the model's own file."""
    monkeypatch.setitem(module._LOCATIONS, "StoredLaw", __name__)
    tiles = TileStore(tmp_path / "chain.nearfield")
    tiles.claim({"data": 1})
    tiles.write(0, {"mean": np.linspace(0, 1, 12)})
    model = nf.LocalizedDiffusion(method="gaussian", radius=1, pooling=1.0, random_state=0).fit(X)
    model.model_ = replace(model.model_, law=StoredLaw(model.model_.law.score, tiles))
    model.digest_ = model.model_.digest(model._plain_parameters())
    return model


@pytest.mark.parametrize("name", ["chain.nearfield", "elsewhere.nearfield"])
def test_a_folder_comes_back_as_it_was_saved(model, tmp_path, name):
    model.save(tmp_path / name)
    loaded = nf.load(tmp_path / name)
    assert loaded.model_.stored.path == tmp_path / name
    assert loaded.digest_ == model.digest_
    np.testing.assert_array_equal(loaded.sample(3, random_state=1), model.sample(3, random_state=1))
    np.testing.assert_array_equal(loaded.score_samples(X), model.score_samples(X))


def test_a_fit_without_the_models_file_is_unfinished(model, tmp_path):
    with pytest.raises(ValueError, match=r"chain.nearfield is an unfinished fit; run the same fit again to go on"):
        nf.load(tmp_path / "chain.nearfield")


def test_the_digest_tells_tiles_apart(model, tmp_path):
    other = TileStore(tmp_path / "other")
    other.claim({"data": 1})
    other.write(0, {"mean": np.zeros(12)})
    changed = replace(model.model_, law=StoredLaw(model.model_.law.score, other))
    assert changed.digest({}) != model.model_.digest({})
    assert replace(changed, law=StoredLaw(model.model_.law.score, model.model_.stored)).digest({}) == (
        model.model_.digest({})
    )


def test_lacking_and_exchanged_tiles_are_refused(model, tmp_path):
    model.save(tmp_path / "chain.nearfield")
    tile = tmp_path / "chain.nearfield" / "field-000000.safetensors"
    whole = tile.read_bytes()
    tile.unlink()
    with pytest.raises(ValueError, match=r"tiles of .*chain.nearfield are missing or of another model"):
        nf.load(tmp_path / "chain.nearfield")
    tile.write_bytes(whole[:-8])
    loaded = nf.load(tmp_path / "chain.nearfield")
    with pytest.raises(ValueError, match=r"field-000000.safetensors is cut short"):
        loaded.sample(1)


def test_another_models_folder_is_not_overwritten(model, tmp_path):
    other = TileStore(tmp_path / "other")
    other.claim({"data": 2})
    with pytest.raises(ValueError, match=r"other is the fit of other data or settings \(data\); remove it"):
        model.save(tmp_path / "other")
    assert not other.finished


def test_the_command_line_takes_folders(model, tmp_path):
    def run(*arguments, code=0):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
        assert result.exit_code == code, result.output
        return result.output

    folder, out = tmp_path / "chain.nearfield", tmp_path / "new.npy"
    assert "is an unfinished fit" in run("sample", folder, "--out", out, code=1)
    assert "is an unfinished fit" in run("info", folder, code=1)
    model.save(folder)
    assert "samples: 40" in run("info", folder)
    run("sample", folder, "-n", 3, "--seed", 1, "--out", out)
    np.testing.assert_array_equal(np.load(out), model.sample(3, random_state=1))
