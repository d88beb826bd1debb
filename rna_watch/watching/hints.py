"""Events of the file system as hints: each only says "look now". This is the one module that knows watchdog."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from typing import TYPE_CHECKING

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from watchdog.observers.api import BaseObserver, ObservedWatch

_WRITTEN = (FileClosedEvent, FileMovedEvent)  # closed after it was written, or renamed into place
# Those of reads and writes are not asked for: a training that reads its data below the run makes thousands, each line of a log
# makes one, and our own looks and writes some: a small model of 932 tensors took 0.2 s longer. Who writes closes in the end, and
# a file that is being written is looked at when it is due.
_EVENTS: list[type[FileSystemEvent]] = [
    *_WRITTEN,
    DirMovedEvent,
    DirCreatedEvent,
    DirDeletedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
]
_MOST = 4096  # of these are remembered between two looks


class _Handler(FileSystemEventHandler):
    """Calls `wake` and nothing that could fail: an exception here would end the observer's thread without a message."""

    def __init__(self, wake: Callable[[], None], ignored: Sequence[str]) -> None:
        self._wake = wake
        self._ignored = tuple(f"{folder}{os.sep}" for folder in ignored)
        self.written: deque[str] = deque(maxlen=_MOST)
        self.moved: deque[str] = deque(maxlen=_MOST)

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Wake up for everything but our own files."""
        path = os.fsdecode(event.dest_path or event.src_path)
        if not f"{path}{os.sep}".startswith(self._ignored):
            if isinstance(event, _WRITTEN):
                self.written.append(path)
            if isinstance(event, FileMovedEvent | DirMovedEvent):
                self.moved.append(os.fsdecode(event.src_path))
            self._wake()


class _Shared:
    """The observer of this process: each takes one of the inotify instances, of which a user has few."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._observer: BaseObserver | None = None
        self._watches: set[ObservedWatch] = set()

    def begin(self, handler: _Handler, run: Path) -> tuple[BaseObserver, ObservedWatch]:
        """Watch a folder; raises OSError where a limit is reached."""
        with self._lock:
            observer = self._observer
            if observer is None or not observer.is_alive():
                observer = Observer()
                watch = observer.schedule(handler, str(run), recursive=True, event_filter=_EVENTS)
                observer.start()
                self._observer, self._watches = observer, {watch}
            else:
                watch = observer.schedule(handler, str(run), recursive=True, event_filter=_EVENTS)
                self._watches.add(watch)
            return observer, watch

    def end(self, observer: BaseObserver, watch: ObservedWatch) -> None:
        """End a watch, and with the last one the observer."""
        with self._lock:
            if observer is self._observer:
                self._watches.discard(watch)
                if self._watches and observer.is_alive():
                    with contextlib.suppress(KeyError, OSError):
                        observer.unschedule(watch)
                    return
                self._observer = None
        observer.stop()
        observer.join(timeout=5.0)


_SHARED = _Shared()


class Hints:
    """A recursive inotify watch of the run directory.

    Args:
        run: the run directory.
        wake: called at every change, from the observer's thread.
        ignored: our own folders, whose changes count for nothing.
    """

    def __init__(self, run: Path, wake: Callable[[], None], ignored: Sequence[Path]) -> None:
        self._run = run
        self._handler = _Handler(wake, [str(folder) for folder in ignored])
        self._watched: tuple[BaseObserver, ObservedWatch] | None = None

    def start(self) -> str:
        """Start watching; returns "", or the reason why only scans will find checkpoints."""
        try:
            self._watched = _SHARED.begin(self._handler, self._run)
        except OSError as error:
            return f"no file system events ({error.strerror or error}); scans find checkpoints all the same"
        return ""

    def pop_written(self) -> set[str]:
        """The paths, relative to the run directory, that were closed after writing or renamed into place since the last call."""
        found = set()
        while self._handler.written:
            found.add(os.path.relpath(self._handler.written.popleft(), self._run))
        return found

    def pop_moved(self) -> set[str]:
        """The paths, relative to the run directory, that files and folders were renamed from since the last call."""
        found = set()
        while self._handler.moved:
            found.add(os.path.relpath(self._handler.moved.popleft(), self._run))
        return found

    def alive(self) -> bool:
        """Whether events still come: the observer's thread and its emitter's both run."""
        if self._watched is None:
            return False
        observer, watch = self._watched
        return observer.is_alive() and any(each.watch == watch and each.is_alive() for each in observer.emitters)

    def stop(self) -> None:
        """End the watch."""
        watched, self._watched = self._watched, None
        if watched is not None:
            _SHARED.end(*watched)
