import resource
import subprocess
import sys

import torch
from safetensors.torch import save_file

CODE = """
import resource, sys
from rna_watch.formats.probe import probe
from rna_watch.window.reader import WindowReader
resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
layout = probe(sys.argv[1])
with WindowReader([layout.files] * 100):
    print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


def test_windows_of_many_files_raise_the_limit_of_open_files(tmp_path):
    """A hundred open files where the soft limit is 64: the limit is raised, as far as the system allows."""
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= 700
    save_file({"weight": torch.ones(3)}, tmp_path / "model.safetensors")
    command = [sys.executable, "-c", CODE, str(tmp_path / "model.safetensors")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) >= 612
