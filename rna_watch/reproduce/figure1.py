"""Figure 1: l2-regularized logistic regression on Madelon at several condition numbers.

Keys of the results: `optimum-K` for condition number K, then one curve for each method, as `curves.curve` makes it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from rna_watch.errors import UsageError
from rna_watch.reproduce import figure1_plot, figure1_tables
from rna_watch.reproduce.curves import LOWEST, curve
from rna_watch.reproduce.descent import FIRST_STEP, Method, descend
from rna_watch.reproduce.experiment import Part, Plan, Settings
from rna_watch.reproduce.lbfgs import lbfgs
from rna_watch.reproduce.logistic import Logistic, relative
from rna_watch.reproduce.madelon import load, standardized

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

LIBRARIES = ("scipy",)
REGULARIZATION = 1e-8
# most iterations, by condition number: the gradient method runs to the end at 1e3, Nesterov's at 1e5, so that slopes show
_MOST = {1e3: 6000, 1e5: 4000, 1e7: 2000}
_MOST_QUICK = 600
_MISSPECIFIED = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
_MOMENTA = (0.0, 0.5, 0.9, 0.99)
_FIRST_STEPS = (0.1, 1.0, 16.0, 100.0)
_ROBUST_N = 20
_MOST_ROBUST, _MOST_ROBUST_QUICK = 2000, 300


def plan(settings: Settings) -> Plan:
    """All curves of the figure, then the runs with wrong constants.

    Raises:
        UsageError: no folder of data is given, or Madelon is not in it.
    """
    if settings.data is None:
        raise UsageError("figure1 needs Madelon: name the folder of its files with --data (or $RNA_WATCH_DATA)")
    data = load(settings.data)
    most = {1e3: _MOST_QUICK} if settings.quick else _MOST
    conditions = tuple(most)
    windows = (5, 20) if settings.quick else (5, 10, 20)

    @lru_cache(maxsize=1)
    def problem(condition: float) -> Logistic:
        return Logistic(standardized(data.features_nd), data.labels_n, condition)

    parts: list[Part] = []
    for condition in conditions:
        parts.extend(_curves(problem, condition, windows, most[condition]))
    parts.extend(_robustness(problem, conditions[0], quick=settings.quick))
    examples, features = data.features_nd.shape
    return Plan(
        parts=tuple(parts),
        settings={
            "quick": settings.quick,
            "data": data.digest,
            "examples": examples,
            "features": features,
            "conditions": list(conditions),
            "windows": list(windows),
            "regularization": REGULARIZATION,
            "lbfgs_memories": list(figure1_tables.MEMORIES),
            "first_step": FIRST_STEP,
            "most_iterations": list(most.values()),
            "most_robust": _MOST_ROBUST_QUICK if settings.quick else _MOST_ROBUST,
        },
        seeds=(),
        tables=lambda results: figure1_tables.tables(results, conditions, windows),
        draw=lambda results: figure1_plot.draw(results, conditions),
    )


def methods(windows: tuple[int, ...]) -> Iterator[tuple[str, Method]]:
    """Every method of the figure except L-BFGS, with its key."""
    bases: tuple[Literal["gradient", "nesterov"], ...] = ("gradient", "nesterov")
    for base in bases:
        yield base, Method(base=base)
        for n in windows:
            for online in (False, True):
                method = Method(base=base, n=n, online=online, regularization=REGULARIZATION)
                yield f"{base}-{'online' if online else 'offline'}-{n}", method
    for n in windows:
        method = Method(base="gradient", n=n, online=True, regularization=REGULARIZATION, first_step=None)
        yield f"gradient-fixed-{n}", method


def _curves(
    problem: Callable[[float], Logistic], condition: float, windows: tuple[int, ...], most: int
) -> Iterator[Part]:
    name = figure1_tables.short(condition)

    def optimum(_: Mapping[str, Any]) -> dict[str, float]:
        p = problem(condition)
        loss, slope = p.minimum()
        return {"loss": loss, "gradient_norm": slope, "smoothness": p.smoothness, "strong_convexity": p.mu}

    def reference(memory: int) -> Callable[[Mapping[str, Any]], Any]:
        def runs(done: Mapping[str, Any]) -> dict[str, Any]:
            best = done[f"optimum-{name}"]["loss"]
            found = lbfgs(
                problem(condition), memory=memory, most=most, ended=lambda loss: relative(loss, best) <= LOWEST
            )
            return curve(iter(found), best, most)

        return runs

    def run(method: Method) -> Callable[[Mapping[str, Any]], Any]:
        return lambda done: curve(descend(problem(condition), method), done[f"optimum-{name}"]["loss"], most)

    yield Part(key=f"optimum-{name}", run=optimum)
    for memory in figure1_tables.MEMORIES:
        yield Part(key=f"lbfgs-{memory}-{name}", run=reference(memory))
    for key, method in methods(windows):
        yield Part(key=f"{key}-{name}", run=run(method))


def _robustness(problem: Callable[[float], Logistic], condition: float, *, quick: bool) -> Iterator[Part]:
    """Nesterov with a wrong strong-convexity constant or some momentum, and backtracking from several first steps."""
    name = figure1_tables.short(condition)
    most = _MOST_ROBUST_QUICK if quick else _MOST_ROBUST

    def run(wrong: dict[str, Any]) -> Callable[[Mapping[str, Any]], Any]:
        def runs(done: Mapping[str, Any]) -> dict[str, Any]:
            p, best = problem(condition), done[f"optimum-{name}"]["loss"]
            values = dict(wrong)
            if "factor" in values:
                values["strong_convexity"] = values.pop("factor") * p.mu
            found = {}
            for kind, n in (("plain", 0), ("offline", _ROBUST_N), ("online", _ROBUST_N)):
                method = replace(Method(base="nesterov", n=n, online=kind == "online"), **values)
                found[kind] = curve(descend(p, method), best, most, lowest=1e-6)["reached"]
            return found

        return runs

    for factor in _MISSPECIFIED[1:5:3] if quick else _MISSPECIFIED:
        yield Part(key=f"robust-convexity-{factor:g}", run=run({"factor": factor}))
    for momentum in _MOMENTA[1:3] if quick else _MOMENTA:
        yield Part(key=f"robust-momentum-{momentum:g}", run=run({"momentum": momentum}))
    for step in _FIRST_STEPS[:2] if quick else _FIRST_STEPS:
        yield Part(key=f"robust-step-{step:g}", run=run({"base": "gradient", "first_step": step}))
