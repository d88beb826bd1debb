"""An ordinary training script: a small byte-level transformer on Python's own standard library. It knows nothing of rna-watch.

Usage: python train_text.py FOLDER [--steps N] [--every N] [--seed S] [--schedule constant|cosine] [--tiny]; writes
FOLDER/step_00050.pt, ..., and goes on from the newest.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

LENGTH, BATCH, RATE = 64, 16, 2e-3
WIDTH, DEPTH, HEADS = 64, 2, 4
PARTS = ("held out", "test")  # two of ten files; the others are trained on


class Block(nn.Module):
    """Attention to what came before, then two layers; each behind a layer norm, with a way around."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mixed, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, L, width) of features of the same shape."""
        b, length, width = x.shape
        query, key, value = self.mixed(self.before(x)).view(b, length, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(b, length, width))
        return x + self.down(functional.gelu(self.up(self.between(x))))


class Transformer(nn.Module):
    """The logits (B, L, 256) of each next byte of texts (B, L)."""

    def __init__(self, width: int = WIDTH, depth: int = DEPTH) -> None:
        super().__init__()
        self.bytes, self.places = nn.Embedding(256, width), nn.Embedding(LENGTH, width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))
        self.last, self.logits = nn.LayerNorm(width), nn.Linear(width, 256)
        for table in (self.bytes, self.places):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, text: Tensor) -> Tensor:
        """See the class."""
        x = self.bytes(text) + self.places.weight[: text.shape[1]]
        return self.logits(self.last(self.blocks(x)))


def network(*, tiny: bool = False) -> Transformer:
    """The model; tiny, to see that everything runs."""
    return Transformer(16, 1) if tiny else Transformer()


@cache
def texts() -> dict[str, Tensor]:
    """The bytes of the modules of the standard library's first level: to train on, held out, and to test; whole files each."""
    found: dict[str, list[bytes]] = {"train": [], **{part: [] for part in PARTS}}
    for path in sorted(Path(os.__file__).parent.glob("*.py")):
        number = hashlib.sha256(path.name.encode()).digest()[0] % 10
        found[PARTS[number] if number < len(PARTS) else "train"].append(path.read_bytes())
    return {part: torch.frombuffer(bytearray(b"".join(files)), dtype=torch.uint8) for part, files in found.items()}


def digest() -> str:
    """What tells this text from that of another Python."""
    return hashlib.sha256(b"".join(text.numpy().tobytes() for text in texts().values())).hexdigest()[:12]


def batch(generator: torch.Generator, count: int = BATCH) -> tuple[Tensor, Tensor]:
    """Random pieces of the training text (count, L), and the byte after each of theirs."""
    text = texts()["train"]
    starts = torch.randint(0, len(text) - LENGTH, (count, 1), generator=generator)
    pieces = text[starts + torch.arange(LENGTH + 1)].long()
    return pieces[:, :-1], pieces[:, 1:]


def loss(logits: Tensor, following: Tensor) -> Tensor:
    """Mean nats a byte of each text (B,)."""
    return functional.cross_entropy(logits.transpose(1, 2), following, reduction="none").mean(1)


def main() -> None:
    """Train, and save every so many steps."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--schedule", choices=("constant", "cosine"), default="constant")
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.manual_seed(given.seed)
    model = network(tiny=given.tiny)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    done = 0
    for newest in sorted(given.folder.glob("step_*.pt"))[-1:]:
        state = torch.load(newest, weights_only=True)
        done = state["step"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    for step in range(done + 1, given.steps + 1):
        falling = 0.5 * (1.0 + math.cos(math.pi * step / given.steps)) if given.schedule == "cosine" else 1.0
        for group in optimizer.param_groups:
            group["lr"] = RATE * falling * min(1.0, step / (0.05 * given.steps))  # the first steps warm up
        text, following = batch(torch.Generator().manual_seed(1_000_003 * given.seed + step))
        optimizer.zero_grad()
        nats = loss(model(text), following).mean()
        nats.backward()
        optimizer.step()
        if step % given.every == 0:
            temporary = given.folder / f"step_{step:05d}.partial"
            torch.save({"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, temporary)
            temporary.rename(given.folder / f"step_{step:05d}.pt")
            print(f"step {step}: {nats.item():.3f} nats", flush=True)


if __name__ == "__main__":
    main()
