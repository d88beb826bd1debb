"""Weights of real windows, fitted by a user's training loss: what the user's function is given, and what comes of it."""

import dataclasses
import math
import sys

import pytest
import torch

from rna_watch.errors import EvaluationFailed, InputChanged
from rna_watch.evaluation.evaluator import Fit
from rna_watch.evaluation.materialize import state_dict
from rna_watch.evaluation.worker import EvaluationWorker
from rna_watch.formats.probe import probe
from rna_watch.window.combine import Combination

from .models import NETWORK, network_window, python, request, spec

pytestmark = pytest.mark.usefixtures("at_home")

KEYS = ["encoder.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var", "decoder.weight"]
SEEN = """
import torch
SEEN = []
def evaluate(state_dict, device):
    return {'a': 1}
def training_loss(state_dict, device, generator):
    SEEN.append({name: tensor.detach().clone() for name, tensor in state_dict.items()})
    SEEN[-1]['tied'] = state_dict['encoder.weight'] is state_dict['decoder.weight']
    SEEN[-1]['leaves'] = [name for name, tensor in state_dict.items() if tensor.requires_grad]
    state_dict['bn.num_batches_tracked'].add_(1)
    state_dict['bn.running_mean'].add_(1)
    return (state_dict['encoder.weight'] ** 2).sum() + (state_dict['decoder.weight'] ** 2).sum()
"""


def network(folder):
    """A worker with the user's network."""
    return EvaluationWorker(spec(folder, function=f"{NETWORK}:evaluate"))


def seen(worker, window, **options):
    """What the user's function saw at each step, and the fit."""
    found = worker.fit(request(window, **options))
    return sys.modules["rna_watch_evaluator_user"].SEEN, found


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_a_network_is_trained(tmp_path, dtype):
    """A network with batch norm and tied weights, stored in any dtype, gets weights that lower its training loss."""
    window = network_window(tmp_path, 4, dtype)
    if dtype is not torch.float64:
        found = network(tmp_path).fit(request(window))
        assert found.losses[-1] < 0.9 * found.losses[0]
    else:
        text = NETWORK.read_text().replace("Network().to(device)", "Network().to(device).double()")
        found = python(tmp_path, text.replace("+ 1.0).to(device)", "+ 1.0).double()")).fit(request(window))
    assert isinstance(found, Fit)
    assert abs(math.fsum(found.weights) - 1.0) <= 1e-12
    assert len(found.weights) == 4


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_what_the_user_s_function_is_given(tmp_path, dtype):
    """Plain names, tied tensors as one, in float32 or wider; only parameters ask for gradients."""
    window = network_window(tmp_path, 3, dtype, weights=(0.2, 0.3, 0.5))
    steps, _ = seen(python(tmp_path, SEEN), window, steps=1)
    first = steps[0]
    stored = state_dict(window, torch.device("cpu"))
    assert set(first) == {*KEYS, "bn.num_batches_tracked", "tied", "leaves"}
    assert first["tied"]
    assert set(first["leaves"]) == {"encoder.weight", "decoder.weight", "bn.weight", "bn.bias"}
    for key in KEYS:
        assert first[key].dtype is (torch.float64 if dtype is torch.float64 else torch.float32)
        torch.testing.assert_close(first[key].to(dtype), stored[key])


def test_statistics_move_with_the_weights(tmp_path):
    """Each step has the statistics of its own weights, and the newest counters, whatever the user's code did to them."""
    window = network_window(tmp_path, 3, weights=(0.2, 0.3, 0.5))
    steps, _ = seen(python(tmp_path, SEEN), window)
    stored = [state_dict(dataclasses.replace(window, weights=w), torch.device("cpu")) for w in torch.eye(3).tolist()]
    system = torch.stack([each["encoder.weight"].flatten() for each in stored]).double()
    for step in (each for each in steps if each["leaves"]):  # others ask for the part of statistics alone
        assert step["bn.num_batches_tracked"] == 12
        # the weights of this step, told from its parameters
        moved = (step["encoder.weight"].flatten().double() - system[-1], (system[:-1] - system[-1]).T)
        by = torch.linalg.lstsq(moved[1], moved[0]).solution
        by = torch.cat([by, 1 - by.sum(0, keepdim=True)])
        for name in ("bn.running_mean", "bn.running_var"):
            expected = sum(w * each[name].double() for w, each in zip(by, stored, strict=True))
            expected = expected.clamp(min=0) if name == "bn.running_var" else expected
            torch.testing.assert_close(step[name].double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("clamp", [True, False])
def test_variances_are_clamped_as_the_combination_says(tmp_path, clamp):
    """A variance below zero is what the combination makes of it."""
    window = dataclasses.replace(network_window(tmp_path, 2, weights=(-9.0, 10.0)), clamp=clamp)
    steps, _ = seen(python(tmp_path, SEEN), window, steps=1)
    assert bool((steps[0]["bn.running_var"] < 0).any()) is not clamp
    expected = state_dict(window, torch.device("cpu"))["bn.running_var"]
    torch.testing.assert_close(steps[0]["bn.running_var"], expected, rtol=1e-4, atol=1e-5)


def test_no_step_takes_a_variance_below_zero(tmp_path):
    """The loss pulls the weights far outside; every point that is asked at has variances of zero or more, without a clamp."""
    window = dataclasses.replace(network_window(tmp_path, 3, weights=(0.2, 0.3, 0.5)), clamp=False)
    text = SEEN.replace("return (state_dict['encoder.weight']", "return ((state_dict['encoder.weight'] - 100.0)")
    points, found = seen(python(tmp_path, text), window)
    assert min(float(point["bn.running_var"].min()) for point in points) >= -1e-5
    assert found.notes == ()
    assert found.losses[-1] < found.losses[0]
    reached = state_dict(dataclasses.replace(window, weights=found.weights), torch.device("cpu"))["bn.running_var"]
    assert -1e-5 <= float(reached.min()) < 0.1 * float(reached.mean())


def test_the_seed_decides(tmp_path):
    """The same seed gives the same bits, dropout included; another seed others; the process's own numbers go on."""
    text = NETWORK.read_text().replace("(x,)) - x)", "(torch.nn.functional.dropout(x),)) - x)")
    worker, window = python(tmp_path, text), network_window(tmp_path)
    torch.manual_seed(0)
    first = worker.fit(request(window))
    drawn = torch.rand(1)
    again = worker.fit(request(window))
    torch.manual_seed(0)
    assert torch.rand(1) == drawn
    assert (again.weights, again.losses) == (first.weights, first.losses)
    assert worker.fit(request(window, seed=7)).losses != first.losses


def test_no_steps_leave_the_weights_as_they_are(tmp_path):
    """The starting weights are returned, bit for bit, if there is nothing to do, and the user's code is not called."""
    window = network_window(tmp_path, 3, weights=(0.1, 0.2, 0.7))
    found = python(tmp_path, SEEN).fit(request(window, steps=0))
    assert found.weights == (0.1, 0.2, 0.7)
    assert found.losses == ()


def test_a_window_that_is_too_large_is_refused_before_it_is_read(tmp_path):
    """What it takes, what is allowed, and what would help are said, and nothing is read."""
    window = network_window(tmp_path)
    size = (16 + 4 * 4) * 4 * (3 + 2)
    worker = python(tmp_path, SEEN)
    assert worker.fit(request(window, steps=0, memory_limit_bytes=size)).losses == ()
    (tmp_path / "network_0.pt").unlink()
    with pytest.raises(EvaluationFailed, match=r"of 3 checkpoints takes .* MiB .*smaller window or allow more memory"):
        worker.fit(request(window, memory_limit_bytes=size - 1))
    with pytest.raises(InputChanged):
        worker.fit(request(window, memory_limit_bytes=size))


def test_a_copy_of_the_tensors_is_no_way_to_a_gradient(tmp_path):
    """The natural mistake, `load_state_dict`, is answered with what to write instead."""
    text = (
        "import torch\n"
        "def evaluate(state_dict, device):\n    return {'a': 1}\n"
        "def training_loss(state_dict, device, generator):\n"
        "    layer = torch.nn.Linear(4, 4, bias=False)\n"
        "    layer.load_state_dict({'weight': state_dict['encoder.weight']})\n"
        "    return layer(torch.ones(4)).sum()\n"
    )
    with pytest.raises(EvaluationFailed, match=r"functional_call\(model, state_dict, inputs\), as load_state_dict"):
        python(tmp_path, text).fit(request(network_window(tmp_path)))


def test_equal_checkpoints_have_no_weights_to_train(tmp_path):
    """One checkpoint, or the same one twice, is no window."""
    torch.save({"w": torch.ones(3)}, tmp_path / "a.pt")
    layout = probe(str(tmp_path / "a.pt"))
    worker = python(tmp_path, SEEN)
    for count in (1, 2):
        window = Combination(layouts=(layout,) * count, weights=(0.0,) * (count - 1) + (1.0,))
        with pytest.raises(EvaluationFailed, match="the checkpoints do not differ"):
            worker.fit(request(window))
