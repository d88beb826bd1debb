"""Buffers that hold infinities on purpose, such as a mask of attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tests.daemon.runs import events, model_of, rna_watch

if TYPE_CHECKING:
    from pathlib import Path


def save(folder: Path, count: int, mask: torch.Tensor) -> torch.Tensor:
    """Checkpoints with moving weights and a mask; returns the newest weights."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(60, generator=generator)
    for step in range(1, count + 1):
        weight = weight + 0.1 * torch.randn(60, generator=generator)
        statistics = torch.tensor([float("inf"), float(step)])
        torch.save(
            {"weight": weight.clone(), "mask": mask, "norm.running_mean": statistics}, folder / f"step_{step}.pt"
        )
    return weight


def test_infinities_that_never_change_are_constants(tmp_path: Path) -> None:
    """A mask of -inf takes no part in the residuals, comes out bitwise as it was, and the rest is combined; `verify` agrees."""
    mask = torch.full((4, 4), float("-inf")).triu(1)
    save(tmp_path, 5, mask)
    result = rna_watch("once", tmp_path, "--engine", "local")
    assert result.returncode == 0, result.stderr
    assert not events(tmp_path, "skipped")
    model = model_of(tmp_path / "rna" / "step_5.pt")
    assert torch.equal(model["mask"], mask)
    assert torch.isfinite(model["weight"]).all()
    assert model["norm.running_mean"][0] == float("inf")
    assert torch.isfinite(model["norm.running_mean"][1])
    assert not torch.equal(model["weight"], model_of(tmp_path / "step_5.pt")["weight"])
    assert rna_watch("verify", tmp_path).returncode == 0


def test_nan_and_new_infinities_are_never_constants(tmp_path: Path) -> None:
    """Weights that became NaN or infinite are left out, also where they stay so."""
    mask = torch.full((4, 4), float("-inf")).triu(1)
    weight = save(tmp_path, 4, mask)
    for step, value in ((5, float("inf")), (6, float("nan")), (7, float("nan"))):
        statistics = torch.tensor([float("inf"), float(step)])
        torch.save(
            {"weight": weight * value, "mask": mask, "norm.running_mean": statistics}, tmp_path / f"step_{step}.pt"
        )
    result = rna_watch("once", tmp_path, "--engine", "local")
    assert result.returncode == 0, result.stderr
    assert [event.checkpoint for event in events(tmp_path, "skipped")] == ["step_5.pt", "step_6.pt", "step_7.pt"]
