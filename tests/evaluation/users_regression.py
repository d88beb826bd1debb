"""A user's file for a small regression with batch norm: noisy targets, a training loss, and a loss on other examples."""

import torch
from torch import nn

X = torch.randn(512, 6, generator=torch.Generator().manual_seed(3))
Y = (X[:, 0] * X[:, 1] + X[:, 2]).unsqueeze(1)
NOISE = torch.randn(512, 1, generator=torch.Generator().manual_seed(4))
TRAINED_ON = 256


def network():
    """A hidden layer with batch norm."""
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))


MODEL = network()


def batch_loss(model, tensors, generator):
    """The loss of 16 random examples with noisy targets."""
    picked = torch.randint(0, TRAINED_ON, (16,), generator=generator)
    outputs = torch.func.functional_call(model, tensors, (X[picked],))
    return (outputs - Y[picked] - NOISE[picked]).square().mean()


def training_loss(state_dict, device, generator):
    """In training mode, so that batch norm measures its batches."""
    return batch_loss(MODEL.train(), state_dict, generator)


def evaluate(state_dict, device):
    """The loss of each example that was not trained on, without noise."""
    MODEL.eval()
    with torch.no_grad():
        outputs = torch.func.functional_call(MODEL, state_dict, (X[TRAINED_ON:],))
    return {"loss": (outputs - Y[TRAINED_ON:]).square().squeeze(1)}
