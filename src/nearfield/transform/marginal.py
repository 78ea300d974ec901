"""From the units of the data to the values that the model is fitted to, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, final, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from nearfield.samples import FEWEST_TO_CHOOSE, Samples
from nearfield.transform.choice import FITS, choose
from nearfield.transform.latent import with_latents
from nearfield.transform.point_mass import PointMass
from nearfield.transform.rounding import Rounded, spread, step_of
from nearfield.transform.value import Identity, Values, ValueTransform, like, namespace, subject

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from numpy import ndarray

__all__ = ["Marginal", "MarginalChoice", "MarginalName", "check_choice"]

MarginalName = Literal["auto", "standardize", "none", "log", "sqrt", "yeo-johnson", "quantile"]
MarginalChoice: TypeAlias = MarginalName | Mapping[str | int, MarginalName]
"""A name for all variables, or names by variable (by channel number in arrays, 0 or "0"), "standardize" for others."""

_FOLDS = 5
_BLOCK = 1 << 16  # values mapped at once


@final
class Marginal(ValueTransform):
    """Transform of a field: one for each channel, then location and scale: ``z = (transform(x) - center) / scale``.

    It takes and returns tensors or arrays, of float32 or float64, and refuses data outside its domain with a
    ValueError. With tensors it is differentiable both ways.

    Parameters
    ----------
    center, scale : Tensor or ndarray, (vertex, channel)
        Of transformed data. Scales are positive and finite.
    transforms : sequence of ValueTransform
        One for each channel; none at all leave the values as they are.
    variables : sequence of str
        Names of the channels, for messages; empty where there are none.
    reason : str
        What was chosen or found in the data, and why, in sentences.

    Raises
    ------
    ValueError
        If the shapes differ, a value is not finite or a scale is not positive.

    Examples
    --------
    >>> marginal = Marginal(np.full((3, 1), 10.0), np.full((3, 1), 2.0))
    >>> z = marginal(np.full((1, 3, 1), 14.0))
    >>> z.ravel().tolist(), marginal.inv(z).ravel().tolist()
    ([2.0, 2.0, 2.0], [14.0, 14.0, 14.0])
    >>> marginal.log_abs_det_jacobian(z).sum(axis=(-2, -1)).round(4).tolist()
    [-2.0794]
    """

    settings = ("variables", "reason")
    center: Tensor
    scale: Tensor

    def __init__(
        self,
        center: Float[ndarray | Tensor, "vertex channel"],
        scale: Float[ndarray | Tensor, "vertex channel"],
        transforms: Sequence[ValueTransform] = (),
        variables: Sequence[str] = (),
        reason: str = "",
    ) -> None:
        super().__init__()
        center, scale = (torch.tensor(np.asarray(a, dtype=np.float64)) for a in (center, scale))
        if center.ndim != 2 or center.shape != scale.shape:
            raise ValueError(
                f"center and scale must have one shape (vertex, channel), got {tuple(center.shape)} and "
                f"{tuple(scale.shape)}"
            )
        _check_entries("center", center, center.isfinite(), "finite")
        _check_entries("scale", scale, scale.isfinite() & (scale > 0), "positive and finite")
        for name, given in (("transforms", transforms), ("variables", variables)):
            if len(given) not in (0, center.shape[1]):
                raise ValueError(f"{name} must be one for each of {center.shape[1]} channels, got {len(given)}")
        self.register_buffer("center", center)
        self.register_buffer("scale", scale)
        each = tuple(transforms) or tuple(Identity() for _ in range(center.shape[1]))
        self.transforms = nn.ModuleList(each)
        self.variables, self.reason = tuple(variables) or ("",) * len(each), reason
        self.domain = constraints.stack([transform.domain for transform in each], dim=-1)
        self.uniform = all(transform.uniform for transform in each)
        names = [transform.name for transform in each]
        named = (f"{variable}: {name}" for variable, name in zip(self.variables, names, strict=True))
        self.name = names[0] if len(set(names)) == 1 else ", ".join(named)

    @classmethod
    def fit(
        cls,
        x: Float[ndarray, "sample vertex channel"],
        choice: MarginalChoice,
        variables: Sequence[str | None],
        *,
        folds: Sequence[Int[ndarray, " _"]] = (),
        ordered: bool = False,
        seed: int = 0,
        ends: Sequence[tuple[float, float]] | None = None,
    ) -> Marginal:
        """Fit the transforms of a choice to data; location and scale are left 0 and 1, for `rescaled`.

        Parameters
        ----------
        x : ndarray, shape (sample, vertex, channel)
            Finite, or NaN where values are missing.
        choice : str or mapping
            As in `nearfield.LocalizedDiffusion`; ``"auto"`` chooses by held-out density.
        variables : sequence of str or None
            Names of the channels.
        folds : sequence of ndarray, optional
            Numbers of the samples of each fold, for ``"auto"``; by default five blocks.
        ordered : bool
            Whether the samples are in order of time.
        seed : int
            Of the values that rounded data are spread to.
        ends : sequence of (float, float), optional
            Lowest and highest value of each channel at all vertices, where x is of some of them.

        Raises
        ------
        ValueError
            If the choice has a variable that the data have not, or a transform cannot be fitted.

        Examples
        --------
        >>> x = np.random.default_rng(0).exponential(size=(50, 3, 2))
        >>> Marginal.fit(x, {"rain": "sqrt"}, ["rain", "sst"]).name
        'rain: sqrt, sst: standardize'
        """
        labels = [v or (f"channel {k}" if len(variables) > 1 else "") for k, v in enumerate(variables)]
        parts = folds or np.array_split(np.arange(len(x)), max(1, min(5, len(x) // 2)))
        transforms: list[ValueTransform] = []
        reasons = []
        for k, name in enumerate(_names(choice, variables)):
            values, label = x[..., k], labels[k]
            step = None if name == "none" else step_of(values)
            if step is not None:
                reasons.append(
                    f"{subject(label).capitalize()} are rounded to steps of {step:.4g}: values are spread over these "
                    "before the fit, and draws are rounded again."
                )
                values = spread(values, step, seed)
            if name == "auto":
                name, reason = choose(values, label, parts, ordered, None if ends is None else ends[k])
                reasons.append(reason)
            transform = FITS[name](values, label)
            transforms.append(transform if step is None else Rounded(transform, step, float(np.nanmin(x[..., k]))))
        return cls(np.zeros(x.shape[1:]), np.ones(x.shape[1:]), transforms, labels, " ".join(reasons))

    @classmethod
    def of(
        cls,
        samples: Samples,
        choice: MarginalChoice,
        variables: Sequence[str | None],
        seed: int = 0,
        ends: Sequence[tuple[float, float]] | None = None,
    ) -> Marginal:
        """Fit to samples, missing values left out; ``"auto"`` takes their folds."""
        folds = samples.folds(_FOLDS, seed % 2**32) if len(samples) >= FEWEST_TO_CHOOSE else ()
        kept: dict[str, Any] = {"folds": folds, "ordered": samples.ordered, "seed": seed, "ends": ends}
        return cls.fit(samples.values, choice, variables, **kept)

    def rescaled(self, center: Float[ndarray, "vertex channel"], scale: Float[ndarray, "vertex channel"]) -> Marginal:
        """Return the same transforms with this location and scale, of other vertices if they are `uniform`."""
        return Marginal(center, scale, self._each, self.variables, self.reason)

    def latent(self, samples: Samples, seed: int = 0) -> Samples:
        """Return transformed samples to fit a law to: rounded values spread over their steps, latents at a bound drawn.

        Latent values of data at a bound with a mass are drawn given those of adjacent vertices
        (`nearfield.transform.latent`); everything else is the transform.
        """
        x = samples.values
        if any(isinstance(transform, Rounded) for transform in self._each):
            x = x.copy()
        for k, transform in enumerate(self._each):
            if isinstance(transform, Rounded):
                x[..., k] = spread(x[..., k], transform.step, seed)
        z = self(x)
        if self.has_masses:
            z = with_latents(z, self.censored(x), self.censored(x, upper=True), samples.graph, seed)
        return samples.with_values(z, standard=self.standard)

    @property
    def has_masses(self) -> bool:
        """Whether values at a bound have a probability."""
        return any(isinstance(_unrounded(transform), PointMass) for transform in self._each)

    def censored(self, x: Values, *, upper: bool = False) -> Values:
        """Tell which values stand for a latent one beyond a threshold, and which threshold, in standardised units.

        Parameters
        ----------
        x : Tensor or ndarray, shape (..., vertex, channel)
            Data, in their units.
        upper : bool
            Values at an upper bound, whose latent value is above the threshold, rather than those at a lower one, whose
            latent value is below it.

        Returns
        -------
        Tensor or ndarray, shape (..., vertex, channel)
            Thresholds; NaN where the value is no bound with a mass.

        Examples
        --------
        >>> x = np.maximum(np.random.default_rng(0).normal(size=(200, 4, 1)), 0.0)
        >>> marginal = Marginal.fit(x, "quantile", [None])
        >>> marginal.censored(np.array([[[0.0], [1.0], [0.0], [2.0]]])).round(1).ravel().tolist()
        [0.0, nan, 0.0, nan]
        """
        xp = namespace(x)
        parts = []
        for k, transform in enumerate(self._each):
            each, values = _unrounded(transform), x[..., k]
            if isinstance(each, PointMass):
                parts.append(each.censored(values, upper=upper))
            else:
                parts.append(xp.full_like(values, float("nan")))
        threshold: Values = (xp.stack(parts, -1) - like(x, self.center)) / like(x, self.scale)
        return threshold

    @property
    def standard(self) -> tuple[bool, ...]:
        """Whether the values of a channel are standard already: no location and scale are fitted to them."""
        return tuple(transform.name == "none" for transform in self._each)

    @property
    def _each(self) -> tuple[ValueTransform, ...]:
        return tuple(self.transforms)  # type: ignore[arg-type]

    def _call(self, x: Values) -> Values:
        for k, (transform, variable) in enumerate(zip(self._each, self.variables, strict=True)):
            transform.check(x[..., k], variable)
        center, scale = like(x, self.center), like(x, self.scale)
        return self._blockwise(lambda block: (_by_channel(self._each, block) - center) / scale, x)

    def _inverse(self, y: Values) -> Values:
        inverses = [transform.inv for transform in self._each]
        center, scale = like(y, self.center), like(y, self.scale)
        return self._blockwise(lambda block: _by_channel(inverses, block * scale + center), y)

    def _log_slope(self, x: Values) -> Values:
        slopes = [transform.log_abs_det_jacobian for transform in self._each]
        log_scale = like(x, self.scale.log())
        return self._blockwise(lambda block: _by_channel(slopes, block) - log_scale, x)

    def _blockwise(self, function: Callable[[Any], Any], x: Values) -> Values:
        """Map some samples at a time, in float64, since a map needs several times the memory of its values."""
        if 0 in x.shape:
            return x
        samples = x.reshape(-1, *x.shape[-2:])
        step = max(1, _BLOCK // x.shape[-2])
        parts = (slice(start, start + step) for start in range(0, max(1, len(samples)), step))
        if isinstance(x, np.ndarray):  # tensors may carry gradients, which writing in parts would slow down
            out = np.empty_like(samples)
            for part in parts:
                out[part] = function(samples[part].astype(np.float64, copy=False))
            return out.reshape(x.shape)
        mapped = [function(samples[part].to(torch.float64)).to(x.dtype) for part in parts]
        joined: Values = torch.concatenate(mapped).reshape(x.shape)
        return joined


def _unrounded(transform: ValueTransform) -> ValueTransform:
    """Return the transform of values that are not rounded."""
    return transform.inner if isinstance(transform, Rounded) else transform


def check_choice(choice: MarginalChoice) -> None:
    """Refuse a choice with other names; its variables are checked with the data."""
    allowed = get_args(MarginalName)
    if not isinstance(choice, str | Mapping):
        raise TypeError(
            f"marginal must be one of {', '.join(allowed)}, or a mapping from variables to these, got {choice!r}"
        )
    for variable, name in choice.items() if isinstance(choice, Mapping) else [(None, choice)]:
        if name not in allowed:
            where = "" if variable is None else f" for {variable!r}"
            raise ValueError(f"marginal must be one of {', '.join(allowed)}, got {name!r}{where}; choose one")


def _by_channel(maps: Sequence[Callable[[Any], Any]], x: Values) -> Values:
    """Map each channel."""
    stacked: Values = namespace(x).stack([function(x[..., k]) for k, function in enumerate(maps)], -1)
    return stacked


def _check_entries(
    name: str, array: Float[Tensor, "vertex channel"], right: Bool[Tensor, "vertex channel"], rule: str
) -> None:
    """Refuse a location or scale of which an entry is not right."""
    if not right.all():
        vertex, channel = (~right).nonzero()[0].tolist()
        raise ValueError(
            f"{name} must be {rule}, got {float(array[vertex, channel])} at vertex {vertex}, channel {channel}; take "
            "vertices that do not vary out of the data"
        )


def _names(choice: MarginalChoice, variables: Sequence[str | None]) -> list[MarginalName]:
    """Return the name of the transform of each channel."""
    if not isinstance(choice, Mapping):
        return [choice] * len(variables)
    keys: list[str | int] = [k if variable is None else variable for k, variable in enumerate(variables)]
    given = {str(key): name for key, name in choice.items()}  # the command line has texts only
    if unknown := [key for key in choice if str(key) not in map(str, keys)]:
        raise ValueError(
            f"marginal must be for variables of the data, {keys}, got {unknown[0]!r}; give it for one of these"
        )
    return [given.get(str(key), "standardize") for key in keys]
