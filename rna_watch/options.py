"""The settings as options of the commands: one each under its own name, with its choices, in groups where help shows them all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem, get_completion_class

from rna_watch.config import COMMON, RENAMED, RETIRED, RunConfig, groups, load, shape_of
from rna_watch.journal.echo import echo, note

if TYPE_CHECKING:
    from collections.abc import Callable, Set

    Command = Callable[..., Any]

PROGRAM = "rna-watch"
SHELLS = ("bash", "zsh", "fish")
_LISTS = {name for name in RunConfig.model_fields if shape_of(name) == "LIST"}
_ALL = f"{__name__}.all"


class _Option(click.Option):
    """An option with the heading that it stands under in `--help-all`."""

    def __init__(self, declarations: list[str], heading: str, **attributes: Any) -> None:
        super().__init__(declarations, **attributes)
        self.heading = heading


class GroupedCommand(click.Command):
    """A command whose settings have headings: `--help` shows those that most people need, `--help-all` every one."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under their headings, the command's own first."""
        rows: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if isinstance(parameter, click.Option) and (record := parameter.get_help_record(ctx)):
                heading = getattr(parameter, "heading", "")
                rows.setdefault(heading, []).append(record)
        for heading in ("", *groups()):
            if heading in rows:
                with formatter.section(heading.capitalize() or "Options"):
                    formatter.write_dl(rows[heading])


def _completed(_: click.Context, option: click.Parameter, begun: str) -> list[CompletionItem]:
    """The words that a setting may have; for any other value, those of a file's name."""
    words = [word for word in shape_of(str(option.name)).split("|") if word.islower() and word.startswith(begun)]
    return [CompletionItem(word) for word in words] or [CompletionItem(begun, type="file")]


def completion_script(app: click.Command, shell: str) -> str:
    """What a shell runs to complete the program's commands, options and values; they are asked of the program itself.

    Args:
        app: the program.
        shell: one of `SHELLS`.
    """
    completion = get_completion_class(shell)
    assert completion is not None
    return completion(app, {}, PROGRAM, "_RNA_WATCH_COMPLETE").source()


def _show_all(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        ctx.meta[_ALL] = True
        every = [each for each in ctx.command.params if isinstance(each, _Option) and each.heading and each.hidden]
        try:
            for each in every:
                each.hidden = False
            echo(ctx.get_help())
        finally:
            for each in every:  # for this once
                each.hidden = True
        ctx.exit()


def some_settings(*names: str, hidden: Set[str] = frozenset()) -> Callable[[Command], Command]:
    """An option for each of these settings, under its own name.

    Args:
        names: of settings, or of renamed or retired ones.
        hidden: those that only `--help-all` shows.
    """
    headings = {name: heading for heading, members in groups().items() for name in members}

    def decorate(command: Command) -> Command:
        for name in reversed(names):
            option, field = f"--{name.replace('_', '-')}", RunConfig.model_fields.get(name)
            if field is None:
                command = click.option(option, name, default=None, hidden=True)(command)
                continue
            flag = field.annotation is bool
            shown = field.default if field.default not in {None, ()} and not flag else None
            command = click.option(
                option,
                name,
                cls=_Option,
                heading=headings[name],
                hidden=name in hidden,
                multiple=name in _LISTS,
                default=None,
                is_flag=flag,
                metavar=None if flag else shape_of(name),
                shell_complete=None if flag else _completed,
                help=(field.description or "") + (f" [{plain(shown)}]" if shown is not None else ""),
            )(command)
        return command

    return decorate


def settings(command: Command) -> Command:
    """An option for each setting, one for a file of them, and `--help-all`; for a `GroupedCommand`."""
    some = some_settings(*RunConfig.model_fields, *RENAMED, *RETIRED, hidden=RunConfig.model_fields.keys() - COMMON)
    file = click.option(
        "--config", "config_file", type=click.Path(path_type=Path), help="YAML file with these settings; options win."
    )
    more = click.option(
        "--help-all", is_flag=True, expose_value=False, is_eager=True, callback=_show_all, help="Show every setting."
    )
    return file(some(more(command)))


def plain(value: object) -> str:
    """A value as a person writes it: a list with commas."""
    if isinstance(value, tuple):
        return ", ".join(item if isinstance(item, str) else f"{item:g}" for item in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def config_of(config_file: Path | None, options: dict[str, Any]) -> RunConfig:
    """The settings of a file and of the command line; what has no effect any more is said on standard error.

    A list is given with commas, by an option that is repeated, or both.
    """
    values = {
        key: tuple(part.strip() for each in value for part in each.split(",") if part.strip())
        if key in _LISTS
        else value
        for key, value in options.items()
        if value not in {None, ()}
    }
    return load(config_file, values, lambda line: note(f"note     {line}"))
