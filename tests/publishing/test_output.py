"""An output as a whole: manifest, model and plain copy, in this order, and what is left when one of them fails."""

import errno
import os

import pytest

from rna_watch.errors import StoreError
from rna_watch.formats.probe import probe
from rna_watch.layout.artifacts import export_path, is_output, manifest_path
from rna_watch.publishing import output as outputs
from rna_watch.window import tasks
from rna_watch.window.combine import Combination
from tests.checkpoints.writers import BARE, FORMS, model

MANIFEST = b'{"schema": 1, "inputs": [], "weights": [], "coefficients": []}'


def planned(folder, form=BARE, **settings):
    """The plan of an output of two checkpoints."""
    paths = [folder / f"epoch_{seed}{form.ending}" for seed in (1, 2)]
    for seed, path in enumerate(paths, 1):
        form.write(path, model(seed), seed)
    recipe = Combination(layouts=tuple(probe(str(path)) for path in paths), weights=(-1.0, 2.0))
    (folder / "rna").mkdir(exist_ok=True)
    return outputs.plan(
        folder / "rna" / paths[-1].name, recipe, **{"exported": "none", "optimizer_state": "keep"} | settings
    )


def fail(_work):
    """An engine whose disk is full."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("exported", ["none", "safetensors"])
def test_the_manifest_comes_first_and_all_is_counted(tmp_path, exported):
    """The manifest is there when the model is written; the size is that of both models."""
    output = planned(tmp_path, exported=exported)
    seen = []

    def run(work):
        seen.append(manifest_path(output.model).read_bytes())
        return tasks.run_all(work)

    written = outputs.write(output, MANIFEST, run)
    assert set(seen) == {MANIFEST}
    assert is_output(output.model)
    models = [output.model, *([export_path(output.model)] if exported == "safetensors" else [])]
    assert written == sum(path.stat().st_size for path in models)
    assert len(os.listdir(output.model.parent)) == 1 + len(models)


def test_a_new_model_that_fails_leaves_nothing(tmp_path):
    """A manifest without its model goes with it, and the error says what to do."""
    output = planned(tmp_path)
    with pytest.raises(StoreError, match=r"cannot write .*epoch_2\.pt: No space left .*--output"):
        outputs.write(output, MANIFEST, fail)
    assert os.listdir(output.model.parent) == []


def test_an_older_plain_copy_is_gone_before_a_model_is_written_again(tmp_path):
    """The first model stays if the second fails, without the copy that would pass for the second one's."""
    output = planned(tmp_path, exported="safetensors")
    outputs.write(output, MANIFEST, tasks.run_all)
    with pytest.raises(StoreError):
        outputs.write(output, MANIFEST, fail)
    assert sorted(os.listdir(output.model.parent)) == ["epoch_2.pt", "epoch_2.pt.json"]


def test_what_cannot_be_done_is_said(tmp_path):
    """A file whose model cannot stand alone gets a note; what can be done as it is wanted gets none."""
    output = planned(tmp_path, FORMS["torch legacy, state_dict"], optimizer_state="drop")
    assert not output.dropped
    assert output.notes[0].startswith("What lies beside the model was kept: it is in torch's old format")
    dropped = planned(tmp_path, exported="safetensors", optimizer_state="drop")
    assert (dropped.dropped, dropped.export, dropped.notes) == (True, export_path(dropped.model), ())
