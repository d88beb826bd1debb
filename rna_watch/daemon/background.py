"""Starting and stopping the daemon: a child without a terminal, found again through the run's lock."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from rna_watch.errors import EngineError, NothingToDo, RnaWatchError, RunIsWatched, StoreError, UsageError
from rna_watch.journal import events as e
from rna_watch.journal import waiting
from rna_watch.journal.command_line import command
from rna_watch.journal.follow import Follower
from rna_watch.journal.lock import RunLock
from rna_watch.journal.replay import PENDING, Stage
from rna_watch.journal.run_paths import adopt_pins, check_output, same_folder
from rna_watch.journal.run_registry import remember
from rna_watch.journal.status import settled, status_of
from rna_watch.layout import disk, owned

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rna_watch.config import RunConfig
    from rna_watch.daemon.recorder import Recorder
    from rna_watch.journal.heartbeat import Work
    from rna_watch.journal.owner import Owner
    from rna_watch.journal.replay import RunState
    from rna_watch.journal.run_paths import RunPaths

READY_FD = "RNA_WATCH_READY_FD"
_READY = "ready"
_MORE = "\0"  # ends a line that is not the last one
_START_LIMIT_S = 180.0
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
        on_second: called a few times a second with the state and the work at hand.

    Raises:
        RunIsWatched: another process watches the run, or has taken it over meanwhile.
        RnaWatchError: the engine cannot start, or our own folder cannot be written.
    """
    from rna_watch.daemon.log_file import log_to, stderr_of_libraries
    from rna_watch.daemon.setup import be_nice, begins_on_ray, evaluator_spec
    from rna_watch.evaluation.local import begin_early, end_early

    check_output(paths)
    ready = os.environ.pop(READY_FD, None)

    def tell(line: str) -> None:
        say(line) if ready is None else _tell(ready, line + _MORE)

    try:
        paths.create(allow_links=config.allow_links)
        with RunLock(paths, say) as lock, stderr_of_libraries(paths.log, to_terminal=to_terminal):
            log_to(paths, to_terminal=to_terminal, counted=until_done)
            be_nice()
            spec = evaluator_spec(config, paths.scratch)
            if spec is not None and spec.function is not None and not begins_on_ray(config):
                begin_early(spec)
            # what only the daemon needs: `start` itself does without it, and the evaluator's process loads meanwhile
            from rna_watch.daemon.live_exports import LiveExports
            from rna_watch.daemon.loop import Daemon
            from rna_watch.daemon.recorder import Recorder

            remember(paths)
            recorder = Recorder(paths.journal, check=lock.check)
            try:
                _check_run(recorder, paths)
                if adopted := adopt_pins(paths, allow_links=config.allow_links):
                    recorder.at_start.append(e.Noted(text=adopted))
                daemon = Daemon(
                    config,
                    paths,
                    recorder,
                    until_done=until_done,
                    again=again,
                    on_ready=lambda: _tell(ready, _READY, last=True),
                    say=tell,
                    on_second=on_second,
                    lost=lambda: lock.lost() or recorder.lost(),
                    away=lock.away,
                )
                with LiveExports(config, paths, recorder):
                    daemon.run()
                lock.check()
                if lost := lock.lost():
                    raise StoreError(f"{lost}: {paths.state}; start again to go on with what is there")
            finally:
                recorder.close()
        return recorder
    except RnaWatchError as error:
        _tell(ready, f"{error.exit_code} {error}", last=True)
        raise
    finally:
        end_early()


def _check_run(recorder: Recorder, paths: RunPaths) -> None:
    before = recorder.state.started
    if before is None or Path(before.run) == paths.run:
        return
    with contextlib.suppress(OSError):
        if not same_folder(Path(before.run), paths.run):  # a run that was moved is not there any more
            raise UsageError(
                f"{paths.output} holds the models of another run, {before.run}: name another folder with --output for "
                f"{paths.run}"
            )


def _tell(descriptor: str | None, message: str, *, last: bool = False) -> None:
    if descriptor is not None:
        with contextlib.suppress(OSError):
            os.write(int(descriptor), os.fsencode(message))
        with contextlib.suppress(OSError):
            if last:
                os.close(int(descriptor))


def start(
    paths: RunPaths,
    arguments: Sequence[str],
    say: Callable[[str], None] = lambda _: None,
    *,
    allow_links: bool = False,
    on_wait: Callable[[float], None] = lambda _: None,
) -> int:
    """Start the daemon in the background; returns its process id once it watches.

    The child is a new interpreter (no fork: it can hang once torch has run), in a session of its own.

    Args:
        paths: the run's paths.
        arguments: the arguments of `rna-watch start`, without the command's name.
        say: shows a line of how it begins.
        allow_links: the setting of that name.
        on_wait: called while it begins, with the seconds that it took so far.

    Raises:
        UsageError: a folder of ours is a symbolic link, or belongs to another user.
        RunIsWatched: another process watches the run.
        RnaWatchError: the child's own error.
    """
    check_output(paths)
    paths.create(allow_links=allow_links)
    with RunLock(paths, say):
        pass  # from an owner that is gone the run is taken here, so that the child need not wait for it again
    reader, writer = os.pipe()
    child = _child(arguments, paths.log, writer)
    os.close(writer)
    message = _read_message(reader, child, say, on_wait)
    if message == _READY:
        return child.pid
    code, _, text = message.partition(" ")
    error = RnaWatchError(text or f"the daemon ended before it could watch; see {paths.log}")
    error.exit_code = int(code) if code.isdigit() else 1
    raise error


def start_waiting(run: Path, arguments: Sequence[str]) -> int:
    """Have a process in the background wait for a run's folder, to watch it then; returns its process id at once.

    Args:
        run: the run directory, which is not there yet.
        arguments: the arguments of `rna-watch start`, without the command's name.

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
        child = _child(arguments, file.with_suffix(".log"))
    except OSError as error:
        raise StoreError(
            f"cannot write to {file.parent}, where it is recorded what waits: {error.strerror}; wait with --foreground instead"
        ) from error
    until = time.monotonic() + _STOP_LIMIT_S
    while not run.exists() and not waiting.waiting_for(run) and child.poll() is None and time.monotonic() < until:
        time.sleep(_POLL_S)
    if child.poll():
        raise RnaWatchError(f"what was to wait for {run} ended; see {file.with_suffix('.log')}")
    return child.pid


def _child(arguments: Sequence[str], log: Path, writer: int | None = None) -> subprocess.Popen[bytes]:
    with disk.appending(log) as file:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "rna_watch", "start", *arguments, "--foreground", "--no-terminal"],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            pass_fds=() if writer is None else (writer,),
            env=os.environ | ({} if writer is None else {READY_FD: str(writer)}),
            start_new_session=True,
        )


def _read_message(
    reader: int, child: subprocess.Popen[bytes], say: Callable[[str], None], on_wait: Callable[[float], None]
) -> str:
    """The child's last message: `ready`, or its exit code and error; what it says before is shown."""
    os.set_blocking(reader, False)
    begun = time.monotonic()
    said = b""
    try:
        while time.monotonic() < begun + _START_LIMIT_S:
            try:
                part = os.read(reader, 65536)
            except BlockingIOError:
                on_wait(time.monotonic() - begun)
                time.sleep(_POLL_S)
                continue
            if not part:
                return said.decode(errors="replace")
            *lines, said = (said + part).split(_MORE.encode())
            for line in lines:
                say(line.decode(errors="replace"))
    finally:
        os.close(reader)
    child.terminate()
    raise EngineError(f"the daemon did not begin to watch within {_START_LIMIT_S:g} s and was ended")


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
    """Tell a process to end; False if it cannot be seen from here, or is another user's."""
    if not owner.lives():
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
    lives = owner.lives() if owner is not None else None
    if lives is not None:
        return lives
    current = status_of(paths)
    return current.alive and current.owner == owner
