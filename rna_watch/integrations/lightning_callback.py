"""The callback of Lightning: it announces what the trainer saved, and records the gradients of each interval before that."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from rna_watch.integrations.announcement import announce
from rna_watch.integrations.loop import begin, finish
from rna_watch.training import GradientRecorder

if TYPE_CHECKING:
    import os

    from lightning.pytorch import LightningModule, Trainer

    from rna_watch.integrations.side_car import SideCar


class RnaWatch(Callback):
    """See `lightning_callback`."""

    def __init__(
        self, run_dir: str | os.PathLike[str] | None = None, *, gradients: bool = True, **settings: object
    ) -> None:
        self._given = run_dir
        self._run: Path | None = None
        self._records = gradients
        self._settings = settings
        self._side_car: SideCar | None = None
        self._recorder: GradientRecorder | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the folder, start what was asked for, record gradients from here on, and take part in every save."""
        if not trainer.is_global_zero:
            return
        callback = trainer.checkpoint_callback  # it has found its folder by now
        folder = self._given or (callback.dirpath if isinstance(callback, ModelCheckpoint) else None)
        if folder is not None:
            self._run = Path(folder)
            self._side_car = begin(self._run, self._settings)
        if self._records:
            self._recorder = _recorder(trainer, pl_module)
        save = trainer.save_checkpoint

        def saving(filepath: Any, *arguments: Any, **options: Any) -> None:
            if self._recorder is not None and self._recorder.mean.count:
                Path(filepath).parent.mkdir(parents=True, exist_ok=True)
                self._recorder.save(filepath)
            save(filepath, *arguments, **options)
            if self._run is not None:
                announce(self._run, filepath)

        trainer.save_checkpoint = saving  # type: ignore[method-assign]

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The side-car does what is left, and ends."""
        vars(trainer).pop("save_checkpoint", None)
        finish(self._side_car)
        self._side_car = self._recorder = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The training ended early: the same."""
        self.on_fit_end(trainer, pl_module)


def _recorder(trainer: Trainer, module: LightningModule) -> GradientRecorder | None:
    """Records the gradients of a module; None where that cannot be done, which is a warning."""
    if len(trainer.optimizers) != 1:
        return None
    optimizer = trainer.optimizers[0]
    try:
        assert isinstance(optimizer, torch.optim.Optimizer)
        return GradientRecorder(module, optimizer)
    except ValueError as error:
        warnings.warn(f"rna-watch records no gradients: {error}", stacklevel=2)
        return None
