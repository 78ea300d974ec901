"""The border of the library: `LocalizedDiffusion` turns what the user has into graph, score and samples, and back."""

from __future__ import annotations

import copy
import os
import time
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import xarray as xr
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils.validation import check_is_fitted, validate_data
from tqdm.auto import tqdm

from nearfield.data import store
from nearfield.data.circular import warn_of_circles
from nearfield.data.codec import Codec
from nearfield.data.duplicate import fingerprints, warn_of_duplicates
from nearfield.data.missing import refuse_observed, warn_of_gaps
from nearfield.data.table import as_frame, is_table
from nearfield.data.validation import warn_of_likeness
from nearfield.evaluation.report import page_path, write_report
from nearfield.evaluation.training import TrainingMoments, block_length
from nearfield.fitting.covariance import Pooling
from nearfield.fitting.fit_report import FitReport
from nearfield.fitting.fitted import Plan
from nearfield.fitting.method import Method, fit_score
from nearfield.fitting.moments import MomentWarning
from nearfield.fitting.recipe import Recipe
from nearfield.fitting.selection import SelectionReport, select_field
from nearfield.graph import DependencyGraph
from nearfield.model import Model, content_digest, largest_eigenvalue
from nearfield.noise import Stream, seed_of
from nearfield.paper.recipe import PaperRecipe
from nearfield.parameter import (
    asked_pooling,
    at_least_one,
    check_checkpoint,
    check_parameters,
    parameters_from_plain,
    plain_parameters,
    usable_device,
)
from nearfield.progress import fit_bars
from nearfield.sampling.sampler import Sampler, default_sampler
from nearfield.score.base import Score
from nearfield.score.field import GaussianField
from nearfield.score.switch import SwitchedScore
from nearfield.transform.marginal import Marginal, MarginalChoice

if TYPE_CHECKING:
    from jaxtyping import Float

    from nearfield.data.validation import Data


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
        hybrid all that it reads, on lattices half by the network and half by the Gaussian it is shown. ``"auto"``
        chooses it by cross-validation; networks then read 4 hops at most, and what they are shown may reach further.
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
        are standardised. See `nearfield.transform.value`. Held-out losses of the locality are of bent values: compare
        localities by them, and marginals by `score` of other data.
    validation_fraction : float in (0, 1)
        Held out to stop the training and to choose by, at least five samples or half of them; a ``recipe`` has a share
        of its own, and closed forms cross-validate instead.
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
    strict : bool
        Refuse a Gaussian field whose draws have other second moments than the data; by default that is a warning.

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
    training_moments_ : TrainingMoments or None
        Moments of the training data, which `report` shows beside those of other data.
    predictive_ : PredictiveField or None
        Law of Student's t conditionals that `score_samples` and `score` use where cross-validation prefers it.
    band_ : float
        What `impute` multiplies the field's conditional variances by, 1 where cross-validation sees no need.
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
        parameters = self.get_params(deep=False)
        check_parameters(parameters)
        if checkpoint is not None:
            check_checkpoint(checkpoint, parameters)
        seed = seed_of(self.random_state)
        start = time.perf_counter()
        codec = Codec.fit(X, sample_dim=sample_dim, graph=self.graph)
        features = _features(X, codec)
        x = codec.encode(X).astype(np.float64)[codec.order(X)]  # blocks are held out of time, not of storage
        encoded = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught, fit_bars(verbose=self.verbose) as (candidates, steps):
            warnings.simplefilter("always")
            warn_of_gaps(x)
            warn_of_duplicates(x)
            warn_of_circles(x, [c.name for c in codec.channels], [c.attrs for c in codec.channels])
            if not codec.has_time_axis:
                warn_of_likeness(x, codec.container, codec.sample_dims)
            marginal = Marginal.fit(x, self.marginal, [channel.name for channel in codec.channels])
            fitted = fit_score(
                marginal.warp(x),
                codec.graph,
                self.method,
                radius=None if self.radius == "auto" else int(self.radius),
                pooling=asked_pooling(self.pooling),
                standardize=marginal.standardized,
                contiguous=codec.has_time_axis,
                seed=seed % 2**32,
                n_jobs=self.n_jobs,
                progress=candidates,
                plan=Plan(self.recipe, self.validation_fraction, checkpoint, steps),
            )
        for warning in caught:
            if self.strict and issubclass(warning.category, MomentWarning):
                raise ValueError(f"with strict=True the draws have to be like the data, but {warning.message}")
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        marginal = marginal.rescaled(fitted.center, fitted.scale)
        report = FitReport(
            selection=fitted.selection,
            seconds={"encode": encoded - start, **fitted.seconds},
            n_samples=len(x),
            warnings=tuple(str(w.message) for w in caught if issubclass(w.category, UserWarning | RuntimeWarning)),
            reason=fitted.reason,
            seed=seed,
            training=fitted.training,
            levels=fitted.levels,
        )
        eigenvalue = largest_eigenvalue(marginal.transform(x))
        # In one step at the end: a fit that was refused leaves an earlier one whole.
        kept = TrainingMoments.of(x, codec.graph, block=block_length(len(x), codec.has_time_axis))
        learned = codec, marginal, fitted.score, fitted.radius, fitted.pooling
        model = Model(*learned, *features, eigenvalue, fingerprints(x), report, kept, fitted.predictive, fitted.band)
        self._take(model)
        self.digest_ = content_digest(*self._content())
        return self

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
            The same number gives the same members, whatever the batch (of networks to rounding); None draws a fresh
            one.
        sampler : Sampler, optional
            By default the Gaussian field is drawn from exactly, any other score by the stochastic second-order solver.
        steps : int, optional
            Steps of the default solver (50); asks for the solver where the draw would be exact.

        Returns
        -------
        DataArray, Dataset, ndarray or DataFrame
            As the training data, with the axis ``member`` in place of the samples.

        Raises
        ------
        TypeError, ValueError
            If ``n_samples`` or ``steps`` is not positive, ``sampler`` is none, it and ``steps`` are both given, or the
            device is not here.
        """
        check_is_fitted(self)
        at_least_one("n_samples", n_samples)
        if sampler is not None and not isinstance(sampler, Sampler):
            raise TypeError(f"sampler must be a Sampler or None, got {sampler!r}; see nearfield.sampling.sampler")
        if sampler is not None and steps is not None:
            raise ValueError("sampler and steps cannot both be given: the sampler has its own steps; leave one out")
        if steps is not None:
            at_least_one("steps", steps)
        seed = seed_of(random_state)
        z = self._draw(int(n_samples), seed, sampler, steps)
        drawn = self.codec_.decode(self.marginal_.inverse(z), attrs=self._provenance(seed))
        columns = getattr(self, "feature_names_in_", None)
        return drawn if columns is None else as_frame(drawn, columns, attrs=self._provenance(seed))

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
        device = usable_device(self.device)
        sampler = sampler or default_sampler(self.largest_eigenvalue_, steps or 50)
        with tqdm(total=sampler.schedule.steps, desc="sample", disable=not self.verbose) as bar:
            return self._model().draw(
                n_samples, seed, sampler, device=device, progress=lambda step, _: bar.update(step - bar.n)
            )

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
        larger = copy.copy(self)._take(self._model().extended(shape))
        larger.digest_ = content_digest(*larger._content())
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
        law = self.predictive_ or self._field("score_samples")
        x = self.codec_.encode(X).astype(np.float64)
        return law.log_prob(self.marginal_.transform(x)) + self.marginal_.log_det(x)

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
        field = self._field("impute")
        seed = seed_of(random_state)
        x = self.codec_.encode(X, allow_missing=True).astype(np.float64)
        refuse_observed(x, self.marginal_.transform(x), len(self.training_samples_))
        filled = self._model().complete(field, x, n_samples, seed)
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
        x = self.codec_.encode(X).astype(np.float64)[self.codec_.order(X)]
        seen = bool(np.isin(fingerprints(x), self.training_samples_).any())
        z = self._draw(min(max(len(x), 200), 1000), self.fit_report_.seed, stream=Stream.REPORT)
        provenance = self._provenance(self.fit_report_.seed)
        return write_report(path, self._model().comparison(x, z, seen=seen, provenance=provenance))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to one file (safetensors and JSON, never code), whole or not at all; see `load`."""
        check_is_fitted(self)
        store.write(path, *self._content())

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

    def _same_columns(self, X: Data) -> None:
        """Refuse a data frame with other columns, or the same in another order."""
        if hasattr(X, "columns"):
            validate_data(self, X, reset=False, skip_check_array=True)

    def _provenance(self, seed: int) -> dict[str, Any]:
        from nearfield import __version__

        return {
            "nearfield_version": __version__,
            **self._model().provenance(seed),
            "nearfield_model": self.digest_,
        }

    def _model(self) -> Model:
        """Gather what was learned."""
        return Model(
            self.codec_,
            self.marginal_,
            self.score_,
            self.radius_,
            self.pooling_,
            self.n_features_in_,
            tuple(getattr(self, "feature_names_in_", ())),
            self.largest_eigenvalue_,
            self.training_samples_,
            self.fit_report_,
            self.training_moments_,
            self.predictive_,
            self.band_,
        )

    def _take(self, model: Model) -> Self:
        """Have learned what a model holds."""
        self.codec_, self.graph_ = model.codec, model.codec.graph
        self.marginal_, self.score_ = model.marginal, model.score
        self.radius_, self.pooling_ = model.radius, model.pooling
        self.n_features_in_ = model.n_features_in
        if model.feature_names_in:
            self.feature_names_in_ = np.array(model.feature_names_in, dtype=object)
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_
        self.largest_eigenvalue_, self.training_samples_ = model.largest_eigenvalue, model.training_samples
        self.fit_report_, self.training_moments_ = model.fit_report, model.training_moments
        self.predictive_, self.band_ = model.predictive, model.band
        return self

    def _content(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return what a model file holds."""
        return self._model().content(plain_parameters(self.get_params(deep=False), self.fit_report_.seed))


def _features(X: Data, codec: Codec) -> tuple[int, tuple[str, ...]]:
    """Count the numbers in a sample and name the columns of a data frame, as scikit-learn's estimators do."""
    if isinstance(X, xr.DataArray | xr.Dataset) or np.ndim(X) != 2:
        return codec.layout.n_cells * codec.n_channels, ()
    counted = BaseEstimator()
    validate_data(counted, X, skip_check_array=True)
    return counted.n_features_in_, tuple(getattr(counted, "feature_names_in_", ()))


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
        If the file is not a model, of an unknown schema or another make, truncated or altered.
    OSError
        If it cannot be read.
    """
    metadata, arrays = store.read(path)
    if "score_class" not in metadata:
        raise ValueError(
            f"{os.fspath(path)} is the checkpoint of a training, not a model; fit(..., checkpoint=...) goes on from it"
        )
    try:
        learned = Model.from_content(metadata, arrays)
        parameters = parameters_from_plain(metadata["parameters"], learned.codec.graph)
        model = LocalizedDiffusion(**parameters)._take(learned)
    except (KeyError, TypeError) as lacking:
        raise ValueError(
            f"{os.fspath(path)} is no model of this nearfield ({lacking}); install the nearfield that wrote it, or fit "
            "and save the model again"
        ) from lacking
    model.digest_ = content_digest(metadata, arrays)
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
    check_parameters(LocalizedDiffusion(graph=graph, pooling=pooling).get_params(deep=False))
    codec = Codec.fit(X, sample_dim=sample_dim, graph=graph)
    x = codec.encode(X).astype(np.float64)[codec.order(X)]
    warn_of_gaps(x)
    warn_of_duplicates(x)
    if not codec.has_time_axis:
        warn_of_likeness(x, codec.container, codec.sample_dims)
    return select_field(
        x,
        codec.graph,
        pooling=asked_pooling(pooling),
        contiguous=codec.has_time_axis,
        seed=seed_of(random_state) % 2**32,
    )
