import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner
from rich.console import Console

from rna_watch.cli import app
from rna_watch.commands import reproduce
from rna_watch.config import read_settings
from rna_watch.errors import NothingToDo, StoreError, UsageError
from rna_watch.reproduce import experiment, figure1, imagenet, store
from rna_watch.reproduce.experiment import EXPERIMENTS, Part, Plan, Settings
from rna_watch.reproduce.tables import Table, render
from tests.reproduce.image_files import write_cifar, write_mnist

CONFIGS = Path(__file__).parents[2] / "configs" / "reproduce"
ENDINGS = (".json", ".txt", ".svg", ".png")


def run(name, out, data=None, **options):
    """The command's function, small version; what it printed."""
    printed = io.StringIO()
    reproduce.reproduce(name, data=data, out=out, quick=True, console=Console(file=printed, width=200), **options)
    return printed.getvalue()


@pytest.fixture
def counted(monkeypatch):
    """An experiment of three parts in place of the real ones; the names of those that were run; and a part to fail in."""
    ran, failing, settings = [], [], {"quick": True}

    def part(key):
        def act(done):
            if key in failing:
                raise KeyboardInterrupt
            ran.append(key)
            return {"before": list(done)}

        return Part(key=key, run=act)

    def draw(_):
        from rna_watch.reproduce import style

        made = style.figure(2, 2)
        made.subplots().plot([1, 2])
        return made

    def plan(name, _):
        return Plan(
            parts=tuple(map(part, "abc")),
            settings=settings,
            seeds=(0,),
            tables=lambda results: [Table(title="T", header=("part", "n"), rows=tuple((k, "1") for k in results))],
            draw=draw,
            partial=True,
        )

    monkeypatch.setattr(reproduce, "plan", plan)
    return ran, failing, settings


def test_a_stopped_run_goes_on_where_it_was(counted, tmp_path):
    """Ctrl-C in the second part: the first is kept and not run again; the results are those of an undisturbed run."""
    ran, failing, _ = counted
    failing.append("b")
    with pytest.raises(KeyboardInterrupt):
        run("theorem", tmp_path / "out")
    failing.clear()
    printed = run("theorem", tmp_path / "out")
    assert ran == ["a", "b", "c"]
    assert "1 of 3 parts were there" in printed
    record = json.loads((tmp_path / "out" / "theorem-quick.json").read_text())
    assert record["results"] == {"a": {"before": []}, "b": {"before": ["a"]}, "c": {"before": ["a", "b"]}}


def test_the_time_of_a_part_is_that_of_all_its_attempts(counted, tmp_path, monkeypatch):
    """Two attempts that were stopped count, of the same settings only; once the part is kept, nothing is left of them."""
    _, failing, settings = counted
    clock = iter(range(1000))
    monkeypatch.setattr(reproduce.time, "perf_counter", lambda: float(next(clock)))  # a second a look
    failing.append("b")
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run("theorem", tmp_path)
    failing.clear()
    run("theorem", tmp_path)
    seconds = json.loads((tmp_path / "theorem-quick.json").read_text())["seconds"]
    assert seconds == {"a": 1.0, "b": 3.0, "c": 1.0}
    assert sorted(path.name for path in (tmp_path / "theorem-quick.parts").iterdir()) == ["a.json", "b.json", "c.json"]
    settings["quick"] = "otherwise"
    run("theorem", tmp_path)
    assert json.loads((tmp_path / "theorem-quick.json").read_text())["seconds"]["b"] == 1.0


def test_two_commands_do_not_work_on_one_experiment(counted, tmp_path):
    """The second is refused before it runs anything; tables of what is finished are made all the same."""
    ran, _, _ = counted
    with store.alone(tmp_path / ".theorem-quick.lock"), pytest.raises(UsageError, match=r"another command.*--out"):
        run("theorem", tmp_path)
    assert ran == []
    run("theorem", tmp_path)
    with store.alone(tmp_path / ".theorem-quick.lock"):
        run("theorem", tmp_path, so_far=True)
    assert ran == ["a", "b", "c"]


def test_other_settings_and_damaged_parts_are_run_again(counted, tmp_path):
    """A kept part counts only for the same settings, and only whole."""
    ran, _, settings = counted
    run("theorem", tmp_path)
    (tmp_path / "theorem-quick.parts" / "b.json").write_text('{"identity"')
    run("theorem", tmp_path)
    assert ran == ["a", "b", "c", "b"]
    settings["window"] = 7
    run("theorem", tmp_path)
    assert ran[4:] == ["a", "b", "c"]


@pytest.fixture(scope="session")
def small_data(small_madelon):
    """Files of the formats of Madelon, MNIST and CIFAR-10 in one folder."""
    write_mnist(small_madelon / "mnist", train=700, test=100)
    write_cifar(small_madelon / "cifar-10-batches-bin", count=140)
    return small_madelon


@pytest.mark.parametrize(
    "name",
    [
        *("figure5", "figure6", "theorem", "figure1", "cost"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("networks", "prototyping", "imagenet")),
    ],
)
def test_every_experiment_runs_small(name, tmp_path, small_data):
    """The four files are there, the record says how it was made, and the text is what was printed."""
    assert name in EXPERIMENTS
    printed = run(name, tmp_path, small_data)
    stem = tmp_path / f"{name}-quick"
    for ending in ENDINGS:
        assert stem.with_suffix(ending).stat().st_size > 100
        assert str(stem.with_suffix(ending)) in printed
    record = json.loads(stem.with_suffix(".json").read_text())
    assert record["command"] == f"rna-watch reproduce {name} --data DIR --quick"
    assert {"versions", "seeds", "settings", "seconds", "machine"} <= record.keys()
    text = stem.with_suffix(".txt").read_text()
    assert text in printed
    assert "Paper" in text or name == "figure5"


def test_equal_results_give_equal_files(tmp_path):
    """Tables and figures hold no time and nothing random."""
    for folder in ("one", "two"):
        run("figure6", tmp_path / folder)
    for ending in (".txt", ".svg", ".png"):
        one, two = ((tmp_path / folder / "figure6-quick").with_suffix(ending) for folder in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


@pytest.mark.slow
def test_a_killed_process_leaves_whole_parts(tmp_path, small_madelon):
    """Killed in the middle, the command goes on, and no part that was there is run again."""
    arguments = [sys.executable, "-m", "rna_watch", "reproduce", "figure1", "--quick", "--out", str(tmp_path)]
    child = subprocess.Popen([*arguments, "--data", str(small_madelon)], stdout=subprocess.DEVNULL)
    parts = tmp_path / "figure1-quick.parts"
    until = time.monotonic() + 60
    while time.monotonic() < until and child.poll() is None and len(list(parts.glob("[a-z]*.json"))) < 3:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    there = {path: path.stat().st_mtime_ns for path in parts.glob("[a-z]*.json")}
    assert len(there) >= 3
    run("figure1", tmp_path, small_madelon)
    assert {path: path.stat().st_mtime_ns for path in there} == there
    record = json.loads((tmp_path / "figure1-quick.json").read_text())
    assert set(record["results"]) == {path.stem for path in parts.glob("*.json")}


def test_what_is_finished_can_be_shown(counted, tmp_path):
    """--so-far runs nothing, writes tables of the parts that there are, and names the others; or says that there are none."""
    ran, failing, _ = counted
    with pytest.raises(NothingToDo, match="no part of theorem"):
        run("theorem", tmp_path, so_far=True)
    failing.append("c")
    with pytest.raises(KeyboardInterrupt):
        run("theorem", tmp_path)
    assert "2 of 2 parts" in run("theorem", tmp_path, so_far=True)
    assert ran == ["a", "b"]
    record = json.loads((tmp_path / "theorem-quick.json").read_text())
    assert record["not_run"] == ["c"]
    assert set(record["results"]) == {"a", "b"}


@pytest.mark.parametrize("name", ["networks", "prototyping", "imagenet"])
def test_tables_of_what_is_finished_need_no_data(name):
    """--so-far works where the images are not, with the results alone; without any, everything is marked as not run."""
    plan = experiment.plan(name, Settings(so_far=True))
    assert any("not run" in render(table) for table in plan.tables({}))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_no_process_behind(number, tmp_path, small_data):
    """Ended while a training and a daemon run, the command takes both with it; started again, it goes on."""
    arguments = [sys.executable, "-m", "rna_watch", "reproduce", "networks", "--quick", "--out", str(tmp_path)]
    child = subprocess.Popen(
        [*arguments, "--data", str(small_data)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    first = tmp_path / "networks-quick.runs" / "mnist-vgg4-momentum-seed0" / "epochs" / "epoch_001.pt"
    until = time.monotonic() + 120
    while time.monotonic() < until and child.poll() is None and not first.exists():
        time.sleep(0.02)
    ours = [
        p for p in psutil.process_iter(["cmdline"]) if any(str(tmp_path) in part for part in p.info["cmdline"] or ())
    ]
    assert len(ours) >= 3
    child.send_signal(number)
    assert child.wait(60) != 0
    _, alive = psutil.wait_procs(ours, timeout=30)
    assert not alive


def test_whole_tables_are_not_made_of_parts(tmp_path):
    """Where tables need every part, --so-far is refused, before data are asked for; where there are no settings, --config is."""
    for name in ("theorem", "figure1"):
        with pytest.raises(UsageError, match=f"{name} need all its parts: run it without --so-far"):
            run(name, tmp_path, so_far=True)
    (tmp_path / "settings.yaml").write_text("window: 5")
    with pytest.raises(UsageError, match="leave --config out"):
        run("theorem", tmp_path, config=tmp_path / "settings.yaml")


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_settings_that_are_shipped_make_a_plan(file, tmp_path, small_data):
    """Each file of configs/reproduce is one that its experiment takes, but for fewer held-out images; nothing is run."""
    name = re.search(r"rna-watch reproduce (\w+) --data", file.read_text())[1]
    data = imagenet.generated(tmp_path / "images") if name == "imagenet" else small_data
    config = read_settings(file)
    for run in config["tasks"] if name == "networks" else [config["run"]]:
        run["held_out"] = 50
    made = experiment.plan(name, Settings(data=data, config=config))
    assert len(made.parts) == {"networks-gpu": 12, "imagenet-resnet50": 2, "imagenet-resnet152": 1}[file.stem]
    assert made.tables({})


def test_figure1_needs_data(tmp_path):
    """The message names the option if there is no folder, or none with Madelon."""
    with pytest.raises(UsageError, match="--data"):
        figure1.plan(Settings())
    with pytest.raises(UsageError, match="madelon_train.data"):
        figure1.plan(Settings(data=tmp_path))


def test_a_missing_library_is_named(monkeypatch):
    """The message says what to install."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"matplotlib.*rna-watch\[reproduce\]"):
        experiment.plan("theorem", Settings())


def test_an_unknown_experiment_is_refused():
    """The message lists what there is; every name that is listed has its module."""
    with pytest.raises(UsageError, match="theorem"):
        experiment.plan("figure9", Settings())
    for name in set(EXPERIMENTS) - {"figure1", "networks", "prototyping", "imagenet"}:
        assert experiment.plan(name, Settings(quick=True)).parts


def test_the_command_takes_its_data_from_the_environment(tmp_path, small_madelon):
    """$RNA_WATCH_DATA stands for --data; results go where --out says."""
    arguments = ["reproduce", "figure5", "--quick", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, arguments, env={"RNA_WATCH_DATA": str(small_madelon)})
    assert result.exit_code == 0, result.output
    assert (tmp_path / "figure5-quick.svg").exists()


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    """A file in the place of the folder: the message names the option."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="--out"):
        store.write(tmp_path / "file" / "x.json", "{}")


def test_tables_are_aligned_markdown():
    """Text to the left, numbers to the right, notes below."""
    table = Table(title="T", header=("a", "b"), rows=(("x", "10"), ("long", "1")), notes=("one", "two"))
    assert render(table) == "T\n\n| a    |  b |\n|------|---:|\n| x    | 10 |\n| long |  1 |\n\n- one\n- two\n"
