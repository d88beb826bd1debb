"""Ways in which checkpoints are cut off, damaged and made hostile: the files of one, and the parts of each."""

import io
import os
import pickle
import pickletools
import struct
import tarfile
import zipfile
from itertools import pairwise

import numpy as np
import safetensors
import torch.distributed.checkpoint as dcp

METADATA = ".metadata"
# does its work, and leaves nothing behind: the pickle that follows is what it would be without it
CALL = b"cos\nsystem\n(S'touch ran'\ntR0"


def files(path):
    """All files of a checkpoint, in an order that does not depend on the file system's."""
    return sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]


def put(path, content):
    """Write a file again, with the times that it had (over the old one, ext4 would put it on the disk at once)."""
    stat = path.stat() if path.exists() else None
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    if stat:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def members(path):
    """The files within a file: (where it begins, its bytes); a shard of DCP holds many."""
    content = path.read_bytes()
    if path.suffix != ".distcp":
        return [(0, content)]
    places = dcp.FileSystemReader(path.parent).read_metadata().storage_data.values()
    own = sorted((info.offset, info.length) for info in places if info.relative_path == path.name)
    return [(offset, content[offset : offset + length]) for offset, length in own]


def records(content):
    """For each record of a zip: its name, where its header, its bytes and what is behind them begin."""
    found = []
    for info in zipfile.ZipFile(io.BytesIO(content)).infolist():
        lengths = struct.unpack_from("<HH", content, info.header_offset + 26)
        start = info.header_offset + 30 + sum(lengths)
        found.append((info.filename, info.header_offset, start, start + info.file_size))
    return found


def pickles(content):
    """The end of each of the five pickles of torch's old format."""
    stream = io.BytesIO(content)
    ends = []
    for _ in range(5):
        for _ in pickletools.genops(stream):
            pass
        ends.append(stream.tell())
    return ends


def is_legacy(content):
    """Whether it is of torch's old format."""
    return content[:1] == b"\x80" and content[2:4] == b"\x8a\x0a"


def is_safetensors(content):
    """Whether it is a safetensors file."""
    return content[8:9] == b"{"


def boundaries(content):
    """Every place where a writer may stop between two parts of a file."""
    if is_legacy(content):
        return {*range(min(300, len(content))), *pickles(content), *range(pickles(content)[-1], len(content), 29)}
    if is_safetensors(content):
        header = 8 + struct.unpack_from("<Q", content)[0]
        entries = safetensors.deserialize(content)
        return {8, header, *(header + int(at) for at in np.cumsum([len(each["data"]) for _, each in entries])[:-1])}
    if not content.startswith(b"PK"):
        return {*range(0, len(content), max(1, len(content) // 30)), len(content) - 1}
    places = {place for _, *record in records(content) for place in record}
    places |= {end + 16 for *_, end in records(content)}
    directory = struct.unpack_from("<I", content, len(content) - 6)[0]
    while content[directory : directory + 4] == b"PK\x01\x02":
        places.add(directory)
        directory += 46 + sum(struct.unpack_from("<HHH", content, directory + 28))
    return {*places, directory, len(content) - 1}


def structure(content):
    """The places of a file that are not tensors: headers, directory, pickle."""
    if content.startswith(b"PK"):
        places = set(range(len(content)))
        for name, _, start, end in records(content):
            if "/data/" in name:
                places -= set(range(start, end))
        return sorted(places)
    if is_legacy(content):
        return list(range(pickles(content)[-1]))
    return list(range(8 + struct.unpack_from("<Q", content)[0] if is_safetensors(content) else len(content)))


def damaged(content, at, chance):
    """A bit flipped, a byte replaced, a few bytes zeroed or drawn at random."""
    new = bytearray(content)
    match chance.randrange(4):
        case 0:
            new[at] ^= 1 << chance.randrange(8)
        case 1:
            new[at] = chance.randrange(256)
        case 2:
            new[at : at + 4] = bytes(len(new[at : at + 4]))
        case _:
            size = chance.randrange(1, 9)
            new[at : at + size] = chance.randbytes(len(new[at : at + size]))
    return bytes(new)


def without_checksums(content):
    """A file's bytes with the checksums of every zip in it blotted out, as another model has others."""
    blotted = bytearray(content)
    for signature, place in ((b"PK\x07\x08", 4), (b"PK\x01\x02", 16), (b"PK\x03\x04", 14)):
        at = content.find(signature)
        while at >= 0:
            blotted[at + place : at + place + 4] = bytes(4)
            at = content.find(signature, at + 4)
    return bytes(blotted)


def zips(path):
    """Every zip in a file."""
    return [content for _, content in members(path) if content.startswith(b"PK")]


def _hostile_pickle(content):
    """The same pickle, after a call."""
    front = 2 if content[:1] == b"\x80" else 0
    return content[:front] + CALL + content[front:]


def _hostile_zip(content):
    """The same zip with a call in its pickle, and right checksums."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as new:
        for name, _, start, end in records(content):
            new.writestr(name, _hostile_record(name, content[start:end]))
    return out.getvalue()


def _hostile_record(name, record):
    if record.startswith(b"PK"):
        return _hostile_zip(record)
    return _hostile_pickle(record) if name.endswith("data.pkl") else record


def _hostile_tar(content):
    """The same archive with a call in the pickle of every zip in it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(content)) as old, tarfile.open(fileobj=out, mode="w:") as new:
        for member in old:
            record = old.extractfile(member).read() if member.isfile() else b""
            record = _hostile_record(member.name, record)
            member.size = len(record)
            new.addfile(member, io.BytesIO(record))
    return out.getvalue()


def make_hostile(path):
    """Put a call into every pickle of a checkpoint, whatever holds it; returns how many."""
    count = 0
    for file in files(path):
        content = file.read_bytes()
        if file.suffix == ".distcp":
            count += _make_hostile_shard(file)
        elif content.startswith(b"PK"):
            put(file, _hostile_zip(content))
            count += 1
        elif file.suffix == ".nemo":
            put(file, _hostile_tar(content))
            count += 1
        elif is_legacy(content):
            starts = [0, *pickles(content)]
            parts = [content[start:end] for start, end in pairwise(starts)]
            # a magic number and a version are known by their bytes: calls among them would be no file of torch's
            put(file, b"".join([*parts[:2], *map(_hostile_pickle, parts[2:]), content[starts[-1] :]]))
            count += 3
        elif file.suffix == ".pkl":
            put(file, _hostile_pickle(content))
            count += 1
    for file in files(path):  # last: it says where the parts of its neighbours are
        if file.name == METADATA:
            put(file, _hostile_pickle(file.read_bytes()))
            count += 1
    return count


def _make_hostile_shard(file):
    metadata = dcp.FileSystemReader(file.parent).read_metadata()
    places = sorted(metadata.storage_data.items(), key=lambda item: item[1].offset)
    whole, content, count = file.read_bytes(), b"", 0
    for _, info in places:
        if info.relative_path != file.name:
            continue
        item = whole[info.offset : info.offset + info.length]
        if item.startswith(b"PK"):
            item = _hostile_zip(item)
            count += 1
        info.offset, info.length = len(content), len(item)
        content += item
    put(file, content)
    put(file.parent / METADATA, pickle.dumps(metadata, 4))
    return count


def is_sound(content):
    """Whether every record of a zip has the checksum that the directory says; or none has one."""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        return not any(info.CRC for info in file.infolist()) or file.testzip() is None
