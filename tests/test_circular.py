"""Values that go round are told by their names and units."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import xarray as xr

import nearfield as nf
from nearfield.data.circular import warn_of_circles

NORTH = (np.random.default_rng(0).normal(5, 20, size=(60, 8)) % 360)[..., None]


@pytest.mark.parametrize(
    ("name", "attrs", "turn"),
    [
        ("wd", {"standard_name": "wind_from_direction", "units": "degree"}, 360),
        ("a", {"standard_name": "sea_surface_wave_to_direction"}, 360),
        ("dd", {"long_name": "Wind direction", "units": "degrees"}, 360),
        ("wdir10", {"units": "deg"}, 360),
        ("tidal_phase", {"units": "radians"}, 2 * np.pi),
    ],
)
def test_directions_are_told(name, attrs, turn):
    with pytest.warns(UserWarning, match=f"variable '{name}' seem to be directions, .* Fit sine and cosine"):
        warn_of_circles(NORTH * turn / 360, [name], [attrs])


@pytest.mark.parametrize(
    ("name", "attrs", "x"),
    [
        ("sst", {"units": "degree_Celsius"}, NORTH),
        ("slope", {"units": "degree"}, NORTH),
        ("direction", {"units": "1"}, NORTH),
        ("temperature_direction", {"standard_name": "air_temperature", "units": "degrees"}, NORTH),
        ("wd", {"units": "degree"}, (NORTH + 180) % 360),  # steady, and never through the seam
        ("wd", {"units": "degree"}, 5 * NORTH),  # unwound
        (None, {}, NORTH),
    ],
)
def test_others_are_not(name, attrs, x):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_circles(x, [name], [attrs])


def test_a_fit_of_directions_warns():
    data = xr.DataArray(NORTH[..., 0], dims=("sample", "x"), name="wd", attrs={"units": "degree"})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = nf.LocalizedDiffusion(method="gaussian", radius=1, pooling=1.0, random_state=0).fit(data)
    assert any("sine and cosine" in str(w.message) for w in caught)
    assert any("sine and cosine" in text for text in model.fit_report_.warnings)
