"""What commands have as options from the settings. Reading what the settings are takes long, and most commands have none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import get_completion_class

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rna_watch.config import RunConfig

    Command = Callable[..., Any]

PROGRAM = "rna-watch"
SHELLS = ("bash", "zsh", "fish")


class _Settings(click.Option):
    """Stands where the options of these settings come; of all if there is no name."""

    def __init__(self, declarations: list[str], names: tuple[str, ...] = (), **attributes: Any) -> None:
        super().__init__(declarations, **attributes)
        self.names = names

    def options(self) -> list[click.Option]:
        """The options."""
        from rna_watch import setting_options

        return setting_options.some_options(self.names) if self.names else setting_options.all_options()


class SettingsCommand(click.Command):
    """A command with settings, whose options are made when they are asked for."""

    _params: list[click.Parameter]

    @property
    def params(self) -> list[click.Parameter]:
        """Arguments and options, those of settings among them."""
        if any(isinstance(each, _Settings) for each in self._params):
            self._params = [
                each
                for given in self._params
                for each in (given.options() if isinstance(given, _Settings) else [given])
            ]
        return self._params

    @params.setter
    def params(self, params: list[click.Parameter]) -> None:
        self._params = params


class GroupedCommand(SettingsCommand):
    """A command whose settings have headings: `--help` shows those that most people need, `--help-all` every one."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under their headings, the command's own first."""
        from rna_watch.config import groups

        rows: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if isinstance(parameter, click.Option) and (record := parameter.get_help_record(ctx)):
                heading = getattr(parameter, "heading", "")
                rows.setdefault(heading, []).append(record)
        for heading in ("", *groups()):
            if heading in rows:
                with formatter.section(heading.capitalize() or "Options"):
                    formatter.write_dl(rows[heading])


def completion_script(app: click.Command, shell: str) -> str:
    """What a shell runs to complete the program's commands, options and values; they are asked of the program itself.

    Args:
        app: the program.
        shell: one of `SHELLS`.
    """
    completion = get_completion_class(shell)
    assert completion is not None
    return completion(app, {}, PROGRAM, "_RNA_WATCH_COMPLETE").source()


def some_settings(*names: str) -> Callable[[Command], Command]:
    """An option for each of these settings, under its own name; for a `SettingsCommand`.

    Args:
        names: of settings, or of renamed or retired ones.
    """
    return click.option(f"--{names[0].replace('_', '-')}", cls=_Settings, names=names)


def settings(command: Command) -> Command:
    """An option for each setting, one for a file of them, and `--help-all`; for a `GroupedCommand`."""
    return click.option("--config", cls=_Settings)(command)


def config_of(config_file: Path | None, options: dict[str, Any]) -> RunConfig:
    """The settings of a file and of the command line; what has no effect any more is said on standard error.

    A list is given with commas, by an option that is repeated, or both.

    Raises:
        UsageError: see `config.load`.
    """
    from rna_watch import setting_options

    return setting_options.config_of(config_file, options)
