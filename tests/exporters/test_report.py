"""The report: one page with the answer first, everything escaped, nothing loaded from elsewhere, small for long runs."""

from __future__ import annotations

import html
import html.parser
import json
import math
import re
import shutil
import subprocess
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_model

from rna_watch.comparison.comparison import compare
from rna_watch.comparison.findings import findings
from rna_watch.comparison.tables import decimals_of
from rna_watch.dashboard.scale import robust
from rna_watch.errors import NothingToDo
from rna_watch.exporters.report import page
from rna_watch.formats import registry
from rna_watch.journal import events as e
from rna_watch.journal.quantities import number, places
from rna_watch.journal.run_paths import RunPaths
from rna_watch.journal.standing import standing
from tests.comparison.run_of import Run
from tests.daemon.in_process import Here, process
from tests.daemon.runs import EVALUATOR, rna_watch, train
from tests.daemon.trainer import Network

VOID = {"meta", "br"}
MOST_BYTES = 2_000_000
LIMIT_S = 20.0  # about 1 s on a quiet core
NAME = "epoch_{:03}.pt"


class _Page(html.parser.HTMLParser):
    """A page's elements, attributes and words; an element that is not closed, or closed twice, fails."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(content)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        raise AssertionError(f"<{tag}/> with {attrs}")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def classes(self, *names: str) -> int:
        """How many elements have all these classes."""
        return sum({*names} <= {*(attributes.get("class") or "").split()} for _, attributes in self.elements)


def synthetic(paths: RunPaths, count: int, *, window: int = 5, keep: int = 5, metric: str = "error") -> Run:
    """A run as a daemon records it, with everything that the page shows; the last models and the best are kept."""
    run = Run(metric=metric, run=str(paths.run))
    paths.models.mkdir(parents=True)
    kept: list[str] = []
    best, best_name = math.inf, ""
    for step in range(1, count + 1):
        name = NAME.format(step)
        original = 4.0 + 80.0 * math.exp(-step / 4.0) + 0.3 * math.sin(step * step * 2.1)
        run.admit(step)
        if step < 3:
            run.add(e.Evaluated(checkpoint=name, candidate="last", metrics={metric: original}, seconds=0.1))
            run.add(e.Finished(checkpoint=name, reason="extrapolation begins with 3"))
            continue
        k = min(step, window + 1)
        inputs = [NAME.format(each) for each in range(step - k + 1, step + 1)]
        weights = {"last": [0.0] * (k - 1) + [1.0], f"average-{k - 1}": [0.0] + [1.0 / (k - 1)] * (k - 1)}
        weights[f"rna-{k - 1}-1e-08"] = [-0.2] + [1.2 / (k - 1)] * (k - 1)
        values = dict(
            zip(weights, [original, original - 0.9, original - 1.0 - 0.2 * math.cos(step * 0.05)], strict=True)
        )
        values[f"layered-{k - 1}"] = original - 1.1
        run.add(
            e.Measured(
                checkpoint=name,
                residuals=[[one, two] for one, two in pairwise(inputs)],
                rows=[[9.0 / step] * (k - 1)],
                rounding_energy=0.0,
                read_bytes=1,
                seconds=0.1,
            )
        )
        candidates = [
            {"name": each, "method": each.partition("-")[0], "weights": row, "parameters": {}, "window": k - 1}
            for each, row in weights.items()
        ]
        run.add(e.Searched(checkpoint=name, residuals="d", candidates=candidates, duplicates={}, left_out=[], notes=[]))
        for candidate, value in values.items():
            metrics = {metric: value, "test_" + metric: value + 0.5}
            run.add(
                e.Evaluated(
                    checkpoint=name,
                    candidate=candidate,
                    metrics=metrics,
                    seconds=0.1,
                    recipe={"method": candidate.partition("-")[0], "window": k - 1, "parameters": {}},
                )
            )
        chosen = min(values, key=values.__getitem__)
        run.add(
            e.Chosen(
                checkpoint=name,
                candidate=chosen,
                method=chosen.partition("-")[0],
                inputs=inputs,
                weights=weights[f"rna-{k - 1}-1e-08"],
                metrics={"original": {metric: original}, "chosen": {metric: values[chosen]}},
                better_than_original=True,
                significant=True,
                reason="so it is",
                diagnostics={"condition": 10.0 ** (step % 5), "norm1": 1.4, "norm2": 0.8},
                tested_on=metric,
            )
        )
        run.publish(step)
        (paths.models / name).touch()
        kept.append(name)
        if values[chosen] < best:
            best, best_name = values[chosen], name
            run.add(e.BestMoved(checkpoint=name, output=name, value=best))
        while len(kept) > keep:
            gone = next(each for each in kept if each != best_name)
            kept.remove(gone)
            (paths.models / gone).unlink()
            run.add(e.Pruned(checkpoint=gone, output=gone))
    return run


def _paths(folder: Path) -> RunPaths:
    return RunPaths(run=folder, output=folder)


def _evaluated(paths: RunPaths, *values: dict[str, float]) -> Run:
    """A run with these values of its candidates at each checkpoint."""
    run = Run(run=str(paths.run))
    for step, each in enumerate(values, 1):
        run.checkpoint(step, dict(each))
    return run


def test_the_answer_of_a_real_run_comes_first_and_its_lines_load_the_best(tmp_path: Path) -> None:
    """Values and verdict are those of the journal; the lines give the tensors of the file, here the original's, which won."""
    run = tmp_path / "run"
    train(run, count=6)
    state = process(run, run, [Here(EVALUATOR, tmp_path)])
    paths = _paths(run)
    content = page(state, paths)
    shown = _Page(content)
    found = standing(state, paths.there)
    assert found is not None
    assert found.model is not None
    assert found.original is not None
    assert (found.gain or 0.0) < 0.0
    decimals = places([found.model.value, found.original.value])
    ours, theirs = number(found.model.value, decimals), number(found.original.value, decimals)
    lead = f"It does not help so far: the best original, loss {theirs}, is better than the best model, {ours}."
    assert shown.text.index(lead) < shown.text.index("To load the best original") < shown.text.index("Metrics")
    cards = shown.text[: shown.text.index("To load")]
    assert f"best model that is there loss {ours} {found.model.output}" in cards
    assert f"best original loss {theirs} {found.original.checkpoint}" in cards
    lines = html.unescape(re.findall(r"<pre><code>(.*?)</code></pre>", content, re.DOTALL)[0])
    assert lines.splitlines() == registry.loading("torch zip", str(run / found.original.checkpoint), "model")
    for path in (run / found.original.checkpoint, paths.models / found.model.output):
        model = Network()
        exec("\n".join(registry.loading("torch zip", str(path), "model")), {"model": model})
        saved = torch.load(path, weights_only=True)["model"]
        assert all(torch.equal(tensor, saved[key]) for key, tensor in model.state_dict().items())
    for output in state.outputs:
        assert f"rna/{output}" in shown.text
        assert f"{output}.json" in shown.text
    chosen = [each.chosen for each in state.checkpoints.values() if each.chosen]
    assert f"{chosen[-1].weights[-1]:+.4g} \N{MULTIPLICATION SIGN} {chosen[-1].inputs[-1]}" in shown.text
    assert all(sentence in shown.text for sentence in findings(compare(state, there=paths.there)))
    assert page(state, paths) == content


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("form", ["safetensors", "dcp"])
def test_the_lines_of_other_formats_load_a_model(tmp_path: Path, form: str) -> None:
    """They run as they stand, and give the tensors that were saved."""
    saved, model = Network(), Network()
    path = str(tmp_path / "it's" / "model")
    Path(path).parent.mkdir()
    if form == "safetensors":
        save_model(saved, path)
        source = ""
    else:
        dcp.save({"state": {"model": saved.state_dict()}}, checkpoint_id=path)
        source = "state.model"
    exec("\n".join(registry.loading(form, path, source)), {"model": model})
    assert all(torch.equal(tensor, saved.state_dict()[key]) for key, tensor in model.state_dict().items())


def test_the_lines_name_the_class_that_a_folder_tells(tmp_path: Path) -> None:
    """transformers, diffusers, PEFT, Accelerate, DeepSpeed and Lightning get their own; a name that is no name is not code."""

    def lines(**files: dict[str, Any]) -> str:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        for name, content in files.items():
            (folder / f"{name}.json").write_text(json.dumps(content))
        return "\n".join(registry.loading("folder of safetensors", str(folder), ""))

    assert "from transformers import BertModel\n" in lines(config={"architectures": ["BertModel"]})
    assert "AutoModel.from_pretrained" in lines(config={"architectures": ["os; evil()"]})
    assert "from diffusers import UNet2DModel\n" in lines(config={"_class_name": "UNet2DModel"})
    assert "base: 'gpt2'" not in lines(config={"architectures": []})
    assert "# the model that was trained from: 'gpt2'" in lines(adapter_config={"base_model_name_or_path": "gpt2"})
    assert "load_checkpoint_in_model(model, " in lines()
    assert "zero/model.safetensors" in registry.loading("deepspeed", "/zero", "")[-1]
    assert "YourModule.load_from_checkpoint('/a.ckpt')" in registry.loading("torch zip", "/a.ckpt", "state_dict")[0]
    several = registry.loading("torch zip", "/a.pt", "G,D")
    assert several[-2:] == [f"models[{key!r}].load_state_dict(saved[{key!r}])" for key in "GD"]
    assert registry.loading("another", "/a.pt", "") == ["# as you load the run's own checkpoints:", "path = '/a.pt'"]


def test_a_long_run_makes_a_small_page_in_little_time(tmp_path: Path) -> None:
    """500 checkpoints, windows of 20 and all models kept: under 2 MB, well formed, and nothing is loaded from elsewhere."""
    paths = _paths(tmp_path / "run")
    state = synthetic(paths, 500, window=20, keep=500).state
    began = time.process_time()
    content = page(state, paths)
    assert time.process_time() - began < LIMIT_S
    assert len(content.encode()) < MOST_BYTES
    shown = _Page(content)
    assert shown.classes("chart", "wide") == shown.classes("chart", "narrow") == 2
    assert shown.classes("heat", "wide") == 2
    assert shown.classes("chart", "any") == 3
    assert "All 500 checkpoints" in shown.text
    assert "older models" in shown.text
    assert not re.search(r"https?:|//[a-z]|url\(|@import", content)
    assert not {name for name, _ in shown.elements} & {"script", "link", "img", "iframe", "object"}
    assert not {key for _, attributes in shown.elements for key in attributes} & {"src", "href", "style"}


def test_curves_marks_and_numbers_are_those_of_the_comparison(tmp_path: Path) -> None:
    """Each kind has its curve, what is kept is marked, the best has a line, and the tables hold the same numbers."""
    paths = _paths(tmp_path / "run")
    state = synthetic(paths, 12).state
    shown = _Page(page(state, paths))
    for kind in ("original", "average", "rna", "layered"):
        assert shown.classes("line", kind) >= 3  # wide, narrow, and in the legend
    comparison = compare(state, there=paths.there)
    decimals = decimals_of([row.value(key) for row in comparison.rows for key in (*comparison.kinds, "chosen")])
    for row in comparison.rows:
        for key in (*comparison.kinds, "chosen"):
            value = row.value(key)
            assert value is None or number(value, decimals) in shown.text
    picture = re.findall(r'<svg class="chart wide".*?</svg>', page(state, paths), re.DOTALL)[0]
    assert picture.count('class="saved"') == len(state.outputs) == 5
    assert picture.count('class="taken"') == 12 - 2 - 5
    assert picture.count('class="best-line"') == 1


def test_the_first_sentence_says_whether_the_gain_is_beyond_noise(tmp_path: Path) -> None:
    """As the choice found at one checkpoint; between two it says what is known, and what would tell."""
    paths = _paths(tmp_path / "run")
    run = synthetic(paths, 12)
    told = _Page(page(run.state, paths)).text
    assert re.search(r"It helps: error 7\.0\d+ instead of 8\.\d+, a gain of \+14\.2%, beyond noise\.", told)
    assert "Over the original of its own checkpoint" not in told
    run.admit(13).add(e.Evaluated(checkpoint=NAME.format(13), candidate="last", metrics={"error": 7.5}, seconds=0.1))
    told = _Page(page(run.state, paths)).text
    assert re.search(
        r"A better model is there: error 7\.0\d+ instead of 7\.5\d+, a gain of \+6\.2%, not compared with noise\.", told
    )
    assert (
        "Over the original of its own checkpoint, epoch_012.pt, the best model's gain is beyond noise; between" in told
    )


def test_whatever_names_and_metrics_hold_is_text(tmp_path: Path) -> None:
    """Markup, quotes, and characters that turn or hide text do nothing in a page."""
    evil = '"><script>alert(1)</script>\u202e&amp;\x1b[2J'
    paths = _paths(tmp_path / "a<b onload='x'>")
    run = Run(metric=evil, mode="min", run=str(paths.run), evaluator=evil)
    name = f"<img src=x onerror=alert(2)>{evil}.pt"
    for step in range(1, 5):
        run.admit(step, name=f"{step}{name}")
        for candidate, value in (("last", 3.0 / step), (evil, 2.0 / step)):
            run.add(e.Evaluated(checkpoint=f"{step}{name}", candidate=candidate, metrics={evil: value}, seconds=0.1))
    run.choose(4, original=0.75, average=0.5, rna=0.6, weights=[0.5, 0.5], name=f"4{name}", candidate=evil)
    run.publish(4, name=f"4{name}")
    content = page(run.state, paths)
    shown = _Page(content)
    assert not {name for name, _ in shown.elements} & {"script", "img", "b onload"}
    assert not [key for _, attributes in shown.elements for key in attributes if key.startswith("on")]
    assert "alert(1)" in shown.text
    assert "<img src=x onerror=alert(2)>" in shown.text
    assert not {"\u202e", "\x1b"} & set(content)


def test_a_branch_of_training_is_never_called_rna(tmp_path: Path) -> None:
    """A cooldown has a curve of its own that is named training, its sentence, and no weights."""
    paths = _paths(tmp_path / "run")
    run = synthetic(paths, 6)
    name = NAME.format(6)
    run.add(
        e.Evaluated(
            checkpoint=name,
            candidate="anneal-last-60",
            metrics={"error": 1.5},
            seconds=0.1,
            recipe={"method": "anneal", "parameters": {}},
            training={"start": [0.25, 0.75], "steps": 60, "seconds": 3.0, "batches": 60},
        )
    )
    run.add(
        e.Chosen(
            checkpoint=name,
            candidate="anneal-last-60",
            method="anneal",
            inputs=[NAME.format(5), name],
            weights=[],
            metrics={"original": {"error": 20.0}, "chosen": {"error": 1.5}},
            better_than_original=True,
            significant=None,
            reason="a short cooldown",
        )
    )
    run.publish(6)
    run.add(e.BestMoved(checkpoint=name, output=name, value=1.5))
    shown = _Page(page(run.state, paths))
    assert "The best model is trained, by a short cooldown: neither RNA nor an average." in shown.text
    assert "anneal (training)" in shown.text
    began = f"+0.25 \N{MULTIPLICATION SIGN} {NAME.format(5)}, +0.75 \N{MULTIPLICATION SIGN} {name}"
    assert f"60 steps of training, no combination; it began at {began}" in shown.text
    assert "Cooled down now, this run would be worth error 1.500 instead of" in shown.text
    assert "A grey column was trained, and is no combination." in shown.text
    assert "not compared with noise" in shown.text
    assert "give --minimum-gain" in shown.text


def test_an_original_that_nothing_beats_is_the_answer(tmp_path: Path) -> None:
    """The page says that it does not help, and loads the original."""
    paths = _paths(tmp_path / "run")
    run = _evaluated(paths, {"last": 3.0}, {"last": 1.0, "average-2": 2.0})
    run.choose(2, original=1.0, average=2.0, rna=None, weights=[0.5, 0.5])
    run.publish(2)
    paths.models.mkdir(parents=True)
    (paths.models / NAME.format(2)).touch()
    shown = _Page(page(run.state, paths))
    assert (
        "It does not help so far: the best original, error 1.0000, is better than the best model, 2.0000." in shown.text
    )
    assert (
        f"To load the best original # as you load the run's own checkpoints: path = {str(paths.run / NAME.format(2))!r}"
        in (shown.text)
    )


def test_a_run_that_nothing_judged_says_so_and_how_to_have_it_judged(tmp_path: Path) -> None:
    """Weights and models are there all the same; a journal without a checkpoint makes no page."""
    paths = _paths(tmp_path / "run")
    run = Run(metric=None, evaluator=None, run=str(paths.run))
    for step in (1, 2, 3):
        run.admit(step)
    run.choose(3, original=None, average=None, rna=None, weights=[0.2, 0.3, 0.5])
    run.publish(3)
    shown = _Page(page(run.state, paths))
    assert "Not known: 1 model was written, and nothing was evaluated" in shown.text
    assert "--evaluator FILE.py:function" in shown.text
    assert shown.classes("heat", "wide") == 1
    assert "+0.5 \N{MULTIPLICATION SIGN} epoch_003.pt" in shown.text
    with pytest.raises(NothingToDo, match="nothing is known of this run"):
        page(Run().state, paths)


def test_rows_of_weights_of_the_best_model_are_shown_from_its_manifest(tmp_path: Path) -> None:
    """Tensor by tensor; a manifest that is damaged, or lies elsewhere, costs that picture alone."""
    paths = _paths(tmp_path / "run")
    state = synthetic(paths, 6).state
    best = state.best
    assert best is not None
    manifest = paths.models / f"{best.output}.json"
    rows = {"layer<1>": [0.25, 0.75], "bias": [-0.5, 1.5]}
    manifest.write_text(json.dumps({"inputs": [{"step": 5}, {"step": 6}], "layer_weights": rows}))
    shown = _Page(page(state, paths))
    assert "tensor by tensor" in shown.text
    assert "Rows: 1 layer<1>, 2 bias." in shown.text
    for damaged in ("{", "[]", '{"layer_weights": {"a": [1, "x"]}, "inputs": 3}'):
        manifest.write_text(damaged)
        assert "tensor by tensor" not in _Page(page(state, paths)).text
    outside = tmp_path / "outside.json"
    outside.write_text(json.dumps({"inputs": [{"step": 5}], "layer_weights": {"a": [1.0]}}))
    manifest.unlink()
    manifest.symlink_to(outside)
    assert "tensor by tensor" not in _Page(page(state, paths)).text


def test_first_points_do_not_flatten_the_rest() -> None:
    """The worse end of a scale is moved in, the better end holds everything; equal values and single ones have a scale too."""
    falling = [4.0 + 80.0 * math.exp(-step / 4.0) for step in range(100)]
    scale = robust(falling, "min")
    assert not scale.log
    assert scale.high < 10.0
    assert scale.holds(min(falling))
    assert not scale.holds(falling[0])
    rising = robust([-value for value in falling], "max", [5.0])
    assert rising.low > -10.0
    assert rising.holds(5.0)
    late = [8.0] * 90 + [5.0] * 10
    assert all(map(robust(late, "min").holds, late))
    spread = robust([10.0**-k for k in range(6)], "min")
    assert spread.log
    assert [spread.at(spread.low), spread.at(spread.high)] == [0.0, 1.0]
    for values in ([], [2.0], [0.0] * 9, [1e308, -1e308], [math.nan, 1.0]):
        found = robust(values, "min")
        assert found.low < found.high
        assert all(map(found.holds, found.ticks(5)))


def test_what_is_out_of_range_is_marked_and_counted(tmp_path: Path) -> None:
    """At the edge, with the farthest in words; what is no number is counted."""
    paths = _paths(tmp_path / "run")
    values: list[dict[str, float]] = [{"last": 5.0 - 0.01 * step, "average-2": 4.0} for step in range(20)]
    values[0]["last"], values[1]["average-2"], values[2]["last"] = 90.0, 70.0, math.nan
    content = page(_evaluated(paths, *values).state, paths)
    shown = _Page(content)
    assert shown.classes("beyond", "original") == shown.classes("beyond", "average") == 2  # wide and narrow
    assert "2 values are out of range and marked at the edge; the farthest is 90.000 (original, epoch 1)." in shown.text
    assert "1 value is no finite number and not drawn." in shown.text


def test_the_command_writes_one_file_and_replaces_none(tmp_path: Path) -> None:
    """The default lies in the current folder; a page in the run's own folders is refused, a name that is taken too."""
    run = tmp_path / "run"
    train(run, count=4)
    assert rna_watch("report", run, cwd=tmp_path).returncode == 3
    process(run, run, [Here(EVALUATOR, tmp_path)])
    before = sorted(run.rglob("*"))
    done = rna_watch("report", run, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("run-report.html (")
    content = (tmp_path / "run-report.html").read_text()
    again = rna_watch("report", run, cwd=tmp_path)
    assert again.returncode == 2
    assert "--force" in again.stderr
    assert rna_watch("report", run, "--force", "-o", tmp_path / "run-report.html").returncode == 0
    assert (tmp_path / "run-report.html").read_text() == content
    for inside in (["-o", run / "page.html"], ["-o", run / "rna" / "page.html"]):
        refused = rna_watch("report", run, *inside)
        assert refused.returncode == 2
        assert "name a file elsewhere" in refused.stderr
    assert rna_watch("report", ".", cwd=run).returncode == 2
    assert sorted(run.rglob("*")) == before


_PROBE = """<!doctype html><body style="margin:0"><iframe style="border:0;width:{width}px;height:3000px" srcdoc="{page}"></iframe>
<p id="said"></p><script>
onload = () => {{
  const page = frames[0].document, root = page.documentElement;
  const seen = [...page.querySelectorAll("figure svg")].filter(each => each.getBoundingClientRect().width > 200);
  const drawn = seen.filter(each => [...each.querySelectorAll("path")].some(path => path.getBBox().width > 20));
  document.getElementById("said").textContent = JSON.stringify({{
    figures: page.querySelectorAll("figure").length, seen: seen.length, drawn: drawn.length,
    wide: root.scrollWidth, back: frames[0].getComputedStyle(page.body).backgroundColor
  }});
}};
</script>"""


@pytest.mark.parametrize(("width", "dark"), [(1000, False), (390, True)])
def test_a_browser_draws_it(tmp_path: Path, width: int, dark: bool) -> None:
    """In headless Chromium: every picture is there once, nothing is wider than the screen, no error, light and dark."""
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip(
            "there is no chromium on this machine (Debian: apt-get install chromium), so that no browser draws the page"
        )
    paths = _paths(tmp_path / "run")
    content = page(synthetic(paths, 40).state, paths)
    probe = tmp_path / "probe.html"
    probe.write_text(_PROBE.format(width=width, page=html.escape(content)))
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr"]
    options += [f"--user-data-dir={tmp_path / 'profile'}", f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    done = subprocess.run(
        [browser, *options, "--dump-dom", probe.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    assert "CONSOLE" not in done.stderr
    found = json.loads(html.unescape(re.findall(r'<p id="said">(.*?)</p>', done.stdout)[0]))
    assert found["figures"] == found["seen"] == found["drawn"] == 7
    assert found["wide"] <= width
    assert (found["back"] == "rgb(255, 255, 255)") is not dark
