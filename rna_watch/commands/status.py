"""What `rna-watch status` says of runs: ten lines for a person, plain data for programs, an exit code for a probe."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rna_watch.dashboard.summary import summary
from rna_watch.errors import NothingToDo, RnaWatchError, UsageError
from rna_watch.journal import sweep, waiting
from rna_watch.journal.command_line import named
from rna_watch.journal.cooled import cooled
from rna_watch.journal.metric import mode_of
from rna_watch.journal.quantities import plain, printable
from rna_watch.journal.run_registry import known_runs, resolve
from rna_watch.journal.standing import standing
from rna_watch.journal.status import load, settled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from rna_watch.journal.replay import RunState
    from rna_watch.journal.run_paths import RunPaths
    from rna_watch.journal.standing import Standing

_FAILURES = 3  # in a row
_MOST_RUNS = 30  # of these, each in several lines; of more, each in one
_WIDTH = 160


def told(run_dir: Path | None, output: str | None, *, as_json: bool, checks: bool, say: Callable[[str], None]) -> str:
    """What the command prints.

    Args:
        run_dir: the run; None for all runs of this user.
        output: where its outputs lie, if that is elsewhere.
        as_json: for programs.
        checks: print nothing, and raise where all is not well.
        say: shows a line, if a sign of life has to be waited for.

    Raises:
        UsageError: `checks` or `output` without a run.
        RnaWatchError: see `check`; the run is not known.
    """
    if run_dir is None:
        if checks or output:
            raise UsageError("name a run: rna-watch status RUN_DIR")
        return _text([as_dict(paths, say) for paths in known_runs()] if as_json else all_lines(say))
    waits_for = None if checks else waits(run_dir)
    if waits_for is not None:
        return _text(waits_for if as_json else [f"waiting  {waits_for['reason']}"])
    paths = resolve(run_dir, output)
    if checks:
        check(paths)
        return ""
    entries = sweep.read(paths)
    if entries is not None:
        return _text(sweep_as_dict(paths, entries, say) if as_json else sweep_lines(paths, entries, say))
    return _text(as_dict(paths, say) if as_json else lines(paths, say))


def _text(said: Any) -> str:
    """Lines as they are, anything else as JSON."""
    plainly = isinstance(said, list) and all(isinstance(each, str) for each in said) and said
    return ("\n".join(said) if plainly else json.dumps(said, indent=2)) + "\n"


def lines(paths: RunPaths, say: Callable[[str], None]) -> list[str]:
    """A run in at most ten lines.

    Args:
        paths: the run's paths.
        say: shows a line, if it has to be waited for a sign of life of the run's owner.
    """
    return [f"{word:<9}{text}" for word, text in _rows(paths, say)]


def _rows(paths: RunPaths, say: Callable[[str], None]) -> list[tuple[str, str]]:
    state, status = load(paths, say)
    return summary(state, status, run=named(paths.run), output=str(paths.output), now=time.time(), there=paths.there)


def all_lines(say: Callable[[str], None]) -> list[str]:
    """Every run of this user: where it is, whether it works, what it gained, and what is wrong.

    Args:
        say: shows a line, if it has to be waited for a sign of life of a run's owner.

    Raises:
        NothingToDo: there is none.
    """
    runs = known_runs()
    said = [plain(each.sentence()) for each in waiting.all_waiting()]
    if len(runs) > _MOST_RUNS:
        return [*said, *_table(runs, say)]
    for paths in runs:
        rows = dict(_rows(paths, say))
        shown = (
            "working",
            "best" if "best" in rows else "helping",
            *(("wrong",) if rows.get("wrong") != "nothing" else ()),
        )
        said += [rows["run"], *(f"  {word:<9}{rows[word]}" for word in shown if word in rows)]
    if not said:
        raise NothingToDo("no run of this user is known; start with: rna-watch start RUN_DIR")
    return said


def sweep_lines(home: RunPaths, entries: Sequence[sweep.Entry], say: Callable[[str], None]) -> list[str]:
    """Many runs of one process: how it is, a line for each run, and why others are not watched."""
    status = settled(home, say)
    watching = f"{status.who()} watches {status.watching or 'runs'}" if status.alive else "nothing watches them"
    detail = status.detail(time.time())
    said = [f"sweep    {home.run}", f"working  {watching}{f' ({detail})' if detail else ''}"]
    left = [f"left     {each.run}: {each.left}" for each in entries if each.left]
    return [*said, *_table([each.paths for each in entries], say), *map(printable, left)]


def sweep_as_dict(home: RunPaths, entries: Sequence[sweep.Entry], say: Callable[[str], None]) -> dict[str, Any]:
    """Many runs of one process as plain data: run, output, state, owner; runs, each as in `as_dict`, with `left`."""
    status = settled(home, say)
    return {
        "run": str(home.run),
        "output": str(home.output),
        "state": status.state,
        "owner": {"host": status.owner.host, "pid": status.owner.pid} if status.owner else None,
        "runs": [as_dict(each.paths, say) | {"left": each.left or None} for each in entries],
    }


def _table(runs: Sequence[RunPaths], say: Callable[[str], None]) -> list[str]:
    """A title and a line for each run."""
    from rna_watch.dashboard import runs as table  # a table is drawn with rich, which takes long to load

    sights = []
    for paths in runs:
        state, status = load(paths, say)
        sights.append(
            table.RunSight(path=str(paths.run), state=state, status=status, best=standing(state, paths.there))
        )
    drawn = table.runs(sights, picked=-1, now=time.time(), width=_WIDTH, height=len(sights) + 1)
    return [line.plain.rstrip() for line in drawn]


def check(paths: RunPaths) -> None:
    """Make sure that a daemon watches the run, gives signs of life, and does not fail at everything.

    Raises:
        RnaWatchError: no daemon does, or its work or its evaluations failed three times in a row, until one succeeds.
    """
    state, status = load(paths)
    if not status.responds:
        raise RnaWatchError(f"{named(paths.run)} is not watched ({status.state})")
    for count, what in ((state.failed_work, "attempts at a model"), (state.failed_evaluations, "evaluations")):
        if count >= _FAILURES:
            problems = "; ".join(plain(each.what) for each in state.problems.values())
            raise RnaWatchError(f"the last {count} {what} of {paths.run} failed{f': {problems}' if problems else ''}")


def waits(run: Path) -> dict[str, Any] | None:
    """A run that is waited for, as plain data with the keys of `as_dict` and `reason`; None if its folder is there."""
    found = waiting.waiting_for(run.absolute())
    if found is None:
        return None
    error = [{"what": found.error, "remedy": "start again"}] if found.error else []
    return {
        "run": found.run,
        "output": None,
        "state": "not running" if found.error else "waiting",
        "reason": found.sentence(),
        "owner": {"host": found.owner.host, "pid": found.owner.pid},
        "metric": None,
        "best": None,
        "best_original": None,
        "cooled_down": None,
        "series": [],
        "checkpoints": [],
        "workers": [],
        "problems": error,
    }


def as_dict(paths: RunPaths, say: Callable[[str], None]) -> dict[str, Any]:
    """A run as plain data (`status --json`): run, output, state, owner, metric, best, checkpoints, workers, problems.

    `best` also has the best original by the same evaluator, the gain over it in the metric's units, whether that is beyond
    noise, and by which metric or loss that was tested; it is null where its model is gone. `best_original` is there without
    a best model too. Both are those of the series recorded as first; `series` has them for each. `cooled_down` says what the
    run would be worth if it were cooled down now, where `anneal` found out.

    Args:
        paths: the run's paths.
        say: shows a line, if it has to be waited for a sign of life of the run's owner.
    """
    state, status = load(paths, say)
    now = standing(state, paths.there)
    branch = cooled(state)
    return {
        "run": str(paths.run),
        "output": str(paths.output),
        "state": status.state,
        "owner": {"host": status.owner.host, "pid": status.owner.pid} if status.owner else None,
        "metric": {"name": state.metric.metric, "mode": mode_of(state)} if state.metric else None,
        "best": _best(now, state, paths) if now and now.best else None,
        "best_original": _original(now) if now and now.original else None,
        "cooled_down": asdict(branch) if branch else None,
        "series": [_series(series, state, paths) for series in state.series()],
        "checkpoints": [
            {
                "name": checkpoint.name,
                "series": checkpoint.series,
                "step": checkpoint.step,
                "state": str(checkpoint.stage),
                "reason": checkpoint.reason,
                "metrics": verdict.metrics if verdict else {"original": checkpoint.original},
                "better_than_original": verdict.better_than_original if verdict else None,
                "significant": verdict.significant if verdict else None,
                "tested_on": (verdict.tested_on or None) if verdict else None,
                "output": str(paths.models / checkpoint.output)
                if checkpoint.output and paths.there(checkpoint.output)
                else None,
            }
            for checkpoint in state.checkpoints.values()
            for verdict in (checkpoint.verdict,)
        ],
        "workers": [asdict(worker) for worker in status.workers],
        "problems": [{"what": problem.what, "remedy": problem.remedy} for problem in state.problems.values()],
    }


def _series(series: str, state: RunState, paths: RunPaths) -> dict[str, Any]:
    now = standing(state, paths.there, series)
    return {
        "name": series,
        "checkpoints": len(state.checkpoints.of_series(series).admitted),
        "best": _best(now, state, paths) if now and now.best else None,
        "best_original": _original(now) if now and now.original else None,
    }


def _best(now: Standing, state: RunState, paths: RunPaths) -> dict[str, Any]:
    moved = state.bests[now.series].moved
    return {
        "output": str(paths.models / moved.output),
        "value": moved.value,
        "checkpoint": moved.checkpoint,
        "original": now.original.value if now.original else None,
        "gain": now.gain,
        "significant": now.significant,
        "tested_on": now.tested_on,
    }


def _original(now: Standing) -> dict[str, Any]:
    assert now.original is not None
    return {
        "checkpoint": now.original.checkpoint,
        "value": now.original.value,
        "unbeaten": now.unbeaten,
    }
