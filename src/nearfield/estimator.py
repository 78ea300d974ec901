"""The border of the library: `LocalizedDiffusion` turns what the user has into samples, a method and a model."""

from __future__ import annotations

import copy
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import xarray as xr
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils.validation import check_is_fitted, validate_data
from tqdm.auto import tqdm

from nearfield._parameters import at_least_one, check_checkpoint, check_parameters, plain_parameters
from nearfield.data.codec import Codec
from nearfield.data.missing import refuse_observed
from nearfield.data.suspicion import warn_of_samples
from nearfield.data.table import as_frame, is_table
from nearfield.evaluation.report import page_path, write_report
from nearfield.evaluation.training import TrainingMoments
from nearfield.fitting.fit_report import FitReport
from nearfield.fitting.moments import MomentWarning
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.recipe import Recipe
from nearfield.fitting.search import Search
from nearfield.graph import DependencyGraph
from nearfield.methods import Method, method_of
from nearfield.methods.base import FitOptions, Radius
from nearfield.model import Features, Model
from nearfield.noise import Stream, seed_of
from nearfield.paper.recipe import PaperRecipe
from nearfield.progress import fit_bars
from nearfield.sampling.sampler import Sampler
from nearfield.score.base import Score
from nearfield.score.predictive import PredictiveField
from nearfield.transform.marginal import Marginal, MarginalChoice

if TYPE_CHECKING:
    from jaxtyping import Float

    from nearfield.data.validation import Data

__all__ = ["LocalizedDiffusion"]


def _part(path: str) -> Any:
    """Return a property that is a part of the fitted model."""
    return property(attrgetter(f"model_.{path}"))


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
        Locality in hops; for the Gaussian field, the hops within which a vertex is conditioned on earlier ones (points
        in space: on as many of the nearest earlier ones as there are vertices within these hops on average); for the
        hybrid all that it reads, on lattices half by the network and half by the Gaussian. ``"auto"``
        chooses it by cross-validation; networks then read 4 hops at most, and their context may reach further.
    method : str or Method
        ``"gaussian"``: sparse Cholesky field, exact in everything; ``"windowed"``: minimiser of the local loss (3.8);
        ``"masked"``: the paper's (4.5); ``"neural"``: a network trained by that loss; ``"hybrid"``: a network with the
        windowed Gaussian's denoiser as context; ``"paper"``: networks as the paper trains them. ``"auto"``: the
        Gaussian field, and the hybrid at the noise levels where its held-out loss is lower beyond noise; with fewer
        than 20 samples the field alone. A `Method` of `nearfield.methods` has its own settings; ``radius``,
        ``pooling``, ``validation_fraction`` and ``recipe`` then stay at their defaults.
    pooling : float in [0, 1], Pooling, or "auto"
        0 fits every vertex alone, 1 one law for all, between shrinks; a `Pooling` also names the bandwidth. ``"auto"``
        chooses both by cross-validation. Location and scale of the vertices are pooled alike.
    marginal : {"standardize", "none", "log", "sqrt", "quantile"}, or mapping
        ``"standardize"`` fits location and scale; ``"none"`` does not, the data have mean 0 and unit scale already. The
        others transform the values first: ``"log"`` of positive data, ``"sqrt"`` of data that may be zero,
        ``"quantile"`` to normal ones whatever the law. Generated values then stay positive (for ``"quantile"``, if the
        data are never negative). A mapping from variables (channel numbers, for arrays) to names chooses for each;
        those left out are standardised. See `nearfield.transform.value`. Held-out losses of the locality are of
        transformed values: compare localities by them, and marginals by `score` of other data.
    validation_fraction : float in (0, 1)
        Held out to stop the training and to choose by, at least five samples or half of them; a ``recipe`` has a share
        of its own, and closed forms cross-validate instead.
    random_state : int, Generator or None
        Of the fit: shuffling of folds.
    n_jobs : int, optional
        Threads over the folds.
    device : str
        Torch device on which scores other than the Gaussian field are sampled; ``"auto"`` is a GPU where there is one.
    verbose : bool
        Show progress on stderr.
    recipe : Recipe or PaperRecipe, optional
        How networks are trained: steps, rates and the like; by default about half a minute's training.
        ``"paper"`` takes a PaperRecipe.
    strict : bool
        Refuse a Gaussian field whose draws have other second moments than the data; by default that is a warning.

    Attributes
    ----------
    model_ : Model
        All that was learned. The attributes that follow are parts of it.
    graph_ : DependencyGraph
        Graph of the vertices that have data.
    radius_ : int or tuple of (float, int)
        The radius in use, or the table of OU times and radii of the windowed score.
    pooling_ : Pooling
        Strength and bandwidth in use.
    score_ : Score
        The fitted score, of standardised values.
    marginal_ : Marginal
        Transform from the data to standardised values.
    codec_ : Codec
        Layout of the data.
    fit_report_ : FitReport
        Choices with their reasons, times and warnings.
    training_moments_ : TrainingMoments or None
        Moments of the training data, for reports on other data.
    predictive_ : PredictiveField or None
        Law of Student's t conditionals that `score_samples` and `score` use where cross-validation prefers it.
    band_ : float
        Factor of the field's conditional variances in `impute`, 1 where cross-validation sees no need.
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

    model_: Model

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
            Dimensions of labelled data that count samples; guessed from customary names when None. For arrays, what
            their first axis is to be called. If that is a time, or the rows of a data frame are dated, samples next to
            each other may be alike: they are held out in blocks rather than at random.
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
            If X has missing or infinite values, fill numbers, values that the marginal does not take, constant
            vertices, too few samples or an unclear layout, a parameter is out of range, or ``strict`` finds other
            moments in the draws.
        OSError
            If the checkpoint cannot be written or read.
        """
        method = method_of(
            self.method,
            radius=self.radius,
            pooling=self.pooling,
            recipe=self.recipe,
            validation_fraction=self.validation_fraction,
        )
        check_parameters(self.get_params(deep=False))
        if checkpoint is not None:
            check_checkpoint(checkpoint, self.method, method, self.random_state)
        seed, start = seed_of(self.random_state), time.perf_counter()
        codec = Codec.fit(X, sample_dim=sample_dim, graph=self.graph)
        features = _features(X, codec)
        samples, encoded = codec.samples(X), time.perf_counter()
        with _warnings_kept(strict=self.strict) as told, fit_bars(verbose=self.verbose) as (candidate, step):
            warn_of_samples(samples, codec)
            marginal = Marginal.fit(samples.values, self.marginal, [channel.name for channel in codec.channels])
            search = Search(seed % 2**32, self.n_jobs, candidate)
            transformed = samples.with_values(marginal(samples.values), standard=marginal.standard)
            fitted = method.fit(transformed, FitOptions(search, checkpoint, step))
        report = FitReport(
            selection=fitted.selection,
            seconds={"encode": encoded - start, **fitted.seconds},
            n_samples=len(samples),
            warnings=tuple(told),
            reason=fitted.reason,
            seed=seed,
            training=fitted.training,
            levels=fitted.levels,
        )
        marginal = marginal.rescaled(fitted.center, fitted.scale)
        # In one step at the end: a fit that was refused leaves an earlier one whole.
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
    ) -> Any:
        """Draw new members.

        Parameters
        ----------
        n_samples : int
            Number of members, at least 1.
        random_state : int, Generator or None
            The same number gives the same members, whatever the batch (of networks to rounding); None draws a fresh
            one.
        sampler : Sampler, optional
            By default the Gaussian field is drawn from exactly, any other score by the stochastic second-order solver.
        steps : int, optional
            Steps of the default solver (50); forces the solver even where exact sampling is available.
        batch_size : int, optional
            Members that the solver works on at once; by default as many as take about 1 GiB.

        Returns
        -------
        DataArray, Dataset, ndarray or DataFrame
            As the training data, with the axis ``member`` in place of the samples.

        Raises
        ------
        TypeError, ValueError
            If ``n_samples``, ``steps`` or ``batch_size`` is not positive, ``sampler`` is none, it and ``steps`` are
            both given, or the device is not here.
        MemoryError
            If memory is too small for ``batch_size`` members at once.
        """
        check_is_fitted(self)
        at_least_one("n_samples", n_samples)
        if sampler is not None and not isinstance(sampler, Sampler):
            raise TypeError(f"sampler must be a Sampler or None, got {sampler!r}; see nearfield.sampling.sampler")
        if sampler is not None and steps is not None:
            raise ValueError("sampler and steps cannot both be given: the sampler has its own steps; leave one out")
        if batch_size is not None:
            at_least_one("batch_size", batch_size)
        if steps is not None:
            at_least_one("steps", steps)
            sampler = self.model_.law.default_sampler(int(steps))
        seed = seed_of(random_state)
        # nested, so that each array is free once the next is made
        drawn = self.codec_.decode(
            self.marginal_.inv(self._draw(int(n_samples), seed, sampler=sampler, batch_size=batch_size)),
            attrs=self._provenance(seed),
        )
        columns = getattr(self, "feature_names_in_", None)
        return drawn if columns is None else as_frame(drawn, columns, attrs=self._provenance(seed))

    def _draw(self, n_samples: int, seed: int, **options: Any) -> Float[np.ndarray, "member vertex channel"]:
        """Draw standardised members; options of `Distribution.sample`."""
        with tqdm(desc="sample", disable=not self.verbose) as bar:

            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            return self.model_.law.sample(n_samples, seed=seed, device=self.device, progress=show, **options)

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
        TypeError, ValueError
            If the law differs from place to place (``pooling_`` is not 1 over all vertices, or means or scales vary),
            the graph is no whole lattice, the shape is smaller or no shape, an axis that grows is shorter than a window
            (twice the radius and one: nowhere has the whole of a window been seen), or the method is ``"masked"`` or
            ``"paper"``.

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

    def score_samples(self, X: Data) -> Float[np.ndarray, " sample"]:
        """Log-density of each sample as given: transform included, vertices with data only.

        With ``method="gaussian"`` that of ``predictive_``, which counts the uncertainty of the parameters, where the
        fit has one; `sample` and `impute` draw from ``score_`` all the same.

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
        self._same_columns(X)
        x = self.codec_.encode(X).astype(np.float64)
        return self.model_.log_prob(x)

    def score(self, X: Data, y: object = None) -> float:  # noqa: ARG002
        """Mean log-density of the samples, in nats; see `score_samples`."""
        return float(self.score_samples(X).mean())

    def impute(self, X: Data, n_samples: int = 1, random_state: int | np.random.Generator | None = None) -> Any:
        """Complete partial fields: exact draws of what is missing given what was observed.

        With ``method="gaussian"`` their conditional variances are ``band_`` times those of the field.

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
        DataArray, Dataset, ndarray or DataFrame
            Shape (member, ...) over the dimensions of X, for a data frame the rows of each member below those of the
            one before; observed values are returned unchanged.

        Raises
        ------
        ValueError
            If the layout differs from the training data's, or the method has no exact conditional law.
        """
        check_is_fitted(self)
        at_least_one("n_samples", n_samples)
        self._same_columns(X)
        seed = seed_of(random_state)
        x = self.codec_.encode(X, allow_missing=True).astype(np.float64)
        refuse_observed(x, self.marginal_(x), len(self.model_.training_samples))
        filled = self.model_.complete(x, n_samples, seed)
        completed = self.codec_.decode(filled, like=X, attrs=self._provenance(seed))
        return as_frame(completed, X.columns, X.index, self._provenance(seed)) if is_table(X) else completed

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
        ValueError
            If the path does not end in ``.html``, or the layout differs from the training data's.
        OSError
            If the path cannot be written; nothing is left behind.
        """
        check_is_fitted(self)
        page_path(path)
        self._same_columns(X)
        x, seed = self.codec_.samples(X).values, self.fit_report_.seed
        z = self._draw(min(max(len(x), 200), 1000), seed, stream=Stream.REPORT)
        return write_report(path, self.model_.comparison(x, z, self._provenance(seed)))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to one file (safetensors and JSON, never code), whole or not at all; see `load`."""
        check_is_fitted(self)
        self.model_.save(path, self._plain_parameters())

    def _same_columns(self, X: Data) -> None:
        """Refuse a data frame with other columns, or the same in another order."""
        if hasattr(X, "columns"):
            validate_data(self, X, reset=False, skip_check_array=True)

    def _provenance(self, seed: int) -> dict[str, Any]:
        return self.model_.provenance(seed) | {"nearfield_model": self.digest_}

    def _plain_parameters(self) -> dict[str, Any]:
        return plain_parameters(self.get_params(deep=False), self.fit_report_.seed)

    graph_: DependencyGraph = _part("codec.graph")
    radius_: Radius = _part("radius")
    pooling_: Pooling = _part("pooling")
    score_: Score = _part("law.score")
    marginal_: Marginal = _part("marginal")
    codec_: Codec = _part("codec")
    fit_report_: FitReport = _part("fit_report")
    training_moments_: TrainingMoments | None = _part("training_moments")
    predictive_: PredictiveField | None = _part("predictive")
    band_: float = _part("band")
    n_features_in_: int = _part("n_features_in")
    feature_names_in_: np.ndarray = _part("feature_names")


@contextmanager
def _warnings_kept(*, strict: bool) -> Iterator[list[str]]:
    """Collect the texts of warnings for users, and issue them at the end; ``strict`` refuses wrong moments."""
    told: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield told
    for warning in caught:
        if strict and issubclass(warning.category, MomentWarning):
            raise ValueError(f"with strict=True the draws have to be like the data, but {warning.message}")
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    told += [str(w.message) for w in caught if issubclass(w.category, UserWarning | RuntimeWarning)]


def _features(X: Data, codec: Codec) -> Features:
    """Count the numbers in a sample and name the columns of a data frame, as scikit-learn's estimators do."""
    if isinstance(X, xr.DataArray | xr.Dataset) or np.ndim(X) != 2:
        return Features(codec.layout.n_cells * codec.n_channels)
    counted = BaseEstimator()
    validate_data(counted, X, skip_check_array=True)
    return Features(counted.n_features_in_, tuple(getattr(counted, "feature_names_in_", ())))
