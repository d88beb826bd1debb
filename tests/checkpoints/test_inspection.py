"""What `inspect` tells a person."""

import pytest
import torch

from rna_watch.checkpoints.inspection import inspect
from rna_watch.errors import IncompleteCheckpoint, RefusedCheckpoint, UsageError

from .writers import FORMS, SAFETENSORS, model


def test_a_checkpoint_is_described(tmp_path):
    """Format, place of the model, counters, roles and sizes stand in plain words."""
    path = tmp_path / "epoch_7.pt"
    FORMS["torch zip, state_dict"].write(path, model(7), 7)
    size = path.stat().st_size
    assert inspect(path).lines() == [
        f"{path}: complete",
        f"format      torch zip, {size / 1e6:,.1f} MB",
        "model       under 'state_dict', 11 tensors, 146 parameters (tied ones once)",
        "inside      epoch 7",
        "parameter   7 tensors, 146 values (float32): parameters, extrapolated",
        "statistic   1 tensors, 4 values (float32): normalization statistics, combined with the same weights",
        "variance    1 tensors, 4 values (float32): running variances, combined and kept from going below zero",
        "copied      2 tensors, 3 values (bool, int64): integers and flags, copied from the newest checkpoint",
    ]


def test_tied_tensors_are_named(tmp_path):
    """Names that share storage are listed with whose it is, a few of them."""
    weight = torch.ones(3)
    torch.save({f"w{number}": weight for number in range(6)}, tmp_path / "model.pt")
    found = inspect(tmp_path / "model.pt")
    assert found.lines()[2:4] == [
        "model       at the top, 6 tensors, 3 parameters (tied ones once)",
        "inside      no step or epoch",
    ]
    assert found.lines()[-1] == "tied        5 tensors share storage (w1 = w0, w2 = w0, w3 = w0, ...)"
    assert [each["tied_to"] for each in found.as_dict()["tensors"]] == [None] + ["w0"] * 5


def test_the_same_as_plain_data(tmp_path):
    """A program gets the same facts as values that JSON can hold."""
    path = tmp_path / "model.safetensors"
    SAFETENSORS.write(path, model(7), 7)
    found = inspect(path).as_dict()
    assert found["path"] == str(path)
    assert (found["format"], found["source"], found["counters"]) == ("safetensors", "", {"epoch": 7})
    assert (found["parameters"], found["size_bytes"]) == (146, path.stat().st_size)
    assert {"name": "conv.bias", "dtype": "float32", "shape": [4], "role": "parameter", "tied_to": None} in found[
        "tensors"
    ]


def test_a_file_that_cannot_be_used_says_why_with_its_name(tmp_path):
    """Missing, incomplete and refused files raise what they are, with the path in front."""
    (tmp_path / "empty.pt").touch()
    (tmp_path / "page.pt").write_text("<html>" * 30)
    with pytest.raises(UsageError, match=r"missing\.pt does not exist"):
        inspect(tmp_path / "missing.pt")
    with pytest.raises(IncompleteCheckpoint, match=r"empty\.pt is not complete: it is empty"):
        inspect(tmp_path / "empty.pt")
    with pytest.raises(RefusedCheckpoint, match=r"page\.pt cannot be used: it is neither"):
        inspect(tmp_path / "page.pt")
