"""What a format of checkpoints answers for itself: its name, what is one, where the tensors lie, how a model is written out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum, auto
from typing import TYPE_CHECKING

from rna_watch.formats import loading as lines_for
from rna_watch.layout.layout import Layout

if TYPE_CHECKING:
    from rna_watch.layout.open_file import OpenFile

Part = tuple[int, int, str]  # of a file: its first byte, the byte behind its last, its name ("": a checksum)
Owner = tuple[int, str]  # the byte of a file at which elements of a tensor begin, and the tensor's name
Written = dict[int, tuple[int, int]]  # first byte of each run that was written -> (length in bytes, its CRC-32)
ReadFile = Callable[[str, str | None], Layout]
Loading = Callable[[str, str], list[str]]  # a path and the key path of the model in it -> lines of Python


class WrittenAs(StrEnum):
    """What a model is written out as; publishing has a writer for each."""

    CLONE = auto()  # a clone of the newest checkpoint, with the model's bytes replaced
    TORCH_ZIP = auto()  # a new file of torch
    SAFETENSORS = auto()  # a new safetensors file


@dataclass(frozen=True, slots=True, kw_only=True)
class Checksums:
    """The checksums that a file format keeps.

    Args:
        parts: the named parts of a file, and its checksums, which have no name.
        damage: what of a file does not match its checksums, in words, and whether its writer kept any; owners ascend.
        repair: bring those of a file that was written to up to date, given what was written and a descriptor to write with.
    """

    parts: Callable[[OpenFile], list[Part]]
    damage: Callable[[OpenFile, Sequence[Owner]], tuple[list[str], bool]]
    repair: Callable[[OpenFile, Written, int], None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FileFormat:
    """A format of single files.

    Args:
        name: as `Layout.format` and `Layout.kinds` have it, and people read it.
        recognises: whether a path, and the first 64 bytes there (all, if there are fewer), can be one's.
        read_layout: the layout of an open file, with the model at a key path (None: found). It raises IncompleteCheckpoint
            while the file is being written, and RefusedCheckpoint where it will never do.
        endings: of names, by which a scan takes files for candidates; the usual one first.
        checksums: None where the format keeps none.
        written_as: what a model of it is written out as.
        alone_as: what it is written out as without what else is in the file.
        not_alone: why it cannot be ("" if it can).
        loading: the lines of Python that load a model, which `formats/loading.py` has.
    """

    name: str
    recognises: Callable[[str, bytes], bool]
    read_layout: Callable[[OpenFile, str | None], Layout]
    endings: tuple[str, ...] = ()
    checksums: Checksums | None = None
    written_as: WrittenAs = WrittenAs.CLONE
    alone_as: WrittenAs = WrittenAs.CLONE
    not_alone: str = ""
    loading: Loading = lines_for.unknown


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FolderFormat:
    """A format of folders that are one checkpoint each.

    Args:
        name: as `Layout.format` has it, alone or before " of " and the format of the files.
        recognises: whether a folder of this path, with entries of these names, is one, or becomes one.
        read_layout: as for a file, given the path, and a function that returns the layout of one of its files.
        written_as: what a model of it is written out as; a new file comes into a folder with what the layout carries.
        loading: as for a file; of what it is written out as.
    """

    name: str
    recognises: Callable[[str, set[str]], bool]
    read_layout: Callable[[str, str | None, ReadFile], Layout]
    written_as: WrittenAs = WrittenAs.CLONE
    loading: Loading = lines_for.unknown
