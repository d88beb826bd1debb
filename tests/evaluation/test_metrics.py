"""What an evaluator may return: numbers, or values by example."""

import math

import numpy as np
import pytest
import torch

from rna_watch.errors import EvaluationFailed
from rna_watch.evaluation.metrics import check_metrics


def test_numbers_of_any_library_are_metrics():
    """Python's, numpy's and torch's scalars become floats, in the evaluator's order."""
    found, examples = check_metrics({"b": 1, "a": np.float32(0.5), 3: torch.tensor([2.0]), "n": math.nan, "t": True})
    assert list(found) == ["b", "a", "3", "n", "t"]
    assert list(found.values())[:3] == [1.0, 0.5, 2.0]
    assert math.isnan(found["n"])
    assert all(type(value) is float for value in found.values())
    assert examples == {}


@pytest.mark.parametrize("value", [None, 0.5, [], {}, [("loss", 0.5)], "loss"], ids=repr)
def test_anything_but_a_filled_mapping_is_refused(value):
    """The message says what is wanted and what came instead."""
    with pytest.raises(EvaluationFailed, match="must return a dict of metric names to numbers, not "):
        check_metrics(value)


@pytest.mark.parametrize(
    "value",
    [None, "low", 1j, 10**400, object(), {0.5}, torch.tensor(1j)],
    ids=lambda value: type(value).__name__,
)
def test_a_metric_that_is_no_number_is_named(value):
    """The message names the metric and shows the value."""
    with pytest.raises(EvaluationFailed, match="^metric 'loss' is .*, not a number$"):
        check_metrics({"accuracy": 0.5, "loss": value})


VALUES = [0.5, 0.25, 3.0]


@pytest.mark.parametrize(
    "given",
    [
        VALUES,
        tuple(VALUES),
        np.array(VALUES),
        np.array(VALUES, dtype=np.float16),
        torch.tensor(VALUES),
        torch.tensor(VALUES, dtype=torch.bfloat16),
        torch.tensor(VALUES, requires_grad=True),
        torch.tensor(VALUES, requires_grad=True) * 1,
        torch.tensor([VALUES, VALUES]).T[:, 1],
        [torch.tensor(0.5), np.float32(0.25), 3],
    ],
    ids=lambda given: type(given).__name__,
)
def test_values_by_example_become_their_mean(given):
    """A 1-D list, array or tensor of any floating dtype gives the mean, and the values as float64 of their own."""
    metrics, examples = check_metrics({"loss": given, "one": 1})
    assert metrics == {"loss": 1.25, "one": 1.0}
    assert list(examples) == ["loss"]
    assert examples["loss"].dtype == np.float64
    assert examples["loss"].tolist() == VALUES
    assert examples["loss"].flags.owndata or examples["loss"].base.flags.owndata
    if isinstance(given, np.ndarray):
        given[:] = 0
        assert examples["loss"].tolist() == VALUES


@pytest.mark.parametrize(
    "given",
    [[True, False, True, 2], np.array([1, 0, 1, 2]), np.array([1, 0, 1, 2], "u1"), torch.tensor([1, 0, 1, 2])],
    ids=lambda given: type(given).__name__,
)
def test_counts_and_flags_are_values(given):
    """Whether each example was right is what most evaluators know: booleans and integers count as numbers."""
    metrics, examples = check_metrics({"right": given})
    assert metrics == {"right": 1.0}
    assert examples["right"].tolist() == [1.0, 0.0, 1.0, 2.0]
    assert check_metrics({"right": torch.tensor([True, False])})[0] == {"right": 0.5}


@pytest.mark.parametrize(
    "given",
    [[0.5], (0.5,), np.array([0.5]), np.array(0.5), torch.tensor(0.5, requires_grad=True), torch.ones(1, 1) / 2],
)
def test_one_value_is_a_number(given):
    """A single value, in whatever it is wrapped, is no list of examples."""
    assert check_metrics({"loss": given}) == ({"loss": 0.5}, {})


def test_an_example_that_is_not_finite_shows():
    """NaN among the values is NaN in the metric."""
    metrics, examples = check_metrics({"loss": [0.5, math.nan]})
    assert math.isnan(metrics["loss"])
    assert np.isnan(examples["loss"]).tolist() == [False, True]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "is empty"),
        (np.zeros(0), "is empty"),
        (torch.zeros(0), "is empty"),
        (np.ones((2, 3)), r"has shape \(2, 3\)"),
        (torch.ones(2, 1), r"has shape \(2, 1\)"),
        ([[0.5, 1.0]], r"is \[\[0.5, 1.0\]\]"),
        ([torch.ones(1), torch.ones(1)], r"is \[tensor"),
        (["0.5", "1"], r"is \['0.5', '1'\]"),
        ([0.5, None], r"is \[0.5, None\]"),
        ([1j, 2], r"is \[1j, 2\]"),
        (np.array(["a", "b"]), "holds values of <U1"),
        (np.array([1, None]), "holds values of object"),
        (np.array([1j, 2]), "holds values of complex128"),
        (torch.tensor([1j, 2]), "holds values of torch.complex64"),
    ],
    ids=str,
)
def test_values_that_are_none_by_example_say_what_to_return(given, message):
    """The message names the metric, what it is, and what it may be."""
    with pytest.raises(
        EvaluationFailed, match=rf"^metric 'loss' {message}.*: return a number, or one number per example as a 1-D"
    ):
        check_metrics({"accuracy": 0.5, "loss": given})
