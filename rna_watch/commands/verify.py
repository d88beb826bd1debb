"""`rna-watch verify`: a published model is recomputed from its manifest, and said to be what it claims or not."""

from __future__ import annotations

import contextlib
import json
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from threadpoolctl import threadpool_limits

from rna_watch.errors import (
    IncompleteCheckpoint,
    InputChanged,
    NothingToDo,
    RefusedCheckpoint,
    RnaWatchError,
    UsageError,
)
from rna_watch.formats.probe import probe
from rna_watch.journal import events as e
from rna_watch.journal import log
from rna_watch.journal.run_paths import RunPaths, resolve
from rna_watch.layout.artifacts import is_manifest
from rna_watch.layout.layout import Role, difference
from rna_watch.publishing import consolidated, export, output_tree, verification
from rna_watch.publishing.verification import Input, Verdict, Verification
from rna_watch.watching import steps
from rna_watch.window import tasks_plan
from rna_watch.window.combine import Combination

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rna_watch.layout.layout import Layout

    Find = Callable[[Input], Layout | str]

CLAMPED, COMBINED, RE_ESTIMATED = "clamped", "combined", "re-estimated"
_STATISTICS = frozenset({Role.STATISTIC, Role.VARIANCE})
_SUM_TOLERANCE = 1e-9
_SHOWN = 5
_UPDATE = "this rna-watch does not know it, update it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What of a manifest says how the model is made; inputs oldest first."""

    inputs: tuple[Input, ...]
    statistics: str
    candidate: str
    source: str | None
    rewritten: bool = False
    export: str | None = None


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
        content = json.loads(path.read_bytes())
    except OSError as error:
        what = f"its manifest cannot be read: {error.strerror or error}"
        raise VerificationEnded(Verdict.UNVERIFIABLE, what) from error
    except (ValueError, RecursionError) as error:
        raise VerificationEnded(Verdict.DIFFERS, f"its manifest is damaged: it is not JSON ({error})") from error
    fields = content if isinstance(content, dict) else {}
    schema, inputs, weights = (fields.get(key) for key in ("schema", "inputs", "weights"))
    statistics = fields.get("statistics", CLAMPED)
    problem = ""
    if type(schema) is int and schema > output_tree.SCHEMA:
        raise VerificationEnded(Verdict.UNVERIFIABLE, f"its manifest has schema {schema}: {_UPDATE}")
    if type(schema) is not int or schema < 1:
        problem = "it has no schema number"
    elif not isinstance(inputs, list) or not inputs or not all(_is_input(each) for each in inputs):
        problem = "it does not name its inputs with path and fingerprint"
    elif not isinstance(weights, list) or not all(type(each) in {int, float} for each in weights):
        problem = "it has no weights"
    elif len(weights) != len(inputs):
        problem = f"it has {len(weights)} weights for {len(inputs)} inputs"
    elif not all(abs(each) < math.inf for each in weights):
        problem = "a weight is not finite"
    elif abs(math.fsum(weights) - 1) > _SUM_TOLERANCE:
        problem = f"its weights sum to {math.fsum(weights):.12g}, not to 1"
    if problem:
        raise VerificationEnded(Verdict.DIFFERS, f"its manifest is damaged: {problem}")
    if statistics not in {CLAMPED, COMBINED, RE_ESTIMATED}:
        raise VerificationEnded(Verdict.UNVERIFIABLE, f"its manifest says statistics: {statistics!r}; {_UPDATE}")
    paired = zip(fields["inputs"], fields["weights"], strict=True)
    return Manifest(
        inputs=tuple(Input(path=i["path"], fingerprint=i["fingerprint"], weight=float(w)) for i, w in paired),
        statistics=statistics,
        candidate=str(fields.get("candidate") or fields.get("method") or ""),
        source=str(fields.get("source") or "") or None,
        rewritten=fields.get("optimizer_state") == "dropped",
        export=Path(str(fields["export"])).name if fields.get("export") else None,
    )


def _is_input(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(key), str) for key in ("path", "fingerprint"))


class Finder:
    """Finds a manifest's inputs on the disk, wherever they lie now; knows them by their fingerprints.

    Args:
        folder: where the manifest lies.
        source: key path of the model inside the files; found by itself if None.
    """

    def __init__(self, folder: Path, source: str | None) -> None:
        self._source = source
        self._window: Path | None = None
        bases: list[Path] = []
        output = _output_above(folder)
        if output is not None:
            paths = RunPaths(run=output, output=output)
            self._window = paths.window
            with contextlib.suppress(OSError):
                for event in log.read(paths.journal):
                    if isinstance(event, e.Started):
                        bases.insert(0, Path(event.run))
            bases.insert(0, output)  # where the run itself lies, unless --output; it may have been moved since
        self._folder = folder
        self._bases = list(dict.fromkeys([*bases, Path.cwd(), folder]))

    def __call__(self, wanted: Input) -> Layout | str:
        """An input's layout, from its recorded path below every base, else from a pinned copy; or why there is none."""
        why = ""
        for path in self._candidates(wanted):
            try:
                layout = probe(str(path), self._source)
            except FileNotFoundError:
                continue
            except (RefusedCheckpoint, IncompleteCheckpoint, InputChanged) as error:
                problem = f"cannot be used: {error}"
            except OSError as error:
                problem = f"cannot be read: {error.strerror or error}"
            else:
                if layout.fingerprint == wanted.fingerprint:
                    return layout
                problem = f"changed: {path} no longer holds what was combined"
            if str(path) == wanted.path or not is_manifest(str(output_tree.manifest_path(path))):
                why = why or problem  # else it is an output of the same name, not the input
        if why:
            return why
        bases = [] if Path(wanted.path).is_absolute() else [str(base) for base in self._bases]
        return f"is gone (looked in {', '.join(bases)})" if bases else "is gone"

    def _candidates(self, wanted: Input) -> Iterator[Path]:
        recorded = Path(wanted.path)
        if recorded.is_absolute():
            yield recorded
            yield self._folder / recorded.name
        else:
            yield from (base / recorded for base in self._bases)
        if self._window is not None:
            known = "".join(c for c in wanted.fingerprint[:8] if c.isalnum())
            yield from sorted(self._window.glob(f"*.{known}.pinned"))


def _output_above(folder: Path) -> Path | None:
    """The folder that holds `rna` (and `.rna-watch`) of the run whose output tree this folder is in."""
    above = [each.parent for each in (folder, *folder.parents) if each.name == "rna"]
    return next((each for each in above if RunPaths(run=each, output=each).state.is_dir()), above[0] if above else None)


def verify(manifest: Manifest, model: Path, find: Find) -> Verification:
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
        problems, notes, summary = _check(manifest, model, found)
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
        for each, got in found
        if isinstance(got, str) and (each.weight != 0.0 or each is manifest.inputs[-1])
    ]
    published, damaged, checksums = _published(model, manifest.source, missing)
    problems = [f"the file is damaged: {each}" for each in damaged]
    if missing:
        raise VerificationEnded(Verdict.DIFFERS if problems else Verdict.UNVERIFIABLE, *problems, *missing)
    combination = Combination(
        layouts=tuple(consolidated.published(got) for _, got in found if not isinstance(got, str)),
        weights=tuple(each.weight for each, got in found if not isinstance(got, str)),
        clamp=manifest.statistics != COMBINED,
    ).without_zeros()
    newest = combination.layouts[-1]
    for layout in combination.layouts:
        if why := difference(layout, newest):
            raise VerificationEnded(Verdict.DIFFERS, *problems, f"its inputs do not fit together: {why}")
    if why := difference(newest, published):
        raise VerificationEnded(Verdict.DIFFERS, *problems, f"its tensors are not those of its newest input: {why}")
    differing, notes, values = _compare(published, combination, manifest)
    if differing and not damaged and (culprits := _damaged_inputs(combination)):
        raise VerificationEnded(Verdict.UNVERIFIABLE, *culprits)
    if not checksums:
        instead = "; nor do its inputs, so one of them may have changed instead" if differing else ""
        notes.append(f"the file keeps no checksums{instead}")
    if manifest.export is not None:
        copied, said = export.compared(published, str(output_tree.manifest_path(model).with_name(manifest.export)))
        differing, notes = differing + copied, notes + said
    count = len(combination.layouts)
    summary = f"{values:,} values are bit for bit the combination of {count} checkpoint{'s' * (count > 1)}"
    named = f" ({manifest.candidate})" if manifest.candidate else ""
    return (*problems, *differing), tuple(notes), summary + named


def _published(model: Path, source: str | None, missing: Sequence[str]) -> tuple[Layout, list[str], bool]:
    """The published file's layout, what of it is damaged, and whether it keeps checksums."""
    try:
        layout = probe(str(model), source)
        return layout, *verification.damage(layout)
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
    both = replace(combination, layouts=(published, *combination.layouts), weights=(0.0, *combination.weights))
    segments = both.segments(tasks_plan.task_elements(newest.parameters))
    notes = []
    names = [extent.name for extent in newest.extents if extent.role in _STATISTICS]
    if manifest.statistics == RE_ESTIMATED and names:
        segments = [segment for segment in segments if segment.role not in _STATISTICS]
        notes.append(
            f"{len(names)} normalization statistics (such as {names[0]}) were re-estimated by forward passes: "
            "they cannot be recomputed and were not checked"
        )
    groups = [task.segments for task in tasks_plan.combine_tasks(both, segments, (), tasks_plan.BUDGET_MIB)]
    block = tasks_plan.block_elements(len(combination.layouts), tasks_plan.BUDGET_MIB)
    with threadpool_limits(limits=1, user_api="blas"):
        differing = verification.combined_differences(published, combination, groups, block)
    problems = verification.sentences(differing, "not the combination of its inputs")
    problems += verification.sentences(
        verification.copied_differences(published, newest), "not copied from its newest input"
    )
    beside = verification.differences_beside(published, newest)
    if beside is None:
        why = "the model alone was written" if manifest.rewritten else "the file was saved again since"
        notes.append(f"{why}: what it holds beside the model was not compared")
    elif beside:
        shown = [f"{name} ({count:,} byte{'s' * (count > 1)})" for name, count in beside.items()][:_SHOWN]
        more = f" and {len(beside) - _SHOWN} more" if len(beside) > _SHOWN else ""
        problems.append(f"beside the model, this differs from its newest input: {', '.join(shown)}{more}")
    return problems, notes, sum(segment.count for segment in segments)


def _damaged_inputs(combination: Combination) -> list[str]:
    """Inputs that no longer match their own checksums: then a difference says nothing about the model."""
    return [
        f"input {layout.path} is damaged: {problem}"
        for layout in combination.layouts
        for problem in verification.damage(layout)[0][:1]
    ]


def verify_all(given: Sequence[Path]) -> Iterator[Verification]:
    """Verify models one after another.

    Args:
        given: models, their manifests, links to models, or folders, which stand for every model below them.

    Raises:
        UsageError: something given does not exist, cannot be looked at, or has no manifest.
        NothingToDo: there is no model in the folders.
    """
    wanted: dict[str, tuple[Path, Path]] = {}
    try:
        for model, manifest in (pair for path in given for pair in _models(path)):
            wanted.setdefault(os.path.realpath(model), (model, manifest))
    except OSError as error:
        raise UsageError(f"{error.filename} cannot be looked at: {error.strerror or error}") from error
    if not wanted:
        raise NothingToDo(f"there is no model with a manifest below {', '.join(map(str, given))}")
    return (_verify_one(model, manifest) for model, manifest in wanted.values())


def _models(path: Path) -> list[tuple[Path, Path]]:
    """(model, manifest) of everything that a path stands for."""
    if path.is_dir() and is_manifest(str(output_tree.manifest_path(path.resolve()))):
        return [(path, output_tree.manifest_path(path.resolve()))]
    if path.is_dir():
        own, elsewhere = path / "rna", resolve(path, None).models
        return _below(own if own.is_dir() else elsewhere if elsewhere.is_dir() else path)
    if path.suffix == ".json" and path.is_file():
        return [(path.with_suffix(""), path)]
    for model in (path, path.resolve()):
        manifest = output_tree.manifest_path(model)
        if manifest.is_file():
            return [(path, manifest)]
    if not path.exists():
        raise UsageError(f"{path} does not exist")
    raise UsageError(
        f"{path} has no manifest ({output_tree.manifest_path(path).name}) beside it: only what rna-watch wrote can be verified"
    )


def _below(folder: Path) -> list[tuple[Path, Path]]:
    found = []
    for where, folders, files in os.walk(folder):
        names = set(files)
        whole = {name for name in folders if f"{name}.json" in names and is_manifest(f"{Path(where, name)}.json")}
        folders[:] = [name for name in folders if not name.startswith(".") and name not in whole]
        for name in (*files, *whole):
            model = Path(where, name)
            if f"{name}.json" in names and not name.startswith(".") and not model.is_symlink():
                found.append((model, output_tree.manifest_path(model)))
    return sorted(found, key=lambda pair: steps.natural_key(str(pair[0])))


def _verify_one(model: Path, manifest_path: Path) -> Verification:
    target = str(model.readlink()) if model.is_symlink() else ""
    try:
        manifest = read_manifest(manifest_path)
    except VerificationEnded as end:
        return Verification(output=str(model), target=target, verdict=end.verdict, problems=end.problems)
    find = Finder(manifest_path.resolve().parent, manifest.source)
    return replace(verify(manifest, model, find), target=target)


def conclude(verifications: Sequence[Verification]) -> None:
    """Turn verdicts into the command's end.

    Raises:
        RnaWatchError: a model differs from what its manifest claims.
        NothingToDo: a model cannot be verified.
    """
    total = len(verifications)
    for verdict, kind, words in (
        (Verdict.DIFFERS, RnaWatchError, "not what the manifest claims"),
        (Verdict.UNVERIFIABLE, NothingToDo, "not verifiable any more"),
    ):
        count = sum(each.verdict is verdict for each in verifications)
        if count:
            which = "the model is" if total == 1 else f"{count} of {total} models {'are' if count > 1 else 'is'}"
            raise kind(f"{which} {words}")
