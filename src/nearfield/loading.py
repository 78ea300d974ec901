"""Models from files."""

from __future__ import annotations

import os

from nearfield._parameters import parameters_from_plain
from nearfield.estimator import LocalizedDiffusion
from nearfield.model import Model, of_another_make

__all__ = ["load"]


def load(path: str | os.PathLike[str]) -> LocalizedDiffusion:
    """Read a model written by `LocalizedDiffusion.save`.

    Parameters
    ----------
    path : path
        The model's file or folder. Reading it runs no code from it; tiles in a folder are read where they are needed.

    Returns
    -------
    LocalizedDiffusion
        Fitted; it draws the same members from the same seed as the one saved.

    Raises
    ------
    ValueError
        If it is not a model, of another version, truncated or altered, or an unfinished fit.
    OSError
        If it cannot be read.
    """
    model, parameters = Model.load(path)
    try:
        loaded = LocalizedDiffusion(**parameters_from_plain(parameters, model.codec.graph))
    except (KeyError, TypeError, ValueError) as lacking:
        raise of_another_make(path, lacking) from lacking
    loaded.model_, loaded.digest_ = model, model.digest(parameters)
    return loaded
