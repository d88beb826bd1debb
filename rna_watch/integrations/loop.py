"""Two lines for a training loop without a library: one after the optimizer, one in the place of `torch.save`."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rna_watch.integrations.announcement import announce
from rna_watch.integrations.side_car import SideCar, SideCarFailed

if TYPE_CHECKING:
    from torch import nn, optim

    from rna_watch.training import GradientRecorder


class Loop:
    """Saves checkpoints whole or not at all, with the mean gradient of each interval, and announces them.

        loop = Loop("runs/a", network, optimizer)
        for epoch in range(90):
            ...
            loop.save({"model": network.state_dict(), "epoch": epoch}, f"runs/a/epoch_{epoch:03}.pt")

    Args:
        run_dir: the folder that is watched.
        network: what is trained; without it and the optimizer no gradients are recorded.
        optimizer: of its parameters.
        settings: with any of them (`evaluator="eval.py:evaluate"`), `rna-watch start` is called with these; it ends after
            this process, everything done.

    Raises:
        ValueError: gradients cannot be recorded, and why (`GradientRecorder`).
    """

    def __init__(
        self,
        run_dir: str | os.PathLike[str],
        network: nn.Module | None = None,
        optimizer: optim.Optimizer | None = None,
        **settings: object,
    ) -> None:
        self._run = Path(run_dir)
        self._gradients: GradientRecorder | None = None
        if network is not None and optimizer is not None:
            from rna_watch.training import GradientRecorder

            self._gradients = GradientRecorder(network, optimizer)
        self._side_car = begin(run_dir, settings)

    def save(self, content: Any, path: str | os.PathLike[str]) -> None:
        """Save what `torch.save` would, under a name that appears when it is whole.

        Args:
            content: the state dict, or what holds it.
            path: the checkpoint.

        Raises:
            OSError: it cannot be written.
        """
        import torch

        if self._gradients is not None:
            self._gradients.save(path)
        place = Path(path)
        temporary = place.with_name(f".{place.name}.{os.getpid()}.saving")
        try:
            torch.save(content, temporary)
            temporary.replace(place)
        finally:
            temporary.unlink(missing_ok=True)
        announce(self._run, place)

    def end(self) -> None:
        """The training has ended, though this process goes on: the side-car does what is left, and ends."""
        finish(self._side_car)
        self._side_car = None


def begin(run_dir: str | os.PathLike[str], settings: dict[str, object]) -> SideCar | None:
    """A side-car with these settings, if there are any and this is the first of several processes; a failure is a warning."""
    if not settings or os.environ.get("RANK", "0") != "0":
        return None
    side_car = SideCar(run_dir, **settings)
    try:
        side_car.start()
    except (SideCarFailed, OSError) as error:
        warnings.warn(f"rna-watch does not watch {run_dir}: {error}", stacklevel=3)
        return None
    return side_car


def finish(side_car: SideCar | None) -> None:
    """End a side-car; that it never began is a warning."""
    if side_car is not None:
        try:
            side_car.end()
        except SideCarFailed as error:
            warnings.warn(f"rna-watch did not watch {side_car.run}: {error}", stacklevel=3)
