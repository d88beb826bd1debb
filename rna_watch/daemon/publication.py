"""Publication: a chosen model gets its name and its manifest; `latest`, `best` and the kept outputs follow."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from rna_watch.journal import events as e
from rna_watch.journal.metric import best_so_far
from rna_watch.journal.replay import Stage
from rna_watch.layout import artifacts, disk
from rna_watch.layout.identity import identify_any
from rna_watch.publishing import export, manifest, output_tree
from rna_watch.publishing import output as outputs
from rna_watch.watching import steps

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rna_watch.acceleration.residuals import Residuals
    from rna_watch.acceleration.selection import Choice
    from rna_watch.config import RunConfig
    from rna_watch.daemon.recorder import Recorder
    from rna_watch.daemon.window import Window
    from rna_watch.journal.replay import Checkpoint
    from rna_watch.journal.run_paths import RunPaths
    from rna_watch.layout.dtypes import Array
    from rna_watch.layout.layout import Layout
    from rna_watch.window.tasks import Run

_AGAIN = ".again"


class Publication:
    """Writes outputs and keeps the output tree in order; every act is recorded before and after."""

    def __init__(self, config: RunConfig, paths: RunPaths, recorder: Recorder) -> None:
        self._config = config
        self._paths = paths
        self._recorder = recorder

    def publish(
        self,
        checkpoint: Checkpoint,
        window: Window,
        choice: Choice,
        residuals: Residuals,
        statistics: Mapping[str, Array] | None,
        run: Run,
    ) -> None:
        """Write a choice's model and its manifest, then move the links.

        Args:
            checkpoint: the newest of the window.
            window: the inputs.
            choice: the candidate, and its comparison with the original.
            residuals: the window's residuals.
            statistics: the candidate's re-estimated normalization statistics by tensor name, in the stored dtype's bits.
            run: an engine's `map`.

        Raises:
            StoreError: there is no room, or the folder cannot be written.
            RefusedCheckpoint: the model would replace something that rna-watch did not write.
            InputChanged: an input changed meanwhile.
            Superseded: the checkpoint was written again meanwhile.
        """
        begun = time.perf_counter()
        chosen = self._recorder.current(checkpoint.name).chosen
        assert chosen is not None
        model = self._place(checkpoint)
        output = outputs.plan(
            model,
            window.combination(choice.candidate, statistics),
            exported=self._config.export,
            optimizer_state=self._config.optimizer_state,
        )
        content = manifest.encode(
            manifest.describe(
                output,
                checkpoint=checkpoint.name,
                step=checkpoint.step,
                inputs=[_input(member) for member in window.members],
                candidate=choice.candidate,
                metrics=chosen.metrics,
                better_than_original=choice.better_than_original,
                significant=choice.significant,
                reason=chosen.reason,
                residuals=residuals,
                comparisons=chosen.comparisons,
                notes=[window.begins] if window.begins else [],
            )
        )
        self._recorder.record(
            e.Publishing(
                checkpoint=checkpoint.name,
                output=self._paths.in_tree(model),
                temporary=self._paths.in_tree(Path(disk.temporary_path(str(model)))),
                manifest_digest=manifest.digest(content),
            )
        )
        output_tree.check_ours(model)
        written = outputs.write(output, content, run)
        self._recorder.record(
            e.Published(
                checkpoint=checkpoint.name,
                output=self._paths.in_tree(model),
                written_bytes=written,
                seconds=time.perf_counter() - begun,
            )
        )
        self._point(checkpoint.name, model)

    def size_bytes(self, newest: Layout) -> int:
        """The most room that a window's model takes, with its plain copy."""
        return newest.size_bytes * (2 if self._config.export == export.SAFETENSORS else 1)

    def finish(self, checkpoint: Checkpoint) -> bool:
        """Whether the model that a crash interrupted is whole, so that only its record is missing."""
        intent = checkpoint.publishing
        if checkpoint.stage is not Stage.PUBLISHING or intent is None:
            return False
        model = self._paths.models / intent.output
        temporary = self._paths.models / intent.temporary
        try:
            same = manifest.digest(artifacts.manifest_path(model).read_bytes()) == intent.manifest_digest
            same = same and output_tree.has_export(model)
        except OSError:
            same = False
        if temporary.exists() or not same or not model.exists() or not _is_of_intent(checkpoint, intent, model):
            disk.remove(str(temporary))
            return False
        self._recorder.record(
            e.Published(
                checkpoint=checkpoint.name,
                output=intent.output,
                written_bytes=identify_any(str(model)).size_bytes,
                seconds=0.0,
            )
        )
        self._point(checkpoint.name, model)
        return True

    def settle(self) -> None:
        """Move the links to the newest recorded output, if it is there; a crash may have prevented that."""
        state = self._recorder.state
        newest = next(reversed(state.outputs.values()), None)
        if newest is None or (state.best is not None and state.best.seq > newest.seq):
            return
        model = self._paths.models / newest.output
        if model.exists():
            self._point(newest.checkpoint, model)

    def _place(self, checkpoint: Checkpoint) -> Path:
        """The path of a model: its checkpoint's name, or another if `best` names what an earlier run put there."""
        name, best = checkpoint.name, self._recorder.state.best
        model = self._paths.models / name
        assert checkpoint.admitted is not None
        if best is None or best.output != name or best.seq > checkpoint.admitted.seq:
            return model
        return model.with_name(f"{steps.stem(name)}{_AGAIN}{steps.ending(name)}")

    def _point(self, name: str, model: Path) -> None:
        """Move `latest`, and `best` if this beats every original and every output before; then remove surplus outputs."""
        self._link("latest", model)
        current = self._recorder.state.checkpoints[name]
        if current.output == self._paths.in_tree(model):
            value = best_so_far(self._recorder.state, name)
            if value is not None:
                self._link("best", model)
                self._recorder.record(e.BestMoved(checkpoint=name, output=self._paths.in_tree(model), value=value))
        self._prune()

    def _link(self, name: str, model: Path) -> None:
        link = self._paths.models / name
        if output_tree.point(link, model):
            self._recorder.solved(f"link {name}")
        else:
            what = f"rna-watch did not make {link}, so it does not name the {name} model"
            self._recorder.problem(f"link {name}", what, "move it away")

    def _prune(self) -> None:
        best = self._recorder.state.best
        linked = (self._paths.models / "best").resolve()
        for output, published in list(self._recorder.state.outputs.items())[: -self._config.keep]:
            # the link moves before its record: a crash in between leaves them apart, and neither may lose its model
            if (best is not None and output == best.output) or linked == (self._paths.models / output).resolve():
                continue
            output_tree.remove(self._paths.models / output)
            self._recorder.record(e.Pruned(checkpoint=published.checkpoint, output=output))


def _is_of_intent(checkpoint: Checkpoint, intent: e.Publishing, model: Path) -> bool:
    """Whether an output is the intended one, not an older one of that name.

    A file carries the modification time of its newest input; a folder got its name after the intent.
    """
    stat = model.stat()
    if model.is_dir():
        return stat.st_ctime >= intent.time
    return checkpoint.admitted is not None and stat.st_mtime_ns == checkpoint.admitted.mtime_ns


def _input(checkpoint: Checkpoint) -> dict[str, object]:
    assert checkpoint.admitted is not None
    return {
        "path": checkpoint.admitted.path,
        "step": checkpoint.admitted.step,
        "fingerprint": checkpoint.admitted.fingerprint,
    }
