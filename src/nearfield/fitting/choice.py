"""Record of the candidates of a choice of the locality, in plain numbers."""

from __future__ import annotations

from dataclasses import dataclass

from nearfield.fitting.pooling import Pooling

__all__ = ["Candidate", "SelectionReport"]


@dataclass(frozen=True)
class Candidate:
    """Settings of one candidate, and its loss.

    Parameters
    ----------
    radius : int
        Hops of the conditioning sets.
    strength, bandwidth : float
        Of `Pooling`.
    loss, error : float
        Held-out negative log-density in nats per dimension, of the data in their own units, and its standard error.
    difference, difference_error : float
        Loss minus the best candidate's on the same samples, and the standard error of that paired difference.
    size : float
        Effective number of free parameters per dimension.
    location : Pooling or None
        Of location and scale; None for that of the correlations.
    nugget : float
        Of `Pooling`.
    """

    radius: int
    strength: float
    bandwidth: float
    loss: float
    error: float
    difference: float
    difference_error: float
    size: float
    location: Pooling | None = None
    nugget: float = 0.0

    @property
    def pooling(self) -> Pooling:
        """The settings as a `Pooling`."""
        return Pooling(self.strength, self.bandwidth, self.location, self.nugget)


@dataclass(frozen=True)
class SelectionReport:
    """Candidates of a choice of the locality, with the choice and its reason.

    Parameters
    ----------
    table : tuple of Candidate
        All candidates.
    chosen, best : int
        Places in ``table`` of the chosen and of the lowest-loss candidate.
    curve : tuple of Candidate
        Loss against radius at the chosen pooling, by increasing radius. If that was chosen too, location and scale are
        pooled as the correlations are.
    radius_by_time : tuple of (float, int) or None
        OU times and radii of the windowed score.
    folds : int
        Of the cross-validation.
    ordered : bool
        Whether folds were blocks in order of time.
    reason : str
        The choice in a sentence.
    """

    table: tuple[Candidate, ...]
    chosen: int
    best: int
    curve: tuple[Candidate, ...]
    radius_by_time: tuple[tuple[float, int], ...] | None
    folds: int
    ordered: bool
    reason: str

    @property
    def choice(self) -> Candidate:
        """The chosen candidate."""
        return self.table[self.chosen]
