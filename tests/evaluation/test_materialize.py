"""A combination as a state dict in memory: the same bits as on disk, under a plain model's keys."""

import dataclasses

import numpy as np
import pytest
import torch

from rna_watch.acceleration.gram import merge
from rna_watch.evaluation import materialize
from rna_watch.evaluation.materialize import span, state_dict
from rna_watch.formats.probe import probe
from rna_watch.layout.layout import Role
from rna_watch.layout.names import plain_names
from rna_watch.window import tasks_plan
from rna_watch.window.combine import Combination
from tests.checkpoints import twins
from tests.checkpoints.writers import DTYPES, FORMS, Network, model
from tests.engine import windows
from tests.formats.test_views import SHAPES

WEIGHTS = (0.0, -0.9, 1.9)


def window(form, folder, dtype=torch.float32):
    """Three checkpoints."""
    paths = [folder / f"epoch_{seed}{form.ending}" for seed in (1, 2, 3)]
    for seed, path in enumerate(paths, 1):
        form.write(path, model(seed, dtype), seed)
    return paths


def in_memory(paths, weights=WEIGHTS):
    """The combination as an evaluator gets it."""
    layouts = tuple(probe(str(path)) for path in paths)
    return state_dict(Combination(layouts=layouts, weights=weights), torch.device("cpu"))


def shared(tensors):
    """Which of these tensors have bytes in common."""
    places = [
        {tensor.data_ptr() + place * tensor.element_size() for place in where.flatten().tolist()}
        for tensor in tensors
        for where in [torch.as_strided(torch.arange(10_000), tensor.shape, tensor.stride())]
    ]
    return [[not a.isdisjoint(b) for b in places] for a in places]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FORMS)
def test_the_evaluated_model_is_the_published_one(name, dtype, tmp_path):
    """What is evaluated and what is written are the same model, bit for bit, under plain keys; a network takes it strictly."""
    form = FORMS[name]
    paths = window(form, tmp_path, dtype)
    found = in_memory(paths)
    published = form.load(twins.publish_here(paths, WEIGHTS, tmp_path / f"out{form.ending}"))
    assert set(found) == set(model(1))
    names = plain_names(published)
    for key, tensor in published.items():
        assert twins.same_bits(found[names[key]], tensor.detach()), key
    Network().to(dtype).load_state_dict(found, strict=True)


@pytest.mark.parametrize("make", SHAPES, ids=lambda make: make.__name__)
def test_views_stay_views(make, tmp_path):
    """Strides and sharing of storage are those of the checkpoint: tied tensors are tied."""
    paths = [tmp_path / f"epoch_{seed}.pt" for seed in (1, 2, 3)]
    for seed, path in enumerate(paths):
        torch.save(make(seed), path)
    found = in_memory(paths)
    published = torch.load(twins.publish_here(paths, WEIGHTS, tmp_path / "out.pt"), weights_only=True)
    assert shared(found.values()) == shared(published.values())
    for name, tensor in published.items():
        assert found[name].stride() == tensor.stride()
        assert twins.same_bits(found[name], tensor)


def test_the_last_iterate_alone_is_the_checkpoint(tmp_path):
    """The model is the newest, integers and flags included, if that has all the weight."""
    paths = window(FORMS["torch zip, bare"], tmp_path)
    found = in_memory(paths, (0.0, 0.0, 1.0))
    assert all(twins.same_bits(found[name], tensor) for name, tensor in model(3).items())


def test_integers_of_every_width_are_the_newest_s(tmp_path):
    """Counters, masks and indices are copied, whatever their width."""
    kinds = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
    kinds += [torch.uint16, torch.uint32, torch.uint64]
    for seed in (0, 1):
        integers = {str(kind): torch.tensor([seed, 1, 0]).to(kind) for kind in kinds}
        torch.save({"w": torch.full((2,), float(seed)), **integers}, tmp_path / f"{seed}.pt")
    found = in_memory([tmp_path / "0.pt", tmp_path / "1.pt"], (-1.0, 2.0))
    assert found["w"].tolist() == [2.0, 2.0]
    for kind in kinds:
        assert found[str(kind)].dtype == kind
        assert found[str(kind)].tolist() == [1, 1, 0]


def test_a_window_s_gram_matrices_are_those_of_its_residuals(tmp_path):
    """Those that are made while it is read equal R'R of each parameter extent as it lies in memory, to its rounding."""
    layouts = windows.write(tmp_path)
    storages, grams = span(Combination(layouts=layouts, weights=windows.WEIGHTS))
    parameters = {number for number, each in enumerate(layouts[-1].extents) if each.role is Role.PARAMETER}
    assert grams.keys() == parameters
    for number, gram in grams.items():
        residuals = storages[number][1:].double().numpy()
        expected = residuals @ residuals.T
        np.testing.assert_allclose(gram, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("kernel", ["compiled", "vectors", "whole", "small"])
def test_the_gram_matrices_of_the_tensors_add_up_to_that_of_the_pass(kernel, tmp_path, monkeypatch):
    """By the kernel of the pass, which the plan names, with an error no larger than its own."""
    layouts = windows.write(tmp_path)
    work = [dataclasses.replace(task, kernel=kernel) for task in tasks_plan.gram_tasks(layouts, 3, windows.BUDGET_MIB)]
    expected = merge(windows.serial(work)).rows
    asked = []
    monkeypatch.setattr(materialize, "window_kernel", lambda checkpoints: asked.append(checkpoints) or kernel)
    _, grams = span(Combination(layouts=layouts, weights=windows.WEIGHTS))
    np.testing.assert_allclose(sum(grams.values()), expected, rtol=1e-14, atol=1e-14 * expected.max())
    assert asked == [len(layouts)]
