"""What of a checkpoint's evaluations is kept: over a new start, and where the checkpoint has another window than before."""

from __future__ import annotations

from functools import cache
from itertools import takewhile
from typing import TYPE_CHECKING

from rna_watch.acceleration.methods import LAST, USUAL_DECAY

if TYPE_CHECKING:
    from collections.abc import Set
    from typing import Any

    from rna_watch.journal.events import Admitted, Measured, Started
    from rna_watch.journal.recipe import Recipe

# Settings that act neither on what a candidate of some name is nor on what the evaluator says of it. Whatever is not
# named here makes evaluations stale when it changes. The inputs of a window are recorded with it, the part of the data
# of a first round with what was said in it; settings that went act on nothing.
HARMLESS = frozenset({
    *("window", "windows", "regularizations", "methods", "priors", "mixings", "max_candidates", "fit_memory"),
    "anneal_seconds",
    *("learning_rate_jump", "one_run", "metric", "choose_by", "mode", "first_round", "evaluators", "minimum_gain"),
    *("evaluation_timeout",),
    *("output", "allow_links", "publish", "keep", "serving_copy", "exporters", "prometheus_port", "optimizer_state"),
    *("engine", "ray_address", "ray_from", "workers"),
    *("patterns", "step", "every", "first_step", "quiet", "scan_interval", "pin", "store_budget", "reserve"),
    *("on_model", "on_best", "until_idle", "last_step", "with_pid"),
})  # fmt: skip
# Settings whose change takes effect by itself on what is there, or that act on nothing that was made.
_AT_ONCE = frozenset({
    *("evaluator", "evaluate_command", "device", "evaluation_threads", "gpus", "evaluators", "evaluation_timeout"),
    *("metric", "mode", "source", "output", "allow_links", "keep", "engine", "ray_address", "ray_from", "workers"),
    *("quiet", "scan_interval", "pin", "store_budget", "reserve", "fit_memory"),
    *("anneal_seconds", "exporters", "prometheus_port"),
    *("on_model", "on_best", "until_idle", "last_step", "with_pid"),
})  # fmt: skip
# Settings by which checkpoints are taken: what was taken or left out before stays so.
ADMITTING = frozenset({"patterns", "every", "first_step", "learning_rate_jump"})
# re-estimated statistics have candidates of their own beside the clamped ones
_CLAMP, _CLAMPING = "clamp", ("auto", "both")


@cache
def _defaults() -> dict[str, Any]:
    """The settings and their defaults; few records are so old that they are needed, and they take long to read."""
    from rna_watch.config import RunConfig, as_json

    return as_json(RunConfig.model_validate({}))


def judge(started: Started) -> tuple[str, ...]:
    """What must be equal for evaluations to be comparable: the user's evaluator, the content of its file, the device.

    The place of a file whose content is known does not count: a path may be spelled in several ways.
    """
    name = str(_setting(started, "evaluator") or _setting(started, "evaluate_command") or started.evaluator or "")
    if not name:
        return ()
    if started.evaluator_digest and _setting(started, "evaluate_command") is None:
        name = name.rpartition(":")[2]
    return name, started.evaluator_digest, str(_setting(started, "device"))


def stale(before: Started, after: Started) -> bool:
    """Whether the settings of a new start act on models or on the judge; one that a record lacks had its default."""
    return judge(before) != judge(after) or bool(_changed(before, after) - HARMLESS - {"evaluator"})


def remade(before: Started, after: Started) -> bool:
    """Whether candidates of the same names are other models under the settings of a new start, as far as settings tell."""
    return bool(_changed(before, after) - HARMLESS - _AT_ONCE - ADMITTING)


def without_effect(before: Started, after: Started) -> dict[str, tuple[Any, Any]]:
    """The settings of a new start that have no effect on models made before, with both values."""
    names = sorted(_changed(before, after) - _AT_ONCE)
    return {name: (_setting(before, name), _setting(after, name)) for name in names}


def _changed(before: Started, after: Started) -> set[str]:
    if before.settings == after.settings:
        return set()
    return {name for name in _defaults() if _setting(before, name) != _setting(after, name)}


def _setting(started: Started, name: str) -> object:
    """A setting of a start; one that its record lacks had its default.

    Values under which candidates of the same names are the same models are one.
    """
    settings = started.settings
    if name == "ema_decays" and name not in settings and settings.get("ema_decay", USUAL_DECAY) != USUAL_DECAY:
        return [settings["ema_decay"]]
    value = settings.get(name, settings.get("export") if name == "serving_copy" else None)
    value = _defaults().get(name) if value is None and name not in settings else value
    return _CLAMP if name == "normalization" and value in _CLAMPING else value


def model_key(fingerprint: str, source: str) -> str:
    """What tells the model in a checkpoint from another: the content of its files, and which model in them is meant."""
    return f"{fingerprint}@{source}" if source else fingerprint


def input_keys(measured: Measured, admitted: dict[str, Admitted | None]) -> list[str]:
    """The keys of the models between which residuals were measured, by what is known of their names; none if unknown."""
    names = [measured.residuals[0][0], *(newer for _, newer in measured.residuals)] if measured.residuals else []
    known = [admitted.get(name) for name in names]
    return [model_key(each.fingerprint, each.source) for each in known if each] if all(known) else []


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
