"""Folders with one file for each rank of FSDP, written by torch's own DTensor."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from rna_watch.errors import IncompleteCheckpoint, RefusedCheckpoint
from rna_watch.formats.probe import probe
from tests.daemon.runs import events, rna_watch

if TYPE_CHECKING:
    from pathlib import Path

# torch's own arithmetic cuts the tensors; a fake process group stands for the ranks, one after another
_WRITER = """
import os, sys, torch, torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.testing._internal.distributed.fake_pg import FakeStore
def write(root, sizes, steps):
  ranks = torch.Size(sizes).numel()
  one = len(sizes) == 1
  ways = [[Shard(0)], [Shard(1)], [Replicate()], [Shard(0)], [Shard(0)]] if one else [
      [Replicate(), Shard(0)], [Shard(0), Shard(1)], [Shard(0), Shard(0)], [Shard(1), Replicate()], [Shard(0), Shard(0)]]
  shapes = {"a.weight": (7, 5), "b.weight": (6, 10), "c.weight": (9,), "d.weight": (4, 4), "e.bias": (2,)}
  torch.manual_seed(0)
  full = {name: torch.randn(shape) for name, shape in shapes.items()}
  full["d.weight"] = full["d.weight"].bfloat16()
  for step in range(1, steps + 1):
      for each in full.values():
          each.mul_(0.9)
      whole = full | {"buffer": torch.arange(3), "running_mean": torch.full((3,), float(step))}
      folder = root if steps == 1 else f"{root}/global_step_{step}/actor"
      os.makedirs(folder, exist_ok=True)
      torch.save(whole, f"{root}/../whole_{step}.pt")
      for rank in range(ranks):
          dist.init_process_group("fake", rank=rank, world_size=ranks, store=FakeStore())
          mesh = init_device_mesh("cpu", sizes)
          state = {}
          for way, (name, tensor) in zip(ways, full.items()):
              size, offset = compute_local_shape_and_global_offset(tensor.shape, mesh, way)
              local = tensor[tuple(slice(o, o + s) for o, s in zip(offset, size))].clone()
              state[name] = DTensor.from_local(local, mesh, way, run_check=False, shape=tensor.shape, stride=tensor.stride())
          state |= {name: whole[name] for name in ("buffer", "running_mean")}
          torch.save(state, f"{folder}/model_world_size_{ranks}_rank_{rank}.pt")
          torch.save({"state": {}}, f"{folder}/optim_world_size_{ranks}_rank_{rank}.pt")
          dist.destroy_process_group()
      os.makedirs(f"{folder}/huggingface", exist_ok=True)
      open(f"{folder}/huggingface/config.json", "w").write("{}")
      open(f"{folder}/fsdp_config.json", "w").write("{}")
for given in eval(sys.argv[2]):
    write(f"{sys.argv[1]}/{given[0]}/actor", *given[1:])
"""


_MESHES = {"3": (3,), "2x2": (2, 2), "2x4": (2, 4), "1": (1,)}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints over several meshes of ranks, and a run of four; `whole_STEP.pt` beside each is the truth."""
    folder = tmp_path_factory.mktemp("written")
    given = [*((name, sizes, 1) for name, sizes in _MESHES.items()), ("run", (2,), 4)]
    subprocess.run([sys.executable, "-c", _WRITER, str(folder), repr(given)], check=True, capture_output=True)
    return folder


def values(folder: Path, name: str) -> torch.Tensor:
    """A tensor of a checkpoint, read chunk by chunk as its layout says."""
    layout = probe(str(folder))
    view = next(each for each in layout.tensors if each.name == name)
    extent = layout.extents[view.extent]
    dtype = getattr(torch, view.dtype)
    found = bytearray()
    for chunk in sorted(extent.chunks, key=lambda each: each.start):
        with open(layout.files[chunk.file].path, "rb") as file:
            file.seek(chunk.offset_bytes)
            found += file.read(chunk.count * dtype.itemsize)
    return torch.frombuffer(found, dtype=dtype).reshape(view.shape)


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A checkpoint of three ranks."""
    return shutil.copytree(written / "3" / "actor", tmp_path / "actor")


@pytest.mark.parametrize("name", _MESHES)
def test_every_tensor_is_whole_however_it_lies_on_the_ranks(written: Path, name: str) -> None:
    """Rows, columns, copies, several axes, empty blocks; equal to the bit to what was cut."""
    checkpoint = written / name / "actor"
    layout = probe(str(checkpoint))
    assert layout.format == "FSDP ranks"
    assert {layout.inside(each) for each in layout.carried} == {"fsdp_config.json", "huggingface/config.json"}
    whole = torch.load(written / name / "whole_1.pt")
    assert {each.name for each in layout.tensors} == set(whole)
    for tensor, expected in whole.items():
        assert torch.equal(values(checkpoint, tensor), expected), tensor


def test_a_run_becomes_models_that_verify(written: Path, tmp_path: Path) -> None:
    """`global_step_N/actor` is a checkpoint of step N; its model is one safetensors file with the settings beside it."""
    shutil.copytree(written / "run" / "actor", tmp_path / "run")
    result = rna_watch("once", tmp_path / "run", "--engine", "local", "--keep", "9")
    assert result.returncode == 0, result.stderr
    assert [event.step for event in events(tmp_path / "run", "admitted")] == [1, 2, 3, 4]
    model = tmp_path / "run" / "rna" / "global_step_4" / "actor"
    manifest = json.loads(model.with_name("actor.json").read_text())
    given = [torch.load(written / "run" / f"whole_{step}.pt") for step in range(1, 5)]
    made = load_file(model / "model.safetensors")
    for name in ("a.weight", "b.weight", "c.weight"):
        expected = sum(w * g[name].double() for w, g in zip(manifest["weights"], given, strict=True))
        assert torch.allclose(made[name].double(), expected, atol=1e-6)
    assert torch.equal(made["buffer"], given[-1]["buffer"])
    assert (model / "huggingface" / "config.json").exists()
    assert rna_watch("verify", tmp_path / "run").returncode == 0


def test_a_rank_that_is_missing_is_named(folder: Path) -> None:
    """The checkpoint is incomplete until the last rank has written its file whole."""
    own = folder / "model_world_size_3_rank_1.pt"
    content = own.read_bytes()
    own.unlink()
    with pytest.raises(IncompleteCheckpoint, match="of 3 ranks' files, that of rank 1 is not there yet"):
        probe(str(folder))
    own.write_bytes(content[: len(content) // 2])
    with pytest.raises(IncompleteCheckpoint, match="rank_1"):
        probe(str(folder))
    own.write_bytes(content)
    assert probe(str(folder)).tensors


def test_files_that_do_not_belong_together_are_refused(folder: Path, tmp_path: Path) -> None:
    """Another world size, another model in one rank, plain tensors in all, a file alone: each says what is wrong."""
    left = folder / "model_world_size_4_rank_0.pt"
    left.write_bytes((folder / "model_world_size_3_rank_0.pt").read_bytes())
    with pytest.raises(RefusedCheckpoint, match="files of 3 and 4 ranks"):
        probe(str(folder))
    left.unlink()
    first, second = folder / "model_world_size_3_rank_0.pt", folder / "model_world_size_3_rank_1.pt"
    kept = second.read_bytes()
    second.write_bytes(first.read_bytes())
    with pytest.raises(RefusedCheckpoint, match="rank_1.pt holds the part of rank 0"):
        probe(str(folder))
    torch.save({"a.weight": torch.zeros(3, 5)}, second)
    with pytest.raises(RefusedCheckpoint, match="of two saves"):
        probe(str(folder))
    second.write_bytes(kept)
    with pytest.raises(RefusedCheckpoint, match="part of a distributed tensor"):
        probe(str(shutil.copy(first, tmp_path / "alone.pt")))
    for rank in range(3):
        torch.save({"a.weight": torch.zeros(7, 5)}, folder / f"model_world_size_3_rank_{rank}.pt")
    with pytest.raises(RefusedCheckpoint, match="nothing says how they belong together"):
        probe(str(folder))
