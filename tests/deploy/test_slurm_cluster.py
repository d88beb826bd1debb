"""The job script on a real Slurm of two nodes: no stand-in shows what srun does with memory, signals and time."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from . import slurm_cluster
from .conftest import BIN, DEPLOY, models, wait_for

SCRIPT = DEPLOY / "rna-watch.sbatch"
ROOT = DEPLOY.parent

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(slurm_cluster.missing()), reason=slurm_cluster.missing() or "-"),
    pytest.mark.xdist_group("slurm"),
]


@pytest.fixture(scope="module")
def cluster():
    """A cluster that is torn down at the end."""
    with (
        tempfile.TemporaryDirectory(prefix="rw-sl-", dir="/tmp") as folder,
        slurm_cluster.SlurmCluster(Path(folder)) as made,
    ):
        yield made


@pytest.fixture
def submit(cluster, trainer, tmp_path):
    """Submits the job script with a little training; options of sbatch, the training's arguments, more variables."""

    def call(*options, epochs=4, status=0, go=None, run="run", script=SCRIPT, **more):
        environment = {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "XDG_STATE_HOME": str(tmp_path / "state"),
            "OMP_NUM_THREADS": "1",
            "RUN_DIR": str(tmp_path / run),
            "RNA_WATCH_OPTIONS": "--engine local --keep 9 --scan-interval 0.5",
        }
        given = [sys.executable, trainer, environment["RUN_DIR"].replace("%a", "0"), epochs, status]
        return cluster.submit("-D", tmp_path, *options, script, *given, *([go] if go else []), **(environment | more))

    return call


def log(folder, job):
    """What the side-car of a job said."""
    file = folder / f"rna-watch-{job}.log"
    return file.read_text() if file.exists() else ""


def left_running(folder):
    """The processes that have a folder in their command line."""
    found = subprocess.run(["pgrep", "-af", str(folder)], capture_output=True, text=True, check=False).stdout
    return [line for line in found.splitlines() if "pgrep" not in line]


def test_every_job_has_its_side_car_and_ends_as_its_training_does(cluster, submit, tmp_path):
    """Four at once, by cores, memory a core and GPUs: all checkpoints are done, and nothing is left running."""
    ways = [[], ["--mem-per-cpu=500"], ["--mem=1500", "--gpus-per-node=1"], ["--cpus-per-task=2"]]
    jobs = [submit(*way, status=7 * (n == 1), run=f"run{n}") for n, way in enumerate(ways)]
    ended = [cluster.wait(job) for job in jobs]
    said = "\n".join(log(tmp_path, job) for job in jobs)
    assert ended == ["COMPLETED 0:0", "FAILED 7:0", "COMPLETED 0:0", "COMPLETED 0:0"], said
    for number in range(len(ways)):
        assert models(tmp_path / f"run{number}") == {"epoch_3.pt", "epoch_4.pt"}, said
    assert said.count("stopped: signal SIGTERM") == len(jobs), said
    assert left_running(tmp_path) == []


def test_a_signal_for_the_training_does_not_end_the_side_car(cluster, submit, tmp_path):
    """`sbatch --signal=USR1@90` reaches every process of every step; the training alone acts on it."""
    go = tmp_path / "go"
    script = tmp_path / "script"
    script.write_text(SCRIPT.read_text().replace("#SBATCH --signal=B:USR1@180\n", ""))
    job = submit(script=script, go=go)
    wait_for(lambda: "epoch_3.pt" in models(tmp_path / "run"), "model of the third epoch")
    step = cluster.run("squeue", "-h", "-s", "-j", job, "-o", "%i %j").splitlines()
    (ours,) = [line.split()[0] for line in step if line.endswith("rna-watch")]
    for name in ("USR1", "USR2"):
        cluster.run("scancel", f"--signal={name}", ours)
    go.touch()
    assert cluster.wait(job) == "COMPLETED 0:0", log(tmp_path, job)
    assert "stopped: signal SIGTERM" in log(tmp_path, job)
    assert "started again" not in log(tmp_path, job)


def test_before_the_time_limit_all_is_done_in_order(cluster, submit, tmp_path):
    """The training goes on to its end by Slurm; the journal ends in order before it."""
    job = submit("--time=9", "--signal=B:USR1@45", go=tmp_path / "never")
    wait_for(lambda: "epoch_3.pt" in models(tmp_path / "run"), "model of the third epoch")
    cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=1")
    assert cluster.wait(job).startswith("TIMEOUT"), log(tmp_path, job)
    said = log(tmp_path, job)
    assert "the time limit is near" in said
    assert said.index("stopped: signal SIGTERM") < said.index("stopped: done")
    assert models(tmp_path / "run") == {"epoch_3.pt"}


def test_a_requeued_job_goes_on_with_the_run_and_its_log(cluster, submit, tmp_path):
    """Both attempts are in the log, and the models of the first are there."""
    go = tmp_path / "go"
    job = submit(go=go)
    wait_for(lambda: "epoch_3.pt" in models(tmp_path / "run"), "model of the third epoch")
    before = log(tmp_path, job)
    go.touch()
    cluster.run("scontrol", "requeue", job)
    wait_for(lambda: cluster.state(job).startswith("PENDING"), "requeued job")  # for two minutes, as Slurm has it
    cluster.run("scontrol", "update", f"JobId={job}", "StartTime=now")
    assert cluster.wait(job) == "COMPLETED 0:0", log(tmp_path, job)
    assert log(tmp_path, job).startswith(before[:200])
    assert log(tmp_path, job).count("watching ") >= 2
    assert models(tmp_path / "run") == {"epoch_3.pt", "epoch_4.pt"}


def test_an_array_has_a_run_for_each_task(cluster, submit, tmp_path):
    """%a in RUN_DIR is the number of the task."""
    job = submit("--array=0", run="run-%a")
    assert cluster.wait(f"{job}_0") == "COMPLETED 0:0"
    assert models(tmp_path / "run-0") == {"epoch_3.pt", "epoch_4.pt"}


def test_evaluations_are_jobs_of_their_own(cluster, run, tmp_path):
    """Two at once; what a job prints are the metrics, and a job that fails is a failed evaluation with its words."""
    script = tmp_path / "evaluate.sh"
    script.write_text('#!/bin/sh\nprintf \'{"loss": 0.%s}\' $(cksum <"$1" | cut -c1-4)\n')
    script.chmod(0o755)
    command = f"{DEPLOY / 'slurm-evaluate.sh'} --mem=100 --ntasks=1 -- {script} {{checkpoint}}"
    environment = cluster.environment | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    environment |= {"XDG_STATE_HOME": str(tmp_path / "state"), "RNA_WATCH_SHARED": str(tmp_path)}
    options = ["--engine", "local", "--max-candidates", "2", "--evaluators", "2", "--evaluate-command"]
    given = ["rna-watch", "once", run, *options]
    once = subprocess.run([*given, command], env=environment, capture_output=True, text=True, check=False)
    assert once.returncode == 0, once.stdout + once.stderr
    assert "loss" in once.stdout
    assert not list(tmp_path.glob("rna-watch-evaluation-*"))
    script.write_text("#!/bin/sh\necho the data are not there; exit 4\n")
    failed = subprocess.run([*given, command], env=environment, capture_output=True, text=True, check=False)
    assert "ended with status 4: the data are not there" in failed.stdout + failed.stderr
