"""The affine transform between data and the values the model is fitted to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

__all__ = ["Marginal"]


@final
@dataclass(frozen=True, eq=False)
class Marginal:
    """Location and scale of each vertex and channel: ``z = (x - center) / scale``.

    Parameters
    ----------
    center, scale : ndarray, (vertex, channel)
        In the units of the data. Scales are positive and finite.

    Raises
    ------
    ValueError
        If the shapes differ, a value is not finite or a scale is not positive.

    Examples
    --------
    >>> marginal = Marginal(np.full((3, 1), 10.0), np.full((3, 1), 2.0))
    >>> marginal.transform(np.full((1, 3, 1), 14.0)).ravel().tolist()
    [2.0, 2.0, 2.0]
    """

    center: Float[ndarray, "vertex channel"]
    scale: Float[ndarray, "vertex channel"]

    def __post_init__(self) -> None:
        center = np.array(self.center, dtype=np.float64)
        scale = np.array(self.scale, dtype=np.float64)
        if center.ndim != 2 or center.shape != scale.shape:
            raise ValueError(
                f"center and scale must have one shape (vertex, channel), got {center.shape} and {scale.shape}"
            )
        for name, array, right, rule in (
            ("center", center, np.isfinite(center), "finite"),
            ("scale", scale, np.isfinite(scale) & (scale > 0), "positive and finite"),
        ):
            if not right.all():
                vertex, channel = np.argwhere(~right)[0].tolist()
                raise ValueError(
                    f"{name} must be {rule}, got {array[vertex, channel]} at vertex {vertex}, channel {channel}; "
                    "take vertices that do not vary out of the data"
                )
            array.flags.writeable = False
            object.__setattr__(self, name, array)

    @classmethod
    def identity(cls, n_vertices: int, n_channels: int) -> Marginal:
        """Return the transform that changes nothing.

        Examples
        --------
        >>> Marginal.identity(3, 1).log_det()
        0.0
        """
        return cls(np.zeros((n_vertices, n_channels)), np.ones((n_vertices, n_channels)))

    def transform(self, x: Float[ndarray, "*sample vertex channel"]) -> Float[ndarray, "*sample vertex channel"]:
        """Standardise data; NaN stays NaN, float32 stays float32.

        Examples
        --------
        >>> Marginal(np.ones((1, 1)), np.full((1, 1), 2.0)).transform(np.array([[[5.0]]])).item()
        2.0
        """
        return ((x - self.center) / self.scale).astype(x.dtype, copy=False)

    def inverse(self, z: Float[ndarray, "*sample vertex channel"]) -> Float[ndarray, "*sample vertex channel"]:
        """Return standardised values to the units of the data.

        Examples
        --------
        >>> Marginal(np.ones((1, 1)), np.full((1, 1), 2.0)).inverse(np.array([[[2.0]]])).item()
        5.0
        """
        return (z * self.scale + self.center).astype(z.dtype, copy=False)

    def log_det(self) -> float:
        """Sum of ``log |dz / dx|`` over vertices and channels: what a log-density of z lacks to be one of x.

        Examples
        --------
        >>> round(Marginal(np.zeros((2, 1)), np.full((2, 1), 0.5)).log_det(), 4)
        1.3863
        """
        return 0.0 - float(np.sum(np.log(self.scale)))  # from 0, so that the identity has 0.0 and not -0.0

    def state(self) -> tuple[dict[str, Any], dict[str, ndarray]]:
        """Return a JSON-able configuration and the arrays, for `from_state`.

        Examples
        --------
        >>> sorted(Marginal.identity(3, 1).state()[1])
        ['center', 'scale']
        """
        return {}, {"center": self.center, "scale": self.scale}

    @classmethod
    def from_state(cls, config: dict[str, Any], arrays: dict[str, ndarray]) -> Marginal:  # noqa: ARG003
        """Rebuild from `state`.

        Examples
        --------
        >>> Marginal.from_state(*Marginal.identity(3, 1).state()).log_det()
        0.0
        """
        return cls(arrays["center"], arrays["scale"])
