"""The Gram matrix of the residuals, accumulated in float64 from blocks of iterates.

Letters: K iterates y_0..y_N (K = N + 1), N residuals, d_i = y_i - y_{i-1}, n elements of a block. Differences of
neighbouring iterates are taken in float64 *before* any product: the product of the raw iterates loses every digit that
matters (measured, 4 million parameters: smallest eigenvalue negative, coefficients wrong by 43 %).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from rna_watch import kernels

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Float64 = npt.NDArray[np.float64]

# E[ulp(x)^2] = eps^2 x^2 / 2.164 for a mantissa that is uniform in its logarithm; the error of one rounding has
# variance ulp^2 / 12, and a difference holds two of them.
_ROUNDING_PER_ENERGY = 2.0 / (12.0 * 2.164)


_FEW = 10  # residuals, up to which products of a matrix and vectors are the fastest
_SMALL = 1_000_000  # multiply-adds, up to which OpenBLAS has kernels of its own for AVX-512
_WITH_SMALL = {"SkylakeX", "Cooperlake", "SapphireRapids"}


# How products of residuals are taken; a plan names one for all of its tasks, as each rounds in its own way: by compiled loops, or
# by BLAS the lower triangle a row at a time, R'R at once, or general products of few columns at a time. Nanoseconds a column
# of BLAS (AMD Milan, OpenBLAS's Haswell kernel, blocks of 10,240) by vectors, whole, and a general product: N = 5 3.5, 6.5, 6.3;
# N = 10 11, 11, 17; N = 20 40, 24, 41. With AVX-512, small products were 3.6 times as fast as whole at N = 5 and 1.8 times at 10
# and 20. What the compiled loops gain over them is in the manual (`python -m tests.benchmarks kernels`).
Kernel = Literal["compiled", "vectors", "whole", "small"]


def kernel_for(count: int, architecture: str) -> Kernel:
    """The fastest way for so many residuals.

    Args:
        count: N.
        architecture: the name of BLAS's kernels, as threadpoolctl gives it.
    """
    if kernels.COMPILED:
        return "compiled"
    if architecture in _WITH_SMALL:
        return "small"
    return "vectors" if count <= _FEW else "whole"


@dataclass(frozen=True, slots=True, kw_only=True)
class GramRows:
    """The last M rows of the Gram matrix of the differences `(M, N)`, or a part of that sum over some elements.

    `rounding_energy` is sum(eps^2 x^2) over the newest iterate. `non_finite` are the indices of iterates with NaN or
    infinite elements. `form_rows` `(M, N)` and `form_energy` are the same for another form of the residuals, if one was
    asked for; `outside` is the squared length of the differences of parameters which that form leaves out.
    `matrices` `(M, 3)` has for each of these residuals the squared norms of its older iterate, its newer one and of their
    difference, over the columns of weight matrices that were named.
    """

    rows: Float64
    rounding_energy: float
    non_finite: frozenset[int]
    form_rows: Float64 | None = None
    form_energy: float = 0.0
    outside: float = 0.0
    matrices: Float64 | None = None


def block_rows(
    values_mn: Float64,
    new: int,
    eps: float,
    *,
    checkpoints: int | None = None,
    factors: Sequence[tuple[float, float]] = (),
    other_eps: float = 0.0,
    matrices: Sequence[slice] = (),
    kernel: Kernel = "vectors",
) -> GramRows:
    """The last `new` rows of R'R over one block; the block is overwritten.

    Args:
        values_mn: (M, n) float64: K iterates, oldest first, followed by K momentum buffers or N recorded gradients if a
            form needs them.
        new: how many of the newest residuals need their row, 1 to N.
        eps: spacing at 1 of the dtype in which the values were stored.
        checkpoints: K; None: all values are iterates.
        factors: (p_i, q_i) for each of the N residuals: the other form is r_i = p_i d_i + q_i e_i; e_i is a difference of
            buffers, or the recorded gradient; none: only differences.
        other_eps: spacing at 1 of the dtype of the values after the iterates.
        matrices: the columns of weight matrices whose norms are wanted.
        kernel: how products are taken.
    """
    k = len(values_mn) if checkpoints is None else checkpoints
    iterates_kn, others = values_mn[:k], values_mn[k:]
    energy = _energy(iterates_kn[-1:], eps, kernel)
    other_energy = _energy(others[-1:], other_eps, kernel) if len(others) else 0.0
    norms = _squares(iterates_kn[-new - 1 :], matrices, kernel) if matrices else None
    residuals = differences(iterates_kn)
    rows = _products(residuals, new, kernel)
    of_matrices = None
    if norms is not None:
        of_matrices = np.column_stack([norms[:-1], norms[1:], _squares(residuals[-new:], matrices, kernel)])
    if not factors:
        return GramRows(rows=rows, rounding_energy=energy, non_finite=frozenset(), matrices=of_matrices)
    p, q = factors[-1]
    in_no_group = not any(value for pair in factors for value in pair)
    residuals = _formed(residuals, others, factors)
    return GramRows(
        rows=rows,
        rounding_energy=energy,
        non_finite=frozenset(),
        form_rows=_products(residuals, new, kernel),
        form_energy=p * p * energy + q * q * other_energy,
        outside=float(np.trace(rows[:, -new:])) if in_no_group else 0.0,
        matrices=of_matrices,
    )


def stored_rows(
    stored_kn: npt.NDArray[Any], dtype: str, new: int, eps: float, matrices: Sequence[slice] = ()
) -> GramRows | None:
    """The same as `block_rows` by the compiled kernel, of iterates as they are stored; None where something is not finite.

    Args:
        stored_kn: (K, n): iterates, oldest first, in the numpy dtype that holds their bits; they are left as they are.
        dtype: what they are.
        new: how many of the newest residuals need their row, 1 to N.
        eps: spacing at 1 of that dtype.
        matrices: the columns of weight matrices whose norms are wanted.
    """
    rows = np.zeros((new, len(stored_kn) - 1))
    energy = kernels.add_gram(stored_kn, dtype, rows)
    if not (np.isfinite(energy) and np.isfinite(rows).all()):
        return None
    norms = None
    if matrices:
        found = np.zeros(2 * new + 1)
        for columns in matrices:
            kernels.add_squares(stored_kn[-new - 1 :, columns], dtype, found)
        norms = np.column_stack([found[:new], found[1 : new + 1], found[new + 1 :]])
    return GramRows(rows=rows, rounding_energy=eps * eps * energy, non_finite=frozenset(), matrices=norms)


def _products(residuals_nn: Float64, new: int, kernel: Kernel) -> Float64:
    """The last `new` rows of R'R `(M, N)` of residuals `(N, n)`."""
    count, size = residuals_nn.shape
    if kernel == "whole":
        return residuals_nn[-new:] @ residuals_nn.T
    rows = np.zeros((new, count))
    if kernel == "compiled":
        kernels.add_products(residuals_nn, rows)
        return rows
    if kernel == "small":
        step = max(64, _SMALL // (new * count) // 64 * 64)
        for start in range(0, size, step):
            part = residuals_nn[:, start : start + step]
            # two products, so that none is of a matrix with its own transpose: that has another, slower kernel
            for half in (slice(0, (count + 1) // 2), slice((count + 1) // 2, count)):
                rows[:, half] += part[-new:] @ part[half].T
        return rows
    for row, last in enumerate(range(count - new, count)):
        np.matmul(residuals_nn[: last + 1], residuals_nn[last], out=rows[row, : last + 1])
    square = rows[:, count - new :]
    square += np.tril(square, -1).T
    return rows


def products(residuals_nn: Float64, kernel: Kernel) -> Float64:
    """R'R `(N, N)` of residuals `(N, n)`, which are left as they are."""
    return _products(residuals_nn, len(residuals_nn), kernel)


def _squares(values_mn: Float64, columns: Sequence[slice], kernel: Kernel) -> Float64:
    """The squared norm of each row over some columns."""
    found = np.zeros(2 * len(values_mn) - 1)
    for part in columns:
        if kernel == "compiled":
            kernels.add_squares(values_mn[:, part], "float64", found)
        else:
            found[: len(values_mn)] += np.einsum("ij,ij->i", values_mn[:, part], values_mn[:, part])
    return found[: len(values_mn)]


def block_residuals(values_mn: Float64, *, checkpoints: int, factors: Sequence[tuple[float, float]] = ()) -> Float64:
    """The residuals (N, n) of one block, in the form that `factors` give; arguments as for `block_rows`."""
    residuals = differences(values_mn[:checkpoints])
    return _formed(residuals, values_mn[checkpoints:], factors) if factors else residuals


def _formed(steps: Float64, others: Float64, factors: Sequence[tuple[float, float]]) -> Float64:
    """p_i d_i + q_i e_i, in place of the differences."""
    p, q = (np.array(column)[:, None] for column in zip(*factors, strict=True))
    steps *= p
    if len(others):
        beside = differences(others) if len(others) > len(factors) else others
        beside *= q
        steps += beside
    return steps


def _energy(values_1n: Float64, eps: float, kernel: Kernel) -> float:
    if kernel == "compiled":
        return eps * eps * float(_squares(values_1n, [slice(None)], kernel)[0])
    return eps * eps * float(np.dot(values_1n[0], values_1n[0]))


def differences(iterates_kn: Float64) -> Float64:
    """d_i = y_i - y_{i-1}, in place: a view `(N, n)` of the block, whose first iterates are overwritten."""
    for i in range(len(iterates_kn) - 1):
        np.subtract(iterates_kn[i + 1], iterates_kn[i], out=iterates_kn[i])
    return iterates_kn[:-1]


def merge(parts: Iterable[GramRows]) -> GramRows:
    """The sum of parts in the order given, which must be that of the plan: other orders give other last bits."""
    parts = list(parts)
    rows = np.zeros_like(parts[0].rows)
    form_rows = np.zeros_like(rows)
    matrices = np.zeros((len(rows), 3))
    energy = form_energy = outside = 0.0
    for part in parts:
        rows += part.rows
        energy += part.rounding_energy
        form_energy += part.form_energy
        outside += part.outside
        if part.form_rows is not None:
            form_rows += part.form_rows
        if part.matrices is not None:
            matrices += part.matrices
    return GramRows(
        rows=rows,
        rounding_energy=energy,
        non_finite=frozenset().union(*(part.non_finite for part in parts)),
        form_rows=form_rows if any(part.form_rows is not None for part in parts) else None,
        form_energy=form_energy,
        outside=outside,
        matrices=matrices,
    )


def rounding_variance(energy: float) -> float:
    """Expected squared norm of the rounding error in one residual: 2 sum(ulp(x)^2) / 12."""
    return energy * _ROUNDING_PER_ENERGY
