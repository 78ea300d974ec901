r"""Eigenbases of a covariance :math:`C = U \Lambda U^\top`: dense, or of plane waves on a lattice without ends.

A circulant, symmetric covariance has the eigenvectors :math:`\mathrm{cas}(2\pi k x/n)/\sqrt n`,
:math:`\mathrm{cas} = \cos + \sin`, so that :math:`U = U^\top` is the Hartley transform, the real part of a Fourier
transform less its imaginary part.
"""

from __future__ import annotations

import abc
import math
from typing import TYPE_CHECKING, final

import torch

from nearfield.module import Module, as_tensor

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float
    from torch import Tensor

__all__ = ["DenseBasis", "Eigenbasis", "WaveBasis"]


class Eigenbasis(Module, abc.ABC):
    """Orthogonal basis with an eigenvalue for each of its vectors."""

    values: Tensor

    @abc.abstractmethod
    def coordinates(self, x: Float[Tensor, "*batch variable"]) -> Float[Tensor, "*batch entry"]:
        """Return U'x."""

    @abc.abstractmethod
    def restored(self, z: Float[Tensor, "*batch entry"]) -> Float[Tensor, "*batch variable"]:
        """Return U z."""

    @abc.abstractmethod
    def variances(self, v: Float[Tensor, "*batch entry"]) -> Float[Tensor, "*batch variable"]:
        """Return the diagonal of U diag(v) U'."""


@final
class DenseBasis(Eigenbasis):
    """Basis of a matrix.

    Parameters
    ----------
    values : ndarray or Tensor, shape (entry,)
    vectors : ndarray or Tensor, shape (variable, entry)
        In columns.
    """

    vectors: Tensor

    def __init__(
        self,
        values: Float[np.ndarray, " entry"] | Float[Tensor, " entry"],
        vectors: Float[np.ndarray, "variable entry"] | Float[Tensor, "variable entry"],
    ) -> None:
        super().__init__()
        self.register_buffer("values", as_tensor(values))
        self.register_buffer("vectors", as_tensor(vectors))

    def coordinates(self, x: Tensor) -> Tensor:
        """Return U'x."""
        return x @ self._vectors(x)

    def restored(self, z: Tensor) -> Tensor:
        """Return U z."""
        return z @ self._vectors(z).mT

    def variances(self, v: Tensor) -> Tensor:
        """Return the diagonal of U diag(v) U'."""
        return v @ (self._vectors(v) ** 2).mT

    def _vectors(self, like: Tensor) -> Tensor:
        return self.vectors.to(like)


@final
class WaveBasis(Eigenbasis):
    """Basis of plane waves on a lattice without ends.

    Parameters
    ----------
    values : ndarray or Tensor, shape (entry,)
        By wave number, in the order of the discrete Fourier transform.
    shape : tuple of int
        Lengths of the axes.
    """

    settings = ("shape",)

    def __init__(self, values: Float[np.ndarray, " entry"] | Float[Tensor, " entry"], shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("values", as_tensor(values))
        self.shape = tuple(shape)

    def coordinates(self, x: Tensor) -> Tensor:
        """Return the Hartley transform, which is its own inverse."""
        waves = torch.fft.fftn(x.unflatten(-1, self.shape), dim=tuple(range(-len(self.shape), 0)), norm="ortho")
        hartley: Tensor = (waves.real - waves.imag).flatten(-len(self.shape))
        return hartley

    def restored(self, z: Tensor) -> Tensor:
        """Return U z."""
        return self.coordinates(z)

    def variances(self, v: Tensor) -> Tensor:
        """Return the diagonal of U diag(v) U', which is constant."""
        return v.mean(dim=-1, keepdim=True).expand(*v.shape[:-1], math.prod(self.shape))
