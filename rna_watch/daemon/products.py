"""Products: candidates whose factors (LoRA) are combined as their products, beside the plain combinations."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rna_watch.acceleration.methods import PRODUCT
from rna_watch.errors import EvaluationFailed, RefusedCheckpoint
from rna_watch.journal import events as e
from rna_watch.layout import owned
from rna_watch.layout.factors import factors
from rna_watch.publishing import products as publishing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from rna_watch.acceleration.candidate import Candidate
    from rna_watch.daemon.recorder import Recorder
    from rna_watch.daemon.window import Window
    from rna_watch.publishing.made import Made
    from rna_watch.window.tasks import Run

MOST = 2  # of the best average, and of the best solution


def products(
    window: Window, starts: Sequence[Candidate], *, recorder: Recorder, run: Run, scratch: Path
) -> Iterator[tuple[Candidate, Made]]:
    """The candidate of products for each plain combination; nothing, and a note, where factors have no partners.

    Args:
        window: the inputs.
        starts: the plain combinations, each of one row of weights.
        recorder: journal and state.
        run: runs tasks, as an engine's `map` does.
        scratch: the folder for the models' files, which the evaluator sees too.
    """
    name, found = window.members[-1].name, factors(window.layouts[-1])
    if found.left and starts:
        some = f" (and {len(found.left) - 1} more)" if found.left[1:] else ""
        text = f"some factors are combined as they are, not as their product: {found.left[0]}{some}"
        recorder.record(e.Noted(checkpoint=name, text=text))
    for start in starts if found.pairs else ():
        own = f"{PRODUCT}-{start.name}"
        path = scratch / f"candidate-0.{own}.safetensors"
        try:
            owned.make_folders(scratch)
            made = publishing.make(window.combination(start), start.name, str(path), run)
        except (EvaluationFailed, RefusedCheckpoint, OSError) as error:
            recorder.record(e.EvaluationFailed(checkpoint=name, candidate=own, reason=str(error)))
            continue
        yield candidate(start, own, made.notes[0]), made


def candidate(start: Candidate, name: str, sentence: str) -> Candidate:
    """The candidate of products of another one; it is no combination and has no weights.

    Args:
        start: the plain combination.
        name: its own name.
        sentence: what is to be said of it.
    """
    return replace(
        start,
        name=name,
        method=PRODUCT,
        regularization=None,
        coefficients=(),
        weights=(),
        diagnostics=replace(start.diagnostics, sentence=sentence),
        parameters={"of": start.name},
    )
