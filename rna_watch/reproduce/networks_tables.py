"""The tables of networks: epochs to a level (the paper's Tables 2-4), errors by phase, smoothness; with the paper's numbers."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from rna_watch.reproduce.images.results import (
    BEST_AVERAGE,
    LAST,
    METHODS,
    ONLINE,
    Curve,
    curves,
    difference_of_coefficients,
    first_epoch,
    roughness,
    written,
)
from rna_watch.reproduce.tables import Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rna_watch.reproduce.images.spec import RunSpec

TOLERANCES = (5.0, 2.0, 1.0, 0.5, 0.2)
_NAMES = {"momentum": "momentum", "sgd": "SGD"}
_PHASES = (("early", 0.2), ("middle", 0.5), ("end", 1.0))
# paper: network -> method -> epochs to best + 5, 2, 1, 0.5, 0.2 % (Tables 2-4)
PAPER: dict[str, dict[str, tuple[int | None, ...]]] = {
    "resnet18": {
        "SGD": (68, 78, 82, 84, 86),
        "momentum": (59, 77, 82, 86, 97),
        "SGD + RNA": (21, 47, 67, 75, 84),
        "momentum + RNA": (16, 40, 59, 63, 85),
    },
    "vgg19": {
        "SGD": (69, 83, 84, 89, None),
        "momentum": (60, 82, 86, 87, 90),
        "SGD + RNA": (26, 52, 71, 73, 99),
        "momentum + RNA": (24, 45, 60, 62, 63),
    },
    "densenet121": {
        "SGD": (65, 80, 83, 87, 92),
        "momentum": (56, 78, 83, 86, 93),
        "SGD + RNA": (22, 45, 60, 80, 86),
        "momentum + RNA": (13, 38, 56, 66, 75),
    },
}
Runs = dict[tuple[str, int], dict[str, Curve]]


def tables(runs: Sequence[RunSpec], results: Mapping[str, Any]) -> list[Table]:
    """Two tables for every task of which something is finished, and one for the paper's networks that were not run."""
    made, ran = [], set()
    for name in dict.fromkeys((run.dataset, run.network) for run in runs):
        own = [run for run in runs if (run.dataset, run.network) == name]
        done = {
            (run.optimizer, run.seed): curves(results[run.key]) for run in own if run.key in results and not run.online
        }
        online = {
            (run.optimizer, run.seed): curves(results[run.key]) for run in own if run.key in results and run.online
        }
        missing = [run.key for run in own if run.key not in results]
        if done:
            ran.add(name)
            made += [
                _levels(own[0], done, online, missing),
                _errors(own[0], done, online, [results[run.key] for run in own if run.key in results]),
            ]
    absent = [network for network in PAPER if ("cifar10", network) not in ran]
    return [*made, _absent(absent)] if absent else made


def _rows(done: Runs, online: Runs) -> list[tuple[str, str, list[int]]]:
    """(optimizer, method, its seeds), optimizer by optimizer."""
    found = []
    for optimizer in dict.fromkeys(optimizer for optimizer, _ in done):
        seeds = [seed for name, seed in done if name == optimizer]
        present = [method for method in METHODS if all(method in done[optimizer, seed] for seed in seeds)]
        found += [(optimizer, method, seeds) for method in present]
        again = [seed for name, seed in online if name == optimizer]
        if again:
            found.append((optimizer, ONLINE, again))
    return found


def _curve(done: Runs, online: Runs, optimizer: str, method: str, seed: int) -> Curve:
    return (online if method == ONLINE else done)[optimizer, seed][method]


def _levels(task: RunSpec, done: Runs, online: Runs, missing: Sequence[str]) -> Table:
    """Epochs to the best last iterate of any optimizer + tolerance, and the speed-up over momentum's last iterate."""
    best = {seed: min(min(c[LAST]) for (_, s), c in done.items() if s == seed) for _, seed in done}
    reference = "momentum" if any(name == "momentum" for name, _ in done) else next(iter(done))[0]
    rows = []
    for optimizer, method, seeds in _rows(done, online):
        cells = []
        for tolerance in TOLERANCES:
            taken = {
                s: first_epoch(_curve(done, online, optimizer, method, s), best[s] + tolerance)
                for s in seeds
                if s in best
            }
            rival = {
                s: first_epoch(done[reference, s][LAST], best[s] + tolerance) for s in taken if (reference, s) in done
            }
            cells.append(_cell(taken, rival, plain=(optimizer, method) == (reference, LAST)))
        rows.append((f"{_NAMES.get(optimizer, optimizer)}: {METHODS[method]}", *cells))
    for method, epochs in PAPER.get(task.network, {}).items() if task.dataset == "cifar10" else ():
        rows.append((f"paper: {method}", *("never" if epoch is None else str(epoch) for epoch in epochs)))
    notes = [
        "best: the lowest test error of a last iterate at any epoch, of all optimizers, seed by seed.",
        f"In brackets the speed-up over the last iterate of {_NAMES.get(reference, reference)}, as in the paper.",
    ]
    if missing:
        notes.append(f"Not run: {', '.join(missing)}.")
    return Table(
        title=(
            f"{task.network} on {task.dataset}, {task.epochs} epochs: epochs to best + tolerance (mean over seeds "
            f"{', '.join(map(str, sorted(best)))})"
        ),
        header=("", *(f"+ {tolerance:g} %" for tolerance in TOLERANCES)),
        rows=tuple(rows),
        notes=tuple(notes),
    )


def _cell(taken: Mapping[int, int | None], rival: Mapping[int, int | None], *, plain: bool) -> str:
    reached = [epoch for epoch in taken.values() if epoch is not None]
    if not reached:
        return "never" if taken else "not run"
    mean = statistics.fmean(reached)
    text = f"{mean:.0f}" if mean == round(mean) else f"{mean:.1f}"
    if len(reached) < len(taken):
        return f"{text}, {len(taken) - len(reached)} of {len(taken)} never"
    others = [rival.get(seed) for seed in taken]
    known = [epoch for epoch in others if epoch is not None]
    if plain or len(known) < len(others):
        return text
    return f"{text} ({statistics.fmean(known) / mean:.2f})"


def _errors(task: RunSpec, done: Runs, online: Runs, results: Sequence[Mapping[str, Any]]) -> Table:
    """Test error at three moments, the difference to the best plain average, and how much the curve jumps."""
    at = {name: min(task.epochs, max(4, round(share * task.epochs))) for name, share in _PHASES}
    rows = []
    for optimizer, method, seeds in _rows(done, online):
        own = {seed: _curve(done, online, optimizer, method, seed) for seed in seeds}
        cells = []
        for epoch in at.values():
            cell = written([curve[epoch - 1] for curve in own.values()])
            rivals = {seed: done[optimizer, seed].get(BEST_AVERAGE) for seed in seeds if (optimizer, seed) in done}
            paired = [own[seed][epoch - 1] - rival[epoch - 1] for seed, rival in rivals.items() if rival]
            cells.append(f"{cell} [{written(paired, sign=True)}]" if paired and method != BEST_AVERAGE else cell)
        rough = written([roughness(curve) for curve in own.values()])
        rows.append((f"{_NAMES.get(optimizer, optimizer)}: {METHODS[method]}", *cells, rough))
    return Table(
        title=f"{task.network} on {task.dataset}: test error in percent (mean ± standard error over seeds)",
        header=("", *(f"{name} (epoch {epoch})" for name, epoch in at.items()), "jump"),
        rows=tuple(rows),
        notes=(
            "In square brackets the paired difference to the best plain average of the same run; negative is better.",
            (
                "`best` and `chosen` were picked on held-out images, never on test images; chosen is the original where no "
                "gain was beyond noise."
            ),
            "jump: mean change of the error from epoch to epoch, in points, after the first fifth (paper: RNA is smoother).",
            *_honest(done),
            *_agreement(results),
        ),
    )


def _honest(done: Runs) -> list[str]:
    """How often a plain average was at least as good as the best RNA, early and late."""
    counts = {"first half": [0, 0, 0], "second half": [0, 0, 0]}
    for found in done.values():
        if "rna" not in found or BEST_AVERAGE not in found:
            continue
        epochs = len(found[LAST])
        for i, (rna, average, last) in enumerate(zip(found["rna"], found[BEST_AVERAGE], found[LAST], strict=True)):
            part = counts["first half" if i < epochs / 2 else "second half"]
            if i >= 2:
                part[0] += 1
                part[1] += average <= rna
                part[2] += rna < last
    return [
        f"{name}: of {n} epochs (all runs) the best plain average was at least as good as the best RNA at {as_good}, and the "
        f"best RNA better than the last iterate at {better}."
        for name, (n, as_good, better) in counts.items()
        if n
    ]


def _agreement(results: Sequence[Mapping[str, Any]]) -> list[str]:
    found = [pair for result in results if (pair := difference_of_coefficients(result)) is not None]
    if not found:
        return []
    forms = sorted({form for result in results if "daemon" in result for form in result["daemon"]["residuals"]})
    return [
        (
            f"Coefficients of the training and of the daemon (residuals: {', '.join(forms)}) over {sum(n for n, _ in found)} "
            f"equal windows differ by at most {max(worst for _, worst in found):.1e}."
        )
    ]


def _absent(networks: Sequence[str]) -> Table:
    return Table(
        title="The paper's networks on CIFAR-10 that were not run here; its epochs to best + tolerance",
        header=("", *(f"+ {tolerance:g} %" for tolerance in TOLERANCES), "here"),
        rows=tuple(
            (f"{network}: {method}", *("never" if epoch is None else str(epoch) for epoch in epochs), "not run")
            for network in networks
            for method, epochs in PAPER[network].items()
        ),
        notes=("Paper: Tables 2-4. They need a GPU: configs/reproduce/networks-gpu.yaml.",),
    )
