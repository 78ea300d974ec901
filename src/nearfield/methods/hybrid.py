"""A network whose context is what a Gaussian makes of the state, and the Gaussian field where that is better."""

from __future__ import annotations

import os
import time
import warnings
from dataclasses import dataclass, replace
from typing import Literal, final

import numpy as np

from nearfield.cascade import CascadeModel
from nearfield.distribution import DiffusionModel
from nearfield.fitting.covariance import location_and_scale
from nearfield.fitting.expectation import DRAWS
from nearfield.fitting.levels import keep_levels
from nearfield.fitting.moments import MomentWarning
from nearfield.fitting.neural import NETWORK_RADIUS, default_recipe, fit_conditional
from nearfield.fitting.pooling import Pooling
from nearfield.graph.haar import Haar
from nearfield.methods.base import FitOptions, Fitted, fixed
from nearfield.methods.gaussian import choose, fit_chosen
from nearfield.methods.network import NetworkMethod, fitted_network
from nearfield.process import time_of
from nearfield.samples import Samples
from nearfield.sampling.device import usable_device
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
    scales : 1 or 2
        With 2, such a network draws the means of blocks of two cells along each axis of a lattice, and another one the
        details given these: `nearfield.cascade.CascadeModel`. The radius is then in blocks. For fields with objects
        wider than a network reads, such as grains; complete samples of one law (``pooling=1``) on a lattice of even
        lengths. Such a law is drawn from and extended; it conditions and scores nothing.

    A radius is what the network reads, on lattices half by itself and half by the Gaussian. At noise levels where the
    loss of the Gaussian field is lower by more than one standard error, mostly the strongest, the score is the field's:
    on held-out samples, or by way of what the network is shown. Smaller differences are left to the network: what it
    adds there, the skewness of draws depends on. Fields of more than 20,000 variables, whose denoiser is dear, are not
    compared.
    """

    noise_map: bool = False
    scales: Literal[1, 2] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.noise_map, bool):
            raise TypeError(f"noise_map must be True or False, got {self.noise_map!r}")
        if self.noise_map and fixed(self.radius) is not None:
            raise ValueError(
                f"radius must be 'auto' with noise_map=True, which shows the network the whole field, got {self.radius}"
            )
        if self.scales not in (1, 2):
            raise ValueError(f"scales must be 1 or 2, got {self.scales!r}")
        if self.scales == 2 and self.noise_map:
            raise ValueError("noise_map must be False with scales=2, which conditions on nothing, got True")
        if self.scales == 2 and not (isinstance(self.pooling, Pooling) and self.pooling.one_law):
            raise ValueError(f"scales=2 needs one law for all vertices, got pooling={self.pooling!r}; give pooling=1")

    @property
    def n_checkpoints(self) -> int:
        """One for each network, that of the details last."""
        return super().n_checkpoints + self.scales - 1

    def require(self, samples: Samples) -> None:
        """Refuse what networks refuse; more variables than noise maps can have; of two scales gaps and odd lengths."""
        super().require(samples)
        n_variables = samples.n_vertices * samples.n_channels
        if self.noise_map and n_variables > LARGEST_MAP:
            raise ValueError(
                f"noise_map must be False beyond {LARGEST_MAP} variables, got samples of {n_variables}: each map takes "
                "a dense factorisation"
            )
        if self.scales == 2:
            samples.require_complete()
            Haar.of(samples.graph)

    def _fit(self, samples: Samples, options: FitOptions) -> Fitted:
        """Fit the field, train, and compare the two at each noise level; of two scales, the details too."""
        if self.scales == 2:
            return _in_two_scales(self, samples, options)
        if is_large(samples.n_vertices * samples.n_channels):
            chosen = self.choose_locality(samples, options)
            return fitted_network(self.train(samples, "hybrid", chosen, options), chosen)
        chosen = choose(samples, None, fixed(self.pooling), options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MomentWarning)  # of the field's draws
            found = fit_chosen(samples, chosen, options, DRAWS)
        start = time.perf_counter()
        trained = self.train(samples, "noise map" if self.noise_map else "hybrid", chosen, options, found)
        levels = keep_levels(trained.samples, trained.fit, found.locality, found.field, options.seed)
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
            f"between {others[0]:.2g} and {others[-1]:.2g} times the signal, where its loss is clearly lower.",
        )


def _in_two_scales(method: Hybrid, samples: Samples, options: FitOptions) -> Fitted:
    """Fit the block means as a field of their own, and a network of the details given them."""
    haar, n_given = Haar.of(samples.graph), samples.n_channels
    center, scale = location_and_scale(samples, Pooling(1.0))
    values = haar.split(samples.standardized(center, scale).values)
    scales = np.sqrt(np.mean(values**2, axis=(0, 1)))
    means, details, parts = (
        samples.with_values(part, haar.graph, channels=(), standard=(True,) * part.shape[2])
        for part in (*np.split(values / scales, [n_given], axis=2), values / scales)
    )
    recipe = default_recipe(haar.graph, len(samples), method.validation_fraction, options.seed)
    if method.recipe is not None:  # as many cells in a batch
        recipe = replace(method.recipe, batch_size=method.recipe.batch_size * haar.members.shape[1])
    coarse, radius = replace(method, scales=1, recipe=recipe).fit(means, options), fixed(method.radius)

    start, steps, tell, path = (
        time.perf_counter(),
        recipe.n_networks * recipe.steps,
        options.on_step,
        options.checkpoint,
    )
    score, training = fit_conditional(
        parts,
        n_given,
        NETWORK_RADIUS if radius is None else min(NETWORK_RADIUS, radius - radius // 2),
        recipe,
        checkpoint=None if path is None else f"{os.fspath(path)}.{recipe.n_networks}",
        progress=None if tell is None else lambda step, loss: tell(steps + step, steps + recipe.steps, loss),
        device=usable_device(options.device),
    )
    largest = max(coarse.law.largest_eigenvalue, details.largest_eigenvalue)
    return replace(
        coarse,
        center=center,
        scale=scale,
        law=CascadeModel(coarse.law, score, scales, samples.graph, largest),
        reason=f"Block means are drawn first, then the details given them. Means: {coarse.reason} Details: network "
        f"reading {score.radius} hops; held-out loss {training.best.loss:.4f} after {training.best.step} of "
        f"{len(training.losses)} steps.",
        seconds=coarse.seconds | {"details": time.perf_counter() - start},
    )
