"""Outputs in the hands of the libraries: each live trainer's own loaders take them, with and without optimizer state."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from tests.checkpoints import dcp_forms
from tests.daemon.runs import published, rna_watch
from tests.trainers import watched
from tests.trainers.live_run import script, tensors_of

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow, *dcp_forms.QUIET]
MODEL, WEIGHTS = "{model}", "{weights}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """How its trainer is called, where the model is in its files, and the calls that load an output into a model.

    Attributes:
        script: the trainer's file in this folder.
        train: what it is given; "{run}" stands for the folder.
        loads: what it is given to load "{model}" and write the tensors of what it then holds to "{weights}".
        source: the key path of the model within a file; of a folder, what its tensors' names begin with.
        needs: the library that must be installed.
        settings: of rna-watch.
    """

    script: str
    train: tuple[object, ...]
    loads: tuple[tuple[object, ...], ...]
    source: str = ""
    needs: str = "torch"
    settings: tuple[object, ...] = ()


LIBRARIES = {
    "Lightning": Library(
        script="lightning_trainer",
        train=("fit", "{run}", "--top", -1, "--width", 12),
        loads=(
            ("load", "{run}", "--checkpoint", MODEL, "--weights", WEIGHTS),
            ("test", "{run}", "--checkpoint", MODEL, "--weights", WEIGHTS, "--width", 12),
        ),
        source="state_dict",
        needs="lightning",
    ),
    "timm": Library(
        script="timm_trainer",
        train=("train", "{run}", "--epochs", 4, "--pause", 0),
        loads=(("load", MODEL, "--weights", WEIGHTS, "--raw"),),
        source="state_dict",
        needs="timm",
    ),
    "timm's average": Library(
        script="timm_trainer",
        train=("train", "{run}", "--epochs", 4, "--pause", 0),
        loads=(("load", MODEL, "--weights", WEIGHTS),),
        source="state_dict_ema",
        needs="timm",
        settings=("--source", "state_dict_ema"),
    ),
    "a plain loop": Library(
        script="plain_trainer",
        train=("steps", "{run}", "--count", 4),
        loads=(("steps", "{run}", "--load", MODEL, "--weights", WEIGHTS),),
        source="model",
    ),
    "Hugging Face": Library(
        script="hf_trainer",
        train=("{run}", "--saves", 4, "--limit", 9),
        loads=(("{run}", "--saves", 0, "--load", MODEL, "--weights", WEIGHTS),),
        needs="transformers",
    ),
    "DCP": Library(
        script="dcp_async_trainer",
        train=("{run}", "--count", 4, "--keep", 9),
        loads=(("{run}", "--count", 0, "--resume", "--from", MODEL, "--weights", WEIGHTS),),
        source="model.",
    ),
}


def _tensors(model: Path, source: str) -> dict[str, torch.Tensor]:
    if not model.is_dir():
        return tensors_of(model, source)
    return dcp_forms.load(model, source) if (model / ".metadata").exists() else watched.tensors(model)


@pytest.mark.parametrize("name", LIBRARIES)
def test_outputs_load_where_originals_do(tmp_path: Path, name: str) -> None:
    """The library's own loaders hold the output's bits afterwards, and so does the plain copy, whatever is left out."""
    library = LIBRARIES[name]
    if importlib.util.find_spec(library.needs) is None:
        pytest.skip(f"{library.needs} is not installed")
    run, weights = tmp_path / "run", tmp_path / "weights.pt"
    run.mkdir()
    script(library.script, *(run if part == "{run}" else part for part in library.train))
    for state in ("keep", "drop"):
        output = tmp_path / state
        settings = ("--output", output, "--optimizer-state", state, "--export", "safetensors", *library.settings)
        result = rna_watch("once", run, "--engine", "local", "--workers", 1, *settings)
        assert result.returncode == 0, result.stderr
        model = output / "rna" / published(run, output)[-1]
        manifest = json.loads(model.with_name(f"{model.name}.json").read_text())
        assert manifest["optimizer_state"] == ("dropped" if state == "drop" and model.is_file() else "kept")
        expected = _tensors(model, library.source)
        assert expected
        for load in library.loads:
            places = {"{run}": run, MODEL: model, WEIGHTS: weights}
            script(library.script, *(places.get(part, part) for part in load))
            _check_same(torch.load(weights, weights_only=True), expected)
            weights.unlink()
        _check_same(load_file(model.with_name(manifest["export"])), expected)


def _check_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """The same bits under the same names; a name that shares its tensor with another may be left out."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
