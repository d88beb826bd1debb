"""The report: one page with the answer first, everything escaped, nothing loaded from elsewhere, small for long runs."""

from __future__ import annotations

import html
import html.parser
import itertools
import math
from typing import TYPE_CHECKING

from rna_watch.journal import events as e
from rna_watch.journal.run_paths import RunPaths
from tests.comparison.run_of import Run

if TYPE_CHECKING:
    from pathlib import Path

VOID = {"meta", "br"}
MOST_BYTES = 2_000_000
LIMIT_S = 20.0  # about 1 s on a quiet core
NAME = "epoch_{:03}.pt"


class _Page(html.parser.HTMLParser):
    """A page's elements, attributes and words; an element that is not closed, or closed twice, fails."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(content)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        raise AssertionError(f"<{tag}/> with {attrs}")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def classes(self, *names: str) -> int:
        """How many elements have all these classes."""
        return sum({*names} <= {*(attributes.get("class") or "").split()} for _, attributes in self.elements)


def synthetic(paths: RunPaths, count: int, *, window: int = 5, metric: str = "error") -> Run:
    """A run as a daemon records it, with everything that the page shows; the last five models are kept."""
    run = Run(metric=metric, run=str(paths.run))
    paths.models.mkdir(parents=True)
    for step in range(1, count + 1):
        name = NAME.format(step)
        original = 4.0 + 80.0 * math.exp(-step / 4.0) + 0.6 * math.sin(step * 2.1)
        run.admit(step)
        if step < 3:
            run.add(e.Evaluated(checkpoint=name, candidate="last", metrics={metric: original}, seconds=0.1))
            run.add(e.Finished(checkpoint=name, reason="extrapolation begins with 3"))
            continue
        k = min(step, window + 1)
        inputs = [NAME.format(each) for each in range(step - k + 1, step + 1)]
        weights = {"last": [0.0] * (k - 1) + [1.0], f"average-{k - 1}": [0.0] + [1.0 / (k - 1)] * (k - 1)}
        weights[f"rna-{k - 1}-1e-08"] = [-0.2] + [1.2 / (k - 1)] * (k - 1)
        values = dict(zip(weights, [original, original - 0.9, original - 1.0 - 0.2 * math.cos(step)], strict=True))
        values[f"layered-{k - 1}"] = original - 1.1
        run.add(
            e.Measured(
                checkpoint=name,
                residuals=[[one, two] for one, two in itertools.pairwise(inputs)],
                rows=[[9.0 / step] * (k - 1)],
                rounding_energy=0.0,
                read_bytes=1,
                seconds=0.1,
            )
        )
        candidates = [
            {"name": each, "method": each.partition("-")[0], "weights": row, "parameters": {}, "window": k - 1}
            for each, row in weights.items()
        ]
        run.add(e.Searched(checkpoint=name, residuals="d", candidates=candidates, duplicates={}, left_out=[], notes=[]))
        for candidate, value in values.items():
            metrics = {metric: value, "test_" + metric: value + 0.5}
            run.add(
                e.Evaluated(
                    checkpoint=name,
                    candidate=candidate,
                    metrics=metrics,
                    seconds=0.1,
                    recipe={"method": candidate.partition("-")[0], "window": k - 1, "parameters": {}},
                )
            )
        chosen = min(values, key=values.__getitem__)
        run.add(
            e.Chosen(
                checkpoint=name,
                candidate=chosen,
                method=chosen.partition("-")[0],
                inputs=inputs,
                weights=weights[f"rna-{k - 1}-1e-08"],
                metrics={"original": {metric: original}, "chosen": {metric: values[chosen]}},
                better_than_original=True,
                significant=True,
                reason="so it is",
                diagnostics={"condition": 10.0 ** (step % 5), "norm1": 1.4, "norm2": 0.8},
                tested_on=metric,
            )
        )
        run.publish(step)
        (paths.models / name).touch()
        if step > 7:
            (paths.models / NAME.format(step - 5)).unlink()
            run.add(e.Pruned(checkpoint=NAME.format(step - 5), output=NAME.format(step - 5)))
    best = run.state.checkpoints[NAME.format(count)]
    if best.chosen:
        value = (best.chosen.metrics["chosen"] or {})[metric]
        run.add(e.BestMoved(checkpoint=best.name, output=best.name, value=value))
    return run


def _paths(folder: Path) -> RunPaths:
    return RunPaths(run=folder, output=folder)
