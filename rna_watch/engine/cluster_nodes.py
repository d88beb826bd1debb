"""The nodes of a named cluster: which can be used, which are left out and why, and which of them do whose part."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rna_watch.engine import nodes, ranges
from rna_watch.engine.ray_cluster import LINE_S, said
from rna_watch.errors import ClusterLost

if TYPE_CHECKING:
    from rna_watch.engine.ray_cluster import Cluster

_SURVEY_LIMIT_S = 30.0
_ASK_AGAIN_S = 60.0
_PULSE_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Node:
    """A node that was asked: why it cannot be used ("": it can), and what more it must see."""

    name: str
    cpus: float
    gpus: float
    why: str
    evaluates: bool
    asked: float
    files: tuple[str, ...] = ()


class Nodes:
    """Asks the nodes, and new ones as they come; those left out are asked again every minute.

    Args:
        cluster: the cluster that is named.

    Raises:
        EngineError: none of them can be used.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._own = cluster.own_node()
        self._nodes: dict[str, _Node] = {}  # never changed, but replaced: several threads read it
        self._lock = threading.Lock()
        self.slots: list[str] = []  # the node of each worker
        self._survey(cluster.alive())
        cluster.check_gpus(max((node.gpus for node in self._nodes.values() if not node.why), default=0.0))
        self.usable()
        threading.Thread(target=self._pulse, daemon=True).start()

    def usable(self) -> list[str]:
        """The node of each worker, from now on.

        Raises:
            ClusterLost: there is none that can be used.
        """
        known = self._nodes
        cpus = {number: node.cpus for number, node in known.items() if not node.why and node.cpus >= 1}
        if not cpus:
            why = "; ".join(sorted(f"{node.name}: {node.why or 'it has no CPU'}" for node in known.values()))
            where = self._cluster.settings.address
            raise ClusterLost(f"no node of the cluster at {where} can be used ({why or 'none is alive'})")
        self.slots = ranges.slots(cpus, self._cluster.settings.workers, self.slots)
        return self.slots

    def for_evaluator(self, taken: list[str], file: str, *, function: bool) -> str:
        """The node for an evaluator: one that has and sees what it needs, and the fewest of ours.

        Args:
            taken: the nodes of those that there are.
            file: the user's ("" for none).
            function: whether it needs torch.

        Raises:
            ClusterLost: there is none.
        """
        known, gpus = self._nodes, self._cluster.settings.gpus
        lacks = {number: node.why for number, node in known.items()}
        for number, node in known.items():
            if not node.why and node.gpus < gpus:
                lacks[number] = f"it has {node.gpus:g} GPUs"
            elif not node.why and function and not node.evaluates:
                lacks[number] = f"it lacks {nodes.EVALUATES}"
        able = [number for number, why in lacks.items() if not why]
        for number in sorted(able, key=lambda each: (taken.count(each), each)):
            if not file or self._sees_now(number, (file,)):
                return number
            lacks[number] = f"it does not see {file}"
        where = self._cluster.settings.address
        why = "; ".join(f"{known[number].name}: {why}" for number, why in lacks.items())
        raise ClusterLost(f"no node of the cluster at {where} can evaluate ({why})")

    def sees(self, number: str, files: tuple[str, ...]) -> bool:
        """Whether a node sees files as this machine does; it is left out if it does not, or is gone."""
        found = self._cluster.alive()
        if number not in found or number not in self._nodes:
            self._forget(number)
            return False
        self._keep(number, replace(self._nodes[number], files=files))
        self._survey({number: found[number]})
        return number in self._nodes and not self._nodes[number].why

    def answers(self, number: str) -> bool:
        """Whether a node is there now, which Ray may take for alive for 15 s after it was lost; it is left out if it is not."""
        found = self._sees_now(number, ())
        if not found:
            self._forget(number)
        return found

    def _sees_now(self, number: str, files: tuple[str, ...]) -> bool:
        found = self._cluster.alive()
        if number not in found:
            return False
        reference = self._cluster.ask(number, files)
        return bool(self._cluster.ray.wait([reference], timeout=LINE_S)[0]) and not self._why(reference, files)[0]

    def name(self, number: str) -> str:
        """The name of a node."""
        node = self._nodes.get(number)
        return node.name if node is not None else "a node that is lost" if number else "this machine"

    def _keep(self, number: str, node: _Node) -> None:
        with self._lock:
            self._nodes = self._nodes | {number: node}

    def _forget(self, *numbers: str) -> None:
        with self._lock:
            self._nodes = {number: node for number, node in self._nodes.items() if number not in numbers}

    def _survey(self, found: dict[str, dict[str, Any]]) -> None:
        """Ask nodes what they have and see; those that cannot be used are named, with the reason."""
        known, ray = self._nodes, self._cluster.ray
        files = {number: known[number].files if number in known else () for number in found}
        references = {self._cluster.ask(number, files[number]): number for number in found}
        left, until = list(references), time.monotonic() + _SURVEY_LIMIT_S
        while left and (rest := until - time.monotonic()) > 0:
            _, left = ray.wait(left, num_returns=len(left), timeout=min(LINE_S, rest))
            if left and time.monotonic() < until:
                names = ", ".join(_name(found[references[each]]) for each in left)
                self._cluster.say("waits", f"{names} did not answer for {LINE_S:g} s", "the others work meanwhile")
        self._cluster.say("waits", "")
        for reference, number in references.items():
            why, evaluates = f"it did not answer within {_SURVEY_LIMIT_S:g} s", False
            if reference not in left:
                why, evaluates = self._why(reference, files[number])
            resources = found[number]["Resources"]
            node = _Node(
                name=_name(found[number]),
                cpus=resources.get("CPU", 0.0),
                gpus=resources.get("GPU", 0.0),
                why=why,
                evaluates=evaluates,
                asked=time.monotonic(),
                files=files[number],
            )
            self._keep(number, node)
        self._say_left_out()

    def _why(self, reference: Any, files: tuple[str, ...]) -> tuple[str, bool]:
        """Why a node that answered cannot be used, and whether it can evaluate."""
        try:
            there: nodes.Report = self._cluster.ray.get(reference)
        except Exception as error:  # noqa: BLE001 - whatever it is, the node cannot be used
            return f"it cannot do what it is asked ({said(error)[:300]})", False
        why = nodes.why_not(nodes.report(files), there, self._cluster.settings.nonce)
        return why, nodes.EVALUATES in there["versions"]

    def _say_left_out(self) -> None:
        out = sorted(f"{node.name} is left out: {node.why}" for node in self._nodes.values() if node.why)
        remedy = "the others do its part; give it what it lacks, under the same path: it is asked again every minute"
        self._cluster.say("nodes", "; ".join(out), remedy)

    def _pulse(self) -> None:
        """Tell every other second that the head answers; ask nodes that are new, and from time to time those left out."""
        asking: threading.Thread | None = None
        where = self._cluster.settings.address
        while True:
            found = self._cluster.alive()
            if self._own not in found:
                lost = f"the head at {where} was started again, or gave this machine up: it is joined anew"
                self._cluster.tell(0, "lost", lost)
                return
            self._cluster.tell(0, "pulse", None)
            if asking is None or not asking.is_alive():
                self._forget(*(number for number in self._nodes if number not in found))
                self._say_left_out()
                late = time.monotonic() - _ASK_AGAIN_S
                known = self._nodes
                due = {
                    number: node
                    for number, node in found.items()
                    if number not in known or (known[number].why and known[number].asked < late)
                }
                if due:
                    asking = threading.Thread(target=self._survey, args=(due,), daemon=True)
                    asking.start()
            time.sleep(_PULSE_S)


def _name(node: dict[str, Any]) -> str:
    return f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
