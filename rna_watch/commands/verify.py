"""What `rna-watch verify` does: find the models that its arguments name, verify them, and end by the verdicts."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from rna_watch.daemon.links import links
from rna_watch.errors import NothingToDo, RnaWatchError, UsageError
from rna_watch.journal import snapshot
from rna_watch.journal.run_registry import resolve
from rna_watch.layout.artifacts import is_output, manifest_path
from rna_watch.publishing.inputs import Finder
from rna_watch.publishing.verification import Verdict, Verification, VerificationEnded, read_manifest, verify
from rna_watch.watching import steps

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


_ANEW = "the next start makes it anew if it can"


def verify_all(given: Sequence[Path]) -> Iterator[Verification]:
    """Verify models one after another.

    Args:
        given: models, their manifests, links to models, or folders with models.

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
    missing = [each for path in given for each in _missing(path)]
    if not wanted and not missing:
        raise NothingToDo(f"there is no model with a manifest below {', '.join(map(str, given))}")
    return chain((_verify_one(model, manifest) for model, manifest in wanted.values()), missing)


def _missing(path: Path) -> Iterator[Verification]:
    """What the journal of a run records as published, and what is not there, or is there without its manifest."""
    if not path.is_dir() or is_output(path.resolve()):
        return
    paths = resolve(path, None)
    if not paths.journal.is_file():
        return
    state = snapshot.fold(paths.journal).state
    for output in state.outputs:
        model = paths.models / output
        if not model.exists():
            yield _not_as_recorded(
                Verdict.MISSING, model, "it was published, and is gone; the next start makes it anew if it can"
            )
        elif not manifest_path(model).is_file():
            yield _not_as_recorded(Verdict.UNVERIFIABLE, model, f"its manifest {manifest_path(model).name} is gone")
    for name, output in links(state).items():
        link, model = paths.models / name, paths.models / output
        if model.exists() and link.resolve() != model.resolve():
            target = f"names {link.readlink()}" if link.is_symlink() else "is no link" if link.exists() else "is gone"
            yield _not_as_recorded(
                Verdict.MISSING, link, f"it {target}, and is to name {output}; the next start mends that"
            )


def _not_as_recorded(verdict: Verdict, path: Path, problem: str) -> Verification:
    return Verification(output=str(path), verdict=verdict, problems=(problem,))


def _models(path: Path) -> list[tuple[Path, Path]]:
    """(model, manifest) of every model that a path names."""
    if path.is_dir() and is_output(path.resolve()):
        return [(path, manifest_path(path.resolve()))]
    if path.is_dir():
        own, elsewhere = path / "rna", resolve(path, None).models
        return _below(own if own.is_dir() else elsewhere if elsewhere.is_dir() else path)
    if path.suffix == ".json" and path.is_file():
        return [(path.with_suffix(""), path)]
    for model in (path, path.resolve()):
        manifest = manifest_path(model)
        if manifest.is_file():
            return [(path, manifest)]
    if not path.exists():
        raise UsageError(f"{path} does not exist")
    raise UsageError(
        f"{path} has no manifest ({manifest_path(path).name}) next to it: only what rna-watch wrote can be verified"
    )


def _below(folder: Path) -> list[tuple[Path, Path]]:
    found = []
    for where, folders, files in os.walk(folder):
        names = set(files)
        whole = {name for name in folders if f"{name}.json" in names and is_output(Path(where, name))}
        folders[:] = [name for name in folders if not name.startswith(".") and name not in whole]
        for name in (*files, *whole):
            model = Path(where, name)
            if f"{name}.json" in names and not name.startswith(".") and not model.is_symlink():
                found.append((model, manifest_path(model)))
    return sorted(found, key=lambda pair: steps.natural_key(str(pair[0])))


def _verify_one(model: Path, manifest_path: Path) -> Verification:
    target = str(model.readlink()) if model.is_symlink() else ""
    try:
        manifest = read_manifest(manifest_path)
    except VerificationEnded as end:
        return Verification(output=str(model), target=target, verdict=end.verdict, problems=end.problems)
    find = Finder(manifest_path.resolve().parent, manifest.source, manifest.ignore)
    return replace(verify(manifest, model, find), target=target)


def conclude(verifications: Sequence[Verification]) -> None:
    """End the command by the verdicts.

    Raises:
        RnaWatchError: a model differs from what its manifest claims, or is gone, or a link names another one.
        NothingToDo: a model cannot be verified.
    """
    total = len(verifications)
    for verdict, kind, words in (
        (Verdict.DIFFERS, RnaWatchError, "not what the manifest claims"),
        (Verdict.MISSING, RnaWatchError, "not there as the journal records"),
        (Verdict.UNVERIFIABLE, NothingToDo, "not verifiable any more"),
    ):
        count = sum(each.verdict is verdict for each in verifications)
        if count:
            which = "the model is" if total == 1 else f"{count} of {total} models {'are' if count > 1 else 'is'}"
            raise kind(f"{which} {words}")
