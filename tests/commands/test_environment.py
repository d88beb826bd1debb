"""Odd surroundings: no home, no user's name, the C locale, names that are no text, modules named like the standard library's."""

import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rna_watch.formats.probe import probe
from rna_watch.journal.command_line import command, quoted
from rna_watch.journal.log import read
from rna_watch.journal.run_paths import RunPaths
from rna_watch.journal.run_registry import resolve

CHILD = """
import os, pwd, sys
def nobody(*_):
    raise KeyError("no such user")
pwd.getpwuid = pwd.getpwnam = nobody
from rna_watch.cli import main
run, out = sys.argv[1:]
names = sorted(os.listdir(run))
for arguments in (
    ["once", run, "--engine", "local", "--workers", "1", "--config", "settings.yaml"],
    ["once", run, "--engine", "local", "--workers", "1", "--output", out],
    ["status", run],
    ["verify", run],
    ["logs", run],
    ["inspect", os.path.join(run, next(name for name in names if name.endswith(".pt")))],
):
    sys.argv = ["rna-watch", *arguments]
    try:
        main()
    except SystemExit as error:
        if error.code:
            raise
"""


@pytest.fixture
def run(tmp_path):
    """A run whose folder and checkpoints have names that are no text, of mode 0664."""
    folder = tmp_path / os.fsdecode(b"run \xff \xc3\xa4")
    folder.mkdir()
    for step in range(1, 5):
        path = folder / os.fsdecode(b"a\xfe_step_%d.pt" % step)
        torch.manual_seed(step)
        torch.save({"w": torch.randn(4)}, path)
        path.chmod(0o664)
    return folder


def test_a_run_in_odd_surroundings(run, tmp_path):
    """Everything at once: models are made, and nothing is a traceback."""
    home = tmp_path / "home"
    home.mkdir()
    for name in ("random", "json", "socket", "selectors"):
        (home / f"{name}.py").write_text("raise SystemExit('the wrong one')\n")
    (home / "settings.yaml").write_text("window: 3  # größer als nötig\n", encoding="utf-8")
    temporary = tmp_path / ("t" * 120)
    temporary.mkdir()
    known = {name: value for name, value in os.environ.items() if name not in {"HOME", "XDG_STATE_HOME", "LANG"}}
    odd = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TMPDIR": str(temporary)}
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-P", "-c", CHILD, run, tmp_path / os.fsdecode(b"out\xff")],
        cwd=home,
        env=known | odd | {"PYTHONPATH": path},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout.decode(errors="replace") + done.stderr.decode(errors="replace")
    assert b"Traceback" not in done.stdout + done.stderr
    for paths in (RunPaths(run=run, output=run), RunPaths(run=run, output=tmp_path / os.fsdecode(b"out\xff"))):
        made = [event for event in read(paths.journal) if event.kind == "published"]
        assert len(made) >= 2
        for event in made:
            model = paths.models / event.output
            assert probe(str(model)).parameters == 4
            assert stat.S_IMODE(model.stat().st_mode) == 0o664


@pytest.mark.parametrize("pin", ["link", "copy"])
def test_models_have_the_original_s_mode_whatever_pinned_it(pin, tmp_path, monkeypatch):
    """A copied pin is as the original is, and so is the model that is a clone of it."""
    from rna_watch.daemon import pinned_file
    from rna_watch.layout.identity import identify
    from rna_watch.layout.open_file import OpenFile

    source = tmp_path / "a.pt"
    torch.save({"w": torch.ones(3)}, source)
    source.chmod(0o664)
    with OpenFile(str(source)) as file:
        identity = identify(str(source), file.descriptor)
    target = tmp_path / "pin"
    if pin == "link":
        assert pinned_file._link(str(source), str(target))
    else:
        pinned_file._copy(identity, str(target), lambda: None)
    assert stat.S_IMODE(target.stat().st_mode) == 0o664


def test_without_a_home_the_registry_of_runs_is_left_out(run, tmp_path, monkeypatch):
    """`--output` is then repeated, as in the commands that are printed."""
    for name in ("HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def nobody(*_):
        raise KeyError("no such user")

    monkeypatch.setattr("pwd.getpwuid", nobody)
    assert resolve(run, None).output == run.resolve()
    assert resolve(run, str(tmp_path / "out")).output == tmp_path / "out"


@pytest.mark.parametrize(
    "name", ["plain", "two words", "it's", "$HOME;`id`", "a\x1b[2J", os.fsdecode(b"\xff\\'\n"), "ä"]
)
def test_printed_commands_are_what_a_shell_reads(name, tmp_path):
    """A shell gives back the very bytes, and nothing in them is obeyed by a terminal."""
    text = quoted(name)
    assert text.isprintable()
    shell = subprocess.run(["bash", "-c", f"printf %s {text}"], capture_output=True, check=True)
    assert shell.stdout == os.fsencode(name)
    assert command("stop", "run", "run") == "rna-watch stop run"
    assert shlex.split(command("stop", "a b", "c d")) == ["rna-watch", "stop", "a b", "--output", "c d"]
