"""What runs on a node: a task that is made durable where it was written, and the actor around an evaluator."""

from __future__ import annotations

import os
import pickle

from rna_watch.errors import RnaWatchError
from rna_watch.evaluation.worker import AnsweringWorker


class Host:
    """The actor around an evaluator; it answers in pickled bytes, which lie in no object store of Ray's that may end."""

    def __init__(self, spec: bytes) -> None:
        self._worker = AnsweringWorker(pickle.loads(spec))

    def ready(self) -> bool:
        """Whether it is there."""
        return True

    def ask(self, request: bytes) -> bytes:
        """The worker's answer."""
        method, arguments, options = pickle.loads(request)
        return pickle.dumps(self._worker.ask(method, *arguments, **options))


def do(payload: bytes, *, durable: bool) -> tuple[bool, bytes]:
    """Whether a task was done, and its pickled result, or the error.

    Args:
        payload: the pickled task.
        durable: make durable what was written: another machine can do that for its own pages alone.
    """
    from rna_watch.window import tasks

    task = pickle.loads(payload)
    try:
        result = tasks.run(task)
        for path in getattr(task, "outputs", ()) if durable else ():
            _make_durable(path)
    except (RnaWatchError, OSError) as error:
        return False, pickle.dumps(error)
    except Exception as error:  # noqa: BLE001 - the task's own, whatever it is, for whoever asked
        return False, pickle.dumps(RnaWatchError(f"a task failed: {error!r}"))
    return True, pickle.dumps(result)


def _make_durable(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
