"""Names without what wrappers put into them."""

import pytest
import torch

from rna_watch.layout.names import canonical_names, plain_names, spellings
from tests.checkpoints.writers import Network

FSDP, CHECKPOINT = "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."


@pytest.mark.parametrize(
    ("names", "plain"),
    [
        (["w"], ["w"]),
        (["module.w", "module.b"], ["w", "b"]),
        (["_orig_mod.w", "_orig_mod.b"], ["w", "b"]),
        (["module._orig_mod.w"], ["w"]),
        (["_orig_mod.module.w"], ["w"]),
        (["module.module.w"], ["w"]),
        (["module.w", "head.w"], ["module.w", "head.w"]),
        (["module.module.w", "module.head.w"], ["module.w", "head.w"]),
        (["_orig_mod.module.module.w", "_orig_mod.module.head.w"], ["module.w", "head.w"]),
        (["encoder.module.w"], ["encoder.module.w"]),
        (["modules.w"], ["modules.w"]),
        ([f"{FSDP}w", f"{FSDP}blocks.0.{FSDP}{CHECKPOINT}w"], ["w", "blocks.0.w"]),
        ([f"module.{FSDP}_orig_mod.w", f"module.{FSDP}_orig_mod.a.{CHECKPOINT}b"], ["w", "a.b"]),
        ([f"a.{FSDP}w", "a.w"], [f"a.{FSDP}w", "a.w"]),
        (["my_fsdp_wrapped_module.w"], ["my_fsdp_wrapped_module.w"]),
        (["encoder._orig_mod.w", "head.w"], ["encoder._orig_mod.w", "head.w"]),
        ([], []),
    ],
    ids=repr,
)
def test_wrapper_prefixes_come_off(names, plain):
    """Off the front what all names share, in any order; FSDP's and activation checkpointing's anywhere; names stay apart."""
    assert plain_names(names) == dict(zip(names, plain, strict=True))


def test_an_averaged_model_has_the_plain_model_s_names():
    """`torch.optim.swa_utils.AveragedModel` adds `module.` and a counter: neither is part of the model."""
    network = Network()
    averaged = torch.optim.swa_utils.AveragedModel(network).state_dict()
    assert list(plain_names(averaged).values()) == list(network.state_dict())
    assert plain_names(["n_averaged", "w"]) == {"n_averaged": "n_averaged", "w": "w"}
    both = ["n_averaged", "module.n_averaged", "module.w"]
    assert plain_names(both) == {name: name for name in both}


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_real_wrappers_give_real_prefixes():
    """What torch.compile and DataParallel name their tensors is a plain model's, in every order of wrapping."""
    network = Network()
    for wrap in (
        torch.nn.DataParallel,
        torch.compile,
        lambda model: torch.compile(torch.nn.DataParallel(model)),
        lambda model: torch.nn.DataParallel(torch.compile(model)),
    ):
        wrapped = wrap(network).state_dict()
        assert list(wrapped) != list(network.state_dict())
        assert list(plain_names(wrapped).values()) == list(network.state_dict())


def test_a_part_that_is_compiled_has_its_plain_name_across_a_window():
    """A submodule that was compiled later is the same; to evaluators it keeps its name, as their model may compile it too."""
    assert canonical_names(["module.a._orig_mod.w", "module.b"]) == {"module.a._orig_mod.w": "a.w", "module.b": "b"}
    assert canonical_names(["a._orig_mod.w", "a.w"]) == {"a._orig_mod.w": "a._orig_mod.w", "a.w": "a.w"}


def test_every_spelling_is_tried_from_the_stored_one_on():
    """Spellings lose one shared prefix at a time."""
    found = [list(spelled.values()) for spelled in spellings(["module.module.w", "module.module.v"])]
    assert found == [["module.module.w", "module.module.v"], ["module.w", "module.v"], ["w", "v"]]
