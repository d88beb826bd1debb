"""Batch-norm statistics, re-estimated: torch's own `update_bn` is the twin, to the last bit."""

import sys

import numpy as np
import pytest
import torch
from torch.optim.swa_utils import update_bn

from rna_watch.errors import EvaluationFailed
from rna_watch.evaluation.materialize import state_dict
from rna_watch.formats.probe import probe
from rna_watch.layout.dtypes import DTYPES
from rna_watch.window.combine import Combination

from .models import python

pytestmark = pytest.mark.usefixtures("at_home")

FILE = """
import torch

CALLS = []
LAST = []
SEEN = {}

def network():
    norm = torch.nn.BatchNorm2d(3, momentum=0.25)
    return torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 3), norm, torch.nn.Dropout(), torch.nn.Conv2d(3, 3, 1), norm,
        torch.nn.BatchNorm2d(3, track_running_stats=False), torch.nn.InstanceNorm2d(3),
    )

def batches():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(5, 2, 8, 8, generator=generator) for _ in range(4)]

def normalization(device):
    CALLS.append(device)
    found = network()
    found.eval()
    found[2].train()
    LAST[:] = [found]
    return found, batches()

def evaluate(state_dict, device):
    SEEN.clear()
    SEEN.update(state_dict)
    return {'a': 1}
"""


def user():
    """The user's module, once it is loaded."""
    return sys.modules["rna_watch_evaluator_user"]


def window(folder, dtype=torch.float32):
    """Two checkpoints of the network, in DistributedDataParallel's names."""
    layouts = []
    torch.manual_seed(0)
    for number in range(2):
        norm = torch.nn.BatchNorm2d(3)
        network = torch.nn.Sequential(
            torch.nn.Conv2d(2, 3, 3),
            norm,
            torch.nn.Dropout(),
            torch.nn.Conv2d(3, 3, 1),
            norm,
            torch.nn.BatchNorm2d(3, track_running_stats=False),
        )
        norm.num_batches_tracked.fill_(7 + number)
        network.to(dtype)
        path = folder / f"{number}.pt"
        torch.save({f"module.{key}": tensor for key, tensor in network.state_dict().items()}, path)
        layouts.append(probe(str(path)))
    return Combination(layouts=tuple(layouts), weights=(-0.5, 1.5))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_the_statistics_are_torch_s_own(tmp_path, dtype):
    """They are `update_bn`'s, rounded, in every stored dtype; the evaluated model has exactly these bits."""
    model = window(tmp_path, dtype)
    worker = python(tmp_path, FILE)
    found = worker.evaluate(model, re_estimate=True).statistics
    twin = user().network()
    before = state_dict(model, torch.device("cpu"))
    twin.load_state_dict(before)
    torch.manual_seed(0)  # the same dropout
    update_bn(user().batches(), twin)
    assert set(found) == {f"module.{layer}.{name}" for layer in (1, 4) for name in ("running_mean", "running_var")}
    for name, bits in found.items():
        plain = name.removeprefix("module.")
        expected = twin.state_dict()[plain].to(dtype)
        assert bits.dtype == DTYPES[str(dtype).removeprefix("torch.")].bits
        assert bits.shape == (3,)
        assert bits.tobytes() == expected.view(torch.uint8).numpy().tobytes()
        assert torch.equal(user().SEEN[plain], expected)
        assert not torch.equal(before[plain], expected)
    for plain in set(before) - {name.removeprefix("module.") for name in found}:
        assert torch.equal(user().SEEN[plain], before[plain])
    assert user().SEEN["1.num_batches_tracked"] == 8


def test_each_model_starts_from_nothing(tmp_path):
    """The user's function is called once; models do not see each other's statistics, and the network is put back."""
    worker, model = python(tmp_path, FILE), window(tmp_path)
    first = worker.evaluate(model, re_estimate=True).statistics
    last = Combination(layouts=model.layouts, weights=(0.0, 1.0))
    other = worker.evaluate(last, re_estimate=True).statistics
    again = worker.evaluate(model, re_estimate=True).statistics
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not any(np.array_equal(first[name], other[name]) for name in first)
    (device,) = user().CALLS
    assert device == torch.device("cpu")
    (network,) = user().LAST
    assert [module.training for module in network] == [False, False, True, False, False, False, False]
    assert not network.training
    assert network[1].momentum == 0.25


def test_inputs_that_can_be_gone_through_once_are_asked_for_again(tmp_path):
    """A generator of batches is used up: the user's function is called for every model."""
    worker = python(tmp_path, FILE.replace("return found, batches()", "return found, iter([*batches()])"))
    model = window(tmp_path)
    found = [worker.evaluate(model, re_estimate=True).statistics for _ in range(2)]
    assert len(user().CALLS) == 2
    assert all(np.array_equal(found[0][name], found[1][name]) for name in found[0])


def test_pairs_of_inputs_and_labels_are_understood(tmp_path):
    """A data loader's batches, inputs first, do as well."""
    model = window(tmp_path)
    plain = python(tmp_path, FILE).evaluate(model, re_estimate=True).statistics
    text = FILE.replace("return found, batches()", "return found, [(each, torch.ones(5)) for each in batches()]")
    pairs = python(tmp_path, text).evaluate(model, re_estimate=True).statistics
    assert all(np.array_equal(plain[name], pairs[name]) for name in plain)


RETURNS = "return found, batches()"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (RETURNS, "return found, []", "returned no batches of training inputs"),
        (RETURNS, "return found, [[1, 2]]", "a batch that .* is no tensor, but 1"),
        (RETURNS, "return found", r"must return a network and batches of training inputs, not Sequential"),
        (RETURNS, "return found, 3", r"must return a network and batches of training inputs, not \(Seq"),
        (RETURNS, "return batches(), found", "must return a network and batches"),
        (RETURNS, "raise LookupError('no data')", r"^user.py:25: LookupError: no data$"),
        (RETURNS, "return found, (1 / 0 for _ in '1')", r"^user.py:25: ZeroDivisionError: "),
        (RETURNS, "return found, [torch.ones(1, 9, 8, 8)]", "^RuntimeError: .*to have 2 channels"),
        ("torch.nn.Conv2d(2, 3, 3)", "torch.nn.Conv2d(2, 3, 5)", r"(?s)is not the checkpoint's: .*size mismatch"),
    ],
)
def test_what_the_user_s_function_does_wrong_is_told(tmp_path, old, new, message):
    """What is missing or unfit is named, and the network's modes are put back."""
    worker = python(tmp_path, FILE.replace(old, new))
    with pytest.raises(EvaluationFailed, match=message):
        worker.evaluate(window(tmp_path), re_estimate=True)
    (network,) = user().LAST
    assert not network[1].training
    assert network[1].momentum == 0.25


def test_a_network_without_batch_norm_has_nothing_to_re_estimate(tmp_path):
    """Asking for it is a mistake in the settings, and is reported as one."""
    text = (
        "import torch\n"
        "class Network(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.w = torch.nn.Parameter(torch.ones(3))\n"
        "def normalization(device):\n    return Network(), [torch.ones(3)]\n"
        "def evaluate(state_dict, device):\n    return {'a': 1}\n"
    )
    torch.save({"w": torch.ones(3)}, tmp_path / "w.pt")
    model = Combination(layouts=(probe(str(tmp_path / "w.pt")),), weights=(1.0,))
    with pytest.raises(EvaluationFailed, match="has no batch-norm layer with running statistics"):
        python(tmp_path, text).evaluate(model, re_estimate=True)


def test_a_part_of_the_data_and_new_statistics_go_together(tmp_path):
    """A cheap first round re-estimates as well."""
    text = FILE.replace("def evaluate(state_dict, device):", "def evaluate(state_dict, device, fraction=1.0):")
    found = python(tmp_path, text.replace("{'a': 1}", "{'a': fraction}")).evaluate(
        window(tmp_path), fraction=0.5, re_estimate=True
    )
    assert found.metrics == {"a": 0.5}
    assert len(found.statistics) == 4


def by_loss(text="", mode="train"):
    """A user's file that offers nothing but a training loss, which runs the network in a mode."""
    offered = FILE.replace("def normalization", "def not_offered").replace("momentum=0.25", "momentum=0.1")
    return offered + (
        "def training_loss(state_dict, device, generator):\n"
        "    SEEN.update(state_dict)\n"
        f"    CALLS.append(1)\n{text}"
        f"    found = network().to(state_dict['0.weight'].dtype).{mode}()\n"
        "    x = torch.randn(5, 2, 8, 8, generator=generator).to(state_dict['0.weight'].dtype)\n"
        "    return torch.func.functional_call(found, state_dict, (x,)).square().mean()\n"
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_passes_of_the_training_loss_re_estimate(tmp_path, dtype):
    """They leave less than a hundredth of the start; the file gets what was evaluated, and the counter stays."""
    combination = window(tmp_path, dtype)
    found = python(tmp_path, by_loss()).evaluate(combination, re_estimate=True)
    assert len(user().CALLS) == 60
    assert set(found.statistics) == {f"module.{n}.{s}" for n in (1, 4) for s in ("running_mean", "running_var")}
    evaluated = dict(user().SEEN)
    assert evaluated["1.num_batches_tracked"] == 8
    for name, bits in found.statistics.items():
        assert evaluated[name.removeprefix("module.")].dtype is dtype
        stored = evaluated[name.removeprefix("module.")].contiguous()
        assert stored.view(torch.uint8).numpy().tobytes() == bits.tobytes()
    twin = user().network().train()
    twin.load_state_dict(state_dict(combination, torch.device("cpu")))
    twin.to(torch.float64 if dtype is torch.float64 else torch.float32)
    with torch.no_grad():
        for number in range(60):
            torch.manual_seed(number)
            user().network()  # as the user's function makes one, and draws
            twin(torch.randn(5, 2, 8, 8, generator=torch.Generator().manual_seed(number)).to(twin[0].weight.dtype))
    for name in found.statistics:
        plain = name.removeprefix("module.")
        torch.testing.assert_close(evaluated[plain], twin.state_dict()[plain].to(dtype))


def test_every_model_is_given_the_same_passes(tmp_path):
    """The same model gets the same bits a second time, whatever was drawn in between."""
    combination = window(tmp_path)
    worker = python(tmp_path, by_loss())
    first = worker.evaluate(combination, re_estimate=True)
    torch.rand(7)
    again = worker.evaluate(combination, re_estimate=True)
    assert all(np.array_equal(first.statistics[name], again.statistics[name]) for name in first.statistics)


@pytest.mark.parametrize(
    ("text", "mode", "words", "calls"),
    [
        ("", "eval", "leaves the normalization statistics in state_dict as they are", 1),
        ("    state_dict = {k: v.clone() for k, v in state_dict.items() if k[0] != '4'}\n", "train", "as they are", 1),
        ("    state_dict['1.running_var'].fill_(float('nan'))\n", "train", "numbers that are not finite", 60),
        ("    raise LookupError('no data')\n", "train", "LookupError: no data", 1),
    ],
)
def test_passes_that_measure_nothing_are_told(tmp_path, text, mode, words, calls):
    """A network in evaluation mode, a copy, numbers that are not finite and an error of the user's are said in words."""
    with pytest.raises(EvaluationFailed, match=words):
        python(tmp_path, by_loss(text, mode)).evaluate(window(tmp_path), re_estimate=True)
    assert len(user().CALLS) == calls


@pytest.mark.parametrize(
    "text",
    [
        "    state_dict.pop('1.num_batches_tracked')\n",
        "    x = torch.ones(3, requires_grad=True)\n    torch.autograd.grad(x.square().sum(), x)\n",
    ],
    ids=["takes from its dict", "a gradient of its own"],
)
def test_a_loss_that_can_be_fitted_can_be_passed_through(tmp_path, text):
    """Each pass has a dict of its own, and gradients, as each step of a fit has."""
    assert len(python(tmp_path, by_loss(text)).evaluate(window(tmp_path), re_estimate=True).statistics) == 4


def test_a_layer_that_the_first_pass_skips_is_measured_too(tmp_path):
    """What any of the passes moves is re-estimated."""
    skipped = "    mean = state_dict['4.running_mean']\n    kept = mean.clone()\n"
    code = by_loss(skipped).replace(
        "    return torch.func.functional_call(found, state_dict, (x,)).square().mean()\n",
        "    loss = torch.func.functional_call(found, state_dict, (x,)).square().mean()\n"
        "    if len(CALLS) == 1:\n        mean.copy_(kept)\n    return loss\n",
    )
    found = python(tmp_path, code).evaluate(window(tmp_path), re_estimate=True)
    assert "module.4.running_mean" in found.statistics


def test_what_normalization_offers_goes_before_the_training_loss(tmp_path):
    """With both in the file, the network and inputs of `normalization` are used."""
    text = FILE + by_loss().partition("def training_loss")[1] + by_loss().partition("def training_loss")[2]
    found = python(tmp_path, text).evaluate(window(tmp_path), re_estimate=True)
    assert len(user().CALLS) == 1
    assert isinstance(user().CALLS[0], torch.device)
    assert found.statistics
