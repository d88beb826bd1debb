"""A run in an object store behind a link that is slow, breaks, or is cut with everything else by `kill -9`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch

from rna_watch.journal import remote_place
from tests.daemon.runs import command, events, published, rna_watch, train, wait_until
from tests.remote.link import Link

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import s3fs

pytestmark = pytest.mark.xdist_group("s3")
LOCAL = ("--engine", "local", "--window", "2")
_LARGE = 28_000_000  # parameters of a model that is put in several parts
_SOME_BYTES = 30_000_000  # of such a model, once they are on their way


@pytest.fixture
def link(bucket: str, server: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Link]:
    """The way that commands take to the store from now on."""
    assert bucket
    with Link(server) as made:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{made.port}")
        yield made


@pytest.fixture
def store(server: int) -> s3fs.S3FileSystem:
    """The store itself, without the link."""
    import s3fs

    return s3fs.S3FileSystem(endpoint_url=f"http://127.0.0.1:{server}", use_listings_cache=False)


def _put(store: s3fs.S3FileSystem, url: str, *files: Path) -> None:
    for each in files:
        store.put_file(str(each), f"{url}/{each.name}")


def _models(store: s3fs.S3FileSystem, url: str) -> dict[str, bytes]:
    store.invalidate_cache()
    return {
        key.rpartition("/")[2]: store.cat_file(key)
        for key in store.find(f"{url}/rna".removeprefix("s3://"))
        if key.endswith(".pt")
    }


def _local(folder: Path, files: list[Path]) -> dict[str, bytes]:
    """The models of the same checkpoints in a folder of this machine."""
    folder.mkdir()
    for each in files:
        (folder / each.name).write_bytes(each.read_bytes())
    assert rna_watch("once", folder, *LOCAL, "--keep", "100").returncode == 0
    return {each.name: each.read_bytes() for each in (folder / "rna").glob("*.pt") if not each.is_symlink()}


def _trained(folder: Path, count: int) -> list[Path]:
    train(folder, count=count)
    return sorted(folder.glob("*.pt"), key=lambda each: each.stat().st_mtime_ns)


def test_a_link_of_few_bytes_a_second_costs_time_only(
    bucket: str, link: Link, store: s3fs.S3FileSystem, tmp_path: Path
) -> None:
    """The models are those of a run on this machine."""
    files = _trained(tmp_path / "trained", 5)
    _put(store, f"{bucket}/run", *files)
    link.rate = 40_000.0
    done = command("once", f"{bucket}/run", *LOCAL, "--keep", "100")
    assert done.returncode == 0, done.stderr
    assert link.carried_bytes > sum(each.stat().st_size for each in files)
    assert _models(store, f"{bucket}/run") == _local(tmp_path / "local", files)


def test_a_store_that_goes_away_is_a_problem_until_it_is_back(
    bucket: str, link: Link, store: s3fs.S3FileSystem, tmp_path: Path
) -> None:
    """The daemon lives, says what it cannot reach, and goes on by itself with what came meanwhile."""
    url, files = f"{bucket}/run", _trained(tmp_path / "trained", 6)
    _put(store, url, *files[:3])
    started = command("start", url, *LOCAL, "--scan-interval", "0.5", "--keep", "100")
    assert started.returncode == 0, started.stderr
    output = remote_place.output_of(url)
    try:
        wait_until(lambda: files[2].name in _models(store, url))
        link.cut()
        _put(store, url, *files[3:])
        wait_until(lambda: "the traffic with the object store fails" in command("status", url).stdout)
        said = command("status", url, "--json").stdout
        assert "cannot be" in said
        link.mend()
        wait_until(lambda: len(_models(store, url)) == 4)
        wait_until(lambda: "the traffic with the object store fails" not in command("status", url).stdout)
    finally:
        stopped = command("stop", url)
    assert stopped.returncode == 0, stopped.stderr
    assert published(output / "mirror", output) == [each.name for each in files[2:]]
    assert len(events(output, "admitted")) == len(files)
    assert _models(store, url) == _local(tmp_path / "local", files)


def _family(process: subprocess.Popen[Any]) -> list[int]:
    import psutil

    return [each.pid for each in psutil.Process(process.pid).children(recursive=True)] + [process.pid]


def _uploads(store: s3fs.S3FileSystem, url: str) -> list[str]:
    name = url.removeprefix("s3://").partition("/")[0]
    listed = store.call_s3("list_multipart_uploads", Bucket=name)
    return [each["Key"] for each in listed.get("Uploads", ())]


@pytest.mark.slow
def test_a_kill_amid_an_upload_leaves_no_part_of_a_model(
    bucket: str, link: Link, store: s3fs.S3FileSystem, tmp_path: Path
) -> None:
    """The next start aborts it; then the model is there, whole, and once."""
    url, files = f"{bucket}/run", []
    for step in range(3):
        files.append(tmp_path / f"step_{step}.pt")
        generator = torch.Generator().manual_seed(step)
        torch.save({"w": torch.randn(_LARGE, generator=generator) / (step + 1)}, files[-1])
    _put(store, url, *files)
    given = [sys.executable, "-m", "rna_watch", "once", url, *LOCAL, "--keep", "100"]
    process = subprocess.Popen(given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    wait_until(lambda: bool(_uploads(store, url)))
    link.rate = 10_000_000.0
    before = link.carried_bytes
    wait_until(lambda: link.carried_bytes > before + _SOME_BYTES)
    for pid in _family(process):
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    assert _uploads(store, url) == [f"run/rna/{files[-1].name}"]
    assert _models(store, url) == {}
    link.rate = None
    # the claim of the one that was killed is this machine's, and its process is gone
    done = command("once", url, *LOCAL, "--keep", "100")
    assert done.returncode in {0, 3}, done.stderr
    assert _uploads(store, url) == []
    assert _models(store, url) == _local(tmp_path / "local", files)
