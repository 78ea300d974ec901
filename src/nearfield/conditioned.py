"""A model given observations: draws, means, deviations and densities in the units of the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, final

import numpy as np
from scipy.special import ndtri

from nearfield._checks import whole_number
from nearfield._evidence import Known
from nearfield.conditional import Conditional
from nearfield.data.codec import Codec
from nearfield.data.table import as_frame
from nearfield.evaluation.calibration import levels
from nearfield.noise import seed_of
from nearfield.sampling.conditioning import DecoupledSampler
from nearfield.transform.marginal import Marginal

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from nearfield.data.validation import Data

__all__ = ["MEMBERS", "ConditionedModel"]

MEMBERS = 400
"""Draws behind means, deviations and quantiles that have no closed form."""
_MANY = 1024
"""Missing values whose variances cost more than draws."""
_NODES = 64
"""Nodes of the Gauss-Hermite quadrature."""


@final
class ConditionedModel:
    """Law of a field given what was observed of it; made by `LocalizedDiffusion.condition`.

    A Gaussian field given linear observations has closed forms. All other laws are those of draws: of the decoupled
    sampler, or given points alone with a network trained with noise maps, of one pass of the ordinary sampler. Means
    and deviations are those of 400 draws, with errors of a twentieth of a deviation.

    Attributes
    ----------
    exact : bool
        Whether there are closed forms.
    """

    def __init__(
        self,
        codec: Codec,
        marginal: Marginal,
        law: Conditional,
        known: Known,
        columns: Sequence[str] = (),
    ) -> None:
        self._codec, self._marginal, self._law, self._known = codec, marginal, law, known
        self._columns = columns
        self._provenance: Callable[[int], dict[str, Any]] = lambda _: {}
        self._device = "auto"

    def of(self, provenance: Callable[[int], dict[str, Any]], device: str) -> ConditionedModel:
        """Return the same law with attributes for its draws, on a device."""
        law = ConditionedModel(self._codec, self._marginal, self._law, self._known, self._columns)
        law._provenance, law._device = provenance, device
        return law

    @property
    def exact(self) -> bool:
        """Whether mean, deviation and draws have closed forms."""
        return self._law.exact

    def sample(
        self,
        n_samples: int = 1,
        random_state: int | np.random.Generator | None = None,
        *,
        steps: int = 50,
        repeats: int = 3,
        batch_size: int | None = None,
    ) -> Any:
        """Draw fields given the observations; exact values come back to the last bit, bounds hold.

        Parameters
        ----------
        n_samples : int
            Number of members, at least 1.
        random_state : int, Generator or None
            The same number gives the same members, whatever the batch (of networks up to rounding).
        steps, repeats : int
            Noise levels, and visits of each of the lower ones by the decoupled sampler: 1 is three times as fast, and
            up to a fifth off in laws with several states.
        batch_size : int, optional
            Members denoised at once; by default as many as take about 1 GiB.

        Returns
        -------
        DataArray, Dataset, ndarray
            As `LocalizedDiffusion.sample` returns.
        """
        seed = seed_of(random_state)
        sampler = DecoupledSampler(whole_number("steps", steps, 2), whole_number("repeats", repeats, 1))
        drawn = self.draw(whole_number("n_samples", n_samples, 1), seed, sampler=sampler, batch_size=batch_size)
        attrs = self._provenance(seed)
        fields = self._codec.decode(drawn[:, 0], attrs=attrs)
        return as_frame(fields, self._columns, attrs=attrs) if len(self._columns) else fields

    def draw(
        self, n_samples: int, seed: int, *, sampler: DecoupledSampler | None = None, batch_size: int | None = None
    ) -> Float[np.ndarray, "member case vertex channel"]:
        """Draw in the units of the data, without labels."""
        z = self._law.sample(n_samples, seed=seed, sampler=sampler, device=self._device, batch_size=batch_size)
        return self._units(z)

    def batches(
        self, n_samples: int, seed: int
    ) -> Iterator[tuple[slice, int, Float[np.ndarray, "some case vertex channel"]]]:
        """Yield what `draw` returns some at a time: of which cases, from which member on."""
        for cases, first, z in self._law.batches(n_samples, seed=seed, device=self._device):
            known = self._known._replace(exact=self._known.exact[cases])
            yield cases, first, _in_units(z, self._marginal, known)

    def _units(self, z: Float[np.ndarray, "*lead case entry"]) -> Float[np.ndarray, "*lead case vertex channel"]:
        return _in_units(z, self._marginal, self._known)

    def update(self, members: Data, random_state: int | np.random.Generator | None = None) -> Any:
        """Move each of given members, such as a forecast ensemble, to the law given the observations.

        Each is moved by what the observations, with errors drawn anew, say against it (Matheron's rule, the analysis
        step of an ensemble Kalman filter with the covariance of the model). If the members have the law of the model,
        the results have that given the observations; what they have beyond a Gaussian law they keep in part.

        Parameters
        ----------
        members : DataArray, Dataset or ndarray
            Complete fields, laid out as the training data.
        random_state : int, Generator or None
            Of the errors, whose mean over the members is 0.

        Returns
        -------
        DataArray, Dataset or ndarray
            As the members.

        Raises
        ------
        ValueError
            If the law is not Gaussian, or an observation not linear in the standardised values.
        """
        x = self._codec.encode(members).astype(np.float64)
        z = self._marginal(x).reshape(len(x), -1)
        moved = self._units(self._law.move(z, seed=seed_of(random_state))[:, None])[:, 0]
        return self._codec.decode(moved, like=members)

    def mean(self, random_state: int | np.random.Generator | None = 0) -> Any:
        """Return the mean field; of draws (`random_state`) where there is no closed form."""
        return self._labelled(self.summary(seed_of(random_state))[0])

    def std(self, random_state: int | np.random.Generator | None = 0) -> Any:
        """Return standard deviations, 0 at exact values; of draws (`random_state`) where there is no closed form."""
        return self._labelled(self.summary(seed_of(random_state))[1])

    def quantile(self, levels: Sequence[float], random_state: int | np.random.Generator | None = 0) -> Any:
        """Quantiles of the values at each vertex, with the axis ``quantile`` in place of the members."""
        return self._codec.decode(self.quantiles(levels, seed_of(random_state))[:, 0], lead=("quantile",))

    def log_prob(self, X: Data) -> Float[np.ndarray, " sample"]:
        """Log-density, in nats, of complete fields given the observations, over the values that are not known exactly.

        Raises
        ------
        ValueError
            If it has no closed form, or the layout differs from the training data's.
        """
        x = self._codec.encode(X).astype(np.float64)
        flat = x.reshape(len(x), -1)
        z = np.where(self._known.evidence.held, self._known.evidence.values, self._marginal(x).reshape(flat.shape))
        missing = np.isnan(self._known.exact[0])
        volume = self._marginal.log_abs_det_jacobian(x).reshape(flat.shape)[:, missing].sum(axis=1)
        same = (flat == self._known.exact[0])[:, ~missing].all(axis=1)
        return np.where(same, self._law.log_prob(z) + volume, -np.inf)

    def summary(
        self, seed: int
    ) -> tuple[Float[np.ndarray, "case vertex channel"], Float[np.ndarray, "case vertex channel"]]:
        """Means and standard deviations without labels."""
        if not self.exact:
            drawn = self.draw(MEMBERS, seed)
            return drawn.mean(axis=0), drawn.std(axis=0)
        mean, variance = self._law.moments()
        node, weight = np.polynomial.hermite_e.hermegauss(_NODES)
        x = self._units(mean + np.sqrt(variance) * node[:, None, None])
        share = (weight / weight.sum())[:, None, None, None]
        middle = (share * x).sum(axis=0)
        exact = ~np.isnan(self._known.exact).reshape(middle.shape)
        return np.where(exact, x[0], middle), np.where(exact, 0.0, np.sqrt((share * (x - middle) ** 2).sum(axis=0)))

    def quantiles(
        self, levels: Sequence[float], seed: int, n_samples: int = MEMBERS
    ) -> Float[np.ndarray, "quantile case vertex channel"]:
        """Quantiles without labels, of draws where there is no closed form."""
        asked = np.asarray(levels, dtype=np.float64)
        if asked.ndim != 1 or not ((asked > 0) & (asked < 1)).all():
            raise ValueError(f"quantiles must be numbers in (0, 1), got {levels!r}")
        if not self.exact:
            found: np.ndarray = np.quantile(self.draw(n_samples, seed), asked, axis=0)
            return found
        mean, variance = self._law.moments()
        return self._units(mean + np.sqrt(variance) * ndtri(asked)[:, None, None])

    def ensemble(
        self, n_members: int, seed: int, vertices: Int[np.ndarray, " some"]
    ) -> tuple[Float[np.ndarray, "member case some channel"], bool]:
        """Ascending members of the law at some vertices: quantiles in closed form, or draws; and which they are."""
        if not (self.exact and np.isnan(self._known.exact[0]).sum() <= _MANY):
            drawn = np.empty((n_members, len(self._known.exact), len(vertices), self._codec.n_channels))
            for cases, first, batch in self.batches(n_members, seed):
                drawn[first : first + len(batch), cases] = batch[:, :, vertices]
            return np.sort(drawn, axis=0), True
        level = ndtri(levels(n_members, drawn=False)[0])[:, None, None]
        mean, variance = self._law.moments()
        if not self._marginal.uniform:
            return self._units(mean + np.sqrt(variance) * level)[:, :, vertices], False
        some = (vertices[:, None] * self._codec.n_channels + np.arange(self._codec.n_channels)).reshape(-1)
        center, scale = (part.numpy()[vertices] for part in (self._marginal.center, self._marginal.scale))
        known = self._known._replace(
            exact=self._known.exact[:, some], low=self._known.low[some], high=self._known.high[some]
        )
        z = mean[:, some] + np.sqrt(variance[some]) * level
        return _in_units(z, self._marginal.rescaled(center, scale), known), False

    def _labelled(self, values: Float[np.ndarray, "case vertex channel"]) -> Any:
        return self._codec.decode(values[0], lead=())


def _in_units(
    z: Float[np.ndarray, "*lead case entry"], marginal: Marginal, known: Known
) -> Float[np.ndarray, "*lead case vertex channel"]:
    """Turn standardised values into those of the data, with what is known of them."""
    shape = (*z.shape[:-1], *marginal.center.shape)
    x = np.clip(marginal.inv(z.reshape(shape)).reshape(z.shape), known.low, known.high)
    return np.where(np.isnan(known.exact), x, known.exact).reshape(shape)
