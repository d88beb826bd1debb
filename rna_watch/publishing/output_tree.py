"""The output tree: models with their manifests and plain copies, and the links `best` and `latest`."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from rna_watch.errors import RefusedCheckpoint, StoreError
from rna_watch.layout import bounded_json, disk, owned
from rna_watch.layout.artifacts import export_path, is_output, manifest_path


def has_export(model: Path) -> bool:
    """Whether the plain copy that a model's manifest names, if any, is there."""
    name = bounded_json.read(manifest_path(model)).get("export")
    return name is None or (name == export_path(model).name and export_path(model).exists())


def remove_export(model: Path) -> None:
    """Remove the plain copy of a model of ours that is about to be replaced."""
    if is_output(model):
        disk.remove(export_path(model))


def check_ours(model: Path) -> None:
    """See that a model would replace nothing but an earlier model of ours: one that has a manifest, always written first.

    Raises:
        RefusedCheckpoint: the model, its manifest or its plain copy would replace what somebody else put there.
    """
    if is_output(model):
        return
    for path in (model, manifest_path(model), export_path(model)):
        if os.path.lexists(path):
            raise RefusedCheckpoint(
                f"rna-watch did not write {path}, so it is not replaced; move it, or name another place"
            )


def manifest_of(model: Path) -> bytes | None:
    """The manifest of a model of ours, as it is; None if there is none."""
    return manifest_path(model).read_bytes() if is_output(model) else None


def write_manifest(model: Path, content: bytes, *, new: bool = False) -> None:
    """Write a manifest, whole and on the disk, under its final name.

    Args:
        model: whose it is.
        content: its bytes.
        new: replace nothing.

    Raises:
        UsageError: with `new`, something has the name by now.
        StoreError: there is no room, or the folder cannot be written.
    """
    target = manifest_path(model)
    with disk.writing(target):
        owned.make_folders(target.parent)
        with disk.replacing(target, durable=True, new=new) as temporary:
            disk.write_new(temporary, content)


def point(link: Path, target: Path) -> bool:
    """Let a relative symbolic link name a model, at once; a file system without links goes without.

    Returns:
        False where something that is no link has its name: that is not replaced.

    Raises:
        StoreError: the folder cannot be written.
    """
    if os.path.lexists(link) and not link.is_symlink():
        return False
    try:
        with disk.replacing(link, durable=True) as temporary:
            disk.symlink(os.path.relpath(target, link.parent), temporary)
    except PermissionError:
        return True
    except OSError as error:
        raise StoreError(f"cannot point {link} to {target.name}: {error.strerror or error}") from error
    return True


def names(link: Path, target: Path) -> bool:
    """Whether a symbolic link names a model."""
    return link.is_symlink() and str(link.readlink()) == os.path.relpath(target, link.parent)


def unpoint(link: Path) -> None:
    """Remove a symbolic link of the output tree; something else that has its name stays."""
    if link.is_symlink():
        with contextlib.suppress(PermissionError):
            disk.remove(link)


def remove(model: Path) -> None:
    """Remove a model, its plain copy and its manifest, as far as they are ours.

    The manifest is last, once the rest is gone from the disk too: alone it is harmless, and without it nothing says that a
    model is ours.
    """
    for paths in ((model, export_path(model)), (manifest_path(model),)):
        for path in paths:
            with contextlib.suppress(owned.NotOurs):  # where the system refuses it, it is tried again
                disk.remove(path)
        with contextlib.suppress(FileNotFoundError):
            disk.sync_folder(model.parent)


def sweep(tree: Path) -> None:
    """Remove temporary files and folders of ours that a crash left below a folder."""
    for folder, folders, files in os.walk(tree):
        for name in [*files, *folders]:
            if owned.is_temporary(name):
                with contextlib.suppress(OSError):
                    disk.remove(Path(folder, name))
