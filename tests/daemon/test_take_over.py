"""One daemon a run, whatever machines, containers and mounts it is reached from: real daemons in namespaces of their own."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import pytest

from rna_watch.config import RunConfig
from rna_watch.daemon.recorder import Recorder
from rna_watch.engine.local import LocalEngine
from rna_watch.errors import RunIsWatched
from rna_watch.journal import log
from rna_watch.journal.lock import RunLock
from rna_watch.journal.owner import recorded
from rna_watch.journal.run_paths import RunPaths, same_folder
from rna_watch.journal.run_registry import remember, resolve
from rna_watch.journal.status import status_of
from rna_watch.layout import disk
from rna_watch.layout.identity import identify
from tests.daemon.in_process import assemble
from tests.daemon.runs import alive, events, published, rna_watch, start_foreground, status, train, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rna_watch.journal.owner import Owner

LOCAL = ("--engine", "local")
_DEAF = "int flock(int file, int how) { return 0; }"
_PATIENT = """
from rna_watch.journal import heartbeat
heartbeat.STALE_AFTER_S = {patience_s}
from rna_watch.cli import main
main()
"""


@pytest.fixture(scope="session", name="deaf")
def _deaf(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which every flock succeeds, as on a file system that keeps none between its clients."""
    folder = tmp_path_factory.mktemp("deaf")
    if shutil.which("cc") is None:
        (folder / "sitecustomize.py").write_text("import fcntl\nfcntl.flock = lambda *_: None\n")
        return os.environ | {
            "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
        }
    (folder / "deaf.c").write_text(_DEAF)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / "deaf.so", folder / "deaf.c"], check=True)
    return os.environ | {"LD_PRELOAD": str(folder / "deaf.so")}


@pytest.fixture(scope="session", name="namespace")
def _namespace() -> list[str]:
    """A command that runs another as process 1 of PID and UTS namespaces of its own; killed, it takes that one along."""
    words = ["unshare", "--fork", "--pid", "--mount-proc", "--uts", "--kill-child"]
    for given in (words, [*words, "--user", "--map-root-user"]):
        with contextlib.suppress(OSError):
            if subprocess.run([*given, "true"], capture_output=True, check=False).returncode == 0:
                return given
    pytest.skip("no right to make namespaces: no two daemons that are both process 1")


class Machines:
    """Daemons in namespaces of their own, ended when the test is."""

    def __init__(self, namespace: list[str], environment: dict[str, str]) -> None:
        self._namespace, self._environment = namespace, environment
        self.daemons: list[subprocess.Popen[str]] = []

    def start(self, *arguments: object, patience_s: float = 30.0) -> subprocess.Popen[str]:
        """A command on a machine of its own, which takes a silent daemon for gone after so many seconds."""
        program = [sys.executable, "-c", _PATIENT.format(patience_s=patience_s)]
        self.daemons.append(
            subprocess.Popen(
                [*self._namespace, *program, *map(str, arguments)],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=self._environment,
            )
        )
        return self.daemons[-1]

    def watching(self, run: Path, *, patience_s: float = 30.0) -> tuple[subprocess.Popen[str], Owner]:
        """A daemon that watches a run, and its record."""
        paths = RunPaths(run=run, output=run)
        before = recorded(paths.lock, paths.owner)
        daemon = self.start("start", run, *LOCAL, "--foreground", patience_s=patience_s)
        wait_until(lambda: recorded(paths.lock, paths.owner) not in {None, before} or daemon.poll() is not None)
        wait_until(lambda: status(run)["state"] == "watching" or daemon.poll() is not None)
        assert daemon.poll() is None
        owner = recorded(paths.lock, paths.owner)
        assert owner is not None
        return daemon, owner


@pytest.fixture(name="machines")
def _machines(namespace: list[str], deaf: dict[str, str]) -> Iterator[Machines]:
    machines = Machines(namespace, deaf)
    yield machines
    for daemon in machines.daemons:
        daemon.kill()
        daemon.wait()
        assert daemon.stdout is not None
        daemon.stdout.close()


def _inside(daemon: subprocess.Popen[str]) -> int:
    """The number by which we know the process that is number 1 in its namespace."""
    return int(Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()[0])


def _check_one_history(run: Path) -> None:
    """The journal was written by one daemon after the other: no number twice, no checkpoint twice published."""
    numbers = [event.seq for event in log.read(run / ".rna-watch" / "journal.jsonl")]
    assert numbers == sorted(set(numbers))
    assert len(published(run)) == len(set(published(run)))


def test_of_two_daemons_that_are_both_process_1_one_watches(tmp_path: Path, machines: Machines) -> None:
    """No lock and no process number tells them apart: the second says who watches, all see the first, `stop` ends it."""
    train(tmp_path, count=4)
    first, owner = machines.watching(tmp_path)
    assert (owner.pid, owner.lives()) == (1, None)
    second = machines.start("start", tmp_path, *LOCAL, "--foreground")
    said, _ = second.communicate(timeout=120)
    assert second.returncode == 1, said
    assert f"process 1 on {owner.host} (in another PID namespace) watches {tmp_path} already" in said
    assert rna_watch("status", tmp_path, "--check").returncode == 0
    assert rna_watch("start", tmp_path, *LOCAL).returncode == 1
    stopper = machines.start("stop", tmp_path)
    said, _ = stopper.communicate(timeout=120)
    assert (stopper.returncode, "stopped watching" in said) == (0, True), said
    assert first.wait(timeout=60) == 0
    assert status(tmp_path)["state"] == "not running"
    _check_one_history(tmp_path)
    assert published(tmp_path) == ["step_3.pt", "step_4.pt"]


def test_of_two_daemons_that_start_at_once_one_watches(tmp_path: Path, machines: Machines) -> None:
    """Neither finds an owner, both write their record: one has the run, the other ends and says who."""
    both = [machines.start("start", tmp_path, *LOCAL, "--foreground") for _ in range(2)]
    wait_until(lambda: any(daemon.poll() is not None for daemon in both))
    wait_until(lambda: status(tmp_path)["state"] == "watching")
    (ended,) = [daemon for daemon in both if daemon.poll() is not None]
    said, _ = ended.communicate()
    assert ended.returncode == 1, said
    assert "(in another PID namespace) " in said
    assert rna_watch("stop", tmp_path).returncode == 0
    _check_one_history(tmp_path)


def test_the_run_of_a_machine_that_died_is_taken_over_after_its_silence(tmp_path: Path, machines: Machines) -> None:
    """A line says that a sign of life is waited for; then the run is taken, and what was to do is done."""
    train(tmp_path, count=4)
    first, _ = machines.watching(tmp_path)
    wait_until(lambda: len(published(tmp_path)) == 2)
    first.kill()
    first.wait()
    train(tmp_path, count=5)
    second = machines.start("once", tmp_path, *LOCAL, patience_s=12.0)
    said, _ = second.communicate(timeout=120)
    assert second.returncode == 0, said
    assert "waiting  for a sign of life of process 1 on " in said
    assert "at most 12 s" in said
    assert published(tmp_path) == ["step_3.pt", "step_4.pt", "step_5.pt"]
    _check_one_history(tmp_path)


def test_a_daemon_that_slept_too_long_leaves_all_to_its_successor(tmp_path: Path, machines: Machines) -> None:
    """It wakes, finds another's nonce, says whose, publishes nothing more and leaves the lock alone."""
    train(tmp_path, count=4)
    first, owner = machines.watching(tmp_path)
    wait_until(lambda: len(published(tmp_path)) == 2)
    os.kill(_inside(first), signal.SIGSTOP)
    _, successor = machines.watching(tmp_path, patience_s=3.0)
    assert successor.nonce != owner.nonce
    os.kill(_inside(first), signal.SIGCONT)
    train(tmp_path, count=6)
    said, _ = first.communicate(timeout=120)
    assert first.returncode == 1, said
    assert "(in another PID namespace) has taken " in said
    wait_until(lambda: len(published(tmp_path)) == 4)
    assert status_of(RunPaths(run=tmp_path, output=tmp_path)).owner == successor
    assert status(tmp_path)["state"] in {"watching", "working"}
    assert rna_watch("stop", tmp_path).returncode == 0
    _check_one_history(tmp_path)


def test_a_daemon_that_was_killed_is_replaced_at_once(tmp_path: Path) -> None:
    """On one machine the process decides: nothing is waited for, though the heartbeat is fresh."""
    daemon = start_foreground(tmp_path, *LOCAL)
    wait_until(lambda: status(tmp_path)["state"] == "watching")
    daemon.kill()
    daemon.communicate()
    lines: list[str] = []
    with RunLock(RunPaths(run=tmp_path, output=tmp_path), lines.append):
        assert lines == []


def test_a_daemon_of_another_user_is_asked_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process is seen and takes no signal from us; where the file cannot be written either, the message says which."""
    kill, appending = os.kill, disk.appending

    def refuse(pid: int, number: int) -> None:
        """The real `kill`, of another user."""
        if number:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        kill(pid, number)

    def read_only(path: Path) -> BinaryIO:
        """Opening a file in another user's folder."""
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    daemon = start_foreground(tmp_path, *LOCAL)
    try:
        wait_until(lambda: status(tmp_path)["state"] == "watching")
        monkeypatch.setattr(os, "kill", refuse)
        monkeypatch.setattr(disk, "appending", read_only)
        refused = rna_watch("stop", tmp_path)
        assert refused.returncode == 1
        assert f"cannot write {tmp_path / '.rna-watch' / 'stop'}" in refused.stderr
        assert "Permission denied" in refused.stderr
        monkeypatch.setattr(disk, "appending", appending)
        assert rna_watch("stop", tmp_path).returncode == 0
        monkeypatch.undo()
        assert daemon.wait(timeout=60) == 0
        assert [event.reason for event in events(tmp_path, "stopped")] == ["rna-watch stop"]
    finally:
        daemon.kill()
        daemon.communicate()


class _Engine(LocalEngine):
    """An engine with something that happens in each of its calls."""

    def __init__(self, happens: Callable[[], None]) -> None:
        super().__init__(1)
        self._happens = happens

    def map(self, work: Any, on_done: Any = None) -> Any:
        """See `Engine.map`."""
        self._happens()
        return super().map(work, on_done)


def test_a_model_in_the_making_is_not_published_behind_a_take_over(tmp_path: Path) -> None:
    """The nonce is read again before the model takes its name; a manifest that lies there by then is the successor's."""
    train(tmp_path, count=3)
    paths = RunPaths(run=tmp_path, output=tmp_path)
    paths.create()
    manifest = paths.models / "step_3.pt.json"
    before: dict[str, Any] = {}

    def take_over() -> None:
        """What a successor does while the model is written."""
        if before or not events(tmp_path, "publishing"):
            return
        for path in (paths.lock, paths.owner):
            path.write_text(json.dumps(json.loads(path.read_text()) | {"pid": 4711}))
        manifest.write_text("{}")
        before["journal"] = paths.journal.read_bytes()

    with RunLock(paths) as lock:
        recorder = Recorder(paths.journal, check=lock.check)
        engine = _Engine(take_over)
        admission, pipeline = assemble(RunConfig(), paths, recorder, engine, ())
        try:
            for name in sorted(path.name for path in tmp_path.glob("*.pt")):
                admission.consider(name, identify(str(tmp_path / name)))
            *before_it, newest = recorder.checkpoints()
            for checkpoint in before_it:
                pipeline.process(checkpoint.name)
            with pytest.raises(RunIsWatched, match="process 4711 .* publishes nothing more"):
                pipeline.process(newest.name)
        finally:
            engine.close()
            recorder.close()
    assert paths.journal.read_bytes() == before["journal"]
    assert [path.name for path in paths.models.iterdir()] == [manifest.name]
    assert manifest.read_text() == "{}"
    assert json.loads(paths.lock.read_text())["pid"] == 4711


@pytest.fixture(name="two_mounts")
def _two_mounts(tmp_path: Path, namespace: list[str]) -> tuple[Path, list[str]]:
    """A folder, and a command that runs another where that folder is also mounted as `again`."""
    (tmp_path / "again").mkdir()
    (tmp_path / "run").mkdir()
    script = f'mount --bind "{tmp_path}/run" "{tmp_path}/again" && exec "$@"'
    return tmp_path / "run", [*namespace, "sh", "-c", script, "sh"]


def test_a_run_that_is_mounted_twice_is_one_run(
    two_mounts: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its daemon is found by the other path, also where its outputs lie elsewhere, and no second one is started."""
    run, mounted = two_mounts
    again, output = run.with_name("again"), run.with_name("output")
    monkeypatch.setenv("XDG_STATE_HOME", str(run.with_name("state")))
    daemon = start_foreground(run, *LOCAL, "--output", output)

    def there(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [*mounted, sys.executable, "-m", "rna_watch", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)

    try:
        wait_until(lambda: status(run)["state"] == "watching")
        looked = there("status", again, "--json")
        assert looked.returncode == 0, looked.stderr
        said = json.loads(looked.stdout)
        assert (said["run"], said["output"], said["state"]) == (str(again), str(output), "watching")
        started = there("once", again, *LOCAL)
        assert started.returncode == 1, started.stderr
        assert f"watches {again} already" in started.stderr
        assert not (run / ".rna-watch").exists()
        stopped = there("stop", again)
        assert stopped.returncode == 0, stopped.stderr
        wait_until(lambda: not alive(daemon.pid))
        train(run, count=3)
        gone_on = there("once", again, *LOCAL)
        assert gone_on.returncode == 0, gone_on.stderr
        assert published(run, output) == ["step_3.pt"]
    finally:
        daemon.kill()
        daemon.communicate()


def test_two_mounts_have_two_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network file system that is mounted twice: same inode, same times, another device."""
    real = Path.stat
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.symlink_to(one)

    def stat(path: Path, **options: bool) -> os.stat_result:
        """The real `stat`, by the other mount."""
        found = real(path, **options)
        if path != other:
            return found
        fields = {name: getattr(found, name) for name in dir(found) if name.startswith("st_")}
        return os.stat_result((*tuple(found)[:2], found.st_dev + 1, *tuple(found)[3:]), fields)

    monkeypatch.setattr(Path, "stat", stat)
    assert not os.path.samestat(one.stat(), other.stat())
    assert same_folder(one, other)
    monkeypatch.setattr(Path, "stat", real)
    shutil.copytree(one, tmp_path / "copy")
    assert not same_folder(one, tmp_path / "copy")


def test_the_living_one_of_several_outputs_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever was named last: `stop` and `status` mean the daemon that lives; without one, the run's own folder."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    run = tmp_path / "run"
    places = [RunPaths(run=run, output=output) for output in (tmp_path / "one", tmp_path / "two", run)]
    run.mkdir()
    assert resolve(run, None) == places[2]
    for place in places[:2]:
        place.create()
        remember(place)
    assert resolve(run, None) == places[1]
    places[2].create()
    assert resolve(run, None) == places[2]
    for place in places:
        with RunLock(place):
            assert resolve(run, None) == place
    (record,) = (tmp_path / "state" / "rna-watch" / "runs").iterdir()
    assert json.loads(record.read_text())["output"] == str(tmp_path / "two")  # what 0.1.0 reads
    record.write_text(json.dumps({"run": str(run), "output": str(tmp_path / "one")}))  # what 0.1.0 writes
    shutil.rmtree(places[2].state)
    assert resolve(run, None) == places[0]
