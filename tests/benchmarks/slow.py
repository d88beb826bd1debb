"""An evaluator ten times slower than training: what is held stays the same, however long that goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.daemon.slow_evaluator import SlowEvaluator, growth

if TYPE_CHECKING:
    from tests.benchmarks.options import Options

_WINDOW = 3


def show(options: Options) -> None:
    """Print pins, descriptors, threads, memory and journal, and how much each grows a save, over 2,000 saves."""
    saves = 40 if options.small else 2000
    folder = options.folder / "slow"
    folder.mkdir(parents=True)
    found = SlowEvaluator(folder, window=_WINDOW, kept=50).run(saves)
    outside = sum(
        step
        not in {
            *range(held.step - _WINDOW, held.step + 1),
            *range((held.in_work or 0) - _WINDOW, (held.in_work or 0) + 1),
        }
        for held in found
        for step in held.pinned
    )
    print(f"an evaluator ten times slower than training, {saves} saves, window {_WINDOW}")
    print(f"{'':22}{'most':>12}{'at the end':>14}{'a save':>12}")
    for name, values in {
        "pins": [len(held.pinned) for held in found],
        "descriptors": [held.descriptors for held in found],
        "threads": [held.threads for held in found],
        "memory, kB": [held.memory_bytes // 1024 for held in found],
        "journal, bytes": [held.journal_bytes for held in found],
    }.items():
        print(f"{name:22}{max(values):12.1f}{values[-1]:14.1f}{growth(values):12.4f}")
    print(f"pins of no window: {outside}")
