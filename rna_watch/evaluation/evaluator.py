"""The user's evaluator: which it is, what it found, what it fits, and which of its metrics counts."""

from __future__ import annotations

import ast
import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rna_watch.errors import EvaluationFailed, UsageError

if TYPE_CHECKING:
    from rna_watch.formats.resumed_optimizer import Resumed
    from rna_watch.layout.dtypes import Array, Float64
    from rna_watch.window.combine import Combination

# what an evaluator may offer beyond plain evaluation
FRACTION = "fraction"
NORMALIZATION = "normalization"
TRAINING_LOSS = "training_loss"
PLACEMENT = "placement"
# with these, code gives a module names that its text does not show
_ANY_NAME = {"globals", "locals", "vars", "exec", "eval", "setattr"}


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatorSpec:
    """Which evaluator, and where and how it runs.

    Exactly one of `function` (FILE.py:function) and `command` (a shell command with {checkpoint} in it, and perhaps
    {fraction}) is given. `cwd` and `environment` are those of the command that started us. `scratch` is a folder for the
    files that a command evaluates.
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
        """The evaluator as a person named it."""
        return self.function or self.command or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What an evaluation found.

    Args:
        metrics: metrics by name, in the evaluator's order.
        seconds: how long it took.
        examples: the values `(M,)` of metrics that were given per example; the examples and their order are the same for
            every model.
        statistics: re-estimated normalization statistics by the stored tensor's name (wrapper prefixes included), in
            the tensor's shape, as the bits of the stored dtype (`dtypes.DTYPES[dtype].bits`): the model that was
            evaluated has exactly these bytes.
    """

    metrics: dict[str, float]
    seconds: float
    examples: dict[str, Float64] = field(default_factory=dict, compare=False)
    statistics: dict[str, Array] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class FitRequest:
    """Weights to be fitted with the user's training loss.

    Args:
        combination: the K inputs, oldest first, with the K weights to start from.
        method: "trained" (one row of weights) or "layered" (one for each parameter tensor).
        steps: of "layered", each with a random batch, or rounds of "trained"; None: as many as the method usually makes.
        seed: seed of the batches, and of whatever the user's code draws from torch.
        memory_limit_bytes: the most that the K models, the one being fitted and its gradient may take together.
    """

    combination: Combination
    seed: int
    memory_limit_bytes: int
    method: str = "trained"
    steps: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Fitted weights.

    Args:
        weights: of the K inputs (sum 1); with `layer_weights` their mean over the elements of the parameters.
        losses: the training loss: of "trained" the mean of its batches at the start and after each round, of "layered" that
            of each step's batch, before the step is taken.
        seconds: how long it took.
        layer_weights: weights (K, sum 1) by extent, for every extent that is combined; empty for "trained".
        notes: a sentence for everything that a person should know; where the fit found nothing better than its start, all
            weights are the start's, and one says so.
    """

    weights: tuple[float, ...]
    losses: tuple[float, ...]
    seconds: float
    layer_weights: dict[str, tuple[float, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnealRequest:
    """A short branch of the training.

    Args:
        combination: the model to begin with; its newest input is the checkpoint whose optimizer goes on.
        optimizer: that checkpoint's.
        rate: the part of the run's learning rate to begin with.
        steps: number of steps, each with one random batch.
        seed: seed of the batches, and of whatever the user's code draws from torch.
        seconds: the most that it may take.
        memory_limit_bytes: the most that the model, its gradient and the optimizer's state may take together.
        path: the file to write the model to (`publishing/made.py`), in a folder that we see too.
    """

    combination: Combination
    optimizer: Resumed
    rate: float
    steps: int
    seed: int
    seconds: float
    memory_limit_bytes: int
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Annealed:
    """The training loss at each step, before it is taken; the forward passes besides; how long it took; what is to be said."""

    losses: tuple[float, ...]
    passes: int
    seconds: float
    notes: tuple[str, ...] = ()


def choosing_metric(metrics: dict[str, float], wanted: str | None) -> str:
    """The name of the metric to choose by: the wanted one, or the first one.

    Raises:
        EvaluationFailed: the wanted metric is not there.
    """
    if wanted is None:
        return next(iter(metrics))
    if wanted not in metrics:
        raise EvaluationFailed(f"the evaluator returns no '{wanted}' (--metric), only: {', '.join(metrics)}")
    return wanted


def check_exists(spec: str) -> None:
    """See that the file of FILE.py:function is there and may define that function; nothing of it is executed.

    Raises:
        UsageError: it is not there, or cannot define the function; or the text has another form.
    """
    file, name = split_function(spec)
    path = Path(file)
    if not path.is_file():
        raise UsageError(f"the evaluator's file {path.absolute()} does not exist; correct --evaluator")
    try:
        module = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return  # the evaluator's process says what is wrong with it
    defined = _defined(module)
    if defined is None or name in defined:
        return
    near = difflib.get_close_matches(name, defined, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else "; correct --evaluator"
    raise UsageError(f"{path.absolute()} has no function '{name}'{hint}")


def _defined(module: ast.Module) -> set[str] | None:
    """The names that a module may define; None if only executing it can tell."""
    names: set[str] = set()
    inside: list[ast.AST] = [module]
    for node in ast.walk(module):
        if isinstance(node, ast.Global):
            names |= set(node.names)
        elif isinstance(node, ast.Name) and node.id in _ANY_NAME:
            return None
    while inside:
        for node in ast.iter_child_nodes(inside.pop()):
            match node:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                    names.add(name)
                    continue
                case ast.Lambda():
                    continue
                case ast.alias(name="*"):
                    return None
                case ast.alias(name=name, asname=alias):
                    names.add(alias or name.partition(".")[0])
                case ast.Name(id=name, ctx=ast.Store()):
                    names.add(name)
                case (
                    ast.MatchAs(name=str() as name)
                    | ast.MatchStar(name=str() as name)
                    | ast.MatchMapping(rest=str() as name)
                ):
                    names.add(name)
            inside.append(node)
    return None if "__getattr__" in names else names


def split_function(spec: str) -> tuple[str, str]:
    """FILE.py:function as its two parts.

    Raises:
        UsageError: the text has another form.
    """
    file, colon, function = spec.rpartition(":")
    if not colon or not function.isidentifier() or not file.endswith(".py"):
        raise UsageError(f"--evaluator must be FILE.py:function, not '{spec}'")
    return file, function
