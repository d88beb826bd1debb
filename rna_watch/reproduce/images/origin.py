"""The digests of the data that an experiment's runs were made on, kept with the runs: runs on other data are refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rna_watch.errors import UsageError
from rna_watch.reproduce import store
from rna_watch.reproduce.images import feasible

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rna_watch.reproduce.experiment import Settings
    from rna_watch.reproduce.images.spec import RunSpec

FILE = "data.json"


def of_runs(runs: Sequence[RunSpec], settings: Settings) -> dict[str, str]:
    """Check that runs can be trained, on the same data as earlier ones; returns the digest of each dataset.

    No data are read if nothing is to be run; the kept digests are returned then.

    Args:
        runs: the runs; those of one dataset have one folder of data.
        settings: where the runs are kept, and whether any is to be run.

    Raises:
        UsageError: a run cannot be trained, or earlier runs in the folder were made on other data.
    """
    kept = _kept(settings)
    if settings.so_far:
        return kept
    found = feasible.check(runs, settings.say)
    for dataset, digest in found.items():
        if kept.get(dataset, digest) != digest:
            raise UsageError(
                f"{settings.work} holds runs on other {dataset} data than those in {runs[0].data}: remove it, or name another "
                "folder with --out"
            )
    return kept | found


def keep(digests: Mapping[str, str], settings: Settings) -> None:
    """Write down the data of the runs in the folder, before the first run.

    Raises:
        StoreError: the folder cannot be written.
    """
    if digests != _kept(settings):
        store.write(settings.work / FILE, json.dumps(dict(digests), indent=1) + "\n")


def _kept(settings: Settings) -> dict[str, str]:
    path = settings.work / FILE
    try:
        kept: Any = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}): remove {settings.work}, or name another --out") from error
    return dict(kept)
