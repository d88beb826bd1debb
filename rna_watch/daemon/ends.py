"""The ends of a training: what tells the daemon that it has ended, so that it ends too once everything is done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rna_watch.errors import UsageError
from rna_watch.journal import owner
from rna_watch.journal.quantities import duration

if TYPE_CHECKING:
    from rna_watch.config import RunConfig
    from rna_watch.daemon.recorder import Recorder
    from rna_watch.daemon.watcher import Watcher


class Ends:
    """The settings `until_idle`, `last_step` and `with_pid`; whichever holds first is the end.

    Args:
        config: the settings.

    Raises:
        UsageError: the process is not there.
    """

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._begun = None if config.with_pid is None else owner.begun(config.with_pid)
        if config.with_pid is not None and self._begun is None:
            raise UsageError(
                f"--with-pid: process {config.with_pid} is not there, or cannot be seen from here; name one that runs on this "
                "machine, or process what is there with `rna-watch once`"
            )

    def reached(self, recorder: Recorder, watcher: Watcher) -> str:
        """Why the training has ended, in words; "" if it goes on.

        Args:
            recorder: journal and state.
            watcher: what was seen of the folder.
        """
        config = self._config
        if (
            config.with_pid is not None
            and self._begun is not None
            and owner.lives(config.with_pid, self._begun) is False
        ):
            return f"process {config.with_pid} has ended (--with-pid)"
        if config.last_step is not None:
            for checkpoint in recorder.checkpoints():
                admitted, started = checkpoint.admitted, recorder.state.started
                if admitted is None or started is None or admitted.step < config.last_step:
                    continue
                if admitted.seq > started.seq or watcher.knows(admitted.path):  # not one of a training before
                    return f"{checkpoint.name} is of step {admitted.step} (--last-step {config.last_step})"
        if config.until_idle is not None and watcher.idle_s() >= config.until_idle:
            return f"no checkpoint came for {duration(config.until_idle)} (--until-idle)"
        return ""
