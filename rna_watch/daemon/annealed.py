"""Annealed candidates: short branches of the training, by which a run shows what it would be worth if it were cooled down now."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from rna_watch.acceleration.methods import ANNEAL, CLAMPED, LAST
from rna_watch.errors import EvaluationFailed
from rna_watch.evaluation.evaluator import AnnealRequest
from rna_watch.formats.resumed_optimizer import NotResumed, resume
from rna_watch.journal import events as e
from rna_watch.publishing import made
from rna_watch.publishing.made import TRAINING, Made
from rna_watch.window.combine import Combination

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from rna_watch.acceleration.candidate import Candidate
    from rna_watch.config import RunConfig
    from rna_watch.daemon.recorder import Recorder
    from rna_watch.daemon.window import Window
    from rna_watch.evaluation.client import Evaluator

STEPS = 60  # 30 are too few on CIFAR-10 (facts: levers, section 4)
_RATES = {"": 1.0, "-third": 1.0 / 3.0}
_LEAST_RATE = 0.01  # of the largest: below it the run has cooled down by itself, and there is nothing to gain
MOST = 2 * len(_RATES)  # from the last checkpoint, and from the best average
_PROBLEM = "anneal"
_REMEDY = "leave 'anneal' out of methods, or {}"


def branches(
    window: Window,
    starts: Sequence[Candidate],
    *,
    config: RunConfig,
    recorder: Recorder,
    evaluator: Evaluator,
    scratch: Path,
) -> Iterator[tuple[Candidate, Made]]:
    """Train on from each start, at the run's learning rate and at a third of it; what cannot be done is recorded.

    Args:
        window: the inputs.
        starts: the original, then the best average, if there is one.
        config: the settings.
        recorder: journal and state.
        evaluator: where the steps run.
        scratch: the folder for the models' files, which the evaluator sees too.

    Returns:
        Each candidate, and how it was made: with which `optimizer`, from `learning_rate` on, in how many `steps` of the
        evaluator's training_loss, beginning with the combination of weights `start` over the inputs (oldest first).
        `batches` are all that were drawn, those of statistics too, and `losses` those of the steps. `digest` is of the
        model's tensors.
    """
    newest, name = window.layouts[-1], window.members[-1].name
    try:
        optimizer = resume(newest, config.optimizer_order)
    except NotResumed as error:
        what = f"this run cannot be cooled down on the side: {error}"
        recorder.problem(_PROBLEM, what, _REMEDY.format("save the optimizer's state_dict in each checkpoint"))
        return
    largest = max([optimizer.learning_rate, *_rates_seen(window, recorder)])
    if optimizer.learning_rate < _LEAST_RATE * largest or not optimizer.learning_rate:
        text = (
            f"not cooled down on the side: the learning rate, {optimizer.learning_rate:.3g}, is under {_LEAST_RATE:.0%} of the "
            f"run's largest, {largest:.3g}"
        )
        recorder.record(e.Noted(checkpoint=name, text=text))
        recorder.solved(_PROBLEM)
        return
    begun, failures = time.monotonic(), 0
    for start in starts:
        for suffix, rate in _RATES.items():
            left_s = config.anneal_seconds - (time.monotonic() - begun)
            of = LAST if start.method == LAST else "average"
            candidate = _candidate(start, f"{ANNEAL}-{of}-{STEPS}{suffix}", of, rate)
            request = AnnealRequest(
                combination=window.combination(start),
                optimizer=optimizer,
                rate=rate,
                steps=STEPS,
                seed=window.members[-1].step or 0,
                seconds=max(left_s, 0.0),
                memory_limit_bytes=int(config.fit_memory * 2**30),
                path=str(scratch / f"candidate-0.{candidate.name}.safetensors"),
            )
            try:
                found = evaluator.anneal(request)
            except EvaluationFailed as error:
                failures += 1
                recorder.record(e.EvaluationFailed(checkpoint=name, candidate=candidate.name, reason=str(error)))
                remedy = _REMEDY.format("repair training_loss, or raise anneal_seconds")
                recorder.problem(_PROBLEM, f"{candidate.name} failed: {error}", remedy)
                continue
            layout = made.layout(request.path, newest)
            yield (
                candidate,
                Made(
                    kind=TRAINING,
                    # a copy; what is not trained is the newest checkpoint's
                    combination=Combination(layouts=(layout, newest), weights=(1.0, 0.0), clamp=False),
                    path=request.path,
                    account={
                        "start": list(request.combination.weights),
                        "optimizer": optimizer.kind,
                        "learning_rate": optimizer.learning_rate * rate,
                        "seed": request.seed,
                        "steps": STEPS,
                        "batches": len(found.losses) + found.passes,
                        "losses": list(found.losses),
                        "seconds": found.seconds,
                        "digest": layout.fingerprint,
                    },
                    notes=found.notes,
                ),
            )
    if not failures:
        recorder.solved(_PROBLEM)


def _rates_seen(window: Window, recorder: Recorder) -> list[float]:
    """The learning rates of the series' checkpoints, as far as they are known."""
    series = window.members[-1].series
    checkpoints = recorder.state.checkpoints
    members = (checkpoints[name].admitted for _, _, name, _ in list(checkpoints.of_series(series).admitted))
    return [each.learning_rate for each in members if each]


def _candidate(start: Candidate, name: str, of: str, rate: float) -> Candidate:
    """The candidate that begins at another one; it is no combination and has no weights."""
    sentence = f"is no combination: {STEPS} steps of training from {start.name}, with a learning rate that falls to 0"
    return replace(
        start,
        name=name,
        method=ANNEAL,
        regularization=None,
        coefficients=(),
        weights=(),
        diagnostics=replace(start.diagnostics, sentence=sentence),
        parameters={"start": of, "steps": STEPS, "rate": round(rate, 4)},
        statistics=CLAMPED,
    )
