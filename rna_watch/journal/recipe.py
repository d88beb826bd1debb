"""A recipe: how a candidate is made, as the journal records it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rna_watch.acceleration.methods import CLAMPED, METHODS, RE_ESTIMATED, UNIFORM
from rna_watch.journal import events as e

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rna_watch.acceleration.candidate import Candidate
    from rna_watch.acceleration.family import Family

# `rna-5-1e-08-last-m0.5+re-estimated`, `decay-sqrt-5`, `trained-5`
_NAME = re.compile(
    r"(?P<method>[a-z]+)(?:-(?P<shape>[a-z]+))?-(?P<window>\d+)"
    r"(?:-(?P<regularization>\d(?:\.\d+)?e[+-]\d+|inf)(?:-(?P<prior>[a-z]+))?(?:-m(?P<mixing>-?[\d.]+(?:e[+-]\d+)?))?)?"
)
_RE_ESTIMATED = "+re-estimated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A method, the number of residuals (None if the method has none), lambda, and the method's other parameters.

    `parameters` are in the order of their names; `statistics` says how normalization statistics are made. The same recipe
    at two checkpoints makes models that can be compared.
    """

    method: str
    window: int | None = None
    regularization: float | None = None
    parameters: tuple[tuple[str, str | float], ...] = ()
    statistics: str = CLAMPED

    def parameter(self, name: str, default: str | float) -> str | float:
        """The value of a parameter."""
        return dict(self.parameters).get(name, default)


def recorded(candidate: Candidate) -> dict[str, Any]:
    """A candidate's recipe, as events record it."""
    return {
        "method": candidate.method,
        "window": candidate.window,
        "regularization": candidate.regularization,
        "parameters": dict(candidate.parameters),
        "statistics": candidate.statistics,
    }


def read(name: str, record: Mapping[str, Any]) -> Recipe:
    """The recipe of a candidate, from its record; from its name too, if the journal is one of 0.1.0."""
    told = _of_name(name) if "parameters" not in record else Recipe(method="")
    return Recipe(
        method=str(record.get("method") or told.method),
        window=record.get("window", told.window),
        regularization=record.get("regularization", told.regularization),
        parameters=tuple(sorted(record.get("parameters", dict(told.parameters)).items())),
        statistics=record.get("statistics", told.statistics),
    )


def _of_name(name: str) -> Recipe:
    """The recipe in a name of 0.1.0, for what the records of that version lack."""
    bare = name.removesuffix(_RE_ESTIMATED)
    statistics = CLAMPED if bare == name else RE_ESTIMATED
    match = _NAME.fullmatch(bare)
    if match is None:
        return Recipe(method=bare.partition("-")[0], statistics=statistics)
    parameters: dict[str, str | float] = {}
    if match["shape"]:
        parameters["shape"] = match["shape"]
    if match["regularization"]:
        parameters |= {"prior": match["prior"] or UNIFORM, "mixing": float(match["mixing"] or 1.0)}
    method = METHODS.get(match["method"])
    return Recipe(
        method=match["method"],
        window=int(match["window"]) - (method is not None and method.whole),  # it names checkpoints, not residuals
        regularization=float(match["regularization"]) if match["regularization"] else None,
        parameters=tuple(sorted(parameters.items())),
        statistics=statistics,
    )


def searched(checkpoint: str, form: str, family: Family) -> e.Searched:
    """The event that records a family, with each member's recipe and weights.

    Args:
        checkpoint: the newest of the window.
        form: the form of the residuals.
        family: the members.
    """
    return e.Searched(
        checkpoint=checkpoint,
        residuals=form,
        candidates=[
            {
                "name": each.name,
                **recorded(each),
                "weights": list(each.weights),
                "sentence": each.diagnostics.sentence,
            }
            for each in family.candidates
        ],
        duplicates=family.duplicates,
        left_out=list(family.left_out),
        notes=list(family.notes),
        twins=[{"name": each.name, **recorded(each)} for each, _ in family.twins],
    )
