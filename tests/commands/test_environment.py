"""Odd surroundings: no home, no user's name, the C locale, names that are no text, modules named like the standard library's."""

import contextlib
import os
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from rna_watch.cli import main
from rna_watch.formats.probe import probe
from rna_watch.journal.command_line import command, quoted
from rna_watch.journal.log import read
from rna_watch.journal.run_paths import RunPaths
from rna_watch.journal.run_registry import resolve
from tests.daemon.disks import small_disk
from tests.daemon.runs import alive, rna_watch, status
from tests.torture.scenario import forked

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


def test_a_full_tmpdir_costs_nothing(run, tmp_path):
    """Models are made and evaluated: nothing of ours needs TMPDIR but Ray's session, which finds another place."""
    with small_disk(tmp_path / "tmp", 1024) as temporary:
        with contextlib.suppress(OSError), (temporary / "filling").open("wb", buffering=0) as file:
            while file.write(bytes(2**16)):
                pass
        assert shutil.disk_usage(temporary).free == 0
        judge = "printf '{\"loss\": 0.%s}' $(cksum < {checkpoint} | cut -c1-4)"
        given = ["once", str(run), "--engine", "local", "--evaluate-command", judge]
        done = subprocess.run(
            [sys.executable, "-m", "rna_watch", *given],
            env=os.environ | {"TMPDIR": str(temporary), "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout.decode(errors="replace") + done.stderr.decode(errors="replace")
    events = list(read(RunPaths(run=run, output=run).journal))
    assert [event.kind for event in events].count("published") == 2
    assert not [event for event in events if event.kind in {"problem", "failed", "evaluation_failed"}]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
def test_a_run_of_another_user(run, tmp_path):
    """What may be read is used; what may not, and a state folder of another user's, is refused in a sentence."""
    nobody = 65534
    assert rna_watch("once", run, "--engine", "local").returncode == 0  # loads what the other user may not read

    def act(uid, *arguments):
        def child():
            sys.stdout = sys.stderr = os.fdopen(os.dup(1), "w", buffering=1)
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            sys.argv = ["rna-watch", *arguments]
            main()

        output = tmp_path / "said"
        output.unlink(missing_ok=True)
        code = forked(child, output)
        return code, output.read_text()

    folder = Path(tempfile.mkdtemp(prefix="rna-watch-test-"))
    try:
        run = folder / "run"
        run.mkdir()
        for step in range(1, 6):
            torch.manual_seed(step)
            torch.save({"w": torch.randn(4)}, run / f"step_{step}.pt")
            (run / f"step_{step}.pt").chmod(0o644)
            os.utime(run / f"step_{step}.pt", (1e9 + step, 1e9 + step))
        (run / "step_5.pt").chmod(0o600)
        folder.chmod(0o755)
        run.chmod(0o755)
        once = ("once", str(run), "--engine", "local")
        code, said = act(nobody, *once)
        assert (code, "Traceback" in said) == (1, False), said
        assert "rna: Permission denied; name a folder that can be written with --output" in said
        run.chmod(0o777)
        code, said = act(nobody, *once)
        assert (code, "Traceback" in said) == (0, False), said
        assert "it cannot be read (permission denied); give this user read access" in said
        made = sorted(path for path in (run / "rna").glob("*.pt") if not path.is_symlink())
        assert [path.name for path in made] == ["step_3.pt", "step_4.pt"]
        assert {(path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) for path in made} == {(nobody, 0o644)}
        code, said = act(0, *once)
        assert (code, "Traceback" in said) == (2, False), said
        assert "belongs to another user" in said
    finally:
        shutil.rmtree(folder)


def test_a_daemon_with_another_output_than_an_earlier_command_is_found(run, tmp_path):
    """After `once` beside the run, `start --output` elsewhere: `stop` with the run alone ends that daemon."""
    run = run.rename(tmp_path / "run")
    assert rna_watch("once", run, "--engine", "local").returncode == 0
    started = rna_watch("start", run, "--engine", "local", "--output", tmp_path / "out")
    assert started.returncode == 0, started.stderr
    said = status(run)
    assert said["state"] in {"watching", "working", "starting"}
    assert rna_watch("stop", run).returncode == 0
    assert not alive(said["owner"]["pid"])
    assert rna_watch("stop", run).returncode == 3
