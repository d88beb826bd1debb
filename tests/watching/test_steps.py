"""Steps in names, natural order, sequences."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rna_watch.watching import steps


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("epoch_9.pt", ("epoch", 9)),
        ("epoch=3-step=1200.ckpt", ("step", 1200)),
        ("epoch=3-val_loss=0.25.ckpt", ("epoch", 3)),
        ("epoch=1-v1.ckpt", ("epoch", 1)),
        ("checkpoint-500/model.safetensors", ("number", 500)),
        ("iter_0000100/x.pt", ("step", 100)),
        ("ep3-ba20-rank0.pt", ("step", 20)),
        ("checkpoint_12.pth.tar", ("number", 12)),
        ("resnet18_e5.pt", ("epoch", 5)),
        ("mobilenetv2-epoch4.pt", ("epoch", 4)),
        ("net_0010.pth", ("number", 10)),
        ("model7.pt", ("number", 7)),
        ("0007.pt", ("number", 7)),
        ("resnet18.pt", None),
        ("last.pt", None),
        ("model_best.pth.tar", None),
        ("run1/last.pt", None),
        ("run1/epoch_3/last.pt", ("epoch", 3)),
        ("global_step500/model.pt", ("step", 500)),
        ("model-epoch=03-val_loss=0.25-v2.ckpt", ("epoch", 3)),
        ("model_epoch3_acc0.91.pth", ("epoch", 3)),
        ("unit5.pt", None),
        ("Epoch_007.PTH", ("epoch", 7)),
        ("2024-05-01.pt", None),
        ("ckpt_2024-01-31_23-59.pt", None),
        ("model_20240131_101500.pt", None),
        ("model-20240131101500.pt", None),
        ("202401311015.pt", None),
        ("2024-01-31T10:15:00.123.pt", None),
        ("2024.01.31-10.15.pt", None),
        ("2024_01_31_net_7.pt", ("number", 7)),
        ("run-2024-01-31_500.pt", ("number", 500)),
        ("2024-01-31_epoch3.pt", ("epoch", 3)),
        ("checkpoint-20000000.pt", ("number", 20_000_000)),
        ("step_20240131.pt", ("step", 20_240_131)),
        ("checkpoint_1_1000.pt", ("number", 1000)),
        ("checkpoint_12_34000-shard0.pt", ("number", 34_000)),
        ("checkpoint_3_0.25.pt", ("number", 3)),
        ("checkpoint3.pt", ("number", 3)),
        ("10_rank_1.pt", ("number", 10)),
        ("run_5.pt", ("number", 5)),
        ("c81e728d.pt", None),
        ("81e728d.pt", None),
        ("E4DA3B7F.ckpt", None),
        ("model-1f0e3dad99908345f7439f8ffabdffc4.pt", None),
        ("550e8400-e29b-41d4-a716-446655440000.pt", None),
        ("1234567_c81e728d.pt", ("number", 1_234_567)),
        ("c81e728d_epoch_3.pt", ("epoch", 3)),
        ("ep0-ba10000-rank0.pt", ("step", 10_000)),
        ("net_e123456.pt", ("epoch", 123_456)),
        ("12345678.pt", ("number", 12_345_678)),
    ],
)
def test_the_step_is_read_from_the_name(name: str, expected: tuple[str, int] | None) -> None:
    """Steps before epochs before numbers; decimals, versions, dates and the numbers of words are none."""
    assert steps.from_name(name) == expected


def test_natural_order_counts() -> None:
    """epoch_9 comes before epoch_10, and names without numbers in the order of the alphabet."""
    names = ["epoch_10.pt", "b.pt", "epoch_9.pt", "a.pt", "epoch_9b.pt"]
    assert sorted(names, key=steps.natural_key) == ["a.pt", "b.pt", "epoch_9.pt", "epoch_9b.pt", "epoch_10.pt"]


@given(st.lists(st.text(max_size=12), max_size=5))
def test_any_names_can_be_ordered(names):
    """Names of any characters have a place in the order, and telling a step from them never fails."""
    keys = [steps.natural_key(name) for name in names]
    backwards = keys[::-1]
    assert sorted(keys) == sorted(backwards)
    for name in names:
        steps.from_name(f"{name}.pt")


def test_a_sequence_is_a_name_without_its_numbers() -> None:
    """G_1 and G_2 belong together, D_1 does not."""
    assert steps.series("a/G_1.pt") == steps.series("a/G_22.pt") != steps.series("a/D_1.pt")


def test_hashes_are_of_one_sequence() -> None:
    """Names that only a hash or a UUID tells apart belong together, whatever letters it has."""
    assert steps.series("model-c81e728d.pt") == steps.series("model-1679091c.pt") == "model-#.pt"
    assert steps.series("550e8400-e29b-41d4-a716-446655440000.pt") == "#.pt"
    assert steps.series("facade.pt") == "facade.pt"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("rank0_step40.pt", "rank0_step#.pt"),
        ("ckpt_step40_rank1.pt", "ckpt_step#_rank1.pt"),
        ("seed_1-epoch=3.ckpt", "seed_1-epoch=#.ckpt"),
        ("fold-2/epoch_3.pt", "fold-2/epoch_#.pt"),
        ("iter_0000100/mp_rank_01/model.pt", "iter_#/mp_rank_01/model.pt"),
        ("10_rank_1.pt", "#_rank_1.pt"),
        ("run_5.pt", "run_#.pt"),
        ("seed_1_run_5.pt", "seed_1_run_#.pt"),
        ("prune3_step5.pt", "prune#_step#.pt"),
        ("version_2/epoch=1-step=5.ckpt", "version_2/epoch=#-step=#.ckpt"),
        ("rank0_c81e728d.pt", "rank0_#.pt"),
    ],
)
def test_what_tells_runs_apart_stays_in_the_sequence(path: str, expected: str) -> None:
    """Numbers after rank, seed, fold and the like are blotted out only where one is the step itself."""
    assert steps.series(path) == expected


@pytest.mark.parametrize("ending", [".pt", ".pth", ".pth.tar", ".ckpt", ".safetensors", ".bin"])
def test_endings_are_taken_off_whole(ending: str) -> None:
    """The stem and the ending of a path make its last part."""
    assert (steps.stem(f"a/model.x{ending}"), steps.ending(f"a/model.x{ending}")) == ("model.x", ending)
