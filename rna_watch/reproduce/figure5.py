"""Figure 5: the geometric picture of RNA in two dimensions.

The gradients g_i at the iterates y_{i-1} are forces. RNA looks for masses c_i, of sum one, whose forces balance:
sum_i c_i g_i = 0. The extrapolated point is the centre of these masses, sum_i c_i y_{i-1}.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rna_watch.acceleration.coefficients import solve, spectrum_of_factor
from rna_watch.acceleration.qr_factor import block_factor
from rna_watch.reproduce import style
from rna_watch.reproduce.experiment import Part, Plan, Settings
from rna_watch.reproduce.quadratics import gradient_descent, linear
from rna_watch.reproduce.tables import Table

if TYPE_CHECKING:
    from collections.abc import Mapping

# f = (x - x*)' H (x - x*) / 2 in a turned frame, so that no axis is special; a step of 1.75 / L makes the iterates cross
_CURVATURE = np.array([1.0, 0.35])
_TURN = np.radians(25.0)
_LIMIT = np.array([0.0, 0.0])
_START = np.array([-2.6, 2.3])
_STEP = 1.75
_REGULARIZATION = 1e-8
_N = 3
_FORCE_SCALE = 0.6
# offsets of the iterates' labels, in points
_LABELS = ((6, 17), (20, 16), (-6, -26))


def plan(settings: Settings) -> Plan:
    """Three iterates, their forces and the point where they balance; there is no smaller version."""
    return Plan(
        parts=(Part(key="picture", run=lambda _: picture()),),
        settings={"quick": settings.quick, "regularization": _REGULARIZATION, "step": _STEP},
        seeds=(),
        tables=_tables,
        draw=_draw,
    )


def picture() -> dict[str, Any]:
    """Iterates y_i, gradients g_i, coefficients c_i and the extrapolated point, in two dimensions."""
    turn = np.array([[np.cos(_TURN), -np.sin(_TURN)], [np.sin(_TURN), np.cos(_TURN)]])
    step = linear(1.0 - _STEP * _CURVATURE, turn.T @ _LIMIT)
    _, turned = gradient_descent(step, turn.T @ _START, _N)
    iterates_nd = turned @ turn.T
    hessian = turn @ np.diag(_CURVATURE) @ turn.T
    gradients_nd = (iterates_nd - _LIMIT) @ hessian
    c = solve(spectrum_of_factor(block_factor(gradients_nd)), _REGULARIZATION).coefficients
    return {
        "iterates": iterates_nd.tolist(),
        "gradients": gradients_nd.tolist(),
        "c": c.tolist(),
        "extrapolated": (c @ iterates_nd).tolist(),
        "net_force": (c @ gradients_nd).tolist(),
        "hessian": hessian.tolist(),
    }


def _tables(results: Mapping[str, Any]) -> list[Table]:
    found = results["picture"]
    iterates, gradients, c = (np.array(found[key]) for key in ("iterates", "gradients", "c"))
    rows = [
        (f"y_{i}", _pair(iterates[i]), _pair(gradients[i]), f"{np.linalg.norm(gradients[i]):.3f}", f"{c[i]:+.3f}")
        for i in range(len(c))
    ]
    force = np.array(found["net_force"])
    rows.append(
        ("extrapolated", _pair(found["extrapolated"]), _pair(force), f"{np.linalg.norm(force):.1e}", f"{c.sum():.3f}")
    )
    return [
        Table(
            title=f"Figure 5: masses c that balance the gradients, lambda = {_REGULARIZATION:g}; the minimum is (0, 0)",
            header=("point", "position", "gradient", "its length", "mass c"),
            rows=tuple(rows),
            notes=(
                (
                    "On a quadratic the gradient at the centre of mass is the weighted sum of the gradients: forces in balance "
                    "are the minimum."
                ),
            ),
        )
    ]


def _pair(values: Any) -> str:
    return f"({values[0] + 0.0:.3f}, {values[1] + 0.0:.3f})"


def _draw(results: Mapping[str, Any]) -> Any:
    found = results["picture"]
    iterates, gradients, c = (np.array(found[key]) for key in ("iterates", "gradients", "c"))
    centre, hessian = np.array(found["extrapolated"]), np.array(found["hessian"])
    made = style.figure(9.6, 4.3)
    left, right = made.subplots(1, 2, width_ratios=(1.25, 1))
    xs, ys = np.meshgrid(np.linspace(-3.6, 2.6, 200), np.linspace(-1.6, 3.2, 200))
    points = np.stack([xs, ys], axis=-1) - _LIMIT
    heights = 0.5 * np.einsum("...i,ij,...j->...", points, hessian, points)
    left.contour(xs, ys, heights, levels=np.geomspace(0.02, 6, 9), colors="#cccccc", linewidths=0.8)
    left.plot(*iterates.T, color=style.GREY, linewidth=1.0, linestyle=style.DASHED)
    colours = (style.BLUE, style.GREEN, style.PURPLE)
    for i, (point, force, mass, colour) in enumerate(zip(iterates, gradients, c, colours, strict=True)):
        left.scatter(*point, s=60 + 420 * abs(mass), color=colour, alpha=0.85, zorder=3, linewidths=0)
        _arrow(left, point, point - _FORCE_SCALE * force, colour)
        left.annotate(
            rf"$y_{i}$, mass $c_{i + 1}$ = {mass:.2f}",
            point,
            xytext=_LABELS[i],
            textcoords="offset points",
            color=colour,
            ha="center",
        )
    left.scatter(*centre, marker="*", s=190, color=style.VERMILION, zorder=4, linewidths=0)
    left.annotate(
        r"$\sum_i c_i\,y_{i-1}$",
        centre,
        xytext=(10, -20),
        textcoords="offset points",
        color=style.VERMILION,
        ha="left",
    )
    left.set_title(f"iterates, forces $-g_i$ (drawn at {_FORCE_SCALE:g} of their length), centre of mass")
    at = np.zeros(2)
    corners = np.cumsum(-c[:, None] * gradients, axis=0)
    for i, (end, colour) in enumerate(zip(corners, colours, strict=True)):
        _arrow(right, at, end, colour)
        outward = (at + end) / 2 - corners.mean(axis=0)
        right.annotate(
            rf"$-c_{i + 1}\,g_{i + 1}$",
            (at + end) / 2,
            xytext=26 * outward / np.linalg.norm(outward),
            textcoords="offset points",
            color=colour,
            ha="center",
            va="center",
        )
        at = end
    right.plot(*corners.T, linewidth=0)
    right.scatter(0, 0, marker="*", s=150, color=style.VERMILION, zorder=4, linewidths=0)
    right.set_title("weighted forces, end to end: they balance")
    right.margins(0.25, 0.45)
    for axes, label in ((left, "x"), (right, "force")):
        axes.set_aspect("equal")
        axes.set_xlabel(f"{label}, first coordinate")
        axes.set_ylabel(f"{label}, second coordinate")
    return made


def _arrow(axes: Any, start: Any, end: Any, colour: str) -> None:
    axes.annotate(
        "",
        end,
        xytext=start,
        arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.8, "shrinkA": 0, "shrinkB": 0},
    )
