"""Neighbours in a window that are equal bit for bit: a checkpoint that repeats another is no further iterate."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from rna_watch.layout.layout import Role
from rna_watch.window.equality import same_values

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rna_watch.acceleration.residuals import Residuals
    from rna_watch.layout.layout import Layout


def repeats(layouts: Sequence[Layout], residuals: Residuals, proceed: Callable[[], None] = lambda: None) -> list[int]:
    """The numbers of the checkpoints whose combined tensors equal, bit for bit, those of the checkpoint before.

    Only a difference of norm 0 is looked at, so that nothing is read otherwise: it covers the parameters, and what is combined
    without being a part of the residuals (statistics) is compared then.

    Args:
        layouts: the layouts of the K checkpoints, oldest first.
        residuals: the window's residuals.
        proceed: called now and then while files are compared; it raises to give up.
    """
    pairs = enumerate(pairwise(layouts))
    still = [(n, pair) for n, pair in pairs if residuals.steps_nn[n, n] == 0.0]
    return [n + 1 for n, (older, newer) in still if same_values(older, newer, proceed, without=Role.COPIED)]
