import ast
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from rna_watch.commands.settle_run import nothing
from rna_watch.commands.verify import verify_all
from rna_watch.errors import RefusedCheckpoint
from rna_watch.formats import registry
from rna_watch.formats.probe import probe
from rna_watch.journal.run_paths import RunPaths
from rna_watch.publishing.verification import Verdict
from rna_watch.watching import steps
from rna_watch.watching.scan import scan
from tests.checkpoints import twins
from tests.checkpoints.forms import FORMS
from tests.daemon.in_process import process
from tests.formats import toy

PACKAGE = Path(__file__).parents[2] / "rna_watch"
FILES = [each for each in registry.FILES if each.endings]
STEPS = range(1, 6)
# how a made-up format is registered, saved, named and loaded again
TOYS = {
    "a file": ({"FILES": toy.FORMAT}, toy.save, "epoch_{}.toy", toy.load),
    "a folder": (
        {"FILES": toy.FORMAT, "FOLDERS": toy.FOLDER},
        toy.save_folder,
        "epoch_{}",
        lambda path: toy.load(path / toy.WEIGHTS),
    ),
    "a folder that is consolidated": (
        {"FILES": toy.FORMAT, "FOLDERS": toy.CONSOLIDATED},
        toy.save_folder,
        "epoch_{}",
        lambda path: safetensors.torch.load_file(path / "model.safetensors"),
    ),
}


def _tensors(step):
    """A network on its way to a limit."""
    generator = torch.Generator().manual_seed(0)
    limit, *ways = torch.randn(3, 6, 5, generator=generator)
    return {"head.weight": limit + 0.8**step * ways[0] + (-0.5) ** step * ways[1], "steps": torch.tensor(step)}


@pytest.fixture(params=TOYS)
def kind(request, monkeypatch):
    """A made-up format, registered."""
    registered, *rest = TOYS[request.param]
    for name, each in registered.items():
        monkeypatch.setattr(registry, name, (*getattr(registry, name), each))
    return rest


def test_a_format_that_is_registered_is_watched_probed_combined_published_and_verified(kind, tmp_path):
    """A line in the registry is all that a format needs besides its own file, from the scan to `verify`."""
    save, name, load = kind
    for step in STEPS:
        save(tmp_path / name.format(step), _tensors(step), step)
    assert {each.name for each in scan(tmp_path)[0]} == {name.format(step) for step in STEPS}
    state = process(tmp_path, tmp_path, window=3)
    newest = state.checkpoints[name.format(5)]
    assert newest.admitted.step == 5
    out = tmp_path / "rna" / newest.output
    assert out.name == name.format(5)
    weights = json.loads(out.with_name(f"{out.name}.json").read_text())["weights"]
    expected = twins.combine([_tensors(step) for step in STEPS][-len(weights) :], weights)
    found = load(out)
    assert found.keys() == expected.keys()
    assert twins.is_rounded(found["head.weight"], expected["head.weight"])
    assert found["steps"] == 5
    verified = list(verify_all([tmp_path]))
    assert len(verified) == 3
    assert all(each.verdict is Verdict.VERIFIED for each in verified), verified


@pytest.mark.parametrize("kind", ["a file", "a folder"], indirect=True)
def test_the_checksums_of_a_registered_format_are_compared(kind, tmp_path):
    """What its own checksum shows as damage is what `verify` says."""
    save, name, _ = kind
    for step in STEPS:
        save(tmp_path / name.format(step), _tensors(step), step)
    process(tmp_path, tmp_path, window=3)
    out = tmp_path / "rna" / name.format(5)
    file = out / toy.WEIGHTS if out.is_dir() else out
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)
    (verified,) = verify_all([out])
    assert verified.verdict is Verdict.DIFFERS
    assert verified.problems[0] == "the file is damaged: the toy is broken"


@pytest.mark.parametrize("name", [each.name for each in (*FILES, *registry.FOLDERS)])
def test_every_format_is_asked_of_the_one_contract(name):
    """There is a way to write each registered format, so that no contract passes it over."""
    assert any(form.format.partition(" of ")[0] == name for form in FORMS.values())


def test_names_tell_formats_apart():
    """A layout's format leads to one entry of the registry."""
    names = [each.name for each in (*registry.FILES, *registry.FOLDERS)]
    assert len(set(names)) == len(names)
    assert not any(" of " in name for name in names)


@pytest.mark.parametrize("ending", [*registry.endings(), ".PT"])
def test_scan_names_and_messages_know_the_same_endings(ending, tmp_path):
    """An ending that a format has makes a file a candidate, is no part of a name's stem, and is in the words of `once`."""
    assert ending.lower() in nothing(RunPaths(run=tmp_path, output=tmp_path))
    (tmp_path / f"model_5{ending}").write_bytes(b"")
    assert [each.name for each in scan(tmp_path)[0]] == [f"model_5{ending}"]
    assert steps.stem(f"a/model_5{ending}") == "model_5"
    assert steps.ending(f"a/model_5{ending}") == ending


def test_a_shard_is_no_candidate_and_no_checkpoint(tmp_path):
    """Its name alone tells a shard of torch.distributed.checkpoint, which begins like a torch zip."""
    path = tmp_path / "__0_0.distcp"
    torch.save({"weight": torch.ones(3)}, path)
    assert scan(tmp_path)[0] == []
    with pytest.raises(RefusedCheckpoint, match="one shard of a checkpoint; name the folder"):
        probe(str(path))


def test_no_decision_is_made_on_a_format_s_name():
    """Outside of `formats/` nothing compares a layout's format, or a value with a format's name: the registry answers."""
    names = {each.name for each in (*registry.FILES, *registry.FOLDERS)}
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).parts[0] in {"formats", "reproduce"}:  # data have formats there
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            where = f"{path}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Compare):
                for side in (node.left, *node.comparators):
                    assert not (isinstance(side, ast.Attribute) and side.attr == "format"), where
                    assert not (isinstance(side, ast.Constant) and side.value in names), where
            if isinstance(node, ast.Dict):
                assert not names & {key.value for key in node.keys if isinstance(key, ast.Constant)}, where
