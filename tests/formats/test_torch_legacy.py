"""torch's format before 1.6: storages without a directory, views of storages, nothing that is run, nothing that is guessed."""

import io
import os
import pickle
import random
import struct
import tracemalloc

import pytest
import torch

from rna_watch.errors import IncompleteCheckpoint, RefusedCheckpoint
from rna_watch.formats import bounded_unpickler, torch_legacy
from rna_watch.formats.pickled_module import as_state_dicts, state_dict
from rna_watch.formats.probe import probe
from rna_watch.formats.safe_pickle import Inert
from tests.checkpoints import twins
from tests.checkpoints.damage import pickles
from tests.checkpoints.writers import FORMS, Network, model, optimizer_state, whole
from tests.formats.test_damage import legacy_bytes
from tests.formats.test_safe_pickle import Trap, hostile

MAGIC = 0x1950A86A20F9469CFC6C
BARE = FORMS["torch legacy, bare"]
UNUSABLE = (IncompleteCheckpoint, RefusedCheckpoint)
WEIGHTS = (-0.5, 1.5)
MACHINE = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 8}}


class Reference:
    """Pickled as a persistent id."""

    def __init__(self, *pid):
        self.pid = pid


class Tensor:
    """Pickled as torch before 0.4 pickled a tensor on a storage."""

    def __init__(self, storage, start, shape, stride):
        self.arguments = (storage, start, shape, stride)

    def __reduce__(self):
        """As torch 0.1.10 to 0.3 did."""
        return torch._utils._rebuild_tensor, self.arguments


class Writer(pickle.Pickler):
    """A pickler that knows references."""

    def persistent_id(self, value):
        """The reference's own id."""
        return value.pid if isinstance(value, Reference) else None


def storage(key, count, view=None, kind=torch.FloatStorage):
    """A reference to a storage of so many elements."""
    return Reference("storage", kind, key, "cpu", count, view)


def forged(tree, storages, *, keys=None, magic=MAGIC, version=1001, machine=MACHINE, protocol=2):
    """A file in the old format, made by hand: `storages` are the values of each, by key."""
    file = io.BytesIO()
    for value in (magic, version, machine, tree, list(storages) if keys is None else keys):
        Writer(file, protocol).dump(value)
    for values in storages.values():
        file.write(struct.pack("<Q", len(values)) + struct.pack(f"<{len(values)}f", *values))
    return file.getvalue()


def whole_storage(key, count, **others):
    """A tensor over all of a storage."""
    return Tensor(storage(key, count, **others), 0, (count,), (1,))


def vector(count=4, **others):
    """A tensor that is all of storage "1"."""
    return whole_storage("1", count, **others)


FOUR = {"1": [1.0, 2.0, 3.0, 4.0]}
GOOD = forged({"w": vector()}, FOUR)


def probed(content, folder, source=None):
    """The layout of a file with this content."""
    path = folder / "model.pt"
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    return probe(str(path), source)


def both_ways(path):
    """What torch reads from a file, with its safe reader and with Python's."""
    return [torch.load(path, weights_only=safe) for safe in (True, False)]


def test_a_file_made_by_hand_is_what_torch_makes_of_it(tmp_path):
    """The forged file from which others are bent is read alike by torch and by us."""
    layout = probed(GOOD, tmp_path)
    assert layout.format == "torch legacy"
    for tree in both_ways(layout.path):
        assert twins.same_bits(twins.read(layout)["w"], tree["w"])


def test_keys_aliases_views_and_strides_survive_publishing(tmp_path):
    """Tied, overlapping, transposed, expanded and empty tensors come out of torch.load as they went in, both ways."""
    paths = []
    for seed in (1, 2):
        base = torch.randn(6, 5, generator=torch.Generator().manual_seed(seed))
        tensors = model(seed)
        tensors["tied"] = tensors["head.weight"]
        tensors["rows"], tensors["turned"] = base[1:3], base.t()[2:4]
        tensors["spread"], tensors["none"] = base[0, :1].expand(3), torch.empty(0, 3)
        tensors["apart"] = torch.arange(40.0)[seed::7][:4]
        paths.append(tmp_path / f"epoch_{seed}.pt")
        tree = {"model": tensors, "optimizer": optimizer_state(seed), "epoch": seed}
        torch.save(tree, paths[-1], _use_new_zipfile_serialization=False)
    out = twins.publish_here(paths, WEIGHTS, tmp_path / "out.pt")
    old = [torch.load(path, weights_only=True)["model"] for path in paths]
    expected = twins.combine(old, WEIGHTS)
    for tree in both_ways(out):
        found, newest = tree["model"], old[-1]
        assert list(found) == list(newest)
        assert type(found) is type(newest)
        assert found._metadata == newest._metadata == Network().state_dict()._metadata
        assert tree["epoch"] == 2
        assert twins.same_bits(tree["optimizer"]["state"][1]["exp_avg"], optimizer_state(2)["state"][1]["exp_avg"])
        for name, tensor in found.items():
            assert (tensor.stride(), tensor.storage_offset()) == (newest[name].stride(), newest[name].storage_offset())
            assert not tensor.is_floating_point() or twins.is_rounded(tensor, expected[name]), name
        pointers = {name: tensor.untyped_storage().data_ptr() for name, tensor in found.items()}
        assert pointers["tied"] == pointers["head.weight"]
        assert pointers["rows"] == pointers["turned"] == pointers["spread"]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_binary_pickle_protocol_is_read(protocol, tmp_path):
    """Frames, short strings and true sets of newer pickle protocols lead to the same tensors."""
    path = tmp_path / "model.pt"
    network = whole(model(3))
    torch.save({"model": network}, path, pickle_protocol=protocol, _use_new_zipfile_serialization=False)
    found = twins.read(probe(str(path)))
    assert list(found) == list(network.state_dict())
    assert all(twins.same_bits(found[name], tensor) for name, tensor in network.state_dict().items())
    content = path.read_bytes()
    for end in range(1, 40):
        with pytest.raises(IncompleteCheckpoint):
            probed(content[:end], tmp_path)


def test_files_of_python_2_are_read(tmp_path):
    """Byte strings as names, keys and values, some of them no text, hinder nobody."""
    content = forged({"note": "??", "w": vector()}, FOUR)
    for text in (b"note", b"??", b"w", b"storage", b"cpu", b"1"):
        long = b"X" + struct.pack("<I", len(text)) + text
        assert long in content
        content = content.replace(long, b"U" + bytes([len(text)]) + text.replace(b"??", b"\xff\xfe"))
    assert twins.read(probed(content, tmp_path))["w"].tolist() == FOUR["1"]


def test_views_of_storages_are_read_as_torch_reads_them(tmp_path):
    """A storage that is a part of another, as torch before 0.4 wrote them, lies where that part does; publishing keeps it."""
    paths = []
    for seed in (1, 2):
        tree = {
            "w": Tensor(storage("1", 10), 0, (10,), (1,)),
            "part": Tensor(storage("1", 10, ("2", 3, 4)), 1, (3,), (1,)),
            "again": Tensor(storage("1", 10, ("2", 3, 4)), 0, (2, 2), (2, 1)),
        }
        paths.append(tmp_path / f"epoch_{seed}.pt")
        paths[-1].write_bytes(forged(tree, {"1": [seed * float(number) for number in range(10)]}))
    found = twins.read(probe(str(paths[0])))
    assert found["part"].tolist() == [4.0, 5.0, 6.0]
    out = twins.publish_here(paths, WEIGHTS, tmp_path / "out.pt")
    for path, scale in ((paths[0], 1.0), (out, 2.5)):
        for loaded in both_ways(path):
            assert loaded["part"].tolist() == [scale * number for number in (4, 5, 6)]
            assert loaded["again"].tolist() == [[scale * 3, scale * 4], [scale * 5, scale * 6]]
            loaded["w"][4] = -1.0
            assert loaded["part"][0] == -1.0


FORGED = {
    "two lengths": ({"w": vector(), "v": vector(3)}, FOUR, {}, "storage 1 is described in two ways"),
    "two dtypes": (
        {"w": vector(), "v": vector(kind=torch.IntStorage)},
        FOUR,
        {},
        "storage 1 is described in two ways",
    ),
    "a shorter storage": ({"w": vector(5)}, FOUR, {}, "has 4 elements where its tensors say 5"),
    "a longer storage": ({"w": vector(3)}, FOUR, {}, "has 4 elements where its tensors say 3"),
    "a key twice": ({"w": vector()}, FOUR, {"keys": ["1", "1"]}, "names one twice"),
    "a key too few": ({"w": vector(), "v": whole_storage("2", 4)}, FOUR, {}, "lacks 1 that its tensors use"),
    "a key too many": ({"w": vector()}, FOUR | {"2": [0.0]}, {}, "names 1 that nothing uses"),
    "keys that are numbers": ({"w": vector()}, FOUR, {"keys": [1]}, "its list of storages is damaged"),
    "keys that are no list": ({"w": vector()}, FOUR, {"keys": "1"}, "its list of storages is damaged"),
    "a negative length": ({"w": Tensor(storage("1", -4), 0, (4,), (1,))}, FOUR, {}, "described in two ways"),
    "a tensor beyond its storage": ({"w": Tensor(storage("1", 4), 1, (4,), (1,))}, FOUR, {}, "shorter than the tensor"),
    "a tensor before its storage": ({"w": Tensor(storage("1", 4), -1, (4,), (1,))}, FOUR, {}, "a negative start"),
    "a tensor without end": (
        {"w": Tensor(storage("1", 4), 0, (2**50,), (0,))},
        FOUR,
        {},
        "claims 1125899906842624 elements",
    ),
    "more axes than steps": ({"w": Tensor(storage("1", 4), 0, (0, 2), (1,))}, FOUR, {}, "of different lengths"),
    "a thousand axes": ({"w": Tensor(storage("1", 4), 0, (1,) * 1000, (1,) * 1000)}, FOUR, {}, "more axes than torch"),
    "a view beyond its storage": (
        {"w": whole_storage("1", 4, view=("2", 2, 3))},
        FOUR,
        {},
        "the view 2 is longer than its storage",
    ),
    "a tensor beyond its view": (
        {"w": Tensor(storage("1", 4, ("2", 1, 2)), 0, (3,), (1,))},
        FOUR,
        {},
        "shorter than the tensor",
    ),
    "a view in two places": (
        {"w": vector(4, view=("2", 0, 4)), "v": vector(4, view=("2", 1, 3))},
        FOUR,
        {},
        "the view 2 of a storage is described in two ways",
    ),
    "a view that is a storage": (
        {"w": vector(4, view=("1", 0, 4))},
        FOUR,
        {},
        "the view 1 of a storage is described in two ways",
    ),
    "a storage that is a view": (
        {"w": vector(4, view=("2", 0, 4)), "v": whole_storage("2", 4)},
        FOUR,
        {},
        "storage 2 is described in two ways",
    ),
    "a view of a kind": ({"w": vector(view=(1, 2))}, FOUR, {}, "a view of a storage is of an unknown kind"),
    "a storage of a kind": (
        {"w": vector(kind=torch.nn.Linear)},
        FOUR,
        {},
        "a reference of an unknown kind",
    ),
    "another kind of reference": ({"w": Reference("file", "/etc/passwd")}, FOUR, {}, "a reference of an unknown kind"),
    "another version": ({"w": vector()}, FOUR, {"version": 1002}, "its protocol version is not 1001"),
    "a big-endian machine": (
        {"w": vector()},
        FOUR,
        {"machine": MACHINE | {"little_endian": False}},
        "big-endian machine; save it again",
    ),
    "no machine": ({"w": vector()}, FOUR, {"machine": None}, "what it says of the machine that wrote it is damaged"),
    "one tensor": (vector(), FOUR, {}, "it holds no named tensors"),
}


@pytest.mark.parametrize("name", FORGED)
def test_files_whose_parts_disagree_are_refused_with_a_reason(name, tmp_path):
    """Lengths, keys and views that contradict one another are named, and nothing is read past them."""
    tree, storages, others, message = FORGED[name]
    with pytest.raises(RefusedCheckpoint, match=message):
        probed(forged(tree, storages, **others), tmp_path)


def test_two_dtypes_on_one_storage_of_bytes_are_refused(tmp_path):
    """A model that reads the same bytes in two ways cannot be combined."""
    kind = torch.UntypedStorage

    def tensor(dtype, count):
        arguments = (storage("1", 16, kind=kind), 0, (count,), (1,), False, {}, dtype)
        return Trap(torch._utils._rebuild_tensor_v3, *arguments)

    content = forged({"w": tensor(torch.float32, 4), "v": tensor(torch.float64, 2)}, {"1": [1.0] * 4})
    at = content.rindex(struct.pack("<Q", 4))
    with pytest.raises(RefusedCheckpoint, match="w and v share storage under different dtypes"):
        probed(content[:at] + struct.pack("<Q", 16) + content[at + 8 :], tmp_path)


@pytest.mark.parametrize("name", hostile(""))
def test_nothing_named_in_a_file_is_run(name, tmp_path):
    """Next to a good model, or instead of the magic number's companions, a call to anything is kept as a value or refused."""
    marker = tmp_path / "marker"
    trap = hostile(marker)[name]
    layout = probed(forged({"state_dict": {"w": vector()}, "evil": trap}, FOUR), tmp_path)
    assert [view.name for view in layout.tensors] == ["w"]
    for others in ({"machine": trap}, {"keys": trap}, {"version": trap}):
        with pytest.raises(RefusedCheckpoint):
            probed(forged({"w": vector()}, FOUR, **others), tmp_path)
    for tree in ({"w": Reference("module", trap, trap, trap)}, {"w": Reference("storage", trap, "1", "cpu", 4, None)}):
        with pytest.raises(RefusedCheckpoint):
            probed(forged(tree, FOUR), tmp_path)
    assert not marker.exists()


class Restored:
    """Leaves a mark when it is given a state."""

    def __init__(self, marker):
        self.marker = marker

    def __setstate__(self, state):
        """What a reader that restores objects would call."""
        open(state["marker"], "w").close()


def test_no_state_is_restored(tmp_path):
    """A `__setstate__` that the reader could import is not called; Python's own reader calls it."""
    marker = tmp_path / "marker"
    content = legacy_bytes({"model": {"w": torch.ones(2)}, "evil": Restored(str(marker))})
    assert probed(content, tmp_path).source == "model"
    assert not marker.exists()
    torch.load(io.BytesIO(content), weights_only=False)
    assert marker.exists()


def test_a_file_cut_at_any_byte_is_incomplete(tmp_path):
    """Whatever byte a writer stops at, the file is waited for."""
    content = legacy_bytes({"w": torch.arange(3.0), "half": torch.ones(2, dtype=torch.bfloat16), "n": torch.tensor(3)})
    for end in range(len(content)):
        with pytest.raises(IncompleteCheckpoint):
            probed(content[:end], tmp_path)


def test_a_file_of_full_size_with_its_end_unwritten_is_incomplete(tmp_path):
    """Zeros from within the pickles on, or instead of a storage's length, are not written yet; no checksum guards the rest."""
    tree = {"w": vector(), "v": whole_storage("2", 4)}
    content = forged(tree, FOUR | {"2": [1.0] * 4})
    (*_, after_tree, first) = pickles(content)
    for written in (0, 21, 40, 137, after_tree // 2, after_tree, first - 1, first, first + 8, first + 24):
        with pytest.raises(IncompleteCheckpoint):
            probed(content[:written].ljust(len(content), b"\0"), tmp_path)


def test_every_flipped_bit_is_unusable_or_stays_within_the_file(tmp_path):
    """Each bit of a small file's pickles and lengths, flipped, leads to a refusal or to a layout within the file."""
    refused = 0
    places = [place for place in range(len(GOOD) - 16) if not 21 <= place < 137]
    for place in places:
        for bit in range(8):
            damaged = bytearray(GOOD)
            damaged[place] ^= 1 << bit
            try:
                layout = probed(bytes(damaged), tmp_path)
            except UNUSABLE:
                refused += 1
            else:
                twins.read(layout)
    assert refused > len(places) * 4


def test_random_bytes_behind_the_magic_number_are_unusable(tmp_path):
    """A thousand files that only begin as they should give an answer, and no memory is filled."""
    chance = random.Random(3)
    start = GOOD[:137]
    tracemalloc.start()
    try:
        for _ in range(1000):
            with pytest.raises(UNUSABLE):
                probed(start + b"\x80\x02" + chance.randbytes(chance.randrange(200)), tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("opcode", [b"X" + b"\xff\xff\xff\x7f", b"\x8d" + b"\xff" * 7 + b"\x7f", b"\x95" + b"\xff" * 8])
def test_a_length_that_is_made_up_reserves_no_memory(opcode, tmp_path):
    """A text of two gigabytes or a frame of any size in a sparse file of a terabyte is refused at once."""
    path = tmp_path / "model.pt"
    path.write_bytes(GOOD[:137] + b"\x80\x04" + opcode)
    os.truncate(path, 2**40)
    tracemalloc.start()
    try:
        with pytest.raises(UNUSABLE):
            probe(str(path))
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_a_pickle_of_more_parts_than_any_checkpoint_s_is_refused(tmp_path, monkeypatch):
    """A file of opening brackets ends at a limit, not at the end of memory."""
    monkeypatch.setattr(bounded_unpickler, "MOST_VALUES", 10_000)
    for opcode, message in ((b"(", "nested more than 10,000 deep"), (b"]", "fill memory"), (b"N", "fill memory")):
        with pytest.raises(RefusedCheckpoint, match=message):
            probed(GOOD[:137] + b"\x80\x02" + opcode * 20_000, tmp_path)


def test_pickles_longer_than_the_limit_are_refused(tmp_path, monkeypatch):
    """What does not fit in what may be read is said to be damaged."""
    monkeypatch.setattr(torch_legacy, "HEADER_LIMIT_BYTES", 150)
    with pytest.raises(RefusedCheckpoint, match="its pickles are longer than 150 bytes"):
        probed(GOOD, tmp_path)


@pytest.mark.parametrize(("size", "error"), [(100, IncompleteCheckpoint), (2**17, RefusedCheckpoint)])
def test_a_line_without_end_is_not_searched_for_ever(size, error, tmp_path):
    """A name that goes on to the end of the file may still come; one of 64 KiB is no name."""
    with pytest.raises(error):
        probed(GOOD[:137] + b"\x80\x02c" + b"a" * size, tmp_path)


def test_long_values_are_read_across_pieces(tmp_path):
    """A pickle larger than what is read ahead, with long texts in it, hides nothing behind it."""
    tree = {"note": "x" * 200_000, "many": list(range(100_000)), "model": model(5), "epoch": 4}
    layout = probed(legacy_bytes(tree), tmp_path)
    assert layout.counters == {"epoch": 4}
    assert all(twins.same_bits(twins.read(layout)[name], tensor) for name, tensor in model(5).items())


def test_the_fingerprint_does_not_follow_addresses(tmp_path):
    """The same values at other places in memory, and so under other keys, are the same checkpoint; others are not."""
    kept = [model(7) for _ in range(3)]
    prints = {probed(legacy_bytes({"model": each, "rng": torch.arange(9)}), tmp_path).fingerprint for each in kept}
    assert len(prints) == 1
    changed = probed(legacy_bytes({"model": kept[0], "rng": torch.arange(1, 10)}), tmp_path)
    assert changed.fingerprint not in prints


def test_momentum_is_found_where_it_lies(tmp_path):
    """The optimizer's buffers lead to the bytes that were written."""
    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    content = legacy_bytes({"model": network.state_dict(), "optimizer": optimizer.state_dict()})
    state = probed(content, tmp_path).optimizer
    for member, parameter in zip(state.members, network.parameters(), strict=True):
        at, buffer = member.buffer.offset_bytes, optimizer.state[parameter]["momentum_buffer"]
        assert content[at : at + 4 * buffer.numel()] == buffer.numpy().tobytes()


def test_counters_that_are_tensors_are_read(tmp_path):
    """A step that torch or numpy keeps is found as one of Python's is."""
    tree = {"model": model(1), "step": torch.tensor([7, 40])[1], "epoch": torch.tensor(3)}
    assert probed(legacy_bytes(tree), tmp_path).counters == {"step": 40, "epoch": 3}


def test_complex_tensors_are_pairs(tmp_path):
    """Complex weights are described as real ones with a last axis of two, as in the zip format."""
    values = torch.view_as_complex(torch.arange(12.0).reshape(3, 2, 2))
    found = twins.read(probed(legacy_bytes({"w": values.t(), "v": torch.ones(2)}), tmp_path))
    assert torch.equal(found["w"], torch.view_as_real(values.t()))


def test_momentum_in_pieces_or_beyond_is_unreadable(tmp_path):
    """A buffer that is not in one piece is known to be there, but not read."""
    group = {"lr": 0.1, "momentum": 0.9, "dampening": 0, "nesterov": False, "params": [0, 1]}
    state = {0: {"momentum_buffer": torch.ones(4, 4)[:, :2]}, 1: {"momentum_buffer": torch.ones(2)}}
    content = legacy_bytes({"model": model(1), "optimizer": {"state": state, "param_groups": [group]}})
    assert [member.unreadable for member in probed(content, tmp_path).optimizer.members] == [True, False]


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_storages_of_every_kind_are_stepped_over(tmp_path):
    """Quantized, complex, boolean and byte storages next to the model do not lead the search for the next one astray."""
    beside = [
        torch.quantize_per_tensor(torch.ones(5), 0.1, 0, torch.qint8),
        torch.quantize_per_tensor(torch.ones(5), 0.1, 0, torch.quint8),
        torch.quantize_per_tensor(torch.ones(5), 0.1, 0, torch.qint32),
        torch.ones(3, dtype=torch.complex64),
        torch.ones(3, dtype=torch.complex128),
        torch.ones(3, dtype=torch.bool),
        torch.ones(3, dtype=torch.uint16),
        torch.ones(3, dtype=torch.float8_e4m3fn),
        torch.eye(3).to_sparse(),
    ]
    layout = probed(legacy_bytes({"model": model(2), "beside": beside}), tmp_path)
    assert all(twins.same_bits(twins.read(layout)[name], tensor) for name, tensor in model(2).items())


class TestModuleObjects:
    """Networks saved whole, in both of torch's formats."""

    @pytest.fixture(params=[True, False], ids=["zip", "legacy"])
    def save(self, request, tmp_path):
        """Writes a tree and gives its path."""

        def write(tree, name="model.pt"):
            torch.save(tree, tmp_path / name, _use_new_zipfile_serialization=request.param)
            return str(tmp_path / name)

        return write

    @pytest.mark.parametrize(
        ("tree", "source"),
        [
            (lambda network: network, ""),
            (lambda network: {"model": network, "epoch": 3}, "model"),
            (lambda network: {"ema": network, "model": None}, "ema"),
            (lambda network: {"model": network, "ema": torch.nn.Linear(2, 2)}, "model"),
            (lambda network: {"epoch": 3, "nets": {"generator": network}}, "nets.generator"),
        ],
    )
    def test_the_tensors_are_those_of_the_state_dict(self, save, tree, source):
        """Names, order, values and sharing are those that `state_dict` gives; buffers that it leaves out are left out."""
        network = torch.nn.Sequential(Network(), torch.nn.LSTM(2, 3, 2), torch.nn.MultiheadAttention(4, 2, bias=False))
        network[0].register_buffer("cache", torch.ones(2), persistent=False)
        network[0].register_buffer("nothing", None)
        network.again = network[1]
        network[0].copy = network[0].head.weight
        layout = probe(save(tree(network)))
        found, expected = twins.read(layout), network.state_dict()
        assert layout.source == source
        assert list(found) == list(expected)
        assert all(twins.same_bits(found[name], tensor) for name, tensor in expected.items())
        extents = {view.name: view.extent for view in layout.tensors}
        assert extents["again.weight_ih_l0"] == extents["1.weight_ih_l0"]
        assert extents["0.copy"] == extents["0.head.weight"]

    def test_the_published_network_runs(self, save, tmp_path):
        """What comes out is a network of the same class with combined parameters, whose aliases and caches hold."""
        paths = [save({"model": whole(model(seed)), "epoch": seed}, f"{seed}.pt") for seed in (1, 2)]
        tree = torch.load(twins.publish_here(paths, WEIGHTS, tmp_path / "out.pt"), weights_only=False)
        expected = twins.combine([whole(model(seed)).state_dict() for seed in (1, 2)], WEIGHTS)
        assert type(tree["model"]) is Network
        assert all(
            twins.is_rounded(tensor, expected[name])
            for name, tensor in tree["model"].state_dict().items()
            if tensor.is_floating_point()
        )
        assert tree["model"].cache.tolist() == [7.0, 7.0, 7.0]
        assert tree["model"].bn.eval()(torch.ones(1, 4, 2, 2)).isfinite().all()

    def test_a_parameter_without_a_shape_yet_is_refused_by_name(self, save):
        """A lazy module that has seen no data has nothing to combine."""
        path = save({"model": torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LazyLinear(3))})
        with pytest.raises(RefusedCheckpoint, match="1.weight is .*UninitializedParameter.*, which cannot be averaged"):
            probe(path)


def module(parameters=None, modules=None):
    """A pickled module as the reader gives it."""
    inert = Inert()
    inert.state = {"_parameters": parameters or {}, "_buffers": {}, "_modules": modules or {}}
    return inert


def test_modules_that_hold_themselves_are_refused():
    """A module within itself, or doubled at every level, has no state dict that ends."""
    endless, doubled = module(), module()
    endless.state["_modules"]["self"] = endless
    for _ in range(60):
        doubled = module(modules={"a": doubled, "b": doubled})
    for each in (endless, doubled):
        with pytest.raises(RefusedCheckpoint, match="holds modules without end; save its state_dict instead"):
            state_dict(each)


def test_trees_that_hold_themselves_are_walked_once():
    """A mapping within itself, or one that stands a thousand times in each of six levels, takes no time."""
    tree = {"model": module()}
    for _ in range(6):
        tree = dict.fromkeys(range(1000), tree)
    tree["self"] = tree
    found = as_state_dicts(tree)
    for _ in range(6):
        found = found[0]
    assert found == {"model": {}}


def test_what_is_no_module_stays_as_it_is():
    """Objects without parameters and children, and odd entries of those that have them, are no tensors."""
    thing = Inert()
    thing.state = {"_parameters": [], "_modules": {}}
    tree = {"thing": thing, "number": 3, 4: {"w": 1}}
    assert as_state_dicts(tree) is tree
    assert state_dict(module(parameters={"w": None, 3: 4}, modules={"child": None, "other": 5})) == {}
