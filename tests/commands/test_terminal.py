"""Nothing that a terminal obeys goes out, whatever names, tensors, metrics and errors hold; JSON stays JSON."""

import json

import pytest
import torch

from rna_watch import cli
from rna_watch.journal.echo import shown

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e"


def run(monkeypatch, capsys, *arguments):
    """Exit code and all output of a command, in this process."""
    monkeypatch.setattr("sys.argv", ["rna-watch", *map(str, arguments)])
    code = 0
    try:
        cli.main()
    except SystemExit as error:
        code = error.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def obeyed(text):
    """The characters that a terminal would obey."""
    return {char for char in text if char != "\n" and not char.isprintable()}


@pytest.fixture
def folder(tmp_path):
    """Checkpoints with such names, tensors of such names, in a folder of such a name."""
    folder = tmp_path / f"run{EVIL}"
    folder.mkdir()
    for step in range(1, 5):
        torch.manual_seed(step)
        torch.save({f"w{EVIL}": torch.randn(4), f"n{EVIL}": torch.tensor([step])}, folder / f"a{EVIL}_step_{step}.pt")
    return folder


def test_every_command_is_plain(folder, monkeypatch, capsys):
    """`inspect`, `extrapolate`, `once`, `status`, `verify`, `logs`, `compare`, `stop`, and their errors."""
    first = folder / f"a{EVIL}_step_1.pt"
    evaluator = folder.parent / "judge.py"
    evaluator.write_text(
        f"def evaluate(state_dict, device):\n    return {{{f'loss{EVIL}'!r}: float(sum(t.sum() for t in state_dict.values()))}}\n"
    )
    failing = folder.parent / "failing.py"
    failing.write_text(f"def evaluate(state_dict, device):\n    raise ValueError({EVIL!r})\n")
    code = {}
    for arguments in (
        ("inspect", first),
        ("inspect", folder / "nothing"),
        ("inspect", first, "--source", EVIL),
        ("extrapolate", *sorted(folder.glob("*.pt")), "-o", folder.parent / f"out{EVIL}.pt"),
        ("extrapolate", first, "-o", first),
        ("once", folder, "--engine", "local", "--evaluator", f"{evaluator}:evaluate", "--mode", "min"),
        ("once", folder, "--again", "--engine", "local", "--evaluator", f"{failing}:evaluate"),
        ("status", folder),
        ("verify", folder),
        ("logs", folder),
        ("compare", folder),
        ("compare", folder, "--levels", EVIL),
        ("stop", folder),
        ("start", folder.parent / EVIL),
        (EVIL,),
        ("status", f"--{EVIL}"),
    ):
        code[arguments[0]], out, err = run(monkeypatch, capsys, *arguments)
        assert obeyed(out + err) == set(), (arguments, out, err)
        assert out or err, arguments
    assert code["verify"] == code["logs"] == 0
    for arguments in (("inspect", first, "--json"), ("status", folder, "--json"), ("verify", folder, "--json")):
        _, out, _ = run(monkeypatch, capsys, *arguments)
        assert "\\u001b" in json.dumps(json.loads(out))


def test_lines_are_kept_and_nothing_else():
    """Of what is no text, line ends alone are left."""
    assert shown("a\nb\tc\x1b[2J\r\n") == "a\nb\ufffdc\ufffd[2J\ufffd\n"
