import shlex
import subprocess
import sys

import pytest

from .conftest import DEPLOY, models, wait_for

SCRIPT = DEPLOY / "rna-watch.sbatch"

# like srun: takes its options, then becomes the command, so that a signal to it reaches the command
SRUN = """#!/bin/sh
echo "$@" >>"$SRUN_LOG"
while case "$1" in --*) true ;; *) false ;; esac; do shift; done
exec "$@"
"""


@pytest.fixture
def srun_log(tmp_path, environment):
    """Puts a stand-in for srun first on PATH; returns the file with its arguments, one call a line."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "srun").write_text(SRUN)
    (folder / "srun").chmod(0o755)
    environment["PATH"] = f"{folder}:{environment['PATH']}"
    environment["SRUN_LOG"] = str(tmp_path / "srun.log")
    environment["RUN_DIR"] = str(tmp_path / "run")
    environment["RNA_WATCH_OPTIONS"] = "--engine local --keep 9"
    environment["SLURM_JOB_ID"] = "17"
    return tmp_path / "srun.log"


def test_its_syntax_is_accepted_by_bash():
    """Bash parses the whole script."""
    subprocess.run(["bash", "-n", SCRIPT], check=True)


def test_a_run_is_watched_while_it_trains_and_finished_afterwards(begin, srun_log, tmp_path, trainer, stages):
    """Models appear during training; after it the last checkpoint is done too, and nothing of ours goes on."""
    run, go = tmp_path / "run", tmp_path / "go"
    job = begin(["bash", SCRIPT, sys.executable, trainer, run, "5", "0", go], SLURM_CPUS_PER_TASK="3")
    wait_for(lambda: "epoch_4.pt" in models(run), "model of the fourth epoch", job)
    assert not (run / "epoch_5.pt").exists(), "the training has not ended yet"
    go.touch()
    assert job.wait(timeout=120) == 0
    assert models(run) == {"epoch_3.pt", "epoch_4.pt", "epoch_5.pt"}
    assert stages(run)["epoch_5.pt"] == "published"
    said = (tmp_path / "rna-watch-17.log").read_text()
    assert "stopped: signal SIGTERM" in said
    assert said.index("stopped: signal SIGTERM") < said.index("stopped: done")
    beside = "--overlap --mem=0 --nodes=1 --ntasks=1 --cpus-per-task=4 --gpus=0"
    assert sorted(srun_log.read_text().splitlines()) == sorted(
        [
            f"{beside} rna-watch start {run} --foreground --engine local --keep 9",
            f"--cpus-per-task=3 {sys.executable} {trainer} {run} 5 0 {go}",
            f'{beside} bash -c rna-watch once "$@" || (($? == 3)) once {run} --engine local --keep 9',
        ]
    )


def test_the_status_of_a_training_that_fails_is_the_status_of_the_job(finish, srun_log, tmp_path, trainer):
    """A training that ends with status 7 ends the job with 7, and its checkpoints become models all the same."""
    run = tmp_path / "run"
    environment = {"RNA_WATCH_CPUS": "6", "RNA_WATCH_GPUS": "1"}
    command = f"cd {shlex.quote(str(tmp_path))} && bash {shlex.quote(str(SCRIPT))} "
    command += shlex.join(map(str, [sys.executable, trainer, run, "4", "7"]))
    status, said = finish(["bash", "-c", command], **environment)
    assert status == 7, said
    assert models(run) == {"epoch_3.pt", "epoch_4.pt"}
    assert srun_log.read_text().count("--cpus-per-task=6 --gpus=1 ") == 2


@pytest.mark.parametrize(("command", "status"), [("exit 0", 0), ("kill -9 $$", 137)], ids=["ends", "is killed"])
def test_trouble_of_ours_is_no_trouble_of_the_training(begin, srun_log, command, status):
    """The training runs to its own end if rna-watch cannot even start, and the log says why."""
    job = begin(
        ["bash", SCRIPT, "sh", "-c", f"while [ ! -s rna-watch-17.log ]; do sleep 0.05; done; {command}"],
        RNA_WATCH_OPTIONS="--windw 3",
        RNA_WATCH_FINISH="0",
    )
    assert job.wait(timeout=120) == status
    assert "No such option" in (srun_log.parent / "rna-watch-17.log").read_text()
    assert " once " not in srun_log.read_text()


@pytest.mark.parametrize(("status", "again"), [(0, False), (1, True), (2, False), (3, False), (137, True)])
def test_rna_watch_is_started_again_only_where_that_may_help(begin, srun_log, fake, tmp_path, status, again):
    """After 1 and the statuses of signals it is, while the training lasts; after 0, 2 and 3 it is not."""
    starts = fake(status)
    until = f"while [ ! -s {starts} ] || [ $(wc -l <{starts}) -lt {1 + again} ]; do sleep 0.02; done; sleep 0.3"
    job = begin(["bash", SCRIPT, "sh", "-c", until], RNA_WATCH_RESTART="0", RNA_WATCH_FINISH="0")
    assert job.wait(timeout=120) == 0
    assert (len(starts.read_text().splitlines()) > 1) == again
    assert ("it is started again" in (srun_log.parent / "rna-watch-17.log").read_text()) == again


@pytest.mark.parametrize(
    ("arguments", "run_dir", "sentence"),
    [([], "run", "give the training command"), (["true"], "", "set RUN_DIR to the folder")],
    ids=["no command", "no RUN_DIR"],
)
def test_a_job_that_lacks_something_says_what(begin, srun_log, arguments, run_dir, sentence):
    """Nothing is started without a training command or a run directory, and a sentence says what is missing."""
    job = begin(["bash", SCRIPT, *arguments], RUN_DIR=run_dir)
    said, _ = job.communicate(timeout=120)
    assert job.returncode != 0
    assert sentence in said
    assert not srun_log.exists()
