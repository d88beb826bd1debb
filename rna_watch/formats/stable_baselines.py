"""The zip of Stable-Baselines3: a plain zip whose record `policy.pth` is a file of `torch.save`, with the networks in it.

Beside it lie the optimizers' states, what else has gradients, and `data`, a JSON text that counts the steps. All records are
stored uncompressed; `data` is the first (stable_baselines3/common/save_util.py, `save_to_zip_file`).
"""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import TYPE_CHECKING

from rna_watch.errors import RefusedCheckpoint
from rna_watch.formats import loading, torch_zip, zip_checksums
from rna_watch.formats.format import FileFormat
from rna_watch.formats.zip_directory import MAGIC, payload_offset, read_directory
from rna_watch.layout import bounded_json
from rna_watch.layout.open_file import FileSlice

if TYPE_CHECKING:
    from rna_watch.formats.zip_directory import Record
    from rna_watch.layout.layout import Layout
    from rna_watch.layout.open_file import OpenFile

_DATA = "data"
_POLICY = "policy.pth"
_STEPS = "num_timesteps"
_NAME_BYTES, _NAME = slice(26, 28), slice(30, 30 + len(_DATA))  # of the first record, in its header


def _recognises(_path: str, head: bytes) -> bool:
    named = int.from_bytes(head[_NAME_BYTES], "little") == len(_DATA) and head[_NAME] == _DATA.encode()
    return head.startswith(MAGIC) and named


def _policy(file: OpenFile, records: list[Record]) -> FileSlice:
    found = [record for record in records if record.name == _POLICY]
    if len(found) != 1:
        what = f"it holds {_POLICY} twice" if found else f"it is a zip file without {_POLICY}"
        raise RefusedCheckpoint(f"{what}: no model of Stable-Baselines3")
    return FileSlice(file, payload_offset(file, found[0]), found[0].size_bytes)


def _steps(file: OpenFile, records: list[Record]) -> dict[str, int]:
    """The counter of steps, where it can be read."""
    record = next((each for each in records if each.name == _DATA), None)
    if record is None or record.size_bytes > bounded_json.MOST_STATE_BYTES:
        return {}
    text = file.read(payload_offset(file, record), record.size_bytes)
    if zlib.crc32(text) != record.crc:
        raise RefusedCheckpoint(f"record {record.name} is damaged: its checksum does not match")
    try:
        data = bounded_json.parse(text)
    except ValueError:
        return {}
    count = data.get(_STEPS) if isinstance(data, dict) else None
    return {"step": count} if type(count) is int and 0 <= count < 2**63 else {}


def read_layout(file: OpenFile, source: str | None = None) -> Layout:
    """See `FileFormat.read_layout`.

    Raises:
        IncompleteCheckpoint: it has no readable central directory (yet).
        RefusedCheckpoint: it is complete, but no checkpoint that can be combined.
    """
    records = read_directory(file)
    layout = torch_zip.layout_inside(file, _policy(file, records), FORMAT.name, source)
    return replace(layout, counters=layout.counters | _steps(file, records))


FORMAT = FileFormat(
    name="Stable-Baselines3 zip",
    recognises=_recognises,
    read_layout=read_layout,
    endings=(".zip",),
    checksums=zip_checksums.of_zips(lambda file: [_policy(file, read_directory(file)), file]),
    not_alone="Stable-Baselines3 loads its zip whole",
    loading=loading.stable_baselines,
)
