"""The contract of the methods: it runs over the registry, so that a new one is held to it without a line here."""

import dataclasses
import json
import re

import numpy as np
import pytest

from rna_watch.acceleration.coefficients import spectrum
from rna_watch.acceleration.family import family, single
from rna_watch.acceleration.methods import (
    ALONE,
    AVERAGES,
    COMPUTED,
    LAST,
    METHODS,
    PRIORS,
    PRODUCTS,
    SEARCHED,
    SOLUTIONS,
    TRAINING,
    UNIFORM,
    Search,
    kind_of,
)
from rna_watch.acceleration.residuals import Residuals
from rna_watch.acceleration.selection import Evidence, choose
from rna_watch.config import RunConfig
from rna_watch.daemon.searches import SEARCHES

from . import twins

EVERYTHING = Search(
    windows=(2, 3, 7),
    regularizations=(1e-8, 1e-2),
    priors=tuple(PRIORS),
    mixings=(1.0, 0.5),
    limit=1000,
)


def residuals_of(n, seed=51):
    """A window of n residuals, some of whose solutions have weights of both signs."""
    return Residuals.of_differences(twins.gram(twins.linear_iterates(n + 1, 40, seed=seed, noise=1e-3)))


def members(method, n):
    """All members of a method, of all lengths, in a window of n residuals."""
    found = family(residuals_of(n), dataclasses.replace(EVERYTHING, methods=(method,)))
    return found.candidates[1:]


@pytest.mark.parametrize("method", COMPUTED)
@pytest.mark.parametrize("n", [2, 3, 8])
def test_the_members_of_a_method_are_models_named_after_it(method, n):
    """Weights are finite, one for each checkpoint, and sum to one; the name begins with the method's, and no two are alike."""
    found = members(method, n)
    assert found or n < 8, "in the smallest windows a member may be the last checkpoint"
    assert len({each.name for each in found}) == len(found)
    for each in found:
        assert each.method == method
        assert re.fullmatch(rf"{method}(-[a-z]+)?-\d+(-.+)?", each.name)
        assert len(each.weights) == n + 1
        assert np.isfinite(each.weights).all()
        assert sum(each.weights) == pytest.approx(1.0, abs=1e-9)
        assert each.diagnostics.sentence


@pytest.mark.parametrize("method", COMPUTED)
def test_fields_tell_a_member_from_all_others(method):
    """Window, lambda and parameters, as they are recorded, belong to one member alone: nobody has to read its name."""
    found = members(method, 8)
    recorded = [json.dumps([each.window, each.regularization, dict(each.parameters)]) for each in found]
    assert len(set(recorded)) == len(found)
    for each in found:
        assert (each.regularization is None) == (METHODS[method].kind != SOLUTIONS)
        assert all(type(value) in {str, float} for value in each.parameters.values())


@pytest.mark.parametrize("method", METHODS)
def test_a_method_says_what_it_is(method):
    """Its kind is one of five, its words are a line for people, and its settings exist, with its own ways of making members."""
    of = METHODS[method]
    assert of.kind in {AVERAGES, SOLUTIONS, SEARCHED, PRODUCTS, TRAINING}
    assert kind_of(method) == of.kind
    assert "\n" not in of.words
    assert of.words == of.words.strip(" .")
    assert len(of.words.split()) >= 4
    assert set(of.settings) <= set(RunConfig.model_fields)
    assert re.fullmatch("[a-z]+", method)
    ways = [of.weights is not None, of.solve is not None, method in SEARCHES]
    assert sum(ways) == 1
    assert not of.weights or of.kind == AVERAGES
    assert bool(of.solve) == (of.kind == SOLUTIONS)


@pytest.mark.parametrize("method", [name for name in COMPUTED if METHODS[name].weights])
@pytest.mark.parametrize("length", [1, 2, 5, 50])
def test_an_average_weighs_the_newest_checkpoints(method, length):
    """It has as many weights as its length, none of them negative, without looking at the Gram matrix."""
    for _, weights in METHODS[method].weights(length, Search()):
        assert weights.shape == (length,)
        assert weights.min() >= 0.0
        assert weights.sum() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("method", [name for name in COMPUTED if METHODS[name].solve])
def test_a_solution_ends_at_its_prior(method):
    """A solution with infinite lambda is its limit: the uniform average, or another prior."""
    gram_nn = residuals_of(5).gram_nn
    for parameters, solution in METHODS[method].solve(gram_nn, spectrum(gram_nn), 1e16, EVERYTHING):
        expected = PRIORS[parameters.get("prior", UNIFORM)](5, EVERYTHING.ema_decay)
        np.testing.assert_allclose(solution.coefficients, np.full(5, 0.2) if expected is None else expected, atol=1e-12)


def test_settings_of_methods_are_all_of_the_search():
    """Every setting that the search holds is one that a method declares, or one of those that all methods share."""
    declared = {name for method in METHODS.values() for name in method.settings}
    shared = {"window", "windows", "regularizations", "methods", "limit"}
    assert {field.name for field in dataclasses.fields(Search)} - shared == declared & set(Search.__slots__)
    assert declared >= {"mixings", "priors", "l1_cap", "ema_decays"}
    assert RunConfig(l1_cap=3.0).search(limit=2) == Search(
        regularizations=RunConfig().regularizations, methods=RunConfig().methods, l1_cap=3.0, limit=2
    )


@pytest.mark.parametrize("method", COMPUTED)
def test_the_choice_says_the_kind_of_a_method(method):
    """An average that wins is called one, and is the best average; a solution that wins is the best RNA."""
    candidate, _ = single(residuals_of(5), method, 1e-2, Search())
    last, _ = single(residuals_of(5), LAST, 0.0, Search())
    choice = choose((last, candidate), Evidence(values={LAST: 2.0, candidate.name: 1.0}, mode="min"))
    average = METHODS[method].kind == AVERAGES
    assert choice.reason.startswith("the plain average" if average else "extrapolation")
    assert (choice.best_average, choice.best_rna) == ((candidate.name, None) if average else (None, candidate.name))


def test_the_registry_is_the_list_of_the_settings_and_the_commands():
    """`methods` takes every method, `--method` of extrapolate those of one window and `last`; the default is what is usual."""
    assert RunConfig(methods=tuple(METHODS)).methods == tuple(METHODS)
    assert RunConfig().methods == tuple(name for name, method in METHODS.items() if method.usual)
    assert set(ALONE) == {LAST, *COMPUTED}
