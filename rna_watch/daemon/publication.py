"""Publication: a chosen model gets its name, its manifest, and its place among `latest`, `best` and those that are kept."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from rna_watch.acceleration.methods import LAST
from rna_watch.acceleration.significance import Mode, gain
from rna_watch.errors import IncompleteCheckpoint, RefusedCheckpoint
from rna_watch.formats import deepspeed
from rna_watch.journal import events as e
from rna_watch.journal.replay import Stage
from rna_watch.layout import disk
from rna_watch.layout.identity import identify_any
from rna_watch.publishing import export, output_tree, torch_writer
from rna_watch.publishing import write_export as engine_export
from rna_watch.publishing.write import publish as write
from rna_watch.watching import steps
from rna_watch.window.tasks_plan import BUDGET_MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from rna_watch.acceleration.residuals import Residuals
    from rna_watch.acceleration.selection import Choice
    from rna_watch.config import RunConfig
    from rna_watch.daemon.recorder import Recorder
    from rna_watch.daemon.window import Window
    from rna_watch.journal.replay import Checkpoint
    from rna_watch.journal.run_paths import RunPaths
    from rna_watch.layout.dtypes import Array
    from rna_watch.layout.layout import Layout
    from rna_watch.window.tasks import Result
    from rna_watch.window.tasks_plan import Task

    Run = Callable[[Sequence[Task]], Sequence[Result]]

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
            choice: the candidate, and what it is worth.
            residuals: what it was found from.
            statistics: re-estimated normalization statistics of the candidate, if it has any, by tensor name.
            run: an engine's `map`.

        Raises:
            StoreError: there is no room, or the folder cannot be written.
            RefusedCheckpoint: it would replace what rna-watch did not write.
            InputChanged: an input changed meanwhile.
            Superseded: the checkpoint was written again meanwhile.
        """
        begun = time.perf_counter()
        chosen = self._recorder.current(checkpoint.name).chosen
        assert chosen is not None
        model = self._place(checkpoint)
        recipe = window.combination(choice.candidate, statistics)
        export_to, notes = planned_export(self._config.export, window.layouts[-1], model)
        dropped, kept_because = planned_drop(self._config.optimizer_state, window.layouts[-1])
        content = output_tree.encode(
            output_tree.manifest(
                checkpoint=checkpoint.name,
                step=checkpoint.step,
                inputs=[_input(member) for member in window.members],
                source=window.layouts[-1].source,
                candidate=choice.candidate,
                metrics=chosen.metrics,
                better_than_original=choice.better_than_original,
                significant=choice.significant,
                reason=chosen.reason,
                residuals=residuals,
                comparisons=chosen.comparisons,
                export=export_to.name if export_to else None,
                dropped=dropped,
                notes=[*notes, *kept_because],
            )
        )
        temporary = model.with_name(disk.temporary_name(model.name, "publish"))
        self._recorder.record(
            e.Publishing(
                checkpoint=checkpoint.name,
                output=self._paths.in_tree(model),
                temporary=self._paths.in_tree(temporary),
                manifest_digest=output_tree.digest(content),
            )
        )
        output_tree.check_ours(model)
        output_tree.write_manifest(model, content)
        output_tree.export_path(model).unlink(
            missing_ok=True
        )  # of an older output: after a crash it would pass for this one's
        try:
            written = write(
                recipe,
                str(model),
                temporary=str(temporary),
                budget_mib=BUDGET_MIB,
                run=run,
                drop=dropped,
            )
        except (RefusedCheckpoint, IncompleteCheckpoint):
            if not model.exists():
                output_tree.manifest_path(model).unlink(missing_ok=True)
            raise
        if export_to is not None:
            written += write_export(model, export_to, window.layouts[-1].source, "publish", run)
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
        """Room that the model of a window is going to take, its plain copy included: at most so much."""
        return newest.size_bytes * (2 if self._config.export == export.SAFETENSORS else 1)

    def finish(self, checkpoint: Checkpoint) -> bool:
        """After a crash: whether the model that was being published is whole, so that only its record is missing."""
        intent = checkpoint.publishing
        if checkpoint.stage is not Stage.PUBLISHING or intent is None:
            return False
        model = self._paths.models / intent.output
        temporary = self._paths.models / intent.temporary
        try:
            same = output_tree.digest(output_tree.manifest_path(model).read_bytes()) == intent.manifest_digest
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
        """After a crash: move the links as they were to be moved when the newest output was recorded, if it is there."""
        state = self._recorder.state
        newest = next(reversed(state.outputs.values()), None)
        if newest is None or (state.best is not None and state.best.seq > newest.seq):
            return
        model = self._paths.models / newest.output
        if model.exists():
            self._point(newest.checkpoint, model)

    def _place(self, checkpoint: Checkpoint) -> Path:
        """Where a model goes: under its checkpoint's name, or beside it where `best` names what an earlier run put there."""
        name, best = checkpoint.name, self._recorder.state.best
        model = self._paths.models / name
        assert checkpoint.admitted is not None
        if best is None or best.output != name or best.seq > checkpoint.admitted.seq:
            return model
        return model.with_name(f"{steps.stem(name)}{_AGAIN}{steps.ending(name)}")

    def _point(self, name: str, model: Path) -> None:
        """Move `latest`, and `best` if this beats every original and every output before; then keep the number bounded."""
        self._link("latest", model)
        state = self._recorder.state
        current = state.checkpoints[name]
        value = self._value(current, "chosen") if current.output == self._paths.in_tree(model) else None
        if value is not None and current.chosen is not None and current.chosen.better_than_original:
            mode: Mode = "max" if state.metric and state.metric.mode == "max" else "min"
            others = [
                other
                for checkpoint in self._recorder.checkpoints()
                for other in (
                    self._value(checkpoint, "original"),
                    self._value(checkpoint, "chosen")
                    if checkpoint.name != name and checkpoint.stage is Stage.PUBLISHED
                    else None,
                )
            ]
            others += [self._number(metrics) for metrics in state.replaced]
            if all(gain(value, other, mode) > 0 for other in others if other is not None):
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

    def _value(self, checkpoint: Checkpoint, which: str) -> float | None:
        """The choosing metric of a checkpoint's original or chosen model."""
        if which == "original":
            return self._number(checkpoint.evaluations.get(LAST))
        return self._number(checkpoint.chosen.metrics.get("chosen") if checkpoint.chosen else None)

    def _number(self, metrics: e.Metrics | None) -> float | None:
        settled = self._recorder.state.metric
        if settled is None:
            return None
        value = metrics.get(settled.metric) if metrics else None
        return value if value is not None and math.isfinite(value) else None

    def _prune(self) -> None:
        best = self._recorder.state.best
        linked = (self._paths.models / "best").resolve()
        for output, published in list(self._recorder.state.outputs.items())[: -self._config.keep]:
            # the link moves before its record: a crash in between leaves them apart, and neither may lose its model
            if (best is not None and output == best.output) or linked == (self._paths.models / output).resolve():
                continue
            output_tree.remove(self._paths.models / output)
            self._recorder.record(e.Pruned(checkpoint=published.checkpoint, output=output))


def planned_export(setting: str, newest: Layout, model: Path) -> tuple[Path | None, list[str]]:
    """Where a model's plain copy goes (None: there is none), and why it cannot be made although it is wanted."""
    if setting != export.SAFETENSORS:
        return None, []
    why = export.obstacle(newest)
    return (None, [f"It was not exported: {why}."]) if why else (output_tree.export_path(model), [])


def planned_drop(setting: str, newest: Layout) -> tuple[bool, list[str]]:
    """Whether what lies beside the model is left out, and why it cannot be although that is wanted."""
    if newest.format == deepspeed.NAME:
        return True, []  # the weights alone are consolidated
    if setting != torch_writer.DROP or newest.root:
        return False, []
    why = torch_writer.obstacle(newest)
    return not why, [f"What lies beside the model was kept: {why}."] if why else []


def write_export(model: Path, to: Path, source: str, owner: str, run: Run) -> int:
    """Write a published model's plain copy; returns its size in bytes.

    Raises:
        StoreError: there is no room, or the folder cannot be written.
    """
    temporary = to.with_name(disk.temporary_name(to.name, owner))
    return engine_export.write(str(model), str(to), source=source or None, temporary=str(temporary), run=run)


def _is_of_intent(checkpoint: Checkpoint, intent: e.Publishing, model: Path) -> bool:
    """Whether an output is the one that was intended, not an older one of that name.

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
