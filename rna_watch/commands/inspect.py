"""A checkpoint described for a person: format, step, sources, tensors by role, what would be extrapolated, optimizer."""

from __future__ import annotations

import contextlib
import math
import os
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rna_watch.acceleration.residuals import GRADIENT, choose_form, not_of_form
from rna_watch.config import RunConfig
from rna_watch.errors import AllIgnored, IncompleteCheckpoint, RefusedCheckpoint, UsageError
from rna_watch.formats import recorded_gradient
from rna_watch.formats.model_source import as_one, linear
from rna_watch.formats.probe import probe
from rna_watch.journal.quantities import counted
from rna_watch.layout.layout import Layout, Role
from rna_watch.layout.unmatched import describe, unmatched
from rna_watch.watching.reading import Reading
from rna_watch.window.companions import training_state

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rna_watch.watching.reading import Name

_SHOWN = 3
_SHOWN_FILES = 8
_WORDS = {
    Role.PARAMETER: "parameters, extrapolated",
    Role.STATISTIC: "normalization statistics, combined with the same weights",
    Role.VARIANCE: "running variances, combined and kept from going below zero",
    Role.COPIED: "integers and flags, copied from the newest checkpoint",
}
_IGNORED = "left out by --ignore, copied from the newest checkpoint"
_NOT_PARAMETERS = "integers, flags, moving averages and states of metrics, copied from the newest checkpoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """A layout, described."""

    layout: Layout
    name: Name

    @property
    def step(self) -> tuple[str, int | None]:
        """Kind and value of the step that would be taken ("save" and None: a count of the times it was written)."""
        name = self.name
        if name.step is not None:
            return name.kind, name.step
        return (name.kind or "save"), self.layout.counters.get(name.kind)

    @property
    def left_out(self) -> list[str]:
        """The files of a folder that are not copied with the model: the training's state."""
        layout = self.layout
        if not layout.root:
            return []
        kept = {layout.inside(file).partition(os.sep)[0] for file in layout.files + layout.carried}
        return sorted(set(os.listdir(layout.root)) - kept)  # noqa: PTH208 - a string crosses process boundaries

    def as_dict(self) -> dict[str, Any]:
        """The inspection as plain data."""
        layout = self.layout
        return {
            "path": layout.path,
            "format": layout.format,
            "size_bytes": layout.size_bytes,
            "source": layout.source,
            "averaged": layout.averaged,
            "ignored": list(layout.ignored),
            "sources": [
                {"path": each.path, "tensors": each.tensors, "averaged": each.averaged} for each in layout.sources
            ],
            "counters": layout.counters,
            "series": self.name.series,
            "step_kind": self.step[0],
            "step": self.step[1],
            "told": self.name.told,
            "parameters": layout.parameters,
            "files": [layout.inside(file) for file in layout.files] if layout.root else [],
            "carried": [layout.inside(file) for file in layout.carried],
            "left_out": self.left_out,
            "fingerprint": layout.fingerprint,
            "architecture": layout.architecture,
            "optimizer": self._optimizer(),
            "recorded_gradient": self._recorded(),
            "tensors": [
                {
                    "name": view.name,
                    "dtype": view.stored_dtype,
                    "shape": list(view.stored_shape),
                    "role": str(layout.extents[view.extent].role),
                    "tied_to": owner if owner != view.name else None,
                }
                for view, owner in zip(layout.tensors, self._owners(), strict=True)
            ],
        }

    def _owners(self) -> list[str]:
        """For each tensor the first that shares its storage, which is itself for most."""
        first: dict[int, str] = {}
        return [first.setdefault(view.extent, view.name) for view in self.layout.tensors]

    def _optimizer(self) -> dict[str, Any] | None:
        """The optimizer's state, and the reason if exact mean gradients cannot be recovered from it."""
        state = self.layout.optimizer
        if state is None:
            return None
        training = training_state(self.layout, 0, "")
        form = choose_form((training, training), GRADIENT)
        why = "" if form.name == GRADIENT else form.notes[0].removeprefix(not_of_form(GRADIENT, ""))
        return {
            "kind": state.kind,
            "groups": [
                {
                    "learning_rate": None if math.isnan(group.learning_rate) else group.learning_rate,
                    "momentum": group.momentum,
                    "weight_decay": group.weight_decay,
                }
                for group in state.groups
            ],
            "exact_gradients": not why,
            "reason": why,
        }

    def _recorded(self) -> dict[str, Any] | None:
        """The mean gradient that lies next to the checkpoint, and why it could not be used, if so."""
        if self.layout.gradient is None:
            return None
        why = recorded_gradient.assign(self.layout)[1]
        return {"path": self.layout.gradient.path, "usable": not why, "reason": why}

    def lines(self) -> list[str]:
        """The inspection as lines for a person."""
        layout = self.layout
        counters = ", ".join(f"{kind} {value}" for kind, value in layout.counters.items())
        where = f"under {layout.source!r}" if layout.source else "at the top"
        kind = " (a moving average)" if layout.averaged else ""
        told = f"{self.step[0]} {self.step[1]}" if self.step[1] is not None else "a count of the times it is written"
        size = counted(len(layout.tensors), "tensor")
        lines = [
            f"{layout.path}: complete",
            f"format      {layout.format}, {layout.size_bytes / 1e6:,.1f} MB",
            f"model       {where}{kind}, {size}, {layout.parameters:,} parameters (tied ones once)",
            f"inside      {counters or 'no step or epoch'}",
            f"step        {told}, by {self.name.told}; series {self.name.series}",
        ]
        left_out = frozenset(layout.ignored)
        ignored = {number for number, extent in enumerate(layout.extents) if extent.name in left_out}
        for role, usual in _WORDS.items():
            words = usual
            numbers = {number for number, extent in enumerate(layout.extents) if extent.role is role} - ignored
            if role is Role.COPIED and any(linear(layout.extents[number].dtype) for number in numbers):
                words = _NOT_PARAMETERS
            lines += self._counted(role, numbers, words)
        lines += self._counted("ignored", ignored, _IGNORED)
        owners = self._owners()
        tied = [(view.name, owner) for view, owner in zip(layout.tensors, owners, strict=True) if owner != view.name]
        if tied:
            shown = ", ".join(f"{name} = {owner}" for name, owner in tied[:_SHOWN])
            more, share = ", ..." if len(tied) > _SHOWN else "", "shares" if len(tied) == 1 else "share"
            lines.append(f"{'tied':<11} {counted(len(tied), 'tensor')} {share} storage ({shown}{more})")
        return [*lines, *self._other_lines()]

    def _counted(self, kind: str, numbers: set[int], words: str) -> list[str]:
        """A line for tensors of a kind, given the numbers of their extents; none if there are none."""
        if not numbers:
            return []
        layout = self.layout
        dtypes = ", ".join(sorted({view.stored_dtype for view in layout.tensors if view.extent in numbers}))
        count = sum(layout.extents[number].count for number in numbers)
        return [f"{kind:<11} {counted(len(numbers), 'tensor')}, {counted(count, 'value')} ({dtypes}): {words}"]

    def _other_lines(self) -> list[str]:
        """What the checkpoint holds besides the model."""
        layout = self.layout
        lines = []
        if layout.root:
            lines.append(f"files       {_some([layout.inside(file) for file in layout.files])}: the model")
            if layout.carried:
                carried = _some([layout.inside(file) for file in layout.carried])
                lines.append(f"carried     {carried}: copied along with the model")
            if self.left_out:
                lines.append(f"left out    {_some(self.left_out)}: not part of the model, nor needed to use it")
        chosen = layout.parts or (layout.source,)
        others = [each for each in layout.sources if each.path not in chosen]
        if others and len(layout.sources) > 1:
            also = ", ".join(
                f"{each.path!r} ({'a moving average, ' if each.averaged else ''}{counted(each.tensors, 'tensor')})"
                for each in others
            )
            networks = [*chosen, *(each.path for each in others if not each.averaged)]
            together = "" if layout.averaged else as_one(networks)
            more = f", or combined together with --source {shlex.quote(together)}" if together else ""
            lines.append(
                f"sources     also {also}: left as in the newest checkpoint, unless chosen with --source{more}"
            )
        if (optimizer := self._optimizer()) is not None:
            groups = optimizer["groups"]
            rates = {
                "unknown" if group["learning_rate"] is None else f"{group['learning_rate']:.3g}": None
                for group in groups
            }
            settings = (
                f", {len(groups)} parameter group{'s' * (len(groups) > 1)}, learning rate {', '.join(rates)}"
                if groups
                else ""
            )
            exact = (
                "exact mean gradients can be recovered from it"
                if optimizer["exact_gradients"]
                else f"exact mean gradients cannot be recovered from it ({optimizer['reason']})"
            )
            lines.append(f"optimizer   {optimizer['kind']}{settings}; {exact}")
        if (recorded := self._recorded()) is not None:
            usable = "usable" if recorded["usable"] else f"not usable: {recorded['reason']}"
            lines.append(f"gradient    a recorded mean gradient lies next to it, {usable}")
        return lines


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN_FILES
    return ", ".join(names[:_SHOWN_FILES]) + (f" and {more} more" if more > 0 else "")


def inspect(path: Path, config: RunConfig | None = None) -> Inspection:
    """Look at a checkpoint.

    Args:
        path: the checkpoint.
        config: the settings `source`, `ignore` and `step`.

    Its step is read in the company of what lies beside it, and of what lies so in the folders beside its own.

    Raises:
        UsageError: the path does not exist, or what is to be ignored is nothing, or all.
        IncompleteCheckpoint, RefusedCheckpoint: the checkpoint cannot be used; the message says why.
    """
    config = config or RunConfig.model_validate({})
    try:
        layout = probe(str(path), config.source, config.ignore)
        if nothing := unmatched(config.ignore, [layout]):
            raise UsageError(describe(nothing, layout))
        return Inspection(layout=layout, name=_name(path.absolute(), layout, config.step))
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist") from error
    except AllIgnored as error:
        raise AllIgnored(f"{path} cannot be used: {error}") from error
    except IncompleteCheckpoint as error:
        raise IncompleteCheckpoint(f"{path} is not complete: {error}") from error
    except RefusedCheckpoint as error:
        raise RefusedCheckpoint(f"{path} cannot be used: {error}") from error


def _name(path: Path, layout: Layout, step: str | None) -> Name:
    """How a path is read beside its siblings; where only a folder may tell the step, beside its like in those next to it."""
    root, beside = path.parent, [*path.parent.iterdir()]
    if Reading().step_in_folder(path.name):
        root = root.parent
        with contextlib.suppress(OSError):
            beside += [found for each in root.iterdir() if (found := each / path.name).exists()]
    reading = Reading((str(each.relative_to(root)) for each in beside), step)
    reading.found_inside(str(path.relative_to(root)), layout.counters)
    return reading.of(str(path.relative_to(root)))
