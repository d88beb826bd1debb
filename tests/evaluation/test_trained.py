"""Descent inside the span of a window, on quadratics whose best point in the span is known."""

import math

import pytest
import torch

from rna_watch.errors import EvaluationFailed
from rna_watch.evaluation.trained import basis, fit, gram, weights

SIZES = (40, 3, 17)


class Quadratic:
    """0.5 ||A (theta - b)||^2 over parameters in several tensors, and iterates of gradient descent on it."""

    def __init__(self, seed, count, *, noise=0.0):
        self.generator = torch.Generator().manual_seed(seed)
        self.noise = noise
        n = sum(SIZES)
        turn, _ = torch.linalg.qr(self.randn(n, n))
        self.matrix = (turn * torch.logspace(0, -1, n, dtype=torch.float64)) @ turn.T
        self.b = self.randn(n)
        x = self.b + 3.0 * self.randn(n)
        self.iterates = [x]
        for _ in range(count - 1):
            for _ in range(3):
                x = x - 0.5 * self.matrix @ self.matrix @ (x - self.b) + noise * self.randn(n)
            self.iterates.append(x)
        self.seen = []

    def randn(self, *shape):
        """Normal numbers of its own generator."""
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)

    def value(self, theta):
        """The loss, without noise."""
        return 0.5 * float((self.matrix @ (theta - self.b)).square().sum())

    def loss(self, parameters, _c):
        """The loss with a random slope, as a batch has one."""
        theta = torch.cat(parameters).double()
        self.seen.append(theta.detach())
        return 0.5 * (self.matrix @ (theta - self.b)).square().sum() + self.noise * (self.randn(len(theta)) @ theta)

    def window(self, start, dtype=torch.float64):
        """The mean of the iterates by these weights, and the residuals, tensor by tensor."""
        base = sum(weight * y for weight, y in zip(start, self.iterates, strict=True))
        residuals = torch.stack(self.iterates).diff(dim=0)
        return [list(each.to(dtype).split(SIZES, dim=-1)) for each in (base, residuals)]

    def best(self):
        """The smallest loss in the span of the window, by least squares."""
        residuals = torch.stack(self.iterates).diff(dim=0)
        found = torch.linalg.lstsq(self.matrix @ residuals.T, self.matrix @ (self.b - self.iterates[-1]))
        return self.value(self.iterates[-1] + found.solution @ residuals)

    def combined(self, by):
        """The combination of the iterates."""
        return sum(weight * y for weight, y in zip(by, self.iterates, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("count", "noise"), [(2, 0.0), (4, 0.0), (2, 0.02), (4, 0.02), (8, 0.02)])
def test_the_best_point_of_the_span_is_found(count, noise, dtype):
    """Thirty steps from the plain average end within a few percent of the least loss that the span holds."""
    problem = Quadratic(count, count, noise=noise)
    start = [1.0 / count] * count
    found = fit(*problem.window(start, dtype), problem.loss, steps=30)
    by = weights(start, found.coefficients)
    assert abs(math.fsum(by) - 1.0) <= 1e-12
    assert problem.value(problem.combined(by)) <= 1.05 * problem.best()
    assert len(found.losses) == 30
    assert found.losses[0] > found.losses[-1]


def test_it_never_leaves_the_span():
    """Every point where the loss is asked, and the result, is the start and a combination of residuals."""
    problem = Quadratic(3, 5)
    start = [0.0, 0.0, 0.5, 0.0, 0.5]
    (base, residuals) = problem.window(start)
    found = fit(base, residuals, problem.loss, steps=10)
    span, _ = torch.linalg.qr(torch.cat(residuals, dim=1).T)
    points = [*problem.seen, problem.combined(weights(start, found.coefficients))]
    for point in points:
        moved = point - torch.cat(base)
        assert (moved - span @ (span.T @ moved)).norm() <= 1e-9 * (1.0 + moved.norm())
    torch.testing.assert_close(problem.seen[0], torch.cat(base))


def test_no_steps_leave_the_weights_as_they_are():
    """The starting weights are returned, bit for bit, if there is nothing to do."""
    problem = Quadratic(0, 3)
    start = (0.1, 0.2, 0.7)
    found = fit(*problem.window(start), problem.loss, steps=0)
    assert weights(start, found.coefficients) == start
    assert found.losses == ()
    assert problem.seen == []


@pytest.mark.parametrize("steps", [1, 2, 7, 8])
def test_the_result_is_the_mean_of_the_last_half(steps):
    """The coordinates that are returned average the later half of the path, its last point included."""
    problem = Quadratic(1, 4)
    start = [0.25] * 4
    window = problem.window(start)
    found = fit(*window, problem.loss, steps=steps)
    fit(*window, problem.loss, steps=steps + 1)  # asks at the point after the last step, too
    path = problem.seen[steps:][1:]
    expected = torch.stack(path[steps // 2 :]).mean(0)
    torch.testing.assert_close(problem.combined(weights(start, found.coefficients)), expected)


def test_steps_are_as_long_as_the_window_s_own():
    """A window that is a thousand times as large is descended in steps a thousand times as long."""
    residuals = [torch.eye(3, 8, dtype=torch.float64)]
    base = [torch.zeros(8, dtype=torch.float64)]
    slope = torch.arange(8.0, dtype=torch.float64)
    one, thousand = (
        fit(base, [scale * residuals[0]], lambda theta, _c: (theta[0] * slope).sum(), steps=1)
        for scale in (1.0, 1000.0)
    )
    assert (one.coefficients @ residuals[0]).norm() == pytest.approx(0.4)
    torch.testing.assert_close(one.coefficients, thousand.coefficients)


def test_the_basis_is_orthonormal_and_leaves_out_what_is_not_there():
    """Residuals that depend on one another span fewer directions; those are perpendicular, of length one."""
    residuals = torch.randn(3, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    residuals = torch.cat([residuals, residuals[:1] - 2 * residuals[1:2]])
    of_residuals, length = basis(gram([residuals[:, :20], residuals[:, 20:]]))
    assert of_residuals.shape == (4, 3)
    q = of_residuals.T @ residuals
    torch.testing.assert_close(q @ q.T, torch.eye(3, dtype=torch.float64))
    assert length == pytest.approx(float(residuals.square().sum(1).mean().sqrt()))


def test_directions_too_short_to_matter_are_left_out():
    """A residual of a ten-thousandth of another's length gets no coefficient of its own."""
    residuals = torch.diag(torch.tensor([1.0, 1e-2, 1e-4], dtype=torch.float64))
    of_residuals, _ = basis(gram([residuals]))
    assert of_residuals.shape == (3, 2)
    assert of_residuals.abs().max() == pytest.approx(100.0)


def test_a_loss_that_is_flat_moves_nothing():
    """A gradient of zero is no step, and no division by it."""
    problem = Quadratic(0, 3)
    found = fit(*problem.window([0.0, 0.0, 1.0]), lambda theta, _c: 0.0 * torch.cat(theta).sum(), steps=5)
    assert found.coefficients.tolist() == [0.0, 0.0]
    assert found.losses == (0.0,) * 5


FAILURES = {
    "number": (lambda _theta: 0.5, r"must return a scalar tensor, not 0\.5"),
    "none": (lambda _theta: None, "must return a scalar tensor, not None"),
    "several": (lambda theta: theta, r"must return a scalar tensor, not one of shape \(60,\)"),
    "detached": (lambda theta: theta.detach().sum(), "no gradient by the tensors of state_dict.*functional_call"),
    "another graph": (
        lambda _theta: torch.ones(1, requires_grad=True).sum(),
        "no gradient by the tensors of state_dict.*load_state_dict copies",
    ),
    "nan": (lambda theta: theta.sum() * math.nan, "returned nan"),
    "infinite": (lambda theta: theta.sum() * 0 + math.inf, "returned inf"),
    "gradient": (lambda theta: (theta * 0).abs().sqrt().sum(), r"the gradient of .* is not finite \(the loss is 0\)"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_loss_without_a_descent_is_told(name):
    """The message says what the function returned and what it should."""
    function, message = FAILURES[name]
    problem = Quadratic(0, 3)
    with pytest.raises(EvaluationFailed, match=message):
        fit(*problem.window([0.0, 0.0, 1.0]), lambda theta, _c: function(torch.cat(theta)), steps=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [(0.0, "the checkpoints do not differ"), (math.nan, "not finite"), (math.inf, "not finite")],
)
def test_a_window_that_spans_nothing_is_told(change, message):
    """Equal or broken checkpoints have no weights to train."""
    base, residuals = Quadratic(0, 3).window([0.0, 0.0, 1.0])
    with pytest.raises(EvaluationFailed, match=message):
        fit(base, [change * each for each in residuals], Quadratic(0, 3).loss, steps=3)
    with pytest.raises(EvaluationFailed, match="do not differ"):
        fit([], [], Quadratic(0, 3).loss, steps=3)
