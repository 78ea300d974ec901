"""Numbers that mean missing: what attributes declare, customary fill numbers, and gaps far beyond the rest."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import xarray as xr

import nearfield as nf
from nearfield.data.codec import Codec
from nearfield.data.missing import declared, fill_numbers
from nearfield.data.outlier import warn_of_gaps

ANY = (-np.inf, np.inf)


def chain(n_samples=80, n=20, seed=0):
    """Autoregressive chains with mean 15 and standard deviation 5."""
    noise = np.random.default_rng(seed).normal(size=(n_samples, n))
    values = noise.copy()
    for k in range(1, n):
        values[:, k] = 0.8 * values[:, k - 1] + 0.6 * noise[:, k]
    return 15 + 5 * values


def holes(shape, share=0.01, seed=1):
    hit = np.random.default_rng(seed).random(shape) < share
    hit[3, 4] = True
    return hit


def labelled(values, **attrs):
    return xr.DataArray(values, dims=("sample", "x"), name="t", attrs=attrs)


X, HIT = chain(), holes((80, 20))
DECLARED = {
    "raster": (np.where(HIT, -9999.0, X), {"_FillValue": -9999.0}, "-9999"),
    "packed": (np.where(HIT, -32767, np.round(X * 100)).astype("i2"), {"_FillValue": np.int16(-32767)}, "-32767"),
    "single": (np.where(HIT, 1e20, X).astype("f4"), {"missing_value": 1e20}, r"1e\+20"),
    "several": (np.where(HIT, 500.0, X), {"missing_value": [600.0, 500.0]}, "500"),
    "text": (np.where(HIT, -1.0, X), {"nodata": "-1"}, "-1"),
    "range": (np.where(HIT, 255, X.clip(0)).astype("u1"), {"valid_range": [0, 250]}, "255"),
    "least": (np.where(HIT, -50.0, X), {"valid_min": -20.0}, "-50"),
}


@pytest.mark.parametrize("case", DECLARED)
def test_what_attributes_declare_missing_is(case):
    values, attrs, number = DECLARED[case]
    with pytest.raises(ValueError, match=rf"contains NaN, which attributes say of {number}\D.* of 1600 values \("):
        Codec.fit(labelled(values, **attrs))
    codec = Codec.fit(labelled(X))
    assert np.array_equal(np.isnan(codec.encode(labelled(values, **attrs), allow_missing=True))[..., 0], HIT)
    with pytest.raises(ValueError, match="which attributes say"):
        codec.encode(labelled(values, **attrs))


def test_vertices_that_are_declared_missing_everywhere_are_left_out():
    values = X.copy()
    values[:, 7] = -9999.0
    codec = Codec.fit(labelled(values, _FillValue=-9999.0, units="K"))
    assert codec.n_vertices == 19
    drawn = codec.decode(np.full((2, 19, 1), 1e6))  # draws are numbers, whatever a file was to hold
    assert drawn.attrs == {"units": "K"}
    assert np.isnan(drawn.values).sum() == 2


def test_the_encoding_of_unpacked_data_is_of_packed_ones():
    values = np.array([[-1.0, 2.0, 300.0]])
    packed = {"scale_factor": 0.5, "add_offset": 1.0, "_FillValue": 2}
    assert declared(values, {}, packed)[1] == ""
    assert declared(values, {}, {"_FillValue": 2})[1] == "2 in 1 of 3 values (_FillValue)"
    assert declared(values, {"valid_range": np.array([-4, 100])}, packed)[0].tolist() == [[False, False, True]]
    assert declared(values, {"valid_range": [-1.0, 300.0], "missing_value": "none"}, packed)[1] == ""


def test_a_range_that_is_not_of_these_data_is_ignored():
    anomalies = labelled(X - X.mean(axis=0), valid_range=[200.0, 330.0])
    with pytest.warns(UserWarning, match=r"valid_range or the like is ignored: 1600 of 1600 values are beyond it"):
        assert Codec.fit(anomalies).n_vertices == 20


@pytest.mark.parametrize("number", [-9999.0, -99.9, -999, 1e20, np.float32(9.96921e36), -32768, 9999])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_customary_fill_numbers_are_refused(number, dtype):
    values = np.where(HIT, number, X).astype(dtype)
    for data in (values, labelled(values)):
        with pytest.raises(ValueError, match=rf"must not hold fill numbers, got .* in {HIT.sum()} of 1600 values"):
            Codec.fit(data)


def test_numbers_among_the_others_or_declared_valid_are_none():
    wide = 60 * np.random.default_rng(0).standard_normal((80, 20))
    wide[2, 3] = -99.0
    Codec.fit(wide)
    one = np.where(HIT, 9999.0, X)
    Codec.fit(labelled(one, valid_range=[-50.0, 1e5]))
    assert not len(fill_numbers(X - 114 - X.min() + 15, ANY)[0])


@pytest.fixture(scope="module")
def model():
    return nf.LocalizedDiffusion(method="gaussian", radius=1, pooling=1.0, random_state=0).fit(X)


@pytest.mark.parametrize("number", [-9999.0, -99.9, 1e20])
def test_fill_numbers_are_no_observations(model, number):
    field = X[:1].copy()
    field[0, 3:6] = np.nan
    model.impute(field)
    field[0, 10] = number
    with pytest.raises(ValueError, match=r"X must have NaN where nothing was observed, got .* in 1 of 20 values"):
        model.impute(field)
    field[0, 10] = 12345.0
    with pytest.warns(UserWarning, match="1 observed values are far beyond all that was fitted, first 12345"):
        model.impute(field)


def test_one_value_one_sample_or_one_number_beyond_a_gap_is_warned_of():
    one = X.copy()
    one[5, 7] = 5432.0
    with pytest.warns(UserWarning, match=r"1 of 1600 values are far beyond all others, the furthest 5432, an outlier"):
        warn_of_gaps(one[..., None])
    blown = X.copy()
    blown[11] = 1e6 * np.random.default_rng(3).normal(size=20)
    with pytest.warns(UserWarning, match="far beyond all others"):
        warn_of_gaps(blown[..., None])
    twice = X.copy()
    twice[[5, 9], [7, 2]] = -77.7
    with pytest.warns(UserWarning, match=r"-77.7 occurs 2 times and lies .* beyond all other values"):
        warn_of_gaps(twice[..., None])


def test_a_member_that_blew_up_by_degrees_is_told_by_its_median():
    x = np.random.default_rng(0).normal(size=(60, 2000))
    x[17] *= 3000
    with pytest.warns(UserWarning, match="1 of 60 samples are far beyond all others, the furthest number 17"):
        warn_of_gaps(x[..., None])


def heavy(law, rng):
    """Laws with heavy tails, or with many zeros, in which nothing is missing."""
    normal = rng.normal(size=(200, 30))
    return {
        "cauchy": lambda: rng.standard_cauchy(normal.shape),
        "rounded cauchy": lambda: np.round(10 * rng.standard_cauchy(normal.shape)),
        "common cauchy": lambda: normal * rng.standard_cauchy((200, 1)),
        "lognormal": lambda: np.exp(2 * normal),
        "rain": lambda: np.round(np.where(normal < 0.3, 0.0, np.exp(1.5 * normal)), 1),
        "capped": lambda: np.minimum(normal, 1.5),
        "counts": lambda: rng.poisson(0.3, normal.shape).astype(float),
    }[law]()


@pytest.mark.parametrize("law", ["cauchy", "rounded cauchy", "common cauchy", "lognormal", "rain", "capped", "counts"])
def test_heavy_tails_are_no_alarm(law):
    """A Cauchy law has a gap of 100 in one data set of a hundred: of 40, more than 4 have a probability below .001."""
    alarms = 0
    for seed in range(40):
        x = heavy(law, np.random.default_rng(seed))
        assert not len(fill_numbers(x, ANY)[0])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warn_of_gaps(x[..., None])
        alarms += bool(caught)
    assert alarms <= (4 if "cauchy" in law else 0)
