"""What stands in real checkpoints next to and among the weights: averages, wrappers, dtypes, foreign objects, strange trees."""

import argparse
import collections
import dataclasses
import datetime
import functools
import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from rna_watch.acceleration.gram import merge
from rna_watch.errors import RefusedCheckpoint
from rna_watch.evaluation.materialize import span, state_dict, views
from rna_watch.formats.optimizer_state import assign
from rna_watch.formats.probe import probe
from rna_watch.layout.agreement import difference
from rna_watch.layout.layout import Role
from rna_watch.window import tasks, tasks_plan
from rna_watch.window.combine import Combination
from tests.checkpoints import twins
from tests.checkpoints.writers import Network, averaged, composer, model, timm, torchvision

WEIGHTS = (0.0, -0.5, 1.5)
SEEDS = (1, 2, 3)


def values(seed, *shape, dtype=torch.float32):
    """Numbers of their own for every seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def window(folder, make, save=torch.save, ending="pt"):
    """Three checkpoints, one a seed."""
    paths = [folder / f"epoch_{seed}.{ending}" for seed in SEEDS]
    for seed, path in zip(SEEDS, paths, strict=True):
        save(make(seed), path)
    return paths


def probed(tree, folder, source=None):
    """The layout of a tree saved by torch."""
    path = folder / "model.pt"
    torch.save(tree, path)
    return probe(str(path), source)


def combination(paths, source=None):
    """The window's combination."""
    return Combination(layouts=tuple(probe(str(path), source) for path in paths), weights=WEIGHTS)


def gram(paths):
    """The window's Gram matrix."""
    work = tasks_plan.gram_tasks([probe(str(path)) for path in paths], len(paths) - 1, 64.0)
    return merge([tasks.run(task) for task in work]).rows


def inside(tree, path):
    """What is under a dotted path."""
    for key in path.split("."):
        tree = tree[key]
    return tree


# -- a model and its moving average


def of_seed(build):
    """What a trainer saves, as a function of the seed alone."""

    @functools.wraps(build)
    def make(seed):
        return build(model(seed), seed)

    return make


def ultralytics(seed):
    """As ultralytics saves, with state dicts for modules."""
    return {"epoch": seed, "model": model(seed), "ema": model(seed + 50), "updates": 4, "train_args": {"lr0": 0.1}}


def ultralytics_average_only(seed):
    """As ultralytics saves today: the average alone."""
    return {"epoch": seed, "model": None, "ema": model(seed), "optimizer": {"state": {"a": {"step": torch.ones(1)}}}}


def lightning(seed):
    """As Lightning's WeightAveraging saves: the average is where the model was."""
    return {
        "epoch": seed,
        "global_step": 10 * seed,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": model(seed + 50),
        "loops": {"fit_loop": {"state_dict": {}}},
        "optimizer_states": [{"state": {}, "param_groups": []}],
        "current_model_state": model(seed),
        "averaging_state": {"n_averaged": torch.tensor(seed)},
    }


def nested(seed):
    """Raw weights and average in one mapping."""
    return {"model": {"raw": model(seed), "ema": model(seed + 50)}, "step": seed}


@pytest.mark.parametrize(
    ("make", "sources"),
    [
        (of_seed(timm), {"state_dict": False, "state_dict_ema": True}),
        (of_seed(torchvision), {"model": False, "model_ema": True}),
        (ultralytics, {"model": False, "ema": True}),
        (ultralytics_average_only, {"ema": True}),
        (lightning, {"current_model_state": False, "state_dict": True}),
        (of_seed(composer), {"state.model": False}),
        (nested, {"model": False, "model.ema": True}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_weights_and_their_averages_are_sources_of_their_own(make, sources, tmp_path):
    """The raw weights are taken unasked; each source can be chosen, is combined with its own kind, and leaves the others."""
    paths = window(tmp_path, make)
    layout = probe(str(paths[-1]))
    assert {each.path: each.averaged for each in layout.sources} == sources
    assert layout.source == next(iter(sources))
    assert layout.averaged is sources[layout.source]
    newest = torch.load(paths[-1], weights_only=False)
    for source, is_average in sources.items():
        chosen = probe(str(paths[-1]), source)
        assert (chosen.source, chosen.averaged) == (source, is_average)
        out = torch.load(
            twins.publish_here(paths, WEIGHTS, tmp_path / f"{source}.out", source=source), weights_only=False
        )
        for other in sources:
            before = [inside(torch.load(path, weights_only=False), other) for path in paths]
            after = inside(out, other)
            if "raw" in after:
                before, after = [each["raw"] for each in before], after["raw"]
            expected = twins.combine(before, WEIGHTS) if other == source else before[-1]
            for name, tensor in after.items():
                if other != source or not tensor.is_floating_point():
                    assert twins.same_bits(tensor, expected[name])
                else:
                    assert twins.is_rounded(tensor, expected[name])
    assert newest.keys() == out.keys()


def test_weights_and_averages_never_share_a_window(tmp_path):
    """A file that holds only the average, among files of raw weights, begins a window of its own, and the reason says so."""
    raw, average = (probed(make(1), tmp_path) for make in (ultralytics, ultralytics_average_only))
    assert difference(raw, average) == (
        "the model changed: it was the weights ('model'), is an average of the weights ('ema')"
    )
    assert raw.architecture != average.architecture
    assert difference(average, average) == ""


def test_an_average_has_no_exact_gradients(tmp_path):
    """The optimizer moved the raw weights: its momentum says nothing of the average's steps."""
    network = Network()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    tree = {"model": network.state_dict(), "model_ema": averaged(1), "optimizer": optimizer.state_dict()}
    assert assign(probed(tree, tmp_path))[1] == ""
    assert "the model is a moving average" in assign(probed(tree, tmp_path, "model_ema"))[1]


def test_an_averaged_model_is_evaluated_as_a_plain_one(tmp_path):
    """An evaluator's strict network takes the average, without its wrapper's names and counter."""
    paths = window(tmp_path, of_seed(torchvision))
    found = state_dict(combination(paths, "model_ema"), torch.device("cpu"))
    Network().load_state_dict(found, strict=True)


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("state.model", ["w"]),
        ("nets.a.b", ["v"]),
        ("nets", ["a.b.v", "c.d.u"]),
        ("dotted.key.model", ["t"]),
        ("deep.er", ["here.s"]),
    ],
)
def test_a_dotted_path_names_the_model(source, names, tmp_path):
    """Keys are joined by dots, and may have some of their own; mappings below are one model."""
    tree = {
        "state": {"model": {"w": values(1, 2)}},
        "nets": {"a": {"b": {"v": values(2, 2)}}, "c": {"d": {"u": values(3, 2)}}},
        "dotted.key": {"model": {"t": values(4, 2)}},
        "deep": {"er": {"here": {"s": values(5, 2)}}},
    }
    layout = probed(tree, tmp_path, source)
    assert layout.source == source
    assert [view.name for view in layout.tensors] == names


@pytest.mark.parametrize("key", ["semantic_head", "schema", "swallow"])
def test_words_that_only_contain_an_average_s_name_are_models(key, tmp_path):
    """`ema` within a word is no moving average."""
    layout = probed({key: {"w": values(1, 2)}, "other_ema": {"w": values(2, 2)}}, tmp_path)
    assert (layout.source, layout.averaged) == (key, False)


# -- a moving average inside the state dict of the weights


def beside(front, average, *, spell=str, top="state_dict", others=()):
    """A state dict with the weights behind one prefix and their average behind another."""

    def make(seed):
        raw, copy = model(seed), model(seed + 50)
        tensors = {f"{front}{name}": tensor for name, tensor in raw.items()}
        tensors |= {f"{average}{spell(name)}": copy[name] for name in raw}
        tensors |= {f"{average.partition('.')[0]}.{name}": torch.tensor(value) for name, value in others}
        return {top: tensors, "epoch": seed} if top else tensors

    return make


def latent_diffusion(seed):
    """As LitEma keeps it: parameters alone, under names without dots, with a decay and a count."""
    tree = beside("model.", "model_ema.", others=[("decay", 0.999), ("num_updates", 7)])(seed)
    copied = {
        f"model_ema.{name.removeprefix('model_ema.').replace('.', '')}": tree["state_dict"].pop(name)
        for name in list(tree["state_dict"])
        if name.startswith("model_ema.")
    }
    kept = {name for name in copied if "running" not in name and not name.endswith(("tracked", "mask"))}
    return {**tree, "state_dict": tree["state_dict"] | {name: copied[name] for name in copied if name in kept}}


def lucidrains(seed):
    """As ema_pytorch keeps it: the weights once more, and their average, in a module of its own."""
    tree = beside("net.", "ema.ema_model.", others=[("initted", True), ("step", 3)])(seed)
    raw = {name: tensor for name, tensor in tree["state_dict"].items() if name.startswith("net.")}
    tree["state_dict"] |= {f"ema.online_model.{name[4:]}": tensor for name, tensor in raw.items()}
    return tree


@pytest.mark.parametrize(
    ("make", "source", "average", "front"),
    [
        (beside("model.", "model_ema."), "state_dict", "model_ema", "model."),
        (beside("module.model.", "module.model_ema."), "state_dict", "module.model_ema", "module.model."),
        (beside("net.", "ema.module."), "state_dict", "ema", "net."),
        (beside("", "ema_model.module.", others=[("n_averaged", 3)]), "state_dict", "ema_model", ""),
        (beside("model.", "averaged_model.module.", top=""), "", "averaged_model", "model."),
        (latent_diffusion, "state_dict", "model_ema", "model."),
        (lucidrains, "state_dict", "ema.ema_model", "net."),
    ],
)
def test_an_average_inside_the_state_dict_is_no_part_of_the_weights(make, source, average, front, tmp_path):
    """By default the weights are combined and their average is the newest's; chosen, it is the other way round."""
    paths = window(tmp_path, make)
    trees = [inside(torch.load(path, weights_only=True), source) if source else torch.load(path) for path in paths]
    path = f"{source}.{average}".lstrip(".")
    layout = probe(str(paths[-1]))
    assert [(each.path, each.averaged) for each in layout.sources] == [(source, False), (path, True)]
    parameters = {v.name for v in layout.tensors if layout.extents[v.extent].role is Role.PARAMETER}
    weights = {f"{front}{name}" for name in PARAMETERS}
    assert {name for name in parameters if not name.startswith("ema.online_model.")} == weights
    assert layout.parameters == sum(trees[0][name].numel() for name in weights)
    for chosen in (None, path):
        out = twins.publish_here(paths, WEIGHTS, tmp_path / "out", source=chosen)
        found = inside(torch.load(out, weights_only=True), source) if source else torch.load(out)
        expected = twins.combine(trees, WEIGHTS)
        moved = 0
        for name, tensor in found.items():
            own = name.startswith(f"{average}.")
            if own is (chosen is not None) and tensor.is_floating_point() and not name.endswith("decay"):
                assert twins.is_rounded(tensor, expected[name]), name
                moved += 1
            else:
                assert twins.same_bits(tensor, trees[-1][name]), name
        assert moved >= len(PARAMETERS)
        other = probe(out, chosen)
        assert difference(probe(str(paths[-1]), chosen), other) == ""
    average_layout = probe(str(paths[-1]), path)
    assert average_layout.averaged
    evaluated = state_dict(combination(paths, path), torch.device("cpu"))
    missing, unexpected = Network().load_state_dict(evaluated, strict=False)
    assert not unexpected
    assert not missing or make is latent_diffusion
    assert {*PARAMETERS} <= evaluated.keys()
    assert difference(layout, average_layout).startswith("the model changed: it was the weights")


def test_an_average_inside_a_safetensors_file(tmp_path):
    """A format without keys above its tensors has such sources too."""

    def make(seed):
        return beside("model.", "model_ema.", top="")(seed)

    paths = window(tmp_path, make, safetensors.torch.save_file, "safetensors")
    assert probe(str(paths[-1])).parameters == sum(tensor.numel() for tensor in Network().parameters())
    out = twins.publish_here(paths, WEIGHTS, tmp_path / "out.safetensors", source="model_ema")
    found, expected = safetensors.torch.load_file(out), twins.combine([make(seed) for seed in SEEDS], WEIGHTS)
    for name, tensor in found.items():
        if name.startswith("model_ema.") and tensor.is_floating_point():
            assert twins.is_rounded(tensor, expected[name])
        else:
            assert twins.same_bits(tensor, make(SEEDS[-1])[name])
    with pytest.raises(RefusedCheckpoint, match=r"leave --source out \(averages inside it: 'model_ema'\)"):
        probe(str(paths[-1]), "ema")


def test_an_average_in_another_precision_and_momentum_beside_it(tmp_path):
    """float32 averages of bfloat16 weights are such; without them, an optimizer's momentum matches the weights."""
    tree = beside("model.", "model_ema.")(1)
    tree["state_dict"] = {
        name: tensor.bfloat16() if name.startswith("model.") and tensor.is_floating_point() else tensor
        for name, tensor in tree["state_dict"].items()
    }
    assert [each.path for each in probed(tree, tmp_path).sources] == ["state_dict", "state_dict.model_ema"]
    network = Network()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    tree = beside("", "model_ema.")(1) | {"optimizer": optimizer.state_dict()}
    assert assign(probed(tree, tmp_path))[1] == ""
    assert "moving average" in assign(probed(tree, tmp_path, "state_dict.model_ema"))[1]


def larger(tensors):
    """The first matrix of the average has another shape."""
    name = next(name for name in tensors if name.startswith("model_ema.") and tensors[name].ndim > 1)
    return tensors | {name: torch.ones(9, 9)}


def renamed_layer(tensors):
    """One tensor of the average stands for none of the weights."""
    return {name.replace("model_ema.head.", "model_ema.tail."): tensor for name, tensor in tensors.items()}


def alone(tensors):
    """The average without the weights."""
    return {name: tensor for name, tensor in tensors.items() if name.startswith("model_ema.")}


def a_layer(tensors):
    """A layer of a network that averages, shaped as its neighbours are."""
    return {
        f"model.{layer}.{name}": torch.ones(5) for layer in ("norm", "avg_norm", "ema") for name in ("weight", "bias")
    }


def a_small_one(tensors):
    """A little part that has an average's name, and is shaped as another is."""
    return model(1) | {"avg.weight": torch.ones(5, 4), "avg.bias": torch.ones(5)} | {"big": torch.ones(1000)}


@pytest.mark.parametrize("change", [larger, renamed_layer, alone, a_layer, a_small_one])
def test_what_is_not_certainly_an_average_is_part_of_the_model(change, tmp_path):
    """Other shapes, other names, no weights next to it, or a layer of the network: all floating tensors are combined."""
    tensors = change(beside("model.", "model_ema.")(1)["state_dict"])
    layout = probed({"state_dict": tensors}, tmp_path)
    assert [each.path for each in layout.sources] == ["state_dict"]
    copied = {view.name for view in layout.tensors if layout.extents[view.extent].role is Role.COPIED}
    assert copied == {name for name, tensor in tensors.items() if not tensor.is_floating_point()}


# -- wrappers


def renamed(tensors, spell):
    """The tensors under a wrapper's names."""
    return collections.OrderedDict((spell(name), tensor) for name, tensor in tensors.items())


def fsdp(name):
    """As FSDP with activation checkpointing names a nested module's tensors."""
    module, dot, leaf = name.partition(".")
    return f"_fsdp_wrapped_module.{module}{dot}_checkpoint_wrapped_module._fsdp_wrapped_module.{leaf}" if dot else name


SPELLINGS = [
    str,
    lambda name: f"module.{name}",
    lambda name: f"_orig_mod.{name}",
    lambda name: f"_orig_mod.module.{name}",
    lambda name: f"module._orig_mod.{name}",
    fsdp,
    lambda name: f"module.{fsdp(name)}",
    lambda name: name.replace("head.", "head._orig_mod."),
]


def test_a_run_restarted_under_other_wrappers_is_one_window(tmp_path):
    """Whatever wrapped the model, its checkpoints match tensor by tensor, and the newest's names are written back."""
    models = [model(seed) for seed in range(len(SPELLINGS))]
    paths = [tmp_path / f"epoch_{seed}.pt" for seed in range(len(SPELLINGS))]
    for path, tensors, spell in zip(paths, models, SPELLINGS, strict=True):
        torch.save({"model": renamed(tensors, spell)}, path)
    layouts = [probe(str(path)) for path in paths]
    assert len({layout.architecture for layout in layouts}) == 1
    assert all(difference(layouts[0], layout) == "" for layout in layouts)
    assert [view.name for view in layouts[4].tensors] == [f"module._orig_mod.{name}" for name in models[0]]
    weights = (0.0, 0.25, -0.5, 0.25, 0.5, -1.0, 0.5, 1.0)
    expected = twins.combine(models, weights)
    out = torch.load(twins.publish_here(paths, weights, tmp_path / "out.pt"), weights_only=True)["model"]
    assert list(out) == [SPELLINGS[-1](name) for name in models[0]]
    for name, tensor in expected.items():
        found = out[SPELLINGS[-1](name)]
        assert twins.is_rounded(found, tensor) if tensor.is_floating_point() else twins.same_bits(found, tensor)
    rows = [
        torch.cat([each[v.name].double().flatten() for v in layouts[0].tensors if v.name in PARAMETERS])
        for each in models
    ]
    residuals = torch.stack(rows).diff(dim=0).numpy()
    np.testing.assert_allclose(gram(paths), residuals @ residuals.T, rtol=1e-12, atol=1e-9)
    newest_first = Combination(layouts=tuple(layouts[:3]), weights=WEIGHTS)
    Network().load_state_dict(state_dict(newest_first, torch.device("cpu")), strict=True)


PARAMETERS = {name for name, _ in Network().named_parameters()}


def test_momentum_is_matched_across_wrappers(tmp_path):
    """Momentum buffers are known by the same names, whatever wrapped the model, so that they match across a window."""
    network = Network()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    keys = []
    for spell in SPELLINGS:
        tree = {"model": renamed(network.state_dict(), spell), "optimizer": optimizer.state_dict()}
        found, problem = assign(probed(tree, tmp_path))
        assert problem == ""
        keys.append(set(found))
    assert all(each == PARAMETERS for each in keys)


class Wrapper(torch.nn.Module):
    """A network whose own submodule is called `module`."""

    def __init__(self):
        super().__init__()
        self.module = torch.nn.Linear(3, 2)
        self.head = torch.nn.Linear(2, 2)


@pytest.mark.parametrize("spell", SPELLINGS[:5])
def test_a_submodule_called_module_keeps_its_name(spell, tmp_path):
    """What not every name begins with is no wrapper's prefix: an evaluator's strict network takes the model, wrapped or not."""
    network = Wrapper()

    def make(seed):
        tensors = {name: values(seed, *each.shape) for name, each in network.state_dict().items()}
        return renamed(tensors, spell if seed > 1 else str)

    found = combination(window(tmp_path, make))
    network.load_state_dict(state_dict(found, torch.device("cpu")), strict=True)


def test_names_that_would_become_one_keep_their_prefixes(tmp_path):
    """Names are unique within a model, also where a prefix is all that tells two of them apart."""
    paths = window(tmp_path, lambda seed: {"a._orig_mod.w": values(seed, 3), "a.w": values(seed + 50, 3)})
    layout = probe(str(paths[0]))
    assert [extent.name for extent in layout.extents] == ["a._orig_mod.w", "a.w"]
    assert len(state_dict(combination(paths), torch.device("cpu"))) == 2


# -- dtypes


def complex_model(seed, dtype):
    """Complex tensors of several shapes and layouts, next to real ones."""
    matrix = torch.complex(values(seed, 4, 3), values(seed + 10, 4, 3)).to(dtype)
    return {
        "w": matrix,
        "turned": torch.complex(values(seed + 20, 2, 5), values(seed + 30, 2, 5)).to(dtype).t(),
        "rows": torch.complex(values(seed + 40, 6, 2), values(seed + 50, 6, 2)).to(dtype)[2:4],
        "number": torch.complex(values(seed + 60), values(seed + 70)).to(dtype),
        "real": values(seed + 80, 3),
    }


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_complex_tensors_are_pairs_of_real_ones(dtype, tmp_path):
    """They are combined exactly, count in the residuals by both parts, keep their strides, and are evaluated as complex."""
    paths = window(tmp_path, lambda seed: complex_model(seed, dtype))
    models = [complex_model(seed, dtype) for seed in SEEDS]
    out = torch.load(twins.publish_here(paths, WEIGHTS, tmp_path / "out.pt"), weights_only=True)
    evaluated = state_dict(combination(paths), torch.device("cpu"))
    for name, tensor in out.items():
        parts = [torch.view_as_real(each[name]) if each[name].is_complex() else each[name] for each in models]
        expected = twins.combine([{"x": part} for part in parts], WEIGHTS)["x"]
        assert twins.is_rounded(torch.view_as_real(tensor) if tensor.is_complex() else tensor, expected)
        assert (tensor.dtype, tensor.stride()) == (models[0][name].dtype, models[0][name].stride())
        assert evaluated[name].dtype == tensor.dtype
        assert torch.equal(evaluated[name], tensor)
    rows = [
        torch.cat([(torch.view_as_real(t) if t.is_complex() else t).double().flatten() for t in each.values()])
        for each in models
    ]
    residuals = torch.stack(rows).diff(dim=0).numpy()
    np.testing.assert_allclose(gram(paths), residuals @ residuals.T, rtol=1e-12)
    (view, *_) = probe(str(paths[0])).tensors
    assert (view.stored_dtype, view.stored_shape) == (str(dtype).removeprefix("torch."), (4, 3))


def test_complex_tensors_can_be_fitted(tmp_path):
    """The window in memory shows them as complex numbers too, with a gradient."""
    paths = window(tmp_path, lambda seed: {"w": torch.complex(values(seed, 3), values(seed + 9, 3))})
    found = combination(paths)
    (storage,), _ = span(found)
    row = storage[0].clone().requires_grad_()
    tensor = views(found.layouts[-1], [row])["w"]
    assert torch.allclose(tensor, state_dict(found, torch.device("cpu"))["w"])
    tensor.abs().square().sum().backward()
    assert torch.allclose(row.grad, 2 * row)


def test_complex_tensors_in_safetensors(tmp_path):
    """The same model in safetensors is the same window."""
    paths = window(tmp_path, lambda seed: {"w": torch.complex(values(seed, 3, 2), values(seed + 9, 3, 2))})
    other = tmp_path / "epoch_9.safetensors"
    safetensors.torch.save_file({"w": torch.complex(values(8, 3, 2), values(7, 3, 2))}, other)
    assert difference(probe(str(paths[0])), probe(str(other))) == ""
    out = safetensors.torch.load_file(twins.publish_here([*paths[:2], other], WEIGHTS, tmp_path / "out.safetensors"))
    parts = [{"w": torch.view_as_real(torch.load(path)["w"])} for path in paths[:2]]
    expected = twins.combine([*parts, {"w": torch.stack([values(8, 3, 2), values(7, 3, 2)], dim=-1)}], WEIGHTS)
    assert twins.is_rounded(torch.view_as_real(out["w"]), expected["w"])


def test_a_tensor_that_became_complex_is_another(tmp_path):
    """A change of dtype is reported in torch's words."""
    before = probed({"w": torch.zeros(3, 2)}, tmp_path)
    after = probed({"w": torch.zeros(3, dtype=torch.complex64)}, tmp_path)
    assert difference(before, after) == "the model changed: dtype of w was float32, is complex64"


EIGHT_BITS = [
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz,
    torch.float8_e8m0fnu,
]


def save_safetensors(tree, path):
    """A bare state dict as safetensors."""
    safetensors.torch.save_file(tree, path)


SAVERS = pytest.mark.parametrize(
    ("save", "ending"), [(torch.save, "pt"), (save_safetensors, "safetensors")], ids=["torch", "safetensors"]
)


@SAVERS
@pytest.mark.parametrize("dtype", EIGHT_BITS, ids=str)
def test_a_small_eight_bit_buffer_is_copied(dtype, save, ending, tmp_path):
    """A few eight-bit numbers next to a model of wider ones are the newest's, bit by bit, on disk and in memory."""

    def make(seed):
        return {"w": values(seed, 40, 10), "scale": values(seed, 4).abs().to(dtype)}

    paths = window(tmp_path, make, save, ending)
    layout = probe(str(paths[0]))
    assert {extent.name: extent.role for extent in layout.extents}["scale"] is Role.COPIED
    out = twins.publish_here(paths, WEIGHTS, tmp_path / f"out.{ending}")
    loaded = torch.load(out, weights_only=True) if ending == "pt" else safetensors.torch.load_file(out)
    evaluated = state_dict(combination(paths), torch.device("cpu"))
    for found in (loaded, evaluated):
        assert twins.same_bits(found["scale"].view(torch.uint8), make(3)["scale"].view(torch.uint8))
        assert twins.is_rounded(found["w"], twins.combine([{"w": make(seed)["w"]} for seed in SEEDS], WEIGHTS)["w"])


@SAVERS
@pytest.mark.parametrize("dtype", EIGHT_BITS, ids=str)
def test_eight_bit_weights_are_refused(dtype, save, ending, tmp_path):
    """A model whose weights have eight bits cannot be averaged: the tensor is named, with what to save instead."""
    name = str(dtype).removeprefix("torch.")
    path = tmp_path / f"model.{ending}"
    for tree, culprit in (
        ({"norm": values(1, 8), "proj": values(2, 8, 8).abs().to(dtype)}, "proj"),
        ({"embed": values(1, 400, 100), "a.weight": values(2, 2, 2).abs().to(dtype)}, "a.weight"),
    ):
        save(tree, path)
        with pytest.raises(
            RefusedCheckpoint,
            match=f"^{culprit} has dtype {name}, which cannot be averaged; save it as float32 or bfloat16",
        ):
            probe(str(path))


@SAVERS
@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32], ids=str)
def test_integer_weights_are_refused(dtype, save, ending, tmp_path):
    """Quantized weights, with floating scales next to them, are never half extrapolated."""
    path = tmp_path / f"model.{ending}"
    for name in ("layer.weight", "layer.qweight"):
        save({name: torch.ones(4, 4, dtype=dtype), "layer.scales": torch.ones(4)}, path)
        with pytest.raises(RefusedCheckpoint, match=f"^{name} has dtype .*int.*, which cannot be averaged"):
            probe(str(path))


@SAVERS
def test_integers_of_every_width_are_copied(save, ending, tmp_path):
    """Masks, counters and indices are the newest's."""
    kinds = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
    kinds += [torch.uint16, torch.uint32, torch.uint64]

    def make(seed):
        return {"w": values(seed, 2)} | {
            f"ids_{n}": torch.full((3,), seed % 2).to(kind) for n, kind in enumerate(kinds)
        }

    paths = window(tmp_path, make, save, ending)
    out = twins.publish_here(paths, WEIGHTS, tmp_path / f"out.{ending}")
    loaded = torch.load(out, weights_only=True) if ending == "pt" else safetensors.torch.load_file(out)
    assert all(twins.same_bits(loaded[name], tensor) for name, tensor in make(3).items() if name != "w")
    assert [loaded[f"ids_{n}"].dtype for n in range(len(kinds))] == kinds


class Subclass(torch.Tensor):
    """A tensor of a class of its own."""


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "a nested tensor"),
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged), "a tensor subclass"),
        (lambda: torch.ones(2).as_subclass(Subclass), "a tensor subclass"),
        (lambda: torch.ones(2, dtype=torch.complex64).conj(), "a view that conjugates or negates"),
        (lambda: torch.ones(2, dtype=torch.complex64).conj().imag, "a view that conjugates or negates"),
    ],
)
def test_tensors_of_other_kinds_are_refused_by_name(make, what, tmp_path):
    """What is no plain array of numbers is never read as one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls nested tensors a prototype
        tree = {"model": {"good": torch.ones(2), "blocks.0.w": make()}}
        with pytest.raises(RefusedCheckpoint, match=f"^blocks.0.w is {what}"):
            probed(tree, tmp_path)


# -- what does not move, and what changes


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_frozen_tensors_come_out_bit_by_bit(dtype, tmp_path):
    """What is equal in the whole window is equal in the result: negative zeros, tiny and huge numbers too."""
    limits = torch.finfo(dtype)
    special = torch.tensor(
        [0.0, -0.0, limits.smallest_normal, limits.tiny / 4, limits.max, limits.min, 1 / 3], dtype=torch.float64
    )
    frozen = torch.cat([values(9, 1000, dtype=dtype) * 37, special.to(dtype)])
    weights = (0.0, -1.9371, 2.9371)
    for seed in SEEDS:
        torch.save({"frozen": frozen, "moves": values(seed, 5, dtype=dtype)}, tmp_path / f"epoch_{seed}.pt")
    paths = [tmp_path / f"epoch_{seed}.pt" for seed in SEEDS]
    out = torch.load(twins.publish_here(paths, weights, tmp_path / "out.pt"), weights_only=True)
    assert twins.same_bits(out["frozen"], frozen)
    assert not twins.same_bits(out["moves"], values(3, 5, dtype=dtype))


def test_an_adapter_s_small_tensors_are_a_model(tmp_path):
    """A LoRA adapter, only low-rank factors, is a model like any other."""

    def make(seed):
        names = [f"base_model.model.layers.{n}.q_proj.lora_{side}.weight" for n in range(4) for side in "AB"]
        return {name: values(seed + 7 * n, *((2, 16) if "A" in name else (16, 2))) for n, name in enumerate(names)}

    paths = window(tmp_path, make, save_safetensors, "safetensors")
    out = safetensors.torch.load_file(twins.publish_here(paths, WEIGHTS, tmp_path / "out.safetensors"))
    expected = twins.combine([make(seed) for seed in SEEDS], WEIGHTS)
    assert all(twins.is_rounded(out[name], tensor) for name, tensor in expected.items())


# -- foreign objects and strange trees


@dataclasses.dataclass
class Options:
    """A training program's settings."""

    lr: float = 0.1
    folder: Path = Path("data")


class Outer:
    """A class around another."""

    class Inner:
        """Its instances are pickled by a look-up within `Outer`."""

        def __init__(self, value):
            self.value = value

        def method(self):
            """One that may be pickled, bound."""


class Bomb:
    """An object that would leave a trace if it were ever made."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_foreign_objects_are_read_without_being_made(tmp_path):
    """Whatever stands next to the model is left inert, is not run, and survives publication byte for byte."""
    trace = tmp_path / "trace"
    generator = np.random.default_rng(1)
    beside = {
        "args": argparse.Namespace(
            lr=0.1, output=Path("out"), since=datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
        ),
        "options": Options(),
        "scalar": np.float32(0.25),
        "array": np.arange(6).reshape(2, 3),
        "objects": np.array([None, "x"], dtype=object),
        "numpy": np.random.RandomState(3).get_state(),
        "bits": generator.bit_generator.state,
        "torch": torch.get_rng_state(),
        "path": Path("a/b"),
        "history": collections.defaultdict(list, {"loss": [1.0]}),
        "counts": collections.Counter("abc"),
        "delta": datetime.timedelta(seconds=3),
        "kinds": {1, 2},
        "nested": Outer.Inner(4),
        "bound": Outer.Inner(5).method,
        "bomb": Bomb(trace),
    }
    paths = window(tmp_path, lambda seed: {"model": model(seed), "epoch": seed, **beside})
    layout = probe(str(paths[-1]))
    assert (layout.source, layout.counters) == ("model", {"epoch": 3})
    twins.publish_here(paths, WEIGHTS, tmp_path / "out.pt")
    assert not trace.exists()
    loaded = torch.load(tmp_path / "out.pt", weights_only=False)
    assert trace.exists(), "torch would have run it"
    assert (loaded["args"], loaded["options"], loaded["history"]) == (
        beside["args"],
        beside["options"],
        beside["history"],
    )


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (np.int64(1200), 1200),
        (np.int32(7), 7),
        (np.uint8(200), 200),
        (np.int16(-3), None),
        (np.uint64(2**63), None),
        (np.array(5), 5),
        (np.dtype(">i4").type(9), 9),
        (np.array(6, dtype=">i8"), 6),
        (np.float64(4.0), None),
        (np.bool_(True), None),
        (np.array([1, 2]), None),
        (torch.tensor(1200), 1200),
        (torch.tensor(3, dtype=torch.int32), 3),
        (torch.tensor([8]), 8),
        (torch.tensor(200, dtype=torch.uint8), 200),
        (torch.arange(10)[4], 4),
        (torch.tensor([1, 2]), None),
        (torch.tensor(True), None),
        (torch.tensor(4.0), None),
        (torch.tensor(-4), None),
        (torch.zeros(0, dtype=torch.int64), None),
    ],
    ids=repr,
)
def test_counters_of_numpy_and_torch_are_understood(value, found, tmp_path):
    """Whole numbers are read from the bytes that numpy and torch keep of them; flags, fractions and lists are none."""
    layout = probed({"model": {"w": torch.ones(2)}, "epoch": value, "global_step": value}, tmp_path)
    assert layout.counters == ({} if found is None else {"step": found, "epoch": found})


def test_composer_s_clock_is_read(tmp_path):
    """Composer counts batches and epochs in a clock of its own."""
    assert probed(composer(model(3), 3), tmp_path).counters == {"step": 300, "epoch": 3}


def test_a_tree_that_holds_itself_ends(tmp_path):
    """Cycles are walked once, wherever they close."""
    tree = {"epoch": 2, "model": {"w": torch.ones(2)}}
    tree["self"] = tree
    tree["model"]["up"] = tree["model"]
    tree["inner"] = {"back": tree}
    layout = probed(tree, tmp_path)
    assert [view.name for view in layout.tensors] == ["w"]
    circle = {"nothing": None}
    circle["circle"] = circle
    with pytest.raises(RefusedCheckpoint, match="no named tensors"):
        probed(circle, tmp_path)


def test_a_mapping_under_two_keys_is_found_under_both(tmp_path):
    """The same state dict under two names can be chosen by either."""
    tensors = {"w": torch.ones(2), "inner": {"v": torch.ones(1)}}
    for source in ("state_dict", "best"):
        assert len(probed({"state_dict": tensors, "best": tensors}, tmp_path, source).tensors) == 2


def deep(levels, leaf):
    """Mappings within mappings."""
    for _ in range(levels):
        leaf = {"x": leaf}
    return leaf


def test_a_deep_model_is_read_whole_or_refused(tmp_path):
    """Nested modules are found at any depth that models have; beyond, the file is refused, never read in part."""
    layout = probed({"model": {"w": torch.ones(2), "deep": deep(40, {"v": torch.ones(3)})}}, tmp_path)
    assert len(layout.tensors) == 2
    with pytest.raises(RefusedCheckpoint, match="x is a mapping nested more than 64 deep"):
        probed({"model": {"w": torch.ones(2), "deep": deep(100, {"v": torch.ones(3)})}}, tmp_path)
    assert probed({"model": {"w": torch.ones(2)}, "log": deep(150, {"v": torch.ones(3)})}, tmp_path).source == "model"


def test_mappings_without_end_are_refused(tmp_path):
    """A tree that doubles with every level, small in the file, is refused instead of walked for years."""
    tree = {"w": torch.ones(1)}
    for _ in range(40):
        tree = {"a": tree, "b": tree}
    with pytest.raises(RefusedCheckpoint, match="more than 4,000,000 entries"):
        probed({"model": tree}, tmp_path)
