"""The paper's Listing 2: train, and look at the extrapolated network after every epoch. Usage: python listing2.py."""

import copy

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy, pad

from rna_watch.training import Rna

torch.manual_seed(0)
digits = load_digits()
order = torch.randperm(len(digits.target))
x = torch.tensor(digits.images, dtype=torch.float32)[order, None] / 16
y = torch.tensor(digits.target)[order]
(x, x_test), (y, y_test) = x.split([1000, 797]), y.split([1000, 797])

network = nn.Sequential(
    *(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
    *(nn.Conv2d(16, 32, 3, padding=1, stride=2, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
    *(nn.Conv2d(32, 64, 3, padding=1, stride=2, bias=False), nn.BatchNorm2d(64), nn.ReLU()),
    *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
)


def augmented(images):
    """Moved by up to one pixel, with noise."""
    top, left = torch.randint(0, 3, (2,)).tolist()
    return pad(images, (1, 1, 1, 1))[..., top : top + 8, left : left + 8] + 0.2 * torch.randn_like(images)


@torch.no_grad()
def error(model):
    """The share of test images that a network gets wrong."""
    return (model.eval()(x_test).argmax(dim=1) != y_test).double().mean().item()


extrapolated = copy.deepcopy(network)
optimizer = Rna(network, torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9), n=5, reg=1e-8)
for epoch in range(1, 11):
    network.train()
    for batch in torch.randperm(len(x)).split(32):
        optimizer.zero_grad()
        cross_entropy(network(augmented(x[batch])), y[batch]).backward()
        optimizer.step()
    optimizer.store()
    optimizer.accelerate(extrapolated)
    print(f"epoch {epoch:2}: test error {error(network):5.1%}, extrapolated {error(extrapolated):5.1%}")
