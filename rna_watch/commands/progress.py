"""The progress of a command: a bar with the time left on what takes longer than two seconds; nothing of it in a pipe."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
from rich.text import Text

from rna_watch.dashboard.terminal import PlainConsole
from rna_watch.journal.quantities import duration, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import Task

_FROM_S = 2.0


class _Left(ProgressColumn):
    """What is done and the time left, or the time that it took so far."""

    def render(self, task: Task) -> Text:
        """See `ProgressColumn.render`."""
        if not task.total:
            return Text(duration(round(task.elapsed or 0.0)))
        left = task.fields["left_s"]
        count = f"{task.completed:g} of {task.total:g}"
        return Text(f"{count}, {duration(round(left))} left" if left is not None else count)


@contextlib.contextmanager
def progress(since_s: float = 0.0) -> Iterator[Callable[[str, int, int, float | None], None]]:
    """Yields a function that shows what is done: a text, the part that is done, the whole (0: unknown), and the seconds left.

    Args:
        since_s: for how long it has gone on already, in seconds.
    """
    console, begun = PlainConsole(), time.monotonic() - since_s
    if not console.is_terminal or console.is_dumb_terminal:
        yield lambda _text, _done, _total, _left_s: None
        return
    with Progress(TextColumn("{task.description}"), BarColumn(), _Left(), console=console, transient=True) as shown:

        def show(text: str, done: int, total: int, left_s: float | None) -> None:
            if not shown.tasks and time.monotonic() - begun >= _FROM_S:
                shown.add_task("", total=None, left_s=None)
            for task in shown.tasks:
                shown.update(task.id, description=plain(text), completed=done, total=total or None, left_s=left_s)

        yield show
