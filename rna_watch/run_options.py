"""What commands of a run have in common: RUN_DIR, `--output`, `--json`, and a question to a person."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rna_watch.journal.echo import shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from rna_watch.commands.settle_run import Ask

PATH = click.Path(path_type=Path)
RUN = click.argument("run_dir", type=PATH)
OUTPUT = click.option("--output", help="Where outputs and state lie, if not in the run directory.")


def of_run(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the paths of a run, by RUN_DIR and `--output`."""

    @RUN
    @OUTPUT
    @functools.wraps(command)
    def with_paths(run_dir: Path, output: str | None, **options: Any) -> None:
        from rna_watch.journal.run_registry import resolve

        command(resolve(run_dir, output), **options)

    return with_paths


def json_flag(what: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The option that prints something as JSON."""
    return click.option("--json", "as_json", is_flag=True, help=f"Print {what}.")


def taken(options: dict[str, Any], *names: str) -> dict[str, Any]:
    """The options that are no settings, taken from among those that are."""
    return {name: options.pop(name) for name in names}


def asker() -> Ask | None:
    """A function that lets a person choose, on a terminal."""
    return _ask if sys.stdin.isatty() and sys.stdout.isatty() else None


def _ask(lines: list[str], choices: int, default: int) -> int:
    return int(click.prompt(shown("\n".join([*lines, "Which one"])), type=click.IntRange(1, choices), default=default))
