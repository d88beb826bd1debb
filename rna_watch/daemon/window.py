"""The window of one checkpoint: its members, the form of its residuals, and their inner products in the journal."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from rna_watch.acceleration.layers import spread
from rna_watch.acceleration.methods import ANNEAL, COMBINED, PRODUCT
from rna_watch.acceleration.residuals import Form, NotExactError, TrainingState, choose_form, not_of_form
from rna_watch.journal.checkpoint import Checkpoint, Stage
from rna_watch.journal.kept import model_key
from rna_watch.layout.layout import Role
from rna_watch.window.combine import Combination
from rna_watch.window.companions import Companions, companions, training_state

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy.typing as npt

    from rna_watch.acceleration.candidate import Candidate
    from rna_watch.acceleration.residuals import Saved
    from rna_watch.formats.optimizer_state import Order
    from rna_watch.journal.events import Measured
    from rna_watch.layout.dtypes import Array
    from rna_watch.layout.layout import Layout

    Float64 = npt.NDArray[np.float64]

_DIGITS = 6
Pair = tuple[str, str]
Products = dict[tuple[Pair, Pair], float]


def state_of(checkpoint: Checkpoint, layout: Layout, order: Order) -> TrainingState:
    """The state of the training at an admitted checkpoint."""
    assert checkpoint.admitted is not None
    return training_state(layout, checkpoint.admitted.step, checkpoint.admitted.step_kind, order)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """K = N + 1 checkpoints, oldest first, with their layouts and the state of the training at each.

    `begins` says why it does not reach further back, where what lies before is of another training.
    """

    members: tuple[Checkpoint, ...]
    layouts: tuple[Layout, ...]
    states: tuple[TrainingState, ...] = field(default=())
    begins: str = ""

    @classmethod
    def of(cls, layouts: Sequence[Layout], states: Sequence[TrainingState]) -> Window:
        """A window of checkpoints that are in no journal, named by their paths."""
        members = tuple(Checkpoint(name=layout.path, stage=Stage.READY) for layout in layouts)
        return cls(members=members, layouts=tuple(layouts), states=tuple(states))

    @property
    def names(self) -> list[str]:
        """The names of the checkpoints."""
        return [member.name for member in self.members]

    @property
    def residuals(self) -> list[Pair]:
        """The N residuals, as (older, newer)."""
        return list(pairwise(self.names))

    @property
    def keys(self) -> list[str]:
        """What tells the models of the checkpoints from others of these names."""
        return [model_key(layout.fingerprint, layout.source) for layout in self.layouts]

    def combination(self, candidate: Candidate, statistics: Mapping[str, Array] | None = None) -> Combination:
        """A candidate as a recipe; a window of one gives that checkpoint itself.

        Args:
            candidate: the weights.
            statistics: re-estimated normalization statistics by tensor name, in the stored dtype's bits.
        """
        weights = candidate.weights if len(self.layouts) > 1 else (1.0,)
        recipe = Combination(
            layouts=self.layouts,
            weights=weights,
            layer_weights=tuple(candidate.layer_weights.items()),
            clamp=candidate.statistics != COMBINED,
        )
        return recipe.with_values(statistics) if statistics else recipe

    def spread(self, candidate: Candidate) -> tuple[float, ...]:
        """How far each weight of a candidate goes from tensor to tensor `(K,)`; empty where one row is for all."""
        parameters = {each.name: each.count for each in self.layouts[-1].extents if each.role is Role.PARAMETER}
        rows = {name: candidate.layer_weights.get(name, candidate.weights) for name in parameters}
        return spread(rows, parameters) if candidate.layer_weights else ()

    def model(self, candidate: Candidate) -> str:
        """A digest of what a candidate's model is made of: inputs that weigh, their source, weights, statistics, what is ignored.

        Windows of other lengths give other last digits of the same weights: six of them count, where three would tell models
        apart in a family.
        """
        if candidate.method in {ANNEAL, PRODUCT}:
            made = json.dumps([self.keys, candidate.name, sorted(candidate.parameters.items())])
            return hashlib.blake2b(made.encode(), digest_size=8).hexdigest()
        weights = [round(weight, _DIGITS) for weight in self.combination(candidate).weights]
        inputs = [
            (layout.fingerprint, layout.source, weight)
            for layout, weight in zip(self.layouts, weights, strict=True)
            if weight != 0.0 or candidate.layer_weights
        ]
        ignored = self.layouts[-1].ignored
        parts: list[object] = [inputs, candidate.statistics if len(inputs) > 1 else "", *([ignored] if ignored else [])]
        if candidate.layer_weights:
            parts.append({name: [round(w, _DIGITS) for w in row] for name, row in candidate.layer_weights.items()})
        made_of = json.dumps(parts)
        return hashlib.blake2b(made_of.encode(), digest_size=8).hexdigest()


def window_form(
    layouts: Sequence[Layout],
    states: Sequence[TrainingState],
    wanted: str,
    saved: Saved,
    order: Order,
    problem: str = "",
) -> tuple[Form, Companions | None]:
    """The form of a window's residuals, and what must be read next to the checkpoints for it (None: nothing).

    Args:
        layouts: the layouts of the K checkpoints, oldest first.
        states: the state of the training at each.
        wanted: the setting `residuals`.
        saved: the setting `lr_saved`.
        order: the setting `optimizer_order`.
        problem: why what lies next to the checkpoints cannot be used, if that is known.
    """
    if problem:
        return without(states, wanted, saved, problem), None
    form = choose_form(states, wanted, saved)
    try:
        return form, companions(layouts, form.name, order)
    except NotExactError as error:
        return without(states, wanted, saved, str(error)), None


def without(states: Sequence[TrainingState], wanted: str, saved: Saved, problem: str) -> Form:
    """The best form that reads nothing next to the checkpoints, because of a problem with what lies there.

    Args:
        states: the state of the training at each of the K checkpoints, oldest first.
        wanted: the setting `residuals`.
        saved: the setting `lr_saved`.
        problem: the problem, in words.
    """
    lost = choose_form(states, wanted, saved)
    if not lost.key:
        return lost
    bare = [replace(state, problem=problem, recorded=False, recording_problem=problem) for state in states]
    return replace(choose_form(bare, wanted, saved), notes=(not_of_form(lost.name, problem),))


def known_products(measurements: Iterable[Measured], form: str = "") -> Products:
    """All inner products of residuals that were measured in a form ("": plain differences), under both orders.

    They are kept by the keys of the models; what is of unknown models counts as not measured.
    """
    products: Products = {}
    for measured in measurements:
        if (form and measured.form != form) or not measured.inputs:
            continue
        rows = measured.form_rows if form else measured.rows
        pairs = list(pairwise(measured.inputs))
        for row, pair in zip(rows, pairs[len(pairs) - len(rows) :], strict=True):
            for other, value in zip(pairs, row, strict=True):
                products[pair, other] = products[other, pair] = value
    return products


def missing_rows(residuals: Sequence[Pair], products: Products) -> int:
    """How many of the newest rows must be measured; all others are known."""
    kept = 0
    while kept < len(residuals) and all((residuals[kept], other) in products for other in residuals[: kept + 1]):
        kept += 1
    return len(residuals) - kept


def assemble(residuals: Sequence[Pair], products: Products) -> Float64:
    """The Gram matrix `(N, N)` of these residuals."""
    return np.array([[products[a, b] for b in residuals] for a in residuals], dtype=np.float64)
