"""Ways in which training programs write a model: the same tensors in many files."""

import argparse
import collections
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from . import damage

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class Settings:
    """An object of the training program's own, pickled next to the model."""

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


class Larger(Network):
    """The same with a matrix of two axes that nothing divides evenly, and a tensor of no numbers."""

    def __init__(self):
        super().__init__()
        self.wide = torch.nn.Linear(7, 5, bias=False)
        self.register_buffer("empty", torch.empty(0, 3))


def model(seed, dtype=torch.float32, kind=Network):
    """The state dict of a network with values of their own for every seed."""
    generator = torch.Generator().manual_seed(seed)
    tensors = kind().state_dict()
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
    """Everything else that training programs put next to a model, much of it refused by torch's safe reader."""
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


_PARAMETERS = {name for name, _ in Network().named_parameters()}


def bare(tensors, _seed):
    """A bare state dict."""
    return tensors


def plain_dict(tensors, _seed):
    """A bare state dict that lost its order class on the way."""
    return dict(tensors)


def under(key):
    """The model under a key, with an epoch and optimizer state next to it."""

    def build(tensors, seed):
        return {"epoch": seed, key: tensors, "optimizer": optimizer_state(seed)}

    return build


def distributed(tensors, seed):
    """As DistributedDataParallel names its tensors."""
    return under("state_dict")({f"module.{name}": tensor for name, tensor in tensors.items()}, seed)


def parameters(tensors, seed):
    """Parameters instead of tensors (`keep_vars=True`), one with an attribute of its own."""
    for name in tensors.keys() & _PARAMETERS:
        tensors = tensors | {name: torch.nn.Parameter(tensors[name])}
    tensors["head.weight"].tensor_model_parallel = True
    return under("model")(tensors, seed)


def whole(tensors, _seed=0):
    """The network itself, as an object, with these tensors and no others."""
    network = Network()
    for module in network.modules():
        module._parameters.clear()
        module._buffers.clear()
    for name, tensor in tensors.items():
        *places, last = name.split(".")
        module = network
        for place in places:
            if place not in module._modules:
                module.add_module(place, torch.nn.Module())
            module = module._modules[place]
        if name in _PARAMETERS:
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


def averaged(seed):
    """A moving average's tensors, as `AveragedModel` names them."""
    return {"n_averaged": torch.tensor(seed)} | {f"module.{name}": each for name, each in model(seed + 50).items()}


def lightning(tensors, seed):
    """As Lightning saves."""
    return {
        "epoch": seed,
        "global_step": 10 * seed,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": tensors,
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": seed}}}},
        "callbacks": {
            "ModelCheckpoint{'monitor': 'loss'}": {"best_model_score": torch.tensor(0.5), "dirpath": Path("a")}
        },
        "optimizer_states": [optimizer_state(seed)],
        "lr_schedulers": [],
        "hyper_parameters": {"lr": 0.1},
    }


def timm(tensors, seed):
    """As timm saves."""
    return {
        "epoch": seed,
        "arch": "resnet",
        "state_dict": tensors,
        "optimizer": optimizer_state(seed),
        "args": argparse.Namespace(lr=0.1, model_ema=True),
        "state_dict_ema": model(seed + 50),
        "metric": 0.5,
    }


def torchvision(tensors, seed):
    """As torchvision's references save."""
    return {
        "model": tensors,
        "optimizer": optimizer_state(seed),
        "epoch": seed,
        "args": argparse.Namespace(),
        "model_ema": averaged(seed),
    }


def nanogpt(tensors, seed):
    """As nanoGPT saves a compiled model."""
    return {
        "model": {f"_orig_mod.{name}": tensor for name, tensor in tensors.items()},
        "optimizer": optimizer_state(seed),
        "model_args": {"n_layer": 2},
        "iter_num": 10 * seed,
        "best_val_loss": torch.tensor(0.5),
        "config": {"out_dir": "out"},
    }


def composer(tensors, seed):
    """As Composer saves."""
    moments = {name: {"exp_avg": tensor} for name, tensor in tensors.items()}
    return {
        "state": {
            "model": tensors,
            "optimizers": {"Adam": {"state": moments, "param_groups": []}},
            "timestamp": {"epoch": seed, "batch": 100 * seed, "iteration": 0},
            "callbacks": {},
        },
        "rng": [{"python": (3, (1, 2)), "torch": torch.get_rng_state()}],
    }


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
EPOCH = {"epoch": 1}
EPOCH_AND_STEP = {"epoch": 1, "step": 10}
# for each trainer: what it saves, the model's key, the names' prefix, the file's name, what the file tells of epoch and step
TRAINERS = {
    "Lightning": (lightning, "state_dict", "", "epoch={0}-step={0}0.ckpt", EPOCH_AND_STEP),
    "timm": (timm, "state_dict", "", "checkpoint-{}.pth.tar", EPOCH),
    "torchvision": (torchvision, "model", "", "model_{}.pth", EPOCH),
    "nanoGPT": (nanogpt, "model", "_orig_mod.", "ckpt{}.pt", {"step": 10}),
    "Composer": (composer, "state.model", "", "ep{0}-ba{0}00-rank0.pt", {"epoch": 1, "step": 100}),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Form:
    """One way to write a model: `write` gives the tensors under their names, `load` those of what is written.

    `path` is the name of the file or folder of a number, and `counters` what it tells of number 1 (of n, n times as much).
    `memory_mib`: what a window of three with ten thousand small tensors takes less than.
    `checked`: damage of anything but weights shows, as it is under a checksum or said twice. Of a folder, `last` are the files
    besides the model's without which it is incomplete, and `left_out` those that are not written out. `consolidated`: what is
    written out is of another form. `pickled`: there is a pickle in it. `without_checksums`: a file's bytes with every checksum
    blotted out.
    """

    name: str
    format: str
    path: str
    source: str = ""
    prefix: str = ""
    counters: Mapping[str, int] = dataclasses.field(default_factory=dict)
    write: Callable[[Path, dict, int], dict]
    load: Callable[[Path], dict]
    dtypes: tuple[torch.dtype, ...] = DTYPES
    checked: bool = False
    memory_mib: int = 64
    last: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    consolidated: bool = False
    pickled: bool = True
    without_checksums: Callable[[bytes], bytes] = damage.without_checksums

    @property
    def ending(self):
        """How the names of files of this form end."""
        return Path(self.path).suffix


def _inside(tree, source):
    """What is under a dotted path."""
    for key in source.split(".") if source else ():
        tree = tree[key]
    return tree


def _torch_form(name, kind="torch zip", path="epoch_{}.pt", counters=EPOCH):
    build, source, prefix = (NESTINGS | OBJECTS | {name: each[:3] for name, each in TRAINERS.items()})[name]

    def write(path, tensors, seed):
        torch.save(build(tensors, seed), path, _use_new_zipfile_serialization=kind == "torch zip")
        return {f"{prefix}{key}": tensor.detach() for key, tensor in tensors.items()}

    def load(path):
        return as_state_dict(_inside(torch.load(path, weights_only=name not in {*UNSAFE, *TRAINERS}), source))

    return Form(
        name=name if name in TRAINERS else f"{kind}, {name}",
        format=kind,
        path=path,
        source=source,
        counters=counters if source else {},
        write=write,
        load=load,
        checked=kind == "torch zip",
        memory_mib=128 if name in OBJECTS else 64,  # each of the modules around the tensors has twenty attributes
    )


def as_state_dict(value):
    """The state dict of a network, or what is one already."""
    return value.state_dict() if isinstance(value, torch.nn.Module) else value


def _write_without_checksums(path, tensors, seed):
    torch.serialization.set_crc32_options(False)
    try:
        return FORMS["torch zip, with company"].write(path, tensors, seed)
    finally:
        torch.serialization.set_crc32_options(True)


def _write_safetensors(path, tensors, seed):
    safetensors.torch.save_file(dict(tensors), path, metadata={"format": "pt", "epoch": str(seed)})
    return dict(tensors)


SAFETENSORS = Form(
    name="safetensors",
    format="safetensors",
    path="epoch_{}.safetensors",
    counters=EPOCH,
    write=_write_safetensors,
    load=safetensors.torch.load_file,
    pickled=False,
)
# nestings are the model source's affair, whatever the format: the old one takes those that differ in it
OLD = ("bare", "state_dict", "parameters", "with company", *OBJECTS)
FORMS = {
    form.name: form
    for form in [
        *map(_torch_form, NESTINGS | OBJECTS),
        *(_torch_form(name, "torch legacy") for name in OLD),
        *(_torch_form(name, path=path, counters=counters) for name, (*_, path, counters) in TRAINERS.items()),
        SAFETENSORS,
    ]
}
BARE = FORMS["torch zip, bare"]
FORMS["torch zip, without checksums"] = dataclasses.replace(
    FORMS["torch zip, with company"],
    name="torch zip, without checksums",
    write=_write_without_checksums,
    checked=False,
)
