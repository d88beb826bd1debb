"""Words that a pointer brings up over a picture: bands from top to bottom, each with a title, without a script."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

from rna_watch.exporters.markup import Markup, tag

if TYPE_CHECKING:
    from collections.abc import Sequence

_MOST = 250  # narrower bands than these nobody can point at


def hints(
    words: Sequence[str], places: Sequence[float], across: tuple[float, float], down: tuple[float, float]
) -> Markup:
    """The bands; of very many words, evenly spaced ones.

    Args:
        words: of each band.
        places: where each belongs, from left to right, in units of the picture.
        across: the left and the right end of the plot.
        down: its top and its bottom.
    """
    every = math.ceil(len(words) / _MOST) or 1
    words, places = words[::every], places[::every]
    edges = [across[0], *((a + b) / 2 for a, b in itertools.pairwise(places)), across[1]]
    bands = [
        tag("rect", tag("title", told), x=left, y=down[0], width=max(right - left, 0.1), height=down[1] - down[0])
        for told, left, right in zip(words, edges, edges[1:], strict=False)
    ]
    return tag("g", *bands, class_="hints")
