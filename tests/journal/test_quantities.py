import math

import pytest

from rna_watch.journal.quantities import NOTHING, age, duration, gain, number, places, plain, size


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (44_700_000, "44.7 MB"),
        (999_960_000, "1.00 GB"),
        (3e17, "300 PB"),
    ],
)
def test_bytes_have_three_digits_and_a_unit(count, words):
    """A number of bytes is short enough to read at a glance, also next to the border of two units."""
    assert size(count) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-3, "0.0 s"),
        (0.31, "0.3 s"),
        (9.96, "10 s"),
        (59.6, "1 min"),
        (200, "3 min 20 s"),
        (8040, "2 h 14 min"),
        (273_600, "3 d 4 h"),
        (math.inf, "?"),
    ],
)
def test_durations_have_two_units(seconds, words):
    """A duration is shown in its two largest units."""
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(-5, "0 s"), (59.9, "59 s"), (61, "1 min"), (7300, "2 h"), (1e6, "11 d")]
)
def test_ages_have_one_unit(seconds, words):
    """An age has one whole unit, and a clock that is ahead of ours makes none negative."""
    assert age(seconds) == words


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([0.0522, 0.0401], ["0.0522", "0.0401"]),
        ([2.3014, 11.5], ["2.3014", "11.5000"]),
        ([93.214, 94.1], ["93.214", "94.100"]),
        ([1234.5678], ["1234.6"]),
        ([0.00052], ["0.000520"]),
        ([1e-7, 2e-7], ["1.00e-07", "2.00e-07"]),
        ([0.05, 0.06, 1e30], ["0.0500", "0.0600", "1.00e+30"]),
        ([0.05, 1e-9], ["0.0500", "1.00e-09"]),
        ([0.05, math.nan, math.inf, -math.inf, None, 0.0], ["0.0500", "nan", "inf", "-inf", NOTHING, "0.0000"]),
        ([], []),
    ],
)
def test_metrics_of_one_column_share_their_decimals(values, texts):
    """Metrics that are shown together have the same decimals, and what is out of their range stays recognizable."""
    decimals = places(values)
    assert [number(value, decimals) for value in values] == texts


@pytest.mark.parametrize(
    ("original", "ours", "mode", "text"),
    [
        (0.05, 0.04, "min", "+20.0%"),
        (0.05, 0.06, "min", "-20.0%"),
        (0.90, 0.99, "max", "+10.0%"),
        (-2.0, -1.0, "max", "+50.0%"),
        (0.05, 0.05, "min", "0.0%"),
        (1e-3, 1.0, "max", ">+999%"),
        (0.0, 0.1, "min", ""),
        (None, 0.1, "min", ""),
        (math.nan, 0.1, "min", ""),
        (math.inf, 0.1, "min", ""),
        (0.1, 0.1, None, ""),
    ],
)
def test_gain_points_to_the_better_side(original, ours, mode, text):
    """A gain is positive where ours is better, in whichever direction that lies, and absent where it means nothing."""
    assert gain(original, ours, mode) == text


def test_foreign_text_cannot_command_the_terminal():
    """Escape codes, line ends and bytes that are no text are made harmless, and what is left stays on one line."""
    assert plain("a\x1b[31mb\n c\t\udc80\u202e") == "a\ufffd[31mb c \ufffd\ufffd"
