"""What every form of checkpoint must give: one contract, over torch's formats in their nestings and safetensors."""

import os
import zipfile

import numpy as np
import pytest
import torch

from rna_watch.checkpoints.extents import Role
from rna_watch.checkpoints.names import plain_names
from rna_watch.checkpoints.probe import probe
from rna_watch.errors import RefusedCheckpoint

from . import twins
from .writers import DTYPES, FORMS, Network, as_state_dict, model

WEIGHTS = (0.0, -0.9, 0.3, 1.6)
SEEDS = (1, 2, 3, 4)


@pytest.fixture(params=FORMS)
def form(request):
    """A way to write a model."""
    return FORMS[request.param]


def write_window(form, folder, dtype=torch.float32, change=lambda tensors: tensors):
    """Four checkpoints of one run; returns their paths and their tensors as named in the files."""
    paths = [folder / f"epoch_{seed}{form.ending}" for seed in SEEDS]
    return paths, [form.write(path, change(model(seed, dtype)), seed) for path, seed in zip(paths, SEEDS, strict=True)]


def leaves(tree, path=""):
    """Every value of a tree of containers with its place; tensors and arrays as their bytes."""
    if isinstance(tree, dict):
        return [leaf for key, value in tree.items() for leaf in leaves(value, f"{path}/{key}")]
    if isinstance(tree, list | tuple):
        return [leaf for number, value in enumerate(tree) for leaf in leaves(value, f"{path}/{number}")]
    if isinstance(tree, torch.Tensor):
        tree = tree.detach().contiguous().view(-1).view(torch.uint8).numpy()
    if isinstance(tree, np.ndarray):
        return [(path, str(tree.dtype), tree.tobytes())]
    return [(path, type(tree).__name__, repr(vars(tree)) if type(tree).__module__.startswith("tests") else repr(tree))]


class TestEveryForm:
    """The contract."""

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_the_layout_leads_to_the_stored_bytes(self, form, dtype, tmp_path):
        """Names, dtypes, shapes and bytes that a layout leads to are those that were written."""
        path = tmp_path / f"model{form.ending}"
        written = form.write(path, model(7, dtype), 7)
        layout = probe(str(path))
        found = twins.read(layout)
        assert layout.format == form.format
        assert layout.source == form.source
        assert found.keys() == written.keys()
        assert all(twins.same_bits(found[name], tensor) for name, tensor in written.items())
        assert layout.size_bytes == path.stat().st_size

    def test_each_tensor_has_its_role(self, form, tmp_path):
        """Parameters, statistics, variances and what is only copied are told apart by name and dtype."""
        path = tmp_path / f"model{form.ending}"
        form.write(path, model(7), 7)
        layout = probe(str(path))
        plain = layout.plain_names
        roles = {plain[view.name]: layout.extents[view.extent].role for view in layout.tensors}
        assert roles == {
            "conv.weight": Role.PARAMETER,
            "conv.bias": Role.PARAMETER,
            "bn.weight": Role.PARAMETER,
            "bn.bias": Role.PARAMETER,
            "bn.running_mean": Role.STATISTIC,
            "bn.running_var": Role.VARIANCE,
            "bn.num_batches_tracked": Role.COPIED,
            "mask": Role.COPIED,
            "head.weight": Role.PARAMETER,
            "head.bias": Role.PARAMETER,
            "scale": Role.PARAMETER,
        }
        assert layout.parameters == 4 * 3 * 3 * 3 + 4 + 4 + 4 + 5 * 4 + 5 + 1

    def test_the_epoch_inside_is_found(self, form, tmp_path):
        """The counter beside the model is told where there is one."""
        path = tmp_path / f"model{form.ending}"
        form.write(path, model(7), 7)
        there = form.source or form.format == "safetensors"
        assert probe(str(path)).counters == ({"epoch": 7} if there else {})

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_a_published_model_is_the_combination(self, form, dtype, tmp_path):
        """Every value is the float64 combination rounded once; integers and flags are the newest's; no variance is negative."""
        paths, models = write_window(form, tmp_path, dtype)
        published = form.load(twins.publish_here(paths, WEIGHTS, tmp_path / f"out{form.ending}"))
        expected = twins.combine(models, WEIGHTS)
        assert published.keys() == expected.keys()
        for name, tensor in published.items():
            assert tensor.dtype == models[-1][name].dtype
            if tensor.is_floating_point():
                assert twins.is_rounded(tensor.detach(), expected[name]), name
            else:
                assert twins.same_bits(tensor, expected[name]), name
        variances = next(tensor for name, tensor in published.items() if name.endswith("running_var"))
        assert (variances == 0).any(), "the weights must drive a variance below zero for this to be a test"
        assert (variances >= 0).all()

    def test_what_loads_the_original_loads_the_result(self, form, tmp_path):
        """A real network takes the published model with `strict=True`."""
        paths, models = write_window(form, tmp_path)
        published = form.load(twins.publish_here(paths, WEIGHTS, tmp_path / f"out{form.ending}"))
        network = Network()
        plain = plain_names(published)
        network.load_state_dict({plain[name]: tensor for name, tensor in published.items()}, strict=True)
        bias = next(tensor for name, tensor in twins.combine(models, WEIGHTS).items() if name.endswith("head.bias"))
        assert twins.is_rounded(network.head.bias.detach(), bias)

    def test_everything_beside_the_model_is_the_newest_s(self, form, tmp_path):
        """Optimizer state, epoch, settings and objects of foreign classes come out as in the newest checkpoint."""
        paths, _ = write_window(form, tmp_path)
        out = twins.publish_here(paths, WEIGHTS, tmp_path / f"out{form.ending}")
        if form.format == "safetensors":
            base = 8 + int.from_bytes(paths[-1].read_bytes()[:8], "little")
            assert (tmp_path / "out.safetensors").read_bytes()[:base] == paths[-1].read_bytes()[:base]
            return
        trees = []
        for path in (paths[-1], out):
            tree = torch.load(path, weights_only=False)
            model_tree = as_state_dict(tree if form.source == "" else tree.pop(form.source))
            trees.append((leaves(tree) if form.source else [], list(model_tree), type(model_tree)))
        assert trees[0] == trees[1]
        if form.source:
            assert trees[0][0], "there must be something beside the model for this to be a test"

    def test_checksums_are_right(self, form, tmp_path):
        """A published zip passes `zipfile.testzip`, and a published safetensors file its own library."""
        paths, _ = write_window(form, tmp_path)
        out = twins.publish_here(paths, WEIGHTS, tmp_path / f"out{form.ending}")
        if form.format == "torch zip":
            assert zipfile.ZipFile(out).testzip() is None
        assert probe(out).architecture == probe(str(paths[-1])).architecture

    def test_originals_are_untouched_and_nothing_else_is_left(self, form, tmp_path):
        """Publishing adds one file, changes no other, and leaves no temporary one."""
        paths, _ = write_window(form, tmp_path)
        before = {path: (path.read_bytes(), path.stat()) for path in paths}
        out = tmp_path / f"out{form.ending}"
        twins.publish_here(paths, WEIGHTS, out)
        assert set(tmp_path.iterdir()) == {*paths, out}
        for path, (content, stat) in before.items():
            now = path.stat()
            assert path.read_bytes() == content
            assert (now.st_ino, now.st_mtime_ns, now.st_ctime_ns) == (stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns)

    @pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
    def test_permissions_and_time_are_the_newest_s(self, form, mode, tmp_path):
        """Whoever may read the original may read the result, and plots against modification time stay true."""
        paths, _ = write_window(form, tmp_path)
        paths[-1].chmod(mode)
        os.utime(paths[-1], ns=(1_600_000_000_123_456_789, 1_600_000_000_123_456_789))
        stat = os.stat(twins.publish_here(paths, WEIGHTS, tmp_path / f"out{form.ending}"))
        assert stat.st_mode & 0o777 == mode
        assert stat.st_mtime_ns == 1_600_000_000_123_456_789

    def test_tensors_that_do_not_move_stay_bitwise_equal(self, form, tmp_path):
        """A frozen tensor keeps every bit, signed zeros included, whatever the weights."""
        frozen = torch.tensor([0.1, -0.0, 0.0, 1e-45, 3e38, -1 / 3])
        paths, _ = write_window(form, tmp_path, change=lambda tensors: tensors | {"frozen": frozen})
        published = form.load(twins.publish_here(paths, WEIGHTS, tmp_path / f"out{form.ending}"))
        assert twins.same_bits(next(t for name, t in published.items() if name.endswith("frozen")).detach(), frozen)

    def test_the_weight_of_one_gives_the_newest_back(self, form, tmp_path):
        """The last iterate, published, is the newest checkpoint byte for byte."""
        paths, _ = write_window(form, tmp_path)
        out = twins.publish_here(paths, (0, 0, 0, 1), tmp_path / f"out{form.ending}")
        with open(out, "rb") as file:
            assert file.read() == paths[-1].read_bytes()

    def test_the_fingerprint_follows_the_content_not_the_name(self, form, tmp_path):
        """A copy under another name has the same fingerprint, another model in the same file another one."""
        first, copy, other = (tmp_path / f"{name}{form.ending}" for name in ("a", "b", "c"))
        form.write(first, model(7), 7)
        copy.write_bytes(first.read_bytes())
        form.write(other, model(7) | {"scale": torch.tensor(1.5)}, 7)
        prints = [probe(str(path)).fingerprint for path in (first, copy, other)]
        assert prints[0] == prints[1]
        assert prints[0] != prints[2]

    def test_an_absent_source_is_refused_with_those_that_are_there(self, form, tmp_path):
        """`--source` with a key that holds no tensors is answered with what would do."""
        path = tmp_path / f"model{form.ending}"
        form.write(path, model(7), 7)
        with pytest.raises(RefusedCheckpoint, match="--source|under"):
            probe(str(path), "no.such.key")
