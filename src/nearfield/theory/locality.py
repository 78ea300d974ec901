r"""How local a score is: the effective radius of a Gaussian one, and the measured profile of any.

The derivative of the score at vertex j by the state at vertex i, :math:`\partial s_j / \partial x_i`, is zero beyond r
hops for a score that reads only :math:`N_j^r`. For a Gaussian it is minus an entry of the precision
:math:`P_t`; of any other score its root mean square over states, against graph distance, is measured here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from scipy.sparse import csgraph
from torch.autograd import forward_ad

from nearfield._checks import whole_number
from nearfield.noise import Stream, normals
from nearfield.process import noise_scale, signal_scale
from nearfield.theory.gaussian import missed_variance

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy.typing import ArrayLike
    from torch import Tensor

    from nearfield.graph import DependencyGraph
    from nearfield.score.base import Score

__all__ = ["LocalityProfile", "effective_radius", "locality_profile", "mean_by_distance"]

ALL_VERTICES = 1000
"""Up to this many vertices `locality_profile` takes every one, above it `FEW_VERTICES` at random."""
FEW_VERTICES = 8
LARGEST_BALL = 128
"""Vertices within the default reach of a vertex."""
BATCH_NUMBERS = 2**16
"""Numbers in one batch of tangents."""


def mean_by_distance(
    matrix: Float[np.ndarray, "*batch vertex vertex"], hops: Float[np.ndarray, "vertex vertex"] | None = None
) -> Float[np.ndarray, "*batch hop"]:
    r"""Mean absolute entry of a matrix at each distance, :math:`\mathrm{mean}_i |P(i, i + r)|` of (4.1) on a chain.

    Parameters
    ----------
    matrix : ndarray, (*batch, vertex, vertex)
    hops : ndarray, (vertex, vertex), optional
        Distance of each pair, such as ``graph.distance_matrix()``; pairs without a path count nowhere. By default
        :math:`|i - j|`.

    Returns
    -------
    ndarray, (*batch, hop)
        For distances 0, 1, ... to the largest.

    Examples
    --------
    >>> mean_by_distance(np.array([[2.0, -1.0], [-1.0, 4.0]]))
    array([3., 1.])
    """
    n = matrix.shape[-1]
    if hops is None:
        hops = np.abs(np.subtract.outer(np.arange(n), np.arange(n))).astype(float)
    paired = np.isfinite(hops)
    group = hops[paired].astype(int)
    entries = np.abs(matrix[..., paired]).reshape(-1, len(group))
    sums = np.stack([np.bincount(group, weights=row) for row in entries])
    return (sums / np.maximum(np.bincount(group), 1)).reshape(*matrix.shape[:-2], -1)


def effective_radius(
    precision: Float[np.ndarray, "*batch vertex vertex"],
    eps: float = 1e-3,
    hops: Float[np.ndarray, "vertex vertex"] | None = None,
) -> Int[np.ndarray, " *batch"]:
    r"""Distance beyond which a Gaussian score is negligible, :math:`r_{\mathrm{loc}}` of (4.1), arXiv 2505.04417.

    .. math:: r_{\mathrm{loc}}(t) = \max\{r : \mathrm{mean}_i |P_t(i, i+r)| > \varepsilon\,\mathrm{mean}_i P_t(i, i)\}.

    Parameters
    ----------
    precision : ndarray, (*batch, vertex, vertex)
        :math:`P_t`, one matrix or one for each time, as `nearfield.theory.gaussian.diffused_precision` gives them.
    eps : float
        Between 0 and 1. The default is our choice: the paper's value is not known.
    hops : ndarray, (vertex, vertex), optional
        As in `mean_by_distance`; by default :math:`|i - j|`, the paper's.

    Returns
    -------
    ndarray of int, (*batch,)

    Raises
    ------
    ValueError
        If `eps` is out of range.

    Examples
    --------
    >>> from nearfield.datasets import AutoregressiveChain
    >>> from nearfield.theory.gaussian import diffused_precision
    >>> P = AutoregressiveChain(0.7, 100).precision.toarray()
    >>> effective_radius(diffused_precision(P, [0.0, 0.01, 0.5, 5.0])).tolist()  # rises, then falls
    [1, 2, 8, 0]
    """
    if not 0 < eps < 1:
        raise ValueError(f"eps must lie between 0 and 1, got {eps}; 1e-3 is usual")
    mean = mean_by_distance(precision, hops)
    above = mean > eps * mean[..., :1]
    radius: np.ndarray = above.shape[-1] - 1 - np.argmax(above[..., ::-1], axis=-1)
    return radius


@final
@dataclass(frozen=True)
class LocalityProfile:
    r"""How a score reads the state, against graph distance and time.

    Attributes
    ----------
    t : (time,)
        OU times.
    rms : (time, hop)
        Root mean square of :math:`\|\partial s_j / \partial x_i\|` over states and pairs at hops 0, 1, ...; with
        several channels the norm is Frobenius', which is not below that of (2.15).
    missed : (time, hop)
        Share of the variance of the scores that is lost when each reads only its window of radius 0, 1, ... hops.
        Exact for the score of a Gaussian; for that of another law, at states of this law, a lower bound (N.7), which
        counts the mean of the derivatives over states. A fitted score is taken for the one of a law; nan
        where it cannot be, the symmetric part of that mean being no information matrix, as can happen to a bad fit.
    pairs : (hop,)
        How many pairs of vertices each distance has.
    vertices : (vertex,)
        The vertices whose derivatives were taken.
    """

    t: Float[np.ndarray, " time"]
    rms: Float[np.ndarray, "time hop"]
    missed: Float[np.ndarray, "time hop"]
    pairs: Int[np.ndarray, " hop"]
    vertices: Int[np.ndarray, " vertex"]


@torch.no_grad()
def locality_profile(
    score: Score,
    x: Float[np.ndarray, "sample vertex channel"],
    t: ArrayLike,
    graph: DependencyGraph,
    *,
    vertices: ArrayLike | None = None,
    reach: int | None = None,
    seed: int = 0,
) -> LocalityProfile:
    r"""Measure how strongly a fitted score reads the state at each distance, and the share that a window would miss.

    Columns of the Jacobian come from forward-mode products; a score that is affine in the state needs none.
    `missed` is :math:`\sum_j \mathrm{tr}\, F_{jR} F_{RR}^{-1} F_{Rj} / \sum_j \mathrm{tr}\, F_{jj}` with F the
    symmetric part of minus the mean Jacobian; a score of radius r misses nothing beyond r.

    Parameters
    ----------
    x : ndarray, (sample, vertex, channel)
        Clean states in standardised units, noised to each time: a few tens, one for a Gaussian score.
    t : array_like
        One OU time or several, above 0.
    vertices : array_like of int, optional
        The profiled vertices; by default all up to 1000, and 8 drawn at random on larger graphs.
    reach : int, optional
        Largest distance, by default the largest at which a ball has at most 128 vertices; `missed` ignores the rest.
    seed : int
        Of the noise and of the vertices.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of its range, or the score hides its dependence on the state from torch's forward mode.

    Examples
    --------
    >>> from nearfield.datasets import AutoregressiveChain
    >>> from nearfield.fitting.closed_form import fit_field
    >>> from nearfield.fitting.pooling import Pooling
    >>> from nearfield.samples import Samples
    >>> law = AutoregressiveChain(0.5, 30)
    >>> x = law.sample(500, random_state=0)
    >>> field = fit_field(Samples(x, law.graph), 1, Pooling(1.0))[2]
    >>> profile = locality_profile(field, x[:1], 0.3, law.graph)
    >>> bool((profile.rms[0, 1:10] < 0.5 * profile.rms[0, :9]).all()), bool(profile.missed[0, 1] < 0.01)
    (True, True)
    """
    states, times = _checked(score, x, t, graph)
    chosen, hops = _chosen(graph, vertices, reach, seed)
    near = np.flatnonzero((hops >= 0).any(axis=0))
    hops, place = hops[:, near], np.searchsorted(near, chosen)
    group = hops[hops >= 0]
    pairs = np.bincount(group)
    xi = torch.from_numpy(normals(seed, Stream.EVALUATION, range(len(states)), 0, *states.shape[1:]))
    rms, missed = np.empty((2, len(times), len(pairs)))
    for k, time in enumerate(times.tolist()):
        mean, square = _jacobian(score, signal_scale(time) * states + noise_scale(time) * xi, time, near)
        total = np.bincount(group, weights=square[:, place].T[hops >= 0])
        rms[k] = np.sqrt(total / pairs)
        missed[k] = _share(-(mean + mean.T) / 2, hops, place, len(pairs))
    return LocalityProfile(times, rms, missed, pairs, chosen)


def _checked(
    score: Score, x: Float[np.ndarray, "sample vertex channel"], t: ArrayLike, graph: DependencyGraph
) -> tuple[Float[Tensor, "sample vertex channel"], Float[np.ndarray, " time"]]:
    """Return states and times; refuse those of another field, and times at which there may be no score."""
    states = torch.as_tensor(np.asarray(x, dtype=np.float64))
    score.check(states)
    if not len(states) or len(graph) != score.n_vertices:
        raise ValueError(
            f"x must have a sample and graph the {score.n_vertices} vertices of the score, got {len(states)} samples, "
            f"{len(graph)} vertices"
        )
    times = np.atleast_1d(np.asarray(t, dtype=float))
    if not (times > 0).all():
        raise ValueError(f"t must be above 0, got {times.min()}; the score of the data themselves may not exist")
    return states, times


def _chosen(
    graph: DependencyGraph, vertices: ArrayLike | None, reach: int | None, seed: int
) -> tuple[Int[np.ndarray, " chosen"], Int[np.ndarray, "chosen vertex"]]:
    """Vertices to be profiled, and the hops from each to every vertex; -1 beyond reach."""
    if vertices is not None:
        chosen = np.unique(np.asarray(vertices))
    elif len(graph) <= ALL_VERTICES:
        chosen = np.arange(len(graph))
    else:
        chosen = np.sort(np.random.default_rng(seed).choice(len(graph), FEW_VERTICES, replace=False))
    if reach is None:
        reach, diameter = 0, graph.diameter()
        while reach < diameter and graph.effective_dimension(reach + 1) <= LARGEST_BALL:
            reach += 1
    limit = whole_number("reach", reach, 0)
    far = csgraph.dijkstra(graph.adjacency, directed=False, indices=chosen, unweighted=True, limit=limit)
    return chosen, np.where(np.isfinite(far), far, -1).astype(np.int64)


def _share(
    information: Float[np.ndarray, "variable variable"],
    hops: Int[np.ndarray, "chosen vertex"],
    place: Int[np.ndarray, " chosen"],
    n_hops: int,
) -> Float[np.ndarray, " hop"]:
    """Part of the information of the chosen vertices that the vertices beyond each radius have."""
    if np.linalg.eigvalsh(information)[0] <= 0:
        return np.full(n_hops, np.nan)
    n_channels = len(information) // hops.shape[1]
    lost, total = np.zeros(n_hops), 0.0
    for own, distance in zip(place, hops, strict=True):
        part = missed_variance(information, np.where(distance >= 0, distance, np.inf), n_channels)
        lost[: len(part)] += part
        total += information.diagonal()[own * n_channels : (own + 1) * n_channels].sum()
    return lost / total


def _jacobian(
    score: Score, x: Float[Tensor, "sample vertex channel"], t: float, near: Int[np.ndarray, " near"]
) -> tuple[Float[np.ndarray, "variable variable"], Float[np.ndarray, "near near"]]:
    """Jacobian of the score among some vertices: its mean over states, and the mean square of its blocks."""
    a, s = signal_scale(t), noise_scale(t)
    c, size = x.shape[2], x[0].numel()
    entries = torch.from_numpy((near[:, None] * c + np.arange(c)).ravel())
    step = max(1, BATCH_NUMBERS // size)
    # F of score = -x + (a / s) F: of unit scale at every time, and nothing for white noise
    product, states = _products(lambda y: (score.denoise(y, t) - a * y) / s, x)
    mean = torch.zeros(len(entries), len(entries), dtype=x.dtype)
    square = torch.zeros(len(near), len(near), dtype=x.dtype)
    for state in states:
        jacobian = -torch.eye(len(entries), dtype=x.dtype)
        for start in range(0, len(entries), step):
            part = entries[start : start + step]
            tangents = torch.zeros(len(part), size, dtype=x.dtype)
            tangents[torch.arange(len(part)), part] = 1.0
            columns = product(state, tangents.reshape(-1, *x.shape[1:])).flatten(1)[:, entries]
            jacobian[:, start : start + step] += a / s * columns.T
        mean += jacobian / len(states)
        square += (jacobian**2).reshape(len(near), c, len(near), c).sum(dim=(1, 3)) / len(states)
    return mean.numpy(), square.numpy()


def _products(
    f: Callable[[Tensor], Tensor], x: Float[Tensor, "sample vertex channel"]
) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor]:
    """Exact product of the Jacobian of f at a state with a batch of tangents, and the states where it is needed."""
    v = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    here, ahead, behind = f(x), f(x + 3 * v), f(x - 3 * v)
    # rounding leaves some 1e-14, iterative solvers a relative 1e-7
    if (ahead + behind - 2 * here).norm() <= 1e-6 * (ahead - behind).norm() + 1e-9 * v.norm():
        origin = f(torch.zeros_like(x[:1]))
        return lambda _, tangents: f(tangents) - origin, x[:1]
    h = 1e-3
    measured = (f(x + h * v) - f(x - h * v)) / (2 * h)
    if (_forward(f, x, v) - measured).norm() > 0.05 * measured.norm():  # kinks and single precision leave less
        raise TypeError(
            "score must be affine, or show torch's forward mode all of its dependence on the state, got one whose "
            "product with a tangent is not its difference quotient; write denoise in torch, without detach or numpy"
        )
    return lambda state, tangents: _forward(f, state.repeat(len(tangents), 1, 1), tangents), x


def _forward(f: Callable[[Tensor], Tensor], x: Tensor, v: Tensor) -> Tensor:
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.filterwarnings("ignore", ".*torch.jit.script.*", DeprecationWarning)  # torch's own, at the first use
        slope: Tensor = forward_ad.unpack_dual(f(forward_ad.make_dual(x, v))).tangent.clone()
        return slope
