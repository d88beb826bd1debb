"""The parts of torch's zip that are repaired or interpreted: checksums, the directory, other writers' habits."""

import struct
import sys
import zipfile
import zlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rna_watch.errors import IncompleteCheckpoint, RefusedCheckpoint
from rna_watch.formats import torch_zip
from rna_watch.formats.probe import probe
from rna_watch.formats.zip_checksums import combine_crc
from tests.checkpoints import twins
from tests.checkpoints.writers import BARE, model, under


@pytest.fixture
def without_crc():
    """torch.save without checksums, as trainers in a hurry set it."""
    kept = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    yield
    torch.serialization.set_crc32_options(kept)


def window(folder, change=lambda tensors: tensors):
    """Three bare checkpoints."""
    paths = [folder / f"epoch_{seed}.pt" for seed in (1, 2, 3)]
    for seed, path in enumerate(paths, 1):
        BARE.write(path, change(model(seed)), seed)
    return paths


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_checksums_of_joined_bytes(first, second):
    """The checksum of two joined strings follows from theirs, as zlib computes it from the bytes."""
    assert combine_crc(zlib.crc32(first), zlib.crc32(second), len(second)) == zlib.crc32(first + second)


@pytest.mark.parametrize("size", [2**20 - 1, 2**20, 10_000_019])
def test_checksums_of_large_joined_bytes(size):
    """Lengths of many bits are right too."""
    second = b"\xa5" * size
    assert combine_crc(zlib.crc32(b"head"), zlib.crc32(second), size) == zlib.crc32(b"head" + second)


def test_checksums_of_lengths_beyond_32_bits():
    """Five billion zero bytes, appended in one step, equal the same appended in two."""
    once = combine_crc(0x12345678, 0, 5_000_000_000)
    twice = combine_crc(combine_crc(0x12345678, 0, 4_999_999_999), 0, 1)
    assert once == twice


def test_absent_checksums_stay_absent(tmp_path, without_crc):
    """The result has zeros if the writer left zeros instead of checksums, and torch loads it."""
    paths = window(tmp_path)
    out = twins.publish_here(paths, (0.0, -1.0, 2.0), tmp_path / "out.pt")
    assert {info.CRC for info in zipfile.ZipFile(out).infolist()} == {0}
    expected = twins.combine([model(seed) for seed in (1, 2, 3)], (0.0, -1.0, 2.0))
    published = torch.load(out, weights_only=True)
    assert twins.is_rounded(published["conv.weight"], expected["conv.weight"])
    with open(out, "rb") as old, open(paths[-1], "rb") as new:
        assert len(old.read()) == len(new.read())


def test_fingerprints_without_checksums_follow_the_bytes(tmp_path, without_crc):
    """Samples of the bytes tell two models of equal shapes apart without checksums."""
    paths = window(tmp_path)
    assert len({probe(str(path)).fingerprint for path in paths}) == 3


def test_checksums_are_in_all_three_places(tmp_path):
    """Descriptor and directory agree with the bytes of every record of a published file."""
    out = twins.publish_here(window(tmp_path), (0.0, -1.0, 2.0), tmp_path / "out.pt")
    with open(out, "rb") as file:
        content = file.read()
    for info in zipfile.ZipFile(out).infolist():
        start = info.header_offset + 30 + sum(struct.unpack_from("<HH", content, info.header_offset + 26))
        end = start + info.file_size
        assert zlib.crc32(content[start:end]) == info.CRC
        if info.file_size:
            assert content[end : end + 4] == b"PK\x07\x08"
            assert struct.unpack_from("<I", content, end + 4)[0] == info.CRC


def test_a_record_larger_than_the_model_s_part_keeps_its_checksum(tmp_path):
    """The checksum of a storage covers the model's few patched pieces and the rest."""
    paths = []
    for seed in (1, 2, 3):
        base = torch.randn(3000, 7, generator=torch.Generator().manual_seed(seed))
        paths.append(tmp_path / f"epoch_{seed}.pt")
        torch.save({"w": base[10:40, 2:4], "v": base[2000:2500]}, paths[-1])
    out = twins.publish_here(paths, (0.0, -1.0, 2.0), tmp_path / "out.pt")
    assert zipfile.ZipFile(out).testzip() is None


def rewritten(path, target, change=lambda name, data: data, **options):
    """The same records, written by Python's zipfile: no descriptors, no alignment."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w", **options) as new:
        for name in old.namelist():
            data = change(name, old.read(name))
            if data is not None:
                new.writestr(name, data)
    return target


def test_records_of_another_zip_writer_are_read_and_repaired(tmp_path):
    """A file packed again by zipfile has its checksums in local headers; those are repaired."""
    paths = [rewritten(path, tmp_path / f"again_{path.name}") for path in window(tmp_path)]
    assert twins.same_bits(twins.read(probe(str(paths[0])))["head.weight"], model(1)["head.weight"])
    out = twins.publish_here(paths, (0.0, -1.0, 2.0), tmp_path / "out.pt")
    assert zipfile.ZipFile(out).testzip() is None
    assert torch.load(out, weights_only=True).keys() == model(1).keys()
    with open(out, "rb") as file:
        content = file.read()
    for info in zipfile.ZipFile(out).infolist():
        assert struct.unpack_from("<I", content, info.header_offset + 14)[0] == info.CRC


def test_a_zip_with_64_bit_sizes_is_read(tmp_path):
    """Sizes and offsets in zip64 fields, as in files beyond 4 GB, lead to the same tensors."""
    (path, *_) = window(tmp_path)
    large = tmp_path / "zip64.pt"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(large, "w") as new:
        for name in old.namelist():
            with new.open(name, "w", force_zip64=True) as record:
                record.write(old.read(name))
    content = bytearray(large.read_bytes())
    _force_zip64_directory(content)
    large.write_bytes(content)
    assert twins.same_bits(twins.read(probe(str(large)))["conv.weight"], model(1)["conv.weight"])


def _force_zip64_directory(content):
    """Move the sizes of the first data record to a zip64 field, and the directory's place to a zip64 record."""
    end = len(content) - 22
    count, size, offset = struct.unpack_from("<HII", content, end + 10)
    entry = offset
    while b"data/0" not in content[entry + 46 : entry + 46 + 40].split(b"PK")[0]:
        entry += 46 + sum(struct.unpack_from("<HHH", content, entry + 28))
    packed, plain = struct.unpack_from("<II", content, entry + 20)
    name_size, extra_size = struct.unpack_from("<HH", content, entry + 28)
    (header,) = struct.unpack_from("<I", content, entry + 42)
    struct.pack_into("<II", content, entry + 20, 0xFFFFFFFF, 0xFFFFFFFF)
    struct.pack_into("<H", content, entry + 30, extra_size + 28)
    struct.pack_into("<I", content, entry + 42, 0xFFFFFFFF)
    content[entry + 46 + name_size : entry + 46 + name_size] = struct.pack("<HHQQQ", 1, 24, plain, packed, header)
    size, end = size + 28, end + 28
    record = b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, size, offset)
    locator = b"PK\x06\x07" + struct.pack("<IQI", 0, offset + size, 1)
    struct.pack_into("<HHII", content, end + 8, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
    content[end:end] = record + locator


def test_a_zip64_record_that_is_not_there_is_incomplete(tmp_path):
    """A locator that points beyond the file means that the file is cut."""
    (path, *_) = window(tmp_path)
    content = bytearray(path.read_bytes())
    content[-22:-22] = b"PK\x06\x07" + struct.pack("<IQI", 0, 10**9, 1)
    path.write_bytes(content)
    with pytest.raises(IncompleteCheckpoint, match="zip64"):
        probe(str(path))


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"compression": zipfile.ZIP_DEFLATED}, "is compressed; torch.save writes plain records"),
        ({"data.pkl": None}, {}, r"not one that torch.save wrote \(it has no data.pkl\)"),
        ({"data/0": None}, {}, "the storage of scale is missing"),
        ({"data/0": b"\0" * 3}, {}, "the storage of scale is shorter than the tensor"),
        ({"byteorder": b"big"}, {}, "written on a big-endian machine"),
        ({"data.pkl": b"\x80\x02."}, {}, "the pickle is damaged"),
        ({"data.pkl": b"\x80\x02]."}, {}, "it holds no named tensors"),
    ],
)
def test_zips_that_cannot_be_used_are_refused_with_a_reason(change, options, message, tmp_path):
    """Foreign, stripped, compressed or big-endian zips are refused, and the message says which it is."""
    (path, *_) = window(tmp_path)

    def changed(name, data):
        return change.get(name.partition("/")[2], data)

    with pytest.raises(RefusedCheckpoint, match=message):
        probe(str(rewritten(path, tmp_path / "changed.pt", changed, **options)))


def test_a_damaged_pickle_is_told_by_its_checksum(tmp_path):
    """A flipped bit in the pickle is found before anything is read from it."""
    path = tmp_path / "model.pt"
    torch.save(under("model")(model(1), 1), path)
    content = bytearray(path.read_bytes())
    content[content.index(b"conv.weight")] ^= 1
    path.write_bytes(content)
    with pytest.raises(RefusedCheckpoint, match="record model/data.pkl is damaged: its checksum does not match"):
        probe(str(path))


def calls_of_publishing(count, folder):
    """How many functions are called to publish a model of so many tensors."""
    paths = [folder / f"{count}_{seed}.pt" for seed in (1, 2)]
    for seed, path in enumerate(paths):
        rows = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
        torch.save({f"t{number}": row.clone() for number, row in enumerate(rows)}, path)
    calls = 0

    def count_call(_frame, _event, _argument):
        nonlocal calls
        calls += 1

    sys.setprofile(count_call)
    try:
        out = twins.publish_here(paths, (-1.0, 2.0), folder / f"{count}.pt")
    finally:
        sys.setprofile(None)
    assert zipfile.ZipFile(out).testzip() is None
    return calls


def test_many_tensors_take_linear_time(tmp_path):
    """Twice the tensors take twice the work: no step compares every tensor with every other."""
    assert calls_of_publishing(1000, tmp_path) < 2.1 * calls_of_publishing(500, tmp_path)


def _training_file(path, seed, kept=4):
    """A checkpoint whose pickle is the same whatever the seed: its step is a tensor."""
    tensors = {f"w{number}.weight": torch.full((5, kept), float(seed + number)) for number in range(3)}
    moments = {0: {"step": torch.tensor(float(seed)), "exp_avg": torch.ones(5), "exp_avg_sq": torch.ones(5)}}
    content = {
        "model": tensors,
        "global_step": torch.tensor(10 * seed),
        "optimizer": {"state": moments, "param_groups": []},
    }
    torch.save(content, path)


def test_a_file_like_the_last_one_has_the_layout_that_it_has_alone(tmp_path, monkeypatch):
    """Numbers inside it and its fingerprint are its own, tensors and places those of a reading that knows of no other file."""
    paths = [str(tmp_path / f"{seed}.pt") for seed in (1, 2)]
    alone = []
    for seed, path in enumerate(paths, 1):
        _training_file(path, seed)
        monkeypatch.setattr(torch_zip, "_last", [None])
        alone.append(probe(path))
    first, second = map(probe, paths)
    assert [first, second] == alone
    assert second.tensors is first.tensors, "it was read anew"
    assert [each.counters["step"] for each in alone] == [10, 20]
    assert [each.optimizer_steps for each in alone] == [1, 2]
    assert first.fingerprint != second.fingerprint
    _training_file(paths[1], 2, kept=3)
    assert probe(paths[1]).tensors[0].shape == (5, 3)


def _outcome(path):
    """The layout of a file, or why there is none."""
    try:
        return probe(str(path))
    except (RefusedCheckpoint, IncompleteCheckpoint) as error:
        return repr(error)


def test_each_local_header_of_a_file_like_the_last_one_is_checked(tmp_path, monkeypatch):
    """A flipped bit in a header, or in the descriptor behind a record, has the outcome that it has where nothing is known."""
    like, path = tmp_path / "1.pt", tmp_path / "2.pt"
    for seed, each in enumerate((like, path), 1):
        _training_file(each, seed)
    sound = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        records = [each for each in archive.infolist() if "/data/" in each.filename]
    assert len(records) > 5
    outcomes = []
    for record in records:
        for place in (record.header_offset + at for at in (0, 26, 28, 32)):
            damaged = bytearray(sound)
            damaged[place] ^= 1
            path.write_bytes(damaged)
            probe(str(like))
            outcomes.append(_outcome(path))
            monkeypatch.setattr(torch_zip, "_last", [None])
            assert outcomes[-1] == _outcome(path)
    refused = [each for each in outcomes if isinstance(each, str)]
    assert len(refused) >= 4 * 3, "those of the model's three tensors"
