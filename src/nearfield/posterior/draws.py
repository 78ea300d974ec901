"""Draws of Markov chains, and what ArviZ makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import xarray as xr

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["Draws"]


@final
@dataclass(frozen=True, eq=False)
class Draws:
    """Draws of several Markov chains.

    Attributes
    ----------
    values : float64 array (chain, draw, vertex)
    acceptance : float64 array (chain, block)
        Share of accepted proposals after the burn-in.
    step_size : float64 array (chain, block)
        After the burn-in.
    chains : tuple of int
        Numbers of the chains.

    Examples
    --------
    >>> draws = Draws(np.zeros((2, 5, 3)), np.ones((2, 3)), np.ones((2, 3)), (0, 1))
    >>> dict(draws.dataset().sizes)
    {'chain': 2, 'draw': 5, 'vertex': 3}
    """

    values: Float[np.ndarray, "chain draw vertex"]
    acceptance: Float[np.ndarray, "chain block"]
    step_size: Float[np.ndarray, "chain block"]
    chains: tuple[int, ...]

    def dataset(self) -> xr.Dataset:
        """Draws ``x`` with dimensions (chain, draw, vertex), as ArviZ reads them."""
        _, n_draws, n_vertices = self.values.shape
        coords = {"chain": list(self.chains), "draw": np.arange(n_draws), "vertex": np.arange(n_vertices)}
        return xr.Dataset({"x": (("chain", "draw", "vertex"), self.values)}, coords)

    def summary(self) -> xr.Dataset:
        """Mean, standard deviation, R-hat and effective sample size of each vertex, the last two by ArviZ.

        Raises
        ------
        ImportError
            If ArviZ is not installed.
        """
        try:
            import arviz
        except ImportError as error:
            raise ImportError("summary() needs ArviZ: pip install 'nearfield[arviz]'") from error
        draws = self.dataset()
        x = draws["x"]
        statistics = {"mean": x.mean(("chain", "draw")), "std": x.std(("chain", "draw"), ddof=1)}
        statistics |= {"r_hat": arviz.rhat(draws)["x"], "ess": arviz.ess(draws)["x"]}
        return xr.Dataset(statistics)
