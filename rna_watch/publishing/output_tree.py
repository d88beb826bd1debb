"""The output tree: models with their manifests, `best` and `latest`, bounded in number."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy

import rna_watch
from rna_watch.errors import RefusedCheckpoint, StoreError
from rna_watch.layout import disk
from rna_watch.layout.artifacts import export_name, is_manifest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rna_watch.acceleration.candidate import Candidate
    from rna_watch.acceleration.residuals import Residuals

SCHEMA = 1
_KEPT = "Optimizer state, if any, is the newest checkpoint's: do not resume training from this model with it."
_DROPPED = "Optimizer state was left out: training that goes on from this model begins with a new optimizer."


def manifest(
    *,
    checkpoint: str,
    step: int | None,
    inputs: Sequence[Mapping[str, Any]],
    source: str,
    candidate: Candidate,
    metrics: Mapping[str, Mapping[str, float] | None],
    better_than_original: bool | None,
    significant: bool | None,
    reason: str,
    residuals: Residuals,
    comparisons: Sequence[Mapping[str, Any]] = (),
    export: str | None = None,
    dropped: bool = False,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """What a published model is, so that anybody can check it: the model is exactly sum_k weights[k] * inputs[k].

    Args:
        checkpoint: name of the newest input.
        step: its step or epoch.
        inputs: path, step and fingerprint of each, oldest first.
        source: key path of the model inside the files.
        candidate: the weights, with method and diagnostics.
        metrics: `original`, `average`, `chosen` (and `rna`), each a name -> number map or None.
        better_than_original: strict, on the choosing metric.
        significant: whether the gain is beyond noise.
        reason: the choice in one sentence.
        residuals: what the weights were found from.
        comparisons: the steps of the choice.
        export: name of the plain copy beside the model, if there is one.
        dropped: whether what lay beside the model in its file was left out.
        notes: what else should be said, after what the residuals have to say.
    """
    return {
        "schema": SCHEMA,
        "checkpoint": checkpoint,
        "step": step,
        "inputs": [dict(each) for each in inputs],
        "source": source,
        "weights": list(candidate.weights),
        "coefficients": list(candidate.coefficients),
        "method": candidate.method,
        "candidate": candidate.name,
        "window": candidate.window,
        "regularization": candidate.regularization,
        "prior": candidate.parameters.get("prior"),
        "mixing": candidate.parameters.get("mixing", 1.0),
        "residuals": residuals.form,
        "notes": [*residuals.notes, *notes],
        "statistics": candidate.statistics,
        "metrics": {key: None if value is None else dict(value) for key, value in metrics.items()},
        "better_than_original": better_than_original,
        "significant": significant,
        "reason": reason,
        "comparisons": [finite(step) for step in comparisons],
        "diagnostics": finite(asdict(candidate.diagnostics)),
        "versions": {"rna_watch": rna_watch.__version__, "numpy": numpy.__version__},
        "export": export,
        "optimizer_state": "dropped" if dropped else "kept",
        "warning": _DROPPED if dropped else _KEPT,
    }


def finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no NaN and no infinity: null stands for them."""
    return {
        key: None if isinstance(value, float) and not numpy.isfinite(value) else value for key, value in values.items()
    }


def encode(content: Mapping[str, Any]) -> bytes:
    """A manifest's bytes."""
    return (json.dumps(content, indent=2) + "\n").encode()


def digest(content: bytes) -> str:
    """What a journal keeps of a manifest, to tell it from another."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def manifest_path(model: Path) -> Path:
    """The manifest of a model: its full name plus `.json`."""
    return model.with_name(f"{model.name}.json")


def export_path(model: Path) -> Path:
    """The plain copy of a model, if there is one."""
    return model.with_name(export_name(model.name))


def has_export(model: Path) -> bool:
    """Whether the plain copy that a model's manifest names, if any, is there."""
    name = json.loads(manifest_path(model).read_bytes()).get("export")
    return name is None or model.with_name(name).exists()


def remove_export(model: Path) -> None:
    """Remove the plain copy of a model of ours that is about to be replaced."""
    if is_manifest(str(manifest_path(model))):
        export_path(model).unlink(missing_ok=True)


def check_ours(model: Path) -> None:
    """See that a model would replace nothing but an earlier model of ours: one that has a manifest, always written first.

    Raises:
        RefusedCheckpoint: the model, its manifest or its plain copy would replace what somebody else put there.
    """
    target = manifest_path(model)
    if is_manifest(str(target)):
        return
    for path in (model, target, export_path(model)):
        if os.path.lexists(path):
            raise RefusedCheckpoint(
                f"rna-watch did not write {path}, so it is not replaced; move it, or name another place"
            )


def write_manifest(model: Path, content: bytes) -> None:
    """Write a manifest, whole and on the disk, under its final name.

    Raises:
        StoreError: there is no room, or the folder cannot be written.
    """
    target = manifest_path(model)
    temporary = target.with_name(disk.temporary_name(target.name, str(os.getpid())))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)  # noqa: PTH105 - atomic by specification
        disk.sync_folder(str(target.parent))
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StoreError(
            f"cannot write {target}: {error.strerror or error}; make room there, or name another folder with --output"
        ) from error


def point(link: Path, target: Path) -> bool:
    """Let a relative symbolic link name a model, at once; a file system without links goes without.

    Returns:
        False where something that is no link has its name: that is not replaced.

    Raises:
        StoreError: the folder cannot be written.
    """
    if os.path.lexists(link) and not link.is_symlink():
        return False
    temporary = link.with_name(disk.temporary_name(link.name, str(os.getpid())))
    try:
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(os.path.relpath(target, link.parent))
        os.replace(temporary, link)  # noqa: PTH105 - atomic by specification
    except PermissionError:
        return True
    except OSError as error:
        raise StoreError(f"cannot point {link} to {target.name}: {error.strerror or error}") from error
    return True


def remove(model: Path) -> None:
    """Remove a model, its plain copy and its manifest (the manifest last: alone it is harmless)."""
    disk.remove(str(model))
    export_path(model).unlink(missing_ok=True)
    manifest_path(model).unlink(missing_ok=True)


def sweep(models: Path) -> None:
    """Remove temporary files and folders that a crash left in the output tree."""
    for folder, folders, files in os.walk(models):
        for name in [*files, *folders]:
            if name.startswith(disk.TEMPORARY_PREFIX) and name.endswith(disk.TEMPORARY_SUFFIX):
                with contextlib.suppress(OSError):
                    disk.remove(str(Path(folder, name)))
