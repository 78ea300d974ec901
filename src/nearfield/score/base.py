"""What every score is: a denoiser on a graph, at every noise level."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from nearfield.process import score_from_denoised

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

__all__ = ["Score", "part_of", "per_time"]


class Score(abc.ABC):
    r"""The score :math:`\nabla\log p_t` of a field, given through its denoiser :math:`E[x_0 | x_t]`.

    A subclass writes :meth:`denoise` and has the attributes. To vary a score, wrap it: a conditioned score is a score.
    Values are the standardised ones that the model works in.

    Attributes
    ----------
    n_vertices : int
        Number of vertices of the field.
    n_channels : int
        Number of values at a vertex.
    radius : int or None
        Largest graph distance, in hops, at which the score at a vertex reads the state, at any time; None when it reads
        the whole field.

    Examples
    --------
    White noise, which any amount of diffusion leaves as it is:

    >>> import torch
    >>> from nearfield.process import signal, per_sample
    >>> class White(Score):
    ...     n_vertices, n_channels, radius = 3, 1, 0
    ...     def denoise(self, x, t):
    ...         return signal(per_sample(t)) * x
    >>> White().score(torch.ones(1, 3, 1), 0.5).flatten()
    tensor([-1., -1., -1.])
    """

    n_vertices: int
    n_channels: int
    radius: int | None

    @abc.abstractmethod
    def denoise(
        self,
        x: Float[Tensor, "sample vertex channel"],
        t: float | Float[Tensor, ""] | Float[Tensor, " sample"],
    ) -> Float[Tensor, "sample vertex channel"]:
        """Return the expected clean state :math:`E[x_0 | x_t = x]`, to full precision also as `t` tends to 0.

        Parameters
        ----------
        x
            State at time `t`.
        t
            OU time, at least 0: one number, or one per sample.

        Returns
        -------
        Tensor
            Of the shape, dtype and device of `x`; `x` itself where `t` is 0.
        """

    def score(
        self,
        x: Float[Tensor, "sample vertex channel"],
        t: float | Float[Tensor, ""] | Float[Tensor, " sample"],
    ) -> Float[Tensor, "sample vertex channel"]:
        r"""Return :math:`\nabla\log p_t(x)`, by Tweedie's formula.

        Parameters
        ----------
        x
            State at time `t`.
        t
            OU time, above 0: one number, or one per sample.

        Returns
        -------
        Tensor
            Of the shape, dtype and device of `x`.
        """
        return score_from_denoised(x, self.denoise(x, t), t)

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return what a model file stores: plain JSON-able settings, and arrays by name.

        Raises
        ------
        TypeError
            When this kind of score cannot be stored.
        """
        raise TypeError(f"a {type(self).__name__} cannot be saved: save the score it is made from")

    @classmethod
    def from_state(cls, config: dict[str, Any], arrays: dict[str, np.ndarray]) -> Self:  # noqa: ARG003
        """Rebuild the score from what :meth:`state` returned.

        Raises
        ------
        TypeError
            When this kind of score cannot be stored.
        """
        raise TypeError(f"a {cls.__name__} cannot be loaded: load the score it is made from")

    def check(self, x: Float[Tensor, "sample vertex channel"]) -> None:
        """Refuse states that are not of this field; for the border, where states come from the user.

        Parameters
        ----------
        x
            States to be given to the score.

        Raises
        ------
        ValueError
            When `x` is not of shape ``(sample, n_vertices, n_channels)``.
        TypeError
            When `x` does not hold floating-point numbers.
        """
        if x.ndim != 3 or tuple(x.shape[1:]) != (self.n_vertices, self.n_channels):
            raise ValueError(
                f"x must have shape (sample, {self.n_vertices}, {self.n_channels}), got {tuple(x.shape)}: "
                "axes are sample, vertex, channel, each present"
            )
        if not x.is_floating_point():
            raise TypeError(
                f"x must hold floating-point numbers, got {x.dtype}: convert it with x.float() or x.double()"
            )


def part_of(arrays: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Return the arrays of one part of what `state` gave for a whole: those called by its name, a dot and their own.

    Examples
    --------
    >>> part_of({"gaussian.law": np.zeros(2), "quadratic": np.ones(3)}, "gaussian")
    {'law': array([0., 0.])}
    """
    return {key.removeprefix(f"{name}."): array for key, array in arrays.items() if key.startswith(f"{name}.")}


def per_time(
    denoise: Callable[[Tensor, float], Tensor],
    x: Float[Tensor, "sample vertex channel"],
    t: float | Float[Tensor, ""] | Float[Tensor, " sample"],
) -> Float[Tensor, "sample vertex channel"]:
    """Apply a denoiser written for one time above 0 to samples at several, once for each distinct time."""
    times = torch.as_tensor(t, dtype=torch.float64)
    if times.numel() == 1:
        return denoise(x, float(times)) if times > 0 else x.clone()
    if len(x) == 0:
        return x.clone()
    distinct, group = torch.unique(times, return_inverse=True)
    parts = [(group == k).nonzero()[:, 0] for k in range(len(distinct))]
    out = torch.cat([per_time(denoise, x[part], time) for part, time in zip(parts, distinct, strict=True)])
    return out[torch.argsort(torch.cat(parts))]
