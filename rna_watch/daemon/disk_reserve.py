"""The disk reserve: how much of the disk is left to the training, and what of ours makes room for it.

A pinned checkpoint still takes its space after the trainer has deleted it, and so do models. A disk that is large enough
for the training alone may be too small for both, and a training that cannot save ends.
"""

from __future__ import annotations

import contextlib
import math
import shutil
from typing import TYPE_CHECKING

from rna_watch.acceleration.methods import ANNEAL, PRODUCT
from rna_watch.daemon import products
from rna_watch.daemon.annealed import MOST
from rna_watch.journal.quantities import size
from rna_watch.layout.factors import factors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from rna_watch.config import RunConfig
    from rna_watch.daemon.recorder import Recorder
    from rna_watch.journal.replay import Checkpoint
    from rna_watch.layout.layout import Layout

_AUTO_CHECKPOINTS = 2  # one that a trainer writes before it deletes, and one that comes meanwhile
_SHORT, _HELD = "room", "held"  # problems
_REMEDY = (
    "make room there, name another disk with --output, or lower --keep, --window or --reserve; it goes on by itself"
)
FOR_TRAINING = "the training may need the room on the disk"


def files_to_judge(config: RunConfig, newest: Layout | None = None) -> int:
    """How many models lie in files at a time, only to be evaluated: given to a command, trained, or products of factors.

    Args:
        config: the settings.
        newest: a checkpoint that tells whether there are factors; None: it is not known, and they are not counted.
    """
    given = config.evaluators if config.evaluate_command else 0
    judged = config.evaluate_command or config.evaluator
    multiplied = bool(judged and newest and PRODUCT in config.methods and factors(newest).pairs)
    return given + (MOST if ANNEAL in config.methods else 0) + (products.MOST if multiplied else 0)


class DiskReserve:
    """Measures the disk that outputs are written to against the reserve, and remembers which models wait for room.

    Args:
        config: the settings `reserve`, `window`, `serving_copy`, and those of evaluation by a command.
        output: a folder on that disk.
        recorder: journal and state.
    """

    def __init__(self, config: RunConfig, output: Path, recorder: Recorder) -> None:
        self._config = config
        self._output = output
        self._recorder = recorder
        self._held: dict[str, int] = {}
        self._writing = False

    def fits(self, size_bytes: int, checkpoint_bytes: int = 0) -> bool:
        """Whether so much may be written, because the reserve is free afterwards.

        Args:
            size_bytes: what is to be written; 0 for a hard link, which takes no space before the trainer deletes the file.
            checkpoint_bytes: size of the newest checkpoint, if it is not admitted yet.
        """
        if self._config.reserve == 0:
            return True
        return self._free_bytes() - size_bytes >= self._reserve_bytes(self._largest_bytes(checkpoint_bytes))

    def keep(self, pins: Callable[[], Iterable[tuple[Checkpoint, int]]], unpin: Callable[[Checkpoint], None]) -> None:
        """See that the training has its room, and one more model its own: unpin checkpoints until it is so.

        Those whose space only we hold go first, the oldest before the newer. The others go too if that is not enough: what the
        trainer deletes gives it no room while a link holds it.

        Args:
            pins: all pinned checkpoints, oldest first, with the bytes that only the pin holds.
            unpin: unpins one.
        """
        largest = self._largest_bytes()
        if self._config.reserve == 0 or not largest:
            return
        reserve = self._reserve_bytes(largest)
        # a model that is being written uses its own room already
        model = self._model_bytes(largest)
        wanted = reserve if self._writing else reserve + model
        free = self._free_bytes()
        if free >= wanted:
            if free >= reserve + model + largest:  # the next save must not bring the problem back
                self._recorder.solved(_SHORT)
            return
        holding = [(checkpoint, held) for checkpoint, held in pins() if held]
        for checkpoint, held in holding:
            if free >= wanted:
                break
            unpin(checkpoint)
            free += held
        if free < reserve:
            for checkpoint, _ in pins():
                unpin(checkpoint)
        if holding or free < reserve:
            self.say_short()

    def say_short(self, checkpoint_bytes: int = 0) -> None:
        """Report that there is no room to keep checkpoints that the trainer deletes."""
        largest = self._largest_bytes(checkpoint_bytes)
        wanted = size(self._reserve_bytes(largest) + self._model_bytes(largest))
        self._recorder.problem(
            _SHORT,
            f"less than {wanted} is free for the training: what it deletes is not kept, windows become shorter ({self._output})",
            _REMEDY,
        )

    def hold(self, name: str, size_bytes: int) -> None:
        """Make a model wait until so much fits."""
        self._held[name] = size_bytes
        reserve = self._reserve_bytes(self._largest_bytes())
        self._recorder.problem(
            _HELD,
            f"models wait: each would leave less than {size(reserve)} free for the training ({self._output})",
            _REMEDY,
        )

    def holds(self, name: str) -> bool:
        """Whether a model still waits; it does not any more if it fits now."""
        needed = self._held.get(name)
        if needed is None:
            return False
        if not self.fits(needed):
            return True
        self._held.pop(name, None)  # the other thread may have asked too
        if not self._held:
            self._recorder.solved(_HELD)
        return False

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """The time in which a model is written, or given to a command, after room was found for it."""
        self._writing = True
        try:
            yield
        finally:
            self._writing = False

    def _free_bytes(self) -> float:
        """What this user may still write; infinite if the file system does not say."""
        try:
            usage = shutil.disk_usage(self._output)
        except OSError:
            return math.inf  # the run's folder is gone for a while; whoever writes there reports it
        return usage.free if usage.total else math.inf

    def _reserve_bytes(self, largest_bytes: int) -> int:
        reserve = self._config.reserve
        return _AUTO_CHECKPOINTS * largest_bytes if reserve == "auto" else int(reserve * 2**30)

    def _model_bytes(self, largest_bytes: int) -> int:
        """The most room that the next model takes, with its plain copy, or with what is only evaluated."""
        copies = 1 if self._config.serving_copy == "none" else 2
        return max(copies, files_to_judge(self._config)) * largest_bytes

    def _largest_bytes(self, at_least: int = 0) -> int:
        """Size of the largest checkpoint among the newest (a run may save several models, of unequal size)."""
        newest = self._recorder.state.checkpoints.newest(self._config.window + 1)
        return max([at_least, *(each.admitted.size_bytes for each in newest if each.admitted)])
