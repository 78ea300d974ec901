"""What is known of standardised fields: exact entries, sums with errors, values known by a likelihood, functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, final

import numpy as np
import scipy.sparse as sp

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

__all__ = ["Curves", "Evidence", "Sites"]


class Sites(NamedTuple):
    """Entries of which a likelihood of their own is known, between ``low`` and ``high``.

    Where ``noisy``, the log-likelihood is given on nodes evenly spaced from ``low`` to ``high``; elsewhere it is 0.
    """

    entry: Int[np.ndarray, " site"]
    low: Float[np.ndarray, " site"]
    high: Float[np.ndarray, " site"]
    noisy: Bool[np.ndarray, " site"]
    log_likelihood: Float[np.ndarray, "site node"]


class Curves(NamedTuple):
    """Functions of the entries, ``function(x) -> values, Jacobian``, known up to standard normal errors, or exactly."""

    function: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    target: Float[np.ndarray, " row"]
    exact: Bool[np.ndarray, " row"]


@final
@dataclass(frozen=True)
class Evidence:
    """Evidence about some fields (cases), of the same entries of each; entries have channels fastest.

    Parameters
    ----------
    known : ndarray of bool, shape (entry,)
        Entries known exactly.
    values : ndarray, shape (case, entry)
        Their values; others are ignored.
    rows, target, exact : sparse array (row, entry), ndarrays (row,)
        ``rows @ x`` is ``target``, exactly or up to a standard normal error.
    sites : Sites, optional
    curves : Curves, optional
    smallest_error : float
        Of an entry or a function, in standard deviations of the data; infinite if there are none.
    numbers : ndarray of int, shape (case,)
        Tell the cases apart in draws.
    """

    known: Bool[np.ndarray, " entry"]
    values: Float[np.ndarray, "case entry"]
    rows: sp.csr_array
    target: Float[np.ndarray, " row"]
    exact: Bool[np.ndarray, " row"]
    sites: Sites | None = None
    curves: Curves | None = None
    smallest_error: float = np.inf
    numbers: Int[np.ndarray, " case"] | None = None

    @classmethod
    def of_entries(
        cls, known: Bool[np.ndarray, " entry"], values: Float[np.ndarray, "case entry"], numbers: np.ndarray
    ) -> Evidence:
        """Exact values of some entries."""
        rows = sp.csr_array((0, len(known)))
        return cls(known, values, rows, np.zeros(0), np.zeros(0, dtype=bool), numbers=numbers)

    def with_sites(self, sites: Sites | None) -> Evidence:
        """Add entries with a likelihood of their own."""
        return replace(self, sites=sites)

    @property
    def linear(self) -> bool:
        """Whether a Gaussian law given it is Gaussian."""
        return self.sites is None and self.curves is None

    @cached_property
    def held(self) -> Bool[np.ndarray, " entry"]:
        """Entries known exactly, and those with a likelihood of their own."""
        held = self.known.copy()
        if self.sites is not None:
            held[self.sites.entry] = True
        return held

    def points(self) -> tuple[Float[np.ndarray, " entry"], Float[np.ndarray, " entry"]] | None:
        """Precision of what is observed of each entry, and that times the value, exact entries aside.

        None unless each observation is of one entry alone, with a normal error or exact.
        """
        if not self.linear or self.exact.any() or (np.diff(self.rows.indptr) > 1).any():
            return None
        return np.asarray((self.rows**2).sum(axis=0)).reshape(-1), self.rows.T @ self.target

    def around(
        self, center: Float[np.ndarray, "sample entry"], held: Float[np.ndarray, "#sample entry"]
    ) -> Float[np.ndarray, "sample entry"]:
        """Put the held values into centers."""
        return np.where(self.held, held, center)

    @property
    def cases(self) -> Int[np.ndarray, " case"]:
        """Numbers of the cases."""
        return np.arange(len(self.values)) if self.numbers is None else self.numbers

    def of_case(self, case: int) -> Evidence:
        """Return the evidence about one field."""
        return replace(self, values=self.values[case : case + 1], numbers=self.cases[case : case + 1])
