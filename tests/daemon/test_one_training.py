"""One training or several: decisions over made figures, and windows over the checkpoints of small real trainings."""

from __future__ import annotations

import json
import math
import shutil
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from rna_watch.daemon.measurement import ASSUMED
from rna_watch.daemon.one_training import Pair, followed, other_training
from rna_watch.journal import events as e
from rna_watch.journal import log
from rna_watch.journal.records import from_record
from rna_watch.journal.replay import replay
from rna_watch.journal.words import describe
from rna_watch.window.marks import OPTIMIZER, Marks
from tests import trainings
from tests.daemon.in_process import process
from tests.daemon.runs import rna_watch
from tests.daemon.test_order import checkpoint_of, made

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rna_watch.journal.replay import RunState

    Checkpoint = dict[str, Any]

NOTHING = Marks(counters={})
ELEMENTS = 10_000


def pair(
    iterates_kn: Sequence[Sequence[float]],
    marks: Sequence[Marks] = (NOTHING, NOTHING),
    intervals: Sequence[float] = (),
    elements: int = ELEMENTS,
) -> Pair:
    """The last two of some iterates, all of whose elements are of weight matrices."""
    values = np.array(iterates_kn)
    steps = np.diff(values, axis=0)
    a, b, d = (float(each @ each) for each in (values[-2], values[-1], steps[-1]))
    return Pair(
        older="a.pt",
        matrices=(a, b, d),
        elements=elements,
        steps_nn=steps @ steps.T,
        intervals=tuple(intervals or [1.0] * len(steps)),
        marks=tuple(marks),
    )


def at(cosine: float, length: float = 1.0) -> list[list[float]]:
    """Two iterates with this cosine, the second so many times as long."""
    return [[1.0, 0.0], [length * cosine, length * math.sqrt(1.0 - cosine**2)]]


@pytest.mark.parametrize(
    ("cosine", "length", "elements", "cut"),
    [
        (0.04, 1.0, ELEMENTS, True),
        (0.21, 1.0, ELEMENTS, True),
        (-0.08, 0.3, ELEMENTS, True),
        (0.36, 1.0, ELEMENTS, False),
        (0.05, 20.0, ELEMENTS, False),
        (0.36, 0.4, ELEMENTS, False),
        (0.04, 1.0, 100, False),
        (0.2, 1.0, 0, False),
    ],
    ids=[
        "other",
        "alike",
        "begun anew",
        "a GAN, 81 epochs",
        "grown from the start",
        "decayed",
        "few numbers",
        "no matrix",
    ],
)
def test_weights_that_do_not_go_on_are_of_another_training(
    cosine: float, length: float, elements: int, cut: bool
) -> None:
    """What is left of the older weights decides, not the cosine: weights that grow turn away from where they began."""
    two = pair(at(cosine, length), elements=max(elements, 1))
    reason = other_training(two if elements else Pair(**{**_fields(two), "matrices": None}))
    assert bool(reason) == cut
    if cut:
        assert f"have a cosine of {cosine:.2f}" in reason


def _fields(given: Pair) -> dict[str, Any]:
    return {name: getattr(given, name) for name in Pair.__slots__}


@pytest.mark.parametrize(("before", "interval", "cut"), [(0.04, 1.0, True), (0.6, 1.0, False), (0.04, 30.0, False)])
def test_doubtful_weights_are_of_another_training_where_the_step_is_out_of_proportion(
    before: float, interval: float, cut: bool
) -> None:
    """A cosine of .4 alone decides nothing; after steps that were ten times smaller, over no longer time, it does."""
    first, second = at(0.4)
    iterates = [[first[0], first[1] - before], first, second]
    assert bool(other_training(pair(iterates, intervals=[1.0, interval]))) == cut


def counting(**counters: int) -> Marks:
    """A checkpoint that counts."""
    return Marks(counters={name.replace("_", " "): value for name, value in counters.items()})


NEAR = [[1.0, 0.0], [1.0, 0.1]]
ONWARD = [[1.0, -0.1], *NEAR]
BATCHES = "bn.num_batches_tracked"
APART = [[1.0, 0.05], [1.05, 0.0], [0.97, 0.03]]


@pytest.mark.parametrize(
    ("iterates", "before", "after", "words"),
    [
        (NEAR, {BATCHES: 21150}, {BATCHES: 3900}, "fell from 21150 in a.pt to 3900"),
        (ONWARD, {BATCHES: 21150}, {BATCHES: 3900}, ""),
        (NEAR, {OPTIMIZER: 500, "epoch inside": 5}, {OPTIMIZER: 100, "epoch inside": 6}, f"{OPTIMIZER} fell from 500"),
        (NEAR, {"epoch inside": 5, "step inside": 90}, {"epoch inside": 6, "step inside": 10}, ""),
        (NEAR, {"epoch inside": 5, "step inside": 90}, {"epoch inside": 1, "step inside": 99}, ""),
        (NEAR, {"epoch inside": 5}, {"epoch inside": 1}, "epoch inside fell from 5"),
        (NEAR, {"epoch inside": 5}, {"epoch inside": 5}, ""),
        (NEAR, {OPTIMIZER: 500}, {OPTIMIZER: 500}, f"count 500 {OPTIMIZER}, though their weights differ"),
        (NEAR, {OPTIMIZER: 500, "epoch inside": 5}, {OPTIMIZER: 500, "epoch inside": 6}, ""),
        (NEAR, {BATCHES: 39}, {BATCHES: 39}, ""),
        (APART, {BATCHES: 39}, {BATCHES: 39}, "its counters or those of a.pt stand still"),
        (APART, {"epoch inside": 5}, {"epoch inside": 5}, "its counters or those of a.pt stand still"),
        (APART, {"epoch inside": 5, "step inside": 90}, {"epoch inside": 5, "step inside": 99}, ""),
        (APART, {BATCHES: 39}, {BATCHES: 40}, ""),
        (ONWARD, {BATCHES: 39}, {BATCHES: 39}, ""),
    ],
)
def test_counters_that_go_back_or_stand_tell_trainings_apart(
    iterates: list[list[float]], before: dict[str, int], after: dict[str, int], words: str
) -> None:
    """Not where another counter explains it, nor where the weights go on as before: a training that was resumed."""
    reason = other_training(pair(iterates, [Marks(counters=before), Marks(counters=after)]))
    assert (words in reason) if words else (reason == "")


@pytest.mark.parametrize(("iterates", "cut"), [(NEAR, True), (ONWARD, False)])
def test_another_folder_of_lightnings_is_another_run_unless_the_weights_go_on(
    iterates: list[list[float]], cut: bool
) -> None:
    """A resumed training saves to a new version's folder, but its steps go on."""
    marks = [Marks(counters={}, saved_to=f"logs/version_{number}") for number in (0, 1)]
    assert ("writes to logs/version_1" in other_training(pair(iterates, marks))) == cut


@pytest.mark.parametrize(
    ("iterates", "cut"),
    [
        ([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [1.0, -0.05]], True),
        ([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [1.0, 0.15]], False),
        ([[1.0, 0.0], [1.0, 0.1], [1.0, -0.05]], True),
        ([[1.0, 0.0], [1.0, 0.1], [1.0, -0.02]], False),
        ([[1.0, 0.0], [1.0, 0.1], [1.0, 0.01], [1.0, 0.09]], False),
        ([[1.0, 0.0], [1.0, 0.1], [1.0, 0.4], [1.0, 1.4]], False),
    ],
    ids=["back to the start", "overshot", "back after one step", "oscillating", "oscillating on", "ever faster"],
)
def test_a_path_that_goes_back_to_its_start_is_of_another_training(iterates: list[list[float]], cut: bool) -> None:
    """Nearer to all that came before than to the last, by a step that no oscillation makes."""
    assert ("nearer to each checkpoint before a.pt" in other_training(pair(iterates))) == cut


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_equal_checkpoints_and_lost_figures_decide_nothing(value: float) -> None:
    """A step of length 0, or one that is not finite, is no evidence."""
    marks = [counting(epoch=5), counting(epoch=1)]
    two = Pair(**{**_fields(pair(NEAR, marks)), "steps_nn": np.array([[value]])})
    assert other_training(two) == ""


def test_a_window_reaches_back_to_the_last_pair_of_two_trainings() -> None:
    """Only pairs count that stand next to each other."""
    members = [checkpoint_of(made(f"step_{step}.pt", step)) for step in range(5)]
    assert followed(members) == (members, "")
    object.__setattr__(members[3], "apart_from", {"step_2.pt": "why", "step_9.pt": "another"})
    object.__setattr__(members[4], "apart_from", {"step_1.pt": "not next to it"})
    assert followed(members) == (members[3:], "the window begins with step_3.pt: why")


# -- over small trainings

DATA = trainings.digits(480)


def new(seed: int, epochs: int = 4, name: str = "MLP") -> list[Checkpoint]:
    """A training from scratch."""
    model = trainings.network(name, seed)
    optimizer = trainings.OPTIMIZERS["Adam"](model.parameters())
    return trainings.train(model, optimizer, epochs, seed, data=DATA, initial=False)


def fine_tuned(count: int, epochs: int = 4, name: str = "MLP") -> list[list[Checkpoint]]:
    """Trainings from one start, each without another part of the data."""
    start = trainings.network(name, 7)
    trainings.train(start, trainings.OPTIMIZERS["Adam"](start.parameters()), 2, 7, data=DATA)
    found = []
    for seed, data in enumerate(trainings.folds(DATA)[:count]):
        model = trainings.network(name, 7)
        model.load_state_dict(start.state_dict())
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-4)
        found.append(trainings.train(model, optimizer, epochs, seed, data=data, initial=False))
    return found


def in_turn(runs: Sequence[list[Checkpoint]]) -> list[Checkpoint]:
    """The first of each, then the second of each, and so on."""
    return list(chain(*zip(*runs, strict=True)))


def lightning(checkpoints: list[Checkpoint], version: int) -> list[Checkpoint]:
    """The same with what Lightning's ModelCheckpoint keeps of itself."""
    kept = {"dirpath": f"/runs/lightning_logs/version_{version}/checkpoints", "best_k_models": {}}
    return [{**each, "callbacks": {"ModelCheckpoint{'monitor': 'loss'}": kept}} for each in checkpoints]


def windows(state: RunState) -> list[list[str]]:
    """The inputs of all models."""
    return [each.chosen.inputs for each in state.checkpoints.values() if each.chosen is not None]


def scratch() -> list[list[Checkpoint]]:
    """Two trainings from scratch."""
    return [new(0), new(1)]


# checkpoints in the order of their names, and the training of each
CASES = {
    "begun again from scratch": lambda: (list(chain(*scratch())), [0] * 4 + [1] * 4),
    "begun again from scratch, bare": lambda: (trainings.bare(chain(*scratch())), [0] * 4 + [1] * 4),
    "two runs in turn": lambda: (in_turn(scratch()), [0, 1] * 4),
    "two runs in turn, bare": lambda: (trainings.bare(in_turn(scratch())), [0, 1] * 4),
    "ids that return": lambda: (
        trainings.bare([*new(111)[:2], *new(222)[:3], *new(111)[2:]]),
        [0] * 2 + [1] * 3 + [0] * 2,
    ),
    "seeds from scratch, their ends": lambda: (trainings.bare([new(seed)[-1] for seed in range(4)]), [0, 1, 2, 3]),
    "folds, one after another": lambda: (list(chain(*fine_tuned(3))), [0] * 4 + [1] * 4 + [2] * 4),
    "folds, one after another, bare": lambda: (trainings.bare(chain(*fine_tuned(3))), [0] * 4 + [1] * 4 + [2] * 4),
    "folds, their ends": lambda: ([run[-1] for run in fine_tuned(4, 2)], [0, 1, 2, 3]),
    "folds, their ends, counted batches alone": lambda: (
        [run[-1]["model"] for run in fine_tuned(4, 2, "MLP, batch norm")],
        [0, 1, 2, 3],
    ),
    "seeds from one start, in turn": lambda: (in_turn(fine_tuned(3)), [0, 1, 2] * 4),
    "two of Lightning's folders": lambda: (
        in_turn([lightning(run, number) for number, run in enumerate(fine_tuned(2))]),
        [0, 1] * 4,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_no_window_holds_two_trainings(case: str, tmp_path: Path) -> None:
    """Each situation that was met, made anew: every model is of one training, and it is said where another begins."""
    checkpoints, truth = CASES[case]()
    trainings.save(tmp_path, checkpoints, "epoch_{}.pt")
    state = process(tmp_path, tmp_path)
    of = {f"epoch_{number}.pt": training for number, training in enumerate(truth, 1)}
    assert all(len({of[name] for name in each}) == 1 for each in windows(state))
    runs = [len(list(group)) for group in np.split(truth, np.flatnonzero(np.diff(truth)) + 1)]
    assert len(windows(state)) >= sum(max(0, length - 2) for length in runs)
    started = [
        event for event in log.read(tmp_path / ".rna-watch" / "journal.jsonl") if isinstance(event, e.WindowStarted)
    ]
    assert started
    assert all(of[event.checkpoint] != of[event.after] or not event.after for event in started)
    assert "several-trainings" in state.problems


def plain(kind: str) -> list[Checkpoint]:
    """One training of a kind, from its first step."""
    if kind.startswith("GAN"):
        return trainings.gan(0, 6, data=DATA)[kind != "GAN, generator"]
    if kind == "adapters":
        base = trainings.network("MLP", 7)
        torch.manual_seed(0)
        model: torch.nn.Module = trainings.Adapted(base)  # type: ignore[arg-type]
        return trainings.train(model, torch.optim.AdamW(model.parameters(), lr=1e-2), 6, data=DATA)
    model = trainings.network("MLP, batch norm" if kind == "SGD at 1" else "MLP", 0)
    make = (trainings.OPTIMIZERS | trainings.VIOLENT)[kind.removesuffix(", optimizer lost")]
    return trainings.train(model, make(model.parameters()), 6, data=DATA, forget=3 if "lost" in kind else 0)


@pytest.mark.parametrize("inside", [True, False], ids=["whole", "bare"])
@pytest.mark.parametrize(
    "kind",
    [
        "SGD",
        "momentum",
        "AdamW",
        "SGD at 1",
        "Adam, optimizer lost",
        "GAN, generator",
        "GAN, discriminator",
        "adapters",
    ],
)
def test_a_trainings_own_violent_moments_are_not_cut(kind: str, inside: bool, tmp_path: Path) -> None:
    """From random weights on, through large rates, a lost optimizer and the first epochs of a GAN: one window after the other."""
    checkpoints = plain(kind)
    trainings.save(tmp_path, checkpoints if inside else trainings.bare(checkpoints), first=0)
    state = process(tmp_path, tmp_path)
    found = list(log.read(tmp_path / ".rna-watch" / "journal.jsonl"))
    assert [event for event in found if isinstance(event, e.WindowStarted)] == []
    assert len(windows(state)) == len(checkpoints) - 2
    assert sum(isinstance(event, e.Noted) and event.text == ASSUMED for event in found) == (0 if inside else 1)


@pytest.mark.parametrize("name", ["ahci", "logicity"])
def test_real_runs_are_not_cut(name: str, real_runs: Path, tmp_path: Path) -> None:
    """Two trainings that nobody here ran."""
    process(real_runs / name, tmp_path)
    found = log.read(tmp_path / ".rna-watch" / "journal.jsonl")
    assert [event for event in found if isinstance(event, e.WindowStarted) and event.after] == []


@pytest.fixture(scope="module")
def begun_anew(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of bare checkpoints: a training, and one begun anew from scratch."""
    folder = tmp_path_factory.mktemp("begun_anew")
    trainings.save(folder, trainings.bare(chain(*scratch())))
    return folder


def test_a_break_is_shown_and_outlives_a_restart(begun_anew: Path, tmp_path: Path) -> None:
    """With its figures in log, status and the manifests of the windows that it shortens; it is found once."""
    process(begun_anew, tmp_path)
    journal = tmp_path / ".rna-watch" / "journal.jsonl"
    (started,) = (event for event in log.read(journal) if isinstance(event, e.WindowStarted))
    assert (started.checkpoint, started.after) == ("epoch_5.pt", "epoch_4.pt")
    assert "do not go on from those of epoch_4.pt: the weight matrices have a cosine of 0." in started.reason
    assert describe(started) == f"epoch_5.pt  starts a new window: {started.reason}"
    notes = {
        path.name: json.loads(path.read_text())["notes"]
        for path in (tmp_path / "rna").iterdir()
        if path.suffix == ".json"
    }
    begins = f"the window begins with epoch_5.pt: {started.reason}"
    assert {name for name, said in notes.items() if begins in said} == {"epoch_7.pt.json", "epoch_8.pt.json"}
    result = rna_watch("status", begun_anew, "--output", tmp_path, "--json")
    shown = {each["name"]: each["reason"] for each in json.loads(result.stdout)["checkpoints"]}
    assert begins in shown["epoch_5.pt"]
    assert begins in shown["epoch_6.pt"]
    before = sum(isinstance(event, e.Measured) for event in log.read(journal))
    state = process(begun_anew, tmp_path)
    assert sum(isinstance(event, e.WindowStarted) for event in log.read(journal)) == 1
    assert sum(isinstance(event, e.Measured) for event in log.read(journal)) == before
    assert state.checkpoints["epoch_5.pt"].apart_from == {"epoch_4.pt": started.reason}


def test_one_run_overrules(begun_anew: Path, tmp_path: Path) -> None:
    """All checkpoints are of one training where the user says so, in a journal too that has a break."""
    run = shutil.copytree(begun_anew, tmp_path / "run")
    assert len(windows(process(run, tmp_path / "at_once", one_run=True))) == 6
    assert len(windows(process(run, tmp_path / "later"))) == 4
    trainings.save(run, trainings.bare(new(1, 5)[4:]), first=9)
    state = process(run, tmp_path / "later", one_run=True)
    assert windows(state)[-1] == [f"epoch_{number}.pt" for number in range(4, 10)]


def test_files_named_by_hand_are_combined_with_a_warning(begun_anew: Path, tmp_path: Path) -> None:
    """On standard error and in the manifest's notes; `--json` stays alone on standard output; averages are looked at too."""
    paths = [begun_anew / f"epoch_{number}.pt" for number in (3, 4, 5, 6)]
    for method in ("rna", "average"):
        result = rna_watch("extrapolate", *paths, "-o", tmp_path / f"{method}.pt", "--method", method, "--json")
        assert result.returncode == 0
        manifest = json.loads(result.stdout)
        (note,) = (note for note in manifest["notes"] if "another training" in note)
        assert note.startswith(f"{paths[2]}: its weights do not go on from those of {paths[1]}")
        assert result.stderr == f"warning  {note}\n"
        assert json.loads((tmp_path / f"{method}.pt.json").read_text())["notes"] == manifest["notes"]
    result = rna_watch("extrapolate", *paths, "-o", tmp_path / "one.pt", "--one-run", "--json")
    assert (result.returncode, result.stderr) == (0, "")
    assert not any("another training" in note for note in json.loads(result.stdout)["notes"])


def test_rows_of_older_journals_say_nothing_of_weights() -> None:
    """A measurement that was recorded before norms were is whole, and no evidence."""
    record = {"v": 1, "kind": "measured", "checkpoint": "b.pt", "residuals": [["a.pt", "b.pt"]], "rows": [[1.0]]}
    event = from_record(record | {"rounding_energy": 0.0, "read_bytes": 1, "seconds": 1.0})
    assert isinstance(event, e.Measured)
    assert event.matrices == []
    old = from_record({"v": 1, "kind": "window_started", "checkpoint": "b.pt", "reason": "a restart"})
    assert isinstance(old, e.WindowStarted)
    state = replay([made("b.pt", 1), old])
    assert (state.checkpoints["b.pt"].starts_window, state.checkpoints["b.pt"].apart_from) == (True, {})
