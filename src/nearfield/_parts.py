"""Parts of a fitted model as attributes of the estimator."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import numpy as np

from nearfield.data.codec import Codec
from nearfield.evaluation.training import TrainingMoments
from nearfield.fitting.fit_report import FitReport
from nearfield.fitting.pooling import Pooling
from nearfield.graph import DependencyGraph
from nearfield.methods.base import Radius
from nearfield.model import Model
from nearfield.score.base import Score
from nearfield.score.predictive import PredictiveField
from nearfield.transform.marginal import Marginal

__all__ = ["ModelParts"]


def _part(path: str) -> Any:
    """Return a property for a part of the fitted model."""
    return property(attrgetter(f"model_.{path}"))


class ModelParts:
    """Attributes that read the fitted model; without one they are missing, as scikit-learn wants it."""

    model_: Model
    graph_: DependencyGraph = _part("codec.graph")
    radius_: Radius = _part("radius")
    pooling_: Pooling = _part("pooling")
    score_: Score = _part("law.score")
    marginal_: Marginal = _part("marginal")
    codec_: Codec = _part("codec")
    fit_report_: FitReport = _part("fit_report")
    training_moments_: TrainingMoments | None = _part("training_moments")
    predictive_: PredictiveField | None = _part("predictive")
    band_: float = _part("band")
    n_features_in_: int = _part("n_features_in")
    feature_names_in_: np.ndarray = _part("feature_names")
