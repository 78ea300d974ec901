"""What a fit returns, and what it goes by: the score with its choices, the plan of a training, the locality chosen."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nearfield.fitting.coarse import Scale
from nearfield.fitting.neural import LevelChoice
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.recipe import Recipe
from nearfield.fitting.selection import SelectionReport
from nearfield.fitting.training import TrainingReport
from nearfield.paper.recipe import PaperRecipe
from nearfield.score.base import Score
from nearfield.score.predictive import PredictiveField

if TYPE_CHECKING:
    from jaxtyping import Float

Radius = int | tuple[tuple[float, int], ...]


@dataclass(frozen=True)
class Fitted:
    """A fitted score and what was chosen on the way.

    Parameters
    ----------
    center, scale : ndarray, shape (vertex, channel)
        The score describes ``(x - center) / scale``.
    score : Score
    radius : int or tuple of (float, int)
        Hops, or OU times and hops.
    pooling : Pooling
    selection : SelectionReport or None
        None when nothing was left to choose.
    reason : str
        The choice in a sentence.
    seconds : dict of str to float
        Wall time of choosing, fitting and training.
    training : TrainingReport or None
        Of the network, if one was trained; of the first of several.
    levels : tuple of LevelChoice or None
        Network against Gaussian, where the method is to choose.
    predictive : PredictiveField or None
        What scores in place of a Gaussian field, where held-out score prefers it.
    correction : Scale or None
        How a Gaussian field is corrected at larger scales.
    band : float
        What conditional variances of a Gaussian field are multiplied by.
    """

    center: Float[np.ndarray, "vertex channel"]
    scale: Float[np.ndarray, "vertex channel"]
    score: Score
    radius: Radius
    pooling: Pooling
    selection: SelectionReport | None
    reason: str
    seconds: dict[str, float]
    training: TrainingReport | None = None
    levels: tuple[LevelChoice, ...] | None = None
    predictive: PredictiveField | None = None
    correction: Scale | None = None
    band: float = 1.0


@dataclass(frozen=True)
class Plan:
    """How a network is trained, and whom it tells.

    Parameters
    ----------
    recipe : Recipe or PaperRecipe, optional
        By default what `default_recipe` says; a PaperRecipe for "paper".
    validation_fraction : float
        Share of the samples held out, where no recipe is given.
    checkpoint : path, optional
        File the training is kept in, and gone on from if it is there.
    progress : callable, optional
        Called after each step with the steps taken, their number and the last held-out loss.
    """

    recipe: Recipe | PaperRecipe | None = None
    validation_fraction: float = 0.15
    checkpoint: str | os.PathLike[str] | None = None
    progress: Callable[[int, int, float], object] | None = None


class Chosen(NamedTuple):
    """Hops and pooling of the Gaussian field, how they were chosen and the seconds that took."""

    radius: int
    pooling: Pooling
    selection: SelectionReport | None
    reason: str
    seconds: float


def given(radius: Radius, pooling: Pooling) -> str:
    """Say which radius and pooling are in use."""
    if isinstance(radius, int):
        return f"Radius {radius}, pooling strength {pooling.strength:g}."
    used = [r for _, r in radius]
    return (
        f"Radius {min(used)} to {max(used)} by noise level, each the smallest whose held-out denoising loss is within "
        f"one standard error of the lowest; pooling strength {pooling.strength:g}."
    )
