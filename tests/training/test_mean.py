"""Which gradients count, and how."""

import gc

import pytest
import torch
from torch import nn

from rna_watch.training import GradientMean, Rna
from tests.training.runs import F64, Loop, tied


def plain(dtype=F64):
    """Two layers."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)).to(dtype)


def gradients(network):
    """Copies of those that are there."""
    return {name: p.grad.detach().clone() for name, p in network.named_parameters()}


def check(mean, expected, tolerance=1e-14):
    """The mean is that of these gradients."""
    found = mean.take()
    assert found.keys() == expected[0].keys()
    for name, tensor in found.items():
        true = sum(each[name].double() for each in expected) / len(expected)
        torch.testing.assert_close(tensor.double(), true, rtol=tolerance, atol=tolerance)


def test_clipped_gradients_count_as_they_are_used():
    """What the optimizer sees after clipping."""
    network = plain()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    mean, loop, seen = GradientMean(network, optimizer), Loop(network), []
    for _ in range(3):
        loop.backward(optimizer)
        nn.utils.clip_grad_norm_(network.parameters(), 0.01)
        seen.append(gradients(network))
        optimizer.step()
    check(mean, seen)


@pytest.mark.parametrize("maximize", [False, True])
def test_weight_decay_counts_where_the_optimizer_adds_it(maximize):
    """SGD: grad + wd theta, with theta before the step; against it, where it maximizes."""
    network = plain()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, weight_decay=0.3, maximize=maximize)
    mean, loop, seen = GradientMean(network, optimizer), Loop(network), []
    for _ in range(2):
        loop.backward(optimizer)
        sign = -1 if maximize else 1
        seen.append({name: p.grad + sign * 0.3 * p.detach() for name, p in network.named_parameters()})
        optimizer.step()
    check(mean, seen)


class Foreign(torch.optim.SGD):
    """Known by its base."""


class Unknown(torch.optim.Optimizer):
    """An optimizer that is not torch's."""

    def __init__(self, parameters, weight_decay):
        super().__init__(parameters, {"weight_decay": weight_decay})

    def step(self, closure=None):
        """Nothing."""


@pytest.mark.parametrize(
    ("make", "coupled", "counts"),
    [
        (lambda p: torch.optim.AdamW(p, weight_decay=0.3), None, False),
        (lambda p: torch.optim.Adam(p, weight_decay=0.3), None, True),
        (lambda p: torch.optim.RAdam(p, weight_decay=0.3, decoupled_weight_decay=True), None, False),
        (lambda p: torch.optim.Adafactor(p, weight_decay=0.3), None, False),
        (lambda p: Foreign(p, weight_decay=0.3), None, True),
        (lambda p: Unknown(p, 0.3), True, True),
        (lambda p: Unknown(p, 0.3), False, False),
        (lambda p: Unknown(p, 0.0), None, False),
    ],
)
def test_weight_decay_apart_from_the_gradient_does_not_count(make, coupled, counts):
    """AdamW's and the like; an optimizer that is not torch's says which."""
    network = plain()
    optimizer = make(network.parameters())
    mean = GradientMean(network, optimizer, coupled)
    Loop(network).backward(optimizer)
    seen = {name: p.grad + 0.3 * counts * p.detach() for name, p in network.named_parameters()}
    optimizer.step()
    check(mean, [seen])


def test_weight_decay_of_an_unknown_optimizer_must_be_explained():
    """Nothing is guessed."""
    network = plain()
    with pytest.raises(ValueError, match="Unknown adds weight decay to the gradient is not known"):
        GradientMean(network, Unknown(network.parameters(), 0.3))


@pytest.mark.parametrize("how", ["positional", "keyword"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_closure_s_first_evaluation_counts(how, wrapped):
    """L-BFGS evaluates several times a step; the gradient at the step's beginning is its gradient."""
    network = plain()
    optimizer = torch.optim.LBFGS(network.parameters(), lr=0.5, max_iter=4)
    held = Rna(network, optimizer) if wrapped else optimizer
    mean = held.mean if wrapped else GradientMean(network, optimizer)
    loop, evaluations = Loop(network), []

    def closure():
        optimizer.zero_grad()
        loss = loop.loss()
        loss.backward()
        evaluations[-1].append(gradients(network))
        return loss

    for _ in range(2):
        evaluations.append([])
        assert held.step(closure) is not None if how == "positional" else held.step(closure=closure) is not None
    assert min(len(each) for each in evaluations) > 1
    assert mean.count == 2
    check(mean, [each[0] for each in evaluations])


def test_a_closure_s_gradient_counts_not_the_one_before_it():
    """Gradients from before the closure runs are never used with SGD."""
    network = plain()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    mean, loop, seen = GradientMean(network, optimizer), Loop(network), []
    loop.backward(optimizer)

    def closure():
        loop.backward(optimizer)
        seen.append(gradients(network))

    optimizer.step(closure)
    check(mean, seen)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("through", [False, True])
def test_scaled_gradients_count_unscaled_and_skipped_steps_do_not(fused, through):
    """GradScaler with the optimizer or with `Rna`, unscaling before the step or, fused, within it."""
    network = plain(torch.float32)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, fused=fused)
    rna = Rna(network, optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    loop, seen = Loop(network), []
    for number in range(4):
        optimizer.zero_grad()
        scale = scaler.get_scale()
        scaler.scale(loop.loss()).backward()
        before = [p.detach().clone() for p in network.parameters()]
        if number == 1:
            network[0].weight.grad[0, 0] = torch.inf
        else:
            seen.append({name: grad / scale for name, grad in gradients(network).items()})
        scaler.step(rna if through else optimizer)
        scaler.update()
        moved = any(not torch.equal(old, p) for old, p in zip(before, network.parameters(), strict=True))
        assert moved is (number != 1)
    assert rna.mean.count == 3
    check(rna.mean, seen, 1e-6)


def test_parameters_without_a_gradient_count_as_zero():
    """One that has a gradient in one step of two has half of it as its mean; one that never has is not there."""
    network = plain()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, weight_decay=0.2)
    mean, loop = GradientMean(network, optimizer), Loop(network)
    optimizer.step()  # no gradient at all: no step
    assert mean.count == 0
    loop.backward(optimizer)
    network[0].bias.grad = None
    once = network[2].bias.grad + 0.2 * network[2].bias.detach()
    optimizer.step()
    loop.backward(optimizer)
    network[0].bias.grad = network[2].bias.grad = None
    optimizer.step()
    found = mean.take()
    assert "0.bias" not in found
    torch.testing.assert_close(found["2.bias"], once / 2, rtol=1e-14, atol=0)


def test_a_tied_weight_counts_once():
    """Under its first name; a parameter that is not the network's is left out."""
    network, stranger = tied(), nn.Parameter(torch.ones(2, dtype=F64))
    optimizer = torch.optim.SGD([*network.parameters(), stranger], lr=0.1)
    mean = GradientMean(network, optimizer)
    stranger.grad = torch.ones(2, dtype=F64)
    Loop(network).backward(optimizer)
    optimizer.step()
    assert set(mean.take()) == {"first.weight", "second.bias", "norm.weight", "norm.bias"}


def test_sums_are_float32_or_wider():
    """bfloat16 gradients lose nothing more: 256 + 1 is 257."""
    network = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    mean = GradientMean(network, optimizer)
    for value in (256.0, 1.0):
        network.weight.grad = torch.full((1, 1), value, dtype=torch.bfloat16)
        optimizer.step()
    assert mean.take()["weight"] == torch.tensor([[128.5]])


def test_sparse_gradients_count():
    """Embeddings with sparse=True."""
    torch.manual_seed(0)
    network = nn.Embedding(5, 3, sparse=True)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    mean = GradientMean(network, optimizer)
    for word in (1, 3):
        optimizer.zero_grad()
        network(torch.tensor([word, word])).sum().backward()
        optimizer.step()
    expected = torch.zeros(5, 3)
    expected[[1, 3]] = 1.0
    assert torch.equal(mean.take()["weight"], expected)


def test_complex_and_sharded_parameters_are_refused():
    """What cannot be combined is said at once."""
    network = nn.ParameterList([nn.Parameter(torch.ones(2, dtype=torch.complex64))])
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    mean = GradientMean(network, optimizer)
    network[0].grad = torch.ones(2, dtype=torch.complex64)
    with pytest.raises(ValueError, match="only real floating-point"):
        optimizer.step()
    network[0].full_tensor = None
    with pytest.raises(ValueError, match="sharded over processes"):
        GradientMean(network, optimizer)
    assert mean.count == 0


def test_the_hook_goes_with_the_mean():
    """A mean that is no longer held costs nothing."""
    network = plain()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    mean = GradientMean(network, optimizer)
    assert len(optimizer._optimizer_step_pre_hooks) == 1
    del mean
    gc.collect()
    assert not optimizer._optimizer_step_pre_hooks


def test_an_error_in_a_closure_is_the_closure_s():
    """It comes through, nothing counts, and the next step counts once."""
    network = plain()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    mean, loop = GradientMean(network, optimizer), Loop(network)

    def closure():
        raise KeyError("data")

    with pytest.raises(KeyError, match="data"):
        optimizer.step(closure)
    assert mean.count == 0
    loop.train(optimizer, 1)
    assert mean.count == 1


def test_another_network_s_mean_is_refused():
    """Names that are not there."""
    network = plain()
    mean = GradientMean(network, torch.optim.SGD(network.parameters()))
    with pytest.raises(ValueError, match="another network's"):
        mean.load_state_dict({"sums": {"nowhere": torch.zeros(1)}, "count": 1})
