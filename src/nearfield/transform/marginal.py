"""From the units of the data to the values that the model is fitted to, and back: a warp, then location and scale."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, final, get_args

import numpy as np

from nearfield.data.store import part_of
from nearfield.transform.quantile import Quantile
from nearfield.transform.value import Identity, Logarithm, SquareRoot, Warp

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

__all__ = ["Marginal", "MarginalChoice", "MarginalName", "check_choice"]

MarginalName = Literal["standardize", "none", "log", "sqrt", "quantile"]
MarginalChoice: TypeAlias = MarginalName | Mapping[str | int, MarginalName]
"""A name for all variables, or names by variable (by channel number in arrays, 0 or "0"), "standardize" for others."""

_BLOCK = 1 << 16  # values mapped at once


@final
@dataclass(frozen=True, eq=False)
class Marginal:
    """A warp for each channel, then location and scale of each vertex and channel: ``z = (warp(x) - center) / scale``.

    Parameters
    ----------
    center, scale : ndarray, (vertex, channel)
        Of warped data. Scales are positive and finite.
    warps : tuple of Warp
        One for each channel; none at all leave the values as they are.

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
    warps: tuple[Warp, ...] = ()

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
        if len(self.warps) not in (0, center.shape[1]):
            raise ValueError(f"warps must be one for each of {center.shape[1]} channels, got {len(self.warps)}")
        object.__setattr__(self, "warps", self.warps or (Identity(),) * center.shape[1])

    @classmethod
    def identity(cls, n_vertices: int, n_channels: int) -> Marginal:
        """Return the transform that changes nothing.

        Examples
        --------
        >>> Marginal.identity(3, 1).transform(np.full((1, 3, 1), 7.0)).ravel().tolist()
        [7.0, 7.0, 7.0]
        """
        return cls(np.zeros((n_vertices, n_channels)), np.ones((n_vertices, n_channels)))

    @classmethod
    def fit(
        cls, x: Float[ndarray, "sample vertex channel"], choice: MarginalChoice, variables: Sequence[str | None]
    ) -> Marginal:
        """Fit the warps to data; location and scale are left 0 and 1, for `rescaled`.

        Parameters
        ----------
        x : ndarray, (sample, vertex, channel)
            Finite.
        choice : str or mapping
            ``"standardize"`` and ``"none"`` do not warp; ``"log"``, ``"sqrt"`` and ``"quantile"`` are `Logarithm`,
            `SquareRoot` and `Quantile`.
        variables : sequence of str or None
            Names of the channels, for the keys of `choice` and for messages.

        Raises
        ------
        ValueError
            If a variable is unknown, or the data are outside the domain of a warp.

        Warns
        -----
        UserWarning
            If a warp does not suit its variable.

        Examples
        --------
        >>> x = np.random.default_rng(0).exponential(size=(50, 3, 2))
        >>> Marginal.fit(x, {"rain": "sqrt"}, ["rain", "sst"]).describe()
        'rain: sqrt, sst: standardize'
        """
        warps: list[Warp] = []
        for k, (name, variable) in enumerate(zip(_names(choice, variables), variables, strict=True)):
            label = variable or (f"channel {k}" if len(variables) > 1 else "")
            if name == "standardize" or name == "none":
                warps.append(Identity(label, standardized=name == "standardize"))
            elif name == "log":
                warps.append(Logarithm(label))
            else:
                warps.append((SquareRoot if name == "sqrt" else Quantile).fit(x[..., k], label))
        return replace(cls.identity(*x.shape[1:]), warps=tuple(warps))

    def rescaled(self, center: Float[ndarray, "vertex channel"], scale: Float[ndarray, "vertex channel"]) -> Marginal:
        """Return the same warps with this location and scale, of other vertices if the warps are `uniform`.

        Examples
        --------
        >>> Marginal.identity(1, 1).rescaled(np.ones((1, 1)), np.ones((1, 1))).transform(np.array([[[5.0]]])).item()
        4.0
        """
        return replace(self, center=center, scale=scale)

    def warp(self, x: Float[ndarray, "*sample vertex channel"]) -> Float[ndarray, "*sample vertex channel"]:
        """Warp data, and leave their location and scale; NaN stays NaN.

        Raises
        ------
        ValueError
            If data are outside the domain of a warp.

        Examples
        --------
        >>> Marginal.identity(1, 1).warp(np.array([[[5.0]]])).item()
        5.0
        """
        for k, warp in enumerate(self.warps):
            warp.check(x[..., k])
        return _by_channel([warp.transform for warp in self.warps], x)

    def transform(self, x: Float[ndarray, "*sample vertex channel"]) -> Float[ndarray, "*sample vertex channel"]:
        """Warp and standardise data; NaN stays NaN, float32 stays float32.

        Raises
        ------
        ValueError
            If data are outside the domain of a warp.

        Examples
        --------
        >>> Marginal(np.ones((1, 1)), np.full((1, 1), 2.0)).transform(np.array([[[5.0]]])).item()
        2.0
        """
        return ((self.warp(x) - self.center) / self.scale).astype(x.dtype, copy=False)

    def inverse(self, z: Float[ndarray, "*sample vertex channel"]) -> Float[ndarray, "*sample vertex channel"]:
        """Return standardised values to the units of the data.

        Examples
        --------
        >>> Marginal(np.ones((1, 1)), np.full((1, 1), 2.0)).inverse(np.array([[[2.0]]])).item()
        5.0
        """
        x = _by_channel([warp.inverse for warp in self.warps], z * self.scale + self.center)
        return x.astype(z.dtype, copy=False)

    def log_det(self, x: Float[ndarray, "*sample vertex channel"]) -> Float[ndarray, "*sample"]:
        """Sum of ``log dz / dx`` over vertices and channels: what a log-density of z lacks to be one of x.

        Examples
        --------
        >>> Marginal(np.zeros((2, 1)), np.full((2, 1), 0.5)).log_det(np.zeros((3, 2, 1))).round(4).tolist()
        [1.3863, 1.3863, 1.3863]
        """
        slopes = _by_channel([warp.log_slope for warp in self.warps], x)
        return (slopes - np.log(self.scale)).sum(axis=(-2, -1))

    @property
    def standardized(self) -> tuple[bool, ...]:
        """Whether location and scale are to be fitted to warped data, for each channel.

        Examples
        --------
        >>> Marginal.identity(3, 2).standardized
        (True, True)
        """
        return tuple(warp.name != "none" for warp in self.warps)

    @property
    def uniform(self) -> bool:
        """Whether the warps are one for all vertices; `Quantile` is not where vertices differ.

        Examples
        --------
        >>> Marginal.identity(3, 1).uniform
        True
        """
        return all(len(warp.center) == 1 for warp in self.warps if isinstance(warp, Quantile))

    def describe(self) -> str:
        """Name the warps, by variable where they differ.

        Examples
        --------
        >>> Marginal.identity(3, 2).describe()
        'standardize'
        """
        if len({warp.name for warp in self.warps}) == 1:
            return self.warps[0].name
        return ", ".join(f"{warp.variable}: {warp.name}" for warp in self.warps)

    def state(self) -> tuple[dict[str, Any], dict[str, ndarray]]:
        """Return a JSON-able configuration and the arrays, for `from_state`.

        Examples
        --------
        >>> sorted(Marginal.identity(3, 1).state()[1])
        ['center', 'scale']
        """
        configs, arrays = [], {"center": self.center, "scale": self.scale}
        for k, warp in enumerate(self.warps):
            config, named = warp.state()
            configs.append({"class": type(warp).__name__, **config})
            arrays |= {f"warp.{k}.{name}": array for name, array in named.items()}
        return {"warps": configs}, arrays

    @classmethod
    def from_state(cls, config: dict[str, Any], arrays: dict[str, ndarray]) -> Marginal:
        """Rebuild from `state`.

        Examples
        --------
        >>> Marginal.from_state(*Marginal.identity(3, 1).state()).describe()
        'standardize'
        """
        classes: dict[str, type[Warp]] = {c.__name__: c for c in (Identity, Logarithm, SquareRoot, Quantile)}
        warps = []
        for k, given in enumerate(config["warps"]):
            plain = {key: value for key, value in given.items() if key != "class"}
            warps.append(classes[given["class"]](**plain, **part_of(arrays, f"warp.{k}")))
        return cls(arrays["center"], arrays["scale"], tuple(warps))


def check_choice(choice: MarginalChoice) -> None:
    """Check the names of a choice; whether its variables exist is seen with the data.

    Raises
    ------
    TypeError
        If it is neither a name nor a mapping.
    ValueError
        If a name is unknown.

    Examples
    --------
    >>> check_choice({"rain": "cubic"})
    Traceback (most recent call last):
    ...
    ValueError: marginal must be one of standardize, none, log, sqrt, quantile, got 'cubic' for 'rain'; choose one
    """
    allowed = get_args(MarginalName)
    if not isinstance(choice, str | Mapping):
        raise TypeError(
            f"marginal must be one of {', '.join(allowed)}, or a mapping from variables to these, got {choice!r}"
        )
    for variable, name in choice.items() if isinstance(choice, Mapping) else [(None, choice)]:
        if name not in allowed:
            where = "" if variable is None else f" for {variable!r}"
            raise ValueError(f"marginal must be one of {', '.join(allowed)}, got {name!r}{where}; choose one")


def _by_channel(
    maps: Sequence[Callable[[ndarray], ndarray]], x: Float[ndarray, "*sample vertex channel"]
) -> Float[ndarray, "*sample vertex channel"]:
    """Map each channel, some samples at a time: a map needs several times the memory of what it maps."""
    samples = x.reshape(-1, *x.shape[-2:])
    mapped = np.empty_like(samples)
    step = max(1, _BLOCK // samples.shape[1])
    for start in range(0, len(samples), step):
        for k, function in enumerate(maps):
            mapped[start : start + step, :, k] = function(samples[start : start + step, :, k])
    return mapped.reshape(x.shape)


def _names(choice: MarginalChoice, variables: Sequence[str | None]) -> list[MarginalName]:
    """Name of the warp of each channel."""
    if not isinstance(choice, Mapping):
        return [choice] * len(variables)
    keys: list[str | int] = [k if variable is None else variable for k, variable in enumerate(variables)]
    given = {str(key): name for key, name in choice.items()}  # the command line has texts only
    if unknown := [key for key in choice if str(key) not in map(str, keys)]:
        raise ValueError(
            f"marginal must be for variables of the data, {keys}, got {unknown[0]!r}; give it for one of these"
        )
    return [given.get(str(key), "standardize") for key in keys]
