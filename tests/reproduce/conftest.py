"""What these tests share: real Madelon where it is."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data():
    """The folder of data in standard formats: $RNA_WATCH_DATA, else ../shared/data next to the checkout."""
    folder = Path(os.environ.get("RNA_WATCH_DATA", Path(__file__).parents[3] / "shared" / "data"))
    if not (folder / "madelon").is_dir():
        pytest.skip(f"no Madelon at {folder / 'madelon'}: set RNA_WATCH_DATA to the data folder")
    return folder
