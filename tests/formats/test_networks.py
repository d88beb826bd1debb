"""Several networks in one checkpoint, combined together with `--source A,B`: names, values, sharing, and what is refused."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint import FileSystemWriter

from rna_watch.acceleration.gram import merge
from rna_watch.errors import RefusedCheckpoint
from rna_watch.evaluation.materialize import state_dict
from rna_watch.formats import optimizer_state
from rna_watch.formats.probe import probe
from rna_watch.layout.agreement import difference
from rna_watch.publishing import export
from rna_watch.publishing.write import publish
from rna_watch.window import tasks, tasks_plan
from rna_watch.window.combine import Combination
from tests.checkpoints import twins
from tests.daemon.runs import rna_watch

BOTH = "encoder,decoder"
WEIGHTS = (0.5, -1.25, 1.75)


class Coder(nn.Module):
    """A network; encoder and decoder have the same names inside."""

    def __init__(self, seed, width):
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv1d(1, width, 3)
        self.norm = nn.BatchNorm1d(width)
        self.embedding = nn.Embedding(7, 3)
        self.norm.running_mean.normal_()


def networks(seed, *, tied=False):
    """An encoder and a decoder."""
    encoder, decoder = Coder(seed, 4), Coder(100 + seed, 5)
    if tied:
        decoder.embedding.weight = encoder.embedding.weight
    return encoder, decoder


def tree(seed, *, tied=False):
    """What a training program saves of them."""
    encoder, decoder = networks(seed, tied=tied)
    return {"epoch": seed, "encoder": encoder.state_dict(), "decoder": decoder.state_dict(), "lr": 0.1}


def save_zip(path, content):
    """As torch.save writes it."""
    torch.save(content, path)


def save_legacy(path, content):
    """As torch.save wrote it before 1.6."""
    torch.save(content, path, _use_new_zipfile_serialization=False)


def save_dcp(path, content):
    """As torch.distributed.checkpoint writes a folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(content, storage_writer=FileSystemWriter(str(path)), no_dist=True)


def save_hugging_face(path, content):
    """A folder with a torch file."""
    path.mkdir()
    torch.save(content, path / "pytorch_model.bin")


SAVERS = {"zip": save_zip, "legacy": save_legacy, "dcp": save_dcp, "folder": save_hugging_face}


def save_three(folder, save=save_zip, **how):
    """Three checkpoints, and their paths."""
    paths = [folder / f"epoch_{seed}.pt" for seed in (1, 2, 3)]
    for seed, path in enumerate(paths, 1):
        save(path, tree(seed, **how))
    return paths


def flat(content):
    """The tensors of both networks in one dictionary, as the evaluator gets them."""
    return {f"{part}.{name}": each for part in ("encoder", "decoder") for name, each in content[part].items()}


def load(path):
    """Both networks of a file or folder, as programs load them."""
    if path.is_dir() and (path / ".metadata").exists():
        content = {part: network.state_dict() for part, network in zip(BOTH.split(","), networks(9), strict=True)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dcp.load(content, checkpoint_id=str(path), no_dist=True)
        return content
    return torch.load(path / "pytorch_model.bin" if path.is_dir() else path, weights_only=True)


@pytest.fixture(params=SAVERS)
def paths(request, tmp_path):
    """Three checkpoints in each format that has sources."""
    return save_three(tmp_path, SAVERS[request.param])


def test_two_networks_are_combined_as_one_model_and_written_back_in_place(paths, tmp_path):
    """Names carry their network; the file has both networks' combinations, the evaluator and the plain copy the same."""
    layouts = [probe(str(path), BOTH) for path in paths]
    assert layouts[0].source == BOTH
    originals = [flat(load(path)) for path in paths]
    assert {view.name for view in layouts[0].tensors} == set(originals[0])
    twin = twins.combine(originals, WEIGHTS)
    out = tmp_path / "out.pt"
    combination = Combination(layouts=tuple(layouts), weights=WEIGHTS)
    publish(combination, str(out), tasks.run_all)
    written, evaluated = flat(load(out)), state_dict(combination, torch.device("cpu"))
    copy = f"{out}.safetensors"
    export.write(str(out), copy, BOTH, tasks.run_all)
    for found in (written, evaluated, safetensors.torch.load_file(copy)):
        assert found.keys() == twin.keys()
        for name, tensor in found.items():
            exact = twin[name].double() if tensor.is_floating_point() else twin[name]
            assert twins.is_rounded(tensor, exact) if tensor.is_floating_point() else torch.equal(tensor, exact), name
    assert not torch.equal(written["encoder.conv.weight"], originals[-1]["encoder.conv.weight"])
    assert not torch.equal(written["decoder.conv.weight"], originals[-1]["decoder.conv.weight"])
    assert load(out).keys() == load(paths[-1]).keys()


def test_residuals_are_those_of_both_networks(paths):
    """The Gram matrix is the sum of the networks', by a slow twin in float64; statistics and integers take no part."""
    found = merge([tasks.run(task) for task in tasks_plan.gram_tasks([probe(str(p), BOTH) for p in paths], 2, 1.0)])
    models = [flat(load(path)) for path in paths]
    names = [name for name in models[0] if "norm.running" not in name and "num_batches" not in name]
    x = np.stack([np.concatenate([m[name].double().numpy().ravel() for name in names]) for m in models])
    residuals = np.diff(x, axis=0)
    np.testing.assert_allclose(found.rows, residuals @ residuals.T, rtol=1e-12)


@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_a_weight_that_two_networks_share_is_one(save, tmp_path):
    """A tied embedding counts once in the residuals and stays tied, in the file and for the evaluator."""
    paths = save_three(tmp_path, save, tied=True)
    layouts = tuple(probe(str(path), BOTH) for path in paths)
    assert layouts[0].parameters == probe(str(paths[0]), "encoder").parameters + (5 * 3 + 5 + 5 + 5)
    out = Path(twins.publish_here(paths, WEIGHTS, tmp_path / "out.pt", source=BOTH))
    written = load(out)
    one, other = (written[part]["embedding.weight"] for part in ("encoder", "decoder"))
    assert one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
    evaluated = state_dict(Combination(layouts=layouts, weights=WEIGHTS), torch.device("cpu"))
    assert evaluated["encoder.embedding.weight"] is evaluated["decoder.embedding.weight"]
    assert torch.equal(evaluated["encoder.embedding.weight"], one)


def test_several_networks_are_offered_together_and_the_offer_works(tmp_path):
    """The refusal of a file with two networks names a command that takes both; an average is no network."""
    path = tmp_path / "gan.pt"
    content = {"G": {"w": torch.ones(2)}, "D": {"w": torch.ones(3)}, "G_ema": {"w": torch.ones(2)}, "optim_G": {}}
    torch.save(content, path)
    with pytest.raises(RefusedCheckpoint, match=r"several groups of tensors \('G', 'D', 'G_ema'\)") as refused:
        probe(str(path))
    assert str(refused.value).endswith("or combine several networks together with --source G,D")
    offered = str(refused.value).rpartition(" ")[2]
    assert [view.name for view in probe(str(path), offered).tensors] == ["G.w", "D.w"]
    shown = rna_watch("inspect", path, "--source", "G")
    assert "also 'D' (1 tensor), 'G_ema' (a moving average, 1 tensor): left as in the newest" in shown.stdout
    assert "or combined together with --source G,D\n" in shown.stdout
    together = rna_watch("inspect", path, "--source", offered)
    assert "model       under 'G,D', 2 tensors, 5 parameters" in together.stdout
    assert "also 'G_ema' (a moving average, 1 tensor): left as in the newest checkpoint" in together.stdout


def test_a_network_beside_the_usual_key_is_offered_too(tmp_path):
    """Where one network is found by its key, `inspect` says how to take the other with it."""
    torch.save({"state_dict": {"w": torch.ones(2)}, "critic": {"w": torch.ones(3)}}, tmp_path / "a.pt")
    shown = rna_watch("inspect", tmp_path / "a.pt")
    assert "unless chosen with --source, or combined together with --source state_dict,critic\n" in shown.stdout


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("encoder,decodr", "there are no tensors under 'decodr'; there are some under: 'encoder.conv', 'decoder'"),
        ("encoder,", "there are no tensors under ''; there are some under: 'encoder.conv', 'decoder'"),
        ("encoder,encoder", "--source names 'encoder' twice"),
        ("encoder,encoder.conv", "'encoder.conv' lies inside 'encoder': name one of them with --source"),
    ],
)
def test_a_wrong_list_of_networks_is_answered_in_words(source, words, tmp_path):
    """A name that is not there, that stands twice, or that lies inside another is refused, with the file's sources."""
    content = tree(1)
    content["encoder"] = {"conv": {"weight": torch.ones(3)}}
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(RefusedCheckpoint) as refused:
        probe(str(tmp_path / "a.pt"), source)
    assert str(refused.value) == words


def test_a_key_with_a_comma_is_itself(tmp_path):
    """The exact name of a source wins over a list of names; what no list can name is not offered."""
    torch.save({"a,b": {"w": torch.ones(2)}, "a": {"v": torch.ones(3)}, "b": {"u": torch.ones(4)}}, tmp_path / "a.pt")
    layout = probe(str(tmp_path / "a.pt"), "a,b")
    assert ([view.name for view in layout.tensors], layout.source) == (["w"], "a,b")
    assert [view.name for view in probe(str(tmp_path / "a.pt"), "b, a").tensors] == ["b.u", "a.v"]
    with pytest.raises(RefusedCheckpoint, match="name the model's with --source KEY$"):
        probe(str(tmp_path / "a.pt"))
    assert "together" not in rna_watch("inspect", tmp_path / "a.pt", "--source", "a").stdout


def test_wrappers_are_seen_network_by_network(tmp_path):
    """A decoder that DistributedDataParallel wrapped later is the same: across a window, for the evaluator, when written."""
    paths = save_three(tmp_path)
    wrapped = tree(3)
    wrapped["decoder"] = {f"module.{name}": each for name, each in wrapped["decoder"].items()}
    torch.save(wrapped, paths[2])
    layouts = [probe(str(path), BOTH) for path in paths]
    assert difference(layouts[1], layouts[2]) == ""
    evaluated = state_dict(Combination(layouts=tuple(layouts), weights=WEIGHTS), torch.device("cpu"))
    assert evaluated.keys() == flat(tree(3)).keys()
    out = Path(twins.publish_here(paths, WEIGHTS, tmp_path / "out.pt", source=BOTH))
    assert "module.conv.weight" in load(out)["decoder"]
    assert torch.equal(load(out)["decoder"]["module.conv.weight"], evaluated["decoder.conv.weight"])


def test_an_average_inside_one_of_the_networks_stays_apart(tmp_path):
    """Averages within a network's own state dict are copied, and are sources, as where the network is alone."""
    encoder, decoder = (network.state_dict() for network in networks(1))
    averages = {f"model_ema.{name}": each + 1 for name, each in encoder.items()}
    torch.save({"encoder": encoder | averages, "decoder": decoder}, tmp_path / "a.pt")
    layout = probe(str(tmp_path / "a.pt"), BOTH)
    assert not any("model_ema" in name for name in twins.parameter_names(layout))
    assert "encoder.conv.weight" in twins.parameter_names(layout)
    assert not layout.averaged
    assert [each.path for each in layout.sources if each.averaged] == ["encoder.model_ema"]
    average = probe(str(tmp_path / "a.pt"), "encoder.model_ema")
    assert {view.name for view in average.tensors} == set(encoder)
    assert average.averaged


def test_what_lies_beside_two_networks_can_be_left_out(tmp_path):
    """`--optimizer-state drop` keeps both networks, where they were, with counters; the file is a tenth of the original."""
    for seed in (1, 2, 3):
        optimizer = {"state": {0: {"exp_avg": torch.randn(50_000)}}, "param_groups": []}
        nested = {
            "nets": {part: tree(seed)[part] for part in ("decoder", "encoder")},
            "epoch": seed,
            "optim": optimizer,
        }
        torch.save(nested, tmp_path / f"epoch_{seed}.pt")
    given = [tmp_path / f"epoch_{seed}.pt" for seed in (1, 2, 3)]
    how = ("--source", "nets.encoder,nets.decoder", "--optimizer-state", "drop", "--method", "average", "--json")
    result = rna_watch("extrapolate", *given, "-o", tmp_path / "out.pt", *how)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["source"] == "nets.encoder,nets.decoder"
    written = torch.load(tmp_path / "out.pt", weights_only=True)
    assert list(written) == ["nets", "epoch"]
    assert list(written["nets"]) == ["decoder", "encoder"]
    assert (tmp_path / "out.pt").stat().st_size < 0.1 * given[-1].stat().st_size
    models = [flat(torch.load(path, weights_only=True)["nets"]) for path in given]
    twin = twins.combine(models, json.loads(result.stdout)["weights"])
    for name, tensor in flat(written["nets"]).items():
        if tensor.is_floating_point():
            assert twins.is_rounded(tensor, twin[name]), name
    verified = rna_watch("verify", tmp_path / "out.pt")
    assert (verified.returncode, "verified: " in verified.stdout) == (0, True)


def test_one_optimizer_of_two_networks_is_matched_by_shapes_alone(tmp_path):
    """Its order of the networks is not known: parameters whose shapes are unique get their momentum, else none does."""
    encoder, decoder = nn.Linear(3, 4), nn.Linear(4, 5)
    optimizer = torch.optim.SGD([*decoder.parameters(), *encoder.parameters()], lr=0.1, momentum=0.9)
    for parameter in (*encoder.parameters(), *decoder.parameters()):
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    content = {"encoder": encoder.state_dict(), "decoder": decoder.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(content, tmp_path / "a.pt")
    assigned, problem = optimizer_state.assign(probe(str(tmp_path / "a.pt"), BOTH))
    assert problem == ""
    raw = (tmp_path / "a.pt").read_bytes()
    for name, parameter in [("encoder.weight", encoder.weight), ("decoder.bias", decoder.bias)]:
        (chunk,) = assigned[name].chunks
        stored = torch.frombuffer(bytearray(raw[chunk.offset_bytes :][: 4 * chunk.count]), dtype=torch.float32)
        assert torch.equal(stored, optimizer.state[parameter]["momentum_buffer"].flatten())
    same = {part: nn.Linear(3, 3).state_dict() for part in ("encoder", "decoder")}
    torch.save(same | {"optimizer": optimizer.state_dict()}, tmp_path / "b.pt")
    assert "several tensors have one shape" in optimizer_state.assign(probe(str(tmp_path / "b.pt"), BOTH))[1]
