"""A reading of names that grows is the reading of all of them at once, name after name."""

from __future__ import annotations

import random

import pytest

from rna_watch.watching import reading as readings
from rna_watch.watching.extension import LEAST
from rna_watch.watching.reading import Reading

COUNT = 60


def _names(scheme: str, rng: random.Random) -> list[str]:
    """Names as a training writes them, one after another."""
    steps = [100 * number for number in range(1, COUNT + 1)]
    makers = {
        "epoch": lambda n: f"epoch_{n:04d}.pt",
        "padded": lambda n: f"ckpt-{n}.pt",
        "lightning": lambda n: f"epoch={n // 300}-step={n}.ckpt",
        "metric": lambda n: f"epoch_{n}-val_loss={rng.random() * (1 if n % 700 else 10):.2f}.pt",
        "folds": lambda n: f"fold_{n % 300 // 100}/epoch_{n // 300}.pt",
        "nets": lambda n: f"net_{'GD'[n // 100 % 2]}_{n // 200}.pth",
        "scales": lambda n: f"netG_epoch_{2 + n // 100 % 2}_{n // 200}.pth",
        "folders": lambda n: f"step_{n}/model.pt",
        "dates": lambda n: f"run/2024-03-{1 + n // 300:02d}/model_{n}.pt",
        "hashes": lambda n: f"a{rng.getrandbits(28):07x}f/model_{n}.pt",
        "ids": lambda n: f"net_{(111, 222, 111)[n // 2100]}_{n}.pt",
        "updates": lambda n: f"checkpoint_{n // 400}_{n}.pt",
        "constant": lambda n: f"resnet18_4_{n}.pth",
        "written again": lambda n: f"last_{n % 200}.pt",
    }
    names = [makers[scheme](step) for step in steps]
    if scheme in {"epoch", "lightning", "folds"}:  # late ones
        names[30], names[45] = names[45], names[30]
    return names


SCHEMES = ("epoch", "padded", "lightning", "metric", "folds", "nets", "scales", "folders", "dates", "hashes")


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("scheme", [*SCHEMES, "ids", "updates", "constant", "written again"])
def test_a_reading_grows_to_what_all_names_together_are(scheme: str, timed: bool) -> None:
    """After each name, all are read as if they had come at once; what changed meanwhile is told."""
    rng = random.Random(scheme)
    names = _names(scheme, rng)
    grown, told = Reading(), {}
    for number, name in enumerate(names):
        times = {name: number} if timed else {}
        grown.update([name], times)
        for path in grown.pop_changed():
            told[path] = grown.of(path)
        twin = Reading()
        twin.update(names[: number + 1], {each: at for at, each in enumerate(names[: number + 1])} if timed else {})
        assert {each: grown.of(each) for each in names[: number + 1]} == {
            each: twin.of(each) for each in names[: number + 1]
        }
        assert told == {each: twin.of(each) for each in names[: number + 1]}


def test_a_long_run_is_not_read_anew_for_each_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of a thousand epochs, with what the files hold, are read as a whole a few times."""
    whole = []
    read = Reading._read
    monkeypatch.setattr(Reading, "_read", lambda self, paths: (whole.append(len(paths)), read(self, paths))[1])
    grown = Reading()
    for number in range(1, 1001):
        path = f"epoch_{number}.pt"
        grown.update([path], {path: number})
        grown.found_inside(path, {"epoch": number})
        assert grown.of(path).step == number
        grown.pop_changed()
    assert [count for count in whole if count > LEAST] == [32, 64, 128, 256, 512]


def test_versions_of_one_name_are_bounded() -> None:
    """A name that is written again and again is read from its first and last versions."""
    reading = Reading(["last.pt"])
    for step in range(1000):
        reading.found_inside("last.pt", {"step": step}, again=step > 0)
    assert len(reading._versions["last.pt"]) == readings._VERSIONS
    assert (reading.of("last.pt").kind, reading.of("last.pt").step) == ("step", None)


def test_a_counter_that_contradicts_a_name_is_looked_at_at_once() -> None:
    """Of names with bare numbers, a file whose epoch is another one shows that the number is none."""
    grown = Reading()
    for number in range(1, 41):
        path = f"model_{number}.pt"
        grown.update([path])
        grown.found_inside(path, {"epoch": number})
        grown.of(path)
    assert grown.of("model_40.pt").kind == "epoch"
    grown.update(["model_41.pt"])
    grown.found_inside("model_41.pt", {"epoch": 77})
    assert grown.of("model_40.pt").kind == "number"
