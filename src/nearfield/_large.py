"""Fits of data that are read in parts: checked, fitted and kept tile by tile."""

from __future__ import annotations

import hashlib
import os
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfield import tasks
from nearfield._warnings import recorded_warnings
from nearfield.data.codec import Codec
from nearfield.data.duplicate import warn_of_duplicates
from nearfield.data.features import Features
from nearfield.data.lazy import LazyData
from nearfield.data.lost_chunk import warn_of_lost_chunks
from nearfield.data.missing import warn_of_empty
from nearfield.data.outlier import warn_of_gaps_in_tiles
from nearfield.data.patches import crops_of
from nearfield.data.rechunking import chunk_advice
from nearfield.data.source import Source
from nearfield.data.statistics import VertexStatistics, statistics_of
from nearfield.data.store import digest
from nearfield.data.tile_store import TileStore
from nearfield.distribution import GaussianModel
from nearfield.fitting.gaussianity import check_gaussianity
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.search import Search
from nearfield.fitting.tiled import vertex_statistics
from nearfield.graph.tiling import BoxTiling, Tiling
from nearfield.methods.auto import Auto
from nearfield.methods.base import FitOptions, Fitted, Method, fixed
from nearfield.methods.crops import crop_side, fit_crops, n_crops, one_location, require_whole
from nearfield.methods.gaussian import Gaussian
from nearfield.methods.hybrid import Hybrid
from nearfield.methods.network import NetworkMethod
from nearfield.methods.tiled import fit_tiled, patches
from nearfield.model import Model
from nearfield.samples import Samples
from nearfield.tiled_samples import TiledSamples
from nearfield.transform.marginal import Marginal

if TYPE_CHECKING:
    from jaxtyping import UInt64

    from nearfield.data.validation import Data

__all__ = ["fit_large"]

_NETWORKS = "method='hybrid' with pooling=1 trains one on crops"
_WHOLE = "load the data first to fit them whole, with data.load() or np.array(data)"
_EACH = 4
"""Samples that are seen in each crop."""
_MARGINALS = ("auto", "standardize", "none", "log", "sqrt", "yeo-johnson")


def fit_large(
    X: Data,
    method: Method,
    parameters: Mapping[str, Any],
    seed: int,
    *,
    sample_dim: Any = None,
    missing: str = "allow",
    folder: str | os.PathLike[str] | None = None,
    progress: Callable[[str, int, int], object] | None = None,
) -> Model:
    """Fit lazily stored data, and keep the tiles in a folder; by default one that goes away with the model."""
    radius, pooling = _locality(method)
    _require_marginal(parameters["marginal"])
    start = time.perf_counter()
    run = partial(_run, parameters["n_jobs"], progress)
    lazy = LazyData.of(X, sample_dim, parameters["graph"])
    if isinstance(method, Hybrid) and lazy.graph.lattice is None:
        raise ValueError(f"networks need a lattice for data that are read in parts, got {lazy.graph!r}; {_WHOLE}")
    advice = chunk_advice(lazy.source, Tiling.of(lazy.graph))
    if advice is not None:
        warnings.warn(advice, stacklevel=3)  # now: there is time to write the chunks anew
    with recorded_warnings(strict=parameters["strict"]) as messages:
        codec, statistics, fingerprints, used = _codec(lazy, run, missing)
        tiling, names = Tiling.of(codec.graph), [channel.name for channel in codec.channels]
        if isinstance(method, Hybrid):
            require_whole(codec.graph)
        source = lazy.source.at_vertices(codec.present)
        samples = TiledSamples(source, tiling, ordered=codec.ordered, numbers=used, run=run)
        if (statistics.count[codec.present] < len(samples)).any():
            _require_field(method, tiling)
            samples = replace(samples, n_observed=statistics.count[codec.present])
        near, at = patches(samples)
        warn_of_duplicates(np.unique(fingerprints, return_inverse=True)[1].reshape(-1))
        ends = list(zip(np.nanmin(statistics.low, axis=0), np.nanmax(statistics.high, axis=0), strict=True))
        marginal = Marginal.of(near, parameters["marginal"], names, seed, ends)
        samples = replace(samples, transform=_Transform(marginal), standard=marginal.standard)
        tiles = TileStore.temporary() if folder is None else TileStore(Path(folder))
        key = {"data": _digest(lazy.source, statistics, fingerprints), "seed": seed, "method": repr(method)}
        key |= {"marginal": str(parameters["marginal"]), "graph": digest(*codec.graph.state()), "side": tiling.key}
        tiles.claim(key | {"ordered": codec.ordered})
        options = FitOptions(Search(seed % 2**32, parameters["n_jobs"]))
        encoded = time.perf_counter()
        fitted, patch = fit_tiled(samples, radius, pooling, tiles, options)
        fitted = fitted.noted(marginal.reason)
        if isinstance(method, NetworkMethod) and not isinstance(method, Auto):
            fitted = _on_crops(method, samples, fitted, options).noted(marginal.reason)
        if isinstance(method, Auto):
            near = (patch if samples.incomplete else marginal.latent(near)).standardized(
                fitted.center[at], fitted.scale[at]
            )
            fitted = fitted.noted(_tested(near, fitted, options.seed))
    said = [*filter(None, [advice]), *messages]
    report = fitted.report(len(samples), seed, said, encoded - start)
    return Model(
        codec,
        marginal.rescaled(fitted.center, fitted.scale),
        fitted.law,
        fitted.radius,
        fitted.pooling,
        Features(codec.n_vertices * codec.n_channels),
        report,
        fingerprints,
    )


class _Transform:
    """The transforms of a marginal, whatever the vertices."""

    def __init__(self, marginal: Marginal) -> None:
        self._each = tuple(marginal.transforms)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Transform each channel."""
        return np.stack([each(values[..., k]) for k, each in enumerate(self._each)], axis=-1)


def _run(
    workers: int | None, progress: Callable[[str, int, int], object] | None, function: Any, items: Any, *common: Any
) -> list[Any]:
    name = getattr(function, "__name__", "tiles").strip("_").replace("_", " ")
    shown = None if progress is None else partial(progress, name)
    return tasks.run(function, list(items), *common, workers=workers, progress=shown)


def _statistics(tile: int, source: Source, tiling: Tiling) -> dict[str, np.ndarray]:
    return statistics_of(source, tiling, tile)


def _codec(
    lazy: LazyData, run: Callable[..., list[Any]], missing: str
) -> tuple[Codec, VertexStatistics, UInt64[np.ndarray, " sample"], np.ndarray | None]:
    """Read the statistics of all cells and check them; return the fingerprints of the samples with values.

    The numbers of these samples come last, if they are not all.
    """
    tiling = Tiling.of(lazy.graph)
    found = run(_statistics, range(len(tiling)), lazy.source, tiling)
    statistics = VertexStatistics.gathered(tiling, lazy.source.n_samples, found)
    codec = lazy.codec(statistics, missing)
    warn_of_gaps_in_tiles(found, codec.n_vertices)
    warn_of_lost_chunks(lazy.source, statistics.present)
    fingerprints = np.stack([each["fingerprint"] for each in found]).sum(axis=0)
    empty = np.logical_and.reduce([tile["empty"] for tile in found])
    if empty.any():
        warn_of_empty(empty)
        return codec, statistics, fingerprints[~empty], np.flatnonzero(~empty)
    return codec, statistics, fingerprints, None


def _digest(source: Source, found: VertexStatistics, samples: UInt64[np.ndarray, " sample"]) -> str:
    """Fingerprint of data: of the moments and extremes of each vertex, and of each sample."""
    state = hashlib.sha256(f"{source.n_samples} {source.shape} {source.names}".encode())
    for array in (found.mean, found.variance, found.low, found.high, samples):
        state.update(np.ascontiguousarray(array).tobytes())
    return state.hexdigest()


def _on_crops(method: NetworkMethod, samples: TiledSamples, found: Fitted, options: FitOptions) -> Fitted:
    """Train on crops, with the field of the tiles beside the network."""
    assert isinstance(samples.tiling, BoxTiling)
    moments = vertex_statistics(samples)
    location = one_location(moments.mean, moments.variance, len(samples))
    side, each = crop_side(samples.graph, fixed(method.radius)), min(_EACH, len(samples))
    crops = crops_of(samples.tiling, len(samples), side, n_crops(side, samples.n_channels) // each, each, options.seed)
    values = ((crop.samples, samples.take(crop.samples).on(crop.box).values) for crop in crops)
    assert isinstance(found.law, GaussianModel)
    fitted = fit_crops(method, values, side, samples.graph, location, found.law.score, options)
    return replace(fitted, seconds=found.seconds | fitted.seconds)


def _tested(near: Samples, fitted: Fitted, seed: int) -> str:
    """Say whether a network could learn more than the field, by the patches."""
    assert isinstance(fitted.radius, int)
    tested = check_gaussianity(near, fitted.radius, fitted.pooling, seed)
    remedy = "" if tested.found is None else f" No network was trained: {_NETWORKS}"
    return f"On patches: {tested.describe()}{remedy}"


def _locality(method: Method) -> tuple[Any, Any]:
    """Radius and pooling of the field of a method that is fitted in tiles."""
    if isinstance(method, Gaussian | Auto):
        return fixed(method.radius), fixed(method.pooling)
    if isinstance(method, Hybrid) and method.scales == 1 and not method.noise_map:
        if isinstance(method.pooling, Pooling) and method.pooling.one_law:
            return None, method.pooling
        raise ValueError(f"pooling must be 1 for networks of data that are read in parts, got {method.pooling!r}")
    raise ValueError(
        "method must be 'gaussian', 'hybrid' or 'auto' for data that are read in parts, got "
        f"{type(method).__name__}; {_NETWORKS} on a lattice; or {_WHOLE}"
    )


def _require_field(method: Method, tiling: Tiling) -> None:
    """Refuse to train on crops with missing values, and missing values off lattices."""
    if not isinstance(tiling, BoxTiling):
        raise ValueError(
            "data on graphs off lattices that are read in parts must be complete, got values missing in some samples; "
            f"fill them, leave out those samples or vertices, or {_WHOLE}"
        )
    if isinstance(method, NetworkMethod) and not isinstance(method, Auto):
        raise ValueError(
            "method must be 'gaussian' or 'auto' for data that are read in parts and have values missing in some "
            "samples: networks are trained on complete crops of them; or fill the values, for example by impute of "
            "a model of the field"
        )


def _require_marginal(choice: Any) -> None:
    """Refuse transforms that are fitted to all values of a vertex."""
    names = choice.values() if isinstance(choice, Mapping) else [choice]
    for name in names:
        if name not in _MARGINALS:
            raise ValueError(
                f"marginal must be one of {', '.join(_MARGINALS)} for data that are read in parts, got {name!r}; or "
                f"{_WHOLE}"
            )
