"""What every score promises: locality, the clean limit, times per sample, Tweedie's formula, storage, precision."""

from __future__ import annotations

import copy
import importlib
import pickle
import pkgutil
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import nearfield.paper
import nearfield.score
from nearfield.data import store
from nearfield.fitting.closed_form import fit_field, fit_masked, fit_windowed
from nearfield.fitting.local_mixture import mixture_window
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.scale_mixture import field_basis
from nearfield.graph import DependencyGraph
from nearfield.module import as_tensor, describe, rebuild
from nearfield.paper.score import PaperNetwork, PaperScore
from nearfield.paper.vertex import VertexNetworks
from nearfield.process import denoised_from_score, score_from_denoised, time_of
from nearfield.samples import Samples
from nearfield.score.base import ContextScore, Score
from nearfield.score.conditioned import ConditionedScore
from nearfield.score.context import FieldContext
from nearfield.score.ensemble import EnsembleScore
from nearfield.score.field import CoarseLaw, GaussianField
from nearfield.score.gaussian import MaskedGaussianScore, WindowedGaussianScore
from nearfield.score.hybrid import ConditionalScore, HybridScore, NetworkScore
from nearfield.score.local_mixture import LocalMixtureScore
from nearfield.score.mixture_components import Components
from nearfield.score.scale_mixture import ScaleMixtureField
from nearfield.score.stencil import StencilNetwork
from nearfield.score.switch import SwitchedScore
from nearfield.score.tiled import TiledScore
from nearfield.score.window import WindowNetwork
from one_device import OneDevice

T = 0.4


def sea() -> DependencyGraph:
    keep = np.ones((3, 4), dtype=bool)
    keep[1, 1] = keep[0, 3] = False
    return DependencyGraph.grid((3, 4)).subgraph(keep)


GRAPHS = {
    "one vertex": DependencyGraph.chain(1),
    "chain": DependencyGraph.chain(7),
    "torus": DependencyGraph.torus((4, 3)),
    "closing latlon": DependencyGraph.latlon([-30.0, 0.0, 30.0], np.arange(0.0, 360.0, 72.0)),
    "sea": sea(),
    "knn": DependencyGraph.knn(np.random.default_rng(0).uniform(size=(12, 2)), 2),
    "disconnected": DependencyGraph.from_edges(6, [(0, 3), (3, 5), (1, 4)]),
}


def stirred(network):
    """Give every weight a value that is not special."""
    generator = torch.Generator().manual_seed(0)
    for weight in network.double().requires_grad_(False).parameters():
        weight += 0.1 * torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    return network


def hybrid(x, graph, network_radius, gaussian_radius) -> HybridScore:
    """On lattices the network reads at its neighbours, too, what the Gaussian makes of the state."""
    gaussian = fit_windowed(Samples(x, graph), ((0.1, gaussian_radius),), Pooling(0.3, 1.0))[2]
    kind = WindowNetwork if graph.lattice is None else StencilNetwork
    network = stirred(kind(graph, network_radius, 2, n_context=4, width=16))
    return HybridScore(network, gaussian, np.linspace(0.3, 1.0, 8).reshape(4, 2))


def hybrid_of_field(x, graph) -> HybridScore:
    """The network is shown what a corrected field makes of the state, and starts from it in full."""
    kind = WindowNetwork if graph.lattice is None else StencilNetwork
    network = stirred(kind(graph, 1, 2, n_context=4, width=16))
    quadratic = np.linspace(0.3, 1.0, 8).reshape(4, 2)
    return HybridScore(network, FieldContext(corrected(x, graph)), quadratic, full_start=True)


def hybrid_with_maps(x, graph) -> HybridScore:
    """The network is shown what a field makes of the state under a noise level of each value."""
    kind = WindowNetwork if graph.lattice is None else StencilNetwork
    network = stirred(kind(graph, 1, 2, n_context=8, width=16))
    quadratic = np.linspace(0.3, 1.0, 8).reshape(4, 2)
    return HybridScore(network, FieldContext(corrected(x, graph)), quadratic, full_start=True, noise_map=True)


def conditioned(x, graph) -> ConditionedScore:
    """Some values of a field were observed, with errors."""
    precision = np.random.default_rng(6).choice([0.0, 1.0, 4.0], size=(len(graph), 2))
    return ConditionedScore(FieldContext(corrected(x, graph)), precision, np.full((len(graph), 2), 0.5))


def paper(graph, predicts) -> PaperScore:
    padding = "absent" if graph.lattice is None or graph.keep is not None else "reflect"
    return PaperScore(stirred(PaperNetwork(graph, 2, 2, widths=(16, 16), padding=padding)), predicts)


def corrected(x, graph) -> GaussianField:
    """A field that is told the mean of each component."""
    field = fit_field(Samples(x, graph), 1, Pooling(0.7))[2]
    label = np.unique(np.isfinite(graph.distance_matrix()), axis=0, return_inverse=True)[1].reshape(-1)
    blocks = label.max() + 1
    law = GaussianField(sp.diags_array(np.linspace(0.7, 1.6, 2 * blocks), format="csr"), np.arange(blocks), 2)
    return GaussianField(field.factor, field.order, 2, 1, CoarseLaw(label, 2, np.full((blocks, 2), 0.8), law))


def switched(x, graph) -> SwitchedScore:
    """The field at small times, the hybrid at large ones."""
    return SwitchedScore(
        fit_field(Samples(x, graph), 1, Pooling(0.7))[2], hybrid(x, graph, 1, 1), ((0.1, False), (0.6, True))
    )


def mixture(x, graph) -> ScaleMixtureField:
    """Three components in the eigenbasis of a field."""
    basis = field_basis(fit_field(Samples(x, graph), 9, Pooling(0.0))[2], graph, one_law=False)
    scales = np.array([[0.2], [1.0], [3.0]]) * np.linspace(0.8, 1.3, 7)
    return ScaleMixtureField(basis, Components(scales, np.array([0.3, 0.5, 0.2])), n_channels=2)


def local_mixture(x, graph) -> LocalMixtureScore:
    """Windows of one hop where noise is weak, of two where it is strong."""
    windows = {r: mixture_window(Samples(x, graph), r, Pooling(0.3, 1.0)) for r in (1, 2)}
    return LocalMixtureScore(windows, ((0.1, 1), (1.0, 2)), 2)


def hybrid_of_mixture(x, graph) -> HybridScore:
    """The network is shown what a scale mixture makes of the state."""
    kind = WindowNetwork if graph.lattice is None else StencilNetwork
    return HybridScore(stirred(kind(graph, 1, 2, n_context=4, width=16)), mixture(x, graph))


def conditional(x, graph) -> ConditionalScore:
    """Given one field for all states."""
    kind = WindowNetwork if graph.lattice is None else StencilNetwork
    return ConditionalScore(stirred(kind(graph, 2, 2, n_context=2, width=16)), x[:1])


MAKERS = {
    "field": lambda x, graph: fit_field(Samples(x, graph), 9, Pooling(0.0))[2],
    "pooled field": lambda x, graph: fit_field(Samples(x, graph), 1, Pooling(0.7))[2],
    "corrected field": corrected,
    "mixture": mixture,
    "local mixture": local_mixture,
    "hybrid of a mixture": hybrid_of_mixture,
    "masked 0": lambda x, graph: fit_masked(Samples(x, graph), 0)[2],
    "masked 1": lambda x, graph: fit_masked(Samples(x, graph), 1)[2],
    "masked 9": lambda x, graph: fit_masked(Samples(x, graph), 9)[2],
    "windowed 0": lambda x, graph: fit_windowed(Samples(x, graph), ((0.1, 0),), Pooling(0.0))[2],
    "windowed 2": lambda x, graph: fit_windowed(Samples(x, graph), ((0.1, 2),), Pooling(0.3, 1.0))[2],
    "network 2": lambda x, graph: NetworkScore(stirred(VertexNetworks(graph, 2, 2, widths=(16, 16)))),
    "paper 2": lambda x, graph: paper(graph, "noise"),
    "paper 2, score": lambda x, graph: paper(graph, "score"),
    "given a field": conditional,
    "hybrid 0, 2": lambda x, graph: hybrid(x, graph, 0, 2),
    "hybrid 2, 1": lambda x, graph: hybrid(x, graph, 2, 1),
    "hybrid of a field": hybrid_of_field,
    "hybrid with noise maps": hybrid_with_maps,
    "conditioned field": conditioned,
    "field context": lambda x, graph: FieldContext(fit_field(Samples(x, graph), 1, Pooling(0.7))[2]),
    "three hybrids": lambda x, graph: EnsembleScore(tuple(hybrid(x, graph, r, 1) for r in (0, 1, 1))),
    "windowed by time": lambda x, graph: fit_windowed(Samples(x, graph), ((0.1, 1), (1.0, 2), (3.0, 0)), Pooling(0.0))[
        2
    ],
}


@pytest.fixture(params=GRAPHS, scope="module")
def graph(request):
    return GRAPHS[request.param]


@pytest.fixture(params=MAKERS, scope="module")
def score(request, graph) -> Score:
    """Two channels, correlations without symmetry between all the vertices of a component and of none beyond."""
    rng = np.random.default_rng(3)
    d = 2 * len(graph)
    mix = rng.normal(size=(d, d)) / (2 * np.sqrt(d)) * np.kron(np.isfinite(graph.distance_matrix()), np.ones((2, 2)))
    x = (rng.normal(size=(4 * d + 8, d)) @ (mix + np.eye(d))).reshape(-1, len(graph), 2)
    return MAKERS[request.param](x, graph)


def state(graph: DependencyGraph, n: int = 5) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(4).normal(size=(n, len(graph), 2)))


def jacobian(score: Score, x: torch.Tensor, t: float) -> torch.Tensor:
    """d score / d x at one state, (vertex, channel, vertex, channel)."""
    return torch.func.jacrev(lambda y: score.score(y[None], t)[0])(x[0])


def test_every_score_class_is_held_to_the_contract():
    rooms = [(nearfield.paper, "nearfield.paper."), (nearfield.score, "nearfield.score.")]
    for module in (found for room, name in rooms for found in pkgutil.iter_modules(room.__path__, name)):
        importlib.import_module(module.name)
    kinds = {*Score.__subclasses__(), *ContextScore.__subclasses__()} - {ContextScore}
    ours = {kind for kind in kinds if kind.__module__.startswith(("nearfield.paper.", "nearfield.score."))}
    closed = {
        FieldContext,
        GaussianField,
        MaskedGaussianScore,
        WindowedGaussianScore,
        ScaleMixtureField,
        LocalMixtureScore,
    }
    assert ours == closed | {
        NetworkScore,
        ConditionalScore,
        HybridScore,
        EnsembleScore,
        PaperScore,
        SwitchedScore,
        TiledScore,
        ConditionedScore,
    }


def test_score_reads_its_neighbourhood_and_nothing_beyond(score, graph):
    """Exactly: global scores read their component, which is all that `np.inf` hops are beyond; mixtures read all."""
    hops = graph.distance_matrix()
    # the weights of a mixture are those of the whole field
    reachable = np.isfinite(hops) | any(isinstance(part, ScaleMixtureField) for part in score.modules())
    largest = 0
    for t in (0.05, T, 1.5):
        radius = score.radius_at(t) if isinstance(score, WindowedGaussianScore | LocalMixtureScore) else score.radius
        reads = jacobian(score, state(graph), t).abs().amax(dim=(1, 3)).numpy()
        np.testing.assert_array_equal(reads != 0, hops <= radius if radius is not None else reachable)
        largest = max(largest, radius or 0)
    assert largest == (score.radius or 0)


def test_denoised_state_tends_to_the_state(score, graph):
    """Linearly in t, networks in its root, and not below rounding: at t = 0 it is the state itself."""
    x = state(graph)
    near, nearer = ((score.denoise(x, t) - x).abs().max() for t in (1e-7, 1e-9))
    learned = (
        isinstance(score, NetworkScore | ConditionalScore | HybridScore | EnsembleScore)
        or getattr(score, "predicts", "score") == "noise"
    )
    assert nearer < (1e-3 if learned else 1e-5)
    rate = torch.tensor(10.0 if learned else 100.0, dtype=torch.float64)
    torch.testing.assert_close(near / nearer, rate, rtol=2e-2 if learned else 1e-3, atol=0)
    assert torch.equal(score.denoise(x, 0.0), x)
    assert torch.equal(score.denoise(x, torch.tensor([0.0, 1.0, 0.0, 1.0, 2.0]))[[0, 2]], x[[0, 2]])


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_denoiser_is_stable_with_fewer_samples_than_variables(make):
    """Where the empirical covariance is singular the score has no limit at t = 0, the denoiser has."""
    graph = DependencyGraph.chain(7)
    x = np.random.default_rng(2).normal(size=(5, 7, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # conditioning sets are cut
        score = make(x, graph)
    for t in (1e-14, 1e-6):
        assert score.denoise(torch.from_numpy(x), t).abs().max() < 2 * abs(x).max()
    assert torch.equal(score.denoise(state(graph), 0.0), state(graph))


def test_times_per_sample_are_one_at_a_time(score, graph):
    x, times = state(graph), torch.tensor([0.7, 0.02, 0.7, 3.0, 0.4], dtype=torch.float64)
    for method in (score.denoise, score.score):
        one_by_one = torch.cat([method(x[i : i + 1], times[i]) for i in range(5)])
        torch.testing.assert_close(method(x, times), one_by_one, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(score.denoise(x, 0.4), score.denoise(x, torch.tensor(0.4, dtype=torch.float64)))


def test_score_and_denoiser_are_tied_by_tweedie(score, graph):
    x = state(graph)
    for t in (time_of(0.02), T, time_of(80.0)):
        torch.testing.assert_close(score.score(x, t), score_from_denoised(x, score.denoise(x, t), t))
        torch.testing.assert_close(denoised_from_score(x, score.score(x, t), t), score.denoise(x, t))


def test_score_is_that_of_noise_in_the_end(score, graph):
    if isinstance(score, PaperScore):
        pytest.skip("its network has to learn that too")
    x = state(graph)
    torch.testing.assert_close(score.score(x, 12.0), -x, rtol=1e-4, atol=1e-4)


def copied(module, graph, folder):
    """Through a file: nothing that is not in it can have survived."""
    store.write(folder / "module", describe(module), {k: v.numpy() for k, v in module.state_dict().items()})
    description, arrays = store.read(folder / "module")
    return rebuild(description, {k: as_tensor(v) for k, v in arrays.items()}, graph)


def test_round_trips_are_exact(score, graph, tmp_path):
    x = state(graph)
    score.denoise(x, 0.3)  # solvers are in memory by now
    for other in (copied(score, graph, tmp_path), pickle.loads(pickle.dumps(score)), copy.deepcopy(score)):
        assert (other.n_vertices, other.n_channels, other.radius) == (len(graph), 2, score.radius)
        for t in (0.05, T, 2.0):
            assert torch.equal(other.denoise(x, t), score.denoise(x, t))


def test_a_copy_draws_and_scores_the_same(score, graph, tmp_path):
    if not isinstance(score, GaussianField | ScaleMixtureField):
        pytest.skip("only fields draw by themselves")
    other = copied(score, graph, tmp_path)
    np.testing.assert_array_equal(other.sample(3, seed=5), score.sample(3, seed=5))
    np.testing.assert_array_equal(other.log_prob(state(graph).numpy()), score.log_prob(state(graph).numpy()))


def test_every_fitted_array_is_in_the_state_dict(score):
    """None is a plain attribute, which would neither move with the module nor be stored."""
    for module in copy.deepcopy(score).modules():  # without what is only kept for reuse
        held = [name for name, value in vars(module).items() if isinstance(value, np.ndarray | torch.Tensor)]
        assert held == [], type(module)


def test_a_state_dict_can_be_loaded_into_another_score(graph):
    """What was computed from the old arrays is forgotten."""
    rng = np.random.default_rng(5)
    for make in (MAKERS["pooled field"], MAKERS["masked 1"], MAKERS["windowed 2"]):
        one, other = (make(rng.normal(size=(60, len(graph), 2)).cumsum(axis=1), graph) for _ in range(2))
        one.denoise(state(graph), T)
        one.denoise(state(graph), torch.linspace(0.1, 0.5, 5, dtype=torch.float64))
        one.load_state_dict(other.state_dict())
        for t in (T, torch.linspace(0.1, 0.5, 5, dtype=torch.float64)):
            assert torch.equal(one.denoise(state(graph), t), other.denoise(state(graph), t))


TIMES = [0.3, torch.tensor([0.7, 0.02, 0.7, 3.0, 0.4], dtype=torch.float64), torch.full((5,), 0.3, dtype=torch.float64)]


def test_denoising_stays_on_the_device_of_the_score(score, graph):
    """On a device without numbers: there is no value to be read, and nothing to be computed on the processor."""
    if any(isinstance(part, GaussianField) for part in score.modules()):
        pytest.skip("solved on the processor")
    moved, x = copy.deepcopy(score).to("meta"), state(graph).to("meta")
    for t in TIMES:
        with OneDevice(t):
            denoised = moved.denoise(x, t)
        assert denoised.shape == x.shape
        assert denoised.device.type == "meta"


def test_a_tensor_on_the_processor_is_noticed():
    class Careless(Score):
        n_vertices, n_channels, radius = 7, 2, 0

        def forward(self, x, t):
            return x * torch.ones(2).to(x)

    with OneDevice(0.3), pytest.raises(AssertionError, match="on the processor"):
        Careless().denoise(state(GRAPHS["chain"]).to("meta"), 0.3)


@pytest.mark.usefixtures("unchecked")  # shapes that are refused
def test_a_map_of_times_that_is_constant_in_each_sample_is_the_time_of_the_sample(score, graph):
    x, times = state(graph), TIMES[1]
    for method in (score.denoise, score.score):
        assert torch.equal(method(x, times[:, None].expand(-1, len(graph))), method(x, times))
        assert torch.equal(method(x, torch.full((5, len(graph)), 0.3, dtype=torch.float64)), method(x, TIMES[2]))
    for t in (torch.ones(4), torch.ones(5, len(graph) + 1), torch.ones(5, len(graph), 1)):
        with pytest.raises(ValueError, match=r"t must be a number, or of shape \(5,\)"):
            score.denoise(x, t)
    if len(graph) > 1:
        uneven = times[:, None].repeat(1, len(graph))
        uneven[3, -1] += 0.1
        if score.maps:
            assert score.denoise(x, uneven).shape == x.shape
            return
        with pytest.raises(ValueError, match="t must be the same at all vertices of a sample"):
            score.denoise(x, uneven)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # of torch's own jvp
def test_gradients_are_difference_quotients(score, graph):
    x = state(graph, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda y: score.denoise(y, T), x, fast_mode=True)
    if isinstance(score, GaussianField):
        matrix = torch.func.jacrev(lambda y: score.denoise(y[None], T)[0])(x[0].detach())
        matrix = matrix.reshape(2 * len(graph), -1)
        torch.testing.assert_close(matrix, matrix.T, rtol=1e-9, atol=1e-12)
        assert torch.autograd.gradcheck(lambda y: score.denoise(y, T), x, check_forward_ad=True, fast_mode=True)


def test_a_score_says_about_what_a_sample_takes(score, graph):
    assert score.numbers_per_sample >= 4 * 2 * len(graph)


def test_single_precision_stays_single_and_close(score, graph):
    x = state(graph).float()
    for t in (time_of(0.02), T, time_of(80.0)):
        denoised = score.denoise(x, t)
        assert denoised.dtype == torch.float32
        torch.testing.assert_close(denoised.double(), score.denoise(x.double(), t), rtol=1e-4, atol=2e-4)


def test_no_samples_give_no_samples(score, graph):
    for t in (T, torch.empty(0, dtype=torch.float64)):
        assert score.denoise(state(graph)[:0], t).shape == (0, len(graph), 2)
