r"""What mirroring does to the ends of a chain: a part of figure 3.

A network that is the same at every vertex needs something to read beyond the borders. The paper gives it the field
mirrored at the last vertex, of which its score is not the score: what it generates is too wide there. Truncated windows
are not: each vertex reads what there is, and is told how much that is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, final

import numpy as np
import torch

from nearfield.datasets import AutoregressiveChain
from nearfield.evaluation.canvas import ACCENT, GENERATED
from nearfield.fitting.closed_form import fit_windowed
from nearfield.fitting.neural import default_recipe
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.training import train
from nearfield.paper.recipe import PaperRecipe, fit_paper
from nearfield.process import noise_scale, signal_scale
from nearfield.reproduction.experiment import Claim
from nearfield.samples import Samples
from nearfield.sampling.sampler import Sampler
from nearfield.score.base import Score
from nearfield.score.hybrid import NetworkScore
from nearfield.score.window import WindowNetwork, reflected

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.axes import Axes

    from nearfield.graph import DependencyGraph

__all__ = [
    "Edge",
    "MirroredGaussianScore",
    "claims",
    "draw_exact",
    "draw_networks",
    "exact_variance",
    "measure",
    "train_mirrored",
    "train_truncated",
]

MIRRORED, TRUNCATED = "mirrored at the borders", "truncated windows"
COLOUR = {MIRRORED: ACCENT, TRUNCATED: GENERATED}
ASKED = {MIRRORED: 1.36, TRUNCATED: 1.0}
"""Exact variance at an end over that in the middle: AR(1), alpha .7, 40 vertices, radius 5, found by two programs."""


class Edge(NamedTuple):
    """Variance at each vertex in units of that in the middle, and its standard error; both at the two ends together."""

    variance: Float[np.ndarray, " vertex"]
    errors: Float[np.ndarray, " vertex"]
    ratio: float
    error: float

    @classmethod
    def of(cls, x: Float[np.ndarray, "sample vertex"], border: int) -> Edge:
        """Measure fields; the middle are the vertices at least `border` from both ends.

        Examples
        --------
        >>> x = np.random.default_rng(0).normal(size=(2000, 9)) * np.array([2, *[1] * 7, 2])
        >>> edge = Edge.of(x, 3)
        >>> abs(edge.ratio - 4) < 5 * edge.error
        True
        """
        squares = (x - x.mean(axis=0)) ** 2
        middle = squares[:, border : x.shape[1] - border].mean(axis=1, keepdims=True)
        parts = np.concatenate([squares, squares[:, [0, -1]].mean(axis=1, keepdims=True)], axis=1)
        ratio = parts.mean(axis=0) / middle.mean()
        influence = (parts - ratio * middle) / middle.mean()  # delta method
        error = influence.std(axis=0, ddof=1) / np.sqrt(len(x))
        return cls(ratio[:-1], error[:-1], float(ratio[-1]), float(error[-1]))


@final
class MirroredGaussianScore(Score):
    """The best linear score in the middle of an AR(1) chain, given to every vertex; the field is mirrored at its ends.

    Parameters
    ----------
    chain : AutoregressiveChain
    radius : int
        Of the window, in hops.

    Examples
    --------
    >>> score = MirroredGaussianScore(AutoregressiveChain(0.7, 9), radius=2)
    >>> bool(score.denoise(torch.ones(1, 9, 1, dtype=torch.float64), 0.5).std() < 1e-12)
    True
    """

    n_channels = 1

    def __init__(self, chain: AutoregressiveChain, radius: int) -> None:
        super().__init__()
        table = chain.graph.neighborhood(radius)
        assert table.offsets is not None
        assert chain.graph.lattice is not None
        self.n_vertices, self.radius = len(chain.graph), radius
        self._index = torch.from_numpy(reflected(chain.graph.lattice, table))
        self._window = chain.alpha ** np.abs(np.subtract.outer(table.offsets[:, 0], table.offsets[:, 0]))

    def forward(self, x: torch.Tensor, t: float | torch.Tensor) -> torch.Tensor:
        """Return D; `t` is one number."""
        a, s = signal_scale(float(t)), noise_scale(float(t))
        row = a * np.linalg.solve(a**2 * self._window + s**2 * np.eye(len(self._window)), self._window[0])
        return x[:, self._index, 0] @ torch.from_numpy(row)[:, None]


def exact_variance(
    chain: AutoregressiveChain, radius: int, sampler: Sampler
) -> dict[str, Float[np.ndarray, " vertex"]]:
    """Exact variance of what linear scores of an AR(1) chain generate, in units of that in the middle."""
    # Data whose second moment is the chain's covariance, exactly.
    x = np.sqrt(chain.n) * np.linalg.cholesky(chain.covariance()).T[..., None]
    _, _, truncated = fit_windowed(Samples(x, chain.graph, standard=(True,)), ((1.0, radius),), Pooling(0.0))
    scores: dict[str, Score] = {MIRRORED: MirroredGaussianScore(chain, radius), TRUNCATED: truncated}
    found = {name: sampler.push_forward(score)[1].diagonal().numpy() for name, score in scores.items()}
    return {name: variance / variance[chain.n // 2] for name, variance in found.items()}


def train_mirrored(
    z: Float[np.ndarray, "sample vertex channel"], graph: DependencyGraph, radius: int, recipe: PaperRecipe
) -> Score:
    """Train the paper's network, as the paper does."""
    return fit_paper(Samples(z, graph), radius, recipe)


def train_truncated(
    z: Float[np.ndarray, "sample vertex channel"], graph: DependencyGraph, radius: int, steps: int, seed: int
) -> Score:
    """Train a network of the same windows that is told which entries are there, by nearfield's recipe.

    The paper's network cannot be told, and takes zeros in the place of what is absent for data.
    """
    score = NetworkScore(WindowNetwork(graph, radius, seed=seed))
    # Of so many samples a few hundred held out are enough to stop by.
    usual = default_recipe(graph, len(z), validation_fraction=min(0.15, 200 / len(z)), seed=seed)
    recipe = replace(usual, steps=steps, batch_size=64)
    train(score, Samples(z, graph, standard=(True,)), recipe)
    return score


def measure(
    score: Score, z: Float[np.ndarray, "sample vertex channel"], sampler: Sampler, draws: int, seed: int
) -> Edge:
    """Draw from a network of the data z; the standard errors are those of draws and data together."""
    border = 2 * (score.radius or 0)
    drawn = sampler.sample(score, draws, seed=seed, batch_size=2000)[..., 0].double().numpy()
    found, data = Edge.of(drawn, border), Edge.of(z[..., 0], border)
    return found._replace(errors=np.hypot(found.errors, data.errors), error=float(np.hypot(found.error, data.error)))


def claims(exact: Mapping[str, Float[np.ndarray, " vertex"]], networks: Mapping[str, Edge]) -> list[Claim]:
    """State what mirrored data do to the variance at the ends, and that truncated windows do not."""
    ends = {name: round(float(variance[0]), 2) for name, variance in exact.items()}
    mirrored, truncated = networks[MIRRORED], networks[TRUNCATED]
    return [
        Claim(
            f"Linear scores of an AR(1) chain, exactly: the variance at an end is {ends[TRUNCATED]:.2f} of that in the "
            f"middle with truncated windows ({ASKED[TRUNCATED]:.2f} asked), {ends[MIRRORED]:.2f} of it with mirrored "
            f"data ({ASKED[MIRRORED]:.2f} asked).",
            ends == ASKED,
            "ours",
        ),
        Claim(
            f"Networks of the data: mirrored, the variance at the ends is {mirrored.ratio:.3f} +- {mirrored.error:.3f} "
            "of that in the middle (at least 1.2 asked).",
            mirrored.ratio >= 1.2,
            "ours",
        ),
        Claim(
            f"Networks of the data: with truncated windows it is {truncated.ratio:.3f} +- {truncated.error:.3f} of it "
            "(within 5 % or 2 standard errors of 1 asked).",
            abs(truncated.ratio - 1) <= max(0.05, 2 * truncated.error),
            "ours",
        ),
    ]


def draw_exact(ax: Axes, exact: Mapping[str, Float[np.ndarray, " vertex"]], title: str) -> None:
    """Variance against the position, exactly."""
    for name, variance in exact.items():
        ax.plot(1 + np.arange(len(variance)), variance, "o-", color=COLOUR[name], ms=3, lw=1.3, label=name)
    _label(ax, title)


def draw_networks(ax: Axes, networks: Mapping[str, Edge], title: str) -> None:
    """Variance against the position, with two standard errors."""
    for name, edge in networks.items():
        place = 1 + np.arange(len(edge.variance))
        low, high = edge.variance - 2 * edge.errors, edge.variance + 2 * edge.errors
        ax.fill_between(place, low, high, color=COLOUR[name], alpha=0.2, lw=0)
        ax.plot(place, edge.variance, "o-", color=COLOUR[name], ms=3, lw=1.3, label=f"{name}, ± 2 s.e.")
    _label(ax, title)


def _label(ax: Axes, title: str) -> None:
    ax.axhline(1, color="black", lw=0.8, ls="--")
    ax.set(xlabel="vertex", ylabel="variance / that in the middle", title=title)
