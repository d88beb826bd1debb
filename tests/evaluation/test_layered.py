"""Weights for every tensor: descent inside the span of each group, and fits of real windows."""

import dataclasses
import math
import re
import sys

import pytest
import torch

from rna_watch.errors import EvaluationFailed
from rna_watch.evaluation.layered import fit
from rna_watch.evaluation.materialize import state_dict
from rna_watch.formats.probe import probe
from rna_watch.window.combine import Combination

from .models import NETWORK, network_window, python, request

pytestmark = pytest.mark.usefixtures("at_home")

LAYERED = {"method": "layered"}
BY_TENSOR = """
import torch
def evaluate(state_dict, device):
    return {'a': 1}
def training_loss(state_dict, device, generator):
    noise = 1.0 + 0.1 * torch.rand((), generator=generator)
    return noise * sum((tensor - number).square().mean() for number, tensor in enumerate(state_dict.values()))
"""


def window_of(folder, changed, count=3):
    """Checkpoints of three tensors, equal but for those that are named; the weights to start from are an average's."""
    layouts = []
    for number in range(count):
        tensors = {
            name: torch.full((4,), 5.0) + number * (name in changed) for name in ("a.weight", "b.weight", "c.weight")
        }
        path = folder / f"{'-'.join(changed)}_{number}.pt"
        torch.save(tensors, path)
        layouts.append(probe(str(path)))
    return Combination(layouts=tuple(layouts), weights=(1.0 / count,) * count)


def test_each_group_finds_its_own_best_point():
    """Groups whose best points lie in opposite directions both come nearer to theirs; one vector for all could not."""
    generator = torch.Generator().manual_seed(0)
    base = [torch.zeros(6, dtype=torch.float64) for _ in range(2)]
    residuals = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    wanted = torch.tensor([[0.8, -0.5], [-0.8, 0.5]], dtype=torch.float64)

    def loss(theta, c, _step):
        assert c.shape == (2, 2)
        return sum((each - by @ residuals).square().sum() for each, by in zip(theta, wanted, strict=True))

    found = fit(base, [residuals, residuals.clone()], loss)
    assert not found.stopped
    assert len(found.losses) == 60
    for own, best in zip(found.coefficients, wanted, strict=True):
        assert ((own - best) @ residuals).norm() < 0.35 * (best @ residuals).norm()
    assert found.losses[-1] < 0.1 * found.losses[0]


def test_a_step_is_a_twentieth_of_the_group_s_own_length():
    """Adam's first step is 0.05 of the residuals' root mean square along every direction; groups of other lengths differ."""
    residuals = torch.eye(2, 5, dtype=torch.float64)
    base = [torch.zeros(5, dtype=torch.float64)] * 2
    slope = torch.tensor([3.0, 2.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    found = fit(base, [residuals, 10 * residuals], lambda theta, _c, _step: sum(t @ slope for t in theta), steps=1)
    moved = torch.stack([found.coefficients[0] @ residuals, found.coefficients[1] @ (10 * residuals)])
    expected = torch.tensor([[-0.05, -0.05, 0, 0, 0], [-0.5, -0.5, 0, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(moved, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_the_result_is_the_mean_of_the_last_half(steps):
    """The coordinates that are returned average the later half of the path, its last point included."""
    residuals = torch.eye(2, 5, dtype=torch.float64)
    seen = []

    def loss(theta, c, _step):
        seen.append(c[0].clone())
        return (theta[0] - 1.0).square().sum()

    found = fit([torch.zeros(5, dtype=torch.float64)], [residuals], loss, steps=steps)
    seen.clear()
    fit(
        [torch.zeros(5, dtype=torch.float64)], [residuals], loss, steps=steps + 1
    )  # asks at the point after the last step
    torch.testing.assert_close(found.coefficients[0], torch.stack(seen[1:][steps // 2 :]).mean(0))


def test_checkpoints_that_differ_in_one_tensor_get_weights_that_differ_there_alone(tmp_path):
    """Every other tensor keeps the weights of the start, to the bit."""
    window = window_of(tmp_path, ("b.weight",))
    found = python(tmp_path, BY_TENSOR).fit(request(window, **LAYERED))
    assert found.notes == ()
    assert set(found.layer_weights) == {"a.weight", "b.weight", "c.weight"}
    assert found.layer_weights["a.weight"] == found.layer_weights["c.weight"] == window.weights
    assert found.layer_weights["b.weight"] != window.weights
    assert math.fsum(found.layer_weights["b.weight"]) == 1.0
    assert math.fsum(found.weights) == 1.0
    expected = [(2 * a + b) / 3 for a, b in zip(window.weights, found.layer_weights["b.weight"], strict=True)]
    assert found.weights == pytest.approx(expected)


def test_no_steps_leave_every_row_as_it_is(tmp_path):
    """The rows of a fit that does nothing are the start itself, and so is their mean."""
    window = dataclasses.replace(window_of(tmp_path, ("a.weight", "b.weight")), weights=(0.1, 0.2, 0.7))
    found = python(tmp_path, BY_TENSOR).fit(request(window, steps=0, **LAYERED))
    assert set(found.layer_weights.values()) == {(0.1, 0.2, 0.7)}
    assert found.weights == (0.1, 0.2, 0.7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_network_gets_rows_that_lower_its_loss(tmp_path, dtype):
    """Tied weights are one row; running statistics have their own module's; the descent goes down."""
    window = network_window(tmp_path, 4, dtype, weights=(0.25,) * 4)
    text = NETWORK.read_text()
    if dtype is torch.float64:
        text = text.replace("Network().to(device)", "Network().to(device).double()")
        text = text.replace("+ 1.0).to(device)", "+ 1.0).double()")
    found = python(tmp_path, text).fit(request(window, **LAYERED))
    rows = found.layer_weights
    assert set(rows) == {"encoder.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"}
    assert rows["bn.running_mean"] == rows["bn.running_var"] == rows["bn.weight"] != rows["bn.bias"]
    assert all(abs(math.fsum(row) - 1.0) <= 1e-12 for row in [*rows.values(), found.weights])
    assert sum(found.losses[-10:]) < 0.9 * sum(found.losses[:10])
    again = python(tmp_path, text).fit(request(window, **LAYERED))
    assert (again.layer_weights, again.losses) == (found.layer_weights, found.losses)


def test_the_loss_is_asked_at_the_rows_that_are_told(tmp_path):
    """What the user's function gets is each tensor with its own row: parameters, and buffers with their module's."""
    window = network_window(tmp_path, 3, torch.float64, weights=(0.2, 0.3, 0.5))
    kept = "SEEN = []\n" + NETWORK.read_text().replace("Network().to(device)", "Network().to(device).double()")
    kept = kept.replace("+ 1.0).to(device)", "+ 1.0).double()").replace(
        "    misbehave()\n    network",
        "    SEEN.append({k: v.detach().clone() for k, v in state_dict.items()})\n    network",
    )
    worker = python(tmp_path, kept)
    found = worker.fit(request(window, steps=1, **LAYERED))
    judged = sys.modules["rna_watch_evaluator_user"].SEEN[1]  # the result on the first of the fixed batches
    assert found.notes == ()
    stored = [state_dict(dataclasses.replace(window, weights=w), torch.device("cpu")) for w in torch.eye(3).tolist()]
    for name, row in found.layer_weights.items():
        expected = sum(w * each[name] for w, each in zip(row, stored, strict=True))
        expected = expected.clamp(min=0) if name == "bn.running_var" else expected
        torch.testing.assert_close(judged[name], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", ["layered", "trained"])
def test_a_loss_may_take_gradients_of_its_own(tmp_path, method):
    """A gradient penalty, or an equation's residual, can be evaluated wherever the loss is, also where fits are compared."""
    own = "x = torch.ones(3, requires_grad=True)\n    torch.autograd.grad(x.square().sum(), x)\n    return noise"
    found = python(tmp_path, BY_TENSOR.replace("return noise", own)).fit(
        request(window_of(tmp_path, ("b.weight",)), method=method)
    )
    assert found.notes == ()


@pytest.mark.parametrize("method", ["layered", "trained"])
def test_a_mask_of_infinities_is_kept(tmp_path, method):
    """An attention mask in the state dict is the same in all checkpoints: it stays, and the rest is fitted."""
    window = window_of(tmp_path, ("b.weight",))
    for layout in window.layouts:
        torch.save(torch.load(layout.path) | {"mask": torch.tensor([0.0, -math.inf])}, layout.path)
    window = dataclasses.replace(window, layouts=tuple(probe(layout.path) for layout in window.layouts))
    text = BY_TENSOR.replace("state_dict.values()", "(state_dict[n + '.weight'] for n in 'abc')")
    text = text.replace("    noise", "    assert state_dict['mask'].tolist() == [0.0, -float('inf')]\n    noise")
    found = python(tmp_path, text).fit(request(window, method=method))
    assert found.notes == ()
    assert found.weights != window.weights


def test_a_window_that_is_too_large_is_refused_in_words(tmp_path):
    """The limit holds for it as for trained weights."""
    with pytest.raises(EvaluationFailed, match=r"of 3 checkpoints takes .* allow more memory \(fit_memory\)"):
        python(tmp_path, BY_TENSOR).fit(request(window_of(tmp_path, ("a.weight",)), memory_limit_bytes=100, **LAYERED))


def test_equal_checkpoints_have_no_weights_to_fit(tmp_path):
    """The same checkpoint twice is no window."""
    with pytest.raises(EvaluationFailed, match="the checkpoints do not differ"):
        python(tmp_path, BY_TENSOR).fit(request(window_of(tmp_path, ()), **LAYERED))


HOSTILE = {
    "constant": ("0.0 * loss + 1.0", "do not lower"),
    "later nan": (
        "loss * (float('nan') if len(CALLS) > 20 else 1.0)",
        "layered: .* not finite at step 21; the start is kept",
    ),
    "later infinite": ("loss + (float('inf') if len(CALLS) > 70 else 0.0)", "do not lower the training loss"),
    "upside down gradient": ("2 * loss.detach() - loss", "do not lower the training loss .*; the start is kept"),
    "growing": ("0.0 * loss + 1.0 * len(CALLS)", "do not lower"),
    "shrinking": ("2 * loss.detach() - loss - 1.0 * len(CALLS)", "do not lower the training loss"),
    "another at every call": ("loss * (-1) ** len(CALLS)", None),
}


@pytest.mark.parametrize("method", ["layered", "trained"])
@pytest.mark.parametrize("way", HOSTILE)
def test_no_loss_makes_a_fit_worse_than_its_start(tmp_path, method, way):
    """A loss that is constant, breaks later, lies about its slope or drifts leaves the start, or better, and says so."""
    text, words = HOSTILE[way]
    code = BY_TENSOR.replace("return noise", "CALLS.append(1)\n    loss = noise") + f"    return {text}\nCALLS = []\n"
    window = window_of(tmp_path, ("a.weight", "b.weight"))
    found = python(tmp_path, code).fit(request(window, method=method))
    for row in [found.weights, *found.layer_weights.values()]:
        assert all(map(math.isfinite, row))
    if method == "layered" and words is not None:
        assert set(found.layer_weights.values()) == {window.weights}
        assert len(found.notes) == 1
        assert re.search(words, found.notes[0])

    def true(rows):
        """The honest loss, without its batches' noise."""
        stored = [
            state_dict(dataclasses.replace(window, weights=w), torch.device("cpu")) for w in torch.eye(3).tolist()
        ]
        values = [
            sum(w * each[name] for w, each in zip(rows.get(name, found.weights), stored, strict=True))
            for name in stored[0]
        ]
        return sum(float((value - number).square().mean()) for number, value in enumerate(values))

    start = dict.fromkeys(("a.weight", "b.weight", "c.weight"), window.weights)
    assert true(found.layer_weights) <= true(start) + 1e-9


def test_a_nan_at_the_start_is_an_error(tmp_path):
    """There is nothing to begin with, and the words say what the function returned."""
    text = BY_TENSOR.replace("return noise", "return float('nan') * noise")
    with pytest.raises(EvaluationFailed, match="returned nan, on which no weights can be trained"):
        python(tmp_path, text).fit(request(window_of(tmp_path, ("a.weight",)), **LAYERED))
