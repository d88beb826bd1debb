"""An evaluator for tests of several processes: pipes make its processes meet, and hold them, without waiting in vain.

In the folder FOLDER of the environment: `models` gets a line for each model, process and times of begin and end. The
process that comes first evaluates the originals; from the first candidate on, its peers are met (`meet`) or it hangs (`hang`).
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent))

import evaluator

if TYPE_CHECKING:
    import torch

_FOLDER = Path(os.environ["FOLDER"])
_ORIGINALS = 3  # of a run of three checkpoints: only the last has candidates
_CALLS = [0]


def _candidate() -> tuple[bool, bool]:
    """Whether this is the first process, and whether this is the first candidate in any."""
    _CALLS[0] += 1
    own = _FOLDER / f"process{os.getpid()}"
    own.touch()
    with contextlib.suppress(FileExistsError):
        (_FOLDER / "first").symlink_to(own)  # at once, name and content
    first = (_FOLDER / "first").resolve() == own.resolve()
    return first, _CALLS[0] == (_ORIGINALS + 1 if first else 1)


def meet(state_dict: dict[str, torch.Tensor], device: torch.device) -> dict[str, float]:
    """The loss; at its first candidate a process goes on only when another is at its own."""
    begun = time.monotonic()
    first, candidate = _candidate()
    if candidate:
        with (_FOLDER / "pipe").open("r" if first else "w"):  # either end waits for the other
            pass
    found = evaluator.evaluate(state_dict, device)
    with (_FOLDER / "models").open("a") as file:
        file.write(f"{os.getpid()} {begun} {time.monotonic()}\n")
    return found


def hang(state_dict: dict[str, torch.Tensor], device: torch.device) -> dict[str, float]:
    """The loss of originals; at its first candidate a process writes its number down and never returns."""
    if _candidate()[1]:
        with (_FOLDER / "hanging").open("a") as file:
            file.write(f"{os.getpid()}\n")
        threading.Event().wait()
    return evaluator.evaluate(state_dict, device)


def examples(state_dict: dict[str, torch.Tensor], device: torch.device) -> dict[str, object]:
    """The loss of each example; where `hold` stands in the folder, the third candidate never gets one."""
    _candidate()
    if (_FOLDER / "hold").exists() and _CALLS[0] == _ORIGINALS + 3:
        (_FOLDER / "hanging").write_text(str(os.getpid()))
        threading.Event().wait()
    return evaluator.examples(state_dict, device)
