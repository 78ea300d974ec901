"""The command line: ``nearfield fit | sample | impute | score | report | info | demo | reproduce``.

Commands read files, call the library and write files. Exit codes are 0 (done), 1 (the data or the run failed, with one
line on stderr) and 2 (wrong usage). With ``--json`` a command prints one JSON object on stdout and nothing else.
PyTorch and xarray, which are slow to import, are imported inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import contextlib
import json
import sys
import warnings
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from nearfield._files import check_writable, read, read_for, read_observations, write
from nearfield._options import Scheduler, Workers, auto_or, marginal_of, method_name
from nearfield.methods import METHODS
from nearfield.tasks import cluster

if TYPE_CHECKING:
    from nearfield.estimator import LocalizedDiffusion

__all__ = ["app", "main"]

app = typer.Typer(
    name="nearfield",
    help="Learn a generative model of a random field from few samples; draw new members, fill gaps, score data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _field_file(path: Path) -> Path:
    """Accept the kinds of file that hold fields."""
    if path.suffix not in (".nc", ".zarr", ".npy"):
        raise typer.BadParameter(f"must end in .nc or .zarr (labelled), or .npy (plain array), got {str(path)!r}")
    return path


def _optional_file(path: Path | None) -> Path | None:
    """Accept no file too."""
    return None if path is None else _field_file(path)


Model = Annotated[Path, typer.Argument(help="Model, written by nearfield fit.", metavar="MODEL", show_default=False)]
Data = Annotated[
    Path,
    typer.Argument(
        help="netCDF, zarr, or .npy with samples first.", metavar="DATA", callback=_field_file, show_default=False
    ),
]
Fields = Annotated[
    Path,
    typer.Option("--out", "-o", help="Fields to write: .nc, .zarr or .npy.", callback=_field_file, show_default=False),
]
Count = Annotated[int, typer.Option("-n", "--n-samples", min=1, help="Number of members to draw.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Seed; by default a fresh one, which is printed.")]
Variables = Annotated[
    list[str] | None,
    typer.Option(
        "--variable", "-v", help="Variable of the file; repeat the option for several channels.", show_default=False
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]


@app.command()
def fit(
    data: Data,
    out: Annotated[Path, typer.Option("--out", "-o", help="Model file to write.", show_default=False)],
    variable: Variables = None,
    sample_dim: Annotated[
        list[str] | None,
        typer.Option(
            help="Dimension that counts the samples; repeat the option to stack several.", show_default="guessed"
        ),
    ] = None,
    radius: Annotated[Any, typer.Option(help="Hops, or auto.", parser=auto_or(int), metavar="HOPS")] = "auto",
    method: Annotated[
        str, typer.Option(help=f"Method of the fit: {', '.join(METHODS)}.", parser=method_name, metavar="METHOD")
    ] = "auto",
    pooling: Annotated[
        Any,
        typer.Option(help="0: every vertex alone; 1: one law for all; or auto.", parser=auto_or(float), metavar="P"),
    ] = "auto",
    marginal: Annotated[
        list[str] | None,
        typer.Option(
            help="auto, standardize, none, log, sqrt, yeo-johnson, quantile; or VARIABLE=NAME, repeated.",
            metavar="NAME",
            show_default="standardize",
        ),
    ] = None,
    missing: Annotated[
        Literal["allow", "error"], typer.Option(help="Whether values may be missing (NaN) in some samples.")
    ] = "allow",
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse a field whose draws have other moments than the data.")
    ] = False,
    seed: Seed = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Learn a model from samples of a field."""
    with _one_line_failure(quiet=quiet or as_json), cluster(workers, scheduler):
        check_writable(out, data, folder=True)
        from nearfield.data.lazy import is_large
        from nearfield.data.tile_store import begun_seed
        from nearfield.estimator import LocalizedDiffusion
        from nearfield.noise import seed_of

        field = read(data, variable)
        dims = sample_dim[0] if sample_dim is not None and len(sample_dim) == 1 else sample_dim
        kept = out if is_large(field) else None  # tiles go where the model is to be
        if seed is None and kept is not None:
            seed = begun_seed(kept)
        model = LocalizedDiffusion(
            radius=radius,
            method=method,
            pooling=pooling,
            marginal=marginal_of(marginal or ["standardize"]),
            random_state=seed_of(seed),
            verbose=_progress(quiet or as_json),
            strict=strict,
        )
        model.fit(field, sample_dim=dims, missing=missing, checkpoint=kept)
        model.save(out)
        _print_result({"model": str(out)} | _summary(out), as_json=as_json, quiet=quiet)


@app.command()
def sample(
    model: Model,
    out: Fields,
    n: Count = 100,
    seed: Seed = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Draw new members from a model."""
    with _one_line_failure(quiet=quiet or as_json), cluster(workers, scheduler):
        check_writable(out, model)
        from nearfield.noise import seed_of

        fitted, used = _load(model, quiet=quiet or as_json), seed_of(seed)
        if out.suffix == ".zarr":
            fitted.sample(n, random_state=used, store=out)
        else:
            write(out, fitted.sample(n, random_state=used))
        _print_result({"out": str(out), "members": n, "seed": used}, as_json=as_json, quiet=quiet)


@app.command()
def impute(
    model: Model,
    out: Fields,
    data: Annotated[
        Path | None,
        typer.Argument(
            help="Fields with gaps: netCDF, zarr, or .npy.",
            metavar="[DATA]",
            callback=_optional_file,
            show_default=False,
        ),
    ] = None,
    observations: Annotated[
        Path | None,
        typer.Option(
            help="CSV of one field's values at points: coordinates (or vertex), value, and error if not exact.",
            metavar="FILE.csv",
            show_default=False,
        ),
    ] = None,
    n: Count = 100,
    seed: Seed = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Fill the gaps (NaN) of fields with draws, or draw fields given observations at points."""
    inputs = [path for path in (data, observations) if path is not None]
    if not inputs:
        raise typer.BadParameter("needs DATA, or --observations", param_hint="DATA")
    with _one_line_failure(quiet=quiet or as_json), cluster(workers, scheduler):
        check_writable(out, model, *inputs)
        from nearfield.noise import seed_of
        from nearfield.observation import Observation

        fitted, used = _load(model, quiet=quiet or as_json), seed_of(seed)
        if data is not None and observations is None:
            fields = read_for(fitted, data)
            if out.suffix == ".zarr":
                fitted.impute(fields, n_samples=n, random_state=used, store=out)
            else:
                write(out, fitted.impute(fields, n_samples=n, random_state=used))
        else:
            seen = [Observation(read_for(fitted, data))] if data is not None else []
            seen += read_observations(fitted, observations) if observations is not None else []
            write(out, fitted.condition(*seen).sample(n, random_state=used))
        _print_result({"out": str(out), "members": n, "seed": used}, as_json=as_json, quiet=quiet)


@app.command()
def score(
    model: Model,
    data: Data,
    surprise: Annotated[
        Path | None,
        typer.Option(
            help="Also write how surprising each value is given all others: .nc, .zarr or .npy, in nats.",
            callback=_optional_file,
            show_default=False,
        ),
    ] = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Print the log-density of each sample, in nats, as CSV or JSON."""
    with _one_line_failure(quiet=quiet or as_json), cluster(workers, scheduler):
        if surprise is not None:
            check_writable(surprise, model, data)
        fitted = _load(model, quiet=quiet or as_json)
        field = read_for(fitted, data)
        found = fitted.score_samples(field).tolist()
        if surprise is not None and surprise.suffix == ".zarr":
            fitted.surprise(field, store=surprise)
        elif surprise is not None:
            write(surprise, fitted.surprise(field))
        if as_json:
            _print_result({"log_density": [x if isfinite(x) else None for x in found]}, as_json=True, quiet=quiet)
        elif not quiet:
            typer.echo("\n".join(["sample,log_density", *(f"{k},{x!r}" for k, x in enumerate(found))]))


@app.command()
def report(
    model: Model,
    data: Data,
    out: Annotated[Path, typer.Option("--out", "-o", help="HTML page to write.", show_default=False)],
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare a model with data in one HTML page.

    The same numbers are written as JSON beside it.
    """
    with _one_line_failure(quiet=quiet or as_json):
        check_writable(out, model, data)
        fitted = _load(model, quiet=quiet or as_json)
        fitted.report(out, read_for(fitted, data))
        _print_result({"report": str(out)}, as_json=as_json, quiet=quiet)


@app.command()
def info(model: Model, as_json: AsJson = False) -> None:
    """Summarise a model file."""
    with _one_line_failure(quiet=as_json):
        _print_result({"model": str(model)} | _summary(model), as_json=as_json, quiet=False)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.")] = Path("demo"),
    seed: Annotated[int, typer.Option(min=0, help="Seed.")] = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Learn embedded temperature maps and gravel, and draw new ones.

    Complete a map from 30 stations, draw gravel with a network, and write pictures and a report.
    """
    with _one_line_failure(quiet=quiet or as_json):
        from nearfield.demo.temperature import run

        result = run(out, seed=seed, quiet=quiet or as_json)
        if as_json:
            _print_result(result, as_json=True, quiet=quiet)


@app.command()
def reproduce(
    which: Annotated[
        Literal["fig1", "fig2", "fig3", "scaling", "companion", "samplers", "all"],
        typer.Argument(help="Which figure.", metavar="WHICH"),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.")] = Path("reproduction"),
    quick: Annotated[bool, typer.Option("--quick", help="A smaller run, under a minute each.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Reproduce the paper's figures, and extend them.

    WHICH is fig1, fig2, fig3, scaling, companion, samplers or all. Each writes a picture, its numbers and claims.
    """
    with _one_line_failure(quiet=quiet or as_json):
        from nearfield.reproduction import companion, figure1, figure2, figure3, samplers, scaling
        from nearfield.reproduction.experiment import require, run

        modules = {"fig1": figure1, "fig2": figure2, "fig3": figure3, "scaling": scaling}
        modules |= {"companion": companion, "samplers": samplers}
        experiments = {name: module.EXPERIMENT for name, module in modules.items()}
        chosen = list(experiments.values()) if which == "all" else [experiments[which]]
        found = {e.name: run(e, out, quick=quick, quiet=quiet or as_json) for e in chosen}
        if as_json:
            claims = {name: [{"claim": c.sentence, "holds": c.holds} for c in claims] for name, claims in found.items()}
            _print_result({"out": str(out), "claims": claims}, as_json=True, quiet=quiet)
        require(claim for claims in found.values() for claim in claims)


def main() -> None:
    """Run the command line."""
    app()


@contextlib.contextmanager
def _one_line_failure(*, quiet: bool) -> Iterator[None]:
    """Turn a failure of the data or the run into one line on stderr and exit code 1, and a warning into one line."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        if not quiet:
            typer.echo(f"warning: {' '.join(str(message).split())}", err=True)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default", UserWarning)
            warnings.showwarning = show
            yield
    except (ValueError, TypeError, OSError, MemoryError, ArithmeticError, ImportError) as error:
        typer.echo(f"error: {' '.join(str(error).split()) or type(error).__name__}", err=True)
        raise typer.Exit(1) from error


def _progress(quiet: bool) -> bool:
    return not quiet and sys.stderr.isatty()


def _print_result(result: dict[str, Any], *, as_json: bool, quiet: bool) -> None:
    """Print the result on stdout: one JSON object, or one ``name: value`` a line."""
    if as_json:
        typer.echo(json.dumps(result, allow_nan=False))
    elif not quiet:
        for name, value in result.items():
            typer.echo(f"{name.replace('_', ' ')}: {value}")


def _summary(path: Path) -> dict[str, Any]:
    """Read the summary in a model file without importing PyTorch, which takes seconds."""
    from nearfield.data.store import read
    from nearfield.data.tile_store import model_file

    metadata, _ = read(model_file(path))
    if "summary" not in metadata:
        raise ValueError(
            f"{path} is no model of this version of nearfield, or the checkpoint of a training; fit and save again"
        )
    summary: dict[str, Any] = metadata["summary"]
    return summary


def _load(path: Path, *, quiet: bool) -> LocalizedDiffusion:
    from nearfield.loading import load

    model: LocalizedDiffusion = load(path).set_params(verbose=_progress(quiet))
    return model
