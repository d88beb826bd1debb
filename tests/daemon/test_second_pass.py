"""What was done before is taken up where something else decides now or where it is asked for, as far as it is there."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch

from rna_watch.journal import events as e
from rna_watch.journal import log
from rna_watch.journal.replay import RunState, replay
from tests.daemon import distance
from tests.daemon.runs import EVALUATOR, events, rna_watch, start_foreground, train, wait_until

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

LOCAL = ("--engine", "local")


def _once(run: Path, *settings: object, code: int | None = 0) -> subprocess.CompletedProcess[str]:
    result = rna_watch("once", run, *LOCAL, *settings)
    assert code in {None, result.returncode}, result.stdout + result.stderr
    return result


def _journal(run: Path) -> list[e.Event]:
    return list(log.read(run / ".rna-watch" / "journal.jsonl"))


def _judge(run: Path) -> tuple[str, str]:
    """An evaluator to which averages are better than originals, and those of steps 2 to 4 the best."""
    file = run.parent / f"{run.name}_judge.py"
    distance.write(file, run, loss=(2, 3, 4), accuracy=(3, 4, 5))
    return "--evaluator", f"{file}:evaluate"


def _state(run: Path) -> RunState:
    return replay(_journal(run))


def _manifest(run: Path, name: str) -> dict[str, Any]:
    return json.loads((run / "rna" / f"{name}.json").read_text())


def _bytes(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run / "rna").glob("*.pt")}


def _forget_inputs(run: Path, *steps: int) -> None:
    """The trainer's retention deleted these, and no pin holds them."""
    for step in steps:
        (run / f"step_{step}.pt").unlink()
        for pinned in (run / ".rna-watch" / "pins").glob(f"step__{step}.*"):
            pinned.unlink()


def test_models_whose_inputs_are_gone_are_evaluated_as_they_are(tmp_path: Path) -> None:
    """Outputs keep their bytes; their manifests tell what the evaluator says of them, of the originals where these are left."""
    train(tmp_path, count=6)
    judge = _judge(tmp_path)
    _once(tmp_path)
    _forget_inputs(tmp_path, 1, 2, 3, 4, 5)
    before, weights = _bytes(tmp_path), {n: _manifest(tmp_path, f"step_{n}.pt")["weights"] for n in (3, 4, 5, 6)}
    _once(tmp_path, *judge)
    assert _bytes(tmp_path) == before
    metrics = {step: _manifest(tmp_path, f"step_{step}.pt")["metrics"] for step in (3, 4, 5, 6)}
    assert all(each["chosen"] is not None for each in metrics.values())
    assert [step for step, each in metrics.items() if each["original"] is not None] == [6]
    assert {n: _manifest(tmp_path, f"step_{n}.pt")["weights"] for n in (3, 4, 5, 6)} == weights
    state = _state(tmp_path)
    beaten = [metrics[6]["original"], *(metrics[step]["chosen"] for step in (3, 4, 5))]
    assert (state.best is not None) == all(metrics[6]["chosen"]["loss"] < each["loss"] for each in beaten)
    assert {each.stage for each in state.checkpoints.values()} == {"published", "finished"}
    again = len(_journal(tmp_path))
    _once(tmp_path, *judge, code=3)
    assert [event.kind for event in _journal(tmp_path)[again:]] == ["started", "stopped"]


def test_a_daemon_evaluates_what_was_published_before(tmp_path: Path) -> None:
    """`start` with an evaluator: everything has its evaluation after a while, and new checkpoints do not wait for it."""
    train(tmp_path, count=5)
    judge = _judge(tmp_path)
    _once(tmp_path)
    daemon = start_foreground(tmp_path, *LOCAL, *judge)
    try:
        wait_until(lambda: len({event.checkpoint for event in events(tmp_path, "evaluated")}) == 5)
        wait_until(lambda: all(c.stage in {"published", "finished"} for c in _state(tmp_path).checkpoints.values()))
    finally:
        daemon.terminate()
        daemon.communicate(timeout=60)
    for step in (3, 4, 5):
        assert _manifest(tmp_path, f"step_{step}.pt")["better_than_original"] is not None


def test_killed_amid_the_second_pass_it_goes_on(tmp_path: Path) -> None:
    """Cut after any event of the second pass, the journal and what lies on the disk lead to the same end."""
    run = tmp_path / "run"
    train(run, count=5)
    judge = _judge(run)
    _once(run)
    shutil.copytree(run, tmp_path / "before", symlinks=True)
    first = len(_journal(run))
    _once(run, *judge)
    lines = (run / ".rna-watch" / "journal.jsonl").read_bytes().splitlines(keepends=True)
    kinds = [event.kind for event in _journal(run)]
    expected = {name: (c.stage, c.evaluations, c.output) for name, c in _state(run).checkpoints.items()}
    best = _state(run).best
    cuts = {
        kind: max(n for n in range(first, len(lines)) if kinds[n] == kind)
        for kind in ("taken_up", "chosen", "publishing")
    }
    for cut in cuts.values():
        (run / ".rna-watch" / "journal.jsonl").write_bytes(b"".join(lines[: cut + 1]))
        _once(run, *judge, code=None)
        state = _state(run)
        assert {name: (c.stage, c.evaluations, c.output) for name, c in state.checkpoints.items()} == expected
        assert best is not None
        assert state.best is not None
        assert (state.best.output, state.best.value) == (best.output, best.value)
        assert rna_watch("verify", run).returncode == 0


def test_a_changed_setting_is_reported_once_and_again_obeys_it(tmp_path: Path) -> None:
    """One line names the setting, both values, and the command that makes the models anew; which it does, within `keep`."""
    train(tmp_path, count=7)
    judge = _judge(tmp_path)
    _once(tmp_path, *judge, "--keep", 2)
    said = _once(tmp_path, *judge, "--keep", 2, "--methods", "average", code=3).stdout
    (line,) = [line for line in said.splitlines() if "--again" in line]
    assert "made with other settings (methods " in line
    assert "now average)" in line
    assert f"rna-watch once {tmp_path} --again" in line
    _once(tmp_path, *judge, "--keep", 2, "--methods", "average", "--again")
    state = _state(tmp_path)
    made = [c for c in state.checkpoints.values() if c.chosen is not None]
    assert len(made) == 5
    assert {c.chosen.method for c in made if c.chosen} == {"average"}
    assert {"step_6.pt", "step_7.pt"} <= {path.name.replace(".again", "") for path in (tmp_path / "rna").glob("*.pt")}
    for output in state.outputs:
        assert _manifest(tmp_path, output)["method"] == "average" or (state.best and state.best.output == output)
    assert len(state.outputs) <= 3
    assert "--again" not in _once(tmp_path, *judge, "--keep", 2, "--methods", "average", code=3).stdout
    assert rna_watch("verify", tmp_path).returncode == 0


def test_a_setting_that_takes_checkpoints_holds_for_new_ones(tmp_path: Path) -> None:
    """One line says so, with the command that begins anew; the command that makes models anew is not offered for it."""
    train(tmp_path, count=5)
    _once(tmp_path)
    said = _once(tmp_path, "--first-step", 4, "--learning-rate-jump", "inf", code=3).stdout
    (line,) = [line for line in said.splitlines() if "holds for new checkpoints" in line]
    assert "first_step none, now 4, learning_rate_jump 2.0, now none" in line
    assert f"rna-watch once {tmp_path} --output OTHER" in line
    assert "--again" not in said
    other = tmp_path.with_name(f"{tmp_path.name}-other")
    result = rna_watch("once", tmp_path, *LOCAL, "--first-step", 3, "--output", other)
    assert result.returncode == 0, result.stderr
    assert [path.name for path in (other / "rna").glob("*.pt")] == ["step_5.pt"]


def test_again_takes_nothing_from_a_better_best(tmp_path: Path) -> None:
    """Made anew with a method that is worse, the models before are replaced, but for the one that `best` names."""
    train(tmp_path, count=7)
    judge = _judge(tmp_path)
    _once(tmp_path, *judge, "--methods", "rna")
    before = _state(tmp_path).best
    assert before is not None
    file = tmp_path / "rna" / before.output
    content, manifest = file.read_bytes(), file.with_name(f"{file.name}.json").read_bytes()
    _once(tmp_path, *judge, "--methods", "cumulative", "--again")
    after = _state(tmp_path).best
    assert after is not None
    assert (after.output, after.value) == (before.output, before.value)
    assert (file.read_bytes(), file.with_name(f"{file.name}.json").read_bytes()) == (content, manifest)
    assert (tmp_path / "rna" / "best").resolve() == file
    others = [name for name in _state(tmp_path).outputs if name != before.output]
    assert {_manifest(tmp_path, name)["method"] for name in others} == {"cumulative"}


def test_again_leaves_models_without_inputs_as_they_are(tmp_path: Path) -> None:
    """What cannot be made anew stays, and one line says how many."""
    train(tmp_path, count=5)
    _once(tmp_path)
    _forget_inputs(tmp_path, 1)
    before = _bytes(tmp_path)
    said = _once(tmp_path, "--methods", "average", "--again", code=None).stdout
    assert _bytes(tmp_path) == before
    assert "stay as they are" in said


@pytest.mark.parametrize("judged", [False, True])
def test_a_removed_output_tree_is_built_again_within_keep(tmp_path: Path, judged: bool) -> None:
    """`rm -r rna`: the newest few and the best are there after the next call, as they were; older ones are not."""
    train(tmp_path, count=7)
    settings = ("--keep", 2, *(_judge(tmp_path) if judged else ()))
    _once(tmp_path, *settings)
    before, best = _bytes(tmp_path), _state(tmp_path).best
    assert (best is not None) == judged
    shutil.rmtree(tmp_path / "rna")
    _once(tmp_path, *settings)
    assert _bytes(tmp_path) == before
    assert (tmp_path / "rna" / "latest").resolve().name == "step_7.pt"
    if best is not None:
        assert (tmp_path / "rna" / "best").resolve() == tmp_path / "rna" / best.output
    assert rna_watch("verify", tmp_path).returncode == 0


def test_a_best_that_is_gone_for_good_is_not_named(tmp_path: Path) -> None:
    """Its file was removed and its inputs are gone: `best` names nothing rather than a file that is not there."""
    train(tmp_path, count=5)
    judge = _judge(tmp_path)
    _once(tmp_path, *judge)
    best = _state(tmp_path).best
    assert best is not None
    shutil.rmtree(tmp_path / "rna")
    _forget_inputs(tmp_path, 1, 2, 3, 4, 5)
    _once(tmp_path, code=3)
    assert _state(tmp_path).best is None
    assert not (tmp_path / "rna" / "best").is_symlink()


def test_an_evaluator_that_fails_on_each_is_not_asked_for_all(tmp_path: Path) -> None:
    """After three in a row the others are left, unevaluated as they were, and a line says so."""
    train(tmp_path, count=7)
    _once(tmp_path)
    before = _bytes(tmp_path)
    broken = EVALUATOR.replace(":evaluate", ":broken")
    said = _once(tmp_path, "--evaluator", broken, code=1)
    assert len(events(tmp_path, "evaluation_failed")) == 3
    assert "4 more are not tried" in said.stdout
    assert _bytes(tmp_path) == before


def _with_average(run: Path, count: int) -> None:
    """Checkpoints that hold a second model: ten times the first."""
    train(run, count=count)
    for file in run.glob("*.pt"):
        content = torch.load(file, weights_only=True)
        scaled = {tensor.data_ptr(): 10 * tensor for tensor in content["model"].values()}  # ties stay ties
        other = {name: scaled[tensor.data_ptr()] for name, tensor in content["model"].items()}
        torch.save(content | {"other": other}, file)


@pytest.mark.parametrize("gone", [(), (1, 2, 3)], ids=["files", "pins"])
def test_another_source_is_another_model_in_every_row(tmp_path: Path, gone: tuple[int, ...]) -> None:
    """The Gram matrix is that of the source that is named, whole, from files or pins; no row of the former one is used."""
    _with_average(tmp_path, 5)
    _once(tmp_path)
    first = {event.checkpoint: event for event in events(tmp_path, "measured")}
    for step in gone:
        (tmp_path / f"step_{step}.pt").unlink()
    _once(tmp_path, "--source", "other")
    second = {event.checkpoint: event for event in events(tmp_path, "measured")}
    for name, measured in second.items():
        assert set(measured.inputs).isdisjoint(first[name].inputs)
        expected = [[100 * value for value in row] for row in first[name].rows]
        assert measured.rows == [pytest.approx(row, rel=1e-5) for row in expected]
    assert {event.source for event in events(tmp_path, "admitted")[5:]} == {"other"}
    assert _manifest(tmp_path, "step_5.pt")["source"] == "other"
    assert len(_manifest(tmp_path, "step_5.pt")["inputs"]) == 5
    assert rna_watch("verify", tmp_path).returncode == 0
    _once(tmp_path)
    assert _manifest(tmp_path, "step_5.pt")["source"] == "model"
    assert rna_watch("verify", tmp_path).returncode == 0


def test_windows_hold_one_source_where_the_other_cannot_be_read(tmp_path: Path) -> None:
    """Checkpoints whose bytes are gone keep their source, and a new window does not take them."""
    _with_average(tmp_path, 4)
    _once(tmp_path)
    _forget_inputs(tmp_path, 1, 2, 3, 4)
    new = tmp_path.with_name(f"{tmp_path.name}-new")
    _with_average(new, 7)
    for step in (5, 6, 7):
        shutil.copy2(new / f"step_{step}.pt", tmp_path)
    _once(tmp_path, "--source", "other")
    assert [each["step"] for each in _manifest(tmp_path, "step_7.pt")["inputs"]] == [5, 6, 7]
    assert {event.source for event in events(tmp_path, "admitted")[4:]} == {"other"}
