"""The daemon's log file: bounded, with a few older parts, and never behind a link."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from rna_watch.daemon.log_file import _Log

if TYPE_CHECKING:
    from pathlib import Path


def _record(text: str) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": text})


def test_the_log_keeps_its_newest_parts(tmp_path: Path) -> None:
    """A full file gets a number, numbers move up, and the oldest part gives way."""
    log = _Log(tmp_path / "log", maxBytes=12, backupCount=3)
    for number in range(6):
        log.emit(_record(f"line {number} \N{GREEK SMALL LETTER LAMDA}"))
    log.close()
    kept = {path.name: path.read_text().strip()[:6] for path in tmp_path.iterdir()}
    assert kept == {"log": "line 5", "log.1": "line 4", "log.2": "line 3", "log.3": "line 2"}


def test_a_link_in_the_place_of_the_log_is_not_written(tmp_path: Path) -> None:
    """What the link shows stays as it is."""
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "log").symlink_to("precious")
    with pytest.raises(OSError, match="symbolic link, which is not followed"):
        _Log(tmp_path / "log", maxBytes=12, backupCount=3)
    assert (tmp_path / "precious").read_text() == "precious"
