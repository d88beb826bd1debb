"""The user's evaluator: what it is called with, what it must return, and the one interface behind which it runs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from rna_watch.errors import EvaluationFailed, UsageError

if TYPE_CHECKING:
    from rna_watch.layout.dtypes import Array, Float64
    from rna_watch.window.combine import Combination

# what an evaluator may offer beyond plain evaluation
FRACTION = "fraction"
NORMALIZATION = "normalization"
TRAINING_LOSS = "training_loss"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatorSpec:
    """Which evaluator, and where and how it runs.

    Exactly one of `function` (FILE.py:function) and `command` (a shell command with {checkpoint} in it, and perhaps
    {fraction}) is given.
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
    """What an evaluation found.

    Args:
        metrics: metrics by name, in the evaluator's order.
        seconds: how long it took.
        examples: for metrics that were given by example, the values `(M,)`: the same examples in the same order for
            every model.
        statistics: re-estimated normalization statistics by the stored tensor's name (wrapper prefixes included), in
            the tensor's shape, as the bits of the stored dtype (`numeric.DTYPES[dtype].bits`): the model that was
            evaluated has exactly these bytes.
    """

    metrics: dict[str, float]
    seconds: float
    examples: dict[str, Float64] = field(default_factory=dict, compare=False)
    statistics: dict[str, Array] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class FitRequest:
    """Weights to be fitted by the user's training loss.

    Args:
        combination: the K inputs, oldest first, with the K weights to start from.
        steps: how many steps, each with one random batch.
        seed: of the batches, and of whatever the user's code draws from torch.
        memory_limit_bytes: how much the K models, the one being trained and its gradient may take together.
    """

    combination: Combination
    seed: int
    memory_limit_bytes: int
    steps: int = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Fitted weights (K, sum 1), the training loss at each step, before it is taken, and how long it took."""

    weights: tuple[float, ...]
    losses: tuple[float, ...]
    seconds: float


class Evaluator(Protocol):
    """A long-lived place where models are evaluated, one at a time."""

    def warm_up(self) -> None:
        """Start the process and load the user's code and data, so that the first model does not wait for them.

        Raises:
            EvaluationFailed: they cannot be loaded.
            Cancelled: `close` was called.
        """

    def offers(self) -> frozenset[str]:
        """What the user's evaluator can do beyond plain evaluation: of `FRACTION`, `NORMALIZATION`, `TRAINING_LOSS`.

        Raises:
            EvaluationFailed: the user's code cannot be loaded.
            Cancelled: `close` was called.
        """

    def evaluate(
        self, combination: Combination, *, fraction: float | None = None, re_estimate: bool = False
    ) -> Evaluation:
        """The metrics of a model.

        Args:
            combination: the model.
            fraction: how much of the data to evaluate on, 0 to 1; None for all of it.
            re_estimate: whether to re-estimate its batch-norm statistics first.

        Raises:
            EvaluationFailed: the user's code raised, ran past its time limit, returned something unusable, or does not
                offer what is asked.
            Cancelled: `close` was called meanwhile.
        """

    def fit(self, request: FitRequest) -> Fit:
        """Weights of a window that lower the user's training loss (Li et al. 2022, "Trainable Weight Averaging").

        Raises:
            EvaluationFailed: the user's code raised, ran past its time limit, returned no loss to descend on, or offers
                none; or the window does not fit into memory.
            Cancelled: `close` was called meanwhile.
        """

    def pid(self) -> int | None:
        """The process, if it is on this host and alive."""

    def close(self) -> None:
        """End the process."""


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
