"""The page on security: its limits are those of the code."""

import re
from pathlib import Path

from rna_watch.formats import bounded_unpickler, model_source, safe_pickle, safetensors_file, zip_directory
from rna_watch.journal import fields, log
from rna_watch.layout import bounded_json, open_file

PAGE = Path(__file__).parents[1] / "docs" / "security.md"
LIMITS = [
    safetensors_file.HEADER_LIMIT_BYTES,
    open_file.HEADER_LIMIT_BYTES,
    bounded_json.MOST_VALUES,
    bounded_json.MOST_STATE_BYTES,
    zip_directory.MOST_RECORDS,
    bounded_unpickler.SECONDS,
    bounded_unpickler.MOST_VALUES,
    bounded_unpickler.MOST_OPEN,
    safe_pickle.MOST_CLASSES,
    model_source.MOST_ENTRIES,
    model_source.MOST_NAME_CHARACTERS,
    log.MOST_LINE_BYTES,
    fields.MOST_CHARACTERS,
    fields.MOST_METRICS,
    fields.MOST_NAME_CHARACTERS,
]


def test_the_limits_of_the_page_are_those_of_the_code():
    """Each number in the table is a constant, in its order."""
    table = PAGE.read_text(encoding="utf-8").partition("limits: begin -->")[2].partition("<!-- limits: end")[0]
    numbers = [int(found.replace(",", "")) for found in re.findall(r"\| ([\d,]+) \|$", table, re.MULTILINE)]
    assert numbers == LIMITS
