"""The border of the library: `LocalizedDiffusion` turns what the user has into graph, score and samples, and back."""

from __future__ import annotations

import copy
import hashlib
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import numpy as np
import torch
import xarray as xr
from scipy.sparse.linalg import svds
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils.validation import check_is_fitted, validate_data
from tqdm.auto import tqdm

from nearfield.data import store
from nearfield.data.codec import Codec
from nearfield.data.marginal import Marginal, MarginalChoice, check_choice
from nearfield.evaluation.report import write_report
from nearfield.fitting.covariance import Pooling
from nearfield.fitting.extension import extend
from nearfield.fitting.fit_report import FitReport
from nearfield.fitting.matching import NoiseLevels
from nearfield.fitting.method import Method, Plan, fit_score
from nearfield.fitting.paper import PaperRecipe
from nearfield.fitting.selection import SelectionReport, select_field
from nearfield.fitting.training import Recipe
from nearfield.graph import DependencyGraph
from nearfield.noise import Stream, seed_of
from nearfield.process import Schedule
from nearfield.sampling.sampler import Sampler, default_sampler
from nearfield.score.base import Score
from nearfield.score.field import GaussianField
from nearfield.score.gaussian import MaskedGaussianScore, WindowedGaussianScore
from nearfield.score.hybrid import HybridScore, NetworkScore
from nearfield.score.paper import PaperScore
from nearfield.score.switch import SwitchedScore

if TYPE_CHECKING:
    from jaxtyping import Float

    from nearfield.data.admission import Data

_KINDS = (
    GaussianField,
    WindowedGaussianScore,
    MaskedGaussianScore,
    NetworkScore,
    HybridScore,
    SwitchedScore,
    PaperScore,
)
_SCORES: dict[str, type[Score]] = {kind.__name__: kind for kind in _KINDS}


class LocalizedDiffusion(DensityMixin, BaseEstimator):
    """Generative model of a random field whose components depend strongly on their neighbours only.

    A scikit-learn density estimator for labelled fields (xarray) and arrays. It learns local scores (arXiv 2505.04417),
    choosing the locality by held-out loss, and draws new members, completes partial ones and scores given ones.

    Parameters
    ----------
    graph : DependencyGraph, optional
        Which components depend directly on which; by default read off the dimensions of the data: a chain, a grid, or
        latitude-longitude.
    radius : int or "auto"
        Locality in hops; for the Gaussian field, the hops within which a vertex is conditioned on earlier ones.
        ``"auto"`` chooses it by cross-validation.
    method : {"auto", "gaussian", "windowed", "masked", "neural", "hybrid", "paper"}
        ``"gaussian"``: sparse Cholesky field, exact in everything; ``"windowed"``: minimiser of the local loss (3.8);
        ``"masked"``: the paper's (4.5); ``"neural"``: a network trained by that loss; ``"hybrid"``: a network that is
        also shown the windowed Gaussian's denoiser; ``"paper"``: a network as the paper trains it. ``"auto"``: the
        Gaussian field, and the hybrid at the noise levels where its held-out loss is lower beyond noise; with fewer
        than 20 samples the field alone.
    pooling : float in [0, 1], Pooling, or "auto"
        0 fits every vertex alone, 1 one law for all, between shrinks; a `Pooling` also names the bandwidth. ``"auto"``
        chooses both by cross-validation. Location and scale of the vertices are pooled alike.
    marginal : {"standardize", "none", "log", "sqrt", "quantile"}, or mapping
        ``"standardize"`` fits location and scale; ``"none"`` does not, the data have mean 0 and unit scale already. The
        others bend the values first: ``"log"`` of positive data, ``"sqrt"`` of data that may be zero, ``"quantile"`` to
        normal ones whatever the law. What is generated then stays positive (for ``"quantile"``, if the data are never
        negative). A mapping from variables (channel numbers, for arrays) to names chooses for each; those left out
        are standardised. See `nearfield.data.warp`. Held-out losses of the locality are of bent values: compare
        localities by them, and marginals by `score` of other data.
    validation_fraction : float in (0, 1)
        Held out to stop the training and to choose by, at least five samples; closed forms cross-validate instead.
    random_state : int, Generator or None
        Of the fit: shuffling of folds.
    n_jobs : int, optional
        Threads over the folds.
    device : str
        Torch device on which the windowed and masked scores are sampled; ``"auto"`` is the processor.
    verbose : bool
        Show progress on stderr.
    recipe : Recipe or PaperRecipe, optional
        How networks are trained: steps, rates and the like; by default about half a minute's training.
        ``"paper"`` takes a PaperRecipe.

    Attributes
    ----------
    graph_ : DependencyGraph
        Of the vertices that have data.
    radius_ : int or tuple of (float, int)
        The radius in use, or the table of OU times and radii of the windowed score.
    pooling_ : Pooling
        Strength and bandwidth in use.
    score_ : Score
        The fitted score, of standardised values.
    marginal_ : Marginal
        From the data to standardised values, and back.
    codec_ : Codec
        Layout of the data.
    fit_report_ : FitReport
        What was chosen and why, times and warnings.
    digest_ : str
        Fingerprint of the model.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(60, 30)).cumsum(axis=1)[:, 10:]
    >>> model = LocalizedDiffusion(method="gaussian", random_state=0).fit(x)
    >>> model.sample(5, random_state=1).shape, model.score_samples(x).shape
    ((5, 20), (60,))
    """

    def __init__(
        self,
        graph: DependencyGraph | None = None,
        radius: int | Literal["auto"] = "auto",
        method: Method = "auto",
        pooling: float | Pooling | Literal["auto"] = "auto",
        marginal: MarginalChoice = "standardize",
        validation_fraction: float = 0.15,
        random_state: int | np.random.Generator | None = None,
        n_jobs: int | None = None,
        device: str = "auto",
        verbose: bool = False,
        recipe: Recipe | PaperRecipe | None = None,
    ) -> None:
        self.graph = graph
        self.radius = radius
        self.method = method
        self.pooling = pooling
        self.marginal = marginal
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.device = device
        self.verbose = verbose
        self.recipe = recipe

    radius_: int | tuple[tuple[float, int], ...]
    score_: Score

    def fit(
        self,
        X: Data,
        y: object = None,  # noqa: ARG002
        *,
        sample_dim: str | Sequence[str] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Learn the law of the samples.

        Parameters
        ----------
        X : DataArray, Dataset or ndarray
            Samples of the field. ndarray: (n_samples, n) is a chain, (n_samples, ny, nx[, nz]) a grid. Vertices that
            are NaN in every sample (land) are left out and come back as NaN.
        y : None
            Ignored.
        sample_dim : str or sequence of str, optional
            Dimensions of labelled data that count samples; guessed from customary names when None.
        checkpoint : path, optional
            File the training of a network is kept in, once a minute; if it is there, a killed fit of the same data and
            parameters goes on from it and ends as it would have. Needs a ``random_state``.

        Returns
        -------
        LocalizedDiffusion
            Itself.

        Raises
        ------
        TypeError
            If X or a parameter is of a kind that cannot be used.
        ValueError
            If X has missing or infinite values, values that the marginal does not take, constant vertices, too few
            samples or an unclear layout, or a parameter is out of range.
        """
        self._check_parameters()
        if checkpoint is not None and self.method not in ("auto", "neural", "hybrid"):
            raise ValueError(f"checkpoint must be None with method={self.method!r}, which keeps none; leave it out")
        seed = seed_of(self.random_state)
        start = time.perf_counter()
        codec = Codec.fit(X, sample_dim=sample_dim, graph=self.graph)
        x = codec.encode(X).astype(np.float64)
        encoded = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught, self._bars() as (candidates, steps):
            warnings.simplefilter("always")
            marginal = Marginal.fit(x, self.marginal, [channel.name for channel in codec.channels])
            fitted = fit_score(
                marginal.warp(x),
                codec.graph,
                self.method,
                radius=None if self.radius == "auto" else int(self.radius),
                pooling=self._pooling(),
                standardize=marginal.standardized,
                contiguous=codec.has_time_axis,
                seed=seed % 2**32,
                n_jobs=self.n_jobs,
                progress=candidates,
                plan=Plan(self.recipe, self.validation_fraction, checkpoint, steps),
            )
        for warning in caught:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        # From here on nothing fails: a fit that was refused leaves an earlier one whole.
        self.codec_, self.graph_ = codec, codec.graph
        self._count_features(X, reset=True)
        self.marginal_ = marginal.rescaled(fitted.center, fitted.scale)
        self.score_, self.radius_, self.pooling_ = fitted.score, fitted.radius, fitted.pooling
        self.largest_eigenvalue_ = _largest_eigenvalue(self.marginal_.transform(x))
        self.fit_report_ = FitReport(
            selection=fitted.selection,
            seconds={"encode": encoded - start, **fitted.seconds},
            n_samples=len(x),
            warnings=tuple(str(warning.message) for warning in caught),
            reason=fitted.reason,
            seed=seed,
            training=fitted.training,
            levels=fitted.levels,
        )
        self.training_digest_ = _fingerprint(x)
        self.digest_ = _digest(*self._content())
        return self

    @contextmanager
    def _bars(self) -> Iterator[tuple[Callable[[], object], Callable[[int, int, float], object]]]:
        """Progress of choosing and of training; the second bar appears when training starts."""
        choosing = tqdm(desc="choose locality", unit=" candidates", disable=not self.verbose)
        training = tqdm(desc="train", unit=" steps", disable=True)

        def trained(step: int, steps: int, loss: float) -> None:
            nonlocal training
            if training.disable and self.verbose:
                choosing.close()
                training = tqdm(desc="train", unit=" steps", total=steps)
            training.set_postfix({"held-out loss": f"{loss:.4f}"}, refresh=False)
            training.update(step - training.n)

        try:
            yield choosing.update, trained
        finally:
            choosing.close()
            training.close()

    def sample(
        self,
        n_samples: int = 1,
        random_state: int | np.random.Generator | None = None,
        *,
        sampler: Sampler | None = None,
        steps: int | None = None,
    ) -> Any:
        """Draw new members.

        Parameters
        ----------
        n_samples : int
            Number of members, at least 1.
        random_state : int, Generator or None
            The same number gives the same members, whatever the batch; None draws a fresh one.
        sampler : Sampler, optional
            By default the Gaussian field is drawn from exactly, any other score by the stochastic second-order solver.
        steps : int, optional
            Steps of the default solver (50); asks for the solver where the draw would be exact.

        Returns
        -------
        DataArray, Dataset or ndarray
            As the training data, with the axis ``member`` in place of the samples.

        Raises
        ------
        ValueError
            If ``n_samples`` or ``steps`` is not positive, or both ``sampler`` and ``steps`` are given.
        """
        check_is_fitted(self)
        _at_least_one("n_samples", n_samples)
        if sampler is not None and steps is not None:
            raise ValueError("sampler and steps cannot both be given: the sampler has its own steps; leave one out")
        if steps is not None:
            _at_least_one("steps", steps)
        seed = seed_of(random_state)
        z = self._draw(int(n_samples), seed, sampler, steps)
        return self.codec_.decode(self.marginal_.inverse(z), attrs=self._provenance(seed))

    def _draw(
        self,
        n_samples: int,
        seed: int,
        sampler: Sampler | None = None,
        steps: int | None = None,
        stream: Stream = Stream.EXACT,
    ) -> Float[np.ndarray, "member vertex channel"]:
        if isinstance(self.score_, GaussianField) and sampler is None and steps is None:
            return self.score_.sample(n_samples, seed=seed, stream=stream)
        sampler = sampler or default_sampler(self.largest_eigenvalue_, steps or 50)
        with tqdm(total=sampler.schedule.steps, desc="sample", disable=not self.verbose) as bar:
            drawn = sampler.sample(
                self.score_,
                n_samples,
                seed=seed,
                dtype=torch.float64,
                device="cpu" if self.device == "auto" else self.device,
                progress=lambda step, _: bar.update(step - bar.n),
            )
        return drawn.cpu().numpy()

    def extend(self, shape: Sequence[int]) -> LocalizedDiffusion:
        """Return the same law on a larger lattice: fields larger than any that was fitted.

        What is local does not depend on the size of the domain (Remark 2.2 of arXiv 2505.04417). A vertex of the larger
        lattice has the score of a fitted vertex as far from the borders.

        Parameters
        ----------
        shape : sequence of int
            Length of each graph dimension, at least that of the training data.

        Returns
        -------
        LocalizedDiffusion
            A fitted model of its own; it can do what this one can.

        Raises
        ------
        ValueError
            If the law differs from place to place (``pooling_`` is not 1 over all vertices, or means or scales vary),
            the graph is no whole lattice, or the shape is smaller.

        Examples
        --------
        >>> x = np.random.default_rng(0).normal(size=(50, 12))
        >>> model = LocalizedDiffusion(method="gaussian", radius=1, pooling=1.0).fit(x)
        >>> model.extend((100,)).sample(3).shape
        (3, 100)
        """
        check_is_fitted(self)
        lengths = tuple(int(length) for length in shape)
        smaller = len(lengths) != len(self.codec_.layout.shape) or any(
            new < old for new, old in zip(lengths, self.codec_.layout.shape, strict=False)
        )
        if smaller:
            raise ValueError(f"shape must be at least {self.codec_.layout.shape} in each dimension, got {lengths}")
        center, scale = self.marginal_.center, self.marginal_.scale
        spread = max(float(np.ptp(part / scale.mean(axis=0), axis=0).max()) for part in (center, scale))
        if self.pooling_ != Pooling(1.0) or spread > 1e-9:  # beyond rounding
            raise ValueError(
                f"only one law for all vertices can be extended, got {self.pooling_}, means and scales that differ by "
                f"{spread:.2g} deviations; fit with pooling=1, after taking out means that differ"
            )
        if not self.marginal_.uniform:
            raise ValueError(
                "only one law for all vertices can be extended, got marginal='quantile' of vertices whose means or "
                "scales differ; take these out before the fit"
            )
        larger = copy.copy(self)
        larger.codec_ = self.codec_.extended(lengths)
        larger.graph_ = larger.codec_.graph
        larger.score_ = extend(self.score_, self.graph_, larger.graph_)
        n = larger.graph_.n_vertices
        larger.marginal_ = self.marginal_.rescaled(np.repeat(center[:1], n, axis=0), np.repeat(scale[:1], n, axis=0))
        larger.n_features_in_ = n * self.codec_.n_channels
        if hasattr(larger, "feature_names_in_"):
            del larger.feature_names_in_
        larger.digest_ = _digest(*larger._content())
        return larger

    def score_samples(self, X: Data) -> Float[np.ndarray, " sample"]:
        """Log-density of each sample as given: transform included, vertices with data only.

        Parameters
        ----------
        X : DataArray, Dataset or ndarray
            Laid out as the training data.

        Returns
        -------
        ndarray, shape (n_samples,)
            In nats.

        Raises
        ------
        ValueError
            If the layout differs from the training data's, or the method has no density.
        """
        check_is_fitted(self)
        self._count_features(X, reset=False)
        field = self._field("score_samples")
        x = self.codec_.encode(X).astype(np.float64)
        return field.log_prob(self.marginal_.transform(x)) + self.marginal_.log_det(x)

    def score(self, X: Data, y: object = None) -> float:  # noqa: ARG002
        """Mean log-density of the samples, in nats; see `score_samples`."""
        return float(self.score_samples(X).mean())

    def impute(self, X: Data, n_samples: int = 1, random_state: int | np.random.Generator | None = None) -> Any:
        """Complete partial fields: exact draws of what is missing given what was observed.

        Parameters
        ----------
        X : DataArray, Dataset or ndarray
            Fields with NaN where nothing was observed; one field may come without the sample dimension.
        n_samples : int
            Draws for each field.
        random_state : int, Generator or None
            Fixes the draws, for each field together with its place in X; independent of those of `sample`.

        Returns
        -------
        DataArray, Dataset or ndarray
            Shape (member, ...) over the dimensions of X; observed values are returned unchanged.

        Raises
        ------
        ValueError
            If the layout differs from the training data's, or the method has no exact conditional law.
        """
        check_is_fitted(self)
        _at_least_one("n_samples", n_samples)
        field = self._field("impute")
        seed = seed_of(random_state)
        x = self.codec_.encode(X, allow_missing=True).astype(np.float64)
        observed = ~np.isnan(x)
        z = np.where(observed, self.marginal_.transform(x), 0.0)
        filled = np.empty((n_samples, *x.shape))
        patterns, group = np.unique(observed, axis=0, return_inverse=True)
        for k, pattern in enumerate(patterns):
            law = field.conditional(pattern)
            for i in np.flatnonzero(group.reshape(-1) == k):
                drawn = self.marginal_.inverse(law.sample(z[i], n_samples, seed=seed, step=int(i)))
                filled[:, i] = np.where(pattern, x[i], drawn)
        return self.codec_.decode(filled, like=X, attrs=self._provenance(seed))

    def report(self, path: str | os.PathLike[str], X: Data) -> dict[str, Any]:
        """Write an HTML page, and its numbers as JSON beside it, that says whether the model is like the data.

        Parameters
        ----------
        path : path
            Ending in ``.html``; an existing file is replaced.
        X : DataArray, Dataset or ndarray
            Data to compare with: best some that were not fitted.

        Returns
        -------
        dict
            The numbers.

        Raises
        ------
        OSError
            If the path cannot be written; nothing is left behind.
        """
        check_is_fitted(self)
        x = self.codec_.encode(X).astype(np.float64)
        seen = _fingerprint(x) == self.training_digest_
        z = self._draw(min(max(len(x), 200), 1000), self.fit_report_.seed, stream=Stream.REPORT)
        generated = self.marginal_.inverse(z)
        densities: dict[str, np.ndarray] = {}
        conditioning = None
        if isinstance(self.score_, GaussianField):
            given = "data it was fitted to" if seen else "held out"
            pairs = {given: (self.marginal_.transform(x), x), "generated": (z, generated)}
            densities = {k: self.score_.log_prob(v) + self.marginal_.log_det(w) for k, (v, w) in pairs.items()}
            conditioning = int(np.diff(self.score_.factor.indptr).max()) - 1
        channels, layout = self.codec_.channels, self.codec_.layout
        lattice = self.graph_.lattice
        return write_report(
            path,
            title=str(channels[0].attrs.get("long_name", channels[0].name or "nearfield model")),
            real=x,
            generated=generated,
            graph=self.graph_,
            channels=[str(c.attrs.get("long_name", c.name or "value")) for c in channels],
            units=[str(c.attrs.get("units", "")) for c in channels],
            dims=layout.dims if lattice is not None and len(lattice.shape) == len(layout.dims) else None,
            fitted_on=seen,
            ordered=self.codec_.has_time_axis,
            selection=self.fit_report_.selection,
            radius=self.radius_ if isinstance(self.radius_, int) else self.score_.radius,
            conditioning_size=conditioning,
            log_density=densities,
            reason=self.fit_report_.reason,
            levels=self.fit_report_.levels,
            training=self.fit_report_.training,
            seconds=self.fit_report_.seconds,
            warnings=self.fit_report_.warnings,
            provenance={**self.codec_.attrs, **channels[0].attrs, **self._provenance(self.fit_report_.seed)},
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to one file (safetensors and JSON, never code), whole or not at all; see `load`."""
        check_is_fitted(self)
        store.write(path, *self._content())

    def _check_parameters(self) -> None:
        if self.graph is not None and not isinstance(self.graph, DependencyGraph):
            raise TypeError(f"graph must be a DependencyGraph or None, got {type(self.graph).__name__}")
        if self.method not in get_args(Method):
            raise ValueError(f"method must be one of {', '.join(get_args(Method))}, got {self.method!r}; choose one")
        check_choice(self.marginal)
        if self.radius != "auto" and (
            not isinstance(self.radius, Integral) or isinstance(self.radius, bool) or self.radius < 0
        ):
            raise ValueError(f"radius must be a number of hops, 0 or more, or 'auto', got {self.radius!r}")
        if not isinstance(self.pooling, Pooling) and self.pooling != "auto":
            if not isinstance(self.pooling, Real) or isinstance(self.pooling, bool):
                raise TypeError(f"pooling must be a number in [0, 1], a Pooling or 'auto', got {self.pooling!r}")
            if not 0 <= self.pooling <= 1:
                raise ValueError(f"pooling must be in [0, 1], got {self.pooling!r}; 0 fits every vertex alone")
        if self.method == "masked" and self._pooling() not in (None, Pooling(0.0)):
            raise ValueError("pooling must be 0 or 'auto' with method='masked': the paper's score (4.5) does not pool")
        kind = PaperRecipe if self.method == "paper" else Recipe
        if self.recipe is not None and not isinstance(self.recipe, kind):
            raise TypeError(
                f"recipe must be a {kind.__name__} with method={self.method!r}, got {type(self.recipe).__name__}"
            )
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction must be in (0, 1), got {self.validation_fraction!r}; .15 is usual")

    def _pooling(self) -> Pooling | None:
        """Pooling asked for; None to choose it."""
        if isinstance(self.pooling, Pooling):
            return self.pooling
        return None if self.pooling == "auto" else Pooling(float(self.pooling))

    def _field(self, what: str) -> GaussianField:
        """Return the field that answers what a network has no exact answer to."""
        if isinstance(self.score_, SwitchedScore):
            warnings.warn(
                f"{what} is answered by the Gaussian field, which method='auto' keeps beside the network that draws "
                "samples: a network's law has no closed form. Fit with method='gaussian' for one law in everything.",
                stacklevel=3,
            )
            return self.score_.field
        if not isinstance(self.score_, GaussianField):
            raise ValueError(
                f"{what} needs an exact density, which method={self.method!r} lacks; fit with method='gaussian'"
            )
        return self.score_

    def _count_features(self, X: Data, *, reset: bool) -> None:
        """Set or compare ``n_features_in_`` (and the columns of a data frame) as scikit-learn's estimators do."""
        if isinstance(X, xr.DataArray | xr.Dataset) or np.ndim(X) != 2:
            if reset:
                self.n_features_in_ = self.codec_.layout.n_cells * self.codec_.n_channels
            return
        validate_data(self, X, reset=reset, skip_check_array=True)

    def _provenance(self, seed: int) -> dict[str, Any]:
        from nearfield import __version__

        radius = (
            self.radius_ if isinstance(self.radius_, int) else ", ".join(f"{r} at t={t:.3g}" for t, r in self.radius_)
        )
        return {
            "nearfield_version": __version__,
            "nearfield_seed": str(seed),
            "nearfield_radius": radius,
            "nearfield_marginal": self.marginal_.describe(),
            "nearfield_model": self.digest_,
        }

    def _content(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return what a model file holds."""
        states = {"codec": self.codec_.state(), "marginal": self.marginal_.state(), "score": self.score_.state()}
        parameters = self.get_params(deep=False) | {"graph": self.graph is not None, "verbose": False}
        if self.recipe is not None:
            parameters["recipe"] = asdict(self.recipe)
        if isinstance(self.pooling, Pooling):
            parameters["pooling"] = asdict(self.pooling)
        if isinstance(self.marginal, Mapping):  # pairs, since JSON would make words of channel numbers
            parameters["marginal"] = [[k if isinstance(k, str) else int(k), v] for k, v in self.marginal.items()]
        if isinstance(self.random_state, np.random.Generator | np.random.RandomState):
            parameters["random_state"] = self.fit_report_.seed
        metadata = {
            "parameters": {k: v.item() if isinstance(v, np.generic) else v for k, v in parameters.items()},
            "fitted": {
                "radius": self.radius_,
                "pooling": asdict(self.pooling_),
                "n_features_in": self.n_features_in_,
                "feature_names_in": getattr(self, "feature_names_in_", np.array([])).tolist(),
                "largest_eigenvalue": self.largest_eigenvalue_,
                "training_digest": self.training_digest_,
                "fit_report": asdict(self.fit_report_),
            },
            "score_class": type(self.score_).__name__,
            **{name: config for name, (config, _) in states.items()},
        }
        arrays = {f"{name}.{key}": array for name, (_, named) in states.items() for key, array in named.items()}
        return metadata, arrays


def load(path: str | os.PathLike[str]) -> LocalizedDiffusion:
    """Read a model written by `LocalizedDiffusion.save`.

    Parameters
    ----------
    path : path
        The model file. Reading it runs no code from it.

    Returns
    -------
    LocalizedDiffusion
        Fitted; it draws the same members from the same seed as the one saved.

    Raises
    ------
    ValueError
        If the file is not a model, of an unknown schema, truncated or altered.
    OSError
        If it cannot be read.
    """
    metadata, arrays = store.read(path)

    def part(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        prefix = f"{name}."
        return metadata[name], {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}

    fitted, parameters = metadata["fitted"], dict(metadata["parameters"])
    codec = Codec.from_state(*part("codec"))
    parameters["graph"] = codec.graph if parameters["graph"] else None
    if isinstance(parameters["pooling"], dict):
        parameters["pooling"] = Pooling(**parameters["pooling"])
    if parameters["recipe"] is not None:
        plain = parameters["recipe"]
        if parameters["method"] == "paper":
            schedule = Schedule(tuple(plain["schedule"]["times"]))
            parameters["recipe"] = PaperRecipe(**plain | {"widths": tuple(plain["widths"]), "schedule": schedule})
        else:
            parameters["recipe"] = Recipe(**plain | {"levels": NoiseLevels(**plain["levels"])})
    if isinstance(parameters["marginal"], list):
        parameters["marginal"] = dict(parameters["marginal"])
    model = LocalizedDiffusion(**parameters)
    model.codec_, model.graph_ = codec, codec.graph
    model.marginal_ = Marginal.from_state(*part("marginal"))
    model.score_ = _SCORES[metadata["score_class"]].from_state(*part("score"))
    radius = fitted["radius"]
    model.radius_ = radius if isinstance(radius, int) else tuple((t, r) for t, r in radius)
    model.pooling_ = Pooling(**fitted["pooling"])
    model.n_features_in_ = fitted["n_features_in"]
    if fitted["feature_names_in"]:
        model.feature_names_in_ = np.array(fitted["feature_names_in"], dtype=object)
    model.largest_eigenvalue_, model.training_digest_ = fitted["largest_eigenvalue"], fitted["training_digest"]
    model.fit_report_ = FitReport.from_plain(fitted["fit_report"])
    model.digest_ = _digest(metadata, arrays)
    return model


def select_radius(
    X: Data,
    *,
    graph: DependencyGraph | None = None,
    sample_dim: str | Sequence[str] | None = None,
    pooling: float | Pooling | Literal["auto"] = "auto",
    random_state: int | np.random.Generator | None = None,
) -> SelectionReport:
    """Choose the locality of a Gaussian field for data without fitting a model.

    Parameters
    ----------
    X, graph, sample_dim, pooling, random_state
        As in `LocalizedDiffusion`.

    Returns
    -------
    SelectionReport
        Settings tried with their held-out losses, the choice and its reason.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(80, 12))
    >>> select_radius(x, random_state=0).choice.radius
    0
    """
    model = LocalizedDiffusion(graph=graph, pooling=pooling, random_state=random_state)
    model._check_parameters()
    codec = Codec.fit(X, sample_dim=sample_dim, graph=graph)
    return select_field(
        codec.encode(X).astype(np.float64),
        codec.graph,
        pooling=model._pooling(),
        contiguous=codec.has_time_axis,
        seed=seed_of(random_state) % 2**32,
    )


def _at_least_one(name: str, value: int) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number, at least 1, got {value!r}")


def _digest(metadata: dict[str, Any], arrays: dict[str, np.ndarray]) -> str:
    """Fingerprint of the content of a model, the time it took left out."""
    fitted = metadata["fitted"]
    report = {k: v for k, v in fitted["fit_report"].items() if k != "seconds"}
    return store.digest(metadata | {"fitted": fitted | {"fit_report": report}}, arrays)


def _fingerprint(x: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest()


def _largest_eigenvalue(z: Float[np.ndarray, "sample vertex channel"]) -> float:
    """Largest eigenvalue of the empirical covariance, from the singular values of the data."""
    flat = z.reshape(len(z), -1) / math.sqrt(len(z))
    if min(flat.shape) < 3:
        return float(np.linalg.norm(flat, 2) ** 2)
    return float(svds(flat, k=1, v0=np.ones(min(flat.shape)), return_singular_vectors=False)[0] ** 2)
