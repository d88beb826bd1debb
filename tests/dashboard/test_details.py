import dataclasses

import pytest
from rna_watch.dashboard.choice import choice, newest_choice

from rna_watch.journal import events as e

from .run_builder import RunBuilder

DIAGNOSTICS = {
    "condition": 1234567.0,
    "smallest_eigenvalue": 8.1e-7,
    "norm1": 1.4,
    "norm2": 0.9,
    "norm2_bound": 2236.07,
    "gain": 0.41,
    "cosine": -0.12,
    "decay_profile": [1.0, 0.9, 1.2],
    "effective_count": 3.6,
    "reach": 0.5,
    "sentence": "extrapolates 0.5 intervals past the newest checkpoint; 0.2 of the weight lies outside the window",
}
STEPS = [
    {
        "candidate": "average-5",
        "reference": "last",
        "gain": 2.02,
        "standard_error": 1.0,
        "threshold": 2.4,
        "accepted": False,
    },
    {
        "candidate": "rna-5-1e-08",
        "reference": "last",
        "gain": 3.1,
        "standard_error": None,
        "threshold": 0.0,
        "accepted": True,
    },
]


def explained(step=3, **changes):
    """A run whose newest choice is explained."""
    event = e.Chosen(
        checkpoint=f"epoch_{step:03}.pt",
        candidate="rna-5-1e-08",
        method="rna",
        inputs=[],
        weights=[],
        metrics={},
        better_than_original=True,
        significant=True,
        reason="",
        residuals="gradient",
        diagnostics=DIAGNOSTICS,
        comparisons=STEPS,
    )
    return RunBuilder().admit(step).add(dataclasses.replace(event, **changes)).state


def text(lines):
    """What a person reads."""
    return "\n".join(line.plain for line in lines)


def test_the_newest_choice_is_explained_in_words_and_numbers():
    """The panel says what the model does, gives every diagnostic number, and each step of the choice with its noise."""
    shown = text(choice(explained(), width=160, most=9))
    for words in (
        "newest choice",
        "epoch_003.pt",
        "rna-5-1e-08 extrapolates 0.5 intervals past the newest checkpoint",
        "residuals: gradient",
        "condition of R'R 1.2e+06",
        "smallest eigenvalue 8.1e-07",
        "|c|₁ 1.40",
        "|c|₂ 0.90 (at most 2.2e+03)",
        "residual 0.41 of the newest's",
        "cosine -0.12",
        "worth 3.60 checkpoints",
        "average-5 against the original: gain 2.02 ± 1.00, needs more than 2.40: not taken",
        "rna-5-1e-08 against the original: gain 3.10: taken",
    ):
        assert words in shown


def test_what_was_tested_on_is_named_with_the_gain():
    """A gain in the loss that ranks is not taken for one in the metric."""
    shown = text(choice(explained(tested_on="loss"), width=160, most=9))
    assert "rna-5-1e-08 against the original: gain 3.10 in loss: taken" in shown


@pytest.mark.parametrize("width", [20, 40, 80, 200])
@pytest.mark.parametrize("most", [0, 2, 3, 6, 9])
def test_it_keeps_to_its_room(width, most):
    """No line is wider and there are no more lines than there is room for; without room for a word there is none."""
    lines = choice(explained(), width=width, most=most)
    assert len(lines) <= most
    assert all(line.cell_len <= width for line in lines)
    assert bool(lines) == (most >= 3)


def test_missing_numbers_are_left_out():
    """What is not finite comes as null from the journal, and simply is not shown."""
    shown = text(
        choice(explained(diagnostics={"sentence": "is the newest checkpoint", "condition": None}), width=120, most=6)
    )
    assert "condition" not in shown
    assert "is the newest checkpoint" in shown


def test_a_choice_of_an_older_version_is_not_explained():
    """Journals without diagnostics show no panel."""
    assert newest_choice(explained(diagnostics={})) is None
    assert choice(explained(diagnostics={}), width=80, most=6) == []
