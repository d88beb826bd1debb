"""How candidates are made, as the journal records it, and as the names of 0.1.0 tell it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from rna_watch.acceleration.family import family
from rna_watch.acceleration.methods import COMPUTED, PRIORS, RE_ESTIMATED, Search
from rna_watch.acceleration.residuals import Residuals
from rna_watch.journal.recipe import Recipe, read, recorded
from tests.acceleration import twins

EVERYTHING = Search(
    windows=(2, 6),
    regularizations=(0.0, 1e-8, 0.055, 1e12),
    priors=tuple(PRIORS),
    mixings=(1.0, 0.5, -1.0),
    ema_decays=(0.7,),
    limit=1000,
)
MEMBERS = family(
    Residuals.of_differences(twins.gram(twins.linear_iterates(7, 40, seed=33, noise=1e-2))), EVERYTHING
).candidates
RECORD_OF_0_1_0 = ("name", "method", "window", "regularization", "weights", "sentence")


def test_what_is_recorded_is_read_again() -> None:
    """Through JSON, a candidate's method, window, lambda, parameters and statistics come back, and no two are alike."""
    assert {each.method for each in MEMBERS} == {"last", *COMPUTED}
    read_back = [read(each.name, json.loads(json.dumps(recorded(each)))) for each in MEMBERS]
    assert len(set(read_back)) == len(MEMBERS)
    for each, recipe in zip(MEMBERS, read_back, strict=True):
        assert (recipe.method, recipe.window, recipe.regularization) == (each.method, each.window, each.regularization)
        assert dict(recipe.parameters) == each.parameters
        assert recipe.statistics == each.statistics


def test_the_names_of_0_1_0_tell_what_its_records_lack() -> None:
    """Prior, mixing, shape and statistics stood in names alone; settings (a decay, a cap) stood nowhere."""
    nowhere = {"ema_decay", "l1_cap"}
    for each in MEMBERS:
        for candidate in (each, replace(each, name=f"{each.name}+re-estimated", statistics=RE_ESTIMATED)):
            full = {"name": candidate.name, **recorded(candidate), "weights": list(candidate.weights), "sentence": ""}
            old = read(candidate.name, {key: full[key] for key in RECORD_OF_0_1_0})
            new = read(candidate.name, recorded(candidate))
            told = tuple((key, value) for key, value in new.parameters if key not in nowhere)
            assert old == replace(new, parameters=told)


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("last", Recipe(method="last")),
        ("average-5", Recipe(method="average", window=5)),
        ("cumulative-6", Recipe(method="cumulative", window=5)),
        ("decay-sqrt-5", Recipe(method="decay", window=5, parameters=(("shape", "sqrt"),))),
        ("trained-5+re-estimated", Recipe(method="trained", window=5, statistics=RE_ESTIMATED)),
        ("line-0.5-rna-5-1e-08", Recipe(method="line")),
        ("soup-0+1+3", Recipe(method="soup")),
        ("magic-7", Recipe(method="magic", window=7)),
        ("odd", Recipe(method="odd")),
        ("ema-0.9", Recipe(method="ema")),
        (
            "rna-5-1e-08-ema-m0.5",
            Recipe(method="rna", window=5, regularization=1e-8, parameters=(("mixing", 0.5), ("prior", "ema"))),
        ),
        (
            "rna-5-inf",
            Recipe(
                method="rna", window=5, regularization=float("inf"), parameters=(("mixing", 1.0), ("prior", "uniform"))
            ),
        ),
    ],
)
def test_a_name_alone_tells_what_it_can(name: str, recipe: Recipe) -> None:
    """A name of 0.1.0 gives the fields that it was made of, if nothing else was recorded."""
    assert read(name, {}) == recipe
