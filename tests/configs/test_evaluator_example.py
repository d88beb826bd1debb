import json
import math
import os
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

from rna_watch.demo import train_digits
from rna_watch.evaluation.evaluator import choosing_metric
from rna_watch.evaluation.metrics import check_metrics
from rna_watch.journal import log
from rna_watch.journal.replay import replay
from tests.daemon.runs import rna_watch

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "configs" / "evaluator_example.py"
PYTORCH = ROOT / "configs" / "pytorch.yaml"
BATCH = 100


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with a real run of three epochs (`run`) and real validation images in two batches (`batches`)."""
    folder = tmp_path_factory.mktemp("example")
    (folder / "batches").mkdir()
    images, labels = (part[train_digits.TRAINED_ON :] for part in train_digits.images())
    for number in range(2):
        part = slice(number * BATCH, (number + 1) * BATCH)
        torch.save((images[part].clone(), labels[part].clone()), folder / "batches" / f"{number:04d}.pt")
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train_digits.py", str(folder / "run"), "--epochs", "3"])
        train_digits.main()
    torch.set_num_threads(threads)
    return folder


def environment(run, **changes):
    """The environment of a person who set both variables."""
    own = {
        "VALIDATION_MODEL": "rna_watch.demo.train_digits:network",
        "VALIDATION_DATA": str(run / "batches"),
        "OMP_NUM_THREADS": "1",
    }
    return os.environ | own | changes


@pytest.fixture
def judged(run, tmp_path, monkeypatch):
    """Runs `once` on the run from the root of the repository, with these options; the folder of what it wrote."""

    def call(*options, **changes):
        for name, value in environment(run, XDG_STATE_HOME=str(tmp_path), **changes).items():
            monkeypatch.setenv(name, value)
        output = tmp_path / "out"
        result = rna_watch("once", run / "run", *options, "--engine", "local", "--output", output, cwd=ROOT)
        assert result.returncode == 0, result.stdout + result.stderr
        assert "problem" not in result.stdout + result.stderr
        return output

    return call


@pytest.fixture
def as_script(run, monkeypatch):
    """Runs a script with its arguments as `python` would from the root of the repository, but in this process."""

    def call(*arguments, **changes):
        for name, value in environment(run, **changes).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "path", [*sys.path])
        monkeypatch.setattr(sys, "argv", list(arguments))
        monkeypatch.chdir(ROOT)
        runpy.run_path(arguments[0], run_name="__main__")

    return call


def expected_error(checkpoint, run):
    """The error in percent, computed the slow and obvious way."""
    model = train_digits.network()
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["model"])
    model.eval()
    wrong = count = 0
    for file in (run / "batches").iterdir():
        for image, label in zip(*torch.load(file, weights_only=True), strict=True):
            wrong += model(image[None]).argmax().item() != label.item()
            count += 1
    return 100 * wrong / count


def test_as_a_command_it_prints_the_metrics_of_a_real_checkpoint(run, as_script, capsys):
    """The command of configs/pytorch.yaml prints one JSON object, whose first metric is the true error."""
    command = re.search(r"^#evaluate_command: python (.+)$", PYTORCH.read_text(), re.MULTILINE)[1]
    checkpoint = run / "run" / "epoch_003.pt"
    as_script(*command.replace("{checkpoint}", str(checkpoint)).split())
    metrics, examples = check_metrics(json.loads(capsys.readouterr().out))
    assert choosing_metric(metrics, None) == "error"
    assert metrics["error"] == pytest.approx(expected_error(checkpoint, run))
    assert len(examples["error"]) == 2 * BATCH, "a value for each example"
    assert math.isfinite(metrics["loss"])


def test_rna_watch_judges_models_with_it(run, judged):
    """Models are judged by the true error with the settings of configs/pytorch.yaml."""
    output = judged("--config", PYTORCH)
    manifest = json.loads((output / "rna" / "epoch_003.pt.json").read_text())
    original = expected_error(run / "run" / "epoch_003.pt", run)
    assert manifest["metrics"]["original"]["error"] == pytest.approx(original)


def test_with_training_data_weights_are_trained_and_statistics_re_estimated(run, judged):
    """TRAINING_DATA lets the same file train a window's weights, re-estimate batch norm, and screen on a part of the data."""
    output = judged(
        *("--evaluator", f"{EXAMPLE}:evaluate", "--normalization", "re-estimate", "--methods", "average,rna,trained"),
        *("--first-round", "0.5", "--max-candidates", "1"),
        TRAINING_DATA=str(run / "batches"),
    )
    state = replay(log.read(output / ".rna-watch" / "journal.jsonl"))
    newest = state.checkpoints["epoch_003.pt"]
    assert newest.evaluations.keys() >= {"last", "average-2", "trained-2"}
    assert newest.screened
    manifest = json.loads((output / "rna" / "epoch_003.pt.json").read_text())
    assert manifest["statistics"] in {"re-estimated", "clamped"}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"VALIDATION_MODEL": ""}, "set the environment variable VALIDATION_MODEL to module:function"),
        ({"VALIDATION_DATA": ""}, "set the environment variable VALIDATION_DATA to a folder of batches"),
        ({"VALIDATION_DATA": "nowhere"}, "there are no batches"),
    ],
    ids=["no model", "no data", "empty folder"],
)
def test_what_is_missing_is_said(as_script, changes, sentence):
    """It says what to set if a variable is missing or the folder is empty."""
    with pytest.raises(RuntimeError, match=re.escape(sentence)):
        as_script(str(EXAMPLE), "epoch_003.pt", **changes)
