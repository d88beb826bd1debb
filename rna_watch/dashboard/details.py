"""The details of a checkpoint: every candidate with its values, the weights as signed bars, the sentence, and the reason."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rich.text import Text

from rna_watch.dashboard.coefficients import signed
from rna_watch.dashboard.layout import Column, Lines, fit, grid, heading, pack, tail_of, wrap
from rna_watch.journal.metric import Metric, value_in
from rna_watch.journal.quantities import gain, number, places, plain, size
from rna_watch.journal.words import output_of

if TYPE_CHECKING:
    from rna_watch.acceleration.significance import Mode
    from rna_watch.journal.events import Chosen
    from rna_watch.journal.replay import Checkpoint, RunState

_NAMES = {
    "condition": "condition of R'R",
    "smallest_eigenvalue": "smallest eigenvalue",
    "norm1": "|c|₁",
    "norm2": "|c|₂",
    "gain": "residual",
    "cosine": "cosine",
    "effective_count": "worth",
}
_ORIGINAL = "last"
_BAR = 41
_MOST_OTHERS = 3  # metrics beside the one that decides


def details(state: RunState, checkpoint: Checkpoint, metric: Metric | None, *, width: int) -> Lines:
    """All that the journal tells of a checkpoint, in the order in which it matters.

    Args:
        state: what the journal adds up to.
        checkpoint: the checkpoint.
        metric: the metric that decides, if it is known.
        width: terminal cells of a line.
    """
    lines = [heading(plain(checkpoint.name), str(checkpoint.stage), width)]
    facts = []
    if it := checkpoint.admitted:
        facts += [f"{plain(it.step_kind)} {it.step}", size(it.size_bytes), plain(it.format)]
        facts += [f"{it.parameters:,} parameters"] if it.parameters else []
    facts += [f"model {plain(output_of(state, checkpoint.output))}"] if checkpoint.output else []
    lines += pack([Text(fact) for fact in facts], width)
    chosen = checkpoint.chosen
    if checkpoint.reason and (chosen is None or checkpoint.reason != chosen.reason):
        lines += wrap(checkpoint.reason, width, style="yellow", most=4)
    if chosen:
        lines += wrap(f"{chosen.candidate}: {chosen.reason}", width, style="bold", most=3)
        lines += explanation(chosen, width=width)
    if checkpoint.evaluations or checkpoint.failures:
        lines += [heading("candidates", f"{len(checkpoint.evaluations)} evaluated", width)]
        lines += _candidates(checkpoint, metric, width)
    if chosen and chosen.weights:
        lines += [heading("weights", "oldest first, their sum is 1", width), *_weights(chosen, width)]
    return [fit(line, width) for line in lines]


def explanation(chosen: Chosen, *, width: int) -> Lines:
    """The chosen combination in a sentence and in numbers, and how it compares."""
    lines = wrap(str(chosen.diagnostics.get("sentence", "")), width, style="", most=3)
    lines += pack(_numbers(chosen), width, separator=" · ")
    for step in chosen.comparisons:
        lines += wrap(_step(step, chosen.tested_on), width, style="dim", most=2)
    return lines


def _candidates(checkpoint: Checkpoint, metric: Metric | None, width: int) -> Lines:
    """A row for each candidate, the best first, then those that failed."""
    deciding = metric.name if metric else ""
    values = {name: value_in(said, deciding) for name, said in checkpoint.evaluations.items()}
    original = values.get(_ORIGINAL)
    sign = -1.0 if metric and metric.mode == "max" else 1.0
    names = sorted(values, key=lambda name: _rank(values[name], sign))
    others = list(dict.fromkeys(key for said in checkpoint.evaluations.values() for key in said if key != deciding))
    decimals = places(values.values())
    taken = checkpoint.chosen.candidate if checkpoint.chosen else None
    mode = metric.mode if metric else None
    label = [
        Text("the original" if name == _ORIGINAL else plain(name), "bold green" if name == taken else "")
        for name in names
    ]
    share = ["" if name == _ORIGINAL else _share(original, values[name], mode) for name in names]
    columns = [
        Column(title="", cells=[Text("✓" if name == taken else " ", "green") for name in names]),
        Column(title="candidate", cells=label, least=14, gap=1),
        Column(title=plain(deciding), cells=[Text(number(values[name], decimals)) for name in names], right=True),
        Column(title="gain", cells=[Text(text) for text in share], right=True, drop=1),
    ]
    for place, other in enumerate(others[:_MOST_OTHERS]):
        said = {name: value_in(checkpoint.evaluations[name], other) for name in names}
        room = places(said.values())
        cells = [Text(number(said[name], room)) for name in names]
        columns.append(Column(title=plain(other), cells=cells, right=True, drop=2 + place))
    lines = grid(columns, width, spans=[None] * len(names)) if names else []
    for name, reason in checkpoint.failures.items():
        lines += wrap(f"✗ {name}: {reason}", width, style="red", most=3)
    return lines


def _share(original: float | None, value: float | None, mode: Mode | None) -> str:
    return gain(original, value, mode) if original is not None and value is not None else ""


def _rank(value: float | None, sign: float) -> float:
    return math.inf if value is None or not math.isfinite(value) else sign * value


def _weights(chosen: Chosen, width: int) -> Lines:
    """A row for each input: its name, its weight, and a bar to the left or to the right."""
    names = [*map(plain, chosen.inputs)] + [""] * (len(chosen.weights) - len(chosen.inputs))
    largest = max((abs(weight) for weight in chosen.weights if math.isfinite(weight)), default=0.0)
    room = min(max(map(len, names), default=0), max(width // 3, 8))
    bar = min(_BAR, max((width - room - 12) // 2 * 2 - 1, 3))
    lines = []
    for place, (name, weight) in enumerate(zip(names, chosen.weights, strict=False)):
        digits = f"{weight:+.3f}" if abs(weight) < 99.9995 else f"{weight:+.0e}"
        line = Text.assemble(tail_of(name, room).ljust(room), f" {digits:>8}  ", signed(weight, largest, bar))
        spread = chosen.spread[place] if place < len(chosen.spread) else 0.0
        lines.append(fit(line.append(f"  ±{spread:.2f} from tensor to tensor" if spread else "", "dim"), width))
    return lines


def _numbers(chosen: Chosen) -> list[Text]:
    diagnostics = chosen.diagnostics
    parts = [Text(f"residuals: {plain(chosen.residuals)}", "dim")] if chosen.residuals else []
    for key, title in _NAMES.items():
        value = diagnostics.get(key)
        if not isinstance(value, int | float):
            continue
        text = f"{title} {_digits(float(value))}"
        bound = diagnostics.get("norm2_bound")
        if key == "norm2" and isinstance(bound, int | float):
            text += f" (at most {_digits(float(bound))})"
        if key == "effective_count":
            text += " checkpoints"
        if key == "gain":
            text += " of the newest's"
        parts.append(Text(text, "dim"))
    return parts


def _digits(value: float) -> str:
    return f"{value:.2g}" if value and not 1e-2 <= abs(value) < 1e3 else f"{value:.2f}"


def _step(step: dict[str, Any], tested_on: str) -> str:
    """One comparison in words: the gain and of what, the noise, and whether the gain counted."""
    error, threshold = step.get("standard_error"), float(step.get("threshold") or 0.0)
    advantage = step.get("gain")
    if not isinstance(advantage, int | float):
        return f"{plain(str(step['candidate']))} against {plain(str(step['reference']))}: not comparable"
    noise = f" ± {_digits(float(error))}" if isinstance(error, int | float) else ""
    needed = f", needs more than {_digits(threshold)}" if threshold else ""
    verdict = "taken" if step.get("accepted") else "not taken"
    against = "the original" if step["reference"] == "last" else plain(str(step["reference"]))
    of = f" in {plain(tested_on)}" if tested_on else ""
    gained = f"gain {_digits(float(advantage))}{noise}{of}{needed}"
    return f"{plain(str(step['candidate']))} against {against}: {gained}: {verdict}"
