"""The optimizer's state inside a checkpoint: settings of its parameter groups, and where the momentum buffers lie.

torch numbers parameters in the order of the groups, which is not that of the state dict once there are several: buffers are
matched with tensors by stored names, by shapes that are unique, or in an order that the user names; never by a guess.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from rna_watch.acceleration.residuals import SGD, ParameterGroup
from rna_watch.formats.model_source import as_pairs, role
from rna_watch.formats.safe_pickle import PickledTensor
from rna_watch.layout.dtypes import DTYPES
from rna_watch.layout.layout import OUTSIDE, Buffer, Chunk, Companion, Member, OptimizerState, Role, covers
from rna_watch.layout.names import plain_names, spellings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rna_watch.layout.layout import Extent, Layout, Setting, TensorView

OPTIMIZER_KEYS = (
    *("optimizer", "optimizer_state_dict", "optimizer_states", "optimizer_state"),
    *("optimizers", "optim", "opt", "optim_state"),
)
SEVERAL = "more than one optimizer"
_NOT_SGD = "an optimizer that is not SGD"
_MOMENTUM = "momentum_buffer"
FIRST_MOMENT = "exp_avg"
_COARSE = 2.0**-20  # each of an interval's updates was rounded: measured, 5 to 80 % of the gradient in bfloat16
_RULES = ("momentum", "dampening", "nesterov")

Order = Literal["auto", "state-dict", "matrices-first", "vectors-first"]


def find_optimizer(tree: object, place: Callable[[PickledTensor], int | None]) -> OptimizerState | None:
    """The optimizer's state in a checkpoint's tree; None if there is none; of several it only says that they are several.

    Args:
        tree: what the checkpoint holds.
        place: the byte offset of a tensor's first element, None if it does not lie in the file in one piece.
    """
    found = optimizers(tree)
    if len(found) > 1:
        return OptimizerState(kind=SEVERAL, groups=(), members=())
    return _read(found[0], place) if found else None


def learning_rate(layout: Layout) -> float:
    """The largest learning rate of a checkpoint's optimizer; 0 if it is not known."""
    rates = [group.learning_rate for group in layout.optimizer.groups] if layout.optimizer else []
    return max((rate for rate in rates if math.isfinite(rate)), default=0.0)


def optimizers(tree: object) -> list[dict[str, Any]]:
    """The state dicts of all optimizers in a checkpoint's tree."""
    if not isinstance(tree, dict):
        return []
    return [state for key in OPTIMIZER_KEYS for state in _states(dict.get(tree, key))]


def _states(value: object) -> list[dict[str, Any]]:
    if isinstance(value, dict) and isinstance(dict.get(value, "param_groups"), list):
        return [value]
    parts = list(dict.values(value)) if isinstance(value, dict) else value if isinstance(value, list | tuple) else []
    return [part for part in parts if isinstance(part, dict) and isinstance(dict.get(part, "param_groups"), list)]


def _read(value: dict[str, Any], place: Callable[[PickledTensor], int | None]) -> OptimizerState | None:
    state = value.get("state")
    groups: list[ParameterGroup] = []
    members: list[Member] = []
    settings: list[dict[str, Setting]] = []
    kinds = set()
    more = False  # state that torch's SGD does not have
    for group in value["param_groups"]:
        if not isinstance(group, dict) or not isinstance(state, dict):
            return None
        kinds.add(_kind(group))
        ids, names = group.get("params"), group.get("param_names")
        if not isinstance(ids, list):
            return None
        if not (isinstance(names, list) and len(names) == len(ids)):
            names = [None] * len(ids)
        for number, name in zip(ids, names, strict=True):
            own = dict.get(state, number) if isinstance(number, int | str) else None
            if not isinstance(own, dict):
                own = {}
            more |= bool(own.keys() - {_MOMENTUM})
            # torch.distributed names parameters instead of numbering them
            known = number if isinstance(number, str) else name
            member = _member(len(groups), known, dict.get(own, _MOMENTUM), place)
            moments = _moments(own, place) if "betas" in group else ()
            members.append(replace(member, moments=moments) if moments else member)
        groups.append(_group(group))
        settings.append(_settings(group))
    kind = kinds.pop() if len(kinds) == 1 else _NOT_SGD
    if kind == SGD and more:
        kind = _NOT_SGD
    return OptimizerState(kind=kind, groups=tuple(groups), members=tuple(members), settings=tuple(settings))


def _member(group: int, name: object, momentum: object, place: Callable[[PickledTensor], int | None]) -> Member:
    named = name if isinstance(name, str) else None
    if momentum is None or (isinstance(momentum, PickledTensor) and 0 in momentum.shape):
        return Member(group=group, name=named, buffer=None)
    buffer = _buffer(momentum, place) if isinstance(momentum, PickledTensor) else None
    return Member(group=group, name=named, buffer=buffer, unreadable=buffer is None)


def _moments(
    own: dict[Any, Any], place: Callable[[PickledTensor], int | None]
) -> tuple[tuple[str, Buffer | float | None], ...]:
    """What an optimizer of Adam's kind keeps of a parameter."""
    return tuple(
        (
            str(name),
            float(value)
            if isinstance(value, int | float)
            else _buffer(value, place)
            if isinstance(value, PickledTensor)
            else None,
        )
        for name, value in own.items()
        if value is not None
    )


def _settings(group: dict[str, Any]) -> dict[str, Setting]:
    """The settings of a group that are plain numbers, or pairs of them."""
    found: dict[str, Setting] = {}
    for name, value in group.items():
        if isinstance(value, int | float):
            found[str(name)] = value
        elif isinstance(value, tuple | list) and len(value) == 2 and all(isinstance(x, int | float) for x in value):
            found[str(name)] = tuple(map(float, value))
    return found


def _kind(group: dict[str, Any]) -> str:
    if all(key in group for key in _RULES):
        return SGD
    if "betas" in group:
        return "Adam"
    return _NOT_SGD


def _group(group: dict[str, Any]) -> ParameterGroup:
    def number(key: str, missing: float) -> float:
        value = group.get(key, missing)
        return float(value) if isinstance(value, int | float) else math.nan

    return ParameterGroup(
        learning_rate=number("lr", math.nan),
        momentum=number("momentum", 0.0),
        dampening=number("dampening", 0.0),
        nesterov=group.get("nesterov") is True,
        maximize=group.get("maximize") is True,
        weight_decay=number("weight_decay", 0.0),
    )


def _buffer(tensor: PickledTensor, place: Callable[[PickledTensor], int | None]) -> Buffer | None:
    tensor = as_pairs(tensor)
    offset = place(tensor) if tensor.dtype in DTYPES else None
    if offset is None:
        return None
    return Buffer(dtype=tensor.dtype, shape=tensor.shape, stride=tensor.stride, offset_bytes=offset)


def assign(layout: Layout, order: Order = "auto") -> tuple[dict[str, Companion], str]:
    """For each parameter extent, by name, its momentum; or a sentence that says why it is not known.

    Args:
        layout: a checkpoint with an optimizer's state.
        order: how the optimizer numbers parameters, for use where neither names nor shapes match them: as the state dict,
            or tensors of two and more dimensions first (weights that decay), or those of fewer first.
    """
    state = layout.optimizer
    parameters = parameters_of(layout)
    problem = _unusable(layout, parameters)
    if problem or state is None:
        return {}, problem
    rules = {replace(group, weight_decay=0.0) for group in state.groups}
    wanted = [extent.name for _, extent in parameters if extent.role is Role.PARAMETER]
    if layout.parts and len(state.members) != len(parameters):
        return {}, _counts(state, parameters)
    if len(rules) == 1 and not state.groups[0].momentum:
        return {name: Companion(group=0) for name in wanted}, ""
    matched, problem = match(state, parameters, order, several=len(state.groups) > 1 or bool(layout.parts))
    if problem:
        return {}, problem
    assigned = dict.fromkeys(wanted, OUTSIDE)
    for member, (view, extent) in matched:
        if extent.name not in assigned:
            continue
        momentum, problem = _placed(member, state.groups[member.group], view, extent)
        if problem:
            return {}, problem
        assigned[extent.name] = momentum
    return assigned, ""


def _unusable(layout: Layout, parameters: Sequence[tuple[TensorView, Extent]]) -> str:
    """Why no exact gradients can be computed from a checkpoint, whichever momentum is whose ("" if they can)."""
    state = layout.optimizer
    if state is None:
        return "the checkpoint holds no optimizer state"
    if layout.averaged:
        return "the model is a moving average, not the weights that the optimizer moved"
    combined = [extent.dtype for _, extent in parameters if extent.role is Role.PARAMETER]
    coarse = next((dtype for dtype in combined if DTYPES[dtype].eps > _COARSE), None)
    if coarse is not None:
        return f"weights stored as {coarse} have lost the digits that exact gradients are computed from"
    if any(member.unreadable and state.groups[member.group].momentum for member in state.members):
        return "the optimizer's momentum is not stored as plain tensors, each in one piece"
    return ""


def parameters_of(layout: Layout) -> list[tuple[TensorView, Extent]]:
    """The parameters as `Module.parameters()` lists them: in the state dict's order, tied ones once, ignored ones too."""
    seen: set[int] = set()
    found = []
    ignored = set(layout.ignored)
    for view in layout.tensors:
        extent = layout.extents[view.extent]
        known = role(view.name, view.dtype) if extent.name in ignored else extent.role
        if known is Role.PARAMETER and view.extent not in seen:
            seen.add(view.extent)
            found.append((view, extent))
    return found


def match(
    state: OptimizerState, parameters: Sequence[tuple[TensorView, Extent]], order: Order, *, several: bool
) -> tuple[list[tuple[Member, tuple[TensorView, Extent]]], str]:
    """Each of the optimizer's parameters with its tensor; `several` groups or networks may stand in any order."""
    if all(member.name is not None for member in state.members):
        plain = plain_names(view.name for view, _ in parameters)
        by_name = {plain[view.name]: (view, extent) for view, extent in parameters}
        # an optimizer that was made before the model was wrapped, or after, knows its parameters by other names
        for spelled in spellings(member.name or "" for member in state.members):
            known = [(member, by_name.get(spelled[member.name or ""])) for member in state.members]
            pairs = [(member, pair) for member, pair in known if pair is not None]
            if len(pairs) == len(known):
                return pairs, ""
        return [], "the optimizer names parameters that the model does not have"
    if order != "auto":
        parameters = _ordered(parameters, order)
    elif several:
        return _by_shape(state, parameters)
    if len(state.members) != len(parameters):
        return [], _counts(state, parameters)
    return list(zip(state.members, parameters, strict=True)), ""


def _counts(state: OptimizerState, parameters: Sequence[tuple[TensorView, Extent]]) -> str:
    return (
        f"the optimizer has {len(state.members)} parameters and the model {len(parameters)}, and it stores no names to match "
        "them by"
    )


def _ordered(parameters: Sequence[tuple[TensorView, Extent]], order: Order) -> list[tuple[TensorView, Extent]]:
    if order == "state-dict":
        return list(parameters)
    return sorted(parameters, key=lambda pair: (len(pair[0].shape) < 2) == (order == "matrices-first"))


def shape_of(member: Member) -> tuple[int, ...] | None:
    """The shape of a parameter as its optimizer's state has it; None where that holds no tensor of this shape."""
    moment = dict(member.moments).get(FIRST_MOMENT)
    known = moment if isinstance(moment, Buffer) else member.buffer
    return known.shape if known else None


def _by_shape(
    state: OptimizerState, parameters: Sequence[tuple[TensorView, Extent]]
) -> tuple[list[tuple[Member, tuple[TensorView, Extent]]], str]:
    shapes = [view.shape for view, _ in parameters]
    taken: set[tuple[int, ...]] = set()
    pairs = []
    for member in state.members:
        shape = shape_of(member)
        if shape is None or shapes.count(shape) != 1 or shape in taken:
            why = "some parameters have no momentum" if shape is None else "several tensors have one shape"
            groups = f"{len(state.groups)} parameter groups store" if len(state.groups) > 1 else "parameters have"
            return [], (
                f"the optimizer's {groups} no names, and {why}, so it cannot be told which parameter is whose; set "
                "optimizer_order, or build the optimizer from named_parameters()"
            )
        taken.add(shape)
        pairs.append((member, parameters[shapes.index(shape)]))
    return pairs, ""


def _placed(member: Member, group: ParameterGroup, view: TensorView, extent: Extent) -> tuple[Companion, str]:
    buffer = member.buffer
    if buffer is None or not group.momentum:
        return Companion(group=member.group), ""
    if buffer.shape != view.shape:
        return OUTSIDE, f"the momentum of {view.name} has another shape than the tensor itself"
    if not DTYPES[buffer.dtype].linear:
        return OUTSIDE, f"the momentum of {view.name} is stored as {buffer.dtype}, which cannot be computed with"
    if not covers(view, extent) or _steps(buffer) != _steps(view):
        return OUTSIDE, f"the momentum of {view.name} lies in memory in another order than the tensor itself"
    chunk = extent.chunks[0]
    place = Chunk(file=chunk.file, offset_bytes=buffer.offset_bytes, start=chunk.start, count=chunk.count)
    return Companion(group=member.group, dtype=buffer.dtype, chunks=(place,)), ""


def _steps(tensor: Buffer | TensorView) -> list[int]:
    """The strides that matter: those of dimensions with more than one element."""
    return [step for size, step in zip(tensor.shape, tensor.stride, strict=True) if size > 1]
