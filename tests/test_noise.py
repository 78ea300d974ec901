"""Noise: the words against Philox written out, the address against itself, the numbers against the normal law.

Statistical tests have, all together, a false-alarm rate of 1e-6 and fixed seeds; a negative control shows their power.
"""

from __future__ import annotations

import itertools
from statistics import NormalDist

import numpy as np
import pytest
from scipy import stats

from nearfield.noise import Stream, _normal_of, normals, normals_at, seed_of

FALSE_ALARM = 1e-6


def philox(counter: tuple[int, ...], key: tuple[int, int]) -> tuple[int, ...]:
    """Philox 4x64 with ten rounds, from section 3.3 and table 2 of Salmon et al. (SC 2011)."""
    mask = 2**64 - 1
    c, k = list(counter), list(key)
    for _ in range(10):
        high0, low0 = divmod(0xD2E7470EE14C6C93 * c[0], 2**64)
        high1, low1 = divmod(0xCA5A826395121157 * c[2], 2**64)
        c = [high1 ^ c[1] ^ k[0], low1, high0 ^ c[3] ^ k[1], low0]
        k = [(k[0] + 0x9E3779B97F4A7C15) & mask, (k[1] + 0xBB67AE8584CAA73B) & mask]
    return tuple(c)


@pytest.mark.parametrize(
    ("seed", "stream", "member", "step"),
    [(0, Stream.INITIAL, 0, 0), (12345, Stream.TRAINING, 3, 17), (2**64 - 1, Stream.STEP, 2**64 - 1, 2**32 - 1)],
)
def test_a_number_is_the_quantile_of_the_philox_word_at_its_address(seed, stream, member, step):
    drawn = normals(seed, stream, [member], step, n_vertices=11, n_channels=2)
    for vertex, channel in [(0, 0), (3, 0), (4, 0), (10, 0), (0, 1), (10, 1)]:
        # numpy moves the counter on before it reads, so blocks are numbered from 1.
        word = philox((vertex // 4 + 1, channel, step * 256 + stream, member), (seed, 0))[vertex % 4]
        expected = NormalDist().inv_cdf(((word >> 12) + 0.5) / 2**52)
        assert drawn[0, vertex, channel] == pytest.approx(expected, rel=1e-9)


def test_the_outermost_words_give_finite_and_opposite_numbers():
    low, below, above, high = _normal_of(np.array([0, 2**63 - 1, 2**63, 2**64 - 1], dtype=np.uint64))
    assert -8.3 < low < -8.2
    assert high == pytest.approx(-low, rel=1e-12)
    assert above == -below > 0


def test_some_vertices_are_drawn_as_the_whole_field_has_them():
    whole = normals(9, Stream.STEP, range(3), 4, 60, 2)
    for vertices in ([0], [59], [5, 6, 7, 20, 21, 3, 2], [*range(13, 18), *range(33, 38), *range(53, 58)], range(60)):
        part = normals_at(9, Stream.STEP, range(3), 4, np.array(vertices), 2)
        assert np.array_equal(part, whole[:, list(vertices)])
    far = normals_at(9, Stream.STEP, [1], 4, np.array([10**12 + 1, 10**12 + 2]), 1)
    word = philox((10**12 // 4 + 1, 0, 4 * 256 + Stream.STEP, 1), (9, 0))[1]
    assert far[0, 0, 0] == pytest.approx(NormalDist().inv_cdf(((word >> 12) + 0.5) / 2**52), rel=1e-9)
    for wrong in ([], [-1]):
        with pytest.raises(ValueError, match="vertices must be one or more numbers of at least 0"):
            normals_at(9, Stream.STEP, [0], 0, np.array(wrong, dtype=int), 1)


def test_members_can_be_drawn_in_any_split_and_order():
    whole = normals(9, Stream.STEP, range(7), 4, 10, 2)
    for split in ([[0, 1, 2, 3, 4, 5, 6]], [[0], [1, 2], [3, 4, 5, 6]], [[m] for m in range(7)]):
        parts = [normals(9, Stream.STEP, members, 4, 10, 2) for members in split]
        assert np.array_equal(np.concatenate(parts), whole)
    shuffled = [4, 0, 6, 4]
    assert np.array_equal(normals(9, Stream.STEP, shuffled, 4, 10, 2), whole[shuffled])


@pytest.mark.parametrize("n_vertices", [1, 2, 4, 5, 4096, 4097])
def test_a_smaller_field_is_the_beginning_of_a_larger_one(n_vertices):
    whole = normals(9, Stream.STEP, range(2), 4, 10_000, 3)
    assert np.array_equal(normals(9, Stream.STEP, range(2), 4, n_vertices, 2), whole[:, :n_vertices, :2])


def test_no_two_addresses_share_a_number():
    """Of 52-bit numbers, 220,000 have a coincidence with probability 5e-6."""
    addresses = itertools.product([0, 1, 2**63], Stream, [0, 1, 255, 256])
    members = [0, 1, 2, 2**32, 2**63]
    drawn = [normals(seed, stream, members, step, 183, 2) for seed, stream, step in addresses]
    values = np.concatenate(drawn, axis=None)
    assert np.unique(values).size == values.size


def z_scores(drawn: np.ndarray) -> np.ndarray:
    """Scores, standard normal when `drawn` is: moments, Kolmogorov-Smirnov, correlations of neighbours on each axis."""
    flat = drawn.ravel()
    n = flat.size
    # Variances of the mean of x, x^2, x^3, x^4 under the normal law are 1, 2, 15, 96 over n.
    scores = [(np.mean(flat**p) - m) / np.sqrt(v / n) for p, m, v in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]]
    scores.append(stats.norm.isf(max(stats.kstest(flat, "norm").pvalue, 1e-300) / 2))
    for axis in range(drawn.ndim):
        near, far = np.split(drawn, [drawn.shape[axis] - 1], axis)[0], np.delete(drawn, 0, axis)
        scores.append(np.sum(near * far) / np.sqrt(near.size))
        scores.append(np.sum((near**2 - 1) * (far**2 - 1)) / np.sqrt(4 * near.size))
    return np.array(scores)


@pytest.fixture(scope="module")
def block() -> np.ndarray:
    """Draws with every axis of the address: (seed, stream, step, member, vertex, channel)."""
    return np.array(
        [
            [[normals(seed, stream, range(8), step, 2048, 2) for step in range(4)] for stream in Stream]
            for seed in (3, 4)
        ]
    )


def test_the_numbers_are_independent_standard_normals(block):
    scores = z_scores(block)
    assert np.abs(scores).max() < stats.norm.isf(FALSE_ALARM / 2 / scores.size)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda x: x + 0.01,
        lambda x: x * 1.01,
        lambda x: np.sign(x) * np.abs(x) ** 1.02,
        lambda x: np.concatenate([x[..., :1], x[..., :1] * 0.02 + x[..., 1:] * np.sqrt(1 - 0.02**2)], -1),
    ],
    ids=["mean", "scale", "shape", "correlation"],
)
def test_the_statistics_would_notice(block, spoil):
    scores = z_scores(spoil(block))
    assert np.abs(scores).max() > stats.norm.isf(FALSE_ALARM / 2 / scores.size)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"members": [0, -1]}, "members"),
        ({"members": range(2**64, 2**64 + 1)}, "members"),
        ({"step": 2**32}, "step"),
        ({"n_vertices": 0}, "n_vertices"),
        ({"n_channels": 0}, "n_channels"),
    ],
)
def test_addresses_out_of_range_are_refused_by_name(change, name):
    good = {"seed": 0, "stream": Stream.STEP, "members": [0], "step": 0, "n_vertices": 1, "n_channels": 1}
    with pytest.raises(ValueError, match=name):
        normals(**good | change)


def test_seed_of_an_integer_is_itself():
    for seed in (0, 5, 2**64 - 1, np.int64(5), np.uint64(2**64 - 1)):
        assert seed_of(seed) == seed
        assert type(seed_of(seed)) is int


@pytest.mark.parametrize("make", [np.random.default_rng, np.random.RandomState])
def test_seed_of_a_generator_is_its_next_word(make):
    one, other = make(3), make(3)  # the same state
    first, second = seed_of(one), seed_of(one)
    assert (first, second) == (seed_of(other), seed_of(other))
    assert first != second
    # The top bits are used too: of 40 words one passes 2**63, but for a chance of 1e-12.
    assert max(seed_of(one) for _ in range(40)) >= 2**63


def test_seed_of_nothing_is_fresh():
    assert seed_of(None) != seed_of(None)


def test_wrong_random_states_are_refused():
    for seed in (-1, 2**64):
        with pytest.raises(ValueError, match="random_state"):
            seed_of(seed)
    for wrong in ("7", 1.0, True, np.float64(3)):
        with pytest.raises(TypeError, match=r"random_state must be None, an integer or"):
            seed_of(wrong)
