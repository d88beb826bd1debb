import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from rna_watch.comparison.comparison import compare
from rna_watch.comparison.tables import decimals_of, render, thinned

from .run_of import Run, usual_run


def page(run, width=80, *, members=False, given=None, metric=None, colour=False):
    """The page's lines, as a console with or without colour prints them."""
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=colour, color_system="standard" if colour else None)
    comparison = compare(run.state, metric=metric, given=given)
    console.print(render(comparison, width=width, members=members, colour=colour))
    return file.getvalue().split("\n")[:-1]


def test_eighty_columns():
    """The whole page of a small run: every line is whole, the best are starred, what was not evaluated is a dash."""
    run = Run().checkpoint(1, {"last": {"error": 20.0, "test_error": 21.0}})
    for step, (last, average, rna) in enumerate([(12.5, 8.0, 9.0), (9.0, 7.25, 7.25), (6.0, 7.0, 6.5)], 3):
        values = {"last": last, f"average-{step - 1}": average, f"rna-{step - 1}-1e-08": rna}
        run.checkpoint(
            step,
            {name: {"error": value, "test_error": value + 1} for name, value in values.items()},
            chosen=f"average-{step - 1}" if average <= rna else f"rna-{step - 1}-1e-08",
            better=min(average, rna) < last,
            significant=step == 3,
            residuals=step - 1,
        )
    assert [line.rstrip() for line in page(run, given=[10, 8, 5], metric="test_error")] == EIGHTY.strip("\n").split(
        "\n"
    )


EIGHTY = """
── runs/cifar10-resnet18 ────────────── 4 checkpoints evaluated, epoch 1 to 5 ──
Models were chosen by error (lower is better); shown is test_error (lower is
better), which chose nothing: the numbers are honest if it is measured on other
data.

── test_error at each epoch ───────────────────────────────────────── best: * ──
epoch original  average    RNA  average-4  rna-4-1e-08  chosen  which
    1    21.00        -      -          -            -   21.00  original
    3    13.50     9.00* 10.00       9.00*       10.00    9.00* average-2
    4    10.00     8.25*  8.25*      8.25*        8.25*   8.25* average-3
    5     7.00*    8.00   7.50       8.00         7.50    7.00* original
average and RNA: the best of the kind by error, picked at each checkpoint.
average-4, rna-4-1e-08: always the same recipe, over all there is while windows
are shorter.

── first epoch with test_error ≤ ─────────────── (speed-up over the original) ──
                   10         8      5
original            4         5  never
best average 3 (1.33)* 5 (1.00)  never
best RNA     3 (1.33)* 5 (1.00)  never
average-4    3 (1.33)* 5 (1.00)  never
rna-4-1e-08  3 (1.33)* 5 (1.00)  never
chosen       3 (1.33)* 5 (1.00)  never

── findings ────────────────────────────────────────────────────────────────────
- Best at a checkpoint, of 3 (a tie counts for each): original 1, best average
  2, best RNA 1.
- Where RNA loses: the best average was at least as good as the best RNA at 2 of
  3 checkpoints (better at 1, equal at 1).
- The original was better than everything else at 1 of 3 (epoch 5).
- As fixed recipes, average-4 was at least as good as rna-4-1e-08 at 2 of 3
  (better at 1, equal at 1).
- A model was taken instead of the original at 2 of 3; its gain was beyond noise
  at 1, within noise at 1.
- By test_error, what was taken was worse than the original at 0 of 2.
"""


@pytest.mark.parametrize("width", [24, 40, 60, 80, 120, 200])
@pytest.mark.parametrize("members", [False, True])
def test_no_line_is_wider_than_the_terminal(width, members):
    """Columns leave and tables break, but nothing wraps; what left is named."""
    lines = page(usual_run(30), width, members=members, given=[20, 15, 10, 5, 4, 3, 2, 1])
    assert max(map(cell_len, lines)) <= width
    assert ("No room here for:" in " ".join(lines)) == (width < 80)


def test_colour_takes_the_place_of_the_stars():
    """The best are bold and green if the terminal has colours, and no star stands next to them."""
    text = "\n".join(page(usual_run(), colour=True))
    assert "\x1b[1;32m" in text
    assert "*" not in text


def test_long_runs_are_thinned_evenly_and_end_with_the_last():
    """At most twenty rows, the first and the last among them."""
    for count in (1, 19, 20, 21, 22, 39, 40, 100, 1001):
        rows = thinned(list(range(count)))
        assert len(rows) <= 20
        assert (rows[0], rows[-1]) == (0, count - 1)
    assert "of 64; --json has all" in "\n".join(page(usual_run(64)))


def test_numbers_have_as_few_decimals_as_they_need():
    """Quarters of a percent have two, whatever rounding left behind; a diverged metric has powers of ten."""
    assert decimals_of([46.0, 1.75, 3.5000000000000004, None]) == 2
    assert decimals_of([0.123456, 0.2]) == 4
    assert decimals_of([1e12, 3e13]) is None


def test_members_have_tables_of_their_own():
    """Every recipe at most checkpoints has a column, and a row among the levels."""
    lines = page(usual_run(), members=True)
    assert sum("average-2" in line for line in lines) >= 2
    assert not any(line.startswith("average-2") for line in page(usual_run()))


def test_an_original_that_never_improved_has_no_levels_of_its_own():
    """The page says so, and how to name some."""
    run = Run().checkpoint(3, {"last": 3.0, "average-2": 2.0}).checkpoint(4, {"last": 4.0, "average-2": 2.0})
    text = "\n".join(page(run))
    assert "name levels with --levels" in text
    assert "2.5" in "\n".join(page(run, given=[2.5]))


def test_names_cannot_command_the_terminal():
    """Candidates and metrics are other people's words: escape codes do not reach the screen."""
    run = Run(metric="err\x1b[2J").checkpoint(
        3, {"last": 3.0, "odd\x1b[31m-2": 2.0}, chosen="odd\x1b[31m-2", better=True
    )
    assert "\x1b" not in "\n".join(page(run, members=True))
