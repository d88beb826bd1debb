"""The options of the settings: one each under its own name, with its choices and heading; made for commands that have them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from rna_watch.config import COMMON, RENAMED, RETIRED, RunConfig, groups, load, shape_of
from rna_watch.journal.echo import echo, note

if TYPE_CHECKING:
    from collections.abc import Iterable, Set

_LISTS = {name for name in RunConfig.model_fields if shape_of(name) == "LIST"}


class _Option(click.Option):
    """An option with the heading that it stands under in `--help-all`."""

    def __init__(self, declarations: list[str], heading: str, **attributes: Any) -> None:
        super().__init__(declarations, **attributes)
        self.heading = heading


def _completed(_: click.Context, option: click.Parameter, begun: str) -> list[CompletionItem]:
    """The words that a setting may have; for any other value, those of a file's name."""
    words = [word for word in shape_of(str(option.name)).split("|") if word.islower() and word.startswith(begun)]
    return [CompletionItem(word) for word in words] or [CompletionItem(begun, type="file")]


def some_options(names: Iterable[str], hidden: Set[str] = frozenset()) -> list[click.Option]:
    """An option for each of these settings, under its own name.

    Args:
        names: of settings, or of renamed or retired ones.
        hidden: those that only `--help-all` shows.
    """
    headings = {name: heading for heading, members in groups().items() for name in members}
    options = []
    for name in names:
        option, field = f"--{name.replace('_', '-')}", RunConfig.model_fields.get(name)
        if field is None:
            options.append(click.Option([option, name], default=None, hidden=True))
            continue
        flag = field.annotation is bool
        shown = field.default if field.default not in {None, ()} and not flag else None
        options.append(
            _Option(
                [option, name],
                headings[name],
                hidden=name in hidden,
                multiple=name in _LISTS,
                default=None,
                is_flag=flag,
                metavar=None if flag else shape_of(name),
                shell_complete=None if flag else _completed,
                help=(field.description or "") + (f" [{plain(shown)}]" if shown is not None else ""),
            )
        )
    return options


def all_options() -> list[click.Option]:
    """An option for a file of settings, one for each setting, and `--help-all`."""
    return [
        click.Option(
            ["--config", "config_file"],
            type=click.Path(path_type=Path),
            help="YAML file with these settings; options win.",
        ),
        *some_options((*RunConfig.model_fields, *RENAMED, *RETIRED), RunConfig.model_fields.keys() - COMMON),
        click.Option(
            ["--help-all"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_show_all,
            help="Show every setting.",
        ),
    ]


def _show_all(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        every = [each for each in ctx.command.params if isinstance(each, _Option) and each.heading and each.hidden]
        try:
            for each in every:
                each.hidden = False
            echo(ctx.get_help())
        finally:
            for each in every:  # for this once
                each.hidden = True
        ctx.exit()


def plain(value: object) -> str:
    """A value as a person writes it: a list with commas."""
    if isinstance(value, tuple):
        return ", ".join(item if isinstance(item, str) else f"{item:g}" for item in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def config_of(config_file: Path | None, options: dict[str, Any]) -> RunConfig:
    """See `options.config_of`."""
    values = {
        key: tuple(part.strip() for each in value for part in each.split(",") if part.strip())
        if key in _LISTS
        else value
        for key, value in options.items()
        if value not in {None, ()}
    }
    return load(config_file, values, lambda line: note(f"note     {line}"))
