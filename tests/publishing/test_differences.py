"""Comparing a published file with its recipe: every difference is found, named by its tensor, and nothing else is."""

from __future__ import annotations

import shutil
import struct
import tracemalloc
import zlib
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from rna_watch.errors import InputChanged, RefusedCheckpoint
from rna_watch.formats import zip_checksums, zip_directory
from rna_watch.formats.probe import probe
from rna_watch.layout.open_file import OpenFile
from rna_watch.publishing import differences
from rna_watch.window.combine import Combination
from tests.checkpoints import writers
from tests.checkpoints.twins import publish_here

WEIGHTS = (0.0, 1.75, -0.5, -0.25)
DTYPES = pytest.mark.parametrize("dtype", writers.DTYPES, ids=str)


def _save(folder, form, dtype=torch.float32):
    """Four checkpoints and their published combination: (published, combination)."""
    paths = []
    for seed in range(4):
        tensors = writers.model(seed, dtype)
        path = folder / f"step_{seed}.{'safetensors' if form == 'safetensors' else 'pt'}"
        if form == "safetensors":
            safetensors.torch.save_file(tensors, path)
        else:
            tied = tensors | {"tied.weight": tensors["head.weight"], "part": tensors["conv.weight"][1:3, :, 0]}
            torch.save({"model": tied, "optimizer": writers.optimizer_state(seed)}, path)
        paths.append(path)
    out = folder / f"out{paths[-1].suffix}"
    publish_here(paths, WEIGHTS, out)
    return out, Combination(layouts=tuple(probe(str(path)) for path in paths), weights=WEIGHTS)


def _differences(out, combination):
    return differences.combined_differences(probe(str(out)), combination.without_zeros())[0]


def _offset(path, name, element=0):
    """The file offset of an element of a tensor in one piece, and its number of bytes."""
    layout = probe(str(path))
    view = next(view for view in layout.tensors if view.name == name)
    chunk = layout.extents[view.extent].chunks[0]
    itemsize = torch.empty(0, dtype=getattr(torch, view.dtype)).element_size()
    return chunk.offset_bytes + (view.start - chunk.start + element) * itemsize


def flip(path, offset, *, repair, bit=0):
    """Flip one bit, and bring the checksum of its record up to date if asked to."""
    content = bytearray(Path(path).read_bytes())
    content[offset] ^= 1 << bit
    Path(path).write_bytes(content)
    if repair:
        with OpenFile(str(path)) as file, Path(path).open("r+b") as writer:
            starts = {zip_directory.payload_offset(file, each): each for each in zip_directory.read_directory(file)}
            start = max(each for each in starts if each <= offset)
            size = starts[start].size_bytes
            crc = zlib.crc32(file.read(start, size))
            zip_checksums.repair(file, {start: (size, crc)}, writer.fileno())


@DTYPES
@pytest.mark.parametrize("form", ["zip", "safetensors"])
def test_what_was_published_is_found_equal(tmp_path, form, dtype):
    """Every element, every integer, everything else in the file and every checksum of a good output agree."""
    out, combination = _save(tmp_path, form, dtype)
    model, newest = probe(str(out)), combination.layouts[-1]
    assert _differences(out, combination) == []
    assert differences.copied_differences(model, newest) == []
    assert differences.differences_beside(model, newest) == {}
    assert differences.damage(model) == ([], form == "zip")


@DTYPES
def test_one_flipped_bit_is_found_and_named(tmp_path, dtype):
    """The lowest mantissa bit of one element differs: that tensor, one element, by one last place, tied names once."""
    out, combination = _save(tmp_path, "zip", dtype)
    flip(out, _offset(out, "head.weight", 7), repair=True)
    (found,) = _differences(out, combination)
    assert (found.name, found.differing, found.elements) == ("head.weight", 1, 20)
    value = abs(torch.load(out, weights_only=True)["model"]["head.weight"].flatten()[7].double().item())
    assert 0 < found.largest <= 2 * torch.finfo(dtype).eps * value
    assert differences.damage(probe(str(out))) == ([], True)


def test_an_element_of_two_overlapping_tensors_is_named_by_both(tmp_path):
    """A strided view counts only the elements that are its own."""
    out, combination = _save(tmp_path, "zip")
    flip(out, _offset(out, "conv.weight", 27 + 1), repair=True)
    assert [(each.name, each.differing) for each in _differences(out, combination)] == [("conv.weight", 1), ("part", 1)]
    flip(out, _offset(out, "conv.weight", 27 + 3), repair=True)
    assert [(each.name, each.differing) for each in _differences(out, combination)] == [("conv.weight", 2), ("part", 1)]


def test_the_sign_of_zero_and_nan_count(tmp_path):
    """Bits are compared, not values: -0.0 for 0.0 and a NaN are differences."""
    for seed in range(3):
        torch.save({"weight": torch.zeros(4) + torch.tensor([0.0, 1, 2, seed])}, tmp_path / f"{seed}.pt")
    paths = [tmp_path / f"{seed}.pt" for seed in range(3)]
    out = publish_here(paths, (0.0, 0.5, 0.5), tmp_path / "out.pt")
    combination = Combination(layouts=tuple(probe(str(path)) for path in paths), weights=(0.0, 0.5, 0.5))
    start = _offset(out, "weight")
    flip(out, start + 3, bit=7, repair=True)
    (found,) = _differences(out, combination)
    assert (found.differing, found.largest) == (1, 0.0)
    with Path(out).open("r+b") as file:
        file.seek(start + 4)
        file.write(struct.pack("<f", float("nan")))
    (found,) = _differences(out, combination)
    assert found.differing == 2
    assert found.largest != found.largest


def test_a_changed_integer_is_named(tmp_path):
    """Integers and flags must be the newest checkpoint's."""
    out, combination = _save(tmp_path, "zip")
    flip(out, _offset(out, "bn.num_batches_tracked"), bit=2, repair=True)
    (found,) = differences.copied_differences(probe(str(out)), combination.layouts[-1])
    assert (found.name, found.differing, found.largest) == ("bn.num_batches_tracked", 1, 4.0)
    assert differences.sentences([found], "not copied") == [
        "bn.num_batches_tracked: 1 of 1 elements is not copied; largest difference 4"
    ]


def test_a_change_beside_the_model_is_named_by_its_record(tmp_path):
    """A value of the optimizer that differs is said, without its checksum or with it."""
    for repair in (False, True):
        out, combination = _save(tmp_path, "zip")
        owned = {chunk.offset_bytes for extent in probe(str(out)).extents for chunk in extent.chunks}
        with OpenFile(str(out)) as file:
            beside = next(
                (zip_directory.payload_offset(file, each), each.name)
                for each in zip_directory.read_directory(file)
                if "/data/" in each.name and zip_directory.payload_offset(file, each) not in owned
            )
        flip(out, beside[0], repair=repair)
        found = differences.differences_beside(probe(str(out)), combination.layouts[-1])
        assert found == {f"record {beside[1]}": 1}
        assert _differences(out, combination) == []


def test_a_safetensors_header_counts_too(tmp_path):
    """A renamed entry of the metadata is a difference outside of the model."""
    tensors = writers.model(1)
    safetensors.torch.save_file(tensors, tmp_path / "a.safetensors", metadata={"step": "1"})
    safetensors.torch.save_file(tensors, tmp_path / "b.safetensors", metadata={"step": "2"})
    a, b = (probe(str(tmp_path / f"{name}.safetensors")) for name in "ab")
    assert differences.differences_beside(a, b) == {"its headers": 1}


def test_a_file_that_was_saved_again_is_still_compared_by_its_tensors(tmp_path):
    """Loaded and saved by torch, a model lies elsewhere in the file: its elements are found equal, the rest is not compared."""
    out, combination = _save(tmp_path, "zip")
    content = torch.load(out, weights_only=True)
    torch.save({"note": "a" * 500, **content}, out)
    assert _differences(out, combination) == []
    assert differences.copied_differences(probe(str(out)), combination.layouts[-1]) == []
    assert differences.differences_beside(probe(str(out)), combination.layouts[-1]) is None


@given(st.data())
def test_any_flipped_bit_of_the_stored_records_is_found(tmp_path_factory, data):
    """Wherever a bit of a record flips, a checksum, a tensor or a part outside of the model shows it; so does the probe."""
    folder = tmp_path_factory.getbasetemp() / "flips"
    if not folder.exists():
        folder.mkdir()
        _save(folder, "zip")
    combination = Combination(layouts=tuple(probe(str(folder / f"step_{k}.pt")) for k in range(4)), weights=WEIGHTS)
    out = folder / "flipped.pt"
    shutil.copy(folder / "out.pt", out)
    with OpenFile(str(out)) as file:
        record = data.draw(st.sampled_from([r for r in zip_directory.read_directory(file) if r.size_bytes]))
        start = zip_directory.payload_offset(file, record)
    place = data.draw(st.integers(0, record.size_bytes - 1))
    flip(out, start + place, bit=data.draw(st.integers(0, 7)), repair=False)
    reason = ""
    try:
        model = probe(str(out))
    except RefusedCheckpoint as error:
        reason = str(error)
    if reason:
        assert "damaged" in reason
        return
    problems, checked = differences.damage(model)
    assert checked
    assert record.name in problems[0]
    newest = combination.layouts[-1]
    if model.structure == newest.structure:
        beside = differences.differences_beside(model, newest)
        assert _differences(out, combination) or differences.copied_differences(model, newest) or beside


def test_a_checksum_that_only_one_of_its_two_places_has_is_damage(tmp_path):
    """The directory and the data descriptor must agree."""
    out, _ = _save(tmp_path, "zip")
    with OpenFile(str(out)) as file:
        record = next(r for r in zip_directory.read_directory(file) if r.name.endswith("data/0"))
        end = zip_directory.payload_offset(file, record) + record.size_bytes
    flip(out, end + 4, repair=False)
    (problem,) = differences.damage(probe(str(out)))[0]
    assert problem == f"the checksum of scale (record {record.name}) does not match its bytes"


def test_a_file_without_checksums_is_not_called_damaged(tmp_path):
    """Zeros in all places mean that the writer computed none."""
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(writers.model(1), tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert differences.damage(probe(str(tmp_path / "a.pt"))) == ([], False)


def test_a_file_that_changes_meanwhile_stops_the_comparison(tmp_path):
    """A model or an input written after it was looked at: InputChanged, no verdict."""
    out, combination = _save(tmp_path, "zip")
    model, newest = probe(str(out)), combination.layouts[-1]
    flip(out, _offset(out, "head.weight"), repair=True)
    with pytest.raises(InputChanged, match="changed"):
        differences.copied_differences(model, newest)
    out.unlink()
    with pytest.raises(InputChanged, match="cannot be opened"):
        differences.differences_beside(model, newest)


def test_memory_is_bounded_by_blocks_not_by_the_model(tmp_path):
    """A few blocks of 32 MB of model and as much more are in memory at a time, also if everything differs."""
    for step in range(3):
        torch.save(
            {"model": {"w": torch.full((2**23,), float(step))}, "optimizer": torch.ones(2**23)}, tmp_path / f"{step}.pt"
        )
    combination = Combination(
        layouts=tuple(probe(str(tmp_path / f"{step}.pt")) for step in range(3)), weights=(0, 0.5, 0.5)
    )
    tracemalloc.start()
    try:
        (found,) = _differences(tmp_path / "0.pt", combination)
        model = probe(str(tmp_path / "0.pt"))
        assert differences.damage(model) == ([], True)
        differences.differences_beside(model, combination.layouts[-1])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (found.differing, found.largest) == (2**23, 1.5)
    assert peak < 2**24
