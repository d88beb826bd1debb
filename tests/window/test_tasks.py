"""What a task reports of weights that are not finite, and of a part of the Gram matrix."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from rna_watch.acceleration.gram import merge
from rna_watch.formats.probe import probe
from rna_watch.window import combine, segments, tasks_plan
from tests.checkpoints import twins
from tests.engine import windows


def window(folder, change=lambda seed, tensors: tensors, count=4):
    """Layouts of a few checkpoints of one parameter, one half-precision parameter and statistics."""
    layouts = []
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        tensors = {
            "w": torch.randn(300, generator=generator),
            "h": torch.randn(50, generator=generator).half(),
            "bn.running_mean": torch.randn(7, generator=generator),
            "bn.running_var": torch.rand(7, generator=generator),
        }
        torch.save(change(seed, tensors), folder / f"{seed}.pt")
        layouts.append(probe(str(folder / f"{seed}.pt")))
    return layouts


def rows(layouts, new):
    """The merged result of the tasks for the last rows."""
    return merge(windows.serial(tasks_plan.gram_tasks(layouts, new, 1.0)))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["w", "h", "bn.running_mean", "bn.running_var"])
@pytest.mark.parametrize(("new", "which"), [(3, 0), (3, 1), (3, 3), (2, 2), (2, 3), (1, 3)])
def test_weights_that_are_not_finite_name_their_checkpoint(tmp_path, bad, name, new, which):
    """NaN or infinity in any tensor of a checkpoint that is new to the matrix is reported with its number, without a warning."""

    def change(seed, tensors):
        if seed == which:
            tensors[name][3] = bad
        return tensors

    assert rows(window(tmp_path, change), new).non_finite == {which}


def test_several_bad_checkpoints_are_all_named(tmp_path):
    """One look finds every checkpoint that is to blame."""

    def change(seed, tensors):
        if seed in {0, 2}:
            tensors["w"][:] = math.nan
        return tensors

    assert rows(window(tmp_path, change), 3).non_finite == {0, 2}


def test_statistics_and_integers_are_not_in_the_residuals(tmp_path):
    """Statistics may move as they like: the Gram matrix is that of the parameters."""
    still = rows(window(tmp_path), 3)

    def change(seed, tensors):
        return tensors | {"bn.running_mean": tensors["bn.running_mean"] * 1e6, "count": torch.tensor(seed)}

    (tmp_path / "moved").mkdir()
    moved = rows(window(tmp_path / "moved", change), 3)
    np.testing.assert_array_equal(moved.rows, still.rows)
    assert moved.rounding_energy == still.rounding_energy


def test_new_rows_alone_are_the_last_rows(tmp_path):
    """A window that grows by one checkpoint needs one row; it is the last of the whole matrix."""
    layouts = window(tmp_path)
    whole = rows(layouts, 3).rows
    for new in (1, 2):
        np.testing.assert_allclose(rows(layouts, new).rows, whole[-new:], rtol=1e-13)


def test_the_rounding_energy_counts_each_dtype_by_its_own_spacing(tmp_path):
    """sum(eps^2 x^2) over the newest checkpoint's parameters, each with the spacing of its dtype."""
    layouts = window(tmp_path)
    newest = torch.load(layouts[-1].path, weights_only=True)
    expected = sum(
        float((torch.finfo(newest[name].dtype).eps * newest[name].double()).square().sum()) for name in ("w", "h")
    )
    assert rows(layouts, 3).rounding_energy == pytest.approx(expected)


def test_norms_are_of_weight_matrices_and_bounded_in_each(tmp_path, monkeypatch):
    """Vectors, statistics and integers are left out, and so is what lies behind the first elements of a large matrix."""
    monkeypatch.setattr(segments, "MATRIX_ELEMENTS", 64)
    layouts = []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        tensors = {
            "bias": torch.randn(300, generator=generator),
            "small": torch.randn(3, 4, generator=generator),
            "large": torch.randn(40, 50, generator=generator),
            "bn.running_mean": torch.randn(7, generator=generator),
        }
        torch.save(tensors, tmp_path / f"{seed}.pt")
        layouts.append(probe(str(tmp_path / f"{seed}.pt")))
    kept = []
    for layout in layouts:
        tensors = torch.load(layout.path, weights_only=True)
        kept.append(torch.cat([tensors["small"].reshape(-1), tensors["large"].reshape(-1)[:64]]).double().numpy())
    assert segments.matrix_elements(layouts[-1]) == len(kept[0])
    for (older, newer), row in zip(itertools.pairwise(kept), rows(layouts, 2).matrices, strict=True):
        np.testing.assert_allclose(row, [older @ older, newer @ newer, (newer - older) @ (newer - older)], rtol=1e-13)


def test_the_way_to_the_disk_begins_with_a_large_task(tmp_path, monkeypatch):
    """What a large task wrote is on its way while the next one works; a small one leaves it to the end."""
    layouts = windows.write(tmp_path)
    begun = []
    real = combine.begin_writeback
    monkeypatch.setattr(combine, "begin_writeback", lambda descriptor: (begun.append(descriptor), real(descriptor)))
    for limit, expected in ((2**40, False), (0, True)):
        monkeypatch.setattr(combine, "_LARGE_BYTES", limit)
        out = twins.publish_here([layout.path for layout in layouts], windows.WEIGHTS, tmp_path / f"{limit}.pt")
        assert bool(begun) is expected
        assert Path(out).read_bytes() == (tmp_path / f"{2**40}.pt").read_bytes()
