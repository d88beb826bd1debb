"""From a window to its residuals: which form they have, what is known of them, what must be read."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from rna_watch.acceleration.coefficients import spectrum
from rna_watch.acceleration.gram import GramRows, merge, rounding_variance
from rna_watch.acceleration.qr_factor import stacked_factor
from rna_watch.acceleration.residuals import Form, Residuals, scaled
from rna_watch.daemon.window import assemble, known_products, missing_rows, window_form, without
from rna_watch.journal import events as e
from rna_watch.layout.layout import Role
from rna_watch.window import tasks_plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from rna_watch.config import RunConfig
    from rna_watch.daemon.recorder import Recorder
    from rna_watch.daemon.window import Window
    from rna_watch.journal.replay import Checkpoint
    from rna_watch.layout.layout import Layout
    from rna_watch.window.companions import Companions
    from rna_watch.window.tasks import Run

    Float64 = npt.NDArray[np.float64]

NOT_FINITE = "it holds NaN or infinite weights: training diverged, or the file is damaged"
# below this, relative to the largest eigenvalue, the Gram matrix has lost digits of what the system is solved for (measured
# at lambda = 1e-8: coefficients wrong by up to 5e-9)
_GRAM_DIGITS = 1e-6


class Measuring:
    """Measures windows, each product of residuals once; what it reads goes through an engine's `map`."""

    def __init__(self, config: RunConfig, recorder: Recorder) -> None:
        self._config = config
        self._recorder = recorder
        self._ended = ""  # why what lies beside the checkpoints of this run cannot be used, once that is known
        self._damaged: dict[str, str] = {}  # why not in windows that hold these
        self.read_bytes_per_s = 0.0

    def residuals(self, checkpoint: Checkpoint, window: Window, run: Run) -> Residuals | None:
        """The residuals of a window; None if a member turned out to hold NaN or infinities (it is skipped then)."""
        if len(window.members) == 1:
            return self._alone(window, run)
        form, beside = self._form(window)
        rows, form_rows = self._rows(checkpoint, window, form, beside, run)
        if rows is None:
            return None
        if form.key and form_rows is None:
            why = self._unusable(window)
            form, beside = without(window.states, self._config.residuals, self._config.lr_saved, why), None
        energy = (rows if form_rows is None else form_rows)[1]
        found = _residuals(rows[0], form_rows[0] if form_rows else None, energy, form)
        smallest = min(self._config.regularizations, default=1.0)
        return with_factor(found, window.layouts, form, beside, smallest, tasks_plan.BUDGET_MIB, run)

    def _form(self, window: Window) -> tuple[Form, Companions | None]:
        settings = self._config
        why = self._unusable(window)
        if why:
            return without(window.states, settings.residuals, settings.lr_saved, why), None
        return window_form(
            window.layouts, window.states, settings.residuals, settings.lr_saved, settings.optimizer_order
        )

    def _unusable(self, window: Window) -> str:
        """Why what lies beside a window's checkpoints cannot be used ("" as far as is known)."""
        return self._ended or next((self._damaged[name] for name in window.names if name in self._damaged), "")

    def _key(self, form: Form) -> str:
        """What tells measurements of different forms apart ("" for plain differences)."""
        return f"{form.key}/{self._config.optimizer_order}" if form.key else ""

    def _alone(self, window: Window, run: Run) -> Residuals | None:
        """The first of a window has no residual, but its weights must be finite all the same."""
        parts = run(tasks_plan.gram_tasks(window.layouts * 2, 1, tasks_plan.BUDGET_MIB))
        if merge(part for part in parts if isinstance(part, GramRows)).non_finite:
            self._recorder.record(e.Skipped(checkpoint=window.names[0], reason=NOT_FINITE))
            return None
        return Residuals.of_differences(np.zeros((1, 1)))

    def _rows(
        self, checkpoint: Checkpoint, window: Window, form: Form, beside: Companions | None, run: Run
    ) -> tuple[tuple[Float64, float] | None, tuple[Float64, float] | None]:
        """Gram matrix and rounding energy, of the differences and of the form where it is another."""
        measured = [member.measured for member in window.members if member.measured is not None]
        products, formed = known_products(measured), known_products(measured, self._key(form)) if form.key else {}
        new = missing_rows(window.residuals, products)
        if form.key:
            new = max(new, missing_rows(window.residuals, formed))
        own = checkpoint.measured
        if new or own is None or own.form != self._key(form):
            own = self._measure(checkpoint, window, max(new, 1), form, beside, run)
            if own is None:
                return None, None
            products |= known_products([own])
            formed |= known_products([own], self._key(form)) if form.key else {}
        differences = assemble(window.residuals, products), own.rounding_energy
        if not own.form:
            return differences, None
        return differences, (assemble(window.residuals, formed), own.form_energy)

    def _measure(
        self, checkpoint: Checkpoint, window: Window, new: int, form: Form, beside: Companions | None, run: Run
    ) -> e.Measured | None:
        begun = time.perf_counter()
        tasks = tasks_plan.gram_tasks(window.layouts, new, tasks_plan.BUDGET_MIB, form if form.key else None, beside)
        parts = run(tasks)
        total = merge(part for part in parts if isinstance(part, GramRows))
        seconds = time.perf_counter() - begun
        if total.non_finite:
            for number in sorted(total.non_finite):
                self._recorder.record(e.Skipped(checkpoint=window.names[number], reason=NOT_FINITE))
            return None
        problem = problem_with(total, form)
        if problem and total.outside > 0.0:
            self._ended = problem  # the optimizer of the run is another than it seems
        elif problem:
            self._damaged[checkpoint.name] = problem
        read_bytes = sum(task.work_bytes for task in tasks)
        self.read_bytes_per_s = read_bytes / max(seconds, 1e-9)
        formed = total.form_rows if form.key and not problem else None
        measured = e.Measured(
            checkpoint=checkpoint.name,
            residuals=[list(pair) for pair in window.residuals],
            rows=total.rows.tolist(),
            rounding_energy=total.rounding_energy,
            read_bytes=read_bytes,
            seconds=seconds,
            form=self._key(form) if formed is not None else "",
            form_rows=formed.tolist() if formed is not None else [],
            form_energy=total.form_energy if formed is not None else 0.0,
        )
        self._recorder.record(measured)
        return measured


def problem_with(total: GramRows, form: Form) -> str:
    """Why a measured form cannot stand after all ("" if it can)."""
    if not form.key or total.form_rows is None:
        return ""
    if total.outside > 0.0:
        return "parameters moved that the optimizer in the checkpoints (or the recorded gradient) does not hold"
    if not np.isfinite(total.form_rows).all():
        return "what lies beside the weights (momentum, recorded gradient) holds NaN or infinite values"
    return ""


def residuals_of(total: GramRows, form: Form) -> Residuals:
    """The residuals of a window that was measured whole."""
    formed = total.form_rows if form.key else None
    energy = total.rounding_energy if formed is None else total.form_energy
    return _residuals(total.rows, formed, energy, form)


def _residuals(rows_nn: Float64, form_nn: Float64 | None, energy: float, form: Form) -> Residuals:
    gram_nn = scaled(rows_nn if form_nn is None else form_nn, form.scales)
    return Residuals(
        gram_nn=gram_nn,
        steps_nn=rows_nn,
        rounding=rounding_variance(energy) * form.scales[-1] ** 2,
        form=form.name,
        notes=form.notes,
    )


def with_factor(
    residuals: Residuals,
    layouts: Sequence[Layout],
    form: Form,
    beside: Companions | None,
    smallest: float,
    budget_mib: float,
    run: Run,
) -> Residuals:
    """The same residuals with their triangular factor, where the Gram matrix would lose what the smallest lambda needs.

    Only float64 checkpoints hold more digits than the Gram matrix keeps.
    """
    parameters = [extent for extent in layouts[-1].extents if extent.role is Role.PARAMETER]
    eigen = spectrum(residuals.gram_nn)
    if eigen.status or any(extent.dtype != "float64" for extent in parameters):
        return residuals
    if float(eigen.values[0]) + smallest > _GRAM_DIGITS:
        return residuals
    parts = run(tasks_plan.factor_tasks(layouts, budget_mib, form, beside))
    factor = stacked_factor(part for part in parts if isinstance(part, np.ndarray))
    return Residuals(
        gram_nn=residuals.gram_nn,
        steps_nn=residuals.steps_nn,
        rounding=residuals.rounding,
        form=residuals.form,
        factor_nn=factor,
        notes=residuals.notes,
    )
