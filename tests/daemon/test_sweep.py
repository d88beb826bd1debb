"""Many runs in one process: new ones are taken up, one is let go and the others go on, and a run's trouble stays its own."""

from __future__ import annotations

import json
import shutil
import threading
import time
from typing import TYPE_CHECKING

import pytest

from rna_watch.commands import stop
from rna_watch.commands.start_many import Below
from rna_watch.config import RunConfig
from rna_watch.daemon import log_file
from rna_watch.daemon.setup import start_engine
from rna_watch.daemon.shared import Shared
from rna_watch.daemon.sweep import Found, Sweep
from rna_watch.errors import Cancelled, NothingToDo, RunIsWatched
from rna_watch.journal import log
from rna_watch.journal import sweep as record
from rna_watch.journal.lock import RunLock
from rna_watch.journal.replay import Stage, replay
from rna_watch.journal.run_paths import RunPaths
from rna_watch.journal.status import status_of
from tests.daemon.runs import rna_watch, train, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from rna_watch.daemon.recorder import Recorder

COUNT = 4


class _Running:
    """A sweep below a folder, in this process, with its main loop in a thread."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, **settings: object) -> None:
        monkeypatch.setattr("rna_watch.daemon.sweep.signals.take", lambda _: None)
        monkeypatch.setattr("rna_watch.daemon.sweep.signals.restore", lambda _: None)
        monkeypatch.setattr("rna_watch.daemon.sweep._LOOK_S", 0.2)
        monkeypatch.setattr("rna_watch.daemon.sweep._SHARE", 0)
        given = {"engine": "local", "quiet": 0.05, "scan_interval": 0.2, "workers": 1} | settings
        config = RunConfig.model_validate(given)
        below = Below(root, config, ())
        self.home = RunPaths(run=root, output=root)
        self.home.create(sweep=True)
        self.lock = RunLock(self.home)
        self.lock.__enter__()
        log_file.log_of_many(self.home, to_terminal=False)
        self.ready = threading.Event()
        self.said: list[str] = []
        self.sweep = Sweep(
            config, [], find=below.found, home=self.home, lock=self.lock, say=self.said.append, on_ready=self.ready.set
        )
        self.thread = threading.Thread(target=self.sweep.run, daemon=True)
        self.thread.start()

    def end(self) -> None:
        """End it as `stop ROOT` from another machine does."""
        self.home.stop_request.touch()
        self.thread.join(60.0)
        self.lock.__exit__()
        assert not self.thread.is_alive()


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., _Running]]:
    """Begins a sweep below `runs`, which is ended after the test."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    begun: list[_Running] = []

    def begin(**settings: object) -> _Running:
        begun.append(_Running(tmp_path / "runs", monkeypatch, **settings))
        return begun[-1]

    yield begin
    for each in begun:
        if each.thread.is_alive():
            each.end()


def _published(run: Path) -> int:
    state = replay(log.read(RunPaths(run=run, output=run).journal))
    return state.checkpoints.count([Stage.PUBLISHED])


def _watched(run: Path) -> bool:
    return status_of(RunPaths(run=run, output=run)).alive


def test_new_runs_are_taken_up_one_is_let_go_and_the_others_go_on(
    tmp_path: Path, running: Callable[..., _Running]
) -> None:
    """Each run has its own journal, lock, log and models; `stop RUN` asks by a file, and the process ends by `stop ROOT`."""
    root = tmp_path / "runs"
    for name in ("lr1", "lr2"):
        train(root / name / "checkpoints", count=COUNT)
    sweep = running()
    first, second, third = (root / name for name in ("lr1", "lr2", "lr3"))
    wait_until(lambda: sweep.ready.is_set() and min(_published(first), _published(second)) == COUNT - 2)
    train(third / "checkpoints", count=COUNT)
    wait_until(lambda: (third / ".rna-watch").exists() and _published(third) == COUNT - 2)
    assert "shared" in json.loads((third / ".rna-watch" / "owner.json").read_text())

    said = stop.stop(second, None, lambda _: None)
    assert "stopped watching" in said
    assert not _watched(second)
    train(first / "checkpoints", count=1, first=COUNT + 1)
    train(second / "checkpoints", count=1, first=COUNT + 1)
    wait_until(lambda: _published(first) == COUNT - 1)
    assert _watched(first) and _watched(third) and not _watched(second)  # noqa: PT018 - one moment
    assert _published(second) == COUNT - 2
    expected = {str(first): "", str(second): "rna-watch stop", str(third): ""}
    wait_until(lambda: {each.run: each.left for each in record.read(sweep.home) or ()} == expected)

    shown = rna_watch("status", root)
    assert "3 runs" in shown.stdout
    assert f"left     {second}: rna-watch stop" in shown.stdout
    whole = json.loads(rna_watch("status", root, "--json").stdout)
    assert [each["left"] for each in whole["runs"]] == [None, "rna-watch stop", None]
    assert whole["state"] == "watching"
    lines = (first / ".rna-watch" / "log").read_text()
    assert "step_5.pt  published" in lines
    assert "published" not in (root / ".rna-watch" / "log").read_text()
    assert str(third) in (root / ".rna-watch" / "log").read_text()

    sweep.end()
    assert not _watched(first)
    assert not _watched(third)
    with pytest.raises(NothingToDo):
        stop.stop(first, None, lambda _: None)


def test_a_run_with_an_owner_and_one_that_cannot_be_used_are_left_with_a_line(
    tmp_path: Path, running: Callable[..., _Running]
) -> None:
    """The others are watched; a run that Accelerate would crash on is tried again, one with an owner is not."""
    root = tmp_path / "runs"
    for name in ("lr1", "lr2", "lr3"):
        train(root / name, count=COUNT)
    (root / "lr3" / "checkpoint_0").mkdir()
    owned = RunPaths(run=root / "lr2", output=root / "lr2")
    owned.create()
    with RunLock(owned):
        sweep = running()
        wait_until(lambda: sweep.ready.is_set() and _published(root / "lr1") == COUNT - 2)
        left = {each.run: each.left for each in record.read(sweep.home) or ()}
        assert "watches" in left[str(root / "lr2")]
        assert "Accelerate" in left[str(root / "lr3")]
        assert any(str(root / "lr2") in line and line.startswith("left") for line in sweep.said)
        assert any(str(root / "lr3") in line and "tried again" in line for line in sweep.said)
        sweep.end()


def test_a_run_that_vanishes_and_one_that_is_finished_end_nothing_else(
    tmp_path: Path, running: Callable[..., _Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run is let go when its training has ended by the settings, and taken up again when it is written to."""
    monkeypatch.setattr("rna_watch.daemon.sweep._FIRST_PAUSE_S", 0.2)
    monkeypatch.setattr("rna_watch.daemon.loop._AWAY_LIMIT_S", 0.5)
    root = tmp_path / "runs"
    for name in ("lr1", "lr2"):
        train(root / name, count=COUNT)
    train(root / "lr3", count=COUNT - 1)
    sweep = running(last_step=COUNT)
    wait_until(lambda: sweep.ready.is_set() and _published(root / "lr1") == COUNT - 2 and not _watched(root / "lr1"))
    wait_until(lambda: _published(root / "lr2") == COUNT - 2 and not _watched(root / "lr2"))
    wait_until(lambda: _published(root / "lr3") == COUNT - 3)
    shutil.rmtree(root / "lr3")
    wait_until(
        lambda: {each.run: each.left for each in record.read(sweep.home) or ()}[str(root / "lr3")].endswith("is gone")
    )
    assert not (root / "lr3").exists()
    train(root / "lr1", count=1, first=COUNT + 1)
    wait_until(lambda: _published(root / "lr1") == COUNT - 1)
    sweep.end()


def test_nothing_to_watch_any_more_ends_a_process_with_named_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends when the last of its runs is let go; where every run has an owner, it refuses with the first one's."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    runs = [RunPaths(run=tmp_path / name, output=tmp_path / name) for name in ("one", "two")]
    for paths in runs:
        train(paths.run, count=COUNT)
    config = RunConfig.model_validate(
        {"engine": "local", "quiet": 0.05, "scan_interval": 0.2, "workers": 1, "last_step": COUNT}
    )
    Sweep(config, [Found(paths=each) for each in runs]).run()
    assert [_published(each.run) for each in runs] == [COUNT - 2] * 2
    with RunLock(runs[0]), RunLock(runs[1]), pytest.raises(RunIsWatched, match="one"):
        Sweep(config, [Found(paths=each) for each in runs]).run()


def test_one_evaluator_serves_all_runs_and_a_run_is_let_go_amid_its_evaluation(
    tmp_path: Path, running: Callable[..., _Running]
) -> None:
    """Its files lie in the scratch folder of the run at work; whose run is let go ends alone, and the next one is served."""
    root, asked, block = tmp_path / "runs", tmp_path / "asked", tmp_path / "block"
    for name in ("lr1", "lr2"):
        train(root / name, count=COUNT)
    block.touch()
    script = tmp_path / "judge.sh"
    script.write_text(f'echo "$1" >> {asked}\nwhile [ -e {block} ]; do sleep 0.1; done\necho \'{{"loss": 1.0}}\'\n')
    sweep = running(evaluate_command=f"sh {script} {{checkpoint}}", metric="loss", mode="min")
    wait_until(lambda: sweep.ready.is_set() and asked.exists() and bool(asked.read_text()))
    held = root / ("lr1" if str(root / "lr1") in asked.read_text() else "lr2")
    other = root / ("lr2" if held.name == "lr1" else "lr1")
    assert str(held / ".rna-watch" / "scratch") in asked.read_text()
    assert _watched(other)
    begun = time.monotonic()
    stop.stop(held, None, lambda _: None)
    assert time.monotonic() - begun < 14.0, "the join of its threads ran into its limit"
    block.unlink()
    wait_until(lambda: _published(other) == COUNT - 2)
    assert str(other / ".rna-watch" / "scratch") in asked.read_text()
    assert _published(held) == 0
    evaluators = [each.pid for each in status_of(RunPaths(run=other, output=other)).workers if each.name == "evaluator"]
    assert len(evaluators) <= 1
    sweep.end()


class _Member:
    """What takes turns."""

    def __init__(self, recorder: Recorder | None = None) -> None:
        self.wake = threading.Event()
        self.recorder = recorder


def test_new_checkpoints_go_first_and_no_run_starves() -> None:
    """Of those that wait, a new checkpoint's run is served first, the one served longest ago before others; each in its time."""
    shared = Shared(many=True)
    order: list[str] = []
    members = {name: _Member() for name in ("a", "b", "old")}
    rounds = {"a": 6, "b": 6, "old": 2}

    def work(name: str) -> None:
        for _ in range(rounds[name]):
            with shared.turn(members[name], lambda: None, urgent=name != "old"):  # type: ignore[arg-type]
                order.append(name)
                wait_until(lambda: len(shared._waiting) >= min(len(alive()) - 1, 2))

    def alive() -> list[threading.Thread]:
        return [each for each in threads if each.is_alive()]

    threads = [threading.Thread(target=work, args=(name,)) for name in rounds]
    with shared.turn(_Member(), lambda: None):  # type: ignore[arg-type]
        for each in threads:
            each.start()
        wait_until(lambda: len(shared._waiting) == 3)
    for each in threads:
        each.join(60.0)
    assert len(order) == sum(rounds.values())
    assert "old" in order[:-2]
    both = [name for name in order if name != "old"]
    assert all(len(set(both[i : i + 3])) == 2 for i in range(len(both) - 4))


def test_who_gives_up_waiting_holds_up_nobody() -> None:
    """A run that is let go while it waits for its turn leaves the line."""
    shared = Shared(many=True)

    def stopping() -> None:
        raise Cancelled("stopping")

    with shared.turn(_Member(), lambda: None):  # type: ignore[arg-type]
        with pytest.raises(Cancelled), shared.turn(_Member(), stopping):  # type: ignore[arg-type]
            pass
        assert not shared._waiting
    with shared.turn(_Member(), stopping) as waited:  # type: ignore[arg-type]
        assert not waited


def test_the_engine_ends_with_the_last_run(tmp_path: Path) -> None:
    """A run that ends leaves it to the others; the last one ends it, and a later run begins with another."""
    shared, config = Shared(many=True), RunConfig.model_validate({"engine": "local", "workers": 1})
    one, two = _Member(), _Member()
    shared.join(one)  # type: ignore[arg-type]
    shared.join(two)  # type: ignore[arg-type]
    engine = shared.started(config, tmp_path)
    shared.give_up(one)  # type: ignore[arg-type]
    shared.leave(one)  # type: ignore[arg-type]
    assert shared.started(config, tmp_path) is engine
    assert engine.map([]) == []
    shared.give_up(two)  # type: ignore[arg-type]
    with pytest.raises(Cancelled):
        engine.map([])
    later = shared.started(config, tmp_path)
    assert later is not engine
    shared.leave(two)  # type: ignore[arg-type]
    assert shared.engine is None
    assert type(later) is type(start_engine(config))
