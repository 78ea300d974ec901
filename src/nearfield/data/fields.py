"""Fields laid out as the training data, read a few at a time where they are stored lazily."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

import numpy as np

from nearfield.data import lazy
from nearfield.data.alignment import samples_of
from nearfield.data.chronology import row_order, time_order

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray

    from nearfield.data.codec import Codec
    from nearfield.data.validation import Data

__all__ = ["Fields"]


@final
@dataclass(frozen=True, eq=False)
class Fields:
    """Data of the kind that a codec knows, whose samples have the numbers in which `Codec.encode` returns them.

    Parameters
    ----------
    data : DataArray, Dataset or array
    codec : Codec

    Examples
    --------
    >>> import dask.array
    >>> from nearfield.data.codec import Codec
    >>> codec = Codec.fit(np.zeros((2, 5000)) + np.arange(2)[:, None])
    >>> fields = Fields(dask.array.zeros((5000, 5000)), codec)
    >>> fields.spans()
    [range(0, 3355), range(3355, 5000)]
    >>> fields.take(np.array([7, 3])).shape
    (2, 5000, 1)
    """

    data: Data
    codec: Codec

    def __getstate__(self) -> dict[str, Any]:
        return {"data": self.data, "codec": self.codec}

    def __len__(self) -> int:
        return math.prod(self.lengths.values())

    @cached_property
    def lengths(self) -> dict[str, int]:
        """Names and lengths of the axes that count samples; none of a single field."""
        data: Any = self.data
        if not lazy.is_lazy(data):
            assert self._whole is not None  # which refuses data of another layout
        if self._labelled:
            return {dim: int(data.sizes[dim]) for dim in samples_of(self.codec, data)}
        axes = len(self.codec.layout.dims) + (self.codec.container == "channel array")
        return {self.codec.sample_dims[0]: len(data)} if np.ndim(data) > axes else {}

    @property
    def _each(self) -> int:
        """Samples at one place of the first axis that counts them."""
        return math.prod([*self.lengths.values()][1:])

    def spans(self, *, cut: bool = False) -> list[range]:
        """Divide the samples into runs of at most `lazy.WHOLE` numbers; data in memory only to be ``cut``."""
        n = len(self)
        if n == 0 or not (cut or lazy.is_lazy(self.data)):
            return [range(n)]
        step = self._each * max(1, lazy.WHOLE // (self._each * self.codec.layout.n_cells * self.codec.n_channels))
        return [range(start, min(start + step, n)) for start in range(0, n, step)]

    def read(self, span: range) -> Float[ndarray, "sample vertex channel"]:
        """Encode samples that `spans` returned, in double precision; values may be missing (NaN)."""
        if not lazy.is_lazy(self.data):
            return self._whole[span.start : span.stop]
        if not self.lengths:
            return self._encoded(self.data)
        return self._encoded(self._part(slice(span.start // self._each, span.stop // self._each)))

    def take(self, numbers: Int[ndarray, " some"]) -> Float[ndarray, "some vertex channel"]:
        """Encode the samples of these numbers."""
        if not (lazy.is_lazy(self.data) and self.lengths):
            return np.take(self.read(range(len(self))), numbers, axis=0)
        places, of = np.unique(numbers // self._each, return_inverse=True)
        if self._each == 1:
            return np.take(self._encoded(self._part(places)), of, axis=0)
        out = np.empty((len(numbers), self.codec.n_vertices, self.codec.n_channels))
        for k, place in enumerate(places.tolist()):
            out[of == k] = self._encoded(self._part(slice(place, place + 1)))[numbers[of == k] % self._each]
        return out

    @cached_property
    def order(self) -> Int[ndarray, " sample"]:
        """Numbers of the samples in the order of time where dates are known."""
        variable: Any = self.data
        if not self._labelled:
            return row_order(variable)
        if hasattr(variable, "data_vars"):
            variable = next(v for name, v in variable.data_vars.items() if str(name) == self.codec.channels[0].name)
        return time_order(variable, samples_of(self.codec, variable))

    @property
    def _labelled(self) -> bool:
        return hasattr(self.data, "sizes") and hasattr(self.data, "isel")

    def _part(self, places: slice | Int[ndarray, " some"]) -> Any:
        """Select samples at these places of the first axis that counts them."""
        data: Any = self.data
        return data.isel({next(iter(self.lengths)): places}) if self._labelled else data[places]

    @cached_property
    def _whole(self) -> Float[ndarray, "sample vertex channel"]:
        return self._encoded(self.data)

    def _encoded(self, data: Any) -> Float[ndarray, "sample vertex channel"]:
        return self.codec.encode(data, allow_missing=True).astype(np.float64, copy=False)
