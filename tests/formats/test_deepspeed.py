"""DeepSpeed's folders: fp32 weights read out of the ranks' shards, and published as one consolidated file."""

import errno
import json
import os
import shutil

import pytest
import safetensors.torch
import torch

from rna_watch.errors import IncompleteCheckpoint, RefusedCheckpoint, StoreError
from rna_watch.formats.probe import probe
from rna_watch.layout import disk
from tests.checkpoints import deepspeed_forms, twins
from tests.publishing.test_clone import failing

WEIGHTS = (0.0, -1.0, 2.0)
FORMS = {
    "stage 1, one rank": {"stage": 1, "ranks": 1},
    "stage 1, bf16": {"stage": 1, "ranks": 2, "prefix": "bf16_"},
    "stage 2, three ranks": {"stage": 2, "ranks": 3},
    "stage 2, many ranks": {"stage": 2, "ranks": 16},
    "stage 2, padded parameters": {"stage": 2, "ranks": 4, "paddings": True},
    "stage 3, one rank": {"stage": 3, "ranks": 1},
    "stage 3, four ranks": {"stage": 3, "ranks": 4},
    "stage 3, many ranks": {"stage": 3, "ranks": 12},
}


@pytest.mark.parametrize("name", FORMS)
def test_a_layout_is_what_zero_to_fp32_reads(name, tmp_path):
    """The layout's tensors, cut ones too, are the twin's to the last bit, for every stage and number of ranks."""
    folder = tmp_path / "global_step10"
    original = deepspeed_forms.write(folder, 1, **FORMS[name])
    layout = probe(str(folder))
    found, twin = twins.read(layout), deepspeed_forms.consolidate(folder)
    assert found.keys() == twin.keys() == original.keys() | deepspeed_forms.SHARED.keys()
    assert all(twins.same_bits(found[key], twin[key]) for key in twin)
    assert all(twins.same_bits(found[key], original[key]) for key in original)
    assert layout.counters["step"] == 10
    assert layout.root == str(folder)


@pytest.mark.parametrize("name", FORMS)
def test_a_combination_is_published_as_one_file(name, tmp_path):
    """The model in `model.safetensors` is the float64 twin's, integers the newest's; nothing of the training goes along."""
    folders = [tmp_path / f"global_step{10 * seed}" for seed in (1, 2, 3)]
    for seed, folder in enumerate(folders, 1):
        deepspeed_forms.write(folder, seed, **FORMS[name])
        (folder / "config.json").write_text('{"a": 1}')
    out = tmp_path / "out" / "global_step30"
    out.parent.mkdir()
    twins.publish_here(folders, WEIGHTS, out)
    assert sorted(os.listdir(out)) == ["config.json", "model.safetensors"]
    assert os.listdir(out.parent) == ["global_step30"]
    found = safetensors.torch.load_file(out / "model.safetensors")
    exact = twins.combine([deepspeed_forms.consolidate(folder) for folder in folders], WEIGHTS)
    assert found.keys() == exact.keys() - deepspeed_forms.SHARED.keys()
    assert all(twins.is_rounded(found[key], exact[key].double()) for key in found if found[key].is_floating_point())
    assert found["norm.num_batches_tracked"] == 2**60 + 3
    with safetensors.safe_open(out / "model.safetensors", "pt") as file:
        assert deepspeed_forms.SHARED.items() <= file.metadata().items()
    assert probe(str(out)).format == "folder of safetensors"


def test_windows_may_be_cut_over_other_numbers_of_ranks(tmp_path):
    """A run that goes on with another stage and other ranks stays one window: logical elements are what is combined."""
    folders = [tmp_path / f"global_step{10 * seed}" for seed in (1, 2, 3)]
    forms = ({"stage": 2, "ranks": 3}, {"stage": 3, "ranks": 2}, {"stage": 3, "ranks": 5})
    for seed, (folder, form) in enumerate(zip(folders, forms, strict=True), 1):
        deepspeed_forms.write(folder, seed, **form)
    assert len({probe(str(folder)).architecture for folder in folders}) == 1
    twins.publish_here(folders, WEIGHTS, tmp_path / "out")
    found = safetensors.torch.load_file(tmp_path / "out" / "model.safetensors")
    exact = twins.combine([deepspeed_forms.consolidate(folder) for folder in folders], WEIGHTS)
    assert all(twins.is_rounded(found[key], exact[key].double()) for key in found if found[key].is_floating_point())


def overwritten(folder, other, names):
    """Files of a folder replaced by another save's, in that order, one minute apart."""
    for minute, name in enumerate(names):
        shutil.copyfile(other / name, folder / name)
        os.utime(folder / name, (2e9 + 60 * minute,) * 2)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_files_of_two_saves_are_told_apart(stage, tmp_path):
    """A save under the same tag that ends half way, after whichever file, is incomplete until the last is written over."""
    folder, other = tmp_path / "latest", tmp_path / "other"
    for place, seed in ((folder, 1), (other, 2)):
        deepspeed_forms.write(place, seed, stage=stage, ranks=3)
    names = sorted(path.name for path in folder.glob("*_model_states.pt"))
    names += sorted(path.name for path in folder.glob("*_optim_states.pt"))
    for count in range(1, len(names)):
        overwritten(folder, other, names[:count])
        with pytest.raises(IncompleteCheckpoint, match="the folder is being written again"):
            probe(str(folder))
    overwritten(folder, other, names)
    assert probe(str(folder)).counters == {"step": 20}


def test_the_words_of_two_saves(tmp_path):
    """Both files are named, with what shows that they are of different saves."""
    for name, seed in (("a", 1), ("b", 2)):
        deepspeed_forms.write(tmp_path / name, seed, stage=3, ranks=2)
    states, shards = ("zero_pp_rank_1_mp_rank_00_model_states.pt", "zero_pp_rank_1_mp_rank_00_optim_states.pt")
    overwritten(tmp_path / "a", tmp_path / "b", [shards])
    with pytest.raises(IncompleteCheckpoint, match=r"rank_0_.* has an optimizer at step 10, .*rank_1_.* at step 20"):
        probe(str(tmp_path / "a"))
    overwritten(tmp_path / "a", tmp_path / "b", [states])
    with pytest.raises(
        IncompleteCheckpoint, match=r"rank_0_.*model_states.pt is of step 10, .*rank_1_.* is of step 20"
    ):
        probe(str(tmp_path / "a"))


@pytest.mark.parametrize(
    "config", [{"nebula": {"enabled": True}}, {"checkpoint": {"writer": {"type": "FAST", "decoupled": True}}}]
)
def test_engines_that_write_in_the_background_have_no_order(config, tmp_path):
    """Shards older than the model states tell of two saves only where they are written after them."""
    deepspeed_forms.write(tmp_path / "a", 1, stage=2, ranks=2)
    for path in (tmp_path / "a").glob("*_optim_states.pt"):
        os.utime(path, (1e9, 1e9))
    with pytest.raises(IncompleteCheckpoint, match=r"lost its times: touch \*_optim_states.pt"):
        probe(str(tmp_path / "a"))
    path = tmp_path / "a" / "mp_rank_00_model_states.pt"
    torch.save(torch.load(path, weights_only=False) | {"ds_config": config}, path)
    assert probe(str(tmp_path / "a"))


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64, torch.bfloat16, None])
def test_an_optimizer_s_steps_in_any_dtype(dtype, tmp_path):
    """However the optimizer counts, and if it does not count at all, shards that agree are of one save."""
    deepspeed_forms.write(tmp_path / "a", 1, stage=2, ranks=2)
    shards = sorted((tmp_path / "a").glob("*_optim_states.pt"))
    for count in (10, 11):
        for path in shards[count - 10 :]:
            tree = torch.load(path, weights_only=False)
            step = {} if dtype is None else {"step": torch.tensor(count, dtype=dtype)}
            tree["optimizer_state_dict"]["base_optimizer_state"]["state"] = {0: step}
            torch.save(tree, path)
        if count == 11 and dtype is not None:
            with pytest.raises(IncompleteCheckpoint, match="optimizer at step 10, .* optimizer at step 11"):
                probe(str(tmp_path / "a"))
        else:
            assert probe(str(tmp_path / "a"))


def test_before_the_shards_the_weights_are_not_there(tmp_path):
    """The model states, written first, are no checkpoint without the optimizer's shards, neither are shards alone."""
    deepspeed_forms.write(tmp_path / "a", 1, stage=2, ranks=2)
    for path in (tmp_path / "a").glob("*_optim_states.pt"):
        path.unlink()
    with pytest.raises(IncompleteCheckpoint, match="not there yet"):
        probe(str(tmp_path / "a"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mp_rank_01_model_states.pt", "tensor-parallel"),
        ("zero_pp_rank_0_mp_rank_01_optim_states.pt", "tensor-parallel"),
        ("layer_00_expert_0_mp_rank_00_model_states.pt", "layers or experts"),
        ("zero_pp_rank_9_mp_rank_00_optim_states.pt", "4 files such as"),
    ],
)
def test_other_cuts_are_refused_in_words(name, words, tmp_path):
    """Tensor parallelism, experts and files of more ranks than there are."""
    deepspeed_forms.write(tmp_path / "a", 1, stage=2, ranks=3)
    shutil.copy(tmp_path / "a" / "zero_pp_rank_0_mp_rank_00_optim_states.pt", tmp_path / "a" / name)
    with pytest.raises(RefusedCheckpoint, match=words):
        probe(str(tmp_path / "a"))


def test_shapes_that_do_not_fit_the_shards_are_refused(tmp_path):
    """A parameter too many, and shards that are no tensors, are damage and not weights."""
    for stage in (2, 3):
        folder = tmp_path / str(stage)
        deepspeed_forms.write(folder, 1, stage=stage, ranks=2)
        for path in folder.glob("*_model_states.pt"):
            state = torch.load(path, weights_only=True)
            state["param_shapes"][1]["more"] = torch.Size([400])
            torch.save(state, path)
        with pytest.raises(RefusedCheckpoint):
            probe(str(folder))


@pytest.mark.parametrize(("name", "after"), [("pwrite", 0), ("pwrite", 3), ("fsync", 1), ("rename", 0)])
def test_a_failing_disk_leaves_no_part_of_a_folder(tmp_path, monkeypatch, name, after):
    """Wherever the disk fails, there is neither the folder nor its temporary one."""
    folders = [tmp_path / f"global_step{seed}" for seed in (1, 2, 3)]
    for seed, folder in enumerate(folders, 1):
        deepspeed_forms.write(folder, seed, stage=3, ranks=2)
        (folder / "config.json").write_text(json.dumps({}))
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(os, name, failing(getattr(os, name), errno.ENOSPC, after))
    with pytest.raises((StoreError, OSError), match=os.strerror(errno.ENOSPC)):
        twins.publish_here(folders, WEIGHTS, tmp_path / "out" / "global_step3")
    monkeypatch.undo()
    assert os.listdir(tmp_path / "out") == []
    assert disk.TEMPORARY_PREFIX == ".rna-watch-"
