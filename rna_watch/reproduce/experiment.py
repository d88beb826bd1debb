"""An experiment of the paper: parts that are run one by one, and the tables and the figure made of their results."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rna_watch.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from rna_watch.reproduce.tables import Table

# what `rna-watch reproduce` knows, each in the module of its name
EXPERIMENTS = {
    "figure1": "logistic regression on Madelon: gradient, Nesterov, offline and online RNA, L-BFGS (needs --data)",
    "figure5": "the extrapolated point as the place where the weighted gradients balance, in two dimensions",
    "figure6": "condition number of R'R and norm of c, with and without regularization, along a quadratic",
    "theorem": "the measured residual against the bound of Theorem 3.1",
    "cost": "the time of one extrapolation against one mini-batch forward pass, ResNet-18 to ResNet-152",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a person chose: the folder of data, and whether a small version in seconds is enough."""

    data: Path | None = None
    quick: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One piece of work, kept under its `key`; `run` takes the results of the parts before it, and returns JSON."""

    key: str
    run: Callable[[Mapping[str, Any]], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The parts of an experiment in order, its `settings` and `seeds` as stated in the result, and what to make of it.

    Kept parts are used again only where `settings` and `seeds` are the same.
    """

    parts: tuple[Part, ...]
    settings: Mapping[str, Any]
    seeds: tuple[int, ...]
    tables: Callable[[Mapping[str, Any]], list[Table]]
    draw: Callable[[Mapping[str, Any]], Any]


def plan(name: str, settings: Settings) -> Plan:
    """The plan of an experiment.

    Raises:
        UsageError: there is none of this name, or it lacks data or a library.
    """
    if name not in EXPERIMENTS:
        raise UsageError(f"there is no experiment {name!r}: take one of {', '.join(EXPERIMENTS)}")
    try:
        module = importlib.import_module(f"rna_watch.reproduce.{name}")
        for library in ("matplotlib", *getattr(module, "LIBRARIES", ())):
            importlib.import_module(library)
    except ImportError as error:
        raise UsageError(f"{name} needs {error.name}: pip install 'rna-watch[reproduce]'") from error
    made: Plan = module.plan(settings)
    return made
