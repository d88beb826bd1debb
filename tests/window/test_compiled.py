"""A window by the compiled loops is the same as by numpy: the combination to the bit, also where values are no plain numbers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from rna_watch import kernels
from rna_watch.acceleration.gram import GramRows, merge
from rna_watch.formats.probe import probe
from rna_watch.kernels import twin
from rna_watch.window import tasks
from rna_watch.window.combine import Combination, combined_blocks
from rna_watch.window.evidence import MATRICES, PARAMETERS, Evidence
from rna_watch.window.reader import WindowReader
from rna_watch.window.tasks_plan import combine_tasks, gram_tasks

if TYPE_CHECKING:
    from pathlib import Path

    from rna_watch.layout.layout import Layout

pytestmark = pytest.mark.skipif(not kernels.COMPILED, reason="the package was built without a C compiler")
_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_WEIGHTS = [
    (0.0, 1.5, -0.75, 0.25),
    (0.25, 0.0, 0.5, 0.25),
    (0.0, 1.0, 0.0, 0.0),
    (0.0, 0.0, 0.0, 1.0),
    (1.0, 0.5, 0.0, -0.5),
]


def _layouts(folder: Path) -> list[Layout]:
    """Four checkpoints: every dtype, a mask of infinities, zeros of both signs, constants, what overflows, a variance."""
    layouts = []
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        tensors = {}
        for dtype in _DTYPES:
            values = torch.randn(257, 40, generator=generator, dtype=torch.float64)
            values[::5] = 0.0 if seed % 2 else -0.0
            values[1::5] = 0.25
            tensors[str(dtype)] = values.to(dtype)
        tensors["mask"] = torch.triu(torch.full((30, 30), -math.inf), 1)
        tensors["large"] = torch.rand(300, generator=generator) * 3e38
        tensors["bn.running_mean"] = torch.randn(9, generator=generator)
        tensors["bn.running_var"] = torch.rand(9, generator=generator)
        torch.save(tensors, folder / f"{seed}.pt")
        layouts.append(probe(str(folder / f"{seed}.pt")))
    return layouts


def _made(combination: Combination, elements: str = "") -> tuple[bytes, Evidence | None]:
    segments = combination.segments()
    evidence = Evidence(segments, len(combination.layouts), elements) if elements else None
    with WindowReader(combination.files) as reader, np.errstate(all="ignore"):
        blocks = combined_blocks(reader, segments, combination.rows, 1000, evidence)
        return b"".join(bits.tobytes() for _, _, bits in blocks), evidence


@pytest.mark.parametrize("weights", _WEIGHTS)
@pytest.mark.parametrize("elements", ["", MATRICES, PARAMETERS])
def test_a_combination_has_the_bits_of_numpy(
    weights: tuple[float, ...], elements: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is found out of the window on the way is the same."""
    combination = Combination(layouts=tuple(_layouts(tmp_path)), weights=weights)
    found, evidence = _made(combination, elements)
    monkeypatch.setattr(kernels, "COMPILED", False)
    expected, other = _made(combination, elements)
    assert found == expected
    if evidence is not None and other is not None:
        assert evidence.damaged == other.damaged
        assert evidence.found().non_finite == other.found().non_finite
        np.testing.assert_allclose(evidence.found().rows, other.found().rows, rtol=1e-12)


@pytest.mark.parametrize("which", [0, 1, 3])
@pytest.mark.parametrize("weights", _WEIGHTS[:2])
def test_evidence_names_who_is_not_finite(which: int, weights: tuple[float, ...], tmp_path: Path) -> None:
    """Whether or not it has a weight."""
    layouts = _layouts(tmp_path)
    tensors = torch.load(tmp_path / f"{which}.pt")
    tensors["torch.bfloat16"][3, 3] = math.nan
    torch.save(tensors, tmp_path / f"{which}.pt")
    layouts[which] = probe(str(tmp_path / f"{which}.pt"))
    combination = Combination(layouts=tuple(layouts), weights=weights)
    [work] = combine_tasks(combination, combination.segments(), (str(tmp_path / "made"),), MATRICES)
    (tmp_path / "made").write_bytes(bytes(layouts[-1].size_bytes))
    _, evidence = tasks.combined(work)
    assert isinstance(evidence, GramRows)
    assert evidence.non_finite == {which}


@pytest.mark.parametrize("new", [1, 3])
def test_a_node_without_the_compiled_loops_gives_the_same_bits(
    new: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the plan names them: by their twin; BLAS gives the same to rounding."""
    layouts = _layouts(tmp_path)
    work = gram_tasks(layouts, new, 1.0)
    assert {task.kernel for task in work} == {"compiled"}
    found = merge([tasks.gram_rows(task) for task in work])
    by_blas = merge([tasks.gram_rows(replace(task, kernel="vectors")) for task in work])
    for name in ("add_gram", "add_products", "add_squares"):
        monkeypatch.setattr(kernels, name, getattr(twin, name))
    expected = merge([tasks.gram_rows(task) for task in work])
    assert np.isfinite(found.rows).all()
    np.testing.assert_array_equal(found.rows, expected.rows)
    assert found.matrices is not None
    np.testing.assert_array_equal(found.matrices, expected.matrices)
    np.testing.assert_allclose(found.rows, by_blas.rows, rtol=1e-12)
    assert found.rounding_energy == pytest.approx(by_blas.rounding_energy, rel=1e-12)
