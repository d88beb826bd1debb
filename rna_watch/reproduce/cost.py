"""What one extrapolation costs against one mini-batch forward pass, ResNet-18 to ResNet-152.

An extrapolation is what `training.Rna` does at the end of an epoch, in memory and with a full window. It keeps the iterate
and its residual and computes the row of the Gram matrix (`store`), solves for c (`solve`), and writes the combination into
another network (`combine`).
"""

from __future__ import annotations

import copy
import gc
import statistics
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from rna_watch.reproduce import machine, style
from rna_watch.reproduce.experiment import Part, Plan, Settings
from rna_watch.reproduce.resnets import DEPTHS, ResNet
from rna_watch.reproduce.tables import Table
from rna_watch.training.rna import Rna

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_SEED = 0
_WINDOW = 5
_REGULARIZATION = 1e-8
# images of a batch, few enough for a processor; the paper's ImageNet batches are larger: see the break-even column
_BATCH, _BATCH_DEVICE = 8, 256
_SIDE = 224
_ROUNDS, _ROUNDS_QUICK = 7, 3
_STAGES = ("store", "solve", "combine")


def plan(settings: Settings) -> Plan:
    """One part for each depth, within which the contenders take turns."""
    depths = (18,) if settings.quick else tuple(DEPTHS)
    side = 64 if settings.quick else _SIDE
    rounds = _ROUNDS_QUICK if settings.quick else _ROUNDS
    device = machine.device()
    batch = _BATCH if device == "cpu" else _BATCH_DEVICE
    return Plan(
        parts=tuple(
            Part(key=f"resnet-{depth}", run=_measurement(depth, side, batch, rounds, device)) for depth in depths
        ),
        settings={
            "quick": settings.quick,
            "window": _WINDOW,
            "regularization": _REGULARIZATION,
            "batch": batch,
            "side": side,
            "rounds": rounds,
            "device": machine.device_name(),
            "threads": 1,
        },
        seeds=(_SEED,),
        tables=lambda results: [_table(results, batch, side)],
        draw=lambda results: _draw(results, batch, side),
    )


def _measurement(
    depth: int, side: int, batch: int, rounds: int, device: str
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    return lambda _: measure(depth, side=side, batch=batch, rounds=rounds, device=device)


def measure(depth: int, *, side: int, batch: int, rounds: int, device: str) -> dict[str, Any]:
    """Medians in seconds over rounds in which every contender runs once; the window is full, and one warm-up came first.

    Args:
        depth: of the ResNet, a key of `DEPTHS`.
        side: pixels of the side of a square image.
        batch: images of a batch.
        rounds: number of rounds.
        device: cpu or cuda.
    """
    gc.collect()  # the networks of the part before
    torch.manual_seed(_SEED)
    network = ResNet(depth).to(device)
    extrapolated = copy.deepcopy(network)
    rna = Rna(network, torch.optim.SGD(network.parameters(), lr=1e-3), _WINDOW, _REGULARIZATION, reset_after=0)
    images = torch.randn(batch, 3, side, side, device=device)
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)
    times: dict[str, list[float]] = {name: [] for name in ("forward", *_STAGES)}

    def timed(name: str, act: Callable[[], Any]) -> Any:
        _wait(device)
        begun = time.perf_counter()
        result = act()
        _wait(device)
        times[name].append(time.perf_counter() - begun)
        return result

    def forward() -> None:
        with torch.no_grad():
            network(images)

    network.eval()
    for _ in range(_WINDOW):
        _step(network, rna)
        rna.store()
    for _ in range(rounds + 1):
        timed("forward", forward)
        _step(network, rna)
        timed("store", rna.store)
        found = timed("solve", partial(rna.history.solve, _REGULARIZATION))
        timed("combine", partial(rna.combine, extrapolated, found.c))
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return {
        "parameters": parameters,
        **{f"{name}_s": round(value, 6) for name, value in medians.items()},
        "forward_all_s": [round(value, 6) for value in times["forward"][1:]],
        "extrapolation_all_s": [round(sum(parts), 6) for parts in zip(*(times[s][1:] for s in _STAGES), strict=True)],
    }


def _step(network: torch.nn.Module, rna: Rna) -> None:
    """One step, whose gradient differs from the one before; its time is not measured."""
    for parameter in network.parameters():
        assert parameter.grad is not None
        parameter.grad.mul_(0.9).add_(torch.randn_like(parameter), alpha=0.1)
    rna.step()


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def extrapolation_s(found: Mapping[str, Any]) -> float:
    """Seconds of a whole extrapolation, the median of the rounds."""
    return float(statistics.median(found["extrapolation_all_s"]))


def _table(results: Mapping[str, Any], batch: int, side: int) -> Table:
    rows = []
    for key, found in results.items():
        whole, forward = extrapolation_s(found), found["forward_s"]
        rows.append(
            (
                f"ResNet-{key.removeprefix('resnet-')}",
                f"{found['parameters'] / 1e6:.1f}",
                *(f"{1e3 * found[f'{stage}_s']:.1f}" for stage in _STAGES),
                f"{1e3 * whole:.1f}",
                f"{1e3 * forward:.1f}",
                f"{whole / forward:.2f}",
                f"{batch * whole / forward:.1f}",
            )
        )
    cheaper = [row[0] for row in rows if float(row[7]) < 1.0]
    dearer = [row[0] for row in rows if row[0] not in cheaper]
    return Table(
        title=(
            f"Cost of one extrapolation (N = {_WINDOW}, float32, in memory) and of one forward pass of {batch} images of "
            f"{side} x {side}; medians in milliseconds, one thread"
        ),
        header=(
            "network",
            "million parameters",
            *_STAGES,
            "extrapolation",
            "forward",
            "ratio",
            "break-even batch",
        ),
        rows=tuple(rows),
        notes=(
            "break-even batch: images whose forward pass costs what the extrapolation costs, which no batch changes.",
            f"Cheaper than the forward pass: {', '.join(cheaper) or 'none'}. Dearer: {', '.join(dearer) or 'none'}.",
            (
                "Not counted: the running mean of gradients, one addition a step; and, as in every training, reading data. A "
                "training step also has a backward pass, about twice the forward one."
            ),
            "Paper: an extrapolation is cheaper than one mini-batch forward pass; it happens once an epoch.",
        ),
    )


def _draw(results: Mapping[str, Any], batch: int, side: int) -> Any:
    made = style.figure(7.2, 4.4)
    axes = made.subplots()
    names = [f"ResNet-{key.removeprefix('resnet-')}" for key in results]
    places = range(len(names))
    forward = [1e3 * found["forward_s"] for found in results.values()]
    _bars(axes, [p - 0.2 for p in places], forward, style.GREY, f"forward pass, {batch} images of {side} x {side}")
    whole = [1e3 * extrapolation_s(found) for found in results.values()]
    _bars(axes, [p + 0.2 for p in places], whole, style.BLUE, f"extrapolation, N = {_WINDOW}")
    axes.set_xticks(list(places), names)
    axes.set_ylabel("time, milliseconds (median)")
    axes.margins(y=0.15)
    axes.set_title("One extrapolation against one mini-batch forward pass, one thread")
    style.grid(axes)
    axes.grid(axis="x", visible=False)
    axes.legend(loc="upper left")
    return made


def _bars(axes: Any, places: Sequence[float], heights: Sequence[float], colour: str, label: str) -> None:
    drawn = axes.bar(places, heights, width=0.38, color=colour, label=label)
    axes.bar_label(drawn, fmt=lambda value: f"{value:.0f}", fontsize=8.5)
