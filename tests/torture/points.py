"""One fault at one place of a run's processing, and what comes of it."""

from __future__ import annotations

import errno
import os
import random
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.torture import injector, power_loss
from tests.torture.injector import ANY, CHANGES, FAIL, KILL_AFTER, KILL_BEFORE, KILL_HALF, Order
from tests.torture.scenario import disturbed, forked, originals, problems_after, problems_in_the_end, snapshot

if TYPE_CHECKING:
    from pathlib import Path

    from tests.torture.scenario import Bench

ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EMFILE, errno.ESTALE, errno.EDQUOT)
_TIMES = (1, 1, 1, 3, 20, 400)
_KILLS = (KILL_BEFORE, KILL_AFTER, KILL_HALF)
_POWER = 4  # every fourth point cuts the power


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What happens: an order to the injector, and whether all unsynced is lost then (with which of the possible disks)."""

    order: Order
    power: int | None = None

    def __str__(self) -> str:
        return str(self.order) + (f", then the power was cut (disk {self.power})" if self.power is not None else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a point: whether it took place, the exit code of the disturbed command, and what did not hold."""

    point: Point
    fired: bool
    code: int | None
    problems: tuple[str, ...]


def count(bench: Bench, names: Path | None = None) -> dict[int, int]:
    """How many calls, and how many changes, an undisturbed run makes."""
    found = {}
    for counted in (ANY, CHANGES):
        run, trainer = bench.begun("count")
        counter = run.parent / "counter"

        def act(run: Path = run, counter: Path = counter, counted: int = counted) -> None:
            injector.arm(Order(counted=counted), run, counter, names=names if counted == ANY else None)
            disturbed(run, bench.scenario)

        code = forked(act, run.parent / "output", meanwhile=trainer or _nothing)
        assert code == 0, (run.parent / "output").read_text()
        found[counted] = injector.calls(counter)[0]
    return found


def draw(calls: dict[int, int], number: int, *, seed: int, power: bool) -> list[Point]:
    """Points spread evenly over all calls of a run, of every kind in turn.

    Args:
        calls: how many calls and changes there are.
        number: how many points.
        seed: of what is drawn.
        power: whether power may be cut.
    """
    generator = random.Random(seed)
    found = []
    for index in range(number):
        place = (index + generator.random()) / number
        if power and index % _POWER == _POWER - 1:
            at = int(place * calls[CHANGES])
            order = Order(act=generator.choice((KILL_BEFORE, KILL_AFTER)), counted=CHANGES, at=at)
            found.append(Point(order=order, power=generator.randrange(1000)))
        elif index % 2:
            order = Order(act=generator.choice(_KILLS), counted=CHANGES, at=int(place * calls[CHANGES]))
            found.append(Point(order=order))
        else:
            counted = generator.choice((ANY, CHANGES))
            order = Order(
                act=FAIL,
                counted=counted,
                at=int(place * calls[counted]),
                error=generator.choice(ERRORS),
                times=generator.choice(_TIMES),
            )
            found.append(Point(order=order))
    return found


def _nothing(_: int) -> None:
    """Beside a run that was written before."""


def try_point(bench: Bench, point: Point, *, children: bool = False) -> Outcome:
    """Process a fresh run with a fault in it, then go on undisturbed.

    Args:
        bench: the scenario.
        point: the fault.
        children: whether it may take place in processes that the command starts, too.
    """
    run, trainer = bench.begun("point")
    before, canary = originals(bench.template), snapshot(bench.canary)
    counter, log = run.parent / "counter", run.parent / "changes"
    disk = power_loss.Disk(run) if point.power is not None else None

    def act() -> None:
        if children:
            os.environ |= injector.environment(point.order, run, counter)
        injector.arm(point.order, run, counter, log=log if disk else None)
        disturbed(run, bench.scenario)

    output = run.parent / "output"
    code = forked(act, output, meanwhile=trainer or _nothing)
    if trainer is not None:
        trainer.finish()
    fired = injector.calls(counter)[1]
    problems = []
    if code is None:
        problems.append("it hung")
    elif code not in {0, 1, 3, -9, -15} and (code, point.order.error) != (
        2,
        errno.EACCES,
    ):  # a closed run is wrong usage
        problems.append(f"it ended with {code}")
    if disk is not None and point.power is not None:
        shutil.rmtree(run)
        disk.replay(log)
        disk.write(run, seed=point.power)
    problems += problems_after(run, before)
    problems += problems_in_the_end(bench, run)
    if snapshot(bench.canary) != canary:
        problems.append("foreign files beside the run changed")
    return Outcome(point=point, fired=fired, code=code, problems=tuple(dict.fromkeys(problems)))
