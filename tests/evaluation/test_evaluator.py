"""What an evaluator may return, and how it is named."""

import math

import numpy as np
import pytest
import torch

from rna_watch.errors import EvaluationFailed, UsageError
from rna_watch.evaluation.evaluator import check_metrics, choosing_metric, finite, split_function

from .models import spec


def test_numbers_of_any_library_are_metrics():
    """Python's, numpy's and torch's scalars become floats, in the evaluator's order."""
    found = check_metrics({"b": 1, "a": np.float32(0.5), 3: torch.tensor([2.0]), "n": math.nan, "t": True})
    assert list(found) == ["b", "a", "3", "n", "t"]
    assert list(found.values())[:3] == [1.0, 0.5, 2.0]
    assert math.isnan(found["n"])
    assert all(type(value) is float for value in found.values())


@pytest.mark.parametrize("value", [None, 0.5, [], {}, [("loss", 0.5)], "loss"], ids=repr)
def test_anything_but_a_filled_mapping_is_refused(value):
    """The message says what is wanted and what came instead."""
    with pytest.raises(EvaluationFailed, match="must return a dict of metric names to numbers, not "):
        check_metrics(value)


@pytest.mark.parametrize(
    "value",
    [None, "low", [0.5], 1j, torch.ones(2), np.ones(2), 10**400, object()],
    ids=lambda value: type(value).__name__,
)
def test_a_metric_that_is_no_number_is_named(value):
    """The message names the metric and shows the value."""
    with pytest.raises(EvaluationFailed, match="^metric 'loss' is .*, not a number$"):
        check_metrics({"accuracy": 0.5, "loss": value})


def test_models_are_chosen_by_the_wanted_metric_or_the_first():
    """Without a wish the first metric chooses; one that is not there is answered with those that are."""
    metrics = {"loss": 0.5, "accuracy": math.nan}
    assert choosing_metric(metrics, None) == "loss"
    assert choosing_metric(metrics, "accuracy") == "accuracy"
    with pytest.raises(EvaluationFailed, match=r"no 'acc' \(--metric\), only: loss, accuracy"):
        choosing_metric(metrics, "acc")


def test_only_finite_metrics_count():
    """NaN, infinity and absence are no numbers to compare by."""
    metrics = {"loss": 0.5, "bad": math.nan, "worse": math.inf}
    assert [finite(metrics, name) for name in ("loss", "bad", "worse", "none")] == [True, False, False, False]


@pytest.mark.parametrize(
    ("text", "parts"),
    [("eval.py:evaluate", ("eval.py", "evaluate")), ("/a:b/eval.py:run", ("/a:b/eval.py", "run"))],
)
def test_a_function_is_named_by_file_and_name(text, parts):
    """FILE.py:function is taken apart at its last colon."""
    assert split_function(text) == parts


@pytest.mark.parametrize(
    "text", ["", "eval.py", "eval:evaluate", "eval.py:", "eval.py:a.b", "eval.py:1st", ":evaluate"]
)
def test_another_form_is_wrong_usage(text):
    """What is no FILE.py:function is answered with the form."""
    with pytest.raises(UsageError, match=r"must be FILE\.py:function, not"):
        split_function(text)


def test_a_specification_shows_no_secrets(tmp_path):
    """The environment, which may hold keys, is not in its representation."""
    found = spec(tmp_path, command="python eval.py", environment={"TOKEN": "secret"})
    assert "secret" not in repr(found)
    assert found.description == "python eval.py"
