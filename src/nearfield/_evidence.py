"""Observations put together: evidence on standardised fields, and what draws have exactly in the units of the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch

from nearfield.observation import Observation, Reading
from nearfield.sampling.sites import Bounds, sites_of
from nearfield.score.evidence import Curves, Evidence
from nearfield.transform.marginal import Marginal

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from nearfield.data.codec import Codec

__all__ = ["Known", "known_of"]

_SAME = 1e-9
"""Relative difference up to which two exact values are the same."""
_BEND = 0.2
"""Change of slope of a marginal over an error, beyond which the error is not taken to first order."""


class Known(NamedTuple):
    """Evidence on standardised fields, and what draws have exactly, in the units of the data; NaN at other entries."""

    evidence: Evidence
    exact: Float[np.ndarray, "case entry"]
    low: Float[np.ndarray, " entry"]
    high: Float[np.ndarray, " entry"]

    @classmethod
    def of_fields(
        cls, x: Float[np.ndarray, "case vertex channel"], marginal: Marginal, numbers: Int[np.ndarray, " case"]
    ) -> Known:
        """Exact values of fields that lack the same entries (NaN)."""
        flat, z = x.reshape(len(x), -1), marginal(x).reshape(len(x), -1)
        known, bounds = ~np.isnan(flat[0]), Bounds(flat.shape[1])
        known &= ~bounds.add_masses(x, marginal)
        evidence = Evidence.of_entries(known, np.where(known, z, 0.0), numbers)
        evidence = evidence.with_sites(sites_of(marginal, x.shape[1:], bounds))
        return cls(evidence, flat, np.full(flat.shape[1], -np.inf), np.full(flat.shape[1], np.inf))


def known_of(observations: Sequence[Observation], codec: Codec, marginal: Marginal, n_training: int) -> Known:
    """Turn observations of one field into evidence, and refuse those that contradict each other."""
    for each in observations:
        if not isinstance(each, Observation):
            raise TypeError(f"observations must be Observation objects, got {type(each).__name__}")
    if not observations:
        raise ValueError("observations must be at least one, got none")
    gathered = _Gathered(codec, marginal)
    for each in observations:
        gathered.add(each.readings(codec, marginal, n_training))
    return gathered.known()


class _Gathered:
    """Readings put together: exact values, bounds, rows and functions of standardised entries."""

    def __init__(self, codec: Codec, marginal: Marginal) -> None:
        self._codec, self._marginal = codec, marginal
        self._shape = (codec.n_vertices, codec.n_channels)
        n = codec.n_vertices * codec.n_channels
        self._straight = np.tile([t.name in ("standardize", "none") for t in marginal.transforms], codec.n_vertices)
        self._exact, self._bounds = np.full(n, np.nan), Bounds(n)
        self._rows: list[tuple[sp.csr_array, np.ndarray, np.ndarray]] = []
        self._curves: list[tuple[Any, np.ndarray, np.ndarray]] = []
        self._errors: list[float] = []

    def add(self, reading: Reading) -> None:
        """Sort the rows of a reading by what they are."""
        rows, value, error, above, below = reading
        if callable(rows):
            if (above | below).any():
                raise ValueError("above and below must hold for values of single vertices, got a function")
            self._curves.append((_after(_by_torch(rows, self._codec), self._marginal, self._shape), value, error))
            return
        single = np.diff(rows.indptr) == 1
        if ((above | below) & ~single).any():
            raise ValueError("above and below must hold for values of single vertices, got averages")
        if (np.diff(rows.indptr) == 0).any():
            raise ValueError("operator must have an entry that is not 0 in each row")
        if error.ndim == 2:
            self._add_rows(rows, value, error)
            return
        first = rows.indices[rows.indptr[:-1]]
        weight = rows.data[rows.indptr[:-1]]
        bound, exact = single & (above | below), single & ~(above | below) & (error == 0)
        for k in np.flatnonzero(bound):
            self._bounds.add(int(first[k]), value[k] / weight[k], above=bool(above[k]) == (weight[k] > 0))
        for k in np.flatnonzero(exact):
            self._add_exact(int(first[k]), value[k] / weight[k])
        noisy = single & ~bound & ~exact
        bent = noisy.copy()
        bent[noisy] = self._bends(first[noisy], (value / weight)[noisy], (error / abs(weight))[noisy])
        for k in np.flatnonzero(bent):
            self._bounds.add_noisy(int(first[k]), value[k] / weight[k], error[k] / abs(weight[k]))
        rest = ~(bound | exact | bent)
        if rest.any():
            self._add_rows(rows[np.flatnonzero(rest)], value[rest], error[rest])

    def _add_exact(self, entry: int, value: float) -> None:
        before = self._exact[entry]
        if abs(before - value) > _SAME * max(abs(before), abs(value)):
            raise ValueError(
                f"observations contradict each other: {before:g} and {value:g}, both exact, at {self._name(entry)}; "
                "give an error"
            )
        if np.isnan(before):
            self._exact[entry] = value

    def _name(self, entry: int) -> str:
        vertex, channel = divmod(entry, self._shape[1])
        where = self._codec.layout.name(int(np.flatnonzero(self._codec.present)[vertex]))
        return where if self._shape[1] == 1 else f"{self._codec.channels[channel].name} at {where}"

    def _bends(self, entry: np.ndarray, value: np.ndarray, error: np.ndarray) -> np.ndarray:
        """Whether errors at entries are too large for the slope of the marginal."""
        slopes = [self._slope(entry, value + side * error) for side in (0.0, -1.0, 1.0)]
        with np.errstate(invalid="ignore"):
            alike = [np.abs(slope / slopes[0] - 1) <= _BEND for slope in slopes]
        bends: np.ndarray = ~self._straight[entry] & ~(alike[1] & alike[2])
        return bends

    def _slope(self, entry: np.ndarray, value: np.ndarray) -> np.ndarray:
        """Slope of the marginal, NaN outside its domain."""
        out = np.full(len(entry), np.nan)
        for k, (e, v) in enumerate(zip(entry, value, strict=True)):
            out[k] = self._at(e, v, self._marginal.log_abs_det_jacobian)
        slope: np.ndarray = np.exp(out)
        return slope

    def _at(self, entry: int, value: float, function: Callable[[np.ndarray], np.ndarray]) -> float:
        x = np.full((1, *self._shape), np.nan)
        x.reshape(-1)[entry] = value
        if not bool(self._marginal.transforms[entry % self._shape[1]].domain.check(torch.tensor(value))):  # type: ignore[union-attr,operator]
            return np.nan
        return float(function(x).reshape(-1)[entry])

    def _add_rows(self, rows: sp.csr_array, value: np.ndarray, error: np.ndarray) -> None:
        """Add sums of values: linear in standardised entries, to first order, or functions of them."""
        sums = np.diff(rows.indptr) > 1
        if not self._straight[rows.indices[np.repeat(sums, np.diff(rows.indptr))]].all():
            self._curves.append((self._bent_sums(rows), value, error))
            return
        scale, center = (part.numpy().reshape(-1) for part in (self._marginal.scale, self._marginal.center))
        value, center, slope = value.copy(), center.copy(), scale.copy()
        for k in np.flatnonzero(~sums):  # to first order at the value
            e = rows.indices[rows.indptr[k]]
            if not self._straight[e]:
                at = value[k] / rows.data[rows.indptr[k]]
                slope[e] = 1 / self._slope(np.array([e]), np.array([at]))[0]
                if np.isnan(slope[e]):
                    raise ValueError(
                        f"values must be in the domain of the marginal, got {at:g} at {self._name(int(e))}"
                    )
                center[e] = at - slope[e] * self._at(int(e), at, self._marginal)
        standard = sp.csr_array(rows @ sp.diags_array(slope))
        self._rows.append(_whitened(standard, value - rows @ center, error))
        norms = np.sqrt(np.asarray((self._rows[-1][0] ** 2).sum(axis=1)))[~self._rows[-1][2]]
        self._errors.extend((1 / norms).tolist())

    def _bent_sums(self, rows: sp.csr_array) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
        dense = rows.toarray()

        def function(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            x = self._marginal.inv(z.reshape(-1, *self._shape))
            slope = np.exp(-self._marginal.log_abs_det_jacobian(x)).reshape(z.shape)
            return x.reshape(z.shape) @ dense.T, dense * slope[:, None]

        return function

    def known(self) -> Known:
        """Check everything against the exact values, and return the evidence."""
        n = len(self._exact)
        x = self._exact.reshape(1, *self._shape)
        known, values = ~np.isnan(self._exact), self._marginal(x).reshape(1, -1)
        low, high = self._bounds.settle(self._exact, self._name)
        known &= ~self._bounds.add_masses(x, self._marginal)
        parts = self._rows or [(sp.csr_array((0, n)), np.zeros(0), np.zeros(0, dtype=bool))]
        rows = sp.csr_array(sp.vstack([part[0] for part in parts]))
        target, exact = (np.concatenate([part[k] for part in parts]) for k in (1, 2))
        values = np.where(known, values, 0.0)
        _refuse_contradiction(rows[np.flatnonzero(exact)], target[exact], known, values[0])
        curves = _joined([self._standard(*each) for each in self._curves])
        if curves is not None:
            slope = curves.function(values)[1][0, ~curves.exact]
            norms = np.sqrt((slope**2).sum(axis=1))
            self._errors.extend((1 / norms[norms > 0]).tolist())
        sites = sites_of(self._marginal, self._shape, self._bounds)
        self._errors.extend(self._bounds.errors(lambda e, v: self._slope(np.array([e]), np.array([v]))[0]))
        evidence = Evidence(
            known, values, rows, target, exact, curves=curves, smallest_error=min(self._errors, default=np.inf)
        ).with_sites(sites)
        return Known(evidence, self._exact[None], low, high)

    def _standard(self, function: Any, value: np.ndarray, error: np.ndarray) -> Curves:
        """Divide a function of standardised entries by its errors."""
        identity = sp.eye_array(len(value), format="csr")
        whiten, target, exact = _whitened(identity, value, error)
        matrix = whiten.toarray()

        def whitened(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            at, slope = function(z)
            return at @ matrix.T, matrix @ slope

        return Curves(whitened, target, exact)


def _after(function: Any, marginal: Marginal, shape: tuple[int, int]) -> Any:
    """Turn a function of data into one of standardised entries."""

    def standard(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = marginal.inv(z.reshape(-1, *shape))
        value, slope = function(x)
        return value, slope * np.exp(-marginal.log_abs_det_jacobian(x)).reshape(len(z), 1, -1)

    return standard


def _joined(curves: list[Curves]) -> Curves | None:
    if not curves:
        return None

    def function(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        each = [curve.function(z) for curve in curves]
        return np.concatenate([value for value, _ in each], axis=1), np.concatenate(
            [slope for _, slope in each], axis=1
        )

    return Curves(function, *(np.concatenate([getattr(c, name) for c in curves]) for name in ("target", "exact")))


def _by_torch(function: Callable[[torch.Tensor], torch.Tensor], codec: Codec) -> Any:
    """Values and Jacobians, by torch, of a function of fields laid out as the data."""
    shape, c = codec.layout.shape, codec.n_channels
    present = torch.from_numpy(np.flatnonzero(codec.present))

    def of_one(x: torch.Tensor) -> torch.Tensor:
        cells = torch.full((codec.layout.n_cells, c), torch.nan, dtype=x.dtype).index_copy(0, present, x.reshape(-1, c))
        value = function(cells.reshape(*shape, c) if c > 1 else cells.reshape(shape))
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"operator must return a torch tensor, got {type(value).__name__}")
        return value.reshape(-1)

    def of_field(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        fields = torch.from_numpy(x.reshape(len(x), -1))
        values = torch.stack([of_one(field) for field in fields])
        slopes = torch.stack([torch.autograd.functional.jacobian(of_one, field) for field in fields])
        return values.numpy(), slopes.numpy()

    return of_field


def _whitened(
    rows: sp.csr_array, value: np.ndarray, error: np.ndarray
) -> tuple[sp.csr_array, Float[np.ndarray, " row"], np.ndarray]:
    """Rows and values over their errors, and which rows have none."""
    if error.ndim == 2:
        whiten = np.linalg.inv(np.linalg.cholesky(error))
        return sp.csr_array(whiten @ rows.toarray()), whiten @ value, np.zeros(len(value), dtype=bool)
    exact = error == 0
    weight = 1 / np.where(exact, 1.0, error)
    return sp.csr_array(sp.diags_array(weight) @ rows), weight * value, exact


def _refuse_contradiction(rows: sp.csr_array, target: np.ndarray, known: np.ndarray, values: np.ndarray) -> None:
    """Refuse exact sums that no field has."""
    if rows.shape[0] == 0:
        return
    dense = rows.toarray()
    left = target - dense @ np.where(known, values, 0.0)
    free = dense[:, ~known]
    away = left - free @ np.linalg.lstsq(free, left, rcond=None)[0] if free.shape[1] else left
    if np.abs(away).max() > 1e-6 * max(1.0, np.abs(target).max()):
        raise ValueError(
            f"observations contradict each other: no field has all exact averages or sums (number "
            f"{int(np.argmax(np.abs(away)))} of those without an error); give an error"
        )
