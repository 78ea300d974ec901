"""Directions, phases and the like, whose values go round: on a line the mean of winds about north is south."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

__all__ = ["turn_of", "warn_of_circles"]

_WORDS = re.compile(r"direction|azimuth|bearing|heading|phase|aspect|orientation|(?:^|_)(?:wd|wdir|dir|mwd)\d*(?:$|_)")
_TURNS = {
    360.0: ("degree", "degrees", "deg", "°", "degree_true", "degrees_true"),
    2 * np.pi: ("radian", "radians", "rad"),
}


def turn_of(name: str | None, attrs: Mapping[str, Any]) -> float | None:
    """Return a whole turn in the units of a variable, if its names say that it goes round.

    Examples
    --------
    >>> turn_of("wd", {"units": "degree"}), turn_of("sst", {"units": "degree_Celsius"})
    (360.0, None)
    """
    standard = str(attrs.get("standard_name", "")).lower()
    called = [standard] if standard else [str(name or "").lower(), str(attrs.get("long_name", "")).lower()]
    if not any(_WORDS.search(text) for text in called):
        return None
    units = str(attrs.get("units", "degree")).lower().strip()
    return next((turn for turn, names in _TURNS.items() if units in names), None)


def warn_of_circles(
    x: Float[ndarray, "sample vertex channel"], names: Sequence[str | None], attrs: Sequence[Mapping[str, Any]]
) -> None:
    """Warn of variables that go round and are spread over more than half a turn, but no more than a whole one."""
    for k, (name, described) in enumerate(zip(names, attrs, strict=True)):
        turn = turn_of(name, described)
        if turn is None:
            continue
        low, high = float(np.nanmin(x[..., k])), float(np.nanmax(x[..., k]))
        if 0.5 * turn < high - low <= 1.001 * turn:
            what = "the data" if name is None else f"variable {name!r}"
            call = "np.deg2rad(data)" if turn == 360.0 else "data"
            warnings.warn(
                f"{what} seem to be directions, from {low:.4g} to {high:.4g} where {turn:.4g} is a whole turn: as "
                f"numbers on a line {low:.4g} and {high:.4g} are far apart. Fit sine and cosine as two variables, "
                f'xr.Dataset({{"sine": np.sin({call}), "cosine": np.cos({call})}}), and turn draws back with '
                "np.arctan2; times a speed they are the components of a wind",
                stacklevel=2,
            )
