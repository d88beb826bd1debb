import math

from rich.text import Text

from rna_watch.dashboard.coefficients import BROKEN, bars, numbers, signed


def test_negative_weights_have_another_form():
    """Positive weights stand, negative ones point down, zero is a dot: it reads without colour."""
    drawn = bars([0.0, 0.5, -0.1, -0.4, 1.0])
    assert drawn.plain == "·▄▾▾▇"
    assert bars([-1.0, 1.0]).plain == "▼▇"
    assert {drawn.plain[span.start] for span in drawn.spans if span.style == "magenta"} == {"▾"}


def test_long_and_broken_weights_stay_small():
    """The newest of many weights are shown, and a weight that is no number is a cross."""
    assert bars([0.1] * 30).plain == "…" + "▇" * 12
    assert bars([math.nan, 1.0]).plain == f"{BROKEN}▇"
    assert bars([]) == Text()
    assert bars([0.0, 0.0]).plain == "··"


def test_weights_in_digits_begin_with_the_first_that_counts():
    """The oldest input's weight of zero is not written."""
    assert numbers([0.0, -0.25, 1.25]).plain == "-0.25  1.25"
    assert numbers([0.0]).plain == ""


def test_signed_bars_grow_from_the_middle():
    """A negative weight's bar goes to the left, a positive one's to the right, and the smallest weight is still seen."""
    drawn = [signed(weight, 0.8, 9).plain for weight in (0.8, -0.4, 0.001, 0.0, math.nan)]
    assert drawn == ["    │━━━━", "  ━━│    ", "    │━   ", "    │    ", f"    {BROKEN}    "]
