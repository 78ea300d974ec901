"""The forward process against long arithmetic, exact laws and identities; the schedules against their definitions."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch

from nearfield.process import (
    Schedule,
    denoised_from_score,
    log_snr,
    noise_scale,
    noise_to_signal,
    score_from_denoised,
    signal_scale,
    time_of,
    time_of_log_snr,
)

TIMES = [1e-200, 1e-18, 1e-8, 0.3, 5.0, 40.0, 300.0]
FORMULAS = {
    signal_scale: lambda t: (-t).exp(),
    noise_scale: lambda t: (1 - (-2 * t).exp()).sqrt(),
    noise_to_signal: lambda t: ((2 * t).exp() - 1).sqrt(),
    log_snr: lambda t: -((2 * t).exp() - 1).ln(),
    time_of: lambda sigma: (1 + sigma * sigma).ln() / 2,
    time_of_log_snr: lambda value: (1 + (-value).exp()).ln() / 2,
}


# Below 1e-150 the square of sigma underflows, and the time with it.
ARGUMENTS = dict.fromkeys(FORMULAS, TIMES) | {time_of: TIMES[1:], time_of_log_snr: [*TIMES, -300.0]}


@pytest.mark.parametrize(("function", "t"), [(function, t) for function in FORMULAS for t in ARGUMENTS[function]])
def test_functions_of_time_are_right_to_rounding_from_tiny_to_large(function, t):
    with localcontext() as context:
        context.prec = 700
        truth = float(FORMULAS[function](Decimal(t)))
    assert function(t) == pytest.approx(truth, rel=2e-15, abs=0)
    assert function(torch.tensor(t, dtype=torch.float64)).item() == pytest.approx(truth, rel=2e-15, abs=0)


@pytest.mark.parametrize("function", [noise_scale, noise_to_signal])
def test_noise_of_a_tiny_time_survives_single_precision(function):
    t = torch.tensor(1e-12, dtype=torch.float32)
    assert function(t).item() == pytest.approx(math.sqrt(2e-12), rel=1e-6)


def test_at_time_zero_there_is_no_noise():
    assert (signal_scale(0.0), noise_scale(0.0), noise_to_signal(0.0), log_snr(0.0)) == (1, 0, 0, math.inf)
    zero = torch.zeros(1)
    assert (signal_scale(zero), noise_scale(zero), noise_to_signal(zero), log_snr(zero)) == (1, 0, 0, math.inf)


def test_inverses_invert():
    t = torch.tensor(TIMES[1:], dtype=torch.float64)
    torch.testing.assert_close(time_of(noise_to_signal(t)), t, rtol=1e-14, atol=0)
    torch.testing.assert_close(time_of_log_snr(log_snr(t)), t, rtol=1e-14, atol=0)


def test_two_legs_of_the_process_make_one():
    t, u = 0.37, 1.1
    assert signal_scale(t + u) == pytest.approx(signal_scale(t) * signal_scale(u), rel=1e-15)
    assert noise_scale(t + u) ** 2 == pytest.approx(
        (signal_scale(u) * noise_scale(t)) ** 2 + noise_scale(u) ** 2, rel=1e-15
    )


@pytest.mark.parametrize("t", [0.2, torch.tensor(0.2), torch.tensor([1e-3, 0.2, 1.5])], ids=["float", "scalar", "each"])
def test_tweedie_both_ways_on_a_mixture_of_points(t):
    """For p_0 on two points, E[x_0|x_t] is a weighted mean by Bayes, and the score is a derivative of a log-density."""
    t = t.double() if isinstance(t, torch.Tensor) else t
    times = (torch.ones(3, dtype=torch.float64) * t)[:, None, None]
    a, s = signal_scale(times), noise_scale(times)
    points = torch.tensor([[-1.0, 0.5], [1.5, 2.0]], dtype=torch.float64)[:, None, :, None]
    x = (a * points[0] + s * torch.tensor([[0.3], [-0.7]], dtype=torch.float64)).requires_grad_()
    log_joint = math.log(0.5) - ((x - a * points) ** 2 / (2 * s**2)).sum((-1, -2))
    denoised = (torch.softmax(log_joint, 0)[..., None, None] * points).sum(0).detach()
    (score,) = torch.autograd.grad(torch.logsumexp(log_joint, 0).sum(), x)
    torch.testing.assert_close(score_from_denoised(x.detach(), denoised, t), score, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(denoised_from_score(x.detach(), score, t), denoised, rtol=1e-12, atol=1e-12)


def test_ddpm_takes_half_a_beta_per_step():
    beta = np.linspace(1e-4, 0.02, 1000)
    schedule = Schedule.ddpm()
    assert schedule.steps == 1000
    assert schedule.times[0] == pytest.approx(5.025, abs=1e-12)
    assert schedule.times[-1] == 0
    np.testing.assert_allclose(-np.diff(schedule.times), beta[::-1] / 2, rtol=1e-10)


@pytest.mark.parametrize("steps", [1, 2, 100, 4000])
def test_ddpm_reaches_the_same_noise_in_any_number_of_steps(steps):
    times = Schedule.ddpm(steps, beta=(0.01, 0.01)).times
    assert len(times) == steps + 1
    np.testing.assert_allclose(times, np.linspace(5, 0, steps + 1), rtol=1e-12, atol=1e-12)
    first, last = -np.diff(Schedule.ddpm(100).times)[[0, -1]]
    assert (first, last) == pytest.approx((0.1, 5e-4))


def test_log_snr_is_a_geometric_sequence_of_noise_levels_with_exact_ends():
    t_min, t_max = time_of(0.02), time_of(80.0)
    schedule = Schedule.log_snr(50, t_min, t_max)
    assert (schedule.steps, schedule.times[0], schedule.times[-1]) == (50, t_max, t_min)
    np.testing.assert_allclose([noise_to_signal(t) for t in schedule.times], np.geomspace(80, 0.02, 51), rtol=1e-12)
    assert Schedule.log_snr(50) == schedule


def test_karras_is_linear_in_a_root_of_the_noise_level():
    t_min, t_max = time_of(0.002), time_of(80.0)
    schedule = Schedule.karras(18, 7.0, t_min, t_max)
    i = np.arange(19)
    sigma = (80 ** (1 / 7) + i / 18 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7  # (5) of arXiv 2206.00364
    assert (schedule.times[0], schedule.times[-1]) == (t_max, t_min)
    np.testing.assert_allclose([noise_to_signal(t) for t in schedule.times], sigma, rtol=1e-11)
    near_log = Schedule.karras(18, 1e6, t_min, t_max).times
    np.testing.assert_allclose(near_log, Schedule.log_snr(18, t_min, t_max).times, rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Schedule((1.0,)), "times"),
        (lambda: Schedule((1.0, 1.0)), "times"),
        (lambda: Schedule((0.0, 1.0)), "times"),
        (lambda: Schedule((1.0, -1e-9)), "times"),
        (lambda: Schedule((math.inf, 1.0)), "times"),
        (lambda: Schedule((1.0, math.nan)), "times"),
        (lambda: Schedule.ddpm(0), "steps"),
        (lambda: Schedule.ddpm(10, (0.0, 0.02)), "beta"),
        (lambda: Schedule.log_snr(0), "steps"),
        (lambda: Schedule.log_snr(10, 0.0, 1.0), "t_min"),
        (lambda: Schedule.log_snr(10, 2.0, 1.0), "t_min"),
        (lambda: Schedule.karras(10, 7.0, 1.0, math.inf), "t_max"),
        (lambda: Schedule.karras(10, 0.0), "rho"),
    ],
)
def test_impossible_schedules_are_refused_by_name(make, name):
    with pytest.raises(ValueError, match=name):
        make()


def test_schedules_are_values():
    assert Schedule([2, 1, 0]) == Schedule((2.0, 1.0, 0.0))
    assert hash(Schedule([2, 1, 0])) == hash(Schedule((2.0, 1.0, 0.0)))
    assert repr(Schedule.ddpm()) == "Schedule(1000 steps from t = 5.025 to 0)"  # not a thousand times
