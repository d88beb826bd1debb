"""A run in an object store: checkpoints come by ranges, models go back whole, and nothing else is touched."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest
import torch

from rna_watch.config import RunConfig
from rna_watch.errors import RnaWatchError, UsageError
from rna_watch.journal import remote_place
from rna_watch.journal.run_paths import RunPaths
from rna_watch.remote import guard, mirror, record
from rna_watch.remote.store import Store
from tests.daemon.runs import command, events, rna_watch, train

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import s3fs

pytestmark = pytest.mark.xdist_group("s3")
LOCAL = ("--engine", "local")
LIMIT_S = 90.0


def _system() -> s3fs.S3FileSystem:
    import s3fs

    system = s3fs.S3FileSystem()
    system.invalidate_cache()
    return system


def _objects(url: str) -> dict[str, bytes]:
    """All objects below an address."""
    system, root = _system(), url.removeprefix("s3://")
    return {key.removeprefix(f"{root}/"): system.cat_file(key) for key in system.find(root)}


def _names(url: str) -> set[str]:
    """The names of all objects below an address, which may go at any moment."""
    root = url.removeprefix("s3://")
    return {key.removeprefix(f"{root}/") for key in _system().find(root)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The checkpoints of a training, in order."""
    run = tmp_path_factory.mktemp("training") / "run"
    train(run, count=9)
    return sorted((each for each in run.iterdir() if each.is_file()), key=lambda each: each.stat().st_mtime_ns)


def _put(url: str, *files: Path) -> None:
    system = _system()
    for each in files:
        system.put_file(str(each), f"{url}/{each.name}")


def _until(met: object) -> None:
    assert callable(met)
    until = time.monotonic() + LIMIT_S
    while not met():
        assert time.monotonic() < until, "not met in time"
        time.sleep(0.2)


def test_once_gives_the_models_of_a_run_on_this_machine(
    bucket: str, trained: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fetched in batches, every checkpoint becomes the model that it becomes locally; manifests and pointers lie beside."""
    from rna_watch.remote import fetching

    monkeypatch.setattr(fetching, "_FREE_SHARE", 0.0)  # batches of a window
    monkeypatch.setattr(fetching, "PART_BYTES", 1000)  # several ranges each
    local = tmp_path / "local"
    local.mkdir()
    for each in trained:
        (local / each.name).hardlink_to(each)
    assert rna_watch("once", local, *LOCAL, "--keep", "100").returncode == 0
    url = f"{bucket}/run"
    _put(url, *trained)
    before = _objects(url)
    done = rna_watch("once", url, *LOCAL, "--keep", "100")
    assert done.returncode == 0, done.stderr
    assert f"fetched  3 checkpoints: {trained[6].name} to {trained[8].name}" in done.stdout
    after = _objects(url)
    assert {name: after[name] for name in before} == before
    models = {f"rna/{each.name}": each.read_bytes() for each in (local / "rna").glob("*.pt") if not each.is_symlink()}
    assert len(models) == len(trained) - 2
    assert {name: after[name] for name in models} == models
    assert all(json.loads(after[f"{name}.json"])["weights"] for name in models)
    assert json.loads(after["rna/latest.json"]) == {"model": trained[-1].name, "manifest": f"{trained[-1].name}.json"}
    assert after.keys() - before.keys() == {*models, *(f"{name}.json" for name in models), "rna/latest.json"}
    assert rna_watch("once", url, *LOCAL).returncode == 3
    assert rna_watch("status", url).stdout.startswith(f"run      {url}\n")


def test_a_living_run_is_followed_through_retention_and_a_restart(bucket: str, trained: list[Path]) -> None:
    """The folder of what was fetched stays small, models come while the trainer deletes, and nothing is fetched twice."""
    url = f"{bucket}/living"
    _put(url, *trained[:3])
    started = command("start", url, *LOCAL, "--scan-interval", "0.5", "--keep", "2", "--window", "2")
    assert started.returncode == 0, started.stderr
    output = remote_place.output_of(url)
    try:
        for number in range(2, 6):
            if number > 2:
                _put(url, trained[number])
                _system().rm_file(f"{url}/{trained[number - 3].name}")
            _until(lambda number=number: f"rna/{trained[number].name}" in _names(url))
        _until(lambda: len([name for name in _names(url) if name.startswith("rna/step") and name.endswith(".pt")]) == 2)
        kept = {each.name for each in (output / "mirror").glob("*.pt")}
        assert len(kept) <= 6  # a window and its first iterate before the one in work, and what just came
        assert "rna/.owner.json" in _names(url)
        with pytest.raises(RnaWatchError, match="is watched by process"):
            guard.Guard(Store(url)).take()
    finally:
        assert rna_watch("stop", url).returncode == 0
    assert "rna/.owner.json" not in _names(url)
    fetched = record.read(output / ".rna-watch" / "remote.json", url).fetched
    assert fetched.keys() >= {each.name for each in trained[2:6]}
    _put(url, trained[6])
    assert rna_watch("once", url, *LOCAL, "--keep", "2", "--window", "2").returncode == 0
    assert [each.checkpoint for each in events(output, "published")][-1] == trained[6].name
    assert len([each for each in events(output, "admitted") if each.checkpoint == trained[5].name]) == 1


@pytest.fixture
def opened(bucket: str, tmp_path: Path) -> Iterator[mirror.Mirror]:
    """A mirror of an empty run, without a daemon."""
    paths = RunPaths(run=tmp_path / "mirror", output=tmp_path)
    with mirror.opened(RunConfig(remote=f"{bucket}/run", window=2), paths, lambda _: None) as made:
        yield made


def test_what_is_written_anew_while_it_is_fetched_is_fetched_again(
    opened: mirror.Mirror, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No mixture of two writings gets a name; the next look takes the new one."""
    system, key = _system(), f"{bucket}/run/last.pt"
    system.pipe_file(key, b"1" * 1000)
    read = Store.read

    def rewritten(self: Store, name: str, start: int = 0, end: int | None = None) -> bytes:
        system.pipe_file(key, b"2" * 1000)
        return read(self, name, start, end)

    monkeypatch.setattr(Store, "read", rewritten)
    with pytest.raises(RnaWatchError, match="written anew"):
        opened.fetching.newest()
    assert not (tmp_path / "mirror" / "last.pt").exists()
    monkeypatch.setattr(Store, "read", read)
    opened.fetching.newest()
    assert (tmp_path / "mirror" / "last.pt").read_bytes() == b"2" * 1000


def test_uploads_of_ours_that_were_cut_off_are_aborted_and_no_others(bucket: str, tmp_path: Path) -> None:
    """A restart ends what it finds recorded as begun; the trainer's own uploads in parts go on, and are no checkpoints yet."""
    system, root = _system(), f"{bucket}/run".removeprefix("s3://")
    name = root.partition("/")[0]
    for key in ("run/rna/a.pt", "run/b.pt"):
        system.call_s3("create_multipart_upload", Bucket=name, Key=key)
    paths = RunPaths(run=tmp_path / "mirror", output=tmp_path)
    paths.create()
    known = record.read(paths.state / "remote.json", f"{bucket}/run")
    known.uploading = ["rna/a.pt"]
    known.save()
    with mirror.opened(RunConfig(remote=f"{bucket}/run"), paths, lambda _: None) as made:
        assert made.fetching.newest() == []
    left = system.call_s3("list_multipart_uploads", Bucket=name)["Uploads"]
    assert [each["Key"] for each in left] == ["run/b.pt"]


def test_a_model_that_somebody_else_replaced_is_not_deleted(
    opened: mirror.Mirror, bucket: str, trained: list[Path], tmp_path: Path
) -> None:
    """Deleting goes by the version that we put, not by the name."""
    for each in trained[:4]:
        _put(f"{bucket}/run", each)
    opened.fetching.oldest()
    assert rna_watch("once", tmp_path / "mirror", "--output", tmp_path, *LOCAL, "--window", "2").returncode == 0
    assert opened.outputs.send() == 2
    theirs = f"{bucket}/run/rna/{trained[2].name}"
    _system().pipe_file(theirs, b"mine")
    for each in (tmp_path / "rna").iterdir():
        each.unlink()
    opened.outputs.send()
    assert {name: content for name, content in _objects(f"{bucket}/run/rna").items() if name != ".owner.json"} == {
        trained[2].name: b"mine"
    }


def test_an_owner_that_is_gone_is_followed(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim that was not renewed for two minutes is taken over; its former holder notices."""
    store = Store(f"{bucket}/run")
    first, second = guard.Guard(store), guard.Guard(store)
    assert first.take()
    monkeypatch.setattr(guard, "STALE_S", 0.0)
    assert second.take()
    monkeypatch.setattr(guard, "RENEWED_S", -1.0)
    with pytest.raises(RnaWatchError, match="is watched by"):
        first.renew()
    first.release()
    second.renew()


def test_a_claim_of_a_process_of_this_machine_that_has_ended_is_taken_over_at_once(bucket: str) -> None:
    """One of a process that lives, or of another machine, is kept for two minutes."""
    store, code = (
        Store(f"{bucket}/run"),
        "import sys; from rna_watch.remote import guard; from rna_watch.remote.store import Store",
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; guard.Guard(Store(sys.argv[1])).take()", store.url], check=False
    )
    assert done.returncode == 0
    claim = json.loads(store.read(guard.NAME))
    store.put(guard.NAME, json.dumps(claim | {"boot_id": "of another machine"}).encode())
    with pytest.raises(RnaWatchError, match=f"is watched by process {claim['pid']}"):
        guard.Guard(store).take()
    store.put(guard.NAME, json.dumps(claim).encode())
    assert guard.Guard(store).take()
    with pytest.raises(RnaWatchError, match="is watched by"):
        guard.Guard(store).take()


def test_a_store_without_conditional_writes_is_said_to_be_one(tmp_path: Path) -> None:
    """Folders as stores make no such promise; the rest works there too."""
    (tmp_path / "store").mkdir()
    torch.save({"w": torch.zeros(3)}, tmp_path / "store" / "a.pt")
    said: list[str] = []
    paths = RunPaths(run=tmp_path / "o" / "mirror", output=tmp_path / "o")
    with mirror.opened(RunConfig(remote=f"file://{tmp_path / 'store'}"), paths, said.append) as made:
        assert [each.name for each in made.fetching.newest()] == ["a.pt"]
    assert "no conditional writes" in said[0]


def test_addresses_that_cannot_be_read_are_one_sentence(bucket: str, tmp_path: Path) -> None:
    """No such bucket, no such library, a folder that holds other things."""
    unknown = rna_watch("status", f"{bucket}/never")
    assert (unknown.returncode, "no run of this address" in unknown.stderr) == (2, True)
    refused = rna_watch("once", "s3://no-such-bucket-of-ours/run", *LOCAL)
    assert refused.returncode in {1, 3}
    assert "Traceback" not in refused.stderr
    with pytest.raises(UsageError, match="cannot be read here"):
        Store("nonsense://a/b")
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "thesis.tex").write_text("mine")
    with pytest.raises(RnaWatchError, match="holds other files"):
        mirror.claim(tmp_path / "mirror")
    assert (tmp_path / "mirror" / "thesis.tex").read_text() == "mine"


def test_a_slow_link_costs_time_only(
    opened: mirror.Mirror, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranges arrive one after another, and the file appears when it is whole."""
    from rna_watch.remote import fetching

    monkeypatch.setattr(fetching, "PART_BYTES", 2000)
    data = io.BytesIO()
    torch.save({"w": torch.arange(2000.0)}, data)
    _system().pipe_file(f"{bucket}/run/a.pt", data.getvalue())
    read, path, seen, lock = Store.read, tmp_path / "mirror" / "a.pt", [], threading.Lock()

    def slow(self: Store, name: str, start: int = 0, end: int | None = None) -> bytes:
        with lock:  # a link that carries one range at a time
            time.sleep(0.05)
            seen.append(path.exists())
            return read(self, name, start, end)

    monkeypatch.setattr(Store, "read", slow)
    opened.fetching.newest()
    assert len(seen) > 3
    assert not any(seen)
    assert path.read_bytes() == data.getvalue()


def test_the_claim_is_kept_and_life_is_shown_while_one_object_takes_long(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow link makes nobody else the owner, and the daemon sees that the traffic goes on."""
    monkeypatch.setattr(mirror, "_PULSE_S", 0.05)
    monkeypatch.setattr(guard, "RENEWED_S", 0.2)
    signs: list[float] = []
    paths = RunPaths(run=tmp_path / "mirror", output=tmp_path)
    config = RunConfig(remote=f"{bucket}/run")
    with mirror.opened(config, paths, lambda _: None, lambda: signs.append(time.monotonic())):
        first = json.loads(_objects(f"{bucket}/run")[guard.NAME])
        time.sleep(1.0)  # what takes long
        later = json.loads(_objects(f"{bucket}/run")[guard.NAME])
    assert later["renewed"] > first["renewed"]
    assert later["nonce"] == first["nonce"]
    assert len(signs) > 3
