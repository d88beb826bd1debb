"""Whether all files of a DeepSpeed folder are of one save: a second one under the same tag writes over them one by one.

Model states hold their step. The shards of the optimizer hold only how many steps it has taken, and are written behind a
barrier after all model states: the ranks must agree, and no shard may be older than a model state.
"""

from __future__ import annotations

from math import isfinite, prod
from typing import TYPE_CHECKING

import numpy as np

from rna_watch.errors import IncompleteCheckpoint
from rna_watch.formats import storages
from rna_watch.formats.safe_pickle import PickledTensor
from rna_watch.layout.dtypes import DTYPES, widen

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rna_watch.formats.torch_zip import TorchZip

_OPTIMIZER = "optimizer_state_dict"
_COUNTS = ("step", "base_optimizer_state_step")
_MAX_DEPTH = 5
_MOST = 64
_SAME_SAVE_NS = 1_000_000_000  # clocks of network file systems differ a little
# engines that write in the background, each file when its turn comes
_IN_ANY_ORDER = ("nebula", "datastates_ckpt")

Dated = tuple[str, int, int | None]  # a file's name, when it was written (ns), and the step in it


def optimizer_step(content: TorchZip, tree: object) -> int | None:
    """The most steps that any parameter of the optimizer in a shard's tree has taken, None if it does not say."""
    found: list[int] = []
    for value in _counts(tree.get(_OPTIMIZER) if isinstance(tree, dict) else None, _MAX_DEPTH):
        number = _whole(content, value)
        if number is not None:
            found.append(number)
        if len(found) == _MOST:
            break
    return max(found, default=None)


def _counts(value: object, depth: int) -> Iterator[object]:
    if isinstance(value, dict):
        yield from (dict.get(value, key) for key in _COUNTS)
        inner = list(dict.values(value))
    else:
        inner = value if isinstance(value, list) else []
    for item in inner if depth else ():
        yield from _counts(item, depth - 1)


def _whole(content: TorchZip, value: object) -> int | None:
    """A count: a number of Python's, or of a tensor, which torch's optimizers keep as a float."""
    if type(value) is int:
        return value
    if not isinstance(value, PickledTensor) or prod(value.shape) != 1 or value.dtype not in DTYPES:
        return None
    offset = storages.first_byte(value, content.place)
    if offset is None:
        return None
    dtype = DTYPES[value.dtype]
    bits = np.frombuffer(content.file.read(offset, dtype.itemsize), dtype=dtype.bits)
    if not dtype.linear:
        return int(bits[0])
    wide = np.empty(1)
    widen(bits, value.dtype, wide)
    return int(wide[0]) if isfinite(wide[0]) else None


def check_one_save(states: Sequence[Dated], shards: Sequence[Dated], config: object) -> None:
    """Compare steps and times of the files.

    Args:
        states: the model states.
        shards: the optimizer's.
        config: of the training, as it stands in the model states.

    Raises:
        IncompleteCheckpoint: two are of different saves, and what shows it.
    """
    for files, what in ((states, "is of step"), (shards, "has an optimizer at step")):
        steps = {step: name for name, _, step in files if step is not None}
        if len(steps) > 1:
            old, new = min(steps), max(steps)
            raise IncompleteCheckpoint(
                f"{steps[old]} {what} {old}, {steps[new]} {what} {new}: the folder is being written again"
            )
    if _in_any_order(config):
        return
    oldest, newest = min(shards, key=lambda each: each[1]), max(states, key=lambda each: each[1])
    if oldest[1] + _SAME_SAVE_NS < newest[1]:
        raise IncompleteCheckpoint(
            f"{oldest[0]} is older than {newest[0]}, which is written before it: the folder is being written again (if it is a "
            "copy that lost its times: touch *_optim_states.pt)"
        )


def _in_any_order(config: object) -> bool:
    if not isinstance(config, dict):
        return False
    checkpoint = dict.get(config, "checkpoint")
    return any(key in config for key in _IN_ANY_ORDER) or (isinstance(checkpoint, dict) and "writer" in checkpoint)
