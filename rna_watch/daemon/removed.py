"""Outputs that somebody removed: they are recorded as gone, and made again where their inputs are still there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rna_watch.journal import events as e

if TYPE_CHECKING:
    from rna_watch.daemon.pins import Pins
    from rna_watch.daemon.recorder import Recorder
    from rna_watch.journal.replay import Checkpoint
    from rna_watch.journal.run_paths import RunPaths


def note_what_is_gone(paths: RunPaths, recorder: Recorder, pins: Pins) -> list[str]:
    """Record the outputs that are gone, and which of them cannot be made again; returns their paths in the output tree.

    The checkpoints of the others are in work again.

    Args:
        paths: where the outputs lie.
        recorder: journal and state.
        pins: the window store.
    """
    gone = [published for output, published in recorder.state.outputs.items() if not paths.there(output)]
    for published in gone:
        before = recorder.checkpoint(published.checkpoint)
        recorder.record(e.Gone(checkpoint=published.checkpoint, output=published.output))
        if before is None or before.output != published.output:
            continue  # of a version that was written again since
        missing = [name for name in _inputs(before) if not _as_it_was(before, name, recorder, pins)]
        if missing:
            reason = f"its model was removed and cannot be made again: {', '.join(missing)} cannot be read as before"
            recorder.record(e.Finished(checkpoint=before.name, reason=reason))
    return [published.output for published in gone]


def _inputs(checkpoint: Checkpoint) -> list[str]:
    return checkpoint.chosen.inputs if checkpoint.chosen else [checkpoint.name]


def _as_it_was(checkpoint: Checkpoint, name: str, recorder: Recorder, pins: Pins) -> bool:
    """Whether an input of a checkpoint's model has the bytes that it had then."""
    found = recorder.checkpoint(name)
    if found is None or found.admitted is None or checkpoint.chosen is None or not found.usable:
        return False
    return found.admitted.seq < checkpoint.chosen.seq and pins.layout(found) is not None
