"""Newton's descent inside the span of a window, on quadratics whose best point in the span is known, and on hostile losses."""

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

    def loss(self, parameters, _c, batch):
        """The loss with a random slope, the batch's own."""
        theta = torch.cat(parameters).double()
        if theta.requires_grad:
            self.seen.append(theta.detach())
        slope = torch.randn(len(theta), generator=torch.Generator().manual_seed(batch), dtype=torch.float64)
        return 0.5 * (self.matrix @ (theta - self.b)).square().sum() + self.noise * (slope @ theta)

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
    """Three rounds from the plain average end within a few percent of the least loss that the span holds."""
    problem = Quadratic(count, count, noise=noise)
    start = [1.0 / count] * count
    found = fit(*problem.window(start, dtype), problem.loss)
    by = weights(start, found.coefficients)
    assert abs(math.fsum(by) - 1.0) <= 1e-12
    assert problem.value(problem.combined(by)) <= 1.05 * problem.best()
    assert 2 <= len(found.losses) <= 4
    assert list(found.losses) == sorted(found.losses, reverse=True)
    assert len(problem.seen) <= 60


def test_it_never_leaves_the_span():
    """Every point where the loss is asked, and the result, is the start and a combination of residuals."""
    problem = Quadratic(3, 5)
    start = [0.0, 0.0, 0.5, 0.0, 0.5]
    (base, residuals) = problem.window(start)
    found = fit(base, residuals, problem.loss)
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
    found = fit(*problem.window(start), problem.loss, rounds=0)
    assert weights(start, found.coefficients) == start
    assert found.losses == ()
    assert problem.seen == []


def test_a_window_that_is_a_thousand_times_as_large_is_the_same_problem():
    """Steps are measured in the window's own length: a residual's scale changes nothing."""
    residuals = [torch.eye(3, 8, dtype=torch.float64)]
    base = [torch.zeros(8, dtype=torch.float64)]
    b = torch.arange(8.0, dtype=torch.float64)
    one, thousand = (
        fit(base, [scale * residuals[0]], lambda theta, _c, _batch: (theta[0] / scale - b).square().sum())  # noqa: B023
        for scale in (1.0, 1000.0)
    )
    torch.testing.assert_close(one.coefficients, b[:3], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(one.coefficients, thousand.coefficients)


def test_a_step_goes_as_far_as_it_may():
    """A bound on the coefficients is kept at every point where the loss is asked, and the fit goes up to it."""
    problem = Quadratic(1, 4)
    start = [0.0, 0.0, 0.0, 1.0]
    free = fit(*problem.window(start), problem.loss)
    seen = []

    def bounded(theta, c, batch):
        seen.append(c)
        return problem.loss(theta, c, batch)

    def reach(c, step):
        """As far as c_3 is at most a tenth of what is best."""
        limit = 0.1 * free.coefficients[2]
        return 1.0 if step[2] * limit.sign() <= 0 else max(0.0, min(1.0, float((limit - c[2]) / step[2])))

    found = fit(*problem.window(start), bounded, reach=reach)
    part = found.coefficients[2] / free.coefficients[2]
    assert 0.05 <= part <= 0.1 + 1e-9
    assert all(c[2] / free.coefficients[2] <= 0.1 + 1e-9 for c in seen)
    assert found.losses[-1] < found.losses[0]


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
    found = fit(*problem.window([0.0, 0.0, 1.0]), lambda theta, _c, _batch: 0.0 * torch.cat(theta).sum())
    assert found.coefficients.tolist() == [0.0, 0.0]
    assert found.losses == (0.0,)


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
        fit(*problem.window([0.0, 0.0, 1.0]), lambda theta, _c, _batch: function(torch.cat(theta)))


@pytest.mark.parametrize(
    ("change", "message"),
    [(0.0, "the checkpoints do not differ"), (math.nan, "not finite"), (math.inf, "not finite")],
)
def test_a_window_that_spans_nothing_is_told(change, message):
    """Equal or broken checkpoints have no weights to train."""
    base, residuals = Quadratic(0, 3).window([0.0, 0.0, 1.0])
    with pytest.raises(EvaluationFailed, match=message):
        fit(base, [change * each for each in residuals], Quadratic(0, 3).loss)
    with pytest.raises(EvaluationFailed, match="do not differ"):
        fit([], [], Quadratic(0, 3).loss)


class Hostile:
    """A loss of a window that works against the fit in one of several ways, from its n-th call on; `true` is the honest part."""

    def __init__(self, way, after):
        self.problem = Quadratic(5, 4, noise=0.1)
        self.way, self.after, self.calls = way, after, 0

    def __call__(self, theta, c, batch):
        """The loss, or what is made of it."""
        self.calls += 1
        honest = self.problem.loss(theta, c, batch)
        return WAYS[self.way](honest, torch.cat(theta), self.calls) if self.calls > self.after else honest

    def true(self, found):
        """The honest mean loss of the batches, at a point and at the start."""
        base, residuals = self.problem.window([0.25] * 4)
        return [
            math.fsum(
                float(self.problem.loss([torch.cat(base) + c @ torch.cat(residuals, dim=1)], c, b)) for b in range(8)
            )
            for c in (found, torch.zeros(3, dtype=torch.float64))
        ]


WAYS = {
    "nan": lambda honest, _theta, _calls: honest * math.nan,
    "nan gradient": lambda honest, theta, _calls: honest + (theta * 0).abs().sqrt().sum(),
    "infinite": lambda honest, _theta, _calls: honest + math.inf,
    "minus infinite": lambda honest, _theta, _calls: honest - math.inf,
    "constant": lambda honest, _theta, _calls: 0.0 * honest + 1.0,
    "wrong gradient": lambda honest, _theta, _calls: 2 * honest.detach() - honest,
    "a cliff": lambda honest, _theta, _calls: honest**8,
    "growing": lambda honest, _theta, calls: honest + 10.0 * calls,
    "alternating": lambda honest, _theta, calls: honest * (1 + calls % 2),
    "huge": lambda honest, _theta, _calls: honest * 1e300,
}


@pytest.mark.parametrize("way", WAYS)
def test_no_loss_makes_a_fit_worse_than_its_start(way):
    """From whichever call on a loss works against the fit, the result is no worse on the fixed batches than the start."""
    for after in (8, 9, 12, 19):
        loss = Hostile(way, after)
        found = fit(*loss.problem.window([0.25] * 4), loss)
        reached, start = loss.true(found.coefficients)
        assert reached <= start
        assert bool(found.coefficients.isfinite().all())
        assert list(found.losses) == sorted(found.losses, reverse=True)
