"""A journal that is made anew from the models and manifests that lie in the output tree, where there was none."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from rna_watch.daemon.pinned_file import NONE
from rna_watch.errors import IncompleteCheckpoint, InputChanged, RefusedCheckpoint
from rna_watch.formats.probe import probe
from rna_watch.journal import events as e
from rna_watch.layout import bounded_json, disk
from rna_watch.layout.artifacts import is_output, manifest_path
from rna_watch.publishing import manifest as manifests
from rna_watch.publishing.verification import VerificationEnded, read_manifest
from rna_watch.watching import steps
from rna_watch.watching.reading import Reading

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rna_watch.daemon.recorder import Recorder
    from rna_watch.journal.run_paths import RunPaths
    from rna_watch.layout.layout import Layout

_SAVES = "save"


class Rebuilt:
    """The models that are there and that no journal records, because it was removed, or its folder was.

    They are entered as made, in the order of their steps, while the checkpoints that are still there are admitted. What was
    said of them is taken from their manifests, for people to see; a present evaluator judges anew.

    Args:
        recorder: journal and state; nothing was recorded in this start yet.
        paths: the run's paths.
    """

    def __init__(self, recorder: Recorder, paths: RunPaths) -> None:
        self._recorder = recorder
        self._paths = paths
        self._left: dict[str, _Model] = {}
        if recorder.state.started is not None or recorder.checkpoints():
            return
        found = sorted(_models(paths.models), key=lambda each: (each.newest["step"], each.name))
        self._left = {each.name: each for each in found}
        self._reading = Reading()
        self._reading.update([each.newest["path"] for each in found])
        if found:
            count = f"{len(found)} models with manifests" if len(found) > 1 else "1 model with a manifest"
            recorder.record(e.Noted(text=f"there is no journal: {count} in {paths.models} are entered in a new one"))

    def enter(self, name: str, fingerprint: str) -> None:
        """Record the model of a checkpoint that was just admitted, if there is one."""
        model = self._left.pop(name, None)
        if model is not None and model.newest["fingerprint"] == fingerprint:
            for event in _made(model, self._paths):
                self._recorder.record(event)

    def enter_gone(self, before: tuple[str, int] | None = None) -> None:
        """Record models whose checkpoints are gone.

        Args:
            before: only those of this series that were saved before this step; None for all.
        """
        for model in list(self._left.values()):
            newest = model.newest
            due = before is None or (model.content["series"] == before[0] and newest["step"] < before[1])
            if due and not (self._paths.run / newest["path"]).exists():
                self._recorder.record(_admitted(model, self._reading))
                self.enter(model.name, newest["fingerprint"])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    """A model that lies in the output tree, its manifest and its layout."""

    path: Path
    content: dict[str, Any]
    layout: Layout

    @property
    def name(self) -> str:
        return str(self.content["checkpoint"])

    @property
    def newest(self) -> dict[str, Any]:
        """The newest input."""
        return dict(self.content["inputs"][-1])


def _models(tree: Path) -> Iterator[_Model]:
    """Every model of a run that lies in the tree."""
    for folder, folders, files in os.walk(tree):
        models = [Path(folder, name.removesuffix(".json")) for name in files if name.endswith(".json")]
        own = [model for model in models if is_output(model) and model.exists() and not model.is_symlink()]
        folders[:] = [name for name in folders if Path(folder, name) not in own and not name.startswith(".")]
        for model in own:
            try:
                read_manifest(manifest_path(model))
                content = bounded_json.read(manifest_path(model))
                if _is_of_run(content):
                    yield _Model(path=model, content=content, layout=probe(str(model), content.get("source") or None))
            except (VerificationEnded, OSError, ValueError, RefusedCheckpoint, IncompleteCheckpoint, InputChanged):
                continue  # `verify` says what is wrong with it


def _is_of_run(content: dict[str, Any]) -> bool:
    """Whether a manifest is of a run's model, and its names are paths below the run."""
    names = [content.get("checkpoint"), *(each["path"] for each in content["inputs"])]
    below = all(isinstance(name, str) and _is_below(name) for name in names)
    return below and isinstance(content.get("series"), str) and isinstance(content["inputs"][-1].get("step"), int)


def _is_below(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts and "\0" not in name


def _admitted(model: _Model, reading: Reading) -> e.Admitted:
    """The record of a checkpoint that is gone."""
    newest, stat = model.newest, model.path.stat()
    return e.Admitted(
        checkpoint=model.name,
        path=newest["path"],
        step=newest["step"],
        step_kind=_kind(model, reading),
        format=model.layout.format,
        source=model.layout.source,
        size_bytes=model.layout.size_bytes,
        parameters=model.layout.parameters,
        fingerprint=newest["fingerprint"],
        inode=0,
        mtime_ns=stat.st_mtime_ns,
        pin=NONE,
        pin_path="",
        series=model.content["series"],
        told="its manifest",
    )


def _kind(model: _Model, reading: Reading) -> str:
    """What counts the steps: the name of a file tells, or that of its model (`last.step500.pt`)."""
    name = reading.of(model.newest["path"])
    if name.step is not None:
        return name.kind
    return steps.stem(model.name).rpartition(".")[2].removesuffix(str(model.newest["step"])) or _SAVES


def _made(model: _Model, paths: RunPaths) -> Iterator[e.Event]:
    """What would have been recorded while the model was made."""
    content, output = model.content, paths.in_tree(model.path)
    metrics = content.get("metrics") or {}
    yield e.Chosen(
        checkpoint=model.name,
        candidate=str(content.get("candidate")),
        method=str(content.get("method")),
        inputs=[each["path"] for each in content["inputs"]],
        weights=content["weights"] or [],  # a model that was trained has none
        metrics={key: each for key, each in metrics.items() if each is None or isinstance(each, dict)},
        better_than_original=content.get("better_than_original"),
        significant=content.get("significant"),
        reason=str(content.get("reason")),
        residuals=str(content.get("residuals")),
        diagnostics=content.get("diagnostics") or {},
        comparisons=content.get("comparisons") or [],
        tested_on=content.get("tested_on") or "",
    )
    yield e.Publishing(
        checkpoint=model.name,
        output=output,
        temporary=paths.in_tree(Path(disk.temporary_path(str(model.path)))),
        manifest_digest=manifests.digest(manifest_path(model.path).read_bytes()),
    )
    yield e.Published(checkpoint=model.name, output=output, written_bytes=0, seconds=0.0, found=True)
