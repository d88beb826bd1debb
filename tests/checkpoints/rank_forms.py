"""Folders with one file for each rank of FSDP, written by torch's DTensor over a process group that is none."""

import contextlib

import torch
import torch.distributed as dist
from safetensors.torch import load_file

from .writers import Form

_RANKS = 2


@contextlib.contextmanager
def _rank(number):
    """This process as one of the ranks."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=number, world_size=_RANKS, store=FakeStore())
    try:
        yield init_device_mesh("cpu", (_RANKS,))
    finally:
        dist.destroy_process_group()


def write(folder, tensors, number):
    """Cut what has rows over the ranks; the rest lies whole in both files. Complex numbers are not cut."""
    from torch.distributed.tensor import DTensor, Shard

    folder.mkdir(parents=True)
    for rank in range(_RANKS):
        state = {}
        with _rank(rank) as mesh:
            for name, tensor in tensors.items():
                state[name] = tensor.clone()
                if tensor.ndim and not tensor.is_complex():
                    parts = tensor.chunk(_RANKS)
                    own = (parts[rank] if rank < len(parts) else tensor[:0]).clone()
                    whole = {"shape": tensor.shape, "stride": tensor.stride()}
                    state[name] = DTensor.from_local(own, mesh, [Shard(0)], run_check=False, **whole)
            torch.save(state, folder / f"model_world_size_{_RANKS}_rank_{rank}.pt")
    (folder / "fsdp_config.json").write_text("{}")
    return tensors


FORMS = {
    form.name: form
    for form in (
        Form(
            name="FSDP ranks",
            format="FSDP ranks",
            path="global_step_{}",
            write=write,
            load=lambda folder: load_file(folder / "model.safetensors"),
            checked=True,
            consolidated=True,
        ),
    )
}
