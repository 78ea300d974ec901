"""What is given to a model is the variable it was fitted to, in its units."""

import numpy as np
import pytest
import xarray as xr

import nearfield as nf
from nearfield.data.channel import Channel, refuse_other_channels
from nearfield.data.codec import Codec

ALIKE = [
    ("K", "kelvin"),
    ("K", " k"),
    ("degC", "degrees_Celsius"),
    ("degC", "°C"),
    ("hPa", "millibars"),
    ("m", "Meters"),
    ("mm", "MM"),
    ("millimeters", "Millimeters"),
    ("m s-1", "m/s"),
    ("m s-1", "m s**-1"),
    ("m s-1", "m.s-1"),
    ("m s-1", "meters second^-1"),
    ("kg m-2 s-1", "kg/m2/s"),
    ("kg m-2 s-1", "kg/(m2 s)"),
    ("mm day-1", "mm/d"),
    ("1", ""),
    ("1", 1),
    ("%", "percent"),
    ("W m-2", "W m**-2"),
]
APART = [
    ("K", "degC"),
    ("Pa", "hPa"),
    ("m", "mm"),
    ("m s-1", "km h-1"),
    ("mPa", "MPa"),
    ("mm", "Mm"),
    ("m s-1", "m s-2"),
    ("1", "%"),
    ("mW m-2", "MW m-2"),
    ("kg m-2", "kg m-2 s-1"),
    ("m/s", "s/m"),
]


def variable(units=None, name="t"):
    return xr.DataArray(np.zeros(2), dims="x", name=name, attrs={} if units is None else {"units": units})


@pytest.mark.parametrize(("one", "two"), ALIKE)
def test_units_may_be_spelled_in_several_ways(one, two):
    refuse_other_channels([Channel.of(variable(one))], [variable(two)])
    refuse_other_channels([Channel.of(variable(two))], [variable(one)])


@pytest.mark.parametrize(("one", "two"), APART)
def test_other_units_are_refused(one, two):
    for known, given in ((one, two), (two, one)):
        with pytest.raises(ValueError, match=r"units of variable 't' must be .* as in the training data") as refused:
            refuse_other_channels([Channel.of(variable(known))], [variable(given)])
        assert repr(known) in str(refused.value)
        assert repr(given) in str(refused.value)


def test_what_is_not_said_may_pass():
    for known, given in ((variable("K"), variable()), (variable(), variable("K")), (variable(name=None), variable())):
        refuse_other_channels([Channel.of(known)], [given])
        refuse_other_channels([Channel.of(given)], [known])


@pytest.fixture(scope="module")
def temperature():
    values = 285 + 3 * np.random.default_rng(36).normal(size=(60, 6)).cumsum(axis=1)
    return xr.DataArray(values, dims=("member", "x"), name="t", attrs={"units": "K"})


@pytest.fixture(scope="module")
def model(temperature):
    return nf.LocalizedDiffusion(method="gaussian", radius=1, pooling=0.0, random_state=0).fit(temperature)


def test_a_model_refuses_other_units_and_names_wherever_it_takes_data(temperature, model, tmp_path):
    """Degrees Celsius that were filled in as if kelvins were would be off by hundreds."""
    celsius = (temperature - 273.15).assign_attrs(units="degC")
    other = temperature.rename("dew_point")
    for use in (model.score_samples, model.score, model.impute, lambda x: model.report(tmp_path / "r.html", x)):
        with pytest.raises(ValueError, match=r"units of variable 't' must be 'K' .* got 'degC'; convert the values"):
            use(celsius)
        with pytest.raises(ValueError, match=r"must be the variable 't' .* got 'dew_point'.*data.rename\('t'\)"):
            use(other)
    assert np.array_equal(model.score_samples(other.rename("t")), model.score_samples(temperature))
    spelled = temperature.assign_attrs(units="Kelvin")
    assert model.impute(spelled.where(spelled.x != 2), random_state=0).attrs["units"] == "Kelvin"


def test_units_of_each_variable_of_a_dataset_count(temperature):
    data = xr.Dataset({"t": temperature, "p": (1e5 + temperature**2).assign_attrs(units="Pa")})
    channels = [Channel.of(data[name]) for name in data.data_vars]
    wrong = data.assign(p=(data.p / 100).assign_attrs(units="hPa"))
    codec = Codec.fit(data)
    assert list(codec.channels) == channels
    with pytest.raises(ValueError, match=r"units of variable 'p' must be 'Pa' .* got 'hPa'"):
        codec.encode(wrong)
