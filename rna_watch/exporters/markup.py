"""HTML and SVG that are well formed, and in which nothing from outside is obeyed: text is escaped where an element is made."""

from __future__ import annotations

import html


class Markup(str):
    """Text that is markup by now; every other string is escaped."""

    __slots__ = ()


_VOID = frozenset({"meta", "br"})
_KEPT = frozenset("\n")


def text(content: str) -> Markup:
    """A string as it is to be read; what would not be seen, or would turn the text around it, is replaced."""
    shown = "".join(c if c.isprintable() or c in _KEPT else "\N{REPLACEMENT CHARACTER}" for c in content)
    return Markup(html.escape(shown))


def join(*parts: str | None) -> Markup:
    """Several pieces one after the other; None is left out."""
    return Markup("".join(part if isinstance(part, Markup) else text(part) for part in parts if part is not None))


def tag(name: str, /, *children: str | None, **attributes: str | float | None) -> Markup:
    """An element.

    Args:
        name: of the element; it is never from outside.
        children: what is in it; None is left out.
        attributes: `class_` stands for class, `stroke_width` for stroke-width; None is left out.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(_written(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{given}>")
    return Markup(f"<{name}{given}>{join(*children)}</{name}>")


def _written(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")
