"""Damage that only some formats have: unwritten ends, bytes too many, single bits, comments."""

import io
import struct

import pytest
import safetensors.torch
import torch

from rna_watch.errors import IncompleteCheckpoint
from rna_watch.formats.probe import probe
from tests.checkpoints import twins
from tests.checkpoints.damage import put
from tests.checkpoints.writers import FORMS, SAFETENSORS, bare, model, with_company
from tests.formats.test_contract import UNUSABLE, described


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
