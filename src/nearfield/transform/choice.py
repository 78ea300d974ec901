"""The choice of a transform by held-out density, in the units of the data."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from nearfield.samples import FEWEST_TO_CHOOSE, standard_error
from nearfield.transform.location import Location
from nearfield.transform.point_mass import LEAST, PointMass, masses
from nearfield.transform.power import YeoJohnson
from nearfield.transform.quantile import upper_bound
from nearfield.transform.value import Identity, Logarithm, SquareRoot, ValueTransform, subject

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray

__all__ = ["FITS", "Choice", "TransformName", "choose"]

TransformName = Literal["standardize", "none", "log", "sqrt", "yeo-johnson", "quantile"]

FITS: dict[TransformName, Callable[[Float[ndarray, "sample vertex"], str], ValueTransform]] = {
    "standardize": lambda *_: Identity(),
    "none": lambda *_: Identity("none"),
    "log": lambda *_: Logarithm(),
    "sqrt": SquareRoot.fit,
    "yeo-johnson": YeoJohnson.fit,
    "quantile": PointMass.fit,
}
"""How each transform is fitted to a channel and its name in messages."""

_BY_SIMPLICITY: tuple[TransformName, ...] = ("standardize", "log", "sqrt", "yeo-johnson", "quantile")
_ERRORS = 1.0
_WORTH = 0.005  # nats per dimension
_BEYOND = 5.0  # normal standard deviations: a transform that reaches a bound there draws beyond it too often
_FEWEST_VALUES = 20  # that quantiles are taken of


class Choice(NamedTuple):
    """A transform by name, and the reason for it."""

    name: TransformName
    reason: str


def choose(
    x: Float[ndarray, "sample vertex"],
    variable: str,
    folds: Sequence[Int[ndarray, " _"]],
    ordered: bool,
    ends: tuple[float, float] | None = None,
) -> Choice:
    """Choose the simplest transform whose held-out log-density is close to the highest.

    Close is within one standard error, or .005 nats per dimension, which are not worth a bend that may be chance.

    Transforms whose draws would pass a bound of the data are out: zero for data that are never negative, and ends
    before which the values crowd. The density counts location and scale of the vertices as the fit of a field does, and
    the slope of the transform.

    Of values at some vertices only, ``ends`` are the lowest and highest at all, which the transform has to take;
    quantiles, which belong to the vertices that they are fitted to, are out.
    """
    what = f"Transform of {subject(variable)}:"
    if masses(x) != (None, None):
        if ends is not None:
            raise ValueError(
                f"marginal must be named for {subject(variable)} where data are read in parts, got 'auto' of data of "
                f"which {LEAST:.0%} or more are at a bound: only 'quantile' draws them there, and needs all in memory"
            )
        return Choice("quantile", f"{what} quantile, with the probability of values at a bound ({LEAST:.0%} or more).")
    if len(x) < FEWEST_TO_CHOOSE or len(folds) < 2:
        return Choice("standardize", f"{what} standardize, since samples are too few to choose.")
    seen = np.flatnonzero(np.isfinite(x).any(axis=1))
    x, folds = x[seen], [np.flatnonzero(np.isin(seen, held_out)) for held_out in folds]
    names = [name for name in _BY_SIMPLICITY if ends is None or name != "quantile"]
    low, high = (float(np.nanmin(x)), float(np.nanmax(x))) if ends is None else ends
    bounds, gains = _bounds(x, low, high), {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the transform that is chosen warns when it is fitted
        for name in names:
            if _allowed(name, x, low) and _within(FITS[name](x, variable), x, bounds):
                gains[name] = _held_out(name, x, folds)
    if not gains:
        return Choice("standardize", f"{what} standardize.")
    best = max(gains, key=lambda name: float(gains[name].mean()))
    lost = {name: gains[best] - gain for name, gain in gains.items()}  # in order of simplicity
    chosen = next(
        name for name, loss in lost.items() if loss.mean() <= max(_WORTH, _ERRORS * standard_error(loss, ordered))
    )
    told = ", ".join(f"{name} {gain.mean():.3f}" for name, gain in gains.items())
    return Choice(
        chosen,
        f"{what} {chosen}, the simplest within one standard error, or {_WORTH:g}, of the highest held-out log-density "
        f"({told} nats per dimension{'' if ends is None else ', on patches'}).",
    )


def _allowed(name: TransformName, x: Float[ndarray, "sample vertex"], least: float) -> bool:
    """Whether the data, of which this is the lowest, are in the domain of a transform, and enough for it."""
    if name == "log":
        return least > 0
    if name == "sqrt":
        return least >= 0
    return name != "quantile" or np.isfinite(x).sum() * 0.5 >= _FEWEST_VALUES


def _bounds(x: Float[ndarray, "sample vertex"], low: float, high: float) -> tuple[float, float]:
    """Bounds of the law: zero for data that are never negative, and ends before which values crowd; else infinite."""
    upper, below = upper_bound(x), upper_bound(-x)
    lower = 0.0 if low >= 0 else -math.inf if below is None or -below > low else -below
    return lower, math.inf if upper is None or upper < high else upper


def _within(transform: ValueTransform, x: Float[ndarray, "sample vertex"], bounds: tuple[float, float]) -> bool:
    """Whether draws keep the bounds, as the location and scale of the transformed values tell."""
    if transform.name == "quantile":
        return True
    y = transform(x)
    location = Location.fit(y)
    far = location.scale * _BEYOND
    reach = transform.inv(np.broadcast_to(np.stack([location.center - far, location.center + far]), (2, x.shape[1])))
    return bool(reach.min() >= bounds[0] and reach.max() <= bounds[1])


def _held_out(
    name: TransformName, x: Float[ndarray, "sample vertex"], folds: Sequence[Int[ndarray, " _"]]
) -> Float[ndarray, " sample"]:
    """Log-density of each sample by a fit to other folds, nats per observed value, of vertices taken as independent."""
    density = np.empty(len(x))
    for held_out in folds:
        train, test = np.delete(x, held_out, axis=0), x[held_out]
        transform = FITS[name](train, "")
        y = transform(train)
        location = Location.fit(y)
        # what the error of location and scale adds to the spread of fresh values
        widened = location.scale * np.sqrt(np.nanmean(location.left_out(y) ** 2))
        z = (transform(test) - location.center) / widened
        each = -(z**2) / 2 - 0.5 * math.log(2 * math.pi) - np.log(widened) + transform.log_abs_det_jacobian(test)
        density[held_out] = np.nanmean(each, axis=1)
    return density
