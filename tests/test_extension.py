"""A law on a larger lattice: exact laws, two paths that must agree, and what has no larger lattice."""

import numpy as np
import pytest
import torch
import xarray as xr

import nearfield as nf
from nearfield.data.layout import Layout
from nearfield.datasets import AutoregressiveChain, GaussianMarkovField
from nearfield.fitting.closed_form import build_field, fit_windowed
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.recipe import Recipe
from nearfield.graph import DependencyGraph
from nearfield.samples import Samples
from nearfield.score.gaussian import MaskedGaussianScore
from nearfield.score.hybrid import HybridScore, NetworkScore
from nearfield.score.stencil import StencilNetwork

ONE = Pooling(1.0)
SMALL, LARGE = DependencyGraph.grid((9, 8)), DependencyGraph.grid((11, 14))


def crop(values, top, left):
    return values.reshape(-1, 11, 14)[:, top : top + 9, left : left + 8].reshape(-1, 72, 1)


def data(channels=1):
    return np.random.default_rng(0).normal(size=(30, 72, channels)).cumsum(axis=1)


def randomized(network):
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(2))
    return network.requires_grad_(False)


def test_the_field_of_a_longer_chain_is_the_field_fitted_there():
    """The sparse Cholesky field of AR(1) at its own order: C_ij = alpha^|i-j| on any length."""
    law, longer = AutoregressiveChain(0.7, 12), AutoregressiveChain(0.7, 40)
    z = law.sample(4000, random_state=0)
    field = build_field(Samples(z, law.graph, standard=(True,)), 1, ONE).field
    covariance = field.extended(law.graph, longer.graph).covariance()
    alpha = float(field.covariance()[5, 6])
    steps = np.abs(np.subtract.outer(np.arange(40), np.arange(40)))
    np.testing.assert_allclose(covariance / covariance[20, 20], alpha**steps / 1.0, atol=0.02)
    np.testing.assert_allclose(covariance[:12, :12], field.covariance(), atol=1e-12)  # conditioned on earlier ones only


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("kind", ["field", "windowed", "network", "hybrid"])
def test_vertices_in_the_same_corner_have_the_same_score(kind, channels):
    """What a vertex reads decides: cropped to a corner, the larger field is scored as the small one is there."""
    x = data(channels)
    windowed = fit_windowed(Samples(x, SMALL), ((0.1, 1), (0.5, 2)), ONE)[2]
    network = randomized(
        StencilNetwork(SMALL, 2, n_channels=channels, n_context=2 * channels * (kind == "hybrid"), width=4)
    )
    score = {
        "field": lambda: build_field(Samples(x, SMALL), 2, ONE).field,
        "windowed": lambda: windowed,
        "network": lambda: NetworkScore(network),
        "hybrid": lambda: HybridScore(network, windowed, np.full((4, channels), 0.5)),
    }[kind]()
    large = score.extended(SMALL, LARGE)
    state = torch.from_numpy(np.random.default_rng(1).normal(size=(2, 11, 14, channels)))
    for row, column in ((0, 0), (0, 6), (2, 0), (2, 6)):
        part = state[:, row : row + 9, column : column + 8].reshape(2, 72, channels)
        if kind == "field":  # its conditional laws are local, its score is not: compare rows of the factor
            near = np.zeros((11, 14), dtype=bool)
            near[row : row + 9, column : column + 8] = True
            ends = [np.flatnonzero(near.ravel()), np.arange(72)]
            blocks = []
            for field, index in zip((large, score), ends, strict=True):
                where = (index[:, None] * channels + np.arange(channels)).ravel()
                blocks.append(field.factor.matrix[where].toarray()[:, where].reshape(9, 8, channels, -1))
            touched = slice(0 if row == 0 else 2, None), slice(0 if column == 0 else 2, None if column == 6 else -2)
            np.testing.assert_array_equal(blocks[0][touched], blocks[1][touched])
            continue
        whole = large.denoise(state.reshape(2, 154, channels), 0.3).reshape(2, 11, 14, channels)
        here = score.denoise(part, 0.3).reshape(2, 9, 8, channels)
        there = whole[:, row : row + 9, column : column + 8]
        r = score.radius
        rows = slice(0 if row == 0 else r, -r if row == 0 else None)
        columns = slice(0 if column == 0 else r, -r if column == 0 else None)
        torch.testing.assert_close(there[:, rows, columns], here[:, rows, columns], rtol=1e-5, atol=1e-6)


def test_a_model_draws_larger_fields_of_the_same_law(tmp_path):
    """Exact draws on 24 x 24 of a model fitted on 10 x 10 have its covariances; 200 000 pairs, 5 standard errors."""
    law = GaussianMarkovField.stationary((10, 10), periodic=False)
    x = xr.DataArray(
        law.sample(300, random_state=0).reshape(300, 10, 10),
        dims=("sample", "y", "x"),
        coords={"y": 2.0 * np.arange(10), "x": np.arange(10), "height": 2.0},
    )
    model = nf.LocalizedDiffusion(method="gaussian", radius=2, pooling=1.0).fit(x)
    large = model.extend((24, 24))
    drawn = large.sample(2000, random_state=0)
    assert drawn.dims == ("member", "y", "x")
    np.testing.assert_array_equal(drawn["y"], 2.0 * np.arange(24))
    assert float(drawn["height"]) == 2.0
    small, scale = model.score_.covariance(), float(model.marginal_.scale[0, 0])
    middle = (drawn.values[:, 10:14, 10:14] - float(model.marginal_.center[0, 0])) / scale
    for step, lag in (((0, 1), 1), ((1, 0), 10), ((1, 1), 11)):
        product = middle[:, : 4 - step[0], : 4 - step[1]] * middle[:, step[0] :, step[1] :]
        each = product.mean(axis=(1, 2))
        assert abs(each.mean() - small[44, 44 + lag]) < 5 * each.std() / np.sqrt(2000) + 0.02
    large.save(tmp_path / "m")
    np.testing.assert_array_equal(nf.load(tmp_path / "m").sample(1, random_state=3), large.sample(1, random_state=3))


@pytest.mark.parametrize("graph", [DependencyGraph.ring(12), DependencyGraph.torus((9, 8))], ids=["ring", "torus"])
def test_a_field_that_closes_on_itself_extends(graph):
    """Onto itself it is itself; the larger one has the old rows in the middle and at the last vertex, by the seam."""
    x = np.random.default_rng(0).normal(size=(40, len(graph), 2)).cumsum(axis=1)
    field = build_field(Samples(x, graph), 2, ONE).field
    assert (field.extended(graph, graph).factor.matrix != field.factor.matrix).nnz == 0
    larger = DependencyGraph.torus(tuple(n + 3 for n in graph.lattice.shape))
    wide = field.extended(graph, larger)

    def row(field, graph, place):
        """Entries of a vertex's second channel by how far along each axis, the short way around, they read."""
        shape = np.array(graph.lattice.shape)
        here = np.array([place(n) for n in shape])
        entries = field.factor.matrix[[2 * int(np.ravel_multi_index(tuple(here), tuple(shape))) + 1]].tocoo()
        vertex, channel = divmod(entries.coords[1], 2)
        there = np.stack(np.unravel_index(vertex, tuple(shape)), axis=1)
        steps = (there - here + shape // 2) % shape - shape // 2
        keys = ((*step, c) for step, c in zip(steps.tolist(), channel.tolist(), strict=True))
        return dict(zip(keys, entries.data, strict=True))

    for place in (lambda n: n // 2, lambda n: n - 1):
        assert row(wide, larger, place) == row(field, graph, place)


def test_a_trained_model_extends():
    x = np.random.default_rng(0).normal(size=(30, 6, 6))
    model = nf.LocalizedDiffusion(method="hybrid", radius=1, pooling=1.0, recipe=Recipe(steps=2), random_state=0).fit(x)
    assert model.extend((9, 6)).sample(2, random_state=0).shape == (2, 9, 6)


@pytest.mark.parametrize("graph", [DependencyGraph.chain(40), DependencyGraph.ring(40)], ids=["chain", "ring"])
def test_what_a_short_chain_is_shown_extends(graph):
    """A window fits into the chain, so that a longer one has no others."""
    x = np.random.default_rng(0).normal(size=(30, 40)).cumsum(axis=1)
    recipe = Recipe(steps=2)
    model = nf.LocalizedDiffusion(graph, method="hybrid", pooling=1.0, recipe=recipe, random_state=0).fit(x)
    assert model.extend((100,)).sample(2, random_state=0).shape == (2, 100)


@pytest.mark.parametrize("kind", ["neural", "hybrid"])
def test_a_network_goes_on_only_to_windows_it_has_seen(kind):
    """Every window of radius 4 is cut off on a chain of 8, and none in the middle of a longer one."""
    larger = DependencyGraph.chain(30)
    for n, seen in ((9, True), (8, False)):
        graph = DependencyGraph.chain(n)
        network = randomized(StencilNetwork(graph, 4, n_context=2 * (kind == "hybrid")).double())
        gaussian = fit_windowed(Samples(data()[:, :n], graph), ((1.0, 1),), ONE)[2]
        score = NetworkScore(network) if kind == "neural" else HybridScore(network, gaussian)
        if not seen:
            with pytest.raises(ValueError, match="axes of 9 vertices or more"):
                score.extended(graph, larger)
            continue
        wide = score.extended(graph, larger)
        x = torch.from_numpy(np.random.default_rng(1).normal(size=(3, 30, 1)))
        there = wide.denoise(x, 0.4)
        assert there.dtype == torch.float64
        if kind == "neural":  # the vertex in the middle reads all of the smaller chain and nothing else
            torch.testing.assert_close(there[:, 14], score.denoise(x[:, 10:19], 0.4)[:, 4], rtol=1e-12, atol=1e-13)


def test_what_has_no_larger_lattice_is_refused():
    x = np.random.default_rng(0).normal(size=(30, 8, 8))
    apart = nf.LocalizedDiffusion(method="gaussian", radius=1, pooling=0.5).fit(x)
    with pytest.raises(ValueError, match="one law for all vertices"):
        apart.extend((9, 9))
    alike = nf.LocalizedDiffusion(method="gaussian", radius=1, pooling=1.0).fit(x)
    with pytest.raises(ValueError, match="at least"):
        alike.extend((9, 7))
    for shape, error, message in (
        ((9, 9.5), TypeError, "shape must be an integer, got 9.5"),
        (np.array(9), ValueError, "a length for each dimension"),
        (b"99", ValueError, "a length for each dimension"),
        (9, ValueError, r"a length for each dimension of \(8, 8\), got 9"),
        ((9, 9, 9), ValueError, "a length for each dimension"),
        ("99", ValueError, "a length for each dimension"),
    ):
        with pytest.raises(error, match=message):
            alike.extend(shape)
    labelled = xr.DataArray(x, dims=("sample", "y", "x"), coords={"x": [0, 1, 2, 3, 5, 8, 13, 21]})
    uneven = nf.LocalizedDiffusion(method="gaussian", radius=1, pooling=1.0).fit(labelled)
    with pytest.raises(ValueError, match="'x' must be evenly spaced"):
        uneven.extend((9, 9))
    network = StencilNetwork(DependencyGraph.chain(5), 1, embedding=2)
    with pytest.raises(ValueError, match="numbers of each vertex"):
        NetworkScore(network).extended(DependencyGraph.chain(5), DependencyGraph.chain(9))
    with pytest.raises(ValueError, match="MaskedGaussianScore"):
        MaskedGaussianScore(np.eye(5), np.eye(5, dtype=bool), 1).extended(
            DependencyGraph.chain(5), DependencyGraph.chain(9)
        )
    with pytest.raises(ValueError, match="axes of 5 vertices or more"):
        fit_windowed(Samples(data()[:, :3], DependencyGraph.chain(3)), ((1.0, 2),), ONE)[2].extended(
            DependencyGraph.chain(3), DependencyGraph.chain(30)
        )


@pytest.mark.parametrize(
    ("coordinate", "fits", "message"),
    [
        (
            ("lat", 10.0 + 10 * np.arange(8)),
            9,
            r"latitude must stay in \[-90, 90\] degrees, .*'lat' .* 100.0 in",
        ),
        (("lat", 10.0 - 10 * np.arange(8)), 11, r"latitude must stay in .* 10.0 to -100.0 in 12 cells"),
        (("lat", (-90 + 0.1 * np.arange(8)).astype("f4")), 1801, r"latitude must stay in"),
        (
            ("lon", 30.0 * np.arange(8) - 180),
            12,
            r"longitudes must span less than 360 .* -180.0 to 180.0 in 13",
        ),
        (("lon", -45 * np.arange(8)), 8, r"longitudes must span less than 360 .* 0.0 to -360.0 in 9"),
        (("x", 0.1 * np.arange(8), {"units": "degrees_east"}), 3600, r"longitudes must span .* 'x'"),
    ],
)
def test_a_larger_domain_stays_on_the_globe(coordinate, fits, message):
    name, values, *attrs = coordinate
    variable = xr.DataArray(np.zeros((2, 3, 8)), dims=("sample", "y", name), coords={name: (name, values, *attrs)})
    layout = Layout.from_variable(variable, ("sample",))
    assert layout.extended((9, fits)).coords[name].size == fits
    with pytest.raises(ValueError, match=f"{message}.*; extend it to at most {fits} cells"):
        layout.extended((9, fits + 1))
    plain = Layout.from_variable(variable.rename({name: "z"}).assign_coords(z=values), ("sample",))
    assert plain.extended((9, fits + 1)).coords["z"].size == fits + 1
