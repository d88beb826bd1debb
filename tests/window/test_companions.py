"""What stands next to a window's iterates: sources, places, and the blocks that are read of them."""

import numpy as np
import pytest
import torch

from rna_watch.acceleration.residuals import DIFFERENCE, GRADIENT, LEARNING_RATE, RECORDED, SGD
from rna_watch.layout.layout import OUTSIDE, Role
from rna_watch.window import tasks, tasks_plan
from rna_watch.window.companions import companions, training_state
from rna_watch.window.reader import WindowReader
from rna_watch.window.segments import NOWHERE, cut_blocks, window_segments
from tests.formats.test_optimizer_state import Run, decays, form_of, measure, plain, true_residuals, twice
from tests.formats.test_recorded_gradient import Recording, bare

PARAMETERS = frozenset({Role.PARAMETER})


@pytest.fixture
def run(tmp_path):
    """A run of SGD in two groups, from before its first step."""
    network = twice()
    optimizer = torch.optim.SGD(decays(network, names=True), lr=0.01, momentum=0.9)
    return Run(tmp_path, network, optimizer).go([2, 3, 2], before=0)


def test_forms_that_scale_differences_need_nothing(run):
    """Plain differences and steps over learning rates read the checkpoints alone."""
    assert companions(run.layouts, DIFFERENCE) is None
    assert companions(run.layouts, LEARNING_RATE) is None


def test_momentum_is_one_source_a_checkpoint(run):
    """K sources in the checkpoints' own files; before the first step they are nowhere; groups are the optimizer's."""
    beside = companions(run.layouts, GRADIENT)
    assert beside.files == tuple(layout.files for layout in run.layouts)
    for name, parts in beside.parts.items():
        assert len(parts) == 4
        assert {part.group for part in parts} == {1 if name.endswith("weight") else 0}
        assert [bool(part.chunks) for part in parts] == [False, True, True, True]


def test_gradients_are_one_source_an_interval(tmp_path):
    """N sources, in the files next to all checkpoints but the oldest; what is not recorded is in no group."""
    network = plain()
    run = Recording(
        tmp_path,
        network,
        torch.optim.Adam(network.parameters()),
        change=bare,
        record=lambda g: {name: each for name, each in g.items() if name != "2.bias"},
    ).go([2, 2])
    beside = companions(run.layouts, RECORDED)
    assert [files[0].path for files in beside.files] == [f"{layout.path}.gradient" for layout in run.layouts[1:]]
    assert beside.parts["2.bias"] == (OUTSIDE, OUTSIDE)
    assert all(len(parts) == 2 and parts[0].group == 0 for name, parts in beside.parts.items() if name != "2.bias")


def test_blocks_hold_the_iterates_and_what_stands_beside_them(run):
    """Every element's K weights are followed by its K buffers, in blocks of one group each; nowhere is zero."""
    beside = companions(run.layouts, GRADIENT)
    segments = window_segments(run.layouts, PARAMETERS, 2**20, beside)
    trees = [torch.load(layout.path, weights_only=True) for layout in run.layouts]
    names = [extent.name for extent in run.layouts[-1].extents]
    buffers = []
    for tree in trees:
        known = {}
        for group in tree["optimizer"]["param_groups"]:
            known |= dict(zip(group["param_names"], group["params"], strict=True))
        state = tree["optimizer"]["state"]
        buffers.append(
            {
                name: state[number]["momentum_buffer"] if number in state else torch.zeros_like(tree["model"][name])
                for name, number in known.items()
            }
        )
    seen = 0
    with WindowReader([layout.files for layout in run.layouts] + list(beside.files)) as reader:
        for block in reader.steps(segments, 25):
            assert block.values.shape[0] == 8
            assert len({segments[piece.segment].group for piece in block.pieces}) == 1
            for piece in block.pieces:
                name = names[segments[piece.segment].extent]
                part = slice(piece.start, piece.start + piece.count)
                expected = [tree["model"][name].reshape(-1)[part] for tree in trees]
                expected += [buffer[name].reshape(-1)[part] for buffer in buffers]
                found = block.values[:, piece.column : piece.column + piece.count]
                np.testing.assert_array_equal(found, torch.stack(expected).numpy())
                seen += piece.count
    assert seen == run.layouts[-1].parameters
    assert all(segment.places[4] == ((NOWHERE, 0, segment.count),) for segment in segments)
    assert all(len(segment.places) == 8 and segment.companions == 4 for segment in segments)


def test_a_block_never_mixes_groups_or_what_stands_beside(run):
    """Segments of two groups, or with and without momentum, are packed apart whatever the capacity."""
    beside = companions(run.layouts, GRADIENT)
    segments = window_segments(run.layouts, PARAMETERS, 10, beside)
    for pieces in cut_blocks(segments, 1000):
        assert len({(segments[p.segment].group, segments[p.segment].companion_dtype) for p in pieces}) == 1


def test_the_cut_into_tasks_and_blocks_changes_only_rounding(run, monkeypatch):
    """Tasks of ten elements and blocks of the smallest budget give the matrix of one task, in the gradient form too."""
    form, beside = form_of(run)
    whole = measure(run.layouts, form, beside)
    monkeypatch.setattr(tasks_plan, "TASK_ELEMENTS", 10)
    assert len(tasks_plan.gram_tasks(run.layouts, 3, 1.0, form, beside)) > 10
    parts = measure(run.layouts, form, beside)
    np.testing.assert_allclose(parts.form_rows, whole.form_rows, rtol=1e-12)
    np.testing.assert_allclose(parts.rows, whole.rows, rtol=1e-12)
    assert parts.form_energy == pytest.approx(whole.form_energy, rel=1e-12, abs=0.0)


def test_the_triangular_factor_is_of_the_same_residuals(run):
    """T'T is the Gram matrix in the gradient form, with intervals of unequal length scaled."""
    form, beside = form_of(run)
    (work,) = tasks_plan.factor_tasks(run.layouts, 1.0, form, beside)
    factor = tasks.run(work)
    stacked = np.hstack(list(true_residuals(run).values()))
    np.testing.assert_allclose(factor.T @ factor, stacked @ stacked.T, rtol=1e-11)


def test_work_counts_the_bytes_of_every_source(run):
    """A task that reads momentum reads twice as much as one that does not."""
    form, beside = form_of(run)
    alone = sum(task.work_bytes for task in tasks_plan.gram_tasks(run.layouts, 3, 1.0))
    assert sum(task.work_bytes for task in tasks_plan.gram_tasks(run.layouts, 3, 1.0, form, beside)) == 2 * alone


def test_what_a_checkpoint_tells_of_its_training(run, tmp_path):
    """Counter, optimizer with its groups, whether it has stepped, whether a gradient lies next to it."""
    first, last = (training_state(run.layouts[number], 7, "epoch") for number in (0, -1))
    assert (last.steps, last.step_kind, last.optimizer, last.problem) == (7, "epoch", SGD, "")
    assert [group.learning_rate for group in last.groups] == [0.02, 0.01]
    assert [group.weight_decay for group in last.groups] == [0, 0.1]
    assert (first.stepped, last.stepped) == (False, True)
    assert not last.recorded
    assert last.recording_problem == ""
