"""Rounds of evaluation: the candidates of one checkpoint, and those that are searched for with their results.

A round runs on several evaluators at a time. Every result is recorded as it comes, so that a restart continues there;
only candidates whose per-example values were lost with the process are evaluated again.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rna_watch.acceleration.family import Family, unevaluated
from rna_watch.acceleration.methods import RE_ESTIMATED
from rna_watch.daemon.checkpoint_evaluation import FITTED, CheckpointEvaluation, kinds
from rna_watch.daemon.evaluators import offers
from rna_watch.daemon.searches import SEARCHES
from rna_watch.daemon.settled_metric import note_what_is_kept
from rna_watch.evaluation.evaluator import TRAINING_LOSS
from rna_watch.layout import disk
from rna_watch.window.tasks import run_all

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rna_watch.acceleration.residuals import Residuals
    from rna_watch.config import RunConfig
    from rna_watch.daemon.evaluated import Evaluated
    from rna_watch.daemon.recorder import Recorder
    from rna_watch.daemon.window import Window
    from rna_watch.evaluation.client import Evaluator
    from rna_watch.journal.heartbeat import Work
    from rna_watch.window.tasks import Run


class EvaluationRounds:
    """Evaluates the candidates of one checkpoint after another.

    Args:
        config: the settings.
        recorder: journal and state.
        evaluators: as many as may run at a time.
        show: is given what is being done.
        scratch: the folder for models that are made for evaluation alone.
    """

    def __init__(
        self,
        config: RunConfig,
        recorder: Recorder,
        evaluators: Sequence[Evaluator],
        show: Callable[[Work], None],
        scratch: Path,
    ) -> None:
        self.config = config
        self.recorder = recorder
        self.evaluators = evaluators
        self.show = show
        self._scratch = scratch
        self._files: list[Path] = []
        if evaluators:
            note_what_is_kept(config, recorder)

    def run(
        self, window: Window, residuals: Residuals, members: Family, run: Run = run_all, *, search: bool = True
    ) -> Evaluated:
        """Evaluate a window's family and what can be found from it; a failure is recorded and costs that candidate only.

        Args:
            window: the inputs.
            residuals: the window's residuals.
            members: the family.
            run: runs tasks, as an engine's `map` does.
            search: evaluate candidates other than the original too.

        Raises:
            Cancelled: the evaluators were closed.
        """
        evaluation = CheckpointEvaluation(
            self.config,
            self.recorder,
            self.evaluators,
            self.show,
            self._scratch,
            window=window,
            residuals=residuals,
            members=members,
            run=run,
        )
        known = self.recorder.checkpoint(window.members[-1].name)
        if self.evaluators or (known is not None and known.evaluations):
            offered = evaluation.run(search=search)
            for method, find in SEARCHES.items() if offered is not None else ():
                if method in self.config.methods and (method not in FITTED or TRAINING_LOSS in (offered or ())):
                    find(evaluation)
        self._files += [Path(made.path) for made in evaluation.outcome.made.values()]
        return evaluation.outcome

    def re_estimates(self, window: Window) -> bool:
        """Whether a window's models, the original among them, are judged with re-estimated statistics too."""
        offered = offers(self.evaluators[0], self.recorder) if self.evaluators else None
        return RE_ESTIMATED in kinds(self.config, self.recorder, window, offered)

    def clear(self) -> None:
        """Remove the files of models that were made for evaluation alone."""
        while self._files:
            with contextlib.suppress(OSError):  # the next start sweeps what is left
                disk.remove(self._files.pop())

    def unevaluated(self, window: Window, residuals: Residuals) -> Family:
        """What is left to publish if nothing could be evaluated."""
        found = unevaluated(residuals)
        if self.evaluators and self.config.normalization != "combine":
            return found
        (kind, *_) = kinds(self.config, self.recorder, window, None)
        return replace(found, candidates=tuple(replace(each, statistics=kind) for each in found.candidates))
