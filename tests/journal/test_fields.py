"""What the journal takes: texts and metrics of bounded length, and fields of their types."""

import dataclasses
import json
import zlib

import pytest

from rna_watch.daemon.recorder import Recorder
from rna_watch.journal import events as e
from rna_watch.journal import fields
from rna_watch.journal.log import decode, encode, read
from rna_watch.journal.records import from_record, to_record


def test_texts_are_cut_where_they_are_recorded(tmp_path):
    """An exception of a hundred kilobytes takes two, and says how much was cut; what identifies is whole."""
    name = "x" * 3_000
    recorder = Recorder(tmp_path / "journal")
    recorder.record(e.Failed(checkpoint=name, reason="y" * 100_000, will_retry=False))
    recorder.problem("store", "w" * 5_000, "r" * 2_000)
    recorder.close()
    failed, problem = read(tmp_path / "journal")
    assert failed.checkpoint == name
    assert failed.reason == "y" * 2_000 + "... (98,000 more characters)"
    assert problem.what.endswith("... (3,000 more characters)")
    assert problem.remedy == "r" * 2_000


def test_metrics_are_cut_but_for_the_one_that_chooses():
    """A hundred thousand metrics become a thousand; the one that models are chosen by stays, in its place."""
    metrics = {f"m{number}": float(number) for number in range(100_000)}
    kept = fields.cut_metrics(metrics, "m70000")
    assert list(kept) == [*(f"m{number}" for number in range(999)), "m70000"]
    assert fields.cut_metrics({"a" * 201: 1.0, "b": 2.0}, "b") == {"b": 2.0}
    assert fields.cut_metrics({"a" * 201: 1.0, "b": 2.0}, "a" * 201) == {"a" * 201: 1.0, "b": 2.0}


@pytest.mark.parametrize(
    ("name", "value"),
    [("checkpoint", 7), ("reason", None), ("reason", ["a"]), ("seq", "1"), ("time", {}), ("seq", 2**70), ("seq", True)],
)
def test_a_field_of_another_type_costs_the_line(name, value):
    """A line with a right checksum that nobody of ours wrote is skipped like a damaged one."""
    body = json.loads(encode(e.Waiting(checkpoint="a.pt", reason="it is short", time=1.0, seq=1)))
    del body["crc"]
    for changed, expected in ((body, True), (body | {name: value}, False)):
        text = json.dumps(changed, separators=(",", ":"), sort_keys=True)
        line = f'{text[:-1]},"crc":{zlib.crc32(text.encode())}}}\n'.encode()
        assert (decode(line) is not None) == expected


@pytest.mark.parametrize("pair", [[], ["a.pt"], ["a.pt", "b.pt", "c.pt"]])
def test_a_residual_lies_between_two_checkpoints(pair):
    """A measurement whose residuals are no pairs is left out, before anything takes it apart."""
    measured = e.Measured(
        checkpoint="b.pt",
        residuals=[["a.pt", "b.pt"]],
        rows=[[1.0]],
        rounding_energy=0.0,
        read_bytes=1,
        seconds=1.0,
        form="difference",
    )
    assert decode(encode(measured)) == measured
    assert decode(encode(dataclasses.replace(measured, residuals=[["a.pt", "b.pt"], pair]))) is None
    record = to_record(measured)
    del record["residuals"]
    with pytest.raises(TypeError, match="residuals"):
        from_record(record)
