"""What a file is, in a person's words: format, completeness, counters, tensors by role, and what would be extrapolated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rna_watch.checkpoints.extents import Layout, Role
from rna_watch.checkpoints.probe import probe
from rna_watch.errors import IncompleteCheckpoint, RefusedCheckpoint, UsageError

if TYPE_CHECKING:
    from pathlib import Path

_SHOWN = 3
_WORDS = {
    Role.PARAMETER: "parameters, extrapolated",
    Role.STATISTIC: "normalization statistics, combined with the same weights",
    Role.VARIANCE: "running variances, combined and kept from going below zero",
    Role.COPIED: "integers and flags, copied from the newest checkpoint",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """A layout, described."""

    layout: Layout

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        layout = self.layout
        return {
            "path": layout.path,
            "format": layout.format,
            "size_bytes": layout.size_bytes,
            "source": layout.source,
            "counters": layout.counters,
            "parameters": layout.parameters,
            "fingerprint": layout.fingerprint,
            "architecture": layout.architecture,
            "tensors": [
                {
                    "name": view.name,
                    "dtype": view.dtype,
                    "shape": list(view.shape),
                    "role": str(layout.extents[view.extent].role),
                    "tied_to": layout.extents[view.extent].name
                    if layout.extents[view.extent].name != view.name
                    else None,
                }
                for view in layout.tensors
            ],
        }

    def lines(self) -> list[str]:
        """For a person."""
        layout = self.layout
        counters = ", ".join(f"{kind} {value}" for kind, value in layout.counters.items())
        where = f"under {layout.source!r}" if layout.source else "at the top"
        lines = [
            f"{layout.path}: complete",
            f"format      {layout.format}, {layout.size_bytes / 1e6:,.1f} MB",
            f"model       {where}, {len(layout.tensors)} tensors, {layout.parameters:,} parameters (tied ones once)",
            f"inside      {counters or 'no step or epoch'}",
        ]
        for role, words in _WORDS.items():
            extents = [extent for extent in layout.extents if extent.role is role]
            if extents:
                dtypes = ", ".join(sorted({extent.dtype for extent in extents}))
                count = sum(extent.count for extent in extents)
                lines.append(f"{role:<11} {len(extents)} tensors, {count:,} values ({dtypes}): {words}")
        tied = [view for view in layout.tensors if layout.extents[view.extent].name != view.name]
        if tied:
            shown = ", ".join(f"{view.name} = {layout.extents[view.extent].name}" for view in tied[:_SHOWN])
            more = ", ..." if len(tied) > _SHOWN else ""
            lines.append(f"{'tied':<11} {len(tied)} tensors share storage ({shown}{more})")
        return lines


def inspect(path: Path, source: str | None = None) -> Inspection:
    """Look at a file.

    Raises:
        UsageError: it does not exist.
        IncompleteCheckpoint, RefusedCheckpoint: it cannot be used, and why.
    """
    try:
        return Inspection(layout=probe(str(path), source))
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist") from error
    except IncompleteCheckpoint as error:
        raise IncompleteCheckpoint(f"{path} is not complete: {error}") from error
    except RefusedCheckpoint as error:
        raise RefusedCheckpoint(f"{path} cannot be used: {error}") from error
