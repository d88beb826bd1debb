"""Starting and stopping the daemon: a child without a terminal, found again through the run's lock."""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import signal
import subprocess
import sys
import time
from collections import deque
from io import TextIOWrapper
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from rna_watch.daemon.live_exports import LiveExports
from rna_watch.daemon.loop import Daemon
from rna_watch.daemon.recorder import Recorder
from rna_watch.daemon.setup import be_nice
from rna_watch.errors import EngineError, NothingToDo, RnaWatchError, StoreError, UsageError
from rna_watch.journal import events as e
from rna_watch.journal.echo import Formatter
from rna_watch.journal.follow import Follower
from rna_watch.journal.lock import RunLock
from rna_watch.journal.replay import PENDING, Stage
from rna_watch.journal.run_paths import adopt_pins, check_output, same_folder
from rna_watch.journal.run_registry import remember
from rna_watch.journal.status import settled, status_of
from rna_watch.journal.words import nameless
from rna_watch.layout import disk

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rna_watch.config import RunConfig
    from rna_watch.journal.owner import Owner
    from rna_watch.journal.run_paths import RunPaths

READY_FD = "RNA_WATCH_READY_FD"
_READY = "ready"
_START_LIMIT_S = 180.0
_STOP_LIMIT_S = 30.0
_POLL_S = 0.1
_LOG_BYTES = 5 * 2**20
_LOG_FILES = 3


def serve(
    config: RunConfig,
    paths: RunPaths,
    *,
    until_done: bool = False,
    again: bool = False,
    to_terminal: bool = True,
    say: Callable[[str], None] = lambda _: None,
) -> Recorder:
    """Run the daemon in this process until it is stopped or nothing is left to do; returns the final state.

    Args:
        config: the settings.
        paths: where the run and its outputs lie.
        until_done: end when nothing is left to do (`once`).
        again: make every model anew whose inputs are there.
        to_terminal: log to the terminal too.
        say: shows a line before it begins, if the run's owner is perhaps gone and has to be waited for.

    Raises:
        RunIsWatched: another process watches the run, or has taken it over meanwhile.
        RnaWatchError: the engine cannot start, or our own folder cannot be written.
    """
    check_output(paths)
    ready = os.environ.pop(READY_FD, None)
    try:
        paths.create(allow_links=config.allow_links)
        with RunLock(paths, say) as lock:
            _log_to(paths, to_terminal=to_terminal, counted=until_done)
            be_nice()
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
                    on_ready=lambda: _tell(ready, _READY),
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
        _tell(ready, f"{error.exit_code} {error}")
        raise


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


def _tell(descriptor: str | None, message: str) -> None:
    if descriptor is not None:
        with contextlib.suppress(OSError):
            os.write(int(descriptor), os.fsencode(message))
            os.close(int(descriptor))


class _Log(logging.handlers.RotatingFileHandler):
    """The log file and its older parts, opened and renamed as ours."""

    def _open(self) -> TextIOWrapper:
        return TextIOWrapper(
            disk.appending(self.baseFilename), encoding="utf-8", errors="backslashreplace", write_through=True
        )

    def doRollover(self) -> None:  # noqa: N802 - the name is logging's
        """Begin a new file, and keep the older ones."""
        if self.stream is not None:
            self.stream.close()
        names = [self.baseFilename, *(f"{self.baseFilename}.{number}" for number in range(1, self.backupCount + 1))]
        for older, newer in reversed(list(pairwise(names))):
            with contextlib.suppress(OSError):  # the log goes on in the file that is there
                disk.rename(older, newer)
        self.stream = self._open()


class _Repeated(logging.Filter):
    """Lets the first of equal messages pass, whichever checkpoint they are of; the summary at the end counts them."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is new."""
        line = record.getMessage()
        name, gap, _ = line.partition("  ")
        text = nameless(name if gap else "", line)
        new = text not in self._said
        self._said.add(text)
        return new


def _log_to(paths: RunPaths, *, to_terminal: bool, counted: bool) -> None:
    logger = logging.getLogger("rna_watch")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logging.raiseExceptions = False  # a full disk must not fill the terminal with errors of the log itself
    handlers: list[logging.Handler] = [
        _Log(paths.log, maxBytes=_LOG_BYTES, backupCount=_LOG_FILES, encoding="utf-8", errors="backslashreplace")
    ]
    handlers[0].setFormatter(Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    if to_terminal:
        handlers.append(logging.StreamHandler(sys.stdout))
        handlers[-1].setFormatter(Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        if counted:
            handlers[-1].addFilter(_Repeated())
    logger.handlers = handlers


def start(
    paths: RunPaths,
    arguments: Sequence[str],
    say: Callable[[str], None] = lambda _: None,
    *,
    allow_links: bool = False,
) -> int:
    """Start the daemon in the background; returns its process id once it watches.

    The child is a new interpreter (no fork: it can hang once torch has run), in a session of its own.

    Args:
        paths: the run's paths.
        arguments: the arguments of `rna-watch start`, without the command's name.
        say: shows a line, if the run's owner is perhaps gone and has to be waited for.
        allow_links: the setting of that name.

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
    with disk.appending(paths.log) as log:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "rna_watch", "start", *arguments, "--foreground", "--no-terminal"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(writer,),
            env=os.environ | {READY_FD: str(writer)},
            start_new_session=True,
        )
    os.close(writer)
    message = _read_message(reader, child)
    if message == _READY:
        return child.pid
    code, _, text = message.partition(" ")
    error = RnaWatchError(text or f"the daemon ended before it could watch; see {paths.log}")
    error.exit_code = int(code) if code.isdigit() else 1
    raise error


def _read_message(reader: int, child: subprocess.Popen[bytes]) -> str:
    """The child's whole message: `ready`, or its exit code and error."""
    os.set_blocking(reader, False)
    until = time.monotonic() + _START_LIMIT_S
    said = b""
    try:
        while time.monotonic() < until:
            try:
                part = os.read(reader, 65536)
            except BlockingIOError:
                time.sleep(_POLL_S)
                continue
            if not part:
                return said.decode(errors="replace")
            said += part
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
