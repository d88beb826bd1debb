"""Saved weights: those of a published model, taken for other checkpoints by a method that has none of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rna_watch.acceleration.candidate import Candidate, of_weights
from rna_watch.acceleration.family import in_one_sentence
from rna_watch.acceleration.methods import LAYERED, PRODUCT, RE_ESTIMATED
from rna_watch.errors import RefusedCheckpoint, UsageError
from rna_watch.publishing.made import TRAINING
from rna_watch.publishing.verification import Manifest, VerificationEnded, read_manifest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rna_watch.acceleration.residuals import Residuals
    from rna_watch.layout.layout import Layout


def read(method: str, path: Path | None) -> Manifest | None:
    """The manifest whose weights a method takes; None if it takes none, or may do without.

    Raises:
        UsageError: it is not given, of a model that has no such weights, or not needed.
    """
    if method not in {LAYERED, PRODUCT}:
        if path is not None:
            raise UsageError(f"--manifest is for --method {PRODUCT} and --method {LAYERED} only")
        return None
    if path is None:
        if method == PRODUCT:
            return None
        raise UsageError(
            f"--method {LAYERED} takes the rows of weights that the daemon fitted: name the manifest of such a model with "
            "--manifest MODEL.json"
        )
    try:
        saved = read_manifest(path)
    except VerificationEnded as end:
        raise UsageError(f"{path}: {'; '.join(end.problems)}") from end
    if method == LAYERED and not saved.layer_weights:
        raise UsageError(f"{path} has one row of weights for the whole model: it is not of a layered model")
    if method == PRODUCT and (saved.layer_weights or saved.kind == TRAINING):
        raise UsageError(f"{path} has not one row of weights for the whole model, which a product needs")
    return saved


def candidate(layouts: Sequence[Layout], residuals: Residuals, saved: Manifest, method: str) -> tuple[Candidate, str]:
    """The candidate with the weights of a manifest, and what a person should know of it.

    Args:
        layouts: the checkpoints, oldest first.
        residuals: theirs.
        saved: the manifest.
        method: `LAYERED`, or `PRODUCT`, of which this is the plain combination.

    Raises:
        RefusedCheckpoint: the checkpoints are not as many as it has weights for, or have other tensors.
    """
    if len(layouts) != len(saved.inputs):
        raise RefusedCheckpoint(f"the manifest has weights for {len(saved.inputs)} checkpoints, not for {len(layouts)}")
    known = {extent.name for extent in layouts[-1].extents}
    if unknown := [name for name, _ in saved.layer_weights if name not in known]:
        raise RefusedCheckpoint(f"the checkpoints have no {unknown[0]}, for which the manifest has weights")
    own = [each.fingerprint for each in layouts] == [each.fingerprint for each in saved.inputs]
    what = "rows of weights were" if method == LAYERED else "weights were"
    notes = [*residuals.notes] if own else [*residuals.notes, f"The {what} fitted to other checkpoints."]
    if saved.statistics == RE_ESTIMATED:
        notes.append("The normalization statistics that were re-estimated with them are combined here.")
    weights = [each.weight for each in saved.inputs]
    name = f"{LAYERED}-{len(residuals.gram_nn)}" if method == LAYERED else saved.candidate.removeprefix(f"{PRODUCT}-")
    return of_weights(residuals, name, method, weights, layer_weights=dict(saved.layer_weights)), in_one_sentence(notes)
