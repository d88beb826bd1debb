"""Figure 6: condition number of R'R and norm of c along a quadratic, with and without regularization."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rna_watch.acceleration.coefficients import norm_bound, solve, spectrum_of_factor
from rna_watch.acceleration.qr_factor import block_factor
from rna_watch.reproduce import style
from rna_watch.reproduce.experiment import Part, Plan, Settings
from rna_watch.reproduce.quadratics import rounded
from rna_watch.reproduce.tables import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rna_watch.reproduce.quadratics import Float64

_SEED = 0
_DIMENSION = 100
_CONDITION = 1e3
_WINDOW = 10
_NOISES = (0.0, 1e-3)
_REGULARIZATIONS = (0.0, 1e-8, 1e-4)
_STYLES = {0.0: (style.VERMILION, "-"), 1e-8: (style.BLUE, "-"), 1e-4: (style.GREEN, style.DASHED)}


def plan(settings: Settings) -> Plan:
    """Gradient descent with exact gradients, which is drawn, and with slightly noisy ones; offline RNA at every step."""
    steps = 60 if settings.quick else 300
    return Plan(
        parts=tuple(Part(key=f"noise-{noise:g}", run=_path(noise, steps)) for noise in _NOISES),
        settings={
            "quick": settings.quick,
            "steps": steps,
            "dimension": _DIMENSION,
            "condition": _CONDITION,
            "window": _WINDOW,
            "regularizations": list(_REGULARIZATIONS),
        },
        seeds=(_SEED,),
        tables=lambda results: [_table(results)],
        draw=_draw,
    )


def _path(noise: float, steps: int) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    return lambda _: path(noise, steps)


def path(noise: float, steps: int) -> dict[str, Any]:
    """The condition of the window's R'R and RNA's result along gradient descent with steps 1 / L on f = x'Hx / 2.

    R is formed in float64. `stored` is the distance if the iterates that c combines are rounded to float32, as those of
    networks are.

    Args:
        noise: length of the random error of each gradient, relative to the gradient.
        steps: number of steps.
    """
    rng = np.random.default_rng(_SEED)
    curvature_d = np.geomspace(1.0 / _CONDITION, 1.0, _DIMENSION)
    y_d = np.ones(_DIMENSION)
    xs: list[Float64] = []
    residuals: list[Float64] = []
    found: dict[str, Any] = {"step": [], "last": [], "of": {f"{value:g}": _empty() for value in _REGULARIZATIONS}}
    for k in range(1, steps + 1):
        gradient_d = curvature_d * y_d
        error_d = rng.standard_normal(_DIMENSION)
        gradient_d = gradient_d + noise * np.linalg.norm(gradient_d) / np.linalg.norm(error_d) * error_d
        residuals.append(-gradient_d)
        y_d = y_d - gradient_d
        xs.append(y_d)
        if k < _WINDOW:
            continue
        window_nd = np.array(residuals[-_WINDOW:])
        spectrum = spectrum_of_factor(block_factor(window_nd))
        found["step"].append(k)
        found["last"].append(rounded(float(np.linalg.norm(y_d)), 4))
        for value in _REGULARIZATIONS:
            solution = solve(spectrum, value)
            into = found["of"][f"{value:g}"]
            into["condition"].append(rounded((1.0 + value) / (max(float(spectrum.values[0]), 0.0) + value), 4))
            usable = not solution.status
            c = solution.coefficients
            into["norm"].append(rounded(float(np.linalg.norm(c)), 4) if usable else None)
            window_xs = np.array(xs[-_WINDOW:])
            into["distance"].append(rounded(float(np.linalg.norm(c @ window_xs)), 4) if usable else None)
            stored = window_xs.astype(np.float32).astype(np.float64)
            into["stored"].append(rounded(float(np.linalg.norm(c @ stored)), 4) if usable else None)
    return found


def _empty() -> dict[str, list[float | None]]:
    return {"condition": [], "norm": [], "distance": [], "stored": []}


def _table(results: Mapping[str, Any]) -> Table:
    rows = []
    common = []
    for noise in _NOISES:
        found = results[f"noise-{noise:g}"]
        solved = [None not in norms for norms in zip(*(of["norm"] for of in found["of"].values()), strict=True)]
        for value in _REGULARIZATIONS:
            of = found["of"][f"{value:g}"]
            unsolved = sum(height is None for height in of["norm"])
            cells = (
                f"noise {noise:g}, lambda {value:g}",
                _range(of["condition"]),
                _range(of["norm"]),
                f"{norm_bound(_WINDOW, value):.3g}",
                _gain(of["distance"], found["last"], solved),
                _gain(of["stored"], found["last"], solved),
                _gain(of["stored"], found["last"]),
                f"{unsolved} of {len(of['norm'])}",
            )
            rows.append(cells)
        common.append(f"noise {noise:g}: {sum(solved)} of {len(solved)}")
    return Table(
        title=(
            f"Figure 6: gradient descent on a quadratic (condition number {_CONDITION:g}, {_DIMENSION} dimensions), "
            f"window N = {_WINDOW}; smallest .. largest along the path"
        ),
        header=(
            "gradients, lambda",
            "condition of R'R / ||R'R|| + lambda I",
            "||c||_2",
            "bound",
            "distance",
            "distance, float32",
            "its own steps, float32",
            "not solvable",
        ),
        rows=tuple(rows),
        notes=(
            (
                "distance: ||x_extr - x*|| / ||x_N - x*||, median over the steps that every lambda could solve "
                f"({'; '.join(common)}), with iterates in float64 and stored in float32; below 1 extrapolation gains. its own "
                "steps: over all that this lambda could solve. not solvable: steps where R is singular in float64."
            ),
            (
                "Regularization bounds condition and norm. It does not come free: with iterates exact to float64 lambda = 0 "
                "gains most, as long as it can be solved. ||c||_2 is what independent errors of the iterates are multiplied by, "
                "so with float32 iterates lambda = 0 ends far off, and lambda = 1e-8 keeps its gain."
            ),
            (
                "Noise in the gradients themselves is no such error: it raises the small eigenvalues of R'R, and so limits c "
                "by itself."
            ),
            "Paper (Fig. 6): R'R is badly conditioned, and regularization keeps ||c|| small; no numbers are given there.",
        ),
    )


def _gain(distances: Sequence[float | None], last: Sequence[float], among: Sequence[bool] | None = None) -> str:
    """The median of the distance left, relative to the last iterate's, over the solved steps of `among` (None: all)."""
    steps = zip(distances, last, among or [True] * len(last), strict=True)
    ratios = [distance / other for distance, other, taken in steps if taken and distance is not None]
    return f"{np.median(ratios):.2g}" if ratios else "-"


def _range(values: Sequence[float | None]) -> str:
    numbers = [value for value in values if value is not None]
    return f"{min(numbers):.1e} .. {max(numbers):.1e}" if numbers else "-"


def _draw(results: Mapping[str, Any]) -> Any:
    found = results["noise-0"]
    made = style.figure(8.8, 6.2)
    panels = (
        ("condition", r"condition of $R'R/\|R'R\| + \lambda I$", "conditioning"),
        ("norm", r"$\|c\|_2$", "size of the coefficients"),
        ("distance", r"distance to $x^*$", "extrapolated point, iterates in float64"),
        ("stored", r"distance to $x^*$", "extrapolated point, iterates stored in float32"),
    )
    for axes, (key, label, title) in zip(made.subplots(2, 2, sharex=True).ravel(), panels, strict=True):
        for value in _REGULARIZATIONS:
            colour, dashes = _STYLES[value]
            heights = [np.nan if v is None else v for v in found["of"][f"{value:g}"][key]]
            axes.semilogy(
                found["step"], heights, color=colour, linestyle=dashes, linewidth=1.8, label=rf"$\lambda$ = {value:g}"
            )
        if key in {"distance", "stored"}:
            axes.semilogy(found["step"], found["last"], color=style.GREY, linewidth=1.5, label=r"last iterate $x_N$")
            axes.set_xlabel("gradient steps")
        if key == "distance":
            axes.set_ylim(1.0, 8.0)
            axes.set_yticks([1, 2, 3, 5, 8], ["1", "2", "3", "5", "8"])
            axes.minorticks_off()
        axes.set_ylabel(label)
        axes.set_title(title)
        style.grid(axes)
        if key == "norm":
            _mark_end(axes, found["step"], found["of"]["0"]["norm"])
    handles, labels = axes.get_legend_handles_labels()
    made.legend(handles, labels, loc="outside lower center", ncols=4)
    return made


def _mark_end(axes: Any, steps: Sequence[int], norms: Sequence[float | None]) -> None:
    """Mark the step where lambda = 0 ends, if it does."""
    solved = [(step, norm) for step, norm in zip(steps, norms, strict=True) if norm is not None]
    if len(solved) < len(steps):
        axes.annotate(
            "from here on R is singular\nin float64",
            solved[-1],
            xytext=(8, 0),
            textcoords="offset points",
            va="top",
            color=style.VERMILION,
        )
