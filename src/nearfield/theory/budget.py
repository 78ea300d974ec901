r"""The error of a whole run in its parts: of noise, score and window, (3.10) and (3.17) of arXiv 2505.04417.

The theorems ask for log-concave or bounded laws; nothing here checks that data meet that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from nearfield.theory.bound import checked_radii

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy.typing import ArrayLike

    from nearfield.graph import DependencyGraph

__all__ = ["ErrorBudget", "divergence_bound", "error_budget", "suggested_radius"]


def divergence_bound(initial_divergence: ArrayLike, horizon: ArrayLike, score_error: ArrayLike) -> np.ndarray:
    r"""Bound on how far generated fields are from the data, in nats, Proposition 3.1, (3.10) of arXiv 2505.04417.

    .. math:: \mathrm{KL}(p_{t_0} \| \hat p_{t_0}) \le e^{-2T}\, \mathrm{KL}(p_0 \| N(0, I))
        + \int_{t_0}^T \mathrm E \|\hat s - \nabla \log p_t\|^2 dt.

    The first term is the price of starting from noise at T, the second that of the score; both constants are 1 and
    cannot be smaller: (N.6). Time steps are not counted.

    Parameters
    ----------
    initial_divergence : array_like
        :math:`\mathrm{KL}(p_0 \| N(0, I))`, nats.
    horizon : array_like
        OU time T at which the reverse process starts.
    score_error : array_like
        The integral; the expectation is under the true :math:`p_t`.

    Returns
    -------
    ndarray
        Nats.

    Examples
    --------
    >>> divergence_bound(10.0, [1.0, 3.0], 0.01).round(4)
    array([1.3634, 0.0348])
    """
    divergence: np.ndarray = np.exp(-2 * np.asarray(horizon)) * np.asarray(initial_divergence) + np.asarray(score_error)
    return divergence


@final
@dataclass(frozen=True)
class ErrorBudget:
    """The two terms of (3.17) that depend on the radius, each up to an unknown constant: compare shapes, never heights.

    Attributes
    ----------
    localization : (*shape)
        Cost of a window: falls with the radius, does not depend on the number of samples.
    estimation : (*shape)
        Cost of learning on a window from N samples: rises with the radius, falls with N.
    """

    localization: Float[np.ndarray, "*shape"]
    estimation: Float[np.ndarray | np.float64, "*shape"]


def error_budget(
    graph: DependencyGraph,
    n_samples: ArrayLike,
    radius: ArrayLike,
    *,
    kappa: float,
    smoothness: float = 1.0,
    log_power: float = 0.0,
    n_channels: int = 1,
) -> ErrorBudget:
    r"""Terms of the error of a localized diffusion model, Theorem 3.4, (3.17) of arXiv 2505.04417, as curves.

    .. math:: \mathrm E\,\mathrm{KL} \le e^{-2T}\, \mathrm{KL}(p_0 \| N(0, I)) + C d (r+1)^\nu e^{-c r}
        + C' d\, N^{-2\gamma/(d_{\mathrm{eff}} + 2\gamma)} (\log N)^p.

    The first term is that of `divergence_bound`. **C and C' are not known and are left out** (set to 1): the curves say
    how a term moves with the radius and the number of samples, not which is larger or where their sum is least. For c
    stands :math:`-2 \ln q`, the rate of (3.13). The rate in N is that of the worst density; Gaussian scores do better.

    Parameters
    ----------
    graph : DependencyGraph
        Gives nu of (3.12), d and the effective dimension (3.2).
    n_samples, radius : array_like of int
        N, at least 2, and hops r, at least 0; broadcast against each other.
    kappa : float
        Condition number M/m, at least 1.
    smoothness : float
        :math:`\gamma`, above 0: how many derivatives of the data's density are bounded.
    log_power : float
        p; its value in the theorem depends on the networks, 0 leaves the factor out.
    n_channels : int
        Components of a vertex.

    Examples
    --------
    >>> from nearfield.graph import DependencyGraph
    >>> budget = error_budget(DependencyGraph.chain(100), 1000, [0, 2, 4], kappa=4.0)
    >>> budget.localization.round(2), budget.estimation.round(2)
    (array([100.  ,  94.92,  50.06]), array([ 1.  , 13.89, 28.48]))
    """
    if not kappa >= 1:
        raise ValueError(f"kappa must be at least 1, got {kappa}")
    if not smoothness > 0:
        raise ValueError(f"smoothness must be above 0, got {smoothness}")
    N, radii = np.asarray(n_samples, dtype=float), checked_radii(radius).reshape(np.shape(radius))
    if not (N >= 2).all():
        raise ValueError(f"n_samples must be at least 2, got {N.min():g}")
    d, nu = len(graph) * n_channels, graph.growth()[1]
    local = {r: graph.effective_dimension(r, n_channels) for r in np.unique(radii).tolist()}
    effective = np.array([local[r] for r in radii.ravel().tolist()], dtype=float).reshape(radii.shape)
    log_n, _ = np.broadcast_arrays(np.log(N), radii)
    return ErrorBudget(
        localization=np.broadcast_to(d * (radii + 1.0) ** nu * (1 - 1 / kappa) ** (2 * radii), log_n.shape),
        estimation=d * np.exp(-2 * smoothness / (effective + 2 * smoothness) * log_n) * log_n**log_power,
    )


def suggested_radius(n_samples: ArrayLike, nu: float) -> Float[np.ndarray | np.float64, "..."]:
    r"""Rate at which the best radius of (3.17) grows with the data, :math:`(\log N)^{1/(\nu + 1)}`.

    A rate, without its constant: ratios of two values mean something, a value does not. To choose a radius for data,
    use held-out loss.

    Parameters
    ----------
    n_samples : array_like of int
        N, at least 2.
    nu : float
        Growth of the graph (3.12), at least 0: 1 for chains, the number of axes for lattices.

    Returns
    -------
    ndarray
        Of the shape of `n_samples`.

    Raises
    ------
    ValueError
        If an argument is out of its range.

    Examples
    --------
    >>> suggested_radius([100, 10_000], nu=1.0).round(3)  # a hundred times the data, 1.4 times the radius
    array([2.146, 3.035])
    """
    N = np.asarray(n_samples, dtype=float)
    if not (N >= 2).all():
        raise ValueError(f"n_samples must be at least 2, got {N.min():g}")
    if not nu >= 0:
        raise ValueError(f"nu must be at least 0, got {nu}")
    radius: np.ndarray = np.log(N) ** (1 / (nu + 1))
    return radius
