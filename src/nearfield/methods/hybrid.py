"""A network whose context is what a Gaussian makes of the state, and the Gaussian field where that is better."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, replace
from typing import final

from nearfield.distribution import DiffusionModel
from nearfield.fitting.expectation import DRAWS
from nearfield.fitting.moments import MomentWarning
from nearfield.fitting.neural import choose_levels
from nearfield.methods.base import FitOptions, Fitted, fixed
from nearfield.methods.gaussian import choose, fit_chosen
from nearfield.methods.network import NetworkMethod, fitted_network
from nearfield.process import time_of
from nearfield.samples import Samples
from nearfield.score.context import LARGEST_MAP
from nearfield.score.ensemble import EnsembleScore
from nearfield.score.hybrid import HybridScore
from nearfield.score.solver import is_large
from nearfield.score.switch import SwitchedScore

__all__ = ["Hybrid"]


@final
@dataclass(frozen=True)
class Hybrid(NetworkMethod):
    """Network with the denoiser of a Gaussian as context.

    Parameters
    ----------
    radius, pooling, recipe, validation_fraction
        As in `NetworkMethod`.
    noise_map : bool
        Train with a noise level of each value. Given observations of points (`condition`, `impute`), draws then take
        one pass of the ordinary sampler, two fifths of the time; missing values of the samples have infinite noise and
        are not drawn. Draws without observations are somewhat worse. Each map takes a dense factorisation, so that
        samples have at most 1,024 variables, and the time of a training step grows with their cube.

    A radius is what the network reads, on lattices half by itself and half by the Gaussian. At noise levels where the
    held-out loss of the Gaussian field is lower by more than one standard error, mostly the strongest, the score is the
    field's. Smaller differences are left to the network: what it adds there, the skewness of draws depends on. Fields
    of more than 20,000 variables, whose denoiser is dear, are not compared.
    """

    noise_map: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.noise_map, bool):
            raise TypeError(f"noise_map must be True or False, got {self.noise_map!r}")
        if self.noise_map and fixed(self.radius) is not None:
            raise ValueError(
                f"radius must be 'auto' with noise_map=True, which shows the network the whole field, got {self.radius}"
            )

    def require(self, samples: Samples) -> None:
        """Refuse samples of more variables than noise maps can have, too."""
        super().require(samples)
        n_variables = samples.n_vertices * samples.n_channels
        if self.noise_map and n_variables > LARGEST_MAP:
            raise ValueError(
                f"noise_map must be False beyond {LARGEST_MAP} variables, got samples of {n_variables}: each map takes "
                "a dense factorisation"
            )

    def _fit(self, samples: Samples, options: FitOptions) -> Fitted:
        """Fit the field, train, and compare the two at each noise level."""
        if is_large(samples.n_vertices * samples.n_channels):
            chosen = self.choose_locality(samples, options)
            return fitted_network(self.train(samples, "hybrid", chosen, options), chosen)
        chosen = choose(samples, None, fixed(self.pooling), options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MomentWarning)  # of the field's draws
            found = fit_chosen(samples, chosen, options, DRAWS)
        start = time.perf_counter()
        trained = self.train(samples, "noise map" if self.noise_map else "hybrid", chosen, options, found)
        levels = choose_levels(trained.samples, trained.fit, found.locality, options.seed)
        levels = tuple(level._replace(selected=level.hybrid - level.gaussian <= level.error) for level in levels)
        seconds = found.seconds | {"train": time.perf_counter() - start}
        fitted = replace(fitted_network(trained, chosen, found.field), levels=levels, seconds=seconds)
        others = [level.sigma for level in levels if not level.selected]
        if not others:
            return fitted
        network = trained.fit.score
        assert isinstance(network, HybridScore | EnsembleScore)
        score = SwitchedScore(found.field, network, tuple((time_of(each.sigma), each.selected) for each in levels))
        return replace(
            fitted,
            law=DiffusionModel(score, trained.samples.largest_eigenvalue),
            reason=f"{fitted.reason} The Gaussian field is the score at {len(others)} of {len(levels)} noise levels, "
            f"between {others[0]:.2g} and {others[-1]:.2g} times the signal, where its held-out loss is clearly lower.",
        )
