"""What the models are made of over time: weights of the checkpoints, condition of the systems, norms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rna_watch.acceleration.methods import PRODUCT, RNA
from rna_watch.comparison.plot import logarithmic
from rna_watch.dashboard.scale import around
from rna_watch.exporters import chart, heat_map
from rna_watch.exporters.markup import Markup, join, tag
from rna_watch.exporters.style import NARROW, WIDE
from rna_watch.journal.quantities import as_number, plain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rna_watch.comparison.comparison import Comparison
    from rna_watch.journal.replay import Checkpoint

_MOST_ROWS = 40
_LONGEST_NAME = 34


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """What is told of one checkpoint: what was chosen (`candidate` is None if nothing was), RNA's best, and the numbers of both.

    `weights` are those of the chosen model, `tried` those of the best RNA (None: there is none).
    """

    name: str
    step: int
    candidate: str | None
    method: str
    spread: bool
    weights: list[float]
    tried: list[float] | None
    diagnostics: Mapping[str, object]
    residual: float | None


def section(checkpoints: Sequence[Checkpoint], c: Comparison | None, step_kind: str) -> Markup:
    """Heat maps of the weights of chosen models, and of RNA's where others were chosen; condition and norms.

    Args:
        checkpoints: those of one sequence, by step.
        c: the comparison of it, if anything was evaluated.
        step_kind: what its steps count.
    """
    names = {row.checkpoint: row.points[RNA].candidate for row in c.rows if RNA in row.points} if c else {}
    made = [_made(each, names.get(each.name)) for each in checkpoints]  # a long run is unpacked once
    chosen = [each for each in made if each.candidate is not None]
    if not chosen:
        return join()
    parts = [_map("Weights of the chosen models", [(each, each.weights) for each in chosen], step_kind)]
    if any(each.method != RNA for each in chosen):
        tried = [(each, each.tried) for each in made if each.tried is not None]
        if any(weights for _, weights in tried):
            parts.append(_map("Weights of the best RNA", tried, step_kind))
    return tag("section", tag("h2", "Weights, condition and norms"), *parts, _numbers(made, step_kind))


def _made(checkpoint: Checkpoint, best_rna: str | None) -> _Made:
    chosen, measured = checkpoint.chosen, checkpoint.measured
    row = measured.rows[-1] if measured and measured.rows else []
    square = _finite(row[-1]) if row else None
    return _Made(
        name=checkpoint.name,
        step=checkpoint.step or 0,
        candidate=chosen.candidate if chosen else None,
        method=chosen.method if chosen else "",
        spread=bool(chosen and chosen.spread),
        weights=[as_number(weight) for weight in chosen.weights] if chosen else [],
        tried=None if best_rna is None else _tried(checkpoint, best_rna),
        diagnostics=chosen.diagnostics if chosen and chosen.weights else {},
        residual=math.sqrt(square) if square and square > 0.0 else None,
    )


def _tried(checkpoint: Checkpoint, name: str) -> list[float]:
    """The weights of a candidate; those of its twin, if it was a duplicate."""
    searched = checkpoint.searched
    weights = {str(each.get("name")): each.get("weights") for each in searched.candidates} if searched else {}
    found = weights.get(name, weights.get(searched.duplicates.get(name, "") if searched else ""))
    return [as_number(weight) for weight in found] if isinstance(found, list) else []


def _map(title: str, made: Sequence[tuple[_Made, Sequence[float]]], step_kind: str) -> Markup:
    """One column for each checkpoint, the newest of its window at the top."""
    longest = max((len(weights) for _, weights in made), default=0)
    shown = min(longest, _MOST_ROWS)
    heat = heat_map.HeatMap(
        title=title,
        columns=[weights[::-1][:shown] for _, weights in made],
        labels=[str(each.step) for each, _ in made],
        rows=["newest", *(f"{back} before" for back in range(1, shown))],
        axis=step_kind,
        told=[_told(each, weights) for each, weights in made],
    )
    told = "Each column is a model, each row a checkpoint of its window; the weights of a column sum to 1."
    if any(not weights for _, weights in made):
        told += f" A grey column {_made_otherwise(made)}, and is no combination."
    if any(each.spread for each, _ in made):
        told += " Where weights differ from tensor to tensor, these are their means."
    if longest > shown:
        told += f" The {longest - shown} oldest rows are not shown."
    if not shown:
        return tag("p", f"{title}: every one {_made_otherwise(made)}, and is no combination.", class_="soft")
    return tag(
        "figure",
        tag("h3", title),
        heat_map.draw(heat, width=760, style=WIDE),
        heat_map.draw(heat, width=380, style=NARROW),
        heat_map.key(heat),
        tag("figcaption", told),
    )


def _made_otherwise(made: Sequence[tuple[_Made, Sequence[float]]]) -> str:
    """What the models without weights are."""
    methods = {each.method for each, weights in made if each.candidate is not None and not weights}
    words = (["was trained"] if methods - {PRODUCT} else []) + (
        ["has products of factors"] if PRODUCT in methods else []
    )
    return " or ".join(words)


def _told(made: _Made, weights: Sequence[float]) -> str:
    first = f"{plain(made.name)}: {plain(made.candidate or '')}"
    return "\n".join([first, *(f"{k or 'newest'}: {weight:+.4f}" for k, weight in enumerate(weights[::-1]))])


def _numbers(made: Sequence[_Made], step_kind: str) -> Markup:
    """Small charts of the diagnostics of chosen models, and of the newest residual."""
    charts = [
        ("Condition of the system", ["condition"], True),
        ("Norms of the weights: 1 solid, 2 dashed", ["norm1", "norm2"], False),
    ]
    drawn = [
        _small(
            title,
            [(key, [(each.step, _finite(each.diagnostics.get(key))) for each in made]) for key in keys],
            step_kind,
            log=log,
        )
        for title, keys, log in charts
    ]
    residuals = [(each.step, each.residual) for each in made]
    drawn.append(_small("Length of the newest residual", [("residual", residuals)], step_kind, log=True))
    return tag("div", *(each for each in drawn if each), class_="small")


def _finite(value: object) -> float | None:
    number = as_number(value)
    return number if math.isfinite(number) else None


def _small(
    title: str, found: Sequence[tuple[str, list[tuple[int, float | None]]]], step_kind: str, *, log: bool
) -> Markup | None:
    values = [value for _, points in found for _, value in points if value is not None]
    if not values:
        return None
    drawn = chart.Chart(
        title=title,
        curves=[
            chart.Curve(label=key, style=("average", "rna")[k], points=points) for k, (key, points) in enumerate(found)
        ],
        scale=around(values, log=log and logarithmic(values)),
        step_kind=step_kind,
    )
    return tag(
        "figure",
        tag("h3", title + (" (logarithmic)" if drawn.scale.log else "")),
        chart.draw(drawn, width=380, height=190, style="any"),
    )


def of_layers(manifest: Mapping[str, Any]) -> Markup | None:
    """A heat map of a model whose weights differ from tensor to tensor, by its manifest; None for every other.

    Args:
        manifest: as `publishing/manifest.py` describes it; it may hold anything.
    """
    rows = manifest.get("layer_weights")
    inputs = manifest.get("inputs")
    if not isinstance(rows, dict) or not rows or not isinstance(inputs, list):
        return None
    named = [(str(name), [as_number(w) for w in row]) for name, row in rows.items() if isinstance(row, list)]
    count = len(inputs)
    named = [(name, row) for name, row in named if len(row) == count]
    if not named:
        return None
    shown = named[:_MOST_ROWS]
    steps = [str(each.get("step")) if isinstance(each, dict) else "" for each in inputs]
    heat = heat_map.HeatMap(
        title="Weights of the best model, tensor by tensor",
        columns=[[row[k] for _, row in shown] for k in range(count)],
        labels=steps,
        rows=[str(number) for number in range(1, len(shown) + 1)],
        axis="step of the checkpoint",
        told=[f"step {steps[k]}\n" + "\n".join(f"{n}: {row[k]:+.4f}" for n, row in shown) for k in range(count)],
    )
    names = ", ".join(f"{k} {_short(name)}" for k, (name, _) in enumerate(shown, 1))
    rest = f" The other {len(named) - len(shown)} are in the manifest." if len(named) > len(shown) else ""
    return tag(
        "figure",
        tag("h3", heat.title),
        heat_map.draw(heat, width=760, style=WIDE),
        heat_map.draw(heat, width=380, style=NARROW),
        heat_map.key(heat),
        tag("figcaption", f"Rows: {names}.{rest}"),
    )


def _short(name: str) -> str:
    shown = plain(name)
    return shown if len(shown) <= _LONGEST_NAME else f"\N{HORIZONTAL ELLIPSIS}{shown[1 - _LONGEST_NAME :]}"
