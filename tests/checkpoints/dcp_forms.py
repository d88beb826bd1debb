"""Ways in which training programs write folders with torch.distributed.checkpoint, by its own writer and planner."""

import dataclasses
import json
import pickle

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType

from .writers import Form

# what torch.distributed says of a program of one process, and of its own past
QUIET = [
    pytest.mark.filterwarnings("ignore:torch.distributed is (disabled|unavailable)"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


class Cut(DefaultSavePlanner):
    """The library's planner, with every tensor cut as ranks would cut it: along one axis, into so many parts."""

    def __init__(self, axis, parts, **options):
        super().__init__(**options)
        self._axis = axis
        self._parts = parts

    def create_local_plan(self):
        """The library's items, cut."""
        plan = super().create_local_plan()
        items = [piece for item in plan.items for piece in self._pieces(item)]
        self.plan = dataclasses.replace(plan, items=items)
        return self.plan

    def _pieces(self, item):
        if item.type == WriteItemType.BYTE_IO or not self.state_dict[item.index.fqn].ndim:
            return [item]
        tensor = self.state_dict[item.index.fqn]
        axis = self._axis % tensor.ndim
        lengths = [part.shape[axis] for part in torch.chunk(tensor, self._parts, axis)]
        pieces = []
        for number, length in enumerate(lengths):
            offsets, sizes = [0] * tensor.ndim, list(tensor.shape)
            offsets[axis], sizes[axis] = sum(lengths[:number]), length
            chunk = ChunkStorageMetadata(offsets=torch.Size(offsets), sizes=torch.Size(sizes))
            pieces.append(
                WriteItem(
                    index=MetadataIndex(item.index.fqn, offsets, number),
                    type=WriteItemType.SHARD,
                    tensor_data=TensorWriteData(
                        chunk=chunk, properties=TensorProperties.create_from_tensor(tensor), size=tensor.size()
                    ),
                )
            )
        return pieces

    def resolve_data(self, item):
        """The block of a piece."""
        if item.type != WriteItemType.SHARD:
            return super().resolve_data(item)
        chunk = item.tensor_data.chunk
        return self.state_dict[item.index.fqn][
            tuple(slice(at, at + size) for at, size in zip(chunk.offsets, chunk.sizes, strict=True))
        ]


def save(folder, tree, axis=0, parts=1, files=1, **options):
    """Save a state as ranks would that cut it so, into so many files."""
    writer = dcp.FileSystemWriter(folder, thread_count=files)
    dcp.save(tree, storage_writer=writer, planner=Cut(axis, parts, **options), no_dist=True)


def load(folder, prefix=""):
    """The tensors whose names begin so, without that, by the library's own loader; those of no optimizer or training."""
    described = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
    tensors = {
        name: torch.empty(each.size, dtype=each.properties.dtype)
        for name, each in described.items()
        if name.startswith(prefix)
        and isinstance(each, TensorStorageMetadata)
        and (prefix or not name.startswith(("optimizer.", "train_state.")))
    }
    dcp.load(tensors, checkpoint_id=folder, no_dist=True)
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def optimizer_state(tensors, seed):
    """What Adam keeps, by the names of the parameters."""
    state = {
        name: {"step": torch.tensor(float(seed)), "exp_avg": torch.full_like(tensor, seed)}
        for name, tensor in tensors.items()
        if tensor.is_floating_point()
    }
    return {"state": state, "param_groups": [{"lr": 0.1, "params": list(state)}]}


def _plain(**cut):
    def write(folder, tensors, seed):
        save(folder, {"model": tensors, "optimizer": optimizer_state(tensors, seed), "step": seed}, **cut)

    return write


def _bare(folder, tensors, _seed):
    save(folder, dict(tensors))


def _app(folder, tensors, seed):
    save(folder, {"app": {"model": tensors, "optim": optimizer_state(tensors, seed), "epoch": seed}}, parts=2)


def _torchtitan(folder, tensors, seed):
    state = {"step": torch.tensor(seed, dtype=torch.int32), "ntokens_seen": torch.tensor(seed * 10)}
    tree = {"optimizer": {f"state.{name}.exp_avg": tensor for name, tensor in tensors.items()}, "train_state": state}
    save(folder, {**tensors, **tree, "dataloader": {"dp_rank_0": b"state"}}, parts=2, files=2)


def _megatron(folder, tensors, seed):
    folder.mkdir()
    torch.save({"iteration": seed, "args": None}, folder / "common.pt")
    moments = {f"optimizer.state.exp_avg.{name}": tensor for name, tensor in tensors.items()}
    save(folder, {**tensors, **moments}, parts=2, files=2, flatten_state_dict=False)
    (folder / "metadata.json").write_text(json.dumps({"sharded_backend": "torch_dist", "common_backend": "torch"}))


def _lightning(folder, tensors, seed):
    # as lightning.pytorch.strategies.fsdp.FSDPStrategy.save_checkpoint does in 2.6.6
    save(folder, {"model": tensors, "optimizer_0": optimizer_state(tensors, seed)}, parts=2, files=2)
    torch.save({"epoch": seed, "global_step": seed, "hyper_parameters": {}}, folder / "meta.pt")


def _accelerate(folder, tensors, seed):
    save(folder / "pytorch_model_fsdp_0", {"model": tensors}, parts=2, files=2)
    save(folder / "optimizer_0", {"optimizer": optimizer_state(tensors, seed)})
    (folder / "config.json").write_text("{}")
    (folder / "random_states_0.pkl").write_bytes(pickle.dumps({"step": seed}))


METADATA = ".metadata"
STEP = {"step": 1}


def _form(name, write, path="step-{}", source="model", prefix="model.", counters=STEP, inner="", last=()):
    def written(folder, tensors, seed):
        write(folder, tensors, seed)
        return dict(tensors)

    return Form(
        name=name,
        format="dcp",
        path=path,
        source=source,
        counters=counters,
        write=written,
        load=lambda folder: load(folder / inner, prefix),
        checked=source != "",  # names that the writer joined itself stand there once
        memory_mib=128,  # each tensor is a torch zip of its own, described by eight objects
        last=(f"{inner}/{METADATA}".lstrip("/"), *last),
        left_out=("optimizer_0", "random_states_0.pkl") if inner else (),
    )


FORMS = {
    form.name: form
    for form in (
        _form("DCP, whole", _plain()),
        _form("DCP, rows", _plain(parts=3, files=2)),
        _form("DCP, columns", _plain(axis=-1, parts=2, files=3)),
        _form("DCP, bare", _bare, source="", prefix="", counters={}),
        _form("DCP, an application's state", _app, source="app.model", prefix="app.model.", counters={"epoch": 1}),
        _form("torchtitan", _torchtitan, source="", prefix=""),
        _form("Megatron", _megatron, path="iter_{:07d}", source="", prefix="", last=("metadata.json",)),
        _form(
            "Lightning, sharded", _lightning, path="step={}.ckpt", counters={"step": 1, "epoch": 1}, last=("meta.pt",)
        ),
        _form(
            "Accelerate, sharded",
            _accelerate,
            path="checkpoint_{}",
            counters={},
            inner="pytorch_model_fsdp_0",
            last=("random_states_0.pkl",),
        ),
    )
}


def blobs(folder):
    """Every item of a folder: its name, its file, where it begins, its bytes."""
    found = []
    for index, info in dcp.FileSystemReader(folder).read_metadata().storage_data.items():
        content = (folder / info.relative_path).read_bytes()[info.offset : info.offset + info.length]
        assert len(content) == info.length
        found.append((index.fqn, folder / info.relative_path, info.offset, content))
    return found
