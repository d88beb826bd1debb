"""The tables of networks: epochs to a level (the paper's Tables 2-4), errors by phase, smoothness; with the paper's numbers."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from rna_watch.reproduce.images.results import (
    BEST_AVERAGE,
    BEST_RNA,
    CHOSEN,
    LAST,
    LOOP,
    ONLINE,
    UNIFORM,
    Row,
    Task,
    difference_of_coefficients,
    first_epoch,
    optimizer_name,
    rise,
    tasks,
    written,
)
from rna_watch.reproduce.tables import Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rna_watch.reproduce.images.spec import RunSpec

TOLERANCES = (5.0, 2.0, 1.0, 0.5, 0.2)
_SHORT = (LAST, LOOP, BEST_RNA, UNIFORM, BEST_AVERAGE, CHOSEN, ONLINE)
_SHORT_TOLERANCES = (2.0, 1.0, 0.5)
# an average and RNA of the same window; the last pair has a shorter average
_PAIRS = (
    ("average-5", "rna-5-1e-08"),
    ("average-10", "rna-10-1e-08"),
    ("ema-5", "rna-5-1e-08"),
    ("ema-10", "rna-10-1e-08"),
    ("average-3", "rna-5-1e-08"),
)
_FROM = 4
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


def tables(runs: Sequence[RunSpec], results: Mapping[str, Any]) -> list[Table]:
    """Two tables for every task with a finished run, and one for the paper's networks that were not run."""
    finished = tasks(runs, results)
    made = [table for task in finished for table in (_levels(task), _errors(task))]
    return [*made, *_absent(finished)]


def summary(runs: Sequence[RunSpec], results: Mapping[str, Any]) -> list[Table]:
    """A short table for every task with a finished run: the most telling methods, three levels, the last epoch."""
    made = []
    for task in tasks(runs, results):
        rows = []
        for row in task.rows():
            if row.method in _SHORT:
                levels = [_reached(task, row, tolerance) for tolerance in _SHORT_TOLERANCES]
                ends, rises = written([c[-1] for c in row.own.values()]), written([rise(c) for c in row.own.values()])
                rows.append((task.title(row), *levels, ends, rises))
        levels = [f"epochs to best + {t:g} %" for t in _SHORT_TOLERANCES]
        made.append(
            Table(
                title=f"{task.name}, {task.runs[0].epochs} epochs, {_seeds(task)}",
                header=("", *levels, "test error at the end, %", "rise"),
                rows=tuple(rows),
                notes=tuple(f"*Not run*: {key}." for key in task.missing),
            )
        )
    return made


def _seeds(task: Task) -> str:
    return f"seed{'s' * (len(task.seeds) != 1)} {', '.join(map(str, task.seeds))}"


def _reached(task: Task, row: Row, tolerance: float) -> str:
    """Epochs to the best + tolerance, mean over seeds, with the speed-up over the reference."""
    taken = [first_epoch(curve, task.best(seed) + tolerance) for seed, curve in row.own.items()]
    reached = [epoch for epoch in taken if epoch is not None]
    if not reached:
        return "never"
    mean = statistics.fmean(reached)
    text = f"{mean:.0f}" if mean == round(mean) else f"{mean:.1f}"
    if len(reached) < len(taken):
        return f"{text}, {len(taken) - len(reached)} of {len(taken)} never"
    rivals = [first_epoch(task.offline[task.reference, seed][LAST], task.best(seed) + tolerance) for seed in row.own]
    known = [epoch for epoch in rivals if epoch is not None]
    plain = (row.optimizer, row.method) == (task.reference, LAST)
    return text if plain or len(known) < len(rivals) else f"{text} ({statistics.fmean(known) / mean:.2f})"


def _levels(task: Task) -> Table:
    """Epochs to the best last iterate of any optimizer + tolerance, and the speed-up over the reference's last iterate."""
    run = task.runs[0]
    rows = [(task.title(row), *(_reached(task, row, tolerance) for tolerance in TOLERANCES)) for row in task.rows()]
    paper = PAPER.get(run.network, {}) if run.dataset == "cifar10" else {}
    rows += [(f"paper: {method}", *_paper(epochs)) for method, epochs in paper.items()]
    notes = [
        "best: the lowest test error of a last iterate at any epoch, of all optimizers, seed by seed.",
        f"In brackets the speed-up over the last iterate of {optimizer_name(task.reference)}, as in the paper.",
        f"Trained on {run.train_images or f'all but the {run.held_out} held-out'} training images.",
    ]
    if paper:
        notes.append("Paper: 100 epochs on all 50,000 training images; its best is that of its own runs.")
    if task.missing:
        notes.append(f"Not run: {', '.join(task.missing)}.")
    return Table(
        title=f"{task.name}, {run.epochs} epochs: epochs to best + tolerance (mean over {_seeds(task)})",
        header=("", *(f"+ {tolerance:g} %" for tolerance in TOLERANCES)),
        rows=tuple(rows),
        notes=tuple(notes),
    )


def _errors(task: Task) -> Table:
    """Test error at three moments, the difference to the best plain average, and how much the curve goes up again."""
    last = task.runs[0].epochs
    at = {name: min(last, max(4, round(share * last))) for name, share in _PHASES}
    rows = []
    for row in task.rows():
        cells = []
        for epoch in at.values():
            cell = written([curve[epoch - 1] for curve in row.own.values()])
            rivals = {seed: task.offline[row.optimizer, seed].get(BEST_AVERAGE) for seed in row.own}
            paired = [row.own[seed][epoch - 1] - rival[epoch - 1] for seed, rival in rivals.items() if rival]
            compared = paired and row.method not in {BEST_AVERAGE, ONLINE}
            cells.append(f"{cell} [{written(paired, sign=True)}]" if compared else cell)
        rows.append((task.title(row), *cells, written([rise(curve) for curve in row.own.values()])))
    seconds = sum(line["seconds"] for result in task.finished for line in result["curve"])
    devices = sorted({result["device"] for result in task.finished})
    return Table(
        title=f"{task.name}: test error in percent (mean ± standard error over {_seeds(task)})",
        header=("", *(f"{name} (epoch {epoch})" for name, epoch in at.items()), "rise"),
        rows=tuple(rows),
        notes=(
            "In square brackets the paired difference to the best plain average of the same run; negative is better.",
            (
                "`best` was picked on held-out images at every epoch, never on test images. chosen: what the daemon published, "
                "where it was better than the original on held-out images, else the original."
            ),
            (
                "rise: how far the error goes up again from one epoch to the next, in points, from epoch 7 on; 0 for a curve "
                "that only falls (paper: RNA is smoother)."
            ),
            *_honest(task),
            *_one_by_one(task),
            *_agreement(task),
            f"The trainings took {seconds:.0f} s in all on {', '.join(devices)}, with the daemon and more beside them.",
        ),
    )


def _honest(task: Task) -> list[str]:
    """How often a plain average was at least as good as the best RNA, early and late."""
    counts = {"first half": [0, 0, 0], "second half": [0, 0, 0]}
    for found in task.offline.values():
        if BEST_RNA not in found or BEST_AVERAGE not in found:
            continue
        epochs = len(found[LAST])
        triples = list(zip(found[BEST_RNA], found[BEST_AVERAGE], found[LAST], strict=True))
        for i, (rna, average, last) in enumerate(triples[2:], start=2):  # before, all three are the same model
            part = counts["first half" if i < epochs / 2 else "second half"]
            part[0] += 1
            part[1] += average <= rna
            part[2] += rna < last
    return [
        f"{name}: of {n} epochs (all runs) the best plain average was at least as good as the best RNA at {as_good}, and the "
        f"best RNA better than the last iterate at {better}."
        for name, (n, as_good, better) in counts.items()
        if n
    ]


def _one_by_one(task: Task) -> list[str]:
    """How often a recipe of averages was better than one of RNA: the best of several favours the side with more recipes."""
    found = []
    for average, rna in _PAIRS:
        halves = {True: [0, 0, 0], False: [0, 0, 0]}
        for daemon in (result["daemon"] for result in task.finished if "daemon" in result):
            ours, theirs = daemon["values"].get(rna, ()), daemon["values"].get(average, ())
            for epoch, one, other in zip(daemon["epochs"], ours, theirs, strict=False):
                if epoch >= _FROM and one is not None and other is not None:
                    halves[epoch <= task.runs[0].epochs / 2][(other >= one) + (other > one)] += 1
        counts = [sum(pair) for pair in zip(*halves.values(), strict=True)]
        if sum(counts):
            whole, early = (" / ".join(map(str, count)) for count in (counts, halves[True]))
            found.append(f"{average} against {rna} {whole} (first half {early})")
    if not found:
        return []
    return [
        (
            f"Recipe against recipe, epochs from {_FROM} on (all runs) at which the average was better / equal / RNA better: "
            f"{'; '.join(found)}."
        )
    ]


def _agreement(task: Task) -> list[str]:
    found = [pair for result in task.finished if (pair := difference_of_coefficients(result, task.runs[0])) is not None]
    if not found:
        return []
    forms = sorted({form for result in task.finished if "daemon" in result for form in result["daemon"]["residuals"]})
    return [
        (
            f"Coefficients of the training and of the daemon (residuals: {', '.join(forms)}) over {sum(n for n, _ in found)} "
            f"equal windows differ by at most {max(worst for _, worst in found):.1e}."
        )
    ]


def _paper(epochs: Sequence[int | None]) -> list[str]:
    return ["N/A" if epoch is None else str(epoch) for epoch in epochs]


def _absent(finished: Sequence[Task]) -> list[Table]:
    ran = {task.runs[0].network for task in finished if task.runs[0].dataset == "cifar10"}
    rows = [
        (f"{network}: {method}", *_paper(epochs), "not run")
        for network, methods in PAPER.items()
        if network not in ran
        for method, epochs in methods.items()
    ]
    if not rows:
        return []
    return [
        Table(
            title="The paper's networks on CIFAR-10 that were not run here; its epochs to best + tolerance",
            header=("", *(f"+ {tolerance:g} %" for tolerance in TOLERANCES), "here"),
            rows=tuple(rows),
            notes=("Paper: Tables 2-4. They need a GPU: configs/reproduce/networks-gpu.yaml.",),
        )
    ]
