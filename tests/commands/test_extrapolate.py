"""`rna-watch extrapolate` and `inspect`: one window, no daemon, on real files."""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from rna_watch.cli import app
from rna_watch.commands import extrapolate
from rna_watch.config import RunConfig
from rna_watch.errors import RefusedCheckpoint
from tests.checkpoints import twins
from tests.daemon.runs import check_output, fingerprints, model_of, rna_watch, train

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve checkpoints of a real training."""
    folder = tmp_path_factory.mktemp("run")
    train(folder, count=12)
    return folder


def _twin(run: Path, steps: range, regularization: float) -> np.ndarray:
    """Algorithm 1 with whole matrices in float64."""
    models = [model_of(run / f"step_{step}.pt") for step in steps]
    buffers = ("norm.running_mean", "norm.running_var", "norm.num_batches_tracked", "positions", "second.weight")
    names = [name for name in models[0] if name not in buffers]
    x = np.stack([np.concatenate([m[n].double().numpy().ravel() for n in names]) for m in models])
    residuals = np.diff(x, axis=0)
    gram = residuals @ residuals.T
    z = np.linalg.solve(gram / np.linalg.norm(gram, 2) + regularization * np.eye(len(gram)), np.ones(len(gram)))
    return z / z.sum()


def test_the_result_is_the_papers_algorithm_with_inputs_in_the_order_of_their_steps(run: Path, tmp_path: Path) -> None:
    """Given in any order, step_10 after step_9: coefficients equal the float64 twin, the model is their combination."""
    before = fingerprints(run)
    given = [run / f"step_{step}.pt" for step in (10, 7, 12, 9, 8, 11)]
    out = tmp_path / "out.pt"
    result = rna_watch(
        "extrapolate", *given, "-o", out, "--regularization", 1e-8, "--residuals", "difference", "--json"
    )
    assert result.returncode == 0, result.stderr
    manifest = json.loads(result.stdout)
    assert [Path(each["path"]).name for each in manifest["inputs"]] == [f"step_{step}.pt" for step in range(7, 13)]
    np.testing.assert_allclose(manifest["coefficients"], _twin(run, range(7, 13), 1e-8), rtol=1e-6)
    assert manifest["weights"] == [0.0, *manifest["coefficients"]]
    assert json.loads((tmp_path / "out.pt.json").read_text()) == manifest
    check_output(out, run)
    assert fingerprints(run) == before


def test_lambda_may_be_none_at_all(run: Path, tmp_path: Path) -> None:
    """`--regularization 0` is Algorithm 1 without it, where the window holds the digits, and is recorded as 0."""
    given = [str(run / f"step_{step}.pt") for step in range(7, 13)]
    options = ["--regularization", "0", "--residuals", "difference", "--json"]
    result = CliRunner().invoke(app, ["extrapolate", *given, "-o", str(tmp_path / "out.pt"), *options])
    assert result.exit_code == 0, result.output
    manifest = json.loads(result.stdout)
    assert (manifest["candidate"], manifest["regularization"]) == ("rna-5-0e+00", 0.0)
    assert manifest["diagnostics"]["norm2_bound"] is None
    np.testing.assert_allclose(manifest["coefficients"], _twin(run, range(7, 13), 0.0), rtol=1e-6)
    check_output(tmp_path / "out.pt", run)


def test_without_lambda_the_norm_stays_small(run: Path, tmp_path: Path) -> None:
    """The smallest lambda is taken that keeps the norm of the coefficients at most 3."""
    given = [run / f"step_{step}.pt" for step in range(1, 13)]
    result = rna_watch("extrapolate", *given, "-o", tmp_path / "out.pt", "--json")
    manifest = json.loads(result.stdout)
    assert manifest["diagnostics"]["norm2"] <= 3
    assert manifest["regularization"] >= 1e-8


def test_average_and_last_and_window(run: Path, tmp_path: Path) -> None:
    """--method average of --window 4 is the mean of the newest four; last is the newest bitwise."""
    given = [run / f"step_{step}.pt" for step in range(1, 13)]
    rna_watch("extrapolate", *given, "-o", tmp_path / "average.pt", "--method", "average", "--window", 4)
    mean = sum(model_of(run / f"step_{step}.pt")["conv.weight"].double() for step in range(9, 13)) / 4
    assert torch.allclose(model_of(tmp_path / "average.pt")["conv.weight"].double(), mean, rtol=0, atol=1e-7)
    rna_watch("extrapolate", *given, "-o", tmp_path / "last.pt", "--method", "last")
    newest, last = model_of(run / "step_12.pt"), model_of(tmp_path / "last.pt")
    assert all(torch.equal(newest[name], last[name]) for name in newest)


def test_layered_takes_the_rows_of_a_manifest(run: Path, tmp_path: Path) -> None:
    """The tensors that it names get their own weights, the model verifies to the bit, a changed row does not."""
    given = [str(run / f"step_{step}.pt") for step in range(7, 13)]
    plain, out = tmp_path / "average.pt", tmp_path / "out.pt"
    average = rna_watch("extrapolate", *given, "-o", plain, "--method", "average", "--json")
    content = json.loads(average.stdout)
    assert (content["schema"], content["layer_weights"]) == (1, None)
    rows = {"conv.weight": [0.5, 0, 0, 0, 0, 0.5], "first.weight": [0, 0, 0, 0, -1, 2]}
    (tmp_path / "saved.json").write_text(json.dumps(content | {"layer_weights": rows, "schema": 2}))
    made = rna_watch(
        "extrapolate", *given, "-o", out, "--method", "layered", "--manifest", tmp_path / "saved.json", "--json"
    )
    assert made.returncode == 0, made.stderr
    said = json.loads(made.stdout)
    assert (said["schema"], said["method"], said["candidate"]) == (2, "layered", "layered-5")
    assert (said["layer_weights"], said["weights"]) == (rows, content["weights"])
    models, found = [model_of(Path(path)) for path in given], model_of(out)
    whole, tied = model_of(plain), {"second.weight": "first.weight"}
    for name, tensor in found.items():
        row = rows.get(tied.get(name, name))
        if row is None:
            assert torch.equal(tensor, whole[name]), name
        else:
            expected = sum(weight * model[name].double() for weight, model in zip(row, models, strict=True))
            assert twins.is_rounded(tensor, expected), name
    assert rna_watch("verify", out).returncode == 0
    manifest = tmp_path / "out.pt.json"
    manifest.write_text(
        manifest.read_text().replace("[0.0, 0.0, 0.0, 0.0, -1.0, 2.0]", "[0.0, 0.0, 0.0, 0.0, -2.0, 3.0]")
    )
    differs = rna_watch("verify", out)
    assert (differs.returncode, "first.weight: " in differs.stdout) == (1, True)
    manifest.write_text(manifest.read_text().replace("first.weight", "nothing"))
    assert "its inputs have no" in rna_watch("verify", out).stdout


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--method", "layered"), "name the manifest of such a model with --manifest MODEL.json"),
        (("--method", "layered", "--manifest", "plain.json"), "has one row of weights for the whole model"),
        (("--method", "layered", "--manifest", "none.json"), "its manifest cannot be read"),
        (("--manifest", "plain.json"), "--manifest is for --method product and --method layered only"),
    ],
)
def test_layered_needs_the_manifest_of_a_layered_model(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...], words: str
) -> None:
    """Without one, with one of another kind, or for another method, it says what to give."""
    monkeypatch.chdir(tmp_path)
    inputs = [{"path": "a", "fingerprint": "b"}]
    (tmp_path / "plain.json").write_text(json.dumps({"schema": 1, "inputs": inputs, "weights": [1]}))
    result = CliRunner().invoke(
        app, ["extrapolate", *(str(run / f"step_{k}.pt") for k in (1, 2, 3)), "-o", "o.pt", *given]
    )
    assert (result.exit_code, words in str(result.exception)) == (1, True), result.exception
    assert not (tmp_path / "o.pt").exists()


def test_an_existing_output_is_kept_without_force(run: Path, tmp_path: Path) -> None:
    """An output that exists, or is an input, is refused; --force replaces the first but never the second."""
    given = [run / f"step_{step}.pt" for step in range(1, 5)]
    out = tmp_path / "out.pt"
    out.write_text("something dear")
    refused = rna_watch("extrapolate", *given, "-o", out)
    assert refused.returncode == 2
    assert "--force" in refused.stderr
    assert out.read_text() == "something dear"
    assert rna_watch("extrapolate", *given, "-o", out, "--force").returncode == 0
    check_output(out, run)
    itself = rna_watch("extrapolate", *given, "-o", given[-1], "--force")
    assert itself.returncode == 2
    assert "originals are never written" in itself.stderr


@pytest.mark.parametrize("name", ["out.pt", "out.pt.json"])
def test_what_gets_the_name_meanwhile_is_kept(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Somebody writes a file of that name while we compute: it stays, nothing of ours is left, and --force is named."""
    measure = extrapolate.measure

    def slow(*given: Any, **options: Any) -> Any:
        (tmp_path / name).write_text("something dear")
        return measure(*given, **options)

    monkeypatch.setattr(extrapolate, "measure", slow)
    given = [run / f"step_{step}.pt" for step in range(1, 5)]
    refused = rna_watch("extrapolate", *given, "-o", tmp_path / "out.pt")
    assert refused.returncode == 2
    assert f"{name} exists by now; name another file, or replace it with --force" in refused.stderr
    assert (tmp_path / name).read_text() == "something dear"
    assert os.listdir(tmp_path) == [name]


def test_a_link_at_the_output_is_not_followed(run: Path, tmp_path: Path) -> None:
    """A link is refused like a file, dangling or not; with --force it gives way, and what it shows stays."""
    given = [run / f"step_{step}.pt" for step in range(1, 5)]
    (tmp_path / "dear").write_text("something dear")
    (tmp_path / "out.pt").symlink_to("dear")
    (tmp_path / "other.pt").symlink_to("nothing")
    for out in ("out.pt", "other.pt"):
        assert rna_watch("extrapolate", *given, "-o", tmp_path / out).returncode == 2
        assert rna_watch("extrapolate", *given, "-o", tmp_path / out, "--force").returncode == 0
        assert not (tmp_path / out).is_symlink()
        check_output(tmp_path / out, run)
    assert (tmp_path / "dear").read_text() == "something dear"
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("{run}/step_1.pt", "{run}/step_2.pt"), 2, "needs 3 or more"),
        (("{run}/step_1.pt", "{run}/step_2.pt", "{run}/none.pt"), 2, "none.pt does not exist"),
        (("{run}/step_1.pt", "{run}/step_2.pt", "{other}"), 1, "the model changed"),
        (
            ("{run}/step_1.pt", "{run}/step_2.pt", "{run}/step_3.pt", "--method", "magic"),
            2,
            "rna, simplex, capped, average",
        ),
        (("{run}/step_1.pt", "{run}/step_1.pt", "{run}/step_1.pt", "--regularization", "1e-8"), 1, "equal"),
    ],
)
def test_what_cannot_be_combined_is_said(
    run: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    """Too few, missing, different or equal checkpoints: one line and an exit code, and nothing is written."""
    other = tmp_path / "other.pt"
    torch.save({"weight": torch.zeros(3)}, other)
    filled = [part.format(run=run, other=other) for part in arguments]
    result = rna_watch("extrapolate", *filled, "-o", tmp_path / "out.pt")
    assert result.returncode == code
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out.pt").exists()


def test_inspect_says_what_a_file_is(run: Path) -> None:
    """Format, place of the model, counters, tensors by role and ties, for a person and as JSON."""
    words = rna_watch("inspect", run / "step_3.pt").stdout
    for fact in (
        "complete",
        "torch zip",
        "under 'model'",
        "step 3",
        "running variances",
        "second.weight = first.weight",
    ):
        assert fact in words
    report = json.loads(rna_watch("inspect", run / "step_3.pt", "--json").stdout)
    roles = {tensor["name"]: tensor["role"] for tensor in report["tensors"]}
    assert roles["conv.weight"] == "parameter"
    assert roles["norm.running_var"] == "variance"
    assert roles["positions"] == "copied"


_METHODS = [name for name in extrapolate.ALONE if name in extrapolate.METHODS]


def _window(folder: Path, change: Callable[[int, dict[str, torch.Tensor]], object] = lambda _n, _t: None) -> list[Path]:
    """Four checkpoints of one walk, in float32, with a mask whose infinities stay."""
    generator = torch.Generator().manual_seed(0)
    tensors = {"a.weight": torch.randn(40, 30, generator=generator), "b.bias": torch.randn(30, generator=generator)}
    paths = []
    for number in range(4):
        for tensor in tensors.values():
            tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.01)
        saved = {name: tensor.clone() for name, tensor in tensors.items()}
        saved |= {"mask": torch.tensor([0.0, -math.inf]), "bn.running_mean": torch.full((3,), float(number))}
        change(number, saved)
        paths.append(folder / f"epoch_{number}.pt")
        torch.save(saved, paths[-1])
    return paths


@pytest.mark.parametrize("method", _METHODS)
@pytest.mark.parametrize("name", ["b.bias", "bn.running_mean"])
@pytest.mark.parametrize("which", [0, 2, 3])
def test_weights_that_are_not_finite_are_refused_by_every_method(
    method: str, name: str, which: int, tmp_path: Path
) -> None:
    """The checkpoint that holds them is named, be it one of weight 0; no model and no manifest are left."""

    def change(number: int, tensors: dict[str, torch.Tensor]) -> None:
        if number == which:
            tensors[name][1] = math.nan

    paths = _window(tmp_path, change)
    with pytest.raises(RefusedCheckpoint, match=rf"^NaN or infinite weights in \S*epoch_{which}\.pt: leave it out"):
        extrapolate.extrapolate(paths, tmp_path / "out.pt", _request(method))
    assert sorted(each.name for each in tmp_path.iterdir()) == [path.name for path in paths]


@pytest.mark.parametrize("method", _METHODS)
def test_every_method_leaves_out_what_repeats_and_warns_of_another_training(method: str, tmp_path: Path) -> None:
    """A checkpoint that equals the one before counts once; one whose weights are new is named, in the notes too."""

    def change(number: int, tensors: dict[str, torch.Tensor]) -> None:
        if number == 3:
            tensors["a.weight"][:] = torch.randn(40, 30, generator=torch.Generator().manual_seed(9))

    paths = _window(tmp_path, change)
    shutil.copy(paths[1], tmp_path / "epoch_1b.pt")
    os.utime(paths[0], (1, 1))
    said: list[str] = []
    manifest = extrapolate.extrapolate(
        [*paths, tmp_path / "epoch_1b.pt"], tmp_path / "out.pt", _request(method), said.append
    )
    assert len(manifest["inputs"]) == 4
    assert "1 of the checkpoints equal the next one bit for bit and are left out" in manifest["reason"]
    assert len(said) == 1
    assert "epoch_3.pt: " in said[0]
    assert manifest["notes"][-1:] == said
    assert json.loads((tmp_path / "out.pt.json").read_text()) == json.loads(json.dumps(manifest))


def test_an_average_reads_its_window_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights are known in advance, so that there is no pass for a Gram matrix; the model is the sum that they name."""
    work: list[object] = []
    real = extrapolate.LocalEngine.map
    monkeypatch.setattr(extrapolate.LocalEngine, "map", lambda self, tasks: work.extend(tasks) or real(self, tasks))
    paths = _window(tmp_path)
    manifest = extrapolate.extrapolate(paths, tmp_path / "out.pt", _request("average"))
    assert {type(task).__name__ for task in work} <= {"CombineTask", "CopyTask"}
    models = [torch.load(path, weights_only=True)["a.weight"].double() for path in paths]
    expected = sum(weight * model for weight, model in zip(manifest["weights"], models, strict=True))
    found = torch.load(tmp_path / "out.pt", weights_only=True)["a.weight"]
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-7)
    assert manifest["diagnostics"]["condition"] is manifest["diagnostics"]["gain"] is None
    assert manifest["diagnostics"]["effective_count"] == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("settings", "on_ray"),
    [
        ({}, False),
        ({"engine": "local", "ray_from": 0.0, "ray_address": "host:1"}, False),
        ({"engine": "ray"}, True),
        ({"ray_address": "host:1"}, True),
        ({"ray_from": 0.0}, True),
    ],
)
def test_ray_takes_the_work_where_it_is_named_or_the_window_is_large(
    settings: dict[str, Any], on_ray: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`engine`, `ray_address` and `ray_from` decide as for a daemon; else processes of this machine begin at once."""
    started: list[RunConfig] = []

    def start(config: RunConfig) -> extrapolate.LocalEngine:
        started.append(config)
        return extrapolate.LocalEngine(1)

    monkeypatch.setattr(extrapolate, "start_ray", start)
    request = replace(_request("rna"), settings=RunConfig(**settings))
    extrapolate.extrapolate(_window(tmp_path), tmp_path / "out.pt", request)
    assert bool(started) is on_ray


def _request(method: str) -> extrapolate.Request:
    return extrapolate.Request(method=method, window=None, regularization=None, settings=RunConfig(), force=False)
