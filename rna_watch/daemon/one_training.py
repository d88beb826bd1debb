"""Whether neighbouring checkpoints of a window are of one training, by their weights and by what they say of it.

Let a be a checkpoint, b the next one, and d = b - a. The thresholds are from 4,600 pairs within small trainings on MNIST
(networks with and without normalization, SGD and Adam from small to diverging rates, warm-up, restarts of the rate, decay, a
GAN, fine-tuning), and from pairs of two such trainings. `python -m tests.benchmarks breaks` gives the rates on digits.
    kept      <a, b> / (|a| min(|a|, |b|)) over weight matrices: what of a is left in b. Gradients are nearly orthogonal to random
              weights, so that it stays near 1 while weights grow, where the cosine falls to .01. Within a training at least .67,
              .36 where a rate blows it up; between trainings from scratch -.1 to .2, up to .5 where large rates give all
              networks the same bias.
    back      the distance from b to a checkpoint before a, relative to |d|: below 1 where b goes back past a. Within a training
              the largest of a window is above 1, but in 1 of 500 pairs, where full-batch descent oscillates ever faster or a rate
              blows up; from the end of one fine-tuning to the begin of another of the same start it is .2 to .997. The smallest
              is above 1.25 in nine of ten pairs within a training, and 1.0 to 1.2 between ends of trainings from one start.
Such ends are as far from each other as the checkpoints of a training that became stationary: only counters tell them apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise, starmap
from typing import TYPE_CHECKING

from rna_watch.window.marks import OPTIMIZER, is_clock, marks_of
from rna_watch.window.segments import matrix_elements

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    from rna_watch.acceleration.gram import GramRows
    from rna_watch.daemon.window import Window
    from rna_watch.journal.events import Measured
    from rna_watch.journal.replay import Checkpoint
    from rna_watch.window.marks import Marks

    Float64 = npt.NDArray[np.float64]

_KEPT = 0.3
_DOUBTFUL = 0.5  # kept, where the step is also out of proportion
_CHANCE = 3.0  # standard deviations of the cosine of two random directions
_JUMP = 2.0  # a step out of proportion, relative to the one before
_GROWING = 1.3  # a step that no oscillation makes after the one before
_NEARER = 0.998  # after a long standstill, a step anywhere is 1 but for rounding and chance
_STILL = 1.25  # below: a checkpoint before is about as near as the last one


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two neighbouring checkpoints a and b of a window, and the steps up to a in the same training.

    `matrices` are |a|^2, |b|^2 and |b - a|^2 over `elements` numbers of weight matrices (None: unknown). `steps_nn` `(N, N)`
    are the inner products of the steps, the pair's last; `intervals` `(N,)` are their lengths. `marks` are those of a and b,
    after those of the checkpoint before, if there is one.
    """

    older: str
    matrices: tuple[float, float, float] | None
    elements: int
    steps_nn: Float64
    intervals: tuple[float, ...]
    marks: tuple[Marks, ...]


def other_training(pair: Pair) -> str:
    """Why b is of another training than a, in words, with figures ("" if nothing says so)."""
    size = math.sqrt(max(float(pair.steps_nn[-1, -1]), 0.0))
    if not math.isfinite(size) or size == 0.0:
        return ""
    return _of_weights(pair) or _of_marks(pair) or _of_path(pair)


def _of_weights(pair: Pair) -> str:
    """Too little of the older weights is left."""
    if pair.matrices is None or not all(math.isfinite(each) and each > 0.0 for each in pair.matrices):
        return ""
    a, b, d = map(math.sqrt, pair.matrices)
    inner = (a * a + b * b - d * d) / 2.0
    kept = inner / (a * min(a, b))
    chance = _CHANCE * max(1.0, b / a) / math.sqrt(pair.elements)
    jump = _jump(pair)
    if kept + chance >= (_DOUBTFUL if jump > _JUMP else _KEPT):
        return ""
    proportion = f", {jump:.3g} times the step before" if jump > _JUMP else ""
    return (
        f"its weights do not go on from those of {pair.older}: the weight matrices have a cosine of {inner / (a * b):.2f}, and "
        f"the step between them is {d / b:.2g} times their norm{proportion}; it is another training, or one begun anew"
    )


def _of_marks(pair: Pair) -> str:
    """Counters went back, or stood still, or the trainer saves elsewhere, and the step does not lead on from those before."""
    a, b = pair.marks[-2:]
    known = len(pair.steps_nn) > 1
    distance = min(_back(pair)) if known else 0.0
    # after a training was resumed, its counters may begin anew and its folder be another, but the weights go on
    resumed = distance >= _STILL and _jump(pair) < _JUMP
    if (name := _fallen(a, b)) and not resumed:
        return (
            f"{name} fell from {a.counters[name]} in {pair.older} to {b.counters[name]} in it, and its weights do not go on from "
            "there; it is another training"
        )
    if a.saved_to and b.saved_to and a.saved_to != b.saved_to and not resumed:
        return (
            f"it was saved by a training that writes to {b.saved_to}, {pair.older} by one that writes to {a.saved_to}"
        )
    if _standing(a, b) == OPTIMIZER:
        count = f"{a.counters[OPTIMIZER]} {OPTIMIZER}"
        return f"both {pair.older} and it count {count}, though their weights differ; they are of two trainings"
    if known and distance < _STILL and any(starmap(_standing, pairwise(pair.marks))):
        return (
            f"its counters or those of {pair.older} stand still though the weights differ, and a checkpoint before that is "
            f"about as near to it ({distance:.2f} times as far); they are several trainings from one start"
        )
    return ""


def _fallen(a: Marks, b: Marks) -> str:
    """A counter that fell ("" if none did); one that a script counts within an epoch, or epochs within a phase, may fall."""
    common = sorted(a.counters.keys() & b.counters.keys())
    grows = any(b.counters[name] > a.counters[name] for name in common)
    return next((name for name in common if b.counters[name] < a.counters[name] and (is_clock(name) or not grows)), "")


def _standing(a: Marks, b: Marks) -> str:
    """A counter that is the same in both, where no other has grown; the optimizer's before others ("" if there is none)."""
    if any(b.counters.get(name, 0) > value for name, value in a.counters.items()):
        return ""
    same = [name for name, value in a.counters.items() if b.counters.get(name) == value]
    return OPTIMIZER if OPTIMIZER in same else min(same, default="")


def _of_path(pair: Pair) -> str:
    """It lies nearer to all checkpoints before the last one than to that."""
    if len(pair.steps_nn) == 1:
        return ""
    furthest = max(_back(pair))
    if furthest > _NEARER or (len(pair.steps_nn) == 2 and _jump(pair) < _GROWING):
        return ""
    return (
        f"it lies nearer to each checkpoint before {pair.older} than to that (at most {furthest:.2f} times as far), and its step "
        f"is {_jump(pair):.3g} times the one before; it is another training from the same start, or one that went back"
    )


def _jump(pair: Pair) -> float:
    """The length of the step relative to the one before, of as many training steps at least; 1 where it is the first."""
    if len(pair.steps_nn) == 1 or pair.steps_nn[-2, -2] <= 0.0:
        return 1.0
    longer = max(1.0, pair.intervals[-1] / pair.intervals[-2])
    return math.sqrt(float(pair.steps_nn[-1, -1] / pair.steps_nn[-2, -2])) / longer


def _back(pair: Pair) -> list[float]:
    """The distances of b from the checkpoints before a, the newest first, relative to that from a."""
    n = len(pair.steps_nn)
    newest = float(pair.steps_nn[-1, -1])
    squares = (float(pair.steps_nn[first:, first:].sum()) for first in range(n - 2, -1, -1))
    return [math.sqrt(max(each, 0.0) / newest) for each in squares]


def breaks_of(window: Window, rows: GramRows) -> dict[int, str]:
    """The same for a window of which all rows are known, be it over a part of the elements."""
    matrices = rows.matrices.tolist() if rows.matrices is not None else []
    return _breaks(window, matrices, len(rows.rows), rows.rows)


def breaks(window: Window, measured: Measured, steps_nn: Float64) -> dict[int, str]:
    """The pairs of a window at which another training begins, of those that are measured now, and why.

    Args:
        window: K checkpoints, oldest first.
        measured: the newest rows; pairs of older rows were looked at when those were new.
        steps_nn: the inner products (N, N) of all steps.

    Returns:
        number of the pair, 0 for the oldest two, -> the reason.

    Raises:
        InputChanged: a checkpoint is gone or was changed.
    """
    return _breaks(window, measured.matrices, len(measured.rows), steps_nn)


def _breaks(window: Window, matrices: Sequence[Sequence[float]], rows: int, steps_nn: Float64) -> dict[int, str]:
    found: dict[int, str] = {}
    n, begin = len(steps_nn), 0
    elements = matrix_elements(window.layouts[-1])
    for row in range(rows):
        number = n - rows + row
        figures = matrices[row] if elements and len(matrices) else None
        reason = other_training(
            Pair(
                older=window.names[number],
                matrices=(figures[0], figures[1], figures[2]) if figures else None,
                elements=elements,
                steps_nn=steps_nn[begin : number + 1, begin : number + 1],
                intervals=_intervals(window)[begin : number + 1],
                marks=tuple(map(marks_of, window.layouts[max(begin, number - 1) : number + 2])),
            )
        )
        if reason:
            found[number], begin = reason, number + 1
    return found


def _intervals(window: Window) -> tuple[float, ...]:
    """The lengths of the intervals between checkpoints, in training steps or what else counts them; 1 where that is unknown."""
    steps = [state.steps for state in window.states]
    lengths = [newer - older for older, newer in pairwise(steps)]
    return tuple(map(float, lengths)) if all(length > 0 for length in lengths) else (1.0,) * len(lengths)


def followed(members: Sequence[Checkpoint]) -> tuple[list[Checkpoint], str]:
    """The newest of these, up to a pair that was found to be of two trainings, and why they begin there ("" if all are taken).

    Args:
        members: checkpoints in the order of their steps.
    """
    for number in range(len(members) - 1, 0, -1):
        reason = members[number].apart_from.get(members[number - 1].name)
        if reason is not None:
            return list(members[number:]), f"the window begins with {members[number].name}: {reason}"
    return list(members), ""
