"""Networks on images: SGD with and without momentum, offline RNA in the loop and from checkpoints, online RNA.

Every run is a training in a process of its own with the paper's schedule; beside it the daemon watches the checkpoints of
its epochs, as it would any other training. Models are chosen on held-out training images and reported on test images.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from rna_watch.errors import UsageError
from rna_watch.reproduce import networks_plot, networks_tables
from rna_watch.reproduce.experiment import Part, Plan, Settings
from rna_watch.reproduce.images import origin
from rna_watch.reproduce.images.spec import RunSpec, check_filled, checked, chosen
from rna_watch.reproduce.images.watched import DAEMON, named, train, train_watched

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

CONFIGURABLE = PARTIAL = True
# what two cores do in two hours; the paper's networks need a GPU (configs/reproduce/networks-gpu.yaml)
_TASKS: tuple[dict[str, Any], ...] = (
    {"dataset": "mnist", "network": "vgg4", "epochs": 12, "seeds": [0, 1, 2]},
    {"dataset": "cifar10", "network": "resnet8", "epochs": 30, "seeds": [0, 1]},
)
_QUICK: dict[str, Any] = {"train_images": 2000, "test_images": 500, "held_out": 500, "epochs": 5, "seeds": [0]}


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworksSettings:
    """The settings.

    `tasks` hold dataset, network, epochs, seeds and any other field of a run; each is trained with each of the `optimizers`,
    and with those of `online` again as online RNA, first seed only: by default all of them, where they are the usual ones.
    """

    tasks: tuple[dict[str, Any], ...] = _TASKS
    optimizers: tuple[str, ...] = ("momentum", "sgd")
    online: tuple[str, ...] = ("momentum", "sgd")


def plan(settings: Settings) -> Plan:
    """One part a run: every seed of a task with every optimizer, then online.

    Raises:
        UsageError: a setting is wrong, or the data are not there.
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
    """The settings of a person; online RNA only with optimizers that are run offline too, without which it is in no table."""
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
    """A plan of a part for each run, watched by the daemon where it is not online."""
    keys = [run.key for run in runs]
    for key in keys:
        if keys.count(key) > 1:
            raise UsageError(
                f"two runs are called {key}: give tasks of one dataset and network other seeds, or run them apart"
            )
    digests = origin.of_runs(runs, settings)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return Plan(
        parts=tuple(Part(key=run.key, run=_training(run, settings, digests), identity=_identity(run)) for run in runs),
        settings={
            "quick": settings.quick,
            "device": device,
            "data": digests,
            "daemon": DAEMON,
            "runs": [run.stated() for run in runs],
        },
        seeds=tuple(sorted({run.seed for run in runs})),
        tables=tables,
        draw=lambda results: draw(runs, results),
        partial=PARTIAL,
    )


def _identity(run: RunSpec) -> dict[str, Any]:
    return {"run": run.stated()} if run.online else {"run": run.stated(), "daemon": DAEMON}


def _check_mapping(task: object) -> None:
    if not isinstance(task, dict):
        raise UsageError(f"a task of networks is {task!r}: it must be a mapping, such as {{dataset: mnist, ...}}")


def specs(task: Mapping[str, Any], folder: Path, choice: NetworksSettings) -> list[RunSpec]:
    """The runs of a task.

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


def _training(
    run: RunSpec, settings: Settings, digests: Mapping[str, str]
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def act(_: Mapping[str, Any]) -> dict[str, Any]:
        origin.keep(digests, settings)
        folder = settings.work / run.key
        if run.online:
            return {"device": named(device), "curve": train(run, folder, settings.say)}
        return train_watched(run, folder, settings.say, device)

    return act
