"""The keys: what each changes, on every screen."""

import pytest

from rna_watch.dashboard.look import DETAILS, HELP, KEYS, RUN, RUNS, Look, press


def after(*keys, look=None, runs=1, rows=30):
    """What is looked at after these keys."""
    look = look or Look()
    for key in keys:
        look = press(look, key, runs=runs, rows=rows)
    return look


def test_rows_are_gone_through_from_the_newest():
    """Up goes to older rows, down past the newest picks none, and the ends are the ends."""
    assert after("up").row == 0
    assert after("k", "up", "up").row == 2
    assert after("up", "down").row is None
    assert after("pgup", "pgup").row == 19
    assert after("home").row == 29
    assert after("home", "up").row == 29
    assert after("home", "G").row is None
    assert after("up", rows=0).row is None


def test_details_open_and_close():
    """Enter shows the picked row, or the newest; up and down go on there; Esc goes back."""
    assert after("\n") == Look(screen=DETAILS, row=0)
    assert after("up", "up", "\r") == Look(screen=DETAILS, row=1)
    assert after("\n", "up", "j", "j").row == 0
    assert after("up", "up", "\n", "esc") == Look(row=1)
    assert after("\n", rows=0) == Look()


def test_sorting_goes_round():
    """Step, value, gain, and step again."""
    assert [after(*"s" * count).order for count in range(4)] == ["step", "value", "gain", "step"]


def test_help_and_pause_are_everywhere():
    """Any key leaves the help; a pause ends by the same key."""
    for screen in (RUN, DETAILS, RUNS):
        look = Look(screen=screen, row=0)
        assert after("?", look=look, runs=3).screen == HELP
        assert after("p", look=look, runs=3).paused
        assert not after("p", " ", look=look, runs=3).paused
    assert after("h", "x").screen == RUN


def test_several_runs_are_gone_through():
    """In the list by arrows; from one run to the next by n; back to the list by Esc; a single run has no list."""
    at_list = Look(screen=RUNS)
    assert after("j", "down", look=at_list, runs=3).run == 2
    assert after("j", "j", "j", "up", look=at_list, runs=3).run == 1
    assert after("G", "home", look=at_list, runs=3).run == 0
    assert after("j", "\n", look=at_list, runs=3) == Look(run=1)
    assert after("n", "n", "n", look=Look(run=1, row=4), runs=3) == Look(run=1)
    assert after("esc", look=Look(run=1), runs=3) == Look(screen=RUNS, run=1)
    assert after("esc", "n") == Look()


@pytest.mark.parametrize("screen", [RUN, DETAILS, RUNS, HELP])
def test_other_keys_change_nothing_that_breaks(screen):
    """Whatever is typed, there is a screen, a run and a row that exist."""
    for key in map(chr, range(256)):
        look = after(key, look=Look(screen=screen, row=0), runs=2, rows=1)
        assert look.run in {0, 1}
        assert look.row in {0, None}


def test_every_key_of_the_help_does_something():
    """What the help names is not ignored."""
    names = {"↑": "up", "Enter": "\n", "PgUp": "pgup", "Home": "home", "Esc": "esc"}
    for keys, _ in KEYS:
        key = names.get(keys.split()[0], keys.split()[0])
        if key != "q":
            assert after(key, look=Look(run=1), runs=2) != Look(run=1)
