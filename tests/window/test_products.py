"""Products of factors as tasks: what is written, against the obvious twin in float64, on both engines' terms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from rna_watch.engine.local import LocalEngine
from rna_watch.errors import RefusedCheckpoint
from rna_watch.evaluation.materialize import on_device
from rna_watch.formats.probe import probe
from rna_watch.publishing import products
from rna_watch.window.combine import Combination
from rna_watch.window.tasks import run_all

if TYPE_CHECKING:
    from pathlib import Path

    from rna_watch.layout.layout import Layout
    from rna_watch.window.tasks import Run

WEIGHTS = (0.0, 0.7, -0.4, 0.7)
PAIRS = (("q.lora_A", "q.lora_B"), ("conv.lora_A.weight", "conv.lora_B.weight"))


def _window(folder: Path, dtype: torch.dtype = torch.float32) -> list[Layout]:
    generator = torch.Generator().manual_seed(0)

    def moving(*shape: int) -> list[torch.Tensor]:
        first = torch.randn(shape, generator=generator)
        return [(first + 0.3 * torch.randn(shape, generator=generator)).to(dtype) for _ in WEIGHTS]

    columns = {
        "q.lora_A": [each.T.contiguous().T for each in moving(3, 20)],  # by columns
        "q.lora_B": moving(31, 3),
        "conv.lora_A.weight": moving(2, 5, 3, 3),
        "conv.lora_B.weight": moving(7, 2, 1, 1),
        "q.bias": moving(31),
        "mask": [torch.full((4,), -torch.inf) for _ in WEIGHTS],
    }
    layouts = []
    for number in range(len(WEIGHTS)):
        path = folder / f"step_{number}.pt"
        torch.save({name: values[number] for name, values in columns.items()}, path)
        layouts.append(probe(str(path)))
    return layouts


def _made(layouts: list[Layout], folder: Path, run: Run = run_all) -> products.Made:
    recipe = Combination(layouts=tuple(layouts), weights=WEIGHTS)
    return products.make(recipe, "average-3", str(folder / "made.safetensors"), run)


@pytest.mark.parametrize(("dtype", "eps"), [(torch.float64, 1e-15), (torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_the_model_has_the_combined_products(tmp_path: Path, dtype: torch.dtype, eps: float) -> None:
    """Each pair's product is the truncated weighted sum of the whole ones; other tensors are combined, constants stay."""
    layouts = _window(tmp_path, dtype)
    made = _made(layouts, tmp_path)
    model = on_device(made.combination, "cpu")
    stored = [torch.load(layout.path) for layout in layouts]
    cross = size = 0.0
    for down, up in PAIRS:
        wholes = [each[up].double().flatten(1) @ each[down].double().flatten(1) for each in stored]
        whole = sum(w * each for w, each in zip(WEIGHTS, wholes, strict=True))
        left, values, right = torch.linalg.svd(whole, full_matrices=False)
        rank = stored[0][down].shape[0]
        best = left[:, :rank] * values[:rank] @ right[:rank]
        found = model[up].double().flatten(1) @ model[down].double().flatten(1)
        assert (found - best).norm() <= 4 * eps * best.norm()
        assert (model[up].dtype, model[down].shape) == (dtype, stored[0][down].shape)
        plain_up, plain_down = (
            sum(w * each[name].double() for w, each in zip(WEIGHTS, stored, strict=True)) for name in (up, down)
        )
        cross += float((plain_up.flatten(1) @ plain_down.flatten(1) - whole).norm() ** 2)
        size += float(whole.norm() ** 2)
    told = made.account["product"]
    assert told["cross_term"] == pytest.approx((cross / size) ** 0.5, rel=1e-9)
    assert (told["pairs"], told["ranks"], told["weights"]) == (2, [2, 3], list(WEIGHTS))
    assert told["tolerance"] <= 4 * eps + 1e-9
    plain = on_device(Combination(layouts=tuple(layouts), weights=WEIGHTS), "cpu")
    assert torch.equal(model["q.bias"], plain["q.bias"])
    assert torch.equal(model["mask"], stored[-1]["mask"])


def test_children_give_the_same_bits(tmp_path: Path) -> None:
    """The tasks are the same wherever they run: in this process, or in the engine's."""
    layouts = _window(tmp_path)
    here = _made(layouts, tmp_path).account
    engine = LocalEngine(2)
    try:
        assert _made(layouts, tmp_path, engine.map).account == here
    finally:
        engine.close()


def test_what_is_not_finite_in_its_dtype_is_refused(tmp_path: Path) -> None:
    """float16 ends at 65,504."""
    layouts = []
    for number in range(3):
        path = tmp_path / f"step_{number}.pt"
        large = {"q.lora_A": torch.full((1, 4), 6e4), "q.lora_B": torch.full((4, 1), 3e4 * number)}
        torch.save({name: each.to(torch.float16) for name, each in large.items()}, path)
        layouts.append(probe(str(path)))
    recipe = Combination(layouts=tuple(layouts), weights=(0.0, 0.5, 0.5))
    far = Combination(layouts=tuple(layouts), weights=(-200.0, 200.0, 1.0))
    assert products.make(recipe, "x", str(tmp_path / "made"), run_all).account["product"]["cross_term"] < 1e-12
    with pytest.raises(RefusedCheckpoint, match="is not finite"):
        products.make(far, "x", str(tmp_path / "made"), run_all)


def test_a_zero_product_is_said(tmp_path: Path) -> None:
    """Checkpoints from before the first step have no size that a cross-term could be compared with."""
    for number in range(3):
        torch.save({"q.lora_A": torch.ones(2, 4), "q.lora_B": torch.zeros(4, 2)}, tmp_path / f"step_{number}.pt")
    layouts = tuple(probe(str(tmp_path / f"step_{number}.pt")) for number in range(3))
    made = products.make(Combination(layouts=layouts, weights=(0.0, 0.5, 0.5)), "x", str(tmp_path / "made"), run_all)
    assert made.account["product"]["cross_term"] is None
    assert made.notes == ("the products of its factors are zero",)
    assert np.array_equal(on_device(made.combination, "cpu")["q.lora_A"], np.ones((2, 4)))
