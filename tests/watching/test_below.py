"""What counts as a run below a folder is told by what lies there, for all of them together."""

from __future__ import annotations

import pytest

from rna_watch.watching.below import runs_below
from rna_watch.watching.reading import Reading


def _below(*names: str, globs: tuple[str, ...] = (), before: tuple[str, ...] = ()) -> list[str]:
    given = dict.fromkeys(names, 0)
    reading = Reading()
    reading.update(given, given)
    return [run.folder for run in runs_below(given, reading, globs=globs, before=before)]


def _steps(folder: str, count: int = 3) -> list[str]:
    return [f"{folder}/step_{step}.pt" for step in range(1, count + 1)]


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ([*_steps("lr1"), *_steps("lr2")], ["lr1", "lr2"]),
        ([*_steps("lr1/checkpoints"), *_steps("lr2/checkpoints")], ["lr1", "lr2"]),
        ([*_steps("a/seed_1"), *_steps("a/seed_2"), *_steps("b/seed_1")], ["a/seed_1", "a/seed_2", "b/seed_1"]),
        (_steps("lr1/checkpoints"), ["lr1"]),
        (_steps("baseline"), ["baseline"]),
        ([*_steps("baseline"), *_steps("ablation")], ["ablation", "baseline"]),
        ([*_steps("gan/generator"), *_steps("gan/discriminator")], ["gan"]),
        ([*_steps("lr1"), "lr1/best/model.pt", *_steps("lr2")], ["lr1", "lr2"]),
        (["run_1/last.pt"], ["run_1"]),
        (["pretrained/resnet50.pth", *_steps("lr1")], ["lr1"]),
        ([*_steps("lr1"), "step_1.pt", "step_2.pt"], ["lr1"]),
        (["checkpoint-100/model.safetensors", "checkpoint-200/model.safetensors"], []),
        ([], []),
    ],
)  # fmt: skip
def test_runs_are_told_by_what_lies_in_the_folders(names: list[str], found: list[str]) -> None:
    """Sequences, siblings that differ as runs do, and names of runs; parts of a run and single files are none."""
    assert _below(*names) == found


def test_what_was_watched_before_stays_a_run() -> None:
    """Whatever the evidence says later; nothing above or below it is another one."""
    names = [*_steps("a/version_0/checkpoints"), *_steps("a/version_1/checkpoints")]
    assert _below(*names) == ["a/version_0", "a/version_1"]
    assert _below(*names, before=("a/version_0/checkpoints",)) == ["a/version_0/checkpoints", "a/version_1"]
    assert _below("x/one.pt", before=("x",)) == ["x"]
    assert _below(*names, before=("a",)) == ["a"]


def test_a_pattern_says_what_is_a_run() -> None:
    """A star stays between slashes, and of folders in each other the outermost is meant."""
    names = [*_steps("lr1/seed_1"), *_steps("lr1/seed_2"), *_steps("lr2/seed_1"), "other/model.pt"]
    assert _below(*names, globs=("lr*",)) == ["lr1", "lr2"]
    assert _below(*names, globs=("lr1/seed*",)) == ["lr1/seed_1", "lr1/seed_2"]
    assert _below(*names, globs=("*/seed_1", "other", "lr1")) == ["lr1", "lr2/seed_1", "other"]
    assert _below(*names, globs=("seed*",)) == []
