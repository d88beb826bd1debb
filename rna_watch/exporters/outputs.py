"""The provenance of the models that are kept: what each is made of, how it was chosen, and where its manifest lies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rna_watch.acceleration.methods import LAST, PRODUCT
from rna_watch.exporters.markup import Markup, join, tag
from rna_watch.journal.metric import value_in
from rna_watch.journal.quantities import as_number, number, places, plain
from rna_watch.journal.words import verdict
from rna_watch.layout import artifacts, bounded_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rna_watch.comparison.comparison import Comparison
    from rna_watch.journal.events import Published
    from rna_watch.journal.replay import Checkpoint, RunState
    from rna_watch.journal.run_paths import RunPaths

_OPEN = 12  # more are folded


def place_of(paths: RunPaths, output: str) -> Path:
    """The path of an output, as the journal names it."""
    return paths.models / output


def manifest_of(paths: RunPaths, output: str) -> dict[str, Any]:
    """The manifest of an output; empty if it cannot be read, or lies outside of the output tree."""
    path = artifacts.manifest_path(place_of(paths, output))
    try:
        if not path.resolve().is_relative_to(paths.models.resolve()):
            return {}
        found = bounded_json.read(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def section(state: RunState, paths: RunPaths, c: Comparison | None) -> Markup:
    """A table of the models that are kept, the newest first.

    Args:
        state: what the journal adds up to.
        paths: where the models lie.
        c: the comparison, if anything was evaluated: its metric is shown.
    """
    kept = list(reversed(state.outputs.values()))
    heading = tag("h2", "Models that are kept")
    if not kept:
        return tag("section", heading, tag("p", "None.", class_="soft"))
    metric = c.metric if c else None
    titles = ["model", "made by", "of", *([f"{plain(metric)}, original"] if metric else []), "manifest"]
    head = tag("tr", *(tag("th", title, class_="left") for title in titles))
    rows = [tag("tr", *_cells(state, paths, each, metric)) for each in kept]
    folded = len(rows) > _OPEN
    parts = [_table(head, rows[:_OPEN])]
    if folded:
        parts.append(tag("details", tag("summary", f"{len(rows) - _OPEN} older models"), _table(head, rows[_OPEN:])))
    return tag("section", heading, *parts)


def _table(head: Markup, rows: list[Markup]) -> Markup:
    return tag("div", tag("table", tag("thead", head), tag("tbody", *rows)), class_="scroll")


def _cells(state: RunState, paths: RunPaths, published: Published, metric: str | None) -> list[Markup]:
    output = published.output
    checkpoint = state.checkpoints.get(published.checkpoint)
    chosen = checkpoint.chosen if checkpoint else None
    gone = "" if paths.there(output) else ", which is gone"
    named = _named(paths, place_of(paths, output))
    manifest = _named(paths, artifacts.manifest_path(place_of(paths, output)))
    cells = [
        tag("td", plain(named) + gone, class_="name"),
        tag("td", plain(chosen.candidate) if chosen else "not known", class_="name"),
        tag("td", _made_of(checkpoint), class_="words"),
    ]
    if metric:
        ours = value_in(chosen.metrics.get("chosen"), metric) if chosen else None
        theirs = value_in(checkpoint.evaluations.get(LAST), metric) if checkpoint else None
        decimals = places([ours, theirs])
        told = f"{number(ours, decimals)}, {number(theirs, decimals)}"
        words = verdict(chosen) if chosen else ""
        cells.append(tag("td", join(tag("b", told), f" {words}" if words else ""), class_="name"))
    return [*cells, tag("td", tag("code", plain(manifest)), class_="name")]


def _named(paths: RunPaths, path: Path) -> str:
    """A path below the run directory as it is there, another one in full."""
    return str(path.relative_to(paths.run) if path.is_relative_to(paths.run) else path)


def _made_of(checkpoint: Checkpoint | None) -> str:
    chosen = checkpoint.chosen if checkpoint else None
    if checkpoint is None or chosen is None:
        return "as its manifest says"
    names = [plain(name) for name in chosen.inputs]
    if chosen.method == PRODUCT:
        return f"products of factors, no combination of tensors: {plain(chosen.candidate)}"
    if not chosen.weights:
        training = checkpoint.training.get(chosen.candidate, {})
        start, steps = training.get("start"), training.get("steps")
        began = _sum(names, start, ()) if isinstance(start, list) else ""
        how = f"{steps} steps of training" if isinstance(steps, int) else "training"
        return f"{how}, no combination" + (f"; it began at {began}" if began else "")
    tail = " (means over tensors; the rows are in the manifest)" if chosen.spread else ""
    return _sum(names, chosen.weights, chosen.spread) + tail


def _sum(names: Sequence[str], weights: Sequence[object], spread: Sequence[float]) -> str:
    """Weights that are not 0, each with its checkpoint; `spread` is their standard deviation over tensors."""
    parts = []
    for k, (name, weight) in enumerate(zip(names, map(as_number, weights), strict=False)):
        if weight:
            about = f" \N{PLUS-MINUS SIGN} {as_number(spread[k]):.2g}" if k < len(spread) else ""
            parts.append(f"{weight:+.4g}{about} \N{MULTIPLICATION SIGN} {name}")
    return ", ".join(parts)
