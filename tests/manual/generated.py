"""The parts of README and docs/ that are made from code, help texts and kept results: `python -m tests.manual` writes them."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rna_watch.acceleration.methods import METHODS
from rna_watch.cli import app
from rna_watch.config import RENAMED, RETIRED, RunConfig, groups
from rna_watch.errors import EXIT_CODES
from rna_watch.journal.records import KINDS
from rna_watch.reproduce.tables import Table, render
from rna_watch.setting_options import plain
from tests.benchmarks import whole
from tests.benchmarks.levers import kept
from tests.manual import arithmetic, measured
from tests.manual.problems import problems

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
_WIDTH = 100  # columns of help texts
_SPLIT = re.compile(r"(`[^`]*`)")


def cell(text: str) -> str:
    """A text as a cell of a table: no character of it ends the cell, and none begins a tag."""
    parts = _SPLIT.split(text.replace("|", r"\|"))
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;") for part in parts)


def table(heading: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table as GitHub reads it."""
    lines = (heading, ("---",) * len(heading), *(tuple(map(cell, row)) for row in rows))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _levers() -> str:
    heading = ("against the best plain average", "early", "middle", "late", "cost a window")
    return table(heading, kept.rows(measured.RESULTS / "levers"))


def _levers_short() -> str:
    rows = (row[:-1] for row in kept.rows(measured.RESULTS / "levers") if row[0] != "chosen")
    return table(("against the best average", "early", "middle", "late"), rows)


def _digits() -> str:
    heading, *rows = measured.digits()
    return table(heading, rows)


def _processes() -> str:
    return measured.machine("whole") + "\n\n" + table(whole.HEADING, measured.processes())


def _constants() -> str:
    return measured.machine("arithmetic") + "\n\n" + table(("constant", "before", "now"), arithmetic.constants())


def _windows() -> str:
    heading = ("model, place", "GB of the window", "CPU s before", "seconds before", "CPU s now", "seconds now")
    return table(heading, arithmetic.windows())


def _many_runs() -> str:
    each = ("cores", "memory, GB", "processes")
    heading = ("runs", *(f"{what} {when}" for when in ("before", "now") for what in each))
    return table(heading, arithmetic.runs())


def _figure1() -> str:
    heading = "iterations to a relative suboptimality of 1e-3 / 1e-6 / 1e-9"
    return table((heading, *(f"condition {each}" for each in measured.CONDITIONS)), measured.figure1())


def _one_by_one() -> str:
    heading = "epochs at which the average was better / equal / RNA better"
    return table((heading, "CIFAR-10", "its first half", "MNIST", "its first half"), measured.one_by_one())


def _methods() -> str:
    rows = ((f"`{name}`", each.kind, each.words, _code(each.settings)) for name, each in METHODS.items())
    return table(("method", "kind", "what it is", "settings"), rows)


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _settings() -> str:
    def rows() -> Iterator[tuple[str, ...]]:
        for heading, names in groups().items():
            yield f"**{heading}**", "", ""
            for name in names:
                field = RunConfig.model_fields[name]
                default = "-" if field.default is None or field.default == () else plain(field.default)
                yield f"`{name}`", default, field.description or ""

    return table(("setting", "default", "meaning"), rows())


def _renamed() -> str:
    now = ((f"`{old}`", f"`{new}`") for old, new in RENAMED.items())
    gone = ((f"`{old}`", f"no effect: {instead}") for old, instead in RETIRED.items())
    return table(("name of before", "now"), (*now, *gone))


def _exit_codes() -> str:
    return table(("code", "meaning"), ((f"`{code}`", meaning) for code, meaning in EXIT_CODES.items()))


def _acts() -> str:
    rows = {(*each.keys, " ... ".join(each.words)) for each in problems(ROOT / "rna_watch") if each.act and each.keys}
    return table(("key", "message"), ((f"`{key}`", said) for key, said in sorted(rows)))


def _events() -> str:
    rows = ((f"`{kind}`", _code(_fields(event)), _sentence(event.__doc__ or "")) for kind, event in KINDS.items())
    return table(("kind", "fields", "meaning"), rows)


def _fields(event: type[Any]) -> list[str]:
    return [field.name for field in dataclasses.fields(event) if field.name not in {"time", "seq"}]


def _sentence(docstring: str) -> str:
    return " ".join(docstring.split())


def _commands() -> str:
    named = {"": app, **{name: app.commands[name] for name in sorted(app.commands)}}
    return "\n".join(
        f"## rna-watch{' ' * bool(name)}{name}\n\n```text\n{_help(name, named[name])}\n```\n" for name in named
    )


def _help(name: str, command: click.Command) -> str:
    root = click.Context(app, info_name="rna-watch", terminal_width=_WIDTH, **app.context_settings)
    context = click.Context(command, parent=root, info_name=name, terminal_width=_WIDTH) if name else root
    return "\n".join(line.rstrip() for line in command.get_help(context).splitlines())


def _experiment(name: str) -> str:
    return "\n".join(_bare(each) for each in measured.experiment(name))


def _bare(each: Table) -> str:
    """A table with its title in the place of the empty first heading, without padding; its notes as a line below."""
    titled = replace(each, header=(each.title, *each.header[1:]), notes=())
    _, _, *lines = render(titled).rstrip().splitlines()
    rows = [re.sub(r" *\| *", " | ", line).strip() for line in lines]
    rows[1] = "|" + "---|" * len(each.header)
    return "\n".join([*rows, *(["", " ".join(each.notes)] if each.notes else [])]) + "\n"


# each part: the page that has it between its two marks, and what makes it
PARTS: dict[str, tuple[str, Callable[[], str]]] = {
    "levers-short": ("README.md", _levers_short),
    "levers": ("docs/benchmarks.md", _levers),
    "methods": ("docs/method.md", _methods),
    "settings": ("docs/settings.md", _settings),
    "renamed": ("docs/settings.md", _renamed),
    "digits": ("docs/benchmarks.md", _digits),
    "processes": ("docs/benchmarks.md", _processes),
    "constants": ("docs/arithmetic.md", _constants),
    "windows": ("docs/arithmetic.md", _windows),
    "many-runs": ("docs/arithmetic.md", _many_runs),
    "figure1": ("docs/paper.md", _figure1),
    "one-by-one": ("docs/paper.md", _one_by_one),
    "networks": ("docs/paper.md", partial(_experiment, "networks")),
    "prototyping": ("docs/paper.md", partial(_experiment, "prototyping")),
    "exit-codes": ("docs/reference.md", _exit_codes),
    "acts": ("docs/messages.md", _acts),
    "events": ("docs/reference.md", _events),
    "commands": ("docs/commands.md", _commands),
}


def written(text: str, name: str) -> str:
    """A page with one of the parts put between its two marks.

    Raises:
        ValueError: a mark is not there.
    """
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    before, rest = text[: text.index(begin)], text[text.index(begin) :]
    return f"{before}{begin}\n{PARTS[name][1]()}\n{rest[rest.index(end) :]}"


def main() -> None:
    """Write every part into its page."""
    for name, (page, _) in PARTS.items():
        path = ROOT / page
        path.write_text(written(path.read_text(), name))
