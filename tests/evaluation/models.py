"""Models for evaluators: files on disk and combinations of them."""

from pathlib import Path

import torch

from rna_watch.checkpoints.combine import Combination
from rna_watch.checkpoints.probe import probe
from rna_watch.evaluation.evaluator import EvaluatorSpec

FILE = Path(__file__).with_name("users_evaluator.py")


def combination(folder, mode=0, name="epoch"):
    """Half of one model and half of another, under DistributedDataParallel's names, with the mode in it."""
    layouts = []
    for number in (1.0, 3.0):
        path = folder / f"{name}_{mode}_{number:g}.pt"
        torch.save({"state_dict": {"module.w": torch.full((4,), number), "module.mode": torch.tensor(mode)}}, path)
        layouts.append(probe(str(path)))
    return Combination(layouts=tuple(layouts), weights=(0.5, 0.5))


def spec(folder, *, function=None, command=None, timeout_s=60.0, **options):
    """A specification with the folder as working directory."""
    return EvaluatorSpec(
        function=function,
        command=command,
        device="cpu",
        timeout_s=timeout_s,
        threads=1,
        cwd=str(folder),
        scratch=str(folder / "scratch"),
        **options,
    )
