"""The trainings: how each is trained by a script of its own, which windows are looked at, and what its models are judged on."""

from __future__ import annotations

import lzma
import os
import runpy
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from torch.nn import functional

from rna_watch.demo import train_digits
from rna_watch.layout import disk
from rna_watch.reproduce.images import architectures, data, spec, watched
from tests.benchmarks.levers import train_text
from tests.reproduce import image_files

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor, nn

Batch = tuple["Tensor", "Tensor"]
_CIFAR = "cifar-10-batches-bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What models of a run are judged on, and what weights are fitted with.

    `held_out` and `test` are batches; nobody is trained on them. `batch` draws the training examples of one step of
    `training_loss`, `statistics` are training inputs for batch norm. `losses` and `errors` are per example; `errors` is None
    where only a loss is measured.
    """

    network: nn.Module
    held_out: Sequence[Batch]
    test: Sequence[Batch]
    batch: Callable[[torch.Generator], Batch]
    statistics: Sequence[Tensor]
    losses: Callable[[Tensor, Tensor], Tensor]
    errors: Callable[[Tensor, Tensor], Tensor] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A kind of run.

    `train` makes a run in a folder, or continues it, with a seed and a schedule; it returns the folder of the checkpoints.
    `judged` takes the run's folder. Both are told whether all is to be small. `phases` are the steps at which windows end, by
    phase, each with the schedule; `small` are those of a small run. `epoch` is the training's examples in an epoch (0: there
    are no epochs), `loss_batch` those of a step of `training_loss`. `settings` are rna-watch's. `lacks` says what is missing.
    """

    title: str
    unit: str
    train: Callable[[Path, int, str, bool], Path]
    judged: Callable[[Path, bool], Judged]
    phases: Mapping[str, tuple[str, Sequence[int]]]
    small: Mapping[str, tuple[str, Sequence[int]]]
    seeds: int
    loss_batch: int
    epoch: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    lacks: Callable[[], str] = lambda: ""


def _run(script: str, *arguments: object) -> None:
    """Run a script as its command line does, in this process: to start another takes longer than a small training."""
    with mock.patch.object(sys, "argv", [script, *map(str, arguments)]):
        runpy.run_path(script, run_name="__main__")


# -- digits: the demo's network


def _train_digits(run: Path, seed: int, _schedule: str, small: bool) -> Path:
    epochs = 4 if small else 40
    if not (run / f"epoch_{epochs:03d}.pt").exists():
        _run(train_digits.__file__, run, "--epochs", epochs, "--seed", seed)
    return run


def _digits(_run: Path, small: bool) -> Judged:
    torch.manual_seed(0)
    x, y = train_digits.images()
    trained, chosen = train_digits.TRAINED_ON, train_digits.TRAINED_ON + 397
    inputs = [train_digits.augmented(part) for part in x[:trained].split(125) for _ in range(1 if small else 4)]

    def batch(generator: torch.Generator) -> Batch:
        at = torch.randint(trained, (8 if small else 128,), generator=generator)
        return train_digits.augmented(x[at]), y[at]

    return Judged(
        network=train_digits.network(),
        held_out=[(x[trained:chosen], y[trained:chosen])],
        test=[(x[chosen:], y[chosen:])],
        batch=batch,
        statistics=inputs,
        losses=_cross_entropy,
        errors=_wrong,
    )


# -- CIFAR-10: a small ResNet of `reproduce`


def _given() -> Path:
    data = Path(os.environ.get("RNA_WATCH_DATA", Path(__file__).parents[4] / "shared" / "data"))
    return data / _CIFAR


def _plain_cifar(folder: Path, small: bool) -> Path:
    """The images, unpacked once: to unpack them takes longer than to judge a model. Small: a few gratings."""
    place = folder / "data" / _CIFAR
    if small and not place.exists():
        image_files.write_cifar(place, count=40)
    place.mkdir(parents=True, exist_ok=True)
    for packed in () if small else _given().glob("*.bin.xz"):
        plain = place / packed.stem
        if not plain.exists():
            with disk.replacing(plain, durable=False) as temporary:
                Path(temporary).write_bytes(lzma.decompress(packed.read_bytes()))
    return place.parent


def _train_images(run: Path, seed: int, _schedule: str, small: bool) -> Path:
    watched.train(
        spec.RunSpec(
            data=_plain_cifar(run.parent, small),
            dataset="cifar10",
            network="resnet8-narrow",
            optimizer="momentum",
            seed=seed,
            epochs=4 if small else 16,
            held_out=72 if small else 5000,
            train_images=128 if small else 20_000,
            test_images=0 if small else 500,  # for the training's own curve
            bf16=False,
        ),
        run,
        lambda text: print(text, flush=True),
    )
    return run / "epochs"


def _images(run: Path, small: bool) -> Judged:
    cpu = torch.device("cpu")
    images = data.load(replace(spec.read(run), test_images=0), cpu)

    def batch(generator: torch.Generator) -> Batch:
        return next(images.train(1, int(torch.randint(2**31, (1,), generator=generator)), 8 if small else 128))

    generator = torch.Generator().manual_seed(0)
    return Judged(
        network=architectures.build("resnet8-narrow", 3, 10),
        held_out=list(images.held_out())[: 1 if small else 5],
        test=list(images.test()),
        batch=batch,
        statistics=[batch(generator)[0] for _ in range(2 if small else 16)],
        losses=_cross_entropy,
        errors=_wrong,
    )


# -- text: a byte-level transformer


def _train_text(run: Path, seed: int, schedule: str, small: bool) -> Path:
    size = ("--steps", 4, "--every", 1, "--tiny") if small else ()
    _run(train_text.__file__, run, "--seed", seed, "--schedule", schedule, *size)
    return run


def _text(_run: Path, small: bool) -> Judged:
    def pieces(part: str) -> list[Batch]:
        length, count = train_text.LENGTH, 64 if small else 1024
        text = train_text.texts()[part]
        starts = torch.linspace(0, len(text) - length - 1, count).long()[:, None]
        found = text[starts + torch.arange(length + 1)].long()
        return [(each[:, :-1], each[:, 1:]) for each in found.split(64)]

    return Judged(
        network=train_text.network(tiny=small),
        held_out=pieces("held out"),
        test=pieces("test"),
        batch=train_text.batch,
        statistics=(),
        losses=train_text.loss,
        errors=None,
    )


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits, labels, reduction="none")


def _wrong(logits: Tensor, labels: Tensor) -> Tensor:
    return 100.0 * (logits.argmax(1) != labels).double()


TRAININGS = {
    "digits": Training(
        title="digits, the demo's network",
        unit="test error, %",
        train=_train_digits,
        judged=_digits,
        phases={"early": ("", (5, 6, 7)), "middle": ("", (16, 20, 24)), "late": ("", (36, 38, 40))},
        small={"early": ("", (4,))},
        seeds=5,
        loss_batch=128,
        epoch=1000,
    ),
    "images": Training(
        title="CIFAR-10, 20,000 images, ResNet-8 of width 8",
        unit="test error, %",
        train=_train_images,
        judged=_images,
        phases={"early": ("", (4, 6)), "middle": ("", (8, 10, 12)), "late": ("", (14, 16))},
        small={"early": ("", (4,))},
        seeds=3,
        loss_batch=128,
        epoch=20_000,
        settings={"lr_saved": "before"},
        lacks=lambda: (
            "" if any(_given().glob("*.bin.xz")) else f"there is no CIFAR-10 at {_given()}: set RNA_WATCH_DATA"
        ),
    ),
    "text": Training(
        title="byte-level transformer, AdamW",
        unit="test loss, nats a byte",
        train=_train_text,
        judged=_text,
        phases={
            "constant rate, step 600": ("constant", (600,)),
            "step 1000": ("constant", (1000,)),
            "cosine, step 600": ("cosine", (600,)),
            "end": ("cosine", (1000,)),
        },
        small={"step 4": ("constant", (4,))},
        seeds=3,
        loss_batch=train_text.BATCH,
    ),
}
