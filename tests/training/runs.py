"""Short training runs, and the slow, obvious twin of what `Rna` does in them."""

import copy

import numpy as np
import torch
from torch import nn

from tests.acceleration import twins

F64 = torch.float64


class Tied(nn.Module):
    """An encoder and a decoder that share their weight, batch norm between, and a mask that holds infinities."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6, bias=False), nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(6)
        self.frozen = nn.Parameter(torch.ones(6), requires_grad=False)
        self.idle = nn.Parameter(torch.full((3,), -0.0))
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
        self.register_buffer("rounds", torch.zeros(2, dtype=torch.int64))

    def forward(self, data):
        """Counts its calls."""
        self.rounds += 1
        return self.second(self.norm(torch.tanh(self.first(data)) * self.frozen))


def tied(dtype=F64):
    """A seeded one."""
    torch.manual_seed(0)
    return Tied().to(dtype)


def groups(network):
    """Two parameter groups, each with settings of its own; the second lists its parameters backwards."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    return [
        {"params": parameters[:1], "lr": 0.05, "weight_decay": 0.1},
        {"params": parameters[:0:-1], "lr": 0.02},
    ]


def sgd(network):
    """Momentum, Nesterov, two groups."""
    return torch.optim.SGD(groups(network), momentum=0.9, nesterov=True)


class Loop:
    """Batches from one generator, so that two loops of one seed see the same data."""

    def __init__(self, network, inputs=6, seed=1):
        self.network, self.inputs = network, inputs
        self.dtype = next(network.parameters()).dtype
        self.generator = torch.Generator().manual_seed(seed)

    def loss(self):
        """Of the next batch."""
        data = torch.randn(8, self.inputs, generator=self.generator, dtype=F64).to(self.dtype)
        target = torch.randn(8, generator=self.generator, dtype=F64).to(self.dtype)
        return (self.network(data).mean(dim=1) - target).square().mean()

    def backward(self, optimizer):
        """Fresh gradients."""
        optimizer.zero_grad()
        self.loss().backward()

    def train(self, optimizer, steps):
        """Some steps."""
        for _ in range(steps):
            self.backward(optimizer)
            optimizer.step()


class Twin:
    """Sums every gradient in float64, keeps whole state dicts, and solves Algorithm 1 with whole matrices."""

    def __init__(self, network, optimizer):
        self.network, self.optimizer = network, optimizer
        self.sums, self.steps = None, 0
        self.iterates, self.residuals = [], []

    def see(self):
        """What the optimizer is about to use."""
        whole = []
        for parameter in self.network.parameters():
            value = torch.zeros(parameter.shape, dtype=F64)
            if parameter.grad is not None:
                value += parameter.grad.double()
                for group in self.optimizer.param_groups:
                    if any(parameter is other for other in group["params"]):
                        value += group["weight_decay"] * parameter.detach().double()
            whole.append(value.reshape(-1))
        flat = torch.cat(whole)
        self.sums = flat if self.sums is None else self.sums + flat
        self.steps += 1

    def store(self):
        """End an epoch."""
        self.iterates.append(copy.deepcopy(self.network.state_dict()))
        self.residuals.append((self.sums / self.steps).numpy())
        self.sums, self.steps = None, 0

    def coefficients(self, n, reg):
        """Those over the newest n."""
        residuals_nd = np.stack(self.residuals[-n:])
        return twins.coefficients(residuals_nd @ residuals_nd.T, reg)

    def extrapolated(self, c):
        """The state dict of sum_i c_i x_i."""
        newest, window = self.iterates[-1], self.iterates[-len(c) :]
        combined = {}
        for name, tensor in newest.items():
            if not tensor.is_floating_point() or all(torch.equal(other[name], tensor) for other in window):
                combined[name] = tensor
                continue
            total = sum(weight * other[name].double() for weight, other in zip(c, window, strict=True))
            combined[name] = (total.clamp(min=0) if name.endswith("running_var") else total).to(tensor.dtype)
        return combined


def go(loop, rna, twin, epochs, steps=3):
    """Epochs of a run that both follow."""
    for _ in range(epochs):
        for _ in range(steps):
            loop.backward(rna)
            twin.see()
            rna.step()
        rna.store()
        twin.store()


def close(found, expected, tolerance):
    """Two state dicts hold the same."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(
            found[name], tensor, rtol=tolerance, atol=tolerance, msg=lambda text, n=name: f"{n}: {text}"
        )


def same(found, expected):
    """Two state dicts are bitwise equal."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].numpy().tobytes() == tensor.numpy().tobytes(), name
