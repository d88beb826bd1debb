"""New files instead of clones: plain safetensors exports of any layout, and torch files without what lay next to the model."""

import errno
import os
import zipfile
from argparse import Namespace
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

from rna_watch.errors import RefusedCheckpoint, StoreError
from rna_watch.formats import zip_directory
from rna_watch.formats.probe import probe
from rna_watch.layout import artifacts
from rna_watch.layout.disk import TEMPORARY_PREFIX
from rna_watch.layout.identity import identify
from rna_watch.layout.open_file import OpenFile
from rna_watch.publishing import export, new_file, torch_writer
from rna_watch.publishing.write import publish
from rna_watch.window import copies, tasks
from rna_watch.window.combine import Combination
from tests.checkpoints import twins
from tests.checkpoints.writers import FORMS, NESTINGS, UNSAFE, Network, model
from tests.publishing.test_clone import failing

WEIGHTS = (0.0, -1.0, 2.0)


def run(work):
    """An engine's `map` in this process."""
    return [tasks.run(task) for task in work]


def exported(path, source=None):
    """The export of a file, under the name that it gets."""
    out = f"{path}{artifacts.ENDING}"
    size = export.write(str(path), out, source or "", run)
    assert os.path.getsize(out) == size
    assert not list(Path(out).parent.glob(f"{TEMPORARY_PREFIX}*"))
    return out


@pytest.mark.parametrize("name", FORMS)
def test_an_export_of_every_form_holds_the_published_model_s_bits_under_plain_names(name, tmp_path):
    """Whatever wrote the original, `load_file` gives the model's tensors, bit for bit, as the network names them."""
    form = FORMS[name]
    paths = [tmp_path / f"epoch_{seed}{form.ending}" for seed in (1, 2, 3)]
    for seed, path in enumerate(paths, 1):
        form.write(path, model(seed), seed)
    out = twins.publish_here(paths, WEIGHTS, tmp_path / f"out{form.ending}")
    found = safetensors.torch.load_file(exported(out))
    assert found.keys() == model(1).keys()
    plain = probe(out).plain_names
    for stored, tensor in form.load(out).items():
        assert twins.same_bits(found[plain[stored]], tensor.detach()), stored
    twin = twins.combine([model(seed) for seed in (1, 2, 3)], WEIGHTS)
    assert all(twins.is_rounded(found[key], twin[key].double()) for key in found if found[key].is_floating_point())


def test_views_of_any_stride_come_out_contiguous_and_in_logical_order(tmp_path, monkeypatch):
    """Transposed, channels-last, sliced, expanded, empty and complex tensors are written as `contiguous()` gives them."""
    monkeypatch.setattr(copies, "_SCATTERED_ELEMENTS", 12)
    monkeypatch.setattr(copies, "_CONTIGUOUS_ELEMENTS", 10)
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(6, 8, generator=generator)
    tensors = {
        "transposed": torch.randn(7, 5, generator=generator).t(),
        "channels_last": torch.randn(4, 3, 2, 2, generator=generator).to(memory_format=torch.channels_last),
        "sliced": base[1:5, 2:6],
        "steps": base[::2, ::3],
        "expanded": torch.randn(3, 1, generator=generator).expand(3, 4),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(2.5),
        "complex": torch.randn(3, 4, generator=generator, dtype=torch.complex64).t(),
        "half": torch.randn(3, 4, generator=generator).bfloat16(),
        "number": torch.tensor(2**60 + 1),
        "large": torch.arange(25.0),
    }
    path = tmp_path / "views.pt"
    torch.save(tensors, path)
    found = safetensors.torch.load_file(exported(path))
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (
            twins.same_bits(torch.view_as_real(found[name]), torch.view_as_real(tensor))
            if (tensor.is_complex())
            else twins.same_bits(found[name], tensor)
        ), name


def test_tied_tensors_are_written_once_and_found_by_load_model(tmp_path):
    """The first of two names for one tensor is kept, the other is in the metadata as `save_model` puts it there."""

    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = torch.nn.Linear(4, 4)
            self.second = torch.nn.Linear(4, 4)
            self.second.weight = self.first.weight

    torch.manual_seed(0)
    source, target = Tied(), Tied()
    path = tmp_path / "tied.pt"
    torch.save({f"module.{name}": tensor for name, tensor in source.state_dict().items()}, path)
    out = exported(path)
    with safetensors.safe_open(out, "pt") as file:
        assert file.metadata() == {"format": "pt", "second.weight": "first.weight"}
        assert "second.weight" not in file.keys()  # noqa: SIM118 - it is no mapping
    assert safetensors.torch.load_model(target, out) == (set(), [])
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))


def test_what_safetensors_cannot_hold_is_refused_in_words(tmp_path):
    """A dtype that the format lacks is named, and nothing is written."""
    path = tmp_path / "wide.pt"
    torch.save({"weight": torch.randn(3, dtype=torch.complex128), "bias": torch.randn(2)}, path)
    assert "weight is complex128" in export.obstacle(probe(str(path)))
    with pytest.raises(RefusedCheckpoint, match="complex128"):
        exported(path)
    assert os.listdir(tmp_path) == ["wide.pt"]


@pytest.mark.parametrize(
    ("name", "code", "after"),
    [
        ("pwrite", errno.ENOSPC, 0),
        ("pwrite", errno.ENOSPC, 3),
        ("ftruncate", errno.ENOSPC, 0),
        ("fsync", errno.EIO, 0),
        ("replace", errno.EACCES, 0),
    ],
)
def test_a_failing_disk_leaves_no_part_of_an_export(tmp_path, monkeypatch, name, code, after):
    """Wherever the disk fails, the model stands alone, and the error says what failed."""
    path = tmp_path / "model.pt"
    torch.save(model(1), path)
    monkeypatch.setattr(os, name, failing(getattr(os, name), code, after))
    with pytest.raises((StoreError, OSError), match=os.strerror(code)):
        exported(path)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["model.pt"]


def test_an_export_has_the_model_s_time_and_loads_into_the_network(tmp_path):
    """Plots against time stay true, and a strict `load_state_dict` takes what was loaded."""
    path = tmp_path / "model.pt"
    torch.save({"state_dict": model(3)}, path)
    os.utime(path, ns=(10**18, 10**18))
    out = exported(path)
    assert os.stat(out).st_mtime_ns == 10**18
    Network().load_state_dict(safetensors.torch.load_file(out), strict=True)


def drop(paths, destination, source=None):
    """A published combination without what lay next to the model."""
    layouts = tuple(probe(str(path), source) for path in paths)
    publish(Combination(layouts=layouts, weights=WEIGHTS), str(destination), run, drop=True)
    return str(destination)


@pytest.mark.parametrize("name", [name for name in NESTINGS if name != "parameters"])
def test_the_model_alone_has_the_clone_s_bits_at_the_clone_s_keys(name, tmp_path):
    """Torch's safe reader gives the same tensors, classes and metadata of every nesting; only counters stay besides."""
    form = FORMS[f"torch zip, {name}"]
    paths = [tmp_path / f"epoch_{seed}.pt" for seed in (1, 2, 3)]
    for seed, path in enumerate(paths, 1):
        form.write(path, model(seed), seed)
    clone = twins.publish_here(paths, WEIGHTS, tmp_path / "clone.pt")
    out = drop(paths, tmp_path / "out.pt")
    assert not list(tmp_path.glob(f"{TEMPORARY_PREFIX}*"))
    found, whole = torch.load(out, weights_only=True), torch.load(clone, weights_only=name not in UNSAFE)
    if form.source:
        assert found.keys() == {form.source} | ({"epoch"} & whole.keys())
        assert found.get("epoch") == whole.get("epoch")
        found, whole = found[form.source], whole[form.source]
    assert type(found) is type(whole)
    assert list(found) == list(whole)
    assert getattr(found, "_metadata", None) == getattr(whole, "_metadata", None)
    assert all(twins.same_bits(found[key], whole[key]) for key in whole)
    assert zipfile.ZipFile(out).testzip() is None
    assert probe(out).architecture == probe(clone).architecture
    assert probe(out).counters == probe(clone).counters


def test_ties_views_strides_and_rare_dtypes_of_the_model_alone(tmp_path):
    """Aliases stay aliases, slices of one storage share it, strides and zero-size tensors stay; records are aligned."""
    paths = []
    for seed in (1, 2, 3):
        generator = torch.Generator().manual_seed(seed)
        base = torch.randn(6, 8, generator=generator)
        tensors = {
            "tied": base,
            "again": base,
            "transposed": base.t(),
            "rows": torch.randn(9, 4, generator=generator)[2:5],
            "steps": torch.randn(6, 8, generator=generator)[::2, ::3],
            "channels_last": torch.randn(4, 3, 2, 2, generator=generator).to(memory_format=torch.channels_last),
            "complex": torch.randn(3, 4, generator=generator, dtype=torch.complex64),
            "empty": torch.zeros(0, 3),
            "count": torch.tensor([2**60 + seed]),
            "unsigned": torch.tensor([seed, 40000], dtype=torch.uint16),
            "eighth": torch.tensor([1.5]).to(torch.float8_e4m3fn),
            "half": torch.randn(5, generator=generator).bfloat16(),
        }
        paths.append(tmp_path / f"step_{seed}.pt")
        torch.save({"step": seed, "state_dict": {"net": tensors, "note": "kept"}, "optimizer": {"x": 1}}, paths[-1])
    whole = torch.load(twins.publish_here(paths, WEIGHTS, tmp_path / "clone.pt"), weights_only=True)
    out = drop(paths, tmp_path / "out.pt")
    found = torch.load(out, weights_only=True)
    assert found.keys() == {"step", "state_dict"}
    assert found["step"] == 3
    assert found["state_dict"]["note"] == "kept"
    found, whole = found["state_dict"]["net"], whole["state_dict"]["net"]
    assert list(found) == list(whole)
    for key, tensor in whole.items():
        assert found[key].stride() == tensor.stride(), key
        pair = [torch.view_as_real(each) if each.is_complex() else each for each in (found[key], tensor)]
        assert twins.same_bits(*pair), key
    pointers = {found[key].untyped_storage().data_ptr() for key in ("tied", "again", "transposed")}
    assert len(pointers) == 1
    with zipfile.ZipFile(out) as archive:
        assert archive.testzip() is None
    assert all(offset % 64 == 0 for offset in torch_writer.plan(probe(str(paths[-1]))).skeleton.offsets.values())


ABOUT = {
    "pytorch-lightning_version": "2.6.6",
    "hyper_parameters": {
        "width": 12,
        "layers": [1, (2, "three")],
        "rate": 0.5,
        "norm": True,
        "note": None,
        "deep": {1: {}},
    },
    "hparams_name": "kwargs",
    "model_args": {"n_layer": 2, "bias": False},
    "config": {"out_dir": "out"},
    "arch": "resnet18",
}


def test_what_loaders_build_the_model_from_stays(tmp_path):
    """Hyper-parameters, model arguments and versions stay as they are, where they are plain; states and objects go."""
    beside = {"optimizer_states": [{"lr": 0.1}], "lr_schedulers": [{}], "loops": {"a": 1}, "seed": 3}
    paths = [tmp_path / f"step_{seed}.pt" for seed in (1, 2, 3)]
    for seed, path in enumerate(paths, 1):
        torch.save({"epoch": seed, **ABOUT, "state_dict": model(seed), **beside}, path)
    found = torch.load(drop(paths, tmp_path / "out.pt"), weights_only=True)
    assert list(found) == ["epoch", *ABOUT, "state_dict"]
    assert {key: found[key] for key in ABOUT} == ABOUT
    for seed, path in enumerate(paths, 1):
        torch.save(
            {"epoch": seed, "config": Namespace(width=2), "arch": torch.ones(2), "state_dict": model(seed)}, path
        )
    assert torch.load(drop(paths, tmp_path / "out.pt"), weights_only=True).keys() == {"epoch", "state_dict"}


@pytest.mark.parametrize("kind", ["itself", "laughs", "deep", "many"])
def test_values_without_end_are_left_out(kind, tmp_path):
    """A list that holds itself, or stands for more than memory has, is no hyper-parameter."""
    odd = []
    if kind == "itself":
        odd.append(odd)
    for _ in range({"laughs": 60, "deep": 300}.get(kind, 0)):
        odd = [odd] * (10 if kind == "laughs" else 1)
    if kind == "many":
        odd = list(range(200_000))
    path = tmp_path / "step_1.pt"
    torch.save({"epoch": 1, "config": odd, "state_dict": model(1)}, path)
    assert torch.load(drop([path] * 3, tmp_path / "out.pt"), weights_only=True).keys() == {"epoch", "state_dict"}


def test_hyper_parameters_that_cannot_be_written_keep_all(tmp_path):
    """Lightning could not build the module without its hyper-parameters: it is reported if they are objects."""
    path = tmp_path / "epoch=1.ckpt"
    content = {"pytorch-lightning_version": "2.6.6", "hyper_parameters": {"net": Namespace(width=2)}}
    torch.save(content | {"state_dict": model(1)}, path)
    assert "hyper-parameters that are objects" in torch_writer.obstacle(probe(str(path)))


def test_a_pickled_network_is_not_taken_apart(tmp_path):
    """What loads as an object cannot become a state dict: that is said."""
    form = FORMS["torch zip, module object under model"]
    path = tmp_path / "epoch_1.pt"
    form.write(path, model(1), 1)
    assert "an object of a class" in torch_writer.obstacle(probe(str(path)))
    torch.save(model(1), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert "old format" in torch_writer.obstacle(probe(str(tmp_path / "old.pt")))


@pytest.mark.parametrize(("size", "count"), [(2**32 + 4096, 3), (64, 70_000)])
def test_large_archives_are_zip64(tmp_path, size, count):
    """Records, offsets and numbers of them beyond the old format's fields are read back by zip readers, torch's too."""
    made = torch_writer.archive([("version", b"3\n"), *((f"data/{number}", size) for number in range(count))])
    path = tmp_path / "large.pt"
    new_file.make(made, str(path), identify(__file__))
    with zipfile.ZipFile(path) as archive:
        assert len(archive.namelist()) == count + 1
        assert archive.getinfo(f"archive/data/{count - 1}").file_size == size
    reader = torch._C.PyTorchFileReader(str(path))
    assert reader.get_record_offset(f"data/{count - 1}") == made.offsets[f"data/{count - 1}"]
    with OpenFile(str(path)) as file:
        records = {record.name: record for record in zip_directory.read_directory(file)}
        assert (
            zip_directory.payload_offset(file, records[f"archive/data/{count - 1}"])
            == made.offsets[f"data/{count - 1}"]
        )


@pytest.mark.parametrize(("name", "after"), [("pwrite", 0), ("pwrite", 4), ("fsync", 0), ("replace", 0)])
def test_a_failing_disk_leaves_no_part_of_a_model_alone(tmp_path, monkeypatch, name, after):
    """Wherever the disk fails, there is neither the model nor its temporary file."""
    paths = [tmp_path / f"epoch_{seed}.pt" for seed in (1, 2, 3)]
    for seed, path in enumerate(paths, 1):
        FORMS["torch zip, state_dict"].write(path, model(seed), seed)
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(os, name, failing(getattr(os, name), errno.ENOSPC, after))
    with pytest.raises((StoreError, OSError), match=os.strerror(errno.ENOSPC)):
        drop(paths, tmp_path / "out" / "model.pt")
    monkeypatch.undo()
    assert os.listdir(tmp_path / "out") == []
