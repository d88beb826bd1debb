"""What `rna-watch init` does: write an evaluator and settings for a run's trainer into the current folder, and try them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from rna_watch.commands import training_script, trial
from rna_watch.commands.evaluator_text import FILL_IN, Files, config, evaluator
from rna_watch.config import load
from rna_watch.errors import EvaluationFailed, RnaWatchError, UsageError
from rna_watch.formats import trainer_record
from rna_watch.layout import disk

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rna_watch.commands.trial import Newest
    from rna_watch.config import RunConfig

EVALUATOR, SETTINGS = "rna_watch_evaluator.py", "rna_watch.yaml"
_STOP = re.compile(r"([^:/]+\.py):(\d+): (?:NotImplementedError|FileNotFoundError): (.*)", re.DOTALL)


def init(run_dir: Path, options: RunConfig, typed: Sequence[str], say: Callable[[str], None]) -> None:
    """Write the two files where they are not there yet, and evaluate the newest checkpoint once.

    Args:
        run_dir: the run directory, as typed.
        options: the settings `output`, `patterns`, `source`, `step` of the command line.
        typed: the command line.
        say: shows a line.

    Raises:
        UsageError: there is no such folder, several runs lie in it, or the current folder lies in it.
        NothingToDo: there is no checkpoint.
        RnaWatchError: the evaluator is not complete yet, or fails: where, and what to do.
    """
    newest = trial.newest(run_dir, options, typed)
    here = Path.cwd()
    for folder in (newest.run, newest.run / "rna", newest.run / ".rna-watch"):
        if here.resolve().is_relative_to(folder.resolve()):
            raise UsageError(
                f"the current folder lies in the run directory {newest.run}, where rna-watch writes models alone: change to the "
                "folder of your training script, and call it there"
            )
    for line in newest.lines:
        say(line)
    files = Files(run=_plain(str(run_dir)), evaluator=EVALUATOR, config=SETTINGS)
    contents = {EVALUATOR: "", SETTINGS: config(files)}
    if not Path(EVALUATOR).exists():
        contents[EVALUATOR] = _evaluator(newest, files, here, say)
    for name, content in contents.items():
        if Path(name).exists():
            say(f"there    {name}, which stays as it is")
        else:
            with (
                disk.writing(name, "another current folder"),
                disk.replacing(here / name, durable=False, new=True) as temporary,
            ):
                disk.write_new(temporary, content.encode())
            say(f"written  {name}")
    try_it(load(Path(SETTINGS), {}), newest, say, f"rna-watch init {files.run}")
    say(f"next     rna-watch start {files.run} --config {SETTINGS}   (or once; rna-watch doctor looks at the rest)")


def _plain(text: str) -> str:
    return "".join(each if each.isprintable() and each not in "\"'\\" else "?" for each in text)


def _evaluator(newest: Newest, files: Files, here: Path, say: Callable[[str], None]) -> str:
    layout = newest.layout
    record = trainer_record.of(layout)
    attributes = {name.partition(".")[0] for name in layout.plain_names.values()}
    found = training_script.scripts(here)
    lightning = record.trainer == trainer_record.LIGHTNING
    network = data = None
    if lightning or record.trainer == trainer_record.PLAIN:
        base = "LightningModule" if lightning else ""
        network = training_script.network(found, attributes, record.settings, base)
    if lightning and record.data is not None:
        data = training_script.data_module(found, record.data)
    named = f", {record.network}" if record.network else ""
    made = f"; the network is made as in {network.file.name}" if network and network.expression else ""
    say(f"trainer  {record.trainer}{named}{made}")
    hints = [hint for script in found for hint in script.hints()] if data is None else []
    return evaluator(files, record, newest.run, network=network, data=data, hints=hints)


def try_it(settings: RunConfig, newest: Newest, say: Callable[[str], None], again: str) -> None:
    """Evaluate the newest checkpoint, and say what came of it.

    Args:
        settings: they name an evaluator.
        newest: the checkpoint.
        say: shows a line.
        again: the command to repeat.

    Raises:
        RnaWatchError: the evaluator is not complete yet, or fails.
    """
    say(f"trying   {newest.name} on {settings.device}, by {settings.evaluator or settings.evaluate_command}")
    try:
        lines = trial.said(settings, trial.evaluate(settings, newest.layout))
    except EvaluationFailed as error:
        raise RnaWatchError(_stops(str(error), again)) from error
    for line in lines:
        say(line)


def _stops(reason: str, again: str) -> str:
    """A failure of the evaluator in words: a line that is to be filled in is named as such."""
    stop = _STOP.match(reason)
    if stop is None:
        return f"the evaluator fails: {reason}; correct it, then {again}"
    loaded = " (the model itself loads)" if stop[3].startswith(FILL_IN) else ""
    return f"{stop[1]}, line {stop[2]}: {stop[3]}{loaded}; then {again}"
