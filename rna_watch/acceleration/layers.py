"""Layers: a row of weights for each tensor, and what the rows come to for the whole model.

Letters: K checkpoints, L tensors with a row of their own, n_l elements of tensor l.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping


def spread(rows: Mapping[str, tuple[float, ...]], counts: Mapping[str, int]) -> tuple[float, ...]:
    """How far each checkpoint's weight goes from tensor to tensor: its standard deviation over elements, `(K,)`.

    Args:
        rows: L rows of K weights, by the name of a tensor.
        counts: n_l by name.
    """
    if not rows:
        return ()
    values_lk = np.array(list(rows.values()))
    elements = np.array([counts[name] for name in rows], dtype=np.float64)
    share = elements / elements.sum()
    return tuple(float(value) for value in np.sqrt(share @ (values_lk - share @ values_lk) ** 2))
