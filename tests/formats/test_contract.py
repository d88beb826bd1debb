"""What every form of checkpoint must give, whoever writes it: one contract."""

import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from rna_watch.daemon.pinned_file import pin_checkpoint
from rna_watch.errors import IncompleteCheckpoint, RefusedCheckpoint
from rna_watch.evaluation.materialize import state_dict
from rna_watch.formats.probe import probe
from rna_watch.layout.layout import Role
from rna_watch.layout.names import plain_names
from rna_watch.publishing import differences
from rna_watch.watching.scan import scan
from rna_watch.window.combine import Combination
from tests.checkpoints import damage, twins
from tests.checkpoints.dcp_forms import QUIET
from tests.checkpoints.forms import FORMS
from tests.checkpoints.writers import Larger
from tests.checkpoints.writers import model as model_of
from tests.formats.test_many_tensors import in_a_child, small_tensors

WEIGHTS = (0.0, -0.9, 0.3, 1.6)
SEEDS = (1, 2, 3, 4)
UNUSABLE = (IncompleteCheckpoint, RefusedCheckpoint)
ODD_BYTES = (0, 1, 2, 3, 4, 5, 8, 9, 10, 29, 30, 31, 63, 64, 65, 511)
FROZEN = torch.tensor([0.1, -0.0, 0.0, 1e-45, 3e38, -1 / 3])
MANY_WEIGHTS = (0.0, -0.5, 1.5)
DTYPES = {
    f"{name}-{dtype}".replace("torch.", ""): (form, dtype) for name, form in FORMS.items() for dtype in form.dtypes
}
# one of every format at least, nestings do not matter here
QUICK = ("torch zip, bare", "safetensors")
SLOW = (
    *("torch zip, module object", "torch legacy, bare", "Hugging Face, shards", "DCP, bare"),
    *("DeepSpeed ZeRO-2", "DeepSpeed ZeRO-3"),
)
KNOWN = {FORMS[name].format for name in (*QUICK, *SLOW)}
OTHERS = {form.format: name for name, form in FORMS.items() if form.format not in KNOWN}
MANY = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in (*SLOW, *OTHERS.values()))]

pytestmark = QUIET


@pytest.fixture(params=FORMS)
def form(request):
    """A way to write a model."""
    return FORMS[request.param]


@pytest.fixture
def path(form, tmp_path):
    """A checkpoint of a small model."""
    path = tmp_path / form.path.format(7)
    form.write(path, small(), 7)
    return path


def model(seed, dtype=torch.float32):
    """The state dict of a network with every kind of entry."""
    return model_of(seed, dtype, Larger)


def small():
    """A few tensors of a network: of each role one."""
    names = ("conv.bias", "head.weight", "bn.running_var", "bn.num_batches_tracked", "scale")
    return {name: tensor for name, tensor in model(7).items() if name in names}


def write_window(form, folder, dtype=torch.float32, change=lambda tensors: tensors):
    """Four checkpoints of one run; returns their paths and their tensors as named in the files."""
    paths = [folder / form.path.format(seed) for seed in SEEDS]
    return paths, [form.write(path, change(model(seed, dtype)), seed) for path, seed in zip(paths, SEEDS, strict=True)]


def publish(form, paths, weights=WEIGHTS):
    """The path of the written model."""
    return Path(twins.publish_here(paths, weights, paths[0].parent / f"out-{form.path.format(9)}"))


def plain(form, tensors):
    """Tensors by the names that a network gives them."""
    names = plain_names(tensors)
    return {names[name].removeprefix(form.prefix): tensor for name, tensor in tensors.items() if name in names}


def described(layout):
    """What a layout says about the model."""
    return layout.tensors, layout.extents, layout.source, layout.counters


def same(layout, intact):
    """Whether a layout is that of the intact checkpoint, and tells nothing of its training that this does not."""
    return described(layout)[:3] == described(intact)[:3] and layout.counters.items() <= intact.counters.items()


def answer(path):
    """The layout, or None with a word about why not; anything else that happens is a failure."""
    try:
        return probe(str(path))
    except UNUSABLE as error:
        reason = str(error)
    assert reason.strip()
    return None


class TestEveryForm:
    """The contract."""

    @pytest.mark.parametrize("name", DTYPES)
    def test_the_layout_leads_to_the_stored_bytes(self, name, tmp_path):
        """Names, dtypes, shapes and bytes that a layout leads to are those that were written."""
        form, dtype = DTYPES[name]
        path = tmp_path / form.path.format(7)
        written = form.write(path, model(7, dtype), 7)
        layout = probe(str(path))
        found = twins.read(layout)
        assert (layout.format, layout.source) == (form.format, form.source)
        assert found.keys() == written.keys()
        assert all(twins.same_bits(found[name], tensor) for name, tensor in written.items())
        assert layout.counters == {key: 7 * value for key, value in form.counters.items()}
        kept = [each for each in damage.files(path) if not set(each.relative_to(path).parts) & set(form.left_out)]
        assert layout.size_bytes == sum(each.stat().st_size for each in kept)

    def test_each_tensor_has_its_role(self, form, tmp_path):
        """Parameters, statistics, variances and what is only copied are told apart by name and dtype."""
        path = tmp_path / form.path.format(7)
        form.write(path, model(7), 7)
        layout = probe(str(path))
        names = layout.plain_names
        roles = {
            names[view.name].removeprefix(form.prefix): layout.extents[view.extent].role for view in layout.tensors
        }
        parameters = dict(Larger().named_parameters()) | {"empty": torch.empty(0)}
        assert roles == dict.fromkeys(parameters, Role.PARAMETER) | {
            "bn.running_mean": Role.STATISTIC,
            "bn.running_var": Role.VARIANCE,
            "bn.num_batches_tracked": Role.COPIED,
            "mask": Role.COPIED,
        }
        assert layout.parameters == sum(tensor.numel() for tensor in parameters.values())

    @pytest.mark.parametrize("name", DTYPES)
    def test_a_published_model_is_the_combination(self, name, tmp_path):
        """Every value is the float64 combination rounded once; integers and flags are the newest's; no variance is negative."""
        form, dtype = DTYPES[name]
        paths, models = write_window(form, tmp_path, dtype)
        out = publish(form, paths)
        published = form.load(out)
        expected = twins.combine(models, WEIGHTS)
        assert published.keys() == expected.keys()
        for key, tensor in published.items():
            assert tensor.dtype == models[-1][key].dtype
            if tensor.is_floating_point():
                assert twins.is_rounded(tensor.detach(), expected[key]), key
            else:
                assert twins.same_bits(tensor, expected[key]), key
        variances = next(tensor for key, tensor in published.items() if key.endswith("running_var"))
        assert (variances == 0).any(), "the weights must drive a variance below zero for this to be a test"
        assert (variances >= 0).all()

    def test_every_tensor_may_have_weights_of_its_own(self, form, tmp_path):
        """Each value is the combination by its own tensor's row; an evaluator gets the same; equal rows are no rows."""
        paths, _ = write_window(form, tmp_path)
        layouts = tuple(probe(str(path)) for path in paths)
        steps = {each.name: 0.1 * (number % 7) for number, each in enumerate(layouts[-1].extents)}
        rows = {name: (step, *WEIGHTS[1:3], WEIGHTS[3] - step) for name, step in steps.items()}
        recipe = Combination(layouts=layouts, weights=WEIGHTS, layer_weights=tuple(rows.items()))
        out = Path(twins.publish_recipe(recipe, tmp_path / f"out-{form.path.format(9)}"))
        published = probe(str(out))
        found, models = twins.read(published), [twins.read(layout) for layout in layouts]
        evaluated = state_dict(recipe, torch.device("cpu"))
        for view in layouts[-1].tensors:
            extent = layouts[-1].extents[view.extent]
            if extent.role is Role.COPIED or view.name not in found:
                continue
            weighted = zip(rows[extent.name], models, strict=True)
            expected = sum(weight * tensors[view.name].double() for weight, tensors in weighted)
            expected = expected.clamp(min=0.0) if extent.role is Role.VARIANCE else expected
            assert twins.is_rounded(found[view.name], expected), view.name
            name = layouts[-1].plain_names.get(view.name)
            assert name is None or twins.same_bits(evaluated[name].detach(), found[view.name]), view.name
        if not form.consolidated:
            assert differences.combined_differences(published, recipe.without_zeros())[0] == []
        equal = tuple((name, WEIGHTS) for name in rows)
        again = twins.publish_recipe(Combination(layouts=layouts, weights=WEIGHTS, layer_weights=equal), out)
        assert twins.read(probe(again)).keys() == found.keys()
        whole = twins.read(probe(str(publish(form, paths))))
        assert all(twins.same_bits(tensor, whole[name]) for name, tensor in twins.read(probe(again)).items())

    def test_what_loads_the_original_loads_the_result(self, form, tmp_path):
        """A real network takes the published model with `strict=True`, and an evaluator gets the same tensors."""
        paths, models = write_window(form, tmp_path)
        published = plain(form, form.load(publish(form, paths)))
        network = Larger()
        network.load_state_dict(published, strict=True)
        bias = plain(form, twins.combine(models, WEIGHTS))["head.bias"]
        assert twins.is_rounded(network.head.bias.detach(), bias)
        window = Combination(layouts=tuple(probe(str(path)) for path in paths), weights=WEIGHTS)
        evaluated = state_dict(window, torch.device("cpu"))
        assert {name.removeprefix(form.prefix) for name in evaluated} == published.keys()
        assert all(twins.same_bits(evaluated[form.prefix + name], published[name].detach()) for name in published)

    def test_everything_beside_the_model_is_the_newest_s(self, form, tmp_path):
        """Every byte that is not the model's is the newest's; of a folder, what belongs to the training is not there."""
        paths, _ = write_window(form, tmp_path)
        out, newest = publish(form, paths), probe(str(paths[-1]))
        if not newest.root:
            pairs = [(out, paths[-1])]
        else:
            model_files = {Path(each.path) for each in newest.files}
            pairs = [
                (out / each.relative_to(paths[-1]), each)
                for each in damage.files(paths[-1])
                if not set(each.relative_to(paths[-1]).parts) & set(form.left_out)
                and not (form.consolidated and each in model_files)
            ]
            made = {out / "model.safetensors"} if form.consolidated else set()
            assert set(damage.files(out)) == made | {pair[0] for pair in pairs}
        spans = {}
        for extent in newest.extents:
            for chunk in extent.chunks if extent.role is not Role.COPIED else ():
                size = getattr(torch, extent.dtype).itemsize
                spans.setdefault(newest.files[chunk.file].path, []).append((chunk.offset_bytes, chunk.count * size))
        for made, original in pairs:
            beside = []
            for each in (made, original):
                content = bytearray(each.read_bytes())
                for offset, size in spans.get(str(original), ()):
                    content[offset : offset + size] = bytes(size)
                beside.append(form.without_checksums(bytes(content)))
            assert beside[0] == beside[1], original.name

    def test_checksums_are_right(self, form, tmp_path):
        """Every zip in a published checkpoint passes `zipfile.testzip`, its format finds no damage, and it is complete."""
        paths, _ = write_window(form, tmp_path)
        out = publish(form, paths)
        assert differences.damage(probe(str(out)))[0] == []
        for file in damage.files(out):
            assert all(map(damage.is_sound, damage.zips(file)))
        assert probe(str(out)).architecture == probe(str(paths[-1])).architecture
        assert probe(str(out)).fingerprint != probe(str(paths[-1])).fingerprint

    def test_originals_are_untouched_and_nothing_else_is_left(self, form, tmp_path):
        """Publishing adds one file or folder, changes no other, and leaves no temporary one."""
        paths, _ = write_window(form, tmp_path)
        before = {each: (each.read_bytes(), each.stat()) for path in paths for each in damage.files(path)}
        out = publish(form, paths)
        assert set(tmp_path.iterdir()) == {*paths, out}
        assert {each for path in paths for each in damage.files(path)} == before.keys()
        for path, (content, stat) in before.items():
            now = path.stat()
            assert path.read_bytes() == content
            assert (now.st_ino, now.st_mtime_ns, now.st_ctime_ns) == (stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns)

    @pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
    def test_permissions_and_time_are_the_newest_s(self, form, mode, tmp_path):
        """Whoever may read the original may read the result, and plots against modification time stay true."""
        paths, _ = write_window(form, tmp_path)
        for file in damage.files(paths[-1]):
            file.chmod(mode)
            os.utime(file, ns=(1_600_000_000_123_456_789, 1_600_000_000_123_456_789))
        out = publish(form, paths)
        for file in [out, *damage.files(out)]:
            stat = file.stat()
            assert file.is_dir() or stat.st_mode & 0o777 == mode
            assert stat.st_mtime_ns == 1_600_000_000_123_456_789

    def test_tensors_that_do_not_move_stay_bitwise_equal(self, form, tmp_path):
        """A frozen tensor keeps every bit, signed zeros included, whatever the weights."""
        paths, _ = write_window(form, tmp_path, change=lambda tensors: tensors | {"frozen": FROZEN})
        published = form.load(publish(form, paths))
        assert twins.same_bits(next(t for name, t in published.items() if name.endswith("frozen")).detach(), FROZEN)

    def test_the_weight_of_one_gives_the_newest_back(self, form, tmp_path):
        """The last iterate, published, is the newest checkpoint byte for byte; of one that is consolidated, its tensors are."""
        paths, models = write_window(form, tmp_path)
        out = publish(form, paths, (0, 0, 0, 1))
        found = form.load(out)
        assert all(twins.same_bits(found[name].detach(), tensor) for name, tensor in models[-1].items())
        for file in damage.files(out):
            original = paths[-1] / file.relative_to(out)
            assert form.consolidated or file.read_bytes() == original.read_bytes()

    @pytest.mark.parametrize("crc", [True, False])
    def test_the_fingerprint_follows_the_content_not_the_name(self, form, crc, tmp_path):
        """A copy under another name has the same fingerprint, another model another one, with and without checksums."""
        torch.serialization.set_crc32_options(crc)
        try:
            first, copy, other = (tmp_path / f"{name}{form.path.format(7)}" for name in ("", "b", "c"))
            form.write(first, model(7), 7)
            form.write(other, model(7) | {"scale": torch.tensor(1.5)}, 7)
        finally:
            torch.serialization.set_crc32_options(True)
        if first.is_dir():
            shutil.copytree(first, copy, copy_function=os.link)
        else:
            os.link(first, copy)
        prints = [probe(str(path)).fingerprint for path in (first, copy, other)]
        assert prints[0] == prints[1]
        assert prints[0] != prints[2]

    def test_an_absent_source_is_refused_with_those_that_are_there(self, form, path):
        """`--source` with a key that holds no tensors is answered with what would do."""
        with pytest.raises(RefusedCheckpoint, match="--source|under"):
            probe(str(path), "no.such.key")

    def test_the_scan_takes_it_as_one_and_a_pin_is_complete(self, form, tmp_path):
        """No file in a folder is a candidate of its own; pinned under another name, a checkpoint is read as before."""
        run = tmp_path / "run"
        run.mkdir()
        path = run / form.path.format(7)
        form.write(path, model(7), 7)
        assert [found.name for found in scan(run)[0]] == [path.name]
        layout = probe(str(path))
        for link in (True, False):
            place = tmp_path / f"pinned {link} {path.name}"
            _, pinned = pin_checkpoint(layout, str(place), link=link, proceed=lambda: None)
            found, expected = twins.read(pinned), twins.read(layout)
            assert all(twins.same_bits(found[name], tensor) for name, tensor in expected.items())
            assert described(pinned) == described(layout)

    @pytest.mark.parametrize("most", [250, pytest.param(10**6, marks=pytest.mark.slow)])
    def test_cut_off_between_any_two_parts_it_is_incomplete(self, form, path, most):
        """Cut off anywhere, what holds the model is waited for; without another file there is a reason, or the same model."""
        intact = probe(str(path))
        models = {each.path for each in intact.files}
        chance = random.Random(6)
        files = damage.files(path)
        for file in files:
            whole = file.read_bytes()
            places = {offset + at for offset, member in damage.members(file) for at in damage.boundaries(member)}
            places |= {*ODD_BYTES}
            places = sorted(place for place in places if place < len(whole))
            for place in chance.sample(places, min(most // len(files), len(places))):
                damage.put(file, whole[:place])
                if str(file) in models:
                    with pytest.raises(IncompleteCheckpoint, match=r"\w"):
                        probe(str(path))
                else:
                    assert (layout := answer(path)) is None or same(layout, intact), (file.name, place)
            damage.put(file, whole)
            if path.is_dir():
                away = file.rename(path.with_name("away"))
                layout = answer(path)
                needed = str(file) in models or str(file.relative_to(path)) in form.last
                assert layout is None or (same(layout, intact) and not needed), file.name
                away.rename(file)
        assert described(probe(str(path))) == described(intact)

    @pytest.mark.parametrize("count", [150, pytest.param(3000, marks=pytest.mark.slow)])
    def test_damaged_it_is_refused_or_read_right(self, form, path, count):
        """A damaged header gives a reason, or the same model, or one that no window takes for the same; never anything else."""
        intact = probe(str(path))
        chance = random.Random(f"{form.name} {count}")
        parts = {
            file: [(offset, member, damage.structure(member)) for offset, member in damage.members(file)]
            for file in damage.files(path)
        }
        wholes = {file: file.read_bytes() for file in parts}
        refused = 0
        for _ in range(count):
            file, whole = chance.choice(list(wholes.items()))
            offset, member, places = chance.choice(parts[file])
            damaged = damage.damaged(member, chance.choice(places), chance)
            damage.put(file, whole[:offset] + damaged + whole[offset + len(member) :])
            layout = answer(path)
            refused += layout is None
            if layout is not None and form.checked:
                assert same(layout, intact), file.name
            elif layout is not None:
                twins.read(layout)
                assert layout.architecture != intact.architecture or described(layout)[:2] == described(intact)[:2]
            damage.put(file, whole)
        assert refused > count // 10

    def test_nothing_that_a_hostile_pickle_names_is_run(self, form, path, monkeypatch, tmp_path):
        """A call in any of its pickles is never made, and the model is read past it."""
        monkeypatch.chdir(tmp_path)
        expected = twins.read(probe(str(path)))
        assert damage.make_hostile(path) or not form.pickled
        layout = answer(path)
        assert layout is None or all(twins.same_bits(twins.read(layout)[name], expected[name]) for name in expected)
        assert not Path("ran").exists()

    @pytest.mark.parametrize("name", MANY)
    def test_ten_thousand_small_tensors_in_bounded_memory(self, name, tmp_path):
        """A window of three is exact, in bounded memory and less than a minute (measured, as torch zips: 28 MiB and 2 s)."""
        form = FORMS[name]
        paths = [tmp_path / form.path.format(seed) for seed in SEEDS[:3]]
        models = [form.write(path, small_tensors(seed), seed) for path, seed in zip(paths, SEEDS, strict=False)]
        out = tmp_path / f"out-{form.path.format(9)}"
        peak, seconds, rows = in_a_child(paths, MANY_WEIGHTS, out)
        assert peak < form.memory_mib * 2**20
        assert seconds < 60
        flat = [torch.cat([each[name] for name in models[0]]).double().numpy() for each in models]
        residuals = np.diff(flat, axis=0)
        np.testing.assert_allclose(rows, residuals @ residuals.T, rtol=1e-12)
        published, expected = form.load(out), twins.combine(models, MANY_WEIGHTS)
        assert form.consolidated or list(published) == list(form.load(paths[-1]))
        assert published.keys() == expected.keys()
        assert all(twins.is_rounded(published[name].detach(), tensor) for name, tensor in expected.items())
        window = Combination(layouts=tuple(probe(str(path)) for path in paths), weights=MANY_WEIGHTS)
        evaluated, names = state_dict(window, torch.device("cpu")), plain_names(published)
        assert all(twins.same_bits(evaluated[names[name]], tensor.detach()) for name, tensor in published.items())
