"""Where in memory a window is read to: at places that processors copy to at full speed."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import numpy as np
import pytest
import safetensors.torch
import torch

from rna_watch.formats.probe import probe
from rna_watch.layout.layout import Role
from rna_watch.layout.open_file import OpenFile
from rna_watch.window.reader import WindowReader
from rna_watch.window.segments import window_segments
from rna_watch.window.tasks_plan import BUDGET_MIB, block_elements

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@pytest.mark.parametrize("start", [4096, 4104, 4120, 4136])
def test_rows_lie_within_a_line_as_they_do_in_the_newest_file(
    start: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 to 31 bytes behind, within a page, copies of some processors take four times as long; before, they do not."""
    tensor = {"w": torch.randn(300, 1000)}
    for number in range(3):
        path = tmp_path / f"{number}.safetensors"
        safetensors.torch.save_file(tensor, path, metadata={"text": ""})
        short = 8 + int.from_bytes(path.read_bytes()[:8], "little")
        safetensors.torch.save_file(tensor, path, metadata={"text": "x" * (start - short)})
    layouts = [probe(str(tmp_path / f"{number}.safetensors")) for number in range(3)]
    assert layouts[-1].extents[0].chunks[0].offset_bytes == start
    behind = []
    read_all = OpenFile.read_all

    def spy(self: OpenFile, buffers: Sequence[memoryview], offset: int) -> None:
        behind.append((np.frombuffer(buffers[0], np.uint8).ctypes.data - offset) % 4096)
        read_all(self, buffers, offset)

    monkeypatch.setattr(OpenFile, "read_all", spy)
    segments = window_segments(layouts, frozenset({Role.PARAMETER}), 2**20)
    with WindowReader([layout.files for layout in layouts]) as reader:
        for block in reader.steps(segments):
            np.testing.assert_array_equal(block.values[0], block.values[2])
    assert behind
    assert not [each for each in behind if 1 <= each < 32]


def test_memory_of_a_long_window_is_within_the_budget(tmp_path: Path) -> None:
    """What is read and its values, of 60 checkpoints in float64."""
    for number in range(60):
        torch.save({"w": torch.zeros(70_000, dtype=torch.float64)}, tmp_path / f"{number}.pt")
    layouts = [probe(str(tmp_path / f"{number}.pt")) for number in range(60)]
    segments = window_segments(layouts, frozenset({Role.PARAMETER}), 2**20)
    tracemalloc.start()
    with WindowReader([layout.files for layout in layouts]) as reader:
        for block in reader.blocks(segments, block_elements(60)):
            assert sum(step.values.shape[1] for step in block.steps()) == block.size
        _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < BUDGET_MIB * 2**20
