"""What every engine must give: one contract for the local and the Ray engine."""

import threading
from dataclasses import replace

import pytest
import torch

from rna_watch.acceleration.residuals import GRADIENT
from rna_watch.errors import Cancelled, InputChanged
from rna_watch.layout.identity import identify
from rna_watch.publishing import products
from rna_watch.window import tasks_plan
from rna_watch.window.combine import Combination
from rna_watch.window.copies import of_bytes
from rna_watch.window.tasks_plan import CopyTask
from tests.formats.test_optimizer_state import Run, form_of

from . import windows


class EngineContract:
    """The contract; a subclass has a fixture `engine`."""

    def test_the_gram_matrix_has_the_same_bits(self, engine, layouts):
        """Rows, rounding energy and norms of matrices in parallel are those of the tasks one by one, to the last bit."""
        assert len(tasks_plan.gram_tasks(layouts, 3, windows.BUDGET_MIB)) > 10
        expected, found = windows.gram(layouts), windows.gram(layouts, engine.map)
        assert found.rows.tobytes() == expected.rows.tobytes()
        assert found.rounding_energy == expected.rounding_energy
        assert found.matrices.all()
        assert found.matrices.tobytes() == expected.matrices.tobytes()
        assert found.non_finite == frozenset()

    def test_residuals_of_another_form_have_the_same_bits(self, engine, small_tasks, tmp_path):
        """Gradients from momentum, their energy, and their triangular factors are what one process gives."""
        network = torch.nn.Sequential(torch.nn.Linear(6, 90), *(torch.nn.Linear(90, 90) for _ in range(3)))
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9)
        run = Run(tmp_path, network, optimizer).go([1, 2, 1])
        form, beside = form_of(run)
        assert form.name == GRADIENT
        work = tasks_plan.gram_tasks(run.layouts, 3, windows.BUDGET_MIB, form, beside)
        assert len(work) > 10
        expected, found = windows.serial(work), engine.map(work)
        for one, other in zip(expected, found, strict=True):
            assert other.form_rows.tobytes() == one.form_rows.tobytes()
            assert (other.form_energy, other.outside) == (one.form_energy, one.outside)
        factors = tasks_plan.factor_tasks(run.layouts, windows.BUDGET_MIB, form, beside)
        for one, other in zip(windows.serial(factors), engine.map(factors), strict=True):
            assert other.tobytes() == one.tobytes()

    def test_a_published_file_has_the_same_bytes(self, engine, layouts, tmp_path):
        """Written by many workers at once, a file is what one writes alone."""
        expected = windows.published(layouts, tmp_path / "serial.pt")
        assert windows.published(layouts, tmp_path / "parallel.pt", engine.map) == expected

    def test_products_of_factors_have_the_same_bytes(self, engine, tmp_path):
        """Pairs of factors (LoRA) that many workers combine are what one process makes of them."""
        layouts = windows.write_factors(tmp_path)

        def one_by_one(work):
            return engine.map([replace(task, pairs=(pair,)) for task in work for pair in task.pairs])

        recipe = Combination(layouts=layouts, weights=windows.WEIGHTS)
        expected = products.make(recipe, "", str(tmp_path / "serial"), windows.serial)
        found = products.make(recipe, "", str(tmp_path / "parallel"), one_by_one)
        assert found.account == expected.account
        assert (tmp_path / "parallel").read_bytes() == (tmp_path / "serial").read_bytes()

    def test_results_come_in_the_order_of_the_tasks(self, engine, layouts):
        """Whichever ends first, results stand where their tasks stood, and each task is reported done once."""
        work = tasks_plan.gram_tasks(layouts, 3, windows.BUDGET_MIB)
        done = []
        results = engine.map(work, done.append)
        assert [result.rows.tobytes() for result in results] == [each.rows.tobytes() for each in windows.serial(work)]
        assert sorted(map(id, done)) == sorted(map(id, work))

    def test_no_work_is_no_trouble(self, engine):
        """A map over nothing gives nothing."""
        assert engine.map([]) == []

    def test_a_task_s_error_arrives_as_its_own(self, engine, layouts, tmp_path):
        """What a task raises keeps its class and words, and the engine goes on afterwards."""
        work = tasks_plan.gram_tasks(layouts, 3, windows.BUDGET_MIB)
        (tmp_path / "epoch_1.pt").unlink()
        with pytest.raises(InputChanged, match=r"epoch_1\.pt cannot be opened any more"):
            engine.map(work)
        piece = of_bytes(0, 0, 10, 0)
        copy = CopyTask(files=layouts[0].files, copies=(piece,), outputs=(str(tmp_path / "none" / "clone"),))
        with pytest.raises(FileNotFoundError, match="none/clone"):
            engine.map([copy])
        assert engine.map([CopyTask(files=(), copies=(), outputs=())]) == [[]]

    def test_when_an_error_arrives_nothing_is_written_any_more(self, engine, tmp_path):
        """A task next to the one that failed has ended when its error comes out: nobody writes behind the caller's back."""
        size, source, output = 300 * 2**20, tmp_path / "source", tmp_path / "output"
        source.write_bytes(b"\1" * size)
        output.write_bytes(b"")
        files = (identify(str(source)),)
        piece = of_bytes(0, 0, size, 0)
        slow = CopyTask(files=files, copies=(piece,), outputs=(str(output),))
        failing = CopyTask(files=files, copies=(piece,), outputs=(str(tmp_path / "none" / "output"),))
        engine.map([CopyTask(files=(), copies=(), outputs=())] * 4)  # workers that are killed by a test before are back
        with pytest.raises(FileNotFoundError):
            engine.map([slow, failing])
        written = output.stat()
        assert engine.map([CopyTask(files=(), copies=(), outputs=())] * 8) == [[]] * 8
        assert (output.stat().st_size, output.stat().st_mtime_ns) == (written.st_size, written.st_mtime_ns)
        assert written.st_size in {0, size}

    def test_an_error_in_the_listener_ends_the_map(self, engine, layouts):
        """What `on_done` raises comes out, with no task left running behind it."""

        def on_done(_task):
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            engine.map(tasks_plan.gram_tasks(layouts, 3, windows.BUDGET_MIB), on_done)
        assert engine.map([CopyTask(files=(), copies=(), outputs=())]) == [[]]

    def test_its_processes_are_named(self, engine):
        """Every process of ours is alive and told by what it is for."""
        found = engine.processes()
        assert all(process.name and process.pids for process in found)
        with open(f"/proc/{found[0].pids[0]}/stat") as stat:
            assert stat.read()


def check_cancel(engine, layouts):
    """`cancel` from another thread makes a map give up before its end, for good."""
    work = tasks_plan.gram_tasks(layouts, 3, windows.BUDGET_MIB) * 50
    done = []

    def on_done(task):
        if not done:
            thread = threading.Thread(target=engine.cancel)
            thread.start()
            thread.join()
        done.append(task)

    with pytest.raises(Cancelled):
        engine.map(work, on_done)
    assert len(done) < len(work)
    with pytest.raises(Cancelled):
        engine.map(work[:1])
