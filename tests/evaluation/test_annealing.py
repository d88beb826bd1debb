"""A cooldown branch of real trainings, against torch's own optimizers that go on from the same checkpoint."""

import copy
import dataclasses
import math
from pathlib import Path

import pytest
import torch

from rna_watch.errors import EvaluationFailed
from rna_watch.evaluation.evaluator import AnnealRequest
from rna_watch.evaluation.materialize import state_dict
from rna_watch.evaluation.worker import EvaluationWorker
from rna_watch.formats.probe import probe
from rna_watch.formats.resumed_optimizer import NotResumed, resume
from rna_watch.publishing import made
from rna_watch.window.combine import Combination

from . import users_regression
from .models import python, spec

pytestmark = pytest.mark.usefixtures("at_home")

STEPS = 12
CPU = torch.device("cpu")
USER = Path(users_regression.__file__)
TEXT = USER.read_text()
OPTIMIZERS = {
    "SGD": lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "AdamW": lambda ps: torch.optim.AdamW(ps, lr=0.01, weight_decay=0.1),
    "Adam": lambda ps: torch.optim.Adam(ps, lr=0.01, betas=(0.8, 0.99), amsgrad=True),
}


def train(folder, make, count=2, dtype=torch.float32, parameters=lambda model: model.parameters()):
    """A short training: its last network and optimizer, and the layouts of its checkpoints."""
    torch.manual_seed(0)
    model = users_regression.network()
    optimizer = make(parameters(model))
    generator = torch.Generator().manual_seed(1)
    layouts = []
    for number in range(count):
        for _ in range(10):
            optimizer.zero_grad()
            users_regression.batch_loss(model.train(), dict(model.state_dict(keep_vars=True)), generator).backward()
            optimizer.step()
        path = folder / f"step_{number}.pt"
        model = model.to(dtype).float()
        stored = {k: v.to(dtype) if v.is_floating_point() else v for k, v in model.state_dict().items()}
        torch.save({"model": stored, "optimizer": optimizer.state_dict(), "step": 10 * (number + 1)}, path)
        layouts.append(probe(str(path)))
    return model, optimizer, layouts


def request(folder, layouts, weights=(0.0, 1.0), **options):
    """A request to go on from a combination of checkpoints."""
    defaults = {"rate": 1.0, "steps": STEPS, "seed": 5, "seconds": 60.0, "memory_limit_bytes": 2**24}
    return AnnealRequest(
        combination=Combination(layouts=tuple(layouts), weights=tuple(weights)),
        path=str(folder / "scratch" / "candidate-1.safetensors"),
        **{"optimizer": resume(layouts[-1]), **defaults} | options,
    )


def published(layouts, path):
    """The tensors of the model, as the evaluator and every writer see it."""
    read = made.layout(path, layouts[-1])
    return state_dict(Combination(layouts=(read, layouts[-1]), weights=(1.0, 0.0)), CPU)


def twin(start, optimizer, rate, *, momentum_stays=False):
    """The obvious way: torch's network and optimizer go on, with a rate that falls linearly to zero."""
    model = users_regression.network()
    model.load_state_dict(start)
    state = copy.deepcopy(optimizer.state_dict())
    if isinstance(optimizer, torch.optim.SGD) and not momentum_stays:
        state["state"] = {}
    own = type(optimizer)(model.parameters(), lr=0.1)
    own.load_state_dict(state)
    rates = [group["lr"] * rate for group in own.param_groups]
    generator = torch.Generator().manual_seed(5)
    losses = []
    for step in range(STEPS):
        for group, own_rate in zip(own.param_groups, rates, strict=True):
            group["lr"] = own_rate * (1 - step / STEPS)
        own.zero_grad()
        loss = users_regression.batch_loss(model.train(), dict(model.state_dict(keep_vars=True)), generator)
        loss.backward()
        own.step()
        losses.append(loss.item())
    with torch.no_grad():
        for number in range(60):
            drawn = torch.Generator().manual_seed(number)
            users_regression.batch_loss(model.train(), dict(model.state_dict(keep_vars=True)), drawn)
    return model.state_dict(), losses


@pytest.mark.parametrize("rate", [1.0, 1 / 3])
@pytest.mark.parametrize("weights", [(0.0, 1.0), (0.5, 0.5)], ids=["last", "average"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_is_what_torch_does_from_the_same_checkpoint(tmp_path, name, weights, rate):
    """From the last checkpoint or an average, the model is that of torch's own optimizer with its state and settings."""
    _, optimizer, layouts = train(tmp_path, OPTIMIZERS[name])
    asked = request(tmp_path, layouts, weights, rate=rate)
    found = python(tmp_path, TEXT).anneal(asked)
    expected, losses = twin(state_dict(asked.combination, CPU), optimizer, rate)
    made = published(layouts, asked.path)
    assert found.losses == pytest.approx(losses, rel=1e-5)
    assert found.passes == 60
    assert not found.notes
    expected["1.num_batches_tracked"] = torch.tensor(20)  # the newest checkpoint's
    for key, tensor in expected.items():
        torch.testing.assert_close(made[key], tensor, rtol=1e-5, atol=1e-6)


def test_the_state_of_adam_matters(tmp_path):
    """A fresh state gives another model: the one of the checkpoint is really used."""
    _, _, layouts = train(tmp_path, OPTIMIZERS["AdamW"])
    asked = request(tmp_path, layouts)
    worker = python(tmp_path, TEXT)
    worker.anneal(asked)
    restored = published(layouts, asked.path)
    bare = dataclasses.replace(
        asked.optimizer, held=tuple(dataclasses.replace(held, moments={}) for held in asked.optimizer.held)
    )
    worker.anneal(dataclasses.replace(asked, optimizer=bare))
    assert (restored["0.weight"] - published(layouts, asked.path)["0.weight"]).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_the_file_holds_every_dtype_exactly(tmp_path, dtype):
    """Without a step the file is the last checkpoint bit for bit, and the same request gives the same bytes."""
    text = (
        TEXT
        if dtype is not torch.float64
        else TEXT.replace("network()\n\ndef batch", "network().double()\n\ndef batch")
    )
    text = text.replace("X = torch.randn(", "X = torch.randn(") + (
        "\nX, Y = X.double(), Y.double()\n" if dtype is torch.float64 else ""
    )
    _, _, layouts = train(tmp_path, OPTIMIZERS["SGD"], dtype=dtype)
    asked = request(tmp_path, layouts, steps=1, rate=0.0)
    worker = python(tmp_path, text.replace("MODEL.train()", "MODEL.eval()"))
    worker.anneal(asked)
    found = published(layouts, asked.path)
    for key, tensor in state_dict(Combination(layouts=(layouts[-1],), weights=(1.0,)), CPU).items():
        assert found[key].dtype is tensor.dtype
        assert torch.equal(found[key], tensor)
    first = made.layout(asked.path, layouts[-1]).fingerprint
    assert first == made.digest(layouts[-1])
    worker.anneal(dataclasses.replace(asked, rate=1.0))
    changed = made.layout(asked.path, layouts[-1]).fingerprint
    worker.anneal(dataclasses.replace(asked, rate=1.0))
    assert made.layout(asked.path, layouts[-1]).fingerprint == changed != first


def test_what_the_optimizer_does_not_hold_stays(tmp_path):
    """A parameter outside of the optimizer, and one that never stepped, keep their bits."""

    def without_bias(model):
        model[3].bias.requires_grad_(False)
        return [(name, p) for name, p in model.named_parameters() if name != "0.bias"]

    _, _, layouts = train(tmp_path, OPTIMIZERS["AdamW"], parameters=without_bias)
    asked = request(tmp_path, layouts)
    python(tmp_path, TEXT).anneal(asked)
    made, before = published(layouts, asked.path), state_dict(asked.combination, CPU)
    same = {key for key in made if torch.equal(made[key], before[key])}
    assert same == {"0.bias", "3.bias", "1.num_batches_tracked"}


def test_passes_that_leave_statistics_alone_are_said(tmp_path):
    """Where training_loss runs in evaluation mode, the statistics stay those of the start, and that is said."""
    _, _, layouts = train(tmp_path, OPTIMIZERS["SGD"])
    asked = request(tmp_path, layouts)
    found = python(tmp_path, TEXT.replace("MODEL.train()", "MODEL.eval()")).anneal(asked)
    assert "leaves the normalization statistics in state_dict as they are" in found.notes[0]
    before = state_dict(asked.combination, CPU)
    assert torch.equal(published(layouts, asked.path)["1.running_var"], before["1.running_var"])


def test_normalization_is_used_where_the_file_offers_it(tmp_path):
    """The statistics are then the mean over the offered inputs, with the new weights."""
    _, _, layouts = train(tmp_path, OPTIMIZERS["SGD"])
    asked = request(tmp_path, layouts)
    found = python(tmp_path, TEXT + "\ndef normalization(device):\n    return network(), [X]\n").anneal(asked)
    made = published(layouts, asked.path)
    hidden = users_regression.X @ made["0.weight"].T + made["0.bias"]
    torch.testing.assert_close(made["1.running_mean"], hidden.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(made["1.running_var"], hidden.var(0), rtol=1e-4, atol=1e-5)
    assert found.passes == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("return batch_loss(MODEL.train(), state_dict, generator) * float('nan')", "returned nan"),
        ("return 1.0", "must return a scalar tensor, not 1.0"),
        ("return torch.tensor(1.0)", "has no gradient"),
        ("return torch.zeros(1, requires_grad=True)", "has no gradient"),
        ("raise ValueError('no data')", ": ValueError: no data"),
        ("import time; time.sleep(0.02); return batch_loss(MODEL, state_dict, generator)", "more than the 0.3 s"),
    ],
)
def test_what_cannot_be_annealed_is_said(tmp_path, change, words):
    """An unusable loss, the user's own error, and too little time each end it in words, with no file."""
    _, _, layouts = train(tmp_path, OPTIMIZERS["SGD"])
    asked = request(tmp_path, layouts, seconds=0.3 if "sleep" in change else 60.0)
    text = TEXT.replace("return batch_loss(MODEL.train(), state_dict, generator)", change)
    with pytest.raises(EvaluationFailed) as raised:
        python(tmp_path, text).anneal(asked)
    assert words in str(raised.value)
    assert not list((tmp_path / "scratch").iterdir())


def test_steps_that_diverge_give_no_model(tmp_path):
    """A rate that blows the model up ends in words."""
    _, _, layouts = train(tmp_path, OPTIMIZERS["SGD"])
    with pytest.raises(EvaluationFailed, match="diverge"):
        python(tmp_path, TEXT).anneal(request(tmp_path, layouts, rate=1e38))


def test_memory_is_bounded(tmp_path):
    """A model that is too large is refused before anything is read."""
    _, _, layouts = train(tmp_path, OPTIMIZERS["AdamW"])
    with pytest.raises(EvaluationFailed, match=r"take 0 MiB, more than the 0 MiB allowed"):
        python(tmp_path, TEXT).anneal(request(tmp_path, layouts, memory_limit_bytes=100))


def test_a_command_cannot_train(tmp_path):
    """A command offers no training_loss."""
    _, _, layouts = train(tmp_path, OPTIMIZERS["SGD"])
    with pytest.raises(EvaluationFailed, match="a command cannot train"):
        EvaluationWorker(spec(tmp_path, command="true {checkpoint}")).anneal(request(tmp_path, layouts))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda ps: torch.optim.NAdam(ps, lr=0.01), "none of torch's SGD, Adam and AdamW"),
        (lambda ps: torch.optim.RAdam(ps, lr=0.01), "none of torch's SGD, Adam and AdamW"),
        (lambda ps: torch.optim.RMSprop(ps, lr=0.01), "none of torch's SGD, Adam and AdamW"),
        (lambda ps: torch.optim.SGD(ps, lr=torch.tensor(0.1)), "learning rate is no plain number"),
    ],
)
def test_other_optimizers_are_refused(tmp_path, make, words):
    """Optimizers that are not known, and rates that are no numbers, are refused in words."""
    _, _, layouts = train(tmp_path, make)
    with pytest.raises(NotResumed, match=words):
        resume(layouts[-1])


def test_nothing_is_guessed(tmp_path):
    """Groups without names whose shapes are not unique, Adam with weight decay of old files, and no state are refused."""

    def groups(model):
        return [{"params": [p for p in model.parameters() if p.ndim == n], "weight_decay": n / 100} for n in (1, 2)]

    for make, parameters, change, words in [
        (OPTIMIZERS["AdamW"], groups, lambda _: None, "set optimizer_order"),
        (
            OPTIMIZERS["AdamW"],
            lambda model: model.parameters(),
            lambda tree: tree["param_groups"][0].pop("decoupled_weight_decay"),
            "do not say which",
        ),
        (OPTIMIZERS["AdamW"], lambda model: model.parameters(), lambda tree: tree["state"].clear(), "was not saved"),
        (
            OPTIMIZERS["AdamW"],
            lambda model: model.parameters(),
            lambda tree: tree["state"][0].pop("exp_avg_sq"),
            "not stored as plain tensors",
        ),
    ]:
        _, optimizer, layouts = train(tmp_path, make, parameters=parameters)
        stored = torch.load(layouts[-1].path, weights_only=True)
        change(stored["optimizer"])
        torch.save(stored, layouts[-1].path)
        layout = probe(layouts[-1].path)
        with pytest.raises(NotResumed, match=words):
            resume(layout)
        if parameters is groups:
            assert len(resume(layout, "vectors-first").held) == len(optimizer.state)


def test_a_checkpoint_without_an_optimizer_is_refused(tmp_path):
    """There are no settings to go on with."""
    torch.save({"w": torch.ones(3)}, tmp_path / "a.pt")
    with pytest.raises(NotResumed, match="holds no optimizer settings"):
        resume(probe(str(tmp_path / "a.pt")))


def test_the_largest_rate_is_told(tmp_path):
    """The rate of a run with several groups is the largest of theirs."""

    def groups(model):
        return [{"params": [p for p in model.parameters() if p.ndim == n], "lr": 0.1 * n} for n in (1, 2)]

    _, _, layouts = train(tmp_path, OPTIMIZERS["SGD"], parameters=groups)
    assert math.isclose(resume(layouts[-1], "vectors-first").learning_rate, 0.2)
