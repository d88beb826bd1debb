"""What the user's evaluator returned, checked: metrics, and their values on each example."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rna_watch.errors import EvaluationFailed

if TYPE_CHECKING:
    from rna_watch.layout.dtypes import Array, Float64

_WANTED = "return a number, or one number per example as a 1-D tensor, array or list"


def check_metrics(value: object) -> tuple[dict[str, float], dict[str, Float64]]:
    """The metrics that an evaluator returned, as floats, and the values per example of those that have them.

    A metric is a number, or a 1-D tensor, array or list of M > 1 values, one per example; their mean is the metric then.

    Returns:
        The metrics by name, in the evaluator's order; the values `(M,)` of the metrics given by example.

    Raises:
        EvaluationFailed: the value is no mapping of names to numbers or to values per example, or it is empty.
    """
    if not isinstance(value, Mapping) or not value:
        raise EvaluationFailed(f"the evaluator must return a dict of metric names to numbers, not {value!r:.100}")
    metrics: dict[str, float] = {}
    examples: dict[str, Float64] = {}
    for name, given in value.items():
        given = given.detach() if hasattr(given, "detach") else given  # noqa: PLW2901 - the same value, without its graph
        try:
            values = _values(given)
            metrics[str(name)] = float(given) if values is None else float(values.mean())
        except EvaluationFailed as error:
            raise EvaluationFailed(f"metric {name!r} {error}: {_WANTED}") from error
        except (TypeError, ValueError, OverflowError, RuntimeError) as error:
            raise EvaluationFailed(f"metric {name!r} is {given!r:.100}, not a number") from error
        if values is not None and len(values) > 1:
            examples[str(name)] = values
    return metrics, examples


def _values(given: Any) -> Float64 | None:
    """The values per example as a new array `(M,)`; None for what should be a single number."""
    if isinstance(given, list | tuple):
        return _checked(np.array([_number(each, given) for each in given], dtype=np.float64))
    if getattr(given, "ndim", 0) == 0:
        return None
    if hasattr(given, "is_complex"):  # a tensor, anywhere; numpy has no bfloat16
        if given.is_complex():
            raise EvaluationFailed(f"holds values of {given.dtype}")
        return _checked(given.cpu().double().numpy())
    array = np.asarray(given)
    if array.dtype.kind not in "biuf":
        raise EvaluationFailed(f"holds values of {array.dtype}")
    return _checked(array)


def _number(each: Any, given: object) -> float:
    try:
        if isinstance(each, str | bytes) or getattr(each, "ndim", 0) > 0:
            raise TypeError
        return float(each)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise EvaluationFailed(f"is {given!r:.100}") from error


def _checked(array: Array) -> Float64:
    if array.size == 0:
        raise EvaluationFailed("is empty")
    if array.ndim > 1 and array.size > 1:
        raise EvaluationFailed(f"has shape {tuple(array.shape)}")
    return np.array(array, dtype=np.float64).reshape(-1)
