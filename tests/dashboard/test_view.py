import io
import math
import re
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from rna_watch.dashboard.coefficients import BROKEN
from rna_watch.dashboard.picture import svg
from rna_watch.dashboard.view import render
from rna_watch.journal import events as e
from rna_watch.journal.heartbeat import Work
from rna_watch.journal.replay import RunState
from rna_watch.journal.standing import standing
from rna_watch.journal.status import Status

from . import states
from .run_builder import RunBuilder, evaluating, realistic_run


def frame(run, width, height=None, *, status=None, later=2.0, **more):
    """The frame's lines as a console without colour prints them; of a run that nobody watches, where nothing else is said."""
    file = io.StringIO()
    console = Console(file=file, width=width, height=height or 100, force_terminal=False, color_system=None)
    status = status or Status(last_sign=run.now)
    best = standing(run.state)
    console.print(render(run.state, status, now=run.now + later, width=width, height=height, best=best, **more))
    return file.getvalue().split("\n")[:-1]


def working(width, height=None, **more):
    """The frame of the realistic run while it evaluates."""
    run = realistic_run()
    return frame(run, width, height, status=run.status(work=evaluating(run)), **more)


@pytest.mark.parametrize("width", states.SIZES)
@pytest.mark.parametrize("name", states.NAMES)
def test_each_state_looks_as_it_should(name, width):
    """To the character: what a person sees in every state of a run, on a small, a usual and a wide terminal."""
    expected = (states.EXPECTED / f"{name}-{width}.txt").read_text()
    assert states.text(name, width) == expected, "python -m tests.dashboard.states writes what is drawn now"


def test_no_expected_text_is_left_over():
    """Every file of expected text belongs to a state."""
    known = {f"{name}-{width}.txt" for name in states.NAMES for width in states.SIZES}
    assert {file.name for file in states.EXPECTED.iterdir()} == known


def test_the_manual_shows_a_frame_that_is_drawn():
    """The page's example is the state of the tests."""
    page = Path(__file__).parents[2] / "docs" / "dashboard.md"
    assert f"```text\n{states.text('working', 80)}```" in page.read_text()


@pytest.mark.parametrize("width", range(60, 201, 7))
def test_the_answer_comes_first_at_every_width(width):
    """The best model's value, the original's and the gain are never cut away, nor is the screen ever too wide."""
    lines = working(width, 24)
    assert max(map(cell_len, lines)) <= width
    assert "0.0333" in lines[0]
    assert "+12.6%" in lines[0]
    assert "…" not in lines[0]


def test_nothing_is_told_by_colour_alone():
    """Without colour, the three lines of the chart, weights and verdicts differ by their form."""
    for name in ("working", "sorted", "runs"):
        file = io.StringIO()
        console = Console(file=file, width=120, height=100, force_terminal=True, color_system="standard", no_color=True)
        console.print(states.renderable(name, 120))
        shown = re.sub(r"\x1b\[[\d;]*m", "", file.getvalue())
        assert [line.rstrip() for line in shown.splitlines()] == states.text(name, 120).rstrip("\n").split("\n")
    text = states.text("working", 120)
    assert all(sample in text for sample in ("⠂⠂ original", "╴╴ average", "━━ chosen", "★"))


SIZES = [(20, 5), (40, 12), (79, 24), (80, 24), (100, 30), (120, 40), (159, 50), (160, 20), (200, 50), (250, 70)]


def awkward_runs():
    """Runs that could break a layout."""
    realistic = realistic_run()
    yield realistic, realistic.status(work=evaluating(realistic))
    yield RunBuilder(), Status()
    troubled = realistic_run()
    for key in "abcdef":
        troubled.add(e.Problem(key=key, what=f"{key} is full " * 30, remedy="make room " * 40))
    yield troubled, troubled.status(workers=40)
    foreign = RunBuilder(run="/データ/" + "長い名前" * 40, evaluator="python eval.py " * 20, metric="誤差\x1b[31m")
    for step in range(1, 40):
        foreign.admit(step, name=f"重み/第{step}世代\x1b[31m\n" + "x" * step)
        foreign.choose(
            step,
            name=foreign.events[-1].checkpoint,
            original=10.0**step,
            average=1.0,
            rna=-1e-300,
            weights=[0.1] * step,
        )
    yield (
        foreign,
        foreign.status(
            work=Work(checkpoint="重" * 60, stage="読" * 30, done=5, total=3, unit="bytes", since=foreign.now - 1e6)
        ),
    )


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_a_frame_never_exceeds_its_place(width, height):
    """Whatever a run holds, no line is too wide, there are not too many, and nothing in them commands the terminal."""
    for run, status in awkward_runs():
        lines = frame(run, width, height, status=status, hint="q leaves")
        assert len(lines) <= height
        assert max(cell_len(line) for line in lines) <= width
        assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("height", [16, 24, 40, 60])
def test_the_newest_rows_are_kept(height):
    """However low the terminal is, the newest checkpoint is visible."""
    for width in (80, 120, 200):
        assert any(" 25  ◑ epoch_025.pt" in line for line in working(width, height))


@pytest.mark.parametrize("width", [80, 120, 200])
def test_the_keys_stand_on_the_last_line(width):
    """A live frame fills the screen, so that its last line does not jump."""
    lines = working(width, 60, hint="q leaves")
    assert len(lines) == 60
    assert lines[-1].endswith("q leaves")


@pytest.mark.parametrize("width", [80, 120, 200])
def test_an_empty_run_says_what_it_waits_for(width):
    """The frame says what would be used, before the first checkpoint."""
    run = RunBuilder()
    text = " ".join("\n".join(frame(run, width, 24, status=run.status())).split())
    assert "● watching" in text
    assert "waiting for the first checkpoint" in text
    assert "No checkpoint yet. What a training writes below /scratch/runs/cifar10-resnet18 is used" in text


def test_a_run_that_nobody_watches_says_how_to_start():
    """The frame names the file that it waits for and the command that would make it, if there is no journal."""
    lines = frame(_Nothing(), 80, 24, waiting_for="/runs/a/.rna-watch/journal.jsonl")
    assert lines[1] == "rna-watch  ○ not running"
    assert "Waiting for /runs/a/.rna-watch/journal.jsonl" in lines
    assert "Start one with: rna-watch start RUN_DIR" in lines


class _Nothing:
    state = RunState()
    now = 0.0


@pytest.mark.parametrize("width", [80, 120, 200])
def test_a_problem_stands_on_top_with_its_remedy(width):
    """What a person has to solve comes first, whole, and not again among the events; once solved, it goes."""
    run = realistic_run()
    run.add(
        e.Problem(key="disk", what="only 1.2 GB is free on /scratch", remedy="make room there, or use --output DIR")
    )
    lines = frame(run, width, 40, status=run.status())
    assert lines[1:3] == [" ! only 1.2 GB is free on /scratch", "   → make room there, or use --output DIR"]
    assert "\n".join(lines).count("only 1.2 GB") == 1
    run.add(e.Solved(key="disk"))
    assert frame(run, width, 40, status=run.status())[1].startswith("rna-watch")


def test_many_problems_leave_room_for_the_run():
    """As many problems are shown as fit a third of the screen, and the rest are counted."""
    run = realistic_run()
    for key in range(9):
        run.add(e.Problem(key=str(key), what=f"what {key}", remedy=f"remedy {key}"))
    lines = frame(run, 80, 24)
    assert lines[7] == "   and 6 more: rna-watch status"
    assert any("epoch_025.pt" in line for line in lines)


def test_a_daemon_that_is_gone_left_work_behind():
    """A daemon that was killed differs from one that works, and what it left unfinished is counted."""
    run = realistic_run()
    alive = frame(run, 120, 40, status=run.status(work=evaluating(run)))
    dead = frame(run, 120, 40, status=Status(last_sign=run.now), later=329)
    assert "● working" in alive[1]
    assert "✗ not running  last sign of life 5 min ago" in dead[1]
    text = "\n".join(dead)
    assert "1 checkpoint is not finished; rna-watch start continues there" in text
    assert "4 of 12 models" not in text
    assert "reader 1" not in text


def test_a_silent_daemon_is_no_living_one():
    """A process that has the run and gives no sign of life shows red, and for how long; its work is not known."""
    run = realistic_run()
    status = Status(state="silent", since=run.now - 999, last_sign=run.now)
    _, line, *rest = frame(run, 120, 40, status=status, later=70)
    assert "✗ silent  no sign of life for 1 min" in line
    assert "reader 1" not in "\n".join(rest)


def test_a_daemon_that_has_only_taken_the_run_is_starting():
    """The frame only says that the daemon begins before its first event, not how to start another."""
    text = "\n".join(frame(_Nothing(), 80, 24, status=Status(state="starting"), waiting_for="journal.jsonl"))
    assert "◌ starting" in text
    assert "rna-watch start" not in text


def test_a_stopped_run_says_why():
    """An orderly end is reported with its reason and how long the run was watched."""
    run = realistic_run()
    run.add(e.Stopped(reason="rna-watch stop"))
    line = frame(run, 120, 40, status=Status(last_sign=run.now, ended="rna-watch stop"), later=9000)[1]
    assert "■ not running  stopped: rna-watch stop" in line
    assert "ran 1 h 10 min" in line


def test_without_an_evaluator_the_frame_says_so():
    """Nothing pretends to be measured: the columns of metrics are gone and the option is named."""
    run = RunBuilder(evaluator=None, metric=None)
    for step in (1, 2, 3):
        run.admit(step)
    run.choose(3, original=None, average=None, rna=None, weights=[0, -0.5, 1.5], candidate="rna-2-1e-08").publish(3)
    lines = frame(run, 80, 24, status=run.status())
    assert lines[0] == "1 model made, none tested: add --evaluator FILE.py:function"
    assert any(line.split() == ["step", "checkpoint", "stage", "model", "weights"] for line in lines)
    row = next(line for line in lines if "  3  ✓" in line)
    assert row.split() == ["3", "✓", "epoch_003.pt", "published", "rna-2-1e-08", "·▾▇", "-0.50", "1.50"]


@pytest.mark.parametrize("width", [80, 120, 200])
def test_numbers_that_are_none_do_not_break(width):
    """NaN, infinity, zero and absent metrics are shown as what they are."""
    run = RunBuilder()
    for step, (original, average, rna) in enumerate(
        [(math.nan, 0.5, 0.4), (math.inf, -math.inf, math.nan), (0.5, None, None), (None, 0.3, 0.2), (0.0, 0.0, 0.0)], 1
    ):
        run.admit(step).choose(step, original=original, average=average, rna=rna, weights=[0, math.nan, math.inf])
    text = "\n".join(frame(run, width, 40, status=run.status()))
    assert " nan " in text
    assert " inf " in text
    assert "-inf" not in next(line for line in text.split("\n") if "epoch_001.pt" in line)
    assert 2 * BROKEN in text


def test_the_verdict_reads_without_colour():
    """Better, within noise and not better have their own marks."""
    run = RunBuilder()
    for step, (original, significant) in enumerate([(0.5, True), (0.5, False), (0.3, True), (0.5, None)], 1):
        run.admit(step).choose(step, original=original, average=0.45, rna=0.4, weights=[0, 1], significant=significant)
    rows = [line for line in frame(run, 100, 40) if "✓" in line or "◕" in line]
    marks = [next(mark for mark in "▲~=" if mark in row) for row in rows if "0.4000" in row]
    assert marks == ["▲", "~", "=", "▲"]
    assert "-33.3%" in rows[2]


def test_higher_is_better_where_the_metric_says_so():
    """The header says so in mode max, and a higher number is a gain."""
    run = RunBuilder(metric="accuracy", mode="max")
    run.admit(1).choose(1, original=0.8, average=0.85, rna=0.9, weights=[0, 1], candidate="average-1")
    text = "\n".join(frame(run, 100, 40))
    assert "judged by eval.py:evaluate" in text
    assert "+6.2%" in text


@pytest.mark.parametrize(
    ("work", "facts"),
    [
        (("measuring", 3_100_000_000, 5_000_000_000, "bytes", 10.0), " 62%  3.10 GB of 5.00 GB  258 MB/s  7.0 s left"),
        (("evaluating", 4, 12, "models", 10.0), " 33%  4 of 12 models  24 s left"),
        (("publishing", 0, 0, "bytes", 70.0), "publishing  epoch_025.pt  for 1 min 12 s"),
    ],
)
def test_long_work_shows_how_far_it_is(work, facts):
    """Work in hand shows its share, its amount, its rate and what is left; without a total, its time."""
    stage, done, total, unit, elapsed = work
    run = realistic_run()
    doing = Work(checkpoint="epoch_025.pt", stage=stage, done=done, total=total, unit=unit, since=run.now - elapsed)
    assert facts in "\n".join(frame(run, 120, 40, status=run.status(work=doing)))


def test_a_checkpoint_on_its_way_shows_each_step():
    """The steps behind, at hand and ahead differ by their marks."""
    run = RunBuilder().admit(1)
    stages = []
    stages.append(_pipeline(run))
    run.measure(1)
    stages.append(_pipeline(run))
    run.evaluate(1, "last", 0.5)
    stages.append(_pipeline(run))
    run.choose(1, original=0.5, average=0.45, rna=0.4, weights=[1.0])
    stages.append(_pipeline(run))
    assert stages == [
        "epoch_001.pt  ✓ complete ▸ measuring · evaluated · chosen · published",
        "epoch_001.pt  ✓ complete ✓ measured ▸ evaluating · chosen · published",
        "epoch_001.pt  ✓ complete ✓ measured ▸ evaluating 1 · chosen · published",
        "epoch_001.pt  ✓ complete ✓ measured ✓ evaluated ✓ chosen ▸ publishing",
    ]


def _pipeline(run):
    lines = frame(run, 100, 40, status=run.status())
    return lines[lines.index(next(line for line in lines if "── now" in line)) + 1]


def test_a_backlog_is_counted():
    """The first checkpoints of the queue are shown and the rest counted when training is faster than we are."""
    run = RunBuilder()
    for step in range(1, 10):
        run.admit(step)
    text = "\n".join(frame(run, 100, 24, status=run.status()))
    assert "all checkpoints" in text
    assert "0 of 9 done" in text
    assert "9 in work" in text


def test_files_that_are_no_checkpoints_do_not_fill_the_table():
    """A folder of refused files leaves the rows to the checkpoints; aliases have none."""
    run = RunBuilder().admit(1)
    run.add(e.Aliased(checkpoint="last.pt", of="epoch_001.pt"))
    for number in range(50):
        run.add(e.Refused(checkpoint=f"optimizer_{number}.pt", reason="it holds no model"))
    lines = frame(run, 80, 24)
    assert sum("✗ optimizer" in line for line in lines) == 3
    assert any("epoch_001.pt" in line for line in lines)
    assert not any("last.pt" in line for line in lines)
    assert any("51 seen · 1 in work · 50 not usable" in line for line in lines)


@pytest.mark.slow
def test_a_frame_of_a_long_run_is_quick():
    """Ten thousand checkpoints do not make a frame slow: only what is shown is rendered."""
    run = realistic_run(10_000)
    state, status = run.state, run.status(work=evaluating(run, 10_000))
    console = Console(file=io.StringIO(), width=200, height=50, force_terminal=True)
    times = []
    for _ in range(8):
        begun = time.perf_counter()
        console.print(render(state, status, now=run.now, width=200, height=50))
        times.append(time.perf_counter() - begun)
    assert min(times) < 0.05


def test_the_picture_stands_alone():
    """The SVG is well-formed, loads nothing from anywhere, and holds the frame's words, whatever the names contain."""
    run = realistic_run()
    run.admit(26, name="a<b>&\x1b[31m\"'.pt")
    picture = svg(run.state, run.status(work=evaluating(run)), now=run.now, width=120)
    words = " ".join(
        "".join(node.itertext()) for node in ET.fromstring(picture).iter("{http://www.w3.org/2000/svg}text")
    )
    assert "rna-watch\u00a0dashboard\u00a0/scratch/runs/cifar10-resnet18" in words
    assert "a<b>&\ufffd[31m\"'.pt" in words
    assert "epoch_024.pt" in words
    assert "url(" not in picture
    assert picture.count("http") == 1
    assert picture == svg(run.state, run.status(work=evaluating(run)), now=run.now, width=120)
