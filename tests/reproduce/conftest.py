"""What these tests share: real Madelon where it is, and a small file of its format."""

import os
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def data():
    """The folder of data in standard formats: $RNA_WATCH_DATA, else ../shared/data beside the checkout."""
    folder = Path(os.environ.get("RNA_WATCH_DATA", Path(__file__).parents[3] / "shared" / "data"))
    if not (folder / "madelon").is_dir():
        pytest.skip(f"no Madelon at {folder / 'madelon'}: set RNA_WATCH_DATA to the data folder")
    return folder


@pytest.fixture(scope="session")
def small_madelon(tmp_path_factory):
    """Files of Madelon's format and kind: 400 examples; 5 informative features, 15 mixtures of them, 40 of noise."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    told_nd, noise_nd = rng.standard_normal((400, 5)), rng.standard_normal((400, 40))
    features_nd = np.hstack([told_nd, told_nd @ rng.standard_normal((5, 15)) / np.sqrt(5), noise_nd])
    labels_n = np.where(told_nd.sum(axis=1) + 3.0 * rng.standard_normal(400) > 0, 1, -1)
    write_madelon(folder, np.round(488 + 32 * features_nd).astype(int), labels_n)
    return folder


def write_madelon(folder, features_nd, labels_n, part="train"):
    """Write the two files as UCI does: a space after every number of a row."""
    rows = ["".join(f"{value} " for value in row) for row in features_nd]
    (folder / f"madelon_{part}.data").write_text("\n".join(rows) + "\n")
    (folder / f"madelon_{part}.labels").write_text("".join(f"{label}\n" for label in labels_n))
