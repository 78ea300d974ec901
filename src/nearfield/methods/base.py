"""The contract of methods: settings, and a fit of samples."""

from __future__ import annotations

import abc
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from nearfield.distribution import Distribution
from nearfield.fitting.fit_report import FitReport
from nearfield.fitting.levels import LevelChoice
from nearfield.fitting.missing import MissingReport
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.rarity import warn_of_rare
from nearfield.fitting.search import Search
from nearfield.fitting.selection import SelectionReport
from nearfield.fitting.training import TrainingReport
from nearfield.samples import Samples

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["FitOptions", "Fitted", "Method", "Radius"]

Radius = int | tuple[tuple[float, int], ...]


@dataclass(frozen=True)
class FitOptions:
    """Options of a fit besides samples and settings.

    Parameters
    ----------
    search : Search
        Seed, threads over folds, and progress of the choice.
    checkpoint : path, optional
        File that keeps the state of a training, which resumes from it.
    on_step : callable, optional
        Called after each step of training with the steps taken, their number and the last held-out loss.
    device : str or torch.device
        Where networks are trained; ``"auto"`` is a GPU where there is one.
    bounded : bool
        Whether networks are shown windows alone, never the whole field, so that they can be evaluated tile by tile.
    """

    search: Search = field(default_factory=Search)
    checkpoint: str | os.PathLike[str] | None = None
    on_step: Callable[[int, int, float], object] | None = None
    device: str | torch.device = "auto"
    bounded: bool = False

    @property
    def seed(self) -> int:
        """Seed of folds, first weights and noise."""
        return self.search.seed


@dataclass(frozen=True)
class Fitted:
    """A fitted law with the choices made for it.

    Parameters
    ----------
    center, scale : ndarray, shape (vertex, channel)
        The law is of ``(x - center) / scale``.
    law : Distribution
    radius : int or tuple of (float, int)
        Hops, or OU times and hops.
    pooling : Pooling
    reason : str
        The choice in a sentence.
    seconds : dict of str to float
        Wall time of each stage.
    selection : SelectionReport or None
        None if nothing was left to choose.
    training : TrainingReport or None
        Of the first network, if any was trained.
    levels : tuple of LevelChoice or None
        Network against Gaussian field at each noise level.
    missing : MissingReport or None
        Where values are missing, and what it costs; None if none are.
    """

    center: Float[np.ndarray, "vertex channel"]
    scale: Float[np.ndarray, "vertex channel"]
    law: Distribution
    radius: Radius
    pooling: Pooling
    reason: str
    seconds: dict[str, float]
    selection: SelectionReport | None = None
    training: TrainingReport | None = None
    levels: tuple[LevelChoice, ...] | None = None
    missing: MissingReport | None = None

    def noted(self, reason: str) -> Fitted:
        """Add sentences to the reason."""
        return replace(self, reason=" ".join(filter(None, (self.reason, reason))))

    def report(self, n_samples: int, seed: int, warnings: Sequence[str], encoding: float) -> FitReport:
        """Return the report of the fit, with the seconds of encoding the samples."""
        return FitReport(
            selection=self.selection,
            seconds={"encode": encoding, **self.seconds},
            n_samples=n_samples,
            warnings=tuple(warnings),
            reason=self.reason,
            seed=seed,
            training=self.training,
            levels=self.levels,
            missing=self.missing,
        )


class Method(abc.ABC):
    """A way to fit a law; a subclass is a frozen dataclass of its settings.

    Attributes
    ----------
    keeps_checkpoint : bool
        Whether a fit can be resumed from a file.
    """

    keeps_checkpoint: ClassVar[bool] = False

    def fit(self, samples: Samples, options: FitOptions | None = None) -> Fitted:
        """Fit the law of samples.

        Raises
        ------
        ValueError
            If values are missing, or samples are too few for the choice or the training.

        Warns
        -----
        UserWarning
            If vertices vary rarely.
        """
        self.require(samples)
        warn_of_rare(samples)
        return self._fit(samples, options or FitOptions())

    @abc.abstractmethod
    def _fit(self, samples: Samples, options: FitOptions) -> Fitted:
        """Fit samples that `require` accepts."""

    def require(self, samples: Samples) -> None:
        """Refuse, before the computation, samples that the method cannot fit."""
        samples.require_complete()

    def seeded(self) -> bool:
        """Whether the settings alone fix all random numbers of a fit."""
        return False

    @property
    def n_checkpoints(self) -> int:
        """Number of checkpoint files."""
        return 1


def defaults() -> dict[str, Any]:
    """Return the defaults of the settings that the estimator passes on."""
    return {"radius": "auto", "pooling": "auto", "recipe": None, "validation_fraction": 0.15}


def automatic(value: Any) -> bool:
    """Whether a choice is left to the library."""
    return isinstance(value, str) and value == "auto"


def keep_radius(method: Any) -> None:
    """Check that the radius is a number of hops."""
    radius = method.radius
    if not automatic(radius) and (not isinstance(radius, Integral) or isinstance(radius, bool) or radius < 0):
        raise ValueError(f"radius must be a number of hops, 0 or more, or 'auto', got {radius!r}")
    object.__setattr__(method, "radius", "auto" if automatic(radius) else int(radius))


def keep_pooling(method: Any) -> None:
    """Check the pooling, and turn a number into a `Pooling`."""
    pooling = method.pooling
    if automatic(pooling) or isinstance(pooling, Pooling):
        return
    if not isinstance(pooling, Real) or isinstance(pooling, bool):
        raise TypeError(f"pooling must be a number in [0, 1], a Pooling or 'auto', got {pooling!r}")
    if not 0 <= float(pooling) <= 1:
        raise ValueError(f"pooling must be in [0, 1], got {pooling!r}")
    object.__setattr__(method, "pooling", Pooling(float(pooling)))


def keep_fraction(method: Any) -> None:
    """Check that the share is in (0, 1)."""
    fraction = method.validation_fraction
    if not isinstance(fraction, Real):
        raise TypeError(f"validation_fraction must be a number in (0, 1), got {fraction!r}")
    if not 0 < float(fraction) < 1:
        raise ValueError(f"validation_fraction must be in (0, 1), got {fraction!r}")


def keep_recipe(method: Any, kind: type) -> None:
    """Check the kind of the recipe."""
    if method.recipe is not None and not isinstance(method.recipe, kind):
        name = type(method).__name__.lower()
        raise TypeError(f"recipe must be a {kind.__name__} with method={name!r}, got {type(method.recipe).__name__}")


def fixed(value: Any) -> Any:
    """Return a setting, or None where its choice is left to the library."""
    return None if automatic(value) else value


def locality_reason(radius: Radius, pooling: Pooling) -> str:
    """Name radius and pooling in a sentence."""
    if isinstance(radius, int):
        return f"Radius {radius}, pooling strength {pooling.strength:g}."
    used = [r for _, r in radius]
    return (
        f"Radius {min(used)} to {max(used)} by noise level, each the smallest whose held-out denoising loss is within "
        f"one standard error of the lowest; pooling strength {pooling.strength:g}."
    )
