"""A fitted model: it is stored in files, drawn from and extended."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
from pydantic import TypeAdapter

from nearfield._checks import whole_number
from nearfield._evidence import Known, known_of
from nearfield._plain import part_of, plain
from nearfield.conditioned import ConditionedModel
from nearfield.data import store
from nearfield.data.codec import Codec
from nearfield.data.duplicate import fingerprints, known
from nearfield.data.features import Features
from nearfield.data.tile_store import TileStore, model_file
from nearfield.distribution import Distribution, GaussianModel
from nearfield.evaluation.training import TrainingMoments
from nearfield.fitting.fit_report import FitReport
from nearfield.fitting.pooling import Pooling
from nearfield.graph.tiling import BoxTiling
from nearfield.methods.base import Fitted, Radius
from nearfield.module import as_tensor, describe, rebuild
from nearfield.observation import Observation
from nearfield.samples import Samples
from nearfield.score.leave_one_out import leave_one_out
from nearfield.score.predictive import PredictiveField
from nearfield.score.tiled import TiledScore
from nearfield.score.tiled_factor import TiledFactor
from nearfield.transform.marginal import Marginal

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, UInt64

__all__ = ["Model", "of_another_make"]


@final
@dataclass(frozen=True)
class Model:
    """Everything learned by a fit: the layout of the data, the transform to standardised values, and their law.

    ``radius`` is in hops, or pairs of OU times and hops; ``training_samples`` are
    `nearfield.data.duplicate.fingerprints` of the data, or `fingerprint_sums` of data read in tiles;
    ``training_moments`` is None for these, and for a law on a larger lattice.
    """

    codec: Codec
    marginal: Marginal
    law: Distribution
    radius: Radius
    pooling: Pooling
    features: Features
    fit_report: FitReport
    training_samples: UInt64[np.ndarray, " sample"]
    training_moments: TrainingMoments | None = None

    @classmethod
    def of(
        cls, samples: Samples, codec: Codec, marginal: Marginal, fitted: Fitted, report: FitReport, features: Features
    ) -> Model:
        """Join the results of a fit of samples."""
        seen = fingerprints(samples.values)
        model = cls(codec, marginal, fitted.law, fitted.radius, fitted.pooling, features, report, seen)
        return replace(
            model, training_moments=TrainingMoments.of(model.without_gaps(samples, gaussian=not fitted.law.exact))
        )

    @property
    def predictive(self) -> PredictiveField | None:
        """Density in place of the field's, if there is one."""
        return getattr(self.law, "predictive", None)

    @property
    def tiling(self) -> BoxTiling | None:
        """Tiles of a law that has them, on a lattice."""
        if isinstance(self.law.score, TiledScore):
            return self.law.score.tiling
        tilings = (module.tiling for module in self.law.modules() if isinstance(module, TiledFactor))
        return next((tiling for tiling in tilings if isinstance(tiling, BoxTiling)), None)

    @property
    def band(self) -> float:
        """Factor of conditional variances."""
        return getattr(self.law, "band", 1.0)

    @property
    def n_features_in(self) -> int:
        """Numbers in a sample."""
        return self.features.number

    @property
    def feature_names(self) -> np.ndarray:
        """Columns of the fitted data frame; for other data there is no such attribute."""
        if not self.features.names:
            raise AttributeError("feature_names are those of a data frame")
        return np.array(self.features.names, dtype=object)

    def seen(self, x: Float[np.ndarray, "sample vertex channel"]) -> Bool[np.ndarray, " sample"]:
        """Tell which samples the model was fitted to."""
        return known(x, np.flatnonzero(self.codec.present), self.training_samples)

    def log_prob(self, x: Float[np.ndarray, "sample vertex channel"]) -> Float[np.ndarray, " sample"]:
        """Log-density of data, transform included, nats; missing (NaN) values are left out."""
        z, slope = self.marginal(x), self.marginal.log_abs_det_jacobian(x)
        if not self.marginal.has_masses:
            density: np.ndarray = self.law.log_prob(z) + np.nansum(slope, axis=(-2, -1))
            return density
        below, above = self.marginal.censored(x), self.marginal.censored(x, upper=True)
        hidden = np.isfinite(below) | np.isfinite(above)
        some = hidden.any(axis=(-2, -1))
        log_density: np.ndarray = np.where(hidden | np.isnan(x), 0.0, slope).sum(axis=(-2, -1))
        log_density[~some] += self.law.log_prob(z[~some])
        if some.any():
            log_density[some] += self.law.censored_log_prob(z[some], below[some], above[some])
        return log_density

    def surprise(self, x: Float[np.ndarray, "sample vertex channel"]) -> Float[np.ndarray, "sample vertex channel"]:
        """Less the log-density, in nats, of each value given the others under the Gaussian field; NaN stays NaN."""
        standardised, slope = self.marginal(x), self.marginal.log_abs_det_jacobian(x)
        found: np.ndarray = -leave_one_out(self.law.gaussian.score, standardised) - slope
        return found

    def conditioned(self, known: Known, *, gaussian: bool = False) -> ConditionedModel:
        """Return the law given evidence, of the score that draws or of the Gaussian field."""
        law = self.law.gaussian if gaussian else self.law
        return ConditionedModel(self.codec, self.marginal, law.condition(known.evidence), known, self.features.names)

    def condition(self, observations: Sequence[Observation], *, gaussian: bool = False) -> ConditionedModel:
        """Return the law of a field given observations of it."""
        known = known_of(observations, self.codec, self.marginal, self.fit_report.n_samples)
        return self.conditioned(known, gaussian=gaussian)

    def completions(
        self,
        x: Float[np.ndarray, "sample vertex channel"],
        *,
        gaussian: bool = False,
        numbers: Int[np.ndarray, " sample"] | None = None,
    ) -> Iterator[tuple[Int[np.ndarray, " case"], ConditionedModel]]:
        """Yield groups of data that lack the same entries (NaN): their places, and their law given the others.

        The draws of a sample follow from its number, by default its place.
        """
        patterns = np.isnan(x)
        if self.marginal.has_masses:
            patterns = patterns + 2 * np.isfinite(self.marginal.censored(x))
            patterns += 4 * np.isfinite(self.marginal.censored(x, upper=True))
        _, group = np.unique(patterns, axis=0, return_inverse=True)
        for k in range(int(group.max(initial=-1)) + 1):
            cases = np.flatnonzero(group.reshape(-1) == k)
            told = cases if numbers is None else numbers[cases]
            yield cases, self.conditioned(Known.of_fields(x[cases], self.marginal, told), gaussian=gaussian)

    def without_gaps(self, samples: Samples, *, gaussian: bool = False) -> Samples:
        """Return samples with one draw of what is missing, which depends on the seed of the fit."""
        if not samples.incomplete:
            return samples
        filled = np.array(samples.values)
        for cases, law in self.completions(samples.values, gaussian=gaussian):
            filled[cases] = law.draw(1, self.fit_report.seed)[0]
        return samples.with_values(filled, observed=None)

    def provenance(self, seed: int) -> dict[str, Any]:
        """Return attributes of draws from a seed."""
        radius = self.radius if isinstance(self.radius, int) else ", ".join(f"{r} at t={t:.3g}" for t, r in self.radius)
        return {
            "nearfield_version": version("nearfield"),
            "nearfield_seed": str(seed),
            "nearfield_radius": radius,
            "nearfield_marginal": self.marginal.name,
        }

    def extended(self, shape: Sequence[int]) -> Model:
        """Return the same law on a larger lattice, or refuse shape, law or graph."""
        fitted = self.codec.layout.shape
        if isinstance(shape, str | bytes) or not np.iterable(shape) or len(tuple(shape)) != len(fitted):
            raise ValueError(f"shape must have a length for each dimension of {fitted}, got {shape!r}")
        lengths = tuple(whole_number("shape", length, 1) for length in shape)
        if any(new < old for new, old in zip(lengths, fitted, strict=True)):
            raise ValueError(f"shape must be at least {fitted} in each dimension, got {lengths}")
        center, scale = self.marginal.center.numpy(), self.marginal.scale.numpy()
        spread = max(float(np.ptp(part / scale.mean(axis=0), axis=0).max()) for part in (center, scale))
        if not self.pooling.one_law or spread > 1e-9:  # beyond rounding
            raise ValueError(
                f"an extension needs one law for all vertices, got {self.pooling} and means or scales that differ by "
                f"{spread:.2g} standard deviations; subtract the means and fit with pooling=1"
            )
        if not self.marginal.uniform:
            raise ValueError(
                "an extension needs one law for all vertices, got marginal='quantile' of vertices whose means or "
                "scales differ; subtract the means and divide by the scales before the fit"
            )
        codec = self.codec.extended(lengths)
        n = codec.n_vertices
        return replace(
            self,
            codec=codec,
            law=self.law.extended(self.codec.graph, codec.graph),
            marginal=self.marginal.rescaled(np.repeat(center[:1], n, axis=0), np.repeat(scale[:1], n, axis=0)),
            features=Features(n * codec.n_channels),
            training_moments=None,
        )

    def summary(self) -> dict[str, Any]:
        """Describe the fit in plain numbers and words."""
        report, graph, bandwidth = self.fit_report, self.codec.graph, self.pooling.bandwidth
        summary = {
            "graph": repr(graph),
            "vertices": graph.n_vertices,
            "channels": [channel.name for channel in self.codec.channels],
            "samples": report.n_samples,
            "score": type(self.law.score).__name__,
            "radius": self.radius,
            "pooling": self.pooling.strength,
            "marginal": self.marginal.name,
            "bandwidth": bandwidth if math.isfinite(bandwidth) else "all vertices",
            "reason": report.reason,
            "seed": report.seed,
            "seconds": round(sum(report.seconds.values()), 3),
            "warnings": report.warnings,
        }
        if report.selection is not None and isinstance(self.law, GaussianModel):
            summary["held_out_nats_per_dimension"] = report.selection.choice.loss
        described: dict[str, Any] = plain(summary)
        return described

    def save(self, path: str | os.PathLike[str], parameters: Mapping[str, Any]) -> None:
        """Write one file, or a folder where tiles are stored, with the plain parameters of the estimator."""
        if self.stored is None:
            store.write(path, *self._content(parameters))
        else:
            self.stored.copied(Path(path)).finish(*self._content(parameters))

    @property
    def stored(self) -> TileStore | None:
        """Tiles of the law that are kept in files, if any are."""
        kept = (getattr(module, "stored", None) for module in self.law.modules())
        return next((each for each in kept if each is not None), None)

    def digest(self, parameters: Mapping[str, Any]) -> str:
        """Fingerprint of the content, whatever the times and the number of workers."""
        metadata, arrays = self._content({k: v for k, v in parameters.items() if k != "n_jobs"})
        report = {k: v for k, v in metadata["fit_report"].items() if k != "seconds"}
        if report["training"] is not None:
            report["training"] = {k: v for k, v in report["training"].items() if k != "seconds"}
        content = {name: part for name, part in metadata.items() if name != "summary"}
        return store.digest(content | {"fit_report": report}, arrays)

    def _content(self, parameters: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        codec, named = self.codec.state()
        arrays = {f"codec.{name}": array for name, array in named.items()}
        metadata = {
            "kind": "model",
            "parameters": dict(parameters),
            "summary": self.summary(),
            "radius": self.radius,
            "pooling": asdict(self.pooling),
            "features": asdict(self.features),
            "fit_report": asdict(self.fit_report),
            "codec": codec,
            "training_moments": None,
        }
        for name, module in {"marginal": self.marginal, "law": self.law}.items():
            metadata[name] = describe(module)
            arrays |= {f"{name}.{key}": value.numpy() for key, value in module.state_dict().items()}
        if self.training_moments is not None:
            metadata["training_moments"], named = self.training_moments.state()
            arrays |= {f"training_moments.{name}": array for name, array in named.items()}
        if self.stored is not None:
            metadata["tiles"] = self.stored.digest()
        return metadata, arrays | {"training_samples": self.training_samples}

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> tuple[Model, dict[str, Any]]:
        """Read what `save` wrote: the model, and the parameters of the estimator.

        Raises
        ------
        ValueError
            If the file is no model, of another version, truncated or altered, or the folder an unfinished fit.
        OSError
            If it cannot be read.
        """
        file = model_file(path)
        metadata, arrays = store.read(file)
        if metadata.get("kind") == "training":
            raise ValueError(
                f"{os.fspath(path)} is the checkpoint of a training, not a model; fit(..., checkpoint=...) resumes it"
            )
        stored = _stored(file.parent, metadata["tiles"]) if "tiles" in metadata else None
        try:
            return cls._from_content(metadata, arrays, stored), metadata["parameters"]
        except (KeyError, TypeError, ValueError, RuntimeError) as lacking:
            raise of_another_make(path, lacking) from lacking

    @classmethod
    def _from_content(cls, metadata: dict[str, Any], arrays: dict[str, np.ndarray], stored: TileStore | None) -> Model:
        codec = Codec.from_state(metadata["codec"], part_of(arrays, "codec"))
        moments = metadata["training_moments"]

        def module(name: str) -> Any:
            tensors = {key: as_tensor(array) for key, array in part_of(arrays, name).items()}
            return rebuild(metadata[name], tensors, codec.graph, stored)

        return cls(
            codec,
            module("marginal"),
            module("law"),
            TypeAdapter(Radius).validate_python(metadata["radius"]),
            TypeAdapter(Pooling).validate_python(metadata["pooling"]),
            TypeAdapter(Features).validate_python(metadata["features"]),
            TypeAdapter(FitReport).validate_python(metadata["fit_report"]),
            arrays["training_samples"],
            moments and TrainingMoments.from_state(moments, part_of(arrays, "training_moments")),
        )


def _stored(folder: Path, digest: str) -> TileStore:
    """Return the tiles of a model; refuse others."""
    tiles = TileStore(folder)
    if tiles.digest() != digest:
        raise ValueError(f"tiles of {folder} are missing or of another model; copy the whole folder again")
    return tiles


def of_another_make(path: str | os.PathLike[str], lacking: Exception) -> ValueError:
    """Error that names a file of another version of nearfield."""
    return ValueError(
        f"{os.fspath(path)} is no model of this version of nearfield ({lacking}); install the version that wrote it, "
        "or fit and save the model again"
    )
