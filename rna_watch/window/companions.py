"""What a window needs besides its iterates where residuals are more than differences: momentum buffers or gradients."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rna_watch.acceleration.residuals import GRADIENT, RECORDED, NotExactError, TrainingState
from rna_watch.formats import optimizer_state, recorded_gradient
from rna_watch.layout.layout import OUTSIDE, Companion

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rna_watch.layout.identity import FileIdentity
    from rna_watch.layout.layout import Layout, OptimizerState


@dataclass(frozen=True, slots=True, kw_only=True)
class Companions:
    """C sources besides the K checkpoints: their files, and for each parameter extent, by name, its part of every source."""

    files: tuple[tuple[FileIdentity, ...], ...]
    parts: dict[str, tuple[Companion, ...]]


def training_state(layout: Layout, steps: int, step_kind: str, order: optimizer_state.Order = "auto") -> TrainingState:
    """What a checkpoint tells of its training, as the choice of a form needs it.

    Args:
        layout: the checkpoint.
        steps: its step or epoch.
        step_kind: what `steps` counts: step, epoch or save.
        order: how the optimizer's parameters are matched with the model's.
    """
    problem = recorded_gradient.assign(layout)[1]
    recorded, recording_problem = not problem, problem if layout.gradient else ""
    state = layout.optimizer
    if state is None:
        return TrainingState(steps=steps, step_kind=step_kind, recorded=recorded, recording_problem=recording_problem)
    return TrainingState(
        steps=steps,
        step_kind=step_kind,
        optimizer=state.kind,
        groups=state.groups,
        problem=optimizer_state.assign(layout, order)[1],
        stepped=all(member.buffer for member in state.members if state.groups[member.group].momentum),
        recorded=recorded,
        recording_problem=recording_problem,
    )


def companions(layouts: Sequence[Layout], form: str, order: optimizer_state.Order = "auto") -> Companions | None:
    """The sources that a form of the residuals needs besides its checkpoints; None if it needs none.

    Args:
        layouts: the K checkpoints, oldest first.
        form: name of the form.
        order: how the optimizer's parameters are matched with the model's.

    Raises:
        NotExactError: parameter groups or dtypes do not agree between checkpoints, or momentum began within the window.
    """
    if form == GRADIENT:
        found = _joined([layout.files for layout in layouts], [_momentum(layout, order) for layout in layouts])
        return replace(found, parts=_moved(found.parts, layouts[-1].optimizer))
    if form == RECORDED:
        gradients = [layout.gradient for layout in layouts[1:]]
        files = [gradient.files for gradient in gradients if gradient is not None]
        return _joined(files, [recorded_gradient.assign(layout)[0] for layout in layouts[1:]])
    return None


def _momentum(layout: Layout, order: optimizer_state.Order) -> dict[str, Companion]:
    assigned, problem = optimizer_state.assign(layout, order)
    if problem:
        raise NotExactError(problem)
    return assigned


def _moved(parts: dict[str, tuple[Companion, ...]], state: OptimizerState | None) -> dict[str, tuple[Companion, ...]]:
    """The same parts; a parameter without momentum at the end of an interval took no step in it, and must not have moved.

    torch makes the buffer at the first step, so that a parameter that moves without one means that the buffers were left
    out of the file or wiped: it is treated as one outside of the optimizer, whose moves are found out.
    """
    found = dict(parts)
    for name, sources in parts.items():
        group = sources[-1].group
        if state is None or group < 0 or not state.groups[group].momentum:
            continue
        if not sources[-1].chunks:
            found[name] = (OUTSIDE,) * len(sources)
        elif not all(part.chunks for part in sources[1:]):
            raise NotExactError(f"{name} had no momentum in an earlier checkpoint of the window")
    return found


def _joined(files: list[tuple[FileIdentity, ...]], assigned: list[dict[str, Companion]]) -> Companions:
    parts = {name: tuple(source.get(name, OUTSIDE) for source in assigned) for name in assigned[-1]}
    for name, sources in parts.items():
        if len({part.group for part in sources}) > 1:
            raise NotExactError(f"{name} is in other parameter groups than before")
        if len({part.dtype for part in sources if part.chunks}) > 1:
            raise NotExactError(f"what is stored beside {name} changed its dtype")
    return Companions(files=tuple(files), parts=parts)
