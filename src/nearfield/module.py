"""Torch modules in model files: class, settings and parts as plain JSON, tensors by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from nearfield._plain import part_of

if TYPE_CHECKING:
    from numpy import ndarray

__all__ = ["Module", "as_tensor", "describe", "rebuild", "settings_of"]

_LOCATIONS = {
    "Components": "nearfield.score.mixture_components",
    "ConditionedScore": "nearfield.score.conditioned",
    "DenseBasis": "nearfield.score.eigenbasis",
    "DiffusionModel": "nearfield.distribution",
    "GaussianModel": "nearfield.distribution",
    "CascadeModel": "nearfield.cascade",
    "CoarseLaw": "nearfield.score.field",
    "ConditionalScore": "nearfield.score.hybrid",
    "EnsembleScore": "nearfield.score.ensemble",
    "FieldContext": "nearfield.score.context",
    "GaussianField": "nearfield.score.field",
    "HybridScore": "nearfield.score.hybrid",
    "Identity": "nearfield.transform.value",
    "LocalMixtureScore": "nearfield.score.local_mixture",
    "LocalizedSchroedingerBridge": "nearfield.posterior.bridge",
    "Logarithm": "nearfield.transform.value",
    "Marginal": "nearfield.transform.marginal",
    "MaskedGaussianScore": "nearfield.score.gaussian",
    "MixtureModel": "nearfield.mixture",
    "MixtureWindow": "nearfield.score.local_mixture",
    "NetworkDataScore": "nearfield.posterior.implicit",
    "NetworkScore": "nearfield.score.hybrid",
    "PaperNetwork": "nearfield.paper.score",
    "PaperScore": "nearfield.paper.score",
    "PointMass": "nearfield.transform.point_mass",
    "PolynomialScore": "nearfield.posterior.implicit",
    "PredictiveField": "nearfield.score.predictive",
    "Quantile": "nearfield.transform.quantile",
    "Rounded": "nearfield.transform.rounding",
    "ScaleMixtureField": "nearfield.score.scale_mixture",
    "SparseMatrix": "nearfield.score.sparse",
    "SquareRoot": "nearfield.transform.value",
    "StencilNetwork": "nearfield.score.stencil",
    "SwitchedScore": "nearfield.score.switch",
    "TiledFactor": "nearfield.score.tiled_factor",
    "TiledScore": "nearfield.score.tiled",
    "VertexNetworks": "nearfield.paper.vertex",
    "WaveBasis": "nearfield.score.eigenbasis",
    "WindowNetwork": "nearfield.score.window",
    "WindowSpectrum": "nearfield.score.gaussian",
    "WindowedGaussianScore": "nearfield.score.gaussian",
    "YeoJohnson": "nearfield.transform.power",
    "Zeros": "nearfield.transform.value",
}
"""Modules of the classes that a file may name; a file runs no other code."""


class Module(nn.Module):
    """A torch module that `rebuild` restores from `describe` and its state dict.

    The constructor takes settings, parts (modules of this kind, or a list or dict of them) and arrays, each of which
    becomes the attribute of that name; it takes ``graph`` or ``stored``, arrays of tiles in files, if it has such a
    parameter. Other tensors, such as weights,
    are loaded afterwards.
    """

    settings: ClassVar[tuple[str, ...]] = ()
    """Arguments of the constructor that are plain values."""

    def __init__(self) -> None:
        super().__init__()
        self.register_load_state_dict_post_hook(_loaded)

    @classmethod
    def graph_of_parts(cls, settings: Mapping[str, Any], graph: Any) -> Any:  # noqa: ARG003
        """Return the graph of the parts: that of the whole, unless a class says otherwise."""
        return graph

    def derive(self) -> None:
        """Forget the cached properties, once other tensors are loaded."""
        self._forget()

    def _forget(self) -> None:
        for name in _cached(type(self)):
            self.__dict__.pop(name, None)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._forget()  # cached tensors do not move with the module
        return self

    def __getstate__(self) -> dict[str, Any]:  # factorisations are not pickled
        return {name: value for name, value in self.__dict__.items() if name not in _cached(type(self))}


def _cached(kind: type[Module]) -> set[str]:
    """Names of the cached properties of a class."""
    return {name for base in kind.__mro__ for name, value in vars(base).items() if isinstance(value, cached_property)}


def _loaded(module: Module, keys: object) -> None:  # noqa: ARG001
    module.derive()


def as_tensor(values: ndarray | Tensor) -> Tensor:
    """Contiguous tensor of an array: sums over it round as those of a stored one do."""
    return values.contiguous() if isinstance(values, Tensor) else torch.from_numpy(np.require(values, None, ["C", "W"]))


def settings_of(module: Module) -> dict[str, Any]:
    """Return the plain arguments of the constructor."""
    return {name: getattr(module, name) for name in module.settings}


def describe(module: Module) -> dict[str, Any]:
    """Return the class, settings and parts of a module as JSON values; a TypeError for other classes."""
    name = type(module).__name__
    if name not in _LOCATIONS:
        raise TypeError(f"a {name} cannot be saved")
    attributes = ((key, getattr(module, key, None)) for key in _arguments(type(module)))
    parts = {
        key: _described(part) for key, part in attributes if isinstance(part, Module | nn.ModuleList | nn.ModuleDict)
    }
    return {"class": name, "settings": settings_of(module), "parts": parts}


def _described(part: nn.Module) -> Any:
    if isinstance(part, nn.ModuleList):
        return [_described(each) for each in part]
    if isinstance(part, nn.ModuleDict):
        return {"of": {key: _described(each) for key, each in part.items()}}
    assert isinstance(part, Module)
    return describe(part)


def rebuild(
    description: Mapping[str, Any], tensors: Mapping[str, Tensor], graph: object = None, stored: object = None
) -> Any:
    """Restore a module from `describe` and its state dict, without gradients.

    Parameters
    ----------
    description : mapping
    tensors : mapping of str to Tensor
        By their names in the state dict, none missing and no others. The module keeps them.
    graph : DependencyGraph
        For the modules that take it.
    stored : TileStore
        For the modules that keep their arrays in files.

    Raises
    ------
    TypeError
        If the class is not one of nearfield's.
    RuntimeError
        If tensors are missing or left over.
    """
    module = _made(description, tensors, {"graph": graph, "stored": stored})
    module.load_state_dict(dict(tensors), assign=True)
    return module.requires_grad_(False)


def _made(description: Any, tensors: Mapping[str, Tensor], given: Mapping[str, object]) -> Any:
    """Make a module, or a list or dict of modules."""
    if isinstance(description, list):
        return tuple(_made(part, part_of(tensors, str(k)), given) for k, part in enumerate(description))
    if "of" in description:
        return {key: _made(part, part_of(tensors, key), given) for key, part in description["of"].items()}
    kind = _kind(description["class"])
    names = _arguments(kind)
    inner = dict(given) | {"graph": kind.graph_of_parts(description["settings"], given["graph"])}
    parts = {key: _made(part, part_of(tensors, key), inner) for key, part in description["parts"].items()}
    arrays = {key: tensors[key] for key in names if key in tensors}
    others = {key: value for key, value in given.items() if key in names}
    return kind(**description["settings"], **parts, **arrays, **others)


def _kind(name: str) -> type[Module]:
    if name not in _LOCATIONS:
        raise TypeError(f"a {name} cannot be loaded: nearfield stores no such class")
    kind: type[Module] = getattr(import_module(_LOCATIONS[name]), name)
    return kind


def _arguments(kind: type[Module]) -> list[str]:
    return list(inspect.signature(kind).parameters)
