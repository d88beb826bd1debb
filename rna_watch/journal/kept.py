"""What of a checkpoint's evaluations is kept: over a new start, and where the checkpoint has another window than before."""

from __future__ import annotations

import json
from itertools import takewhile
from typing import TYPE_CHECKING

from rna_watch.acceleration.methods import LAST
from rna_watch.config import RunConfig

if TYPE_CHECKING:
    from collections.abc import Set

    from rna_watch.journal.events import Measured, Started
    from rna_watch.journal.recipe import Recipe

# Settings that act neither on what a candidate of some name is nor on what the evaluator says of it. Whatever is not
# named here makes evaluations stale when it changes. The inputs of a window are recorded with it, the part of the data
# of a first round with what was said in it; settings that went act on nothing.
HARMLESS = frozenset({
    *("window", "windows", "regularizations", "methods", "priors", "mixings", "max_candidates", "trained_memory"),
    *("learning_rate_jump", "one_run", "mode", "first_round", "evaluators", "minimum_gain", "evaluation_timeout"),
    *("output", "publish", "keep", "export", "optimizer_state"),
    *("engine", "ray_address", "workers"),
    *("patterns", "quiet", "scan_interval", "pin", "store_budget", "reserve"),
})  # fmt: skip
_DEFAULTS = json.loads(RunConfig.model_validate({}).model_dump_json())


def stale(before: Started, after: Started) -> bool:
    """Whether the settings of a new start act on models or on the judge; one that a record lacks had its default."""
    return any(
        before.settings.get(name, default) != after.settings.get(name, default)
        for name, default in _DEFAULTS.items()
        if name not in HARMLESS
    )


def still_meant(before: Measured, after: Measured, models: dict[str, str], recipes: dict[str, Recipe]) -> Set[str]:
    """The candidates that are the same models in another window of the same checkpoint: those over what both end in.

    Args:
        before: the window in which they were evaluated.
        after: the present one.
        models: what tells each one's model from others, by name; empty where that was not recorded.
        recipes: of each, by name.
    """
    pairs = zip(reversed(before.residuals), reversed(after.residuals), strict=False)
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)) if before.form == after.form else 0
    return {
        name
        for name, model in models.items()
        if name == LAST or (model and (recipes[name].window or common + 1) <= common)
    }
