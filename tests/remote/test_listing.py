"""Checkpoints in a listing: what the scan of a folder would find, and nothing that only looks like a path."""

from __future__ import annotations

import pytest

from rna_watch.remote.listing import checkpoints
from rna_watch.remote.store import Object


def _listed(*names: str) -> dict[str, Object]:
    return {
        name: Object(name=name, size_bytes=10, version=str(number), changed_s=float(number))
        for number, name in enumerate(names)
    }


def test_files_and_folders_are_checkpoints_as_they_are_on_a_disk() -> None:
    """A folder comes with all of its files, but for what only the trainer reads; oldest first."""
    folder = ("model.safetensors", "config.json", "optimizer.pt", "scheduler.pt", "trainer_state.json")
    found = checkpoints(
        _listed(
            *(f"checkpoint-10/{name}" for name in folder),
            "epoch_1.pt",
            "train.log",
            "data/train.parquet",
            "dcp/step-3/.metadata",
            "dcp/step-3/__0_0.distcp",
            "rna/epoch_1.pt",
        )
    )
    assert [each.name for each in found] == ["checkpoint-10", "epoch_1.pt", "dcp/step-3"]
    assert [one.name.rpartition("/")[2] for one in found[0].objects] == [
        name for name in folder if name != "optimizer.pt"
    ]
    assert [one.name for one in found[2].objects] == ["dcp/step-3/.metadata", "dcp/step-3/__0_0.distcp"]


def test_what_is_written_anew_is_another_version() -> None:
    """The version of a checkpoint follows those of its objects."""
    before, after = _listed("last.pt"), _listed("first", "last.pt")
    assert checkpoints(before)[0].version != checkpoints(after)[0].version


@pytest.mark.parametrize(
    "name", ["../a.pt", "a/../../b.pt", "/etc/a.pt", "a//b.pt", ".hidden/a.pt", "a\0.pt", "./a.pt"]
)
def test_names_that_would_lead_elsewhere_are_left_alone(name: str) -> None:
    """Others can write to a store: what is no plain path below ours is none of our checkpoints."""
    assert checkpoints(_listed(name)) == []


def test_patterns_choose() -> None:
    """The setting `patterns` means what it means for a folder."""
    assert [each.name for each in checkpoints(_listed("a.bin", "b.model"), ["*.model"])] == ["b.model"]
