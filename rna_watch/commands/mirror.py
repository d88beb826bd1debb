"""What `rna-watch mirror` does, which the daemon starts, and where a run that is named by an address lies on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rna_watch.journal import remote_place
from rna_watch.remote import listing, mirror
from rna_watch.remote.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from rna_watch.config import RunConfig
    from rna_watch.journal.run_paths import RunPaths


def placed(run_dir: Path, config: RunConfig, url: str | None, say: Callable[[str], None]) -> tuple[Path, RunConfig]:
    """The folder that a run's checkpoints are fetched into, and its settings; as they are for a run on this machine.

    Args:
        run_dir: the run directory; of no meaning where an address was typed.
        config: the settings.
        url: the address that was typed in its place, if one was.
        say: shows a line.

    Raises:
        RnaWatchError: the store does not answer, or the folder is not ours.
    """
    if url is not None:
        output = Path(config.output).absolute() if config.output is not None else remote_place.output_of(url)
        run_dir = output / remote_place.MIRROR
        config = config.model_copy(update={"remote": url.rstrip("/"), "output": str(output)})
    if config.remote is None:
        return run_dir, config
    found = listing.checkpoints(Store(config.remote).objects(), config.patterns)
    mirror.claim(run_dir)
    if url is not None:
        remote_place.remember(url, run_dir.parent)
    say(
        f"remote   {config.remote}: {len(found)} checkpoint{'s' * (len(found) != 1)}; fetched into {run_dir}, the newest first"
    )
    return run_dir, config


def follow(paths: RunPaths, say: Callable[[str], None]) -> None:
    """Fetch checkpoints and put models until the daemon stops.

    Args:
        paths: the run's paths.
        say: shows a line; each is a sign of life.

    Raises:
        RnaWatchError: the store does not answer, or another process has the run.
    """
    mirror.follow(paths, say)
