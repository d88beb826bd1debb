"""Which evaluations are kept: over a start with other settings, and in another window of the same checkpoint."""

from __future__ import annotations

import dataclasses
import itertools
import json
from typing import Any

import pytest

from rna_watch.config import RETIRED, RunConfig
from rna_watch.journal import events as e
from rna_watch.journal import kept
from rna_watch.journal.kept import HARMLESS, stale
from rna_watch.journal.replay import replay
from tests.dashboard.run_builder import RunBuilder

DEFAULTS: dict[str, Any] = json.loads(RunConfig().model_dump_json())
NAME = "epoch_009.pt"
MAY_STAY = {
    *("window", "windows", "regularizations", "methods", "priors", "mixings", "max_candidates", "fit_memory"),
    "anneal_seconds",
    *("learning_rate_jump", "metric", "mode", "first_round", "evaluators", "minimum_gain", "evaluation_timeout"),
    *(
        "allow_links",
        "output",
        "publish",
        "keep",
        "serving_copy",
        "exporters",
        "prometheus_port",
        "optimizer_state",
        "engine",
        "ray_address",
        "ray_from",
        "workers",
    ),
    *("choose_by", "on_model", "on_best", "until_idle", "last_step", "with_pid"),
    *("one_run", "patterns", "step", "every", "first_step", "quiet", "scan_interval", "pin", "store_budget", "reserve"),
}


def _with(**settings: object) -> e.Started:
    started = RunBuilder().events[0]
    return dataclasses.replace(started, settings={**DEFAULTS, **settings})


@pytest.mark.parametrize("name", RunConfig.model_fields)
def test_a_setting_makes_evaluations_stale_unless_it_is_known_to_be_harmless(name: str) -> None:
    """Every setting that changed counts, but for those that this test names too: a new one does until somebody has thought."""
    other = "another value"
    assert stale(_with(), _with(**{name: other})) == (name not in MAY_STAY)
    assert stale(_with(**{name: other}), _with()) == (name not in MAY_STAY)
    assert not stale(_with(**{name: other}), _with(**{name: other}))


def test_a_setting_that_nobody_has_thought_of_makes_evaluations_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    """A field that is added to `RunConfig` is on no list, and so its change is not ignored."""
    monkeypatch.setattr(kept, "_defaults", lambda: {**DEFAULTS, "brand_new": 1})
    assert stale(_with(), _with(brand_new=2))
    assert not stale(_with(), _with(brand_new=1))


@pytest.mark.parametrize("name", sorted(RunConfig.model_fields.keys() - HARMLESS))
def test_a_setting_that_an_older_record_lacks_had_its_default(name: str) -> None:
    """A journal from before the setting was there is as one that holds the default; settings that went count as nothing."""
    older = _with(**dict.fromkeys(RETIRED, 7))
    older = dataclasses.replace(older, settings={key: v for key, v in older.settings.items() if key != name})
    assert not stale(older, _with())
    assert not stale(_with(), older)
    assert stale(older, _with(**{name: "another value"}))


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ({"normalization": "clamp"}, {"normalization": "auto"}, True),
        ({"normalization": "both"}, {"normalization": "auto"}, True),
        ({"normalization": "combine"}, {"normalization": "auto"}, False),
        ({"normalization": "re-estimate"}, {"normalization": "auto"}, False),
        ({"ema_decay": 0.7}, {}, True),
        ({"ema_decay": 0.2}, {}, False),
        ({"ema_decay": 0.2}, {"ema_decays": [0.2]}, True),
    ],
)
def test_a_new_default_under_which_names_mean_the_same_makes_nothing_stale(
    before: dict[str, Any], after: dict[str, Any], same: bool
) -> None:
    """A journal from before re-estimated statistics and several decays keeps what it holds, where the models are the same."""
    older = _with(**before)
    if "ema_decay" in before:
        older = dataclasses.replace(older, settings={k: v for k, v in older.settings.items() if k != "ema_decays"})
    assert stale(older, _with(**after)) is not same


def _recipe(method: str, window: int) -> dict[str, Any]:
    return {"method": method, "window": window, "regularization": None, "parameters": {}, "statistics": "clamped"}


def _measured(*names: str, form: str = "") -> e.Measured:
    residuals = [[older, newer] for older, newer in itertools.pairwise(names)]
    return e.Measured(
        checkpoint=NAME, residuals=residuals, rows=[], rounding_energy=0.0, read_bytes=0, seconds=0.0, form=form
    )


@pytest.mark.parametrize(
    ("window", "names"),
    [
        (_measured("5", "6", "7", "8", "9"), {"last", "average-2", "average-4", "trained-4"}),
        (_measured("3", "4", "5", "6", "7", "8", "9"), {"last", "average-2", "average-4", "trained-4"}),
        (_measured("7", "8", "9"), {"last", "average-2"}),
        (_measured("4", "5", "7", "8", "9"), {"last", "average-2"}),
        (_measured("5", "6", "7", "9"), {"last"}),
        (_measured("5", "6", "7", "8", "9", "9.5"), {"last"}),
        (_measured("4", "5", "6", "7", "8", "9", form="gradient"), {"last"}),
    ],
    ids=["same", "longer", "shorter", "other oldest", "other newest", "shifted", "other form"],
)
@pytest.mark.parametrize("told", [True, False], ids=["recorded", "0.1.0"])
def test_in_another_window_what_both_end_in_makes_the_same_models(
    window: e.Measured, names: set[str], told: bool
) -> None:
    """A candidate over the newest few residuals is kept where those are the same; without its model on record, never."""
    run = RunBuilder().admit(9).add(_measured("5", "6", "7", "8", "9"))
    for name, recipe in {
        "last": _recipe("last", 1),
        "average-2": _recipe("average", 2),
        "average-4": _recipe("average", 4),
        "trained-4": _recipe("trained", 4),
    }.items():
        record: dict[str, Any] = {"recipe": recipe, "model": f"digest of {name}"} if told else {}
        run.add(e.Evaluated(checkpoint=NAME, candidate=name, metrics={"error": 1.0}, seconds=0.1, **record))
    before = run.state.checkpoints[NAME].evaluations
    after = replay([*run.events, window]).checkpoints[NAME].evaluations
    same = window.residuals == _measured("5", "6", "7", "8", "9").residuals
    assert set(after) == (set(before) if same else names if told else {"last"})
