"""Figure 1: the matrices are what they are said to be, and its numbers are those of a direct computation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nearfield.reproduction import figure1
from nearfield.reproduction.experiment import Workers
from nearfield.reproduction.figure1 import Case, Settings

SMALL = replace(
    Settings(), sizes=(40, 60), size=60, bandwidths=(1, 2, 3), bandwidth=2, conditions=(5.0, 20.0), matrices=2, looks=25
)


@pytest.mark.parametrize("case", [Case(40, 1, 5.0), Case(50, 4, 20.0)])
def test_random_precision_has_its_band_its_condition_and_unit_variance(case):
    precision = figure1.random_precision(case, np.random.default_rng(3))
    gap = np.abs(np.subtract.outer(range(case.size), range(case.size)))
    assert np.array_equal(precision != 0, gap <= case.bandwidth)
    assert np.linalg.cond(precision) == pytest.approx(case.condition, rel=1e-10)
    assert np.linalg.inv(precision).diagonal().mean() == pytest.approx(1, rel=1e-12)


def test_a_matrix_is_followed_as_by_direct_inversion():
    """Radius and ratio to the bound, with the inverse, the graph distance and (2.15) written out again."""
    case = Case(24, 2, 10.0)
    found = figure1.examine(SMALL, case, 1)
    precision = figure1.random_precision(case, np.random.default_rng([SMALL.seed, 24, 2, 10, 1]))
    reach = [np.linalg.matrix_power(precision != 0, k) for k in range(24)]
    hops = sum((~r).astype(int) for r in reach)  # the first power of the adjacency that joins two vertices
    m, M = 1 / np.linalg.norm(np.linalg.inv(precision), 2), np.linalg.norm(precision, 2)
    for k in (0, 9, 15, 19, 22):
        t = SMALL.times()[k]
        a2 = np.exp(-2 * t)
        inverse = np.linalg.inv(a2 * np.linalg.inv(precision) + (1 - a2) * np.eye(24))
        mean = [np.mean([abs(inverse[i, i + r]) for i in range(24 - r)]) for r in range(24)]
        assert found.radius[k] == max(r for r in range(24) if mean[r] > SMALL.eps * mean[0])
        bound = a2 / ((1 - a2) * (m * (1 - a2) + a2)) * ((M - m) * (1 - a2) / (M * (1 - a2) + a2)) ** hops
        told = (hops > 0) & (np.abs(inverse) > 1e-11 * np.abs(inverse).max())
        ratio = np.max(np.abs(inverse)[told] / bound[told], initial=0)
        assert found.ratio[k] == pytest.approx(ratio, rel=1e-3)  # entries at the threshold are near rounding
    assert found.radius[found.at] == found.radius.max()


def test_times_are_the_schedules_from_the_data_on():
    beta = np.linspace(1e-4, 0.02, 1000)
    times = Settings().times()
    assert np.isin(np.round(times, 12), np.round(np.cumsum(beta) / 2, 12)).all()
    assert times[0] == pytest.approx(5e-5)
    assert times[-1] == pytest.approx(5.025)
    assert (np.diff(times) > 0).all()


def verdicts(found: dict[Case, list[figure1.Decay]]) -> list[bool]:
    return [claim.holds for claim in figure1.claims(figure1.summary(SMALL, found), found)]


def test_the_claims_tell_right_from_wrong():
    """Each claim is false of numbers doctored against it, and only that one."""
    found = {case: [figure1.examine(SMALL, case, n) for n in range(2)] for case in SMALL.cases()}
    base = SMALL.base()
    assert verdicts(found) == [True] * 6

    def doctored(which: Case, **change: object) -> list[bool]:
        return verdicts(found | {which: [decay._replace(**change) for decay in found[which]]})

    gap = np.abs(np.subtract.outer(range(60), range(60)))
    assert doctored(base, snapshot=1.0 / (1 + gap) ** 2)[0] is False  # a power law
    radius = found[base][0].radius.copy()
    radius[2] = radius.max() - 1  # an earlier, lower hump
    assert doctored(base, radius=radius) == [True, False, *[True] * 4]
    shorter, narrow, round_ = Case(40, 2, 20.0), Case(60, 1, 20.0), Case(60, 2, 5.0)
    higher = {case: np.where(d[0].radius > case.bandwidth, d[0].radius + 9, d[0].radius) for case, d in found.items()}
    assert doctored(shorter, radius=higher[shorter]) == [True, True, False, *[True] * 3]
    assert doctored(narrow, radius=higher[narrow]) == [*[True] * 3, False, True, True]
    assert doctored(round_, radius=higher[round_]) == [*[True] * 4, False, True]
    assert doctored(base, ratio=found[base][0].ratio * 4) == [True] * 5 + [False]


def test_conduct_reports_what_its_matrices_show():
    result = figure1.conduct(SMALL, Workers())
    entry = result.numbers["kappa"][1]
    radii = [figure1.examine(SMALL, Case(60, 2, 20.0), number).radius for number in range(2)]
    assert (entry["size"], entry["bandwidth"], entry["condition"]) == (60, 2, 20.0)
    np.testing.assert_array_equal(entry["radius"], np.mean(radii, axis=0))
    assert entry["largest_radius"] == np.mean([radius.max() for radius in radii])
