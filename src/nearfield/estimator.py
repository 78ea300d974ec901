"""The estimator of the library: `LocalizedDiffusion` turns data and parameters into samples, a method and a model."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from nearfield._comparing import compare_fields
from nearfield._conditioning import Conditioning
from nearfield._drawing import draw_to_store
from nearfield._large import fit_large
from nearfield._parameters import check_checkpoint, check_parameters, check_sampling, plain_parameters
from nearfield._parts import ModelParts
from nearfield._scoring import Scoring
from nearfield._warnings import recorded_warnings
from nearfield.data.codec import Codec
from nearfield.data.features import Features
from nearfield.data.fields import Fields
from nearfield.data.lazy import in_memory, is_lazy
from nearfield.data.missing import without_empty
from nearfield.data.suspicion import warn_of_samples
from nearfield.data.table import as_frame
from nearfield.evaluation.report import page_path, write_report
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.recipe import Recipe
from nearfield.fitting.search import Search
from nearfield.graph import DependencyGraph
from nearfield.methods import Method, method_of
from nearfield.methods.base import FitOptions
from nearfield.model import Model
from nearfield.noise import Stream, seed_of
from nearfield.paper.recipe import PaperRecipe
from nearfield.progress import fit_bars, sample_bar, task_bars
from nearfield.sampling.sampler import Sampler
from nearfield.transform.marginal import Marginal, MarginalChoice

if TYPE_CHECKING:
    from jaxtyping import Float

    from nearfield.data.validation import Data

__all__ = ["LocalizedDiffusion"]


class LocalizedDiffusion(Conditioning, Scoring, ModelParts, DensityMixin, BaseEstimator):
    """Generative model of a random field whose components depend strongly on their neighbours only.

    A scikit-learn density estimator for labelled fields (xarray) and arrays. It learns local scores (arXiv 2505.04417),
    chooses the locality by held-out loss, draws new members, completes partial fields and scores given ones.

    Parameters
    ----------
    graph : DependencyGraph, optional
        Direct dependences between components; by default a chain, a grid or latitude-longitude, from the dimensions.
    radius : int or "auto"
        Locality in hops. For the Gaussian field: the hops within which a vertex is conditioned on earlier ones (for
        points in space: on as many of the nearest earlier ones as lie within these hops on average). For the hybrid:
        all that its network reads. ``"auto"`` chooses it by cross-validation; networks then read 4 hops at most, and
        their context may reach further.
    method : str or Method
        A short name in `nearfield.methods.METHODS`, or a `Method` with settings of its own; ``radius``, ``pooling``,
        ``validation_fraction`` and ``recipe`` then stay at their defaults. ``"auto"`` is the Gaussian field, with a
        network at the noise levels where its held-out loss is clearly lower.
    pooling : float in [0, 1], Pooling, or "auto"
        0 fits every vertex alone, 1 one law for all; between, laws are shrunk. A `Pooling` also has a bandwidth.
        ``"auto"`` chooses both by cross-validation. Location and scale of the vertices are pooled likewise.
    marginal : {"standardize", "none", "log", "sqrt", "yeo-johnson", "quantile", "auto"}, or mapping
        ``"standardize"`` fits location and scale; ``"none"`` is for data that have mean 0 and unit scale. The others
        transform first: ``"log"`` positive data, ``"sqrt"`` those near zero, ``"yeo-johnson"`` skewed ones,
        ``"quantile"`` any to a normal law, which keeps bounds and draws zeros as often as data have them. ``"auto"``
        chooses by held-out density and says why in ``fit_report_.reason``. A mapping from variables (channel numbers,
        for arrays) to names chooses for each; the rest are standardised. Rounded data are drawn rounded.
    validation_fraction : float in (0, 1)
        Share held out to stop the training and to choose by, at least five samples or half of them. A ``recipe`` has
        its own share; closed forms cross-validate instead.
    random_state : int, Generator or None
        Seed of the fit.
    n_jobs : int, optional
        Threads over the folds; processes for data that are read in parts, and for draws into a store. An active Dask
        client takes the tasks instead.
    device : str
        Torch device on which networks are trained, and scores other than the Gaussian field sampled; ``"auto"`` is a
        GPU where there is one.
    verbose : bool
        Show progress on stderr: bars in terminals and notebooks, elsewhere a line for each phase.
    recipe : Recipe or PaperRecipe, optional
        Settings of the training (for ``"paper"`` a PaperRecipe); by default about half a minute of it.
    strict : bool
        Refuse a Gaussian field whose draws have other second moments than the data, rather than warn of it.

    Attributes
    ----------
    model_, graph_ : Model, DependencyGraph
        The whole fitted model, and the graph of the vertices that have data.
    radius_ : int or tuple of (float, int)
        Radius in use, or OU times and radii of the windowed score.
    pooling_ : Pooling
        Strength and bandwidth in use.
    score_ : Score
        Fitted score of standardised values.
    marginal_, codec_ : Marginal, Codec
        Transform from the data to standardised values, and layout of the data.
    fit_report_, training_moments_ : FitReport, TrainingMoments or None
        Choices with their reasons, times and warnings; moments of the training data, for reports on other data.
    predictive_, band_ : PredictiveField or None, float
        Law of Student's t conditionals for `score_samples`, where cross-validation prefers it; factor of conditional
        variances in `impute`, 1 unless cross-validation finds another.
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
        method: str | Method = "auto",
        pooling: float | Pooling | Literal["auto"] = "auto",
        marginal: MarginalChoice = "standardize",
        validation_fraction: float = 0.15,
        random_state: int | np.random.Generator | None = None,
        n_jobs: int | None = None,
        device: str = "auto",
        verbose: bool = False,
        recipe: Recipe | PaperRecipe | None = None,
        strict: bool = False,
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
        self.strict = strict

    def fit(
        self,
        X: Data,
        y: object = None,  # noqa: ARG002
        *,
        sample_dim: str | Sequence[str] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        missing: Literal["allow", "error"] = "allow",
    ) -> Self:
        """Learn the law of the samples.

        Parameters
        ----------
        X : DataArray, Dataset, ndarray, Dask array or data frame
            Samples of the field. Arrays: (n_samples, n) is a chain, (n_samples, ny, nx[, nz]) a grid. Vertices that
            are NaN in every sample (land) are left out and come back as NaN. Data that are stored lazily (in Dask's
            arrays, or mapped from a file) are read in parts if they have more than 2^24 numbers.
        sample_dim : str or sequence of str, optional
            Dimensions of labelled data that count samples, by default guessed from customary names; for arrays the name
            of the first axis. Samples along a time, or rows with dates, are held out in blocks, not at random.
        checkpoint : path, optional
            File that keeps the state of a network's training, once a minute; for data that are read in parts a folder
            that keeps each tile, and becomes the model's. A fit of the same data and parameters resumes from it and
            ends with the same model. Needs a ``random_state``.
        missing : {"allow", "error"}
            Whether values may be missing (NaN) in some samples. Gaussian fields and networks are fitted to what is
            observed; other methods need samples without gaps.

        Raises
        ------
        TypeError, ValueError
            If a parameter is invalid, X has infinite values, fill numbers, values outside the domain of the marginal,
            vertices that are constant or have fewer than 5 values, gaps where the method allows none, too few samples
            or an unclear layout, or ``strict`` finds other moments.
        OSError
            If the checkpoint cannot be written or read.
        """
        names = ("radius", "pooling", "recipe", "validation_fraction")
        method = method_of(self.method, **{name: getattr(self, name) for name in names})
        check_parameters(self.get_params(deep=False))
        seed, start = seed_of(self.random_state), time.perf_counter()
        X = in_memory(X)
        if checkpoint is not None:
            check_checkpoint(checkpoint, self.method, method, self.random_state, in_tiles=is_lazy(X))
        if is_lazy(X):
            kept: dict[str, Any] = {"sample_dim": sample_dim, "missing": missing, "folder": checkpoint}
            with task_bars(verbose=self.verbose) as shown:
                self.model_ = fit_large(X, method, self.get_params(deep=False), seed, progress=shown, **kept)
            self.digest_ = self.model_.digest(self._plain_parameters())
            return self
        codec = Codec.fit(X, sample_dim=sample_dim, graph=self.graph, missing=missing)
        features = Features.of(X, codec)
        samples, encoded = codec.samples(X, allow_missing=True), time.perf_counter()
        with recorded_warnings(strict=self.strict) as messages, fit_bars(verbose=self.verbose) as (candidate, step):
            samples = without_empty(samples)
            warn_of_samples(samples, codec)
            marginal = Marginal.of(samples, self.marginal, [channel.name for channel in codec.channels], seed)
            search = Search(seed % 2**32, self.n_jobs, candidate)
            options = FitOptions(search, checkpoint, step, self.device)
            fitted = method.fit(marginal.latent(samples, seed), options).noted(marginal.reason)
        report = fitted.report(len(samples), seed, messages, encoded - start)
        marginal = marginal.rescaled(fitted.center, fitted.scale)
        # in one step at the end, so that a refused fit leaves an earlier one intact
        self.model_ = Model.of(samples, codec, marginal, fitted, report, features)
        self.digest_ = self.model_.digest(self._plain_parameters())
        return self

    def sample(
        self,
        n_samples: int = 1,
        random_state: int | np.random.Generator | None = None,
        *,
        sampler: Sampler | None = None,
        steps: int | None = None,
        batch_size: int | None = None,
        store: str | os.PathLike[str] | None = None,
    ) -> Any:
        """Draw new members.

        Parameters
        ----------
        n_samples : int
            Number of members, at least 1.
        random_state : int, Generator or None
            The same number gives the same members, whatever the batch (of networks up to rounding).
        sampler : Sampler, optional
            By default the Gaussian field is sampled exactly, any other score by the stochastic second-order solver.
        steps : int, optional
            Steps of that solver (50), which then replaces exact sampling too.
        batch_size : int, optional
            Members that the solver denoises at once; by default as many as take about 1 GiB.
        store : path, optional
            New zarr store that the members are written to, each by itself and on all workers there are, for fields that
            are too large to return. If draws of the same model and seed were begun there, they go on. Needs the extra
            ``dask``.

        Returns
        -------
        DataArray, Dataset, ndarray or DataFrame
            As the training data, with the axis ``member`` in place of the samples; of a store its labelled content,
            with the values unread.

        Raises
        ------
        TypeError, ValueError
            If a number is not positive, ``sampler`` is no Sampler or comes with ``steps``, or torch lacks the device.
        MemoryError
            If memory is too small for ``batch_size`` members at once.
        """
        check_is_fitted(self)
        check_sampling(n_samples, sampler, steps, batch_size)
        if steps is not None:
            sampler = self.model_.law.default_sampler(int(steps))
        seed = seed_of(random_state)
        if store is not None:
            kept: dict[str, Any] = {"attrs": self._provenance(seed), "workers": self.n_jobs}
            with sample_bar(verbose=self.verbose) as progress:
                return draw_to_store(
                    self.model_, store, int(n_samples), seed, sampler=sampler, progress=progress, **kept
                )
        # nested, so that each array is free once the next is made
        drawn = self.codec_.decode(
            self.marginal_.inv(self._draw(int(n_samples), seed, sampler=sampler, batch_size=batch_size)),
            attrs=self._provenance(seed),
        )
        columns = getattr(self, "feature_names_in_", None)
        return drawn if columns is None else as_frame(drawn, columns, attrs=self._provenance(seed))

    def _draw(self, n_samples: int, seed: int, **options: Any) -> Float[np.ndarray, "member vertex channel"]:
        """Draw standardised members; options of `Distribution.sample`."""
        with sample_bar(verbose=self.verbose) as progress:
            return self.model_.law.sample(n_samples, seed=seed, device=self.device, progress=progress, **options)

    def extend(self, shape: Sequence[int]) -> LocalizedDiffusion:
        """Return the same law on a larger lattice than that of the training data.

        Locality does not depend on the size of the domain (Remark 2.2 of arXiv 2505.04417). A vertex of the larger
        lattice has the score of a fitted vertex with the same distance to the borders.

        Parameters
        ----------
        shape : sequence of int
            Length of each graph dimension, at least that of the training data.

        Raises
        ------
        TypeError, ValueError
            If the law differs from place to place (``pooling_`` is not 1 over all vertices, or means or scales vary),
            the graph is no whole lattice, the shape is invalid or smaller, an axis that grows is shorter than a window
            (twice the radius plus one), or the method is ``"masked"`` or ``"paper"``.

        Examples
        --------
        >>> x = np.random.default_rng(0).normal(size=(50, 12))
        >>> model = LocalizedDiffusion(method="gaussian", radius=1, pooling=1.0).fit(x)
        >>> model.extend((100,)).sample(3).shape
        (3, 100)
        """
        check_is_fitted(self)
        larger = copy.copy(self)
        larger.model_ = self.model_.extended(shape)
        larger.digest_ = larger.model_.digest(larger._plain_parameters())
        return larger

    def report(self, path: str | os.PathLike[str], X: Data) -> dict[str, Any]:
        """Compare the model with data in an HTML page and, beside it, in JSON; return the numbers.

        Parameters
        ----------
        path : path
            Ending in ``.html``; an existing file is replaced.
        X : DataArray, Dataset or ndarray
            Data to compare with, preferably held out. Missing values are drawn by the model first. Of more than 2^25
            numbers as many samples as have these, but at least 10, spread evenly over the record, are read and
            compared; the page says so.

        Raises
        ------
        ValueError
            If the path does not end in ``.html``, or the layout differs from the training data's.
        OSError
            If the path cannot be written; no partial file remains.

        Warns
        -----
        UserWarning
            If the report looks at some samples only.
        """
        check_is_fitted(self)
        page_path(path)
        self._same_columns(X)
        seed = self.fit_report_.seed
        draw = partial(self._draw, seed=seed, stream=Stream.REPORT)
        return write_report(path, compare_fields(self.model_, Fields(X, self.codec_), draw, self._provenance(seed)))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to a file, or in tiles to a folder (safetensors and JSON, never code); see `load`."""
        check_is_fitted(self)
        self.model_.save(path, self._plain_parameters())

    def _fitted(self) -> Model:
        check_is_fitted(self)
        return self.model_

    def _same_columns(self, X: Data) -> None:
        """Refuse a data frame whose columns differ in name or order."""
        if hasattr(X, "columns"):
            validate_data(self, X, reset=False, skip_check_array=True)

    def _provenance(self, seed: int) -> dict[str, Any]:
        return self.model_.provenance(seed) | {"nearfield_model": self.digest_}

    def _plain_parameters(self) -> dict[str, Any]:
        return plain_parameters(self.get_params(deep=False), self.fit_report_.seed)

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn that values may be missing."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags
