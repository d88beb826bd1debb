"""Commands that need no torch and no Ray work where neither can be imported, in the processes that they start too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.daemon.runs import train

ROOT = Path(__file__).parents[2]
BLOCKED = ("torch", "ray", "matplotlib", "sklearn", "scipy", "safetensors")
# the command lines, and what each must end with
LINES = {
    "--help": 0,
    "man": 0,
    "completion bash": 0,
    "inspect RUN/step_1.pt": 0,
    "extrapolate RUN/step_1.pt RUN/step_2.pt RUN/step_3.pt -o model.pt": 0,
    "once RUN --engine local": 0,
    "status RUN": 0,
    "status RUN --json": 0,
    "dashboard RUN --once": 0,
    "logs RUN": 0,
    "compare RUN": 3,  # nothing was evaluated
    "report RUN -o report.html": 0,
    "verify RUN": 0,
    "start RUN --engine local": 0,
    "stop RUN": 0,
}
ALL = """
import sys
from rna_watch.cli import main
for line in sys.argv[1:]:
    sys.argv = ["rna-watch", *line.split()]
    code = 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code or 0
    print(f"ended {code}: {line}", file=sys.stderr)
"""


def test_every_light_command_works_without_torch_and_ray(tmp_path: Path) -> None:
    """Modules that raise stand in their place; nobody imports them, and every command ends as it should."""
    train(tmp_path / "RUN", count=4)
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    for name in BLOCKED:
        (blocked / f"{name}.py").write_text(f"raise ImportError('{name} is blocked')\n")
    environment = {**os.environ, "PYTHONPATH": f"{blocked}:{ROOT}"}
    given = [sys.executable, "-P", "-c", ALL, *LINES]
    done = subprocess.run(given, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    ended = [line for line in done.stderr.splitlines() if line.startswith("ended ")]
    assert ended == [f"ended {code}: {line}" for line, code in LINES.items()], done.stderr
    assert "blocked" not in done.stdout + done.stderr
    assert (tmp_path / "report.html").exists()
    assert (tmp_path / "RUN/rna/latest").exists()
