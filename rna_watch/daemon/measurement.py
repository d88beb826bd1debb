"""From a window to its residuals: which form they have, what is known of them, what must be read."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from rna_watch.acceleration.coefficients import spectrum
from rna_watch.acceleration.gram import GramRows, merge, rounding_variance
from rna_watch.acceleration.qr_factor import stacked_factor
from rna_watch.acceleration.residuals import Residuals, scaled
from rna_watch.daemon import one_training
from rna_watch.daemon.window import assemble, known_products, missing_rows, window_form, without
from rna_watch.journal import events as e
from rna_watch.layout.layout import Role
from rna_watch.window import tasks_plan
from rna_watch.window.marks import marks_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from rna_watch.acceleration.residuals import Form
    from rna_watch.config import RunConfig
    from rna_watch.daemon.recorder import Recorder
    from rna_watch.daemon.window import Window
    from rna_watch.window.companions import Companions
    from rna_watch.window.tasks import Run

ASSUMED = (
    "that these checkpoints are of one training is assumed: they hold no step, no epoch and no other counter that would tell it "
    "from others with the same start"
)
NOT_FINITE = "it holds NaN or infinite weights: training diverged, or the file is damaged"
_SEVERAL = (
    "there are checkpoints of several trainings among those that follow each other; no window holds two trainings"
)
_APART = "give each training a folder of its own, or, if they are of one, set one_run (--one-run)"
_MOVED = "parameters moved that the optimizer in the checkpoints (or the recorded gradient) does not hold"
# a lambda below this, relative to the largest eigenvalue, needs digits that the Gram matrix has lost (measured at
# lambda = 1e-8: coefficients wrong by up to 5e-9)
_GRAM_DIGITS = 1e-6


class SeveralTrainingsError(ValueError):
    """Checkpoints of a window are of several trainings; `breaks` are the numbers of the pairs where another begins, and why."""

    def __init__(self, breaks: dict[int, str]) -> None:
        super().__init__("; ".join(breaks.values()))
        self.breaks = breaks


class NotFiniteError(ValueError):
    """Checkpoints of a window hold NaN or infinite weights; `numbers` are their indices in it."""

    def __init__(self, numbers: Collection[int]) -> None:
        super().__init__(NOT_FINITE)
        self.numbers = sorted(numbers)


def measure(
    window: Window,
    settings: RunConfig,
    run: Run,
    *,
    smallest: float,
    problem: str = "",
    record: Callable[[e.Measured, str], None] = lambda *_: None,
    warn: Callable[[str], None] | None = None,
) -> Residuals:
    """The residuals of a window, in the best form that holds; inner products that are known are not measured again.

    Args:
        window: K checkpoints, oldest first.
        settings: the settings `residuals`, `lr_saved`, `optimizer_order` and `one_run` count.
        run: an engine's `map`.
        smallest: the smallest lambda that will be solved for; it decides whether a triangular factor is needed.
        problem: why what lies next to the checkpoints (momentum, recorded gradients) cannot be used, if that is known.
        record: called with each measurement before the next begins, and with such a problem if it showed one.
        warn: called, where it is given, with each reason why pairs that are measured now are of two trainings.

    Raises:
        NotFiniteError: weights are NaN or infinite.
        SeveralTrainingsError: there is such a reason, and no `warn`; nothing was recorded.
    """
    layouts, states, budget_mib = window.layouts, window.states, tasks_plan.BUDGET_MIB
    if len(layouts) == 1:  # it has no residual, but its weights must be finite
        if _merged(run, tasks_plan.gram_tasks(layouts * 2, 1, budget_mib)).non_finite:
            raise NotFiniteError([0])
        return Residuals.of_differences(np.zeros((1, 1)))
    wanted, saved, order = settings.residuals, settings.lr_saved, settings.optimizer_order
    form, companions = window_form(layouts, states, wanted, saved, order, problem)
    key = f"{form.key}/{order}" if form.key else ""
    ignored = list(layouts[-1].ignored)
    known = [each for member in window.members if (each := member.measured) is not None and each.ignored == ignored]
    products, formed = known_products(known), known_products(known, key) if key else {}
    pairs = list(pairwise(window.keys))
    new = max(missing_rows(pairs, each) for each in ((products, formed) if key else (products,)))
    own = window.members[-1].measured
    if new or own is None or (own.form, own.ignored) != (key, ignored) or own.inputs[-1:] != window.keys[-1:]:
        own, problem = _read(window, max(new, 1), form, key, companions, budget_mib, run)
        products |= known_products([own])
        breaks = {} if settings.one_run else one_training.breaks(window, own, assemble(pairs, products))
        for number, reason in breaks.items():
            if warn is None:
                raise SeveralTrainingsError(breaks)
            warn(f"{window.names[number + 1]}: {reason}")
        record(own, problem)
        if problem:
            form, companions, key = without(states, wanted, saved, problem), None, ""
        elif key:
            formed |= known_products([own], key)
    steps_nn = assemble(pairs, products)
    found = Residuals(
        gram_nn=scaled(assemble(pairs, formed) if key else steps_nn, form.scales),
        steps_nn=steps_nn,
        rounding=rounding_variance(own.form_energy if key else own.rounding_energy) * form.scales[-1] ** 2,
        form=form.name,
        notes=form.notes,
    )
    parameters = [extent for extent in layouts[-1].extents if extent.role is Role.PARAMETER]
    eigen = spectrum(found.gram_nn)
    # only float64 checkpoints hold more digits than the Gram matrix keeps
    if eigen.status or any(extent.dtype != "float64" for extent in parameters):
        return found
    if float(eigen.values[0]) + smallest > _GRAM_DIGITS:
        return found
    parts = run(tasks_plan.factor_tasks(layouts, budget_mib, form, companions))
    return replace(found, factor_nn=stacked_factor(part for part in parts if isinstance(part, np.ndarray)))


def _merged(run: Run, tasks: list[tasks_plan.GramTask]) -> GramRows:
    return merge(part for part in run(tasks) if isinstance(part, GramRows))


def _read(
    window: Window, new: int, form: Form, key: str, companions: Companions | None, budget_mib: float, run: Run
) -> tuple[e.Measured, str]:
    """The newest rows, and why the form does not hold after all ("" if it does)."""
    begun = time.perf_counter()
    tasks = tasks_plan.gram_tasks(window.layouts, new, budget_mib, form if key else None, companions)
    total = _merged(run, tasks)
    seconds = time.perf_counter() - begun
    if total.non_finite:
        raise NotFiniteError(total.non_finite)
    problem = problem_with(total, form)
    formed = total.form_rows if key and not problem else None
    measured = e.Measured(
        checkpoint=window.names[-1],
        residuals=[list(pair) for pair in window.residuals],
        rows=total.rows.tolist(),
        rounding_energy=total.rounding_energy,
        read_bytes=sum(task.work_bytes for task in tasks),
        seconds=seconds,
        form=key if formed is not None else "",
        form_rows=formed.tolist() if formed is not None else [],
        form_energy=total.form_energy if formed is not None else 0.0,
        ignored=list(window.layouts[-1].ignored),
        inputs=window.keys,
        matrices=total.matrices.tolist() if total.matrices is not None else [],
    )
    return measured, problem


def problem_with(total: GramRows, form: Form) -> str:
    """Why a measured form does not hold after all ("" if it does)."""
    if not form.key or total.form_rows is None:
        return ""
    if total.outside > 0.0:
        return _MOVED
    if not np.isfinite(total.form_rows).all():
        return "what is stored next to the weights (momentum, recorded gradient) holds NaN or infinite values"
    return ""


class Measuring:
    """Measures the windows of a run and records the results; what failed in one window is not tried in the next."""

    def __init__(self, config: RunConfig, recorder: Recorder) -> None:
        self._config = config
        self._recorder = recorder
        self._ended = ""  # why what lies next to the checkpoints of this run cannot be used, once that is known
        self._damaged: dict[str, str] = {}  # why not in windows that hold these checkpoints
        self._assumed = config.one_run  # whether it was said that one training is assumed
        self.read_bytes_per_s = 0.0

    def residuals(self, window: Window, run: Run) -> Residuals | None:
        """The residuals of a window; None, with the reason recorded, if members hold NaN or are of several trainings."""
        problem = self._ended or next((self._damaged[name] for name in window.names if name in self._damaged), "")
        smallest = min(self._config.regularizations, default=1.0)
        try:
            found = measure(window, self._config, run, smallest=smallest, problem=problem, record=self._record)
            if not self._assumed and len(window.members) > 1 and not any(map(marks_of, window.layouts[-2:])):
                self._assumed = True
                self._recorder.record(e.Noted(text=ASSUMED))
            return found
        except NotFiniteError as error:
            for number in error.numbers:
                self._recorder.record(e.Skipped(checkpoint=window.names[number], reason=NOT_FINITE))
        except SeveralTrainingsError as error:
            for number, reason in error.breaks.items():
                older, newer = window.residuals[number]
                self._recorder.current(newer)  # it may have been written again meanwhile
                self._recorder.record(e.WindowStarted(checkpoint=newer, reason=reason, after=older))
            self._recorder.problem("several-trainings", _SEVERAL, _APART)
        return None

    def _record(self, measured: e.Measured, problem: str) -> None:
        if problem == _MOVED:
            self._ended = problem  # the run's optimizer is not the one that it seems to be
        elif problem:
            self._damaged[measured.checkpoint] = problem
        self.read_bytes_per_s = measured.read_bytes / max(measured.seconds, 1e-9)
        self._recorder.record(measured)
