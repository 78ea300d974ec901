"""What a fitted estimator says of fields that were observed in part."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from nearfield._filling import Completion, filled, filled_in_store
from nearfield._parameters import at_least_one
from nearfield.conditioned import ConditionedModel
from nearfield.data.fields import Fields
from nearfield.data.table import as_frame, is_table
from nearfield.noise import seed_of
from nearfield.observation import Observation
from nearfield.progress import sample_bar

if TYPE_CHECKING:
    import numpy as np

    from nearfield.data.validation import Data
    from nearfield.model import Model

__all__ = ["Conditioning"]


class Conditioning:
    """The methods `condition` and `impute` of an estimator."""

    device: str
    digest_: str
    n_jobs: int | None
    verbose: bool

    if TYPE_CHECKING:

        def _fitted(self) -> Model: ...
        def _same_columns(self, X: Any) -> None: ...
        def _provenance(self, seed: int) -> dict[str, Any]: ...

    def condition(self, *observations: Observation, method: Literal["auto", "gaussian"] = "auto") -> ConditionedModel:
        """Return the law of a field given observations of it.

        The draws have the law of `sample`: exact for the Gaussian field, by the decoupled sampler for networks and
        where an observation is no linear function of the standardised values (bounds, functions, averages of
        transformed data). Networks trained with noise maps take one pass given points alone.

        Parameters
        ----------
        *observations : Observation
            At least one, of the same field; their errors are independent.
        method : {"auto", "gaussian"}
            ``"gaussian"`` takes the Gaussian field kept beside a network.

        Returns
        -------
        ConditionedModel
            With `sample`, `mean`, `std`, `quantile` and `log_prob`, in the units of the data.

        Raises
        ------
        TypeError, ValueError
            If an observation is of another layout, unit or name than the training data, outside the domain, or
            contradicts another, or the method keeps no Gaussian field.

        Examples
        --------
        >>> import numpy as np
        >>> from nearfield import LocalizedDiffusion, Observation
        >>> x = np.random.default_rng(0).normal(size=(60, 30)).cumsum(axis=1)[:, 10:]
        >>> model = LocalizedDiffusion(method="gaussian", random_state=0).fit(x)
        >>> posterior = model.condition(Observation([1.0, 2.0], at=[3, 15], error=0.1))
        >>> posterior.sample(5, random_state=0).shape, posterior.std().shape
        ((5, 20), (20,))
        """
        model = self._fitted()
        for each in observations:
            self._same_columns(getattr(each, "values", None) if getattr(each, "at", None) is None else None)
        return model.condition(observations, gaussian=_gaussian(method)).of(self._provenance, self.device)

    def impute(
        self,
        X: Data,
        n_samples: int = 1,
        random_state: int | np.random.Generator | None = None,
        *,
        method: Literal["auto", "gaussian"] = "auto",
        interval: Sequence[float] | None = None,
        store: str | os.PathLike[str] | None = None,
    ) -> Any:
        """Complete partial fields by draws of the missing values given the observed ones, from the law of `sample`.

        Draws of the Gaussian field are exact; with ``method="gaussian"`` of the fit their conditional variances are
        ``band_`` times those of the field. Those of networks are by the decoupled sampler, or
        by one pass if they were trained with noise maps.

        Parameters
        ----------
        X : DataArray, Dataset or ndarray
            Fields with NaN at missing values; a single field may lack the sample dimension. Lazily stored data are read
            a few fields at a time.
        n_samples : int
            Draws for each field.
        random_state : int, Generator or None
            Fixes the draws of each field together with its place in X; they are independent of those of `sample`.
        method : {"auto", "gaussian"}
            ``"gaussian"`` takes the Gaussian field kept beside a network.
        interval : sequence of float, optional
            Return these quantiles at each vertex, such as (0.05, 0.95), in place of draws: in closed form, or of
            ``n_samples`` draws, at least 400.
        store : path, optional
            New zarr store that the completed fields are written to, a few at a time and on all workers there are, for
            results that are too large to return. If it was begun for the same model, data and seed, it goes on. Needs
            the extra ``dask``.

        Returns
        -------
        DataArray, Dataset, ndarray or DataFrame
            Shape (member, ...), or (quantile, ...), over the dimensions of X, or data frames one below the other;
            observed values unchanged. Of a store its labelled content, with the values unread.

        Raises
        ------
        ValueError
            If the layout differs from the training data's, or the method keeps no Gaussian field.
        """
        model = self._fitted()
        at_least_one("n_samples", n_samples)
        self._same_columns(X)
        seed, levels = seed_of(random_state), None if interval is None else tuple(interval)
        completion = Completion(n_samples, seed, _gaussian(method), levels, self.device)
        attrs, fields = self._provenance(seed), Fields(X, model.codec)
        if store is not None:
            with sample_bar(verbose=self.verbose) as shown:
                kept: dict[str, Any] = {"attrs": attrs, "workers": self.n_jobs, "progress": shown}
                return filled_in_store(model, fields, completion, store, digest=self.digest_, **kept)
        values = filled(model, fields, completion)
        completed = model.codec.decode(values, lead=tuple(completion.lead), like=X, attrs=attrs)
        return as_frame(completed, X.columns, X.index, attrs) if is_table(X) else completed


def _gaussian(method: str) -> bool:
    """Whether the Gaussian field is asked for."""
    if method not in ("auto", "gaussian"):
        raise ValueError(f"method must be 'auto' or 'gaussian', got {method!r}")
    return method == "gaussian"
