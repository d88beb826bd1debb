import dataclasses

import pytest

from rna_watch.dashboard.details import details
from rna_watch.journal import events as e
from rna_watch.journal.metric import metric_of

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


def shown(width=160, **changes):
    """The details of a checkpoint that was chosen for."""
    state = explained(**changes)
    return text(details(state, state.checkpoints["epoch_003.pt"], metric_of(state), width=width))


def test_a_choice_is_explained_in_words_and_numbers():
    """It says what the model does, gives every diagnostic number, and each step of the choice with its noise."""
    found = shown()
    for words in (
        "epoch_003.pt",
        "extrapolates 0.5 intervals past the newest checkpoint",
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
        assert words in found


def test_what_was_tested_on_is_named_with_the_gain():
    """A gain in the loss that ranks is not taken for one in the metric."""
    assert "rna-5-1e-08 against the original: gain 3.10 in loss: taken" in shown(tested_on="loss")


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_no_line_is_too_wide(width):
    """Whatever there is to say, it is wrapped or cut."""
    state = explained(inputs=["x" * 300, "b"], weights=[1e300, -1e300], spread=[0.5, 0.1])
    lines = details(state, state.checkpoints["epoch_003.pt"], metric_of(state), width=width)
    assert max(line.cell_len for line in lines) <= width


def test_missing_numbers_are_left_out():
    """What is not finite comes as null from the journal, and simply is not shown."""
    found = shown(diagnostics={"sentence": "is the newest checkpoint", "condition": None})
    assert "condition" not in found
    assert "is the newest checkpoint" in found


def test_candidates_stand_best_first_with_what_failed_below():
    """Every candidate has its value and its gain over the original; the chosen one is marked; reasons are whole."""
    run = RunBuilder(metric="accuracy", mode="max").admit(3)
    for candidate, value in (("last", 0.80), ("average-3", 0.84), ("rna-3-1e-08", 0.88), ("ema-3", float("nan"))):
        run.evaluate(3, candidate, value)
    run.add(e.EvaluationFailed(checkpoint="epoch_003.pt", candidate="line", reason="eval.py:7: ValueError: no"))
    run.choose(3, original=0.8, average=0.84, rna=0.88, weights=[0, -0.5, 1.5], candidate="rna-3-1e-08")
    state = run.state
    lines = text(details(state, state.checkpoints["epoch_003.pt"], metric_of(state), width=80)).split("\n")
    first = lines.index(next(line for line in lines if "candidates" in line))
    assert [line.rstrip() for line in lines[first + 1 : first + 7]] == [
        "  candidate     accuracy    gain",
        "✓ rna-3-1e-08     0.8800  +10.0%",
        "  average-3       0.8400   +5.0%",
        "  the original    0.8000",
        "  ema-3              nan",
        "✗ line: eval.py:7: ValueError: no",
    ]
    assert [line.split() for line in lines[-3:]] == [
        ["epoch_001.pt", "+0.000", "│"],
        ["epoch_002.pt", "-0.500", "━━━━━━━│"],
        ["epoch_003.pt", "+1.500", "│━━━━━━━━━━━━━━━━━━━━"],
    ]
