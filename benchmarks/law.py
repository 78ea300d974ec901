"""The laws that models are measured on: draws, covariance and denoiser in standardised units."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nearfield.datasets import CoxIngersollRoss, DoubleWellChain, DoubleWellLattice, SolvedTarget, Target

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

    from nearfield.graph import DependencyGraph

    Denoiser = Callable[[Float[ndarray, "sample vertex channel"], float], Float[ndarray, "sample vertex channel"]]

LENGTH = 128
LATTICE_DEVIATION = 0.8129
"""Standard deviation of a vertex of the double-well lattice: 2,000 fields of 32 x 32 give .8129 +- .0003."""


@dataclass(frozen=True)
class Law:
    """A law in the units models work in: less its exact mean, divided by its exact standard deviation.

    Attributes
    ----------
    name : str
    target : Target
        The law in its own units.
    mean, std : float
        Of a vertex, own units.
    covariance : (vertex, vertex) or None
        Exact, standardised; None where it is not known.
    signs : (vertex,)
        What each vertex is multiplied by: all 1 but in `signed`.
    """

    name: str
    target: Target
    mean: float
    std: float
    covariance: Float[ndarray, "vertex vertex"] | None
    signs: Float[ndarray, " vertex"]

    @property
    def graph(self) -> DependencyGraph:
        """The graph of the law."""
        return self.target.graph

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes of its lattice."""
        assert self.graph.lattice is not None
        return self.graph.lattice.shape

    def draw(self, n_samples: int, seed: int) -> Float[ndarray, "sample vertex channel"]:
        """Draw standardised samples; equal seeds give equal draws."""
        x = self.target.sample(n_samples, random_state=seed)
        return self.signs[:, None] * (x - self.mean) / self.std

    @property
    def denoise(self) -> Denoiser | None:
        """The exact denoiser of standardised states; None where it is not known."""
        target, signs = self.target, self.signs[:, None]
        if not isinstance(target, SolvedTarget):
            return None
        return lambda x, t: signs * target.denoise(signs * x, t)

    @property
    def log_prob(self) -> Callable[[Float[ndarray, "sample vertex channel"]], Float[ndarray, " sample"]] | None:
        """The exact log-density of standardised states; None where it is not known."""
        target, signs = self.target, self.signs[:, None]
        if not isinstance(target, SolvedTarget):
            return None
        shift = target.n_vertices * np.log(self.std)
        return lambda z: target.log_prob(self.mean + self.std * signs * z) + shift


def cir(length: int = LENGTH) -> Law:
    """Cox-Ingersoll-Ross: skewed and bounded below."""
    target = CoxIngersollRoss(a=0.25, b=1.0, sigma=0.6, step=1.0, length=length)
    lags = np.abs(np.subtract.outer(np.arange(length), np.arange(length)))
    return Law("cir", target, target.mean, target.std, target.autocorrelation(lags), np.ones(length))


def signed(length: int = LENGTH, seed: int = 0) -> Law:
    """Cox-Ingersoll-Ross with a random sign per vertex, fixed by the seed: a law that depends on the site."""
    plain = cir(length)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], length)
    covariance = signs[:, None] * plain.covariance * signs
    return Law("signed", plain.target, plain.mean, plain.std, covariance, signs)


def double_well(length: int = LENGTH) -> Law:
    """Double-well chain: two states, and nobody is at the mean."""
    target = DoubleWellChain(h=2.0, J=3.0, length=length)
    covariance = target.covariance() / target.std**2
    return Law("double_well", target, target.mean, target.std, covariance, np.ones(length))


def lattice(side: int = 32) -> Law:
    """Double-well field on a square torus, disordered."""
    return Law("lattice", DoubleWellLattice((side, side)), 0.0, LATTICE_DEVIATION, None, np.ones(side**2))


LAWS: dict[str, Callable[[], Law]] = {"cir": cir, "double_well": double_well, "lattice": lattice, "signed": signed}
