"""How large an attempt is, and how many epochs of a network fit into the time that is left, from steps that were timed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rna_watch.reproduce.images.spec import RunSpec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

OPTIMIZERS = ("momentum", "sgd")
# the paper trains 100; a schedule is cut to the longest of these that fits, and that is said
EPOCHS = (100, 60, 40, 20)
EVERY_UNTIL = 40
# one network may take this share of the whole time, so that the next has some
_SHARE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """The size of an attempt.

    `networks` in the order in which they are trained. `epochs`: the schedules to choose from, longest first. `marks`: epochs
    at which more models are judged, `layered` and `anneal` among them. `run`: fields of each run. `timed`: steps that are
    timed. `estimated`: batches, and images of each, for statistics. `levers`: steps of `layered` and `anneal`. `compiled`:
    whether compiling is tried.
    """

    networks: tuple[str, ...] = ("resnet18", "vgg19", "densenet121")
    epochs: tuple[int, ...] = EPOCHS
    marks: tuple[int, ...] = (5, 10, 20, 40)
    run: Mapping[str, Any] = field(default_factory=dict)
    timed: int = 30
    estimated: tuple[int, int] = (10, 512)
    levers: int = 60
    compiled: bool = True

    def spec(self, network: str, optimizer: str, epochs: int, data: Path) -> RunSpec:
        """A run of this size."""
        return RunSpec(
            data=data, dataset="cifar10", network=network, optimizer=optimizer, seed=0, epochs=epochs, **self.run
        )


FULL = Scale()
QUICK = Scale(
    networks=("vgg4",),
    epochs=(5,),
    marks=(3,),
    run={"train_images": 64, "test_images": 32, "held_out": 32, "batch": 16, "bf16": False},
    timed=2,
    estimated=(2, 16),
    levers=2,
    compiled=False,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Seconds of one optimizer step, of judging one model, and the number of steps of an epoch, with both runs at work."""

    step: float
    judge: float
    steps: int


def judged(epoch: int, epochs: int) -> bool:
    """Whether models are judged at an epoch: at each, after epoch 40 at every second, and at the last."""
    return epoch <= EVERY_UNTIL or epoch % 2 == 0 or epoch == epochs


def needed(scale: Scale, times: Times, epochs: int, models: int, marked: int) -> float:
    """The seconds that so many epochs will take.

    Args:
        scale: of the attempt.
        times: as measured.
        epochs: of the schedule.
        models: how many are judged at an epoch.
        marked: how many more at a mark, where five levers take their steps too.
    """
    verdicts = sum(models * judged(epoch, epochs) for epoch in range(1, epochs + 1))
    marks = sum(mark <= epochs for mark in scale.marks)
    return (epochs * times.steps + marks * 5 * scale.levers) * times.step + (verdicts + marks * marked) * times.judge


def fitting(scale: Scale, seconds: Mapping[int, float], left: float, budget: float) -> int | None:
    """The longest schedule that takes no more than is left, and no more than its share of the budget if there are shorter ones.

    Args:
        scale: of the attempt.
        seconds: what each of its schedules would take.
        left: seconds until the end.
        budget: seconds of the whole attempt.
    """
    for epochs in scale.epochs:
        allowed = left if epochs == scale.epochs[-1] else min(left, _SHARE * budget)
        if seconds[epochs] <= allowed:
            return epochs
    return None


def worth_compiling(scale: Scale, times: Times, left: float) -> bool:
    """Whether compiling, about a minute, can be earned back: half of the steps' time of the longest schedule exceeds it."""
    return scale.compiled and 0.5 * min(scale.epochs[0] * times.steps * times.step, left) > 60.0
