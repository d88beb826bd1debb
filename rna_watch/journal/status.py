"""The state of a run as plain data (`status --json`), read from the journal and the heartbeat; no daemon is needed."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rna_watch.journal import heartbeat, log
from rna_watch.journal.lock import living_owner
from rna_watch.journal.replay import RunState, replay

if TYPE_CHECKING:
    from rna_watch.journal.lock import Owner
    from rna_watch.journal.run_paths import RunPaths


def load(paths: RunPaths) -> tuple[RunState, heartbeat.Heartbeat | None]:
    """The replayed journal and the last heartbeat."""
    return replay(log.read(paths.journal)), heartbeat.read(paths.heartbeat)


def _word(owner: Owner | None, beat: heartbeat.Heartbeat | None) -> str:
    """What the daemon does; `silent` if it lives but gives no sign (a full disk, a stuck file system)."""
    if owner is None:
        return "not running"
    if beat is not None:
        return beat.state
    return "starting" if time.time() - owner.since < heartbeat.STALE_AFTER_S else "silent"


def status(paths: RunPaths) -> dict[str, Any]:
    """Keys: run, output, state, metric, best, checkpoints, workers, problems."""
    state, beat = load(paths)
    owner = living_owner(paths)
    fresh = beat is not None and owner is not None and beat.fresh(time.time())
    return {
        "run": str(paths.run),
        "output": str(paths.output),
        "state": _word(owner, beat if fresh else None),
        "owner": {"host": owner.host, "pid": owner.pid} if owner else None,
        "metric": {"name": state.metric.metric, "mode": state.metric.mode} if state.metric else None,
        "best": {"output": str(paths.models / state.best.output), "value": state.best.value} if state.best else None,
        "checkpoints": [
            {
                "name": checkpoint.name,
                "step": checkpoint.step,
                "state": str(checkpoint.stage),
                "reason": checkpoint.reason,
                "metrics": checkpoint.chosen.metrics
                if checkpoint.chosen
                else {"original": checkpoint.evaluations.get("last")},
                "better_than_original": checkpoint.chosen.better_than_original if checkpoint.chosen else None,
                "output": str(paths.models / checkpoint.output) if checkpoint.output else None,
            }
            for checkpoint in state.checkpoints.values()
        ],
        "workers": [asdict(worker) for worker in beat.workers] if fresh and beat else [],
        "problems": [{"what": problem.what, "remedy": problem.remedy} for problem in state.problems.values()],
    }
