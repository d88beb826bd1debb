"""`start` and `once` say what lies in a run directory, and ask which run is meant where there are several."""

from __future__ import annotations

import contextlib
import errno
import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from rna_watch.commands import settle_run
from rna_watch.commands.settle_run import settle
from rna_watch.commands.verify import verify_all
from rna_watch.config import RunConfig
from rna_watch.errors import RnaWatchError, UsageError
from rna_watch.journal.run_paths import RunPaths, is_to_come
from rna_watch.journal.run_registry import resolve
from rna_watch.watching.discovery import several_runs
from rna_watch.watching.scan import scan
from tests.daemon.runs import LIMIT_S, events, published, rna_watch, start_foreground, status, train, wait_until

CONFIG = RunConfig()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four checkpoints."""
    folder = tmp_path_factory.mktemp("trained")
    train(folder, count=4)
    return folder


@pytest.fixture
def two_runs(tmp_path: Path, trained: Path) -> Path:
    """What Lightning leaves after two trainings; the second one is the newer."""
    run = tmp_path / "my run"
    for version in (0, 1):
        folder = run / "lightning_logs" / f"version_{version}" / "checkpoints"
        shutil.copytree(trained, folder)
        for step in range(1, 5):
            file = folder / f"epoch={step}-step={step * 10}.ckpt"
            (folder / f"step_{step}.pt").rename(file)
            os.utime(file, (1e9 + version, 1e9 + version))
    return run


def _everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def _on_a_terminal(cwd: Path, *arguments: str, answers: list[str]) -> tuple[int, str]:
    """Run a command on a pseudo-terminal, answer each question, and give its exit code and what stood there."""
    own, its = pty.openpty()
    command = [sys.executable, "-m", "rna_watch", *arguments]
    child = subprocess.Popen(command, stdin=its, stdout=its, stderr=its, cwd=cwd, start_new_session=True)
    os.close(its)
    said, answered = b"", 0
    with contextlib.suppress(OSError):  # the terminal is gone with its last process
        while select.select([own], [], [], LIMIT_S)[0] and (part := os.read(own, 4096)):
            said += part
            if said.count(b"Which one [2]: ") > answered < len(answers):
                os.write(own, answers[answered].encode())
                answered += 1
    try:
        code = child.wait(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        child.kill()
        raise AssertionError(said) from None
    os.close(own)
    return code, said.decode().replace("\r\n", "\n")


def test_two_runs_without_a_terminal_are_refused_and_the_command_for_each_works(two_runs: Path) -> None:
    """Exit code 2, the runs with what is in them, nothing written; one of the commands, as it stands, takes that run."""
    before = _everything(two_runs)
    refused = rna_watch("once", f"{two_runs}/", "--engine", "local", "--output", two_runs.parent / "out")
    assert refused.returncode == 2
    assert refused.stdout == ""
    lines = refused.stderr.splitlines()
    assert lines[0] == f"rna-watch: 2 runs lie below {two_runs}; name the one to take:"
    assert lines[1].endswith("  4 checkpoints: epoch=*-step=*.ckpt, steps 10 to 40")
    assert lines[2].endswith("  4 checkpoints: epoch=*-step=*.ckpt, steps 10 to 40  (newest)")
    assert lines[3] == "or, if they are one run after all, add --patterns '*.ckpt'"
    assert len(lines) == 4
    assert _everything(two_runs) == before
    assert not (two_runs.parent / "out").exists()
    command = shlex.split(re.sub("  4 checkpoints.*", "", lines[2]))
    chosen = two_runs / "lightning_logs" / "version_1"
    assert command == ["rna-watch", "once", str(chosen), "--engine", "local", "--output", str(two_runs.parent / "out")]
    done = rna_watch(*command[1:])
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == (
        "found    4 checkpoints in checkpoints, as Lightning writes them: epoch=*-step=*.ckpt, steps 10 to 40"
    )
    assert published(chosen, two_runs.parent / "out") == [f"checkpoints/epoch={e}-step={e}0.ckpt" for e in (3, 4)]


def test_on_a_terminal_the_run_is_asked_for_and_started(two_runs: Path) -> None:
    """A numbered question, wrong answers asked again, the newest by default; only the chosen run is watched."""
    code, said = _on_a_terminal(two_runs.parent, "start", "my run", "--engine", "local", answers=["3\n", "1\n"])
    chosen = two_runs / "lightning_logs" / "version_0"
    try:
        assert code == 0, said
        assert said.startswith(
            "2 runs lie below my run:\n"
            "  1  lightning_logs/version_0  4 checkpoints: epoch=*-step=*.ckpt, steps 10 to 40\n"
            "  2  lightning_logs/version_1  4 checkpoints: epoch=*-step=*.ckpt, steps 10 to 40  (newest)\n"
            "Which one [2]: "
        )
        assert "found    4 checkpoints in checkpoints, as Lightning writes them" in said
        assert f"watching {chosen} (process " in said
        assert f"models   {chosen}/rna\n" in said
        assert "look     rna-watch dashboard 'my run/lightning_logs/version_0' " in said
        wait_until(lambda: len(published(chosen)) == 2)
    finally:
        assert rna_watch("stop", chosen).returncode == 0
    assert not (two_runs / ".rna-watch").exists()
    code, said = _on_a_terminal(two_runs.parent, "once", "my run", "--engine", "local", answers=["\n"])
    assert code == 0, said
    assert len(published(two_runs / "lightning_logs" / "version_1")) == 2


def test_an_interrupted_question_starts_nothing(two_runs: Path) -> None:
    """Ctrl-C at the question ends the command, with nothing written."""
    before = _everything(two_runs)
    code, _ = _on_a_terminal(two_runs.parent, "start", "my run", answers=["\x04"])
    assert code == 130
    assert _everything(two_runs) == before


def test_a_run_directory_that_is_empty_takes_what_appears_and_tells_of_several_runs(
    tmp_path: Path, two_runs: Path
) -> None:
    """Started before the training; a second run under it is a problem in words and no end, not even at the next start."""
    run = tmp_path / "run"
    run.mkdir()
    started = rna_watch("start", run, "--engine", "local", "--quiet", 0.1, "--scan-interval", 0.1)
    try:
        assert started.returncode == 0, started.stderr
        assert started.stdout.startswith(
            "found    no checkpoint yet; what appears here is taken (files ending in .pt, "
        )
        shutil.copytree(two_runs / "lightning_logs" / "version_0", run / "lightning_logs" / "version_0")
        wait_until(lambda: len(published(run)) == 2)
        assert status(run)["problems"] == []
        shutil.copytree(two_runs / "lightning_logs" / "version_1", run / "lightning_logs" / "version_1")
        wait_until(lambda: bool(status(run)["problems"]))
    finally:
        rna_watch("stop", run)
    problem = {
        "what": "2 runs lie here and are watched as one (lightning_logs/version_0, lightning_logs/version_1): "
        "only their names and weights keep their windows apart",
        "remedy": f"stop this and watch each by itself, such as: rna-watch start {run}/lightning_logs/version_1",
    }
    assert status(run)["problems"] == [problem]
    again = rna_watch("once", run, "--engine", "local")
    assert again.returncode == 3, again.stderr
    assert again.stdout.startswith(
        "found    4 checkpoints in lightning_logs/version_0/checkpoints, as Lightning writes"
    )
    shutil.rmtree(run / "lightning_logs" / "version_0")
    assert rna_watch("once", run, "--engine", "local").returncode == 3
    assert status(run)["problems"] == []


def test_a_run_directory_that_is_to_come_is_waited_for_and_not_made(tmp_path: Path, trained: Path) -> None:
    """A missing folder is an error that names --wait; with it the daemon begins when the trainer has made the folder."""
    run = tmp_path / "run"
    refused = rna_watch("start", run, "--engine", "local")
    assert refused.returncode == 2
    assert refused.stderr == (
        f"rna-watch: the run directory {run} does not exist; "
        "if the training is yet to make it, wait for it with --wait\n"
    )
    nowhere = rna_watch("start", run / "below", "--wait", "--engine", "local")
    assert nowhere.returncode == 2
    assert "does not exist" in nowhere.stderr
    daemon = start_foreground(run, "--wait", "--engine", "local")
    try:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == f"waiting  for {run}, which the training is to make (Ctrl-C ends)\n"
        assert not run.exists()
        shutil.copytree(trained, run)
        wait_until(lambda: len(published(run)) == 2)
    finally:
        daemon.terminate()
        daemon.communicate(timeout=20)
    assert daemon.returncode == 0


def test_a_run_directory_that_cannot_be_looked_at_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder above it without permission is wrong usage in words, whatever is asked."""
    run, stat = tmp_path / "closed" / "run", Path.stat

    def closed(path: Path, **options: bool) -> os.stat_result:
        if tmp_path / "closed" in path.parents:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", closed)
    with pytest.raises(UsageError, match=r"run cannot be looked at: Permission denied; give this user access"):
        resolve(run, None)
    with pytest.raises(UsageError, match=r"below cannot be looked at: Permission denied; give this user access"):
        is_to_come(run / "below", wait=True)
    with pytest.raises(UsageError, match=r"run cannot be looked at: Permission denied"):
        verify_all([run])


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EIO, errno.EMFILE, errno.ENOSPC])
def test_a_run_directory_that_may_come_back_is_a_failure_that_is_worth_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """A server that does not answer is no wrong usage: the exit code is 1, which a service is started again after."""
    real = {name: getattr(os, name) for name in ("stat", "scandir")}

    def fails(name: str, path: object, **options: object) -> object:
        if str(path) == str(tmp_path):
            raise OSError(code, os.strerror(code), str(path))
        return real[name](path, **options)

    for name in real:
        with monkeypatch.context() as patch:
            patch.setattr(os, name, partial(fails, name))
            with pytest.raises(RnaWatchError, match="cannot be looked at") as raised:
                scan(resolve(tmp_path, None).run)
        assert raised.value.exit_code == 1


def _never(*_arguments: object) -> int:
    raise AssertionError("nothing is to be asked")


def _settle(run: Path, config: RunConfig = CONFIG) -> tuple[Path, list[str]]:
    return settle(run, config, ["rna-watch", "start", str(run)], _never, goes_on=True)


def test_links_to_folders_are_named_where_nothing_is_found(tmp_path: Path, trained: Path) -> None:
    """Checkpoints behind a link are not taken: `start` and `once` say so, and name the folder to take instead."""
    run = tmp_path / "run"
    (run / "logs").mkdir(parents=True)
    (run / "checkpoints").symlink_to(trained)
    (run / "logs" / "latest").symlink_to(run / "logs")
    (run / "up").symlink_to(tmp_path)
    words = f"checkpoints is a link to a folder, which is not followed: name {trained.resolve()} itself"
    chosen, said = _settle(run)
    assert chosen == run
    assert said[0].startswith("found    no checkpoint yet")
    assert said[1:] == [f"note     {words}"]
    result = rna_watch("once", run, "--engine", "local")
    assert result.returncode == 3
    endings = ".pt, .pth, .ckpt, .bin, .pth.tar, .pt.tar, .safetensors, .zip, .nemo"
    assert f"there are no checkpoints (files ending in {endings}; or --patterns); {words}\n" in result.stderr
    shutil.copy(next(trained.glob("*.pt")), run)
    assert [line for line in _settle(run)[1] if "link" in line] == []


def test_patterns_say_what_to_take(two_runs: Path) -> None:
    """Nothing is asked with --patterns, the lines say what they match, and several runs are no problem."""
    config = RunConfig.model_validate({"patterns": ["*.ckpt"]})
    settled, said = _settle(two_runs, config)
    assert settled == two_runs
    names = "epoch=*-step=*.ckpt, steps 10 to 40"
    assert said == [
        f"found    4 checkpoints in lightning_logs/version_0/checkpoints, as Lightning writes them: {names}",
        "step     read from the step in the name",
        f"also     4 checkpoints in lightning_logs/version_1/checkpoints: {names}",
    ]
    assert _settle(two_runs, RunConfig.model_validate({"patterns": ["*.new"]}))[1] == [
        "found    no checkpoint yet; what appears here is taken (files like *.new)"
    ]
    done = rna_watch("once", two_runs, "--engine", "local", "--patterns", "*.ckpt")
    assert done.returncode == 0, done.stderr
    assert events(two_runs, "problem") == []


def test_other_models_in_folders_of_their_own_are_asked_for(
    tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names leave it open, so the newest of at most three folders are looked into; the same model twice is one run."""
    probed = []
    real = settle_run.probe
    monkeypatch.setattr(settle_run, "probe", lambda path, *how: probed.append(Path(path)) or real(path, *how))
    for name in ("a", "b", "c", "x"):
        shutil.copytree(trained, tmp_path / name)
    assert _settle(tmp_path)[1] == [
        "found    4 checkpoints in a: step_*.pt, steps 1 to 4",
        "step     read from the step in the name",
        "also     " + "; ".join(f"4 checkpoints in {name}: step_*.pt, steps 1 to 4" for name in ("b", "c", "x")),
    ]
    assert sorted(path.parent.name for path in probed) == ["a", "b", "c"]
    torch.save({"other": torch.zeros(3)}, tmp_path / "b" / "step_9.pt")
    with pytest.raises(UsageError, match="4 runs lie below"):
        settle(tmp_path, CONFIG, ["rna-watch", "start", str(tmp_path)], None, goes_on=True)
    (tmp_path / "b" / "step_10.pt").write_bytes(b"PK")
    assert len(_settle(tmp_path)[1]) == 3


def test_a_run_inside_a_run_is_asked_for_again(tmp_path: Path) -> None:
    """Very many runs are cut to the newest; a choice that holds several runs leads to the next question."""
    for version in range(30):
        for step in (1, 2):
            file = tmp_path / f"version_{version}" / "checkpoints" / f"step_{step}.pt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
            os.utime(file, (1e9 + version, 1e9 + version))
    for seed in (1, 2):
        folder = tmp_path / "version_29" / "more" / f"seed_{seed}"
        folder.mkdir(parents=True)
        (folder / "last.pt").touch()
        os.utime(folder / "last.pt", (2e9 + seed, 2e9 + seed))
    asked = []

    def ask(lines: list[str], choices: int, default: int) -> int:
        asked.append((lines[0], lines[-1].split()[:2], choices, default))
        return default if len(asked) == 1 else 2

    chosen, said = settle(tmp_path, CONFIG, ["rna-watch", "start", str(tmp_path)], ask, goes_on=True)
    assert asked == [
        (f"30 runs lie below {tmp_path} (here the newest 20):", ["20", "version_29"], 20, 20),
        (f"3 runs lie below {tmp_path}/version_29:", ["3", "more/seed_2"], 3, 3),
    ]
    assert chosen == tmp_path / "version_29" / "more" / "seed_1"
    assert said == ["found    last.pt; taken each time it is written"]


def test_names_cannot_play_with_the_terminal(tmp_path: Path) -> None:
    """Control characters and bytes that are no text are shown as replacement characters."""
    (tmp_path / "a\x1b[31m_1.pt").touch()
    (tmp_path / os.fsdecode(b"b\xff_2.pt")).touch()
    assert _settle(tmp_path)[1] == [
        "found    1 checkpoint: a\ufffd[31m_1.pt, number 1",
        "also     1 checkpoint: b\ufffd_2.pt, number 2",
    ]


def test_the_problem_names_few_of_many_runs() -> None:
    """Three of them, and how many more; nothing is said of one run."""
    names = tuple(f"seed_{seed}/step_{step}.pt" for seed in range(5) for step in (1, 2))
    what, remedy = several_runs(names, Path("/my runs")) or ("", "")
    together = "5 runs lie here and are watched as one (seed_0, seed_1, seed_2 and 2 more)"
    assert what == f"{together}: only their names and weights keep their windows apart"
    assert remedy == "stop this and watch each by itself, such as: rna-watch start '/my runs/seed_4'"
    assert several_runs(names[:2], Path("/my runs")) is None


def test_our_own_outputs_are_not_found(two_runs: Path) -> None:
    """Models that were written to one of the runs are no checkpoints of a third."""
    chosen = two_runs / "lightning_logs" / "version_1"
    assert rna_watch("once", chosen, "--engine", "local").returncode == 0
    paths = RunPaths(run=two_runs, output=two_runs)
    assert len(settle_run.look(CONFIG, paths)) == 8
