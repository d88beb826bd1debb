"""Tensors that share storage, or lie in it in unusual ways: they come out as they went in."""

import zipfile

import numpy as np
import pytest
import torch

from rna_watch.errors import RefusedCheckpoint
from rna_watch.formats.probe import probe
from rna_watch.layout.layout import Role
from rna_watch.window import tasks, tasks_plan
from tests.checkpoints import twins

WEIGHTS = (0.0, -0.5, 1.5)


def values(seed, *shape):
    """Numbers of their own for every seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tied(seed):
    """Two names for one tensor, and a third for its transpose."""
    weight = values(seed, 6, 4)
    return {"embedding": weight, "head": weight, "transposed": weight.t(), "other": values(seed + 50, 3)}


def overlapping(seed):
    """Two views that share some of their elements, and a gap that no view uses."""
    storage = values(seed, 20)
    return {"first": storage[0:8], "second": storage[4:12], "third": storage[15:20]}


def channels_last(seed):
    """A tensor in another memory format."""
    return {"conv": values(seed, 2, 3, 4, 5).to(memory_format=torch.channels_last)}


def transposed(seed):
    """A matrix stored by columns."""
    return {"w": values(seed, 5, 7).t()}


def expanded(seed):
    """One row that stands for many."""
    return {"w": values(seed, 1, 6).expand(4, 6), "scalar": values(seed + 50, 1).expand(3)}


def sliced(seed):
    """Every second column and the last rows of a larger base."""
    base = values(seed, 9, 10)
    return {"columns": base[:, ::2], "rows": values(seed + 50, 100, 3)[97:]}


def flat(seed):
    """Parameters that are slices of one flat storage, with padding (FSDP, an RNN's flattened weights)."""
    storage = values(seed, 64)
    return {
        "weight": storage[0:12].view(3, 4),
        "bias": storage[12:15],
        "gain": storage[16:19].abs_(),
        "last": storage[32:64].view(4, 8).t(),
    }


def whole_base(seed):
    """A few rows that are saved with all of the large base they belong to, and rows of another base that overlap."""
    base = values(seed + 50, 50, 4)
    return {"rows": values(seed, 1000, 10)[500:502], "upper": base[0:30], "lower": base[20:50], "row": base[25]}


def interleaved(seed):
    """Even and odd columns of one base: neighbours that share nothing."""
    base = values(seed, 6, 10)
    return {"even": base[:, ::2], "odd": base[:, 1::2]}


def strided(seed):
    """Windows that overlap each other (as_strided)."""
    return {"windows": values(seed, 12).unfold(0, 4, 2)}


def without_elements(seed):
    """Tensors with no elements and with no axes, next to one with some."""
    return {"none": torch.zeros(0, 4), "empty": torch.zeros(0), "number": values(seed), "some": values(seed + 50, 2)}


def wide_strides_of_one(seed):
    """An axis of length one may have any stride."""
    return {"w": torch.as_strided(values(seed, 6), (1, 6), (999, 1))}


SHAPES = [
    tied,
    overlapping,
    channels_last,
    transposed,
    expanded,
    sliced,
    flat,
    whole_base,
    interleaved,
    strided,
    without_elements,
    wide_strides_of_one,
]


@pytest.fixture(params=SHAPES, ids=lambda make: make.__name__)
def make(request):
    """A model with unusual tensors."""
    return request.param


@pytest.fixture
def paths(make, tmp_path):
    """Three checkpoints of it."""
    paths = [tmp_path / f"epoch_{seed}.pt" for seed in (1, 2, 3)]
    for seed, path in enumerate(paths):
        torch.save(make(seed), path)
    return paths


def test_the_layout_leads_to_the_same_tensors(make, paths):
    """Values, shapes and strides read through the layout are those that torch loads."""
    found = twins.read(probe(str(paths[0])))
    loaded = torch.load(paths[0], weights_only=True)
    assert list(found) == list(make(0))
    for name, tensor in loaded.items():
        assert found[name].stride() == tensor.stride()
        assert twins.same_bits(found[name], tensor)


def test_published_views_are_views_of_the_combination(make, paths, tmp_path):
    """Each tensor is the combination, with the strides and the sharing of storage that it had."""
    out = twins.publish_here(paths, WEIGHTS, tmp_path / "out.pt")
    published = torch.load(out, weights_only=True)
    newest = torch.load(paths[-1], weights_only=True)
    expected = twins.combine([make(seed) for seed in range(3)], WEIGHTS)
    groups = []
    for tensors in (published, newest):
        storages = [tensor.untyped_storage().data_ptr() for tensor in tensors.values()]
        groups.append([storages.index(pointer) for pointer in storages])
    assert groups[0] == groups[1]
    for name, tensor in published.items():
        assert tensor.stride() == newest[name].stride()
        assert tensor.storage_offset() == newest[name].storage_offset()
        assert twins.is_rounded(tensor, expected[name])
    assert zipfile.ZipFile(out).testzip() is None


def test_each_element_counts_once(make, paths):
    """The Gram matrix is that of the distinct elements of storage, however many tensors show them."""
    layouts = [probe(str(path)) for path in paths]
    merged = sum(tasks.run(task).rows for task in tasks_plan.gram_tasks(layouts, 2, 64.0))
    models = []
    for path in paths:
        distinct = {}
        for tensor in torch.load(path, weights_only=True).values():
            pointer, itemsize = tensor.untyped_storage().data_ptr(), tensor.element_size()
            places = torch.as_strided(torch.arange(10_000), tensor.shape, tensor.stride(), tensor.storage_offset())
            for place, value in zip(places.flatten().tolist(), tensor.flatten().tolist(), strict=True):
                distinct[pointer, place * itemsize] = value
        models.append(np.array(list(distinct.values())))
    residuals = np.diff(np.array(models), axis=0)
    np.testing.assert_allclose(merged, residuals @ residuals.T, rtol=1e-12)
    assert layouts[0].parameters == residuals.shape[1]


def test_what_no_tensor_uses_stays_the_newest_s(tmp_path):
    """Elements of a storage between the views come out as in the newest checkpoint, even where they are NaN."""
    paths = [tmp_path / f"epoch_{seed}.pt" for seed in (1, 2, 3)]
    for seed, path in enumerate(paths):
        base = values(seed, 4, 6)
        base[:, 3:] = float("nan")
        base[0, 5] = seed
        torch.save({"w": base[:, :3]}, path)
    out = twins.publish_here(paths, WEIGHTS, tmp_path / "out.pt")
    storages = [
        torch.load(path, weights_only=True)["w"].as_strided((4, 6), (6, 1), 0)[:, 3:] for path in (out, paths[-1])
    ]
    assert twins.same_bits(*storages)
    assert storages[0][0, 2] == 2


def test_slices_of_a_flat_storage_are_extents_of_their_own(tmp_path):
    """Neighbours in one storage keep their own roles and places, and match tensors that have storages of their own."""

    def make(seed):
        return {name.replace("gain", "running_var"): each for name, each in flat(seed).items()}

    torch.save(make(1), tmp_path / "flat.pt")
    torch.save({name: each.clone() for name, each in make(2).items()}, tmp_path / "apart.pt")
    layouts = [probe(str(tmp_path / name)) for name in ("flat.pt", "apart.pt")]
    assert [str(extent.role) for extent in layouts[0].extents] == ["parameter", "parameter", "variance", "parameter"]
    assert [extent.storage_count for extent in layouts[0].extents] == [12, 3, 3, 32]
    assert layouts[0].architecture == layouts[1].architecture
    found = twins.publish_here([tmp_path / "flat.pt", tmp_path / "apart.pt"], (6.0, -5.0), tmp_path / "out.pt")
    variances = torch.load(found, weights_only=True)["running_var"]
    assert (variances == 0).any(), "the weights must drive a variance below zero for this to be a test"
    assert (variances >= 0).all()


def test_tied_tensors_of_several_roles_take_the_strongest(tmp_path):
    """A parameter that is also known as a statistic stands in the residuals."""
    weight = values(1, 3)
    torch.save({"bn.running_mean": weight, "w": weight}, tmp_path / "model.pt")
    (extent,) = probe(str(tmp_path / "model.pt")).extents
    assert extent.role is Role.PARAMETER


def test_one_storage_under_two_dtypes_is_refused(tmp_path):
    """Bits that are numbers of two kinds at once cannot be averaged, and the message names both tensors."""
    path = tmp_path / "model.pt"
    torch.save({"a": torch.arange(4.0), "b": torch.arange(4, dtype=torch.int32)}, path)
    content = zipfile.ZipFile(path).read("model/data.pkl")
    # torch itself refuses to save such a model: let both tensors name storage 0
    forged = content.replace(b"X\x01\x00\x00\x001", b"X\x01\x00\x00\x000")
    assert forged != content
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "forged.pt", "w") as new:
        for name in old.namelist():
            new.writestr(name, forged if name.endswith("data.pkl") else old.read(name))
    with pytest.raises(RefusedCheckpoint, match="a and b share storage under different dtypes"):
        probe(str(tmp_path / "forged.pt"))


def test_a_tensor_in_too_many_pieces_is_refused(tmp_path):
    """A slice that leaves a hundred thousands of gaps is answered with what to do, not with gigabytes of bookkeeping."""
    path = tmp_path / "model.pt"
    torch.save({"w": torch.zeros(600_000)[::2]}, path)
    with pytest.raises(RefusedCheckpoint, match="w is not a plain strided tensor .*save a contiguous copy"):
        probe(str(path))
