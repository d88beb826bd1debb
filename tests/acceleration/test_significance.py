"""Equal models are told apart no more often than is promised, also where few examples differ; better ones are seen."""

import math
from itertools import product
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rna_watch.acceleration.significance import compare, least_gain, ranked, student_quantile

LEVEL = 0.05


def accepted(differences, tried=1):
    """Whether a candidate that gains so much on each example is taken for better than the other."""
    examples = {"candidate": differences, "reference": np.zeros(len(differences))}
    values = {name: float(each.mean()) for name, each in examples.items()}
    return compare("candidate", "reference", values, examples, mode="max", compared_count=tried).accepted


def by_hand(differences, tried):
    """The slow twin: the part of all signs that give at least this sum."""
    sizes = [abs(each) for each in differences if each]
    total = math.fsum(differences)
    sums = [
        math.fsum(s * size for s, size in zip(signs, sizes, strict=True))
        for signs in product((1, -1), repeat=len(sizes))
    ]
    return sum(each >= total - 1e-7 for each in sums) / len(sums) <= LEVEL / tried and total > 0


@given(
    st.lists(st.sampled_from([0, 0, 1, -1, 1, 1, 0.5, 0.25, 2]), min_size=10, max_size=13), st.sampled_from([1, 3, 8])
)
def test_few_examples_that_differ_are_compared_over_all_signs(differences, tried):
    """A gain counts exactly where at most the level's part of all signs would give as much."""
    assert accepted(np.array(differences, dtype=float), tried) == by_hand(differences, tried)


@pytest.mark.parametrize("m", [1, 4, 5, 9, 20])
def test_a_metric_of_right_and_wrong_is_tested_as_by_mcnemar(m):
    """The wins among m discordant examples must be as many as a fair coin shows with a chance of at most 5 %."""
    for wins in range(m + 1):
        chance = sum(math.comb(m, k) for k in range(wins, m + 1)) / 2**m
        differences = np.zeros(1000)
        differences[:m] = [1.0] * wins + [-1.0] * (m - wins)
        assert accepted(differences) == (chance <= LEVEL)


SIZES = {
    "right and wrong": lambda rng, shape: np.ones(shape),
    "three grades": lambda rng, shape: rng.choice([1 / 3, 2 / 3, 1.0], size=shape),
    "losses": lambda rng, shape: np.abs(rng.standard_normal(shape)),
    "losses with outliers": lambda rng, shape: np.exp(1.5 * rng.standard_normal(shape)),
}


@pytest.mark.parametrize("tried", [1, 8])
@pytest.mark.parametrize("m", [3, 6, 12, 25, 60])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_equal_models_are_rarely_told_apart_whatever_the_number_that_differs(sizes, m, tried):
    """Over seeded trials the part of false wins is at most the level, within three standard errors of the trials."""
    rng = np.random.default_rng([m, tried])
    trials, n, wins = 1000, 500, 0
    for row in sizes(rng, (trials, m)) * rng.choice([-1.0, 1.0], size=(trials, m)):
        wins += accepted(np.concatenate([row, np.zeros(n - m)]), tried)
    level = LEVEL / tried
    assert wins / trials <= level + 3 * math.sqrt(level * (1 - level) / trials)


def test_the_normal_quantile_was_too_easy():
    """Four of four discordant examples: chance gives as much in one trial of sixteen, and the normal quantile accepts it."""
    differences = np.zeros(500)
    differences[:4] = 1.0
    error = differences.std(ddof=1) / math.sqrt(500)
    assert differences.mean() > NormalDist().inv_cdf(1 - LEVEL) * error
    assert not accepted(differences)


@pytest.mark.parametrize("tried", [1, 8])
@pytest.mark.parametrize("m", [12, 25, 60])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_a_better_model_is_seen(sizes, m, tried):
    """Few differences suffice in more than a third of trials if nineteen of twenty examples that differ are better."""
    rng = np.random.default_rng([m, tried])
    trials, n, wins = 200, 500, 0
    for row in sizes(rng, (trials, m)) * rng.choice([-1.0, 1.0], size=(trials, m), p=[0.05, 0.95]):
        wins += accepted(np.concatenate([row, np.zeros(n - m)]), tried)
    assert wins > trials / 3


def test_nothing_that_differs_is_no_gain():
    """Models that give the same on every example are not told apart."""
    assert least_gain(np.zeros(50), 1) == 0.0
    assert not accepted(np.zeros(50))


def test_students_quantile_is_the_tables():
    """The quantiles of printed tables, from twenty degrees of freedom on."""
    table = {(0.05, 20): 1.7247, (0.05, 60): 1.6706, (0.025, 30): 2.0423, (0.005, 24): 2.7969, (0.001, 40): 3.3069}
    for (level, degrees), value in table.items():
        assert student_quantile(level, degrees) == pytest.approx(value, abs=2e-4)


@pytest.mark.parametrize(("mode", "order"), [("min", "ecda"), ("max", "acde")])
def test_models_are_ranked_by_their_values(mode, order):
    """Best first, equal ones in the order given; what has no value, or NaN, has no place."""
    values = {"a": 3.0, "b": None, "c": 2.0, "d": 2.0, "e": -math.inf, "f": math.nan}
    assert ranked(values, values.get, mode) == list(order)
