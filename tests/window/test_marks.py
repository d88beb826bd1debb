"""What checkpoints say of their training besides their weights, in files that torch and safetensors wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from rna_watch.formats.probe import probe
from rna_watch.window.marks import OPTIMIZER, is_clock, marks_of

if TYPE_CHECKING:
    from pathlib import Path

BATCHES = "1.num_batches_tracked"


def trained(optimizer: Any, steps: int) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """A network with batch norm, after some steps."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.BatchNorm1d(5))
    made = optimizer(network.parameters(), lr=0.01)
    for _ in range(steps):
        made.zero_grad()
        network(torch.randn(8, 6)).square().sum().backward()
        made.step()
    return network, made


@pytest.mark.parametrize(
    ("optimizer", "counted"), [(torch.optim.Adam, 7), (torch.optim.AdamW, 7), (torch.optim.SGD, None)]
)
def test_steps_of_the_optimizer_and_batches_are_read(optimizer: Any, counted: int | None, tmp_path: Path) -> None:
    """With the counters that the script wrote; SGD counts nothing."""
    network, made = trained(optimizer, 7)
    torch.save({"epoch": 2, "model": network.state_dict(), "optimizer": made.state_dict()}, tmp_path / "a.pt")
    marks = marks_of(probe(str(tmp_path / "a.pt")))
    expected = {"epoch inside": 2, BATCHES: 7} | ({OPTIMIZER: counted} if counted else {})
    assert (dict(marks.counters), marks.saved_to) == (expected, "")
    assert {name for name in marks.counters if is_clock(name)} == expected.keys() - {"epoch inside"}


def test_the_larger_count_of_two_optimizers_is_taken(tmp_path: Path) -> None:
    """Lightning's list, or two keys, of which one steps more often; the folder that its ModelCheckpoint writes to."""
    (network, one), (_, other) = trained(torch.optim.Adam, 3), trained(torch.optim.Adam, 15)
    content = {
        "state_dict": network.state_dict(),
        "optimizer_states": [one.state_dict(), other.state_dict()],
        "callbacks": {"EarlyStopping": {"wait_count": 0}, "ModelCheckpoint{...}": {"dirpath": "/logs/version_3"}},
    }
    torch.save(content, tmp_path / "a.ckpt")
    marks = marks_of(probe(str(tmp_path / "a.ckpt")))
    assert (marks.counters[OPTIMIZER], marks.saved_to) == (15, "/logs/version_3")


@pytest.mark.parametrize("step", ["7", None, -1, True, float("nan"), torch.ones(3), [7]])
def test_what_is_no_count_is_no_count(step: object, tmp_path: Path) -> None:
    """Other kinds of state under that name are let be."""
    network, made = trained(torch.optim.Adam, 1)
    content = made.state_dict()
    for state in content["state"].values():
        state["step"] = step
    torch.save({"model": network.state_dict(), "optimizer": content, "callbacks": [1]}, tmp_path / "a.pt")
    assert marks_of(probe(str(tmp_path / "a.pt"))).counters.keys() == {BATCHES}


def test_bare_weights_say_nothing_and_safetensors_count_batches(tmp_path: Path) -> None:
    """A state dict without normalization layers has no marks; the format of the file does not matter."""
    network, _ = trained(torch.optim.SGD, 4)
    save_file(network.state_dict(), tmp_path / "a.safetensors")
    assert marks_of(probe(str(tmp_path / "a.safetensors"))).counters == {BATCHES: 4}
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "b.pt")
    assert not marks_of(probe(str(tmp_path / "b.pt")))
