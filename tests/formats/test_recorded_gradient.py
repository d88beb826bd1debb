"""Mean gradients that a training run saved next to its checkpoints."""

import os

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rna_watch.acceleration.gram import rounding_variance
from rna_watch.acceleration.residuals import DIFFERENCE, GRADIENT, LEARNING_RATE, RECORDED
from rna_watch.config import RunConfig
from rna_watch.daemon import measurement
from rna_watch.daemon.measurement import problem_with
from rna_watch.daemon.window import Window, without
from rna_watch.errors import InputChanged
from rna_watch.formats.probe import probe
from rna_watch.window import tasks, tasks_plan
from rna_watch.window.companions import training_state
from tests.formats.test_optimizer_state import F64, Run, Tied, form_of, measure, plain, read_residuals, twice

ADAM, SGD = torch.optim.Adam, torch.optim.SGD


class Recording(Run):
    """A run that writes its mean gradient before each checkpoint; `record` changes what is written."""

    def __init__(self, *arguments, record=lambda gradient: gradient, **options):
        super().__init__(*arguments, **options)
        self.record = record
        for group in self.optimizer.param_groups:
            group.setdefault("maximize", False)

    def save(self, order="auto"):
        """The gradient first, then its checkpoint."""
        gradient = {name: each.clone() for name, each in self.mean().items()}
        save_file(self.record(gradient), self.folder / f"step_{self.step}.pt.gradient")
        super().save(order)


def bare(tree):
    """A checkpoint of weights alone."""
    return tree["model"]


def adam(folder, network=None, **options):
    """A short run of Adam, whose gradients no checkpoint tells."""
    network = network or plain()
    return Recording(folder, network, ADAM(network.parameters(), lr=0.01), **options).go([2, 3, 1])


def check(run, tolerance=1e-14, notes=0):
    """The residuals are the recorded gradients, which are the true ones, and so is their matrix."""
    form, beside = form_of(run)
    assert form.name == RECORDED, form.notes
    assert len(form.notes) == notes
    found = read_residuals(run, form, beside)
    true = {name: np.stack([mean[name].reshape(-1).numpy() for mean in run.truth]) for name in run.truth[0]}
    for name, expected in true.items():
        assert np.abs(found[name] - expected).max() <= tolerance * np.abs(expected).max(), name
    total = measure(run.layouts, form, beside)
    assert problem_with(total, form) == ""
    stacked = np.hstack(list(true.values()))
    np.testing.assert_allclose(total.form_rows, stacked @ stacked.T, rtol=max(10 * tolerance, 1e-12))


@pytest.mark.parametrize("change", [lambda tree: tree, bare])
def test_recorded_gradients_are_the_residuals_where_the_optimizer_tells_none(change, tmp_path):
    """Next to Adam's checkpoints, or bare weights, the recorded means are read as they are."""
    check(adam(tmp_path, change=change), notes=1 if change is not bare else 0)


def test_sgd_s_own_state_goes_before_a_recording(tmp_path):
    """The exact identity is used if both are there, and the recording once it does not hold; both are the same."""
    network = plain()
    run = Recording(tmp_path, network, SGD(network.parameters(), lr=0.01, momentum=0.9)).go([2, 2, 2])
    form, beside = form_of(run)
    assert form.name == GRADIENT
    exact = measure(run.layouts, form, beside).form_rows / 4
    form, beside = form_of(run, wanted=RECORDED)
    assert (form.name, form.notes) == (RECORDED, ())
    np.testing.assert_allclose(measure(run.layouts, form, beside).form_rows, exact, rtol=1e-9)


def prefixed(tensors):
    """The names that a wrapped and compiled network gives."""
    return {f"module._orig_mod.{name}": each for name, each in tensors.items()}


def test_names_of_wrappers_in_the_recording_do_not_matter(tmp_path):
    """`module.` (DDP) and `_orig_mod.` (compile) before the names of gradients are taken off."""
    check(adam(tmp_path, record=prefixed), notes=1)


def test_names_of_wrappers_in_the_checkpoint_do_not_matter(tmp_path):
    """The same prefixes before the names of weights are taken off."""
    run = adam(tmp_path, change=lambda tree: tree | {"model": prefixed(tree["model"])})
    form, beside = form_of(run)
    found = read_residuals(run, form, beside)
    for name, mean in run.truth[-1].items():
        np.testing.assert_array_equal(found[name][-1], mean.reshape(-1).numpy())


def test_missing_parameters_must_be_still(tmp_path):
    """A recording may leave out what was not trained; it does not hold if it leaves out what moved."""

    def less(gradient):
        return {name: each for name, each in gradient.items() if name != "0.bias"}

    for number, frozen in enumerate((True, False)):
        folder = tmp_path / str(number)
        folder.mkdir()
        network = plain()
        network[0].bias.requires_grad_(not frozen)
        run = adam(folder, network, record=less)
        form, beside = form_of(run)
        total = measure(run.layouts, form, beside)
        assert form.name == RECORDED
        assert (problem_with(total, form) == "") is frozen
        assert np.isfinite(total.form_rows).all()
        assert not read_residuals(run, form, beside)["0.bias"].any()


def test_a_tied_weight_may_be_recorded_under_any_of_its_names(tmp_path):
    """A recording that names the second of two names of a weight is the weight's all the same."""

    def renamed(gradient):
        gradient["second.weight"] = gradient.pop("first.weight")
        return gradient

    torch.manual_seed(0)
    run = adam(tmp_path, Tied().to(F64), record=renamed)
    form, beside = form_of(run)
    assert form.name == RECORDED
    total = measure(run.layouts, form, beside)
    assert problem_with(total, form) == ""
    stacked = np.stack([np.concatenate([each.reshape(-1).numpy() for each in mean.values()]) for mean in run.truth])
    np.testing.assert_allclose(total.form_rows, stacked @ stacked.T, rtol=1e-12)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (
            lambda g: g | {"0.weight": g["0.weight"].t().contiguous()},
            "the recorded gradient of 0.weight has another shape",
        ),
        (lambda g: g | {"2.bias": g["2.bias"].long()}, "the recorded gradient of 2.bias has another shape or dtype"),
    ],
)
def test_a_recording_that_does_not_fit_is_refused_in_words(record, words, tmp_path):
    """Another shape or dtype than a gradient's: plain differences, and the note names the tensor."""
    for number, change in enumerate((bare, lambda tree: tree)):
        folder = tmp_path / str(number)
        folder.mkdir()
        form, beside = form_of(
            adam(folder, record=record, change=change), wanted="auto" if change is bare else RECORDED
        )
        assert (form.name, beside) == (DIFFERENCE, None)
        assert len(form.notes) == 1
        assert words in form.notes[0]


def test_a_recording_in_another_order_than_its_weights_is_refused(tmp_path):
    """A safetensors file keeps rows; channels_last weights lie otherwise, and are not matched by position."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)).to(F64).to(memory_format=torch.channels_last)
    run = adam(
        tmp_path,
        network,
        inputs=(3, 6, 6),
        change=bare,
        record=lambda g: {name: each.contiguous() for name, each in g.items()},
    )
    form, _ = form_of(run)
    assert form.name == DIFFERENCE
    assert "the recorded gradient of 0.weight lies in another order than the tensor itself" in form.notes[0]


@pytest.mark.parametrize("size", [0, 5, 40, -1])
def test_a_recording_that_is_not_whole_is_none(size, tmp_path):
    """A half-written file, or another kind of file, next to a checkpoint does not harm it; its interval has no recording."""
    run = adam(tmp_path, change=bare)
    newest = f"{run.layouts[-1].path}.gradient"
    with open(newest, "r+b") as file:
        file.truncate(size if size >= 0 else file.seek(0, 2) - 1)
    run.layouts[-1] = probe(run.layouts[-1].path)
    assert run.layouts[-1].gradient is None
    run.states[-1] = training_state(run.layouts[-1], run.step, "step")
    form, beside = form_of(run)
    assert (form.name, beside) == (DIFFERENCE, None)
    assert form.notes == (
        "residuals are not of the form 'recorded': the training saved no mean gradients beside its checkpoints",
    )


def test_a_folder_of_that_name_is_none(tmp_path):
    """What cannot be read as a file is no recording."""
    torch.save(plain().state_dict(), tmp_path / "a.pt")
    (tmp_path / "a.pt.gradient").mkdir()
    assert probe(str(tmp_path / "a.pt")).gradient is None


def test_the_gradient_keeps_its_own_dtype(tmp_path):
    """float32 gradients of bfloat16 weights are read, and their rounding counted, as float32."""
    run = adam(
        tmp_path,
        plain(torch.bfloat16),
        change=bare,
        record=lambda g: {name: each.float() for name, each in g.items()},
    )
    assert {extent.dtype for extent in run.layouts[-1].extents} == {"bfloat16"}
    check(run, tolerance=1e-7)
    window = Window.of(run.layouts, run.states)
    found = measurement.measure(window, RunConfig(), lambda work: [tasks.run(task) for task in work], smallest=1.0)
    assert found.form == RECORDED
    newest = sum(float(mean.float().double().square().sum()) for mean in run.truth[-1].values())
    assert found.rounding == pytest.approx(rounding_variance(newest * 2.0**-46), rel=1e-12, abs=0.0)


@pytest.mark.parametrize(
    ("change", "wanted", "lesser"),
    [
        (bare, "auto", DIFFERENCE),
        (lambda tree: tree, RECORDED, DIFFERENCE),
        (lambda tree: tree, "auto", LEARNING_RATE),
    ],
)
def test_a_recording_that_is_not_finite_is_found_out_and_said(change, wanted, lesser, tmp_path):
    """NaN in a recording leaves the weights good; the next form stands, and its note says why."""

    def spoil(gradient):
        gradient["0.weight"][1, 1] = torch.nan
        return gradient

    network = twice()
    groups = [{"params": [p]} for p in network.parameters()]  # whose momentum is whose cannot be told
    run = Recording(tmp_path, network, SGD(groups, lr=0.01, momentum=0.9), change=change, record=spoil).go([2, 2])
    form, beside = form_of(run, wanted=wanted)
    assert form.name == RECORDED
    total = measure(run.layouts, form, beside)
    assert np.isfinite(total.rows).all()
    problem = problem_with(total, form)
    assert "holds NaN or infinite values" in problem
    found = without(run.states, wanted, "auto", problem)
    assert found.name == lesser
    assert found.notes == (f"residuals are not of the form 'recorded': {problem}",)


def test_a_recording_that_changes_after_the_plan_is_noticed(tmp_path):
    """The files next to the checkpoints are checked like these: a new content is an error, not a result."""
    run = adam(tmp_path, change=bare)
    form, beside = form_of(run)
    work = tasks_plan.gram_tasks(run.layouts, 3, 1.0, form, beside)
    path = f"{run.layouts[-1].path}.gradient"
    os.utime(path, ns=(1, 1))
    with pytest.raises(InputChanged, match=r"pt\.gradient changed"):
        tasks.run(work[0])
    os.unlink(path)
    with pytest.raises(InputChanged, match=r"pt\.gradient cannot be opened any more"):
        tasks.run(work[0])
