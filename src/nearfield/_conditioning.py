"""What a fitted estimator says of fields that were observed in part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nearfield._parameters import at_least_one
from nearfield.conditioned import MEMBERS, ConditionedModel
from nearfield.data.missing import refuse_observed
from nearfield.data.table import as_frame, is_table
from nearfield.noise import seed_of
from nearfield.observation import Observation

if TYPE_CHECKING:
    from nearfield.data.validation import Data
    from nearfield.model import Model

__all__ = ["Conditioning"]


class Conditioning:
    """The methods `condition` and `impute` of an estimator."""

    device: str

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
    ) -> Any:
        """Complete partial fields by draws of the missing values given the observed ones, from the law of `sample`.

        Draws of the Gaussian field are exact; with ``method="gaussian"`` of the fit their conditional variances are
        ``band_`` times those of the field. Those of networks are by the decoupled sampler, or
        by one pass if they were trained with noise maps.

        Parameters
        ----------
        X : DataArray, Dataset or ndarray
            Fields with NaN at missing values; a single field may lack the sample dimension.
        n_samples : int
            Draws for each field.
        random_state : int, Generator or None
            Fixes the draws of each field together with its place in X; they are independent of those of `sample`.
        method : {"auto", "gaussian"}
            ``"gaussian"`` takes the Gaussian field kept beside a network.
        interval : sequence of float, optional
            Return these quantiles at each vertex, such as (0.05, 0.95), in place of draws: in closed form, or of
            ``n_samples`` draws, at least 400.

        Returns
        -------
        DataArray, Dataset, ndarray or DataFrame
            Shape (member, ...), or (quantile, ...), over the dimensions of X, or data frames one below the other;
            observed values unchanged.

        Raises
        ------
        ValueError
            If the layout differs from the training data's, or the method keeps no Gaussian field.
        """
        model = self._fitted()
        at_least_one("n_samples", n_samples)
        self._same_columns(X)
        seed, gaussian = seed_of(random_state), _gaussian(method)
        x = model.codec.encode(X, allow_missing=True).astype(np.float64)
        refuse_observed(x, model.marginal(x), model.fit_report.n_samples)
        filled = np.empty((n_samples if interval is None else len(interval), *x.shape))
        for cases, law in model.completions(x, gaussian=gaussian):
            law = law.of(self._provenance, self.device)
            if interval is None:
                filled[:, cases] = law.draw(n_samples, seed)
            else:
                filled[:, cases] = law.quantiles(interval, seed, max(n_samples, MEMBERS))
        attrs, lead = self._provenance(seed), "member" if interval is None else "quantile"
        completed = model.codec.decode(filled, lead=(lead,), like=X, attrs=attrs)
        return as_frame(completed, X.columns, X.index, attrs) if is_table(X) else completed


def _gaussian(method: str) -> bool:
    """Whether the Gaussian field is asked for."""
    if method not in ("auto", "gaussian"):
        raise ValueError(f"method must be 'auto' or 'gaussian', got {method!r}")
    return method == "gaussian"
