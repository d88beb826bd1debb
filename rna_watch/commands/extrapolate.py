"""One window, no daemon: combine the checkpoints that are named, and write the result."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from rna_watch.acceleration.family import fixed, in_one_sentence, single, unevaluated
from rna_watch.acceleration.methods import ALONE, AVERAGE, CLAMPED, COMBINED, LAST, LAYERED, METHODS, PRODUCT, RNA
from rna_watch.acceleration.residuals import Residuals
from rna_watch.commands import saved_weights
from rna_watch.daemon import one_training
from rna_watch.daemon.equal_neighbours import repeats
from rna_watch.daemon.measurement import NotFiniteError, measure
from rna_watch.daemon.products import candidate as product_of
from rna_watch.daemon.setup import start_ray, workers
from rna_watch.daemon.window import Window, window_form
from rna_watch.engine.local import LocalEngine
from rna_watch.errors import AllIgnored, IncompleteCheckpoint, RefusedCheckpoint, UsageError
from rna_watch.formats.probe import probe
from rna_watch.layout import artifacts, disk
from rna_watch.layout.agreement import difference
from rna_watch.layout.factors import factors
from rna_watch.layout.identity import identify_any
from rna_watch.layout.unmatched import describe, unmatched
from rna_watch.publishing import manifest, output_tree, products
from rna_watch.publishing import output as outputs
from rna_watch.watching.reading import Reading
from rna_watch.watching.steps import natural_key
from rna_watch.window.combine import Combination
from rna_watch.window.companions import training_state

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from rna_watch.acceleration.candidate import Candidate
    from rna_watch.acceleration.gram import GramRows
    from rna_watch.config import RunConfig
    from rna_watch.engine.contract import Engine
    from rna_watch.layout.layout import Layout
    from rna_watch.publishing.made import Made
    from rna_watch.publishing.verification import Manifest
    from rna_watch.watching.reading import Name
    from rna_watch.window.tasks import Run

    Step = tuple[str, int | None]

_SMALLEST_WINDOW = 3
_FIXED = frozenset({LAST, *(name for name in ALONE if name != LAST and METHODS[name].weights)})
_EQUAL = "{} of the checkpoints equal the next one bit for bit and are left out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One window by hand.

    `window` is N: the newest N + 1 checkpoints are used (None: all). `regularization` is lambda for rna, simplex and capped
    (None: for rna the smallest >= 1e-8 that keeps ||c||_2 <= 3, else 1e-8). `manifest` is that of a model whose weights product
    takes, or whose rows of weights layered does. The other fields are settings of `RunConfig`,
    or options of this command.
    """

    method: str
    window: int | None
    regularization: float | None
    settings: RunConfig
    force: bool
    manifest: Path | None = None


def extrapolate(
    checkpoints: Sequence[Path], out: Path, request: Request, warn: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Combine checkpoints, write the model to `out` and its manifest to `out`.json; returns the manifest.

    Args:
        checkpoints: at least three, in any order; their steps order them.
        out: the model's path.
        request: what to compute.
        warn: called with each reason why two of them are not of one training; the manifest's notes have them too.

    Raises:
        UsageError: too few checkpoints, `out` exists, or it is one of the inputs; what is to be ignored is nothing, or all.
        RefusedCheckpoint: a file cannot be used, or the window cannot be extrapolated by this method.
    """
    methods = [*ALONE, LAYERED, PRODUCT]
    if request.method not in methods:
        raise UsageError(f"--method must be one of {', '.join(methods)}, not '{request.method}'")
    saved = saved_weights.read(request.method, request.manifest)
    for path in (out, artifacts.export_path(out))[: 2 if request.settings.serving_copy != "none" else 1]:
        _check_out(path, checkpoints, force=request.force)
    if not request.force or out.is_dir():
        output_tree.check_ours(out)
    settings = request.settings
    statistics = {"auto": CLAMPED, "clamp": CLAMPED, "combine": COMBINED}.get(settings.normalization)
    if statistics is None:
        raise UsageError(f"--normalization {settings.normalization} needs an evaluator; here it is clamp or combine")
    engine = _engine(settings, _size_bytes(checkpoints))
    try:
        layouts, told = _ordered(checkpoints, settings)
        if request.window is not None:
            layouts = layouts[-(request.window + 1) :]
        if len(layouts) < _SMALLEST_WINDOW:
            raise UsageError(f"{len(layouts)} checkpoints are too few: extrapolation needs {_SMALLEST_WINDOW} or more")
        if nothing := unmatched(settings.ignore, layouts):
            raise UsageError(describe(nothing, layouts[-1]))
        for older, newer in pairwise(layouts):
            if why := difference(older, newer):
                raise RefusedCheckpoint(f"{older.path} and {newer.path} cannot be combined: {why}")
        make = _average if request.method in _FIXED else _solved
        try:
            return make(_Work(layouts, told, out, request, engine.map, warn, statistics), saved)
        except _RepeatedError as repeated:
            layouts = [each for number, each in enumerate(layouts) if number + 1 not in repeated.numbers]
            _check_distinct(layouts)
            work = _Work(
                layouts, told, out, request, engine.map, warn, statistics, _EQUAL.format(len(repeated.numbers))
            )
            return make(work, saved)
    finally:
        engine.close()


class _RepeatedError(Exception):
    """Checkpoints equal the ones before them bit for bit; `numbers` are theirs."""

    def __init__(self, numbers: list[int]) -> None:
        super().__init__()
        self.numbers = numbers


@dataclass(frozen=True, slots=True)
class _Work:
    """Checkpoints in the order of their steps, and what becomes of them; `equal` says which were left out."""

    layouts: list[Layout]
    told: dict[str, Step]
    out: Path
    request: Request
    run: Run
    warn: Callable[[str], None]
    statistics: str
    equal: str = ""

    @property
    def window(self) -> Window:
        """The window of these checkpoints."""
        order = self.request.settings.optimizer_order
        states = [
            training_state(each, self.told[each.path][1] or 0, self.told[each.path][0], order) for each in self.layouts
        ]
        return Window.of(self.layouts, states)

    def recipe(self, candidate: Candidate) -> Combination:
        """A candidate as a recipe."""
        return Combination(
            layouts=tuple(self.layouts),
            weights=candidate.weights,
            layer_weights=tuple(candidate.layer_weights.items()),
            clamp=self.statistics != COMBINED,
        )

    def output(self, recipe: Combination) -> outputs.Output:
        """How a recipe is written."""
        settings = self.request.settings
        return outputs.plan(self.out, recipe, exported=settings.serving_copy, optimizer_state=settings.optimizer_state)

    def manifest(
        self,
        output: outputs.Output,
        candidate: Candidate,
        residuals: Residuals,
        notes: str,
        warnings: list[str],
        made: Made | None = None,
    ) -> dict[str, Any]:
        """What was made; the warnings are said too."""
        for warning in warnings:
            self.warn(warning)
        newest = self.layouts[-1].path
        reasons = [*([self.equal] if self.equal else []), notes or candidate.diagnostics.sentence]
        return manifest.describe(
            output,
            checkpoint=newest,
            step=self.told[newest][1],
            inputs=[
                {"path": each.path, "step": self.told[each.path][1], "fingerprint": each.fingerprint}
                for each in self.layouts
            ],
            candidate=candidate,
            metrics={"original": None, AVERAGE: None, "chosen": None},
            better_than_original=None,
            significant=None,
            reason=in_one_sentence(reasons),
            residuals=residuals,
            notes=warnings,
            made=made,
        )


def _solved(work: _Work, saved: Manifest | None) -> dict[str, Any]:
    """Measure the window, solve, and write the model."""
    request = work.request
    warnings: list[str] = []
    smallest = 1e-8 if request.regularization is None else request.regularization
    try:
        residuals = measure(work.window, request.settings, work.run, smallest=smallest, warn=warnings.append)
    except NotFiniteError as error:
        raise _not_finite(work.layouts, error.numbers) from error
    if equal := repeats(work.layouts, residuals):
        raise _RepeatedError(equal)
    if saved is None:
        candidate, notes = _solve(residuals, request)
    else:
        candidate, notes = saved_weights.candidate(work.layouts, residuals, saved, request.method)
    candidate = replace(candidate, statistics=work.statistics)
    if request.method == PRODUCT:
        return _multiplied(work, candidate, residuals, notes, warnings)
    output = work.output(work.recipe(candidate))
    content = work.manifest(output, candidate, residuals, notes, warnings)
    outputs.write(output, manifest.encode(content), work.run, new=not request.force)
    return content


def _multiplied(work: _Work, plain: Candidate, residuals: Residuals, notes: str, warnings: list[str]) -> dict[str, Any]:
    """Write the model with products of factors in the place of those of a plain combination."""
    found = factors(work.layouts[-1])
    if not found.pairs:
        why = f": {found.left[0]}" if found.left else ""
        raise RefusedCheckpoint(
            f"{work.layouts[-1].path} has no pairs of factors (LoRA) whose product could be combined{why}"
        )
    path = disk.temporary_path(str(work.out.with_name(f"{work.out.name}.factors")))
    try:
        made = products.make(work.recipe(plain), plain.name, path, work.run)
        candidate = product_of(plain, f"{PRODUCT}-{plain.name}", made.notes[0])
        output = work.output(made.combination)
        content = work.manifest(output, candidate, residuals, notes, warnings, made)
        outputs.write(output, manifest.encode(content), work.run, new=not work.request.force)
    finally:
        disk.remove(path)
    return content


def _average(work: _Work, _saved: Manifest | None) -> dict[str, Any]:
    """Write a model whose weights are known in advance; its own pass tells what a Gram matrix would of the checkpoints."""
    request, window = work.request, work.window
    settings = request.settings
    form, _ = window_form(
        window.layouts, window.states, settings.residuals, settings.lr_saved, settings.optimizer_order
    )
    candidate = replace(fixed(len(work.layouts) - 1, request.method, settings.search()), statistics=work.statistics)
    output = work.output(work.recipe(candidate))
    content: dict[str, Any] = {}

    def judge(rows: GramRows) -> bytes:
        if rows.non_finite:
            raise _not_finite(work.layouts, sorted(rows.non_finite))
        residuals = Residuals(gram_nn=rows.rows, steps_nn=rows.rows, rounding=0.0, form=form.name, notes=form.notes)
        if equal := repeats(work.layouts, residuals):
            raise _RepeatedError(equal)
        found = {} if settings.one_run else one_training.breaks_of(window, rows)
        warnings = [f"{window.names[number + 1]}: {reason}" for number, reason in found.items()]
        content.update(work.manifest(output, candidate, residuals, in_one_sentence(form.notes), warnings))
        return manifest.encode(content)

    outputs.write(output, judge, work.run, new=not request.force)
    return content


def _check_distinct(layouts: Sequence[Layout]) -> None:
    if len(layouts) == 1:
        raise RefusedCheckpoint("all checkpoints are equal bit for bit: there is nothing to combine")
    if len(layouts) < _SMALLEST_WINDOW:
        raise RefusedCheckpoint(
            f"checkpoints that are equal bit for bit count once, and {len(layouts)} are too few: extrapolation needs "
            f"{_SMALLEST_WINDOW} or more"
        )


def _not_finite(layouts: Sequence[Layout], numbers: Sequence[int]) -> RefusedCheckpoint:
    bad = ", ".join(layouts[number].path for number in numbers)
    return RefusedCheckpoint(f"NaN or infinite weights in {bad}: leave it out")


def _engine(settings: RunConfig, size_bytes: int) -> Engine:
    """Where the work runs: on Ray where it is asked for, a cluster is named, or a size is set and reached; else here at once."""
    large = settings.ray_from is not None and size_bytes >= settings.ray_from * 2**30
    if settings.engine == "ray" or (settings.engine == "auto" and (settings.ray_address != "local" or large)):
        return start_ray(settings)
    engine = LocalEngine(workers(settings), here=True)
    engine.prepare(size_bytes)
    return engine


def _size_bytes(checkpoints: Sequence[Path]) -> int:
    """The size of all of them; what is not there is told later."""
    total = 0
    for path in checkpoints:
        with suppress(OSError):
            total += identify_any(str(path)).size_bytes
    return total


def lines(out: Path, manifest: Mapping[str, Any]) -> list[str]:
    """What was written, for a person: the model, the reason for it, and the weight of each checkpoint."""
    weights = manifest["weights"] or manifest["product"]["weights"]
    inputs = zip(manifest["inputs"], weights, strict=True)
    head = f"{out}: {manifest['candidate']} of {len(manifest['inputs'])} checkpoints; {manifest['reason']}"
    return [head, *(f"  {weight:+.4f}  {each['path']}" for each, weight in inputs)]


def _check_out(out: Path, checkpoints: Sequence[Path], *, force: bool) -> None:
    if any(out.exists() and path.exists() and out.samefile(path) for path in checkpoints):
        raise UsageError(f"{out} is one of the checkpoints; originals are never written, name another file with -o")
    if any(path.is_dir() and path.resolve() in out.resolve().parents for path in checkpoints):
        raise UsageError(
            f"{out} lies in one of the checkpoints; originals are never written, name another place with -o"
        )
    if os.path.lexists(out) and not force:
        raise UsageError(f"{out} exists; name another file, or replace it with --force")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"the folder {out.absolute().parent} does not exist; make it first")


def _ordered(checkpoints: Sequence[Path], settings: RunConfig) -> tuple[list[Layout], dict[str, Step]]:
    layouts = []
    for path in checkpoints:
        try:
            layouts.append(probe(str(path), settings.source, settings.ignore))
        except FileNotFoundError as error:
            raise UsageError(f"{path} does not exist") from error
        except AllIgnored as error:
            raise AllIgnored(f"{path} cannot be used: {error}") from error
        except (RefusedCheckpoint, IncompleteCheckpoint) as error:
            raise RefusedCheckpoint(f"{path} cannot be used: {error}") from error
    base = os.path.commonpath([os.path.dirname(layout.path) for layout in layouts])  # noqa: PTH120 - as in `Layout`
    names = {layout.path: os.path.relpath(layout.path, base) for layout in layouts}
    reading = Reading(step=settings.step)
    for layout in layouts:
        reading.found_inside(names[layout.path], layout.counters)
    told = {layout.path: _step(layout, reading.of(names[layout.path])) for layout in layouts}
    layouts.sort(key=lambda each: (told[each.path][1] or 0, each.files[0].mtime_ns, natural_key(each.path)))
    return layouts, told


def _step(layout: Layout, name: Name) -> Step:
    """Kind and value of a checkpoint's step, by the names of all or by its content."""
    if name.step is not None:
        return name.kind, name.step
    return (name.kind, layout.counters[name.kind]) if name.kind in layout.counters else ("save", None)


def _solve(residuals: Residuals, request: Request) -> tuple[Candidate, str]:
    method = AVERAGE if request.method == PRODUCT else request.method
    if request.method == RNA and request.regularization is None:
        members = unevaluated(residuals)
        return members.candidates[-1], in_one_sentence(members.notes)
    lam = 1e-8 if request.regularization is None else request.regularization
    candidate, note = single(residuals, method, lam, request.settings.search())
    if candidate is None:
        raise RefusedCheckpoint(f"{note} Or use --method average.")
    return candidate, in_one_sentence(residuals.notes)
