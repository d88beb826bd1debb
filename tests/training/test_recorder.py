"""The gradient recorder: its file, and that the daemon reads from it what `Rna` computes."""

import copy
import json
import os

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from rna_watch.formats.probe import probe
from rna_watch.formats.recorded_gradient import assign
from rna_watch.training import GradientRecorder, Rna
from tests.daemon.runs import rna_watch
from tests.formats.test_optimizer_state import Run
from tests.formats.test_recorded_gradient import check
from tests.training.runs import F64, Loop, Tied, Twin, groups, sgd, tied


def recorded(dtype=F64):
    """A network, its optimizer and the recorder."""
    network = tied(dtype)
    optimizer = sgd(network)
    return network, optimizer, GradientRecorder(network, optimizer), Loop(network)


def test_the_library_reads_what_was_written(tmp_path):
    """The mean since the last checkpoint under the state dict's names, zeros for what had no gradient, and the steps."""
    network, optimizer, recorder, loop = recorded(torch.float32)
    twin = Twin(network, optimizer)
    path = tmp_path / "step_5.pt"
    for steps in (2, 3):
        for _ in range(steps):
            loop.backward(optimizer)
            twin.see()
            optimizer.step()
        assert recorder.save(path) == tmp_path / "step_5.pt.gradient"
        twin.store()
        assert os.listdir(tmp_path) == ["step_5.pt.gradient"]
        with safe_open(path.with_name("step_5.pt.gradient"), "pt") as file:
            assert file.metadata().keys() == {"steps", "weights"}
            assert file.metadata()["steps"] == str(steps)
        found = load_file(path.with_name("step_5.pt.gradient"))
        own = {name: p for name, p in network.named_parameters() if p.requires_grad}
        assert found.keys() == own.keys()
        assert all(found[name].dtype == torch.float32 and found[name].shape == p.shape for name, p in own.items())
        assert not found["idle"].any()
        whole = torch.cat([found.get(name, torch.zeros(p.shape)).reshape(-1) for name, p in network.named_parameters()])
        np.testing.assert_allclose(whole.numpy(), twin.residuals[-1], rtol=1e-5, atol=1e-7)


def test_wide_narrow_and_odd_tensors_lie_where_the_header_says(tmp_path):
    """float64 next to bfloat16 parameters (recorded in float32), a scalar, an empty one, one that is channels_last."""
    torch.manual_seed(0)
    network = nn.Module()
    network.scalar = nn.Parameter(torch.ones((), dtype=torch.bfloat16))
    network.wide = nn.Parameter(torch.ones(3, dtype=F64))
    network.none = nn.Parameter(torch.ones(0, 2))
    network.image = nn.Parameter(torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    recorder = GradientRecorder(network, optimizer)
    gradients = {name: torch.randn_like(p) for name, p in network.named_parameters()}
    for name, p in network.named_parameters():
        p.grad = gradients[name].clone()
    optimizer.step()
    path = recorder.save(tmp_path / "a.pt")
    length = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + length])
    assert length % 8 == header["wide"]["data_offsets"][0] % 8 == 0  # aligned, for those who map the file
    found = load_file(path)
    assert {name: tensor.dtype for name, tensor in found.items()} == {
        "scalar": torch.float32,
        "wide": F64,
        "none": torch.float32,
        "image": torch.float32,
    }
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["order"]) == {"image": [0, 2, 3, 1]}  # as torch.save writes the parameter
    for name, tensor in found.items():
        expected = gradients[name].permute(0, 2, 3, 1) if name == "image" else gradients[name]
        assert torch.equal(tensor, expected.to(tensor.dtype)), name


def convolutional():
    """A network whose weights lie channels last, Adam, and a loop of its steps."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.Flatten(), nn.Linear(32, 1)
    network = nn.Sequential(*layers).to(F64).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    loop = Loop(network)
    loop.loss = lambda: network(torch.randn(8, 3, 6, 6, generator=loop.generator, dtype=F64)).square().mean()
    return network, optimizer, loop


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_channels_last_weights_have_their_gradients(ending, tmp_path):
    """Next to a torch file they lie as its weights do, next to a safetensors file in rows: the loop's coefficients both times."""
    network, optimizer, loop = convolutional()
    rna = Rna(network, optimizer, n=4, reset_after=0)
    recorder = GradientRecorder(network, rna)
    for epoch in range(1, 6):
        loop.train(rna, 2)
        rna.store()
        path = tmp_path / f"epoch_{epoch}{ending}"
        recorder.save(path)
        if ending == ".pt":
            torch.save(network.state_dict(), path)
        else:
            save_file({name: each.contiguous() for name, each in network.state_dict().items()}, path)
    own = rna.accelerate(copy.deepcopy(network)).c
    options = ["--window", 4, "--residuals", "recorded", "--regularization", 1e-8, "--workers", 1, "--json"]
    checkpoints = [tmp_path / f"epoch_{epoch}{ending}" for epoch in range(1, 6)]
    result = rna_watch("extrapolate", *checkpoints, "-o", tmp_path / f"out{ending}", *options)
    assert result.returncode == 0, result.stderr
    manifest = json.loads(result.stdout)
    assert manifest["residuals"] == "recorded"
    np.testing.assert_allclose(manifest["coefficients"], own, rtol=0, atol=1e-9 * np.abs(own).max())


def test_a_gradient_of_another_save_is_not_paired_with_a_checkpoint(tmp_path):
    """Killed between the gradient and a checkpoint whose name is written again: the older checkpoint has none of its own."""
    network, optimizer, loop = convolutional()
    recorder = GradientRecorder(network, optimizer)
    path = tmp_path / "last.pt"
    for _ in range(2):
        loop.train(optimizer, 1)
        recorder.save(path)
        torch.save({"model": network.state_dict()}, path)
        layout = probe(str(path))
        assert layout.gradient is not None
        assert assign(layout)[1] == ""
    loop.train(optimizer, 1)
    recorder.save(path)
    assigned, why = assign(probe(str(path)))
    assert assigned == {}
    assert why.startswith("the recorded gradient beside it belongs to other weights: ")
    told = rna_watch("inspect", path)
    assert "belongs to other weights" in " ".join(told.stdout.split())
    torch.save({"model": network.state_dict()}, path)
    assert assign(probe(str(path)))[1] == ""


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_weights_saved_in_another_dtype_are_not_compared(dtype, tmp_path):
    """What a training saves in fewer bits keeps its gradient: only equal dtypes can be told apart."""
    network, optimizer, loop = convolutional()
    recorder = GradientRecorder(network, optimizer)
    loop.train(optimizer, 1)
    recorder.save(tmp_path / "a.pt")
    torch.save({name: each.to(dtype) for name, each in network.state_dict().items()}, tmp_path / "a.pt")
    layout = probe(str(tmp_path / "a.pt"))
    assert layout.gradient is not None
    assert layout.gradient_problem == ""


@pytest.mark.parametrize("key", ["order", "weights"])
@pytest.mark.parametrize("value", ["", "[", "3", "[1]", '{"0.weight": 7}', '{"0.weight": [0, 0, 1, 2]}'])
def test_damaged_metadata_are_no_recording(key, value, tmp_path):
    """The checkpoint is read all the same."""
    network, optimizer, loop = convolutional()
    recorder = GradientRecorder(network, optimizer)
    loop.train(optimizer, 1)
    path = recorder.save(tmp_path / "a.pt")
    torch.save(network.state_dict(), tmp_path / "a.pt")
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata.keys() == {"steps", "order", "weights"}
    save_file(load_file(path), path, metadata | {key: value})
    assert probe(str(tmp_path / "a.pt")).gradient is None


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.optim.swa_utils.AveragedModel])
def test_names_have_no_wrapper_s_prefix(wrap, tmp_path):
    """The bare network's names, whatever holds it."""
    network = wrap(nn.Linear(6, 2).to(F64))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    recorder = GradientRecorder(network, optimizer)
    Loop(network.module).train(optimizer, 1)
    assert set(load_file(recorder.save(tmp_path / "a.pt"))) == {"weight", "bias"}


def test_without_a_step_there_is_no_file(tmp_path):
    """Nothing is written before training, and an older file is removed."""
    _, optimizer, recorder, loop = recorded()
    loop.train(optimizer, 1)
    assert recorder.save(tmp_path / "a.pt").exists()
    assert recorder.save(tmp_path / "a.pt") is None
    assert os.listdir(tmp_path) == []


def test_what_cannot_be_written_whole_is_not_there(tmp_path, monkeypatch):
    """A full disk leaves neither a part nor an older gradient, and the next mean begins at this checkpoint."""
    _, optimizer, recorder, loop = recorded()
    loop.train(optimizer, 1)
    recorder.save(tmp_path / "a.pt")
    loop.train(optimizer, 1)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        recorder.save(tmp_path / "a.pt")
    assert os.listdir(tmp_path) == []
    assert recorder.mean.count == 0


def test_a_recording_resumes_in_the_middle_of_an_interval(tmp_path):
    """The state continues to the same bytes."""
    files = []
    for interrupted in (False, True):
        network, optimizer, recorder, loop = recorded()
        loop.train(optimizer, 2)
        if interrupted:
            state = copy.deepcopy(recorder.state_dict())
            recorder = GradientRecorder(network, optimizer)
            recorder.load_state_dict(state)
        loop.train(optimizer, 2)
        files.append(recorder.save(tmp_path / "a.pt").read_bytes())
    assert files[0] == files[1]


def test_a_recorder_may_hold_rna_itself(tmp_path):
    """Made from `Rna` in place of the optimizer it sees the same steps."""
    network = tied()
    rna = Rna(network, sgd(network), reset_after=0)
    recorder, loop = GradientRecorder(network, rna), Loop(network)
    loop.train(rna, 3)
    rna.store()
    found = load_file(recorder.save(tmp_path / "a.pt"))
    for name, tensor in rna.history.residuals[0].items():
        assert torch.equal(found[name], tensor), name


class Recorded(Run):
    """The other tests' run, with the recorder in it."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        for group in self.optimizer.param_groups:
            group.setdefault("maximize", False)
        self.recorder = GradientRecorder(self.network, self.optimizer)

    def save(self, order="auto"):
        """The gradient first, then its checkpoint."""
        self.recorder.save(self.folder / f"step_{self.step}.pt")
        super().save(order)


def test_the_daemon_s_residuals_are_the_true_mean_gradients(tmp_path):
    """Read back, the recordings of a run of Adam with weight decay are what its optimizer truly saw, and so is their matrix."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)).to(F64)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01, weight_decay=0.1)
    check(Recorded(tmp_path, network, optimizer).go([2, 3, 1]), tolerance=1e-14, notes=1)


@pytest.mark.parametrize(
    ("dtype", "reg", "tolerance", "steps"),
    [(torch.float32, 1e-8, 1e-6, 20), (F64, 1e-8, 1e-9, 20), (F64, 1e-13, 1e-8, 1)],
)
def test_the_daemon_and_the_loop_agree(dtype, reg, tolerance, steps, tmp_path):
    """Both give the same coefficients and, to a rounding, the same tensors on one run with SGD and momentum."""
    network = tied(dtype)
    network.mask.zero_()  # the daemon skips checkpoints that hold infinities
    rna = Rna(network, torch.optim.SGD(groups(network), momentum=0.9), n=5, reg=reg)
    recorder, loop = GradientRecorder(network, rna), Loop(network)
    if steps == 1:  # one batch again and again, in small steps: residuals that nearly depend on each other
        for group in rna.param_groups:
            group["lr"] *= 0.1
        data = torch.randn(8, 6, dtype=dtype)
        loop.loss = lambda: network(data).square().mean()
    for epoch in range(1, 10):
        loop.train(rna, steps)
        rna.store()
        path = tmp_path / f"epoch_{epoch}.pt"
        recorder.save(path)
        torch.save({"model": network.state_dict(), "optimizer": rna.optimizer.state_dict(), "epoch": epoch}, path)
    other = Tied().to(dtype)
    found = rna.accelerate(other)
    assert found.status == ""
    options = ["--window", 5, "--residuals", "recorded", "--regularization", reg, "--workers", 1, "--json"]
    checkpoints = [tmp_path / f"epoch_{epoch}.pt" for epoch in range(1, 10)]
    result = rna_watch("extrapolate", *checkpoints, "-o", tmp_path / "out.pt", *options)
    assert result.returncode == 0, result.stderr
    manifest = json.loads(result.stdout)
    assert manifest["residuals"] == "recorded"
    c, own = np.array(manifest["coefficients"]), np.array(found.c)
    assert np.abs(c - own).max() <= tolerance * np.abs(own).max()
    written, iterates = torch.load(tmp_path / "out.pt")["model"], rna.history.iterates
    for name, tensor in other.state_dict().items():
        x = [iterate.get(name, iterate.get("first.weight")) for iterate in iterates]
        if not tensor.is_floating_point():
            assert torch.equal(written[name], tensor)
            continue
        # one rounding of the result, and what the coefficients' own difference moves
        allowed = torch.finfo(dtype).eps * np.abs(own).sum() * torch.stack(x).abs().amax(dim=0)
        allowed += sum(abs(d) * (y - x[-1]).abs() for d, y in zip(c - own, x, strict=True))
        assert ((written[name] - tensor).abs() <= allowed).all(), name


def test_a_checkpoint_with_rna_s_own_state_is_read_like_any(tmp_path):
    """The iterates within `rna.state_dict()` are not taken for the model, and the optimizer's state is found."""
    network = tied()
    rna, loop = Rna(network, sgd(network), reset_after=0), Loop(network)
    for _ in range(3):
        loop.train(rna, 2)
        rna.store()
    torch.save({"model": network.state_dict(), "optimizer": rna.state_dict(), "epoch": 3}, tmp_path / "epoch_3.pt")
    layout = probe(str(tmp_path / "epoch_3.pt"))
    assert layout.source == "model"
    assert {view.name for view in layout.tensors} == set(network.state_dict())
    assert layout.optimizer.kind == "SGD"
    assert [group.nesterov for group in layout.optimizer.groups] == [True, True]
