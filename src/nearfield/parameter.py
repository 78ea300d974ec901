"""Parameters of `LocalizedDiffusion`: what they may be, and how they stand in a model file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from numbers import Integral, Real
from typing import Any, Literal, get_args

import numpy as np
import torch

from nearfield.data import store
from nearfield.data.atomic_write import require_target
from nearfield.fitting.matching import NoiseLevels
from nearfield.fitting.method import Method
from nearfield.fitting.pooling import Pooling
from nearfield.fitting.recipe import Recipe
from nearfield.graph import DependencyGraph
from nearfield.paper.recipe import PaperRecipe
from nearfield.process import Schedule
from nearfield.transform.marginal import check_choice

__all__ = [
    "asked_pooling",
    "at_least_one",
    "check_checkpoint",
    "check_parameters",
    "parameters_from_plain",
    "plain_parameters",
    "usable_device",
]


def check_parameters(parameters: Mapping[str, Any]) -> None:
    """Refuse parameters that cannot be used.

    Parameters
    ----------
    parameters : mapping
        All that the constructor takes, by name.

    Raises
    ------
    TypeError, ValueError
        If one is of the wrong kind, out of range, or at odds with the method.

    Examples
    --------
    >>> from nearfield.estimator import LocalizedDiffusion
    >>> check_parameters(LocalizedDiffusion(radius=-1).get_params(deep=False))
    Traceback (most recent call last):
    ...
    ValueError: radius must be a number of hops, 0 or more, or 'auto', got -1
    """
    graph, method, radius = (parameters[name] for name in ("graph", "method", "radius"))
    if graph is not None and not isinstance(graph, DependencyGraph):
        raise TypeError(f"graph must be a DependencyGraph or None, got {type(graph).__name__}")
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {', '.join(get_args(Method))}, got {method!r}; choose one")
    check_choice(parameters["marginal"])
    if not _automatic(radius) and (not isinstance(radius, Integral) or isinstance(radius, bool) or radius < 0):
        raise ValueError(f"radius must be a number of hops, 0 or more, or 'auto', got {radius!r}")
    _check_pooling(parameters["pooling"], method)
    recipe, kind = parameters["recipe"], PaperRecipe if method == "paper" else Recipe
    if recipe is not None and not isinstance(recipe, kind):
        raise TypeError(f"recipe must be a {kind.__name__} with method={method!r}, got {type(recipe).__name__}")
    fraction = parameters["validation_fraction"]
    if not isinstance(fraction, Real):
        raise TypeError(f"validation_fraction must be a number in (0, 1), got {fraction!r}; .15 is usual")
    if not 0 < float(fraction) < 1:
        raise ValueError(f"validation_fraction must be in (0, 1), got {fraction!r}; .15 is usual")
    n_jobs = parameters["n_jobs"]
    if n_jobs is not None and (not isinstance(n_jobs, Integral) or isinstance(n_jobs, bool)):
        raise TypeError(f"n_jobs must be a whole number or None, got {n_jobs!r}; -1 takes all cores")
    if n_jobs == 0:
        raise ValueError("n_jobs must be other than 0, got 0; -1 takes all cores")
    if not isinstance(parameters["strict"], bool):
        raise TypeError(f"strict must be True or False, got {parameters['strict']!r}")
    _check_device(parameters["device"])


def _automatic(value: Any) -> bool:
    """Whether a choice is left to the library; of arrays, too, it is told without comparing their entries."""
    return isinstance(value, str) and value == "auto"


def check_checkpoint(checkpoint: Any, parameters: Mapping[str, Any]) -> None:
    """Refuse, before training rather than after it, a checkpoint that could not be written or gone on from.

    Raises
    ------
    TypeError, ValueError
        If it is no path; if the method keeps none, or chance would be another at each fit; if there is a file of
        another kind.
    OSError
        If its folder does not exist or cannot be written to, or it is a folder itself.
    """
    method, recipe = parameters["method"], parameters["recipe"]
    if method not in ("auto", "neural", "hybrid"):
        raise ValueError(f"checkpoint must be None with method={method!r}, which keeps none; leave it out")
    chosen = _automatic(parameters["radius"]) or _automatic(parameters["pooling"])
    if parameters["random_state"] is None and (recipe is None or chosen):  # else the recipe's seed is all there is
        raise ValueError(
            "checkpoint needs a random_state, got None, with which no run can be gone on from; give a number"
        )
    for member in range(1 if recipe is None else recipe.members):
        path = require_target("checkpoint", checkpoint if member == 0 else f"{os.fspath(checkpoint)}.{member}")
        if path.exists() and store.read(path)[0].get("kind") != "training":
            raise ValueError(f"checkpoint must be a file of a training or a new one, got the model {str(path)!r}")


def usable_device(device: str | torch.device) -> torch.device:
    """Return the device to draw on; ``"auto"`` is the processor.

    Raises
    ------
    ValueError
        If it is none that torch can use here.

    Examples
    --------
    >>> usable_device("auto")
    device(type='cpu')
    """
    try:
        found = torch.empty(0, device="cpu" if _automatic(device) else device).device
    except Exception as error:  # torch raises many kinds
        raise ValueError(
            f"device must be one that torch can use here, got {str(device)!r}; set_params(device='cpu')"
        ) from error
    if found.type == "meta":
        raise ValueError("device must have memory to draw in, got 'meta'; set_params(device='cpu')")
    return found


def _check_device(device: Any) -> None:
    """Refuse what names no device; whether this machine has it is seen when it is used."""
    if not isinstance(device, str | torch.device):
        raise TypeError(f"device must be a name, got {device!r}; 'auto' and 'cpu' are everywhere")
    try:
        torch.device("cpu" if _automatic(device) else device)
    except RuntimeError as error:
        raise ValueError(f"device must be 'auto' or a device of torch, got {device!r}; 'cpu' is everywhere") from error


def _check_pooling(pooling: Any, method: Method) -> None:
    if not isinstance(pooling, Pooling) and not _automatic(pooling):
        if not isinstance(pooling, Real) or isinstance(pooling, bool):
            raise TypeError(f"pooling must be a number in [0, 1], a Pooling or 'auto', got {pooling!r}")
        if not 0 <= float(pooling) <= 1:
            raise ValueError(f"pooling must be in [0, 1], got {pooling!r}; 0 fits every vertex alone")
    asked = asked_pooling(pooling)
    if method == "masked" and asked is not None and asked.strength > 0:
        raise ValueError("pooling must be 0 or 'auto' with method='masked': the paper's score (4.5) does not pool")


def asked_pooling(pooling: float | Pooling | Literal["auto"]) -> Pooling | None:
    """Return the pooling asked for; None to choose it.

    Examples
    --------
    >>> asked_pooling(1) == Pooling(1.0), asked_pooling("auto")
    (True, None)
    """
    if isinstance(pooling, Pooling):
        return pooling
    return None if pooling == "auto" else Pooling(float(pooling))


def at_least_one(name: str, value: int) -> None:
    """Refuse what is no count.

    Raises
    ------
    ValueError
        If `value` is no whole number, or below 1.

    Examples
    --------
    >>> at_least_one("n_samples", 0)
    Traceback (most recent call last):
    ...
    ValueError: n_samples must be a whole number, at least 1, got 0
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number, at least 1, got {value!r}")


def plain_parameters(parameters: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return parameters as JSON can say them.

    Parameters
    ----------
    parameters : mapping
        All that the constructor takes. Of the graph only whether there is one is kept: it stands with the layout of the
        data. ``verbose`` is kept as False.
    seed : int
        Kept in place of a generator.
    """
    plain = dict(parameters) | {"graph": parameters["graph"] is not None, "verbose": False}
    for name in ("recipe", "pooling"):
        if isinstance(plain[name], Recipe | PaperRecipe | Pooling):
            plain[name] = asdict(plain[name])
    if isinstance(plain["marginal"], Mapping):  # pairs, since JSON would make words of channel numbers
        plain["marginal"] = [[k if isinstance(k, str) else int(k), v] for k, v in plain["marginal"].items()]
    if isinstance(plain["random_state"], np.random.Generator | np.random.RandomState):
        plain["random_state"] = seed
    plain["device"] = str(plain["device"])
    return {k: v.item() if isinstance(v, np.generic) else v for k, v in plain.items()}


def parameters_from_plain(plain: Mapping[str, Any], graph: DependencyGraph) -> dict[str, Any]:
    """Rebuild the parameters from `plain_parameters` and the graph in use."""
    parameters = dict(plain) | {"graph": graph if plain["graph"] else None}
    if isinstance(plain["pooling"], dict):
        parameters["pooling"] = Pooling.from_plain(plain["pooling"])
    if plain["recipe"] is not None:
        parameters["recipe"] = _recipe(plain["recipe"], plain["method"])
    if isinstance(plain["marginal"], list):
        parameters["marginal"] = dict(plain["marginal"])
    return parameters


def _recipe(plain: dict[str, Any], method: Method) -> Recipe | PaperRecipe:
    if method == "paper":
        schedule = Schedule(tuple(plain["schedule"]["times"]))
        return PaperRecipe(**plain | {"widths": tuple(plain["widths"]), "schedule": schedule})
    lists = {name: tuple(value) for name, value in plain.items() if isinstance(value, list)}
    return Recipe(**plain | lists | {"levels": NoiseLevels(**plain["levels"])})
