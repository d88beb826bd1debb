"""A picture of a frame: the dashboard as an SVG file, for pages and reports."""

from __future__ import annotations

import html
import io
import re
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console
from rich.terminal_theme import TerminalTheme

from rna_watch.dashboard.view import render
from rna_watch.journal.quantities import plain

if TYPE_CHECKING:
    from rna_watch.journal.replay import RunState
    from rna_watch.journal.standing import Standing
    from rna_watch.journal.status import Status

# Rich's own template without its fonts from a content network: a picture should look the same without one.
_FORMAT = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
    <style>
    .{unique_id}-matrix {{
        font-family: "DejaVu Sans Mono", "Fira Code", Menlo, Consolas, monospace;
        font-size: {char_height}px;
        line-height: {line_height}px;
    }}
    .{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
    {styles}
    </style>
    {chrome}
    <g transform="translate({terminal_x}, {terminal_y})" class="{unique_id}-matrix">
    {matrix}
    </g>
</svg>
"""


_CELL_WIDTH = 12.2
_CELL_HEIGHT = 24.4
_BASELINE = 18.5
_TEXT = re.compile(r'<text class="(rna-watch-r\d+)" x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]*)</text>')
# The share of the cell that a glyph fills: its top and its bottom.
_BLOCKS = {char: (1 - (index + 1) / 8, 1.0) for index, char in enumerate("▁▂▃▄▅▆▇█")} | {
    "─": (0.48, 0.52),
    "━": (0.44, 0.56),
    "╸": (0.44, 0.56),
}
_RUNS = re.compile(rf"([{''.join(_BLOCKS)}])\1*|[^\s{''.join(_BLOCKS)}]+(?:\s[^\s{''.join(_BLOCKS)}]+)*")
_THEME = TerminalTheme(
    (27, 29, 35),
    (215, 218, 224),
    [
        (40, 44, 52),
        (232, 104, 113),
        (132, 190, 108),
        (222, 176, 92),
        (97, 175, 239),
        (203, 130, 226),
        (86, 190, 205),
        (215, 218, 224),
    ],
)


def svg(
    state: RunState,
    status: Status,
    *,
    now: float,
    width: int,
    height: int | None = None,
    best: Standing | None = None,
) -> str:
    """The frame as one self-contained SVG document; it loads nothing, not even a font.

    Args:
        state: what the journal adds up to.
        status: whether the run is watched, and the work at hand.
        now: seconds since 1970.
        width: columns of text.
        height: lines of text; None: as many as suit the content.
        best: as in `render`.
    """
    console = Console(
        file=io.StringIO(),
        record=True,
        width=width,
        force_terminal=True,
        color_system="truecolor",
        legacy_windows=False,
    )
    console.print(render(state, status, now=now, width=width, height=height, best=best))
    title = f"rna-watch dashboard {plain(state.started.run)}" if state.started else "rna-watch dashboard"
    picture = console.export_svg(title=title, theme=_THEME, code_format=_FORMAT, unique_id="rna-watch")
    return _TEXT.sub(_in_cells, picture)


def _in_cells(match: re.Match[str]) -> str:
    """Rich's text as words at their cells and bars as rectangles, so that they line up in any font without gaps."""
    style, left, baseline, content = match[1], float(match[2]), float(match[3]), html.unescape(match[4])
    top = baseline - _BASELINE
    parts = []
    for run in _RUNS.finditer(content):
        x = left + cell_len(content[: run.start()]) * _CELL_WIDTH
        width = cell_len(run[0]) * _CELL_WIDTH
        if run[1]:
            high, low = _BLOCKS[run[1]]
            # The glyph that ends a progress bar at an odd half fills half a cell.
            width -= _CELL_WIDTH / 2 if run[1] == "╸" else 0
            parts.append(
                f'<rect class="{style}" x="{x:.1f}" y="{top + high * _CELL_HEIGHT:.2f}" '
                f'width="{width:.1f}" height="{(low - high) * _CELL_HEIGHT:.2f}" shape-rendering="crispEdges"/>'
            )
        else:
            words = html.escape(run[0]).replace("\xa0", "&#160;")
            parts.append(
                f'<text class="{style}" x="{x:.1f}" y="{baseline:g}" textLength="{width:.1f}" '
                f'lengthAdjust="spacingAndGlyphs">{words}</text>'
            )
    return "\n".join(parts)
