"""The child in the background, and what it tells the command that started it: lines, then that it watches or its error."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from rna_watch.errors import EngineError, RnaWatchError
from rna_watch.layout import disk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

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


def begun(arguments: Sequence[str], log: Path, say: Callable[[str], None], on_wait: Callable[[float], None]) -> int:
    """The id of a child that watches; raises its error."""
    reader, writer = os.pipe()
    child = begin(arguments, log, writer)
    os.close(writer)
    message = _read_message(reader, child, say, on_wait)
    if message == _READY:
        return child.pid
    code, _, text = message.partition(" ")
    error = RnaWatchError(text or f"the daemon ended before it could watch; see {log}")
    error.exit_code = int(code) if code.isdigit() else 1
    raise error


def begin(arguments: Sequence[str], log: Path, writer: int | None = None) -> subprocess.Popen[bytes]:
    """Start a process of `rna-watch start`: a new interpreter, in a session of its own, which may tell us of its begin."""
    with disk.appending(log) as file:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "rna_watch", "start", *arguments, "--foreground", "--no-terminal"],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            pass_fds=() if writer is None else (writer,),
            env=os.environ | ({} if writer is None else {_READY_FD: str(writer)}),
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
