"""Publication: a chosen model gets its name and its manifest; `latest`, `best` and the kept outputs follow."""

from __future__ import annotations

import contextlib
import time
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from rna_watch.daemon.links import link_name, links
from rna_watch.errors import IncompleteCheckpoint, InputChanged, RefusedCheckpoint
from rna_watch.formats.probe import probe
from rna_watch.journal import events as e
from rna_watch.journal.metric import as_good_as_best, best_so_far
from rna_watch.journal.replay import Stage
from rna_watch.layout import artifacts, bounded_json, disk
from rna_watch.layout.identity import identify_any
from rna_watch.publishing import export, manifest, output_tree
from rna_watch.publishing import output as outputs
from rna_watch.watching import steps

if TYPE_CHECKING:
    from collections.abc import Collection

    from rna_watch.acceleration.residuals import Residuals
    from rna_watch.acceleration.selection import Choice
    from rna_watch.config import RunConfig
    from rna_watch.daemon.recorder import Recorder
    from rna_watch.daemon.window import Window
    from rna_watch.journal.replay import Checkpoint, RunState
    from rna_watch.journal.run_paths import RunPaths
    from rna_watch.layout.layout import Layout
    from rna_watch.publishing.made import Made
    from rna_watch.window.combine import Combination
    from rna_watch.window.tasks import Run

_AGAIN = ".again"


class Publication:
    """Writes outputs and keeps the output tree in order; every act is recorded before and after."""

    def __init__(self, config: RunConfig, paths: RunPaths, recorder: Recorder) -> None:
        self._config = config
        self._paths = paths
        self._recorder = recorder
        self._owed: list[tuple[str, Path]] = []  # what was published, and no link was moved for yet

    def publish(
        self,
        checkpoint: Checkpoint,
        window: Window,
        choice: Choice,
        residuals: Residuals,
        recipe: Combination,
        made: Made | None,
        run: Run,
    ) -> None:
        """Write a choice's model and its manifest, then move the links.

        Args:
            checkpoint: the newest of the window.
            window: the inputs.
            choice: the candidate, and its comparison with the original.
            residuals: the window's residuals.
            recipe: the candidate as a recipe.
            made: how it was made, if it is no combination.
            run: an engine's `map`.

        Raises:
            StoreError: there is no room, or the folder cannot be written.
            RefusedCheckpoint: the model would replace something that rna-watch did not write.
            InputChanged: an input changed meanwhile.
            Superseded: the checkpoint was written again meanwhile.
            RunIsWatched: another process has taken the run over.
        """
        begun = time.perf_counter()
        chosen = self._recorder.current(checkpoint.name).chosen
        assert chosen is not None
        model = self._place(checkpoint)
        output = outputs.plan(
            model,
            recipe,
            exported=self._config.serving_copy,
            optimizer_state=self._config.optimizer_state,
        )
        content = manifest.encode(
            manifest.describe(
                output,
                checkpoint=checkpoint.name,
                step=checkpoint.step,
                series=checkpoint.series,
                inputs=[_input(member) for member in window.members],
                candidate=choice.candidate,
                metrics=chosen.metrics,
                better_than_original=choice.better_than_original,
                significant=choice.significant,
                tested_on=choice.tested_on,
                reason=chosen.reason,
                residuals=residuals,
                comparisons=chosen.comparisons,
                notes=[window.begins] if window.begins else [],
                made=made,
            )
        )
        self._intend(checkpoint, model, content)
        output_tree.check_ours(model)
        written = outputs.write(output, content, run)
        self._published(checkpoint, model, written, time.perf_counter() - begun)

    def _intend(self, checkpoint: Checkpoint, model: Path, content: bytes) -> None:
        self._recorder.record(
            e.Publishing(
                checkpoint=checkpoint.name,
                output=self._paths.in_tree(model),
                temporary=self._paths.in_tree(Path(disk.temporary_path(str(model)))),
                manifest_digest=manifest.digest(content),
            )
        )

    def _published(self, checkpoint: Checkpoint, model: Path, written_bytes: int, seconds: float) -> None:
        self._catch_up()
        output = self._paths.in_tree(model)
        self._recorder.record(
            e.Published(checkpoint=checkpoint.name, output=output, written_bytes=written_bytes, seconds=seconds)
        )
        self._owed.append((checkpoint.name, model))
        self._catch_up()

    def _catch_up(self) -> None:
        """Move the links to what was published; where the disk failed for a moment, before anything else is published."""
        while self._owed:
            self._point(*self._owed[0])
            del self._owed[0]

    def describe_again(self, checkpoint: Checkpoint, choice: Choice) -> None:
        """Bring the manifest of a published model up to date, after it was evaluated as it is; then move the links.

        Args:
            checkpoint: the newest of its window.
            choice: the model, and its comparison with the original.

        Raises:
            StoreError: there is no room, or the folder cannot be written.
            Superseded: the checkpoint was written again meanwhile.
        """
        chosen = self._recorder.current(checkpoint.name).chosen
        assert chosen is not None
        assert checkpoint.output is not None
        model = self._paths.models / checkpoint.output
        content = bounded_json.read(artifacts.manifest_path(model)) | {
            "metrics": chosen.metrics,
            "better_than_original": choice.better_than_original,
            "significant": choice.significant,
            "tested_on": choice.tested_on,
            "reason": chosen.reason,
            "comparisons": chosen.comparisons,
        }
        encoded = manifest.encode(content)
        self._intend(checkpoint, model, encoded)
        output_tree.write_manifest(model, encoded)
        self._published(checkpoint, model, 0, 0.0)

    def layout_of(self, checkpoint: Checkpoint) -> Layout | None:
        """The layout of a checkpoint's published model; None if it is not there any more."""
        if checkpoint.output is None:
            return None
        model = self._paths.models / checkpoint.output
        try:
            source = bounded_json.read(artifacts.manifest_path(model)).get("source")
            return probe(str(model), source or None)
        except (OSError, ValueError, RefusedCheckpoint, IncompleteCheckpoint, InputChanged):
            return None

    def worth_writing(self, checkpoint: Checkpoint) -> bool:
        """Whether the model that was chosen anew for a checkpoint would be kept: as one of the newest, or as the best."""
        state = self._recorder.state
        best = state.best_of(checkpoint.name)
        lost = best is not None and best.checkpoint == checkpoint.name and not self.exists(best.output)
        return lost or within(self._config.keep, state, checkpoint) or best_so_far(state, checkpoint.name) is not None

    def exists(self, output: str | None) -> bool:
        """Whether an output is there, by its path in the output tree."""
        return output is not None and (self._paths.models / output).exists()

    def size_bytes(self, newest: Layout) -> int:
        """The most room that a window's model takes, with its plain copy."""
        return newest.size_bytes * (2 if self._config.serving_copy == export.SAFETENSORS else 1)

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
            with contextlib.suppress(PermissionError):  # the journal names what is not ours
                disk.remove(temporary)
            return False
        self._published(checkpoint, model, identify_any(str(model)).size_bytes, 0.0)
        return True

    def settle(self) -> None:
        """Move the links to the output that was written last, if it is there; a crash may have prevented that.

        What a person removed is recorded, and what the setting `keep` leaves out is removed.
        """
        self.reconcile()
        state = self._recorder.state
        written = sorted(state.outputs.values(), key=lambda each: each.seq)
        for published in {state.series_of(each.checkpoint): each for each in written}.values():
            best = state.best_of(published.checkpoint)
            if best is None or best.seq < published.seq:
                self._point(published.checkpoint, self._paths.models / published.output)
        self._prune()

    def reconcile(self) -> None:
        """Compare journal and output tree, both ways: what somebody removed or moved is said, and links are put right."""
        self._catch_up()
        state = self._recorder.state
        for output, published in list(state.outputs.items()):
            if not self.exists(output):
                output_tree.remove(self._paths.models / output)  # its manifest and plain copy
                what = f"{output} is gone; the next start makes it anew if it is to be kept"
                self._recorder.record(e.Noted(checkpoint=published.checkpoint, text=what))
                self._recorder.record(e.Pruned(checkpoint=published.checkpoint, output=output))
        bare = [output for output in state.outputs if not artifacts.is_output(self._paths.models / output)]
        if bare:
            what = f"the manifest of {bare[0]} is gone" + (f", and {len(bare) - 1} more" if bare[1:] else "")
            self._recorder.problem("manifests", what, "move the model away; the next start makes both anew if it can")
        else:
            self._recorder.solved("manifests")
        for link, output in links(state).items():
            if self.exists(output) and not output_tree.names(self._paths.models / link, self._paths.models / output):
                self._link(link, self._paths.models / output)
        for found in self._paths.models.glob("best*") if self._paths.models.is_dir() else ():
            if not found.exists():
                output_tree.unpoint(found)
        self._prune()

    def settle_source(self, foreign: Collection[str]) -> None:
        """Withdraw `best` if the setting `source` names another model now.

        Args:
            foreign: the checkpoints that do not hold that model, or not any more.
        """
        state = self._recorder.state
        for series, (moved, by) in list(state.bests.items()):
            of = state.checkpoints[moved.checkpoint]
            if by is not None and (of.name in foreign or of.key[1] != by[0][1]):
                self.withdraw_best(series, "the setting source names another model now")

    def _place(self, checkpoint: Checkpoint) -> Path:
        """The path of a model: its checkpoint's name, or another if that would replace what `best` names by a worse model."""
        name, best = checkpoint.name, self._recorder.state.best_of(checkpoint.name)
        model = self._paths.models / name
        again = model.with_name(f"{steps.stem(name)}{_AGAIN}{steps.ending(name)}")
        assert checkpoint.admitted is not None
        if best is None or not self.exists(best.output):
            return model
        if checkpoint.taken_up is None:
            return again if best.output == name and best.seq < checkpoint.admitted.seq else model
        held = self._paths.models / best.output
        if held not in {model, again}:
            return self._paths.models / (checkpoint.output or name)
        if as_good_as_best(self._recorder.state, checkpoint.name):
            return held
        return again if held == model else model

    def _point(self, name: str, model: Path) -> None:
        """Move `latest`, and `best` if this beats every original and output before; then remove surplus outputs.

        All of that is among those of the checkpoint's series.
        """
        state, output = self._recorder.state, self._paths.in_tree(model)
        series = state.series_of(name)
        best = state.best_of(name)
        if output == next(
            (o for o, each in reversed(state.outputs.items()) if state.series_of(each.checkpoint) == series), output
        ):
            self._link(link_name("latest", series, state), model)
        if state.checkpoints[name].output == output:
            value = best_so_far(state, name)
            if value is not None:
                self._link(link_name("best", series, state), model)
                self._recorder.record(e.BestMoved(checkpoint=name, output=output, value=value))
            elif best is not None and best.output == output:
                self._confirm(name, model)
        self._prune()

    def _confirm(self, name: str, model: Path) -> None:
        """Let `best` name a model on, or not, that was evaluated or made once more."""
        state = self._recorder.state
        current = state.checkpoints[name]
        link = link_name("best", current.series, state)
        if as_good_as_best(state, name):
            self._link(link, model)
        elif current.chosen is not None and current.chosen.better_than_original is not None:
            self.withdraw_best(current.series, current.reason)

    def _link(self, name: str, model: Path) -> None:
        link = self._paths.models / name
        if output_tree.point(link, model):
            self._recorder.solved(f"link {name}")
        else:
            what = f"rna-watch did not make {link}, so it does not name the {name.partition('.')[0]} model"
            self._recorder.problem(f"link {name}", what, "move it away")

    def withdraw_best(self, series: str, reason: str) -> None:
        """Let the best of a series name nothing, and say why; the model stays as long as the newest few do."""
        best = self._recorder.state.bests.get(series)
        if best is not None:
            output_tree.unpoint(self._paths.models / link_name("best", series, self._recorder.state))
            moved = best.moved
            self._recorder.record(e.BestWithdrawn(checkpoint=moved.checkpoint, output=moved.output, reason=reason))

    def _prune(self) -> None:
        """Remove what is neither the best of its series nor one of the newest of it.

        As many more stay as long as a hook has still to be called for them.
        """
        state = self._recorder.state
        due = {each.of.output for each in state.due}
        outputs: dict[str, list[e.Published]] = {}
        for published in list(state.outputs.values()):
            outputs.setdefault(state.series_of(published.checkpoint), []).append(published)
        for series, found in outputs.items():
            best = state.bests.get(series)
            linked = (self._paths.models / link_name("best", series, state)).resolve()
            for number, published in enumerate(found[: -self._config.keep]):
                output = published.output
                if output in due and number >= len(found) - 2 * self._config.keep:
                    continue
                # the link moves before its record: a crash in between leaves them apart, and neither may lose its model
                if (best is not None and output == best.moved.output) or linked == (
                    self._paths.models / output
                ).resolve():
                    continue
                output_tree.remove(self._paths.models / output)
                self._recorder.record(e.Pruned(checkpoint=published.checkpoint, output=output))


def within(keep: int, state: RunState, checkpoint: Checkpoint) -> bool:
    """Whether the model of a checkpoint is one of the newest of its series that are kept."""
    newest = map(state.checkpoints.__getitem__, state.checkpoints.of_series(checkpoint.series).newest_first())
    models = (c.name for c in newest if c.name == checkpoint.name or Stage.PUBLISHED in {c.stage, c.before})
    return checkpoint.name in islice(models, keep)


def _is_of_intent(checkpoint: Checkpoint, intent: e.Publishing, model: Path) -> bool:
    """Whether an output is the intended one, not an older one of that name.

    A file carries the modification time of its newest input; a folder, and what was made anew, got its name after the intent.
    """
    stat = model.stat()
    if model.is_dir() or checkpoint.taken_up is not None:
        return stat.st_ctime >= intent.time
    return checkpoint.admitted is not None and stat.st_mtime_ns == checkpoint.admitted.mtime_ns


def _input(checkpoint: Checkpoint) -> dict[str, object]:
    assert checkpoint.admitted is not None
    return {
        "path": checkpoint.admitted.path,
        "step": checkpoint.admitted.step,
        "fingerprint": checkpoint.admitted.fingerprint,
    }
