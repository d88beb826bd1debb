"""Factor pairs: two tensors of a model whose product is what it adds to a weight (LoRA, Hu et al. 2021, arXiv 2106.09685).

Names propose a pair, shapes decide. PEFT, loralib, torchtune, kohya and diffusers name them differently and agree in the shapes:
A is `(r, in, ...)`, B is `(out, r)`, with further dimensions of one. loralib's convolutions are such matrices too.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from rna_watch.layout.blocks import is_dense
from rna_watch.layout.dtypes import DTYPES
from rna_watch.layout.layout import Role

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rna_watch.layout.layout import Layout, TensorView

_PARTNERS: dict[str, tuple[str, bool]] = {}  # of a part of a name: that of the other factor, and whether this one is A
for _a, _b in (
    ("lora_A", "lora_B"),
    ("lora_a", "lora_b"),
    ("lora_embedding_A", "lora_embedding_B"),
    ("lora_down", "lora_up"),
):
    _PARTNERS |= {_a: (_b, True), _b: (_a, False)}
_BELOW = {"down": ("up", True), "up": ("down", False)}  # of diffusers, below a part with lora in it
_BETWEEN = "lora_mid"  # a third factor


@dataclass(frozen=True, slots=True, kw_only=True)
class FactorPair:
    """B `up` `(out, rank)` and A `down` `(rank, in)`, which may have further dimensions; each alone in its extent."""

    up: TensorView
    down: TensorView
    rank: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """The pairs of a model, by name, and why other tensors with such names are none, a sentence each."""

    pairs: tuple[FactorPair, ...] = ()
    left: tuple[str, ...] = ()


def factors(layout: Layout) -> Factors:
    """The pairs of factors of a model."""
    named = {view.name: view for view in layout.tensors if len(view.shape) > 1}
    found = {name: partner for name in named if (partner := _partner(name)) is not None}
    alone = _alone(layout) if found else set()
    pairs, left = [], []
    for name, (other, is_down) in found.items():
        if other not in named:
            left.append(f"{name} has no partner {other}")
        elif is_down and (why := _obstacle(layout, named[other], named[name], alone, named)):
            left.append(why)
        elif is_down:
            pairs.append(FactorPair(up=named[other], down=named[name], rank=named[name].shape[0]))
    return Factors(pairs=tuple(sorted(pairs, key=lambda each: each.down.name)), left=tuple(left))


def _partner(name: str) -> tuple[str, bool] | None:
    """The name of the other factor, and whether this one is A; None if it is neither."""
    parts = name.split(".")
    for place, part in enumerate(parts):
        known = _PARTNERS | (_BELOW if place and "lora" in parts[place - 1].lower() else {})
        if part in known:
            other, is_down = known[part]
            return ".".join([*parts[:place], other, *parts[place + 1 :]]), is_down
    return None


def _alone(layout: Layout) -> set[str]:
    """The tensors that cover all of an extent that nothing shares, element by element."""
    owners: dict[int, int] = {}
    for view in layout.tensors:
        owners[view.extent] = owners.get(view.extent, 0) + 1
    return {
        view.name
        for view in layout.tensors
        if owners[view.extent] == 1
        and not view.blocks
        and is_dense(view.shape, view.stride)
        and layout.extents[view.extent].count == prod(view.shape)
    }


def _obstacle(
    layout: Layout, up: TensorView, down: TensorView, alone: set[str], named: Mapping[str, TensorView]
) -> str:
    """Why two tensors are no pair of factors ("" if they are)."""
    both = f"{down.name} and {up.name}"
    shapes = f"{down.shape} and {up.shape}"
    if up.shape[1] != down.shape[0] or any(size != 1 for size in up.shape[2:]):
        return f"{both} have no rank in common ({shapes})"
    for view in (down, up):
        extent = layout.extents[view.extent]
        if view.pairs or extent.role is not Role.PARAMETER or not DTYPES[view.dtype].linear:
            return f"{view.name} is not combined as a parameter"
        if view.name not in alone:
            return f"{view.name} shares its storage with other tensors, or lies in it with gaps"
    if "lora_down" in down.name and down.name.replace("lora_down", _BETWEEN) in named:
        return f"{both} have a third factor between them"
    return ""
