"""Ways in which training programs write a model: the same tensors in many files."""

import argparse
import collections
import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class Settings:
    """An object of the training program's own, pickled beside the model."""

    def __init__(self):
        self.learning_rate = 0.1


class Network(torch.nn.Module):
    """A network with every kind of entry: weights, normalization statistics, a counter, a flag, a number without axes."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)
        self.bn = torch.nn.BatchNorm2d(4)
        self.head = torch.nn.Linear(4, 5)
        self.scale = torch.nn.Parameter(torch.tensor(1.0))
        self.register_buffer("mask", torch.tensor([True, False]))


def model(seed, dtype=torch.float32):
    """The state dict of a `Network` with values of their own for every seed."""
    generator = torch.Generator().manual_seed(seed)
    tensors = Network().state_dict()
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            values = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(dtype)
            tensors[name] = values.abs() if name.endswith("running_var") else values
    tensors["bn.num_batches_tracked"] = torch.tensor(seed)
    tensors["mask"] = torch.tensor([True, bool(seed % 2)])
    return tensors


def optimizer_state(seed):
    """What Adam keeps for two parameters."""
    moments = {
        number: {
            "step": torch.tensor(float(seed)),
            "exp_avg": torch.full((3,), float(seed)),
            "exp_avg_sq": torch.ones(3),
        }
        for number in range(2)
    }
    return {"state": moments, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999), "params": [0, 1]}]}


def company(seed):
    """Everything else that training programs put beside a model, much of it refused by torch's safe reader."""
    counts = collections.defaultdict(list)
    counts["loss"].append(0.5)
    return {
        "epoch": seed,
        "optimizer": optimizer_state(seed),
        "args": argparse.Namespace(lr=0.1, arch="resnet18", folders=[Path("data")]),
        "best": np.float32(0.25),
        "metrics": np.arange(3.0),
        "history": counts,
        "settings": Settings(),
        "rng": torch.get_rng_state(),
        "none": None,
    }


def bare(tensors, _seed):
    """A bare state dict."""
    return tensors


def plain_dict(tensors, _seed):
    """A bare state dict that lost its order class on the way."""
    return dict(tensors)


def under(key):
    """The model under a key, with an epoch and optimizer state beside it."""

    def build(tensors, seed):
        return {"epoch": seed, key: tensors, "optimizer": optimizer_state(seed)}

    return build


def distributed(tensors, seed):
    """As DistributedDataParallel names its tensors."""
    return under("state_dict")({f"module.{name}": tensor for name, tensor in tensors.items()}, seed)


def parameters(tensors, seed):
    """Parameters instead of tensors (`keep_vars=True`), one with an attribute of its own."""
    network = Network()
    for name, _ in network.named_parameters():
        tensors = tensors | {name: torch.nn.Parameter(tensors[name])}
    tensors["head.weight"].tensor_model_parallel = True
    return under("model")(tensors, seed)


def whole(tensors, _seed=0):
    """The network itself, as an object, with these tensors."""
    network = Network()
    for name, tensor in tensors.items():
        place, _, last = name.rpartition(".")
        module = network.get_submodule(place)
        if last in module._parameters:
            module._parameters[last] = torch.nn.Parameter(tensor)
        else:
            module.register_buffer(last, tensor)
    network.register_buffer("cache", torch.full((3,), 7.0), persistent=False)
    return network


def whole_under(key):
    """The network itself under a key."""

    def build(tensors, seed):
        return under(key)(whole(tensors), seed)

    return build


def with_company(tensors, seed):
    """The model among objects of foreign classes."""
    return {"state_dict": tensors, **company(seed)}


NESTINGS = {
    "bare": (bare, "", ""),
    "plain dict": (plain_dict, "", ""),
    "state_dict": (under("state_dict"), "state_dict", ""),
    "model": (under("model"), "model", ""),
    "model_state_dict": (under("model_state_dict"), "model_state_dict", ""),
    "net": (under("net"), "net", ""),
    "module": (under("module"), "module", ""),
    "a key of its own": (under("encoder"), "encoder", ""),
    "DistributedDataParallel": (distributed, "state_dict", "module."),
    "parameters": (parameters, "model", ""),
    "with company": (with_company, "state_dict", ""),
}
OBJECTS = {"module object": (whole, "", ""), "module object under model": (whole_under("model"), "model", "")}
UNSAFE = {"with company", *OBJECTS}  # torch's safe reader refuses them


@dataclasses.dataclass(frozen=True, kw_only=True)
class Form:
    """One way to write a model: `write` gives the tensors under their names, `load` those of any file of this form."""

    name: str
    format: str
    ending: str
    source: str
    write: Callable[[Path, dict, int], dict]
    load: Callable[[Path], dict]


def _torch_form(name, kind="torch zip"):
    build, source, prefix = (NESTINGS | OBJECTS)[name]

    def write(path, tensors, seed):
        torch.save(build(tensors, seed), path, _use_new_zipfile_serialization=kind == "torch zip")
        return {f"{prefix}{key}": tensor.detach() for key, tensor in tensors.items()}

    def load(path):
        tree = torch.load(path, weights_only=name not in UNSAFE)
        return as_state_dict(tree[source] if source else tree)

    return Form(name=f"{kind}, {name}", format=kind, ending=".pt", source=source, write=write, load=load)


def as_state_dict(value):
    """The state dict of a network, or what is one already."""
    return value.state_dict() if isinstance(value, torch.nn.Module) else value


def _write_safetensors(path, tensors, seed):
    safetensors.torch.save_file(dict(tensors), path, metadata={"format": "pt", "epoch": str(seed)})
    return dict(tensors)


SAFETENSORS = Form(
    name="safetensors",
    format="safetensors",
    ending=".safetensors",
    source="",
    write=_write_safetensors,
    load=safetensors.torch.load_file,
)
# nestings are the model source's affair, whatever the format: the old one takes those that differ in it
OLD = ("bare", "state_dict", "parameters", "with company", *OBJECTS)
FORMS = {
    form.name: form
    for form in [
        *map(_torch_form, NESTINGS | OBJECTS),
        *(_torch_form(name, "torch legacy") for name in OLD),
        SAFETENSORS,
    ]
}
BARE = FORMS["torch zip, bare"]
