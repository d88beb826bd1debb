"""A training alone and the same training beside a daemon, each trained and then resumed: what they announce and leave."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.daemon.runs import wait_until
from tests.trainers.live_run import Run, listing, script, watched

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Arguments = tuple[object, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainer:
    """How a trainer is called.

    Attributes:
        script: its file in this folder.
        act: what stands before the folder, to train and to go on.
        train: what it is given to train, with retention on.
        resume: what it is given to go on from what it left.
        pause_s: its rest between saves beside a daemon, so that each is there for a while.
        needs: the library that must be installed.
        varies: endings of files whose bytes differ from one training to the next, as they tell of times or random numbers.
        numbered: whether each save has a name of its own, under which it is a checkpoint.
    """

    script: str
    act: tuple[Arguments, Arguments] = ((), ())
    train: Arguments
    resume: Arguments
    pause_s: float
    needs: str = "torch"
    varies: tuple[str, ...] = ()
    numbered: bool = True


TRAINERS = {
    "Hugging Face": Trainer(
        script="hf_trainer",
        train=("--saves", 6, "--limit", 2),
        resume=("--saves", 8, "--limit", 2, "--resume"),
        pause_s=0.6,
        needs="transformers",
    ),
    "Lightning": Trainer(
        script="lightning_trainer",
        act=(("fit",), ("resume",)),
        train=(),
        resume=("--steps", 36),
        pause_s=0.9,
        needs="lightning",
        numbered=False,
    ),
    "Lightning, last as a link": Trainer(
        script="lightning_trainer",
        act=(("fit",), ("resume",)),
        train=("--last", "link"),
        resume=("--steps", 36, "--last", "link"),
        pause_s=0.9,
        needs="lightning",
        numbered=False,
    ),
    "Accelerate": Trainer(
        script="accelerate_trainer",
        train=("--saves", 6, "--limit", 2),
        resume=("--saves", 3, "--limit", 2, "--resume"),
        pause_s=0.8,
        needs="accelerate",
    ),
    "DCP, saved asynchronously": Trainer(
        script="dcp_async_trainer",
        train=("--count", 5),
        resume=("--count", 3, "--resume"),
        pause_s=1.5,
        varies=(".metadata",),  # it holds a number made anew for each save
    ),
    "timm": Trainer(
        script="timm_trainer",
        act=(("train",), ("resume",)),
        train=("--epochs", 6),
        resume=("--epochs", 3),
        pause_s=0.9,
        needs="timm",
        numbered=False,
    ),
    "one file rewritten in place": Trainer(
        script="plain_trainer",
        act=(("nanogpt",), ("nanogpt",)),
        train=("--count", 5),
        resume=("--count", 2, "--resume"),
        pause_s=0.9,
        numbered=False,
    ),
    "one file replaced by rename": Trainer(
        script="plain_trainer",
        act=(("renamed",), ("renamed",)),
        train=("--count", 5),
        resume=("--count", 2, "--resume"),
        pause_s=0.9,
        numbered=False,
    ),
    "torchvision's references": Trainer(
        script="plain_trainer",
        act=(("torchvision",), ("torchvision",)),
        train=("--count", 4),
        resume=("--count", 2, "--resume"),
        pause_s=0.9,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """What a training announced and left: its folder after training and after it went on, and the model in the end.

    Folders are all names with a digest of their content; `weights` is one of the final tensors.
    """

    announced: list[dict[str, Any]]
    trained: dict[str, str]
    resumed: dict[str, str]
    weights: str


def both_ways(trainer: Trainer, path: Path) -> tuple[Trace, Trace, Run]:
    """Train and go on, alone and then beside a daemon; what each left, and the second's run.

    Both have the same folder, one after the other: what checkpoints tell of their paths is then the same too.
    """
    run = Run.below(path)
    alone = _train_and_resume(trainer, run, pause_s=0.0, settle=lambda: None)
    shutil.rmtree(run.folder)
    shutil.rmtree(run.copies)
    Run.below(path)
    with watched(run.folder):
        beside = _train_and_resume(trainer, run, pause_s=trainer.pause_s, settle=lambda: wait_until(run.settled))
    return alone, beside, run


def _train_and_resume(trainer: Trainer, run: Run, *, pause_s: float, settle: Callable[[], None]) -> Trace:
    weights = run.copies.with_name("weights.pt")
    announced: list[dict[str, Any]] = []
    kept = []
    for act, given in zip(trainer.act, (trainer.train, trainer.resume), strict=True):
        options = ("--copies", run.copies, "--weights", weights, "--pause", pause_s)
        announced += [
            each for each in script(trainer.script, *act, run.folder, *given, *options) if "seconds" not in each
        ]
        settle()
        kept.append({name: _digest(run.folder / name, trainer) for name in listing(run.folder)})
    return Trace(announced=announced, trained=kept[0], resumed=kept[1], weights=_digest(weights, trainer))


def _digest(path: Path, trainer: Trainer) -> str:
    if path.is_symlink():
        return f"a link to {os.readlink(path)}"
    if path.is_dir() or path.name.endswith(trainer.varies):
        return ""
    return hashlib.sha256(path.read_bytes()).hexdigest()
