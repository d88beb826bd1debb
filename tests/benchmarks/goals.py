"""Goals of a benchmark: what was measured, what it may be, and whether it is."""

from __future__ import annotations


def judge(what: str, value: float, most: float, unit: str) -> bool:
    """Print a figure next to its limit; returns whether it holds.

    Args:
        what: the figure in words.
        value: as measured.
        most: the largest value that is allowed.
        unit: of both.
    """
    met = value <= most
    print(f"{'met   ' if met else 'MISSED'} {what}: {value:.3f} {unit}, at most {most:g}")
    return met
