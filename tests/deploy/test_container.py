import json
import signal

import pytest

from .conftest import DEPLOY, models, wait_for

ROOT = DEPLOY.parent


@pytest.fixture(scope="module")
def image():
    """The instructions of the Containerfile as (name, rest), continued lines joined."""
    text = (DEPLOY / "Containerfile").read_text().replace("\\\n", "")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(maxsplit=1)) for line in lines]


def last(image, name):
    """The last instruction of a name."""
    return [rest for each, rest in image if each == name][-1]


def watching(command, run):
    """A command of the image, with the run directory instead of its mount."""
    return [part.replace("/watched", str(run)) for part in command]


def test_it_starts_from_a_slim_python_and_ends_as_an_ordinary_user(image):
    """The base is public, torch is a CPU build of the version that is tested, and the last user is not root."""
    arguments = dict(rest.split("=", 1) for name, rest in image if name == "ARG")
    assert arguments["BASE"] == "docker.io/library/python:3.11-slim"
    version = arguments["TORCH"].removesuffix("+cpu")
    assert arguments["TORCH"].endswith("+cpu")
    assert version in (ROOT / "constraints.txt").read_text().splitlines()
    assert last(image, "USER") == "1000"


def test_what_it_copies_is_there(image):
    """Every source of a COPY is in the repository or comes from the image that builds, and what that reads is among them."""
    copies = [rest.split()[:-1] for name, rest in image if name == "COPY"]
    sources = [source for rest in copies if not rest[0].startswith("--from=") for source in rest]
    assert {"pyproject.toml", "setup.py", "LICENSE", "README.md", "rna_watch"} <= set(sources)
    assert [rest for rest in copies if rest[0].startswith("--from=")] == [["--from=built", "/wheels"]]
    missing = [source for source in sources if not (ROOT / source).exists()]
    assert not missing


def test_its_command_watches_and_its_health_check_tells(image, run, begin, finish):
    """Entry point and command write models; the health check fails before and passes while it lives; SIGTERM ends it."""
    health = watching(json.loads(last(image, "HEALTHCHECK").partition("CMD ")[2]), run)
    assert finish(health)[0] != 0
    command = watching([*json.loads(last(image, "ENTRYPOINT")), *json.loads(last(image, "CMD"))], run)
    watcher = begin([*command, "--engine", "local"])
    wait_for(lambda: len(models(run)) == 2, "models", watcher)
    assert finish(health)[0] == 0
    watcher.send_signal(signal.SIGTERM)
    assert watcher.wait(timeout=120) == 0
