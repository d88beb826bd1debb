"""The daemon's side of the process that holds Ray's driver: requests, their answers, signs of life, and its end as a whole."""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from rna_watch.engine import whole
from rna_watch.errors import ClusterLost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_CODE = "import sys; from rna_watch.engine.ray_serve import serve; serve(int(sys.argv[1]), int(sys.argv[2]))"
_POLL_S = 0.2
_CLOSE_LIMIT_S = 10.0
_STDERR = 2
_TOKEN = "InvalidAuthToken"  # noqa: S105 - a word of Ray's, which goes on trying for 20 s


class Driver:
    """A process with a session of its own, in which all that Ray starts for it is.

    Args:
        environment: of the process.
        on_trouble: called with the key, words and remedy of what does not end the cluster.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, environment: Mapping[str, str], on_trouble: Callable[[str, str, str], None]) -> None:
        ours, theirs = socket.socketpair()
        lifeline, self._lifeline = os.pipe()
        try:
            self._process = subprocess.Popen(
                # -P: what lies in the current folder is no module of ours, whatever its name
                [sys.executable, "-P", "-c", _CODE, str(theirs.fileno()), str(lifeline)],
                pass_fds=(theirs.fileno(), lifeline),
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=_STDERR,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            os.close(self._lifeline)
            raise
        finally:
            theirs.close()
            os.close(lifeline)
        self.pid = self._process.pid
        self.pulse = time.monotonic()
        self.lost = ""  # why it cannot be used any more
        self.refused = False  # the cluster asks for another token
        self._on_trouble = on_trouble
        self._connection = Connection(ours.detach())
        self._sending = threading.Lock()
        self._number = 0
        self._answers: dict[int, queue.SimpleQueue[tuple[str, object]]] = {}
        self._said: deque[str] = deque(maxlen=5)
        self._closed = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        threading.Thread(target=self._read_words, daemon=True).start()

    def _read(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                number, kind, value = self._connection.recv()
                if number in self._answers:
                    self._answers[number].put((kind, value))
                elif kind == "pulse":
                    self.pulse = time.monotonic()
                elif kind == "lost":
                    self.lost = value
                elif kind == "trouble":
                    self._on_trouble(*value)
        if not self._closed:
            last = f": {self._said[-1]}" if self._said else ""
            self.lost = self.lost or f"Ray's driver ended{last}"

    def _read_words(self) -> None:
        """Pass on what Ray writes, which has the reason where it ends the driver."""
        words = self._process.stderr
        assert words is not None
        for line in words:
            text = line.decode(errors="replace").strip()
            self.refused = self.refused or _TOKEN in text
            if text:
                self._said.append(text[-300:])
            with contextlib.suppress(OSError):
                os.write(_STDERR, line)

    def send(self, request: object) -> None:
        """Send one thing that has no answer.

        Raises:
            ClusterLost: the process is gone.
        """
        try:
            with self._sending:
                self._connection.send(request)
        except OSError as error:
            raise ClusterLost(self.lost or "Ray's driver ended") from error

    @contextlib.contextmanager
    def request(self, method: str, *arguments: object, first: object = None) -> Iterator[Request]:
        """Begin a request; `first` is sent in place of it, as the first of all.

        Raises:
            ClusterLost: the process is gone.
        """
        with self._sending:
            self._number += 1
            number = self._number
        request = Request(self, number)
        self._answers[number] = request.answers
        try:
            self.send(first if first is not None else (number, method, arguments))
            yield request
        finally:
            del self._answers[number]

    def tell(self, method: str, *arguments: object) -> None:
        """Ask for something without waiting for it; nothing happens where the process is gone."""
        with contextlib.suppress(ClusterLost):
            self.send((0, method, arguments))

    def close(self) -> None:
        """End it with all that it started: in order if that takes a short time."""
        self._closed = True
        if not self.lost:
            with contextlib.suppress(Exception), self.request("close") as request:
                request.answer(lambda: None, limit_s=_CLOSE_LIMIT_S)
        self.kill()

    def kill(self) -> None:
        """End it with all that it started, at once."""
        self._closed = True
        whole.end(self.pid)
        self._process.wait()
        with contextlib.suppress(OSError):
            os.close(self._lifeline)
        self._lifeline = -1


class Request:
    """A request that was sent."""

    def __init__(self, driver: Driver, number: int) -> None:
        self._driver = driver
        self.number = number
        self.ended = False
        self.answers: queue.SimpleQueue[tuple[str, object]] = queue.SimpleQueue()

    def parts(self, check: Callable[[], None], limit_s: float | None = None) -> Iterator[tuple[str, object]]:
        """The parts of the answer as they come, the last one as "done".

        Args:
            check: called between looks; it raises to give up.
            limit_s: longest wait for the last one.

        Raises:
            TimeoutError: it took longer.
            ClusterLost: the process is gone.
            Exception: what was raised there.
        """
        until = None if limit_s is None else time.monotonic() + limit_s
        while True:
            check()
            try:
                kind, value = self.answers.get(timeout=_POLL_S)
            except queue.Empty:
                if self._driver.lost:
                    raise ClusterLost(self._driver.lost) from None
                if until is not None and time.monotonic() > until:
                    raise TimeoutError from None
                continue
            self.ended = kind in {"raised", "done"}
            if kind == "raised":
                assert isinstance(value, Exception)
                raise value
            yield kind, value
            if kind == "done":
                return

    def answer(self, check: Callable[[], None], limit_s: float | None = None) -> object:
        """The answer, where it has one part; see `parts`."""
        found: object = None
        for _, found in self.parts(check, limit_s):  # noqa: B007 - the last one is the answer
            pass
        return found
