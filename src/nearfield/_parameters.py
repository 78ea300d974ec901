"""Checks of the parameters of `LocalizedDiffusion`, and their form in a model file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any, get_type_hints

import numpy as np
import torch
from pydantic import TypeAdapter

from nearfield.data import store
from nearfield.data.atomic_write import require_target
from nearfield.graph import DependencyGraph
from nearfield.methods import Method, class_of
from nearfield.sampling.sampler import Sampler
from nearfield.transform.marginal import check_choice

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "at_least_one",
    "check_checkpoint",
    "check_parameters",
    "check_sampling",
    "parameters_from_plain",
    "plain_parameters",
]


def check_parameters(parameters: Mapping[str, Any]) -> None:
    """Refuse invalid parameters of the constructor, except those of the method."""
    graph, n_jobs = parameters["graph"], parameters["n_jobs"]
    if graph is not None and not isinstance(graph, DependencyGraph):
        raise TypeError(f"graph must be a DependencyGraph or None, got {type(graph).__name__}")
    check_choice(parameters["marginal"])
    if n_jobs is not None and (not isinstance(n_jobs, Integral) or isinstance(n_jobs, bool)):
        raise TypeError(f"n_jobs must be a whole number or None, got {n_jobs!r}; -1 takes all cores")
    if n_jobs == 0:
        raise ValueError("n_jobs must be other than 0, got 0; -1 takes all cores")
    if not isinstance(parameters["strict"], bool):
        raise TypeError(f"strict must be True or False, got {parameters['strict']!r}")
    _check_device(parameters["device"])


def check_checkpoint(checkpoint: Any, name: Any, method: Method, random_state: Any, *, in_tiles: bool = False) -> None:
    """Refuse, before the fit, a checkpoint that could not be written or resumed from; that of tiles is a folder."""
    if in_tiles:
        if random_state is None:
            raise ValueError("checkpoint needs a random_state, got None: a fit without a seed cannot be resumed")
        return
    if not method.keeps_checkpoint:
        raise ValueError(
            f"checkpoint must be None with method={name!r}, which keeps none of data that are fitted whole"
        )
    if random_state is None and not method.seeded():
        raise ValueError("checkpoint needs a random_state, got None: a training without a seed cannot be resumed")
    for number in range(method.n_checkpoints):
        path = require_target("checkpoint", checkpoint if number == 0 else f"{os.fspath(checkpoint)}.{number}")
        if path.exists() and store.read(path)[0].get("kind") != "training":
            raise ValueError(
                f"checkpoint must be a new file or the checkpoint of a training, got the model {str(path)!r}"
            )


def _check_device(device: Any) -> None:
    """Refuse a value that names no device; its presence is checked at its use."""
    if not isinstance(device, str | torch.device):
        raise TypeError(f"device must be a name, such as 'auto' or 'cpu', got {device!r}")
    try:
        torch.device("cpu" if device == "auto" else device)
    except RuntimeError as error:
        raise ValueError(f"device must be 'auto' or a device of torch, such as 'cpu', got {device!r}") from error


def at_least_one(name: str, value: int) -> None:
    """Refuse a value that is no count."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number, at least 1, got {value!r}")


def check_sampling(n_samples: int, sampler: Any, steps: int | None, batch_size: int | None) -> None:
    """Refuse arguments of `LocalizedDiffusion.sample` that cannot be used."""
    at_least_one("n_samples", n_samples)
    if sampler is not None and not isinstance(sampler, Sampler):
        raise TypeError(f"sampler must be a Sampler or None, got {sampler!r}; see nearfield.sampling.sampler")
    if sampler is not None and steps is not None:
        raise ValueError(f"steps must be None with a sampler, which has its own, got {steps}")
    for name, value in (("batch_size", batch_size), ("steps", steps)):
        if value is not None:
            at_least_one(name, value)


def plain_parameters(parameters: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return the parameters as JSON values.

    The graph becomes a flag, since the layout of the data holds it; ``verbose`` becomes False, a generator ``seed``.
    """
    plain = dict(parameters) | {"graph": parameters["graph"] is not None, "verbose": False}
    if isinstance(plain["method"], Method):
        plain["method"] = {"name": type(plain["method"]).__name__.lower(), "settings": asdict(plain["method"])}  # type: ignore[call-overload]
    for name, value in plain.items():
        if is_dataclass(value) and not isinstance(value, type):
            plain[name] = asdict(value)
    if isinstance(plain["marginal"], Mapping):  # pairs, since JSON keys are strings
        plain["marginal"] = [[k if isinstance(k, str) else int(k), v] for k, v in plain["marginal"].items()]
    if isinstance(plain["random_state"], np.random.Generator | np.random.RandomState):
        plain["random_state"] = seed
    plain["device"] = str(plain["device"])
    return {k: v.item() if isinstance(v, np.generic) else v for k, v in plain.items()}


def parameters_from_plain(plain: Mapping[str, Any], graph: DependencyGraph) -> dict[str, Any]:
    """Rebuild the parameters from `plain_parameters` and the graph in use."""
    parameters = dict(plain) | {"graph": graph if plain["graph"] else None}
    method = plain["method"]
    if isinstance(method, str):
        parameters |= _typed(class_of(method), plain)
    else:
        kind = class_of(method["name"])
        parameters["method"] = kind(**dict(_typed(kind, method["settings"])))
    if isinstance(plain["marginal"], list):
        parameters["marginal"] = dict(plain["marginal"])
    return parameters


def _typed(kind: type[Method], plain: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the settings of a method, each of its declared type."""
    hints = get_type_hints(kind)
    for name in (field.name for field in fields(kind) if field.name in plain):  # type: ignore[arg-type]
        yield name, TypeAdapter(hints[name]).validate_python(plain[name])
