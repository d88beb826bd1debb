"""What a long journal costs: start, `status`, a dashboard, the daemon's memory and the next checkpoint, at two lengths."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import TYPE_CHECKING

from rna_watch.config import RunConfig, as_json
from rna_watch.journal import events as e

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rna_watch.journal.run_paths import RunPaths

EVALUATIONS = 9
_WINDOW = 10
_NAMES = (
    "last",
    "average-5",
    "average-10",
    *(f"rna-{n}-{lam}" for n in (5, 10) for lam in ("1e-08", "1e-06", "1e-04")),
)


def made(paths: RunPaths, count: int, evaluations: int = EVALUATIONS) -> Iterator[e.Event]:
    """The events of a run of so many checkpoints, each with a window of ten and so many evaluations."""
    rng = random.Random(0)
    digest = f"{0:032x}"
    yield e.Started(
        host="host",
        pid=1,
        version="0.2.0",
        run=str(paths.run),
        output=str(paths.output),
        engine="local",
        evaluator="eval.py:evaluate",
        settings=as_json(RunConfig.model_validate({"evaluator": "eval.py:evaluate", "engine": "local"})),
        evaluator_digest=digest,
    )
    yield e.MetricChosen(metric="error", mode="min")
    names = [f"epoch_{number:05d}.pt" for number in range(1, count + 1)]
    keys = [f"{rng.getrandbits(128):032x}" for _ in names]
    best = 1.0
    for number, name in enumerate(names):
        window = names[max(0, number - _WINDOW) : number + 1]
        yield e.Admitted(
            checkpoint=name,
            path=name,
            step=number + 1,
            step_kind="epoch",
            format="torch zip",
            source="model",
            size_bytes=104_015,
            parameters=24_058,
            fingerprint=keys[number],
            inode=1_000_000 + number,
            mtime_ns=1_700_000_000_000_000_000 + number * 10**9,
            pin="link",
            pin_path=f".rna-watch/pins/{name}.{keys[number][:8]}.pinned",
            series="epoch_#.pt",
            counters={"epoch": number + 1},
            told="the epoch in the name",
        )
        if len(window) < 3:
            yield e.Finished(checkpoint=name, reason="extrapolation begins with 3")
            continue
        yield e.Measured(
            checkpoint=name,
            residuals=[list(pair) for pair in pairwise(window)],
            rows=[[rng.random() for _ in window[1:]]],
            rounding_energy=rng.random(),
            read_bytes=200_000,
            seconds=rng.random(),
            inputs=[f"{key}@model" for key in keys[max(0, number - _WINDOW) : number + 1]],
            matrices=[[rng.random() for _ in range(3)]],
        )
        candidates = _NAMES[:evaluations]
        weights = {each: [rng.random() for _ in window] for each in candidates}
        recipe = {"method": "rna", "window": 5, "regularization": 1e-8, "parameters": {}, "statistics": "clamped"}
        metrics = {each: {"error": rng.random() * 0.5 + 0.3, "loss": rng.random()} for each in candidates}
        for candidate in candidates:
            yield e.Evaluated(
                checkpoint=name,
                candidate=candidate,
                metrics=metrics[candidate],
                seconds=rng.random(),
                recipe=recipe,
                model=f"{rng.getrandbits(64):016x}",
            )
        yield e.Searched(
            checkpoint=name,
            residuals="difference",
            candidates=[{"name": each, **recipe, "weights": weights[each], "sentence": ""} for each in candidates],
            duplicates={},
            left_out=[],
            notes=[],
        )
        chosen = candidates[-1]
        value = metrics[chosen]["error"]
        yield e.Chosen(
            checkpoint=name,
            candidate=chosen,
            method="rna",
            inputs=window,
            weights=weights[chosen],
            metrics={"original": metrics["last"], "average": None, "rna": metrics[chosen], "chosen": metrics[chosen]},
            better_than_original=value < metrics["last"]["error"],
            significant=None,
            reason="it has the best error",
            residuals="difference",
            diagnostics={"condition": rng.random(), "norm2": rng.random(), "sentence": "acts as an average"},
        )
        yield e.Publishing(
            checkpoint=name, output=name, temporary=f".rna-watch-{name}.tmp", manifest_digest=keys[number]
        )
        yield e.Published(checkpoint=name, output=name, written_bytes=104_015, seconds=rng.random())
        if value < min(best, metrics["last"]["error"]):
            best = value
            yield e.BestMoved(checkpoint=name, output=name, value=value)
        if number >= _WINDOW:
            yield e.Unpinned(checkpoint=names[number - _WINDOW], reason="")
            yield e.Pruned(checkpoint=names[number - _WINDOW], output=names[number - _WINDOW])
