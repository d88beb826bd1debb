"""The user's evaluator: what it is called with, what it must return, and the one interface behind which it runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from rna_watch.errors import EvaluationFailed, UsageError

if TYPE_CHECKING:
    from rna_watch.checkpoints.combine import Combination


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatorSpec:
    """Which evaluator, and where and how it runs.

    Exactly one of `function` (FILE.py:function) and `command` (a shell command with {checkpoint} in it) is given.
    `cwd` and `environment` are those of the command that started us; `scratch` is a folder for the files that a command
    evaluates.
    """

    function: str | None
    command: str | None
    device: str
    timeout_s: float
    threads: int
    cwd: str
    scratch: str
    environment: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def description(self) -> str:
        """How it is shown to a person."""
        return self.function or self.command or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Metrics by name, in the evaluator's order, and how long it took."""

    metrics: dict[str, float]
    seconds: float


class Evaluator(Protocol):
    """A long-lived place where models are evaluated, one at a time."""

    def warm_up(self) -> None:
        """Start the process and load the user's code and data, so that the first model does not wait for them.

        Raises:
            EvaluationFailed: they cannot be loaded.
            Cancelled: `close` was called.
        """

    def evaluate(self, combination: Combination) -> Evaluation:
        """The metrics of a model.

        Raises:
            EvaluationFailed: the user's code raised, ran past its time limit, or returned something unusable.
            Cancelled: `close` was called meanwhile.
        """

    def pid(self) -> int | None:
        """The process, if it is on this host and alive."""

    def close(self) -> None:
        """End the process."""


def check_metrics(value: object) -> dict[str, float]:
    """The metrics that an evaluator returned, as floats.

    Raises:
        EvaluationFailed: it is no mapping of names to numbers, or empty.
    """
    if not isinstance(value, Mapping) or not value:
        raise EvaluationFailed(f"the evaluator must return a dict of metric names to numbers, not {value!r:.100}")
    metrics: dict[str, float] = {}
    for name, number in value.items():
        try:
            metrics[str(name)] = float(number)
        except (TypeError, ValueError, OverflowError, RuntimeError) as error:
            raise EvaluationFailed(f"metric {name!r} is {number!r:.100}, not a number") from error
    return metrics


def choosing_metric(metrics: dict[str, float], wanted: str | None) -> str:
    """The name of the metric to choose by: the wanted one, or the first.

    Raises:
        EvaluationFailed: the wanted metric is not there.
    """
    if wanted is None:
        return next(iter(metrics))
    if wanted not in metrics:
        raise EvaluationFailed(f"the evaluator returns no '{wanted}' (--metric), only: {', '.join(metrics)}")
    return wanted


def finite(metrics: dict[str, float], name: str) -> bool:
    """Whether a metric is there and a number."""
    return name in metrics and math.isfinite(metrics[name])


def split_function(spec: str) -> tuple[str, str]:
    """FILE.py:function as its two parts.

    Raises:
        UsageError: it has another form.
    """
    file, colon, function = spec.rpartition(":")
    if not colon or not function.isidentifier() or not file.endswith(".py"):
        raise UsageError(f"--evaluator must be FILE.py:function, not '{spec}'")
    return file, function
