import builtins
import xml.etree.ElementTree as ET

import pytest

from rna_watch.comparison.comparison import compare
from rna_watch.comparison.plot import logarithmic, plot, running_median
from rna_watch.errors import UsageError

from .run_of import Run, usual_run


@pytest.mark.parametrize(("name", "magic"), [("c.svg", b"<?xml"), ("c.png", b"\x89PNG"), ("c.pdf", b"%PDF")])
def test_a_picture_is_written_in_the_form_that_its_name_asks_for(tmp_path, name, magic):
    """Each of the three endings."""
    plot(compare(usual_run().state), tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(magic)


def test_equal_runs_give_equal_pictures_of_every_kind(tmp_path):
    """A line for each kind, gaps and all; nothing in the file depends on the clock."""
    run = Run().checkpoint(1, {"last": 90.0})
    for step in range(3, 60):
        values = {"last": 90.0 / step, "average-2": 80.0 / step, "line": 85.0 / step}
        run.checkpoint(step, values | ({"trained": 70.0 / step} if step % 2 else {}))
    for name in ("a.svg", "b.svg"):
        plot(compare(run.state), tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    root = ET.parse(tmp_path / "a.svg").getroot()
    names = {element.get("id", "").rpartition("_")[0] for element in root.iter()}
    assert {"axes", "legend", "line2d"} <= names


def test_the_scale_is_logarithmic_only_where_it_can_be_and_helps():
    """More than a decade, all positive."""
    assert logarithmic([1.0, 20.0])
    assert not logarithmic([1.0, 9.0])
    assert not logarithmic([0.0, 20.0])
    assert not logarithmic([])


def test_an_unknown_ending_is_refused(tmp_path):
    """The error names the endings that are known."""
    with pytest.raises(UsageError, match=r"\.svg, \.png, \.pdf"):
        plot(compare(usual_run().state), tmp_path / "c.gif")


def test_without_matplotlib_the_error_names_what_to_install(tmp_path, monkeypatch):
    """Matplotlib is an extra."""
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"pip install 'rna-watch\[report\]'"):
        plot(compare(usual_run().state), tmp_path / "c.png")


def test_a_folder_that_is_not_there_is_an_error_in_words(tmp_path):
    """The message says which file could not be written, and why."""
    with pytest.raises(UsageError, match="cannot write .*no/c.png: No such file"):
        plot(compare(usual_run().state), tmp_path / "no" / "c.png")


def test_many_checkpoints_get_running_medians():
    """With more than a hundred, a thick line of medians stands over a thin one; gaps and outliers do not move it."""
    assert running_median([1.0, 2.0, 90.0, 3.0, 4.0], 2) == [1.5, 2.0, 3.0, 4.0, 3.5]
    assert running_median([float("nan"), 2.0, float("nan")], 2) == [2.0, 2.0, 2.0]


def test_the_first_values_of_a_training_do_not_flatten_a_long_plot(tmp_path):
    """Three hundred checkpoints: what lies beyond the range is counted in the picture, and the medians are named."""
    run = Run().checkpoint(1, {"last": 90.0})
    for step in range(2, 302):
        value = 5.0 + 300.0 / step**1.6 + (step % 7) / 10.0
        run.checkpoint(step, {"last": value, "average-2": value - 0.3})
    plot(compare(run.state), tmp_path / "c.svg")
    text = (tmp_path / "c.svg").read_text()
    assert "values lie beyond this range" in text
    assert "running medians of 15" in text
