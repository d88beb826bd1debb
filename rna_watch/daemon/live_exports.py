"""The exporters beside the daemon, each in a process of its own: one that fails, hangs or throws is a problem, never more."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

from rna_watch.daemon.log_file import thread
from rna_watch.daemon.setup import unseen_gpus
from rna_watch.errors import RnaWatchError

if TYPE_CHECKING:
    from types import TracebackType

    from rna_watch.config import RunConfig
    from rna_watch.daemon.recorder import Recorder
    from rna_watch.journal.run_paths import RunPaths

_LOG = logging.getLogger("rna_watch")
LIMIT_S = 180.0  # without a sign of life; the import of a library may take long on a busy machine
END_S = 20.0  # for what is left when the daemon has stopped
_REMOTE = "remote"
_REMOTE_END_S = 120.0  # a model may have to be put into an object store
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 5.0, 600.0
_REMOTE_PAUSE_S = 60.0  # a trainer goes on deleting old checkpoints
_TICK_S = 0.5
_LINE_CHARACTERS = 500
_REMEDY = (
    "models are made all the same; it is tried again by itself, and `rna-watch export` writes everything afterwards"
)


class LiveExports:
    """Runs the exporters that the settings name, and the traffic with an object store, as a context around the daemon's work.

    Args:
        config: the settings `exporters`, `prometheus_port`, `device`, `gpus`, `remote`.
        paths: the run's paths.
        recorder: journal and state.
        once: only what is there is processed: then the store is asked before and after.
    """

    def __init__(self, config: RunConfig, paths: RunPaths, recorder: Recorder, *, once: bool = False) -> None:
        self._stopping = threading.Event()
        remote = (_REMOTE,) if config.remote is not None and not once else ()
        self._threads = [
            thread(self._guarded, name=f"rna-watch-{name}", args=(name,))
            for name in dict.fromkeys((*config.exporters, *remote))
        ]
        self._config = config
        self._paths = paths
        self._recorder = recorder

    def __enter__(self) -> None:
        for each in self._threads:
            each.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        for each in self._threads:
            each.join(self.end_s(each.name.removeprefix("rna-watch-")) + LIMIT_S)

    def limit_s(self, _name: str) -> float:
        """How long an exporter may give no sign of life."""
        return LIMIT_S

    def end_s(self, name: str) -> float:
        """How long it may take to do what is left when the daemon has stopped."""
        return _REMOTE_END_S if name == _REMOTE else END_S

    def _guarded(self, name: str) -> None:
        """A thread's work: whatever happens in it costs this exporter alone."""
        pause_s = _FIRST_PAUSE_S
        while not self._stopping.is_set():
            begun = time.monotonic()
            try:
                why = self._watched(name)
            except Exception as error:  # noqa: BLE001 - it costs this exporter alone
                why = f"{type(error).__name__}: {error}"
            if not why:  # it saw the end of the start before, if this one goes on
                self._stopping.wait(_TICK_S)
                continue
            if self._stopping.is_set():
                _LOG.warning("%s did not end well: %s", _what(name), why)
                return
            with contextlib.suppress(RnaWatchError, OSError):
                self._recorder.problem(f"exporter {name}", f"{_what(name)} fails: {why}", _REMEDY)
            longest_s = _REMOTE_PAUSE_S if name == _REMOTE else _LONGEST_PAUSE_S
            pause_s = _FIRST_PAUSE_S if time.monotonic() - begun > longest_s else min(2 * pause_s, longest_s)
            self._stopping.wait(pause_s)

    def _watched(self, name: str) -> str:
        """One life of an exporter's process; returns why it failed, "" if it ended as it should."""
        port = self._config.prometheus_port if name == "prometheus" else None
        command = [sys.executable, "-P", "-m", "rna_watch", "export", str(self._paths.run), "--to", name, "--follow"]
        if name == _REMOTE:
            command[4:] = ["mirror", str(self._paths.run)]
        command += ["--output", str(self._paths.output)]
        command += ["--port", str(port)] if port is not None else []
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | unseen_gpus(self._config),
        )
        assert process.stdout is not None
        try:
            return self._followed(name, process)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stdout.close()

    def _followed(self, name: str, process: subprocess.Popen[bytes]) -> str:
        assert process.stdout is not None
        descriptor = process.stdout.fileno()
        os.set_blocking(descriptor, False)
        last, rest, limit_s = "", b"", self.limit_s(name)
        until, ending = time.monotonic() + limit_s, False
        while True:
            if self._stopping.is_set() and not ending:
                ending, until = True, time.monotonic() + self.end_s(name)
            if time.monotonic() > until:
                limit_s = self.end_s(name) if ending else limit_s
                return f"it gives no sign of life for {limit_s:g} s, and was ended{f': {last}' if last else ''}"
            select.select([descriptor], [], [], _TICK_S)
            try:
                said = os.read(descriptor, 65536)
            except BlockingIOError:
                continue
            if not said:
                code = process.wait(_TICK_S * 10)
                return "" if code == 0 else last or f"it ended with status {code}"
            *lines, rest = (rest + said)[-65536:].split(b"\n")
            for line in lines:
                text = line.decode(errors="replace").strip()[:_LINE_CHARACTERS]
                if text == "alive":
                    until = until if ending else time.monotonic() + limit_s
                    with contextlib.suppress(RnaWatchError, OSError):
                        self._recorder.solved(f"exporter {name}")
                elif text:
                    last = text.removeprefix("rna-watch: ")
                    _LOG.info("%s: %s", _what(name), text)


def _what(name: str) -> str:
    return "the traffic with the object store" if name == _REMOTE else f"the exporter {name}"
