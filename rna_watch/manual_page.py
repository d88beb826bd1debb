"""The manual page, as `man` reads it (roff), from the commands and options that `--help` shows."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

import rna_watch
from rna_watch.config import groups
from rna_watch.errors import EXIT_CODES
from rna_watch.help_pages import EXAMPLES
from rna_watch.options import PROGRAM

if TYPE_CHECKING:
    from collections.abc import Iterator

_FILES = {
    "RUN_DIR/rna/": "the models, each with its manifest (NAME.json), and the links best and latest",
    "RUN_DIR/.rna-watch/": "journal, heartbeat, lock, log, and the checkpoints that the window needs",
}
_ROFF = re.compile(r"(?m)^(?=[.'])")


def written(app: click.Group) -> str:
    """The page.

    Args:
        app: the program.
    """
    return "\n".join(_lines(app)) + "\n"


def _lines(app: click.Group) -> Iterator[str]:
    root = click.Context(app, info_name=PROGRAM, **app.context_settings)
    contexts = [click.Context(app.commands[name], parent=root, info_name=name) for name in sorted(app.commands)]
    yield f'.TH {_text(PROGRAM).upper()} 1 "" "{PROGRAM} {rna_watch.__version__}"'
    yield from (".SH NAME", rf"{_text(PROGRAM)} \- {_text(app.help or '')}", ".SH SYNOPSIS")
    for context in contexts:
        yield from (f".B {_text(context.command_path)}", _text(" ".join(context.command.collect_usage_pieces(context))))
        yield ".br"
    yield ".SH COMMANDS"
    for context in contexts:
        yield from (f".SS {_text(str(context.info_name))}", *_paragraphs(context.command.help or ""))
        yield from _options(context)
        if examples := EXAMPLES.get(str(context.info_name)):
            yield from (".PP", "Examples:", ".PP", ".nf", *map(_text, examples), ".fi")
    yield from (".SH SETTINGS", _text("Options of start and once; some of other commands, as their --help says."))
    start = next(context for context in contexts if context.info_name == "start")
    for heading in groups():
        yield from (f".SS {_text(heading.capitalize())}", *_options(start, heading))
    for title, rows in (("EXIT STATUS", EXIT_CODES), ("FILES", _FILES)):
        yield f".SH {title}"
        for key, meaning in rows.items():
            yield from (".TP", f".B {_text(str(key))}", _text(meaning))


def _options(context: click.Context, heading: str = "") -> Iterator[str]:
    """A paragraph for each of a command's settings below a heading, hidden ones too; "": for each of its own options."""
    for option in context.command.get_params(context):
        below = getattr(option, "heading", "")
        if not isinstance(option, click.Option) or below != heading or option.name == "help":
            continue
        hidden, option.hidden = option.hidden, option.hidden and not heading
        record = option.get_help_record(context)
        option.hidden = hidden
        if record:
            yield from (".TP", f".B {_text(record[0])}", _text(record[1]))


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        yield from (".PP", _text(" ".join(paragraph.split())))


def _text(words: str) -> str:
    """Words that roff shows as they are."""
    return _ROFF.sub(r"\\&", words.replace("\\", r"\e").replace("-", r"\-"))
