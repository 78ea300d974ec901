"""Axes, colours and lines that all pictures share.

Colours are from the palette of Okabe and Ito, which readers with any colour vision tell apart; data are dark grey,
generated fields blue.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ACCENT", "COLOURS", "DATA", "GENERATED", "LINES", "new_axes", "single_axes", "wrapped"]

DATA, GENERATED, ACCENT = "#444444", "#0072B2", "#D55E00"
COLOURS = (DATA, GENERATED, "#009E73", "#CC79A7")
LINES = ("-", "--", "-.", ":")


def new_axes(rows: int, columns: int, width: float, height: float) -> list[Axes]:
    """Axes of a new figure, row by row; inches."""
    from matplotlib.figure import Figure  # half a second to import

    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    return list(figure.subplots(rows, columns, squeeze=False).ravel())


def wrapped(text: str, width: int = 36) -> str:
    """Break a long name into lines that stay inside a small figure."""
    return textwrap.fill(text.strip(), width)


def single_axes(ax: Axes | None, width: float = 5.4, height: float = 3.6) -> Axes:
    """Return axes without the upper and right frame, of a new figure where none are given."""
    if ax is None:
        ax = new_axes(1, 1, width, height)[0]
    ax.spines[["top", "right"]].set_visible(False)
    return ax
