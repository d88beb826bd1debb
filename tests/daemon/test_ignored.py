"""Tensors that are left out with `--ignore`, and buffers that change their shape: windows go on, and the newest's are copied."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rna_watch.errors import AllIgnored
from rna_watch.formats.optimizer_state import assign
from rna_watch.formats.probe import probe
from rna_watch.journal.kept import stale
from rna_watch.layout.agreement import difference
from rna_watch.window.equality import same_values
from tests.checkpoints.twins import combine, is_rounded, same_bits
from tests.daemon.runs import events, published, rna_watch, status

if TYPE_CHECKING:
    from collections.abc import Callable

LOCAL = ("--engine", "local", "--workers", 1, "--one-run")  # heads that jump at random look like other trainings
EVALUATOR = ("--evaluator", f"{Path(__file__).parent / 'ignoring_evaluator.py'}:evaluate", "--metric", "loss")
HEAD = ("--ignore", "head.*")
IGNORED = ["head.weight", "head.bias"]

Tensors = dict[str, torch.Tensor]


def weights(step: int, *, rows: int = 3, dtype: torch.dtype = torch.float32) -> Tensors:
    """A model on its way: a body that tends to one, and a head that grows wildly."""
    generator = torch.Generator().manual_seed(step)
    ways = [torch.randn(4, 5, generator=torch.Generator().manual_seed(99 + number)) for number in range(2)]
    body = 1 + sum(rate**step * way for rate, way in zip((0.8, 0.5), ways, strict=True))
    return {
        "body.weight": body + 0.01 * torch.randn(4, 5, generator=generator),
        "body.bias": torch.randn(4, generator=generator) * 0.5**step,
        "head.weight": (50 * torch.randn(rows, 4, generator=generator)).to(dtype),
        "head.bias": torch.randn(rows, generator=generator).to(dtype),
    }


def save_zip(path: Path, tensors: Tensors, step: int) -> None:
    """As torch.save writes it."""
    torch.save({"model": tensors, "step": step}, path)


def save_legacy(path: Path, tensors: Tensors, step: int) -> None:
    """As torch.save wrote it before 1.6."""
    torch.save({"model": tensors, "step": step}, path, _use_new_zipfile_serialization=False)


def save_safetensors(path: Path, tensors: Tensors, step: int) -> None:
    """As safetensors writes it."""
    save_file(tensors, path, {"step": str(step)})


SAVERS: dict[str, tuple[str, Callable[[Path, Tensors, int], None]]] = {
    "zip": (".pt", save_zip),
    "legacy": (".pt", save_legacy),
    "safetensors": (".safetensors", save_safetensors),
}


def load(path: Path) -> Tensors:
    """The model of a file, as programs load it."""
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)["model"]


def manifest(model: Path) -> dict[str, Any]:
    """The manifest of a model."""
    return json.loads(model.with_name(f"{model.name}.json").read_text())


def save_run(folder: Path, form: str = "zip", count: int = 6, **how: Any) -> list[Path]:
    """Checkpoints of a run whose head gets another shape and dtype in the middle."""
    folder.mkdir(exist_ok=True)
    ending, save = SAVERS[form]
    paths = [folder / f"step_{step}{ending}" for step in range(1, count + 1)]
    for step, path in enumerate(paths, 1):
        changed = {"rows": 7, "dtype": torch.float16} if step > count // 2 else {}
        save(path, weights(step, **(how or changed)), step)
    return paths


def check(model: Path, originals: Path, copied: list[str]) -> None:
    """A model is the combination that its manifest names, but for what is the newest checkpoint's, bit for bit."""
    made = manifest(model)
    inputs = [load(originals / each["path"]) for each in made["inputs"]]
    own = {name: [each[name] for each in inputs] for name in inputs[-1] if name not in copied}
    twin = combine([{name: each[k] for name, each in own.items()} for k in range(len(inputs))], made["weights"])
    found = load(model)
    assert found.keys() == inputs[-1].keys()
    for name, tensor in found.items():
        assert same_bits(tensor, inputs[-1][name]) if name in copied else is_rounded(tensor, twin[name]), name


def gram(models: list[Tensors], names: list[str]) -> np.ndarray:
    """The Gram matrix of differences, by a slow twin in float64."""
    x = np.stack([np.concatenate([model[name].double().numpy().ravel() for name in names]) for model in models])
    residuals = np.diff(x, axis=0)
    return residuals @ residuals.T


@pytest.mark.parametrize("form", SAVERS)
def test_a_run_goes_on_whatever_happens_to_what_is_ignored(tmp_path: Path, form: str) -> None:
    """A head that changes shape and dtype ends no window; models have the newest's head, and the rest is combined."""
    paths = save_run(tmp_path / "run", form)
    result = rna_watch("once", tmp_path / "run", *LOCAL, *EVALUATOR, *HEAD, "--keep", 10)
    assert result.returncode == 0, result.stderr
    assert not events(tmp_path / "run", "window_started")
    assert not events(tmp_path / "run", "problem")
    assert published(tmp_path / "run") == [path.name for path in paths[2:]]
    for path in paths[2:]:
        model = tmp_path / "run" / "rna" / path.name
        assert (manifest(model)["ignore"], sorted(manifest(model)["ignored"])) == (["head.*"], sorted(IGNORED))
        check(model, tmp_path / "run", IGNORED)
    last = events(tmp_path / "run", "measured")[-1]
    twin = gram([load(path) for path in paths], ["body.weight", "body.bias"])
    np.testing.assert_allclose(last.rows[-1], twin[-1], rtol=1e-6)
    verified = rna_watch("verify", tmp_path / "run")
    assert verified.returncode == 0, verified.stdout


def test_without_it_the_window_ends_and_the_remedy_is_named(tmp_path: Path) -> None:
    """A head that gets another shape begins a new window, and the reason names the option that would go on."""
    for step in range(1, 7):
        save_zip(tmp_path / f"step_{step}.pt", weights(step, rows=3 if step < 4 else 7), step)
    assert rna_watch("once", tmp_path, *LOCAL).returncode == 0
    (started,) = events(tmp_path, "window_started")
    assert "shape of head.weight was (3, 4), is (7, 4) (2 of 4 tensors changed so)" in started.reason
    assert started.reason.endswith("if it is no parameter, leave it out with --ignore head.weight")
    assert manifest(tmp_path / "rna" / "step_3.pt")["ignored"] == []
    assert manifest(tmp_path / "rna" / "step_3.pt")["ignore"] == []


@pytest.mark.parametrize("form", SAVERS)
def test_a_changed_ignored_tensor_is_found(tmp_path: Path, form: str) -> None:
    """`verify` compares what was ignored with the newest checkpoint, value by value and shape by shape."""
    paths = save_run(tmp_path, form)
    out = tmp_path / f"out{paths[0].suffix}"
    result = rna_watch("extrapolate", *paths, "-o", out, *HEAD, "--json")
    assert result.returncode == 0, result.stderr
    assert sorted(json.loads(result.stdout)["ignored"]) == sorted(IGNORED)
    assert rna_watch("verify", out).returncode == 0
    check(out, tmp_path, IGNORED)
    for change, words in [
        (
            lambda head: head + 1,
            "head.bias: 7 of 7 elements are not copied from its newest input; largest difference 1",
        ),
        (lambda head: head[:2], "its tensors are not those of its newest input: the model changed: shape of head.bias"),
    ]:
        tensors = load(out) | {"head.bias": change(load(paths[-1])["head.bias"]).contiguous()}
        SAVERS[form][1](out, tensors, 6)
        verified = rna_watch("verify", out)
        assert verified.returncode == 1
        assert words in verified.stdout


def test_a_manifest_that_lists_other_tensors_is_found(tmp_path: Path) -> None:
    """The list is what the patterns leave out, no more and no less; a list of something else is damage."""
    paths = save_run(tmp_path)
    out = tmp_path / "out.pt"
    assert rna_watch("extrapolate", *paths, "-o", out, *HEAD).returncode == 0
    content = manifest(out)
    for ignored, words in [
        (["head.weight"], "the tensors that its manifest lists as ignored are not those that its patterns leave out"),
        ([1], "its manifest is damaged: the tensors that it ignores are no list of names"),
    ]:
        (tmp_path / "out.pt.json").write_text(json.dumps(content | {"ignored": ignored}))
        verified = rna_watch("verify", out)
        assert verified.returncode == 1
        assert words in verified.stdout


def test_a_pattern_that_matches_nothing_is_answered_with_what_is_near(tmp_path: Path) -> None:
    """By hand it is wrong usage; in a run it is a line at the start, and a problem, until a checkpoint has such a tensor."""
    paths = save_run(tmp_path)
    for arguments in (("extrapolate", *paths, "-o", tmp_path / "out.pt"), ("inspect", paths[0])):
        result = rna_watch(*arguments, *HEAD, "--ignore", "haed.*")
        assert result.returncode == 2
        assert "--ignore 'haed.*' matches no tensor; near it: head.* (such as head.weight)" in result.stderr
    exact = rna_watch("inspect", paths[0], "--ignore", "body.wieght,head.bias")
    assert "--ignore body.wieght matches no tensor; near it: body.weight" in exact.stderr
    result = rna_watch("once", tmp_path, *LOCAL, "--ignore", "haed.*")
    assert result.returncode == 0
    assert "note     --ignore 'haed.*' matches no tensor; near it: head.*" in result.stdout
    (problem,) = [each for each in status(tmp_path)["problems"] if "--ignore" in each["what"]]
    assert problem["what"].startswith("--ignore 'haed.*' matches no tensor; near it: head.* (such as head.weight)")
    assert "correct the pattern and start again" in problem["remedy"]
    assert rna_watch("once", tmp_path, *LOCAL, *HEAD).returncode == 3
    assert not any("--ignore" in each["what"] for each in status(tmp_path)["problems"])
    rna_watch("once", tmp_path, *LOCAL, "--ignore", "haed.*")
    assert any("--ignore" in each["what"] for each in status(tmp_path)["problems"]), "no checkpoint is new"


def test_of_several_networks_in_a_folder_one_may_have_what_is_ignored(tmp_path: Path) -> None:
    """A pattern that matches in one series is no problem of another; one that leaves nothing of a series refuses that one."""
    for step in range(1, 4):
        save_zip(tmp_path / f"G_{step}.pt", weights(step), step)
        save_zip(tmp_path / f"D_{step}.pt", {"critic.weight": weights(20 + step)["body.weight"]}, step)
    result = rna_watch("once", tmp_path, *LOCAL, *HEAD)
    assert (result.returncode, "matches no tensor" in result.stdout) == (0, False)
    assert sorted(published(tmp_path)) == ["D_3.pt", "G_3.pt"]
    assert "ignore" not in {problem.key for problem in events(tmp_path, "problem")}
    assert not any("--ignore" in each["what"] for each in status(tmp_path)["problems"])
    assert rna_watch("once", tmp_path, *LOCAL, *HEAD).returncode == 3
    assert "ignore" not in {problem.key for problem in events(tmp_path, "problem")}, "after a restart"
    output = ("--output", tmp_path.with_name(f"{tmp_path.name}_other"))
    assert rna_watch("once", tmp_path, *LOCAL, "--ignore", "critic.*", *output).returncode == 0
    refused = events(tmp_path, "refused", tmp_path.with_name(f"{tmp_path.name}_other"))
    assert {each.checkpoint for each in refused} == {"D_1.pt", "D_2.pt", "D_3.pt"}
    assert {each.reason for each in refused} == {"--ignore 'critic.*' leaves nothing to extrapolate in it"}


def test_nothing_left_is_wrong_usage(tmp_path: Path) -> None:
    """All tensors ignored: exit code 2 for every command, before anything is done."""
    paths = save_run(tmp_path)
    for arguments in (
        ("extrapolate", *paths, "-o", tmp_path / "out.pt"),
        ("inspect", paths[0]),
        ("once", tmp_path, *LOCAL),
        ("start", tmp_path, *LOCAL),
    ):
        result = rna_watch(*arguments, "--ignore", "head.*", "--ignore", "body.*")
        assert result.returncode == 2, result
        assert "--ignore 'head.*' 'body.*' leaves nothing to extrapolate in it" in result.stderr
    assert not (tmp_path / "rna").exists()
    assert not (tmp_path / ".rna-watch").exists()
    with pytest.raises(AllIgnored, match="leaves nothing"):
        probe(str(paths[0]), None, ("*",))


def test_a_setting_is_a_list_by_commas_by_repetition_or_in_a_file(tmp_path: Path) -> None:
    """`--ignore A --ignore B`, `--ignore A,B` and `ignore: [A, B]` are one setting."""
    (path, *_) = save_run(tmp_path)
    for given in (("--ignore", "head.*", "--ignore", "body.bias"), ("--ignore", "head.*,body.bias")):
        shown = rna_watch("inspect", path, *given)
        assert (
            "ignored     3 tensors, 19 values (float32): left out by --ignore, copied from the newest" in shown.stdout
        )
        assert "parameter   1 tensor, 20 values (float32): parameters, extrapolated" in shown.stdout
        content = json.loads(rna_watch("inspect", path, *given, "--json").stdout)
        assert content["ignored"] == ["body.bias", "head.weight", "head.bias"]
    (tmp_path / "rna-watch.yaml").write_text("ignore: ['head.*', body.bias]\n")
    assert rna_watch("once", tmp_path, *LOCAL, "--config", tmp_path / "rna-watch.yaml").returncode == 0
    assert manifest(tmp_path / "rna" / "step_6.pt")["ignored"] == ["body.bias", "head.weight", "head.bias"]


def test_tied_and_wrapped_tensors_are_ignored_by_any_of_their_names(tmp_path: Path) -> None:
    """Who shares the storage of an ignored tensor is ignored with it; names match as stored, bare, and across a window."""
    tied = torch.ones(3, 4)
    torch.save({"module.a": tied, "module.b": tied, "module.c": torch.zeros(5)}, tmp_path / "a.pt")
    for pattern in ("b", "module.b", "*b"):
        layout = probe(str(tmp_path / "a.pt"), None, (pattern,))
        assert layout.ignored == ("a", "b")
        assert layout.parameters == 5
    torch.save({"a": tied, "c": torch.ones(5)}, tmp_path / "b.pt")
    bare = probe(str(tmp_path / "b.pt"), None, ("[ab]",))
    assert difference(probe(str(tmp_path / "a.pt"), None, ("[ab]",)), bare) == ""
    assert "1 tensor removed (such as b)" in difference(probe(str(tmp_path / "a.pt")), bare, whole=True)
    assert not same_values(probe(str(tmp_path / "a.pt"), None, ("[ab]",)), bare, lambda: None)


def test_the_optimizer_s_order_counts_ignored_parameters(tmp_path: Path) -> None:
    """Momentum is matched as if nothing were ignored, and only that of the others is read."""
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 4))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    torch.save({"model": network.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "a.pt")
    everything, problem = assign(probe(str(tmp_path / "a.pt")))
    assert (sorted(everything), problem) == (["0.bias", "0.weight", "1.bias", "1.weight"], "")
    some, problem = assign(probe(str(tmp_path / "a.pt"), None, ("0.*",)))
    assert (some, problem) == ({name: everything[name] for name in ("1.weight", "1.bias")}, "")


def test_another_pattern_at_a_restart_mixes_nothing(tmp_path: Path) -> None:
    """Inner products that were measured with other tensors are measured anew, and evaluations of other models are stale."""
    paths = save_run(tmp_path, rows=3, dtype=torch.float32)
    for path in paths[4:]:
        path.rename(path.with_suffix(".later"))
    assert rna_watch("once", tmp_path, *LOCAL).returncode == 0
    for path in paths[4:]:
        path.with_suffix(".later").rename(path)
    assert rna_watch("once", tmp_path, *LOCAL, *HEAD).returncode == 0
    fifth, sixth = events(tmp_path, "measured")[-2:]
    assert (fifth.ignored, sixth.ignored) == (IGNORED, IGNORED)
    whole = gram([load(path) for path in paths], ["body.weight", "body.bias"])
    np.testing.assert_allclose(fifth.rows, whole[:4, :4], rtol=1e-6)
    np.testing.assert_allclose(sixth.rows, whole[4:], rtol=1e-6)
    before, after = events(tmp_path, "started")
    assert stale(before, after)


@pytest.mark.parametrize("form", SAVERS)
def test_buffers_may_grow(tmp_path: Path, form: str) -> None:
    """Integers, flags, `_extra_state` and states of metrics of any shape are the newest's, and end no window."""
    copied = ["seen", "mask", "body._extra_state", "val_metric.preds"]
    ending, save = SAVERS[form]
    for step in range(1, 6):
        buffers = {
            "seen": torch.arange(3 * step),
            "mask": torch.ones(step, 2, dtype=torch.bool),
            "body._extra_state": torch.rand(step + 1),
            "val_metric.preds": 1e6 * torch.rand(step, 2),
        }
        save(tmp_path / f"step_{step}{ending}", weights(step) | buffers, step)
    result = rna_watch("once", tmp_path, *LOCAL, *EVALUATOR)
    assert result.returncode == 0, result.stderr
    assert not events(tmp_path, "window_started")
    assert published(tmp_path) == [f"step_{step}{ending}" for step in (3, 4, 5)]
    for step in (3, 4, 5):
        check(tmp_path / "rna" / f"step_{step}{ending}", tmp_path, copied)
    models = [load(tmp_path / f"step_{step}{ending}") for step in range(1, 6)]
    twin = gram(models, ["body.weight", "body.bias", "head.weight", "head.bias"])
    np.testing.assert_allclose(events(tmp_path, "measured")[-1].rows[-1], twin[-1], rtol=1e-6)
    verified = rna_watch("verify", tmp_path)
    assert verified.returncode == 0, verified.stdout


def test_a_buffer_that_comes_late_ends_a_window_unless_it_is_ignored(tmp_path: Path) -> None:
    """Another name may mean another model; where it is that of a buffer, the reason names the option that would go on."""
    for step in range(1, 6):
        late = {"late": torch.tensor(step)} if step > 3 else {}
        save_zip(tmp_path / f"step_{step}.pt", weights(step) | late, step)
    assert rna_watch("once", tmp_path, *LOCAL).returncode == 0
    (started,) = events(tmp_path, "window_started")
    assert started.reason == (
        "the model changed: 1 tensor added (such as late); 4 have the names of before; if it is no parameter, leave it out "
        "with --ignore late"
    )
    output = tmp_path.with_name(f"{tmp_path.name}_other")
    assert rna_watch("once", tmp_path, *LOCAL, "--ignore", "late", "--output", output).returncode == 0
    assert not events(tmp_path, "window_started", output)
    assert published(tmp_path, output) == ["step_3.pt", "step_4.pt", "step_5.pt"]
    verified = rna_watch("verify", output)
    assert verified.returncode == 0, verified.stdout


def test_two_networks_of_a_file_in_a_run(tmp_path: Path) -> None:
    """`once --source G,D --ignore` evaluates prefixed names, records what was read, and its models are verified."""
    for step in range(1, 5):
        networks = {"G": weights(step), "D": weights(50 + step), "step": step}
        torch.save(networks, tmp_path / f"step_{step}.pt")
    result = rna_watch("once", tmp_path, *LOCAL, *EVALUATOR, "--source", "G,D", "--ignore", "D.head.*")
    assert result.returncode == 0, result.stderr
    assert {event.source for event in events(tmp_path, "admitted")} == {"G,D"}
    assert {event.metrics["networks"] for event in events(tmp_path, "evaluated")} == {2.0}
    model = tmp_path / "rna" / "step_4.pt"
    assert (manifest(model)["source"], manifest(model)["ignored"]) == ("G,D", ["D.head.weight", "D.head.bias"])
    written, newest = (torch.load(path, weights_only=True) for path in (model, tmp_path / "step_4.pt"))
    for part, name in (("G", "head.weight"), ("G", "body.weight"), ("D", "body.weight")):
        assert not torch.equal(written[part][name], newest[part][name])
    assert torch.equal(written["D"]["head.weight"], newest["D"]["head.weight"])
    verified = rna_watch("verify", tmp_path)
    assert (verified.returncode, "verified: 63 values" in verified.stdout) == (0, True), verified.stdout
