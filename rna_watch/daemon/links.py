"""The links of the output tree: `best` and `latest`, and the same for each further series."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rna_watch.journal.replay import RunState

_LONGEST_SERIES_BYTES = 150


def links(state: RunState) -> dict[str, str]:
    """The links of the output tree by name, and the output that each is to name."""
    newest = {state.series_of(each.checkpoint): each.output for each in state.outputs.values()}
    named = {link_name("latest", series, state): output for series, output in newest.items()}
    return named | {link_name("best", series, state): each.moved.output for series, each in state.bests.items()}


def link_name(role: str, series: str, state: RunState) -> str:
    """The name of the link to the best or latest model of a series: `best`, or `best.SERIES` for others than the first.

    Args:
        role: best or latest.
        series: the series.
        state: what the journal adds up to.
    """
    if series == state.series_of(state.first):
        return role
    plain = _plain(series)
    alike = [each for each in state.series() if _plain(each) == plain]
    if len(alike) > 1 or len(plain.encode()) > _LONGEST_SERIES_BYTES:
        told = hashlib.blake2b(series.encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()
        plain = f"{plain.encode()[:_LONGEST_SERIES_BYTES].decode(errors='ignore')}.{told}"
    return f"{role}.{plain}"


def _plain(series: str) -> str:
    return "".join(each if each.isprintable() and each != "/" else "_" for each in series)
