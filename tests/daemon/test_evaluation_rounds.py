"""The rounds of evaluation of real windows, in this process: which candidates are evaluated, in which variants, and chosen."""

from __future__ import annotations

import json
import math
import shutil
import zipfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch.optim.swa_utils import update_bn

from rna_watch.acceleration.significance import student_quantile
from rna_watch.cli import app
from rna_watch.daemon.recorder import Recorder
from rna_watch.errors import EvaluationFailed
from rna_watch.evaluation.evaluator import TRAINING_LOSS, Evaluation, Fit, FitRequest
from rna_watch.journal.events import TakenUp
from rna_watch.journal.run_paths import RunPaths
from rna_watch.layout.artifacts import manifest_path
from rna_watch.publishing.inputs import Finder
from rna_watch.publishing.verification import Verdict, read_manifest, verify
from tests.daemon import offering
from tests.daemon.in_process import Here, Noise, process
from tests.daemon.runs import check_journal_tells, check_output, events, model_of, train
from tests.daemon.trainer import Network

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rna_watch.journal.replay import Checkpoint, RunState
    from rna_watch.window.combine import Combination

FOLDER = Path(__file__).parent
OFFERING = f"{FOLDER / 'offering.py'}:evaluate"
PLAIN = f"{FOLDER / 'evaluator.py'}:evaluate"
AVERAGES = ("average", "ema", "decay", "cumulative", "soup")
FIXED = ("average", "ema", "decay", "cumulative", "rna", "simplex", "capped")
NORM = ("norm.running_mean", "norm.running_var")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine checkpoints of a real training."""
    folder = tmp_path_factory.mktemp("run")
    train(folder, count=9)
    return folder


@pytest.fixture(autouse=True)
def _at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The evaluator's worker changes directory, path and threads of its process, which is ours here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(FOLDER))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def _published(state: RunState) -> list[Checkpoint]:
    found = [checkpoint for checkpoint in state.checkpoints.values() if checkpoint.output is not None]
    assert found
    return found


def _manifest(output: Path, checkpoint: Checkpoint) -> dict[str, Any]:
    return json.loads((output / "rna" / f"{checkpoint.output}.json").read_text())


def _combined(run: Path, inputs: Sequence[str], weights: Sequence[float]) -> dict[str, torch.Tensor]:
    """The slow twin of a combination: whole models in float64."""
    models = [model_of(run / name) for name in inputs]
    made = {}
    for name, newest in models[-1].items():
        if newest.is_floating_point():
            total = sum(w * model[name].double() for w, model in zip(weights, models, strict=True))
            made[name] = (total.clamp(min=0) if name.endswith("running_var") else total).to(newest.dtype)
        else:
            made[name] = newest
    return made


def _check_search(state: RunState, limit: int) -> None:
    """Whatever was evaluated is a candidate, once; nothing is candidate, duplicate and left out at a time."""
    for checkpoint in _published(state):
        assert checkpoint.searched is not None
        names = [each["name"] for each in checkpoint.searched.candidates]
        left_out, duplicates = checkpoint.searched.left_out, checkpoint.searched.duplicates
        assert len({*names, *left_out}) == len(names) + len(left_out)
        assert duplicates.keys().isdisjoint({*names, *left_out})
        assert set(duplicates.values()) <= {*names, *left_out}
        assert checkpoint.evaluations.keys() <= set(names)
        assert names[0] == "last"
        assert sum(each["method"] in FIXED for each in checkpoint.searched.candidates) <= limit
        for each in checkpoint.searched.candidates:
            assert math.isclose(sum(each["weights"]), 1.0, abs_tol=1e-9)


def _threshold(gains: Sequence[float], level: float, error: float) -> float:
    """What gains of right against wrong must exceed on average: McNemar's test, exact for up to 20 that are not zero."""
    m = sum(gain != 0 for gain in gains)
    if m > 20:
        return (student_quantile(level, m - 1) * error) + 1 / len(gains)
    chances = [sum(math.comb(m, k) for k in range(wins, m + 1)) / 2**m for wins in range(m + 2)]
    fewest = next(wins for wins, chance in enumerate(chances) if chance <= level)
    return (2 * (fewest - 1) - m) / len(gains)


def test_a_gain_is_called_significant_only_by_the_paired_test(run: Path, tmp_path: Path) -> None:
    """Each step of the choice is a paired test, corrected for the number of candidates, with values per example."""
    settings: dict[str, Any] = {"metric": "error", "choose_by": "metric", "methods": (*FIXED, "trained")}
    state = process(run, tmp_path, [Here(OFFERING, tmp_path)], **settings)
    verdicts = set()
    for checkpoint in _published(state):
        chosen, searched = checkpoint.chosen, checkpoint.searched
        assert chosen is not None
        assert searched is not None
        assert set(checkpoint.examples.values()) == {len(offering.X)}
        errors = {}
        for each in searched.candidates:
            found: Any = offering.evaluate(_combined(run, chosen.inputs, each["weights"]), torch.device("cpu"))["error"]
            errors[each["name"]] = found.double()
            assert checkpoint.evaluations[each["name"]]["error"] == pytest.approx(found.double().mean().item())
        averages = [each["name"] for each in searched.candidates[1:] if each["method"] in AVERAGES]
        solutions = [each["name"] for each in searched.candidates[1:] if each["method"] in {"rna", "simplex", "capped"}]
        fits = [each["name"] for each in searched.candidates[1:] if each["method"] == "trained"]
        groups = [averages, solutions, fits]
        assert len(chosen.comparisons) in {2, 3}
        reference = "last"
        for number, (names, step) in enumerate(zip(groups, chosen.comparisons, strict=False)):
            best = min(names, key=lambda name: errors[name].mean().item())
            # against the original it is the best of all that was tried before too, a fit is one of all that extrapolates
            before = groups[: number + 1] if reference == "last" else groups[min(number, 1) : number + 1]
            tried = sum(map(len, before))
            gains = errors[reference] - errors[best]
            error = gains.std().item() / math.sqrt(len(gains))
            threshold = _threshold(gains.tolist(), 0.05 / tried, error)
            assert (step["candidate"], step["reference"]) == (best, reference)
            assert step["gain"] == pytest.approx(gains.mean().item())
            assert step["standard_error"] == pytest.approx(error)
            assert step["threshold"] == pytest.approx(threshold, abs=1e-8)
            assert step["accepted"] == (gains.mean().item() > threshold)
            reference = best if step["accepted"] else reference
        assert chosen.significant == (reference != "last")
        assert chosen.candidate == reference or not chosen.significant
        verdicts.add(chosen.significant)
        manifest = _manifest(tmp_path, checkpoint)
        assert manifest["comparisons"] == chosen.comparisons
        assert manifest["significant"] == chosen.significant
        assert (chosen.tested_on, manifest["tested_on"]) == ("error", "error")
        check_output(tmp_path / "rna" / checkpoint.name, run)
    assert verdicts == {True, False}
    _check_search(state, 8)


def test_candidates_are_ranked_and_tested_on_the_loss_of_each_example(run: Path, tmp_path: Path) -> None:
    """The best loss that is no worse by the metric is taken, the reason says so, and the two names are recorded."""
    state = process(run, tmp_path, [Here(OFFERING, tmp_path)], metric="error", choose_by="loss", methods=FIXED)
    assert "choose_by" not in state.problems
    for checkpoint in _published(state):
        chosen, metrics = checkpoint.chosen, checkpoint.evaluations
        assert chosen is not None
        assert set(checkpoint.losses.values()) == {"loss"}
        averages = [name for name in metrics if name.split("-")[0] in AVERAGES]
        best = min(averages, key=lambda name: metrics[name]["loss"])
        assert chosen.metrics["average"] == metrics[best]
        bar = min(metrics[best]["error"], metrics["last"]["error"])
        allowed = [name for name in metrics if name != "last" and metrics[name]["error"] <= bar]
        if allowed:
            assert chosen.candidate in allowed
            found = min(metrics[name]["loss"] for name in allowed)
            assert metrics[chosen.candidate]["loss"] == found or not chosen.comparisons[-1]["accepted"]
        assert chosen.better_than_original is (metrics[chosen.candidate]["error"] < metrics["last"]["error"])
        assert chosen.tested_on == _manifest(tmp_path, checkpoint)["tested_on"] == "loss"
        assert "tested on loss" in chosen.reason or "better by loss" in chosen.reason


class Hostile(Noise):
    """Noise by example, an error and a loss; of the fit that it gives it says what `answer` is (none: it gives no fit)."""

    FIT = (0.5, -1.0, 1.0, 0.5)

    def __init__(self, answer: tuple[float, float] | None) -> None:
        super().__init__(5, examples=40, metric="loss")
        self._answer = answer

    def offers(self) -> frozenset[str]:
        """A fit too."""
        return frozenset({TRAINING_LOSS})

    def evaluate(
        self, combination: Combination, *, fraction: float | None = None, re_estimate: bool = False
    ) -> Evaluation:
        """The errors are of examples whose loss is above one."""
        loss = super().evaluate(combination, fraction=fraction, re_estimate=re_estimate).examples["loss"]
        error = (loss > 1.0).astype(float)
        if combination.weights == self.FIT and self._answer is not None:
            error, loss = (np.full(len(loss), value) for value in self._answer)
        metrics = {"error": float(error.mean()), "loss": float(loss.mean())}
        return Evaluation(metrics=metrics, seconds=0.0, examples={"error": error, "loss": loss})

    def fit(self, request: FitRequest) -> Fit:
        """The same weights at every checkpoint."""
        if self._answer is None:
            raise EvaluationFailed("nothing to fit")
        return Fit(weights=self.FIT, losses=(1.0, 0.5), seconds=0.0)


def test_no_fit_makes_what_is_published_worse(run: Path, tmp_path: Path) -> None:
    """Whatever is said of a fit, no model is worse than without it, by error or by loss; one that is better is taken."""
    settings: dict[str, Any] = {"methods": ("average", "rna", "trained"), "window": 3, "normalization": "clamp"}
    settings["every"] = 2
    before = process(run, tmp_path / "none", [Hostile(None)], **settings)
    answers = [(math.nan, 0.0), (0.0, math.nan), (1.0, -9.0), (0.0, 9.0), (0.5, -math.inf), (0.0, -9.0)]
    for number, answer in enumerate(answers):
        after = process(run, tmp_path / str(number), [Hostile(answer)], **settings)
        fitted = 0
        for checkpoint in _published(after):
            own, other = checkpoint.chosen, before.checkpoints[checkpoint.name].chosen
            assert own is not None
            assert other is not None
            fitted += own.method == "trained"
            for name in ("error", "loss"):
                assert own.metrics["chosen"][name] <= other.metrics["chosen"][name]
        assert (fitted > 0) is (answer == (0.0, -9.0))


def test_a_loss_that_is_wanted_and_missing_is_said(run: Path, tmp_path: Path) -> None:
    """The metric chooses, and the problem says what to return."""
    state = process(run, tmp_path, [Noise(0, examples=12, metric="error")], choose_by="loss", methods=("rna",))
    assert "no loss of each example beside 'error'" in state.problems["choose_by"].what
    chosen = _published(state)[-1].chosen
    assert chosen is not None
    assert chosen.tested_on == "error"


@pytest.mark.parametrize(
    ("cut", "settings"),
    [
        ("searched", {"metric": "error", "normalization": "both"}),
        # a metric that is one number, beside a loss of each example
        pytest.param(
            "chosen",
            {"metric": "statistics", "mode": "min", "normalization": "clamp", "methods": ("average", "rna")},
            marks=pytest.mark.slow,
        ),
        pytest.param("publishing", {"metric": "error", "normalization": "both"}, marks=pytest.mark.slow),
    ],
)
def test_a_restart_before_publication_evaluates_again_what_was_lost(
    run: Path, tmp_path: Path, cut: str, settings: dict[str, Any]
) -> None:
    """Per-example values are not in the journal: they are found again after a crash, and the same model is chosen."""
    process(run, tmp_path, [Here(OFFERING, tmp_path)], **settings)
    model = tmp_path / "rna" / "step_9.pt"
    before, manifest = model.read_bytes(), json.loads((tmp_path / "rna" / "step_9.pt.json").read_text())
    journal = tmp_path / ".rna-watch" / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    last = max(n for n, line in enumerate(lines) if json.loads(line)["kind"] == cut)
    journal.write_bytes(b"".join(lines[: last + 1]))
    model.unlink()
    state = process(run, tmp_path, [Here(OFFERING, tmp_path)], **settings)
    again = Counter(event.candidate for event in events(run, "evaluated", tmp_path) if event.checkpoint == "step_9.pt")
    assert set(again.values()) == {2}
    assert model.read_bytes() == before
    assert json.loads((tmp_path / "rna" / "step_9.pt.json").read_text()) == manifest
    assert state.checkpoints["step_8.pt"].output == "step_8.pt"


def test_what_cannot_be_evaluated_again_after_a_restart_is_not_chosen(run: Path, tmp_path: Path) -> None:
    """Metrics in the journal whose re-estimated statistics are lost choose nothing, should the evaluator fail then."""
    settings: dict[str, Any] = {"normalization": "re-estimate"}
    process(run, tmp_path, [Noise(1)], **settings)
    journal = tmp_path / ".rna-watch" / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    last = max(n for n, line in enumerate(lines) if json.loads(line)["kind"] == "searched")
    journal.write_bytes(b"".join(lines[:last]))
    state = process(run, tmp_path, [Noise(1, failing=1.0)], **settings)
    checkpoint = state.checkpoints["step_9.pt"]
    assert checkpoint.chosen is not None
    assert checkpoint.chosen.better_than_original is None
    assert _manifest(tmp_path, checkpoint)["statistics"] == "clamped"


def test_evaluations_of_another_window_choose_nothing(run: Path, tmp_path: Path) -> None:
    """An input lost amid the evaluations makes another window: what was evaluated before bears the names, but is not it."""
    own = tmp_path / "run"
    shutil.copytree(run, own)
    process(own, own, [Noise(0)])
    journal = own / ".rna-watch" / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    last = max(n for n, line in enumerate(lines) if json.loads(line)["kind"] == "searched")
    journal.write_bytes(b"".join(lines[:last]))
    (own / "step_7.pt").unlink()
    for pinned in (own / ".rna-watch" / "pins").glob("step__7.*"):
        pinned.unlink()
    again = Noise(0)
    checkpoint = process(own, own, [again]).checkpoints["step_9.pt"]
    assert checkpoint.searched is not None
    assert checkpoint.chosen is not None
    assert "step_7.pt" not in checkpoint.chosen.inputs
    counted = [each for each in checkpoint.searched.candidates[1:] if each["name"] in checkpoint.evaluations]
    assert {tuple(each["weights"]) for each in counted} <= {weights for _, weights in again.evaluated}


def _interrupted(run: Path, output: Path, **settings: Any) -> Counter[str]:
    """How often each candidate of the newest checkpoint was evaluated, in a run that ended before its search was recorded."""
    process(run, output, [Noise(0)], **settings)
    journal = output / ".rna-watch" / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    last = max(n for n, line in enumerate(lines) if json.loads(line)["kind"] == "searched")
    journal.write_bytes(b"".join(lines[:last]))
    return _times(run, output)


def _times(run: Path, output: Path) -> Counter[str]:
    return Counter(event.candidate for event in events(run, "evaluated", output) if event.checkpoint == "step_9.pt")


def test_a_longer_window_keeps_what_was_evaluated_of_the_same_models(run: Path, tmp_path: Path) -> None:
    """With another `window`, `windows` and `keep` only models that were not evaluated yet are, and nothing else is."""
    settings: dict[str, Any] = {"methods": FIXED, "max_candidates": 99}
    before = _interrupted(run, tmp_path, window=3, windows=(3, 2), **settings)
    assert {"last", "average-3", "average-2", "ema-3", "rna-3-1e-02", "cumulative-4"} <= before.keys()
    searched = (
        process(run, tmp_path, [Noise(0)], window=6, windows=(6, 3, 2), **settings).checkpoints["step_9.pt"].searched
    )
    after = _times(run, tmp_path)
    assert set(after.values()) == {1}
    assert after.keys() - before.keys() >= {"average-6", "ema-6", "rna-6-1e-02", "cumulative-7"}
    assert searched is not None
    assert {each["name"] for each in searched.candidates} <= after.keys()


def test_another_model_of_the_same_name_is_evaluated_again(run: Path, tmp_path: Path) -> None:
    """With another cap `capped-5-1e-08` is another model: what was said of the former one is not taken for it."""
    settings: dict[str, Any] = {"methods": ("average", "capped"), "regularizations": (1e-8,), "max_candidates": 99}
    before = _interrupted(run, tmp_path, **settings)
    process(run, tmp_path, [Noise(0)], l1_cap=1.2, **settings)
    after = _times(run, tmp_path)
    assert {name for name in after if after[name] > before[name]} == {"capped-5-1e-08"}


def test_lambda_may_be_none_at_all(run: Path, tmp_path: Path) -> None:
    """0 among the settings is a candidate of its own, which is recorded with 0, and published as such."""
    settings: dict[str, Any] = {"methods": ("rna",), "regularizations": (0.0, 1e-2), "windows": (5,)}
    state = process(run, tmp_path, [Noise(3)], **settings)
    found = [checkpoint.recipes[name] for checkpoint in _published(state) for name in checkpoint.evaluations]
    assert {recipe.regularization for recipe in found if recipe.method == "rna"} == {0.0, 1e-2}
    chosen = [(each, each.chosen) for each in _published(state) if each.chosen]
    zero = [(checkpoint, choice) for checkpoint, choice in chosen if choice.candidate.endswith("-0e+00")]
    assert zero
    for checkpoint, choice in zero:
        assert _manifest(tmp_path, checkpoint)["regularization"] == 0.0
        assert math.isclose(sum(choice.weights), 1.0, abs_tol=1e-9)
        check_output(tmp_path / "rna" / checkpoint.name, run)


def test_best_is_never_worse(run: Path, tmp_path: Path) -> None:
    """Whatever an evaluator says, `best` names a model strictly better than its original and every original before it."""
    moved = 0
    for seed in range(36):
        output = tmp_path / str(seed)
        metric = ("loss", "accuracy")[seed % 2]
        noise = Noise(seed, examples=(0, 30)[seed % 3 == 0], failing=0.1, undefined=0.1 * (seed % 4), metric=metric)
        methods = (*FIXED, "soup", "line") if seed % 5 == 0 else ("average", "rna")
        state = process(run, output, [noise], methods=methods, windows=(3,), keep=2)
        check_journal_tells(state)
        sign = 1.0 if metric == "loss" else -1.0
        originals: list[float] = []
        values: dict[tuple[str, str], float] = {}
        chosen: dict[str, str] = {}
        best = math.inf
        for record in map(json.loads, (output / ".rna-watch" / "journal.jsonl").read_text().splitlines()):
            if record["kind"] == "evaluated":
                values[record["checkpoint"], record["candidate"]] = sign * record["metrics"][metric]
                if record["candidate"] == "last" and not math.isnan(record["metrics"][metric]):
                    originals.append(sign * record["metrics"][metric])
            elif record["kind"] == "chosen":
                chosen[record["checkpoint"]] = record["candidate"]
            elif record["kind"] == "best_moved":
                moved += 1
                value = sign * record["value"]
                assert value == values[record["checkpoint"], chosen[record["checkpoint"]]]
                assert value < values[record["checkpoint"], "last"]
                assert value < min([best, *originals])
                best = value
        if state.best is not None:
            assert (output / "rna" / "best").resolve() == (output / "rna" / state.best.output).resolve()
            assert (output / "rna" / state.best.output).is_file()
        else:
            assert not (output / "rna" / "best").exists()
        _check_search(state, 8)
    assert moved > 20


def test_the_soup_takes_only_what_improves_it(run: Path, tmp_path: Path) -> None:
    """Each next best, from the best original on, joins if the uniform average of all gains, and stays out if not."""
    answers = Counter()  # type: Counter[bool]
    for seed in range(6):
        state = process(run, tmp_path / str(seed), [Noise(seed)], methods=("average", "soup"))
        for checkpoint in _published(state):
            chosen, searched = checkpoint.chosen, checkpoint.searched
            assert chosen is not None
            assert searched is not None
            originals = [state.checkpoints[name].evaluations["last"]["loss"] for name in chosen.inputs]
            newest = len(originals) - 1
            first, *rest = sorted(range(newest + 1), key=lambda k: originals[k])
            soup, best = {first}, originals[first]
            weights = {each["name"]: each["weights"] for each in searched.candidates}
            made = set()
            for k in rest:
                ages = sorted(newest - i for i in soup | {k})
                name = "soup-" + "+".join(map(str, ages))
                twin = searched.duplicates.get(name, name)
                made.add(name)
                uniform = [1 / len(ages) if newest - i in ages else 0.0 for i in range(newest + 1)]
                assert weights[twin] == pytest.approx(uniform)
                value = checkpoint.evaluations[twin]["loss"]
                answers[value < best] += 1
                if value < best:
                    soup, best = soup | {k}, value
            assert {name for name in {*weights, *searched.duplicates} if name.startswith("soup")} == made
    assert min(answers[True], answers[False]) > 10


@pytest.mark.parametrize(
    ("methods", "expected"), [(("soup",), "soup"), (("trained",), "trained"), (("rna", "line"), "line")]
)
def test_adaptive_candidates_are_published_as_what_they_are(
    run: Path, tmp_path: Path, methods: tuple[str, ...], expected: str
) -> None:
    """A soup, a point on the line and trained weights are combinations like any other, alone or next to others."""
    state = process(run, tmp_path, [Here(OFFERING, tmp_path)], methods=methods, metric="loss", priors=("ema",))
    found = set()
    for checkpoint in _published(state):
        assert checkpoint.chosen is not None
        found.add(checkpoint.chosen.method)
        check_output(tmp_path / "rna" / checkpoint.name, run)
        manifest = _manifest(tmp_path, checkpoint)
        assert manifest["candidate"] == checkpoint.chosen.candidate
        assert manifest["candidate"].startswith(manifest["method"])
        assert manifest["weights"] == checkpoint.chosen.weights
    assert expected in found
    _check_search(state, 8)


def test_points_on_the_line_are_named_by_where_they_lie(run: Path, tmp_path: Path) -> None:
    """The line goes from the newest checkpoint through the best solution: half way, and beyond it."""
    state = process(run, tmp_path, [Here(OFFERING, tmp_path)], methods=("rna", "line"), metric="loss")
    searched = state.checkpoints["step_9.pt"].searched
    assert searched is not None
    weights = {each["name"]: each["weights"] for each in searched.candidates}
    lines = [name for name in weights if name.startswith("line-")]
    assert len(lines) == 3
    evaluations = state.checkpoints["step_9.pt"].evaluations
    best = min((name for name in weights if name.startswith("rna-")), key=lambda name: evaluations[name]["loss"])
    for t in ("0.5", "1.5", "2"):
        point = [float(t) * w for w in weights[best]]
        point[-1] += 1 - float(t)
        assert weights[f"line-{t}-{best}"] == pytest.approx(point)


def test_trained_weights_lower_the_training_loss_and_lose_where_they_are_worse(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights fitted to the training loss win where they are better; fitted to its opposite they are tried, and lose."""
    settings: dict[str, Any] = {"methods": ("average", "rna", "trained"), "metric": "loss"}
    good = process(run, tmp_path / "good", [Here(OFFERING, tmp_path)], **settings).checkpoints["step_9.pt"]
    monkeypatch.setenv("TRAINING", "wrong")
    wrong = process(run, tmp_path / "wrong", [Here(OFFERING, tmp_path)], **settings).checkpoints["step_9.pt"]
    assert good.chosen is not None
    assert wrong.chosen is not None
    assert good.chosen.candidate == "trained-5"
    assert good.evaluations["trained-5"]["loss"] < min(
        metrics["loss"] for name, metrics in good.evaluations.items() if name != "trained-5"
    )
    assert wrong.evaluations["trained-5"]["loss"] > wrong.evaluations["last"]["loss"]
    assert wrong.chosen.method != "trained"


def test_a_row_of_weights_for_each_tensor_is_published_and_verified(run: Path, tmp_path: Path) -> None:
    """Layered lowers the training loss below every average; its model verifies to the bit, and its rows are told."""
    methods = ("average", "rna", "layered")
    state = process(run, tmp_path, [Here(OFFERING, tmp_path)], methods=methods, metric="loss", window=4)
    checkpoint = state.checkpoints["step_9.pt"]
    assert checkpoint.chosen is not None
    assert checkpoint.chosen.candidate == "layered-4"
    values = {name: metrics["loss"] for name, metrics in checkpoint.evaluations.items()}
    assert min(values, key=values.__getitem__) == "layered-4"
    manifest = _manifest(tmp_path, checkpoint)
    rows, weights = manifest["layer_weights"], manifest["weights"]
    assert (manifest["schema"], weights) == (2, checkpoint.chosen.weights)
    assert all(sum(row) == pytest.approx(1.0) for row in rows.values())
    assert rows["first.weight"] != rows["first.bias"] != weights
    assert rows["norm.running_mean"] == rows["norm.weight"]
    assert len(checkpoint.chosen.spread) == 5
    assert max(checkpoint.chosen.spread) > 0.0
    model = tmp_path / "rna" / "step_9.pt"
    recipe = read_manifest(manifest_path(model))
    found = verify(recipe, model, Finder(run, None))
    assert found.verdict is Verdict.VERIFIED, found.lines()


@pytest.mark.parametrize(
    ("setting", "mode", "words"),
    [
        ({}, "raise", ": LookupError: the training set is gone"),
        ({"trained_memory": 1e-6}, "", "more than the 0 MiB allowed; take a smaller window or allow more memory"),
    ],
)
def test_weights_that_cannot_be_trained_are_a_problem_in_words(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: dict[str, float], mode: str, words: str
) -> None:
    """A training loss that raises, or too little memory, is said; every other candidate is evaluated, and one published."""
    monkeypatch.setenv("TRAINING", mode)
    methods = ("average", "rna", "soup", "trained")
    state = process(run, tmp_path, [Here(OFFERING, tmp_path)], methods=methods, **setting)
    assert words in state.problems["trained"].what
    assert "evaluator" not in state.problems
    for checkpoint in _published(state):
        assert [name for name in checkpoint.failures if not name.startswith("trained-")] == []
        assert {"average", "rna"} <= {name.split("-")[0] for name in checkpoint.evaluations}
    assert len(_published(state)) == 7


def test_a_cheap_first_round_chooses_whom_to_evaluate(run: Path, tmp_path: Path) -> None:
    """Three times as many are looked at on a part of the data; the best go on, the first average and the first RNA anyway."""
    output = tmp_path / "out"
    noise = Noise(3)
    settings: dict[str, Any] = {"methods": FIXED, "max_candidates": 4, "first_round": 0.25}
    state = process(run, output, [noise], **settings)
    spared = 0
    for checkpoint in _published(state):
        screened = [event for event in events(run, "screened", output) if event.checkpoint == checkpoint.name]
        assert {event.fraction for event in screened} <= {0.25}
        assert 4 < len(screened) <= 12
        assert checkpoint.searched is not None
        full = set(checkpoint.evaluations) - {"last"}
        assert len(full) == 4
        length = len(checkpoint.searched.candidates[0]["weights"]) - 1
        assert {f"average-{length}", f"rna-{length}-1e-08"} <= full
        ranked = sorted(screened, key=lambda event: event.metrics["loss"])
        assert len(full & {event.candidate for event in ranked[:4]}) >= 2
        worst = max(
            checkpoint.screened[name].metrics["loss"] for name in full - {f"average-{length}", f"rna-{length}-1e-08"}
        )
        others = {event.candidate for event in screened} - full
        assert all(checkpoint.screened[name].metrics["loss"] >= worst for name in others)
        assert others <= set(checkpoint.searched.left_out)
        spared += len(others)
    assert spared > 20
    _check_search(state, 4)
    counts = Counter(noise.evaluated)
    assert max(counts.values()) == 1


def test_a_first_round_goes_on_where_a_crash_ended_it(run: Path, tmp_path: Path) -> None:
    """What was looked at before a restart is not looked at again, and the same candidates go on."""
    settings: dict[str, Any] = {"methods": FIXED, "max_candidates": 4, "first_round": 0.25}
    before = process(run, tmp_path, [Noise(3)], **settings).checkpoints["step_9.pt"]
    journal = tmp_path / ".rna-watch" / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    last = max(n for n, line in enumerate(lines) if json.loads(line)["kind"] == "screened")
    journal.write_bytes(b"".join(lines[: last - 2]))
    (tmp_path / "rna" / "step_9.pt").unlink()
    after = process(run, tmp_path, [Noise(3)], **settings).checkpoints["step_9.pt"]
    assert after.evaluations == before.evaluations
    screened = Counter((event.checkpoint, event.candidate) for event in events(run, "screened", tmp_path))
    assert set(screened.values()) == {1}


@pytest.mark.parametrize(
    ("settings", "key", "words"),
    [
        ({"first_round": 0.25, "max_candidates": 4}, "first_round", "the evaluator offers no 'fraction'"),
        ({"normalization": "re-estimate"}, "normalization", "the evaluator offers no 'normalization'"),
        ({"normalization": "both"}, "normalization", "the evaluator offers no 'normalization'"),
    ],
)
def test_what_an_evaluator_does_not_offer_is_said(
    run: Path, tmp_path: Path, settings: dict[str, Any], key: str, words: str
) -> None:
    """A setting that needs a function which is not there is a problem in words, and every model is written all the same."""
    state = process(run, tmp_path, [Here(PLAIN, tmp_path)], **settings)
    assert words in state.problems[key].what
    assert len(_published(state)) == 7
    for checkpoint in _published(state):
        check_output(tmp_path / "rna" / checkpoint.name, run)
        assert checkpoint.chosen is not None
        assert checkpoint.chosen.better_than_original is not None
        assert _manifest(tmp_path, checkpoint)["statistics"] == "clamped"
    _check_search(state, settings.get("max_candidates", 8))


@pytest.mark.parametrize(
    "methods", [FIXED, ("average", "rna", "soup", "line", "trained"), ("soup",), ("trained",)], ids="+".join
)
@pytest.mark.parametrize(
    ("wanted", "kind"), [("clamp", "clamped"), ("combine", "combined"), ("re-estimate", "re-estimated")]
)
def test_the_published_statistics_are_those_that_were_evaluated(
    run: Path, tmp_path: Path, wanted: str, kind: str, methods: tuple[str, ...]
) -> None:
    """Batch-norm statistics in the file are bitwise those of the evaluated model; re-estimated, they are torch's own."""
    here = [Here(OFFERING, tmp_path)]
    state = process(run, tmp_path, here, normalization=wanted, metric="loss", methods=methods)
    for checkpoint in _published(state):
        manifest = _manifest(tmp_path, checkpoint)
        path = tmp_path / "rna" / checkpoint.name
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
        model = model_of(path)
        total = float(sum(model[name].sum() for name in NORM))
        assert manifest["statistics"] == kind
        assert manifest["metrics"]["chosen"]["statistics"] == pytest.approx(total, abs=1e-12)
        if kind != "re-estimated":
            continue
        assert checkpoint.chosen is not None
        expected = _combined(run, checkpoint.chosen.inputs, checkpoint.chosen.weights)
        combined = {name: expected[name] for name in NORM}
        network, batches = offering.normalization(torch.device("cpu"))
        network.load_state_dict({name: tensor for name, tensor in model.items() if name not in NORM} | combined)
        update_bn(batches, network)
        for name in NORM:
            assert torch.equal(network.state_dict()[name], model[name])
            assert not torch.equal(combined[name], model[name])
        assert torch.equal(model["norm.num_batches_tracked"], expected["norm.num_batches_tracked"])
        Network().load_state_dict(model, strict=True)


def test_both_ways_of_normalization_are_tried_side_by_side(run: Path, tmp_path: Path) -> None:
    """Re-estimated variants are candidates of their own, with `both` two of each that may be evaluated; so is the original."""
    methods = ("average", "rna", "soup", "line", "trained")
    state = process(
        run,
        tmp_path,
        [Here(OFFERING, tmp_path)],
        normalization="both",
        metric="loss",
        max_candidates=6,
        methods=methods,
    )
    kinds = set()
    for checkpoint in _published(state):
        names = set(checkpoint.evaluations) - {"last", "last+re-estimated"}
        assert "last+re-estimated" in checkpoint.evaluations
        fixed = {name for name in names if name.split("-")[0] in FIXED}
        assert len(fixed) <= 2 * 6
        variants = {name for name in fixed if name.endswith("+re-estimated")}
        assert {name.removesuffix("+re-estimated") for name in variants} <= fixed
        assert len(variants) * 2 == len(fixed)
        assert checkpoint.chosen is not None
        manifest = _manifest(tmp_path, checkpoint)
        assert (manifest["statistics"] == "re-estimated") == manifest["candidate"].endswith("+re-estimated")
        total = float(sum(model_of(tmp_path / "rna" / checkpoint.name)[name].sum() for name in NORM))
        assert manifest["metrics"]["chosen"]["statistics"] == pytest.approx(total, abs=1e-12)
        kinds.add(manifest["statistics"])
    assert "re-estimated" in kinds
    _check_search(state, 2 * 6)


def test_by_itself_every_model_is_judged_with_both_kinds_of_statistics(run: Path, tmp_path: Path) -> None:
    """Twice the evaluations, the original's too, which is to be beaten in its better kind and is never published itself."""
    settings: dict[str, Any] = {"normalization": "auto", "metric": "loss", "max_candidates": 3, "methods": FIXED}
    state = process(run, tmp_path, [Here(OFFERING, tmp_path)], **settings)
    for checkpoint in _published(state):
        assert checkpoint.searched is not None
        assert checkpoint.chosen is not None
        losses = {name: metrics["loss"] for name, metrics in checkpoint.evaluations.items()}
        combined = {name for name in losses if not name.endswith("+re-estimated")}
        assert {f"{name}+re-estimated" for name in combined} == losses.keys() - combined
        assert len(losses) == 2 * (3 + 1)
        bar = min(losses["last"], losses["last+re-estimated"])
        assert losses["last+re-estimated"] != losses["last"]
        assert checkpoint.chosen.method != "last"
        assert checkpoint.chosen.metrics["original"]["loss"] == losses["last"]
        assert checkpoint.chosen.better_than_original is (losses[checkpoint.chosen.candidate] < bar)
        assert checkpoint.chosen.comparisons[0]["reference"] == min(
            ("last", "last+re-estimated"), key=losses.__getitem__
        )
    assert "normalization" not in state.problems
    _check_search(state, 2 * 3)


def test_a_kept_model_is_to_beat_the_original_in_its_better_kind_too(run: Path, tmp_path: Path) -> None:
    """Where another metric decides on models as they lie there, the original is evaluated with both kinds of statistics."""
    settings: dict[str, Any] = {"normalization": "auto", "methods": ("average",)}
    process(run, tmp_path, [Noise(0)], **settings)
    recorder = Recorder(RunPaths(run=run, output=tmp_path).journal)
    for checkpoint in _published(recorder.state):
        recorder.record(TakenUp(checkpoint=checkpoint.name, how="evaluate", reason="by error now"))
    recorder.close()
    state = process(run, tmp_path, [Noise(0, metric="error")], metric="error", **settings)
    decided = set()
    for checkpoint in _published(state):
        assert checkpoint.chosen is not None
        own, file, better = (
            checkpoint.evaluations[name]["error"] for name in (checkpoint.chosen.candidate, "last", "last+re-estimated")
        )
        assert checkpoint.chosen.better_than_original is (own < min(file, better))
        decided.add(better < own < file)
    assert decided == {True, False}


def _training_passes(folder: Path, mode: str) -> Here:
    """An evaluator whose file offers nothing but a training loss, in this mode of the network."""
    text = Path(OFFERING.rpartition(":")[0]).read_text().replace("def normalization(", "def something_else(")
    loss = text.index("def training_loss")
    text = text[:loss] + text[loss:].replace("Network().to(device).eval()", f"Network().to(device).{mode}()")
    (folder / "passes.py").write_text(text)
    return Here(f"{folder / 'passes.py'}:evaluate", folder)


def test_statistics_come_from_the_training_loss_where_nothing_else_is_offered(run: Path, tmp_path: Path) -> None:
    """Its forward passes update the buffers that it is given; what they leave is in the file that is published."""
    settings: dict[str, Any] = {"normalization": "auto", "metric": "loss", "max_candidates": 2, "methods": ("average",)}
    state = process(run, tmp_path, [_training_passes(tmp_path, "train")], **settings)
    kinds = set()
    for checkpoint in _published(state):
        assert "last+re-estimated" in checkpoint.evaluations
        manifest = _manifest(tmp_path, checkpoint)
        kinds.add(manifest["statistics"])
        model = model_of(tmp_path / "rna" / checkpoint.name)
        total = float(sum(model[name].sum() for name in NORM))
        assert manifest["metrics"]["chosen"]["statistics"] == pytest.approx(total, abs=1e-12)
        if manifest["statistics"] == "re-estimated":
            network = Network()
            network.load_state_dict(model)
            network.norm.reset_running_stats()
            update_bn([offering.TRAINING_X], network)
            for name in NORM:
                assert torch.allclose(network.state_dict()[name], model[name], rtol=0.2, atol=0.1)
    assert "re-estimated" in kinds
    assert "normalization" not in state.problems


def test_a_training_loss_that_leaves_statistics_alone_is_said_once(run: Path, tmp_path: Path) -> None:
    """A network in evaluation mode updates nothing: combined statistics are used, at no further evaluation, and it is said."""
    settings: dict[str, Any] = {"normalization": "auto", "metric": "loss", "max_candidates": 2, "methods": ("average",)}
    state = process(run, tmp_path, [_training_passes(tmp_path, "eval")], **settings)
    assert "leaves the normalization statistics in state_dict as they are" in state.problems["normalization"].what
    assert sum(event.key == "normalization" for event in events(run, "problem", tmp_path)) == 1
    assert "evaluator" not in state.problems
    for checkpoint in _published(state):
        assert not any(name.endswith("+re-estimated") for name in checkpoint.evaluations)
        assert checkpoint.failures == {}
        assert _manifest(tmp_path, checkpoint)["statistics"] == "clamped"


def test_a_model_without_statistics_costs_nothing_extra(tmp_path: Path) -> None:
    """Where there is nothing to re-estimate, each model is evaluated once, and nothing is said."""
    run = tmp_path / "run"
    run.mkdir()
    generator = torch.Generator().manual_seed(0)
    for step in range(1, 5):
        torch.save({"step": step, "model": {"weight": torch.randn(50, generator=generator)}}, run / f"step_{step}.pt")
    counts = []
    for wanted in ("clamp", "auto"):
        noise = Noise(0)
        state = process(run, tmp_path / wanted, [noise], normalization=wanted)
        assert state.problems == {}
        counts.append(len(noise.evaluated))
    assert counts[0] == counts[1]


def test_only_the_finalists_of_a_first_round_are_judged_in_both_kinds(run: Path, tmp_path: Path) -> None:
    """The cheap round screens with combined statistics; the second kind is of those that go on."""
    settings: dict[str, Any] = {"normalization": "auto", "methods": FIXED, "max_candidates": 4, "first_round": 0.25}
    state = process(run, tmp_path, [Noise(3)], **settings)
    for checkpoint in _published(state):
        assert not any(name.endswith("+re-estimated") for name in checkpoint.screened)
        assert len(checkpoint.evaluations) == 2 * (4 + 1)


def test_by_itself_nothing_is_said_where_statistics_cannot_be_re_estimated(run: Path, tmp_path: Path) -> None:
    """An evaluator that offers no passes, or none at all, is no problem unless somebody asked for them."""
    for evaluators in ([Here(PLAIN, tmp_path)], []):
        state = process(run, tmp_path / str(len(evaluators)), evaluators, normalization="auto", max_candidates=2)
        assert "normalization" not in state.problems
        assert {_manifest(tmp_path / str(len(evaluators)), each)["statistics"] for each in _published(state)} == {
            "clamped"
        }


def _write(run: Path, variances: Sequence[float], *, shared: bool = False) -> None:
    """Checkpoints whose parameters move at random and whose running variance falls."""
    run.mkdir()
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(50, generator=generator)
    for step, variance in enumerate(variances, 1):
        weight = weight + 0.1 * torch.randn(50, generator=generator)
        flat = torch.tensor([1.0, 2.0, variance, variance])
        mean, var = (flat[:3], flat[2:]) if shared else (flat[:2].clone(), flat[2:].clone())
        state = {"weight": weight, "bn.running_mean": mean, "bn.running_var": var}
        torch.save({"step": step, "model": state}, run / f"step_{step}.pt")


def test_statistics_that_share_their_storage_are_not_re_estimated(tmp_path: Path) -> None:
    """It is reported if they cannot be replaced one by one, and models are written with combined ones."""
    run = tmp_path / "run"
    _write(run, (5.0, 4.0, 3.0, 2.0), shared=True)
    state = process(run, tmp_path / "out", [Noise(1)], normalization="re-estimate")
    assert "shares its storage" in state.problems["normalization"].what
    assert len(_published(state)) == 2


@pytest.mark.parametrize(
    "evaluators", [(), (Noise(0),), (Noise(0, failing=1.0),)], ids=["none", "evaluated", "failing"]
)
def test_combined_variances_may_be_negative_as_in_the_paper(tmp_path: Path, evaluators: tuple[Noise, ...]) -> None:
    """`combine` writes the combination of variances as it is, evaluated or not, where `clamp` stops at zero."""
    for wanted, kind in (("combine", "combined"), ("clamp", "clamped")):
        run = tmp_path / wanted
        _write(run, (800.0, 400.0, 200.0, 1.0))
        state = process(run, run, evaluators, normalization=wanted, methods=("rna",), mixings=(-1.0,))
        checkpoint = state.checkpoints["step_4.pt"]
        manifest = _manifest(run, checkpoint)
        assert manifest["statistics"] == kind
        models = [model_of(run / each["path"]) for each in manifest["inputs"]]
        twin = sum(w * m["bn.running_var"].double() for w, m in zip(manifest["weights"], models, strict=True))
        twin = twin.clamp(min=0) if wanted == "clamp" else twin
        assert torch.allclose(model_of(run / "rna" / "step_4.pt")["bn.running_var"].double(), twin, rtol=1e-6)
        verified = CliRunner().invoke(app, ["verify", str(run / "rna")], standalone_mode=False)
        assert verified.exception is None, verified.output


def test_without_an_evaluator_statistics_are_not_re_estimated_in_silence(run: Path, tmp_path: Path) -> None:
    """A wish for re-estimated statistics without an evaluator is a problem in words."""
    state = process(run, tmp_path, normalization="re-estimate")
    assert "there is no evaluator that offers 'normalization'" in state.problems["normalization"].what
    assert len(_published(state)) == 7


def test_an_evaluator_with_another_metric_is_followed(run: Path, tmp_path: Path) -> None:
    """Models are chosen by the new metric after a restart with an evaluator that returns another one."""
    few = tmp_path / "few"
    few.mkdir()
    for step in range(1, 5):
        (few / f"step_{step}.pt").write_bytes((run / f"step_{step}.pt").read_bytes())
    process(few, tmp_path / "out", [Noise(0, metric="loss")])
    (few / "step_5.pt").write_bytes((run / "step_5.pt").read_bytes())
    state = process(few, tmp_path / "out", [Noise(0, metric="accuracy")])
    assert state.metric is not None
    assert (state.metric.metric, state.metric.mode) == ("accuracy", "max")
    assert state.checkpoints["step_5.pt"].chosen is not None
    assert state.checkpoints["step_5.pt"].chosen.better_than_original is not None


def test_an_original_without_a_number_stops_nothing(run: Path, tmp_path: Path) -> None:
    """The others are evaluated if the original's metric is NaN, and nothing is claimed to be better than it."""
    state = process(run, tmp_path, [_NaNOriginals(0)])
    for checkpoint in _published(state):
        assert len(checkpoint.evaluations) > 2
        assert checkpoint.chosen is not None
        assert checkpoint.chosen.better_than_original is None
        assert checkpoint.chosen.candidate in checkpoint.evaluations
    assert state.best is None


class _NaNOriginals(Noise):
    def evaluate(self, combination: Any, **options: Any) -> Any:
        found = super().evaluate(combination, **options)
        if combination.weights[-1] == 1.0:
            found.metrics["loss"] = math.nan
        return found
