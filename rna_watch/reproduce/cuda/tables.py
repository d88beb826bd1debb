"""The tables of a folder of records: epochs to a level beside the paper's, levers at four epochs, and what was not run."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rna_watch.acceleration.significance import paired_standard_error
from rna_watch.reproduce.cuda.findings import Model, RunFound, is_last, read
from rna_watch.reproduce.cuda.run import COMBINED, RE_ESTIMATED
from rna_watch.reproduce.images.results import first_epoch, optimizer_name
from rna_watch.reproduce.networks_tables import PAPER, TOLERANCES
from rna_watch.reproduce.tables import Table, render

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rna_watch.reproduce.cuda.findings import Found

_REFERENCE = "momentum"


def _average(model: Model) -> bool:
    return model.name.startswith(("average", "ema")) and model.statistics == RE_ESTIMATED


# rows of both kinds of tables: each is the model of its kind with the lowest held-out loss
_CURVES: dict[str, Callable[[Model], bool]] = {
    "last iterate": is_last,
    "RNA, N = 5, statistics combined (the paper's)": lambda m: (m.name, m.statistics) == ("rna-5", COMBINED),
    "RNA, N = 5": lambda m: (m.name, m.statistics) == ("rna-5", RE_ESTIMATED),
    "uniform average of 5": lambda m: (m.name, m.statistics) == ("average-5", RE_ESTIMATED),
    "best plain average": _average,
    "best of RNA and averages": lambda m: _average(m) or (m.name.startswith("rna") and m.statistics == RE_ESTIMATED),
}
_MARKED: dict[str, Callable[[Model], bool]] = {
    **_CURVES,
    "last iterate, statistics re-estimated": lambda m: (m.name, m.statistics) == ("last", RE_ESTIMATED),
    "layered": lambda m: m.name == "layered",
    "anneal from the last": lambda m: m.name.startswith("anneal-last"),
    "anneal from the average": lambda m: m.name.startswith("anneal-average"),
    "held-out choice of all": lambda _: True,
}


def text_of(folder: Path) -> str:
    """All tables of a folder of records, as plain text that is Markdown too."""
    found = read(folder)
    return "\n".join(render(table) for table in tables(found))


def tables(found: Found) -> list[Table]:
    """Two tables for every network with a judged epoch, and one of what was run and what was not."""
    made = []
    for network in found.networks:
        runs = {optimizer: run for (name, optimizer), run in found.runs.items() if name == network and run.reached}
        if runs:
            made += [_levels(network, runs), _levers(network, runs)]
    return [*made, _state(found)]


def _levels(network: str, runs: dict[str, RunFound]) -> Table:
    """Epochs to the best last iterate of any optimizer + tolerance, and the speed-up over the reference's last iterate."""
    curves = {o: {name: run.curve(kind) for name, kind in _CURVES.items()} for o, run in runs.items()}
    best = min(min(own["last iterate"]) for own in curves.values())
    reference = curves.get(_REFERENCE, {}).get("last iterate", [])
    rows = []
    for optimizer, own in curves.items():
        for name, curve in own.items():
            cells = []
            for tolerance in TOLERANCES:
                epoch, rival = first_epoch(curve, best + tolerance), first_epoch(reference, best + tolerance)
                speedup = "" if curve is reference or epoch is None or rival is None else f" ({rival / epoch:.2f})"
                cells.append("never" if epoch is None else f"{epoch}{speedup}")
            rows.append((f"{optimizer_name(optimizer)}: {name}", *cells, _percent(curve[-1])))
    for method, epochs in PAPER.get(network, {}).items():
        rows.append((f"paper: {method}", *("N/A" if e is None else str(e) for e in epochs), ""))
    return Table(
        title=f"{network} on cifar10: epochs to best + tolerance ({_lengths(runs)}, one seed)",
        header=("", *(f"+ {tolerance:g} %" for tolerance in TOLERANCES), "test error at the end, %"),
        rows=tuple(rows),
        notes=(
            f"best: {best:.2f} %, the lowest test error of a last iterate at any epoch, of both optimizers.",
            "In brackets the speed-up over the last iterate with momentum, as in the paper.",
            (
                "Statistics are re-estimated but for the last iterate's own and those that are said to be combined. `best` was "
                "chosen by held-out loss at every epoch, never on test images. After epoch 40 every second epoch was judged."
            ),
            f"Trained on {_images(runs)} training images. Paper: 100 epochs on all 50,000.",
        ),
    )


def _levers(network: str, runs: dict[str, RunFound]) -> Table:
    """Test errors at the marks and at the end, each with its paired difference to the best plain average."""
    marks = sorted(
        {epoch for run in runs.values() for epoch in run.models if epoch <= run.reached and _marked(run, epoch)}
    )
    end = max(run.reached for run in runs.values())
    epochs = [*marks, *([end] if end not in marks else [])]
    rows = []
    for optimizer, run in runs.items():
        for name, kind in _MARKED.items():
            cells = [_compared(run, epoch, kind) for epoch in epochs]
            if any(cell != "-" for cell in cells):
                rows.append((f"{optimizer_name(optimizer)}: {name}", *cells))
    return Table(
        title=f"{network} on cifar10: test error in percent at some epochs ({_lengths(runs)}, one seed)",
        header=("", *(f"epoch {epoch}" for epoch in epochs)),
        rows=tuple(rows),
        notes=(
            (
                "In square brackets the difference to the best plain average of the run, ± its standard error over the test "
                "images; negative is better. Each row is the model of its kind with the lowest held-out loss."
            ),
            *_costs(runs),
        ),
    )


def _marked(run: RunFound, epoch: int) -> bool:
    return any(model.name == "last" and model.statistics == RE_ESTIMATED for model in run.models[epoch])


def _compared(run: RunFound, epoch: int, kind: Callable[[Model], bool]) -> str:
    model, base = run.chosen(epoch, kind), run.chosen(epoch, _average)
    if model is None:
        return "-"
    cell = _percent(model.value("error", "test"))
    if base is None or kind is _average:
        return cell
    text = f"{model.value('error', 'test') - base.value('error', 'test'):+.2f}"
    one, other = model.wrong("test"), base.wrong("test")
    error = None if one is None or other is None else paired_standard_error(one, other)
    return f"{cell} [{text}]" if error is None else f"{cell} [{text} ± {error:.2f}]"


def _costs(runs: dict[str, RunFound]) -> list[str]:
    """What `layered` and `anneal` cost, in images and seconds, and epochs of this training."""
    found = [
        m.own.header
        for run in runs.values()
        for models in run.models.values()
        for m in models
        if "steps" in m.own.header
    ]
    if not found:
        return ["layered and anneal: *not run*."]
    said = []
    for name in ("layered", "anneal"):
        own = [header for header in found if header["name"].startswith(name)]
        if own:
            seconds = sum(header["seconds"] for header in own) / len(own)
            said.append(f"{name}: {own[0]['steps']} steps, {own[0]['drawn']:,} images, {seconds:.1f} s each")
    return ["; ".join(said) + "."]


def _state(found: Found) -> Table:
    """What was run, how fast it was, and what was not run."""
    rows = []
    for network in found.networks:
        runs = [(o, run) for (name, o), run in found.runs.items() if name == network and run.reached]
        note = found.notes.get(network, "")
        if not runs:
            rows.append((network, "*not run*", "", "", note.removeprefix("not run: ")))
        for optimizer, run in runs:
            seconds = [sum(header["seconds"]) for header in run.epochs.values()]
            length = run.spec["epochs"]
            done = f"{run.reached} of {length}" + ("" if run.finished else ", not finished")
            mean = f"{sum(seconds) / len(seconds):.2f}"
            rows.append((f"{network}, {optimizer_name(optimizer)}", done, mean, run.timing.get("form", ""), note))
    return Table(
        title="What was run",
        header=("", "epochs", "seconds an epoch", "form", "note"),
        rows=tuple(rows),
        notes=(
            f"On {'; '.join(found.devices)}, both optimizers beside each other, judging included.",
            "*Not run* in any case: other seeds, online RNA.",
        ),
    )


def _lengths(runs: dict[str, RunFound]) -> str:
    lengths = sorted({run.spec["epochs"] for run in runs.values()})
    return f"{', '.join(map(str, lengths))} epochs" + (
        "" if all(run.finished for run in runs.values()) else ", not finished"
    )


def _images(runs: dict[str, RunFound]) -> str:
    spec = next(iter(runs.values())).spec
    return str(spec["train_images"] or f"all but the {spec['held_out']} held-out")


def _percent(value: float) -> str:
    return "-" if math.isinf(value) else f"{value:.2f}"
