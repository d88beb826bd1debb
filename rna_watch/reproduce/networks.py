"""Networks on images: SGD with and without momentum, offline RNA in the loop and from checkpoints, online RNA.

Every run is a training in a process of its own with the paper's schedule; beside it the daemon watches the checkpoints of
its epochs, as it would any other training. Models are chosen on held-out training images and reported on test images.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from rna_watch.errors import UsageError
from rna_watch.reproduce import networks_plot, networks_tables
from rna_watch.reproduce.experiment import Part, Plan, Settings
from rna_watch.reproduce.images import data
from rna_watch.reproduce.images.architectures import ARCHITECTURES
from rna_watch.reproduce.images.spec import OPTIMIZERS, RunSpec, check_names
from rna_watch.reproduce.images.watched import DAEMON, train, train_watched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

CONFIGURABLE = True
# what two cores do in two hours; the paper's networks need a GPU (configs/reproduce/networks-gpu.yaml)
_TASKS: tuple[dict[str, Any], ...] = (
    {"dataset": "mnist", "network": "vgg4", "epochs": 12, "seeds": [0, 1, 2]},
    {"dataset": "cifar10", "network": "resnet8", "epochs": 30, "seeds": [0, 1]},
)
_QUICK: dict[str, Any] = {"train_images": 2000, "test_images": 500, "held_out": 500, "epochs": 5, "seeds": [0]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The settings.

    `tasks` hold dataset, network, epochs, seeds and any other field of a run; each is trained with each of the `optimizers`,
    and with those of `online` again as online RNA, first seed only.
    """

    tasks: tuple[dict[str, Any], ...] = _TASKS
    optimizers: tuple[str, ...] = ("momentum", "sgd")
    online: tuple[str, ...] = field(default=("momentum", "sgd"))


def plan(settings: Settings) -> Plan:
    """One part a run: every seed of a task with every optimizer, then online."""
    if settings.data is None:
        raise UsageError(
            "networks needs its images: name their folder with --data (MNIST, CIFAR-10, or a folder of images)"
        )
    check_names("networks", settings.config, Choice)
    choice = Choice(**settings.config)
    if settings.quick:
        choice = Choice(tasks=({**choice.tasks[0], **_QUICK},), optimizers=("momentum",), online=("momentum",))
    runs = [run for task in choice.tasks for run in specs(task, settings.data, choice)]
    return of_runs(runs, settings, lambda results: networks_tables.tables(runs, results), networks_plot.draw)


def of_runs(
    runs: list[RunSpec],
    settings: Settings,
    tables: Callable[[Mapping[str, Any]], Any],
    draw: Callable[[list[RunSpec], Mapping[str, Any]], Any],
) -> Plan:
    """A plan of a part for each run, watched by the daemon where it is not online."""
    for run in {(run.dataset, run.side): run for run in runs}.values():
        data.check(run)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return Plan(
        parts=tuple(Part(key=run.key, run=_training(run, settings), identity=_identity(run)) for run in runs),
        settings={"quick": settings.quick, "device": device, "daemon": DAEMON, "runs": [run.stated() for run in runs]},
        seeds=tuple(sorted({run.seed for run in runs})),
        tables=tables,
        draw=lambda results: draw(runs, results),
        partial=True,
    )


def _identity(run: RunSpec) -> dict[str, Any]:
    return {"run": run.stated()} if run.online else {"run": run.stated(), "daemon": DAEMON}


def specs(task: Mapping[str, Any], folder: Path, choice: Choice) -> list[RunSpec]:
    """The runs of a task.

    Raises:
        UsageError: a setting is unknown or wrong.
    """
    task = dict(task)
    seeds = task.pop("seeds", [0])
    check_names("a task of networks", task, RunSpec)
    missing = {"dataset", "network", "epochs"} - task.keys()
    if missing:
        raise UsageError(f"a task of networks lacks {', '.join(sorted(missing))}: it has {task}")
    _one_of("network", [task["network"]], ARCHITECTURES)
    _one_of("optimizer", [*choice.optimizers, *choice.online], OPTIMIZERS)
    offline = [
        RunSpec(**task, data=folder, optimizer=optimizer, seed=seed)
        for seed in seeds
        for optimizer in choice.optimizers
    ]
    online = [RunSpec(**task, data=folder, optimizer=o, seed=seeds[0], online=True) for o in choice.online]
    return [*offline, *online]


def _one_of(what: str, names: Iterable[str], known: Iterable[str]) -> None:
    for name in names:
        if name not in known:
            raise UsageError(f"there is no {what} {name!r}: take one of {', '.join(known)}")


def _training(run: RunSpec, settings: Settings) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def act(_: Mapping[str, Any]) -> dict[str, Any]:
        folder = settings.work / run.key
        if run.online:
            return {"curve": train(run, folder, settings.say)}
        return train_watched(run, folder, settings.say, device)

    return act
