"""An experiment of the paper: parts that run one by one, and the tables and the figure of their results."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rna_watch.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rna_watch.reproduce.tables import Table

# what `rna-watch reproduce` knows, each in the module of its name
EXPERIMENTS = {
    "figure1": "logistic regression on Madelon: gradient, Nesterov, offline and online RNA, L-BFGS (needs --data)",
    "figure5": "the extrapolated point as the place where the weighted gradients balance, in two dimensions",
    "figure6": "condition number of R'R and norm of c, with and without regularization, along a quadratic",
    "theorem": "the measured residual against the bound of Theorem 3.1",
    "cost": "the time of one extrapolation against one mini-batch forward pass, ResNet-18 to ResNet-152",
    "networks": "networks on images, offline RNA in the loop and from checkpoints, online RNA (Fig. 7, Tables 2-4; needs --data)",
    "prototyping": "which of several architectures will be best, told early (Fig. 3; needs --data)",
    "imagenet": "ResNet-50 and ResNet-152 on a folder of images (Fig. 4, Table 5; needs --data)",
}


def _silent(_: str) -> None:
    """Nobody listens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a person chose.

    `data` is the folder of data. `quick` asks for a small version, in seconds. `config` has the experiment's own settings.
    `work` is a folder where long parts keep what they continue from. `say` is called with the progress in words. `so_far`:
    nothing is run.
    """

    data: Path | None = None
    quick: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)
    work: Path = Path("reproduced")
    say: Callable[[str], None] = _silent
    so_far: bool = False

    def folder(self, message: str) -> Path:
        """The folder of data; none is needed if nothing is run.

        Raises:
            UsageError: with the message, if there is none.
        """
        if self.data is None and not self.so_far:
            raise UsageError(message)
        return self.data or Path()


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One piece of work, kept under its `key`; `run` takes the results of the parts before it, and returns JSON.

    A kept part is used again if its `identity` is the same; if it has none, all settings of the plan must be the same.
    """

    key: str
    run: Callable[[Mapping[str, Any]], Any]
    identity: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The parts of an experiment in order, its `settings` and `seeds` as stated in the result, its tables and its figure.

    `partial`: tables and figure can be made of the finished parts alone, and mark the others as not run.
    """

    parts: tuple[Part, ...]
    settings: Mapping[str, Any]
    seeds: tuple[int, ...]
    tables: Callable[[Mapping[str, Any]], list[Table]]
    draw: Callable[[Mapping[str, Any]], Any]
    partial: bool = False


def plan(name: str, settings: Settings) -> Plan:
    """The plan of an experiment.

    Raises:
        UsageError: there is no such experiment, its tables need all its parts, or it lacks data or a library.
    """
    if name not in EXPERIMENTS:
        raise UsageError(f"there is no experiment {name!r}: take one of {', '.join(EXPERIMENTS)}")
    try:
        module = importlib.import_module(f"rna_watch.reproduce.{name}")
        if settings.config and not getattr(module, "CONFIGURABLE", False):
            raise UsageError(f"{name} has no settings of its own: leave --config out")
        if settings.so_far and not getattr(module, "PARTIAL", False):
            raise UsageError(f"the tables of {name} need all its parts: run it without --so-far")
        for library in ("matplotlib", *getattr(module, "LIBRARIES", ())):
            importlib.import_module(library)
    except ImportError as error:
        raise UsageError(f"{name} needs {error.name}: pip install 'rna-watch[reproduce]'") from error
    made: Plan = module.plan(settings)
    return made
