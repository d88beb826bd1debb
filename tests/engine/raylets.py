"""A Ray cluster of real raylets on this machine: each node has its own network, mounts, processes and host name."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import signal
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

RAY = str(Path(sys.executable).with_name("ray"))
_OWN = ("__editable__.rna_watch", "__editable___rna_watch", "rna_watch")
_LIMIT_S = 120.0


def missing() -> str:
    """Why there can be none here; "" if there can."""
    if os.geteuid() != 0:
        return "namespaces and mounts need root"
    for command in (["ip", "netns", "list"], ["unshare", "-m", "-n", "-u", "-p", "-f", "true"]):
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            return f"{shlex.join(command)} does not work here"
    return ""


@dataclass
class Node:
    """A node that runs or ran: what it takes to start it again."""

    number: int
    options: list[str]
    prepare: str
    process: subprocess.Popen[bytes] | None = None


@dataclass
class Raylets:
    """A head beside this process (its address is a bridge's), and nodes on that bridge.

    Args:
        folder: a short folder of its own.
        token: what the cluster asks for ("": nothing).
    """

    folder: Path
    token: str = field(default_factory=lambda: secrets.token_hex(32))
    nodes: dict[str, Node] = field(default_factory=dict)
    _head: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._tag = f"rw{os.getpid() % 100000}"
        self._net = f"10.{77 + os.getpid() % 100}.{os.getpid() % 250}"
        self.host = f"{self._net}.1"
        self.address = f"{self.host}:6379"
        self.environment = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
        if self.token:
            self.environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}

    def __enter__(self) -> Raylets:
        _ip("link", "add", self._tag, "type", "bridge")
        _ip("addr", "add", f"{self.host}/24", "dev", self._tag)
        _ip("link", "set", self._tag, "up")
        return self

    def __exit__(self, *_: object) -> None:
        for name, node in self.nodes.items():
            self.kill(name)
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("netns", "del", f"{self._tag}n{node.number}")
        self.kill_head()
        with contextlib.suppress(subprocess.CalledProcessError):
            _ip("link", "del", self._tag)

    def _environ(self) -> dict[str, str]:
        plain = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "TMPDIR"}}
        return plain | self.environment

    def start_head(self, *, cpus: int = 1) -> None:
        """Start the head; after `kill_head` it is a new cluster at the same address."""
        words = [RAY, "start", "--head", f"--node-ip-address={self.host}", "--port=6379", f"--num-cpus={cpus}"]
        words += ["--include-dashboard=false", f"--temp-dir={self.folder / 'h'}", *_SMALL]
        begun = subprocess.Popen(
            [*words, "--block"],
            env=self._environ(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._head = words
        self._head_process = begun

    def kill_head(self) -> None:
        """Kill every process of the head, as a power cut does."""
        if not self._head:
            return
        from rna_watch.engine import whole

        whole.end(self._head_process.pid)
        self._head_process.wait()

    def add(
        self, name: str, *, cpus: int = 1, gpus: int = 0, hides: tuple[Path, ...] = (), lacks: tuple[str, ...] = ()
    ) -> None:
        """Start a node.

        Args:
            name: its host name.
            cpus: how many it declares.
            gpus: how many it declares.
            hides: folders that it sees empty.
            lacks: names (or their beginnings) of what it does not have of the installed packages.
        """
        number = len(self.nodes) + 2
        space = f"{self._tag}n{number}"
        _ip("netns", "add", space)
        _ip("link", "add", f"{self._tag}v{number}", "type", "veth", "peer", "name", "eth0", "netns", space)
        _ip("link", "set", f"{self._tag}v{number}", "master", self._tag, "up")
        _ip("-n", space, "addr", "add", f"{self._net}.{number}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            _ip("-n", space, "link", "set", device, "up")
        lines = [f"hostname {name}", f"mount -t tmpfs none {self.folder / 'h'}"]  # a session of its own
        lines += [f"mount -t tmpfs none {shlex.quote(str(place))}" for place in hides]
        packages = Path(sysconfig.get_paths()["purelib"])
        gone = [each.name for each in packages.iterdir() if each.name.startswith((*_OWN, *lacks))]
        upper = self.folder / f"upper{number}"
        lines.append(f"mkdir -p {upper} && mount -t tmpfs none {upper} && mkdir {upper}/u {upper}/w")
        lines += [f"mknod {upper}/u/{shlex.quote(each)} c 0 0" for each in gone]
        lines.append(f"mount -t overlay o -o lowerdir={packages},upperdir={upper}/u,workdir={upper}/w {packages}")
        options = [f"--node-ip-address={self._net}.{number}", f"--num-cpus={cpus}", f"--num-gpus={gpus}"]
        self.nodes[name] = Node(number=number, options=options, prepare=" && ".join(lines))
        self.start(name)

    def start(self, name: str) -> None:
        """Start a node (again)."""
        node = self.nodes[name]
        join = shlex.join([RAY, "start", f"--address={self.address}", *node.options, *_SMALL, "--block"])
        inner = f"{node.prepare} && exec {join}"
        words = ["ip", "netns", "exec", f"{self._tag}n{node.number}", "unshare", "-m", "-u", "-p", "-f", "--kill-child"]
        node.process = subprocess.Popen(
            [*words, "--mount-proc", "bash", "-c", inner],
            env=self._environ(),
            stdout=subprocess.DEVNULL,
            stderr=(self.folder / f"{name}.log").open("ab"),
            start_new_session=True,
        )

    def kill(self, name: str) -> None:
        """Kill every process of a node, as a power cut does."""
        process = self.nodes[name].process
        if process is not None and process.poll() is None:
            # the children of unshare are the node's first process, whose end ends its namespace
            found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False)
            for pid in [*found.stdout.split(), process.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            process.wait()

    def wait(self, count: int) -> None:
        """Wait until so many nodes, the head's among them, are alive."""
        code = (
            "import sys, time\n"
            "from ray._raylet import GcsClient\n"
            "from ray.core.generated.gcs_pb2 import GcsNodeInfo\n"
            "while True:\n"
            "    try:\n"
            "        found = GcsClient(address=sys.argv[1]).get_all_node_info().values()\n"
            "        if sum(each.state == GcsNodeInfo.ALIVE for each in found) == int(sys.argv[2]):\n"
            "            break\n"
            "    except Exception as error:\n"
            "        print(error)\n"
            "    time.sleep(0.5)\n"
        )
        words = [sys.executable, "-c", code, self.address, str(count)]
        try:
            subprocess.run(words, env=self._environ(), check=True, capture_output=True, timeout=_LIMIT_S)
        except subprocess.TimeoutExpired as error:
            said = [f"{log.stem}: {log.read_text()[-1000:]}" for log in self.folder.glob("*.log")]
            raise AssertionError(f"there are not {count} nodes alive: {error.stdout!r}; {said}") from error


_SMALL = ["--object-store-memory=80000000", "--disable-usage-stats"]


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
