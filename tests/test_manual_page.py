"""The manual page holds what `--help` shows, in words that `man` can set."""

from __future__ import annotations

import shutil
import subprocess

import click
import pytest
from click.testing import CliRunner

from rna_watch.cli import app
from rna_watch.config import RunConfig
from rna_watch.errors import EXIT_CODES


def _page() -> str:
    return CliRunner().invoke(app, ["man"]).output


def test_every_command_option_setting_and_exit_code_is_there() -> None:
    """Each command has its section, each of its own options a paragraph, each setting one."""
    page = _page()
    for name, command in app.commands.items():
        section = page.partition(f"\n.SS {name}\n")[2].partition("\n.S")[0]
        own = [each for each in command.params if isinstance(each, click.Option) and not hasattr(each, "heading")]
        for option in own:
            assert option.hidden or f"{max(option.opts, key=len)}".replace("-", r"\-") in section, (name, option.name)
    for setting in RunConfig.model_fields:
        assert (
            f".B {('--' + setting.replace('_', '-')).replace('-', chr(92) + '-')}" in page.partition(".SH SETTINGS")[2]
        )
    for code, meaning in EXIT_CODES.items():
        assert f".B {code}\n{meaning.replace('-', chr(92) + '-')}\n" in page


def test_man_sets_it_without_a_warning(tmp_path) -> None:
    """groff, which `man` calls, has nothing to say."""
    if not shutil.which("groff"):
        pytest.skip("there is no groff")
    file = tmp_path / "rna-watch.1"
    file.write_text(_page())
    done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", str(file)], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "RNA-WATCH(1)" in done.stdout
