"""The Ray engine on a cluster of four real raylets, of which two cannot be used; the command that loses nodes, run small."""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from rna_watch.engine.ray_engine import RayEngine
from rna_watch.errors import ClusterLost, EngineError
from rna_watch.window import tasks_plan
from tests.daemon.runs import wait_until
from tests.evaluation.contract import is_gone
from tests.evaluation.models import FILE, combination, spec

from . import lost_nodes, windows
from .raylets import Raylets, missing

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=missing() or "-"),
    pytest.mark.xdist_group("ray"),
]

_HOLDS_CPUS = """
import ray, sys, time
ray.init(address=sys.argv[1], log_to_driver=False, configure_logging=False)
held = [ray.remote(num_cpus=1)(lambda: time.sleep(200)).remote() for _ in range(4)]
while ray.available_resources().get("CPU", 0):
    time.sleep(0.2)
print("held", flush=True)
time.sleep(200)
"""
_OTHER_VERSION = """
import ray, sys
from rna_watch.engine.ray_cluster import Cluster, Settings
ray.__version__ = "2.59.0"
Cluster(Settings(workers=1, address=sys.argv[1], gpus=0.0, session="", package="/nowhere/rna_watch", nonce=None), print)
"""


@pytest.fixture(scope="module")
def run():
    """A folder that a run's checkpoints lie in."""
    with tempfile.TemporaryDirectory(prefix="run", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def cluster(run):
    """A head and three nodes: one with a GPU, one that does not see the run, one that lacks a library; none has our package."""
    with tempfile.TemporaryDirectory(prefix="rwc", dir="/tmp") as folder, Raylets(Path(folder)) as made:
        made.start_head()
        made.wait(1)
        made.add("alpha", gpus=1)
        made.add("blind", hides=(run,))
        made.add("bare", lacks=("threadpoolctl",))
        made.wait(4)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in made.environment.items():
                patch.setenv(name, value)
            yield made


@pytest.fixture
def heard():
    """What an engine told of trouble, with the time."""
    return []


@pytest.fixture
def join(cluster, run, heard):
    """Makes engines on the cluster, and closes them in the end."""
    made = []

    def join(workers=2, **settings):
        told = lambda key, what, _: heard.append((key, what, time.monotonic()))  # noqa: E731
        made.append(RayEngine(workers, address=cluster.address, folder=run, on_trouble=told, **settings))
        return made[-1]

    yield join
    for engine in made:
        engine.close()


@pytest.fixture
def layouts(small_tasks, run):
    """A window that every node but one sees."""
    return windows.write(run)


def words(heard, key):
    """What was told under a key, apart from that it is over."""
    return [what for told, what, _ in heard if told == key and what]


def test_nodes_that_cannot_be_used_are_named_and_the_others_give_the_same_bits(join, heard, layouts, run):
    """A node without the run and one without a library are left out by name; our package comes with the job."""
    engine = join()
    (out,) = words(heard, "nodes")
    assert "blind (" in out
    assert f"is left out: it does not see {run}" in out
    assert "bare (" in out
    assert "is left out: it lacks threadpoolctl" in out
    assert "alpha" not in out
    assert windows.gram(layouts, engine.map).rows.tobytes() == windows.gram(layouts).rows.tobytes()
    assert windows.published(layouts, run / "p.pt", engine.map) == windows.published(layouts, run / "s.pt")


def test_a_node_that_is_killed_in_the_midst_costs_time_alone(join, heard, cluster, layouts):
    """Its tasks are done by the others with the same bits; a wait of more than 10 s has a line; it comes back."""
    engine = join()
    work = tasks_plan.gram_tasks(layouts, 3, windows.BUDGET_MIB) * 5
    killed = []

    def on_done(_task):
        if not killed:
            cluster.kill("alpha")
            killed.append(time.monotonic())

    found = engine.map(work, on_done)
    took = time.monotonic() - killed[0]
    assert [each.rows.tobytes() for each in found] == [
        each.rows.tobytes() for each in windows.serial(work[: len(work) // 5])
    ] * 5
    lines = [when - killed[0] for _, what, when in heard if what and when > killed[0]]
    assert took < 10 or min(lines) < 13, (took, heard)
    cluster.start("alpha")
    cluster.wait(4)
    assert engine.broken() == ""
    assert len(engine.map(work)) == len(work)


def test_an_evaluator_goes_where_its_gpu_is_and_holds_no_cpu(join, layouts, run, tmp_path_factory):
    """The one node that declares a GPU gets it; tasks have the CPUs of both nodes meanwhile."""
    folder = Path(tempfile.mkdtemp(prefix="ev", dir="/tmp"))
    engine = join(gpus=0.5)
    evaluator = engine.evaluator(spec(folder, function=f"{FILE}:evaluate", timeout_s=60.0))
    assert evaluator.evaluate(combination(folder)).metrics == {"total": 8.0, "one": 1.0}
    assert json.loads((folder / "seen.json").read_text())["cuda"] == "0"
    assert windows.gram(layouts, engine.map).rows.tobytes() == windows.gram(layouts).rows.tobytes()


def test_an_evaluator_whose_node_is_lost_answers_from_another(join, cluster):
    """Its model is no failed one, though Ray may take the node for alive for a while."""
    folder = Path(tempfile.mkdtemp(prefix="ev", dir="/tmp"))
    slow = folder / "slow.py"
    slow.write_text(
        f"import pathlib, time\ndef evaluate(state_dict, device):\n    pathlib.Path({str(folder)!r}, 'begun').touch()\n"
        "    time.sleep(3)\n    return {'total': float(state_dict['w'].sum())}\n"
    )
    engine = join(gpus=0.5)
    evaluator = engine.evaluator(spec(folder, function=f"{slow}:evaluate", timeout_s=60.0))
    found = []
    asked = threading.Thread(target=lambda: found.append(evaluator.evaluate(combination(folder)).metrics))
    asked.start()
    wait_until((folder / "begun").exists, 60)
    cluster.kill("alpha")
    time.sleep(0.5)
    cluster.start("alpha")
    asked.join(120)
    assert found == [{"total": 8.0}]
    cluster.wait(4)


def test_gpus_that_no_node_has_are_told_at_once(join):
    """Not after two minutes, and with the number that would do."""
    begun = time.monotonic()
    with pytest.raises(EngineError, match=r"is to get 2 GPUs, and Ray knows of 1 on any node .*; lower --gpus"):
        join(gpus=2.0)
    assert time.monotonic() - begun < 60


@pytest.mark.parametrize("token", ["", "0" * 64])
def test_another_token_is_told_at_once(cluster, run, monkeypatch, token):
    """Ray goes on trying for 20 s, and does not say why in the end."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token" if token else "disabled")
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    here = "it is another one" if token else "RAY_AUTH_TOKEN is not set"
    begun = time.monotonic()
    with pytest.raises(EngineError, match=f"asks for a token, and this machine has not the same \\({here} here\\)"):
        RayEngine(1, address=cluster.address, folder=run)
    assert time.monotonic() - begun < 15


def test_another_version_is_told_with_both(cluster):
    """All that Ray says is passed on, not its first line alone."""
    child = subprocess.run(
        [sys.executable, "-c", _OTHER_VERSION, cluster.address],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    said = child.stderr.strip().splitlines()[-1]
    assert "Ray cannot be used at" in said
    assert "Ray: 2.59.0" in said
    assert f"Ray: {__import__('ray').__version__}" in said


def test_where_no_cpu_becomes_free_that_is_said_and_given_up(join, heard, cluster, layouts):
    """Another job holds all CPUs: a line after 10 s, and after a minute this machine may go on."""
    engine = join()
    holder = subprocess.Popen([sys.executable, "-c", _HOLDS_CPUS, cluster.address], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        begun = time.monotonic()
        with pytest.raises(ClusterLost, match=r"no CPU is free for us on .* for \d+ s"):
            engine.map(tasks_plan.gram_tasks(layouts, 3, windows.BUDGET_MIB) * 200)
    finally:
        holder.kill()
        holder.communicate()
    assert time.monotonic() - begun < 110
    assert any("no CPU is free for us" in what for what in words(heard, "waits"))


def test_a_head_that_is_lost_ends_the_driver_alone(join, cluster, layouts):
    """The last test: within seconds the engine says that it is broken; this process lives, and nothing of Ray's is left."""
    engine = join()
    work = tasks_plan.gram_tasks(layouts, 3, windows.BUDGET_MIB)
    engine.map(work)
    driver = engine._driver.pid
    cluster.kill_head()
    begun = time.monotonic()
    with pytest.raises(ClusterLost, match=r"did not answer for 10 s|ended"):
        engine.map(work * 200)
    assert time.monotonic() - begun < 20
    engine.close()
    assert is_gone(driver)


def test_the_command_that_loses_nodes_and_heads(tmp_path):
    """`python -m tests.engine.lost_nodes`, with one of each: all checkpoints are published, with the bytes of one machine."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    child = subprocess.run(
        [sys.executable, "-m", lost_nodes.__name__, "--kills", "1", "--heads", "1"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=900,
    )
    assert child.returncode == 0, child.stdout
    assert "2 losses, 3 of 3 checkpoints published; problems: 0" in child.stdout
