"""The callback for Lightning, made without loading Lightning before it is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

    from rna_watch.integrations.lightning_callback import RnaWatch


def lightning_callback(
    run_dir: str | os.PathLike[str] | None = None, *, gradients: bool = True, **settings: object
) -> RnaWatch:
    """A callback for `lightning.pytorch.Trainer`.

    Args:
        run_dir: the folder that is watched; that of the trainer's `ModelCheckpoint`, if not given.
        gradients: record mean gradients, where one optimizer trains the module and its parameters are not sharded.
        settings: of a side-car to start (`evaluator="eval.py:evaluate"`); none starts none.

    Raises:
        ImportError: Lightning is not installed.
    """
    from rna_watch.integrations.lightning_callback import RnaWatch

    return RnaWatch(run_dir, gradients=gradients, **settings)
