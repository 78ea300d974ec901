"""What a fit did, in plain numbers and sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from nearfield.fitting.neural import LevelChoice
from nearfield.fitting.selection import SelectionReport
from nearfield.fitting.training import TrainingReport

__all__ = ["FitReport"]


@final
@dataclass(frozen=True)
class FitReport:
    """What a fit did.

    Parameters
    ----------
    selection : SelectionReport or None
        How the locality was chosen; None when nothing was left to choose.
    seconds : dict of str to float
        Wall time of the stages.
    n_samples : int
        Samples fitted.
    warnings : tuple of str
        What was warned of.
    reason : str
        What was chosen and why.
    seed : int
        64-bit seed of the fit.
    training : TrainingReport or None
        Of the network, if one was trained; of the first of several.
    levels : tuple of LevelChoice or None
        Network against Gaussian field at each noise level, with ``method="auto"``.
    """

    selection: SelectionReport | None
    seconds: dict[str, float]
    n_samples: int
    warnings: tuple[str, ...]
    reason: str
    seed: int
    training: TrainingReport | None = None
    levels: tuple[LevelChoice, ...] | None = None
