"""The answer of a run, on one line: its best model next to its best original, the gain, and whether that is beyond noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from rna_watch.dashboard.layout import fit, tail_of
from rna_watch.journal.checkpoint import USABLE
from rna_watch.journal.metric import metric_of
from rna_watch.journal.quantities import gain, number, places, plain
from rna_watch.journal.words import HOW_TO_TEST, NOISE, output_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rna_watch.journal.replay import RunState
    from rna_watch.journal.standing import Standing

_SHORT = NOISE | {None: "noise unknown"}
# of the model's name and of the original's, and how noise is called
_NAME_WIDTHS = ((60, 60, NOISE), (28, 28, NOISE), (28, 0, NOISE), (16, 0, _SHORT), (0, 0, NOISE), (0, 0, _SHORT))
_STYLES = {True: "bold green", False: "bold yellow", None: "bold"}
_THEIRS = "original's best"
_GAP = " · "
_FEWEST = 3  # checkpoints of a window


def answer(state: RunState, best: Standing | None, width: int) -> Text:
    """The answer as one line, with what is longest left out where it does not fit.

    Args:
        state: what the journal adds up to.
        best: the best model and the best original.
        width: terminal cells.
    """
    if best is None or (best.model is None and best.original is None):
        texts = _untested(state)
    else:
        texts = [_tested(state, best, *names) for names in _NAME_WIDTHS]
        texts += [_in_short(best)]
    return next((text for text in texts if text.cell_len <= width), fit(texts[-1], width))


def _untested(state: RunState) -> list[Text]:
    """What is known without a value, the longest text first."""
    count = len(state.outputs)
    made = f"{count} {'model' if count == 1 else 'models'} made, none tested" if count else "no model tested"
    if state.started is None:
        return [Text("nothing is known of this run yet", "yellow")]
    if not state.started.evaluator:
        text = Text.assemble((made, "bold yellow"), f": {HOW_TO_TEST}")
        return [text.copy().append(" to see whether they help"), text, Text(made, "bold yellow")]
    if state.failed_evaluations:
        return [Text(f"{made}: the evaluator fails", "bold red")]
    metric = metric_of(state)
    if count and metric is not None and metric.mode is None:
        name = plain(metric.name)
        return [Text(f"{made}: say whether {name} is to be low or high, --mode min or --mode max", "bold yellow")]
    usable = state.checkpoints.count(USABLE)
    if usable < _FEWEST:
        here = f"{usable or 'none'} {'is' if usable < 2 else 'are'} here"
        text = Text().append("no model yet", "bold")
        return [text.copy().append(f": the first comes with checkpoint number {_FEWEST}, {here}"), text]
    return [Text.assemble((made, "bold"), ": the first evaluations are to come"), Text(made, "bold")]


def _in_short(best: Standing) -> Text:
    """The gain alone, or the value where there is none to compare with."""
    scored = best.model or best.original
    assert scored is not None
    value = f"{plain(best.metric)} {number(scored.value, places([scored.value]))}"
    if best.model is None or best.original is None or best.gain is None:
        return Text(value)
    if best.gain <= 0.0:
        return Text(f"no gain{_GAP}{value}")
    return Text.assemble((f"{_share(best)} {_SHORT[best.significant]}", _STYLES[best.significant]), f"{_GAP}{value}")


def _share(best: Standing) -> str:
    if best.model is None or best.original is None or best.gain is None:
        return ""
    return gain(best.original.value, best.model.value, best.mode) or f"{best.gain:+.3g}"


def _tested(
    state: RunState, best: Standing, model_room: int, original_room: int, noise: Mapping[bool | None, str]
) -> Text:
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
        found = named("best original", original.checkpoint, original_room, original.value, "")
        why = "its models are gone" if state.outputs else "no model yet"
        return Text.assemble((why, "bold"), _GAP, found)
    path = output_of(state, model.output) if original_room else model.output
    ours = named("best", path, model_room, model.value, "green")
    if original is None or best.gain is None:
        return ours
    if best.gain <= 0.0:
        how = "as good as" if best.gain == 0.0 else "better than"
        lead = named("no gain: original", original.checkpoint, original_room, original.value, "")
        tail = f" is {how} {'every model' if best.unbeaten else 'the best'}" if original_room else ""
        ours = named("best", path, model_room, model.value, "")
        return Text.assemble(lead, tail, _GAP, ours, f"{_GAP}{_share(best)}")
    theirs = named(_THEIRS, original.checkpoint, original_room, original.value, "")
    mark = {True: "▲ ", False: "~ ", None: ""}[best.significant]
    gained = (f"{mark}{_share(best)}, {noise[best.significant]}", _STYLES[best.significant])
    return Text.assemble(ours, _GAP, theirs, _GAP, gained)
