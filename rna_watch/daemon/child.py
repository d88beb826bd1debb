"""The child in the background, and what it tells the command that started it: lines, then that it watches or its error."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from rna_watch.errors import EngineError, RnaWatchError
from rna_watch.journal.echo import tell_end
from rna_watch.layout import disk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_READY_FD = "RNA_WATCH_READY_FD"
_READY = "ready"
_MORE = "\0"  # ends a line that is not the last one
_START_LIMIT_S = 180.0
_POLL_S = 0.05


class Parent:
    """The command that waits for this process to watch, if there is one."""

    def __init__(self) -> None:
        self._descriptor = os.environ.pop(_READY_FD, None)

    @contextlib.contextmanager
    def telling(self) -> Iterator[None]:
        """Tell it the error that ends this process."""
        try:
            yield
        except RnaWatchError as error:
            _tell(self._descriptor, f"{error.exit_code} {error}", last=True)
            raise

    def ready(self) -> None:
        """Tell it that this process watches."""
        _tell(self._descriptor, _READY, last=True)

    def say(self, line: str, otherwise: Callable[[str], None]) -> None:
        """Tell it a line of how it begins; without one, say it otherwise."""
        otherwise(line) if self._descriptor is None else _tell(self._descriptor, line + _MORE)


def _tell(descriptor: str | None, message: str, *, last: bool = False) -> None:
    if descriptor is not None:
        with contextlib.suppress(OSError):
            os.write(int(descriptor), os.fsencode(message))
        with contextlib.suppress(OSError):
            if last:
                os.close(int(descriptor))


def begun(
    arguments: Sequence[str],
    log: Path,
    say: Callable[[str], None],
    on_wait: Callable[[float], None],
    serve: Callable[[], object] | None = None,
) -> int:
    """The id of a child that watches; raises its error. See `begin`."""
    reader, writer = os.pipe()
    pid = begin(arguments, log, (reader, writer), serve)
    os.close(writer)
    message = _read_message(reader, pid, say, on_wait)
    if message == _READY:
        return pid
    code, _, text = message.partition(" ")
    error = RnaWatchError(text or f"the daemon ended before it could watch; see {log}")
    error.exit_code = int(code) if code.isdigit() else 1
    raise error


def begin(
    arguments: Sequence[str],
    log: Path,
    pipe: tuple[int, int] | None = None,
    serve: Callable[[], object] | None = None,
) -> int:
    """Start a process of `rna-watch start` in a session of its own, which may tell us of its begin; returns its id.

    It is a copy of this process where that is safe, as nothing need be loaded anew then; a new interpreter otherwise.

    Args:
        arguments: of the new interpreter's `start`.
        log: where its output goes.
        pipe: its reading and its writing end, by which it tells us.
        serve: what the copy does; None: a new interpreter.
    """
    with disk.appending(log) as file:
        # a copy has one thread only: what another one held at that moment would stay held
        alone = threading.active_count() == 1 and "torch" not in sys.modules
        if serve is not None and alone and None not in {sys.stdin, sys.stdout, sys.stderr}:
            return _forked(serve, file, pipe)
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "rna_watch", "start", *arguments, "--foreground", "--no-terminal"],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            pass_fds=pipe[1:] if pipe else (),
            env=os.environ | ({_READY_FD: str(pipe[1])} if pipe else {}),
            start_new_session=True,
        ).pid


def ended(pid: int) -> int | None:
    """The exit code of a child of ours that has ended; None if it has not."""
    try:
        found, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:  # someone else has asked before
        return 1
    return os.waitstatus_to_exitcode(status) if found else None


def _forked(serve: Callable[[], object], log: BinaryIO, pipe: tuple[int, int] | None) -> int:
    """A copy of this process that serves and ends; of what is open it keeps its log, and what it tells us by."""
    sys.stdout.flush()
    sys.stderr.flush()
    if pid := os.fork():
        return pid
    code = 1
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, descriptor in ((nothing, 0), (log.fileno(), 1), (log.fileno(), 2)):
            os.dup2(source, descriptor)
        log.close()
        for descriptor in (nothing, *(pipe[:1] if pipe else ()), *_handed_down()):
            os.close(descriptor)
        if pipe:
            os.environ[_READY_FD] = str(pipe[1])
        serve()
        code = 0
    except Exception as error:  # noqa: BLE001 - the end of a process, as at the end of the main program
        code = tell_end(error)
    finally:
        try:
            atexit._run_exitfuncs()  # as a new interpreter does when it ends
            sys.stdout.flush()
        finally:
            os._exit(code)


def _handed_down() -> list[int]:
    """Open descriptors that we were started with, but for the first three: no object of ours has them."""
    found = []
    for descriptor in (int(each.name) for each in Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(OSError):  # that of the folder itself
            if descriptor > 2 and os.get_inheritable(descriptor):
                found.append(descriptor)
    return found


def _read_message(reader: int, pid: int, say: Callable[[str], None], on_wait: Callable[[float], None]) -> str:
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
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    raise EngineError(f"the daemon did not begin to watch within {_START_LIMIT_S:g} s and was ended")
