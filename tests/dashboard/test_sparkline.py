import math

import pytest
from rich.text import Text

from rna_watch.dashboard.coefficients import bars, numbers
from rna_watch.dashboard.sparkline import BROKEN, common_scale, resample, sparkline


def test_strips_on_a_common_scale_are_comparable():
    """The same number has the same height in two strips that share their scale."""
    scale = common_scale([1, 2, 3], [3, 5, 7.9])
    assert sparkline([1, 2, 3], scale=scale, width=3) == ["▁▂▃"]
    assert sparkline([3, 5, 7.9], scale=scale, width=3) == ["▃▅█"]


def test_higher_strips_have_finer_steps():
    """Several rows give eight steps each, the lowest row last."""
    scale = common_scale([0.0, 15.0])
    assert sparkline([0, 7, 8, 15], scale=scale, width=4, rows=2) == ["  ▁█", "▁███"]


def test_a_wide_range_is_logarithmic():
    """Values over several orders of magnitude rise evenly, so that late small gains stay visible."""
    scale = common_scale([0.001, 0.01, 0.1, 1.0])
    assert scale.log
    assert sparkline([0.001, 0.01, 0.1, 1.0], scale=scale, width=4) == ["▁▃▆█"]
    assert not common_scale([-1.0, 100.0]).log


def test_gaps_and_broken_numbers_are_told_apart():
    """What is not known leaves a gap; what is no number is a cross; neither changes the scale."""
    scale = common_scale([1.0, None, math.nan, math.inf, 2.0])
    assert sparkline([1.0, None, math.nan, math.inf, 2.0], scale=scale, width=5) == [f"▁ {BROKEN}{BROKEN}█"]
    assert common_scale([None, math.nan]) is None


@pytest.mark.parametrize("values", [[5.0, 5.0], [-1.7e308, 1.7e308], [0.0, 5e-324]])
def test_extreme_scales_do_not_break(values):
    """Equal values, the largest and the smallest numbers have a height."""
    assert len(sparkline(values, scale=common_scale(values), width=2)[0]) == 2


@pytest.mark.parametrize(
    ("count", "width", "columns"), [(3, 10, 9), (3, 100, 12), (7, 10, 7), (1000, 40, 40), (0, 9, 0)]
)
def test_a_strip_fills_its_place(count, width, columns):
    """Few values are stretched, at most four times; many are averaged into the columns that there are."""
    assert len(resample([1.0] * count, width)) == columns


def test_a_bucket_is_the_mean_of_what_is_finite():
    """One iterate that diverged does not hide its neighbours when a long history is condensed."""
    assert resample([1.0, 3.0, math.inf, 5.0, None, None, math.nan, None], 4) == [
        2.0,
        5.0,
        None,
        pytest.approx(math.nan, nan_ok=True),
    ]


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
