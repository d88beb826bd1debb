"""The inner loops over blocks of a window: compiled where the package was built with a C compiler, else as `twin` in numpy.

Both give the same bits, on every processor: `_loops.c` says in which order sums are taken. `twin` is many times slower: it is
what the loops are checked against, and what a node without them computes when a plan names them. Where `COMPILED` is false,
plans name products by BLAS instead, and combinations are taken step by step in numpy, with equal bits.

Letters: K checkpoints, N = K - 1 steps, n elements. What is stored comes as `(K, n)` in the numpy dtype that holds its bits; rows
may lie apart.
"""

from __future__ import annotations

import sys

__all__ = ["COMPILED", "add_gram", "add_products", "add_squares", "combine", "vector_bytes"]

try:
    if sys.byteorder != "little":
        raise ImportError
    from rna_watch.kernels._loops import add_gram, add_products, add_squares, combine, vector_bytes
except ImportError:  # it was built without a compiler, or for other processors
    from rna_watch.kernels.twin import add_gram, add_products, add_squares, combine, vector_bytes
COMPILED = vector_bytes() > 0
