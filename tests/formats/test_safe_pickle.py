"""The pickle reader: the same tensors as torch's safe loader, from anything, and nothing is ever run."""

import collections
import datetime
import pickle
import random
import struct
import zipfile

import numpy as np
import pytest
import torch

from rna_watch.errors import IncompleteCheckpoint, RefusedCheckpoint
from rna_watch.formats import safe_pickle
from rna_watch.formats.probe import probe
from rna_watch.formats.safe_pickle import Inert, OpaqueTensor, PickledTensor
from tests.checkpoints.writers import NESTINGS, company, model

# a persistent id: storage "0", four float32
STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"


def saved(tree, folder):
    """The pickle that torch.save writes for a tree, and its path."""
    path = folder / "model.pt"
    torch.save(tree, path)
    return zipfile.ZipFile(path).read("model/data.pkl"), path


def tensors(tree, path=()):
    """Every tensor of a tree of dicts and lists by its place."""
    if isinstance(tree, dict):
        return {k: v for key, item in dict.items(tree) for k, v in tensors(item, (*path, key)).items()}
    if isinstance(tree, list | tuple):
        return {k: v for key, item in enumerate(tree) for k, v in tensors(item, (*path, key)).items()}
    return {path: tree} if isinstance(tree, torch.Tensor | PickledTensor | OpaqueTensor) else {}


@pytest.mark.parametrize("nesting", [name for name in NESTINGS if name != "with company"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_it_agrees_with_torch_s_safe_loader(nesting, dtype, tmp_path):
    """Every tensor that torch finds is found, with its dtype, shape, stride, start and sharing of storage."""
    data, path = saved(NESTINGS[nesting][0](model(3, dtype), 3), tmp_path)
    ours, theirs = tensors(safe_pickle.load(data)), tensors(torch.load(path, weights_only=True))
    assert ours.keys() == theirs.keys()
    keys = {}
    for place, tensor in theirs.items():
        found = ours[place]
        assert f"torch.{found.dtype}" == str(tensor.dtype)
        assert found.shape == tuple(tensor.shape)
        assert found.stride == tensor.stride()
        assert found.start == tensor.storage_offset()
        pointer = tensor.untyped_storage().data_ptr()
        assert keys.setdefault(found.storage.key, pointer) == pointer


def test_every_dtype_is_named_as_torch_names_it(tmp_path):
    """Old storages and the untyped ones of newer dtypes lead to the same names."""
    kinds = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32]
    kinds += [torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64, torch.complex128, torch.float32]
    data, _ = saved({str(kind): torch.zeros(2, dtype=kind) for kind in kinds}, tmp_path)
    assert [f"torch.{tensor.dtype}" for tensor in safe_pickle.load(data).values()] == [str(kind) for kind in kinds]


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_tensors_that_are_no_plain_arrays_are_named(tmp_path):
    """Quantized, sparse, nested and meta tensors come back as what they are, without their data."""
    tree = {
        "quantized": torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8),
        "coo": torch.eye(3).to_sparse(),
        "meta": torch.zeros(3, device="meta"),
    }
    data, _ = saved(tree, tmp_path)
    found = {name: tensor.what for name, tensor in safe_pickle.load(data).items()}
    assert found == {
        "quantized": "a quantized tensor",
        "coo": "a sparse tensor",
        "meta": "a tensor without data (meta)",
    }


def test_a_tensor_with_attributes_of_its_own_is_a_tensor(tmp_path):
    """A plain tensor or buffer that carries attributes is still a plain strided array."""
    tensor = torch.arange(4.0)
    tensor.note = "mine"
    data, _ = saved({"w": tensor, "b": torch.nn.Buffer(torch.ones(2))}, tmp_path)
    found = safe_pickle.load(data)
    assert {name: (each.dtype, each.shape) for name, each in found.items()} == {
        "w": ("float32", (4,)),
        "b": ("float32", (2,)),
    }


def test_a_tensor_subclass_is_opaque(tmp_path):
    """What a subclass does with its data is its own affair: it is named, not read."""

    class Scaled(torch.Tensor):
        pass

    globals()["Scaled"] = Scaled
    Scaled.__qualname__ = "Scaled"
    data, _ = saved({"w": torch.arange(4.0).as_subclass(Scaled)}, tmp_path)
    assert safe_pickle.load(data)["w"] == OpaqueTensor(what="a tensor subclass")


def test_foreign_objects_are_read_inertly(tmp_path):
    """Namespaces, numpy values, paths, dates and classes come back as values without behaviour, plain data as it is."""
    data, _ = saved({**company(5), "date": datetime.datetime(2024, 5, 1, tzinfo=datetime.UTC)}, tmp_path)
    found = safe_pickle.load(data)
    assert found["epoch"] == 5
    assert found["none"] is None
    assert found["history"] == {"loss": [0.5]}
    assert type(found["history"]).__bases__[0].__name__ == "InertDict"
    for name, kind in (
        ("args", "argparse.Namespace"),
        ("settings", "tests.checkpoints.writers.Settings"),
        ("date", "datetime.datetime"),
    ):
        assert isinstance(found[name], Inert)
        assert found[name].qualified_name == kind
    assert found["args"].state["arch"] == "resnet18"
    assert found["settings"].state == {"learning_rate": 0.1}
    assert isinstance(found["best"], Inert)
    assert found["optimizer"]["param_groups"][0]["lr"] == 0.1


class Trap:
    """Sets a file when it is built, called, given a state or asked for anything."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        """What a pickle would run."""
        return self.call, self.arguments


def hostile(marker):
    """Objects whose unpickling would leave a mark."""
    import os
    import subprocess

    return {
        "os.system": Trap(os.system, f"touch {marker}"),
        "eval": Trap(eval, f"open({str(marker)!r}, 'w').close()"),
        "exec": Trap(exec, f"open({str(marker)!r}, 'w').close()"),
        "open": Trap(open, str(marker), "w"),
        "subprocess": Trap(subprocess.call, ["touch", str(marker)]),
        "torch.load": Trap(torch.load, str(marker)),
        "nested": [{"deep": (Trap(os.system, f"touch {marker}"),)}],
    }


@pytest.mark.parametrize("name", hostile(""))
def test_nothing_named_in_a_file_is_run(name, tmp_path):
    """Next to a good model, a call to anything is kept as an inert value, and the model is still read."""
    marker = tmp_path / "marker"
    path = tmp_path / "model.pt"
    torch.save({"state_dict": {"w": torch.arange(3.0)}, "evil": hostile(marker)[name]}, path)
    assert [view.name for view in probe(str(path)).tensors] == ["w"]
    assert not marker.exists()


def test_a_hostile_call_would_be_run_by_pickle(tmp_path):
    """The traps are real: Python's own reader walks into them."""
    marker = tmp_path / "marker"
    pickle.loads(pickle.dumps(hostile(marker)["eval"]))
    assert marker.exists()


def _pickled(body):
    return b"\x80\x02" + body + b"."


def _tensor(start=b"K\x00", shape=b"K\x04\x85", stride=b"K\x01\x85", storage=STORAGE):
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n"
    return rebuild + b"(" + storage + start + shape + stride + b"\x89ccollections\nOrderedDict\n)RtR"


def _model(tensor):
    return _pickled(b"}X\x01\x00\x00\x00w" + tensor + b"s")


HUGE = b"\x8a\x09" + (2**70).to_bytes(9, "little")  # LONG1
ALMOST = b"\x8a\x08" + (2**63 - 1).to_bytes(8, "little")
REFUSED = {
    "a state for a class": _model(b"ctorch\nFloatStorage\nX\x01\x00\x00\x00x\x85b"),
    "a state for a storage type": _model(
        _tensor(storage=STORAGE.replace(b"\nX\x01\x00\x00\x000", b"\n]\x85bX\x01\x00\x00\x000"))
    ),
    "a state for a tensor": _model(_tensor() + b"(N]NNNtb"),
    "a state for a function of torch": _model(b"ctorch._utils\n_rebuild_tensor_v2\n}b"),
    "a state for a list": _model(b"]}X\x01\x00\x00\x00a]sb"),
    "a memo number of two billion": _pickled(b"}r" + struct.pack("<I", 2**31 - 1)) + b"q",
    "a byte array of a terabyte": _pickled(b"\x96" + struct.pack("<Q", 2**40)),
    "an unhashable key": _pickled(b"}]Ns"),
    "an empty stack": _pickled(b"0"),
    "a memo that was never set": _pickled(b"h\x07"),
    "no end": b"\x80\x02}",
    "nothing": b"",
    "an unknown opcode": _pickled(b"\xff"),
    "a protocol of the future": b"\x80\x7f}.",
    "an extension code": _pickled(b"\x82\x01"),
    "an element of nothing": _model(b"ctorch._utils\n_rebuild_parameter\n)R"),
    "a class name with a null": _model(b"ca\x00b\nc\x00d\n)R"),
    "a storage without a length": _model(_tensor(storage=STORAGE.replace(b"K\x04tQ", b"NtQ"))),
    "a start that is no number": _model(_tensor(start=b"N")),
    "a huge start": _model(_tensor(start=HUGE)),
    "a huge shape": _model(_tensor(shape=HUGE + b"\x85")),
    "a huge stride": _model(_tensor(shape=b"K\x02\x85", stride=HUGE + b"\x85")),
    "a stride that wraps around": _model(_tensor(start=b"K\x02", shape=b"K\x02\x85", stride=ALMOST + b"\x85")),
    "a negative start": _model(_tensor(start=b"J\xff\xff\xff\xff")),
    "a negative stride": _model(_tensor(stride=b"J\xff\xff\xff\xff\x85")),
    "a negative shape": _model(_tensor(shape=b"J\xff\xff\xff\xff\x85")),
    "more axes than strides": _model(_tensor(shape=b"K\x02K\x02\x86")),
    "a scattered tensor beyond memory": _model(_tensor(shape=b"\x8a\x05\x00\x00\x00\x00\x10\x85", stride=b"K\x02\x85")),
    "more elements than the storage": _model(_tensor(shape=b"K\x05\x85")),
    "a storage that is not there": _model(_tensor(storage=STORAGE.replace(b"\x000X", b"\x009X"))),
    "a storage of no known kind": _model(_tensor(storage=STORAGE.replace(b"FloatStorage", b"OtherStorage"))),
    "a storage in another place": _model(_tensor(storage=b"X\x04\x00\x00\x00diskQ")),
    "a list that holds itself": _pickled(b"]q\x00h\x00a"),
    "a dict that holds itself": _pickled(b"}q\x00X\x01\x00\x00\x00ah\x00s"),
    "a number for a tree": _pickled(HUGE),
}


@pytest.fixture
def forge(tmp_path):
    """Writes a torch zip file around a pickle, with a storage of four float32."""

    def write(data):
        path = tmp_path / "forged.pt"
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("forged/data.pkl", data)
            file.writestr("forged/data/0", struct.pack("<4f", 1, 2, 3, 4))
        return str(path)

    return write


def test_the_forged_tensor_is_sound(forge):
    """The hand-made pickle from which the hostile ones are bent describes a tensor that is read."""
    (view,) = probe(forge(_model(_tensor()))).tensors
    assert (view.name, view.shape, view.dtype) == ("w", (4,), "float32")


@pytest.mark.parametrize("name", REFUSED)
def test_hostile_pickles_are_refused(name, forge):
    """Whatever a pickle makes up, the answer is a refusal: no other error, no huge memory, no wrong bounds."""
    with pytest.raises(RefusedCheckpoint):
        probe(forge(REFUSED[name]))


def test_behaviour_cannot_be_smuggled_into_mappings(forge):
    """Attributes set on an ordered dict, such as a false `items`, do not change what is read from it."""
    state = b"}X\x05\x00\x00\x00itemsNsX\x03\x00\x00\x00getNs"
    ordered = b"ccollections\nOrderedDict\n)RX\x01\x00\x00\x00w" + _tensor() + b"s" + state + b"b"
    (view,) = probe(forge(_pickled(ordered))).tensors
    assert view.name == "w"


def test_a_deep_tree_is_no_problem(forge):
    """A hundred thousand nested lists neither overflow the stack nor hide the model next to them."""
    deep = b"]" * 100_000 + b"a" * 99_999
    tree = (
        b"}X\x05\x00\x00\x00model" + b"}X\x01\x00\x00\x00w" + _tensor() + b"s" + b"sX\x04\x00\x00\x00deep" + deep + b"s"
    )
    assert probe(forge(_pickled(tree))).source == "model"


def test_random_bytes_are_refused(forge):
    """Bytes that are no pickle at all, a thousand of them, are refused one and all."""
    chance = random.Random(5)
    for _ in range(1000):
        with pytest.raises((RefusedCheckpoint, IncompleteCheckpoint)):
            probe(forge(chance.choice((b"", b"\x80\x02")) + chance.randbytes(chance.randrange(40))))


def test_numpy_and_counters_beside_tensors(tmp_path):
    """Values of the kinds that torch's safe loader refuses leave the tensors next to them readable."""
    tree = {"model": {"w": torch.ones(2)}, "n": np.int64(3), "c": collections.Counter("aab"), "s": {1, 2}}
    data, path = saved(tree, tmp_path)
    assert safe_pickle.load(data)["c"] == {"a": 2, "b": 1}
    assert probe(str(path)).source == "model"


def test_a_tensor_with_more_axes_than_strides_is_no_tensor():
    """No reader of a pickle, of whatever format, gets to see one (fuzz: seed 41, input 119,374)."""
    with pytest.raises(ValueError, match="different lengths"):
        safe_pickle.load(_model(_tensor(shape=b"K\x02K\x02\x86")))
