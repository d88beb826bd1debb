"""The user's evaluator file: its functions, loaded once, and errors that name the line of the file."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import os
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rna_watch.errors import EvaluationFailed, RnaWatchError
from rna_watch.evaluation.evaluator import FRACTION, NORMALIZATION, PLACEMENT, TRAINING_LOSS, split_function
from rna_watch.evaluation.load_failure import explained

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_KEYWORDS = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_ARGUMENTS = {
    NORMALIZATION: ("device",),
    TRAINING_LOSS: ("state_dict", "device", "generator"),
    PLACEMENT: ("name", "tensor"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class UsersFile:
    """A loaded file: its absolute path, the evaluating function, and the optional functions that it defines, by name."""

    path: str
    evaluate: Callable[..., object]
    optional: dict[str, Callable[..., Any]]

    @property
    def offers(self) -> frozenset[str]:
        """See `Evaluator.offers`."""
        return frozenset(self.optional) | ({FRACTION} if self._fraction() else set())

    def arguments(self, fraction: float | None) -> dict[str, float]:
        """The keyword arguments for the evaluating function: the part of the data to use, if it takes that.

        Raises:
            EvaluationFailed: a part is asked for, and the function takes no `fraction`.
        """
        parameter = self._fraction()
        if fraction is None:
            needed = parameter is not None and parameter.kind in _KEYWORDS and parameter.default is parameter.empty
            return {FRACTION: 1.0} if needed else {}
        if parameter is None:
            raise EvaluationFailed(
                f"{self.path}: the evaluator takes no argument 'fraction', so that it cannot evaluate on a part of the "
                "data; give it one, as in evaluate(state_dict, device, fraction=1.0)"
            )
        return {FRACTION: fraction}

    def _fraction(self) -> inspect.Parameter | None:
        """The parameter that takes `fraction`, if there is one."""
        try:
            parameters = inspect.signature(self.evaluate).parameters
        except (TypeError, ValueError):  # built-in functions have none to read
            return None
        named = parameters.get(FRACTION)
        if named is not None and named.kind in _KEYWORDS:
            return named
        return next((each for each in parameters.values() if each.kind is inspect.Parameter.VAR_KEYWORD), None)

    def function(self, name: str) -> Callable[..., Any]:
        """An optional function.

        Raises:
            EvaluationFailed: the file does not define that function.
        """
        if name not in self.optional:
            raise EvaluationFailed(f"{self.path} defines no function {name}({', '.join(_ARGUMENTS[name])})")
        return self.optional[name]


@contextlib.contextmanager
def blamed(path: str = "") -> Iterator[None]:
    """Turn every error but our own into EvaluationFailed, with the line of the user's file where it arose."""
    try:
        yield
    except RnaWatchError:
        raise
    except (Exception, SystemExit) as error:
        raise EvaluationFailed(_where(error, path)) from error


def load(function: str) -> UsersFile:
    """Load FILE.py:function.

    Raises:
        UsageError: the text has another form.
        EvaluationFailed: the file does not exist, cannot be imported, or has no such function.
    """
    file, name = split_function(function)
    path = Path(file).absolute()
    if not path.is_file():
        raise EvaluationFailed(f"the evaluator's file {path} does not exist")
    own = [str(path.parent), str(Path.cwd())]
    # first while the file is loaded, and behind the libraries afterwards: what they import later is not the user's
    libraries = [each for each in sys.path if each not in own]
    sys.path[:] = own + libraries + _named_by_environment(libraries)
    sys.argv[:] = [str(path)]
    spec = importlib.util.spec_from_file_location(f"rna_watch_evaluator_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise EvaluationFailed(f"{path} cannot be imported: {_where(error, str(path))}") from error
    finally:
        sys.path[:] = [each for each in sys.path if each not in own] + own
    evaluate = getattr(module, name, None)
    if not callable(evaluate):
        raise EvaluationFailed(f"{path} has no function '{name}'")
    optional = {}
    for offered, arguments in _ARGUMENTS.items():
        value = getattr(module, offered, None)
        if value is not None and _takes(value, len(arguments)):
            optional[offered] = value
    return UsersFile(path=str(path), evaluate=evaluate, optional=optional)


def _named_by_environment(known: list[str]) -> list[str]:
    """The folders of PYTHONPATH that are not known: a process on another machine began without them."""
    named = (str(Path(each).absolute()) for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each)
    return [each for each in dict.fromkeys(named) if each not in known]


def _takes(value: Callable[..., Any], count: int) -> bool:
    """Whether a value is a function of so many arguments: a file may use our names for something else."""
    if not inspect.isroutine(value):
        return False
    try:
        inspect.signature(value).bind(*range(count))
    except (TypeError, ValueError):
        return False
    return True


def _where(error: BaseException, file: str) -> str:
    """The error in words, the line of the user's file where it arose first, if it arose there."""
    own = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    what = str(error)
    if isinstance(error, SyntaxError) and error.filename == file:
        own, what = [error.lineno], error.msg
    place = f"{Path(file).name}:{own[-1]}: " if own else ""
    return f"{place}{explained(error) or f'{type(error).__name__}: {what}'}"
