"""The nodes of a cluster: what each is asked before its first task, and why one cannot be used."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

LIBRARIES = ("numpy", "threadpoolctl")  # what tasks need; the same versions everywhere, for the same bits
EVALUATES = "torch"


class Report(TypedDict):
    """What a node says of itself: plain values, which every version of Python reads."""

    versions: dict[str, str]
    files: dict[str, tuple[int, ...]]
    nonce: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Nonce:
    """A file of ours in the run's folder that a node must see: its path, and what it holds."""

    path: str
    text: str


def report(paths: tuple[str, ...], nonce: str = "") -> Report:
    """Runs on a node, and says what is there.

    Args:
        paths: files whose sizes, inodes and times are asked for; one that is not there has none.
        nonce: the file whose content is asked for.
    """
    versions = {"Python": platform.python_version()}
    for name in (*LIBRARIES, EVALUATES):
        if importlib.util.find_spec(name) is not None:
            versions[name] = _version(name)
    text = ""
    if nonce:
        try:
            text = Path(nonce).read_text(encoding="utf-8")
        except (OSError, ValueError):
            text = ""
    return {"versions": versions, "files": {path: _identity(path) for path in paths}, "nonce": text}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "of no version"


def _identity(path: str) -> tuple[int, ...]:
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_size, found.st_ino, found.st_mtime_ns


def why_not(here: Report, there: Report, nonce: Nonce | None) -> str:
    """Why a node cannot do tasks, in words; "" if it can."""
    lacking = [name for name in LIBRARIES if name not in there["versions"]]
    if lacking:
        return f"it lacks {' and '.join(lacking)}"
    for name in ("Python", *LIBRARIES):
        if there["versions"][name] != here["versions"].get(name):
            return f"it has {name} {there['versions'][name]}, and this machine has {here['versions'].get(name)}"
    if nonce is not None and there["nonce"] != nonce.text:
        return f"it does not see {Path(nonce.path).parent}"
    for path, identity in there["files"].items():
        if here["files"].get(path, identity) != identity:
            return f"it does not see {path} as this machine does"
    return ""
