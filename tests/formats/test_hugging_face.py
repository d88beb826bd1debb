"""Checkpoints that are folders: what they are at every stage of being written, and what a copy of one holds."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from rna_watch.commands.inspect import inspect
from rna_watch.daemon import pinned_file as pin_module
from rna_watch.daemon.pinned_file import pin_checkpoint, unpin
from rna_watch.errors import IncompleteCheckpoint, InputChanged, RefusedCheckpoint
from rna_watch.formats import hugging_face as folder_module
from rna_watch.formats import probe as probe_module
from rna_watch.formats.probe import probe
from rna_watch.formats.registry import recognised_folder
from rna_watch.journal.run_paths import RunPaths
from rna_watch.watching.scan import scan
from tests.trainers.saved_folder import ADAPTER, CARRIED, INDEX, SHARDED, SHARDS, STATE, save

WHOLE = ("config.json", "model.safetensors", *SHARDED[5:])
# for each trainer: the name, its files in the order in which they are written, and the first that may come after a model
LAYOUTS = {
    "transformers, shards": ("checkpoint-500", SHARDED, "tokenizer_config.json"),
    "transformers, one file": ("checkpoint-500", WHOLE, "tokenizer_config.json"),
    "peft": ("checkpoint-500", ADAPTER, "training_args.bin"),
    "accelerate": ("checkpoint_5", STATE, "optimizer.bin"),
}


def why_not(path):
    """Why a folder is not complete ("" if it is)."""
    try:
        probe(str(path))
    except IncompleteCheckpoint as error:
        return str(error)
    return ""


def stages(whole, files):
    """A folder at every stage of being written: (the file in the making, how much of it is there, the folder)."""
    growing = whole.parent / "growing" / whole.name
    growing.mkdir(parents=True)
    for name in files:
        content = (whole / name).read_bytes()
        for part in (0, len(content) // 3, len(content) - 1, len(content)):
            (growing / name).write_bytes(content[:part])
            yield name, part < len(content), growing


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_is_incomplete_until_its_last_file_is_there(tmp_path, layout):
    """Whatever is missing or cut off, it is not taken, and the reason names a file that is still to come."""
    name, files, _ = LAYOUTS[layout]
    whole = save(tmp_path / name, 5, files)
    save(tmp_path / "growing" / name.replace("5", "4"), 4, files)
    for current, cut, growing in stages(whole, files):
        if (current, cut) == (files[-1], False) or current == "random_states_0.pkl":
            assert why_not(growing) == ""
            continue
        missing = files[files.index(current) + (not cut) :]
        reason = why_not(growing)
        assert any(each in reason for each in missing) or "index of its shards" in reason or "no weights" in reason, (
            current,
            cut,
            reason,
        )
        assert recognised_folder(str(growing), set(os.listdir(growing))) is not None or "no weights" in reason


@pytest.mark.parametrize("layout", LAYOUTS)
def test_without_a_neighbour_only_a_whole_model_alone_is_complete(tmp_path, layout):
    """What `save_pretrained` leaves is complete; once anything of a training's state is there, all of it must be."""
    name, files, after = LAYOUTS[layout]
    complete = [
        (current, cut)
        for current, cut, growing in stages(save(tmp_path / name, 5, files), files)
        if not why_not(growing)
    ]
    model = files[: files.index(after)]
    tokenizer = [each for each in files[len(model) :] if each.startswith("tokenizer")]
    allowed = [(each, False) for each in (model[-1], *tokenizer)]
    assert complete[: len(allowed)] == allowed
    assert {current for current, _ in complete[len(allowed) :]} == {files[-1]}


def test_what_save_pretrained_and_save_model_write_is_complete(tmp_path):
    """A folder without a training's state is complete, under any name; training_args.bin goes with `save_model`."""
    assert why_not(save(tmp_path / "checkpoint-7", 7, SHARDED[:7])) == ""
    assert why_not(save(tmp_path / "final", 7, SHARDED[:8])) == ""
    assert "trainer_state.json" in why_not(save(tmp_path / "checkpoint-8", 7, SHARDED[:8]))


def test_a_folder_that_is_renamed_when_it_is_whole_is_left_alone(tmp_path):
    """Older versions of transformers write into tmp-checkpoint-N, and rename it."""
    assert "its name" in why_not(save(tmp_path / "tmp-checkpoint-7", 7))


def test_shards_that_the_index_does_not_know_are_of_another_save(tmp_path):
    """A new index next to an old shard: the tensor that is missing is named."""
    path = save(tmp_path / "checkpoint-7", 7)
    index = json.loads((path / INDEX).read_text())
    index["weight_map"]["new.weight"] = SHARDS[1]
    (path / INDEX).write_text(json.dumps(index))
    assert "new.weight" in why_not(path)
    index["weight_map"] = {"new.weight": "../elsewhere.safetensors"}
    (path / INDEX).write_text(json.dumps(index))
    with pytest.raises(RefusedCheckpoint, match="outside"):
        probe(str(path))


def test_the_file_that_loaders_take_is_the_model(tmp_path):
    """The model that transformers loads counts among several in one folder; the others are not written."""
    path = save(tmp_path / "checkpoint-7", 7, (*SHARDED, "model.safetensors", "pytorch_model.bin"))
    layout = probe(str(path))
    assert [layout.inside(file) for file in layout.files] == ["model.safetensors"]
    assert {layout.inside(file) for file in layout.carried} == {*CARRIED} - {INDEX}


def test_inspect_says_what_is_carried_and_what_is_left_out(tmp_path):
    """The files of the model, those that go with it, and those of the training, are told apart."""
    path = save(tmp_path / "checkpoint-7", 7)
    (path / "sub").mkdir()
    (path / "sub" / "vocab.txt").write_text("words")
    found = inspect(path)
    lines = {line[:12].strip(): line[12:] for line in found.lines()[1:]}
    assert all(shard in lines["files"] for shard in SHARDS)
    assert all(name in lines["carried"] for name in (*CARRIED, "sub/vocab.txt"))
    assert all(name in lines["left out"] for name in SHARDED[7:])
    assert found.as_dict()["carried"] == [*sorted(CARRIED), "sub/vocab.txt"]
    assert found.as_dict()["left_out"] == sorted(SHARDED[7:])
    assert lines["inside"] == "step 7"


@pytest.mark.parametrize("number", [0, 1])
def test_a_folder_removed_while_it_is_read_is_gone(tmp_path, monkeypatch, number):
    """Retention (rmtree) between two files: it is gone, or incomplete while something of it is left."""
    path = save(tmp_path / "checkpoint-7", 7)
    real = probe_module._probe_file
    seen = []

    def removed_meanwhile(name, source):
        seen.append(name)
        if len(seen) == number + 1:
            shutil.rmtree(path)
        return real(name, source)

    monkeypatch.setattr(probe_module, "_probe_file", removed_meanwhile)
    with pytest.raises(FileNotFoundError):
        probe(str(path))
    assert len(seen) == number + 1


def test_a_folder_half_removed_is_incomplete(tmp_path):
    """It is never taken for complete at any stage of an rmtree, in any order, once weights are gone."""
    path = save(tmp_path / "checkpoint-7", 7)
    (path / SHARDS[0]).unlink()
    assert SHARDS[0] in why_not(path)


def _store(run):
    """The window store of a run."""
    paths = RunPaths(run=run, output=run)
    paths.create()
    return paths.pins


@pytest.mark.parametrize("link", [True, False])
def test_pinned_bytes_survive_the_removal_of_the_folder(tmp_path, link):
    """Pinned by links or copies, model and configuration stay when retention takes the folder; the training's state goes."""
    path = save(tmp_path / "checkpoint-7", 7)
    before = load_file(path / SHARDS[0])["embedding.weight"]
    store = _store(tmp_path)
    layout = probe(str(path))
    kind, pinned = pin_checkpoint(layout, str(store / "7.pinned"), link=link, proceed=lambda: None)
    assert kind == ("link" if link else "copy")
    shutil.rmtree(path)
    assert sorted(os.listdir(store / "7.pinned")) == sorted((*CARRIED, *SHARDS))
    assert (load_file(store / "7.pinned" / SHARDS[0])["embedding.weight"] == before).all()
    again = probe(pinned.path)
    assert again.fingerprint == layout.fingerprint == pinned.fingerprint
    unpin(pinned.path)
    assert os.listdir(store) == []


def test_a_pin_that_is_given_up_leaves_nothing(tmp_path, monkeypatch):
    """A full disk in the middle of a copy, or a file that went: what was pinned until then is removed."""
    layout = probe(str(save(tmp_path / "checkpoint-7", 7)))
    store = _store(tmp_path)
    real, written = os.pwrite, []

    def full(descriptor, data, offset):
        written.append(len(data))
        if len(written) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data, offset)

    with monkeypatch.context() as patched:
        patched.setattr(pin_module.os, "pwrite", full)
        with pytest.raises(OSError, match="No space"):
            pin_checkpoint(layout, str(store / "7.pinned"), link=False, proceed=lambda: None)
    assert os.listdir(store) == []
    Path(layout.files[1].path).unlink()
    with pytest.raises(InputChanged, match="gone"):
        pin_checkpoint(layout, str(store / "7.pinned"), link=True, proceed=lambda: None)
    assert os.listdir(store) == []


def test_the_scan_takes_folders_whole_and_looks_into_others(tmp_path):
    """A checkpoint folder is one candidate; a folder of that name with other things in it is looked into, as ever."""
    save(tmp_path / "checkpoint-7", 7)
    save(tmp_path / "run" / "checkpoint-3", 3)
    save(tmp_path / "run", 9, ("config.json", "model.safetensors"))
    for place in ("checkpoint-1/policy.safetensors", "checkpoint_2/unet/diffusion_pytorch_model.safetensors"):
        (tmp_path / place).parent.mkdir(parents=True)
        save_file({"a": load_file(tmp_path / "checkpoint-7" / SHARDS[0])["embedding.weight"]}, tmp_path / place)
    (tmp_path / "checkpoint_2" / "optimizer.bin").write_text("state")
    (tmp_path / "checkpoint_2" / "sampler.bin").write_text("state")
    save(tmp_path, 9, SHARDED[:5])
    found, problems = scan(tmp_path)
    assert [each.name for each in found] == [
        "checkpoint-1/policy.safetensors",
        "checkpoint-7",
        "checkpoint_2/unet/diffusion_pytorch_model.safetensors",
        "run",
        "run/checkpoint-3",
    ]
    assert not problems


def test_state_files_have_names_of_their_own():
    """What is of a training is told by its name alone, however many processes and optimizers there are."""
    state = ["rng_state_3.pth", "optimizer_1.bin", "random_states_7.pkl", "global_step500", "zero_to_fp32.py", ".lock"]
    assert all(folder_module._TRAINING.match(name) for name in (*state, *SHARDED[7:], *STATE[1:]))
    assert not any(folder_module._TRAINING.match(name) for name in (*CARRIED, "vocab.txt", "spiece.model", "README.md"))
