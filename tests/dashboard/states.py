"""The states of the dashboard that must look right, and the exact text of each: `python -m tests.dashboard.states` writes it."""

from __future__ import annotations

import functools
import io
from pathlib import Path
from types import SimpleNamespace

from rich.console import Console

from rna_watch.dashboard.look import DETAILS, HELP, Look
from rna_watch.dashboard.runs import RunSight, runs
from rna_watch.dashboard.view import framed, render
from rna_watch.journal import events as e
from rna_watch.journal.heartbeat import Work
from rna_watch.journal.replay import RunState
from rna_watch.journal.standing import standing
from rna_watch.journal.status import Status

from .run_builder import RunBuilder, evaluating, realistic_run

EXPECTED = Path(__file__).with_name("expected")
SIZES = {80: 24, 120: 40, 200: 50}
HINT = "? help  q leaves"
_FILLING = "number {} of a new window; extrapolation begins with 3"
_FAILED = (
    "the evaluator failed: /home/me/projects/cifar10/evaluation/evaluate_on_validation.py:118: "
    "RuntimeError: mat1 and mat2 shapes cannot be multiplied (256x512 and 2048x10)"
)


def _empty():
    run = RunBuilder()
    return run, run.status()


def _filled(count, evaluator="eval.py:evaluate"):
    run = RunBuilder(evaluator=evaluator, metric="error" if evaluator else None)
    for step in range(1, count + 1):
        run.admit(step)
        run.add(e.Finished(checkpoint=f"epoch_{step:03}.pt", reason=_FILLING.format(step)), after=1.0)
    return run, run.status()


def _unevaluated():
    run, _ = _filled(2, None)
    for step in (3, 4, 5):
        run.admit(step).measure(step)
        weights = [0, -0.5, 1.5] if step == 3 else [0, 0.25, -0.5, 1.25]
        run.choose(step, original=None, average=None, rna=None, weights=weights, candidate="rna-2-1e-08").publish(step)
    return run, run.status()


def _failing():
    run, _ = _filled(2)
    for step in (3, 4):
        run.admit(step).measure(step)
        run.add(e.EvaluationFailed(checkpoint=f"epoch_{step:03}.pt", candidate="last", reason=_FAILED))
    run.add(
        e.Problem(
            key="evaluator",
            what=_FAILED,
            remedy="repair the evaluator; models are written unevaluated until it works",
        )
    )
    return run, run.status()


def _behind():
    run = realistic_run(12)
    for step in range(13, 31):
        run.admit(step, after=3.0)
        if step < 24:
            reason = "left out for lack of time: checkpoints come faster than models are made"
            run.add(e.Skipped(checkpoint=f"epoch_{step:03}.pt", reason=reason, for_now=True))
    run.add(
        e.Problem(
            key="behind",
            what="checkpoints come every 3.0 s, and a model takes 41 s: 11 are left out for now",
            remedy="lower --max-candidates, raise --every or give the evaluator less data; what is left out is made later",
        )
    )
    return run, run.status(work=evaluating(run, 24))


def _held():
    run = realistic_run(8)
    run.add(
        e.Problem(
            key="disk",
            what="only 61 MB is free on /scratch, 89.4 MB are kept free for the training: models wait",
            remedy="make room there, lower --keep or --reserve, or write elsewhere with --output DIR",
        )
    )
    return run, run.status(
        work=Work(
            checkpoint="epoch_008.pt", stage="waiting for room", done=0, total=0, unit="bytes", since=run.now - 95
        )
    )


def _ended(reason):
    run = realistic_run()
    run.add(e.Stopped(reason=reason))
    return run, Status(last_sign=run.now, ended=reason)


def _killed():
    run = realistic_run()
    return run, Status(last_sign=run.now - 3600)


def _done():
    run = realistic_run(14)
    run.events.pop()
    run.choose(14, original=0.0478, average=0.0402, rna=0.0377, weights=[0, 0.2, 0.2, 0.2, 0.2, 0.2]).publish(14)
    run.now += 900
    return run, run.status()


def _backfill():
    run = realistic_run(9)
    run.events.pop()
    for step in range(10, 31):
        run.admit(step, after=0.01)
    return run, run.status(work=evaluating(run, 9))


@functools.cache
def _long():
    run = realistic_run(500)
    return SimpleNamespace(state=run.state, now=run.now), run.status(work=evaluating(run, 500))


def _working():
    run = realistic_run()
    return run, run.status(work=evaluating(run))


class _Nothing:
    state = RunState()
    now = 0.0


STATES = {
    "not-watched": (lambda: (_Nothing(), Status()), Look()),
    "nothing-yet": (_empty, Look()),
    "first-checkpoint": (lambda: _filled(1), Look()),
    "window-filling": (lambda: _filled(2), Look()),
    "no-evaluator": (_unevaluated, Look()),
    "evaluator-failing": (_failing, Look()),
    "working": (_working, Look()),
    "back-fill": (_backfill, Look()),
    "behind": (_behind, Look()),
    "disk-held": (_held, Look()),
    "stopped": (lambda: _ended("rna-watch stop"), Look()),
    "killed": (_killed, Look()),
    "finished": (_done, Look()),
    "long": (_long, Look()),
    "sorted": (_long, Look(order="gain", row=3)),
    "details": (_working, Look(screen=DETAILS, row=3)),
    "help": (_working, Look(screen=HELP)),
}


def renderable(name, width):
    """What is drawn of a state, at a width and its height."""
    height = SIZES.get(width, 24)
    if name == "runs":
        return _twelve(width, height)
    make, look = STATES[name]
    run, status = make()
    state = run.state
    return render(
        state,
        status,
        now=run.now + 2.0,
        width=width,
        height=height,
        hint=HINT,
        best=standing(state),
        look=look,
        waiting_for="/scratch/runs/cifar10-resnet18/.rna-watch/journal.jsonl",
    )


def _twelve(width, height):
    sights = []
    for number in range(12):
        run, status = [make for make, _ in STATES.values() if make is not _long][1 + number % 12]()
        path = f"/scratch/runs/sweep-7/{'seed' if number % 2 else 'lr'}-{number}"
        state = run.state
        sights.append(RunSight(path=path, state=state, status=status, best=standing(state)))
    lines = runs(sights, picked=2, now=run.now + 2.0, width=width, height=height)
    return framed(lines, [], width=width, height=None, limit=height)


def text(name, width):
    """The frame's lines as a console without colour prints them."""
    file = io.StringIO()
    console = Console(file=file, width=width, height=100, force_terminal=False, color_system=None)
    console.print(renderable(name, width))
    return "\n".join(line.rstrip() for line in file.getvalue().split("\n")).rstrip("\n") + "\n"


NAMES = (*STATES, "runs")

if __name__ == "__main__":
    EXPECTED.mkdir(exist_ok=True)
    for each in NAMES:
        for columns in SIZES:
            (EXPECTED / f"{each}-{columns}.txt").write_text(text(each, columns))
