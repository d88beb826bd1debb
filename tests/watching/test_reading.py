"""What the names of a run tell together: the step, the series, and in which order they are taken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rna_watch.watching.reading import Reading


def _series(path: str) -> str:
    return Reading([path]).of(path).series


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
        ("run_5.pt", None),
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
        ("epoch_3_lr1e-3.pth", ("epoch", 3)),
        ("lr5e-4_3.pth", ("number", 3)),
        ("lr5e-4.pth", None),
        ("epoch=0-val_loss=1.2e-05.ckpt", ("epoch", 0)),
        ("gpt--val_loss=2.40-step=100.ckpt", ("step", 100)),
        ("step_1000/llama_7b.pt", ("step", 1000)),
        ("global_step_10/actor/model_world_size_2_rank_0.pt", ("step", 10)),
        ("checkpoints/020000/pretrained_model", ("number", 20_000)),
        ("ckpt/500/model.pth", ("number", 500)),
        ("net_acc_93.pth", None),
        ("model_fold_1.pth", None),
        ("best_model_fold_1.pth", None),
        ("trial-7.pt", None),
        ("100_steps.pt", ("step", 100)),
        ("step_10k.pt", ("step", 10_000)),
    ],
)
def test_the_step_is_read_from_a_single_name(name: str, expected: tuple[str, int] | None) -> None:
    """Steps before epochs before numbers; decimals, versions, dates and the numbers of words are none."""
    read = Reading([name]).of(name)
    assert (None if read.step is None else (read.kind, read.step)) == expected


def test_a_sequence_is_a_name_without_its_numbers() -> None:
    """G_1 and G_2 belong together, D_1 does not."""
    assert _series("a/G_1.pt") == _series("a/G_22.pt") != _series("a/D_1.pt")


def test_hashes_are_of_one_sequence() -> None:
    """Names that only a hash or a UUID tells apart belong together, whatever letters it has."""
    assert _series("model-c81e728d.pt") == _series("model-1679091c.pt") == "model-#.pt"
    assert _series("550e8400-e29b-41d4-a716-446655440000.pt") == "#.pt"
    assert _series("facade.pt") == "facade.pt"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("rank0_step40.pt", "rank0_step#.pt"),
        ("ckpt_step40_rank1.pt", "ckpt_step#_rank1.pt"),
        ("seed_1-epoch=3.ckpt", "seed_1-epoch=#.ckpt"),
        ("fold-2/epoch_3.pt", "fold-2/epoch_#.pt"),
        ("iter_0000100/mp_rank_01/model.pt", "iter_#/mp_rank_01/model.pt"),
        ("10_rank_1.pt", "#_rank_1.pt"),
        ("run_5.pt", "run_5.pt"),
        ("seed_1_run_5.pt", "seed_1_run_5.pt"),
        ("prune3_step5.pt", "prune#_step#.pt"),
        ("version_2/epoch=1-step=5.ckpt", "version_2/epoch=#-step=#.ckpt"),
        ("rank0_c81e728d.pt", "rank0_#.pt"),
    ],
)
def test_what_tells_runs_apart_stays_in_the_sequence(path: str, expected: str) -> None:
    """Numbers after rank, seed, fold and the like are never blotted out."""
    assert _series(path) == expected


_SETS: dict[str, tuple[list[str], list[int | None], int]] = {
    # names in the order of steps, the steps, the number of series
    "a keyword that never varies": ([f"epoch2_{i}.pt" for i in (1, 2, 3)], [1, 2, 3], 1),
    "an upscale factor": ([f"netG_epoch_4_{i}.pth" for i in (9, 10, 11)], [9, 10, 11], 1),
    "a setting": ([f"epoch_{i}_lr1e-3.pth" for i in (1, 2, 10)], [1, 2, 10], 1),
    "a folder with a keyword": ([f"step_{i}/llama_7b.pt" for i in (1000, 2000)], [1000, 2000], 1),
    "signs and notations": (["m_e1_nll=-0.20.pt", "m_e2_nll=0.1.pt", "m_e3_nll=9e-05.pt"], [1, 2, 3], 1),
    "rewards": (["rew__-12.5_1.pt", "rew__3.5_2.pt", "rew__7_3.pt"], [1, 2, 3], 1),
    "NeMo": (["gpt--val_loss=2.40-step=100.ckpt", "gpt--val_loss=2.10-step=200.ckpt"], [100, 200], 1),
    "folders of numbers": ([f"checkpoints/{i:06d}/pretrained_model" for i in (20_000, 40_000)], [20_000, 40_000], 1),
    "folds": ([f"model_fold_{i}.pth" for i in range(1, 11)], [None] * 10, 10),
    "seeds": ([f"seed_{s}_epoch_{i}.pt" for s in (1, 2) for i in (1, 2)], [1, 2, 1, 2], 2),
    "runs by a word of their own": (["a0_step0.pt", "a0_step1.pt", "a1_step0.pt", "a1_step1.pt"], [0, 1, 0, 1], 2),
    "runs by a setting": ([f"epoch_{i}_lr{r}.pt" for r in ("0.1", "1e-3") for i in (1, 2)], [1, 2, 1, 2], 2),
    "dates of folders": ([f"2024-05-0{d}/epoch_{i}.pt" for d in (1, 2) for i in (1, 2)], [1, 2, 1, 2], 2),
    "dates of saves": ([f"2024-05-0{i}_epoch_{i}.pt" for i in (1, 2, 3)], [1, 2, 3], 1),
    "hashes of runs": ([f"{h}_epoch_{i}.pt" for h in ("c81e728d", "1679091c") for i in (1, 2)], [1, 2, 1, 2], 2),
    "ids of Weights & Biases": (
        [f"run-20240501_123045-{each}/epoch_{i}.pt" for each in ("a1b2c3d4", "x9y8z7w6") for i in (1, 2)],
        [1, 2, 1, 2],
        2,
    ),
    "ids that come back": (["m_111_e1.pt", "m_222_e2.pt", "m_111_e3.pt"], [1, 2, 3], 2),
    "accuracies that come back": (["m_acc_93_e1.pt", "m_acc_94_e2.pt", "m_acc_93_e3.pt"], [1, 2, 3], 1),
    "an epoch and its iterations": (["epoch_1_500.pt", "epoch_1_1000.pt", "epoch_2_500.pt"], [1, 2, 3], 1),
    "steps that begin anew": (["ep1-step500.pt", "ep1-step900.pt", "ep2-step500.pt"], [1, 2, 3], 1),
    "steps that go on": (["ep1-step500.pt", "ep1-step900.pt", "ep2-step1500.pt"], [500, 900, 1500], 1),
    "fairseq": (["checkpoint_1_500.pt", "checkpoint_1_900.pt", "checkpoint_2_1500.pt"], [500, 900, 1500], 1),
    "rounds": (["round_1/model.pt", "round_2/model.pt"], [1, 2], 1),
    "a number in a word": ([f"unit{i}.pt" for i in (5, 6, 7)], [5, 6, 7], 1),
    "the same epoch always": ([f"epoch_4_acc0.9{i}.pt" for i in (1, 2, 3)], [None] * 3, 1),
}


@pytest.mark.parametrize(("names", "expected", "series"), _SETS.values(), ids=_SETS)
def test_all_names_together_tell_the_step_and_the_series(
    names: list[str], expected: list[int | None], series: int
) -> None:
    """What varies is the step; what never does, settings, metrics and the numbers of runs are none."""
    for order in (names, names[::-1], sorted(names)):
        reading = Reading(order)
        assert [reading.of(name).step for name in names] == expected
        assert len({reading.of(name).series for name in names}) == series


def test_more_names_change_what_earlier_ones_mean() -> None:
    """The first alone is epoch 2; the second shows that 2 never varies."""
    reading = Reading(["epoch2_1.pt"])
    assert (reading.of("epoch2_1.pt").kind, reading.of("epoch2_1.pt").step) == ("epoch", 2)
    reading.pop_changed()
    reading.update(["epoch2_2.pt"])
    assert reading.pop_changed() == {"epoch2_1.pt", "epoch2_2.pt"}
    assert (reading.of("epoch2_1.pt").kind, reading.of("epoch2_1.pt").step) == ("number", 1)


def test_what_the_files_hold_outweighs_names_that_contradict_it() -> None:
    """Accuracies as bare numbers are no steps where the epochs inside go another way; numbers that go with them are."""
    reading = Reading(["net_93.pth", "net_94.pth", "net_95.pth", "net_96.pth"])
    assert reading.of("net_93.pth").step == 93
    for name, epoch in (("net_93.pth", 4), ("net_94.pth", 2), ("net_95.pth", 3), ("net_96.pth", 1)):
        reading.found_inside(name, {"epoch": epoch})
    assert [reading.of(name).step for name in ("net_93.pth", "net_96.pth")] == [None, None]
    assert (reading.of("net_93.pth").kind, reading.of("net_93.pth").told) == ("epoch", "the epoch in the file")
    later = Reading(["a_1.pt", "a_2.pt", "a_3.pt"])
    for number in (1, 2, 3):
        later.found_inside(f"a_{number}.pt", {"step": 100 * number})
    assert [later.of(f"a_{number}.pt").step for number in (1, 2, 3)] == [1, 2, 3]


def test_times_tell_between_numbers_of_equal_rank() -> None:
    """The number that grows with the times of all files is the step; equal or scrambled times, or a few, tell nothing."""
    names = ["7_40.pt", "8_10.pt", "9_30.pt", "10_20.pt"]  # by itself the last number would be the step
    assert Reading(names).of("7_40.pt").step == 40
    for times, steps in (
        ((1, 2, 3, 4), [7, 8, 9, 10]),
        ((4, 1, 3, 2), [40, 10, 30, 20]),
        ((1, 1, 1, 1), [40, 10, 30, 20]),
        ((1, 3, 2, 4), [40, 10, 30, 20]),
    ):
        reading = Reading()
        reading.update(names, dict(zip(names, times, strict=True)))
        assert [reading.of(name).step for name in names] == steps
    few = Reading()
    few.update(names[:3], dict(zip(names[:3], (1, 2, 3), strict=True)))
    assert few.of("7_40.pt").step == 40


def test_a_number_in_a_name_that_is_written_again_is_no_step() -> None:
    """Alone at the second writing; beside others if what it holds counts on; an epoch that is repeated stays one."""
    for name in ("unet_256.pth", "vgg_16_best.pth"):
        reading = Reading([name])
        reading.found_inside(name, {})
        reading.found_inside(name, {}, again=True)
        assert reading.of(name).step is None
    beside = Reading(["vgg_16_best.pth", "vgg_19_best.pth"])
    for epoch in (1, 2):
        beside.found_inside("vgg_16_best.pth", {"epoch": epoch}, again=epoch > 1)
    assert beside.of("vgg_16_best.pth").step is None
    restarted = Reading(["epoch_1.pt", "epoch_2.pt"])
    restarted.found_inside("epoch_1.pt", {"epoch": 1})
    restarted.found_inside("epoch_1.pt", {"epoch": 1}, again=True)
    assert restarted.of("epoch_1.pt").step == 1


def test_the_setting_step_names_the_step() -> None:
    """Its group counts wherever it matches; other names do not match."""
    reading = Reading(["a_1_b_7.pt", "a_2_b_7.pt"], r"b_(\d+)")
    assert [reading.of(name).step for name in ("a_1_b_7.pt", "a_2_b_7.pt")] == [7, 7]
    assert reading.matches("a_1_b_7.pt")
    assert not reading.matches("c.pt")


def test_originals_come_before_copies_and_steps_before_the_alphabet() -> None:
    """The order in which a folder's files are taken, whatever their times."""
    names = [
        "backup/model_3.pt",
        "best_epoch_3.pth",
        "epoch_10.pth",
        "epoch_3.pth",
        "last.pth",
        "model_3 (1).pt",
        "model_3.pt",
    ]
    reading = Reading(names)
    ordered = sorted(names, key=reading.order)
    assert ordered.index("epoch_3.pth") < ordered.index("epoch_10.pth") < ordered.index("best_epoch_3.pth")
    assert ordered.index("model_3.pt") < min(ordered.index("backup/model_3.pt"), ordered.index("model_3 (1).pt"))
    assert ordered[-1] == "last.pth"


_COLUMNS = st.lists(
    st.sampled_from(["constant", "keyword constant", "metric", "hash", "setting"]), max_size=3, unique=True
)


@st.composite
def _schemes(draw: st.DrawFn) -> list[tuple[int, int, str]]:
    """Names made by a scheme: (run, step, name) each."""
    columns = draw(_COLUMNS)
    word = draw(st.sampled_from(["epoch_", "step=", "iter-", "ckpt_", "global_step", ""]))
    place = draw(st.integers(0, len(columns)))
    run = draw(st.sampled_from(["", "fold", "seed_", "trial="]))
    numbers = draw(st.lists(st.integers(0, 10**6), min_size=3, max_size=8, unique=True))
    runs = draw(st.sampled_from([(1,), (1, 2), (1, 2, 3)])) if run else (1,)
    folder = draw(st.booleans())
    random = draw(st.randoms(use_true_random=False))
    found = []
    for each in runs:
        for number in numbers:
            said = {
                "constant": "x_7",
                "keyword constant": "model_2",
                "metric": f"loss={random.choice((-1, 1)) * random.random():.4g}",
                "hash": f"c{random.randrange(16**7):07x}",
                "setting": "lr1e-3",
            }
            parts = [said[column] for column in columns]
            parts.insert(place, f"{word}{number}")
            first = f"{run}{each}{'/' if folder else '_'}" if run else ""
            found.append((each, number, f"{first}{'_'.join(parts)}.pt"))
    random.shuffle(found)
    return found


@given(_schemes())
def test_schemes_of_names_are_read_as_they_were_made(scheme):
    """Steps and series come out whatever else stands in the names, in whatever order they come."""
    reading = Reading(name for _, _, name in scheme)
    assert [reading.of(name).step for _, _, name in scheme] == [number for _, number, _ in scheme]
    series = {run: {reading.of(name).series for other, _, name in scheme if other == run} for run, _, _ in scheme}
    assert all(len(each) == 1 for each in series.values())
    assert len(set.union(*series.values())) == len(series)


_TEXT = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), max_size=12)


@given(st.lists(_TEXT, max_size=6, unique=True), st.randoms())
def test_any_names_can_be_read(names, random):
    """Names of any characters have a series, and a place in the order."""
    paths = [f"{name}.pt" for name in names]
    reading = Reading(paths)
    ordered = sorted(paths, key=reading.order)
    random.shuffle(paths)
    assert sorted(paths, key=reading.order) == ordered
    assert all(reading.of(path).series for path in paths)
