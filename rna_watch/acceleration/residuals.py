"""Residuals: estimates of the gradient in the interval between two checkpoints, and the form that holds in a window.

The forms, best first (the exact identities are derived from torch's update rules and checked against gradients that were
truly accumulated):
    gradient              the exact mean gradient, from the momentum buffers and settings of SGD in the checkpoints
    recorded              mean gradients that the training saved next to its checkpoints
    learning-rate         (y_i - y_{i-1}) / (steps x learning rate)
    difference            (y_i - y_{i-1}) / steps
Letters: N residuals between K = N + 1 checkpoints; d_i = y_i - y_{i-1}; v_i momentum buffers; S_i steps of interval i.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Float64 = npt.NDArray[np.float64]

GRADIENT = "gradient"
RECORDED = "recorded"
LEARNING_RATE = "learning-rate"
DIFFERENCE = "difference"
FORMS = (GRADIENT, RECORDED, LEARNING_RATE, DIFFERENCE)
SGD = "SGD"

Saved = Literal["auto", "before", "after"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterGroup:
    """Settings of one parameter group, by torch's names; `learning_rate` is NaN where it is no plain number."""

    learning_rate: float
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    maximize: bool = False
    weight_decay: float = 0.0

    def same_rule(self, other: ParameterGroup) -> bool:
        """Whether both update alike, but for the learning rate."""
        return (self.momentum, self.dampening, self.nesterov, self.maximize, self.weight_decay) == (
            other.momentum,
            other.dampening,
            other.nesterov,
            other.maximize,
            other.weight_decay,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingState:
    """The state of the training at one checkpoint.

    `steps` is its counter, in units of `step_kind` (step, epoch, or save). `optimizer` is the optimizer's kind ("" if there
    is none), with its `groups`. `problem` says why momentum buffers cannot be told apart ("" if they can). `stepped`:
    every parameter with momentum has its buffer, which it gets at its first step. `recorded`: a mean gradient lies next to
    the checkpoint. `recording_problem` says why it cannot be used.
    """

    steps: int
    step_kind: str
    optimizer: str = ""
    groups: tuple[ParameterGroup, ...] = ()
    problem: str = ""
    stepped: bool = True
    recorded: bool = False
    recording_problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """The form of a window's residuals: r_i = scale_i (p_ig d_i + q_ig e_i) for the parameters of group g.

    `factors[i][g]` is (p, q); e_i is v_i - v_{i-1} (gradient) or the recorded gradient itself. `scales` `(N,)` hold what
    is the same for all parameters (steps, learning rate). `notes` say why a better form does not hold. `key` tells
    measurements of different forms apart.
    """

    name: str
    scales: tuple[float, ...]
    factors: tuple[tuple[tuple[float, float], ...], ...] = ()
    notes: tuple[str, ...] = ()
    saved: Saved = "auto"

    @property
    def key(self) -> str:
        """Form and how learning rates were read; "" for those that scale plain differences."""
        return f"{self.name}/{self.saved}" if self.factors else ""


class NotExactError(ValueError):
    """A form does not hold in this window; the message says why."""


def choose_form(states: Sequence[TrainingState], wanted: str = "auto", saved: Saved = "auto") -> Form:
    """The first form that holds for every interval of the window, with a note if the best one might have held.

    A form might have held if it was asked for, or if there is an optimizer (or a recording) in any of the checkpoints.

    Args:
        states: the states of the training at the K checkpoints, oldest first.
        wanted: one of `FORMS`, or "auto".
        saved: whether checkpoints hold the learning rate from before or after the scheduler's step.
    """
    notes: list[str] = []
    trained = any(state.optimizer for state in states)
    beside = any(state.recorded or state.recording_problem for state in states)
    possible = {GRADIENT: trained, RECORDED: beside, LEARNING_RATE: trained}
    for name in FORMS if wanted == "auto" else (wanted, DIFFERENCE):
        try:
            form = _BUILDERS[name](states, saved)
        except NotExactError as error:
            if wanted != "auto" or possible[name]:
                notes.append(not_of_form(name, str(error)))
        else:
            return replace(form, notes=tuple(notes[:1]), saved=saved)
    raise AssertionError("the plain difference always holds")


def not_of_form(name: str, why: str) -> str:
    """The note that a form does not hold."""
    return f"residuals are not of the form '{name}': {why}"


def _gradient(states: Sequence[TrainingState], saved: Saved) -> Form:
    factors = []
    for older, newer in pairwise(states):
        for state in (older, newer):
            if not state.optimizer:
                raise NotExactError("the checkpoints hold no optimizer state")
            if state.optimizer != SGD:
                raise NotExactError(f"{state.optimizer} has no exact identity for its gradients")
            if state.problem:
                raise NotExactError(state.problem)
        rates = _learning_rates(older, newer, saved)
        factors.append(tuple(_factor(*rules, older) for rules in zip(older.groups, newer.groups, rates, strict=True)))
    return Form(name=GRADIENT, scales=_per_step(states), factors=tuple(factors))


def _factor(old: ParameterGroup, new: ParameterGroup, rate: float, older: TrainingState) -> tuple[float, float]:
    """(p, q) of the exact mean gradient: [(1-b) (y_0 - y_1) / eta - b (v_0 - v_1)] / (1-a); with Nesterov b^2 (v_0 - v_1)."""
    if not old.same_rule(new):
        raise NotExactError("the optimizer's settings changed between checkpoints")
    sign = 1.0 if old.maximize else -1.0
    b = old.momentum
    if b == 0.0:
        return sign / rate, 0.0
    if old.dampening and not older.stepped:
        raise NotExactError("torch leaves dampening out at a parameter's first step, which this window holds")
    damped = 1.0 - old.dampening
    if damped <= 0.0:
        raise NotExactError("dampening 1 takes the gradients out of the momentum")
    q = b * b if old.nesterov else b / damped
    return sign * (1.0 - b) / (rate * damped), -sign * q


def _recorded(states: Sequence[TrainingState], _saved: Saved) -> Form:
    for state in states[1:]:
        if state.recording_problem:
            raise NotExactError(state.recording_problem)
    if not all(state.recorded for state in states[1:]):
        raise NotExactError("the training saved no mean gradients beside its checkpoints")
    n = len(states) - 1
    return Form(name=RECORDED, scales=(1.0,) * n, factors=(((0.0, 1.0),),) * n)


def _scaled(states: Sequence[TrainingState], saved: Saved) -> Form:
    rates = []
    for older, newer in pairwise(states):
        for state in (older, newer):
            if not state.groups:
                raise NotExactError("the checkpoints hold no learning rate")
            if state.optimizer != SGD:
                raise NotExactError(f"the steps of {state.optimizer} are not gradients times a learning rate")
        rates.append(_learning_rates(older, newer, saved))
    newest = rates[-1]
    ratios = [[last / rate for last, rate in zip(newest, interval, strict=True)] for interval in rates]
    if not all(math.isclose(ratio, interval[0], rel_tol=1e-6) for interval in ratios for ratio in interval):
        raise NotExactError("the learning rates of the parameter groups change each in its own way")
    scales = tuple(steps * interval[0] for steps, interval in zip(_per_step(states), ratios, strict=True))
    return Form(name=LEARNING_RATE, scales=scales)


def _difference(states: Sequence[TrainingState], _saved: Saved) -> Form:
    return Form(name=DIFFERENCE, scales=_per_step(states))


_BUILDERS = {GRADIENT: _gradient, RECORDED: _recorded, LEARNING_RATE: _scaled, DIFFERENCE: _difference}


def _per_step(states: Sequence[TrainingState]) -> tuple[float, ...]:
    """Each interval's factor that makes its residual one of a single step, relative to the newest interval's."""
    counts = [newer.steps - older.steps for older, newer in pairwise(states)]
    if any(count <= 0 for count in counts):
        return (1.0,) * len(counts)
    return tuple(counts[-1] / count for count in counts)


def _learning_rates(older: TrainingState, newer: TrainingState, saved: Saved) -> list[float]:
    """The learning rate of every group in the interval between two checkpoints."""
    if len(older.groups) != len(newer.groups):
        raise NotExactError("the number of parameter groups changed")
    rates = []
    for old, new in zip(older.groups, newer.groups, strict=True):
        rate = new.learning_rate if saved == "before" else old.learning_rate
        if not (math.isfinite(rate) and rate > 0.0):
            raise NotExactError("the learning rate is 0, or no plain number")
        if saved == "auto" and old.learning_rate != new.learning_rate:
            raise NotExactError(
                f"the learning rate went from {old.learning_rate:.3g} to {new.learning_rate:.3g} and it cannot be told which "
                "of them the interval was trained with; set lr_saved to 'after' if checkpoints are saved after the "
                "scheduler's step, else to 'before'"
            )
        rates.append(rate)
    return rates


@dataclass(frozen=True, slots=True, kw_only=True)
class Residuals:
    """What the family is made of: Gram matrices of a window's N residuals.

    `gram_nn` is R'R in the form of the residuals, `steps_nn` that of the plain differences of checkpoints, which measures
    the distance of models. `rounding` is the expected squared norm of rounding in one residual, in the units of `gram_nn`.
    `factor_nn` is a triangular T with T'T = R'R if the Gram matrix would lose the small eigenvalues (QR route).
    """

    gram_nn: Float64
    steps_nn: Float64
    rounding: float
    form: str = DIFFERENCE
    factor_nn: Float64 | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def of_differences(cls, gram_nn: Float64, rounding: float = 0.0) -> Residuals:
        """Plain differences, all intervals of equal length."""
        return cls(gram_nn=gram_nn, steps_nn=gram_nn, rounding=rounding)


def scaled(gram_nn: Float64, scales: Sequence[float]) -> Float64:
    """The Gram matrix of the residuals after each is multiplied by its scale."""
    s = np.asarray(scales, dtype=np.float64)
    return gram_nn * s[:, None] * s[None, :]
