"""The tables of levers tell what was measured, and their trainings go on where they were stopped."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from tests.benchmarks.levers import tables, train_text
from tests.benchmarks.levers.tables import Window
from tests.benchmarks.levers.tasks import TRAININGS
from tests.benchmarks.levers.windows import Model

if TYPE_CHECKING:
    from pathlib import Path


def _model(name: str, method: str, held_out: float, test: float, **others: object) -> Model:
    values = {"held_out_loss": np.full(3, held_out), "test_error": np.full(5, test)}
    return Model(
        **{"name": name, "method": method, "chosen": False, "values": values, "seconds": 0.0, "steps": 0} | others
    )  # type: ignore[arg-type]


def _window(seed: int, *models: Model) -> Window:
    return Window(phase="early", seed=seed, step=5, models=models)


def test_rows_pick_by_held_out_examples_and_report_others() -> None:
    """The best average has the lowest held-out loss; differences are to it, and it stands for models that are not there."""
    plain = [
        _model("last", "last", 0.9, 5.0),
        _model("average-3", "average", 0.5, 9.0),
        _model("ema-5", "ema", 0.7, 1.0),
    ]
    windows = [
        _window(0, *plain, _model("layered-5", "layered", 0.4, 8.0, chosen=True)),
        _window(1, *plain, _model("layered-5", "layered", 0.6, 6.0)),
    ]
    assert tables.values(windows, "best average", "early", "test_error") == ([9.0, 9.0], [0.0, 0.0])
    assert tables.values(windows, "layered", "early", "test_error") == ([8.0, 6.0], [-1.0, -3.0])
    assert tables.values(windows, "best of all", "early", "test_error") == ([8.0, 9.0], [-1.0, 0.0])
    assert tables.values(windows, "chosen", "early", "test_error") == ([8.0, 9.0], [-1.0, 0.0])
    assert tables.values(windows, "anneal", "early", "test_error") == ([], [])
    table = tables.markdown("here", windows, ["early"], "test_error", {"layered": "2 s"})
    assert "| best average | 9.00 ± 0.00 |  |" in table
    assert "| layered | 7.00 ± 1.00 [-2.00 ± 1.00] | 2 s |" in table
    assert "| anneal |" not in table


def test_windows_of_a_seed_are_averaged_before_seeds_are() -> None:
    """Two windows of a seed count once: the standard error is that of seeds."""
    windows = [_window(seed, _model("last", "last", 0.5, test)) for seed, test in ((0, 1.0), (0, 3.0), (1, 4.0))]
    means, _ = tables.values(windows, "last", "early", "test_error")
    assert means == [2.0, 4.0]
    assert tables.error(means) == pytest.approx(1.0)
    assert math.isnan(tables.error(means[:1]))


def test_the_cost_of_a_method_is_that_of_all_its_models() -> None:
    """Seconds and steps of the models of one window add up; windows without the method do not count."""
    made = [_model(f"anneal-{n}", "anneal", 0.5, 1.0, seconds=2.0, steps=60) for n in range(4)]
    windows = [_window(0, *made), _window(1, _model("last", "last", 0.5, 1.0))]
    assert tables.cost(windows, "anneal") == (8.0, 240.0)
    assert math.isnan(tables.cost(windows, "layered")[0])


def test_a_training_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A language model trained in two parts equals the one that was trained at once, bit for bit, with its optimizer."""
    for folder, counts in (("whole", (4,)), ("parts", (2, 4))):
        for steps in counts:
            arguments = [str(tmp_path / folder), "--steps", str(steps), "--every", "2", "--tiny"]
            monkeypatch.setattr(sys, "argv", ["train_text.py", *arguments])
            train_text.main()
    whole, parts = (torch.load(tmp_path / name / "step_00004.pt", weights_only=True) for name in ("whole", "parts"))
    assert all(torch.equal(value, parts["model"][name]) for name, value in whole["model"].items())
    assert all(
        torch.equal(state["exp_avg"], parts["optimizer"]["state"][number]["exp_avg"])
        for number, state in whole["optimizer"]["state"].items()
    )


def test_nobody_is_trained_on_what_models_are_judged_on(tmp_path: Path) -> None:
    """No digit that losses are taken of is held out or tested on."""
    judged = TRAININGS["digits"].judged(tmp_path, True)
    held_out, test = (torch.cat([x for x, _ in part]) for part in (judged.held_out, judged.test))
    assert len(held_out) + len(test) == 797
    assert not set(map(tuple, held_out.flatten(1).tolist())) & set(map(tuple, test.flatten(1).tolist()))
    parts = train_text.texts()
    assert min(map(len, parts.values())) > 100_000
