"""The scan: which files and folders below a run directory look like checkpoints; events only say when to scan again."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from rna_watch.formats import registry
from rna_watch.formats.recorded_gradient import SUFFIX
from rna_watch.layout.artifacts import ENDING, is_output
from rna_watch.layout.identity import FileIdentity, identify, identify_folder
from rna_watch.layout.trouble import UNREAD, check_run, of_run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# files that trainers write next to the model
_NO_MODELS = re.compile(
    r"^(optimizer|scheduler|lr_scheduler|rng_state|random_states|scaler|sampler|dl_state_dict|training_args|optim)(\b|_)"
    r"|^(model|pytorch_model)-\d{5}-of-\d{5}\.",
    re.IGNORECASE,
)
_CHECKPOINT_FOLDER = re.compile(r"^checkpoint[-_]\d+$")
_MAX_DEPTH = 6
_GONE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
_MOUNTS = Path("/proc/self/mountinfo")
_ESCAPED = re.compile(r"\\([0-7]{3})")  # blanks and backslashes in mount points
_NETWORK = re.compile("nfs|lustre|gpfs|cifs|smb|fuse|beegfs|ceph|glusterfs|9p|afs|pvfs|wekafs|virtiofs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A candidate: its path relative to the run directory, and its identity now; None if the system fails to tell."""

    name: str
    identity: FileIdentity | None


def scan(
    run: Path, *, patterns: Sequence[str] = (), exclude: Sequence[Path] = (), unlisted: set[str] | None = None
) -> tuple[list[Found], list[str]]:
    """All candidates below a folder, and a sentence for each file or folder that could not be looked at.

    A file or folder with one of our manifests next to it is an output of ours, never an input.

    Args:
        run: the run directory.
        patterns: glob patterns of names (or of paths below `run`); empty: the usual endings.
        exclude: folders whose files are ours, never inputs, not even through a symbolic link.
        unlisted: gets the folders and files, relative to `run`, that cannot be looked at for a reason that may pass.

    Raises:
        UsageError: the run directory does not exist or is closed to this user.
        RnaWatchError: it cannot be looked at for a reason that may pass.
    """
    check_run(run)
    ours = [os.path.realpath(folder) for folder in exclude]
    found: list[Found] = []
    problems: list[str] = []
    failed: dict[str, OSError] = {}
    top = os.path.join(run, "")  # noqa: PTH118
    for path, whole, link in _walk(str(run), 0, ours, failed):
        name = path[len(top) :]
        if not is_candidate(name, patterns, whole=whole):
            continue
        try:
            if link:
                target = os.path.realpath(path)
                if _inside(target, ours) or is_output(Path(target)):
                    continue
            found.append(Found(name=name, identity=identify_folder(path) if whole else identify(path)))
        except OSError as error:
            if error.errno in _GONE:
                continue  # between listing and stat: retention, or a dangling link
            found.append(Found(name=name, identity=None))
            problems.append(f"{name} cannot be looked at: {error.strerror}")
    for folder, refusal in failed.items():
        what = "the folder " if os.path.isdir(folder) else ""  # noqa: PTH112
        problems.append(f"{what}{folder} cannot be read: {refusal.strerror}")
        if unlisted is not None and refusal.errno in UNREAD:
            unlisted.add(os.path.relpath(folder, run))
    return found, problems


def candidate(name: str, patterns: Sequence[str] = ()) -> bool:
    """Whether a file may be a checkpoint by its name alone, as the scan has it; for one that is gone.

    Args:
        name: path relative to the run directory.
        patterns: see `scan`.
    """
    hidden = any(part.startswith(".") for part in name.split("/"))
    return not hidden and name.count("/") <= _MAX_DEPTH and is_candidate(name, patterns, whole=False)


def linked_folders(run: Path, *, exclude: Sequence[Path] = ()) -> list[tuple[str, str]]:
    """Links to folders elsewhere, which the scan does not follow: their paths relative to `run`, and where they lead."""
    ours = [os.path.realpath(folder) for folder in exclude]
    own = os.path.realpath(run)
    found = []
    for at, folders, _ in os.walk(run):
        depth = len(Path(at).relative_to(run).parts)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders:
            path = os.path.join(at, name)  # noqa: PTH118
            target = os.path.realpath(path)
            around = _inside(target, [own, *ours]) or _inside(own, [target])
            if os.path.islink(path) and not around:  # noqa: PTH114
                found.append((os.path.relpath(path, run), target))
        if depth >= _MAX_DEPTH:
            folders.clear()
    return found


def _walk(folder: str, depth: int, ours: list[str], failed: dict[str, OSError]) -> Iterator[tuple[str, bool, bool]]:
    """Files that may be checkpoints, folders that are one as a whole (True), and whether each is a link."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    except OSError as error:
        if depth == 0:
            raise of_run(Path(folder), error) from error
        failed[folder] = error
        return
    names = {entry.name for entry in entries}
    whole = depth > 0 and registry.recognised_folder(folder, names) is not None
    if whole:
        yield folder, True, False
    for entry in entries:
        if entry.name.startswith(".") or (f"{entry.name}.json" in names and _is_ours(entry.path, failed)):
            continue
        if whole and not _CHECKPOINT_FOLDER.match(entry.name):
            continue  # a trainer's last model lies next to its checkpoints
        if entry.is_dir(follow_symlinks=False):
            if depth < _MAX_DEPTH and os.path.realpath(entry.path) not in ours:
                yield from _walk(entry.path, depth + 1, ours, failed)
        elif not _leads_to_folder(entry):
            yield entry.path, False, entry.is_symlink()


def _is_ours(path: str, failed: dict[str, OSError]) -> bool:
    """Whether a file is a model of ours; where that cannot be told, it is not looked at, and is not gone."""
    try:
        return is_output(Path(path))
    except OSError as error:
        failed[path] = error
        return True


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link to itself, or through a folder that may not be entered


def _inside(path: str, folders: list[str]) -> bool:
    return any(path == folder or path.startswith(folder + os.sep) for folder in folders)


def is_candidate(name: str, patterns: Sequence[str], *, whole: bool) -> bool:
    """Whether a path looks like a checkpoint by its name, or by the folder that it is (`whole`)."""
    last = name.rpartition("/")[2]
    if last.endswith((SUFFIX, ENDING)):
        return False  # a recorded gradient is no checkpoint, nor is an export, whatever the patterns say
    if patterns:
        return any(fnmatch(last, pattern) or fnmatch(name, pattern) for pattern in patterns)
    return whole or (last.lower().endswith(registry.endings()) and not _NO_MODELS.match(last))


def network_file_system(path: Path) -> str | None:
    """The type of the network file system that a path is on (by /proc/self/mountinfo); None if it is a local one."""
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    best, kind = -1, ""
    real = os.path.realpath(path)
    for line in lines:
        before, _, after = line.partition(" - ")
        mount = _ESCAPED.sub(lambda code: chr(int(code[1], 8)), before.split()[4])
        if (real == mount or real.startswith(mount.rstrip("/") + "/")) and len(mount) >= best:
            best, kind = len(mount), after.split()[0]
    return kind if _NETWORK.match(kind) else None
