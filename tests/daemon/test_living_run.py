"""A living run is watched: real trainers in child processes, the daemon beside them, what they leave on disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.daemon.runs import (
    EVALUATOR,
    LIMIT_S,
    alive,
    check_output,
    events,
    fingerprints,
    published,
    rna_watch,
    start_foreground,
    status,
    train,
    trainer_command,
    wait_until,
)


@pytest.mark.parametrize(
    "form", [pytest.param("nested", marks=pytest.mark.slow), "zip", pytest.param("safetensors", marks=pytest.mark.slow)]
)
def test_every_checkpoint_of_a_living_run_is_published_once(tmp_path: Path, form: str) -> None:
    """Watched from before its first checkpoint, each one is processed once, published right, and left untouched."""
    run = tmp_path / "run"
    run.mkdir()
    started = rna_watch("start", run, "--engine", "local", "--evaluator", EVALUATOR, "--keep", 20)
    assert started.returncode == 0, started.stderr
    assert str(run) in started.stdout
    try:
        train(run, count=7, pause=0.2, form=form)
        before = fingerprints(run)
        wait_until(lambda: len(published(run)) == 5)
    finally:
        stopped = rna_watch("stop", run)
    assert stopped.returncode == 0, stopped.stderr
    ending = "safetensors" if form == "safetensors" else "pt"
    assert published(run) == [f"step_{step}.{ending}" for step in range(3, 8)]
    assert fingerprints(run) == before
    for name in published(run):
        check_output(run / "rna" / name, run)
        assert (run / "rna" / name).stat().st_mtime_ns == (run / name).stat().st_mtime_ns
    assert (run / "rna" / "latest").resolve() == (run / "rna" / published(run)[-1]).resolve()
    assert sorted(path.name for path in run.iterdir() if path.is_dir()) == [".rna-watch", "rna"]


def test_best_beats_every_original_and_output_before_it(tmp_path: Path) -> None:
    """`best` moves only to a model that is strictly better than every original and output that was there then."""
    train(tmp_path, count=9)
    result = rna_watch("once", tmp_path, "--engine", "local", "--evaluator", EVALUATOR, "--keep", 20)
    assert result.returncode == 0, result.stderr
    journal = [json.loads(line) for line in (tmp_path / ".rna-watch" / "journal.jsonl").read_text().splitlines()]
    seen: list[float] = []
    chosen: dict[str, float] = {}
    moved = 0
    for record in journal:
        if record["kind"] == "evaluated" and record["candidate"] == "last":
            seen.append(record["metrics"]["loss"])
        elif record["kind"] == "chosen":
            chosen[record["checkpoint"]] = record["metrics"]["chosen"]["loss"]
            assert record["better_than_original"] == (
                record["metrics"]["chosen"]["loss"] < record["metrics"]["original"]["loss"]
            )
        elif record["kind"] == "best_moved":
            moved += 1
            assert record["value"] < min(seen)
    assert moved == len(events(tmp_path, "best_moved"))
    if moved:
        best = events(tmp_path, "best_moved")[-1]
        assert (tmp_path / "rna" / "best").resolve().name == best.output
        assert best.value == min(best.value, *chosen.values(), *seen)


def test_the_trainers_retention_takes_no_input_away(tmp_path: Path) -> None:
    """A trainer that keeps only two checkpoints still gets a model for every window of five residuals."""
    run = tmp_path / "run"
    run.mkdir()
    assert rna_watch("start", run, "--engine", "local", "--scan-interval", 0.2).returncode == 0
    try:
        train(run, count=10, pause=0.8, keep=2)
        wait_until(lambda: len(published(run)) == 8)
    finally:
        rna_watch("stop", run)
    chosen = events(run, "chosen")
    assert [len(event.inputs) for event in chosen] == [3, 4, 5, 6, 6, 6, 6, 6]
    assert not (run / "step_6.pt").exists()
    assert len(list((run / ".rna-watch" / "pins").iterdir())) <= 6


def test_a_file_rewritten_in_place_gives_an_output_for_each_step(tmp_path: Path) -> None:
    """`last.pt`, written over and over, becomes `last.step1.pt`, `last.step2.pt`, ... with copies of its old bytes."""
    run = tmp_path / "run"
    run.mkdir()
    assert rna_watch("start", run, "--engine", "local", "--quiet", 0.2, "--scan-interval", 0.2).returncode == 0
    try:
        train(run, count=5, pause=1.2, in_place=True)
        wait_until(lambda: len(published(run)) == 3)
    finally:
        rna_watch("stop", run)
    assert published(run) == ["last.step3.pt", "last.step4.pt", "last.step5.pt"]
    assert {event.pin for event in events(run, "admitted")} <= {"copy", "reflink"}


@pytest.mark.xdist_group("ray")
def test_with_ray_a_lost_raylet_is_replaced_and_signals_end_everything(tmp_path: Path) -> None:
    """Work goes on if Ray is killed, with the daemon in the foreground; SIGTERM ends it and all its processes."""
    train(tmp_path, count=4)
    daemon = start_foreground(tmp_path, "--engine", "ray", "--evaluator", EVALUATOR, "--workers", 1)
    try:
        wait_until(lambda: len(published(tmp_path)) == 2)
        wait_until(lambda: {"daemon", "evaluator"} <= {worker["name"] for worker in status(tmp_path)["workers"]})
        (raylet,) = (p for p in psutil.Process(daemon.pid).children(recursive=True) if p.name() == "raylet")
        raylet.kill()
        train(tmp_path, count=1, first=5)
        wait_until(lambda: "step_5.pt" in published(tmp_path), 2 * LIMIT_S)
        wait_until(lambda: any(event.key == "engine" for event in events(tmp_path, "solved")), 2 * LIMIT_S)
        workers = status(tmp_path)["workers"]
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(timeout=20) == 0
    finally:
        daemon.kill()
        daemon.communicate()
    assert events(tmp_path, "stopped")[-1].reason == "signal SIGTERM"
    wait_until(lambda: not any(alive(worker["pid"]) for worker in workers))
    assert status(tmp_path)["state"] == "not running"


def test_a_second_start_says_who_runs(tmp_path: Path) -> None:
    """One daemon a run: another start names the first one's process; stop ends it within seconds; then nobody is there."""
    first = rna_watch("start", tmp_path, "--engine", "local")
    assert first.returncode == 0, first.stderr
    pid = status(tmp_path)["owner"]["pid"]
    second = rna_watch("start", tmp_path, "--engine", "local")
    in_foreground = rna_watch("start", tmp_path, "--engine", "local", "--foreground")
    assert second.returncode == in_foreground.returncode == 1
    assert f"process {pid}" in second.stderr
    assert f"process {pid}" in in_foreground.stderr
    assert rna_watch("stop", tmp_path).returncode == 0
    assert not alive(pid)
    assert rna_watch("stop", tmp_path).returncode == 3


def test_the_process_in_the_background_has_nothing_of_the_command_that_began_it(tmp_path: Path) -> None:
    """No descriptor that was handed down, no terminal, no thread that hangs; its folder, mask and ignored signals stay."""
    run, handed_down = tmp_path / "run", tmp_path / "handed down"
    run.mkdir()
    handed_down.write_text("")
    line = f"umask 027; trap '' HUP; exec {sys.executable} -m rna_watch start run --engine local 7<&0"
    with handed_down.open() as file:
        begun = subprocess.run(
            ["/bin/sh", "-c", line], stdin=file, cwd=tmp_path, capture_output=True, text=True, check=False
        )
    assert begun.returncode == 0, begun.stderr
    pid = status(run)["owner"]["pid"]
    of = Path(f"/proc/{pid}")
    try:
        opened = {each.name: str(each.readlink()) for each in (of / "fd").iterdir() if each.exists()}
        words = (of / "cmdline").read_bytes().split(b"\0")[:-1]
        said = dict(line.split(":\t", 1) for line in (of / "status").read_text().splitlines() if ":\t" in line)
        assert (opened["0"], opened["1"], opened["2"]) == ("/dev/null", *2 * [str(run / ".rna-watch/log")])
        assert str(handed_down) not in opened.values()
        assert not any(target.startswith(("/dev/pts", "/dev/tty")) for target in opened.values())
        assert sum(target.startswith("pipe:") for target in opened.values()) in {0, 2}  # that which wakes its observer
        assert words[-4:] == [b"start", b"run", b"--engine", b"local"]
        assert os.getsid(pid) == os.getpgid(pid) == pid
        assert (of / "cwd").readlink() == tmp_path
        assert (int(said["Umask"], 8), int(said["SigBlk"], 16)) == (0o027, 0)
        assert int(said["SigIgn"], 16) >> (signal.SIGHUP - 1) & 1
    finally:
        assert rna_watch("stop", run).returncode == 0
    assert not alive(pid)
    assert "Traceback" not in (run / ".rna-watch/log").read_text()


def test_stop_waits_for_the_process_not_only_for_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon whose interpreter takes long to end, after it has given the run back, is gone when `stop` returns."""
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, sys, time\nif 'start' in sys.orig_argv: atexit.register(time.sleep, 2)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    run = tmp_path / "run"
    run.mkdir()
    assert rna_watch("start", run, "--engine", "local").returncode == 0
    pid = status(run)["owner"]["pid"]
    assert rna_watch("stop", run).returncode == 0
    assert not alive(pid)
    assert events(run, "stopped")[-1].reason == "signal SIGTERM"


def test_a_stop_asked_from_another_machine_is_a_file(tmp_path: Path) -> None:
    """A file named `stop` in the state folder ends a daemon that no signal reaches."""
    daemon = start_foreground(tmp_path, "--engine", "local")
    try:
        wait_until(lambda: bool(events(tmp_path, "started")))
        (tmp_path / ".rna-watch" / "stop").touch()
        assert daemon.wait(timeout=20) == 0
    finally:
        daemon.kill()
        daemon.communicate()
    assert events(tmp_path, "stopped")[-1].reason == "rna-watch stop"


def test_the_training_is_the_same_with_and_without_us(tmp_path: Path) -> None:
    """Beside a daemon a trainer writes bitwise the checkpoints that it writes alone, and resumes from them alike."""
    alone, run = tmp_path / "alone", tmp_path / "run"
    train(alone, count=5)
    run.mkdir()
    assert rna_watch("start", run, "--engine", "local").returncode == 0
    try:
        train(run, count=5, pause=0.1)
        wait_until(lambda: len(published(run)) == 3)
    finally:
        rna_watch("stop", run)
    assert {name: content for name, (content, _) in fingerprints(alone).items()} == {
        name: content for name, (content, _) in fingerprints(run).items()
    }


def test_output_elsewhere_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written into the run directory with --output, and `status` finds the place by itself."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    run, output = tmp_path / "run", tmp_path / "elsewhere"
    train(run, count=4)
    before = sorted(path.name for path in run.iterdir())
    result = rna_watch("once", run, "--engine", "local", "--output", output)
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in run.iterdir()) == before
    assert (output / "rna" / "step_4.pt").is_file()
    assert [c["state"] for c in status(run)["checkpoints"]] == ["finished", "finished", "published", "published"]


def test_processes_of_a_killed_daemon_do_not_stay(tmp_path: Path) -> None:
    """The evaluator ends by itself after SIGKILL of its daemon."""
    train(tmp_path, count=4)
    daemon = start_foreground(tmp_path, "--engine", "local", "--evaluator", EVALUATOR)
    try:
        wait_until(lambda: len(published(tmp_path)) == 2)
        wait_until(lambda: any(w["name"] == "evaluator" for w in status(tmp_path)["workers"]))
        workers = status(tmp_path)["workers"]
    finally:
        daemon.kill()
        daemon.communicate()
    wait_until(lambda: not any(alive(worker["pid"]) for worker in workers))


def test_a_trainer_started_later_is_noticed(tmp_path: Path) -> None:
    """A run directory that is deleted and made again while we watch is watched again."""
    run = tmp_path / "run"
    run.mkdir()
    output = tmp_path / "out"
    daemon = start_foreground(run, "--engine", "local", "--output", output, "--scan-interval", 0.3)
    try:
        wait_until(lambda: bool(events(run, "started", output)))
        run.rmdir()
        wait_until(lambda: any(event.key == "run" for event in events(run, "problem", output)))
        trainer = subprocess.Popen(trainer_command(run, count=4, pause=0.2), stdout=subprocess.DEVNULL)
        wait_until(lambda: len(published(run, output)) == 2)
        assert trainer.wait(timeout=30) == 0
    finally:
        daemon.terminate()
        daemon.communicate(timeout=20)


_CLUSTER = """
import subprocess, sys
from ray.cluster_utils import Cluster
head = {"num_cpus": 2, "object_store_memory": 80 * 2**20, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=head)
where = ["--engine", "ray", "--ray-address", cluster.address]
arguments = ["once", sys.argv[1], *where, "--workers", "1", "--evaluator", sys.argv[2]]
print(subprocess.run([sys.executable, "-m", "rna_watch", *arguments], check=False).returncode)
import ray
ray.init(address=cluster.address, log_to_driver=False)
print("the cluster still runs", ray.get(ray.remote(lambda: 7).remote()))
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_a_cluster_that_is_named_is_joined_and_left_running(tmp_path: Path) -> None:
    """Work and evaluation run on the cluster of --ray-address, which is there afterwards."""
    train(tmp_path, count=4)
    result = subprocess.run(
        [sys.executable, "-c", _CLUSTER, str(tmp_path), EVALUATOR],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert result.stdout.splitlines()[-2:] == ["0", "the cluster still runs 7"], result.stdout + result.stderr
    assert published(tmp_path) == ["step_3.pt", "step_4.pt"]
    for name in published(tmp_path):
        check_output(tmp_path / "rna" / name, tmp_path)
