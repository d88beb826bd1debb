"""A resumed optimizer: which of torch's it is, with which settings and which state for which tensor, so that it goes on.

Only what the file says is taken: an optimizer that may be another one, or a state that may belong to another tensor, is
refused in words.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rna_watch.acceleration.residuals import SGD
from rna_watch.formats.optimizer_state import FIRST_MOMENT, SEVERAL, match, parameters_of, shape_of
from rna_watch.layout.layout import Buffer, Role, covers

if TYPE_CHECKING:
    from rna_watch.formats.optimizer_state import Order
    from rna_watch.layout.layout import Layout, Member, OptimizerState, Setting

ADAM, ADAMW = "Adam", "AdamW"
_MOMENTS = {"step", FIRST_MOMENT, "exp_avg_sq", "max_exp_avg_sq"}
# what each of them is made with; everything else that torch keeps in a group says how, not what, it computes
_ARGUMENTS = {
    SGD: ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize"),
    ADAM: ("lr", "betas", "eps", "weight_decay", "amsgrad", "maximize"),
}
_ARGUMENTS[ADAMW] = _ARGUMENTS[ADAM]
_FOREIGN = {SGD: {"betas", "eps", "trust_coefficient"}, ADAM: {"momentum", "momentum_decay", "rho", "final_lr"}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A parameter that moves: the number of its extent and of its view, its group, and Adam's state by torch's names."""

    extent: int
    view: int
    group: int
    moments: dict[str, Buffer | float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """The optimizer of a checkpoint: `SGD`, `ADAM` or `ADAMW`, the arguments of each group, and what it moves."""

    kind: str
    groups: tuple[dict[str, Setting], ...]
    held: tuple[Held, ...]

    @property
    def learning_rate(self) -> float:
        """The largest of the groups' learning rates."""
        return max(float(group["lr"]) for group in self.groups if not isinstance(group["lr"], tuple))


class NotResumed(ValueError):  # noqa: N818 - it is an answer, not a failure
    """The optimizer of a checkpoint cannot go on; the message says why."""


def resume(layout: Layout, order: Order = "auto") -> Resumed:
    """The optimizer of a checkpoint, with its state assigned to the model's tensors.

    Parameters that it does not hold, that never stepped, or that are ignored are not among what it moves.

    Args:
        layout: the checkpoint.
        order: the setting `optimizer_order`.

    Raises:
        NotResumed: the checkpoint holds none, or another than torch's SGD, Adam and AdamW; or its state cannot be assigned.
    """
    state = layout.optimizer
    if state is None:
        raise NotResumed("the checkpoint holds no optimizer settings (they are read from torch.save files)")
    if layout.averaged:
        raise NotResumed("the model is a moving average, not the weights that the optimizer moved")
    if state.kind == SEVERAL:
        raise NotResumed("the checkpoint holds more than one optimizer")
    kind = _kind(state)
    groups = tuple({name: each[name] for name in _ARGUMENTS[kind] if name in each} for each in state.settings)
    for group in groups:
        rate = group.get("lr")
        if not isinstance(rate, int | float) or not math.isfinite(rate) or rate < 0:
            raise NotResumed("its learning rate is no plain number")
    return Resumed(kind=kind, groups=groups, held=_held(layout, state, kind, groups, order))


def _kind(state: OptimizerState) -> str:
    """Which of torch's optimizers wrote this.

    Raises:
        NotResumed: none of those that are known here, or it cannot be told which.
    """
    keys = set[str]().union(*state.settings)
    known = {name for member in state.members for name, _ in member.moments}
    if state.kind == SGD and not keys & _FOREIGN[SGD]:
        return SGD
    adam = all({"betas", "eps", "amsgrad", "weight_decay"} <= each.keys() for each in state.settings)
    if state.kind != ADAM or not adam or keys & _FOREIGN[ADAM] or known - _MOMENTS:
        raise NotResumed("its optimizer is none of torch's SGD, Adam and AdamW")
    decoupled = {each.get("decoupled_weight_decay") for each in state.settings if each["weight_decay"]}
    if len(decoupled) > 1 or None in decoupled:
        raise NotResumed(
            "its optimizer is Adam or AdamW with weight decay, and files of this torch do not say which; save with torch 2.7 "
            "or newer"
        )
    return ADAMW if decoupled == {True} else ADAM


def _held(
    layout: Layout, state: OptimizerState, kind: str, groups: tuple[dict[str, Setting], ...], order: Order
) -> tuple[Held, ...]:
    parameters = parameters_of(layout)
    alike = all(each == state.settings[0] for each in state.settings)
    if len(state.members) == len(parameters) and alike and kind == SGD and not _still(state):
        matched = list(zip(state.members, parameters, strict=True))  # whichever is whose: all are treated alike
    else:
        matched, problem = match(state, parameters, order, several=len(state.groups) > 1 or bool(layout.parts))
        if problem:
            raise NotResumed(problem)
    numbers = {id(view): number for number, view in enumerate(layout.tensors)}
    began = any(member.moments for member in state.members)
    if kind != SGD and not began:
        raise NotResumed("its optimizer's state was not saved")
    held = []
    for member, (view, extent) in matched:
        if extent.role is not Role.PARAMETER or (not member.moments if kind != SGD else _is_still(state, member)):
            continue
        moments = {name: value for name, value in member.moments if value is not None}
        if len(moments) < len(member.moments) or (
            kind != SGD and not {"step", FIRST_MOMENT, "exp_avg_sq"} <= moments.keys()
        ):
            raise NotResumed(f"its optimizer's state of {view.name} is not stored as plain tensors, each in one piece")
        for name, value in moments.items():
            if isinstance(value, Buffer) and name != "step" and value.shape != view.shape:
                raise NotResumed(f"its optimizer's state of {view.name} has another shape than the tensor itself")
        if moments and not covers(view, extent):
            raise NotResumed(f"{view.name} shares its storage with other tensors")
        held.append(Held(extent=view.extent, view=numbers[id(view)], group=member.group, moments=moments))
    if not held:
        raise NotResumed("its optimizer has moved no parameter of the model yet")
    return tuple(held)


def _still(state: OptimizerState) -> bool:
    return any(_is_still(state, member) for member in state.members)


def _is_still(state: OptimizerState, member: Member) -> bool:
    """Whether a parameter of SGD with momentum never stepped: others have their buffers, which come with the first step."""
    stepped = any(shape_of(each) is not None or each.unreadable for each in state.members)
    return stepped and bool(state.groups[member.group].momentum) and shape_of(member) is None and not member.unreadable
