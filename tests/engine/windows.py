"""A window on disk that is cut into many tasks, and what they come to when they are done one after another."""

import torch

from rna_watch.acceleration.gram import merge
from rna_watch.formats.probe import probe
from rna_watch.publishing.write import publish
from rna_watch.window import tasks, tasks_plan
from rna_watch.window.combine import Combination

BUDGET_MIB = 1.0
WEIGHTS = (0.0, -0.5, 0.25, 1.25)


def write(folder, count=4, rows=40, columns=500):
    """Checkpoints of a run with parameters of two dtypes, statistics and integers; returns their layouts."""
    layouts = []
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        tensors = {f"w{row}": torch.randn(columns, generator=generator).view(-1, 5) for row in range(rows)}
        tensors["half"] = torch.randn(columns, generator=generator).half()
        tensors["bn.running_mean"] = torch.randn(columns, generator=generator)
        tensors["bn.running_var"] = torch.rand(columns, generator=generator)
        tensors["bn.num_batches_tracked"] = torch.tensor(seed)
        torch.save({"model": tensors, "epoch": seed}, folder / f"epoch_{seed}.pt")
        layouts.append(probe(str(folder / f"epoch_{seed}.pt")))
    return tuple(layouts)


def write_factors(folder, count=4, pairs=8, rank=4, size=90):
    """Checkpoints of factors of LoRA, which move; returns their layouts."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        f"{n}.lora_{side}": shape for n in range(pairs) for side, shape in (("A", (rank, size)), ("B", (size, rank)))
    }
    first = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    layouts = []
    for step in range(count):
        moved = {name: each + 0.1 * torch.randn(each.shape, generator=generator) for name, each in first.items()}
        torch.save(moved, folder / f"step_{step}.pt")
        layouts.append(probe(str(folder / f"step_{step}.pt")))
    return tuple(layouts)


def serial(work):
    """The results of tasks, done one after another in this process."""
    return [tasks.run(task) for task in work]


def gram(layouts, run=serial):
    """The Gram matrix of a window, by an engine's `map` or serially."""
    return merge(run(tasks_plan.gram_tasks(layouts, len(layouts) - 1, BUDGET_MIB)))


def published(layouts, destination, run=serial):
    """The bytes of a published combination; every second tensor has a row of weights of its own."""
    names = [extent.name for extent in layouts[-1].extents][::2]
    rows = tuple((name, (0.1 * k, *WEIGHTS[1:3], 1.25 - 0.1 * k)) for k, name in enumerate(names))
    publish(Combination(layouts=layouts, weights=WEIGHTS, layer_weights=rows), str(destination), run)
    return destination.read_bytes()
