"""Headers of safetensors files: what they may say, and what is refused."""

import json
import os
import struct
import time

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch

from rna_watch.errors import IncompleteCheckpoint, RefusedCheckpoint
from rna_watch.formats.probe import probe
from tests.checkpoints import twins

ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def write(path, header, data=b"\0" * 8):
    """A file with a header of any content."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return str(path)


@pytest.fixture
def path(tmp_path):
    """The path of a test's file."""
    return tmp_path / "model.safetensors"


def test_every_dtype_that_numpy_knows_is_read(path):
    """Integers of every width, flags and floating point come out as they were stored."""
    kinds = [np.bool_, *(getattr(np, f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64))]
    arrays = {np.dtype(kind).name: np.array([0, 1, 1], dtype=kind) for kind in kinds}
    arrays |= {f"float{bits}": np.array([0.5, -2.0], dtype=f"f{bits // 8}") for bits in (16, 32, 64)}
    safetensors.numpy.save_file(arrays, path)
    found = twins.read(probe(str(path)))
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name].numpy(), array)


def test_the_order_in_the_header_is_free(path):
    """Entries may stand in another order than their bytes, and tensors without elements anywhere."""
    header = {
        "b": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
        "none": {"dtype": "F32", "shape": [0, 3], "data_offsets": [4, 4]},
        "a": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]},
    }
    found = twins.read(probe(write(path, header, struct.pack("<ff", 1.0, 2.0))))
    assert {name: tensor.tolist() for name, tensor in found.items()} == {"a": 1.0, "b": [2.0], "none": []}


@pytest.mark.parametrize(
    ("metadata", "counters"),
    [
        ({"step": "12", "epoch": "3"}, {"step": 12, "epoch": 3}),
        ({"global_step": "7", "format": "pt"}, {"step": 7}),
        ({"step": "-1", "epoch": "one"}, {}),
        ({"step": "\u00b2", "epoch": "9" * 5000}, {}),
        (None, {}),
    ],
)
def test_counters_in_the_metadata(metadata, counters, path):
    """Step and epoch are read where they are plain numbers, and anything else is left alone."""
    assert probe(write(path, {"__metadata__": metadata, "w": ENTRY})).counters == counters


PAIR = b'"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'


@pytest.mark.parametrize(
    "header",
    [
        *({"w": ENTRY | {"shape": shape}} for shape in ([1.9], [2.0], ["2"], [True, 2], [-2], [2**64], None, {"2": 2})),
        *({"w": ENTRY | {"data_offsets": place}} for place in ([0.0, 8], ["0", "8"], [False, 8], [0], [0, 8, 8])),
        *({"__metadata__": metadata, "w": ENTRY} for metadata in ({"a": 1}, [1], "text", {"a": None})),
        {"w": ENTRY | {"shape": [2**62, 2**62, 0], "data_offsets": [0, 0]}, "v": ENTRY},
        {"w": ENTRY, "v": ENTRY | {"shape": [0], "data_offsets": [3, 3]}},
        {"w": ENTRY, "v": ENTRY},
        b'{"w":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        b'{"__metadata__":{},"__metadata__":{},' + PAIR + b"}",
        b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"more":NaN}}',
        b'{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        b"{" + PAIR + b"}\0",
        b'{"\1":' + PAIR[4:] + b"}",
    ],
    ids=repr,
)
def test_what_the_library_refuses_is_refused(header, path):
    """Numbers that are no whole ones, names twice, overlaps: a file that loads nowhere makes no model."""
    write(path, header)
    with pytest.raises(safetensors.SafetensorError):
        safetensors.deserialize(path.read_bytes())
    with pytest.raises((RefusedCheckpoint, IncompleteCheckpoint)):
        probe(str(path))


@pytest.mark.parametrize(
    "header",
    [
        {"w": ENTRY | {"more": [1, {"a": None}]}},
        {"__metadata__": None, "w": ENTRY},
        {"w": ENTRY, "v": ENTRY | {"shape": [2**40, 0], "data_offsets": [8, 8]}},
        {"v": ENTRY | {"shape": [1], "data_offsets": [4, 8]}, "w": ENTRY | {"shape": [1], "data_offsets": [0, 4]}},
        b"{" + PAIR + b"}  \n ",
    ],
    ids=repr,
)
def test_what_the_library_reads_is_read(header, path):
    """More keys, tensors of nothing, any order, blanks at the end."""
    write(path, header)
    assert {name for name, _ in safetensors.deserialize(path.read_bytes())} == {
        view.name for view in probe(str(path)).tensors
    }


@pytest.mark.parametrize(("dtype", "name"), [("F4", "F4"), ("F6_E2M3", "F6_E2M3"), ("I128", "I128"), ("", "")])
def test_a_dtype_that_cannot_be_averaged_is_refused_by_name(dtype, name, path):
    """Packed and unknown dtypes are refused, with the tensor's name and the remedy."""
    with pytest.raises(RefusedCheckpoint, match=f"blocks.0.w has dtype {name}, which cannot be averaged; save it as"):
        probe(write(path, {"blocks.0.w": ENTRY | {"dtype": dtype}}))


@pytest.mark.parametrize(
    "header",
    [
        b"{]",
        b"{" + b" " * 20,
        b'{"w": {"dtype": "F32", "shape": [1e999], "data_offsets": [0, 8]}}',
        b'{"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, NaN]}}',
        b'{"w": ' + b"[" * 100_000,
        b'{"\xff": 1}',
        {"w": [1, 2]},
        {"w": {"dtype": "F32", "shape": [2]}},
        {"w": ENTRY | {"shape": [3]}},
        {"w": ENTRY | {"shape": [-2]}},
        {"w": ENTRY | {"shape": [2**70, 0]}, "v": ENTRY},
        {"w": ENTRY | {"shape": "ab"}},
        {"w": ENTRY | {"data_offsets": [0, 8, 8]}},
        {"w": ENTRY | {"data_offsets": [-8, 0]}},
        {"w": ENTRY | {"dtype": ["F32"]}},
        {"w": ENTRY, "v": ENTRY | {"data_offsets": [4, 12]}},
        {"w": ENTRY | {"data_offsets": [8, 16]}},
    ],
    ids=repr,
)
def test_a_header_that_makes_no_sense_is_refused(header, path):
    """Broken JSON, lying shapes, gaps and overlaps are refused as damage, never followed."""
    with pytest.raises(RefusedCheckpoint, match="its header is damaged"):
        probe(write(path, header, b"\0" * 16))


def test_a_file_without_floating_point_is_refused(path):
    """Integers alone leave nothing to extrapolate."""
    with pytest.raises(RefusedCheckpoint, match="no floating-point tensors"):
        probe(write(path, {"w": {"dtype": "I32", "shape": [2], "data_offsets": [0, 8]}}))


def test_a_header_that_is_not_all_there_is_incomplete(path):
    """A header length beyond the file means that more is coming."""
    content = struct.pack("<Q", 10_000) + b'{"w": '
    path.write_bytes(content)
    with pytest.raises(IncompleteCheckpoint, match="header of 10000 bytes is not all there"):
        probe(str(path))


def test_strange_names_have_an_architecture(path):
    """A name that no encoding knows is still a name to torch."""
    layouts = []
    for name in ("\ud800", "w"):
        torch.save({name: torch.ones(2)}, path)
        layouts.append(probe(str(path)))
    assert layouts[0].architecture != layouts[1].architecture


@pytest.mark.parametrize("place", [("backbone", 0), ("backbone", -1), ("head", 5)])
def test_sampled_fingerprints_see_every_tensor(place, path):
    """The format keeps no checksum: a change at an end of a tensor, large or small, changes the fingerprint."""
    tensors = {"backbone": torch.zeros(2_000_000), "head": torch.zeros(10), "more": torch.zeros(1_000_000)}
    safetensors.torch.save_file(tensors, path)
    before = probe(str(path)).fingerprint
    name, index = place
    tensors[name][index] = 1.0
    safetensors.torch.save_file(tensors, path)
    assert probe(str(path)).fingerprint != before


# -- a file that gets its size first (release candidates of safetensors 0.7.1 and 0.8.0)

LARGE = 2**15  # float32: many blocks of any file system


def sized_first(path, tensors):
    """Write as those did; what is on the disk is yielded after the size and after each tensor."""
    content = safetensors.torch.save(tensors)
    base = 8 + struct.unpack_from("<Q", content)[0]
    with path.open("wb", buffering=0) as file:
        file.truncate(len(content))
        file.write(content[:base])
        yield False
        for start in range(base, len(content), 4 * LARGE):
            file.write(content[start : start + 4 * LARGE])
            yield start + 4 * LARGE >= len(content)


@pytest.fixture
def holes(tmp_path):
    """A file system that tells what was never written."""
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(2**20)
        if os.lseek(file.fileno(), 0, os.SEEK_HOLE) != 0:
            pytest.skip("this file system does not tell holes")


@pytest.mark.usefixtures("holes")
def test_a_file_that_got_its_size_first_is_incomplete_until_the_last_tensor(path):
    """It has its size and a valid header from the beginning: the hole tells, up to the last tensor."""
    tensors = {name: torch.full((LARGE,), 1.5) for name in "abc"}
    for complete in sized_first(path, tensors):
        if complete:
            assert all(torch.equal(found, tensors["a"]) for found in twins.read(probe(str(path))).values())
        else:
            with pytest.raises(IncompleteCheckpoint, match="nothing is written at byte"):
                probe(str(path))


@pytest.mark.usefixtures("holes")
def test_a_copy_that_leaves_zeros_out_is_taken_once_it_has_rested(path):
    """Zeros that were written are complete at once; those that a sparse copy left out after two minutes, however dated."""
    tensors = {"a": torch.ones(LARGE), "b": torch.zeros(LARGE)}
    safetensors.torch.save_file(tensors, path)
    assert probe(str(path))
    os.truncate(path, path.stat().st_size - 4 * LARGE)
    os.truncate(path, path.stat().st_size + 4 * LARGE)
    with pytest.raises(IncompleteCheckpoint, match="a copy that leaves zeros out, it is taken 120 s after"):
        probe(str(path))
    for seconds in (-130, 130, 10**6):
        os.utime(path, (time.time() + seconds,) * 2)
        found = twins.read(probe(str(path)))
        assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
