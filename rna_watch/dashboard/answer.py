"""The answer of a run, on one line: its best model next to its best original, the gain, and whether that is beyond noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from rna_watch.dashboard.layout import fit, tail_of
from rna_watch.journal.metric import metric_of
from rna_watch.journal.quantities import gain, number, places, plain
from rna_watch.journal.replay import Stage
from rna_watch.journal.words import NOISE, output_of

if TYPE_CHECKING:
    from rna_watch.journal.replay import RunState
    from rna_watch.journal.standing import Standing

_NAME_WIDTHS = ((60, 60), (28, 28), (28, 0), (16, 0), (0, 0))  # of the model's name and of the original's
_THEIRS = "original's best"
_GAP = "   "
HOW_TO_TEST = "add --evaluator FILE.py:function"
_FEWEST = 3  # checkpoints of a window


def answer(state: RunState, best: Standing | None, width: int) -> Text:
    """The answer as one line, with what is longest left out where it does not fit.

    Args:
        state: what the journal adds up to.
        best: the best model and the best original.
        width: terminal cells.
    """
    if best is None or (best.model is None and best.original is None):
        return fit(_untested(state), width)
    texts = [_tested(state, best, names) for names in _NAME_WIDTHS]
    return next((text for text in texts if text.cell_len <= width), fit(texts[-1], width))


def _untested(state: RunState) -> Text:
    count = len(state.outputs)
    models = f"{count} {'model' if count == 1 else 'models'} made"
    if state.started is None:
        return Text("nothing is known of this run yet", "yellow")
    if not state.started.evaluator:
        return Text.assemble((f"{models}, none tested", "bold yellow"), f": {HOW_TO_TEST} to see whether they help")
    if state.failed_evaluations:
        return Text(f"{models}, none tested: the evaluator fails", "bold red")
    metric = metric_of(state)
    if count and metric is not None and metric.mode is None:
        name = plain(metric.name)
        return Text(f"{models}: say whether {name} is to be low or high with --mode min or --mode max", "bold yellow")
    usable = sum(each.usable or each.stage is Stage.PUBLISHED for each in state.checkpoints.values())
    if usable < _FEWEST:
        here = f"{usable or 'none'} {'is' if usable < 2 else 'are'} here"
        return Text.assemble(("no model yet", "bold"), f": the first comes with checkpoint number {_FEWEST}, {here}")
    return Text.assemble((f"{models}, none tested yet", "bold"), ": the first evaluations are to come")


def _tested(state: RunState, best: Standing, names: tuple[int, int]) -> Text:
    """The line with names of at most so many cells."""
    model, original = best.model, best.original
    decimals = places(each.value for each in (model, original) if each)
    metric = plain(best.metric)

    def named(word: str, name: str, room: int, value: float, style: str) -> Text:
        shown = f" {tail_of(plain(name), room)}" if room else ""
        unit = f" {metric} " if word != _THEIRS else " "
        return Text.assemble(word, (shown, style), unit, (number(value, decimals), "bold"))

    if model is None:
        assert original is not None
        found = named("best original", original.checkpoint, names[1], original.value, "")
        return Text.assemble(("no model yet", "bold"), _GAP, found)
    path = output_of(state, model.output) if names[1] else model.output
    ours = named("best", path, names[0], model.value, "green")
    if original is None or best.gain is None:
        return ours
    share = gain(original.value, model.value, best.mode) or f"{best.gain:+.3g}"
    if best.gain <= 0.0:
        how = "as good as" if best.gain == 0.0 else "better than"
        lead = named("no gain: original", original.checkpoint, names[1], original.value, "")
        tail = f" is {how} {'every model' if best.unbeaten else 'the best'}" if names[1] else ""
        return Text.assemble(lead, tail, _GAP, named("best", path, names[0], model.value, ""), f"{_GAP}{share}")
    theirs = named(_THEIRS, original.checkpoint, names[1], original.value, "")
    style = {True: "bold green", False: "bold yellow", None: "bold"}[best.significant]
    mark = {True: "▲ ", False: "~ ", None: ""}[best.significant]
    gained = (f"{mark}{share}, {NOISE[best.significant]}", style)
    return Text.assemble(ours, _GAP, theirs, _GAP, gained)
