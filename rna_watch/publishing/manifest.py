"""The manifest of a published model: what it is made of, and what it is worth."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy

import rna_watch
from rna_watch.publishing.made import COMBINATION

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rna_watch.acceleration.candidate import Candidate
    from rna_watch.acceleration.residuals import Residuals
    from rna_watch.publishing.made import Made
    from rna_watch.publishing.output import Output

SCHEMA = 2  # the newest that is known; where one row of weights tells the model, schema 1 does
_ROWS = '"layer_weights": null'
_KEPT = "Optimizer state, if any, is the newest checkpoint's: do not resume training from this model with it."
_DROPPED = "Optimizer state was left out: training that goes on from this model begins with a new optimizer."


def describe(
    output: Output,
    *,
    checkpoint: str,
    step: int | None,
    inputs: Sequence[Mapping[str, Any]],
    candidate: Candidate,
    metrics: Mapping[str, Mapping[str, float] | None],
    better_than_original: bool | None,
    significant: bool | None,
    tested_on: str | None = None,
    reason: str,
    residuals: Residuals,
    comparisons: Sequence[Mapping[str, Any]] = (),
    series: str | None = None,
    notes: Sequence[str] = (),
    made: Made | None = None,
) -> dict[str, Any]:
    """What a published model is, so that anybody can check it: the model is exactly sum_k weights[k] * inputs[k].

    The row of a tensor that `layer_weights` names takes the place of `weights`, which are then the mean over elements.

    Args:
        output: the model.
        checkpoint: name of the newest input.
        step: its step or epoch.
        inputs: path, step and fingerprint of each, oldest first.
        candidate: the weights, with method and diagnostics.
        metrics: `original`, `average`, `chosen` (and `rna`), each a name -> number map or None.
        better_than_original: strict, on the choosing metric.
        significant: whether the gain is beyond noise.
        tested_on: the metric or loss in which that was found.
        reason: the choice in one sentence.
        residuals: what the weights were found from.
        comparisons: the steps of the choice.
        series: the series of the inputs in their run; None outside of a run.
        notes: what else a person should know of the inputs, in sentences.
        made: how the model was made, if it is no combination; there are no `weights` then.
    """
    newest = output.recipe.layouts[-1]
    return {
        "schema": SCHEMA if candidate.layer_weights or made else 1,
        "kind": made.kind if made else COMBINATION,
        "checkpoint": checkpoint,
        "step": step,
        "series": series,
        "inputs": [dict(each) for each in inputs],
        "source": newest.source,
        "ignore": list(newest.ignore),
        "ignored": list(newest.ignored),
        "weights": None if made else list(candidate.weights),
        "layer_weights": {name: list(row) for name, row in candidate.layer_weights.items()} or None,
        "coefficients": None if made else list(candidate.coefficients),
        **(made.account if made else {}),
        "method": candidate.method,
        "candidate": candidate.name,
        "window": candidate.window,
        "regularization": candidate.regularization,
        "prior": candidate.parameters.get("prior"),
        "mixing": candidate.parameters.get("mixing", 1.0),
        "residuals": residuals.form,
        "notes": [*residuals.notes, *output.notes, *notes, *(made.notes if made else ())],
        "statistics": candidate.statistics,
        "metrics": {key: None if value is None else dict(value) for key, value in metrics.items()},
        "better_than_original": better_than_original,
        "significant": significant,
        "tested_on": tested_on,
        "reason": reason,
        "comparisons": [finite(step) for step in comparisons],
        "diagnostics": finite(asdict(candidate.diagnostics)),
        "versions": {"rna_watch": rna_watch.__version__, "numpy": numpy.__version__},
        "export": output.export.name if output.export else None,
        "optimizer_state": "dropped" if output.dropped else "kept",
        "warning": _DROPPED if output.dropped else _KEPT,
    }


def finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no NaN and no infinity: null stands for them."""
    return {
        key: None if isinstance(value, float) and not numpy.isfinite(value) else value for key, value in values.items()
    }


def encode(content: Mapping[str, Any]) -> bytes:
    """A manifest's bytes; every tensor's row of weights is one line."""
    text = json.dumps({**content, "layer_weights": None}, indent=2)
    rows = content.get("layer_weights")
    if rows:
        lines = ",\n".join(f"    {json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items())
        text = text.replace(_ROWS, f'"layer_weights": {{\n{lines}\n  }}', 1)
    return (text + "\n").encode()


def digest(content: bytes) -> str:
    """What a journal keeps of a manifest, to tell it from another."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()
