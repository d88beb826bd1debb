"""A minute of `make torture`, and proof that its injector and its power cut do what they say."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rna_watch.layout.artifacts import TEMPORARY_PREFIX
from tests.torture import injector
from tests.torture.injector import ANY, CHANGES, FAIL, KILL_AFTER, KILL_BEFORE, KILL_HALF, Order
from tests.torture.power_loss import Disk

ROOT = Path(__file__).parents[2]
_POINTS = 60
_ACT = """
import os, sys
from pathlib import Path
from tests.torture.injector import Order, arm
root = Path(sys.argv[1])
log = Path(sys.argv[2]) if sys.argv[2] else None
arm(Order(**eval(sys.argv[3])), root, root.parent / "counter", log=log)
def sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
try:
    exec(sys.argv[4])
except OSError as error:
    print(error.errno)
"""

needs_compiler = pytest.mark.skipif(
    injector.compiler() is None, reason="no C compiler (cc, gcc or clang) to build the fault injector with"
)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The injector, compiled."""
    return injector.build(tmp_path_factory.mktemp("injector"))


def act(library: Path, root: Path, order: Order, code: str, log: Path | None = None) -> tuple[int, str]:
    """Run a few lines in a process with the injector; its exit code and what it printed."""
    root.mkdir(exist_ok=True)
    fields = {name: getattr(order, name) for name in ("act", "counted", "at", "error", "times")}
    given = [sys.executable, "-c", _ACT, str(root), str(log or ""), repr(fields), code]
    environment = os.environ | {"LD_PRELOAD": str(library), "PYTHONPATH": str(ROOT)}
    result = subprocess.run(given, capture_output=True, text=True, env=environment, check=False)
    return result.returncode, result.stdout.strip() + result.stderr.strip()


@needs_compiler
def test_the_injector_kills_and_fails_where_it_is_told(library: Path, tmp_path: Path) -> None:
    """Before, after, half way; an error for as many calls as were asked for; calls elsewhere do not count."""
    root, other = tmp_path / "run", tmp_path / "other"
    write = f"open({str(other)!r}, 'wb').write(b'else'); open(root / 'a', 'wb', buffering=0).write(b'0123456789')"
    for kind, content in ((KILL_BEFORE, b""), (KILL_HALF, b"01234"), (KILL_AFTER, b"0123456789")):
        code, _ = act(library, root, Order(act=kind, counted=CHANGES, at=1), write)
        assert (code, (root / "a").read_bytes(), other.read_bytes()) == (-9, content, b"else")
    for error in (errno.ENOSPC, errno.ESTALE):
        order = Order(act=FAIL, counted=CHANGES, at=1, error=error, times=2)
        assert act(library, root, order, write) == (0, str(error))
    again = "[print(os.path.exists(root / 'a')) for _ in range(1)]; os.rename(root / 'a', root / 'b')"
    assert act(library, root, Order(act=FAIL, counted=CHANGES, at=0, error=errno.EDQUOT), again) == (0, "True\n122")
    assert (root / "a").exists()


@needs_compiler
def test_a_power_cut_keeps_what_was_synced_and_nothing_else_for_certain(library: Path, tmp_path: Path) -> None:
    """Bytes need an fsync of the file, names one of their folder; the rest is there or not, a rename as a whole."""
    root, log = tmp_path / "run", tmp_path / "changes"
    root.mkdir()
    (root / "old").write_bytes(b"old")
    disk = Disk(root)
    code = (
        "open(root / 'data', 'wb', buffering=0).write(b'data'); sync(root / 'data'); "
        "open(root / 'named', 'wb', buffering=0).write(b'named'); sync(root); "
        "open(root / 'new', 'wb', buffering=0).write(b'new'); os.replace(root / 'new', root / 'old')"
    )
    assert act(library, root, Order(), code, log)[0] == 0
    disk.replay(log)
    found = []
    for seed in range(40):
        there = tmp_path / f"disk{seed}"
        disk.write(there, seed=seed)
        found.append({path.name: path.read_bytes() for path in there.iterdir()})
    assert all(each["data"] == b"data" for each in found)
    assert {each["named"] for each in found} == {b"", b"named"}
    assert found[0] == {"data": b"data", "named": b"", "old": b"old"}
    assert found[1] == {"data": b"data", "named": b"", "old": b""}
    assert found[2] == {"data": b"data", "named": b"named", "old": b"new"}
    assert {each["old"] for each in found} == {b"old", b"", b"new"}


@needs_compiler
@pytest.mark.parametrize("at", range(6))
def test_a_power_cut_while_a_model_is_removed_leaves_it_whole_or_nothing_of_it(
    library: Path, tmp_path: Path, at: int
) -> None:
    """Half of it would be a torn model; without its manifest nothing would say that it is ours, and it would stay."""
    root, log = tmp_path / "run", tmp_path / "changes"
    (root / "model").mkdir(parents=True)
    (root / "model" / "weights").write_bytes(b"weights")
    (root / "model.json").write_text(json.dumps({"schema": 1, "inputs": [], "weights": [], "coefficients": []}))
    disk = Disk(root)
    code = "from rna_watch.publishing import output_tree; output_tree.remove(root / 'model')"
    assert act(library, root, Order(act=KILL_AFTER, counted=CHANGES, at=at), code, log)[0] == -9
    disk.replay(log)
    for seed in range(40):
        there = tmp_path / f"disk{seed}"
        disk.write(there, seed=seed)
        assert not (there / "model").exists() or (
            (there / "model.json").exists() and (there / "model" / "weights").exists()
        )


@needs_compiler
def test_a_removal_that_fails_takes_no_manifest_from_a_model_that_stays(library: Path, tmp_path: Path) -> None:
    """Whichever call fails once: what cannot be looked at is not called another's, and the next attempt removes it all."""
    code = "from rna_watch.publishing import output_tree; output_tree.remove(root / 'model.pt')"
    failed = 0
    for at in range(16):
        root = tmp_path / f"run{at}"
        root.mkdir()
        (root / "model.pt").write_bytes(b"weights")
        (root / "model.pt.json").write_text(json.dumps({"schema": 1, "inputs": [], "weights": [], "coefficients": []}))
        order = Order(act=FAIL, counted=ANY, at=at, error=errno.EMFILE, times=1)
        ended, said = act(library, root, order, code)
        assert ended == 0
        failed += said == str(errno.EMFILE)
        assert (root / "model.pt.json").exists() or not (root / "model.pt").exists()
        assert act(library, root, Order(), code) == (0, "")
        assert list(root.iterdir()) == []
    assert failed >= 2


@needs_compiler
@pytest.mark.parametrize("at", range(12))
def test_a_power_cut_while_a_folder_is_replaced_leaves_one_of_the_two(library: Path, tmp_path: Path, at: int) -> None:
    """The former model is taken apart only when the disk has the new one in its place."""
    root, log = tmp_path / "run", tmp_path / "changes"
    for name in ("model", f"{TEMPORARY_PREFIX}model.tmp"):
        (root / name).mkdir(parents=True)
        for part in ("one", "two"):
            (root / name / part).write_text(name)
    (root / "model.json").write_text(json.dumps({"schema": 1, "inputs": [], "weights": [], "coefficients": []}))
    disk = Disk(root)
    code = (
        "from rna_watch.layout import disk; "
        f"where = os.open(root, os.O_RDONLY); disk._take_name(where, '{TEMPORARY_PREFIX}model.tmp', "
        "str(root / 'model'), 'model', new=False); os.fsync(where)"
    )
    assert act(library, root, Order(act=KILL_AFTER, counted=CHANGES, at=at), code, log)[0] in {0, -9}
    disk.replay(log)
    for seed in range(40):
        there = tmp_path / f"disk{seed}"
        disk.write(there, seed=seed)
        found = {path.name: path.read_text() for path in (there / "model").iterdir()}
        assert found.keys() == {"one", "two"}
        assert len(set(found.values())) == 1


@needs_compiler
def test_nothing_is_torn_lost_or_doubled() -> None:
    """Kills, failures and power cuts at sixty points: every model is made in the end, and no other byte is touched."""
    given = [sys.executable, "-m", "tests.torture", "--points", str(_POINTS), "--jobs", "2"]
    result = subprocess.run(given, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (result.returncode, result.stderr) == (0, ""), result.stdout
    assert f"{_POINTS} points in" in result.stdout
    assert result.stdout.endswith("; 0 with problems\n")
