"""The paper's networks, trained as the paper trains them: sections 3 and 4.2 of arXiv 2505.04417."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal, final

from nearfield.distribution import DiffusionModel
from nearfield.fitting.covariance import location_and_scale
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.radius import select_radius_by_time
from nearfield.methods.base import (
    FitOptions,
    Fitted,
    Method,
    fixed,
    keep_pooling,
    keep_radius,
    keep_recipe,
    locality_reason,
)
from nearfield.paper.recipe import PaperRecipe, fit_paper
from nearfield.paper.vertex_training import VertexRecipe, fit_vertex_networks
from nearfield.samples import Samples
from nearfield.sampling.device import usable_device
from nearfield.score.base import Score

__all__ = ["Paper"]


@final
@dataclass(frozen=True)
class Paper(Method):
    """ReLU networks as the paper trains them, one for all vertices or one for each.

    Parameters
    ----------
    radius : int or "auto"
        Hops of the windows; ``"auto"`` takes the largest radius of the windowed score's table.
    pooling : float in [0, 1], Pooling, or "auto"
        Of location and scale; ``"auto"`` is 1.
    recipe : PaperRecipe or VertexRecipe, optional
        How networks are trained; a VertexRecipe has depth, widths, sparsity and bounds of the class (3.3), (3.16).
    networks : {"shared", "vertex"}
        ``"shared"``: one network for all vertices, section 4.2. ``"vertex"``: one for each, (3.8), trained apart and in
        parallel, each stopped by its own held-out loss.
    """

    radius: int | Literal["auto"] = "auto"
    pooling: float | Pooling | Literal["auto"] = "auto"
    recipe: PaperRecipe | VertexRecipe | None = None
    networks: Literal["shared", "vertex"] = "shared"

    def __post_init__(self) -> None:
        keep_radius(self)
        keep_pooling(self)
        if self.networks not in ("shared", "vertex"):
            raise ValueError(f'networks must be "shared" or "vertex", got {self.networks!r}')
        keep_recipe(self, PaperRecipe if self.networks == "shared" else VertexRecipe)

    def _fit(self, samples: Samples, options: FitOptions) -> Fitted:
        """Choose the radius, and train on all samples."""
        start = time.perf_counter()
        pooling: Pooling = fixed(self.pooling) or Pooling(1.0)
        radius: int | None = fixed(self.radius)
        if radius is None:
            radius = max(r for _, r in select_radius_by_time(samples, pooling, seed=options.seed))
        selected = time.perf_counter()
        center, scale = location_and_scale(samples, pooling)
        y = samples.standardized(center, scale)
        score, reason = self._train(y, radius, options)
        seconds = {"select": selected - start, "train": time.perf_counter() - selected}
        law = DiffusionModel(score, y.largest_eigenvalue)
        return Fitted(center, scale, law, radius, pooling, f"{locality_reason(radius, pooling)}{reason}", seconds)

    def _train(self, samples: Samples, radius: int, options: FitOptions) -> tuple[Score, str]:
        """Train the networks, and say what came of those of single vertices."""
        tell, seed = options.on_step, options.seed
        if self.networks == "vertex":
            assert not isinstance(self.recipe, PaperRecipe)
            total = samples.n_vertices
            score, training = fit_vertex_networks(
                samples,
                radius,
                self.recipe or VertexRecipe(seed=seed),
                n_jobs=options.search.n_jobs,
                progress=None if tell is None else lambda done, loss: tell(done, total, loss),
            )
            steps = training.best_step
            return score, (
                f" A network for each vertex, kept after {steps.min()} to {steps.max()} steps with a held-out loss of "
                f"{training.best_loss.mean():.4f} in the mean."
            )
        assert not isinstance(self.recipe, VertexRecipe)
        recipe = self.recipe or PaperRecipe(seed=seed)
        progress = None if tell is None else lambda step, loss: tell(step, recipe.steps, loss)
        return fit_paper(samples, radius, recipe, progress, usable_device(options.device)), ""
