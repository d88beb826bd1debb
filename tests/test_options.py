"""The settings as options: what help shows, and what still is accepted of settings that went."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from rna_watch.cli import app
from rna_watch.config import COMMON, RETIRED, RunConfig, groups, load, shape_of
from rna_watch.errors import UsageError
from rna_watch.help_pages import COMMANDS, EXAMPLES, SUMMARIES
from rna_watch.options import PROGRAM, SHELLS

if TYPE_CHECKING:
    from pathlib import Path


def _help(*arguments: str) -> str:
    return CliRunner().invoke(app, [*arguments], terminal_width=100).output


def _settings(text: str) -> set[str]:
    options = re.findall(r"^ +--([a-z0-9-]+)", text, re.MULTILINE)
    return {name.replace("-", "_") for name in options} & set(RunConfig.model_fields)


def test_help_shows_a_dozen_settings_and_help_all_the_others_in_groups() -> None:
    """`--help` is read by people who begin, `--help-all` says everything below headings."""
    short, long = _help("start", "--help"), _help("start", "--help-all")
    assert len(COMMON) == 12
    assert _settings(short) == COMMON
    assert _settings(long) == set(RunConfig.model_fields)
    assert "--foreground" in short
    assert "--foreground" in long
    for text, some in ((short, False), (long, True)):
        headings = [heading for heading in groups() if f"\n{heading.capitalize()}:\n" in text]
        assert headings == [heading for heading, names in groups().items() if some or COMMON & set(names)]
    for heading, names in groups().items():
        section = long.partition(f"\n{heading.capitalize()}:\n")[2].partition("\n\n")[0]
        assert _settings(section) == set(names)


def test_commands_stand_in_groups() -> None:
    """Each below one heading; what has none is at the end."""
    text = _help("--help")
    rest = text
    for heading in [*COMMANDS, "More"]:
        _, found, rest = rest.partition(f"\n{heading}:\n")
        assert found, heading
    assert all(text.count(f"\n  {name} ") == 1 for name in app.commands)  # type: ignore[attr-defined]
    assert "Show runs live" in text


@pytest.mark.parametrize("line", [line for lines in EXAMPLES.values() for line in lines])
def test_the_examples_of_help_are_taken(line: str) -> None:
    """Each is parsed by its command, below whose help it stands."""
    _, name, *arguments = shlex.split(line)
    command = app.commands[name]  # type: ignore[attr-defined]
    with command.make_context(name, list(arguments)):
        pass
    assert line in " ".join(_help(name, "--help").split())


def test_every_setting_has_one_heading() -> None:
    """The groups hold each setting once, in the order of the settings."""
    assert [name for names in groups().values() for name in names] == list(RunConfig.model_fields)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("mode", "min|max"), ("reserve", "auto|VALUE"), ("windows", "LIST"), ("methods", "LIST"), ("keep", "VALUE")],
)
def test_help_names_the_choices_of_a_setting(name: str, shape: str) -> None:
    """What may be given stands next to the option's name."""
    assert shape_of(name) == shape
    assert re.search(rf"--{name} {re.escape(shape)}\s", _help("once", "--help-all"))


@pytest.mark.parametrize("name", RETIRED)
def test_a_setting_that_went_is_accepted_and_one_line_says_so(name: str, tmp_path: Path) -> None:
    """It changes nothing in a file and on the command line, whatever its value, and is no error."""
    file = tmp_path / "rna-watch.yaml"
    file.write_text(f"{name}: [3, 5]\nwindow: 7\n")
    said: list[str] = []
    assert load(file, {"keep": "2"}, said.append) == RunConfig(window=7, keep=2)
    assert len(said) == 1
    assert f"'{name}' has no effect any more" in said[0]
    assert RETIRED[name] in said[0]
    assert load(None, {name: "64"}) == RunConfig()
    assert name not in RunConfig.model_fields
    result = CliRunner().invoke(app, ["once", str(tmp_path), "--engine", "local", f"--{name.replace('_', '-')}", "4"])
    assert f"'{name}' has no effect any more" in result.output
    assert f"--{name.replace('_', '-')}" not in _help("once", "--help-all")


@pytest.mark.parametrize(
    ("old", "new", "value"), [("trained_memory", "fit_memory", 2.0), ("ema_decay", "ema_decays", 0.2)]
)
def test_a_setting_that_was_renamed_is_accepted_under_its_old_name(
    old: str, new: str, value: Any, tmp_path: Path
) -> None:
    """In a file, on the command line and in Python; the command line still wins, and help shows the new name only."""
    file = tmp_path / "rna-watch.yaml"
    file.write_text(f"{old}: {value}\nwindow: 7\n")
    assert (
        getattr(load(file, {}), new)
        == getattr(RunConfig(**{old: value}), new)
        == getattr(RunConfig(**{new: value}), new)
    )
    default = getattr(RunConfig(), new)
    assert getattr(load(file, {new: default}), new) == getattr(load(file, {old: default}), new) == default
    result = CliRunner().invoke(app, ["once", str(tmp_path / "none"), f"--{old.replace('_', '-')}", str(value)])
    assert "No such option" not in result.output
    assert f"--{old.replace('_', '-')} " not in _help("once", "--help-all")


def test_what_was_never_a_setting_is_an_error_that_names_the_near_one(tmp_path: Path) -> None:
    """A typing error is no retired setting."""
    file = tmp_path / "rna-watch.yaml"
    file.write_text("windw: 7\n")
    with pytest.raises(UsageError, match="unknown setting 'windw'; did you mean 'window'"):
        load(file, {})


def _completed(*words: str) -> list[str]:
    """What the last word may become."""
    completion = ShellComplete(app, {}, PROGRAM, "_RNA_WATCH_COMPLETE")
    return [item.value for item in completion.get_completions(list(words[:-1]), words[-1])]


def test_commands_options_and_values_are_completed() -> None:
    """All of them come from the program; a value that is free is taken for a file's name."""
    assert _completed("st") == ["start", "status", "stop"]
    assert _completed("dashboard", "--s") == ["--svg"]
    assert _completed("start", "--normalization", "c") == ["clamp", "combine"]
    assert _completed("compare", "run", "--mode", "m") == ["min", "max"]
    assert _completed("start", "--evaluator", "ev") == ["ev"]
    assert _completed("completion", "") == list(SHELLS)


def test_bash_completes_by_the_script_that_is_printed(tmp_path: Path) -> None:
    """The script is read, its function asks the program, and the words are there."""
    program = tmp_path / PROGRAM
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m rna_watch "$@"\n')
    program.chmod(0o755)
    lines = (CliRunner().invoke(app, ["completion", "bash"]).output, "COMP_WORDS=(rna-watch sta) COMP_CWORD=1")
    script = "\n".join([*lines, "_rna_watch_completion rna-watch 2>/dev/null", 'echo "${COMPREPLY[*]}"'])
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    shown = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["start", "status"]


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_has_a_script(shell: str) -> None:
    """It names the program, and the variable by which the program is asked."""
    script = CliRunner().invoke(app, ["completion", shell]).output
    assert f"_RNA_WATCH_COMPLETE={shell}_complete" in script
    assert "rna-watch" in script


def test_help_all_changes_nothing_of_what_help_shows() -> None:
    """In one process `--help` is as short after `--help-all` as before."""
    before = _help("start", "--help")
    _help("start", "--help-all")
    assert _help("start", "--help") == before


def test_summaries_of_commands_are_whole() -> None:
    """On a terminal of 80 cells no command's summary is cut."""
    shown = CliRunner().invoke(app, ["--help"], terminal_width=80).output
    assert "..." not in shown.partition("Begin:")[2]
    assert all(summary in shown for summary in SUMMARIES.values())
