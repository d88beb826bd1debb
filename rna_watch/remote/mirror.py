"""The traffic with the object store of one run: checkpoints come, models go, beside the daemon or around `once`."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

from rna_watch.config import RunConfig
from rna_watch.errors import RnaWatchError, StoreError
from rna_watch.journal import events as e
from rna_watch.journal.command_line import REMOTE
from rna_watch.journal.follow import Follower
from rna_watch.layout import owned
from rna_watch.remote import guard, record
from rna_watch.remote.fetching import Fetching
from rna_watch.remote.outputs import Outputs
from rna_watch.remote.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from rna_watch.journal.run_paths import RunPaths
    from rna_watch.remote.guard import Guard

SCAN_S = 5.0
_POLL_S = 0.5
_PULSE_S = 1.0


class Mirror:
    """A run in an object store, and the folder that its checkpoints are fetched into.

    Attributes:
        fetching: what comes.
        outputs: what goes.
        guard: this process's claim on the run.
    """

    def __init__(self, config: RunConfig, paths: RunPaths, store: Store, own: Guard) -> None:
        known = record.read(paths.state / REMOTE, store.url)
        store.abort_uploads(set(known.uploading))
        self.guard = own
        self.fetching = Fetching(store, config, paths, known)
        self.outputs = Outputs(store, paths.models, known)


@contextlib.contextmanager
def opened(
    config: RunConfig, paths: RunPaths, say: Callable[[str], None], alive: Callable[[], None] = lambda: None
) -> Iterator[Mirror]:
    """The run's mirror, which no other process has.

    Args:
        config: the settings `remote`, `window` and `patterns`.
        paths: the run's paths.
        say: shows a line.
        alive: called every second.

    Raises:
        UsageError: nothing here reads such addresses.
        RnaWatchError: the store does not answer, or another process has the run.
    """
    assert config.remote is not None
    store = Store(config.remote)
    with guard.owned(store, say) as own:
        claim(paths.run)
        paths.create(allow_links=config.allow_links)
        ended = threading.Event()
        pulse = threading.Thread(target=_pulse, args=(own, alive, ended), daemon=True)
        pulse.start()
        try:
            yield Mirror(config, paths, store, own)
        finally:
            ended.set()
            pulse.join()


def _pulse(own: Guard, alive: Callable[[], None], ended: threading.Event) -> None:
    """Keep the claim and give signs of life while one large object is on its way, however slow the link is."""
    while not ended.wait(_PULSE_S):
        alive()
        with contextlib.suppress(RnaWatchError):  # who asks next is told
            own.renew()


def claim(run: Path) -> None:
    """Make the folder that checkpoints are fetched into, and claim it with all that is in it.

    Raises:
        StoreError: it holds other files already, or cannot be made.
    """
    try:
        owned.claim(run, mark=True, whole=True)
        marked = owned.is_marked(owned.Folder(path=str(run.absolute()), follow=False))
    except OSError as error:
        raise StoreError(f"cannot make {run}: {error.strerror}; name another place with --output") from error
    if not marked:
        raise StoreError(
            f"{run} holds other files already: with `remote`, RUN_DIR is a folder that rna-watch makes and empties"
        )


def follow(paths: RunPaths, say: Callable[[str], None]) -> None:
    """Fetch and put until the journal says that the daemon has stopped, by the settings there; "alive" is a sign of life.

    Raises:
        RnaWatchError: as `opened`; what was being done is done anew by the next call.
    """
    follower = Follower(paths.journal)

    def stopped() -> bool:
        list(follower.new())
        return follower.state.stopped is not None and isinstance(follower.state.recent[-1], e.Stopped)

    if stopped() or follower.state.started is None:
        return
    config = RunConfig.model_validate(follower.state.started.settings)
    with opened(config, paths, say, lambda: say("alive")) as mirror:
        looked = -float("inf")
        ending = False
        while not ending:
            ending = stopped()
            say("alive")
            mirror.guard.renew()
            mirror.outputs.send()
            if not ending and time.monotonic() - looked > (config.scan_interval or SCAN_S):
                mirror.fetching.newest()
                looked = time.monotonic()
            time.sleep(_POLL_S)


def whole(config: RunConfig, paths: RunPaths, run: Callable[[], None], say: Callable[[str], None]) -> None:
    """Fetch everything that is there in batches, oldest first, let each be processed, and put the models.

    Args:
        config: the settings.
        paths: the run's paths.
        run: processes what was fetched.
        say: shows a line.

    Raises:
        RnaWatchError: as `opened`, or as `run` at the last batch.
    """
    with opened(config, paths, say) as mirror:
        error: RnaWatchError | None = None
        while True:
            batch = mirror.fetching.oldest()
            if batch:
                names = f"{batch[0].name} to {batch[-1].name}" if len(batch) > 1 else batch[0].name
                say(f"fetched  {len(batch)} checkpoint{'s' * (len(batch) > 1)}: {names}")
            try:
                error = None
                run()
            except RnaWatchError as found:
                error = found
            mirror.guard.renew()
            if count := mirror.outputs.send():
                say(f"put      {count} model{'s' * (count > 1)} into {config.remote}/rna")
            if not mirror.fetching.waiting():
                break
        if error is not None:
            raise error
