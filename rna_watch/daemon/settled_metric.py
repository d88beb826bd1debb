"""The metric by which a run's models are chosen, and its direction: given, kept from the journal, told from the name, unknown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rna_watch.acceleration.direction import direction
from rna_watch.journal import events as e
from rna_watch.journal.words import DIRECTIONS

if TYPE_CHECKING:
    from rna_watch.config import RunConfig
    from rna_watch.daemon.recorder import Recorder


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
