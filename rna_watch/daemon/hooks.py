"""The thread that calls the user's hooks for models, beside the work: one call at a time, in the order of what they are for."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING

from rna_watch.daemon.acts import Acts
from rna_watch.daemon.log_file import thread
from rna_watch.daemon.setup import unseen_gpus
from rna_watch.errors import StoreAway
from rna_watch.evaluation.command import GUARDED
from rna_watch.journal import events as e
from rna_watch.journal.hooks import HOOKS, Due
from rna_watch.layout import artifacts, bounded_json
from rna_watch.publishing import manifest

if TYPE_CHECKING:
    from collections.abc import Callable

    from rna_watch.config import RunConfig
    from rna_watch.daemon.recorder import Recorder
    from rna_watch.journal.run_paths import RunPaths

_LOG = logging.getLogger("rna_watch")
LIMIT_S = 600.0
_TICK_S = 0.1
_MOST_LINES = 200  # of a call, in the log
_LINE_CHARACTERS = 500
_REMEDY = "it is called for the next model all the same, and not again for this one; see the log"


class Hooks:
    """Calls `on_model` and `on_best` for what the journal says is due, with the environment and folder of this moment.

    Args:
        config: the settings.
        paths: where the run and its outputs lie.
        recorder: journal and state.
        proceed: called now and then; it raises Cancelled to end the thread, and with it the call that goes on.
        pauses: whether nothing may be called at the moment, because our own folder is away.
        on_idle: called when nothing is due any more.
    """

    def __init__(
        self,
        config: RunConfig,
        paths: RunPaths,
        recorder: Recorder,
        *,
        proceed: Callable[[], None],
        pauses: Callable[[], bool],
        on_idle: Callable[[], None],
    ) -> None:
        self._commands = {hook: command for hook in HOOKS if (command := getattr(config, hook))}
        self._paths = paths
        self._recorder = recorder
        self._proceed = proceed
        self._pauses = pauses
        self._on_idle = on_idle
        self._acts = Acts(recorder)
        self._environment = os.environ | unseen_gpus(config)
        self._folder = Path.cwd() if self._commands else Path()

    def run(self) -> None:
        """Call hooks until `proceed` ends it.

        Raises:
            Cancelled: `proceed` did.
            StoreError: our own store is lost.
        """
        while self._commands:
            self._proceed()
            due, done = self._next(), False
            if due is not None and not self._pauses():
                with contextlib.suppress(StoreAway):
                    done = self._acts.do("hooks", "hooks cannot be called", partial(self._call, due))
            if not done:
                time.sleep(_TICK_S)
            elif self.nothing_left():
                self._on_idle()

    def nothing_left(self) -> bool:
        """Whether no call is due; one that goes on is due until it has ended."""
        return self._next() is None

    def _next(self) -> Due | None:
        return next((each for each in self._recorder.state.due if each.hook in self._commands), None)

    def _call(self, due: Due) -> None:
        """One call, from the manifest to the record; its failure is a problem and holds nothing."""
        begun = time.monotonic()
        model = self._paths.models / due.of.output
        try:
            content = manifest.encode(bounded_json.read(artifacts.manifest_path(model)))
            code, reason = self._run(due, content, self._environment | {"RNA_WATCH_MODEL": str(model)})
        except (OSError, ValueError) as error:
            code, reason = None, f"it could not be called: {error}"
        self._recorder.record(
            e.Hooked(
                checkpoint=due.of.checkpoint,
                hook=due.hook,
                of=due.of.seq,
                seconds=time.monotonic() - begun,
                code=code,
                reason=reason,
            )
        )
        if reason:
            option = due.hook.replace("_", "-")
            self._recorder.problem(due.hook, f"--{option} failed for {due.of.checkpoint}: {reason}", _REMEDY)
        else:
            self._recorder.solved(due.hook)

    def _run(self, due: Due, content: bytes, environment: dict[str, str]) -> tuple[int, str]:
        """The exit status of a hook's command, and why it failed ("": it did not); all that it left running is ended.

        Raises:
            OSError: no process can be started.
            Cancelled: the daemon is stopping; the command is ended.
        """
        lifeline_read, lifeline = os.pipe()
        given = os.memfd_create("manifest")
        try:
            while content:
                content = content[os.write(given, content) :]
            process = subprocess.Popen(
                ["/bin/sh", "-c", GUARDED, "sh", self._commands[due.hook], f"/proc/self/fd/{given}"],
                stdin=lifeline_read,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=environment,
                cwd=self._folder,
                process_group=0,
                pass_fds=(given,),
            )
            assert process.stdout is not None
            said: list[str] = []
            reader = thread(_log, name="rna-watch-hook", args=(process.stdout, due, said))
            reader.start()
            try:
                ended = self._wait(process)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        finally:
            for descriptor in (lifeline_read, lifeline, given):
                os.close(descriptor)
        reader.join(1.0)
        if not ended:
            return process.returncode, f"it ran longer than {LIMIT_S:g} s and was ended"
        how = f"status {process.returncode}" if process.returncode > 0 else f"signal {-process.returncode}"
        last = f": {said[-1]}" if said else ""
        return process.returncode, f"it ended with {how}{last}" if process.returncode else ""

    def _wait(self, process: subprocess.Popen[str]) -> bool:
        """Wait for a command; False if it takes too long."""
        until = time.monotonic() + LIMIT_S
        while time.monotonic() < until:
            self._proceed()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_TICK_S)
                return True
        return False


def _log(output: IO[str], due: Due, said: list[str]) -> None:
    """Write what a command says to the log, up to a number of lines, and keep its last line."""
    count = 0
    with output:
        while line := output.readline(_LINE_CHARACTERS):
            count += 1
            if text := line.rstrip():
                said[:] = [text]
            if text and count <= _MOST_LINES:
                _LOG.info("%s  %s: %s", due.of.checkpoint, due.hook, text)
    if count > _MOST_LINES:
        _LOG.info("%s  %s: %d more lines", due.of.checkpoint, due.hook, count - _MOST_LINES)
