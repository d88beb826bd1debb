"""The commands: parse, call one function of `commands/`, print. The only place that exits."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

import click

import rna_watch
from rna_watch.acceleration.methods import ALONE, LAYERED, MEMBER_SETTINGS, PRODUCT
from rna_watch.errors import RnaWatchError, UsageError
from rna_watch.exporter_names import EXPORTERS
from rna_watch.help_pages import Program
from rna_watch.journal.echo import Formatter, echo, note, tell_end, tolerate_any_text
from rna_watch.options import (
    PROGRAM,
    SHELLS,
    GroupedCommand,
    SettingsCommand,
    completion_script,
    config_of,
    settings,
    some_settings,
)
from rna_watch.run_options import OUTPUT, PATH, RUN, RUN_PATH, alone, asker, json_flag, of_run, placed, taken

if TYPE_CHECKING:
    from pathlib import Path

    from rna_watch.journal.run_paths import RunPaths


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(rna_watch.__version__, prog_name=PROGRAM)
def app() -> None:
    """Better models from the checkpoints of a living training run, beside it and without touching it."""


@app.command(cls=GroupedCommand)
@click.argument("run_dirs", metavar="RUN_DIR...", nargs=-1, required=True, type=RUN_PATH)
@settings
@click.option("--recursive", is_flag=True, help="Watch every run below RUN_DIR, also later ones, in one process.")
@click.option("--runs", "globs", metavar="GLOB", multiple=True, help="With --recursive: which folders are runs.")
@click.option("--foreground", is_flag=True, help="Stay in the foreground, for containers and services.")
@click.option("--wait", is_flag=True, help="If RUN_DIR is not there yet, wait for it, in the background.")
@click.option("--no-terminal", "to_terminal", flag_value=False, default=True, hidden=True)
@click.option("--chosen", type=PATH, hidden=True)
def start(run_dirs: tuple[Path, ...], config_file: Path | None, **options: Any) -> None:
    """Watch RUN_DIR: extrapolate, evaluate and write back every checkpoint that appears, until `rna-watch stop`.

    Several RUN_DIRs, or with --recursive all runs below one, are watched by one process.
    """
    from rna_watch.commands import start

    how, many = taken(options, "foreground", "wait", "to_terminal", "chosen"), taken(options, "recursive", "globs")
    config = config_of(config_file, options)
    if many["recursive"] or many["globs"] or len(run_dirs) > 1:
        from rna_watch.commands import start_many

        alone(config)
        start_many.start_many(run_dirs, config, sys.argv[1:], say=echo, **many, **how)
    else:
        run_dir, config = placed(run_dirs[0], config, echo if how["chosen"] is None else lambda _: None)
        start.start(run_dir, config, sys.argv[1:], say=echo, ask=asker(), **how)


@app.command(cls=GroupedCommand)
@RUN
@settings
@click.option("--again", is_flag=True, help="Make every model anew whose checkpoints are still there.")
def once(run_dir: Path, config_file: Path | None, *, again: bool, **options: Any) -> None:
    """Process every checkpoint that is in RUN_DIR now, then exit."""
    from rna_watch.commands import once
    from rna_watch.config import ENDS

    for name in ENDS:
        if options[name] is not None:
            raise UsageError(
                f"--{name.replace('_', '-')} is for `start`: `once` ends when everything that is there is done"
            )
    run_dir, config = placed(run_dir, config_of(config_file, options), echo)
    once.once(run_dir, config, sys.argv[1:], again=again, say=echo, ask=asker())


@app.command(hidden=True)
@of_run
def mirror(paths: RunPaths) -> None:
    """Fetch checkpoints from the run's object store and put its models there, beside the daemon that starts this."""
    from rna_watch.commands import mirror

    mirror.follow(paths, echo)


@app.command(cls=SettingsCommand)
@RUN
@some_settings("output", "patterns", "source", "step")
def init(run_dir: Path, **options: Any) -> None:
    """Write an evaluator and settings for RUN_DIR's trainer into the current folder, and try them on its newest checkpoint."""
    from rna_watch.commands import init

    init.init(run_dir, config_of(None, options), ["rna-watch", *sys.argv[1:]], echo)


@app.command(cls=GroupedCommand)
@RUN
@settings
def doctor(run_dir: Path, config_file: Path | None, **options: Any) -> None:
    """Say what works for RUN_DIR, what will not, and what to do: files, disk, engine, the evaluator on its newest checkpoint."""
    from rna_watch.commands import doctor

    doctor.doctor(run_dir, config_of(config_file, options), ["rna-watch", *sys.argv[1:]], echo)


@app.command()
@click.argument("run_dir", type=RUN_PATH, required=False)
@OUTPUT
@json_flag("the state as one JSON object; of all runs, an array of them")
@click.option(
    "--check", is_flag=True, help="Print nothing; exit with 0 if a daemon watches and gives signs of life, else 1."
)
def status(run_dir: Path | None, *, output: str | None, as_json: bool, check: bool) -> None:
    """Say in ten lines whether RUN_DIR is worked on, whether it helps, by how much, and what is wrong.

    Without RUN_DIR: every run of yours. It needs no daemon.
    """
    from rna_watch.commands import status

    echo(status.told(run_dir, output, as_json=as_json, checks=check, say=note), end="")


@app.command()
@click.argument("run_dirs", metavar="[RUN_DIR]...", nargs=-1, type=RUN_PATH)
@OUTPUT
@click.option("--once", is_flag=True, help="Print one frame and exit.")
@click.option("--svg", type=PATH, help="Write one frame as a picture and exit.")
@click.option("--width", default=120, show_default=True, help="Columns of the picture.")
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
def dashboard(run_dirs: tuple[Path, ...], *, output: str | None, svg: Path | None, width: int, **how: bool) -> None:
    """Show runs live, from any machine that sees their files; ? shows the keys, q leaves, the daemon goes on.

    Several RUN_DIRs stand in a list, of which Enter opens one; without any, all of yours do.
    """
    from rna_watch.commands import dashboard

    runs = dashboard.runs_of(run_dirs, output)
    if svg is None:
        return dashboard.show(runs, once=how["once"], say=note)
    if len(runs) != 1:
        raise UsageError("--svg draws one run: name its RUN_DIR")
    dashboard.draw(runs[0], svg, width, force=how["force"])
    return echo(str(svg))


@app.command()
@of_run
@click.option(
    "-n", "--lines", type=click.IntRange(min=0), default=50, show_default=True, help="How many of the last lines."
)
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines until Ctrl-C.")
def logs(paths: RunPaths, *, lines: int, follow: bool) -> None:
    """Print the daemon's log."""
    from rna_watch.commands.logs import tail

    for line in tail(paths, lines, follow=follow):
        echo(line.removesuffix("\n"))


@app.command()
@click.argument("run_dirs", metavar="RUN_DIR...", nargs=-1, required=True, type=RUN_PATH)
@OUTPUT
def stop(run_dirs: tuple[Path, ...], output: str | None) -> None:
    """Stop watching RUN_DIR, or waiting for it; the training and all files stay as they are.

    One of many runs is let go, and the process goes on; the folder that --recursive was given ends it.
    """
    from rna_watch.commands import stop

    for each in run_dirs:
        echo(stop.stop(each, output, note))


@app.command(cls=SettingsCommand)
@click.argument("checkpoints", nargs=-1, required=True, type=PATH)
@click.option("-o", "--out", required=True, type=PATH, help="The model to write.")
@click.option(
    "--method",
    default="rna",
    show_default=True,
    help=f"{', '.join(ALONE)}; {PRODUCT} (LoRA: of the average, or of --manifest); or {LAYERED}, with --manifest.",
)
@click.option("--manifest", type=PATH, help=f"Of a model whose weights --method {PRODUCT} or {LAYERED} takes.")
@click.option("--window", type=click.IntRange(min=1), help="N: use the newest N + 1 checkpoints; all if not given.")
@click.option(
    "--regularization",
    type=click.FloatRange(min=0),
    help="Lambda, 0 for none; if not given, the smallest >= 1e-8 that keeps the norm of the coefficients <= 3.",
)
@some_settings("residuals", "lr_saved", "optimizer_order", *MEMBER_SETTINGS, "ema_decay")
@some_settings(
    *("normalization", "source", "ignore", "step", "serving_copy", "export", "optimizer_state", "one_run"),
    *("engine", "ray_address", "ray_from", "workers", "memory_budget"),
)
@json_flag("the manifest, and nothing else")
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
def extrapolate(checkpoints: tuple[Path, ...], out: Path, *, as_json: bool, **options: Any) -> None:
    """Combine CHECKPOINTS into one model: one window, no daemon."""
    from rna_watch.commands import extrapolate

    what = taken(options, "method", "window", "regularization", "force", "manifest")
    request = extrapolate.Request(settings=config_of(None, options), **what)
    manifest = extrapolate.extrapolate(checkpoints, out, request, lambda line: note(f"warning  {line}"))
    echo(json.dumps(manifest, indent=2) if as_json else "\n".join(extrapolate.lines(out, manifest)))


@app.command(cls=SettingsCommand)
@click.argument("checkpoint", type=PATH)
@some_settings("source", "ignore", "step")
@json_flag("it as one JSON object")
def inspect(checkpoint: Path, *, as_json: bool, **options: Any) -> None:
    """Say what CHECKPOINT is: format, completeness, step, tensors, and what would be extrapolated."""
    from rna_watch.commands import inspect

    report = inspect.inspect(checkpoint, config_of(None, options))
    echo(json.dumps(report.as_dict(), indent=2) if as_json else "\n".join(report.lines()))


@app.command()
@of_run
@click.option("--metric", help="The evaluator's metric to show; by default the one that models were chosen by.")
@click.option("--mode", type=click.Choice(["min", "max"]), help="Its direction, if its name does not tell.")
@click.option("--levels", help="Values of it to be reached, with commas; by default around the original's best.")
@click.option(
    "--sequence", metavar="PATTERN", help="Which checkpoints, such as 'D_#.pt', where a folder has several kinds."
)
@click.option("--members", is_flag=True, help="Also every fixed recipe that was evaluated at most checkpoints.")
@click.option("--plot", type=PATH, help="Draw it too: a file ending in .svg, .png or .pdf.")
@click.option("--force", is_flag=True, help="Replace that file if it exists.")
@json_flag("everything as one JSON object")
def compare(paths: RunPaths, **options: Any) -> None:
    """Compare every method at every checkpoint of RUN_DIR: what was best, what it saved, and where it lost."""
    from rna_watch.commands import compare

    compare.show(paths, **options)


@app.command()
@of_run
@click.option("-o", "--out", type=PATH, help="The page to write; NAME-report.html in this folder if not given.")
@click.option("--force", is_flag=True, help="Replace that file if it exists.")
def report(paths: RunPaths, *, out: Path | None, force: bool) -> None:
    """Write all that is known of RUN_DIR as one HTML page, to read anywhere: answer, curves, weights, where models come from."""
    from rna_watch.commands import report

    echo(report.write(paths, out, force=force))


@app.command()
@of_run
@click.option("--to", "name", required=True, type=click.Choice(EXPORTERS), help="The tool.")
@click.option("-o", "--out", type=PATH, help="Its folder; .rna-watch/exports/NAME if not given.")
@click.option(
    "--port", type=click.IntRange(1, 65535), help="prometheus: answer on this port of 127.0.0.1, until Ctrl-C."
)
@click.option("--follow", is_flag=True, hidden=True)
def export(paths: RunPaths, *, name: str, out: Path | None, port: int | None, follow: bool) -> None:
    """Give the numbers of RUN_DIR to a tool: tensorboard, csv, prometheus, wandb (offline), mlflow; live by `exporters`."""
    from rna_watch.commands import export

    if port is not None and name != "prometheus":
        raise UsageError("--port goes with --to prometheus")
    if follow:
        export.follow(paths, name, port, echo)
    else:
        export.write(paths, name, out, port, echo)


@app.command()
@click.argument("outputs", nargs=-1, required=True, type=PATH)
@json_flag("one JSON array, and nothing else")
def verify(outputs: tuple[Path, ...], *, as_json: bool) -> None:
    """Recompute published models from their manifests, and say whether they are what they claim.

    OUTPUTS are models, their manifests, links such as best, or folders: RUN_DIR stands for all that was published.
    """
    from rna_watch.commands import verify

    done = []
    for each in verify.verify_all(outputs):
        done.append(each)
        if not as_json:
            echo("\n".join(each.lines()))
    if as_json:
        echo(json.dumps([each.as_dict() for each in done], indent=2))
    verify.conclude(done)


@app.command()
@click.option("--dir", "folder", type=PATH, help="Where to train; a new folder if not given.")
@click.option("--epochs", type=click.IntRange(min=4), default=40, show_default=True, help="Epochs to train.")
@click.option("--engine", default="auto", show_default=True, help="auto, local or ray.")
def demo(folder: Path | None, epochs: int, engine: str) -> None:
    """Train a real network on real images in a separate process, watch it, and show what it gained."""
    from rna_watch.commands import demo

    demo.run(folder, epochs=epochs, engine=engine)


@app.command()
@click.argument("name")
@click.option("--data", type=PATH, envvar="RNA_WATCH_DATA", help="Folder of data [$RNA_WATCH_DATA].")
@click.option("--out", type=PATH, default="reproduced", show_default=True, help="Where to write.")
@click.option("--config", type=PATH, help="YAML file of the experiment's own settings.")
@click.option("--quick", is_flag=True, help="A small version, in seconds or a minute.")
@click.option(
    "--so-far", is_flag=True, help="Run nothing: tables and figure of what is finished, the rest marked as not run."
)
@click.option("--cuda", is_flag=True, help="networks: the paper's own, both optimizers side by side on one GPU.")
@click.option("--budget", help="With --cuda: the time to take, such as 9m.  [default: 9m]")
@click.option("--tables", type=PATH, help="With --cuda: train nothing, make tables of the records in this folder.")
def reproduce(
    name: str,
    data: Path | None,
    out: Path,
    config: Path | None,
    budget: str | None,
    tables: Path | None,
    *,
    quick: bool,
    so_far: bool,
    cuda: bool,
) -> None:
    """Repeat an experiment of the paper; a stopped one goes on where it was.

    NAME is figure1, figure5, figure6, theorem, cost, networks, prototyping or imagenet.
    """
    from rna_watch.commands import reproduce

    if cuda or budget or tables:
        if name != "networks" or not cuda or config or so_far:
            raise UsageError(
                "--cuda goes with networks, and with --data, --out, --quick, --budget and --tables alone: "
                "rna-watch reproduce networks --cuda --budget 9m"
            )
        reproduce.on_cuda(data=data, out=out, quick=quick, budget=budget, tables=tables)
        return
    reproduce.reproduce(name, data=data, out=out, quick=quick, config=config, so_far=so_far)


@app.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print what lets SHELL complete commands, options and their values."""
    echo(completion_script(app, shell), end="")


@app.command()
def man() -> None:
    """Print the manual page, for `man`."""
    from rna_watch import manual_page

    echo(manual_page.written(app), end="")


def main() -> None:
    """The entry point: an error is one line on standard error, and its class says the exit code."""
    tolerate_any_text()
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter(logging.BASIC_FORMAT))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    try:
        app(prog_name=PROGRAM, standalone_mode=False)
    except click.ClickException as error:
        said = io.StringIO()
        error.show(said)
        note(said.getvalue().rstrip("\n"))
        sys.exit(2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (RnaWatchError, OSError) as error:
        sys.exit(tell_end(error))
    except click.exceptions.Abort:
        sys.exit(130)
