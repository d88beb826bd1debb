"""Archives with a file of torch in them: what is no model, and what is not read in place, is refused in words."""

import io
import tarfile
import zipfile

import pytest
import torch

from rna_watch.errors import IncompleteCheckpoint, RefusedCheckpoint
from rna_watch.formats import tar_members
from rna_watch.formats.probe import probe
from rna_watch.layout.open_file import OpenFile
from tests.checkpoints import archive_forms, twins
from tests.checkpoints.writers import model

WEIGHTS = "model_weights.ckpt"


def _archive(path, members, mode="w:", form=tarfile.DEFAULT_FORMAT):
    with tarfile.open(path, mode, format=form) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def _torch_file():
    saved = io.BytesIO()
    torch.save(model(1), saved)
    return saved.getvalue()


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_those_that_tarfile_reads(form, tmp_path):
    """Long names, empty files and folders, in each of the formats that Python writes."""
    path = tmp_path / "a.tar"
    long = "x" * 90 + "/" + "y" * (60 if form == tarfile.USTAR_FORMAT else 200)
    _archive(path, [("./a", b"1" * 700), (long, b"2" * 512), ("c/empty", b""), ("d", b"3")], form=form)
    with tarfile.open(path) as archive, OpenFile(str(path)) as file:
        wanted = {each.name.removeprefix("./"): (each.offset_data, each.size) for each in archive}
        assert tar_members.read(file) == wanted


def test_a_size_beyond_octal_digits_is_read(tmp_path):
    """A member of 9 GB, a hole on the disk: GNU writes its size to base 256."""
    path, size = tmp_path / "a.tar", 9 * 10**9
    member = tarfile.TarInfo("large")
    member.size = size
    header = member.tobuf(tarfile.GNU_FORMAT)
    path.write_bytes(header)
    with path.open("r+b") as file:
        file.truncate(-(-(len(header) + size + 1024) // 10240) * 10240)
    with OpenFile(str(path)) as file:
        assert tar_members.read(file) == {"large": (512, size)}


@pytest.mark.parametrize(
    ("members", "mode", "reason"),
    [
        ([(WEIGHTS, b"x" * 100)], "w:gz", "compressed"),
        ([("./model_config.yaml", b"a: 1")], "w:", "no model_weights.ckpt: it is no model"),
        ([("./mp_rank_00/" + WEIGHTS, b"x")], "w:", "cut over several files"),
        ([(f"./{WEIGHTS}", b"x" * 100)], "w:", "not what torch.save writes"),
        ([(f"./{WEIGHTS}", b"x"), (WEIGHTS, b"y")], "w:", "twice"),
    ],
)
def test_an_archive_of_nemo_that_cannot_be_used_is_refused_in_words(members, mode, reason, tmp_path):
    """What is compressed, sharded, doubled or something else says so."""
    path = tmp_path / "a.nemo"
    _archive(path, members, mode)
    with pytest.raises(RefusedCheckpoint, match=reason):
        probe(str(path))


def test_what_is_no_archive_is_refused_and_a_part_of_one_is_waited_for(tmp_path):
    """A file of that name with other content, and one that is being written."""
    path = tmp_path / "a.nemo"
    path.write_bytes(b"not a tar archive" * 100)
    with pytest.raises(RefusedCheckpoint, match="no tar archive"):
        probe(str(path))
    _archive(path, [(f"./{WEIGHTS}", _torch_file())])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(IncompleteCheckpoint, match="missing"):
        probe(str(path))


@pytest.mark.parametrize("records", [{"data": b"{}"}, {"data": b"{}", "policy.pth": b"no zip" * 9}])
def test_a_zip_that_begins_like_stable_baselines_and_is_none_is_refused(records, tmp_path):
    """A record called `data` makes no model."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    with pytest.raises((RefusedCheckpoint, IncompleteCheckpoint), match=r"\w"):
        probe(str(path))


@pytest.mark.parametrize("data", ["{", "[1]", '{"num_timesteps": true}', '{"num_timesteps": -3}', '{"a": 1}'])
def test_steps_that_are_not_told_are_none(data, tmp_path):
    """The model is read all the same."""
    path, tensors = tmp_path / "a.zip", model(1)
    archive_forms.write_zip(path, tensors, 1)
    changed = tmp_path / "b.zip"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            new.writestr(name, data if name == "data" else old.read(name))
    layout = probe(str(changed))
    assert layout.counters == {}
    assert all(twins.same_bits(twins.read(layout)[name], each) for name, each in tensors.items())
