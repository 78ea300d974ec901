"""Report of a fit in plain numbers and sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from nearfield.fitting.levels import LevelChoice
from nearfield.fitting.missing import MissingReport
from nearfield.fitting.selection import SelectionReport
from nearfield.fitting.training import TrainingReport

__all__ = ["FitReport"]


@final
@dataclass(frozen=True)
class FitReport:
    """Report of a fit.

    Parameters
    ----------
    selection : SelectionReport or None
        Choice of the locality; None if nothing was left to choose.
    seconds : dict of str to float
        Wall time of the stages.
    n_samples : int
        Samples fitted.
    warnings : tuple of str
        Texts of the warnings.
    reason : str
        The choices and their reasons.
    seed : int
        64-bit seed of the fit.
    training : TrainingReport or None
        Of the first network, if any was trained.
    levels : tuple of LevelChoice or None
        Network against Gaussian field at each noise level, with ``method="auto"``.
    missing : MissingReport or None
        Where values are missing; None if none are.
    """

    selection: SelectionReport | None
    seconds: dict[str, float]
    n_samples: int
    warnings: tuple[str, ...]
    reason: str
    seed: int
    training: TrainingReport | None = None
    levels: tuple[LevelChoice, ...] | None = None
    missing: MissingReport | None = None
