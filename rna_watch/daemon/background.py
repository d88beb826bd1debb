"""Starting and stopping the daemon: a child without a terminal, found again through the run's lock."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import deque
from typing import TYPE_CHECKING

from rna_watch.daemon import child, run_watch
from rna_watch.daemon.log_file import log_of_many, log_to, stderr_of_libraries
from rna_watch.daemon.setup import be_nice, begins_on_ray, evaluator_spec
from rna_watch.errors import NothingToDo, RnaWatchError, RunIsWatched, StoreError
from rna_watch.journal import waiting
from rna_watch.journal.command_line import command
from rna_watch.journal.follow import Follower
from rna_watch.journal.lock import RunLock, check_unwatched
from rna_watch.journal.replay import PENDING, Stage
from rna_watch.journal.run_paths import check_output
from rna_watch.journal.status import settled, status_of
from rna_watch.layout import disk, owned
from rna_watch.layout.memory import keep_little

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from rna_watch.config import RunConfig
    from rna_watch.daemon.recorder import Recorder
    from rna_watch.daemon.sweep import Find, Found
    from rna_watch.journal.heartbeat import Work
    from rna_watch.journal.owner import Owner
    from rna_watch.journal.replay import RunState
    from rna_watch.journal.run_paths import RunPaths

_STOP_LIMIT_S = 30.0
_POLL_S = 0.05


def serve(
    config: RunConfig,
    paths: RunPaths,
    *,
    until_done: bool = False,
    again: bool = False,
    to_terminal: bool = True,
    say: Callable[[str], None] = lambda _: None,
    before: Callable[[RunState], Iterable[str]] = lambda _: (),
    on_second: Callable[[RunState, Work | None], None] = lambda _state, _work: None,
) -> Recorder:
    """Run the daemon in this process until it is stopped or nothing is left to do; returns the final state.

    Args:
        config: the settings.
        paths: where the run and its outputs lie.
        until_done: end when nothing is left to do (`once`).
        again: make every model anew whose inputs are there.
        to_terminal: log to the terminal too.
        say: shows a line about how it begins.
        before: lines about what was recorded before.
        on_second: called a few times a second with the state and the work at hand.

    Raises:
        RunIsWatched: another process watches the run, or has taken it over meanwhile.
        RnaWatchError: the engine cannot start, or our own folder cannot be written.
    """
    from rna_watch.evaluation.local import begin_early, end_early

    check_output(paths)
    parent = child.Parent()

    @contextlib.contextmanager
    def log() -> Iterator[None]:
        with stderr_of_libraries(paths.log, to_terminal=to_terminal):
            log_to(paths, to_terminal=to_terminal, counted=until_done)
            be_nice()
            spec = evaluator_spec(config, paths.scratch)
            if spec is not None and spec.function is not None and not begins_on_ray(config):
                begin_early(spec)
            try:
                yield
            finally:
                end_early()

    def begin(line: str) -> None:
        parent.say(line, say)

    def tell_before(state: RunState) -> None:
        for line in before(state):
            begin(line)

    with parent.telling():
        return run_watch.watch(
            config,
            paths,
            log,
            until_done=until_done,
            again=again,
            on_ready=parent.ready,
            on_wait=say,
            say=begin,
            on_before=tell_before,
            on_second=on_second,
        )


def serve_sweep(
    config: RunConfig,
    runs: Sequence[Found],
    *,
    find: Find | None = None,
    home: RunPaths | None = None,
    to_terminal: bool = True,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Watch many runs in this process until it is stopped.

    Args:
        config: the settings.
        runs: the runs to begin with.
        find: looks for runs, now and then; None: there are no others.
        home: the folder below which they appear; None where they were named one by one.
        to_terminal: log to the terminal too.
        say: shows a line about how it begins.

    Raises:
        RunIsWatched: another process watches the folder, or every run.
        RnaWatchError: no run can be watched.
    """
    from rna_watch.daemon.sweep import Sweep

    parent = child.Parent()
    log = home or runs[0].paths
    with parent.telling(), contextlib.ExitStack() as stack:
        if home is not None:
            home.create(allow_links=config.allow_links, sweep=True)
        lock = stack.enter_context(RunLock(home, say)) if home is not None else None
        keep_little()
        stack.enter_context(stderr_of_libraries(log.log, to_terminal=to_terminal))
        log_of_many(log, to_terminal=to_terminal)
        be_nice()
        Sweep(
            config,
            runs,
            find=find,
            home=home,
            lock=lock,
            say=lambda line: parent.say(line, say),
            on_ready=parent.ready,
        ).run()


def start(
    paths: RunPaths,
    arguments: Sequence[str],
    say: Callable[[str], None] = lambda _: None,
    *,
    allow_links: bool = False,
    on_wait: Callable[[float], None] = lambda _: None,
    go_on: Callable[[], object] | None = None,
) -> int:
    """Start the daemon in the background; returns its process id once it watches.

    Args:
        paths: the run's paths.
        arguments: the arguments of `rna-watch start`, without the command's name.
        say: shows a line of how it begins.
        allow_links: the setting of that name.
        on_wait: called while it begins, with the seconds that it took so far.
        go_on: serves, in a copy of this process; see `child.begin`.

    Raises:
        UsageError: a folder of ours is a symbolic link, or belongs to another user.
        RunIsWatched: another process watches the run.
        RnaWatchError: the child's own error.
    """
    check_output(paths)
    paths.create(allow_links=allow_links)
    with RunLock(paths, say):
        pass  # from an owner that is gone the run is taken here, so that the child need not wait for it again
    return child.begun(arguments, paths.log, say, on_wait, go_on)


def start_sweep(
    home: RunPaths | None,
    runs: Sequence[RunPaths],
    arguments: Sequence[str],
    say: Callable[[str], None] = lambda _: None,
    *,
    allow_links: bool = False,
    on_wait: Callable[[float], None] = lambda _: None,
    go_on: Callable[[], object] | None = None,
) -> int:
    """Start a process in the background that watches many runs; returns its id once it watches.

    Args:
        home: the folder below which they appear; None where they are named one by one.
        runs: those that are there.
        arguments: the arguments of `rna-watch start`, without the command's name.
        say: shows a line of how it begins.
        allow_links: the setting of that name.
        on_wait: called while it begins, with the seconds that it took so far.
        go_on: serves, in a copy of this process; see `child.begin`.

    Raises:
        RunIsWatched: another process watches the folder, or every run.
        RnaWatchError: no run can be watched, or the child's own error.
    """
    if home is not None:
        home.create(allow_links=allow_links, sweep=True)
        with RunLock(home, say):
            pass
        return child.begun(arguments, home.log, say, on_wait, go_on)
    errors: list[RnaWatchError] = []
    for paths in runs:
        try:
            check_unwatched(paths, say)
            check_output(paths)
            paths.create(allow_links=allow_links)
        except RnaWatchError as error:
            errors.append(error)
        else:
            return child.begun(arguments, paths.log, say, on_wait, go_on)
    raise errors[0]


def start_waiting(run: Path, arguments: Sequence[str], go_on: Callable[[], object] | None = None) -> int:
    """Have a process in the background wait for a run's folder, to watch it then; returns its process id at once.

    Args:
        run: the run directory, which is not there yet.
        arguments: the arguments of `rna-watch start`, without the command's name.
        go_on: waits and serves, in a copy of this process; see `child.begin`.

    Raises:
        RunIsWatched: a process waits already.
        StoreError: there is no place for its record.
    """
    found, file = waiting.waiting_for(run), waiting.file_of(run)
    if found is not None and found.waits():
        raise RunIsWatched(f"{found.sentence()}; end that with: {command('stop', run)}")
    if file is None:
        raise StoreError(
            "this user has no home folder, where it is recorded what waits; wait with --foreground instead"
        )
    try:
        owned.make_folders(file.parent)
        pid = child.begin(arguments, file.with_suffix(".log"), serve=go_on)
    except OSError as error:
        raise StoreError(
            f"cannot write to {file.parent}, where it is recorded what waits: {error.strerror}; wait with --foreground instead"
        ) from error
    until, code = time.monotonic() + _STOP_LIMIT_S, None
    while not run.exists() and not waiting.waiting_for(run) and code is None and time.monotonic() < until:
        time.sleep(_POLL_S)
        code = child.ended(pid)
    if code:
        raise RnaWatchError(f"what was to wait for {run} ended; see {file.with_suffix('.log')}")
    return pid


def stop(paths: RunPaths, say: Callable[[str], None] = lambda _: None) -> str:
    """Ask the run's daemon to stop, and wait until it has (until its process is gone, if that can be seen from here).

    Args:
        paths: the run's paths.
        say: shows a line, if the run's owner is perhaps gone and has to be waited for.

    Returns:
        a sentence.

    Raises:
        NothingToDo: nothing watches the run.
        RnaWatchError: it did not stop in time, or it cannot be asked.
    """
    status = settled(paths, say)
    if not status.alive:
        raise NothingToDo(f"nothing watches {paths.run}")
    owner = status.owner
    if owner is None or not _signal(owner):
        try:
            disk.appending(
                paths.state.resolve() / paths.stop_request.name
            ).close()  # the folder may be a link that is allowed
        except OSError as error:
            raise StoreError(
                f"cannot write {paths.stop_request}, which asks {status.who()} to stop: {error.strerror}; check the folder's "
                "permissions and free space"
            ) from error
    until = time.monotonic() + _STOP_LIMIT_S
    while time.monotonic() < until:
        if not _still_there(paths, owner):
            return f"{status.who()} stopped watching {paths.run}"
        time.sleep(_POLL_S)
    raise RnaWatchError(f"{status.who()} did not stop within {_STOP_LIMIT_S:g} s; see {paths.log}")


def _signal(owner: Owner) -> bool:
    """Tell a process to end; False if it cannot be seen from here, is another user's, or has other runs too."""
    if owner.shared or not owner.lives():
        return False
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(owner.pid, signal.SIGTERM)
        os.kill(owner.pid, signal.SIGCONT)  # a suspended process takes SIGTERM only then
        return True
    return False


def catch_up(paths: RunPaths, count: int, *, stuck_s: float, say: Callable[[str], None] = lambda _: None) -> None:
    """Wait until the run's daemon is done with its checkpoints.

    Args:
        paths: the run's paths.
        count: how many checkpoints there will be.
        stuck_s: the longest time without progress, in seconds.
        say: called with a sentence whenever more are done.

    Raises:
        RnaWatchError: the daemon ended, or makes no progress.
    """
    follower, since, before = Follower(paths.journal), time.monotonic(), (-1, 0)
    while True:
        alive = status_of(paths).alive
        deque(follower.new(), maxlen=0)
        checkpoints = follower.state.checkpoints.values()
        done = sum(c.stage not in PENDING | {Stage.WAITING} and not c.left_behind for c in checkpoints)
        if done >= count:
            return
        progress = done, sum(len(checkpoint.evaluations) for checkpoint in checkpoints)
        if done != before[0]:
            say(f"{done} of {count} judged")
        if progress != before:
            before, since = progress, time.monotonic()
        if not alive:
            raise RnaWatchError(f"the daemon ended early; see {paths.log}")
        if time.monotonic() - since > stuck_s:
            raise RnaWatchError(f"the daemon made no progress for {stuck_s:g} s; see {paths.log}")
        time.sleep(_POLL_S)


def _still_there(paths: RunPaths, owner: Owner | None) -> bool:
    """Whether the daemon's process exists (it outlives its lock by a moment); where that is hidden, whether it has the run."""
    lives = owner.lives() if owner is not None and not owner.shared else None
    if lives is not None:
        return lives
    current = status_of(paths)
    return current.alive and current.owner in (None, owner)  # None: it lets go at this moment
