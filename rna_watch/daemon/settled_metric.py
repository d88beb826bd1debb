"""What a run's models are chosen by: the metric, its direction (given, kept, told from the name, unknown), the loss beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rna_watch.acceleration.direction import direction, is_loss, loss_beside
from rna_watch.journal import events as e
from rna_watch.journal.words import DIRECTIONS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rna_watch.config import RunConfig
    from rna_watch.daemon.recorder import Recorder
    from rna_watch.layout.dtypes import Float64


def settle(metric: str, config: RunConfig, recorder: Recorder) -> None:
    """Record the metric and its direction, unless the journal has them so; a direction that is not known is a problem.

    Args:
        metric: the name of the metric.
        config: the setting `mode` counts.
        recorder: journal and state.
    """
    settled = recorder.state.metric
    kept = settled.mode if settled is not None and settled.metric == metric else ""
    mode = config.mode or kept or direction(metric) or ""
    if settled is None or (settled.metric, settled.mode) != (metric, mode):
        recorder.record(e.MetricChosen(metric=metric, mode=mode))
    if mode:
        recorder.solved("direction")
        return
    recorder.problem(
        "direction",
        f"the name of the metric {metric!r} does not tell whether it is to be small or large: no model is called better, and "
        "best does not move",
        "say it with --mode min or --mode max, or choose by another metric with --metric",
    )


def ranking_loss(metric: str, examples: Mapping[str, Float64], config: RunConfig, recorder: Recorder) -> str:
    """The per-example loss by which models are ranked in the metric's place ("": by the metric); one that is missed is said.

    Args:
        metric: the name of the metric.
        examples: what the evaluator gave per example, by name; a loss must be of as many examples as the metric.
        config: the setting `choose_by` counts.
        recorder: journal and state.
    """
    count = len(examples.get(metric, ()))
    loss = loss_beside(metric, [name for name, values in examples.items() if count in {0, len(values)}])
    if config.choose_by == "loss" and not loss and not is_loss(metric):
        recorder.problem(
            "choose_by",
            f"choose_by is loss, but the evaluator returns no loss of each example beside {metric!r}",
            "return it under a name such as 'loss', or leave choose_by out",
        )
    else:
        recorder.solved("choose_by")
    return "" if config.choose_by == "metric" else loss


def note_what_is_kept(config: RunConfig, recorder: Recorder) -> None:
    """Note the direction that the journal has, where the metric's name says another one, or nothing.

    Args:
        config: the settings `metric` and `mode` count.
        recorder: journal and state.
    """
    settled = recorder.state.metric
    if settled is None or not settled.mode or config.mode or config.metric not in {None, settled.metric}:
        return
    told = direction(settled.metric)
    if told != settled.mode:
        but = f"though its name says that {DIRECTIONS[told]}" if told else "though its name does not tell"
        kept = f"{settled.metric}: {DIRECTIONS[settled.mode]}, as before in this run"
        recorder.record(e.Noted(text=f"{kept}, {but}; --mode changes it"))
