"""Consolidation: a model whose weights lie in the shards of a partitioned optimizer becomes one safetensors file."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rna_watch.formats import registry, safetensors_file
from rna_watch.formats.format import WrittenAs
from rna_watch.publishing import safetensors_writer
from rna_watch.publishing.new_file import Rewriting

if TYPE_CHECKING:
    from rna_watch.layout.layout import Layout, TensorView

NAME = "model.safetensors"


def plan(layout: Layout) -> Rewriting:
    """The file to be made: each extent as a tensor under its first name; other names of it stand in the metadata.

    Raises:
        RefusedCheckpoint: safetensors has no such dtype.
    """
    first: dict[int, TensorView] = {}
    aliases = {}
    for view in layout.tensors:
        if view.extent in first:
            aliases[view.name] = first[view.extent].name
        else:
            first[view.extent] = view
    counters = {key: str(value) for key, value in layout.counters.items()}
    made = safetensors_writer.skeleton(
        {view.name: view for view in first.values()}, {"format": "pt"} | counters | aliases
    )
    return Rewriting(
        format=safetensors_file.FORMAT,
        name=NAME,
        skeleton=made,
        bases=tuple(made.offsets[first[number].name] for number in range(len(layout.extents))),
    )


def published(layout: Layout) -> Layout:
    """A layout as the model that is published of it has it: of several names for one tensor, the first."""
    if registry.written_as(layout) is not WrittenAs.SAFETENSORS:
        return layout
    first = {view.extent: view for view in reversed(layout.tensors)}
    return replace(layout, tensors=tuple(view for view in layout.tensors if first[view.extent] is view))
