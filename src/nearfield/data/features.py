"""Features of the data, as scikit-learn counts and names them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data

if TYPE_CHECKING:
    from nearfield.data.codec import Codec
    from nearfield.data.validation import Data

__all__ = ["Features"]


@dataclass(frozen=True)
class Features:
    """Numbers in a sample, and names of the columns of a data frame, none for other data."""

    number: int
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, data: Data, codec: Codec) -> Features:
        """Count the numbers in a sample and name the columns of a data frame."""
        if isinstance(data, xr.DataArray | xr.Dataset) or np.ndim(data) != 2:
            return cls(codec.layout.n_cells * codec.n_channels)
        estimator = BaseEstimator()
        validate_data(estimator, data, skip_check_array=True)
        return cls(estimator.n_features_in_, tuple(getattr(estimator, "feature_names_in_", ())))
