"""Ray beside the work (`engine: auto`): started where it pays while processes of this machine work, until it takes over."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol

from rna_watch.daemon.setup import start_ray
from rna_watch.engine.ray_engine import LOCAL, check_address
from rna_watch.errors import EngineError
from rna_watch.journal import events as e
from rna_watch.journal.quantities import size

if TYPE_CHECKING:
    from collections.abc import Callable

    from rna_watch.config import RunConfig
    from rna_watch.engine.contract import Engine
    from rna_watch.journal.events import Event

_PAUSE_S = 60.0  # between two starts, where Ray cannot start
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


class RayBeside:
    """Starts Ray in a thread of its own, and again where that fails, until it is taken.

    Args:
        config: the settings.
        recorder: journal and state.
        on_ready: called when Ray is up.

    Raises:
        EngineError: nothing answers at the address of a cluster that is named.
    """

    def __init__(self, config: RunConfig, recorder: Tells, on_ready: Callable[[], None]) -> None:
        self._config = config
        self._recorder = recorder
        self._on_ready = on_ready
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()
        self._engine: Engine | None = None
        if config.engine == "auto":
            check_address(config.ray_address)

    def look(self, window_bytes: int = 0) -> None:
        """Start Ray if it pays now; see `why_ray`."""
        if self._config.engine == "auto" and self._thread is None and (why := why_ray(self._config, window_bytes)):
            self._recorder.record(e.Noted(text=f"Ray is started beside the work, as {why}"))
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
        while not self._closed.is_set():
            try:
                self._engine = start_ray(self._config)
            except EngineError as error:
                remedy = "processes of this machine do the work meanwhile; it is tried again every minute"
                self._recorder.problem("ray", str(error), remedy)
                self._closed.wait(_PAUSE_S)
            else:
                self._recorder.solved("ray")
                self._on_ready()
                return

    def close(self) -> None:
        """Close what nobody took."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(_CLOSE_LIMIT_S)
        if self._engine is not None:
            self._engine.close()
