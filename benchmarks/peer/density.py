"""Densities of other libraries: a spline flow of zuko, and four estimators of scikit-learn."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch

from benchmarks.peer.contest import Contestant, Fitted, Split
from benchmarks.peer.training import train

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from benchmarks.law import Law

    Samples = Float[np.ndarray, "sample vertex channel"]


@final
class ZukoFlow(Contestant):
    """zuko's neural spline flow, trained by maximum likelihood; autoregressive on chains, coupling on lattices."""

    name = "zuko, spline flow"
    modules = ("zuko.flows",)
    kind = "density"

    def grid(self, law: Law) -> list[dict[str, Any]]:
        """Return transforms and hidden features; autoregressive transforms of a thousand vertices draw too slowly."""
        passes = None if law.graph.n_vertices <= 256 else 2
        return [
            {"transforms": k, "hidden": (w, w), "passes": passes, "rate": 2e-3, "batch": 32}
            for k in (1, 3)
            for w in (32, 128)
        ]

    def fit(self, setting: dict[str, Any], split: Split, seconds: float, *, final: bool) -> Fitted:  # noqa: ARG002
        """Train a fresh flow."""
        from zuko.flows import NSF

        used, unseen = (torch.from_numpy(part[..., 0]).float() for part in (split.used, split.unseen))
        size = used.shape[1]
        with torch.random.fork_rng():
            torch.manual_seed(split.seed)
            flow = NSF(
                size, transforms=setting["transforms"], hidden_features=setting["hidden"], passes=setting["passes"]
            )

        def loss(module: torch.nn.Module, batch: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG001
            return -module().log_prob(used[batch]).mean() / size

        @torch.no_grad()
        def held_out(module: torch.nn.Module) -> float:
            return float(-module().log_prob(unseen).mean() / size)

        found = train(
            flow,
            loss,
            held_out,
            n_samples=len(used),
            batch_size=setting["batch"],
            seconds=seconds,
            rate=setting["rate"],
            seed=split.seed,
        )

        @torch.no_grad()
        def log_prob(x: Samples) -> Float[np.ndarray, " sample"]:
            parts = torch.from_numpy(x[..., 0]).float().split(500)
            return torch.cat([flow().log_prob(part) for part in parts]).double().numpy()

        @torch.no_grad()
        def sample(n: int, seed: int) -> Samples:
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                return flow().sample((n,)).double().numpy()[..., None]

        return Fitted(found, log_prob=log_prob, sample=sample)


class Estimator(Contestant):
    """A density of scikit-learn; a subclass fits it to rows."""

    kind = "density"
    trained = False
    modules = ("sklearn.covariance", "sklearn.mixture", "sklearn.neighbors")

    def estimate(
        self, setting: dict[str, Any], x: Float[np.ndarray, "sample vertex"], seed: int
    ) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[int, int], np.ndarray]]:
        """Fit; return log-density of rows, and draws of so many with a seed."""
        raise NotImplementedError

    def fit(self, setting: dict[str, Any], split: Split, seconds: float, *, final: bool) -> Fitted:  # noqa: ARG002
        """Fit to the training part; for good to all the data."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of convergence: what it is worth, the held-out samples say
            density, draw = self.estimate(setting, (split.x if final else split.used)[..., 0], split.seed)
        size = split.x.shape[1]
        loss = float("nan") if final else float(-density(split.unseen[..., 0]).mean() / size)
        return Fitted(
            loss, log_prob=lambda x: density(x[..., 0]), sample=lambda n, seed: np.asarray(draw(n, seed))[..., None]
        )


def gaussian(
    mean: Float[np.ndarray, " vertex"], covariance: Float[np.ndarray, "vertex vertex"]
) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[int, int], np.ndarray]]:
    """Log-density of rows and draws of a Gaussian."""
    root = np.linalg.cholesky(covariance)

    def density(x: Float[np.ndarray, "sample vertex"]) -> Float[np.ndarray, " sample"]:
        z = np.linalg.solve(root, (x - mean).T)
        constant = len(mean) * np.log(2 * np.pi) / 2 + np.log(np.diag(root)).sum()
        return -0.5 * np.square(z).sum(axis=0) - constant

    def draw(n: int, seed: int) -> Float[np.ndarray, "sample vertex"]:
        return mean + np.random.default_rng(seed).standard_normal((n, len(mean))) @ root.T

    return density, draw


@final
class LedoitWolfGaussian(Estimator):
    """A Gaussian with shrunk covariance; the shrinkage has a formula, so nothing is searched."""

    name = "scikit-learn, Ledoit-Wolf Gaussian"

    def grid(self, law: Law) -> list[dict[str, Any]]:  # noqa: ARG002
        """Nothing to choose."""
        return [{}]

    def estimate(self, setting, x, seed):  # noqa: ARG002
        """Fit."""
        from sklearn.covariance import LedoitWolf

        found = LedoitWolf().fit(x)
        return gaussian(found.location_, found.covariance_)


@final
class GraphicalLassoGaussian(Estimator):
    """A Gaussian with sparse precision; the penalty is chosen by the estimator's own cross-validation."""

    name = "scikit-learn, GraphicalLassoCV"

    def grid(self, law: Law) -> list[dict[str, Any]]:  # noqa: ARG002
        """Of the cross-validation."""
        return [{"alphas": 4, "n_refinements": 2, "cv": 3}]

    def estimate(self, setting, x, seed):  # noqa: ARG002
        """Fit."""
        from sklearn.covariance import GraphicalLassoCV

        found = GraphicalLassoCV(**setting).fit(x)
        return gaussian(found.location_, found.covariance_)


@final
class Mixture(Estimator):
    """A mixture of Gaussians."""

    name = "scikit-learn, Gaussian mixture"

    def grid(self, law: Law) -> list[dict[str, Any]]:  # noqa: ARG002
        """Components and the kind of their covariances."""
        return [
            {"n_components": k, "covariance_type": kind, "reg_covar": r}
            for k, kind, r in ((4, "diag", 1e-3), (16, "diag", 1e-2), (2, "tied", 0.05), (2, "full", 0.1))
        ]

    def estimate(self, setting, x, seed):
        """Fit."""
        from sklearn.mixture import GaussianMixture

        found = GaussianMixture(**setting, random_state=seed).fit(x)

        def draw(n: int, seed: int) -> np.ndarray:
            found.random_state = seed
            rows = found.sample(n)[0]  # component by component
            return np.random.default_rng(seed).permutation(rows)

        return found.score_samples, draw


@final
class Kernels(Estimator):
    """Kernel density with Gaussian kernels."""

    name = "scikit-learn, kernel density"

    def grid(self, law: Law) -> list[dict[str, Any]]:  # noqa: ARG002
        """Bandwidths."""
        return [{"bandwidth": h} for h in (0.3, 0.45, 0.6, 0.8, 1.0, 1.3)]

    def estimate(self, setting, x, seed):  # noqa: ARG002
        """Fit."""
        from sklearn.neighbors import KernelDensity

        found = KernelDensity(**setting).fit(x)
        return found.score_samples, lambda n, seed: found.sample(n, random_state=seed)


DENSITIES: tuple[Contestant, ...] = (
    ZukoFlow(),
    LedoitWolfGaussian(),
    GraphicalLassoGaussian(),
    Mixture(),
    Kernels(),
)
