"""Blocks of a tensor: each element in one of them, and how they are taken apart, with bounded memory."""

import tracemalloc

import pytest

from rna_watch.layout.blocks import Block, band, cut, is_dense, row, uncovered


def grid(rows, columns, size=(2, 3)):
    """Blocks of equal size, side by side."""
    height, width = size
    return [
        Block(offsets=(r * height, c * width), shape=size, stride=(width, 1), start=(r * columns + c) * height * width)
        for r in range(rows)
        for c in range(columns)
    ]


@pytest.mark.parametrize(("rows", "columns"), [(2, 1), (3, 1), (2, 4)])
def test_a_grid_is_whole(rows, columns):
    """Each element is in one block; without one of them some are in none, with one twice some are in two."""
    blocks, shape = grid(rows, columns), (2 * rows, 3 * columns)
    assert uncovered(blocks, shape) == ""
    assert uncovered(blocks[1:], shape) == "leave elements out"
    assert uncovered([*blocks, blocks[0]], shape) == "overlap"
    assert uncovered(blocks, (shape[0], shape[1] + 1)) == "leave elements out"


def test_thousands_of_blocks_take_little_memory():
    """A hostile file may claim as many as are read."""
    blocks = [Block(offsets=(*[0] * 7, at), shape=(1,) * 8, stride=(1,) * 8, start=at) for at in range(4096)]
    tracemalloc.start()
    assert uncovered(blocks, (*[1] * 7, 4096)) == ""
    assert tracemalloc.get_traced_memory()[1] < 64e6
    tracemalloc.stop()


def test_bands_and_rows_are_tensors_in_blocks_themselves():
    """Rows 1 to 3 of two by two blocks: the second row of the upper ones and the first of the lower ones."""
    blocks = grid(2, 2)
    found = band(blocks, 1, 3)
    assert uncovered(found, (2, 6)) == ""
    assert [each.start for each in found] == [3, 9, 12, 18]
    assert [(each.offsets, each.shape, each.start) for each in row(blocks, 3)] == [((0,), (3,), 15), ((3,), (3,), 21)]


def test_layers_are_those_that_no_block_reaches_over():
    """A grid has rows and columns; blocks that interlock are one layer along each axis."""
    assert [len(layer) for layer in cut(grid(2, 4), 0)] == [4, 4]
    assert [len(layer) for layer in cut(grid(2, 4), 1)] == [2, 2, 2, 2]
    wheel = [((0, 0), (1, 2)), ((0, 2), (2, 1)), ((2, 1), (1, 2)), ((1, 0), (2, 1)), ((1, 1), (1, 1))]
    blocks = [Block(offsets=at, shape=size, stride=(size[1], 1), start=0) for at, size in wheel]
    assert uncovered(blocks, (3, 3)) == ""
    assert [len(cut(blocks, axis)) for axis in (0, 1)] == [1, 1]


@pytest.mark.parametrize(
    ("shape", "stride", "dense"), [((2, 3), (3, 1), True), ((2, 3), (1, 2), True), ((2, 3), (6, 2), False)]
)
def test_dense_views(shape, stride, dense):
    """Side by side in whichever order of the axes, or with gaps."""
    assert is_dense(shape, stride) is dense
