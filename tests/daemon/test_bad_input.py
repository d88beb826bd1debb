"""Bad input: each kind gives one clear line that says what, where and what to do, and the daemon goes on."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from tests.daemon.disks import small_disk
from tests.daemon.runs import (
    HERE,
    check_output,
    events,
    published,
    rna_watch,
    start_foreground,
    status,
    train,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


def _reasons(run: Path) -> dict[str, tuple[str, str]]:
    return {each["name"]: (each["state"], each["reason"]) for each in status(run)["checkpoints"]}


def test_each_bad_file_is_named_with_its_reason_and_the_others_are_used(tmp_path: Path) -> None:
    """Empty, truncated, foreign and pointer files stand in the status with their reasons; the window skips them."""
    train(tmp_path, count=5)
    (tmp_path / "step_6.pt").touch()
    (tmp_path / "step_7.pt").write_bytes((tmp_path / "step_5.pt").read_bytes()[:-100])
    (tmp_path / "step_8.pt").write_text(
        "this is a text file that somebody gave the ending of a checkpoint, by mistake or so"
    )
    (tmp_path / "step_9.pt").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345678\n" + " " * 40
    )
    torch.save([1, 2, 3], tmp_path / "step_10.pt")
    result = rna_watch("once", tmp_path, "--engine", "local")
    assert result.returncode == 0, result.stderr
    reasons = _reasons(tmp_path)
    assert reasons["step_6.pt"] == ("waiting", "it is empty")
    assert reasons["step_7.pt"][0] == "waiting"
    assert "zip directory" in reasons["step_7.pt"][1]
    assert reasons["step_8.pt"] == (
        "refused",
        "it is in no format that is known (torch zip, safetensors, torch legacy, Stable-Baselines3 zip, NeMo archive)",
    )
    assert "git lfs pull" in reasons["step_9.pt"][1]
    assert "no named tensors" in reasons["step_10.pt"][1]
    assert published(tmp_path) == ["step_3.pt", "step_4.pt", "step_5.pt"]


def test_a_name_too_long_for_its_outputs_is_refused_and_the_others_are_used(tmp_path: Path) -> None:
    """Long names are used while all that is made of them has a name the system takes; beyond that, the one is refused."""
    train(tmp_path, count=6)
    (tmp_path / "step_6.pt").rename(tmp_path / f"step_6{'_' * 231}.pt")
    longest = [f"step_{number}{'_' * 196}.pt" for number in (3, 4, 5)]
    for number, name in enumerate(longest, 3):
        (tmp_path / f"step_{number}.pt").rename(tmp_path / name)
    deep = Path(*[letter * 60 for letter in "abcd"], "step_9.pt")
    (tmp_path / deep).parent.mkdir(parents=True)
    (tmp_path / "step_2.pt").rename(tmp_path / deep)
    for code in (0, 3):  # what was pinned is not swept
        result = rna_watch("once", tmp_path, "--engine", "local")
        assert result.returncode == code, result.stderr
        assert "Traceback" not in result.stderr + result.stdout
    reasons = _reasons(tmp_path)
    refused = {name: reason for name, (state, reason) in reasons.items() if state == "refused"}
    assert list(refused) == [f"step_6{'_' * 231}.pt"]
    assert "its name is too long: 240 bytes, and its model needs one of at most 205" in next(iter(refused.values()))
    pinned = {event.checkpoint: event.pin_path for event in events(tmp_path, "admitted") if event.pin != "none"}
    assert {*longest, str(deep)} <= set(pinned)
    assert all((tmp_path / path).exists() for path in pinned.values())
    assert longest[-1] in published(tmp_path)
    assert rna_watch("verify", tmp_path).returncode == 0


def test_a_file_that_stays_incomplete_is_reported_and_taken_when_it_is_whole(tmp_path: Path) -> None:
    """Half a checkpoint is never read: it is reported after a while, and published once the rest has come."""
    train(tmp_path, count=4)
    whole = (tmp_path / "step_4.pt").read_bytes()
    (tmp_path / "step_4.pt").write_bytes(whole[: len(whole) // 2])
    daemon = start_foreground(tmp_path, "--engine", "local", report_after_s=1)
    try:
        wait_until(lambda: [event.checkpoint for event in events(tmp_path, "waiting")] == ["step_4.pt"])
        assert published(tmp_path) == ["step_3.pt"]
        with (tmp_path / "step_4.pt").open("ab") as file:
            file.write(whole[len(whole) // 2 :])
        wait_until(lambda: published(tmp_path) == ["step_3.pt", "step_4.pt"])
    finally:
        daemon.terminate()
        daemon.communicate(timeout=20)


def test_nan_weights_are_left_out_and_the_window_goes_on(tmp_path: Path) -> None:
    """A diverged checkpoint is skipped with its reason; the next windows stand without it."""
    train(tmp_path, count=7)
    content = torch.load(tmp_path / "step_5.pt", weights_only=True)
    content["model"]["conv.weight"][0, 0, 0, 0] = float("nan")
    torch.save(content, tmp_path / "step_5.pt")
    statistics = torch.load(tmp_path / "step_1.pt", weights_only=True)
    statistics["model"]["norm.running_var"][0] = float("inf")
    torch.save(statistics, tmp_path / "step_1.pt")
    assert rna_watch("once", tmp_path, "--engine", "local").returncode == 0
    for name in ("step_1.pt", "step_5.pt"):
        assert _reasons(tmp_path)[name] == (
            "skipped",
            "it holds NaN or infinite weights: training diverged, or the file is damaged",
        )
    assert events(tmp_path, "chosen")[-1].inputs == ["step_2.pt", "step_3.pt", "step_4.pt", "step_6.pt", "step_7.pt"]
    check_output(tmp_path / "rna" / "step_7.pt", tmp_path)


def test_another_architecture_and_a_restart_begin_new_windows(tmp_path: Path) -> None:
    """A changed model, and a run that goes back to an earlier step, start again from one checkpoint, and say why."""
    train(tmp_path, count=6)
    for step in (4, 5, 6):
        content = torch.load(tmp_path / f"step_{step}.pt", weights_only=True)
        content["model"]["extra.weight"] = torch.full((2, 2), float(step))
        torch.save(content, tmp_path / f"step_{step}.pt")
    daemon = start_foreground(tmp_path, "--engine", "local")
    try:
        wait_until(lambda: published(tmp_path) == ["step_3.pt", "step_6.pt"])
        shutil.copy(tmp_path / "step_6.pt", tmp_path / "step_2.pt")
        wait_until(lambda: len(events(tmp_path, "window_started")) == 2)
    finally:
        daemon.terminate()
        daemon.communicate(timeout=20)
    changed, restarted = events(tmp_path, "window_started")
    assert changed.checkpoint == "step_4.pt"
    assert "1 tensor added (such as extra.weight)" in changed.reason
    assert restarted.checkpoint == "step_2.pt"
    assert "went back from step 6 to 2" in restarted.reason


def test_ranks_and_seeds_in_one_folder_are_not_mixed(tmp_path: Path) -> None:
    """Files told apart by a rank or a seed in their names are different sequences, each with windows of its own."""
    for kind, pattern in enumerate(("rank{}_step{}.pt", "step{1}_seed{0}.pt")):
        for apart in (0, 1):
            for step in range(0, 50, 10):
                weight = torch.full((4, 4), 0.9**step + 2 * apart + kind) + torch.eye(4) * 0.8**step
                torch.save({"model": {"weight": weight}}, tmp_path / pattern.format(apart, step))
    result = rna_watch("once", tmp_path, "--engine", "local", "--keep", 100)
    assert result.returncode == 0, result.stderr
    manifests = [json.loads(file.read_text()) for file in (tmp_path / "rna").glob("*.pt.json")]
    assert len(manifests) == 12
    for manifest in manifests:
        names = [Path(each["path"]).name for each in manifest["inputs"]]
        assert len(names) >= 3
        assert len({re.sub(r"step\d+", "", name) for name in names}) == 1, names


def test_a_failing_evaluator_is_an_event_and_models_are_written_unevaluated(tmp_path: Path) -> None:
    """An evaluator that raises shows as a problem with its line; the paper's method goes on without, and the call fails."""
    train(tmp_path, count=4)
    result = rna_watch("once", tmp_path, "--engine", "local", "--evaluator", f"{HERE / 'evaluator.py'}:broken")
    assert result.returncode == 1
    assert re.search(r"every evaluation failed: \w+\.py:\d+: KeyError", result.stderr)
    problem = events(tmp_path, "problem")[0]
    assert "KeyError" in problem.what
    assert "evaluator.py:36: " in problem.what
    assert published(tmp_path) == ["step_3.pt", "step_4.pt"]
    manifest = json.loads((tmp_path / "rna" / "step_4.pt.json").read_text())
    assert manifest["better_than_original"] is None
    assert manifest["metrics"]["original"] is None


def test_an_evaluator_that_hangs_is_ended(tmp_path: Path) -> None:
    """An evaluation past its time limit is ended and recorded; the daemon goes on."""
    train(tmp_path, count=3)
    command = "sleep 1000 # {checkpoint}"
    result = rna_watch("once", tmp_path, "--engine", "local", "--evaluate-command", command, "--evaluation-timeout", 1)
    assert result.returncode == 1
    assert "every evaluation failed" in result.stderr
    assert "ran longer than 1 s" in events(tmp_path, "evaluation_failed")[0].reason
    assert published(tmp_path) == ["step_3.pt"]


def test_a_command_evaluates_what_it_is_given(tmp_path: Path) -> None:
    """A shell command gets a file that loads, and its last JSON line is the metrics."""
    train(tmp_path, count=3)
    script = tmp_path / "evaluate.py"
    script.write_text(
        "import json, sys, torch\n"
        "m = torch.load(sys.argv[1], weights_only=True)['model']\n"
        "print('some words'); print(json.dumps({'norm_error': float(sum(t.double().square().sum() for t in m.values()))}))\n"
    )
    command = f"python {script} {{checkpoint}}"
    environment = os.environ | {"PATH": f"{Path(os.sys.executable).parent}:{os.environ['PATH']}"}
    result = subprocess.run(
        [
            os.sys.executable,
            "-m",
            "rna_watch",
            "once",
            str(tmp_path),
            "--engine",
            "local",
            "--evaluate-command",
            command,
            "--max-candidates",
            "1",
        ],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    last = [event for event in events(tmp_path, "evaluated") if event.candidate == "last"][-1]
    model = torch.load(tmp_path / "step_3.pt", weights_only=True)["model"]
    assert last.metrics["norm_error"] == pytest.approx(sum(float(t.double().square().sum()) for t in model.values()))
    assert not list((tmp_path / ".rna-watch" / "scratch").iterdir())


@pytest.fixture(name="small_disk")
def _small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 500 KiB."""
    with small_disk(tmp_path / "disk", 500) as disk:
        yield disk


def test_a_full_disk_is_a_problem_until_there_is_room(tmp_path: Path, small_disk: Path) -> None:
    """Outputs fail in words on a full disk and nothing torn appears; everything is published when there is room again."""
    run = tmp_path / "run"
    train(run, count=4)
    ballast = small_disk / "ballast"
    said = tmp_path / "said"
    command = [os.sys.executable, "-m", "rna_watch", "start", str(run), "--foreground", "--engine", "local"]
    with said.open("w") as terminal:
        daemon = subprocess.Popen(
            [*command, "--output", str(small_disk), "--pin", "none", "--reserve", "0"], stdout=terminal, stderr=terminal
        )
    try:
        wait_until(lambda: len(published(run, small_disk)) == 2)
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(1024)):
                pass
        train(run, count=2, first=5)
        models = small_disk / "rna"
        before = sorted(path.name for path in models.iterdir())
        wait_until(lambda: "No space left on device" in said.read_text())
        assert sorted(path.name for path in models.iterdir() if not path.name.startswith(".")) == before
        ballast.unlink()
        wait_until(lambda: published(run, small_disk)[-1:] == ["step_6.pt"])
    finally:
        daemon.terminate()
        assert daemon.wait(timeout=30) == 0
    assert "make room there, or name another folder with --output" in said.read_text()
    assert "Traceback" not in said.read_text()
    for name in published(run, small_disk):
        if (models / name).exists():
            check_output(models / name, run)


def test_a_limit_of_file_size_leaves_nothing_torn(tmp_path: Path) -> None:
    """Under a limit of file size that no model fits, every attempt fails in words and leaves no file behind."""
    train(tmp_path, count=3)
    size = (tmp_path / "step_3.pt").stat().st_size
    limit_kib = size // 1024 - 1
    command = (
        f"ulimit -f {limit_kib}; exec {os.sys.executable} -m rna_watch start {tmp_path} --engine local --foreground"
    )
    daemon = subprocess.Popen(["bash", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        wait_until(lambda: bool(events(tmp_path, "failed")))
        assert "File too large" in events(tmp_path, "problem")[0].what
    finally:
        daemon.terminate()
        daemon.communicate(timeout=20)
    assert daemon.returncode == 0
    assert list((tmp_path / "rna").iterdir()) == []


def test_an_unreadable_file_or_folder_is_named(tmp_path: Path) -> None:
    """A file that may not be read is refused with a remedy."""
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    train(tmp_path, count=4)
    (tmp_path / "step_4.pt").chmod(0)
    assert rna_watch("once", tmp_path, "--engine", "local").returncode == 0
    assert _reasons(tmp_path)["step_4.pt"] == (
        "refused",
        "it cannot be read (permission denied); give this user read access",
    )


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("once", "{empty}", "--engine", "local"), 3, "there are no checkpoints"),
        (("once", "{empty}/nowhere"), 2, "does not exist"),
        (("start", "{empty}", "--engine", "slow"), 2, "setting 'engine' is 'slow'"),
        (("start", "{empty}", "--evaluator", "nowhere.py:f", "--engine", "local"), 2, "nowhere.py does not exist"),
        (("start", "{empty}", "--evaluator", "nowhere", "--engine", "local"), 2, "FILE.py:function"),
        (("start", "{empty}", "--evaluator", f"{HERE / 'evaluator.py'}:evalute"), 2, "did you mean 'evaluate'?"),
        (("once", "{empty}", "--evaluator", f"{HERE / 'evaluator.py'}:missing"), 2, "has no function 'missing'"),
        (("start", "{empty}", "--evaluate-command", "true"), 2, "{checkpoint}"),
        (("start", "{empty}", "--config", "{config}"), 2, "unknown setting 'windw'; did you mean 'window'?"),
        (("status", "{empty}/nowhere"), 2, "does not exist"),
        (("stop", "{empty}"), 3, "nothing watches"),
        (("logs", "{empty}"), 3, "nothing has watched"),
        (("inspect", "{config}"), 1, "in no format that is known"),
        (("frobnicate",), 2, "No such command"),
    ],
)
def test_wrong_usage_is_one_line_and_an_exit_code(
    tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    """Each wrong call ends with its code and one line that says what and where, without a traceback."""
    empty = tmp_path / "empty"
    empty.mkdir()
    config = tmp_path / "config.yaml"
    config.write_text("windw: 5\nengine: local\n# a comment, so that the file is long enough to be a foreign file\n")
    result = rna_watch(
        *(part.format(empty=empty, config=config) if "{checkpoint}" not in part else part for part in arguments)
    )
    assert result.returncode == code
    assert words in result.stderr
    assert "Traceback" not in result.stderr + result.stdout


def test_a_folder_whose_every_entry_is_parsed_is_refused(tmp_path: Path) -> None:
    """Nothing is written next to Accelerate's checkpoint_<n> folders: start names the option to use."""
    folder = tmp_path / "checkpoints"
    (folder / "checkpoint_0").mkdir(parents=True)
    result = rna_watch("start", folder, "--engine", "local")
    assert result.returncode == 2
    assert "--output" in result.stderr
    assert [path.name for path in folder.iterdir()] == ["checkpoint_0"]


def test_an_empty_folder_whose_entries_accelerate_parses_is_refused(tmp_path: Path) -> None:
    """A side-car started before the first checkpoint must not put its folders where every entry is parsed."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    result = rna_watch("once", folder, "--engine", "local")
    assert result.returncode == 2
    assert "--output" in result.stderr
    assert list(folder.iterdir()) == []


def test_leftovers_of_an_evaluation_are_swept(tmp_path: Path) -> None:
    """A folder that a killed evaluation left in the scratch folder is removed at the next start."""
    left = tmp_path / ".rna-watch" / "scratch" / "candidate-1"
    left.mkdir(parents=True)
    (left / "model.safetensors").touch()
    result = rna_watch("once", tmp_path, "--engine", "local")
    assert result.returncode == 3, result.stderr
    assert not left.exists()


def test_extrapolate_never_writes_into_a_checkpoint(tmp_path: Path) -> None:
    """An output inside a checkpoint that is a folder is refused."""
    folders = [tmp_path / f"checkpoint-{step}" for step in (1, 2, 3)]
    for folder in folders:
        folder.mkdir()
    result = rna_watch("extrapolate", *folders, "-o", folders[0] / "out")
    assert result.returncode == 2
    assert "lies in one of the checkpoints" in result.stderr
