"""The evaluating side: loads the user's evaluator once, then evaluates one model after another.

The same worker lives in a child process (local.py) and in a Ray actor (engine/ray_engine.py).
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rna_watch.checkpoints import clone
from rna_watch.checkpoints.combine import write_combination
from rna_watch.errors import EvaluationFailed, RnaWatchError
from rna_watch.evaluation.evaluator import Evaluation, EvaluatorSpec, check_metrics, split_function

if TYPE_CHECKING:
    from collections.abc import Callable

    from rna_watch.checkpoints.combine import Combination

_SHOWN_OUTPUT = 500


class EvaluationWorker:
    """Evaluates models in this process, with the environment and working directory of the command that started us.

    Raises:
        EvaluationFailed: the evaluator's file cannot be loaded, or the device cannot be used.
    """

    def __init__(self, spec: EvaluatorSpec) -> None:
        self._spec = spec
        os.environ.update(spec.environment)
        os.chdir(spec.cwd)
        self._file = ""
        self._call: Callable[[Combination], object]
        if spec.function is not None:
            self._call = self._python(spec.function)
        else:
            self._call = self._command

    def evaluate(self, combination: Combination) -> Evaluation:
        """The metrics of a model.

        Raises:
            EvaluationFailed: the user's code raised or returned something unusable.
        """
        begun = time.perf_counter()
        try:
            metrics = check_metrics(self._call(combination))
        except RnaWatchError:
            raise
        except (Exception, SystemExit) as error:
            raise EvaluationFailed(_where(error, self._file)) from error
        return Evaluation(metrics=metrics, seconds=time.perf_counter() - begun)

    def _python(self, function: str) -> Callable[[Combination], object]:
        import torch

        from rna_watch.evaluation.materialize import state_dict

        torch.set_num_threads(self._spec.threads)
        self._file, evaluate = _load(function)
        try:
            device = torch.device(self._spec.device)
        except RuntimeError as error:
            raise EvaluationFailed(f"device '{self._spec.device}' is not one of torch's") from error

        def call(combination: Combination) -> object:
            with torch.no_grad():
                return evaluate(state_dict(combination, device), device)

        return call

    def _command(self, combination: Combination) -> object:
        assert self._spec.command is not None
        scratch = Path(self._spec.scratch)
        scratch.mkdir(parents=True, exist_ok=True)
        suffix = "".join(Path(combination.layouts[-1].path).suffixes[-2:])
        named = {"torch zip": ".pt", "safetensors": ".safetensors"}
        path = scratch / f"candidate-{os.getpid()}{named.get(combination.layouts[-1].format, suffix)}"
        try:
            _write(combination, path)
            command = self._spec.command.replace("{checkpoint}", shlex.quote(str(path)))
            return _last_json(_run(command, self._spec.timeout_s))
        finally:
            path.unlink(missing_ok=True)


def _load(function: str) -> tuple[str, Callable[..., object]]:
    """The absolute path of the user's file, and the function in it."""
    file, name = split_function(function)
    path = Path(file).absolute()
    if not path.is_file():
        raise EvaluationFailed(f"the evaluator's file {path} does not exist")
    sys.path[:0] = [str(path.parent), str(Path.cwd())]
    spec = importlib.util.spec_from_file_location(f"rna_watch_evaluator_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise EvaluationFailed(f"{path} cannot be imported: {_where(error, str(path))}") from error
    evaluate = getattr(module, name, None)
    if not callable(evaluate):
        raise EvaluationFailed(f"{path} has no function '{name}'")
    return str(path), evaluate


def _where(error: BaseException, file: str) -> str:
    """The error and the line of the user's file that it passed through, if it did."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    place = f" ({Path(file).name}, line {own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {error}{place}"


def _write(combination: Combination, path: Path) -> None:
    """Write a model as a file for a command to load."""
    combination = combination.without_zeros()
    segments = combination.segments()
    temporary = path.with_name(clone.temporary_name(path.name, str(os.getpid())))
    copy = clone.begin(combination.layouts[-1], segments, str(temporary))
    try:
        patches = write_combination(combination.files, segments, combination.weights, copy.temporaries)
        clone.copy_gaps(combination.layouts[-1].files, copy.gaps, copy.temporaries)
        clone.finish(copy, patches, str(path))
    finally:
        clone.discard(copy)


# The command's process group ends with us, however we end: a guard in it waits on a pipe that we hold. It is started
# outside the command's own shell, whose `wait` would wait for it.
_GUARDED = 'exec 3<&0 </dev/null; { read _ <&3; kill -9 0; } >/dev/null 2>&1 & exec 3<&-; exec /bin/sh -c "$1"'


def _run(command: str, timeout_s: float) -> str:
    """The standard output of a shell command, which gets a process group of its own so that all of it can be ended."""
    lifeline_read, lifeline = os.pipe()
    try:
        with subprocess.Popen(
            ["/bin/sh", "-c", _GUARDED, "sh", command],
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
    """The last object that was printed: on a line of its own, or over several lines to the end."""
    lines = output.splitlines()
    for number in reversed(range(len(lines))):
        if lines[number].lstrip().startswith("{"):
            for text in (lines[number], "\n".join(lines[number:])):
                with contextlib.suppress(ValueError):
                    return json.loads(text)
    raise EvaluationFailed(f"the command printed no JSON object of metrics, but: {output.strip()[-_SHOWN_OUTPUT:]!r}")
