"""Values of the vertices, labelled as the training data or as other data of their kind."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xarray as xr

from nearfield.data.alignment import aligned, samples_of
from nearfield.data.validation import float_dtype

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

    from nearfield.data.channel import Channel
    from nearfield.data.codec import Codec
    from nearfield.data.validation import Data

__all__ = ["Blank", "blank", "blank_beside", "labelled", "labels_digest"]

_SECOND_MEMBER_AXIS = "draw"


class Blank(NamedTuple):
    """Labelled fields without values, which take no memory, and the axes that number them, the last fastest."""

    fields: xr.Dataset
    lengths: dict[str, int]


def labels_digest(fields: xr.Dataset) -> str:
    """Fingerprint of names, dimensions, attributes and coordinates, whatever the values."""
    state = hashlib.sha256(repr(fields.to_dict(data=False)).encode())
    for coordinate in fields.coords.values():
        values = np.asarray(coordinate.values)
        state.update(repr(values.tolist()).encode() if values.dtype.kind == "O" else values.tobytes())
    return state.hexdigest()


def labelled(
    codec: Codec,
    values: Float[ndarray, "*lead vertex channel"],
    lead: tuple[str, ...],
    like: Data | None,
    attrs: Mapping[str, Any],
) -> Any:
    """Return values in the container of the training data, or of other data where `like` is not None."""
    templates = None if like is None else aligned(codec, like, allow_missing=True)
    names, samples = lead, tuple[int, ...]()
    if templates is not None:
        names, samples = _axes_beside(codec, templates[0], lead if values.ndim > 3 else ())
    _check_shape(codec, values, names, None if templates is None else math.prod(samples))
    sizes = dict(zip(names, values.shape, strict=False))
    fields = []
    for k, channel in enumerate(codec.channels):
        dtype = channel.dtype if templates is None else float_dtype(templates[k])
        cells = np.full((*values.shape[:-2], codec.layout.n_cells), np.nan, dtype=dtype)
        cells[..., codec.present] = values[..., k]
        cells = cells.reshape(*sizes.values(), *samples, *codec.layout.shape)
        fields.append(
            _new(codec, cells, channel, sizes) if templates is None else _like(codec, cells, templates[k], sizes)
        )
    return _contain(codec, fields, like, attrs)


def blank(codec: Codec, n_members: int, attrs: Mapping[str, Any]) -> Blank:
    """Return members, labelled as draws are."""
    sizes, single = {"member": n_members}, len(codec.channels) == 1
    fields = {}
    for k, channel in enumerate(codec.channels):
        cells = np.broadcast_to(np.array(np.nan, dtype=channel.dtype), (n_members, *codec.layout.shape))
        name = channel.name or ("values" if single else f"channel_{k}")
        field = _new(codec, cells, channel, sizes)
        fields[name] = field.assign_attrs(attrs) if codec.container == "DataArray" else field
    return Blank(xr.Dataset(fields, attrs={} if codec.container == "DataArray" else {**codec.attrs, **attrs}), sizes)


def blank_beside(
    codec: Codec, like: Data, samples: Mapping[str, int], lead: Mapping[str, int], attrs: Mapping[str, Any]
) -> Blank:
    """Return fields labelled as those that other data become, of these axes of samples, with generated axes first."""
    labelled = isinstance(like, xr.DataArray | xr.Dataset)
    if labelled:
        templates = aligned(codec, like, allow_missing=True, read=False)
    else:
        shape, axes = (*samples.values(), *codec.layout.shape), (*samples, *codec.layout.dims)
        templates = [xr.DataArray(np.broadcast_to(np.float64(0), shape), dims=axes) for _ in codec.channels]
    names, _ = _axes_beside(codec, templates[0], tuple(lead))
    sizes, single = dict(zip(names, lead.values(), strict=True)), len(templates) == 1
    fields = {}
    for k, template in enumerate(templates):
        dims = sizes | {str(dim): n for dim, n in template.sizes.items()}
        values = np.broadcast_to(np.array(np.nan, dtype=float_dtype(template)), tuple(dims.values()))
        field = xr.DataArray(values, template.drop_encoding().coords, tuple(dims), attrs=template.attrs)
        field = field.assign_coords(_member_coords(sizes))
        name = str(template.name or ("values" if single else f"channel_{k}"))
        fields[name] = field.assign_attrs(attrs) if isinstance(like, xr.DataArray) else field
    whole = {**like.attrs, **attrs} if isinstance(like, xr.Dataset) else {} if labelled else attrs
    return Blank(xr.Dataset(fields, attrs=whole), sizes | dict(samples))


def _axes_beside(
    codec: Codec, template: xr.DataArray, lead: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return names of the new axes that the template does not have already, and the sizes of its sample axes."""
    taken = {*template.dims, *template.coords}
    names = tuple(_SECOND_MEMBER_AXIS if name in taken else name for name in lead)
    return names, tuple(template.sizes[dim] for dim in samples_of(codec, template))


def _check_shape(codec: Codec, values: ndarray, names: tuple[str, ...], n_samples: int | None) -> None:
    sample = () if n_samples is None else (n_samples,)
    expected = (*values.shape[: len(names)], *sample, codec.n_vertices, codec.n_channels)
    if values.shape != expected:
        axes = [*names, *(() if n_samples is None else ("sample",)), "vertex", "channel"]
        raise ValueError(f"values must have shape ({', '.join(axes)}) = {expected}, got {values.shape}")


def _new(codec: Codec, cells: ndarray, channel: Channel, sizes: Mapping[str, int]) -> xr.DataArray:
    """Label new members of a channel, their axis in the place of the samples'."""
    order: list[str] = [] if len(codec.sample_dims) == 1 else list(sizes)
    for dim in channel.dims:
        if dim not in codec.sample_dims:
            order.append(dim)
        elif len(codec.sample_dims) == 1:
            order.extend(sizes)
    coords = {name: variable for name, variable in codec.layout.coords.items() if name not in sizes}
    field = xr.DataArray(
        cells, coords=coords, dims=(*sizes, *codec.layout.dims), name=channel.name, attrs=dict(channel.attrs)
    )
    return field.assign_coords(_member_coords(sizes)).transpose(*order, transpose_coords=False)


def _like(codec: Codec, cells: ndarray, template: xr.DataArray, sizes: Mapping[str, int]) -> xr.DataArray:
    """Put other values into the template, new axes first."""
    order = (*sizes, *samples_of(codec, template), *codec.layout.dims)
    values = xr.Variable(order, cells).transpose(*sizes, *template.dims)
    return template.expand_dims(dict(sizes)).copy(data=values.values).assign_coords(_member_coords(sizes))


def _contain(codec: Codec, fields: list[xr.DataArray], like: Any, attrs: Mapping[str, Any]) -> Any:
    if codec.container == "array":
        return fields[0].values
    if codec.container == "channel array":
        return np.stack([field.values for field in fields], axis=-1)
    if codec.container == "DataArray":
        return fields[0].assign_attrs(attrs)
    named = {field.name: field for field in fields}
    if like is None:
        return xr.Dataset(named, attrs=dict(codec.attrs)).assign_attrs(attrs)
    return like.drop_vars(list(named)).assign({n: named[str(n)] for n in like.data_vars}).assign_attrs(attrs)


def _member_coords(sizes: Mapping[str, int]) -> dict[str, xr.Variable]:
    realization = {"standard_name": "realization"}
    return {
        name: xr.Variable((name,), np.arange(n), realization if name in ("member", _SECOND_MEMBER_AXIS) else {})
        for name, n in sizes.items()
    }
