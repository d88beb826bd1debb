"""A numbered checkpoint is written again while its old version is in work: the new version is never taken for done."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from rna_watch.config import RunConfig
from rna_watch.daemon.recorder import Recorder
from rna_watch.engine.local import LocalEngine
from rna_watch.journal.log import read
from rna_watch.journal.replay import PENDING, Stage, replay
from rna_watch.journal.run_paths import RunPaths
from rna_watch.layout.identity import identify
from tests.daemon.in_process import Noise, assemble
from tests.daemon.runs import check_journal_tells, events, train

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rna_watch.evaluation.evaluator import Evaluation

NAME = "step_4.pt"


class _Interrupted(Noise):
    """An evaluator with something that happens before its n-th model."""

    def __init__(self, happens: Callable[[], None], number: int) -> None:
        super().__init__(0)
        self._happens, self._number = happens, number
        self.originals: list[str] = []

    def evaluate(self, combination: Any, **options: Any) -> Evaluation:
        """See `Evaluator.evaluate`."""
        self._number -= 1
        if self._number == 0:
            self._happens()
        if combination.weights[-1] == 1.0:
            self.originals.append(combination.layouts[-1].fingerprint)
        return super().evaluate(combination, **options)


class _InterruptedEngine(LocalEngine):
    """An engine with something that happens during its n-th call."""

    def __init__(self, happens: Callable[[], None], number: int) -> None:
        super().__init__(1)
        self._happens, self._number = happens, number

    def map(self, work: Any, on_done: Any = None) -> Any:
        """See `Engine.map`."""
        self._number -= 1
        found = super().map(work, on_done)
        if self._number == 0:
            self._happens()
        return found


@pytest.mark.parametrize(
    ("map_call", "model"),
    [(3, 0), (0, 3), (0, 4), (0, 7), (4, 0)],
    ids=["measuring", "its original", "its first candidate", "a later candidate", "writing"],
)
@pytest.mark.parametrize("what", [NAME, "step_3.pt"], ids=["itself", "an input"])
def test_the_new_version_is_processed_for_itself(tmp_path: Path, what: str, map_call: int, model: int) -> None:
    """Whenever it is written again, its own original is evaluated, and nothing said of the old version is kept for it."""
    run, other = tmp_path / "run", tmp_path / "other"
    train(run, count=4)
    train(other, count=4, optimizer="adam")
    (run / "step_1.pt").unlink()
    config = RunConfig(keep=100)
    paths = RunPaths(run=run, output=run)
    paths.create()
    recorder = Recorder(paths.journal)

    def written_again() -> None:
        (other / what).replace(run / what)
        admission.consider(what, identify(str(run / what)))

    evaluator = _Interrupted(written_again, model)
    engine = _InterruptedEngine(written_again, map_call)
    admission, pipeline = assemble(config, paths, recorder, engine, [evaluator])
    for step in (2, 3, 4):
        admission.consider(f"step_{step}.pt", identify(str(run / f"step_{step}.pt")))
    while pending := [c.name for c in recorder.checkpoints() if c.stage in PENDING]:
        pipeline.process(pending[0])
    assert not (other / what).exists()
    state = recorder.state
    again = state.checkpoints[what]
    assert again.admitted is not None
    assert again.admitted.fingerprint in evaluator.originals
    assert (again.stage, again.output, again.chosen) == (Stage.FINISHED, None, None)
    assert set(again.evaluations) == {"last"}
    mine = [event for event in events(run, "evaluated") if event.checkpoint == what and event.seq > again.admitted.seq]
    assert [event.candidate for event in mine] == ["last"]
    check_journal_tells(state)
    for output in state.outputs:
        inputs = json.loads((run / "rna" / f"{output}.json").read_text())["inputs"]
        admitted = {(event.path, event.fingerprint) for event in events(run, "admitted")}
        assert {(each["path"], each["fingerprint"]) for each in inputs} <= admitted
    recorder.close()
    told = {name: (c.stage, c.reason, c.output, c.evaluations) for name, c in state.checkpoints.items()}
    assert told == {
        name: (c.stage, c.reason, c.output, c.evaluations)
        for name, c in replay(read(paths.journal)).checkpoints.items()
    }
