"""Is this a checkpoint, is it complete, and where are its tensors: the one question put to every format."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rna_watch.checkpoints import safetensors_file, torch_zip
from rna_watch.checkpoints.opened import OpenFile
from rna_watch.errors import IncompleteCheckpoint, RefusedCheckpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from rna_watch.checkpoints.extents import Layout

_HEAD_BYTES = 64
_LEGACY = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
_LFS = b"version https://git-lfs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """What a format offers: recognition by the first bytes, the layout, and the repair of a patched clone."""

    recognises: Callable[[bytes], bool]
    read_layout: Callable[[OpenFile, str | None], Layout]
    repair: Callable[[OpenFile, dict[int, tuple[int, int]], int], None] | None


FORMATS: dict[str, Format] = {
    torch_zip.NAME: Format(recognises=torch_zip.recognises, read_layout=torch_zip.read_layout, repair=torch_zip.repair),
    safetensors_file.NAME: Format(
        recognises=safetensors_file.recognises, read_layout=safetensors_file.read_layout, repair=None
    ),
}


def probe(path: str, source: str | None = None) -> Layout:
    """The layout of a checkpoint that is complete.

    Args:
        path: the file.
        source: key path of the model inside it; found by itself if None.

    Raises:
        IncompleteCheckpoint: it is still being written, or was cut off.
        RefusedCheckpoint: it is something else, and what.
        FileNotFoundError: it is gone.
    """
    if not os.path.isfile(path):  # noqa: PTH113 - a string crosses process boundaries here
        if os.path.exists(path):  # noqa: PTH110
            raise RefusedCheckpoint("it is not a regular file; name the checkpoint file itself")
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    try:
        file = OpenFile(path)
    except PermissionError as error:
        raise RefusedCheckpoint("it cannot be read (permission denied); give this user read access") from error
    with file:
        layout = _format_of(file).read_layout(file, source)
        file.check_unchanged()
        return layout


def _format_of(file: OpenFile) -> Format:
    head = os.pread(file.descriptor, _HEAD_BYTES, 0)
    if not head.strip(b"\0"):
        raise IncompleteCheckpoint("it is empty" if not head else "it begins with zeros: not written yet")
    for candidate in FORMATS.values():
        if candidate.recognises(head):
            return candidate
    if len(head) < _HEAD_BYTES and (torch_zip.MAGIC.startswith(head[:4]) or len(head) < 9):
        raise IncompleteCheckpoint(f"it has only {len(head)} bytes so far")
    if head.startswith(_LEGACY):
        raise RefusedCheckpoint("it is in torch's old format; save it with torch >= 1.6 and its default (zip) format")
    if head.startswith(_LFS):
        raise RefusedCheckpoint("it is a Git LFS pointer, not the file itself; run `git lfs pull`")
    raise RefusedCheckpoint("it is neither a torch.save zip file nor a safetensors file")
