"""Ray beside the work of this machine: started where it pays (`engine: auto`) or was lost, until it takes over."""

from __future__ import annotations

import math
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Protocol

from rna_watch.daemon.setup import start_ray
from rna_watch.engine.ray_cluster import LOCAL
from rna_watch.engine.ray_engine import check_address
from rna_watch.errors import EngineError
from rna_watch.journal import events as e
from rna_watch.journal.quantities import size

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rna_watch.config import RunConfig
    from rna_watch.engine.contract import Engine
    from rna_watch.journal.events import Event

_PAUSE_S, _LONGEST_PAUSE_S = 10.0, 60.0  # between two starts, where Ray cannot start, or is lost at once
_CLOSE_LIMIT_S = 15.0


class Tells(Protocol):
    """Records what happens with the engine, as `Recorder` does: in the journal of each run that it works for."""

    def record(self, event: Event) -> None:
        """See `Recorder.record`."""

    def problem(self, key: str, what: str, remedy: str) -> None:
        """See `Recorder.problem`."""

    def solved(self, key: str) -> None:
        """See `Recorder.solved`."""


def why_ray(config: RunConfig, window_bytes: int) -> str:
    """Why work is better done on Ray, in words; "" where processes of this machine are as good.

    Args:
        config: the settings.
        window_bytes: bytes of the checkpoints of the newest window.
    """
    if config.ray_address != LOCAL:
        return f"a cluster is named, {config.ray_address}"
    if config.gpus:
        return "evaluators have GPUs"
    if config.evaluators > 1:
        return f"{config.evaluators} models are evaluated at a time"
    if config.ray_from is not None and window_bytes >= config.ray_from * 2**30:
        return f"a window has {size(window_bytes)}"
    return ""


def on_trouble(recorder: Tells, key: str, what: str, remedy: str) -> None:
    """Record what an engine tells of its nodes and waits."""
    if what:
        recorder.problem(key, what, remedy)
    else:
        recorder.solved(key)


def goes_on_here(config: RunConfig) -> bool:
    """Whether processes of this machine can do what a cluster does: not where evaluators need its GPUs."""
    return not (config.gpus and config.ray_address != LOCAL)


class RayBeside:
    """Starts Ray in a thread of its own, and again where that fails, until it is taken.

    Args:
        config: the settings.
        recorder: journal and state.
        folder: our folder, which the nodes of a cluster must see.
        on_ready: called when Ray is up.

    Raises:
        EngineError: nothing answers at the address of a cluster that is named.
    """

    def __init__(self, config: RunConfig, recorder: Tells, folder: Path, on_ready: Callable[[], None]) -> None:
        self._config = config
        self._recorder = recorder
        self._on_ready = on_ready
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()
        self._engine: Engine | None = None
        self._folder = folder
        self._pause_s = _PAUSE_S
        self._begun = -math.inf
        if config.engine == "auto":
            check_address(config.ray_address)

    def look(self, window_bytes: int = 0) -> None:
        """Start Ray if it pays now; see `why_ray`."""
        if self._config.engine == "auto" and self._thread is None and (why := why_ray(self._config, window_bytes)):
            self._recorder.record(e.Noted(text=f"Ray is started beside the work, as {why}"))
            self._begin()

    def again(self) -> None:
        """Start Ray, which was lost, anew; not at once where it was lost soon after its start."""
        if self._thread is None:
            self._begin()

    def _begin(self) -> None:
        self._thread = threading.Thread(target=self._start, name="rna-watch-ray", daemon=True)
        self._thread.start()

    def is_up(self) -> bool:
        """Whether Ray can be taken."""
        return self._engine is not None

    def take(self) -> Engine | None:
        """Ray's engine, once, when it is up."""
        if self._engine is None:
            return None
        self._thread, engine, self._engine = None, self._engine, None
        return engine

    def _start(self) -> None:
        if time.monotonic() - self._begun < _LONGEST_PAUSE_S:
            self._wait()
        while not self._closed.is_set():
            self._begun = time.monotonic()
            try:
                self._engine = start_ray(self._config, self._folder, partial(on_trouble, self._recorder))
            except EngineError as error:
                remedy = "processes of this machine do the work meanwhile; it is tried again within a minute"
                self._recorder.problem("ray", str(error), remedy)
                self._wait()
            else:
                self._recorder.solved("ray")
                self._on_ready()
                return

    def _wait(self) -> None:
        """Wait, longer each time."""
        self._closed.wait(self._pause_s)
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)

    def close(self) -> None:
        """Close what nobody took."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(_CLOSE_LIMIT_S)
        if self._engine is not None:
            self._engine.close()
