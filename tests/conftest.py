"""The arrays of every call are checked against their annotations, unless NEARFIELD_CHECK_SHAPES=0."""

from __future__ import annotations

import builtins
import dataclasses
import importlib
import os
import pkgutil
import sys
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jaxtyping
import pytest

CHECKED = os.environ.get("NEARFIELD_CHECK_SHAPES", "1") != "0"


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Leave wrong shapes, passed on purpose, to the functions themselves."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let slow tests go without the checks, which the fast ones have."""
    for item in items:
        if item.get_closest_marker("slow") and isinstance(item, pytest.Function):
            item.fixturenames.insert(0, "unchecked")


@pytest.fixture(scope="session")
def two_processes() -> Iterator[str]:
    """Address of a Dask cluster of two processes; starting it takes seconds."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50) as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def client(two_processes: str) -> Iterator[typing.Any]:
    """Client of the cluster, active during the test."""
    from distributed import Client

    with Client(two_processes) as client:
        yield client


@pytest.fixture
def shapes_are_checked() -> None:
    """Skip a test of the checks where they are off."""
    if not CHECKED:
        pytest.skip("NEARFIELD_CHECK_SHAPES=0")


class _WithinThePackage:
    """TYPE_CHECKING that is true in the package's modules: jaxtyping takes a name that is not imported for Any."""

    def __bool__(self) -> bool:
        return sys._getframe(1).f_globals["__name__"].startswith("nearfield.")


_ORIGINAL = builtins.__import__
_JAXTYPED = jaxtyping.jaxtyped
_ASKED: list[tuple[dict[str, Any], str, Any]] = []  # who asked which module for which name before the module had it


def _import(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
    """Import as usual; a name that annotations take from a module half imported is Any until the module has it."""
    module = _ORIGINAL(name, globals, locals, fromlist, level)
    if name.startswith("nearfield."):
        for wanted in fromlist or ():
            if not hasattr(module, wanted):
                setattr(module, wanted, Any)
                _ASKED.append((globals, wanted, module))
    return module


def checked(function: Any) -> Any:
    """Check the arrays that a function takes and returns; plain types are for mypy, and tests pass wrong ones."""
    import beartype

    # beartype takes `Self` in whole classes only
    hints = {name: hint if _of_arrays(str(hint)) else Any for name, hint in function.__annotations__.items()}
    function.__annotations__ = hints
    return beartype.beartype(function, conf=beartype.BeartypeConf(is_pep484_tower=True))  # an int is a float


def _of_arrays(hint: str) -> bool:
    return "jaxtyping." in hint and "typing.Self" not in hint


def _jaxtyped(typechecker: Any) -> Callable[[Any], Any]:
    """Leave what takes and returns no arrays alone, and closures: they are made too often."""

    def decorated(function: Any) -> Any:
        if dataclasses.is_dataclass(function) and not hasattr(function.__init__, "__wrapped__"):
            function.__init__ = decorated(function.__init__)
        if not isinstance(function, types.FunctionType) or "<locals>" in function.__qualname__:
            return function
        hints = [_evaluated(hint, function.__globals__) for hint in function.__annotations__.values()]
        takes_arrays = any(_of_arrays(str(hint)) for hint in hints)
        return _JAXTYPED(function, typechecker=typechecker) if takes_arrays else function

    return decorated


def _evaluated(hint: Any, names: dict[str, Any]) -> Any:
    try:
        return eval(hint, names) if isinstance(hint, str) else hint
    except (NameError, TypeError):  # what is not imported yet, and aliases that are strings
        return Any


def _check_annotations() -> None:
    import torch  # noqa: F401  # it looks at the type of TYPE_CHECKING

    jaxtyping.jaxtyped = _jaxtyped  # the hook calls it by this name
    with (
        mock.patch.object(typing, "TYPE_CHECKING", _WithinThePackage()),
        mock.patch.object(builtins, "__import__", _import),
        jaxtyping.install_import_hook("nearfield", f"{__name__}.checked"),
    ):
        package = importlib.import_module("nearfield")
        for module in pkgutil.walk_packages(package.__path__, "nearfield."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    for names, wanted, source in _ASKED:
        names[wanted] = getattr(source, wanted)


if CHECKED:
    _check_annotations()
