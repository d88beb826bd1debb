"""Runs for the comparison: a table of candidates and their metrics becomes a journal's state."""

from __future__ import annotations

from typing import Any

from rna_watch.journal import events as e
from tests.dashboard.run_builder import RunBuilder

METHODS = {"last": "last"}


class Run(RunBuilder):
    """A run in which each checkpoint's family, duplicates and choice are written down by the test."""

    def checkpoint(
        self,
        step: int,
        values: dict[str, float | dict[str, float]],
        *,
        chosen: str | None = None,
        better: bool | None = None,
        significant: bool | None = None,
        duplicates: dict[str, str] | None = None,
        methods: dict[str, str] | None = None,
        recipes: dict[str, dict[str, Any]] | None = None,
        searched: bool = True,
        residuals: int = 0,
        finished: bool = True,
    ) -> Run:
        """One checkpoint: `values` are the choosing metric, or all metrics, of each candidate that was evaluated."""
        name = f"epoch_{step:03}.pt"
        self.admit(step)
        if residuals:
            self.add(
                e.Measured(
                    checkpoint=name,
                    residuals=[[str(k), str(k + 1)] for k in range(residuals)],
                    rows=[],
                    rounding_energy=0.0,
                    read_bytes=0,
                    seconds=0.0,
                )
            )
        metrics: dict[str, dict[str, float]] = {
            key: value if isinstance(value, dict) else {self.metric or "error": value} for key, value in values.items()
        }
        if searched:
            candidates: list[dict[str, Any]] = [
                {"name": key, "method": (methods or {}).get(key, key.partition("-")[0])} | (recipes or {}).get(key, {})
                for key in values
            ]
            self.add(
                e.Searched(
                    checkpoint=name,
                    residuals="differences",
                    candidates=candidates,
                    duplicates=duplicates or {},
                    left_out=[],
                    notes=[],
                )
            )
        for key, value in metrics.items():
            self.add(e.Evaluated(checkpoint=name, candidate=key, metrics=value, seconds=0.1))
        if chosen:
            self.add(
                e.Chosen(
                    checkpoint=name,
                    candidate=chosen,
                    method=chosen.partition("-")[0],
                    inputs=[],
                    weights=[],
                    metrics={"original": metrics.get("last"), "chosen": metrics.get(chosen)},
                    better_than_original=better,
                    significant=significant,
                    reason="so it is",
                )
            )
        elif finished:
            self.add(e.Finished(checkpoint=name, reason="number 1 of a new window; extrapolation begins with 3"))
        return self


def usual_run(count: int = 12) -> Run:
    """Errors that fall, windows that grow to 5; averages win early, RNA late, a second metric that chose nothing."""
    run = Run()
    for step in range(1, count + 1):
        original = 40.0 / step + 2.0 + 3.0 * (step % 2)
        values: dict[str, float | dict[str, float]] = {"last": {"error": original, "test_error": original + 0.5}}
        if step < 3:
            run.checkpoint(step, values, residuals=step - 1)
            continue
        window = min(step - 1, 5)
        average, rna = original * 0.6, original * (0.7 if step < count // 2 else 0.5)
        values[f"average-{window}"] = {"error": average, "test_error": average + 0.25}
        values["average-2"] = {"error": average + 1.0, "test_error": average + 1.0}
        values[f"rna-{window}-1e-08"] = {"error": rna, "test_error": rna + 0.75}
        chosen = f"average-{window}" if average < rna else f"rna-{window}-1e-08"
        run.checkpoint(
            step, values, chosen=chosen, better=True, significant=(True, False, None)[step % 3], residuals=step - 1
        )
    return run
