"""What the compiled loops gain over numpy and BLAS: of one block as it is stored, rows of the Gram matrix and the weighted sum.

Both take turns on the same block, which lies in the cache. The error of the Gram matrix is against products in long double.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_info

from rna_watch import kernels
from rna_watch.acceleration.gram import block_rows, kernel_for
from rna_watch.layout.dtypes import DTYPES, narrow, widen
from rna_watch.window import combine, tasks
from rna_watch.window.reader import cache_elements
from rna_watch.window.segments import BLOCK_ELEMENTS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rna_watch.layout.dtypes import Array, Float64
    from tests.benchmarks.options import Options

_ROUNDS = 31
_LENGTHS = {False: (5, 10, 20, 50), True: (5,)}
_NAMES = ("float32", "bfloat16", "float16", "float64")


def _nanoseconds(contenders: Sequence[Callable[[], None]], columns: int, rounds: int) -> list[float]:
    """Of a column, in the median of rounds in turn after a first one."""
    taken: list[list[float]] = [[] for _ in contenders]
    for number in range(rounds + 1):
        for each, contender in zip(taken, contenders, strict=True):
            begun = time.perf_counter()
            contender()
            if number:
                each.append(1e9 * (time.perf_counter() - begun) / columns)
    return [statistics.median(each) for each in taken]


class _Contenders:
    """The rows and the sum of one block, by numpy and by the compiled loops.

    Args:
        dtype: of what is stored.
        n: residuals.
        columns: of the block.
    """

    def __init__(self, dtype: str, n: int, columns: int) -> None:
        rng = np.random.default_rng(0)
        values = rng.standard_normal(columns) + 1e-2 * rng.standard_normal((n + 1, columns))
        self.dtype = dtype
        self.stored: Array = np.empty((n + 1, columns), dtype=DTYPES[dtype].bits)
        narrow(values, dtype, self.stored)
        self.rows = np.zeros((n, n))
        self.blas = np.zeros((n, n))
        self._weights = np.append(0.0, rng.dirichlet(np.ones(n)))
        self._out: Array = np.empty(columns, dtype=DTYPES[dtype].bits)
        self._step = min(columns, cache_elements(n + 1))
        self._room = np.empty((n + 1, self._step))
        self._total = np.empty(self._step)
        architecture = next((str(each["architecture"]) for each in threadpool_info() if "architecture" in each), "")
        compiled, kernels.COMPILED = kernels.COMPILED, False
        self._kernel = kernel_for(n, architecture)
        kernels.COMPILED = compiled

    def _blocks(self) -> list[tuple[Float64, slice]]:
        columns = self.stored.shape[1]
        return [
            (self._room[:, : min(self._step, columns - at)], slice(at, min(at + self._step, columns)))
            for at in range(0, columns, self._step)
        ]

    def rows_by_numpy(self) -> None:
        """Widened, subtracted and multiplied, as much at a time as a core's cache holds."""
        self.blas[:] = 0.0
        for room, columns in self._blocks():
            widen(self.stored[:, columns], self.dtype, room)
            self.blas += block_rows(room, len(room) - 1, 0.0, kernel=self._kernel).rows

    def rows_compiled(self) -> None:
        """In one go."""
        self.rows[:] = 0.0
        kernels.add_gram(self.stored, self.dtype, self.rows)

    def sum_by_numpy(self) -> None:
        """Widened, and weighted step by step."""
        for room, columns in self._blocks():
            widen(self.stored[:, columns], self.dtype, room)
            total = self._total[: room.shape[1]]
            combine._combine(room, self._weights, total)
            narrow(total, self.dtype, self._out[columns])

    def sum_compiled(self) -> None:
        """In one go."""
        kernels.combine(self.stored[1:], self.dtype, self._weights[1:], self._out)

    def error(self) -> tuple[float, float]:
        """The largest error of both matrices, relative to the largest entry."""
        exact = np.empty(self.stored.shape)
        widen(self.stored, self.dtype, exact)
        steps = np.diff(exact.astype(np.longdouble), axis=0)
        gram = steps @ steps.T
        largest = gram.max()
        return float(abs(self.blas - gram).max() / largest), float(abs(self.rows - gram).max() / largest)


def show(options: Options) -> None:
    """Print the medians, and how many times as fast the compiled loops are."""
    tasks.single_thread()
    columns, rounds = (4096, 3) if options.small else (BLOCK_ELEMENTS, _ROUNDS)
    how = f"vectors of {8 * kernels.vector_bytes()} bits" if kernels.COMPILED else "none are there: their twin in numpy"
    print(f"\ncompiled loops ({how}), nanoseconds a column, medians of {rounds} rounds; error against long double")
    print(
        f"{'':<18}{'Gram by BLAS':>14}{'compiled':>10}{'gain':>6}{'errors':>18}{'sum by numpy':>14}{'compiled':>10}{'gain':>6}"
    )
    for dtype in _NAMES:
        for n in _LENGTHS[options.small]:
            each = _Contenders(dtype, n, columns)
            blas, rows = _nanoseconds((each.rows_by_numpy, each.rows_compiled), columns, rounds)
            numpy, total = _nanoseconds((each.sum_by_numpy, each.sum_compiled), columns, rounds)
            errors = " ".join(f"{error:.1e}" for error in each.error())
            print(
                f"{dtype:<9} N = {n:<5}{blas:>14.1f}{rows:>10.1f}{blas / rows:>6.1f}{errors:>18}"
                f"{numpy:>14.1f}{total:>10.1f}{numpy / total:>6.1f}"
            )
