import itertools

import numpy as np
import pytest

from rna_watch.acceleration.coefficients import input_weights, norm_bound, spectrum
from rna_watch.acceleration.diagnostics import diagnose

from . import twins


def diagnosed(gram_nn, c, regularization=1e-2, mixing=1.0):
    """Diagnostics of c over residuals with this Gram matrix."""
    gram_nn, c = np.asarray(gram_nn, dtype=np.float64), np.asarray(c, dtype=np.float64)
    return diagnose(gram_nn, c, regularization, spectrum(gram_nn), input_weights(c, mixing))


def test_every_number_is_what_its_name_says():
    """Norms, bound, gain, cosine, profile and count agree with their definitions on real residuals."""
    iterates = twins.linear_iterates(5, 30, seed=21, noise=0.1)
    r, gram_nn = twins.residuals(iterates), twins.gram(iterates)
    c = np.array([0.5, -1.0, 0.5, 1.0])
    found = diagnosed(gram_nn, c)
    assert found.condition == pytest.approx(np.linalg.cond(gram_nn))
    assert found.norm1 == 3.0
    assert found.norm2 == pytest.approx(np.sqrt(2.5))
    assert found.norm2_bound == norm_bound(4, 1e-2)
    assert found.gain == pytest.approx(np.linalg.norm(c @ r) / np.linalg.norm(r[-1]))
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in itertools.pairwise(r)]
    assert found.cosine == pytest.approx(np.mean(cosines))
    assert found.decay_profile == pytest.approx((1.0, 0.5, 1.5, 1.0))
    assert found.effective_count == pytest.approx(1 / 2.5)
    assert found.smallest_eigenvalue == pytest.approx(1 / np.linalg.cond(gram_nn))
    assert found.reach == pytest.approx(0.5 - 2.0 + 1.5 + 4.0 - 4.0)


def test_the_model_is_the_newest_iterate_less_its_profile_of_steps():
    """w_i = sum of the later c_j says what the model keeps of each step: y_N - sum (1 - w_i) r_i is the combination."""
    iterates = twins.linear_iterates(5, 30, seed=22)
    c = np.array([0.25, -0.5, 0.25, 1.0])
    profile = np.array(diagnosed(twins.gram(iterates), c).decay_profile)
    np.testing.assert_allclose(iterates[-1] - (1 - profile) @ twins.residuals(iterates), c @ iterates[1:], atol=1e-12)


@pytest.mark.parametrize(
    ("c", "sentence"),
    [
        ([0.0, 0.0, 1.0], "is the newest checkpoint"),
        ([1 / 3, 1 / 3, 1 / 3], "acts as an average of about 3 checkpoints"),
        ([0.0, 0.5, 0.5], "acts as an average of about 2 checkpoints"),
        (
            [-0.5, 0.0, 1.5],
            "extrapolates 1 interval past the newest checkpoint; 0.5 of the weight lies outside the window",
        ),
        (
            [-1.5, 0.0, 2.5],
            "extrapolates 3 intervals past the newest checkpoint; 1.5 of the weight lies outside the window",
        ),
        (
            [0.5, -0.5, 1.0],
            "corrects the newest checkpoint with negative weights; 0.5 of the weight lies outside the window",
        ),
    ],
)
def test_one_sentence_says_what_it_does(c, sentence):
    """A person reads whether it is the newest, an average, or an extrapolation, and how far."""
    assert diagnosed(np.eye(3), c).sentence == sentence


@pytest.mark.parametrize(
    ("c", "mixing", "sentence", "reach"),
    [
        ([0.0, 0.0, 1.0], 0.0, "is the checkpoint 1 before the newest", -1.0),
        ([0.0, 0.0, 1.0], 0.5, "acts as an average of about 2 checkpoints", -0.5),
        (
            [-0.5, 0.0, 1.5],
            0.0,
            "corrects the newest checkpoint with negative weights; 0.5 of the weight lies outside the window",
            0.0,
        ),
        (
            [0.0, 0.0, 1.0],
            2.0,
            "extrapolates 1 interval past the newest checkpoint; 1 of the weight lies outside the window",
            1.0,
        ),
    ],
)
def test_with_mixing_the_model_is_described_and_not_the_coefficients(c, mixing, sentence, reach):
    """Sentence, reach and profile are those of the weights that make the model; the norms stay those of c."""
    iterates = twins.linear_iterates(4, 30, seed=23)
    found = diagnosed(twins.gram(iterates), c, mixing=mixing)
    assert (found.sentence, found.reach) == (sentence, pytest.approx(reach))
    assert found.norm1 == np.abs(c).sum()
    model = input_weights(np.array(c), mixing) @ iterates
    kept = 1 - np.array(found.decay_profile)
    np.testing.assert_allclose(iterates[-1] - kept @ twins.residuals(iterates), model, atol=1e-12)


def test_a_straight_walk_and_a_zigzag():
    """The cosine is +1 for steps straight on and -1 for steps back and forth."""
    assert diagnosed(np.ones((3, 3)), [0, 0, 1]).cosine == pytest.approx(1.0)
    assert diagnosed([[1, -1], [-1, 1]], [0.5, 0.5]).cosine == pytest.approx(-1.0)


def test_what_solves_no_system_has_no_bound():
    """Averages and trained weights have no lambda, so no bound on their norm is claimed."""
    assert diagnosed(np.eye(2), [0.5, 0.5], regularization=None).norm2_bound is None


def test_nothing_is_divided_by_zero():
    """Gain and cosine are NaN, without a warning, if the newest step is zero or the only one."""
    stopped = diagnosed([[1, 0], [0, 0]], [0.5, 0.5])
    assert np.isnan(stopped.gain)
    assert np.isnan(stopped.cosine)
    assert stopped.condition == float("inf")
    assert np.isnan(diagnosed([[2.0]], [1.0]).cosine)
