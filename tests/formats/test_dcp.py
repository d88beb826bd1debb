"""Folders of torch.distributed.checkpoint: tensors in pieces, and what of them is waited for or refused, in which words."""

import io
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file
from torch.distributed.checkpoint._extension import StreamTransformExtension
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex

from rna_watch.errors import IncompleteCheckpoint, RefusedCheckpoint
from rna_watch.evaluation.materialize import storages_of, views
from rna_watch.formats import dcp as dcp_format
from rna_watch.formats import dcp_pieces
from rna_watch.formats.probe import probe
from rna_watch.layout.agreement import difference
from rna_watch.layout.layout import Role, covers
from rna_watch.layout.open_file import OpenFile
from rna_watch.publishing import export
from rna_watch.window import copies
from rna_watch.window.combine import Combination
from rna_watch.window.segments import window_segments
from rna_watch.window.tasks import run_all
from tests.checkpoints import twins
from tests.checkpoints.damage import is_sound, put
from tests.checkpoints.dcp_forms import QUIET, blobs, load, optimizer_state, save
from tests.checkpoints.writers import model

pytestmark = QUIET
WEIGHTS = (0.0, -0.9, 0.3, 1.6)
SEEDS = (1, 2, 3, 4)
UNUSABLE = (IncompleteCheckpoint, RefusedCheckpoint)
NAMES = ("conv.weight", "bias", "n")
EMPTY = torch.empty(0, 3)


def state(seed, dtype=torch.float32):
    """A model with a tensor of no elements among the others, and one of two axes that does not divide evenly."""
    generator = torch.Generator().manual_seed(seed)
    return model(seed, dtype) | {"empty": EMPTY.to(dtype), "wide": torch.randn(5, 7, generator=generator).to(dtype)}


def check_combination(published, models, weights=WEIGHTS):
    """Tensors are the float64 combination of the models, rounded once."""
    expected = twins.combine(models, weights)
    assert published.keys() >= expected.keys()
    for name, exact in expected.items():
        assert published[name].dtype == models[-1][name].dtype
        if exact.is_floating_point():
            assert twins.is_rounded(published[name], exact), name
        else:
            assert twins.same_bits(published[name], exact), name


def check_zips(folder):
    """Each item is a zip whose checksums are right."""
    for name, _, _, content in blobs(folder):
        assert is_sound(content), name


class TestCuts:
    """Pieces: other cuts inside a window, columns, strides, limits."""

    def test_a_window_whose_checkpoints_are_cut_differently(self, tmp_path):
        """Two ranks, then three by columns, then one, then four: the written model is cut as the newest, and right."""
        cuts = [(0, 2, 2), (1, 3, 3), (0, 1, 1), (0, 4, 2)]
        models = [state(seed) for seed in SEEDS]
        for order in (cuts, cuts[::-1], [cuts[1], cuts[3], cuts[2], cuts[0]]):
            paths = [tmp_path / f"step-{seed}" for seed in SEEDS]
            for path, tensors, (axis, parts, files) in zip(paths, models, order, strict=True):
                shutil.rmtree(path, ignore_errors=True)
                save(path, {"model": tensors}, axis=axis, parts=parts, files=files)
            assert len({probe(str(path)).architecture for path in paths}) == 1
            out = Path(twins.publish_here(paths, WEIGHTS, tmp_path / "out"))
            check_combination(load(out, "model."), models)
            check_zips(out)
            assert (out / ".metadata").read_bytes() == (paths[-1] / ".metadata").read_bytes()

    def test_segments_lie_where_a_slow_twin_finds_them(self, tmp_path):
        """Element by element, each segment's places are those of all checkpoints' chunks."""
        for seed, (axis, parts) in enumerate([(0, 4), (1, 3), (0, 1), (1, 2)]):
            save(tmp_path / f"step-{seed}", {"model": {"w": torch.arange(35.0).reshape(5, 7)}}, axis=axis, parts=parts)
        layouts = [probe(str(tmp_path / f"step-{seed}")) for seed in range(4)]
        where = []
        for layout in layouts:
            chunks = [(chunk, each) for chunk in layout.extents[0].chunks for each in range(chunk.count)]
            where.append({chunk.start + each: (chunk.file, chunk.offset_bytes + 4 * each) for chunk, each in chunks})
        for limit in (1, 3, 100):
            for segment in window_segments(layouts, frozenset(Role), limit):
                for k, places in enumerate(segment.places):
                    spelled = [(file, at + 4 * each) for file, at, count in places for each in range(count)]
                    assert spelled == [where[k][segment.start + each] for each in range(segment.count)]

    def test_axes_in_another_order(self, tmp_path):
        """Transposed and channels-last tensors, whole and cut, come out as they were."""
        written = {
            "t": torch.arange(12.0).reshape(3, 4).t(),
            "image": torch.arange(48.0).reshape(2, 3, 2, 4).to(memory_format=torch.channels_last),
            "step": torch.arange(20.0)[::2],
        }
        for number, (axis, parts) in enumerate([(0, 1), (0, 2), (1, 3)]):
            path = tmp_path / f"step-{number}"
            save(path, {"model": written}, axis=axis, parts=parts)
            found = twins.read(probe(str(path)))
            assert all(torch.equal(found[name], tensor) for name, tensor in written.items())
            out = twins.publish_here([path, path], (-1.0, 2.0), tmp_path / "out")
            assert all(torch.equal(load(out, "model.")[name], tensor) for name, tensor in written.items())

    def test_complex_numbers(self, tmp_path):
        """They are combined as pairs of real ones, however they are cut."""
        models = [{"w": torch.randn(4, 6, dtype=torch.complex64)} for _ in SEEDS]
        for seed, tensors in zip(SEEDS, models, strict=True):
            save(tmp_path / f"step-{seed}", {"model": tensors}, axis=seed % 2, parts=seed)
        out = twins.publish_here([tmp_path / f"step-{seed}" for seed in SEEDS], WEIGHTS, tmp_path / "out")
        exact = sum(weight * each["w"].to(torch.complex128) for weight, each in zip(WEIGHTS, models, strict=True))
        assert torch.allclose(load(out, "model.")["w"].to(torch.complex128), exact, rtol=1e-6, atol=1e-6)

    def test_tensors_in_very_many_pieces_are_read_block_after_block(self, tmp_path, monkeypatch):
        """Columns, three axes, complex numbers, an order of axes, no elements: combined, and loaded by the library."""
        monkeypatch.setattr(dcp_pieces, "FEW_PIECES", 4)
        models = [
            {
                "w": torch.randn(50, 7),
                "experts": torch.randn(4, 6, 10, dtype=torch.bfloat16),
                "complex": torch.randn(20, 6, dtype=torch.complex64),
                "t": torch.randn(9, 30).t(),
                "n": torch.arange(60).reshape(20, 3),
                "empty": EMPTY,
                "bias": torch.randn(12),
            }
            for _ in SEEDS
        ]
        paths = [tmp_path / f"step-{seed}" for seed in SEEDS]
        for path, tensors in zip(paths, models, strict=True):
            save(path, {"model": tensors, "step": 1}, axis=-1, parts=3, files=3)
        layout = probe(str(paths[-1]))
        blocks = {view.name: len(view.blocks) for view in layout.tensors}
        assert blocks == {"w": 3, "experts": 3, "complex": 3, "t": 3, "n": 3, "empty": 0, "bias": 0}
        assert max(len(extent.chunks) for extent in layout.extents) == 3
        found = twins.read(layout)
        real = [{n: t for n, t in each.items() if n != "complex"} for each in models]
        assert all(twins.same_bits(found[name], tensor) for name, tensor in real[-1].items())
        out = Path(twins.publish_here(paths, WEIGHTS, tmp_path / "out"))
        check_zips(out)
        loaded = load(out, "model.")
        check_combination({n: t for n, t in loaded.items() if n != "complex"}, real)
        exact = sum(weight * each["complex"].to(torch.complex128) for weight, each in zip(WEIGHTS, models, strict=True))
        assert torch.allclose(loaded["complex"].to(torch.complex128), exact, rtol=1e-6, atol=1e-6)

    def test_a_tensor_in_one_piece_keeps_the_order_of_its_axes(self, tmp_path, monkeypatch):
        """However many runs its rows are, it is no tensor in blocks."""
        monkeypatch.setattr(dcp_pieces, "FEW_PIECES", 4)
        save(tmp_path / "step-1", {"model": {"t": torch.randn(9, 30).t()}})
        layout = probe(str(tmp_path / "step-1"))
        assert [(view.stride, view.blocks) for view in layout.tensors] == [((1, 30), ())]
        assert covers(layout.tensors[0], layout.extents[0])

    def test_gradients_go_back_to_every_block(self, tmp_path, monkeypatch):
        """A fit goes through the tensor that is put together of its blocks."""
        monkeypatch.setattr(dcp_pieces, "FEW_PIECES", 4)
        save(tmp_path / "step-1", {"model": {"w": torch.randn(20, 6)}}, axis=1, parts=3)
        layout = probe(str(tmp_path / "step-1"))
        storage = storages_of(Combination(layouts=(layout,), weights=(1.0,)))[0].requires_grad_()
        spread = torch.arange(120.0).reshape(20, 6)
        (views(layout, [storage])["w"] * spread).sum().backward()
        expected = torch.cat([spread[:, at : at + 2].reshape(-1) for at in (0, 2, 4)])
        assert torch.equal(storage.grad, expected)

    def test_a_tensor_in_more_pieces_than_were_ever_read_one_by_one(self, tmp_path):
        """600,000 rows of two ranks: combined, and given to an evaluator, as if it were whole."""
        models = [{"w": torch.randn(300_000, 4, dtype=torch.float16), "b": torch.randn(4)} for _ in SEEDS[:3]]
        paths = [tmp_path / f"step-{seed}" for seed in SEEDS[:3]]
        for path, tensors in zip(paths, models, strict=True):
            save(path, {"model": tensors}, axis=1, parts=2, files=2)
        layouts = tuple(probe(str(path)) for path in paths)
        assert {view.name: len(view.blocks) for view in layouts[0].tensors} == {"w": 2, "b": 0}
        weights = (-0.5, 0.25, 1.25)
        check_combination(load(twins.publish_here(paths, weights, tmp_path / "out"), "model."), models, weights)
        combination = Combination(layouts=layouts, weights=weights)
        check_combination(views(layouts[-1], storages_of(combination)), models, weights)

    def test_blocks_as_an_export_hold_every_tensor_in_its_own_order(self, tmp_path, monkeypatch):
        """A few rows at a time, and rows that are longer than that."""
        monkeypatch.setattr(dcp_pieces, "FEW_PIECES", 4)
        written = {"w": torch.randn(50, 7), "experts": torch.randn(4, 6, 10), "t": torch.randn(9, 30).t()}
        save(tmp_path / "step-1", {"model": written}, axis=-1, parts=3, files=2)
        for elements in (2**18, 40, 5):
            monkeypatch.setattr(copies, "_CONTIGUOUS_ELEMENTS", elements)
            export.write(str(tmp_path / "step-1"), str(tmp_path / "out.safetensors"), "model", run_all)
            found = load_file(tmp_path / "out.safetensors")
            assert all(torch.equal(found[name], tensor) for name, tensor in written.items())

    def test_blocks_that_are_cut_otherwise_end_a_window_in_words(self, tmp_path, monkeypatch):
        """The cut is a part of what must agree; an equal cut by other files is equal."""
        models = [{"w": torch.randn(50, 6)} for _ in SEEDS]
        cuts = [(1, 2, 1), (1, 2, 2), (1, 3, 1), (0, 2, 1)]
        monkeypatch.setattr(dcp_pieces, "FEW_PIECES", 4)
        for seed, tensors, (axis, parts, files) in zip(SEEDS, models, cuts, strict=True):
            save(tmp_path / f"step-{seed}", {"model": tensors}, axis=axis, parts=parts, files=files)
        one, same, three, rows = (probe(str(tmp_path / f"step-{seed}")) for seed in SEEDS)
        assert difference(one, same) == ""
        assert "w was cut into 2 blocks, is cut into 3 blocks" in difference(one, three)
        assert "w was cut into 3 blocks, is cut into rows" in difference(three, rows)

    @pytest.mark.parametrize("wrong", ["overlap", "leave elements out"])
    def test_blocks_that_are_not_the_whole_tensor_are_refused(self, tmp_path, monkeypatch, wrong):
        """Each element is in one block."""
        monkeypatch.setattr(dcp_pieces, "FEW_PIECES", 4)
        save(tmp_path / "step-1", {"model": {"w": torch.ones(50, 6)}}, axis=1, parts=3)
        path = tmp_path / "step-1" / ".metadata"
        metadata = pickle.loads(path.read_bytes())
        stored = metadata.state_dict_metadata["model.w"]
        if wrong == "overlap":
            index = next(each for each in metadata.storage_data if each.fqn == "model.w" and each.offset[1] == 2)
            value = metadata.storage_data.pop(index)
            metadata.storage_data[MetadataIndex(index.fqn, torch.Size([0, 1]), index.index)] = value
            stored.chunks[1].offsets = torch.Size([0, 1])
        else:
            stored.size = torch.Size([50, 8])
        path.write_bytes(pickle.dumps(metadata))
        with pytest.raises(RefusedCheckpoint, match=f"the saved pieces of w {wrong}"):
            probe(str(tmp_path / "step-1"))

    def test_too_many_pieces_are_refused_in_words(self, tmp_path, monkeypatch):
        """A tensor, or a model, in more pieces than can be read one by one, and in too many blocks, is refused by name."""
        save(tmp_path / "step-1", {"model": {name: torch.ones(50, 8) for name in "ab"}}, axis=1, parts=4)
        monkeypatch.setattr(dcp_pieces, "_MOST_COMPARED", 31)
        monkeypatch.setattr(dcp_pieces, "MOST_IN_ALL", 350)
        with pytest.raises(RefusedCheckpoint, match="b, with all before it, is cut by columns.* into 400 pieces"):
            probe(str(tmp_path / "step-1"))
        monkeypatch.setattr(dcp_pieces, "MOST_PIECES", 99)
        with pytest.raises(RefusedCheckpoint, match="a is cut by columns, or strided, into (100|150|200) pieces"):
            probe(str(tmp_path / "step-1"))

    def test_each_file_is_opened_once(self, tmp_path, monkeypatch):
        """However many items a folder has, each of its files is opened a single time."""
        tensors = {f"layer.{number}": torch.ones(2, 2) for number in range(50)}
        save(tmp_path / "step-1", {"model": tensors, "optimizer": optimizer_state(tensors, 1)}, parts=2, files=3)
        opened = []
        real = OpenFile.__init__

        def count(self, path):
            opened.append(path)
            real(self, path)

        monkeypatch.setattr(OpenFile, "__init__", count)
        probe(str(tmp_path / "step-1"))
        assert sorted(Path(path).name for path in opened) == [
            ".metadata",
            "__0_0.distcp",
            "__0_1.distcp",
            "__0_2.distcp",
        ]

    @pytest.mark.slow
    def test_real_ranks_in_other_numbers_within_a_window(self, tmp_path):
        """FSDP2 with two processes, then four, then one, with a tensor cut by columns: combined as whole tensors are."""
        script = Path(__file__).parents[1] / "checkpoints" / "dcp_rank.py"
        for ranks, seed in ((2, 1), (4, 2), (1, 3)):
            children = [
                subprocess.Popen([sys.executable, str(script), str(tmp_path), str(rank), str(ranks), str(seed)])
                for rank in range(ranks)
            ]
            assert [child.wait(120) for child in children] == [0] * ranks
            (tmp_path / "meeting").unlink(missing_ok=True)
        paths = [tmp_path / f"step-{seed}" for seed in (1, 2, 3)]
        models = [torch.load(tmp_path / f"whole-{seed}.pt", weights_only=True) for seed in (1, 2, 3)]
        for path, tensors, seed in zip(paths, models, (1, 2, 3), strict=True):
            layout = probe(str(path))
            assert (layout.source, layout.counters) == ("model", {"step": seed})
            found = twins.read(layout)
            assert all(twins.same_bits(found[name], tensor) for name, tensor in tensors.items())
        for newest in range(3):
            order = [*range(newest), *range(newest + 1, 3), newest]
            out = Path(
                twins.publish_here([paths[each] for each in order], (-0.5, 0.25, 1.25), tmp_path / f"out-{newest}")
            )
            check_combination(load(out, "model."), [models[each] for each in order], (-0.5, 0.25, 1.25))
            check_zips(out)
            assert load(out, "optimizer.").keys() == load(paths[newest], "optimizer.").keys()


class TestIncompleteAndRefused:
    """What is not read, and with which words."""

    @pytest.fixture
    def path(self, tmp_path):
        """A checkpoint."""
        path = tmp_path / "step-1"
        save(path, {"model": state(1), "optimizer": optimizer_state(state(1), 1)}, parts=2, files=2)
        return path

    @pytest.mark.filterwarnings("ignore:Detected an existing checkpoint")
    def test_a_folder_that_is_being_written_again(self, path):
        """The old `.metadata` stays while shards are overwritten: a shard that is newer than it tells."""
        old, stat = (path / ".metadata").read_bytes(), (path / ".metadata").stat()
        save(path, {"model": state(2), "optimizer": optimizer_state(state(2), 2)}, parts=2, files=2)
        assert probe(str(path))
        (path / ".metadata").write_bytes(old)
        os.utime(path / ".metadata", ns=(stat.st_mtime_ns, stat.st_mtime_ns))
        with pytest.raises(
            IncompleteCheckpoint, match="__0_0.distcp is newer than .metadata.*written again.*touch .metadata"
        ):
            probe(str(path))
        (path / ".metadata").touch()
        assert probe(str(path))

    def test_a_shard_that_is_missing(self, path):
        """It is named."""
        (path / "__0_1.distcp").unlink()
        with pytest.raises(IncompleteCheckpoint, match="__0_1.distcp is gone or not there yet"):
            probe(str(path))

    def test_all_shards_that_are_missing(self, path, tmp_path):
        """It is still such a checkpoint, and the first of them is named; a folder of that name alone makes none."""
        for shard in path.glob("*.distcp"):
            shard.unlink()
        with pytest.raises(IncompleteCheckpoint, match="^__0_0.distcp is gone or not there yet"):
            probe(str(path))
        (tmp_path / "workspace" / ".metadata").mkdir(parents=True)
        with pytest.raises(RefusedCheckpoint, match="nor a folder of a kind that is known"):
            probe(str(tmp_path / "workspace"))
        assert not dcp_format.recognises(str(path), {".metadata", "step_1.pt"})

    def test_metadata_cut_anywhere(self, path):
        """A part of a pickle is none."""
        whole = (path / ".metadata").read_bytes()
        for place in range(0, len(whole), 7):
            put(path / ".metadata", whole[:place])
            with pytest.raises(IncompleteCheckpoint):
                probe(str(path))

    def test_metadata_that_tells_the_keys_of_some_names_only(self, path):
        """A tensor would leave the model without its keys, and the optimizer's would join it."""
        metadata = dcp.FileSystemReader(path).read_metadata()
        whole = pickle.dumps(metadata, 4)
        del metadata.planner_data["model.wide"]
        for content, words in (
            (pickle.dumps(metadata, 4), "the keys of model.wide are missing"),
            (whole.replace(b"planner_data", b"planner_bata"), "does not say whether keys were joined"),
        ):
            put(path / ".metadata", content)
            with pytest.raises(RefusedCheckpoint, match=words):
                probe(str(path))

    def test_metadata_of_every_rank(self, tmp_path):
        """Nothing says how many ranks there are without collectives."""
        dcp.save({"model": state(1)}, checkpoint_id=tmp_path / "step-1", no_dist=True, use_collectives=False)
        with pytest.raises(RefusedCheckpoint, match="each rank wrote a .metadata of its own"):
            probe(str(tmp_path / "step-1"))

    def test_transformed_items(self, tmp_path):
        """Compressed or encrypted shards have no bytes of tensors in them."""
        writer = dcp.FileSystemWriter(tmp_path / "step-1", _extensions=[Nothing()])
        dcp.save({"model": state(1)}, storage_writer=writer, no_dist=True)
        with pytest.raises(RefusedCheckpoint, match="stored compressed or otherwise transformed"):
            probe(str(tmp_path / "step-1"))

    def test_a_single_shard(self, path):
        """Though it begins like a torch zip, it is none."""
        with pytest.raises(RefusedCheckpoint, match="one shard of a checkpoint; name the folder"):
            probe(str(path / "__0_0.distcp"))

    def test_an_old_format_of_megatron(self, path):
        """Its zarr folders are named as what they are."""
        (path / "common.pt").write_bytes(b"")
        (path / "metadata.json").write_text('{"sharded_backend": "zarr"}')
        with pytest.raises(RefusedCheckpoint, match="Megatron's format 'zarr' is not known"):
            probe(str(path))

    def test_metadata_that_is_another_s_pickle(self, path, tmp_path):
        """Nothing that a hostile pickle names is run, be it the whole or hidden in a part."""
        metadata = dcp.FileSystemReader(path).read_metadata()
        metadata.planner_data["model.wide"] = Hostile(str(tmp_path / "ran"))
        parts = dcp.FileSystemReader(path).read_metadata()
        parts.storage_data[MetadataIndex("x")] = Hostile(str(tmp_path / "ran"))
        for content in (Hostile(str(tmp_path / "ran")), metadata, parts, [1, 2], Metadata({}, None, {Ellipsis: 1})):
            for protocol in (2, 4, 5):
                (path / ".metadata").write_bytes(pickle.dumps(content, protocol))
                with pytest.raises(RefusedCheckpoint, match="is not what torch.distributed.checkpoint writes"):
                    probe(str(path))
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize("file", ["../step-2/__0_0.distcp", "/etc/passwd", ".hidden", ""])
    def test_files_outside_of_the_folder(self, path, file):
        """They are not opened."""
        metadata = dcp.FileSystemReader(path).read_metadata()
        next(iter(metadata.storage_data.values())).relative_path = file
        (path / ".metadata").write_bytes(pickle.dumps(metadata, 4))
        with pytest.raises(RefusedCheckpoint, match="names a file outside of the checkpoint"):
            probe(str(path))

    def test_pieces_that_do_not_make_up_the_tensor(self, path):
        """A piece left out, one too many, or one at another's place is refused in words."""
        intact = (path / ".metadata").read_bytes()

        def without(metadata):
            metadata.state_dict_metadata["model.wide"].chunks.pop()
            metadata.storage_data = {
                index: info
                for index, info in metadata.storage_data.items()
                if (index.fqn, tuple(index.offset or ())) != ("model.wide", (3, 0))
            }

        def moved(metadata):
            first, second = metadata.state_dict_metadata["model.wide"].chunks
            first.offsets = second.offsets

        def elsewhere(metadata):
            places = [info for index, info in metadata.storage_data.items() if index.fqn == "model.wide"]
            places[0].offset, places[0].relative_path = places[1].offset, places[1].relative_path

        def longer(metadata):
            metadata.state_dict_metadata["model.wide"].size = torch.Size([6, 7])

        for change, words in (
            (without, "leave elements out"),
            (moved, "lies outside of it|is no part of it"),
            (elsewhere, "lie at one place"),
            (longer, "leave elements out"),
        ):
            metadata = pickle.loads(intact)
            change(metadata)
            (path / ".metadata").write_bytes(pickle.dumps(metadata, 4))
            with pytest.raises(RefusedCheckpoint, match=words):
                probe(str(path))


def test_a_clone_that_fails_leaves_nothing(tmp_path, monkeypatch):
    """No folder and no temporary one is left if the disk fails at the end."""
    path = tmp_path / "step-1"
    save(path, {"model": state(1)}, parts=2, files=2)

    def fail(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(Exception, match="No space left"):
        twins.publish_here([path, path], (-1.0, 2.0), tmp_path / "out")
    assert list(tmp_path.iterdir()) == [path]


class Hostile:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (os.system, (f"touch '{self.marker}'",))


class Nothing(StreamTransformExtension):
    """An extension that leaves the stream as it is, but says that it was there."""

    @staticmethod
    def registry_name():
        """Its name."""
        return "stream.nothing"

    @staticmethod
    def from_descriptor(version):
        """One of it."""
        return Nothing()

    def get_descriptor(self):
        """Its name, with a version."""
        return "stream.nothing/1"

    def transform_to(self, output):
        """The stream itself, which its user closes."""
        return Unclosed(output)

    def transform_from(self, input):  # noqa: A002 - the base class calls it so
        """The stream itself."""
        return input


class Unclosed(io.RawIOBase):
    """A stream that passes on everything but being closed."""

    def __init__(self, output):
        self._output = output

    def writable(self):
        """It is."""
        return True

    def write(self, data):
        """To the other one."""
        return self._output.write(data)
