"""Small files of Madelon's format."""

import numpy as np


def write_small(folder):
    """400 examples of Madelon's kind: 5 informative features, 15 mixtures of them, 40 of noise."""
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
