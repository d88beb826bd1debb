"""What names alone tell of a run directory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rna_watch.watching.discovery import Discovery, discover, unexplained, within


def _discover(*names: str) -> Discovery:
    return discover(dict.fromkeys(names, 0))


def _folders(*names: str) -> list[str]:
    return [run.folder for run in _discover(*names).runs]


def _sequences(*folders: str, names: tuple[str, ...] = ("step_1.pt", "step_2.pt")) -> list[str]:
    return [f"{folder}/{name}" for folder in folders for name in names]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            [f"lightning_logs/version_0/checkpoints/epoch={e}-step={e * 100}.ckpt" for e in (1, 2, 10)],
            ("lightning_logs/version_0/checkpoints", "epoch=*-step=*.ckpt", "Lightning", 3, "step", 100, 1000),
        ),
        (
            ["epoch=1-step=5.ckpt", "epoch=2-step=9-v1.ckpt"],
            ("", "epoch=*-step=*.ckpt", "Lightning", 2, "step", 5, 9),
        ),
        (
            ["checkpoint-500", "checkpoint-1000"],
            ("", "checkpoint-*", "the Hugging Face Trainer", 2, "step", 500, 1000),
        ),
        (
            ["checkpoints/checkpoint_0", "checkpoints/checkpoint_1"],
            ("checkpoints", "checkpoint_*", "Accelerate", 2, "number", 0, 1),
        ),
        (
            [f"output/train/20240501-120000-resnet50-224/checkpoint-{e}.pth.tar" for e in (0, 1)],
            ("output/train/20240501-120000-resnet50-224", "checkpoint-*.pth.tar", "timm", 2, "epoch", 0, 1),
        ),
        (
            ["model_0.pth", "model_1.pth", "checkpoint.pth"],
            ("", "model_*.pth", "torchvision's references", 2, "epoch", 0, 1),
        ),
        (["model_0.pth", "model_1.pth"], ("", "model_*.pth", "", 2, "number", 0, 1)),
        (
            ["runs/train/weights/epoch0.pt", "runs/train/weights/epoch5.pt", "runs/train/weights/last.pt"],
            ("runs/train/weights", "epoch*.pt", "Ultralytics", 2, "epoch", 0, 5),
        ),
        (["ep1-ba10-rank0.pt", "ep2-ba20-rank0.pt"], ("", "ep*-ba*-rank0.pt", "Composer", 2, "step", 10, 20)),
        (["checkpoint/step-10", "checkpoint/step-20"], ("checkpoint", "step-*", "torchtitan", 2, "step", 10, 20)),
        (
            [f"iter_{i:07d}/mp_rank_00/model_optim_rng.pt" for i in (100, 200)],
            ("", "iter_*/mp_rank_00/model_optim_rng.pt", "Megatron", 2, "step", 100, 200),
        ),
        (["out/ckpt.pt"], ("out", "ckpt.pt", "nanoGPT", 1, "", None, None)),
        (
            [f"outputs/2024-05-01/12-30-45/model_{i}.pt" for i in (1, 2)],
            ("outputs/2024-05-01/12-30-45", "model_*.pt", "", 2, "number", 1, 2),
        ),
        (
            [f"wandb/run-20240501_123045-a1b2c3d4/files/model_{i}.pt" for i in (1, 2)],
            ("wandb/run-20240501_123045-a1b2c3d4/files", "model_*.pt", "", 2, "number", 1, 2),
        ),
        (
            ["checkpoints/resnet18_e1.pt", "checkpoints/resnet18_e2.pt"],
            ("checkpoints", "resnet18_e*.pt", "", 2, "epoch", 1, 2),
        ),
        ([f"epoch_{e}/model.pt" for e in (1, 2)], ("", "epoch_*/model.pt", "", 2, "epoch", 1, 2)),
        ([f"a/epoch_{e}/step_{e * 10}.pt" for e in (1, 2)], ("a", "epoch_*/step_*.pt", "", 2, "step", 10, 20)),
        ([f"round_{e}/model.pt" for e in (1, 2)], ("", "round_*/model.pt", "", 2, "number", 1, 2)),
        (["model_1/weights.pt", "model_2/weights.pt"], ("", "model_*/weights.pt", "", 2, "number", 1, 2)),
        (["5.pt"], ("", "5.pt", "", 1, "number", 5, 5)),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_each_layout_is_known(names: list[str], expected: tuple[object, ...]) -> None:
    """Folder, pattern, trainer, count and span of the longest sequence, which is one run."""
    found = _discover(*names)
    first = found.groups[0]
    told = (first.folder, first.pattern, first.trainer, first.count, first.kind, first.first, first.last)
    assert told == expected
    assert found.runs == ()


@pytest.mark.parametrize(
    ("names", "folders"),
    [
        (
            _sequences("lightning_logs/version_0/checkpoints", "lightning_logs/version_1/checkpoints"),
            ["lightning_logs/version_0", "lightning_logs/version_1"],
        ),
        (_sequences("seed1", "seed_2", "seed10"), ["seed1", "seed10", "seed_2"]),
        (_sequences("lr0.1", "lr1e-3"), ["lr0.1", "lr1e-3"]),
        (_sequences("2024-05-01/12-00-00", "2024-05-01/13-00-00"), ["2024-05-01/12-00-00", "2024-05-01/13-00-00"]),
        (
            _sequences("2024-05-01/12-00-00", "2024-05-01/13-00-00", "2024-05-02/09-00-00"),
            ["2024-05-01/12-00-00", "2024-05-01/13-00-00", "2024-05-02/09-00-00"],
        ),
        (
            ["t/20240501-120000-resnet50/last.pth.tar", "t/20240502-120000-vit_base/last.pth.tar"],
            ["t/20240501-120000-resnet50", "t/20240502-120000-vit_base"],
        ),
        (["runs/train/exp/weights/last.pt", "runs/train/exp2/weights/last.pt"], ["runs/train/exp", "runs/train/exp2"]),
        (_sequences("p/a1b2c3d4/checkpoints", "p/x9y8z7w6/checkpoints"), ["p/a1b2c3d4", "p/x9y8z7w6"]),
        (_sequences("0", "1"), ["0", "1"]),
        (_sequences("model_1", "model_2"), ["model_1", "model_2"]),
        (_sequences("version_0/best", "version_0/last", "version_1/best"), ["version_0", "version_1"]),
        (
            _sequences("seed_0/fold_0", "seed_0/fold_1", "seed_1/fold_0"),
            ["seed_0/fold_0", "seed_0/fold_1", "seed_1/fold_0"],
        ),
        (
            _sequences("version_0", "version_1/fold_0", "version_1/fold_1"),
            ["version_0", "version_1/fold_0", "version_1/fold_1"],
        ),
        (_sequences("seed_0", "seed_1", "ours", "best"), ["ours", "seed_0", "seed_1"]),
        (_sequences("seed_0", "seed_1", "lr0.1_s1"), ["lr0.1_s1", "seed_0", "seed_1"]),
        ([f"run{r}/checkpoint-{i}" for r in (1, 2) for i in (5, 10)], ["run1", "run2"]),
        ([f"run{r}/epoch_{i}/model.pt" for r in (1, 2) for i in (5, 10)], ["run1", "run2"]),
        (["version_0/a_1.pt", "version_1/a_1.pt"], ["version_0", "version_1"]),
    ],
    ids=lambda value: value[0],
)
def test_siblings_with_the_same_pattern_are_several_runs(names: list[str], folders: list[str]) -> None:
    """Numbers, dates and ids of folders tell runs apart, down to the folder in which they differ."""
    assert _folders(*names) == folders


@pytest.mark.parametrize(
    "names",
    [
        ["G_1.pt", "G_2.pt", "D_1.pt", "D_2.pt"],
        _sequences("G", "D"),
        _sequences("best", "last"),
        _sequences("checkpoints/ema", "checkpoints/raw"),
        _sequences("ours", "baseline"),
        _sequences("rank_0", "rank_1"),
        _sequences("mp_rank_00", "mp_rank_01"),
        _sequences("epoch_1", "epoch_2"),
        _sequences("checkpoint-100", "checkpoint-200"),
        ["seed_1/epoch_1.pt", "seed_2/step_1.pt"],
        ["step_1.pt", "step_2.pt", *_sequences("old/version_0", "old/version_1")],
        ["round_1/model_a1.pt", "round_2/model_a2.pt"],
        ["0/model.pt", "1/model.pt"],
        [],
    ],
    ids=str,
)
def test_parts_of_one_run_are_one_run(names: list[str]) -> None:
    """Networks of a GAN, roles, ranks, folders for steps, other patterns, and what lies below a sequence."""
    assert _folders(*names) == []


def test_different_models_in_folders_of_their_own_are_several_runs() -> None:
    """Models that are known to differ decide if names leave it open; an unknown one decides nothing."""
    names = dict.fromkeys(_sequences("small", "large", "other") + _sequences("ema"), 0)
    assert [group.folder for group in unexplained(discover(names).groups)] == ["large", "other", "small"]
    assert discover(names, {"small": "x", "large": "x"}).runs == ()
    assert discover(names, {"small": "x"}).runs == ()
    runs = discover(names, {"small": "x", "large": "y"}).runs
    assert [run.folder for run in runs] == ["large", "other", "small"]


def test_the_newest_name_is_the_one_last_changed() -> None:
    """Of a group, and of a run of several groups."""
    found = discover({"run1/a_1.pt": 5, "run1/a_2.pt": 3, "run1/last.pt": 9, "run2/a_1.pt": 4, "run2/a_2.pt": 4})
    assert [(group.newest, group.changed_ns) for group in found.groups] == [
        ("run1/a_1.pt", 5),
        ("run2/a_2.pt", 4),
        ("run1/last.pt", 9),
    ]
    assert [run.changed_ns for run in found.runs] == [9, 4]


_PARTS = st.one_of(
    st.sampled_from(["run1", "run2", "epoch_3", "2024-05-01", "best", "x*1", "a1*", "0", "checkpoint-5", "a1b2c3d4"]),
    st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=6),
)
_NAMES = st.lists(st.lists(_PARTS, min_size=1, max_size=4).map("/".join), max_size=12, unique=True)


@given(_NAMES, st.randoms())
def test_any_names_are_grouped_once_and_a_choice_ends(names, random):
    """Every name is in one group; runs share nothing; each choice leaves fewer folders; the order of names is nothing."""
    found = _discover(*names)
    assert sum(group.count for group in found.groups) == len(names)
    assert len(found.runs) != 1
    members = [group for run in found.runs for group in run.groups]
    assert len(members) == len(set(members)) <= len(found.groups)
    for run in found.runs:
        inner = within(dict.fromkeys(names, 0), run.folder)
        assert sum(group.count for group in run.groups) == len(inner) > 0
        assert run.folder
    random.shuffle(names)
    assert _discover(*names) == found


@given(st.sets(st.integers(0, 999), min_size=2, max_size=5), st.sets(st.integers(0, 10**6), min_size=2, max_size=6))
def test_numbered_siblings_are_runs_and_each_alone_is_one(versions, saved):
    """However many versions and steps there are; within one of them nothing is left to choose."""
    names = [f"version_{version}/checkpoints/step={step}.ckpt" for version in versions for step in saved]
    assert _folders(*names) == [f"version_{version}" for version in sorted(versions)]
    (group,) = discover(within(dict.fromkeys(names, 0), f"version_{min(versions)}")).groups
    assert (group.folder, group.count, group.first, group.last) == ("checkpoints", len(saved), min(saved), max(saved))
