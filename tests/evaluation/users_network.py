"""A user's evaluator that offers everything: a network with batch norm and tied weights, its inputs, its training loss.

A file `mode` in the working directory makes its optional functions misbehave.
"""

import subprocess
from pathlib import Path

import torch

CALLS = []


class Network(torch.nn.Module):
    """Encoder and decoder share their weights."""

    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.Linear(4, 4, bias=False)
        self.bn = torch.nn.BatchNorm1d(4)
        self.decoder = torch.nn.Linear(4, 4, bias=False)
        self.decoder.weight = self.encoder.weight

    def forward(self, inputs):
        """The inputs again, as well as it can."""
        return self.decoder(self.bn(self.encoder(inputs)))


def inputs(seed, count=32):
    """A batch."""
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(seed)) + 1.0


def misbehave():
    """Do as the file `mode` says."""
    match Path("mode").read_text() if Path("mode").exists() else "":
        case "raise":
            raise LookupError("the training set is gone")
        case "hang":
            subprocess.run(["sleep", "1000"], check=True)


def evaluate(state_dict, device, *, fraction=1.0):
    """The error of each example, and what it was called with."""
    network = Network()
    network.load_state_dict(state_dict)
    x = inputs(99, int(100 * fraction)).to(device)
    errors = (network.eval()(x) - x).square().mean(1)
    return {"error": errors, "fraction": fraction, "calls": len(CALLS), "mean": network.bn.running_mean.sum()}


def normalization(device):
    """The network and three batches."""
    misbehave()
    CALLS.append("normalization")
    return Network().to(device), [inputs(seed).to(device) for seed in range(3)]


def training_loss(state_dict, device, generator):
    """The squared error on a random batch, in training mode."""
    misbehave()
    network = Network().to(device)
    x = (torch.randn(16, 4, generator=generator) + 1.0).to(device)
    return (torch.func.functional_call(network, state_dict, (x,)) - x).square().mean()
