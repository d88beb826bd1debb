"""The callback for the Hugging Face Trainer, made without loading transformers before it is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

    from rna_watch.integrations.hugging_face_callback import RnaWatch


def hugging_face_callback(
    run_dir: str | os.PathLike[str] | None = None, *, gradients: bool = True, **settings: object
) -> RnaWatch:
    """A callback for `transformers.Trainer`.

    Args:
        run_dir: the folder that is watched; the trainer's `output_dir`, if not given.
        gradients: record mean gradients beside each checkpoint, where its parameters are not sharded.
        settings: of a side-car to start (`evaluator="eval.py:evaluate"`); none starts none.

    Raises:
        ImportError: transformers is not installed.
    """
    from rna_watch.integrations.hugging_face_callback import RnaWatch

    return RnaWatch(run_dir, gradients=gradients, **settings)
