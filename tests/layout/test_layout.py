"""The runs of strided views, the identity of files, and what may stand in one window."""

import itertools
import os

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rna_watch.formats.probe import probe
from rna_watch.layout.agreement import difference
from rna_watch.layout.identity import identify
from rna_watch.layout.strides import merge_runs, runs
from tests.checkpoints.writers import BARE, SAFETENSORS, model

AXES = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 12)), max_size=4)


@given(AXES, st.integers(0, 9))
def test_runs_cover_exactly_what_a_view_shows(axes, start):
    """The runs are the set of the view's elements, each once, ascending, with a gap between any two runs."""
    shape, stride = [size for size, _ in axes], [step for _, step in axes]
    places = np.full(1, start)
    for size, step in axes:
        places = (places[:, None] + np.arange(size) * step).reshape(-1)
    found = runs(shape, stride, start)
    covered = [place for first, count in found for place in range(first, first + count)]
    assert covered == sorted(set(places.tolist()))
    assert all(a + n < b for (a, n), (b, _) in itertools.pairwise(found))


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9))))
def test_merged_runs_are_the_union(parts):
    """Runs that overlap or touch become one, and nothing is added or lost."""
    found = merge_runs(parts)
    covered = [place for first, count in found for place in range(first, first + count)]
    assert covered == sorted({place for first, count in parts for place in range(first, first + count)})
    assert all(a + n < b for (a, n), (b, _) in itertools.pairwise(found))


@pytest.mark.parametrize(
    ("shape", "stride", "start"),
    [
        ((2,), (1,), -1),
        ((2,), (-1,), 4),
        ((-2,), (1,), 0),
        ((2,), (2**62,), 0),
        ((2**40,), (2**40,), 0),
        ((1,), (1,), 2**70),
    ],
)
def test_views_that_no_storage_can_hold_raise(shape, stride, start):
    """Negative or overflowing views raise, before any memory is taken for them."""
    with pytest.raises(ValueError, match="negative|beyond any storage"):
        runs(shape, stride, start)


def test_a_wide_view_costs_nothing():
    """A contiguous or transposed tensor of a trillion elements is one run."""
    assert runs((10**6, 10**6), (10**6, 1), 3) == [(3, 10**12)]
    assert runs((10**6, 10**6), (1, 10**6), 0) == [(0, 10**12)]
    assert runs((10**6, 5), (0, 1), 0) == [(0, 5)]


def test_identity_follows_the_content_not_the_name(tmp_path):
    """A hard link is the same content; another file, a longer or a newer one is not; metadata do not count."""
    path = tmp_path / "a"
    path.write_bytes(b"1234")
    os.utime(path, ns=(10**18, 10**18))
    before = identify(str(path))
    os.link(path, tmp_path / "b")
    path.chmod(0o600)
    assert before.same_content(identify(str(tmp_path / "b")))
    assert before != identify(str(path)), "ctime is in the identity, though not in the content"
    path.write_bytes(b"4321")
    assert not before.same_content(identify(str(path)))
    os.utime(path, ns=(10**18, 10**18))
    assert before.same_content(identify(str(path)))
    with open(path, "ab") as file:
        file.write(b"5")
    os.utime(path, ns=(10**18, 10**18))
    assert not before.same_content(identify(str(path)))


def test_an_open_file_is_identified_whatever_its_name_now_shows(tmp_path):
    """By descriptor, the identity is that of the file that was opened."""
    path = tmp_path / "a"
    path.write_bytes(b"1234")
    with open(path, "rb") as file:
        before = identify(str(path), file.fileno())
        path.rename(tmp_path / "moved")
        path.write_bytes(b"1234")
        assert identify(str(path), file.fileno()).inode == before.inode != identify(str(path)).inode


def layouts(folder, *models):
    """The layouts of models saved by torch."""
    found = []
    for number, tensors in enumerate(models):
        torch.save(tensors, folder / f"{number}.pt")
        found.append(probe(str(folder / f"{number}.pt")))
    return found


W, TWO = torch.zeros(2, 3), torch.zeros(2)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ({"w": W}, {"w": W + 1}, ""),
        ({"w": W, "v": TWO}, {"v": TWO, "w": W}, ""),
        ({"w": W}, {"w": W, "v": TWO}, "the model changed: 1 tensor added (such as v); 1 have the names of before"),
        (
            {"w": W, "a": TWO, "b": TWO.clone()},
            {"w": W},
            "the model changed: 2 tensors removed (such as a); 1 have the names of before",
        ),
        (
            {"w": W, "a": TWO},
            {"w": W, "b": TWO},
            "the model changed: 1 tensor removed (such as a), 1 tensor added (such as b); 1 have the names of before",
        ),
        (
            {"w": W, "a": TWO},
            {"x": W, "b": TWO, "c": TWO.clone()},
            (
                "the model changed: it is another, none of its 3 tensors (such as b) has the name of one of the 2 before "
                "(such as a)"
            ),
        ),
        (
            {"w": W, "a": TWO, "b": TWO.clone()},
            {"w": W, "a": W + 1, "b": W.clone()},
            (
                "the model changed: shape of a was (2,), is (2, 3) (2 of 3 tensors changed so); if it is no parameter, leave "
                "it out with --ignore a"
            ),
        ),
        ({"w": W}, {"w": W.double()}, "the model changed: dtype of w was float32, is float64"),
        (
            {"w": W},
            {"w": torch.zeros(3, 2)},
            "the model changed: shape of w was (2, 3), is (3, 2); if it is no parameter, leave it out with --ignore w",
        ),
        ({"w": W}, {"w": torch.zeros(3, 2).t()}, "the model changed: stride of w was (3, 1), is (1, 2)"),
        (
            {"w": TWO, "v": TWO.clone()},
            {"w": TWO, "v": TWO},
            "the model changed: other tensors share storage than before",
        ),
    ],
)
def test_why_two_checkpoints_cannot_stand_in_one_window(old, new, words, tmp_path):
    """Names, dtypes, shapes, strides and sharing must agree, and the sentence says what does not."""
    before, after = layouts(tmp_path, old, new)
    assert difference(before, after) == words
    assert (before.architecture == after.architecture) is (words == "")


def test_one_window_may_hold_both_formats(tmp_path):
    """A torch file and a safetensors file of one model agree, as the format is no part of the architecture."""
    BARE.write(tmp_path / "a.pt", model(1), 1)
    SAFETENSORS.write(tmp_path / "b.safetensors", model(2), 2)
    assert difference(probe(str(tmp_path / "a.pt")), probe(str(tmp_path / "b.safetensors"))) == ""
