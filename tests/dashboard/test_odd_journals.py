"""Whatever a journal holds, it can be shown: metrics beyond all range, of no number, and texts of no sense."""

import io
import json
import math
import zlib

import pytest
from rich.console import Console

from rna_watch.dashboard.view import render
from rna_watch.journal import events as e
from rna_watch.journal.log import decode, encode
from rna_watch.journal.replay import replay
from rna_watch.journal.standing import standing
from rna_watch.journal.status import Status
from rna_watch.journal.words import describe

from .run_builder import WEIGHTS, RunBuilder

ODD = (-1e308, 1e308, math.nan, math.inf, -math.inf, 10**400, -(10**400), 5e-324, "text", [1], {}, True)


@pytest.mark.parametrize("value", ODD, ids=lambda value: repr(value)[:8])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_odd_metrics_are_shown_somehow(value, mode):
    """Each event has its line, the frame is drawn, and what is best is told, as they come back from the file."""
    run = RunBuilder(mode=mode)
    for step in (1, 2, 3):
        run.admit(step).measure(step)
        for candidate, metric in (("last", value), ("rna-5-1e-08", 0.5), ("average-3", value)):
            run.evaluate(step, candidate, metric)
        run.choose(step, original=0.5, average=0.4, rna=0.3, weights=WEIGHTS[0])
        chosen = run.events[-1]
        object.__setattr__(chosen, "metrics", {key: {"error": value} for key in chosen.metrics})
        run.publish(step).add(e.BestMoved(checkpoint=f"epoch_{step:03}.pt", output=f"epoch_{step:03}.pt", value=value))
    events = [decode(encode(event)) for event in run.events]
    state = replay(events)
    for event in events:
        assert "cannot be shown" not in (describe(event, state) or "")
        describe(event)
    file = io.StringIO()
    console = Console(file=file, width=120, force_terminal=False)
    console.print(render(state, Status(), now=run.now, width=120, height=60, best=standing(state)))
    assert "epoch_003.pt" in file.getvalue()


def test_an_event_that_no_line_can_be_made_of_has_one_all_the_same():
    """Fields of other types than they should be: a line says that it cannot be shown, and nothing is raised."""
    fields = {
        "checkpoint": 7,
        "residuals": None,
        "rows": [],
        "rounding_energy": "x",
        "read_bytes": {},
        "seconds": "long",
    }
    event = e.Measured(**fields)
    body = json.dumps({"v": 1, "kind": "measured", "time": 1.0, "seq": 1} | fields, separators=(",", ":"))
    assert decode(f'{body[:-1]},"crc":{zlib.crc32(body.encode())}}}\n'.encode()) is None, "it is left out on reading"
    assert describe(event) == "an event of the kind measured cannot be shown (TypeError)"
