"""What `inspect` shows a person."""

import json

import pytest
import torch
from safetensors.torch import save_file

from rna_watch.commands.inspect import inspect
from rna_watch.config import RunConfig
from rna_watch.errors import IncompleteCheckpoint, RefusedCheckpoint, UsageError
from tests.checkpoints.writers import FORMS, SAFETENSORS, Network, model


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
        "step        epoch 7, by the epoch in the name; series epoch_#.pt",
        "parameter   7 tensors, 146 values (float32): parameters, extrapolated",
        "statistic   1 tensor, 4 values (float32): normalization statistics, combined with the same weights",
        "variance    1 tensor, 4 values (float32): running variances, combined and kept from going below zero",
        "copied      2 tensors, 3 values (bool, int64): integers and flags, copied from the newest checkpoint",
        (
            "optimizer   Adam, 1 parameter group, learning rate 0.1; exact mean gradients cannot be recovered from it (Adam has "
            "no exact identity for its gradients)"
        ),
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


def trained(optimizer_class, **settings):
    """A network, and an optimizer that took one step."""
    network = Network()
    optimizer = optimizer_class(network.parameters(), **settings)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return network, optimizer


def test_what_stands_beside_the_model_is_described(tmp_path):
    """Averages with how to choose them, the optimizer with what its momentum gives, and a recorded gradient."""
    path = tmp_path / "epoch_7.pt"
    network, optimizer = trained(torch.optim.SGD, lr=0.1, momentum=0.9)
    average = torch.optim.swa_utils.AveragedModel(network).state_dict()
    tree = {"model": network.state_dict(), "model_ema": average, "optimizer": optimizer.state_dict()}
    torch.save(tree, path)
    gradient = {name: torch.ones_like(each) for name, each in network.named_parameters()}
    save_file(gradient, f"{path}.gradient")
    assert inspect(path).lines()[-3:] == [
        (
            "sources     also 'model_ema' (a moving average, 12 tensors): left as in the newest checkpoint, unless chosen with "
            "--source"
        ),
        "optimizer   SGD, 1 parameter group, learning rate 0.1; exact mean gradients can be recovered from it",
        "gradient    a recorded mean gradient lies next to it, usable",
    ]
    lines = inspect(path, RunConfig(source="model_ema")).lines()
    assert lines[2] == "model       under 'model_ema' (a moving average), 12 tensors, 146 parameters (tied ones once)"
    why = "the model is a moving average, not the weights that"
    assert lines[-3:] == [
        "sources     also 'model' (11 tensors): left as in the newest checkpoint, unless chosen with --source",
        (
            "optimizer   SGD, 1 parameter group, learning rate 0.1; exact mean gradients cannot be recovered from it "
            f"({why} the optimizer moved)"
        ),
        f"gradient    a recorded mean gradient lies next to it, not usable: {why} the recorded gradients belong to",
    ]
    found = inspect(path).as_dict()
    assert found["sources"] == [
        {"path": "model", "tensors": 11, "averaged": False},
        {"path": "model_ema", "tensors": 12, "averaged": True},
    ]
    assert found["recorded_gradient"] == {"path": f"{path}.gradient", "usable": True, "reason": ""}
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        (
            torch.optim.Adam,
            {"lr": 0.01},
            (
                "Adam, 1 parameter group, learning rate 0.01; exact mean gradients cannot be recovered from it (Adam has no "
                "exact identity for its gradients)"
            ),
        ),
        (
            torch.optim.SGD,
            {"lr": 0.1},
            "SGD, 1 parameter group, learning rate 0.1; exact mean gradients can be recovered from it",
        ),
        (
            torch.optim.SGD,
            {"lr": 0.0, "momentum": 0.9},
            (
                "SGD, 1 parameter group, learning rate 0; exact mean gradients cannot be recovered from it (the learning rate "
                "is 0, or no plain number)"
            ),
        ),
        (
            torch.optim.SGD,
            {"lr": torch.tensor(0.5), "momentum": 0.9},
            (
                "SGD, 1 parameter group, learning rate unknown; exact mean gradients cannot be recovered from it (the "
                "learning rate is 0, or no plain number)"
            ),
        ),
    ],
)
def test_an_optimizer_says_whether_it_gives_gradients(kind, settings, words, tmp_path):
    """Its kind, groups and learning rates, and why its gradients cannot be recovered where they cannot."""
    network, optimizer = trained(kind, **settings)
    torch.save({"model": network.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "model.pt")
    assert inspect(tmp_path / "model.pt").lines()[-1] == f"optimizer   {words}"


def test_complex_and_wrapped_tensors_are_shown_as_stored(tmp_path):
    """Names with their prefixes, complex shapes and dtypes, and ties by the stored names."""
    weight = torch.ones(3, 2, dtype=torch.complex64)
    torch.save({"module.a": weight, "module.b": weight, "module.c": torch.ones(2)}, tmp_path / "model.pt")
    found = inspect(tmp_path / "model.pt")
    assert [(each["name"], each["dtype"], each["shape"], each["tied_to"]) for each in found.as_dict()["tensors"]] == [
        ("module.a", "complex64", [3, 2], None),
        ("module.b", "complex64", [3, 2], "module.a"),
        ("module.c", "float32", [2], None),
    ]
    assert found.lines()[-2:] == [
        "parameter   2 tensors, 14 values (complex64, float32): parameters, extrapolated",
        "tied        1 tensor shares storage (module.b = module.a)",
    ]


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
    with pytest.raises(RefusedCheckpoint, match=r"page\.pt cannot be used: it is in no format that is known"):
        inspect(tmp_path / "page.pt")
