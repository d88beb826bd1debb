"""An output: a model that is published, with its manifest and, where wanted, its plain copy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rna_watch.errors import RunIsWatched, UsageError
from rna_watch.formats import registry
from rna_watch.formats.format import WrittenAs
from rna_watch.layout import artifacts, disk
from rna_watch.publishing import export, output_tree, torch_writer
from rna_watch.publishing.write import publish

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rna_watch.acceleration.gram import GramRows
    from rna_watch.window.combine import Combination
    from rna_watch.window.tasks import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A model that is to be published: its path, its recipe, the path of its plain copy (None: there is none).

    `dropped`: the rest of the newest input's file is left out. `notes` say why something that was wanted is not done.
    """

    model: Path
    recipe: Combination
    export: Path | None
    dropped: bool
    notes: tuple[str, ...]


def plan(model: Path, recipe: Combination, *, exported: str, optimizer_state: str) -> Output:
    """How a model is published.

    Args:
        model: its path.
        recipe: the inputs and their weights.
        exported: the setting `serving_copy`: which plain copy is wanted.
        optimizer_state: the setting of that name: whether the rest of the newest input's file is wanted.
    """
    newest = recipe.layouts[-1]
    dropped = registry.written_as(newest) is not WrittenAs.CLONE  # a new file holds the model alone
    unexported = kept_because = ""
    if exported == export.SAFETENSORS:
        unexported = export.obstacle(newest)
    if not dropped and optimizer_state == torch_writer.DROP and not newest.root:
        kept_because = torch_writer.obstacle(newest)
        dropped = not kept_because
    notes = (
        f"It was not exported: {unexported}." if unexported else "",
        f"What lies beside the model was kept: {kept_because}." if kept_because else "",
    )
    return Output(
        model=model,
        recipe=recipe,
        export=artifacts.export_path(model) if exported == export.SAFETENSORS and not unexported else None,
        dropped=dropped,
        notes=tuple(note for note in notes if note),
    )


def write(output: Output, manifest: bytes | Callable[[GramRows], bytes], run: Run, *, new: bool = False) -> int:
    """Write the manifest, the model and its plain copy; returns the size of both models in bytes.

    Args:
        output: what is written.
        manifest: its description, encoded; it comes first, so that no model is ever there without. A function makes it from what
            the combination's own pass found out of all checkpoints, or raises to leave everything as it was.
        run: runs tasks, as an engine's `map` does.
        new: replace nothing: neither an earlier model nor what got one of the names meanwhile.

    Raises:
        UsageError: with `new`, something has a name by now; nothing of ours is left then.
        StoreError: there is no room, or the folder cannot be written.
        InputChanged: an input changed meanwhile.
        RefusedCheckpoint, IncompleteCheckpoint: the newest input is damaged outside its model.
        RunIsWatched: another process has taken the run over.
    """
    before = None if new else output_tree.manifest_of(output.model)
    if not new:
        output_tree.remove_export(output.model)  # after a crash, that of an older output would pass for this one's

    def describe(content: bytes) -> None:
        output_tree.write_manifest(output.model, content, new=new and not artifacts.is_output(output.model))

    judge = None
    if isinstance(manifest, bytes):
        describe(manifest)
    else:
        make = manifest

        def judge(rows: GramRows) -> None:
            describe(make(rows))

    try:
        size_bytes = publish(output.recipe, str(output.model), run, drop=output.dropped, new=new, judge=judge)
    except RunIsWatched:  # the manifest that lies there may be its new owner's
        raise
    except BaseException as error:
        if not output.model.exists() or isinstance(error, UsageError):
            disk.remove(artifacts.manifest_path(output.model))
        elif before is not None:  # the model that was there stays, with its own manifest
            output_tree.write_manifest(output.model, before)
        raise
    if output.export is not None:
        size_bytes += export.write(
            str(output.model), str(output.export), output.recipe.layouts[-1].source, run, new=new
        )
    return size_bytes
