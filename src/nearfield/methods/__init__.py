"""Methods to fit a law, one module each, and the table of their short names."""

from __future__ import annotations

from dataclasses import fields
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nearfield.methods.auto import Auto
    from nearfield.methods.base import FitOptions, Fitted, Method
    from nearfield.methods.gaussian import Gaussian
    from nearfield.methods.hybrid import Hybrid
    from nearfield.methods.masked import Masked
    from nearfield.methods.mixture import Mixture
    from nearfield.methods.neural import Neural
    from nearfield.methods.paper import Paper
    from nearfield.methods.windowed import Windowed

__all__ = [
    "METHODS", "Auto", "FitOptions", "Fitted", "Gaussian", "Hybrid", "Masked", "Method", "Mixture", "Neural", "Paper",
    "Windowed", "class_of", "method_of",
]  # fmt: skip

METHODS = {
    "auto": "the Gaussian field, and the hybrid at the noise levels where its held-out loss is clearly lower",
    "gaussian": "sparse Cholesky field, exact in everything",
    "mixture": "scale mixture of Gaussian fields, where held-out samples clearly gain by it",
    "windowed": "minimiser of the local loss (3.8) over linear scores",
    "masked": "masked inverse covariance (4.5) of the paper",
    "neural": "network trained by the local loss",
    "hybrid": "network whose context is the denoiser of the windowed Gaussian",
    "paper": "networks trained as the paper trains them",
}
"""Short names of the methods and their meanings; the class of a method is the capitalised name, in its module."""


def method_of(method: str | Method, **settings: Any) -> Method:
    """Return a method by its short name, with the settings of its class; a `Method` is returned as it is.

    Raises
    ------
    TypeError, ValueError
        If the name is none of `METHODS`, a setting is out of range, or a `Method` comes with settings besides its own.

    Examples
    --------
    >>> method_of("gaussian", radius=2, recipe=None)
    Gaussian(radius=2, pooling='auto')
    """
    from nearfield.methods.base import Method, defaults

    if isinstance(method, Method):
        for name, value in settings.items():
            if value is not defaults()[name] and value != defaults()[name]:
                raise ValueError(
                    f"{name} must keep its default with method={method!r}, which has its own settings, got {value!r}"
                )
        return method
    kind: Any = class_of(method)
    made: Method = kind(**{field.name: settings[field.name] for field in fields(kind) if field.name in settings})
    return made


def class_of(name: str) -> type[Method]:
    """Return the class of a short name."""
    if not isinstance(name, str) or name not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, or a Method, got {name!r}")
    kind: type[Method] = getattr(import_module(f"{__name__}.{name}"), name.capitalize())
    return kind


def __getattr__(name: str) -> Any:
    """Import a class at its first use, so that importing the table of names is fast."""
    module = "base" if name in ("Fitted", "FitOptions", "Method") else name.lower()
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{module}"), name)
