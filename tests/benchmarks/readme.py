"""The README's tables of methods, settings and kept results: `python -m tests.benchmarks readme` writes them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rna_watch.acceleration.methods import METHODS
from rna_watch.config import RunConfig, groups
from rna_watch.options import plain
from rna_watch.reproduce import networks_tables, prototyping
from rna_watch.reproduce.images.spec import RunSpec
from rna_watch.reproduce.tables import Table, render
from tests.benchmarks.levers import kept

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

README = Path(__file__).parents[2] / "README.md"
RESULTS = README.parent / "docs" / "results" / "reproduce"
NAMES = ("levers", "methods", "settings", "networks", "prototyping")


def block(name: str) -> str:
    """The table of the methods or the settings, or those of an experiment from its kept results, as the README has them."""
    if name == "levers":
        heading = ("against the best plain average", "early", "middle", "late", "cost a window")
        return _rows(heading, kept.rows(RESULTS.parent / name))
    if name == "methods":
        return _rows(("method", "kind", "what it is", "settings"), _methods())
    if name == "settings":
        return _rows(("setting", "default", "meaning"), _settings())
    record = json.loads((RESULTS / f"{name}.json").read_text())
    return "\n".join(_bare(table) for table in _tables(name, record))


def _rows(heading: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (heading, ("---",) * len(heading), *rows)) + "\n"


def _methods() -> Iterator[tuple[str, ...]]:
    for name, method in METHODS.items():
        yield f"`{name}`", method.kind, method.words, ", ".join(f"`{setting}`" for setting in method.settings)


def _settings() -> Iterator[tuple[str, ...]]:
    for heading, names in groups().items():
        yield f"**{heading}**", "", ""
        for name in names:
            field = RunConfig.model_fields[name]
            default = "-" if field.default is None or field.default == () else plain(field.default)
            yield f"`{name}`", default, field.description or ""


def _tables(name: str, record: dict[str, Any]) -> list[Table]:
    if name == "prototyping":
        return prototyping.summary(record["results"])
    runs = [RunSpec(**{**run, "data": Path()}) for run in record["settings"]["runs"]]
    return networks_tables.summary(runs, record["results"])


def _bare(table: Table) -> str:
    """A table with its title in the place of the empty first heading, without padding; its notes as a line below."""
    titled = replace(table, header=(table.title, *table.header[1:]), notes=())
    _, _, *lines = render(titled).rstrip().splitlines()
    rows = [re.sub(r" *\| *", " | ", line).strip() for line in lines]
    rows[1] = "|" + "---|" * len(table.header)
    return "\n".join([*rows, *(["", " ".join(table.notes)] if table.notes else [])]) + "\n"


def written(text: str, name: str) -> str:
    """A README with the tables of an experiment put between its two marks.

    Raises:
        ValueError: a mark is not there.
    """
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    before, rest = text[: text.index(begin)], text[text.index(begin) :]
    return f"{before}{begin}\n{block(name)}\n{rest[rest.index(end) :]}"


def main() -> None:
    """Write them into the README."""
    text = README.read_text()
    for name in NAMES:
        text = written(text, name)
    README.write_text(text)
