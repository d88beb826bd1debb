"""The settings of one training run: what is trained on what, and how; kept as JSON in the run's folder."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rna_watch.errors import UsageError
from rna_watch.reproduce import store
from rna_watch.reproduce.images.architectures import ARCHITECTURES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ExperimentSettings = TypeVar("ExperimentSettings")

SPEC = "run.json"
# learning rate at the first and the last epoch, and momentum; the paper's section 4.2 and its authors' code
OPTIMIZERS = {"sgd": (1.0, 0.01, 0.0), "momentum": (0.1, 0.001, 0.9)}
SCHEDULES = ("paper", "steps", "flat")
DATASETS = ("cifar10", "mnist", "folder")
_CHOICES: dict[str, Sequence[str]] = {
    "dataset": DATASETS,
    "network": tuple(ARCHITECTURES),
    "optimizer": tuple(OPTIMIZERS),
    "schedule": SCHEDULES,
}
_LEAST = {"epochs": 1, "n": 1, "batch": 2, "held_out": 1, "side": 8, "threads": 1}
_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("dataset", "network", "optimizer", "schedule"), (str,)),
    **dict.fromkeys(
        ("seed", "epochs", "n", "batch", "held_out", "train_images", "test_images", "side", "threads"), (int,)
    ),
    **dict.fromkeys(("reg", "weight_decay", "scale"), (float, int)),
    **dict.fromkeys(("online", "bf16", "averaged"), (bool,)),
}
_WORDS = {
    str: "a word",
    int: "a whole number",
    float: "a number (1e-8 is written 1.0e-8 in YAML)",
    bool: "true or false",
}
_FORMS: dict[type, tuple[Any, str]] = {
    tuple: ((list, tuple), "a list, such as [a, b]"),
    dict: (dict, "a mapping, such as {batch: 128}"),
}
# the part of the epochs at the end that has the last learning rate: 10 of 100 in the authors' code
_FLAT_END = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """A run.

    `data` is the folder of the data; `dataset` is cifar10, mnist, or folder (of images, as ImageNet's). `network` is a key of
    `architectures.ARCHITECTURES`, `optimizer` is a key of `OPTIMIZERS`. `schedule` is `paper` (linear to the last learning
    rate, the last tenth flat), `steps` (divided by ten after each third of the epochs, as usual on ImageNet) or `flat`.
    `scale` multiplies the learning rates. `online` moves the network itself to the extrapolated point after every epoch. `n`
    and `reg` are N and lambda of RNA. `train_images` and `test_images` limit the images that are used, 0 for all; models are
    chosen on `held_out` training images. `bf16` uses autocast. `side` is that of a folder's images, in pixels. `threads`
    compute; those beyond the first also read a folder's images. `averaged` also evaluates the uniform average of RNA's window.
    """

    data: Path
    dataset: str
    network: str
    optimizer: str
    seed: int
    epochs: int
    schedule: str = "paper"
    online: bool = False
    n: int = 5
    reg: float = 1e-8
    batch: int = 128
    weight_decay: float = 1e-5
    held_out: int = 5000
    train_images: int = 0
    test_images: int = 0
    scale: float = 1.0
    bf16: bool = True
    side: int = 224
    threads: int = 1
    averaged: bool = False

    @property
    def key(self) -> str:
        """The name of the run, which no other run of an experiment has."""
        online = "-online" if self.online else ""
        return f"{self.dataset}-{self.network}-{self.optimizer}{online}-seed{self.seed}"

    def learning_rate(self, epoch: int) -> float:
        """The learning rate of an epoch, 1 to `epochs`.

        Source: the authors' code (`rna_v2`): lr(e) = lr_f + (lr_0 - lr_f) (1 - e / (E - s - 1)) for e < E - s, then lr_f.
        """
        first, last, _ = OPTIMIZERS[self.optimizer]
        first, last = self.scale * first, self.scale * last
        if self.schedule == "flat":
            return first
        if self.schedule == "steps":
            return float(first * 0.1 ** (3 * (epoch - 1) // self.epochs))
        falling = self.epochs - max(1, round(_FLAT_END * self.epochs))
        if epoch > falling or falling == 1:
            return last
        return last + (first - last) * (1.0 - (epoch - 1) / (falling - 1))

    @property
    def momentum(self) -> float:
        """The momentum of the optimizer."""
        return OPTIMIZERS[self.optimizer][2]

    def check_held_out(self, count: int) -> None:
        """Check that some of so many images are left to train on.

        Raises:
            UsageError: none is left.
        """
        where = f"{self.data / 'train'} holds" if self.dataset == "folder" else f"{self.dataset} has"
        if not 0 < self.held_out < count:
            raise UsageError(
                f"held_out is {self.held_out}: {where} {count} images to train on and to hold out: hold out fewer"
            )

    def stated(self) -> dict[str, Any]:
        """Everything that the results depend on: all fields except the folder of the data."""
        return {key: value for key, value in asdict(self).items() if key != "data"}


def write(spec: RunSpec, folder: Path) -> None:
    """Keep a run's spec in its folder.

    Raises:
        UsageError: the folder holds another run.
        StoreError: the folder cannot be written.
    """
    path = folder / SPEC
    if path.exists() and read(folder).stated() != spec.stated():
        raise UsageError(f"{folder} holds a run with other settings: remove it, or name another folder with --out")
    store.write(path, json.dumps({**spec.stated(), "data": str(spec.data.resolve())}, indent=1) + "\n")


def read(folder: Path) -> RunSpec:
    """The spec of the run in a folder."""
    values = json.loads((folder / SPEC).read_text())
    return RunSpec(**{**values, "data": Path(values["data"])})


def checked(what: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a run as a person gave them, checked.

    Args:
        what: whose settings they are, for the message.
        values: some of the fields of `RunSpec`.

    Raises:
        UsageError: a field is unknown, of another type, not finite, or out of range.
    """
    check_names(what, values, RunSpec)
    for name, value in values.items():
        if name in _CHOICES and value not in _CHOICES[name]:
            raise UsageError(f"{what}: {name} is {value!r}: take one of {', '.join(_CHOICES[name])}")
        kind = _KINDS[name]
        if not isinstance(value, kind) or (isinstance(value, bool) and bool not in kind):
            raise UsageError(f"{what}: {name} is {value!r}: it must be {_WORDS[kind[0]]}")
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{what}: {name} is {value!r}: it must be a finite number")
        if isinstance(value, int | float) and value < _LEAST.get(name, 0):
            raise UsageError(f"{what}: {name} is {value!r}: it must be at least {_LEAST.get(name, 0)}")
    return dict(values)


def chosen(what: str, values: Mapping[str, Any], kind: type[ExperimentSettings]) -> ExperimentSettings:
    """An experiment's own settings: a dataclass, each value of the type of its default (a list for a tuple).

    Args:
        what: whose settings they are, for the message.
        values: as a person gave them.
        kind: the dataclass.

    Raises:
        UsageError: a setting is unknown, or of another type.
    """
    check_names(what, values, kind)
    usual = kind()
    made = {}
    for name, value in values.items():
        default = getattr(usual, name)
        wanted, word = _FORMS.get(type(default), (type(default), _WORDS.get(type(default), "of another kind")))
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
            raise UsageError(f"{what}: {name} is {value!r}: it must be {word}")
        made[name] = tuple(value) if isinstance(default, tuple) else value
    return kind(**made)


def check_filled(what: str, **lists: Sequence[Any]) -> None:
    """Refuse lists without which there is nothing to run.

    Raises:
        UsageError: naming the first that is empty.
    """
    for name, values in lists.items():
        if not values:
            raise UsageError(f"{what}: {name} is []: it must name at least one, or be left out for the usual ones")


def check_names(what: str, values: Mapping[str, Any], known: type) -> None:
    """Refuse names that a dataclass does not have.

    Args:
        what: whose settings they are, for the message.
        values: as a person gave them.
        known: the dataclass.

    Raises:
        UsageError: naming the first, and what there is.
    """
    names = [field.name for field in fields(known)]
    for key in values:
        if key not in names:
            raise UsageError(f"{what}: unknown setting '{key}'; known are: {', '.join(names)}")
