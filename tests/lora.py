"""A small LoRA fine-tune of digits: adapters as PEFT writes them, and an evaluator of them.

A network is trained on the digits 0 to 4; adapters of its two first layers are then trained on all ten (with B of zero at
first, as LoRA begins), and saved as folders of an `adapter_model.safetensors` and its configuration.

`python -m tests.lora [SEEDS]` compares the last adapter with averages of the newest four, of the factors and of their products.
"""

from __future__ import annotations

import contextlib
import functools
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors.torch
import torch
from torch import nn

from rna_watch.evaluation.materialize import on_device
from rna_watch.formats.probe import probe
from rna_watch.publishing import products
from rna_watch.window.combine import Combination
from rna_watch.window.tasks import run_all
from tests.trainings import digits

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

RANK, LAYERS = 4, ("0", "2")
CONFIG = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "target_modules": list(LAYERS), "bias": "none"}
SCALE = CONFIG["lora_alpha"] / RANK
_NAME = "base_model.model.{}.lora_{}.weight"
_HELD_OUT = 500
WINDOW = 4

State = dict[str, torch.Tensor]


@functools.cache
def _split() -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    x, y = digits()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    return (x[_HELD_OUT:], y[_HELD_OUT:]), (x[:_HELD_OUT], y[:_HELD_OUT])


@contextlib.contextmanager
def _training() -> Iterator[None]:
    """Gradients, also where an evaluator is called without, and one thread, which is faster for small layers."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.enable_grad():
            yield
    finally:
        torch.set_num_threads(threads)


@functools.cache
@_training()
def base() -> nn.Sequential:
    """A network that knows the digits 0 to 4."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 10))
    (x, y), _ = _split()
    x, y = x[y < 5], y[y < 5]
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(150):
        part = torch.randint(len(x), (64,), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[part]), y[part]).backward()
        optimizer.step()
    return model.requires_grad_(requires_grad=False)


def logits(adapter: State, x: torch.Tensor) -> torch.Tensor:
    """Scores (B, 10) of the base with an adapter."""
    for name, layer in base().named_children():
        down = adapter.get(_NAME.format(name, "A"))
        added = SCALE * (x @ down.T) @ adapter[_NAME.format(name, "B")].T if down is not None else 0.0
        x = layer(x) + added
    return x


def evaluate(state_dict: State, device: torch.device) -> dict[str, float]:
    """The loss and the error on held-out digits."""
    _, (x, y) = _split()
    found = logits({name: tensor.float() for name, tensor in state_dict.items()}, x)
    loss = nn.functional.cross_entropy(found, y)
    return {"loss": float(loss), "error": 100.0 * float((found.argmax(1) != y).float().mean())}


@_training()
def train(seed: int, epochs: int, rate: float = 0.02) -> list[State]:
    """The adapter after each epoch of Adam at a constant rate."""
    generator = torch.Generator().manual_seed(seed)
    layers = dict(base().named_children())
    adapter: State = {}
    for name in LAYERS:
        outputs, inputs = layers[name].weight.shape
        adapter[_NAME.format(name, "A")] = torch.randn(RANK, inputs, generator=generator) / RANK
        adapter[_NAME.format(name, "B")] = torch.zeros(outputs, RANK)
    optimizer = torch.optim.Adam([each.requires_grad_() for each in adapter.values()], lr=rate)
    (x, y), _ = _split()
    found = []
    for _ in range(epochs):
        for part in torch.randperm(len(x), generator=generator).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits(adapter, x[part]), y[part]).backward()
            optimizer.step()
        found.append({name: tensor.detach().clone() for name, tensor in adapter.items()})
    return found


def save(run: Path, adapters: Sequence[State], dtype: torch.dtype = torch.float32, **more: torch.Tensor) -> None:
    """Write adapters as PEFT does: `checkpoint-N/` with weights and configuration."""
    run.mkdir(exist_ok=True)
    for number, adapter in enumerate(adapters, start=1):
        folder = run / f"checkpoint-{number}"
        folder.mkdir()
        tensors = {name: tensor.to(dtype) for name, tensor in (adapter | more).items()}
        safetensors.torch.save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
        (folder / "adapter_config.json").write_text(json.dumps(CONFIG))


def compare(seed: int, epochs: Sequence[int], rate: float) -> dict[int, tuple[float, float, float, float]]:
    """Held-out losses of the last adapter, of the averages of factors and of products, and the cross-term, by epoch."""
    adapters = train(seed, max(epochs), rate)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder) / "run", adapters)
        for epoch in epochs:
            paths = [Path(folder) / "run" / f"checkpoint-{number}" for number in range(epoch - WINDOW + 1, epoch + 1)]
            plain = Combination(layouts=tuple(probe(str(path)) for path in paths), weights=(1.0 / WINDOW,) * WINDOW)
            made = products.make(plain, "average", f"{folder}/factors", run_all)
            models = (adapters[epoch - 1], on_device(plain, "cpu"), on_device(made.combination, "cpu"))
            last, average, product = (evaluate(model, torch.device("cpu"))["loss"] for model in models)
            found[epoch] = (last, average, product, made.account["product"]["cross_term"])
    return found


def main(seeds: int = 10, epochs: Sequence[int] = (4, 6, 8, 12), rates: Sequence[float] = (0.005, 0.02)) -> None:
    """Print the mean of each over seeds, and that of the difference of the two averages with its standard error."""
    print("| rate | epoch | last | average of factors | of products | products - factors | cross-term |")
    print("|---|---|---|---|---|---|---|")
    for rate in rates:
        runs = [compare(seed, epochs, rate) for seed in range(seeds)]
        for epoch in epochs:
            values = torch.tensor([run[epoch] for run in runs], dtype=torch.float64)
            last, average, product, cross = values.mean(0).tolist()
            by = values[:, 2] - values[:, 1]
            error = float(by.std() / len(by) ** 0.5)
            difference = f"{float(by.mean()):+.4f} ± {error:.4f}"
            print(f"| {rate:g} | {epoch} | {last:.3f} | {average:.3f} | {product:.3f} | {difference} | {cross:.1%} |")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
