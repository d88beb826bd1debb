"""The evaluating side: loads the user's evaluator once, then evaluates one model after another.

The same worker lives in a child process (local.py) and in a Ray actor; client.py is the other side of both.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from rna_watch.errors import EvaluationFailed, InputChanged, RnaWatchError
from rna_watch.evaluation import command, users_file
from rna_watch.evaluation.evaluator import (
    NORMALIZATION,
    PLACEMENT,
    TRAINING_LOSS,
    Annealed,
    AnnealRequest,
    Evaluation,
    EvaluatorSpec,
    Fit,
    FitRequest,
)
from rna_watch.evaluation.metrics import check_metrics
from rna_watch.evaluation.shortage import SHORT, ShortOf
from rna_watch.layout import owned

if TYPE_CHECKING:
    import torch

    from rna_watch.evaluation.normalization import Normalization, TrainingPasses
    from rna_watch.layout.dtypes import Array
    from rna_watch.window.combine import Combination


class EvaluationWorker:
    """Evaluates models in this process, in the environment and working directory of the command that started us.

    Raises:
        EvaluationFailed: the evaluator's file cannot be loaded, or the device cannot be used.
    """

    def __init__(self, spec: EvaluatorSpec) -> None:
        self._spec = spec
        os.environ.update(spec.environment)
        os.chdir(spec.cwd)
        self._user: users_file.UsersFile | None = None
        self._normalization: Normalization | TrainingPasses | None = None
        if spec.function is not None:
            self._user = _load(spec.function, spec.threads)
            self._device = _device(spec.device)

    def pid(self) -> int:
        """The number of this process."""
        return os.getpid()

    def offers(self) -> frozenset[str]:
        """See `Evaluator.offers`."""
        if self._user is not None:
            return self._user.offers
        return command.offers(self._spec.command or "")

    def evaluate(
        self,
        combination: Combination,
        *,
        fraction: float | None = None,
        re_estimate: bool = False,
        scratch: str | None = None,
    ) -> Evaluation:
        """See `Evaluator.evaluate`; `scratch` is the folder for a command's files, if not the specification's.

        Raises:
            EvaluationFailed: the user's code raised, returned something unusable, or does not offer what is asked.
        """
        begun = time.perf_counter()
        statistics: dict[str, Array] = {}
        if self._user is not None:
            returned, statistics = self._call(self._user, combination, fraction, re_estimate)
        elif re_estimate:
            raise EvaluationFailed(
                "a command cannot re-estimate normalization statistics: that takes an evaluator FILE.py:function "
                "whose file defines normalization(device) or training_loss(state_dict, device, generator)"
            )
        else:
            spec = self._spec if scratch is None else replace(self._spec, scratch=scratch)
            returned = command.evaluate(spec, combination, fraction)
        with users_file.blamed(self._user.path if self._user is not None else ""):
            metrics, examples = check_metrics(returned)
        return Evaluation(
            metrics=metrics, seconds=time.perf_counter() - begun, examples=examples, statistics=statistics
        )

    def _call(
        self, user: users_file.UsersFile, combination: Combination, fraction: float | None, re_estimate: bool
    ) -> tuple[object, dict[str, Array]]:
        """The return value of the user's function, and the statistics that were re-estimated."""
        import torch

        from rna_watch.evaluation.materialize import placed

        arguments = user.arguments(fraction)
        placement = user.optional.get(PLACEMENT)
        with torch.no_grad():
            with users_file.blamed(user.path):
                normalization = self._normalized(user) if re_estimate else None  # first: the file may not offer it
            # statistics are re-estimated on the device, as the stored model; else the device need not hold it whole
            device = self._device if placement is None or re_estimate else torch.device("cpu")
            tensors = self._materialized(combination, device)
            with users_file.blamed(user.path):
                statistics = normalization.re_estimate(tensors, combination.layouts[-1]) if normalization else {}
                tensors = placed(tensors, placement) if placement else tensors
                return user.evaluate(tensors, self._device, **arguments), statistics

    def _materialized(self, combination: Combination, device: torch.device) -> dict[str, torch.Tensor]:
        """The model on a device; torch's own trouble is told as such, and trouble of reading is ours."""
        from rna_watch.evaluation.materialize import state_dict

        try:
            return state_dict(combination, device)
        except (RnaWatchError, OSError, MemoryError):
            raise
        except Exception as error:  # torch's: the device is gone or full
            raise EvaluationFailed(f"the model cannot be put on {device} ({error})") from error

    def _normalized(self, user: users_file.UsersFile) -> Normalization | TrainingPasses:
        from rna_watch.evaluation.normalization import Normalization, TrainingPasses

        if self._normalization is None:
            by_loss = NORMALIZATION not in user.offers and TRAINING_LOSS in user.offers
            self._normalization = (TrainingPasses if by_loss else Normalization)(user, self._device)
        return self._normalization

    def fit(self, request: FitRequest) -> Fit:
        """See `Evaluator.fit`.

        Raises:
            EvaluationFailed: the user's code raised, returned no loss to descend on, or offers none; or the window does
                not fit into memory.
        """
        if self._user is None:
            raise EvaluationFailed(
                "a command cannot train weights: that takes an evaluator FILE.py:function whose file defines "
                "training_loss(state_dict, device, generator)"
            )
        from rna_watch.evaluation.fitting import fit

        with users_file.blamed(self._user.path):
            return fit(request, self._user.function(TRAINING_LOSS), self._device)

    def anneal(self, request: AnnealRequest) -> Annealed:
        """See `Evaluator.anneal`.

        Raises:
            EvaluationFailed: the user's code raised, returned no loss to descend on, or offers none; or it does not fit into
                memory, or would take too long.
            OSError: the file cannot be written.
        """
        if self._user is None:
            raise EvaluationFailed(
                "a command cannot train: that takes an evaluator FILE.py:function whose file defines "
                "training_loss(state_dict, device, generator)"
            )
        from rna_watch.evaluation.annealing import anneal

        with users_file.blamed(self._user.path):
            owned.make_folders(os.path.dirname(request.path))  # noqa: PTH120 - a string crosses process boundaries
            return anneal(request, self._user.function(TRAINING_LOSS), self._device, self._normalized(self._user))


class AnsweringWorker:
    """Hosts an `EvaluationWorker` for another process; its errors are answers, so that they arrive as they are."""

    def __init__(self, spec: EvaluatorSpec) -> None:
        self._spec = spec
        self._worker: EvaluationWorker | None = None
        self._pid = os.getpid()

    def ask(self, method: str, *arguments: object, **options: object) -> object:
        """What a method of the worker returns or raises; the first call loads the user's code."""
        answer: object
        try:
            if self._worker is None:
                self._worker = EvaluationWorker(self._spec)
            answer = getattr(self._worker, method)(*arguments, **options)
        except RnaWatchError as error:
            answer = error
            cause = error if isinstance(error, OSError) else error.__cause__
            if isinstance(error, InputChanged) and isinstance(cause, OSError) and cause.errno in SHORT:
                answer = ShortOf(f"this machine is short of what a process needs ({cause.strerror})")
        except OSError as error:  # the user's own are EvaluationFailed
            answer = ShortOf(f"a model cannot be given to the evaluator ({error.strerror or error})")
        except MemoryError:
            answer = ShortOf("a model cannot be given to the evaluator (not enough memory)")
        if os.getpid() != self._pid:
            os._exit(0)  # the user's function forked and returned twice: one answer is enough
        return answer


def _load(function: str, threads: int) -> users_file.UsersFile:
    import torch

    torch.set_num_threads(threads)
    return users_file.load(function)


def _device(name: str) -> torch.device:
    import torch

    try:
        return torch.device(name)
    except RuntimeError as error:
        raise EvaluationFailed(f"device '{name}' is not one of torch's") from error
