"""Variables of data, as training data lay them out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from nearfield.data.channel import refuse_other_channels
from nearfield.data.dimension import may_count_samples
from nearfield.data.validation import as_array, as_variables

if TYPE_CHECKING:
    from nearfield.data.codec import Codec
    from nearfield.data.validation import Data

__all__ = ["aligned", "samples_of"]


def aligned(codec: Codec, data: Data, allow_missing: bool, *, read: bool = True) -> list[xr.DataArray]:
    """Return the variables of data in the order of the channels, read or not; refuse data of another layout."""
    kind = "DataArray" if isinstance(data, xr.DataArray) else "Dataset" if isinstance(data, xr.Dataset) else "array"
    if kind != codec.container.split()[-1]:
        raise TypeError(
            f"data must be of the training data's kind, {codec.container}, got {type(data).__name__}; convert"
        )
    if isinstance(data, xr.Dataset):
        names = [channel.name for channel in codec.channels]
        of = {str(name): name for name in data.data_vars}
        if set(names) != set(of):
            raise ValueError(f"data must have the variables {names}, got {list(data.data_vars)}; select them")
        data = data[[of[str(name)] for name in names]]
    variables = _array_variables(codec, data, allow_missing) if kind == "array" else as_variables(data, read=read)[1]
    refuse_other_channels(codec.channels, variables)
    known = {*codec.sample_dims, *codec.layout.dims}
    for variable in variables:
        codec.layout.require_same(variable)
        unknown = [d for d in variable.dims if d not in known and not may_count_samples(variable, str(d))]
        if unknown:
            raise ValueError(
                f"data must have the dimensions {list(codec.layout.dims)} and samples {list(codec.sample_dims)}, got "
                f"{unknown} also; select one entry of each, or rename it to 'sample'"
            )
    return variables


def samples_of(codec: Codec, variable: xr.DataArray | xr.Dataset) -> list[str]:
    """Return the sample dimensions of a variable: those of the training data in their order, then others by name."""
    others = sorted(str(dim) for dim in variable.dims if dim not in (*codec.layout.dims, *codec.sample_dims))
    return [dim for dim in codec.sample_dims if dim in variable.dims] + others


def _array_variables(codec: Codec, data: Any, allow_missing: bool) -> list[xr.DataArray]:
    shape = codec.layout.shape + ((codec.n_channels,) if codec.container == "channel array" else ())
    if allow_missing and np.ndim(data) == len(shape):
        array, dims = as_array(np.asarray(data)[None])[0], codec.layout.dims
    else:
        array, dims = as_array(data), ("sample", *codec.layout.dims)
    found = array.shape[len(dims) - len(codec.layout.dims) :]
    if found != shape and len(shape) == 1 and array.ndim == 2:
        # scikit-learn's own words, which its checks require
        raise ValueError(f"X has {found[0]} features, but LocalizedDiffusion is expecting {shape[0]} features as input")
    if found != shape:
        raise ValueError(f"X must have shape (n_samples, {', '.join(map(str, shape))}), got {array.shape}")
    channels = np.moveaxis(array, -1, 0) if codec.container == "channel array" else array[None]
    return [xr.DataArray(channel, dims=dims) for channel in channels]
