"""The style sheet of a page: light and dark, wide and narrow, on paper; colours that every kind of colour vision tells apart."""

from __future__ import annotations

# Okabe and Ito's colours, and lighter ones of the same hues on dark; line styles tell curves apart in grey
_LIGHT = {
    "back": "#ffffff",
    "front": "#1b1e22",
    "soft": "#59626d",
    "line": "#dfe3e8",
    "card": "#f5f7f9",
    "original": "#7a7f86",
    "average": "#0072b2",
    "rna": "#d55e00",
    "layered": "#00845f",
    "anneal": "#b0578f",
    "trained": "#8a6d00",
    "other": "#2b8cc4",
    "good": "#00694c",
    "plus": "#d55e00",
    "minus": "#0072b2",
}
_DARK = {
    "back": "#14171b",
    "front": "#e7e9ec",
    "soft": "#a4adb8",
    "line": "#2d333b",
    "card": "#1c2127",
    "original": "#9aa1aa",
    "average": "#56b4e9",
    "rna": "#f5893d",
    "layered": "#3ccb9e",
    "anneal": "#de9cc6",
    "trained": "#e0c04c",
    "other": "#8ec9ee",
    "good": "#5fd6ad",
    "plus": "#f5893d",
    "minus": "#56b4e9",
}
_DASHES = {"rna": "7 3", "layered": "10 2 2 2", "anneal": "2 3", "trained": "4 4", "other": "1 4"}
WIDE, NARROW = "wide", "narrow"  # of two pictures of one thing, the one that the screen has room for is shown
CURVES = ("original", "average", "rna", "layered", "anneal", "trained", "other")

_RULES = """
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--front);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:62rem;margin:0 auto;padding:1.5rem 1rem 4rem}
h1{font-size:1.6rem;margin:0;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:2.6rem 0 .5rem;padding-top:.7rem;border-top:1px solid var(--line);overflow-wrap:anywhere}
h3{font-size:1rem;margin:1.4rem 0 .3rem}
p{margin:.4rem 0;overflow-wrap:anywhere}
.soft,figcaption,.key{color:var(--soft);font-size:.875rem}
.lead{font-size:1.35rem;line-height:1.35;font-weight:600;margin:1.2rem 0 .8rem}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(10.5rem,1fr));gap:.7rem;margin:.8rem 0}
.card{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.6rem .8rem;overflow-wrap:anywhere}
.card b{display:block;font-size:1.3rem;line-height:1.3;font-variant-numeric:tabular-nums}
.card span{color:var(--soft);font-size:.85rem}
pre{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.7rem .9rem;overflow-x:auto;font-size:.85rem}
code{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
figure{margin:.6rem 0 1.2rem}
svg{display:block;width:100%;height:auto}
svg text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:var(--soft)}
svg text.end{text-anchor:end}svg text.middle{text-anchor:middle}svg text.best{fill:var(--front);font-weight:600}
.narrow{display:none}
.grid{stroke:var(--line)}.axis{stroke:var(--soft)}
.line{fill:none;stroke-width:1.8;stroke-linejoin:round}.line.original{stroke-width:1.5}
.many .line{stroke-width:1.2}.many .taken{stroke-width:.8}
.dot{fill:none;stroke-width:4;stroke-linecap:round}
.beyond{stroke:none}.hints rect{fill:transparent}.hints rect:hover{fill:var(--front);fill-opacity:.07}
.taken{fill:none;stroke:var(--front);stroke-width:1.2}.saved{fill:var(--front);stroke:var(--back);stroke-width:1}
.best-line{stroke:var(--front);stroke-dasharray:1 3}
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1rem;margin:.2rem 0;padding:0;list-style:none;font-size:.875rem}
.legend svg{display:inline-block;width:30px;height:12px;margin-right:.35rem;vertical-align:-1px}
.small{display:grid;grid-template-columns:repeat(auto-fill,minmax(17rem,1fr));gap:.5rem 1.2rem}
.cell.plus{fill:var(--plus)}.cell.minus{fill:var(--minus)}.cell.zero{fill:var(--card)}.cell.none{fill:var(--line)}
.swatch{display:inline-block;width:1.3rem;height:.8rem;vertical-align:-.05rem}
.swatch.plus{background:var(--plus)}.swatch.minus{background:var(--minus)}.swatch.zero{background:var(--card)}
.swatch.none{background:var(--line)}
.scroll{overflow-x:auto;margin:.5rem 0}
table{border-collapse:collapse;font-size:.875rem;font-variant-numeric:tabular-nums}
th,td{padding:.22rem .7rem .22rem 0;text-align:right;vertical-align:top;white-space:nowrap;border-bottom:1px solid var(--line)}
th{font-weight:600;color:var(--soft)}th.left,td.left{text-align:left}
td.words{text-align:left;white-space:normal;min-width:14rem;overflow-wrap:anywhere}
td.name{text-align:left;white-space:normal;min-width:7rem;overflow-wrap:anywhere}
td.top{font-weight:700;color:var(--good)}
ul.findings{padding-left:1.1rem}ul.findings li{margin:.35rem 0;overflow-wrap:anywhere}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem;font-size:.9rem}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
summary{cursor:pointer;color:var(--soft);font-size:.9rem}
@media (max-width:640px){.wide{display:none}.narrow{display:block}.lead{font-size:1.15rem}h1{font-size:1.3rem}
dl{grid-template-columns:1fr}dd{margin-bottom:.4rem}}
@media print{body{font-size:11pt}main{max-width:none;padding:0}.scroll{overflow:visible}.hints{display:none}
figure,.card,pre,tr{break-inside:avoid}h2,h3{break-after:avoid}pre{white-space:pre-wrap;overflow-wrap:anywhere}
td{white-space:normal;overflow-wrap:anywhere}details::details-content{content-visibility:visible;block-size:auto}}
"""


def sheet() -> str:
    """The whole style sheet."""

    def root(colours: dict[str, str]) -> str:
        return ":root{" + "".join(f"--{name}:{colour};" for name, colour in colours.items()) + "}"

    curves = "".join(
        f".line.{name},.dot.{name}{{stroke:var(--{name})}}.beyond.{name}{{fill:var(--{name})}}"
        + (f".line.{name}{{stroke-dasharray:{_DASHES[name]}}}" if name in _DASHES else "")
        for name in CURVES
    )
    shades = "".join(f".cell.d{k}{{fill-opacity:{k / 10:g}}}.swatch.d{k}{{opacity:{k / 10:g}}}" for k in range(1, 11))
    paper = f"@media print{{{root(_LIGHT)}*{{-webkit-print-color-adjust:exact;print-color-adjust:exact}}}}"
    dark = f"@media (prefers-color-scheme:dark){{{root(_DARK)}}}"
    return f":root{{color-scheme:light dark}}{root(_LIGHT)}{dark}{_RULES}{curves}{shades}{paper}"
