"""Benchmarks run: each small, through the code that its full size goes through, by the commands that the manual names."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.benchmarks import beside, whole
from tests.benchmarks.__main__ import BENCHMARKS, main, parsed
from tests.manual import measured

ROOT = Path(__file__).parents[2]
# each may run beside the others, but for two clusters of Ray
LONG = (
    "digits",
    "levers-images",
    "window",
    "growth",
    "sweep",
    "levers-text",
)  # in `make test-all`; others take the same way in less time
SEPARATE = [
    pytest.param(
        name,
        marks=[
            pytest.mark.xdist_group("ray" if name == "window" else f"benchmark {name}"),
            *([pytest.mark.slow] if name in LONG else []),
        ],
    )
    for name in BENCHMARKS
]
# its own training is run with the others
OTHER_TRAINERS = [name for name in beside.TRAINERS if name != parsed([])[1].trainer]


def _small(folder: Path, *arguments: str) -> None:
    main([*arguments, "--small", "--dir", str(folder), "--record", str(folder)])


@pytest.mark.parametrize("name", SEPARATE)
def test_every_benchmark_runs_small(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It ends without an error, after a heading and at least one line of figures."""
    _small(tmp_path, name)
    _, _, heading, *lines = (line for line in capsys.readouterr().out.splitlines() if line)
    assert re.search(r"[a-z]{3}", heading)
    assert any(len(re.findall(r"\d+\.\d", line)) >= 3 for line in lines)


def test_what_a_benchmark_records_is_what_the_manual_s_table_is_made_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs of whole processes, with the machine, give a row of numbers for each contender."""
    run = {"seconds": 2.0, "cpu_s": 1.23123, "private_mb": 3.0, "largest_mb": 3.0, "disk_gb": 0.0}
    runs = {name: [run, run] for name in ("rna, 2 workers", "average loop", "mmap average", "floor")}
    record = {"machine": whole.machine(), "parameters": 5, "rounds": 2, "results": {"N = 3, warm": runs}}
    whole.keep(parsed(["--record", str(tmp_path)])[1], "whole", record)
    monkeypatch.setattr(measured, "RESULTS", tmp_path)
    heading, *rows = measured.processes()
    assert heading[0] == "**N = 3, warm**"
    assert rows[0] == ("rna, 2 workers", "2.00", "-", "1.23", "3.00", "1.00", "1.00", "1.00")
    assert [row[0] for row in rows] == list(runs)
    assert measured.machine("whole").startswith("Medians of 2 rounds")


@pytest.mark.slow
@pytest.mark.parametrize("trainer", OTHER_TRAINERS)
def test_the_training_beside_us_may_be_any_of_the_trainers(
    trainer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each of `--trainer` runs small, alone and watched."""
    _small(tmp_path, "beside", "--trainer", trainer)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    models = {words[0]: int(words[-1]) for words in lines if words and words[0] in beside.CASES}
    assert models.keys() == {"alone", "inline"}
    assert models["alone"] == 0
    assert models["inline"] > 0


def test_every_benchmark_command_of_the_manual_is_one() -> None:
    """Its commands name benchmarks and options that exist, and each benchmark stands in one of them."""
    text = "\n".join(page.read_text() for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")))
    commands = re.findall(r"python -m tests\.benchmarks ([^`]+)`", text)
    assert commands
    named = {name for command in commands for name in parsed(command.split())[0]}
    assert named == set(BENCHMARKS)


@pytest.mark.parametrize(("setting", "small"), [([], False), (["SMALL=1"], True)])
def test_make_bench_runs_all_benchmarks(setting: list[str], small: bool) -> None:
    """`make bench` runs all in full, and with SMALL=1 all small."""
    shown = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "bench", *setting],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    names, options = parsed(shown.stdout.splitlines()[-1].partition("tests.benchmarks")[2].split())
    assert names == list(BENCHMARKS)
    assert options.small is small


def test_an_unknown_benchmark_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong name ends with those that exist."""
    with pytest.raises(SystemExit):
        parsed(["windows"])
    assert "no benchmark is named windows; there are whole, window, latency" in capsys.readouterr().err
