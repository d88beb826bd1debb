"""What is ours on a disk that others write to as well: folders that carry our mark, and names as we make them.

A process claims its folders, `.rna-watch` and `rna`, when it begins. From then on it reaches what lies below them from a
descriptor of the folder, follows no symbolic link there, and touches nothing of another owner: neither a name nor a line
in a file that others can write makes anything ours. The acts themselves are in `disk`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import stat
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rna_watch.errors import UsageError
from rna_watch.layout import artifacts
from rna_watch.layout.trouble import UNREAD

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

MARK = "made-by-rna-watch"
MARK_TEXT = b"rna-watch made this folder and removes what it made in it.\n"
STATE = ".rna-watch"
_PINNED = re.compile(r"\.pinned(\.gradient)?$")
_CANDIDATE = re.compile(r"^candidate-\d+(\.|$)")
_SINGLE = {"stop", "owner.json"}  # files of the state folder that are removed
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_WHAT_TO_DO = "put a folder of this user in its place, name another with --output, or allow it with --allow-links"


class NotOurs(PermissionError):  # noqa: N818 - it states the fact
    """What is there was not made by us: it stays as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A folder below which we act.

    `follow`: it may itself be a link. `inside`: links below it are followed. `uid`: the owner that our files get; None: any.
    `whole`: all that is in it is ours, if it carries our mark.
    """

    path: str
    follow: bool
    inside: bool = False
    uid: int | None = None
    whole: bool = False


_CLAIMED: dict[str, Folder] = {}


def claim(
    folder: Path, names: Iterable[str] = (), *, allow_links: bool = False, mark: bool = False, whole: bool = False
) -> None:
    """Make a folder, if it is not there, and act below it as on our own from now on.

    Args:
        folder: its path; links above it are followed.
        names: what else in it must be ours, if it is there.
        allow_links: follow links, and let files be another owner's.
        mark: put our mark into the folder, if nothing is in it.
        whole: what is in it may be removed, whatever its name.

    Raises:
        UsageError: the folder or one of the names is a symbolic link, or belongs to another user.
        OSError: the folder cannot be made or looked at.
    """
    path = os.path.abspath(folder)  # noqa: PTH100 - links above stay as they are
    above, name = os.path.split(path)
    make_folders(above)
    if not allow_links and os.path.islink(path):  # noqa: PTH114
        raise UsageError(f"{path} is a symbolic link, which rna-watch does not follow: {_WHAT_TO_DO}")
    made = open_folder(above, follow=True)
    try:
        make_folder(made, name)
        inside = os.open(name, _FOLDER | (0 if allow_links else os.O_NOFOLLOW), dir_fd=made)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        os.close(made)
    try:
        uid = None if allow_links else _uid_of_new_files(inside)
        for each in ("", MARK, *names) if uid is not None else ():
            with suppress(FileNotFoundError):
                found = os.stat(each, dir_fd=inside, follow_symlinks=False) if each else os.fstat(inside)
                what = "is a symbolic link, which rna-watch does not follow" if stat.S_ISLNK(found.st_mode) else ""
                if not what and found.st_uid != uid:
                    what = f"belongs to another user ({found.st_uid}; files of ours get {uid})"
                if what:
                    raise UsageError(f"{os.path.join(path, each) if each else path} {what}: {_WHAT_TO_DO}")  # noqa: PTH118
        if mark and not any(os.scandir(inside)):
            put_mark(inside)
    finally:
        os.close(inside)
    _CLAIMED[path] = Folder(path=path, follow=allow_links, inside=allow_links, uid=uid, whole=whole)


def _uid_of_new_files(folder: int) -> int:
    """The owner that a file gets which we make in a folder: servers map ours to another one."""
    name = f"{artifacts.TEMPORARY_PREFIX}owner.{os.getpid()}-{secrets.token_hex(4)}{artifacts.TEMPORARY_SUFFIX}"
    try:
        made = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
    except PermissionError:
        return os.geteuid()
    except OSError:  # a full disk is another trouble
        return os.fstat(folder).st_uid
    try:
        return os.fstat(made).st_uid
    finally:
        os.close(made)
        os.unlink(name, dir_fd=folder)


def put_mark(folder: int) -> None:
    """Put our mark into a folder, by a descriptor of it."""
    descriptor = os.open(
        MARK, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=folder
    )
    try:
        os.write(descriptor, MARK_TEXT)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.fsync(folder)


def put_mark_into(folder: Path) -> None:
    """Put our mark into a folder that is claimed.

    Raises:
        OSError: it cannot be written.
    """
    with at(folder / MARK) as (descriptor, _):
        put_mark(descriptor)


def hold(base: int, name: str, room_bytes: int) -> int:
    """Put our mark into a new folder, and lock it; returns the lock, which lasts until it is closed or the process ends.

    Args:
        base: a descriptor of the folder around it.
        name: of the new folder.
        room_bytes: what must be free there; it is free again afterwards.

    Raises:
        OSError: there is no room.
    """
    folder = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=base)
    try:
        mark = os.open(MARK, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
    finally:
        os.close(folder)
    try:
        fcntl.flock(mark, fcntl.LOCK_EX)
        try:
            os.posix_fallocate(mark, 0, room_bytes)
        except OSError as error:
            if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL}:  # a file system that cannot promise room
                raise
        os.ftruncate(mark, 0)
        os.pwrite(mark, MARK_TEXT, 0)  # last: `held` takes no lock on a mark without it
    except BaseException:
        os.close(mark)
        raise
    return mark


@contextmanager
def held(base: int, name: str) -> Iterator[None]:
    """Hold a folder whose holder is gone.

    Args:
        base: a descriptor of the folder around it.
        name: the folder's.

    Raises:
        OSError: it has a holder, or does not carry our mark, or is another user's.
    """
    folder = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=base)
    try:
        mark = os.open(MARK, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        try:
            mine = all(os.fstat(each).st_uid == os.geteuid() for each in (folder, mark))
            if (
                not mine
                or not stat.S_ISREG(os.fstat(mark).st_mode)
                or os.pread(mark, 2 * len(MARK_TEXT), 0) != MARK_TEXT
            ):
                raise _not_ours(name)
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        finally:
            os.close(mark)
    finally:
        os.close(folder)


def is_marked(folder: Folder) -> bool:
    """Whether a folder carries our mark; raises OSError where that cannot be told for a reason that may pass."""
    try:
        with at(os.path.join(folder.path, MARK)) as (where, name):  # noqa: PTH118
            found = os.stat(name, dir_fd=where, follow_symlinks=False)
    except OSError as error:
        if error.errno in UNREAD:
            raise
        return False
    return stat.S_ISREG(found.st_mode) and folder.uid in {None, found.st_uid}


def locate(path: str | Path) -> tuple[Folder, list[str]]:
    """The folder below which a path is reached without following links, and the names below it.

    That is a claimed folder; in a process that claimed none (a worker, a command) the state folder, or the folder of the
    temporary name that is part of the path; else the folder that holds the file.
    """
    whole = os.path.abspath(path)  # noqa: PTH100
    claimed = [each for each in _CLAIMED.values() if whole.startswith(f"{each.path}/")]
    if claimed:
        folder = max(claimed, key=lambda each: len(each.path))
        return folder, whole[len(folder.path) + 1 :].split("/")
    parts = os.fspath(path).split("/")
    states = [number + 1 for number, part in enumerate(parts[:-1]) if part == STATE]
    drafts = [number for number, part in enumerate(parts) if is_temporary(part)]
    cut = states[-1] if states else drafts[0] if drafts else len(parts) - 1
    root = "/".join(parts[:cut]) or ("/" if parts[0] == "" and cut else ".")
    return Folder(path=root, follow=not states), parts[cut:]


@contextmanager
def at(path: str | Path) -> Iterator[tuple[int, str]]:
    """A descriptor of the folder that holds a file, reached without following links below ours, and the file's name.

    Raises:
        OSError: there is no such folder, or a link or another owner's folder is on the way.
    """
    folder, names = locate(path)
    descriptor = open_folder(folder.path, follow=folder.follow)
    try:
        for number, name in enumerate(names[:-1], 1):
            where = os.path.join(folder.path, *names[:number])  # noqa: PTH118
            inner = _enter(descriptor, name, where, follow=folder.inside)
            os.close(descriptor)
            descriptor = inner
            if folder.uid not in {None, os.fstat(descriptor).st_uid}:
                raise _not_ours(where)
        yield descriptor, names[-1]
    finally:
        os.close(descriptor)


def open_folder(path: str | Path, *, follow: bool = True) -> int:
    """A descriptor of a folder.

    Raises:
        OSError: it cannot be opened, or is a link that is not followed.
    """
    try:
        return os.open(path, _FOLDER | (0 if follow else os.O_NOFOLLOW))
    except NotADirectoryError as error:
        raise (_link(str(path)) if os.path.islink(path) else error) from error  # noqa: PTH114


def _enter(descriptor: int, name: str, path: str, *, follow: bool) -> int:
    try:
        return os.open(name, _FOLDER | (0 if follow else os.O_NOFOLLOW), dir_fd=descriptor)
    except OSError as error:
        link = False
        with suppress(OSError):
            link = not follow and stat.S_ISLNK(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode)
        if link:
            raise _link(path) from error
        raise OSError(error.errno, error.strerror, path) from error


def _link(path: str) -> OSError:
    return OSError(errno.ELOOP, "it is a symbolic link, which is not followed", path)


def _not_ours(path: str) -> OSError:
    return NotOurs(errno.EPERM, "rna-watch did not make it, so it stays as it is", path)


def open_at(path: str | Path, flags: int, mode: int = 0o666) -> int:
    """Open a regular file of ours to write to it; returns a descriptor. A new name that is to stay is put on the disk.

    Args:
        path: its path.
        flags: as `os.open` takes them.
        mode: of a new file.

    Raises:
        OSError: it cannot be opened, or is a link, no regular file, or another owner's.
    """
    folder, _ = locate(path)
    flags |= os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | (0 if folder.inside else os.O_NOFOLLOW)
    with ExitStack() as stack:
        try:
            where, name = stack.enter_context(at(path))
            descriptor = os.open(name, flags, mode, dir_fd=where)
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.EPERM} and error.filename != os.path.basename(path):  # noqa: PTH119
                raise  # a folder above it is a link, or another owner's
            raise _link(str(path)) if error.errno == errno.ELOOP else OSError(*error.args, str(path)) from error
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or folder.uid not in {None, found.st_uid}:
                raise _not_ours(str(path))
            if flags & os.O_CREAT and not flags & os.O_EXCL and not found.st_size:
                os.fsync(where)
        except BaseException:
            os.close(descriptor)
            raise
    return descriptor


def make_folder(where: int, name: str) -> None:
    """Make a folder in another, if it is not there, and put its name on the disk."""
    with suppress(FileExistsError):
        os.mkdir(name, dir_fd=where)
        os.fsync(where)


def make_folders(path: str | Path) -> None:
    """Make a folder and those above it, as far as they are not there, and put their names on the disk.

    Raises:
        OSError: one cannot be made, or is a link below a folder of ours.
    """
    whole = os.fspath(path) or "."
    if os.path.isdir(whole) and not os.path.islink(whole):  # noqa: PTH112, PTH114
        return
    folder, names = locate(whole)
    if folder.path not in _CLAIMED and not os.path.isdir(whole):  # noqa: PTH112
        make_folders(os.path.dirname(os.path.abspath(whole)))  # noqa: PTH100, PTH120
    for number in range(len(names)):
        with at(os.path.join(folder.path, *names[: number + 1])) as (where, name):  # noqa: PTH118
            make_folder(where, name)


def is_temporary(name: str) -> bool:
    """Whether we give such a name to what is in the making."""
    return name.startswith(artifacts.TEMPORARY_PREFIX) and name.endswith(artifacts.TEMPORARY_SUFFIX)


def check_removable(path: str | Path, where: int, name: str) -> os.stat_result:
    """See that a name stands for what we made: a temporary name, a pin, what is evaluated, a model with its manifest.

    Args:
        path: the path.
        where: a descriptor of its folder.
        name: its name there.

    Returns:
        what is there.

    Raises:
        FileNotFoundError: nothing is there.
        OSError: it stays (`NotOurs`), or that cannot be told for a reason that may pass.
    """
    found = os.stat(name, dir_fd=where, follow_symlinks=False)
    folder, names = locate(path)
    state = folder.whole or names[0] in _SINGLE or (len(names) > 1 and _is_kept(names))
    own = any(map(is_temporary, names)) or name.partition(".")[0] == f"candidate-{os.getpid()}"
    if not (own or (state and is_marked(folder)) or _is_model(where, name, found)):
        raise _not_ours(str(path))
    if folder.uid not in {None, found.st_uid} and (stat.S_ISDIR(found.st_mode) or not state):
        raise _not_ours(str(path))  # a hard link in the window store may be to the trainer's file
    return found


def _is_kept(names: list[str]) -> bool:
    kept = {"pins": _PINNED, "window": _PINNED, "scratch": _CANDIDATE}.get(names[0])
    return kept is not None and kept.search(names[1]) is not None


def _is_model(where: int, name: str, found: os.stat_result) -> bool:
    """Whether it is the name of a model, its manifest or its plain copy: the manifest lies beside, never inside."""
    if stat.S_ISLNK(found.st_mode) and re.match(r"^(best|latest)(\.|$)", name):
        return not os.path.isabs(os.readlink(name, dir_fd=where))  # noqa: PTH117
    return any(_has_manifest(where, name.removesuffix(end)) for end in ("", ".json", artifacts.ENDING))


def _has_manifest(where: int, model: str) -> bool:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(f"{model}.json", flags, dir_fd=where)
    except OSError as error:
        if error.errno not in UNREAD:
            return False
        raise
    with open(descriptor, "rb") as file:  # noqa: PTH123
        return stat.S_ISREG(os.fstat(descriptor).st_mode) and artifacts.is_manifest(file.read())
