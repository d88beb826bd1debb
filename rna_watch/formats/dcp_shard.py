"""A shard of torch.distributed.checkpoint, `__R_N.distcp`: torch zips in a row, at the places that its `.metadata` gives."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import TYPE_CHECKING

from rna_watch.errors import RefusedCheckpoint
from rna_watch.formats import dcp_metadata, zip_checksums
from rna_watch.formats.format import FileFormat
from rna_watch.layout.identity import check_unchanged
from rna_watch.layout.open_file import FileSlice, OpenFile

if TYPE_CHECKING:
    from rna_watch.layout.identity import FileIdentity
    from rna_watch.layout.layout import Layout

METADATA = ".metadata"
ENDING = ".distcp"


def _read_layout(_file: OpenFile, _source: str | None) -> Layout:
    raise RefusedCheckpoint("it is one shard of a checkpoint; name the folder that it is in")


def _zips(file: OpenFile) -> list[FileSlice]:
    """The torch zips in a shard, in order.

    Raises:
        IncompleteCheckpoint, RefusedCheckpoint: the `.metadata` next to it cannot be read.
    """
    folder, name = os.path.split(file.identity.path)
    with OpenFile(os.path.join(folder, METADATA)) as metadata:  # noqa: PTH118
        places = _places(metadata.identity).get(name, [])
    return [FileSlice(file, offset, size) for offset, size in places]


@lru_cache(maxsize=2)  # one after the other, all shards of a folder are repaired
def _places(identity: FileIdentity) -> dict[str, list[tuple[int, int]]]:
    with OpenFile(identity.path) as file:
        check_unchanged(identity, file.descriptor)
        metadata = dcp_metadata.read(file.read(0, file.size_bytes))
    return {
        name: [(item.offset_bytes, item.size_bytes) for _, item in items] for name, items in metadata.by_file.items()
    }


FORMAT = FileFormat(
    name="distcp",
    recognises=lambda path, _head: path.endswith(ENDING),
    read_layout=_read_layout,
    checksums=zip_checksums.of_zips(_zips),
)
