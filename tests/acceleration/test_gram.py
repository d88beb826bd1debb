import itertools

import numpy as np
import pytest

from rna_watch import kernels
from rna_watch.acceleration.gram import (
    GramRows,
    block_rows,
    differences,
    kernel_for,
    merge,
    rounding_variance,
    stored_rows,
)

from . import twins


def in_blocks(iterates_kn, *, new, size, eps=0.0):
    """The rows as an engine gets them: a block at a time, merged in order."""
    starts = range(0, iterates_kn.shape[1], size)
    return merge(block_rows(iterates_kn[:, at : at + size].copy(), new, eps) for at in starts)


def test_blocks_add_up_to_the_gram_matrix():
    """Blocks of any size, merged, give R'R of the whole iterates to rounding."""
    iterates = twins.linear_iterates(6, 1000, seed=1)
    expected = twins.gram(iterates)
    for size in (1, 7, 333, 1000):
        rows = in_blocks(iterates, new=5, size=size).rows
        np.testing.assert_allclose(rows, expected, rtol=1e-12, atol=1e-12 * expected.max())


def test_a_new_checkpoint_needs_only_its_own_row():
    """The last M rows alone are the last M rows of the whole matrix, to rounding."""
    iterates = twins.linear_iterates(6, 500, seed=2)
    whole = block_rows(iterates.copy(), 5, 0.0).rows
    for new in (1, 2, 5):
        np.testing.assert_allclose(block_rows(iterates.copy(), new, 0.0).rows, whole[-new:], rtol=1e-14)


def test_differences_are_taken_before_products():
    """The products keep digits that raw products have lost, with steps a hundred-millionth of the iterates' size."""
    rng = np.random.default_rng(3)
    steps = rng.integers(-8, 9, (5, 400)).astype(np.float64)
    iterates = 2.0**30 + np.vstack([np.zeros(400), np.cumsum(steps, axis=0)])
    np.testing.assert_array_equal(block_rows(iterates, 5, 0.0).rows, steps @ steps.T)


def test_the_differences_overwrite_the_block():
    """Residuals are made in place, so that a block needs no second one."""
    block = np.array([[1.0, 2.0], [4.0, 8.0], [5.0, 5.0]])
    result = differences(block)
    assert np.shares_memory(result, block)
    np.testing.assert_array_equal(result, [[3.0, 6.0], [1.0, -3.0]])


def test_merging_names_every_iterate_that_is_not_finite():
    """The union of the parts' findings survives the sum."""
    parts = [GramRows(rows=np.ones((1, 2)), rounding_energy=0.5, non_finite=frozenset({k})) for k in (0, 2, 2)]
    total = merge(parts)
    assert total.non_finite == {0, 2}
    assert total.rounding_energy == 1.5
    np.testing.assert_array_equal(total.rows, [[3.0, 3.0]])


@pytest.mark.parametrize(("dtype", "eps"), [(np.float32, 2.0**-23), (np.float16, 2.0**-10)])
@pytest.mark.parametrize(("spread", "tolerance"), [("logarithmic", 0.02), ("normal", 0.2)])
def test_the_rounding_variance_predicts_what_rounding_does(dtype, eps, spread, tolerance):
    """The expected squared norm of a residual's rounding error agrees with rounding done for real."""
    rng = np.random.default_rng(4)
    older = 2.0 ** rng.uniform(0, 4, 100_000) if spread == "logarithmic" else rng.standard_normal(100_000)
    exact = np.stack([older, older * (1 + 0.01 * rng.standard_normal(100_000))])
    stored = exact.astype(dtype).astype(np.float64)
    done = float(np.sum((twins.residuals(stored) - twins.residuals(exact)) ** 2))
    energy = block_rows(stored, 1, eps).rounding_energy
    assert rounding_variance(energy) == pytest.approx(done, rel=tolerance)


@pytest.mark.parametrize("new", [1, 3, 5])
def test_norms_over_named_columns_are_those_of_the_iterates(new):
    """Older iterate, newer iterate and their difference, over the columns of weight matrices alone, in blocks that add up."""
    iterates = twins.linear_iterates(6, 400, seed=4)
    named = np.r_[0:70, 200:260]
    blocks = [(slice(0, 200), [slice(0, 70)]), (slice(200, 400), [slice(0, 60)])]
    found = merge(block_rows(iterates[:, part].copy(), new, 0.0, matrices=columns) for part, columns in blocks)
    for row, (older, newer) in zip(found.matrices, list(itertools.pairwise(iterates[:, named]))[-new:], strict=True):
        np.testing.assert_allclose(row, [older @ older, newer @ newer, (newer - older) @ (newer - older)], rtol=1e-12)
    np.testing.assert_array_equal(
        found.rows, merge(block_rows(iterates[:, p].copy(), new, 0.0) for p, _ in blocks).rows
    )


@pytest.mark.parametrize("kernel", ["compiled", "vectors", "whole", "small"])
@pytest.mark.parametrize(("count", "new"), [(1, 1), (5, 5), (11, 3), (20, 20)])
def test_every_kernel_gives_the_same_products(kernel, count, new):
    """The rows are those of R'R to rounding, however products are taken, and the square among them is symmetric."""
    iterates = twins.linear_iterates(count + 1, 9000, seed=5)
    expected = twins.gram(iterates)
    found = block_rows(iterates.copy(), new, 0.0, kernel=kernel).rows
    np.testing.assert_allclose(found, expected[-new:], rtol=1e-12, atol=1e-13 * expected.max())
    square = found[:, -new:]
    np.testing.assert_allclose(square, square.T, rtol=1e-13, atol=1e-13 * expected.max())


@pytest.mark.parametrize("new", [1, 3, 5])
def test_rows_of_what_is_stored_are_those_of_its_values(new):
    """To the bit, by the compiled kernel; the norms over named columns to rounding."""
    stored = twins.linear_iterates(6, 700, seed=6).astype("<f4")
    columns = [slice(0, 70), slice(200, 260)]
    found = stored_rows(stored, "float32", new, 2.0**-23, columns)
    expected = block_rows(stored.astype(np.float64), new, 2.0**-23, matrices=columns, kernel="compiled")
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_allclose(found.matrices, expected.matrices, rtol=1e-13)
    assert found.rounding_energy == pytest.approx(expected.rounding_energy, rel=1e-13)


@pytest.mark.parametrize("which", [0, 3, 5])
def test_rows_of_what_is_not_finite_are_left_to_whoever_looks_at_the_values(which):
    """An infinite element may be a constant, which has no part in any residual."""
    stored = twins.linear_iterates(6, 700, seed=6).astype("<f4")
    stored[which, 13] = np.inf
    assert stored_rows(stored, "float32", 1, 2.0**-23) is None


def test_the_kernel_follows_the_number_of_residuals_and_the_processor(monkeypatch):
    """The compiled loops, or else few residuals are multiplied as vectors, many at once; with AVX-512 in small products."""
    monkeypatch.setattr(kernels, "COMPILED", True)
    assert {kernel_for(count, name) for count in (5, 10, 20) for name in ("Haswell", "SkylakeX")} == {"compiled"}
    monkeypatch.setattr(kernels, "COMPILED", False)
    assert [kernel_for(count, "Haswell") for count in (5, 10, 20)] == ["vectors", "vectors", "whole"]
    assert {kernel_for(count, "SkylakeX") for count in (5, 10, 20)} == {"small"}
