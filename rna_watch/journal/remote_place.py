"""Where a run of an object store lies on this machine: in a folder of this user for its address, or that of `--output`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from pathlib import Path

from rna_watch.errors import UsageError
from rna_watch.journal.command_line import MIRROR as MIRROR  # noqa: PLC0414
from rna_watch.journal.run_registry import registry_file
from rna_watch.layout import bounded_json, disk, owned

_URL = re.compile(r"^[a-z][a-z0-9+.-]*://[^/]")
_KIND = "remote"


def is_url(text: str) -> bool:
    """Whether a run is named by an address instead of a path."""
    return _URL.match(text) is not None


def output_of(url: str) -> Path:
    """The folder for outputs and state: the one named at the last start, else one of this user's for the address.

    Raises:
        UsageError: this user has no home.
    """
    file = _file(url)
    with contextlib.suppress(OSError, ValueError, AttributeError):
        place = bounded_json.read(file).get("output")
        if isinstance(place, str) and place.startswith("/"):
            return Path(place)
    slug = re.sub(r"[^A-Za-z0-9]+", "-", url.partition("://")[2]).strip("-")[-60:]
    return file.parent / f"{slug}-{hashlib.blake2b(url.rstrip('/').encode(), digest_size=4).hexdigest()}"


def remember(url: str, output: Path) -> None:
    """Record the folder for outputs and state of an address."""
    file = _file(url)
    with contextlib.suppress(OSError):
        owned.make_folders(file.parent)
        with disk.replacing(file, durable=False) as temporary:
            disk.write_new(temporary, json.dumps({"url": url, "output": str(output)}).encode())


def _file(url: str) -> Path:
    file = registry_file(Path(url.rstrip("/")), _KIND)
    if file is None:
        raise UsageError(f"this user has no home for what is kept of {url}: name a folder with --output")
    return file
