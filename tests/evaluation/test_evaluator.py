"""What an evaluator may return, and how it is named."""

import math

import pytest

from rna_watch.errors import EvaluationFailed, UsageError
from rna_watch.evaluation.evaluator import choosing_metric, split_function

from .models import spec


def test_models_are_chosen_by_the_wanted_metric_or_the_first():
    """The first metric chooses if none is wanted; the error about a missing one names those that are there."""
    metrics = {"loss": 0.5, "accuracy": math.nan}
    assert choosing_metric(metrics, None) == "loss"
    assert choosing_metric(metrics, "accuracy") == "accuracy"
    with pytest.raises(EvaluationFailed, match=r"no 'acc' \(--metric\), only: loss, accuracy"):
        choosing_metric(metrics, "acc")


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
