"""Samples that a user may not have meant to give: gaps, repeats, circular values, records given as independent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nearfield.data.circular import warn_of_circles
from nearfield.data.duplicate import warn_of_duplicates
from nearfield.data.outlier import warn_of_gaps
from nearfield.data.validation import warn_of_correlation

if TYPE_CHECKING:
    from nearfield.data.codec import Codec
    from nearfield.samples import Samples

__all__ = ["warn_of_samples"]


def warn_of_samples(samples: Samples, codec: Codec) -> None:
    """Warn of gaps, repeats, circular values, and samples alike that are not known to be in order of time."""
    warn_of_gaps(samples.values)
    warn_of_duplicates(samples.groups)
    warn_of_circles(samples.values, [c.name for c in codec.channels], [c.attrs for c in codec.channels])
    if not samples.ordered:
        warn_of_correlation(samples.values, codec.container, codec.sample_dims)
