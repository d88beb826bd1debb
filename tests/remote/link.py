"""A link to a server on this machine: it carries so many bytes a second, breaks, and is mended at the same address."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

_PIECE_BYTES = 2**16


class Link:
    """Carries connections from a port of its own to another one, as a context.

    Args:
        port: the server's.
        rate: bytes a second, of all connections together; None: as many as there are.
    """

    def __init__(self, port: int, rate: float | None = None) -> None:
        self.rate = rate
        self.carried_bytes = 0
        self._to = port
        self._lock = threading.Lock()
        self._free = 0.0  # when the next byte may go
        self._ends: set[socket.socket] = set()
        self._listening = self._listen(0)
        self.port = int(self._listening.getsockname()[1])

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()

    def cut(self) -> None:
        """Break all connections, and take no new ones."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for each in list(self._ends):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Take connections again."""
        self._listening = self._listen(self.port)

    def _listen(self, port: int) -> socket.socket:
        listening = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, args=(listening,), daemon=True).start()
        return listening

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                near, _ = listening.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                near.close()
                continue
            self._ends |= {near, far}
            for ends in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := one.recv(_PIECE_BYTES):
                self._wait(len(piece))
                other.sendall(piece)
        for each in (one, other):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
            self._ends.discard(each)

    def _wait(self, count: int) -> None:
        with self._lock:
            self.carried_bytes += count
            if self.rate is None:
                return
            self._free = max(self._free, time.monotonic()) + count / self.rate
            until = self._free
        time.sleep(max(0.0, until - time.monotonic()))
