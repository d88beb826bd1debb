"""The newest choice, explained: the model in words and numbers, and how it compares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.text import Text

from rna_watch.dashboard.layout import Lines, fit, heading, pack, wrap
from rna_watch.journal.quantities import plain

if TYPE_CHECKING:
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


def newest_choice(state: RunState) -> Checkpoint | None:
    """The checkpoint with the newest choice that the journal explains, if there is one."""
    explained = [c for c in state.checkpoints.values() if c.chosen is not None and c.chosen.diagnostics]
    return max(explained, key=lambda c: c.chosen.time if c.chosen else 0.0, default=None)


def choice(state: RunState, *, width: int, most: int) -> Lines:
    """A title and the explanation; nothing if nothing was chosen yet or there is no room.

    Args:
        state: what the journal adds up to.
        width: terminal cells of a line.
        most: the most lines, the title included.
    """
    checkpoint = newest_choice(state)
    if checkpoint is None or checkpoint.chosen is None or most < 3:
        return []
    chosen = checkpoint.chosen
    name = Text.assemble(
        (plain(chosen.candidate), "bold"), (f" {plain(str(chosen.diagnostics.get('sentence', '')))}", "")
    )
    lines = [heading("newest choice", plain(checkpoint.name), width), fit(name, width)]
    lines += pack(_numbers(chosen), width, separator=" · ")
    for step in chosen.comparisons:
        lines += wrap(_step(step, chosen.tested_on), width, style="dim", most=1)
    return lines[:most]


def _numbers(chosen: Chosen) -> list[Text]:
    diagnostics = chosen.diagnostics
    parts = [Text(f"residuals: {plain(chosen.residuals)}", "dim")]
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
