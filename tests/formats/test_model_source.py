"""Which tensors of a file are the model, and which numbers next to them are its step."""

import pytest
import torch

from rna_watch.errors import RefusedCheckpoint
from rna_watch.formats.model_source import counters, role
from rna_watch.formats.probe import probe
from rna_watch.layout.layout import Role

W = {"w": torch.arange(3.0)}
V = {"v": torch.arange(2.0)}


def probed(tree, folder, source=None):
    """The layout of a tree saved by torch."""
    path = folder / "model.pt"
    torch.save(tree, path)
    return probe(str(path), source)


def names(layout):
    """The tensors' names."""
    return [view.name for view in layout.tensors]


@pytest.mark.parametrize(
    ("tree", "source", "tensors"),
    [
        ({"state_dict": W, "ema": V}, "state_dict", ["w"]),
        ({"state_dict": W, "model_ema": V, "loss": torch.tensor(0.5)}, "state_dict", ["w"]),
        ({"model": W, "state_dict_ema": V}, "model", ["w"]),
        ({"model": {"encoder": W, "decoder": {"block": V}}}, "model", ["encoder.w", "decoder.block.v"]),
        ({"my_net": W, "optimizer": {"state": {0: V}}}, "my_net", ["w"]),
        ({"my_net": W, "optimizer_state": {"slow": V}, "lr_scheduler": V}, "my_net", ["w"]),
        ({"training": {"inner": {"weights": W}}}, "training.inner.weights", ["w"]),
        ({"w": torch.ones(1), "block": {"v": torch.ones(2)}}, "", ["w", "block.v"]),
        ({"state_dict": {}, "model": W}, "model", ["w"]),
    ],
)
def test_the_model_is_found(tree, source, tensors, tmp_path):
    """The usual keys, the only candidate, or nested modules: the model is found without being named."""
    layout = probed(tree, tmp_path)
    assert layout.source == source
    assert names(layout) == tensors


def test_several_groups_need_a_name(tmp_path):
    """Two networks in one file are not guessed between: the message lists them, and `--source` chooses."""
    tree = {"generator": W, "discriminator": V, "optimizer": {"state": {}}}
    with pytest.raises(
        RefusedCheckpoint, match="several groups of tensors .*'generator', 'discriminator'.* --source KEY"
    ):
        probed(tree, tmp_path)
    assert names(probed(tree, tmp_path, "generator")) == ["w"]
    assert names(probed(tree, tmp_path, "discriminator")) == ["v"]


def test_a_moving_average_can_be_named(tmp_path):
    """What is never taken unasked can be asked for."""
    assert names(probed({"state_dict": W, "state_dict_ema": V}, tmp_path, "state_dict_ema")) == ["v"]


def test_a_source_that_is_not_there_is_answered_with_those_that_are(tmp_path):
    """A misspelt key is met with the right ones."""
    with pytest.raises(RefusedCheckpoint, match="no tensors under 'modle'; there are some under: 'model', 'ema'"):
        probed({"model": W, "ema": V}, tmp_path, "modle")


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({}, "no named tensors"),
        ([torch.ones(2)], "no named tensors"),
        (torch.ones(2), "no named tensors"),
        ({"epoch": 3, "lr": 0.1}, "no named tensors"),
        ({0: torch.ones(2)}, "no named tensors"),
        ({"model": {"ids": torch.arange(3)}}, "'model' holds no floating-point tensors"),
        ({"ids": torch.arange(3)}, "'the file' holds no floating-point tensors"),
    ],
    ids=repr,
)
def test_files_without_a_model_are_refused(tree, message, tmp_path):
    """A file with no named floating-point tensors holds nothing to extrapolate, and the message says so."""
    with pytest.raises(RefusedCheckpoint, match=message):
        probed(tree, tmp_path)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning", "ignore:ComplexHalf support:UserWarning")
@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8), "is a quantized tensor"),
        (lambda: torch.eye(3).to_sparse(), "is a sparse tensor"),
        (lambda: torch.eye(3).to_sparse_csr(), "is a sparse tensor"),
        (lambda: torch.ones(2, dtype=torch.complex32), "has dtype complex32"),
        (lambda: torch.ones(2).to(torch.float8_e4m3fn), "has dtype float8_e4m3fn"),
        (lambda: torch.ones(2).to(torch.float8_e5m2), "has dtype float8_e5m2"),
        (lambda: torch.ones(2, device="meta"), r"is a tensor without data \(meta\)"),
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse CSR:UserWarning")
def test_tensors_that_cannot_be_averaged_are_refused_by_name(make, what, tmp_path):
    """What is not linear, or no plain array, is refused with the tensor's name and what would help."""
    with pytest.raises(RefusedCheckpoint, match=f"^blocks.0.w {what}, which cannot be averaged; save "):
        probed({"model": {"good": torch.ones(2), "blocks.0.w": make()}}, tmp_path)


@pytest.mark.parametrize(
    ("name", "dtype", "expected"),
    [
        ("w", "float32", Role.PARAMETER),
        ("bn.running_mean", "bfloat16", Role.STATISTIC),
        ("running_var", "float64", Role.VARIANCE),
        ("bn.running_var", "float16", Role.VARIANCE),
        ("bn.running_variance", "float32", Role.PARAMETER),
        ("my_running_var", "float32", Role.PARAMETER),
        ("bn.running_var", "int64", Role.COPIED),
        ("bn.num_batches_tracked", "int64", Role.COPIED),
        ("mask", "bool", Role.COPIED),
        ("ids", "uint8", Role.COPIED),
        ("block._extra_state", "float32", Role.COPIED),
        ("_extra_state.scale", "float32", Role.COPIED),
        ("my_extra_state", "float32", Role.PARAMETER),
        ("val_metric.preds", "float32", Role.COPIED),
        ("metrics.accuracy.total", "float16", Role.COPIED),
        ("metric.weight", "float32", Role.PARAMETER),
        ("metric.proxies", "float32", Role.PARAMETER),
        ("metric_fc.w", "float32", Role.PARAMETER),
        ("symmetric.w", "float32", Role.PARAMETER),
    ],
)
def test_roles_go_by_name_and_dtype(name, dtype, expected):
    """Statistics and states of metrics are known by their names, and what is not floating point is only copied."""
    assert role(name, dtype) is expected


@pytest.mark.parametrize(
    ("tree", "found"),
    [
        ({"epoch": 3, "global_step": 1200}, {"step": 1200, "epoch": 3}),
        ({"iteration": 5}, {"step": 5}),
        ({"step": 0, "epoch": 0}, {"step": 0, "epoch": 0}),
        ({"epoch": True, "step": -1}, {}),
        ({"epoch": 2.5, "step": "7"}, {}),
        ({"step": 2**63}, {}),
        ({"model": {"step": 3}}, {}),
        ([1, 2], {}),
    ],
    ids=repr,
)
def test_counters_are_plain_numbers_at_the_top(tree, found):
    """Step and epoch are whole numbers of the file itself; flags, negatives and nonsense are not counted."""
    assert counters(tree) == found
