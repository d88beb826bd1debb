"""Ways in which training programs write folders of weight files: Hugging Face, PEFT, Accelerate."""

import safetensors.torch
import torch

from tests.trainers import saved_folder
from tests.trainers.saved_folder import ADAPTER, INDEX, OLD_INDEX, OLD_SHARDS, SHARDED, STATE

from .writers import Form

_REST = SHARDED[5:]
_TRAINING = ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")


def _load(folder):
    """The tensors of all weight files, by the libraries' own loaders."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.suffix == ".safetensors":
            found |= safetensors.torch.load_file(path)
        elif path.suffix == ".bin" and "model" in path.name:
            found |= torch.load(path, weights_only=True)
    return found


def _form(name, path, files, kind="safetensors", prefix="", **known):
    def write(folder, tensors, seed):
        named = {f"{prefix}{key}": tensor for key, tensor in tensors.items()}
        saved_folder.save(folder, seed, files, model=named)
        return named

    return Form(
        name=name,
        format=f"folder of {kind}",
        path=path,
        prefix=prefix,
        write=write,
        load=_load,
        pickled=kind != "safetensors",
        **known,
    )


_HUGGING_FACE = {"path": "checkpoint-{}", "counters": {"step": 1}, "left_out": _TRAINING}
FORMS = {
    form.name: form
    for form in (
        _form("Hugging Face", files=("config.json", "model.safetensors", *_REST), last=_TRAINING[-1:], **_HUGGING_FACE),
        _form("Hugging Face, shards", files=SHARDED, last=(INDEX, _TRAINING[-1]), **_HUGGING_FACE),
        _form(
            "Hugging Face, shards of torch",
            files=("config.json", *OLD_SHARDS, OLD_INDEX, *_REST),
            kind="torch zip",
            last=(OLD_INDEX, _TRAINING[-1]),
            **_HUGGING_FACE,
        ),
        _form("save_pretrained, shards", "model_{}", files=SHARDED[:7], last=(INDEX,)),
        _form(
            "PEFT",
            files=ADAPTER,
            prefix="base_model.model.",
            last=("adapter_config.json", _TRAINING[-1]),
            **_HUGGING_FACE,
        ),
        _form("Accelerate", "checkpoint_{}", files=STATE, last=STATE[-1:], left_out=STATE[1:]),
    )
}
