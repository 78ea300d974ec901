"""Choice of the locality without a fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from nearfield._parameters import check_parameters
from nearfield.data.codec import Codec
from nearfield.data.suspicion import warn_of_samples
from nearfield.estimator import LocalizedDiffusion
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.search import Search
from nearfield.fitting.selection import SelectionReport, select_field
from nearfield.graph import DependencyGraph
from nearfield.methods.base import fixed
from nearfield.methods.gaussian import Gaussian
from nearfield.noise import seed_of

if TYPE_CHECKING:
    from nearfield.data.validation import Data

__all__ = ["select_radius"]


def select_radius(
    X: Data,
    *,
    graph: DependencyGraph | None = None,
    sample_dim: str | Sequence[str] | None = None,
    pooling: float | Pooling | Literal["auto"] = "auto",
    random_state: int | np.random.Generator | None = None,
) -> SelectionReport:
    """Choose the locality of a Gaussian field for data without fitting a model; arguments as in `LocalizedDiffusion`.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(80, 12))
    >>> select_radius(x, random_state=0).choice.radius
    0
    """
    check_parameters(LocalizedDiffusion(graph=graph).get_params(deep=False))
    fixed_pooling: Pooling | None = fixed(Gaussian(pooling=pooling).pooling)
    codec = Codec.fit(X, sample_dim=sample_dim, graph=graph)
    samples = codec.samples(X)
    warn_of_samples(samples, codec)
    return select_field(samples, pooling=fixed_pooling, search=Search(seed_of(random_state) % 2**32))
