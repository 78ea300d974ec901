"""What was observed of a field: values with their operator, their errors and their bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, final

import numpy as np
import scipy.sparse as sp
import torch

from nearfield.data.channel import refuse_other_channels
from nearfield.data.missing import refuse_observed
from nearfield.data.operator import Average, average, average_rows, matrix_rows, point_rows
from nearfield.transform.marginal import Marginal

if TYPE_CHECKING:
    from jaxtyping import Float

    from nearfield.data.codec import Codec

__all__ = ["Observation", "Reading", "average"]


@final
@dataclass(frozen=True, eq=False)
class Observation:
    """Values observed of one field, to condition a model on.

    Parameters
    ----------
    values : DataArray, Dataset, DataFrame, Series or array
        A field laid out as the training data, NaN where nothing was observed; with ``at`` or an operator one number
        for each point or row. A Series or DataArray with a name is of the variable of that name.
    at : array of int, mapping, DataFrame or array, optional
        Vertex numbers; or coordinates by their names, or of shape (point, dimension).
    operator : {"nearest", "bilinear"}, Average, matrix or callable, optional
        How points are read (by default at the nearest vertex); averages (see `nearfield.average`); a matrix, sparse or
        not, over the cells of the data, or its vertices, with channels fastest; or a torch function of a field, shaped
        as the data without samples (NaN on land), which returns one number for each value. Functions are linearised at
        each noise level.
    error : number or array
        Standard deviation of the errors, in the units of the data: one number, one for each value, or their covariance,
        shape (value, value). 0 is exact. Errors of different observations are independent.
    above, below : bool or array of bool
        Where the true value is only known to be above, or below, the given one, at single vertices. Two observations
        make an interval. Bounds are exact.

    Raises
    ------
    ValueError
        If errors are NaN or negative, no value is observed, or shapes differ.

    Examples
    --------
    >>> Observation([1.5, 2.0], at=[3, 7], error=0.1).n_values
    2
    """

    values: Any
    at: Any = None
    operator: Any = field(default=None, kw_only=True)
    error: Any = field(default=0.0, kw_only=True)
    above: Any = field(default=False, kw_only=True)
    below: Any = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if self.at is not None and not (self.operator is None or isinstance(self.operator, str)):
            raise ValueError("at must be None with an operator that is no way to read points")
        if self.at is None and isinstance(self.operator, str):
            raise ValueError(f"operator={self.operator!r} needs the points, at=...")
        if self.error is None or isinstance(self.error, str):
            raise TypeError(f"error must be a number or an array, got {self.error!r}")

    @property
    def n_values(self) -> int:
        """Number of values, missing ones included."""
        return int(np.size(self.values))

    def readings(self, codec: Codec, marginal: Marginal, n_training: int) -> Reading:
        """Return rows over the entries of the model, with their values."""
        return self._of_field(codec, marginal, n_training) if self._laid_out else self._of_rows(codec)

    @property
    def _laid_out(self) -> bool:
        return self.at is None and self.operator is None

    def _of_field(self, codec: Codec, marginal: Marginal, n_training: int) -> Reading:
        x = codec.encode(self.values, allow_missing=True).astype(np.float64)
        if len(x) != 1:
            raise ValueError(
                f"values must be one field, got {len(x)} samples; condition on one, or use impute for several"
            )
        _require_some(~np.isnan(x))
        if not (np.any(self.above) or np.any(self.below)):
            refuse_observed(x, marginal(x), n_training)
        flat = x.reshape(-1)
        entry = np.flatnonzero(~np.isnan(flat))

        def part(given: Any) -> np.ndarray:
            return codec.encode(_beside(given, self.values), allow_missing=True).reshape(-1)[entry]

        if np.shape(self.error) == (len(entry),) * 2 and np.shape(self.error) != np.shape(self.values):
            error = np.asarray(self.error, dtype=np.float64)
        else:
            error = np.full(len(entry), float(self.error)) if np.ndim(self.error) == 0 else part(self.error)
        above, below = (
            np.full(len(entry), bool(each)) if np.ndim(each) == 0 else part(each) > 0
            for each in (self.above, self.below)
        )
        rows = sp.csr_array((np.ones(len(entry)), (np.arange(len(entry)), entry)), shape=(len(entry), flat.size))
        return Reading.checked(rows, flat[entry], error, above, below)

    def _of_rows(self, codec: Codec) -> Reading:
        values = np.atleast_1d(np.asarray(self.values, dtype=np.float64)).ravel()
        if np.isinf(values).any():
            raise ValueError("values must be finite, or NaN where nothing was observed")
        rows = self._rows(codec)
        count = len(values) if callable(rows) else rows.shape[0]
        if count != len(values):
            raise ValueError(
                f"values must be one for each of {count} points or rows of the operator, got {len(values)}"
            )
        present = np.flatnonzero(~np.isnan(values))
        _require_some(present)

        def part(given: Any) -> np.ndarray:
            return np.broadcast_to(np.asarray(given), values.shape)[present]

        error = np.asarray(self.error, dtype=np.float64)
        error = error[np.ix_(present, present)] if error.ndim == 2 else part(error)
        if callable(rows):
            function, every = rows, torch.from_numpy(present)
            if len(present) < len(values):
                rows = lambda x: function(x)[every]  # noqa: E731
        else:
            rows = rows[present]
        return Reading.checked(rows, values[present], error, part(self.above) > 0, part(self.below) > 0)

    def _rows(self, codec: Codec) -> sp.csr_array | Callable[[torch.Tensor], torch.Tensor]:
        if self.at is not None:
            return point_rows(codec, self.at, self.operator or "nearest", self._channel(codec))
        if isinstance(self.operator, Average):
            return average_rows(codec, self.operator, self._channel(codec))
        if callable(self.operator):
            function: Callable[[torch.Tensor], torch.Tensor] = self.operator
            return function
        return matrix_rows(codec, self.operator)

    def _channel(self, codec: Codec) -> int:
        """Channel that the values are of."""
        name, names = getattr(self.values, "name", None), [channel.name for channel in codec.channels]
        if codec.n_channels > 1 and name not in names:
            raise ValueError(f"values must have the name of a variable of the model, {names}, got {name!r}")
        number = names.index(name) if codec.n_channels > 1 else 0
        if hasattr(self.values, "attrs"):
            refuse_other_channels([codec.channels[number]], [self.values])
        return number


class Reading(NamedTuple):
    """Sums of entries, or a function of the field, with values, errors and bounds, in the units of the data."""

    rows: sp.csr_array | Callable[[torch.Tensor], torch.Tensor]
    value: Float[np.ndarray, " row"]
    error: Float[np.ndarray, "*row"]  # standard deviations, or a covariance
    above: np.ndarray
    below: np.ndarray

    @classmethod
    def checked(cls, rows: Any, value: np.ndarray, error: np.ndarray, above: np.ndarray, below: np.ndarray) -> Reading:
        """Refuse errors that are none."""
        if np.isnan(error).any():
            raise ValueError("error must be a number wherever a value is observed, got NaN")
        if error.ndim == 2:
            if error.shape != (len(value),) * 2 or not np.allclose(error, error.T) or np.linalg.eigvalsh(error)[0] <= 0:
                raise ValueError(
                    f"error must be a positive definite covariance of the {len(value)} observed values, got shape "
                    f"{error.shape}"
                )
        elif (error < 0).any() or np.isinf(error).any():
            raise ValueError(f"error must be at least 0 and finite, got {error[(error < 0) | np.isinf(error)][0]:g}")
        if (above & below).any():
            raise ValueError("above and below must not hold for one value; give an interval as two observations")
        return cls(rows, np.asarray(value, dtype=np.float64), np.asarray(error, dtype=np.float64), above, below)


def _beside(given: Any, values: Any) -> Any:
    """Errors or flags in the container of the values."""
    if hasattr(values, "data_vars") or not hasattr(values, "dims"):
        return (
            given if hasattr(given, "data_vars") else np.broadcast_to(np.asarray(given, dtype=float), np.shape(values))
        )
    array = given.transpose(*values.dims).values if hasattr(given, "dims") else given
    beside = values.copy(data=np.broadcast_to(np.asarray(array, dtype=float), values.shape))
    beside.attrs, beside.encoding = {}, {}
    return beside


def _require_some(present: np.ndarray) -> None:
    if (not np.any(present) and present.dtype == bool) or present.size == 0:
        raise ValueError("values must have at least one number, got NaN only: nothing is observed")
