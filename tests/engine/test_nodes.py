"""What nodes are asked, which of them are used, and which does which part of the plan."""

import os
import signal
import subprocess
import sys

import pytest

from rna_watch.engine import nodes, ranges, whole
from rna_watch.engine.nodes import Nonce
from rna_watch.window import tasks_plan
from rna_watch.window.combine import Combination

from . import windows


def test_a_node_that_is_like_this_machine_can_be_used(tmp_path):
    """Asked here, it has the same versions and sees the same files."""
    nonce, file = tmp_path / "nodes", tmp_path / "epoch_1.pt"
    nonce.write_text("abc")
    file.write_text("weights")
    found = nodes.report((str(file),), str(nonce))
    assert set(found["versions"]) == {"Python", "numpy", "threadpoolctl", "torch"}
    assert nodes.why_not(nodes.report((str(file),)), found, Nonce(path=str(nonce), text="abc")) == ""


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"versions": {"Python": "3.11.7", "threadpoolctl": "3"}}, "it lacks numpy"),
        (
            {"versions": {"Python": "3.11.7", "numpy": "2.4.5", "threadpoolctl": "3"}},
            "it has numpy 2.4.5, and this machine has 2.4.6",
        ),
        ({"nonce": ""}, "it does not see /runs/a/.rna-watch"),
        ({"files": {"/runs/a/1.pt": ()}}, "it does not see /runs/a/1.pt as this machine does"),
    ],
)
def test_a_node_that_differs_is_left_out_with_the_reason(change, why):
    """A library that is not there, another version (both are told), a folder or a file that is not seen."""
    here = {
        "versions": {"Python": "3.11.7", "numpy": "2.4.6", "threadpoolctl": "3", "torch": "2"},
        "nonce": "abc",
        "files": {"/runs/a/1.pt": (1, 2, 3)},
    }
    nonce = Nonce(path="/runs/a/.rna-watch/nodes", text="abc")
    assert nodes.why_not(here, here, nonce) == ""
    assert nodes.why_not(here, here | change, nonce) == why


def test_workers_are_shared_by_cpus_and_stay_where_they_were():
    """A node that is lost leaves its ranges to others, which keep theirs; one that comes takes its share back."""
    assert ranges.slots({"a": 2, "b": 2}, 4) == ["a", "a", "b", "b"]
    assert ranges.slots({"a": 1, "b": 3}, 4) == ["a", "b", "b", "b"]
    assert ranges.slots({"a": 8, "b": 8}, 1) == ["a"]
    assert ranges.slots({"a": 8, "b": 8}, 1, ["b"]) == ["b"]
    before = ["a", "b", "c", "d"]
    assert ranges.slots({"a": 1, "b": 1, "d": 1}, 4, before) == ["a", "b", "a", "d"]
    assert ranges.slots({"a": 1, "b": 1, "d": 1, "e": 1}, 4, ["a", "b", "a", "d"]) == ["a", "b", "e", "d"]
    assert ranges.slots({"a": 1}, 3, before) == ["a", "a", "a"]


def test_a_range_belongs_to_one_node_in_the_gram_pass_and_in_the_combination(layouts):
    """What a node has read of the newest checkpoint in one, it reads in the other: most bytes come over the network once."""
    gram = tasks_plan.gram_tasks(layouts, 3, windows.BUDGET_MIB)
    combination = Combination(layouts=layouts, weights=windows.WEIGHTS)
    combine = tasks_plan.combine_tasks(combination, combination.segments(2000), ("/out",))
    workers = ["a", "a", "b", "b"]

    def read(work):
        found = {}
        for task, node in zip(work, ranges.owners(ranges.positions(work), workers), strict=True):
            for segment in task.segments:
                for file, offset, count in segment.places[len(layouts) - 1]:
                    found.setdefault(node, set()).update((file, offset + 4 * each) for each in range(count))
        return found

    one, other = read(gram), read(combine)
    assert set(one) == {"a", "b"}
    assert 0.4 < len(one["a"]) / (len(one["a"]) + len(one["b"])) < 0.6
    both = sum(len(one[node] & other[node]) for node in one)
    assert both >= 0.99 * sum(map(len, other.values()))


def test_a_session_is_ended_whole():
    """Children in groups of their own, and those whose parent is gone, end with it."""
    code = (
        "import os, subprocess, sys\n"
        "child = subprocess.Popen(['sh', '-c', 'sleep 1000 & echo $$; sleep 1000'], process_group=0)\n"
        "sys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    child = int(parent.stdout.readline())
    os.kill(child, signal.SIGKILL)
    assert len(whole.members(parent.pid)) >= 2
    whole.end(parent.pid)
    parent.communicate()
    assert whole.members(parent.pid) == []
