"""The callback of the Hugging Face Trainer: it announces what was saved, and records the gradients of each interval."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from rna_watch.integrations.announcement import announce
from rna_watch.integrations.loop import begin, finish
from rna_watch.training import GradientRecorder
from rna_watch.training.recorder import SUFFIX

if TYPE_CHECKING:
    import os

    from transformers import TrainerControl, TrainerState, TrainingArguments

    from rna_watch.integrations.side_car import SideCar


class RnaWatch(TrainerCallback):
    """See `hugging_face_callback`."""

    def __init__(
        self, run_dir: str | os.PathLike[str] | None = None, *, gradients: bool = True, **settings: object
    ) -> None:
        self._given = run_dir
        self._records = gradients
        self._settings = settings
        self._side_car: SideCar | None = None
        self._recorder: GradientRecorder | None = None

    def _run(self, args: TrainingArguments) -> Path:
        return Path(self._given or args.output_dir or ".")

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Start what was asked for, and record gradients from here on."""
        if not state.is_world_process_zero:
            return
        self._side_car = begin(self._run(args), self._settings)
        optimizer, model = given.get("optimizer"), given.get("model")
        if self._records and optimizer is not None and model is not None:
            try:
                self._recorder = GradientRecorder(model, getattr(optimizer, "optimizer", optimizer))
            except ValueError as error:
                warnings.warn(f"rna-watch records no gradients: {error}", stacklevel=2)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save the mean gradient before the trainer saves its checkpoint, if it is about to."""
        if control.should_save and self._recorder is not None and self._recorder.mean.count:
            Path(args.output_dir or ".").mkdir(parents=True, exist_ok=True)
            self._recorder.save(_checkpoint(args, state))

    on_epoch_end = on_step_end

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Announce the checkpoint, and remove the gradients of those that the trainer's retention removed."""
        if not state.is_world_process_zero:
            return
        announce(self._run(args), _checkpoint(args, state))
        if self._recorder is not None:
            for path in Path(args.output_dir or ".").glob(f"{PREFIX_CHECKPOINT_DIR}-*{SUFFIX}"):
                if not path.with_name(path.name.removesuffix(SUFFIX)).exists():
                    path.unlink(missing_ok=True)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The side-car does what is left, and ends."""
        finish(self._side_car)
        self._side_car = self._recorder = None


def _checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(args.output_dir or ".") / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
