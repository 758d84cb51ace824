"""The commands of ``python -m search``."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from search.config.loading import Config

app = typer.Typer(
    help="Compress PyTorch networks by search: a trained network in, a physically smaller one out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"secateurs {version('secateurs')}")
        except PackageNotFoundError:
            typer.echo("secateurs, run from a folder without being installed")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version, and end.")
    ] = False,
) -> None:
    """Compress PyTorch networks by search: a trained network in, a physically smaller one out."""


ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file; see configs/.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Overrides by dotted path: stages.search.algorithm.generations=3"),
]
Trust = Annotated[
    list[str] | None,
    typer.Option(metavar="PACKAGE.MODULE", help="Code that a run folder of somebody else may run; may be repeated."),
]
From = Annotated[
    Path | None,
    typer.Option("--from", metavar="RUN_DIR", help="Take over from another run what has the same settings and inputs."),
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Folder of a run, such as runs/NAME.")]


@app.command()
def run(
    config: ConfigFile,
    overrides: Overrides = None,
    runs: Annotated[Path, typer.Option(help="Where run folders are kept.")] = Path("runs"),
    seeds: Annotated[int, typer.Option(min=1, max=100, help="Run with so many seeds; the report has mean and spread.")] = 1,
    strict: Annotated[bool, typer.Option("--strict", help="End with 3 where a target is not met.")] = False,
    earlier: From = None,
    trust: Trust = None,
) -> None:
    """Run a pipeline, or go on with one that was stopped; with torchrun, its trainings in several processes."""
    from search.launch import sharing

    with sharing() as share:
        if share is not None:
            _run(share(_load(config, overrides, trust)), runs, seeds, strict, earlier)


def _run(loaded: Config, runs: Path, seeds: int, strict: bool, earlier: Path | None) -> None:
    from search.output.endings import MISTAKE, NOT_MET, UnexpectedError
    from search.pipeline.repeat import repeat
    from search.report.summary import show_summary
    from spaces.errors import SecateursError

    folder = runs / loaded.name
    console = Console()
    try:
        report = repeat(loaded, folder, seeds, console, earlier)
    except KeyboardInterrupt:
        typer.echo(f"\nStopped. What is done is kept in {folder}; the same command goes on from there.", err=True)
        raise typer.Exit(130) from None
    except SecateursError:
        raise
    except Exception as error:
        raise UnexpectedError(folder) from error
    show_summary(report, folder, console)
    if report["failures"]:
        typer.echo("Nothing is lost. Mend what could not be measured, and the same command measures it.", err=True)
        raise typer.Exit(MISTAKE)
    missed = [one for one in report.get("seeds") or [report] if one["target_met"] is False]
    if strict and missed:
        which = f" by {len(missed)} of {seeds} seeds" if seeds > 1 else ""
        typer.echo(f"A target is NOT met{which}, which ends this command with {NOT_MET} (--strict).", err=True)
        raise typer.Exit(NOT_MET)


@app.command()
def resolve(
    folder: RunFolder,
    budgets: Annotated[
        list[str] | None, typer.Argument(metavar="[METRIC<=LIMIT]...", help='A network for each: "macs<=30%" "macs<=20%".')
    ] = None,
    sweep: Annotated[str | None, typer.Option(metavar="METRIC=A..B:N", help="Evenly spaced budgets: macs=10%..60%:6.")] = None,
    refine: Annotated[
        int | None, typer.Option(min=0, help="Generations of evolution behind the integer program; 0 for none.")
    ] = None,
    runs: Annotated[Path | None, typer.Option(help="Where run folders are kept; beside RUN_DIR by default.")] = None,
    stage: Annotated[str | None, typer.Option(metavar="N-search", help="The search, where the run has several.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="End with 3 where a target is not met.")] = False,
    trust: Trust = None,
) -> None:
    """Find networks at other budgets from the tables of a finished search, each in a run folder of its own."""
    _find_own_modules()
    from search.config.goal import parse_budgets
    from search.output.endings import MISTAKE, NOT_MET, UnexpectedError
    from search.pipeline.resolve import REFINEMENT, resolutions
    from search.pipeline.resolve import resolve as resolve_all
    from search.report.resolved import show_resolved
    from search.report.summary import show_summary
    from spaces.errors import SecateursError

    asked = resolutions(
        folder, parse_budgets(budgets or [], sweep), REFINEMENT if refine is None else refine, runs, stage, trust or []
    )
    console = Console()
    try:
        reports = resolve_all(folder, asked, console)
    except KeyboardInterrupt:
        typer.echo(f"\nStopped. What is done is kept in {asked[0].folder.parent}; the same command goes on.", err=True)
        raise typer.Exit(130) from None
    except SecateursError:
        raise
    except Exception as error:
        raise UnexpectedError(asked[0].folder) from error
    for one, found in zip(asked, reports, strict=True):
        show_summary(found, one.folder, console)
    show_resolved(reports[0], console)
    if any(found["failures"] for found in reports):
        raise typer.Exit(MISTAKE)
    if strict and any(found["target_met"] is False for found in reports):
        typer.echo(f"A target is NOT met, which ends this command with {NOT_MET} (--strict).", err=True)
        raise typer.Exit(NOT_MET)


@app.command()
def check(
    config: ConfigFile,
    overrides: Overrides = None,
    model: Annotated[bool, typer.Option("--model/--no-model", help="Also build the model and look at the data.")] = True,
    earlier: From = None,
    trust: Trust = None,
) -> None:
    """Show every error of a configuration with its place, and estimate time, memory and disk; with --from, what is reused."""
    from search.config.extras import require_extras

    loaded = _load(config, overrides, trust)
    typer.echo(f"{config}: {len(loaded.stages)} stages: {', '.join(stage.name for stage in loaded.stages)}")
    require_extras(loaded.canonical())
    if model or earlier is not None:
        from evaluators.training.hardware import torch_threads
        from search.output.remarks import network_remarks
        from search.pipeline.estimate import Passage, estimate
        from search.pipeline.rehearsal import rehearse
        from search.pipeline.reuse import tell_reuse
        from search.pipeline.start import Start

        start = Start(loaded)
        passages: list[Passage] = []
        with network_remarks(lambda remark: typer.echo(f"note: {remark}")), torch_threads(loaded.execution.threads_per_trial):
            for line in tell_reuse(start, earlier):
                typer.echo(line)
            for line in rehearse(loaded, start, passages) if model else ():
                typer.echo(line)
            for line in estimate(loaded, start, passages) if model else ():
                typer.echo(line)
    typer.echo("ok")


@app.command()
def inspect(
    config: ConfigFile,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    trust: Trust = None,
) -> None:
    """Show the model's channel groups, what is frozen and why, and what the model costs."""
    loaded = _load(config, overrides, trust)
    from search.output.remarks import network_remarks
    from search.pipeline.inspection import examine, show

    with network_remarks(lambda remark: typer.echo(f"note: {remark}", err=True)):
        found = examine(loaded)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        show(found, _wide_console())


@app.command()
def report(folder: RunFolder, trust: Trust = None) -> None:
    """Write report.html and the figures anew from the run's stored report.json; nothing of the folder is run."""
    from search.report.page import render

    _check_trust(trust)
    typer.echo(f"report: {render(folder)}")


@app.command()
def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN_DIR...", help="Folders of two runs or more.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="PAGE", help="Page to write.")] = Path("comparison.html"),
) -> None:
    """Put runs side by side on one page: results, targets, fronts, and the settings that differ; no folder is changed."""
    from search.report.comparison import compare as write_comparison

    typer.echo(f"comparison: {write_comparison(folders, output)}")


@app.command()
def dashboard(
    folder: RunFolder,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8080,
    host: Annotated[str, typer.Option(help="Address to listen on; the default is seen from this machine only.")] = "127.0.0.1",
    storage: Annotated[
        str | None, typer.Option(metavar="URL", help="The run's database, where its password is not in the environment.")
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Name under which browsers may call it, beside localhost.")
    ] = None,
    trust: Trust = None,
) -> None:
    """Open the Optuna dashboard on a run's studies; nothing of the folder is run."""
    from search.study.dashboard import serve

    _check_trust(trust)
    try:
        ask = typer.confirm if sys.stdin.isatty() else None
        serve(folder, host, port, announce=typer.echo, storage=storage, allow_hosts=allow_host or (), ask=ask)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


@app.command()
def fuse(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="ONNX file.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="Where the result is written.")],
    literal_types: Annotated[
        bool, typer.Option("--literal-types", help="Keep a PRelu where different types meet, even with a slope of 0 or 1.")
    ] = False,
    no_compare: Annotated[bool, typer.Option("--no-compare", help="Don't run the model; only check its structure.")] = False,
    shape: Annotated[
        list[str] | None, typer.Option(metavar="NAME=1,3,224,224", help="Shape of an input for the comparison.")
    ] = None,
    value: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Value of an input for the comparison: a number, true, false or a JSON list."),
    ] = None,
) -> None:
    """Merge connected activations of an ONNX file, and compare it with the original before it is written."""
    from search.config.extras import require_extra

    require_extra("onnx", "fuse")
    from search.fusing import fuse_file

    shapes, values = dict(map(_shape, shape or [])), dict(map(_value, value or []))
    for line in fuse_file(model, output, literal_types, shapes, not no_compare, values):
        typer.echo(line)


@app.command("list")
def list_registered(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show the options of one of them.")] = None,
) -> None:
    """List the registered spaces, sparsifiers, evaluators, data sets, algorithms, executors and stages."""
    from search.options import show_options
    from search.pipeline.inspection import registered, show_registered

    console = _wide_console()
    if name is not None:
        show_options(name, console)
        return
    show_registered(registered(), console)
    console.print("python -m search list NAME shows the options of one of them.", markup=False, highlight=False)


def _shape(text: str) -> tuple[str, list[int]]:
    name, _, sizes = text.rpartition("=")
    try:
        return name, [int(size) for size in sizes.split(",") if size.strip()]
    except ValueError:
        raise typer.BadParameter(f"expected NAME=1,3,224,224, got {text!r}") from None


def _find_own_modules() -> None:
    """Let a configuration name modules in the working folder: last on the path, so that its files shadow no library."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)


def _value(text: str) -> tuple[str, Any]:
    name, _, written = text.rpartition("=")
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(written)
        if name and isinstance(found, int | float | list):
            return name, found
    raise typer.BadParameter(f"expected NAME=VALUE, VALUE being a number, true, false or a JSON list, got {text!r}")


def _load(path: Path, overrides: list[str] | None, trust: list[str] | None) -> Config:
    _find_own_modules()
    from search.config.loading import load
    from search.trust.foreign_config import permitted

    with permitted(path, overrides or [], trust or []):
        return load(path, overrides or [])


def _check_trust(trust: list[str] | None) -> None:
    """Refuse what is no dotted path; the commands that run nothing need no trust, and take the option as the others do."""
    if trust:
        from search.trust.factories import trusted_packages

        trusted_packages(trust)


def _wide_console() -> Console:
    """Return a console that cuts nothing off when its output goes to a file or another program."""
    console = Console()
    return console if console.is_terminal else Console(width=160)
