"""Samplers against exact laws of Gaussian fields, carried through the steps without Monte Carlo."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from nearfield.distribution import DiffusionModel
from nearfield.module import describe
from nearfield.noise import Stream, normals
from nearfield.process import Schedule, noise_scale, noise_to_signal, signal_scale, time_of
from nearfield.sampling import base as module
from nearfield.sampling.sampler import (
    Ancestral,
    DPMSolver2M,
    EulerMaruyama,
    Heun,
    default_sampler,
    default_schedule,
)
from nearfield.score.base import Score


class Gaussian(Score):
    """The exact score of N(mean, cov), by one eigendecomposition."""

    radius = None

    def __init__(self, mean, cov, n_channels=1):
        super().__init__()
        self.n_vertices, self.n_channels = len(mean) // n_channels, n_channels
        self.mean, self.cov = mean, cov
        self.values, self.vectors = torch.linalg.eigh(cov)

    def forward(self, x, t):
        a, s = signal_scale(t), noise_scale(t)
        gain = (self.vectors * (a * self.values / (a**2 * self.values + s**2))) @ self.vectors.T
        return (self.mean + (x.flatten(1) - a * self.mean) @ gain).reshape(x.shape)


class Shifts(Score):
    """A local, nonlinear denoiser in elementwise arithmetic, whose rounding cannot depend on the batch."""

    n_vertices, n_channels, radius = 7, 2, 1

    def forward(self, x, t):
        near = torch.roll(x, 1, 1) + torch.roll(x, -1, 1)
        return signal_scale(t) * x + noise_scale(t) ** 2 * torch.tanh(near) / 4


def autoregressive(alpha, d):
    i = torch.arange(d, dtype=torch.float64)
    return alpha ** (i[:, None] - i).abs()


def relative(generated, cov):
    """Covariance error (4.6) of arXiv 2505.04417."""
    return (torch.linalg.matrix_norm(generated - cov, math.inf) / torch.linalg.matrix_norm(cov, math.inf)).item()


@pytest.fixture(scope="module")
def gaussian():
    """Three vertices of two channels, with a mean and unequal variances."""
    scale = torch.linspace(0.5, 1.5, 6, dtype=torch.float64)
    return Gaussian(torch.linspace(-1, 2, 6, dtype=torch.float64), scale[:, None] * autoregressive(0.8, 6) * scale, 2)


SAMPLERS = {
    "EulerMaruyama": EulerMaruyama,
    "Ancestral": Ancestral,
    "DPMSolver2M-stochastic": DPMSolver2M,
    "DPMSolver2M-deterministic": lambda *args: DPMSolver2M(*args, stochastic=False),
    "Heun": Heun,
}
every_sampler = pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS)


def continuous_law(gaussian, t, end, stochastic):
    """Law at `end` of the reverse process started from N(0, I) at `t`, one eigenmode at a time.

    The diffusion is the time reversal of the forward process, so its transition is the conditional law x_end | x_t of a
    Gaussian pair; the differential equation keeps (x - a mean) / deviation constant along each mode.
    """
    v, v_end = (signal_scale(u) ** 2 * gaussian.values + noise_scale(u) ** 2 for u in (t, end))
    gain = signal_scale(t - end) * v_end / v if stochastic else torch.sqrt(v_end / v)
    fresh = v_end - gain**2 * v if stochastic else torch.zeros_like(v)
    q = gaussian.vectors
    mean = signal_scale(end) * gaussian.mean - signal_scale(t) * (q * gain) @ q.T @ gaussian.mean
    return mean, (q * (gain**2 + fresh)) @ q.T


@every_sampler
@pytest.mark.parametrize("ends", [(0.05, 20.0), (0.5, 2.0)], ids=["long", "short"])
def test_generated_law_converges_with_the_stated_order(make, ends, gaussian):
    t_min, t_max = map(time_of, ends)
    errors = []
    for steps in (160, 320, 640):
        sampler = make(Schedule.log_snr(steps, t_min, t_max), False)
        stochastic = sampler.step(gaussian, torch.zeros(1, 3, 2, dtype=torch.float64), 0, None).std > 0
        law = sampler.push_forward(gaussian)
        truth = continuous_law(gaussian, t_max, t_min, stochastic)
        errors.append([(x - y).abs().max().item() for x, y in zip(law, truth, strict=True)])
    for part in np.array(errors).T:  # mean, then covariance
        if part.max() > 1e-12:
            np.testing.assert_allclose(np.log2(part[:-1] / part[1:]), sampler.order, atol=0.05)
    assert errors[0][1] > 1e-6  # the covariance is never exact, so the order was measured


@pytest.mark.parametrize("make", [Ancestral, DPMSolver2M])
def test_mean_is_exact_because_the_denoised_state_is_a_martingale(make, gaussian):
    """E[x_0|x_t] does not drift along the reverse diffusion, so holding it through a step leaves the mean exact."""
    t_max, t_min = 1.5, 0.1
    mean, _ = make(Schedule.log_snr(5, t_min, t_max), False).push_forward(gaussian)
    torch.testing.assert_close(mean, continuous_law(gaussian, t_max, t_min, True)[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make", [make for name, make in SAMPLERS.items() if name != "EulerMaruyama"])
def test_a_single_point_is_reached_exactly_in_any_number_of_steps(make):
    """The denoiser of one point is constant, and every sampler built on a denoiser integrates a constant exactly."""
    point, eye = torch.linspace(-1, 2, 6, dtype=torch.float64), torch.eye(6, dtype=torch.float64)
    score, t, end = Gaussian(point, 0 * eye), 1.5, 0.1
    sampler = make(Schedule((t, 0.9, end)), False)
    mean, cov = sampler.push_forward(score, signal_scale(t) * point, noise_scale(t) ** 2 * eye)
    torch.testing.assert_close(mean, signal_scale(end) * point, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(cov, noise_scale(end) ** 2 * eye, rtol=1e-12, atol=1e-12)


def euler_maruyama(cov, times, factor=2.0, noise_factor=2.0, clock=1.0, forward=False):
    """(2.4) for the covariance alone, in numpy; the arguments are mistakes one can make."""
    d = len(cov)
    generated = np.eye(d)
    read = times[-2::-1] if forward else times
    for t, end, at in zip(times, times[1:], read, strict=False):
        a2 = math.exp(-2 * clock * at)
        score = -np.linalg.inv(a2 * cov + (1 - a2) * np.eye(d))
        step = np.eye(d) + (t - end) * (np.eye(d) + factor * score)
        generated = step @ generated @ step.T + noise_factor * (t - end) * np.eye(d)
    return generated


def test_euler_maruyama_is_the_papers_recursion():
    cov = autoregressive(0.5, 30)
    schedule = Schedule.ddpm()
    mean, generated = EulerMaruyama(schedule).push_forward(Gaussian(torch.zeros(30, dtype=torch.float64), cov))
    expected = euler_maruyama(cov.numpy(), schedule.times)
    np.testing.assert_allclose(generated.numpy(), expected, rtol=0, atol=1e-12)
    assert not mean.any()
    assert relative(generated, cov) == pytest.approx(0.0014, abs=5e-5)


def halves(steps):
    """Times of `steps` betas that were not scaled to their number."""
    return tuple(np.append(0, np.cumsum(np.linspace(1e-4, 0.02, steps) / 2))[::-1])


@pytest.mark.parametrize(
    ("mistake", "error"),
    [
        ({"factor": 1.0}, 8.9),
        ({"noise_factor": 1.0}, 0.50),
        ({"clock": 0.5}, 0.67),
        ({"forward": True}, 0.55),
        ({"times": halves(100)}, 0.27),
    ],
    ids=["score once", "half the noise", "clock of beta", "forward clock", "unscaled beta"],
)
def test_known_mistakes_are_far_from_the_papers_recursion(mistake, error):
    """Negative control: what the covariance error becomes when (2.4) is got wrong in the ways it is."""
    cov = autoregressive(0.5, 30)
    generated = euler_maruyama(cov.numpy(), **{"times": Schedule.ddpm().times} | mistake)
    assert relative(torch.from_numpy(generated), cov) == pytest.approx(error, rel=0.02)


def test_a_tenth_of_the_steps_costs_ten_times_the_error():
    cov = autoregressive(0.5, 30)
    _, generated = EulerMaruyama(Schedule.ddpm(100)).push_forward(Gaussian(torch.zeros(30, dtype=torch.float64), cov))
    assert relative(generated, cov) == pytest.approx(0.014, abs=5e-4)


@pytest.mark.parametrize(("steps", "stochastic"), [(30, False), (50, True)])
def test_the_default_levels_change_the_law_by_less_than_a_percent(steps, stochastic):
    cov = autoregressive(0.8, 100)
    sampler = DPMSolver2M(default_schedule(steps=steps), stochastic=stochastic)
    _, generated = sampler.push_forward(Gaussian(torch.zeros(100, dtype=torch.float64), cov))
    assert relative(generated, cov) < 0.01


@every_sampler
@pytest.mark.parametrize("last", [0.1, 0.0])
@pytest.mark.parametrize("final_denoise", [True, False])
def test_members_have_the_law_that_is_pushed_forward(make, last, final_denoise, gaussian, monkeypatch):
    """A member is affine in its noises: feed `sample` the origin and the basis of all of them, and see their images."""
    sampler = make(Schedule((2.0, 1.2, 0.7, 0.3, last)), final_denoise)
    d, n_noises = 6, 6 * (1 + sampler.schedule.steps)

    def basis(seed, stream, members, step, n_vertices, n_channels):
        first = d * (step + 1) if stream is Stream.STEP else 0
        rows = np.concatenate([np.zeros((1, n_noises)), np.eye(n_noises)])[list(members)]
        return rows[:, first : first + d].reshape(-1, n_vertices, n_channels)

    monkeypatch.setattr(module, "normals", basis)
    images = sampler.sample(gaussian, n_noises + 1, seed=0, dtype=torch.float64).flatten(1)
    slope = images[1:] - images[0]
    mean, cov = sampler.push_forward(gaussian)
    torch.testing.assert_close(mean, images[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(cov, slope.T @ slope, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make", [EulerMaruyama, Ancestral, Heun])
def test_law_of_the_start_is_pushed_too(make, gaussian):
    """Two halves of a run, the second started from the law of the first, for those whose steps hand nothing on."""
    times = (2.0, 1.2, 0.7, 0.3, 0.1)
    whole, first, second = (make(Schedule(part), False) for part in (times, times[:3], times[2:]))
    expected = whole.push_forward(gaussian)
    for x, y in zip(second.push_forward(gaussian, *first.push_forward(gaussian)), expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make", [make for name, make in SAMPLERS.items() if name != "EulerMaruyama"])
def test_a_step_to_time_zero_is_the_final_denoise(make, gaussian):
    times = (2.0, 1.2, 0.7, 0.3)
    options = {"seed": 1, "dtype": torch.float64}
    to_zero = make(Schedule((*times, 0.0))).sample(gaussian, 5, **options)
    torch.testing.assert_close(to_zero, make(Schedule(times)).sample(gaussian, 5, **options), rtol=1e-14, atol=1e-14)


def test_euler_maruyama_draws_what_its_addresses_say():
    score, schedule = Shifts(), Schedule((1.0, 0.6, 0.2, 0.0))
    members = range(3, 8)
    x = torch.from_numpy(normals(11, Stream.INITIAL, members, 0, 7, 2))
    for k, t in enumerate(schedule.times[:-1]):
        length = t - schedule.times[k + 1]
        xi = torch.from_numpy(normals(11, Stream.STEP, members, k, 7, 2))
        x = x + length * (x + 2 * score.score(x, t)) + math.sqrt(2 * length) * xi
    drawn = EulerMaruyama(schedule).sample(score, 5, seed=11, first_member=3, dtype=torch.float64)
    torch.testing.assert_close(drawn, x, rtol=1e-14, atol=1e-14)


@every_sampler
def test_members_do_not_depend_on_the_batch(make):
    sampler = make(Schedule.log_snr(10))
    if isinstance(sampler, EulerMaruyama):
        sampler = EulerMaruyama(Schedule.ddpm(50))
    whole = sampler.sample(Shifts(), 9, seed=5)
    assert whole.dtype == torch.float32
    assert whole.isfinite().all()
    for batch_size in (1, 2, 4, 9, 100):
        assert torch.equal(sampler.sample(Shifts(), 9, seed=5, batch_size=batch_size), whole)
    assert torch.equal(sampler.sample(Shifts(), 4, seed=5, first_member=5), whole[5:])
    assert not torch.isclose(sampler.sample(Shifts(), 9, seed=6), whole).any()
    double = sampler.sample(Shifts(), 9, seed=5, dtype=torch.float64)
    torch.testing.assert_close(whole.double(), double, rtol=1e-3, atol=1e-3)


class Sized(Shifts):
    """Remembers the sizes of its batches, and says what a sample takes."""

    numbers_per_sample = 100

    def __init__(self):
        super().__init__()
        self.sizes = []

    def forward(self, x, t):
        self.sizes.append(len(x))
        return super().forward(x, t)


@pytest.mark.parametrize(("memory", "sizes"), [(8 * 100 * 4, [4, 4, 2]), (1, [1] * 10), (2**30, [10])])
def test_batches_suit_the_memory_and_change_no_member(memory, sizes, monkeypatch):
    sampler = EulerMaruyama(Schedule.log_snr(1), final_denoise=False)
    whole = sampler.sample(Sized(), 10, seed=5, first_member=3, batch_size=10)
    monkeypatch.setattr(module, "MEMORY", memory)
    score = Sized()
    assert torch.equal(sampler.sample(score, 10, seed=5, first_member=3), whole)
    assert score.sizes == sizes


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 4. GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("MPS backend out of memory"),
    ],
)
def test_too_little_memory_names_the_size_of_batches(error):
    class Greedy(Shifts):
        def forward(self, x, t):
            raise error

    sampler = Heun(Schedule.log_snr(2))
    with pytest.raises(MemoryError, match="batch_size must be less than 4"):
        sampler.sample(Greedy(), 9, seed=0, batch_size=4)


def test_other_errors_of_a_score_are_its_own():
    class Wrong(Shifts):
        def forward(self, x, t):
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        Heun(Schedule.log_snr(2)).sample(Wrong(), 9, seed=0)


def test_a_score_that_is_elsewhere_is_copied_to_the_device():
    class Held(Shifts):
        def __init__(self):
            super().__init__()
            self.register_buffer("factor", torch.tensor([1.0, 2.0]))

        def forward(self, x, t):
            return self.factor * super().forward(x, t)

    score = Held()
    drawn = Heun(Schedule.log_snr(2)).sample(score, 3, seed=0, device="meta")
    assert (drawn.device.type, drawn.shape) == ("meta", (3, 7, 2))
    assert score.factor.tolist() == [1.0, 2.0]


def test_progress_counts_every_step_of_every_batch():
    calls = []
    Heun(Schedule.log_snr(3)).sample(Shifts(), 5, seed=0, batch_size=2, progress=lambda *call: calls.append(call))
    assert calls == [(k, 9) for k in range(1, 10)]


def test_gradients_are_kept_except_under_no_grad():
    class Scaled(Shifts):
        scale = torch.ones((), dtype=torch.float64, requires_grad=True)

        def forward(self, x, t):
            return self.scale * super().forward(x, t)

    score, sampler = Scaled(), DPMSolver2M(Schedule.log_snr(5))
    options = {"seed": 2, "dtype": torch.float64}
    with torch.no_grad():
        assert not sampler.sample(score, 2, **options).requires_grad
    (slope,) = torch.autograd.grad(sampler.sample(score, 2, **options).sum(), score.scale)
    values = []
    for change in (1e-5, -1e-5):
        score.scale = torch.tensor(1 + change, dtype=torch.float64)
        values.append(sampler.sample(score, 2, **options).sum().item())
    assert slope.item() == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-6)


def test_a_law_draws_arrays_from_a_score_that_requires_gradients():
    class Scaled(Shifts):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

        def forward(self, x, t):
            return self.scale * super().forward(x, t)

    sampler = DPMSolver2M(Schedule.log_snr(5))
    drawn = DiffusionModel(Scaled()).sample(2, seed=2, sampler=sampler, device="cpu")
    np.testing.assert_array_equal(drawn, sampler.sample(Shifts(), 2, seed=2, dtype=torch.float64).numpy())


def test_default_levels_drown_the_largest_eigenvalue():
    assert noise_to_signal(default_schedule().times[0]) == pytest.approx(80)
    assert noise_to_signal(default_schedule(2500.0).times[0]) == pytest.approx(500)
    assert noise_to_signal(default_schedule(2500.0).times[-1]) == pytest.approx(0.02)
    assert default_sampler(2500.0, 40) == DPMSolver2M(default_schedule(2500.0, 40), stochastic=True)


def test_samplers_are_values():
    sampler = DPMSolver2M(Schedule.log_snr(5))
    assert sampler == DPMSolver2M(Schedule.log_snr(5))
    with pytest.raises(dataclasses.FrozenInstanceError):
        sampler.stochastic = False


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"n_samples": 0}, "n_samples"),
        ({"batch_size": 0}, "batch_size"),
        ({"dtype": torch.int64}, "dtype"),
        ({"first_member": -1}, "members"),
        ({"seed": -1}, "seed"),
    ],
)
def test_impossible_requests_are_refused_by_name(options, name):
    with pytest.raises(ValueError, match=name):
        Heun(Schedule.log_snr(2)).sample(Shifts(), **{"n_samples": 1, "seed": 0} | options)


@pytest.mark.parametrize("eigenvalue", [-1.0, math.inf, math.nan])
def test_impossible_levels_are_refused(eigenvalue):
    with pytest.raises(ValueError, match="largest_eigenvalue"):
        default_schedule(eigenvalue)


@pytest.mark.usefixtures("unchecked")
def test_states_of_another_field_are_refused():
    score = Shifts()
    score.check(torch.zeros(4, 7, 2))
    for shape in [(7, 2), (4, 7), (4, 8, 2), (4, 7, 1)]:
        with pytest.raises(ValueError, match=r"x must have shape \(sample, 7, 2\)"):
            score.check(torch.zeros(shape))
    with pytest.raises(TypeError, match="floating"):
        score.check(torch.zeros(4, 7, 2, dtype=torch.int64))


def test_a_score_that_cannot_be_stored_says_so():
    with pytest.raises(TypeError, match="Shifts cannot be saved"):
        describe(Shifts())
