"""With NEARFIELD_CHECK_SHAPES=1 the arrays of every call are checked against their annotations."""

from __future__ import annotations

import builtins
import importlib
import os
import pkgutil
import sys
import typing
from typing import Any
from unittest import mock


class _WithinThePackage:
    """TYPE_CHECKING that is true in the package's modules: jaxtyping takes a name that is not imported for Any."""

    def __bool__(self) -> bool:
        return sys._getframe(1).f_globals["__name__"].startswith("nearfield.")


_ORIGINAL = builtins.__import__
_ASKED: list[tuple[dict[str, Any], str, Any]] = []  # who asked for which name of which module before the module had it


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


def _check_annotations() -> None:
    import jaxtyping
    import torch  # noqa: F401  # it looks at the type of TYPE_CHECKING

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


if os.environ.get("NEARFIELD_CHECK_SHAPES") == "1":
    _check_annotations()
