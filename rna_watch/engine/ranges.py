"""Which node of a cluster does which part of the plan: each range of the window belongs to one node, from pass to pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rna_watch.window.tasks_plan import CopyTask

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rna_watch.window.tasks_plan import Task


def positions(work: Sequence[Task]) -> list[float]:
    """Where each task begins in the model, or among the bytes that are copied as they are: 0 to 1.

    The Gram pass and the combination cut the same model in the same order, so that equal positions are equal bytes: what a node
    has read of a new checkpoint, it has in its page cache when the model is combined, and for the next windows.
    """
    totals = {True: 0, False: 0}
    begins: list[tuple[bool, int]] = []
    for task in work:
        copies = isinstance(task, CopyTask)
        begins.append((copies, totals[copies]))
        totals[copies] += task.work_bytes if isinstance(task, CopyTask) else sum(s.size_bytes for s in task.segments)
    return [begin / max(1, totals[copies]) for copies, begin in begins]


def slots(cpus: Mapping[str, float], workers: int, before: Sequence[str] = ()) -> list[str]:
    """The node of each worker, in the order of the ranges: nodes share them by their CPUs, and keep what they had.

    Args:
        cpus: of each node that can be used; at least one.
        workers: how many tasks run at a time.
        before: the last answer.
    """
    shares = dict.fromkeys(cpus, 0)
    for _ in range(workers):
        shares[min(cpus, key=lambda each: ((shares[each] + 1) / max(cpus[each], 0.1), -before.count(each), each))] += 1
    found = []
    for node in [*before[:workers], *[""] * (workers - len(before))]:
        kept = shares.get(node, 0) > 0
        shares[node] = shares.get(node, 0) - kept
        found.append(node if kept else "")
    left = iter([node for node in sorted(cpus) for _ in range(shares[node])])
    return [node or next(left) for node in found]


def owners(at: Sequence[float], nodes: Sequence[str]) -> list[str]:
    """The node of each task, by its position and the nodes of the workers."""
    return [nodes[min(int(position * len(nodes)), len(nodes) - 1)] for position in at]
