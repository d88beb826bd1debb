"""The methods: every way of combining a window, with its description and how its members are made.

`METHODS` is the one list. The settings' defaults and checks, the choices and help of the commands, the kinds of the
choice, the words of reports and the manual's table follow from it. Letters: N residuals, N + 1 checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rna_watch import acceleration

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from rna_watch.acceleration.coefficients import Solution, Spectrum

    Float64 = npt.NDArray[np.float64]

# what tells a member from its method's others of the same length and lambda: `shape`, `prior`, `mixing`, or a setting's name
Parameters = Mapping[str, str | float]

# kinds: weights that nothing was fitted to but, at most, which checkpoints are good; solutions of the paper's system, under
# constraints or without; what evaluations or gradients lead to; what is no combination: of factors' products, or a branch of
# the training
AVERAGES, SOLUTIONS, SEARCHED, PRODUCTS, TRAINING = "average", "solution", "searched", "product", "training"

LAST = "last"
AVERAGE, RNA, SOUP, LINE, TRAINED, LAYERED = "average", "rna", "soup", "line", "trained", "layered"
PRODUCT, ANNEAL = "product", "anneal"
UNIFORM = "uniform"
USUAL_DECAY = 0.7
# how a model's normalization statistics are made
CLAMPED, COMBINED, RE_ESTIMATED = "clamped", "combined", "re-estimated"
# what a solution tends to as lambda grows, of so many residuals and `Search.ema_decay`; None is uniform
PRIORS: dict[str, Callable[[int, float], Float64 | None]] = {
    UNIFORM: lambda _n, _decay: None,
    "ema": lambda n, decay: acceleration.fixed_weights.exponential(n, decay=decay),
    LAST: lambda n, _decay: acceleration.fixed_weights.last(n),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One way of combining a window.

    `kind` is its kind in comparisons of models, `words` its description for people. `settings` are those that it reads,
    besides `window`, `windows` and `regularizations`. `usual` says whether it is tried if `methods` is not set.

    `weights` makes the members of an average. It takes a length and the search, and returns parameters and weights of that
    many newest checkpoints, oldest first. `whole`: its only length is the window's, with the oldest checkpoint. `lengths`
    are tried besides the usual ones. `solve` makes the members of a solution. It takes R'R (N, N), its spectrum, lambda
    and the search, and returns parameters (a prior and a mixing, if they are not uniform and 1) and a solution. A method
    with neither is found by evaluations or gradients.
    """

    kind: str
    words: str
    settings: tuple[str, ...] = ()
    usual: bool = True
    weights: Callable[[int, Search], Sequence[tuple[Parameters, Float64]]] | None = None
    whole: bool = False
    lengths: tuple[int, ...] = ()
    solve: Callable[[Float64, Spectrum, float, Search], Sequence[tuple[Parameters, Solution]]] | None = None


def _rna(gram_nn: Float64, spectrum_: Spectrum, lambda_: float, search: Search) -> list[tuple[Parameters, Solution]]:
    made: list[tuple[Parameters, Solution]] = []
    for prior in search.priors:
        solution = acceleration.coefficients.solve(spectrum_, lambda_, PRIORS[prior](len(gram_nn), search.ema_decay))
        decay = {"ema_decay": search.ema_decay} if prior == "ema" else {}
        made += [({"prior": prior, "mixing": mixing, **decay}, solution) for mixing in search.mixings]
    return made


METHODS: dict[str, Method] = {
    AVERAGE: Method(
        kind=AVERAGES,
        words="uniform average of the newest checkpoints (LAWA)",
        weights=lambda length, _: [({}, acceleration.fixed_weights.uniform(length))],
        lengths=(3, 5, 10, 15),
    ),
    "ema": Method(
        kind=AVERAGES,
        words="exponential average of the newest checkpoints",
        settings=("ema_decays",),
        weights=lambda length, search: [
            ({"ema_decay": decay}, acceleration.fixed_weights.exponential(length, decay)) for decay in search.ema_decays
        ],
    ),
    "decay": Method(
        kind=AVERAGES,
        words="weights that stand for a 1-sqrt or cosine decay of the learning rate (WSM)",
        weights=lambda length, _: [  # a linear decay is the uniform average
            ({"shape": shape}, acceleration.fixed_weights.decay_profile(length, shape)) for shape in ("sqrt", "cosine")
        ],
    ),
    "cumulative": Method(
        kind=AVERAGES,
        words="uniform average of the whole window, its oldest checkpoint too (SWA as far as the window reaches)",
        weights=lambda length, _: [({}, acceleration.fixed_weights.uniform(length))],
        whole=True,
    ),
    SOUP: Method(
        kind=AVERAGES,
        words="greedy soup: checkpoints join the average, best first, while it gains",
        usual=False,
    ),
    RNA: Method(
        kind=SOLUTIONS,
        words="regularized nonlinear acceleration, Algorithm 1 of the paper",
        settings=("priors", "mixings", "ema_decays"),
        solve=_rna,
    ),
    "simplex": Method(
        kind=SOLUTIONS,
        words="RNA without negative weights",
        solve=lambda gram_nn, _spectrum, lambda_, _search: [({}, acceleration.constrained.simplex(gram_nn, lambda_))],
    ),
    "capped": Method(
        kind=SOLUTIONS,
        words="RNA with a cap on the l1 norm of c, on how far it may extrapolate",
        settings=("l1_cap",),
        solve=lambda gram_nn, _spectrum, lambda_, search: [
            ({"l1_cap": search.l1_cap}, acceleration.constrained.l1_capped(gram_nn, lambda_, search.l1_cap))
        ],
    ),
    LINE: Method(
        kind=SEARCHED,
        words="a search along the line from the newest checkpoint through the best solution",
        usual=False,
    ),
    TRAINED: Method(
        kind=SEARCHED,
        words="one row of weights fitted to training_loss of the evaluator's file",
        settings=("fit_memory",),
        usual=False,
    ),
    LAYERED: Method(
        kind=SEARCHED,
        words="a row of weights for each tensor, fitted to training_loss of the evaluator's file",
        settings=("fit_memory",),
    ),
    PRODUCT: Method(
        kind=PRODUCTS,
        words="LoRA: the best average and the best solution, of the products of the factors instead of the factors",
    ),
    ANNEAL: Method(
        kind=TRAINING,
        words="no combination but training: 60 steps of training_loss, at a rate that falls to 0",
        settings=("anneal_seconds", "fit_memory"),
        usual=False,
    ),
}
USUAL = tuple(name for name, method in METHODS.items() if method.usual)
# those whose members follow from the Gram matrix alone
COMPUTED = tuple(name for name, method in METHODS.items() if method.weights or method.solve)
# the methods that can combine one window by itself
ALONE = (*sorted(COMPUTED, key=lambda name: METHODS[name].kind != SOLUTIONS), LAST)
# the settings that tell the members of a method apart
MEMBER_SETTINGS = tuple(dict.fromkeys(name for method in COMPUTED for name in METHODS[method].settings))


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What the family spans; every field but `limit` is the setting of that name.

    `windows`: numbers of residuals (none: `window`, half of it, and the method's own `lengths`); `regularizations`:
    lambdas; `methods`: of `METHODS`; `priors`: of `PRIORS`; `mixings`: betas of step 4; `ema_decays`: a checkpoint's
    weight in an exponential average, relative to the next newer one's; `l1_cap`: the most that ||c||_1 may be in capped RNA;
    `limit`: most candidates to evaluate, besides the last iterate.
    """

    window: int = 5
    windows: tuple[int, ...] = ()
    regularizations: tuple[float, ...] = (1e-8,)
    methods: tuple[str, ...] = COMPUTED
    priors: tuple[str, ...] = (UNIFORM,)
    mixings: tuple[float, ...] = (1.0,)
    ema_decays: tuple[float, ...] = (0.5, USUAL_DECAY, 0.85)
    l1_cap: float = 2.0
    limit: int = 8

    @property
    def ema_decay(self) -> float:
        """The one that stands for all decays where one is needed: the middle one."""
        return self.ema_decays[len(self.ema_decays) // 2]


def kind_of(method: str) -> str | None:
    """The kind of a method; None for `LAST`, and for methods that are not known here."""
    return METHODS[method].kind if method in METHODS else None
