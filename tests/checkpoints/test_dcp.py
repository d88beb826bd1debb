"""Folders of torch.distributed.checkpoint, however they are cut and whoever's they are: what every form must give, and damage."""

import io
import os
import pickle
import random
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint._extension import StreamTransformExtension
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex

from rna_watch.checkpoints import clone, dcp_pieces
from rna_watch.checkpoints import dcp as adapter
from rna_watch.checkpoints.extents import Role
from rna_watch.checkpoints.opened import OpenFile
from rna_watch.checkpoints.pin import pin_checkpoint
from rna_watch.checkpoints.probe import probe
from rna_watch.checkpoints.segments import window_segments
from rna_watch.errors import IncompleteCheckpoint, RefusedCheckpoint
from rna_watch.watching.scan import scan

from . import twins
from .dcp_forms import FORMS, blobs, elements, load, optimizer_state, save, structure
from .test_damage import damages, described, put
from .writers import DTYPES, Network, model

pytestmark = [
    pytest.mark.filterwarnings("ignore:torch.distributed is (disabled|unavailable)"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
WEIGHTS = (0.0, -0.9, 0.3, 1.6)
SEEDS = (1, 2, 3, 4)
UNUSABLE = (IncompleteCheckpoint, RefusedCheckpoint)
NAMES = ("conv.weight", "bias", "n")
EMPTY = torch.empty(0, 3)


@pytest.fixture(params=FORMS)
def form(request):
    """A way to write a model."""
    return FORMS[request.param]


def state(seed, dtype=torch.float32):
    """A model with a tensor of no elements among the others, and one of two axes that does not divide evenly."""
    generator = torch.Generator().manual_seed(seed)
    return model(seed, dtype) | {"empty": EMPTY.to(dtype), "wide": torch.randn(5, 7, generator=generator).to(dtype)}


def write_window(form, folder, dtype=torch.float32):
    """Four checkpoints of one run and their tensors."""
    paths = [folder / form.folder.format(seed) for seed in SEEDS]
    models = [state(seed, dtype) for seed in SEEDS]
    for path, tensors, seed in zip(paths, models, SEEDS, strict=True):
        form.write(path, tensors, seed)
    return paths, models


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
        assert zipfile.ZipFile(io.BytesIO(content)).testzip() is None, name


class TestEveryForm:
    """The contract."""

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_the_layout_leads_to_the_stored_bytes(self, form, dtype, tmp_path):
        """Names, dtypes, shapes and bytes that a layout leads to are those that were written; optimizers are not among them."""
        path = tmp_path / form.folder.format(7)
        written = state(7, dtype)
        form.write(path, written, 7)
        layout = probe(str(path))
        found = twins.read(layout)
        assert (layout.format, layout.source) == ("dcp", form.source)
        assert found.keys() == written.keys()
        assert all(twins.same_bits(found[name], tensor) for name, tensor in written.items())
        assert layout.counters.get(form.counter) == (7 if form.counter else None)
        assert [source.path for source in layout.sources] == [form.source]

    def test_each_tensor_has_its_role(self, form, tmp_path):
        """Parameters, statistics, variances and what is only copied are told apart by name and dtype."""
        path = tmp_path / form.folder.format(7)
        form.write(path, state(7), 7)
        layout = probe(str(path))
        roles = {view.name: layout.extents[view.extent].role for view in layout.tensors}
        assert roles["bn.running_mean"] is Role.STATISTIC
        assert roles["bn.running_var"] is Role.VARIANCE
        assert roles["mask"] is roles["bn.num_batches_tracked"] is Role.COPIED
        weights = {n: t for n, t in state(7).items() if t.is_floating_point() and not n.startswith("bn.running")}
        assert {name for name, role in roles.items() if role is Role.PARAMETER} == weights.keys()
        assert layout.parameters == elements(weights)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_a_published_model_is_the_combination(self, form, dtype, tmp_path):
        """The library itself loads the float64 combination, rounded once, and its zips have right checksums."""
        paths, models = write_window(form, tmp_path, dtype)
        out = Path(twins.publish_here(paths, WEIGHTS, tmp_path / form.folder.format(9)))
        published = load(out / form.inner, form.prefix)
        check_combination(published, models)
        assert (published["bn.running_var"] == 0).any(), "a variance must be driven below zero for this to be a test"
        check_zips(out / form.inner)
        assert probe(str(out)).architecture == probe(str(paths[-1])).architecture
        assert probe(str(out)).fingerprint != probe(str(paths[-1])).fingerprint

    def test_what_loads_the_original_loads_the_result(self, form, tmp_path):
        """A network that loads its state in place gets the combination."""
        paths, models = write_window(form, tmp_path)
        out = twins.publish_here(paths, WEIGHTS, tmp_path / form.folder.format(9))
        network = Network()
        tensors = network.state_dict()
        dcp.load(
            {f"{form.prefix}{name}": tensor for name, tensor in tensors.items()},
            checkpoint_id=Path(out) / form.inner,
            no_dist=True,
        )
        network.load_state_dict(tensors, strict=True)
        assert twins.is_rounded(network.head.weight.detach(), twins.combine(models, WEIGHTS)["head.weight"])

    def test_everything_beside_the_model_is_the_newest_s(self, form, tmp_path):
        """Optimizer, counters, metadata and other files come out as in the newest checkpoint, with permissions and times."""
        paths, models = write_window(form, tmp_path)
        for file in paths[-1].rglob("*"):
            file.chmod(0o640 if file.is_file() else 0o755)
        before = {file: (file.stat().st_ino, file.stat().st_mtime_ns) for path in paths for file in path.rglob("*")}
        contents = {file: file.read_bytes() for file in before if file.is_file()}
        out = Path(twins.publish_here(paths, WEIGHTS, tmp_path / form.folder.format(9)))
        assert {file: (file.stat().st_ino, file.stat().st_mtime_ns) for file in before} == before
        assert all(file.read_bytes() == content for file, content in contents.items())
        left_out = {"optimizer_0", "random_states_0.pkl"} if form.inner else set()
        names = {
            file.relative_to(paths[-1])
            for file in paths[-1].rglob("*")
            if not left_out & set(file.relative_to(paths[-1]).parts)
        }
        assert {file.relative_to(out) for file in out.rglob("*")} == names
        for name in names:
            if (out / name).is_file():
                assert (out / name).stat().st_mtime_ns == (paths[-1] / name).stat().st_mtime_ns
                assert (out / name).stat().st_mode & 0o777 == 0o640
                if name.suffix != ".distcp":
                    assert (out / name).read_bytes() == (paths[-1] / name).read_bytes()
        own = {form.prefix + name for name in models[-1]}
        newest = {(file.name, at): content for _, file, at, content in blobs(paths[-1] / form.inner)}
        for name, file, at, content in blobs(out / form.inner):
            assert name in own or content == newest[file.name, at], name
        assert set(tmp_path.iterdir()) == {*paths, out}

    def test_the_weight_of_one_gives_the_newest_back(self, form, tmp_path):
        """The last iterate, published, is the newest checkpoint byte for byte."""
        paths, _ = write_window(form, tmp_path)
        out = Path(twins.publish_here(paths, (0, 0, 0, 1), tmp_path / form.folder.format(9)))
        for file in out.rglob("*"):
            assert file.is_dir() or file.read_bytes() == (paths[-1] / file.relative_to(out)).read_bytes()

    @pytest.mark.parametrize("crc", [True, False])
    def test_the_fingerprint_follows_the_content_not_the_name(self, form, crc, tmp_path):
        """A hard-linked copy has the same fingerprint, another model another one, with and without checksums."""
        torch.serialization.set_crc32_options(crc)
        try:
            first, copy, other = (tmp_path / f"{name}{form.folder.format(7)}" for name in ("", "b", "c"))
            form.write(first, state(7), 7)
            form.write(other, state(7) | {"scale": torch.tensor(1.5)}, 7)
        finally:
            torch.serialization.set_crc32_options(True)
        shutil.copytree(first, copy, copy_function=os.link)
        prints = [probe(str(path)).fingerprint for path in (first, copy, other)]
        assert prints[0] == prints[1]
        assert prints[0] != prints[2]

    def test_an_absent_source_is_refused_with_those_that_are_there(self, form, tmp_path):
        """`--source` with a key that holds no tensors is answered with what would do."""
        path = tmp_path / form.folder.format(7)
        form.write(path, state(7), 7)
        with pytest.raises(RefusedCheckpoint, match=f"some under: '{form.source}'"):
            probe(str(path), "no.such.key")

    def test_the_scan_takes_the_folder_as_one_and_a_pin_is_complete(self, form, tmp_path):
        """No file in it is a candidate of its own; pinned under another name, it is read as before."""
        run = tmp_path / "run"
        run.mkdir()
        path = run / form.folder.format(7)
        form.write(path, state(7), 7)
        assert [found.name for found in scan(run)[0]] == [path.name]
        for link in (True, False):
            place = tmp_path / f"pinned {link} {path.name}"
            pin_checkpoint(probe(str(path)), str(place), link=link, proceed=lambda: None)
            if not form.inner:
                assert probe(str(place)).fingerprint == probe(str(path)).fingerprint
            assert elements(twins.read(probe(str(place), form.source))) == elements(state(7))

    def test_without_what_is_written_last_it_is_incomplete(self, form, tmp_path):
        """Each of the files that tell the end is waited for."""
        last = {"Lightning": "meta.pt", "Megatron": "metadata.json", "Accelerate": "random_states_0.pkl"}
        path = tmp_path / form.folder.format(7)
        form.write(path, state(7), 7)
        for name in {f"{form.inner}/.metadata".removeprefix("/"), last.get(form.name, ".metadata")}:
            (path / name).rename(tmp_path / "away")
            with pytest.raises(IncompleteCheckpoint, match=f"{Path(name).name}, .*written last|writes last"):
                probe(str(path))
            (tmp_path / "away").rename(path / name)
        assert probe(str(path))


class TestCuts:
    """Pieces: other cuts inside a window, columns, strides, limits."""

    def test_a_window_whose_checkpoints_are_cut_differently(self, tmp_path):
        """Two ranks, then three by columns, then one, then four: the model given back is cut as the newest, and right."""
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

    def test_too_many_pieces_are_refused_in_words(self, tmp_path, monkeypatch):
        """A tensor, or a model, in more pieces than can be read one by one is refused by name."""
        save(tmp_path / "step-1", {"model": {"a": torch.ones(50, 4), "b": torch.ones(50, 4)}}, axis=1, parts=2)
        monkeypatch.setattr(adapter, "_MOST_PIECES_IN_ALL", 150)
        with pytest.raises(RefusedCheckpoint, match="b, with all before it, is cut by columns.* into 200 pieces"):
            probe(str(tmp_path / "step-1"))
        monkeypatch.setattr(dcp_pieces, "MOST_PIECES", 99)
        with pytest.raises(RefusedCheckpoint, match="a is cut by columns, or strided, into 100 pieces"):
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
        script = Path(__file__).with_name("dcp_rank.py")
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

    def test_metadata_of_every_rank(self, tmp_path):
        """Without collectives, nothing says how many ranks there are."""
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


class TestDamage:
    """Shards and metadata that are cut off or damaged: a word about it, or the right layout."""

    @pytest.fixture(params=["rows", "columns", "Megatron"])
    def path(self, request, tmp_path):
        """A small checkpoint, and its `.metadata` dated ahead, so that damage does not show in the times."""
        path = tmp_path / FORMS[request.param].folder.format(1)
        tensors = dict(zip(NAMES, (torch.arange(20.0).reshape(5, 4), torch.ones(3), torch.tensor(4)), strict=True))
        FORMS[request.param].write(path, tensors, 1)
        os.utime(path / ".metadata", (2e9, 2e9))
        return path

    def test_a_shard_cut_anywhere_is_incomplete(self, path):
        """Cut between two items, or within the parts of one, a shard is still being written."""
        for _, file, offset, content in blobs(path):
            whole = file.read_bytes()
            inside = [info.header_offset for info in zipfile.ZipFile(io.BytesIO(content)).infolist()]
            for place in (0, 1, 30, *inside, len(content) // 2, len(content) - 22, len(content) - 1):
                put(file, whole[: offset + place])
                with pytest.raises(IncompleteCheckpoint):
                    probe(str(path))
            put(file, whole)
        assert probe(str(path))

    def test_metadata_cut_anywhere_is_incomplete(self, path):
        """A part of a pickle is none."""
        whole = (path / ".metadata").read_bytes()
        for place in range(0, len(whole), 7):
            put(path / ".metadata", whole[:place])
            os.utime(path / ".metadata", (2e9, 2e9))
            with pytest.raises(IncompleteCheckpoint):
                probe(str(path))

    def test_a_damaged_shard_is_unusable_or_read_right(self, path):
        """Whatever is damaged in the headers, directories and pickles of its zips, the layout is the intact one, or none."""
        intact = described(probe(str(path)))
        refused = 0
        chance = random.Random(3)
        items = blobs(path)
        for round_ in range(150):
            _, file, offset, content = chance.choice(items)
            whole = file.read_bytes()
            for damaged in damages(content, structure(content), 1, seed=round_):
                put(file, whole[:offset] + damaged + whole[offset + len(content) :])
                try:
                    layout = probe(str(path))
                except UNUSABLE:
                    refused += 1
                else:
                    assert described(layout) == intact
            put(file, whole)
        assert refused > 20

    def test_damaged_metadata_is_refused_or_read_right_but_for_names(self, path):
        """All in it is said twice and must agree, but for names that the writer joined itself: those may become others."""
        joined = path.name.startswith("iter")
        intact = described(probe(str(path)))
        places = sorted(map(str, intact[1]))
        whole = (path / ".metadata").read_bytes()
        refused = 0
        for damaged in damages(whole, range(len(whole)), 1200, seed=5):
            put(path / ".metadata", damaged)
            os.utime(path / ".metadata", (2e9, 2e9))
            try:
                found = probe(str(path))
            except UNUSABLE:
                refused += 1
            else:
                twins.read(found)
                known = [replace(extent, name=name) for extent in found.extents for name in NAMES if joined]
                assert described(found) == intact or (joined and {*map(str, known)} >= {*places})
        assert refused > 600


def test_a_clone_that_fails_leaves_nothing(tmp_path, monkeypatch):
    """When the repair of a shard fails, no folder and no temporary one is left."""
    path = tmp_path / "step-1"
    save(path, {"model": state(1)}, parts=2, files=2)

    def fail(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(clone, "sync_folder", fail)
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
