import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rna_watch.acceleration import fixed_weights

LENGTHS = st.integers(1, 30)
SHAPES = ("linear", "sqrt", "cosine")


@given(LENGTHS, st.floats(0, 1), st.sampled_from(SHAPES))
def test_every_profile_is_an_average(n, decay, shape):
    """Uniform, last, exponential and every decay have N weights, none negative, that sum to one."""
    for c in (
        fixed_weights.uniform(n),
        fixed_weights.last(n),
        fixed_weights.exponential(n, decay),
        fixed_weights.decay_profile(n, shape),
    ):
        assert c.shape == (n,)
        assert c.min() >= 0.0
        assert c.sum() == pytest.approx(1.0, abs=1e-12)


def test_the_exponential_average_is_the_usual_recursion():
    """The weights are those of avg = decay avg + (1 - decay) y, corrected for its start at zero."""
    decay, rng = 0.7, np.random.default_rng(1)
    iterates, average = rng.standard_normal((6, 3)), np.zeros(3)
    for iterate in iterates:
        average = decay * average + (1 - decay) * iterate
    np.testing.assert_allclose(fixed_weights.exponential(6, decay) @ iterates, average / (1 - decay**6))


def test_the_exponential_average_joins_the_last_and_the_uniform():
    """Decay 0 is the newest iterate alone, decay 1 the plain average."""
    np.testing.assert_array_equal(fixed_weights.exponential(4, 0.0), fixed_weights.last(4))
    np.testing.assert_array_equal(fixed_weights.exponential(4, 1.0), fixed_weights.uniform(4))


@pytest.mark.parametrize(
    ("shape", "f"),
    [
        ("linear", lambda t: 1 - t),
        ("sqrt", lambda t: 1 - np.sqrt(t)),
        ("cosine", lambda t: 0.5 + 0.5 * np.cos(np.pi * t)),
    ],
)
def test_a_decay_is_left_on_the_steps(shape, f):
    """The merge equals a run whose i-th step was scaled by f((i - 1) / N), the first one in full."""
    n, rng = 7, np.random.default_rng(2)
    steps = rng.standard_normal((n, 4))
    iterates = np.cumsum(steps, axis=0)
    decayed = sum(f(i / n) * step for i, step in enumerate(steps))
    c = fixed_weights.decay_profile(n, shape)
    np.testing.assert_allclose(c @ iterates, decayed, atol=1e-12)
    np.testing.assert_allclose(fixed_weights.as_decay(c), f(np.arange(n) / n), atol=1e-12)


def test_the_linear_decay_is_the_uniform_average():
    """A linear decay of the learning rate is what the plain average stands for."""
    np.testing.assert_allclose(fixed_weights.decay_profile(9, "linear"), fixed_weights.uniform(9), atol=1e-15)


@given(LENGTHS, st.sampled_from(SHAPES))
def test_the_decay_begins_at_one_and_inverts(n, shape):
    """w_1 is the sum of all coefficients, and the differences of w are the coefficients."""
    c = fixed_weights.decay_profile(n, shape)
    w = fixed_weights.as_decay(c)
    assert w[0] == pytest.approx(1.0)
    np.testing.assert_allclose(-np.diff(np.append(w, 0.0)), c, atol=1e-15)


@pytest.mark.parametrize(
    "make", [fixed_weights.uniform, fixed_weights.last, lambda n: fixed_weights.exponential(n, 0.5)]
)
def test_a_window_of_none_is_misuse(make):
    """There is no profile over no residuals."""
    with pytest.raises(ValueError, match="at least 1 residual, not 0"):
        make(0)


@pytest.mark.parametrize("decay", [-0.1, 1.1, float("nan")])
def test_a_decay_that_is_none_is_misuse(decay):
    """A decay outside [0, 1] raises and is named."""
    with pytest.raises(ValueError, match=f"not at {decay}"):
        fixed_weights.exponential(3, decay)


def test_a_shape_that_is_none_is_misuse():
    """An unknown shape raises, and the known ones are named."""
    with pytest.raises(ValueError, match="linear, sqrt or cosine, not 'square'"):
        fixed_weights.decay_profile(3, "square")
