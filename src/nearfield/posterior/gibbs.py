r"""Block samplers whose acceptance does not depend on the size of the field.

Block j proposes, with the gradient :math:`g_j` and step size h,

.. math:: y_j = x_j + h\,g_j(x) + \sqrt{2h}\,\xi_j,

and accepts with the ratio (N.15), whose terms are the factors that read block j. Blocks of one colour share no factor
and move at the same time.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from scipy.special import log_ndtr

from nearfield._checks import whole_number
from nearfield.noise import Stream, normals, seed_of
from nearfield.posterior.density import LocalDensity, Part
from nearfield.posterior.draws import Draws

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy.typing import ArrayLike
    from torch import Tensor

__all__ = ["BlockSampler", "MALAWithinGibbs", "MetropolisWithinGibbs"]

_DECAY = 0.6  # of the gain of the adaptation, (sweep + 1) ** -_DECAY (Andrieu and Thoms 2008, section 4)


@dataclass(frozen=True)
class BlockSampler(abc.ABC):
    """Markov chains that move a field block by block, colour by colour.

    Parameters
    ----------
    step_size : float
        h of the proposal, in squared units of the field; where adaptation starts.
    target_acceptance : float or None
        Acceptance that the burn-in adapts the step size of each block towards; None keeps the step size.

    Raises
    ------
    ValueError
        If a setting is out of range.
    """

    step_size: float = 0.1
    target_acceptance: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.step_size < float("inf"):
            raise ValueError(f"step_size must be positive and finite, got {self.step_size}")
        if self.target_acceptance is not None and not 0 < self.target_acceptance < 1:
            raise ValueError(f"target_acceptance must be between 0 and 1, got {self.target_acceptance}")

    def sample(
        self,
        density: LocalDensity,
        n_draws: int,
        *,
        chains: int | Sequence[int] = 4,
        burn_in: int = 500,
        thin: int = 1,
        seed: int = 0,
        start: ArrayLike | None = None,
    ) -> Draws:
        """Run Markov chains side by side.

        Each number is a function of (seed, chain, sweep, vertex): a chain does not depend on the others.

        Parameters
        ----------
        density : LocalDensity
        n_draws : int
            Draws to keep of each chain.
        chains : int or sequence of int
            How many, or their numbers.
        burn_in : int
            Sweeps before the first draw.
        thin : int
            Sweeps for each draw.
        seed : int
            In [0, 2**64).
        start : float array (vertex,) or (chain, vertex), optional
            By default standard normal numbers.

        Raises
        ------
        ValueError
            If a number is out of range, `start` has another shape, or its log-density is not finite.
        """
        n_draws = whole_number("n_draws", n_draws, 1, "give draws of each chain")
        burn_in = whole_number("burn_in", burn_in, 0, "give sweeps")
        thin = whole_number("thin", thin, 1, "give sweeps for each draw")
        seed = seed_of(seed)
        numbers = tuple(range(whole_number("chains", chains, 1))) if isinstance(chains, int) else tuple(chains)
        x = _start(density, numbers, seed, start)
        density.require_finite(x)
        size = torch.full((len(numbers), density.n_blocks), self.step_size, dtype=torch.float64)
        accepted = torch.zeros_like(size)
        values = np.empty((len(numbers), n_draws, density.n_vertices))
        for sweep in range(burn_in + n_draws * thin):
            probability, moved = self._sweep(density, x, size, _random_numbers(density, numbers, seed, sweep))
            if sweep < burn_in:
                if self.target_acceptance is not None:
                    size *= torch.exp((probability - self.target_acceptance) / (sweep + 1) ** _DECAY)
                continue
            accepted += moved
            done, rest = divmod(sweep + 1 - burn_in, thin)
            if rest == 0:
                values[:, done - 1] = x.numpy()
        return Draws(values, (accepted / (n_draws * thin)).numpy(), size.numpy(), numbers)

    def _sweep(
        self, density: LocalDensity, x: Tensor, size: Tensor, random: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Move each block once, `x` in place; returns probabilities of acceptance and decisions (chain, block)."""
        xi, log_uniform = random
        probability, moved = torch.empty_like(size), torch.empty_like(size)
        for part in density.parts:
            ratio, proposal = self._propose(part, x, size[:, part.blocks][:, part.block], xi[:, part.moving])
            taken = log_uniform[:, part.blocks] < ratio  # false where the ratio is nan
            x[:, part.moving] = torch.where(taken[:, part.block], proposal, x[:, part.moving])
            probability[:, part.blocks] = ratio.nan_to_num(nan=-torch.inf).clamp(max=0).exp()
            moved[:, part.blocks] = taken.to(x.dtype)
        return probability, moved

    @abc.abstractmethod
    def _propose(self, part: Part, x: Tensor, h: Tensor, xi: Tensor) -> tuple[Tensor, Tensor]:
        """Log acceptance ratios (chain, block) and proposed values (chain, moving)."""


@final
@dataclass(frozen=True)
class MALAWithinGibbs(BlockSampler):
    r"""Metropolis-adjusted Langevin steps of one block at a time, (N.15).

    With all vertices in one block this is MALA, whose acceptance falls with the number of vertices.

    Parameters
    ----------
    step_size : float
        h of the proposal, in squared units of the field; where adaptation starts.
    target_acceptance : float or None, default 0.574
        Acceptance that the burn-in adapts the step size of each block towards, by default the optimum of MALA (Roberts
        and Rosenthal 1998). None keeps the step size.

    Raises
    ------
    ValueError
        If a setting is out of range.

    Examples
    --------
    >>> from nearfield.posterior.law import gaussian_markov
    >>> law = gaussian_markov(np.array([[2.0, -1.0], [-1.0, 2.0]]))
    >>> MALAWithinGibbs().sample(law, 10, chains=2, burn_in=20).values.shape
    (2, 10, 2)
    """

    target_acceptance: float | None = 0.574  # not .547: theorem 2 of Roberts and Rosenthal has the digits in this order

    def _propose(self, part: Part, x: Tensor, h: Tensor, xi: Tensor) -> tuple[Tensor, Tensor]:
        here = x[:, part.support]
        before, slope = part.gradient(here)
        old = x[:, part.moving]
        proposal = old + h * slope + torch.sqrt(2 * h) * xi
        after, slope = part.gradient(here.index_copy(1, part.place, proposal))
        back = (old - proposal - h * slope) / torch.sqrt(2 * h)
        return after - before + proposal_ratio(part, xi, back), proposal


@final
@dataclass(frozen=True)
class MetropolisWithinGibbs(BlockSampler):
    """Random-walk Metropolis steps of one block at a time: (N.15) without the gradient.

    Parameters
    ----------
    step_size : float
        h of the proposal, half its variance; where adaptation starts.
    target_acceptance : float or None, default 0.234
        Acceptance that the burn-in adapts the step size of each block towards, by default the optimum for large blocks
        (Roberts, Gelman and Gilks 1997); of single vertices it is 0.44. None keeps the step size.

    Raises
    ------
    ValueError
        If a setting is out of range.

    Examples
    --------
    >>> from nearfield.posterior.law import gaussian_markov
    >>> law = gaussian_markov(np.array([[2.0, -1.0], [-1.0, 2.0]]))
    >>> MetropolisWithinGibbs().sample(law, 10, chains=2, burn_in=20).values.shape
    (2, 10, 2)
    """

    target_acceptance: float | None = 0.234

    def _propose(self, part: Part, x: Tensor, h: Tensor, xi: Tensor) -> tuple[Tensor, Tensor]:
        here = x[:, part.support]
        proposal = x[:, part.moving] + torch.sqrt(2 * h) * xi
        there = here.index_copy(1, part.place, proposal)
        return part.log_density(there) - part.log_density(here), proposal


def proposal_ratio(part: Part, xi: Tensor, back: Tensor) -> Tensor:
    """Log-density of the way back less that of the way there, (chain, block), of their standardised noise."""
    difference = 0.5 * (xi**2 - back**2)
    return difference.new_zeros(len(xi), len(part.blocks)).index_add(1, part.block, difference)


def _start(
    density: LocalDensity, numbers: tuple[int, ...], seed: int, start: ArrayLike | None
) -> Float[Tensor, "chain vertex"]:
    """State of each chain before the first sweep."""
    shape = (len(numbers), density.n_vertices)
    if start is None:
        return torch.from_numpy(normals(seed, Stream.INITIAL, numbers, 0, density.n_vertices, 1)[..., 0].copy())
    given = np.asarray(start, dtype=np.float64)
    if given.shape not in (shape, shape[1:]):
        raise ValueError(f"start must have shape {shape[1:]} or {shape}, got {given.shape}")
    return torch.from_numpy(np.broadcast_to(given, shape).copy())


def _random_numbers(
    density: LocalDensity, numbers: tuple[int, ...], seed: int, sweep: int
) -> tuple[Float[Tensor, "chain vertex"], Float[Tensor, "chain block"]]:
    """Draw normal numbers for proposals, and logarithms of uniform numbers for decisions."""
    xi = normals(seed, Stream.PROPOSAL, numbers, sweep, density.n_vertices, 1)[..., 0]
    decisions = normals(seed, Stream.ACCEPTANCE, numbers, sweep, density.n_blocks, 1)[..., 0]
    return torch.from_numpy(xi), torch.from_numpy(log_ndtr(decisions))
