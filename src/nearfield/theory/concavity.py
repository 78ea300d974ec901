"""How concave a Gaussian's log-density is: the m, M and condition number that the theorems of locality ask for."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import eigsh

from nearfield._checks import whole_number

__all__ = ["concavity", "condition_number", "lattice_precision"]

LARGEST_DENSE = 2000
"""Variables up to which a spectrum is computed whole."""


def concavity(precision: Any) -> tuple[float, float]:
    """Least and largest eigenvalue of a precision: m and M of the theorems for that Gaussian.

    Parameters
    ----------
    precision : ndarray or scipy sparse array, (variable, variable)
        Symmetric positive definite, such as ``GaussianField.precision()``. Up to 2000 variables the spectrum is
        computed whole; of larger ones the ends by Lanczos iteration, to some 1e-6.

    Returns
    -------
    m, M : float

    Raises
    ------
    ValueError
        If it is not positive definite.

    Examples
    --------
    >>> tuple(round(end, 12) for end in concavity(np.array([[2.0, -1.0], [-1.0, 2.0]])))
    (1.0, 3.0)
    """
    if precision.shape[0] <= LARGEST_DENSE:
        values = np.linalg.eigvalsh(precision.toarray() if hasattr(precision, "toarray") else precision)
        m, M = float(values[0]), float(values[-1])
    else:
        matrix = sp.csc_array(precision)
        start = np.random.default_rng(0).standard_normal(matrix.shape[0])  # ARPACK's own would differ at every call
        M = float(eigsh(matrix, 1, which="LA", v0=start, tol=1e-6, return_eigenvectors=False)[0])
        m = float(eigsh(matrix, 1, sigma=0.0, which="LM", v0=start, tol=1e-6, return_eigenvectors=False)[0])
    if not m > 0:
        raise ValueError(f"precision must be positive definite, got the eigenvalue {m:.3g}; raise its diagonal")
    return m, M


def condition_number(precision: Any) -> float:
    r"""Condition number :math:`\kappa = M/m` of a Gaussian law, which rules how fast its score decays.

    Parameters and errors as in `concavity`.

    Examples
    --------
    >>> from nearfield.fitting.closed_form import fit_field
    >>> from nearfield.fitting.pooling import Pooling
    >>> from nearfield.datasets import AutoregressiveChain
    >>> from nearfield.samples import Samples
    >>> law = AutoregressiveChain(0.5, 50)
    >>> field = fit_field(Samples(law.sample(4000, random_state=0), law.graph), 1, Pooling(1.0))[2]
    >>> bool(abs(condition_number(field.precision()) / condition_number(law.precision) - 1) < 0.1)
    True
    """
    m, M = concavity(precision)
    return M / m


def lattice_precision(n: int, spacing: float | None = None) -> sp.csc_array:
    r"""Model of Remark 2.2 of arXiv 2505.04417, :math:`P = I + h^{-2}\, \mathrm{tridiag}(-1, 2, -1)`.

    With :math:`h = 1/(n + 1)` more vertices resolve one **fixed domain** ever finer, and the condition number grows as
    :math:`n^2`; with h fixed they **extend the domain**, and it stays below :math:`1 + 4/h^2`. Locality in hops is a
    property of the second kind: refining a grid spreads the neighbours of one vertex over more of them.

    Parameters
    ----------
    n : int
        Number of vertices, at least 1.
    spacing : float, optional
        h, above 0; by default that of the fixed domain.

    Returns
    -------
    sparse array, (n, n)

    Raises
    ------
    TypeError, ValueError
        If `n` or `spacing` is out of its range.

    Examples
    --------
    >>> [round(condition_number(lattice_precision(n))) for n in (50, 100, 200)]  # fixed domain
    [957, 3753, 14867]
    >>> [round(condition_number(lattice_precision(n, 1.0)), 2) for n in (50, 100, 200)]  # extended domain
    [4.98, 4.99, 5.0]
    """
    n = whole_number("n", n, 1, "give the number of vertices")
    h = 1 / (n + 1) if spacing is None else spacing
    if not h > 0:
        raise ValueError(f"spacing must be above 0, got {spacing}; give None for the fixed domain")
    off = np.full(n - 1, -1 / h**2)
    return sp.diags_array([off, np.full(n, 1 + 2 / h**2), off], offsets=[-1, 0, 1], format="csc")
