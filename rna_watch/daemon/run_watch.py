"""The watch over one run: its folders, lock, log, journal and daemon, until it is stopped or nothing is left to do."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from rna_watch.errors import StoreError, UsageError
from rna_watch.journal import events as e
from rna_watch.journal.lock import RunLock
from rna_watch.journal.run_paths import adopt_pins, check_output, same_folder
from rna_watch.journal.run_registry import remember

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from rna_watch.config import RunConfig
    from rna_watch.daemon.loop import Daemon
    from rna_watch.daemon.recorder import Recorder
    from rna_watch.daemon.shared import Shared
    from rna_watch.journal.heartbeat import Work
    from rna_watch.journal.replay import RunState
    from rna_watch.journal.run_paths import RunPaths


def watch(
    config: RunConfig,
    paths: RunPaths,
    log: Callable[[], AbstractContextManager[None]],
    *,
    shared: Shared | None = None,
    until_done: bool = False,
    again: bool = False,
    on_ready: Callable[[], None] = lambda: None,
    on_wait: Callable[[str], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
    on_before: Callable[[RunState], None] = lambda _: None,
    on_second: Callable[[RunState, Work | None], None] = lambda _state, _work: None,
    on_daemon: Callable[[Daemon], None] = lambda _: None,
) -> Recorder:
    """Watch a run; returns the final state.

    Args:
        config: the settings.
        paths: where the run and its outputs lie.
        log: entered once the run is this process's; lines go to its log meanwhile.
        shared: what it has in common with the other runs of this process.
        until_done: end when nothing is left to do (`once`).
        again: make every model anew whose inputs are there.
        on_ready: called once the engine is up and the folder is watched.
        on_wait: shows a line if an owner that is perhaps gone is waited for.
        say: shows a line about how it begins.
        on_before: called with what was recorded before this start.
        on_second: called now and then with the state and the work at hand.
        on_daemon: gets the daemon before it begins.

    Raises:
        RunIsWatched: another process watches the run, or has taken it over meanwhile.
        RnaWatchError: the engine cannot start, or our own folder cannot be written.
    """
    check_output(paths)
    paths.create(allow_links=config.allow_links)
    with RunLock(paths, on_wait, shared=shared is not None and shared.many) as lock, log():
        # what only the daemon needs: `start` itself does without it, and the evaluator's process loads meanwhile
        from rna_watch.daemon.live_exports import LiveExports
        from rna_watch.daemon.loop import Daemon
        from rna_watch.daemon.recorder import Recorder

        remember(paths)
        recorder = Recorder(paths.journal, check=lock.check)
        try:
            _check_run(recorder, paths)
            on_before(recorder.state)
            if adopted := adopt_pins(paths, allow_links=config.allow_links):
                recorder.at_start.append(e.Noted(text=adopted))
            daemon = Daemon(
                config,
                paths,
                recorder,
                shared=shared,
                until_done=until_done,
                again=again,
                on_ready=on_ready,
                say=say,
                on_second=on_second,
                lost=lambda: lock.lost() or recorder.lost(),
                away=lock.away,
            )
            on_daemon(daemon)
            with LiveExports(config, paths, recorder, once=until_done):
                daemon.run()
            lock.check()
            if lost := lock.lost():
                raise StoreError(f"{lost}: {paths.state}; start again to go on with what is there")
        finally:
            recorder.close()
    return recorder


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
