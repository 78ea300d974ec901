"""Which dimensions of data count samples, and which lie in space."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence

import xarray as xr

from nearfield.data.chronology import TIME_NAMES

__all__ = ["SAMPLE_NAMES", "find_sample_dims", "may_count_samples"]

SAMPLE_NAMES = ("sample", "realization", "member", "number", "ensemble")
"""Dimensions that are samples wherever they occur."""

_OTHER_SAMPLE_NAMES = (
    *("realisation", "replicate", "replication", "draw", "memberid", "nmember", "mem"),
    *("ens", "nens", "ensmem", "ensmember", "ensemblemember"),
)
_EITHER = (
    *("model", "source", "sourceid", "run", "experiment", "scenario", "variant"),
    *("init", "inittime", "reftime", "forecastreferencetime", "start"),
)
_SPACE = (
    "x y z i j k xc yc xi eta rho sigma lat latitude lon longitude long lev level levels plev pressure depth height "
    "altitude alt elevation layer row rows col cols column columns cell cells vertex vertices node nodes face faces "
    "edge edges element point points pixel pixels station stations site sites location locations place gauge gauges "
    "buoy profile distance space radius azimuth angle theta phi easting northing south north west east bottom top band "
    "wavelength frequency"
)
_SPACE_NAMES = frozenset(_SPACE.split())
_SPACE_PARTS = ("isobaric", "pressure", "height", "depth", "level", "latitude", "longitude", "station")
_SPACE_UNITS = re.compile(
    r"(k|c|m)?m|met(er|re)s?|kilomet(er|re)s?|(h|k)?pa|mbar|millibars?|(radian|degree|deg).*", re.I
)


def find_sample_dims(variable: xr.DataArray, sample_dim: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the dimensions that are samples: those named, or the one that can be guessed.

    Examples
    --------
    >>> import numpy as np
    >>> find_sample_dims(xr.DataArray(np.zeros((2, 3, 4)), dims=("time", "member", "x")), None)
    ('member',)
    """
    if sample_dim is not None:
        return _named(variable, sample_dim)
    for counts in (_counts_members, _is_time):
        found = tuple(str(dim) for dim in variable.dims if counts(variable, str(dim)))
        if len(found) > 1:
            found = tuple(sorted(found, key=(SAMPLE_NAMES + TIME_NAMES + found).index))
            raise ValueError(
                f"sample_dim must say which dimension counts the samples: both {found[0]!r} and {found[1]!r} may; pass "
                f"sample_dim={found[0]!r}, or sample_dim={list(found)} to take every combination as a sample"
            )
        if found:
            _refuse_two_readings(variable, found[0])
            return found
    raise ValueError(
        f"sample_dim must say which dimension counts the samples: none of {list(variable.dims)} is called "
        f"{', '.join(SAMPLE_NAMES + TIME_NAMES)}"
    )


def may_count_samples(variable: xr.DataArray, dim: str) -> bool:
    """Whether a dimension counts samples by its name or coordinate.

    Examples
    --------
    >>> import numpy as np
    >>> data = xr.DataArray(np.zeros((3, 2)), dims=("Member", "x"))
    >>> may_count_samples(data, "Member"), may_count_samples(data, "x")
    (True, False)
    """
    return _counts_members(variable, dim) or _is_time(variable, dim)


def _named(variable: xr.DataArray, sample_dim: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names that were given, if they are dimensions."""
    if not isinstance(sample_dim, Iterable):
        raise TypeError(f"sample_dim must be a name or names, got {sample_dim!r}; give a string or a tuple of strings")
    names = (sample_dim,) if isinstance(sample_dim, str) else tuple(sample_dim)
    wrong = [name for name in names if name not in variable.dims]
    if not names or wrong or len(set(names)) < len(names):
        raise ValueError(
            f"sample_dim must name dimensions of the data, {list(variable.dims)}, each once, got {sample_dim!r}"
        )
    return names


def _refuse_two_readings(variable: xr.DataArray, found: str) -> None:
    """Refuse another dimension that may count samples as well as lie in space; warn where an uncommon name decides."""
    others = [str(dim) for dim in variable.dims if dim != found and variable.sizes[dim] > 1]
    if _is_time(variable, found):
        unclear = [dim for dim in others if not _is_space(variable, dim)] if len(others) > 1 else []
    else:
        unclear = [dim for dim in others if _plain(dim) in _EITHER and not _is_space(variable, dim)]
    if unclear:
        raise ValueError(
            f"sample_dim must say what {unclear[0]!r} is, beside {found!r}: it may count samples, then pass "
            f"sample_dim={[found, unclear[0]]}, or be a dimension of the field, then pass sample_dim={found!r}"
        )
    times = [dim for dim in others if _is_time(variable, dim)]
    if times and found not in SAMPLE_NAMES and not _is_realization(variable, found):
        warnings.warn(
            f"{found!r} is taken to count the samples and {times[0]!r} to be a dimension of the field; pass "
            f"sample_dim={found!r} to say so, or sample_dim={[times[0], found]} to take every combination as a sample",
            stacklevel=4,
        )


def _counts_members(variable: xr.DataArray, dim: str) -> bool:
    names = (*SAMPLE_NAMES, *_OTHER_SAMPLE_NAMES)
    return _is_realization(variable, dim) or _plain(dim) in names or _plain(dim).removesuffix("s") in names


def _is_realization(variable: xr.DataArray, dim: str) -> bool:
    return _has_standard_name(variable, dim, "realization") or _attribute(variable, dim, "axis").upper() == "E"


def _is_time(variable: xr.DataArray, dim: str) -> bool:
    named = dim.lower() in TIME_NAMES or _attribute(variable, dim, "axis").upper() == "T"
    return named or _has_standard_name(variable, dim, "time")


def _is_space(variable: xr.DataArray, dim: str) -> bool:
    """Whether a dimension lies in space for certain: by its name, its attributes or its coordinates."""
    words = [word for word in re.split(r"[^a-z]+", dim.lower()) if word]
    if any(word in _SPACE_NAMES or word.removeprefix("n") in _SPACE_NAMES for word in words):
        return True
    if dim.lower().endswith(("lat", "lon", "point", "cell")) or any(part in dim.lower() for part in _SPACE_PARTS):
        return True
    for name, coordinate in variable.coords.items():
        if coordinate.dims != (dim,):
            continue
        attrs = coordinate.attrs
        said = str(attrs.get("axis", "")).upper() in ("X", "Y", "Z") or "positive" in attrs
        if said or _SPACE_UNITS.fullmatch(str(attrs.get("units", "")).strip()) or str(name).lower() in _SPACE_NAMES:
            return True
    numbers = variable.coords.get(dim)
    return numbers is not None and numbers.dtype.kind == "f" and bool((numbers % 1 != 0).any())


def _plain(dim: str) -> str:
    return dim.lower().replace("_", "").replace("-", "")


def _attribute(variable: xr.DataArray, dim: str, name: str) -> str:
    return str(variable.coords[dim].attrs.get(name, "")) if dim in variable.coords else ""


def _has_standard_name(variable: xr.DataArray, dim: str, standard_name: str) -> bool:
    """Whether a coordinate along the dimension has the standard name, its own if it has one."""
    if dim in variable.coords and "standard_name" in variable.coords[dim].attrs:
        return bool(variable.coords[dim].attrs["standard_name"] == standard_name)
    return any(c.dims == (dim,) and c.attrs.get("standard_name") == standard_name for c in variable.coords.values())
