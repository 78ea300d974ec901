"""How likely a fitted estimator finds fields, and each of their values."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfield._filling import Surprise, filled, filled_in_store, in_nats
from nearfield.data.fields import Fields
from nearfield.data.table import as_frame, is_table
from nearfield.progress import sample_bar

if TYPE_CHECKING:
    from jaxtyping import Float

    from nearfield.data.validation import Data
    from nearfield.model import Model

__all__ = ["Scoring"]


class Scoring:
    """The methods `score_samples`, `score` and `surprise` of an estimator."""

    digest_: str
    n_jobs: int | None
    verbose: bool

    if TYPE_CHECKING:

        def _fitted(self) -> Model: ...
        def _same_columns(self, X: Any) -> None: ...

    def score_samples(self, X: Data) -> Float[np.ndarray, " sample"]:
        """Log-density in nats of each sample under the law of `sample`, over the vertices with data.

        It is exact for Gaussian fields. With ``method="gaussian"`` it is that of ``predictive_``, which counts the
        uncertainty of the parameters, where the fit has one and the sample is complete. For networks it is the density
        of the probability flow of ``score_``; `nearfield.sampling.likelihood.FlowDensity` gives it with its errors.

        Parameters
        ----------
        X : DataArray, Dataset, ndarray or DataFrame
            Laid out as the training data; lazily stored data are read a few samples at a time. Where a Gaussian field
            draws, values may be NaN: the density is that of the others.

        Raises
        ------
        ValueError
            If the layout differs from the training data's, or a network is to score fields with missing values.

        Warns
        -----
        UserWarning
            If the density of a network is estimated with random signs, or changes by a nat with half the steps.
        """
        model = self._fitted()
        self._same_columns(X)
        fields = Fields(X, model.codec)
        return np.concatenate([model.log_prob(fields.read(span)) for span in fields.spans()])

    def score(self, X: Data, y: object = None) -> float:  # noqa: ARG002
        """Mean log-density of the samples in nats; see `score_samples`."""
        return float(self.score_samples(X).mean())

    def surprise(self, X: Data, *, store: str | os.PathLike[str] | None = None) -> Any:
        """Return how surprising each value is, given all others of its sample, to find bad sensors.

        It is less the logarithm of the density that the Gaussian field gives the value, in nats and for densities in
        the units of the data (the slope of the marginal counts). With networks it is that of the field kept beside
        them. A normal law has a mean surprise of 1/2 + log(2 pi v) / 2, v its variance given the others.

        Parameters
        ----------
        X : DataArray, Dataset, ndarray or DataFrame
            Laid out as the training data; lazily stored data are read a few samples at a time. Values may be NaN, and
            are given then only what is there.
        store : path, optional
            New zarr store to write to, as that of `impute`, for results that are too large to return.

        Returns
        -------
        DataArray, Dataset, ndarray or DataFrame
            As X, in nats; NaN where X is. Of a store its labelled content, with the values unread.

        Raises
        ------
        ValueError
            If the layout differs from the training data's, or the method keeps no Gaussian field.

        Examples
        --------
        >>> from nearfield import LocalizedDiffusion
        >>> x = np.random.default_rng(0).normal(size=(60, 30)).cumsum(axis=1)[:, 10:]
        >>> model = LocalizedDiffusion(method="gaussian", random_state=0).fit(x)
        >>> x[7, 12] += 9.0
        >>> [int(place) for place in np.unravel_index(model.surprise(x).argmax(), x.shape)]
        [7, 12]
        """
        model = self._fitted()
        self._same_columns(X)
        fields, surprise = Fields(X, model.codec), Surprise({})
        if store is not None:
            with sample_bar(verbose=self.verbose) as shown:
                kept: dict[str, Any] = {"digest": self.digest_, "workers": self.n_jobs, "progress": shown}
                return filled_in_store(model, fields, surprise, store, **kept)
        found = model.codec.decode(filled(model, fields, surprise), like=X)
        if is_table(X):
            return as_frame(found[None], X.columns, X.index).set_axis(X.index)
        if hasattr(found, "data_vars"):
            names = [str(channel.name) for channel in model.codec.channels]
            return found.assign({name: in_nats(found[name]) for name in names})
        return in_nats(found) if hasattr(found, "attrs") else found
