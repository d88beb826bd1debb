"""A real Slurm of two nodes on this machine, as root: munge, slurmctld and two slurmd, in a folder of their own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "squeue", "scontrol")
_LIMIT_S = 60.0
_CONFIG = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmctldPort={controller}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=1000
GresTypes=gpu
ReturnToService=2
SlurmdParameters=config_overrides
KillWait=10
MinJobAge=300
JobRequeue=1
SchedulerParameters=sched_interval=1,batch_sched_delay=0
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={one} CPUs=4 RealMemory=8000 Gres=gpu:2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={two} CPUs=4 RealMemory=8000 Gres=gpu:2
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""


def missing() -> str:
    """What is not there to set it up ("" if all is)."""
    if os.getuid() != 0:
        return "a real Slurm is set up by root alone"
    absent = [name for name in _PROGRAMS if not _found(name)]
    return f"no Slurm (Debian's slurm-wlm and munge): {', '.join(absent)}" if absent else ""


def _found(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@dataclass(slots=True)
class SlurmCluster:
    """Two nodes of four CPUs, `n1` and `n2`; a context manager that ends all of it.

    Args:
        folder: for its state and logs; its path is short, since sockets lie in it.
    """

    folder: Path
    _running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """What its commands need."""
        return os.environ | {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def __enter__(self) -> SlurmCluster:
        try:
            self._set_up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _set_up(self) -> None:
        self.folder.chmod(0o755)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        for name in ("state", "spool-n1", "spool-n2"):
            (self.folder / name).mkdir()
        ports = {"controller": _port(), "one": _port(), "two": _port()}
        config = _CONFIG.format(host=socket.gethostname().partition(".")[0], folder=self.folder, **ports)
        (self.folder / "slurm.conf").write_text(config)
        of_munge = {"key-file": key, "socket": self.folder / "munge.socket", "pid-file": self.folder / "munge.pid"}
        of_munge |= {"log-file": self.folder / "munge.log", "seed-file": self.folder / "munge.seed"}
        (self.folder / "gres.conf").write_text("Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n")
        self._begin("munged", "--foreground", "--force", *(f"--{name}={value}" for name, value in of_munge.items()))
        self._until((self.folder / "munge.socket").exists, "munge")
        self._begin("slurmctld", "-D")
        for node in ("n1", "n2"):
            self._begin("slurmd", "-D", "-N", node)
        self._until(lambda: self.run("sinfo", "-h", "-o", "%t").split() == ["idle"], "two idle nodes")

    def _begin(self, name: str, *arguments: str) -> None:
        program = _found(name)
        assert program is not None
        with (self.folder / f"{name}.out").open("ab") as said:
            given = {"stdout": said, "stderr": said, "stdin": subprocess.DEVNULL}
            self._running.append(subprocess.Popen([program, *arguments], env=self.environment, **given))  # type: ignore[call-overload]

    def _until(self, true: object, what: str, limit_s: float = _LIMIT_S) -> None:
        assert callable(true)
        deadline = time.monotonic() + limit_s
        while not true():
            if time.monotonic() > deadline:
                logs = "\n".join(f"{each.name}: {each.read_text()[-2000:]}" for each in self.folder.glob("*.[lo]*"))
                raise AssertionError(f"no {what} after {limit_s:g} s\n{logs}")
            time.sleep(0.1)

    def run(self, *command: str, **environment: str) -> str:
        """What one of its commands prints; raises AssertionError if it fails."""
        result = subprocess.run(
            command, capture_output=True, text=True, env=self.environment | environment, timeout=_LIMIT_S, check=False
        )
        assert result.returncode == 0, f"{' '.join(command)}: {result.stdout}{result.stderr}"
        return result.stdout.strip()

    def submit(self, *command: object, **environment: str) -> str:
        """Submit a job; its number."""
        return self.run("sbatch", "--parsable", *map(str, command), **environment)

    def state(self, job: str) -> str:
        """The state of a job, such as RUNNING or COMPLETED, and its exit code: `COMPLETED 0:0`."""
        shown = dict(
            part.split("=", 1) for part in self.run("scontrol", "show", "job", job, "-o").split() if "=" in part
        )
        return f"{shown['JobState']} {shown['ExitCode']}"

    def wait(self, job: str, limit_s: float = 180.0) -> str:
        """Wait for the end of a job; its state and exit code."""
        running = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED"}
        self._until(lambda: self.state(job).split()[0] not in running, f"end of job {job}", limit_s)
        return self.state(job)

    def __exit__(self, *_: object) -> None:
        with suppress(AssertionError, subprocess.TimeoutExpired):
            self.run("scancel", "--signal=KILL", "--full", "--user=root")
            self.run("scancel", "--user=root")
            deadline = time.monotonic() + _LIMIT_S
            while self.run("squeue", "-h") and time.monotonic() < deadline:
                time.sleep(0.1)
        for process in reversed(self._running):
            process.terminate()
        for process in self._running:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
