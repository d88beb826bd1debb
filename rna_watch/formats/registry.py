"""The formats of checkpoints that are known: the one list from which scan, probe, publishing and verification follow."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from rna_watch.formats import (
    dcp,
    dcp_shard,
    deepspeed,
    hugging_face,
    nemo,
    rank_files,
    safetensors_file,
    stable_baselines,
    torch_legacy,
    torch_zip,
)
from rna_watch.formats import loading as lines_for

if TYPE_CHECKING:
    from rna_watch.formats.format import FileFormat, FolderFormat, WrittenAs
    from rna_watch.layout.layout import Layout

# the first that recognises a file or a folder takes it
FILES: tuple[FileFormat, ...] = (
    dcp_shard.FORMAT,  # before torch's zip: a shard begins like one
    stable_baselines.FORMAT,  # so does this
    nemo.FORMAT,
    torch_zip.FORMAT,
    safetensors_file.FORMAT,
    torch_legacy.FORMAT,
)
FOLDERS: tuple[FolderFormat, ...] = (
    dcp.FORMAT,
    deepspeed.FORMAT,
    deepspeed.WITHOUT_ZERO,
    rank_files.FORMAT,
    hugging_face.FORMAT,
)


def recognised_file(path: str, head: bytes) -> FileFormat | None:
    """The format of a file of this path that begins with these bytes."""
    return next((each for each in FILES if each.recognises(path, head)), None)


def recognised_folder(path: str, names: set[str]) -> FolderFormat | None:
    """The format that takes a folder with these entries for a checkpoint as a whole, if one does."""
    return next((each for each in FOLDERS if each.recognises(path, names)), None)


def file_format(name: str) -> FileFormat:
    """The format of files of this name, which `Layout.kind` returns."""
    return {each.name: each for each in FILES}[name]


def written_as(layout: Layout, *, alone: bool = False) -> WrittenAs:
    """What a model is written out as, from its newest checkpoint; `alone`: without what else is in its file."""
    if layout.root:
        return {each.name: each for each in FOLDERS}[layout.format.partition(" of ")[0]].written_as
    own = file_format(layout.format)
    return own.alone_as if alone else own.written_as


def loading(format_name: str, path: str, source: str) -> list[str]:
    """The lines of Python that load a model.

    Args:
        format_name: the format of the checkpoint that the model was made of, as `Layout.format` has it.
        path: of the model.
        source: the key path of the model in it.
    """
    known = {each.name: each.loading for each in FILES} | {each.name: each.loading for each in FOLDERS}
    return known.get(format_name.partition(" of ")[0], lines_for.unknown)(path, source)


def usual_first() -> list[FileFormat]:
    """The formats of single files as a person is told of them."""
    return _usual_first(FILES)


def _usual_first(files: tuple[FileFormat, ...]) -> list[FileFormat]:
    rare = {stable_baselines.FORMAT, nemo.FORMAT}
    return sorted((each for each in files if each.endings), key=lambda each: each in rare)


def endings() -> tuple[str, ...]:
    """How names of checkpoints end that are single files."""
    return _endings(FILES)


@lru_cache(maxsize=1)
def _endings(files: tuple[FileFormat, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(ending for each in _usual_first(files) for ending in each.endings))
