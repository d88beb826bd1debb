"""A window that grows checkpoint by checkpoint: what is read, what is kept in the journal, what comes out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from rna_watch.acceleration.coefficients import solve, spectrum, spectrum_of_factor
from rna_watch.acceleration.residuals import DIFFERENCE, GRADIENT
from rna_watch.config import RunConfig
from rna_watch.daemon.measurement import NOT_FINITE, Measuring
from rna_watch.daemon.recorder import Recorder
from rna_watch.daemon.window import Window
from rna_watch.journal import events as e
from rna_watch.journal.replay import Stage
from rna_watch.window import tasks, tasks_plan
from tests.acceleration import twins
from tests.formats.test_optimizer_state import F64, Run, plain, true_residuals

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rna_watch.acceleration.residuals import Residuals
    from rna_watch.journal.replay import Checkpoint
    from rna_watch.layout.layout import Layout


class Daemon:
    """What of a daemon measuring needs: a journal, admitted checkpoints, windows of them, and a run of tasks."""

    def __init__(self, folder: Path, run: Run, **settings: Any) -> None:
        self.run = run
        self.config = RunConfig(**settings)
        self.journal = folder / "journal.jsonl"
        self.recorder = Recorder(self.journal)
        self.measuring = Measuring(self.config, self.recorder)
        self.work: list[tasks_plan.Task] = []

    def restart(self) -> None:
        """Start again from the journal alone."""
        self.recorder.close()
        self.recorder = Recorder(self.journal)
        self.measuring = Measuring(self.config, self.recorder)

    def admit(self) -> None:
        """Record the checkpoints that the run has written since."""
        for layout, step in zip(self.run.layouts, self.run.steps, strict=True):
            if self.recorder.checkpoint(f"step_{step}.pt") is None:
                self.recorder.record(_admitted(layout, step))

    def window(self, first: int = 0, last: int | None = None) -> Window:
        """A window of the run's checkpoints."""
        part = slice(first, last)
        found = [self.recorder.checkpoint(f"step_{step}.pt") for step in self.run.steps[part]]
        members = tuple(checkpoint for checkpoint in found if checkpoint is not None)
        return Window(members=members, layouts=tuple(self.run.layouts[part]), states=tuple(self.run.states[part]))

    def measure(self, first: int = 0, last: int | None = None) -> Residuals | None:
        """The residuals of a window; what was read is in `work`."""
        self.admit()
        self.work = []
        return self.measuring.residuals(self.window(first, last), self._map)

    def _map(self, work: Sequence[tasks_plan.Task]) -> list[tasks.Result]:
        self.work += work
        return [tasks.run(task) for task in work]

    def newest(self) -> Checkpoint:
        """The newest checkpoint, as the journal has it."""
        return self.recorder.checkpoints()[-1]

    def measured(self) -> e.Measured:
        """What the journal holds of the newest checkpoint."""
        found = self.newest().measured
        assert found is not None
        return found


def _admitted(layout: Layout, step: int) -> e.Admitted:
    file = layout.files[0]
    return e.Admitted(
        checkpoint=f"step_{step}.pt",
        path=f"step_{step}.pt",
        step=step,
        step_kind="step",
        format=layout.format,
        source=layout.source,
        size_bytes=file.size_bytes,
        parameters=layout.parameters,
        fingerprint=layout.fingerprint,
        inode=file.inode,
        mtime_ns=file.mtime_ns,
        pin="none",
        pin_path="",
    )


def sgd(folder: Path, dtype: torch.dtype = F64, **options: Any) -> Run:
    """A run of SGD with momentum, before its first step."""
    network = plain(dtype)
    return Run(folder, network, torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9), **options)


def true_gram(run: Run, first: int = 0) -> Any:
    """R'R of the true mean gradients, in the scale of the newest interval."""
    stacked = np.hstack(list(true_residuals(run).values()))[first:]
    return stacked @ stacked.T


def differences_gram(run: Run) -> Any:
    """R'R of the whole checkpoints' differences, in float64."""
    rows = []
    for layout in run.layouts:
        model = torch.load(layout.path, weights_only=True)["model"]
        rows.append(torch.cat([each.double().reshape(-1) for each in model.values()]).numpy())
    return twins.gram(rows)


@pytest.mark.parametrize("form", [GRADIENT, DIFFERENCE])
def test_a_window_grows_by_one_row_a_checkpoint(form: str, tmp_path: Path) -> None:
    """Each checkpoint adds one row to the journal, in the gradient form too, and the whole matrix is that of its twin."""
    run = sgd(tmp_path).go([])
    daemon = Daemon(tmp_path, run, residuals=form)
    assert daemon.measure() is not None
    assert daemon.newest().measured is None
    for count in range(1, 5):
        run.train(2)
        run.save()
        found = daemon.measure()
        measured = daemon.measured()
        assert len(measured.rows) == 1
        assert len(measured.rows[0]) == count
        assert {task.new for task in daemon.work if isinstance(task, tasks_plan.GramTask)} == {1}
        assert measured.read_bytes == sum(task.work_bytes for task in daemon.work)
        assert found is not None
        assert (found.form, found.notes) == (form, ())
        np.testing.assert_allclose(found.steps_nn, differences_gram(run), rtol=1e-12)
        if form == GRADIENT:
            assert (measured.form, len(measured.form_rows)) == ("gradient/auto/auto", 1)
            np.testing.assert_allclose(found.gram_nn, true_gram(run), rtol=1e-11)
        else:
            assert (measured.form, measured.form_rows) == ("", [])
            np.testing.assert_array_equal(found.gram_nn, found.steps_nn)


def test_a_window_that_slides_keeps_its_trailing_block(tmp_path: Path) -> None:
    """The matrix of a window without its oldest checkpoints is a block of the one before, with one new row."""
    run = sgd(tmp_path).go([2, 2, 2])
    daemon = Daemon(tmp_path, run)
    for last in (2, 3, 4):
        daemon.measure(0, last)
    run.train(2)
    run.save()
    found = daemon.measure(2)
    assert found is not None
    assert len(daemon.measured().form_rows) == 1
    assert daemon.measured().residuals == [["step_7.pt", "step_9.pt"], ["step_9.pt", "step_11.pt"]]
    np.testing.assert_allclose(found.gram_nn, true_gram(run, 2), rtol=1e-11)


def test_intervals_of_unequal_length_are_scaled_after_the_journal(tmp_path: Path) -> None:
    """The journal keeps sums, which hold whatever comes later; the residuals are in the newest interval's scale."""
    run = sgd(tmp_path).go([])
    daemon = Daemon(tmp_path, run)
    for length in (1, 3, 2):
        run.train(length)
        run.save()
        found = daemon.measure()
        assert found is not None
        np.testing.assert_allclose(found.gram_nn, true_gram(run), rtol=1e-11)


def test_a_restart_reads_nothing_again(tmp_path: Path) -> None:
    """The journal alone gives the same matrices to the last bit."""
    run = sgd(tmp_path).go([2, 2, 2])
    daemon = Daemon(tmp_path, run)
    for last in (2, 3, 4):
        before = daemon.measure(0, last)
    daemon.restart()
    after = daemon.measure()
    assert daemon.work == []
    assert before is not None
    assert after is not None
    assert after.form == GRADIENT
    assert after.gram_nn.tobytes() == before.gram_nn.tobytes()
    assert after.steps_nn.tobytes() == before.steps_nn.tobytes()
    assert after.rounding == before.rounding


def test_a_lost_journal_is_measured_whole(tmp_path: Path) -> None:
    """All rows are read at once if none is known, and are the same to rounding."""
    run = sgd(tmp_path).go([2, 2, 2])
    found = Daemon(tmp_path, run).measure()
    assert found is not None
    np.testing.assert_allclose(found.gram_nn, true_gram(run), rtol=1e-11)


def test_other_settings_after_a_restart_do_not_take_over_rows(tmp_path: Path) -> None:
    """Gradients that were measured under one reading of learning rates are not those of another."""
    run = sgd(tmp_path).go([2, 2])
    Daemon(tmp_path, run).measure()
    daemon = Daemon(tmp_path, run, lr_saved="after")
    found = daemon.measure()
    assert daemon.measured().form == "gradient/after/auto"
    assert len(daemon.measured().form_rows) == 2
    assert found is not None
    np.testing.assert_allclose(found.gram_nn, true_gram(run), rtol=1e-11)


def test_an_optimizer_that_vanishes_leaves_differences_whose_rows_are_known(tmp_path: Path) -> None:
    """The first checkpoint without it reads one row, and the window says why it has a lesser form; later, gradients return."""
    run = sgd(tmp_path).go([])
    daemon = Daemon(tmp_path, run)
    for step in range(5):
        run.change = lambda tree, bare=step == 2: {k: v for k, v in tree.items() if not (bare and k == "optimizer")}
        run.train(2)
        run.save()
        found = daemon.measure(max(0, step - 2))
        assert found is not None
        if step < 2:
            assert found.form == GRADIENT
        else:
            assert found.form == DIFFERENCE
            assert found.notes == ("residuals are not of the form 'gradient': the checkpoints hold no optimizer state",)
            expected = differences_gram(run)[max(0, step - 2) :, max(0, step - 2) :]
            np.testing.assert_allclose(found.gram_nn, expected, rtol=1e-12)
        assert len(daemon.measured().rows) == 1
    run.train(2)
    run.save()
    found = daemon.measure(4)
    assert found is not None
    assert found.form == GRADIENT
    np.testing.assert_allclose(found.gram_nn, true_gram(run, 4), rtol=1e-11)


def test_a_parameter_that_moves_outside_ends_the_form_for_the_run(tmp_path: Path) -> None:
    """The form is not tried again once it failed: later checkpoints read one row of differences, and all say why."""
    network = plain()
    network[0].weight.requires_grad_(False)
    trained = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    run = Run(tmp_path, network, torch.optim.SGD(trained, lr=0.01, momentum=0.9)).go([2])
    daemon = Daemon(tmp_path, run)
    before = daemon.measure()
    assert before is not None
    assert before.form == GRADIENT
    for _ in range(2):
        run.train(2)
        network[0].weight += 0.01
        run.save()
        found = daemon.measure()
        assert found is not None
        assert found.form == "learning-rate"
        assert "parameters moved that the optimizer" in found.notes[0]
        assert "'gradient'" in found.notes[0]
        assert (daemon.measured().form, daemon.measured().form_rows) == ("", [])
        np.testing.assert_allclose(found.gram_nn, differences_gram(run), rtol=1e-12)
    assert len(daemon.measured().rows) == 1
    assert all(not task.factors for task in daemon.work if isinstance(task, tasks_plan.GramTask))


def test_momentum_that_is_not_finite_leaves_the_journal_readable(tmp_path: Path) -> None:
    """NaN in the buffers ends the form; what is recorded holds numbers only, and a restart goes on from it."""
    run = sgd(tmp_path).go([2, 2])
    daemon = Daemon(tmp_path, run)
    daemon.measure()
    next(iter(run.optimizer.state.values()))["momentum_buffer"][0, 0] = math.nan
    run.step += 1
    run.save()
    found = daemon.measure()
    assert found is not None
    assert found.form == "learning-rate"
    assert "momentum, recorded gradient) holds NaN" in found.notes[0]
    assert "NaN" not in daemon.journal.read_text()
    daemon.restart()
    again = daemon.measure()
    assert again is not None
    np.testing.assert_allclose(again.gram_nn, found.gram_nn, rtol=1e-13)


def test_momentum_that_was_not_finite_once_ends_the_form_only_in_its_windows(tmp_path: Path) -> None:
    """Gradients are recovered again, without a restart, once no checkpoint with NaN in its buffers is in the window."""
    run = sgd(tmp_path).go([2, 2])
    daemon = Daemon(tmp_path, run)
    daemon.measure()
    buffer = next(iter(run.optimizer.state.values()))["momentum_buffer"]
    kept = buffer.clone()
    buffer[0, 0] = math.nan
    run.step += 1
    run.save()
    forms = []
    for first in (0, 1, 2, 4, 4):
        found = daemon.measure(first)
        assert found is not None
        forms.append((found.form, bool(found.notes)))
        buffer.copy_(kept)
        run.train(2)
        run.save()
    assert forms == [("learning-rate", True)] * 3 + [(GRADIENT, False)] * 2


def test_weights_that_are_not_finite_are_skipped(tmp_path: Path) -> None:
    """NaN weights skip their checkpoint, in a window or alone, before any form is doubted."""
    run = sgd(tmp_path).go([2])
    with torch.no_grad():
        run.network[0].bias[0] = math.nan
    run.step += 1
    run.save()
    daemon = Daemon(tmp_path, run)
    assert daemon.measure() is None
    assert (daemon.newest().stage, daemon.newest().reason) == (Stage.SKIPPED, NOT_FINITE)
    other = Daemon(tmp_path, run)
    assert other.measure(2) is None
    assert other.measure(0, 2) is not None


class Settled(torch.nn.Module):
    """Weights of a quadratic whose steps are nearly parallel: the residuals of a run that has almost converged."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.linspace(1.0, 2.0, 40, dtype=dtype))

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        """Rows of the loss, whatever the data."""
        curvature = torch.linspace(0.1, 0.1003, 40, dtype=self.w.dtype)
        return (curvature.sqrt() * self.w).expand(len(data), 40)


def settled(folder: Path, dtype: torch.dtype, momentum: float) -> Run:
    """Five checkpoints of it."""
    network = Settled(dtype)
    run = Run(folder, network, torch.optim.SGD(network.parameters(), lr=0.1, momentum=momentum))

    def train(steps: int) -> None:
        for _ in range(steps):
            run.optimizer.zero_grad()
            network(torch.zeros(1)).square().sum().backward()
            run._add()
            run.optimizer.step()
            run.step += 1

    run.train = train  # type: ignore[method-assign]
    return run.go([1, 1, 1])


def test_float64_windows_that_the_gram_matrix_loses_take_the_qr_route(tmp_path: Path) -> None:
    """Nearly parallel residuals: T'T is the Gram matrix, and the coefficients from T are right where those from it are not."""
    run = settled(tmp_path, F64, 0.0)
    found = Daemon(tmp_path, run, residuals=DIFFERENCE, regularizations=(0.0,)).measure()
    assert found is not None
    assert found.factor_nn is not None
    np.testing.assert_allclose(found.factor_nn.T @ found.factor_nn, found.gram_nn, rtol=1e-13)
    stored = [torch.load(layout.path, weights_only=True)["model"]["w"].numpy() for layout in run.layouts]
    exact = twins.exact_coefficients(np.diff(np.array(stored), axis=0))
    right = solve(spectrum_of_factor(found.factor_nn), 0.0)
    assert right.status == ""
    assert np.abs(right.coefficients - exact).max() < 1e-4 * np.abs(exact).max()
    lost = solve(spectrum(found.gram_nn), 0.0)
    assert lost.status or np.abs(lost.coefficients - exact).max() > 0.1 * np.abs(exact).max()


def test_the_qr_route_takes_the_gradient_form(tmp_path: Path) -> None:
    """The factor is that of the residuals that the window has, not of the differences."""
    run = settled(tmp_path, F64, 0.5)
    found = Daemon(tmp_path, run, regularizations=(0.0,)).measure()
    assert found is not None
    assert (found.form, found.factor_nn is not None) == (GRADIENT, True)
    assert found.factor_nn is not None
    np.testing.assert_allclose(found.factor_nn.T @ found.factor_nn, true_gram(run), rtol=1e-10)


@pytest.mark.parametrize(("dtype", "smallest"), [(torch.float32, 0.0), (F64, 1e-4)])
def test_windows_that_lose_nothing_do_not_take_it(dtype: torch.dtype, smallest: float, tmp_path: Path) -> None:
    """float32 holds no digits beyond the Gram matrix's, and a lambda of 1e-4 needs none."""
    run = settled(tmp_path, dtype, 0.0)
    daemon = Daemon(tmp_path, run, residuals=DIFFERENCE, regularizations=(smallest,))
    found = daemon.measure()
    assert found is not None
    assert found.factor_nn is None
    assert all(isinstance(task, tasks_plan.GramTask) for task in daemon.work)
