"""RNA inside a training loop."""

import copy
import io

import numpy as np
import pytest
import torch
from torch import nn

from rna_watch.training import OnlineRna, Rna
from tests.training.runs import F64, Loop, Twin, close, go, same, sgd, tied


def started(dtype=F64, make=sgd, **options):
    """A network with everything awkward in it, its optimizer, loop and twin."""
    network = tied(dtype)
    rna = Rna(network, make(network), **options)
    return network, rna, Loop(network), Twin(network, rna.optimizer)


@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-9), (torch.float32, 1e-5)])
def test_it_does_what_its_twin_does(dtype, tolerance):
    """Coefficients and tensors are those of whole float64 matrices: tied weights, two groups, weight decay, batch norm."""
    network, rna, loop, twin = started(dtype, n=4, reg=1e-6, reset_after=0)
    other = copy.deepcopy(network)
    go(loop, rna, twin, 6)
    before = copy.deepcopy(network.state_dict())
    found = rna.accelerate(other)
    expected = twin.coefficients(4, 1e-6)
    np.testing.assert_allclose(found.c, expected, rtol=tolerance, atol=tolerance)
    assert (found.status, found.regularization) == ("", 1e-6)
    assert found.diagnostics.norm1 == pytest.approx(np.abs(expected).sum(), rel=tolerance)
    close(other.state_dict(), twin.extrapolated(found.c), 1e-14 if dtype == F64 else 1e-7)
    assert other.first.weight is other.second.weight
    same(network.state_dict(), before)


@pytest.mark.parametrize(
    "make",
    [
        lambda network: torch.optim.Adam(network.parameters(), lr=0.01, weight_decay=0.1),
        lambda network: torch.optim.RMSprop(network.parameters(), lr=0.01, momentum=0.5, weight_decay=0.1),
        lambda network: torch.optim.Adagrad(network.parameters(), lr=0.01, weight_decay=0.1),
    ],
)
def test_any_optimizer_will_do(make):
    """The optimizer's kind does not matter, only the gradients that it saw."""
    network, rna, loop, twin = started(make=make, n=3, reg=1e-4, reset_after=0)
    go(loop, rna, twin, 3)
    other = copy.deepcopy(network)
    found = rna.accelerate(other)
    np.testing.assert_allclose(found.c, twin.coefficients(3, 1e-4), rtol=1e-9)
    close(other.state_dict(), twin.extrapolated(found.c), 1e-14)


def test_the_window_grows_and_begins_anew_after_the_second_epoch():
    """As in the authors' code: epochs 1 and 2 are forgotten once, then 1, 2, ... n epochs are combined."""
    network, rna, loop, twin = started(n=3)
    other = copy.deepcopy(network)
    found = rna.accelerate(other)
    assert found.c == ()
    assert found.status == "No iterate is stored since the history began."
    lengths = []
    for _ in range(7):
        go(loop, rna, twin, 1)
        lengths.append(len(rna.accelerate(other).c))
        if lengths[-1] <= 1:
            same(other.state_dict(), network.state_dict())
    assert lengths == [1, 0, 1, 2, 3, 3, 3]
    np.testing.assert_allclose(rna.accelerate(other).c, twin.coefficients(3, 1e-8), rtol=1e-7)


@pytest.mark.parametrize("combine", [None, False, True])
def test_online_the_network_itself_is_extrapolated(combine):
    """`accelerate(network)` writes parameters in place, leaves statistics unless it is told otherwise, and keeps the history."""
    network, rna, loop, twin = started(n=5, reg=1e-3, reset_after=0)
    for epoch in range(1, 4):
        go(loop, rna, twin, 1)
        left = {name: tensor.clone() for name, tensor in network.named_buffers()}
        found = rna.accelerate(network, combine_statistics=combine)
        np.testing.assert_allclose(found.c, twin.coefficients(epoch, 1e-3), rtol=1e-9)
        expected = twin.extrapolated(found.c)
        if epoch == 3:
            assert not torch.equal(left["norm.running_mean"], expected["norm.running_mean"])
        close(network.state_dict(), expected | ({} if combine else left), 1e-14)


def test_offline_statistics_may_be_the_trained_network_s():
    """By default they are combined; the trained network is untouched either way."""
    network, rna, loop, twin = started(n=5, reg=1e-3, reset_after=0)
    go(loop, rna, twin, 3)
    before, other = copy.deepcopy(network.state_dict()), copy.deepcopy(network)
    found = rna.accelerate(other)
    close(other.state_dict(), twin.extrapolated(found.c), 1e-14)
    rna.accelerate(other, combine_statistics=False)
    close(other.state_dict(), twin.extrapolated(found.c) | dict(network.named_buffers()), 1e-14)
    close(network.state_dict(), before, 0.0)


@pytest.mark.parametrize("momentum", [False, True])
def test_a_restart_begins_anew_at_the_extrapolated_point(momentum):
    """`restart()` moves the network, forgets history and running mean, and stops the momentum unless it is to stay."""
    network, rna, loop, twin = started(n=5, reg=1e-3, reset_after=0)
    go(loop, rna, twin, 3)
    loop.train(rna, 1)
    found = rna.restart(momentum=momentum)
    close(network.state_dict(), twin.extrapolated(found.c), 1e-14)
    assert (len(rna.history), rna.mean.count) == (0, 0)
    moving = [bool(state["momentum_buffer"].any()) for state in rna.state.values()]
    assert any(moving) is momentum
    loop.train(rna, 2)
    rna.store()
    assert rna.accelerate(copy.deepcopy(network)).c == (1.0,)


def test_lbfgs_forgets_its_curvature_at_a_restart():
    """Its pairs belong to the old trajectory."""
    network = nn.Linear(6, 2).to(F64)
    rna = Rna(network, torch.optim.LBFGS(network.parameters(), max_iter=3))
    loop = Loop(network)

    def closure():
        loop.backward(rna)
        return loop.loss()

    rna.step(closure)
    rna.store()
    assert rna.optimizer.state
    rna.restart()
    assert not rna.optimizer.state
    rna.step(closure)


def test_a_run_resumes_bitwise_in_the_middle_of_an_epoch():
    """Saved with torch.save, loaded with weights_only: iterates, means, momentum and coefficients are the same bits."""
    network, rna, loop, twin = started(torch.float32, n=3, reset_after=1)
    go(loop, rna, twin, 3)
    loop.train(rna, 2)
    file = io.BytesIO()
    torch.save({"network": network.state_dict(), "optimizer": rna.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    second = tied(torch.float32)
    with torch.no_grad():
        second.first.weight.add_(1.0)
    resumed = Rna(second, sgd(second), n=3, reset_after=1)
    second.load_state_dict(saved["network"])
    resumed.load_state_dict(saved["optimizer"])
    again = Loop(second)
    again.generator.set_state(loop.generator.get_state())
    extrapolated = []
    for one, optimizer, model in ((loop, rna, network), (again, resumed, second)):
        for _ in range(2):
            one.train(optimizer, 2)
            optimizer.store()
        other = copy.deepcopy(model)
        extrapolated.append((optimizer.accelerate(other), other.state_dict(), model.state_dict()))
    first, then = extrapolated
    assert first[0] == then[0]
    same(then[1], first[1])
    same(then[2], first[2])
    # what did not change is stored once, also after loading
    assert resumed.history.iterates[0]["mask"] is resumed.history.iterates[1]["mask"]


def test_a_shorter_history_takes_the_newest_of_a_longer_state():
    """The window may be shortened when a run resumes."""
    network, rna, loop, twin = started(n=4, reg=1e-4, reset_after=0)
    go(loop, rna, twin, 4)
    shorter = Rna(network, sgd(network), n=2, reg=1e-4)
    shorter.load_state_dict(rna.state_dict())
    np.testing.assert_allclose(shorter.accelerate(tied()).c, twin.coefficients(2, 1e-4), rtol=1e-9)


def test_states_that_do_not_belong_are_refused():
    """An ordinary optimizer's state, and another network's."""
    _, rna, loop, twin = started(reset_after=0)
    with pytest.raises(ValueError, match="no entry 'rna'"):
        rna.load_state_dict(rna.optimizer.state_dict())
    go(loop, rna, twin, 1)
    small = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="another network's"):
        Rna(small, torch.optim.SGD(small.parameters())).load_state_dict(rna.state_dict())


@pytest.mark.parametrize("stored", [True, False])
def test_states_of_other_shapes_are_refused_when_loaded(stored):
    """The same names, but other widths: the tensor is named, stored or within an epoch, and nothing was taken over."""
    made = []
    for width in (2, 3):
        network = nn.Linear(6, width).to(F64)
        made.append(Rna(network, torch.optim.SGD(network.parameters(), lr=0.1), reset_after=0))
    rna, other = made
    rna.network(torch.ones(1, 6, dtype=F64)).sum().backward()
    rna.step()
    if stored:
        rna.store()
    with pytest.raises(ValueError, match=r"its weight is \(2, 6\), this one's \(3, 6\)"):
        other.load_state_dict(rna.state_dict())
    assert (len(other.history), other.mean.count) == (0, 0)


@pytest.mark.parametrize("make", [Rna, OnlineRna])
def test_a_parameter_that_was_replaced_is_named(make):
    """Put in the optimizer as well, its gradients would not be counted: to store says so, and what is frozen may come."""
    network = nn.Linear(6, 2).to(F64)
    rna = make(network, torch.optim.SGD(network.parameters(), lr=0.1))
    loop = Loop(network)
    network.idle = nn.Parameter(torch.zeros(1, dtype=F64), requires_grad=False)
    loop.train(rna, 1)
    if make is Rna:
        rna.store()
    network.weight = nn.Parameter(network.weight.detach().clone())
    rna.add_param_group({"params": [network.weight]})

    def go_on():
        loop.train(rna, 1)
        rna.store()

    with pytest.raises(RuntimeError, match=f"weight was not there when this {make.__name__} was made"):
        go_on()


def test_schedulers_hold_either_of_the_two():
    """A scheduler of `Rna` sets the optimizer's learning rates, warns of nothing, and steps still count."""
    _, rna, loop, _ = started()
    for held in (rna, rna.optimizer):
        scheduler = torch.optim.lr_scheduler.StepLR(held, 1, gamma=0.5)
        rates = [group["lr"] for group in rna.optimizer.param_groups]
        loop.train(rna, 1)
        scheduler.step()
        assert [group["lr"] for group in rna.param_groups] == [0.5 * rate for rate in rates]
    assert rna.mean.count == 2
    assert rna.param_groups is rna.optimizer.param_groups
    assert isinstance(rna, torch.optim.Optimizer)
    one = torch.optim.lr_scheduler.OneCycleLR(rna, max_lr=0.1, total_steps=4)
    loop.train(rna, 1)
    one.step()


def test_groups_and_hooks_pass_through():
    """Parameters that are added later count, zero_grad clears, hooks of `Rna` are the optimizer's, its name is shown."""
    network = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 2)).to(F64)
    rna = Rna(network, torch.optim.SGD(network[1].parameters(), lr=0.1), reset_after=0)
    rna.add_param_group({"params": network[0].parameters()})
    calls = []
    rna.register_step_post_hook(lambda *_: calls.append(1))
    Loop(network).train(rna, 2)
    assert calls == [1, 1]
    assert all(p.grad is not None for p in network.parameters())
    rna.zero_grad()
    assert all(p.grad is None for p in network.parameters())
    rna.store()
    assert set(rna.history.residuals[0]) == {"0.weight", "0.bias", "1.weight", "1.bias"}
    assert repr(rna).startswith("Rna(n=5, reg=1e-08, SGD")


def test_wrapped_networks_are_those_inside():
    """Trained in a wrapper, extrapolated into the bare network, or the other way round."""
    network, rna, loop, twin = started(reset_after=0, reg=1e-3)
    wrapped = nn.DataParallel(network)
    rna = Rna(wrapped, rna.optimizer, reset_after=0, reg=1e-3)
    go(loop, rna, twin, 3)
    other = copy.deepcopy(network)
    found = rna.accelerate(other)
    close(other.state_dict(), twin.extrapolated(found.c), 1e-14)
    averaged = torch.optim.swa_utils.AveragedModel(network)
    rna.accelerate(averaged)
    same(averaged.module.state_dict(), other.state_dict())


def test_the_other_network_may_have_another_layout_and_dtype():
    """Weights that lie otherwise (channels_last), or in float32, are written all the same."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()).to(F64).to(memory_format=torch.channels_last)
    rna = Rna(network, torch.optim.SGD(network.parameters(), lr=0.1), reg=1e-2, reset_after=0)
    twin = Twin(network, rna.optimizer)
    generator = torch.Generator().manual_seed(1)
    for epoch in range(3):
        rna.zero_grad()
        network(torch.randn(2, 3, 5, 5, generator=generator, dtype=F64)).square().mean().backward()
        twin.see()
        rna.step()
        rna.store()
        twin.store()
        if epoch == 1:
            network.to(memory_format=torch.contiguous_format)
    for dtype, tolerance in ((F64, 1e-14), (torch.float32, 1e-6)):
        other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()).to(dtype)
        found = rna.accelerate(other)
        np.testing.assert_allclose(found.c, twin.coefficients(3, 1e-2), rtol=1e-9)
        expected = {name: tensor.to(dtype) for name, tensor in twin.extrapolated(found.c).items()}
        close(other.state_dict(), expected, tolerance)


def test_networks_of_another_form_are_refused():
    """Missing names, other shapes, other ties."""
    network, rna, loop, twin = started(reset_after=0)
    go(loop, rna, twin, 1)
    untied = copy.deepcopy(network)
    untied.second.weight = nn.Parameter(untied.second.weight.detach().clone())
    rna.accelerate(untied)  # each of its two takes the one
    assert torch.equal(untied.second.weight, network.first.weight)
    wide = copy.deepcopy(network)
    wide.idle = nn.Parameter(torch.zeros(4))
    with pytest.raises(ValueError, match="idle is"):
        rna.accelerate(wide)
    with pytest.raises(ValueError, match="only one of them has"):
        rna.accelerate(nn.Linear(2, 2))
    del wide
    rna = Rna(untied, torch.optim.SGD(untied.parameters()))
    with pytest.raises(ValueError, match="shares its values"):
        rna.accelerate(network)


def test_any_weights_may_be_combined():
    """`combine` writes rivals of RNA: the plain average of what is stored; it wants a weight for each."""
    network, rna, loop, twin = started(n=3, reset_after=0)
    with pytest.raises(ValueError, match="0 iterates are stored"):
        rna.combine(network, ())
    go(loop, rna, twin, 3)
    other = copy.deepcopy(network)
    rna.combine(other, [1 / 3] * 3)
    close(other.state_dict(), twin.extrapolated([1 / 3] * 3), 1e-14)
    with pytest.raises(ValueError, match="3 iterates are stored"):
        rna.combine(other, [0.5, 0.5])


def test_elements_that_do_not_move_stay_bitwise_equal():
    """Words that never occur keep their bits, a negative zero's too, however large the coefficients."""
    torch.manual_seed(0)
    network = nn.Embedding(4, 3)
    with torch.no_grad():
        network.weight[0] = -0.0
    rna = Rna(network, torch.optim.SGD(network.parameters(), lr=0.1), reset_after=0)
    for word in (1, 2, 1):
        rna.zero_grad()
        network(torch.tensor([word])).square().sum().backward()
        rna.step()
        rna.store()
    other = copy.deepcopy(network)
    rna.combine(other, [1e5, -3e5, 2e5 + 1])
    still = [0, 3]
    assert other.weight[still].detach().numpy().tobytes() == network.weight[still].detach().numpy().tobytes()
    assert not torch.equal(other.weight[1], network.weight[1])


def test_running_variances_end_at_zero():
    """Negative coefficients drive a variance no lower; what they do to means is left."""
    network, rna, loop, twin = started(n=2, reset_after=0)
    go(loop, rna, twin, 2)
    rna.combine(network, [-49.0, 50.0])
    expected = twin.extrapolated([-49.0, 50.0])
    assert (expected["norm.running_var"] == 0).any()
    close(network.state_dict(), expected, 1e-12)


@pytest.mark.parametrize(("spoil", "words"), [(torch.nan, "infinite or NaN"), (0.0, "equal")])
def test_where_nothing_can_be_solved_the_newest_iterate_is_taken(spoil, words):
    """NaN gradients, or none but zeros: the status says why, the network is the last iterate."""
    network = nn.Linear(6, 2).to(F64)
    rna = Rna(network, torch.optim.SGD(network.parameters(), lr=0.0), reset_after=0)
    loop = Loop(network)
    for _ in range(2):
        loop.backward(rna)
        network.weight.grad.fill_(spoil)
        network.bias.grad.zero_()
        rna.step()
        rna.store()
    found = rna.accelerate(other := copy.deepcopy(network))
    assert found.c == (0.0, 1.0)
    assert found.diagnostics is None
    assert words in found.status
    assert found.status.endswith("The newest iterate is taken.")
    same(other.state_dict(), network.state_dict())


def test_misuse_raises():
    """A second store, foreign parameters, bad numbers, copies."""
    network, rna, _, _ = started()
    with pytest.raises(RuntimeError, match="needs a step"):
        rna.store()
    with pytest.raises(ValueError, match="trains no parameter"):
        Rna(nn.Linear(2, 2), rna.optimizer)
    for options in ({"n": 0}, {"reg": -1.0}, {"reg": float("nan")}, {"reset_after": -1}):
        with pytest.raises(ValueError, match="at least"):
            Rna(network, rna.optimizer, **options)
    for n in (2.5, 5.0, True, "5", None):
        with pytest.raises(TypeError, match="n must be a whole number"):
            Rna(network, rna.optimizer, n=n)
    assert Rna(network, rna.optimizer, n=np.int64(3)).history.n == 3
    with pytest.raises(TypeError, match="state_dict"):
        copy.deepcopy(rna)


def test_no_more_than_n_copies_are_kept():
    """As many iterates as n, of what changes, as many gradients and the growing one; a frozen tensor is kept once."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 50), nn.Linear(50, 6)).to(F64)
    network[0].requires_grad_(False)
    rna = Rna(network, torch.optim.SGD(network[1].parameters(), lr=0.1), n=3, reset_after=0)
    loop = Loop(network)
    for _ in range(6):
        loop.train(rna, 1)
        rna.store()
    loop.train(rna, 1)
    history = rna.history
    held = {
        t.data_ptr(): t.numel() for v in history.iterates + history.residuals + [rna.mean._sums] for t in v.values()
    }
    frozen, moving = (sum(p.numel() for p in part.parameters()) for part in network)
    assert sum(held.values()) == frozen + 3 * moving + 4 * moving
