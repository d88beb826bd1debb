"""Files that are cut off or damaged: a word about it, or the right layout, and nothing else."""

import io
import pickletools
import random
import struct
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch

from rna_watch.checkpoints.probe import probe
from rna_watch.errors import IncompleteCheckpoint, RefusedCheckpoint

from . import twins
from .writers import FORMS, SAFETENSORS, bare, model, with_company

UNUSABLE = (IncompleteCheckpoint, RefusedCheckpoint)
ODD_BYTES = (0, 1, 2, 3, 4, 5, 8, 9, 10, 29, 30, 31, 63, 64, 65, 511)


def zip_bytes(tree, *, crc=True):
    """A torch zip file in memory, with or without checksums."""
    kept = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(crc)
    try:
        buffer = io.BytesIO()
        torch.save(tree, buffer)
    finally:
        torch.serialization.set_crc32_options(kept)
    return buffer.getvalue()


def legacy_bytes(tree):
    """A file of torch's old format in memory."""
    buffer = io.BytesIO()
    torch.save(tree, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def safetensors_bytes(tensors):
    """A safetensors file in memory."""
    return safetensors.torch.save(dict(tensors), metadata={"step": "7"})


CONTENTS = {
    "bare zip": zip_bytes(bare(model(7), 7)),
    "zip with company": zip_bytes(with_company(model(7), 7)),
    "zip without checksums": zip_bytes(with_company(model(7), 7), crc=False),
    "bare legacy": legacy_bytes(bare(model(7), 7)),
    "legacy with company": legacy_bytes(with_company(model(7), 7)),
    "safetensors": safetensors_bytes(model(7)),
}


def put(path, content):
    """Write a file anew (over the old one, ext4 would put it on the disk at once, which takes a hundred times as long)."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def records(content):
    """For each record of a zip: where its header, its bytes and what is behind them begin, and where the next one does."""
    found = []
    for info in zipfile.ZipFile(io.BytesIO(content)).infolist():
        lengths = struct.unpack_from("<HH", content, info.header_offset + 26)
        start = info.header_offset + 30 + sum(lengths)
        found.append((info.filename, info.header_offset, start, start + info.file_size))
    return found


def pickles(content):
    """Where each of the five pickles of torch's old format ends."""
    stream = io.BytesIO(content)
    ends = []
    for _ in range(5):
        for _ in pickletools.genops(stream):
            pass
        ends.append(stream.tell())
    return ends


def boundaries(content):
    """Every place where a writer may stop between two parts of a file."""
    if content.startswith(b"\x80"):
        return {*range(min(300, len(content))), *pickles(content), *range(pickles(content)[-1], len(content), 29)}
    if not content.startswith(b"PK"):
        header = 8 + struct.unpack_from("<Q", content)[0]
        entries = safetensors.deserialize(content)
        return {8, header, *(header + at for at in np.cumsum([len(each["data"]) for _, each in entries])[:-1])}
    places = {place for _, *record in records(content) for place in record}
    places |= {end + 16 for *_, end in records(content)}
    directory = struct.unpack_from("<I", content, len(content) - 6)[0]
    while content[directory : directory + 4] == b"PK\x01\x02":
        places.add(directory)
        directory += 46 + sum(struct.unpack_from("<HHH", content, directory + 28))
    return {*places, directory, len(content) - 1}


@pytest.mark.parametrize("name", CONTENTS)
def test_a_file_cut_anywhere_is_incomplete(name, tmp_path):
    """Cut between any two of its parts, or at odd bytes, a file is reported as still being written."""
    content = CONTENTS[name]
    path = tmp_path / "model.pt"
    places = {place for place in boundaries(content) | set(ODD_BYTES) if place < len(content)}
    assert len(places) > 10
    for place in sorted(places):
        put(path, content[:place])
        with pytest.raises(IncompleteCheckpoint):
            probe(str(path))


@pytest.mark.parametrize("name", ["bare zip", "zip with company", "zip without checksums"])
def test_a_file_of_full_size_with_its_end_unwritten_is_incomplete(name, tmp_path):
    """A writer that reserves the space first leaves zeros at the end: still being written."""
    content = CONTENTS[name]
    path = tmp_path / "model.pt"
    for written in (0, 64, len(content) // 2, len(content) - 23):
        path.write_bytes(content[:written].ljust(len(content), b"\0"))
        with pytest.raises(IncompleteCheckpoint):
            probe(str(path))


@pytest.mark.parametrize(
    ("name", "message"),
    [("safetensors", "announced"), ("bare legacy", r"its storages end at byte \d+, and it has \d+")],
)
def test_a_file_longer_than_announced_is_incomplete(name, message, tmp_path):
    """Bytes behind the last tensor mean that header and content belong to different moments."""
    path = tmp_path / "model"
    path.write_bytes(CONTENTS[name] + b"\0")
    with pytest.raises(IncompleteCheckpoint, match=message):
        probe(str(path))


def damages(content, places, count, seed):
    """`count` damaged versions of a file: a bit flipped, a byte replaced, a few bytes zeroed or drawn at random."""
    chance = random.Random(seed)
    for _ in range(count):
        damaged = bytearray(content)
        at = chance.choice(places)
        match chance.randrange(4):
            case 0:
                damaged[at] ^= 1 << chance.randrange(8)
            case 1:
                damaged[at] = chance.randrange(256)
            case 2:
                damaged[at : at + 4] = bytes(len(damaged[at : at + 4]))
            case _:
                size = chance.randrange(1, 9)
                damaged[at : at + size] = chance.randbytes(len(damaged[at : at + size]))
        if damaged != content:
            yield bytes(damaged)


def structure(content):
    """The places of a file that are not tensors: headers, directory, pickle."""
    places = set(range(len(content)))
    if content.startswith(b"PK"):
        for name, _, start, end in records(content):
            if "/data/" in name:
                places -= set(range(start, end))
        return sorted(places)
    if content.startswith(b"\x80"):
        return list(range(pickles(content)[-1]))
    return list(range(8 + struct.unpack_from("<Q", content)[0]))


def described(layout):
    """What a layout says about the model."""
    return layout.tensors, layout.extents, layout.source, layout.counters


@pytest.mark.parametrize("name", ["bare zip", "zip with company"])
def test_a_damaged_zip_is_unusable_or_read_right(name, tmp_path):
    """Whatever is damaged in headers, directory or pickle, the answer is a refusal or the layout of the intact file."""
    content = CONTENTS[name]
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    intact = described(probe(str(path)))
    refused = 0
    for damaged in damages(content, structure(content), 600, seed=1):
        put(path, damaged)
        try:
            layout = probe(str(path))
        except UNUSABLE:
            refused += 1
        else:
            assert described(layout) == intact
    assert refused > 100


@pytest.mark.parametrize("name", ["zip without checksums", "bare legacy", "legacy with company", "safetensors"])
def test_damage_that_no_checksum_covers_stays_within_bounds(name, tmp_path):
    """Where the writer left checksums out, damage may rename a tensor, but never leads beyond the file or to another error."""
    content = CONTENTS[name]
    path = tmp_path / "model.pt"
    places = structure(content)
    if name == "zip without checksums":
        places = [
            place for each, _, start, end in records(content) if "data.pkl" in each for place in range(start, end)
        ]
    refused = 0
    for damaged in damages(content, places, 1500, seed=2):
        put(path, damaged)
        try:
            layout = probe(str(path))
        except UNUSABLE:
            refused += 1
        else:
            twins.read(layout)
            assert layout.architecture
    assert refused > 100


@pytest.mark.parametrize("form", [FORMS["torch zip, bare"], SAFETENSORS], ids=lambda form: form.name)
def test_every_single_bit_of_the_ends_is_guarded(form, tmp_path):
    """Each bit of the first and the last 100 bytes, flipped, gives a refusal or the intact layout."""
    path = tmp_path / f"model{form.ending}"
    form.write(path, {"w": torch.arange(4.0), "v": torch.ones(2)}, 7)
    content = path.read_bytes()
    intact = described(probe(str(path)))
    ends = [*range(min(100, len(content) - 24)), *range(len(content) - 100, len(content))]
    places = [place for place in ends if form is not SAFETENSORS or place < 8]
    for place in places:
        for bit in range(8):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            put(path, damaged)
            try:
                layout = probe(str(path))
            except UNUSABLE:
                continue
            assert described(layout) == intact, (place, bit)


@pytest.mark.parametrize("name", ["bare zip", "zip with company", "zip without checksums"])
def test_a_zip_may_carry_a_comment(name, tmp_path):
    """Bytes behind the directory that it announces, and signatures among them, do not hide it."""
    content = bytearray(CONTENTS[name])
    comment = b"PK\x05\x06 looks like another end"
    content[-2:] = struct.pack("<H", len(comment))
    path = tmp_path / "model.pt"
    path.write_bytes(bytes(content) + comment)
    assert twins.read(probe(str(path))).keys() >= {"conv.weight"}
