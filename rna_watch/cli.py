"""The commands: parse, call one function, print. The only place that exits."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import rna_watch
from rna_watch.acceleration.methods import ALONE, MEMBER_SETTINGS
from rna_watch.errors import NothingToDo, RnaWatchError
from rna_watch.options import GroupedCommand, config_of, settings, some_settings

if TYPE_CHECKING:
    from rna_watch.config import RunConfig
    from rna_watch.journal.replay import RunState
    from rna_watch.journal.run_paths import RunPaths

_FOLLOW_S = 0.5
_RUN = click.argument("run_dir", type=click.Path(path_type=Path))
_OUTPUT = click.option("--output", help="Where outputs and state lie, if not in the run directory.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(rna_watch.__version__, prog_name="rna-watch")
def app() -> None:
    """Better models from the checkpoints of a living training run, beside it and without touching it."""


@app.command(cls=GroupedCommand)
@_RUN
@settings
@click.option("--foreground", is_flag=True, help="Stay in the foreground, for containers and services.")
@click.option("--wait", is_flag=True, help="If RUN_DIR is not there yet, wait until the training makes it.")
@click.option("--no-terminal", is_flag=True, hidden=True)
@click.option("--chosen", type=click.Path(path_type=Path), hidden=True)
def start(
    run_dir: Path,
    config_file: Path | None,
    *,
    foreground: bool,
    wait: bool,
    no_terminal: bool,
    chosen: Path | None,
    **options: Any,
) -> None:
    """Watch RUN_DIR: extrapolate, evaluate and write back every checkpoint that appears, until `rna-watch stop`."""
    from rna_watch.daemon import background
    from rna_watch.journal import run_paths
    from rna_watch.journal.status import load as load_state

    config = config_of(config_file, options)
    if chosen is None:
        run_paths.await_run(run_dir, wait=wait, say=click.echo)
        run_dir = _settled("start", run_dir, config)
    where = run_paths.resolve(chosen or run_dir, config.output)
    if foreground:
        background.serve(config, where, to_terminal=not no_terminal)
        return
    pid = background.start(where, [*sys.argv[sys.argv.index("start") + 1 :], "--chosen", str(where.run)])
    click.echo(f"watching {where.run} (process {pid})\nmodels   {where.models}")
    for problem in load_state(where)[0].problems.values():
        click.echo(f"problem  {problem.what}; {problem.remedy}")
    if not config.evaluator and not config.evaluate_command:
        click.echo("note     nothing is evaluated: add --evaluator FILE.py:function to know which models are better")
    click.echo(f"look     rna-watch dashboard {run_dir}   (or: status, logs; end with: rna-watch stop {run_dir})")


@app.command(cls=GroupedCommand)
@_RUN
@settings
def once(run_dir: Path, config_file: Path | None, **options: Any) -> None:
    """Process every checkpoint that is in RUN_DIR now, then exit."""
    from rna_watch.daemon import background
    from rna_watch.journal import run_paths

    config = config_of(config_file, options)
    where = run_paths.resolve(_settled("once", run_dir, config), config.output)
    state = background.serve(config, where, until_done=True).state
    _summarize(state, where)


def _settled(command: str, run_dir: Path, config: RunConfig) -> Path:
    """The run to watch: RUN_DIR, or the one of several in it that is chosen on the terminal; says what lies there."""
    from rna_watch.commands import settle_run

    ask = _ask if sys.stdin.isatty() and sys.stdout.isatty() else None
    run_dir, said = settle_run.settle(run_dir, config, ["rna-watch", *sys.argv[1:]], ask, goes_on=command == "start")
    click.echo("".join(f"{line}\n" for line in said), nl=False)
    return run_dir


def _ask(lines: list[str], choices: int, default: int) -> int:
    return int(click.prompt("\n".join([*lines, "Which one"]), type=click.IntRange(1, choices), default=default))


def _summarize(state: RunState, where: RunPaths) -> None:
    from rna_watch.commands.settle_run import nothing
    from rna_watch.journal.replay import DONE, Stage

    counts: dict[str, int] = {}
    for checkpoint in state.checkpoints.values():
        counts[str(checkpoint.stage)] = counts.get(str(checkpoint.stage), 0) + 1
    if not counts:
        raise NothingToDo(nothing(where))
    click.echo("; ".join(f"{count} {stage}" for stage, count in counts.items()))
    if state.best is not None:
        click.echo(f"best: {where.models / state.best.output}")
    if not any(checkpoint.stage in DONE for checkpoint in state.checkpoints.values()):
        usable = any(c.stage in {Stage.FAILED, Stage.SKIPPED} for c in state.checkpoints.values())
        raise (RnaWatchError if usable else NothingToDo)("no checkpoint could be used; the reasons are above")


@app.command()
@_RUN
@_OUTPUT
@click.option("--json", "as_json", is_flag=True, help="Print the state as one JSON object.")
@click.option(
    "--check", is_flag=True, help="Print nothing; exit with 0 if a daemon watches and gives signs of life, else 1."
)
def status(run_dir: Path, output: str | None, *, as_json: bool, check: bool) -> None:
    """Say what is known of RUN_DIR; needs no daemon."""
    from rna_watch.commands import status
    from rna_watch.journal import run_paths

    where = run_paths.resolve(run_dir, output)
    if check:
        status.check(where)
    elif as_json:
        click.echo(json.dumps(status.as_dict(where), indent=2))
    else:
        _dashboard(where, once=True)


@app.command()
@_RUN
@_OUTPUT
@click.option("--once", is_flag=True, help="Print one frame and exit.")
@click.option("--svg", type=click.Path(path_type=Path), help="Write one frame as a picture and exit.")
@click.option("--width", default=120, show_default=True, help="Columns of the picture.")
def dashboard(run_dir: Path, output: str | None, svg: Path | None, width: int, *, once: bool) -> None:
    """Show RUN_DIR live, from any machine that sees its files; q or Ctrl-C leaves, the daemon goes on."""
    from rna_watch.journal import run_paths
    from rna_watch.journal.status import load as load_state

    where = run_paths.resolve(run_dir, output)
    if svg is None:
        _dashboard(where, once=once)
        return
    from rna_watch.dashboard import picture

    state, status = load_state(where)
    svg.write_text(picture.svg(state, status, now=time.time(), width=width))
    click.echo(str(svg))


def _dashboard(where: RunPaths, *, once: bool) -> None:
    from rich.console import Console

    from rna_watch.dashboard.live import watch

    watch(where, console=Console(), once=once)


@app.command()
@_RUN
@_OUTPUT
@click.option("-n", "--lines", default=50, show_default=True, help="How many of the last lines.")
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines until Ctrl-C.")
def logs(run_dir: Path, output: str | None, lines: int, *, follow: bool) -> None:
    """Print the daemon's log."""
    from rna_watch.journal import run_paths

    log = run_paths.resolve(run_dir, output).log
    if not log.exists():
        raise NothingToDo(f"there is no log at {log}: nobody has watched this run yet")
    with log.open(errors="replace") as file:
        for line in file.readlines()[-lines:]:
            click.echo(line, nl=False)
        while follow:
            line = file.readline()
            if line:
                click.echo(line, nl=False)
            else:
                time.sleep(_FOLLOW_S)


@app.command()
@_RUN
@_OUTPUT
def stop(run_dir: Path, output: str | None) -> None:
    """Stop watching RUN_DIR; the training and all files stay as they are."""
    from rna_watch.daemon import background
    from rna_watch.journal import run_paths

    click.echo(background.stop(run_paths.resolve(run_dir, output)))


@app.command()
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="The model to write.")
@click.option(
    "--method",
    default="rna",
    show_default=True,
    help=f"{', '.join(ALONE)}.",
)
@click.option("--window", type=click.IntRange(min=1), help="N: use the newest N + 1 checkpoints; all if not given.")
@click.option(
    "--regularization",
    type=click.FloatRange(min=0),
    help="Lambda; if not given, the smallest >= 1e-8 that keeps the norm of the coefficients <= 3.",
)
@some_settings("residuals", "lr_saved", "optimizer_order", *MEMBER_SETTINGS)
@some_settings("normalization", "source", "export", "optimizer_state", "workers", "memory_budget")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest, and nothing else.")
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
def extrapolate(
    checkpoints: tuple[Path, ...],
    out: Path,
    *,
    method: str,
    window: int | None,
    regularization: float | None,
    as_json: bool,
    force: bool,
    **options: Any,
) -> None:
    """Combine CHECKPOINTS into one model: one window, no daemon."""
    from rna_watch.commands.extrapolate import Request
    from rna_watch.commands.extrapolate import extrapolate as run

    request = Request(
        method=method, window=window, regularization=regularization, settings=config_of(None, options), force=force
    )
    manifest = run(checkpoints, out, request)
    if as_json:
        click.echo(json.dumps(manifest, indent=2))
        return
    click.echo(f"{out}: {manifest['candidate']} of {len(manifest['inputs'])} checkpoints; {manifest['reason']}")
    for item, weight in zip(manifest["inputs"], manifest["weights"], strict=True):
        click.echo(f"  {weight:+.4f}  {item['path']}")


@app.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--source", help="Key path of the model inside the file; found if not given.")
@click.option("--json", "as_json", is_flag=True, help="Print it as one JSON object.")
def inspect(checkpoint: Path, source: str | None, *, as_json: bool) -> None:
    """Say what CHECKPOINT is: format, completeness, step, tensors, and what would be extrapolated."""
    from rna_watch.commands.inspect import inspect as look

    report = look(checkpoint, source)
    if as_json:
        click.echo(json.dumps(report.as_dict(), indent=2))
    else:
        for line in report.lines():
            click.echo(line)


@app.command()
@_RUN
@_OUTPUT
@click.option("--metric", help="The evaluator's metric to show; by default the one that models were chosen by.")
@click.option("--mode", type=click.Choice(["min", "max"]), help="Its direction, if its name does not tell.")
@click.option("--levels", help="Values of it to be reached, with commas; by default around the original's best.")
@click.option(
    "--sequence", metavar="PATTERN", help="Which checkpoints, such as 'D_#.pt', where a folder has several kinds."
)
@click.option("--members", is_flag=True, help="Also every fixed recipe that was evaluated at most checkpoints.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw it too: a file ending in .svg, .png or .pdf.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON object.")
def compare(run_dir: Path, output: str | None, **options: Any) -> None:
    """Compare every method at every checkpoint of RUN_DIR: what was best, what it saved, and where it lost."""
    from rna_watch.commands.compare import show
    from rna_watch.journal import run_paths, status

    show(status.load(run_paths.resolve(run_dir, output))[0], **options)


@app.command()
@click.argument("outputs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array, and nothing else.")
def verify(outputs: tuple[Path, ...], *, as_json: bool) -> None:
    """Recompute published models from their manifests, and say whether they are what they claim.

    OUTPUTS are models, their manifests, links such as best, or folders: RUN_DIR stands for all that was published.
    """
    from rna_watch.commands import verify as verification

    done = []
    for each in verification.verify_all(outputs):
        done.append(each)
        if not as_json:
            click.echo("\n".join(each.lines()))
    if as_json:
        click.echo(json.dumps([each.as_dict() for each in done], indent=2))
    verification.conclude(done)


@app.command()
@click.option("--dir", "folder", type=click.Path(path_type=Path), help="Where to train; a new folder if not given.")
@click.option("--epochs", type=click.IntRange(min=4), default=40, show_default=True, help="Epochs to train.")
@click.option("--engine", default="ray", show_default=True, help="ray or local.")
def demo(folder: Path | None, epochs: int, engine: str) -> None:
    """Train a real network on real images in a separate process, watch it, and show what it gained."""
    from rna_watch.commands.demo import run

    run(folder, epochs=epochs, engine=engine)


@app.command()
@click.argument("name")
@click.option(
    "--data", type=click.Path(path_type=Path), envvar="RNA_WATCH_DATA", help="Folder of data [$RNA_WATCH_DATA]."
)
@click.option("--out", type=click.Path(path_type=Path), default="reproduced", show_default=True, help="Where to write.")
@click.option("--config", type=click.Path(path_type=Path), help="YAML file of the experiment's own settings.")
@click.option("--quick", is_flag=True, help="A small version, in seconds or a minute.")
@click.option(
    "--so-far", is_flag=True, help="Run nothing: tables and figure of what is finished, the rest marked as not run."
)
def reproduce(name: str, data: Path | None, out: Path, config: Path | None, *, quick: bool, so_far: bool) -> None:
    """Repeat an experiment of the paper; a stopped one goes on where it was.

    NAME is figure1, figure5, figure6, theorem, cost, networks, prototyping or imagenet.
    """
    from rna_watch.commands import reproduce

    reproduce.reproduce(name, data=data, out=out, quick=quick, config=config, so_far=so_far)


def main() -> None:
    """The entry point: an error is one line on standard error, and its class says the exit code."""
    logging.basicConfig(level=logging.WARNING)
    try:
        app(standalone_mode=False)
    except RnaWatchError as error:
        click.echo(f"rna-watch: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except click.exceptions.Abort:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
