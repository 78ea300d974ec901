"""Fits of data on graphs off lattices that are read in parts, through the estimator."""

import numpy as np
import pytest
import xarray as xr

import nearfield as nf
from nearfield.data import lazy
from nearfield.data.lazy import LazyData
from nearfield.data.rechunking import chunk_advice, rechunked
from nearfield.graph import DependencyGraph, tiling
from nearfield.graph.pieces import Piece
from nearfield.graph.tiling import Tiling
from test_pieces import correlated, mesh, places

dask = pytest.importorskip("dask")

MESH = mesh(300)
POINTS = DependencyGraph.knn(places(300), 5)
SETTINGS = {
    "method": "gaussian",
    "radius": 1,
    "pooling": nf.Pooling(1.0, location=nf.Pooling(0.0)),
    "random_state": 0,
}


@pytest.fixture
def small(monkeypatch):
    """Small tiles, and no data small enough to be loaded."""
    monkeypatch.setattr(lazy, "WHOLE", 0)
    monkeypatch.setattr(tiling.Tiling.of.__func__, "__defaults__", (100,))


def cells(graph, n=40, seed=0):
    """Samples on the cells of a mesh, two of which have no values."""
    values = 280 + correlated(graph, n, seed=seed)[..., 0]
    values[:, [17, 203]] = np.nan
    return xr.DataArray(values, dims=("time", "cell"), name="t", attrs={"units": "K"})


@pytest.mark.parametrize("graph", [MESH, pytest.param(POINTS, marks=pytest.mark.slow)], ids=["mesh", "points"])
def test_a_lazy_fit_is_near_the_fit_in_memory(small, graph):
    x = cells(graph, 60)
    lazily = nf.LocalizedDiffusion(graph, **SETTINGS).fit(x.chunk(cell=70))
    whole = nf.LocalizedDiffusion(graph, **SETTINGS).fit(x)
    assert "Fitted in 3 tiles of about 99 vertices" in lazily.fit_report_.reason
    assert np.allclose(lazily.marginal_.center, whole.marginal_.center)
    assert np.allclose(lazily.marginal_.scale, whole.marginal_.scale)
    y = (
        cells(graph, 60, seed=1).values[:, ~np.isnan(x[0])] - whole.marginal_.center.numpy().T
    ) / whole.marginal_.scale.numpy().T
    difference = [model.score_.log_prob(y[..., None]).mean() / 298 for model in (lazily, whole)]
    assert abs(difference[0] - difference[1]) < 0.02
    drawn = lazily.sample(400, random_state=1)
    assert drawn.dims == ("member", "cell")
    assert drawn.attrs["units"] == "K"
    assert np.array_equal(np.isnan(drawn[0]), np.isnan(x[0]))
    ratio = (drawn.var() / x.var(dim="time").mean()).item()
    assert 0.9 < ratio < 1.1


@pytest.mark.slow
def test_a_model_of_a_mesh_is_saved_loaded_and_drawn_into_a_store(small, tmp_path):
    x = cells(MESH)
    model = nf.LocalizedDiffusion(MESH, **SETTINGS).fit(x.chunk(cell=70), checkpoint=tmp_path / "kept")
    again = nf.LocalizedDiffusion(MESH, **SETTINGS).fit(x.chunk(cell=70), checkpoint=tmp_path / "kept")
    model.save(tmp_path / "mesh.nearfield")
    loaded = nf.load(tmp_path / "mesh.nearfield")
    drawn = model.sample(2, random_state=5)
    for other in (again.sample(2, random_state=5), loaded.sample(2, random_state=5)):
        np.testing.assert_array_equal(other, drawn)
    assert loaded.digest_ == model.digest_
    np.testing.assert_array_equal(model.sample(2, random_state=5, store=tmp_path / "new.zarr"), drawn)
    gap = x[0].copy()
    gap[40:60] = np.nan
    filled = loaded.impute(gap, n_samples=3, random_state=0)
    assert np.array_equal(np.isnan(filled[0]), np.isnan(x[0]))
    np.testing.assert_array_equal(filled, model.impute(gap, n_samples=3, random_state=0))
    assert np.array_equal(filled[1, :40], x[0, :40], equal_nan=True)


@pytest.mark.slow
def test_two_processes_give_the_bits_of_one(small):
    x = cells(POINTS).chunk(cell=70)
    one, two = (
        nf.LocalizedDiffusion(
            POINTS, **SETTINGS | {"pooling": nf.Pooling(0.5, location=nf.Pooling(0.0))}, n_jobs=n
        ).fit(x)
        for n in (1, 2)
    )
    assert one.digest_ != ""
    np.testing.assert_array_equal(one.sample(3, random_state=0), two.sample(3, random_state=0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "windowed"}, "method must be 'gaussian', 'hybrid' or 'auto' .*; or load the data first"),
        ({"method": "hybrid", "pooling": 1.0}, "networks need a lattice for data that are read in parts"),
        ({"method": "gaussian", "marginal": "quantile"}, "marginal must be one of .*; or load the data first"),
    ],
)
def test_what_cannot_be_fitted_in_parts_is_refused(small, settings, message):
    with pytest.raises(ValueError, match=message):
        nf.LocalizedDiffusion(MESH, random_state=0, **settings).fit(cells(MESH, 20).chunk(cell=70))


LAYOUTS = {
    "chunks of vertices": lambda x: x.rename(station="cell").isel(day=0, drop=True).chunk(cell=7, time=5),
    "one array": lambda x: x.isel(day=0, drop=True).chunk(),
    "stations and days": lambda x: x.chunk(station=11, day=4, time=7),
    "days first in the store": lambda x: x.transpose("day", "time", "station").chunk(station=50, day=2),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_piece_is_read_as_it_is_in_memory(name):
    rng = np.random.default_rng(0)
    x = xr.DataArray(rng.normal(size=(12, 50, 6)).astype("f4"), dims=("time", "station", "day"))
    data = LAYOUTS[name](x)
    graph = DependencyGraph.knn(places(50), 4)
    graph = graph if data.ndim == 2 else graph.product(DependencyGraph.chain(6))
    source = LazyData.of(data, "time", graph).source
    flat = data.transpose("time", *source.axes).values.reshape(12, -1)
    vertices = np.sort(rng.choice(graph.n_vertices, 30, replace=False))
    found = source.read(Piece(vertices))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[..., 0], flat[:, vertices])
    np.testing.assert_array_equal(source.read(Piece(vertices), np.array([3, 9]))[..., 0], flat[[3, 9]][:, vertices])
    present = np.ones(graph.n_vertices, dtype=bool)
    present[vertices[:3]] = False
    kept = source.at_vertices(present).read(Piece(vertices[:9]))
    np.testing.assert_array_equal(kept[..., 0], flat[:, present][:, vertices[:9]])


def test_a_piece_of_a_mapped_file_is_read_as_it_is_in_memory(tmp_path):
    values = np.random.default_rng(0).normal(size=(5, 9000))
    np.save(tmp_path / "a.npy", values)
    graph = DependencyGraph.from_edges(9000, np.stack([np.arange(8999), np.arange(1, 9000)], axis=1))
    source = LazyData.of(np.load(tmp_path / "a.npy", mmap_mode="r"), None, graph).source
    vertices = np.array([0, 4095, 4096, 5000, 8999])
    np.testing.assert_array_equal(source.read(Piece(vertices))[..., 0], values[:, vertices])


def test_each_chunk_of_a_piece_is_read_once():
    import dask.array as da

    read = []
    values = np.arange(6.0 * 40).reshape(6, 40)

    def block(block_info=None):
        (_, _), (start, stop) = block_info[None]["array-location"]
        read.append(start)
        return values[:, start:stop]

    data = da.map_blocks(block, chunks=((6,), (10,) * 4), dtype=float, meta=np.empty((0, 0)))
    source = LazyData.of(data, None, DependencyGraph.from_edges(40, [(k, k + 1) for k in range(39)])).source
    found = source.read(Piece(np.array([3, 8, 25, 29, 30])))
    np.testing.assert_array_equal(found[..., 0], values[:, [3, 8, 25, 29, 30]])
    assert sorted(read) == [0, 20, 30]


def test_chunks_that_are_read_too_often_are_told_and_written_anew(tmp_path):
    chain = DependencyGraph.from_edges(600, [(k, k + 1) for k in range(599)])
    x = xr.DataArray(np.random.default_rng(0).normal(size=(12, 600)), dims=("time", "cell")).chunk(time=1)
    source = LazyData.of(x, "time", chain).source
    assert "write them once as chunks of tiles" in chunk_advice(source, Tiling.of(chain, 60))
    written = rechunked(x, tmp_path / "tiles.zarr", sample_dim="time", graph=chain, n_cells=60)
    np.testing.assert_array_equal(written, x)
    assert chunk_advice(LazyData.of(written, "time", chain).source, Tiling.of(chain, 60)) is None
    mixed = np.random.default_rng(0).permutation(600)
    strewn = DependencyGraph.from_edges(600, np.stack([mixed[:-1], mixed[1:]], axis=1))
    assert "number the vertices so that neighbours are close" in chunk_advice(source, Tiling.of(strewn, 60))


def test_graphs_of_other_sizes_are_refused():
    with pytest.raises(ValueError, match="graph must have a vertex for each cell of the data"):
        LazyData.of(cells(MESH).chunk(cell=70), "time", POINTS.subgraph(np.arange(300) > 3))
