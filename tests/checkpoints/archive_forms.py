"""Archives that hold a file of torch: the zip of Stable-Baselines3 and the tar of NeMo, as their writers make them."""

import io
import json
import tarfile
import zipfile

import torch

from . import writers
from .writers import Form


def _saved(state):
    data = io.BytesIO()
    torch.save(state, data)
    return data.getvalue()


def write_zip(path, tensors, number):
    """As `save_to_zip_file` of Stable-Baselines3 2.9 does, with its names and in its order."""
    told = {"policy_class": {":type:": "<class 'abc.ABCMeta'>", ":serialized:": "gAWV"}, "num_timesteps": 1000 * number}
    with zipfile.ZipFile(path, mode="w") as archive:
        archive.writestr("data", json.dumps(told, indent=4))
        with archive.open("pytorch_variables.pth", mode="w", force_zip64=True) as record:
            record.write(_saved({"log_ent_coef": torch.tensor([0.5])}))
        for name, state in {"policy": tensors, "policy.optimizer": writers.optimizer_state(number)}.items():
            with archive.open(f"{name}.pth", mode="w", force_zip64=True) as record:
                torch.save(state, record)
        archive.writestr("_stable_baselines3_version", "2.9.2")
        archive.writestr("system_info.txt", "- OS: Linux\n")
    return tensors


def load_zip(path):
    """As `load_from_zip_file` does."""
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return torch.load(io.BytesIO(archive.read("policy.pth")), weights_only=True)


def write_tar(path, tensors, number):
    """As `SaveRestoreConnector._make_nemo_file_from_folder` of NeMo does: a folder, added to a tar of Python's default format."""
    folder = path.parent / f".{path.name}.content"
    folder.mkdir(parents=True)
    (folder / "model_config.yaml").write_text("target: nemo.collections.asr.models.EncDecCTCModel\n")
    (folder / f"{'0123456789abcdef' * 8}_tokenizer.model").write_bytes(bytes(range(256)) * number)
    torch.save(tensors, folder / "model_weights.ckpt")
    with tarfile.open(path, "w:") as archive:
        archive.add(folder, arcname=".")
    for each in folder.iterdir():
        each.unlink()
    folder.rmdir()
    return tensors


def load_tar(path):
    """As `restore_from` does."""
    with tarfile.open(path) as archive:
        return torch.load(io.BytesIO(archive.extractfile("./model_weights.ckpt").read()), weights_only=True)


FORMS = {
    form.name: form
    for form in (
        Form(
            name="Stable-Baselines3",
            format="Stable-Baselines3 zip",
            path="rl_model_{}000_steps.zip",
            counters={"step": 1000},
            write=write_zip,
            load=load_zip,
            checked=True,
        ),
        Form(
            name="NeMo",
            format="NeMo archive",
            path="model--step={}.nemo",
            write=write_tar,
            load=load_tar,
        ),
    )
}
