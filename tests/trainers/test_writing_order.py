"""How libraries write, measured on the libraries themselves: what the tests for completeness and the pins rest on."""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file

from rna_watch.errors import IncompleteCheckpoint, RefusedCheckpoint
from rna_watch.formats.probe import probe
from tests.trainers import watched

if TYPE_CHECKING:
    from pathlib import Path


def _order(folder: Path) -> list[str]:
    """Its files as they were last written; of those that have one time, as they are listed."""
    return [path.name for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
@pytest.mark.parametrize("flags", [(), ("only-model",), ("sharded",)])
def test_the_hugging_face_trainer_writes_its_state_last(tmp_path: Path, flags: tuple[str, ...]) -> None:
    """`trainer_state.json` comes after all else, after an index that comes after its shards; the model alone has it too."""
    (name,) = watched.run("hf_trainer", tmp_path / "run", *flags, saves=1)
    folder = tmp_path / "run" / name
    order = _order(folder)
    assert order[-1] == "trainer_state.json"
    assert ("optimizer.pt" in order) == ("only-model" not in flags)
    if "sharded" in flags:
        shards = [order.index(each) for each in order if each.startswith("model-")]
        assert max(shards) < order.index("model.safetensors.index.json")
    assert probe(str(folder)).parameters > 0
    (folder / "trainer_state.json").unlink()
    if "only-model" not in flags:
        with pytest.raises(IncompleteCheckpoint, match="trainer_state.json"):
            probe(str(folder))


@pytest.mark.filterwarnings("ignore:torch.distributed is (disabled|unavailable)")
@pytest.mark.filterwarnings("ignore:Detected an existing checkpoint")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_distributed_checkpoints_are_named_complete_last_and_keep_the_old_word_meanwhile(tmp_path: Path) -> None:
    """`.metadata` follows the shards; saved again, the old one stands next to new shards, and is not believed."""
    seen: list[str] = []
    folder = tmp_path / "step-1"

    class Writer(dcp.FileSystemWriter):
        """The library's, looked at between the shards and the metadata."""

        def finish(self, *arguments: object, **options: object) -> None:
            """See `StorageWriter`."""
            seen.append(" ".join(sorted(os.listdir(folder))))
            with pytest.raises((IncompleteCheckpoint, RefusedCheckpoint)) as reason:
                probe(str(folder))
            seen.append(str(reason.value))
            super().finish(*arguments, **options)

    for value in (1.0, 2.0):
        content = {"model": {"weight": torch.full((3, 4), value)}}
        dcp.save(content, storage_writer=Writer(folder), no_dist=True)
        assert probe(str(folder)).parameters == 12
    assert seen[0] == "__0_0.distcp"
    assert ".metadata" in seen[2]
    assert "newer than .metadata" in seen[3]


def test_safetensors_replaces_a_file_and_torch_writes_it_over(tmp_path: Path) -> None:
    """A link keeps the old content of the one and not of the other: rewritten names are copied, not linked."""
    for name in ("a.safetensors", "b.pt"):
        path, link = tmp_path / name, tmp_path / f"link-{name}"
        for value in (1.0, 2.0):
            tensors = {"weight": torch.full((3,), value)}
            save_file(tensors, path) if name.endswith(".safetensors") else torch.save(tensors, path)
            if not link.exists():
                os.link(path, link)
    assert load_file(tmp_path / "link-a.safetensors")["weight"][0] == 1.0
    assert torch.load(tmp_path / "link-b.pt")["weight"][0] == 2.0
    assert sorted(os.listdir(tmp_path)) == ["a.safetensors", "b.pt", "link-a.safetensors", "link-b.pt"]
