"""Checkpoints that change while they are read: the right bytes, or `InputChanged`, never a mixture."""

import os

import pytest
import torch

from rna_watch.acceleration.gram import merge
from rna_watch.errors import IncompleteCheckpoint, InputChanged, RefusedCheckpoint, StoreError
from rna_watch.evaluation.materialize import state_dict
from rna_watch.formats.probe import probe
from rna_watch.layout.disk import TEMPORARY_PREFIX
from rna_watch.layout.layout import Role
from rna_watch.publishing.write import publish
from rna_watch.window import tasks, tasks_plan
from rna_watch.window.combine import Combination
from rna_watch.window.reader import WindowReader
from rna_watch.window.segments import window_segments
from tests.checkpoints import twins
from tests.checkpoints.writers import FORMS, SAFETENSORS, model

RESTED = (10**18, 10**18)


@pytest.fixture(params=[FORMS["torch zip, model"], SAFETENSORS], ids=lambda form: form.name)
def form(request):
    """Both formats."""
    return request.param


@pytest.fixture
def paths(form, tmp_path):
    """Three checkpoints that were written long ago."""
    paths = [tmp_path / f"epoch_{seed}{form.ending}" for seed in (1, 2, 3)]
    for seed, path in enumerate(paths, 1):
        form.write(path, model(seed), seed)
        os.utime(path, ns=RESTED)
    return paths


def rewrite(path):
    """Other bytes under the same name, in place and of the same length."""
    content = bytearray(path.read_bytes())
    content[-600:-500] = b"\1" * 100
    with open(path, "r+b") as file:
        file.write(content)


def truncate(path):
    """The file is opened for writing once more."""
    os.truncate(path, 0)


def shorten(path):
    """Only its beginning stays."""
    os.truncate(path, 700)


def append(path):
    """The file grows."""
    with open(path, "ab") as file:
        file.write(b"\0" * 64)


def replace(path):
    """Another file takes the name."""
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=RESTED)
    other.replace(path)


def unlink(path):
    """The trainer's retention removes it."""
    path.unlink()


CHANGES = [rewrite, truncate, shorten, append, replace, unlink]
HARMLESS = {replace, unlink}


@pytest.fixture(params=CHANGES, ids=lambda change: change.__name__)
def change(request):
    """What happens to a checkpoint."""
    return request.param


def segments_of(layouts):
    """All floating tensors."""
    return window_segments(layouts, frozenset(Role) - {Role.COPIED}, 2**20)


def values_read(layouts, capacity, between=lambda: None):
    """All values (K, n), a small block at a time; `between` is called after the first."""
    with WindowReader([layout.files for layout in layouts]) as reader:
        blocks = []
        for block in reader.steps(segments_of(layouts), capacity):
            blocks.append(torch.from_numpy(block.values.copy()))
            if len(blocks) == 1:
                between()
    return torch.cat(blocks, dim=1)


@pytest.mark.parametrize("which", [0, 2])
def test_a_change_between_two_blocks(paths, change, which):
    """A rewritten, cut or grown file is noticed at the latest at the end; a file that only lost its name is read on."""
    layouts = [probe(str(path)) for path in paths]
    expected = values_read(layouts, 7)
    if change in HARMLESS:
        assert torch.equal(values_read(layouts, 7, lambda: change(paths[which])), expected)
    else:
        with pytest.raises(InputChanged, match=paths[which].name):
            values_read(layouts, 7, lambda: change(paths[which]))


def test_a_change_before_the_first_block(paths, change):
    """Whatever happened between planning and reading is noticed at the door."""
    layouts = [probe(str(path)) for path in paths]
    change(paths[1])
    with pytest.raises(InputChanged, match=paths[1].name):
        values_read(layouts, 4096)


def test_a_change_while_it_is_probed(paths, change, monkeypatch):
    """A file that is rewritten while its header is parsed gives no layout."""
    from rna_watch.formats import model_source, torch_zip

    monkeypatch.setattr(torch_zip, "_last", [None])  # no layout is taken over from a file before
    real = model_source.role

    def role(name, dtype):
        if name == "conv.weight":
            change(paths[0])
        return real(name, dtype)

    monkeypatch.setattr(model_source, "role", role)
    if change in HARMLESS:
        assert probe(str(paths[0])).files[0].mtime_ns == RESTED[0]
    else:
        with pytest.raises((InputChanged, IncompleteCheckpoint, RefusedCheckpoint)):
            probe(str(paths[0]))


@pytest.mark.parametrize("moment", ["before the tasks", "after the tasks"])
@pytest.mark.parametrize("which", [1, 2])
def test_a_change_while_it_is_published(paths, change, which, moment, form, tmp_path):
    """A change before the bytes are read stops the publication, leaves nothing behind, and names the file."""
    layouts = tuple(probe(str(path)) for path in paths)
    expected = twins.combine([form.load(path) for path in paths], (0.0, -1.0, 2.0))
    out = tmp_path / "out" / f"model{form.ending}"
    out.parent.mkdir()

    def run(work):
        if moment == "before the tasks":
            change(paths[which])
        results = [tasks.run(task) for task in work]
        if moment == "after the tasks":
            change(paths[which])
        return results

    def go():
        combination = Combination(layouts=layouts, weights=(0.0, -1.0, 2.0))
        publish(combination, str(out), run)

    if moment == "after the tasks":
        go()
        published = form.load(out)
        assert all(twins.is_rounded(published[name], expected[name]) for name in ("conv.weight", "head.bias"))
    else:
        with pytest.raises(InputChanged, match=paths[which].name):
            go()
        assert list(out.parent.iterdir()) == []


def test_a_change_before_it_is_cloned(paths, change, tmp_path):
    """The newest checkpoint gives everything but the model: it must be the one that was probed."""
    layouts = tuple(probe(str(path)) for path in paths)
    change(paths[-1])
    out = tmp_path / "out"
    with pytest.raises(InputChanged, match=paths[-1].name):
        publish(Combination(layouts=layouts, weights=(0.0, 0.0, 1.0)), str(out), list)
    assert not out.exists()
    assert not list(tmp_path.glob(f"{TEMPORARY_PREFIX}*"))


@pytest.mark.parametrize("which", [1, 2])
def test_a_change_before_it_is_evaluated(paths, change, which):
    """The model in memory is never made of another file's bytes, its integers included."""
    layouts = tuple(probe(str(path)) for path in paths)
    change(paths[which])
    with pytest.raises(InputChanged, match=paths[which].name):
        state_dict(Combination(layouts=layouts, weights=(0.0, -1.0, 2.0)), torch.device("cpu"))


def test_a_change_is_noticed_by_a_task(paths, change):
    """The Gram matrix is never made of bytes that were not planned."""
    work = tasks_plan.gram_tasks([probe(str(path)) for path in paths], 2, 1.0)
    expected = merge([tasks.run(task) for task in work])
    assert expected.rows.shape == (2, 2)
    change(paths[0])
    with pytest.raises(InputChanged, match=paths[0].name):
        [tasks.run(task) for task in work]


def test_no_room_is_trouble_of_the_store_not_of_the_input(paths, tmp_path):
    """A destination that cannot be written is told apart from a checkpoint that changed, with what to do."""
    layouts = tuple(probe(str(path)) for path in paths)
    combination = Combination(layouts=layouts, weights=(0.0, -1.0, 2.0))
    missing = tmp_path / "no" / "such" / "folder"
    with pytest.raises(StoreError, match="make room there, or name another folder with --output"):
        publish(combination, str(missing), list)
