import struct

import pytest
import torch

from rna_watch.formats import safe_pickle
from rna_watch.formats.probe import probe
from rna_watch.formats.zip_directory import read_directory
from rna_watch.layout.open_file import OpenFile
from tests.daemon.runs import events, rna_watch

NESTED = b")" + b"2\x86" * 60  # a tuple that holds one tuple twice, sixty times over


@pytest.mark.parametrize(
    "data",
    [
        b"}" + NESTED + b"Ns.",
        b"}(" + NESTED + b"Nu.",
        b"(" + NESTED + b"Nd.",
        b"\x80\x04\x8f(" + NESTED + b"\x90.",
        b"\x80\x04(" + NESTED + b"\x91.",
        b"ccollections\nOrderedDict\n(](" + b"(" + NESTED + b"Ntetet\x52.",
    ],
    ids=["setitem", "setitems", "dict", "additems", "frozenset", "ordered"],
)
def test_keys_that_would_be_hashed_for_ever_are_refused_at_once(data):
    """A key of shared tuples within tuples costs 2^60 steps to hash: it is refused before that."""
    with pytest.raises(ValueError, match="damaged"):
        safe_pickle.load(data)


def test_a_storage_whose_key_is_no_name_is_refused():
    """A key that is a nested tuple would be printed into a string without end."""
    data = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n" + NESTED + b"X\x03\x00\x00\x00cpuK\x01tQ."
    with pytest.raises(ValueError, match="no name"):
        safe_pickle.load(data)


def test_a_damaged_record_beside_the_model_costs_nothing(tmp_path):
    """A broken header of a record that is not the model's is left as it is: models are written, and nothing ends."""
    generator = torch.Generator().manual_seed(0)
    for step in range(1, 6):
        tree = {"model": {"weight": torch.randn(50, generator=generator)}, "other": torch.ones(30) * step}
        torch.save(tree, tmp_path / f"step_{step}.pt")
    path = tmp_path / "step_4.pt"
    with OpenFile(str(path)) as file:
        record = next(each for each in read_directory(file) if each.name.endswith("data/1"))
    with path.open("r+b") as file:
        file.seek(record.header_offset)
        file.write(struct.pack("<I", 0))
    assert probe(str(path)).parameters == 50
    result = rna_watch("once", tmp_path, "--engine", "local")
    assert result.returncode == 0, result.stderr
    assert [event.checkpoint for event in events(tmp_path, "published")] == ["step_3.pt", "step_4.pt", "step_5.pt"]
