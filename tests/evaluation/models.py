"""Models for evaluators: files on disk and combinations of them."""

from pathlib import Path

import torch

from rna_watch.evaluation.evaluator import EvaluatorSpec, FitRequest
from rna_watch.evaluation.worker import EvaluationWorker
from rna_watch.formats.probe import probe
from rna_watch.window.combine import Combination

from .users_network import Network

FILE = Path(__file__).with_name("users_evaluator.py")
NETWORK = Path(__file__).with_name("users_network.py")


def combination(folder, mode=0, name="epoch"):
    """Half of one model and half of another, under DistributedDataParallel's names, with the mode in it."""
    layouts = []
    for number in (1.0, 3.0):
        path = folder / f"{name}_{mode}_{number:g}.pt"
        torch.save({"state_dict": {"module.w": torch.full((4,), number), "module.mode": torch.tensor(mode)}}, path)
        layouts.append(probe(str(path)))
    return Combination(layouts=tuple(layouts), weights=(0.5, 0.5))


def network_window(folder, count=3, dtype=torch.float32, weights=None):
    """Checkpoints of the user's network, each a random step from the last; all weight on the newest unless told."""
    generator = torch.Generator().manual_seed(0)
    network = Network()
    layouts = []
    for number in range(count):
        with torch.no_grad():
            for tensor in (*network.parameters(), network.bn.running_mean):
                tensor.copy_(0.5 * tensor * (number > 0) + torch.randn(tensor.shape, generator=generator))
            network.bn.running_var.copy_(torch.rand(4, generator=generator))
            network.bn.num_batches_tracked.fill_(10 + number)
        kept = {key: tensor.to(dtype) for key, tensor in network.state_dict().items() if tensor.is_floating_point()}
        kept["decoder.weight"] = kept["encoder.weight"]
        kept["bn.num_batches_tracked"] = network.bn.num_batches_tracked
        path = folder / f"network_{number}.pt"
        torch.save({"state_dict": {f"module.{key}": tensor for key, tensor in kept.items()}}, path)
        layouts.append(probe(str(path)))
    return Combination(layouts=tuple(layouts), weights=tuple(weights or [0.0] * (count - 1) + [1.0]))


def request(combination, **options):
    """A request to fit its weights."""
    return FitRequest(combination=combination, **{"seed": 1, "memory_limit_bytes": 2**20} | options)


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


def python(folder, text, function="evaluate", **options):
    """A worker for a user's file with this text."""
    (folder / "user.py").write_text(text)
    return EvaluationWorker(spec(folder, function=f"user.py:{function}", **options))
