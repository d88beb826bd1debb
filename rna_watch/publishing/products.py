"""The product of a model's factors: the model with the weighted sum of their products, and how it is verified."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import reduce
from operator import add
from typing import TYPE_CHECKING

from rna_watch.acceleration.low_rank import distance
from rna_watch.errors import RefusedCheckpoint
from rna_watch.layout.factors import factors
from rna_watch.publishing import made
from rna_watch.publishing.made import PRODUCT, Made
from rna_watch.window.combine import Combination
from rna_watch.window.products import Norms, made_pairs, read_pairs
from rna_watch.window.tasks_plan import product_tasks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rna_watch.layout.factors import FactorPair
    from rna_watch.layout.layout import Layout
    from rna_watch.window.tasks import Run

# two computations of a product differ by their rounding to the stored dtype, which is measured, and by that of float64
_TIMES, _LEAST = 2.0, 1e-9


def make(recipe: Combination, of: str, path: str, run: Run) -> Made:
    """Combine the pairs of factors of checkpoints as the best approximation of rank r of sum_k w_k B_k A_k.

    Args:
        recipe: the plain combination, of one row of weights, whose newest checkpoint has pairs of factors.
        of: its name.
        path: the file to write the factors to.
        run: runs tasks, as an engine's `map` does.

    Raises:
        RefusedCheckpoint: a product is not finite in the stored dtype.
        EvaluationFailed: the file cannot hold a dtype of the factors.
        InputChanged: a checkpoint changed meanwhile.
        OSError: the file cannot be written.
    """
    newest = recipe.layouts[-1]
    found = factors(newest)
    numbers = extents_of(found.pairs)
    offsets = made.begin(path, newest, numbers)
    results = run(product_tasks(recipe.without_zeros(), found.pairs, offsets, path))
    norms = reduce(add, (each for each in results if isinstance(each, Norms)), Norms())
    if not math.isfinite(norms.rounding):
        raise RefusedCheckpoint("the product of its factors is not finite in their dtype")
    layout = made.layout(path, newest, numbers)
    behind = recipe.behind(layout)
    copied = (1.0, *(0.0 for _ in recipe.layouts))
    rows = tuple((newest.extents[number].name, copied) for number in sorted(numbers))
    ranks = [pair.rank for pair in found.pairs]
    told = {
        "of": of,
        "weights": list(recipe.weights),
        "pairs": len(found.pairs),
        "ranks": [min(ranks), max(ranks)],
        "cross_term": _relative(norms.cross, norms.norm),
        "truncation": _relative(norms.truncation, norms.norm),
        "tolerance": tolerance(norms.rounding),
    }
    return Made(
        kind=PRODUCT,
        combination=replace(behind, layer_weights=behind.layer_weights + rows),
        path=path,
        account={"product": told, "digest": layout.fingerprint},
        notes=(_sentence(told), *(f"combined as they are: {why}" for why in found.left)),
    )


def _relative(square: float, of: float) -> float | None:
    return math.sqrt(square / of) if of > 0.0 else None


def _sentence(told: dict[str, object]) -> str:
    cross, truncation = told["cross_term"], told["truncation"]
    if not isinstance(cross, float) or not isinstance(truncation, float):
        return "the products of its factors are zero"
    return (
        f"the product of the combined factors would differ from the combined products by {cross:.3g} of their size (the "
        f"cross-term), the best of its rank by {truncation:.3g}"
    )


def extents_of(pairs: Sequence[FactorPair]) -> frozenset[int]:
    """The numbers of the extents that pairs of factors lie in."""
    return frozenset(view.extent for pair in pairs for view in (pair.up, pair.down))


def tolerance(rounding: float) -> float:
    """The largest relative difference of a product that is recomputed, given what rounding to the stored dtype makes."""
    return _TIMES * rounding + _LEAST


def problems(published: Layout, recipe: Combination, digest: str) -> tuple[list[str], str]:
    """What of a model's factors is not as its manifest says, and what was compared, in words.

    Args:
        published: the model.
        recipe: the plain combination.
        digest: that of the factors in the manifest.

    Raises:
        InputChanged: a file changed meanwhile.
    """
    pairs, own = factors(recipe.layouts[-1]).pairs, factors(published).pairs
    if not pairs:
        return ["its inputs have no pairs of factors whose product could be combined"], ""
    found = []
    if made.digest(published, extents_of(own)) != digest:
        found.append("its factors are not those of which its manifest has the digest")
    nowhere = dict.fromkeys((*extents_of(pairs), *extents_of(own)), 0)
    alone = Combination(layouts=(published,), weights=(1.0,))
    largest = 0.0
    numbered = iter(pairs)
    for wanted, stored in zip(
        product_tasks(recipe, pairs, nowhere, ""), product_tasks(alone, own, nowhere, ""), strict=True
    ):
        for best, (up, down) in zip(made_pairs(wanted), read_pairs(stored), strict=True):
            pair, exact = next(numbered), best.exact
            allowed = tolerance(best.rounding)
            differs = distance(up, down, exact.up, exact.down) / (exact.norm or 1.0)
            largest = max(largest, allowed)
            if not differs <= allowed:
                found.append(
                    f"{pair.down.name} and {pair.up.name}: their product differs from that of its inputs by {differs:.3g} of its "
                    f"size, more than {allowed:.3g}"
                )
    many = f"the product{'s' * (len(pairs) > 1)} of {len(pairs)} pair{'s' * (len(pairs) > 1)} of factors"
    return found, f"{many} to {largest:.2g} of their size"
