"""nearfield among the contestants: as its estimator is used, trained for as many steps as the seconds allow.

The hybrid is not trained much longer than by default: what is left of the seconds goes into further networks.
"""

from __future__ import annotations

import abc
import time
from typing import TYPE_CHECKING, Any, final

import numpy as np

from benchmarks.peer.contest import HELD_OUT, LEVELS, Contestant, Fitted, Split
from nearfield import LocalizedDiffusion
from nearfield.fitting.neural import default_recipe
from nearfield.fitting.recipe import Recipe
from nearfield.paper.recipe import PaperRecipe

if TYPE_CHECKING:
    from benchmarks.law import Law

    Samples = np.ndarray

FIRST = 20
"""Steps of the first training, which tells how long a step takes."""


def fields(x: Samples, law: Law) -> np.ndarray:
    """Lay data out as the estimator takes them."""
    return x.reshape(len(x), *law.shape)


def fitted(model: LocalizedDiffusion, split: Split, loss: float) -> Fitted:
    """Wrap a model; methods without a density have none."""

    def log_prob(x: Samples) -> np.ndarray:
        return model.score_samples(fields(x, split.law))

    def sample(n: int, seed: int) -> Samples:
        parts = [
            model.sample(min(250, n - k), random_state=seed + k).reshape(-1, split.law.graph.n_vertices, 1)
            for k in range(0, n, 250)
        ]
        return np.concatenate(parts)

    return Fitted(loss, model.score_.denoise, log_prob if model.method == "gaussian" else None, sample)


def alike(setting: dict[str, Any]) -> tuple[Any, ...]:
    """Return what settings share whose steps take equally long."""
    return tuple(value for name, value in setting.items() if name != "learning_rate")


class Trained(Contestant):
    """A network of nearfield's: the first steps, which tell how many more fit, are part of the budget."""

    kind = "denoiser"
    own = True

    def begin(self, split: Split) -> None:  # noqa: ARG002
        """Forget what steps cost before."""
        self._costs: dict[tuple[Any, ...], tuple[float, float, float]] = {}

    def networks(self, setting: dict[str, Any], split: Split, steps: int) -> int:  # noqa: ARG002
        """Return how many networks share so many steps."""
        return 1

    def fit(self, setting: dict[str, Any], split: Split, seconds: float, *, final: bool) -> Fitted:
        """Fit a fresh model."""
        start = time.process_time()
        if alike(setting) not in self._costs:
            self._timed(setting, split, FIRST, final)
        once, network, each = self._costs[alike(setting)]
        left = seconds - (time.process_time() - start) - once
        steps = int((left - network) / each)
        steps = int((left - network * self.networks(setting, split, steps)) / each)
        return self.judged(self._timed(setting, split, max(steps, FIRST), final), split, final)

    @abc.abstractmethod
    def train(self, setting: dict[str, Any], split: Split, steps: int, final: bool) -> LocalizedDiffusion:
        """Fit with so many steps."""

    @abc.abstractmethod
    def judged(self, model: LocalizedDiffusion, split: Split, final: bool) -> Fitted:
        """Wrap a model with its held-out loss."""

    def _timed(self, setting: dict[str, Any], split: Split, steps: int, final: bool) -> LocalizedDiffusion:
        """Fit, and note the CPU seconds spent once, for each network, and in each step with its share of the checks."""
        start, wall = time.process_time(), time.perf_counter()
        model = self.train(setting, split, steps, final)
        spent, wall = time.process_time() - start, time.perf_counter() - wall
        report = model.fit_report_
        whole, one = min(report.seconds["train"], wall), report.training  # of the first network; others are as long
        in_steps = whole if one is None else min(one.seconds * steps / len(one.losses), whole)
        beside = (whole - in_steps) / self.networks(setting, split, steps)
        self._costs[alike(setting)] = tuple(value * spent / wall for value in (wall - whole, beside, in_steps / steps))
        return model


@final
class Hybrid(Trained):
    """The network conditioned on the windowed Gaussian; every fit finds out whether vertices share one law."""

    name = "nearfield, hybrid"

    def grid(self, law: Law) -> list[dict[str, Any]]:
        """Return learning rates.

        Half the batch wins the trials and loses the final fit: in few steps small batches are ahead, in many they are
        not (Cox-Ingersoll-Ross, 60 s, seeds 0-2: .0026 where it was chosen, .0020 and .0015 where not).
        """
        batch = min(32, max(4, 4096 // law.graph.n_vertices))
        return [{"learning_rate": rate, "batch_size": batch} for rate in (5e-3, 7e-3, 1e-2, 1.4e-2)]

    def networks(self, setting: dict[str, Any], split: Split, steps: int) -> int:
        """Return how many are trained about as long as by default."""
        usual = default_recipe(split.law.graph, len(split.x))
        return max(1, round(steps * setting["batch_size"] / (usual.steps * usual.batch_size)))

    def train(self, setting: dict[str, Any], split: Split, steps: int, final: bool) -> LocalizedDiffusion:  # noqa: ARG002
        """Fit to all the data, of which the first network holds out the same part as everybody, others other parts.

        The last weights are kept. Checks on the way would cost up to a sixth of the seconds, and what they choose from
        so few samples is no better (Cox-Ingersoll-Ross, four networks of 1500 steps, seeds 0-2: .00133 with the best of
        15 checks, .00126 with the last weights).
        """
        networks = self.networks(setting, split, steps)
        steps = max(steps // networks, 1)
        recipe = Recipe(
            steps=steps,
            check_every=steps,
            patience=1,
            held_out=HELD_OUT,
            held_out_levels=LEVELS,
            n_networks=networks,
            seed=split.seed,
            **setting,
        )
        model = LocalizedDiffusion(
            split.law.graph,
            method="hybrid",
            marginal="none",
            random_state=split.seed,
            recipe=recipe,
        )
        return model.fit(fields(split.x, split.law))

    def judged(self, model: LocalizedDiffusion, split: Split, final: bool) -> Fitted:  # noqa: ARG002
        """Measure the held-out loss, which decides between trials; of several networks it tells only that none failed.

        Others are trained on what the first holds out. So few samples do not tell one network from the best trial.
        """
        return fitted(model, split, split.loss(model.score_.denoise))


@final
class Paper(Trained):
    """The paper's recipe, which holds nothing out: tried on the training part, fitted for good to all the data."""

    name = "nearfield, the paper's recipe"

    def grid(self, law: Law) -> list[dict[str, Any]]:
        """Return radii and learning rates."""
        radii = (4, 8) if len(law.shape) == 1 else (1, 2)
        return [{"radius": radius, "learning_rate": rate} for radius in radii for rate in (1e-3, 4e-3)]

    def train(self, setting: dict[str, Any], split: Split, steps: int, final: bool) -> LocalizedDiffusion:
        """Fit."""
        recipe = PaperRecipe(steps=steps, learning_rate=setting["learning_rate"], seed=split.seed)
        model = LocalizedDiffusion(
            split.law.graph,
            radius=setting["radius"],
            method="paper",
            marginal="none",
            random_state=split.seed,
            recipe=recipe,
        )
        return model.fit(fields(split.x if final else split.used, split.law))

    def judged(self, model: LocalizedDiffusion, split: Split, final: bool) -> Fitted:
        """Measure the held-out loss, while there is one."""
        return fitted(model, split, float("nan") if final else split.loss(model.score_.denoise))


@final
class NearfieldGaussian(Contestant):
    """nearfield's Gaussian field, of closed form."""

    name = "nearfield, Gaussian field"
    kind = "density"
    own = True
    trained = False

    def grid(self, law: Law) -> list[dict[str, Any]]:  # noqa: ARG002
        """Nothing to choose: the locality is cross-validated."""
        return [{}]

    def fit(self, setting: dict[str, Any], split: Split, seconds: float, *, final: bool) -> Fitted:  # noqa: ARG002
        """Fit to all the data."""
        model = LocalizedDiffusion(split.law.graph, method="gaussian", marginal="none", random_state=split.seed)
        return fitted(model.fit(fields(split.x, split.law)), split, float("nan"))


OWN: tuple[Contestant, ...] = (Hybrid(), Paper(), NearfieldGaussian())
