"""Stems, endings, natural order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rna_watch.watching import steps


def test_natural_order_counts() -> None:
    """epoch_9 comes before epoch_10, and names without numbers in the order of the alphabet."""
    names = ["epoch_10.pt", "b.pt", "epoch_9.pt", "a.pt", "epoch_9b.pt"]
    assert sorted(names, key=steps.natural_key) == ["a.pt", "b.pt", "epoch_9.pt", "epoch_9b.pt", "epoch_10.pt"]


@given(st.lists(st.text(max_size=12), max_size=5))
def test_any_names_can_be_ordered(names):
    """Names of any characters have a place in the order."""
    keys = [steps.natural_key(name) for name in names]
    backwards = keys[::-1]
    assert sorted(keys) == sorted(backwards)


@pytest.mark.parametrize("ending", [".pt", ".pth", ".pth.tar", ".ckpt", ".safetensors", ".bin"])
def test_endings_are_taken_off_whole(ending: str) -> None:
    """The stem and the ending of a path make its last part."""
    assert (steps.stem(f"a/model.x{ending}"), steps.ending(f"a/model.x{ending}")) == ("model.x", ending)
