"""Networks: what they read, borders, weights, the paper's class of functions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from nearfield.data import store
from nearfield.fitting.closed_form import fit_windowed
from nearfield.fitting.pooling import Pooling
from nearfield.graph import DependencyGraph
from nearfield.graph.lattice import Lattice
from nearfield.module import as_tensor, describe, rebuild, settings_of
from nearfield.paper.vertex import VertexNetworks
from nearfield.process import noise_scale, signal_scale
from nearfield.samples import Samples
from nearfield.score.hybrid import HybridScore, NetworkScore
from nearfield.score.network import Network
from nearfield.score.stencil import StencilNetwork
from nearfield.score.window import WindowNetwork


def bay() -> DependencyGraph:
    """A grid with a wall that has one gap: near across it is far around it."""
    keep = np.ones((5, 5), dtype=bool)
    keep[2, :4] = False
    return DependencyGraph.grid((5, 5)).subgraph(keep)


def diagonal_bay() -> DependencyGraph:
    keep = np.ones((4, 5), dtype=bool)
    keep[:3, 2] = False
    return DependencyGraph.grid((4, 5), diagonal=True).subgraph(keep)


KNN_POINTS = np.random.default_rng(1).uniform(size=(14, 2))
LATTICES = {
    "one vertex": DependencyGraph.chain(1),
    "chain": DependencyGraph.chain(9),
    "ring": DependencyGraph.ring(9),
    "short ring": DependencyGraph.ring(2),
    "grid": DependencyGraph.grid((4, 6)),
    "diagonal grid": DependencyGraph.grid((4, 5), diagonal=True),
    "torus": DependencyGraph.torus((5, 4)),
    "half periodic": DependencyGraph.grid((4, 5), periodic=(False, True), diagonal=True),
    "bay": bay(),
    "diagonal bay": diagonal_bay(),
    "box": DependencyGraph.grid((3, 4, 3)),
    "masked box": DependencyGraph.grid((3, 3, 3), periodic=(True, False, False)).subgraph(
        np.random.default_rng(0).random((3, 3, 3)) < 0.7
    ),
}
GRAPHS = LATTICES | {
    "knn": DependencyGraph.knn(KNN_POINTS, 3),
    "stations": DependencyGraph.knn(KNN_POINTS * 40, 3, metric="haversine"),
    "disconnected": DependencyGraph.from_edges(7, [(0, 3), (3, 5), (1, 4), (5, 6)]),
}


def stencil(graph, radius, **options):
    return StencilNetwork(graph, radius, width=8, **options)


def window(graph, radius, **options):
    return WindowNetwork(graph, radius, width=8, **options)


def vertex(graph, radius, **options):
    return VertexNetworks(graph, radius, widths=(10, 8), **options)


KINDS = {"stencil": stencil, "window": window, "vertex": vertex}
CASES = [pytest.param(kind, graph, id=f"{name}-{where}") for name, kind in KINDS.items() for where, graph in
         (LATTICES if kind is stencil else GRAPHS).items()]  # fmt: skip
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def stirred(network, seed: int = 0):
    """Give every weight, the last layer's too, a value that is not special; in double precision."""
    generator = torch.Generator().manual_seed(seed)
    network = network.double().requires_grad_(False)
    for weight in network.parameters():
        weight += 0.3 * torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    return network


def field(n: int, graph: DependencyGraph, channels: int = 1, seed: int = 5) -> torch.Tensor:
    return torch.randn(n, len(graph), channels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def level(n: int) -> torch.Tensor:
    return torch.linspace(-3.0, 2.0, n, dtype=torch.float64)


def reads(network, x: torch.Tensor, context: torch.Tensor | None = None) -> np.ndarray:
    """Which vertex reads which, at any of some states: ReLUs that sleep at one are awake at another."""
    jacobian = torch.func.vmap(
        torch.func.jacrev(lambda y, q, c: network(y[None], None if q is None else q[None], c[None])[0]),
        in_dims=(0, None if context is None else 0, 0),
    )(x, context, level(len(x)))
    return (jacobian != 0).any(dim=0).any(dim=3).any(dim=1).numpy()


@pytest.mark.parametrize(("kind", "graph"), CASES)
@pytest.mark.parametrize("radius", [0, 1, 3])
def test_a_vertex_reads_its_hop_ball_and_nothing_beyond(kind, graph, radius):
    network = stirred(kind(graph, radius, n_channels=2))
    np.testing.assert_array_equal(reads(network, field(4, graph, 2)), graph.distance_matrix() <= radius)


@pytest.mark.parametrize("kind", [stencil, window])
@pytest.mark.parametrize("graph", [DependencyGraph.chain(6), DependencyGraph.torus((4, 3)), bay()])
def test_the_context_is_read_within_its_own_radius(kind, graph):
    """As far as the state by the stack of a lattice, at the vertex alone by the other."""
    network, x = stirred(kind(graph, 2, n_context=1)), field(3, graph)
    assert network.context_radius == (2 if isinstance(network, StencilNetwork) else 0)
    context = field(3, graph, seed=6)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda q, y, c: network(y[None], q[None], c[None])[0]))(
        context, x, level(3)
    )
    found = (jacobian != 0).any(dim=0).any(dim=3).any(dim=1).numpy()
    np.testing.assert_array_equal(found, graph.distance_matrix() <= network.context_radius)
    np.testing.assert_array_equal(reads(network, x, context), graph.distance_matrix() <= 2)


def padded(graph: DependencyGraph, margin: int = 3) -> DependencyGraph:
    """Put the graph of a bounded lattice into a larger one whose further cells are absent."""
    assert graph.lattice is not None
    keep = np.ones(graph.lattice.shape, dtype=bool) if graph.keep is None else graph.keep
    keep = np.pad(keep, [(0 if p else margin,) * 2 for p in graph.lattice.periodic])
    large = DependencyGraph(lattice=Lattice(keep.shape, graph.lattice.periodic, graph.lattice.diagonal))
    return large.subgraph(keep)


@pytest.mark.parametrize("kind", [stencil, window])
@pytest.mark.parametrize("graph", [g for name, g in LATTICES.items() if name != "ring"], ids=lambda g: repr(g)[16:])
def test_a_border_is_where_cells_are_absent(kind, graph):
    """The network of the bounded lattice is that of a larger one without the cells beyond."""
    large = padded(graph)
    options = {"n_channels": 2, "embedding": 3}
    here, there = stirred(kind(graph, 2, **options)), kind(large, 2, **options).double()
    weights = here.state_dict()
    if kind is window:  # columns that leave a small lattice from every cell are not listed there
        columns = match_columns(graph, large, 2)
        enter = torch.zeros_like(there.enter.weight).unflatten(1, (-1, 2))
        enter[:, columns] = weights["enter.weight"].unflatten(1, (-1, 2))
        place = torch.zeros_like(there.geometry)
        place[:, columns] = weights["geometry"]
        weights |= {"enter.weight": enter.flatten(1), "geometry": place}
    there.load_state_dict(weights)
    x = field(3, graph, 2)
    torch.testing.assert_close(here(x, None, level(3)), there(x, None, level(3)), rtol=1e-12, atol=1e-12)


def match_columns(graph: DependencyGraph, large: DependencyGraph, radius: int) -> list[int]:
    """Find the columns of a small lattice's table in that of a larger one."""
    small, wide = (g.neighborhood(radius).offsets.tolist() for g in (graph, large))
    return [wide.index(offset) for offset in small]


@pytest.mark.parametrize("kind", [stencil, window])
def test_a_border_is_not_a_reflection_nor_zeros(kind):
    """The output at the border differs from that inside a chain that goes on as a mirror, or with zeros, beyond."""
    chain, long = DependencyGraph.chain(6), DependencyGraph.chain(14)
    here, there = stirred(kind(chain, 2)), stirred(kind(long, 2))
    x = field(2, chain)
    for beyond in (
        torch.cat([x.flip(1)[:, 1:5], x, x.flip(1)[:, 1:5]], dim=1),
        torch.nn.functional.pad(x, (0, 0, 4, 4)),
    ):
        gap = (here(x, None, level(2)) - there(beyond, None, level(2))[:, 4:10]).abs()[..., 0].amin(dim=0)
        assert (gap[[0, 1, 4, 5]] > 1e-4).all()
        assert (gap[2:4] < 1e-12).all()


@pytest.mark.parametrize("kind", [window, vertex])
@pytest.mark.parametrize("graph", [GRAPHS["chain"], GRAPHS["bay"], GRAPHS["knn"]])
def test_what_stands_in_absent_entries_does_not_matter(kind, graph):
    network, x = stirred(kind(graph, 2)), field(2, graph)
    windows = network.windows(x)
    filled = torch.where(network.present[..., None], windows, torch.nan)
    expected = network(x, None, level(2))
    torch.testing.assert_close(network.on_windows(filled, None, level(2)[:, None]), expected, rtol=0, atol=0)
    changed = network.on_windows(windows + 0.1, None, level(2)[:, None])
    assert (changed != expected).any(dim=0).all()


@pytest.mark.parametrize("kind", [window, vertex])
@pytest.mark.parametrize("shape", [(6,), (4, 5)])
def test_reflection_is_an_option_for_the_paper(kind, shape):
    """Windows are then those of numpy's reflected field."""
    graph = DependencyGraph.grid(shape)
    network = kind(graph, 2, padding="reflect")
    x = field(2, graph)
    mirrored = np.pad(x.numpy().reshape(2, *shape), [(0, 0), *[(2, 2)] * len(shape)], mode="reflect")
    cells = np.stack(np.unravel_index(np.arange(len(graph)), shape), axis=1)
    at = cells[:, None] + graph.neighborhood(2).offsets + 2
    np.testing.assert_array_equal(network.windows(x)[..., 0], mirrored[:, *np.moveaxis(at, -1, 0)])
    assert network.present.all()
    np.testing.assert_array_equal(reads(stirred(network), field(5, graph)), graph.distance_matrix() <= 2)
    with pytest.raises(ValueError, match="only whole lattices mirror"):
        kind(bay(), 2, padding="reflect")


@pytest.mark.parametrize("kind", [stencil, window])
def test_site_embeddings_go_with_their_vertices(kind):
    """Moving a torus, or renaming stations, moves the output along, if embeddings move too and only then."""
    if kind is stencil:
        graph = moved = DependencyGraph.torus((4, 5))
        order = np.roll(np.arange(20).reshape(4, 5), (1, 2), axis=(0, 1)).ravel()
    else:
        order = (5 * np.arange(len(KNN_POINTS)) + 3) % len(KNN_POINTS)  # none stays
        graph, moved = GRAPHS["knn"], DependencyGraph.knn(KNN_POINTS[order], 3)
    here, there = stirred(kind(graph, 2, embedding=8)), kind(moved, 2, embedding=8).double()
    weights = here.state_dict()
    there.load_state_dict(weights | {"site.embedding": weights["site.embedding"][order]})
    x = field(3, graph)
    expected = here(x, None, level(3))[:, order]
    torch.testing.assert_close(there(x[:, order], None, level(3)), expected, rtol=1e-5, atol=1e-6)
    there.load_state_dict(weights)
    assert (there(x[:, order], None, level(3)) - expected).abs().amax(dim=(0, 2)).min() > 1e-3


@every_kind
def test_before_training_the_score_is_that_of_white_noise(kind):
    graph = bay()
    x, t = field(4, graph, 2), torch.tensor([0.0, 1e-3, 0.5, 4.0], dtype=torch.float64)
    score = NetworkScore(kind(graph, 2, n_channels=2).requires_grad_(False))
    assert torch.equal(score.denoise(x, t), signal_scale(t)[:, None, None] * x)


@every_kind
def test_initial_weights_follow_from_the_seed_alone(kind):
    before = torch.random.get_rng_state()
    one, same, other = (kind(bay(), 2, seed=seed) for seed in (2**63 + 5, 2**63 + 5, 7))
    assert torch.equal(before, torch.random.get_rng_state())
    pairs = [list(n.state_dict().values()) for n in (one, same, other)]
    assert all(torch.equal(a, b) for a, b in zip(pairs[0], pairs[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(pairs[0], pairs[2], strict=True))


@every_kind
@pytest.mark.parametrize("graph", [GRAPHS["chain"], GRAPHS["masked box"], GRAPHS["torus"]])
def test_networks_are_stored(kind, graph, tmp_path):
    options = {"embedding": 2} if kind is not vertex else {"sparsity": 30, "bound": 0.5, "output_bound": 3.0}
    network = stirred(kind(graph, 1, n_channels=2, **options))
    if kind is vertex:
        network.prune()
    score = NetworkScore(network)
    store.write(tmp_path / "model", describe(score), {k: v.numpy() for k, v in score.state_dict().items()})
    description, arrays = store.read(tmp_path / "model")
    copy = rebuild(description, {k: as_tensor(v) for k, v in arrays.items()}, graph)
    x = field(3, graph, 2)
    assert torch.equal(copy.denoise(x, level(3).exp()), score.denoise(x, level(3).exp()))
    assert settings_of(copy.network) == settings_of(network)
    assert not any(weight.requires_grad for weight in copy.network.parameters())


def stencil_by_hand(
    network: StencilNetwork, x: torch.Tensor, context: torch.Tensor, level: torch.Tensor
) -> torch.Tensor:
    """The formula of the class, with a matrix of zeros and ones for each cell of the kernel."""
    graph, weights = network.graph, dict(network.named_parameters())
    lattice, width = graph.lattice, network.width
    keep = np.ones(lattice.shape, dtype=bool) if graph.keep is None else graph.keep
    number = np.where(keep, np.cumsum(keep).reshape(keep.shape) - 1, -1)
    reads = {}
    for offset in itertools.product((-1, 0, 1), repeat=keep.ndim):
        if lattice.diagonal or np.abs(offset).sum() <= 1:
            matrix = torch.zeros(len(graph), len(graph), dtype=torch.float64)
            for cell in np.argwhere(keep):
                there = cell + offset
                there = np.where(lattice.periodic, there % keep.shape, there)
                if (there >= 0).all() and (there < keep.shape).all() and keep[*there]:
                    matrix[number[*cell], number[*there]] = 1
            reads[offset] = matrix

    def affine(name, y):
        return y @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def film(layer, y):
        part = slice(2 * layer * width, 2 * (layer + 1) * width)
        scale, shift = modulation[:, None, part].chunk(2, dim=-1)
        return silu((1 + scale) * y + shift)

    silu = torch.nn.functional.silu
    first = silu(affine("modulation.first", level[:, None].clamp(-7, 7) / 4))
    modulation = affine("modulation.last", silu(affine("modulation.second", first)))
    h = affine("enter", x) + context @ weights["context_first"].T + weights["site.embedding"] @ weights["site.weight"].T
    for layer in range(network.radius):
        kernel = weights[f"convolutions.{layer}.weight"].reshape(width, width, *(3,) * keep.ndim)
        y = film(layer, h)
        for offset, matrix in reads.items():
            h = h + torch.einsum("vu,nui,oi->nvo", matrix, y, kernel[:, :, *np.add(offset, 1)])
        h = h + weights[f"convolutions.{layer}.bias"]
    return affine("leave", silu(affine("mix", film(network.radius, h + context @ weights["context_last"].T))))


@pytest.mark.parametrize("graph", LATTICES.values(), ids=LATTICES)
def test_stencil_is_its_formula(graph):
    network = stirred(stencil(graph, 2, n_channels=2, n_context=1, embedding=3))
    x, context = field(3, graph, 2), field(3, graph, seed=6)
    expected = stencil_by_hand(network, x, context, level(3))
    torch.testing.assert_close(network(x, context, level(3)), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("graph", LATTICES.values(), ids=LATTICES)
def test_stencil_learns_by_the_gradients_of_its_formula(graph):
    network = stirred(stencil(graph, 2, n_channels=2, n_context=1, embedding=3)).requires_grad_(True)
    x, context = field(3, graph, 2), field(3, graph, seed=6)
    found, expected = (
        torch.autograd.grad(f(network, x, context, level(3)).square().sum(), tuple(network.parameters()))
        for f in (StencilNetwork.forward, stencil_by_hand)
    )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@every_kind
@pytest.mark.parametrize("graph", [GRAPHS["chain"], GRAPHS["bay"], GRAPHS["half periodic"]])
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # of torch's own jvp
def test_forward_mode_agrees_with_backpropagation(kind, graph):
    """As the divergence of a score needs it."""
    network, x, v = stirred(kind(graph, 2)), field(1, graph), field(1, graph, seed=9)
    jacobian = torch.func.jacrev(lambda y: network(y, None, level(1)))(x).reshape(len(graph), len(graph))
    _, product = torch.func.jvp(lambda y: network(y, None, level(1)), (x,), (v,))
    torch.testing.assert_close(product.flatten(), jacobian @ v.flatten(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("graph", [LATTICES["chain"], LATTICES["bay"], LATTICES["half periodic"]])
def test_stencil_in_bfloat16_is_bfloat16_throughout(graph):
    """Nothing is promoted on the way, and the error is that of eight bits: 2^-9 a rounding, some tens of roundings."""
    network = stirred(stencil(graph, 2, n_context=1, embedding=3)).float()
    x, context = field(8, graph).float(), field(8, graph, seed=6).float()
    exact = network(x, context, level(8).float())
    types = []
    for part in (*network.convolutions, network.mix, network.leave):
        part.register_forward_hook(lambda _, inputs, out: types.extend(each.dtype for each in (*inputs, out)))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = network(x, context, level(8).float())
    assert set(types) == {torch.bfloat16}
    assert 2**-12 < (rounded - exact).norm() / exact.norm() < 2**-5


def test_vertex_networks_are_the_relu_networks_of_their_vertices():
    """(3.3) by hand: each vertex its own matrices, on its window and the noise level."""
    graph = DependencyGraph.chain(5)
    networks = stirred(VertexNetworks(graph, 1, widths=(4, 3)))
    x, c = field(2, graph), level(2)
    out = networks(x, None, c)
    for j in range(5):
        weights = iter(networks.weights[j])
        around = [x[:, i] if 0 <= i < 5 else torch.zeros_like(x[:, 0]) for i in (j, j - 1, j + 1)]
        h = torch.cat([*around, c[:, None] / 4], dim=1)
        for n_in, n_out in ((4, 4), (4, 3), (3, 1)):
            matrix = torch.stack([next(weights) for _ in range(n_in * n_out)]).reshape(n_in, n_out)
            h = h @ matrix + torch.stack([next(weights) for _ in range(n_out)])
            h = torch.relu(h) if n_out > 1 else h
        torch.testing.assert_close(out[:, j], h, rtol=1e-12, atol=1e-12)


def test_pruning_keeps_the_largest_of_each_layer_and_the_rest_stay_zero():
    networks = stirred(VertexNetworks(DependencyGraph.chain(4), 1, widths=(5,), sparsity=7, bound=0.2))
    networks.project()
    assert networks.weights.abs().max() == 0.2
    networks = stirred(VertexNetworks(DependencyGraph.chain(4), 1, widths=(5,), sparsity=7))
    size = networks.weights.abs().clone()
    networks.prune()
    kept = networks.weights != 0
    assert (kept.sum(dim=1) == 7).all()
    for layer in (slice(0, 25), slice(25, 31)):  # of (4 + 1) * 5 and (5 + 1) * 1 parameters
        assert kept[:, layer].any(dim=1).all()
        most_left_out = size[:, layer].masked_fill(kept[:, layer], 0).amax(dim=1)
        assert (size[:, layer].masked_fill(~kept[:, layer], torch.inf).amin(dim=1) >= most_left_out).all()
    networks.weights += 1.0  # a step of training
    networks.project()
    assert torch.equal(networks.weights != 0, kept)


def test_pruning_ranks_by_the_share_in_a_layer():
    """By hand: w^2 over the sum of the squares of its layer that are no smaller, whatever the scale of the layer."""
    networks = VertexNetworks(DependencyGraph.chain(1), 0, widths=(1,), sparsity=3)  # layers of 2 + 1 and 1 + 1
    networks.weights.data[0] = torch.tensor([3.0, -4.0, 1.0, 0.001, 0.01])  # 9/25, 1, 1/26; 1/101, 1
    networks.prune()
    assert networks.weights[0].tolist() == torch.tensor([3.0, -4.0, 0.0, 0.0, 0.01]).tolist()


def test_pruned_ties_are_no_more_than_the_sparsity():
    networks = VertexNetworks(DependencyGraph.chain(3), 1, widths=(5,), sparsity=7)
    networks.weights.data.fill_(0.5)
    networks.prune()
    assert ((networks.weights != 0).sum(dim=1) == 7).all()


def test_bounded_output_is_that_of_3_16():
    """|u_j| <= K / s at every level, tight where the free network exceeds it and untouched where it does not."""
    graph, limit = DependencyGraph.ring(6), 1.5
    free, bounded = (stirred(VertexNetworks(graph, 1, n_channels=2, output_bound=k)) for k in (None, limit))
    x, t = 3 * field(200, graph, 2), torch.linspace(0.01, 3, 200, dtype=torch.float64)
    s = noise_scale(t)[:, None]
    length, wanted = (s * NetworkScore(n).score(x, t).norm(dim=2) for n in (bounded, free))
    assert length.max() <= limit * (1 + 1e-9)
    assert 0.1 < (wanted > limit).double().mean() < 0.99
    torch.testing.assert_close(length, wanted.clamp_max(limit), rtol=1e-9, atol=1e-9)


def test_a_block_starts_as_it_would_among_all():
    graph = DependencyGraph.ring(7)
    everyone, block = VertexNetworks(graph, 1, seed=3), VertexNetworks(graph, 1, vertices=(4, 1), seed=3)
    assert torch.equal(everyone.weights[[4, 1]], block.weights)
    with pytest.raises(ValueError, match="network must be of all vertices"):
        NetworkScore(block)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StencilNetwork(GRAPHS["knn"], 1), "graph must be a lattice"),
        (lambda: StencilNetwork(DependencyGraph.chain(3), -1), "radius must be at least 0"),
        (lambda: WindowNetwork(DependencyGraph.chain(3), 1, padding="zeros"), "padding must be"),
        (lambda: VertexNetworks(DependencyGraph.chain(3), 1, bound=0.0), "bound must be above 0"),
        (lambda: VertexNetworks(DependencyGraph.chain(3), 1, vertices=(-1,)), "vertices must be at least 0"),
        (lambda: VertexNetworks(DependencyGraph.chain(3), 1, vertices=(0, 3)), r"vertices must be of 0 to 2"),
        (lambda: VertexNetworks(DependencyGraph.chain(3), 1, vertices=()), "vertices must be of 0 to 2"),
        (lambda: NetworkScore(WindowNetwork(DependencyGraph.chain(3), 1, n_context=1)), "n_context 0"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


class Echo(Network):
    """Return a^2 q / v, what the Gaussian score has of q in the preconditioned form besides s^2 q; v is given."""

    def forward(self, x, context, c_noise):
        return context[:, :, 2:] / (1 + torch.exp(2 * c_noise))[:, None, None] / self.v


def test_a_network_that_makes_up_the_rest_of_its_context_is_the_gaussian_score():
    graph = DependencyGraph.chain(6)
    x = np.random.default_rng(0).normal(size=(20, 6, 2)).cumsum(axis=1)
    gaussian = fit_windowed(Samples(x, graph), ((0.1, 1), (1.0, 2)), Pooling(0.5))[2]
    network = Echo(graph, 0, 2, 4)
    network.weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    t = torch.tensor([0.0, 1e-4, 0.3, 5.0], dtype=torch.float64)
    network.v = gaussian.explained_variance(t)
    y = field(4, graph, 2)
    torch.testing.assert_close(HybridScore(network, gaussian).denoise(y, t), gaussian.denoise(y, t))
    network.v = network.v[2:3]
    torch.testing.assert_close(HybridScore(network, gaussian).denoise(y, 0.3), gaussian.denoise(y, 0.3))


def test_hybrid_is_refused_what_is_not_of_its_field():
    x = np.random.default_rng(0).normal(size=(20, 6, 1))
    gaussian = fit_windowed(Samples(x, DependencyGraph.chain(6)), ((1.0, 1),), Pooling(0.0))[2]
    for graph, context in ((DependencyGraph.chain(5), 2), (DependencyGraph.chain(6), 0), (DependencyGraph.chain(6), 1)):
        with pytest.raises(ValueError, match="must have"):
            HybridScore(StencilNetwork(graph, 1, n_context=context), gaussian)
