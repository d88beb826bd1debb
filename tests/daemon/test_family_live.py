"""The settings of the family in real commands: several evaluators, learning rates, forms of residuals, one window by hand."""

from __future__ import annotations

import json
import os
import re
import signal
import time
import zipfile
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from rna_watch.cli import app
from rna_watch.errors import RefusedCheckpoint
from tests.daemon.in_process import process
from tests.daemon.runs import (
    EVALUATOR,
    HERE,
    alive,
    check_output,
    events,
    model_of,
    published,
    rna_watch,
    start_foreground,
    status,
    train,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

CONCURRENT = f"{HERE / 'concurrent_evaluator.py'}"
OFFERING = f"{HERE / 'offering.py'}:evaluate"


@pytest.fixture(scope="module")
def sgd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven checkpoints of a training with SGD and momentum."""
    folder = tmp_path_factory.mktemp("sgd")
    train(folder, count=7)
    return folder


@pytest.fixture(scope="module")
def adam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five checkpoints of a training with Adam."""
    folder = tmp_path_factory.mktemp("adam")
    train(folder, count=5, optimizer="adam")
    return folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the evaluators of concurrent_evaluator.py meet."""
    place = tmp_path / "folder"
    place.mkdir()
    os.mkfifo(place / "pipe")
    monkeypatch.setenv("FOLDER", str(place))
    return place


def _manifest(model: Path) -> dict[str, Any]:
    return json.loads(model.with_name(f"{model.name}.json").read_text())


def test_two_evaluators_work_at_a_time_and_choose_the_same(tmp_path: Path, folder: Path) -> None:
    """Two processes evaluate at once with --evaluators 2, and the choice is that of one alone."""
    run, alone = tmp_path / "run", tmp_path / "alone"
    train(run, count=3)
    train(alone, count=3)
    settings = ("--engine", "local", "--workers", 1)
    result = rna_watch("once", run, *settings, "--evaluators", 2, "--evaluator", f"{CONCURRENT}:meet")
    assert result.returncode == 0, result.stderr
    assert rna_watch("once", alone, *settings, "--evaluator", EVALUATOR).returncode == 0
    lines = [line.split() for line in (folder / "models").read_text().splitlines()]
    spans = [(pid, float(begun), float(ended)) for pid, begun, ended in lines]
    assert len({pid for pid, _, _ in spans}) == 2
    assert any(
        one != other and begun < its_end and its_begin < ended
        for one, begun, ended in spans
        for other, its_begin, its_end in spans
    )
    (mine,), (theirs,) = events(run, "chosen"), events(alone, "chosen")
    assert (mine.candidate, mine.weights, mine.metrics) == (theirs.candidate, theirs.weights, theirs.metrics)
    assert (run / "rna" / "step_3.pt").read_bytes() == (alone / "rna" / "step_3.pt").read_bytes()
    counts = Counter((event.checkpoint, event.candidate) for event in events(run, "evaluated"))
    assert counts == Counter((event.checkpoint, event.candidate) for event in events(alone, "evaluated"))


@pytest.mark.parametrize(
    "engine", ["local", pytest.param("ray", marks=[pytest.mark.slow, pytest.mark.xdist_group("ray")])]
)
def test_a_signal_ends_evaluations_at_once(tmp_path: Path, folder: Path, engine: str) -> None:
    """SIGTERM while two models are evaluated ends the daemon within seconds, and both processes with it."""
    run = tmp_path / "run"
    train(run, count=3)
    daemon = start_foreground(
        run, "--engine", engine, "--workers", 1, "--evaluators", 2, "--evaluator", f"{CONCURRENT}:hang"
    )
    hanging = folder / "hanging"
    try:
        wait_until(lambda: hanging.exists() and len(hanging.read_text().splitlines()) == 2)
        wait_until(lambda: [w["name"] for w in status(run)["workers"]].count("evaluator") == 2)
        workers = status(run)["workers"]
        begun = time.monotonic()
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(timeout=20) == 0
        assert time.monotonic() - begun < 10
    finally:
        daemon.kill()
        daemon.communicate()
    pids = [int(line) for line in hanging.read_text().splitlines()]
    wait_until(lambda: not any(alive(pid) for pid in [*pids, *(worker["pid"] for worker in workers)]))
    assert events(run, "stopped")[-1].reason == "signal SIGTERM"
    assert [event.candidate for event in events(run, "evaluation_failed")] == []


def test_killed_amid_evaluations_it_chooses_what_it_would_have(tmp_path: Path, folder: Path) -> None:
    """Candidates with values per example are evaluated again after kill -9; the choice is that of an undisturbed run."""
    run, calm = tmp_path / "run", tmp_path / "calm"
    train(run, count=3)
    train(calm, count=3)
    settings = ("--engine", "local", "--workers", 1, "--evaluator", f"{CONCURRENT}:examples")
    (folder / "hold").touch()
    daemon = start_foreground(run, *settings)
    try:
        wait_until((folder / "hanging").exists)
    finally:
        daemon.kill()
        daemon.communicate()
    (folder / "hold").unlink()
    before = Counter(event.candidate for event in events(run, "evaluated") if event.checkpoint == "step_3.pt")
    assert len(before) == 3
    assert rna_watch("once", run, *settings).returncode == 0
    assert rna_watch("once", calm, *settings).returncode == 0
    again = Counter(event.candidate for event in events(run, "evaluated") if event.checkpoint == "step_3.pt")
    assert {name for name, count in again.items() if count == 2} == set(before)
    assert {event.examples for event in events(run, "evaluated")} == {64}
    (mine,), (theirs,) = events(run, "chosen"), events(calm, "chosen")
    assert (mine.candidate, mine.weights, mine.comparisons) == (theirs.candidate, theirs.weights, theirs.comparisons)
    assert mine.significant == theirs.significant is not None
    assert (run / "rna" / "step_3.pt").read_bytes() == (calm / "rna" / "step_3.pt").read_bytes()


def test_re_estimated_statistics_reach_the_file(tmp_path: Path, sgd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole command with every kind of candidate: files that torch loads, checksums right, manifests that say it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    methods = "average,ema,decay,rna,simplex,capped,soup,line,trained"
    settings = ("--engine", "local", "--methods", methods, "--evaluator", OFFERING, "--metric", "loss")
    result = rna_watch(
        "once", sgd, *settings, "--output", tmp_path, "--normalization", "both", "--max-candidates", 20, "--keep", 20
    )
    assert result.returncode == 0, result.stderr
    kinds = set()
    for name in published(sgd, tmp_path):
        path = tmp_path / "rna" / name
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
        manifest = _manifest(path)
        kinds.add(manifest["statistics"])
        model = model_of(path)
        total = float(model["norm.running_mean"].sum() + model["norm.running_var"].sum())
        assert manifest["metrics"]["chosen"]["statistics"] == pytest.approx(total, abs=1e-12)
        assert torch.load(path, weights_only=True)["step"] == int(re.sub(r"\D", "", name))
    assert "re-estimated" in kinds
    assert rna_watch("verify", tmp_path / "rna").returncode == 0
    methods_tried = {each["method"] for event in events(sgd, "searched", tmp_path) for each in event.candidates}
    assert methods_tried >= {"average", "soup", "line", "trained"}


def test_a_jump_of_the_learning_rate_begins_a_new_window(tmp_path: Path) -> None:
    """A learning rate cut to a tenth midway is said with its reason; the window behind it holds nothing from before."""
    run = tmp_path / "run"
    train(run, count=7, factor=0.1, at=4)
    result = rna_watch("once", run, "--engine", "local")
    assert result.returncode == 0, result.stderr
    (started,) = events(run, "window_started")
    assert started.checkpoint == "step_4.pt"
    assert started.reason == "the learning rate jumped from 0.05 to 0.005"
    assert (
        "step_4.pt  starts a new window: the learning rate jumped from 0.05 to 0.005" in rna_watch("logs", run).stdout
    )
    states = {each["name"]: each for each in status(run)["checkpoints"]}
    assert "of a new window" in states["step_4.pt"]["reason"]
    assert published(run) == ["step_3.pt", "step_6.pt", "step_7.pt"]
    assert [event.inputs[0] for event in events(run, "chosen")] == ["step_1.pt", "step_4.pt", "step_4.pt"]


@pytest.mark.parametrize(
    ("options", "settings"),
    [({"factor": 0.9}, {}), ({"factor": 0.1, "at": 4}, {"learning_rate_jump": "inf"})],
    ids=["gradual", "never"],
)
def test_a_gradual_decay_begins_none(tmp_path: Path, options: dict[str, object], settings: dict[str, str]) -> None:
    """A learning rate that falls by a tenth at a time, or any with `inf`, leaves the window whole."""
    run = tmp_path / "run"
    train(run, count=6, **options)
    process(run, run, **settings)
    assert events(run, "window_started") == []
    assert [len(event.inputs) for event in events(run, "chosen")] == [3, 4, 5, 6]
    assert "learning rate went from" in _manifest(run / "rna" / "step_6.pt")["notes"][0]


@pytest.mark.parametrize(
    ("optimizer", "wanted", "form", "note"),
    [
        ("sgd", "auto", "gradient", None),
        ("sgd", "gradient", "gradient", None),
        ("sgd", "learning-rate", "learning-rate", None),
        ("sgd", "difference", "difference", None),
        ("adam", "auto", "difference", "Adam has no exact identity for its gradients"),
        ("adam", "gradient", "difference", "Adam has no exact identity for its gradients"),
    ],
)
def test_the_form_of_the_residuals_is_in_the_manifest(
    request: pytest.FixtureRequest, tmp_path: Path, optimizer: str, wanted: str, form: str, note: str | None
) -> None:
    """Momentum in the checkpoints gives gradients, Adam's state does not and it is said why; a wish is obeyed."""
    run = request.getfixturevalue(optimizer)
    process(run, tmp_path, residuals=wanted)
    for name in published(run, tmp_path):
        manifest = _manifest(tmp_path / "rna" / name)
        assert manifest["residuals"] == form
        assert [note] == [None] if note is None else note in manifest["notes"][0]
        assert (manifest["notes"] == []) == (note is None)
        check_output(tmp_path / "rna" / name, run)


def _extrapolate(run: Path, out: Path, *options: object, count: int = 6) -> dict[str, Any]:
    """`rna-watch extrapolate --json`, in this process."""
    given = [str(run / f"step_{step}.pt") for step in range(1, count + 1)]
    arguments = ["extrapolate", *given, "-o", str(out), "--json", *map(str, options)]
    result = CliRunner().invoke(app, arguments, standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return json.loads(result.stdout)


@pytest.mark.parametrize("method", ["rna", "simplex", "capped", "ema", "decay", "average", "last"])
def test_every_method_by_hand(sgd: Path, tmp_path: Path, method: str) -> None:
    """Each method of `extrapolate` writes the combination that its manifest names, within the bounds it promises."""
    manifest = _extrapolate(sgd, tmp_path / "out.pt", "--method", method, "--l1-cap", 1.5, "--ema-decay", 0.5)
    check_output(tmp_path / "out.pt", sgd)
    assert manifest["method"] == method
    weights = np.array(manifest["weights"])
    if method in {"simplex", "ema", "decay", "average", "last"}:
        assert (weights >= -1e-12).all()
    if method == "capped":
        assert np.abs(weights).sum() <= 1.5 + 1e-9
    if method == "ema":
        np.testing.assert_allclose(weights[1:-1] / weights[2:], 0.5)
    if method == "average":
        np.testing.assert_allclose(weights[1:], 0.2)
    if method == "last":
        assert weights.tolist() == [0.0] * 5 + [1.0]
    assert weights[0] == 0.0


def test_mixing_by_hand(sgd: Path, tmp_path: Path) -> None:
    """The model lies half way between the combinations of the newer and of the older ends with --mixings 0.5."""
    options = ("--regularization", 1e-4)
    c = np.array(_extrapolate(sgd, tmp_path / "one.pt", *options)["coefficients"])
    manifest = _extrapolate(sgd, tmp_path / "half.pt", *options, "--mixings", 0.5)
    assert manifest["mixing"] == 0.5
    np.testing.assert_allclose(manifest["coefficients"], c)
    np.testing.assert_allclose(manifest["weights"], 0.5 * np.append(0.0, c) + 0.5 * np.append(c, 0.0), atol=1e-15)
    check_output(tmp_path / "half.pt", sgd)


def test_without_lambda_priors_and_mixings_are_obeyed(sgd: Path, tmp_path: Path) -> None:
    """A large lambda leaves the prior; the paper's prior is the uniform average."""
    last = _extrapolate(sgd, tmp_path / "last.pt", "--regularization", 1e6, "--priors", "last")
    uniform = _extrapolate(sgd, tmp_path / "uniform.pt", "--regularization", 1e6)
    np.testing.assert_allclose(last["weights"], [0, 0, 0, 0, 0, 1], atol=1e-5)
    np.testing.assert_allclose(uniform["weights"], [0, 0.2, 0.2, 0.2, 0.2, 0.2], atol=1e-5)
    assert (last["prior"], uniform["prior"]) == ("last", "uniform")


def test_gradients_by_hand(sgd: Path, adam: Path, tmp_path: Path) -> None:
    """--residuals gradient takes the momentum into account; where there is none it says so, and takes differences."""
    options = ("--regularization", 1e-6)
    gradient = _extrapolate(sgd, tmp_path / "a.pt", *options, "--residuals", "gradient")
    difference = _extrapolate(sgd, tmp_path / "b.pt", *options, "--residuals", "difference")
    assert (gradient["residuals"], difference["residuals"]) == ("gradient", "difference")
    assert np.abs(np.subtract(gradient["weights"], difference["weights"])).max() > 0.01
    other = _extrapolate(adam, tmp_path / "c.pt", "--residuals", "gradient", count=5)
    assert other["residuals"] == "difference"
    assert "Adam" in other["notes"][0]


@pytest.mark.parametrize(
    "dtype",
    [
        torch.bfloat16,
        torch.float32,
    ],
)
def test_a_lambda_in_the_rounding_is_refused_and_the_least_is_named(tmp_path: Path, dtype: torch.dtype) -> None:
    """Below the floor of the stored dtype's rounding lambda would fit noise: the least that would not is named, and works."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4000, generator=generator, dtype=torch.float64)
    step_size = 0.05 if dtype is torch.bfloat16 else 1e-6
    for step in range(1, 7):
        weight = weight + step_size * torch.randn(4000, generator=generator, dtype=torch.float64)
        torch.save({"weight": weight.to(dtype)}, tmp_path / f"step_{step}.pt")
    with pytest.raises(RefusedCheckpoint, match=r"Lambda 1e-08 lies below .*take a larger one") as refused:
        _extrapolate(tmp_path, tmp_path / "out.pt", "--regularization", 1e-8)
    assert not (tmp_path / "out.pt").exists()
    (least,) = re.findall(r"lies below ([0-9.e+-]+),", str(refused.value))
    manifest = _extrapolate(tmp_path, tmp_path / "out.pt", "--regularization", least)
    assert manifest["regularization"] == float(least)


def _falling(run: Path, variances: Sequence[float]) -> None:
    """Checkpoints whose running variance falls steeply while the weights come to rest."""
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(50, generator=generator)
    for step, variance in enumerate(variances, 1):
        weight = 0.5**step * direction + 1e-3 * torch.randn(50, generator=generator)
        state = {"weight": weight, "bn.running_mean": torch.zeros(2), "bn.running_var": torch.full((2,), variance)}
        torch.save({"step": step, "model": state}, run / f"step_{step}.pt")


def test_combined_variances_by_hand_may_be_negative(tmp_path: Path) -> None:
    """--normalization combine writes the paper's combination, negative variances too, where clamp stops at zero."""
    _falling(tmp_path, (900.0, 300.0, 90.0, 1.0))
    found = {}
    for kind in ("combine", "clamp"):
        out = tmp_path / f"{kind}.pt"
        manifest = _extrapolate(tmp_path, out, "--normalization", kind, "--regularization", 1e-8, count=4)
        assert min(manifest["weights"]) < 0
        variances = [model_of(tmp_path / f"step_{step}.pt")["bn.running_var"].double() for step in range(1, 5)]
        twin = sum(w * each for w, each in zip(manifest["weights"], variances, strict=True))
        found[kind] = model_of(out)["bn.running_var"]
        expected = twin.clamp(min=0) if kind == "clamp" else twin
        assert torch.allclose(found[kind].double(), expected, rtol=1e-6)
        with zipfile.ZipFile(out) as archive:
            assert archive.testzip() is None
    assert (found["combine"] < 0).all()
    assert (found["clamp"] == 0).all()


def test_the_manifest_of_combined_variances_says_so(tmp_path: Path) -> None:
    """What `extrapolate` wrote can be verified: the manifest says that variances were combined without a clamp."""
    _falling(tmp_path, (900.0, 300.0, 90.0, 1.0))
    options = ("--normalization", "combine", "--regularization", 1e-8)
    assert _extrapolate(tmp_path, tmp_path / "out.pt", *options, count=4)["statistics"] == "combined"
    assert rna_watch("verify", tmp_path / "out.pt").returncode == 0
