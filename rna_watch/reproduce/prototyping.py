"""Which of several architectures will be best? Predicted from early epochs at a flat learning rate, raw and extrapolated.

Every architecture is trained twice. At a flat learning rate, the last iterate, RNA and the uniform average of the same window
are evaluated at every epoch. The paper's schedule, run to its end, gives the ranking that is to be predicted.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from rna_watch.errors import UsageError
from rna_watch.reproduce import style
from rna_watch.reproduce.experiment import Plan, Settings
from rna_watch.reproduce.images import origin
from rna_watch.reproduce.images.architectures import build
from rna_watch.reproduce.images.judge import HELD_OUT, TEST
from rna_watch.reproduce.images.results import AVERAGE_5, LAST, LOOP, curves
from rna_watch.reproduce.images.spec import RunSpec, check_filled, checked, chosen
from rna_watch.reproduce.images.watched import part
from rna_watch.reproduce.tables import Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

CONFIGURABLE = PARTIAL = True
LIBRARIES = ("scipy",)
_WAYS = {LAST: "last iterate", LOOP: "RNA, N = 5", AVERAGE_5: "uniform average"}
# the history is forgotten after the second epoch, so a window holds one model at the third, which is the result of all ways
_FIRST_OF_TWO = 4
_FLAT, _TO_THE_END = "flat", "paper"
_QUICK: dict[str, Any] = {
    "networks": ("vgg4", "resnet8-narrow"),
    "epochs": 4,
    "train_images": 1000,
    "test_images": 500,
    "held_out": 500,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PrototypingSettings:
    """The settings: the `networks` that are ranked, and how they are trained, as in a run."""

    networks: tuple[str, ...] = ("vgg4", "vgg6", "resnet8-narrow", "resnet8", "resnet14", "densenet18")
    dataset: str = "cifar10"
    optimizer: str = "momentum"
    seed: int = 0
    epochs: int = 10
    train_images: int = 15000
    test_images: int = 4000
    held_out: int = 3000


def plan(settings: Settings) -> Plan:
    """Two parts for each architecture.

    Raises:
        UsageError: a setting is wrong, or the data are missing.
    """
    folder = settings.folder("prototyping needs its images: name the folder of CIFAR-10 or MNIST with --data")
    own = chosen("prototyping", settings.config, PrototypingSettings)
    check_filled("prototyping", networks=own.networks)
    twice = [name for name in own.networks if own.networks.count(name) > 1]
    if twice:
        raise UsageError(f"prototyping: networks has {twice[0]!r} more than once: name each network once")
    choice = replace(own, **_QUICK) if settings.quick else own
    runs = [_run(choice, folder, name, schedule) for name in choice.networks for schedule in (_FLAT, _TO_THE_END)]
    digests = origin.of_runs(runs, settings)
    return Plan(
        parts=tuple(part(run, _key(run), settings, digests, watched=False) for run in runs),
        settings={"quick": settings.quick, "data": digests, "runs": [run.stated() for run in runs]},
        seeds=(choice.seed,),
        tables=lambda results: _tables(choice, results),
        draw=lambda results: _draw(choice, results),
        partial=PARTIAL,
    )


def _run(choice: PrototypingSettings, folder: Path, network: str, schedule: str) -> RunSpec:
    values = {key: value for key, value in asdict(choice).items() if key != "networks"}
    own = {"network": network, "schedule": schedule, "averaged": schedule == _FLAT}
    return RunSpec(data=folder, **checked("prototyping", {**values, **own}))


def _key(run: RunSpec) -> str:
    return f"{run.network}-{run.schedule}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """The errors of the networks whose two runs are finished.

    `final` is the test error at the end of the paper's schedule. `flat` has the test errors of each way by epoch at a flat
    learning rate; `told` has the held-out errors there, by which a person would choose.
    """

    final: dict[str, float]
    flat: dict[str, dict[str, list[float]]]
    told: dict[str, dict[str, list[float]]]

    def correlation(self, way: str, epoch: int) -> float:
        """Spearman's rank correlation of the held-out errors at an epoch (from 1) with the final test errors."""
        from scipy.stats import spearmanr

        early = [self.told[name][way][epoch - 1] for name in self.final]
        return float(spearmanr(early, list(self.final.values())).statistic)


def _found(networks: Sequence[str], results: Mapping[str, Any]) -> _Found:
    done = [n for n in networks if {f"{n}-{_FLAT}", f"{n}-{_TO_THE_END}"} <= results.keys()]
    return _Found(
        final={name: results[f"{name}-{_TO_THE_END}"]["curve"][-1]["network"][TEST] for name in done},
        flat={name: curves(results[f"{name}-{_FLAT}"]) for name in done},
        told={name: curves(results[f"{name}-{_FLAT}"], HELD_OUT) for name in done},
    )


def _moments(epochs: int) -> list[int]:
    return sorted({*(e for e in (3, 4, 5, 7) if e < epochs), epochs})


def _tables(choice: PrototypingSettings, results: Mapping[str, Any]) -> list[Table]:
    found = _found(choice.networks, results)
    moments = sorted({min(5, choice.epochs), choice.epochs})
    rows = []
    for name in choice.networks:
        if name not in found.final:
            rows.append((name, *["not run"] * (2 + len(_WAYS) * len(moments))))
            continue
        errors = (f"{found.flat[name][way][epoch - 1]:.1f}" for way in _WAYS for epoch in moments)
        rows.append((name, f"{_parameters(name, choice.dataset):,}", f"{found.final[name]:.1f}", *errors))
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
    return [*tables, *summary(results)]


def summary(results: Mapping[str, Any]) -> list[Table]:
    """The rank correlations, if more than two networks are finished."""
    found = _found([key.removesuffix(f"-{_FLAT}") for key in results if key.endswith(f"-{_FLAT}")], results)
    if len(found.final) <= 2:
        return []
    epochs = len(next(iter(found.flat.values()))[LAST])
    moments = _moments(epochs)
    first = min(_FIRST_OF_TWO, epochs)
    early = range(first, max(epochs // 2, first) + 1)
    rows = []
    for way, label in _WAYS.items():
        values = [found.correlation(way, epoch) for epoch in early]
        shown = [sum(values) / len(values), *(found.correlation(way, epoch) for epoch in moments)]
        rows.append((label, *(f"{value:.2f}" for value in shown)))
    n = len(found.final)
    return [
        Table(
            title=f"Rank correlation of {n} networks, early held-out error with final test error",
            header=("", f"mean of {_span(early)}", *(f"epoch {epoch}" for epoch in moments)),
            rows=tuple(rows),
            notes=(
                "Spearman's; early at a flat learning rate, final with the paper's schedule; one seed.",
                *(["At epoch 3 a window holds one model, and all three are that one."] if 3 in moments else []),
                f"Exchanging two neighbours in a ranking moves it by {12 / (n * (n * n - 1)):.2f} at least.",
            ),
        )
    ]


def _span(epochs: range) -> str:
    return f"epoch {epochs[0]}" if len(epochs) == 1 else f"epochs {epochs[0]}-{epochs[-1]}"


def _parameters(name: str, dataset: str) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(name, 1 if dataset == "mnist" else 3, 10).parameters())


def _draw(choice: PrototypingSettings, results: Mapping[str, Any]) -> Any:
    found = _found(choice.networks, results)
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
        lines: Sequence[tuple[str, str]] = ((LAST, style.GREY), (AVERAGE_5, style.BLUE), (LOOP, style.VERMILION))
        for way, colour in lines:
            right.plot(epochs, [found.correlation(way, e) for e in epochs], color=colour, label=_WAYS[way])
        right.legend(fontsize=8, loc="lower right")
    right.set_title("rank correlation with the final ranking")
    right.set_xlabel("epoch")
    right.set_ylim(min(0.0, right.get_ylim()[0]), 1.05)
    style.grid(right)
    return made
