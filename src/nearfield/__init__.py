"""Localized diffusion models: new members of high-dimensional random fields from few samples (arXiv 2505.04417)."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nearfield.estimator import LocalizedDiffusion
    from nearfield.fitting.pooling import Pooling
    from nearfield.graph import DependencyGraph
    from nearfield.loading import load
    from nearfield.observation import Observation, average
    from nearfield.radius import select_radius

__all__ = ["DependencyGraph", "LocalizedDiffusion", "Observation", "Pooling", "average", "load", "select_radius"]
__version__ = version("nearfield")

_HOME = {
    "DependencyGraph": "nearfield.graph",
    "LocalizedDiffusion": "nearfield.estimator",
    "Observation": "nearfield.observation",
    "Pooling": "nearfield.fitting.pooling",
    "average": "nearfield.observation",
    "load": "nearfield.loading",
    "select_radius": "nearfield.radius",
}


def __getattr__(name: str) -> object:
    """Import a public name at its first use, so that the help of the command line does not import PyTorch."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
