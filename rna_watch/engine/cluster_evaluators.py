"""The evaluators on a cluster: where each is placed, how long it is waited for, and what it answers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rna_watch.engine.ray_cluster import LINE_S, START_LIMIT_S, said
from rna_watch.errors import ClusterLost
from rna_watch.evaluation.client import ProcessDied

if TYPE_CHECKING:
    from rna_watch.engine.cluster_nodes import Nodes
    from rna_watch.engine.ray_cluster import Cluster


class Evaluators:
    """Starts, asks and ends evaluators, by numbers.

    Args:
        cluster: where they run.
        nodes: its nodes, if it is named.
    """

    def __init__(self, cluster: Cluster, nodes: Nodes | None) -> None:
        self._cluster = cluster
        self._nodes = nodes
        self._actors: dict[int, tuple[Any, str]] = {}

    def start(self, evaluator: int, spec: bytes, file: str, *, function: bool) -> None:
        """Start one, and wait until it is there; the arguments are those of `Nodes.for_evaluator`.

        Raises:
            ProcessDied: it ended at once.
            ClusterLost: no node can have it.
        """
        taken = [node for _, node in self._actors.values()]
        node = self._nodes.for_evaluator(taken, file, function=function) if self._nodes else ""
        actor = self._cluster.actor(spec, node)
        self._actors[evaluator] = (actor, node)
        self._await(actor.ready.remote(), node)

    def _await(self, reference: Any, node: str) -> None:
        where = self._nodes.name(node) if self._nodes else "this machine"
        ray, gpus, begun = self._cluster.ray, self._cluster.settings.gpus, time.monotonic()
        try:
            while not ray.wait([reference], timeout=LINE_S)[0]:
                line = f"an evaluator waits for {f'{gpus:g} GPUs' if gpus else 'its process'} on {where}"
                if time.monotonic() - begun > START_LIMIT_S:
                    raise ClusterLost(f"{line} for {START_LIMIT_S:g} s in vain")
                self._cluster.say("waits", line, "end what holds them, or lower --gpus; it is tried for two minutes")
            ray.get(reference)
        except ray.exceptions.RayActorError as error:
            raise self._died(node, error) from error
        except ray.exceptions.RayError as error:
            raise ClusterLost(f"an evaluator cannot be started on {where}: {said(error)}") from error
        finally:
            self._cluster.say("waits", "")

    def ask(self, evaluator: int, question: bytes, limit_s: float) -> bytes:
        """Its pickled answer.

        Raises:
            TimeoutError: there was none in time.
            ProcessDied: it is gone.
        """
        ray = self._cluster.ray
        actor, node = self._actors[evaluator]
        try:
            answer: bytes = ray.get(actor.ask.remote(question), timeout=limit_s)
        except ray.exceptions.GetTimeoutError:
            raise TimeoutError from None
        except ray.exceptions.RayError as error:
            raise self._died(node, error) from error
        return answer

    def _died(self, node: str, error: Exception) -> ProcessDied:
        """What became of an evaluator: where its node is lost, the user's code has no part in it."""
        lost = False
        if self._nodes is not None:
            ended = f"an evaluator on {self._nodes.name(node)} ended; the node is asked whether it is there"
            self._cluster.say("waits", ended, "look at the node if this comes again")
            lost = not self._nodes.answers(node)
            self._cluster.say("waits", "")
        return ProcessDied(f"{type(error).__name__}{', its node is lost' if lost else ''}", lost=lost)

    def kill(self, evaluator: int) -> None:
        """End it."""
        actor, _ = self._actors.pop(evaluator, (None, ""))
        if actor is not None:
            self._cluster.ray.kill(actor)
