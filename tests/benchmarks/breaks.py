"""How often one training is cut in two, and how often two are taken for one, over small trainings whose truth is known."""

from __future__ import annotations

import math
import os
from collections import Counter
from itertools import chain, pairwise, product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from rna_watch.acceleration.gram import block_rows
from rna_watch.daemon.one_training import Pair, other_training
from rna_watch.formats.probe import probe
from rna_watch.window.marks import OPTIMIZER, Marks
from tests import trainings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from tests.benchmarks.options import Options
    from tests.trainings import Checkpoint

_WINDOW = 6
_NOTHING = Marks(counters={})
Labelled = tuple[int, "Checkpoint"]  # the training, and one of its checkpoints


def reasons(checkpoints: Sequence[Checkpoint], *, told: bool) -> list[str]:
    """For each checkpoint but the first, why it is of another training than the one before ("" if it is not).

    Args:
        checkpoints: in the order of their names.
        told: whether the counters inside count, else the weights alone.
    """
    found: list[str] = []
    begin = 0
    for newest in range(1, len(checkpoints)):
        first = max(begin, newest - _WINDOW + 1)
        part = [each["model"] for each in checkpoints[first : newest + 1]]
        matrices = [name for name, tensor in part[0].items() if tensor.ndim > 1]
        values = np.stack([torch.cat([each[name].double().reshape(-1) for name in matrices]).numpy() for each in part])
        n, elements = len(part) - 1, values.shape[1]
        rows = block_rows(values, n, 0.0, matrices=[slice(0, elements)])
        assert rows.matrices is not None
        a, b, d = rows.matrices[-1].tolist()
        pair = Pair(
            older=str(newest),
            matrices=(a, b, d),
            elements=elements,
            steps_nn=rows.rows,
            intervals=(1.0,) * n,
            marks=tuple(
                _marks(each) if told else _NOTHING for each in checkpoints[max(first, newest - 2) : newest + 1]
            ),
        )
        found.append(other_training(pair))
        begin = newest if found[-1] else begin
    return found


def _marks(checkpoint: Checkpoint) -> Marks:
    counters = {name: int(value) for name, value in checkpoint["model"].items() if name.endswith("num_batches_tracked")}
    if "epoch" in checkpoint:
        counters["epoch inside"] = checkpoint["epoch"]
    state = next(iter(checkpoint["optimizer"]["state"].values()), {}) if "optimizer" in checkpoint else {}
    return Marks(counters=counters | ({OPTIMIZER: int(state["step"])} if "step" in state else {}))


class _Sizes:
    """How much is trained: networks, seeds, epochs."""

    def __init__(self, *, small: bool) -> None:
        names = list(trainings.NETWORKS)
        self.networks = names[:1] if small else names
        self.data = trainings.digits(320 if small else 960)
        self.seeds = (0,) if small else (0, 1)
        self.epochs = 3 if small else 8
        self.usual = dict(list(trainings.OPTIMIZERS.items())[3:4]) if small else trainings.OPTIMIZERS
        self.violent = dict(list(trainings.VIOLENT.items())[:1]) if small else trainings.VIOLENT


def _cosine(done: float) -> float:
    return (1.0 + math.cos(math.pi * done)) / 2.0


_RATES: dict[str, Callable[[float], float]] = {
    "warm-up": lambda done: min(1.0, 4.0 * done + 0.01),
    "one cycle": lambda done: 3.0 * min(3.0 * done + 0.01, 1.5 * (1.0 - done)),
    "warm restarts": lambda done: _cosine(3.0 * done % 1.0),
    "steps": lambda done: 0.1 ** int(3.0 * done),
}


def _single(sizes: _Sizes) -> Iterator[tuple[str, list[Checkpoint]]]:
    """One training each, and of which kind."""

    def new(name: str, seed: int, make: object, **options: object) -> list[Checkpoint]:
        model = trainings.network(name, seed)
        return trainings.train(model, make(model.parameters()), sizes.epochs, seed, **{"data": sizes.data} | options)  # type: ignore[operator, arg-type]

    for name, seed in product(sizes.networks, sizes.seeds):
        for make in sizes.usual.values():
            yield "from scratch", new(name, seed, make)
            yield "from scratch, cosine", new(name, seed, make, rate=_cosine)
            for kind, rate in _RATES.items():
                yield kind, new(name, seed, make, rate=rate)
            yield "optimizer's state lost", new(name, seed, make, forget=3)
        for make in sizes.violent.values():
            yield "rates that blow up", new(name, seed, make)
        whole = {"data": trainings.digits(256), "batch": 256}
        yield "a checkpoint each step", new(name, seed, trainings.OPTIMIZERS["SGD"], **whole)
    for seed, rate in product(sizes.seeds, (2e-4, 1e-3, 5e-3)):
        yield from (("GAN", each) for each in trainings.gan(seed, sizes.epochs, rate, sizes.data))


def _fine_tunings(sizes: _Sizes) -> Iterator[list[list[Checkpoint]]]:
    """Trainings from one start, on ten folds each."""
    for name in sizes.networks:
        start = trainings.network(name, 7)
        trainings.train(start, trainings.OPTIMIZERS["Adam"](start.parameters()), 2, 7, data=sizes.data)
        for make, rate in product(sizes.usual.values(), (None, _cosine)):
            found = []
            for seed, data in enumerate(trainings.folds(sizes.data)[:4]):
                model = trainings.network(name, 7)
                model.load_state_dict(start.state_dict())
                optimizer = make(model.parameters())
                for group in optimizer.param_groups:
                    group["lr"] /= 5.0
                found.append(
                    trainings.train(
                        model, optimizer, max(3, sizes.epochs // 2), seed, data=data, rate=rate, initial=False
                    )
                )
            yield found


def _adapters(sizes: _Sizes) -> Iterator[list[list[Checkpoint]]]:
    """Adapters of one network, with other random matrices each."""
    base = trainings.network("MLP", 7)
    trainings.train(base, trainings.OPTIMIZERS["Adam"](base.parameters()), 2, 7, data=sizes.data)
    for rate in (1e-3, 1e-2):
        found = []
        for seed in range(3):
            torch.manual_seed(seed)
            model = trainings.Adapted(base)  # type: ignore[arg-type]
            optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
            found.append(
                trainings.train(model, optimizer, max(3, sizes.epochs // 2), seed, data=sizes.data, initial=False)
            )
        yield found


def _from_scratch(sizes: _Sizes) -> Iterator[list[list[Checkpoint]]]:
    """Trainings that differ in their seeds."""
    for name, make in product(sizes.networks, chain(sizes.usual.values(), sizes.violent.values())):
        models = [trainings.network(name, seed) for seed in (0, 1, 2)]
        yield [
            trainings.train(model, make(model.parameters()), sizes.epochs // 2, seed, data=sizes.data)
            for seed, model in enumerate(models)
        ]


def _labelled(runs: Sequence[list[Checkpoint]]) -> list[list[Labelled]]:
    return [[(number, each) for each in run] for number, run in enumerate(runs)]


# how checkpoints of several trainings come into one sequence
_MIXED: dict[str, Callable[[list[list[Labelled]]], list[Labelled]]] = {
    "one after another": lambda runs: list(chain(*runs)),
    "in turn": lambda runs: list(chain(*zip(*runs, strict=True))),
    "their ends": lambda runs: [run[-1] for run in runs],
}


def _real_runs() -> Iterator[tuple[str, list[Checkpoint]]]:
    data = Path(os.environ.get("RNA_WATCH_DATA", Path(__file__).parents[3] / "shared" / "data"))
    for folder in sorted((data / "real_runs").glob("*")):
        paths = sorted(folder.iterdir(), key=lambda path: int(path.name.split("_")[1].split(".")[0]))
        trees = [torch.load(path, weights_only=True, map_location="cpu") for path in paths]
        assert all(probe(str(path)).format for path in paths[:1])
        yield (
            f"real: {folder.name}",
            [
                each if "state_dict" not in each else {**each, "model": each["state_dict"]}
                for each in (tree if "state_dict" in tree else {"model": tree} for tree in trees)
            ],
        )


def false_breaks(kinds: Iterable[tuple[str, list[Checkpoint]]]) -> dict[str, tuple[int, int, int]]:
    """Of each kind of training: pairs, pairs that are cut by the weights alone, pairs that are cut with the counters too."""
    pairs, bare, told = Counter[str](), Counter[str](), Counter[str]()
    for kind, checkpoints in kinds:
        pairs[kind] += len(checkpoints) - 1
        bare[kind] += sum(map(bool, reasons(checkpoints, told=False)))
        told[kind] += sum(map(bool, reasons(checkpoints, told=True)))
    return {kind: (count, bare[kind], told[kind]) for kind, count in pairs.items()}


def missed_breaks(sequence: Sequence[Labelled], *, told: bool) -> tuple[int, int, int, int]:
    """Pairs of two trainings, those not cut, windows of three or more checkpoints, those with two trainings in them."""
    found = reasons([each for _, each in sequence], told=told)
    truth = [older != newer for (older, _), (newer, _) in pairwise(sequence)]
    missed = sum(there and not seen for there, seen in zip(truth, found, strict=True))
    windows = mixed = begin = 0
    for number, reason in enumerate(found, 1):
        begin = number if reason else max(begin, number - _WINDOW + 1)
        if number - begin >= 2:  # three checkpoints are the smallest window
            windows += 1
            mixed += len({training for training, _ in sequence[begin : number + 1]}) > 1
    return sum(truth), missed, windows, mixed


def show(options: Options) -> None:
    """Print both rates."""
    torch.set_num_threads(1)
    sizes = _Sizes(small=options.small)
    print(
        "\none training: pairs of neighbouring checkpoints, and those taken for two trainings, by weights alone and in all"
    )
    print(f"{'':<26}{'pairs':>7}{'weights':>9}{'%':>7}{'in all':>9}{'%':>7}")
    found = false_breaks(
        chain(_single(sizes), (("fine-tuning", run) for runs in _fine_tunings(sizes) for run in runs), _real_runs())
    )
    for kind, (pairs, bare, told) in found.items():
        print(f"{kind:<26}{pairs:>7}{bare:>9}{100 * bare / pairs:>7.2f}{told:>9}{100 * told / pairs:>7.2f}")
    print(
        "\nseveral trainings: pairs of two, % of them not seen; windows of three checkpoints or more, % with two trainings; by "
        "weights alone | in all"
    )
    print(f"{'':<36}{'pairs':>7}" + f" | {'missed %':>8}{'windows':>9}{'mixed %':>9}" * 2)
    sources = {"from scratch": _from_scratch, "fine-tunings": _fine_tunings, "adapters": _adapters}
    for source, make in sources.items():
        several = [_labelled(runs) for runs in make(sizes)]
        for how, mix in _MIXED.items():
            cells = ""
            for told in (False, True):
                sums = np.sum([missed_breaks(mix(runs), told=told) for runs in several], axis=0)
                pairs, missed, windows, mixed = map(int, sums)
                cells = cells or f"{pairs:>7}"
                cells += f" | {_percent(missed, pairs):>8}{windows:>9}{_percent(mixed, windows):>9}"
            print(f"{f'{source}, {how}':<36}{cells}")


def _percent(part: int, whole: int) -> str:
    return f"{100.0 * part / max(whole, 1):.2f}"
