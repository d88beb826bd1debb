"""Whether runs can be trained at all, checked before any training: their data exist, and their networks fit the images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from rna_watch.errors import UsageError
from rna_watch.reproduce.images import architectures, data

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rna_watch.reproduce.images.formats import Form
    from rna_watch.reproduce.images.spec import RunSpec


def check(runs: Iterable[RunSpec], say: Callable[[str], None]) -> dict[str, str]:
    """Check that runs can be trained; returns the digest of each of their datasets.

    Args:
        runs: the runs; all have the same folder of data.
        say: called with what is being read.

    Raises:
        UsageError: data are missing, damaged or too few, or a network does not fit its images.
    """
    forms: dict[tuple[str, int], Form] = {}
    fitting: set[tuple[str, Form, int]] = set()
    for run in runs:
        key = run.dataset, run.side if run.dataset == "folder" else 0
        if key not in forms:
            say(f"reading {run.dataset}")
            forms[key] = data.form_of(run)
        form = forms[key]
        run.check_held_out(form.count)
        case = run.network, form, _smallest_batch(run, form)
        if case not in fitting:
            _check_fit(run, form, case[-1])
            fitting.add(case)
    return {dataset: form.digest for (dataset, _), form in forms.items()}


def _smallest_batch(run: RunSpec, form: Form) -> int:
    """The size of the smallest batch that is trained on: 1, or 2 for every larger one."""
    trained = form.count - run.held_out
    trained = min(trained, run.train_images or trained)
    # the last incomplete batch of a folder is left out
    last = 0 if run.dataset == "folder" else trained % run.batch
    return min(last or run.batch, 2)


def _check_fit(run: RunSpec, form: Form, batch: int) -> None:
    """Run one forward pass in training mode on shapes alone: some networks halve small images to nothing."""
    try:
        with torch.device("meta"), torch.no_grad():
            network = architectures.build(run.network, form.channels, form.classes)
            network(torch.empty(batch, form.channels, form.height, form.width))
    except (RuntimeError, ValueError) as error:
        said = (str(error).splitlines() or [""])[0].rstrip(".")
        images = f"images of {form.channels} x {form.height} x {form.width}"
        raise UsageError(
            f"{run.network} cannot be trained on {run.dataset} ({images}, a batch of {batch}): {said}; take another network, "
            "or another batch (of a folder, another side)"
        ) from error
