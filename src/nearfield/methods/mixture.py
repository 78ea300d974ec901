"""A scale mixture in the eigenbasis of the Gaussian field, where the data clearly ask for one; else the field."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Literal, final

from nearfield.distribution import DiffusionModel, GaussianModel
from nearfield.fitting.local_mixture import fit_local_mixture
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.scale_mixture import choose_mixture
from nearfield.methods.base import FitOptions, Fitted, Method, fixed, keep_pooling, keep_radius
from nearfield.methods.gaussian import choose, fit_chosen
from nearfield.mixture import MixtureModel
from nearfield.samples import Samples
from nearfield.score.local_mixture import LocalMixtureScore

__all__ = ["Mixture"]


@final
@dataclass(frozen=True)
class Mixture(Method):
    """Scale mixture of Gaussian fields, exact in everything; the Gaussian field where held-out samples gain little.

    Parameters
    ----------
    radius : int or "auto"
        Of the field, as in `Gaussian`.
    pooling : float in [0, 1], Pooling, or "auto"
        As in `nearfield.LocalizedDiffusion`.
    weights : "whole" or "local"
        What the components are weighed by. The whole field gives exact draws and densities. Windows that grow with the
        noise give a localized score, which denoises better where the contrast varies within a field, is drawn from by
        a sampler and holds on larger lattices.
    """

    radius: int | Literal["auto"] = "auto"
    pooling: float | Pooling | Literal["auto"] = "auto"
    weights: Literal["whole", "local"] = "whole"

    def __post_init__(self) -> None:
        if self.weights not in ("whole", "local"):
            raise ValueError(f'weights must be "whole" or "local", got {self.weights!r}')
        keep_radius(self)
        keep_pooling(self)

    def _fit(self, samples: Samples, options: FitOptions) -> Fitted:
        """Choose and fit the field, then the mixture."""
        found = fit_chosen(samples, choose(samples, fixed(self.radius), fixed(self.pooling), options), options)
        start = time.perf_counter()
        y = samples.standardized(found.center, found.scale)
        mixture, reason = choose_mixture(y, found.field, one_law=found.pooling.one_law, seed=options.seed)
        fitted = found.fitted(GaussianModel(found.field, largest_eigenvalue=y.largest_eigenvalue))
        if mixture is not None and self.weights == "whole":
            fitted = replace(fitted, law=MixtureModel(mixture, found.field, y.largest_eigenvalue))
        elif mixture is not None:
            local = fit_local_mixture(y, found.pooling, seed=options.seed)
            fitted = replace(fitted, law=DiffusionModel(local, y.largest_eigenvalue, found.field), radius=local.radius)
            reason = f"{reason} {_described(local)}"
        seconds = fitted.seconds | {"mixture": time.perf_counter() - start}
        return replace(fitted, reason=f"{fitted.reason} {reason}", seconds=seconds)


def _described(score: LocalMixtureScore) -> str:
    used = [radius for _, radius in score.radius_by_time]
    return f"Its weights come from windows of {min(used)} to {max(used)} hops by noise level, those of lowest loss."
