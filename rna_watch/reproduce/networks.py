"""Networks on images: SGD with and without momentum, offline RNA in the loop and from checkpoints, online RNA.

Every run is a training in a process of its own with the paper's schedule. The daemon watches the checkpoints of its epochs,
as it would watch any other training. Models are chosen on held-out training images and reported on test images.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rna_watch.errors import UsageError
from rna_watch.reproduce import machine, networks_plot, networks_tables
from rna_watch.reproduce.experiment import Plan, Settings
from rna_watch.reproduce.images import origin
from rna_watch.reproduce.images.spec import RunSpec, check_filled, checked, chosen
from rna_watch.reproduce.images.watched import DAEMON, part

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

CONFIGURABLE = PARTIAL = True
# two hours on two cores; the paper's networks need a GPU (configs/reproduce/networks-gpu.yaml)
_TASKS: tuple[dict[str, Any], ...] = (
    {"dataset": "mnist", "network": "vgg4", "epochs": 12, "seeds": [0, 1, 2]},
    {"dataset": "cifar10", "network": "resnet8", "epochs": 30, "seeds": [0, 1]},
)
_QUICK: dict[str, Any] = {"train_images": 2000, "test_images": 500, "held_out": 500, "epochs": 5, "seeds": [0]}


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworksSettings:
    """The settings.

    `tasks` hold dataset, network, epochs, seeds and any other field of a run. Each task is trained with each of the
    `optimizers`. With those of `online` (by default all that are in `optimizers`) it is trained again as online RNA, for the
    first seed only.
    """

    tasks: tuple[dict[str, Any], ...] = _TASKS
    optimizers: tuple[str, ...] = ("momentum", "sgd")
    online: tuple[str, ...] = ("momentum", "sgd")


def plan(settings: Settings) -> Plan:
    """One part for each run: every seed of a task with every optimizer, then online.

    Raises:
        UsageError: a setting is wrong, or the data are missing.
    """
    folder = settings.folder("networks needs its images: name their folder with --data")
    choice = _choice(settings.config)
    if settings.quick:
        choice = NetworksSettings(
            tasks=({**choice.tasks[0], **_QUICK},), optimizers=("momentum",), online=("momentum",)
        )
    runs = [run for task in choice.tasks for run in specs(task, folder, choice)]
    return of_runs(runs, settings, lambda results: networks_tables.tables(runs, results), networks_plot.draw)


def _choice(config: Mapping[str, Any]) -> NetworksSettings:
    """A person's settings; online RNA runs only with optimizers that run offline too, because no table would have it."""
    choice = chosen("networks", config, NetworksSettings)
    check_filled("networks", tasks=choice.tasks, optimizers=choice.optimizers)
    for task in choice.tasks:
        _check_mapping(task)
    lacking = [optimizer for optimizer in choice.online if optimizer not in choice.optimizers]
    if lacking and "online" in config:
        raise UsageError(
            f"networks: online has {lacking[0]!r}, which optimizers has not: online RNA is compared with the run of its "
            "optimizer without it, so add it there, or take it out of online"
        )
    return replace(choice, online=tuple(optimizer for optimizer in choice.online if optimizer not in lacking))


def of_runs(
    runs: list[RunSpec],
    settings: Settings,
    tables: Callable[[Mapping[str, Any]], Any],
    draw: Callable[[list[RunSpec], Mapping[str, Any]], Any],
) -> Plan:
    """A plan with a part for each run; the daemon watches the runs that are not online.

    Args:
        runs: the runs.
        settings: what a person chose.
        tables: makes the tables of the results, by key of a run.
        draw: makes the figure of the runs and their results.

    Raises:
        UsageError: two runs have one key, or a run cannot be trained.
    """
    keys = [run.key for run in runs]
    for key in keys:
        if keys.count(key) > 1:
            raise UsageError(
                f"two runs are called {key}: give tasks of one dataset and network other seeds, or run them apart"
            )
    digests = origin.of_runs(runs, settings)
    return Plan(
        parts=tuple(part(run, run.key, settings, digests, watched=not run.online) for run in runs),
        settings={
            "quick": settings.quick,
            "device": machine.device_name(),
            "data": digests,
            "daemon": DAEMON,
            "runs": [run.stated() for run in runs],
        },
        seeds=tuple(sorted({run.seed for run in runs})),
        tables=tables,
        draw=lambda results: draw(runs, results),
        partial=PARTIAL,
    )


def _check_mapping(task: object) -> None:
    if not isinstance(task, dict):
        raise UsageError(f"a task of networks is {task!r}: it must be a mapping, such as {{dataset: mnist, ...}}")


def specs(task: Mapping[str, Any], folder: Path, choice: NetworksSettings) -> list[RunSpec]:
    """The runs of a task.

    Args:
        task: fields of a run, and `seeds`.
        folder: of the data.
        choice: the optimizers, with and without online RNA.

    Raises:
        UsageError: a setting is unknown or wrong.
    """
    _check_mapping(task)
    task = dict(task)
    seeds = task.pop("seeds", [0])
    fixed = {"data", "optimizer", "seed", "online"} & task.keys()
    if fixed:
        raise UsageError(
            f"a task of networks: {fixed.pop()} is not its own: there are seeds, and optimizers, online and --data"
        )
    if not isinstance(seeds, list) or not seeds:
        raise UsageError(f"a task of networks: seeds is {seeds!r}: it must be a list such as [0, 1]")
    missing = {"dataset", "network", "epochs"} - task.keys()
    if missing:
        raise UsageError(f"a task of networks lacks {', '.join(sorted(missing))}: it has {task}")

    def made(optimizer: str, seed: int, *, online: bool) -> RunSpec:
        values = {**task, "optimizer": optimizer, "seed": seed, "online": online}
        return RunSpec(data=folder, **checked("a task of networks", values))

    offline = [made(optimizer, seed, online=False) for seed in seeds for optimizer in choice.optimizers]
    return [*offline, *(made(optimizer, seeds[0], online=True) for optimizer in choice.online)]
