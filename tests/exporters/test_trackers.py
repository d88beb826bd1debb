"""Exporters: each tool reads what it was given with its own library, in the order of steps; one that fails costs nothing else."""

from __future__ import annotations

import csv
import importlib.util
import socket
import sys
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from rna_watch.errors import RnaWatchError
from rna_watch.exporter_names import EXPORTERS as NAMES
from rna_watch.exporters.export import EXPORTERS, export
from rna_watch.exporters.rows import Row, rows
from rna_watch.exporters.target import Target
from rna_watch.exporters.tensorboard import TensorBoard
from rna_watch.journal import events as e
from rna_watch.journal.log import Journal
from rna_watch.journal.run_paths import RunPaths
from tests.dashboard.run_builder import realistic_run

if TYPE_CHECKING:
    from pathlib import Path

if TYPE_CHECKING:
    from collections.abc import Iterator

Points = dict[str, list[tuple[int, float]]]


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    """A run of 24 checkpoints that are done, with its journal."""
    found = RunPaths(run=tmp_path / "run", output=tmp_path / "run")
    found.create()
    journal = Journal(found.journal)
    for event in realistic_run().events:
        journal.append(event)
    journal.close()
    return found


def _wanted() -> Points:
    """The numbers, taken from the events by hand."""
    found: Points = {}
    for event in realistic_run().events:
        if isinstance(event, e.Chosen):
            step = int(event.checkpoint.removesuffix(".pt").rpartition("_")[2])
            for who in ("original", "average", "chosen"):
                found.setdefault(f"{who}/error", []).append((step, event.metrics[who]["error"]))
    return found


def _close(found: Points, *, digits: float = 1e-6) -> None:
    for name, points in _wanted().items():
        assert [step for step, _ in found[name]] == [step for step, _ in points] == sorted(range(3, 25)), name
        assert [value for _, value in found[name]] == pytest.approx([value for _, value in points], rel=digits), name


def _skip_without(library: str) -> None:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed: what is written for it is not read back here")


def test_the_settings_know_every_exporter() -> None:
    """The names in the settings are those of the registry."""
    assert tuple(EXPORTERS) == NAMES


def test_tensorboard_reads_its_file(paths: RunPaths, tmp_path: Path) -> None:
    """The library's own reader gives every scalar, its step, and the time when the training saved the checkpoint."""
    _skip_without("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert export(paths, "tensorboard", tmp_path) == 24
    found = EventAccumulator(str(tmp_path))
    found.Reload()
    _close({tag: [(each.step, each.value) for each in found.Scalars(tag)] for tag in found.Tags()["scalars"]})
    admitted = {each.step: each.mtime_ns / 1e9 for each in realistic_run().events if isinstance(each, e.Admitted)}
    assert all(each.wall_time == admitted[each.step] for each in found.Scalars("gain"))


def _row(step: int, value: float) -> Row:
    return Row(checkpoint=f"{step}", series="a", prefix="", step=step, saved=1.0, done=2.0, values={"x": value})


def test_tensorboard_gets_steps_in_their_order_whatever_comes_late(tmp_path: Path) -> None:
    """A checkpoint that is done late, or made anew, is in its place: the file is written again, and is one only."""
    _skip_without("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    target = Target(run=tmp_path, folder=tmp_path, state=lambda: pytest.fail("not asked for"))
    exporter = TensorBoard(target)
    exporter.write([_row(1, 1.0), _row(3, 3.0)])
    exporter.write([_row(1, 1.0), _row(3, 3.0), _row(4, 4.0)])
    (first,) = tmp_path.iterdir()
    exporter.write([_row(1, 1.0), _row(2, 2.0), _row(3, 30.0), _row(4, 4.0)])
    (second,) = tmp_path.iterdir()
    assert first != second
    found = EventAccumulator(str(tmp_path))
    found.Reload()
    assert [(each.step, each.value) for each in found.Scalars("x")] == [(1, 1.0), (2, 2.0), (3, 30.0), (4, 4.0)]


def test_rows_wait_for_a_smaller_step_while_the_daemon_works() -> None:
    """Live, nothing comes after a checkpoint that is in work; afterwards that one alone is missing."""
    run = realistic_run(count=5)
    run.admit(6).add(e.Finished(checkpoint="epoch_006.pt", reason="not better"))
    assert [row.step for row in rows(run.state, live=True)] == [1, 2, 3, 4]
    assert [row.step for row in rows(run.state, live=False)] == [1, 2, 3, 4, 6]


def test_a_table_is_read_by_csv(paths: RunPaths, tmp_path: Path) -> None:
    """One line for each checkpoint, in the order of steps."""
    export(paths, "csv", tmp_path)
    with (tmp_path / "rna-watch.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [int(line["step"]) for line in lines] == list(range(1, 25))
    names = _wanted()
    _close({name: [(int(line["step"]), float(line[name])) for line in lines if line[name]] for name in names})


def test_prometheus_parses_the_file_and_the_endpoint(paths: RunPaths, tmp_path: Path) -> None:
    """The newest numbers, once in a file and once over HTTP on the loopback address, in its own parser."""
    _skip_without("prometheus_client")
    from prometheus_client.parser import text_string_to_metric_families

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said: list[str] = []

    def scrape() -> None:
        if not said:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10.0) as answer:
                said.append(answer.read().decode())
            journal = Journal(paths.journal)
            journal.append(e.Stopped(reason="done"))
            journal.close()

    export(paths, "prometheus", tmp_path, port=port, follow=True, alive=scrape)
    for text in (said[0], (tmp_path / "rna-watch.prom").read_text()):
        found = {
            (sample.name, *sorted((k, v) for k, v in sample.labels.items() if k in {"model", "state"})): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        for name, points in _wanted().items():
            assert found["rna_watch_metric", ("model", name.partition("/")[0])] == points[-1][1]
        assert found["rna_watch_checkpoints", ("state", "published")] == 22
        assert found["rna_watch_step",] == 24


def _log_records(data: bytes) -> Iterator[bytes]:
    """The records of a log in LevelDB's format (blocks of 32 KiB, parts with 7 bytes before each), behind a header of 7 bytes."""
    at, record = 7, b""
    while at + 7 <= len(data):
        left = 2**15 - at % 2**15
        if left < 7:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        record = (b"" if kind in {1, 2} else record) + data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in {1, 4}:
            yield record


@pytest.mark.filterwarnings("ignore")  # the library's own
def test_weights_and_biases_reads_its_offline_run(
    paths: RunPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library's own messages, in the file that `wandb sync` sends."""
    _skip_without("wandb")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_SILENT", "true")
    export(paths, "wandb", tmp_path)
    (file,) = tmp_path.rglob("*.wandb")
    found: Points = {}
    for data in _log_records(file.read_bytes()):
        record: Any = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            values = {"/".join(each.nested_key) or each.key: each.value_json for each in record.history.item}
            for name in _wanted().keys() & values.keys():
                point = int(float(values["checkpoint_step"])), float(values[name])
                found.setdefault(name, []).append(point)
    _close(found)


@pytest.mark.filterwarnings("ignore")  # the library's own
def test_mlflow_reads_its_store(paths: RunPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client gives every metric's history from the SQLite store."""
    _skip_without("mlflow")
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    export(paths, "mlflow", tmp_path)
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    (experiment,) = [each for each in client.search_experiments() if each.name == "rna-watch"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    histories = {name: client.get_metric_history(run.info.run_id, name) for name in _wanted()}
    _close({name: sorted((each.step, each.value) for each in found) for name, found in histories.items()})


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_library_that_is_absent_is_told(
    paths: RunPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The error says what to install."""
    for module in [each for each in sys.modules if each.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(RnaWatchError, match=rf"install it: pip install 'rna-watch\[{name}\]'"):
        export(paths, name, tmp_path)
