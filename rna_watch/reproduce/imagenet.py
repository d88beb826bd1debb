"""ResNet-50 and ResNet-152 on ImageNet, or on any folder of images laid out like it: Fig. 4's curves and Table 5.

The small version makes a folder of tiny images itself. It shows that everything from decoding to the table works, and says
nothing about ImageNet.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rna_watch.layout import disk
from rna_watch.reproduce import networks_plot
from rna_watch.reproduce.images.results import (
    AVERAGE_5,
    BEST_AVERAGE,
    CHOSEN,
    DAEMON_RNA,
    LAST,
    LOOP,
    Curve,
    curves,
    label,
    optimizer_name,
    written,
)
from rna_watch.reproduce.images.spec import check_filled, chosen
from rna_watch.reproduce.networks import NetworksSettings, of_runs, specs
from rna_watch.reproduce.tables import Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rna_watch.reproduce.experiment import Plan, Settings
    from rna_watch.reproduce.images.spec import RunSpec

CONFIGURABLE = PARTIAL = True
LIBRARIES = ("PIL",)
# the usual recipe of ResNets on ImageNet; the paper names 90 epochs
_RECIPE: dict[str, Any] = {
    "dataset": "folder",
    "epochs": 90,
    "schedule": "steps",
    "batch": 256,
    "weight_decay": 1e-4,
    "held_out": 5000,
    "threads": 8,
    "seeds": [0],
}
_QUICK: dict[str, Any] = {"side": 32, "batch": 16, "epochs": 4, "threads": 1, "held_out": 20, "scale": 0.1}
_CLASSES = 4
# images of a class in each part of the small version's folder
_GENERATED = {"train": 30, "val": 10}
_METHODS = (LAST, LOOP, DAEMON_RNA, AVERAGE_5, BEST_AVERAGE, CHOSEN)
# paper: top-1 error in percent (Table 5): last iterate, with RNA
PAPER = {
    ("imagenet-resnet50", "sgd"): (23.808, 23.412),
    ("imagenet-resnet50", "momentum"): (23.346, 22.914),
    ("imagenet-resnet152", "momentum"): (21.294, 20.884),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagenetSettings:
    """The settings: `networks` of `images.architectures`, `optimizers`, and `run`, any other fields of a run."""

    networks: tuple[str, ...] = ("imagenet-resnet50", "imagenet-resnet152")
    optimizers: tuple[str, ...] = ("momentum", "sgd")
    run: Mapping[str, Any] = field(default_factory=dict)


def plan(settings: Settings) -> Plan:
    """One part for each network and optimizer."""
    choice = chosen("imagenet", settings.config, ImagenetSettings)
    check_filled("imagenet", networks=choice.networks, optimizers=choice.optimizers)
    if settings.quick:
        choice = ImagenetSettings(networks=("imagenet-resnet18",), optimizers=("momentum",), run=_QUICK)
        folder = generated(settings.work / "images")
    else:
        folder = settings.folder("imagenet needs a folder with train/CLASS/* and val/CLASS/*: name it with --data")
    tasks = [{**_RECIPE, **choice.run, "network": network} for network in choice.networks]
    wanted = NetworksSettings(tasks=tuple(tasks), optimizers=tuple(choice.optimizers), online=())
    runs = [run for task in tasks for run in specs(task, folder, wanted)]
    return of_runs(runs, settings, lambda results: [_table(runs, results)], networks_plot.draw)


def generated(folder: Path) -> Path:
    """A folder of small images laid out like ImageNet: noisy gratings of varying size, a direction for each class."""
    import numpy as np
    from PIL import Image

    if (folder / "val").is_dir():
        return folder
    random = np.random.default_rng(0)
    with disk.replacing(folder, durable=False) as temporary:
        for (part, count), number in product(_GENERATED.items(), range(_CLASSES)):
            place = Path(temporary, part, f"n{number:08d}")
            place.mkdir(parents=True)
            for i in range(count):
                height, width = random.integers(40, 80, 2)
                y, x = np.mgrid[:height, :width]
                angle = np.pi * (number + 0.2 * random.standard_normal()) / _CLASSES
                wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 0.6 + random.uniform(0, 6))
                pixels = 128 + 60 * wave[..., None] + 25 * random.standard_normal((height, width, 3))
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(place / f"{part}_{i:04d}.JPEG", quality=90)
    return folder


def _table(runs: Sequence[RunSpec], results: Mapping[str, Any]) -> Table:
    """Top-1 error at the last epoch."""
    names = list(dict.fromkeys((run.network, run.optimizer) for run in runs))
    rows = []
    for network, optimizer in [*names, *(key for key in PAPER if key not in names)]:
        done = [
            curves(results[r.key])
            for r in runs
            if (r.network, r.optimizer) == (network, optimizer) and r.key in results
        ]
        paper = PAPER.get((network, optimizer))
        told = f"{paper[0]:.2f} -> {paper[1]:.2f}" if paper else "-"
        cells = [_cell(done, method) for method in _METHODS]
        rows.append((f"{network.removeprefix('imagenet-')}, {optimizer_name(optimizer)}", *cells, told))
    return Table(
        title=f"Top-1 error in percent on val after {runs[0].epochs} epochs",
        header=("", *(label(method, runs[0]) for method in _METHODS), "paper: last -> RNA"),
        rows=tuple(rows),
        notes=(
            "`best` and `chosen` were picked on held-out training images, never on val.",
            (
                "Paper (Table 5): ImageNet's 1,000 classes, 90 epochs; another folder of images has other errors. The "
                "pretrained networks of PyTorch have 23.85 and 21.69."
            ),
        ),
    )


def _cell(done: Sequence[Mapping[str, Curve]], method: str) -> str:
    return written([curve[method][-1] for curve in done if method in curve]) if done else "not run"
