"""Which tensors of a model are pairs of factors, as the trainers of LoRA name and shape them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from rna_watch.formats.probe import probe
from rna_watch.layout.factors import factors

if TYPE_CHECKING:
    from pathlib import Path

    from rna_watch.layout.factors import Factors


def _found(folder: Path, tensors: dict[str, torch.Tensor]) -> Factors:
    torch.save(tensors, folder / "model.pt")
    return factors(probe(str(folder / "model.pt")))


def _pair(a: str, b: str, down: tuple[int, ...] = (4, 12), up: tuple[int, ...] = (9, 4)) -> dict[str, torch.Tensor]:
    return {a: torch.ones(down), b: torch.ones(up), "head.weight": torch.ones(3, 3), "head.bias": torch.ones(3)}


@pytest.mark.parametrize(
    ("a", "b", "down", "up"),
    [
        ("base_model.model.q.lora_A.weight", "base_model.model.q.lora_B.weight", (4, 12), (9, 4)),  # PEFT
        ("q.lora_A.default.weight", "q.lora_B.default.weight", (4, 12), (9, 4)),  # PEFT's own state_dict
        ("embed.lora_embedding_A", "embed.lora_embedding_B", (4, 100), (9, 4)),
        ("conv.lora_A.weight", "conv.lora_B.weight", (4, 3, 3, 3), (9, 4, 1, 1)),
        ("q.lora_A", "q.lora_B", (4, 12), (9, 4)),  # loralib
        ("conv.lora_A", "conv.lora_B", (12, 9), (27, 12)),  # loralib's convolution of rank 4, kernel 3
        ("layers.0.q.lora_a.weight", "layers.0.q.lora_b.weight", (4, 12), (9, 4)),  # torchtune
        ("lora_unet_q.lora_down.weight", "lora_unet_q.lora_up.weight", (4, 12), (9, 4)),  # kohya
        ("unet.to_q_lora.down.weight", "unet.to_q_lora.up.weight", (4, 12), (9, 4)),  # diffusers
        ("unet.to_q.lora.down.weight", "unet.to_q.lora.up.weight", (4, 12), (9, 4)),
    ],
)
def test_pairs_are_known(tmp_path: Path, a: str, b: str, down: tuple[int, ...], up: tuple[int, ...]) -> None:
    """By the names of each library, if the shapes agree in a rank; other tensors are left alone."""
    found = _found(tmp_path, _pair(a, b, down, up))
    assert [(each.down.name, each.up.name, each.rank) for each in found.pairs] == [(a, b, down[0])]
    assert found.left == ()


def test_names_alone_make_no_pair(tmp_path: Path) -> None:
    """`down` and `up` of a U-Net are no factors; nor are vectors, such as the bias of a lora_B."""
    tensors = _pair("down.weight", "up.weight") | {"q.lora_B.bias": torch.ones(3)}
    assert _found(tmp_path, tensors) == factors(probe(str(tmp_path / "model.pt")))
    assert _found(tmp_path, tensors).pairs == ()
    assert _found(tmp_path, tensors).left == ()


def test_what_is_no_pair_is_said(tmp_path: Path) -> None:
    """A factor without its partner, without a rank in common (a grouped convolution), sharing storage, or with a third one."""
    alone = _pair("q.lora_A.weight", "other.weight")
    assert _found(tmp_path, alone).left == ("q.lora_A.weight has no partner q.lora_B.weight",)
    merged = _pair("q.lora_A", "q.lora_B", (8, 12), (18, 4))
    assert _found(tmp_path, merged).left == ("q.lora_A and q.lora_B have no rank in common ((8, 12) and (18, 4))",)
    wide = _pair("q.lora_A.weight", "q.lora_B.weight", (4, 12), (9, 4, 3, 3))
    assert "have no rank in common" in _found(tmp_path, wide).left[0]
    whole = torch.ones(8, 12)
    shared = {"q.lora_A": whole[:4], "k.lora_A": whole[2:6], "q.lora_B": torch.ones(9, 4), "k.lora_B": torch.ones(9, 4)}
    assert len(_found(tmp_path, shared).left) == 2
    assert "shares its storage" in _found(tmp_path, shared).left[0]
    tied = torch.ones(4, 12)
    twice = {"q.lora_A": tied, "k.lora_A": tied, "q.lora_B": torch.ones(9, 4), "k.lora_B": torch.ones(9, 4)}
    assert len(_found(tmp_path, twice).left) == 2
    third = _pair("q.lora_down.weight", "q.lora_up.weight") | {"q.lora_mid.weight": torch.ones(4, 4, 3, 3)}
    assert "third factor" in _found(tmp_path, third).left[0]
    whole_numbers = _pair("q.lora_A", "q.lora_B") | {"q.lora_A": torch.ones(4, 12, dtype=torch.int64)}
    assert "is not combined as a parameter" in _found(tmp_path, whole_numbers).left[0]


def test_one_pair_may_be_whole_where_another_is_not(tmp_path: Path) -> None:
    """Each stands for itself."""
    found = _found(tmp_path, _pair("q.lora_A", "q.lora_B") | {"k.lora_A": torch.ones(4, 12)})
    assert [each.down.name for each in found.pairs] == ["q.lora_A"]
    assert len(found.left) == 1


def test_a_factor_that_is_stored_transposed_is_one(tmp_path: Path) -> None:
    """Its elements lie side by side, in another order."""
    tensors = _pair("q.lora_A", "q.lora_B") | {"q.lora_A": torch.ones(12, 4).T}
    assert [each.down.stride for each in _found(tmp_path, tensors).pairs] == [(1, 4)]
