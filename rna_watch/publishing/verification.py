"""Verification: a published model is recomputed from its manifest, and is what it claims, or not, or cannot be verified."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rna_watch.acceleration.methods import CLAMPED, COMBINED, RE_ESTIMATED
from rna_watch.errors import IncompleteCheckpoint, InputChanged, RefusedCheckpoint
from rna_watch.formats.probe import probe
from rna_watch.layout import bounded_json
from rna_watch.layout.agreement import difference
from rna_watch.layout.factors import factors
from rna_watch.publishing import consolidated, differences, export, made, products
from rna_watch.publishing.made import COMBINATION, PRODUCT, TRAINING
from rna_watch.publishing.manifest import SCHEMA
from rna_watch.window.combine import Combination

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rna_watch.layout.layout import Layout

_SUM_TOLERANCE = 1e-9
_LARGEST = 1e100  # beyond it, sums are not finite
_UPDATE = "this rna-watch does not know it, update it"


class Verdict(StrEnum):
    """What a verification ends with."""

    VERIFIED = "verified"
    DIFFERS = "differs"
    UNVERIFIABLE = "unverifiable"
    MISSING = "missing"


_WORDS = {
    Verdict.DIFFERS: "DIFFERS from what its manifest claims",
    Verdict.UNVERIFIABLE: "cannot be verified",
    Verdict.MISSING: "is not as the journal records it",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """A checkpoint as a manifest names it."""

    path: str
    fingerprint: str
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What came out of verifying one model; `inputs` pairs each recorded one with the path where it was found.

    `target` is what a link points to.
    """

    output: str
    verdict: Verdict
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()
    inputs: tuple[tuple[Input, str | None], ...] = ()
    summary: str = ""
    target: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "output": self.output,
            "verdict": str(self.verdict),
            "inputs": [
                {"recorded": each.path, "weight": each.weight, "path": path, "ok": path is not None}
                for each, path in self.inputs
            ],
            "problems": list(self.problems),
            "notes": list(self.notes),
        }

    def lines(self) -> list[str]:
        """For a person."""
        words = _WORDS.get(self.verdict) or f"verified: {self.summary}"
        shown = f"{self.output} -> {self.target}" if self.target else self.output
        return [f"{shown}: {words}", *(f"  {line}" for line in (*self.problems, *self.notes))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What of a manifest says how the model is made; inputs oldest first.

    `digest` is that of the tensors of a model that was trained, whose inputs have the weights of its start, or of the factors
    whose products were combined.
    """

    inputs: tuple[Input, ...]
    statistics: str
    candidate: str
    source: str | None
    ignore: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    rewritten: bool = False
    export: str | None = None
    layer_weights: tuple[tuple[str, tuple[float, ...]], ...] = ()
    kind: str = COMBINATION
    digest: str = ""

    def matters(self, number: int) -> bool:
        """Whether the model has a part of an input; the newest lends what is not combined."""
        rows = [each.weight for each in self.inputs], *(row for _, row in self.layer_weights)
        return number == len(self.inputs) - 1 or any(row[number] != 0.0 for row in rows)


class VerificationEnded(Exception):  # noqa: N818 - it is an outcome, not a failure
    """Nothing (more) can be compared: the verdict that this makes, and why in words."""

    def __init__(self, verdict: Verdict, *problems: str) -> None:
        super().__init__(*problems)
        self.verdict = verdict
        self.problems = problems


def read_manifest(path: Path) -> Manifest:
    """A manifest, checked: known schema, as many weights as inputs, all finite, with the sum 1.

    Raises:
        VerificationEnded: it is something else, and what.
    """
    try:
        content = bounded_json.read(path)
    except OSError as error:
        what = f"its manifest cannot be read: {error.strerror or error}"
        raise VerificationEnded(Verdict.UNVERIFIABLE, what) from error
    except (ValueError, RecursionError) as error:
        raise VerificationEnded(Verdict.DIFFERS, f"its manifest is damaged: it is not JSON ({error})") from error
    fields = content if isinstance(content, dict) else {}
    schema, inputs, weights = (fields.get(key) for key in ("schema", "inputs", "weights"))
    rows = fields.get("layer_weights") or {}
    kind = fields.get("kind", COMBINATION)
    digest = fields.get("digest") if kind in {TRAINING, PRODUCT} else ""
    if kind == PRODUCT:
        weights = product.get("weights") if isinstance(product := fields.get("product"), dict) else None
    elif kind == TRAINING:
        weights = fields.get("start")
    statistics = fields.get("statistics", CLAMPED)
    problem = ""
    if type(schema) is int and schema > SCHEMA:
        raise VerificationEnded(Verdict.UNVERIFIABLE, f"its manifest has schema {schema}: {_UPDATE}")
    if type(schema) is not int or schema < 1:
        problem = "it has no schema number"
    elif not isinstance(inputs, list) or not inputs or not all(_is_input(each) for each in inputs):
        problem = "it does not name its inputs with path and fingerprint"
    elif problem := _problem_of(weights, len(inputs)):
        pass
    elif kind in {TRAINING, PRODUCT} and not (isinstance(digest, str) and digest):
        problem = "it has no digest of the tensors that were made"
    elif not isinstance(rows, dict):
        problem = "its layer_weights are no rows of weights by name"
    elif wrong := {name: found for name, row in rows.items() if (found := _problem_of(row, len(inputs)))}:
        name, found = next(iter(wrong.items()))
        problem = f"for {name}, {found}"
    elif not all(_are_texts(fields.get(key) or []) for key in ("ignore", "ignored")):
        problem = "the tensors that it ignores are no list of names"
    if problem:
        raise VerificationEnded(Verdict.DIFFERS, f"its manifest is damaged: {problem}")
    if statistics not in (CLAMPED, COMBINED, RE_ESTIMATED):
        raise VerificationEnded(Verdict.UNVERIFIABLE, f"its manifest says statistics: {statistics!r}; {_UPDATE}")
    if kind not in (COMBINATION, TRAINING, PRODUCT):
        raise VerificationEnded(Verdict.UNVERIFIABLE, f"its manifest says kind: {kind!r}; {_UPDATE}")
    assert isinstance(weights, list)
    paired = zip(fields["inputs"], weights, strict=True)
    return Manifest(
        inputs=tuple(Input(path=i["path"], fingerprint=i["fingerprint"], weight=float(w)) for i, w in paired),
        statistics=statistics,
        candidate=str(fields.get("candidate") or fields.get("method") or ""),
        source=str(fields.get("source") or "") or None,
        ignore=tuple(fields.get("ignore") or ()),
        ignored=tuple(fields.get("ignored") or ()),
        rewritten=fields.get("optimizer_state") == "dropped",
        export=Path(str(fields["export"])).name if fields.get("export") else None,
        layer_weights=tuple((name, tuple(float(each) for each in row)) for name, row in rows.items()),
        kind=kind,
        digest=str(digest),
    )


def _problem_of(weights: object, count: int) -> str:
    """What is wrong with a row of weights of so many inputs ("" if nothing is)."""
    if not isinstance(weights, list) or not all(type(each) in {int, float} for each in weights):
        return "it has no weights"
    if len(weights) != count:
        return f"it has {len(weights)} weights for {count} inputs"
    if not all(abs(each) <= _LARGEST for each in weights):
        return "a weight is not finite"
    total = math.fsum(weights)
    return f"its weights sum to {total:.12g}, not to 1" if abs(total - 1) > _SUM_TOLERANCE else ""


def _is_input(value: object) -> bool:
    names = ("path", "fingerprint")
    return isinstance(value, dict) and all(isinstance(value.get(n), str) and "\0" not in value[n] for n in names)


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def verify(manifest: Manifest, model: Path, find: Callable[[Input], Layout | str]) -> Verification:
    """Recompute a model from its manifest, and compare it with its file bit for bit.

    Args:
        manifest: the recipe.
        model: the file.
        find: gives an input's layout, by its fingerprint, or says in words why it cannot.
    """
    found = [(each, find(each)) for each in manifest.inputs]
    notes: tuple[str, ...] = ()
    summary = ""
    try:
        problems, notes, summary = (_check_trained if manifest.kind == TRAINING else _check)(manifest, model, found)
        verdict = Verdict.DIFFERS if problems else Verdict.VERIFIED
    except VerificationEnded as end:
        problems, verdict = end.problems, end.verdict
    except InputChanged as error:
        problems, verdict = (f"{error}; try again",), Verdict.UNVERIFIABLE
    except (IncompleteCheckpoint, RefusedCheckpoint) as error:
        problems, verdict = (f"a file cannot be read any more: {error}",), Verdict.UNVERIFIABLE
    except OSError as error:
        problems, verdict = (f"it cannot be read: {error.strerror or error}",), Verdict.UNVERIFIABLE
    return Verification(
        output=str(model),
        verdict=verdict,
        problems=problems,
        notes=notes,
        inputs=tuple((each, None if isinstance(got, str) else got.path) for each, got in found),
        summary=summary,
    )


def _check(
    manifest: Manifest, model: Path, found: Sequence[tuple[Input, Layout | str]]
) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """Problems, notes, and what was compared, in words.

    Raises:
        VerificationEnded: there is nothing (more) to compare.
    """
    missing = [
        f"input {each.path} (weight {each.weight:+.4f}) {got}"
        for number, (each, got) in enumerate(found)
        if isinstance(got, str) and manifest.matters(number)
    ]
    published, damaged, checksums = _published(model, manifest, missing)
    problems = [f"the file is damaged: {each}" for each in damaged]
    if missing:
        raise VerificationEnded(Verdict.DIFFERS if problems else Verdict.UNVERIFIABLE, *problems, *missing)
    there = [number for number, (_, got) in enumerate(found) if not isinstance(got, str)]
    combination = Combination(
        layouts=tuple(consolidated.published(got) for _, got in found if not isinstance(got, str)),
        weights=tuple(manifest.inputs[number].weight for number in there),
        layer_weights=tuple((name, tuple(row[number] for number in there)) for name, row in manifest.layer_weights),
        clamp=manifest.statistics != COMBINED,
    ).without_zeros()
    newest = combination.layouts[-1]
    known = {extent.name for extent in newest.extents}
    if unknown := [name for name, _ in manifest.layer_weights if name not in known]:
        raise VerificationEnded(
            Verdict.DIFFERS, *problems, f"its inputs have no {unknown[0]}, for which it has weights"
        )
    for layout in combination.layouts:
        if why := difference(layout, newest):
            raise VerificationEnded(Verdict.DIFFERS, *problems, f"its inputs do not fit together: {why}")
    if why := difference(newest, published, whole=True):
        raise VerificationEnded(Verdict.DIFFERS, *problems, f"its tensors are not those of its newest input: {why}")
    last = found[-1][1]
    if not isinstance(last, str) and set(last.ignored) != set(manifest.ignored):
        problems.append("the tensors that its manifest lists as ignored are not those that its patterns leave out")
    differing, notes, values = _compare(published, combination, manifest)
    multiplied = ""
    if manifest.kind == PRODUCT:
        found_of, multiplied = products.problems(published, combination, manifest.digest)
        differing = found_of + differing
    if differing and not damaged and (culprits := _damaged_inputs(combination)):
        raise VerificationEnded(Verdict.UNVERIFIABLE, *culprits)
    if not checksums:
        instead = "; nor do its inputs, so one of them may have changed instead" if differing else ""
        notes.append(f"the file keeps no checksums{instead}")
    if manifest.export is not None:
        copied, said = _compare_export(published, model.with_name(manifest.export))
        differing, notes = differing + copied, notes + said
    count = len(combination.layouts)
    summary = f"{values:,} values are bit for bit the combination of {count} checkpoint{'s' * (count > 1)}"
    if multiplied:
        summary = f"{summary}, and {multiplied}" if values else f"{multiplied}, of {count} checkpoints"
    named = f" ({manifest.candidate})" if manifest.candidate else ""
    return (*problems, *differing), tuple(notes), summary + named


def _check_trained(
    manifest: Manifest, model: Path, found: Sequence[tuple[Input, Layout | str]]
) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """As `_check`, of a model that was trained: its tensors are known by a digest alone."""
    published, damaged, checksums = _published(model, manifest, ())
    problems = [f"the file is damaged: {each}" for each in damaged]
    if made.digest(published) != manifest.digest:
        problems.append("its tensors are not those of which its manifest has the digest")
    notes = ["it was trained, which cannot be recomputed: its tensors were compared with their digest alone"]
    newest = found[-1][1]
    if isinstance(newest, str):
        notes.append(f"its newest input {found[-1][0].path} {newest}: what the model has from there was not compared")
    elif why := difference(consolidated.published(newest), published, whole=True):
        problems.append(f"its tensors are not those of its newest input: {why}")
    else:
        copied, said = _compare_copied(published, consolidated.published(newest), manifest)
        problems, notes = problems + copied, notes + said
    if not checksums:
        notes.append("the file keeps no checksums")
    if manifest.export is not None:
        copied, said = _compare_export(published, model.with_name(manifest.export))
        problems, notes = problems + copied, notes + said
    values = sum(extent.count for _, extent in made.combined(published))
    named = f" ({manifest.candidate})" if manifest.candidate else ""
    return tuple(problems), tuple(notes), f"{values:,} values have the digest of its manifest{named}"


def _published(model: Path, manifest: Manifest, missing: Sequence[str]) -> tuple[Layout, list[str], bool]:
    """The published file's layout, what of it is damaged, and whether it keeps checksums."""
    try:
        layout = probe(str(model), manifest.source, manifest.ignore)
        return layout, *differences.damage(layout)
    except FileNotFoundError:
        what = "the model is gone, only its manifest is here"
    except IncompleteCheckpoint as error:
        what = f"the file is not complete: {error}"
    except RefusedCheckpoint as error:
        if not os.access(model, os.R_OK) or any(each.endswith(str(error)) for each in missing):
            raise VerificationEnded(Verdict.UNVERIFIABLE, str(error), *missing) from error
        what = f"the file is damaged: {error}"
    raise VerificationEnded(Verdict.DIFFERS, what, *missing)


def _compare(published: Layout, combination: Combination, manifest: Manifest) -> tuple[list[str], list[str], int]:
    """Differences and notes in words, and how many values were compared."""
    newest = combination.layouts[-1]
    notes = []
    given = [extent.name for extent in newest.extents if extent.role in differences.STATISTICS]
    if manifest.statistics != RE_ESTIMATED:
        given = []
    elif given:
        notes.append(
            f"{len(given)} normalization statistics (such as {given[0]}) were re-estimated by forward passes: "
            "they cannot be recomputed and were not checked"
        )
    multiplied = products.extents_of(factors(newest).pairs) if manifest.kind == PRODUCT else frozenset()
    combined, values = differences.combined_differences(
        published, combination, statistics=not given, without=multiplied
    )
    problems = differences.sentences(combined, "not the combination of its inputs")
    copied, said = _compare_copied(published, newest, manifest)
    return problems + copied, notes + said, values


def _compare_copied(published: Layout, newest: Layout, manifest: Manifest) -> tuple[list[str], list[str]]:
    """Differences and notes in words, of what a model has from its newest input as it is."""
    problems = differences.sentences(
        differences.copied_differences(published, newest), "not copied from its newest input"
    )
    notes = []
    beside = differences.differences_beside(published, newest)
    if beside is None:
        why = "the model alone was written" if manifest.rewritten else "the file was saved again since"
        notes.append(f"{why}: what it holds beside the model was not compared")
    elif beside:
        parts = [f"{name} ({count:,} byte{'s' * (count > 1)})" for name, count in beside.items()]
        problems.append(f"beside the model, this differs from its newest input: {differences.some(parts)}")
    return problems, notes


def _compare_export(published: Layout, path: Path) -> tuple[list[str], list[str]]:
    """Problems of a published model's plain copy, and notes on it, in words."""
    try:
        found = export.problems(published, str(path))
    except OSError as error:
        return [], [f"its plain copy {path.name} was not compared: {error.strerror or error}"]
    return ([f"its plain copy {path.name}: {differences.some(found)}"] if found else []), []


def _damaged_inputs(combination: Combination) -> list[str]:
    """Inputs that no longer match their own checksums: then a difference says nothing about the model."""
    return [
        f"input {layout.path} is damaged: {problem}"
        for layout in combination.layouts
        for problem in differences.damage(layout)[0][:1]
    ]
