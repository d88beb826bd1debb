"""What all tests share: seeded property tests, the folder of real runs, and small data of Madelon's format."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

from tests.reproduce import madelon_files

# contracts are modules that several test modules run
pytest.register_assert_rewrite("tests.engine.contract", "tests.evaluation.contract")

# derandomized: the same examples on every machine; no deadline: the cores are shared with other work
settings.register_profile("seeded", derandomize=True, deadline=None, database=None)
settings.load_profile("seeded")


def pytest_collection_modifyitems(items):
    """Tests of a file share its fixtures: one worker runs them (`--dist loadgroup`), unless they name another group."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.location[0]))


@pytest.fixture(scope="session")
def real_runs():
    """The folder of checkpoints that nobody here wrote: below $RNA_WATCH_DATA, else ../shared/data next to the checkout."""
    data = Path(os.environ.get("RNA_WATCH_DATA", Path(__file__).parents[2] / "shared" / "data"))
    folder = data / "real_runs"
    if not folder.is_dir():
        pytest.skip(f"no real runs at {folder}: set RNA_WATCH_DATA to the data folder")
    return folder


@pytest.fixture(scope="session")
def small_madelon(tmp_path_factory):
    """A folder with small data of Madelon's format and kind."""
    return madelon_files.write_small(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True, scope="session")
def registry_of_its_own(tmp_path_factory):
    """What `status` lists of this user's runs lies in a folder of the tests."""
    before = os.environ.get("XDG_STATE_HOME")
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))
    yield
    if before is None:
        del os.environ["XDG_STATE_HOME"]
    else:
        os.environ["XDG_STATE_HOME"] = before
