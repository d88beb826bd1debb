import numpy as np
import pytest

from rna_watch.errors import UsageError
from rna_watch.reproduce.madelon import load, standardized

from .madelon_files import write_madelon


def test_the_files_of_the_format_are_read(tmp_path):
    """Integers with a space after each, labels -1 and 1: read as they stand, from the folder or from the one above."""
    folder = tmp_path / "madelon"
    folder.mkdir()
    write_madelon(folder, [[485, 477, 3], [1, 2, 4]], [-1, 1])
    for place in (folder, tmp_path):
        found = load(place)
        np.testing.assert_array_equal(found.features_nd, [[485, 477, 3], [1, 2, 4]])
        np.testing.assert_array_equal(found.labels_n, [-1, 1])
    write_madelon(folder, [[485, 477, 3], [1, 2, 5]], [-1, 1])
    assert load(folder).digest != found.digest


@pytest.mark.parametrize(
    ("features", "labels", "said"),
    [
        ([[1, 2]], [1, -1], "1 rows"),
        ([[1, 2]], [3], "-1 and"),
        ([["a", 2]], [1], "numbers"),
        ([[1, 2], [3]], [1, -1], "numbers"),
        ([[1, 2], [3, "nan"]], [1, -1], r"data: row 2, column 2 is nan"),
        ([[1, "inf"], [3, 4]], [1, -1], r"data: row 1, column 2 is inf"),
        ([[1, 2], [3, 4]], [1, "nan"], r"labels: row 2, column 1 is nan"),
        ([], [], "data is empty"),
        ([[1, 2]], [], "labels is empty"),
        ([[1, 2], [3, 4]], [1, 1], "and both"),
        ([[1, 2], [1, 2]], [1, -1], "data: no column varies"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path, features, labels, said):
    """What is not of the format is a wrong use, and the message names the file."""
    write_madelon(tmp_path, features, labels)
    with pytest.raises(UsageError, match=f"madelon_train.*{said}"):
        load(tmp_path)


def test_an_absent_file_is_said(tmp_path):
    """The message names the option."""
    with pytest.raises(UsageError, match="--data"):
        load(tmp_path)
    write_madelon(tmp_path, [[1]], [1])
    (tmp_path / "madelon_train.labels").unlink()
    with pytest.raises(UsageError, match="labels is missing"):
        load(tmp_path)


def test_features_are_standardized():
    """Mean 0, standard deviation 1; what never varies becomes 0 and not NaN."""
    found = standardized(np.array([[1.0, 5.0], [3.0, 5.0]]))
    np.testing.assert_array_equal(found, [[-1.0, 0.0], [1.0, 0.0]])
    tenths = np.full((7, 1), 0.1)
    assert tenths.std() > 0  # by rounding alone
    assert not standardized(tenths).any()


def test_real_madelon_is_what_it_should_be(data):
    """2000 and 600 examples of 500 features, labels balanced."""
    for part, count in (("train", 2000), ("valid", 600)):
        found = load(data, part)
        assert found.features_nd.shape == (count, 500)
        assert found.labels_n.sum() == 0
