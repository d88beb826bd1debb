"""Mean gradients from SGD's state in real checkpoints, against gradients that were accumulated while training."""

import math

import numpy as np
import pytest
import torch

from rna_watch.acceleration import gram
from rna_watch.acceleration.residuals import DIFFERENCE, GRADIENT, LEARNING_RATE, NotExactError
from rna_watch.daemon.measurement import problem_with
from rna_watch.daemon.window import window_form
from rna_watch.formats import optimizer_state
from rna_watch.formats.optimizer_state import find_optimizer
from rna_watch.formats.probe import probe
from rna_watch.window import tasks, tasks_plan
from rna_watch.window.companions import companions, training_state
from rna_watch.window.reader import WindowReader

F64 = torch.float64


class Run:
    """A training run whose checkpoints lie in a folder, and the mean gradients that its optimizer truly saw between them.

    `truth` holds, for each checkpoint but the first, {name: mean over the steps since the one before}; a gradient holds
    weight decay, as the optimizer sees it.
    """

    def __init__(self, folder, network, optimizer, *, inputs=(6,), change=lambda tree: tree):
        self.folder, self.network, self.optimizer, self.inputs, self.change = folder, network, optimizer, inputs, change
        self.dtype = next(network.parameters()).dtype
        self.generator = torch.Generator().manual_seed(1)
        self.step, self.steps, self.truth, self.layouts, self.states = 0, [], [], [], []
        self.forget()

    def forget(self):
        """Begin a new mean."""
        self.sums = {name: torch.zeros_like(p, dtype=F64) for name, p in self.network.named_parameters()}

    def train(self, steps):
        """Steps of the optimizer on random data."""
        for _ in range(steps):
            data = torch.randn(8, *self.inputs, generator=self.generator, dtype=F64).to(self.dtype)
            target = torch.randn(8, generator=self.generator, dtype=F64).to(self.dtype)
            loss = (self.network(data).flatten(1).mean(dim=1) - target).square().mean()
            self.optimizer.zero_grad()
            (-loss if self.optimizer.param_groups[0]["maximize"] else loss).backward()
            self._add()
            self.optimizer.step()
            self.step += 1

    def _add(self):
        names = {id(p): name for name, p in self.network.named_parameters()}
        for group in self.optimizer.param_groups:
            sign = -1 if group["maximize"] else 1
            for p in group["params"]:
                if p.grad is not None:
                    self.sums[names[id(p)]] += p.grad.double() + sign * group["weight_decay"] * p.detach().double()

    def mean(self):
        """The mean gradient since the last checkpoint."""
        since = self.step - (self.steps[-1] if self.steps else 0)
        return {name: total / max(since, 1) for name, total in self.sums.items()}

    def save(self, order="auto"):
        """Write a checkpoint and probe it."""
        tree = {
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
        }
        path = self.folder / f"step_{self.step}.pt"
        torch.save(self.change(tree), path)
        if self.steps:
            self.truth.append(self.mean())
        self.steps.append(self.step)
        self.forget()
        self.layouts.append(probe(str(path)))
        self.states.append(training_state(self.layouts[-1], self.step, "step", order))

    def go(self, lengths, before=3, order="auto"):
        """Train a window: some steps, a checkpoint, then intervals of these lengths."""
        self.train(before)
        self.save(order)
        for length in lengths:
            self.train(length)
            self.save(order)
        return self


def in_order_of_storage(tensor, like):
    """A tensor's elements in the order in which another's lie in memory."""
    laid_out = torch.empty_like(like, dtype=F64, memory_format=torch.preserve_format).copy_(tensor)
    return torch.as_strided(laid_out, (laid_out.numel(),), (1,)).numpy()


def true_residuals(run):
    """{name: (N, n)}: the mean gradients, times the steps of the newest interval, as the form scales them."""
    last = run.steps[-1] - run.steps[-2]
    parameters = dict(run.network.named_parameters())
    return {
        name: last * np.stack([in_order_of_storage(mean[name], p.detach()) for mean in run.truth])
        for name, p in parameters.items()
    }


def read_residuals(run, form, beside):
    """{name: (N, n)}: the residuals that the files give, element by element."""
    layouts = run.layouts
    names = [extent.name for extent in layouts[-1].extents]
    found = {extent.name: np.full((len(layouts) - 1, extent.count), np.nan) for extent in layouts[-1].extents}
    for task in tasks_plan.gram_tasks(layouts, len(layouts) - 1, 1.0, form if form.key else None, beside):
        with WindowReader(task.files) as reader:
            for block in reader.steps(task.segments, task.block_elements):
                segment = task.segments[block.pieces[0].segment]
                factors = ()
                if task.factors:
                    none = ((0.0, 0.0),) * len(form.scales)
                    factors = task.factors[segment.group] if segment.group >= 0 else none
                if segment.role != "parameter":
                    continue
                values = gram.block_residuals(block.values, checkpoints=task.checkpoints, factors=factors)
                values = values * np.array(form.scales)[:, None]
                for piece in block.pieces:
                    own = task.segments[piece.segment]
                    start = own.start + piece.start - layouts[-1].extents[own.extent].chunks[0].start
                    columns = slice(piece.column, piece.column + piece.count)
                    found[names[own.extent]][:, start : start + piece.count] = values[:, columns]
    return found


def measure(layouts, form, beside):
    """The whole Gram matrix of a window as the tasks give it, merged in order."""
    work = tasks_plan.gram_tasks(layouts, len(layouts) - 1, 1.0, form if form.key else None, beside)
    return gram.merge([tasks.run(task) for task in work])


def form_of(run, wanted="auto", saved="auto", order="auto"):
    """The form of the run's residuals, and what is read for it."""
    return window_form(run.layouts, run.states, wanted, saved, order)


def check_exact(run, tolerance, **settings):
    """The residuals, and their Gram matrix, are those of the true mean gradients."""
    form, beside = form_of(run, **settings)
    assert form.name == GRADIENT, form.notes
    assert form.notes == ()
    true = true_residuals(run)
    found = read_residuals(run, form, beside)
    for name, expected in true.items():
        error = np.abs(found[name] - expected).max() / max(np.abs(expected).max(), 1e-300)
        if not np.abs(expected).any():
            assert not found[name].any(), name
            continue
        assert error < tolerance, (name, error)
    total = measure(run.layouts, form, beside)
    assert problem_with(total, form) == ""
    stacked = np.hstack(list(true.values()))
    expected = stacked @ stacked.T
    scales = np.array(form.scales)
    rows = total.form_rows * scales[:, None] * scales[None, :]
    assert np.abs(rows - expected).max() < 4 * tolerance * np.abs(expected).max()


def wrong_by(run, form, beside):
    """The largest relative error of the residuals over all parameters."""
    true, found = true_residuals(run), read_residuals(run, form, beside)
    return max(np.abs(found[name] - each).max() / np.abs(each).max() for name, each in true.items())


def plain(dtype=F64):
    """Two layers whose tensors all have different shapes."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)).to(dtype)


def twice(dtype=F64):
    """Layers of equal shapes."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(6, 6), torch.nn.Tanh(), torch.nn.Linear(6, 6), torch.nn.Tanh(), torch.nn.Linear(6, 6)]
    return torch.nn.Sequential(*layers).to(dtype)


RULES = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "dampening": {"momentum": 0.9, "dampening": 0.3},
    "dampening without momentum": {"dampening": 0.3},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "weight decay": {"momentum": 0.9, "weight_decay": 0.1},
    "nesterov with weight decay": {"momentum": 0.8, "nesterov": True, "weight_decay": 0.1},
    "maximize": {"momentum": 0.9, "maximize": True, "weight_decay": 0.1},
    "one at a time": {"momentum": 0.9, "foreach": False},
    "fused": {"momentum": 0.9, "fused": True},
}


@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-12), (torch.float32, 1e-4)], ids=str)
@pytest.mark.parametrize("rule", RULES)
def test_mean_gradients_come_out_of_the_checkpoints_exactly(rule, dtype, tolerance, tmp_path):
    """For every rule of SGD, over intervals of unequal length, the residuals are the mean gradients that the loop saw."""
    network = plain(dtype)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, **RULES[rule])
    check_exact(Run(tmp_path, network, optimizer).go([2, 3, 1, 4]), tolerance)


def test_the_first_step_is_exact_too(tmp_path):
    """A window that begins before the first step, where there is no momentum yet, gives the mean gradients as well."""
    for nesterov in (False, True):
        folder = tmp_path / str(nesterov)
        folder.mkdir()
        network = plain()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=nesterov)
        check_exact(Run(folder, network, optimizer).go([2, 2, 3], before=0), 1e-12)


def decays(network, *, names):
    """Weights that decay and biases that do not, at other learning rates, biases first."""
    groups = [[], []]
    for name, p in network.named_parameters():
        groups[p.ndim > 1].append((name, p) if names else p)
    return [{"params": groups[0], "lr": 0.02}, {"params": groups[1], "weight_decay": 0.1}]


def test_several_groups_are_told_apart_by_stored_names(tmp_path):
    """Tensors of equal shapes in groups of any order find their momentum if the optimizer's parameters are named."""
    network = twice()
    optimizer = torch.optim.SGD(decays(network, names=True), lr=0.01, momentum=0.9)
    check_exact(Run(tmp_path, network, optimizer).go([2, 3, 2]), 1e-12)


def test_several_groups_are_told_apart_by_unique_shapes(tmp_path):
    """Shapes that occur once each match momentum to tensors without names."""
    network = plain()
    optimizer = torch.optim.SGD(decays(network, names=False), lr=0.01, momentum=0.9)
    check_exact(Run(tmp_path, network, optimizer).go([2, 3, 2]), 1e-12)


ORDERS = {
    "vectors-first": lambda network: decays(network, names=False),
    "matrices-first": lambda network: decays(network, names=False)[::-1],
    "state-dict": lambda network: [
        {"params": network[0].parameters(), "lr": 0.02},
        {"params": network[1:].parameters()},
    ],
}


@pytest.mark.parametrize("order", ORDERS)
def test_an_order_that_the_user_names_is_taken(order, tmp_path):
    """Equal shapes without names are refused in words, and right once the user says how the groups list them."""
    network = twice()
    optimizer = torch.optim.SGD(ORDERS[order](network), lr=0.01, momentum=0.9)
    run = Run(tmp_path, network, optimizer).go([2, 3, 2], order=order)
    check_exact(run, 1e-12, order=order)
    run.states = [training_state(each, step, "step") for each, step in zip(run.layouts, run.steps, strict=True)]
    form, beside = form_of(run)
    assert (form.name, beside) == (LEARNING_RATE, None)
    assert "several tensors have one shape" in form.notes[0]
    assert "set optimizer_order" in form.notes[0]


def test_groups_that_differ_in_weight_decay_alone_need_no_matching(tmp_path):
    """One factor serves all groups of one learning rate without momentum, whatever their tensors' shapes."""
    network = twice()
    groups = decays(network, names=False)
    del groups[0]["lr"]
    check_exact(Run(tmp_path, network, torch.optim.SGD(groups, lr=0.01)).go([2, 3, 2]), 1e-12)


def test_strides_that_are_not_of_rows_are_matched_element_by_element(tmp_path):
    """Convolutions in channels_last order, next to batch norm with its buffers, give their gradients in their own order."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 2)
    )
    network = network.to(F64).to(memory_format=torch.channels_last)
    assert not network[0].weight.is_contiguous()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=0.01)
    check_exact(Run(tmp_path, network, optimizer, inputs=(3, 6, 6)).go([2, 3, 2]), 1e-12)


class Tied(torch.nn.Module):
    """One weight under two names, and a scalar."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(6, 6)
        self.second = torch.nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.scale = torch.nn.Parameter(torch.tensor(1.5))
        self.none = torch.nn.Parameter(torch.zeros(0))

    def forward(self, x):
        """Both layers."""
        return self.second(torch.tanh(self.first(x))) * self.scale + self.none.sum()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_tied_weights_count_once(momentum, tmp_path):
    """A weight under two names, a scalar and a tensor of no elements are told apart as the optimizer numbers them."""
    torch.manual_seed(0)
    network = Tied().to(F64)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=momentum)
    run = Run(tmp_path, network, optimizer).go([2, 3, 2])
    form, beside = form_of(run)
    assert form.name == GRADIENT
    true, found = true_residuals(run), read_residuals(run, form, beside)
    for name in ("first.weight", "first.bias", "second.bias", "scale"):
        np.testing.assert_allclose(found[name], true[name], rtol=1e-10, atol=1e-12 * np.abs(true[name]).max())
    assert problem_with(measure(run.layouts, form, beside), form) == ""


@pytest.mark.parametrize("named", [True, False])
def test_a_still_parameter_outside_of_the_optimizer_is_allowed(named, tmp_path):
    """Frozen weights that the optimizer does not hold have no residual, if names or shapes tell who is who."""
    network = plain()
    network[0].weight.requires_grad_(False)
    trained = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    parameters = trained if named else [{"params": [p]} for _, p in trained]
    optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.9)
    check_exact(Run(tmp_path, network, optimizer).go([2, 3, 2]), 1e-12)


def test_a_frozen_parameter_in_the_optimizer_is_allowed(tmp_path):
    """A parameter that the optimizer holds but that never has a gradient has no momentum, and no residual."""
    network = plain()
    network[0].weight.requires_grad_(False)
    check_exact(
        Run(tmp_path, network, torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)).go([2, 3, 2]), 1e-12
    )


def test_a_parameter_outside_of_the_optimizer_that_moves_is_found_out(tmp_path):
    """What moves without the optimizer is counted, and the form does not hold."""
    network = plain()
    network[0].weight.requires_grad_(False)
    trained = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    run = Run(tmp_path, network, torch.optim.SGD(trained, lr=0.01, momentum=0.9))
    run.go([2, 2])
    network[0].weight[2, 3] += 0.5
    run.go([])
    form, beside = form_of(run)
    total = measure(run.layouts, form, beside)
    assert total.outside == pytest.approx(0.25)
    assert "parameters moved that the optimizer in the checkpoints" in problem_with(total, form)


def test_momentum_that_was_left_out_of_the_file_is_found_out(tmp_path):
    """Weights that move under momentum without a buffer in the file are not taken for ones at their first step."""

    def change(tree):
        return tree | {"optimizer": tree["optimizer"] | {"state": {}}}

    network = plain()
    run = Run(tmp_path, network, torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9), change=change)
    form, beside = form_of(run.go([2, 2]))
    assert "parameters moved" in problem_with(measure(run.layouts, form, beside), form)


def test_momentum_that_begins_within_the_window_is_refused(tmp_path):
    """A buffer that is missing in the middle of a window is not taken for zeros."""

    def change(tree):
        if 5 <= tree["step"] < 7:
            del tree["optimizer"]["state"][0]
        return tree

    network = plain()
    run = Run(tmp_path, network, torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9), change=change)
    form, beside = form_of(run.go([2, 2]))
    assert (form.name, beside) == (LEARNING_RATE, None)
    assert form.notes == (
        "residuals are not of the form 'gradient': 0.weight had no momentum in an earlier checkpoint of the window",
    )


def distributed(tree):
    """The state as `torch.distributed.checkpoint.state_dict` writes it: parameters by their names."""
    names = list(tree["model"])
    group = tree["optimizer"]["param_groups"][0]
    state = {names[number]: each for number, each in tree["optimizer"]["state"].items()}
    return tree | {"optimizer": {"state": state, "param_groups": [group | {"params": names[::-1]}]}}


def test_parameters_may_be_named_instead_of_numbered(tmp_path):
    """State dicts with names for numbers, as torch.distributed writes them, are read by these names."""
    network = twice()
    run = Run(tmp_path, network, torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9), change=distributed)
    check_exact(run.go([2, 3, 2]), 1e-12)


def momentum_as(convert):
    """A change of every momentum buffer."""

    def change(tree):
        state = {
            number: {"momentum_buffer": convert(each["momentum_buffer"])}
            for number, each in tree["optimizer"]["state"].items()
        }
        return tree | {"optimizer": tree["optimizer"] | {"state": state}}

    return change


def test_momentum_of_another_dtype_is_read_in_its_own(tmp_path):
    """float32 momentum next to float64 weights gives the gradients to float32's digits, and counts its rounding as such."""
    network = plain()
    run = Run(
        tmp_path,
        network,
        torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9),
        change=momentum_as(lambda buffer: buffer.float()),
    )
    check_exact(run.go([2, 3, 2]), 1e-5)
    form, beside = form_of(run)
    ((_, q),) = form.factors[-1]
    buffers = [each["momentum_buffer"] for each in run.optimizer.state_dict()["state"].values()]
    expected = q**2 * sum(float(buffer.double().square().sum()) for buffer in buffers) * 2.0**-46
    assert measure(run.layouts, form, beside).form_energy == pytest.approx(expected, rel=1e-6, abs=0.0)


@pytest.mark.parametrize(
    ("convert", "words"),
    [
        (lambda b: b.to(torch.float8_e4m3fn), "cannot be computed with"),
        (lambda b: b.to(torch.complex64), "has another shape"),
        (lambda b: torch.stack([b, b], dim=-1)[..., 0], "not stored as plain tensors"),
        (lambda b: b.to_sparse(), "not stored as plain tensors"),
        (lambda b: b.long(), "cannot be computed with"),
        (lambda b: b.t().contiguous().t() if b.ndim > 1 else b, "in another order"),
        (lambda b: b.reshape(-1), "has another shape"),
    ],
)
def test_momentum_that_cannot_be_read_is_refused(convert, words, tmp_path):
    """A buffer that is no plain tensor, or lies otherwise than its weights, is never taken for no momentum."""
    network = plain()
    run = Run(
        tmp_path,
        network,
        torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9),
        change=momentum_as(convert),
    )
    form, beside = form_of(run.go([2, 2]))
    assert (form.name, beside) == (LEARNING_RATE, None)
    assert words in form.notes[0]


def test_momentum_that_is_not_finite_is_found_out(tmp_path):
    """A NaN in a buffer does not make the weights bad: the form does not hold, and the differences are whole."""
    network = plain()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    run = Run(tmp_path, network, optimizer).go([2, 2])
    next(iter(optimizer.state.values()))["momentum_buffer"][0, 0] = math.nan
    run.step += 1
    run.save()
    form, beside = form_of(run)
    total = measure(run.layouts, form, beside)
    assert total.non_finite == frozenset()
    assert np.isfinite(total.rows).all()
    assert "holds NaN or infinite values" in problem_with(total, form)


def test_momentum_that_changes_its_dtype_is_refused(tmp_path):
    """Buffers of two dtypes in one window are a note, not a crash."""
    network = plain()
    run = Run(tmp_path, network, torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)).go([2])
    run.change = momentum_as(lambda buffer: buffer.float())
    run.train(2)
    run.save()
    form, beside = form_of(run)
    assert (form.name, beside) == (LEARNING_RATE, None)
    assert form.notes == ("residuals are not of the form 'gradient': what is stored beside 0.weight changed its dtype",)


def test_a_parameter_that_changes_its_group_is_refused(tmp_path):
    """Groups that exchange a parameter have another factor for it."""
    network = twice()
    optimizer = torch.optim.SGD(decays(network, names=True), lr=0.01, momentum=0.9)
    run = Run(tmp_path, network, optimizer).go([2])

    def exchange(tree):
        first, second = tree["optimizer"]["param_groups"]
        for key in ("params", "param_names"):
            first[key][0], second[key][0] = second[key][0], first[key][0]
        return tree

    run.change = exchange
    run.train(2)
    run.save()
    refused(run, "is in other parameter groups than before", LEARNING_RATE)


def test_dampening_is_refused_at_the_first_step_only(tmp_path):
    """Dampening is left out of a parameter's first step, so a window that holds it is not exact; the next one is."""
    network = plain()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, dampening=0.3)
    run = Run(tmp_path, network, optimizer).go([2, 2, 2], before=0)
    form, _ = form_of(run)
    assert form.name == LEARNING_RATE
    assert "torch leaves dampening out at a parameter's first step" in form.notes[0]
    run.layouts, run.states, run.truth, run.steps = run.layouts[1:], run.states[1:], run.truth[1:], run.steps[1:]
    check_exact(run, 1e-12)


@pytest.mark.parametrize("saved", ["after", "before"])
def test_a_learning_rate_that_changes_between_checkpoints_needs_a_word(saved, tmp_path):
    """Which learning rate an interval had cannot be told from the files; told by the user, the gradients are exact."""
    network = plain()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    run = Run(tmp_path, network, optimizer)
    run.train(3)
    run.save()
    for rate in (0.008, 0.006, 0.004):
        if saved == "before":
            optimizer.param_groups[0]["lr"] = rate
        run.train(3)
        if saved == "after":
            optimizer.param_groups[0]["lr"] = rate
        run.save()
    check_exact(run, 1e-12, saved=saved)
    form, beside = form_of(run)
    assert (form.name, beside) == (DIFFERENCE, None)
    assert "the learning rate went from 0.01 to 0.008" in form.notes[0]
    assert "set lr_saved to 'after'" in form.notes[0]
    other = "before" if saved == "after" else "after"
    assert wrong_by(run, *form_of(run, saved=other)) > 0.01


def test_a_learning_rate_that_changes_inside_an_interval_and_back_cannot_be_seen(tmp_path):
    """A known limit: halved for an interval between checkpoints that store the old rate, the gradient comes out halved."""
    network = plain()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    run = Run(tmp_path, network, optimizer).go([2, 2])
    optimizer.param_groups[0]["lr"] = 0.005
    run.train(2)
    optimizer.param_groups[0]["lr"] = 0.01
    run.save()
    form, beside = form_of(run)
    assert (form.name, form.notes) == (GRADIENT, ())
    true, found = true_residuals(run), read_residuals(run, form, beside)
    for name, expected in true.items():
        np.testing.assert_allclose(found[name][-1], expected[-1] / 2, rtol=1e-9)
        np.testing.assert_allclose(found[name][:-1], expected[:-1], rtol=1e-9)


def test_other_optimizers_are_refused_in_words(tmp_path):
    """Adam, SGD with state or settings of its own kind, two optimizers in one file: plain differences, and why."""

    class Averaging(torch.optim.SGD):
        """SGD with a second buffer, as lookahead has."""

        def step(self, closure=None):
            """A step, and the copy."""
            super().step(closure)
            for group in self.param_groups:
                for p in group["params"]:
                    self.state[p]["slow_buffer"] = p.detach().clone()

    def two(tree):
        return tree | {"optimizer": [tree["optimizer"], tree["optimizer"]]}

    kinds = {
        "Adam has no exact identity": (torch.optim.Adam, {}, lambda tree: tree),
        "an optimizer that is not SGD": (torch.optim.Adagrad, {}, lambda tree: tree),
        "optimizer that is not SGD has": (Averaging, {"momentum": 0.9}, lambda tree: tree),
        "more than one optimizer": (torch.optim.SGD, {"momentum": 0.9}, two),
    }
    for number, (words, (kind, settings, change)) in enumerate(kinds.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        network = plain()
        run = Run(folder, network, kind(network.parameters(), lr=0.01, **settings), change=change)
        run.optimizer.param_groups[0].setdefault("maximize", False)
        form, beside = form_of(run.go([2, 2]))
        assert (form.name, beside) == (DIFFERENCE, None)
        assert words in form.notes[0]


def refused(run, words, name=DIFFERENCE):
    """The run's window falls to a lesser form, and says why."""
    form, beside = form_of(run)
    assert (form.name, beside) == (name, None)
    assert len(form.notes) == 1
    assert words in form.notes[0]


def test_settings_that_change_between_checkpoints_are_refused(tmp_path):
    """Another momentum in the newest checkpoint leaves the form that needs the learning rate alone."""
    network = plain()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    run = Run(tmp_path, network, optimizer).go([2])
    optimizer.param_groups[0]["momentum"] = 0.8
    run.train(2)
    run.save()
    refused(run, "the optimizer's settings changed between checkpoints", LEARNING_RATE)


def test_a_checkpoint_without_the_optimizer_ends_the_form(tmp_path):
    """One file of the window that holds weights only makes its residuals plain differences, with a note."""
    network = plain()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    for missing in (3, 5, 7):
        folder = tmp_path / str(missing)
        folder.mkdir()
        run = Run(folder, network, optimizer)
        run.change = lambda tree, missing=missing: (
            {key: value for key, value in tree.items() if key != "optimizer"} if tree["step"] == missing else tree
        )
        refused(run.go([2, 2]), "the checkpoints hold no optimizer state")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_sixteen_bits_are_refused(dtype, tmp_path):
    """Each update was rounded to the stored dtype: what is left of the identity is not the gradient, so it is not taken."""
    network = plain(torch.float32)
    run = Run(tmp_path, network, torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9))
    run.change = lambda tree: tree | {"model": {name: each.to(dtype) for name, each in tree["model"].items()}}
    refused(run.go([2, 2]), "have lost the digits that exact gradients are computed from", LEARNING_RATE)


def test_a_learning_rate_that_is_a_tensor_is_refused(tmp_path):
    """It is no plain number in the pickle, and not guessed at."""
    network = plain()
    optimizer = torch.optim.SGD(network.parameters(), lr=torch.tensor(0.01), momentum=0.9, foreach=False)
    refused(Run(tmp_path, network, optimizer).go([2, 2]), "the learning rate is 0, or no plain number")


@pytest.mark.parametrize("extra", [True, False])
def test_numbers_of_parameters_must_agree(extra, tmp_path):
    """An optimizer of more or of fewer parameters than the model, without names, is not matched by position."""
    network = plain()
    parameters = list(network.parameters())
    beside = torch.nn.Parameter(torch.zeros(2, dtype=F64))
    optimizer = torch.optim.SGD([*parameters, beside] if extra else parameters[1:], lr=0.01, momentum=0.9)
    words = f"the optimizer has {len(parameters) + (1 if extra else -1)} parameters and the model {len(parameters)}"
    run = Run(tmp_path, network, optimizer)
    if not extra:
        network[0].weight.requires_grad_(False)
    refused(run.go([2, 2]), words, LEARNING_RATE)


def test_names_that_the_model_does_not_have_are_refused(tmp_path):
    """Names of another module tree than the state dict's match nothing."""
    network = plain()
    optimizer = torch.optim.SGD([(f"net.{n}", p) for n, p in network.named_parameters()], lr=0.01, momentum=0.9)
    refused(Run(tmp_path, network, optimizer).go([2, 2]), "parameters that the model does not have", LEARNING_RATE)


def test_names_of_a_wrapped_model_are_those_of_the_plain_one(tmp_path):
    """An optimizer that was built from the wrapper's names matches a state dict saved without them."""
    network = twice()
    named = [(f"module._orig_mod.{name}", p) for name, p in network.named_parameters()]
    check_exact(Run(tmp_path, network, torch.optim.SGD(named[::-1], lr=0.01, momentum=0.9)).go([2, 2]), 1e-12)


def test_two_of_one_shape_in_the_optimizer_are_not_one_tensor(tmp_path):
    """A parameter of the loss that has the shape of a weight makes the match by shapes ambiguous."""
    network = plain()
    beside = torch.nn.Parameter(torch.zeros(3, dtype=F64))
    groups = [{"params": [p]} for p in [*network.parameters(), beside]]
    run = Run(tmp_path, network, torch.optim.SGD(groups, lr=0.01, momentum=0.9))
    run.sums["beside"] = torch.zeros(3, dtype=F64)

    def train(steps):
        beside.grad = torch.ones_like(beside)
        for _ in range(steps):
            data = torch.randn(8, 6, generator=run.generator, dtype=F64)
            run.optimizer.zero_grad()
            (network(data).square().mean() + beside.sum()).backward()
            run.optimizer.step()
            run.step += 1

    run.train = train
    refused(run.go([2, 2]), "several tensors have one shape", LEARNING_RATE)


def test_the_momentum_of_every_source_is_checked_again(tmp_path):
    """What is to be read says why it cannot be, should it be asked for all the same."""
    network = twice()
    run = Run(tmp_path, network, torch.optim.SGD(decays(network, names=False), lr=0.01, momentum=0.9)).go([2, 2])
    with pytest.raises(NotExactError, match="store no names"):
        companions(run.layouts, GRADIENT)


@pytest.mark.parametrize("tree", [None, [], {"optimizer": 3}, {"optimizer": {"param_groups": 3}}, {"model": {}}])
def test_what_is_no_optimizer_is_none(tree):
    """Trees without a recognisable optimizer have none."""
    assert find_optimizer(tree, lambda tensor: 0) is None


@pytest.mark.parametrize(
    "value",
    [
        {"param_groups": [3], "state": {}},
        {"param_groups": [{"params": 3}], "state": {}},
        {"param_groups": [{"params": []}], "state": 3},
    ],
)
def test_a_damaged_optimizer_is_none(value):
    """A state of another make than torch's is not read."""
    assert find_optimizer({"optimizer": value}, lambda tensor: 0) is None


@pytest.mark.parametrize("key", optimizer_state.OPTIMIZER_KEYS)
def test_the_optimizer_is_found_under_its_usual_keys(key, tmp_path):
    """Alone, in a list (Lightning), or in a mapping of names, under every usual key."""
    network = plain()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    network(torch.ones(2, 6, dtype=F64)).sum().backward()
    optimizer.step()
    value = optimizer.state_dict()
    for number, held in enumerate((value, [value], {"main": value})):
        torch.save({"model": network.state_dict(), key: held}, tmp_path / f"{number}.pt")
        state = probe(str(tmp_path / f"{number}.pt")).optimizer
        assert state is not None
        assert (state.kind, len(state.members)) == ("SGD", 4)
        assert all(member.buffer for member in state.members)


def test_a_window_s_rows_may_be_measured_one_by_one(tmp_path):
    """The newest row alone is the last of the whole matrix, in the gradient form too."""
    network = plain()
    run = Run(tmp_path, network, torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)).go([2, 2, 2])
    form, beside = form_of(run)
    whole = measure(run.layouts, form, beside).form_rows
    for new in (1, 2, 3):
        work = tasks_plan.gram_tasks(run.layouts, new, 1.0, form, beside)
        rows = gram.merge([tasks.run(task) for task in work]).form_rows
        np.testing.assert_allclose(rows, whole[-new:], rtol=1e-13)
