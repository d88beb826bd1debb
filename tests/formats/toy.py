"""A made-up format: a magic number, a JSON header, the tensors' bytes and their CRC-32; alone, or in a folder with a card."""

import json
import os
import struct
import zlib
from dataclasses import replace
from math import prod
from pathlib import Path

import torch

from rna_watch.errors import IncompleteCheckpoint, RefusedCheckpoint
from rna_watch.formats import model_source
from rna_watch.formats.format import Checksums, FileFormat, FolderFormat, WrittenAs
from rna_watch.layout.dtypes import DTYPES
from rna_watch.layout.identity import identify
from rna_watch.layout.layout import Chunk, Extent, Layout, TensorView
from rna_watch.layout.strides import contiguous

MAGIC = b"TOYMODEL"
WEIGHTS, CARD = "weights.toy", "card.json"


def save(path, tensors, step):
    """Write a file."""
    entries = [[name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)] for name, tensor in tensors.items()]
    header = json.dumps({"tensors": entries, "step": step}).encode()
    data = b"".join(bytes(tensor.flatten().view(torch.uint8).numpy()) for tensor in tensors.values())
    path.write_bytes(MAGIC + struct.pack("<Q", len(header)) + header + data + struct.pack("<I", zlib.crc32(data)))


def save_folder(path, tensors, step):
    """Write a folder; the card comes last."""
    path.mkdir()
    save(path / WEIGHTS, tensors, step)
    (path / CARD).write_text('{"kind": "toy"}')


def load(path):
    """The tensors of a file of which the checksum is right."""
    content = path.read_bytes()
    at = 16 + struct.unpack_from("<Q", content, 8)[0]
    assert zlib.crc32(content[at:-4]) == struct.unpack("<I", content[-4:])[0]
    found = {}
    for name, dtype, shape in json.loads(content[16:at])["tensors"]:
        kind = getattr(torch, dtype)
        found[name] = torch.frombuffer(bytearray(content[at : at + prod(shape) * kind.itemsize]), dtype=kind).view(
            shape
        )
        at += prod(shape) * kind.itemsize
    return found


def _data(file):
    return 16 + struct.unpack("<Q", file.read(8, 8))[0]


def read_layout(file, source):
    """See `FileFormat`."""
    if source is not None:
        raise RefusedCheckpoint("a toy has no keys above its tensors: leave --source out")
    start = position = _data(file)
    header = json.loads(file.read(16, start - 16))
    extents, views = [], []
    for name, dtype, shape in header["tensors"]:
        chunks = (Chunk(file=0, offset_bytes=position, start=0, count=prod(shape)),)
        views.append(
            TensorView(
                name=name, dtype=dtype, shape=tuple(shape), stride=contiguous(shape), extent=len(extents), start=0
            )
        )
        extents.append(Extent(name=name, dtype=dtype, role=model_source.role(name, dtype), chunks=chunks))
        position += prod(shape) * DTYPES[dtype].itemsize
    if position + 4 != file.size_bytes:
        raise IncompleteCheckpoint(f"{position + 4} bytes are announced, {file.size_bytes} are there")
    return Layout(
        format=FORMAT.name,
        files=(file.identity,),
        source="",
        tensors=tuple(views),
        extents=tuple(extents),
        counters=model_source.counters(header),
        fingerprint=file.read(position, 4).hex(),
    )


def _read_folder(folder, source, read_file):
    if not Path(folder, CARD).exists():
        raise IncompleteCheckpoint(f"{CARD}, written last, is not there yet")
    inside = read_file(os.path.join(folder, WEIGHTS), source)
    kinds, carried = (inside.format,), (identify(os.path.join(folder, CARD)),)
    return replace(inside, format=FOLDER.name, kinds=kinds, root=folder, carried=carried)


def _sum(file):
    start = _data(file)
    return struct.pack("<I", zlib.crc32(file.read(start, file.size_bytes - 4 - start)))


def _damage(file, _owners):
    sound = file.read(file.size_bytes - 4, 4) == _sum(file)
    return [] if sound else ["the toy is broken"], True


FORMAT = FileFormat(
    name="toy",
    recognises=lambda _path, head: head.startswith(MAGIC),
    read_layout=read_layout,
    endings=(".toy",),
    checksums=Checksums(
        parts=lambda file: [(file.size_bytes - 4, file.size_bytes, "")],
        damage=_damage,
        repair=lambda file, _written, writer: os.pwrite(writer, _sum(file), file.size_bytes - 4),
    ),
)
FOLDER = FolderFormat(name="toy folder", recognises=lambda _path, names: WEIGHTS in names, read_layout=_read_folder)
CONSOLIDATED = replace(FOLDER, written_as=WrittenAs.SAFETENSORS)
