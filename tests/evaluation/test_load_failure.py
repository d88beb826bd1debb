"""Failures of `load_state_dict` are explained: which keys, why, what to write; and what is to be written works."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from rna_watch.evaluation.load_failure import explained


class Tied(nn.Module):
    """An output layer that is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.body = nn.Linear(3, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight


def _network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))


def _prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in _network().state_dict().items()}


@pytest.mark.parametrize(
    ("network", "state_dict", "said"),
    [
        (
            Tied(),
            {name: tensor for name, tensor in Tied().state_dict().items() if name != "head.weight"},
            (
                r"Missing keys, which the network has: head\.weight\. They are tied weights, stored once: in your network "
                r"head\.weight is embedding\.weight\."
            ),
        ),
        (
            _network(),
            _prefixed("model."),
            r"Unexpected keys.*model\.0\.weight.*and 4 more\. The names in the checkpoint begin",
        ),
        (nn.Sequential(_network()), _network().state_dict(), r"it wraps the one that was trained"),
        (
            nn.ModuleDict({"net": _network()}),
            _prefixed("net.") | {"criterion.weight": torch.ones(2)},
            r"If the network does not need criterion to evaluate",
        ),
    ],
)
def test_what_is_to_be_written_loads_the_model(
    network: nn.Module, state_dict: dict[str, torch.Tensor], said: str
) -> None:
    """Tied weights, prefixes on either side and parts that only the training has are told apart, and the remedy works."""
    with pytest.raises(RuntimeError) as raised:
        network.load_state_dict(state_dict)
    text = explained(raised.value)
    assert re.search(said, text)
    (code,) = re.findall(r"(?<=Write |write )network\..*", text)
    code = code.replace("network.0.", "network[0].")
    eval(code, {"network": network, "state_dict": state_dict})
    given = [tensor for tensor in state_dict.values() if tensor.shape != (2,)]
    assert all(any(torch.equal(each, tensor) for each in given) for tensor in network.state_dict().values())


def test_other_sizes_and_other_networks_are_told() -> None:
    """A head with other classes is told with both shapes, another network with how many names fit."""
    with pytest.raises(RuntimeError) as raised:
        nn.Linear(4, 3).load_state_dict(nn.Linear(4, 2).state_dict())
    assert "weight is (2, 4) in the checkpoint and (3, 4) in the network" in explained(raised.value)
    with pytest.raises(RuntimeError) as raised:
        nn.Linear(4, 3).load_state_dict(Tied().state_dict())
    assert "0 of the network's 2 names are in the checkpoint, which has 4" in explained(raised.value)
    assert explained(ValueError("no such thing")) == ""
