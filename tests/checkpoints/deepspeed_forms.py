"""Folders as DeepSpeed 0.19 writes them, made without it, and its consolidation as a twin (`zero_to_fp32.py`)."""

from __future__ import annotations

import collections
import enum
import math
import re

import safetensors.torch
import torch

from .writers import Form, Larger

FROZEN = "embed.weight"
SHARED = {"head.weight": "body.0.weight"}


class ZeroStageEnum(enum.IntEnum):
    """As DeepSpeed has it: an enumeration in the pickle, of a class that is not ours."""

    optimizer_states = 1
    gradients = 2
    weights = 3


def model(seed):
    """Trained parameters (fp32), a frozen one (bf16) and buffers, by name; sizes that no number of ranks divides."""
    generator = torch.Generator().manual_seed(seed)
    frozen = torch.Generator().manual_seed(0)
    shapes = {"body.0.weight": (5, 7), "body.1.weight": (3, 5), "body.0.bias": (5,), "body.1.bias": (3,), "scale": ()}
    return (
        {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()},
        {FROZEN: torch.randn(3, 3, generator=frozen).bfloat16()},
        {
            "norm.running_var": torch.rand(4, generator=generator),
            "norm.num_batches_tracked": torch.tensor(2**60 + seed),
        },
    )


def groups_of(trained):
    """The optimizer's groups: matrices decay, what has fewer axes does not."""
    groups = [[name for name in trained if (trained[name].ndim > 1) is decays] for decays in (True, False)]
    return [group for group in groups if group]


def write(folder, seed, *, stage, ranks, paddings=False, prefix="", parts=None, shared=SHARED):
    """A checkpoint of a stage, cut over ranks, of trained, frozen and other tensors; returns all of them."""
    trained, frozen, buffers = parts or model(seed)
    folder.mkdir(parents=True, exist_ok=True)
    groups = groups_of(trained)
    shapes = [collections.OrderedDict((name, trained[name].shape) for name in group) for group in groups]
    module = {name: tensor.bfloat16() for name, tensor in trained.items()} | frozen | buffers
    state = {
        "module": collections.OrderedDict(module),
        "buffer_names": list(buffers),
        "optimizer": None,
        "param_shapes": shapes,
        "frozen_param_shapes": collections.OrderedDict((name, tensor.shape) for name, tensor in frozen.items()),
        "shared_params": dict(shared),
        "global_steps": seed * 10,
        "dp_world_size": ranks,
        "mp_world_size": 1,
        "ds_version": "0.19.8",
    }
    for rank in range(ranks if stage == 3 else 1):
        own = state | {"frozen_param_fragments": frozen}
        if stage == 3:
            own["frozen_param_fragments"] = {name: _part(tensor, rank, ranks) for name, tensor in frozen.items()}
            own["module"] = buffers | {name: torch.empty(0) for name in trained}
        name = f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt" if stage == 3 else "mp_rank_00_model_states.pt"
        torch.save(own, folder / name)
    for rank in range(ranks):
        optimizer = (
            _over_ranks(trained, rank, ranks, seed) if stage == 3 else _in_groups(trained, rank, ranks, seed, paddings)
        )
        optimizer |= {"zero_stage": ZeroStageEnum(stage), "overflow": False}
        content = {"optimizer_state_dict": optimizer, "ds_config": {}, "ds_version": "0.19.8"}
        torch.save(content, folder / f"{prefix}zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    (folder / "zero_to_fp32.py").write_text("# shipped with every checkpoint\n")
    return trained | frozen | buffers


def _moments(flats, seed):
    """What Adam keeps for each flat tensor: it counts steps in a float."""
    return {
        number: {"step": torch.tensor(10.0 * seed), "exp_avg": torch.zeros_like(flat)}
        for number, flat in enumerate(flats)
    }


def _part(tensor, rank, ranks):
    """A rank's part of a parameter, padded (ZeRO-3)."""
    size = math.ceil(tensor.numel() / ranks)
    padded = torch.cat([tensor.flatten(), tensor.new_full((size * ranks - tensor.numel(),), 99.0)])
    return padded[rank * size : (rank + 1) * size]


def _over_ranks(trained, rank, ranks, seed):
    groups = [torch.cat([_part(trained[name], rank, ranks) for name in group]) for group in groups_of(trained)]
    return {
        "partition_count": ranks,
        "fp32_flat_groups": groups,
        "optimizer_state_dict": {"state": _moments(groups, seed), "param_groups": []},
    }


def _in_groups(trained, rank, ranks, seed, paddings):
    partitions, behind = [], []
    for group in groups_of(trained):
        gaps = [(4 - trained[name].numel() % 4) % 4 if paddings else 0 for name in group]
        pieces = [
            piece
            for name, gap in zip(group, gaps, strict=True)
            for piece in (trained[name].flatten(), torch.full((gap,), 99.0))
        ]
        flat = torch.cat(pieces)
        align = 2 * ranks
        whole = torch.cat([flat, torch.full((-len(flat) % align,), 99.0)])
        size = len(whole) // ranks
        own = whole[rank * size : (rank + 1) * size].clone()
        missing = max(0, min(size, (rank + 1) * size - len(flat)))
        partitions.append(own[: size - missing])  # a view: the padding is in the file, but not in the tensor
        behind.append(gaps)
    return {
        "partition_count": [ranks] * len(partitions),
        "single_partition_of_fp32_groups": partitions,
        "base_optimizer_state": {"state": _moments(partitions, seed), "param_groups": [{"lr": 0.1}]},
        **({"param_alignment_paddings": behind} if paddings else {}),
    }


def _by_rank(paths):
    """Rank 10 comes after rank 9."""
    return sorted(paths, key=lambda path: [int(number) for number in re.findall(r"_rank_(\d+)", path.name)])


def consolidate(folder):
    """What `zero_to_fp32.py` gives, with whole tensors in memory."""
    states = [torch.load(path, weights_only=False) for path in _by_rank(folder.glob("*_model_states.pt"))]
    shards = [torch.load(path, weights_only=False) for path in _by_rank(folder.glob("*_optim_states.pt"))]
    optimizers = [shard["optimizer_state_dict"] for shard in shards]
    first = states[0]
    found = {name: first["module"][name] for name in first["buffer_names"]}
    if optimizers[0]["zero_stage"] == 3:
        for name, shape in first["frozen_param_shapes"].items():
            whole = torch.cat([state["frozen_param_fragments"][name] for state in states])
            found[name] = whole[: shape.numel()].view(shape)
        flats = [torch.cat(each["fp32_flat_groups"]) for each in optimizers]
        offset = 0
        for name, shape in ((name, shape) for group in first["param_shapes"] for name, shape in group.items()):
            size = math.ceil(shape.numel() / len(flats))
            found[name] = torch.cat([flat[offset : offset + size] for flat in flats])[: shape.numel()].view(shape)
            offset += size
    else:
        found |= first["frozen_param_fragments"]
        paddings = optimizers[0].get("param_alignment_paddings")
        for group, shapes in enumerate(first["param_shapes"]):
            vector = torch.cat([each["single_partition_of_fp32_groups"][group] for each in optimizers])
            offset = 0
            for number, (name, shape) in enumerate(shapes.items()):
                found[name] = vector[offset : offset + shape.numel()].view(shape)
                offset += shape.numel() + (paddings[group][number] if paddings else 0)
    for alias, name in first["shared_params"].items():
        found[alias] = found[name]
    return found


def _form(name, **cut):
    """A network's parameters are trained, and all that is named otherwise and no buffer of it."""
    kept = {name for name, _ in Larger().named_buffers()}

    def written(folder, tensors, seed):
        trained = {name: tensor for name, tensor in tensors.items() if name not in kept}
        buffers = {name: tensor for name, tensor in tensors.items() if name in kept}
        write(folder, seed, parts=(trained, {}, buffers), shared={}, **cut)
        return dict(tensors)

    return Form(
        name=name,
        format="deepspeed",
        path="global_step{}0",
        counters={"step": 10},
        write=written,
        load=lambda folder: safetensors.torch.load_file(folder / "model.safetensors"),
        memory_mib=128,  # every rank's file names every tensor
        dtypes=(torch.float32,),
        checked=True,
        left_out=("zero_to_fp32.py",),
        consolidated=True,
    )


def _without_zero(folder, tensors, seed):
    folder.mkdir()
    state = {"module": dict(tensors), "optimizer": {"state": {}}, "param_shapes": None, "global_steps": 10 * seed}
    torch.save(state, folder / "mp_rank_00_model_states.pt")
    return dict(tensors)


FORMS = {
    form.name: form
    for form in (
        Form(
            name="DeepSpeed without ZeRO",
            format="deepspeed without ZeRO",
            path="global_step{}0",
            source="module",
            counters={"step": 10},
            write=_without_zero,
            load=lambda folder: torch.load(folder / "mp_rank_00_model_states.pt", weights_only=True)["module"],
            checked=True,
        ),
        _form("DeepSpeed ZeRO-1", stage=1, ranks=2, prefix="bf16_"),
        _form("DeepSpeed ZeRO-2", stage=2, ranks=3, paddings=True),
        _form("DeepSpeed ZeRO-3", stage=3, ranks=4),
    )
}
