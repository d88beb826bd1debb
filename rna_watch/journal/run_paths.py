"""The folders and files of a run: where its outputs and state lie, and where they must not."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rna_watch.errors import StoreError, UsageError
from rna_watch.journal import events, log
from rna_watch.layout import disk, owned
from rna_watch.layout.trouble import UNREAD, in_words, of_run

if TYPE_CHECKING:
    from collections.abc import Iterator

_TRIES = 3
_PARSED_FOLDER = "checkpoints"
_OURS = re.compile(
    r"^(journal\.jsonl|snapshot|heartbeat\.json|runs\.json|lock|owner\.json|log(\.\d+)?|stop|pins|window|scratch|\.rna-watch-.*\.tmp)$"
)
_PARSED_ENTRY = re.compile(r"^checkpoint_\d+$")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPaths:
    """The folders and files of one run; `output` is the folder that holds `rna` and `.rna-watch`."""

    run: Path
    output: Path

    @property
    def models(self) -> Path:
        """The output tree: models, manifests, `best`, `latest`."""
        return self.output / "rna"

    @property
    def state(self) -> Path:
        """Journal, lock, log and pins."""
        return self.output / ".rna-watch"

    @property
    def journal(self) -> Path:
        """The journal."""
        return self.state / "journal.jsonl"

    @property
    def heartbeat(self) -> Path:
        """The heartbeat."""
        return self.state / "heartbeat.json"

    @property
    def snapshot(self) -> Path:
        """What the journal adds up to: a cache."""
        return self.state / "snapshot"

    @property
    def lock(self) -> Path:
        """The lock."""
        return self.state / "lock"

    @property
    def owner(self) -> Path:
        """What the lock does not hold of its owner: version 0.1.0 reads no lock with fields that it does not know."""
        return self.state / "owner.json"

    @property
    def log(self) -> Path:
        """The log."""
        return self.state / "log"

    @property
    def stop_request(self) -> Path:
        """A file that asks the daemon to stop, from any machine."""
        return self.state / "stop"

    @property
    def sweep(self) -> Path:
        """The runs that a process watches below this folder (`journal/sweep.py`)."""
        return self.state / "runs.json"

    @property
    def announced(self) -> Path:
        """A file that the training replaces whenever a checkpoint is whole (`integrations/announcement.py`)."""
        return self.state / "announced"

    @property
    def exports(self) -> Path:
        """What trackers read: a folder for each exporter."""
        return self.state / "exports"

    @property
    def pins(self) -> Path:
        """The pinned checkpoints, kept while a window may need them."""
        return self.state / "pins"

    @property
    def pin_folders(self) -> tuple[Path, Path]:
        """The folders that may hold pins: the present one, and that of version 0.1.0 until a later one has watched."""
        return self.pins, self.state / "window"

    def pinned(self, recorded: str) -> Path:
        """The present path of a pin that an event records relative to `output`, in whichever folder it lies by now."""
        path = self.output / recorded
        if path.parent not in self.pin_folders:
            return path
        places = [folder / path.name for folder in self.pin_folders]
        return next((place for place in places if place.exists()), places[0])

    @property
    def scratch(self) -> Path:
        """Files that exist only while something is evaluated."""
        return self.state / "scratch"

    def in_tree(self, path: Path) -> str:
        """A path relative to the output tree, as events record it."""
        return str(path.relative_to(self.models))

    def there(self, output: str) -> bool:
        """Whether an output, as events record it, is in the output tree; somebody may have removed it."""
        return (self.models / output).exists()

    def create(self, *, allow_links: bool = False, sweep: bool = False) -> None:
        """Make the folders, and claim them (see `owned`); the one of the pins is made only if `adopt_pins` will not.

        Args:
            allow_links: the setting of that name.
            sweep: only the state folder, for the process that watches many runs below `run`.

        Raises:
            UsageError: one of ours is a symbolic link, or belongs to another user.
            StoreError: a folder cannot be made.
        """
        pins, old = self.pin_folders
        ours = (pins, old, self.scratch, self.journal, self.lock, self.owner, self.heartbeat, self.log, self.snapshot)
        try:
            if not sweep:
                owned.claim(self.models, allow_links=allow_links)
            owned.claim(self.state, [each.name for each in ours], allow_links=allow_links, mark=True)
            if not old.exists() and not sweep:
                owned.make_folders(pins)
        except OSError as error:
            raise StoreError(
                f"cannot make {error.filename}: {error.strerror}; name a folder that can be written with --output"
            ) from error


def _adopt(paths: RunPaths, *, allow_links: bool) -> str:
    """Put our mark into a state folder that an older version made; returns what was done, in words, if anything."""
    try:
        if owned.is_marked(owned.locate(paths.journal)[0]):
            return ""
    except OSError as error:
        raise StoreError(f"cannot look at {paths.state}: {in_words(error)}") from error
    started = [event for event in log.read(paths.journal) if isinstance(event, events.Started)]
    foreign = sorted(each.name for each in paths.state.iterdir() if not _OURS.match(each.name))
    why = ""
    if started and not _is_one(Path(started[-1].output), paths.output):
        why = f"its journal is that of a run whose outputs lay in {started[-1].output}"
    elif not started and foreign:
        why = f"it holds {foreign[0]}, and no journal of ours"
    if why and not allow_links:
        raise UsageError(
            f"{paths.state} does not carry the mark of rna-watch, and {why}: if it is this run's all the same, start once with "
            "--allow-links, else move it away"
        )
    try:
        owned.put_mark_into(paths.state)
    except OSError as error:
        raise StoreError(f"cannot write to {paths.state}: {error.strerror}; check its permissions") from error
    return f"{paths.state} was made by an older version and is taken over" if started else ""


def _is_one(recorded: Path, output: Path) -> bool:
    try:
        return same_folder(recorded, output)
    except OSError as error:
        if error.errno in UNREAD:
            raise StoreError(f"cannot look at {recorded}: {in_words(error)}") from error
    except ValueError:
        pass
    return False


def adopt_pins(paths: RunPaths, *, allow_links: bool = False) -> str:
    """Take over the folder of an older version: our mark is put into it, and its pins get their place by one rename.

    There are two folders of pins if version 0.1.0 worked again after a later one: the files of the old folder are moved
    then. `RunPaths.pinned` finds each pin at whatever moment this ends.

    Args:
        paths: the run's paths; the folders are there, and the caller holds the run's lock.
        allow_links: the setting of that name: whatever the journal says.

    Returns:
        that a folder was taken over, in words; "" if it carries the mark already.

    Raises:
        UsageError: the folder's journal is that of a folder elsewhere, or it holds other things than we make.
        StoreError: the folder cannot be looked at, written or renamed.
    """
    pins, old = paths.pin_folders
    adopted = _adopt(paths, allow_links=allow_links)
    try:
        if pins.is_dir() and any(pins.iterdir()) and old.is_dir():
            for pin in old.iterdir():
                disk.rename(pin, pins / pin.name)
            disk.remove_empty(old)
        elif old.exists():
            disk.rename(old, pins)
    except OSError as error:
        raise StoreError(f"cannot rename {old} to {pins}: {error.strerror}; check the folders' permissions") from error
    return adopted


@contextlib.contextmanager
def looking_at(run: Path) -> Iterator[None]:
    """Errors of a run directory in words.

    Raises:
        UsageError: it is closed to this user.
        RnaWatchError: it cannot be looked at for a reason that may pass.
    """
    try:
        yield
    except OSError as error:
        raise of_run(run, error) from error


def same_folder(one: Path, other: Path) -> bool:
    """Whether two paths lead to one folder, be it by two mounts of a file system, whose devices differ.

    Inode and time of the last change tell then, which no copy shares; the folder may change while they are read.

    Raises:
        OSError: one of them cannot be looked at.
    """
    for _ in range(_TRIES):
        for each in (one, other):
            os.scandir(each).close()  # a network file system looks again whenever a folder is opened
        a, b = one.stat(), other.stat()
        if os.path.samestat(a, b) or (a.st_ino, a.st_ctime_ns) == (b.st_ino, b.st_ctime_ns):
            return True
    return False


def is_to_come(run: Path, *, wait: bool) -> bool:
    """Whether the trainer has yet to make the run directory.

    It is never made here: some trainers refuse a folder that exists, or use `exp2` next to it.

    Args:
        run: the run directory.
        wait: whether that is expected.

    Raises:
        UsageError: the directory does not exist and `wait` is false, or it cannot be looked at.
    """
    with looking_at(run):
        if run.exists() or not run.parent.is_dir():
            return False  # `run_registry.resolve` says what is wrong with it
        if not wait:
            raise UsageError(
                f"the run directory {run} does not exist; if the training is yet to make it, wait for it with --wait"
            )
        return True


def check_output(paths: RunPaths) -> None:
    """Refuse a place where models would lie among the run's checkpoints, or among entries that Accelerate counts as its own.

    Accelerate's automatic naming crashes on our entries.

    Raises:
        UsageError: the output would lie in such a folder.
    """
    models = paths.models.resolve()
    if paths.run.resolve().is_relative_to(models):
        raise UsageError(
            f"{paths.models} is where models would be written, and the run's own checkpoints lie there ({paths.run}); name "
            "another folder with --output"
        )
    if paths.output != paths.run:
        return
    names = [entry.name for entry in os.scandir(paths.run)]
    if not names and paths.run.name == _PARSED_FOLDER:
        raise UsageError(
            f"{paths.run} is still empty, and if Accelerate writes there it takes every entry for one of its own; watch the "
            f"folder above it ({paths.run.parent}), or write elsewhere with --output "
            f"{paths.run.parent / (paths.run.name + '-rna')}"
        )
    if any(_PARSED_ENTRY.match(name) for name in names):
        raise UsageError(
            f"{paths.run} holds checkpoint_<n> folders, and Accelerate takes every entry next to them for one of its own; "
            f"write elsewhere with --output {paths.run.parent / (paths.run.name + '-rna')}"
        )
