r"""Localized Schroedinger bridge: draws from samples, without training (Gottwald and Reich 2024, arXiv 2409.07968).

A vertex j with window :math:`I_j` has the kernel :math:`K_{ik} = \exp(-|x^i_{I_j} - x^k_{I_j}|^2 / 4\epsilon_j)` of two
samples. Scaled by the v of the symmetric Sinkhorn iteration it is a Markov chain that leaves the samples as they are,

.. math:: m_j(z) = \sum_i p_i(z)\, x^i_j, \qquad p_i(z) \propto v_i \exp(-|z_{I_j} - x^i_{I_j}|^2 / 4\epsilon_j).

A step of the paper's chain is :math:`x_j \leftarrow m_j(x + \sqrt{2\epsilon}\,\xi)`. For a Gaussian of variance 1 its
variance is :math:`\sqrt{1 + \epsilon^2} - \epsilon`. With half of the noise after the step instead of before it
(Strang's split; ours) it is :math:`\sqrt{1 + \epsilon^2}`, an error of second order: such states are returned here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, final

import numpy as np
import torch
from scipy.special import ndtr

from nearfield._checks import whole_number
from nearfield.conditional import Conditional, UnsupportedError
from nearfield.distribution import Distribution
from nearfield.graph import DependencyGraph
from nearfield.module import as_tensor
from nearfield.noise import Stream, normals
from nearfield.posterior.kernel import Windows
from nearfield.sampling.conditioning import DecoupledSampler
from nearfield.score.evidence import Evidence

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from numpy.typing import ArrayLike
    from torch import Tensor

    from nearfield.sampling.base import Sampler

__all__ = ["LocalizedSchroedingerBridge"]

_SINKHORN = 40  # iterations, each of which halves the error: the matrix of the iteration has its spectrum in [0, 1/2]
_SHARES = 0.8 * 2.0 ** -np.arange(-2, 7)
"""Bandwidths that are tried, in variances of the vertex."""


@final
class LocalizedSchroedingerBridge(Distribution):
    r"""Law of a Markov chain whose steps are local averages of the samples.

    Parameters
    ----------
    graph : DependencyGraph
    data : array (sample, vertex, channel)
        The samples; channels are of one scale.
    bandwidth : array (vertex,)
        :math:`\epsilon_j`, in squared units of the data.
    weights : array (vertex, sample)
        Logarithm of v.
    radius : int
        Hops of a window.
    steps : int
        Steps of the chain for a draw, from one of the samples on.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(50, 3, 1))
    >>> bridge = LocalizedSchroedingerBridge.fit(x, DependencyGraph.chain(3), radius=1)
    >>> bridge.sample(4, seed=0).shape
    (4, 3, 1)
    """

    settings = ("radius", "steps")
    data: Tensor
    bandwidth: Tensor
    weights: Tensor

    def __init__(
        self,
        graph: DependencyGraph,
        data: Float[np.ndarray, "sample vertex channel"] | Tensor,
        bandwidth: Float[np.ndarray, " vertex"] | Tensor,
        weights: Float[np.ndarray, "vertex sample"] | Tensor,
        radius: int,
        steps: int = 100,
    ) -> None:
        super().__init__()
        self.graph, self.radius = graph, whole_number("radius", radius, 0, "give the hops of a window")
        self.steps = whole_number("steps", steps, 1, "give the steps of a draw")
        for name, values in (("data", data), ("bandwidth", bandwidth), ("weights", weights)):
            self.register_buffer(name, as_tensor(values))
        self._windows = Windows(graph, self.radius)

    @classmethod
    def fit(
        cls,
        data: Float[np.ndarray, "sample vertex channel"],
        graph: DependencyGraph,
        radius: int,
        bandwidth: ArrayLike | None = None,
        folds: int = 4,
        steps: int = 100,
    ) -> LocalizedSchroedingerBridge:
        r"""Choose a bandwidth for each vertex and scale the kernels.

        Parameters
        ----------
        data : float array (sample, vertex, channel)
        graph : DependencyGraph
        radius : int
            Hops of a window.
        bandwidth : float or float array (vertex,), optional
            By default that of the least held-out loss of the drift :math:`s_j = (m_j - x_j)/\epsilon_j` as a score,
            :math:`\mathrm E[|s_j|^2/2 + \mathrm{div}_j\, s_j]`, for each vertex.
        folds : int
            Every so-many-th sample is held out.
        steps : int
            As in the class.

        Raises
        ------
        ValueError
            If there are fewer samples than folds, values are not finite or do not vary, or a bandwidth is not positive.
        """
        x = np.asarray(data, dtype=np.float64)
        folds = whole_number("folds", folds, 2)
        if x.ndim != 3 or x.shape[1] != len(graph) or len(x) < folds:
            raise ValueError(
                f"data must have shape (sample, {len(graph)}, channel) with at least {folds} samples, got {x.shape}"
            )
        if not np.isfinite(x).all():
            raise ValueError("data must be finite, got nan or inf")
        still = np.flatnonzero(x.var(axis=0).sum(axis=-1) == 0)
        if bandwidth is None and len(still):
            raise ValueError(f"data must vary at every vertex, got one value at vertex {still[0]}: give a bandwidth")
        given = np.ones(len(graph)) if bandwidth is None else np.broadcast_to(bandwidth, len(graph)).astype(np.float64)
        if not (given > 0).all():
            raise ValueError(f"bandwidth must be positive, got {given.min()}")
        bridge = cls(graph, x, given.copy(), np.zeros((len(graph), len(x))), radius, steps)
        for vertices in bridge._windows.chunks(len(x) ** 2):
            distance = bridge._windows.distances(bridge.data, bridge.data, vertices)
            if bandwidth is None:
                bridge.bandwidth[vertices] = bridge._chosen(distance, vertices, folds)
            bridge.weights[vertices] = _sinkhorn(distance / (4 * bridge.bandwidth[vertices, None, None]))
        return bridge

    def drift(self, x: Float[Tensor, "sample vertex channel"]) -> Float[Tensor, "sample vertex channel"]:
        r"""Estimate of the score, :math:`(m_j(x) - x_j) / \epsilon_j`."""
        return (self._average(x) - x) / self.bandwidth[:, None]

    def sample(
        self,
        n_samples: int,
        *,
        seed: int,
        stream: Stream = Stream.INITIAL,
        sampler: Sampler | None = None,
        device: torch.device | str = "auto",  # noqa: ARG002
        batch_size: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Float[np.ndarray, "member vertex channel"]:
        """Draw members, each by a chain of its own; arguments as in `Distribution.sample`, no sampler among them."""
        if sampler is not None:
            raise ValueError(f"sampler must be None for a {type(self).__name__}, which has a chain of its own")
        n_samples, size = whole_number("n_samples", n_samples, 1), batch_size or 1000
        batches = [range(i, min(i + size, n_samples)) for i in range(0, n_samples, size)]
        none = torch.zeros(self.data.shape[1:], dtype=torch.bool)
        drawn = []
        for k, batch in enumerate(batches):
            start = self.data[self._first(seed, stream, batch)]
            report = None if progress is None else _counted(progress, k * self.steps, len(batches) * self.steps)
            drawn.append(self._chain(start, none, seed, batch, report=report))
        return torch.cat(drawn).numpy()

    def log_prob(self, x: Float[np.ndarray, "sample vertex channel"]) -> Float[np.ndarray, " sample"]:  # noqa: ARG002
        """Refuse: the density of the chain is not known."""
        raise UnsupportedError(f"{type(self).__name__} has no density; fit a score to its draws")

    def condition(self, evidence: Evidence) -> Conditional:
        """Condition on exact values by clamping: the chain moves the other entries."""
        if not evidence.linear or evidence.rows.shape[0]:
            raise UnsupportedError(
                f"{type(self).__name__} is conditioned on exact values only; fit a score to its draws"
            )
        return _Clamped(self, evidence)

    def extended(self, graph: DependencyGraph, onto: DependencyGraph) -> LocalizedSchroedingerBridge:  # noqa: ARG002
        """Refuse: the samples are of this graph."""
        raise ValueError(f"{type(self).__name__} cannot be extended to a larger lattice; fit a score")

    def _first(self, seed: int, stream: Stream, members: Sequence[int]) -> Tensor:
        """Sample from which each member starts."""
        place = ndtr(normals(seed, stream, members, 0, 1, 1)[:, 0, 0]) * len(self.data)
        return torch.from_numpy(np.minimum(place.astype(np.int64), len(self.data) - 1))

    def _chain(
        self,
        x: Float[Tensor, "member vertex channel"],
        clamped: Bool[Tensor, "vertex channel"],
        seed: int,
        members: Sequence[int],
        run: int = 0,
        report: Callable[[int], None] | None = None,
    ) -> Float[Tensor, "member vertex channel"]:
        """Run the chain; the noise of several runs of the same members differs."""
        scale = torch.where(clamped, 0.0, self.bandwidth[:, None].sqrt())
        first = run * (self.steps + 1)

        def noise(k: int) -> Tensor:
            return scale * torch.from_numpy(normals(seed, Stream.STEP, members, first + k, *x.shape[1:]))

        for k in range(self.steps):
            x = torch.where(clamped, x, self._average(x + math.sqrt(2) * noise(k)))
            if report is not None:
                report(k + 1)
        return x + noise(self.steps)

    def _average(self, z: Float[Tensor, "sample vertex channel"]) -> Float[Tensor, "sample vertex channel"]:
        """Return m at states."""
        out = torch.empty_like(z)
        for vertices in self._windows.chunks(len(z) * len(self.data)):
            read, window = self._windows.gather(z, vertices), self._windows.gather(self.data, vertices)
            e = self.bandwidth[vertices, None, None]
            # What is the same for all samples, |z|^2, drops out.
            bias = self.weights[vertices, None] - (window.square().sum(-1)[:, None] / (4 * e))
            p = torch.softmax(torch.baddbmm(bias, read / (2 * e), window.mT), dim=-1)
            out[:, vertices] = (p @ self.data[:, vertices].transpose(0, 1)).transpose(0, 1)
        return out

    def _chosen(self, distance: Float[Tensor, "chunk n n"], vertices: Tensor, folds: int) -> Float[Tensor, " chunk"]:
        """Bandwidth of the least held-out loss for each of some vertices."""
        x = self.data[:, vertices].transpose(0, 1)
        shares = torch.from_numpy(_SHARES)
        bandwidth = shares[:, None] * x.var(dim=1).mean(-1).clamp(min=torch.finfo(x.dtype).tiny)
        loss = torch.stack([_held_out_loss(distance, x, e[:, None, None], folds) for e in bandwidth])
        return bandwidth.gather(0, loss.argmin(0, keepdim=True))[0]


@final
class _Clamped(Conditional):
    """Law of the missing entries given the others, by a chain that moves the missing ones."""

    exact: ClassVar[bool] = False

    def __init__(self, bridge: LocalizedSchroedingerBridge, evidence: Evidence) -> None:
        self._bridge, self._evidence = bridge, evidence

    def sample(
        self,
        n_samples: int,
        *,
        seed: int,
        sampler: DecoupledSampler | None = None,  # noqa: ARG002
        device: torch.device | str = "auto",  # noqa: ARG002
        batch_size: int | None = None,  # noqa: ARG002
    ) -> Float[np.ndarray, "member case entry"]:
        """Draw members given the values of each case, each by a chain of its own."""
        bridge, shape, members = self._bridge, self._bridge.data.shape[1:], range(n_samples)
        known = torch.from_numpy(self._evidence.known.reshape(shape))
        first, drawn = bridge.data[bridge._first(seed, Stream.CONDITIONAL, members)], []
        for x, case in zip(self._evidence.values, self._evidence.cases, strict=True):
            start = torch.where(known, torch.from_numpy(x.reshape(shape)), first)
            drawn.append(bridge._chain(start, known, seed, members, int(case)).numpy().reshape(n_samples, -1))
        return np.stack(drawn, axis=1)


def _sinkhorn(scaled: Float[Tensor, "chunk n n"]) -> Float[Tensor, "chunk n"]:
    """Logarithm of the v for which v_i K_ik v_k has rows of sum 1."""
    kernel = torch.exp(-scaled)
    v = torch.ones_like(kernel[..., :1])
    for _ in range(_SINKHORN):
        v = torch.sqrt(v / (kernel @ v))
    return v[..., 0].log()


def _held_out_loss(
    distance: Float[Tensor, "chunk n n"], x: Float[Tensor, "chunk n channel"], bandwidth: Tensor, folds: int
) -> Float[Tensor, " chunk"]:
    """Implicit loss of the drift at samples that its averages do not count."""
    scaled = distance / (4 * bandwidth)
    fold = torch.arange(x.shape[1]) % folds
    loss = x.new_zeros(len(x))
    for k in range(folds):
        kept, out = torch.nonzero(fold != k)[:, 0], torch.nonzero(fold == k)[:, 0]
        weights = _sinkhorn(scaled[:, kept][:, :, kept])
        p = torch.softmax(weights[:, None] - scaled[:, out][:, :, kept], dim=-1)
        mean = p @ x[:, kept]
        variance = p @ x[:, kept].square() - mean**2
        slope = (variance / (2 * bandwidth) - 1) / bandwidth
        loss += (((mean - x[:, out]) / bandwidth) ** 2 / 2 + slope).sum((1, 2))
    return loss / x.shape[1]


def _counted(progress: Callable[[int, int], None], done: int, total: int) -> Callable[[int], None]:
    """Report the steps of one batch among those of all."""
    return lambda step: progress(done + step, total)
