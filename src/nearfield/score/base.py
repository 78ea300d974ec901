"""The contract of scores: a denoiser on a graph, at every noise level."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor

from nearfield.module import Module
from nearfield.process import score_from_denoised

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from nearfield.graph import DependencyGraph

__all__ = ["ContextScore", "Score", "per_time"]

_STATES = 16
"""Approximate numbers that a closed form holds at once for each value of a sample: states, sums, differences."""


class Score(Module, abc.ABC):
    r"""The score :math:`\nabla\log p_t` of a field, given through its denoiser :math:`E[x_0 | x_t]`.

    A subclass writes :meth:`forward` and has the attributes. To vary a score, wrap it: a conditioned score is a score.
    Values are standardised. A score is a torch module: its arrays are buffers, and ``score.to(device)`` moves them with
    those of all scores and networks inside.

    Attributes
    ----------
    n_vertices : int
        Number of vertices of the field.
    n_channels : int
        Number of values at a vertex.
    radius : int or None
        Largest graph distance, in hops, at which the score at a vertex reads the state, at any time; None for the whole
        field.
    maps : bool
        Whether the score takes noise maps: a time of its own for each entry, infinite where the value is missing.

    Examples
    --------
    White noise, which diffusion does not change:

    >>> import torch
    >>> from nearfield.process import signal_scale, per_sample
    >>> class White(Score):
    ...     n_vertices, n_channels, radius = 3, 1, 0
    ...     def forward(self, x, t):
    ...         return signal_scale(per_sample(t)) * x
    >>> White().score(torch.ones(1, 3, 1), 0.5).flatten()
    tensor([-1., -1., -1.])
    """

    n_vertices: int
    n_channels: int
    radius: int | None
    maps: bool = False

    @abc.abstractmethod
    def forward(
        self, x: Float[Tensor, "sample vertex channel"], t: float | Float[Tensor, " sample"]
    ) -> Float[Tensor, "sample vertex channel"]:
        """Denoise as `denoise` says; `t` is a number, or one float64 number for each sample, on any device.

        A score that takes noise maps gets them of the shape of `x`.
        """

    def denoise(
        self,
        x: Float[Tensor, "sample vertex channel"],
        t: float | Float[Tensor, ""] | Float[Tensor, " #sample"] | Float[Tensor, "sample vertex *channel"],
    ) -> Float[Tensor, "sample vertex channel"]:
        """Return the expected clean state :math:`E[x_0 | x_t = x]`, to full precision also as `t` tends to 0.

        Parameters
        ----------
        x : Tensor
            State at time `t`.
        t : float or Tensor
            OU time, at least 0: one number, one per sample, or a map: one for each vertex, or each entry. Scores
            without `maps` take those that are constant in each sample. Where the time is infinite, the value is
            missing, and that of `x` is ignored.

        Returns
        -------
        Tensor
            Of the shape, dtype and device of `x`; `x` itself where `t` is 0.

        Raises
        ------
        ValueError
            If `t` has another shape, or differs between the vertices of a sample and the score takes no maps.
        """
        t = self.times(x, t)
        out: Tensor = self.forward(_seen(x, t), t)
        return out

    def score(
        self,
        x: Float[Tensor, "sample vertex channel"],
        t: float | Float[Tensor, ""] | Float[Tensor, " #sample"] | Float[Tensor, "sample vertex *channel"],
    ) -> Float[Tensor, "sample vertex channel"]:
        r"""Return :math:`\nabla\log p_t(x)` at times above 0, by Tweedie's formula; arguments as in :meth:`denoise`."""
        t = self.times(x, t)
        x = _seen(x, t)
        return score_from_denoised(x, self.forward(x, t), t.to(x.device) if isinstance(t, Tensor) else t).to(x)

    def local_jacobian(
        self,
        x: Float[Tensor, "sample vertex channel"],  # noqa: ARG002
        t: float,  # noqa: ARG002
        index: Int[Tensor, "vertex width"],  # noqa: ARG002
    ) -> Float[Tensor, "#sample vertex channel width channel"] | None:
        r"""Return the derivatives of D at each vertex by the state at some others; None if they have no closed form.

        They are :math:`\partial D_j / \partial x_i` for the vertices i in row j of `index`.

        Parameters
        ----------
        x : Tensor
            State.
        t : float
            OU time above 0.
        index : Tensor of int
            Some vertices for each vertex, such as itself or a window.

        Returns
        -------
        Tensor or None
            Of the dtype and device of `x`; once for all samples where D is linear.
        """
        return None

    def times(
        self, x: Tensor, t: float | Tensor
    ) -> float | Float[Tensor, " sample"] | Float[Tensor, "sample vertex channel"]:
        """Return the time of all samples, one float64 number for each, or a map of them; refuse any other `t`."""
        if not isinstance(t, Tensor):
            return float(t)
        if t.shape in ((len(x), self.n_vertices), (len(x), self.n_vertices, self.n_channels)):
            entries = t.flatten(1)
            if bool((entries == entries[:, :1]).all()):
                t = entries[:, 0]
            elif self.maps:
                if not bool((t >= 0).all()):
                    raise ValueError(f"t must be at least 0, got {float(t.min()):.4g}")
                return (t if t.ndim == 3 else t[..., None]).to(torch.float64).expand(x.shape)
            else:
                raise ValueError(
                    f"t must be the same at all vertices of a sample, got {float(t.min()):.4g} to "
                    f"{float(t.max()):.4g}; only scores trained with noise_map=True take maps"
                )
        if t.numel() == 1 and not t.is_meta:
            return float(t)
        if t.shape != (len(x),):
            raise ValueError(
                f"t must be a number, or of shape ({len(x)},), ({len(x)}, {self.n_vertices}) or {tuple(x.shape)}, got "
                f"{tuple(t.shape)}"
            )
        return t.to(torch.float64)

    @property
    def numbers_per_sample(self) -> int:
        """Approximate floating-point numbers in memory while one sample is denoised."""
        return _STATES * self.n_vertices * self.n_channels

    def extended(self, graph: DependencyGraph, onto: DependencyGraph) -> Self:  # noqa: ARG002
        """Return the same law on another lattice of the same kind.

        By locality the scores of a stationary law hold on any larger domain (the extended-domain models of Remark 2.2
        of arXiv 2505.04417): each new vertex takes the score of a vertex whose window is cut off in the same way.

        Parameters
        ----------
        graph : DependencyGraph
            The whole lattice of this score, which is fitted with complete pooling and no site embeddings.
        onto : DependencyGraph
            A whole lattice with as many axes, as periodic and as diagonal.

        Raises
        ------
        ValueError
            If the lattices differ in kind, windows on the new one are cut off in new ways, a network has site
            embeddings, or the class cannot be extended.
        """
        raise ValueError(
            f"{type(self).__name__} cannot be extended to a larger lattice; fit method='hybrid' or 'gaussian'"
        )

    def check(self, x: Float[Tensor, "sample vertex channel"]) -> None:
        """Refuse states of another shape (ValueError), or that are no floating-point numbers (TypeError)."""
        if x.ndim != 3 or tuple(x.shape[1:]) != (self.n_vertices, self.n_channels):
            raise ValueError(f"x must have shape (sample, {self.n_vertices}, {self.n_channels}), got {tuple(x.shape)}")
        if not x.is_floating_point():
            raise TypeError(f"x must hold floating-point numbers, got {x.dtype}")


class ContextScore(Score):
    """A score whose denoiser and its variance a network is shown, as in `nearfield.score.hybrid.HybridScore`."""

    @abc.abstractmethod
    def denoise_with_variance(
        self, x: Float[Tensor, "sample vertex channel"], t: float | Float[Tensor, " sample"]
    ) -> tuple[Float[Tensor, "sample vertex channel"], Float[Tensor, "#sample vertex channel"]]:
        r"""Return D(x, t) and its variance v under the law of the score.

        :math:`v_j(t) = \mathrm{Var}\, D_j(x_t, t)`, once for a common time: the variance of the data at time 0, of the
        order of :math:`1/\sigma^2` under strong noise. Arguments are as in `Score.denoise`.
        """


def _seen(x: Tensor, t: float | Tensor) -> Tensor:
    """Put 0 where a map says that the value is missing."""
    return torch.where(torch.isinf(t).to(x.device), 0.0, x) if isinstance(t, Tensor) and t.ndim == 3 else x


def per_time(
    denoise: Callable[[Tensor, float], Tensor],
    x: Float[Tensor, "sample vertex channel"],
    t: float | Float[Tensor, " sample"],
) -> Float[Tensor, "sample vertex channel"]:
    """Apply a denoiser of one time above 0 to samples at several times, once for each distinct time."""
    if not isinstance(t, Tensor):
        return denoise(x, t) if t > 0 else x.clone()
    if len(x) == 0:
        return x.clone()
    distinct, group = np.unique(t.tolist(), return_inverse=True)
    parts = [torch.tensor(np.flatnonzero(group == k).tolist(), device=x.device) for k in range(len(distinct))]
    out = torch.cat([per_time(denoise, x[part], time) for part, time in zip(parts, distinct.tolist(), strict=True)])
    return out[torch.argsort(torch.cat(parts))]
