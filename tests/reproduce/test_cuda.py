import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch.nn import functional

from rna_watch.cli import app
from rna_watch.errors import NothingToDo, RnaWatchError, UsageError
from rna_watch.evaluation import layered, trained
from rna_watch.reproduce.cuda import attempt, command, levers, parts, records, scale, tables, worker
from rna_watch.reproduce.cuda.findings import is_last, read
from rna_watch.reproduce.cuda.judge import re_estimate, verdict
from rna_watch.reproduce.cuda.ring import Ring
from rna_watch.reproduce.cuda.run import COMBINED, FIRST, LEVERS, MARKED, OWN, RE_ESTIMATED, weights_of
from rna_watch.reproduce.cuda.worker import Job, Worker
from rna_watch.reproduce.images.data import InMemory
from rna_watch.reproduce.tables import render
from rna_watch.training import Rna
from tests.reproduce.image_files import BATCHES, write_cifar

CPU = torch.device("cpu")
TINY = replace(scale.QUICK, epochs=(5,), marks=(3,), levers=2)
# whatever is not torch, numpy or the standard library, and is imported somewhere in the package
BLOCKER = """
import sys
BLOCKED = {"ray", "click", "pydantic", "rich", "yaml", "watchdog", "scipy", "matplotlib", "threadpoolctl", "safetensors"}
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED and "rna_watch" in sys.modules:
            raise ImportError(f"{name} is blocked here")
sys.meta_path.insert(0, Blocker())
"""


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    """A folder with the six files, 24 images each, and one of their arrays."""
    folder = tmp_path_factory.mktemp("cifar")
    write_cifar(folder / "data", count=24)
    parts.take(folder / "data", folder / "cache")
    return folder


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny networks are slower on two threads, and other tests run beside these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def worker_of(cifar, folder, *, wanted=True):
    """A worker of a tiny attempt, in this process."""
    job = Job(
        optimizer="momentum",
        out=folder / "out",
        work=folder / "work",
        cache=cifar / "cache",
        device="cpu",
        scale=TINY,
        digest="d",
    )
    made = Worker(job, lambda: wanted)
    made.prepare("vgg4")
    return made


@pytest.fixture(scope="module")
def whole(cifar, tmp_path_factory):
    """The folder of a run that was never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    assert worker_of(cifar, folder).train(5, float("inf"), {}) == (True, 5)
    return folder


def bare(folder):
    """The findings of a folder without their times."""
    found = []
    for models in read(folder / "out").runs["vgg4", "momentum"].models.values():
        for model in models:
            header = {key: value for key, value in model.own.header.items() if key != "seconds"}
            found.append((header, {name: array.tobytes() for name, array in model.judged.arrays.items()}))
    return found


def test_records_are_read_as_written_and_a_torn_end_is_cut_off(tmp_path):
    """Arrays keep dtype and shape; whatever the length at which a write stopped, the records before it stay."""
    ours = records.Records(tmp_path, "sgd")
    arrays = {"a": np.arange(6, dtype=np.float16).reshape(2, 3), "b": np.packbits(np.ones(9, dtype=bool))}
    assert ours.append({"kind": "model", "run": "x"}, arrays)
    assert ours.append({"kind": "end", "run": "x"})
    path = tmp_path / "sgd-0.records"
    content = path.read_bytes()
    first, second = records.read(tmp_path, "sgd")
    assert second.header == {"kind": "end", "run": "x"}
    for name, array in arrays.items():
        np.testing.assert_array_equal(first.arrays[name], array)
        assert first.arrays[name].dtype == array.dtype
    ends = [len(records._packed({"kind": "model", "run": "x"}, arrays)), len(content)]
    for length in range(len(content)):
        path.write_bytes(content[:length])
        again = records.Records(tmp_path, "sgd")
        assert path.stat().st_size == max([end for end in ends if end <= length], default=0)
        assert not again.has("end", "x")
    assert again.append({"kind": "end", "run": "x"})
    assert path.read_bytes() == content
    assert again.has("end", "x")


def test_records_stay_within_their_files(tmp_path):
    """A new file is begun where one is full; what has no room in the last one is refused."""
    ours = records.Records(tmp_path, "sgd", files=3, file_bytes=1000, total_bytes=2500)
    written = [ours.append({"n": n}, {"a": np.zeros(300, dtype=np.uint8)}) for n in range(12)]
    sizes = [path.stat().st_size for path in sorted(tmp_path.iterdir())]
    assert len(sizes) == 3
    assert all(size <= 1000 for size in sizes)
    assert written == [True] * 6 + [False] * 6
    assert [record.header["n"] for record in records.read(tmp_path, "sgd")] == list(range(6))
    assert not ours.append({"n": 12}, {"a": np.zeros(1001, dtype=np.uint8)})
    assert 2 * records.FILES == 8
    assert records.FILE_BYTES <= 16e6
    assert 2 * records.TOTAL_BYTES <= 64e6


def test_missing_files_are_named_and_may_arrive_one_after_another(cifar, tmp_path):
    """Before any training: those that are there are unpacked once, and those that lack are named until they are there."""
    data, cache = tmp_path / "data", tmp_path / "work"
    data.mkdir()
    shutil.copy(cifar / "data" / BATCHES[3], data)
    (data / BATCHES[5]).write_bytes((cifar / "data" / BATCHES[5]).read_bytes()[:-1])  # still on its way
    with pytest.raises(
        UsageError, match=r"5 of the 6 files.*nothing is trained.*data_batch_1\.bin.*test_batch.*records"
    ):
        parts.take(data, cache)
    (data / BATCHES[3]).unlink()
    for name in BATCHES[:3] + BATCHES[4:]:
        shutil.copy(cifar / "data" / name, data)
    assert parts.take(data, cache) == parts.take(None, cifar / "cache")
    np.testing.assert_array_equal(parts.load(cache)[0].images, parts.load(cifar / "cache")[0].images)
    (cache / f"{BATCHES[0]}.npy").write_bytes(b"")
    with pytest.raises(UsageError, match=r"data_batch_1\.bin\.npy cannot be read.*remove it"):
        parts.load(cache)


def two_runs(cifar, epochs=5):
    """A tiny training with `Rna` and with a ring beside it; the network, both, and the data."""
    spec = TINY.spec("vgg4", "momentum", epochs, cifar)
    images = InMemory(*parts.load(cifar / "cache"), spec, CPU)
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, 4), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(256, 10)
    )
    rna = Rna(network, torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-5), n=3)
    ring = Ring(network, 4)
    found = []
    for epoch in range(1, epochs + 1):
        network.train()
        for x, y in images.train(epoch, 0, 16):
            rna.zero_grad()
            functional.cross_entropy(network(x), y).backward()
            rna.step()
        ring.append(network, {name: total / rna.mean.count for name, total in rna.mean._sums.items()})
        rna.store()
        found.append((rna.history.solve(1e-8).c, weights_of("rna-3", epoch, ring.gram_nn)))
    return spec, images, network, rna, ring, found


def test_the_ring_is_the_history_of_the_form_in_the_loop(cifar):
    """Coefficients, reset after the second epoch, and combined networks are those of `Rna`, from the ring's own products."""
    _, _, network, rna, ring, found = two_runs(cifar)
    assert [len(theirs) for theirs, _ in found] == [1, 0, 1, 2, 3]
    for theirs, ours in found:
        np.testing.assert_allclose(ours, theirs or (1.0,), rtol=1e-5)
    other, ours = (torch.nn.Sequential(*(type(m)(**_arguments(m)) for m in network)) for _ in range(2))
    rna.combine(other, [0.5, -0.25, 0.75])
    ring.write(ring.combined([(1.0,), (0.5, -0.25, 0.75)])[1], ours)
    for name, tensor in other.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(ours.state_dict()[name], tensor)
    again = Ring(network, 4)
    again.load_state_dict(ring.state_dict())
    assert torch.equal(again.newest(4), ring.newest(4))
    np.testing.assert_array_equal(again.gram_nn, ring.gram_nn)


def _arguments(module):
    """What a module of `two_runs` is made of."""
    match module:
        case torch.nn.Conv2d():
            return {"in_channels": 3, "out_channels": 4, "kernel_size": 3, "stride": 4}
        case torch.nn.BatchNorm2d():
            return {"num_features": 4}
        case torch.nn.Linear():
            return {"in_features": 256, "out_features": 10}
    return {}


def test_statistics_are_the_mean_over_the_batches(cifar):
    """Whatever was there before is gone; the mode and the momentum stay."""
    _, images, network, *_ = two_runs(cifar, epochs=1)
    batches = [x for x, _ in images.train(0, 0, 16)][:3]
    norm = network[1]
    norm.running_mean.fill_(1e6)
    network.eval()
    re_estimate(network, batches, bf16=False)
    means = torch.stack([network[0](x).mean((0, 2, 3)) for x in batches]).mean(0)
    variances = torch.stack([network[0](x).transpose(0, 1).flatten(1).var(1) for x in batches]).mean(0)
    torch.testing.assert_close(norm.running_mean, means)
    torch.testing.assert_close(norm.running_var, variances)
    assert (norm.momentum, network.training) == (0.1, False)


def test_judging_gives_each_image_its_error_and_loss(cifar):
    """Means and values agree with the plain way."""
    _, images, network, *_ = two_runs(cifar, epochs=1)
    found = verdict(network.train(), images, bf16=False)
    network.eval()
    x, y = next(images.test())
    values = functional.cross_entropy(network(x), y, reduction="none")
    np.testing.assert_allclose(found.losses["test"], values.detach().numpy(), rtol=2e-3)
    assert found.error["test"] == pytest.approx(100 * float((network(x).argmax(1) != y).float().mean()))
    assert found.wrong["test"].tolist() == (network(x).argmax(1) != y).tolist()
    assert found.loss["test"] == pytest.approx(values.mean().item(), rel=1e-5)


def test_layered_weights_make_their_model_and_move_only_what_differs(cifar):
    """Rows sum to one and give the model exactly; where iterates differ in one tensor alone, the other rows stay."""
    spec, images, network, _, ring, _ = two_runs(cifar)
    start = (0.25, 0.25, 0.5)
    data = list(levers.batches(images, spec, 3, 6))
    fit = levers.layered(ring, start, network, iter(data), count=4, steps=6, bf16=False)
    torch.testing.assert_close(fit.weights.sum(1), torch.ones(len(ring.parameters), dtype=torch.float64))
    assert len(fit.losses) == 6
    for row, name in zip(fit.weights, ring.parameters, strict=True):
        part = ring.slices[name]
        torch.testing.assert_close(fit.flat[part], row.float() @ ring.newest(4)[:, part], rtol=1e-3, atol=1e-5)
        assert not torch.allclose(row, torch.tensor([0.0, *start], dtype=torch.float64), atol=1e-4)
    ring._iterates[:] = ring._iterates[0]
    ring._iterates[:, ring.slices["3.weight"]] += torch.randn(4, 2560) * 0.01
    alone = levers.layered(ring, start, network, iter(data), count=4, steps=6, bf16=False)
    kept = torch.tensor([0.0, *start], dtype=torch.float64)
    moved = [name for name, row in zip(ring.parameters, alone.weights, strict=True) if not torch.equal(row, kept)]
    assert moved == ["3.weight"]


def test_layered_weights_are_those_of_the_product(cifar):
    """The same descent, from the same start on the same batches, by the code that fits weights for a daemon."""
    spec, images, network, _, ring, _ = two_runs(cifar)
    data = list(levers.batches(images, spec, 3, 4))
    fit = levers.layered(ring, (0.5, 0.5), network, iter(data), count=4, steps=4, bf16=False)
    iterates = ring.newest(4)
    slices = [ring.slices[name] for name in ring.parameters]

    def loss(theta, c, step):
        tensors = {name: t.view(ring.shapes[name]) for name, t in zip(ring.parameters, theta, strict=True)}
        return functional.cross_entropy(
            torch.func.functional_call(network.train(), tensors, (data[step][0],)), data[step][1]
        )

    base = ring.combined([(0.5, 0.5)])[0]
    product = layered.fit(
        [base[part] for part in slices], [(iterates[1:] - iterates[:-1])[:, part] for part in slices], loss, steps=4
    )
    np.testing.assert_allclose(fit.losses, product.losses, rtol=1e-5)
    rows = torch.stack([torch.tensor(trained.weights((0.0, 0.0, 0.5, 0.5), c)) for c in product.coefficients])
    torch.testing.assert_close(fit.weights, rows.double(), rtol=1e-3, atol=1e-4)


def test_layered_lowers_the_loss_and_gives_up_on_what_is_not_finite(cifar):
    """On one batch again and again the loss falls; a loss that is NaN leaves the start."""
    spec, images, network, _, ring, _ = two_runs(cifar)
    batch = next(levers.batches(images, spec, 3, 1))
    fit = levers.layered(ring, (1.0,), network, iter([batch] * 40), count=4, steps=40, bf16=False)
    assert fit.losses[-1] < fit.losses[0]
    broken = [(batch[0] * torch.nan, batch[1])] * 3
    none = levers.layered(ring, (1.0,), network, iter(broken), count=4, steps=3, bf16=False)
    torch.testing.assert_close(none.flat, ring.combined([(1.0,)])[0])


def test_anneal_is_the_run_s_optimizer_with_a_rate_that_falls_to_zero(cifar):
    """The same steps by hand, from the same point, with fresh momentum."""
    spec, images, network, _, ring, _ = two_runs(cifar)
    data = list(levers.batches(images, spec, 3, 3))
    point = ring.combined([(0.5, 0.5)])[0]
    fit = levers.anneal(point, 0.06, ring, network, iter(data), run=spec, steps=3)
    ring.write(point, network)
    velocity = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    network.train()
    for (x, y), rate in zip(data, (0.06, 0.04, 0.02), strict=True):
        network.zero_grad()
        functional.cross_entropy(network(x), y).backward()
        with torch.no_grad():
            for name, p in network.named_parameters():
                velocity[name] = 0.9 * velocity[name] + p.grad + spec.weight_decay * p
                p.sub_(rate * velocity[name])
    torch.testing.assert_close(fit.flat, ring.flat(network), rtol=1e-4, atol=1e-5)


def test_a_run_judges_nine_models_an_epoch_and_the_levers_at_a_mark(whole):
    """Each with its packed errors and held-out losses; those of test images too at a mark; twins are only named."""
    run = read(whole / "out").runs["vgg4", "momentum"]
    assert run.finished
    assert [len(run.models[epoch]) for epoch in (1, 2, 5)] == [9, 9, 9]
    marked = [(model.name, model.statistics) for model in run.models[3]]
    assert marked == [*FIRST, *MARKED, *((name, RE_ESTIMATED) for name in LEVERS)]
    for epoch, models in run.models.items():
        for model in models:
            assert model.wrong("test").mean() == pytest.approx(model.value("error", "test"))
            assert model.judged.arrays["held_out_losses"].dtype == np.float16
            assert ("test_losses" in model.judged.arrays) == (epoch in (3, 5))
    assert run.models[1][1].judged is run.models[1][0].judged
    layered = next(model for model in run.models[3] if model.name == "layered")
    np.testing.assert_allclose(layered.judged.arrays["layer_weights"].sum(1), 1.0, rtol=1e-5)
    assert layered.own.header["start"].startswith(("average", "ema"))
    assert not list((whole / "work").glob("*.pt"))


def test_stopped_and_called_again_a_run_goes_on_bitwise(cifar, tmp_path, whole):
    """From its last state, whatever was torn meanwhile: epochs that are trained again count once, and nothing differs."""
    first = worker_of(cifar, tmp_path)
    run, seen = first._prepared(), []

    def twice(seconds):
        seen.append(seconds)
        return len(seen) < 3

    run.spec = replace(run.spec, epochs=5)
    assert not run.train(twice, lambda _: None)
    state = (tmp_path / "work" / "vgg4-momentum.state.pt").read_bytes()
    assert run.train(lambda _: True, lambda _: None)  # it is killed after this, and only the older state was kept
    path = tmp_path / "out" / "momentum-0.records"
    path.write_bytes(path.read_bytes()[:-700])
    (tmp_path / "work" / "vgg4-momentum.state.pt").write_bytes(state)
    again = worker_of(cifar, tmp_path)
    assert again.train(5, float("inf"), {}) == (True, 5)
    assert bare(tmp_path) == bare(whole)


def test_a_run_stops_in_time_and_where_its_command_is_gone(cifar, tmp_path):
    """Before an epoch that would end too late; and no process trains on for a command that was killed."""
    assert worker_of(cifar, tmp_path).train(5, 0.0, {}) == (False, 0)
    assert worker_of(cifar, tmp_path, wanted=False).train(5, float("inf"), {}) == (False, 0)
    assert (tmp_path / "work" / "vgg4-momentum.state.pt").exists()


def test_a_state_without_its_records_is_not_gone_on_from(cifar, tmp_path):
    """Where the folder of records was emptied, the run begins anew, so that its records are whole."""
    assert not worker_of(cifar, tmp_path)._prepared().train(lambda seconds: not seconds, lambda _: None)
    shutil.rmtree(tmp_path / "out")
    worker_of(cifar, tmp_path, wanted=False).train(5, float("inf"), {})
    begun = [r.header["epoch"] for r in records.read(tmp_path / "out", "momentum") if r.header["kind"] == "begin"]
    assert begun == [0]


def test_schedules_are_cut_to_what_fits():
    """The longest within half of the budget, the shortest within what is left, or none."""
    times = scale.Times(step=0.005, judge=0.05, steps=352)
    seconds = {epochs: scale.needed(scale.FULL, times, epochs, 9, 14) for epochs in scale.EPOCHS}
    assert seconds[20] == pytest.approx((20 * 352 + 3 * 300) * 0.005 + (20 * 9 + 3 * 14) * 0.05)
    assert seconds[100] == pytest.approx((100 * 352 + 4 * 300) * 0.005 + (70 * 9 + 4 * 14) * 0.05)
    assert [scale.judged(e, 99) for e in (40, 41, 42, 99)] == [True, False, True, True]
    assert scale.fitting(scale.FULL, seconds, 540, 540) == 100
    assert scale.fitting(scale.FULL, {**seconds, 100: 271}, 540, 540) == 60
    assert scale.fitting(scale.FULL, seconds, seconds[40], 540) == 40
    assert scale.fitting(scale.FULL, seconds, seconds[20] - 1, 540) is None
    assert scale.worth_compiling(scale.FULL, times, 540)
    assert not scale.worth_compiling(scale.FULL, replace(times, step=0.003), 540)
    assert not scale.worth_compiling(scale.QUICK, times, 540)


class Scripted:
    """A process that answers as it is told."""

    def __init__(self, **answers):
        self.answers = {key: list(each) if isinstance(each, list) else each for key, each in answers.items()}
        self.asked = []

    def send(self, message):
        """Remember the message."""
        self.asked.append(message)

    def recv(self):
        """The answer to the last message."""
        method = self.asked[-1][0]
        answer = self.answers.get(method, "")
        return answer.pop(0) if isinstance(answer, list) else answer


def attempted(tmp_path, left, **answers):
    """An attempt at ResNet-18 with scripted processes; what they were asked, and what was noted."""
    options = attempt.Options(data=None, out=tmp_path / "out", work=tmp_path / "work", budget=540.0)
    workers = {optimizer: Scripted(**answers) for optimizer in scale.OPTIMIZERS}
    made = attempt._Attempt(
        options=options, workers=workers, deadline=attempt.time.monotonic() + left, say=lambda _: None
    )
    made.train("resnet18")
    return workers["sgd"].asked, made.notes


def test_the_faster_form_is_taken_and_cuts_are_said(tmp_path):
    """Compiled where that was faster and did not fail; a cut schedule, and a network that does not fit, say by how much."""
    slow, fast = (0.006, 0.01, 352), (0.003, 0.01, 352)
    asked, notes = attempted(tmp_path / "a", 500, time=[slow, fast], train=(True, 100))
    assert [each[0] for each in asked] == ["prepare", "time", "compile", "time", "train"]
    assert asked[-1][1] == 100
    assert asked[-1][3]["form"] == "compiled"
    assert notes == {}
    asked, _ = attempted(tmp_path / "b", 500, time=[slow], compile="no compiler", train=(True, 100))
    assert asked[-1][3]["form"] == "eager"
    assert asked[-1][3]["failed"] == ["no compiler"] * 2
    asked, notes = attempted(tmp_path / "c", 500, time=[fast, slow], train=(True, 60))
    assert "compile" not in [each[0] for each in asked]
    slower = (0.01, 0.02, 352)
    asked, notes = attempted(tmp_path / "d", 500, time=[slower, slower], train=(True, 60))
    assert [each[0] for each in asked] == ["prepare", "time", "compile", "time", "plain", "train"]
    assert notes["resnet18"].startswith("cut to 60 epochs: 100 would have taken 37")
    _, notes = attempted(tmp_path / "e", 60, time=[slower, slower])
    assert notes["resnet18"].startswith("not run: 20 epochs would take 8")
    _, notes = attempted(tmp_path / "f", 30)
    assert notes["resnet18"] == "not run: 30 s are left, too few to time it"
    asked, notes = attempted(tmp_path / "d", 200, time=[slower, slower], train=(False, 31))
    assert asked[-1][1] == 60  # a schedule stays once it is begun
    assert "stopped when the time was up (momentum at epoch 31, sgd at epoch 31 of 60)" in notes["resnet18"]


def test_a_process_that_ended_or_failed_is_named():
    """Its own words reach the person, or where they are."""

    class Gone(Scripted):
        def recv(self):
            raise EOFError

    failed = Scripted(train=UsageError("remove it"))
    failed.send(("train",))
    with pytest.raises(RnaWatchError, match="trains with sgd ended"):
        attempt.answer("sgd", Gone())
    with pytest.raises(UsageError, match="remove it"):
        attempt.answer("sgd", failed)


def test_a_process_answers_messages_until_there_are_no_more(cifar, tmp_path):
    """`work` builds its worker, answers, and ends with the connection; an error of ours is its answer."""

    class Connection:
        def __init__(self, *messages):
            self.messages, self.sent = list(messages), []

        def send(self, answer):
            self.sent.append(answer)

        def poll(self):
            return True

        def recv(self):
            if not self.messages:
                raise EOFError
            return self.messages.pop(0)

    job = Job(
        optimizer="sgd",
        out=tmp_path / "out",
        work=tmp_path / "work",
        cache=cifar / "cache",
        device="cpu",
        scale=TINY,
        digest="d",
    )
    connection = Connection(("prepare", "vgg4"), ("plain",), ("train", 5, float("inf"), {}))
    worker.work(connection, job)
    assert connection.sent == ["ready", "", "", (False, 0)]
    connection = Connection()
    with pytest.raises(SystemExit):
        worker.work(connection, replace(job, cache=tmp_path))
    assert isinstance(connection.sent[0], UsageError)


def written(folder, optimizer, test, held_out, *, end=True):
    """Records of a run of 50 epochs by hand: test errors of the last iterate, of an average and of RNA at each epoch."""
    ours = records.Records(folder, optimizer)
    spec = scale.FULL.spec("resnet18", optimizer, 50, folder)
    ours.append({"kind": "attempt", "digest": "d", "device": "G", "torch": "2", "networks": ["resnet18", "vgg19"]})
    ours.append({"kind": "begin", "run": spec.key, "epoch": 0, "spec": spec.stated()})
    names = (("last", OWN), ("average-5", RE_ESTIMATED), ("rna-5", RE_ESTIMATED), ("rna-5", COMBINED))
    for epoch, errors in enumerate(test, start=1):
        for (name, statistics), error, loss in zip(names, errors, held_out, strict=True):
            wrong = np.arange(200) < 2 * error
            header = {"kind": "model", "run": spec.key, "epoch": epoch, "name": name, "statistics": statistics}
            header |= {"error": {"test": error}, "loss": {"held_out": loss}, "images": {"test": 200}}
            ours.append(header, {"test_wrong": np.packbits(wrong)})
        ours.append({"kind": "epoch", "run": spec.key, "epoch": epoch, "seconds": [1.0, 0.5]})
    if end:
        ours.append({"kind": "end", "run": spec.key, "epochs": 50})
    return ours


def test_tables_by_hand(tmp_path):
    """Levels with speed-ups, paired differences, what was not run and why, beside the paper's numbers."""
    written(tmp_path, "sgd", [(40, 30, 25, 50), (20, 12, 13, 20), (12, 11, 12, 12)], (9.0, 2.0, 1.0, 3.0))
    ours = written(
        tmp_path, "momentum", [(30, 20, 20, 30), (14, 12, 12, 14), (10, 10, 9, 10)], (9.0, 1.0, 2.0, 3.0), end=False
    )
    ours.append({"kind": "notes", "notes": {"vgg19": "not run: 3 s are left, too few to time it"}})
    levels, errors, state = tables.tables(read(tmp_path))
    rows = {row[0]: row[1:] for row in levels.rows}
    assert rows["momentum: last iterate"] == ("2", "3", "3", "3", "3", "10.00")
    assert rows["SGD: last iterate"] == ("3 (0.67)", "3 (1.00)", "never", "never", "never", "12.00")
    assert rows["SGD: best of RNA and averages"][0] == "2 (1.00)"
    assert (
        rows["SGD: best of RNA and averages"][-1] == "12.00"
    )  # by held-out loss RNA, though the average's test error is lower
    assert rows["momentum: best of RNA and averages"][-1] == "10.00"
    assert rows["paper: momentum + RNA"][:2] == ("16", "40")
    compared = {row[0]: row[1:] for row in errors.rows}
    error = 100 * np.std([1, 1, *[0] * 198], ddof=1) / np.sqrt(200)  # of 200 images two differ
    assert compared["SGD: RNA, N = 5"][-1] == f"12.00 [+1.00 ± {error:.2f}]"
    assert "layered and anneal: *not run*." in errors.notes
    stated = {row[0]: row[1:] for row in state.rows}
    assert stated["resnet18, SGD"][:2] == ("3 of 50", "1.50")
    assert stated["resnet18, momentum"][0] == "3 of 50, not finished"
    assert stated["vgg19"] == ("*not run*", "", "", "3 s are left, too few to time it")
    assert "not finished" in levels.title
    assert render(state)


def test_curves_stand_where_nothing_was_judged(tmp_path):
    """Every second epoch is judged after the fortieth: the error of the last judged one stands until the next."""
    ours = written(tmp_path, "sgd", [(40, 30, 25, 50)], (9.0, 2.0, 1.0, 3.0))
    run = "cifar10-resnet18-sgd-seed0"
    ours.append({"kind": "epoch", "run": run, "epoch": 2, "seconds": [1.0, 0.0]})
    assert read(tmp_path).runs["resnet18", "sgd"].curve(is_last) == [40, 40]
    ours.append({"kind": "begin", "run": run, "epoch": 1, "spec": {"network": "resnet18", "optimizer": "sgd"}})
    assert read(tmp_path).runs["resnet18", "sgd"].curve(is_last) == [40]


def test_records_of_other_images_are_not_mixed_with_these(tmp_path, cifar):
    """A folder of another attempt is refused before anything is trained."""
    written(tmp_path / "out", "sgd", [(40, 30, 25, 50)], (9.0, 2.0, 1.0, 3.0))
    options = attempt.Options(data=cifar / "data", out=tmp_path / "out", work=tmp_path / "work", budget=9.0, quick=True)
    with pytest.raises(UsageError, match="on other images"):
        attempt.run(options, 0.0, lambda _: None)


def test_times_and_folders_are_checked(tmp_path):
    """A time in any unit; words where it is none, or where there are no records."""
    assert [command.seconds_of(text) for text in ("540", "540s", "9m", "1.5h")] == [540.0, 540.0, 540.0, 5400.0]
    for text in ("", "nine", "0m", "-1", "9 d"):
        with pytest.raises(UsageError, match="a time such as"):
            command.seconds_of(text)
    others = {"data": None, "out": tmp_path, "work": None, "budget": "9m", "quick": False, "say": lambda _: None}
    with pytest.raises(NothingToDo, match="holds no records"):
        command.networks(tables=tmp_path, **others)
    assert command.main(["--tables", str(tmp_path)]) == 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_command_goes_with_networks_and_a_gpu(tmp_path):
    """Another experiment is wrong usage; without a GPU it says so at once, and writes nothing."""
    for arguments in (["figure1", "--cuda"], ["networks", "--budget", "9m"], ["networks", "--cuda", "--so-far"]):
        found = CliRunner().invoke(app, ["reproduce", *arguments])
        assert isinstance(found.exception, UsageError)
        assert "--cuda goes with networks" in str(found.exception)
    found = CliRunner().invoke(app, ["reproduce", "networks", "--cuda", "--out", str(tmp_path / "out")])
    assert "sees no GPU" in str(found.exception)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("python", [sys.executable, pytest.param("python3.12", marks=pytest.mark.slow)])
def test_the_whole_way_in_small_without_any_other_library(cifar, tmp_path, python):
    """Two processes, records, tables, with torch, numpy and the standard library alone; the tables can be made again."""
    if (
        python != sys.executable
        and subprocess.run([python, "-c", "import torch"], capture_output=True, check=False).returncode
    ):
        pytest.skip(f"there is no {python} with torch")
    (tmp_path / "sitecustomize.py").write_text(BLOCKER)
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(root))), "OMP_NUM_THREADS": "1"}
    options = ["--data", cifar / "data", "--out", tmp_path / "out", "--quick", "--budget", "10m"]
    result = subprocess.run(
        [python, "-m", "rna_watch.reproduce.cuda", *options],
        env=environment,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "vgg4 on cifar10: epochs to best + tolerance" in result.stdout
    assert "momentum: layered" in result.stdout
    assert "SGD: anneal from the average" in result.stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["momentum-0.records", "sgd-0.records"]
    shown = CliRunner().invoke(app, ["reproduce", "networks", "--cuda", "--tables", str(tmp_path / "out")])
    assert shown.output.strip() in result.stdout
    found = read(tmp_path / "out")
    assert all(run.finished for run in found.runs.values())
    assert json.loads((tmp_path / "out.work" / "vgg4.json").read_text()) == 5
