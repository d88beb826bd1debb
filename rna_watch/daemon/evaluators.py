"""The evaluators of a run: each works on one model at a time, and a failure is reported."""

from __future__ import annotations

import queue
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import replace
from typing import TYPE_CHECKING

from rna_watch.errors import EvaluationFailed
from rna_watch.journal import fields

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rna_watch.acceleration.candidate import Candidate
    from rna_watch.daemon.recorder import Recorder
    from rna_watch.evaluation.client import Evaluator
    from rna_watch.evaluation.evaluator import Evaluation

_REMEDY = "models are written unevaluated until it works"


def failed(recorder: Recorder, error: EvaluationFailed, *, loaded: bool = True) -> None:
    """Report that the evaluator does not work.

    Args:
        recorder: journal and state.
        error: the failure.
        loaded: whether the evaluator could be loaded.
    """
    what = "the evaluator failed" if loaded else "the evaluator cannot be loaded"
    recorder.problem("evaluator", f"{what}: {error}", _REMEDY)


def offers(evaluator: Evaluator, recorder: Recorder) -> frozenset[str]:
    """What the user's evaluator offers; nothing if it fails, which is reported."""
    try:
        return evaluator.offers()
    except EvaluationFailed as error:
        failed(recorder, error)
        return frozenset()


def as_kept(result: Evaluation, metric: str, recorder: Recorder) -> Evaluation:
    """A result with as many metrics as are kept, the choosing one among them; what is left out is reported."""
    kept = fields.cut_metrics(result.metrics, metric)
    if len(kept) == len(result.metrics):
        return result
    recorder.problem(
        "metrics",
        f"the evaluator returns {len(result.metrics):,} metrics, of which {len(kept):,} are kept",
        f"return at most {fields.MOST_METRICS:,}, with names of at most {fields.MOST_NAME_CHARACTERS} characters",
    )
    examples = {name: values for name, values in result.examples.items() if name in kept}
    return replace(result, metrics=kept, examples=examples)


def spread(
    evaluators: Sequence[Evaluator], candidates: Sequence[Candidate], evaluate: Callable[[Evaluator, Candidate], None]
) -> None:
    """Evaluate the candidates, as many at a time as there are evaluators.

    Args:
        evaluators: at least one; each works on one candidate at a time.
        candidates: the candidates, in the order in which they begin.
        evaluate: evaluates one; called in other threads if there are several evaluators.
    """
    if len(evaluators) == 1 or len(candidates) <= 1:
        for each in candidates:
            evaluate(evaluators[0], each)
        return
    free: queue.SimpleQueue[Evaluator] = queue.SimpleQueue()
    for evaluator in evaluators:
        free.put(evaluator)

    def evaluate_on_free(each: Candidate) -> None:
        evaluator = free.get()
        try:
            evaluate(evaluator, each)
        finally:
            free.put(evaluator)

    pool = ThreadPoolExecutor(len(evaluators), thread_name_prefix="evaluation")
    try:
        for future in [pool.submit(copy_context().run, evaluate_on_free, each) for each in candidates]:
            future.result()
    finally:
        pool.shutdown(cancel_futures=True)
