"""What a path may lead to, besides a checkpoint."""

import errno
import io
import os
import struct
import tarfile

import pytest
import torch

from rna_watch.errors import IncompleteCheckpoint, RefusedCheckpoint
from rna_watch.formats.probe import probe
from tests.checkpoints.writers import BARE, FORMS, SAFETENSORS, model


def tar():
    """What torch wrote before 0.1.10: an archive of four files, of which the first describes the machine."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:", format=tarfile.PAX_FORMAT) as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    return buffer.getvalue()


def torchscript():
    """A whole program instead of a state dict."""
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"\0" * 4096, "begins with zeros: not written yet"),
        (b"PK", "it has only 2 bytes so far"),
        (b"\x10\0\0\0", "it has only 4 bytes so far"),
        (b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9", "it ends at byte 9, within its pickles"),
    ],
    ids=repr,
)
def test_files_of_which_little_is_there_are_incomplete(content, message, tmp_path):
    """An empty or hardly begun file is waited for."""
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(IncompleteCheckpoint, match=message):
        probe(str(path))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (tar, r"tar archive, as torch before 0.1.10 wrote them; .* save it again with today's torch"),
        (torchscript, "TorchScript archive; save the model's state_dict instead"),
        (
            lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
            "Git LFS pointer, not the file itself; run `git lfs pull`",
        ),
        (
            lambda: b"<!DOCTYPE html><html><body>404, and more words than that</body></html>" * 2,
            "in no format that is known",
        ),
        (
            lambda: b"\x89HDF\r\n\x1a\n" + bytes(100),
            r"no format that is known \(torch zip, safetensors, torch legacy, .*NeMo archive\)",
        ),
        (
            lambda: struct.pack("<Q", 2**40) + b"{" + bytes(100),
            r"no format that is known \(torch zip, safetensors, torch legacy, .*NeMo archive\)",
        ),
    ],
)
def test_foreign_files_are_refused_with_what_they_are(make, message, tmp_path):
    """Old, foreign and placeholder files are named, with the remedy where there is one."""
    path = tmp_path / "model.pt"
    path.write_bytes(make())
    with pytest.raises(RefusedCheckpoint, match=message):
        probe(str(path))


def test_a_folder_and_a_pipe_are_no_checkpoints(tmp_path):
    """What is no regular file is refused before anything is read from it (a pipe would wait for ever)."""
    os.mkfifo(tmp_path / "pipe.pt")
    for path in (tmp_path, tmp_path / "pipe.pt"):
        with pytest.raises(RefusedCheckpoint, match="not a regular file"):
            probe(str(path))


def test_a_file_that_is_gone_is_told_apart(tmp_path):
    """A missing file and a dangling link are gone, which is no fault of theirs."""
    (tmp_path / "link.pt").symlink_to("nowhere.pt")
    for name in ("missing.pt", "link.pt"):
        with pytest.raises(FileNotFoundError, match=name):
            probe(str(tmp_path / name))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(tmp_path):
    """A file that may not be read is refused with what to do."""
    path = tmp_path / "model.pt"
    BARE.write(path, model(1), 1)
    path.chmod(0)
    with pytest.raises(RefusedCheckpoint, match="permission denied"):
        probe(str(path))


@pytest.mark.parametrize(
    "form", [BARE, SAFETENSORS, FORMS["torch zip, model"], FORMS["torch legacy, bare"]], ids=lambda form: form.name
)
def test_the_ending_does_not_matter(form, tmp_path):
    """A checkpoint is known by its bytes, whatever its name, and through a link."""
    path = tmp_path / "checkpoint"
    form.write(path, model(1), 1)
    (tmp_path / "latest").symlink_to("checkpoint")
    assert probe(str(path)).format == form.format
    assert probe(str(tmp_path / "latest")).fingerprint == probe(str(path)).fingerprint


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EMFILE])
def test_a_file_that_cannot_be_looked_at_is_not_called_something_else(code, tmp_path, monkeypatch):
    """An error that passes says nothing of what lies there, and is raised as it is."""
    path = str(tmp_path / "model.pt")
    torch.save({"w": torch.ones(3)}, path)
    real, failed = os.stat, []

    def stat(given, *arguments, **options):
        if str(given) == path and not failed:
            failed.append(given)
            raise OSError(code, os.strerror(code), path)
        return real(given, *arguments, **options)

    monkeypatch.setattr(os, "stat", stat)
    with pytest.raises(OSError, match=os.strerror(code)) as error:
        probe(path)
    assert error.value.errno == code
    assert probe(path).tensors
