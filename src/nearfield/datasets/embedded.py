"""Data that come with the library, for the demo, tests and benchmarks; `README.txt` beside them says whose they are."""

from __future__ import annotations

import io
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["gravel", "north_america_temperature"]


def gravel() -> xr.DataArray:
    """Load a photograph of gravel from above: a field that is the same everywhere, and far from Gaussian.

    Stones of some 15 to 40 pixels, of nearly one grey inside, with sharp edges and black gaps between them.

    Returns
    -------
    DataArray of float64, (row, column)
        512 x 512 grey levels, whole numbers from 0 (black) to 255 (white), rows from the top; licence and source are
        among its attributes (CC0 1.0).

    Examples
    --------
    >>> picture = gravel()
    >>> dict(picture.sizes), float(picture.min()), float(picture.max())
    ({'row': 512, 'column': 512}, 0.0, 237.0)
    """
    import xarray as xr
    from matplotlib.image import imread

    file = io.BytesIO((resources.files(__package__) / "gravel.png").read_bytes())
    shares = imread(file, format="png")  # of white, in single precision
    return xr.DataArray(
        np.rint(255.0 * shares.astype(np.float64)),
        dims=("row", "column"),
        name="gravel",
        attrs={
            "long_name": "gravel",
            "units": "grey level",
            "source": "Gravel04 of CC0Textures (now ambientCG), cropped and made grey by scikit-image",
            "licence": "CC0 1.0 Universal",
        },
    )


def north_america_temperature() -> xr.DataArray:
    """Load annual mean air temperature anomalies over North America, from a climate model.

    **Climate-model output, not observations.** 340 years on 37 x 49 grid points (15 to 60 degrees north, 225 to 315
    degrees east): the 1.5 m air temperature in kelvin less a cubic trend per grid point and scenario. The coordinate
    ``scenario`` along ``year`` is "historical" (140 years), "A1B" or "E1" (100 each); A1B and E1 share calendar years.

    Returns
    -------
    DataArray, (year, lat, lon)
        In memory; licence and source are among its attributes (British Crown copyright, Met Office, Open Government
        Licence v3).

    Examples
    --------
    >>> anomaly = north_america_temperature()
    >>> dict(anomaly.sizes), anomaly.attrs["units"]
    ({'year': 340, 'lat': 37, 'lon': 49}, 'K')
    """
    import xarray as xr

    source = resources.files(__package__) / "north_america_temperature.nc"
    with resources.as_file(source) as path, xr.open_dataset(path, engine="h5netcdf") as dataset:
        anomaly = dataset["air_temperature_anomaly"].load()
        about = {name: dataset.attrs[name] for name in ("source", "licence")}
    return anomaly.assign_attrs(about, comment="climate-model output, not observations")
