"""Checkpoints of real runs that nobody here wrote (skipped where the folder of real runs is absent)."""

import zipfile

import numpy as np
import pytest
import torch

from rna_watch.acceleration.coefficients import solve, spectrum
from rna_watch.acceleration.gram import merge
from rna_watch.formats import safe_pickle
from rna_watch.formats.probe import probe
from rna_watch.layout.agreement import difference
from rna_watch.window import tasks, tasks_plan
from tests.checkpoints import twins


def checkpoints(folder, numbers):
    """Files of a run, by number."""
    return [folder / f"checkpoint_{number}.pth.tar" for number in numbers]


def load(path):
    """The model's tensors as torch loads them."""
    tree = torch.load(path, map_location="cpu", weights_only=True)
    return tree.get("state_dict", tree)


def gram(paths):
    """The Gram matrix of a window."""
    layouts = [probe(str(path)) for path in paths]
    return merge([tasks.run(task) for task in tasks_plan.gram_tasks(layouts, len(paths) - 1, 64.0)])


@pytest.mark.parametrize(("run", "count", "parameters"), [("logicity", 10, 18_437), ("ahci", 21, 135)])
def test_every_file_is_read_as_torch_reads_it(real_runs, run, count, parameters):
    """Each checkpoint of the run is complete, holds torch's tensors bit for bit, and fits the others."""
    layouts = [probe(str(path)) for path in checkpoints(real_runs / run, range(count))]
    for layout in layouts:
        expected = load(layout.path)
        found = twins.read(layout)
        assert list(found) == list(expected)
        assert all(twins.same_bits(found[name], tensor) for name, tensor in expected.items())
        assert layout.parameters == parameters
        assert difference(layouts[0], layout) == ""


def test_the_epoch_inside_is_one_more_than_the_name_s(real_runs):
    """The counter in a file is found next to Adam's state."""
    for number, path in enumerate(checkpoints(real_runs / "logicity", range(10))):
        assert probe(str(path)).counters == {"epoch": number + 1}
        with zipfile.ZipFile(path) as file:
            (name,) = [name for name in file.namelist() if name.endswith("data.pkl")]
            assert "optimizer" in safe_pickle.load(file.read(name))


def test_the_gram_matrix_is_the_twin_s(real_runs):
    """Six epochs of a real run give R'R of their float64 differences."""
    paths = checkpoints(real_runs / "logicity", range(4, 10))
    flat = np.array([torch.cat([t.flatten() for t in load(path).values()]).double().numpy() for path in paths])
    residuals = np.diff(flat, axis=0)
    np.testing.assert_allclose(gram(paths).rows, residuals @ residuals.T, rtol=1e-12)


@pytest.mark.parametrize("run", ["logicity", "ahci"])
def test_a_published_model_of_a_real_run(real_runs, run, tmp_path):
    """RNA of a real window is published, loads strictly under the same keys, and equals the float64 combination."""
    paths = checkpoints(real_runs / run, range(6))
    c = solve(spectrum(gram(paths).rows), 1e-4).coefficients
    weights = (0.0, *map(float, c))
    out = twins.publish_here(paths, weights, tmp_path / "out.pth.tar")
    published, expected = load(out), twins.combine([load(path) for path in paths], weights)
    assert list(published) == list(expected)
    assert all(twins.is_rounded(tensor, expected[name]) for name, tensor in published.items())
    assert zipfile.ZipFile(out).testzip() is None
    newest = torch.load(paths[-1], map_location="cpu", weights_only=True)
    if "optimizer" in newest:
        assert str(torch.load(out, map_location="cpu", weights_only=True)["optimizer"]) == str(newest["optimizer"])


def test_a_linear_run_is_extrapolated_to_its_limit(real_runs, tmp_path):
    """Two steps, each a tenth of the one before, lead nearer to the limit than the tenth checkpoint."""
    paths = checkpoints(real_runs / "ahci", range(4))
    c = solve(spectrum(gram(paths).rows[1:, 1:]), 1e-8).coefficients
    out = twins.publish_here(paths[1:], (0.0, *map(float, c)), tmp_path / "out.pth.tar")
    limit = load(checkpoints(real_runs / "ahci", [20])[0])
    (name,) = limit

    def distance(path):
        return float((load(path)[name].double() - limit[name].double()).norm())

    assert distance(out) < 1e-2 * distance(paths[-1])


def test_equal_checkpoints_of_a_real_run_have_no_direction(real_runs):
    """A run that stands still gives a zero matrix and the sentence that says so."""
    total = gram(checkpoints(real_runs / "ahci", range(10, 21)))
    assert not total.rows.any()
    assert spectrum(total.rows).status.startswith("All checkpoints of the window are equal")
