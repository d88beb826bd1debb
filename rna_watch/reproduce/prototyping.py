"""Which of several architectures will be best? Told from early epochs at a flat learning rate, raw and extrapolated.

Every architecture is trained twice: at a flat learning rate, where the last iterate, RNA and the uniform average of the same
window are judged at every epoch; and with the paper's schedule to its end, which gives the ranking that is to be foretold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rna_watch.errors import UsageError
from rna_watch.reproduce import style
from rna_watch.reproduce.experiment import Part, Plan, Settings
from rna_watch.reproduce.images import data
from rna_watch.reproduce.images.architectures import ARCHITECTURES, build
from rna_watch.reproduce.images.judge import TEST
from rna_watch.reproduce.images.results import LAST, LOOP, curves
from rna_watch.reproduce.images.spec import OPTIMIZERS, RunSpec, check_names
from rna_watch.reproduce.images.watched import train
from rna_watch.reproduce.tables import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

CONFIGURABLE = True
LIBRARIES = ("scipy",)
_AVERAGE = "average-5"
_WAYS = {LAST: "last iterate", LOOP: "RNA, N = 5", _AVERAGE: "uniform average"}
_FLAT, _TO_THE_END = "flat", "paper"
_QUICK: dict[str, Any] = {
    "networks": ("vgg4", "resnet8-narrow"),
    "epochs": 4,
    "train_images": 1000,
    "test_images": 500,
    "held_out": 500,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The settings: the `networks` that are ranked, and how they are trained, as in a run."""

    networks: tuple[str, ...] = ("vgg4", "vgg6", "resnet8-narrow", "resnet8", "resnet14", "densenet18")
    dataset: str = "cifar10"
    optimizer: str = "momentum"
    seed: int = 0
    epochs: int = 10
    train_images: int = 15000
    test_images: int = 5000
    held_out: int = 1000


def plan(settings: Settings) -> Plan:
    """Two parts for each architecture."""
    if settings.data is None:
        raise UsageError("prototyping needs its images: name the folder of CIFAR-10 or MNIST with --data")
    check_names("prototyping", settings.config, Choice)
    choice = Choice(**{**settings.config, **(_QUICK if settings.quick else {})})
    for name in choice.networks:
        if name not in ARCHITECTURES:
            raise UsageError(f"there is no network {name!r}: take one of {', '.join(ARCHITECTURES)}")
    if choice.optimizer not in OPTIMIZERS:
        raise UsageError(f"there is no optimizer {choice.optimizer!r}: take one of {', '.join(OPTIMIZERS)}")
    runs = [
        _run(choice, settings.data, name, schedule) for name in choice.networks for schedule in (_FLAT, _TO_THE_END)
    ]
    data.check(runs[0])
    return Plan(
        parts=tuple(Part(key=_key(run), run=_training(run, settings), identity={"run": run.stated()}) for run in runs),
        settings={"quick": settings.quick, "runs": [run.stated() for run in runs]},
        seeds=(choice.seed,),
        tables=lambda results: _tables(choice, results),
        draw=lambda results: _draw(choice, results),
        partial=True,
    )


def _run(choice: Choice, folder: Path, network: str, schedule: str) -> RunSpec:
    return RunSpec(
        data=folder,
        dataset=choice.dataset,
        network=network,
        optimizer=choice.optimizer,
        seed=choice.seed,
        epochs=choice.epochs,
        schedule=schedule,
        train_images=choice.train_images,
        test_images=choice.test_images,
        held_out=choice.held_out,
        averaged=schedule == _FLAT,
    )


def _key(run: RunSpec) -> str:
    return f"{run.network}-{run.schedule}"


def _training(run: RunSpec, settings: Settings) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    return lambda _: {"curve": train(run, settings.work / _key(run), settings.say)}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What is known of the networks whose two runs are finished: final error, and the error by epoch of each way."""

    final: dict[str, float]
    flat: dict[str, dict[str, list[float]]]

    def correlation(self, way: str, epoch: int) -> float:
        """Spearman's rank correlation of the errors at an epoch (from 1) with the final ones."""
        from scipy.stats import spearmanr

        early = [self.flat[name][way][epoch - 1] for name in self.final]
        return float(spearmanr(early, list(self.final.values())).statistic)


def _found(choice: Choice, results: Mapping[str, Any]) -> _Found:
    done = [n for n in choice.networks if {f"{n}-{_FLAT}", f"{n}-{_TO_THE_END}"} <= results.keys()]
    return _Found(
        final={name: results[f"{name}-{_TO_THE_END}"]["curve"][-1]["network"][TEST] for name in done},
        flat={name: curves(results[f"{name}-{_FLAT}"]) for name in done},
    )


def _moments(epochs: int) -> list[int]:
    return sorted({*(e for e in (3, 4, 5, 7) if e < epochs), epochs})


def _tables(choice: Choice, results: Mapping[str, Any]) -> list[Table]:
    found = _found(choice, results)
    moments = _moments(choice.epochs)
    rows = []
    for name in choice.networks:
        if name not in found.final:
            rows.append((name, *["not run"] * (2 + len(_WAYS) * len(moments))))
            continue
        errors = (f"{found.flat[name][way][epoch - 1]:.1f}" for way in _WAYS for epoch in moments)
        rows.append((name, f"{_parameters(name):,}", f"{found.final[name]:.1f}", *errors))
    tables = [
        Table(
            title=(
                f"Test error in percent at a flat learning rate, and with the paper's schedule at its end ({choice.dataset}, "
                f"{choice.train_images or 'all'} training images, {choice.epochs} epochs, one seed)"
            ),
            header=(
                "network",
                "parameters",
                "final",
                *(f"{label}, epoch {epoch}" for label in _WAYS.values() for epoch in moments),
            ),
            rows=tuple(rows),
            notes=("Paper (Fig. 3): extrapolated networks tell early, at a flat learning rate, which will be best.",),
        )
    ]
    if len(found.final) > 2:
        tables.append(
            Table(
                title="Rank correlation (Spearman) of an early ranking at a flat learning rate with the final one",
                header=("", *(f"epoch {epoch}" for epoch in moments), f"mean of epochs 3-{choice.epochs}"),
                rows=tuple(
                    (
                        label,
                        *(f"{found.correlation(way, epoch):.2f}" for epoch in moments),
                        f"{_mean(found, way, choice.epochs):.2f}",
                    )
                    for way, label in _WAYS.items()
                ),
                notes=(
                    f"{len(found.final)} networks, one seed: an exchange of two neighbours moves it by {_exchange(found):.2f}.",
                ),
            )
        )
    return tables


def _mean(found: _Found, way: str, epochs: int) -> float:
    values = [found.correlation(way, epoch) for epoch in range(min(3, epochs), epochs + 1)]
    return sum(values) / len(values)


def _exchange(found: _Found) -> float:
    """By how much one exchange of neighbours lowers the correlation of rankings of n: 12 / (n (n^2 - 1))."""
    n = len(found.final)
    return 12 / (n * (n * n - 1))


def _parameters(name: str) -> int:
    return sum(parameter.numel() for parameter in build(name, 3, 10).parameters())


def _draw(choice: Choice, results: Mapping[str, Any]) -> Any:
    found = _found(choice, results)
    made = style.figure(9.6, 4.0)
    left, right = made.subplots(1, 2, width_ratios=(1.5, 1))
    colours = (style.BLUE, style.VERMILION, style.GREEN, style.PURPLE, style.ORANGE, style.SKY, style.BLACK)
    for colour, name in zip(colours, found.final, strict=False):
        epochs = range(1, choice.epochs + 1)
        left.plot(epochs, found.flat[name][LAST], color=colour, linewidth=0.9, linestyle=style.DOTTED)
        left.plot(epochs, found.flat[name][LOOP], color=colour, linewidth=1.6, label=name)
        left.plot([choice.epochs + 0.6], [found.final[name]], marker="D", markersize=5, color=colour)
    left.set_title("flat learning rate: last iterate (dotted), RNA (solid); final (diamonds)")
    left.set_xlabel("epoch")
    left.set_ylabel("test error, %")
    if found.final:
        left.legend(fontsize=8)
    style.grid(left)
    if len(found.final) > 2:
        epochs = range(1, choice.epochs + 1)
        lines: Sequence[tuple[str, str]] = ((LAST, style.GREY), (_AVERAGE, style.BLUE), (LOOP, style.VERMILION))
        for way, colour in lines:
            right.plot(epochs, [found.correlation(way, e) for e in epochs], color=colour, label=_WAYS[way])
        right.legend(fontsize=8, loc="lower right")
    right.set_title("rank correlation with the final ranking")
    right.set_xlabel("epoch")
    right.set_ylim(-1.05, 1.05)
    style.grid(right)
    return made
