import gzip
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from rna_watch.errors import RnaWatchError, UsageError
from rna_watch.reproduce import imagenet, networks, networks_plot, networks_tables, prototyping
from rna_watch.reproduce.experiment import Settings
from rna_watch.reproduce.images import data, judge, training, watched
from rna_watch.reproduce.images.results import curves, difference_of_coefficients, first_epoch, rise, tasks, written
from rna_watch.reproduce.images.spec import RunSpec, write
from rna_watch.reproduce.tables import render
from tests.reproduce.image_files import write_cifar, write_mnist

MODULE = "rna_watch.reproduce.images.training"


@pytest.fixture(scope="module")
def small_mnist(tmp_path_factory):
    """300 images to train on, 100 held out, 100 to test on."""
    folder = tmp_path_factory.mktemp("mnist")
    write_mnist(folder)
    return folder


def a_run(folder, **changes):
    """A run of a few seconds."""
    values = {"dataset": "mnist", "network": "vgg4", "optimizer": "momentum", "seed": 0, "epochs": 8, "held_out": 100}
    return RunSpec(data=folder, **{**values, "batch": 32, **changes})


def trained(run, folder):
    """The run, in this process; its curve."""
    write(run, folder)
    threads = torch.get_num_threads()
    try:
        training.main(folder)
    finally:
        torch.set_num_threads(threads)
    return json.loads((folder / "curve.json").read_text())


@pytest.fixture(scope="module")
def alone(small_mnist, tmp_path_factory):
    """A run trained by itself: its folder and its curve."""
    folder = tmp_path_factory.mktemp("alone")
    return folder, trained(a_run(small_mnist), folder)


@pytest.fixture(scope="module")
def beside(small_mnist, tmp_path_factory):
    """The same run with the daemon beside it: its folder, its result, and what was said."""
    folder, said = tmp_path_factory.mktemp("beside"), []
    return folder, watched.train_watched(a_run(small_mnist), folder, said.append), said


def bare(curve):
    """A curve without its times."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in curve]


@pytest.mark.slow
def test_a_network_learns_and_its_epochs_are_kept(alone):
    """A checkpoint an epoch; the error falls; RNA combines one more epoch each time, up to five, after its reset."""
    folder, curve = alone
    assert [path.name for path in sorted((folder / "epochs").glob("*.pt"))] == [
        f"epoch_{i:03d}.pt" for i in range(1, 9)
    ]
    assert curve[-1]["network"]["test_error"] < 30 < curve[0]["network"]["test_error"]
    assert [len(row["c"]) for row in curve] == [1, 0, 1, 2, 3, 4, 5, 5]
    kept = torch.load(folder / "epochs" / "epoch_003.pt", weights_only=True)
    assert kept["optimizer"]["param_groups"][0]["lr"] == curve[2]["learning_rate"]


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_bitwise(alone, small_mnist, tmp_path):
    """Killed in the middle and started again, the run has the same curve and the same checkpoints."""
    folder, curve = alone
    write(a_run(small_mnist), tmp_path)
    command = [sys.executable, "-m", MODULE, str(tmp_path)]
    child = subprocess.Popen(command)
    until = time.monotonic() + 120
    while time.monotonic() < until and child.poll() is None and not (tmp_path / "epochs" / "epoch_003.pt").exists():
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not (tmp_path / "curve.json").exists()
    subprocess.run(command, check=True, capture_output=True)
    assert bare(json.loads((tmp_path / "curve.json").read_text())) == bare(curve)
    for path in (folder / "epochs").glob("*.pt"):
        assert path.read_bytes() == (tmp_path / "epochs" / path.name).read_bytes()


@pytest.mark.slow
def test_stopped_before_its_checkpoint_is_there_it_writes_it(alone, small_mnist, tmp_path):
    """A stop between the state and the checkpoint: the epoch is not trained again, and the checkpoint is the same."""
    folder, curve = alone
    shutil.copytree(folder, tmp_path / "run")
    (tmp_path / "run" / "curve.json").unlink()
    (tmp_path / "run" / "epochs" / "epoch_008.pt").unlink()
    assert trained(a_run(small_mnist), tmp_path / "run") == curve
    again = (tmp_path / "run" / "epochs" / "epoch_008.pt").read_bytes()
    assert again == (folder / "epochs" / "epoch_008.pt").read_bytes()


@pytest.mark.slow
def test_the_daemon_beside_it_changes_nothing(alone, beside):
    """The training has the same curve and the same checkpoints, bit for bit, while the daemon watches."""
    folder, curve = alone
    other, result, said = beside
    assert bare(result["curve"]) == bare(curve)
    for path in (folder / "epochs").glob("*.pt"):
        assert path.read_bytes() == (other / "epochs" / path.name).read_bytes()
    assert any("epoch 8 of 8" in line for line in said)


@pytest.mark.slow
def test_the_daemon_judges_what_the_training_judges(beside):
    """The original's error is the network's; where windows are the same, so are the extrapolated errors."""
    _, result, _ = beside
    daemon, curve = result["daemon"], result["curve"]
    assert daemon["epochs"] == list(range(1, 9))
    assert daemon["values"]["original"] == pytest.approx([row["network"]["test_error"] for row in curve])
    assert daemon["residuals"] == ["gradient"]
    assert daemon["values"]["rna-5-1e-08"][-1] == pytest.approx(curve[-1]["extrapolated"]["test_error"], abs=1.0)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["momentum", "sgd"])
def test_the_daemon_solves_for_the_coefficients_of_the_training(optimizer, small_mnist, tmp_path):
    """The coefficients are the same to 1e-6 in equal windows; a flat learning rate keeps steps far above the rounding."""
    run = a_run(small_mnist, optimizer=optimizer, schedule="flat")
    result = watched.train_watched(run, tmp_path, lambda _: None)
    count, worst = difference_of_coefficients(result, run)
    assert count == 2  # epochs 7 and 8: before, the daemon's window has the second epoch's interval too
    assert worst < 1e-6


@pytest.mark.slow
def test_the_choice_was_made_on_held_out_images(beside):
    """What was picked at an epoch is the member with the lowest held-out error there, not the lowest test error."""
    folder, result, _ = beside
    journal = [
        json.loads(line) for line in (folder / "epochs" / ".rna-watch" / "journal.jsonl").read_text().splitlines()
    ]
    evaluated = [e for e in journal if e["kind"] == "evaluated" and e["checkpoint"] == "epoch_008.pt"]
    held_out = {e["candidate"]: e["metrics"][judge.HELD_OUT] for e in evaluated}
    picked = result["daemon"]["picked"]["average"][-1]
    rivals = [value for name, value in held_out.items() if name.startswith(("average", "ema"))]
    assert held_out[picked] == min(rivals)


@pytest.mark.slow
def test_a_finished_run_is_not_trained_again(beside, small_mnist):
    """Called again, nothing is said of epochs, and the result is the same."""
    folder, result, _ = beside
    said = []
    again = watched.train_watched(a_run(small_mnist), folder, said.append)
    assert again == result
    assert not any("epoch" in line and "judged" not in line for line in said)


@pytest.mark.slow
def test_other_settings_of_the_daemon_are_judged_anew(beside, small_mnist, monkeypatch):
    """The journal of other settings is not mixed with these: the models are judged from the beginning."""
    folder, _, _ = beside
    monkeypatch.setitem(watched.DAEMON, "windows", [3, 5])
    again = watched.train_watched(a_run(small_mnist), folder, lambda _: None)
    assert "average-10" not in again["daemon"]["recipes"]
    assert again["daemon"]["epochs"] == list(range(1, 9))


@pytest.mark.slow
def test_large_checkpoints_of_a_finished_run_are_removed(beside, small_mnist, tmp_path, monkeypatch):
    """They were judged; where other settings need them again, the run is trained again."""
    folder, result, _ = beside
    shutil.copytree(folder, tmp_path / "run", symlinks=True)
    shutil.rmtree(tmp_path / "run" / "epochs" / ".rna-watch")
    monkeypatch.setattr(watched, "_LARGE_BYTES", 1)
    watched.train_watched(a_run(small_mnist), tmp_path / "run", lambda _: None)
    assert not list((tmp_path / "run" / "epochs").glob("*.pt"))
    monkeypatch.setitem(watched.DAEMON, "windows", [5])
    again = watched.train_watched(a_run(small_mnist), tmp_path / "run", lambda _: None)
    assert bare(again["curve"]) == bare(result["curve"])
    assert again["daemon"]["epochs"] == list(range(1, 9))


@pytest.mark.slow
def test_online_the_network_itself_is_extrapolated(small_mnist, tmp_path, alone):
    """The network goes on from the extrapolated point: the same first epochs, then another path; it learns all the same."""
    _, offline = alone
    curve = trained(a_run(small_mnist, online=True), tmp_path)
    assert [row["network"] for row in curve[:3]] == [row["network"] for row in offline[:3]]
    assert curve[4]["network"] != offline[4]["network"]
    assert all(row["extrapolated"] is None for row in curve)
    assert curve[-1]["network"]["test_error"] < 40
    assert set(curves({"curve": curve})) == {"online"}
    assert not list((tmp_path / "epochs").iterdir())


@pytest.mark.slow
def test_the_average_is_judged_where_it_is_asked_for(small_mnist, tmp_path, alone):
    """`averaged` adds the uniform average of RNA's window, and changes nothing else."""
    _, plain = alone
    curve = trained(a_run(small_mnist, averaged=True), tmp_path)
    assert [row["averaged"] is None for row in curve] == [False, True, *[False] * 6]
    assert [row["extrapolated"] for row in curve] == [row["extrapolated"] for row in plain]
    assert curve[2]["averaged"] == curve[2]["network"]
    assert curve[7]["averaged"] not in (curve[7]["network"], curve[7]["extrapolated"])


def test_a_training_that_fails_says_why(small_mnist, tmp_path):
    """The end of its error is in ours, with the name of the run."""
    run = a_run(small_mnist / "nowhere")
    with pytest.raises(RnaWatchError, match=r"mnist-vgg4-momentum-seed0 ended with status 1.*--data"):
        watched.train(run, tmp_path, lambda _: None)


def made(last, **others):
    """The result of a run with these errors: `last` of the network, others of the daemon's methods."""
    curve = [
        {
            "epoch": i,
            "network": {"test_error": value, "held_out_error": value},
            "extrapolated": {"test_error": value - 1, "held_out_error": value - 1},
            "seconds": 1.0,
            "c": [],
        }
        for i, value in enumerate(last, start=1)
    ]
    daemon = {
        "epochs": list(range(1, len(last) + 1)),
        "values": others,
        "recipes": [name for name in others if "-" in name],
        "residuals": ["gradient"],
        "weights": {},
    }
    return {"device": "cpu", "curve": curve, "daemon": daemon}


def test_levels_are_counted_as_the_paper_does(small_mnist):
    """Epochs to the best last iterate + tolerance, the speed-up over momentum, and what never got there."""
    task = {"dataset": "mnist", "network": "vgg4", "epochs": 5, "seeds": [0, 1]}
    choice = networks.NetworksSettings(optimizers=("momentum", "sgd"), online=())
    runs = networks.specs(task, small_mnist, choice)
    average = [None, None, 5.2, 5.1, 4.9]
    results = {
        runs[0].key: made([20, 9, 6, 5.5, 5], average=average, rna=[None, None, 9, 9, 9]),
        runs[1].key: made([30, 20, 8, 7, 6], average=[None, None, 8, 6.5, 6]),
        runs[2].key: made([20, 11, 9.5, 6.9, 5], average=[None, None, 6.5, 5.1, 5], rna=[None, None, 9, 9, 9]),
        runs[3].key: made([30, 20, 8, 7, 6], average=[None, None, 8, 6.5, 6]),
    }
    levels, errors, absent = networks_tables.tables(runs, results)
    rows = {row[0]: row[1:] for row in levels.rows}
    assert rows["momentum: last iterate"] == ("2.5", "3.5", "4", "4.5", "5")
    assert rows["momentum: best plain average"][1] == "3 (1.17)"
    assert rows["SGD: last iterate"] == ("3 (0.83)", "4 (0.88)", "5 (0.80)", "never", "never")
    assert "SGD: best RNA of N = 5, 10 and 1e-08, 1e-02" not in rows
    cells = {row[0]: row for row in errors.rows}
    assert cells["momentum: last iterate"][3].startswith("5.00 ± 0.00 [+0.05 ± 0.05]")
    assert cells["momentum: best plain average"][3] == "4.95 ± 0.05"
    assert all(row[-1] == "not run" for row in absent.rows)


def test_seeds_that_only_one_optimizer_has_do_not_count(small_mnist):
    """Levels and means are over the seeds that all optimizers have; what is missing is named; online names its seed."""
    task = {"dataset": "mnist", "network": "vgg4", "epochs": 3, "seeds": [0, 1, 2]}
    runs = networks.specs(task, small_mnist, networks.NetworksSettings(online=("momentum",)))
    results = {run.key: made([9, 8, 7]) for run in runs if run.seed < 2 and run.key != "mnist-vgg4-sgd-seed1"}
    for row in results["mnist-vgg4-momentum-online-seed0"]["curve"]:
        row["extrapolated"] = None
    del results["mnist-vgg4-momentum-online-seed0"]["daemon"]
    (task,) = tasks(runs, results)
    assert task.seeds == [0]
    levels, errors, _ = networks_tables.tables(runs, results)
    assert "seed 0)" in levels.title
    assert "mnist-vgg4-sgd-seed1" in levels.notes[-1]
    results["mnist-vgg4-sgd-seed1"] = made([9, 8, 7])
    levels, errors, _ = networks_tables.tables(runs, results)
    online = next(row for row in errors.rows if "online" in row[0])
    assert online[0] == "momentum: online RNA, N = 5, 1e-08 (seed 0)"
    assert "[" not in online[1]


def test_what_was_not_judged_is_not_filled_in(small_mnist):
    """A method has the last iterate before its first model; a hole later on is a dash, in tables and in means."""
    found = curves(made([9, 8, 7, 6], rna=[None, 5, None, 4]))
    assert found["rna"][:2] == [9, 5]
    assert found["rna"][2] != found["rna"][2]
    assert first_epoch(found["rna"], 5) == 2
    assert written([1.0, found["rna"][2]]) == "-"
    runs = networks.specs(
        {"dataset": "mnist", "network": "vgg4", "epochs": 4}, small_mnist, networks.NetworksSettings(online=())
    )
    results = {run.key: made([9, 8, 7, 6], rna=[None, None, None, None], average=[None, 5, 5, None]) for run in runs}
    _, errors, _ = networks_tables.tables(runs, results)
    assert not any("best RNA" in row[0] for row in errors.rows)
    assert next(row for row in errors.rows if row[0] == "momentum: best plain average")[3] == "-"


def test_recipes_are_counted_one_by_one(small_mnist):
    """Where the average, neither or RNA was better from epoch 4 on, whole and first half; what was not judged is left out."""
    runs = networks.specs(
        {"dataset": "mnist", "network": "vgg4", "epochs": 8}, small_mnist, networks.NetworksSettings(online=())
    )
    errors = {"average-5": [None, None, 1, 4, 4, 5, 3, 3], "rna-5-1e-08": [None, None, 2, 5, 5, 5, 2, None]}
    results = {run.key: made([9, 8, 7, 6, 5, 5, 5, 5], **errors) for run in runs}
    _, table, _ = networks_tables.tables(runs, results)
    (note,) = [note for note in table.notes if "Recipe against recipe" in note]
    assert note.endswith("RNA better: average-5 against rna-5-1e-08 4 / 2 / 2 (first half 2 / 0 / 0).")
    _, table, _ = networks_tables.tables(runs, {run.key: made([9, 8, 7, 6, 5, 5, 5, 5]) for run in runs})
    assert not any("Recipe against recipe" in note for note in table.notes)


def test_the_short_tables_name_what_was_not_run(small_mnist):
    """The README's form: a task's title, three levels, the end, and every run that is missing."""
    runs = networks.specs(
        {"dataset": "mnist", "network": "vgg4", "epochs": 4}, small_mnist, networks.NetworksSettings()
    )
    results = {run.key: made([9, 8, 7, 6]) for run in runs if not run.online}
    (table,) = networks_tables.summary(runs, results)
    assert table.title == "vgg4 on mnist, 4 epochs, seed 0"
    assert any("mnist-vgg4-sgd-online-seed0" in note and "Not run" in note for note in table.notes)
    assert networks_plot.draw(runs, results)
    assert networks_plot.draw(runs, {})


def test_the_papers_numbers_stand_beside_ours(small_mnist):
    """A network of the paper on CIFAR-10 has the paper's rows; it is not listed as not run any more."""
    runs = networks.specs(
        {"dataset": "cifar10", "network": "resnet18", "epochs": 5}, small_mnist, networks.NetworksSettings(online=())
    )
    levels, _, absent = networks_tables.tables(runs, {run.key: made([20, 9, 6, 5.5, 5]) for run in runs})
    assert ("paper: momentum + RNA", "16", "40", "59", "63", "85") in levels.rows
    assert not any(row[0].startswith("resnet18") for row in absent.rows)
    assert any(row[0] == "vgg19: SGD" and row[5] == "N/A" for row in absent.rows)


def test_numbers_of_curves():
    """First epochs, rises and means by hand."""
    assert first_epoch([3.0, 2.0, 1.0], 2.0) == 2
    assert first_epoch([3.0], 2.0) is None
    assert rise([9.0, 5.0, 4.0, 6.0, 5.0]) == pytest.approx(2 / 3)
    assert rise([20.0 - i for i in range(12)]) == 0
    assert rise([*[9.0] * 9, 5.0, 6.0, 5.0, 7.0]) == pytest.approx(3 / 7)
    assert written([1.0]) == "1.00"
    assert written([1.0, 3.0], sign=True) == "+2.00 ± 1.00"


def test_rank_correlation_by_hand(small_mnist):
    """Three networks: an early ranking that is the final one, and one that is its reverse."""
    choice = prototyping.PrototypingSettings(networks=("vgg4", "vgg6", "resnet8"), dataset="mnist", epochs=2)
    results = {}
    for place, name in enumerate(choice.networks):
        flat = made([10.0 + place, 10.0 - place])["curve"]
        for row in flat:
            row["averaged"] = row["network"]
        results[f"{name}-flat"] = {"curve": flat}
        results[f"{name}-paper"] = {"curve": made([50.0, 5.0 + place])["curve"]}
    found = prototyping._found(choice.networks, results)
    assert found.correlation("last", 1) == pytest.approx(1.0)
    assert found.correlation("last", 2) == pytest.approx(-1.0)
    plan = prototyping.plan(
        Settings(
            data=small_mnist, config={"networks": choice.networks, "dataset": "mnist", "epochs": 2, "held_out": 100}
        )
    )
    first, second = (
        plan.tables({key: value for key, value in results.items() if not key.startswith("vgg6")}),
        plan.tables(results),
    )
    assert "not run" in render(first[0])
    assert "Rank correlation of 3 networks" in render(second[1])
    assert second[1].header[:2] == ("", "mean of epoch 2")
    assert not any("epoch 3" in note for note in second[1].notes)
    assert plan.draw(results)


def test_table_5_marks_what_was_not_run(tmp_path):
    """Every cell of ours says so if there is no result, and the paper's numbers are there."""
    pytest.importorskip("PIL")
    folder = imagenet.generated(tmp_path / "images")
    config = {"networks": ["imagenet-resnet50"], "optimizers": ["momentum"], "run": {"held_out": 20}}
    plan = imagenet.plan(Settings(data=folder, config=config))
    (table,) = plan.tables({})
    ours = next(row for row in table.rows if row[0] == "resnet50, momentum")
    assert set(ours[1:-1]) == {"not run"}
    assert ours[-1] == "23.35 -> 22.91"
    assert plan.draw({})


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"task": []}, "unknown setting 'task'"),
        ({"tasks": 3}, "tasks is 3: it must be a list"),
        ({"tasks": ["mnist"]}, "is 'mnist': it must be a mapping"),
        ({"optimizers": "sgd"}, "optimizers is 'sgd': it must be a list"),
        ({"tasks": [{"dataset": "mnist", "network": "vgg4"}]}, "lacks epochs"),
        ({"tasks": [{"dataset": "mnist", "network": "vgg4", "epochs": 2, "rate": 1}]}, "unknown setting 'rate'"),
        ({"tasks": [{"dataset": "mnist", "network": "vgg5", "epochs": 2}]}, "network is 'vgg5'"),
        ({"optimizers": ["adam"]}, "optimizer is 'adam'"),
        ({"tasks": [{"dataset": "cifar", "network": "vgg4", "epochs": 2}]}, "dataset is 'cifar'"),
        (
            {"tasks": [{"dataset": "mnist", "network": "vgg4", "epochs": 2, "schedule": "cosine"}]},
            "schedule is 'cosine'",
        ),
        ({"tasks": [{"dataset": "mnist", "network": "vgg4", "epochs": 0}]}, "epochs is 0.*at least 1"),
        ({"tasks": [{"dataset": "mnist", "network": "vgg4", "epochs": "2"}]}, "epochs is '2'.*whole number"),
        ({"tasks": [{"dataset": "mnist", "network": "vgg4", "epochs": 2, "reg": "1e-8"}]}, "reg is '1e-8'.*1.0e-8"),
        ({"tasks": [{"dataset": "mnist", "network": "vgg4", "epochs": 2, "bf16": 1}]}, "bf16 is 1.*true or false"),
        ({"tasks": [{"dataset": "mnist", "network": "vgg4", "epochs": 2, "seeds": 0}]}, "seeds is 0.*a list"),
        ({"tasks": [{"dataset": "mnist", "network": "vgg4", "epochs": 2, "online": True}]}, "online is not its own"),
        ({"tasks": [{"dataset": "mnist", "network": "vgg4", "epochs": e} for e in (2, 3)]}, "two runs are called"),
        ({"tasks": [{"dataset": "mnist", "network": "vgg4", "epochs": 2, "reg": math.nan}]}, "reg is nan.*finite"),
        ({"tasks": [{"dataset": "mnist", "network": "vgg4", "epochs": 2, "scale": math.inf}]}, "scale is inf.*finite"),
        ({"optimizers": ["momentum"], "online": ["sgd"]}, "online has 'sgd', which optimizers has not"),
    ],
)
def test_wrong_settings_are_named(small_mnist, config, said):
    """Before anything is trained."""
    with pytest.raises(UsageError, match=said):
        networks.plan(Settings(data=small_mnist, config=config))


@pytest.mark.parametrize(
    ("module", "config", "said"),
    [
        (prototyping, {"networks": "vgg4"}, "networks is 'vgg4': it must be a list"),
        (prototyping, {"epochs": "ten"}, "epochs is 'ten': it must be a whole number"),
        (prototyping, {"epochs": 0}, "epochs is 0.*at least 1"),
        (imagenet, {"run": ["batch"]}, r"run is \['batch'\]: it must be a mapping"),
        (imagenet, {"run": {"batches": 2}}, "unknown setting 'batches'"),
        (prototyping, {"networks": ["vgg4", "vgg6", "vgg4"]}, "networks has 'vgg4' more than once"),
    ],
)
def test_wrong_settings_of_the_others_are_named_too(small_mnist, module, config, said):
    """The same words, whichever the experiment."""
    pytest.importorskip("PIL")
    with pytest.raises(UsageError, match=said):
        module.plan(Settings(data=small_mnist, config=config))


@pytest.mark.parametrize(
    ("module", "config", "said"),
    [
        (networks, {"tasks": []}, r"networks: tasks is \[\]: it must name at least one"),
        (networks, {"tasks": [5]}, "a task of networks is 5: it must be a mapping"),
        (networks, {"optimizers": []}, r"networks: optimizers is \[\]"),
        (prototyping, {"networks": []}, r"prototyping: networks is \[\]"),
        (imagenet, {"networks": []}, r"imagenet: networks is \[\]"),
        (imagenet, {"optimizers": []}, r"imagenet: optimizers is \[\]"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"quick": True}, {"so_far": True}], ids=["whole", "quick", "so far"])
def test_lists_that_leave_nothing_to_run_are_refused(small_mnist, tmp_path, module, config, said, options):
    """While planning, whatever the options: a list without anything, or without what it should hold."""
    pytest.importorskip("PIL")
    with pytest.raises(UsageError, match=said):
        module.plan(Settings(data=small_mnist, config=config, work=tmp_path, **options))
    assert not any(tmp_path.iterdir())


def test_online_rna_goes_with_the_optimizers(small_mnist):
    """Online RNA is run with those of its usual optimizers that are run offline, unless it is named."""
    task = {"dataset": "mnist", "network": "vgg4", "epochs": 2, "held_out": 100}
    plan = networks.plan(Settings(data=small_mnist, config={"tasks": [task], "optimizers": ["sgd"]}))
    assert [part.key for part in plan.parts] == ["mnist-vgg4-sgd-seed0", "mnist-vgg4-sgd-online-seed0"]


def planned(folder, **task):
    """The plan of one task of networks."""
    usual = {"dataset": "mnist", "network": "vgg4", "epochs": 2, "held_out": 100}
    return networks.plan(Settings(data=folder, config={"tasks": [{**usual, **task}]}))


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ({"network": "vgg19"}, r"vgg19 cannot be trained on mnist \(images of 1 x 28 x 28, .*too small"),
        ({"network": "imagenet-resnet18"}, "imagenet-resnet18 cannot be trained on mnist"),
        ({"held_out": 400}, "held_out is 400: mnist has 400 images"),
        ({"held_out": 70000}, "held_out is 70000: mnist has 400 images.*fewer"),
    ],
)
def test_what_cannot_be_trained_is_refused_while_planning(small_mnist, task, said):
    """A network that does not fit its images, and more held out than there are."""
    with pytest.raises(UsageError, match=said):
        planned(small_mnist, **task)


def test_a_last_batch_of_one_image_must_fit_too(tmp_path):
    """Batch norm over one value has no variance: ResNet-18 of ImageNet ends in one for images of 32 x 32."""
    write_cifar(tmp_path, count=20)
    task = {"dataset": "cifar10", "network": "imagenet-resnet18", "held_out": 35, "batch": 8}
    with pytest.raises(UsageError, match=r"a batch of 1\): Expected more than 1 value"):
        planned(tmp_path, **task)
    assert planned(tmp_path, **{**task, "batch": 7}).parts


def test_a_folder_s_images_must_fit_its_network(tmp_path):
    """The side counts there, and how many images there are."""
    pytest.importorskip("PIL")
    folder = imagenet.generated(tmp_path / "images")
    with pytest.raises(UsageError, match=r"vgg19 cannot be trained on folder \(images of 3 x 16 x 16"):
        planned(folder, dataset="folder", network="vgg19", side=16)
    with pytest.raises(UsageError, match="held_out is 120: .*train holds 120 images"):
        planned(folder, dataset="folder", held_out=120)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        (
            "train-images-idx3-ubyte.gz",
            lambda folder, path: path.write_bytes(path.read_bytes()[:-99]),
            "cannot be read",
        ),
        ("t10k-labels-idx1-ubyte.gz", lambda folder, path: path.unlink(), "missing"),
        (
            "train-labels-idx1-ubyte.gz",
            lambda folder, path: shutil.copy(folder / "t10k-labels-idx1-ubyte.gz", path),
            "do not belong together",
        ),
    ],
    ids=["cut off", "missing", "swapped"],
)
def test_damaged_data_are_refused_while_planning(tmp_path, name, change, said):
    """Each file of MNIST is read before a training is begun."""
    write_mnist(tmp_path)
    change(tmp_path, tmp_path / name)
    with pytest.raises(UsageError, match=f"{name.removesuffix('.gz')}.*{said}"):
        planned(tmp_path)


def test_damaged_cifar_is_refused_while_planning(tmp_path):
    """A file that was cut off, packed or not, or is not there."""
    write_cifar(tmp_path / "packed", ".gz", gzip.compress, count=30)
    write_cifar(tmp_path / "plain", count=30)
    task = {"dataset": "cifar10", "network": "resnet8"}
    assert planned(tmp_path / "packed", **task).parts
    path = tmp_path / "packed" / "test_batch.bin.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UsageError, match=r"test_batch\.bin\.gz cannot be read"):
        planned(tmp_path / "packed", **task)
    path = tmp_path / "plain" / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UsageError, match="data_batch_3.*no whole number of records"):
        planned(tmp_path / "plain", **task)
    path.unlink()
    with pytest.raises(UsageError, match="data_batch_3.*missing"):
        planned(tmp_path / "plain", **task)


@pytest.mark.parametrize("module", [networks, prototyping, imagenet])
def test_data_are_asked_for(module):
    """The message names the option if there is no folder."""
    pytest.importorskip("PIL")
    with pytest.raises(UsageError, match="--data"):
        module.plan(Settings())


@pytest.mark.parametrize("module", [networks, prototyping])
def test_runs_on_other_data_are_not_mixed_with_these(module, small_mnist, tmp_path, monkeypatch):
    """The same images packed otherwise are the same data; others are refused before anything is run, and named."""
    monkeypatch.setattr(watched, "train", lambda *_: [])
    tasks = [{"dataset": "mnist", "network": "vgg4", "epochs": 2, "held_out": 100}]
    config = {"tasks": tasks} if module is networks else {"dataset": "mnist", "networks": ["vgg4"], "held_out": 100}
    settings = Settings(data=small_mnist, work=tmp_path / "runs", config=config)
    plan = module.plan(settings)
    assert not settings.work.exists()
    plan.parts[-1].run({})
    kept = json.loads((settings.work / "data.json").read_text())
    assert kept == plan.settings["data"]
    assert kept.keys() == {"mnist"}
    for name, options in {"packed": {"pack": bytes, "ending": ""}, "others": {"train": 399}}.items():
        write_mnist(tmp_path / name, **options)
    assert module.plan(replace(settings, data=tmp_path / "packed")).settings["data"] == kept
    with pytest.raises(UsageError, match=r"runs holds runs on other mnist data than those in .*others.*--out"):
        module.plan(replace(settings, data=tmp_path / "others"))
    assert module.plan(replace(settings, data=None, so_far=True)).settings["data"] == kept
    (settings.work / "data.json").write_text("{")
    with pytest.raises(UsageError, match=r"data\.json cannot be read"):
        module.plan(settings)


def test_a_folder_s_data_are_its_names_and_sizes(tmp_path):
    """Another image in `val`, or another name anywhere, is other data."""
    pytest.importorskip("PIL")
    folder = imagenet.generated(tmp_path / "images")
    run = a_run(folder, dataset="folder", network="imagenet-resnet18")
    first = data.form_of(run).digest
    assert data.form_of(run).digest == first
    image = next(folder.glob("val/*/*"))
    content = image.read_bytes()
    image.write_bytes(content + b"\0")
    assert data.form_of(run).digest != first
    image.write_bytes(content)
    assert data.form_of(run).digest == first
    image = next(folder.glob("train/*/*"))
    image.rename(image.with_name("other.JPEG"))
    assert data.form_of(run).digest != first
