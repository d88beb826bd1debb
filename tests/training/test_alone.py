"""The package in a training environment: torch and numpy are all it needs; and the example runs as printed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import rna_watch.training

LISTING = Path(__file__).with_name("listing2.py")

ALONE = """
import sys
# what torch itself requires, and its parts
TORCH = {"torch", "numpy", "functorch", "torchgen", "typing_extensions", "filelock", "sympy", "mpmath", "networkx", "jinja2",
         "markupsafe", "fsspec", "setuptools", "pkg_resources", "_distutils_hack"}

class Only:  # finds what the others find, of these libraries
    def __init__(self, finders):
        self.finders = finders

    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in TORCH | {"rna_watch"} | sys.stdlib_module_names and not top.startswith("_sysconfigdata"):
            return None
        found = (finder.find_spec(name, path, target) for finder in self.finders)
        return next((spec for spec in found if spec), None)

sys.meta_path[:] = [Only([finder for finder in sys.meta_path if hasattr(finder, "find_spec")])]
try:
    import pydantic
except ModuleNotFoundError:
    pass
else:
    raise AssertionError("other libraries must not be found here")
import copy, tempfile, itertools, torch
from rna_watch.training import GradientRecorder, OnlineRna, Rna, online_rna
network = torch.nn.Linear(3, 2)
rna = Rna(network, torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9), reset_after=0)
recorder = GradientRecorder(network, rna)
with tempfile.TemporaryDirectory() as folder:
    for _ in range(3):
        rna.zero_grad()
        network(torch.ones(4, 3)).square().mean().backward()
        rna.step()
        rna.store()
        recorder.save(folder + "/a.pt")
rna.accelerate(copy.deepcopy(network))
rna.load_state_dict(rna.state_dict())
next(itertools.islice(online_rna(lambda y: y / 2, torch.ones(3)), 3, None))
online = OnlineRna(network, torch.optim.Adam(network.parameters()))
network(torch.ones(4, 3)).square().mean().backward()
online.step()
print(*sorted(name for name in sys.modules if name.startswith("rna_watch.") and name.count(".") == 1))
"""


def test_torch_and_numpy_are_enough():
    """Each part of the package works on the mathematics alone, with every other library's import blocked."""
    result = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["rna_watch.acceleration", "rna_watch.training"]


def test_listing_2_runs_as_printed():
    """It prints both errors after every epoch; at the end the extrapolated network is no worse, and far from chance."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, LISTING], capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == [f"epoch {epoch:2}" for epoch in range(1, len(lines) + 1)]
    plain, extrapolated = zip(*(map(float, re.findall(r"([\d.]+)%", line)) for line in lines), strict=True)
    assert plain[0] == extrapolated[0]
    assert sum(extrapolated[3:]) < sum(plain[3:])
    assert extrapolated[-1] < 15.0


def test_the_docstring_shows_the_listing_s_loop():
    """What the package's docstring prints is in the program that runs, line by line."""
    shown = [line[4:] for line in rna_watch.training.__doc__.splitlines() if line.startswith("    ")]
    assert len(shown) > 8
    assert "\n".join(shown) in LISTING.read_text()
