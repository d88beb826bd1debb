"""What commands of a run have in common: RUN_DIR, `--output`, `--json`, and a question to a person."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rna_watch.errors import UsageError
from rna_watch.journal.echo import shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from rna_watch.commands.settle_run import Ask
    from rna_watch.config import RunConfig

PATH = click.Path(path_type=Path)
_URL = "rna_watch.url"  # in the context of a command


class _RunPath(click.Path):
    """A run directory, or the address of one in an object store: then the folder that its checkpoints are fetched into."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from rna_watch.journal import remote_place

        if not (isinstance(value, str) and remote_place.is_url(value)):
            return super().convert(value, param, ctx)
        if ctx is not None:
            ctx.meta[_URL] = value
        return remote_place.output_of(value) / remote_place.MIRROR


RUN_PATH = _RunPath(path_type=Path)
RUN = click.argument("run_dir", type=RUN_PATH)
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


def typed_url() -> str | None:
    """The address that was typed for RUN_DIR, if one was."""
    return click.get_current_context().meta.get(_URL)


def placed(run_dir: Path, config: RunConfig, say: Callable[[str], None]) -> tuple[Path, RunConfig]:
    """A run and its settings; of one in an object store, the folder that it is fetched into."""
    url = typed_url()
    if url is None and config.remote is None:
        return run_dir, config
    from rna_watch.commands import mirror

    return mirror.placed(run_dir, config, url, say)


def alone(config: RunConfig) -> None:
    """Raises: UsageError: a run in an object store is among those for one process."""
    if typed_url() is not None or config.remote is not None:
        raise UsageError("a run in an object store is watched by a process of its own: start each by itself")


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
