"""How work is cut: bounded, complete, and the same for any number of workers."""

import dataclasses
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rna_watch.formats.probe import probe
from rna_watch.layout.dtypes import DTYPES
from rna_watch.layout.layout import Role
from rna_watch.publishing import clone, draft
from rna_watch.window import copies, tasks_plan
from rna_watch.window.combine import Combination
from rna_watch.window.segments import BLOCK_ELEMENTS, Segment, cut_blocks
from tests.engine import windows


@pytest.fixture
def layouts(tmp_path):
    """A small window."""
    return windows.write(tmp_path)


def elements(tasks):
    """Every element of the newest checkpoint's storages that the tasks cover, in order."""
    return [
        (segment.extent, element)
        for task in tasks
        for segment in task.segments
        for element in range(segment.start, segment.start + segment.count)
    ]


def wanted(layout, roles):
    """Every element of these roles."""
    return {
        (number, element)
        for number, extent in enumerate(layout.extents)
        if extent.role in roles
        for chunk in extent.chunks
        for element in range(chunk.start, chunk.start + chunk.count)
    }


FLOATING = frozenset(Role) - {Role.COPIED}


@pytest.mark.parametrize("size", [100, 1000, 2**22])
def test_every_element_is_in_one_task(layouts, size, monkeypatch):
    """The Gram and the combine tasks cover each floating element once, and no integer."""
    monkeypatch.setattr(tasks_plan, "TASK_ELEMENTS", size)
    combination = Combination(layouts=layouts, weights=windows.WEIGHTS)
    segments = combination.segments(tasks_plan.task_elements(layouts[-1].parameters))
    for tasks in (
        tasks_plan.gram_tasks(layouts, 3, 64.0),
        tasks_plan.combine_tasks(combination, segments, ("clone",)),
    ):
        covered = elements(tasks)
        assert len(covered) == len(set(covered))
        assert set(covered) == wanted(layouts[-1], FLOATING)
        assert all(sum(segment.count for segment in task.segments) <= size for task in tasks)
        read = len(layouts) * sum(
            extent.count * DTYPES[extent.dtype].itemsize for extent in layouts[-1].extents if extent.role in FLOATING
        )
        assert sum(task.work_bytes for task in tasks) == read


def test_the_budget_changes_the_blocks_only(layouts, monkeypatch):
    """A smaller memory budget gives smaller blocks within the same tasks; nothing in a plan knows of workers."""
    monkeypatch.setattr(tasks_plan, "TASK_ELEMENTS", 3000)
    wide, narrow = (tasks_plan.gram_tasks(layouts, 3, budget) for budget in (64.0, 0.05))
    assert wide[0].block_elements == BLOCK_ELEMENTS > narrow[0].block_elements
    assert [dataclasses.replace(task, block_elements=0) for task in wide] == [
        dataclasses.replace(task, block_elements=0) for task in narrow
    ]


@given(st.integers(2, 30), st.floats(0.001, 4096))
def test_blocks_stay_within_the_budget(checkpoints, budget_mib):
    """The float64 values of a block, and the buffers next to them, fit the budget, down to a smallest block."""
    count = tasks_plan.block_elements(checkpoints, budget_mib)
    assert 256 <= count <= BLOCK_ELEMENTS
    assert count == 256 or 8 * count * (checkpoints + 4) <= budget_mib * 2**20


@given(st.integers(0, 10**13))
def test_the_number_of_tasks_is_bounded(count):
    """Models of any size are cut into a few hundred tasks, none smaller than pays."""
    size = tasks_plan.task_elements(count)
    assert size >= tasks_plan.TASK_ELEMENTS
    assert -(-count // size) <= 512


@given(
    st.lists(
        st.tuples(st.integers(1, 50), st.sampled_from(["float32", "bfloat16"]), st.sampled_from(sorted(FLOATING)))
    ),
    st.integers(1, 30),
)
def test_blocks_hold_every_element_once_and_one_kind(kinds, capacity):
    """Packed into blocks, each element of every segment has one column, and a block one dtype and role."""
    segments = [
        Segment(extent=number, start=0, count=count, dtype=dtype, role=role, places=(((0, 0, count),),))
        for number, (count, dtype, role) in enumerate(kinds)
    ]
    seen = []
    for pieces in cut_blocks(segments, capacity):
        assert len({(segments[piece.segment].dtype, segments[piece.segment].role) for piece in pieces}) == 1
        columns = [column for piece in pieces for column in range(piece.column, piece.column + piece.count)]
        assert columns == list(range(len(columns)))
        assert len(columns) <= capacity
        seen += [(piece.segment, piece.start + at) for piece in pieces for at in range(piece.count)]
    assert seen == [(number, at) for number, segment in enumerate(segments) for at in range(segment.count)]


@given(st.lists(st.integers(1, 100)), st.integers(1, 250))
def test_copies_are_grouped_up_to_a_limit(sizes, limit):
    """Every piece is copied once, in order, in groups that no neighbour fits into, each within the limit or of one piece."""
    pieces = tuple(copies.of_bytes(0, 1000 * number, size, 0) for number, size in enumerate(sizes))
    found = tasks_plan.copy_tasks((), pieces, ("clone",), limit)
    assert tuple(copy for task in found for copy in task.copies) == pieces
    assert all(task.work_bytes <= limit or len(task.copies) == 1 for task in found)
    assert all(a.work_bytes + b.copies[0].size_bytes > limit for a, b in pairwise(found))
    assert sum(task.work_bytes for task in found) == sum(sizes)


def test_tensors_lie_elsewhere_in_each_checkpoint(tmp_path):
    """Checkpoints that hold the same tensors in another order, or among others, are read at their own places."""
    torch.save({"model": {"a": torch.arange(5.0), "b": torch.ones(3)}}, tmp_path / "1.pt")
    torch.save(
        {"extra": torch.zeros(70), "model": {"b": torch.ones(3) * 2, "a": torch.arange(5.0) * 3}}, tmp_path / "2.pt"
    )
    layouts = [probe(str(tmp_path / name), "model") for name in ("1.pt", "2.pt")]
    rows = windows.gram(layouts).rows
    np.testing.assert_array_equal(rows, [[float(((2 * np.arange(5.0)) ** 2).sum() + 3)]])


def test_a_combination_names_only_what_matters(layouts):
    """Checkpoints without weight are not read, but the newest stays, as it lends everything else."""
    found = Combination(layouts=layouts, weights=(0.0, 1.5, -0.5, 0.0)).without_zeros()
    assert found.weights == (1.5, -0.5, 0.0)
    assert found.layouts == layouts[1:]


def test_copies_are_what_no_combine_task_writes(layouts, tmp_path, monkeypatch):
    """Combine and copy tasks together write every byte of a clone once that is not copied whole before them."""
    whole = clone.begin(Combination(layouts=layouts, weights=windows.WEIGHTS), str(tmp_path / "whole.tmp"), 2**22)
    assert not whole.copies
    assert (tmp_path / "whole.tmp").read_bytes() == Path(layouts[-1].path).read_bytes()
    monkeypatch.setattr(draft, "_SMALL_BYTES", 0)
    begun = clone.begin(Combination(layouts=layouts, weights=windows.WEIGHTS), str(tmp_path / "clone.tmp"), 2**22)
    written = [(segment.places[-1][0][1], segment.size_bytes) for segment in begun.segments]
    written += [
        (copy.offset_bytes, copy.size_bytes)
        for task in tasks_plan.copy_tasks(layouts[-1].files, begun.copies, begun.outputs)
        for copy in task.copies
    ]
    at = 0
    for offset, size in sorted(written):
        assert offset == at
        at += size
    assert at == layouts[-1].size_bytes
