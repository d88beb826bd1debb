"""The evaluating side, in this process: loading the user's code, running the user's command."""

import dataclasses
import math
import sys
from pathlib import Path

import pytest

from rna_watch.errors import EvaluationFailed, InputChanged, UsageError
from rna_watch.evaluation.worker import EvaluationWorker

from .contract import is_gone
from .models import combination, python, request, spec

pytestmark = pytest.mark.usefixtures("at_home")


def command(folder, text, **options):
    """A worker for a shell command."""
    return EvaluationWorker(spec(folder, command=text, **options))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def evaluate(a, b)\n    pass\n", r"user.py:1: SyntaxError: "),
        ("import torch\nimport no_such_library\n", r"user.py:2: ModuleNotFoundError: .*no_such_library'$"),
        ("x = 1\n\nraise RuntimeError('no data')\n", r"user.py:3: RuntimeError: no data$"),
        ("import sys\nsys.exit('usage: ...')\n", r"user.py:2: SystemExit: usage: ...$"),
    ],
)
def test_a_file_that_fails_while_it_is_imported(tmp_path, text, message):
    """The error of the import is reported with the line of the user's file."""
    with pytest.raises(EvaluationFailed, match=rf"user.py cannot be imported: {message}"):
        python(tmp_path, text)


def test_what_is_not_there_is_named(tmp_path):
    """A missing file, a missing function and an unknown device are told apart."""
    with pytest.raises(EvaluationFailed, match=r"file .*/nowhere.py does not exist"):
        EvaluationWorker(spec(tmp_path, function="nowhere.py:evaluate"))
    with pytest.raises(EvaluationFailed, match=r"user.py has no function 'evaluate'"):
        python(tmp_path, "evaluate = 3\n")
    with pytest.raises(UsageError, match=r"FILE\.py:function"):
        EvaluationWorker(spec(tmp_path, function="user.evaluate"))


def test_an_unknown_device_is_refused(tmp_path):
    """A device that torch does not know is named before any model is evaluated."""
    (tmp_path / "user.py").write_text("def evaluate(state_dict, device):\n    return {'a': 1}\n")
    with pytest.raises(EvaluationFailed, match="device 'gpu0' is not one of torch's"):
        EvaluationWorker(dataclasses.replace(spec(tmp_path, function="user.py:evaluate"), device="gpu0"))


def test_an_error_in_a_library_is_told_with_the_user_s_line(tmp_path):
    """The line shown is the user's that called torch, not torch's own, if torch raises."""
    text = "import torch\n\n\ndef evaluate(state_dict, device):\n    return torch.ones(2) @ torch.ones(3)\n"
    with pytest.raises(EvaluationFailed, match=r"^user.py:5: "):
        python(tmp_path, text).evaluate(combination(tmp_path))
    text = (
        "import torch\n\n\ndef evaluate(state_dict, device):\n    torch.nn.Linear(2, 2).load_state_dict(state_dict)\n"
    )
    with pytest.raises(EvaluationFailed, match=r"(?s)^user.py:5: .*Missing key"):
        python(tmp_path, text).evaluate(combination(tmp_path))


def test_neighbours_of_the_file_and_of_the_directory_can_be_imported(tmp_path):
    """The user's file may import what lies next to it, and what lies in the directory of the command, wherever it runs."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "beside_it.py").write_text("A = 1\n")
    (tmp_path / "project_of_the_user.py").write_text("B = 2\n")
    (tmp_path / "scripts" / "user.py").write_text(
        "import beside_it, project_of_the_user\n"
        "def evaluate(state_dict, device):\n"
        "    return {'sum': beside_it.A + project_of_the_user.B}\n"
    )
    worker = EvaluationWorker(spec(tmp_path, function="scripts/user.py:evaluate"))
    assert worker.evaluate(combination(tmp_path)).metrics == {"sum": 3.0}


def test_a_checkpoint_that_is_gone_is_not_the_evaluator_s_fault(tmp_path):
    """Trouble with an input keeps its own class."""
    worker = python(tmp_path, "def evaluate(state_dict, device):\n    return {'a': 1}\n")
    model = combination(tmp_path)
    Path(model.layouts[0].path).unlink()
    with pytest.raises(InputChanged):
        worker.evaluate(model)


PROGRAM = """
import json, sys, torch
path = sys.argv[1]
print("loading", path)
total = torch.load(path, weights_only=True)["state_dict"]["module.w"].sum().item()
print(json.dumps({"sum": total, "length": len(path)}))
open("seen", "w").write(path)
"""


def test_a_command_gets_a_file_that_torch_loads(tmp_path):
    """{checkpoint} is the model's file, quoted for the shell, with the ending of its format; it is gone afterwards."""
    (tmp_path / "eval.py").write_text(PROGRAM)
    scratch = tmp_path / "it's here"
    specification = spec(tmp_path, command=f"{sys.executable} eval.py {{checkpoint}}")
    worker = EvaluationWorker(dataclasses.replace(specification, scratch=str(scratch)))
    assert worker.evaluate(combination(tmp_path)).metrics["sum"] == 8.0
    path = Path((tmp_path / "seen").read_text())
    assert (path.parent, path.suffix) == (scratch, ".pt")
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(
    ("printed", "metrics"),
    [
        ('{"a": 1}', {"a": 1.0}),
        ('epoch 3\n{"a": 1}\n{"a": 2}\ndone', {"a": 2.0}),
        ('{not json}\n  {"a": 3}', {"a": 3.0}),
        ('log\n{\n  "a": 4,\n  "b": 5\n}', {"a": 4.0, "b": 5.0}),
        ('{"a": NaN}', None),
    ],
)
def test_the_last_object_that_a_command_prints_counts(tmp_path, printed, metrics):
    """Logs around the JSON are passed over, whether it stands on one line or on several."""
    (tmp_path / "printed").write_text(printed)
    found = command(tmp_path, "cat printed").evaluate(combination(tmp_path)).metrics
    assert found == metrics if metrics else math.isnan(found["a"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("echo hello", "printed no JSON object of metrics, but: 'hello'"),
        ("true", "printed no JSON object of metrics, but: ''"),
        ("echo '[0.5]'", "printed no JSON object of metrics"),
        ("echo '{}'", "must return a dict of metric names to numbers"),
        ("""echo '{"a": "low"}'""", "metric 'a' is 'low', not a number"),
        ("echo out; echo broken >&2; exit 7", "ended with status 7: broken"),
        ("echo out; exit 7", "ended with status 7: out"),
        ("no-such-program-anywhere", "ended with status 127: .*no-such-program-anywhere"),
        ("kill -9 $$", "ended with status -9"),
    ],
)
def test_what_a_command_does_wrong_is_told(tmp_path, text, message):
    """Status, words and missing metrics are in the message."""
    with pytest.raises(EvaluationFailed, match=message):
        command(tmp_path, text).evaluate(combination(tmp_path))


@pytest.mark.parametrize(
    "text",
    [
        "sleep 1000 & echo $! > pid; wait",
        "sleep 1000 & echo $! > pid; exit 0",
        "(sleep 1000 & echo $! > pid; wait) & wait",
    ],
    ids=["waiting", "left behind with the output open", "grandchild"],
)
def test_a_command_past_its_limit_is_ended_with_all_it_started(tmp_path, text):
    """The shell, its children and what they left behind end when the time is up."""
    with pytest.raises(EvaluationFailed, match=r"longer than 0\.5 s and was ended; raise --evaluation-timeout"):
        command(tmp_path, text, timeout_s=0.5).evaluate(combination(tmp_path))
    assert is_gone(int((tmp_path / "pid").read_text()))


def test_what_a_command_leaves_behind_ends_with_it(tmp_path):
    """A server that a finished command forgot does not outlive the evaluation."""
    text = """sleep 1000 > out 2>&1 & echo $! > pid; echo '{"a": 1}'"""
    assert command(tmp_path, text).evaluate(combination(tmp_path)).metrics == {"a": 1.0}
    assert is_gone(int((tmp_path / "pid").read_text()))


def test_a_command_may_wait_for_its_own_children(tmp_path):
    """The shell's `wait` waits for what the command started, and for nothing of ours; its input is empty."""
    text = """(exit 0) & (exit 0) & wait; cat; echo '{"a": 1}'"""
    assert command(tmp_path, text).evaluate(combination(tmp_path)).metrics == {"a": 1.0}


def test_a_command_runs_at_home(tmp_path):
    """Its directory and environment are those of the command that started us."""
    text = """test "$(pwd)" = "$HERE" && echo '{"a": 1}'"""
    worker = command(tmp_path, text, environment={"HERE": str(tmp_path)})
    assert worker.evaluate(combination(tmp_path)).metrics == {"a": 1.0}


@pytest.mark.parametrize(
    ("parameters", "found"),
    [
        ("state_dict, device, fraction=0.75", 0.75),
        ("state_dict, device, fraction", 1.0),
        ("state_dict, device, *, fraction=None", None),
        ("state_dict, device, **options", None),
    ],
)
def test_a_fraction_is_handed_on_by_name(tmp_path, parameters, found):
    """A function that takes `fraction`, by name or among others, gets it; without one its own default stands."""
    text = (
        f"def evaluate({parameters}):\n    fraction = {{**locals(), **locals().get('options', {{}})}}.get('fraction')\n"
    )
    worker = python(tmp_path, text + "    return {'f': -1 if fraction is None else fraction}\n")
    assert worker.offers() == {"fraction"}
    assert worker.evaluate(combination(tmp_path), fraction=0.25).metrics == {"f": 0.25}
    assert worker.evaluate(combination(tmp_path)).metrics == {"f": -1.0 if found is None else found}


@pytest.mark.parametrize("parameters", ["state_dict, device", "*everything", "state_dict, device, fraction, /"])
def test_a_function_without_a_fraction_says_what_to_write(tmp_path, parameters):
    """One that cannot evaluate on a part of the data is no cheap first round, and is answered with what would be."""
    worker = python(tmp_path, f"def evaluate({parameters}):\n    return {{'a': 1}}\n")
    assert worker.offers() == frozenset()
    with pytest.raises(EvaluationFailed, match=r"user.py: the evaluator takes no argument 'fraction'.*fraction=1.0"):
        worker.evaluate(combination(tmp_path), fraction=0.25)


def test_only_functions_of_our_form_are_offered(tmp_path):
    """A file that uses our names for something of its own does not offer it, and says how it would."""
    text = (
        "import torch\n"
        "normalization = torch.nn.Identity()\n"
        "def training_loss(logits, labels):\n    return 0\n"
        "def evaluate(state_dict, device):\n    return {'a': 1}\n"
    )
    worker = python(tmp_path, text)
    assert worker.offers() == frozenset()
    with pytest.raises(EvaluationFailed, match=r"user.py defines no function normalization\(device\)$"):
        worker.evaluate(combination(tmp_path), re_estimate=True)
    with pytest.raises(EvaluationFailed, match=r"no function training_loss\(state_dict, device, generator\)$"):
        worker.fit(request(combination(tmp_path)))


def test_a_command_gets_a_fraction(tmp_path):
    """{fraction} is the part of the data, and 1 where all of it is meant; the values may come by example."""
    worker = command(tmp_path, """echo '{"f": {fraction}, "loss": [0.5, 1, true]}'""")
    assert worker.offers() == {"fraction"}
    found = worker.evaluate(combination(tmp_path), fraction=0.125)
    assert found.metrics == {"f": 0.125, "loss": 2.5 / 3}
    assert {name: values.tolist() for name, values in found.examples.items()} == {"loss": [0.5, 1.0, 1.0]}
    assert worker.evaluate(combination(tmp_path)).metrics["f"] == 1.0


def test_what_a_command_cannot_do_is_told(tmp_path):
    """There is no part of the data without {fraction}; statistics and weights need a function."""
    worker = command(tmp_path, "echo '{}'")
    assert worker.offers() == frozenset()
    with pytest.raises(EvaluationFailed, match=r"no \{fraction\} in it.*--fraction \{fraction\}'"):
        worker.evaluate(combination(tmp_path), fraction=0.5)
    with pytest.raises(EvaluationFailed, match=r"a command cannot re-estimate.*normalization\(device\)"):
        worker.evaluate(combination(tmp_path), re_estimate=True)
    with pytest.raises(EvaluationFailed, match=r"a command cannot train weights.*training_loss\("):
        worker.fit(request(combination(tmp_path)))


PLACED = """
import torch

asked = []


def placement(name, tensor):
    asked.append(name)
    return {made}


def evaluate(state_dict, device):
    return {{
        "asked": len(asked),
        "bfloat16": sum(each.dtype == torch.bfloat16 for each in state_dict.values()),
        "distinct": len({{each.data_ptr() for each in state_dict.values()}}),
        "sum": float(sum(each.double().sum() for each in state_dict.values())),
    }}
"""


def test_tensors_are_placed_one_by_one_as_the_user_s_file_says(tmp_path):
    """`placement` sees every tensor once, and the model that is judged is what it returned, tied tensors still tied."""
    whole = python(tmp_path, PLACED.format(made="tensor")).evaluate(combination(tmp_path)).metrics
    placed = python(tmp_path, PLACED.format(made="tensor.bfloat16() if tensor.is_floating_point() else tensor"))
    said = placed.evaluate(combination(tmp_path)).metrics
    assert said["asked"] == said["distinct"] == whole["distinct"]
    assert 0 == whole["bfloat16"] < said["bfloat16"]
    assert said["sum"] == pytest.approx(whole["sum"], rel=1e-2)


def test_a_placement_that_returns_something_else_is_told(tmp_path):
    """No tensor, another shape, and an error of its own, each with the tensor's name or the line."""
    for made, message in (
        ("None", r"placement\('.+', tensor\) must return a tensor of the shape \(.*\), not None"),
        ("tensor[None]", r"must return a tensor of the shape \(.*\), not shape \(1, "),
        ("tensor.to('nowhere')", r"^user.py:9: "),
    ):
        with pytest.raises(EvaluationFailed, match=message):
            python(tmp_path, PLACED.format(made=made)).evaluate(combination(tmp_path))
