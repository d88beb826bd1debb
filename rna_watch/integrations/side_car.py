"""The side-car: a process that watches a run beside its training, started by the training and ended after it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    import os

_LIMIT_S = 200.0  # to begin; the command itself gives up earlier
_POLL_S = 0.1


class SideCarFailed(RuntimeError):  # noqa: N818 - named after what happened
    """The process that is to watch could not begin; the message is its own."""


class SideCar:
    """Watches a run until the training has ended and everything is done.

    The training is taken to last until `end` is called or this process is gone, whatever ends it.

    Args:
        run_dir: the run directory; it need not exist yet.
        settings: those of `rna-watch start`, by the names that a configuration has: `evaluator="eval.py:evaluate"`, `window=10`.
    """

    def __init__(self, run_dir: str | os.PathLike[str], **settings: object) -> None:
        self.run = Path(run_dir)
        self._settings = settings
        self._training: subprocess.Popen[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._waits = False  # whether it is the one that watches, begun before there was a folder
        self._said: IO[bytes] | None = None

    def start(self) -> None:
        """Begin to watch, in the background; a folder that is not there yet is waited for there, not here.

        Raises:
            SideCarFailed: the run cannot be watched, and why: another process does, a setting is wrong.
        """
        # it lives as long as its standard input is open: until `end`, or until this process is gone
        self._training = subprocess.Popen(
            ["/bin/sh", "-c", "read _"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
        )
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - it is closed by `_close`
        self._waits = not self.run.exists()
        options = [*_options(self._settings), "--with-pid", str(self._training.pid)]
        options += ["--wait", "--foreground", "--no-terminal"] if self._waits else []
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "rna_watch", "start", str(self.run), *options],
            stdin=subprocess.DEVNULL,
            stdout=self._said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        if not self._waits:
            self._began()

    def end(self) -> None:
        """The training has ended: everything that is there is done, then the process ends by itself; it is not waited for.

        Raises:
            SideCarFailed: it never began to watch.
        """
        try:
            if self.run.exists():  # else the training made no folder to watch
                self._began()
            elif self._process is not None and self._waits:
                self._process.terminate()
                self._process.wait()
        finally:
            self._close()

    def _began(self) -> None:
        """Wait until it watches.

        Raises:
            SideCarFailed: it cannot, or does not within some minutes.
        """
        until = time.monotonic() + _LIMIT_S
        while self._process is not None and time.monotonic() < until:
            code = self._process.poll()
            if code:
                break
            if code == 0 or (self._waits and self._gives_signs()):
                return
            time.sleep(_POLL_S)
        if self._process is not None:
            said = self._words()
            self._close()
            raise SideCarFailed(said or f"{self.run} cannot be watched")

    def _gives_signs(self) -> bool:
        """Whether the process has given a sign of life as the one that watches."""
        assert self._process is not None
        place = Path(str(self._settings.get("output") or self.run)) / ".rna-watch" / "heartbeat.json"
        with contextlib.suppress(OSError, ValueError):
            return bool(json.loads(place.read_bytes()).get("pid") == self._process.pid)
        return False

    def _words(self) -> str:
        if self._said is None:
            return ""
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        errors = [line.removeprefix("rna-watch: ") for line in lines if line.startswith("rna-watch: ")]
        return "\n".join(errors) or "\n".join(lines[-3:])

    def _close(self) -> None:
        training, self._training = self._training, None
        if training is not None:
            training.kill()
            training.wait()
            if training.stdin is not None:
                with contextlib.suppress(OSError):
                    training.stdin.close()
        if self._said is not None:
            self._said.close()
            self._said = None


def _options(settings: dict[str, object]) -> list[str]:
    """Settings as options of the command line; None leaves one out."""
    options = []
    for name, value in settings.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            options.append(option)
        elif value is not None and value is not False:
            text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            options += [option, text]
    return options
