"""Marks that a training leaves in its checkpoints besides their step: how often its optimizers stepped, and where it saves to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rna_watch.formats.optimizer_state import optimizers
from rna_watch.formats.safe_pickle import PickledTensor
from rna_watch.layout.dtypes import DTYPES, widen

if TYPE_CHECKING:
    from collections.abc import Callable


def optimizer_steps(tree: object, read: Callable[[PickledTensor], bytes | None]) -> int | None:
    """The steps that the optimizers in a checkpoint count, the largest of them; None where none counts (SGD).

    Args:
        tree: what the checkpoint holds.
        read: the bytes of a tensor with one element, None if they cannot be read.
    """
    found = []
    for optimizer in optimizers(tree):
        state = dict.get(optimizer, "state")
        # all parameters of an optimizer step together, but for those that never do and have no state
        first = next(iter(dict.values(state)), None) if isinstance(state, dict) else None
        count = _number(dict.get(first, "step"), read) if isinstance(first, dict) else None
        if count is not None:
            found.append(count)
    return max(found, default=None)


def _number(value: object, read: Callable[[PickledTensor], bytes | None]) -> int | None:
    if isinstance(value, PickledTensor):
        if value.dtype not in DTYPES or value.shape not in {(), (1,)} or not (data := read(value)):
            return None
        into = np.empty(1)
        widen(np.frombuffer(data, DTYPES[value.dtype].bits), value.dtype, into)
        value = float(into[0])
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**63:
        return None
    return int(value)


def saved_to(tree: object) -> str:
    """The folder that Lightning's `ModelCheckpoint` says it saves to; "" where none says so.

    Each run of Lightning's has one, and a run that is copied or moved keeps it in its files.

    Args:
        tree: what the checkpoint holds.
    """
    callbacks: Any = dict.get(tree, "callbacks") if isinstance(tree, dict) else None
    states = dict.values(callbacks) if isinstance(callbacks, dict) else ()
    folders = (dict.get(each, "dirpath") for each in states if isinstance(each, dict))
    return next((folder for folder in folders if isinstance(folder, str) and folder), "")
