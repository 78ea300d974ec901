"""The variables of data: their names and units, which those given to a model have to share."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from nearfield.data.missing import MISSING_NAMES
from nearfield.data.plain import plain_attrs
from nearfield.data.validation import float_dtype

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Channel", "refuse_other_channels"]

_ALIASES = {
    "K": "k kelvin kelvins degk deg_k degree_kelvin degrees_kelvin",
    "degC": "degc celsius deg_c degree_celsius degrees_celsius degree_c degrees_c degreec degreesc °c ºc",
    "degF": "degf fahrenheit deg_f degree_fahrenheit degrees_fahrenheit degree_f degrees_f °f",
    "hPa": "hpa mb mbar millibar millibars hectopascal hectopascals",
    "Pa": "pa pascal pascals",
    "m": "m metre metres meter meters",
    "mm": "mm millimetre millimetres millimeter millimeters",
    "cm": "cm centimetre centimetres centimeter centimeters",
    "km": "km kilometre kilometres kilometer kilometers",
    "s": "s sec second seconds",
    "h": "h hr hrs hour hours",
    "d": "d day days",
    "%": "% percent",
    "1": "1 dimensionless unitless none - fraction",
    "degree": "degree degrees deg °",
}
_UNITS = {name: unit for unit, names in _ALIASES.items() for name in names.split()}


@final
@dataclass(frozen=True)
class Channel:
    """One variable of the data.

    Parameters
    ----------
    name : str or None
        Its name.
    dims : tuple of str
        Its dimensions, samples included, in the order of the training data.
    dtype : str
        ``"float32"`` or ``"float64"``, also of decoded values.
    attrs : dict
        Its attributes, plain.

    Examples
    --------
    >>> import xarray as xr
    >>> Channel.of(xr.DataArray([1.0, 2.0], dims="x", name="t")).dtype
    'float64'
    """

    name: str | None
    dims: tuple[str, ...]
    dtype: str
    attrs: Mapping[str, Any]

    @classmethod
    def of(cls, variable: xr.DataArray) -> Channel:
        """Describe a variable of the training data, without its missing and valid values, which draws do not have."""
        return cls(
            name=None if variable.name is None else str(variable.name),
            dims=tuple(str(dim) for dim in variable.dims),
            dtype=float_dtype(variable),
            attrs={k: v for k, v in plain_attrs(variable.attrs).items() if k not in MISSING_NAMES},
        )


def refuse_other_channels(channels: Sequence[Channel], variables: Sequence[xr.DataArray]) -> None:
    """Refuse variables of another name or in other units than those fitted; where either is not said, it may pass.

    Examples
    --------
    >>> import xarray as xr
    >>> kelvin = xr.DataArray([280.0], dims="x", attrs={"units": "K"})
    >>> refuse_other_channels([Channel.of(kelvin)], [kelvin.assign_attrs(units="kelvin")])
    """
    for channel, variable in zip(channels, variables, strict=True):
        name, what = channel.name, "data" if channel.name is None else f"variable {channel.name!r}"
        if name is not None and variable.name is not None and str(variable.name) != name:
            raise ValueError(
                f"data must be the variable {name!r} of the training data, got {variable.name!r}; select it, or rename "
                f"with data.rename({name!r}) if it is the same quantity"
            )
        known, given = channel.attrs.get("units"), variable.attrs.get("units")
        if known is not None and given is not None and not _spelled_alike(str(known), str(given)):
            raise ValueError(
                f"units of {what} must be {known!r} as in the training data, got {given!r}; convert the values, and "
                f"set attrs['units'] = {known!r}"
            )


def _spelled_alike(one: str, two: str) -> bool:
    """Whether units are the same but for spelling; milli and mega are distinct."""
    first, second = (re.match(r"[mM][A-Za-z]{1,2}(?![A-Za-z])", text.strip()) for text in (one, two))
    if first and second and first[0] != second[0] and first[0][1:] == second[0][1:]:
        return False
    return _unit(one) == _unit(two)


def _unit(text: str) -> str:
    """Return units in one spelling: products of names with whole powers, as m s-1 for m/s."""
    text = text.strip().lower()
    if text in _UNITS or not text:
        return _UNITS.get(text, "1")
    text = re.sub(r"\s+|(?<=[a-z])[.*](?=[a-z])|(?<=\d)[.*](?=[a-z])", " ", text.replace("**", "").replace("^", ""))
    above, *below = (part.strip() for part in text.split("/"))
    factors = [_power(word, 1) for word in above.split()]
    factors += [_power(word, -1) for part in below for word in part.strip("() ").split()]
    return " ".join(sorted(factor for factor in factors if factor))


def _power(word: str, sign: int) -> str:
    """Return a name with its power, as s-1; nothing for a lone 1."""
    match = re.fullmatch(r"([^\d+-]+)([+-]?\d+)?", word)
    if match is None:
        return "" if word == "1" else word
    name, power = match[1], sign * int(match[2] or 1)
    return f"{_UNITS.get(name, name)}{'' if power == 1 else power}"
