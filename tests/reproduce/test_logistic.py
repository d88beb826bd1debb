import math
from itertools import islice, pairwise

import numpy as np
import pytest
import torch

from rna_watch.reproduce.curves import at, curve
from rna_watch.reproduce.descent import Method, descend
from rna_watch.reproduce.figure1_tables import ratios, slopes
from rna_watch.reproduce.lbfgs import lbfgs
from rna_watch.reproduce.logistic import Logistic, relative
from rna_watch.reproduce.madelon import load, standardized


@pytest.fixture(scope="module")
def problem(small_madelon):
    """Logistic regression with condition number 1000."""
    found = load(small_madelon)
    return Logistic(standardized(found.features_nd), found.labels_n, 1e3)


class Counted:
    """The problem, counting what is really computed."""

    def __init__(self, problem):
        self._problem, self.losses, self.gradients = problem, 0, 0

    def __getattr__(self, name):
        return getattr(self._problem, name)

    def at(self, w_d):
        """A point whose gradient is counted when it is asked for."""
        self.losses += 1
        point = self._problem.at(w_d)
        counted, outer = type("Point", (), {"loss": point.loss, "w_d": point.w_d})(), self

        def gradient():
            outer.gradients += 1
            return point.gradient()

        counted.gradient = gradient
        return counted


def test_loss_gradient_and_curvature_are_those_of_the_formula(problem):
    """Against automatic differentiation of the formula as written; L / mu is the condition number."""
    w = torch.randn(
        problem.dimension, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True
    )

    def formula(w):
        return torch.log1p(torch.exp(-(problem.signed_nd @ w))).mean() + problem.mu / 2 * w.square().sum()

    point = problem.at(w.detach())
    assert point.loss == pytest.approx(formula(w).item(), rel=1e-11)
    torch.testing.assert_close(point.gradient(), torch.autograd.grad(formula(w), w)[0], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(
        point.hessian(), torch.autograd.functional.hessian(formula, w.detach()), rtol=1e-11, atol=1e-13
    )
    assert problem.smoothness / problem.mu == pytest.approx(1e3)
    largest = torch.linalg.eigvalsh(problem.at(problem.start()).hessian())[-1].item()
    assert largest == pytest.approx(problem.smoothness, rel=1e-12)
    assert problem.at(problem.start()).loss == pytest.approx(math.log(2))


def test_newton_finds_the_minimum(problem):
    """The gradient vanishes there, and no method finds less."""
    optimum, slope = problem.minimum()
    assert slope < 1e-11
    found = list(islice(descend(problem, Method(base="nesterov", n=20, online=True)), 200))
    assert min(step.loss for step in found) >= optimum - 1e-15


@pytest.mark.parametrize(
    "method",
    [
        Method(base="gradient"),
        Method(base="nesterov"),
        Method(base="gradient", n=5, online=True),
        Method(base="nesterov", n=5, online=True),
        Method(base="gradient", n=5, online=True, first_step=None),
    ],
    ids=str,
)
def test_every_evaluation_is_counted(problem, method):
    """What the method says it cost is what was computed; trials of the line search are among it."""
    counted = Counted(problem)
    for step in islice(descend(counted, method), 12):
        assert (step.evaluations, step.gradients) == (counted.losses, counted.gradients)
    if method.first_step is not None:
        fixed = 12 if method.n == 0 and method.base == "gradient" else 24
        assert step.evaluations > fixed + 1


@pytest.mark.parametrize("base", ["gradient", "nesterov"])
def test_offline_rna_leaves_the_run_alone(problem, base):
    """The same steps at the same cost, with and without."""
    plain = islice(descend(problem, Method(base=base)), 30)
    watched = islice(descend(problem, Method(base=base, n=5)), 30)
    assert [(s.step, s.evaluations) for s in plain] == [(s.step, s.evaluations) for s in watched]


def test_backtracking_halves_until_the_loss_falls_enough(problem):
    """The step is a halved first step, never grows, and is no shorter than half of 1 / L."""
    steps = [s.step for s in islice(descend(problem, Method(base="gradient", first_step=64.0)), 50)]
    assert all(later <= earlier for earlier, later in pairwise(steps))
    assert math.log2(64.0 / steps[-1]) == int(math.log2(64.0 / steps[-1])) > 0
    assert steps[-1] >= 0.5 / problem.smoothness


def test_nesterov_is_the_textbooks(problem):
    """x_N and y_N written by hand once more, plainly, give the same losses."""
    h = 1 / problem.smoothness
    b = (1 - math.sqrt(problem.mu * h)) / (1 + math.sqrt(problem.mu * h))
    x = y = problem.start()
    for step in islice(descend(problem, Method(base="nesterov", first_step=None)), 20):
        following = y - h * problem.at(y).gradient()
        x, y = following, following + b * (following - x)
        assert step.loss == pytest.approx(problem.at(x).loss, rel=1e-13)


def test_lbfgs_counts_as_scipy_does(problem):
    """At least one evaluation an iteration, losses falling, ended at the wish."""
    optimum, _ = problem.minimum()
    found = lbfgs(problem, memory=10, most=100, ended=lambda loss: relative(loss, optimum) <= 1e-6)
    assert relative(found[-1].loss, optimum) <= 1e-6 < relative(found[-2].loss, optimum)
    assert all(step.evaluations > k for k, step in enumerate(found, start=1))


def iterations(problem, n, most=2000):
    """Iterations of online RNA with backtracking, and of L-BFGS, to 1e-9."""
    optimum, _ = problem.minimum()
    reference = len(lbfgs(problem, memory=10, most=500, ended=lambda loss: relative(loss, optimum) <= 1e-9))
    method = Method(base="gradient", n=n, online=True)
    return at(curve(descend(problem, method), optimum, most, 1e-9)["reached"], 9)[0], reference


def test_online_rna_keeps_up_with_lbfgs(problem):
    """To 1e-9, with N = 20 and backtracking, within 1.2 times the iterations of L-BFGS; N = 5 needs more than N = 20."""
    needed, reference = iterations(problem, 20)
    assert needed <= 1.2 * reference
    assert iterations(problem, 5)[0] > needed


@pytest.mark.parametrize("condition", [1e3, 1e5, 1e7])
def test_online_rna_keeps_up_with_lbfgs_on_real_madelon(data, condition):
    """The same on real Madelon, which is what figure 1 claims."""
    found = load(data)
    needed, reference = iterations(Logistic(standardized(found.features_nd), found.labels_n, condition), 20)
    assert needed <= 1.2 * reference


def test_rna_is_compared_with_the_usual_lbfgs_and_with_that_of_its_window():
    """Against m = 10, RNA of N = 20 is within the limit; against m = 20, which took half as many iterations, it is not."""
    reached = {"lbfgs-5": 40, "lbfgs-10": 20, "lbfgs-20": 10, "gradient-online-20": 20, "gradient-fixed-20": 30}
    results = {f"{key}-1e3": {"reached": [[k, k, 2 * k]] * 9} for key, k in reached.items()}
    usual, equal = (ratios(results, [1e3], [20], equal=equal) for equal in (False, True))
    assert usual.rows[0][3] == "1.00"
    assert "backtracking: 1e3 N = 20 (1.00)" in usual.notes[0]
    assert equal.rows[0][3] == "2.00"
    assert equal.notes[:2][1] == "Short of it: 1e3 N = 20 (2.00)."


def with_and_without_offline_rna(folder, condition, base):
    """The curves without RNA and with offline RNA of N = 10."""
    found = load(folder)
    problem = Logistic(standardized(found.features_nd), found.labels_n, condition)
    optimum, _ = problem.minimum()
    return [curve(descend(problem, Method(base=base, n=n)), optimum, 4000) for n in (0, 10)]


@pytest.mark.parametrize("base", ["gradient", "nesterov"])
def test_offline_rna_shifts_the_curve_to_the_left(small_madelon, base):
    """No more iterations at any tolerance, fewer to 1e-9, and no more of them per decade at the end."""
    plain, moved = with_and_without_offline_rna(small_madelon, 100.0, base)
    assert len(plain["reached"]) == len(moved["reached"]) == 10
    assert all(after[0] <= before[0] for before, after in zip(plain["reached"], moved["reached"], strict=True))
    assert moved["reached"][8][0] < plain["reached"][8][0]
    _, _, without, with_ = slopes(plain, moved)
    assert 0 < with_ <= without


@pytest.mark.parametrize(("base", "least"), [("gradient", 1000), ("nesterov", 15)])
def test_on_real_madelon_offline_rna_shifts_the_curve_at_equal_slope(data, base, least):
    """Which is what figure 1 claims: the same number of iterations per decade at the end, to a sixth."""
    plain, moved = with_and_without_offline_rna(data, 1e3, base)
    assert plain["reached"][8][0] - moved["reached"][8][0] >= least
    _, _, without, with_ = slopes(plain, moved)
    assert with_ / without == pytest.approx(1.0, abs=1 / 6)


def test_a_run_that_leaves_the_numbers_is_told(problem):
    """A loss that is not finite ends the curve, and the curve says so."""
    steps = list(islice(descend(problem, Method(base="gradient")), 3))
    broken = [*steps, type(steps[0])(loss=np.inf, evaluations=9, gradients=9, step=1.0), *steps]
    found = curve(iter(broken), 0.0, 100)
    assert found["stopped"]
    assert len(found["iterations"]) == 3
