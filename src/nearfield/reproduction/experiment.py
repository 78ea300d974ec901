"""What the reproductions share: constants with their source, claims with their numbers, writing and running.

An experiment measures, draws a figure and states claims. Running it writes the figure (PNG and PDF) and the numbers
(JSON), prints a sentence for each claim, and fails when one does not hold; the files are written in that case as well.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, final, get_type_hints

import joblib
from matplotlib.figure import Figure
from tqdm import tqdm

import nearfield
from nearfield._plain import plain
from nearfield.data.atomic_write import replace_files

__all__ = [
    "Claim",
    "Experiment",
    "FailedClaimError",
    "Ours",
    "Paper",
    "Result",
    "Workers",
    "described",
    "main",
    "require",
    "run",
]

Value = TypeVar("Value")
Paper: TypeAlias = Annotated[Value, "paper"]
"""A constant of a settings class that arXiv 2505.04417 gives."""
Ours: TypeAlias = Annotated[Value, "our choice"]
"""A constant that the paper leaves open, or has no counterpart of."""
Source = Literal["paper", "ours"]


@final
@dataclass(frozen=True)
class Claim:
    """A statement with its numbers, and whether it is true of them.

    Parameters
    ----------
    sentence : str
        Plain words, with the numbers found and asked for.
    holds : bool
        Whether the numbers bear it out.
    source : {"paper", "ours"}
        Who claims it.

    Examples
    --------
    >>> Claim("The best radius is 6, neither the smallest nor the largest.", holds=True).source
    'paper'
    """

    sentence: str
    holds: bool
    source: Source = "paper"


class FailedClaimError(ValueError):
    """A claim does not hold; the message is its sentence."""


@final
@dataclass(frozen=True)
class Result:
    """What an experiment found.

    Parameters
    ----------
    settings : dataclass instance
        Its constants, each annotated as `Paper` or `Ours`.
    numbers : dict
        What was measured: numbers, strings, arrays, and dicts and lists of them.
    claims : tuple of Claim
        What is asserted of the numbers.
    figure : Figure
        The picture.
    """

    settings: Any
    numbers: dict[str, Any]
    claims: tuple[Claim, ...]
    figure: Figure


@final
@dataclass(frozen=True)
class Workers:
    """Processes that share the work of an experiment.

    Parameters
    ----------
    count : int
        Number of processes; 1 works in this one.
    quiet : bool
        Whether to show no progress; it goes to stderr where that is a terminal.
    """

    count: int = 1
    quiet: bool = True

    def map(self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], label: str) -> list[Any]:
        """Call a function with each of the arguments and return its results, in their order.

        Examples
        --------
        >>> Workers().map(divmod, [(7, 2), (9, 4)], "divide")
        [(3, 1), (2, 1)]
        """
        calls = (joblib.delayed(function)(*given) for given in arguments)
        results = joblib.Parallel(min(self.count, len(arguments)), return_as="generator")(calls)
        return list(tqdm(results, label, len(arguments), disable=True if self.quiet else None))


@final
@dataclass(frozen=True)
class Experiment:
    """A reproduction that can be run.

    Parameters
    ----------
    name : str
        Of its files.
    conduct : callable
        From the settings and the workers to the result.
    full, quick : dataclass instance
        Settings of the run that counts, and of one that takes under a minute.
    """

    name: str
    conduct: Callable[[Any, Workers], Result]
    full: Any
    quick: Any


def run(experiment: Experiment, out: Path, *, quick: bool = False, quiet: bool = False) -> tuple[Claim, ...]:
    """Conduct an experiment and write its results; files of an earlier run are replaced."""
    out.mkdir(parents=True, exist_ok=True)  # before the work: a wrong folder fails at once
    start = time.perf_counter()
    # To start processes takes seconds, more than they would save of a quick run.
    workers = Workers(1 if quick else joblib.cpu_count(), quiet)
    result = experiment.conduct(experiment.quick if quick else experiment.full, workers)
    seconds = time.perf_counter() - start
    content = {
        "experiment": experiment.name,
        "nearfield": nearfield.__version__,
        "quick": quick,
        "seconds": round(seconds, 1),
        "settings": described(result.settings),
        "claims": [{"source": c.source, "holds": c.holds, "sentence": c.sentence} for c in result.claims],
        "numbers": result.numbers,
    }
    text = json.dumps(plain(content, finite=True), indent=1, allow_nan=False) + "\n"
    files = {out / f"{experiment.name}.json": text.encode()}
    for suffix in ("png", "pdf"):
        buffer = io.BytesIO()
        # Without the date the file is a function of the numbers.
        result.figure.savefig(buffer, format=suffix, metadata={"CreationDate": None} if suffix == "pdf" else None)
        files[out / f"{experiment.name}.{suffix}"] = buffer.getvalue()
    replace_files(files)
    if not quiet:
        for claim in result.claims:
            print(f"{'holds' if claim.holds else 'FAILS'}  ({claim.source}) {claim.sentence}")
        print(f"{out / experiment.name}.png, .pdf and .json written after {seconds:.0f} s.", flush=True)
    return result.claims


def require(claims: Iterable[Claim]) -> None:
    """Fail with the sentences of the claims that do not hold.

    Examples
    --------
    >>> require([Claim("One is less than two.", holds=1 < 2)])
    """
    failed = [claim.sentence for claim in claims if not claim.holds]
    if failed:
        raise FailedClaimError(
            f"{len(failed)} claim{'s do' if len(failed) > 1 else ' does'} not hold: {' '.join(failed)}"
        )


def main(name: str, arguments: Sequence[str] | None = None) -> None:
    """Run one experiment from the shell: exit code 0, 1 with a sentence on stderr, or 2 for wrong usage."""
    parser = argparse.ArgumentParser(prog=f"python -m nearfield.reproduction.{name}")
    parser.add_argument("--quick", action="store_true", help="a smaller run, under a minute")
    parser.add_argument("--out", type=Path, default=Path("reproduction"), help="folder to write to")
    given = parser.parse_args(arguments)
    try:
        experiment: Experiment = import_module(f"nearfield.reproduction.{name}").EXPERIMENT
        require(run(experiment, given.out, quick=given.quick))
    except (FailedClaimError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from error


def described(settings: Any) -> dict[str, dict[str, Any]]:
    """Return the value and the source of every constant of a settings class.

    Examples
    --------
    >>> from nearfield.reproduction.figure2 import Settings
    >>> described(Settings())["steps"]
    {'value': 1000, 'source': 'paper'}
    """
    hints = get_type_hints(type(settings), include_extras=True)
    return {
        field.name: {"value": getattr(settings, field.name), "source": hints[field.name].__metadata__[0]}
        for field in fields(settings)
    }
