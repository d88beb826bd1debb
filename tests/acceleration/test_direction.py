"""The direction of a metric is told from whole words of its name, in three answers."""

from __future__ import annotations

import re

import pytest
from sklearn.metrics import get_scorer_names

from rna_watch.acceleration.direction import direction, loss_beside

from .metric_names import MAXIMIZED, MINIMIZED, UNKNOWN

TABLE = [
    (name, mode)
    for families, mode in ((MAXIMIZED, "max"), (MINIMIZED, "min"), (UNKNOWN, None))
    for names in families.values()
    for name in re.split(r"\s{2,}", names.strip())
]


@pytest.mark.parametrize(("name", "mode"), TABLE, ids=[name for name, _ in TABLE])
def test_the_direction_of_a_real_name(name: str, mode: str | None) -> None:
    """Names of trackers, trainers and libraries are maximized, minimized, or not known."""
    assert direction(name) == mode


@pytest.mark.parametrize("form", ["val_{}", "eval/{}", "metrics/test/{}", "{}_epoch", "{}/dataloader_idx_0", "best {}"])
def test_what_trackers_add_to_a_name_changes_nothing(form: str) -> None:
    """The part of the data, the folder and the interval are no part of the metric."""
    plain = [(name, mode) for name, mode in TABLE if mode and re.fullmatch(r"[a-z0-9_]+", name)]
    assert len(plain) > 120
    assert [name for name, mode in plain if direction(form.format(name)) != mode] == []


@pytest.mark.parametrize("name", get_scorer_names())
def test_scorers_are_maximized(name: str) -> None:
    """Greater is better for every scorer of scikit-learn, whose errors are negated and called so."""
    assert direction(name) == "max"


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        *((name, "min") for name in ("incorrect", "inaccuracy", "processing_time", "mapping_time", "previous_ppl")),
        *((name, "max") for name in ("success", "hit_rate", "throughput", "win", "auprc", "nmi", "cider")),
        *(
            (name, None)
            for name in ("procedure", "mapper", "previous", "accumulated", "erratic", "scored_by", "mapped")
        ),
    ],
)
def test_parts_of_words_say_nothing(name: str, mode: str | None) -> None:
    """`roc`, `map`, `iou`, `acc`, `err` inside other words lied."""
    assert direction(name) == mode


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("accuracy", "max"),
        ("accuracy_error", "min"),
        ("error_accuracy", "max"),
        ("accuracy_loss", "min"),
        ("loss_accuracy", "min"),
        ("accuracy_drop", "min"),
        ("loss_drop", "max"),
        ("error_increase", "min"),
        ("accuracy_at_error", "max"),
        ("error_at_accuracy", "min"),
        ("neg_error", "max"),
        ("no_error", None),
        ("negative_sampling_loss", "min"),
        ("negative_class_f1", None),
        ("accuracy_std", None),
        ("std_accuracy", "max"),
        ("loss/std", None),
        ("loss/generator", "min"),
        ("1-shot accuracy", "max"),
        ("1 - accuracy", "min"),
        ("", None),
        ("\N{SNOWMAN}", None),
        ("損失", None),
    ],
)
def test_the_head_of_a_name_decides(name: str, mode: str | None) -> None:
    """Compounds, conditions, changes and negations mean what they mean in English."""
    assert direction(name) == mode


@pytest.mark.parametrize(
    ("metric", "names", "loss"),
    [
        ("error", "error loss nll", "loss"),
        ("error", "error nll loss", "nll"),
        ("top1.acc", "valLoss", "valLoss"),
        ("accuracy", "eval/cross_entropy", "eval/cross_entropy"),
        ("accuracy", "crossEntropy", "crossEntropy"),
        ("accuracy", "val.ce", "val.ce"),
        ("accuracy", "CE", "CE"),
        ("error", "lossless bce cer balance cross_validation error2", ""),
        ("error", "neg_loss loss_weight", ""),
        ("error", "test_loss train_loss trainingLoss", ""),
        ("test_error", "train_loss test_loss", "test_loss"),
        ("loss", "loss nll", ""),
        ("val_nll", "val_nll loss", ""),
    ],
)
def test_a_loss_ranks_beside_a_metric_by_whole_words(metric: str, names: str, loss: str) -> None:
    """The first loss of the metric's data is taken, beside no metric that is a loss itself."""
    assert loss_beside(metric, names.split()) == loss
