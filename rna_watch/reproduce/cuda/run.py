"""One run on a device: train an epoch, combine the newest iterates, judge the models there, and write the records as they come.

The history is kept on the device. It is written only now and then, with all that the run needs to go on, and when it stops.
"""

from __future__ import annotations

import copy
import itertools
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from rna_watch.acceleration import fixed_weights
from rna_watch.acceleration.coefficients import solve, spectrum
from rna_watch.layout import disk
from rna_watch.reproduce.cuda import levers
from rna_watch.reproduce.cuda.judge import re_estimate, verdict
from rna_watch.reproduce.cuda.ring import Ring
from rna_watch.reproduce.cuda.scale import judged
from rna_watch.reproduce.images import architectures
from rna_watch.training import GradientMean

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from rna_watch.reproduce.cuda.judge import Verdict
    from rna_watch.reproduce.cuda.records import Records
    from rna_watch.reproduce.cuda.scale import Scale
    from rna_watch.reproduce.images.data import Data
    from rna_watch.reproduce.images.spec import RunSpec

OWN, COMBINED, RE_ESTIMATED = "own", "combined", "re-estimated"
LAST = "last"
# nine models of every judged epoch; a mark has those of `MARKED` too
FIRST = (
    (LAST, OWN),
    ("rna-5", COMBINED),
    *((name, RE_ESTIMATED) for name in ("rna-5", "rna-10", "average-3", "average-5", "average-10")),
    *((name, RE_ESTIMATED) for name in ("ema-0.5", "ema-0.7")),
)
MARKED = (
    *((name, RE_ESTIMATED) for name in (LAST, "ema-0.85")),
    *(
        (name, COMBINED)
        for name in ("rna-10", "average-3", "average-5", "average-10", "ema-0.5", "ema-0.7", "ema-0.85")
    ),
)
LEVERS = ("layered", "anneal-last", "anneal-last-third", "anneal-average", "anneal-average-third")
REGULARIZATION = 1e-8
STORED = 11
LAYERED_FROM = 6  # the iterates that `layered` combines, as the product's window of five residuals
_EMA = 5
_RESET_AFTER = 2  # RNA forgets its history after the second epoch, as in the authors' code
_SAVE_EVERY_S = 120.0
_LEAST_RATE = 0.01  # of the first: an annealing below it gains nothing


def weights_of(name: str, epoch: int, gram_nn: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, ...]:
    """The weights of the newest iterates, oldest first, that a model is made of; fewer where there are not as many yet.

    Args:
        name: of `FIRST` or `MARKED`.
        epoch: from 1.
        gram_nn: R'R of the newest mean gradients.
    """
    method, _, number = name.partition("-")
    stored = len(gram_nn)
    if method == "average":
        return tuple(fixed_weights.uniform(min(int(number), stored)))
    if method == "ema":
        return tuple(fixed_weights.exponential(min(_EMA, stored), float(number)))
    since = epoch if epoch < _RESET_AFTER else epoch - _RESET_AFTER
    n = min(int(number), since, stored) if method == "rna" else 1
    if n < 2:
        return (1.0,)
    solution = solve(spectrum(gram_nn[-n:, -n:]), REGULARIZATION)
    return (1.0,) if solution.status else tuple(solution.coefficients)


class Run:
    """A training with its history, on the device of its images.

    Args:
        spec: what is trained.
        images: on the device.
        records: where findings go.
        state: the file from which it goes on.
        scale: of the attempt.
        estimated: batches of images to measure statistics on.
    """

    def __init__(
        self,
        spec: RunSpec,
        images: Data,
        device: torch.device,
        records: Records,
        state: Path,
        scale: Scale,
        estimated: Sequence[Tensor],
    ) -> None:
        torch.manual_seed(spec.seed)
        self.spec, self._images, self._records, self._state_path = spec, images, records, state
        self._scale, self._estimated = scale, estimated
        self.network = architectures.build(spec.network, images.channels, images.classes).to(device)
        self._initial = copy.deepcopy(self.network.state_dict())
        self._scratch = copy.deepcopy(self.network)
        self.forward: Callable[[Tensor], Any] = self.network
        self._ring = Ring(self.network, STORED)
        self._begin()

    def _begin(self) -> None:
        spec = self.spec
        self._optimizer = torch.optim.SGD(
            self.network.parameters(),
            lr=spec.learning_rate(1),
            momentum=spec.momentum,
            weight_decay=spec.weight_decay,
            fused=self._estimated[0].is_cuda,  # one kernel a step
        )
        self._mean = GradientMean(self.network, self._optimizer)
        self.epoch = 0

    def compile(self) -> None:
        """Train with a compiled network from now on."""
        self.forward = torch.compile(self.network, mode="reduce-overhead", dynamic=False)

    def time(self, steps: int) -> tuple[float, float]:
        """Seconds of a step and of judging a model, after which the run is as if it had not begun."""
        epochs = (self._images.train(i, 0, self.spec.batch) for i in itertools.count(1))
        whole = (pair for pair in itertools.chain.from_iterable(epochs) if len(pair[1]) == self.spec.batch)
        begun = self._now()
        for x, y in itertools.islice(whole, steps):
            self._step(x, y)
        step = (self._now() - begun) / steps
        begun = self._now()
        re_estimate(self._scratch, self._estimated, bf16=self.spec.bf16)
        verdict(self._scratch, self._images, bf16=self.spec.bf16)
        judge = self._now() - begun
        self.network.load_state_dict(self._initial)
        self._begin()
        return step, judge

    def _now(self) -> float:
        if self._estimated[0].is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def train(self, go_on: Callable[[float], bool], say: Callable[[str], None]) -> bool:
        """Train to the end, or until `go_on` says no; returns whether the end was reached.

        Args:
            go_on: takes the seconds that the next epoch may take.
            say: called with a line for every epoch.

        Raises:
            StoreError: a file cannot be written.
        """
        self._resume()
        saved = time.perf_counter()
        longest = 0.0
        for epoch in range(self.epoch + 1, self.spec.epochs + 1):
            if not go_on(longest):
                self._save()
                return False
            begun = time.perf_counter()
            loss = self._epoch(epoch)
            trained = time.perf_counter() - begun
            if judged(epoch, self.spec.epochs):
                self._judge(epoch)
            self.epoch = epoch
            longest = max(longest, time.perf_counter() - begun)
            self._records.append(
                {
                    "kind": "epoch",
                    "run": self.spec.key,
                    "epoch": epoch,
                    "learning_rate": self.spec.learning_rate(epoch),
                    "loss": loss,
                    "seconds": [round(trained, 3), round(time.perf_counter() - begun - trained, 3)],
                    "gram": self._ring.gram_nn.tolist(),
                }
            )
            say(f"{self.spec.key}: epoch {epoch} of {self.spec.epochs}, loss {loss:.3f}")
            if time.perf_counter() - saved > _SAVE_EVERY_S and epoch < self.spec.epochs:
                self._save()
                saved = time.perf_counter()
        self._records.append({"kind": "end", "run": self.spec.key, "epochs": self.spec.epochs})
        self._records.sync()
        self._state_path.unlink(missing_ok=True)
        return True

    def _step(self, x: Tensor, y: Tensor) -> Tensor:
        self._optimizer.zero_grad()
        # what is compiled is so for whole batches
        forward = self.forward if len(y) == self.spec.batch else self.network
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.spec.bf16):
            loss = functional.cross_entropy(forward(x), y)
        torch.autograd.backward(loss)
        self._optimizer.step()
        return loss.detach().clone()  # a replayed graph writes over its outputs

    def _epoch(self, epoch: int) -> float:
        """Train one epoch and store its end; returns the mean loss."""
        self.network.train()
        for group in self._optimizer.param_groups:
            group["lr"] = self.spec.learning_rate(epoch)
        losses = [self._step(x, y) for x, y in self._images.train(epoch, self.spec.seed, self.spec.batch)]
        self._ring.append(self.network, self._mean.take())
        return float(torch.stack(losses).double().mean())

    def _judge(self, epoch: int) -> None:
        """Judge the models of an epoch; what equals another one is only named."""
        marked = epoch in self._scale.marks
        keep_losses = marked or epoch == self.spec.epochs
        members = [*FIRST, *(MARKED if marked else ())]
        weights = [weights_of(name, epoch, self._ring.gram_nn) for name, _ in members]
        flats = self._ring.combined(weights)
        seen: dict[tuple[tuple[float, ...], bool], list[str]] = {}
        held_out: dict[int, float] = {}
        for number, ((name, statistics), own) in enumerate(zip(members, weights, strict=True)):
            key = own, statistics == RE_ESTIMATED
            if key in seen:
                self._write(epoch, name, statistics, {"weights": own, "same_as": seen[key]})
                continue
            seen[key] = [name, statistics]
            found = self._verdict(flats[number], statistics)
            self._write(epoch, name, statistics, {"weights": own}, found, test_losses=keep_losses)
            fits = name.startswith(("average", "ema")) and statistics == RE_ESTIMATED and len(own) <= LAYERED_FROM
            if fits and found.loss["held_out"] == found.loss["held_out"]:
                held_out[number] = found.loss["held_out"]
        if marked and held_out:
            best = min(held_out, key=held_out.__getitem__)
            self._levers(epoch, members[best][0], weights[best], flats)

    def _levers(self, epoch: int, start: str, weights: tuple[float, ...], flats: Tensor) -> None:
        """Fit, anneal and judge, from the last iterate and from the best average of an epoch."""
        steps, spec = self._scale.levers, self.spec
        count = min(LAYERED_FROM, len(self._ring))
        if count > 1:
            begun = self._now()
            data = levers.batches(self._images, spec, epoch, steps)
            fit = levers.layered(self._ring, weights, self._scratch, data, count=count, steps=steps, bf16=spec.bf16)
            assert fit.weights is not None
            self._lever(epoch, "layered", fit, self._now() - begun, start, rows=fit.weights.float().numpy())
        rate = spec.learning_rate(epoch)
        if rate <= _LEAST_RATE * spec.learning_rate(1):
            return
        average = self._ring.combined([weights])[0]
        for name, point, begin in ((LAST, flats[0], LAST), ("average", average, start)):
            for suffix, share in (("", 1.0), ("-third", 1.0 / 3.0)):
                begun = self._now()
                data = levers.batches(self._images, spec, epoch, steps)
                fit = levers.anneal(point, share * rate, self._ring, self._scratch, data, run=spec, steps=steps)
                self._lever(epoch, f"anneal-{name}{suffix}", fit, self._now() - begun, begin, rate=share * rate)

    def _lever(self, epoch: int, name: str, fit: levers.Fitted, seconds: float, start: str, **others: Any) -> None:
        rows = others.pop("rows", None)
        about = {"start": start, "losses": fit.losses, "seconds": round(seconds, 3), "steps": len(fit.losses), **others}
        about["drawn"] = len(fit.losses) * self.spec.batch
        arrays = {} if rows is None else {"layer_weights": rows}
        self._scratch.zero_grad(set_to_none=True)
        found = self._verdict(fit.flat, RE_ESTIMATED)
        self._write(epoch, name, RE_ESTIMATED, about, found, test_losses=True, arrays=arrays)

    def _verdict(self, flat: Tensor, statistics: str) -> Verdict:
        self._ring.write(flat, self._scratch)
        if statistics == RE_ESTIMATED:
            re_estimate(self._scratch, self._estimated, bf16=self.spec.bf16)
        return verdict(self._scratch, self._images, bf16=self.spec.bf16)

    def _write(
        self,
        epoch: int,
        name: str,
        statistics: str,
        about: dict[str, Any],
        found: Verdict | None = None,
        *,
        test_losses: bool = False,
        arrays: dict[str, Any] | None = None,
    ) -> None:
        """Write a model's record; its losses are left out where there is no room for them any more."""
        header = {
            "kind": "model",
            "run": self.spec.key,
            "epoch": epoch,
            "name": name,
            "statistics": statistics,
            **about,
        }
        kept = dict(arrays or {})
        losses = {}
        if found is not None:
            header |= {"error": found.error, "loss": found.loss, "images": {p: len(w) for p, w in found.wrong.items()}}
            kept |= {f"{part}_wrong": np.packbits(wrong) for part, wrong in found.wrong.items()}
            losses = {f"{p}_losses": values for p, values in found.losses.items() if test_losses or p != "test"}
        if not self._records.append(header, kept | losses) and not self._records.append(header, kept):
            self._records.append(header)

    def _save(self) -> None:
        self._records.sync()
        content = {
            "spec": self.spec.stated(),
            "epoch": self.epoch,
            "network": self.network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "ring": self._ring.state_dict(),
        }
        with disk.writing(self._state_path, "--work"):
            self._state_path.parent.mkdir(parents=True, exist_ok=True)
            with disk.replacing(self._state_path, durable=True) as temporary, Path(temporary).open("wb") as file:
                torch.save(content, file)

    def _resume(self) -> None:
        """Go on from the state, if there is one of this run with its records; those of later epochs are void from here on."""
        device = next(self.network.parameters()).device
        if self._state_path.exists() and self._records.has("begin", self.spec.key):
            state = torch.load(self._state_path, map_location=device, weights_only=True)
            if state["spec"] == self.spec.stated():
                self.network.load_state_dict(state["network"])
                self._optimizer.load_state_dict(state["optimizer"])
                self._ring.load_state_dict(state["ring"])
                self.epoch = int(state["epoch"])
        self._records.append({"kind": "begin", "run": self.spec.key, "epoch": self.epoch, "spec": self.spec.stated()})
