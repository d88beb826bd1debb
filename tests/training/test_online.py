"""Online RNA: the extrapolation fed back, on quadratics whose answer is known, and in networks."""

import copy
from itertools import islice

import numpy as np
import pytest
import torch
from torch import nn

from rna_watch.training import FlatRna, OnlineRna, Rna, online_rna
from tests.acceleration import twins
from tests.acceleration.test_theorem import KAPPAS, bound
from tests.training.runs import F64, Loop, sgd, tied


class Quadratic:
    """f(y) = (y - x*)' A (y - x*) / 2 with eigenvalues of A from `kappa` to 1; its gradient step is y - A (y - x*)."""

    def __init__(self, dimension, kappa, seed=0):
        rng = np.random.default_rng(seed)
        basis, _ = np.linalg.qr(rng.standard_normal((dimension, dimension)))
        self.a = torch.tensor((basis * np.geomspace(kappa, 1.0, dimension)) @ basis.T)
        self.minimum = torch.tensor(rng.standard_normal(dimension))
        self.start = torch.zeros(dimension, dtype=F64)

    def gradient(self, y):
        """A (y - x*)."""
        return self.a @ (y - self.minimum)

    def step(self, y):
        """With step length 1 = 1 / L."""
        return y - self.gradient(y)

    def excess(self, y):
        """f(y) relative to f(y_0)."""
        return float((y - self.minimum) @ self.gradient(y)) / float(self.minimum @ self.a @ self.minimum)

    def krylov_residual(self, k):
        """The least ||gradient|| in y_0 + span(r_0, A r_0, ..., A^(k-1) r_0): what k steps of GMRES reach."""
        r = self.gradient(self.start)
        basis = [r]
        for _ in range(k - 1):
            vector = self.a @ basis[-1]
            for _ in range(2):
                for other in basis:
                    vector = vector - (vector @ other) / (other @ other) * other
            basis.append(vector / vector.norm())
        if k == 0:
            return float(r.norm())
        images = self.a @ torch.stack(basis, dim=1)
        return float((r - images @ torch.linalg.lstsq(images, r[:, None]).solution[:, 0]).norm())

    def steps_of_conjugate_gradients(self, tolerance):
        """Until the excess is below a tolerance."""
        y, r, steps = self.start, -self.gradient(self.start), 0
        p = r
        while self.excess(y) > tolerance:
            length = (r @ r) / (p @ self.a @ p)
            y, before = y + length * p, r
            r = r - length * (self.a @ p)
            p, steps = r + (r @ r) / (before @ before) * p, steps + 1
        return steps


def first_below(problem, tolerance, limit=200, **options):
    """Steps of online RNA until an x has an excess below a tolerance."""
    steps = enumerate(islice(online_rna(problem.step, problem.start, **options), limit), 1)
    return next(number for number, each in steps if problem.excess(each.x) <= tolerance)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_online_rna_is_gmres(momentum):
    """Step N leaves the residual of N - 1 steps of GMRES with all residuals and lambda = 0, at any momentum."""
    problem = Quadratic(30, 0.05)
    residuals, y = [], problem.start
    for number, each in enumerate(islice(online_rna(problem.step, problem.start, reg=0.0, momentum=momentum), 8)):
        residuals.append(each.x - y)
        y = each.y
        combined = sum(weight * one for weight, one in zip(each.extrapolation.c, residuals, strict=True))
        assert float(combined.norm()) == pytest.approx(problem.krylov_residual(number), rel=1e-6)


@pytest.mark.parametrize(("dimension", "kappa"), [(4, 0.1), (8, 0.1), (8, 0.01)])
@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_a_quadratic_in_d_dimensions_takes_d_steps_and_a_few(dimension, kappa, momentum):
    """To 1e-9 of the start, where conjugate gradients take d steps: the last residual, and lambda, cost a handful."""
    problem = Quadratic(dimension, kappa)
    steps = first_below(problem, 1e-9, n=10, reg=1e-12, momentum=momentum)
    assert problem.steps_of_conjugate_gradients(1e-9) <= steps <= dimension + 5


def test_a_bounded_window_beats_gradient_descent_far():
    """50 dimensions, condition 100: N = 20 within twice the steps of conjugate gradients; gradient descent takes hundreds."""
    problem = Quadratic(50, 0.01)
    steps = first_below(problem, 1e-9, n=20)
    assert steps <= 2 * problem.steps_of_conjugate_gradients(1e-9)
    y = problem.start
    for _ in range(5 * steps):
        y = problem.step(y)
    assert problem.excess(y) > 1e-9


def test_each_step_is_the_twin_s():
    """y_N = sum c_i x_i with c of Algorithm 1 over the newest n, by whole matrices."""
    problem = Quadratic(12, 0.1)
    xs, residuals, y = [], [], problem.start
    for each in islice(online_rna(problem.step, problem.start, n=4, reg=1e-3), 9):
        x = problem.step(y)
        xs.append(x)
        residuals.append((x - y).numpy())
        r = np.stack(residuals[-4:])
        c = twins.coefficients(r @ r.T, 1e-3)
        y = sum(weight * one for weight, one in zip(c, xs[-4:], strict=True))
        torch.testing.assert_close(each.x, x, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(each.y, y, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(each.extrapolation.c, c, rtol=1e-9)


def test_offline_the_run_is_only_looked_at():
    """`FlatRna` next to gradient descent, of any shape: c is the twin's, the stored value is a copy, the point is far better."""
    problem = Quadratic(12, 0.1)
    rna, y, xs, residuals = FlatRna(n=5, reg=1e-6), problem.start, [], []
    with pytest.raises(RuntimeError, match="nothing is stored"):
        rna.extrapolate()
    for _ in range(7):
        x = problem.step(y)
        stored = x.clone().reshape(3, 4)
        rna.store(stored, (x - y).reshape(3, 4))
        stored.zero_()
        xs.append(x)
        residuals.append((x - y).numpy())
        y = x
    point, found = rna.extrapolate()
    r = np.stack(residuals[-5:])
    np.testing.assert_allclose(found.c, twins.coefficients(r @ r.T, 1e-6), rtol=1e-6)
    expected = sum(weight * x for weight, x in zip(found.c, xs[-5:], strict=True))
    torch.testing.assert_close(point, expected.reshape(3, 4), rtol=1e-12, atol=1e-14)
    assert problem.excess(point.reshape(-1)) < 0.1 * problem.excess(y)
    with pytest.raises(ValueError, match="reg must be"):
        FlatRna(reg=-1.0)


@pytest.mark.parametrize(
    ("point", "residual", "said"),
    [
        (torch.ones(3), torch.ones(4), r"the point is \(3,\), but the residual is \(4,\)"),
        (torch.ones(2, 2), torch.ones(4), r"the point is \(2, 2\), but the residual is \(4,\)"),
        (torch.ones(4), torch.ones(4), r"the point is \(4,\), but the point before is \(3,\)"),
        (torch.ones(3, dtype=torch.int64), torch.ones(3), "the point is torch.int64"),
        (torch.ones(3), torch.ones(3, dtype=torch.int64), "the residual is torch.int64"),
        (torch.ones(3, dtype=torch.complex64), torch.ones(3), "the point is torch.complex64"),
    ],
)
def test_what_cannot_be_combined_is_not_stored(point, residual, said):
    """Other shapes, of the two or of the steps before, and numbers that are not real floating point."""
    rna = FlatRna()
    rna.store(torch.ones(3), torch.ones(3))
    with pytest.raises(ValueError, match=said):
        rna.store(point, residual)
    assert len(rna.history) == 1


def test_steps_of_varying_length_store_where_they_began():
    """The extrapolation with (y, gradient) is the one of steps of equal length from the same points, at any length."""
    problem = Quadratic(12, 0.1)
    rna, equal, y = FlatRna(n=5, reg=1e-6), FlatRna(n=5, reg=1e-6), problem.start
    for number in range(7):
        gradient = problem.gradient(y)
        rna.store(y, gradient)
        equal.store(y - 0.7 * gradient, -0.7 * gradient)
        y = y - gradient / (1 + number % 3)
    point, found = rna.extrapolate(step=0.7)
    other, same = equal.extrapolate()
    np.testing.assert_allclose(found.c, same.c, rtol=1e-6)
    torch.testing.assert_close(point, other, rtol=1e-7, atol=1e-9)
    assert problem.excess(point) < 0.2 * problem.excess(y)


def test_without_lambda_dependent_steps_are_refused_in_words():
    """More steps than dimensions have no solution without lambda: the newest point is taken, and the status says why."""
    problem = Quadratic(2, 0.5)
    rna, y = FlatRna(n=4, reg=0.0), problem.start
    for _ in range(4):
        x = problem.step(y)
        rna.store(x, x - y)
        y = x
    point, found = rna.extrapolate()
    assert "linearly dependent and lambda is 0" in found.status
    assert torch.equal(point, y)


def test_at_the_minimum_it_stays():
    """All residuals are zero: the status says so, and the point does not move."""
    problem = Quadratic(5, 0.5)
    for each in islice(online_rna(problem.step, problem.minimum), 3):
        assert torch.equal(each.y, problem.minimum)
        assert "no direction to extrapolate" in each.extrapolation.status


class Point(nn.Module):
    """A network that is its parameter."""

    def __init__(self, start):
        super().__init__()
        self.y = nn.Parameter(start.clone())


def loss(problem, network):
    """The value of f at a `Point`."""
    difference = network.y - problem.minimum
    return difference @ problem.a @ difference / 2


@pytest.mark.parametrize("kappa", KAPPAS)
def test_offline_rna_of_a_run_meets_theorem_3_1(kappa):
    """The extrapolation of N gradient steps in the loop, lambda = 0, leaves no more of the gradient than the bound."""
    for seed in range(3):
        problem = Quadratic(30, kappa, seed)
        network = Point(problem.start)
        rna = Rna(network, torch.optim.SGD(network.parameters(), lr=1.0), n=5, reg=0.0, reset_after=0)
        for _ in range(5):
            rna.zero_grad()
            loss(problem, network).backward()
            rna.step()
            rna.store()
        extrapolated = Point(problem.start)
        assert rna.accelerate(extrapolated).status == ""
        left = problem.gradient(extrapolated.y.detach()).norm() / problem.gradient(problem.start).norm()
        plain = problem.gradient(network.y.detach()).norm() / problem.gradient(problem.start).norm()
        assert float(left) <= bound(kappa)
        assert float(left) < float(plain)


def test_the_optimizer_does_what_the_function_does():
    """`OnlineRna` around plain SGD takes the steps of `online_rna`, and its learning rate may change meanwhile."""
    problem = Quadratic(12, 0.1)
    network = Point(problem.start)
    rna = OnlineRna(network, torch.optim.SGD(network.parameters(), lr=1.0), n=6, reg=1e-6)
    for each in islice(online_rna(problem.step, problem.start, n=6, reg=1e-6), 10):

        def closure():
            rna.zero_grad()
            value = loss(problem, network)
            value.backward()
            return value

        assert rna.step(closure) is not None
        torch.testing.assert_close(network.y.detach(), each.y, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(rna.last.c, each.extrapolation.c, rtol=1e-5, atol=1e-8)
    for group in rna.param_groups:
        group["lr"] = 0.3
    for _ in range(20):
        rna.step(closure)
    assert problem.excess(network.y.detach()) < 1e-9


def test_in_a_network_parameters_are_extrapolated_and_buffers_are_not():
    """Statistics stay as the forward pass left them; a step without gradients changes nothing."""
    network = tied()
    plain = copy.deepcopy(network)
    rna, optimizer = OnlineRna(network, sgd(network), n=3, reg=1e-2), sgd(plain)
    rna.step()
    assert rna.last is None
    Loop(network).train(rna, 1)
    Loop(plain).train(optimizer, 1)
    assert rna.last.c == (1.0,)
    for one, two in zip(network.state_dict().values(), plain.state_dict().values(), strict=True):
        assert torch.equal(one, two)
    loop = Loop(network, seed=2)
    loop.backward(rna)
    mean = network.norm.running_mean.clone()
    rna.step()
    assert torch.equal(network.norm.running_mean, mean)
    x = [iterate["first.weight"] for iterate in rna.history.iterates]
    torch.testing.assert_close(
        network.first.weight.detach(), sum(w * one for w, one in zip(rna.last.c, x, strict=True))
    )
    other = copy.deepcopy(network)
    rna.accelerate(other)
    assert torch.equal(other.norm.running_mean, mean)


def test_in_a_network_statistics_are_combined_if_that_is_wanted():
    """With the flag they are sum_i c_i of what forward passes left at each step, and integers are the newest's."""
    network = tied()
    rna, loop, means = OnlineRna(network, sgd(network), n=3, reg=1e-2, combine_statistics=True), Loop(network), []
    for _ in range(5):
        loop.backward(rna)
        means.append(network.norm.running_mean.clone())
        rounds = network.rounds.clone()
        rna.step()
        expected = sum(c * mean for c, mean in zip(rna.last.c, means[-3:], strict=True))
        torch.testing.assert_close(network.norm.running_mean, expected, rtol=1e-12, atol=1e-14)
        assert torch.equal(network.rounds, rounds)
    assert not torch.equal(expected, means[-1])


@pytest.mark.parametrize("combine", [False, True])
def test_online_a_run_resumes_bitwise(combine):
    """The history comes along."""
    network = tied()
    rna, loop = OnlineRna(network, sgd(network), n=3, combine_statistics=combine), Loop(network)
    loop.train(rna, 4)
    second = copy.deepcopy(network)
    resumed, again = OnlineRna(second, sgd(second), n=3, combine_statistics=combine), Loop(second)
    resumed.load_state_dict(copy.deepcopy(rna.state_dict()))
    again.generator.set_state(loop.generator.get_state())
    loop.train(rna, 3)
    again.train(resumed, 3)
    for one, two in zip(network.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(one, two)
