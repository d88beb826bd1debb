from rna_watch.comparison.members import length_of, members_of, recipe_at
from rna_watch.journal.recipe import read

from .run_of import Run


def only(run):
    """The only checkpoint of a run."""
    (checkpoint,) = run.state.checkpoints.values()
    return checkpoint


def test_a_candidate_has_the_method_that_the_search_names():
    """The journal's word for the method counts, not the candidate's name."""
    run = Run().checkpoint(3, {"last": 3.0, "average-2": 2.0, "odd": 1.0}, methods={"odd": "line"})
    assert {name: member.method for name, member in members_of(only(run)).items()} == {
        "last": "last",
        "average-2": "average",
        "odd": "line",
    }


def test_a_journal_without_searches_tells_methods_by_the_names():
    """Older journals: the text before the first dash is the method."""
    run = Run().checkpoint(3, {"last": 3.0, "average-2": 2.0, "rna-2-1e-08": 1.0, "trained": 4.0}, searched=False)
    assert [member.method for member in members_of(only(run)).values()] == ["last", "average", "rna", "trained"]


def test_a_duplicate_has_the_metrics_of_the_one_it_equals():
    """Also through another duplicate; one that leads nowhere, or in a circle, was not evaluated."""
    duplicates = {"rna-2-1e-02": "rna-2-1e-04", "rna-2-1e-04": "average-2", "a": "b", "b": "a", "lost": "gone"}
    found = members_of(only(Run().checkpoint(3, {"last": 3.0, "average-2": 2.0}, duplicates=duplicates)))
    assert found["rna-2-1e-02"].metrics == found["average-2"].metrics == {"error": 2.0}
    assert found["rna-2-1e-02"].method == "rna"
    assert set(found) == {"last", "average-2", "rna-2-1e-02", "rna-2-1e-04"}


def test_the_length_of_a_window_is_measured_or_told_by_the_names():
    """Residuals count; without them the largest window that a name speaks of."""
    values = {"last": 3.0, "average-2": 2.0, "rna-4-1e-08": 1.0}

    def length(run):
        return length_of(only(run), members_of(only(run)))

    assert length(Run().checkpoint(6, values, residuals=5)) == 5
    assert length(Run().checkpoint(6, values)) == 4
    assert length(Run().checkpoint(1, {"last": 3.0})) == 0


def test_a_recipe_uses_the_whole_window_only_while_that_is_shorter():
    """average-5 is average-3 after three intervals, but nothing else where it was just not evaluated."""

    def at(name, members, length):
        return recipe_at(name, read(name, {}), members, length)

    early = members_of(only(Run().checkpoint(4, {"last": 3.0, "average-3": 2.0, "average-2": 1.0})))
    assert at("average-5", early, 3).name == "average-3"
    assert at("average-2", early, 3).name == "average-2"
    late = members_of(only(Run().checkpoint(9, {"last": 3.0, "average-7": 2.0}, residuals=7)))
    assert at("average-5", late, 7) is None
    assert at("rna-5-1e-08", early, 3) is None
    assert at("trained", early, 3) is None


def test_a_recipe_is_told_by_its_fields_whatever_its_name_is():
    """The shorter member of the same lambda, prior and mixing stands in, and no other."""
    values = {"last": 3.0, "rna-3-1e-08": 2.0, "rna-3-1e-08-m0.5": 1.0, "decay-sqrt-3": 1.5, "cumulative-4": 1.2}
    early = members_of(only(Run().checkpoint(4, values, residuals=3)))
    for name, shorter in {
        "rna-5-1e-08": "rna-3-1e-08",
        "rna-5-1e-08-m0.5": "rna-3-1e-08-m0.5",
        "rna-5-1e-08-ema": None,
        "decay-sqrt-5": "decay-sqrt-3",
        "decay-cosine-5": None,
        "cumulative-6": "cumulative-4",
    }.items():
        found = recipe_at(name, read(name, {}), early, 3)
        assert (found.name if found else None) == shorter
