"""Options of the command line: how their values are read, and those that commands share."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from nearfield.methods import METHODS

__all__ = ["Scheduler", "Workers", "auto_or", "marginal_of", "method_name"]

Workers = Annotated[
    int | None,
    typer.Option(min=1, help="Processes on this machine, for fields in tiles.", metavar="N", show_default=False),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        help="Address of a running Dask scheduler, in place of --workers.", metavar="ADDRESS", show_default=False
    ),
]


def auto_or(number: type[int] | type[float]) -> Any:
    """Make a parser of ``auto`` or a number; other values are wrong usage."""

    def parse(value: str) -> int | float | Literal["auto"]:
        if value == "auto":
            return "auto"
        try:
            return number(value)
        except ValueError:
            raise typer.BadParameter(f"must be 'auto' or {number.__name__}, got {value!r}") from None

    return parse


def method_name(value: str) -> str:
    """Accept the short names of methods; other values are wrong usage."""
    if value not in METHODS:
        raise typer.BadParameter(f"must be one of {', '.join(METHODS)}, got {value!r}")
    return value


def marginal_of(options: list[str]) -> Any:
    """Read one name for all variables, or ``VARIABLE=NAME`` each time; other values are wrong usage."""
    parts = [part.rpartition("=") for part in options]
    known = ("auto", "standardize", "none", "log", "sqrt", "yeo-johnson", "quantile")
    if any(name not in known for _, _, name in parts) or (len(parts) > 1 and not all(sign for _, sign, _ in parts)):
        rule = f"must be one of {', '.join(known)}, or VARIABLE= and one of these each time, got {' '.join(options)!r}"
        raise typer.BadParameter(rule, param_hint="--marginal")
    return {variable: name for variable, _, name in parts} if parts[0][1] else parts[0][2]
