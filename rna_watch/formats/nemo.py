"""The `.nemo` file of NVIDIA NeMo: a plain tar archive whose member `model_weights.ckpt` is a file of `torch.save`.

Beside it lie the configuration and what a tokenizer needs (nemo/core/connectors/save_restore_connector.py, `save_to`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rna_watch.errors import RefusedCheckpoint
from rna_watch.formats import loading, tar_members, torch_zip, zip_checksums
from rna_watch.formats.format import FileFormat
from rna_watch.formats.zip_directory import MAGIC
from rna_watch.layout.open_file import FileSlice

if TYPE_CHECKING:
    from rna_watch.layout.layout import Layout
    from rna_watch.layout.open_file import OpenFile

_ENDING = ".nemo"
_WEIGHTS = "model_weights.ckpt"
_GZIP = b"\x1f\x8b"


def _weights(file: OpenFile) -> FileSlice:
    if file.read(0, min(2, file.size_bytes)) == _GZIP:
        raise RefusedCheckpoint(
            f"it is compressed, so that its weights cannot be read in place; unpack it (tar -xzf) and use {_WEIGHTS} from it"
        )
    found = tar_members.read(file)
    if _WEIGHTS not in found:
        sharded = any(name.endswith(f"/{_WEIGHTS}") or name.startswith("model_weights/") for name in found)
        why = "its weights are cut over several files; unpack it and watch the folder" if sharded else "it is no model"
        raise RefusedCheckpoint(f"it holds no {_WEIGHTS}: {why}")
    part = FileSlice(file, *found[_WEIGHTS])
    if part.read(0, min(len(MAGIC), part.size_bytes)) != MAGIC:
        raise RefusedCheckpoint(f"{_WEIGHTS} in it is not what torch.save writes since 1.6")
    return part


def read_layout(file: OpenFile, source: str | None = None) -> Layout:
    """See `FileFormat.read_layout`.

    Raises:
        IncompleteCheckpoint: it ends before its archive does.
        RefusedCheckpoint: it is complete, but no checkpoint that can be combined.
    """
    return torch_zip.layout_inside(file, _weights(file), FORMAT.name, source)


FORMAT = FileFormat(
    name="NeMo archive",
    recognises=lambda path, _head: path.endswith(_ENDING),
    read_layout=read_layout,
    endings=(_ENDING,),
    checksums=zip_checksums.of_zips(lambda file: [_weights(file)]),
    not_alone="NeMo restores a model from its archive, with the configuration in it",
    loading=loading.nemo,
)
