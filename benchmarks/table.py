"""Tables: printing, a section of a page in Markdown, the verdict on a bar and the ratio of two means."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float


def show(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], notes: str = "") -> None:
    """Print one table of plain text: first column to the left, the others to the right.

    Examples
    --------
    >>> show("Ages", ["who", "years"], [["Ann", "7"], ["Bob", "11"]])
    Ages
    who  years
    Ann      7
    Bob     11
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    print(title)
    for row in (header, *rows):
        numbers = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  ".join([row[0].ljust(widths[0]), *numbers]).rstrip())
    if notes:
        print(notes)


def write_section(page: Path, name: str, header: Sequence[str], rows: Sequence[Sequence[str]], notes: str = "") -> None:
    """Replace what a page has between ``<!-- name -->`` and ``<!-- /name -->`` with a table in Markdown.

    Raises
    ------
    ValueError
        If the page does not have both marks once, in this order.

    Examples
    --------
    >>> import tempfile
    >>> page = Path(tempfile.mkdtemp()) / "page.md"
    >>> _ = page.write_text("<!-- ages -->old<!-- /ages -->")
    >>> write_section(page, "ages", ["who", "years"], [["Ann", "7"]], "In whole years.")
    >>> print(page.read_text())
    <!-- ages -->
    | who | years |
    |---|---:|
    | Ann | 7 |
    <BLANKLINE>
    In whole years.
    <!-- /ages -->
    """
    text = page.read_text(encoding="utf-8")
    found = re.findall(f"<!-- {name} -->.*?<!-- /{name} -->", text, re.DOTALL)
    if len(found) != 1:
        raise ValueError(f"page must have one section <!-- {name} --> ... <!-- /{name} -->, got {len(found)} in {page}")
    rule = "|---" + "|---:" * (len(header) - 1) + "|"
    lines = [_line(header), rule, *map(_line, rows), *(["", notes.strip()] if notes else [])]
    section = "\n".join([f"<!-- {name} -->", *lines, f"<!-- /{name} -->"])
    page.write_text(text.replace(found[0], section), encoding="utf-8")


def publish(
    page: Path | None, name: str, header: Sequence[str], rows: Sequence[Sequence[str]], notes: str = ""
) -> None:
    """Print a table, and write it into its section of a page if there is one."""
    show(name, header, rows, notes)
    if page is not None:
        write_section(page, name, header, rows, notes)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def verdict(*pairs: tuple[float, float]) -> str:
    """Return "pass" if every number is at most its bar, else "short".

    Examples
    --------
    >>> verdict((1.0, 1.1), (2.0, 1.1))
    'short'
    """
    return "pass" if all(value <= bar for value, bar in pairs) else "short"


def ratio_of_means(numerator: Float[np.ndarray, " set"], denominator: Float[np.ndarray, " set"]) -> tuple[float, float]:
    """Ratio of two means over the same data sets, and its standard error by the delta method.

    To first order the ratio R errs as the mean of ``(numerator - R denominator) / mean(denominator)`` does.

    Examples
    --------
    >>> ratio_of_means(np.array([2.0, 4.0]), np.array([1.0, 2.0]))
    (2.0, 0.0)
    """
    ratio = numerator.mean() / denominator.mean()
    residual = numerator - ratio * denominator
    error = residual.std(ddof=1) / (denominator.mean() * np.sqrt(len(residual)))
    return float(ratio), float(error)
