"""What a fit has learned, apart from the estimator that was asked for it: it is kept in files, drawn from, extended."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from scipy.sparse.linalg import svds

from nearfield._checks import whole_number
from nearfield._plain import plain
from nearfield.data import store
from nearfield.data.codec import Codec
from nearfield.evaluation.comparison import Comparison
from nearfield.evaluation.training import TrainingMoments
from nearfield.fitting.covariance import Pooling
from nearfield.fitting.extension import extend
from nearfield.fitting.fit_report import FitReport
from nearfield.paper.score import PaperScore
from nearfield.sampling.sampler import Sampler
from nearfield.score.base import Score, part_of
from nearfield.score.ensemble import EnsembleScore
from nearfield.score.field import GaussianField
from nearfield.score.gaussian import MaskedGaussianScore, WindowedGaussianScore
from nearfield.score.hybrid import HybridScore, NetworkScore
from nearfield.score.predictive import PredictiveField
from nearfield.score.switch import SwitchedScore
from nearfield.transform.marginal import Marginal

if TYPE_CHECKING:
    from jaxtyping import Float, UInt64

__all__ = ["Model", "content_digest", "largest_eigenvalue"]

_KINDS = (
    GaussianField,
    WindowedGaussianScore,
    MaskedGaussianScore,
    NetworkScore,
    HybridScore,
    EnsembleScore,
    SwitchedScore,
    PaperScore,
)
_SCORES: dict[str, type[Score]] = {kind.__name__: kind for kind in _KINDS}


@final
@dataclass(frozen=True)
class Model:
    """Everything that a fit has learned.

    Parameters
    ----------
    codec : Codec
        Layout of the data, with the graph.
    marginal : Marginal
        From the data to standardised values, and back.
    score : Score
        Of standardised values.
    radius : int or tuple of (float, int)
        The radius in use, or the table of OU times and radii.
    pooling : Pooling
        Strength and bandwidth in use.
    n_features_in : int
        Numbers in a sample, as scikit-learn counts them.
    feature_names_in : tuple of str
        Columns of a data frame; empty where there are none.
    largest_eigenvalue : float
        Of the covariance of the standardised data.
    training_samples : ndarray of uint64, shape (sample,)
        `nearfield.data.duplicate.fingerprints` of the data.
    fit_report : FitReport
        What was chosen and why, times and warnings.
    training_moments : TrainingMoments or None
        What reports on other data show of the training data; None for a law on a larger lattice, and in model files
        from before they were kept.
    predictive : PredictiveField or None
        What log-densities of a Gaussian field are those of, where held-out score prefers it to the field itself.
    band : float
        What the conditional variances of a Gaussian field are multiplied by in `complete`.
    """

    codec: Codec
    marginal: Marginal
    score: Score
    radius: int | tuple[tuple[float, int], ...]
    pooling: Pooling
    n_features_in: int
    feature_names_in: tuple[str, ...]
    largest_eigenvalue: float
    training_samples: UInt64[np.ndarray, " sample"]
    fit_report: FitReport
    training_moments: TrainingMoments | None = None
    predictive: PredictiveField | None = None
    band: float = 1.0

    def content(self, parameters: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return what a model file holds; `parameters` are those of the estimator, plain."""
        states = {"codec": self.codec.state(), "marginal": self.marginal.state(), "score": self.score.state()}
        if self.training_moments is not None:
            states["training_moments"] = self.training_moments.state()
        if self.predictive is not None:
            states["predictive"] = self.predictive.state()
        metadata = {
            "parameters": dict(parameters),
            "fitted": {
                "radius": self.radius,
                "pooling": asdict(self.pooling),
                "n_features_in": self.n_features_in,
                "feature_names_in": list(self.feature_names_in),
                "largest_eigenvalue": self.largest_eigenvalue,
                "band": self.band,
                "fit_report": asdict(self.fit_report),
            },
            "summary": self.summary(),
            "score_class": type(self.score).__name__,
            **{name: config for name, (config, _) in states.items()},
        }
        arrays = {f"{name}.{key}": array for name, (_, named) in states.items() for key, array in named.items()}
        return metadata, arrays | {"training_samples": self.training_samples}

    def summary(self) -> dict[str, Any]:
        """Describe the fit in plain numbers and words."""
        report, graph, bandwidth = self.fit_report, self.codec.graph, self.pooling.bandwidth
        summary = {
            "graph": repr(graph),
            "vertices": graph.n_vertices,
            "channels": [channel.name for channel in self.codec.channels],
            "samples": report.n_samples,
            "score": type(self.score).__name__,
            "radius": self.radius,
            "pooling": self.pooling.strength,
            "marginal": self.marginal.describe(),
            "bandwidth": bandwidth if math.isfinite(bandwidth) else "all vertices",
            "reason": report.reason,
            "seed": report.seed,
            "seconds": round(sum(report.seconds.values()), 3),
            "warnings": report.warnings,
        }
        if report.selection is not None and isinstance(self.score, GaussianField):  # the loss of a Gaussian field
            summary["held_out_nats_per_dimension"] = report.selection.choice.loss
        return plain(summary)

    @classmethod
    def from_content(cls, metadata: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Model:
        """Rebuild from `content`, as `nearfield.data.store.read` returns it."""
        fitted = metadata["fitted"]
        radius = fitted["radius"]
        return cls(
            Codec.from_state(metadata["codec"], part_of(arrays, "codec")),
            Marginal.from_state(metadata["marginal"], part_of(arrays, "marginal")),
            _SCORES[metadata["score_class"]].from_state(metadata["score"], part_of(arrays, "score")),
            radius if isinstance(radius, int) else tuple((t, r) for t, r in radius),
            Pooling.from_plain(fitted["pooling"]),
            fitted["n_features_in"],
            tuple(fitted["feature_names_in"]),
            fitted["largest_eigenvalue"],
            arrays["training_samples"],
            FitReport.from_plain(fitted["fit_report"]),
            TrainingMoments.from_state(metadata["training_moments"], part_of(arrays, "training_moments"))
            if "training_moments" in metadata
            else None,
            PredictiveField.from_state(metadata["predictive"], part_of(arrays, "predictive"))
            if "predictive" in metadata
            else None,
            fitted.get("band", 1.0),
        )

    def draw(
        self,
        n_samples: int,
        seed: int,
        sampler: Sampler,
        *,
        device: torch.device,
        progress: Callable[[int, int], None] | None = None,
    ) -> Float[np.ndarray, "member vertex channel"]:
        """Draw standardised members with a sampler; arguments as in `Sampler.sample`."""
        drawn = sampler.sample(
            self.score,
            n_samples,
            seed=seed,
            dtype=torch.float64,
            device=device,
            progress=progress,
        )
        return drawn.cpu().numpy()

    def complete(
        self, field: GaussianField, x: Float[np.ndarray, "sample vertex channel"], n_samples: int, seed: int
    ) -> Float[np.ndarray, "member sample vertex channel"]:
        """Draw what is NaN in data given what is not, in the units of the data, by the conditional laws of a field."""
        observed = ~np.isnan(x)
        z = np.where(observed, self.marginal.transform(x), 0.0)
        filled = np.empty((n_samples, *x.shape))
        patterns, group = np.unique(observed, axis=0, return_inverse=True)
        for k, pattern in enumerate(patterns):
            law = field.conditional(pattern)
            for i in np.flatnonzero(group.reshape(-1) == k):
                drawn, mean = law.sample(z[i], n_samples, seed=seed, step=int(i)), law.mean(z[i][None])
                drawn = self.marginal.inverse(mean + math.sqrt(self.band) * (drawn - mean))
                filled[:, i] = np.where(pattern, x[i], drawn)
        return filled

    def comparison(
        self,
        x: Float[np.ndarray, "sample vertex channel"],
        z: Float[np.ndarray, "member vertex channel"],
        *,
        seen: bool,
        provenance: Mapping[str, Any],
    ) -> Comparison:
        """Compare data, in their units, of which the fit has `seen` some or none, with standardised draws."""
        generated = self.marginal.inverse(z)
        densities: dict[str, np.ndarray] = {}
        conditioning = None
        if isinstance(self.score, GaussianField):
            name = "data it was fitted to" if seen else "held out"
            pairs = {name: (self.marginal.transform(x), x), "generated": (z, generated)}
            densities = {k: self.score.log_prob(v) + self.marginal.log_det(w) for k, (v, w) in pairs.items()}
            conditioning = int(np.diff(self.score.factor.indptr).max()) - 1
        channels, layout, graph = self.codec.channels, self.codec.layout, self.codec.graph
        flat = graph.lattice is None or len(graph.lattice.shape) != len(layout.dims)
        names = [c.name or ("value" if len(channels) == 1 else f"channel {k}") for k, c in enumerate(channels)]
        return Comparison(
            title=str(channels[0].attrs.get("long_name", channels[0].name or "nearfield model")),
            real=x,
            generated=generated,
            graph=graph,
            channels=tuple(str(c.attrs.get("long_name", name)) for c, name in zip(channels, names, strict=True)),
            units=tuple(str(c.attrs.get("units", "")) for c in channels),
            dims=None if flat else layout.dims,
            ordered=self.codec.has_time_axis,
            fitted_on=seen,
            trained=self.training_moments,
            fit=self.fit_report,
            radius=self.radius if isinstance(self.radius, int) else self.score.radius,
            pooling=self.pooling,
            conditioning_size=conditioning,
            log_density=densities,
            provenance={**self.codec.attrs, **channels[0].attrs, **provenance},
        )

    def provenance(self, seed: int) -> dict[str, Any]:
        """Return attributes for what is drawn from a seed."""
        radius = self.radius if isinstance(self.radius, int) else ", ".join(f"{r} at t={t:.3g}" for t, r in self.radius)
        return {
            "nearfield_seed": str(seed),
            "nearfield_radius": radius,
            "nearfield_marginal": self.marginal.describe(),
        }

    def extended(self, shape: Sequence[int]) -> Model:
        """Return the same law on a larger lattice.

        Raises
        ------
        TypeError, ValueError
            If the law differs from place to place, the graph is no whole lattice, or the shape is smaller or no shape.
        """
        fitted = self.codec.layout.shape
        if isinstance(shape, str | bytes) or not np.iterable(shape) or len(tuple(shape)) != len(fitted):
            raise ValueError(f"shape must have a length for each dimension of {fitted}, got {shape!r}; give a tuple")
        lengths = tuple(whole_number("shape", length, 1, "give vertices along each dimension") for length in shape)
        if any(new < old for new, old in zip(lengths, fitted, strict=True)):
            raise ValueError(f"shape must be at least {fitted} in each dimension, got {lengths}; fit smaller samples")
        center, scale = self.marginal.center, self.marginal.scale
        spread = max(float(np.ptp(part / scale.mean(axis=0), axis=0).max()) for part in (center, scale))
        if not self.pooling.one_law or spread > 1e-9:  # beyond rounding
            raise ValueError(
                f"only one law for all vertices can be extended, got {self.pooling}, means and scales that differ by "
                f"{spread:.2g} deviations; fit with pooling=1, after taking out means that differ"
            )
        if not self.marginal.uniform:
            raise ValueError(
                "only one law for all vertices can be extended, got marginal='quantile' of vertices whose means or "
                "scales differ; take these out before the fit"
            )
        codec = self.codec.extended(lengths)
        n = codec.n_vertices
        return replace(
            self,
            codec=codec,
            score=extend(self.score, self.codec.graph, codec.graph),
            marginal=self.marginal.rescaled(np.repeat(center[:1], n, axis=0), np.repeat(scale[:1], n, axis=0)),
            n_features_in=n * codec.n_channels,
            feature_names_in=(),
            training_moments=None,
            predictive=None,
        )


def content_digest(metadata: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """Fingerprint of the content of a model, without durations."""
    fitted = metadata["fitted"]
    report = {k: v for k, v in fitted["fit_report"].items() if k != "seconds"}
    if report["training"] is not None:
        report["training"] = {k: v for k, v in report["training"].items() if k != "seconds"}
    content = {name: part for name, part in metadata.items() if name != "summary"}
    return store.digest(content | {"fitted": fitted | {"fit_report": report}}, arrays)


def largest_eigenvalue(z: Float[np.ndarray, "sample vertex channel"]) -> float:
    """Largest eigenvalue of the empirical covariance, from the singular values of the data.

    Examples
    --------
    >>> round(largest_eigenvalue(np.ones((4, 5, 1))), 12)
    5.0
    """
    flat = z.reshape(len(z), -1) / math.sqrt(len(z))
    if min(flat.shape) < 3:
        return float(np.linalg.norm(flat, 2) ** 2)
    return float(svds(flat, k=1, v0=np.ones(min(flat.shape)), return_singular_vectors=False)[0] ** 2)
