"""The fuzzer in short: every reader, a fixed seed, a few seconds."""

import subprocess
import sys
from pathlib import Path


def test_damaged_inputs_are_refused_in_words_soon_and_in_little_memory():
    """No uncaught error, nothing over two seconds, no 256 MB: of every format, and of our own state."""
    command = [sys.executable, "-m", "tests.fuzz", "--count", "3000", "--seed", "1"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3,000 inputs of seed 1" in done.stdout
