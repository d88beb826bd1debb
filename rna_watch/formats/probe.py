"""Is this a checkpoint, is it complete, and where are its tensors: the one question put to every format."""

from __future__ import annotations

import errno
import os
import shlex
import stat
from dataclasses import replace
from typing import TYPE_CHECKING

from rna_watch.errors import AllIgnored, IncompleteCheckpoint, RefusedCheckpoint
from rna_watch.formats import embedded_averages, recorded_gradient, registry
from rna_watch.layout import bounded_json
from rna_watch.layout.identity import identify_folder
from rna_watch.layout.open_file import OpenFile
from rna_watch.layout.trouble import UNREAD

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rna_watch.formats.format import FileFormat
    from rna_watch.layout.layout import Layout

_HEAD_BYTES = 64
_FEWEST_BYTES = 9  # by which every format is recognised
_LFS = b"version https://git-lfs"


def probe(path: str, source: str | None = None, ignore: Sequence[str] = ()) -> Layout:
    """The layout of a checkpoint that is complete; moving averages inside the model's own state dict are set apart.

    Args:
        path: the file or folder.
        source: key path of the model inside it, or of such an average, or several with commas; found by itself if None.
        ignore: glob patterns of the names of tensors that are left out of the extrapolation.

    Raises:
        IncompleteCheckpoint: it is still being written, or was cut off.
        RefusedCheckpoint: it is something else, and what.
        AllIgnored: nothing would be left to extrapolate.
        FileNotFoundError: it is gone.
    """
    layout = _chosen(path, source)
    if not ignore:
        return layout
    left = replace(layout, ignore=tuple(ignore))
    if layout.parameters and not left.parameters:
        raise AllIgnored(f"--ignore {' '.join(map(shlex.quote, ignore))} leaves nothing to extrapolate in it")
    return left


def _chosen(path: str, source: str | None) -> Layout:
    try:
        return embedded_averages.set_apart(_probe(path, source))
    except RefusedCheckpoint as error:
        inside: list[str] = []
        for holder in _holders(source) if source else ():
            try:
                whole = _probe(path, holder)
            except RefusedCheckpoint:
                continue
            if (average := embedded_averages.choose(whole, source or "")) is not None:
                return average
            inside += [each.path for each in embedded_averages.set_apart(whole).sources if each.averaged]
        if inside:
            listed = ", ".join(map(repr, dict.fromkeys(inside)))
            raise RefusedCheckpoint(f"{error} (averages inside it: {listed})") from error
        raise


def _holders(source: str) -> list[str | None]:
    """The sources in which an average of this key path may lie: the one that is found by itself, and those above it."""
    parts = source.split(".")
    return [None, *(".".join(parts[:count]) for count in range(1, len(parts)))]


def _probe(path: str, source: str | None) -> Layout:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        if error.errno in UNREAD:  # nothing is said of what lies there
            raise
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from error
    if stat.S_ISDIR(mode):
        return recorded_gradient.attached(_probe_folder(path, source))
    if not stat.S_ISREG(mode):
        raise RefusedCheckpoint("it is not a regular file; name the checkpoint file itself")
    return recorded_gradient.attached(_probe_file(path, source))


def _probe_folder(path: str, source: str | None) -> Layout:
    try:
        before = identify_folder(path)
        found = registry.recognised_folder(path, set(os.listdir(path)))  # noqa: PTH208
        if found is None:
            raise RefusedCheckpoint(
                "it is not a regular file, nor a folder of a kind that is known; name a checkpoint in it"
            )
        layout = found.read_layout(path, source, _probe_file)
        if identify_folder(path) != before:
            raise IncompleteCheckpoint("it is being written")
    except bounded_json.NotRegular as error:
        raise RefusedCheckpoint(str(error)) from error
    except FileNotFoundError as error:
        if not os.path.isdir(path):  # noqa: PTH112
            raise
        inside = os.path.relpath(error.filename or path, path)
        raise IncompleteCheckpoint(f"{inside} is gone or not there yet") from error
    return layout


def _probe_file(path: str, source: str | None) -> Layout:
    try:
        file = OpenFile(path)
    except PermissionError as error:
        raise RefusedCheckpoint("it cannot be read (permission denied); give this user read access") from error
    with file:
        layout = _format_of(file).read_layout(file, source)
        file.check_unchanged()
    return layout


def _format_of(file: OpenFile) -> FileFormat:
    head = os.pread(file.descriptor, _HEAD_BYTES, 0)
    if not head.strip(b"\0"):
        raise IncompleteCheckpoint("it is empty" if not head else "it begins with zeros: not written yet")
    found = registry.recognised_file(file.identity.path, head)
    if found is not None:
        return found
    if len(head) < _FEWEST_BYTES:
        raise IncompleteCheckpoint(f"it has only {len(head)} bytes so far")
    if head.startswith(_LFS):
        raise RefusedCheckpoint("it is a Git LFS pointer, not the file itself; run `git lfs pull`")
    known = ", ".join(each.name for each in registry.usual_first())
    raise RefusedCheckpoint(f"it is in no format that is known ({known})")
