"""A score evaluated tile by tile: against the score of the whole lattice, in files, and drawn from in tasks."""

import numpy as np
import pytest
import torch

from nearfield.distribution import DiffusionModel
from nearfield.fitting.closed_form import build_field, fit_windowed
from nearfield.fitting.pooling import Pooling
from nearfield.graph import DependencyGraph
from nearfield.module import describe, rebuild
from nearfield.process import Schedule, noise_scale, signal_scale, time_of
from nearfield.samples import Samples
from nearfield.sampling.sampler import Ancestral, DPMSolver2M, EulerMaruyama, Heun, default_sampler, default_schedule
from nearfield.sampling.tiled import TiledDraws
from nearfield.score import tiled
from nearfield.score.hybrid import HybridScore, NetworkScore
from nearfield.score.stencil import StencilNetwork
from nearfield.score.switch import SwitchedScore
from nearfield.score.tiled import TiledScore

T = time_of(0.7)


def data(graph, channels=1):
    return np.random.default_rng(0).normal(size=(30, len(graph), channels)).cumsum(axis=1) / 5


def hybrid(graph, channels=1):
    """Network of 2 hops and windows of 2, with weights that are not special."""
    windows = fit_windowed(Samples(data(graph, channels), graph), ((0.1, 1), (0.5, 2)), Pooling(1.0))[2]
    network = StencilNetwork(graph, 2, n_channels=channels, n_context=2 * channels, width=4).double()
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(2))
    return HybridScore(network.requires_grad_(False), windows, np.full((4, channels), 0.5))


def noise(graph, channels=1, n=2):
    return torch.from_numpy(np.random.default_rng(1).normal(size=(n, len(graph), channels)))


KINDS = {
    "grid": ((12, 11), (31, 25), (False, False), (8, 7), False),
    "diagonal grid with a tile that is longer": ((11, 10), (27, 23), (False, False), (12, 23), True),
    "torus": ((11, 12), (24, 26), (True, True), (12, 9), False),
    "cylinder, its short axis around": ((11, 10), (30, 10), (False, True), (9, 10), True),
    "chain": ((15,), (60,), (False,), (11,), False),
    "ring": ((15,), (60,), (True,), (13,), False),
    "box": ((9, 9, 9), (10, 11, 10), (False, False, True), (5, 6, 10), False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_tiles_have_the_values_of_the_whole(kind):
    shape, larger, periodic, side, diagonal = KINDS[kind]
    graph, onto = (DependencyGraph.grid(lengths, periodic=periodic, diagonal=diagonal) for lengths in (shape, larger))
    channels = 2 if len(shape) == 1 else 1
    score = hybrid(graph, channels)
    part = TiledScore(score, onto, shape, periodic, side)
    whole, x = score.extended(graph, onto), noise(onto, channels)
    times = torch.tensor([T, time_of(0.05)], dtype=torch.float64)
    torch.testing.assert_close(part.denoise(x, T), whole.denoise(x, T), rtol=0, atol=1e-10)
    torch.testing.assert_close(part.denoise(x, times), whole.denoise(x, times), rtol=0, atol=1e-10)
    assert torch.equal(part.denoise(x, 0.0), x)
    assert torch.equal(part.denoise(x[1:], T), part.denoise(x, T)[1:])
    assert len(part._parts) <= 2 ** len(shape)
    assert part.radius == whole.radius == 4


def test_an_axis_with_ends_becomes_one_without():
    """Every vertex of the ring has a whole window, as those in the middle of a long chain have."""
    chain, ring, long = DependencyGraph.chain(15), DependencyGraph.ring(60), DependencyGraph.chain(120)
    score = hybrid(chain)
    x = noise(ring)
    around = torch.cat([x[:, 30:], x, x[:, :30]], dim=1)
    expected = score.extended(chain, long).denoise(around, T)[:, 30:90]
    torch.testing.assert_close(
        TiledScore(score, ring, (15,), (False,), (12,)).denoise(x, T), expected, rtol=0, atol=1e-10
    )
    with pytest.raises(ValueError, match="graph must be periodic where"):
        TiledScore(hybrid(DependencyGraph.ring(15)), chain, (15,), (True,))


def test_large_lattices_are_tiled_and_stored_with_the_numbers_of_the_small_one(monkeypatch):
    graph, onto = DependencyGraph.grid((12, 11)), DependencyGraph.grid((40, 30))
    field = build_field(Samples(data(graph), graph, standard=(True,)), 1, Pooling(1.0)).field
    score = hybrid(graph)
    law = DiffusionModel(score, 3.0, field)
    whole = law.extended(graph, onto)
    monkeypatch.setattr(tiled, "LARGEST_WHOLE", 1000)
    large = law.extended(graph, onto)
    assert isinstance(whole.score, HybridScore)
    assert isinstance(large.score, TiledScore)
    assert large.gaussian.score.n_vertices == 1200
    x = noise(onto)
    torch.testing.assert_close(large.score.denoise(x, T), whole.score.denoise(x, T), rtol=0, atol=1e-10)
    for each in (large, law.extended(graph, onto, whole.field)):
        again = rebuild(describe(each), each.state_dict(), onto)
        assert torch.equal(again.score.denoise(x, 2 * T), each.score.denoise(x, 2 * T))
    tensors = large.score.state_dict()
    assert sum(each.numel() for each in tensors.values()) == sum(each.numel() for each in score.state_dict().values())


def test_strong_noise_of_a_switched_score_is_left_to_exact_draws_of_its_field(monkeypatch):
    """Where the field is the score, the state at the hand-over is a draw of the field with noise."""
    graph, onto = DependencyGraph.chain(15), DependencyGraph.chain(60)
    x = data(graph)
    field = build_field(Samples(x / x.std(), graph, standard=(True,)), 1, Pooling(1.0)).field
    times = (time_of(0.1), time_of(1.0), time_of(4.0), time_of(16.0))
    score = SwitchedScore(field, hybrid(graph), tuple(zip(times, (False, True, False, False), strict=True)))
    assert score.handover == pytest.approx(time_of(2.0))
    assert not score.uses_hybrid(1.001 * score.handover)
    assert score.uses_hybrid(0.999 * score.handover)
    assert SwitchedScore(field, score.hybrid, ((1.0, False), (2.0, True))).handover is None
    assert SwitchedScore(field, score.hybrid, ((1.0, False),)).handover == 1.0
    monkeypatch.setattr(tiled, "LARGEST_WHOLE", 50)
    law = DiffusionModel(score, 3.0).extended(graph, onto)
    assert isinstance(law.score, TiledScore)
    again = rebuild(describe(law), law.state_dict(), onto)
    drawn = law.sample(3, seed=5)
    for other in (again.sample(3, seed=5, batch_size=1), law.sample_tiles(range(3), seed=5)):
        np.testing.assert_array_equal(other, drawn)
    np.testing.assert_array_equal(law.sample_tiles([2], seed=5, client=Client())[0], drawn[2])
    # a sampler that ends where it starts leaves the field's draws and the noise
    sampler = law._started(DPMSolver2M(default_schedule(3.0), final_denoise=False))
    assert sampler.schedule.times[:2] == (law.start, max(t for t in default_schedule(3.0).times if t < law.start))
    short = DPMSolver2M(Schedule((law.start, law.start * (1 - 1e-12))), final_denoise=False, clean=sampler.clean)
    states = short.sample(law.score, 300, seed=0, dtype=torch.float64).numpy()[..., 0]
    a, s = signal_scale(law.start), noise_scale(law.start)
    wanted = a**2 * law.field.covariance() + s**2 * np.eye(60)
    error = np.sqrt((wanted**2 + np.outer(wanted.diagonal(), wanted.diagonal())) / 300)
    z = (states.T @ states / 300 - wanted) / error
    assert np.abs(z).max() < 6  # false alarms: some 1800 times 6e-8
    with pytest.raises(ValueError, match="sample_tiles needs a TiledScore"):
        DiffusionModel(score).sample_tiles([0], seed=0)


def test_only_whole_lattices_are_tiled():
    keep = np.ones((20, 20), dtype=bool)
    keep[3, 3] = False
    graph = DependencyGraph.grid((9, 9))
    network = NetworkScore(StencilNetwork(graph, 2))
    for other in (
        DependencyGraph.grid((20, 20)).subgraph(keep),
        DependencyGraph.chain(30),
        DependencyGraph.from_edges(2, [(0, 1)]),
    ):
        with pytest.raises(ValueError, match="graph must be a whole lattice of 2 axes"):
            TiledScore(network, other, (9, 9), (False, False))
    field = build_field(Samples(data(graph), graph, standard=(True,)), 1, Pooling(1.0)).field
    with pytest.raises(ValueError, match="part must read a bounded window"):
        TiledScore(field, DependencyGraph.grid((20, 20)), (9, 9), (False, False))


@pytest.fixture(scope="module")
def draws():
    chain, onto = DependencyGraph.chain(15), DependencyGraph.chain(100)
    score = TiledScore(hybrid(chain, 2), onto, (15,), (False,), (20,))
    return TiledDraws(score, default_sampler(steps=4), seed=3)


@pytest.mark.parametrize("kind", ["diagonal grid with a tile that is longer", "torus", "ring"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_by_tiles_are_those_of_the_sampler_to_the_last_bit(kind, dtype):
    shape, larger, periodic, side, diagonal = KINDS[kind]
    graph, onto = (DependencyGraph.grid(lengths, periodic=periodic, diagonal=diagonal) for lengths in (shape, larger))
    score = TiledScore(hybrid(graph), onto, shape, periodic, side)
    schedule = default_schedule(steps=3)
    for sampler in (DPMSolver2M(schedule), Ancestral(schedule), EulerMaruyama(schedule, final_denoise=False)):
        whole = sampler.sample(score, 2, seed=3, first_member=5, dtype=dtype)
        np.testing.assert_array_equal(TiledDraws(score, sampler, 3, dtype).sample([6, 5]), whole.numpy()[::-1])


class Client:
    """Keeps tasks until their results are wanted, and then does the last ones first."""

    def __init__(self):
        self.tasks, self.sizes, self.gathered = {}, [], []

    def nthreads(self):
        return {"here": 6}

    def scatter(self, value, **options):
        return value

    def submit(self, function, *arguments, **options):
        self.tasks[len(self.tasks)] = function, arguments
        return range(len(self.tasks) - 1, len(self.tasks))  # a mark of its own type

    def result(self, value):
        if isinstance(value, range):
            task = self.tasks[value.start]
            if isinstance(task, tuple) and callable(task[0]):
                lists = [part for part in task[1] if isinstance(part, list)]
                task = task[0](*[self.result(part) for part in task[1]])
                self.sizes += [self.result(border).size for part in lists for border in part]
                self.tasks[value.start] = (task,)
            return self.tasks[value.start][0]
        return [self.result(part) for part in value] if isinstance(value, list) else value

    def gather(self, futures):
        self.gathered.append(len(self.tasks))
        return self.result(futures[::-1])[::-1]


def test_tasks_draw_the_same_in_any_order(draws):
    seen, taken, client = [], {}, Client()
    alone = draws.sample(range(5))
    np.testing.assert_array_equal(draws.sample(range(5), client=client, progress=lambda *at: seen.append(at)), alone)
    assert seen == [(k, 5) for k in range(1, 6)]
    assert client.gathered == [4 * 5 * 11, *[5 * 5 * 11] * 4]  # at most 4 members are under way
    assert max(client.sizes) == 2 * (8 + 4)  # of 20 cells; boxes at the ends read 8, others 4
    assert draws.sample([2], on_tile=lambda member, box, z: taken.setdefault((member, box.start), z)) is None
    tiling = draws.score.tiling
    for tile in range(len(tiling)):
        box = tiling.box(tile)
        np.testing.assert_array_equal(taken[2, box.start], alone[2, tiling.cells(box)])


def test_a_sampler_that_reads_twice_is_refused(draws):
    with pytest.raises(ValueError, match="sampler must read the score at the state that a step begins with"):
        TiledDraws(draws.score, Heun(default_schedule(steps=3)), seed=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of sockets that other libraries leave to the garbage collection
def test_any_number_of_workers_draws_the_same_bits(draws):
    distributed = pytest.importorskip("distributed")
    alone = draws.sample(range(2))
    for n_workers in (1, 2):
        cluster = distributed.LocalCluster(n_workers=n_workers, threads_per_worker=1, dashboard_address=None)
        with cluster, distributed.Client(cluster) as client:
            np.testing.assert_array_equal(draws.sample(range(2), client=client), alone)
