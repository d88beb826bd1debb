"""Quantities as a person reads them: bytes, durations, metrics, and text from outside."""

from __future__ import annotations

import math
import statistics
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

NOTHING = "\N{EN DASH}"
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
_WIDEST = 9


def plain(text: str) -> str:
    """The text on one line, without anything that a terminal would obey.

    File names and messages of evaluators may hold escape codes, line ends, or bytes that are no text.
    """
    return printable(" ".join(text.split()))


def printable(text: str) -> str:
    """The text with every character replaced that a terminal would obey; spaces are kept."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def as_number(value: object) -> float:
    """A value of a journal as a float: infinite if it is an integer beyond any, NaN if it is no number."""
    if not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def size(count_bytes: float) -> str:
    """Bytes with three digits and a decimal unit: `44.7 MB`."""
    value = max(as_number(count_bytes), 0.0)
    if not math.isfinite(value):
        return "?"
    for unit in _UNITS:
        if value < 999.5 or unit == _UNITS[-1]:
            break
        value /= 1000
    digits = 0 if unit == "B" or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {unit}"


def counted(number: int, word: str) -> str:
    """A number of things: `1 tensor`, `1,024 tensors`."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """A duration in its two largest units: `0.3 s`, `3 min 20 s`, `2 h 14 min`, `3 d 4 h`."""
    seconds = as_number(seconds)
    if not math.isfinite(seconds):
        return "?"
    if seconds < 9.95:
        return f"{max(seconds, 0.0):.1f} s"
    whole = round(seconds)
    for unit, name, smaller, smaller_name in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= unit:
            rest = whole % unit // smaller
            return f"{whole // unit} {name} {rest} {smaller_name}" if rest else f"{whole // unit} {name}"
    return f"{whole} s"


def age(seconds: float) -> str:
    """An age in one whole unit, so that it does not flicker: `12 s`, `3 min`, `2 h`, `5 d`."""
    seconds = as_number(seconds)
    if not math.isfinite(seconds):
        return "?"
    whole = int(max(seconds, 0.0))
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if whole >= unit:
            return f"{whole // unit} {name}"
    return f"{whole} s"


def places(values: Iterable[float | None]) -> int | None:
    """The number of decimals that suits all these numbers; None if only powers of ten do.

    The median decides, so that one diverged iterate does not cost all others their digits.
    """
    sizes = [abs(value) for value in map(as_number, values) if math.isfinite(value) and value]
    if not sizes:
        return 4
    middle = min(statistics.median(sizes), sys.float_info.max)  # of two of the largest numbers there is none
    exponent = math.floor(math.log10(middle))
    if not -4 <= exponent <= 6:
        return None
    return max(4 - exponent, 0) if exponent >= 0 else max(2 - exponent, 4)


def number(value: float | None, decimals: int | None) -> str:
    """A metric with so many decimals, or with a power of ten if it would not fit or would look like zero."""
    if value is None:
        return NOTHING
    value = as_number(value)
    if not math.isfinite(value):
        return str(float(value))
    fixed = f"{value:.{decimals}f}" if decimals is not None else ""
    if not fixed or len(fixed) > _WIDEST or (value and not float(fixed)):
        return f"{value:.2e}" if value else "0"
    return fixed


def gain(original: float | None, ours: float | None, mode: str | None) -> str:
    """The gain of our value over the original's, relative to it: `+23.2%`; negative if worse, empty if unknown.

    Args:
        original: the original's value.
        ours: our value.
        mode: min or max; None if it is not known.
    """
    original, ours = as_number(original), as_number(ours)
    if not (math.isfinite(original) and math.isfinite(ours)) or mode not in {"min", "max"} or not original:
        return ""
    share = (original - ours if mode == "min" else ours - original) / abs(original)
    if not math.isfinite(share):
        return ""
    if abs(share) >= 9.995:
        return ">+999%" if share > 0 else "<-999%"
    return f"{share:+.1%}" if abs(share) >= 0.0005 else "0.0%"
