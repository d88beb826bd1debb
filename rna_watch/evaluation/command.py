"""The user's evaluator as a shell command: it reads the model from a file and prints its metrics as JSON."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rna_watch.errors import EvaluationFailed
from rna_watch.evaluation.evaluator import FRACTION
from rna_watch.formats.registry import file_format
from rna_watch.layout import disk, owned
from rna_watch.publishing.write import publish
from rna_watch.window import tasks

if TYPE_CHECKING:
    from rna_watch.evaluation.evaluator import EvaluatorSpec
    from rna_watch.window.combine import Combination

_SHOWN_OUTPUT = 500
_FRACTION = "{fraction}"


def offers(command: str) -> frozenset[str]:
    """See `Evaluator.offers`."""
    return frozenset({FRACTION}) if _FRACTION in command else frozenset()


def evaluate(spec: EvaluatorSpec, combination: Combination, fraction: float | None) -> object:
    """The JSON object that the command prints for a model.

    Args:
        spec: the command, its time limit, and the folder for the model's file.
        combination: the model.
        fraction: the number that {fraction} stands for; None for 1.

    Raises:
        EvaluationFailed: the command failed, ran past its limit, printed no JSON object, or takes no fraction.
    """
    assert spec.command is not None
    if fraction is not None and _FRACTION not in spec.command:
        raise EvaluationFailed(
            "the command has no {fraction} in it, so that it cannot evaluate on a part of the data; give it one, as in "
            f"--evaluate-command '{spec.command} --fraction {{fraction}}'"
        )
    scratch = Path(spec.scratch)
    owned.make_folders(scratch)
    newest = combination.layouts[-1]
    ending = "" if newest.root else file_format(newest.format).endings[0]
    path = scratch / f"candidate-{os.getpid()}{ending}"
    try:
        publish(combination, str(path), tasks.run_all)
        # the path last: it may hold whatever a person calls a folder
        command = spec.command.replace(_FRACTION, f"{1.0 if fraction is None else fraction:g}")
        command = command.replace("{checkpoint}", shlex.quote(str(path)))
        return _last_json(_run(command, spec.timeout_s))
    finally:
        disk.remove(path)


# A shell command ($1, with the file $2 as standard input) whose process group ends with us, however we end: a guard in it
# waits on a pipe that we hold. It is started outside the command's own shell, whose `wait` would wait for it.
GUARDED = 'exec 3<&0 </dev/null; { read _ <&3; kill -9 0; } >/dev/null 2>&1 & exec 3<&- <"${2:-/dev/null}"; exec /bin/sh -c "$1"'


def _run(command: str, timeout_s: float) -> str:
    """The standard output of a shell command; it gets a process group of its own, so that all of it can be ended."""
    lifeline_read, lifeline = os.pipe()
    try:
        with subprocess.Popen(
            ["/bin/sh", "-c", GUARDED, "sh", command],
            stdin=lifeline_read,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            process_group=0,
        ) as process:
            try:
                output, errors = process.communicate(timeout=timeout_s)
            except BaseException:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                raise
    except subprocess.TimeoutExpired as error:
        raise EvaluationFailed(
            f"the command ran longer than {timeout_s:g} s and was ended; raise --evaluation-timeout"
        ) from error
    finally:
        os.close(lifeline_read)
        os.close(lifeline)
    if process.returncode != 0:
        said = (errors.strip() or output.strip())[-_SHOWN_OUTPUT:]
        raise EvaluationFailed(f"the command ended with status {process.returncode}: {said}")
    return output


def _last_json(output: str) -> Any:
    """The last JSON object of the output: on one line, or over several lines to the end."""
    lines = output.splitlines()
    for number in reversed(range(len(lines))):
        if lines[number].lstrip().startswith("{"):
            for text in (lines[number], "\n".join(lines[number:])):
                with contextlib.suppress(ValueError):
                    return json.loads(text)
    raise EvaluationFailed(f"the command printed no JSON object of metrics, but: {output.strip()[-_SHOWN_OUTPUT:]!r}")
